//! The blocking side: reads and writes of one open database.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ds_domain::engine::{EngineError, Found, Key, Range, Read, Row, Table};
use rocksdb::{
    ColumnFamily, DB, Direction, ErrorKind, IteratorMode, ReadOptions, ReadTier, WriteBatch,
    WriteOptions,
};
use service::high_water::HighWater;
use service::probe::Trouble;
use service::shutdown::Shutdown;

use crate::tables;

/// Reading everything leaves the disk to others for a while, after so many bytes.
const READ_AT_ONCE: usize = 4 << 20;
const READ_PAUSE: Duration = Duration::from_millis(10);

pub(crate) struct Database {
    pub(crate) db: DB,
    /// Writes take their numbers one after the other, so that the mark is exact.
    pub(crate) in_turn: Mutex<()>,
    /// How far writes were acknowledged.
    pub(crate) high_water: HighWater,
    pub(crate) trouble: Trouble,
    /// What a read found that is not what was written.
    pub(crate) damage: OnceLock<String>,
}

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// Only what is in memory.
    Memory,
    /// Wherever it is.
    Disk,
}

/// Why a read gave nothing.
pub(crate) enum Unread {
    /// It is not in memory.
    OnDisk,
    /// See [`EngineError`].
    Failed(EngineError),
}

impl std::convert::From<EngineError> for Unread {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

fn failed(error: rocksdb::Error) -> EngineError {
    EngineError(error.to_string())
}

fn options(from: From) -> ReadOptions {
    let mut options = ReadOptions::default();
    if from == From::Memory {
        options.set_read_tier(ReadTier::BlockCache);
    }
    options
}

impl Database {
    pub(crate) fn table(&self, table: Table) -> Result<&ColumnFamily, EngineError> {
        self.db
            .cf_handle(table.name())
            .ok_or_else(|| EngineError(format!("table {} is not open", table.name())))
    }

    /// As [`failed`], for a read: of a file that is damaged or gone it is noted.
    fn unread(&self, error: rocksdb::Error) -> Unread {
        let is_damage = match error.kind() {
            ErrorKind::Incomplete => return Unread::OnDisk,
            ErrorKind::IOError => error.as_ref().contains("No such file"),
            kind => kind == ErrorKind::Corruption,
        };
        if is_damage && self.damage.set(error.to_string()).is_ok() {
            tracing::error!(%error, "the store is damaged");
            self.trouble.report();
        }
        Unread::Failed(failed(error))
    }

    /// A row, wherever it is.
    pub(crate) fn value(&self, key: &Key) -> Result<Option<Vec<u8>>, EngineError> {
        self.value_from(key, From::Disk)
            .map_err(|unread| match unread {
                Unread::Failed(error) => error,
                Unread::OnDisk => EngineError("a read did not go to the disk".to_owned()),
            })
    }

    fn value_from(&self, key: &Key, from: From) -> Result<Option<Vec<u8>>, Unread> {
        self.db
            .get_cf_opt(
                self.table(key.table)?,
                tables::stored_key(key),
                &options(from),
            )
            .map_err(|error| self.unread(error))
    }

    fn range_from(&self, range: &Range, from: From) -> Result<Vec<Row>, Unread> {
        let table = self.table(range.table)?;
        let prefix = tables::named(range.table, range.day, &range.prefix);
        let first = tables::named(range.table, range.day, &range.from);
        let mut options = options(from);
        if let Some(end) = tables::after(&prefix) {
            options.set_iterate_upper_bound(end);
        }
        let mode = IteratorMode::From(&first, Direction::Forward);
        let mut rows = Vec::new();
        let mut bytes = 0usize;
        for row in self.db.iterator_cf_opt(table, options, mode) {
            if rows.len() >= range.limit || bytes >= range.max_bytes {
                break;
            }
            let (key, value) = row.map_err(|error| self.unread(error))?;
            if !key.starts_with(&prefix) {
                break;
            }
            let name = key
                .get(tables::prefix_len(range.table)..)
                .unwrap_or_default();
            bytes = bytes.saturating_add(value.len());
            rows.push((name.to_vec(), value.into_vec()));
        }
        Ok(rows)
    }

    pub(crate) fn read(&self, reads: &[Read], from: From) -> Result<Vec<Found>, Unread> {
        reads
            .iter()
            .map(|read| match read {
                Read::Row(key) => self.value_from(key, from).map(Found::Row),
                Read::Range(range) => self.range_from(range, from).map(Found::Range),
            })
            .collect()
    }

    /// All of it, durably.
    pub(crate) fn write(&self, rows: WriteBatch) -> Result<(), EngineError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let _alone = self.in_turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.db.write_opt(rows, &options).map_err(|error| {
            self.trouble.report();
            failed(error)
        })?;
        // The sync made all before it durable, too.
        let durable = self.db.latest_sequence_number();
        self.high_water.raise(durable).map_err(|error| {
            self.trouble.report();
            EngineError(error.to_string())
        })
    }

    /// Drops a range of keys: `from` and what follows, up to `to`. What is lost of it in a crash is
    /// dropped next time.
    pub(crate) fn drop_range(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
    ) -> Result<(), EngineError> {
        let family = self.table(table)?;
        // Whole files go at once; the rest at compaction.
        self.db
            .delete_file_in_range_cf(family, from, to)
            .map_err(failed)?;
        let mut rows = WriteBatch::default();
        rows.delete_range_cf(family, from, to);
        let _alone = self.in_turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.db
            .write_opt(rows, &WriteOptions::default())
            .map_err(|error| {
                self.trouble.report();
                failed(error)
            })
    }

    /// Reads every row until the process is to end; how many.
    pub(crate) fn read_all(&self, table: Table, shutdown: &Shutdown) -> Result<u64, EngineError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(READ_AT_ONCE / 2);
        let mut rows = self.db.raw_iterator_cf_opt(self.table(table)?, options);
        let (mut read, mut count) = (0usize, 0u64);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            if shutdown.is_requested() {
                return Ok(count);
            }
            count = count.saturating_add(1);
            read = read.saturating_add(key.len()).saturating_add(value.len());
            if read >= READ_AT_ONCE {
                read = 0;
                std::thread::sleep(READ_PAUSE);
            }
            rows.next();
        }
        rows.status().map_err(|error| match self.unread(error) {
            Unread::Failed(error) => error,
            Unread::OnDisk => EngineError("a read did not go to the disk".to_owned()),
        })?;
        Ok(count)
    }

    pub(crate) fn flush(&self) -> Result<(), EngineError> {
        Table::ALL
            .into_iter()
            .try_for_each(|table| self.db.flush_cf(self.table(table)?).map_err(failed))
    }

    pub(crate) fn estimated_rows(&self, table: Table) -> Result<u64, EngineError> {
        let property = rocksdb::properties::ESTIMATE_NUM_KEYS;
        let rows = self
            .db
            .property_int_value_cf(self.table(table)?, property)
            .map_err(failed)?;
        Ok(rows.unwrap_or(0))
    }
}
