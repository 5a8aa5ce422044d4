//! When the leaves of this client are replaced.

use protocol::ids::GroupId;
use protocol::time::DAY_MS;
use rusqlite::Connection;

use crate::error::{Error, LocalError};
use crate::store::database::{change, value};

/// After so many messages in an epoch a sender begins the next one,
pub(crate) const MESSAGES: u32 = 4_000;

pub(crate) fn number(epoch: u64) -> Result<i64, Error> {
    i64::try_from(epoch).map_err(|_| LocalError::Damaged.into())
}

/// Counts a message of this client, in the transaction that takes its key.
pub(crate) fn count_message(db: &Connection, id: &GroupId, epoch: u64) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO upkeep (group_id, epoch, sent) VALUES (?, ?, 1)
         ON CONFLICT (group_id) DO UPDATE SET
            sent = CASE epoch WHEN excluded.epoch THEN sent + 1 ELSE 1 END, epoch = excluded.epoch",
        (id.0, number(epoch)?),
    )
}

/// Messages of this client in an epoch.
pub(crate) fn sent_in(db: &Connection, id: &GroupId, epoch: u64) -> Result<u32, Error> {
    Ok(value(
        db,
        "SELECT sent FROM upkeep WHERE group_id = ? AND epoch = ?",
        (id.0, number(epoch)?),
    )?
    .unwrap_or(0))
}

/// A member's keys of this epoch are not those that its readers have: a new epoch gives it new
/// ones.
pub(crate) fn heal_after(db: &Connection, id: &GroupId, epoch: u64) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO upkeep (group_id, heal_after) VALUES (?, ?)
         ON CONFLICT (group_id) DO UPDATE SET heal_after = excluded.heal_after",
        (id.0, number(epoch)?),
    )
}

/// The keys of this client may be in use elsewhere: it sends nothing before it has others, in any
/// group.
pub(crate) fn renew_everywhere(db: &Connection) -> Result<(), Error> {
    change(db, "INSERT INTO upkeep (group_id, renew) SELECT group_id, 1 FROM groups WHERE status = 'active'
         ON CONFLICT (group_id) DO UPDATE SET renew = 1", (),)?;
    // Two homes would come to the same key.
    db.prepare_cached("DELETE FROM restored_leaves")?
        .execute(())?;
    Ok(())
}

/// As [`renew_everywhere`], in one group.
pub(crate) fn renew(db: &Connection, id: &GroupId) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO upkeep (group_id, renew) VALUES (?, 1)
         ON CONFLICT (group_id) DO UPDATE SET renew = 1",
        [id.0],
    )
}

/// This client has a new leaf, in the caller's transaction.
pub(crate) fn renewed(db: &Connection, id: &GroupId) -> Result<(), Error> {
    change(db, "UPDATE upkeep SET renew = 0 WHERE group_id = ?", [id.0])
}

pub(crate) fn latest_renewal(now_ms: u64, members: usize) -> u64 {
    let by_size = u64::try_from(members / 20).unwrap_or(u64::MAX);
    let days = by_size.max(30).saturating_add(15);
    now_ms.saturating_add(days.saturating_mul(DAY_MS))
}

/// When the own leaf is renewed next, in the caller's transaction: every 30 to 45 days, in a large
/// group as often as it has twenties of members. For post-compromise security, and since the
/// service takes who never commits for gone.
pub(crate) fn plan_renewal(
    db: &Connection,
    id: &GroupId,
    now_ms: u64,
    members: usize,
) -> Result<(), Error> {
    let half_days = u64::from(u16::from_be_bytes(crypto::random()?)) % 31;
    let early_ms = half_days.saturating_mul(DAY_MS / 2);
    let due_ms = latest_renewal(now_ms, members).saturating_sub(early_ms);
    change(
        db,
        "UPDATE groups SET renewal_ms = ? WHERE group_id = ?",
        (i64::try_from(due_ms).unwrap_or(i64::MAX), id.0),
    )
}

pub(crate) fn must_renew(db: &Connection, id: &GroupId) -> Result<bool, Error> {
    Ok(value(db, "SELECT renew FROM upkeep WHERE group_id = ?", [id.0])?.unwrap_or(false))
}

/// When the own leaf is replaced at the latest.
pub(crate) fn renewal_ms(db: &Connection, group: &GroupId) -> Result<i64, Error> {
    Ok(db
        .prepare_cached("SELECT renewal_ms FROM groups WHERE group_id = ?")?
        .query_row([group.0], |row| row.get(0))?)
}

pub(crate) fn healed(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(
        db,
        "UPDATE upkeep SET heal_after = NULL WHERE group_id = ?",
        [group.0],
    )
}

/// The epoch after which a member can be read again who could not be.
pub(crate) fn heal_due(db: &Connection, group: &GroupId) -> Result<Option<i64>, Error> {
    let due: Option<Option<i64>> = value(
        db,
        "SELECT heal_after FROM upkeep WHERE group_id = ?",
        [group.0],
    )?;
    Ok(due.flatten())
}
