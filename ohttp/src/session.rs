//! The HPKE context that seals and opens a request, and from which the response's keys are derived.

use zeroize::Zeroizing;

use crate::engine::{HpkeContext, hpke};
use crate::error::{OpenError, SealError};
use crate::keys::{Keys, PublicKey};
use crate::response_key::ResponseKey;
use crate::suite::{Aead, HEADER_LEN, Header};

/// The two kinds of messages, which keys must not be mixed up between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// RFC 9458 §4.
    Whole,
    /// §5 of the draft.
    Chunked,
}

impl Kind {
    const fn request_label(self) -> &'static [u8] {
        match self {
            Self::Whole => b"message/bhttp request",
            Self::Chunked => b"message/bhttp chunked request",
        }
    }

    const fn response_label(self) -> &'static [u8] {
        match self {
            Self::Whole => b"message/bhttp response",
            Self::Chunked => b"message/bhttp chunked response",
        }
    }

    /// The `info` of the HPKE context.
    pub(crate) fn info(self, header: Header) -> Vec<u8> {
        [self.request_label(), &[0], &header.encode()].concat()
    }
}

/// The HPKE context of a request. It wipes its keys on drop.
pub(crate) struct Session {
    kind: Kind,
    context: HpkeContext,
    pub(crate) header: Header,
    pub(crate) encapsulated_key: Vec<u8>,
}

/// What the keys of a response are derived from.
pub(crate) struct ResponseSecret {
    aead: Aead,
    pub(crate) secret: Zeroizing<Vec<u8>>,
    encapsulated_key: Vec<u8>,
}

impl Session {
    pub(crate) fn new(
        kind: Kind,
        header: Header,
        encapsulated_key: Vec<u8>,
        context: HpkeContext,
    ) -> Self {
        Self {
            kind,
            context,
            header,
            encapsulated_key,
        }
    }

    /// Of the client.
    pub(crate) fn send(kind: Kind, key: &PublicKey, aead: Aead) -> Result<Self, SealError> {
        let header = Header {
            key_id: key.key_id(),
            kem: key.kem(),
            aead,
        };
        let (encapsulated_key, context) = hpke(header.kem, aead)
            .ok_or(SealError::Backend)?
            .setup_sender(&key.to_hpke(), &kind.info(header), None, None, None)
            .map_err(|_| SealError::InvalidKey)?;
        Ok(Self::new(kind, header, encapsulated_key, context))
    }

    /// Of the gateway, once the encapsulated key is there.
    pub(crate) fn receive(
        kind: Kind,
        keys: &impl Keys,
        header: Header,
        encapsulated_key: &[u8],
    ) -> Result<Self, OpenError> {
        let context = keys
            .key(header.key_id)
            .ok_or(OpenError::UnknownKey)?
            .receive(header, encapsulated_key, &kind.info(header))
            .ok_or(OpenError::CannotOpen)?;
        let encapsulated_key = encapsulated_key.to_vec();
        Ok(Self::new(kind, header, encapsulated_key, context))
    }

    pub(crate) fn seal(&mut self, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        self.context
            .seal(aad, plaintext)
            .map_err(|_| SealError::Backend)
    }

    pub(crate) fn open(&mut self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        self.context
            .open(aad, sealed)
            .map_err(|_| OpenError::CannotOpen)
    }

    /// `None`: the library failed.
    pub(crate) fn into_response_secret(self) -> Option<ResponseSecret> {
        let aead = self.header.aead;
        let secret = self
            .context
            .export(self.kind.response_label(), aead.key_len())
            .ok()?;
        Some(ResponseSecret::new(
            aead,
            Zeroizing::new(secret),
            self.encapsulated_key,
        ))
    }
}

/// The header that `bytes` begin with, if it names a key and a suite that we have.
pub(crate) fn header(bytes: [u8; HEADER_LEN], keys: &impl Keys) -> Result<Header, OpenError> {
    Header::decode(bytes)
        .filter(|header| keys.key(header.key_id).map(crate::Key::kem) == Some(header.kem))
        .ok_or(OpenError::UnknownKey)
}

impl ResponseSecret {
    pub(crate) fn new(aead: Aead, secret: Zeroizing<Vec<u8>>, encapsulated_key: Vec<u8>) -> Self {
        Self {
            aead,
            secret,
            encapsulated_key,
        }
    }

    /// Bytes of the response's nonce.
    pub(crate) fn nonce_len(&self) -> usize {
        self.aead.key_len()
    }

    /// A nonce for the response. `None`: there is no randomness.
    pub(crate) fn draw_nonce(&self) -> Option<Vec<u8>> {
        let mut nonce = vec![0; self.nonce_len()];
        getrandom::fill(&mut nonce).ok()?;
        Some(nonce)
    }

    /// `None`: the library failed.
    pub(crate) fn key(&self, response_nonce: &[u8]) -> Option<ResponseKey> {
        ResponseKey::derive(
            self.aead,
            &self.secret,
            &self.encapsulated_key,
            response_nonce,
        )
    }
}
