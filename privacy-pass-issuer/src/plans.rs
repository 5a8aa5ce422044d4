//! How many tokens an account may get: per day, which is durable, and at once, which is not.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use crate::store::BlockedAccount;

const DAY_MS: f64 = 86_400_000.0;
/// Buckets that are kept before full ones, which say nothing, are looked for.
const FIRST_CLEANING: usize = 4096;

/// A table `[plans.NAME]`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Tokens per account and day (UTC).
    pub tokens_per_day: NonZeroU32,
    /// Tokens at once; they come back evenly over the day. Absent: all of the day's.
    #[serde(default)]
    pub burst: Option<NonZeroU32>,
}

/// The plans of an issuer.
#[derive(Clone, Debug)]
pub struct Plans {
    default: Plan,
    named: BTreeMap<String, Plan>,
}

impl Plans {
    #[must_use]
    pub fn new(default: Plan, named: BTreeMap<String, Plan>) -> Self {
        Self { default, named }
    }

    /// The plan of that name; the default one for an unknown or absent name.
    #[must_use]
    pub fn of(&self, name: Option<&str>) -> Plan {
        name.and_then(|name| self.named.get(name))
            .copied()
            .unwrap_or(self.default)
    }
}

/// An account asks for more than it may get at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BurstExceeded {
    /// Tokens that it may get now.
    pub available: u32,
    /// When there are as many as it asked for, or as many as there can be.
    pub retry_after_s: u64,
}

/// One token bucket per account, in memory: full again after a restart. What must not be exceeded
/// is the quota of the day, which the store keeps.
#[derive(Default)]
pub(crate) struct Bursts(Mutex<Buckets>);

#[derive(Default)]
struct Buckets {
    of: HashMap<[u8; 32], Bucket>,
    clean_at: usize,
}

#[derive(Clone, Copy)]
struct Bucket {
    level: f64,
    at_ms: u64,
    plan: (f64, f64),
}

impl Bucket {
    fn filled(mut self, now_ms: u64) -> Self {
        let (capacity, per_ms) = self.plan;
        #[allow(clippy::cast_precision_loss, reason = "days in ms are exact in an f64")]
        let elapsed = now_ms.saturating_sub(self.at_ms) as f64;
        self.level = (self.level + elapsed * per_ms).min(capacity);
        self.at_ms = now_ms;
        self
    }
}

impl Bursts {
    /// Takes `tokens` from the account's bucket, or nothing.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "levels lie between zero and a u32; a float converts with saturation"
    )]
    pub(crate) fn take(
        &self,
        account: BlockedAccount,
        plan: Plan,
        tokens: u32,
        now_ms: u64,
    ) -> Result<(), BurstExceeded> {
        let Some(burst) = plan.burst else {
            return Ok(());
        };
        let capacity = f64::from(burst.get());
        let per_ms = f64::from(plan.tokens_per_day.get()) / DAY_MS;
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.clean(now_ms);
        let bucket = buckets.of.entry(account.0).or_insert(Bucket {
            level: capacity,
            at_ms: now_ms,
            plan: (capacity, per_ms),
        });
        bucket.plan = (capacity, per_ms);
        *bucket = bucket.filled(now_ms);
        let wanted = f64::from(tokens);
        if bucket.level < wanted {
            let missing = wanted.min(capacity) - bucket.level;
            return Err(BurstExceeded {
                available: bucket.level as u32,
                retry_after_s: ((missing / per_ms / 1000.0).ceil() as u64).max(1),
            });
        }
        bucket.level -= wanted;
        Ok(())
    }

    /// Puts tokens back that were not charged after all.
    pub(crate) fn give_back(&self, account: BlockedAccount, tokens: u32) {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.of.get_mut(&account.0) {
            bucket.level = (bucket.level + f64::from(tokens)).min(bucket.plan.0);
        }
    }
}

impl Buckets {
    fn clean(&mut self, now_ms: u64) {
        if self.of.len() < self.clean_at.max(FIRST_CLEANING) {
            return;
        }
        self.of
            .retain(|_, bucket| bucket.filled(now_ms).level < bucket.plan.0);
        self.clean_at = self.of.len().saturating_mul(2);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn plan(tokens_per_day: u32, burst: Option<u32>) -> Plan {
        Plan {
            tokens_per_day: NonZeroU32::new(tokens_per_day).unwrap(),
            burst: burst.map(|burst| NonZeroU32::new(burst).unwrap()),
        }
    }

    const ALICE: BlockedAccount = BlockedAccount([1; 32]);

    #[test]
    fn an_unknown_plan_is_the_default_one() {
        let gold = plan(500, None);
        let plans = Plans::new(plan(5, Some(2)), [("gold".to_owned(), gold)].into());
        assert_eq!(plans.of(Some("gold")), gold);
        assert_eq!(plans.of(Some("silver")), plan(5, Some(2)));
        assert_eq!(plans.of(None), plan(5, Some(2)));
    }

    #[test]
    fn a_burst_comes_back_evenly_over_the_day() {
        let bursts = Bursts::default();
        let plan = plan(864, Some(10));
        assert!(bursts.take(ALICE, plan, 7, 0).is_ok());
        let exceeded = bursts.take(ALICE, plan, 5, 0).unwrap_err();
        assert_eq!(exceeded.available, 3);
        assert_eq!(exceeded.retry_after_s, 200);
        assert!(bursts.take(ALICE, plan, 5, 199_000).is_err());
        assert!(bursts.take(ALICE, plan, 5, 200_000).is_ok());
        assert!(bursts.take(BlockedAccount([2; 32]), plan, 10, 0).is_ok());
        // A clock that is set back fills nothing and takes nothing.
        assert!(bursts.take(ALICE, plan, 1, 0).is_err());
    }

    #[test]
    fn what_was_not_charged_comes_back_and_a_plan_without_a_burst_has_no_bucket() {
        let bursts = Bursts::default();
        let plan = plan(864, Some(10));
        assert!(bursts.take(ALICE, plan, 10, 0).is_ok());
        bursts.give_back(ALICE, 4);
        assert!(bursts.take(ALICE, plan, 5, 0).is_err());
        assert!(bursts.take(ALICE, plan, 4, 0).is_ok());
        bursts.give_back(ALICE, 400);
        assert!(bursts.take(ALICE, plan, 11, 0).is_err());
        for _ in 0..100 {
            assert!(bursts.take(ALICE, self::plan(1, None), 100, 0).is_ok());
        }
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let bursts = Bursts::default();
        let plan = plan(86_400, Some(10));
        for number in 0..2 * u32::try_from(FIRST_CLEANING).unwrap() {
            let mut account = [0; 32];
            account[..4].copy_from_slice(&number.to_be_bytes());
            // One second brings one token: all but the last few buckets are full again.
            let at = u64::from(number) * 1000;
            assert!(bursts.take(BlockedAccount(account), plan, 1, at).is_ok());
        }
        let kept = bursts.0.lock().unwrap().of.len();
        assert!(kept <= FIRST_CLEANING, "{kept}");
    }
}
