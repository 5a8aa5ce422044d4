//! Connection tokens: one for each contact, which change, so that whoever knows a former one finds
//! nothing.

use crate::engine::Engine;
use crate::error::{Error, refusals_can_wait};
use crate::flows::act::in_any_order;
use crate::mls::content::Content;
use crate::store::connections::group_with;
use crate::store::pools::renew_pool;
use crate::store::{contacts, key_packages, profile};
use crate::sync_message::{ConnectionUpdate, UPDATE_VERSION};

impl Engine {
    /// New pools for all contacts, under tokens that a removed device does not have; the former
    /// ones are deleted, and the contacts told.
    pub(crate) async fn rotate_connection_tokens(&mut self) -> Result<(), Error> {
        self.transact(|db, _| {
            for contact in contacts::all(db)? {
                renew_pool(db, contact)?;
            }
            key_packages::forget_batch(db)?;
            profile::tokens_are_new(db)
        })?;
        self.settle_tokens().await
    }

    /// Publishes for contacts who are to be told, tells them, and has former pools deleted.
    pub(crate) async fn settle_tokens(&mut self) -> Result<(), Error> {
        let due = contacts::to_tell(&self.db)?;
        for (key, pool) in in_any_order(contacts::pools(&self.db)?)? {
            if !due.contains(&key) {
                continue;
            }
            if self.has_acted() {
                return Ok(());
            }
            self.publish_alone(&key, &pool).await?;
            // Where there is no way to tell: the contact has to connect again.
            if let Some(group) = group_with(&self.db, &key)? {
                let update = ConnectionUpdate {
                    version: UPDATE_VERSION,
                    connection_token: pool.token().to_wire(),
                };
                let told = self
                    .send_content(&group, &Content::Connection(update))
                    .await;
                if told.is_err() {
                    // Others hear of it all the same.
                    refusals_can_wait(told)?;
                    continue;
                }
            }
            contacts::told(&self.db, &key)?;
        }
        self.delete_retired_pools().await
    }
}
