//! Following the feed without the engine, which does other things meanwhile.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::runtime::Instant;
use crypto::feed::CheckedTick;
use crypto::schedule::FeedKey;
use protocol::Wire as _;
use protocol::feed::Resolution;
use protocol::ids::{Day, GroupId, SegmentId, TickNumber};

use super::{checked, is_future, is_overdue, patience, pause, reached};
use crate::engine::Engine;
use crate::engine::following::{Ended, Heard, lock, search_too};
use crate::error::Error;
use crate::net::feed::Shown;
use crate::net::transport::Transport;
use crate::purse::SharedPurse;
use crate::store::feed::Reached;
use crate::store::heads::Signer;
use crate::store::{Group, Status, feed, heads};

/// Days after that of a tag key whose ticks are searched at most: as many as ticks of a day are
/// shown, and one for a client that waits over midnight.
const MOST_DAYS: u32 = 36;
/// So long a relay that does not answer at all is waited for. Nothing could be read there either.
const SILENCE: Duration = Duration::from_secs(60 * 60);

/// Follows the feed without the engine.
pub(crate) struct FeedReader {
    pub(super) transport: Transport,
    pub(super) signer: Signer,
    /// The last tick that was taken.
    pub(super) at: Reached,
    /// The resolution that is followed.
    pub(super) resolution: Resolution,
    /// By day.
    groups: Vec<(Day, GroupId, FeedKey)>,
    pub(super) searched: HashSet<SegmentId>,
    pub(super) heard: Arc<Mutex<Heard>>,
    pub(super) purse: SharedPurse,
}

/// What came of looking for a tick.
pub(super) enum Looked {
    /// One that the service has signed for this place, and its bytes.
    Came(CheckedTick, Vec<u8>),
    NotThere,
    /// Nobody answers.
    Silence,
}

impl Engine {
    /// What is to be known to search ticks; none while the feed is not followed.
    pub(crate) fn feed_reader(&self) -> Result<Option<FeedReader>, Error> {
        let Some(at) = feed::reached(&self.db)? else {
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
                // Ticks of former days may still come, and those of a tomorrow.
                let mut key = segment.tag_key;
                let days = tomorrow.saturating_sub(segment.tag_day.0);
                for ahead in 0..=days.clamp(1, MOST_DAYS) {
                    let day = Day(segment.tag_day.0.saturating_add(ahead));
                    groups.push((day, group.id, key.feed_key()));
                    key = key.next();
                }
            }
        }
        let chosen = self.feed.chosen.map(|(resolution, _)| resolution);
        Ok(Some(FeedReader {
            transport: self.transport.beside_calls(),
            signer,
            resolution: chosen.unwrap_or(at.place.resolution),
            at,
            groups,
            searched,
            heard: Arc::clone(&self.feed.heard),
            purse: self.feed.purse.clone(),
        }))
    }
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
                if let Some(at) = &heard.at {
                    self.at = at.clone();
                }
                if heard.ended.is_some() {
                    return;
                }
                (heard.next_at, heard.came_at)
            };
            if let Some(next_at) = next_at {
                crate::runtime::sleep_until(next_at).await;
            }
            let (resolution, number) = (self.at.place.resolution, self.at.place.number.next());
            let now_ms = self.transport.time.now_unix_ms();
            // Before this process began, or while it slept: not one after the other, as if it were
            // then.
            let is_missed = next_at.is_none() || is_overdue(resolution, number, now_ms);
            if is_missed || resolution != self.resolution {
                match self.catch_up_or_end().await {
                    true => return,
                    false => continue,
                }
            }
            let step = Duration::from_millis(resolution.ms());
            let now = Instant::now();
            match self.look(number).await {
                Ok(Looked::Came(tick, signed)) => {
                    // A little earlier each time, until it is too early: as soon as one can be.
                    let early = if at_once { step / 40 } else { Duration::ZERO };
                    let is_news = self.take(&tick, signed, now + step - early);
                    at_once = true;
                    if is_news {
                        return;
                    }
                }
                Ok(Looked::NotThere | Looked::Silence) => {
                    at_once = false;
                    let is_late = came_at
                        .is_none_or(|came| now.duration_since(came) > step + patience(resolution));
                    if is_late && self.catch_up_or_end().await {
                        return;
                    }
                    lock(&self.heard).next_at = Some(Instant::now() + pause(resolution));
                }
                Err(ended) => {
                    lock(&self.heard).ended = Some(ended);
                    return;
                }
            }
        }
    }

    /// A tick as the relay shows it now, signed by the service.
    pub(super) async fn ask(&self, at: (Resolution, TickNumber)) -> Result<Looked, Ended> {
        if is_future(at.0, at.1, self.transport.time.now_unix_ms()) {
            return Err(Ended::Stopped);
        }
        let shown = self.transport.tick_of_relay(at, &self.purse).await;
        self.hears(&shown);
        match shown {
            Shown::Here(tick) => match checked(&self.signer, at, &tick) {
                Some(checked) => Ok(Looked::Came(checked, tick.encode())),
                None => Err(Ended::Stopped),
            },
            Shown::Missing => Ok(Looked::NotThere),
            Shown::Silence => Ok(Looked::Silence),
            Shown::Wrong => Err(Ended::Stopped),
            Shown::TooDear => Err(Ended::TooDear),
        }
    }

    /// While the relay says nothing at all, no tick is late.
    pub(super) fn hears<T>(&self, shown: &Shown<T>) {
        let mut heard = lock(&self.heard);
        if !matches!(shown, Shown::Silence) {
            heard.silent_since = None;
        } else if heard
            .silent_since
            .get_or_insert_with(Instant::now)
            .elapsed()
            < SILENCE
        {
            heard.came_at = Some(Instant::now());
        }
    }

    /// The tick after the last one, if it goes on from that.
    async fn look(&self, number: TickNumber) -> Result<Looked, Ended> {
        let looked = self.ask((self.at.place.resolution, number)).await?;
        match looked {
            Looked::Came(tick, signed) if tick.previous != self.at.place.hash => {
                Err(Ended::Forked(Box::new((self.at.tick.to_vec(), signed))))
            }
            looked => Ok(looked),
        }
    }

    /// Takes a tick that goes on from the last one; whether it names a group of this client.
    fn take(&mut self, tick: &CheckedTick, signed: Vec<u8>, next_at: Instant) -> bool {
        self.at = reached(tick, signed);
        let mut heard = lock(&self.heard);
        heard.at = Some(self.at.clone());
        heard.next_at = Some(next_at);
        heard.came_at = Some(Instant::now());
        search_too(&mut heard.searched, &self.searched);
        let before = heard.news.len();
        heard.news.extend(self.named_in(tick));
        heard.news.len() > before
    }

    /// The groups of this client that a tick names.
    pub(super) fn named_in(&self, tick: &CheckedTick) -> impl Iterator<Item = GroupId> {
        let day = tick.resolution.day_of(tick.number);
        let named = self.groups.iter().filter(move |(of, _, key)| {
            *of == day && tick.tags.contains(key.tag(tick.resolution, tick.number))
        });
        named.map(|(_, group, _)| *group)
    }
}
