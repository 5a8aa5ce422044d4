//! The activity feed: for each tick of the clock a file that says in which segments something was
//! accepted, the same to everybody. It names a segment by a tag that its readers alone can make.
//!
//! The tags of a tick are a coded set: each is mapped to a number below `count * 2^21`, and the
//! numbers go sorted, as the Golomb–Rice codes of their differences. That takes 22.6 bits a tag;
//! no code of sets with so few false positives could do with less than 22.4.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::codec::DecodeError;
use crate::ids::{Day, Digest, TickNumber};
use crate::padding::padme;
use crate::time::DAY_MS;

/// Media type of a tick.
pub const TICK_MEDIA_TYPE: &str = "application/mimi-ds-tick";
/// Where the service shows the feed: `latest`, and `SECONDS/NUMBER` of each tick.
pub const FEED_PATH: &str = "/v1/feed";

/// How long a tick is. Each is a whole number of the one before, and a day is one of all: no tick
/// has two days, and so none has tags of two keys of a segment.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
#[repr(u8)]
pub enum Resolution {
    /// The one that ticks are made in.
    Seconds2 = 1,
    /// Ten of them.
    Seconds20 = 2,
    /// Six of those.
    Minutes2 = 3,
    /// Ten of those.
    Minutes20 = 4,
    /// Six of those.
    Hours2 = 5,
    /// Twelve of those.
    Day = 6,
}

impl Resolution {
    /// All, from the finest on.
    pub const ALL: [Self; 6] = [
        Self::Seconds2,
        Self::Seconds20,
        Self::Minutes2,
        Self::Minutes20,
        Self::Hours2,
        Self::Day,
    ];

    /// How long a tick is, seconds.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Seconds2 => 2,
            Self::Seconds20 => 20,
            Self::Minutes2 => 120,
            Self::Minutes20 => 1_200,
            Self::Hours2 => 7_200,
            Self::Day => 86_400,
        }
    }

    /// The same in milliseconds.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.seconds() * 1_000
    }

    /// The one with ticks of this length.
    #[must_use]
    pub fn of_seconds(seconds: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.seconds() == seconds)
    }

    /// The next coarser one.
    #[must_use]
    pub fn coarser(self) -> Option<Self> {
        Self::ALL.into_iter().find(|it| *it > self)
    }

    /// Days after its own that a tick is shown.
    #[must_use]
    pub const fn kept_days(self) -> u32 {
        match self {
            Self::Seconds2 | Self::Seconds20 => 1,
            Self::Minutes2 | Self::Minutes20 => 7,
            Self::Hours2 | Self::Day => 35,
        }
    }

    /// The tick that a time is in.
    #[must_use]
    pub const fn tick_at(self, unix_ms: u64) -> TickNumber {
        TickNumber(unix_ms / self.ms())
    }

    /// When a tick begins, milliseconds since the Unix epoch.
    #[must_use]
    pub const fn begins_ms(self, number: TickNumber) -> u64 {
        number.0.saturating_mul(self.ms())
    }

    /// When it ends.
    #[must_use]
    pub const fn ends_ms(self, number: TickNumber) -> u64 {
        self.begins_ms(number).saturating_add(self.ms())
    }

    /// The day of a tick.
    #[must_use]
    pub fn day_of(self, number: TickNumber) -> Day {
        Day(u32::try_from(self.begins_ms(number) / DAY_MS).unwrap_or(u32::MAX))
    }
}

/// Names a segment in one tick: 64 bits that nobody can tell from random ones without the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// A file of the feed. Its length follows from the number of its tags.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Tick {
    /// [`crate::WIRE_VERSION`].
    pub version: u16,
    /// Of the store, as in the directory.
    pub generation: u64,
    /// How long the tick is.
    pub resolution: Resolution,
    /// Which one it is, from the Unix epoch on.
    pub number: TickNumber,
    /// The hash of the tick of this resolution that was made before: there is none in between.
    /// Zeros in the first one.
    pub previous: Digest,
    /// Tags in it, at most [`MAX_TAGS`].
    pub count: u32,
    /// See [`code`].
    pub coded: VLBytes,
    /// `SignWithLabel(journal-signing key, "FeedTickTBS", FeedTickTbs)`.
    pub signature: [u8; 64],
}

/// The pointer to the last ticks: JSON, the same for everybody. It is not signed: it says where to
/// look, and nothing is done by it alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedPointer {
    /// Of the store, as in the directory.
    pub generation: u64,
    /// The last tick of each resolution that has one.
    pub ticks: Vec<LastTick>,
}

/// The last tick of a resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTick {
    /// How long it is.
    pub seconds: u64,
    /// Which one.
    pub number: u64,
    /// How many bytes it has.
    pub bytes: u32,
}

/// The label of [`Tick::signature`].
pub const FEED_TICK_LABEL: &str = "FeedTickTBS";

/// A tick without its signature: what that covers, and what the next tick has the hash of.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct FeedTickTbs {
    /// As in [`Tick`].
    pub version: u16,
    /// As in [`Tick`].
    pub generation: u64,
    /// As in [`Tick`].
    pub resolution: Resolution,
    /// As in [`Tick`].
    pub number: TickNumber,
    /// As in [`Tick`].
    pub previous: Digest,
    /// As in [`Tick`].
    pub count: u32,
    /// As in [`Tick`].
    pub coded: VLBytes,
}

/// Tags that a tick has at most: 3 MB. What is beyond it is not announced.
pub const MAX_TAGS: usize = 1 << 20;
/// A tick has at most so many bytes.
pub const MAX_TICK_BYTES: usize = 4 << 20;

/// A tag that is not in a tick is found in it with a chance of one in `2^21`.
const FALSE_POSITIVE_BITS: u32 = 21;
/// Differences have the mean `2^21`. Their codes are shortest with 20 bits of remainder.
const REMAINDER_BITS: u32 = 20;

/// Where a tag stands among the numbers below `count * 2^21`.
fn place(tag: Tag, count: u32) -> u64 {
    let range = u128::from(count) << FALSE_POSITIVE_BITS;
    u64::try_from((u128::from(tag.0) * range) >> 64).unwrap_or(u64::MAX)
}

/// Codes a set of tags: for each place, from the smallest on, its difference `d` to the one before,
/// as `d >> 20` ones, a zero, and the lower 20 bits of `d`, from the highest bit on. Zeros follow
/// up to a size that Padmé has, which is 12 % more at most.
#[must_use]
pub fn code(tags: &BTreeSet<Tag>) -> (u32, VLBytes) {
    let count = u32::try_from(tags.len()).unwrap_or(u32::MAX);
    let mut bits = Bits::default();
    let mut before = 0;
    // Tags in their order are places in theirs.
    for tag in tags {
        let place = place(*tag, count);
        let difference = place.saturating_sub(before);
        before = place;
        for _ in 0..difference >> REMAINDER_BITS {
            bits.push(true);
        }
        bits.push(false);
        for at in (0..REMAINDER_BITS).rev() {
            bits.push(difference >> at & 1 == 1);
        }
    }
    let mut bytes = bits.bytes;
    bytes.resize(padme(bytes.len()), 0);
    (count, VLBytes::new(bytes))
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    fn push(&mut self, bit: bool) {
        if self.used.is_multiple_of(8) {
            self.bytes.push(0);
        }
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(bit) << (7 - self.used % 8);
        }
        self.used = self.used.wrapping_add(1) % 8;
    }
}

/// The tags of a tick, as far as they can be asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct TagSet {
    count: u32,
    places: Vec<u64>,
}

impl std::fmt::Debug for TagSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TagSet({})", self.count)
    }
}

impl TagSet {
    /// Decodes what [`code`] gave, and nothing else.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(count: u32, coded: &[u8]) -> Result<Self, DecodeError> {
        let number = usize::try_from(count).map_err(|_| DecodeError::Malformed)?;
        // Each takes 21 bits at least.
        let most = coded.len().saturating_mul(8) / 21;
        if number > MAX_TAGS || number > most {
            return Err(DecodeError::Malformed);
        }
        let range = u64::from(count) << FALSE_POSITIVE_BITS;
        let mut bits = coded
            .iter()
            .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1 == 1));
        let mut next = || bits.next().ok_or(DecodeError::Malformed);
        let mut places = Vec::with_capacity(number);
        let (mut before, mut length) = (0u64, 0usize);
        for _ in 0..number {
            let mut difference = 0u64;
            while next()? {
                difference = difference.saturating_add(1);
                length = length.saturating_add(1);
            }
            for _ in 0..REMAINDER_BITS {
                difference = difference << 1 | u64::from(next()?);
            }
            length = length.saturating_add(21);
            before = before.saturating_add(difference);
            if before >= range {
                return Err(DecodeError::Malformed);
            }
            places.push(before);
        }
        if bits.any(|bit| bit) || coded.len() != padme(length.div_ceil(8)) {
            return Err(DecodeError::Malformed);
        }
        Ok(Self { count, places })
    }

    /// Whether a tag is among them; if it is not, it seems to be with a chance of `2^-21`.
    #[must_use]
    pub fn contains(&self, tag: Tag) -> bool {
        self.places.binary_search(&place(tag, self.count)).is_ok()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tags(seed: u64, count: u64) -> BTreeSet<Tag> {
        (0..count).map(|at| Tag(mixed(seed, at))).collect()
    }

    /// SplitMix64.
    fn mixed(seed: u64, at: u64) -> u64 {
        let mut z = seed.wrapping_add(at.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    proptest! {
        #[test]
        fn every_tag_of_a_tick_is_found_in_it(seed: u64, count in 0u64..400) {
            let tags = tags(seed, count);
            let (number, coded) = code(&tags);
            let set = TagSet::decode(number, coded.as_slice()).unwrap();
            for tag in &tags {
                prop_assert!(set.contains(*tag));
            }
        }

        #[test]
        fn tags_however_near_to_each_other_are_found(from: u64, steps in proptest::collection::vec(0u64..5, 0..60)) {
            let mut tag = from;
            let tags: BTreeSet<_> = steps.iter().map(|step| {
                tag = tag.wrapping_add(*step);
                Tag(tag)
            }).collect();
            let (count, coded) = code(&tags);
            let set = TagSet::decode(count, coded.as_slice()).unwrap();
            prop_assert!(tags.iter().all(|tag| set.contains(*tag)));
        }

        #[test]
        fn a_set_has_one_code(seed: u64, count in 1u64..40, at: prop::sample::Index, bit in 0u8..8) {
            let (number, coded) = code(&tags(seed, count));
            let mut bytes = coded.as_slice().to_vec();
            let set = TagSet::decode(number, &bytes).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(TagSet::decode(number, &bytes) != Ok(set));
            bytes[at] ^= 1 << bit;
            bytes.push(0);
            prop_assert!(TagSet::decode(number, &bytes).is_err());
            bytes.truncate(bytes.len() - 2);
            prop_assert!(TagSet::decode(number, &bytes).is_err());
        }

        #[test]
        fn no_bytes_do_harm(count: u32, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = TagSet::decode(count, &bytes);
            let _ = TagSet::decode(count % 64, &bytes);
        }
    }

    #[test]
    fn of_two_million_tags_that_are_not_in_a_tick_hardly_one_is_found() {
        let (count, coded) = code(&tags(1, 5_000));
        let set = TagSet::decode(count, coded.as_slice()).unwrap();
        let found = tags(2, 1 << 21)
            .into_iter()
            .filter(|tag| set.contains(*tag))
            .count();
        // One on average; eight would come once in 100,000 runs with other numbers.
        assert!(found < 8, "{found}");
    }

    #[test]
    fn a_tag_takes_less_than_23_bits_and_padding_a_ninth_more_at_most() {
        for count in [100, 1_000, 10_000, 100_000] {
            let (number, coded) = code(&tags(3, count));
            assert_eq!(u64::from(number), count);
            let bits = 8.0 * coded.as_slice().len() as f64 / count as f64;
            assert!(
                (22.3..22.8 * 1.12).contains(&bits),
                "{bits} bits with {count}"
            );
        }
    }

    #[test]
    fn resolutions_are_whole_multiples_of_each_other_and_divide_the_day() {
        for (fine, coarse) in Resolution::ALL.iter().zip(&Resolution::ALL[1..]) {
            assert_eq!(coarse.ms() % fine.ms(), 0);
            assert_eq!(fine.coarser(), Some(*coarse));
        }
        for resolution in Resolution::ALL {
            assert_eq!(DAY_MS % resolution.ms(), 0);
            assert_eq!(
                Resolution::of_seconds(resolution.seconds()),
                Some(resolution)
            );
        }
    }
}
