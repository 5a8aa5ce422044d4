//! The storage port. An engine knows tables, keys and bytes: what they mean is decided in
//! [`crate::store`], once for all engines. Keys are outputs of a keyed PRF and values are sealed,
//! so that an engine sees days, counts and sizes, nothing else.

#[cfg(feature = "conformance")]
pub mod faulty;
#[cfg(feature = "conformance")]
pub mod watched;

use std::fmt;

use async_trait::async_trait;

/// A table. Those with days drop a day whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// The short part of a group's state, or its tombstone.
    Groups = 1,
    /// The other parts of a group's state.
    GroupParts = 2,
    /// Group ids that were handed out. By day.
    Reservations = 3,
    /// Heads of segments that go on.
    Heads = 4,
    /// Entries of the class handshake, and hashes of messages. By day.
    Handshakes = 5,
    /// Sealed rows of messages. By day.
    Messages = 6,
    /// Pages of join records. By day.
    JoinRecords = 7,
    /// Sealed Welcomes. By day.
    Welcomes = 8,
    /// Ways into the present segment, sealed to leaves and codes.
    RecoveryRows = 9,
    /// Owners of KeyPackage pools.
    Pools = 10,
    /// KeyPackage sets. By day.
    PoolSets = 11,
    /// Handles with the ids of their inboxes.
    Handles = 12,
    /// Owners of inboxes, and how full these are.
    Inboxes = 13,
    /// Connection requests. By day.
    InboxEntries = 14,
    /// Results of requests. By day.
    Results = 15,
    /// Spent tokens, by issuer key.
    Spent = 16,
    /// Issuer keys that have retired.
    RetiredIssuerKeys = 17,
    /// The store's description of itself: identity, binding to its key file, high-water mark.
    Store = 18,
    /// Heads of segments that are closed. By day.
    ClosedHeads = 19,
    /// What was accepted since the last tick of the feed.
    FeedNotes = 20,
    /// What coarser ticks of the feed will have, and how far all have come.
    FeedPeriods = 21,
    /// Ticks of the feed. By day.
    FeedTicks = 22,
    /// Blobs that are whole. By day.
    Blobs = 23,
    /// Blobs that are being written. By day.
    BlobsInMaking = 24,
}

impl Table {
    /// Every table, in the order of their numbers.
    pub const ALL: [Table; 24] = [
        Self::Groups,
        Self::GroupParts,
        Self::Reservations,
        Self::Heads,
        Self::Handshakes,
        Self::Messages,
        Self::JoinRecords,
        Self::Welcomes,
        Self::RecoveryRows,
        Self::Pools,
        Self::PoolSets,
        Self::Handles,
        Self::Inboxes,
        Self::InboxEntries,
        Self::Results,
        Self::Spent,
        Self::RetiredIssuerKeys,
        Self::Store,
        Self::ClosedHeads,
        Self::FeedNotes,
        Self::FeedPeriods,
        Self::FeedTicks,
        Self::Blobs,
        Self::BlobsInMaking,
    ];

    /// Whether its rows go with their day.
    #[must_use]
    pub const fn has_days(self) -> bool {
        matches!(
            self,
            Self::Reservations
                | Self::Handshakes
                | Self::Messages
                | Self::JoinRecords
                | Self::Welcomes
                | Self::PoolSets
                | Self::InboxEntries
                | Self::Results
                | Self::ClosedHeads
                | Self::FeedTicks
                | Self::Blobs
                | Self::BlobsInMaking
        )
    }

    /// Its name where people see it: metrics, and the names of an engine's own tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Groups => "groups",
            Self::GroupParts => "group_parts",
            Self::Reservations => "reservations",
            Self::Heads => "heads",
            Self::Handshakes => "handshakes",
            Self::Messages => "messages",
            Self::JoinRecords => "join_records",
            Self::Welcomes => "welcomes",
            Self::RecoveryRows => "recovery_rows",
            Self::Pools => "pools",
            Self::PoolSets => "pool_sets",
            Self::Handles => "handles",
            Self::Inboxes => "inboxes",
            Self::InboxEntries => "inbox_entries",
            Self::Results => "results",
            Self::Spent => "spent",
            Self::RetiredIssuerKeys => "retired_issuer_keys",
            Self::Store => "store",
            Self::ClosedHeads => "closed_heads",
            Self::FeedNotes => "feed_notes",
            Self::FeedPeriods => "feed_periods",
            Self::FeedTicks => "feed_ticks",
            Self::Blobs => "blobs",
            Self::BlobsInMaking => "blobs_in_making",
        }
    }
}

/// The full name of a row: table, day and name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The table that the row is in.
    pub table: Table,
    /// The last day on which it is kept, days since the Unix epoch; 0 in tables without days.
    pub day: u32,
    /// Its name there: at most [`Key::MAX_NAME`] bytes.
    pub name: Vec<u8>,
}

impl Key {
    /// Longest name of a row, bytes.
    pub const MAX_NAME: usize = 64;
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {})", self.table.name(), self.day)
    }
}

/// Length of the version that stands before a versioned row's value.
pub const VERSION_LEN: usize = 16;

/// What must hold for a batch to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// There is no such row. One that the batch does not write either is looked at when all others
    /// are held; it may come to be before the batch ends, by a batch that this one need not wait
    /// for.
    Absent(Key),
    /// There is such a row.
    Present(Key),
    /// There is such a row, and its value begins with these bytes.
    Version(Key, [u8; VERSION_LEN]),
}

impl Condition {
    /// The row that it looks at.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::Present(key) | Self::Version(key, _) => key,
        }
    }

    /// Whether it holds of a row's value.
    #[must_use]
    pub fn holds(&self, value: Option<&[u8]>) -> bool {
        match self {
            Self::Absent(_) => value.is_none(),
            Self::Present(_) => value.is_some(),
            Self::Version(_, version) => value.is_some_and(|value| value.starts_with(version)),
        }
    }
}

/// One atomic, durable change: all of it when its conditions hold, none of it else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Looked at in this order; the first that does not hold is reported.
    pub conditions: Vec<Condition>,
    /// Rows to write; they replace existing ones.
    pub puts: Vec<(Key, Vec<u8>)>,
    /// Rows to delete, before the writes; one that is not there is no error.
    pub deletes: Vec<Key>,
}

/// Rows of one table and day whose names begin alike, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    /// The table that is read.
    pub table: Table,
    /// The day; 0 in tables without days.
    pub day: u32,
    /// The first bytes that all names share.
    pub prefix: Vec<u8>,
    /// The first name that counts: itself or a later one.
    pub from: Vec<u8>,
    /// At most so many rows.
    pub limit: usize,
    /// No further row once these many bytes of values are reached; the first row always comes.
    pub max_bytes: usize,
}

/// Name and value of a row in a range.
pub type Row = (Vec<u8>, Vec<u8>);

/// One read of a row or of a range.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Read {
    /// The value of one row.
    Row(Key),
    /// A range of rows.
    Range(Range),
}

/// The result of a [`Read`], of the same kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The row's value, if there is one.
    Row(Option<Vec<u8>>),
    /// The rows, by name.
    Range(Vec<Row>),
}

/// The engine failed; the text is for the operator's trace only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the engine failed: {0}")]
pub struct EngineError(pub String);

/// Why a batch did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// This condition (an index into [`Batch::conditions`]) did not hold.
    #[error("condition {condition} does not hold")]
    Condition {
        /// The index of the condition in [`Batch::conditions`].
        condition: usize,
        /// The value that its row has; none if there is no such row.
        found: Option<Vec<u8>>,
    },
    /// As [`EngineError`]. Whether the batch happened is unknown when the answer of a remote engine
    /// was lost.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What every engine does. A call that was begun is carried out even when nobody waits for it any
/// more.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Carries out each read by itself. A decision states everything that it depends on as a
    /// condition.
    ///
    /// # Errors
    /// [`EngineError`].
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Found>, EngineError>;

    /// Applies a batch: all of it, durable when this returns, or nothing.
    ///
    /// # Errors
    /// [`ApplyError`].
    async fn apply(&self, batch: Batch) -> Result<(), ApplyError>;

    /// Drops the rows of a table with days whose day is before this one.
    ///
    /// # Errors
    /// [`EngineError`]; some rows may be gone then.
    async fn drop_days(&self, table: Table, before: u32) -> Result<(), EngineError>;

    /// Drops the rows of a table without days whose names begin alike.
    ///
    /// # Errors
    /// [`EngineError`]; some rows may be gone then.
    async fn drop_prefix(&self, table: Table, prefix: Vec<u8>) -> Result<(), EngineError>;
}
