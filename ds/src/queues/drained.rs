//! Which days of a queue are over and empty, so that a fetch walks what may hold something only.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crypto::rows::Row;
use protocol::time::day_of;

/// So long after its end a day gets no entry any more: whatever was under way is in, and clocks of
/// nodes differ by less.
const CLOSED_AFTER_MS: u64 = 60 * 60 * 1000;

/// A clock that goes back by less than this is behind no day that was closed.
const CLOCK_SLACK_MS: u64 = CLOSED_AFTER_MS / 2;

/// Queues that are remembered (about 50 bytes each); then all are forgotten, which costs walks.
const MAX_QUEUES: usize = 1 << 20;

/// In memory only: what is forgotten is walked again.
#[derive(Debug, Default)]
pub struct Drained(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    latest_ms: u64,
    /// Days up to and with this one are closed and empty.
    through: HashMap<Row, u32>,
}

impl Drained {
    /// The first day that has to be walked.
    pub fn first_day(&self, queue: &Row, now_ms: u64) -> u32 {
        self.known(now_ms)
            .through
            .get(queue)
            .map_or(0, |day| day.saturating_add(1))
    }

    /// A whole walk found nothing on the days before this one (or nothing at all).
    pub fn walked(&self, queue: Row, first_entry: Option<u32>, now_ms: u64) {
        let open = day_of(now_ms.saturating_sub(CLOSED_AFTER_MS));
        let Some(through) = first_entry.unwrap_or(u32::MAX).min(open).checked_sub(1) else {
            return;
        };
        let mut known = self.known(now_ms);
        if known.through.len() >= MAX_QUEUES {
            known.through.clear();
        }
        known.through.insert(queue, through);
    }

    /// To be called with every delivery: a clock that has gone back opens days again.
    pub fn observe(&self, now_ms: u64) {
        drop(self.known(now_ms));
    }

    fn known(&self, now_ms: u64) -> MutexGuard<'_, Known> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now_ms.saturating_add(CLOCK_SLACK_MS) < known.latest_ms {
            *known = Known::default();
        }
        known.latest_ms = known.latest_ms.max(now_ms);
        known
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::time::DAY_MS;

    use super::*;

    const QUEUE: Row = [7; 16];
    const NOON: u64 = 100 * DAY_MS + DAY_MS / 2;

    #[test]
    fn days_that_are_over_and_empty_are_not_walked_again() {
        let drained = Drained::default();
        assert_eq!(drained.first_day(&QUEUE, NOON), 0);
        drained.walked(QUEUE, None, NOON);
        assert_eq!(drained.first_day(&QUEUE, NOON), 100);
        assert_eq!(drained.first_day(&[8; 16], NOON), 0);
        drained.walked(QUEUE, Some(90), NOON);
        assert_eq!(drained.first_day(&QUEUE, NOON), 90);
    }

    #[test]
    fn a_day_is_closed_an_hour_after_its_end() {
        let drained = Drained::default();
        let midnight = 101 * DAY_MS;
        for (now, first_day) in [
            (midnight + CLOSED_AFTER_MS - 1, 100),
            (midnight + CLOSED_AFTER_MS, 101),
        ] {
            drained.walked(QUEUE, None, now);
            assert_eq!(drained.first_day(&QUEUE, now), first_day);
        }
    }

    #[test]
    fn a_clock_that_went_ahead_and_comes_back_hides_nothing() {
        let drained = Drained::default();
        drained.walked(QUEUE, None, NOON + 5 * DAY_MS);
        drained.observe(NOON);
        assert_eq!(drained.first_day(&QUEUE, NOON + 5 * DAY_MS), 0);
        drained.walked(QUEUE, None, NOON);
        drained.observe(NOON - CLOCK_SLACK_MS);
        assert_eq!(drained.first_day(&QUEUE, NOON), 100);
    }
}
