//! Catching up with ticks that were missed: one by one up to 64, and else by coarser ones. So a
//! client that comes back after days learns which groups have news, and need not read the others.
//!
//! Of each resolution the ticks are walked through from the newest one back, and each names the one
//! before it: nobody leaves one out unseen. What the newest one of a coarser resolution does not
//! reach follows in finer ones. Where a walk does not end at a tick that was taken before, it
//! begins at one that the service shows too. Groups that were named and the new place count
//! together, when all was searched; else all groups are read.

use std::collections::HashSet;

use crate::runtime::Instant;
use protocol::feed::Resolution;
use protocol::ids::TickNumber;

use super::follow::{FeedReader, Looked};
use super::{MOST_MISSED, confirm, is_future, is_gone, is_overdue, patience, pause, reached};
use crate::engine::following::{Ended, Later, Missed, Walk, lock, search_too};
use crate::net::feed::Shown;
use crate::purse::HEAD;

/// How catching up goes on.
enum Step {
    On,
    /// What is to come next is not there yet.
    Waits,
    Done,
}

impl FeedReader {
    /// As [`Self::catch_up`]; whether the wait is over.
    pub(super) async fn catch_up_or_end(&mut self) -> bool {
        let ended = self.catch_up().await.err();
        let mut heard = lock(&self.heard);
        if ended.is_some() {
            heard.missed = None;
            heard.ended = ended;
            return true;
        }
        !heard.news.is_empty()
    }

    /// Takes what was missed, up to the last tick that the relay shows. What was fetched before
    /// this wait is not fetched again.
    async fn catch_up(&mut self) -> Result<(), Ended> {
        let is_begun = lock(&self.heard)
            .missed
            .as_ref()
            .is_some_and(|it| (it.after, it.to) == (self.at.place, self.resolution));
        if !is_begun && !self.begin_to_catch_up().await? {
            return Ok(());
        }
        loop {
            match self.go_back().await? {
                Step::On => {}
                Step::Waits => return self.look_again(),
                Step::Done => return Ok(()),
            }
        }
    }

    /// Finds out how much was missed; whether anything was.
    async fn begin_to_catch_up(&mut self) -> Result<bool, Ended> {
        let shown = self.transport.feed_pointer(&self.purse).await;
        self.hears(&shown);
        let pointer = match shown {
            Shown::Here(pointer) => pointer,
            Shown::Missing | Shown::Silence => return self.look_again().map(|()| false),
            Shown::Wrong => return Err(Ended::Stopped),
            Shown::TooDear => return Err(Ended::TooDear),
        };
        let last = pointer
            .ticks
            .iter()
            .find(|tick| tick.seconds == self.resolution.seconds())
            .ok_or(Ended::Stopped)?;
        let last = TickNumber(last.number);
        let now_ms = self.transport.time.now_unix_ms();
        if is_future(self.resolution, last, now_ms) || is_overdue(self.resolution, last, now_ms) {
            return Err(Ended::Stopped);
        }
        let after = self.at.place;
        if after.resolution == self.resolution && last <= after.number {
            // Nothing new: it has stopped, if that is so for long.
            return self.look_again().map(|()| false);
        }
        lock(&self.heard).missed = Some(Missed {
            after,
            to: self.resolution,
            last: pointer,
            until_ms: after.ends_ms(),
            walked: None,
            walk: None,
            named: HashSet::new(),
            searched: None,
        });
        Ok(true)
    }

    /// What is not there now is looked for again, but not for ever.
    fn look_again(&self) -> Result<(), Ended> {
        let mut heard = lock(&self.heard);
        let since = *heard.came_at.get_or_insert_with(Instant::now);
        heard.next_at = Some(Instant::now() + pause(self.resolution));
        match since.elapsed() > patience(self.resolution) {
            true => Err(Ended::Stopped),
            false => Ok(()),
        }
    }

    /// Fetches one tick more.
    async fn go_back(&mut self) -> Result<Step, Ended> {
        let now_ms = self.transport.time.now_unix_ms();
        let left = self.purse.lock().left();
        let (at, is_anchor) = {
            let mut heard = lock(&self.heard);
            let Some(missed) = &mut heard.missed else {
                return Ok(Step::Done);
            };
            let walk = match missed.walk.take() {
                Some(walk) => walk,
                None => plan(missed, left, now_ms)?,
            };
            let at = (walk.resolution, walk.next);
            let is_anchor = walk.known.is_none() && walk.newest.is_none();
            missed.walk = Some(walk);
            (at, is_anchor)
        };
        let (tick, signed) = match self.ask(at).await? {
            Looked::Came(tick, signed) => (tick, signed),
            Looked::Silence => return Ok(Step::Waits),
            Looked::NotThere if is_anchor => return Ok(Step::Waits),
            // No service ran then, or it is hidden: the one before says which.
            Looked::NotThere => return self.pass_over(),
        };
        if is_anchor {
            let shown = (&tick, &signed[..]);
            if !confirm(&mut self.transport, &self.signer, shown, &self.purse).await? {
                return Ok(Step::Waits);
            }
        }
        let mut heard = lock(&self.heard);
        heard.came_at = Some(Instant::now());
        let Some(missed) = &mut heard.missed else {
            return Ok(Step::Done);
        };
        let Some(walk) = &mut missed.walk else {
            return Ok(Step::On);
        };
        if let Some(later) = walk.later.take_if(|later| later.previous != tick.hash) {
            return Err(match later.number == tick.number.next() {
                true => Ended::Forked(Box::new((signed, later.tick))),
                // One in between is held back, or two contradict each other.
                false => Ended::Stopped,
            });
        }
        if tick.number >= walk.first {
            missed.named.extend(self.named_in(&tick));
            search_too(&mut missed.searched, &self.searched);
        }
        let newest = walk
            .newest
            .get_or_insert_with(|| reached(&tick, signed.clone()));
        let is_whole = match walk.known {
            Some(known) => tick.previous == known,
            None => tick.number <= walk.first,
        };
        if !is_whole {
            walk.later = Some(Later {
                number: tick.number,
                previous: tick.previous,
                tick: signed,
            });
            drop(heard);
            return self.pass_over();
        }
        missed.until_ms = newest.place.ends_ms();
        missed.walked = Some(walk.resolution);
        if walk.resolution != missed.to {
            missed.walk = None;
            return Ok(Step::On);
        }
        self.at = newest.clone();
        if let Some(missed) = heard.missed.take() {
            heard.news.extend(missed.named);
            if let Some(searched) = &missed.searched {
                search_too(&mut heard.searched, searched);
            }
        }
        heard.at = Some(self.at.clone());
        heard.next_at = Some(Instant::now());
        Ok(Step::Done)
    }

    /// The tick before is next.
    fn pass_over(&self) -> Result<Step, Ended> {
        let mut heard = lock(&self.heard);
        let walk = heard.missed.as_mut().and_then(|it| it.walk.as_mut());
        let Some(walk) = walk else {
            return Ok(Step::On);
        };
        walk.next = TickNumber(walk.next.0.checked_sub(1).ok_or(Ended::Stopped)?);
        let ends_at = match walk.known {
            Some(_) => walk.first.0,
            // No service may have run for a while.
            None => walk.first.0.saturating_sub(MOST_MISSED),
        };
        if walk.next.0 >= ends_at {
            return Ok(Step::On);
        }
        Err(match walk.later.take() {
            // The first one after the last that is known does not go on from it.
            Some(later) if walk.known.is_some() && later.number == walk.first => {
                Ended::Forked(Box::new((self.at.tick.to_vec(), later.tick)))
            }
            _ => Ended::Stopped,
        })
    }
}

/// The finest ticks that bring a client on: 64 at most, and such that are still shown and can be
/// paid for.
fn plan(missed: &Missed, left: u64, now_ms: u64) -> Result<Walk, Ended> {
    let mut ended = Ended::Stopped;
    for resolution in Resolution::ALL {
        let is_finer = missed.walked.is_none_or(|walked| resolution < walked);
        if resolution < missed.to || !is_finer {
            continue;
        }
        let pointed = missed.last.ticks.iter();
        let pointed = pointed.filter(|tick| tick.seconds == resolution.seconds());
        let Some((last, bytes)) = pointed.map(|it| (it.number, it.bytes)).next() else {
            continue;
        };
        let first = resolution.tick_at(missed.until_ms);
        let count = last.saturating_add(1).saturating_sub(first.0);
        let brings_on = count > 0 || resolution == missed.to;
        if count > MOST_MISSED || !brings_on || is_gone((resolution, first), now_ms) {
            continue;
        }
        let known = (missed.walked.is_none() && resolution == missed.after.resolution)
            .then_some(missed.after.hash);
        let cost = count.saturating_mul(u64::from(bytes).saturating_add(HEAD));
        if cost > left {
            ended = Ended::TooDear;
            continue;
        }
        return Ok(Walk {
            resolution,
            first,
            known,
            newest: None,
            next: TickNumber(last),
            later: None,
        });
    }
    Err(ended)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use protocol::feed::{FeedPointer, LastTick};
    use protocol::ids::Digest;

    use super::*;
    use crate::store::feed::Place;

    /// At 09:24:37.
    const NOW: u64 = 1_800_005_077_000;
    const HOUR_MS: u64 = 60 * 60 * 1000;
    const DAY_MS: u64 = 24 * HOUR_MS;

    fn missed(own: Resolution, away_ms: u64, bytes: u32) -> Missed {
        let after = Place {
            resolution: own,
            generation: 0,
            number: TickNumber(own.tick_at(NOW - away_ms).0 - 1),
            hash: Digest([1; 32]),
        };
        let ticks = Resolution::ALL.map(|resolution| LastTick {
            seconds: resolution.seconds(),
            number: resolution.tick_at(NOW).0 - 1,
            bytes,
        });
        Missed {
            after,
            to: own,
            last: FeedPointer {
                generation: 0,
                ticks: ticks.to_vec(),
            },
            until_ms: after.ends_ms(),
            walked: None,
            walk: None,
            named: HashSet::new(),
            searched: None,
        }
    }

    /// The resolutions that are walked through, with ticks of each, as long as there is enough
    /// left.
    fn walks(mut missed: Missed, mut left: u64) -> Result<Vec<(Resolution, u64)>, Ended> {
        let mut walks = Vec::new();
        loop {
            let walk = plan(&missed, left, NOW)?;
            let ticks = walk.next.0 + 1 - walk.first.0;
            left = left
                .checked_sub(ticks * (u64::from(missed.last.ticks[0].bytes) + HEAD))
                .unwrap();
            walks.push((walk.resolution, ticks));
            missed.until_ms = walk.resolution.ends_ms(walk.next);
            missed.walked = Some(walk.resolution);
            if walk.resolution == missed.to {
                // Nothing is left out.
                assert_eq!(missed.until_ms, missed.to.begins_ms(missed.to.tick_at(NOW)));
                return Ok(walks);
            }
        }
    }

    #[test]
    fn after_any_absence_that_is_shown_few_ticks_of_few_resolutions_bring_a_client_on() {
        for own in Resolution::ALL {
            for hours in [0, 1, 2, 5, 8, 24, 72, 7 * 24, 20 * 24, 34 * 24] {
                for more_ms in [0, 77_000, 1_234_000] {
                    let missed = missed(own, hours * HOUR_MS + more_ms, 120);
                    let walks = walks(missed, u64::MAX).ok().unwrap();
                    assert!(walks.len() <= 4, "{own:?} {hours} {walks:?}");
                    assert!(walks.is_sorted_by(|one, next| one.0 > next.0));
                    assert!(walks.iter().all(|(_, ticks)| *ticks <= MOST_MISSED));
                }
            }
            let gone = missed(own, 37 * DAY_MS, 120);
            assert!(matches!(walks(gone, u64::MAX), Err(Ended::Stopped)));
        }
    }

    #[test]
    fn what_cannot_be_paid_for_is_walked_through_in_coarser_ticks_or_not_at_all() {
        let away = || missed(Resolution::Seconds2, 20 * HOUR_MS, 10_000);
        let first = |left| Some(plan(&away(), left, NOW).ok()?.resolution);
        assert_eq!(first(u64::MAX), Some(Resolution::Minutes20));
        assert_eq!(first(600_000), Some(Resolution::Hours2));
        assert_eq!(first(100_000), Some(Resolution::Day));
        assert!(matches!(plan(&away(), 5_000, NOW), Err(Ended::TooDear)));
    }

    #[test]
    fn who_says_that_finer_ticks_are_there_and_no_coarser_ones_brings_nobody_on() {
        let mut some = missed(Resolution::Seconds2, 8 * HOUR_MS, 120);
        some.last.ticks.truncate(1);
        assert!(matches!(plan(&some, u64::MAX, NOW), Err(Ended::Stopped)));
        // One that stands still.
        let mut some = missed(Resolution::Seconds2, 8 * HOUR_MS, 120);
        for tick in &mut some.last.ticks[1..] {
            tick.number -= 8 * 60 * 60 / tick.seconds + 1;
        }
        assert!(matches!(walks(some, u64::MAX), Err(Ended::Stopped)));
    }
}
