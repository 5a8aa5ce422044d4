//! KeyPackages that were claimed, and whose they are.

use crypto::kdf;
use crypto::keys::ConnectionKey;
use crypto::schedule::PoolToken;
use crypto::sealing::{self, Place};
use mls_rules::MAX_CLIENTS;
use openmls::prelude::{
    Ciphersuite, KeyPackage, KeyPackageIn, OpenMlsProvider as _, ProtocolVersion,
};
use protocol::ids::GroupId;
use protocol::key_packages::KeyPackageSet;
use protocol::{Wire as _, lifetime};
use rusqlite::Connection;
use tls_codec::{DeserializeBytes as _, VLBytes};

use crate::error::{Error, PeerError};
use crate::leaf;
use crate::store::claimed_sets;
use crate::store::contacts::ContactKeys;
use crate::store::provider::Provider;

/// A KeyPackage that is valid and of the contact it was claimed for.
pub(crate) struct ClaimedKeyPackage {
    pub(crate) key_package: KeyPackage,
    pub(crate) link_key: crypto::keys::IdentityLinkKey,
}

/// Opens a claimed set: valid KeyPackages of different clients of the contact, all under one user
/// pseudonym.
pub(crate) fn check(
    db: &Connection,
    contact: &ContactKeys,
    suite: Ciphersuite,
    sealed: &[u8],
    now_ms: u64,
) -> Result<Vec<ClaimedKeyPackage>, Error> {
    let set = open_set(&contact.connection_token, sealed)?;
    if set.key_packages.is_empty() || set.key_packages.len() > MAX_CLIENTS {
        return Err(PeerError::KeyPackage.into());
    }
    let mut user_pseudonym = None;
    let mut claimed: Vec<ClaimedKeyPackage> = Vec::with_capacity(set.key_packages.len());
    for key_package in &set.key_packages {
        let (package, user) = check_one(
            db,
            &contact.signature_key,
            &contact.connection_key,
            suite,
            key_package.as_slice(),
            now_ms,
        )?;
        let same_client = claimed.iter().any(|other| {
            other.key_package.leaf_node().signature_key()
                == package.key_package.leaf_node().signature_key()
        });
        if same_client || *user_pseudonym.get_or_insert_with(|| user.clone()) != user {
            return Err(PeerError::KeyPackage.into());
        }
        claimed.push(package);
    }
    Ok(claimed)
}

/// A KeyPackage of one client of a contact, or of this user, with the user pseudonym in it.
pub(crate) fn check_one(
    db: &Connection,
    signature_key: &[u8],
    connection_key: &ConnectionKey,
    suite: Ciphersuite,
    key_package: &[u8],
    now_ms: u64,
) -> Result<(ClaimedKeyPackage, VLBytes), Error> {
    let key_package = KeyPackageIn::tls_deserialize_exact_bytes(key_package)
        .ok()
        .and_then(|it| {
            it.validate(Provider::new(db).crypto(), ProtocolVersion::Mls10)
                .ok()
        })
        .filter(|it| it.ciphersuite() == suite)
        .filter(|it| {
            let shown = it.life_time();
            lifetime::is_good(shown.not_before(), shown.not_after(), now_ms / 1000)
        })
        .ok_or(PeerError::KeyPackage)?;
    let leaf = key_package.leaf_node();
    let pseudonymous = leaf::pseudonymous(leaf.credential(), leaf.signature_key().as_slice())
        .ok_or(PeerError::KeyPackage)?;
    let link_key = pseudonymous.link_key(connection_key);
    let credential = pseudonymous
        .open_identity_link(&link_key)
        .map_err(|_| PeerError::IdentityLink)?;
    if credential.signature_public_key.as_slice() != signature_key {
        return Err(PeerError::IdentityLink.into());
    }
    let claimed = ClaimedKeyPackage {
        key_package,
        link_key,
    };
    Ok((claimed, pseudonymous.user_pseudonym))
}

pub(crate) fn set_key(token: &PoolToken) -> zeroize::Zeroizing<[u8; 32]> {
    zeroize::Zeroizing::new(kdf::derive(token.expose(), "key package sets", &[]))
}

pub(crate) fn seal_set(token: &PoolToken, set: &KeyPackageSet) -> Result<Vec<u8>, Error> {
    let pool = token.pool();
    let place = Place {
        table: "key_package_sets",
        row: &pool.0,
        part: "set",
    };
    Ok(sealing::seal(&set_key(token), place, &set.encode())?)
}

pub(crate) fn open_set(token: &PoolToken, sealed: &[u8]) -> Result<KeyPackageSet, Error> {
    let pool = token.pool();
    let place = Place {
        table: "key_package_sets",
        row: &pool.0,
        part: "set",
    };
    let opened =
        sealing::open(&set_key(token), place, sealed).map_err(|_| PeerError::KeyPackage)?;
    KeyPackageSet::decode(&opened).map_err(|_| PeerError::KeyPackage.into())
}

/// A set that is handed out again would put one pseudonym into two groups, which the service could
/// then tell to have a member in common; and its owner, who has forgotten its keys, could not come
/// in.
pub(crate) fn check_fresh(db: &Connection, packages: &[ClaimedKeyPackage]) -> Result<(), Error> {
    for package in packages {
        let leaf = package.key_package.leaf_node();
        let leaf_key = leaf.signature_key().as_slice();
        let pseudonym = leaf::pseudonymous(leaf.credential(), leaf_key)
            .ok_or(PeerError::KeyPackage)?
            .user_pseudonym;
        if claimed_sets::is_known(db, pseudonym.as_slice(), leaf_key)? {
            return Err(PeerError::KeyPackage.into());
        }
    }
    Ok(())
}

/// Keeps a set that was claimed just now.
pub(crate) fn keep(
    db: &Connection,
    contact: &ContactKeys,
    suite: Ciphersuite,
    sealed: &[u8],
    packages: &[ClaimedKeyPackage],
) -> Result<(), Error> {
    let Some(first) = packages.first() else {
        return Ok(());
    };
    let leaf_key = first.key_package.leaf_node().signature_key().as_slice();
    claimed_sets::keep(db, contact, suite, sealed, leaf_key)
}

/// A kept set of a contact that can be used in a group, if there is one that is still good.
pub(crate) fn find(
    db: &Connection,
    contact: &ContactKeys,
    suite: Ciphersuite,
    group: &GroupId,
    now_ms: u64,
) -> Result<Option<Vec<ClaimedKeyPackage>>, Error> {
    for (id, sealed) in claimed_sets::kept(db, contact, suite, group)? {
        match check(db, contact, suite, &sealed, now_ms) {
            Ok(packages) => return Ok(Some(packages)),
            // It has expired, or the contact has another token now, and perhaps other devices.
            Err(Error::Peer(_)) => claimed_sets::forget(db, id)?,
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
