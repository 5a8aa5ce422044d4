//! A device that was lost is removed by another one.

use openmls::prelude::LeafNodeIndex;
use protocol::group::GroupKind;
use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::engine::Engine;
use crate::error::Error;
use crate::mls::plan::Plan;
use crate::store::devices::{
    self, ALL_KEYS, HANDLE_KEYS, OtherDevice, begin, by_name, forget_removed, going, keys_due,
    leaf_of, others, own_leaves,
};
use crate::store::{Group, Status, load_mls, profile, ways};

/// The leaves of a device in a group: those that no device claims that stays. What a lost device
/// has said of itself need not be true. A device that is removed by mistake is invited again.
fn leaves_of(
    db: &Connection,
    group: &Group,
    device: &OtherDevice,
) -> Result<Vec<LeafNodeIndex>, Error> {
    let mls_group = load_mls(db, &group.id)?;
    if group.kind == GroupKind::SingleUser {
        let leaf = LeafNodeIndex::new(device.leaf);
        // Not there when that part is done already.
        return Ok(mls_group.member(leaf).map(|_| leaf).into_iter().collect());
    }
    let (_, leaves) = own_leaves(db, &group.id, &mls_group)?;
    let mut unclaimed: Vec<LeafNodeIndex> = leaves
        .into_iter()
        .filter(|leaf| *leaf != mls_group.own_leaf_index())
        .collect();
    let going: Vec<_> = going(db)?.into_iter().map(|it| it.id).collect();
    for other in others(db)? {
        if other.id == device.id || going.contains(&other.id) {
            continue;
        }
        let claimed = leaf_of(db, &other.id, &group.id)?.map(LeafNodeIndex::new);
        unclaimed.retain(|leaf| Some(*leaf) != claimed);
    }
    Ok(unclaimed)
}

/// The first of two refusals; nothing can wait where no answer comes.
fn first_refusal(
    before: Result<(), Error>,
    done: Result<(), Error>,
) -> Result<Result<(), Error>, Error> {
    match done {
        Err(error @ (Error::Unreachable(_) | Error::Local(_))) => Err(error),
        done => Ok(before.and(done)),
    }
}

impl Engine {
    /// Removes another device of this user from all groups, from the KeyPackage sets and from the
    /// handle; contacts get a new connection token. What it had, it keeps: the identity key among
    /// it. What is cut off is gone on with by [`Client::sync`].
    ///
    /// # Errors
    /// [`UsageError::UnknownDevice`].
    pub(crate) async fn unlink_device(&mut self, name: &str) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.sync().await?;
        let device = by_name(&self.db, name)?;
        self.transact(|db, _| begin(db, &device))?;
        self.go_on_removing().await?;
        self.sync().await
    }

    /// As [`Client::unlink_device`] for every other device, those too that have not said their
    /// names. Returns the names of the others.
    ///
    /// # Errors
    /// Whatever the requests meet; it can be called again then.
    pub(crate) async fn unlink_other_devices(&mut self) -> Result<Vec<String>, Error> {
        let _held = self.hold().await?;
        self.sync().await?;
        let devices = others(&self.db)?;
        self.transact(|db, _| devices.iter().try_for_each(|device| begin(db, device)))?;
        self.go_on_removing().await?;
        self.remove_nameless().await?;
        self.sync().await?;
        Ok(devices.into_iter().map(|device| device.name).collect())
    }

    /// Clients of this user that are in its groups and are no device that it knows.
    async fn remove_nameless(&mut self) -> Result<(), Error> {
        for group in Group::all(&self.db)? {
            if group.status != Status::Active {
                continue;
            }
            if self.other_own_leaves(&group.id)?.is_empty() {
                continue;
            }
            profile::set_keys_due(&self.db, ALL_KEYS)?;
            self.remove_other_own_leaves(&group.id).await?;
        }
        self.go_on_removing().await
    }

    /// Brings the removal of devices to its end, and gives new keys to whoever knew theirs. What is
    /// refused of it holds up nothing else, and is gone on with.
    pub(crate) async fn go_on_removing(&mut self) -> Result<(), Error> {
        let devices = going(&self.db)?;
        if keys_due(&self.db)? == 0 && devices.is_empty() {
            return Ok(());
        }
        let mut refused = Ok(());
        // First where it learns what the others do.
        let mut groups = Group::all(&self.db)?;
        groups.sort_by_key(|group| group.kind != GroupKind::SingleUser);
        for device in devices {
            let mut removed = Ok(());
            for group in &groups {
                if group.status == Status::Active {
                    let done = self.remove_leaves_of(&group.id, &device).await;
                    removed = first_refusal(removed, done)?;
                }
            }
            if removed.is_ok() {
                devices::gone(&self.db, &device.id)?;
            }
            refused = first_refusal(refused, removed)?;
        }
        if let Some(group) = self.devices_group()? {
            self.transact(|db, _| forget_removed(db, &group))?;
        }
        let due = keys_due(&self.db)?;
        if due != HANDLE_KEYS && due != 0 {
            let rotated = self.rotate_connection_tokens().await;
            refused = first_refusal(refused, rotated)?;
        }
        if due & HANDLE_KEYS != 0 && self.profile.handle.is_some() {
            let rotated = self.rotate_handle_keys().await;
            refused = first_refusal(refused, rotated)?;
        } else if due & HANDLE_KEYS != 0 {
            profile::handle_keys_are_new(&self.db)?;
        }
        refused
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
        self.transact(|db, _| {
            devices::is_out(db, &device.id, id)?;
            // Whoever has gone with it, since it had not said yet where it is, comes back at once.
            ways::invite_again(db, id)?;
            Ok(())
        })
    }
}
