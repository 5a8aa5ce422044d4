//! A connection that is gone is made anew: by a request as any other, which the contact accepts or
//! declines. The contact stays what it is on both sides, as it shows the same identity key.

use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::engine::Engine;
use crate::error::{Error, refusals_can_wait};
use crate::mls::plan::Plan;
use crate::store::connections::{former_with, group_with};
use crate::store::{Group, Status};

/// Whether there was a connection with a contact, and there is none any more: one of both cannot
/// follow it, or was removed from it.
pub(super) fn is_gone(db: &Connection, signature_key: &[u8]) -> Result<bool, Error> {
    Ok(group_with(db, signature_key)?.is_none()
        && !former_with(db, signature_key, None)?.is_empty())
}

impl Engine {
    /// Ends the connection groups with somebody, but this one, that this client is in.
    pub(super) async fn end_former(
        &mut self,
        signature_key: &[u8],
        but: Option<&GroupId>,
    ) -> Result<(), Error> {
        for former in former_with(&self.db, signature_key, but)? {
            if Group::read(&self.db, &former)?.status == Status::Active {
                refusals_can_wait(self.commit(&former, |_| Ok(Plan::Delete)).await)?;
            }
        }
        Ok(())
    }
}
