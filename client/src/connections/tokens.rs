//! Connection tokens: one for each contact, which change, so that whoever knows a former one finds
//! nothing.

use protocol::codec::WireSecret;
use rusqlite::Connection;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use super::withdraw::group_with;
use crate::contacts::{self, NewContact, PoolKeys};
use crate::devices::enqueue;
use crate::devices::sync::SyncMessage;
use crate::engine::Engine;
use crate::engine::refusals_can_wait;
use crate::error::Error;
use crate::groups::content::Content;
use crate::groups::identities::Identity;
use crate::groups::pointers;

/// What a contact is told through the connection group.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct ConnectionUpdate {
    pub(crate) version: u16,
    /// Claims KeyPackages of the sender from now on.
    pub(crate) connection_token: WireSecret,
}

/// The version that is written; others are passed over.
pub(crate) const UPDATE_VERSION: u16 = 1;

/// A contact's new token, in the caller's transaction.
pub(crate) fn receive_update(
    db: &Connection,
    signature_key: &[u8],
    update: &ConnectionUpdate,
) -> Result<(), Error> {
    if update.version != UPDATE_VERSION {
        return Ok(());
    }
    let changed = db.execute(
        "UPDATE contacts SET connection_token = ?1 WHERE signature_key = ?2 AND connection_token != ?1",
        (update.connection_token.expose(), signature_key),
    )?;
    if changed == 0 {
        return Ok(());
    }
    // What was claimed under the former one may be of a device that is gone.
    db.execute(
        "DELETE FROM claimed_sets WHERE signature_key = ?",
        [signature_key],
    )?;
    // This user's other devices may come into the connection group too late to read it there.
    for contact in contacts::all(db)? {
        if contact.credential.signature_public_key.as_slice() == signature_key {
            enqueue(db, SyncMessage::Contact(contact))?;
        }
    }
    Ok(())
}

/// A contact is told this user's token with the next settling, in the caller's transaction.
pub(crate) fn tell_again(db: &Connection, contact: &Identity) -> Result<(), Error> {
    if let Some(real) = &contact.real {
        db.execute(
            "UPDATE contacts SET token_due = 1 WHERE signature_key = ?",
            [real.signature_public_key.as_slice()],
        )?;
        pointers::tell_again(db, real.signature_public_key.as_slice())?;
    }
    Ok(())
}

/// Another pool for a contact, who is told its token; the former one is deleted.
fn renew_pool(db: &Connection, contact: NewContact) -> Result<(), Error> {
    let contact = NewContact {
        pool: PoolKeys::fresh()?,
        ..contact
    };
    contact.store(db)?;
    let key = contact.credential.signature_public_key.as_slice();
    db.execute("DELETE FROM key_packages WHERE signature_key = ?", [key])?;
    db.execute(
        "UPDATE contacts SET token_due = 1, pool_new = 1, pool_stale = 0 WHERE signature_key = ?",
        [key],
    )?;
    Ok(())
}

/// A device of a contact is gone, which knows the token of the contact's pool, in the caller's
/// transaction.
pub(crate) fn device_gone(db: &Connection, identity: &Identity) -> Result<(), Error> {
    for contact in contacts::all(db)? {
        if identity.real.as_ref() == Some(&contact.credential) {
            renew_pool(db, contact)?;
        }
    }
    Ok(())
}

impl Engine {
    /// New pools for all contacts, under tokens that a removed device does not have; the former
    /// ones are deleted, and the contacts told.
    pub(crate) async fn rotate_connection_tokens(&mut self) -> Result<(), Error> {
        self.transact(|db, _| {
            for contact in contacts::all(db)? {
                renew_pool(db, contact)?;
            }
            db.execute("DELETE FROM key_package_batch", ())?;
            db.execute("UPDATE profile SET keys_due = keys_due & ~1", ())?;
            Ok(())
        })?;
        self.settle_tokens().await
    }

    /// Publishes for contacts who are to be told, tells them, and has former pools deleted.
    pub(crate) async fn settle_tokens(&mut self) -> Result<(), Error> {
        let due = {
            let mut statement = self
                .db
                .prepare("SELECT signature_key FROM contacts WHERE token_due = 1")?;
            let rows = statement.query_map((), |row| row.get::<_, Vec<u8>>(0))?;
            rows.collect::<Result<Vec<_>, _>>()?
        };
        for (key, pool) in contacts::pools(&self.db)? {
            if !due.contains(&key) {
                continue;
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
            self.db.execute(
                "UPDATE contacts SET token_due = 0 WHERE signature_key = ?",
                [key],
            )?;
        }
        self.delete_retired_pools().await
    }
}
