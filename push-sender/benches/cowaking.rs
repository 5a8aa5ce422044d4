//! What the times of wakes tell: how often somebody who sees when devices are woken names, for a
//! device, another one that shares a group with it.
//!
//! The messages are invented. The interval and the spread are the delivery service's defaults;
//! pace, chance and decoys are the push sender's own code (`src/wakes`). Three attackers look on:
//!
//! * the push sender by handles: for each leaf it names the leaf of another device;
//! * the push sender by devices, from the same requests;
//! * the platform behind it, from the pushes alone; all devices are of one platform.
//!
//! Each counts how often two are woken within a window, and holds that against what two would have
//! in common that have nothing to do with each other (the likelihood ratio of two Poisson rates).
//! Of several windows the best counts, which the attacker cannot know for sure. Somebody who models
//! conversations would do better.
//!
//! `cargo bench --bench cowaking`; the figures are in `docs/push.md`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints"
)]

#[allow(dead_code, reason = "the push sender uses all of it")]
#[path = "../src/keys.rs"]
mod keys;
#[allow(dead_code, reason = "the push sender uses all of it")]
#[path = "../src/wakes/mod.rs"]
mod wakes;

mod config {
    pub(crate) use push_sender::PaceSettings;
}

use protocol::codec::opaque;
use protocol::push::{Address, AppAddress, WakePace};
use rand::rngs::StdRng;
use rand::seq::index::sample;
use rand::{Rng as _, SeedableRng as _};

use config::PaceSettings;
use keys::{DeviceId, Keys, Tag};
use wakes::{Reachable, Wakes};

const DAY_MS: u64 = 86_400_000;
/// People write in these hours of a day.
const WAKING_MS: u64 = 16 * 3_600_000;
const DAYS: [u64; 3] = [1, 7, 30];
const MOST_DAYS: u64 = DAYS[DAYS.len() - 1];
/// `[push]` of the delivery service.
const INTERVAL_MS: u64 = 5_000;
const SPREAD_MS: u64 = 10_000;
const FLUSH_MS: u64 = 1_000;
/// Conversations of groups of these sizes: how many a device is in, and how many a day each has,
/// the middle one of them.
const GROUPS: [(std::ops::RangeInclusive<usize>, f64, f64); 3] =
    [(2..=2, 6.0, 0.5), (3..=8, 2.0, 1.0), (10..=40, 1.0, 2.0)];
/// Messages of a conversation, and the time between two, on the average.
const MESSAGES: f64 = 6.0;
const GAP_MS: f64 = 40_000.0;
/// Those for whom a partner is sought.
const TARGETS: usize = 300;

struct World {
    devices: usize,
    groups: Vec<Vec<u32>>,
    groups_of: Vec<Vec<u32>>,
    /// Of each leaf: its group and device.
    leaves: Vec<(u32, u32)>,
}

/// Seen at some time of some device or leaf.
type Seen = (u64, u32);

fn exponential(mean: f64, rng: &mut StdRng) -> f64 {
    let uniform: f64 = rng.random_range(f64::EPSILON..1.0);
    -uniform.ln() * mean
}

/// One whose logarithm is normal, with this middle.
fn unequal(middle: f64, rng: &mut StdRng) -> f64 {
    let sum: f64 = (0..12).map(|_| rng.random_range(0.0..1.0)).sum();
    middle * (sum - 6.0).exp()
}

impl World {
    fn new(devices: usize, rng: &mut StdRng) -> Self {
        let mut world = Self {
            devices,
            groups: Vec::new(),
            groups_of: vec![Vec::new(); devices],
            leaves: Vec::new(),
        };
        for (sizes, of_each, _) in GROUPS {
            let mut places = (devices as f64 * of_each) as usize;
            while places > 0 {
                let size = rng.random_range(sizes.clone());
                places = places.saturating_sub(size);
                let group = world.groups.len() as u32;
                let members: Vec<u32> = sample(rng, devices, size)
                    .into_iter()
                    .map(|it| it as u32)
                    .collect();
                for &device in &members {
                    world.groups_of[device as usize].push(group);
                }
                world.groups.push(members);
            }
        }
        for (group, members) in world.groups.iter().enumerate() {
            let leaves = members.iter().map(|device| (group as u32, *device));
            world.leaves.extend(leaves);
        }
        world
    }

    /// When the push sender is asked for which leaf.
    fn requests(&self, liveliness: f64, rng: &mut StdRng) -> Vec<Seen> {
        let mut requests = Vec::new();
        let mut first_leaf = 0;
        for members in &self.groups {
            let kind = GROUPS.iter().find(|it| it.0.contains(&members.len()));
            let a_day = unequal(kind.unwrap().2 * liveliness, rng);
            let mut end_ms = 0;
            for at_ms in messages(a_day, rng) {
                if at_ms < end_ms {
                    continue;
                }
                end_ms = at_ms + INTERVAL_MS;
                for leaf in first_leaf..first_leaf + members.len() as u32 {
                    let due_ms = end_ms + rng.random_range(0..=SPREAD_MS);
                    requests.push((due_ms.next_multiple_of(FLUSH_MS), leaf));
                }
            }
            first_leaf += members.len() as u32;
        }
        requests.sort_unstable();
        requests
    }

    fn share_a_group(&self, one: u32, other: u32) -> bool {
        self.groups_of[one as usize]
            .iter()
            .any(|group| self.groups[*group as usize].contains(&other))
    }

    /// How often somebody is right who names any device.
    fn by_chance(&self) -> f64 {
        let others: usize = (0..TARGETS as u32)
            .map(|one| {
                (0..self.devices as u32)
                    .filter(|other| *other != one && self.share_a_group(one, *other))
                    .count()
            })
            .sum();
        others as f64 / (TARGETS * (self.devices - 1)) as f64
    }
}

/// When something is said in a group.
fn messages(a_day: f64, rng: &mut StdRng) -> Vec<u64> {
    let mut messages = Vec::new();
    let mut begins = exponential(1.0 / a_day, rng);
    while begins < MOST_DAYS as f64 {
        let day_ms = begins as u64 * DAY_MS;
        let mut at_ms = day_ms + (begins.fract() * WAKING_MS as f64) as u64;
        messages.push(at_ms);
        while rng.random_range(0.0..1.0) > 1.0 / MESSAGES {
            at_ms += exponential(GAP_MS, rng) as u64;
            messages.push(at_ms);
        }
        begins += exponential(1.0 / a_day, rng);
    }
    messages.sort_unstable();
    messages
}

/// The pushes that come of `requests`, and how many of them are decoys.
fn pushes(
    world: &World,
    requests: &[Seen],
    pace: WakePace,
    decoys: bool,
    rng: &mut StdRng,
) -> (Vec<Seen>, usize) {
    let lane = Keys::new(&[1; 32]).lane(&Address::Apns(AppAddress {
        app: opaque(*b"chat"),
        token: opaque([1; 32]),
    }));
    let mut wakes = Wakes::new(PaceSettings::default(), world.devices, 1);
    let (mut pushes, mut without_news) = (Vec::new(), 0);
    let last = (MOST_DAYS * DAY_MS, None);
    let asked = requests.iter().map(|(at_ms, leaf)| (*at_ms, Some(leaf)));
    for (at_ms, leaf) in asked.chain([last]) {
        while let Some(now_ms) = wakes.next_due_ms().filter(|due_ms| *due_ms <= at_ms) {
            while wakes.ask_decoy(now_ms, rng.random()).is_some() {}
            while let Some(due) = wakes.take_due(now_ms) {
                let (device, _) = due.devices[0].0.split_first_chunk().unwrap();
                pushes.push((now_ms, u32::from_be_bytes(*device)));
                without_news += usize::from(due.is_decoy);
            }
        }
        let Some(leaf) = leaf else { continue };
        let (_, device) = world.leaves[*leaf as usize];
        let mut name = [0; 32];
        name[..4].copy_from_slice(&device.to_be_bytes());
        let mut id = [0; 16];
        id[..4].copy_from_slice(&device.to_be_bytes());
        let reachable = Reachable {
            device: DeviceId(id),
            tag: Tag(name),
            lane,
            pace,
            decoys,
        };
        wakes.heard(reachable, at_ms, rng.random());
        wakes.ask(reachable, at_ms, rng.random());
    }
    (pushes, without_news)
}

/// Of how many targets in a hundred the likeliest partner is a right one.
fn linked(
    seen: &[Seen],
    (targets, all): (&[u32], usize),
    days: u64,
    window_ms: u64,
    may_be: impl Fn(u32, u32) -> bool,
    is_right: impl Fn(u32, u32) -> bool,
) -> f64 {
    let seen = &seen[..seen.partition_point(|(at_ms, _)| *at_ms < days * DAY_MS)];
    let mut row_of = vec![usize::MAX; all];
    for (row, target) in targets.iter().enumerate() {
        row_of[*target as usize] = row;
    }
    let mut together = vec![0_u16; targets.len() * all];
    let mut times = vec![0_u32; all];
    let mut first = 0;
    for &(at_ms, one) in seen {
        times[one as usize] += 1;
        while seen[first].0 + window_ms < at_ms {
            first += 1;
        }
        let row = row_of[one as usize];
        if row == usize::MAX {
            continue;
        }
        let near = seen[first..]
            .iter()
            .take_while(|(other_ms, _)| *other_ms <= at_ms + window_ms);
        for &(_, other) in near {
            let count = &mut together[row * all + other as usize];
            *count = count.saturating_add(1);
        }
    }
    let part = (2 * window_ms) as f64 / (days * WAKING_MS) as f64;
    let right = targets.iter().enumerate().filter(|(row, target)| {
        let counts = &together[row * all..][..all];
        let likeliest = counts
            .iter()
            .enumerate()
            .filter(|(other, count)| **count > 0 && may_be(**target, *other as u32))
            .map(|(other, count)| {
                let pairs = f64::from(times[**target as usize]) * f64::from(times[other]);
                (ratio(f64::from(*count), pairs * part), other)
            })
            .max_by(|one, other| one.0.total_cmp(&other.0));
        likeliest.is_some_and(|(_, other)| is_right(**target, other as u32))
    });
    100.0 * right.count() as f64 / targets.len() as f64
}

/// How much likelier a count is of a rate of its own than of the expected one.
fn ratio(count: f64, expected: f64) -> f64 {
    if count > expected {
        count * (count / expected).ln() - (count - expected)
    } else {
        0.0
    }
}

struct Look<'a> {
    world: &'a World,
    leaves: Vec<u32>,
    devices: Vec<u32>,
}

impl Look<'_> {
    fn by_handles(&self, requests: &[Seen], days: u64, window_ms: u64) -> f64 {
        let of = |leaf: u32| self.world.leaves[leaf as usize];
        let (sought, all) = (&*self.leaves, self.world.leaves.len());
        let is_another = |one, other| of(one).1 != of(other).1;
        let is_right = |one, other| of(one).0 == of(other).0;
        linked(
            requests,
            (sought, all),
            days,
            window_ms,
            is_another,
            is_right,
        )
    }

    fn by_devices(&self, seen: &[Seen], days: u64, window_ms: u64) -> f64 {
        let (sought, all) = (&*self.devices, self.world.devices);
        let is_another = |one, other| one != other;
        let is_right = |one, other| self.world.share_a_group(one, other);
        linked(seen, (sought, all), days, window_ms, is_another, is_right)
    }
}

fn show(who: &str, windows: &[u64], right: impl Fn(u64, u64) -> f64) {
    let best = DAYS.map(|days| {
        let of_windows = windows.iter().map(|window_ms| right(days, *window_ms));
        format!("{:5.1}", of_windows.fold(0.0, f64::max))
    });
    println!("  {who:<42} {}", best.join("  "));
}

fn main() {
    println!("right in a hundred after {DAYS:?} days");
    for (devices, liveliness) in [(1_000, 0.1), (1_000, 1.0), (10_000, 0.1), (10_000, 1.0)] {
        let mut rng = StdRng::seed_from_u64(1);
        let world = World::new(devices, &mut rng);
        let requests = world.requests(liveliness, &mut rng);
        let a_day = |count: usize| count as f64 / (devices as u64 * MOST_DAYS) as f64;
        let look = Look {
            leaves: sample(&mut rng, world.leaves.len(), TARGETS)
                .into_iter()
                .map(|it| it as u32)
                .collect(),
            devices: (0..TARGETS as u32).collect(),
            world: &world,
        };
        println!(
            "{devices} devices, {:.1} wakes a day each; by chance {:.2}",
            a_day(requests.len()),
            100.0 * world.by_chance()
        );
        show(
            "push sender, by handles",
            &[5_000, 11_000],
            |days, window_ms| look.by_handles(&requests, days, window_ms),
        );
        let of_devices: Vec<Seen> = requests
            .iter()
            .map(|(at_ms, leaf)| (*at_ms, world.leaves[*leaf as usize].1))
            .collect();
        show(
            "push sender, by devices",
            &[5_000, 11_000],
            |days, window_ms| look.by_devices(&of_devices, days, window_ms),
        );
        for (pace, name, windows) in [
            (WakePace::Prompt, "prompt", [8_000, 16_000, 60_000]),
            (WakePace::Batched, "batched", [60_000, 300_000, 900_000]),
        ] {
            for decoys in [false, true] {
                let (sent, without_news) = pushes(&world, &requests, pace, decoys, &mut rng);
                let with = if decoys { ", decoys" } else { "" };
                let who = format!(
                    "platform, {name}{with}: {:.1} a day, {:.0} % decoys",
                    a_day(sent.len()),
                    100.0 * without_news as f64 / sent.len() as f64
                );
                show(&who, &windows, |days, window_ms| {
                    look.by_devices(&sent, days, window_ms)
                });
            }
        }
    }
}
