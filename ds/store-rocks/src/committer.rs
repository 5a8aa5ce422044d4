//! The one thread that writes. It takes all batches that have come while the last ones were synced,
//! looks at their conditions one after the other, and writes those that hold together: one log
//! record and one fsync for all of them. No row is locked, and batches have one order.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use ds_domain::engine::{ApplyError, Batch, EngineError, Key};
use rocksdb::WriteBatch;
use tokio::sync::oneshot;

use crate::database::Database;
use crate::tables;

/// Batches that are written together.
const AT_ONCE: usize = 256;
/// No further batch joins once these many bytes are to be written.
const BYTES_AT_ONCE: usize = 4 << 20;
/// A key with all that stands beside it in a write.
const ROOM_FOR_KEY: usize = Key::MAX_NAME + 16;
/// Batches that wait; who comes then waits to wait.
const WAITING: usize = 4_096;

struct Job {
    batch: Batch,
    done: oneshot::Sender<Result<(), ApplyError>>,
}

/// Hands batches to the thread.
pub(crate) struct Committer {
    jobs: Mutex<Option<SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    pub(crate) fn start(database: Arc<Database>) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || run(&database, &receiver))?;
        Ok(Self {
            jobs: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(crate) async fn apply(&self, batch: Batch) -> Result<(), ApplyError> {
        let ended = || EngineError("the store has ended".to_owned());
        let (done, answer) = oneshot::channel();
        let sender = self
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(ended)?;
        let mut job = Job { batch, done };
        loop {
            use std::sync::mpsc::TrySendError;
            match sender.try_send(job) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) => {
                    job = back;
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                Err(TrySendError::Disconnected(_)) => return Err(ended().into()),
            }
        }
        drop(sender);
        answer.await.unwrap_or_else(|_| Err(ended().into()))
    }
}

impl Drop for Committer {
    /// What was handed in is written before the database is closed.
    fn drop(&mut self) {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            let _ = thread.join();
        }
    }
}

fn run(database: &Database, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut group = Group::new(database, &first.batch);
        group.take(first);
        while group.jobs.len() < AT_ONCE && group.rows.size_in_bytes() < BYTES_AT_ONCE {
            match jobs.try_recv() {
                Ok(job) => group.take(job),
                Err(_) => break,
            }
        }
        group.write();
    }
}

/// Batches that are written together.
struct Group<'d> {
    database: &'d Database,
    rows: WriteBatch,
    /// What conditions of later batches will find: rows that earlier ones of the group change.
    changed: HashMap<Key, Option<Vec<u8>>>,
    jobs: Vec<oneshot::Sender<Result<(), ApplyError>>>,
}

impl<'d> Group<'d> {
    /// With room for the first batch: that of a commit has many times the size of what it grows
    /// from.
    fn new(database: &'d Database, first: &Batch) -> Self {
        let rows = first.puts.iter().map(|(_, value)| value.len());
        let rows = rows.fold(0, |bytes: usize, value| {
            bytes.saturating_add(value).saturating_add(ROOM_FOR_KEY)
        });
        let deletes = first.deletes.len().saturating_mul(ROOM_FOR_KEY);
        Self {
            database,
            rows: WriteBatch::with_capacity_bytes(rows.saturating_add(deletes)),
            changed: HashMap::new(),
            jobs: Vec::new(),
        }
    }

    fn take(&mut self, job: Job) {
        let Job { batch, done } = job;
        match self.add(batch) {
            Ok(()) => self.jobs.push(done),
            Err(error) => {
                let _ = done.send(Err(error));
            }
        }
    }

    fn add(&mut self, batch: Batch) -> Result<(), ApplyError> {
        for (condition, wanted) in batch.conditions.iter().enumerate() {
            let key = wanted.key();
            let found = match self.changed.get(key) {
                Some(changed) => changed.clone(),
                None => self.database.value(key)?,
            };
            if !wanted.holds(found.as_deref()) {
                return Err(ApplyError::Condition { condition, found });
            }
        }
        for key in batch.deletes {
            let table = self.database.table(key.table)?;
            self.rows.delete_cf(table, tables::stored_key(&key));
            self.changed.insert(key, None);
        }
        for (key, value) in batch.puts {
            let table = self.database.table(key.table)?;
            self.rows.put_cf(table, tables::stored_key(&key), &value);
            self.changed.insert(key, Some(value));
        }
        Ok(())
    }

    fn write(self) {
        let Self {
            database,
            rows,
            jobs,
            ..
        } = self;
        if jobs.is_empty() {
            return;
        }
        let written = database.write(rows);
        for job in jobs {
            let _ = job.send(written.clone().map_err(ApplyError::Engine));
        }
    }
}
