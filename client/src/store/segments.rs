//! Where this client is in the journals of its groups: the segment that it reads, the keys of the
//! step that it is at, how far it has read, and the chain up to there. Positions move in the
//! transaction that stores what was read: nothing is acknowledged to anybody.

use crypto::keys::IdentityLinkWrapperKey;
use crypto::schedule::{JournalKey, StateKey, TagKey};
use protocol::group::JournalKeys;
use protocol::ids::{ChainHead, Day, GroupId, Position, RotationEpoch, SegmentId, Step};
use rusqlite::{Connection, Row};
use zeroize::Zeroizing;

use crate::error::{Error, LocalError};
use crate::store::database::change;
use crate::store::database::key32;
use crate::store::wrappers;

/// A row of `segments`.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) rotation: RotationEpoch,
    /// Commits since the rotation.
    pub(crate) step: Step,
    pub(crate) state_key: StateKey,
    pub(crate) journal_key: JournalKey,
    pub(crate) tag_key: TagKey,
    pub(crate) tag_day: Day,
    /// The day of the last entry that was read: none is before it. The tag key may be ahead of it.
    pub(crate) day: Day,
    pub(crate) wrapper_key: IdentityLinkWrapperKey,
    /// What is read next.
    pub(crate) next: Position,
    /// The chain before that; `None` until an end is read, for whoever came in the middle.
    pub(crate) chain: Option<ChainHead>,
    /// Where the own commit is by which this client came in, until that was looked at.
    pub(crate) joined: Option<Position>,
}

pub(crate) fn number(value: u64) -> Result<i64, Error> {
    i64::try_from(value).map_err(|_| LocalError::Damaged.into())
}

pub(crate) fn unsigned(value: i64) -> Result<u64, Error> {
    u64::try_from(value).map_err(|_| LocalError::Damaged.into())
}

pub(crate) fn key(secret: Vec<u8>) -> Result<Zeroizing<[u8; 32]>, Error> {
    let secret = Zeroizing::new(secret);
    Ok(Zeroizing::new(key32(&secret)?))
}

/// Columns of a [`Segment`], as [`Segment::from_row`] takes them.
pub(crate) const COLUMNS: &str =
    "segment_id, rotation_epoch, step, state_key, journal_key, tag_key, tag_day,
    wrapper_key, next, chain, joined, day";

impl Segment {
    /// A segment of which one has heard from outside: its journal is not read before this client is
    /// in it.
    pub(crate) fn heard_of(
        id: SegmentId,
        rotation: RotationEpoch,
        (step, state_key): (Step, StateKey),
        wrapper_key: IdentityLinkWrapperKey,
    ) -> Self {
        Self {
            id,
            rotation,
            step,
            state_key,
            journal_key: JournalKey::new([0; 32]),
            tag_key: TagKey::new([0; 32]),
            tag_day: Day(0),
            day: Day(0),
            wrapper_key,
            next: Position(0),
            chain: None,
            joined: None,
        }
    }

    pub(crate) fn from_row(row: &Row<'_>, from: usize) -> Result<Self, Error> {
        let secret = |at: usize| -> Result<Zeroizing<[u8; 32]>, Error> {
            key(row.get(from.saturating_add(at))?)
        };
        let chain: Option<[u8; 32]> = row.get(from.saturating_add(9))?;
        let joined: Option<i64> = row.get(from.saturating_add(10))?;
        Ok(Self {
            id: SegmentId(row.get(from)?),
            rotation: RotationEpoch(unsigned(row.get(from.saturating_add(1))?)?),
            step: Step(row.get(from.saturating_add(2))?),
            state_key: StateKey::new(*secret(3)?),
            journal_key: JournalKey::new(*secret(4)?),
            tag_key: TagKey::new(*secret(5)?),
            tag_day: Day(row.get(from.saturating_add(6))?),
            wrapper_key: IdentityLinkWrapperKey::new(*secret(7)?),
            next: Position(unsigned(row.get(from.saturating_add(8))?)?),
            chain: chain.map(ChainHead),
            joined: joined.map(unsigned).transpose()?.map(Position),
            day: Day(row.get(from.saturating_add(11))?),
        })
    }

    /// Keeps it as the one that the group is in, in the caller's transaction.
    pub(crate) fn write(&self, db: &Connection, group: &GroupId) -> Result<(), Error> {
        change(db, "INSERT INTO segments (group_id, segment_id, rotation_epoch, step, state_key, journal_key, tag_key, tag_day,
                wrapper_key, next, chain, joined, day) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (group_id) DO UPDATE SET segment_id = excluded.segment_id,
                rotation_epoch = excluded.rotation_epoch, step = excluded.step, state_key = excluded.state_key,
                journal_key = excluded.journal_key, tag_key = excluded.tag_key, tag_day = excluded.tag_day,
                wrapper_key = excluded.wrapper_key, next = excluded.next, chain = excluded.chain,
                joined = excluded.joined, day = excluded.day,
                head = CASE segment_id WHEN excluded.segment_id THEN head END", (
                group.0,
                self.id.0,
                number(self.rotation.0)?,
                self.step.0,
                self.state_key.expose(),
                self.journal_key.expose(),
                self.tag_key.expose(),
                self.tag_day.0,
                self.wrapper_key.expose(),
                number(self.next.0)?,
                self.chain.map(|chain| chain.0),
                self.joined.map(|at| number(at.0)).transpose()?,
                self.day.0,
            ),)?;
        wrappers::keep(db, group, self.rotation, &self.wrapper_key)
    }

    /// The epoch after a commit that begins no segment.
    pub(crate) fn next_step(self) -> Self {
        Self {
            step: self.step.next(),
            state_key: self.state_key.next(),
            journal_key: self.journal_key.next(),
            ..self
        }
    }

    /// An entry of this day was read: the tag keys of days before it are forgotten.
    pub(crate) fn on_day(self, day: Day) -> Self {
        let days = day.0.saturating_sub(self.tag_day.0);
        Self {
            tag_key: self.tag_key.ahead(days),
            tag_day: Day(self.tag_day.0.saturating_add(days)),
            day: self.day.max(day),
            ..self
        }
    }

    /// What opens the journal from an epoch on, as the service tells it to who comes in.
    pub(crate) fn with_keys(self, keys: &JournalKeys) -> Self {
        Self {
            journal_key: JournalKey::from(&keys.journal_key),
            tag_key: TagKey::from(&keys.tag_key),
            tag_day: keys.tag_day,
            day: keys.tag_day,
            ..self
        }
    }
}

/// The day from which on the tag keys of a segment count, as the service says it. The own clock may
/// still be at the day before; of days after the next one nothing is believed.
pub(crate) fn day_said(day: Day, now_ms: u64) -> Day {
    day.min(Day(Day::of(now_ms).0.saturating_add(1)))
}

/// The commit by which this client came in stands where the service has said.
pub(crate) fn place_is_confirmed(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(
        db,
        "UPDATE segments SET joined = NULL WHERE group_id = ?",
        [group.0],
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::mls::beginning::Beginning;
    use crypto::journal::first_head;

    pub(crate) fn segment(group: &GroupId) -> Segment {
        Beginning {
            state_key: StateKey::new([1; 32]),
            journal_key: JournalKey::new([4; 32]),
            wrapper_key: IdentityLinkWrapperKey::new([2; 32]),
        }
        .into_segment(group, RotationEpoch(0), Day(20_000))
    }

    #[test]
    fn a_segment_is_read_as_it_was_written_and_its_keys_go_on_by_themselves() {
        let db = crate::store::database::in_memory().unwrap();
        let group = crate::store::groups::tests::group(7, "team");
        group.insert(&db).unwrap();
        let read = || {
            crate::store::groups::Group::read(&db, &group.id)
                .unwrap()
                .segment
        };
        assert_eq!(read().id, segment(&group.id).id);
        assert_eq!(read().chain, Some(first_head(&read().id)));
        let moved = Segment {
            next: Position(5),
            ..read().next_step().on_day(Day(20_002))
        };
        moved.write(&db, &group.id).unwrap();
        assert_eq!(read().step, Step(1));
        assert_eq!(read().state_key, StateKey::new([1; 32]).next());
        assert_eq!(read().journal_key, JournalKey::new([4; 32]).next());
        let tag = JournalKey::new([4; 32]).tag_key().next().next();
        assert_eq!((read().tag_key, read().tag_day), (tag, Day(20_002)));
        assert_eq!(read().next, Position(5));
        // A day before is none to go back to.
        assert_eq!(read().on_day(Day(1)).tag_day, Day(20_002));
    }
}
