//! Requests as a client signs them, and as an attacker changes them.

use crypto::sign::{LeafKeyPair, Scheme};
use protocol::codec::opaque;
use protocol::envelope::{REQUEST_LABEL, RequestTbs, Sender, SignedRequest};
use protocol::{Operation, WIRE_VERSION, Wire};
use tls_codec::{Serialize as _, VLBytes};

use super::Service;

/// An envelope before it is signed.
#[derive(Clone)]
pub struct Draft {
    pub version: u16,
    pub operation: Operation,
    pub timestamp_ms: u64,
    pub sender: Sender,
    pub body: Vec<u8>,
}

impl Draft {
    pub fn new(service: &Service, operation: Operation, sender: Sender, body: Vec<u8>) -> Self {
        Self {
            version: WIRE_VERSION,
            operation,
            timestamp_ms: service.now(),
            sender,
            body,
        }
    }

    pub fn by_key(
        service: &Service,
        operation: Operation,
        key: &LeafKeyPair,
        body: &impl Wire,
    ) -> Self {
        Self::new(
            service,
            operation,
            Sender::Key(opaque(key.public())),
            body.encode(),
        )
    }

    pub fn signed(&self, key: &LeafKeyPair) -> Vec<u8> {
        let body = VLBytes::new(self.body.clone());
        let tbs = RequestTbs {
            version: self.version,
            operation: self.operation,
            timestamp_ms: self.timestamp_ms,
            sender: &self.sender,
            body: &body,
        };
        self.with_signature(key.sign(REQUEST_LABEL, &tbs.tls_serialize_detached().unwrap()))
    }

    pub fn with_signature(&self, signature: Vec<u8>) -> Vec<u8> {
        SignedRequest {
            version: self.version,
            operation: self.operation,
            timestamp_ms: self.timestamp_ms,
            sender: self.sender.clone(),
            body: VLBytes::new(self.body.clone()),
            signature: VLBytes::new(signature),
        }
        .encode()
    }
}

pub fn copy(key: &LeafKeyPair) -> LeafKeyPair {
    LeafKeyPair::from_seed(key.scheme(), &key.seed()).unwrap()
}

pub fn fresh_key() -> LeafKeyPair {
    LeafKeyPair::random(Scheme::Ed25519).unwrap()
}
