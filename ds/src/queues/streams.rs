//! The streams of this process: one encapsulation for each (queue, incarnation, day), keys in memory only.
//!
//! Index `i` of a stream names its entry's row and is its AEAD nonce, so an index is used once: a
//! counter in memory hands them out, and an incarnation is never used again after the process (or
//! this table) has forgotten its counters. An index whose write failed leaves a hole; the block
//! markers bound where a reader must look, so nothing hides behind one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crypto::queue::StreamKey;
use crypto::rows::{EntryRowCipher, Row};
use protocol::ids::{EntryId, GroupId, Incarnation, QueueId};

use super::QueueRecord;
use super::backlog::Backlog;
use crate::error::DsError;
use crate::service_state::DeliveryService;

/// Entries between two block markers.
pub const BLOCK: u32 = 64;

/// Streams in one table; beyond, a new incarnation begins and the old table is dropped.
const MAX_STREAMS: usize = 1 << 20;

const SHARDS: usize = 64;

/// The streams of one day under one incarnation.
pub struct Generation {
    /// Days since the Unix epoch.
    pub day: u32,
    /// No later than `day`: by which the absence of owners is judged.
    settled_day: u32,
    /// Never used before or after this table.
    pub incarnation: Incarnation,
    /// Seals row values.
    pub cipher: EntryRowCipher,
    shards: Vec<Mutex<Shard>>,
    count: AtomicU32,
}

#[derive(Default)]
struct Shard {
    streams: HashMap<QueueId, OpenStream>,
    /// How often a record of one of these queues has changed: what was read before the last change is not kept.
    changes: u64,
}

/// One stream.
pub struct Stream {
    /// For the client.
    pub encapsulated_key: [u8; 32],
    /// Seals entries.
    pub key: StreamKey,
    next: AtomicU32,
    pub(super) backlog: Backlog,
    /// Blocks below this one have their marker on disk.
    marked: AtomicU32,
}

/// How long what is known of a queue is good without looking again, milliseconds: what another node has
/// changed (a deletion, a blocked group) counts here this much later at most.
const RECORD_AGE_MS: u64 = 60_000;

/// Presence is known to the week: in doubt the owner was there on its last day.
const WEEK: u32 = 7;

/// A stream with what its queue's record said.
#[derive(Clone)]
pub struct OpenStream {
    /// The stream.
    pub stream: Arc<Stream>,
    read_at_ms: u64,
    /// Days since the owner was last here, if that is known.
    idle_days: Option<u32>,
    blocked: Arc<[Row]>,
}

impl OpenStream {
    /// For how many days its owner has been away, if that is longer than this.
    #[must_use]
    pub fn abandoned_for(&self, inactivity_days: u32) -> Option<u32> {
        self.idle_days.filter(|days| *days > inactivity_days)
    }

    /// Whether its owner takes nothing from a group.
    #[must_use]
    pub fn blocks(&self, service: &DeliveryService, queue: &QueueId, group: &GroupId) -> bool {
        !self.blocked.is_empty()
            && self
                .blocked
                .contains(&service.rows().blocked_group(queue, group))
    }
}

impl Stream {
    /// An index of its own for each caller.
    pub fn take_index(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Blocks that must get their marker with an entry of this index.
    pub fn unmarked_blocks(&self, index: u32) -> std::ops::RangeInclusive<u32> {
        self.marked.load(Ordering::Acquire)..=index / BLOCK
    }

    /// The markers up to the block of this index are durable now.
    pub fn mark(&self, index: u32) {
        self.marked.fetch_max(index / BLOCK + 1, Ordering::AcqRel);
    }
}

/// All streams of this process.
pub struct Streams {
    current: RwLock<Option<Arc<Generation>>>,
    starting: tokio::sync::Mutex<()>,
}

impl Streams {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            current: RwLock::new(None),
            starting: tokio::sync::Mutex::new(()),
        }
    }

    /// The record of this queue has changed.
    pub fn record_changed(&self, queue: &QueueId) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(generation) = current.as_ref() {
            generation.look_again(queue);
        }
    }

    /// These entries of a queue are gone: those that this process has written don't wait any more.
    pub fn acknowledged(&self, queue: &QueueId, entries: &[EntryId]) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let Some(generation) = current.as_ref() else {
            return;
        };
        let mut indices: Vec<u32> = entries
            .iter()
            .filter(|id| id.day == generation.day && id.incarnation == generation.incarnation)
            .map(|id| id.index)
            .collect();
        indices.sort_unstable();
        if !indices.is_empty()
            && let Some(stream) = generation.stream(queue)
        {
            stream.backlog.acknowledged(&indices);
        }
    }

    fn usable(&self, day: u32) -> Option<Arc<Generation>> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .filter(|generation| {
                generation.day == day
                    && usize::try_from(generation.count.load(Ordering::Relaxed))
                        .unwrap_or(usize::MAX)
                        < MAX_STREAMS
            })
            .map(Arc::clone)
    }

    /// The generation for this day; begins one (and makes its incarnation known) if there is none.
    ///
    /// # Errors
    /// [`DsError::Storage`].
    pub async fn generation(
        &self,
        service: &DeliveryService,
        day: u32,
    ) -> Result<Arc<Generation>, DsError> {
        if let Some(generation) = self.usable(day) {
            return Ok(generation);
        }
        let _one_at_a_time = self.starting.lock().await;
        if let Some(generation) = self.usable(day) {
            return Ok(generation);
        }
        let incarnation = Incarnation(crypto::random()?);
        // Before its first entry: a reader that does not know the incarnation would not look there.
        service.store.register_incarnation(day, incarnation).await?;
        let generation = Arc::new(Generation {
            day,
            settled_day: service.settled_day(day),
            incarnation,
            cipher: service.rows().entry_cipher(day, &incarnation)?,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            count: AtomicU32::new(0),
        });
        *self.current.write().unwrap_or_else(PoisonError::into_inner) =
            Some(Arc::clone(&generation));
        Ok(generation)
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self::new()
    }
}

impl Generation {
    fn shard(&self, queue: &QueueId) -> Option<std::sync::MutexGuard<'_, Shard>> {
        // Queue ids are random: their first byte spreads evenly.
        let [first, ..] = queue.0;
        let shard = self.shards.get(usize::from(first) % SHARDS)?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stream(&self, queue: &QueueId) -> Option<Arc<Stream>> {
        let shard = self.shard(queue)?;
        let open = shard.streams.get(queue);
        open.map(|open| Arc::clone(&open.stream))
    }

    /// What is known, or how many changes there have been before the record is read.
    fn warm(&self, queue: &QueueId, now_ms: u64) -> Result<OpenStream, u64> {
        let Some(shard) = self.shard(queue) else {
            return Err(0);
        };
        shard
            .streams
            .get(queue)
            .filter(|open| now_ms < open.read_at_ms.saturating_add(RECORD_AGE_MS))
            .cloned()
            .ok_or(shard.changes)
    }

    /// The streams of these queues: from memory, or begun with an encapsulation to the queue's key. `None`
    /// for a queue that does not exist.
    ///
    /// # Errors
    /// [`DsError::Storage`].
    pub async fn streams(
        &self,
        service: &DeliveryService,
        queues: &[QueueId],
        now_ms: u64,
    ) -> Result<Vec<Option<OpenStream>>, DsError> {
        let mut found = Vec::with_capacity(queues.len());
        let mut cold: Vec<(usize, QueueId, u64)> = Vec::new();
        for (at, queue) in queues.iter().enumerate() {
            match self.warm(queue, now_ms) {
                Ok(open) => found.push(Some(open)),
                Err(changes) => {
                    found.push(None);
                    cold.push((at, *queue, changes));
                }
            }
        }
        if cold.is_empty() {
            return Ok(found);
        }
        let ids: Vec<QueueId> = cold.iter().map(|(_, queue, _)| *queue).collect();
        let records = QueueRecord::load_many(service, &ids).await?;
        for ((at, queue, changes), record) in cold.into_iter().zip(records) {
            let open = match record {
                Some(record) => Some(self.open(&queue, &record, now_ms, changes)?),
                None => {
                    self.forget(&queue);
                    None
                }
            };
            if let Some(place) = found.get_mut(at) {
                *place = open;
            }
        }
        Ok(found)
    }

    fn open(
        &self,
        queue: &QueueId,
        record: &QueueRecord,
        now_ms: u64,
        changes: u64,
    ) -> Result<OpenStream, DsError> {
        let begun = match self.stream(queue) {
            Some(stream) => stream,
            None => {
                let (encapsulated_key, key) =
                    StreamKey::start(&record.hpke_public_key, queue, &self.incarnation, self.day)?;
                Arc::new(Stream {
                    encapsulated_key,
                    key,
                    next: AtomicU32::new(0),
                    backlog: Backlog::default(),
                    marked: AtomicU32::new(0),
                })
            }
        };
        let Some(mut shard) = self.shard(queue) else {
            return Err(DsError::Internal("stream table"));
        };
        let is_current = shard.changes == changes;
        // Somebody may have begun it meanwhile: there is one stream for a queue, since its counter
        // names the rows.
        let entry = shard.streams.entry(*queue).or_insert_with(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            OpenStream {
                stream: begun,
                read_at_ms: now_ms,
                idle_days: None,
                blocked: Arc::new([]),
            }
        });
        // What changed while it was read is looked for again next time.
        entry.read_at_ms = if is_current { now_ms } else { 0 };
        entry.idle_days = record.last_read_day.map(|last| {
            let last = last.saturating_add(WEEK - 1);
            self.settled_day.saturating_sub(last)
        });
        entry.blocked = Arc::from(record.blocked.as_slice());
        Ok(entry.clone())
    }

    fn forget(&self, queue: &QueueId) {
        if let Some(mut shard) = self.shard(queue) {
            shard.streams.remove(queue);
        }
    }

    fn look_again(&self, queue: &QueueId) {
        if let Some(mut shard) = self.shard(queue) {
            shard.changes = shard.changes.wrapping_add(1);
            if let Some(open) = shard.streams.get_mut(queue) {
                open.read_at_ms = 0;
            }
        }
    }

    /// Names an entry of this generation.
    #[must_use]
    pub fn entry_id(&self, index: u32) -> EntryId {
        EntryId {
            day: self.day,
            incarnation: self.incarnation,
            index,
        }
    }
}
