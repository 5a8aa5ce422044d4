//! Where this client is in the activity feed, and what it knows by it: which groups have news, and
//! when each is looked into whatever the feed says.

use protocol::feed::Resolution;
use protocol::ids::{Day, Digest, GroupId, TickNumber};
use rusqlite::Connection;

use crate::error::{Error, LocalError};
use crate::slots::Candidate;
use crate::store::database::{change, column, first, is_there, rows};
use crate::store::segments::{key, number, unsigned};

/// The last tick that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) resolution: Resolution,
    /// Of the store: ticks of another one go on from nothing.
    pub(crate) generation: u64,
    pub(crate) number: TickNumber,
    pub(crate) hash: Digest,
}

/// Where this client is; none while it polls without the feed.
pub(crate) fn place(db: &Connection) -> Result<Option<Place>, Error> {
    let row = first(
        db,
        "SELECT seconds, generation, number, hash FROM feed",
        (),
        |row| {
            let numbers: [i64; 3] = [row.get(0)?, row.get(1)?, row.get(2)?];
            Ok((numbers, row.get::<_, [u8; 32]>(3)?))
        },
    )?;
    let Some(([seconds, generation, number], hash)) = row else {
        return Ok(None);
    };
    Ok(Some(Place {
        resolution: Resolution::of_seconds(unsigned(seconds)?).ok_or(LocalError::Damaged)?,
        generation: unsigned(generation)?,
        number: TickNumber(unsigned(number)?),
        hash: Digest(hash),
    }))
}

/// Keeps it, in the caller's transaction.
pub(crate) fn set_place(db: &Connection, place: &Place) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO feed (only, seconds, generation, number, hash) VALUES (0, ?, ?, ?, ?)
         ON CONFLICT (only) DO UPDATE SET seconds = excluded.seconds,
            generation = excluded.generation, number = excluded.number, hash = excluded.hash",
        (
            number(place.resolution.seconds())?,
            number(place.generation)?,
            number(place.number.0)?,
            place.hash.0,
        ),
    )
}

/// This client polls without the feed.
pub(crate) fn leave(db: &Connection) -> Result<(), Error> {
    change(db, "DELETE FROM feed", ())
}

/// The service has signed two feeds of one generation: what proves it is kept, and the feed of this
/// generation is not followed any more.
pub(crate) fn forked(
    db: &Connection,
    generation: u64,
    evidence: (&[u8], &[u8]),
) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO feed_forks (generation, one, other) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (number(generation)?, evidence.0, evidence.1),
    )?;
    leave(db)
}

/// Whether it has.
pub(crate) fn is_forked(db: &Connection, generation: u64) -> Result<bool, Error> {
    is_there(
        db,
        "SELECT 1 FROM feed_forks WHERE generation = ?",
        [number(generation)?],
    )
}

/// There is news, as the feed says or a stream, in the caller's transaction.
pub(crate) fn has_news(db: &Connection, group: &GroupId, now_ms: u64) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO feed_groups (group_id, news_ms, due_ms) VALUES (?1, ?2, 0)
         ON CONFLICT (group_id) DO UPDATE SET news_ms = ?2 WHERE news_ms = 0",
        (group.0, number(now_ms.max(1))?),
    )
}

/// Groups that a slot can read, and since when they should be read, if they should. Where there is
/// none, those of the stock: a read is a read.
pub(crate) fn candidates(
    db: &Connection,
    now_ms: u64,
    latest_ms: u64,
) -> Result<Vec<(GroupId, Candidate)>, Error> {
    let of = |is_stock: bool| {
        rows(
            db,
            "SELECT groups.group_id, joined, news_ms, due_ms
             FROM groups JOIN segments USING (group_id) LEFT JOIN feed_groups USING (group_id)
             WHERE status = 'active'
                AND (groups.group_id IN (SELECT group_id FROM connection_stock)) = ?",
            [is_stock],
            |row| {
                let joined: Option<i64> = row.get(1)?;
                let times: [Option<i64>; 2] = [row.get(2)?, row.get(3)?];
                Ok((GroupId(row.get(0)?), joined.is_some(), times))
            },
        )
    };
    let found = match of(false)? {
        some if some.is_empty() => of(true)?,
        some => some,
    };
    let candidates = found.into_iter().map(|(group, joins, times)| {
        let [news_ms, due_ms] = times.map(|ms| ms.and_then(|ms| u64::try_from(ms).ok()));
        let is_due = joins || due_ms.is_none_or(|ms| ms <= now_ms || ms > latest_ms);
        let due_since_ms = match news_ms {
            Some(news_ms) if news_ms > 0 => Some(news_ms),
            _ => is_due.then_some(now_ms),
        };
        (group, Candidate { due_since_ms })
    });
    Ok(candidates.collect())
}

/// What was said before is not known for sure: every group is read.
pub(crate) fn all_may_have_news(db: &Connection) -> Result<(), Error> {
    change(db, "DELETE FROM feed_groups", ())
}

/// A group was read to its end: again when the feed says so, and at `due_ms` anyway. What was drawn
/// before stays until its time has come.
pub(crate) fn was_read(
    db: &Connection,
    group: &GroupId,
    (now_ms, latest_ms): (u64, u64),
    due_ms: u64,
) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO feed_groups (group_id, news_ms, due_ms) VALUES (?1, 0, ?3)
         ON CONFLICT (group_id) DO UPDATE SET news_ms = 0, due_ms = excluded.due_ms
         WHERE news_ms > 0 OR due_ms <= ?2 OR due_ms > ?4",
        (
            group.0,
            number(now_ms)?,
            number(due_ms)?,
            number(latest_ms)?,
        ),
    )
}

/// Groups that are read now, in an order that is nobody's. `latest_ms`: no time that was drawn is
/// later than this one, or another clock drew it.
pub(crate) fn to_read(db: &Connection, now_ms: u64, latest_ms: u64) -> Result<Vec<GroupId>, Error> {
    rows(
        db,
        "SELECT groups.group_id FROM groups JOIN segments USING (group_id)
            LEFT JOIN feed_groups USING (group_id)
         WHERE status = 'active'
            AND groups.group_id NOT IN (SELECT group_id FROM connection_stock)
            AND (due_ms IS NULL OR news_ms > 0 OR due_ms <= ?1 OR due_ms > ?2 OR joined IS NOT NULL)
         ORDER BY random()",
        (number(now_ms)?, number(latest_ms)?),
        |row| Ok(GroupId(row.get(0)?)),
    )
}

/// Forgets the tag keys of the days before this one, also of groups that are lost or left.
pub(crate) fn ratchet(db: &Connection, day: Day) -> Result<(), Error> {
    let behind: Vec<[u8; 16]> = column(
        db,
        "SELECT group_id FROM segments JOIN groups USING (group_id)
         WHERE tag_day > 0 AND tag_day < ?",
        [day.0],
    )?;
    for group in behind {
        let stored = first(
            db,
            "SELECT tag_key, tag_day FROM segments WHERE group_id = ?",
            [group],
            |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, u32>(1)?)),
        )?;
        let (secret, of) = stored.ok_or(LocalError::Damaged)?;
        let ahead = day.0.saturating_sub(of);
        let tag_key = crypto::schedule::TagKey::new(*key(secret)?).ahead(ahead);
        change(
            db,
            "UPDATE segments SET tag_key = ?, tag_day = ? WHERE group_id = ?",
            (tag_key.expose(), day.0, group),
        )?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::database::in_memory;
    use crate::store::groups::Group;
    use crate::store::groups::tests::group;

    const NOW: u64 = 1_800_000_000_000;
    const LATEST: u64 = NOW + 1_000_000;

    #[test]
    fn a_group_is_read_when_the_feed_says_so_when_it_is_due_and_when_nothing_is_known_of_it() {
        let db = in_memory().unwrap();
        let groups = [1, 2, 3].map(|number| group(number, &format!("group {number}")));
        for group in &groups {
            group.insert(&db).unwrap();
        }
        let read = |now| {
            let mut read = to_read(&db, now, LATEST).unwrap();
            read.sort_unstable();
            read
        };
        let ids = groups.each_ref().map(|group| group.id);
        assert_eq!(read(NOW), ids);
        for id in &ids {
            was_read(&db, id, (NOW, LATEST), NOW + 1_000).unwrap();
        }
        has_news(&db, &ids[2], NOW).unwrap();
        was_read(&db, &ids[2], (NOW, LATEST), LATEST + 1).unwrap();
        assert_eq!(read(NOW), [ids[2]]);
        was_read(&db, &ids[2], (NOW, LATEST), NOW + 2_000).unwrap();
        assert_eq!(read(NOW), []);
        has_news(&db, &ids[1], NOW).unwrap();
        assert_eq!(read(NOW), [ids[1]]);
        was_read(&db, &ids[1], (NOW, LATEST), NOW + 2_000).unwrap();
        assert_eq!(read(NOW + 1_000), [ids[0]]);
        all_may_have_news(&db).unwrap();
        assert_eq!(read(NOW), ids);
    }

    #[test]
    fn a_place_is_kept_until_it_is_left_and_not_taken_again_after_a_fork() {
        let db = in_memory().unwrap();
        let mut at = Place {
            resolution: Resolution::Minutes2,
            generation: 7,
            number: TickNumber(9),
            hash: Digest([1; 32]),
        };
        assert_eq!(place(&db).unwrap(), None);
        for number in [9, 10] {
            at.number = TickNumber(number);
            set_place(&db, &at).unwrap();
            assert_eq!(place(&db).unwrap(), Some(at));
        }
        forked(&db, 7, (b"one", b"other")).unwrap();
        assert_eq!(place(&db).unwrap(), None);
        assert!(is_forked(&db, 7).unwrap() && !is_forked(&db, 8).unwrap());
    }

    #[test]
    fn the_tag_keys_of_former_days_are_forgotten_though_nothing_was_said() {
        let db = in_memory().unwrap();
        let group = group(1, "team");
        group.insert(&db).unwrap();
        let mut other = crate::store::groups::tests::group(2, "lost");
        other.status = crate::store::Status::Lost;
        other.insert(&db).unwrap();
        let before = Group::read(&db, &group.id).unwrap().segment;
        let day = Day(before.tag_day.0 + 3);
        ratchet(&db, day).unwrap();
        let after = Group::read(&db, &group.id).unwrap().segment;
        assert_eq!(after.tag_day, day);
        assert_eq!(after.tag_key, before.tag_key.ahead(3));
        let lost = Group::read(&db, &other.id).unwrap().segment;
        assert_eq!(lost.tag_day, day);
        ratchet(&db, Day(day.0 - 1)).unwrap();
        assert_eq!(Group::read(&db, &group.id).unwrap().segment.tag_day, day);
    }
}
