//! What following the activity feed may cost. Time fills the purse, and everything that is fetched
//! is paid from it: the head of an answer before it is asked for, a body while it comes. So whoever
//! shows the feed can say of its sizes what they like: more than what is left is not read.
//!
//! Nothing here looks at a clock: time is handed in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What an answer takes beside its body, at least.
pub(crate) const HEAD: u64 = 300;

const HOUR_MS: u64 = 60 * 60 * 1000;
const MONTH_MS: u64 = 30 * 24 * HOUR_MS;
/// A purse that nobody uses is full after so long. Whoever was away for days catches up with as
/// much; whoever lies about sizes gets no more at once.
const FULL_MS: u64 = 7 * 24 * HOUR_MS;
/// What a new one has, in the time that fills it.
const FIRST_MS: u64 = HOUR_MS;

/// Bytes that are left, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Purse {
    a_month: u64,
    left: u64,
    at_ms: u64,
    /// What was paid since it was kept.
    spent: u64,
}

impl Purse {
    /// A new one.
    pub(crate) fn new(a_month: u64, now_ms: u64) -> Self {
        let mut purse = Self {
            a_month,
            left: 0,
            at_ms: now_ms,
            spent: 0,
        };
        purse.left = purse.in_time(FIRST_MS);
        purse
    }

    /// As it was kept, however much it was filled by then.
    pub(crate) fn kept(a_month: u64, left: u64, at_ms: u64) -> Self {
        let mut purse = Self {
            left,
            at_ms,
            ..Self::new(a_month, at_ms)
        };
        purse.left = left.min(purse.in_time(FULL_MS));
        purse
    }

    /// What so much time fills.
    fn in_time(&self, ms: u64) -> u64 {
        let bytes = u128::from(self.a_month).saturating_mul(ms.into()) / u128::from(MONTH_MS);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Up to now. A clock that is set back fills nothing.
    pub(crate) fn fill(&mut self, now_ms: u64) {
        let came = self.in_time(now_ms.saturating_sub(self.at_ms));
        // The time of what is less than a byte still counts.
        let taken_ms = u128::from(came)
            .saturating_mul(MONTH_MS.into())
            .div_ceil(u128::from(self.a_month).max(1));
        let taken_ms = u64::try_from(taken_ms).unwrap_or(u64::MAX);
        self.at_ms = self.at_ms.saturating_add(taken_ms).min(now_ms);
        self.left = self.left.saturating_add(came).min(self.in_time(FULL_MS));
    }

    pub(crate) fn pay(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        self.spent = self.spent.saturating_add(bytes);
    }

    /// Pays all of it, or nothing if there is not so much.
    pub(crate) fn can_pay(&mut self, bytes: u64) -> bool {
        let can = bytes <= self.left;
        if can {
            self.pay(bytes);
        }
        can
    }

    pub(crate) const fn left(&self) -> u64 {
        self.left
    }

    /// What it is kept by.
    pub(crate) const fn to_keep(self) -> (u64, u64) {
        (self.left, self.at_ms)
    }

    pub(crate) const fn spent(&self) -> u64 {
        self.spent
    }

    pub(crate) const fn a_month(&self) -> u64 {
        self.a_month
    }
}

/// A purse that the engine shares with who follows the feed without it.
#[derive(Clone)]
pub(crate) struct SharedPurse(Arc<Mutex<Purse>>);

impl SharedPurse {
    pub(crate) fn new(purse: Purse) -> Self {
        Self(Arc::new(Mutex::new(purse)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Purse> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;
    const A_MONTH: u64 = 30 * 24 * 1_000;

    #[test]
    fn a_purse_gives_what_the_month_allows_and_what_a_week_has_filled_at_once() {
        let mut purse = Purse::new(A_MONTH, NOW);
        assert_eq!(purse.left(), 1_000);
        let mut paid = 0;
        for hour in 1..=30 * 24 {
            purse.fill(NOW + hour * HOUR_MS);
            let left = purse.left();
            assert!(!purse.can_pay(left + 1) && purse.can_pay(left));
            paid += left;
        }
        assert_eq!(paid, A_MONTH + 1_000);
        purse.fill(NOW + 1_000 * HOUR_MS);
        assert_eq!(purse.left(), 168_000);
    }

    #[test]
    fn neither_a_clock_that_is_set_back_nor_many_looks_fill_a_purse() {
        let mut purse = Purse::new(A_MONTH, NOW);
        purse.fill(NOW - 5 * HOUR_MS);
        assert_eq!(purse.left(), 1_000);
        for second in 0..3_600 {
            purse.fill(NOW - 5 * HOUR_MS + second * 1_000);
        }
        assert!((1_998..=2_000).contains(&purse.left()), "{purse:?}");
    }

    #[test]
    fn a_purse_that_may_hold_less_now_does() {
        let mut full = Purse::new(A_MONTH, NOW);
        full.fill(NOW + 1_000 * HOUR_MS);
        let (left, at_ms) = full.to_keep();
        assert_eq!(Purse::kept(A_MONTH, left, at_ms).left(), left);
        assert_eq!(Purse::kept(A_MONTH / 10, left, at_ms).left(), left / 10);
    }
}
