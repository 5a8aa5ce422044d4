//! What the MLS library keeps of a group.

use openmls::prelude::{MlsGroup, OpenMlsProvider as _};
use openmls_sqlite_storage::Codec as _;
use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::error::{Error, LocalError};
use crate::store::provider::{JsonCodec, Provider};

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
