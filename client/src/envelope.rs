//! Signed requests with everything that is needed to send them, and to send them again.

use crypto::sign::{LeafKeyPair, sign_content};
use protocol::codec::opaque;
use protocol::ids::Minute;
use protocol::operation::Operation;
use protocol::request::{REQUEST_LABEL, RequestTbs, Sender, SignedRequest};
use protocol::{WIRE_VERSION, Wire as _};
use tls_codec::Serialize as _;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::issuance::Token;

/// A request with everything that is needed to send it, and to send it again.
pub(crate) struct Envelope {
    pub(crate) operation: Operation,
    pub(crate) sender: Sender,
    pub(crate) signer: LeafKeyPair,
    pub(crate) body: Zeroizing<Vec<u8>>,
    pub(crate) request: Zeroizing<Vec<u8>>,
    pub(crate) minute: Minute,
    pub(crate) tokens: Vec<Token>,
    /// What is sold by number: claims, sets to publish. Not kept: nothing that is has any.
    pub(crate) units: usize,
}

impl Envelope {
    pub(crate) fn new(
        operation: Operation,
        sender: Sender,
        signer: impl Into<LeafKeyPair>,
        body: Vec<u8>,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let mut envelope = Self {
            operation,
            sender,
            signer: signer.into(),
            body: Zeroizing::new(body),
            request: Zeroizing::default(),
            minute: Minute(0),
            tokens: Vec::new(),
            units: 1,
        };
        envelope.sign(now_ms)?;
        Ok(envelope)
    }

    /// With the signer's public key as sender.
    pub(crate) fn by_key(
        operation: Operation,
        signer: impl Into<LeafKeyPair>,
        body: Vec<u8>,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let signer = signer.into();
        let sender = Sender::Key(opaque(signer.public()));
        Self::new(operation, sender, signer, body, now_ms)
    }

    pub(crate) fn sign(&mut self, now_ms: u64) -> Result<(), Error> {
        self.minute = Minute::of(now_ms);
        let signed = sign(
            self.operation,
            now_ms,
            &self.sender,
            &self.body,
            &self.signer,
        )?;
        self.request = Zeroizing::new(signed.encode());
        Ok(())
    }
}

/// Signs a request.
///
/// # Errors
/// [`Error::Local`] without randomness.
pub fn sign(
    operation: Operation,
    now_ms: u64,
    sender: &Sender,
    body: &[u8],
    signer: &LeafKeyPair,
) -> Result<SignedRequest, Error> {
    let body = opaque(body);
    let (minute, nonce) = (Minute::of(now_ms), crypto::random()?);
    let tbs = RequestTbs {
        version: WIRE_VERSION,
        operation,
        minute,
        nonce,
        sender,
        body: &body,
    }
    .tls_serialize_detached()
    .unwrap_or_default();
    Ok(SignedRequest {
        version: WIRE_VERSION,
        operation,
        minute,
        nonce,
        sender: sender.clone(),
        signature: opaque(signer.sign_bytes(&sign_content(REQUEST_LABEL, &tbs))),
        body,
    })
}
