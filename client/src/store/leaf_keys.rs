//! Signature keys of own leaves.

use crypto::secret::Secret;
use crypto::sign::{LeafKeyPair, P256_PUBLIC_KEY_LEN, Scheme};
use rusqlite::{Connection, OptionalExtension as _};

use crate::error::{Error, LocalError};
use crate::store::database::{change, key32};
use crate::store::provider::LeafSigner;

/// Keeps a private key under its public key, which the leaf shows.
pub(crate) fn store_key(db: &Connection, key: &LeafKeyPair) -> Result<(), Error> {
    keep(db, &key.public(), key.seed().expose())
}

/// Keeps the seed of a private key.
pub(crate) fn keep(db: &Connection, public_key: &[u8], seed: &[u8; 32]) -> Result<(), Error> {
    change(
        db,
        "INSERT OR REPLACE INTO leaf_keys (public_key, seed) VALUES (?, ?)",
        (public_key, seed),
    )
}

/// The private key of an own leaf.
pub(crate) fn signer(db: &Connection, public_key: &[u8]) -> Result<LeafSigner, Error> {
    let seed = db
        .prepare_cached("SELECT seed FROM leaf_keys WHERE public_key = ?")?
        .query_row([public_key], |row| row.get::<_, Vec<u8>>(0))
        .optional()?
        .ok_or(LocalError::Damaged)?;
    let scheme = if public_key.len() == P256_PUBLIC_KEY_LEN {
        Scheme::EcdsaP256
    } else {
        Scheme::Ed25519
    };
    let seed = Secret::new(key32(&seed)?);
    Ok(LeafSigner(LeafKeyPair::from_seed(scheme, &seed)?))
}
