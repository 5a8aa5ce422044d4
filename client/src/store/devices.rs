//! The devices of one user.

use openmls::prelude::{LeafNodeIndex, MlsGroup};
use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::error::{Error, UsageError};
use crate::store::database::{change, column, is_there, rows, value};
use crate::store::events::{self, Event};
use crate::store::groups::Group;
use crate::store::identities;
use crate::store::mls::load_mls;
use crate::store::profile::Profile;
use crate::sync_message::{DeviceId, Hello, MAX_DEVICE_NAME};
use crate::text;

/// A device as its user sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Device {
    /// As it was called when it was linked.
    pub name: String,
    /// This one.
    pub own: bool,
}

/// Another device of this user.
pub(crate) struct OtherDevice {
    pub(crate) id: DeviceId,
    pub(crate) name: String,
    /// In the devices' own group.
    pub(crate) leaf: u32,
}

/// All others, by leaf.
pub(crate) fn others(db: &Connection) -> Result<Vec<OtherDevice>, Error> {
    select(db, "TRUE")
}

/// Those that are being removed.
pub(crate) fn going(db: &Connection) -> Result<Vec<OtherDevice>, Error> {
    select(db, "going = 1")
}

fn select(db: &Connection, condition: &str) -> Result<Vec<OtherDevice>, Error> {
    rows(
        db,
        &format!(
            "SELECT device_id, name, leaf_index FROM devices WHERE {condition} ORDER BY leaf_index"
        ),
        (),
        |row| {
            Ok(OtherDevice {
                id: DeviceId(row.get(0)?),
                name: row.get(1)?,
                leaf: row.get(2)?,
            })
        },
    )
}

pub(crate) fn by_name(db: &Connection, name: &str) -> Result<OtherDevice, Error> {
    let wanted = text::canonical(name);
    others(db)?
        .into_iter()
        .find(|device| device.name == wanted)
        .ok_or_else(|| UsageError::UnknownDevice(name.to_owned()).into())
}

/// The leaf of a device in a group, if it has said so.
pub(crate) fn leaf_of(
    db: &Connection,
    device: &DeviceId,
    group: &GroupId,
) -> Result<Option<u32>, Error> {
    value(
        db,
        "SELECT leaf_index FROM device_leaves WHERE device_id = ? AND group_id = ?",
        (device.0, group.0),
    )
}

/// The user pseudonym of this user in a group, and all leaves under it, the own one included.
pub(crate) fn own_leaves(
    db: &Connection,
    group: &GroupId,
    mls_group: &MlsGroup,
) -> Result<(Vec<u8>, Vec<LeafNodeIndex>), Error> {
    let own = mls_group.own_leaf_index();
    let mut pseudonym = Vec::new();
    let mut users = Vec::new();
    for member in mls_group.members() {
        let identity = identities::of(db, group, &member.credential)?;
        let user = identity.map(|identity| identity.user_pseudonym);
        if member.index == own {
            pseudonym = user.clone().unwrap_or_default();
        }
        users.push((member.index, user.unwrap_or_default()));
    }
    let leaves = users
        .into_iter()
        .filter(|(_, user)| *user == pseudonym)
        .map(|(index, _)| index)
        .collect();
    Ok((pseudonym, leaves))
}

/// Whether this device's leaf is the first of its user's in a group.
pub(crate) fn is_first(
    db: &Connection,
    group: &GroupId,
    mls_group: &MlsGroup,
) -> Result<bool, Error> {
    let (_, leaves) = own_leaves(db, group, mls_group)?;
    Ok(leaves.first() == Some(&mls_group.own_leaf_index()))
}

/// Remembers the leaf for which this device has asked to be added to a group, in the caller's
/// transaction.
pub(crate) fn ask_in(db: &Connection, group: &GroupId, leaf_key: &[u8]) -> Result<(), Error> {
    change(
        db,
        "INSERT OR REPLACE INTO asked_in (group_id, leaf_key) VALUES (?, ?)",
        (group.0, leaf_key),
    )
}

/// The leaves for which this device has asked its user's others to add it to a group. Who was
/// removed has the identity key too: in this user's name nobody brings this device anywhere else.
pub(crate) fn asked_in(db: &Connection, group: &GroupId) -> Result<Vec<Vec<u8>>, Error> {
    column(
        db,
        "SELECT leaf_key FROM asked_in WHERE group_id = ?",
        [group.0],
    )
}

/// This device has been added, in the caller's transaction.
pub(crate) fn came_in(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(db, "DELETE FROM asked_in WHERE group_id = ?", [group.0])
}

/// This user's devices: this one first.
///
/// # Errors
/// [`Error::Local`].
pub(crate) fn devices(db: &Connection, profile: &Profile) -> Result<Vec<Device>, Error> {
    let mut devices = vec![Device {
        name: profile.device_name.clone(),
        own: true,
    }];
    devices.extend(others(db)?.into_iter().map(|device| Device {
        name: device.name,
        own: false,
    }));
    Ok(devices)
}

pub(crate) fn free_name(db: &Connection, profile: &Profile, said: &Hello) -> Result<String, Error> {
    let said_name = String::from_utf8_lossy(said.name.as_slice());
    let wanted = text::received(&said_name, MAX_DEVICE_NAME);
    let taken = wanted.is_empty()
        || wanted == profile.device_name
        || is_there(
            db,
            "SELECT 1 FROM devices WHERE name = ? AND device_id != ?",
            (&wanted, said.device.0),
        )?;
    let DeviceId([first, second, ..]) = said.device;
    Ok(if taken {
        format!("{wanted}-{first:02x}{second:02x}")
    } else {
        wanted
    })
}

/// Devices whose leaf is gone are no devices of this user any more; not before they are gone from
/// all groups.
pub(crate) fn forget_removed(db: &Connection, group: &Group) -> Result<(), Error> {
    let mls_group = load_mls(db, &group.id)?;
    let going: Vec<_> = going(db)?.into_iter().map(|it| it.id).collect();
    for device in others(db)? {
        if !going.contains(&device.id)
            && mls_group.member(LeafNodeIndex::new(device.leaf)).is_none()
        {
            change(db, "DELETE FROM devices WHERE device_id = ?", [device.id.0])?;
            change(db, "DELETE FROM key_package_batch", ())?;
            events::store(db, &Event::DeviceRemoved { name: device.name })?;
        }
    }
    Ok(())
}

/// What a removed device still knows (column `keys_due`).
pub(crate) const ALL_KEYS: u8 = 3;

pub(crate) const HANDLE_KEYS: u8 = 2;

pub(crate) fn keys_due(db: &Connection) -> Result<u8, Error> {
    Ok(db
        .prepare_cached("SELECT keys_due FROM profile")?
        .query_row((), |row| row.get(0))?)
}

/// Marks a device, in the caller's transaction: from now on its removal is gone on with until it is
/// whole.
pub(crate) fn begin(db: &Connection, device: &OtherDevice) -> Result<(), Error> {
    change(
        db,
        "UPDATE devices SET going = 1 WHERE device_id = ?",
        [device.id.0],
    )?;
    change(db, "UPDATE profile SET keys_due = ?", [ALL_KEYS])
}

/// A device is gone from all groups.
pub(crate) fn gone(db: &Connection, device: &DeviceId) -> Result<(), Error> {
    change(
        db,
        "UPDATE devices SET going = 0 WHERE device_id = ?",
        [device.0],
    )
}

/// The device at this leaf of the devices' group has said which leaf of another group is its own.
pub(crate) fn is_in(
    db: &Connection,
    leaf: u32,
    group: &GroupId,
    leaf_there: u32,
) -> Result<(), Error> {
    change(
        db,
        "INSERT OR REPLACE INTO device_leaves (device_id, group_id, leaf_index)
         SELECT device_id, ?, ? FROM devices WHERE leaf_index = ?",
        (group.0, leaf_there, leaf),
    )
}

/// A device has no leaf in a group any more.
pub(crate) fn is_out(db: &Connection, device: &DeviceId, group: &GroupId) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM device_leaves WHERE device_id = ? AND group_id = ?",
        (device.0, group.0),
    )
}

/// The leaf of a device in the devices' group.
pub(crate) fn place(db: &Connection, device: &DeviceId) -> Result<Option<u32>, Error> {
    value(
        db,
        "SELECT leaf_index FROM devices WHERE device_id = ?",
        [device.0],
    )
}

/// A device is at this leaf of the devices' group; whoever had it has left it.
pub(crate) fn keep(db: &Connection, device: &DeviceId, name: &str, leaf: u32) -> Result<(), Error> {
    change(db, "DELETE FROM devices WHERE leaf_index = ?", [leaf])?;
    change(
        db,
        "INSERT INTO devices (device_id, name, leaf_index) VALUES (?, ?, ?)
         ON CONFLICT (device_id) DO UPDATE SET leaf_index = excluded.leaf_index",
        (device.0, name, leaf),
    )
}
