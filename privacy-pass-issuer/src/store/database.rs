//! One RocksDB directory: made by an explicit word, recognised again, and written durably.

use std::ops::Deref;
use std::path::Path;
use std::sync::OnceLock;

use rocksdb::{
    BlockBasedOptions, DB, DBCompressionType, DBRecoveryMode, ErrorKind, IteratorMode, Options,
    ReadOptions, WriteBatch, WriteOptions,
};
use service::Shutdown;
use service::founding::{self, Refusal};
use service::high_water::{self, HighWater};
use service::probe::Trouble;

use super::StoreError;

/// Bits of the filter that answers for most rows that are not there: each request asks for several.
const FILTER_BITS: f64 = 10.0;
/// What a directory has at least.
const FILES: [&str; 2] = ["CURRENT", high_water::FILE];

pub(crate) struct Database {
    db: DB,
    /// How far writes were acknowledged.
    high_water: HighWater,
    pub(super) trouble: Trouble,
    /// What was read that is not what was written.
    damage: OnceLock<String>,
}

/// For reads.
impl Deref for Database {
    type Target = DB;

    fn deref(&self) -> &DB {
        &self.db
    }
}

impl Database {
    pub(super) fn create(directory: &Path) -> Result<Self, Refusal> {
        founding::claim_empty_directory(directory)?;
        let mut options = options();
        options.create_if_missing(true);
        options.set_error_if_exists(true);
        let db = DB::open(&options, directory).map_err(|error| refusal(directory, &error))?;
        Ok(Self::of(db, HighWater::create(directory)?))
    }

    pub(super) fn open(directory: &Path) -> Result<Self, Refusal> {
        // Before the engine sees it: that writes a new `CURRENT`, and then takes all else for
        // garbage.
        founding::inspect(directory, crate::PROGRAM, &FILES)?;
        let damaged = |error: rocksdb::Error| refusal(directory, &error);
        // First without writing: an engine that finds a log cut off goes on from there for good.
        let high_water = HighWater::open(directory)?;
        let mode = usable(directory, &high_water)?;
        let db = DB::open(&options_for(mode), directory).map_err(damaged)?;
        high_water.check(db.latest_sequence_number())?;
        Ok(Self::of(db, high_water))
    }

    /// Reads go on, writes fail, as on a disk that is full.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(super) fn that_takes_no_writes(directory: &Path) -> Self {
        let db = DB::open_for_read_only(&options(), directory, false).unwrap();
        let high_water = HighWater::open(directory).unwrap();
        Self::of(db, high_water)
    }

    fn of(db: DB, high_water: HighWater) -> Self {
        Self {
            db,
            high_water,
            trouble: Trouble::default(),
            damage: OnceLock::new(),
        }
    }

    /// All of it or nothing, durably.
    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db
            .write_opt(batch, &options)
            .inspect_err(|_| self.trouble.report())?;
        // Every write is synced before it is visible, this one and those beside it.
        let durable = self.db.latest_sequence_number();
        self.high_water.raise(durable).map_err(|error| {
            self.trouble.report();
            StoreError::Engine(error.to_string())
        })
    }

    /// One durable write.
    pub(super) fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put(key, value);
        self.write(batch)
    }

    /// Whether writes are taken, and nothing was found damaged. One durable write.
    pub(super) fn probe(&self, key: &[u8]) -> Result<(), StoreError> {
        match self.damage.get() {
            Some(damage) => Err(StoreError::Engine(damage.clone())),
            None => self.put(key, &service::probe::BYTES),
        }
    }

    /// Reads every row, until it is told to end: what is damaged is found before somebody needs it.
    /// Blocks. Returns how many rows were read.
    pub(super) fn read_everything(&self, shutdown: &Shutdown) -> Result<u64, StoreError> {
        let mut rows = 0;
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        for row in self.db.iterator_opt(IteratorMode::Start, options) {
            if shutdown.is_requested() {
                break;
            }
            rows += 1;
            row.inspect_err(|error| {
                if error.kind() == ErrorKind::Corruption {
                    let _ = self.damage.set(error.to_string());
                    tracing::error!(%error, "the database is damaged");
                    self.trouble.report();
                }
            })?;
        }
        Ok(rows)
    }
}

/// All of a log; only its last record may be cut off.
const WHOLE: DBRecoveryMode = DBRecoveryMode::TolerateCorruptedTailRecords;
/// What is in front of the first hole.
const UP_TO_HOLE: DBRecoveryMode = DBRecoveryMode::PointInTime;

/// How much of the log of a database can be taken: nothing that was acknowledged may be missing.
/// Changes nothing.
fn usable(directory: &Path, high_water: &HighWater) -> Result<DBRecoveryMode, Refusal> {
    let last_write = |mode| {
        DB::open_for_read_only(&options_for(mode), directory, false)
            .map(|db| db.latest_sequence_number())
    };
    match last_write(WHOLE) {
        Ok(found) => high_water.check(found).map(|()| WHOLE),
        Err(error) if error.kind() == ErrorKind::Corruption => {
            // A power failure can leave a hole in what was not synced. What is in front of it
            // counts as if the log ended there.
            high_water.pass_over_hole(last_write(UP_TO_HOLE).ok(), error.as_ref())?;
            Ok(UP_TO_HOLE)
        }
        Err(error) => Err(refusal(directory, &error)),
    }
}

fn options() -> Options {
    options_for(WHOLE)
}

fn options_for(recovery: DBRecoveryMode) -> Options {
    let mut options = Options::default();
    // Rows are hashes: there is nothing to compress.
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(16 << 20);
    options.set_keep_log_file_num(4);
    // After a crash the last record of a log may be cut off: it was never acknowledged. A log that
    // was cut off further up, or has a hole, looks the same to the engine; `high_water` tells.
    options.set_wal_recovery_mode(recovery);
    options.set_track_and_verify_wals_in_manifest(true);
    let mut table = BlockBasedOptions::default();
    table.set_bloom_filter(FILTER_BITS, false);
    options.set_block_based_table_factory(&table);
    // Who waits for somebody else's fsync sleeps, since the cores have signatures to make.
    options.set_enable_write_thread_adaptive_yield(false);
    options
}

fn refusal(path: &Path, error: &rocksdb::Error) -> Refusal {
    Refusal::of_rocksdb(path, error.kind() == ErrorKind::IOError, error.to_string())
}
