//! Ways into groups, for devices of one user.

use protocol::Wire as _;
use protocol::ids::GroupId;
use protocol::time::DAY_MS;
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::store::database::{change, value};
use crate::store::groups::{Group, Status};
use crate::sync_message::WayIn;

/// and a device that has not come is given a new one after so long.
pub(crate) const AGAIN_MS: u64 = 5 * DAY_MS;

/// Keeps a way in, in the caller's transaction, if this device is not in that group.
pub(crate) fn keep(db: &Connection, way: &WayIn) -> Result<(), Error> {
    let status = Group::find(db, &way.link.group_id)?.map(|group| group.status);
    if matches!(status, Some(Status::Active | Status::Joining)) {
        return Ok(());
    }
    change(
        db,
        "INSERT OR REPLACE INTO ways_in (group_id, way) VALUES (?, ?)",
        (way.link.group_id.0, &*Zeroizing::new(way.encode())),
    )
}

pub(crate) fn invited(
    db: &Connection,
    device: &[u8],
    group: &GroupId,
    now_ms: u64,
) -> Result<bool, Error> {
    let sent: Option<i64> = value(
        db,
        "SELECT sent_ms FROM device_invitations WHERE device_id = ? AND group_id = ?",
        (device, group.0),
    )?;
    Ok(sent.is_some_and(|sent| {
        let sent = u64::try_from(sent).unwrap_or(0);
        now_ms.abs_diff(sent) < AGAIN_MS
    }))
}

/// A device asks to be added by a commit.
pub(crate) fn ask_to_add(
    db: &Connection,
    group: &GroupId,
    key_package: &[u8],
) -> Result<(), Error> {
    change(
        db,
        "INSERT OR IGNORE INTO clients_to_add VALUES (?, ?)",
        (group.0, key_package),
    )
}

pub(crate) fn done(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(db, "DELETE FROM ways_in WHERE group_id = ?", [group.0])
}

/// Whoever is not in the group is invited again at once.
pub(crate) fn invite_again(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM device_invitations WHERE group_id = ?",
        [group.0],
    )
}
