//! RocksDB. Row keys begin with the day, so that a day is dropped as one range:
//!
//! | key | value |
//! |---|---|
//! | `00000000` ‖ "format" | version of this layout, one byte |
//! | `00000000` ‖ "binding" | which database, of which keys ([`service::founding::binding`]) |
//! | `00000000` ‖ "probe" | written only to see whether writes are taken |
//! | `00000000` ‖ `03` ‖ blocked account (32) | empty |
//! | day (4) ‖ `01` ‖ account of day (32) | tokens counted, u32 |
//! | day (4) ‖ `02` ‖ request digest (32) | empty |
//! | `ffffffff` ‖ … | reports: see `reports/rocks.rs` |

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rocksdb::{Direction, ErrorKind, IteratorMode, WriteBatch};
use service::Shutdown;
use service::founding::{self, BoundKey, StoreId};
use service::probe::{Probe, Trouble};

use super::database::Database;
use super::reports::RocksReports;
use super::{
    AccountOfDay, BlockedAccount, Charge, ChargeOutcome, ChargeResult, Day, IssuerStore,
    RequestDigest, StoreError,
};

const FORMAT_KEY: &[u8] = b"\0\0\0\0format";
const FORMAT: &[u8] = &[1];
const BINDING_KEY: &[u8] = b"\0\0\0\0binding";
const PROBE_KEY: &[u8] = b"\0\0\0\0probe";
const COUNT: u8 = 1;
const REQUEST: u8 = 2;
const BLOCKED: u8 = 3;
/// Of no day: nobody was charged in January 1970, and forgetting begins after it.
const FOR_GOOD: Day = Day(0);

pub struct RocksStore {
    db: Arc<Database>,
    /// Groups of charges follow each other: what one decides, the next one reads.
    charging: Mutex<()>,
}

/// What a group of charges has come to so far, over what is in the database.
#[derive(Default)]
struct Group {
    counts: HashMap<(Day, AccountOfDay), u32>,
    requests: HashSet<(Day, RequestDigest)>,
}

impl From<rocksdb::Error> for StoreError {
    fn from(error: rocksdb::Error) -> Self {
        Self::Engine(match error.kind() {
            // The file system's words: a file and why.
            ErrorKind::IOError => error.to_string(),
            kind => format!("{kind:?}"),
        })
    }
}

impl RocksStore {
    /// Makes an empty database in `directory`, which is empty or not there.
    pub fn create(directory: &Path) -> Result<Self, StoreError> {
        let db = Database::create(directory)?;
        db.put(FORMAT_KEY, FORMAT)?;
        Ok(Self::of(db))
    }

    /// Opens the database in `directory`, if it is whole. Fails while another process has it open.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let db = Database::open(directory)?;
        match db.get(FORMAT_KEY)?.as_deref() {
            Some(FORMAT) => Ok(Self::of(db)),
            _ => Err(StoreError::Format),
        }
    }

    fn of(db: Database) -> Self {
        Self {
            db: Arc::new(db),
            charging: Mutex::new(()),
        }
    }

    /// Makes a new database the one of these key files.
    pub fn bind(&self, keys: &[BoundKey<'_>]) -> Result<StoreId, StoreError> {
        let id = StoreId::generate()?;
        self.db.put(BINDING_KEY, &founding::binding(id, keys))?;
        Ok(id)
    }

    /// Which database it is, if it is that of these key files. `place` is for the operator.
    pub fn recognise(&self, place: &Path, keys: &[BoundKey<'_>]) -> Result<StoreId, StoreError> {
        let row = self.db.get(BINDING_KEY)?;
        let place = place.display().to_string();
        Ok(founding::check_binding(row.as_deref(), &place, keys)?)
    }

    /// Reports writes that failed.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        self.db.trouble.clone()
    }

    /// Asks for one durable write.
    #[must_use]
    pub fn probe(&self) -> Probe {
        let db = Arc::clone(&self.db);
        Probe::new(move || {
            let db = Arc::clone(&db);
            async move {
                match tokio::task::spawn_blocking(move || db.probe(PROBE_KEY)).await {
                    Ok(written) => written.map_err(|error| error.to_string()),
                    Err(_) => Err("a write broke off".to_owned()),
                }
            }
        })
    }

    /// Reads every row until it is told to end, and counts them. So damage is found before somebody
    /// needs the row. Blocks.
    pub fn read_everything(&self, shutdown: &Shutdown) -> Result<u64, StoreError> {
        self.db.read_everything(shutdown)
    }

    /// The reports in the same database.
    #[must_use]
    pub fn reports(&self) -> RocksReports {
        RocksReports::new(Arc::clone(&self.db))
    }

    fn count(&self, key: &[u8]) -> Result<u32, StoreError> {
        match self.db.get_pinned(key)? {
            None => Ok(0),
            Some(value) => value
                .as_ref()
                .try_into()
                .map(u32::from_be_bytes)
                .map_err(|_| StoreError::Format),
        }
    }

    fn decide(&self, group: &mut Group, charge: &Charge) -> Result<ChargeOutcome, StoreError> {
        let Charge {
            account,
            day,
            request,
            tokens,
            limit,
        } = *charge;
        let in_group = |day| group.requests.contains(&(day, request));
        if in_group(day) || in_group(day.yesterday()) || self.is_charged(day, request)? {
            return Ok(ChargeOutcome::AlreadyIssued);
        }
        let count = match group.counts.get(&(day, account)) {
            Some(count) => *count,
            None => self.count(&row_key(day, COUNT, &account.0))?,
        };
        let left = limit.saturating_sub(count);
        if left < tokens {
            return Ok(ChargeOutcome::LimitReached { left });
        }
        group.counts.insert((day, account), count + tokens);
        group.requests.insert((day, request));
        Ok(ChargeOutcome::Charged)
    }
}

impl Group {
    fn batch(&self) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for ((day, account), count) in &self.counts {
            batch.put(row_key(*day, COUNT, &account.0), count.to_be_bytes());
        }
        for (day, request) in &self.requests {
            batch.put(row_key(*day, REQUEST, &request.0), []);
        }
        batch
    }
}

impl IssuerStore for RocksStore {
    fn charge_all(
        &self,
        charges: &[Charge],
        decided: &mut dyn FnMut(Vec<ChargeResult>),
    ) -> Result<(), StoreError> {
        let _alone = self.charging.lock().unwrap_or_else(PoisonError::into_inner);
        let mut group = Group::default();
        let decide = |charge| self.decide(&mut group, charge);
        decided(charges.iter().map(decide).collect());
        if !group.requests.is_empty() {
            self.db.write(group.batch())?;
        }
        Ok(())
    }

    fn is_charged(&self, day: Day, request: RequestDigest) -> Result<bool, StoreError> {
        for day in [day, day.yesterday()] {
            let row = row_key(day, REQUEST, &request.0);
            if self.db.get_pinned(row)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn block(&self, account: BlockedAccount) -> Result<(), StoreError> {
        let row = row_key(FOR_GOOD, BLOCKED, &account.0);
        self.db.put(&row, &[])
    }

    fn unblock(&self, account: BlockedAccount) -> Result<bool, StoreError> {
        let blocked = self.is_blocked(account)?;
        let row = row_key(FOR_GOOD, BLOCKED, &account.0);
        let mut batch = WriteBatch::default();
        batch.delete(row);
        self.db.write(batch)?;
        Ok(blocked)
    }

    fn is_blocked(&self, account: BlockedAccount) -> Result<bool, StoreError> {
        let row = row_key(FOR_GOOD, BLOCKED, &account.0);
        Ok(self.db.get_pinned(row)?.is_some())
    }

    fn forget_days_before(&self, day: Day) -> Result<(), StoreError> {
        let (begin, end) = (1_u32.to_be_bytes(), day.0.to_be_bytes());
        if begin >= end {
            return Ok(());
        }
        let oldest = IteratorMode::From(&begin, Direction::Forward);
        match self.db.iterator(oldest).next().transpose()? {
            Some((key, _)) if key[..] < end[..] => {}
            _ => return Ok(()),
        }
        let mut batch = WriteBatch::default();
        batch.delete_range(begin, end);
        self.db.write(batch)?;
        // Deleted is not gone until it is compacted away.
        self.db.compact_range(Some(begin), Some(end));
        Ok(())
    }
}

fn row_key(day: Day, kind: u8, hash: &[u8; 32]) -> [u8; 37] {
    let mut key = [0; 37];
    key[..4].copy_from_slice(&day.0.to_be_bytes());
    key[4] = kind;
    key[5..].copy_from_slice(hash);
    key
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use service::founding::Refusal;

    use super::*;
    use crate::store::{AccountOfDay, RequestDigest};

    #[test]
    fn what_was_counted_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let charge = |request| Charge {
            account: AccountOfDay([1; 32]),
            day: Day(20_000),
            request: RequestDigest([request; 32]),
            tokens: 1,
            limit: 1,
        };
        let store = RocksStore::create(directory.path()).unwrap();
        assert_eq!(store.charge(&charge(1)).unwrap(), ChargeOutcome::Charged);
        drop(store);
        let store = RocksStore::open(directory.path()).unwrap();
        assert_eq!(
            store.charge(&charge(1)).unwrap(),
            ChargeOutcome::AlreadyIssued
        );
        assert_eq!(
            store.charge(&charge(2)).unwrap(),
            ChargeOutcome::LimitReached { left: 0 }
        );
    }

    #[test]
    fn a_blocked_account_stays_blocked_over_a_restart_and_over_forgetting() {
        let directory = tempfile::tempdir().unwrap();
        let store = RocksStore::create(directory.path()).unwrap();
        store.block(BlockedAccount([7; 32])).unwrap();
        store.forget_days_before(Day(30_000)).unwrap();
        drop(store);
        let store = RocksStore::open(directory.path()).unwrap();
        assert!(store.is_blocked(BlockedAccount([7; 32])).unwrap());
        assert!(!store.is_blocked(BlockedAccount([8; 32])).unwrap());
    }

    #[test]
    fn forgetting_leaves_no_row_of_the_days_before() {
        let directory = tempfile::tempdir().unwrap();
        let store = RocksStore::create(directory.path()).unwrap();
        for day in 100..110 {
            let charge = Charge {
                account: AccountOfDay([1; 32]),
                day: Day(day),
                request: RequestDigest([u8::try_from(day).unwrap(); 32]),
                tokens: 1,
                limit: 1,
            };
            assert_eq!(store.charge(&charge).unwrap(), ChargeOutcome::Charged);
        }
        store.forget_days_before(Day(109)).unwrap();
        let rows = store.db.iterator(IteratorMode::Start).count();
        assert_eq!(rows, 3, "format, count and request of the last day");
    }

    fn charge_of(request: u32, account: u8) -> Charge {
        let mut digest = [account; 32];
        digest[..4].copy_from_slice(&request.to_be_bytes());
        Charge {
            account: AccountOfDay([account; 32]),
            day: Day(20_000),
            request: RequestDigest(digest),
            tokens: 1,
            limit: u32::MAX,
        }
    }

    #[test]
    fn a_row_that_cannot_be_read_fails_its_own_charge_and_no_other_one_of_its_group() {
        let directory = tempfile::tempdir().unwrap();
        let store = RocksStore::create(directory.path()).unwrap();
        let row = row_key(Day(20_000), COUNT, &[2; 32]);
        store.db.put(&row, b"three").unwrap();
        let group = [charge_of(1, 1), charge_of(1, 2), charge_of(1, 3)];
        let mut told = Vec::new();
        let decided = store.charge_all(&group, &mut |results| told = results);
        decided.unwrap();
        assert!(matches!(
            told[..],
            [
                Ok(ChargeOutcome::Charged),
                Err(StoreError::Format),
                Ok(ChargeOutcome::Charged)
            ]
        ));
        let charged = |charge: &Charge| store.is_charged(charge.day, charge.request).unwrap();
        assert_eq!(group.each_ref().map(charged), [true, false, true]);
    }

    #[test]
    fn a_group_that_cannot_be_written_is_decided_and_leaves_nothing_counted() {
        let directory = tempfile::tempdir().unwrap();
        drop(RocksStore::create(directory.path()).unwrap());
        let store = RocksStore::of(Database::that_takes_no_writes(directory.path()));
        let mut told = Vec::new();
        let group = [charge_of(1, 1), charge_of(1, 1)];
        let written = store.charge_all(&group, &mut |results| told = results);
        assert!(matches!(written, Err(StoreError::Engine(_))));
        assert!(matches!(
            told[..],
            [Ok(ChargeOutcome::Charged), Ok(ChargeOutcome::AlreadyIssued)]
        ));
        assert!(!store.is_charged(group[0].day, group[0].request).unwrap());
    }

    #[test]
    fn a_database_of_another_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = RocksStore::create(directory.path()).unwrap();
        store.db.put(FORMAT_KEY, &[2]).unwrap();
        drop(store);
        assert!(matches!(
            RocksStore::open(directory.path()),
            Err(StoreError::Format)
        ));
    }

    #[test]
    fn reading_everything_ends_when_the_process_does() {
        let directory = tempfile::tempdir().unwrap();
        let store = RocksStore::create(directory.path()).unwrap();
        let group: Vec<_> = (0..20).map(|request| charge_of(request, 1)).collect();
        store.charge_all(&group, &mut |_| ()).unwrap();
        let (trigger, shutdown) = Shutdown::channel();
        assert!(store.read_everything(&shutdown).unwrap() > 20);
        trigger.request();
        assert_eq!(store.read_everything(&shutdown).unwrap(), 0);
    }

    #[test]
    fn a_second_process_cannot_open_the_database() {
        let directory = tempfile::tempdir().unwrap();
        let _open = RocksStore::create(directory.path()).unwrap();
        assert!(matches!(
            RocksStore::open(directory.path()),
            Err(StoreError::Refused(Refusal::InUse { .. }))
        ));
    }
}
