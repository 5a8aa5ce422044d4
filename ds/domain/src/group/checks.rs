//! Bounds and forms of what clients bring.

use crypto::journal::verify_recovery_key;
use protocol::group::{LeafExtras, PUSH_HANDLE_BYTES, RecoveryKey};
use protocol::ids::GroupId;
use protocol::join::RecoveryRow;
use protocol::problem::ProblemType;

use super::control::Control;
use super::marks::Marks;
use crate::refusal::Stop;

/// Longest sealed 32 bytes: of a link key, of a wrapper key.
const SEALED_KEY_BYTES: usize = 256;
/// Longest public key of a supported KEM: X-Wing's, 1,216 bytes.
const PUBLIC_KEY_BYTES: usize = 1_280;
/// Longest rotation secret under a supported KEM.
const SEALED_ROTATION_SECRET_BYTES: usize = 1_536;

/// More of something than its bound is refused.
pub(super) fn within(len: usize, limit: usize) -> Result<(), Stop> {
    if len <= limit {
        Ok(())
    } else {
        Err(ProblemType::LimitExceeded.into())
    }
}

/// A sealed link key or wrapper key: not empty, and no place for anything else.
pub(super) fn check_sealed_key(sealed: &[u8]) -> Result<(), Stop> {
    if sealed.is_empty() {
        return Err(ProblemType::InvalidLeaf.into());
    }
    within(sealed.len(), SEALED_KEY_BYTES)
}

/// A recovery key is signed by the leaf's key: nobody seals to another one.
pub(super) fn check_recovery_key(
    group: &GroupId,
    leaf_key: &[u8],
    key: &RecoveryKey,
) -> Result<(), Stop> {
    within(key.public_key.as_slice().len(), PUBLIC_KEY_BYTES)?;
    verify_recovery_key(leaf_key, group, key).map_err(|_| ProblemType::InvalidLeaf.into())
}

/// A recovery key is one leaf's: who had another's, or a code's, would own the row that is sealed
/// to it.
pub(super) fn check_own_key(
    group: &GroupId,
    public_key: &[u8],
    leaf: Option<u32>,
    (marks, control): (&Marks, &Control),
) -> Result<(), Stop> {
    if marks.has_key(group, public_key, leaf) || control.has_key(public_key) {
        Err(ProblemType::NotAllowed.into())
    } else {
        Ok(())
    }
}

/// A push handle has one length, whatever is in it.
pub(super) fn check_push_handle(handle: &[u8]) -> Result<(), Stop> {
    if handle.len() == PUSH_HANDLE_BYTES {
        Ok(())
    } else {
        Err(ProblemType::InvalidLeaf.into())
    }
}

/// What a leaf with this signature key brings.
pub(super) fn check_extras(
    group: &GroupId,
    leaf_key: &[u8],
    extras: &LeafExtras,
) -> Result<(), Stop> {
    check_sealed_key(extras.wrapped_link_key.as_slice())?;
    check_push_handle(extras.push_handle.as_slice())?;
    check_recovery_key(group, leaf_key, &extras.recovery_key)
}

/// A sealed rotation secret.
pub(super) fn check_row(row: &RecoveryRow) -> Result<(), Stop> {
    if row.sealed.as_slice().is_empty() {
        return Err(ProblemType::Malformed.into());
    }
    within(row.sealed.as_slice().len(), SEALED_ROTATION_SECRET_BYTES)
}
