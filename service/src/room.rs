//! The connections that a listener has, and what becomes of those beyond.
//!
//! A connection that comes when all places are taken gets that of one which does nothing: of those
//! whose network has most places, the one for which that is longest. A request is something to do;
//! but where one network has many places, none of its requests that waits for its own peer is, to
//! send its body or to take its answer. Otherwise an attacker with a few addresses could take all
//! places with requests that cost nothing. If all connections have something to do, another one is
//! let in only to be told so, by a bounded number of places of their own; beyond these it is
//! closed. It never waits without a word.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::addresses::Share;
use crate::sparse::Sparse;

/// How long a connection waits for the place of one that was told to go.
const MOVE_OVER: Duration = Duration::from_secs(1);
/// Places for connections that are only told that there is none: a part of the others, and at least
/// so many.
const TOLD_PART: usize = 16;
const LEAST_TOLD: usize = 16;
/// A network has many places if it has more than this part of them.
const MANY_PART: usize = 64;

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
#[derive(Default)]
pub(crate) struct Activity {
    /// Of its network, where addresses are counted.
    share: Option<Share>,
    /// When something last began or ended.
    last: AtomicU64,
    begun: AtomicU64,
    /// Requests whose answers have not been sent.
    running: AtomicUsize,
    /// Of these, those that go on when the peer sends or takes something.
    waiting: AtomicUsize,
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

/// A request that waits for its peer, until dropped.
pub(crate) struct Waiting(Arc<Activity>);

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

    /// A connection has come, of a network with this share.
    pub(crate) async fn enter(self: &Arc<Self>, share: Option<Share>) -> Entry {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Entry::Place(self.seat(place, share));
        }
        let Ok(told) = Arc::clone(&self.told).try_acquire_owned() else {
            self.count("closed");
            return Entry::Closed;
        };
        if self.have_one_give_way() {
            let place = Arc::clone(&self.places).acquire_owned();
            if let Ok(Ok(place)) = tokio::time::timeout(MOVE_OVER, place).await {
                metrics::counter!("http_connections_displaced_total").increment(1);
                return Entry::Place(self.seat(place, share));
            }
        }
        self.count("told");
        Entry::Full(told)
    }

    /// A place to be told why there is none, for a connection of an address that has its share.
    /// Half of them are for others.
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

    fn seat(self: &Arc<Self>, place: OwnedSemaphorePermit, share: Option<Share>) -> Place {
        let activity = Arc::new(Activity {
            share,
            ..Activity::default()
        });
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

    /// Of those that do nothing, and whose network has most places, the one for which that is
    /// longest.
    fn have_one_give_way(&self) -> bool {
        let many = (self.size / MANY_PART).max(1);
        let connections = self.lock();
        let idle = connections.values().filter_map(|activity| {
            let connections = activity.share.as_ref().map_or(0, Share::connections);
            let has_many = usize::try_from(connections).is_ok_and(|has| has > many);
            let does_nothing = activity.is_idle() || (has_many && activity.is_stalled());
            let last = activity.last.load(Ordering::Relaxed);
            does_nothing.then_some(((Reverse(connections), last), activity))
        });
        let Some((_, longest)) = idle.min_by_key(|(order, _)| *order) else {
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

impl Busy {
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
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

    /// Whether something runs, and all of that goes on only when the peer sends or takes something.
    pub(crate) fn is_stalled(&self) -> bool {
        let running = self.running.load(Ordering::Relaxed);
        running > 0 && self.waiting.load(Ordering::Relaxed) >= running
    }

    /// A request waits for its peer.
    pub(crate) fn waits(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(self))
    }

    /// Resolves when somebody else needs the place.
    pub(crate) async fn gives_way(&self) {
        self.give_way.notified().await;
    }

    /// Resolves when nothing has been running, and nothing begun, for between `idle` and twice
    /// that.
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
        match room.enter(None).await {
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
        let full = room.enter(None).await;
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
            match room.enter(None).await {
                Entry::Full(full) => told.push(full),
                _ => panic!("not told"),
            }
        }
        assert!(matches!(room.enter(None).await, Entry::Closed));
        told.pop();
        assert!(matches!(room.enter(None).await, Entry::Full(_)));
        // Whoever has its share already is told by fewer.
        told.truncate(LEAST_TOLD / 2);
        assert!(room.told().is_none());
        told.pop();
        assert!(room.told().is_some());
    }
}
