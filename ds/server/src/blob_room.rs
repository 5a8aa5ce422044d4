//! How much room there is for blobs, as far as this node knows.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ds_domain::blobs::Location;
use ds_domain::execution::Failure;
use ds_store_blobs::BlobStore;
use protocol::blobs::CHUNK;
use protocol::problem::ProblemType;
use serde::Deserialize;

/// How much is kept. Soft: each node counts what it takes in, and all of it once an hour.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BlobLimits {
    /// Bytes of all blobs, those that are being written counted whole.
    pub max_bytes: u64,
    /// Blobs that are being written.
    pub max_in_making: u64,
    /// With fewer bytes left on the disk of the directory nothing is taken.
    pub keep_free_bytes: u64,
}

impl Default for BlobLimits {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 40,
            max_in_making: 100_000,
            keep_free_bytes: 2 << 30,
        }
    }
}

/// The store, and what is in it as far as this node knows.
#[derive(Debug)]
pub struct Blobs {
    pub(crate) store: BlobStore,
    limits: BlobLimits,
    pub(crate) in_making: AtomicU64,
    pub(crate) chunks: AtomicU64,
    /// Whether the disk had too little left when it was looked at last.
    disk_is_full: AtomicBool,
    /// Blobs of which nothing had come at the last pass.
    unwritten: Mutex<HashSet<Location>>,
}

impl Blobs {
    /// An empty count.
    #[must_use]
    pub fn new(store: BlobStore, limits: BlobLimits) -> Self {
        Self {
            store,
            limits,
            in_making: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
            disk_is_full: AtomicBool::new(false),
            unwritten: Mutex::default(),
        }
    }

    /// So many more chunks there is room for.
    pub(crate) fn room(&self) -> u64 {
        let is_full = self.disk_is_full.load(Ordering::Relaxed)
            || self.in_making.load(Ordering::Relaxed) >= self.limits.max_in_making;
        match is_full {
            true => 0,
            false => (self.limits.max_bytes / CHUNK as u64)
                .saturating_sub(self.chunks.load(Ordering::Relaxed)),
        }
    }

    /// Looks how much the disk has left.
    pub(crate) async fn disk(&self) -> Result<(), Failure> {
        let left = self.store.bytes_left().await;
        let is_full = left.is_some_and(|left| left < self.limits.keep_free_bytes);
        self.disk_is_full.store(is_full, Ordering::Relaxed);
        if is_full { Err(full()) } else { Ok(()) }
    }

    pub(crate) fn unwritten(&self) -> MutexGuard<'_, HashSet<Location>> {
        self.unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn changed(&self, in_making: i64, chunks: i64) {
        let change = |of: &AtomicU64, by: i64| {
            let _ = of.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                Some(count.saturating_add_signed(by))
            });
        };
        change(&self.in_making, in_making);
        change(&self.chunks, chunks);
        self.show();
    }

    pub(crate) fn show(&self) {
        let [in_making, chunks] =
            [&self.in_making, &self.chunks].map(|of| of.load(Ordering::Relaxed));
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        {
            metrics::gauge!("ds_blobs_in_making").set(in_making as f64);
            metrics::gauge!("ds_blob_bytes").set((chunks * CHUNK as u64) as f64);
        }
    }
}

/// There is none.
pub(crate) fn full() -> Failure {
    Failure::Refused(ProblemType::StorageFull.into())
}
