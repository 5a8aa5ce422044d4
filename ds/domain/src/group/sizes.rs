//! What a group's size and ciphersuite make of the work on it, and of what is stored for it.

use super::open::OpenedGroup;
use super::tree::MOST_COMMITS;

/// Bytes of a KEM's public key, and of its output.
const fn kem(ciphersuite: u16) -> (usize, usize) {
    match ciphersuite {
        // DHKEM(P-256)
        0x0002 => (65, 65),
        // X-Wing
        0x004e | 0x004f => (1_216, 1_120),
        // DHKEM(X25519)
        _ => (32, 32),
    }
}

/// Of a commit, what is not encrypted to leaves: its frame, the new leaf, keys of parents,
/// proposals.
const REST_OF_COMMIT: usize = 32 * 1024;

/// Leaves with which a commit by anybody has room for its path, whatever the tree: after Adds
/// without a path, and removals, nodes are blank, and at worst a path is encrypted to each other
/// leaf by itself (RFC 9420 §4.1.1).
pub(super) fn most_leaves(ciphersuite: u16, commit_bytes: usize) -> usize {
    let (_, output) = kem(ciphersuite);
    let secret = if ciphersuite == 0x004e { 48 } else { 32 };
    // The KEM's output, a path secret as long as a hash, the tag, and two lengths.
    let ciphertext = output + secret + 16 + 4;
    commit_bytes.saturating_sub(REST_OF_COMMIT) / ciphertext
}

/// Of a leaf in a join record: credential, signatures, link key; 2.6 MiB are 5,000 leaves with
/// X25519.
const LEAF: usize = 450;

/// Of what a commit opens and seals again, a leaf's share that is charged: a commit takes
/// milliseconds of work where a message of as many bytes takes microseconds.
const WORK: usize = 64;

/// Of what a commit changes, beside nodes: the group's context, tag and GroupInfo.
const REST_OF_CHANGES: usize = 1_024;

/// Of a node that changes, beside its key: two hashes, lengths, and its place.
const NODE: usize = 112;

const fn join_record(ciphersuite: u16, leaves: usize) -> usize {
    let (public_key, _) = kem(ciphersuite);
    leaves.saturating_mul(LEAF + 3 * public_key)
}

impl OpenedGroup {
    /// Bytes of what [`MOST_COMMITS`] commits change of a tree, each of another leaf: one size for
    /// a group, so that it does not tell whether they were one leaf's.
    pub(super) fn room_for_changes(&self) -> usize {
        let (public_key, _) = kem(self.short.ciphersuite);
        let levels = usize::try_from(self.short.places.max(1).ilog2()).unwrap_or(usize::MAX);
        let path = public_key
            .saturating_add(NODE)
            .saturating_mul(levels.saturating_add(1));
        let commit = path.saturating_add(LEAF).saturating_add(public_key);
        commit
            .saturating_mul(MOST_COMMITS.into())
            .saturating_add(REST_OF_CHANGES)
    }

    /// What work on the tree draws on allowances beside the bytes that come, as if it were bytes.
    pub(super) fn tree_work(&self) -> usize {
        self.places().saturating_mul(WORK)
    }

    /// About the length of a join record: leaves, and as many parents.
    pub(super) fn join_record_bytes(&self) -> usize {
        self.join_record_of(self.places())
    }

    /// The same with so many leaves.
    pub(super) fn join_record_of(&self, leaves: usize) -> usize {
        join_record(self.short.ciphersuite, leaves)
    }

    /// Leaf places up to the last one that is filled.
    pub(super) fn places(&self) -> usize {
        usize::try_from(self.short.places).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use crypto::schedule::DataKey;
    use protocol::ids::Day;
    use protocol::journal::Class;

    use super::*;
    use crate::journal::load::{Addition, Bound, DayLoad, Room, UserTag};

    #[test]
    fn one_user_adds_fifteen_others_in_a_day_one_by_one_whatever_the_ciphersuite() {
        let limits = crate::env::Limits::default();
        for suite in [0x0001, 0x0002, 0x004e, 0x004f] {
            for leaves in [2, 100, 400] {
                let bytes = join_record(suite, leaves);
                let added = Addition {
                    class: Class::Handshake,
                    user: UserTag::of(&DataKey::new([1; 32]), b"alice"),
                    bytes,
                    room: Room::Bounded,
                };
                let bound = Bound::of_handshakes(&limits, bytes);
                let mut load = DayLoad::default();
                let fits = (0..15).all(|_| load.admit(Day(1), &added, &bound, 0).is_ok());
                assert!(fits, "{suite} {leaves}");
            }
        }
    }

    #[test]
    fn a_group_of_most_leaves_has_room_for_any_path() {
        let limits = crate::env::Limits::default();
        let most = |ciphersuite| most_leaves(ciphersuite, limits.commit_bytes);
        assert!(most(0x0001) >= limits.members);
        // Of each group a joiner can fetch the tree.
        for suite in [0x004e, 0x004f] {
            assert!(most(suite) * (LEAF + 3 * 1_216) <= limits.tree_bytes);
        }
        let suites = [0x0001, 0x0002, 0x004e, 0x004f];
        assert_eq!(suites.map(most), [10_532, 7_561, 744, 754]);
    }
}
