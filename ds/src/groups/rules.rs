//! What each operation allows a commit to contain (draft-robert-mimi-delivery-service §5), and what every
//! leaf here must have.

use crypto::credential::{
    CREDENTIAL_TYPE, PseudonymousCredential, QUEUE_REFERENCE_EXTENSION, WRAPPED_LINK_KEY_LEN,
};
use openmls::prelude::{
    CredentialType, LeafNode, Proposal, ProposalOrRefType, Sender, StagedCommit,
};
use protocol::groups::{CommitAad, GroupKind};
use protocol::ids::QueueId;
use protocol::problem::ProblemType;
use protocol::{Operation, Wire};

use super::roster::{Leaf, Roster};
use crate::error::DsError;
use crate::service_state::DeliveryService;

/// What a leaf says of itself, checked.
pub struct LeafClaims {
    signature_key: Vec<u8>,
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

/// A commit's effect on the roster, allowed by its operation.
#[derive(Default)]
pub struct Effect {
    /// Leaves that came in by Adds, with their encrypted identity link keys, in their order.
    pub added: Vec<(LeafClaims, Vec<u8>)>,
    /// Leaves that go.
    pub removed: Vec<u32>,
    /// The committer's new leaf, if its content changed, with its new link key if the credential did.
    pub committer: Option<(LeafClaims, Option<Vec<u8>>)>,
}

/// Judges a commit.
///
/// # Errors
/// [`ProblemType::InvalidCommit`], [`ProblemType::InvalidLeaf`], [`ProblemType::NotAllowed`],
/// [`ProblemType::RotationRequired`].
pub fn judge(
    service: &DeliveryService,
    operation: Operation,
    roster: &Roster<'_>,
    sender: &Sender,
    staged: &StagedCommit,
    aad: &CommitAad,
    rotates: bool,
) -> Result<Effect, DsError> {
    if aad.rotates_state_key != u8::from(rotates) {
        return Err(ProblemType::InvalidCommit.into());
    }
    if aad
        .encrypted_identity_link_keys
        .iter()
        .any(|key| key.as_slice().len() != WRAPPED_LINK_KEY_LEN)
    {
        return Err(ProblemType::InvalidCommit.into());
    }
    // No operation takes proposals by reference: none can be pending.
    if staged
        .queued_proposals()
        .any(|queued| queued.proposal_or_ref_type() != ProposalOrRefType::Proposal)
    {
        return Err(ProblemType::InvalidCommit.into());
    }
    let effect = match (operation, roster.kind()) {
        (Operation::AddUsers, GroupKind::Group) => add_users(service, roster, staged, aad)?,
        (Operation::RemoveUsers, GroupKind::Group) => {
            if !rotates {
                return Err(ProblemType::RotationRequired.into());
            }
            remove_users(roster, sender, staged, aad)?
        }
        (Operation::UpdateClient, _) => {
            if staged.queued_proposals().next().is_some()
                || staged.update_path_leaf_node().is_none()
            {
                return Err(ProblemType::InvalidCommit.into());
            }
            Effect::default()
        }
        (Operation::ExternalJoin, GroupKind::Connection) => {
            join_connection(service, roster, staged, aad)?
        }
        _ => return Err(ProblemType::NotAllowed.into()),
    };
    if operation != Operation::ExternalJoin
        && !aad.encrypted_connection_response.as_slice().is_empty()
    {
        return Err(ProblemType::InvalidCommit.into());
    }
    with_committer(service, operation, roster, sender, staged, aad, effect)
}

fn only(staged: &StagedCommit, allowed: fn(&Proposal) -> bool) -> Result<(), DsError> {
    if staged
        .queued_proposals()
        .all(|queued| allowed(queued.proposal()))
    {
        Ok(())
    } else {
        Err(ProblemType::InvalidCommit.into())
    }
}

fn add_users(
    service: &DeliveryService,
    roster: &Roster<'_>,
    staged: &StagedCommit,
    aad: &CommitAad,
) -> Result<Effect, DsError> {
    only(staged, |proposal| matches!(proposal, Proposal::Add(_)))?;
    let mut added = Vec::new();
    for add in staged.add_proposals() {
        let claims = LeafClaims::of(service, add.add_proposal().key_package().leaf_node())?;
        // A further client of a user who is here already comes in by another operation.
        if roster.has_user(&claims.user_pseudonym) {
            return Err(ProblemType::NotAllowed.into());
        }
        let link_key = aad
            .encrypted_identity_link_keys
            .get(added.len())
            .ok_or(ProblemType::InvalidCommit)?;
        added.push((claims, link_key.as_slice().to_vec()));
    }
    if added.is_empty() || added.len() != aad.encrypted_identity_link_keys.len() {
        return Err(ProblemType::InvalidCommit.into());
    }
    Ok(Effect {
        added,
        ..Effect::default()
    })
}

fn remove_users(
    roster: &Roster<'_>,
    sender: &Sender,
    staged: &StagedCommit,
    aad: &CommitAad,
) -> Result<Effect, DsError> {
    only(staged, |proposal| matches!(proposal, Proposal::Remove(_)))?;
    if !aad.encrypted_identity_link_keys.is_empty() {
        return Err(ProblemType::InvalidCommit.into());
    }
    let removed: Vec<u32> = staged
        .remove_proposals()
        .map(|remove| remove.remove_proposal().removed().u32())
        .collect();
    if removed.is_empty() {
        return Err(ProblemType::InvalidCommit.into());
    }
    let pseudonyms: Vec<&[u8]> = removed
        .iter()
        .map(|index| {
            roster
                .leaf(*index)
                .map(|leaf| leaf.user_pseudonym.as_ref())
                .ok_or(DsError::from(ProblemType::InvalidCommit))
        })
        .collect::<Result<_, _>>()?;
    // All clients of each removed user; the committer leaves by other means.
    let incomplete = roster.leaves().iter().any(|leaf| {
        pseudonyms.contains(&leaf.user_pseudonym.as_ref()) && !removed.contains(&leaf.index)
    });
    let own = matches!(sender, Sender::Member(index) if removed.contains(&index.u32()));
    if incomplete || own {
        return Err(ProblemType::InvalidCommit.into());
    }
    Ok(Effect {
        removed,
        ..Effect::default()
    })
}

fn join_connection(
    service: &DeliveryService,
    roster: &Roster<'_>,
    staged: &StagedCommit,
    aad: &CommitAad,
) -> Result<Effect, DsError> {
    only(staged, |proposal| {
        matches!(proposal, Proposal::ExternalInit(_))
    })?;
    // Two users: whoever asked, and whoever accepts.
    if roster.leaves().len() != 1 {
        return Err(ProblemType::NotAllowed.into());
    }
    let leaf = staged
        .update_path_leaf_node()
        .ok_or(ProblemType::InvalidCommit)?;
    let claims = LeafClaims::of(service, leaf)?;
    if roster.has_user(&claims.user_pseudonym) {
        return Err(ProblemType::NotAllowed.into());
    }
    let [link_key] = aad.encrypted_identity_link_keys.as_slice() else {
        return Err(ProblemType::InvalidCommit.into());
    };
    if aad.encrypted_connection_response.as_slice().is_empty() {
        return Err(ProblemType::InvalidCommit.into());
    }
    Ok(Effect {
        added: vec![(claims, link_key.as_slice().to_vec())],
        ..Effect::default()
    })
}

/// Judges the committer's own new leaf, which a path brings.
fn with_committer(
    service: &DeliveryService,
    operation: Operation,
    roster: &Roster<'_>,
    sender: &Sender,
    staged: &StagedCommit,
    aad: &CommitAad,
    mut effect: Effect,
) -> Result<Effect, DsError> {
    let Sender::Member(index) = sender else {
        return Ok(effect);
    };
    let Some(leaf) = staged.update_path_leaf_node() else {
        return Ok(effect);
    };
    let old = roster
        .leaf(index.u32())
        .ok_or(DsError::Internal("roster is not the tree's"))?;
    let claims = LeafClaims::of(service, leaf)?;
    let credential_changed = leaf.signature_key().as_slice() != old.signature_key.as_ref()
        || claims.user_pseudonym != old.user_pseudonym.as_ref();
    if operation == Operation::UpdateClient {
        let link_key = match (
            credential_changed,
            aad.encrypted_identity_link_keys.as_slice(),
        ) {
            (true, [key]) => Some(key.as_slice().to_vec()),
            (false, []) => None,
            _ => return Err(ProblemType::InvalidCommit.into()),
        };
        // A new user pseudonym must be nobody else's, and leave no other client behind under the old one.
        let pseudonym_changed = claims.user_pseudonym != old.user_pseudonym.as_ref();
        let shared = roster
            .leaves()
            .iter()
            .filter(|leaf| leaf.user_pseudonym == old.user_pseudonym)
            .count()
            > 1;
        if pseudonym_changed && (shared || roster.has_user(&claims.user_pseudonym)) {
            return Err(ProblemType::NotAllowed.into());
        }
        effect.committer = Some((claims, link_key));
    } else {
        if credential_changed {
            return Err(ProblemType::InvalidCommit.into());
        }
        effect.committer = Some((claims, None));
    }
    Ok(effect)
}
