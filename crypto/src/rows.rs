//! Names of rows: without the storage key, a row key is a random number.
//!
//! A queue entry's row is named by `PRF(queue, incarnation, day, index)`: no two rows share a part of
//! their name, so rows that were written in one transaction show how many they are, not which queues
//! they belong to, and the next transaction to the same queues shows nothing in common with it.

use hmac::{Hmac, Mac};
use protocol::ids::{EntryId, GroupId, LookupId, QueueId};
use sha2::Sha256;

use crate::CryptoError;
use crate::aead;
use crate::kdf;
use crate::keys::StorageKey;

/// Length of a row name behind its day.
pub const ROW_LEN: usize = 16;

/// A row name: `PRF(storage key, …)`.
pub type Row = [u8; ROW_LEN];

/// Names rows, and seals what the service keeps for itself, under keys derived from the storage key.
pub struct RowKeys {
    prf: Hmac<Sha256>,
    storage: StorageKey,
}

impl std::fmt::Debug for RowKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { prf: _, storage: _ } = self;
        f.write_str("RowKeys(..)")
    }
}

impl RowKeys {
    /// Derives the row keys.
    ///
    /// # Errors
    /// [`CryptoError::Backend`] never in practice: HMAC takes keys of any length.
    pub fn new(storage: StorageKey) -> Result<Self, CryptoError> {
        let prf_key =
            zeroize::Zeroizing::new(kdf::derive::<32>(storage.expose(), "row names", &[]));
        let prf =
            Hmac::<Sha256>::new_from_slice(prf_key.as_slice()).map_err(|_| CryptoError::Backend)?;
        Ok(Self { prf, storage })
    }

    /// The root key, for sealing rows that the service itself reads (queues, handles).
    #[must_use]
    pub fn storage_key(&self) -> &StorageKey {
        &self.storage
    }

    /// `PRF(storage key, domain || parts)`. Within a domain every part has a fixed length but the last.
    #[must_use]
    pub fn row(&self, domain: u8, parts: &[&[u8]]) -> Row {
        let mut prf = self.prf.clone();
        prf.update(&[domain]);
        for part in parts {
            prf.update(part);
        }
        let output = prf.finalize().into_bytes();
        let mut row = [0; ROW_LEN];
        for (to, from) in row.iter_mut().zip(output) {
            *to = from;
        }
        row
    }

    // Within a domain every part has a fixed length but the last: no two inputs concatenate alike.

    /// Row of a group.
    #[must_use]
    pub fn group(&self, id: &GroupId) -> Row {
        self.row(1, &[&id.0])
    }

    /// Row of a queue.
    #[must_use]
    pub fn queue(&self, id: &QueueId) -> Row {
        self.row(2, &[&id.0])
    }

    /// Row of a queue entry.
    #[must_use]
    pub fn entry(&self, queue: &QueueId, id: &EntryId) -> Row {
        self.row(
            3,
            &[
                &queue.0,
                &id.incarnation.0,
                &id.day.to_be_bytes(),
                &id.index.to_be_bytes(),
            ],
        )
    }

    /// Row of the marker that a stream has entries in its block of this number.
    #[must_use]
    pub fn block(&self, queue: &QueueId, id: &EntryId, block: u32) -> Row {
        self.row(
            4,
            &[
                &queue.0,
                &id.incarnation.0,
                &id.day.to_be_bytes(),
                &block.to_be_bytes(),
            ],
        )
    }

    /// Row of a join record.
    #[must_use]
    pub fn join_record(&self, lookup: &LookupId) -> Row {
        self.row(5, &[&lookup.0])
    }

    /// Row of a recovery record.
    #[must_use]
    pub fn recovery_record(&self, lookup: &LookupId) -> Row {
        self.row(6, &[&lookup.0])
    }

    /// Row of a KeyPackage pool.
    #[must_use]
    pub fn key_package_pool(&self, lookup: &LookupId) -> Row {
        self.row(7, &[&lookup.0])
    }

    /// Row of a handle. An operator with the storage key can still try names from a dictionary.
    #[must_use]
    pub fn handle(&self, handle: &[u8]) -> Row {
        self.row(8, &[handle])
    }

    /// Row of a request's result.
    #[must_use]
    pub fn result(&self, request_digest: &[u8; 32]) -> Row {
        self.row(9, &[request_digest])
    }

    /// Row of a spent token.
    #[must_use]
    pub fn spent(&self, nonce_digest: &[u8; 32]) -> Row {
        self.row(10, &[nonce_digest])
    }

    /// Key of an in-memory allowance.
    #[must_use]
    pub fn allowance(&self, group: &GroupId, leaf: u32) -> Row {
        self.row(11, &[&group.0, &leaf.to_be_bytes()])
    }

    /// Names the token bucket of a whole group.
    #[must_use]
    pub fn group_allowance(&self, group: &GroupId) -> Row {
        self.row(13, &[&group.0])
    }

    /// Names a group in the list of those that a queue blocks: to nobody who has not both ids.
    #[must_use]
    pub fn blocked_group(&self, queue: &QueueId, group: &GroupId) -> Row {
        self.row(12, &[&queue.0, &group.0])
    }

    /// The cipher for entry rows of one day and incarnation.
    ///
    /// # Errors
    /// [`CryptoError::Backend`].
    pub fn entry_cipher(
        &self,
        day: u32,
        incarnation: &protocol::ids::Incarnation,
    ) -> Result<EntryRowCipher, CryptoError> {
        let key = zeroize::Zeroizing::new(kdf::derive(
            self.storage.expose(),
            "entry rows",
            &[&day.to_be_bytes()[..], &incarnation.0[..]].concat(),
        ));
        Ok(EntryRowCipher {
            key: aead::Key::new(&key)?,
        })
    }
}

/// Seals the values of entry rows under a key of their day and incarnation. The nonce is taken from
/// the row's name, which is never written twice with another value.
pub struct EntryRowCipher {
    key: aead::Key,
}

impl std::fmt::Debug for EntryRowCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key: _ } = self;
        f.write_str("EntryRowCipher(..)")
    }
}

impl EntryRowCipher {
    /// Seals a row value in place.
    ///
    /// # Errors
    /// [`CryptoError::Backend`].
    pub fn seal(&self, row: &Row, value: &mut Vec<u8>) -> Result<(), CryptoError> {
        self.key.seal(nonce(row), row, value)
    }

    /// Opens a row value in place.
    ///
    /// # Errors
    /// [`CryptoError::CannotOpen`].
    pub fn open(&self, row: &Row, value: &mut Vec<u8>) -> Result<(), CryptoError> {
        self.key.open(nonce(row), row, value)
    }
}

fn nonce(row: &Row) -> [u8; 12] {
    row.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::ids::Incarnation;

    use super::*;

    #[test]
    fn neighbouring_entries_of_a_queue_have_unrelated_rows() {
        let rows = RowKeys::new(StorageKey::new([1; 32])).unwrap();
        let id = |index| EntryId {
            day: 1,
            incarnation: Incarnation([2; 16]),
            index,
        };
        let (a, b) = (
            rows.entry(&QueueId([3; 16]), &id(0)),
            rows.entry(&QueueId([3; 16]), &id(1)),
        );
        let same = a.iter().zip(b).filter(|(a, b)| **a == *b).count();
        assert!(same < 6, "{same} of 16 bytes are the same");
    }

    #[test]
    fn an_entry_row_opens_under_its_own_name_only() {
        let rows = RowKeys::new(StorageKey::new([1; 32])).unwrap();
        let cipher = rows.entry_cipher(1, &Incarnation([2; 16])).unwrap();
        let mut value = b"value".to_vec();
        cipher.seal(&[5; 16], &mut value).unwrap();
        assert!(cipher.open(&[6; 16], &mut value.clone()).is_err());
        cipher.open(&[5; 16], &mut value).unwrap();
        assert_eq!(value, b"value");
    }
}
