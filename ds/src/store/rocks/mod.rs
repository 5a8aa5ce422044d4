//! The embedded engine: RocksDB in one directory.
//!
//! Every transition is one `WriteBatch`, synced before the call returns; concurrent ones share an
//! fsync by themselves. Conditions are guarded by [`stripes`]: RocksDB gives a directory to one
//! process, so locks in this process are enough.
//!
//! * **Crash**: a batch is in the log as a whole or not at all. One exception, without harm: a payload
//!   whose last reference was given up right before the crash stays until its day expires.
//! * **Cancellation**: a call runs on a blocking thread; if its future is dropped, the transition is
//!   carried out all the same. The result record tells the retry.
//! * **[`StoreError::Engine`] from a write**: the disk failed or is full. RocksDB goes on by itself when
//!   there is space again; else it has to be opened again ([`Rocks::trouble`]). Then the transition is
//!   there as a whole or not at all. The result record tells.
//! * **Damage**: [`Rocks::open`] refuses a directory that lacks anything which was acknowledged. Damage
//!   inside a table file is found when it is read ([`Rocks::read_everything`]), never answered from.

#[cfg(test)]
pub(in crate::store) mod crash_tests;
mod issuer_keys;
mod pools;
mod queues;
mod reads;
mod stripes;
mod tables;
#[cfg(test)]
mod tests;
mod transitions;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use crypto::rows::Row;
use protocol::ids::Incarnation;
use rocksdb::{
    ColumnFamily, DB, DBPinnableSlice, ErrorKind, ReadOptions, WriteBatch, WriteOptions,
};
use service::founding::{self, Refusal};
use service::high_water::{self, HighWater};
use service::probe::Trouble;
use service::shutdown::Shutdown;

use self::stripes::Stripes;
use self::tables::{Log, Table};
use super::{
    Advance, ClaimableSet, ConsumedSet, DayRow, Deliveries, ExpiryDays, Foundation,
    FoundationError, GroupDeletion, NewGroup, NewKeyPackageSet, Note, Parts, Receipt, Reservation,
    RetiredIssuerKey, SetCount, Spend, Store, StoreError, StoredGroup, Version,
};

/// Version of tables, keys and values. Another one is refused at open.
const FORMAT: u32 = 1;
const FORMAT_KEY: &[u8] = b"format";

/// What a directory has at least.
const FILES: [&str; 2] = ["CURRENT", high_water::FILE];

/// Reading everything leaves the disk to others for a while, after so many bytes.
const READ_AT_ONCE: usize = 4 << 20;
const READ_PAUSE: Duration = Duration::from_millis(10);

/// RocksDB as a [`Store`].
#[derive(Clone)]
pub struct Rocks {
    engine: Arc<Engine>,
}

impl std::fmt::Debug for Rocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { engine: _ } = self;
        f.write_str("Rocks(..)")
    }
}

/// The blocking side.
struct Engine {
    db: DB,
    /// For conditions: versions, owners, results, tokens.
    conditions: Stripes,
    /// For acknowledgements, which hold hundreds of rows: apart, so that nobody else waits for them.
    entries: Stripes,
    /// For notes.
    notes: Mutex<()>,
    /// Writes that no sync of their own follows.
    soon: Soon,
    /// How far writes were acknowledged.
    high_water: HighWater,
    trouble: Trouble,
    /// What a read found that is not what was written.
    damage: OnceLock<String>,
}

impl Rocks {
    /// Makes an empty database in this directory, which is empty or not there.
    ///
    /// # Errors
    /// [`Refusal::Occupied`]; the directory cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, FoundationError> {
        let path = path.as_ref();
        founding::claim_empty_directory(path)?;
        let db = tables::create(path).map_err(|error| refusal(path, &error))?;
        let rocks = Self::of(db, HighWater::create(path)?);
        let mut batch = rocks.engine.batch();
        batch.put(Table::Meta, FORMAT_KEY, &FORMAT.to_be_bytes())?;
        batch.write()?;
        Ok(rocks)
    }

    /// Opens the database in this directory. Blocks while the log of the last run is replayed.
    ///
    /// # Errors
    /// The directory is not there, empty, in use by another process, damaged, not writable, lacks what
    /// was acknowledged, or was written in a format that this version doesn't know.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FoundationError> {
        let path = path.as_ref();
        // Before the engine sees it: that writes a new `CURRENT`, and then takes all else for garbage.
        founding::inspect(path, "ds", &FILES)?;
        if tables::has_unknown(path).map_err(|error| refusal(path, &error))? {
            return Err(StoreError::Engine(
                "the database has tables that this version doesn't know".to_owned(),
            )
            .into());
        }
        // First without writing: an engine that finds a log cut off goes on from there for good.
        let high_water = HighWater::open(path)?;
        let log = usable(path, &high_water)?;
        let db = tables::open(path, log).map_err(|error| refusal(path, &error))?;
        high_water.check(db.latest_sequence_number())?;
        let rocks = Self::of(db, high_water);
        rocks.engine.check_format()?;
        Ok(rocks)
    }

    fn of(db: DB, high_water: HighWater) -> Self {
        Self {
            engine: Arc::new(Engine {
                db,
                conditions: Stripes::new(),
                entries: Stripes::new(),
                notes: Mutex::new(()),
                soon: Soon::default(),
                high_water,
                trouble: Trouble::default(),
                damage: OnceLock::new(),
            }),
        }
    }

    /// Reports writes that failed.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        self.engine.trouble.clone()
    }

    /// Reads every row, at leisure, until it is told to end: what is damaged is found before somebody needs it.
    /// Blocks. Returns how many rows were read.
    ///
    /// # Errors
    /// [`StoreError::Engine`]; from then on the store takes no notes, so it is not ready.
    pub fn read_everything(&self, shutdown: &Shutdown) -> Result<u64, StoreError> {
        let mut rows = 0;
        for table in Table::ALL {
            rows += self.engine.read_all(table, shutdown)?;
        }
        Ok(rows)
    }

    /// Writes all that is in memory to table files. Nothing depends on it (the log has everything);
    /// it makes the next start quick, and a scan of the files complete.
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.blocking(Engine::flush).await
    }

    /// Estimated number of rows of each table, by its name: cheap, for metrics.
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    pub fn estimated_rows(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        Table::ALL
            .iter()
            .map(|table| Ok((table.name(), self.engine.estimated_rows(*table)?)))
            .collect()
    }

    /// Exact number of rows of each table, by its name: reads all of them, for tests and tools.
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    pub async fn count_rows(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        self.blocking(|engine| {
            Table::ALL
                .iter()
                .map(|table| Ok((table.name(), engine.count_rows(*table)?)))
                .collect()
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let engine = Arc::clone(&self.engine);
        match tokio::task::spawn_blocking(move || call(&engine)).await {
            Ok(answer) => answer,
            // Not its text: a panic message may quote data.
            Err(error) if error.is_panic() => {
                Err(StoreError::Engine("a storage call panicked".to_owned()))
            }
            Err(_) => Err(StoreError::Engine(
                "the runtime is shutting down".to_owned(),
            )),
        }
    }
}

/// How much of the log of a database can be taken: nothing that was acknowledged may be missing. Changes
/// nothing.
fn usable(path: &Path, high_water: &HighWater) -> Result<Log, Refusal> {
    match tables::last_write(path, Log::Whole) {
        Ok(found) => high_water.check(found).map(|()| Log::Whole),
        Err(error) if error.kind() == ErrorKind::Corruption => {
            // A power failure can leave a hole in what was not synced: later pages of it were written, earlier
            // ones not. What is in front of it counts as if the log ended there.
            let found = tables::last_write(path, Log::UpToHole).ok();
            high_water.pass_over_hole(found, error.as_ref())?;
            Ok(Log::UpToHole)
        }
        Err(error) => Err(refusal(path, &error)),
    }
}

/// What RocksDB says, for the trace.
fn failed(error: rocksdb::Error) -> StoreError {
    StoreError::Engine(error.to_string())
}

/// Why RocksDB does not open a directory, in words for its operator.
fn refusal(path: &Path, error: &rocksdb::Error) -> Refusal {
    let path: PathBuf = path.to_owned();
    let what = error.to_string();
    match error.kind() {
        ErrorKind::IOError if what.contains("While lock file") || what.contains("lock hold by") => {
            Refusal::InUse { path }
        }
        ErrorKind::IOError if !what.contains("No such file") => Refusal::Io {
            path,
            error: std::io::Error::other(what),
        },
        _ => Refusal::Damaged { path, what },
    }
}

fn malformed(table: Table) -> StoreError {
    StoreError::Engine(format!("a row of table {} is malformed", table.name()))
}

impl Engine {
    fn check_format(&self) -> Result<(), StoreError> {
        match self.read(Table::Meta, FORMAT_KEY)? {
            Some(format) if *format == FORMAT.to_be_bytes() => Ok(()),
            Some(_) => Err(StoreError::Engine(
                "the database was written in another format".to_owned(),
            )),
            None => Err(StoreError::Engine(
                "the database does not say its format: it was not made whole".to_owned(),
            )),
        }
    }

    /// As [`failed`], for a read: of a damaged file it is noted.
    fn unread(&self, error: rocksdb::Error) -> StoreError {
        if error.kind() == ErrorKind::Corruption && self.damage.set(error.to_string()).is_ok() {
            tracing::error!(%error, "the store is damaged");
            self.trouble.report();
        }
        failed(error)
    }

    fn read_all(&self, table: Table, shutdown: &Shutdown) -> Result<u64, StoreError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(READ_AT_ONCE / 2);
        let mut rows = self.db.raw_iterator_cf_opt(self.table(table)?, options);
        let (mut read, mut count) = (0, 0);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            if shutdown.is_requested() {
                return Ok(count);
            }
            count += 1;
            read += key.len() + value.len();
            if read >= READ_AT_ONCE {
                read = 0;
                std::thread::sleep(READ_PAUSE);
            }
            rows.next();
        }
        rows.status().map_err(|error| self.unread(error))?;
        Ok(count)
    }

    fn flush(&self) -> Result<(), StoreError> {
        for table in Table::ALL {
            self.db.flush_cf(self.table(table)?).map_err(failed)?;
        }
        Ok(())
    }

    fn estimated_rows(&self, table: Table) -> Result<u64, StoreError> {
        let property = rocksdb::properties::ESTIMATE_NUM_KEYS;
        let rows = self
            .db
            .property_int_value_cf(self.table(table)?, property)
            .map_err(failed)?;
        Ok(rows.unwrap_or(0))
    }

    fn count_rows(&self, table: Table) -> Result<u64, StoreError> {
        let mut rows = self.db.raw_iterator_cf(self.table(table)?);
        let mut count = 0u64;
        rows.seek_to_first();
        while rows.valid() {
            count = count.saturating_add(1);
            rows.next();
        }
        rows.status().map_err(failed)?;
        Ok(count)
    }

    fn table(&self, table: Table) -> Result<&ColumnFamily, StoreError> {
        let missing = || StoreError::Engine(format!("table {} is not open", table.name()));
        self.db.cf_handle(table.name()).ok_or_else(missing)
    }

    fn read(&self, table: Table, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, StoreError> {
        self.db
            .get_pinned_cf(self.table(table)?, key)
            .map_err(|error| self.unread(error))
    }

    fn has(&self, table: Table, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.read(table, key)?.is_some())
    }

    fn batch(&self) -> Batch<'_> {
        self.batch_of(0)
    }

    /// A batch with room for this many bytes.
    fn batch_of(&self, capacity: usize) -> Batch<'_> {
        Batch {
            engine: self,
            // A commit in a group of a thousand writes a megabyte: not copied ten times on the way there.
            rows: WriteBatch::with_capacity_bytes(capacity),
        }
    }
}

/// Counts writes that no sync of their own follows.
#[derive(Default)]
struct Soon {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// One of them, until dropped.
struct UnderWay<'a>(&'a Soon);

impl Soon {
    fn begin(&self) -> UnderWay<'_> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        UnderWay(self)
    }

    /// That none is under way, and how many have begun so far.
    fn quiet(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::SeqCst);
        (self.begun.load(Ordering::SeqCst) == ended).then_some(ended)
    }

    /// Whether none has begun since.
    fn is_still(&self, quiet: Option<u64>) -> bool {
        quiet == Some(self.begun.load(Ordering::SeqCst))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

/// The writes of one transition.
struct Batch<'a> {
    engine: &'a Engine,
    rows: WriteBatch,
}

impl Batch<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.rows.put_cf(self.engine.table(table)?, key, value);
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.rows.delete_cf(self.engine.table(table)?, key);
        Ok(())
    }

    /// From the first key up to the second, which stays.
    fn delete_range(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.rows
            .delete_range_cf(self.engine.table(table)?, from, to);
        Ok(())
    }

    /// Adds to a reference count without reading it.
    fn add(&mut self, table: Table, key: &[u8], change: i64) -> Result<(), StoreError> {
        self.rows
            .merge_cf(self.engine.table(table)?, key, change.to_be_bytes());
        Ok(())
    }

    /// All of it, durably.
    fn write(self) -> Result<(), StoreError> {
        self.write_with(true)
    }

    /// All of it or nothing, durable with the next synced write: for what may be lost in a crash.
    fn write_soon(self) -> Result<(), StoreError> {
        self.write_with(false)
    }

    fn write_with(self, sync: bool) -> Result<(), StoreError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        let Engine {
            db,
            soon,
            high_water,
            trouble,
            ..
        } = self.engine;
        let quiet = soon.quiet();
        let _under_way = (!sync).then(|| soon.begin());
        // The batch takes the numbers after this one, or later ones, and its sync makes all before it
        // durable, too.
        let durable = db
            .latest_sequence_number()
            .saturating_add(self.rows.len() as u64);
        db.write_opt(self.rows, &options).map_err(|error| {
            trouble.report();
            failed(error)
        })?;
        if sync {
            // Where every write since is synced, what is visible is durable, also of those beside this one.
            let visible = db.latest_sequence_number();
            let durable = if soon.is_still(quiet) {
                visible
            } else {
                durable
            };
            high_water.raise(durable).map_err(|error| {
                trouble.report();
                StoreError::Engine(error.to_string())
            })?;
        }
        Ok(())
    }
}

#[async_trait]
impl Foundation for Rocks {
    async fn note(&self, note: Note) -> Result<Option<Vec<u8>>, StoreError> {
        self.blocking(move |engine| engine.value(Table::Notes, note.name().as_bytes()))
            .await
    }

    async fn write_note(&self, note: Note, value: Vec<u8>) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.write_note(note, &value))
            .await
    }

    async fn replace_note(
        &self,
        note: Note,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    ) -> Result<(), StoreError> {
        self.blocking(move |engine| {
            // The directory belongs to this process.
            let _alone = engine.notes.lock().unwrap_or_else(PoisonError::into_inner);
            if engine.value(Table::Notes, note.name().as_bytes())? != expected {
                return Err(StoreError::Conflict);
            }
            engine.write_note(note, &value)
        })
        .await
    }
}

impl Engine {
    fn write_note(&self, note: Note, value: &[u8]) -> Result<(), StoreError> {
        if let Some(damage) = self.damage.get() {
            return Err(StoreError::Engine(damage.clone()));
        }
        let mut batch = self.batch();
        batch.put(Table::Notes, note.name().as_bytes(), value)?;
        batch.write()
    }
}

#[async_trait]
impl Store for Rocks {
    async fn result(&self, at: DayRow) -> Result<Option<Vec<u8>>, StoreError> {
        self.blocking(move |engine| engine.value(Table::Results, &tables::day_key(&at)))
            .await
    }

    async fn reserve_group(
        &self,
        reservation: Reservation,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.reserve_group(&reservation, &receipt))
            .await
    }

    async fn create_group(&self, group: NewGroup, receipt: Receipt) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.create_group(&group, &receipt))
            .await
    }

    async fn use_up_reservation(
        &self,
        group: Row,
        reservation_days: Vec<u32>,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.blocking(move |engine| {
            engine.use_up_reservation(&group, &reservation_days, &owner_tag, &receipt)
        })
        .await
    }

    async fn reservation(&self, at: Vec<DayRow>) -> Result<Option<[u8; 32]>, StoreError> {
        self.blocking(move |engine| engine.reservation(&at)).await
    }

    async fn key_check(&self, group: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.blocking(move |engine| engine.value(Table::KeyChecks, &group))
            .await
    }

    async fn group(&self, group: Row, parts: Parts) -> Result<Option<StoredGroup>, StoreError> {
        self.blocking(move |engine| engine.group(&group, parts))
            .await
    }

    async fn advance_group(&self, advance: Advance, receipt: Receipt) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.advance_group(&advance, &receipt))
            .await
    }

    async fn delete_group(
        &self,
        deletion: GroupDeletion,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.delete_group(&deletion, &receipt))
            .await
    }

    async fn deliver_to_group(
        &self,
        group: Row,
        expected: Version,
        deliveries: Deliveries,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.blocking(move |engine| {
            engine.deliver_to_group(&group, &expected, &deliveries, &receipt)
        })
        .await
    }

    async fn deliver(&self, deliveries: Deliveries, receipt: Receipt) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.deliver(&deliveries, &receipt))
            .await
    }

    async fn join_record(&self, at: Vec<DayRow>) -> Result<Option<Vec<u8>>, StoreError> {
        self.blocking(move |engine| engine.join_record(&at)).await
    }

    async fn recovery_record(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.blocking(move |engine| engine.value(Table::Recovery, &row))
            .await
    }

    async fn create_queue(
        &self,
        row: Row,
        sealed: Vec<u8>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.create_queue(&row, &sealed, &receipt))
            .await
    }

    async fn queue(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.blocking(move |engine| engine.value(Table::Queues, &row))
            .await
    }

    async fn queues(&self, rows: Vec<Row>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.blocking(move |engine| engine.queues(&rows)).await
    }

    async fn replace_queue(
        &self,
        row: Row,
        expected: Vec<u8>,
        sealed: Option<Vec<u8>>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.blocking(move |engine| {
            engine.replace_queue(&row, &expected, sealed.as_deref(), &receipt)
        })
        .await
    }

    async fn register_incarnation(
        &self,
        day: u32,
        incarnation: Incarnation,
    ) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.register_incarnation(day, &incarnation))
            .await
    }

    async fn incarnations(&self) -> Result<Vec<(u32, Incarnation)>, StoreError> {
        self.blocking(Engine::incarnations).await
    }

    async fn blocks(&self, at: Vec<DayRow>) -> Result<Vec<bool>, StoreError> {
        self.blocking(move |engine| engine.present(Table::Blocks, &at))
            .await
    }

    async fn entries(&self, at: Vec<DayRow>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.blocking(move |engine| engine.values(Table::Entries, &at))
            .await
    }

    async fn payloads(&self, at: Vec<DayRow>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.blocking(move |engine| engine.values(Table::Payloads, &at))
            .await
    }

    async fn acknowledge(&self, entries: Vec<(DayRow, DayRow)>) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.acknowledge(entries))
            .await
    }

    async fn publish_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        sets: Vec<NewKeyPackageSet>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.publish_key_packages(&pool, &owner_tag, &sets, &receipt))
            .await
    }

    async fn delete_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.delete_key_packages(&pool, &owner_tag, &receipt))
            .await
    }

    async fn count_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        today: u32,
    ) -> Result<Vec<SetCount>, StoreError> {
        self.blocking(move |engine| engine.count_key_packages(&pool, &owner_tag, today))
            .await
    }

    async fn claimable_set(
        &self,
        pool: Row,
        ciphersuite: u16,
        today: u32,
        pick: u64,
    ) -> Result<Option<ClaimableSet>, StoreError> {
        self.blocking(move |engine| engine.claimable_set(&pool, ciphersuite, today, pick))
            .await
    }

    async fn claim_key_packages(
        &self,
        sets: Vec<ConsumedSet>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.claim_key_packages(&sets, &receipt))
            .await
    }

    async fn register_handle(
        &self,
        row: Row,
        owner_tag: [u8; 32],
        sealed: Vec<u8>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.register_handle(&row, &owner_tag, &sealed, &receipt))
            .await
    }

    async fn handle(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.blocking(move |engine| engine.handle(&row)).await
    }

    async fn delete_handle(
        &self,
        row: Row,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.delete_handle(&row, &owner_tag, &receipt))
            .await
    }

    async fn is_spent(&self, spends: Vec<Spend>) -> Result<bool, StoreError> {
        self.blocking(move |engine| engine.is_spent(&spends)).await
    }

    async fn settle(&self, receipt: Receipt) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.settle(&receipt)).await
    }

    async fn expire(&self, before: ExpiryDays) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.expire(before)).await
    }

    async fn spent_issuer_keys(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        self.blocking(Engine::spent_issuer_keys).await
    }

    async fn retire_issuer_key(
        &self,
        issuer_key_id: [u8; 32],
        since_ms: u64,
    ) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.retire_issuer_key(&issuer_key_id, since_ms))
            .await
    }

    async fn readmit_issuer_key(&self, issuer_key_id: [u8; 32]) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.readmit_issuer_key(&issuer_key_id))
            .await
    }

    async fn retired_issuer_keys(&self) -> Result<Vec<RetiredIssuerKey>, StoreError> {
        self.blocking(Engine::retired_issuer_keys).await
    }

    async fn drop_spent(&self, issuer_key_id: [u8; 32]) -> Result<(), StoreError> {
        self.blocking(move |engine| engine.drop_spent(&issuer_key_id))
            .await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.blocking(|engine| engine.has(Table::Meta, FORMAT_KEY).map(|_| ()))
            .await
    }
}
