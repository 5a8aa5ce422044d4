//! Proposals that stand until the next commit: of members who leave, of external senders and of new
//! members.

use openmls::prelude::{Proposal, ProposalType, PublicGroup, QueuedProposal, Sender};
use protocol::group::GroupKind;

use crate::Refusal;
use crate::commit::leaving;
use crate::context::{external_index, policy_in, sender_keys};
use crate::leaf::{LeafClaims, users};

/// A SelfRemove, or a Remove of the sender's own leaf by implementations that have no SelfRemove.
///
/// # Errors
/// [`Refusal::Proposal`].
pub fn judge_leaving(
    group: &PublicGroup,
    queued: &QueuedProposal,
    leaf: u32,
) -> Result<(), Refusal> {
    let by_itself = matches!(queued.sender(), Sender::Member(index) if index.u32() == leaf);
    if !by_itself || leaving(queued) != Some(leaf) {
        return Err(Refusal::Proposal);
    }
    // No commit could cover a type that a member does not support (RFC 9420 §12.2).
    let kind = queued.proposal().proposal_type();
    if kind == ProposalType::SelfRemove
        && !group
            .treesync()
            .full_leaves()
            .all(|(_, leaf)| leaf.capabilities().proposals().contains(&kind))
    {
        return Err(Refusal::Proposal);
    }
    Ok(())
}

/// What an outsider proposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outsider {
    /// The key that has signed it, and must have signed the request.
    pub key: Vec<u8>,
    /// The leaf that wants to come in by its own proposal.
    pub new_member: Option<LeafClaims>,
}

/// An Add of the proposer itself, or an Add or Remove by one of the group's external senders (RFC
/// 9420 §12.1.8).
///
/// # Errors
/// [`Refusal`].
pub fn judge_outsider(
    group: &PublicGroup,
    kind: GroupKind,
    queued: &QueuedProposal,
) -> Result<Outsider, Refusal> {
    if kind != GroupKind::Group {
        return Err(Refusal::NotAllowed);
    }
    let extensions = group.group_context().extensions();
    let key = match queued.sender() {
        Sender::External(_) => {
            let at = external_index(queued).ok_or(Refusal::Proposal)?;
            let listed = sender_keys(extensions);
            Some(listed.get(at).cloned().ok_or(Refusal::Proposal)?)
        }
        Sender::NewMemberProposal => None,
        _ => return Err(Refusal::Proposal),
    };
    match (queued.proposal(), key) {
        (Proposal::Add(add), key) => {
            let claims = LeafClaims::of(add.key_package().leaf_node())?;
            let user = claims.user_pseudonym.as_slice();
            let listed =
                policy_in(extensions)?.is_some_and(|policy| policy.participant(user).is_some());
            if listed || users(group).any(|(_, here)| here == user) {
                return Err(Refusal::NotAllowed);
            }
            Ok(match key {
                Some(key) => Outsider {
                    key,
                    new_member: None,
                },
                None => Outsider {
                    key: claims.signature_key.clone(),
                    new_member: Some(claims),
                },
            })
        }
        (Proposal::Remove(remove), Some(key)) if group.leaf(remove.removed()).is_some() => {
            Ok(Outsider {
                key,
                new_member: None,
            })
        }
        _ => Err(Refusal::Proposal),
    }
}
