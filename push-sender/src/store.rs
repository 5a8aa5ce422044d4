//! The rows of devices, in SQLite. One process has the file open.
//!
//! A row is `name || tag || week || sealed`: a keyed hash of the device, one of its address
//! (without an address: random bytes), the week in which its owner last was here, and the sealed
//! record. So a copy of the disk shows how many devices there are, which have the same address, the
//! week, and which have many ended handles. The write-ahead log shows that of some earlier writes
//! too, and their order.

use std::cell::Cell;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};
use service::founding::{self, BoundKey, Refusal, StoreId};

use crate::PROGRAM;

const FILE: &str = "push.sqlite3";
const FORMAT: i64 = 1;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database failed: {0}")]
    Engine(String),
    #[error("the database has another format, or is damaged")]
    Format,
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        // The code alone: the text may hold values.
        Self::Engine(match error.sqlite_error_code() {
            Some(code) => format!("{code:?}"),
            None => "unexpected form".to_owned(),
        })
    }
}

pub(crate) struct Store {
    db: Connection,
    /// Counted once: SQLite would look at every row.
    devices: Cell<u64>,
}

/// A device's row.
pub(crate) struct Row {
    pub(crate) tag: [u8; 32],
    pub(crate) week: u16,
    pub(crate) sealed: Vec<u8>,
}

impl Store {
    /// Makes an empty store in an empty directory, bound to `keys`.
    pub(crate) fn create(directory: &Path, keys: &[BoundKey<'_>]) -> Result<StoreId, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let store = Self::connect(directory, flags)?;
        let id = StoreId::generate()?;
        store.db.execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
             CREATE TABLE devices (
                 name BLOB PRIMARY KEY, tag BLOB NOT NULL, week INTEGER NOT NULL, sealed BLOB NOT NULL
             ) WITHOUT ROWID;
             CREATE INDEX devices_by_tag ON devices (tag);
             CREATE INDEX devices_by_week ON devices (week);",
        )?;
        store.set("binding", &founding::binding(id, keys))?;
        store.db.pragma_update(None, "user_version", FORMAT)?;
        store.db.execute_batch("COMMIT")?;
        Ok(id)
    }

    /// Opens the store, if it is whole and bound to `keys`.
    pub(crate) fn open(
        directory: &Path,
        keys: &[BoundKey<'_>],
    ) -> Result<(Self, StoreId), StoreError> {
        founding::inspect(directory, PROGRAM, &[FILE])?;
        let store = Self::connect(directory, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(
            |error| match error {
                StoreError::Engine(code) if code == format!("{:?}", ErrorCode::DatabaseBusy) => {
                    Refusal::InUse {
                        path: directory.to_owned(),
                    }
                    .into()
                }
                StoreError::Engine(what) => Refusal::Damaged {
                    path: directory.join(FILE),
                    what,
                }
                .into(),
                other => other,
            },
        )?;
        let format: i64 = store
            .db
            .pragma_query_value(None, "user_version", |row| row.get(0))?;
        if format != FORMAT {
            return Err(StoreError::Format);
        }
        let binding: Option<Vec<u8>> = store
            .db
            .query_row("SELECT value FROM meta WHERE name = 'binding'", [], |row| {
                row.get(0)
            })
            .optional()?;
        let place = directory.display().to_string();
        let id = founding::check_binding(binding.as_deref(), &place, keys)?;
        let sql = "SELECT count(*) FROM devices";
        let devices = store.db.query_row(sql, [], |row| row.get(0))?;
        store.devices.set(devices);
        Ok((store, id))
    }

    /// Every write is on the disk when it has been answered.
    fn connect(directory: &Path, flags: OpenFlags) -> Result<Self, StoreError> {
        let db = Connection::open_with_flags(
            directory.join(FILE),
            flags | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        // One process has it for good: there is nothing to wait for.
        db.busy_timeout(std::time::Duration::ZERO)?;
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        // What is dropped is overwritten, and goes from the log with some thirty further writes.
        db.pragma_update(None, "secure_delete", true)?;
        db.pragma_update(None, "wal_autocheckpoint", 100)?;
        db.pragma_update(None, "journal_size_limit", 0)?;
        // Takes the lock now, and not at the first request.
        db.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
        let devices = Cell::new(0);
        Ok(Self { db, devices })
    }

    fn set(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)";
        self.db.execute(sql, params![name, value])?;
        Ok(())
    }

    pub(crate) fn load(&self, name: &[u8; 32]) -> Result<Option<Row>, StoreError> {
        let sql = "SELECT tag, week, sealed FROM devices WHERE name = ?1";
        let mut statement = self.db.prepare_cached(sql)?;
        let row = statement
            .query_row([name], |row| {
                Ok(Row {
                    tag: row.get(0)?,
                    week: row.get(1)?,
                    sealed: row.get(2)?,
                })
            })
            .optional()?;
        Ok(row)
    }

    /// The row of a device that has none.
    pub(crate) fn add(&self, name: &[u8; 32], row: &Row) -> Result<(), StoreError> {
        self.put(name, row)?;
        self.devices.set(self.devices.get().saturating_add(1));
        Ok(())
    }

    pub(crate) fn put(&self, name: &[u8; 32], row: &Row) -> Result<(), StoreError> {
        let sql =
            "INSERT OR REPLACE INTO devices (name, tag, week, sealed) VALUES (?1, ?2, ?3, ?4)";
        let mut statement = self.db.prepare_cached(sql)?;
        statement.execute(params![name, row.tag, row.week, row.sealed])?;
        Ok(())
    }

    /// How many other records have this address.
    pub(crate) fn others_with(&self, tag: &[u8; 32], name: &[u8; 32]) -> Result<u32, StoreError> {
        let sql = "SELECT count(*) FROM devices WHERE tag = ?1 AND name <> ?2";
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement.query_row(params![tag, name], |row| row.get(0))?)
    }

    /// How many records there are, also of those that were removed.
    pub(crate) fn devices(&self) -> u64 {
        self.devices.get()
    }

    /// Drops the records whose owners were not here since `week`. Returns how many.
    pub(crate) fn drop_before(&self, week: u16) -> Result<usize, StoreError> {
        let sql = "DELETE FROM devices WHERE week < ?1";
        let dropped = self.db.execute(sql, [week])?;
        let left = self.devices.get().saturating_sub(dropped as u64);
        self.devices.set(left);
        Ok(dropped)
    }

    /// One durable write.
    pub(crate) fn probe(&self) -> Result<(), StoreError> {
        self.set("probe", &service::probe::BYTES)
    }
}

impl StoreError {
    /// Whether a write failed for the want of a disk.
    pub(crate) fn is_trouble(&self) -> bool {
        let Self::Engine(code) = self else {
            return false;
        };
        [
            ErrorCode::DiskFull,
            ErrorCode::SystemIoFailure,
            ErrorCode::ReadOnly,
            ErrorCode::DatabaseCorrupt,
        ]
        .iter()
        .any(|trouble| *code == format!("{trouble:?}"))
    }
}
