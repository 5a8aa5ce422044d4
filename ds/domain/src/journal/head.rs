//! The head of a segment: a row of its own, sealed under a service key, outside the group's state
//! and outside every day while the segment goes on. Once it is closed it lasts until the segment's
//! last handshake has expired.

use crypto::kdf;
use crypto::schedule::TagKey;
use crypto::sealing::{self, Place};
use protocol::follow::{LONGEST_FRAME, SHORTEST_FRAME};
use protocol::ids::{ChainHead, Day, Position, RotationEpoch, SegmentId, Step};
use zeroize::Zeroizing;

use super::load::DayLoad;
use super::reader::Reader;
use crate::env::{Env, Version};
use crate::refusal::Stop;
use crate::rows::SegmentRow;
use crate::store::{Kept, Versioned};
use crate::view::View;

const FORMAT: u8 = 1;

/// Heads that are closed are dropped several days together: who looks for one does not know its
/// day.
const SHELF_DAYS: u32 = 28;

/// The last day on which the head of a segment is kept whose last entry is kept until this one: as
/// long as that.
pub(super) fn shelf(until: Day) -> Day {
    Day(until.0.div_ceil(SHELF_DAYS).saturating_mul(SHELF_DAYS))
}

/// The last days that a closed head can have which is still kept. One more: a clock may have been
/// ahead.
fn shelves(today: Day) -> impl Iterator<Item = Day> {
    let first = today.0.div_ceil(SHELF_DAYS);
    let last = shelf(Kept::LONGEST.handshake(today)).0 / SHELF_DAYS + 1;
    (first..=last).map(|shelf| Day(shelf.saturating_mul(SHELF_DAYS)))
}

/// The service's knowledge of a segment.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// The id of the segment.
    pub segment: SegmentId,
    /// The epoch that began the segment.
    pub rotation_epoch: RotationEpoch,
    /// The position of the next entry.
    pub next: Position,
    /// Commits in the segment.
    pub step: Step,
    /// The chain head after the last entry.
    pub chain: ChainHead,
    /// Whether its last entry has closed it.
    pub closed: bool,
    /// How long entries are kept.
    pub kept: Kept,
    /// The day of the tag key.
    pub tag_day: Day,
    /// The tag key `T_d` of that day.
    pub tag_key: TagKey,
    /// Sizes that an answer with the segment's end, and one with older entries, is padded to; and
    /// how many readers wait.
    pub read_buckets: ReadBuckets,
    /// What the segment took on the last day with entries.
    pub load: DayLoad,
    /// The first position of each day with entries, oldest first; days that have expired are left
    /// out.
    pub days: Vec<(Day, Position)>,
}

/// Sizes of answers, bytes; and their readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadBuckets {
    /// Bytes of an answer that reaches the segment's end.
    pub tail: u32,
    /// Bytes of an answer with older entries only.
    pub history: u32,
    /// Readers who may wait for the next entry at a time.
    pub waiting: u32,
}

/// So many readers of a segment may wait or follow, whatever the number of leaves.
pub const LEAST_WAITING: u32 = 16;

impl ReadBuckets {
    /// Of a group with this many leaves: the tail holds an ordinary commit with X25519 and some
    /// messages. One with X-Wing takes the next multiple, or comes in pieces.
    #[must_use]
    pub fn of(leaves: usize) -> Self {
        let path = leaves.max(2).ilog2().saturating_add(1);
        let tail = 8_192u32.saturating_mul(path.div_ceil(4).max(1));
        Self {
            tail,
            history: tail.saturating_mul(8).max(65_536),
            // Each leaf one; and one more each, whose connection is gone without our knowing it. In
            // a small group as many as somebody takes who goes back and forth between two chats: a
            // stream that was left holds its place until it is over.
            waiting: u32::try_from(leaves).map_or(u32::MAX, |leaves| {
                leaves.saturating_mul(2).max(LEAST_WAITING)
            }),
        }
    }
}

impl ReadBuckets {
    /// Bytes of a frame on a stream of the segment: a message of the smallest bucket fits into one.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        usize::try_from(self.tail / 4)
            .unwrap_or(LONGEST_FRAME)
            .clamp(SHORTEST_FRAME, LONGEST_FRAME)
    }
}

/// A head as it was read.
#[derive(Debug)]
pub struct StoredHead {
    /// The name of the head's row.
    pub row: SegmentRow,
    /// The version of the row as it was read.
    pub version: Version,
    /// The head, decrypted.
    pub head: Head,
}

impl StoredHead {
    /// The head of a segment; none if there is no such segment.
    ///
    /// # Errors
    /// [`Stop::Need`], [`Stop::Internal`].
    pub fn read(view: &View, segment: &SegmentId, env: &Env<'_>) -> Result<Option<Self>, Stop> {
        let row = env.rows().segment(segment);
        let value = match view.row(&row.key())? {
            Some(value) => Some(value),
            None => {
                let keys: Vec<_> = shelves(env.today()).map(|day| row.closed(day)).collect();
                view.all(&keys)?.into_iter().flatten().next()
            }
        };
        let Some(value) = value else {
            return Ok(None);
        };
        let (version, sealed) = Versioned::read(value).ok_or(DAMAGED)?;
        let head = Head::open(segment, sealed, env)?;
        Ok(Some(Self { row, version, head }))
    }
}

const DAMAGED: Stop = Stop::Internal("head of a segment");

impl Head {
    /// The head of a segment that begins.
    #[must_use]
    pub fn new(
        segment: SegmentId,
        rotation_epoch: RotationEpoch,
        tag_key: TagKey,
        (kept, leaves): (Kept, usize),
        today: Day,
    ) -> Self {
        Self {
            segment,
            rotation_epoch,
            next: Position(0),
            step: Step(0),
            chain: crypto::journal::first_head(&segment),
            closed: false,
            kept,
            tag_day: today,
            tag_key,
            read_buckets: ReadBuckets::of(leaves),
            load: DayLoad::default(),
            days: Vec::new(),
        }
    }

    /// The day of an entry that is appended now: never before that of the entry before it, whatever
    /// the clock does.
    #[must_use]
    pub fn day_of_next(&self, today: Day) -> Day {
        self.days.last().map_or(today, |(last, _)| today.max(*last))
    }

    /// Begins a day, if it has not begun: forgets the tag keys before its own.
    pub(super) fn begin_day(&mut self, day: Day) {
        if self.days.last().is_none_or(|(last, _)| *last < day) {
            self.days.push((day, self.next));
            // Entries of these days are gone.
            let kept = self.kept;
            self.days.retain(|(old, _)| kept.handshake(*old) >= day);
        }
        self.ratchet_tag(day);
    }

    /// The tag key of a day; the ones before it are gone.
    pub fn ratchet_tag(&mut self, day: Day) {
        let ahead = day.0.saturating_sub(self.tag_day.0);
        if ahead > 0 {
            let key = std::mem::replace(&mut self.tag_key, TagKey::new([0; 32]));
            self.tag_key = key.ahead(ahead);
            self.tag_day = day;
        }
    }

    fn key(env: &Env<'_>) -> Zeroizing<[u8; 32]> {
        let storage = env.keys.rows().storage_key();
        Zeroizing::new(kdf::derive(storage.expose(), "heads of segments", &[]))
    }

    fn place(segment: &SegmentId) -> Place<'_> {
        Place {
            table: "heads",
            row: &segment.0,
            part: "head",
        }
    }

    /// Seals it.
    ///
    /// # Errors
    /// [`Stop::Internal`].
    pub fn seal(&self, env: &mut Env<'_>) -> Result<Versioned, Stop> {
        let plain = self.encode();
        let salt = env.salt();
        let sealed =
            sealing::seal_salted(&Self::key(env), salt, Self::place(&self.segment), &plain)?;
        Ok(Versioned {
            version: env.version(),
            sealed,
        })
    }

    fn open(segment: &SegmentId, sealed: &[u8], env: &Env<'_>) -> Result<Self, Stop> {
        let plain = sealing::open(&Self::key(env), Self::place(segment), sealed)?;
        Self::decode(segment, &plain).ok_or(DAMAGED)
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let Self {
            segment: _,
            rotation_epoch,
            next,
            step,
            chain,
            closed,
            kept,
            tag_day,
            tag_key,
            read_buckets,
            load,
            days,
        } = self;
        let mut out = Zeroizing::new(Vec::with_capacity(1_280 + 12 * days.len()));
        out.push(FORMAT);
        out.extend(rotation_epoch.0.to_be_bytes());
        out.extend(next.0.to_be_bytes());
        out.extend(step.0.to_be_bytes());
        out.extend(chain.0);
        out.push(u8::from(*closed));
        out.extend(kept.messages.to_be_bytes());
        out.extend(kept.handshakes.to_be_bytes());
        out.extend(tag_day.0.to_be_bytes());
        out.extend(tag_key.expose());
        out.extend(read_buckets.tail.to_be_bytes());
        out.extend(read_buckets.history.to_be_bytes());
        out.extend(read_buckets.waiting.to_be_bytes());
        load.encode(&mut out);
        for (day, first) in days {
            out.extend(day.0.to_be_bytes());
            out.extend(first.0.to_be_bytes());
        }
        out
    }

    fn decode(segment: &SegmentId, bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        if reader.take::<1>()? != [FORMAT] {
            return None;
        }
        let mut head = Self {
            segment: *segment,
            rotation_epoch: RotationEpoch(u64::from_be_bytes(reader.take()?)),
            next: Position(u64::from_be_bytes(reader.take()?)),
            step: Step(u32::from_be_bytes(reader.take()?)),
            chain: ChainHead(reader.take()?),
            closed: reader.take::<1>()? == [1],
            kept: Kept {
                messages: u16::from_be_bytes(reader.take()?),
                handshakes: u16::from_be_bytes(reader.take()?),
            },
            tag_day: Day(u32::from_be_bytes(reader.take()?)),
            tag_key: TagKey::new(reader.take()?),
            read_buckets: ReadBuckets {
                tail: u32::from_be_bytes(reader.take()?),
                history: u32::from_be_bytes(reader.take()?),
                waiting: u32::from_be_bytes(reader.take()?),
            },
            load: DayLoad::decode(&mut reader)?,
            days: Vec::new(),
        };
        while !reader.0.is_empty() {
            head.days.push((
                Day(u32::from_be_bytes(reader.take()?)),
                Position(u64::from_be_bytes(reader.take()?)),
            ));
        }
        Some(head)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crypto::schedule::DataKey;
    use protocol::journal::Class;

    use super::*;
    use crate::env::Limits;
    use crate::fixtures;
    use crate::journal::load::{Addition, Bound, Room, UserTag};
    use crate::testing::Service;

    fn load() -> DayLoad {
        let mut load = DayLoad::default();
        let bound = Bound::of_messages(&Limits::default());
        for (class, bytes) in [(Class::Message, 100), (Class::Handshake, 200_000)] {
            let added = Addition {
                class,
                user: UserTag::of(&DataKey::new([1; 32]), &[class as u8]),
                bytes,
                room: Room::Always,
            };
            load.admit(Day(20_000), &added, &bound, 0).unwrap();
        }
        load
    }

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let head = Head {
            segment: SegmentId([2; 32]),
            rotation_epoch: RotationEpoch(3),
            next: Position(4),
            step: Step(5),
            chain: ChainHead([6; 32]),
            closed: true,
            kept: Kept {
                messages: 7,
                handshakes: 8,
            },
            tag_day: Day(8),
            tag_key: TagKey::new([9; 32]),
            read_buckets: ReadBuckets {
                tail: 10,
                history: 11,
                waiting: 12,
            },
            load: load(),
            days: vec![(Day(13), Position(14)), (Day(15), Position(16))],
        };
        let bytes = head.encode();
        fixtures::check("head", &bytes);
        assert_eq!(Head::decode(&head.segment, &bytes).as_ref(), Some(&head));

        let mut service = Service::new(1);
        let (mut env, _) = service.env();
        let sealed = head.seal(&mut env).unwrap();
        fixtures::check("sealed head", &sealed.clone().into_value());
        let opened = Head::open(&head.segment, &sealed.sealed, &env).unwrap();
        assert_eq!(opened, head);
    }
}
