//! Taking consent back: requests are cancelled or declined, connections end.

use protocol::codec::opaque;
use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::mls::plan::Plan;
use crate::store::connections::{self, group_with};
use crate::store::{Group, Status, contacts, sync_outbox};
use crate::sync_message::SyncMessage;

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
        let asked: Option<[u8; 16]> = connections::group_of_request(&self.db, handle)?;
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
            connections::forget_outgoing(db, &group)?;
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
            sync_outbox::enqueue(db, SyncMessage::ContactGone(opaque(key.as_slice())))
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
