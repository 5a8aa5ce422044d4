//! Encapsulated requests (§3 and §5.1 of the draft).

use super::framing::{Budget, ChunkReader, ChunkWriter, Open, Seal, fill};
use super::response::{ResponseDecoder, ResponseEncoder};
use crate::error::{OpenError, SealError};
use crate::keys::{Keys, PublicKey};
use crate::session::{self, Kind, Session};
use crate::suite::{Aead, HEADER_LEN};

impl Seal for Session {
    fn seal(&mut self, aad: &[u8], plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        out.extend_from_slice(&Self::seal(self, aad, plaintext)?);
        Ok(())
    }
}

impl Open for Session {
    fn open(&mut self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        Self::open(self, aad, sealed)
    }
}

/// The client's side of a request.
pub struct RequestEncoder(ChunkWriter<Session>);

impl std::fmt::Debug for RequestEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(_) = self;
        f.write_str("RequestEncoder(..)")
    }
}

impl RequestEncoder {
    /// Encapsulates to the gateway's key. Its configuration must list the AEAD.
    ///
    /// # Errors
    /// [`SealError::InvalidKey`].
    pub fn new(key: &PublicKey, aead: Aead) -> Result<Self, SealError> {
        Session::send(Kind::Chunked, key, aead).map(Self::of)
    }

    pub(crate) fn of(session: Session) -> Self {
        let prefix = [&session.header.encode()[..], &session.encapsulated_key].concat();
        Self(ChunkWriter::new(session, prefix, Budget::REQUEST))
    }

    /// Appends the next piece of the request to `out`, in as many chunks as it takes.
    ///
    /// # Errors
    /// [`SealError::Exhausted`]; nothing can be sealed after any error.
    pub fn push(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        self.0.write(plaintext, out)
    }

    /// Appends the last piece of the request, which may be empty, as the final chunk. After it the
    /// outer stream must end.
    ///
    /// # Errors
    /// [`SealError::Exhausted`].
    pub fn finish(self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<ResponseDecoder, SealError> {
        let session = self.0.finish(plaintext, out)?;
        session
            .into_response_secret()
            .map(ResponseDecoder::new)
            .ok_or(SealError::Backend)
    }
}

/// A request that was opened to its end.
#[derive(Debug)]
pub struct OpenedRequest {
    /// The key that it was encapsulated to.
    pub key_id: u8,
    /// Different for every request of an honest client: who sees one twice sees a replay.
    pub encapsulated_key: Vec<u8>,
    /// The means to answer it once.
    pub response: ResponseEncoder,
}

/// The gateway's side of a request.
pub struct RequestDecoder<K>(State<K>);

enum State<K> {
    Header { keys: K, held: Vec<u8> },
    Chunks(Box<ChunkReader<Session>>),
    Failed(OpenError),
}

impl<K> std::fmt::Debug for RequestDecoder<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(_) = self;
        f.write_str("RequestDecoder(..)")
    }
}

impl<K: Keys> RequestDecoder<K> {
    /// For a request to one of `keys`.
    pub fn new(keys: K) -> Self {
        let held = Vec::new();
        Self(State::Header { keys, held })
    }

    /// Appends the plaintext of every chunk that `input` completes to `out`. It is not known yet
    /// whether the request is whole, and a replay of it looks the same.
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

    /// The outer stream has ended. Appends the final chunk.
    ///
    /// # Errors
    /// [`OpenError::Truncated`] if there was none.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<OpenedRequest, OpenError> {
        let session = match self.0 {
            State::Header { .. } => return Err(OpenError::Truncated),
            State::Failed(error) => return Err(error),
            State::Chunks(reader) => reader.finish(out)?,
        };
        Ok(OpenedRequest {
            key_id: session.header.key_id,
            encapsulated_key: session.encapsulated_key.clone(),
            response: session
                .into_response_secret()
                .and_then(ResponseEncoder::new)
                .ok_or(OpenError::CannotOpen)?,
        })
    }

    fn try_push(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        loop {
            match &mut self.0 {
                State::Failed(error) => return Err(*error),
                State::Chunks(reader) => return reader.push(input, out),
                State::Header { keys, held } => {
                    let Some(session) = begin(keys, held, &mut input)? else {
                        return Ok(());
                    };
                    let reader = ChunkReader::new(session, Budget::REQUEST);
                    self.0 = State::Chunks(Box::new(reader));
                }
            }
        }
    }
}

/// The session, once header and encapsulated key are there.
fn begin<K: Keys>(
    keys: &K,
    held: &mut Vec<u8>,
    input: &mut &[u8],
) -> Result<Option<Session>, OpenError> {
    let Some(encoded) = fill(held, HEADER_LEN, input).and_then(|held| held.first_chunk()) else {
        return Ok(None);
    };
    let encoded = *encoded;
    let header = session::header(encoded, keys)?;
    let len = HEADER_LEN + header.kem.encapsulated_key_len();
    let Some(encapsulated_key) = fill(held, len, input).and_then(|held| held.get(HEADER_LEN..))
    else {
        return Ok(None);
    };
    Session::receive(Kind::Chunked, keys, header, encapsulated_key).map(Some)
}
