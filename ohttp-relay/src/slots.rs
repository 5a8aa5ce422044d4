//! How many requests are at a gateway at once, and by which of the connections.
//!
//! An HTTP/2 connection takes so many, and what comes beyond would wait in it unseen until its time
//! is over. So there is a limit, and each request goes where the fewest are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use service::addresses::AddressPlace;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) struct Slots {
    places: Arc<Semaphore>,
    /// Of each connection.
    running: Arc<[AtomicUsize]>,
}

/// A request at the gateway, until dropped.
pub(crate) struct Slot {
    running: Arc<[AtomicUsize]>,
    connection: usize,
    _place: OwnedSemaphorePermit,
    /// Of the client's address: it counts as long, whether the client is there or not.
    _of_address: Option<AddressPlace>,
}

impl Slots {
    pub(crate) fn new(connections: usize, places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            running: (0..connections).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// `None`: there are as many as there may be.
    pub(crate) fn take(&self, of_address: Option<AddressPlace>) -> Option<Slot> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let connection = self.least();
        self.running
            .get(connection)?
            .fetch_add(1, Ordering::Relaxed);
        Some(Slot {
            running: Arc::clone(&self.running),
            connection,
            _place: place,
            _of_address: of_address,
        })
    }

    /// The connection with the fewest requests.
    pub(crate) fn least(&self) -> usize {
        let loads = self.running.iter().enumerate();
        loads
            .min_by_key(|(_, running)| running.load(Ordering::Relaxed))
            .map_or(0, |(connection, _)| connection)
    }
}

impl Slot {
    pub(crate) fn connection(&self) -> usize {
        self.connection
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(running) = self.running.get(self.connection) {
            running.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_spread_evenly_and_no_more_are_taken_than_there_are_places() {
        let slots = Slots::new(2, 6);
        let mut taken: Vec<_> = (0..6).map(|_| slots.take(None).unwrap()).collect();
        for connection in 0..2 {
            let there = taken.iter().filter(|slot| slot.connection() == connection);
            assert_eq!(there.count(), 3);
        }
        assert!(slots.take(None).is_none());
        // Where the long ones are is where the next ones are not.
        taken.retain(|slot| slot.connection() == 0);
        let next: Vec<_> = (0..3)
            .map(|_| slots.take(None).unwrap().connection())
            .collect();
        assert_eq!(next, [1, 1, 1]);
    }
}
