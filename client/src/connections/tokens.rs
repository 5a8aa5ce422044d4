//! Connection tokens that change, so that whoever knows a former one finds nothing.

use crypto::keys::ConnectionToken;
use crypto::secret::Secret;
use protocol::codec::WireSecret;
use rusqlite::Connection;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use super::withdraw::group_with;
use crate::Client;
use crate::contacts;
use crate::devices::enqueue;
use crate::devices::sync::{PoolKeys, SyncMessage};
use crate::error::Error;
use crate::groups::content::Content;
use crate::groups::identities::Identity;
use crate::profile::Profile;
use crate::refusals_can_wait;

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
    db.execute(
        "UPDATE contacts SET connection_token = ? WHERE signature_key = ?",
        (update.connection_token.expose(), signature_key),
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
    }
    Ok(())
}

impl Client {
    /// A new connection token with a pool of its own; the former pool is deleted, and the contacts that are
    /// left are told.
    pub(crate) async fn rotate_connection_token(&mut self) -> Result<(), Error> {
        self.transact(|db, profile| {
            let (token, owner) = (ConnectionToken::random()?, Secret::<32>::random()?);
            db.execute(
                "INSERT OR IGNORE INTO retired_pools (connection_token, owner_seed) VALUES (?, ?)",
                (
                    profile.connection_token.expose(),
                    profile.pool_owner.seed().expose(),
                ),
            )?;
            db.execute(
                "UPDATE profile SET connection_token = ?, pool_owner_seed = ?, pool_stale = 0,
                    keys_due = keys_due & ~1",
                (token.expose(), owner.expose()),
            )?;
            db.execute("UPDATE key_packages SET sets_left = 0", ())?;
            db.execute("DELETE FROM key_package_batch", ())?;
            db.execute("UPDATE contacts SET token_due = 1", ())?;
            enqueue(
                db,
                SyncMessage::Pool(PoolKeys {
                    connection_token: token.to_wire(),
                    owner_seed: WireSecret::new(*owner.expose()),
                }),
            )
        })?;
        self.profile = Profile::read(&self.db)?;
        self.settle_tokens().await
    }

    /// Publishes under the new token, tells it to contacts, and has what is under former ones deleted.
    pub(crate) async fn settle_tokens(&mut self) -> Result<(), Error> {
        let due = {
            let mut statement = self
                .db
                .prepare("SELECT signature_key FROM contacts WHERE token_due = 1")?;
            let rows = statement.query_map((), |row| row.get::<_, Vec<u8>>(0))?;
            rows.collect::<Result<Vec<_>, _>>()?
        };
        if !due.is_empty() {
            self.publish_alone().await?;
        }
        for key in due {
            // Where there is no way to tell: the contact has to connect again.
            if let Some(group) = group_with(&self.db, &key)? {
                let update = ConnectionUpdate {
                    version: UPDATE_VERSION,
                    connection_token: self.profile.connection_token.to_wire(),
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
