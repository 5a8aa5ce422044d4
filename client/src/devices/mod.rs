//! The devices of one user.
//!
//! They share the identity key, the connection key and what others know the user by; each has its
//! own leaves and KeyPackages. What one learns it tells the others through a group that only they
//! are in (`GroupKind::SingleUser`). Every device brings the others into the groups that it is in.

mod exchange;
mod invitations;
mod link;
mod remove;
pub(crate) mod sync;

pub(crate) use exchange::{enqueue, receive};
pub use link::LinkCode;
pub(crate) use link::keep_package;

use openmls::prelude::{LeafNodeIndex, MlsGroup};
use protocol::ids::GroupId;
use rusqlite::{Connection, OptionalExtension as _};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::error::{Error, UsageError};
use crate::groups::identities;
use crate::profile::Profile;
use crate::text;

/// Names a device among its user's; random.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, TlsSize, TlsSerialize, TlsDeserializeBytes,
)]
pub(crate) struct DeviceId(pub(crate) [u8; 16]);

/// Longest name of a device, bytes.
pub(crate) const MAX_DEVICE_NAME: usize = 64;

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
fn going(db: &Connection) -> Result<Vec<OtherDevice>, Error> {
    select(db, "going = 1")
}

fn select(db: &Connection, condition: &str) -> Result<Vec<OtherDevice>, Error> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT device_id, name, leaf_index FROM devices WHERE {condition} ORDER BY leaf_index"
    ))?;
    let rows = statement.query_map((), |row| {
        Ok(OtherDevice {
            id: DeviceId(row.get(0)?),
            name: row.get(1)?,
            leaf: row.get(2)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn by_name(db: &Connection, name: &str) -> Result<OtherDevice, Error> {
    let wanted = text::canonical(name);
    others(db)?
        .into_iter()
        .find(|device| device.name == wanted)
        .ok_or_else(|| UsageError::UnknownDevice(name.to_owned()).into())
}

/// The leaf of a device in a group, if it has said so.
fn leaf_of(db: &Connection, device: &DeviceId, group: &GroupId) -> Result<Option<u32>, Error> {
    Ok(db
        .query_row(
            "SELECT leaf_index FROM device_leaves WHERE device_id = ? AND group_id = ?",
            (device.0, group.0),
            |row| row.get(0),
        )
        .optional()?)
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
    db.execute(
        "INSERT OR REPLACE INTO asked_in (group_id, leaf_key) VALUES (?, ?)",
        (group.0, leaf_key),
    )?;
    Ok(())
}

/// The leaves for which this device has asked its user's others to add it to a group. Who was
/// removed has the identity key too: in this user's name nobody brings this device anywhere else.
pub(crate) fn asked_in(db: &Connection, group: &GroupId) -> Result<Vec<Vec<u8>>, Error> {
    let mut statement = db.prepare("SELECT leaf_key FROM asked_in WHERE group_id = ?")?;
    let rows = statement.query_map([group.0], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// This device has been added, in the caller's transaction.
pub(crate) fn came_in(db: &Connection, group: &GroupId) -> Result<(), Error> {
    db.execute("DELETE FROM asked_in WHERE group_id = ?", [group.0])?;
    Ok(())
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
