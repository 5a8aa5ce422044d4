//! What the MLS library keeps of a group.

use openmls::prelude::hash_ref::KeyPackageRef;
use openmls::prelude::{KeyPackageBundle, Member, MlsGroup, OpenMlsProvider as _};
use openmls_traits::storage::StorageProvider as _;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::ids::GroupId;
use rusqlite::Connection;
use serde::Deserialize;
use tls_codec::{DeserializeBytes as _, SecretVLBytes};
use zeroize::Zeroizing;

use crate::error::{Error, LocalError, PeerError};
use crate::store::codec::StateCodec;
use crate::store::database::is_there;
use crate::store::pieces;
use crate::store::provider::Provider;

/// Messages of so many past epochs can still be read when they come late.
pub(crate) const PAST_EPOCHS: usize = 5;

pub(crate) fn mls_id(id: &GroupId) -> openmls::group::GroupId {
    openmls::group::GroupId::from_slice(&id.0)
}

/// The id as the library's tables have it.
pub(super) fn stored_id(id: &GroupId) -> Result<Vec<u8>, Error> {
    StateCodec::to_vec(&mls_id(id)).map_err(|_| LocalError::Damaged.into())
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
    let key = stored_id(id)?;
    for table in [
        "openmls_group_data",
        "openmls_own_leaf_nodes",
        "openmls_proposals",
        "openmls_epoch_keys_pairs",
    ] {
        db.execute(&format!("DELETE FROM {table} WHERE group_id = ?"), [&key])?;
    }
    Ok(pieces::delete(db, &key)?)
}

/// A KeyPackage of this device that nothing was joined with, by its reference.
pub(crate) fn own_key_package(
    db: &Connection,
    reference: &[u8],
) -> Result<Option<KeyPackageBundle>, Error> {
    let reference = key_package_ref(reference)?;
    Ok(Provider::new(db).storage().key_package(&reference)?)
}

/// Deletes the private keys of an own KeyPackage.
pub(crate) fn delete_key_package(db: &Connection, reference: &[u8]) -> Result<(), Error> {
    let reference = key_package_ref(reference)?;
    Ok(Provider::new(db).storage().delete_key_package(&reference)?)
}

fn key_package_ref(bytes: &[u8]) -> Result<KeyPackageRef, Error> {
    KeyPackageRef::tls_deserialize_exact_bytes(&opaque(bytes).encode())
        .map_err(|_| PeerError::Message.into())
}

/// Whether proposals wait for a commit.
pub(crate) fn has_pending(db: &Connection, id: &GroupId) -> Result<bool, Error> {
    let key = stored_id(id)?;
    is_there(
        db,
        "SELECT 1 FROM openmls_proposals WHERE group_id = ? LIMIT 1",
        [key],
    )
}

/// The sender data secret of an epoch and, of a past one, its members: of what the library keeps.
pub(crate) struct EpochSecrets {
    pub(crate) sender_data_secret: Zeroizing<Vec<u8>>,
    pub(crate) members: Option<Vec<Member>>,
}

/// As the library writes it.
#[derive(Deserialize)]
struct MessageSecretsStore {
    past_epoch_trees: Vec<EpochTree>,
    message_secrets: MessageSecrets,
}

#[derive(Deserialize)]
struct EpochTree {
    epoch: u64,
    message_secrets: MessageSecrets,
    leaves: Vec<Member>,
}

#[derive(Deserialize)]
struct MessageSecrets {
    sender_data_secret: SenderDataSecret,
}

#[derive(Deserialize)]
struct SenderDataSecret {
    secret: LibrarySecret,
}

#[derive(Deserialize)]
struct LibrarySecret {
    value: SecretVLBytes,
}

impl MessageSecrets {
    fn sender_data_secret(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.sender_data_secret.secret.value.as_slice().to_vec())
    }
}

/// What is kept of an epoch of a group: of the present one, or one of the last past ones.
pub(crate) fn epoch_secrets(
    db: &Connection,
    mls_group: &MlsGroup,
    epoch: u64,
) -> Result<Option<EpochSecrets>, Error> {
    let key = StateCodec::to_vec(mls_group.group_id()).map_err(|_| LocalError::Damaged)?;
    let Some(stored) = pieces::read(db, &key)? else {
        return Ok(None);
    };
    // Of secrets that the library keeps in another shape, nobody is known.
    let Ok(stored) = StateCodec::from_slice::<MessageSecretsStore>(&stored) else {
        return Ok(None);
    };
    if mls_group.epoch().as_u64() == epoch {
        return Ok(Some(EpochSecrets {
            sender_data_secret: stored.message_secrets.sender_data_secret(),
            members: None,
        }));
    }
    let mut past = stored.past_epoch_trees.into_iter();
    Ok(past
        .find(|past| past.epoch == epoch)
        .map(|past| EpochSecrets {
            sender_data_secret: past.message_secrets.sender_data_secret(),
            members: Some(past.leaves),
        }))
}

/// Whether everything is there that the library loads a group from, as far as that can be seen
/// without doing so.
pub(crate) fn has_mls(db: &Connection, id: &GroupId) -> Result<bool, Error> {
    is_there(
        db,
        "SELECT 1 FROM mls_stamps WHERE group_id = ?",
        [stored_id(id)?],
    )
}
