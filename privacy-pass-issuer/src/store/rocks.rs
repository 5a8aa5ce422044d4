//! RocksDB. Row keys begin with the day, so that a day is dropped as one range:
//!
//! | key | value |
//! |---|---|
//! | `00000000` ‖ "format" | version of this layout, one byte |
//! | `00000000` ‖ `03` ‖ blocked account (32) | empty |
//! | day (4) ‖ `01` ‖ account of day (32) | tokens counted, u32 |
//! | day (4) ‖ `02` ‖ request digest (32) | empty |
//! | `ffffffff` ‖ … | reports: see `reports/rocks.rs` |

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rocksdb::{
    BlockBasedOptions, DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode, Options,
    WriteBatch, WriteOptions,
};

use super::reports::RocksReports;
use super::{
    AccountOfDay, BlockedAccount, Charge, ChargeOutcome, ChargeResult, Day, IssuerStore,
    RequestDigest, StoreError,
};

const FORMAT_KEY: &[u8] = b"\0\0\0\0format";
const FORMAT: &[u8] = &[1];
const COUNT: u8 = 1;
const REQUEST: u8 = 2;
const BLOCKED: u8 = 3;
/// Of no day: nobody was charged in January 1970, and forgetting begins after it.
const FOR_GOOD: Day = Day(0);
/// Bits of the filter that answers for most rows that are not there: each request asks for several.
const FILTER_BITS: f64 = 10.0;

/// Some 13,000 charges: then the log that is full is used again.
const WRITE_BUFFER: usize = 2 << 20;

pub struct RocksStore {
    db: Arc<DB>,
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
        Self::Engine(format!("{:?}", error.kind()))
    }
}

impl RocksStore {
    /// Opens or makes the database in `directory`. Fails while another process has it open.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(directory).map_err(|error| StoreError::Open(error.into()))?;
        let mut options = Options::default();
        options.create_if_missing(true);
        // Rows are hashes: there is nothing to compress.
        options.set_compression_type(DBCompressionType::None);
        options.set_write_buffer_size(WRITE_BUFFER);
        // What overwrites a log is durable without a change of the file's size: less for the disk to do at
        // each sync. A record of the log's former life is told by its log number, which its checksum covers.
        options.set_recycle_log_file_num(2);
        // The mode that RocksDB allows it in: a torn end, which nobody was told of, is cut off.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_keep_log_file_num(4);
        let mut table = BlockBasedOptions::default();
        table.set_bloom_filter(FILTER_BITS, false);
        options.set_block_based_table_factory(&table);
        // Who waits for somebody else's fsync sleeps, since the cores have signatures to make.
        options.set_enable_write_thread_adaptive_yield(false);
        let db = DB::open(&options, directory).map_err(|error| StoreError::Open(error.into()))?;
        match db.get(FORMAT_KEY)?.as_deref() {
            Some(FORMAT) => {}
            Some(_) => return Err(StoreError::Format),
            None => db.put_opt(FORMAT_KEY, FORMAT, &durably())?,
        }
        Ok(Self {
            db: Arc::new(db),
            charging: Mutex::new(()),
        })
    }

    /// What the same database keeps of reports.
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
            self.db.write_opt(group.batch(), &durably())?;
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
        Ok(self.db.put_opt(row, [], &durably())?)
    }

    fn unblock(&self, account: BlockedAccount) -> Result<bool, StoreError> {
        let blocked = self.is_blocked(account)?;
        let row = row_key(FOR_GOOD, BLOCKED, &account.0);
        self.db.delete_opt(row, &durably())?;
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
        self.db.write_opt(batch, &durably())?;
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

pub(super) fn durably() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
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
        let store = RocksStore::open(directory.path()).unwrap();
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
        let store = RocksStore::open(directory.path()).unwrap();
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
        let store = RocksStore::open(directory.path()).unwrap();
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

    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }

    /// The log as a crash leaves it: the process has not closed it, what a former life of the file left
    /// stands behind it, and of the last record only the beginning has reached the disk.
    #[test]
    fn a_log_that_is_used_again_keeps_what_was_counted_and_brings_nothing_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = RocksStore::open(directory.path()).unwrap();
        let charge_some = |from: u32, groups: u32| {
            for group in 0..groups {
                let group: Vec<_> = (0..100)
                    .map(|number| charge_of(from + 100 * group + number, 1))
                    .collect();
                store.charge_all(&group, &mut |_| ()).unwrap();
            }
        };
        // Three logs, two of which are used again.
        for life in 0..3 {
            charge_some(life * 100_000, 60);
            store.db.flush().unwrap();
        }
        charge_some(300_000, 5);
        let last = charge_of(400_000, 2);
        store.charge(&last).unwrap();
        let info = std::fs::read_to_string(directory.path().join("LOG")).unwrap();
        assert!(info.contains("reusing log"), "otherwise this tests nothing");

        let crashed = tempfile::tempdir().unwrap();
        copy(directory.path(), crashed.path());
        let reopened = RocksStore::open(crashed.path()).unwrap();
        let count = |store: &RocksStore, account| {
            let row = row_key(Day(20_000), COUNT, &[account; 32]);
            store.count(&row).unwrap()
        };
        assert_eq!((count(&reopened, 1), count(&reopened, 2)), (18_500, 1));

        let torn = tempfile::tempdir().unwrap();
        copy(directory.path(), torn.path());
        let mut garbled = 0;
        for entry in std::fs::read_dir(torn.path()).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let digest = last.request.0;
            if path.extension().is_some_and(|it| it == "log")
                && let Some(at) = bytes.windows(32).position(|it| it == digest)
            {
                bytes[at + 16..at + 32].fill(0x55);
                std::fs::write(&path, bytes).unwrap();
                garbled += 1;
            }
        }
        assert_eq!(garbled, 1);
        let reopened = RocksStore::open(torn.path()).unwrap();
        assert_eq!((count(&reopened, 1), count(&reopened, 2)), (18_500, 0));
        assert_eq!(reopened.charge(&last).unwrap(), ChargeOutcome::Charged);
    }

    #[test]
    fn a_row_that_cannot_be_read_fails_its_own_charge_and_no_other_one_of_its_group() {
        let directory = tempfile::tempdir().unwrap();
        let store = RocksStore::open(directory.path()).unwrap();
        let row = row_key(Day(20_000), COUNT, &[2; 32]);
        store.db.put(row, b"three").unwrap();
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
        drop(RocksStore::open(directory.path()).unwrap());
        // Reads go on, as on a disk that is full.
        let db = DB::open_for_read_only(&Options::default(), directory.path(), false).unwrap();
        let store = RocksStore {
            db: Arc::new(db),
            charging: Mutex::new(()),
        };
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
        let store = RocksStore::open(directory.path()).unwrap();
        store.db.put(FORMAT_KEY, [2]).unwrap();
        drop(store);
        assert!(matches!(
            RocksStore::open(directory.path()),
            Err(StoreError::Format)
        ));
    }

    #[test]
    fn a_second_process_cannot_open_the_database() {
        let directory = tempfile::tempdir().unwrap();
        let _open = RocksStore::open(directory.path()).unwrap();
        assert!(matches!(
            RocksStore::open(directory.path()),
            Err(StoreError::Open(_))
        ));
    }
}
