//! Soft allowances: a token bucket per opaque key, in the memory of this node only. A restart fills
//! every bucket; what must not be forgotten (spent tokens, durable quotas) is the store's.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};

/// Names a bucket. The caller derives it from whatever it limits, so that no identifier is kept
/// here.
pub(crate) type BucketKey = [u8; 16];

/// Shape of every bucket, and how many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowanceLimits {
    /// Requests that a full bucket pays for.
    pub capacity: u32,
    /// Requests per minute that flow back.
    pub refill_per_minute: u32,
    /// Buckets in memory (about 100 bytes each).
    pub max_buckets: usize,
    /// Nodes that serve requests side by side: this one gives out its share, at least one request.
    pub nodes: u32,
}

/// The bucket is empty. `retry_after_ms` is `None` when nothing ever flows back, so that only a
/// token helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the allowance is used up")]
pub struct Empty {
    pub retry_after_ms: Option<u64>,
}

/// One request of one node, in the unit of a bucket's level: a rate per minute is then exact per
/// millisecond. Of several nodes each counts a request as many times as there are nodes, so that
/// shares are exact too.
const REQUEST: u64 = 60_000;
const SHARDS: usize = 64;

/// The buckets of one kind of allowance.
#[derive(Debug)]
pub struct Allowances {
    limits: AllowanceLimits,
    hasher: RandomState,
    shards: Vec<Mutex<HashMap<BucketKey, Bucket>>>,
}

/// A bucket that is full is the same as none: it need not be kept.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: u64,
    as_of_ms: u64,
}

impl Allowances {
    pub fn new(limits: AllowanceLimits) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self {
            limits,
            hasher: RandomState::new(),
            shards,
        }
    }

    /// Takes one request out of `key`'s bucket. `now_ms` is any clock in milliseconds; one that
    /// goes backwards neither gives nor takes anything.
    pub fn take(&self, key: BucketKey, now_ms: u64) -> Result<(), Empty> {
        let mut buckets = self.shard(&key);
        let mut bucket = buckets
            .get(&key)
            .map_or(self.full(now_ms), |bucket| self.refilled(bucket, now_ms));
        match bucket.level.checked_sub(self.cost()) {
            Some(level) => {
                bucket.level = level;
                self.make_room(&mut buckets, &key, now_ms);
                buckets.insert(key, bucket);
                Ok(())
            }
            None => {
                let retry_after_ms = match self.limits {
                    AllowanceLimits { capacity: 0, .. }
                    | AllowanceLimits {
                        refill_per_minute: 0,
                        ..
                    } => None,
                    AllowanceLimits {
                        refill_per_minute, ..
                    } => Some((self.cost() - bucket.level).div_ceil(refill_per_minute.into())),
                };
                // With a capacity of nothing there is no bucket yet, and none to remember.
                if let Some(kept) = buckets.get_mut(&key) {
                    *kept = bucket;
                }
                Err(Empty { retry_after_ms })
            }
        }
    }

    /// Puts back what [`Allowances::take`] took for a request that something else stopped.
    pub fn give_back(&self, key: BucketKey) {
        let full = self.capacity();
        if let Some(bucket) = self.shard(&key).get_mut(&key) {
            bucket.level = bucket.level.saturating_add(self.cost()).min(full);
        }
    }

    /// Fills `key`'s bucket: a token bought it.
    pub fn refill(&self, key: BucketKey) {
        self.shard(&key).remove(&key);
    }

    fn shard(&self, key: &BucketKey) -> std::sync::MutexGuard<'_, HashMap<BucketKey, Bucket>> {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        // A bucket is written in one step, so a panic elsewhere leaves none half done.
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn cost(&self) -> u64 {
        u64::from(self.limits.nodes.max(1)) * REQUEST
    }

    fn capacity(&self) -> u64 {
        match u64::from(self.limits.capacity) * REQUEST {
            0 => 0,
            // More nodes than requests: each has one.
            capacity => capacity.max(self.cost()),
        }
    }

    fn full(&self, now_ms: u64) -> Bucket {
        Bucket {
            level: self.capacity(),
            as_of_ms: now_ms,
        }
    }

    fn refilled(&self, bucket: &Bucket, now_ms: u64) -> Bucket {
        let elapsed_ms = now_ms.saturating_sub(bucket.as_of_ms);
        let gained = elapsed_ms.saturating_mul(self.limits.refill_per_minute.into());
        // A clock that jumped ahead and came back must not stop the refill until it is there again:
        // `as_of_ms` follows it down.
        Bucket {
            level: bucket.level.saturating_add(gained).min(self.capacity()),
            as_of_ms: now_ms,
        }
    }

    /// Keeps the shard within its share of `max_buckets`. Buckets that are full again go first;
    /// should that not free an eighth, the fullest go, which forgives the least.
    fn make_room(&self, buckets: &mut HashMap<BucketKey, Bucket>, key: &BucketKey, now_ms: u64) {
        let share = (self.limits.max_buckets / SHARDS).max(1);
        if buckets.len() < share || buckets.contains_key(key) {
            return;
        }
        let capacity = self.capacity();
        buckets.retain(|_, bucket| self.refilled(bucket, now_ms).level < capacity);
        let target = share - share.div_ceil(8);
        if buckets.len() > target {
            let mut by_level: Vec<(u64, BucketKey)> = buckets
                .iter()
                .map(|(key, bucket)| (self.refilled(bucket, now_ms).level, *key))
                .collect();
            let surplus = buckets.len() - target;
            by_level.sort_unstable_by(|a, b| b.cmp(a));
            for (_, key) in by_level.into_iter().take(surplus) {
                buckets.remove(&key);
            }
        }
    }

    #[cfg(test)]
    fn bucket_count(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().map_or(0, |buckets| buckets.len()))
            .sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const KEY: BucketKey = [7; 16];

    fn allowances(capacity: u32, refill_per_minute: u32) -> Allowances {
        Allowances::new(AllowanceLimits {
            capacity,
            refill_per_minute,
            max_buckets: 640,
            nodes: 1,
        })
    }

    fn key(i: u32) -> BucketKey {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&i.to_be_bytes());
        key
    }

    #[test]
    fn a_full_bucket_pays_for_its_capacity_and_then_says_when_to_come_back() {
        let allowances = allowances(3, 6);
        for _ in 0..3 {
            allowances.take(KEY, 1_000).unwrap();
        }
        assert_eq!(
            allowances.take(KEY, 1_000),
            Err(Empty {
                retry_after_ms: Some(10_000)
            })
        );
        assert_eq!(
            allowances.take(KEY, 10_999),
            Err(Empty {
                retry_after_ms: Some(1)
            })
        );
        allowances.take(KEY, 11_000).unwrap();
        assert!(allowances.take(KEY, 11_000).is_err());
    }

    #[test]
    fn a_bucket_never_holds_more_than_its_capacity() {
        let allowances = allowances(2, 60);
        allowances.take(KEY, 0).unwrap();
        for _ in 0..2 {
            allowances.take(KEY, u64::MAX).unwrap();
        }
        assert!(allowances.take(KEY, u64::MAX).is_err());
    }

    #[test]
    fn a_token_fills_the_bucket_again() {
        let allowances = allowances(2, 0);
        allowances.take(KEY, 5).unwrap();
        allowances.take(KEY, 5).unwrap();
        assert_eq!(
            allowances.take(KEY, 5),
            Err(Empty {
                retry_after_ms: None
            })
        );
        allowances.refill(KEY);
        allowances.take(KEY, 5).unwrap();
        allowances.take(KEY, 5).unwrap();
        assert!(allowances.take(KEY, 5).is_err());
    }

    #[test]
    fn nodes_together_give_out_no_more_than_one_would() {
        let node = |capacity, nodes| {
            Allowances::new(AllowanceLimits {
                capacity,
                refill_per_minute: 30,
                max_buckets: 640,
                nodes,
            })
        };
        let taken =
            |node: &Allowances, at| (0..1_000).filter(|_| node.take(KEY, at).is_ok()).count();
        let three = [node(300, 3), node(300, 3), node(300, 3)];
        for (at, expected) in [(0, 100), (59_999, 9), (60_000, 1), (u64::MAX, 100)] {
            assert!(three.iter().all(|node| taken(node, at) == expected), "{at}");
        }
        let refused = three[0].take(KEY, u64::MAX).unwrap_err();
        assert_eq!(refused.retry_after_ms, Some(6_000));
        // Nobody is shut out by there being many.
        assert_eq!(taken(&node(2, 5), 0), 1);
        assert_eq!(taken(&node(0, 5), 0), 0);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_no_more() {
        let allowances = allowances(2, 0);
        allowances.give_back(KEY);
        allowances.take(KEY, 5).unwrap();
        allowances.take(KEY, 5).unwrap();
        allowances.give_back(KEY);
        allowances.take(KEY, 5).unwrap();
        assert!(allowances.take(KEY, 5).is_err());
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
    fn buckets_do_not_share() {
        let allowances = allowances(1, 1);
        for i in 0..100 {
            allowances.take(key(i), 0).unwrap();
        }
        assert!(allowances.take(key(42), 0).is_err());
    }

    #[test]
    fn an_allowance_of_nothing_always_needs_a_token_or_more_capacity() {
        let allowances = allowances(0, 60);
        assert_eq!(
            allowances.take(KEY, 0),
            Err(Empty {
                retry_after_ms: None
            })
        );
        assert_eq!(allowances.bucket_count(), 0);
    }

    #[test]
    fn the_number_of_buckets_is_bounded_and_empty_ones_are_kept_longest() {
        let allowances = allowances(10, 1);
        for _ in 0..10 {
            allowances.take(KEY, 0).unwrap();
        }
        for i in 0..10_000 {
            allowances.take(key(i), 0).unwrap();
        }
        assert!(allowances.bucket_count() <= 640);
        assert!(
            allowances.take(KEY, 0).is_err(),
            "the empty bucket was forgotten"
        );
    }

    #[test]
    fn buckets_that_are_full_again_make_room() {
        let allowances = allowances(1, 60);
        for i in 0..10_000_u32 {
            allowances.take(key(i), u64::from(i) * 1_000).unwrap();
        }
        assert!(allowances.bucket_count() <= 640);
    }

    #[test]
    fn threads_together_get_no_more_than_the_capacity() {
        let allowances = allowances(1_000, 0);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| (0..500).filter(|_| allowances.take(KEY, 0).is_ok()).count())
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(taken, 1_000);
    }
}
