//! Names of rows: without the storage key, a row key is a random number.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::CryptoError;
use crate::kdf;
use crate::keys::StorageKey;

/// Length of a row name behind its day.
pub const ROW_LEN: usize = 16;

/// A row name: `PRF(storage key, …)`.
pub type Row = [u8; ROW_LEN];

/// Names rows, and seals the service's own values, under keys derived from the storage key.
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

    /// The root key, for sealing rows that the service itself reads (heads of segments, handles).
    #[must_use]
    pub fn storage_key(&self) -> &StorageKey {
        &self.storage
    }

    /// `PRF(storage key, domain || parts)`. Within a domain every part has a fixed length but the
    /// last.
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
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_names_have_unrelated_rows() {
        let rows = RowKeys::new(StorageKey::new([1; 32])).unwrap();
        let (a, b) = (
            rows.row(1, &[&[3; 32], &[0]]),
            rows.row(1, &[&[3; 32], &[1]]),
        );
        let same = a.iter().zip(b).filter(|(a, b)| **a == *b).count();
        assert!(same < 6, "{same} of 16 bytes are the same");
    }
}
