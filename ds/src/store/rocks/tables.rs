//! The tables (column families), their options, and how their keys are laid out.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    DataBlockIndexType, LogLevel, MergeOperands, Options,
};

use crate::store::{ConsumedSet, DayRow, Spend};

/// Memory for data, index and filter blocks of all tables together.
const BLOCK_CACHE_BYTES: usize = 128 << 20;
/// Memtables of all tables together; past this the fullest table is flushed.
const MEMTABLES_BYTES: usize = 256 << 20;
/// Bounds the log that has to be replayed at start. One row in a seldom written table keeps its whole
/// log file alive, so without this limit the log grows to four times the sum of all write buffers.
const LOG_BYTES: u64 = 512 << 20;
/// Stays below the usual limit of 1,024 descriptors for a process, which also holds its sockets.
const OPEN_FILES: i32 = 512;
/// Writes of new files are handed to the disk in steps of this size, so that an fsync of the log does
/// not wait behind one large burst of a compaction.
const SYNC_STEP_BYTES: u64 = 1 << 20;
/// Files are rewritten at this age. It bounds how long deleted (sealed) rows stay on the disk.
const REWRITE_AGE_SECONDS: u64 = 7 * 24 * 60 * 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Table {
    Meta,
    Notes,
    Groups,
    KeyChecks,
    Trees,
    Proposals,
    Reservations,
    JoinRecords,
    Recovery,
    Entries,
    Payloads,
    PayloadRefs,
    Blocks,
    Incarnations,
    Queues,
    Pools,
    KeyPackages,
    LastResort,
    Handles,
    Results,
    Spent,
    IssuerKeys,
}

/// What a table's rows are like.
enum Load {
    /// Few or small rows, seldom written.
    Light,
    /// Written with every message or commit; what is asked for is nearly always there.
    Heavy,
    /// Written with every message or commit; what is asked for is mostly absent (is this token spent,
    /// is this request done, does this row of a stream exist).
    HeavyAndMostlyAbsent,
}

impl Table {
    pub(super) const ALL: [Self; 22] = [
        Self::Meta,
        Self::Notes,
        Self::Groups,
        Self::KeyChecks,
        Self::Trees,
        Self::Proposals,
        Self::Reservations,
        Self::JoinRecords,
        Self::Recovery,
        Self::Entries,
        Self::Payloads,
        Self::PayloadRefs,
        Self::Blocks,
        Self::Incarnations,
        Self::Queues,
        Self::Pools,
        Self::KeyPackages,
        Self::LastResort,
        Self::Handles,
        Self::Results,
        Self::Spent,
        Self::IssuerKeys,
    ];

    /// Name of the column family: part of the format, never changed.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Notes => "notes",
            Self::Groups => "groups",
            Self::KeyChecks => "key_checks",
            Self::Trees => "trees",
            Self::Proposals => "proposals",
            Self::Reservations => "reservations",
            Self::JoinRecords => "join_records",
            Self::Recovery => "recovery",
            Self::Entries => "entries",
            Self::Payloads => "payloads",
            Self::PayloadRefs => "payload_refs",
            Self::Blocks => "blocks",
            Self::Incarnations => "incarnations",
            Self::Queues => "queues",
            Self::Pools => "pools",
            Self::KeyPackages => "key_packages",
            Self::LastResort => "last_resort",
            Self::Handles => "handles",
            Self::Results => "results",
            Self::Spent => "spent",
            Self::IssuerKeys => "issuer_keys",
        }
    }

    fn load(self) -> Load {
        match self {
            Self::Groups | Self::Trees | Self::Payloads | Self::PayloadRefs => Load::Heavy,
            Self::Entries | Self::Blocks | Self::Results | Self::Spent => {
                Load::HeavyAndMostlyAbsent
            }
            Self::Meta
            | Self::KeyChecks
            | Self::Notes
            | Self::Proposals
            | Self::Reservations
            | Self::JoinRecords
            | Self::Recovery
            | Self::Incarnations
            | Self::Queues
            | Self::Pools
            | Self::KeyPackages
            | Self::LastResort
            | Self::Handles
            | Self::IssuerKeys => Load::Light,
        }
    }

    fn options(self, cache: &Cache) -> Options {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(cache);
        // Row names are random, so a look-up for an absent row would read one block of every level.
        blocks.set_bloom_filter(10.0, false);
        // Keeps indexes and filters within the cache's limit however large the database grows.
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        // Nearly every read is a look-up of one whole key.
        blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);

        let mut options = Options::default();
        options.set_block_based_table_factory(&blocks);
        // Every value is ciphertext.
        options.set_compression_type(DBCompressionType::None);
        options.set_bottommost_compression_type(DBCompressionType::None);
        options.set_periodic_compaction_seconds(REWRITE_AGE_SECONDS);
        match self.load() {
            Load::Light => options.set_write_buffer_size(8 << 20),
            Load::Heavy => options.set_write_buffer_size(64 << 20),
            Load::HeavyAndMostlyAbsent => {
                options.set_write_buffer_size(64 << 20);
                options.set_memtable_prefix_bloom_ratio(0.05);
                options.set_memtable_whole_key_filtering(true);
            }
        }
        if self == Self::PayloadRefs {
            options.set_merge_operator_associative(c"sum of i64", sum);
        }
        options
    }
}

/// Makes a database with every table in an empty directory.
pub(super) fn create(path: &Path) -> Result<DB, rocksdb::Error> {
    let mut options = options();
    options.create_if_missing(true);
    options.set_error_if_exists(true);
    options.create_missing_column_families(true);
    open_all(&options, path)
}

/// How much of a log is taken that is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Log {
    /// All of it; only its last record may be cut off.
    Whole,
    /// What is in front of the first hole.
    UpToHole,
}

/// Opens the database with every table. Makes nothing: what is missing is damage.
pub(super) fn open(path: &Path, log: Log) -> Result<DB, rocksdb::Error> {
    open_all(&options_for(log), path)
}

/// The number of the last write that the database and its log hold. Changes nothing.
pub(super) fn last_write(path: &Path, log: Log) -> Result<u64, rocksdb::Error> {
    let db = DB::open_cf_descriptors_read_only(&options_for(log), path, descriptors(), false)?;
    Ok(db.latest_sequence_number())
}

/// Whether the database has tables that this version doesn't know.
pub(super) fn has_unknown(path: &Path) -> Result<bool, rocksdb::Error> {
    let tables = DB::list_cf(&options(), path)?;
    let known =
        |name: &String| name == "default" || Table::ALL.iter().any(|table| table.name() == name);
    Ok(!tables.iter().all(known))
}

fn open_all(options: &Options, path: &Path) -> Result<DB, rocksdb::Error> {
    DB::open_cf_descriptors(options, path, descriptors())
}

fn descriptors() -> [ColumnFamilyDescriptor; 22] {
    let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
    Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), table.options(&cache)))
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
    // After a crash the last record of a log may be cut off: it was never acknowledged. A log that was cut
    // off further up, or has a hole, looks the same to the engine; `service::high_water` tells.
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

/// Merge operator of the reference counts: an operand is added. It must not panic (it is called from
/// C++), and a malformed operand is reported to the engine as `None`.
fn sum(_key: &[u8], count: Option<&[u8]>, operands: &MergeOperands) -> Option<Vec<u8>> {
    let mut total = count.map_or(Some(0), count_of)?;
    for operand in operands {
        total = total.saturating_add(count_of(operand)?);
    }
    Some(total.to_be_bytes().to_vec())
}

/// Decodes a reference count.
pub(super) fn count_of(value: &[u8]) -> Option<i64> {
    value.try_into().ok().map(i64::from_be_bytes)
}

/// What stands in place of version and roster in the row of a deleted group.
pub(super) const TOMBSTONE: &[u8] = &[];

/// `day ‖ row`.
pub(super) fn day_key(at: &DayRow) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&at.day.to_be_bytes());
    key[4..].copy_from_slice(&at.row);
    key
}

/// `issuer key id ‖ row`.
pub(super) fn spent_key(spend: &Spend) -> [u8; 48] {
    let mut key = [0; 48];
    key[..32].copy_from_slice(&spend.issuer_key_id);
    key[32..].copy_from_slice(&spend.row);
    key
}

/// Value of an issuer key that is gone: `since (8) ‖ closed (1)`.
pub(super) fn retired_value(since_ms: u64, closed: bool) -> [u8; 9] {
    let mut value = [0; 9];
    value[..8].copy_from_slice(&since_ms.to_be_bytes());
    value[8] = closed.into();
    value
}

/// Reads a value that [`retired_value`] wrote.
pub(super) fn retired_of(value: &[u8]) -> Option<(u64, bool)> {
    let (since, rest) = value.split_first_chunk()?;
    let [closed @ (0 | 1)] = rest else {
        return None;
    };
    Some((u64::from_be_bytes(*since), *closed == 1))
}

/// `pool ‖ suite`: the prefix of the pool's sets, and the key of its last-resort set.
pub(super) fn suite_key(pool: &[u8; 16], ciphersuite: u16) -> [u8; 18] {
    let mut key = [0; 18];
    key[..16].copy_from_slice(pool);
    key[16..].copy_from_slice(&ciphersuite.to_be_bytes());
    key
}

/// Length of [`set_key`].
pub(super) const SET_KEY_LEN: usize = 38;

/// `pool ‖ suite ‖ expiry day ‖ id`.
pub(super) fn set_key(set: &ConsumedSet) -> [u8; SET_KEY_LEN] {
    let mut key = [0; SET_KEY_LEN];
    key[..18].copy_from_slice(&suite_key(&set.pool, set.ciphersuite));
    key[18..22].copy_from_slice(&set.expiry_day.to_be_bytes());
    key[22..].copy_from_slice(&set.id);
    key
}

/// Reads a key that [`set_key`] wrote.
pub(super) fn set_of(key: &[u8]) -> Option<ConsumedSet> {
    let (pool, rest) = key.split_first_chunk()?;
    let (ciphersuite, rest) = rest.split_first_chunk()?;
    let (expiry_day, rest) = rest.split_first_chunk()?;
    Some(ConsumedSet {
        pool: *pool,
        ciphersuite: u16::from_be_bytes(*ciphersuite),
        expiry_day: u32::from_be_bytes(*expiry_day),
        id: rest.try_into().ok()?,
    })
}
