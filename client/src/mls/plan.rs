//! What a commit is to do.

use crypto::keys::IdentityLinkKey;
use openmls::prelude::{KeyPackage, LeafNodeIndex};
use protocol::operation::Operation;
use protocol::policy::GroupPolicy;

use crate::mls::new_leaf::NewLeaf;

/// What a commit is to do, beside covering what is pending.
pub(crate) enum Plan {
    Add {
        key_packages: Vec<KeyPackage>,
        link_keys: Vec<IdentityLinkKey>,
    },
    /// Further clients of this user.
    AddClients {
        key_packages: Vec<KeyPackage>,
        link_keys: Vec<IdentityLinkKey>,
    },
    Remove(Vec<LeafNodeIndex>),
    /// Other clients of this user.
    RemoveClients(Vec<LeafNodeIndex>),
    Update(Box<NewLeaf>),
    /// Nothing else: under the keys that the leaf has.
    Cover,
    SetPolicy(Box<GroupPolicy>),
    /// Everybody else goes, and the group with them.
    Delete,
}

impl Plan {
    pub(crate) fn operation(&self) -> Operation {
        match self {
            Self::Add { .. } => Operation::AddUsers,
            Self::AddClients { .. } => Operation::AddClients,
            Self::Remove(_) => Operation::RemoveUsers,
            Self::RemoveClients(_) => Operation::RemoveClients,
            Self::Update(_) | Self::Cover => Operation::UpdateClient,
            Self::SetPolicy(_) => Operation::SetRole,
            Self::Delete => Operation::DeleteGroup,
        }
    }

    /// Who goes anyway need not be removed.
    pub(crate) fn without(self, leaving: &[u32]) -> Self {
        let staying = |leaves: Vec<LeafNodeIndex>| -> Vec<LeafNodeIndex> {
            leaves
                .into_iter()
                .filter(|leaf| !leaving.contains(&leaf.u32()))
                .collect()
        };
        match self {
            Self::Remove(leaves) => match staying(leaves) {
                none if none.is_empty() => Self::Cover,
                some => Self::Remove(some),
            },
            Self::RemoveClients(leaves) => match staying(leaves) {
                none if none.is_empty() => Self::Cover,
                some => Self::RemoveClients(some),
            },
            other => other,
        }
    }
}
