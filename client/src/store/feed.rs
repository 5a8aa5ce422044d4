//! Where this client is in the activity feed, and what it knows by it: which groups have news, and
//! which of them comes first.

use std::sync::Arc;

use protocol::feed::Resolution;
use protocol::ids::{Day, Digest, GroupId, TickNumber};
use rusqlite::Connection;

use crate::error::{Error, LocalError};
use crate::purse::Purse;
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

impl Place {
    /// Everything before this time has been searched.
    pub(crate) fn ends_ms(&self) -> u64 {
        self.resolution.ends_ms(self.number)
    }
}

/// A place with the tick itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) place: Place,
    /// As the service has signed it.
    pub(crate) tick: Arc<[u8]>,
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

/// The same with the tick.
pub(crate) fn reached(db: &Connection) -> Result<Option<Reached>, Error> {
    let Some(place) = place(db)? else {
        return Ok(None);
    };
    let tick = first(db, "SELECT tick FROM feed", (), |row| {
        row.get::<_, Vec<u8>>(0)
    })?;
    Ok(tick.map(|tick| Reached {
        place,
        tick: tick.into(),
    }))
}

/// Keeps it, in the caller's transaction.
pub(crate) fn set_reached(db: &Connection, reached: &Reached) -> Result<(), Error> {
    let Reached { place, tick } = reached;
    change(
        db,
        "INSERT INTO feed (only, seconds, generation, number, hash, tick) VALUES (0, ?, ?, ?, ?, ?)
         ON CONFLICT (only) DO UPDATE SET seconds = excluded.seconds,
            generation = excluded.generation, number = excluded.number, hash = excluded.hash,
            tick = excluded.tick",
        (
            number(place.resolution.seconds())?,
            number(place.generation)?,
            number(place.number.0)?,
            place.hash.0,
            &tick[..],
        ),
    )
}

/// What following may cost; a new purse where none was kept.
pub(crate) fn purse(db: &Connection, a_month: u64, now_ms: u64) -> Result<Purse, Error> {
    let row = first(db, "SELECT left, at_ms FROM feed_purse", (), |row| {
        Ok([row.get::<_, i64>(0)?, row.get(1)?])
    })?;
    let mut purse = match row {
        None => Purse::new(a_month, now_ms),
        Some([left, at_ms]) => Purse::kept(a_month, unsigned(left)?, unsigned(at_ms)?),
    };
    purse.fill(now_ms);
    Ok(purse)
}

/// Pays what was spent since it was kept, in the caller's transaction: another process may have
/// paid from it too. The purse as it is then.
pub(crate) fn keep_purse(db: &Connection, spent: &Purse, now_ms: u64) -> Result<Purse, Error> {
    let mut kept = purse(db, spent.a_month(), now_ms)?;
    kept.pay(spent.spent());
    let (left, at_ms) = kept.to_keep();
    change(
        db,
        "INSERT INTO feed_purse (only, left, at_ms) VALUES (0, ?, ?)
         ON CONFLICT (only) DO UPDATE SET left = excluded.left, at_ms = excluded.at_ms",
        (number(left)?, number(at_ms)?),
    )?;
    purse(db, spent.a_month(), now_ms)
}

/// This client polls without the feed.
pub(crate) fn leave(db: &Connection) -> Result<(), Error> {
    change(db, "DELETE FROM feed", ())
}

/// The service has signed two feeds of one generation: the two ticks that prove it to anybody are
/// kept, and the feed of this generation is not followed any more.
pub(crate) fn forked(db: &Connection, generation: u64, proof: (&[u8], &[u8])) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO feed_forks (generation, one, other) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (number(generation)?, proof.0, proof.1),
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
            let reached = Reached {
                place: at,
                tick: Arc::from(*b"tick"),
            };
            set_reached(&db, &reached).unwrap();
            assert_eq!(place(&db).unwrap(), Some(at));
            assert_eq!(super::reached(&db).unwrap(), Some(reached));
        }
        forked(&db, 7, (b"one", b"other")).unwrap();
        assert_eq!(place(&db).unwrap(), None);
        assert!(is_forked(&db, 7).unwrap() && !is_forked(&db, 8).unwrap());
    }

    #[test]
    fn what_is_paid_from_a_purse_stays_paid_whoever_pays_and_a_smaller_one_holds_at_once() {
        const NOW: u64 = 1_800_000_000_000;
        const A_MONTH: u64 = 30 * 24 * 1_000;
        let db = in_memory().unwrap();
        let mut one = purse(&db, A_MONTH, NOW).unwrap();
        let mut other = one;
        one.pay(600);
        assert_eq!(keep_purse(&db, &one, NOW).unwrap().left(), 400);
        other.pay(300);
        let kept = keep_purse(&db, &other, NOW).unwrap();
        assert_eq!((kept.left(), kept.spent()), (100, 0));
        assert_eq!(purse(&db, A_MONTH, NOW).unwrap(), kept);
        let week_ms = 7 * 24 * 3_600_000;
        let full = purse(&db, A_MONTH, NOW + week_ms).unwrap();
        assert_eq!(full.left(), 168_000);
        keep_purse(&db, &full, NOW + week_ms).unwrap();
        let smaller = purse(&db, A_MONTH / 10, NOW + week_ms).unwrap();
        assert_eq!(smaller.left(), 16_800);
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
