//! What reads tell the service about who is in which groups: a simulation of readers, and the best
//! attack that we know.
//!
//! `cargo bench --workspace --bench positions -- [CLIENTS [DAYS [TARGETS [SEED]]]]`. Without
//! arguments it takes 1,000 clients, 7 days and 30 targets: two minutes. `ONLY=live` takes the ways
//! of reading whose names contain that. Nothing of the workspace is used.
//!
//! **Readers.** Each has 28 chats of two, about 9 groups of 5 to 50 and 3 of 100 to 300. Some
//! chats say much and most say little. Readers sleep at night, are away for hours a few times a
//! day, and sometimes for a day. They read in one of several ways (`WAYS`).
//!
//! **The service** sees for each segment when it is read, and from which multiple of `G`. It knows
//! when each entry was accepted. For a chat of two it judges of each other segment whether one
//! client reads both:
//! * *times*: reads of both that come close together, or that stop and go on at the same times,
//!   each weighed by how few others do so then. Reads right after an entry are taken apart from
//!   the others: they come when somebody wrote, and how many they are says who is online;
//! * *positions*: a reader who begins far behind the end shows when it was there last. Two such
//!   reads at about one time whose last visits can be the same are a match, weighed by how likely
//!   one is by chance: by the habits of all readers, which the service is given, and by how often
//!   the other segment shows such reads.
//!
//! Slots page as if `G` were 4, whatever the column says.
//!
//! A logistic regression puts these together. It is fitted to targets whose members the service
//! is given, and judged by others. *found* is the share of true pairs that it names such that nine
//! of ten named pairs are true; *first* is how often the segment that it holds most likely is one.
#![allow(clippy::print_stdout, reason = "a benchmark")]

mod attack;
mod judge;
mod readers;
mod world;

use std::panic::resume_unwind;
use std::{env, thread};

use attack::Attack;
use judge::{Judged, Regression, chosen};
use readers::{WAYS, Way, simulate};
use world::{Rng, World};

pub(crate) const DAY: u32 = 86_400;
/// Read, but not seen by the service: so that all readers have a last visit.
pub(crate) const BEFORE: u32 = 2 * DAY;
/// Seconds in which reads are counted together.
pub(crate) const BIN: u32 = 600;
/// Seconds of a cell, for reads in quick succession.
pub(crate) const CELL: u32 = 4;
pub(crate) const GRANULES: [u64; 5] = [32, 16, 8, 4, 1];
pub(crate) const SPANS: [u32; 3] = [1, 7, 30];
/// See [`online`].
pub(crate) const UNKNOWN: u8 = 128;
/// Entries and bytes of an answer.
pub(crate) const ANSWER: (u64, u64) = (6, 8);
/// Of times: counts over an hour, counts, who is online when an entry comes.
pub(crate) const CORRELATIONS: usize = 3;
/// And reads in quick succession, and within the time of a return.
pub(crate) const TIMES: usize = CORRELATIONS + 2;
pub(crate) const COLUMNS: usize = 1 + GRANULES.len();
pub(crate) const FEATURES: usize = TIMES + 2 * GRANULES.len();
/// Of the pairs of targets that the service is given, it learns from so many that are not true.
pub(crate) const LEARNT: f64 = 0.05;

/// Of segments, by the number of their members.
pub(crate) type Kind = (&'static str, usize, usize);
pub(crate) const KINDS: [Kind; 2] = [("chats of two", 2, 2), ("groups of 3 to 50", 3, 50)];

pub(crate) type Features = [[f32; FEATURES]; SPANS.len()];

/// Does something for each target, on two threads.
fn for_each_target<T: Send>(targets: &[usize], work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let halves = targets.chunks(targets.len().div_ceil(2).max(1));
        let halves = halves.map(|half| scope.spawn(|| half.iter().map(|it| work(*it)).collect()));
        let halves: Vec<thread::ScopedJoinHandle<'_, Vec<T>>> = halves.collect();
        halves
            .into_iter()
            .flat_map(|it| it.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

fn attack(world: &World, way: &Way, rng: &mut Rng, targets: usize) {
    let mut seen = simulate(world, way, rng);
    let days = (world.end - BEFORE) / DAY;
    let a_day = seen.all / u64::from(days) / world.clients.len() as u64;
    println!("\n{}: {a_day} reads a client and day", way.name);
    let attack = Attack::new(world, way, &mut seen);
    let mut of_two = world.of_kind(KINDS[0]);
    rng.shuffle(&mut of_two);
    let (learnt, judged) = of_two[..2 * targets].split_at(targets);
    let seed = rng.next();
    let others = KINDS.map(|kind| world.of_kind(kind));
    let rows = for_each_target(learnt, |target| {
        let features = attack.features(target);
        let mut rng = Rng(seed ^ target as u64);
        others.each_ref().map(|others| {
            let mut rows = Vec::new();
            for other in others.iter().filter(|it| **it != target) {
                let is_true = world.share_a_reader(target, *other);
                if is_true || rng.unit() < LEARNT {
                    rows.push((features[*other], is_true));
                }
            }
            rows
        })
    });
    let models: [Vec<Regression>; KINDS.len()] = std::array::from_fn(|kind| {
        let model = |it: usize| {
            let rows = rows.iter().flat_map(|of_target| &of_target[kind]);
            let rows = rows.map(|(features, is_true)| (chosen(features, it), *is_true));
            Regression::fitted(&rows.collect::<Vec<_>>())
        };
        (0..SPANS.len() * COLUMNS).map(model).collect()
    });
    let judged = for_each_target(judged, |target| {
        let features = attack.features(target);
        std::array::from_fn::<_, { KINDS.len() }, _>(|kind| {
            let judge = |(model, regression): (usize, &Regression)| {
                let others = others[kind].iter().filter(|it| **it != target);
                let scores = others.map(|other| {
                    let score = regression.score(&chosen(&features[*other], model));
                    (score, world.share_a_reader(target, *other))
                });
                Judged::of(scores.collect())
            };
            models[kind]
                .iter()
                .enumerate()
                .map(judge)
                .collect::<Vec<_>>()
        })
    });
    let mut totals = KINDS.map(|_| Vec::new());
    for of_target in judged {
        for (totals, judged) in totals.iter_mut().zip(of_target) {
            totals.resize_with(judged.len(), Judged::default);
            for (total, judged) in totals.iter_mut().zip(judged) {
                total.add(judged);
            }
        }
    }
    for ((kind, _, _), totals) in KINDS.iter().zip(totals) {
        print_table(kind, days, totals);
    }
}

fn print_table(kind: &str, days: u32, totals: Vec<Judged>) {
    let chance = totals
        .first()
        .map_or(0, |it| it.true_pairs / it.targets.max(1));
    println!("  with {kind} ({chance} are true): found % / first %");
    let granules: String = GRANULES
        .iter()
        .map(|it| format!("{:>14}", format!("G={it}")))
        .collect();
    println!("  {:>8}{:>14}{granules}", "days", "times only");
    let mut totals = totals.into_iter().map(Judged::found);
    for span in SPANS {
        let row: Vec<(f64, f64)> = totals.by_ref().take(COLUMNS).collect();
        if span <= days {
            let row = row.iter().map(|it| format!("{:>7.1} /{:>5.1}", it.0, it.1));
            println!("  {span:>8}{}", row.collect::<String>());
        }
    }
}

/// What a read costs, with the position anywhere in its granule.
fn print_costs() {
    println!(
        "Answers of {} entries and {} KiB: mean requests, most, mean KiB",
        ANSWER.0, ANSWER.1
    );
    for granule in GRANULES {
        let costs = [0, 1, 3, 10].map(|new| {
            let requests = |phase: u64| (phase + new).div_ceil(ANSWER.0).max(1);
            let mean = (0..granule).map(requests).sum::<u64>() as f64 / granule as f64;
            let most = (0..granule).map(requests).max().unwrap_or(0);
            format!(
                "{new:>4} new: {mean:.2} {most} {:>4.1};",
                mean * ANSWER.1 as f64
            )
        });
        println!("  G={granule:<3}{}", costs.concat());
    }
}

fn main() {
    let mut arguments = env::args().skip(1).filter_map(|it| it.parse().ok());
    let mut argument = |default: u64| arguments.next().unwrap_or(default);
    let (clients, days, targets) = (argument(1_000), argument(7), argument(30));
    let mut rng = Rng(argument(1));
    print_costs();
    let world = World::new(clients as usize, days as u32, &mut rng);
    let memberships: usize = world.clients.iter().map(|it| it.segments.len()).sum();
    println!(
        "{clients} clients, {} segments, {} groups each, {} entries a day, {:.1} returns a day",
        world.segments.len(),
        memberships / clients as usize,
        world
            .segments
            .iter()
            .map(|it| it.accepted.len())
            .sum::<usize>() as u32
            / (world.end / DAY),
        world
            .clients
            .iter()
            .map(|it| it.sessions.len())
            .sum::<usize>() as f64
            / f64::from(world.end / DAY)
            / clients as f64,
    );
    let only = env::var("ONLY").unwrap_or_default();
    for way in WAYS.iter().filter(|it| it.name.contains(&only)) {
        attack(&world, way, &mut rng, targets as usize);
    }
}
