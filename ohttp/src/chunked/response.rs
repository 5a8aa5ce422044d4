//! Encapsulated responses (§4 and §5.2 of the draft).

use super::framing::{Budget, ChunkReader, ChunkWriter, Open, Seal, fill};
use crate::error::{OpenError, SealError};
use crate::response_key::ResponseKey;
use crate::session::ResponseSecret;

impl Seal for ResponseKey {
    fn seal(&mut self, aad: &[u8], plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        Self::seal(self, aad, plaintext, out)
    }
}

impl Open for ResponseKey {
    fn open(&mut self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        Self::open(self, aad, sealed)
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
    pub(crate) fn new(secret: ResponseSecret) -> Option<Self> {
        let nonce = secret.draw_nonce()?;
        Self::with_nonce(&secret, nonce)
    }

    pub(crate) fn with_nonce(secret: &ResponseSecret, nonce: Vec<u8>) -> Option<Self> {
        let key = secret.key(&nonce)?;
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
        secret: ResponseSecret,
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
    pub(crate) fn new(secret: ResponseSecret) -> Self {
        let held = Vec::new();
        Self(State::Nonce { secret, held })
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
                State::Nonce { secret, held } => {
                    let Some(nonce) = fill(held, secret.nonce_len(), &mut input) else {
                        return Ok(());
                    };
                    let key = secret.key(nonce).ok_or(OpenError::CannotOpen)?;
                    let reader = ChunkReader::new(key, Budget::RESPONSE);
                    self.0 = State::Chunks(Box::new(reader));
                }
            }
        }
    }
}
