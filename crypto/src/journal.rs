//! Journals: how entries are sealed, how they are chained, how a head is signed, how rotation
//! secrets and wrapper keys travel (`docs/journals.md`).

use std::sync::{Mutex, PoisonError};

use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::feed::{FEED_TICK_LABEL, FeedTickTbs, Tick};
use protocol::group::{
    JOIN_CODE_LABEL, JoinCode, JoinCodeTbs, RECOVERY_KEY_LABEL, RecoveryKey, RecoveryKeyTbs,
};
use protocol::ids::{ChainHead, Digest, GroupId, Position, RotationEpoch, SegmentId, Step};
use protocol::journal::{
    Class, Entry, EntryContent, JOURNAL_HEAD_LABEL, JournalHeadTbs, SignedHead,
};
use protocol::padding::bucket;
use sha2::{Digest as _, Sha256};

use crate::CryptoError;
use crate::schedule::JournalKey;
use crate::sealing::{self, Place, SALT};
use crate::sign::{self, LeafKeyPair, SignatureKeyPair};

/// `segment || step || class`: what an entry is bound to. Its position is bound by the chain, since
/// an append that comes second is not sealed again.
fn entry_row(segment: &SegmentId, step: Step, class: Class) -> [u8; 37] {
    let mut row = [0; 37];
    let (id, rest) = row.split_at_mut(32);
    id.copy_from_slice(&segment.0);
    let (number, last) = rest.split_at_mut(4);
    number.copy_from_slice(&step.0.to_be_bytes());
    last.fill(class as u8);
    row
}

const fn entry_place(row: &[u8; 37]) -> Place<'_> {
    Place {
        table: "journal",
        row,
        part: "entry",
    }
}

/// Seals an entry for the readers of its step: padded to a size bucket, committed to its key.
///
/// # Errors
/// [`CryptoError::TooLong`].
pub fn seal_entry(
    key: &JournalKey,
    salt: [u8; SALT],
    segment: &SegmentId,
    step: Step,
    content: &EntryContent,
) -> Result<Vec<u8>, CryptoError> {
    let mut bytes = zeroize::Zeroizing::new(content.encode());
    // A length that the padding cannot be taken for: 4 bytes, then content, then zeros.
    let length = u32::try_from(bytes.len()).map_err(|_| CryptoError::TooLong)?;
    let mut padded = zeroize::Zeroizing::new(Vec::with_capacity(bucket(bytes.len() + 4)));
    padded.extend_from_slice(&length.to_be_bytes());
    padded.append(&mut bytes);
    let size = bucket(padded.len());
    padded.resize(size, 0);
    let row = entry_row(segment, step, content.event.class());
    sealing::seal_salted(key.expose(), salt, entry_place(&row), &padded)
}

/// Opens what [`seal_entry`] sealed.
///
/// # Errors
/// [`CryptoError::CannotOpen`] for another key, segment, step or class, and for changed bytes.
pub fn open_entry(
    key: &JournalKey,
    segment: &SegmentId,
    step: Step,
    class: Class,
    sealed: &[u8],
) -> Result<EntryContent, CryptoError> {
    let row = entry_row(segment, step, class);
    let padded = sealing::open(key.expose(), entry_place(&row), sealed)?;
    let (length, rest) = padded
        .split_first_chunk::<4>()
        .ok_or(CryptoError::CannotOpen)?;
    let length =
        usize::try_from(u32::from_be_bytes(*length)).map_err(|_| CryptoError::CannotOpen)?;
    let bytes = rest.get(..length).ok_or(CryptoError::CannotOpen)?;
    EntryContent::decode(bytes)
        .ok()
        .filter(|content| content.event.class() == class)
        .ok_or(CryptoError::CannotOpen)
}

/// SHA-256 of a sealed row. It remains of a message after the message has expired.
#[must_use]
pub fn row_hash(sealed: &[u8]) -> Digest {
    Digest(Sha256::digest(sealed).into())
}

/// The chain of a segment before its first entry.
#[must_use]
pub fn first_head(segment: &SegmentId) -> ChainHead {
    let mut hash = Sha256::new();
    hash.update(b"MIMIMI 1.0 journal chain\0");
    hash.update(segment.0);
    ChainHead(hash.finalize().into())
}

/// `head' = SHA-256(label || head || position || class || H(row))`.
#[must_use]
pub fn next_head(head: &ChainHead, position: Position, class: Class, row: &Digest) -> ChainHead {
    let mut hash = Sha256::new();
    hash.update(b"MIMIMI 1.0 journal entry\0");
    hash.update(head.0);
    hash.update(position.0.to_be_bytes());
    hash.update([class as u8]);
    hash.update(row.0);
    ChainHead(hash.finalize().into())
}

/// [`next_head`] over an entry as it is read.
#[must_use]
pub fn head_after(head: &ChainHead, position: Position, entry: &Entry) -> ChainHead {
    match entry {
        Entry::Handshake(sealed) => next_head(
            head,
            position,
            Class::Handshake,
            &row_hash(sealed.as_slice()),
        ),
        Entry::Message(sealed) => {
            next_head(head, position, Class::Message, &row_hash(sealed.as_slice()))
        }
        Entry::Expired(hash) => next_head(head, position, Class::Message, hash),
    }
}

/// The end of a segment, before it is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// As in [`SignedHead`].
    pub generation: u64,
    /// The position that the next entry will have.
    pub next: Position,
    /// The chain after the entry before it.
    pub chain: ChainHead,
}

impl End {
    fn of(head: &SignedHead) -> Self {
        Self {
            generation: head.generation,
            next: head.next,
            chain: head.chain,
        }
    }

    fn tbs(self, segment: &SegmentId) -> Vec<u8> {
        JournalHeadTbs {
            generation: self.generation,
            segment: *segment,
            next: self.next,
            chain: self.chain,
        }
        .encode()
    }
}

/// The service's journal-signing key. Most answers of a service are to polls of a segment that has
/// not grown. So it keeps the last signatures, and signs each end once, when it is first read. The
/// signature of one end is always the same.
pub struct HeadSigner {
    key: SignatureKeyPair,
    signed: Mutex<Vec<Option<(SegmentId, SignedHead)>>>,
}

impl std::fmt::Debug for HeadSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeadSigner(..)")
    }
}

impl HeadSigner {
    /// Ends that are kept: 2 MiB of them.
    const KEPT: usize = 1 << 14;

    /// Signs with this key.
    #[must_use]
    pub fn new(key: SignatureKeyPair) -> Self {
        Self {
            key,
            signed: Mutex::default(),
        }
    }

    /// What signed ends are verified with.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.key.public()
    }

    /// Signs a tick of the feed, with a label of its own.
    ///
    /// # Errors
    /// [`CryptoError::Backend`] never: Ed25519 signatures are 64 bytes.
    pub fn sign_tick(&self, tick: FeedTickTbs) -> Result<Tick, CryptoError> {
        let signature = self.key.sign(FEED_TICK_LABEL, &tick.encode());
        let FeedTickTbs {
            version,
            generation,
            resolution,
            number,
            previous,
            count,
            coded,
        } = tick;
        Ok(Tick {
            version,
            generation,
            resolution,
            number,
            previous,
            count,
            coded,
            signature: signature.try_into().map_err(|_| CryptoError::Backend)?,
        })
    }

    /// Signs the end of a segment.
    ///
    /// # Errors
    /// [`CryptoError::Backend`] never: Ed25519 signatures are 64 bytes.
    pub fn sign(&self, segment: &SegmentId, end: End) -> Result<SignedHead, CryptoError> {
        // Clients choose ids, so that they can have theirs push out others': those are signed
        // again.
        let at = usize::from(u16::from_be_bytes([segment.0[0], segment.0[1]])) % Self::KEPT;
        let kept = || self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some((of, head))) = kept().get(at)
            && of == segment
            && End::of(head) == end
        {
            return Ok(head.clone());
        }
        let signature = self.key.sign(JOURNAL_HEAD_LABEL, &end.tbs(segment));
        let End {
            generation,
            next,
            chain,
        } = end;
        let head = SignedHead {
            generation,
            next,
            chain,
            signature: signature.try_into().map_err(|_| CryptoError::Backend)?,
        };
        let mut kept = kept();
        if kept.is_empty() {
            kept.resize(Self::KEPT, None);
        }
        if let Some(place) = kept.get_mut(at) {
            *place = Some((*segment, head.clone()));
        }
        Ok(head)
    }
}

/// Verifies the end of a segment under the service's journal-signing key.
///
/// # Errors
/// [`CryptoError::InvalidSignature`].
pub fn verify_head(key: &[u8], segment: &SegmentId, head: &SignedHead) -> Result<(), CryptoError> {
    let tbs = End::of(head).tbs(segment);
    sign::verify(key, JOURNAL_HEAD_LABEL, &tbs, &head.signature)
}

/// Whether two signed ends of a segment prove that the service has shown two journals. Two ends at
/// different positions prove nothing by themselves, nor do two of different generations: of an
/// honest service whose store was put back from a backup in between.
#[must_use]
pub fn contradict(one: &SignedHead, other: &SignedHead) -> bool {
    one.generation == other.generation && one.next == other.next && one.chain != other.chain
}

/// Signs the public half of a leaf's recovery key pair.
#[must_use]
pub fn sign_recovery_key(leaf: &LeafKeyPair, group: &GroupId, public_key: &[u8]) -> RecoveryKey {
    let tbs = recovery_key_tbs(group, &leaf.public(), public_key);
    RecoveryKey {
        public_key: opaque(public_key),
        signature: opaque(leaf.sign(RECOVERY_KEY_LABEL, &tbs)),
    }
}

/// Verifies a recovery key under the leaf's signature key. A committer seals to no other one.
///
/// # Errors
/// [`CryptoError::InvalidSignature`].
pub fn verify_recovery_key(
    leaf_key: &[u8],
    group: &GroupId,
    key: &RecoveryKey,
) -> Result<(), CryptoError> {
    let tbs = recovery_key_tbs(group, leaf_key, key.public_key.as_slice());
    sign::verify(leaf_key, RECOVERY_KEY_LABEL, &tbs, key.signature.as_slice())
}

fn recovery_key_tbs(group: &GroupId, leaf_key: &[u8], public_key: &[u8]) -> Vec<u8> {
    RecoveryKeyTbs {
        group_id: *group,
        leaf_key: opaque(leaf_key),
        public_key: opaque(public_key),
    }
    .encode()
}

/// Verifies a join code's record under its maker's signature key.
///
/// # Errors
/// [`CryptoError::InvalidSignature`].
pub fn verify_join_code(
    maker_key: &[u8],
    group: &GroupId,
    code: &JoinCode,
) -> Result<(), CryptoError> {
    sign::verify(
        maker_key,
        JOIN_CODE_LABEL,
        &join_code_tbs(group, code),
        code.signature.as_slice(),
    )
}

/// The bytes that a join code's maker signs. The code's own signature is not part of them.
#[must_use]
pub fn join_code_tbs(group: &GroupId, code: &JoinCode) -> Vec<u8> {
    JoinCodeTbs {
        group_id: *group,
        permit_hash: code.permit_hash,
        public_key: code.public_key.clone(),
        expiry: code.expiry,
        epoch: code.epoch,
        maker: code.maker,
    }
    .encode()
}

/// HPKE's `aad` of a recovery row: it binds the row to the group and the rotation.
#[must_use]
pub fn recovery_aad(group: &GroupId, rotation: RotationEpoch) -> Vec<u8> {
    [&group.0[..], &rotation.0.to_be_bytes()].concat()
}

/// HPKE's `info` of a recovery row.
pub const RECOVERY_INFO: &str = "MIMIMI 1.0 recovery row";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use protocol::journal::Event;

    use super::*;
    use crate::secret::Secret;

    fn message(len: usize) -> EntryContent {
        EntryContent {
            accepted_ms: 5,
            event: Event::Message(opaque(vec![9; len])),
        }
    }

    proptest! {
        #[test]
        fn an_entry_opens_under_its_key_segment_step_and_class_only(
            key: [u8; 32], segment: [u8; 32], step: u32, len in 0usize..3000,
        ) {
            let (segment, step) = (SegmentId(segment), Step(step));
            let content = message(len);
            let sealed =
                seal_entry(&JournalKey::new(key), [1; SALT], &segment, step, &content).unwrap();
            let open = |key: [u8; 32], segment, step, class| {
                open_entry(&JournalKey::new(key), segment, step, class, &sealed)
            };
            prop_assert_eq!(&open(key, &segment, step, Class::Message).unwrap(), &content);
            let mut other_key = key;
            other_key[0] ^= 1;
            let mut other_segment = segment;
            other_segment.0[0] ^= 1;
            prop_assert!(open(other_key, &segment, step, Class::Message).is_err());
            prop_assert!(open(key, &other_segment, step, Class::Message).is_err());
            prop_assert!(open(key, &segment, Step(step.0 ^ 1), Class::Message).is_err());
            prop_assert!(open(key, &segment, step, Class::Handshake).is_err());
        }

        #[test]
        fn texts_of_one_bucket_have_one_size(a in 0usize..400, b in 0usize..400) {
            let sealed = |len| {
                let key = JournalKey::new([1; 32]);
                seal_entry(&key, [1; SALT], &SegmentId([2; 32]), Step(0), &message(len))
                    .unwrap()
                    .len()
            };
            prop_assert_eq!(sealed(a), sealed(b));
        }
    }

    #[test]
    fn a_chain_tells_entries_positions_classes_and_order_apart() {
        let segment = SegmentId([1; 32]);
        let start = first_head(&segment);
        let rows = [Digest([1; 32]), Digest([2; 32])];
        let chain = |steps: [(u64, Class, Digest); 2]| {
            steps.iter().fold(start, |head, (at, class, row)| {
                next_head(&head, Position(*at), *class, row)
            })
        };
        let heads = [
            chain([(0, Class::Message, rows[0]), (1, Class::Message, rows[1])]),
            chain([(0, Class::Message, rows[1]), (1, Class::Message, rows[0])]),
            chain([(0, Class::Handshake, rows[0]), (1, Class::Message, rows[1])]),
            chain([(1, Class::Message, rows[0]), (2, Class::Message, rows[1])]),
            first_head(&SegmentId([2; 32])),
            start,
        ];
        for (at, head) in heads.iter().enumerate() {
            assert!(!heads.iter().skip(at + 1).any(|other| other == head));
        }
    }

    #[test]
    fn an_expired_message_keeps_the_chain_whole() {
        let head = first_head(&SegmentId([1; 32]));
        let row = opaque(vec![1, 2, 3]);
        assert_eq!(
            head_after(&head, Position(4), &Entry::Message(row.clone())),
            head_after(
                &head,
                Position(4),
                &Entry::Expired(row_hash(row.as_slice()))
            ),
        );
    }

    #[test]
    fn two_signed_ends_of_one_generation_at_one_position_are_proof_and_others_are_not() {
        let key = HeadSigner::new(SignatureKeyPair::from_seed(&Secret::new([3; 32])));
        let segment = SegmentId([1; 32]);
        let of_generation = |generation, next, chain| {
            let end = End {
                generation,
                next: Position(next),
                chain: ChainHead([chain; 32]),
            };
            let head = key.sign(&segment, end).unwrap();
            verify_head(&key.public(), &segment, &head).unwrap();
            assert!(verify_head(&key.public(), &SegmentId([9; 32]), &head).is_err());
            let other = SignedHead {
                generation: generation + 1,
                ..head.clone()
            };
            assert!(verify_head(&key.public(), &segment, &other).is_err());
            head
        };
        let sign = |next, chain| of_generation(0, next, chain);
        assert!(contradict(&sign(5, 1), &sign(5, 2)));
        assert!(!contradict(&sign(5, 1), &sign(5, 1)));
        assert!(!contradict(&sign(5, 1), &sign(6, 2)));
        assert!(!contradict(&sign(5, 1), &of_generation(1, 5, 2)));
        assert_eq!(sign(5, 1), sign(5, 1));
        assert_ne!(sign(5, 1), of_generation(1, 5, 1));
    }

    #[test]
    fn an_end_is_signed_alike_whatever_was_signed_in_between() {
        let key = HeadSigner::new(SignatureKeyPair::from_seed(&Secret::new([3; 32])));
        // The second takes the place of the first.
        let mut other = [1; 32];
        other[31] = 2;
        let segments = [SegmentId([1; 32]), SegmentId(other)];
        let signed: Vec<_> = [
            (0, 5, 1),
            (0, 5, 1),
            (1, 5, 1),
            (0, 5, 1),
            (0, 5, 2),
            (0, 6, 1),
        ]
        .map(|(segment, next, chain): (usize, _, _)| {
            let segment = &segments[segment];
            let end = End {
                generation: 0,
                next: Position(next),
                chain: ChainHead([chain; 32]),
            };
            let head = key.sign(segment, end).unwrap();
            assert_eq!(End::of(&head), end);
            verify_head(&key.public(), segment, &head).unwrap();
            head
        })
        .into();
        assert_eq!(signed[0], signed[1]);
        assert_eq!(signed[0], signed[3]);
    }
}
