//! Column families: one for each table, with options for what its rows are like.

use std::path::Path;

use ds_domain::engine::{Key, Table};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    DataBlockIndexType, LogLevel, Options,
};

/// Memory for data, index and filter blocks of all tables together.
const BLOCK_CACHE_BYTES: usize = 128 << 20;
/// Memtables of all tables together; past this the fullest table is flushed.
const MEMTABLES_BYTES: usize = 256 << 20;
/// Bounds the log that has to be replayed at start. One row in a seldom written table keeps its
/// whole log file alive, so without this limit the log grows to four times the sum of all write
/// buffers.
const LOG_BYTES: u64 = 512 << 20;
/// Stays below the usual limit of 1,024 descriptors for a process, which also holds its sockets.
const OPEN_FILES: i32 = 512;
/// Writes of new files are handed to the disk in steps of this size, so that an fsync of the log
/// does not wait behind one large burst of a compaction.
const SYNC_STEP_BYTES: u64 = 1 << 20;
/// Files are rewritten at this age. It bounds how long deleted (sealed) rows stay on the disk.
const REWRITE_AGE_SECONDS: u64 = 7 * 24 * 60 * 60;

/// What a table's rows are like.
enum Load {
    /// Few or small rows, seldom written.
    Light,
    /// Written with every message or commit; what is asked for is nearly always there.
    Heavy,
    /// Written with every message or commit; what is asked for is mostly absent: is this token
    /// spent, is this request done.
    HeavyAndMostlyAbsent,
}

fn load(table: Table) -> Load {
    match table {
        Table::Groups | Table::GroupParts | Table::Heads | Table::Handshakes | Table::Messages => {
            Load::Heavy
        }
        Table::Results | Table::Spent => Load::HeavyAndMostlyAbsent,
        Table::Reservations
        | Table::JoinRecords
        | Table::Welcomes
        | Table::RecoveryRows
        | Table::Pools
        | Table::PoolSets
        | Table::Handles
        | Table::Inboxes
        | Table::InboxEntries
        | Table::RetiredIssuerKeys
        | Table::Store
        | Table::ClosedHeads
        | Table::FeedNotes
        | Table::FeedPeriods
        | Table::FeedTicks
        | Table::Blobs
        | Table::BlobsInMaking => Load::Light,
    }
}

fn table_options(table: Table, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    // Row names are random, so a look-up for an absent row would read one block of every level.
    blocks.set_bloom_filter(10.0, false);
    // Keeps indexes and filters within the cache's limit however large the database grows.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // Most reads are look-ups of one whole key.
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);

    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    // Every value is ciphertext.
    options.set_compression_type(DBCompressionType::None);
    options.set_bottommost_compression_type(DBCompressionType::None);
    options.set_periodic_compaction_seconds(REWRITE_AGE_SECONDS);
    match load(table) {
        Load::Light => options.set_write_buffer_size(8 << 20),
        Load::Heavy => options.set_write_buffer_size(64 << 20),
        Load::HeavyAndMostlyAbsent => {
            options.set_write_buffer_size(64 << 20);
            options.set_memtable_prefix_bloom_ratio(0.05);
            options.set_memtable_whole_key_filtering(true);
        }
    }
    options
}

/// Makes a database with every table in an empty directory.
pub(crate) fn create(path: &Path) -> Result<DB, rocksdb::Error> {
    let mut options = options();
    options.create_if_missing(true);
    options.set_error_if_exists(true);
    options.create_missing_column_families(true);
    DB::open_cf_descriptors(&options, path, descriptors())
}

/// How much of a log is taken that is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Log {
    /// All of it; only its last record may be cut off.
    Whole,
    /// What is in front of the first hole.
    UpToHole,
}

/// Opens the database with every table. Makes nothing: what is missing is damage.
pub(crate) fn open(path: &Path, log: Log) -> Result<DB, rocksdb::Error> {
    DB::open_cf_descriptors(&options_for(log), path, descriptors())
}

/// What a look at a database finds.
pub(crate) struct Seen {
    /// The number of the last write that it and its log hold.
    pub(crate) last_write: u64,
    /// A file that it needs and that is not there as it was written, and what is wrong with it.
    pub(crate) damaged: Option<String>,
}

/// Looks at a database. Changes nothing.
pub(crate) fn look(path: &Path, log: Log) -> Result<Seen, rocksdb::Error> {
    let db = DB::open_cf_descriptors_read_only(&options_for(log), path, descriptors(), false)?;
    // The engine itself opens the first sixteen only.
    let damaged = db
        .live_files()?
        .iter()
        .find_map(|file| damage(&path.join(file.name.trim_start_matches('/')), file.size));
    Ok(Seen {
        last_write: db.latest_sequence_number(),
        damaged,
    })
}

fn damage(file: &Path, size: usize) -> Option<String> {
    let name = file.display();
    match std::fs::metadata(file) {
        Ok(found) if usize::try_from(found.len()) == Ok(size) => None,
        Ok(found) => Some(format!("{name} has {} of {size} bytes", found.len())),
        Err(error) => Some(format!("{name}: {error}")),
    }
}

/// Whether the database has tables that this version doesn't know.
pub(crate) fn has_unknown(path: &Path) -> Result<bool, rocksdb::Error> {
    let tables = DB::list_cf(&options(), path)?;
    let known =
        |name: &String| name == "default" || Table::ALL.iter().any(|table| table.name() == name);
    Ok(!tables.iter().all(known))
}

fn descriptors() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
    Table::ALL
        .map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(table, &cache)))
        .into()
}

fn options() -> Options {
    options_for(Log::Whole)
}

fn options_for(log: Log) -> Options {
    let mut options = Options::default();
    options.set_max_open_files(OPEN_FILES);
    options.set_db_write_buffer_size(MEMTABLES_BYTES);
    options.set_max_total_wal_size(LOG_BYTES);
    options.set_bytes_per_sync(SYNC_STEP_BYTES);
    let cores = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 8);
    options.set_max_background_jobs(i32::try_from(cores).unwrap_or(2));
    // After a crash the last record of a log may be cut off: it was never acknowledged. A log that
    // was cut off further up, or has a hole, looks the same to the engine; `service::high_water`
    // tells.
    options.set_wal_recovery_mode(match log {
        Log::Whole => DBRecoveryMode::TolerateCorruptedTailRecords,
        Log::UpToHole => DBRecoveryMode::PointInTime,
    });
    options.set_track_and_verify_wals_in_manifest(true);
    // The engine's own log file would tell times of flushes and compactions: only what goes wrong.
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options
}

/// `day(4) ‖ name` in a table with days, else the name.
pub(crate) fn stored_key(key: &Key) -> Vec<u8> {
    named(key.table, key.day, &key.name)
}

/// As [`stored_key`], of the parts.
pub(crate) fn named(table: Table, day: u32, name: &[u8]) -> Vec<u8> {
    if table.has_days() {
        [&day.to_be_bytes()[..], name].concat()
    } else {
        name.to_vec()
    }
}

/// Length of what stands before the name.
pub(crate) fn prefix_len(table: Table) -> usize {
    if table.has_days() { 4 } else { 0 }
}

/// The first key behind all that begin with this; none if there is no end.
pub(crate) fn after(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}
