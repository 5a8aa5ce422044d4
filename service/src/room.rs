//! The connections that a listener has, and what becomes of those beyond.
//!
//! A connection that comes when all places are taken gets that of the one which has done nothing for longest. If
//! all of them have something to do it is let in only to be told so, by a bounded number of places of
//! their own; beyond these it is closed. It never waits without a word.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::sparse::Sparse;

/// How long a connection waits for the place of one that was told to go.
const MOVE_OVER: Duration = Duration::from_secs(1);
/// Places for connections that are only told that there is none: a part of the others, and at least so many.
const TOLD_PART: usize = 16;
const LEAST_TOLD: usize = 16;

/// The places of a listener.
pub(crate) struct Room {
    places: Arc<Semaphore>,
    told: Arc<Semaphore>,
    told_size: usize,
    size: usize,
    /// What happens in the listener, in order.
    moments: AtomicU64,
    connections: Mutex<BTreeMap<u64, Arc<Activity>>>,
    refused: Sparse,
}

/// What goes on in a connection. HTTP/2 has no end of its own for idle ones.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// When something last began or ended.
    last: AtomicU64,
    begun: AtomicU64,
    /// Requests whose answers have not been sent.
    running: AtomicUsize,
    /// Somebody else needs its place.
    give_way: Notify,
}

/// What became of a connection that came.
pub(crate) enum Entry {
    Place(Place),
    /// There is none; it can be told.
    Full(OwnedSemaphorePermit),
    /// There is not even a place for that.
    Closed,
}

/// A connection's place, until dropped.
pub(crate) struct Place {
    room: Arc<Room>,
    id: u64,
    activity: Arc<Activity>,
    _place: OwnedSemaphorePermit,
}

/// A request, until its answer has been sent.
pub(crate) struct Busy {
    room: Arc<Room>,
    activity: Arc<Activity>,
}

impl Room {
    pub(crate) fn new(size: usize) -> Arc<Self> {
        let semaphore =
            |places: usize| Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        let told_size = (size / TOLD_PART).max(LEAST_TOLD);
        Arc::new(Self {
            places: semaphore(size),
            told: semaphore(told_size),
            told_size,
            size,
            moments: AtomicU64::new(0),
            connections: Mutex::default(),
            refused: Sparse::new(),
        })
    }

    /// A connection has come.
    pub(crate) async fn enter(self: &Arc<Self>) -> Entry {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Entry::Place(self.seat(place));
        }
        let Ok(told) = Arc::clone(&self.told).try_acquire_owned() else {
            self.count("closed");
            return Entry::Closed;
        };
        if self.have_one_give_way() {
            let place = Arc::clone(&self.places).acquire_owned();
            if let Ok(Ok(place)) = tokio::time::timeout(MOVE_OVER, place).await {
                metrics::counter!("http_connections_displaced_total").increment(1);
                return Entry::Place(self.seat(place));
            }
        }
        self.count("told");
        Entry::Full(told)
    }

    /// A place to be told why there is none, for a connection of an address that has its share. Half of them are for
    /// others.
    pub(crate) fn told(&self) -> Option<OwnedSemaphorePermit> {
        if self.told.available_permits() <= self.told_size / 2 {
            return None;
        }
        Arc::clone(&self.told).try_acquire_owned().ok()
    }

    fn count(&self, outcome: &'static str) {
        metrics::counter!("http_connections_refused_total", "outcome" => outcome).increment(1);
        if let Some(times) = self.refused.due() {
            let max_connections = self.size;
            tracing::warn!(
                times,
                max_connections,
                "connections are refused: there are as many as the listener takes, and all are busy"
            );
        }
    }

    fn seat(self: &Arc<Self>, place: OwnedSemaphorePermit) -> Place {
        let activity = Arc::new(Activity::default());
        let id = self.moment();
        activity.last.store(id, Ordering::Relaxed);
        self.lock().insert(id, Arc::clone(&activity));
        Place {
            room: Arc::clone(self),
            id,
            activity,
            _place: place,
        }
    }

    /// Of those that do nothing, the one for which that is longest.
    fn have_one_give_way(&self) -> bool {
        let connections = self.lock();
        let idle = connections
            .values()
            .filter(|activity| activity.running.load(Ordering::Relaxed) == 0);
        let Some(longest) = idle.min_by_key(|activity| activity.last.load(Ordering::Relaxed))
        else {
            return false;
        };
        // The next one that comes chooses another.
        longest.last.store(self.moment(), Ordering::Relaxed);
        longest.give_way.notify_one();
        true
    }

    fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Activity>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// A request begins.
    pub(crate) fn begin(&self) -> Busy {
        let activity = &self.activity;
        activity.begun.fetch_add(1, Ordering::Relaxed);
        activity.running.fetch_add(1, Ordering::Relaxed);
        activity.last.store(self.room.moment(), Ordering::Relaxed);
        Busy {
            room: Arc::clone(&self.room),
            activity: Arc::clone(activity),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.lock().remove(&self.id);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let last = self.room.moment();
        self.activity.last.store(last, Ordering::Relaxed);
        self.activity.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Activity {
    pub(crate) fn is_idle(&self) -> bool {
        self.running.load(Ordering::Relaxed) == 0
    }

    /// Resolves when somebody else needs the place.
    pub(crate) async fn gives_way(&self) {
        self.give_way.notified().await;
    }

    /// Resolves when nothing has been running, and nothing begun, for between `idle` and twice that.
    pub(crate) async fn ceased(&self, idle: Duration) {
        let mut seen = None;
        loop {
            tokio::time::sleep(idle).await;
            let begun = self.begun.load(Ordering::Relaxed);
            let is_idle = self.is_idle();
            if is_idle && (begun == 0 || seen == Some(begun)) {
                return;
            }
            seen = is_idle.then_some(begun);
        }
    }
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use super::*;

    async fn place(room: &Arc<Room>) -> Place {
        match room.enter().await {
            Entry::Place(place) => place,
            _ => panic!("no place"),
        }
    }

    #[tokio::test]
    async fn the_connection_that_has_been_idle_for_longest_makes_room() {
        let room = Room::new(3);
        let (busy, first, second) = (place(&room).await, place(&room).await, place(&room).await);
        let request = busy.begin();
        // It was used since the other one came.
        drop(first.begin());
        let next = tokio::join!(place(&room), async move {
            second.activity.gives_way().await;
            drop(second);
        });
        let moved = tokio::join!(place(&room), async move {
            first.activity.gives_way().await;
            drop(first);
        });
        let requests = [next.0.begin(), moved.0.begin()];
        let full = room.enter().await;
        assert!(matches!(full, Entry::Full(_)), "all of them are busy");
        drop((request, requests, full));
    }

    #[tokio::test]
    async fn those_that_are_told_are_bounded_too() {
        let room = Room::new(1);
        let place = place(&room).await;
        let _request = place.begin();
        let mut told = Vec::new();
        for _ in 0..LEAST_TOLD {
            match room.enter().await {
                Entry::Full(full) => told.push(full),
                _ => panic!("not told"),
            }
        }
        assert!(matches!(room.enter().await, Entry::Closed));
        told.pop();
        assert!(matches!(room.enter().await, Entry::Full(_)));
        // Whoever has its share already is told by fewer.
        told.truncate(LEAST_TOLD / 2);
        assert!(room.told().is_none());
        told.pop();
        assert!(room.told().is_some());
    }
}
