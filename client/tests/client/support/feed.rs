//! The activity feed of the service in this process: as the service makes it, and as somebody shows
//! it otherwise.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use crypto::feed::check;
use ds_domain::engine::{Batch, Found, Read, Table};
use ds_domain::env::Env;
use ds_domain::feed::{StoredState, tick_key};
use mimimi_client::in_process::FeedView;
use protocol::Wire as _;
use protocol::feed::{FeedPointer, FeedTickTbs, LastTick, Resolution, TagSet, Tick, code};
use protocol::ids::{Digest, TickNumber};

use super::InProcess;

/// Alters what one of those shows at this place.
pub(crate) type AlterFeed = Box<dyn Fn(FeedView, &str, Vec<u8>) -> Vec<u8> + Send>;

/// Whether one of those hides what is at this place.
pub(crate) type HideFeed = Box<dyn Fn(FeedView, &str) -> bool + Send>;

/// Ticks by number, the hash of the last one, and for how many more.
type Fork = (HashMap<u64, Vec<u8>>, Option<Digest>, u32);

#[derive(Default)]
pub(crate) struct Shown {
    is_shown: bool,
    is_stopped: bool,
    forgets_notes: bool,
    alter: Option<AlterFeed>,
    hide: Option<HideFeed>,
    /// What the relay shows in place of ticks of two seconds.
    fork: Option<Fork>,
    asked: Vec<String>,
}

impl InProcess {
    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.feed.lock().unwrap()
    }

    /// From now on there is a feed.
    pub(crate) fn show_feed(&self) {
        self.shown().is_shown = true;
        self.make_ticks();
    }

    /// No tick is made, or ticks are again.
    pub(crate) fn stop_feed(&self, is_stopped: bool) {
        self.shown().is_stopped = is_stopped;
    }

    /// What is accepted is left out.
    pub(crate) fn forget_notes(&self, forgets: bool) {
        self.shown().forgets_notes = forgets;
    }

    pub(crate) fn alter_feed(&self, alter: Option<AlterFeed>) {
        self.shown().alter = alter;
    }

    pub(crate) fn hide_feed(&self, hide: Option<HideFeed>) {
        self.shown().hide = hide;
    }

    /// A tick with the same place and predecessor as this one and with other tags, which the
    /// service has signed too.
    pub(crate) fn signed_otherwise(&self, tick: &[u8]) -> Vec<u8> {
        let tick = Tick::decode(tick).unwrap();
        let (count, coded) = code(&[protocol::feed::Tag(5), protocol::feed::Tag(6)].into());
        let made = self.keys.journal_signing().sign_tick(FeedTickTbs {
            version: tick.version,
            generation: tick.generation,
            resolution: tick.resolution,
            number: tick.number,
            previous: tick.previous,
            count,
            coded,
        });
        made.unwrap().encode()
    }

    /// Whether two ticks prove to anybody who has the service's key that it shows two feeds.
    pub(crate) fn is_proof(&self, one: &[u8], other: &[u8]) -> bool {
        let key = self.keys.journal_signing().public();
        let [one, other] = [one, other].map(|it| check(&key, &Tick::decode(it).unwrap()).unwrap());
        let are_of_one = (one.generation, one.resolution) == (other.generation, other.resolution);
        let contradict = match other.number.0 - one.number.0 {
            0 => one.hash != other.hash,
            1 => other.previous != one.hash,
            _ => false,
        };
        are_of_one && contradict
    }

    /// From now on the relay shows a feed of its own, which the service signs.
    pub(crate) fn fork_feed(&self) {
        self.shown().fork = Some((HashMap::new(), None, u32::MAX));
    }

    /// The same for the next tick, which goes on from another one.
    pub(crate) fn fork_feed_at_relay_once(&self) {
        self.shown().fork = Some((HashMap::new(), Some(Digest([7; 32])), 1));
    }

    /// Parts of the feed that were asked for at the relay.
    pub(crate) fn feed_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shown().asked)
    }

    fn stored(&self, resolution: Resolution, number: u64) -> Option<Vec<u8>> {
        let key = tick_key(resolution, TickNumber(number));
        match self.inner().engine.read(&[Read::Row(key)]).pop()? {
            Found::Row(row) => row,
            Found::Range(_) => None,
        }
    }

    /// The tags of a tick.
    pub(crate) fn tick(&self, resolution: Resolution, number: u64) -> TagSet {
        let tick = Tick::decode(&self.stored(resolution, number).unwrap()).unwrap();
        TagSet::decode(tick.count, tick.coded.as_slice()).unwrap()
    }

    /// Makes all ticks that are due.
    pub(crate) fn make_ticks(&self) {
        if self.shown().is_stopped {
            return;
        }
        if self.shown().forgets_notes {
            let mut inner = self.inner();
            let deletes = inner
                .engine
                .rows()
                .filter(|(key, _)| key.table == Table::FeedNotes)
                .map(|(key, _)| key.clone())
                .collect();
            let batch = Batch {
                deletes,
                ..Batch::default()
            };
            inner.engine.apply(batch).unwrap();
        }
        loop {
            let mut inner = self.inner();
            let inner = &mut *inner;
            let mut env = Env {
                now_ms: self.clock.0.load(Ordering::Relaxed),
                generation: self.generations.signed.load(Ordering::Relaxed),
                rng: &mut inner.rng,
                keys: &self.keys,
                settings: &self.settings,
                blob_room: u64::MAX,
            };
            let found = inner.engine.read(&[Read::Row(StoredState::key())]).pop();
            let Some(Found::Row(value)) = found else {
                panic!("a row was asked for");
            };
            let stored = StoredState::read(value.as_deref()).unwrap();
            let Some(due) = stored.state.due(env.now_ms, env.generation) else {
                return;
            };
            let range = due.rows(&stored.state, false);
            let Some(Found::Range(rows)) = inner.engine.read(&[Read::Range(range)]).pop() else {
                panic!("a range was asked for");
            };
            let made = due.make(stored, &rows, &mut env).unwrap();
            inner.engine.apply(made.batch).unwrap();
            if due.resolution == Resolution::Seconds2 {
                let key = tick_key(due.resolution, due.number);
                let Some(Found::Row(Some(bytes))) = inner.engine.read(&[Read::Row(key)]).pop()
                else {
                    panic!("it was just made");
                };
                self.make_another(&Tick::decode(&bytes).unwrap());
            }
        }
    }

    /// The tick of the fork beside this one.
    fn make_another(&self, tick: &Tick) {
        let mut shown = self.shown();
        let Some((ticks, last, left)) = &mut shown.fork else {
            return;
        };
        if *left == 0 {
            return;
        }
        *left = left.saturating_sub(1);
        let (count, coded) = code(&[protocol::feed::Tag(5)].into());
        let made = self.keys.journal_signing().sign_tick(FeedTickTbs {
            version: tick.version,
            generation: tick.generation,
            resolution: tick.resolution,
            number: tick.number,
            previous: last.unwrap_or(tick.previous),
            count,
            coded,
        });
        let made = made.unwrap();
        *last = Some(crypto::feed::tick_hash(&made));
        ticks.insert(tick.number.0, made.encode());
    }

    pub(super) fn show(&self, path: &str, view: FeedView) -> Option<Vec<u8>> {
        if !self.shown().is_shown {
            return None;
        }
        if view == FeedView::Relay {
            self.shown().asked.push(path.to_owned());
        }
        if let Some(hide) = &self.shown().hide
            && hide(view, path)
        {
            return None;
        }
        let bytes = if path == "latest" {
            let found = self.inner().engine.read(&[Read::Row(StoredState::key())]);
            let [Found::Row(value)] = found.as_slice() else {
                return None;
            };
            let stored = StoredState::read(value.as_deref()).unwrap();
            let ticks = Resolution::ALL.into_iter().filter_map(|resolution| {
                let last = stored.state.last(resolution)?;
                Some(LastTick {
                    seconds: resolution.seconds(),
                    number: last.number.0,
                    bytes: last.bytes,
                })
            });
            let pointer = FeedPointer {
                generation: self.generations.signed.load(Ordering::Relaxed),
                ticks: ticks.collect(),
            };
            serde_json::to_vec(&pointer).unwrap()
        } else {
            let (seconds, number) = path.split_once('/')?;
            let number: u64 = number.parse().ok()?;
            let resolution = Resolution::of_seconds(seconds.parse().ok()?)?;
            let forked = self
                .shown()
                .fork
                .as_ref()
                .filter(|_| view == FeedView::Relay && resolution == Resolution::Seconds2)
                .and_then(|(ticks, ..)| ticks.get(&number).cloned());
            match forked {
                Some(forked) => forked,
                None => self.stored(resolution, number)?,
            }
        };
        Some(match &self.shown().alter {
            Some(alter) => alter(view, path, bytes),
            None => bytes,
        })
    }
}
