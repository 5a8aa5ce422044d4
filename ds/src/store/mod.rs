//! The storage port: what the domain may ask of an engine. Each writing method is one atomic, durable
//! transition: when it returns `Ok`, all of it survives a crash; when it returns `Err`, none of it happened.
//!
//! Engines see row names that are outputs of a keyed PRF ([`crypto::rows`]) and values that are
//! sealed: a store knows days, counts and sizes, nothing else.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod foundation;
pub mod memory;
pub mod postgres;
pub mod rocks;

pub use self::foundation::{
    Begun, Foundation, FoundationError, Note, begin, bind, probe, restored,
};

use async_trait::async_trait;
use crypto::rows::Row;
use protocol::ids::Incarnation;
use protocol::key_packages::MAX_COUNTED;

/// Identifies one state of a group's rows: random, so that it counts nothing.
pub type Version = [u8; 16];

/// Random name of a payload.
pub type PayloadId = [u8; 16];

/// How many sets of a pool, those that expire first, a claim chooses from.
pub(crate) const CLAIM_CANDIDATES: usize = 64;

/// A row that expires with its day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DayRow {
    /// Days since the Unix epoch; stands first in the row's key, so that expiry drops whole ranges.
    pub day: u32,
    /// PRF output or random.
    pub row: Row,
}

/// Why a transition did not happen.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A result is recorded for this very request: here it is; nothing was done again.
    #[error("the request was carried out before")]
    AlreadyDone(Vec<u8>),
    /// One of the tokens was spent before.
    #[error("a token was spent before")]
    TokenSpent,
    /// What the caller read has changed since: another version, a set that was claimed, a queue's record.
    #[error("a concurrent transition was first")]
    Conflict,
    /// The row is there already (group id, queue), or belongs to another owner (handle, pool).
    #[error("the row is taken")]
    Taken,
    /// The row that the transition needs is not there (reservation, handle, pool).
    #[error("the row is absent")]
    Absent,
    /// The engine failed; the text is for the operator's trace only.
    #[error("the engine failed: {0}")]
    Engine(String),
}

/// What stands beside every effect in the same transition: what it cost and what to answer if the
/// request comes again.
#[derive(Debug, Clone, Default)]
pub struct Receipt {
    /// Tokens to spend; if any is spent already, or its issuer key is closed, nothing happens
    /// ([`StoreError::TokenSpent`]).
    pub spends: Vec<Spend>,
    /// The result record. If one is there already nothing happens ([`StoreError::AlreadyDone`]),
    /// whatever else would stand in the way: this check comes first.
    pub result: Option<ResultRecord>,
}

/// A verified token on its way to the spent-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spend {
    /// Partition: dropped whole when the issuer key has expired.
    pub issuer_key_id: [u8; 32],
    /// PRF of the token's nonce.
    pub row: Row,
}

/// An issuer key that is no longer in the issuer's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetiredIssuerKey {
    /// SHA-256 of its SPKI.
    pub id: [u8; 32],
    /// When that was first seen, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Its spent-set was dropped: nothing can be spent under it any more.
    pub closed: bool,
}

/// The sealed result of a request, found by the PRF of its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultRecord {
    /// Day of the request's timestamp.
    pub at: DayRow,
    /// Sealed under a key that only who has the request can derive.
    pub sealed: Vec<u8>,
}

/// A reserved group id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Row of the group id.
    pub at: DayRow,
    /// Keyed digest of the key that reserved it.
    pub owner_tag: [u8; 32],
}

impl Reservation {
    /// Where an earlier reservation of the same id would stand that is still good: its own day and
    /// those beside it (midnight in between, another node's clock).
    pub(crate) fn near(&self) -> impl Iterator<Item = DayRow> + use<> {
        let DayRow { day, row } = self.at;
        (day.saturating_sub(1)..=day.saturating_add(1)).map(move |day| DayRow { day, row })
    }
}

/// Which parts of a group to read beside its roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// The sealed tree: large, only commits and joins need it.
    pub tree: bool,
    /// The sealed pending proposals.
    pub proposals: bool,
}

impl Parts {
    /// The roster alone.
    pub const ROSTER: Self = Self {
        tree: false,
        proposals: false,
    };
    /// Roster and tree.
    pub const WITH_TREE: Self = Self {
        tree: true,
        proposals: false,
    };
    /// Roster and pending proposals.
    pub const WITH_PROPOSALS: Self = Self {
        tree: false,
        proposals: true,
    };
    /// All there is.
    pub const ALL: Self = Self {
        tree: true,
        proposals: true,
    };
}

/// A group as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredGroup {
    /// Of all parts.
    pub version: Version,
    /// Sealed roster.
    pub roster: Vec<u8>,
    /// Sealed tree, if it was asked for.
    pub tree: Option<Vec<u8>>,
    /// Sealed pending proposals, if they were asked for and there are any.
    pub proposals: Option<Vec<u8>>,
}

/// The creation of a group.
#[derive(Debug, Clone)]
pub struct NewGroup {
    /// Row of the group id.
    pub group: Row,
    /// Days on which the reservation may stand, in the order to look.
    pub reservation_days: Vec<u32>,
    /// Must be the reservation's.
    pub owner_tag: [u8; 32],
    /// First version.
    pub version: Version,
    /// What tells whether a state key is the group's.
    pub key_check: Vec<u8>,
    /// Sealed roster.
    pub roster: Vec<u8>,
    /// Sealed tree.
    pub tree: Vec<u8>,
}

/// The next state of a group with everything that must happen with it.
#[derive(Debug, Clone)]
pub struct Advance {
    /// Row of the group id.
    pub group: Row,
    /// The version that the decision was made on.
    pub expected: Version,
    /// Version from now on.
    pub next: Version,
    /// What tells whether a state key is the group's from now on.
    pub key_check: Vec<u8>,
    /// Sealed roster.
    pub roster: Vec<u8>,
    /// Sealed tree; `None` leaves it as it is.
    pub tree: Option<Vec<u8>>,
    /// What becomes of the pending proposals.
    pub proposals: ProposalsChange,
    /// Join record of the new epoch.
    pub join_record: Option<(DayRow, Vec<u8>)>,
    /// Join records that nobody needs any more, to delete.
    pub dropped_join_records: Vec<DayRow>,
    /// Recovery records to write (over earlier ones).
    pub recovery_records: Vec<(Row, Vec<u8>)>,
    /// Recovery records of removed leaves, to delete.
    pub dropped_recovery_records: Vec<Row>,
    /// What goes into queues.
    pub deliveries: Deliveries,
}

/// What becomes of a group's pending proposals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ProposalsChange {
    /// They stay as they are.
    #[default]
    Keep,
    /// These, sealed, in place of all earlier ones.
    Put(Vec<u8>),
    /// None are left.
    Clear,
}

/// The end of a group with everything that must happen with it.
#[derive(Debug, Clone)]
pub struct GroupDeletion {
    /// Row of the group id.
    pub group: Row,
    /// The version that the decision was made on.
    pub expected: Version,
    /// Recovery records of all leaves, to delete.
    pub dropped_recovery_records: Vec<Row>,
    /// Join records that are still there, to delete.
    pub dropped_join_records: Vec<DayRow>,
    /// What tells the members.
    pub deliveries: Deliveries,
}

/// Inserts into queues. Never reads or overwrites a row.
#[derive(Debug, Clone, Default)]
pub struct Deliveries {
    /// Payloads, each once.
    pub payloads: Vec<NewPayload>,
    /// One entry for each recipient.
    pub entries: Vec<(DayRow, Vec<u8>)>,
    /// Markers of stream blocks that get their first entry; inserting one twice is no error.
    pub blocks: Vec<DayRow>,
}

/// A payload with the number of entries that point to it.
#[derive(Debug, Clone)]
pub struct NewPayload {
    /// Random.
    pub at: DayRow,
    /// Sealed under its one-time key.
    pub sealed: Vec<u8>,
    /// Entries in the same transition that point to it.
    pub references: u32,
}

/// One KeyPackage set for a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKeyPackageSet {
    /// Random.
    pub id: [u8; 16],
    /// MLS ciphersuite.
    pub ciphersuite: u16,
    /// Last day on which it may be handed out.
    pub expiry_day: u32,
    /// Replaces the pool's last-resort set of this ciphersuite; not consumed by claims.
    pub last_resort: bool,
    /// Sealed by its owner.
    pub sealed: Vec<u8>,
}

/// A set that can be claimed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimableSet {
    /// What to consume; `None` for the last-resort set.
    pub consume: Option<ConsumedSet>,
    /// Sealed by its owner.
    pub sealed: Vec<u8>,
}

/// Sets of a pool of one ciphersuite and kind that expire on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetCount {
    /// MLS ciphersuite.
    pub ciphersuite: u16,
    /// Last day on which they are handed out.
    pub expiry_day: u32,
    /// The kind.
    pub last_resort: bool,
    /// How many.
    pub sets: u32,
}

impl SetCount {
    /// Counts sets that come in the order of their ciphersuites and days.
    fn add(counts: &mut Vec<Self>, ciphersuite: u16, expiry_day: u32) {
        match counts.last_mut() {
            Some(last) if (last.ciphersuite, last.expiry_day) == (ciphersuite, expiry_day) => {
                last.sets = last.sets.saturating_add(1);
            }
            _ => counts.push(Self {
                ciphersuite,
                expiry_day,
                last_resort: false,
                sets: 1,
            }),
        }
    }
}

/// Names one set of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumedSet {
    /// Pool.
    pub pool: Row,
    /// MLS ciphersuite.
    pub ciphersuite: u16,
    /// Expiry day.
    pub expiry_day: u32,
    /// Set.
    pub id: [u8; 16],
}

/// Days before which rows are dropped.
#[derive(Debug, Clone, Copy)]
pub struct ExpiryDays {
    /// Entries, payloads, block markers, incarnations.
    pub queues: u32,
    /// Result records.
    pub results: u32,
    /// Join records.
    pub join_records: u32,
    /// Reservations.
    pub reservations: u32,
    /// KeyPackage sets whose expiry day is before this one.
    pub key_packages: u32,
}

/// An engine. Order of the checks in every transition with a [`Receipt`]: recorded result, tokens,
/// then the condition of the method.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The recorded result of a request.
    async fn result(&self, at: DayRow) -> Result<Option<Vec<u8>>, StoreError>;

    /// Invariant: a group id is reserved once. [`StoreError::Taken`] if the id is reserved or in use. An
    /// earlier reservation counts from the day before on, so none may be good for longer than that; one
    /// that does not count any more may go.
    async fn reserve_group(
        &self,
        reservation: Reservation,
        receipt: Receipt,
    ) -> Result<(), StoreError>;

    /// Invariant: a group is created once, by who reserved its id; the reservation is consumed.
    /// [`StoreError::Absent`] without a reservation of this owner, [`StoreError::Taken`] if the id is in use
    /// or the group was deleted.
    async fn create_group(&self, group: NewGroup, receipt: Receipt) -> Result<(), StoreError>;

    /// Invariant: a reservation pays for one look at a tree. Consumes a group id's reservation of this owner, on any of
    /// these days, without a group; [`StoreError::Absent`] if there is none.
    async fn use_up_reservation(
        &self,
        group: Row,
        reservation_days: Vec<u32>,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError>;

    /// The owner tag of the first of these reservations that stands.
    async fn reservation(&self, at: Vec<DayRow>) -> Result<Option<[u8; 32]>, StoreError>;

    /// What tells whether a state key is the group's: a short row, so that a wrong key costs the same
    /// look as a group that is not there. `None` also for a deleted group.
    async fn key_check(&self, group: Row) -> Result<Option<Vec<u8>>, StoreError>;

    /// A view of a group's parts, all of one version. `None` also for a deleted group.
    async fn group(&self, group: Row, parts: Parts) -> Result<Option<StoredGroup>, StoreError>;

    /// Invariant: one successor for each version; state, records and every queue entry, or nothing.
    /// [`StoreError::Conflict`] if the version is not the expected one (or the group is gone).
    async fn advance_group(&self, advance: Advance, receipt: Receipt) -> Result<(), StoreError>;

    /// Invariant: afterwards nothing of the group is stored but a tombstone under its row, for which every
    /// method answers as if the group never were, except that its id stays in use.
    /// [`StoreError::Conflict`] if the version is not the expected one (or the group is gone).
    async fn delete_group(
        &self,
        deletion: GroupDeletion,
        receipt: Receipt,
    ) -> Result<(), StoreError>;

    /// Invariant: a message reaches all queues or none, and only while the group has this version.
    /// Messages to one group don't exclude each other. [`StoreError::Conflict`] otherwise.
    async fn deliver_to_group(
        &self,
        group: Row,
        expected: Version,
        deliveries: Deliveries,
        receipt: Receipt,
    ) -> Result<(), StoreError>;

    /// Delivers outside of groups (connection requests).
    async fn deliver(&self, deliveries: Deliveries, receipt: Receipt) -> Result<(), StoreError>;

    /// The join record at the first of these rows that has one.
    async fn join_record(&self, at: Vec<DayRow>) -> Result<Option<Vec<u8>>, StoreError>;

    /// The recovery record.
    async fn recovery_record(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError>;

    /// Invariant: a queue is created once. [`StoreError::Taken`] otherwise.
    async fn create_queue(
        &self,
        row: Row,
        sealed: Vec<u8>,
        receipt: Receipt,
    ) -> Result<(), StoreError>;

    /// A queue's record.
    async fn queue(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError>;

    /// The records of many queues, in the order asked for.
    async fn queues(&self, rows: Vec<Row>) -> Result<Vec<Option<Vec<u8>>>, StoreError>;

    /// Invariant: one successor for each record of a queue. Replaces the record, or with `None` deletes the
    /// queue, whose name is then free. [`StoreError::Conflict`] unless these very bytes are stored.
    async fn replace_queue(
        &self,
        row: Row,
        expected: Vec<u8>,
        sealed: Option<Vec<u8>>,
        receipt: Receipt,
    ) -> Result<(), StoreError>;

    /// Makes an incarnation known for a day, before its first entry of that day.
    async fn register_incarnation(
        &self,
        day: u32,
        incarnation: Incarnation,
    ) -> Result<(), StoreError>;

    /// Every incarnation with the days that it wrote on, oldest day first.
    async fn incarnations(&self) -> Result<Vec<(u32, Incarnation)>, StoreError>;

    /// Which of these block markers are there.
    async fn blocks(&self, at: Vec<DayRow>) -> Result<Vec<bool>, StoreError>;

    /// The entries at these rows.
    async fn entries(&self, at: Vec<DayRow>) -> Result<Vec<Option<Vec<u8>>>, StoreError>;

    /// The payloads with these names.
    async fn payloads(&self, at: Vec<DayRow>) -> Result<Vec<Option<Vec<u8>>>, StoreError>;

    /// Invariant: each entry gives up its payload once. Deletes the entries that are still there and
    /// lowers the reference count of the payload named beside each of those; a payload goes with its
    /// last reference. Entries that are gone are passed over.
    async fn acknowledge(&self, entries: Vec<(DayRow, DayRow)>) -> Result<(), StoreError>;

    /// Invariant: a pool has one owner. Creates the pool for this owner or adds to it;
    /// [`StoreError::Taken`] if it belongs to another.
    async fn publish_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        sets: Vec<NewKeyPackageSet>,
        receipt: Receipt,
    ) -> Result<(), StoreError>;

    /// Invariant: afterwards no set of the pool is handed out, a last-resort one neither, and its name is
    /// free. [`StoreError::Taken`] if it belongs to another owner, [`StoreError::Absent`] if there is none.
    async fn delete_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError>;

    /// What the pool can hand out on day `today` and later, the first [`MAX_COUNTED`] sets of it: those that
    /// are consumed, by ciphersuite and day, then those of last resort. [`StoreError::Taken`] and
    /// [`StoreError::Absent`] as when it is deleted.
    async fn count_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        today: u32,
    ) -> Result<Vec<SetCount>, StoreError>;

    /// A set of the pool that can be claimed now, the last-resort set only if no other is there. `today` excludes expired ones. `pick` is random and chooses where to
    /// start among the sets, so that concurrent claimers seldom meet.
    async fn claimable_set(
        &self,
        pool: Row,
        ciphersuite: u16,
        today: u32,
        pick: u64,
    ) -> Result<Option<ClaimableSet>, StoreError>;

    /// Invariant: a set is handed out once. All of these sets are consumed, or none:
    /// [`StoreError::Conflict`] if any is gone.
    async fn claim_key_packages(
        &self,
        sets: Vec<ConsumedSet>,
        receipt: Receipt,
    ) -> Result<(), StoreError>;

    /// Invariant: a handle has one owner, who may replace its record. [`StoreError::Taken`] for another.
    async fn register_handle(
        &self,
        row: Row,
        owner_tag: [u8; 32],
        sealed: Vec<u8>,
        receipt: Receipt,
    ) -> Result<(), StoreError>;

    /// A handle's sealed record.
    async fn handle(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError>;

    /// Invariant: only its owner frees a handle. [`StoreError::Taken`] for another, [`StoreError::Absent`] if
    /// there is none.
    async fn delete_handle(
        &self,
        row: Row,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError>;

    /// Whether any of these tokens is spent: a cheap read, before the work that they pay for. The
    /// transition that spends them decides.
    async fn is_spent(&self, spends: Vec<Spend>) -> Result<bool, StoreError>;

    /// Records results and spends that have no other effect (e.g. a look-up that costs a token, an
    /// allowance bought with one).
    async fn settle(&self, receipt: Receipt) -> Result<(), StoreError>;

    /// Drops expired days whole.
    async fn expire(&self, before: ExpiryDays) -> Result<(), StoreError>;

    /// The issuer keys that have a spent-set.
    async fn spent_issuer_keys(&self) -> Result<Vec<[u8; 32]>, StoreError>;

    /// Notes since when an issuer key is gone; an earlier note stays, so that restarts and other nodes do
    /// not begin anew.
    async fn retire_issuer_key(
        &self,
        issuer_key_id: [u8; 32],
        since_ms: u64,
    ) -> Result<(), StoreError>;

    /// Forgets that note: the key is back. A closed key stays closed.
    async fn readmit_issuer_key(&self, issuer_key_id: [u8; 32]) -> Result<(), StoreError>;

    /// The issuer keys that are noted as gone, the closed ones too.
    async fn retired_issuer_keys(&self) -> Result<Vec<RetiredIssuerKey>, StoreError>;

    /// Invariant: no token is spent twice, also not under a key that comes back. Closes an issuer key for
    /// good, then drops its spent-set. After a crash in between the key is closed and the rest of its
    /// set is there.
    async fn drop_spent(&self, issuer_key_id: [u8; 32]) -> Result<(), StoreError>;

    /// Whether the engine answers: a cheap read.
    async fn check(&self) -> Result<(), StoreError>;
}
