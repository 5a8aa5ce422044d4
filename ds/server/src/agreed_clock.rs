//! The clock, as far as it is believed.
//!
//! What has expired is deleted for good, and what is written has its day: a clock that jumps ahead,
//! once, by a year, must not decide alone what that is. It is believed after it has said the same
//! for a day, by a clock that nobody sets, or when the operator says so. Until then time goes on
//! from where it was, and nothing is written. A service that starts goes on from the last day that
//! its store was told. It may have been away for some days: then requests go by the clock at once,
//! and what is deleted does not.
//!
//! A clock that goes back is believed at once, since that deletes less; and when it comes back to
//! where it was.

use protocol::ids::Day;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// A clock that is ahead by less goes on as ever: it was set, or it drifts.
const SLACK_MS: u64 = 60 * 60 * 1000;
/// So long a clock that has jumped ahead says the same before it is believed.
const HOLD_MS: u64 = DAY_MS;
/// A service may have been away for so long. Days of entries and of tags that are wrong by that are
/// right again soon.
const ABSENCE_MS: u64 = 7 * DAY_MS;

fn day_of(unix_ms: u64) -> u32 {
    Day::of(unix_ms).0
}

/// What becomes of the clock's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It goes as ever.
    Agreed,
    /// It went back less than a day ago.
    Back,
    /// It is ahead by no more than an absence: requests go by it.
    AfterAbsence,
    /// It has jumped ahead. It is not believed.
    Ahead,
}

/// What time it is, and what goes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// For requests.
    pub(crate) unix_ms: u64,
    /// For what is deleted.
    pub(crate) day: u32,
    /// Of the clock.
    pub(crate) standing: Standing,
}

impl Now {
    /// Whether anything may be written that has a day.
    pub(crate) fn may_write(self) -> bool {
        self.standing != Standing::Ahead
    }

    /// Whether it goes as ever. One that may have been away or may be wrong makes no tick: no later
    /// tick could be before that.
    pub(crate) fn may_tick(self) -> bool {
        matches!(self.standing, Standing::Agreed | Standing::Back)
    }
}

/// What was believed last, and what a clock claims that has jumped. Times in milliseconds.
#[derive(Debug)]
pub(crate) struct AgreedClock {
    believed_ms: u64,
    at_steady_ms: u64,
    claimed: Option<Claim>,
    /// What was believed before the clock went back.
    before: Option<Claim>,
    /// Nobody has asked yet.
    starts: bool,
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    wall_ms: u64,
    steady_ms: u64,
    /// Made when the service started.
    at_start: bool,
}

impl Claim {
    fn since(self, steady_ms: u64) -> u64 {
        steady_ms.saturating_sub(self.steady_ms)
    }

    /// What it comes to by now.
    fn now(self, steady_ms: u64) -> u64 {
        self.wall_ms.saturating_add(self.since(steady_ms))
    }
}

impl AgreedClock {
    /// Goes on from `last_day`, if one was ever believed; else from now.
    #[must_use]
    pub(crate) fn from(last_day: Option<u32>, now_ms: u64, steady_ms: u64) -> Self {
        let believed_ms = last_day.map_or(now_ms, |day| {
            let begins = u64::from(day).saturating_mul(DAY_MS);
            let ends = begins.saturating_add(DAY_MS);
            if now_ms >= begins {
                now_ms.min(ends)
            } else {
                ends
            }
        });
        Self {
            believed_ms,
            at_steady_ms: steady_ms,
            claimed: None,
            before: None,
            starts: true,
        }
    }

    /// What time it is.
    pub(crate) fn now(&mut self, now_ms: u64, steady_ms: u64) -> Now {
        let elapsed = steady_ms.saturating_sub(self.at_steady_ms);
        let expected = self.believed_ms.saturating_add(elapsed);
        let at_start = std::mem::take(&mut self.starts);
        self.at_steady_ms = steady_ms;
        self.before = self
            .before
            .filter(|before| before.since(steady_ms) < HOLD_MS);
        if now_ms.saturating_add(SLACK_MS) < expected && self.before.is_none() {
            self.before = Some(Claim {
                wall_ms: expected,
                steady_ms,
                at_start,
            });
        }
        let up_to = |slack| {
            let before = self.before.map_or(0, |before| before.now(steady_ms));
            expected.max(before).saturating_add(slack)
        };
        let claim = self
            .claimed
            .filter(|claim| now_ms.abs_diff(claim.now(steady_ms)) <= SLACK_MS);
        let held = claim.is_some_and(|claim| claim.since(steady_ms) >= HOLD_MS);
        if held || now_ms <= up_to(SLACK_MS) {
            self.before = self
                .before
                .filter(|before| now_ms.saturating_add(SLACK_MS) < before.now(steady_ms));
            self.claimed = None;
            self.believed_ms = now_ms;
            return Now {
                unix_ms: now_ms,
                day: day_of(now_ms),
                standing: match self.before {
                    Some(_) => Standing::Back,
                    None => Standing::Agreed,
                },
            };
        }
        let was_away = at_start || self.before.is_some_and(|before| before.at_start);
        let claim = claim.unwrap_or(Claim {
            wall_ms: now_ms,
            steady_ms,
            at_start: was_away && now_ms <= up_to(ABSENCE_MS),
        });
        self.claimed = Some(claim);
        self.believed_ms = expected;
        let (unix_ms, standing) = if claim.at_start {
            (now_ms, Standing::AfterAbsence)
        } else {
            (expected, Standing::Ahead)
        };
        Now {
            unix_ms,
            day: day_of(expected),
            standing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 60 * 60 * 1000;
    const NOW: u64 = 20_000 * DAY_MS + 12 * HOUR;
    const YEAR: u64 = 365 * DAY_MS;

    fn at(unix_ms: u64, standing: Standing) -> Now {
        Now {
            unix_ms,
            day: day_of(unix_ms),
            standing,
        }
    }

    #[test]
    fn a_clock_that_goes_as_ever_is_believed() {
        let mut clock = AgreedClock::from(None, NOW, 5);
        for hour in 0..100 {
            let now = NOW + hour * HOUR;
            assert_eq!(clock.now(now, 5 + hour * HOUR), at(now, Standing::Agreed));
        }
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_comes_back_expires_nothing_and_writes_nothing_meanwhile() {
        let mut clock = AgreedClock::from(None, NOW, 0);
        clock.now(NOW, 0);
        for hour in 1..20 {
            let now = clock.now(NOW + YEAR + hour * HOUR, hour * HOUR);
            assert_eq!(now, at(NOW + hour * HOUR, Standing::Ahead));
            assert!(!now.may_write());
        }
        let back = NOW + 20 * HOUR;
        assert_eq!(clock.now(back, 20 * HOUR), at(back, Standing::Agreed));
    }

    #[test]
    fn a_clock_that_stays_ahead_for_a_day_is_believed_and_one_that_wavers_is_not() {
        let mut clock = AgreedClock::from(None, NOW, 0);
        clock.now(NOW, 0);
        let mut steady = 0;
        for hours in [1, 23] {
            steady += hours * HOUR;
            assert!(!clock.now(NOW + YEAR + steady, steady).may_write());
        }
        steady += HOUR;
        assert!(clock.now(NOW + YEAR + steady, steady).may_write());
        for hour in 1..100 {
            let wavering = NOW + 2 * YEAR + hour * DAY_MS;
            assert!(!clock.now(wavering, steady + hour * HOUR).may_write());
        }
    }

    #[test]
    fn a_clock_that_goes_back_is_believed_at_once_and_so_is_its_return_within_a_day() {
        let mut clock = AgreedClock::from(None, NOW, 0);
        clock.now(NOW, 0);
        let early = NOW - YEAR;
        assert_eq!(clock.now(early, HOUR), at(early, Standing::Back));
        let back = NOW + 2 * HOUR;
        assert_eq!(clock.now(back, 2 * HOUR), at(back, Standing::Agreed));
        // After a day it has jumped ahead.
        let mut clock = AgreedClock::from(None, NOW, 0);
        assert_eq!(clock.now(early, HOUR), at(early, Standing::Back));
        let later = early + 25 * HOUR;
        assert_eq!(clock.now(later, 26 * HOUR).standing, Standing::Agreed);
        assert!(!clock.now(NOW + 27 * HOUR, 27 * HOUR).may_write());
    }

    #[test]
    fn a_service_that_starts_goes_on_from_its_last_day() {
        let last = day_of(NOW);
        let start = |last, now| AgreedClock::from(Some(last), now, 0).now(now, 0);
        for now in [NOW - 11 * HOUR, NOW, NOW + 12 * HOUR] {
            assert_eq!(start(last, now), at(now, Standing::Agreed));
        }
        // It was away for some days.
        let soon = NOW + 5 * DAY_MS;
        let now = start(last, soon);
        assert_eq!((now.unix_ms, now.day), (soon, last + 1));
        assert_eq!(now.standing, Standing::AfterAbsence);
        // Or its clock is wrong.
        let late = NOW + 40 * DAY_MS;
        let mut clock = AgreedClock::from(Some(last), late, 0);
        assert!(!clock.now(late, 0).may_write());
        let held = late + DAY_MS;
        assert_eq!(clock.now(held, DAY_MS), at(held, Standing::Agreed));
    }

    #[test]
    fn a_clock_that_is_set_right_after_the_start_is_that_of_a_service_that_was_away() {
        let last = day_of(NOW);
        let mut clock = AgreedClock::from(Some(last), 0, 0);
        assert_eq!(clock.now(0, 0), at(0, Standing::Back));
        let right = NOW + 3 * DAY_MS;
        let now = clock.now(right, HOUR);
        assert_eq!((now.unix_ms, now.standing), (right, Standing::AfterAbsence));
    }
}
