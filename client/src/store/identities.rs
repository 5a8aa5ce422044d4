//! Who is behind the leaves of a group: identity links, opened and verified once per credential.

use std::collections::{HashMap, HashSet};

use crypto::credential::{unwrap_link_key, wrap_link_key};
use crypto::keys::{IdentityLinkKey, IdentityLinkWrapperKey};
use openmls::prelude::{Credential, Member, MlsGroup};
use protocol::codec::opaque;
use protocol::connections::ClientCredential;
use protocol::ids::{GroupId, RotationEpoch};
use protocol::join::LeafLinkKey;
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::error::{Error, PeerError};
use crate::leaf;
use crate::store::contacts::{UNVERIFIED, display_name};
use crate::store::database::{change, first, rows, value};
use crate::store::groups::Group;
use crate::store::profile::Profile;
use crate::store::wrappers::Wrappers;

/// What is known of the user behind a leaf credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Shared by the user's clients in this group.
    pub(crate) user_pseudonym: Vec<u8>,
    /// `None` if the identity link did not open.
    pub(crate) real: Option<ClientCredential>,
}

impl Identity {
    /// Whether both are known to be the same user.
    pub(crate) fn is_same_user(&self, other: &Self) -> bool {
        let key = |identity: &Self| {
            identity
                .real
                .as_ref()
                .map(|real| real.signature_public_key.as_slice().to_vec())
        };
        key(self).is_some() && key(self) == key(other)
    }
}

/// Opens the identity link of a leaf and verifies it.
pub(crate) fn open(
    credential: &Credential,
    signature_key: &[u8],
    wrapper: &IdentityLinkWrapperKey,
    wrapped: &[u8],
) -> Result<Identity, Error> {
    let link_key = unwrap_link_key(wrapper, wrapped).map_err(|_| PeerError::IdentityLink)?;
    open_with(credential, signature_key, &link_key)
}

/// As [`open`], by a link key that this client keeps.
fn open_by(credential: &Credential, signature_key: &[u8], key: &[u8]) -> Result<Identity, Error> {
    let link_key = IdentityLinkKey::try_from(key).map_err(|_| PeerError::IdentityLink)?;
    open_with(credential, signature_key, &link_key)
}

fn open_with(
    credential: &Credential,
    signature_key: &[u8],
    link_key: &IdentityLinkKey,
) -> Result<Identity, Error> {
    let pseudonymous =
        leaf::pseudonymous(credential, signature_key).ok_or(PeerError::IdentityLink)?;
    let real = pseudonymous
        .open_identity_link(link_key)
        .map_err(|_| PeerError::IdentityLink)?;
    Ok(Identity {
        user_pseudonym: pseudonymous.user_pseudonym.as_slice().to_vec(),
        real: Some(real),
    })
}

/// The identity key behind a user pseudonym of a group, now or in the past.
pub(crate) fn key_behind(
    db: &Connection,
    group: &GroupId,
    user_pseudonym: &[u8],
) -> Result<Option<Vec<u8>>, Error> {
    value(
        db,
        "SELECT signature_key FROM identities
             WHERE group_id = ? AND user_pseudonym = ? AND signature_key IS NOT NULL LIMIT 1",
        (group.0, user_pseudonym),
    )
}

/// As [`open`], but a leaf whose link does not open is known as such: one member's fault must not
/// throw the others out of the group.
pub(crate) fn open_or_unverified(
    credential: &Credential,
    signature_key: &[u8],
    wrapper: &IdentityLinkWrapperKey,
    wrapped: Option<&[u8]>,
) -> Identity {
    wrapped
        .and_then(|wrapped| open(credential, signature_key, wrapper, wrapped).ok())
        .unwrap_or_else(|| Identity {
            user_pseudonym: leaf::pseudonymous(credential, signature_key)
                .map(|pseudonymous| pseudonymous.user_pseudonym.as_slice().to_vec())
                .unwrap_or_default(),
            real: None,
        })
}

pub(crate) fn store(
    db: &Connection,
    group: &GroupId,
    credential: &Credential,
    identity: &Identity,
) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO identities (group_id, credential, user_pseudonym, name, signature_key)
         VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (group_id, credential) DO UPDATE SET user_pseudonym = excluded.user_pseudonym,
            name = excluded.name, signature_key = excluded.signature_key, accepted = 0",
        (
            group.0,
            digest(credential),
            &identity.user_pseudonym,
            identity
                .real
                .as_ref()
                .map(|real| String::from_utf8_lossy(real.name.as_slice()).into_owned()),
            identity
                .real
                .as_ref()
                .map(|real| real.signature_public_key.as_slice()),
        ),
    )
}

/// Link keys of a group by credential, and under which wrapper key the service has each.
pub(crate) type LinkKeys = HashMap<Vec<u8>, (Zeroizing<Vec<u8>>, i64)>;

/// The link keys that this client keeps of a group.
pub(crate) fn link_keys(db: &Connection, group: &GroupId) -> Result<LinkKeys, Error> {
    let kept = rows(
        db,
        "SELECT credential, link_key, wrapper FROM identities
         WHERE group_id = ? AND link_key IS NOT NULL AND wrapper IS NOT NULL",
        [group.0],
        |row| Ok((row.get(0)?, (Zeroizing::new(row.get(1)?), row.get(2)?))),
    )?;
    Ok(kept.into_iter().collect())
}

/// Who is behind a member, by what the service shows to who comes in, and keeps it; by what is
/// `kept` from before where that does not say it: whom this client knows it does not forget.
pub(crate) fn found(
    db: &Connection,
    group: &Group,
    wrappers: &Wrappers,
    leaves: &[LeafLinkKey],
    kept: &LinkKeys,
    member: &Member,
) -> Result<Identity, Error> {
    let link = wrappers.link(leaves, member.index.u32());
    let identity = shown(&member.credential, &member.signature_key, link);
    if identity.real.is_none()
        && let Some((key, wrapper)) = kept.get(&digest(&member.credential))
        && let Ok(known) = open_by(&member.credential, &member.signature_key, key)
    {
        store(db, &group.id, &member.credential, &known)?;
        change(
            db,
            "UPDATE identities SET link_key = ?, wrapper = ? WHERE group_id = ? AND credential = ?",
            (
                key.as_slice(),
                wrapper,
                group.id.0,
                digest(&member.credential),
            ),
        )?;
        return Ok(known);
    }
    store(db, &group.id, &member.credential, &identity)?;
    if let Some((rotation, wrapper, wrapped)) = link {
        keep_link_key(
            db,
            &group.id,
            &member.credential,
            (rotation, wrapper),
            wrapped,
        )?;
    }
    Ok(identity)
}

/// Who is behind a leaf, by a link key and what opens that.
pub(crate) fn shown(
    credential: &Credential,
    signature_key: &[u8],
    link: Option<(RotationEpoch, &IdentityLinkWrapperKey, &[u8])>,
) -> Identity {
    match link {
        Some((_, wrapper, wrapped)) => {
            open_or_unverified(credential, signature_key, wrapper, Some(wrapped))
        }
        None => {
            let none = IdentityLinkWrapperKey::new([0; 32]);
            open_or_unverified(credential, signature_key, &none, None)
        }
    }
}

/// Keeps what opens the identity link of a leaf, and under which wrapper key the service has it;
/// what does not open is not kept. The identity must be stored.
pub(crate) fn keep_link_key(
    db: &Connection,
    group: &GroupId,
    credential: &Credential,
    (rotation, wrapper): (RotationEpoch, &IdentityLinkWrapperKey),
    wrapped: &[u8],
) -> Result<(), Error> {
    if let Ok(key) = unwrap_link_key(wrapper, wrapped) {
        change(
            db,
            "UPDATE identities SET link_key = ?, wrapper = ? WHERE group_id = ? AND credential = ?",
            (
                key.expose(),
                i64::try_from(rotation.0).unwrap_or(i64::MAX),
                group.0,
                digest(credential),
            ),
        )?;
    }
    Ok(())
}

/// Link keys of these leaves under a wrapper key, those first that are under the oldest ones, at
/// most so many.
pub(crate) fn resealed(
    db: &Connection,
    group: &GroupId,
    leaves: &[(u32, Credential)],
    under: &IdentityLinkWrapperKey,
    most: usize,
) -> Result<Vec<(u32, Vec<u8>)>, Error> {
    let mut found = Vec::new();
    for (leaf, credential) in leaves {
        let row: Option<(Vec<u8>, i64)> = first(
            db,
            "SELECT link_key, wrapper FROM identities
                 WHERE group_id = ? AND credential = ? AND link_key IS NOT NULL",
            (group.0, digest(credential)),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        if let Some((key, wrapper)) = row {
            found.push((wrapper, *leaf, zeroize::Zeroizing::new(key)));
        }
    }
    found.sort_unstable_by_key(|(wrapper, leaf, _)| (*wrapper, *leaf));
    found.truncate(most);
    found
        .into_iter()
        .map(|(_, leaf, key)| {
            let key = IdentityLinkKey::try_from(key.as_slice())?;
            Ok((leaf, wrap_link_key(under, &key)?))
        })
        .collect()
}

/// What is known of a credential in a group.
pub(crate) fn of(
    db: &Connection,
    group: &GroupId,
    credential: &Credential,
) -> Result<Option<Identity>, Error> {
    first(
        db,
        "SELECT user_pseudonym, name, signature_key FROM identities WHERE group_id = ? AND credential = ?",
        (group.0, digest(credential)),
        |row| {
            let name: Option<String> = row.get(1)?;
            let key: Option<Vec<u8>> = row.get(2)?;
            Ok(Identity {
                user_pseudonym: row.get(0)?,
                real: name.zip(key).map(|(name, key)| ClientCredential {
                    name: opaque(name.as_bytes()),
                    signature_public_key: opaque(key),
                }),
            })
        },
    )
}

/// Whether there is a member that cannot show who it is, and with whom the user has not decided to
/// go on.
pub(crate) fn has_unverified(
    db: &Connection,
    group: &GroupId,
    mls_group: &MlsGroup,
) -> Result<bool, Error> {
    let mut statement = db.prepare_cached(
        "SELECT credential FROM identities
         WHERE group_id = ? AND signature_key IS NULL AND accepted = 0",
    )?;
    let rows = statement.query_map([group.0], |row| row.get::<_, Vec<u8>>(0))?;
    let unverified = rows.collect::<Result<HashSet<_>, _>>()?;
    if unverified.is_empty() {
        return Ok(false);
    }
    let mut members = mls_group.members();
    Ok(members.any(|member| unverified.contains(&digest(&member.credential))))
}

/// The user goes on with the members that cannot show who they are, in the caller's transaction.
pub(crate) fn accept_unverified(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(
        db,
        "UPDATE identities SET accepted = 1 WHERE group_id = ? AND signature_key IS NULL",
        [group.0],
    )
}

/// How the identity is shown.
pub(crate) fn name(
    db: &Connection,
    profile: &Profile,
    identity: Option<&Identity>,
) -> Result<String, Error> {
    match identity.and_then(|identity| identity.real.as_ref()) {
        Some(real) => display_name(db, &profile.credential()?, real),
        None => Ok(UNVERIFIED.to_owned()),
    }
}

/// How the owner of a leaf credential is shown.
pub(crate) fn name_of(
    db: &Connection,
    profile: &Profile,
    group: &GroupId,
    credential: &Credential,
) -> Result<String, Error> {
    name(db, profile, of(db, group, credential)?.as_ref())
}

/// Names a leaf: by the whole of its credential, so that no part can be claimed by another one.
pub(crate) fn digest(credential: &Credential) -> Vec<u8> {
    Sha256::digest(credential.serialized_content()).to_vec()
}

/// The identity key behind a credential in a group, as far as it is known.
pub(crate) fn key_of(
    db: &Connection,
    group: &GroupId,
    credential: &[u8],
) -> Result<Option<Vec<u8>>, Error> {
    let key: Option<Option<Vec<u8>>> = value(
        db,
        "SELECT signature_key FROM identities WHERE group_id = ? AND credential = ?",
        (group.0, credential),
    )?;
    Ok(key.flatten())
}
