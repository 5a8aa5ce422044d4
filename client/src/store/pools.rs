//! KeyPackage pools: one for each contact, under a token that changes.

use crypto::schedule::PoolToken;
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use rusqlite::Connection;

use crate::error::Error;
use crate::store::database::{change, key32, rows};
use crate::store::identities::Identity;
use crate::store::sync_outbox::enqueue;
use crate::store::{contacts, pointers};
use crate::sync_message::{ConnectionUpdate, NewContact, PoolKeys, SyncMessage, UPDATE_VERSION};

/// A contact's new token, in the caller's transaction.
pub(crate) fn receive_update(
    db: &Connection,
    signature_key: &[u8],
    update: &ConnectionUpdate,
) -> Result<(), Error> {
    if update.version != UPDATE_VERSION {
        return Ok(());
    }
    let changed = db.prepare_cached("UPDATE contacts SET connection_token = ?1 WHERE signature_key = ?2 AND connection_token != ?1")?.execute((update.connection_token.expose(), signature_key),)?;
    if changed == 0 {
        return Ok(());
    }
    // What was claimed under the former one may be of a device that is gone.
    db.prepare_cached("DELETE FROM claimed_sets WHERE signature_key = ?")?
        .execute([signature_key])?;
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
        change(
            db,
            "UPDATE contacts SET token_due = 1 WHERE signature_key = ?",
            [real.signature_public_key.as_slice()],
        )?;
        pointers::tell_again(db, real.signature_public_key.as_slice())?;
    }
    Ok(())
}

/// Another pool for a contact, who is told its token; the former one is deleted.
pub(crate) fn renew_pool(db: &Connection, contact: NewContact) -> Result<(), Error> {
    let contact = NewContact {
        pool: PoolKeys::fresh()?,
        ..contact
    };
    contact.store(db)?;
    let key = contact.credential.signature_public_key.as_slice();
    change(
        db,
        "DELETE FROM key_packages WHERE signature_key = ?",
        [key],
    )?;
    change(
        db,
        "UPDATE contacts SET token_due = 1, pool_new = 1, pool_stale = 0 WHERE signature_key = ?",
        [key],
    )
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

/// Former pools that are to be deleted: their tokens, and the keys that own them.
pub(crate) fn retired(db: &Connection) -> Result<Vec<(PoolToken, SignatureKeyPair)>, Error> {
    let retired: Vec<(Vec<u8>, Vec<u8>)> = rows(
        db,
        "SELECT pool_token, owner_seed FROM retired_pools",
        (),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    retired
        .into_iter()
        .map(|(token, owner)| {
            let owner = SignatureKeyPair::from_seed(&Secret::new(key32(&owner)?));
            Ok((PoolToken::new(key32(&token)?), owner))
        })
        .collect()
}

/// A former pool is deleted.
pub(crate) fn is_deleted(db: &Connection, token: &PoolToken) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM retired_pools WHERE pool_token = ?",
        [token.expose()],
    )
}
