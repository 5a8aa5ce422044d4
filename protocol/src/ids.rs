//! Identifiers on the wire: a type for each kind. None of them ever stands in a URL, a log line or
//! a metric label.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

macro_rules! fixed_ids {
    ($($(#[$doc:meta])* $name:ident($len:literal);)+) => {
        $(
            $(#[$doc])*
            #[derive(
                Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord,
                TlsSize, TlsSerialize, TlsDeserializeBytes,
            )]
            pub struct $name(pub [u8; $len]);

            impl std::fmt::Debug for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(concat!(stringify!($name), "(..)"))
                }
            }
        )+
    };
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($number:ty);)+) => {
        $(
            $(#[$doc])*
            #[derive(
                Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default,
                TlsSize, TlsSerialize, TlsDeserializeBytes,
            )]
            pub struct $name(pub $number);

            impl $name {
                /// The next one; the largest number is its own successor.
                #[must_use]
                pub const fn next(self) -> Self {
                    Self(self.0.saturating_add(1))
                }
            }
        )+
    };
}

fixed_ids! {
    /// The MLS group id: 16 random bytes, drawn by its creator.
    GroupId(16);
    /// A segment of a group's journal: `derive(S_0, "segment", group id || rotation epoch)`.
    /// Whoever has it may read the segment's sealed entries.
    SegmentId(32);
    /// A KeyPackage pool: `derive(connection token, "pool")`.
    PoolId(32);
    /// The join record of one epoch: `derive(join key, "join record", group id)`.
    JoinRecordId(32);
    /// The recovery row of one leaf or join code: a hash of its public key and its group.
    RecoveryRowId(32);
    /// The Welcome of one KeyPackage: `derive(own, "welcome id")`. There `own` is
    /// `derive(X, "welcome of", KeyPackageRef)`.
    WelcomeId(32);
    /// An inbox. Only its owner knows it.
    InboxId(32);
    /// An entry of an inbox, drawn by the service.
    InboxEntryId(16);
    /// A blob: `derive(capability, "blob id")`. Whoever has it may read the sealed chunks.
    BlobId(32);
    /// The hash of the bytes of a commit or message: SHA-256.
    Digest(32);
    /// The head of a journal's hash chain after some position: SHA-256.
    ChainHead(32);
}

numbers! {
    /// An epoch of a group (RFC 9420 §8).
    Epoch(u64);
    /// The epoch that begins a segment: 0, or the one that a rotating commit began.
    RotationEpoch(u64);
    /// Commits since the rotation: the epoch minus the rotation epoch.
    Step(u32);
    /// The place of an entry in its segment: from 0, dense, never used again.
    Position(u64);
    /// The index of a leaf in its group's tree (RFC 9420 §4.1).
    LeafIndex(u32);
    /// Whole days since the Unix epoch (UTC).
    Day(u32);
    /// Whole weeks since the Unix epoch (UTC): for what must not tell days apart.
    Week(u16);
    /// Whole minutes since the Unix epoch: for what must not tell clocks apart.
    Minute(u32);
    /// A tick of the activity feed: whole ticks of its resolution since the Unix epoch.
    TickNumber(u64);
}

impl SegmentId {
    /// No segment has this id, since ids are derived. A client with nothing to read in its slot
    /// asks for it, and is answered as whoever reads a journal.
    pub const NOBODY: Self = Self([0; 32]);
}

impl Position {
    /// Reads begin at multiples of this: an exact position would tell readers apart.
    pub const READ_GRANULE: u64 = 32;

    /// Where a reader begins who asks for the last entries, wherever they are: the same for all.
    pub const LAST: Self = Self(u64::MAX);

    /// The position that a reader of this one asks from.
    #[must_use]
    pub const fn rounded_down(self) -> Self {
        Self(self.0 - self.0 % Self::READ_GRANULE)
    }
}

impl Minute {
    /// The minute of a time in milliseconds since the Unix epoch.
    #[must_use]
    pub fn of(now_ms: u64) -> Self {
        Self(u32::try_from(now_ms / 60_000).unwrap_or(u32::MAX))
    }

    /// When it begins, milliseconds since the Unix epoch.
    #[must_use]
    pub fn start_ms(self) -> u64 {
        u64::from(self.0) * 60_000
    }
}

impl Day {
    /// The day of a time in milliseconds since the Unix epoch.
    #[must_use]
    pub fn of(now_ms: u64) -> Self {
        Self(u32::try_from(now_ms / 86_400_000).unwrap_or(u32::MAX))
    }
}

impl Week {
    /// The week of a time in milliseconds since the Unix epoch.
    #[must_use]
    pub fn of(now_ms: u64) -> Self {
        Self(u16::try_from(now_ms / (7 * 86_400_000)).unwrap_or(u16::MAX))
    }

    /// The last day of it.
    #[must_use]
    pub fn last_day(self) -> Day {
        Day(u32::from(self.0) * 7 + 6)
    }
}

/// Where an entry stands in a group's journal, for its members.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, TlsSize, TlsSerialize, TlsDeserializeBytes,
)]
pub struct Place {
    /// The rotation epoch of the entry's segment.
    pub rotation_epoch: RotationEpoch,
    /// The entry's position in that segment, from 0.
    pub position: Position,
}
