//! Who is behind the leaves of a group: identity links, opened and verified once per credential.

use crypto::credential::unwrap_link_key;
use crypto::keys::IdentityLinkWrapperKey;
use openmls::prelude::Credential;
use protocol::codec::opaque;
use protocol::connections::ClientCredential;
use protocol::ids::GroupId;
use rusqlite::{Connection, OptionalExtension as _};
use sha2::{Digest as _, Sha256};

use crate::contacts::{UNVERIFIED, display_name};
use crate::error::{Error, PeerError};
use crate::leaf;
use crate::profile::Profile;

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

/// The row of a credential: the whole of it, so that no part can be claimed by another leaf.
fn row_key(credential: &Credential) -> Vec<u8> {
    Sha256::digest(credential.serialized_content()).to_vec()
}

/// Opens the identity link of a leaf and verifies it.
pub(crate) fn open(
    credential: &Credential,
    signature_key: &[u8],
    wrapper: &IdentityLinkWrapperKey,
    wrapped: &[u8],
) -> Result<Identity, Error> {
    let pseudonymous =
        leaf::pseudonymous(credential, signature_key).ok_or(PeerError::IdentityLink)?;
    let link_key = unwrap_link_key(wrapper, wrapped).map_err(|_| PeerError::IdentityLink)?;
    let real = pseudonymous
        .open_identity_link(&link_key)
        .map_err(|_| PeerError::IdentityLink)?;
    Ok(Identity {
        user_pseudonym: pseudonymous.user_pseudonym.as_slice().to_vec(),
        real: Some(real),
    })
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
    db.execute(
        "INSERT OR REPLACE INTO identities (group_id, credential, user_pseudonym, name, signature_key)
         VALUES (?, ?, ?, ?, ?)",
        (
            group.0,
            row_key(credential),
            &identity.user_pseudonym,
            identity.real.as_ref().map(|real| String::from_utf8_lossy(real.name.as_slice()).into_owned()),
            identity.real.as_ref().map(|real| real.signature_public_key.as_slice()),
        ),
    )?;
    Ok(())
}

/// What is known of a credential in a group.
pub(crate) fn of(
    db: &Connection,
    group: &GroupId,
    credential: &Credential,
) -> Result<Option<Identity>, Error> {
    Ok(db
        .query_row(
            "SELECT user_pseudonym, name, signature_key FROM identities WHERE group_id = ? AND credential = ?",
            (group.0, row_key(credential)),
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
        .optional()?)
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
