//! What is done at once: by one process, and its share of what all nodes begin in a second. Beyond it a request is turned away before it is looked at, and told when
//! to come again; the client sends the same bytes again.

use protocol::Operation;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::DsError;
use crate::limits::LoadLimits;
use crate::tokens::{AllowanceLimits, Allowances};

/// When to come again if all places are taken: requests take milliseconds.
pub const BUSY_MS: u64 = 1_000;

/// One bucket is for everybody.
const EVERYBODY: [u8; 16] = [0; 16];

/// What a request has while it is worked on, or waits for a queue.
pub type Place<'a> = SemaphorePermit<'a>;

/// The places for requests, and how many may begin in a second.
#[derive(Debug)]
pub struct Load {
    places: Semaphore,
    /// Of fetches, which mostly wait: they take no place from what is work.
    fetches: Semaphore,
    rate: Option<Allowances>,
}

impl Load {
    pub fn new(limits: LoadLimits) -> Self {
        let LoadLimits {
            concurrent_requests,
            concurrent_fetches,
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
            fetches: Semaphore::new(concurrent_fetches.min(Semaphore::MAX_PERMITS)),
            rate,
        }
    }

    /// A place for a request that begins.
    ///
    /// # Errors
    /// [`DsError::Busy`].
    pub fn admit(&self, operation: Operation, now_ms: u64) -> Result<Place<'_>, DsError> {
        if let Some(rate) = &self.rate
            && let Err(empty) = rate.take(EVERYBODY, now_ms)
        {
            let retry_after_ms = empty.retry_after_ms.unwrap_or(BUSY_MS);
            return Err(DsError::Busy { retry_after_ms });
        }
        self.place(operation)
    }

    /// A place for a request that began before and gave its own up.
    ///
    /// # Errors
    /// [`DsError::Busy`].
    pub fn place(&self, operation: Operation) -> Result<Place<'_>, DsError> {
        let places = match operation {
            Operation::FetchQueue => &self.fetches,
            _ => &self.places,
        };
        places.try_acquire().map_err(|_| DsError::Busy {
            retry_after_ms: BUSY_MS,
        })
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
            concurrent_fetches: 1,
            requests_per_second: 0,
            nodes: 1,
        });
        let first = load.admit(Operation::SendMessage, 0).unwrap();
        let _second = load.admit(Operation::AddUsers, 0).unwrap();
        assert!(matches!(
            load.admit(Operation::SendMessage, 0),
            Err(DsError::Busy {
                retry_after_ms: 1_000
            })
        ));
        drop(first);
        assert!(load.admit(Operation::SendMessage, 0).is_ok());
    }

    #[test]
    fn fetches_and_everything_else_take_no_places_from_each_other() {
        let load = Load::new(LoadLimits {
            concurrent_requests: 1,
            concurrent_fetches: 1,
            requests_per_second: 0,
            nodes: 1,
        });
        let busy = |operation| {
            let refused = load.place(operation);
            matches!(refused, Err(DsError::Busy { .. }))
        };
        let fetch = load.place(Operation::FetchQueue).unwrap();
        let work = load.place(Operation::AcknowledgeQueue).unwrap();
        assert!(busy(Operation::FetchQueue) && busy(Operation::SendMessage));
        drop(fetch);
        assert!(busy(Operation::SendMessage) && !busy(Operation::FetchQueue));
        drop(work);
        assert!(!busy(Operation::SendMessage));
    }

    fn admitted(load: &Load, at: u64) -> usize {
        (0..20)
            .filter(|_| load.admit(Operation::FetchQueue, at).is_ok())
            .count()
    }

    #[test]
    fn no_more_requests_begin_in_a_second_than_configured() {
        let load = Load::new(LoadLimits {
            concurrent_requests: 10,
            concurrent_fetches: 10,
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
            concurrent_fetches: 10,
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
