//! Blobs: where one is found, who may write it, and how its chunks are sealed.
//!
//! ```text
//! capability, in the message only ─ "blob id" ─▶ where the service has it
//! write key, the sender's only ──── SHA-256 ───▶ by which the service knows it
//! content key, in the message only ───────────▶ STREAM over the chunks
//! ```
//!
//! Chunks are sealed by STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: *Online Authenticated-
//! Encryption and its Nonce-Reuse Misuse-Resistance*, CRYPTO 2015, §8) with AES-256-GCM and 32-bit
//! counters. A nonce is 7 random bytes of the blob, the chunk's index and whether it is the last.
//! So no chunk opens in another's place, and what was cut off at its end does not open either.

use aead_stream::{NewStream as _, StreamBE32, StreamPrimitive as _};
use aes_gcm::aead::Payload;
use aes_gcm::{Aes256Gcm, KeyInit as _};
use protocol::blobs::CHUNK;
use protocol::codec::WireSecret;
use protocol::ids::BlobId;
use sha2::{Digest as _, Sha256};

use crate::CryptoError;
use crate::kdf;
use crate::keys::keys;
use crate::secret::Secret;

keys! {
    /// Finds a blob: random, in the message that tells of it.
    BlobCapability;
    /// Writes and deletes one blob: random, known to its sender and shown to the service.
    BlobWriteKey;
    /// Opens the chunks of one blob: random, in the message that tells of it.
    BlobContentKey;
}

/// Bytes of file in a chunk.
pub const CHUNK_CONTENT: usize = CHUNK - 16;

/// The random part of a blob's nonces.
pub const NONCE_PREFIX: usize = 7;

impl BlobCapability {
    /// Where the blob is found.
    #[must_use]
    pub fn id(&self) -> BlobId {
        BlobId(kdf::derive(self.expose(), "blob id", &[]))
    }
}

impl BlobWriteKey {
    /// By which the service knows it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.expose()).into()
    }
}

/// The place of a chunk in its blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlace {
    /// The blob.
    pub blob: BlobId,
    /// From 0.
    pub index: u16,
    /// How many chunks the blob has.
    pub of: u16,
}

impl ChunkPlace {
    fn is_last(self) -> bool {
        self.index.checked_add(1) == Some(self.of)
    }
}

/// Seals and opens the chunks of one blob.
pub struct BlobCipher(StreamBE32<Aes256Gcm>);

impl std::fmt::Debug for BlobCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlobCipher(..)")
    }
}

impl BlobCipher {
    /// For the blob that has this key and these nonces.
    #[must_use]
    pub fn new(key: &BlobContentKey, nonce: &[u8; NONCE_PREFIX]) -> Self {
        let cipher = Aes256Gcm::new(key.expose().into());
        Self(StreamBE32::from_aead(cipher, nonce.into()))
    }

    /// Seals [`CHUNK_CONTENT`] bytes into [`CHUNK`]. A place must never get two contents: whoever
    /// seals again must know that the content is the same.
    ///
    /// # Errors
    /// [`CryptoError::TooLong`] for another length; [`CryptoError::Backend`].
    pub fn seal(&self, place: ChunkPlace, content: &[u8]) -> Result<Vec<u8>, CryptoError> {
        if content.len() != CHUNK_CONTENT {
            return Err(CryptoError::TooLong);
        }
        let payload = Payload {
            msg: content,
            aad: &place.blob.0,
        };
        self.0
            .encrypt(place.index.into(), place.is_last(), payload)
            .map_err(|_| CryptoError::Backend)
    }

    /// Opens the chunk that was sealed for exactly this place.
    ///
    /// # Errors
    /// [`CryptoError::CannotOpen`]: another key, another place, cut off or changed.
    pub fn open(&self, place: ChunkPlace, sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let payload = Payload {
            msg: sealed,
            aad: &place.blob.0,
        };
        self.0
            .decrypt(place.index.into(), place.is_last(), payload)
            .ok()
            .filter(|content| content.len() == CHUNK_CONTENT)
            .ok_or(CryptoError::CannotOpen)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cipher(key: u8) -> BlobCipher {
        BlobCipher::new(&BlobContentKey::new([key; 32]), &[9; NONCE_PREFIX])
    }

    fn place(index: u16, of: u16) -> ChunkPlace {
        ChunkPlace {
            blob: BlobId([5; 32]),
            index,
            of,
        }
    }

    #[test]
    fn only_whole_chunks_are_sealed_and_each_has_the_one_size() {
        let sealed = cipher(1).seal(place(0, 1), &[7; CHUNK_CONTENT]).unwrap();
        assert_eq!(sealed.len(), CHUNK);
        for len in [0, CHUNK_CONTENT - 1, CHUNK_CONTENT + 1] {
            let sealed = cipher(1).seal(place(0, 1), &vec![7; len]);
            assert_eq!(sealed, Err(CryptoError::TooLong));
        }
    }

    #[test]
    fn one_capability_leads_to_one_id_and_nothing_leads_back() {
        let capability = BlobCapability::new([1; 32]);
        assert_eq!(capability.id(), BlobCapability::new([1; 32]).id());
        assert_ne!(capability.id(), BlobCapability::new([2; 32]).id());
        assert_ne!(capability.id().0, BlobWriteKey::new([1; 32]).hash());
    }

    #[test]
    fn debug_of_a_cipher_shows_no_bytes() {
        assert_eq!(format!("{:?}", cipher(0x41)), "BlobCipher(..)");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_chunk_opens_in_its_place_and_nowhere_else(
            index in 0u16..40, more in 1u16..40, other in 0u16..80, byte in any::<u8>(),
            at in 0..CHUNK, cut in 1..CHUNK,
        ) {
            let of = index + more;
            let content = vec![byte; CHUNK_CONTENT];
            let sealed = cipher(1).seal(place(index, of), &content).unwrap();
            prop_assert_eq!(cipher(1).open(place(index, of), &sealed).unwrap(), content);
            // In another place, as the last one of a shorter blob, of another blob or key.
            let refused = Err(CryptoError::CannotOpen);
            if other != index {
                prop_assert_eq!(cipher(1).open(place(other, of.max(other + 1)), &sealed), refused.clone());
            }
            let is_last = |index: u16, of: u16| index + 1 == of;
            let shorter = place(index, if is_last(index, of) { of + 1 } else { index + 1 });
            prop_assert_eq!(cipher(1).open(shorter, &sealed), refused.clone());
            let elsewhere = ChunkPlace { blob: BlobId([6; 32]), ..place(index, of) };
            prop_assert_eq!(cipher(1).open(elsewhere, &sealed), refused.clone());
            prop_assert_eq!(cipher(2).open(place(index, of), &sealed), refused.clone());
            // Cut, or changed.
            prop_assert_eq!(cipher(1).open(place(index, of), &sealed[..CHUNK - cut]), refused.clone());
            let mut changed = sealed;
            changed[at] ^= 1;
            prop_assert_eq!(cipher(1).open(place(index, of), &changed), refused);
        }
    }
}
