//! What a group's size and ciphersuite make of the work on it, and of what is stored for it.

use super::open::OpenedGroup;

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

/// Of a leaf in a join record: credential, signatures, link key; 2.6 MiB are 5,000 leaves with X25519.
const LEAF: usize = 450;

/// Of what a commit opens and seals again, a leaf's share that is charged: a commit takes milliseconds
/// of work where a message of as many bytes takes microseconds.
const WORK: usize = 64;

impl OpenedGroup {
    /// What work on the tree draws on allowances beside the bytes that come, as if it were bytes.
    pub(super) fn tree_work(&self) -> usize {
        self.places().saturating_mul(WORK)
    }

    /// About the length of a join record: leaves, and as many parents.
    pub(super) fn join_record_bytes(&self) -> usize {
        let (public_key, _) = kem(self.short.ciphersuite);
        let leaf = LEAF.saturating_add(public_key.saturating_mul(3));
        self.places().saturating_mul(leaf)
    }

    /// Leaf places up to the last one that is filled.
    pub(super) fn places(&self) -> usize {
        usize::try_from(self.short.places).unwrap_or(usize::MAX)
    }
}
