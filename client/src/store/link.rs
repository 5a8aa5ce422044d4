//! A device that is being linked.

use crypto::hpke::HpkeKeyPair;
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use protocol::ids::InboxId;
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::store::database::{change, first, key32};

pub(crate) struct Waiting {
    pub(crate) code: Vec<u8>,
    pub(crate) key: HpkeKeyPair,
    pub(crate) owner: SignatureKeyPair,
    pub(crate) inbox: InboxId,
    pub(crate) inbox_owner: SignatureKeyPair,
    pub(crate) package: Option<Vec<u8>>,
}

pub(crate) fn waiting(db: &Connection) -> Result<Option<Waiting>, Error> {
    let row = first(
        db,
        "SELECT code, seed, owner_seed, inbox_id, inbox_owner_seed, package FROM link",
        (),
        |row| {
            Ok((
                row.get::<_, Vec<u8>>(0)?,
                Zeroizing::new(row.get::<_, Vec<u8>>(1)?),
                Zeroizing::new(row.get::<_, Vec<u8>>(2)?),
                InboxId(row.get(3)?),
                Zeroizing::new(row.get::<_, Vec<u8>>(4)?),
                row.get(5)?,
            ))
        },
    )?;
    row.map(|(code, seed, owner, inbox, inbox_owner, package)| {
        Ok(Waiting {
            code,
            key: HpkeKeyPair::from_seed(&Secret::new(key32(&seed)?))?,
            owner: SignatureKeyPair::from_seed(&Secret::new(key32(&owner)?)),
            inbox,
            inbox_owner: owner_of(&inbox_owner)?,
            package,
        })
    })
    .transpose()
}

/// A key that reads an inbox, from its stored seed.
pub(crate) fn owner_of(seed: &[u8]) -> Result<SignatureKeyPair, Error> {
    let seed = Secret::new(crate::store::database::key32(seed)?);
    Ok(SignatureKeyPair::from_seed(&seed))
}

pub(crate) fn keep_package(db: &Connection, sealed: &[u8]) -> Result<(), Error> {
    change(db, "UPDATE link SET package = ?", [sealed])
}

/// This device shows a code, in the caller's transaction: by the seeds of the key in it and of the
/// key that owns its handle.
pub(crate) fn begin(
    db: &Connection,
    code: &[u8],
    [seed, owner_seed]: [&Secret<32>; 2],
    (inbox, inbox_seed): (&InboxId, &Secret<32>),
) -> Result<(), Error> {
    change(
        db,
        "INSERT OR REPLACE INTO link (id, code, seed, owner_seed, inbox_id, inbox_owner_seed)
         VALUES (1, ?, ?, ?, ?, ?)",
        (
            code,
            seed.expose(),
            owner_seed.expose(),
            inbox.0,
            inbox_seed.expose(),
        ),
    )
}

pub(crate) fn forget(db: &Connection) -> Result<(), Error> {
    change(db, "DELETE FROM link", ())
}
