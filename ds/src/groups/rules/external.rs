//! External commits (RFC 9420 §12.4.3.2), each with its permit.

use openmls::prelude::{Proposal, ProposalType};
use protocol::problem::ProblemType;

use super::{Case, Effect, LeafClaims};
use crate::error::DsError;
use crate::groups::permits::Permission;
use crate::service_state::DeliveryService;

pub(super) fn judge(
    service: &DeliveryService,
    case: &Case<'_>,
    permission: &Permission,
) -> Result<Effect, DsError> {
    case.only(|proposal| {
        matches!(
            proposal.proposal_type(),
            ProposalType::ExternalInit | ProposalType::Remove
        )
    })?;
    let removed_by_value: Vec<u32> = case
        .by_value()
        .filter_map(|queued| match queued.proposal() {
            Proposal::Remove(remove) => Some(remove.removed().u32()),
            _ => None,
        })
        .collect();
    // A rejoin removes exactly the leaf that it replaces; nothing else removes anybody.
    let replaced: Vec<u32> = match permission {
        Permission::Rejoin { leaf, .. } => vec![*leaf],
        _ => Vec::new(),
    };
    if removed_by_value != replaced {
        return Err(ProblemType::InvalidCommit.into());
    }
    // What it does not cover the service proposes again, where it can.
    let removed = case.removed();
    if case
        .roster
        .pending_removals
        .iter()
        .any(|pending| !case.roster.renews(pending) && !removed.contains(&pending.leaf))
    {
        return Err(ProblemType::PendingProposals.into());
    }
    let leaf = case
        .staged
        .update_path_leaf_node()
        .ok_or(ProblemType::InvalidCommit)?;
    let claims = LeafClaims::of(service, leaf)?;
    match permission {
        Permission::Client { user } | Permission::Rejoin { user, .. } => {
            let further = matches!(permission, Permission::Client { .. });
            if claims.user_pseudonym != *user || (further && case.bans(user)) {
                return Err(ProblemType::NotAllowed.into());
            }
        }
        Permission::Connection | Permission::JoinCode => {
            if case.lists(&claims.user_pseudonym) || case.roster.has_user(&claims.user_pseudonym) {
                return Err(ProblemType::NotAllowed.into());
            }
        }
    }
    let [link_key] = case.aad.encrypted_identity_link_keys.as_slice() else {
        return Err(ProblemType::InvalidCommit.into());
    };
    if link_key.as_slice().is_empty() {
        return Err(ProblemType::InvalidCommit.into());
    }
    Ok(Effect {
        added: vec![(claims, link_key.as_slice().to_vec())],
        removed,
        ..Effect::default()
    })
}
