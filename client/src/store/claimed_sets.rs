//! Claimed sets that are in no group yet. A claim takes a set from a contact for good, so what was
//! claimed in vain is used for the next add of that contact: anywhere, if the service was not shown
//! it; else in the group that it was shown for, since a pseudonym stands in one group only.

use openmls::prelude::{Ciphersuite, KeyPackage, LeafNodeIndex, MlsGroup};
use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::error::{Error, PeerError};
use crate::leaf;
use crate::mls::claimed::ClaimedKeyPackage;
use crate::store::contacts::ContactKeys;
use crate::store::database::{change, column};

/// A set that is handed out again would put one pseudonym into two groups, which the service could
/// then tell to have a member in common; and its owner, who has forgotten its keys, could not come
/// in.
pub(crate) fn check_fresh(db: &Connection, packages: &[ClaimedKeyPackage]) -> Result<(), Error> {
    for package in packages {
        let leaf = package.key_package.leaf_node();
        let pseudonym = leaf::pseudonymous(leaf.credential(), leaf.signature_key().as_slice())
            .ok_or(PeerError::KeyPackage)?
            .user_pseudonym;
        let is_known: bool = db.query_row(
            "SELECT EXISTS (SELECT 1 FROM identities WHERE user_pseudonym = ?)
                OR EXISTS (SELECT 1 FROM claimed_sets WHERE leaf_key = ?)",
            (pseudonym.as_slice(), leaf.signature_key().as_slice()),
            |row| row.get(0),
        )?;
        if is_known {
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
    change(
        db,
        "INSERT INTO claimed_sets (signature_key, ciphersuite, sealed, leaf_key) VALUES (?, ?, ?, ?)",
        (
            &contact.signature_key,
            u16::from(suite),
            sealed,
            first.key_package.leaf_node().signature_key().as_slice(),
        ),
    )
}

/// A kept set of a contact that can be used in a group, if there is one that is still good.
pub(crate) fn find(
    db: &Connection,
    contact: &ContactKeys,
    suite: Ciphersuite,
    group: &GroupId,
    now_ms: u64,
) -> Result<Option<Vec<ClaimedKeyPackage>>, Error> {
    let kept = db
        .prepare_cached(
            "SELECT id, sealed FROM claimed_sets WHERE signature_key = ? AND ciphersuite = ?
             AND (shown_for IS NULL OR shown_for = ?) ORDER BY shown_for IS NULL, id",
        )?
        .query_map((&contact.signature_key, u16::from(suite), group.0), |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    for (id, sealed) in kept {
        match crate::mls::claimed::check(db, contact, suite, &sealed, now_ms) {
            Ok(packages) => return Ok(Some(packages)),
            // It has expired, or the contact has another token now, and perhaps other devices.
            Err(Error::Peer(_)) => {
                db.execute("DELETE FROM claimed_sets WHERE id = ?", [id])?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Contacts of whom there is no set of a ciphersuite that may be used anywhere.
pub(crate) fn missing(db: &Connection, suite: Ciphersuite) -> Result<Vec<Vec<u8>>, Error> {
    column(
        db,
        "SELECT signature_key FROM contacts WHERE NOT EXISTS (
            SELECT 1 FROM claimed_sets WHERE claimed_sets.signature_key = contacts.signature_key
                AND ciphersuite = ? AND shown_for IS NULL)",
        [u16::from(suite)],
    )
}

/// A commit with these KeyPackages is about to be sent, in the caller's transaction.
pub(crate) fn shown(
    db: &Connection,
    group: &GroupId,
    key_packages: &[KeyPackage],
) -> Result<(), Error> {
    for package in key_packages {
        db.execute(
            "UPDATE claimed_sets SET shown_for = ? WHERE leaf_key = ?",
            (group.0, package.leaf_node().signature_key().as_slice()),
        )?;
    }
    Ok(())
}

/// What is in a group now is kept no longer, in the caller's transaction.
pub(crate) fn used(db: &Connection, group: &GroupId, mls_group: &MlsGroup) -> Result<(), Error> {
    let shown = db
        .prepare_cached("SELECT id, leaf_key FROM claimed_sets WHERE shown_for = ?")?
        .query_map([group.0], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    for (id, leaf_key) in shown {
        let is_in = |index: LeafNodeIndex| {
            mls_group
                .public_group()
                .leaf(index)
                .is_some_and(|leaf| leaf.signature_key().as_slice() == leaf_key)
        };
        if mls_group.members().any(|member| is_in(member.index)) {
            db.execute("DELETE FROM claimed_sets WHERE id = ?", [id])?;
        }
    }
    Ok(())
}
