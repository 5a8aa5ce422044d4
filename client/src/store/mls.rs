//! What the MLS library keeps of a group.

use openmls::prelude::hash_ref::KeyPackageRef;
use openmls::prelude::{MlsGroup, OpenMlsProvider as _};
use openmls_sqlite_storage::Codec as _;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::ids::GroupId;
use rusqlite::Connection;
use tls_codec::DeserializeBytes as _;
use zeroize::Zeroizing;

use crate::error::{Error, LocalError, PeerError};
use crate::store::database::{is_there, value};
use crate::store::provider::{JsonCodec, Provider};

/// Messages of so many past epochs can still be read when they come late.
pub(crate) const PAST_EPOCHS: usize = 5;

pub(crate) fn mls_id(id: &GroupId) -> openmls::group::GroupId {
    openmls::group::GroupId::from_slice(&id.0)
}

pub(crate) fn group_id(id: &openmls::group::GroupId) -> Option<GroupId> {
    id.as_slice().try_into().ok().map(GroupId)
}

pub(crate) fn load_mls(db: &Connection, id: &GroupId) -> Result<MlsGroup, Error> {
    MlsGroup::load(Provider::new(db).storage(), &mls_id(id))?
        .ok_or_else(|| LocalError::Damaged.into())
}

pub(crate) fn delete_mls(db: &Connection, id: &GroupId) -> Result<(), Error> {
    let provider = Provider::new(db);
    if let Some(mut mls) = MlsGroup::load(provider.storage(), &mls_id(id))? {
        mls.delete(provider.storage())?;
    }
    Ok(())
}

/// As [`delete_mls`], whatever state that is in.
pub(crate) fn discard_mls(db: &Connection, id: &GroupId) -> Result<(), Error> {
    // The library cannot delete what it cannot load; what it leaves is deleted below.
    let _ = delete_mls(db, id);
    let key = JsonCodec::to_vec(&mls_id(id)).map_err(|_| LocalError::Damaged)?;
    for table in [
        "openmls_group_data",
        "openmls_own_leaf_nodes",
        "openmls_proposals",
        "openmls_epoch_keys_pairs",
    ] {
        db.execute(&format!("DELETE FROM {table} WHERE group_id = ?"), [&key])?;
    }
    Ok(())
}

/// Whether the private part of a KeyPackage is here.
pub(crate) fn has_key_package(db: &Connection, reference: &[u8]) -> Result<bool, Error> {
    let reference = KeyPackageRef::tls_deserialize_exact_bytes(&opaque(reference).encode())
        .map_err(|_| PeerError::Message)?;
    let key = JsonCodec::to_vec(&reference).map_err(|_| LocalError::Damaged)?;
    is_there(
        db,
        "SELECT 1 FROM openmls_key_packages WHERE key_package_ref = ?",
        [key],
    )
}

/// Whether proposals wait for a commit.
pub(crate) fn has_pending(db: &Connection, id: &GroupId) -> Result<bool, Error> {
    let key = JsonCodec::to_vec(&mls_id(id)).map_err(|_| LocalError::Damaged)?;
    is_there(
        db,
        "SELECT 1 FROM openmls_proposals WHERE group_id = ? LIMIT 1",
        [key],
    )
}

/// The secrets by which messages of a group are opened, as the library writes them.
pub(crate) fn message_secrets(
    db: &Connection,
    id: &openmls::group::GroupId,
) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let key = JsonCodec::to_vec(id).map_err(|_| LocalError::Damaged)?;
    let stored: Option<Vec<u8>> = value(
        db,
        "SELECT group_data FROM openmls_group_data
         WHERE group_id = ? AND data_type = 'message_secrets'",
        [key],
    )?;
    Ok(stored.map(Zeroizing::new))
}
