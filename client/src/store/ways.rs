//! Ways into groups, for devices of one user.

use protocol::Wire as _;
use protocol::ids::GroupId;
use protocol::time::DAY_MS;
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::error::{Error, LocalError};
use crate::store::database::{change, column, rows, value};
use crate::store::groups::{Group, Status};
use crate::sync_message::{DeviceId, WayIn};

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

/// The device at this leaf of the devices' group is invited again at once.
pub(crate) fn invite_device_again(
    db: &Connection,
    leaf: u32,
    group: &GroupId,
) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM device_invitations WHERE group_id = ?
            AND device_id = (SELECT device_id FROM devices WHERE leaf_index = ?)",
        (group.0, leaf),
    )
}

/// A device was invited just now.
pub(crate) fn invite(
    db: &Connection,
    device: &DeviceId,
    group: &GroupId,
    now_ms: u64,
) -> Result<(), Error> {
    change(
        db,
        "INSERT OR REPLACE INTO device_invitations VALUES (?, ?, ?)",
        (device.0, group.0, i64::try_from(now_ms).unwrap_or(i64::MAX)),
    )
}

/// The ways in that this device was given.
pub(crate) fn all(db: &Connection) -> Result<Vec<WayIn>, Error> {
    let ways: Vec<Vec<u8>> = column(db, "SELECT way FROM ways_in", ())?;
    ways.into_iter()
        .map(|way| WayIn::decode(&Zeroizing::new(way)).map_err(|_| LocalError::Damaged.into()))
        .collect()
}

/// The KeyPackages of devices that ask to be added by a commit.
pub(crate) fn to_add(db: &Connection) -> Result<Vec<(GroupId, Vec<u8>)>, Error> {
    rows(
        db,
        "SELECT group_id, key_package FROM clients_to_add",
        (),
        |row| Ok((GroupId(row.get(0)?), row.get(1)?)),
    )
}

/// It is added, or cannot be.
pub(crate) fn added(db: &Connection, group: &GroupId, key_package: &[u8]) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM clients_to_add WHERE group_id = ? AND key_package = ?",
        (group.0, key_package),
    )
}
