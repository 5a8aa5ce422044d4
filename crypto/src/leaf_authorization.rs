//! A leaf's word for the signature key of another one: a further client of the same user, or its
//! own successor after a loss of MLS state.

use protocol::Wire;
use protocol::codec::opaque;
use protocol::ids::GroupId;
use protocol::ids::SegmentId;
use protocol::join::{LEAF_AUTHORIZATION_LABEL, LeafAuthorization, LeafAuthorizationTbs};

use crate::CryptoError;
use crate::sign::LeafKeyPair;

/// The purpose for which a leaf gives its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AuthorizedJoin {
    /// A further client of its user.
    Client = 2,
    /// A leaf that takes its place.
    Rejoin = 3,
}

fn tbs(
    group_id: &GroupId,
    segment: &SegmentId,
    join: AuthorizedJoin,
    leaf_index: u32,
    not_after_ms: u64,
    new_key: &[u8],
) -> Vec<u8> {
    LeafAuthorizationTbs {
        group_id: *group_id,
        segment: *segment,
        purpose: join as u8,
        leaf_index,
        not_after_ms,
        signature_key: opaque(new_key),
    }
    .encode()
}

/// Signs an authorization with the key of the leaf at `leaf_index`. It is good while the group is
/// in this segment. No removed member is in a segment that follows, so no word outlasts a removal.
#[must_use]
pub fn authorize(
    key: &LeafKeyPair,
    group_id: &GroupId,
    segment: &SegmentId,
    join: AuthorizedJoin,
    leaf_index: u32,
    not_after_ms: u64,
    new_key: &[u8],
) -> LeafAuthorization {
    let tbs = tbs(group_id, segment, join, leaf_index, not_after_ms, new_key);
    LeafAuthorization {
        leaf_index,
        not_after_ms,
        signature: opaque(key.sign(LEAF_AUTHORIZATION_LABEL, &tbs)),
    }
}

/// Verifies an authorization by the leaf whose signature key is `leaf_key`. Members, who read of a
/// join later, verify it as of time 0: that it had not expired is for the service to see.
///
/// # Errors
/// [`CryptoError::InvalidSignature`], also when it has expired.
pub fn verify(
    authorization: &LeafAuthorization,
    leaf_key: &[u8],
    group_id: &GroupId,
    segment: &SegmentId,
    join: AuthorizedJoin,
    new_key: &[u8],
    now_ms: u64,
) -> Result<(), CryptoError> {
    if authorization.not_after_ms < now_ms {
        return Err(CryptoError::InvalidSignature);
    }
    let tbs = tbs(
        group_id,
        segment,
        join,
        authorization.leaf_index,
        authorization.not_after_ms,
        new_key,
    );
    crate::sign::verify(
        leaf_key,
        LEAF_AUTHORIZATION_LABEL,
        &tbs,
        authorization.signature.as_slice(),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sign::Scheme;

    #[test]
    fn an_authorization_is_good_for_its_group_period_purpose_key_and_time_only() {
        let key = LeafKeyPair::random(Scheme::Ed25519).unwrap();
        let group = GroupId([1; 16]);
        let now = SegmentId([5; 32]);
        let client = AuthorizedJoin::Client;
        let signed = authorize(&key, &group, &now, client, 3, 1000, b"new");
        let check = |leaf: &[u8], group: (&GroupId, &SegmentId), join, new: &[u8], now| {
            verify(&signed, leaf, group.0, group.1, join, new, now).is_ok()
        };
        let public = key.public();
        let here = (&group, &now);
        assert!(check(&public, here, client, b"new", 1000));
        assert!(!check(&public, here, client, b"new", 1001));
        assert!(!check(&public, here, AuthorizedJoin::Rejoin, b"new", 1000));
        assert!(!check(&public, here, client, b"other", 1000));
        let there = (&GroupId([2; 16]), &now);
        assert!(!check(&public, there, client, b"new", 1000));
        let rotated = (&group, &SegmentId([6; 32]));
        assert!(!check(&public, rotated, client, b"new", 1000));
        let other = LeafKeyPair::random(Scheme::Ed25519).unwrap().public();
        assert!(!check(&other, here, client, b"new", 1000));
    }
}
