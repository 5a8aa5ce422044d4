//! What is done at once: by one process, and its share of what all nodes begin in a second. Beyond
//! it a request is turned away before it is looked at, and told when to come again; the client
//! sends the same bytes again.

use std::sync::Arc;

use protocol::operation::Operation;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::limits::LoadLimits;
use crate::tokens::{AllowanceLimits, Allowances};

/// When to come again if all places are taken: requests take milliseconds.
pub(crate) const BUSY_MS: u64 = 1_000;

/// Streams look into the store a fourth as often at once as reads do.
const READS_A_LOOK: usize = 4;

/// One bucket is for everybody.
const EVERYBODY: [u8; 16] = [0; 16];

/// What a request has while it is worked on, or waits for a segment to go on.
pub(crate) type Place<'a> = SemaphorePermit<'a>;

/// This process has no place for a request now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy {
    /// When to come again.
    pub(crate) retry_after_ms: u64,
}

/// The places for requests, and how many may begin in a second.
#[derive(Debug)]
pub(crate) struct Load {
    places: Semaphore,
    /// Of reads of journals: they take no place from what is work.
    reads: Semaphore,
    /// Of reads that wait, which is no work at all: they take no place from those that do not.
    waits: Semaphore,
    /// Of streams of journals.
    streams: Arc<Semaphore>,
    /// Of looks into the store that streams make: they take no place from reads.
    looks: Semaphore,
    rate: Option<Allowances>,
}

impl Load {
    pub(crate) fn new(limits: LoadLimits) -> Self {
        let LoadLimits {
            concurrent_requests,
            concurrent_reads,
            concurrent_waits,
            concurrent_streams,
            requests_per_second,
            nodes,
        } = limits;
        let rate = (requests_per_second > 0).then(|| {
            Allowances::new(AllowanceLimits {
                capacity: requests_per_second,
                refill_per_minute: requests_per_second.saturating_mul(60),
                max_buckets: 1,
                nodes,
            })
        });
        Self {
            places: Semaphore::new(concurrent_requests.min(Semaphore::MAX_PERMITS)),
            reads: Semaphore::new(concurrent_reads.min(Semaphore::MAX_PERMITS)),
            waits: Semaphore::new(concurrent_waits.min(Semaphore::MAX_PERMITS)),
            streams: Arc::new(Semaphore::new(
                concurrent_streams.min(Semaphore::MAX_PERMITS),
            )),
            looks: Semaphore::new(
                (concurrent_reads / READS_A_LOOK).clamp(1, Semaphore::MAX_PERMITS),
            ),
            rate,
        }
    }

    /// A place for a request that begins.
    ///
    /// # Errors
    /// [`Busy`].
    pub(crate) fn admit(&self, operation: Operation, now_ms: u64) -> Result<Place<'_>, Busy> {
        if let Some(rate) = &self.rate
            && let Err(empty) = rate.take(EVERYBODY, now_ms)
        {
            let retry_after_ms = empty.retry_after_ms.unwrap_or(BUSY_MS);
            return Err(Busy { retry_after_ms });
        }
        self.place(operation)
    }

    /// A place for a read that waits. Where there is none it does not wait.
    pub(crate) fn wait(&self) -> Option<Place<'_>> {
        let place = self.waits.try_acquire().ok();
        self.show();
        place
    }

    /// A place for a stream, for as long as it goes on.
    ///
    /// # Errors
    /// [`Busy`].
    pub(crate) fn stream(&self) -> Result<OwnedSemaphorePermit, Busy> {
        let place = Arc::clone(&self.streams).try_acquire_owned();
        self.show();
        place.map_err(|_| Busy {
            retry_after_ms: BUSY_MS,
        })
    }

    /// A place for a stream that looks into the store. Where there is none it looks later.
    pub(crate) fn look(&self) -> Option<Place<'_>> {
        let place = self.looks.try_acquire().ok();
        self.show();
        place
    }

    /// For the metrics: places that are free.
    fn show(&self) {
        let kinds = [
            ("requests", &self.places),
            ("reads", &self.reads),
            ("waits", &self.waits),
            ("streams", &self.streams),
            ("looks", &self.looks),
        ];
        for (of, places) in kinds {
            let free = u32::try_from(places.available_permits()).unwrap_or(u32::MAX);
            metrics::gauge!("ds_places_free", "of" => of).set(f64::from(free));
        }
    }

    /// A place for a request that began before and gave its own up.
    ///
    /// # Errors
    /// [`Busy`].
    pub(crate) fn place(&self, operation: Operation) -> Result<Place<'_>, Busy> {
        let places = match operation {
            Operation::ReadJournal | Operation::FollowJournal => &self.reads,
            _ => &self.places,
        };
        let place = places.try_acquire().map_err(|_| Busy {
            retry_after_ms: BUSY_MS,
        });
        self.show();
        place
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn whoever_finds_no_place_is_told_when_to_come_again_and_finds_one_later() {
        let load = Load::new(LoadLimits {
            concurrent_requests: 2,
            concurrent_reads: 1,
            concurrent_waits: 1,
            concurrent_streams: 1,
            requests_per_second: 0,
            nodes: 1,
        });
        let first = load.admit(Operation::SendMessage, 0).unwrap();
        let _second = load.admit(Operation::AddUsers, 0).unwrap();
        assert!(matches!(
            load.admit(Operation::SendMessage, 0),
            Err(Busy {
                retry_after_ms: 1_000
            })
        ));
        drop(first);
        assert!(load.admit(Operation::SendMessage, 0).is_ok());
    }

    #[test]
    fn reads_of_journals_and_everything_else_take_no_places_from_each_other() {
        let load = Load::new(LoadLimits {
            concurrent_requests: 1,
            concurrent_reads: 1,
            concurrent_waits: 1,
            concurrent_streams: 1,
            requests_per_second: 0,
            nodes: 1,
        });
        let busy = |operation| {
            let refused = load.place(operation);
            matches!(refused, Err(Busy { .. }))
        };
        let read = load.place(Operation::ReadJournal).unwrap();
        let work = load.place(Operation::ReadInbox).unwrap();
        assert!(busy(Operation::ReadJournal) && busy(Operation::SendMessage));
        drop(read);
        assert!(busy(Operation::SendMessage) && !busy(Operation::ReadJournal));
        drop(work);
        assert!(!busy(Operation::SendMessage));
    }

    fn admitted(load: &Load, at: u64) -> usize {
        (0..20)
            .filter(|_| load.admit(Operation::ReadJournal, at).is_ok())
            .count()
    }

    #[test]
    fn no_more_requests_begin_in_a_second_than_configured() {
        let load = Load::new(LoadLimits {
            concurrent_requests: 10,
            concurrent_reads: 10,
            concurrent_waits: 10,
            concurrent_streams: 1,
            requests_per_second: 5,
            nodes: 1,
        });
        let admitted = |at| admitted(&load, at);
        assert_eq!([admitted(0), admitted(200), admitted(5_000)], [5, 1, 5]);
    }

    #[test]
    fn several_nodes_together_admit_what_one_would() {
        let limits = LoadLimits {
            concurrent_requests: 10,
            concurrent_reads: 10,
            concurrent_waits: 10,
            concurrent_streams: 1,
            requests_per_second: 12,
            nodes: 1,
        };
        let nodes: Vec<_> = (0..3).map(|_| Load::new(limits.share_of(3))).collect();
        let together = |at| nodes.iter().map(|node| admitted(node, at)).sum::<usize>();
        assert_eq!([together(0), together(250), together(5_000)], [12, 3, 12]);
        // More nodes than requests: each has one.
        assert_eq!(admitted(&Load::new(limits.share_of(100)), 0), 1);
    }
}
