//! Where this client is in the activity feed, and what it knows by it: which groups have news, and
//! which of them comes first.

use protocol::feed::Resolution;
use protocol::ids::{Day, Digest, GroupId, TickNumber};
use rusqlite::Connection;

use crate::error::{Error, LocalError};
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

/// There is news, as the feed says or a stream, in the caller's transaction: behind what has news
/// already.
pub(crate) fn has_news(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO feed_groups (group_id, place)
         SELECT ?, 1 + coalesce(max(place), 0) FROM feed_groups WHERE true
         ON CONFLICT (group_id) DO UPDATE SET place = excluded.place WHERE place = 0",
        [group.0],
    )
}

/// A group with news is about to be read: if that does not come to its end, others come first the
/// next time, whatever it meets.
pub(crate) fn goes_behind(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(
        db,
        "UPDATE feed_groups SET place = (SELECT 1 + max(place) FROM feed_groups)
         WHERE group_id = ? AND place > 0",
        [group.0],
    )
}

/// Groups that are to be read, in an order that is nobody's: with their places in the queue of
/// those with news, or none where nothing is known.
pub(crate) fn due(db: &Connection) -> Result<Vec<(GroupId, Option<u64>)>, Error> {
    let found = rows(
        db,
        "SELECT groups.group_id, nullif(place, 0)
         FROM groups JOIN segments USING (group_id) LEFT JOIN feed_groups USING (group_id)
         WHERE status = 'active'
            AND groups.group_id NOT IN (SELECT group_id FROM connection_stock)
            AND (place IS NULL OR place > 0 OR joined IS NOT NULL)
         ORDER BY random()",
        (),
        |row| Ok((GroupId(row.get(0)?), row.get::<_, Option<i64>>(1)?)),
    )?;
    let found = found.into_iter();
    found
        .map(|(group, place)| Ok((group, place.map(unsigned).transpose()?)))
        .collect()
}

/// What was said before is not known for sure: every group is read.
pub(crate) fn all_may_have_news(db: &Connection) -> Result<(), Error> {
    change(db, "DELETE FROM feed_groups", ())
}

/// A group was read to its end: again when the feed says so, and at a look.
pub(crate) fn was_read(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO feed_groups (group_id, place) VALUES (?, 0)
         ON CONFLICT (group_id) DO UPDATE SET place = 0",
        [group.0],
    )
}

/// Groups that an explicit call reads by the feed: those that are due, and those that were not read
/// today. In an order that is nobody's.
pub(crate) fn to_read(db: &Connection, today: Day) -> Result<Vec<GroupId>, Error> {
    rows(
        db,
        "SELECT groups.group_id
         FROM groups JOIN segments USING (group_id) LEFT JOIN feed_groups USING (group_id)
         WHERE status = 'active'
            AND groups.group_id NOT IN (SELECT group_id FROM connection_stock)
            AND (place IS NULL OR place > 0 OR joined IS NOT NULL OR read_day != ?)
         ORDER BY random()",
        [today.0],
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

    /// Groups that are to be read, those with news in their order and then the others.
    fn queue(db: &Connection) -> (Vec<GroupId>, Vec<GroupId>) {
        let mut due = due(db).unwrap();
        due.sort_unstable_by_key(|(group, place)| (*place, *group));
        let (unknown, named): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|(_, place)| place.is_none());
        let groups = |some: Vec<(GroupId, _)>| some.into_iter().map(|(group, _)| group).collect();
        (groups(named), groups(unknown))
    }

    #[test]
    fn a_group_is_read_when_the_feed_says_so_and_when_nothing_is_known_of_it() {
        let db = in_memory().unwrap();
        let groups = [1, 2, 3].map(|number| group(number, &format!("group {number}")));
        for group in &groups {
            group.insert(&db).unwrap();
        }
        let ids = groups.each_ref().map(|group| group.id);
        assert_eq!(queue(&db), (Vec::new(), ids.to_vec()));
        for id in &ids {
            was_read(&db, id).unwrap();
        }
        assert_eq!(queue(&db), (Vec::new(), Vec::new()));
        for at in [2, 0, 2] {
            has_news(&db, &ids[at]).unwrap();
        }
        assert_eq!(queue(&db).0, [ids[2], ids[0]]);
        // What was tried and has more waits for the others.
        goes_behind(&db, &ids[2]).unwrap();
        assert_eq!(queue(&db).0, [ids[0], ids[2]]);
        has_news(&db, &ids[1]).unwrap();
        goes_behind(&db, &ids[0]).unwrap();
        assert_eq!(queue(&db).0, [ids[2], ids[1], ids[0]]);
        was_read(&db, &ids[2]).unwrap();
        // It has no news because it was tried.
        goes_behind(&db, &ids[2]).unwrap();
        assert_eq!(queue(&db), (vec![ids[1], ids[0]], Vec::new()));
        all_may_have_news(&db).unwrap();
        assert_eq!(queue(&db), (Vec::new(), ids.to_vec()));
    }

    #[test]
    fn an_explicit_call_reads_what_is_due_and_what_it_has_not_read_today() {
        let db = in_memory().unwrap();
        let today = Day(20_000);
        let ids = [1, 2, 3].map(|number| {
            let group = group(number, &format!("group {number}"));
            group.insert(&db).unwrap();
            was_read(&db, &group.id).unwrap();
            crate::store::groups::set_read_day(&db, &group.id, today.0).unwrap();
            group.id
        });
        let read = |today| {
            let mut read = to_read(&db, today).unwrap();
            read.sort_unstable();
            read
        };
        assert_eq!(read(today), []);
        has_news(&db, &ids[1]).unwrap();
        assert_eq!(read(today), [ids[1]]);
        assert_eq!(read(Day(today.0 + 1)), ids);
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
