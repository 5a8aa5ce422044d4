//! Transitions: everything that can happen to the store, each named for what it keeps true. They
//! are lowered to a batch in [`lowering`], once for all engines.

mod lowering;

use crypto::journal::End;
use protocol::codec::opaque;
use protocol::group::GroupKind;
use protocol::ids::{Day, InboxEntryId, Position, SegmentId, Step};
use protocol::journal::{CONNECTION_HANDSHAKE_DAYS, Class, Entry, HANDSHAKE_DAYS};
use protocol::problem::ProblemType;

use crate::engine::{Batch, Condition, Key};
use crate::env::Version;
use crate::rows::{
    GroupRow, HandleRow, InboxRow, JoinRecordRow, Owner, Part, PoolRow, RecoveryRow,
    ReservationRow, ResultRow, Rows, SegmentRow, WelcomeRow, retired_issuer_key,
};
use crate::tokens::Spend;

/// A change of the store. All of it happens, or nothing.
#[derive(Debug, Clone)]
pub enum Transition {
    /// A group id is reserved once, while it is neither reserved nor in use.
    ReserveGroup(ReserveGroup),
    /// A reservation pays for one look at a tree: it is used up without a group.
    UseUpReservation(ReservationName),
    /// A group is created once, by the owner of its reservation, which is used up.
    CreateGroup(Box<CreateGroup>),
    /// An entry is appended while the group has this version and the segment this end.
    Append(Box<Append>),
    /// One successor for each version of a group: its state, its journal and its records, together.
    ChangeGroup(Box<ChangeGroup>),
    /// Nothing of a group is left but its journal, which is closed, and a tombstone.
    DeleteGroup(Box<DeleteGroup>),
    /// Ways into the group's present segment, for leaves.
    PutRecoveryRows(PutRecoveryRows),
    /// Sets are added to a pool of one owner.
    PublishKeyPackages(PublishKeyPackages),
    /// Each set is handed out once.
    ClaimKeyPackages(ClaimKeyPackages),
    /// A pool is gone with all its sets.
    DeletePool(DeletePool),
    /// A handle has one owner, and one inbox.
    RegisterHandle(RegisterHandle),
    /// A handle is free again, and its inbox gone.
    DeleteHandle(DeleteHandle),
    /// A request is in an inbox while its handle leads there.
    PutIntoInbox(PutIntoInbox),
    /// Requests are gone from an inbox.
    DeleteFromInbox(DeleteFromInbox),
    /// A blob that can be written: of one writer, and of this id no other one.
    CreateBlob(CreateBlob),
    /// A blob that was written is whole, once: it can be read, and nothing of it written.
    CompleteBlob(CompleteBlob),
    /// A blob is gone.
    DeleteBlob(DeleteBlob),
    /// Only the receipt: a request that is refused after work.
    Settle,
}

/// A reservation: found on the day of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservationName {
    /// The row of the reservation.
    pub row: ReservationRow,
    /// The last day on which it is good.
    pub last_day: Day,
}

/// Contents of [`Transition::ReserveGroup`].
#[derive(Debug, Clone)]
pub struct ReserveGroup {
    /// The new reservation.
    pub name: ReservationName,
    /// The row of the group with this id, which must be absent.
    pub group: GroupRow,
    /// The key that may use the reservation.
    pub owner: Owner,
}

/// A versioned value.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// 16 random bytes, new with every write.
    pub version: Version,
    /// The value, sealed.
    pub sealed: Vec<u8>,
}

impl Versioned {
    /// As it is stored.
    #[must_use]
    pub fn into_value(self) -> Vec<u8> {
        [&self.version.0[..], &self.sealed].concat()
    }

    /// From a stored value.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<(Version, &[u8])> {
        let (version, sealed) = value.split_first_chunk()?;
        Some((Version(*version), sealed))
    }
}

/// Contents of [`Transition::CreateGroup`].
#[derive(Debug, Clone)]
pub struct CreateGroup {
    /// The row of the group.
    pub group: GroupRow,
    /// The reservation that is used up.
    pub reservation: ReservationName,
    /// The short part of the group.
    pub short: Versioned,
    /// The other parts of the group, sealed.
    pub parts: Vec<(Part, Vec<u8>)>,
    /// The head of the first segment.
    pub head: NewHead,
}

/// A segment that begins.
#[derive(Debug, Clone)]
pub struct NewHead {
    /// The segment, which no group has.
    pub segment: SegmentRow,
    /// The head of the segment, sealed.
    pub head: Versioned,
}

/// A segment that goes on.
#[derive(Debug, Clone)]
pub struct NextHead {
    /// The segment that goes on or ends.
    pub segment: SegmentRow,
    /// The head that the decision was made on.
    pub expected: Version,
    /// The head from now on.
    pub head: Versioned,
    /// Nothing follows: it is kept until the end of this day.
    pub closed_until: Option<Day>,
    /// That it has gone on, for the feed.
    pub note: Option<(Key, Vec<u8>)>,
}

/// An entry that is appended.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// The segment that the entry is in.
    pub segment: SegmentRow,
    /// The entry's position in the segment.
    pub position: Position,
    /// The day that it is accepted on: never before the entry before it.
    pub day: Day,
    /// The value that is kept as long as a handshake: the sealed row, or the hash of a message.
    pub handshake: Vec<u8>,
    /// A message's sealed row.
    pub message: Option<Vec<u8>>,
    /// How long both values are kept.
    pub kept: Kept,
}

impl NewEntry {
    /// Bytes of what is kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.handshake.len() + self.message.as_ref().map_or(0, Vec::len)
    }

    /// Whether there is nothing to keep, which is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry as a reader is shown it.
    #[must_use]
    pub fn shown(&self) -> Entry {
        match &self.message {
            Some(sealed) => Entry::Message(opaque(sealed.as_slice())),
            None => Entry::Handshake(opaque(self.handshake.get(1..).unwrap_or_default())),
        }
    }

    /// Adds the entry's rows to a batch.
    pub fn puts(self, batch: &mut Batch) {
        let kept_until = self.kept.handshake(self.day);
        batch.puts.push((
            self.segment.handshake(kept_until, self.position),
            self.handshake,
        ));
        if let Some(sealed) = self.message {
            let kept_until = self.kept.message(self.day);
            batch
                .puts
                .push((self.segment.message(kept_until, self.position), sealed));
        }
    }
}

/// What a transition appends to a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The name of the segment's row.
    pub segment: SegmentRow,
    /// What its followers are told; none where it is too long to be handed on.
    pub stretch: Option<Stretch>,
}

/// New entries of a segment, as they are stored, and its end after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The segment's id.
    pub segment: SegmentId,
    pub end: End,
    /// Commits in the segment.
    pub step: Step,
    /// Whether the last entry has closed it.
    pub closed: bool,
    /// The position of the first entry.
    pub first: Position,
    /// Dense from there on.
    pub entries: Vec<Entry>,
    /// Bytes of a frame of whoever begins to follow the segment now.
    pub frame_len: usize,
}

impl Stretch {
    /// Entries that are longer together are read from the store by whoever follows the segment.
    pub const MOST_BYTES: usize = 64 * 1024;
}

/// Days that the entries of a segment are kept, by their class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Days that messages are kept.
    pub messages: u16,
    /// Days that handshakes and the hashes of messages are kept.
    pub handshakes: u16,
}

impl Kept {
    /// At least as long as any segment keeps its entries.
    pub const LONGEST: Self = Self {
        messages: u16::MAX,
        handshakes: CONNECTION_HANDSHAKE_DAYS,
    };

    /// In a group that keeps its messages for so many days.
    #[must_use]
    pub fn of(kind: GroupKind, messages: u16) -> Self {
        let handshakes = match kind {
            GroupKind::Connection => CONNECTION_HANDSHAKE_DAYS,
            GroupKind::Group | GroupKind::SingleUser => HANDSHAKE_DAYS,
        };
        Self {
            messages,
            handshakes,
        }
    }

    /// The last day on which a handshake of a day is kept.
    #[must_use]
    pub fn handshake(self, day: Day) -> Day {
        Day(day.0.saturating_add(u32::from(self.handshakes)))
    }

    /// The last day on which a message of a day is kept.
    #[must_use]
    pub fn message(self, day: Day) -> Day {
        Day(day.0.saturating_add(u32::from(self.messages)))
    }
}

/// The first byte of a handshake row, by which a reader knows its class.
#[must_use]
pub fn class_byte(class: Class) -> u8 {
    class as u8
}

/// Contents of [`Transition::Append`].
#[derive(Debug, Clone)]
pub struct Append {
    /// The row of the group.
    pub group: GroupRow,
    /// The version of the group that the decision was made on.
    pub expected: Version,
    /// The segment's head from now on.
    pub head: NextHead,
    /// The entry that is appended.
    pub entry: NewEntry,
}

/// Contents of [`Transition::ChangeGroup`].
#[derive(Debug, Clone)]
pub struct ChangeGroup {
    /// The row of the group.
    pub group: GroupRow,
    /// The version that the decision was made on.
    pub expected: Version,
    /// Its short part from now on.
    pub short: Versioned,
    /// Parts that change, sealed.
    pub parts: Vec<(Part, Vec<u8>)>,
    /// Parts that are gone.
    pub dropped_parts: Vec<Part>,
    /// The segment that goes on, or ends.
    pub head: Option<NextHead>,
    /// The segment that begins.
    pub begins: Option<NewHead>,
    /// The entries that are appended, in this order.
    pub entries: Vec<NewEntry>,
    /// Pages of the join record of the new epoch.
    pub join_record: Option<(JoinRecordRow, Day, Vec<Vec<u8>>)>,
    /// Welcomes of the new epoch.
    pub welcomes: Vec<(WelcomeRow, Day, Vec<u8>)>,
    /// Ways into the segment that begins.
    pub recovery_rows: Vec<(RecoveryRow, Vec<u8>)>,
    /// Rows of leaves and codes that are gone.
    pub dropped_recovery_rows: Vec<RecoveryRow>,
    /// Another group's id, which must be reserved: of the group that takes this one's place.
    pub successor: Option<ReservationName>,
}

/// Contents of [`Transition::DeleteGroup`].
#[derive(Debug, Clone)]
pub struct DeleteGroup {
    /// The row of the group.
    pub group: GroupRow,
    /// The version that the decision was made on.
    pub expected: Version,
    /// The value that takes the place of the short part for ever.
    pub tombstone: Versioned,
    /// All parts that the group has.
    pub parts: Vec<Part>,
    /// The head of the segment, closed.
    pub head: NextHead,
    /// The last entry of the segment.
    pub entry: NewEntry,
    /// All recovery rows of the group.
    pub dropped_recovery_rows: Vec<RecoveryRow>,
}

/// Contents of [`Transition::PutRecoveryRows`].
#[derive(Debug, Clone)]
pub struct PutRecoveryRows {
    /// The row of the group.
    pub group: GroupRow,
    /// The version that the decision was made on.
    pub expected: Version,
    /// The names and values of the recovery rows.
    pub rows: Vec<(RecoveryRow, Vec<u8>)>,
}

/// Contents of [`Transition::PublishKeyPackages`].
#[derive(Debug, Clone)]
pub struct PublishKeyPackages {
    /// The row of the pool.
    pub pool: PoolRow,
    /// The pool's record as it was read; none if there was none.
    pub expected: Option<Version>,
    /// Its record from now on.
    pub record: Versioned,
    /// Last day, ciphersuite, random id, sealed set.
    pub sets: Vec<(Day, u16, [u8; 16], Vec<u8>)>,
}

/// Contents of [`Transition::ClaimKeyPackages`].
#[derive(Debug, Clone)]
pub struct ClaimKeyPackages {
    /// Keys of the sets.
    pub sets: Vec<Key>,
}

/// Contents of [`Transition::DeletePool`].
#[derive(Debug, Clone)]
pub struct DeletePool {
    /// The row of the pool.
    pub pool: PoolRow,
    /// Its record as it was read.
    pub expected: Version,
    /// Keys of all its sets.
    pub sets: Vec<Key>,
}

/// Contents of [`Transition::RegisterHandle`].
#[derive(Debug, Clone)]
pub struct RegisterHandle {
    /// The row of the handle.
    pub handle: HandleRow,
    /// Its record as it was read; none if there was none.
    pub expected: Option<Version>,
    /// Its record from now on.
    pub record: Versioned,
    /// The row of the inbox that the handle leads to.
    pub inbox: InboxRow,
    /// Its record as it was read; none if there was none.
    pub expected_inbox: Option<Version>,
    /// The inbox's record from now on.
    pub inbox_record: Versioned,
    /// The inbox that the handle had before and leaves, with the record that it goes by.
    pub left: Option<InboxRow>,
}

/// Contents of [`Transition::DeleteHandle`].
#[derive(Debug, Clone)]
pub struct DeleteHandle {
    /// The row of the handle.
    pub handle: HandleRow,
    /// Its record as it was read.
    pub expected: Version,
    /// The row of its inbox.
    pub inbox: InboxRow,
    /// Keys of the inbox's requests.
    pub requests: Vec<Key>,
}

/// Contents of [`Transition::PutIntoInbox`].
#[derive(Debug, Clone)]
pub struct PutIntoInbox {
    /// The row of the handle.
    pub handle: HandleRow,
    /// Its record as it was read.
    pub expected: Version,
    /// The inbox, and the record of its fill as it was read.
    pub inbox: (InboxRow, Version),
    /// Its record from now on.
    pub record: Versioned,
    /// The day that the request expires on.
    pub last_day: Day,
    /// A random id by which the owner deletes the request.
    pub id: InboxEntryId,
    /// The request, sealed once more for the store.
    pub request: Vec<u8>,
}

/// Contents of [`Transition::DeleteFromInbox`].
#[derive(Debug, Clone)]
pub struct DeleteFromInbox {
    /// The inbox, and its record as it was read.
    pub inbox: (InboxRow, Version),
    /// Its record from now on.
    pub record: Versioned,
    /// Keys of the requests.
    pub requests: Vec<Key>,
}

/// Contents of [`Transition::CreateBlob`].
#[derive(Debug, Clone)]
pub struct CreateBlob {
    /// The row of the blob while it is written.
    pub making: Key,
    /// The row that it will have.
    pub whole: Key,
    /// The record in either.
    pub record: Vec<u8>,
}

/// Contents of [`Transition::CompleteBlob`].
#[derive(Debug, Clone)]
pub struct CompleteBlob {
    /// The row that it has.
    pub making: Key,
    /// The row from now on.
    pub whole: Key,
    /// The record in either.
    pub record: Vec<u8>,
}

/// Contents of [`Transition::DeleteBlob`].
#[derive(Debug, Clone)]
pub struct DeleteBlob {
    /// The row that it has.
    pub row: Key,
}

/// The receipt beside a transition: its price, and the answer if the request comes again. Only
/// [`crate::execution`] makes one, of tokens that were verified.
#[derive(Debug)]
pub struct Receipt {
    spends: Vec<Spend>,
    result: Option<(ResultRow, Day, Vec<u8>)>,
}

/// Which condition of a batch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// The request was carried out before.
    AlreadyDone,
    /// A token was spent before, or its issuer key is closed.
    TokenSpent,
    /// Another change was first.
    Conflict,
}

impl Receipt {
    pub(crate) fn new(spends: Vec<Spend>, result: Option<(ResultRow, Day, Vec<u8>)>) -> Self {
        Self { spends, result }
    }

    /// How many tokens are spent.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.spends.len()
    }

    /// The meaning of a failed condition of this receipt's batch.
    #[must_use]
    pub fn failed(&self, condition: usize) -> Failed {
        let results = usize::from(self.result.is_some());
        if condition < results {
            Failed::AlreadyDone
        } else if condition < results + 2 * self.spends.len() {
            Failed::TokenSpent
        } else {
            Failed::Conflict
        }
    }

    /// The batch of a transition with this receipt. Order of the conditions: recorded result,
    /// tokens, then the transition's own.
    #[must_use]
    pub fn batch(&self, rows: &Rows<'_>, transition: Transition) -> Batch {
        let mut batch = Batch::default();
        if let Some((row, last_day, sealed)) = &self.result {
            let key = row.key(*last_day);
            batch.conditions.push(Condition::Absent(key.clone()));
            batch.puts.push((key, sealed.clone()));
        }
        for token in &self.spends {
            let spent = rows.spent(token.nonce_digest()).key(token.issuer_key_id());
            batch.conditions.push(Condition::Absent(spent.clone()));
            batch
                .conditions
                .push(Condition::Absent(closed_issuer_key(token.issuer_key_id())));
            batch.puts.push((spent, Vec::new()));
        }
        transition.lower(&mut batch);
        batch
    }
}

/// Stands while nothing can be spent under an issuer key any more.
#[must_use]
pub fn closed_issuer_key(id: &[u8; 32]) -> Key {
    let mut key = retired_issuer_key(id);
    key.name.push(1);
    key
}

impl Transition {
    /// Names of all.
    pub const NAMES: [&'static str; 18] = [
        "reserve_group",
        "use_up_reservation",
        "create_group",
        "append",
        "change_group",
        "delete_group",
        "put_recovery_rows",
        "publish_key_packages",
        "claim_key_packages",
        "delete_pool",
        "register_handle",
        "delete_handle",
        "put_into_inbox",
        "delete_from_inbox",
        "create_blob",
        "complete_blob",
        "delete_blob",
        "settle",
    ];

    /// Its name, for metrics and crash points.
    #[must_use]
    pub fn name(&self) -> &'static str {
        let at = match self {
            Self::ReserveGroup(_) => 0,
            Self::UseUpReservation(_) => 1,
            Self::CreateGroup(_) => 2,
            Self::Append(_) => 3,
            Self::ChangeGroup(_) => 4,
            Self::DeleteGroup(_) => 5,
            Self::PutRecoveryRows(_) => 6,
            Self::PublishKeyPackages(_) => 7,
            Self::ClaimKeyPackages(_) => 8,
            Self::DeletePool(_) => 9,
            Self::RegisterHandle(_) => 10,
            Self::DeleteHandle(_) => 11,
            Self::PutIntoInbox(_) => 12,
            Self::DeleteFromInbox(_) => 13,
            Self::CreateBlob(_) => 14,
            Self::CompleteBlob(_) => 15,
            Self::DeleteBlob(_) => 16,
            Self::Settle => 17,
        };
        Self::NAMES.get(at).copied().unwrap_or("unnamed")
    }
}

/// The problem of a spent token.
pub const TOKEN_SPENT: ProblemType = ProblemType::TokenRejected;
