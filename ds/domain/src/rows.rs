//! Names of rows: a type for each kind, each the output of a PRF under the storage key.

use crypto::rows::RowKeys;
use protocol::ids::{
    BlobId, Day, GroupId, InboxEntryId, InboxId, JoinRecordId, LeafIndex, PoolId, Position,
    RecoveryRowId, SegmentId, WelcomeId,
};
use sha2::{Digest as _, Sha256};

use crate::engine::{Key, Range, Table};

/// What all kinds of row have.
trait NamesRow {
    const TABLE: Table;
    fn name(&self) -> &[u8; 16];

    fn key_on(&self, day: u32) -> Key {
        Key {
            table: Self::TABLE,
            day,
            name: self.name().to_vec(),
        }
    }
}

macro_rules! rows {
    ($($(#[$doc:meta])* $name:ident, $table:ident;)+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
            pub struct $name([u8; 16]);

            impl std::fmt::Debug for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(concat!(stringify!($name), "(..)"))
                }
            }

            impl NamesRow for $name {
                const TABLE: Table = Table::$table;
                fn name(&self) -> &[u8; 16] {
                    &self.0
                }
            }
        )+
    };
}

macro_rules! dayless {
    ($($name:ident)+) => {
        $(impl $name {
            /// The row's key.
            #[must_use]
            pub fn key(self) -> Key {
                self.key_on(0)
            }
        })+
    };
}

macro_rules! daily {
    ($($name:ident)+) => {
        $(impl $name {
            /// The row's key; it is kept until the end of this day.
            #[must_use]
            pub fn key(self, last_day: Day) -> Key {
                self.key_on(last_day.0)
            }
        })+
    };
}

rows! {
    /// The row of a group's short part.
    GroupRow, Groups;
    /// A reserved group id.
    ReservationRow, Reservations;
    /// The row of a segment's head. The names of its entries begin with it.
    SegmentRow, Heads;
    /// The pages of a join record.
    JoinRecordRow, JoinRecords;
    WelcomeRow, Welcomes;
    /// The way into the present segment for one leaf or code.
    RecoveryRow, RecoveryRows;
    /// A pool of KeyPackages.
    PoolRow, Pools;
    /// The row of a handle's record.
    HandleRow, Handles;
    /// The row of an inbox, and of the requests in it.
    InboxRow, Inboxes;
    /// A blob. Its chunks lie under the same name.
    BlobRow, Blobs;
    /// The result of a request.
    ResultRow, Results;
    /// The row of a spent token.
    SpentRow, Spent;
}

dayless! { GroupRow SegmentRow RecoveryRow PoolRow HandleRow InboxRow }
daily! { ReservationRow WelcomeRow ResultRow BlobRow }

/// Parts of a group's state, beside the short one. The number is the part's name in its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Sixty-four leaves: those from `64 * page` on.
    Roster(u16),
    /// What only commits and joins need of the roster: recent commits, codes, the wrapper chain.
    Control,
    /// Nine bytes for each leaf: the week of its last commit, and its recovery key in short.
    Marks,
    /// The public group (RFC 9420 §12.4.3.3), as it was last written whole.
    Tree,
    /// The proposals that are pending in this epoch.
    Proposals,
    /// The changes of the public group since it was last written whole.
    TreeChanges,
}

impl Part {
    /// Its name in a row, and in the place that it is sealed for.
    #[must_use]
    pub fn number(self) -> [u8; 3] {
        let (kind, page) = match self {
            Self::Roster(page) => (1, page),
            Self::Control => (2, 0),
            Self::Marks => (3, 0),
            Self::Tree => (4, 0),
            Self::Proposals => (5, 0),
            Self::TreeChanges => (6, 0),
        };
        let [high, low] = page.to_be_bytes();
        [kind, high, low]
    }
}

impl GroupRow {
    /// The key of one of its parts.
    #[must_use]
    pub fn part(self, part: Part) -> Key {
        Key {
            table: Table::GroupParts,
            day: 0,
            name: [&self.0[..], &part.number()].concat(),
        }
    }
}

impl SegmentRow {
    fn at(self, position: Position) -> Vec<u8> {
        [&self.0[..], &position.0.to_be_bytes()].concat()
    }

    /// The key of its head once it is closed; it is kept until the end of this day.
    #[must_use]
    pub fn closed(self, last_day: Day) -> Key {
        Key {
            table: Table::ClosedHeads,
            day: last_day.0,
            name: self.0.to_vec(),
        }
    }

    /// A handshake at this position, or the hash of the message there.
    #[must_use]
    pub fn handshake(self, last_day: Day, position: Position) -> Key {
        Key {
            table: Table::Handshakes,
            day: last_day.0,
            name: self.at(position),
        }
    }

    /// The message at this position.
    #[must_use]
    pub fn message(self, last_day: Day, position: Position) -> Key {
        Key {
            table: Table::Messages,
            day: last_day.0,
            name: self.at(position),
        }
    }

    /// Rows of one day from a position on.
    #[must_use]
    pub fn entries(self, table: Table, last_day: Day, from: Position, limit: usize) -> Range {
        Range {
            table,
            day: last_day.0,
            prefix: self.0.to_vec(),
            from: self.at(from),
            limit,
            max_bytes: usize::MAX,
        }
    }

    /// The position in a row's name.
    #[must_use]
    pub fn position_in(name: &[u8]) -> Option<Position> {
        name.get(16..)
            .and_then(|bytes| bytes.try_into().ok())
            .map(|bytes| Position(u64::from_be_bytes(bytes)))
    }
}

impl JoinRecordRow {
    /// The row of one page.
    #[must_use]
    pub fn page(self, last_day: Day, page: u16) -> Key {
        let mut key = self.key_on(last_day.0);
        key.name.extend(page.to_be_bytes());
        key
    }
}

impl PoolRow {
    /// One set of a ciphersuite.
    #[must_use]
    pub fn set(self, last_day: Day, ciphersuite: u16, id: [u8; 16]) -> Key {
        Key {
            table: Table::PoolSets,
            day: last_day.0,
            name: [&self.0[..], &ciphersuite.to_be_bytes(), &id].concat(),
        }
    }

    /// The sets of a ciphersuite, or of all, that expire on one day.
    #[must_use]
    pub fn sets(self, last_day: Day, ciphersuite: Option<u16>, limit: usize) -> Range {
        let mut prefix = self.0.to_vec();
        if let Some(suite) = ciphersuite {
            prefix.extend(suite.to_be_bytes());
        }
        Range {
            table: Table::PoolSets,
            day: last_day.0,
            from: prefix.clone(),
            prefix,
            limit,
            max_bytes: usize::MAX,
        }
    }
}

impl InboxRow {
    /// The row of one request.
    #[must_use]
    pub fn entry(self, last_day: Day, id: InboxEntryId) -> Key {
        Key {
            table: Table::InboxEntries,
            day: last_day.0,
            name: [&self.0[..], &id.0].concat(),
        }
    }

    /// The requests that expire on one day.
    #[must_use]
    pub fn entries(self, last_day: Day, limit: usize) -> Range {
        Range {
            table: Table::InboxEntries,
            day: last_day.0,
            prefix: self.0.to_vec(),
            from: self.0.to_vec(),
            limit,
            max_bytes: usize::MAX,
        }
    }
}

impl BlobRow {
    /// The row while the blob is written, until the end of this day.
    #[must_use]
    pub fn making(self, last_day: Day) -> Key {
        Key {
            table: Table::BlobsInMaking,
            day: last_day.0,
            name: self.0.to_vec(),
        }
    }

    /// Its name, for where the chunks lie.
    #[must_use]
    pub fn name(self) -> [u8; 16] {
        self.0
    }
}

impl SpentRow {
    /// The row under its issuer key.
    #[must_use]
    pub fn key(self, issuer_key_id: &[u8; 32]) -> Key {
        Key {
            table: Table::Spent,
            day: 0,
            name: [&issuer_key_id[..], &self.0].concat(),
        }
    }
}

/// The row of an issuer key that has retired; nothing is spent under one that is closed.
#[must_use]
pub fn retired_issuer_key(id: &[u8; 32]) -> Key {
    Key {
        table: Table::RetiredIssuerKeys,
        day: 0,
        name: id.to_vec(),
    }
}

/// Names a bucket of an allowance: in memory only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bucket(pub [u8; 16]);

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bucket(..)")
    }
}

/// Names rows by a PRF under the storage key.
#[derive(Debug)]
pub struct Rows<'k>(pub &'k RowKeys);

// Numbers of domains: never used for anything else.
impl Rows<'_> {
    /// Row of a group.
    #[must_use]
    pub fn group(&self, id: &GroupId) -> GroupRow {
        GroupRow(self.0.row(1, &[&id.0]))
    }

    /// Row of a reservation.
    #[must_use]
    pub fn reservation(&self, id: &GroupId) -> ReservationRow {
        ReservationRow(self.0.row(2, &[&id.0]))
    }

    /// Row of a segment.
    #[must_use]
    pub fn segment(&self, id: &SegmentId) -> SegmentRow {
        SegmentRow(self.0.row(3, &[&id.0]))
    }

    /// Row of a join record.
    #[must_use]
    pub fn join_record(&self, id: &JoinRecordId) -> JoinRecordRow {
        JoinRecordRow(self.0.row(4, &[&id.0]))
    }

    /// Row of a Welcome.
    #[must_use]
    pub fn welcome(&self, id: &WelcomeId) -> WelcomeRow {
        WelcomeRow(self.0.row(5, &[&id.0]))
    }

    /// Row of a way into the present segment.
    #[must_use]
    pub fn recovery(&self, id: &RecoveryRowId) -> RecoveryRow {
        RecoveryRow(self.0.row(6, &[&id.0]))
    }

    /// Row of a pool.
    #[must_use]
    pub fn pool(&self, id: &PoolId) -> PoolRow {
        PoolRow(self.0.row(7, &[&id.0]))
    }

    /// Row of a handle.
    #[must_use]
    pub fn handle(&self, handle: &[u8]) -> HandleRow {
        HandleRow(self.0.row(8, &[handle]))
    }

    /// Row of an inbox.
    #[must_use]
    pub fn inbox(&self, id: &InboxId) -> InboxRow {
        InboxRow(self.0.row(9, &[&id.0]))
    }

    /// Row of a result.
    #[must_use]
    pub fn result(&self, digest: &[u8; 32]) -> ResultRow {
        ResultRow(self.0.row(10, &[digest]))
    }

    /// Row of a spent token.
    #[must_use]
    pub fn spent(&self, nonce_digest: &[u8; 32]) -> SpentRow {
        SpentRow(self.0.row(11, &[nonce_digest]))
    }

    /// The allowance of a leaf.
    #[must_use]
    pub fn leaf_bucket(&self, group: &GroupId, leaf: LeafIndex) -> Bucket {
        Bucket(self.0.row(12, &[&group.0, &leaf.0.to_be_bytes()]))
    }

    /// The allowance of a user in a group.
    #[must_use]
    pub fn user_bucket(&self, group: &GroupId, user_pseudonym: &[u8]) -> Bucket {
        Bucket(self.0.row(22, &[&group.0, user_pseudonym]))
    }

    /// The allowance of a group.
    #[must_use]
    pub fn group_bucket(&self, group: &GroupId) -> Bucket {
        Bucket(self.0.row(13, &[&group.0]))
    }

    /// The allowance of a segment's readers.
    #[must_use]
    pub fn segment_bucket(&self, segment: &SegmentId) -> Bucket {
        Bucket(self.0.row(14, &[&segment.0]))
    }

    /// The allowance of a pool's owner.
    #[must_use]
    pub fn pool_bucket(&self, pool: &PoolId) -> Bucket {
        Bucket(self.0.row(16, &[&pool.0]))
    }

    /// The allowance of an inbox's owner.
    #[must_use]
    pub fn inbox_bucket(&self, inbox: &InboxId) -> Bucket {
        Bucket(self.0.row(17, &[&inbox.0]))
    }

    /// The allowance of a join record's readers.
    #[must_use]
    pub fn join_record_bucket(&self, id: &JoinRecordId) -> Bucket {
        Bucket(self.0.row(18, &[&id.0]))
    }

    /// The allowance of a Welcome's readers.
    #[must_use]
    pub fn welcome_bucket(&self, id: &WelcomeId) -> Bucket {
        Bucket(self.0.row(19, &[&id.0]))
    }

    /// The allowance of a recovery row's readers.
    #[must_use]
    pub fn recovery_bucket(&self, id: &RecoveryRowId) -> Bucket {
        Bucket(self.0.row(20, &[&id.0]))
    }

    /// The allowance that all readers share who look for something that is not there.
    #[must_use]
    pub fn nothing_bucket(&self) -> Bucket {
        Bucket(self.0.row(21, &[]))
    }

    /// Row of a blob.
    #[must_use]
    pub fn blob(&self, id: &BlobId) -> BlobRow {
        BlobRow(self.0.row(23, &[&id.0]))
    }

    /// The allowance of all who read or write a blob.
    #[must_use]
    pub fn blob_bucket(&self, id: &BlobId) -> Bucket {
        Bucket(self.0.row(24, &[&id.0]))
    }

    /// A keyed digest by which the owner of something is known again.
    #[must_use]
    pub fn owner(&self, purpose: OwnerOf, key: &[u8]) -> Owner {
        let purpose = purpose as u8;
        let digest: [u8; 32] = Sha256::digest(key).into();
        Owner(self.0.row(15, &[&[purpose], &digest]))
    }
}

/// What an owner owns. The same key has another digest for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum OwnerOf {
    /// A reserved group id.
    Reservation = 1,
    Pool = 2,
    Handle = 3,
    Inbox = 4,
    /// A blob: of the hash of the secret that writes it.
    Blob = 5,
}

/// A keyed digest of an owner's public key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Owner(pub [u8; 16]);

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Owner(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::testing::Service;

    #[test]
    fn rows_stand_where_they_always_stood() {
        let service = Service::new(1);
        let rows = Rows(service.keys().rows());
        let (day, position) = (Day(20_000), Position(7));
        let group = rows.group(&GroupId([1; 16]));
        let segment = rows.segment(&SegmentId([3; 32]));
        let pool = rows.pool(&PoolId([7; 32]));
        let inbox = rows.inbox(&InboxId([9; 32]));
        for (name, key) in [
            ("group", group.key()),
            ("part", group.part(Part::Roster(0x0102))),
            ("reservation", rows.reservation(&GroupId([2; 16])).key(day)),
            ("segment", segment.key()),
            ("closed", segment.closed(day)),
            ("handshake", segment.handshake(day, position)),
            ("message", segment.message(day, position)),
            (
                "join record",
                rows.join_record(&JoinRecordId([4; 32])).page(day, 5),
            ),
            ("Welcome", rows.welcome(&WelcomeId([5; 32])).key(day)),
            ("recovery", rows.recovery(&RecoveryRowId([6; 32])).key()),
            ("pool", pool.key()),
            ("set", pool.set(day, 0x0102, [8; 16])),
            ("handle", rows.handle(b"alice").key()),
            ("inbox", inbox.key()),
            ("inbox entry", inbox.entry(day, InboxEntryId([9; 16]))),
            ("result", rows.result(&[10; 32]).key(day)),
            ("blob", rows.blob(&BlobId([14; 32])).key(day)),
            (
                "blob in the making",
                rows.blob(&BlobId([14; 32])).making(day),
            ),
            ("spent", rows.spent(&[11; 32]).key(&[12; 32])),
            ("retired", retired_issuer_key(&[13; 32])),
        ] {
            let place = [&[key.table as u8][..], &key.day.to_be_bytes(), &key.name].concat();
            fixtures::check(&format!("row of {name}"), &place);
        }
        for purpose in [
            OwnerOf::Reservation,
            OwnerOf::Pool,
            OwnerOf::Handle,
            OwnerOf::Inbox,
            OwnerOf::Blob,
        ] {
            let owner = rows.owner(purpose, b"public key");
            fixtures::check(&format!("owner of {purpose:?}"), &owner.0);
        }
    }

    #[test]
    fn tables_keep_their_numbers_and_names() {
        for table in Table::ALL {
            let stored = [table as u8, u8::from(table.has_days())];
            fixtures::check(&format!("table {}", table.name()), &stored);
        }
    }
}
