//! The record at the push sender, and handles that name it (docs/push.md).

use crypto::secret::Secret;
use protocol::ids::GroupId;
use protocol::push::{Handle, MAX_HANDLES};
use protocol::time::DAY_MS;
use rusqlite::Connection;

use crate::error::{Error, LocalError};
use crate::store::acts::{self, Act};
use crate::store::database::{change, column, first, key32, value};

/// Handles in stock.
const STOCK: u16 = 64;
/// With fewer it is filled again, at a time of its own.
const LOW: u16 = 16;
/// A leaf lives for six weeks, and its handle is good for thirteen: one that was in stock for
/// longer is not used.
const FRESH_MS: u64 = 35 * DAY_MS;
/// When the youngest in stock is older, others are fetched, while these are still used.
const YOUNG_MS: u64 = 28 * DAY_MS;
/// By then it has expired.
const EXPIRED_MS: u64 = 100 * DAY_MS;

/// What signs for the record.
pub(crate) struct Owner {
    pub(crate) seed: Secret<32>,
    pub(crate) number: u64,
}

/// The owner key, made if there is none.
pub(crate) fn begin(db: &Connection) -> Result<(), Error> {
    let seed = Secret::<32>::random()?;
    change(
        db,
        "INSERT OR IGNORE INTO push (id, seed, number) VALUES (1, ?, 0)",
        [seed.expose()],
    )
}

/// Who asks, with the next number: it is used up, whatever comes of it.
pub(crate) fn next(db: &Connection) -> Result<Option<Owner>, Error> {
    change(db, "UPDATE push SET number = number + 1", ())?;
    let row = first(db, "SELECT seed, number FROM push", (), |row| {
        Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?))
    })?;
    row.map(|(seed, number)| {
        Ok(Owner {
            seed: Secret::new(key32(&seed)?),
            number: u64::try_from(number).map_err(|_| LocalError::Damaged)?,
        })
    })
    .transpose()
}

/// The push sender has seen this number.
pub(crate) fn seen(db: &Connection, number: u64) -> Result<(), Error> {
    let number = i64::try_from(number).map_err(|_| LocalError::Damaged)?;
    change(db, "UPDATE push SET number = max(number, ?)", [number])
}

pub(crate) fn registered(db: &Connection) -> Result<(), Error> {
    change(db, "UPDATE push SET registered = 1", ())
}

/// Whether the push sender has a record of this device.
pub(crate) fn is_registered(db: &Connection) -> Result<bool, Error> {
    let registered: Option<bool> = value(db, "SELECT registered FROM push", ())?;
    Ok(registered.unwrap_or(false))
}

/// There is no record any more.
pub(crate) fn forget(db: &Connection) -> Result<(), Error> {
    change(db, "DELETE FROM push", ())?;
    change(db, "DELETE FROM push_handles", ())
}

/// Puts handles into the stock.
pub(crate) fn add(db: &Connection, handles: &[Handle], now_ms: u64) -> Result<(), Error> {
    for handle in handles {
        change(
            db,
            "INSERT OR IGNORE INTO push_handles (handle, issued_ms) VALUES (?, ?)",
            (handle, ms(now_ms)),
        )?;
    }
    Ok(())
}

/// Forgets what is too old, and says how many are to be fetched: so many in stock and for groups
/// that wait for one, as long as they are young. Always a whole stock, so that the push sender does
/// not count new leaves.
pub(crate) fn missing(db: &Connection, now_ms: u64) -> Result<u16, Error> {
    change(
        db,
        "DELETE FROM push_handles WHERE issued_ms < ?1 OR (group_id IS NULL AND issued_ms < ?2)",
        (
            ms(now_ms.saturating_sub(EXPIRED_MS)),
            ms(now_ms.saturating_sub(FRESH_MS)),
        ),
    )?;
    let wanted = STOCK.saturating_add(acts::count(db, Act::Extras)?);
    let missing = wanted.saturating_sub(in_stock(db, now_ms.saturating_sub(YOUNG_MS))?);
    let most = u16::try_from(MAX_HANDLES).unwrap_or(u16::MAX);
    Ok(missing
        .checked_next_multiple_of(STOCK)
        .unwrap_or(most)
        .min(most))
}

/// How many in stock were issued since then.
fn in_stock(db: &Connection, since_ms: u64) -> Result<u16, Error> {
    let sql = "SELECT count(*) FROM push_handles WHERE group_id IS NULL AND issued_ms >= ?";
    Ok(value(db, sql, [ms(since_ms)])?.unwrap_or(0))
}

/// Whether a leaf would have to bring random bytes, although the push sender has a record.
pub(crate) fn is_out_of_stock(db: &Connection, now_ms: u64) -> Result<bool, Error> {
    Ok(is_registered(db)? && in_stock(db, now_ms.saturating_sub(FRESH_MS))? == 0)
}

/// What a new leaf in a group brings: a handle that no other leaf has, or random bytes that look
/// like one. In the caller's transaction.
pub(crate) fn handle_for(db: &Connection, id: &GroupId, now_ms: u64) -> Result<Handle, Error> {
    if !is_registered(db)? {
        return Ok(crypto::random()?);
    }
    let fresh_ms = now_ms.saturating_sub(FRESH_MS);
    let sql = "SELECT handle FROM push_handles WHERE group_id IS NULL AND issued_ms >= ?
               ORDER BY issued_ms LIMIT 1";
    let found: Option<Vec<u8>> = value(db, sql, [ms(fresh_ms)])?;
    if in_stock(db, fresh_ms)? <= LOW {
        acts::plan(db, Act::Handles, &[])?;
    }
    let Some(handle) = found else {
        // The leaf gets one later.
        acts::plan(db, Act::Extras, &id.0)?;
        return Ok(crypto::random()?);
    };
    change(
        db,
        "UPDATE push_handles SET group_id = ? WHERE handle = ?",
        (id.0, &handle),
    )?;
    handle.try_into().map_err(|_| LocalError::Damaged.into())
}

/// Plans to end the handles of groups that this client is not in any more, and to fetch others
/// before those in stock are too old. In the caller's transaction.
pub(crate) fn plan_upkeep(db: &Connection, now_ms: u64) -> Result<(), Error> {
    if !is_registered(db)? {
        return Ok(());
    }
    let is_stock_old = in_stock(db, now_ms.saturating_sub(YOUNG_MS))? == 0;
    if is_stock_old || !of_groups_that_are_gone(db, 1)?.is_empty() {
        acts::plan(db, Act::Handles, &[])?;
    }
    Ok(())
}

/// Handles of groups that this client is not in any more: they are to be ended.
pub(crate) fn of_groups_that_are_gone(db: &Connection, most: usize) -> Result<Vec<Handle>, Error> {
    let found: Vec<Vec<u8>> = column(
        db,
        "SELECT handle FROM push_handles WHERE group_id IS NOT NULL AND group_id NOT IN
             (SELECT group_id FROM groups WHERE status IN ('active', 'joining')) LIMIT ?",
        [i64::try_from(most).unwrap_or(i64::MAX)],
    )?;
    found
        .into_iter()
        .map(|handle| handle.try_into().map_err(|_| LocalError::Damaged.into()))
        .collect()
}

pub(crate) fn ended(db: &Connection, handles: &[Handle]) -> Result<(), Error> {
    for handle in handles {
        change(db, "DELETE FROM push_handles WHERE handle = ?", [handle])?;
    }
    Ok(())
}

fn ms(unix_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::groups::tests::group;
    use crate::store::{Group, Status};

    const NOW_MS: u64 = 1_800_000_000_000;

    fn registered_with(handles: u8) -> Connection {
        let db = crate::store::database::in_memory().unwrap();
        begin(&db).unwrap();
        registered(&db).unwrap();
        let handles: Vec<Handle> = (1..=handles).map(|it| [it; 96]).collect();
        add(&db, &handles, NOW_MS).unwrap();
        db
    }

    #[test]
    fn each_leaf_gets_a_handle_of_its_own_and_one_that_looks_alike_when_there_is_none() {
        let db = registered_with(2);
        let taken: std::collections::BTreeSet<Handle> = (0..4)
            .map(|it| handle_for(&db, &GroupId([it; 16]), NOW_MS).unwrap())
            .collect();
        assert_eq!(taken.len(), 4);
        assert!(taken.contains(&[1; 96]) && taken.contains(&[2; 96]));
        assert!(acts::is_planned(&db, Act::Handles).unwrap());
    }

    #[test]
    fn without_a_record_leaves_bring_random_bytes_and_nothing_is_planned() {
        let db = crate::store::database::in_memory().unwrap();
        let id = GroupId([1; 16]);
        let bytes = || handle_for(&db, &id, NOW_MS).unwrap();
        assert_ne!(bytes(), bytes());
        assert!(!acts::is_planned(&db, Act::Handles).unwrap());
    }

    #[test]
    fn handles_of_a_group_that_was_left_are_to_be_ended() {
        let db = registered_with(3);
        let mut stays = group(1, "stays");
        stays.status = Status::Active;
        stays.insert(&db).unwrap();
        handle_for(&db, &GroupId([1; 16]), NOW_MS).unwrap();
        let of_gone = handle_for(&db, &GroupId([2; 16]), NOW_MS).unwrap();
        assert_eq!(of_groups_that_are_gone(&db, 10).unwrap(), [of_gone]);
        acts::done(&db, Act::Handles, &[]).unwrap();
        plan_upkeep(&db, NOW_MS).unwrap();
        assert!(acts::is_planned(&db, Act::Handles).unwrap());
        ended(&db, &[of_gone]).unwrap();
        assert!(of_groups_that_are_gone(&db, 10).unwrap().is_empty());
        assert!(Group::find(&db, &GroupId([1; 16])).unwrap().is_some());
    }

    #[test]
    fn what_grew_old_in_stock_is_not_used_and_others_are_fetched_before() {
        let db = registered_with(64);
        let id = GroupId([1; 16]);
        let at = |days: u64| NOW_MS + days * DAY_MS;
        plan_upkeep(&db, at(27)).unwrap();
        assert!(!acts::is_planned(&db, Act::Handles).unwrap());
        plan_upkeep(&db, at(29)).unwrap();
        assert!(acts::is_planned(&db, Act::Handles).unwrap());
        assert_eq!(missing(&db, at(29)).unwrap(), STOCK);
        let of_stock = |handle: Handle| (1..=64).any(|it| handle == [it; 96]);
        assert!(of_stock(handle_for(&db, &id, at(34)).unwrap()));
        assert!(!of_stock(handle_for(&db, &id, at(36)).unwrap()));
        add(&db, &[[99; 96]], at(36)).unwrap();
        assert_eq!(handle_for(&db, &id, at(36)).unwrap(), [99; 96]);
    }

    #[test]
    fn a_leaf_without_a_handle_gets_one_later_and_so_many_more_are_fetched() {
        let db = registered_with(0);
        assert!(is_out_of_stock(&db, NOW_MS).unwrap());
        assert_eq!(missing(&db, NOW_MS).unwrap(), STOCK);
        for it in 0..70 {
            handle_for(&db, &GroupId([it; 16]), NOW_MS).unwrap();
        }
        assert_eq!(acts::count(&db, Act::Extras).unwrap(), 70);
        assert_eq!(missing(&db, NOW_MS).unwrap(), 3 * STOCK);
        add(&db, &[[1; 96]], NOW_MS).unwrap();
        assert!(!is_out_of_stock(&db, NOW_MS).unwrap());
    }

    #[test]
    fn a_number_is_used_once_and_never_below_what_was_seen() {
        let db = registered_with(0);
        let number = || next(&db).unwrap().unwrap().number;
        assert_eq!((number(), number()), (1, 2));
        seen(&db, 40).unwrap();
        seen(&db, 3).unwrap();
        assert_eq!(number(), 41);
    }
}
