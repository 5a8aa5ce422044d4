//! What each operation allows a commit to contain (draft-robert-mimi-delivery-service §5), and what every
//! leaf here must have.

mod external;
mod members;

use crypto::credential::{
    CREDENTIAL_TYPE, PseudonymousCredential, QUEUE_REFERENCE_EXTENSION, WRAPPED_LINK_KEY_LEN,
};
use openmls::prelude::{
    CredentialType, LeafNode, Proposal, ProposalOrRefType, QueuedProposal, Sender, StagedCommit,
};
use protocol::groups::{CommitAad, LeafAuthorization};
use protocol::ids::{GroupId, QueueId};
use protocol::policy::GroupPolicy;
use protocol::problem::ProblemType;
use protocol::{Operation, Wire};

use super::permits::Permission;
use super::proposals::PendingProposals;
use super::roster::{Leaf, Roster};
use super::tree::Tree;
use crate::error::DsError;
use crate::service_state::DeliveryService;

/// What a leaf says of itself, checked.
pub struct LeafClaims {
    /// Of the leaf.
    pub signature_key: Vec<u8>,
    /// Shared by a user's leaves in this group.
    pub user_pseudonym: Vec<u8>,
    queue: QueueId,
}

impl LeafClaims {
    /// Checks that a leaf has a pseudonymous credential for its own key and a queue reference that opens.
    ///
    /// # Errors
    /// [`ProblemType::InvalidLeaf`].
    pub fn of(service: &DeliveryService, leaf: &LeafNode) -> Result<Self, DsError> {
        if leaf.credential().credential_type() != CredentialType::Other(CREDENTIAL_TYPE) {
            return Err(ProblemType::InvalidLeaf.into());
        }
        let credential = PseudonymousCredential::decode(leaf.credential().serialized_content())
            .map_err(|_| ProblemType::InvalidLeaf)?;
        let signature_key = leaf.signature_key().as_slice().to_vec();
        if credential.signature_public_key.as_slice() != signature_key {
            return Err(ProblemType::InvalidLeaf.into());
        }
        let reference = leaf
            .extensions()
            .unknown(QUEUE_REFERENCE_EXTENSION)
            .ok_or(ProblemType::InvalidLeaf)?;
        let queue = service
            .keys
            .open_reference(&signature_key, &reference.0)
            .map_err(|_| ProblemType::InvalidLeaf)?;
        Ok(Self {
            signature_key,
            user_pseudonym: credential.user_pseudonym.as_slice().to_vec(),
            queue,
        })
    }

    /// The roster's record of this leaf.
    ///
    /// # Errors
    /// [`DsError::Internal`].
    pub fn into_leaf<'a>(
        self,
        service: &DeliveryService,
        index: u32,
        link_key: &[u8],
    ) -> Result<Leaf<'a>, DsError> {
        Leaf::new(
            service,
            index,
            self.signature_key,
            self.user_pseudonym,
            &self.queue,
            link_key.to_vec(),
        )
    }
}

/// What a committer's path makes of its own leaf.
pub struct RenewedLeaf {
    /// Of the new leaf.
    pub claims: LeafClaims,
    /// If the credential changed.
    pub link_key: Option<Vec<u8>>,
}

/// A commit's effect on the roster, allowed by its operation.
#[derive(Default)]
pub struct Effect {
    /// Leaves that come in, with their encrypted identity link keys, in the order of the Adds.
    pub added: Vec<(LeafClaims, Vec<u8>)>,
    /// Leaves that go.
    pub removed: Vec<u32>,
    /// The committer's new leaf, if there is one.
    pub committer: Option<RenewedLeaf>,
    /// Last day of the KeyPackages that were added.
    pub key_packages_until: u32,
    /// The group that takes this one's place (RFC 9420 §11.2).
    pub reinitialized_as: Option<GroupId>,
}

/// A commit before the judge.
pub struct Case<'c> {
    /// What was asked for.
    pub operation: Operation,
    /// Who commits.
    pub sender: Sender,
    /// Why an external committer may.
    pub permission: Option<&'c Permission>,
    /// The word of a leaf in the permit: the commit must show the same to the members.
    pub authorization: Option<&'c LeafAuthorization>,
    /// As processed.
    pub staged: &'c StagedCommit,
    /// Of the commit.
    pub aad: &'c CommitAad,
    /// Whether the request brings a next state key.
    pub rotates: bool,
    /// Before the commit.
    pub roster: &'c Roster<'c>,
    /// Before the commit.
    pub tree: &'c Tree,
    /// Of the tree.
    pub policy: Option<GroupPolicy>,
    /// What could be referred to.
    pub pending: &'c PendingProposals,
}

/// Judges a commit.
///
/// # Errors
/// [`ProblemType::InvalidCommit`], [`ProblemType::InvalidLeaf`], [`ProblemType::NotAllowed`],
/// [`ProblemType::RotationRequired`], [`ProblemType::PendingProposals`], [`ProblemType::LimitExceeded`].
pub fn judge(service: &DeliveryService, case: &Case<'_>) -> Result<Effect, DsError> {
    case.check_aad()?;
    if case.staged.queued_proposals().count() > service.settings.limits.proposals {
        return Err(ProblemType::LimitExceeded.into());
    }
    let effect = match &case.sender {
        Sender::Member(index) => {
            let committer = case
                .roster
                .leaf(index.u32())
                .ok_or(DsError::Internal("roster is not the tree's"))?;
            members::judge(service, case, committer)?
        }
        Sender::NewMemberCommit => {
            let permission = case.permission.ok_or(ProblemType::InvalidCommit)?;
            external::judge(service, case, permission)?
        }
        Sender::External(_) | Sender::NewMemberProposal => {
            return Err(ProblemType::InvalidCommit.into());
        }
    };
    if !effect.removed.is_empty() && !case.rotates {
        return Err(ProblemType::RotationRequired.into());
    }
    let members = case
        .roster
        .leaves()
        .len()
        .saturating_add(effect.added.len())
        .saturating_sub(effect.removed.len());
    if !effect.added.is_empty() && members > service.settings.limits.members {
        return Err(ProblemType::LimitExceeded.into());
    }
    Ok(effect)
}

impl Case<'_> {
    fn check_aad(&self) -> Result<(), DsError> {
        let CommitAad {
            encrypted_identity_link_keys,
            rotates_state_key,
            encrypted_connection_response,
            leaf_authorization,
        } = self.aad;
        let response_belongs = matches!(self.permission, Some(Permission::Connection));
        if *rotates_state_key != u8::from(self.rotates)
            || encrypted_connection_response.as_slice().is_empty() == response_belongs
            || leaf_authorization.as_ref() != self.authorization
            // An empty one stands for what a new member said itself.
            || encrypted_identity_link_keys
                .iter()
                .any(|key| !matches!(key.as_slice().len(), 0 | WRAPPED_LINK_KEY_LEN))
        {
            return Err(ProblemType::InvalidCommit.into());
        }
        Ok(())
    }

    /// Whether the group keeps a user out.
    /// Whether the policy speaks of a user. Pseudonyms are what their holders say: who comes anew cannot
    /// have one that the policy gives a role, or keeps out.
    fn lists(&self, user_pseudonym: &[u8]) -> bool {
        self.policy
            .as_ref()
            .is_some_and(|policy| policy.participant(user_pseudonym).is_some())
    }

    fn bans(&self, user_pseudonym: &[u8]) -> bool {
        self.policy
            .as_ref()
            .is_some_and(|policy| policy.bans(user_pseudonym))
    }

    fn by_value(&self) -> impl Iterator<Item = &QueuedProposal> {
        self.staged
            .queued_proposals()
            .filter(|queued| queued.proposal_or_ref_type() == ProposalOrRefType::Proposal)
    }

    fn by_reference(&self) -> impl Iterator<Item = &QueuedProposal> {
        self.staged
            .queued_proposals()
            .filter(|queued| queued.proposal_or_ref_type() == ProposalOrRefType::Reference)
    }

    /// All proposals by value are of the kinds that the operation takes.
    fn only(&self, allowed: fn(&Proposal) -> bool) -> Result<(), DsError> {
        if self.by_value().all(|queued| allowed(queued.proposal())) {
            Ok(())
        } else {
            Err(ProblemType::InvalidCommit.into())
        }
    }

    /// Leaves that a commit removes, by value and by reference.
    fn removed(&self) -> Vec<u32> {
        let mut removed: Vec<u32> = self.staged.queued_proposals().filter_map(leaving).collect();
        removed.sort_unstable();
        removed.dedup();
        removed
    }
}

/// The leaf that a proposal removes.
pub fn leaving(queued: &QueuedProposal) -> Option<u32> {
    match (queued.proposal(), queued.sender()) {
        (Proposal::Remove(remove), _) => Some(remove.removed().u32()),
        (Proposal::SelfRemove, Sender::Member(sender)) => Some(sender.u32()),
        _ => None,
    }
}
