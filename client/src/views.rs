//! When the views of independent operators are compared, and from when on what they agree on is
//! used.
//!
//! Whoever could make one client ask a mirror, or use something new, at a moment of their choice
//! would tie that client's requests, which the service sees, to the address that the mirror sees,
//! from which the same client gets its tokens as an account. So both happen at random times of the
//! client's own, kept over restarts. No answer to a request moves them; only what the relay shows
//! to *all* its clients brings the next comparison forward, by chance too.

use std::ops::Range;
use std::time::Duration;

use protocol::directory::Directory;
use serde::{Deserialize, Serialize};

use crate::error::Error;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// How fast a client follows what operators show. Tests shorten it.
#[derive(Debug, Clone)]
pub struct Pace {
    /// From one comparison to the next.
    pub between: Range<Duration>,
    /// Until the next one after the relay shows everybody something new.
    pub soon: Range<Duration>,
    /// From the comparison until what is new is used.
    pub adoption: Range<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        Self {
            between: minutes(30)..minutes(90),
            soon: Duration::from_secs(20)..minutes(2),
            adoption: Duration::from_secs(20)..minutes(2),
        }
    }
}

impl Pace {
    /// After a failure, and for who was away when it was due: not at the start of a session, when
    /// every client asks for everything.
    fn late(&self) -> Range<Duration> {
        self.between.start / 6..self.between.start / 2
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn after(now_ms: u64, range: &Range<Duration>) -> Result<u64, Error> {
    let (start, end) = (ms(range.start), ms(range.end));
    let random = u64::from_be_bytes(crypto::random::<8>()?);
    let chance = random.checked_rem(end.saturating_sub(start)).unwrap_or(0);
    Ok(now_ms.saturating_add(start).saturating_add(chance))
}

/// Something that several views agree on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Agreed<T> {
    used: Option<T>,
    next: Option<(T, u64)>,
}

impl<T> Default for Agreed<T> {
    fn default() -> Self {
        Self {
            used: None,
            next: None,
        }
    }
}

impl<T: PartialEq> Agreed<T> {
    pub(crate) fn of(value: T) -> Self {
        Self {
            used: Some(value),
            next: None,
        }
    }

    pub(crate) fn used(&self) -> Option<&T> {
        self.used.as_ref()
    }

    /// When what is to come is used.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.next.as_ref().map(|(_, from_ms)| *from_ms)
    }

    /// The first is used at once, others after a while.
    pub(crate) fn take(&mut self, value: T, now_ms: u64, pace: &Pace) -> Result<(), Error> {
        if self.used.is_none() {
            self.used = Some(value);
        } else if self.used.as_ref() == Some(&value) {
            self.next = None;
        } else if self.next.as_ref().map(|(next, _)| next) != Some(&value) {
            self.next = Some((value, after(now_ms, &pace.adoption)?));
        }
        Ok(())
    }

    /// Uses what is to come if its time has come, and says whether it had.
    pub(crate) fn adopt(&mut self, now_ms: u64, pace: &Pace) -> bool {
        // A clock that was far ahead once does not put it off for years.
        let is_due = self.next.as_ref().is_some_and(|(_, from_ms)| {
            *from_ms <= now_ms || *from_ms - now_ms > ms(pace.adoption.end)
        });
        if is_due {
            self.used = self.next.take().map(|(value, _)| value);
        }
        is_due
    }
}

/// What is kept of the views of others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Views {
    /// Key configurations that are in the lists of all mirrors, in the order of the first.
    pub(crate) keys: Agreed<Vec<Vec<u8>>>,
    pub(crate) directory: Agreed<Directory>,
    compared_ms: u64,
    due_ms: u64,
    put_off: bool,
    /// How often it was brought forward since the last comparison that came to a result.
    forward: u32,
}

impl Views {
    /// When the next comparison is due.
    pub(crate) fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// What is kept is so old that its time says nothing about now.
    pub(crate) fn is_stale(&self, now_ms: u64) -> bool {
        now_ms.abs_diff(self.compared_ms) > DAY_MS
    }

    /// Whether to compare now.
    pub(crate) fn is_due(&mut self, now_ms: u64, pace: &Pace) -> Result<bool, Error> {
        if now_ms < self.due_ms {
            if self.due_ms - now_ms > ms(pace.between.end) {
                self.due_ms = after(now_ms, &pace.between)?;
            }
            return Ok(false);
        }
        let is_late = now_ms - self.due_ms > ms(pace.between.start / 6);
        if is_late && !self.put_off {
            self.put_off = true;
            self.due_ms = after(now_ms, &pace.late())?;
            return Ok(false);
        }
        Ok(true)
    }

    /// The views were compared and agree.
    pub(crate) fn compared(&mut self, now_ms: u64, pace: &Pace) -> Result<(), Error> {
        self.compared_ms = now_ms;
        self.forward = 0;
        self.put_off = false;
        self.due_ms = after(now_ms, &pace.between)?;
        Ok(())
    }

    /// They could not be compared, or do not agree: they may be behind each other.
    pub(crate) fn failed(&mut self, now_ms: u64, pace: &Pace) -> Result<(), Error> {
        self.put_off = false;
        self.due_ms = if self.forward == 0 {
            after(now_ms, &pace.late())?
        } else {
            self.soon(now_ms, pace)?
        };
        Ok(())
    }

    /// The relay shows everybody something new.
    pub(crate) fn bring_forward(&mut self, now_ms: u64, pace: &Pace) -> Result<(), Error> {
        if self.forward == 0 {
            self.due_ms = self.due_ms.min(self.soon(now_ms, pace)?);
            self.put_off = true;
        }
        Ok(())
    }

    /// Ever later, as long as there is no result.
    fn soon(&mut self, now_ms: u64, pace: &Pace) -> Result<u64, Error> {
        let wait = after(0, &pace.soon)?.saturating_mul(1 << self.forward.min(8));
        self.forward = self.forward.saturating_add(1);
        Ok(now_ms.saturating_add(wait.min(ms(pace.between.end))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NOW: u64 = 1_800_000_000_000;
    const MINUTE_MS: u64 = 60_000;

    #[test]
    fn comparisons_come_at_random_times_and_nothing_that_is_answered_moves_them() {
        let pace = Pace::default();
        let mut times = BTreeSet::new();
        for _ in 0..200 {
            let mut views = Views::default();
            views.compared(NOW, &pace).unwrap();
            let due = views.due_ms();
            assert!((NOW + 30 * MINUTE_MS..NOW + 90 * MINUTE_MS).contains(&due));
            assert!(!views.is_due(due - 1, &pace).unwrap());
            assert!(views.is_due(due, &pace).unwrap());
            assert_eq!(views.due_ms(), due);
            times.insert(due);
        }
        assert!(times.len() > 190);
    }

    #[test]
    fn who_comes_back_does_not_compare_at_the_start_of_a_session() {
        let pace = Pace::default();
        let mut views = Views::default();
        views.compared(NOW, &pace).unwrap();
        let back = NOW + DAY_MS;
        assert!(!views.is_due(back, &pace).unwrap());
        let later = views.due_ms();
        assert!((back + 5 * MINUTE_MS..back + 15 * MINUTE_MS).contains(&later));
        assert!(!views.is_due(later - 1, &pace).unwrap());
        assert!(views.is_due(later, &pace).unwrap());
    }

    #[test]
    fn something_new_for_all_brings_a_comparison_forward_by_chance_and_once() {
        let pace = Pace::default();
        let mut times = BTreeSet::new();
        for _ in 0..200 {
            let mut views = Views::default();
            views.compared(NOW, &pace).unwrap();
            views.bring_forward(NOW, &pace).unwrap();
            let due = views.due_ms();
            assert!((NOW + 20_000..NOW + 2 * MINUTE_MS).contains(&due));
            // However often it is asked for, there is one drawing.
            for _ in 0..20 {
                views.bring_forward(NOW + 1, &pace).unwrap();
            }
            assert_eq!(views.due_ms(), due);
            // Without a result it becomes ever less frequent.
            for _ in 0..20 {
                views.failed(NOW, &pace).unwrap();
            }
            assert!(views.due_ms() >= NOW + 60 * MINUTE_MS);
            times.insert(due);
        }
        assert!(times.len() > 190);
    }

    #[test]
    fn what_is_new_is_used_some_time_after_the_mirrors_were_asked() {
        let pace = Pace::default();
        let mut agreed = Agreed::default();
        agreed.take(1, NOW, &pace).unwrap();
        assert_eq!(agreed.used(), Some(&1));
        let mut times = BTreeSet::new();
        for _ in 0..200 {
            let mut agreed = agreed.clone();
            agreed.take(2, NOW, &pace).unwrap();
            let from = agreed.next_ms().unwrap();
            assert!((NOW + 20_000..NOW + 2 * MINUTE_MS).contains(&from));
            // Seen again it is not put off.
            agreed.take(2, NOW + 1, &pace).unwrap();
            assert!(!agreed.adopt(from - 1, &pace) && agreed.used() == Some(&1));
            assert!(agreed.adopt(from, &pace) && agreed.used() == Some(&2));
            times.insert(from);
        }
        assert!(times.len() > 190);
        // What was shown for a moment only is used by nobody.
        agreed.take(2, NOW, &pace).unwrap();
        agreed.take(1, NOW + 1, &pace).unwrap();
        assert!(!agreed.adopt(NOW + DAY_MS, &pace) && agreed.used() == Some(&1));
    }

    #[test]
    fn a_clock_that_was_far_ahead_puts_nothing_off_for_years() {
        let pace = Pace::default();
        let mut views = Views::default();
        views.compared(NOW + 1_000 * DAY_MS, &pace).unwrap();
        views.keys.take(vec![vec![1]], NOW, &pace).unwrap();
        views
            .keys
            .take(vec![vec![2]], NOW + 1_000 * DAY_MS, &pace)
            .unwrap();
        assert!(!views.is_due(NOW, &pace).unwrap());
        assert!(views.due_ms() < NOW + 90 * MINUTE_MS);
        assert!(views.keys.adopt(NOW, &pace));
    }
}
