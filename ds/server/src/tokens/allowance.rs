//! Soft allowances: a token bucket per opaque key, in the memory of this node only. A restart fills
//! every bucket; what must not be forgotten (spent tokens, durable quotas) is the store's.

use service::rate::{Buckets, Empty, Rate};

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

/// The buckets of one kind of allowance.
#[derive(Debug)]
pub struct Allowances {
    rate: Rate,
    buckets: Buckets<BucketKey>,
}

impl Allowances {
    pub fn new(limits: AllowanceLimits) -> Self {
        let AllowanceLimits {
            capacity,
            refill_per_minute,
            max_buckets,
            nodes,
        } = limits;
        Self {
            rate: Rate::new(capacity, refill_per_minute, 60_000).shared_by(nodes),
            buckets: Buckets::new(max_buckets),
        }
    }

    /// Takes one request out of `key`'s bucket.
    pub fn take(&self, key: BucketKey, now_ms: u64) -> Result<(), Empty> {
        self.buckets.take(key, self.rate, 1, now_ms)
    }

    /// Puts back what [`Allowances::take`] took for a request that something else stopped.
    pub fn give_back(&self, key: BucketKey) {
        self.buckets.give_back(&key, 1);
    }

    /// Fills `key`'s bucket: a token bought it.
    pub fn refill(&self, key: BucketKey) {
        self.buckets.refill(&key);
    }
}
