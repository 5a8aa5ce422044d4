//! What the service computes of two segments from their reads.

use std::ops::Range;

use crate::readers::{Behind, Seen, Way};
use crate::world::{Segment, World};
use crate::{
    BEFORE, BIN, CELL, CORRELATIONS, DAY, Features, GRANULES, KINDS, Kind, SPANS, TIMES, UNKNOWN,
};

/// A read that shows that its reader was away: its last visit was between `from` and `to`.
pub(crate) struct Absence {
    pub(crate) at: u32,
    pub(crate) segment: usize,
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// How likely a last visit between the two is, of all who return now.
    pub(crate) chance: f64,
}

/// For each hour of the day in which readers return, how long they were away.
pub(crate) struct Habits(pub(crate) Vec<Vec<f64>>);

impl Habits {
    const STEP: u32 = 300;

    pub(crate) fn of(world: &World) -> Self {
        let mut hours = vec![vec![1e-6; 1_200]; 24];
        for pair in world.clients.iter().flat_map(|it| it.sessions.windows(2)) {
            let (left, returned) = (pair[0].1, pair[1].0);
            let step = ((returned - left) / Self::STEP).min(1_198) as usize;
            hours[(returned % DAY / 3_600) as usize][step + 1] += 1.0;
        }
        for hour in &mut hours {
            let all: f64 = hour.iter().sum();
            let mut sum = 0.0;
            for step in hour {
                sum += *step / all;
                *step = sum;
            }
        }
        Self(hours)
    }

    /// How likely who returns at a time was there last between two others.
    pub(crate) fn chance(&self, at: u32, from: u32, to: u32) -> f64 {
        let hour = &self.0[(at % DAY / 3_600) as usize];
        let below = |since: u32| {
            let steps = f64::from(at.saturating_sub(since)) / f64::from(Self::STEP);
            let whole = (steps as usize).min(hour.len() - 2);
            hour[whole] + (hour[whole + 1] - hour[whole]) * (steps - whole as f64).min(1.0)
        };
        (below(from) - below(to)).max(0.0) + 1e-4
    }
}

pub(crate) struct Attack<'a> {
    pub(crate) world: &'a World,
    pub(crate) way: &'a Way,
    pub(crate) seen: &'a Seen,
    pub(crate) habits: Habits,
    /// Of each bin, over all segments.
    pub(crate) mean: Vec<f32>,
    pub(crate) weight: Vec<f32>,
    /// Of each cell, over all segments.
    pub(crate) reads: Vec<f32>,
    pub(crate) norms: Vec<[f32; SPANS.len()]>,
    /// For each granule.
    pub(crate) absences: Vec<Vec<Absence>>,
    /// For each granule and segment.
    pub(crate) shown: Vec<Vec<u32>>,
}

/// Sums over the days of each span, from values for each bin.
pub(crate) fn over_spans(bins: usize, sum: impl Fn(Range<usize>) -> f32) -> [f32; SPANS.len()] {
    let (mut total, mut from) = (0.0, 0);
    SPANS.map(|days| {
        let to = bins.min((days * DAY / BIN) as usize);
        total += sum(from..to);
        from = to;
        total
    })
}

pub(crate) fn dot(one: &[f32], other: &[u8]) -> f32 {
    let mut sums = [0.0f32; 16];
    for (one, other) in one.chunks_exact(16).zip(other.chunks_exact(16)) {
        for lane in 0..16 {
            sums[lane] += one[lane] * f32::from(other[lane]);
        }
    }
    sums.iter().sum()
}

/// The mean of the `around` values before and after each.
pub(crate) fn smooth(values: &[f32], around: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64];
    for value in values {
        sums.push(sums[sums.len() - 1] + f64::from(*value));
    }
    (0..values.len())
        .map(|it| {
            let (from, to) = (
                it.saturating_sub(around),
                (it + around + 1).min(values.len()),
            );
            ((sums[to] - sums[from]) / (to - from) as f64) as f32
        })
        .collect()
}

impl<'a> Attack<'a> {
    pub(crate) fn new(world: &'a World, way: &'a Way, seen: &'a mut Seen) -> Self {
        for count in seen.counts.iter_mut().chain(&mut seen.prompt).flatten() {
            *count = (16.0 * (1.0 + f32::from(*count)).ln()) as u8;
        }
        for (segment, prompt) in world.segments.iter().zip(&mut seen.prompt) {
            *prompt = online(segment, prompt);
        }
        let seen = &*seen;
        let bins = seen.counts[0].len();
        let pairs = world.of_kind(KINDS[0]);
        let (mut mean, mut square) = (vec![0.0f32; bins], vec![0.0f32; bins]);
        for id in &pairs {
            for (bin, count) in seen.counts[*id].iter().enumerate() {
                mean[bin] += f32::from(*count) / pairs.len() as f32;
                square[bin] += f32::from(*count).powi(2) / pairs.len() as f32;
            }
        }
        let variance: Vec<f32> = (0..bins).map(|it| square[it] - mean[it].powi(2)).collect();
        let usual = variance.iter().sum::<f32>() / bins as f32;
        let weight: Vec<f32> = variance.iter().map(|it| 1.0 / (it + 0.1 * usual)).collect();
        let norms = seen.counts.iter().map(|counts| {
            let off = |bin: usize| (f32::from(counts[bin]) - mean[bin]).powi(2) * weight[bin];
            over_spans(bins, |range| range.map(off).sum()).map(|it| it.sqrt().max(1.0))
        });
        let norms = norms.collect();
        let mut reads = vec![0.0; bins * (BIN / CELL) as usize];
        for at in seen.reads.iter().flatten() {
            reads[(at / CELL) as usize] += 1.0;
        }
        let habits = Habits::of(world);
        let absences = GRANULES.map(|granule| absences(world, way, seen, &habits, granule));
        let shown = absences.iter().map(|absences| {
            let mut shown = vec![0; world.segments.len()];
            absences.iter().for_each(|it| shown[it.segment] += 1);
            shown
        });
        let shown = shown.collect();
        Self {
            world,
            way,
            seen,
            habits,
            mean,
            weight,
            reads,
            norms,
            absences: absences.into(),
            shown,
        }
    }

    /// What the service computes of a target and each other segment.
    pub(crate) fn features(&self, target: usize) -> Vec<Features> {
        let mut features = vec![Features::default(); self.world.segments.len()];
        self.times(target, &mut features);
        for granule in 0..GRANULES.len() {
            self.positions(target, granule, &mut features);
        }
        for kind in KINDS {
            self.standardise(kind, &mut features);
        }
        features
    }

    /// So that correlations with segments of one kind have a mean of 0 and a variance of 1: some
    /// targets are like many others. The other features are compared as they are.
    fn standardise(&self, kind: Kind, features: &mut [Features]) {
        let others = self.world.of_kind(kind);
        let all = others.len() as f64;
        for it in 0..SPANS.len() * CORRELATIONS {
            let (span, feature) = (it / CORRELATIONS, it % CORRELATIONS);
            let of = |id: &usize| f64::from(features[*id][span][feature]);
            let mean = others.iter().map(of).sum::<f64>() / all;
            let variance = others.iter().map(|it| (of(it) - mean).powi(2)).sum::<f64>() / all;
            let scale = 1.0 / variance.sqrt().max(1e-6);
            for id in &others {
                let value = &mut features[*id][span][feature];
                *value = ((f64::from(*value) - mean) * scale) as f32;
            }
        }
    }

    fn times(&self, target: usize, features: &mut [Features]) {
        let counts = &self.seen.counts[target];
        let bins = counts.len();
        let off = |bin: usize| (f32::from(counts[bin]) - self.mean[bin]) * self.weight[bin];
        let sharp: Vec<f32> = (0..bins).map(off).collect();
        let level = |it: &u8| f32::from(*it) - f32::from(UNKNOWN);
        let online: Vec<f32> = self.seen.prompt[target].iter().map(level).collect();
        let usual = vec![f32::from(UNKNOWN); bins];
        let (counts, prompt) = (&self.seen.counts, &self.seen.prompt);
        self.correlate(0, (&smooth(&sharp, 3), counts, &self.mean), features);
        self.correlate(1, (&sharp, counts, &self.mean), features);
        self.correlate(2, (&online, prompt, &usual), features);
        for (other, features) in features.iter_mut().enumerate() {
            for (span, of_span) in features.iter_mut().enumerate() {
                let norm = self.norms[target][span] * self.norms[other][span];
                of_span[0] /= norm;
                of_span[1] /= norm;
            }
        }
        for (kind, around) in [(3, self.way.burst), (4, self.way.catch_up)] {
            let near = self.near(target, (around / CELL) as usize);
            for (reads, features) in self.seen.reads.iter().zip(features.iter_mut()) {
                let mut bursts = [(0.0f32, 10.0f32); SPANS.len()];
                for at in reads {
                    for span in (0..SPANS.len()).filter(|it| *at < SPANS[*it] * DAY) {
                        bursts[span].0 += near[(at / CELL) as usize];
                        bursts[span].1 += 1.0;
                    }
                }
                for span in 0..SPANS.len() {
                    features[span][kind] = bursts[span].0 / bursts[span].1.sqrt();
                }
            }
        }
    }

    /// Sums over the bins of each span: what a filter says of the counts, less what
    /// it says of usual ones.
    fn correlate(
        &self,
        feature: usize,
        (filter, counts, usual): (&[f32], &[Vec<u8>], &[f32]),
        features: &mut [Features],
    ) {
        let bins = filter.len();
        let of_usual = |range: Range<usize>| range.map(|it| filter[it] * usual[it]).sum();
        let expected = over_spans(bins, of_usual);
        for (counts, features) in counts.iter().zip(features) {
            let sums = over_spans(bins, |range| dot(&filter[range.clone()], &counts[range]));
            for (span, of_span) in features.iter_mut().enumerate() {
                of_span[feature] = sums[span] - expected[span];
            }
        }
    }

    /// For each cell, what a read says by being so close to one of the target.
    fn near(&self, target: usize, cells: usize) -> Vec<f32> {
        let mut near = vec![0.0f32; self.reads.len()];
        for at in &self.seen.reads[target] {
            let cell = (at / CELL) as usize;
            let to = near.len().min(cell + cells + 1);
            near[cell.saturating_sub(cells)..to].fill(1.0);
        }
        let usual = smooth(&near, (1_800 / CELL) as usize + 10 * cells);
        let reads = smooth(&self.reads, cells);
        let all = self.world.segments.len() as f32;
        for (cell, near) in near.iter_mut().enumerate() {
            let by_chance = (1.0 + reads[cell] * (2 * cells + 1) as f32) / all;
            *near = (*near - usual[cell]) * (1.0 + 1.0 / by_chance).ln();
        }
        near
    }

    fn positions(&self, target: usize, granule: usize, features: &mut [Features]) {
        let (absences, shown) = (&self.absences[granule], &self.shown[granule]);
        let slack = self.way.slack;
        let mut best = vec![0.0f32; features.len()];
        let mut matched = Vec::new();
        for own in absences.iter().filter(|it| it.segment == target) {
            let first = absences.partition_point(|it| it.at + self.way.catch_up < own.at);
            let last = absences.partition_point(|it| it.at <= own.at + self.way.catch_up);
            let in_time = (last - first) as f64 / absences.len() as f64;
            for other in &absences[first..last] {
                let (from, to) = (own.from.max(other.from), own.to.min(other.to));
                if other.segment == target || from > to + slack {
                    continue;
                }
                let (from, to) = (from.saturating_sub(slack), to + slack);
                let both = self.habits.chance(own.at, from, to);
                let by_chance = in_time * f64::from(shown[other.segment]);
                let likely = (both / (own.chance * other.chance) / by_chance).ln() as f32;
                if likely > best[other.segment] {
                    if best[other.segment] == 0.0 {
                        matched.push(other.segment);
                    }
                    best[other.segment] = likely;
                }
            }
            for other in matched.drain(..) {
                for span in 0..SPANS.len() {
                    if own.at < BEFORE + SPANS[span] * DAY {
                        features[other][span][TIMES + 2 * granule] += best[other];
                    }
                }
                best[other] = 0.0;
            }
        }
        for (other, features) in features.iter_mut().enumerate() {
            let norm = (f64::from(shown[target] + 1) * f64::from(shown[other] + 1)).sqrt() as f32;
            for of_span in features {
                of_span[TIMES + 2 * granule + 1] = of_span[TIMES + 2 * granule] / norm;
            }
        }
    }
}

/// For each bin, how many readers are online, as an entry at most half an hour before or after
/// shows: `UNKNOWN` and more or less when it is more or less than usual.
pub(crate) fn online(segment: &Segment, prompt: &[u8]) -> Vec<u8> {
    let mut shown: Vec<usize> = segment
        .accepted
        .iter()
        .filter_map(|it| Some((it.checked_sub(BEFORE)? / BIN) as usize))
        .collect();
    shown.dedup();
    let usual = shown.iter().map(|it| f32::from(prompt[*it])).sum::<f32>() / shown.len() as f32;
    let mut online = vec![UNKNOWN; prompt.len()];
    for distance in (0..=3).rev() {
        for bin in &shown {
            let level = UNKNOWN.saturating_add_signed((f32::from(prompt[*bin]) - usual) as i8);
            for near in [bin.saturating_sub(distance), bin + distance] {
                if let Some(near) = online.get_mut(near) {
                    *near = level;
                }
            }
        }
    }
    online
}

pub(crate) fn absences(
    world: &World,
    way: &Way,
    seen: &Seen,
    habits: &Habits,
    granule: u64,
) -> Vec<Absence> {
    let absence = |it: &Behind| {
        let segment = &world.segments[it.segment];
        let position = segment.base + it.next as u64;
        let asked = position - position % granule;
        let accepted = |position: u64| {
            let index = usize::try_from(position.checked_sub(segment.base)?).ok()?;
            segment.accepted.get(index).copied()
        };
        let to = accepted(asked + granule - 1).filter(|to| to + way.absence() < it.at)?;
        let from = asked.checked_sub(1).and_then(accepted).unwrap_or(0);
        let slack = way.slack;
        Some(Absence {
            at: it.at,
            segment: it.segment,
            from,
            to,
            chance: habits.chance(it.at, from.saturating_sub(slack), to + slack),
        })
    };
    seen.behind.iter().filter_map(absence).collect()
}
