//! Journals: what a group's members read, and how it is sealed, ordered and proven.
//!
//! A journal is cut into segments, one for each period between two rotations. An entry is sealed by
//! the service under the entry key of the step at which it was accepted. Reading is an unsigned
//! capability: everybody with a segment's id may read its sealed entries, and nobody learns who
//! reads.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

pub use crate::ids::Place;
use crate::ids::{ChainHead, Digest, Position, SegmentId, Step};
use crate::join::{LinkKeyUpload, SealedFormerWrapperKey};

/// How long an entry is kept. The number stands in the hash chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Class {
    /// Commits and proposals: [`HANDSHAKE_DAYS`] days, in a connection
    /// [`CONNECTION_HANDSHAKE_DAYS`].
    Handshake = 1,
    /// Application messages: as long as the group says. Their hash stays as long as a handshake.
    Message = 2,
}

/// Days that handshakes, and the hashes of messages, are kept.
pub const HANDSHAKE_DAYS: u16 = 140;

/// Days that the handshakes of a connection are kept: who comes back within a year still finds its
/// contacts. A leaf is due a week before.
pub const CONNECTION_HANDSHAKE_DAYS: u16 = 371;
/// Days that messages are kept where the group says nothing else; also the most that it can say.
pub const MESSAGE_DAYS: u16 = 30;

/// What an entry says, sealed under its entry key and padded to a size bucket.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct EntryContent {
    /// When the service accepted it, milliseconds since the Unix epoch.
    pub accepted_ms: u64,
    /// The accepted message, proposal or commit.
    pub event: Event,
}

/// What the service accepted for a group.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Event {
    /// `MLSMessage` with a PrivateMessage of content type application.
    #[tls_codec(discriminant = 1)]
    Message(VLBytes),
    /// `MLSMessage` with a PublicMessage of content type proposal.
    #[tls_codec(discriminant = 2)]
    Proposal(VLBytes),
    /// A commit with what travels beside it.
    #[tls_codec(discriminant = 3)]
    Commit(CommitEvent),
}

impl Event {
    /// How long it is kept.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Message(_) => Class::Message,
            Self::Proposal(_) | Self::Commit(_) => Class::Handshake,
        }
    }
}

/// A commit, and what members need beside it.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CommitEvent {
    /// `MLSMessage` with a PublicMessage of content type commit.
    pub commit: VLBytes,
    /// Link keys under the wrapper key in force after the commit.
    pub link_keys: Vec<LinkKeyUpload>,
    /// In a rotation: the former wrapper key, sealed under the new one.
    pub former_wrapper_key: Option<SealedFormerWrapperKey>,
}

/// Body of `ReadJournal`. It is not signed, and every reader sends the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ReadJournalRequest {
    /// [`crate::WIRE_VERSION`].
    pub version: u16,
    /// The segment to read; or [`SegmentId::NOBODY`], with [`Position::LAST`] and
    /// [`AnswerSize::Slot`] only, for an answer that says nothing.
    pub segment: SegmentId,
    /// [`Position::LAST`] for the last entries that fit; or a multiple of
    /// [`Position::READ_GRANULE`] where a reader begins, never its exact position, which would tell
    /// it from other readers. After that the end of the answer before: answers are filled in one
    /// way, so that all who began alike ask alike.
    pub from: Position,
    /// The service answers at once when the segment goes on beyond this position or is closed; else
    /// it waits for `wait_ms`. Either `from`, or `head.next` of an answer that came just before:
    /// the segment's end is the same for all who read on, a position from an earlier sitting is
    /// not. 0 for whoever asks for the last entries.
    pub known: Position,
    /// At most [`MAX_WAIT_MS`]; 0 for not at all.
    pub wait_ms: u32,
    /// How long the answer is.
    pub size: AnswerSize,
    /// In a slot, of an entry that is longer than an answer: which piece of it, from 0. Else 0.
    pub piece: u16,
}

/// What an answer with a stretch is padded to, and when it leaves. An entry that is longer alone
/// takes the next multiple; in a slot it comes in pieces, unless it has more than [`MOST_PIECES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum AnswerSize {
    /// The size that most answers of the service have, whatever the segment
    /// ([`crate::padding::ORDINARY_ANSWER`] on the network), as soon as it is there.
    Ordinary = 1,
    /// A size of the segment's, which its commits choose: whoever reads much reads it in fewer
    /// answers.
    Segment = 2,
    /// Of a read in a slot, which does not wait: the ordinary size. The answer leaves
    /// [`SLOT_ANSWER_MS`] ms after the request came, or a multiple of that, and so does a refusal.
    /// So its time does not say whether there was a journal to be read ([`SegmentId::NOBODY`]).
    Slot = 3,
}

/// See [`AnswerSize::Slot`], milliseconds.
pub const SLOT_ANSWER_MS: u32 = 20;

/// Longest wait of a long poll, milliseconds.
pub const MAX_WAIT_MS: u32 = 30_000;

/// A stretch of a segment.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ReadJournalResponse {
    /// The segment's end as it is now.
    pub head: SignedHead,
    /// The step at the end: the number of commits in the segment, a closing one not counted.
    pub step: Step,
    /// 1 if nothing will follow in this segment: its last entry is the commit that closed it.
    pub closed: u8,
    /// The position of the first of `entries`: the one that was asked for, or a later one where
    /// entries have expired altogether.
    pub first: Position,
    /// Dense from `first` on. Fewer than there are when they exceed the size; at least one where
    /// there is one. Of the last entries ([`Position::LAST`]) none, and `first` is the end, where
    /// the last one alone exceeds the size: who does not know it asks for it from a position.
    pub entries: Vec<Entry>,
    /// In a slot, in the place of entries: a piece of the one at `first`, which is longer.
    pub piece: Option<Piece>,
    /// Zeros, up to the size that was asked for.
    pub padding: VLBytes,
}

/// A piece of an encoded [`Entry`].
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Piece {
    /// How many there are, at most [`MOST_PIECES`].
    pub of: u16,
    /// All but the last one are of one length.
    pub bytes: VLBytes,
}

/// Most pieces of an entry: the commits of groups of hundreds come in slots, and nobody reads for
/// hours what stands before a longer one.
pub const MOST_PIECES: u16 = 16;

/// One entry as it is stored. Its position follows from its place in the answer.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Entry {
    /// A commit or proposal: the sealed row.
    #[tls_codec(discriminant = 1)]
    Handshake(VLBytes),
    /// A message: the sealed row.
    #[tls_codec(discriminant = 2)]
    Message(VLBytes),
    /// A message that has expired: the hash of its sealed row.
    #[tls_codec(discriminant = 3)]
    Expired(Digest),
}

/// The signed end of a segment: proof of what the service has shown.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SignedHead {
    /// The generation of the store that the segment is read from, as the directory says it: a store
    /// that was put back from a backup gives the same positions to other entries.
    pub generation: u64,
    /// The position that the next entry will have.
    pub next: Position,
    /// The chain head after the entry before it.
    pub chain: ChainHead,
    /// `SignWithLabel(journal-signing key, "JournalHeadTBS", JournalHeadTbs)`; the key is in the
    /// service's directory.
    pub signature: [u8; 64],
}

/// The label of [`SignedHead::signature`].
pub const JOURNAL_HEAD_LABEL: &str = "JournalHeadTBS";

/// The content that [`SignedHead::signature`] covers.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct JournalHeadTbs {
    /// As in [`SignedHead`].
    pub generation: u64,
    /// The segment that the end belongs to.
    pub segment: SegmentId,
    /// As in [`SignedHead`].
    pub next: Position,
    /// As in [`SignedHead`].
    pub chain: ChainHead,
}

/// The last head that a sender saw, inside the encryption of each of its messages, always this
/// size: two members who were shown different journals find out (or the head of another group's
/// journal that both share travels here).
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SeenHead {
    /// The segment. It names the group to the group's members and to nobody else.
    pub segment: SegmentId,
    /// The segment's end as the sender was shown it.
    pub head: SignedHead,
}
