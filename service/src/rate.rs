//! The token bucket of every limit: one integer each, exact at any rate.
//!
//! Time is counted in units of which as many pass in a millisecond as requests come back in a
//! period, so that a request costs as many as the period has milliseconds. A bucket holds the unit
//! at which it will be full again (the generic cell rate algorithm). An allowance that never comes
//! back is a time that stands still.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More in a period are not told apart from this many: so no time overflows before 2115.
const MOST: u32 = 2_000_000;
/// Times and capacities stay below it, and their sums below `u64::MAX`.
const LATEST: u64 = u64::MAX / 4;

/// How much a bucket holds, and how fast it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units of a request.
    cost: u64,
    /// Units that come back in a millisecond.
    per_ms: u64,
    capacity: u64,
}

/// The state of a [`Rate`] for one key. It is full at first.
#[derive(Debug, Default)]
pub struct Bucket {
    /// The unit at which it is full.
    full_at: AtomicU64,
}

/// There is not as much in the bucket as was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the allowance is used up")]
pub struct Empty {
    /// Requests that are left.
    pub available: u32,
    /// When there are as many as were asked for, or as many as there can be. `None`: never, since
    /// nothing comes back.
    pub retry_after_ms: Option<u64>,
}

impl Rate {
    /// A bucket of `burst` requests, of which `count` come back evenly in `period_ms`.
    #[must_use]
    pub fn new(burst: u32, count: u32, period_ms: u32) -> Self {
        let cost = u64::from(period_ms).max(1);
        Self {
            cost,
            per_ms: count.min(MOST).into(),
            capacity: cost.saturating_mul(burst.into()).min(LATEST),
        }
    }

    /// The share of one of `nodes`: of each bucket one request at least, if it holds any.
    #[must_use]
    pub fn shared_by(self, nodes: u32) -> Self {
        let cost = self.cost.saturating_mul(nodes.max(1).into()).min(LATEST);
        let capacity = if self.capacity == 0 {
            0
        } else {
            self.capacity.max(cost)
        };
        Self {
            cost,
            capacity,
            ..self
        }
    }

    fn unit(self, now_ms: u64) -> u64 {
        now_ms.saturating_mul(self.per_ms).min(LATEST)
    }

    /// Takes `requests`, or nothing. `now_ms` is any clock in milliseconds: one that goes backwards
    /// gives nothing, and stops nothing for longer than a bucket takes to fill.
    ///
    /// # Errors
    /// [`Empty`].
    pub fn take(self, bucket: &Bucket, requests: u32, now_ms: u64) -> Result<(), Empty> {
        let now = self.unit(now_ms);
        let latest = now + self.capacity;
        let wanted = self.cost.saturating_mul(requests.into());
        let mut left = 0;
        let _ = bucket
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                // Further ahead than ever admitted: the clock was set back.
                let from = full_at.clamp(now, latest);
                left = latest - from;
                if wanted <= left {
                    Some(from + wanted)
                } else {
                    (from != full_at).then_some(from)
                }
            });
        if wanted <= left {
            return Ok(());
        }
        let missing = wanted.min(self.capacity) - left;
        Err(Empty {
            available: u32::try_from(left / self.cost).unwrap_or(u32::MAX),
            retry_after_ms: (self.per_ms > 0 && self.capacity > 0)
                .then(|| missing.div_ceil(self.per_ms)),
        })
    }

    /// Puts back what [`Rate::take`] took for what something else stopped.
    pub fn give_back(self, bucket: &Bucket, requests: u32) {
        let given = self.cost.saturating_mul(requests.into());
        let _ = bucket
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                Some(full_at.saturating_sub(given))
            });
    }

    /// Units that are missing in `bucket`: none in a full one.
    fn missing(self, bucket: &Bucket, now_ms: u64) -> u64 {
        let full_at = bucket.full_at.load(Ordering::Relaxed);
        full_at.saturating_sub(self.unit(now_ms)).min(self.capacity)
    }
}

const SHARDS: usize = 64;

/// Buckets by name, in the memory of this process only: a restart fills all of them. What must not
/// be forgotten is a store's.
#[derive(Debug)]
pub struct Buckets<K> {
    /// In each shard.
    most: usize,
    hasher: RandomState,
    shards: Vec<Mutex<HashMap<K, Kept>>>,
}

/// A bucket that is full is the same as none: it need not be kept.
#[derive(Debug)]
struct Kept {
    rate: Rate,
    bucket: Bucket,
}

impl Kept {
    fn missing(&self, now_ms: u64) -> u64 {
        self.rate.missing(&self.bucket, now_ms)
    }
}

impl<K: Copy + Eq + Hash + Ord> Buckets<K> {
    /// At most `most` of them, about 100 bytes each.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most: (most / SHARDS).max(1),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// [`Rate::take`] from `key`'s bucket. A deficit stays when the rate changes.
    ///
    /// # Errors
    /// [`Empty`].
    pub fn take(&self, key: K, rate: Rate, requests: u32, now_ms: u64) -> Result<(), Empty> {
        let mut buckets = self.shard(&key);
        if let Some(kept) = buckets.get_mut(&key) {
            if kept.rate != rate {
                let full_at = rate.unit(now_ms) + kept.missing(now_ms);
                *kept = Kept {
                    rate,
                    bucket: Bucket {
                        full_at: full_at.into(),
                    },
                };
            }
            return rate.take(&kept.bucket, requests, now_ms);
        }
        let bucket = Bucket::default();
        rate.take(&bucket, requests, now_ms)?;
        self.make_room(&mut buckets, now_ms);
        buckets.insert(key, Kept { rate, bucket });
        Ok(())
    }

    /// [`Rate::give_back`].
    pub fn give_back(&self, key: &K, requests: u32) {
        if let Some(kept) = self.shard(key).get(key) {
            kept.rate.give_back(&kept.bucket, requests);
        }
    }

    /// Fills `key`'s bucket up to its capacity.
    pub fn refill(&self, key: &K) {
        self.shard(key).remove(key);
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, HashMap<K, Kept>> {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        // A bucket is written in one step, so a panic elsewhere leaves none half done.
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Buckets that are full again go first; should that not free an eighth, the fullest go, which
    /// forgives the least.
    fn make_room(&self, buckets: &mut HashMap<K, Kept>, now_ms: u64) {
        if buckets.len() < self.most {
            return;
        }
        buckets.retain(|_, kept| kept.missing(now_ms) > 0);
        let target = self.most - self.most.div_ceil(8);
        if buckets.len() > target {
            let mut fullest: Vec<(u64, K)> = buckets
                .iter()
                .map(|(key, kept)| (kept.missing(now_ms), *key))
                .collect();
            fullest.sort_unstable();
            for (_, key) in fullest.drain(..buckets.len() - target) {
                buckets.remove(&key);
            }
        }
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().map_or(0, |buckets| buckets.len()))
            .sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    type Name = [u8; 4];
    const KEY: Name = [7; 4];

    /// Buckets of one rate.
    struct Allowances {
        rate: Rate,
        buckets: Buckets<Name>,
    }

    fn allowances(capacity: u32, refill_per_minute: u32) -> Allowances {
        Allowances {
            rate: Rate::new(capacity, refill_per_minute, 60_000),
            buckets: Buckets::new(640),
        }
    }

    impl Allowances {
        fn take(&self, key: Name, now_ms: u64) -> Result<(), Empty> {
            self.buckets.take(key, self.rate, 1, now_ms)
        }

        fn taken(&self, now_ms: u64) -> usize {
            (0..1_000)
                .filter(|_| self.take(KEY, now_ms).is_ok())
                .count()
        }
    }

    fn empty(retry_after_ms: Option<u64>) -> Result<(), Empty> {
        Err(Empty {
            available: 0,
            retry_after_ms,
        })
    }

    #[test]
    fn a_full_bucket_pays_for_its_capacity_and_then_says_when_to_come_back() {
        let allowances = allowances(3, 6);
        for _ in 0..3 {
            allowances.take(KEY, 1_000).unwrap();
        }
        assert_eq!(allowances.take(KEY, 1_000), empty(Some(10_000)));
        assert_eq!(allowances.take(KEY, 10_999), empty(Some(1)));
        allowances.take(KEY, 11_000).unwrap();
        assert!(allowances.take(KEY, 11_000).is_err());
    }

    #[test]
    fn a_rate_that_is_no_whole_number_of_milliseconds_is_exact_nevertheless() {
        let allowances = allowances(1, 7);
        allowances.take(KEY, 0).unwrap();
        let mut taken = 0;
        for now_ms in 1..=600_000 {
            taken += usize::from(allowances.take(KEY, now_ms).is_ok());
        }
        // The next one waits for a whole millisecond, and loses what is left of it.
        assert!((69..=70).contains(&taken), "{taken}");
        let rate = Rate::new(1_000, 7, 60_000);
        let bucket = Bucket::default();
        rate.take(&bucket, 1_000, 0).unwrap();
        rate.take(&bucket, 70, 600_000).unwrap();
        assert!(rate.take(&bucket, 1, 600_000).is_err());
    }

    #[test]
    fn a_bucket_never_holds_more_than_its_capacity_until_the_end_of_time() {
        for per_minute in [60, u32::MAX] {
            let allowances = allowances(2, per_minute);
            allowances.take(KEY, 0).unwrap();
            assert_eq!(allowances.taken(u64::MAX), 2);
        }
        let huge = Rate::new(u32::MAX, u32::MAX, u32::MAX).shared_by(u32::MAX);
        assert!(huge.take(&Bucket::default(), u32::MAX, u64::MAX).is_err());
    }

    #[test]
    fn what_never_comes_back_is_filled_on_purpose_only() {
        let allowances = allowances(2, 0);
        assert_eq!(allowances.taken(5), 2);
        assert_eq!(allowances.take(KEY, 5), empty(None));
        assert_eq!(allowances.taken(u64::MAX), 0);
        allowances.buckets.refill(&KEY);
        assert_eq!(allowances.taken(5), 2);
    }

    #[test]
    fn nodes_together_give_out_no_more_than_one_would() {
        let node = |capacity, nodes| {
            let mut allowances = allowances(capacity, 30);
            allowances.rate = allowances.rate.shared_by(nodes);
            allowances
        };
        let three = [node(300, 3), node(300, 3), node(300, 3)];
        for (at, expected) in [(0, 100), (59_999, 9), (60_000, 1), (u64::MAX, 100)] {
            assert!(three.iter().all(|node| node.taken(at) == expected), "{at}");
        }
        assert_eq!(three[0].take(KEY, u64::MAX), empty(Some(6_000)));
        // Nobody is shut out by there being many.
        assert_eq!(node(2, 5).taken(0), 1);
        assert_eq!(node(0, 5).taken(0), 0);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_no_more() {
        let allowances = allowances(2, 0);
        allowances.buckets.give_back(&KEY, 1);
        assert_eq!(allowances.taken(5), 2);
        allowances.buckets.give_back(&KEY, 1);
        assert_eq!(allowances.taken(5), 1);
        allowances.buckets.give_back(&KEY, 400);
        assert_eq!(allowances.taken(5), 2);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_and_stops_nothing() {
        let allowances = allowances(1, 60);
        allowances.take(KEY, 1_000_000).unwrap();
        assert!(allowances.take(KEY, 10).is_err());
        assert!(allowances.take(KEY, 1_009).is_err());
        allowances.take(KEY, 1_010).unwrap();
    }

    #[test]
    fn several_are_taken_at_once_or_none_and_what_is_left_is_told() {
        let (rate, bucket) = (Rate::new(10, 864, 86_400_000), Bucket::default());
        rate.take(&bucket, 7, 0).unwrap();
        let exceeded = rate.take(&bucket, 5, 0).unwrap_err();
        assert_eq!(exceeded.available, 3);
        assert_eq!(exceeded.retry_after_ms, Some(200_000));
        assert!(rate.take(&bucket, 5, 199_999).is_err());
        rate.take(&bucket, 5, 200_000).unwrap();
        // As many as there can be.
        let never = rate.take(&bucket, 11, 10_000_000).unwrap_err();
        assert_eq!((never.available, never.retry_after_ms), (10, Some(0)));
    }

    #[test]
    fn what_is_missing_stays_missing_when_the_rate_changes() {
        let buckets = Buckets::new(640);
        let (slow, fast) = (Rate::new(10, 100, 1_000), Rate::new(10, 1_000, 1_000));
        let now_ms = 1_800_000_000_000;
        buckets.take(KEY, slow, 8, now_ms).unwrap();
        for rate in [fast, slow, fast] {
            assert_eq!(buckets.take(KEY, rate, 3, now_ms).unwrap_err().available, 2);
        }
        buckets.take(KEY, fast, 3, now_ms + 1).unwrap();
    }

    #[test]
    fn buckets_do_not_share() {
        let allowances = allowances(1, 1);
        for i in 0..100_u32 {
            allowances.take(i.to_be_bytes(), 0).unwrap();
        }
        assert!(allowances.take(42_u32.to_be_bytes(), 0).is_err());
    }

    #[test]
    fn of_an_allowance_of_nothing_no_bucket_is_kept() {
        let allowances = allowances(0, 60);
        assert_eq!(allowances.take(KEY, 0), empty(None));
        assert_eq!(allowances.buckets.count(), 0);
    }

    #[test]
    fn the_number_of_buckets_is_bounded_and_empty_ones_are_kept_longest() {
        let allowances = allowances(10, 1);
        assert_eq!(allowances.taken(0), 10);
        for i in 0..10_000_u32 {
            allowances.take(i.to_be_bytes(), 0).unwrap();
        }
        assert!(allowances.buckets.count() <= 640);
        assert!(
            allowances.take(KEY, 0).is_err(),
            "the empty bucket was forgotten"
        );
    }

    #[test]
    fn buckets_that_are_full_again_make_room() {
        let allowances = allowances(1, 60);
        for i in 0..10_000_u32 {
            allowances
                .take(i.to_be_bytes(), u64::from(i) * 1_000)
                .unwrap();
        }
        assert!(allowances.buckets.count() <= 640);
    }

    #[test]
    fn threads_together_get_no_more_than_the_capacity() {
        let allowances = allowances(1_000, 0);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| allowances.taken(0)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(taken, 1_000);
    }
}
