//! Chunks with their lengths (§3 and §4 of the draft): the same in both directions.
//!
//! A length of zero stands before the final chunk, which goes on until the outer stream ends.

use crate::error::{OpenError, SealError};
use crate::suite::TAG_LEN;
use crate::varint;

/// The most plaintext in a chunk: what everybody must accept (§3 of the draft), and nobody must
/// send more of.
pub const MAX_CHUNK_LEN: usize = 1 << 14;
/// The most sealed bytes of a message: what AES-128-GCM protects with a margin (§7.3 of the draft).
pub const MAX_MESSAGE_LEN: u64 = 1 << 30;
/// The most chunks of a request. Each costs more than its bytes, and the sender chooses how long
/// they are.
pub const MAX_REQUEST_CHUNKS: u64 = 4096;

const MAX_SEALED_LEN: usize = MAX_CHUNK_LEN + TAG_LEN;
const NOT_FINAL: &[u8] = b"";
const FINAL: &[u8] = b"final";

/// Seals one chunk after the other. An error is for good.
pub(crate) trait Seal {
    /// Appends [`TAG_LEN`] bytes more than `plaintext` has.
    fn seal(&mut self, aad: &[u8], plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError>;
}

/// Opens one chunk after the other.
pub(crate) trait Open {
    fn open(&mut self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError>;
}

/// How much of a message may still come.
pub(crate) struct Budget {
    bytes: u64,
    chunks: u64,
}

impl Budget {
    pub(crate) const REQUEST: Self = Self {
        bytes: MAX_MESSAGE_LEN,
        chunks: MAX_REQUEST_CHUNKS,
    };
    /// Each chunk has at least a tag.
    pub(crate) const RESPONSE: Self = Self {
        bytes: MAX_MESSAGE_LEN,
        chunks: MAX_MESSAGE_LEN,
    };

    /// Takes a chunk off. `None`: it may not come.
    fn take(&mut self, sealed_len: usize) -> Option<()> {
        self.bytes = self.bytes.checked_sub(sealed_len as u64)?;
        self.chunks = self.chunks.checked_sub(1)?;
        Some(())
    }
}

pub(crate) struct ChunkWriter<S> {
    sealer: S,
    /// What goes before the first chunk, until it has gone.
    prefix: Vec<u8>,
    budget: Budget,
}

impl<S: Seal> ChunkWriter<S> {
    pub(crate) fn new(sealer: S, prefix: Vec<u8>, budget: Budget) -> Self {
        Self {
            sealer,
            prefix,
            budget,
        }
    }

    /// Appends `plaintext` in as many chunks as it takes: none if it is empty.
    pub(crate) fn write(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        for piece in plaintext.chunks(MAX_CHUNK_LEN) {
            let sealed_len = piece.len() + TAG_LEN;
            self.seal(NOT_FINAL, sealed_len as u64, piece, out)?;
        }
        Ok(())
    }

    /// Appends `plaintext`, which may be empty, its last piece as the final chunk.
    pub(crate) fn finish(mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<S, SealError> {
        let before = plaintext.len().saturating_sub(1) / MAX_CHUNK_LEN * MAX_CHUNK_LEN;
        let (pieces, last) = plaintext.split_at(before);
        self.write(pieces, out)?;
        self.seal(FINAL, 0, last, out)?;
        Ok(self.sealer)
    }

    fn seal(
        &mut self,
        aad: &[u8],
        length: u64,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        self.budget
            .take(plaintext.len() + TAG_LEN)
            .ok_or(SealError::Exhausted)?;
        out.append(&mut self.prefix);
        varint::put(length, out);
        self.sealer.seal(aad, plaintext, out)
    }
}

pub(crate) struct ChunkReader<O> {
    opener: O,
    expected: Expected,
    /// The beginning of what is expected. At most a length or a sealed chunk.
    held: Vec<u8>,
    budget: Budget,
}

#[derive(Clone, Copy)]
enum Expected {
    Length,
    Chunk { len: usize },
    Final,
}

impl<O: Open> ChunkReader<O> {
    pub(crate) fn new(opener: O, budget: Budget) -> Self {
        Self {
            opener,
            expected: Expected::Length,
            held: Vec::new(),
            budget,
        }
    }

    /// Appends the plaintext of every chunk that `input` completes. Not to be called after an
    /// error.
    pub(crate) fn push(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        loop {
            match self.expected {
                Expected::Length => {
                    let Some(len) = self.take_length(&mut input) else {
                        return Ok(());
                    };
                    self.expected = Expected::after_length(len)?;
                }
                Expected::Chunk { len } => {
                    // A chunk that came as a whole is opened where it is.
                    if self.held.is_empty() && input.len() >= len {
                        let (sealed, rest) = input.split_at(len);
                        input = rest;
                        open_into(&mut self.opener, &mut self.budget, NOT_FINAL, sealed, out)?;
                    } else {
                        let missing = len - self.held.len();
                        let (some, rest) = input.split_at(missing.min(input.len()));
                        input = rest;
                        self.held.extend_from_slice(some);
                        if self.held.len() < len {
                            return Ok(());
                        }
                        let sealed = std::mem::take(&mut self.held);
                        open_into(&mut self.opener, &mut self.budget, NOT_FINAL, &sealed, out)?;
                    }
                    self.expected = Expected::Length;
                }
                Expected::Final => {
                    if input.len() > MAX_SEALED_LEN - self.held.len() {
                        return Err(OpenError::ChunkTooLong);
                    }
                    self.held.extend_from_slice(input);
                    return Ok(());
                }
            }
        }
    }

    /// The outer stream has ended: opens the final chunk.
    pub(crate) fn finish(mut self, out: &mut Vec<u8>) -> Result<O, OpenError> {
        if !matches!(self.expected, Expected::Final) || self.held.len() < TAG_LEN {
            return Err(OpenError::Truncated);
        }
        open_into(&mut self.opener, &mut self.budget, FINAL, &self.held, out)?;
        Ok(self.opener)
    }

    fn take_length(&mut self, input: &mut &[u8]) -> Option<u64> {
        loop {
            if let Some((len, _)) = varint::read(&self.held) {
                self.held.clear();
                return Some(len);
            }
            let (byte, rest) = input.split_first()?;
            self.held.push(*byte);
            *input = rest;
        }
    }
}

impl Expected {
    fn after_length(len: u64) -> Result<Self, OpenError> {
        match usize::try_from(len) {
            Ok(0) => Ok(Self::Final),
            // Of no data, or of not even a tag (§5 of the draft).
            Ok(1..=TAG_LEN) => Err(OpenError::CannotOpen),
            Ok(len @ ..=MAX_SEALED_LEN) => Ok(Self::Chunk { len }),
            _ => Err(OpenError::ChunkTooLong),
        }
    }
}

fn open_into<O: Open>(
    opener: &mut O,
    budget: &mut Budget,
    aad: &[u8],
    sealed: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), OpenError> {
    budget.take(sealed.len()).ok_or(OpenError::Exhausted)?;
    out.extend_from_slice(&opener.open(aad, sealed)?);
    Ok(())
}

/// Moves bytes from `input` until `held` has `len` of them, or more from before.
pub(crate) fn fill<'h>(held: &'h mut Vec<u8>, len: usize, input: &mut &[u8]) -> Option<&'h [u8]> {
    let missing = len.saturating_sub(held.len());
    let (some, rest) = input.split_at(missing.min(input.len()));
    held.extend_from_slice(some);
    *input = rest;
    (held.len() >= len).then_some(held)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Adds a tag of zeros, or of ones to the final chunk.
    struct Transparent;

    fn tag(aad: &[u8]) -> [u8; TAG_LEN] {
        [u8::from(aad == FINAL); TAG_LEN]
    }

    impl Seal for Transparent {
        fn seal(
            &mut self,
            aad: &[u8],
            plaintext: &[u8],
            out: &mut Vec<u8>,
        ) -> Result<(), SealError> {
            out.extend_from_slice(plaintext);
            out.extend_from_slice(&tag(aad));
            Ok(())
        }
    }

    impl Open for Transparent {
        fn open(&mut self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
            let plaintext = sealed
                .strip_suffix(&tag(aad))
                .ok_or(OpenError::CannotOpen)?;
            Ok(plaintext.to_vec())
        }
    }

    fn budget(bytes: u64, chunks: u64) -> Budget {
        Budget { bytes, chunks }
    }

    fn read(encoded: &[u8], budget: Budget) -> Result<Vec<u8>, OpenError> {
        let mut reader = ChunkReader::new(Transparent, budget);
        let mut out = Vec::new();
        reader.push(encoded, &mut out)?;
        reader.finish(&mut out)?;
        Ok(out)
    }

    #[test]
    fn no_chunk_is_sealed_or_opened_beyond_the_budget() {
        for (bytes, chunks) in [(1 << 20, 2), (17 + 17 + 16, 9)] {
            let mut writer = ChunkWriter::new(Transparent, Vec::new(), budget(bytes, chunks));
            let mut out = Vec::new();
            writer.write(b"a", &mut out).unwrap();
            writer.write(b"b", &mut out).unwrap();
            let written = out.clone();
            assert_eq!(
                writer.finish(b"c", &mut out).err(),
                Some(SealError::Exhausted)
            );
            assert_eq!(out, written);
        }
        let mut writer = ChunkWriter::new(Transparent, Vec::new(), Budget::RESPONSE);
        let mut out = Vec::new();
        writer.write(b"ab", &mut out).unwrap();
        writer.finish(b"c", &mut out).unwrap();
        assert_eq!(read(&out, budget(35, 2)).unwrap(), b"abc");
        assert_eq!(read(&out, budget(35, 1)), Err(OpenError::Exhausted));
        assert_eq!(read(&out, budget(34, 2)), Err(OpenError::Exhausted));
    }

    #[test]
    fn plaintext_is_cut_into_chunks_of_the_size_that_everybody_takes() {
        for (len, chunks) in [
            (0, 1),
            (1, 1),
            (MAX_CHUNK_LEN, 1),
            (MAX_CHUNK_LEN + 1, 2),
            (3 * MAX_CHUNK_LEN, 3),
        ] {
            let writer = ChunkWriter::new(Transparent, b"prefix".to_vec(), Budget::RESPONSE);
            let mut out = Vec::new();
            writer.finish(&vec![7; len], &mut out).unwrap();
            let encoded = out.strip_prefix(b"prefix").unwrap();
            assert_eq!(
                read(encoded, budget(1 << 20, chunks)).unwrap(),
                vec![7; len]
            );
            assert_eq!(
                read(encoded, budget(1 << 20, chunks - 1)),
                Err(OpenError::Exhausted)
            );
        }
    }

    #[test]
    fn a_length_is_refused_before_anything_is_kept_for_it() {
        for (len, error) in [
            (1, OpenError::CannotOpen),
            (TAG_LEN as u64, OpenError::CannotOpen),
            (MAX_SEALED_LEN as u64 + 1, OpenError::ChunkTooLong),
            (varint::MAX, OpenError::ChunkTooLong),
        ] {
            let mut encoded = Vec::new();
            varint::put(len, &mut encoded);
            let mut reader = ChunkReader::new(Transparent, Budget::RESPONSE);
            assert_eq!(reader.push(&encoded, &mut Vec::new()), Err(error));
            assert!(reader.held.capacity() <= 8);
        }
        // The final chunk has no length; its end does not come too late either.
        let mut reader = ChunkReader::new(Transparent, Budget::RESPONSE);
        reader.push(&[0], &mut Vec::new()).unwrap();
        for _ in 0..MAX_SEALED_LEN {
            reader.push(&[0], &mut Vec::new()).unwrap();
        }
        let late = reader.push(&[0], &mut Vec::new());
        assert_eq!(late, Err(OpenError::ChunkTooLong));
    }
}
