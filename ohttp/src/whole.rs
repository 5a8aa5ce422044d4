//! Requests and responses in one piece (RFC 9458 §4.3, §4.4).
//!
//! ```text
//! encapsulated request  = key id(1) kem(2) kdf(2) aead(2) | enc(Nenc) | ciphertext
//! encapsulated response = nonce(max(Nn, Nk)) | ciphertext
//! ```
//!
//! Tests hold it against the RFC's example and another implementation.

use crate::error::{OpenError, SealError};
use crate::keys::{Keys, PublicKey};
use crate::session::{self, Kind, ResponseSecret, Session};
use crate::suite::{Aead, HEADER_LEN, TAG_LEN};

/// The media type of an encapsulated request.
pub const REQUEST: &str = "message/ohttp-req";
/// The media type of an encapsulated response.
pub const RESPONSE: &str = "message/ohttp-res";

/// Seals a request to the gateway's key, whose configuration must list the AEAD.
///
/// # Errors
/// [`SealError::InvalidKey`].
pub fn seal(
    key: &PublicKey,
    aead: Aead,
    request: &[u8],
) -> Result<(Vec<u8>, ResponseOpener), SealError> {
    let mut session = Session::send(Kind::Whole, key, aead)?;
    let ciphertext = session.seal(&[], request)?;
    let header = session.header.encode();
    let encapsulated = [&header[..], &session.encapsulated_key, &ciphertext].concat();
    let response = session.into_response_secret().ok_or(SealError::Backend)?;
    Ok((encapsulated, ResponseOpener(response)))
}

/// Opens the one response of a request.
pub struct ResponseOpener(ResponseSecret);

impl std::fmt::Debug for ResponseOpener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(_) = self;
        f.write_str("ResponseOpener(..)")
    }
}

impl ResponseOpener {
    /// Opens the response.
    ///
    /// # Errors
    /// [`OpenError::Truncated`], [`OpenError::CannotOpen`].
    pub fn open(self, encapsulated: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (nonce, ciphertext) = encapsulated
            .split_at_checked(self.0.nonce_len())
            .filter(|(_, ciphertext)| ciphertext.len() >= TAG_LEN)
            .ok_or(OpenError::Truncated)?;
        let mut key = self.0.key(nonce).ok_or(OpenError::CannotOpen)?;
        key.open(&[], ciphertext)
    }
}

/// An opened request, and the means to answer it once.
#[derive(Debug)]
pub struct Opened {
    /// The key that it was encapsulated to.
    pub key_id: u8,
    /// Different for every request of an honest client: who sees one twice sees a replay.
    pub encapsulated_key: Vec<u8>,
    /// The request as binary HTTP, unchecked.
    pub request: Vec<u8>,
    pub response: ResponseSealer,
}

/// Opens a request to one of `keys`.
///
/// # Errors
/// [`OpenError`].
pub fn open(keys: &impl Keys, encapsulated: &[u8]) -> Result<Opened, OpenError> {
    let (header, rest) = encapsulated
        .split_first_chunk::<HEADER_LEN>()
        .ok_or(OpenError::Truncated)?;
    let header = session::header(*header, keys)?;
    let (encapsulated_key, ciphertext) = rest
        .split_at_checked(header.kem.encapsulated_key_len())
        .filter(|(_, ciphertext)| ciphertext.len() >= TAG_LEN)
        .ok_or(OpenError::Truncated)?;
    let mut session = Session::receive(Kind::Whole, keys, header, encapsulated_key)?;
    Ok(Opened {
        key_id: header.key_id,
        request: session.open(&[], ciphertext)?,
        encapsulated_key: session.encapsulated_key.clone(),
        response: session
            .into_response_secret()
            .map(ResponseSealer)
            .ok_or(OpenError::CannotOpen)?,
    })
}

/// Seals the one response of a request.
pub struct ResponseSealer(ResponseSecret);

impl std::fmt::Debug for ResponseSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(_) = self;
        f.write_str("ResponseSealer(..)")
    }
}

impl ResponseSealer {
    /// Seals the response. By value: a nonce and a key serve once.
    ///
    /// # Errors
    /// [`SealError::Backend`].
    pub fn seal(self, response: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce = self.0.draw_nonce().ok_or(SealError::Backend)?;
        self.seal_with(nonce, response)
    }

    fn seal_with(self, response_nonce: Vec<u8>, response: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut key = self.0.key(&response_nonce).ok_or(SealError::Backend)?;
        let mut sealed = response_nonce;
        key.seal(&[], response, &mut sealed)?;
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests;
