//! The matcher: how likely two things are one user's, by rare bytes that both contain and by what
//! their structure says, as it was learned in runs whose truth is known.

use std::collections::{BTreeSet, HashMap};

use super::fields::Listed;

/// Windows that are compared, bytes, and what one that is shared counts: a longer one is no
/// accident.
const WINDOWS: [(usize, f32); 3] = [(4, 0.05), (8, 1.0), (16, 3.0)];

/// Shared bytes of all pairs of some things.
pub(crate) struct Shared {
    things: usize,
    scores: Vec<f32>,
}

/// Multiplies once for each byte of a window.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hashes of all windows of this length.
fn windows(bytes: &[u8], length: usize, hashes: &mut Vec<u64>) {
    let Some(first) = bytes.get(..length) else {
        return;
    };
    let after =
        |rolling: u64, byte: u8| rolling.wrapping_mul(BASE).wrapping_add(u64::from(byte) + 1);
    let leading = (1..length).fold(1u64, |leading, _| leading.wrapping_mul(BASE));
    let mut rolling = first.iter().fold(0, |rolling, byte| after(rolling, *byte));
    hashes.push(rolling);
    hashes.extend(bytes.iter().zip(&bytes[length..]).map(|(gone, byte)| {
        let gone = (u64::from(*gone) + 1).wrapping_mul(leading);
        rolling = after(rolling.wrapping_sub(gone), *byte);
        rolling
    }));
}

/// Which hashes were there, by a part of them. Small, since it is looked into for every byte.
struct Seen(Vec<u64>);

impl Seen {
    fn none() -> Self {
        Self(vec![0; 1 << 16])
    }

    fn place(hash: u64) -> (usize, u64) {
        (
            usize::try_from(hash >> 48).unwrap(),
            1 << ((hash >> 42) & 63),
        )
    }

    fn has(&self, hash: u64) -> bool {
        let (at, bit) = Self::place(hash);
        self.0[at] & bit != 0
    }

    fn add(&mut self, hash: u64) {
        let (at, bit) = Self::place(hash);
        self.0[at] |= bit;
    }
}

/// Hashes by thing without those that are in one thing only, which most are. A few of those stay.
fn of_several(hashes: &[u64], ends: &[usize]) -> Vec<(usize, u64)> {
    let of_things = || {
        let begins = [0].into_iter().chain(ends.iter().copied());
        begins
            .zip(ends)
            .map(|(begin, end)| &hashes[begin..*end])
            .enumerate()
    };
    let (mut once, mut several) = (Seen::none(), Seen::none());
    for (_, of_thing) in of_things() {
        for hash in of_thing.iter().filter(|hash| once.has(**hash)) {
            several.add(*hash);
        }
        for hash in of_thing {
            once.add(*hash);
        }
    }
    let mut found = Vec::new();
    for (thing, of_thing) in of_things() {
        let of_thing = of_thing.iter().filter(|hash| several.has(**hash));
        found.extend(of_thing.map(|hash| (thing, *hash)));
    }
    found
}

impl Shared {
    /// Compares things by their bytes. What stands in more than half of them is everybody's.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn of(things: &[&[Vec<u8>]]) -> Self {
        let count = things.len();
        let mut scores = vec![0.0f32; count * count];
        let most = (count / 2).max(2);
        for (length, worth) in WINDOWS {
            let (mut hashes, mut ends) = (Vec::new(), Vec::new());
            for bytes in things {
                for bytes in *bytes {
                    windows(bytes, length, &mut hashes);
                }
                ends.push(hashes.len());
            }
            // The upper bits of the hash; the thing below them.
            let mut found: Vec<u64> = of_several(&hashes, &ends)
                .into_iter()
                .map(|(thing, hash)| (hash & !0x3ff) | u64::try_from(thing).unwrap())
                .collect();
            found.sort_unstable();
            found.dedup();
            for alike in found.chunk_by(|one, other| one >> 10 == other >> 10) {
                if alike.len() < 2 || alike.len() > most {
                    continue;
                }
                let rare = worth * (count as f32 / alike.len() as f32).ln();
                for one in alike {
                    for other in alike {
                        let at = |it: &u64| usize::try_from(it & 0x3ff).unwrap();
                        scores[at(one) * count + at(other)] += rare;
                    }
                }
            }
        }
        Self {
            things: count,
            scores,
        }
    }

    /// What two of them share.
    pub(crate) fn score(&self, one: usize, other: usize) -> f32 {
        self.scores[one * self.things + other]
    }
}

/// How fields of pairs agree: counts for pairs of one user and for others.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// By place: whether a value there is the same in both.
    places: HashMap<u32, [[f32; 2]; 2]>,
    /// By places of two lengths, and their difference: a length that follows from another one.
    differences: HashMap<(u32, u32, i64), [f32; 2]>,
    /// Pairs in which both lengths were there.
    lengths: HashMap<(u32, u32), [f32; 2]>,
}

/// Places of two things, with whether a value there is the same in both.
fn agreements(one: &Listed, other: &Listed, mut found: impl FnMut(u32, bool)) {
    let (mut one, mut other) = (one.values.as_slice(), other.values.as_slice());
    while let (Some((place, _)), Some((at, _))) = (one.first(), other.first()) {
        let of = |values: &[(u32, u32)], place: u32| {
            values.iter().take_while(|it| it.0 == place).count()
        };
        if place < at {
            one = &one[of(one, *place)..];
        } else if at < place {
            other = &other[of(other, *at)..];
        } else {
            let (values, rest) = one.split_at(of(one, *place));
            let (against, other_rest) = other.split_at(of(other, *at));
            let agrees = values.iter().any(|it| against.binary_search(it).is_ok());
            found(*place, agrees);
            (one, other) = (rest, other_rest);
        }
    }
}

/// Differences of lengths that are not the same for all candidates.
fn differences(
    one: &Listed,
    other: &Listed,
    varying: &BTreeSet<u32>,
    mut found: impl FnMut(u32, u32, i64),
) {
    for (at, length) in other.lengths.iter().filter(|it| varying.contains(&it.0)) {
        for (place, own) in &one.lengths {
            found(*place, *at, i64::from(*length) - i64::from(*own));
        }
    }
}

/// Places of lengths that tell candidates apart.
pub(crate) fn varying(candidates: &[&Listed]) -> BTreeSet<u32> {
    let mut seen: HashMap<u32, u32> = HashMap::new();
    let mut varying = BTreeSet::new();
    for (place, length) in candidates.iter().flat_map(|it| &it.lengths) {
        if seen.insert(*place, *length).is_some_and(|it| it != *length) {
            varying.insert(*place);
        }
    }
    varying
}

/// A rate that nothing is concluded from while few pairs were seen.
fn rate(happened: f32, of: f32) -> f32 {
    (happened + 4.0) / (of + 8.0)
}

impl Learned {
    /// Takes in a pair whose truth is known, of several candidates whose lengths differ there.
    pub(crate) fn learn(
        &mut self,
        one: &Listed,
        other: &Listed,
        varying: &BTreeSet<u32>,
        is_same: bool,
    ) {
        let truth = usize::from(is_same);
        agreements(one, other, |place, agrees| {
            self.places.entry(place).or_default()[truth][usize::from(agrees)] += 1.0;
        });
        differences(one, other, varying, |place, at, difference| {
            let seen = self.differences.entry((place, at, difference)).or_default();
            seen[truth] += 1.0;
            self.lengths.entry((place, at)).or_default()[truth] += 1.0;
        });
    }

    /// Forgets differences that may be accidents.
    pub(crate) fn conclude(&mut self) {
        let lengths = &self.lengths;
        self.differences.retain(|(place, at, _), seen| {
            let of = lengths[&(*place, *at)];
            let (same, others) = (seen[1] / of[1].max(1.0), seen[0] / of[0].max(1.0));
            let deviation = (others.max(0.02) * (1.0 - others).max(0.02) / of[1].max(1.0)).sqrt();
            of[1] >= 16.0 && of[0] >= 16.0 && same - others > 6.0 * deviation
        });
    }

    /// The logarithm of how much likelier a pair is one user's than not.
    pub(crate) fn score(&self, one: &Listed, other: &Listed, varying: &BTreeSet<u32>) -> f32 {
        let mut score = 0.0;
        agreements(one, other, |place, agrees| {
            let Some(counts) = self.places.get(&place) else {
                return;
            };
            let rate = |of: [f32; 2]| rate(of[usize::from(agrees)], of[0] + of[1]);
            score += (rate(counts[1]) / rate(counts[0])).ln();
        });
        if self.differences.is_empty() {
            return score;
        }
        differences(one, other, varying, |place, at, difference| {
            let Some(seen) = self.differences.get(&(place, at, difference)) else {
                return;
            };
            let of = self.lengths[&(place, at)];
            score += (rate(seen[1], of[1]) / rate(seen[0], of[0])).ln();
        });
        score
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::game::fields::Fields;
    use crate::game::play::Dice;

    fn shared(things: &[Vec<Vec<u8>>]) -> Shared {
        Shared::of(&things.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    #[test]
    fn rare_bytes_that_two_things_share_are_found_wherever_they_stand() {
        let mut dice = Dice::new(1);
        let mut things: Vec<Vec<Vec<u8>>> = (0..30)
            .map(|_| vec![dice.bytes(2_000), dice.bytes(500)])
            .collect();
        let planted = dice.bytes(16);
        things[4][0].splice(700..716, planted.clone());
        things[9][1].splice(3..19, planted);
        let shared = shared(&things);
        for other in (0..30).filter(|it| ![4, 9].contains(it)) {
            assert!(shared.score(4, 9) > 5.0 * shared.score(4, other));
        }
    }

    #[test]
    fn what_most_things_contain_tells_none_from_another() {
        let mut dice = Dice::new(2);
        let usual = dice.bytes(300);
        let things: Vec<Vec<Vec<u8>>> = (0..30)
            .map(|_| vec![usual.clone(), dice.bytes(100)])
            .collect();
        let shared = shared(&things);
        assert!((1..30).all(|other| shared.score(0, other) < 1.0));
    }

    fn listed(of: &[(&str, usize)]) -> Listed {
        let mut fields = Fields::default();
        for (place, length) in of {
            fields.length(place, *length);
        }
        fields.listed()
    }

    #[test]
    fn a_field_counts_as_much_as_it_has_told_users_apart_before() {
        let mut learned = Learned::default();
        let mut dice = Dice::new(3);
        let none = BTreeSet::new();
        for _ in 0..200 {
            let own = dice.below(5);
            let one = listed(&[("own", own), ("random", dice.below(5))]);
            let same = listed(&[("own", own), ("random", dice.below(5))]);
            let other = listed(&[("own", dice.below(5)), ("random", dice.below(5))]);
            learned.learn(&one, &same, &none, true);
            learned.learn(&one, &other, &none, false);
        }
        learned.conclude();
        let one = listed(&[("own", 1), ("random", 1)]);
        let same = learned.score(&one, &listed(&[("own", 1), ("random", 2)]), &none);
        let other = learned.score(&one, &listed(&[("own", 2), ("random", 1)]), &none);
        assert!(same > 1.0 && other < -1.0, "{same} {other}");
        // Of a place that it has not seen it thinks nothing.
        let unseen = listed(&[("unseen", 1)]);
        assert!(learned.score(&unseen, &unseen, &none).abs() < f32::EPSILON);
    }

    #[test]
    fn a_length_that_follows_from_another_one_is_found_and_one_that_does_not_is_not() {
        let mut dice = Dice::new(4);
        let pair = |dice: &mut Dice| {
            let name = 1 + dice.below(40);
            let handle = listed(&[("name", name)]);
            let member = listed(&[("link", 100 + name), ("text", dice.below(40))]);
            (handle, member)
        };
        let mut learned = Learned::default();
        for _ in 0..100 {
            let (handle, member) = pair(&mut dice);
            let (_, other) = pair(&mut dice);
            let varying = varying(&[&member, &other]);
            learned.learn(&handle, &member, &varying, true);
            learned.learn(&handle, &other, &varying, false);
        }
        learned.conclude();
        let right = (0..100)
            .filter(|_| {
                let (handle, member) = pair(&mut dice);
                let (_, other) = pair(&mut dice);
                let varying = varying(&[&member, &other]);
                let score = |it| learned.score(&handle, it, &varying);
                score(&member) > score(&other)
            })
            .count();
        assert!(right > 90, "{right}");
        assert!(
            learned
                .differences
                .keys()
                .all(|(_, _, difference)| *difference == 100)
        );
    }
}
