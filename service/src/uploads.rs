//! Request bodies that are still coming in: how many of them, and how many bytes, a listener has at
//! once.
//!
//! A slow sender holds the bytes that it has sent. When there is no room for another body, one that
//! has been coming in for longest gives way to it, so that a few that never end are nobody's loss
//! but their own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::sparse::Sparse;

/// Places are of this size.
const KIB: usize = 1024;
/// A body that has come in for so long may have to give way.
const GRACE: Duration = Duration::from_secs(1);
/// How long another one waits for that.
const MOVE_OVER: Duration = Duration::from_secs(1);

/// What a listener has of bodies that are not whole yet.
pub(crate) struct Uploads {
    most: usize,
    /// A place for each of so many KiB.
    bytes: Arc<Semaphore>,
    numbers: AtomicU64,
    unfinished: Mutex<BTreeMap<u64, Unfinished>>,
    refused: Sparse,
}

struct Unfinished {
    since: Instant,
    give_way: Arc<Notify>,
}

/// A body that comes in, until dropped.
pub(crate) struct Upload {
    uploads: Arc<Uploads>,
    number: u64,
    give_way: Arc<Notify>,
    places: Option<OwnedSemaphorePermit>,
}

/// There is no room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRoom;

impl Uploads {
    pub(crate) fn new(most: usize, bytes: u32) -> Arc<Self> {
        let places = usize::try_from(bytes).map_or(usize::MAX, |bytes| bytes.div_ceil(KIB));
        Arc::new(Self {
            most,
            bytes: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            numbers: AtomicU64::new(0),
            unfinished: Mutex::default(),
            refused: Sparse::new(),
        })
    }

    /// One more body comes in.
    ///
    /// # Errors
    /// [`NoRoom`]: all that come in have just begun.
    #[allow(
        clippy::disallowed_methods,
        reason = "which of two bodies is older, by no clock that anybody sets"
    )]
    pub(crate) fn begin(self: &Arc<Self>) -> Result<Upload, NoRoom> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut unfinished = self.lock();
        if unfinished.len() >= self.most {
            // It leaves the list now, and its task a moment later.
            let Some(oldest) = oldest(&unfinished, None) else {
                drop(unfinished);
                return Err(self.refuse());
            };
            if let Some(oldest) = unfinished.remove(&oldest) {
                displace(&oldest);
            }
        }
        let give_way = Arc::new(Notify::new());
        unfinished.insert(
            number,
            Unfinished {
                since: Instant::now(),
                give_way: Arc::clone(&give_way),
            },
        );
        Ok(Upload {
            uploads: Arc::clone(self),
            number,
            give_way,
            places: None,
        })
    }

    fn have_oldest_give_way(&self, except: u64) -> bool {
        let mut unfinished = self.lock();
        let oldest = oldest(&unfinished, Some(except));
        let oldest = oldest.and_then(|oldest| unfinished.remove(&oldest));
        oldest.as_ref().map(displace).is_some()
    }

    fn refuse(&self) -> NoRoom {
        metrics::counter!("http_bodies_refused_total").increment(1);
        if let Some(times) = self.refused.due() {
            tracing::warn!(
                times,
                "request bodies are refused: there are as many as the listener collects"
            );
        }
        NoRoom
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Unfinished>> {
        self.unfinished
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of the one that has come in for longest, and long enough.
fn oldest(unfinished: &BTreeMap<u64, Unfinished>, except: Option<u64>) -> Option<u64> {
    let mut others = unfinished
        .iter()
        .filter(|(number, _)| Some(**number) != except);
    let (number, oldest) = others.next()?;
    (oldest.since.elapsed() >= GRACE).then_some(*number)
}

fn displace(upload: &Unfinished) {
    metrics::counter!("http_bodies_displaced_total").increment(1);
    upload.give_way.notify_one();
}

impl Upload {
    /// Resolves when another one needs its room.
    pub(crate) fn gives_way(&self) -> impl Future<Output = ()> + use<> {
        let give_way = Arc::clone(&self.give_way);
        async move { give_way.notified().await }
    }

    /// Room for `len` bytes in all.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub(crate) async fn grow(&mut self, len: usize) -> Result<(), NoRoom> {
        let has = self
            .places
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = len.div_ceil(KIB).saturating_sub(has);
        let Ok(missing) = u32::try_from(missing) else {
            return Err(self.uploads.refuse());
        };
        if missing == 0 {
            return Ok(());
        }
        let bytes = &self.uploads.bytes;
        let more = match Arc::clone(bytes).try_acquire_many_owned(missing) {
            Ok(more) => more,
            Err(_) if self.uploads.have_oldest_give_way(self.number) => {
                let freed = Arc::clone(bytes).acquire_many_owned(missing);
                match tokio::time::timeout(MOVE_OVER, freed).await {
                    Ok(Ok(more)) => more,
                    _ => return Err(self.uploads.refuse()),
                }
            }
            Err(_) => return Err(self.uploads.refuse()),
        };
        match &mut self.places {
            Some(places) => places.merge(more),
            None => self.places = Some(more),
        }
        Ok(())
    }

    /// The body is whole: it gives way no more. What it holds of the bytes, until dropped.
    pub(crate) fn finish(mut self) -> Option<OwnedSemaphorePermit> {
        self.places.take()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.uploads.lock().remove(&self.number);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// As if it had been coming in for so long.
    fn age(uploads: &Uploads, by: Duration) {
        for upload in uploads.lock().values_mut() {
            upload.since = upload.since.checked_sub(by).unwrap();
        }
    }

    #[tokio::test]
    async fn the_oldest_of_too_many_gives_way_and_those_that_have_just_begun_do_not() {
        let uploads = Uploads::new(2, 1024);
        let (first, second) = (uploads.begin().unwrap(), uploads.begin().unwrap());
        assert!(uploads.begin().is_err());
        age(&uploads, GRACE);
        let third = uploads.begin().unwrap();
        first.gives_way().await;
        drop((first, second, third));
        assert!(uploads.lock().is_empty());
    }

    #[tokio::test]
    async fn the_oldest_gives_way_to_whoever_needs_its_bytes() {
        let uploads = Uploads::new(10, 4 * 1024);
        let mut first = uploads.begin().unwrap();
        first.grow(3000).await.unwrap();
        let mut second = uploads.begin().unwrap();
        assert_eq!(second.grow(3000).await, Err(NoRoom));
        second.grow(1000).await.unwrap();
        age(&uploads, GRACE);
        let gives_way = async move {
            first.gives_way().await;
            drop(first);
        };
        let (grown, ()) = tokio::join!(second.grow(4000), gives_way);
        grown.unwrap();
        let held = second.finish();
        assert_eq!(held.unwrap().num_permits(), 4);
    }
}
