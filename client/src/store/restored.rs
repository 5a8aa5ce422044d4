//! Leaves that a backup has.

use crypto::kdf;
use crypto::secret::Secret;
use crypto::sign::{LeafKeyPair, P256_PUBLIC_KEY_LEN, Scheme};
use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::error::Error;
use crate::store::database::{change, first, key32};

/// Seed, public key, recovery seed, number.
pub(crate) type Row = (Vec<u8>, Vec<u8>, Vec<u8>, Option<u8>);

/// So often the same backup can be restored.
pub(crate) const RESTORES: u8 = 8;

/// What a backup says of an own leaf.
pub(crate) struct Origin {
    pub(crate) seed: Secret<32>,
    pub(crate) scheme: Scheme,
    pub(crate) recovery_seed: Secret<32>,
    /// The leaf's number in the chain, once it is found.
    pub(crate) number: Option<u8>,
}

impl Origin {
    pub(crate) fn of(db: &Connection, id: &GroupId) -> Result<Option<Self>, Error> {
        let row: Option<Row> = first(
            db,
            "SELECT leaf_seed, leaf_public_key, recovery_seed, number FROM restored_leaves
                 WHERE group_id = ?",
            [id.0],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )?;
        row.map(|(seed, public_key, recovery_seed, number)| {
            Ok(Self {
                seed: Secret::new(key32(&seed)?),
                scheme: if public_key.len() == P256_PUBLIC_KEY_LEN {
                    Scheme::EcdsaP256
                } else {
                    Scheme::Ed25519
                },
                recovery_seed: Secret::new(key32(&recovery_seed)?),
                number,
            })
        })
        .transpose()
    }

    pub(crate) fn key(&self, number: u8) -> Result<LeafKeyPair, Error> {
        let seed = match number {
            0 => Secret::new(*self.seed.expose()),
            n => Secret::new(kdf::derive(self.seed.expose(), "restored leaf", &[n])),
        };
        Ok(LeafKeyPair::from_seed(self.scheme, &seed)?)
    }

    pub(crate) fn recovery_seed(&self, number: u8) -> Secret<32> {
        let first = self.recovery_seed.expose();
        Secret::new(match number {
            0 => *first,
            n => kdf::derive(first, "restored recovery seed", &[n]),
        })
    }
}

/// Keeps what the backup says, in the transaction that restores it.
pub(crate) fn keep(
    db: &Connection,
    id: &GroupId,
    leaf_seed: &[u8; 32],
    leaf_public_key: &[u8],
    recovery_seed: &[u8; 32],
) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO restored_leaves (group_id, leaf_seed, leaf_public_key, recovery_seed)
         VALUES (?, ?, ?, ?)",
        (id.0, leaf_seed, leaf_public_key, recovery_seed),
    )
}

/// The seed of the next recovery key pair of a leaf: one that follows from a backup, where it came
/// back from one.
pub(crate) fn next_recovery_seed(db: &Connection, id: &GroupId) -> Result<Secret<32>, Error> {
    match Origin::of(db, id)? {
        Some(origin) if origin.number.is_some() => {
            Ok(origin.recovery_seed(origin.number.unwrap_or(0).saturating_add(1)))
        }
        _ => Ok(Secret::random()?),
    }
}

/// The next key of a leaf that came back, if there is one that follows from a backup.
pub(crate) fn next_leaf_key(db: &Connection, id: &GroupId) -> Result<Option<LeafKeyPair>, Error> {
    match Origin::of(db, id)? {
        Some(origin) => origin
            .number
            .map(|number| origin.key(number.saturating_add(1)))
            .transpose(),
        None => Ok(None),
    }
}

/// The leaf has its next key, in the caller's transaction: those after that are random.
pub(crate) fn renewed(db: &Connection, id: &GroupId) -> Result<(), Error> {
    change(db, "DELETE FROM restored_leaves WHERE group_id = ?", [id.0])
}

/// Which leaf of its chain this client has.
pub(crate) fn set_number(db: &Connection, group: &GroupId, number: u8) -> Result<(), Error> {
    change(
        db,
        "UPDATE restored_leaves SET number = ? WHERE group_id = ?",
        (number, group.0),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_after_a_restore_follow_from_the_backup_until_one_is_renewed() {
        let db = crate::store::database::in_memory().unwrap();
        let id = GroupId([1; 16]);
        assert!(next_leaf_key(&db, &id).unwrap().is_none());
        keep(&db, &id, &[2; 32], &[3; 32], &[4; 32]).unwrap();
        // Not before its place in the chain is known.
        assert!(next_leaf_key(&db, &id).unwrap().is_none());
        db.execute("UPDATE restored_leaves SET number = 0", ())
            .unwrap();
        let origin = Origin::of(&db, &id).unwrap().unwrap();
        let next = next_leaf_key(&db, &id).unwrap().unwrap();
        assert_eq!(next.public(), origin.key(1).unwrap().public());
        assert_eq!(
            next_recovery_seed(&db, &id).unwrap(),
            origin.recovery_seed(1)
        );
        let mut keys: Vec<_> = (0..RESTORES)
            .map(|number| origin.key(number).unwrap().public())
            .collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), usize::from(RESTORES));
        renewed(&db, &id).unwrap();
        assert!(next_leaf_key(&db, &id).unwrap().is_none());
    }
}
