//! The service's long-lived keys, in one file of 0600 outside the database.
//!
//! File: version (1), 32 bytes of storage key, a count, and for each generation 32 bytes of
//! external sender seed. Groups are told the last external sender key; those that were made under
//! an earlier one are still served with it. Losing the file loses every group, handle and pool:
//! back it up apart from the database.

use zeroize::Zeroizing;

use crate::journal::HeadSigner;
use crate::keys::StorageKey;
use crate::rows::RowKeys;
use crate::secret::Secret;
use crate::sign::{LeafKeyPair, Scheme, SignatureKeyPair};
use crate::{CryptoError, kdf, random};

const VERSION: u8 = 1;
const SEED: usize = 32;

/// Everything that the service key file holds.
pub struct ServiceKeys {
    fingerprints: Vec<Zeroizing<[u8; 32]>>,
    rows: RowKeys,
    external_senders: Vec<ExternalSenderKey>,
    journal_signing: HeadSigner,
}

/// One generation of the service's MLS external sender key: one key for each signature scheme.
pub struct ExternalSenderKey {
    /// For groups with an Ed25519 ciphersuite.
    pub ed25519: LeafKeyPair,
    /// For groups with a P-256 ciphersuite.
    pub p256: LeafKeyPair,
}

impl ExternalSenderKey {
    fn from_seed(seed: &Secret<32>) -> Result<Self, CryptoError> {
        Ok(Self {
            ed25519: LeafKeyPair::from_seed(Scheme::Ed25519, seed)?,
            p256: LeafKeyPair::from_seed(Scheme::EcdsaP256, seed)?,
        })
    }

    /// The key of this generation for a scheme.
    #[must_use]
    pub fn of(&self, scheme: Scheme) -> &LeafKeyPair {
        match scheme {
            Scheme::Ed25519 => &self.ed25519,
            Scheme::EcdsaP256 => &self.p256,
        }
    }
}

impl std::fmt::Debug for ServiceKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            fingerprints: _,
            rows: _,
            external_senders: _,
            journal_signing: _,
        } = self;
        f.write_str("ServiceKeys(..)")
    }
}

impl ServiceKeys {
    /// Lengths that a key file can have.
    pub const FILE_LENGTHS: std::ops::RangeInclusive<usize> =
        1 + 32 + 1 + SEED..=1 + 32 + 1 + 255 * SEED;

    /// Content of a new key file.
    ///
    /// # Errors
    /// [`CryptoError::Backend`] without randomness.
    pub fn generate_file() -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let mut file = Zeroizing::new(Vec::with_capacity(1 + 32 + 1 + SEED));
        file.push(VERSION);
        file.extend_from_slice(&*Zeroizing::new(random::<32>()?));
        file.push(1);
        file.extend_from_slice(&*Zeroizing::new(random::<SEED>()?));
        Ok(file)
    }

    /// Makes the same file with a new external sender key. Former keys still sign for the groups
    /// that know them.
    ///
    /// # Errors
    /// As [`ServiceKeys::from_file`]; [`CryptoError::TooLong`] after 255 generations.
    pub fn rotate_file(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let parts = Parts::read(bytes)?;
        let count =
            u8::try_from(parts.senders.len() / SEED + 1).map_err(|_| CryptoError::TooLong)?;
        let mut file = Zeroizing::new(Vec::with_capacity(bytes.len() + SEED));
        file.push(VERSION);
        file.extend_from_slice(parts.storage);
        file.push(count);
        file.extend_from_slice(parts.senders);
        file.extend_from_slice(&*Zeroizing::new(random::<SEED>()?));
        Ok(file)
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`CryptoError::UnknownVersion`] or [`CryptoError::InvalidKey`] when it is damaged.
    pub fn from_file(bytes: &[u8]) -> Result<Self, CryptoError> {
        let parts = Parts::read(bytes)?;
        let mut external_senders = Vec::with_capacity(parts.senders.len() / SEED);
        for seed in parts.senders.chunks_exact(SEED) {
            let seed: &[u8; SEED] = seed.try_into().map_err(|_| CryptoError::InvalidKey)?;
            external_senders.push(ExternalSenderKey::from_seed(&Secret::new(*seed))?);
        }
        Ok(Self {
            fingerprints: parts.fingerprints(),
            rows: RowKeys::new(StorageKey::new(*parts.storage))?,
            external_senders,
            journal_signing: HeadSigner::new(SignatureKeyPair::from_seed(&Secret::new(
                kdf::derive(parts.storage, "journal signing", &[]),
            ))),
        })
    }

    /// The secrets that a store can be bound to, one for each generation, oldest first. Each
    /// follows from all keys of the file up to that generation. Another file has other ones. An
    /// earlier copy of the same file lacks those of later generations.
    #[must_use]
    pub fn fingerprints(&self) -> &[Zeroizing<[u8; 32]>] {
        &self.fingerprints
    }

    /// Names and seals rows.
    #[must_use]
    pub fn rows(&self) -> &RowKeys {
        &self.rows
    }

    /// Signs the ends of segments. The directory announces its public half; it stays the same for
    /// the life of the key file.
    #[must_use]
    pub fn journal_signing(&self) -> &HeadSigner {
        &self.journal_signing
    }

    /// The service's MLS external sender keys, oldest first; groups are to list the last one.
    #[must_use]
    pub fn external_senders(&self) -> &[ExternalSenderKey] {
        &self.external_senders
    }

    /// The public half of the current external sender key.
    ///
    /// # Errors
    /// Never after [`ServiceKeys::from_file`].
    pub fn external_sender_public(&self, scheme: Scheme) -> Result<Vec<u8>, CryptoError> {
        self.external_senders
            .last()
            .map(|key| key.of(scheme).public())
            .ok_or(CryptoError::InvalidKey)
    }
}

/// A key file, cut up.
struct Parts<'a> {
    storage: &'a [u8; 32],
    senders: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, CryptoError> {
        let (&version, rest) = bytes.split_first().ok_or(CryptoError::InvalidKey)?;
        if version != VERSION {
            return Err(CryptoError::UnknownVersion);
        }
        let (storage, rest) = rest
            .split_first_chunk::<32>()
            .ok_or(CryptoError::InvalidKey)?;
        let (&count, senders) = rest.split_first().ok_or(CryptoError::InvalidKey)?;
        if count == 0 || senders.len() != usize::from(count) * SEED {
            return Err(CryptoError::InvalidKey);
        }
        Ok(Self { storage, senders })
    }

    fn fingerprints(&self) -> Vec<Zeroizing<[u8; 32]>> {
        (1..=self.senders.len() / SEED)
            .map(|count| {
                let senders = self.senders.get(..count * SEED).unwrap_or(self.senders);
                Zeroizing::new(kdf::derive(self.storage, "store binding", senders))
            })
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The format as it is: a file of version 1 is read for ever.
    #[test]
    fn a_file_of_version_1_is_read() {
        let file = [&[1][..], &[3; 32], &[2], &[4; 32], &[5; 32]].concat();
        let keys = ServiceKeys::from_file(&file).unwrap();
        assert_eq!(
            keys.external_sender_public(Scheme::Ed25519).unwrap(),
            SignatureKeyPair::from_seed(&Secret::new([5; 32])).public()
        );
        assert_eq!(
            keys.journal_signing().public(),
            SignatureKeyPair::from_seed(&Secret::new(kdf::derive(
                &[3; 32],
                "journal signing",
                &[]
            )))
            .public()
        );
    }

    #[test]
    fn after_a_rotation_the_new_key_is_told_and_the_one_before_is_kept() {
        let file = ServiceKeys::generate_file().unwrap();
        let old = ServiceKeys::from_file(&file).unwrap();
        let new = ServiceKeys::from_file(&ServiceKeys::rotate_file(&file).unwrap()).unwrap();
        let known: Vec<Vec<u8>> = new
            .external_senders()
            .iter()
            .map(|key| key.ed25519.public())
            .collect();
        let before = old.external_sender_public(Scheme::Ed25519).unwrap();
        assert_eq!(known.first(), Some(&before));
        assert_eq!(known.len(), 2);
        assert_ne!(new.external_sender_public(Scheme::Ed25519).unwrap(), before);
        assert_eq!(
            new.journal_signing().public(),
            old.journal_signing().public()
        );
    }

    #[test]
    fn fingerprints_tell_files_and_generations_apart_and_stay_over_a_rotation() {
        let file = ServiceKeys::generate_file().unwrap();
        let of = |file: &[u8]| {
            ServiceKeys::from_file(file)
                .unwrap()
                .fingerprints()
                .to_vec()
        };
        let before = of(&file);
        let rotated = ServiceKeys::rotate_file(&file).unwrap();
        let after = of(&rotated);
        assert_eq!((before.len(), after.len()), (1, 2));
        assert_eq!(before.first(), after.first());
        assert_ne!(after.first(), after.last());
        let diverged = of(&ServiceKeys::rotate_file(&file).unwrap());
        assert_ne!(diverged.last(), after.last());
        assert_ne!(of(&ServiceKeys::generate_file().unwrap()), before);
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let file = ServiceKeys::generate_file().unwrap();
        for len in 0..file.len() {
            assert!(ServiceKeys::from_file(file.get(..len).unwrap()).is_err());
        }
    }
}
