//! When live streams tell what they were handed: at moments that all streams of this process have
//! in common.
//!
//! Each stream draws one of the next [`CHOICES`] departures by itself, so that from an append until
//! it goes out it takes a random time below [`LONGEST_DELAY_MS`]. Whoever watches the streams
//! learns no more than if each had a clock of its own: the exact times are rounded, and at one
//! departure streams of all segments go out together, in random order. And all of them are one
//! wake-up here, one write to the gateway, and one to the relay.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::follow::LONGEST_DELAY_MS;
use rand_core::RngCore;
use tokio::sync::Notify;
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep_until};

use crate::chance::fresh_rng;

/// Departures that an append may go out at.
const CHOICES: u32 = 4;

/// A live stream, as far as it waits for a departure.
#[derive(Debug, Default)]
pub(crate) struct Passenger {
    /// It has drawn one.
    has_drawn: AtomicBool,
    departs: Notify,
}

impl Passenger {
    /// A departure: what the stream was handed goes out.
    pub(crate) async fn departs(&self) {
        self.departs.notified().await;
    }
}

/// The departures of a process.
#[derive(Debug)]
pub(crate) struct Departures {
    origin: Instant,
    /// Who goes out at the next ones, by their numbers. A task waits for each.
    next: Mutex<BTreeMap<u32, Vec<Arc<Passenger>>>>,
}

#[allow(
    clippy::disallowed_methods,
    reason = "a random time within this process, by no clock that anybody sets"
)]
fn now() -> Instant {
    Instant::now()
}

impl Default for Departures {
    fn default() -> Self {
        Self {
            origin: now(),
            next: Mutex::default(),
        }
    }
}

impl Departures {
    /// From one departure to the next.
    pub(crate) const PERIOD: Duration = Duration::from_millis((LONGEST_DELAY_MS / CHOICES) as u64);

    /// The number of the first departure that is no sooner than after `time`.
    fn number_after(&self, time: Duration) -> u32 {
        let elapsed = (self.origin.elapsed() + time).as_nanos();
        u32::try_from(elapsed.div_ceil(Self::PERIOD.as_nanos())).unwrap_or(u32::MAX)
    }

    /// When that is.
    fn after(&self, time: Duration) -> Instant {
        self.origin + Self::PERIOD * self.number_after(time)
    }

    /// Ticks that come together with those of other streams: all are departures, unless the time
    /// between two is no multiple of that between departures.
    pub(crate) fn interval(&self, ms: u32) -> Interval {
        let period = Duration::from_millis(ms.max(1).into());
        // The first one not later than announced.
        let first = self.after(period.saturating_sub(Self::PERIOD));
        let mut interval = tokio::time::interval_at(first, period);
        // Whoever takes frames late gets none that belong to a time that is over.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }

    /// Something was appended to what all of these follow.
    pub(crate) fn board(self: &Arc<Self>, passengers: impl Iterator<Item = Arc<Passenger>>) {
        // Without randomness, the last one.
        let mut rng = fresh_rng().ok();
        let mut choice = || rng.as_mut().map_or(u32::MAX, RngCore::next_u32) % CHOICES;
        let first = self.number_after(Duration::from_nanos(1));
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        for passenger in passengers {
            // What comes meanwhile goes out with it.
            if passenger.has_drawn.swap(true, Ordering::AcqRel) {
                continue;
            }
            let number = first.saturating_add(choice());
            match next.entry(number) {
                Entry::Occupied(mut with) => with.get_mut().push(passenger),
                Entry::Vacant(alone) => {
                    alone.insert(vec![passenger]);
                    tokio::spawn(Arc::clone(self).run(number));
                }
            }
        }
    }

    async fn run(self: Arc<Self>, number: u32) {
        sleep_until(self.origin + Self::PERIOD * number).await;
        let departing = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            next.remove(&number)
        };
        depart(departing.unwrap_or_default());
    }
}

/// In random order: streams of one segment drew one after the other.
fn depart(mut passengers: Vec<Arc<Passenger>>) {
    if let Ok(mut rng) = fresh_rng() {
        for left in (1..passengers.len()).rev() {
            let other = rng.next_u64() % (left as u64 + 1);
            passengers.swap(left, usize::try_from(other).unwrap_or(left));
        }
    }
    for passenger in passengers {
        passenger.has_drawn.store(false, Ordering::Release);
        passenger.departs.notify_one();
    }
}

/// A random time before an entry goes out. Without randomness, the longest.
pub(crate) fn delay() -> Duration {
    let most = u64::from(LONGEST_DELAY_MS);
    let random = crypto::random::<2>().map_or(u64::from(u16::MAX), |random| {
        u16::from_be_bytes(random).into()
    });
    Duration::from_micros(most * 1_000 * random / (u64::from(u16::MAX) + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_of_many_segments_go_out_at_the_same_few_moments_in_mixed_order() {
        let departures = Arc::new(Departures::default());
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let mut passengers = Vec::new();
        for number in 0..400 {
            let passenger = Arc::new(Passenger::default());
            let (waiting, tell) = (Arc::clone(&passenger), tell.clone());
            tokio::spawn(async move {
                waiting.departs().await;
                let _ = tell.send((number, now()));
            });
            passengers.push(passenger);
        }
        // Four segments, appended to one after the other.
        let began = now();
        for segment in passengers.chunks(100) {
            departures.board(segment.iter().cloned());
        }
        // A second append draws nothing.
        departures.board(passengers.iter().cloned());
        let mut departed: Vec<Vec<usize>> = Vec::new();
        let mut last = began;
        for _ in 0..passengers.len() {
            let (number, at) = told.recv().await.unwrap_or((0, began));
            let limit = Duration::from_millis(u64::from(LONGEST_DELAY_MS) + 100);
            assert!(at - began < limit, "{:?}", at - began);
            if departed.is_empty() || at - last > Departures::PERIOD / 2 {
                departed.push(Vec::new());
            }
            last = at;
            departed.last_mut().unwrap_or(&mut Vec::new()).push(number);
        }
        assert!(departed.len() <= CHOICES as usize, "{}", departed.len());
        for together in departed.iter().filter(|together| together.len() > 50) {
            // How often the next one is of another segment: a third as often when sorted.
            let changes = together
                .windows(2)
                .filter(|two| two[0] / 100 != two[1] / 100);
            assert!(changes.count() > together.len() / 2);
        }
        // Nobody waits.
        assert!(
            departures
                .next
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_empty()
        );
    }
}
