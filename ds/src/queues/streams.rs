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
use crypto::rows::EntryRowCipher;
use protocol::ids::{EntryId, Incarnation, QueueId};

use super::QueueRecord;
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
    /// Never used before or after this table.
    pub incarnation: Incarnation,
    /// Seals row values.
    pub cipher: EntryRowCipher,
    shards: Vec<Mutex<HashMap<QueueId, Arc<Stream>>>>,
    count: AtomicU32,
}

/// One stream.
pub struct Stream {
    /// For the client.
    pub encapsulated_key: [u8; 32],
    /// Seals entries.
    pub key: StreamKey,
    next: AtomicU32,
    /// Blocks below this one have their marker on disk.
    marked: AtomicU32,
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
            incarnation,
            cipher: service.rows().entry_cipher(day, &incarnation),
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
    fn shard(&self, queue: &QueueId) -> Option<&Mutex<HashMap<QueueId, Arc<Stream>>>> {
        // Queue ids are random: their first byte spreads evenly.
        let [first, ..] = queue.0;
        self.shards.get(usize::from(first) % SHARDS)
    }

    fn warm(&self, queue: &QueueId) -> Option<Arc<Stream>> {
        self.shard(queue)?
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(queue)
            .map(Arc::clone)
    }

    /// The stream of a queue: from memory, or begun with an encapsulation to the queue's key. `None`
    /// if there is no such queue.
    ///
    /// # Errors
    /// [`DsError::Storage`].
    pub async fn stream(
        &self,
        service: &DeliveryService,
        queue: &QueueId,
    ) -> Result<Option<Arc<Stream>>, DsError> {
        if let Some(stream) = self.warm(queue) {
            return Ok(Some(stream));
        }
        let Some(record) = QueueRecord::load(service, queue).await? else {
            return Ok(None);
        };
        let (encapsulated_key, key) =
            StreamKey::start(&record.hpke_public_key, queue, &self.incarnation, self.day)?;
        let stream = Arc::new(Stream {
            encapsulated_key,
            key,
            next: AtomicU32::new(0),
            marked: AtomicU32::new(0),
        });
        let Some(shard) = self.shard(queue) else {
            return Err(DsError::Internal("stream table"));
        };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have begun it meanwhile: there is one stream for a queue, since its counter
        // names the rows.
        let stream = shard.entry(*queue).or_insert_with(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            stream
        });
        Ok(Some(Arc::clone(stream)))
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
