//! The way back of a client that was restored from a backup, the first time and every other time.
//!
//! A restored client comes back in the place of the leaf that is in the backup, and then replaces
//! its key and recovery key. If the next ones were random, the same backup could never be restored
//! again, and its owner might find that out when it is all that is left. So they follow from those
//! in the backup: number n of a chain that whoever has the backup can derive, and who has it can
//! come back anyway. A leaf that was renewed for another reason (by the user's word, or since the
//! home was copied) leaves the chain: the backup is then too old for that group, and that is said.

use crypto::kdf;
use crypto::secret::Secret;
use crypto::sign::{LeafKeyPair, P256_PUBLIC_KEY_LEN, Scheme};
use protocol::group::{GroupKey, OwnLeafRequest, OwnLeafResponse};
use protocol::ids::{GroupId, LeafIndex};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use rusqlite::{Connection, OptionalExtension as _};

use crate::database::key32;
use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::groups::evidence::{self, StopReason};
use crate::groups::{Group, Status};
use crate::journal::Segment;
use crate::leaf;

/// Seed, public key, recovery seed, number.
type Row = (Vec<u8>, Vec<u8>, Vec<u8>, Option<u8>);

/// So often the same backup can be restored.
const RESTORES: u8 = 8;

/// What a backup says of an own leaf.
struct Origin {
    seed: Secret<32>,
    scheme: Scheme,
    recovery_seed: Secret<32>,
    /// The leaf's number in the chain, once it is found.
    number: Option<u8>,
}

impl Origin {
    fn of(db: &Connection, id: &GroupId) -> Result<Option<Self>, Error> {
        let row: Option<Row> = db
            .query_row(
                "SELECT leaf_seed, leaf_public_key, recovery_seed, number FROM restored_leaves
                 WHERE group_id = ?",
                [id.0],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            )
            .optional()?;
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

    fn key(&self, number: u8) -> Result<LeafKeyPair, Error> {
        let seed = match number {
            0 => Secret::new(*self.seed.expose()),
            n => Secret::new(kdf::derive(self.seed.expose(), "restored leaf", &[n])),
        };
        Ok(LeafKeyPair::from_seed(self.scheme, &seed)?)
    }

    fn recovery_seed(&self, number: u8) -> Secret<32> {
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
    db.execute(
        "INSERT INTO restored_leaves (group_id, leaf_seed, leaf_public_key, recovery_seed)
         VALUES (?, ?, ?, ?)",
        (id.0, leaf_seed, leaf_public_key, recovery_seed),
    )?;
    Ok(())
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
    db.execute("DELETE FROM restored_leaves WHERE group_id = ?", [id.0])?;
    Ok(())
}

impl Engine {
    /// Looks for the leaf of a restored group along the chain of its keys: where it is, and its
    /// key. Nothing in other groups. What the service says here is not kept before the group is
    /// authenticated, but the number of the key.
    ///
    /// # Errors
    /// [`UsageError::GroupLost`] if it is not there.
    pub(crate) async fn find_restored_leaf(
        &mut self,
        id: &GroupId,
    ) -> Result<Option<(Segment, LeafIndex, LeafKeyPair)>, Error> {
        let Some(origin) = Origin::of(&self.db, id)? else {
            return Ok(None);
        };
        let group = Group::read(&self.db, id)?;
        let suite = match origin.scheme {
            // All of these have the same KEM but the hybrids, whose groups say so.
            Scheme::EcdsaP256 => Some(leaf::P256_SUITE),
            Scheme::Ed25519 => None,
        };
        let suites = match suite {
            Some(suite) => vec![suite],
            None => vec![leaf::CIPHERSUITE, leaf::HYBRID_SUITE],
        };
        let mut segments = Vec::new();
        for number in 0..=RESTORES {
            for suite in &suites {
                let seed = origin.recovery_seed(number);
                segments.extend(self.recovered_segment(id, *suite, &seed).await?);
            }
        }
        // What the backup knows itself, if it has not ended: last.
        segments.insert(0, group.segment);
        let mut present = Vec::new();
        for segment in segments {
            present.extend(self.at_its_end(segment).await?);
        }
        for segment in present.into_iter().rev() {
            for number in 0..RESTORES {
                let key = origin.key(number)?;
                let request = OwnLeafRequest {
                    group: GroupKey {
                        group_id: *id,
                        state_key: segment.state_key.to_wire(),
                    },
                };
                let own: Result<OwnLeafResponse, Error> = self
                    .call(Operation::OwnLeaf, origin.key(number)?, &request)
                    .await;
                match own {
                    Ok(own) => {
                        self.db.execute(
                            "UPDATE restored_leaves SET number = ? WHERE group_id = ?",
                            (number, id.0),
                        )?;
                        return Ok(Some((segment, own.leaf.leaf_index, key)));
                    }
                    Err(Error::Refused(refusal)) if refusal.problem == ProblemType::NotAllowed => {}
                    Err(Error::Refused(refusal))
                        if refusal.problem == ProblemType::UnknownGroup =>
                    {
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        let group = Group::read(&self.db, id)?;
        self.transact(|db, profile| {
            evidence::set_stopped(db, id, Some(StopReason::Outdated))?;
            evidence::tell(db, profile, &group, StopReason::Outdated)
        })?;
        Err(UsageError::GroupLost(group.display_name()).into())
    }

    /// What a restored client has not come back into, and why.
    pub(crate) fn not_restored(&self) -> Result<Vec<String>, Error> {
        let mut lost = Vec::new();
        for group in Group::all(&self.db)? {
            if group.status == Status::Active {
                continue;
            }
            let name = evidence::described(&self.db, &self.profile, &group)?;
            let why = evidence::stopped(&self.db, &group.id)?
                .map(|why| why.to_string())
                .unwrap_or_default();
            lost.push(format!("{name} ({why})"));
        }
        Ok(lost)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_after_a_restore_follow_from_the_backup_until_one_is_renewed() {
        let db = crate::database::in_memory().unwrap();
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
