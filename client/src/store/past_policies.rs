//! Policies of past epochs: messages of them may still come.

use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::error::{Error, LocalError};
use crate::store::database::{change, value};
use crate::store::mls::PAST_EPOCHS;

/// Keeps the policy of the epoch that is about to end, encoded, if there is one; and forgets those
/// of which nothing can be read any more.
pub(crate) fn keep(
    db: &Connection,
    group: &GroupId,
    epoch: u64,
    policy: Option<&[u8]>,
) -> Result<(), Error> {
    let epoch = i64::try_from(epoch).map_err(|_| LocalError::Damaged)?;
    if let Some(policy) = policy {
        change(
            db,
            "INSERT OR REPLACE INTO past_policies (group_id, epoch, policy) VALUES (?, ?, ?)",
            (group.0, epoch, policy),
        )?;
    }
    let oldest = epoch.saturating_sub(i64::try_from(PAST_EPOCHS).unwrap_or(0));
    change(
        db,
        "DELETE FROM past_policies WHERE group_id = ? AND epoch < ?",
        (group.0, oldest),
    )
}

/// The policy of a past epoch.
pub(crate) fn of(db: &Connection, group: &GroupId, epoch: u64) -> Result<Option<Vec<u8>>, Error> {
    value(
        db,
        "SELECT policy FROM past_policies WHERE group_id = ? AND epoch = ?",
        (group.0, i64::try_from(epoch).unwrap_or(i64::MAX)),
    )
}
