//! Following the activity feed: its ticks are fetched one after the other, checked, and searched
//! for the tags of the own groups. Groups with news are read in the next slots; in the profile with
//! little data at once, and others not, but for a look now and then: a hint can be lost, or held
//! back.
//!
//! What was not checked is not acted on: the service has signed a tick, and the tick goes on from
//! the one before. Where following begins, the service itself has shown the same tick to somebody
//! of whom it knows nothing; and the mirrors show the same when views are compared. When no tick
//! comes any more, or one that does not fit, all groups are polled as if there were no feed.

#![allow(
    clippy::disallowed_methods,
    reason = "between two ticks time passes as it does, whatever a clock shows"
)]

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crypto::feed::{CheckedTick, check};
use crypto::schedule::FeedKey;
use protocol::Wire as _;
use protocol::feed::{FeedPointer, Resolution, Tick};
use protocol::ids::{Day, GroupId, SegmentId, TickNumber};
use tokio::time::Instant;

use crate::engine::{Ended, Engine, Heard, Missed};
use crate::error::Error;
use crate::net::transport::Transport;
use crate::store::feed::{self, Place};
use crate::store::heads::{self, Signer};
use crate::store::{Group, Status};

const HOUR_MS: u64 = 60 * 60 * 1000;
/// By so much the own clock may be ahead before ticks of a day are missed for it.
const CLOCK_MS: u64 = HOUR_MS;
/// So far own clock and service may be from each other: more than a client lets stand.
const DRIFT_MS: u64 = 10 * 60 * 1000;
/// Following is begun again after so long, at the earliest and at the latest.
const AGAIN_MS: std::ops::Range<u64> = 30_000..90_000;
/// Ticks that are fetched one by one after a pause. After a longer one all groups are read once.
const MOST_MISSED: u64 = 64;
/// What the head of an answer takes beside a tick.
const OVERHEAD: u64 = 300;
const MONTH_S: u64 = 30 * 24 * 60 * 60;

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

/// The day whose tag keys are still used: of the first tick that is not taken yet, if it will be;
/// and no day that has not come.
fn day_in_use(place: Option<Place>, now_ms: u64) -> Day {
    let by_clock = Day::of(now_ms.saturating_sub(CLOCK_MS));
    let Some(place) = place else {
        return by_clock;
    };
    let next = place.number.next();
    let missed = place.resolution.tick_at(now_ms).0.saturating_sub(next.0);
    let of_next = place.resolution.day_of(next);
    match missed <= MOST_MISSED {
        true => of_next.min(Day::of(now_ms.saturating_add(DRIFT_MS))),
        false => by_clock,
    }
}

/// How long it takes until a tick that was not there is looked for again.
fn pause(resolution: Resolution) -> Duration {
    Duration::from_millis((resolution.ms() / 10).clamp(200, 5_000))
}

/// The finest resolution, from this one on, that costs no more than this in a month.
fn affordable(
    pointer: &FeedPointer,
    (bytes_a_month, finest): (u64, Resolution),
) -> Option<(Resolution, TickNumber)> {
    pointer
        .ticks
        .iter()
        .filter_map(|tick| {
            let resolution = Resolution::of_seconds(tick.seconds)?;
            let ticks = MONTH_S / resolution.seconds();
            let bytes = ticks.saturating_mul(u64::from(tick.bytes).saturating_add(OVERHEAD));
            (bytes <= bytes_a_month && resolution >= finest)
                .then_some((resolution, TickNumber(tick.number)))
        })
        .min()
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

fn lock(heard: &Mutex<Heard>) -> std::sync::MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Begins to follow the feed, if it is not followed and the relay shows one.
    pub(crate) async fn settle_feed(&mut self) -> Result<(), Error> {
        self.keep_heard()?;
        let now_ms = self.transport.time.now_unix_ms();
        let place = feed::place(&self.db)?;
        let Some(bytes_a_month) = self.feed.bytes_a_month else {
            return feed::leave(&self.db);
        };
        // Before the first directory there is nothing to follow.
        let Ok(signer) = heads::signer(&self.db) else {
            return Ok(());
        };
        if place.is_some_and(|place| place.generation == signer.generation)
            || feed::is_forked(&self.db, signer.generation)?
        {
            return Ok(());
        }
        feed::leave(&self.db)?;
        let not_before_ms = self.feed.not_before_ms;
        if now_ms < not_before_ms && not_before_ms - now_ms <= AGAIN_MS.end {
            return Ok(());
        }
        self.feed.not_before_ms = now_ms.saturating_add(chance(&AGAIN_MS)?);
        let Some(place) = self.begin(&signer, bytes_a_month).await? else {
            return Ok(());
        };
        *lock(&self.feed.heard) = Heard {
            came_at: Some(Instant::now()),
            ..Heard::default()
        };
        self.transact(|db, _| {
            feed::set_place(db, &place)?;
            // What came before the first tick is read once.
            feed::all_may_have_news(db)
        })
    }

    /// The last tick of the resolution to follow, as relay and service agree on it.
    async fn begin(&mut self, signer: &Signer, bytes_a_month: u64) -> Result<Option<Place>, Error> {
        let Some(pointer) = self.transport.feed_pointer().await else {
            return Ok(None);
        };
        let Some(at) = affordable(&pointer, (bytes_a_month, self.slots.finest())) else {
            return Ok(None);
        };
        let (resolution, number) = at;
        let now_ms = self.transport.time.now_unix_ms();
        if is_future(resolution, number, now_ms) || is_overdue(resolution, number, now_ms) {
            return Ok(None);
        }
        let Some(relays) = self.transport.tick_of_relay(resolution, number).await else {
            return Ok(None);
        };
        let Some(tick) = checked(signer, at, &relays) else {
            return Ok(None);
        };
        match self.transport.tick_of_service(resolution, number).await {
            Ok(Some(own)) => {
                self.compare(signer, at, (&relays, tick.hash), &own)?;
            }
            // Without a second word the first one is not taken.
            Ok(None) => return Ok(None),
            Err(error @ Error::Local(_)) => return Err(error),
            Err(_) => return Ok(None),
        }
        if feed::is_forked(&self.db, signer.generation)? {
            return Ok(None);
        }
        Ok(Some(Place {
            resolution,
            generation: tick.generation,
            number,
            hash: tick.hash,
        }))
    }

    /// Holds a tick that was checked against another view of it. Whether they agree; if the service
    /// has signed both the feed is not followed any more.
    fn compare(
        &mut self,
        signer: &Signer,
        at: (Resolution, TickNumber),
        (ours, hash): (&Tick, protocol::ids::Digest),
        other: &Tick,
    ) -> Result<bool, Error> {
        let Some(tick) = checked(signer, at, other) else {
            return Ok(false);
        };
        if tick.hash == hash {
            return Ok(true);
        }
        let (one, other) = (ours.encode(), other.encode());
        self.transact(|db, _| feed::forked(db, signer.generation, (&one, &other)))?;
        Ok(false)
    }

    /// Holds the last tick against what all mirrors and the service show.
    ///
    /// # Errors
    /// [`Error::Protocol`]: they do not agree, or one of them does not show it.
    async fn compare_feed(&mut self) -> Result<(), Error> {
        const DIFFERS: Error = Error::Protocol("others are not shown the same activity feed");
        const HIDDEN: Error = Error::Protocol("the activity feed could not be compared");
        self.keep_heard()?;
        let signer = heads::signer(&self.db)?;
        if feed::is_forked(&self.db, signer.generation)? {
            return Err(DIFFERS);
        }
        let Some(place) = feed::place(&self.db)? else {
            return Ok(());
        };
        if place.generation != signer.generation {
            return Ok(());
        }
        let at = (place.resolution, place.number);
        if is_gone(at, self.transport.time.now_unix_ms()) {
            return Ok(());
        }
        let Some(ours) = self.transport.tick_of_relay(at.0, at.1).await else {
            return Err(HIDDEN);
        };
        let mut views = self.transport.ticks_of_mirrors(at.0, at.1).await;
        views.push(Some(ours.clone()));
        views.push(self.transport.tick_of_service(at.0, at.1).await?);
        let (mut agree, mut all) = (true, true);
        for view in views {
            match view {
                Some(view) => agree &= self.compare(&signer, at, (&ours, place.hash), &view)?,
                None => all = false,
            }
        }
        match (agree, all) {
            (true, true) => Ok(()),
            (true, false) => Err(HIDDEN),
            (false, _) => Err(DIFFERS),
        }
    }

    /// Why others are not shown the same feed, if they are not: nothing else waits for that.
    pub(crate) async fn feed_disagreement(&mut self) -> Result<Option<Arc<Error>>, Error> {
        match self.compare_feed().await {
            Ok(()) => Ok(None),
            Err(error @ Error::Local(_)) => Err(error),
            Err(error) => Ok(Some(Arc::new(error))),
        }
    }

    /// What is to be known to search ticks; none while the feed is not followed.
    pub(crate) fn feed_reader(&self) -> Result<Option<FeedReader>, Error> {
        let Some(place) = feed::place(&self.db)? else {
            return Ok(None);
        };
        let Ok(signer) = heads::signer(&self.db) else {
            return Ok(None);
        };
        let tomorrow = Day::of(self.transport.time.now_unix_ms())
            .0
            .saturating_add(1);
        let (mut groups, mut searched) = (Vec::new(), HashSet::new());
        for group in Group::all(&self.db)? {
            if group.status == Status::Active {
                let segment = group.segment;
                searched.insert(segment.id);
                // Yesterday's ticks may still come, and those of a tomorrow.
                let mut key = segment.tag_key;
                let days = tomorrow.saturating_sub(segment.tag_day.0);
                for ahead in 0..=days.clamp(1, MOST_DAYS) {
                    let day = Day(segment.tag_day.0.saturating_add(ahead));
                    groups.push((day, group.id, key.feed_key()));
                    key = key.next();
                }
            }
        }
        Ok(Some(FeedReader {
            transport: self.transport.clone(),
            signer,
            place,
            groups,
            searched,
            heard: Arc::clone(&self.feed.heard),
        }))
    }

    /// Nobody fetches ticks for a while: what is missed is caught up then.
    pub(crate) fn feed_sleeps(&self) {
        lock(&self.feed.heard).next_at = None;
    }

    /// Keeps what was heard since: where the feed was followed to, together with the groups that
    /// it named. What could not be kept is kept the next time: whoever follows goes on from there.
    pub(crate) fn keep_heard(&mut self) -> Result<(), Error> {
        let (at, news, ended, searched) = {
            let mut heard = lock(&self.feed.heard);
            let news = std::mem::take(&mut heard.news);
            let searched = heard.searched.take();
            (heard.at.take(), news, heard.ended.take(), searched)
        };
        let Some(place) = feed::place(&self.db)? else {
            return Ok(());
        };
        if at.is_none() && ended.is_none() {
            return Ok(());
        }
        let kept = self.transact(|db, _| {
            // Another process may have followed it meanwhile: what it has taken is kept too.
            if let Some(at) = at.filter(|at| {
                (at.resolution, at.generation) == (place.resolution, place.generation)
                    && at.number > place.number
            }) {
                feed::set_place(db, &at)?;
            }
            // Segments that came meanwhile were not looked for.
            if let Some(searched) = &searched {
                for group in Group::all(db)? {
                    if group.status == Status::Active && !searched.contains(&group.segment.id) {
                        feed::has_news(db, &group.id)?;
                    }
                }
            }
            for group in &news {
                if Group::find(db, group)?.is_some() {
                    feed::has_news(db, group)?;
                }
            }
            match &ended {
                None => Ok(()),
                Some(Ended::Stopped) => feed::leave(db),
                Some(Ended::Forked(tick)) => {
                    let last = at.unwrap_or(place).hash;
                    feed::forked(db, place.generation, (&last.0, &tick.encode()))
                }
            }
        });
        if kept.is_err() {
            let mut heard = lock(&self.feed.heard);
            heard.at = heard.at.or(at);
            heard.news.extend(news);
            heard.ended = heard.ended.take().or(ended);
            heard.searched = heard.searched.take().or(searched);
        }
        kept
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
        let place = feed::place(&self.db)?;
        let day = day_in_use(place, now_ms);
        let read = std::mem::take(&mut self.read_to_end);
        let done = self.transact(|db, _| {
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

/// Days after that of a tag key whose ticks are searched at most: as many as ticks of a day that
/// are fetched after a pause, and one for a client that waits over midnight.
const MOST_DAYS: u32 = 65;

/// Follows the feed without the engine.
pub(crate) struct FeedReader {
    transport: Transport,
    signer: Signer,
    place: Place,
    /// By day.
    groups: Vec<(Day, GroupId, FeedKey)>,
    searched: HashSet<SegmentId>,
    heard: Arc<Mutex<Heard>>,
}

/// What came of looking for a tick.
enum Looked {
    Came(CheckedTick),
    NotYet,
    Ended(Ended),
}

impl FeedReader {
    /// Whether it cannot be followed any more.
    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.heard).ended.is_some()
    }

    /// Until a group of this client is named, or the feed cannot be followed any more.
    pub(crate) async fn follow(&mut self) {
        let mut at_once = true;
        loop {
            let (next_at, came_at) = {
                let heard = lock(&self.heard);
                if let Some(at) = heard.at {
                    self.place = at;
                }
                if heard.ended.is_some() {
                    return;
                }
                (heard.next_at, heard.came_at)
            };
            let step = Duration::from_millis(self.place.resolution.ms());
            match next_at {
                Some(next_at) => tokio::time::sleep_until(next_at).await,
                // Ticks may have been missed before this process began.
                None => match self.catch_up_or_end().await {
                    true => return,
                    false => continue,
                },
            }
            let now = Instant::now();
            let now_ms = self.transport.time.now_unix_ms();
            // Not one after the other, as if it were then.
            if is_overdue(self.place.resolution, self.place.number.next(), now_ms)
                && self.catch_up_or_end().await
            {
                return;
            }
            match self.look(self.place.number.next()).await {
                Looked::Came(tick) => {
                    // A little earlier each time, until it is too early: as soon as one can be.
                    let early = if at_once { step / 40 } else { Duration::ZERO };
                    let is_news = self.take(&tick, Some(now + step - early));
                    at_once = true;
                    if is_news {
                        return;
                    }
                }
                Looked::NotYet => {
                    at_once = false;
                    let resolution = self.place.resolution;
                    let is_late = came_at
                        .is_none_or(|came| now.duration_since(came) > step + patience(resolution));
                    if is_late && self.catch_up_or_end().await {
                        return;
                    }
                    lock(&self.heard).next_at = Some(Instant::now() + pause(resolution));
                }
                Looked::Ended(ended) => {
                    lock(&self.heard).ended = Some(ended);
                    return;
                }
            }
        }
    }

    /// A tick as the relay shows it now, if it goes on from the last one.
    async fn look(&self, number: TickNumber) -> Looked {
        let resolution = self.place.resolution;
        if is_future(resolution, number, self.transport.time.now_unix_ms()) {
            return Looked::Ended(Ended::Stopped);
        }
        let Some(tick) = self.transport.tick_of_relay(resolution, number).await else {
            return Looked::NotYet;
        };
        match checked(&self.signer, (resolution, number), &tick) {
            None => Looked::Ended(Ended::Stopped),
            Some(checked) if checked.previous != self.place.hash => {
                Looked::Ended(Ended::Forked(Box::new(tick)))
            }
            Some(checked) => Looked::Came(checked),
        }
    }

    /// Takes a tick that goes on from the last one; whether it names a group of this client.
    fn take(&mut self, tick: &CheckedTick, next_at: Option<Instant>) -> bool {
        self.place = Place {
            resolution: tick.resolution,
            generation: tick.generation,
            number: tick.number,
            hash: tick.hash,
        };
        let day = tick.resolution.day_of(tick.number);
        let named = self.groups.iter().filter(|(of, _, key)| {
            *of == day && tick.tags.contains(key.tag(tick.resolution, tick.number))
        });
        let mut heard = lock(&self.heard);
        heard.at = Some(self.place);
        heard.next_at = next_at;
        heard.came_at = Some(Instant::now());
        match &mut heard.searched {
            Some(searched) => searched.retain(|segment| self.searched.contains(segment)),
            unknown => *unknown = Some(self.searched.clone()),
        }
        let before = heard.news.len();
        heard.news.extend(named.map(|(_, group, _)| *group));
        heard.news.len() > before
    }

    /// As [`Self::catch_up`]; whether the wait is over.
    async fn catch_up_or_end(&mut self) -> bool {
        let ended = self.catch_up().await.err();
        let mut heard = lock(&self.heard);
        if ended.is_some() {
            heard.missed = None;
            heard.ended = ended;
            return true;
        }
        !heard.news.is_empty()
    }

    /// Takes what was missed, up to the last tick that the relay shows. Ticks may be missing, while
    /// no service ran: each says which one was before it. What was fetched before this wait is not
    /// fetched again.
    async fn catch_up(&mut self) -> Result<(), Ended> {
        let resolution = self.place.resolution;
        let known = self.place.number.0;
        let is_begun = {
            let heard = lock(&self.heard);
            let missed = heard.missed.as_ref();
            missed.is_some_and(|missed| missed.after == self.place)
        };
        if !is_begun && !self.begin_to_catch_up().await? {
            return Ok(());
        }
        loop {
            let next = lock(&self.heard).missed.as_ref().map(|missed| missed.next);
            let Some(number) = next.filter(|next| next.0 > known) else {
                break;
            };
            let shown = self.transport.tick_of_relay(resolution, number).await;
            let mut heard = lock(&self.heard);
            let Some(missed) = &mut heard.missed else {
                return Ok(());
            };
            missed.next = TickNumber(number.0.saturating_sub(1));
            let Some(shown) = shown else {
                continue;
            };
            let Some(tick) = checked(&self.signer, (resolution, number), &shown) else {
                return Err(Ended::Stopped);
            };
            let expected = missed.ticks.last().map(|(tick, _)| tick.previous);
            if expected.is_some_and(|expected| expected != tick.hash) {
                // One in between is held back, or two contradict each other.
                return Err(Ended::Stopped);
            }
            let is_next = tick.previous == self.place.hash;
            missed.ticks.push((tick, shown));
            if is_next {
                let missed = heard.missed.take();
                drop(heard);
                for (tick, _) in missed.iter().flat_map(|missed| missed.ticks.iter().rev()) {
                    self.take(tick, Some(Instant::now()));
                }
                return Ok(());
            }
        }
        // The first one after the last that is known does not go on from it.
        match lock(&self.heard)
            .missed
            .take()
            .and_then(|mut it| it.ticks.pop())
        {
            Some((tick, shown)) if tick.number.0 == known.saturating_add(1) => {
                Err(Ended::Forked(Box::new(shown)))
            }
            _ => Err(Ended::Stopped),
        }
    }

    /// Finds out how much was missed; whether anything was.
    async fn begin_to_catch_up(&mut self) -> Result<bool, Ended> {
        let resolution = self.place.resolution;
        let pointer = self.transport.feed_pointer().await.ok_or(Ended::Stopped)?;
        let last = pointer
            .ticks
            .iter()
            .find(|tick| tick.seconds == resolution.seconds())
            .ok_or(Ended::Stopped)?
            .number;
        let now_ms = self.transport.time.now_unix_ms();
        if is_future(resolution, TickNumber(last), now_ms)
            || is_overdue(resolution, TickNumber(last), now_ms)
        {
            return Err(Ended::Stopped);
        }
        let known = self.place.number.0;
        let mut heard = lock(&self.heard);
        if last <= known {
            // Nothing new: it has stopped, if that is so for long.
            let is_late = heard
                .came_at
                .is_some_and(|came| came.elapsed() > patience(resolution));
            heard.came_at.get_or_insert_with(Instant::now);
            heard.next_at = Some(Instant::now() + pause(resolution));
            return if is_late {
                Err(Ended::Stopped)
            } else {
                Ok(false)
            };
        }
        if last - known > MOST_MISSED {
            return Err(Ended::Stopped);
        }
        heard.missed = Some(Missed {
            after: self.place,
            next: TickNumber(last),
            ticks: Vec::new(),
        });
        Ok(true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::feed::LastTick;

    use super::*;

    fn pointer(bytes: u32) -> FeedPointer {
        FeedPointer {
            generation: 0,
            ticks: Resolution::ALL
                .map(|resolution| LastTick {
                    seconds: resolution.seconds(),
                    number: 7,
                    bytes,
                })
                .to_vec(),
        }
    }

    #[test]
    fn the_finest_resolution_that_fits_is_taken() {
        let fits = |bytes, budget| {
            affordable(&pointer(bytes), (budget, Resolution::Seconds2))
                .map(|(resolution, _)| resolution)
        };
        assert_eq!(fits(120, 1 << 30), Some(Resolution::Seconds2));
        assert_eq!(fits(120, 100 << 20), Some(Resolution::Seconds20));
        assert_eq!(fits(4_000, 100 << 20), Some(Resolution::Minutes2));
        assert_eq!(fits(3 << 20, 100 << 20), Some(Resolution::Day));
        assert_eq!(fits(3 << 20, 10 << 20), None);
        let coarse = affordable(&pointer(120), (1 << 30, Resolution::Minutes2));
        assert_eq!(coarse.unwrap().0, Resolution::Minutes2);
        assert_eq!(
            affordable(
                &FeedPointer {
                    generation: 0,
                    ticks: Vec::new()
                },
                (1, Resolution::Seconds2)
            ),
            None
        );
    }

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
        assert_eq!(
            day(place(Resolution::Hours2, NOW - days_ms(4))),
            Day(today.0 - 4)
        );
        // So many are not fetched one by one.
        assert_eq!(day(place(Resolution::Hours2, NOW - days_ms(8))), today);
        assert_eq!(day(place(Resolution::Seconds2, NOW - days_ms(1))), today);
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
        let drawn: std::collections::BTreeSet<_> =
            (0..100).map(|_| chance(&AGAIN_MS).unwrap()).collect();
        assert!(drawn.len() > 95 && drawn.iter().all(|at| AGAIN_MS.contains(at)));
    }
}
