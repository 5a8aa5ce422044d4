//! The day that expiry goes by.
//!
//! What has expired is deleted for good. So a clock that jumps ahead, once, by a year, must not decide alone what that is:
//! it is believed after it has said the same for a day, by a clock that nobody sets. Until then time goes on from
//! where it was. A service that starts goes on from the last day that
//! was believed before. A clock that goes
//! back is believed at once, since that deletes less.

use protocol::ids::Day;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// A clock that is ahead by less goes on as ever: it was set, or it drifts.
const SLACK_MS: u64 = 60 * 60 * 1000;
/// So long a clock that has jumped ahead says the same before it is believed.
const HOLD_MS: u64 = DAY_MS;

fn day_of(unix_ms: u64) -> u32 {
    Day::of(unix_ms).0
}

/// What was believed last, and what a clock claims that has jumped. Times in milliseconds.
#[derive(Debug)]
pub(crate) struct ExpiryDay {
    believed_ms: u64,
    at_steady_ms: u64,
    claimed: Option<Claim>,
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    wall_ms: u64,
    steady_ms: u64,
}

impl ExpiryDay {
    /// Goes on from the end of `last_day`, if one was ever believed; else from now.
    #[must_use]
    pub(crate) fn from(last_day: Option<u32>, now_ms: u64, steady_ms: u64) -> Self {
        Self {
            believed_ms: last_day.map_or(now_ms, |day| {
                u64::from(day).saturating_add(1).saturating_mul(DAY_MS)
            }),
            at_steady_ms: steady_ms,
            claimed: None,
        }
    }

    /// The day, and whether that is what the clock says.
    pub(crate) fn today(&mut self, now_ms: u64, steady_ms: u64) -> (u32, bool) {
        let elapsed = steady_ms.saturating_sub(self.at_steady_ms);
        let expected = self.believed_ms.saturating_add(elapsed);
        let as_ever = now_ms <= expected.saturating_add(SLACK_MS);
        let claim = self.claimed.filter(|claim| {
            let since = steady_ms.saturating_sub(claim.steady_ms);
            now_ms.abs_diff(claim.wall_ms.saturating_add(since)) <= SLACK_MS
        });
        let held = claim.is_some_and(|claim| steady_ms.saturating_sub(claim.steady_ms) >= HOLD_MS);
        self.at_steady_ms = steady_ms;
        if as_ever || held {
            self.claimed = None;
            self.believed_ms = now_ms;
            return (day_of(now_ms), true);
        }
        self.claimed = claim.or(Some(Claim {
            wall_ms: now_ms,
            steady_ms,
        }));
        self.believed_ms = expected;
        (day_of(expected), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 60 * 60 * 1000;
    const NOW: u64 = 20_000 * DAY_MS + 12 * HOUR;
    const YEAR: u64 = 365 * DAY_MS;

    #[test]
    fn a_clock_that_goes_as_ever_is_believed() {
        let mut expiry = ExpiryDay::from(None, NOW, 5);
        for hour in 0..100 {
            let now = NOW + hour * HOUR;
            assert_eq!(expiry.today(now, 5 + hour * HOUR), (day_of(now), true));
        }
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_comes_back_expires_nothing() {
        let mut expiry = ExpiryDay::from(None, NOW, 0);
        for hour in 1..20 {
            let (day, agreed) = expiry.today(NOW + YEAR + hour * HOUR, hour * HOUR);
            assert_eq!((day, agreed), (day_of(NOW + hour * HOUR), false));
        }
        let back = NOW + 20 * HOUR;
        assert_eq!(expiry.today(back, 20 * HOUR), (day_of(back), true));
    }

    #[test]
    fn a_clock_that_stays_ahead_for_a_day_is_believed_and_one_that_wavers_is_not() {
        let mut expiry = ExpiryDay::from(None, NOW, 0);
        let mut steady = 0;
        for hours in [1, 23] {
            steady += hours * HOUR;
            assert!(!expiry.today(NOW + YEAR + steady, steady).1);
        }
        steady += HOUR;
        assert!(expiry.today(NOW + YEAR + steady, steady).1);
        for hour in 1..100 {
            let wavering = NOW + 2 * YEAR + hour * DAY_MS;
            assert!(!expiry.today(wavering, steady + hour * HOUR).1);
        }
    }

    #[test]
    fn a_clock_that_goes_back_is_believed_at_once() {
        let mut expiry = ExpiryDay::from(None, NOW, 0);
        assert_eq!(expiry.today(NOW - YEAR, HOUR), (day_of(NOW - YEAR), true));
        // And has then jumped ahead, when it comes back.
        assert!(!expiry.today(NOW, 2 * HOUR).1);
    }

    #[test]
    fn a_service_that_starts_goes_on_from_its_last_day() {
        let last = day_of(NOW);
        let (soon, late) = (NOW + DAY_MS, NOW + 40 * DAY_MS);
        let mut expiry = ExpiryDay::from(Some(last), soon, 0);
        assert_eq!(expiry.today(soon, 0).0, last + 1);
        let mut expiry = ExpiryDay::from(Some(last), late, 0);
        assert_eq!(expiry.today(late, 0), (last + 1, false));
        assert_eq!(
            expiry.today(late + DAY_MS, DAY_MS),
            (day_of(late + DAY_MS), true)
        );
    }
}
