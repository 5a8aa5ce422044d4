//! A device that was lost is removed by another one.

use openmls::prelude::LeafNodeIndex;
use protocol::groups::GroupKind;
use protocol::ids::GroupId;
use rusqlite::Connection;

use super::exchange::forget_removed;
use super::{OtherDevice, by_name, leaf_of, others, own_leaves};
use crate::Client;
use crate::error::Error;
use crate::groups::commit::Plan;
use crate::groups::{Group, Status, load_mls};

/// The leaves of a device in a group. Where it has not said which is its own, those that no other device
/// has claimed: a device that is removed by mistake is invited again.
fn leaves_of(
    db: &Connection,
    group: &Group,
    device: &OtherDevice,
) -> Result<Vec<LeafNodeIndex>, Error> {
    let mls_group = load_mls(db, &group.id)?;
    if group.kind == GroupKind::SingleUser {
        return Ok(vec![LeafNodeIndex::new(device.leaf)]);
    }
    let (_, leaves) = own_leaves(db, &group.id, &mls_group)?;
    if let Some(leaf) = leaf_of(db, &device.id, &group.id)? {
        let leaf = LeafNodeIndex::new(leaf);
        return Ok(leaves.into_iter().filter(|own| *own == leaf).collect());
    }
    let mut unclaimed: Vec<LeafNodeIndex> = leaves
        .into_iter()
        .filter(|leaf| *leaf != mls_group.own_leaf_index())
        .collect();
    for other in others(db)? {
        let claimed = leaf_of(db, &other.id, &group.id)?.map(LeafNodeIndex::new);
        unclaimed.retain(|leaf| Some(*leaf) != claimed);
    }
    Ok(unclaimed)
}

impl Client {
    /// Removes another device of this user from all groups, from the KeyPackage sets and from the handle;
    /// contacts get a new connection token. What it had, it keeps: the identity key among it.
    ///
    /// # Errors
    /// [`UsageError::UnknownDevice`].
    pub async fn unlink_device(&mut self, name: &str) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.sync(0).await?;
        let device = by_name(&self.db, name)?;
        // First where it learns what the others do.
        let mut groups = Group::all(&self.db)?;
        groups.sort_by_key(|group| group.kind != GroupKind::SingleUser);
        for group in groups {
            if group.status == Status::Active {
                self.remove_leaves_of(&group.id, &device).await?;
            }
        }
        if let Some(group) = self.devices_group()? {
            self.transact(|db, _| forget_removed(db, &group))?;
        }
        self.rotate_connection_token().await?;
        if self.profile.handle.is_some() {
            self.rotate_handle_keys().await?;
        }
        self.sync(0).await
    }

    async fn remove_leaves_of(&mut self, id: &GroupId, device: &OtherDevice) -> Result<(), Error> {
        let group = Group::read(&self.db, id)?;
        if leaves_of(&self.db, &group, device)?.is_empty() {
            return Ok(());
        }
        self.commit(id, |client| {
            let leaves = leaves_of(&client.db, &group, device)?;
            Ok(Plan::RemoveClients(leaves))
        })
        .await?;
        self.db.execute(
            "DELETE FROM device_leaves WHERE device_id = ? AND group_id = ?",
            (device.id.0, id.0),
        )?;
        Ok(())
    }
}
