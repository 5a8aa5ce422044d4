//! How many tokens an account may get: per day, which is durable, and at once, which is not.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::Deserialize;
use service::rate::{Buckets, Rate};

use crate::store::BlockedAccount;

const DAY_MS: u32 = 86_400_000;
/// A hundred megabytes of them.
const MAX_BUCKETS: usize = 1 << 20;

/// A table `[plans.NAME]`: quota and burst of the accounts with this plan.
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
pub(crate) struct Bursts(Buckets<[u8; 32]>);

impl Default for Bursts {
    fn default() -> Self {
        Self(Buckets::new(MAX_BUCKETS))
    }
}

impl Bursts {
    /// Takes `tokens` from the account's bucket, or nothing.
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
        let rate = Rate::new(burst.get(), plan.tokens_per_day.get(), DAY_MS);
        let taken = self.0.take(account.0, rate, tokens, now_ms);
        taken.map_err(|empty| BurstExceeded {
            available: empty.available,
            retry_after_s: empty
                .retry_after_ms
                .map_or(u64::MAX, |ms| ms.div_ceil(1_000).max(1)),
        })
    }

    /// Puts tokens back that were not charged after all.
    pub(crate) fn give_back(&self, account: BlockedAccount, tokens: u32) {
        self.0.give_back(&account.0, tokens);
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
}
