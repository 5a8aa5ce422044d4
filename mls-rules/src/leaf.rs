//! What every leaf has, and whose it is.

use crypto::credential::{CREDENTIAL_TYPE, PseudonymousCredential};
use openmls::prelude::{Credential, CredentialType, LeafNode, LeafNodeIndex, PublicGroup};
use protocol::Wire as _;

use crate::Refusal;

/// The claims of a leaf about itself, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafClaims {
    /// The leaf's signature key.
    pub signature_key: Vec<u8>,
    /// The pseudonym that a user's leaves share in this group.
    pub user_pseudonym: Vec<u8>,
}

impl LeafClaims {
    /// A leaf has a pseudonymous credential for its own key.
    ///
    /// # Errors
    /// [`Refusal::Leaf`].
    pub fn of(leaf: &LeafNode) -> Result<Self, Refusal> {
        let credential = pseudonymous(leaf.credential()).ok_or(Refusal::Leaf)?;
        let signature_key = leaf.signature_key().as_slice().to_vec();
        if credential.signature_public_key.as_slice() != signature_key {
            return Err(Refusal::Leaf);
        }
        Ok(Self {
            signature_key,
            user_pseudonym: credential.user_pseudonym.as_slice().to_vec(),
        })
    }
}

fn pseudonymous(credential: &Credential) -> Option<PseudonymousCredential> {
    if credential.credential_type() != CredentialType::Other(CREDENTIAL_TYPE) {
        return None;
    }
    PseudonymousCredential::decode(credential.serialized_content()).ok()
}

/// The user of a leaf of a group.
#[must_use]
pub fn user_of(group: &PublicGroup, leaf: u32) -> Option<Vec<u8>> {
    user_in(group.leaf(LeafNodeIndex::new(leaf))?.credential())
}

fn user_in(credential: &Credential) -> Option<Vec<u8>> {
    let pseudonymous = pseudonymous(credential)?;
    Some(pseudonymous.user_pseudonym.as_slice().to_vec())
}

/// All leaves of a group with their users.
pub fn users(group: &PublicGroup) -> impl Iterator<Item = (u32, Vec<u8>)> + '_ {
    group
        .treesync()
        .full_leaves()
        .filter_map(|(index, leaf)| Some((index.u32(), user_in(leaf.credential())?)))
}

/// Whether all leaves are of one user.
#[must_use]
pub fn is_one_user(group: &PublicGroup) -> bool {
    let mut users = users(group).map(|(_, user)| user);
    let first = users.next();
    users.all(|user| Some(&user) == first.as_ref())
}
