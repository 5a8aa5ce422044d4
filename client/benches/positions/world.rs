//! Clients, their groups, and when they are online and write.

use crate::{BEFORE, DAY, Kind};

/// SplitMix64.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.unit() * end as f64) as usize
    }

    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    pub(crate) fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[derive(Default)]
pub(crate) struct Client {
    pub(crate) segments: Vec<usize>,
    /// When it is online, in order.
    pub(crate) sessions: Vec<(u32, u32)>,
}

pub(crate) struct Segment {
    pub(crate) members: Vec<usize>,
    /// The position of the first entry of the simulation.
    pub(crate) base: u64,
    /// When entries were accepted, in order.
    pub(crate) accepted: Vec<u32>,
}

pub(crate) struct World {
    pub(crate) clients: Vec<Client>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) end: u32,
}

impl World {
    pub(crate) fn new(clients: usize, days: u32, rng: &mut Rng) -> Self {
        let end = BEFORE + days * DAY;
        let mut world = Self {
            clients: (0..clients).map(|_| Client::default()).collect(),
            segments: Vec::new(),
            end,
        };
        for client in &mut world.clients {
            client.sessions = sessions(end, rng);
        }
        let mut ends: Vec<usize> = (0..clients * 28).map(|it| it % clients).collect();
        rng.shuffle(&mut ends);
        for pair in ends.chunks_exact(2).filter(|pair| pair[0] != pair[1]) {
            world.add(pair.to_vec(), 0.8, 1.6, rng);
        }
        for (memberships, least, most, median) in [(9, 5.0, 50.0, 8.0), (3, 100.0, 300.0, 40.0)] {
            let mut left = memberships * clients;
            while left > 0 {
                let ratio: f64 = most / least;
                let size = least * ratio.powf(rng.unit());
                let size = (size as usize).min(clients / 3).min(left).max(3);
                left = left.saturating_sub(size);
                let mut members: Vec<usize> = (0..size).map(|_| rng.below(clients)).collect();
                members.sort_unstable();
                members.dedup();
                world.add(members, median, 1.2, rng);
            }
        }
        world
    }

    /// A segment with so many messages a day, in bursts of four, sent while a member is online.
    pub(crate) fn add(&mut self, members: Vec<usize>, median: f64, sigma: f64, rng: &mut Rng) {
        let a_day = rng.log_normal(median, sigma).min(300.0);
        let bursts = (a_day / 4.0 * f64::from(self.end / DAY) + rng.unit()) as usize;
        let mut accepted = Vec::new();
        for _ in 0..bursts {
            let begins = (0..50).find_map(|_| {
                let at = rng.below(self.end as usize) as u32;
                let sender = &self.clients[members[rng.below(members.len())]];
                let next = sender.sessions.partition_point(|session| session.1 <= at);
                let session = sender.sessions.get(next)?;
                (session.0 <= at).then_some(f64::from(at))
            });
            let Some(mut at) = begins else { continue };
            while at < f64::from(self.end) {
                accepted.push(at as u32);
                at += rng.exponential(60.0);
                if rng.unit() < 0.25 {
                    break;
                }
            }
        }
        accepted.sort_unstable();
        for member in &members {
            self.clients[*member].segments.push(self.segments.len());
        }
        self.segments.push(Segment {
            members,
            base: rng.below(1_000) as u64,
            accepted,
        });
    }

    pub(crate) fn of_kind(&self, (_, least, most): Kind) -> Vec<usize> {
        let is_one = |it: &usize| (least..=most).contains(&self.segments[*it].members.len());
        (0..self.segments.len()).filter(is_one).collect()
    }

    pub(crate) fn share_a_reader(&self, one: usize, other: usize) -> bool {
        let others = &self.segments[other].members;
        self.segments[one]
            .members
            .iter()
            .any(|it| others.contains(it))
    }
}

pub(crate) fn sessions(end: u32, rng: &mut Rng) -> Vec<(u32, u32)> {
    let (wakes, sleeps) = (7.3 + 1.1 * rng.normal(), 23.0 + 1.1 * rng.normal());
    let mut sessions: Vec<(u32, u32)> = Vec::new();
    for day in 0..end / DAY {
        if rng.unit() < 0.04 {
            continue;
        }
        let second = |hours: f64| day * DAY + (hours.max(0.0) * 3_600.0) as u32;
        let mut hour = wakes + 0.5 * rng.normal();
        let sleeps = sleeps + 0.7 * rng.normal();
        while hour < sleeps {
            let away = (hour + rng.exponential(6.5)).min(sleeps);
            let begins = second(hour).max(sessions.last().map_or(0, |it| it.1 + 60));
            let ends = second(away).min(end);
            if ends > begins + 60 {
                sessions.push((begins, ends));
            }
            hour = away + rng.log_normal(1.2, 0.8).min(8.0);
        }
    }
    sessions
}
