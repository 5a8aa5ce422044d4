//! Taking consent back: requests are cancelled or declined, connections end.

use protocol::codec::opaque;
use protocol::group::GroupKind;
use protocol::ids::GroupId;
use rusqlite::{Connection, OptionalExtension as _};

use crate::contacts;
use crate::devices::{self, sync::SyncMessage};
use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::groups::commit::Plan;
use crate::groups::{Group, Status};

/// The connection group with a contact, if there is one that this client is in.
pub(crate) fn group_with(db: &Connection, signature_key: &[u8]) -> Result<Option<GroupId>, Error> {
    Ok(db
        .query_row(
            "SELECT groups.group_id FROM groups JOIN identities USING (group_id)
             WHERE kind = ? AND status = 'active' AND signature_key = ? LIMIT 1",
            (GroupKind::Connection as u8, signature_key),
            |row| Ok(GroupId(row.get(0)?)),
        )
        .optional()?)
}

/// The connection group is gone for this client: the other one has ended the connection, or
/// cancelled it.
pub(crate) fn ended(db: &Connection, group: &GroupId, own_key: &[u8]) -> Result<(), Error> {
    let key: Option<Vec<u8>> = db
        .query_row(
            "SELECT signature_key FROM identities
             WHERE group_id = ? AND signature_key IS NOT NULL AND signature_key != ? LIMIT 1",
            (group.0, own_key),
            |row| row.get(0),
        )
        .optional()?;
    let Some(key) = key else {
        return Ok(());
    };
    if let Some(name) = contacts::name_of_key(db, &key)? {
        contacts::forget(db, &key)?;
        crate::events::store(db, &crate::events::Event::Disconnected { name })?;
    }
    Ok(())
}

impl Engine {
    /// Takes back a request of this user's that nobody has accepted: its group is deleted, so that
    /// it leads nowhere.
    ///
    /// # Errors
    /// [`UsageError::UnknownRequest`]; [`UsageError::AlreadyConnected`] if it was accepted
    /// meanwhile.
    pub(crate) async fn cancel_request(&mut self, handle: &str) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.sync().await?;
        let asked: Option<[u8; 16]> = self
            .db
            .query_row(
                "SELECT group_id FROM outgoing_requests WHERE handle = ?",
                [handle],
                |row| row.get(0),
            )
            .optional()?;
        let Some(group) = asked.map(GroupId) else {
            return Err(match contacts::by_name(&self.db, handle) {
                Ok(_) => UsageError::AlreadyConnected(handle.to_owned()).into(),
                Err(_) => UsageError::UnknownRequest(handle.to_owned()).into(),
            });
        };
        if Group::find(&self.db, &group)?.is_some_and(|group| group.status == Status::Active) {
            self.commit(&group, |client| {
                still_asked_for(&client.db, handle)?;
                Ok(Plan::Delete)
            })
            .await?;
        }
        self.transact(|db, _| {
            db.execute(
                "DELETE FROM outgoing_requests WHERE group_id = ?",
                [group.0],
            )?;
            Group::delete(db, &group)
        })
    }

    /// Ends a connection: its group is deleted, both sides forget each other, and the token that
    /// the former contact knows finds nothing any more. The groups that both are in stay.
    ///
    /// # Errors
    /// [`UsageError::UnknownContact`].
    pub(crate) async fn disconnect(&mut self, contact: &str) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.sync().await?;
        let key = contacts::by_name(&self.db, contact)?.signature_key;
        if let Some(group) = group_with(&self.db, &key)? {
            self.commit(&group, |_| Ok(Plan::Delete)).await?;
            self.transact(|db, _| Group::delete(db, &group))?;
        }
        self.transact(|db, _| {
            contacts::forget(db, &key)?;
            devices::enqueue(db, SyncMessage::ContactGone(opaque(key.as_slice())))
        })?;
        self.sync().await
    }
}

fn still_asked_for(db: &Connection, handle: &str) -> Result<(), Error> {
    match contacts::by_name(db, handle) {
        Ok(_) => Err(UsageError::AlreadyConnected(handle.to_owned()).into()),
        Err(_) => Ok(()),
    }
}
