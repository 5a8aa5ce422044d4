//! When a key is accepted, published and dropped. All of it follows from the times in the key files
//! and the configuration, so that every node that has the same files publishes the same at the same
//! time.
//!
//! ```text
//! made ─max age─▶ published ──rotation──▶ next published ─overlap─▶ retired ─max age─▶ dropped
//! └────────────────────────────────── accepted ─────────────────────────────────────────────┘
//! ```

use std::time::Duration;

use crate::config::KeySettings;

/// Mirrors keep a list for a minute or so, whatever its `max-age`.
const LEAST_ACCEPTED: u64 = 10 * 60 * 1000;
/// And clients look for a key that a mirror's list and ours have in common.
const LEAST_OVERLAP: u64 = 2 * 60 * 1000;
const LONGEST_INTERVAL: u64 = 30_000;
/// Between nodes that share a directory.
const CLOCK_SKEW: u64 = 5 * 60 * 1000;

/// In milliseconds since 1970, or of duration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calendar {
    /// `None`: only when told.
    rotation: Option<u64>,
    overlap: u64,
    max_age: u64,
}

/// What a generation of keys is, at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepted, for nodes that are ahead, and not shown yet.
    Waiting {
        published: u64,
    },
    /// Accepted and shown; `None`: until the next generation is made.
    Published {
        retired: Option<u64>,
    },
    /// Accepted for clients that have it in a cache.
    Retired {
        dropped: u64,
    },
    Dropped,
}

impl Calendar {
    pub(super) fn new(settings: &KeySettings) -> Self {
        let milliseconds = |seconds: u64| seconds.saturating_mul(1000);
        Self {
            rotation: (settings.rotation_seconds > 0)
                .then(|| milliseconds(settings.rotation_seconds)),
            overlap: milliseconds(settings.overlap_seconds).max(LEAST_OVERLAP),
            max_age: milliseconds(settings.max_age_seconds),
        }
    }

    /// `published`: from when the generation is shown, and the one after it, if there is one.
    pub(super) fn phase(&self, published: u64, next: Option<u64>, now: u64) -> Phase {
        let retired = next.map(|next| next.saturating_add(self.overlap));
        let dropped =
            retired.map(|retired| retired.saturating_add(self.max_age.max(LEAST_ACCEPTED)));
        match (retired, dropped) {
            (_, Some(dropped)) if dropped <= now => Phase::Dropped,
            (Some(retired), Some(dropped)) if retired <= now => Phase::Retired { dropped },
            _ if now < published => Phase::Waiting { published },
            _ => Phase::Published { retired },
        }
    }

    /// How many generations there can be at once.
    pub(super) fn generations(&self) -> usize {
        let Some(rotation) = self.rotation else {
            return 1;
        };
        let lives = self
            .overlap
            .saturating_add(self.max_age)
            .saturating_add(self.max_age.max(LEAST_ACCEPTED));
        // One more by hand.
        usize::try_from(lives.div_ceil(rotation.max(1))).map_or(usize::MAX, |while_it_lives| {
            while_it_lives.saturating_add(2)
        })
    }

    /// How often a node has to look, to know of a generation before it is shown.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis((self.max_age / 2).clamp(1_000, LONGEST_INTERVAL))
    }

    /// Whether a generation was made by a clock that was far ahead of `now`.
    pub(super) fn is_of_another_clock(&self, published: u64, now: u64) -> bool {
        published > self.publication_of_new(now).saturating_add(CLOCK_SKEW)
    }

    /// From when a generation that is made now is shown: when no cache holds a list without it any
    /// more.
    pub(super) fn publication_of_new(&self, now: u64) -> u64 {
        now.saturating_add(self.max_age)
    }

    /// From when the generation after the newest one is to be shown, if it has to be made now.
    pub(super) fn due(&self, newest_published: u64, now: u64) -> Option<u64> {
        let planned = newest_published.saturating_add(self.rotation?);
        let soonest = self.publication_of_new(now);
        (planned <= soonest).then_some(soonest.max(planned))
    }

    /// For how many seconds a list of configurations may be kept: never beyond its next change.
    /// `published` are the generations' times.
    pub(super) fn max_age_seconds(&self, published: &[u64], now: u64) -> u64 {
        let newest = published.iter().max();
        let planned = newest
            .zip(self.rotation)
            .map(|(newest, rotation)| newest.saturating_add(rotation));
        let retirements = published
            .iter()
            .map(|next| next.saturating_add(self.overlap));
        let changes = published.iter().copied().chain(retirements).chain(planned);
        let until_change = changes
            .filter(|change| *change > now)
            .map(|change| change - now)
            .min();
        until_change.unwrap_or(u64::MAX).min(self.max_age) / 1000
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400_000;
    const HOUR: u64 = 3_600_000;
    const CALENDAR: Calendar = Calendar {
        rotation: Some(30 * DAY),
        overlap: 2 * DAY,
        max_age: HOUR,
    };

    #[test]
    fn a_generation_waits_is_shown_overlaps_is_accepted_a_little_longer_and_is_dropped() {
        let (first, second) = (DAY, 31 * DAY);
        let phase = |now| CALENDAR.phase(first, Some(second), now);
        let retired = second + 2 * DAY;
        let dropped = retired + HOUR;
        assert_eq!(phase(first - 1), Phase::Waiting { published: first });
        for now in [first, second, retired - 1] {
            assert_eq!(
                phase(now),
                Phase::Published {
                    retired: Some(retired)
                }
            );
        }
        for now in [retired, dropped - 1] {
            assert_eq!(phase(now), Phase::Retired { dropped });
        }
        assert_eq!(phase(dropped), Phase::Dropped);
        assert_eq!(
            CALENDAR.phase(first, None, u64::MAX),
            Phase::Published { retired: None }
        );
    }

    #[test]
    fn the_next_generation_is_made_before_it_is_shown_also_when_that_is_late() {
        let shown = 30 * DAY;
        assert_eq!(CALENDAR.due(0, shown - HOUR - 1), None);
        assert_eq!(CALENDAR.due(0, shown - HOUR), Some(shown));
        assert_eq!(CALENDAR.due(0, 90 * DAY), Some(90 * DAY + HOUR));
        let manual = Calendar {
            rotation: None,
            ..CALENDAR
        };
        assert_eq!(manual.due(0, 90 * DAY), None);
    }

    proptest! {
        #[test]
        fn no_cache_holds_a_list_beyond_its_change(
            now in 0u64..200 * DAY, rotated_at in 0u64..60 * DAY, ahead in 0u64..4 * DAY,
        ) {
            // A rotation on schedule or by hand, and everything that is shown before and after.
            let second = CALENDAR.publication_of_new(rotated_at);
            let times = |now| if now >= rotated_at { vec![0, second] } else { vec![0] };
            let shown = |now: u64| -> Vec<u64> {
                let times = times(now);
                let next = |i: usize| times.get(i + 1).copied();
                times.iter().enumerate().filter_map(|(i, published)| {
                    matches!(
                        CALENDAR.phase(*published, next(i), now),
                        Phase::Published { .. }
                    )
                    .then_some(*published)
                }).collect()
            };
            let age = CALENDAR.max_age_seconds(&times(now), now) * 1000;
            prop_assert!(age <= HOUR);
            let later = now + ahead.min(age.saturating_sub(1));
            prop_assert_eq!(shown(now), shown(later));
        }
    }
}
