//! What this client knows of its groups for good: the highest epoch, the members, who was removed,
//! the external senders. It outlives the MLS library's state, and the service is held against it.

use std::collections::HashMap;

use mls_rules::context::senders_in;
use openmls::prelude::{Ciphersuite, Credential, MlsGroup};
use protocol::codec::opaque;
use protocol::connections::ClientCredential;
use protocol::ids::GroupId;
use protocol::policy::POLICY_EXTENSION;
use rusqlite::Connection;
use tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};

use crate::error::{Error, LocalError, PeerError};
use crate::leaf;
use crate::store::database::{change, first, value};
use crate::store::identities::{self, Identity, digest};

/// What is known of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// The highest epoch that this client was in.
    pub(crate) epoch: u64,
    /// The own leaf in that epoch.
    pub(crate) own_leaf: u32,
    /// Encoded, in their order.
    pub(crate) external_senders: Vec<Vec<u8>>,
    /// RFC 9420 §17.1: a group of this id has no other one.
    pub(crate) ciphersuite: u16,
    /// The policy in that epoch, encoded; `None` if there was none or it is not known.
    pub(crate) policy: Option<Vec<u8>>,
    /// Every leaf that was ever seen.
    pub(crate) members: Vec<KnownMember>,
}

/// A leaf that was seen in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownMember {
    /// See [`digest`].
    pub(crate) credential: Vec<u8>,
    pub(crate) identity: Identity,
    /// `None` while it is there.
    pub(crate) removed_epoch: Option<u64>,
}

impl Known {
    pub(crate) fn there(&self) -> impl Iterator<Item = &KnownMember> {
        let members = self.members.iter();
        members.filter(|member| member.removed_epoch.is_none())
    }

    /// Whether this identity key is of somebody who is in the group, as far as this client knows.
    pub(crate) fn has_person(&self, signature_key: &[u8]) -> bool {
        self.there().any(|member| {
            let real = member.identity.real.as_ref();
            real.is_some_and(|real| real.signature_public_key.as_slice() == signature_key)
        })
    }

    /// The user pseudonym of this user's leaves.
    pub(crate) fn own_pseudonym(&self, own_key: &[u8]) -> Option<VLBytes> {
        self.there()
            .find(|member| {
                let real = member.identity.real.as_ref();
                real.is_some_and(|real| real.signature_public_key.as_slice() == own_key)
            })
            .map(|member| opaque(member.identity.user_pseudonym.as_slice()))
    }

    /// Whether this very leaf is in the group, as far as this client knows.
    pub(crate) fn has_leaf(&self, credential: &[u8]) -> bool {
        self.there().any(|member| member.credential == credential)
    }

    /// Whether this very leaf was in the group and is not any more.
    pub(crate) fn was_removed(&self, credential: &[u8]) -> bool {
        let mut members = self.members.iter();
        members.any(|member| member.credential == credential && member.removed_epoch.is_some())
    }
}

/// Whether an epoch that others tell is one that a group can come to.
///
/// # Errors
/// [`PeerError::Epoch`].
pub(crate) fn check_epoch(epoch: u64) -> Result<(), PeerError> {
    // Half of what the database can keep: nothing counts on from there to its end.
    const MOST: u64 = (i64::MAX as u64) / 2;
    if epoch > MOST {
        return Err(PeerError::Epoch);
    }
    Ok(())
}

fn number(value: u64) -> Result<i64, Error> {
    i64::try_from(value).map_err(|_| LocalError::Damaged.into())
}

fn epoch_of(value: i64) -> Result<u64, Error> {
    u64::try_from(value).map_err(|_| LocalError::Damaged.into())
}

/// The highest epoch of a group that this client was in.
pub(crate) fn highest_epoch(db: &Connection, id: &GroupId) -> Result<Option<u64>, Error> {
    value(
        db,
        "SELECT epoch FROM known_groups WHERE group_id = ?",
        [id.0],
    )?
    .map(epoch_of)
    .transpose()
}

/// The ciphersuite of a group that this client was in.
pub(crate) fn ciphersuite(db: &Connection, id: &GroupId) -> Result<Ciphersuite, Error> {
    let number: Option<u16> = value(
        db,
        "SELECT ciphersuite FROM known_groups WHERE group_id = ?",
        [id.0],
    )?;
    Ok(number
        .and_then(leaf::ciphersuite)
        .ok_or(LocalError::Damaged)?)
}

/// Epoch, own leaf, external senders, ciphersuite, policy.
type Row = (i64, u32, Vec<u8>, u16, Option<Vec<u8>>);

/// What is known of a group; `None` before this client was in it.
pub(crate) fn of(db: &Connection, id: &GroupId) -> Result<Option<Known>, Error> {
    let row: Option<Row> = first(
        db,
        "SELECT epoch, own_leaf, external_senders, ciphersuite, policy FROM known_groups
         WHERE group_id = ?",
        [id.0],
        |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
            ))
        },
    )?;
    let Some((epoch, own_leaf, senders, ciphersuite, policy)) = row else {
        return Ok(None);
    };
    let senders =
        Vec::<VLBytes>::tls_deserialize_exact_bytes(&senders).map_err(|_| LocalError::Damaged)?;
    Ok(Some(Known {
        epoch: epoch_of(epoch)?,
        own_leaf,
        external_senders: senders.into_iter().map(Into::into).collect(),
        ciphersuite,
        policy,
        members: members(db, id)?,
    }))
}

/// The user pseudonym of somebody who is in a group, as far as this client knows.
pub(crate) fn pseudonym(
    db: &Connection,
    id: &GroupId,
    signature_key: &[u8],
) -> Result<Option<Vec<u8>>, Error> {
    value(
        db,
        "SELECT user_pseudonym FROM known_members
         WHERE group_id = ? AND signature_key = ? AND removed_epoch IS NULL LIMIT 1",
        (id.0, signature_key),
    )
}

pub(crate) fn members(db: &Connection, id: &GroupId) -> Result<Vec<KnownMember>, Error> {
    let mut statement = db.prepare_cached(
        "SELECT credential, user_pseudonym, name, signature_key, removed_epoch FROM known_members
         WHERE group_id = ?",
    )?;
    let rows = statement.query_map([id.0], |row| {
        let name: Option<String> = row.get(2)?;
        let key: Option<Vec<u8>> = row.get(3)?;
        let removed: Option<i64> = row.get(4)?;
        let identity = Identity {
            user_pseudonym: row.get(1)?,
            real: name.zip(key).map(|(name, key)| ClientCredential {
                name: opaque(name.as_bytes()),
                signature_public_key: opaque(key),
            }),
        };
        Ok((row.get(0)?, identity, removed))
    })?;
    rows.map(|row| {
        let (credential, identity, removed) = row?;
        Ok(KnownMember {
            credential,
            identity,
            removed_epoch: removed.map(epoch_of).transpose()?,
        })
    })
    .collect()
}

/// Remembers the epoch that this client has come to, in the caller's transaction: whoever is in the
/// tree is there, and whoever was there before is removed. The identities must be stored.
pub(crate) fn remember(db: &Connection, id: &GroupId, mls_group: &MlsGroup) -> Result<(), Error> {
    let epoch = mls_group.epoch().as_u64();
    if highest_epoch(db, id)?.is_some_and(|known| known > epoch) {
        return Ok(());
    }
    let senders: Vec<VLBytes> = senders_in(mls_group.extensions())
        .into_iter()
        .map(VLBytes::new)
        .collect();
    let senders = senders
        .tls_serialize_detached()
        .map_err(|_| LocalError::Damaged)?;
    change(
        db,
        "INSERT INTO known_groups
            (group_id, epoch, own_leaf, external_senders, ciphersuite, policy)
         VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (group_id) DO UPDATE SET epoch = excluded.epoch, own_leaf = excluded.own_leaf,
            external_senders = excluded.external_senders, policy = excluded.policy",
        (
            id.0,
            number(epoch)?,
            mls_group.own_leaf_index().u32(),
            senders,
            u16::from(mls_group.ciphersuite()),
            mls_group
                .extensions()
                .unknown(POLICY_EXTENSION)
                .map(|extension| &extension.0),
        ),
    )?;
    let mut before: HashMap<Vec<u8>, KnownMember> = members(db, id)?
        .into_iter()
        .map(|member| (member.credential.clone(), member))
        .collect();
    for member in mls_group.members() {
        let credential = digest(&member.credential);
        let identity = identities::of(db, id, &member.credential)?.unwrap_or(Identity {
            user_pseudonym: Vec::new(),
            real: None,
        });
        let known = before.remove(&credential);
        if known.is_some_and(|known| known.removed_epoch.is_none() && known.identity == identity) {
            continue;
        }
        keep(db, id, &credential, &identity)?;
    }
    for gone in before.into_values() {
        if gone.removed_epoch.is_none() {
            change(
                db,
                "UPDATE known_members SET removed_epoch = ? WHERE group_id = ? AND credential = ?",
                (number(epoch)?, id.0, &gone.credential),
            )?;
        }
    }
    Ok(())
}

fn keep(
    db: &Connection,
    id: &GroupId,
    credential: &[u8],
    identity: &Identity,
) -> Result<(), Error> {
    let real = identity.real.as_ref();
    change(
        db,
        "INSERT INTO known_members (group_id, credential, user_pseudonym, name, signature_key)
         VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (group_id, credential) DO UPDATE SET user_pseudonym = excluded.user_pseudonym,
            name = excluded.name, signature_key = excluded.signature_key, removed_epoch = NULL",
        (
            id.0,
            credential,
            &identity.user_pseudonym,
            real.map(|real| String::from_utf8_lossy(real.name.as_slice()).into_owned()),
            real.map(|real| real.signature_public_key.as_slice()),
        ),
    )
}

/// Takes over what was known when a backup was made, in the caller's transaction.
pub(crate) fn restore(db: &Connection, id: &GroupId, known: &Known) -> Result<(), Error> {
    let senders: Vec<VLBytes> = known
        .external_senders
        .iter()
        .cloned()
        .map(VLBytes::new)
        .collect();
    let senders = senders
        .tls_serialize_detached()
        .map_err(|_| LocalError::Damaged)?;
    change(
        db,
        "INSERT OR REPLACE INTO known_groups
            (group_id, epoch, own_leaf, external_senders, ciphersuite, policy)
         VALUES (?, ?, ?, ?, ?, ?)",
        (
            id.0,
            number(known.epoch)?,
            known.own_leaf,
            senders,
            known.ciphersuite,
            &known.policy,
        ),
    )?;
    for member in &known.members {
        keep(db, id, &member.credential, &member.identity)?;
        if let Some(removed) = member.removed_epoch {
            change(
                db,
                "UPDATE known_members SET removed_epoch = ? WHERE group_id = ? AND credential = ?",
                (number(removed)?, id.0, &member.credential),
            )?;
        }
    }
    Ok(())
}

/// Remembers that something of a leaf came, sent on this day.
pub(crate) fn heard(
    db: &Connection,
    id: &GroupId,
    sender: &Credential,
    day: u32,
) -> Result<(), Error> {
    change(
        db,
        "UPDATE known_members SET heard_day = max(heard_day, ?) WHERE group_id = ? AND credential = ?",
        (day, id.0, digest(sender)),
    )
}

/// Remembers that a leaf has committed on this day.
pub(crate) fn committed(
    db: &Connection,
    id: &GroupId,
    committer: &Credential,
    day: u32,
) -> Result<(), Error> {
    change(
        db,
        "UPDATE known_members SET committed_day = max(committed_day, ?) WHERE group_id = ? AND credential = ?",
        (day, id.0, digest(committer)),
    )
}

/// The day of the latest commit of a leaf that this client has read; 0 if there was none.
pub(crate) fn committed_day(
    db: &Connection,
    id: &GroupId,
    member: &Credential,
) -> Result<u32, Error> {
    Ok(value(
        db,
        "SELECT committed_day FROM known_members WHERE group_id = ? AND credential = ?",
        (id.0, digest(member)),
    )?
    .unwrap_or(0))
}

/// The day of the latest message or commit of a leaf; 0 if there was none.
pub(crate) fn heard_day(db: &Connection, id: &GroupId, member: &Credential) -> Result<u32, Error> {
    Ok(value(
        db,
        "SELECT heard_day FROM known_members WHERE group_id = ? AND credential = ?",
        (id.0, digest(member)),
    )?
    .unwrap_or(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn somebody(key: u8) -> Identity {
        Identity {
            user_pseudonym: vec![key; 4],
            real: Some(ClientCredential {
                name: opaque(*b"x"),
                signature_public_key: opaque(vec![key; 32]),
            }),
        }
    }

    #[test]
    fn an_epoch_that_no_group_comes_to_is_its_senders_fault_and_not_this_machines() {
        check_epoch(1_000_000).unwrap();
        for epoch in [u64::MAX, i64::MAX as u64, 1 << 63, (1 << 62) + 7] {
            let refused = Error::from(check_epoch(epoch).unwrap_err());
            assert!(matches!(refused.of_content(), Ok(PeerError::Epoch)));
        }
    }

    #[test]
    fn what_was_known_when_a_backup_was_made_is_known_again_with_who_was_removed() {
        let db = crate::store::database::in_memory().unwrap();
        let id = GroupId([7; 16]);
        assert_eq!(of(&db, &id).unwrap(), None);
        let member = |leaf: u8, removed_epoch| KnownMember {
            credential: vec![leaf; 32],
            identity: somebody(leaf),
            removed_epoch,
        };
        let known = Known {
            epoch: 12,
            own_leaf: 3,
            external_senders: vec![vec![1, 2], vec![3]],
            ciphersuite: 79,
            policy: Some(vec![4]),
            members: vec![member(1, None), member(2, Some(9))],
        };
        restore(&db, &id, &known).unwrap();
        assert_eq!(of(&db, &id).unwrap().as_ref(), Some(&known));
        assert_eq!(highest_epoch(&db, &id).unwrap(), Some(12));
        assert!(known.has_person(&[1; 32]) && known.has_leaf(&[1; 32]));
        assert!(!known.has_person(&[2; 32]) && known.was_removed(&[2; 32]));
    }
}
