//! The service key file: what must be outside the database so that a copy of it is worth nothing.
//!
//! ```text
//! version(1) = 2 || storage key(32) || count(1) || count x external sender seed(32)
//!                || count(1) || count x (key id(1) || seed(32))
//! ```
//! Version 1 had exactly one external sender seed and no count before it. Groups are told the last external
//! sender key; those that were made under an earlier one are still served with it. The queue service's HPKE key and the handle key come from the seeds; the last one is used for
//! sealing, the earlier ones still open (overlap at rotation). Losing the file loses every queue,
//! handle and pool: back it up apart from the database.

use protocol::ids::QueueId;
use zeroize::Zeroizing;

use crate::hpke::HpkeKeyPair;
use crate::journal::HeadSigner;
use crate::keys::StorageKey;
use crate::queue::{self, QueueHandle};
use crate::rows::RowKeys;
use crate::secret::Secret;
use crate::sign::{LeafKeyPair, Scheme, SignatureKeyPair};
use crate::{CryptoError, aead, kdf, random};

const VERSION: u8 = 2;

/// One generation of the queue service's keys.
struct QueueServiceKey {
    id: u8,
    hpke: HpkeKeyPair,
    handle: aead::Key,
}

/// Everything that the service key file holds.
pub struct ServiceKeys {
    fingerprints: Vec<Zeroizing<[u8; 32]>>,
    rows: RowKeys,
    external_senders: Vec<ExternalSenderKey>,
    journal_signing: HeadSigner,
    queue_service: Vec<QueueServiceKey>,
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
            queue_service: _,
        } = self;
        f.write_str("ServiceKeys(..)")
    }
}

impl ServiceKeys {
    /// Lengths that a key file can have.
    pub const FILE_LENGTHS: std::ops::RangeInclusive<usize> =
        1 + 32 + 32 + 1 + GENERATION..=1 + 32 + 1 + 255 * 32 + 1 + 255 * GENERATION;

    /// Content of a new key file.
    ///
    /// # Errors
    /// [`CryptoError::Backend`] without randomness.
    pub fn generate_file() -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let mut file = Zeroizing::new(Vec::with_capacity(1 + 32 + 1 + 32 + 1 + GENERATION));
        file.push(VERSION);
        file.extend_from_slice(&*Zeroizing::new(random::<32>()?));
        file.push(1);
        file.extend_from_slice(&*Zeroizing::new(random::<32>()?));
        file.extend_from_slice(&[1, 1]);
        file.extend_from_slice(&*Zeroizing::new(random::<32>()?));
        Ok(file)
    }

    /// The same file with a new external sender key and a new generation of the queue service's keys, in the
    /// current version. What was in use before still opens, and signs for the groups that know it.
    ///
    /// # Errors
    /// As [`ServiceKeys::from_file`]; [`CryptoError::TooLong`] after 255 rotations.
    pub fn rotate_file(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let parts = Parts::read(bytes)?;
        let one_more = |count: usize| u8::try_from(count + 1).map_err(|_| CryptoError::TooLong);
        let mut file = Zeroizing::new(Vec::with_capacity(bytes.len() + 1 + 32 + GENERATION));
        file.push(VERSION);
        file.extend_from_slice(parts.storage);
        file.push(one_more(parts.senders.len() / 32)?);
        file.extend_from_slice(parts.senders);
        file.extend_from_slice(&*Zeroizing::new(random::<32>()?));
        file.push(one_more(parts.generations.len() / GENERATION)?);
        file.extend_from_slice(parts.generations);
        let used: Vec<u8> = parts
            .generations
            .chunks_exact(GENERATION)
            .filter_map(|generation| generation.first().copied())
            .collect();
        let id = (1..=u8::MAX)
            .find(|id| !used.contains(id))
            .ok_or(CryptoError::TooLong)?;
        file.push(id);
        file.extend_from_slice(&*Zeroizing::new(random::<32>()?));
        Ok(file)
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`CryptoError::UnknownVersion`] or [`CryptoError::InvalidKey`] when it is damaged.
    pub fn from_file(bytes: &[u8]) -> Result<Self, CryptoError> {
        let parts = Parts::read(bytes)?;
        let mut external_senders = Vec::with_capacity(parts.senders.len() / 32);
        for seed in parts.senders.chunks_exact(32) {
            let seed: &[u8; 32] = seed.try_into().map_err(|_| CryptoError::InvalidKey)?;
            external_senders.push(ExternalSenderKey::from_seed(&Secret::new(*seed))?);
        }
        let generations = parts.generations.chunks_exact(GENERATION);
        let mut queue_service = Vec::with_capacity(generations.len());
        for generation in generations {
            let (&id, seed) = generation.split_first().ok_or(CryptoError::InvalidKey)?;
            let seed: &[u8; 32] = seed.try_into().map_err(|_| CryptoError::InvalidKey)?;
            if queue_service
                .iter()
                .any(|key: &QueueServiceKey| key.id == id)
            {
                return Err(CryptoError::InvalidKey);
            }
            queue_service.push(QueueServiceKey {
                id,
                hpke: HpkeKeyPair::from_seed(&Secret::new(kdf::derive(
                    seed,
                    "queue service",
                    &[],
                )))?,
                handle: aead::Key::new(&Zeroizing::new(kdf::derive(seed, "queue handle", &[])))?,
            });
        }
        Ok(Self {
            fingerprints: parts.fingerprints(),
            rows: RowKeys::new(StorageKey::new(*parts.storage))?,
            external_senders,
            journal_signing: HeadSigner::new(SignatureKeyPair::from_seed(&Secret::new(
                kdf::derive(parts.storage, "journal signing", &[]),
            ))),
            queue_service,
        })
    }

    /// What a store can be bound to: a secret for each generation, oldest first, that follows from all
    /// keys of the file up to that one. Another file has another one, and so has an earlier copy of
    /// the same file, but for the generations that it has.
    #[must_use]
    pub fn fingerprints(&self) -> &[Zeroizing<[u8; 32]>] {
        &self.fingerprints
    }

    /// Names and seals rows.
    #[must_use]
    pub fn rows(&self) -> &RowKeys {
        &self.rows
    }

    /// Signs the ends of segments. The directory announces its public half; it stays the same for the
    /// life of the key file.
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

    fn current(&self) -> Result<&QueueServiceKey, CryptoError> {
        self.queue_service.last().ok_or(CryptoError::InvalidKey)
    }

    /// Id and public key that clients seal queue references to.
    ///
    /// # Errors
    /// Never after [`ServiceKeys::from_file`].
    pub fn queue_service_key(&self) -> Result<(u8, [u8; 32]), CryptoError> {
        self.current().map(|key| (key.id, key.hpke.public()))
    }

    /// Opens a sealed queue reference that is bound to `bound_to`.
    ///
    /// # Errors
    /// [`CryptoError::CannotOpen`], also for a key id that is not ours.
    pub fn open_reference(&self, bound_to: &[u8], sealed: &[u8]) -> Result<QueueId, CryptoError> {
        let (id, sealed) = sealed.split_first().ok_or(CryptoError::CannotOpen)?;
        let key = self.by_id(*id)?;
        queue::open_reference(&key.hpke, bound_to, sealed)
    }

    /// Seals a handle: its key id and the handle.
    ///
    /// # Errors
    /// [`CryptoError::Backend`].
    pub fn seal_handle(&self, queue: &QueueId) -> Result<(u8, QueueHandle), CryptoError> {
        let key = self.current()?;
        Ok((key.id, queue::seal_handle(&key.handle, queue)?))
    }

    /// Opens a handle.
    ///
    /// # Errors
    /// [`CryptoError::CannotOpen`], also for a key id that is not ours.
    pub fn open_handle(&self, id: u8, handle: &QueueHandle) -> Result<QueueId, CryptoError> {
        queue::open_handle(&self.by_id(id)?.handle, handle)
    }

    fn by_id(&self, id: u8) -> Result<&QueueServiceKey, CryptoError> {
        self.queue_service
            .iter()
            .find(|key| key.id == id)
            .ok_or(CryptoError::CannotOpen)
    }
}

const GENERATION: usize = 33;

/// A key file, cut up.
struct Parts<'a> {
    storage: &'a [u8; 32],
    senders: &'a [u8],
    generations: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, CryptoError> {
        let (&version, rest) = bytes.split_first().ok_or(CryptoError::InvalidKey)?;
        let (storage, rest) = rest
            .split_first_chunk::<32>()
            .ok_or(CryptoError::InvalidKey)?;
        let (senders, rest) = match version {
            1 => (1, rest),
            VERSION => rest
                .split_first()
                .map(|(count, rest)| (usize::from(*count), rest))
                .ok_or(CryptoError::InvalidKey)?,
            _ => return Err(CryptoError::UnknownVersion),
        };
        let (senders, rest) = rest
            .split_at_checked(senders * 32)
            .ok_or(CryptoError::InvalidKey)?;
        let (&count, generations) = rest.split_first().ok_or(CryptoError::InvalidKey)?;
        if senders.is_empty() || count == 0 || generations.len() != usize::from(count) * GENERATION
        {
            return Err(CryptoError::InvalidKey);
        }
        Ok(Self {
            storage,
            senders,
            generations,
        })
    }

    /// A rotation adds one sender and one generation.
    fn fingerprints(&self) -> Vec<Zeroizing<[u8; 32]>> {
        let count = (self.senders.len() / 32).max(self.generations.len() / GENERATION);
        (1..=count)
            .map(|count| {
                let upto = |bytes: &'a [u8], len: usize| bytes.get(..count * len).unwrap_or(bytes);
                let senders = upto(self.senders, 32);
                let context =
                    Zeroizing::new([senders, upto(self.generations, GENERATION)].concat());
                Zeroizing::new(kdf::derive(self.storage, "store binding", &context))
            })
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_file_is_read_back_and_its_keys_are_stable() {
        let file = ServiceKeys::generate_file().unwrap();
        let (a, b) = (
            ServiceKeys::from_file(&file).unwrap(),
            ServiceKeys::from_file(&file).unwrap(),
        );
        assert_eq!(
            a.queue_service_key().unwrap(),
            b.queue_service_key().unwrap()
        );
        let (id, handle) = a.seal_handle(&QueueId([1; 16])).unwrap();
        assert_eq!(b.open_handle(id, &handle).unwrap(), QueueId([1; 16]));
    }

    #[test]
    fn after_a_rotation_the_new_key_seals_and_the_old_one_still_opens() {
        let file = ServiceKeys::generate_file().unwrap();
        let old = ServiceKeys::from_file(&file).unwrap();
        let (id, handle) = old.seal_handle(&QueueId([1; 16])).unwrap();
        let new = ServiceKeys::from_file(&ServiceKeys::rotate_file(&file).unwrap()).unwrap();
        assert_ne!(
            new.queue_service_key().unwrap(),
            old.queue_service_key().unwrap()
        );
        assert_eq!(new.open_handle(id, &handle).unwrap(), QueueId([1; 16]));
        let known: Vec<Vec<u8>> = new
            .external_senders()
            .iter()
            .map(|key| key.ed25519.public())
            .collect();
        let before = old.external_sender_public(Scheme::Ed25519).unwrap();
        assert_eq!(known.first(), Some(&before));
        assert_eq!(known.len(), 2);
        assert_ne!(new.external_sender_public(Scheme::Ed25519).unwrap(), before);
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
    fn a_file_of_version_1_is_still_read() {
        let file = [&[1][..], &[3; 32], &[4; 32], &[1, 9], &[5; 32]].concat();
        let keys = ServiceKeys::from_file(&file).unwrap();
        assert_eq!(keys.queue_service_key().unwrap().0, 9);
        assert_eq!(
            keys.external_sender_public(Scheme::Ed25519).unwrap(),
            crate::sign::SignatureKeyPair::from_seed(&Secret::new([4; 32])).public()
        );
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let file = ServiceKeys::generate_file().unwrap();
        for len in 0..file.len() {
            assert!(ServiceKeys::from_file(file.get(..len).unwrap()).is_err());
        }
    }
}
