//! The embedded engine: RocksDB in one directory.
//!
//! Every batch is durable before the call returns; those that come at the same time share an fsync
//! ([`committer`]). RocksDB gives a directory to one process, so conditions need no lock beyond the
//! one thread that writes.
//!
//! * **Crash**: a batch is in the log as a whole or not at all.
//! * **Cancellation**: a batch that was handed in is written although nobody waits for it. The
//!   result record tells the retry.
//! * **[`EngineError`] from a write**: the disk failed or is full. RocksDB goes on by itself when
//!   there is space again; else it has to be opened again ([`Rocks::trouble`]). Then the batch is
//!   there as a whole or not at all. The result record tells.
//! * **Damage**: [`Rocks::open`] refuses a directory that lacks a file or anything which was
//!   acknowledged. Damage inside a table file is found when it is read
//!   ([`Rocks::read_everything`]), never answered from.

mod committer;
mod database;
mod tables;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use async_trait::async_trait;
use ds_domain::engine::{ApplyError, Batch, Engine, EngineError, Found, Key, Read, Table};
use rocksdb::{DB, ErrorKind};
use service::founding::{self, Refusal};
use service::high_water::{self, HighWater};
use service::probe::Trouble;
use service::shutdown::Shutdown;

use self::committer::Committer;
use self::database::{Database, From, Unread};
use self::tables::Log;

/// Version of tables, keys and values. Another one is refused at open.
const FORMAT: u32 = 1;

fn format_key() -> Key {
    Key {
        table: Table::Store,
        day: 0,
        name: b"format".to_vec(),
    }
}

/// What a directory has at least.
const FILES: [&str; 2] = ["CURRENT", high_water::FILE];

/// RocksDB as an [`Engine`].
pub struct Rocks {
    database: Arc<Database>,
    committer: Committer,
}

impl std::fmt::Debug for Rocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rocks(..)")
    }
}

/// Why a store is not made or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not the one, or not whole.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Rocks {
    /// Makes an empty database in this directory, which is empty or not there.
    ///
    /// # Errors
    /// [`Refusal::Occupied`]; the directory cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        founding::claim_empty_directory(path)?;
        let db = tables::create(path).map_err(|error| refusal(path, &error))?;
        let rocks = Self::of(db, HighWater::create(path)?)?;
        let mut rows = rocksdb::WriteBatch::default();
        let key = format_key();
        rows.put_cf(
            rocks.database.table(key.table)?,
            tables::stored_key(&key),
            FORMAT.to_be_bytes(),
        );
        rocks.database.write(rows)?;
        Ok(rocks)
    }

    /// Opens the database in this directory. Blocks while the log of the last run is replayed.
    ///
    /// # Errors
    /// The directory is not there, empty, in use by another process, damaged, not writable, lacks
    /// what was acknowledged, or was written in a format that this version doesn't know.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        // Before the engine sees it: that writes a new `CURRENT`, and then takes all else for
        // garbage.
        founding::inspect(path, "ds", &FILES)?;
        if tables::has_unknown(path).map_err(|error| refusal(path, &error))? {
            return Err(EngineError(
                "the database has tables that this version doesn't know".to_owned(),
            )
            .into());
        }
        // First without writing: an engine that finds a log cut off goes on from there for good.
        let high_water = HighWater::open(path)?;
        let log = usable(path, &high_water)?;
        let db = tables::open(path, log).map_err(|error| refusal(path, &error))?;
        high_water.check(db.latest_sequence_number())?;
        let rocks = Self::of(db, high_water)?;
        match rocks.database.value(&format_key())? {
            Some(format) if *format == FORMAT.to_be_bytes() => Ok(rocks),
            Some(_) => {
                Err(EngineError("the database was written in another format".to_owned()).into())
            }
            None => Err(EngineError(
                "the database does not say its format: it was not made whole".to_owned(),
            )
            .into()),
        }
    }

    fn of(db: DB, high_water: HighWater) -> Result<Self, OpenError> {
        let database = Arc::new(Database {
            db,
            in_turn: Mutex::new(()),
            high_water,
            trouble: Trouble::default(),
            damage: OnceLock::new(),
        });
        let committer = Committer::start(Arc::clone(&database))
            .map_err(|error| EngineError(format!("no thread to write with: {error}")))?;
        Ok(Self {
            database,
            committer,
        })
    }

    /// Reports writes that failed.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        self.database.trouble.clone()
    }

    /// Reads every row, at leisure, until it is told to end: what is damaged is found before
    /// somebody needs it. Blocks. Returns how many rows were read.
    ///
    /// # Errors
    /// [`EngineError`]; from then on the store takes no writes, so it is not ready.
    pub fn read_everything(&self, shutdown: &Shutdown) -> Result<u64, EngineError> {
        let mut rows = 0u64;
        for table in Table::ALL {
            rows = rows.saturating_add(self.database.read_all(table, shutdown)?);
        }
        Ok(rows)
    }

    /// Writes all that is in memory to table files. Nothing depends on it (the log has everything);
    /// it makes the next start quick, and a scan of the files complete.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn flush(&self) -> Result<(), EngineError> {
        self.blocking(Database::flush).await
    }

    /// Estimated number of rows of each table, by its name: cheap, for metrics.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn estimated_rows(&self) -> Result<Vec<(&'static str, u64)>, EngineError> {
        Table::ALL
            .iter()
            .map(|table| Ok((table.name(), self.database.estimated_rows(*table)?)))
            .collect()
    }

    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Database) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let database = Arc::clone(&self.database);
        match tokio::task::spawn_blocking(move || call(&database)).await {
            Ok(answer) => answer,
            // Not its text: a panic message may quote data.
            Err(error) if error.is_panic() => {
                Err(EngineError("a storage call panicked".to_owned()))
            }
            Err(_) => Err(EngineError("the runtime is shutting down".to_owned())),
        }
    }
}

#[async_trait]
impl Engine for Rocks {
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Found>, EngineError> {
        // Nearly everything is in memory: no other thread for that.
        match self.database.read(&reads, From::Memory) {
            Ok(found) => return Ok(found),
            Err(Unread::Failed(error)) => return Err(error),
            Err(Unread::OnDisk) => {}
        }
        self.blocking(move |database| {
            database
                .read(&reads, From::Disk)
                .map_err(|unread| match unread {
                    Unread::Failed(error) => error,
                    Unread::OnDisk => EngineError("a read did not go to the disk".to_owned()),
                })
        })
        .await
    }

    async fn apply(&self, batch: Batch) -> Result<(), ApplyError> {
        if let Some(damage) = self.database.damage.get() {
            return Err(EngineError(damage.clone()).into());
        }
        self.committer.apply(batch).await
    }

    async fn drop_days(&self, table: Table, before: u32) -> Result<(), EngineError> {
        if !table.has_days() {
            return Ok(());
        }
        self.blocking(move |database| database.drop_range(table, &[], &before.to_be_bytes()))
            .await
    }

    async fn drop_prefix(&self, table: Table, prefix: Vec<u8>) -> Result<(), EngineError> {
        let Some(end) = tables::after(&prefix) else {
            return Err(EngineError("a prefix without end".to_owned()));
        };
        self.blocking(move |database| database.drop_range(table, &prefix, &end))
            .await
    }
}

/// How much of the log of a database can be taken: nothing that was acknowledged may be missing.
/// Changes nothing.
fn usable(path: &Path, high_water: &HighWater) -> Result<Log, Refusal> {
    match tables::look(path, Log::Whole) {
        Ok(seen) => {
            has_its_files(path, seen.damaged)?;
            high_water.check(seen.last_write).map(|()| Log::Whole)
        }
        Err(error) if error.kind() == ErrorKind::Corruption => {
            // A power failure can leave a hole in what was not synced: later pages of it were
            // written, earlier ones not. What is in front of it counts as if the log ended there.
            let seen = tables::look(path, Log::UpToHole).ok();
            let found = seen.as_ref().map(|seen| seen.last_write);
            has_its_files(path, seen.and_then(|seen| seen.damaged))?;
            high_water.pass_over_hole(found, error.as_ref())?;
            Ok(Log::UpToHole)
        }
        Err(error) => Err(refusal(path, &error)),
    }
}

fn has_its_files(path: &Path, damaged: Option<String>) -> Result<(), Refusal> {
    let path = path.to_owned();
    damaged.map_or(Ok(()), |what| Err(Refusal::Damaged { path, what }))
}

fn refusal(path: &Path, error: &rocksdb::Error) -> Refusal {
    Refusal::of_rocksdb(path, error.kind() == ErrorKind::IOError, error.to_string())
}
