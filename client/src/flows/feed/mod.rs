//! Following the activity feed: its ticks are fetched one after the other, checked, and searched
//! for the tags of the own groups. Groups with news are read in the next slots; in the profile with
//! little data at once, and others not, but for a look now and then: a hint can be lost, or held
//! back. Who was away catches up by coarser ticks.
//!
//! What was not checked is not acted on: the service has signed a tick, and the tick goes on from
//! the one before. Where following begins, the service itself has shown the same tick to somebody
//! of whom it knows nothing; and the mirrors show the same when views are compared. When no tick
//! comes any more, or one that does not fit, all groups are polled as if there were no feed.
//!
//! Which ticks are fetched, and when, never depends on what is in them. What they cost is paid from
//! a purse ([`crate::purse`]).

#![allow(
    clippy::disallowed_methods,
    reason = "between two ticks time passes as it does, whatever a clock shows"
)]

mod begin;
mod catch_up;
mod follow;

use std::sync::Arc;
use std::time::Duration;

use crypto::feed::{CheckedTick, check};
use protocol::Wire as _;
use protocol::feed::{Resolution, Tick};
use protocol::ids::{Day, TickNumber};

pub(crate) use self::follow::FeedReader;
use crate::engine::Engine;
use crate::engine::following::{Ended, Heard, lock};
use crate::error::Error;
use crate::net::transport::Transport;
use crate::purse::SharedPurse;
use crate::store::feed::{self, Place, Reached};
use crate::store::heads::Signer;
use crate::store::{Group, Status, groups};

const HOUR_MS: u64 = 60 * 60 * 1000;
/// By so much the own clock may be ahead before ticks of a day are missed for it.
const CLOCK_MS: u64 = HOUR_MS;
/// So far own clock and service may be from each other: more than a client lets stand.
const DRIFT_MS: u64 = 10 * 60 * 1000;
/// Ticks of one resolution that are fetched after a pause. After a longer one it is coarser ticks.
const MOST_MISSED: u64 = 64;

/// So long a tick that is due is looked for, before it is asked whether there is a later one.
fn patience(resolution: Resolution) -> Duration {
    Duration::from_millis(2 * resolution.ms() + 6_000)
}

/// Whether a tick begins later than any that there can be.
fn is_future(resolution: Resolution, number: TickNumber, now_ms: u64) -> bool {
    resolution.begins_ms(number) > now_ms.saturating_add(DRIFT_MS)
}

/// Whether there should be a later tick by now: who shows this one as the last one holds back.
fn is_overdue(resolution: Resolution, number: TickNumber, now_ms: u64) -> bool {
    let waits_ms = u64::try_from(patience(resolution).as_millis()).unwrap_or(u64::MAX);
    let next_ms = resolution.ends_ms(number).saturating_add(waits_ms);
    next_ms.saturating_add(DRIFT_MS) < now_ms
}

/// Whether nobody shows a tick any more.
fn is_gone((resolution, number): (Resolution, TickNumber), now_ms: u64) -> bool {
    let last = resolution
        .day_of(number)
        .0
        .saturating_add(resolution.kept_days());
    last < Day::of(now_ms).0
}

/// The day whose tag keys are still used: of the first tick that is not taken yet, while it is
/// shown; and no day that has not come.
fn day_in_use(place: Option<Place>, now_ms: u64) -> Day {
    let by_clock = Day::of(now_ms.saturating_sub(CLOCK_MS));
    let Some(place) = place else {
        return by_clock;
    };
    let of_next = Day::of(place.ends_ms());
    // Nothing coarser is shown for longer.
    match is_gone(
        (Resolution::Day, Resolution::Day.tick_at(place.ends_ms())),
        now_ms,
    ) {
        true => by_clock,
        false => of_next.min(Day::of(now_ms.saturating_add(DRIFT_MS))),
    }
}

/// How long it takes until a tick that was not there is looked for again.
fn pause(resolution: Resolution) -> Duration {
    Duration::from_millis((resolution.ms() / 10).clamp(200, 5_000))
}

fn chance(range: &std::ops::Range<u64>) -> Result<u64, Error> {
    let random = u64::from_be_bytes(crypto::random::<8>()?);
    let length = range.end.saturating_sub(range.start).max(1);
    Ok(range.start.saturating_add(random % length))
}

/// A tick of the place that was asked for, signed by the service for its present store.
fn checked(
    signer: &Signer,
    (resolution, number): (Resolution, TickNumber),
    tick: &Tick,
) -> Option<CheckedTick> {
    check(&signer.key, tick).ok().filter(|tick| {
        tick.generation == signer.generation
            && tick.resolution == resolution
            && tick.number == number
    })
}

/// Whether the service shows the same tick to somebody of whom it knows nothing; not if it shows
/// none.
///
/// # Errors
/// [`Ended::Forked`]: it has signed both.
async fn confirm(
    transport: &mut Transport,
    signer: &Signer,
    (tick, signed): (&CheckedTick, &[u8]),
    purse: &SharedPurse,
) -> Result<bool, Ended> {
    let at = (tick.resolution, tick.number);
    // Without a second word the first one is not taken.
    let Ok(Some(other)) = transport.tick_of_service(at, signed.len(), purse).await else {
        return Ok(false);
    };
    let Some(checked) = checked(signer, at, &other) else {
        return Ok(false);
    };
    match checked.hash == tick.hash {
        true => Ok(true),
        false => Err(Ended::Forked(Box::new((signed.to_vec(), other.encode())))),
    }
}

fn reached(tick: &CheckedTick, signed: Vec<u8>) -> Reached {
    Reached {
        place: Place {
            resolution: tick.resolution,
            generation: tick.generation,
            number: tick.number,
            hash: tick.hash,
        },
        tick: signed.into(),
    }
}

/// Whether a place that was followed to is to be kept in place of this one.
fn goes_beyond(at: &Place, kept: &Place) -> bool {
    at.generation == kept.generation
        && (at.resolution != kept.resolution || at.number > kept.number)
}

impl Engine {
    /// Nobody fetches ticks for a while: what is missed is caught up then.
    pub(crate) fn feed_sleeps(&self) {
        let mut heard = lock(&self.feed.heard);
        heard.next_at = None;
        heard.came_at = None;
    }

    /// Keeps what was paid and heard since: where the feed was followed to, together with the
    /// groups that it named. What could not be kept is kept the next time.
    pub(crate) fn keep_heard(&mut self) -> Result<(), Error> {
        self.keep_purse()?;
        let shared = Arc::clone(&self.feed.heard);
        let mut heard = lock(&shared);
        let Some(place) = feed::place(&self.db)? else {
            *heard = Heard::default();
            return Ok(());
        };
        if heard.at.is_none() && heard.ended.is_none() {
            return Ok(());
        }
        self.transact(|db, _| {
            // Another process may have followed it meanwhile: what it has taken is kept too.
            if let Some(at) = heard
                .at
                .as_ref()
                .filter(|at| goes_beyond(&at.place, &place))
            {
                feed::set_reached(db, at)?;
            }
            // Segments that came meanwhile were not looked for.
            if let Some(searched) = &heard.searched {
                for group in Group::all(db)? {
                    if group.status == Status::Active && !searched.contains(&group.segment.id) {
                        feed::has_news(db, &group.id)?;
                    }
                }
            }
            for group in &heard.news {
                if Group::find(db, group)?.is_some() {
                    feed::has_news(db, group)?;
                }
            }
            match &heard.ended {
                None => Ok(()),
                Some(Ended::Stopped | Ended::TooDear) => feed::leave(db),
                Some(Ended::Forked(proof)) => {
                    feed::forked(db, place.generation, (&proof.0, &proof.1))
                }
            }
        })?;
        heard.at = None;
        heard.news.clear();
        heard.searched = None;
        if let Some(Ended::TooDear) = heard.ended.take() {
            let chosen = self.feed.chosen.map(|(resolution, _)| resolution);
            let resolution = chosen.unwrap_or(place.resolution);
            self.feed.follow_coarser_than(resolution);
        }
        Ok(())
    }

    /// Keeps what was spent on the feed.
    fn keep_purse(&mut self) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let shared = self.feed.purse.clone();
        let mut purse = shared.lock();
        if purse.spent() > 0 {
            *purse = self.transact(|db, _| feed::keep_purse(db, &purse, now_ms))?;
        }
        Ok(())
    }

    /// Reads the groups that the feed has named and those that were not read today, and follows
    /// invitations; all groups while the feed is not followed.
    pub(crate) async fn take_news_in(&mut self) -> Result<(), Error> {
        self.keep_heard()?;
        if !self.reads_by_feed() || feed::place(&self.db)?.is_none() {
            return self.take_all_in().await;
        }
        let today = Day::of(self.transport.time.now_unix_ms());
        let mut groups = feed::to_read(&self.db, today)?;
        // It was waited at.
        let front = self.front.filter(|front| !groups.contains(front));
        if let Some(front) = front
            && Group::find(&self.db, &front)?.is_some()
        {
            groups.push(front);
        }
        self.read_these(groups).await?;
        self.follow_invitations().await
    }

    /// What was read to its end is read again when there is news. Tag keys of days that are over
    /// are forgotten.
    pub(crate) fn know_as_read(&mut self) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let mut place = feed::place(&self.db)?;
        let read = std::mem::take(&mut self.read_to_end);
        // What a former day's ticks would tell is known: its tag keys are not kept for them.
        let is_behind = day_in_use(place, now_ms) < day_in_use(None, now_ms);
        let is_all = is_behind
            && groups::to_read(&self.db)?
                .iter()
                .all(|it| read.contains(it));
        place = place.filter(|_| !is_all);
        let day = day_in_use(place, now_ms);
        let done = self.transact(|db, _| {
            if is_all {
                feed::leave(db)?;
            }
            feed::ratchet(db, day)?;
            for group in &read {
                feed::was_read(db, group)?;
            }
            Ok(())
        });
        self.read_to_end = read;
        done
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn the_feed_runs_neither_ahead_of_the_clock_nor_far_behind_it() {
        for resolution in Resolution::ALL {
            let last = TickNumber(resolution.tick_at(NOW).0 - 1);
            assert!(!is_future(resolution, last, NOW) && !is_overdue(resolution, last, NOW));
            let late_ms = 3 * resolution.ms() + DRIFT_MS + 10_000;
            assert!(is_overdue(resolution, last, NOW + late_ms));
            let early = resolution.tick_at(NOW + DRIFT_MS + resolution.ms());
            assert!(is_future(resolution, early, NOW));
            assert!(is_future(resolution, TickNumber(u64::MAX), NOW));
        }
    }

    #[test]
    fn keys_of_days_whose_ticks_are_still_fetched_stay_and_no_day_that_has_not_come_is_taken() {
        let place = |resolution: Resolution, at_ms| {
            Some(Place {
                resolution,
                generation: 0,
                number: resolution.tick_at(at_ms),
                hash: protocol::ids::Digest([0; 32]),
            })
        };
        let days_ms = |days: u64| days * protocol::time::DAY_MS;
        let today = Day::of(NOW);
        let day = |place| day_in_use(place, NOW);
        assert_eq!(day(None), today);
        assert_eq!(day(place(Resolution::Seconds2, NOW)), today);
        for (resolution, days) in [
            (Resolution::Hours2, 4),
            (Resolution::Hours2, 35),
            (Resolution::Seconds2, 1),
            (Resolution::Minutes2, 20),
        ] {
            let then = place(resolution, NOW - days_ms(days.into()));
            assert_eq!(day(then), Day(today.0 - days));
        }
        // Nobody shows these any more.
        assert_eq!(day(place(Resolution::Seconds2, NOW - days_ms(36))), today);
        assert_eq!(day(place(Resolution::Seconds2, NOW + days_ms(900))), today);
    }

    #[test]
    fn a_tick_that_nobody_shows_any_more_is_not_compared() {
        let days_ms = |days: u64| days * protocol::time::DAY_MS;
        for resolution in Resolution::ALL {
            let at = (resolution, resolution.tick_at(NOW));
            let kept = days_ms(resolution.kept_days().into());
            assert!(!is_gone(at, NOW + kept) && is_gone(at, NOW + kept + days_ms(1)));
        }
    }

    #[test]
    fn times_are_drawn_anew_each_time() {
        let range = 30_000..90_000;
        let drawn: std::collections::BTreeSet<_> =
            (0..100).map(|_| chance(&range).unwrap()).collect();
        assert!(drawn.len() > 95 && drawn.iter().all(|at| range.contains(at)));
    }
}
