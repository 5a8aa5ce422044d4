//! The ways of reading, and what the service sees of each.

use std::collections::VecDeque;

use crate::world::{Rng, World};
use crate::{ANSWER, BEFORE, BIN, DAY};

/// What a slot reads when there is no news.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Idle {
    LongestUnread,
    Random,
    /// Nothing that is a journal; a journal is looked at every few hours.
    Dummy,
    /// As `Dummy`. And of the time away it reads only what the feed says has news.
    DummyAndNews,
}

#[derive(Clone, Copy)]
pub(crate) enum Reading {
    /// All at once on return, and news at once.
    AtOnce,
    /// Each within half an hour.
    Spread,
    Slots(f64, Idle),
}

/// A way of reading, and what the attack on it takes as one moment, all in seconds.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) reading: Reading,
    /// Reads so close together follow each other.
    pub(crate) burst: u32,
    /// Reads so soon after an entry come of it.
    pub(crate) prompt: u32,
    /// So long it takes to read everything after a return.
    pub(crate) catch_up: u32,
    /// So far apart the last visits before an absence are.
    pub(crate) slack: u32,
    /// Days of which reads in quick succession are looked at.
    pub(crate) burst_days: u32,
}

/// With so many seconds from one slot to the next, on average.
pub(crate) const fn slots(name: &'static str, mean: u32, idle: Idle) -> Way {
    Way {
        name,
        reading: Reading::Slots(mean as f64, idle),
        burst: mean * 2,
        prompt: mean * 10,
        catch_up: mean * 60,
        slack: mean * 5,
        burst_days: 30,
    }
}

pub(crate) const WAYS: [Way; 10] = [
    Way {
        name: "at once",
        reading: Reading::AtOnce,
        burst: 4,
        prompt: 4,
        catch_up: 12,
        slack: 5,
        burst_days: 30,
    },
    Way {
        name: "spread over half an hour",
        reading: Reading::Spread,
        burst: 300,
        prompt: 1_800,
        catch_up: 1_800,
        slack: 1_800,
        burst_days: 30,
    },
    slots("live, longest unread", 30, Idle::LongestUnread),
    slots("live, random", 30, Idle::Random),
    slots("live, dummy", 30, Idle::Dummy),
    slots("live, dummy and news only", 30, Idle::DummyAndNews),
    slots("batched, longest unread", 60, Idle::LongestUnread),
    slots("batched, random", 60, Idle::Random),
    slots("batched, dummy", 60, Idle::Dummy),
    slots("batched, dummy and news only", 60, Idle::DummyAndNews),
];

impl Way {
    /// A reader that is behind by less may be online.
    pub(crate) fn absence(&self) -> u32 {
        (2 * self.catch_up).clamp(1_200, 3_600)
    }
}

/// A read from a position behind the end.
pub(crate) struct Behind {
    pub(crate) at: u32,
    pub(crate) segment: usize,
    /// Of the position, among the segment's entries.
    pub(crate) next: usize,
}

/// What the service sees.
pub(crate) struct Seen {
    /// For each segment and bin, the reads that do not come of an entry.
    pub(crate) counts: Vec<Vec<u8>>,
    /// And those that do.
    pub(crate) prompt: Vec<Vec<u8>>,
    /// For each segment, when it was read, but not because of an entry.
    pub(crate) reads: Vec<Vec<u32>>,
    pub(crate) all: u64,
    pub(crate) behind: Vec<Behind>,
}

pub(crate) fn simulate(world: &World, way: &Way, rng: &mut Rng) -> Seen {
    let bins = ((world.end - BEFORE) / BIN) as usize;
    let mut seen = Seen {
        counts: vec![vec![0; bins]; world.segments.len()],
        prompt: vec![vec![0; bins]; world.segments.len()],
        reads: vec![Vec::new(); world.segments.len()],
        all: 0,
        behind: Vec::new(),
    };
    for client in &world.clients {
        let mut reader = Reader {
            world,
            way,
            segments: &client.segments,
            next: vec![0; client.segments.len()],
            seen: &mut seen,
        };
        for session in &client.sessions {
            match way.reading {
                Reading::AtOnce => reader.react(*session, 2.0, rng),
                Reading::Spread => reader.react(*session, 1_800.0, rng),
                Reading::Slots(mean, idle) => reader.take_slots(*session, mean, idle, rng),
            }
        }
    }
    seen.behind.sort_unstable_by_key(|it| it.at);
    seen
}

/// A client as it reads.
pub(crate) struct Reader<'a> {
    pub(crate) world: &'a World,
    pub(crate) way: &'a Way,
    pub(crate) segments: &'a [usize],
    /// For each group the first entry that was not read, among the segment's entries.
    pub(crate) next: Vec<usize>,
    pub(crate) seen: &'a mut Seen,
}

impl Reader<'_> {
    fn has_news(&self, group: usize, at: u32) -> bool {
        let accepted = &self.world.segments[self.segments[group]].accepted;
        accepted.get(self.next[group]).is_some_and(|it| *it <= at)
    }

    /// Reads a group to its end, and returns how many answers that takes.
    fn read(&mut self, group: usize, at: f64) -> u64 {
        let (id, at, first) = (self.segments[group], at as u32, self.next[group]);
        let segment = &self.world.segments[id];
        while self.has_news(group, at) {
            self.next[group] += 1;
        }
        let next = self.next[group];
        if let Some(seen_at) = at.checked_sub(BEFORE) {
            self.seen.all += 1;
            let last = segment.accepted[..next].last();
            let is_prompt = last.is_some_and(|it| *it + self.way.prompt >= at);
            let counts = match is_prompt {
                true => &mut self.seen.prompt,
                false => &mut self.seen.counts,
            };
            let count = &mut counts[id][(seen_at / BIN) as usize];
            *count = count.saturating_add(1);
            if !is_prompt && seen_at < self.way.burst_days * DAY {
                self.seen.reads[id].push(seen_at);
            }
            if next > first && at - segment.accepted[first] > self.way.absence() {
                self.seen.behind.push(Behind {
                    at,
                    segment: id,
                    next: first,
                });
            }
        }
        let told = (segment.base + first as u64) % 4 + (next - first) as u64;
        told.div_ceil(ANSWER.0).max(1)
    }

    /// Reads each group on return and when it has news, within so many seconds.
    fn react(&mut self, (begins, ends): (u32, u32), within: f64, rng: &mut Rng) {
        let mut order: Vec<usize> = (0..self.segments.len()).collect();
        rng.shuffle(&mut order);
        for (before, group) in order.into_iter().enumerate() {
            let delay = match within < 60.0 {
                true => before as f64 * 0.2,
                false => rng.unit() * within,
            };
            let mut at = f64::from(begins) + delay;
            while at < f64::from(ends) {
                self.read(group, at);
                let accepted = &self.world.segments[self.segments[group]].accepted;
                let Some(news) = accepted.get(self.next[group]) else {
                    break;
                };
                at = f64::from(*news) + rng.unit() * within;
            }
        }
    }

    /// One group a slot: the oldest news first, after a return every group that may have some.
    fn take_slots(&mut self, session: (u32, u32), mean: f64, idle: Idle, rng: &mut Rng) {
        let (begins, ends) = session;
        let groups = self.segments.len();
        let mut order: Vec<usize> = (0..groups).collect();
        rng.shuffle(&mut order);
        let mut waiting: VecDeque<usize> = order.into_iter().collect();
        if idle == Idle::DummyAndNews {
            waiting.retain(|group| self.has_news(*group, begins));
        }
        let mut news = Vec::new();
        for group in 0..groups {
            let accepted = &self.world.segments[self.segments[group]].accepted;
            let from = accepted.partition_point(|it| *it <= begins);
            let to = accepted.partition_point(|it| *it < ends);
            news.extend(accepted[from..to].iter().map(|it| (*it + 2, group)));
        }
        news.sort_unstable();
        let mut news = news.into_iter().peekable();
        let mut unread: VecDeque<usize> = waiting.iter().copied().collect();
        let look = mean * groups as f64 / (4.5 * 3_600.0);
        let mut more_answers = 0;
        let mut at = f64::from(begins);
        loop {
            at += rng.exponential(mean);
            if at >= f64::from(ends) {
                return;
            }
            while let Some((_, group)) = news.next_if(|it| f64::from(it.0) <= at) {
                if !waiting.contains(&group) {
                    waiting.push_back(group);
                }
            }
            if more_answers > 0 {
                more_answers -= 1;
                continue;
            }
            let group = match (waiting.pop_front(), idle) {
                (Some(group), _) => group,
                (None, Idle::LongestUnread) => unread[0],
                (None, Idle::Random) => rng.below(groups),
                (None, Idle::Dummy | Idle::DummyAndNews) if rng.unit() < look => rng.below(groups),
                (None, _) => continue,
            };
            more_answers = self.read(group, at) - 1;
            if idle == Idle::LongestUnread {
                unread.retain(|it| *it != group);
                unread.push_back(group);
            }
        }
    }
}
