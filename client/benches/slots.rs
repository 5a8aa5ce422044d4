//! What each profile costs a client with 40 groups, and after how many messages a relay has linked
//! the one who writes to the one who reads. The SDK's scheduler runs over virtual days; nothing is
//! sent. `docs/performance.md` has the tables.
//!
//! `CLIENTS=1000` (of up to 10^5) and `MESSAGES=3000` are what a run takes if nothing else is said.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss
)]

#[path = "../tests/client/game/slots.rs"]
#[allow(dead_code)]
mod game;

use std::collections::VecDeque;

use game::{Attack, Dice, Kind, MINUTE_MS, linked_after};
use mimimi_client::slots::{Slots, Turn, choose};
use mimimi_client::{Bundle, Profile};
use protocol::padding::{ORDINARY_ANSWER, ORDINARY_REQUEST};

const DAY_MS: u64 = 24 * 60 * MINUTE_MS;
const GROUPS: usize = 40;
/// A user's own, and what is written in the user's groups, a day.
const SENT: u64 = 20;
const WRITTEN: u64 = 200;

/// What encapsulation under X-Wing adds to a request (RFC 9458 §4.3), and to an answer.
const REQUEST_OVERHEAD: usize = 1_143;
const ANSWER_OVERHEAD: usize = 32;
/// Frames of a stream: bytes, a second (`Even`; a live one has a frame every 15 s, and one for each
/// entry), with what sealing a piece adds.
const FRAME: f64 = 2_048.0 + 20.0;
const BEAT_S: f64 = 15.0;
/// Ticks of 20 seconds among 10^4 users: bytes and requests a day (`docs/performance.md`).
const FEED_BYTES: f64 = 73e6 / 30.0;
const FEED_TICK_MS: u64 = 20_000;
/// The same of 2 minutes, for who sleeps.
const COARSE_FEED_BYTES: f64 = 26e6 / 30.0;
const COARSE_TICK_MS: u64 = 120_000;

/// What a request costs the services, CPU µs: relay 59, gateway 100, delivery service 27; and a
/// frame: relay 17, gateway 20.5 (`docs/performance.md`).
const REQUEST_US: f64 = 59.0 + 100.0 + 27.0;
const FRAME_US: f64 = 17.0 + 20.5;
/// What a stream holds of their memory, KiB: relay 49, gateway 60.5.
const STREAM_KIB: f64 = 49.0 + 60.5;

fn main() {
    costs();
    links();
}

/// What a client does in virtual days.
#[derive(Default)]
struct Counted {
    requests: u64,
    /// From accept to read, ms.
    delays: Vec<u64>,
}

/// What is in a client's groups.
struct Groups {
    /// What was written and not read.
    waits: Vec<Vec<u64>>,
    /// Places in the queue of those with news.
    places: Vec<Option<u64>>,
    next_place: u64,
    read_ms: Vec<u64>,
    counted: Counted,
}

impl Groups {
    fn named(&mut self, group: usize) {
        self.places[group].get_or_insert(self.next_place);
        self.next_place += 1;
    }

    fn read(&mut self, group: usize, now_ms: u64) {
        self.counted.requests += 1;
        self.places[group] = None;
        self.read_ms[group] = now_ms;
        let read = std::mem::take(&mut self.waits[group]).into_iter();
        self.counted.delays.extend(read.map(|at| now_ms - at));
    }

    /// One group with news, or one to look into, or nobody's journal.
    fn read_in_slot(&mut self, slots: &Slots, bundle: Bundle, now_ms: u64, dice: &mut Dice) {
        for _ in 0..bundle.journals() {
            let due: Vec<usize> = (0..GROUPS)
                .filter(|it| self.places[*it].is_some())
                .collect();
            let places: Vec<Option<u64>> = due.iter().map(|it| self.places[*it]).collect();
            match choose(&places, [dice.roll(), dice.roll()]) {
                Some(at) => self.read(due[at], now_ms),
                None if slots.looks(GROUPS, true, dice.roll()) => {
                    self.read(usize::try_from(dice.roll() % 40).unwrap(), now_ms);
                }
                None => self.counted.requests += 1,
            }
        }
    }

    /// All with news that were not read a moment ago; without any, one now and then.
    fn react(&mut self, slots: &Slots, now_ms: u64, dice: &mut Dice) {
        let mut read = false;
        for group in 0..GROUPS {
            let is_time = now_ms - self.read_ms[group] >= slots.least_ms();
            if self.places[group].is_some() && is_time {
                self.read(group, now_ms);
                read = true;
            }
        }
        if !read && slots.looks(GROUPS, true, dice.roll()) {
            self.read(usize::try_from(dice.roll() % 40).unwrap(), now_ms);
        }
    }
}

/// A client whose groups are written in at random, each as often as the others.
fn live(profile: Profile, bundle: Bundle, days: u64, dice: &mut Dice) -> Counted {
    let end_ms = days * DAY_MS;
    let tick_ms = match profile {
        Profile::Periodic => COARSE_TICK_MS,
        _ => FEED_TICK_MS,
    };
    let mut written: VecDeque<u64> = dice.times(DAY_MS / WRITTEN, end_ms).into();
    let mut sent: VecDeque<u64> = dice.times(DAY_MS / SENT, end_ms).into();
    let mut groups = Groups {
        waits: vec![Vec::new(); GROUPS],
        places: vec![None; GROUPS],
        next_place: 1,
        read_ms: vec![0; GROUPS],
        counted: Counted::default(),
    };
    let mut heard: VecDeque<(u64, usize)> = VecDeque::new();
    let mut slots = Slots::new(profile);
    slots.begin(0, dice.roll());
    while let Some(next_ms) = slots.next_ms().filter(|next_ms| *next_ms < end_ms) {
        let first = |times: &VecDeque<u64>| times.front().copied().unwrap_or(u64::MAX);
        let heard_ms = heard.front().map_or(u64::MAX, |(at, _)| *at);
        let soonest = first(&written).min(first(&sent)).min(heard_ms).min(next_ms);
        if soonest == first(&written) {
            written.pop_front();
            let group = usize::try_from(dice.roll() % 40).unwrap();
            groups.waits[group].push(soonest);
            heard.push_back(((soonest / tick_ms + 1) * tick_ms + 400, group));
        } else if soonest == first(&sent) {
            sent.pop_front();
            groups.counted.requests += 1;
            slots.spent(1);
        } else if soonest == heard_ms {
            let (_, group) = heard.pop_front().unwrap();
            groups.named(group);
            if soonest - groups.read_ms[group] >= slots.least_ms() {
                slots.hear(soonest);
            }
        } else {
            match slots.turn(next_ms, true, [dice.roll(), dice.roll()]) {
                None | Some(Turn::Taken) => {}
                Some(Turn::Read | Turn::Settle) => {
                    groups.read_in_slot(&slots, bundle, next_ms, dice);
                }
                Some(Turn::React { .. }) => groups.react(&slots, next_ms, dice),
            }
        }
    }
    groups.counted.delays.sort_unstable();
    groups.counted
}

fn costs() {
    const DAYS: u64 = 30;
    println!(
        "a day of a client with {GROUPS} groups, {SENT} messages of its own and {WRITTEN} of others\n\
         | profile | requests | kB up | MB down | feed, MB | delay, median | p95 | services, CPU s | memory, KiB |\n\
         |---|---|---|---|---|---|---|---|---|"
    );
    let rows = [
        ("live", Profile::Live, Bundle::Separate),
        ("even", Profile::Even, Bundle::Separate),
        ("batched", Profile::Batched, Bundle::Separate),
        ("batched, bundled", Profile::Batched, Bundle::Bundled),
        ("low-data", Profile::LowData, Bundle::Separate),
        ("periodic", Profile::Periodic, Bundle::Separate),
    ];
    for (name, profile, bundle) in rows {
        let counted = live(profile, bundle, DAYS, &mut Dice(7));
        let requests = counted.requests as f64 / DAYS as f64;
        let frames = match profile {
            Profile::Even => 86_400.0,
            Profile::Live => 86_400.0 / BEAT_S,
            _ => 0.0,
        };
        let feed = match profile {
            Profile::Periodic => COARSE_FEED_BYTES,
            _ => FEED_BYTES,
        };
        let up = requests * (ORDINARY_REQUEST + REQUEST_OVERHEAD) as f64;
        let down = requests * (ORDINARY_ANSWER + ANSWER_OVERHEAD) as f64 + frames * FRAME;
        let part = |part: usize| {
            let at = counted.delays.len() * part / 100;
            counted.delays[at] as f64 / 1_000.0
        };
        let memory = if frames > 0.0 { STREAM_KIB } else { 0.0 };
        println!(
            "| {name} | {requests:.0} | {:.0} | {:.1} | {:.1} | {:.0} s | {:.0} s | {:.2} | {memory:.0} |",
            up / 1e3,
            down / 1e6,
            feed / 1e6,
            part(50),
            part(95),
            (requests * REQUEST_US + frames * FRAME_US) / 1e6,
        );
    }
}

fn links() {
    let given = |name: &str, usual: usize| {
        let given = std::env::var(name).ok();
        given.map_or(usual, |given| given.parse().unwrap())
    };
    let (clients, messages) = (given("CLIENTS", 1_000), given("MESSAGES", 3_000));
    println!("\nmessages until the pair is linked among {clients} clients, medians of 5 pairs");
    let seconds = |seconds: u64| Kind::Reacting(seconds * 1_000);
    let rows = [
        ("reacting within 10 s", seconds(10)),
        ("reacting within 60 s", seconds(60)),
        ("reacting within 600 s", seconds(600)),
        ("live, in front", Kind::Front),
        ("low-data", Kind::Slots(Profile::LowData)),
        ("live or even, not in front", Kind::Slots(Profile::Live)),
        ("batched", Kind::Slots(Profile::Batched)),
        ("periodic", Kind::Slots(Profile::Periodic)),
        ("batched, weakened", Kind::Weakened(Profile::Batched)),
        ("batched, answering", Kind::Answering(Profile::Batched)),
    ];
    for (name, kind) in rows {
        let mut dice = Dice(11);
        let attack = Attack::learn(kind, &mut dice);
        let mut after: Vec<_> = (0..5)
            .map(|_| linked_after(kind, &attack, (clients, messages), &mut dice))
            .map(|after| after.unwrap_or(usize::MAX))
            .collect();
        after.sort_unstable();
        match after[2] {
            usize::MAX => println!("| {name} | not within {messages} |"),
            after => println!("| {name} | {after} |"),
        }
    }
}
