//! The service key file: what must be outside the database so that a copy of it is worth nothing.
//!
//! ```text
//! version(1) = 1 || storage key(32) || external sender seed(32) || count(1) || count x (key id(1) || seed(32))
//! ```
//! The queue service's HPKE key and the handle key come from the seeds; the last one is used for
//! sealing, the earlier ones still open (overlap at rotation). Losing the file loses every queue,
//! handle and pool: back it up apart from the database.

use protocol::ids::QueueId;
use zeroize::Zeroizing;

use crate::hpke::HpkeKeyPair;
use crate::keys::StorageKey;
use crate::queue::{self, QueueHandle};
use crate::rows::RowKeys;
use crate::secret::Secret;
use crate::sign::SignatureKeyPair;
use crate::{CryptoError, kdf, random};

const VERSION: u8 = 1;

/// One generation of the queue service's keys.
struct QueueServiceKey {
    id: u8,
    hpke: HpkeKeyPair,
    handle: Secret<32>,
}

/// Everything that the service key file holds.
pub struct ServiceKeys {
    rows: RowKeys,
    external_sender: SignatureKeyPair,
    queue_service: Vec<QueueServiceKey>,
}

impl std::fmt::Debug for ServiceKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            rows: _,
            external_sender: _,
            queue_service: _,
        } = self;
        f.write_str("ServiceKeys(..)")
    }
}

impl ServiceKeys {
    /// Lengths that a key file can have.
    pub const FILE_LENGTHS: std::ops::RangeInclusive<usize> =
        FIXED + GENERATION..=FIXED + 255 * GENERATION;

    /// Content of a new key file.
    ///
    /// # Errors
    /// [`CryptoError::Backend`] without randomness.
    pub fn generate_file() -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let mut file = Zeroizing::new(Vec::with_capacity(FIXED + GENERATION));
        file.push(VERSION);
        file.extend_from_slice(&*Zeroizing::new(random::<64>()?));
        file.extend_from_slice(&[1, 1]);
        file.extend_from_slice(&*Zeroizing::new(random::<32>()?));
        Ok(file)
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`CryptoError::UnknownVersion`] or [`CryptoError::InvalidKey`] when it is damaged.
    pub fn from_file(bytes: &[u8]) -> Result<Self, CryptoError> {
        let (&version, rest) = bytes.split_first().ok_or(CryptoError::InvalidKey)?;
        if version != VERSION {
            return Err(CryptoError::UnknownVersion);
        }
        let (storage, rest) = rest
            .split_first_chunk::<32>()
            .ok_or(CryptoError::InvalidKey)?;
        let (sender, rest) = rest
            .split_first_chunk::<32>()
            .ok_or(CryptoError::InvalidKey)?;
        let (&count, rest) = rest.split_first().ok_or(CryptoError::InvalidKey)?;
        let generations = rest.chunks_exact(GENERATION);
        if count == 0
            || !generations.remainder().is_empty()
            || generations.len() != usize::from(count)
        {
            return Err(CryptoError::InvalidKey);
        }
        let mut queue_service = Vec::with_capacity(usize::from(count));
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
                handle: Secret::new(kdf::derive(seed, "queue handle", &[])),
            });
        }
        Ok(Self {
            rows: RowKeys::new(StorageKey::new(*storage))?,
            external_sender: SignatureKeyPair::from_seed(&Secret::new(*sender)),
            queue_service,
        })
    }

    /// Names and seals rows.
    #[must_use]
    pub fn rows(&self) -> &RowKeys {
        &self.rows
    }

    /// The service's MLS external sender key.
    #[must_use]
    pub fn external_sender(&self) -> &SignatureKeyPair {
        &self.external_sender
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
const FIXED: usize = 1 + 64 + 1;

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
        let mut file = ServiceKeys::generate_file().unwrap();
        let old = ServiceKeys::from_file(&file).unwrap();
        let (id, handle) = old.seal_handle(&QueueId([1; 16])).unwrap();
        if let Some(count) = file.get_mut(65) {
            *count = 2;
        }
        file.push(2);
        file.extend_from_slice(&[7; 32]);
        let new = ServiceKeys::from_file(&file).unwrap();
        assert_eq!(new.queue_service_key().unwrap().0, 2);
        assert_eq!(new.open_handle(id, &handle).unwrap(), QueueId([1; 16]));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let file = ServiceKeys::generate_file().unwrap();
        for len in 0..file.len() {
            assert!(ServiceKeys::from_file(file.get(..len).unwrap()).is_err());
        }
    }
}
