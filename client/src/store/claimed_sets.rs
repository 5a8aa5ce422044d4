//! Claimed sets that are in no group yet. A claim takes a set from a contact for good, so what was
//! claimed in vain is used for the next add of that contact: anywhere, if the service was not shown
//! it; else in the group that it was shown for, since a pseudonym stands in one group only.

use openmls::prelude::{Ciphersuite, KeyPackage, LeafNodeIndex, MlsGroup};
use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::error::Error;
use crate::store::contacts::ContactKeys;
use crate::store::database::{change, column, rows};

/// Whether a set under this pseudonym, or with this leaf key first, has been here before.
pub(crate) fn is_known(db: &Connection, pseudonym: &[u8], leaf_key: &[u8]) -> Result<bool, Error> {
    Ok(db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM identities WHERE user_pseudonym = ?)
            OR EXISTS (SELECT 1 FROM claimed_sets WHERE leaf_key = ?)",
        )?
        .query_row((pseudonym, leaf_key), |row| row.get(0))?)
}

/// Keeps a set that was claimed just now, by the key of its first leaf.
pub(crate) fn keep(
    db: &Connection,
    contact: &ContactKeys,
    suite: Ciphersuite,
    sealed: &[u8],
    leaf_key: &[u8],
) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO claimed_sets (signature_key, ciphersuite, sealed, leaf_key) VALUES (?, ?, ?, ?)",
        (&contact.signature_key, u16::from(suite), sealed, leaf_key),
    )
}

/// The kept sets of a contact that may be used in a group, with their ids.
pub(crate) fn kept(
    db: &Connection,
    contact: &ContactKeys,
    suite: Ciphersuite,
    group: &GroupId,
) -> Result<Vec<(i64, Vec<u8>)>, Error> {
    rows(
        db,
        "SELECT id, sealed FROM claimed_sets WHERE signature_key = ? AND ciphersuite = ?
         AND (shown_for IS NULL OR shown_for = ?) ORDER BY shown_for IS NULL, id",
        (&contact.signature_key, u16::from(suite), group.0),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

pub(crate) fn forget(db: &Connection, id: i64) -> Result<(), Error> {
    change(db, "DELETE FROM claimed_sets WHERE id = ?", [id])
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
        change(
            db,
            "UPDATE claimed_sets SET shown_for = ? WHERE leaf_key = ?",
            (group.0, package.leaf_node().signature_key().as_slice()),
        )?;
    }
    Ok(())
}

/// What is in a group now is kept no longer, in the caller's transaction.
pub(crate) fn used(db: &Connection, group: &GroupId, mls_group: &MlsGroup) -> Result<(), Error> {
    let shown: Vec<(i64, Vec<u8>)> = rows(
        db,
        "SELECT id, leaf_key FROM claimed_sets WHERE shown_for = ?",
        [group.0],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    for (id, leaf_key) in shown {
        let is_in = |index: LeafNodeIndex| {
            mls_group
                .public_group()
                .leaf(index)
                .is_some_and(|leaf| leaf.signature_key().as_slice() == leaf_key)
        };
        if mls_group.members().any(|member| is_in(member.index)) {
            forget(db, id)?;
        }
    }
    Ok(())
}
