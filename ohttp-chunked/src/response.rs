//! Encapsulated responses (§4 and §5.2 of the draft).

use hpke_rs::hpke_types::TwoStageKdfAlgorithm;
use hpke_rs::rustcrypto::HpkeRustCrypto;
use hpke_rs_crypto::HpkeCrypto;
use zeroize::Zeroizing;

use crate::error::{OpenError, SealError};
use crate::framing::{Budget, ChunkReader, ChunkWriter, Open, Seal};
use crate::request::fill;
use crate::suite::Aead;

const NONCE_LEN: usize = 12;

/// The key of a response, its nonce and the number of the next chunk. Wiped on drop.
pub(crate) struct ResponseKey {
    aead: Aead,
    key: Zeroizing<Vec<u8>>,
    nonce: Zeroizing<[u8; NONCE_LEN]>,
    counter: u64,
}

impl ResponseKey {
    /// `None`: the library failed.
    pub(crate) fn derive(
        aead: Aead,
        secret: &[u8],
        encapsulated_key: &[u8],
        response_nonce: &[u8],
    ) -> Option<Self> {
        let kdf = TwoStageKdfAlgorithm::HkdfSha256;
        let salt = [encapsulated_key, response_nonce].concat();
        let prk = HpkeRustCrypto::kdf_extract(kdf, &salt, secret).ok()?;
        let prk = Zeroizing::new(prk);
        let expand = |info: &[u8], len| {
            HpkeRustCrypto::kdf_expand(kdf, &prk, info, len)
                .ok()
                .map(Zeroizing::new)
        };
        let nonce = expand(b"nonce", NONCE_LEN)?;
        Some(Self {
            aead,
            key: expand(b"key", aead.key_len())?,
            nonce: Zeroizing::new(nonce.as_slice().try_into().ok()?),
            counter: 0,
        })
    }

    /// The nonce of the next chunk, which is never given out again. `None`: there are no more.
    fn next_nonce(&mut self) -> Option<[u8; NONCE_LEN]> {
        let next = self.counter.checked_add(1)?;
        let mut nonce = *self.nonce;
        for (byte, count) in nonce.iter_mut().rev().zip(self.counter.to_le_bytes()) {
            *byte ^= count;
        }
        self.counter = next;
        Some(nonce)
    }

    #[cfg(test)]
    pub(crate) fn parts(&self) -> (&[u8], &[u8]) {
        (&self.key, self.nonce.as_slice())
    }

    #[cfg(test)]
    pub(crate) fn set_counter(&mut self, counter: u64) {
        self.counter = counter;
    }
}

impl Seal for ResponseKey {
    fn seal(&mut self, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce = self.next_nonce().ok_or(SealError::Exhausted)?;
        HpkeRustCrypto::aead_seal(self.aead.algorithm(), &self.key, &nonce, aad, plaintext)
            .map_err(|_| SealError::Backend)
    }
}

impl Open for ResponseKey {
    fn open(&mut self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let nonce = self.next_nonce().ok_or(OpenError::Exhausted)?;
        HpkeRustCrypto::aead_open(self.aead.algorithm(), &self.key, &nonce, aad, sealed)
            .map_err(|_| OpenError::CannotOpen)
    }
}

/// The gateway's side of a response.
pub struct ResponseEncoder(ChunkWriter<ResponseKey>);

impl std::fmt::Debug for ResponseEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(_) = self;
        f.write_str("ResponseEncoder(..)")
    }
}

impl ResponseEncoder {
    pub(crate) fn new(aead: Aead, secret: &[u8], encapsulated_key: &[u8]) -> Option<Self> {
        let mut nonce = vec![0; aead.key_len()];
        getrandom::fill(&mut nonce).ok()?;
        Self::with_nonce(aead, secret, encapsulated_key, nonce)
    }

    pub(crate) fn with_nonce(
        aead: Aead,
        secret: &[u8],
        encapsulated_key: &[u8],
        nonce: Vec<u8>,
    ) -> Option<Self> {
        let key = ResponseKey::derive(aead, secret, encapsulated_key, &nonce)?;
        Some(Self(ChunkWriter::new(key, nonce, Budget::RESPONSE)))
    }

    /// Appends the next piece of the response to `out`, in as many chunks as it takes. Send them at
    /// once for the client to have them at once.
    ///
    /// # Errors
    /// [`SealError::Exhausted`]; nothing can be sealed after any error.
    pub fn push(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        self.0.write(plaintext, out)
    }

    /// Appends the last piece of the response, which may be empty, as the final chunk. After it the
    /// outer stream must end.
    ///
    /// # Errors
    /// [`SealError::Exhausted`].
    pub fn finish(self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        self.0.finish(plaintext, out).map(|_| ())
    }
}

/// The client's side of a response.
pub struct ResponseDecoder(State);

enum State {
    Nonce {
        aead: Aead,
        secret: Zeroizing<Vec<u8>>,
        encapsulated_key: Vec<u8>,
        held: Vec<u8>,
    },
    Chunks(Box<ChunkReader<ResponseKey>>),
    Failed(OpenError),
}

impl std::fmt::Debug for ResponseDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(_) = self;
        f.write_str("ResponseDecoder(..)")
    }
}

impl ResponseDecoder {
    pub(crate) fn new(aead: Aead, secret: Zeroizing<Vec<u8>>, encapsulated_key: Vec<u8>) -> Self {
        Self(State::Nonce {
            aead,
            secret,
            encapsulated_key,
            held: Vec::new(),
        })
    }

    /// Appends the plaintext of every chunk that `input` completes to `out`.
    ///
    /// # Errors
    /// [`OpenError`]; what was appended before is authentic nevertheless.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        let pushed = self.try_push(input, out);
        if let Err(error) = pushed {
            self.0 = State::Failed(error);
        }
        pushed
    }

    /// The outer stream has ended. Appends the final chunk: only now is the response whole.
    ///
    /// # Errors
    /// [`OpenError::Truncated`] if there was none.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), OpenError> {
        match self.0 {
            State::Nonce { .. } => Err(OpenError::Truncated),
            State::Failed(error) => Err(error),
            State::Chunks(reader) => reader.finish(out).map(|_| ()),
        }
    }

    fn try_push(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        loop {
            match &mut self.0 {
                State::Failed(error) => return Err(*error),
                State::Chunks(reader) => return reader.push(input, out),
                State::Nonce {
                    aead,
                    secret,
                    encapsulated_key,
                    held,
                } => {
                    let Some(nonce) = fill(held, aead.key_len(), &mut input) else {
                        return Ok(());
                    };
                    let key = ResponseKey::derive(*aead, secret, encapsulated_key, nonce)
                        .ok_or(OpenError::CannotOpen)?;
                    let reader = ChunkReader::new(key, Budget::RESPONSE);
                    self.0 = State::Chunks(Box::new(reader));
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key() -> ResponseKey {
        ResponseKey::derive(Aead::Aes128Gcm, &[1; 16], &[2; 32], &[3; 16]).unwrap()
    }

    #[test]
    fn no_nonce_is_used_after_the_last_one() {
        let mut key = key();
        key.set_counter(u64::MAX - 1);
        let sealed = key.seal(b"", b"last").unwrap();
        assert_eq!(key.seal(b"", b"one more"), Err(SealError::Exhausted));
        assert_eq!(key.open(b"", &sealed), Err(OpenError::Exhausted));
    }

    #[test]
    fn the_counter_goes_into_the_last_bytes_of_the_nonce() {
        let mut key = key();
        let first = key.next_nonce().unwrap();
        key.set_counter(0x0102);
        let later = key.next_nonce().unwrap();
        let mut expected = first;
        expected[NONCE_LEN - 1] ^= 2;
        expected[NONCE_LEN - 2] ^= 1;
        assert_eq!(later, expected);
    }
}
