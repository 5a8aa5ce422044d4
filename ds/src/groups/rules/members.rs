//! Commits by members.

use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{ExtensionType, KeyPackage, ProposalType, Sender};
use openmls::prelude::{Extensions, GroupContext, Proposal};
use protocol::Operation;
use protocol::groups::GroupKind;
use protocol::ids::GroupId;
use protocol::lifetime;
use protocol::policy::{Capabilities, POLICY_EXTENSION};
use protocol::problem::ProblemType;
use protocol::time::day_of;
use tls_codec::{TlsDeserializeBytes, TlsSize, VLBytes};

use super::{Case, Effect, LeafClaims, RenewedLeaf, leaving};
use crate::error::DsError;
use crate::groups::SUPPORTED_CIPHERSUITES;
use crate::groups::roster::Leaf;
use crate::groups::tree::policy_in;
use crate::service_state::DeliveryService;

pub(super) fn judge(
    service: &DeliveryService,
    case: &Case<'_>,
    committer: &Leaf<'_>,
) -> Result<Effect, DsError> {
    check_references(case, committer)?;
    let mut effect = match (case.operation, case.roster.kind()) {
        (Operation::AddUsers, GroupKind::Group) => add_users(service, case, committer)?,
        (Operation::AddClients, _) => add_clients(service, case, committer)?,
        (Operation::RemoveUsers, GroupKind::Group | GroupKind::Connection) => {
            remove_users(case, committer)?
        }
        (Operation::RemoveClients, _) => remove_clients(case, committer)?,
        (Operation::DeleteGroup, _) => delete_group(case, committer)?,
        (Operation::SetRole, GroupKind::Group) => set_role(service, case, committer)?,
        (Operation::ReInitializeGroup, GroupKind::Group) => reinitialize(case, committer)?,
        (Operation::UpdateClient, _) => {
            if case.by_value().next().is_some() || case.staged.update_path_leaf_node().is_none() {
                return Err(ProblemType::InvalidCommit.into());
            }
            Effect::default()
        }
        _ => return Err(ProblemType::NotAllowed.into()),
    };
    effect.removed = case.removed();
    let adds = effect.added.len();
    let spare_link_keys = case
        .aad
        .encrypted_identity_link_keys
        .len()
        .checked_sub(adds);
    let own_link_key = match spare_link_keys {
        Some(0) => None,
        Some(1)
            if case.operation == Operation::UpdateClient
                && case
                    .aad
                    .encrypted_identity_link_keys
                    .iter()
                    .all(|key| !key.as_slice().is_empty()) =>
        {
            case.aad.encrypted_identity_link_keys.first()
        }
        _ => return Err(ProblemType::InvalidCommit.into()),
    };
    effect.committer = committers_leaf(
        service,
        case,
        committer,
        own_link_key.map(|key| key.as_slice()),
    )?;
    Ok(effect)
}

/// Pending removals must be covered, by reference or by value, by whoever commits next.
fn check_references(case: &Case<'_>, committer: &Leaf<'_>) -> Result<(), DsError> {
    let removed = case.removed();
    if case
        .roster
        .pending_removals
        .iter()
        .any(|pending| !removed.contains(&pending.leaf))
    {
        return Err(ProblemType::PendingProposals.into());
    }
    if removed.contains(&committer.index) {
        return Err(ProblemType::InvalidCommit.into());
    }
    // Adds need a Welcome, which only two operations bring.
    let adds = matches!(case.operation, Operation::AddUsers | Operation::AddClients);
    if !adds
        && case
            .by_reference()
            .any(|queued| matches!(queued.proposal(), Proposal::Add(_)))
    {
        return Err(ProblemType::InvalidCommit.into());
    }
    // Whom an outsider wants to have removed goes only if the committer could remove him.
    let by_outsider = case
        .by_reference()
        .any(|queued| leaving(queued).is_some_and(|leaf| !case.roster.is_leaving(leaf)));
    if by_outsider && !committer.capabilities().contain(Capabilities::REMOVE) {
        return Err(ProblemType::NotAllowed.into());
    }
    Ok(())
}

fn require(committer: &Leaf<'_>, capability: Capabilities) -> Result<(), DsError> {
    if committer.capabilities().contain(capability) {
        Ok(())
    } else {
        Err(ProblemType::NotAllowed.into())
    }
}

/// The leaves that come in by Adds, in their order, with their link keys.
fn added(service: &DeliveryService, case: &Case<'_>) -> Result<Effect, DsError> {
    let mut effect = Effect::default();
    for queued in case.staged.queued_proposals() {
        let Proposal::Add(add) = queued.proposal() else {
            continue;
        };
        let claims = LeafClaims::of(service, add.key_package().leaf_node())?;
        let link_key = case
            .aad
            .encrypted_identity_link_keys
            .get(effect.added.len())
            .ok_or(ProblemType::InvalidCommit)?
            .as_slice();
        let link_key = if link_key.is_empty() {
            case.pending
                .link_key_of_new_member(&claims.signature_key)
                .ok_or(ProblemType::InvalidCommit)?
        } else {
            link_key
        };
        let until = day_of(good_until(service, add.key_package())?.saturating_mul(1000));
        effect.key_packages_until = effect.key_packages_until.max(until);
        effect.added.push((claims, link_key.to_vec()));
    }
    if effect.added.is_empty() {
        return Err(ProblemType::InvalidCommit.into());
    }
    Ok(effect)
}

/// When a KeyPackage ends. Now is the one moment at which that is judged, by the one clock of the service:
/// another lifetime would make members whose clocks are off, or who read the commit late, lose the group.
fn good_until(service: &DeliveryService, key_package: &KeyPackage) -> Result<u64, DsError> {
    let shown = key_package.life_time();
    let now_s = service.clock.now_unix_ms() / 1000;
    lifetime::end(shown.not_before(), shown.not_after())
        .filter(|_| lifetime::is_good(shown.not_before(), shown.not_after(), now_s))
        .ok_or_else(|| ProblemType::InvalidLeaf.into())
}

fn add_users(
    service: &DeliveryService,
    case: &Case<'_>,
    committer: &Leaf<'_>,
) -> Result<Effect, DsError> {
    require(committer, Capabilities::ADD)?;
    case.only(|proposal| matches!(proposal, Proposal::Add(_)))?;
    let effect = added(service, case)?;
    for (claims, _) in &effect.added {
        // A further client of a user who is here already comes in by another operation.
        if case.lists(&claims.user_pseudonym) || case.roster.has_user(&claims.user_pseudonym) {
            return Err(ProblemType::NotAllowed.into());
        }
    }
    Ok(effect)
}

fn add_clients(
    service: &DeliveryService,
    case: &Case<'_>,
    committer: &Leaf<'_>,
) -> Result<Effect, DsError> {
    case.only(|proposal| matches!(proposal, Proposal::Add(_)))?;
    let effect = added(service, case)?;
    if case.bans(&committer.user_pseudonym)
        || effect
            .added
            .iter()
            .any(|(claims, _)| claims.user_pseudonym != committer.user_pseudonym.as_ref())
    {
        return Err(ProblemType::NotAllowed.into());
    }
    Ok(effect)
}

/// The leaves that are removed by value.
fn removed_by_value(case: &Case<'_>) -> Result<Vec<u32>, DsError> {
    case.only(|proposal| matches!(proposal, Proposal::Remove(_)))?;
    let removed: Vec<u32> = case.by_value().filter_map(leaving).collect();
    if removed.is_empty() {
        return Err(ProblemType::InvalidCommit.into());
    }
    Ok(removed)
}

fn remove_users(case: &Case<'_>, committer: &Leaf<'_>) -> Result<Effect, DsError> {
    let removed = removed_by_value(case)?;
    require(committer, Capabilities::REMOVE)?;
    // In a connection nobody removes the other one, but each can let him go who has said that he goes.
    let leaving_anyway = removed.iter().all(|leaf| case.roster.is_leaving(*leaf));
    if case.roster.kind() != GroupKind::Group && !leaving_anyway {
        return Err(ProblemType::NotAllowed.into());
    }
    let all = case.removed();
    for index in removed {
        let leaf = case.roster.leaf(index).ok_or(ProblemType::InvalidCommit)?;
        // A client that is leaving goes alone; else all clients of each removed user, never the own user.
        let own = leaf.user_pseudonym == committer.user_pseudonym;
        let incomplete = case
            .roster
            .of_user(&leaf.user_pseudonym)
            .any(|leaf| !all.contains(&leaf.index));
        if !case.roster.is_leaving(index) && (own || incomplete) {
            return Err(ProblemType::InvalidCommit.into());
        }
    }
    Ok(Effect::default())
}

fn remove_clients(case: &Case<'_>, committer: &Leaf<'_>) -> Result<Effect, DsError> {
    for index in removed_by_value(case)? {
        let leaf = case.roster.leaf(index).ok_or(ProblemType::InvalidCommit)?;
        if leaf.user_pseudonym != committer.user_pseudonym {
            return Err(ProblemType::NotAllowed.into());
        }
    }
    Ok(Effect::default())
}

fn delete_group(case: &Case<'_>, committer: &Leaf<'_>) -> Result<Effect, DsError> {
    // Who is left alone ends the group, whatever its role.
    if !case.roster.is_one_user() {
        require(committer, Capabilities::DELETE)?;
    }
    case.only(|proposal| matches!(proposal, Proposal::Remove(_)))?;
    let removed = case.removed();
    if case
        .roster
        .leaves()
        .iter()
        .any(|leaf| leaf.index != committer.index && !removed.contains(&leaf.index))
    {
        return Err(ProblemType::InvalidCommit.into());
    }
    Ok(Effect::default())
}

fn set_role(
    service: &DeliveryService,
    case: &Case<'_>,
    committer: &Leaf<'_>,
) -> Result<Effect, DsError> {
    let mut by_value = case
        .by_value()
        .map(openmls::prelude::QueuedProposal::proposal);
    let (Some(Proposal::GroupContextExtensions(proposal)), None) =
        (by_value.next(), by_value.next())
    else {
        return Err(ProblemType::InvalidCommit.into());
    };
    let next = proposal.extensions();
    let now = case.tree.group.group_context().extensions();
    check_other_extensions(service, now, next)?;
    let next_policy = policy_in(next)?.ok_or(ProblemType::InvalidCommit)?;
    let removed = case.removed();
    let staying = case
        .roster
        .leaves()
        .iter()
        .filter(|leaf| !removed.contains(&leaf.index))
        .map(|leaf| leaf.user_pseudonym.as_ref());
    match &case.policy {
        Some(policy) => policy
            .check_change(&next_policy, &committer.user_pseudonym, staying)
            .map_err(|_| ProblemType::NotAllowed)?,
        // Everybody may do everything, also give the group its first policy.
        None if next_policy
            .capabilities(&committer.user_pseudonym)
            .contain(Capabilities::SET_ROLE) => {}
        None => return Err(ProblemType::NotAllowed.into()),
    }
    crate::groups::removals::check_listed(service, case.tree, next)?;
    Ok(Effect::default())
}

/// Only the policy may change, and the service's own keys among the external senders: another sender could
/// propose what the committer may not do.
fn check_other_extensions(
    service: &DeliveryService,
    now: &Extensions<GroupContext>,
    next: &Extensions<GroupContext>,
) -> Result<(), DsError> {
    let others = |extensions: &Extensions<GroupContext>| -> Result<Vec<Vec<u8>>, DsError> {
        let mut encoded = Vec::new();
        for extension in extensions.iter() {
            if !matches!(
                extension.extension_type(),
                ExtensionType::ExternalSenders | ExtensionType::Unknown(POLICY_EXTENSION)
            ) {
                let bytes = extension.tls_serialize_detached();
                encoded.push(bytes.map_err(|_| ProblemType::InvalidCommit)?);
            }
        }
        encoded.sort_unstable();
        Ok(encoded)
    };
    let outsiders = |extensions| crate::groups::removals::other_senders(service, extensions);
    if others(now)? == others(next)? && outsiders(now) == outsiders(next) {
        Ok(())
    } else {
        Err(ProblemType::InvalidCommit.into())
    }
}

/// The only version there is (RFC 9420 §6); a ReInit must not go below the group's.
const MLS_1_0: u16 = 1;

/// RFC 9420 §12.1.5; openmls does not show the fields.
#[derive(TlsSize, TlsDeserializeBytes)]
struct ReInit {
    proposal_type: u16,
    group_id: VLBytes,
    version: u16,
    ciphersuite: u16,
    extensions: VLBytes,
}

fn reinitialize(case: &Case<'_>, committer: &Leaf<'_>) -> Result<Effect, DsError> {
    require(committer, Capabilities::DELETE)?;
    let mut by_value = case
        .by_value()
        .map(openmls::prelude::QueuedProposal::proposal);
    let (Some(proposal), None) = (by_value.next(), by_value.next()) else {
        return Err(ProblemType::InvalidCommit.into());
    };
    // A ReInit stands alone (RFC 9420 §12.2).
    if proposal.proposal_type() != ProposalType::Reinit || case.by_reference().next().is_some() {
        return Err(ProblemType::InvalidCommit.into());
    }
    let encoded = proposal
        .tls_serialize_detached()
        .map_err(|_| ProblemType::InvalidCommit)?;
    let (reinit, rest) =
        ReInit::tls_deserialize_bytes(&encoded).map_err(|_| ProblemType::InvalidCommit)?;
    let ReInit {
        proposal_type: _,
        group_id,
        version,
        ciphersuite,
        extensions: _,
    } = reinit;
    if !rest.is_empty() || version < MLS_1_0 {
        return Err(ProblemType::InvalidCommit.into());
    }
    if !SUPPORTED_CIPHERSUITES.contains(&ciphersuite) {
        return Err(ProblemType::UnsupportedCiphersuite.into());
    }
    let group_id: [u8; 16] = group_id
        .as_slice()
        .try_into()
        .map_err(|_| ProblemType::InvalidGroupId)?;
    Ok(Effect {
        reinitialized_as: Some(GroupId(group_id)),
        ..Effect::default()
    })
}

/// Judges the committer's own new leaf, which a path brings.
fn committers_leaf(
    service: &DeliveryService,
    case: &Case<'_>,
    committer: &Leaf<'_>,
    link_key: Option<&[u8]>,
) -> Result<Option<RenewedLeaf>, DsError> {
    let Some(leaf) = case.staged.update_path_leaf_node() else {
        return if link_key.is_none() {
            Ok(None)
        } else {
            Err(ProblemType::InvalidCommit.into())
        };
    };
    let Sender::Member(index) = &case.sender else {
        return Err(ProblemType::InvalidCommit.into());
    };
    let old = case
        .tree
        .group
        .leaf(*index)
        .ok_or(DsError::Internal("roster is not the tree's"))?;
    let claims = LeafClaims::of(service, leaf)?;
    let credential_changed =
        leaf.signature_key() != old.signature_key() || leaf.credential() != old.credential();
    // Only an update changes the credential, and then brings its link key.
    if credential_changed != link_key.is_some_and(|key| !key.is_empty()) {
        return Err(ProblemType::InvalidCommit.into());
    }
    // A new user pseudonym must be nobody else's, leave no other client behind under the old one, and no
    // listing in the policy.
    let pseudonym_changed = claims.user_pseudonym != committer.user_pseudonym.as_ref();
    let shared = case.roster.of_user(&committer.user_pseudonym).count() > 1;
    let listed = case.policy.as_ref().is_some_and(|policy| {
        policy.participant(&committer.user_pseudonym).is_some()
            || policy.participant(&claims.user_pseudonym).is_some()
    });
    if pseudonym_changed && (shared || listed || case.roster.has_user(&claims.user_pseudonym)) {
        return Err(ProblemType::NotAllowed.into());
    }
    Ok(Some(RenewedLeaf {
        claims,
        link_key: link_key.map(<[u8]>::to_vec),
    }))
}
