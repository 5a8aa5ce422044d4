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
use mimimi_client::slots::{Candidate, Slots, Turn, choose};
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
/// Looks at groups in which nothing is said for 3 to 6 hours, a day: few are saved by news.
const LOOKS: f64 = GROUPS as f64 * 24.0 / 4.5;
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

/// A client whose groups are written in at random, each as often as the others.
fn live(profile: Profile, bundle: Bundle, days: u64, dice: &mut Dice) -> Counted {
    let end_ms = days * DAY_MS;
    let tick_ms = match profile {
        Profile::Periodic => COARSE_TICK_MS,
        _ => FEED_TICK_MS,
    };
    let mut written: VecDeque<u64> = dice.times(DAY_MS / WRITTEN, end_ms).into();
    let mut sent: VecDeque<u64> = dice.times(DAY_MS / SENT, end_ms).into();
    let mut waits: Vec<Vec<u64>> = vec![Vec::new(); GROUPS];
    let mut named: Vec<Option<u64>> = vec![None; GROUPS];
    let mut heard: VecDeque<(u64, usize)> = VecDeque::new();
    let mut counted = Counted::default();
    let mut slots = Slots::new(profile);
    slots.begin(0, dice.roll());
    while let Some(next_ms) = slots.next_ms().filter(|next_ms| *next_ms < end_ms) {
        let first = |times: &VecDeque<u64>| times.front().copied().unwrap_or(u64::MAX);
        let heard_ms = heard.front().map_or(u64::MAX, |(at, _)| *at);
        let soonest = first(&written).min(first(&sent)).min(heard_ms).min(next_ms);
        if soonest == first(&written) {
            written.pop_front();
            let group = usize::try_from(dice.roll() % 40).unwrap();
            waits[group].push(soonest);
            heard.push_back(((soonest / tick_ms + 1) * tick_ms + 400, group));
        } else if soonest == first(&sent) {
            sent.pop_front();
            counted.requests += 1;
            slots.spent(1);
        } else if soonest == heard_ms {
            let (_, group) = heard.pop_front().unwrap();
            named[group].get_or_insert(soonest);
            slots.hear(soonest);
        } else {
            let is_named = named.iter().any(Option::is_some);
            let turn = slots.turn(next_ms, (true, is_named), [dice.roll(), dice.roll()]);
            if !matches!(turn, Some(Turn::Read | Turn::Settle)) {
                continue;
            }
            let candidates: Vec<Candidate> = named
                .iter()
                .map(|due| Candidate { due_since_ms: *due })
                .collect();
            let random = [dice.roll(), dice.roll(), dice.roll(), dice.roll()];
            for group in choose(&candidates, bundle, random) {
                counted.requests += 1;
                named[group] = None;
                let read = std::mem::take(&mut waits[group]);
                counted
                    .delays
                    .extend(read.into_iter().map(|at| next_ms - at));
            }
        }
    }
    counted.delays.sort_unstable();
    counted
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
        let mut requests = counted.requests as f64 / DAYS as f64;
        if profile == Profile::LowData {
            requests += LOOKS;
        }
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
