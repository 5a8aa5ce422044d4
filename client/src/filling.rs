//! When a wallet is filled, and up to where. Times are random, and follow from what the user does
//! only when the wallet is nearly empty.

use std::ops::Range;

use protocol::directory::Prices;

use crate::error::Error;

const MINUTE_MS: u64 = 60 * 1000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
/// How long until the wallet is looked at again. A wallet that fell below its half in between is
/// filled then: so long after, at a time so far from it, that of all that was spent in the meantime
/// nothing stands out.
const PAUSE_MS: Range<u64> = 12 * HOUR_MS..36 * HOUR_MS;
/// The same for a wallet that is nearly empty.
const HASTE_MS: Range<u64> = MINUTE_MS..15 * MINUTE_MS;
/// The same after a failure.
const PAUSE_AFTER_FAILURE_MS: Range<u64> = 5 * MINUTE_MS..20 * MINUTE_MS;
/// An issuer may ask for this much patience.
const MOST_PATIENCE_MS: u64 = 24 * HOUR_MS;
/// Who was away when it was due does it at some time of a session, not at its beginning: the issuer
/// would see at what moment the client of this account came back, and the service sees at what
/// moment each segment's readers did. Nor in its first minutes, in which most is done.
const LATE_MS: u64 = 5 * MINUTE_MS;
const DELAY_WHEN_LATE_MS: Range<u64> = 5 * MINUTE_MS..15 * MINUTE_MS;
/// So long after a token was spent no wallet is filled. Who is there for minutes only would
/// otherwise do both in them.
const QUIET_MS: u64 = 30 * MINUTE_MS;
/// It is put off by so much instead: a time that says nothing about when that was.
const DELAY_AMID_USE_MS: Range<u64> = HOUR_MS..12 * HOUR_MS;

/// Tokens in a full wallet, if prices don't ask for more.
const FULL: usize = 200;
/// The same, whatever the prices.
const MOST: usize = 1_000;
/// Tokens in one request for them, however many the issuer would give: each is work before the
/// first byte is sent.
const BATCH: usize = 100;
/// Claims in the largest request for KeyPackages.
const CLAIMS: usize = 16;

/// How many tokens are few, and how many are enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// In each request: always the same, so that it says nothing.
    pub batch: usize,
    /// In a full wallet. With less than half of it the wallet is filled when the time comes.
    pub full: usize,
    /// With less than this the time is brought forward.
    pub reserve: usize,
}

impl Levels {
    /// By the price list and by how many the issuer gives at a time (0: it has no batches).
    #[must_use]
    pub fn of(prices: &Prices, batch: usize) -> Self {
        let each = [
            prices.reserve_group_id,
            prices.publish_key_packages,
            prices.register_handle,
            prices.lookup_handle,
            prices.request_connection,
            prices.external_join,
        ];
        let round = each.into_iter().map(usize::from).sum::<usize>()
            + CLAIMS * usize::from(prices.claim_key_package);
        let full = (2 * round).clamp(FULL, MOST);
        Self {
            batch: batch.clamp(1, BATCH),
            full,
            reserve: round.clamp(full / 8, full / 4),
        }
    }

    /// Whether a wallet that holds so many is filled when its time comes.
    #[must_use]
    pub fn is_low(&self, held: usize) -> bool {
        held < self.full / 2
    }

    /// Requests that fill a wallet that holds so many: whole ones, never beyond full.
    #[must_use]
    pub fn batches(&self, held: usize) -> usize {
        self.full.saturating_sub(held) / self.batch.max(1)
    }
}

/// When the wallet is filled next: kept, so that ending and starting the client shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Milliseconds since 1970.
    pub next_ms: u64,
    /// It was due while the client was away, and has been put off since.
    pub(crate) put_off: bool,
    /// It has been brought forward: once for each filling.
    pub(crate) hastened: bool,
}

/// What a schedule says at some time.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    NotYet,
    /// Not now either: as the schedule says that is to be kept.
    PutOff(Schedule),
    Now,
}

impl Schedule {
    /// After a filling, or a look at a wallet that needed none.
    ///
    /// # Errors
    /// Without randomness.
    pub fn after(now_ms: u64) -> Result<Self, Error> {
        Ok(Self {
            next_ms: now_ms.saturating_add(random_in(&PAUSE_MS)?),
            put_off: false,
            hastened: false,
        })
    }

    /// After a failure; not before the issuer wants to be asked again.
    pub(crate) fn after_failure(
        self,
        now_ms: u64,
        retry_after_s: Option<u64>,
    ) -> Result<Self, Error> {
        let patience = retry_after_s.unwrap_or(0).saturating_mul(1000);
        Ok(Self {
            next_ms: now_ms
                .saturating_add(patience.min(MOST_PATIENCE_MS))
                .saturating_add(random_in(&PAUSE_AFTER_FAILURE_MS)?),
            put_off: false,
            hastened: self.hastened,
        })
    }

    /// For a wallet that is nearly empty: within minutes, unless that has been said since the last
    /// filling.
    ///
    /// # Errors
    /// Without randomness.
    pub fn hastened(self, now_ms: u64) -> Result<Self, Error> {
        if self.hastened {
            return Ok(self);
        }
        let soon = now_ms.saturating_add(random_in(&HASTE_MS)?);
        Ok(Self {
            next_ms: self.next_ms.min(soon),
            put_off: self.put_off && self.next_ms <= soon,
            hastened: true,
        })
    }

    /// Whether it has been brought forward.
    #[must_use]
    pub fn is_hastened(&self) -> bool {
        self.hastened
    }

    /// What is to be done now, if a token was spent last at `spent_ms`.
    ///
    /// # Errors
    /// Without randomness.
    pub fn due(self, now_ms: u64, spent_ms: u64) -> Result<Due, Error> {
        if now_ms < self.next_ms {
            // A clock that was far ahead once must not leave the wallet empty for years.
            if self.next_ms - now_ms <= PAUSE_MS.end {
                return Ok(Due::NotYet);
            }
            return Ok(Due::PutOff(Self::after(now_ms)?));
        }
        // A wallet that is nearly empty is put off once only: somebody waits for it.
        if now_ms - self.next_ms <= LATE_MS || (self.put_off && self.hastened) {
            let amid_use = spent_ms..spent_ms.saturating_add(QUIET_MS);
            if self.hastened || !amid_use.contains(&now_ms) {
                return Ok(Due::Now);
            }
            return Ok(Due::PutOff(Self {
                next_ms: now_ms.saturating_add(random_in(&DELAY_AMID_USE_MS)?),
                ..self
            }));
        }
        Ok(Due::PutOff(Self {
            next_ms: now_ms.saturating_add(random_in(&DELAY_WHEN_LATE_MS)?),
            put_off: true,
            hastened: self.hastened,
        }))
    }
}

fn random_in(range: &Range<u64>) -> Result<u64, Error> {
    let random = u64::from_be_bytes(crypto::random::<8>()?);
    Ok(range.start + random % (range.end - range.start))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn at(next_ms: u64) -> Schedule {
        Schedule {
            next_ms,
            put_off: false,
            hastened: false,
        }
    }

    #[test]
    fn a_wallet_follows_the_prices_within_bounds_and_is_filled_by_whole_batches_only() {
        let mut prices = crate::flows::wallet::tests::directory(&[]).prices;
        let usual = Levels::of(&prices, 100);
        assert_eq!((usual.batch, usual.full, usual.reserve), (100, 200, 25));
        assert!(usual.is_low(99) && !usual.is_low(100));
        let batches = [0, 99, 100, 101, 200, 300].map(|held| usual.batches(held));
        assert_eq!(batches, [2, 1, 1, 0, 0, 0]);
        prices.claim_key_package = 20;
        let dear = Levels::of(&prices, 5_000);
        assert_eq!((dear.batch, dear.full, dear.reserve), (100, 652, 163));
        prices.register_handle = u8::MAX;
        prices.claim_key_package = u8::MAX;
        assert_eq!(Levels::of(&prices, 0).full, 1_000);
        assert_eq!(Levels::of(&prices, 0).batch, 1);
    }

    #[test]
    fn the_time_of_filling_up_is_kept_and_has_nothing_to_do_with_when_the_client_came_back() {
        assert_eq!(at(NOW + 1).due(NOW, 0).unwrap(), Due::NotYet);
        assert_eq!(at(NOW).due(NOW, 0).unwrap(), Due::Now);
        // Away for hours: not at once, however often.
        let mut schedule = at(NOW - 3 * HOUR_MS);
        for session in 0..50 {
            let now = NOW + session * 3 * HOUR_MS;
            let Due::PutOff(later) = schedule.due(now, 0).unwrap() else {
                unreachable!("it was due long ago");
            };
            assert!(
                later.put_off
                    && (now + 5 * MINUTE_MS..now + 15 * MINUTE_MS).contains(&later.next_ms)
            );
            assert_eq!(later.due(later.next_ms, 0).unwrap(), Due::Now);
            schedule = later;
        }
        // But once only where hardly a token is left.
        let Due::PutOff(later) = at(NOW - 3 * HOUR_MS)
            .hastened(NOW)
            .unwrap()
            .due(NOW, 0)
            .unwrap()
        else {
            unreachable!("it was due long ago");
        };
        assert_eq!(later.due(later.next_ms + 3 * HOUR_MS, 0).unwrap(), Due::Now);
        // A clock that was years ahead when it was set.
        let far = at(NOW + 1_000_000_000_000).due(NOW, 0).unwrap();
        assert!(matches!(far, Due::PutOff(next) if next.next_ms <= NOW + PAUSE_MS.end));
    }

    #[test]
    fn a_wallet_is_filled_long_after_something_was_spent_unless_it_is_nearly_empty() {
        for spent in [NOW, NOW - QUIET_MS + 1] {
            let Due::PutOff(later) = at(NOW).due(NOW, spent).unwrap() else {
                unreachable!("something was spent just now");
            };
            assert!((NOW + HOUR_MS..NOW + 12 * HOUR_MS).contains(&later.next_ms));
            assert_eq!(later.due(later.next_ms, spent).unwrap(), Due::Now);
        }
        // Long ago, and by a clock that was ahead.
        for spent in [NOW - QUIET_MS, NOW + 1, u64::MAX] {
            assert_eq!(at(NOW).due(NOW, spent).unwrap(), Due::Now);
        }
        let hastened = at(NOW).hastened(NOW).unwrap();
        assert_eq!(hastened.due(NOW, NOW).unwrap(), Due::Now);
    }

    #[test]
    fn pauses_are_spread_over_their_range() {
        let pauses: BTreeSet<u64> = (0..200)
            .map(|_| Schedule::after(NOW).unwrap().next_ms - NOW)
            .collect();
        assert!(pauses.len() > 190);
        assert!(pauses.iter().all(|pause| PAUSE_MS.contains(pause)));
        let middle = 24 * HOUR_MS;
        assert!(pauses.range(..middle).count() > 50);
        assert!(pauses.range(middle..).count() > 50);
    }

    #[test]
    fn a_filling_is_brought_forward_by_minutes_once_and_never_put_back() {
        let soon = Schedule::after(NOW).unwrap().hastened(NOW).unwrap();
        assert!(HASTE_MS.contains(&(soon.next_ms - NOW)));
        assert_eq!(soon.hastened(NOW + 5).unwrap(), soon);
        assert_eq!(at(NOW + 5).hastened(NOW).unwrap().next_ms, NOW + 5);
        // Nor after a failure: what the issuer asks for counts, and no second action.
        let failed = soon.after_failure(NOW, Some(3600)).unwrap();
        assert!(failed.next_ms >= NOW + HOUR_MS + PAUSE_AFTER_FAILURE_MS.start);
        assert_eq!(failed.hastened(NOW).unwrap(), failed);
        let forever = soon.after_failure(NOW, Some(u64::MAX)).unwrap();
        assert_eq!(forever.due(NOW, 0).unwrap(), Due::NotYet);
    }
}
