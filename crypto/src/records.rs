//! Records that the service keeps for who comes: pages of join records, sealed under a key that
//! only members and joiners have, and recovery rows, which are ciphertext of members already and
//! are sealed once more under their own name, so that a copy of the disk does not show their epoch.

use protocol::ids::{JoinRecordId, RecoveryRowId, RotationEpoch};
use protocol::join::RecoveryRowResponse;
use zeroize::Zeroizing;

use crate::CryptoError;
use crate::kdf;
use crate::schedule::JoinKey;
use crate::sealing::{self, Place, SALT};

/// `id || page || pages`: a page is no other one, and of no longer or shorter record.
fn page_row(id: &JoinRecordId, page: u16, pages: u16) -> [u8; 36] {
    let mut row = [0; 36];
    let numbers = [page.to_be_bytes(), pages.to_be_bytes()];
    let bytes = id.0.iter().chain(numbers.iter().flatten());
    for (to, from) in row.iter_mut().zip(bytes) {
        *to = *from;
    }
    row
}

const fn page_place(row: &[u8; 36]) -> Place<'_> {
    Place {
        table: "join_records",
        row,
        part: "page",
    }
}

/// Seals one page of a join record.
///
/// # Errors
/// [`CryptoError::TooLong`].
pub fn seal_join_page(
    key: &JoinKey,
    salt: [u8; SALT],
    id: &JoinRecordId,
    (page, pages): (u16, u16),
    content: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let row = page_row(id, page, pages);
    sealing::seal_salted(key.expose(), salt, page_place(&row), content)
}

/// Opens what [`seal_join_page`] sealed.
///
/// # Errors
/// [`CryptoError::CannotOpen`].
pub fn open_join_page(
    key: &JoinKey,
    id: &JoinRecordId,
    (page, pages): (u16, u16),
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let row = page_row(id, page, pages);
    sealing::open(key.expose(), page_place(&row), sealed)
}

fn row_key(id: &RecoveryRowId) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(kdf::derive(&id.0, "recovery row at rest", &[]))
}

const fn row_place(id: &RecoveryRowId) -> Place<'_> {
    Place {
        table: "recovery_rows",
        row: &id.0,
        part: "row",
    }
}

/// Seals a recovery row for the store.
///
/// # Errors
/// [`CryptoError::TooLong`].
pub fn seal_recovery_row(
    id: &RecoveryRowId,
    salt: [u8; SALT],
    rotation: RotationEpoch,
    sealed: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let plain = [&rotation.0.to_be_bytes(), sealed].concat();
    sealing::seal_salted(&row_key(id), salt, row_place(id), &plain)
}

/// Opens what [`seal_recovery_row`] sealed.
///
/// # Errors
/// [`CryptoError::CannotOpen`].
pub fn open_recovery_row(
    id: &RecoveryRowId,
    stored: &[u8],
) -> Result<RecoveryRowResponse, CryptoError> {
    let plain = sealing::open(&row_key(id), row_place(id), stored)?;
    let (rotation, sealed) = plain
        .split_first_chunk::<8>()
        .ok_or(CryptoError::CannotOpen)?;
    Ok(RecoveryRowResponse {
        rotation_epoch: RotationEpoch(u64::from_be_bytes(*rotation)),
        sealed: protocol::codec::opaque(sealed),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_page_opens_in_its_place_of_its_record_only() {
        let (key, id) = (JoinKey::new([1; 32]), JoinRecordId([2; 32]));
        let sealed = seal_join_page(&key, [3; SALT], &id, (1, 3), b"page").unwrap();
        let open = |key: &JoinKey, id, at| open_join_page(key, id, at, &sealed).is_ok();
        assert!(open(&key, &id, (1, 3)));
        assert!(!open(&key, &id, (0, 3)));
        assert!(!open(&key, &id, (1, 4)));
        assert!(!open(&key, &JoinRecordId([4; 32]), (1, 3)));
        assert!(!open(&JoinKey::new([5; 32]), &id, (1, 3)));
    }

    #[test]
    fn a_row_opens_for_who_has_its_name() {
        let id = RecoveryRowId([1; 32]);
        let stored = seal_recovery_row(&id, [2; SALT], RotationEpoch(7), b"R").unwrap();
        let row = open_recovery_row(&id, &stored).unwrap();
        assert_eq!(row.rotation_epoch, RotationEpoch(7));
        assert_eq!(row.sealed.as_slice(), b"R");
        assert!(open_recovery_row(&RecoveryRowId([3; 32]), &stored).is_err());
    }
}
