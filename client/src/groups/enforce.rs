//! The group's policy, held against what others do and what this client is about to do. The service does
//! the same, but it may be wrong or lie. Refused is only what is unambiguously against the policy of the
//! epoch that a commit or message names.

use openmls::group::GroupContext;
use openmls::prelude::{
    Credential, Extension, ExtensionType, Extensions, LeafNodeIndex, MlsGroup, Proposal,
    QueuedProposal, Sender, StagedCommit,
};
use protocol::Wire as _;
use protocol::groups::GroupKind;
use protocol::ids::GroupId;
use protocol::policy::{Capabilities, GroupPolicy, POLICY_EXTENSION, PolicyError};
use rusqlite::{Connection, OptionalExtension as _};
use tls_codec::Serialize as _;

use crate::error::{Error, LocalError, PeerError, UsageError};
use crate::groups::changes::Committer;
use crate::groups::commit::Plan;
use crate::groups::senders::ServiceKeys;
use crate::groups::{Group, PAST_EPOCHS, own_pseudonym, pseudonym_of};
use crate::leaf;

/// The policy among a group context's extensions.
pub(crate) fn policy_in(
    extensions: &Extensions<GroupContext>,
) -> Result<Option<GroupPolicy>, PeerError> {
    let Some(extension) = extensions.unknown(POLICY_EXTENSION) else {
        return Ok(None);
    };
    let policy = GroupPolicy::decode(&extension.0).map_err(|_| PeerError::Policy)?;
    policy.check().map_err(|_| PeerError::Policy)?;
    Ok(Some(policy))
}

/// What a user may do; without a policy, everything.
pub(crate) fn capabilities(policy: Option<&GroupPolicy>, pseudonym: &[u8]) -> Capabilities {
    policy.map_or(Capabilities::ALL, |policy| policy.capabilities(pseudonym))
}

/// The leaf that a proposal removes.
pub(crate) fn leaving(queued: &QueuedProposal) -> Option<LeafNodeIndex> {
    match (queued.proposal(), queued.sender()) {
        (Proposal::Remove(remove), _) => Some(remove.removed()),
        (Proposal::SelfRemove, Sender::Member(sender)) => Some(*sender),
        _ => None,
    }
}

/// Whether a leaf goes by its own wish or the service's, not by a member's or another sender's.
pub(crate) fn goes_by_itself(
    service: &ServiceKeys,
    mls_group: &MlsGroup,
    queued: &QueuedProposal,
) -> bool {
    match queued.sender() {
        Sender::External(_) => leaving(queued).is_some() && service.sent(mls_group, queued),
        Sender::Member(sender) => leaving(queued) == Some(*sender),
        _ => false,
    }
}

/// Keeps the policy of the epoch that is about to end: messages of it may still come.
pub(crate) fn remember_policy(
    db: &Connection,
    id: &GroupId,
    mls_group: &MlsGroup,
) -> Result<(), Error> {
    let epoch = i64::try_from(mls_group.epoch().as_u64()).map_err(|_| LocalError::Damaged)?;
    if let Some(extension) = mls_group.extensions().unknown(POLICY_EXTENSION) {
        db.execute(
            "INSERT OR REPLACE INTO past_policies (group_id, epoch, policy) VALUES (?, ?, ?)",
            (id.0, epoch, &extension.0),
        )?;
    }
    let oldest = epoch.saturating_sub(i64::try_from(PAST_EPOCHS).unwrap_or(0));
    db.execute(
        "DELETE FROM past_policies WHERE group_id = ? AND epoch < ?",
        (id.0, oldest),
    )?;
    Ok(())
}

/// Whether a user could send in an epoch. What is not known is not held against them.
pub(crate) fn could_send(
    db: &Connection,
    id: &GroupId,
    mls_group: &MlsGroup,
    epoch: u64,
    sender: &Credential,
) -> Result<bool, Error> {
    let policy = if epoch == mls_group.epoch().as_u64() {
        policy_in(mls_group.extensions())?
    } else {
        let stored: Option<Vec<u8>> = db
            .query_row(
                "SELECT policy FROM past_policies WHERE group_id = ? AND epoch = ?",
                (id.0, i64::try_from(epoch).unwrap_or(i64::MAX)),
                |row| row.get(0),
            )
            .optional()?;
        stored
            .map(|policy| GroupPolicy::decode(&policy).map_err(|_| LocalError::Damaged))
            .transpose()?
    };
    let Some(pseudonym) = pseudonym_of(sender) else {
        return Ok(false);
    };
    Ok(capabilities(policy.as_ref(), &pseudonym).contain(Capabilities::SEND))
}

/// Whether this client may make a commit.
pub(crate) fn permit(group: &Group, mls_group: &MlsGroup, plan: &Plan) -> Result<(), Error> {
    let own = own_pseudonym(mls_group)?;
    let policy = policy_in(mls_group.extensions())?;
    let needed = match plan {
        Plan::Add { .. } => Capabilities::ADD,
        Plan::Remove(_) => Capabilities::REMOVE,
        Plan::SetPolicy(next) => {
            let Some(policy) = &policy else {
                return Err(UsageError::NotPermitted.into());
            };
            let members = pseudonyms(mls_group);
            return policy
                .check_change(next, &own, members.iter().map(Vec::as_slice))
                .map_err(|error| match error {
                    PolicyError::NotAllowed => UsageError::NotPermitted.into(),
                    other => UsageError::Policy(other).into(),
                });
        }
        // Who is left alone ends the group, whatever its role.
        Plan::Delete if pseudonyms(mls_group).iter().all(|user| *user == own) => Capabilities::NONE,
        Plan::Delete => Capabilities::DELETE,
        Plan::AddClients { .. } | Plan::RemoveClients(_) | Plan::Update(_) | Plan::Cover => {
            Capabilities::NONE
        }
    };
    let for_groups = matches!(plan, Plan::Add { .. } | Plan::Remove(_));
    if (for_groups && group.kind != GroupKind::Group)
        || !capabilities(policy.as_ref(), &own).contain(needed)
    {
        return Err(UsageError::NotPermitted.into());
    }
    Ok(())
}

/// As [`permit`] for an Add, before there is a KeyPackage for one.
pub(crate) fn permit_adding(group: &Group, mls_group: &MlsGroup) -> Result<(), Error> {
    let none = Plan::Add {
        key_packages: Vec::new(),
        wrapped_link_keys: Vec::new(),
    };
    permit(group, mls_group, &none)
}

/// Whether this client may send.
pub(crate) fn permit_sending(mls_group: &MlsGroup) -> Result<(), Error> {
    let own = own_pseudonym(mls_group)?;
    let policy = policy_in(mls_group.extensions())?;
    if capabilities(policy.as_ref(), &own).contain(Capabilities::SEND) {
        Ok(())
    } else {
        Err(UsageError::NotPermitted.into())
    }
}

fn pseudonyms(mls_group: &MlsGroup) -> Vec<Vec<u8>> {
    mls_group
        .members()
        .filter_map(|member| pseudonym_of(&member.credential))
        .collect()
}

/// Judges another one's commit by the policy before it.
pub(crate) fn judge(
    service: &ServiceKeys,
    group: &Group,
    mls_group: &MlsGroup,
    staged: &StagedCommit,
    committer: Committer,
) -> Result<(), PeerError> {
    let policy = policy_in(mls_group.extensions())?;
    match committer {
        Committer::Own => Ok(()),
        Committer::Member(index) => {
            let actor = mls_group
                .member(index)
                .and_then(pseudonym_of)
                .ok_or(PeerError::Commit)?;
            Judgement {
                service,
                group,
                mls_group,
                staged,
                may: capabilities(policy.as_ref(), &actor),
                policy,
                actor,
            }
            .by_member(index)
        }
        Committer::Joiner => by_joiner(mls_group, staged, policy.as_ref()),
    }
}

struct Judgement<'j> {
    service: &'j ServiceKeys,
    group: &'j Group,
    mls_group: &'j MlsGroup,
    staged: &'j StagedCommit,
    policy: Option<GroupPolicy>,
    actor: Vec<u8>,
    may: Capabilities,
}

impl Judgement<'_> {
    fn by_member(&self, index: LeafNodeIndex) -> Result<(), PeerError> {
        for queued in self.staged.queued_proposals() {
            match queued.proposal() {
                Proposal::Add(add) => self.added(add.key_package().leaf_node())?,
                Proposal::GroupContextExtensions(proposal) => {
                    self.context_changed(proposal.extensions())?;
                }
                Proposal::ReInit(_) => self.require(Capabilities::DELETE)?,
                _ => {}
            }
        }
        self.removals()?;
        self.own_leaf(index)
    }

    fn require(&self, needed: Capabilities) -> Result<(), PeerError> {
        if self.may.contain(needed) {
            Ok(())
        } else {
            Err(PeerError::NotPermitted)
        }
    }

    fn has_user(&self, pseudonym: &[u8]) -> bool {
        self.mls_group
            .members()
            .any(|member| pseudonym_of(&member.credential).as_deref() == Some(pseudonym))
    }

    fn added(&self, node: &openmls::prelude::LeafNode) -> Result<(), PeerError> {
        let pseudonymous = leaf::pseudonymous(node.credential(), node.signature_key().as_slice())
            .ok_or(PeerError::IdentityLink)?;
        let user = pseudonymous.user_pseudonym.as_slice();
        if user == self.actor {
            return Ok(());
        }
        self.require(Capabilities::ADD)?;
        let listed = self
            .policy
            .as_ref()
            .is_some_and(|policy| policy.participant(user).is_some());
        if listed || self.has_user(user) || self.group.kind != GroupKind::Group {
            return Err(PeerError::NotPermitted);
        }
        Ok(())
    }

    /// Own clients may be removed; other users, whole, by who may remove; everybody by who may delete.
    fn removals(&self) -> Result<(), PeerError> {
        let gone: Vec<LeafNodeIndex> = self.staged.queued_proposals().filter_map(leaving).collect();
        let everybody = gone.len().saturating_add(1) >= self.mls_group.members().count();
        let may = self.may.contain(Capabilities::REMOVE)
            || (everybody && self.may.contain(Capabilities::DELETE));
        for queued in self.staged.queued_proposals() {
            let by_itself = goes_by_itself(self.service, self.mls_group, queued);
            let Some(index) = leaving(queued).filter(|_| !by_itself) else {
                continue;
            };
            // On an outsider's word a committer removes whom it could remove itself.
            if matches!(queued.sender(), Sender::External(_)) && !may {
                return Err(PeerError::ExternalSenders);
            }
            let user = self.mls_group.member(index).and_then(pseudonym_of);
            if user.as_deref() == Some(&self.actor) {
                continue;
            }
            let incomplete = self.mls_group.members().any(|member| {
                pseudonym_of(&member.credential) == user && !gone.contains(&member.index)
            });
            if !may || incomplete {
                return Err(PeerError::NotPermitted);
            }
        }
        Ok(())
    }

    fn context_changed(&self, next: &Extensions<GroupContext>) -> Result<(), PeerError> {
        let next_policy = policy_in(next)?.ok_or(PeerError::NotPermitted)?;
        if others(self.mls_group.extensions()) != others(next) {
            return Err(PeerError::NotPermitted);
        }
        self.service
            .check_change(self.mls_group.extensions(), next)?;
        let gone: Vec<LeafNodeIndex> = self.staged.queued_proposals().filter_map(leaving).collect();
        let staying: Vec<Vec<u8>> = self
            .mls_group
            .members()
            .filter(|member| !gone.contains(&member.index))
            .filter_map(|member| pseudonym_of(&member.credential))
            .collect();
        match &self.policy {
            Some(policy) => policy
                .check_change(&next_policy, &self.actor, staying.iter().map(Vec::as_slice))
                .map_err(|_| PeerError::NotPermitted),
            // A group without a policy takes its first one from anybody, who must be able to change it.
            None if next_policy
                .capabilities(&self.actor)
                .contain(Capabilities::SET_ROLE) =>
            {
                Ok(())
            }
            None => Err(PeerError::NotPermitted),
        }
    }

    /// A committer's new leaf says the same user, or one that nobody else is and no policy lists.
    fn own_leaf(&self, index: LeafNodeIndex) -> Result<(), PeerError> {
        let Some(node) = self.staged.update_path_leaf_node() else {
            return Ok(());
        };
        let pseudonymous = leaf::pseudonymous(node.credential(), node.signature_key().as_slice())
            .ok_or(PeerError::IdentityLink)?;
        let user = pseudonymous.user_pseudonym.as_slice();
        if user == self.actor {
            return Ok(());
        }
        let shared = self.mls_group.members().any(|member| {
            member.index != index && pseudonym_of(&member.credential).as_ref() == Some(&self.actor)
        });
        let listed = self.policy.as_ref().is_some_and(|policy| {
            policy.participant(user).is_some() || policy.participant(&self.actor).is_some()
        });
        if shared || listed || self.has_user(user) {
            return Err(PeerError::NotPermitted);
        }
        Ok(())
    }
}

/// What may not change with the policy; of the external senders see [`ServiceKeys::check_change`].
fn others(extensions: &Extensions<GroupContext>) -> Vec<Vec<u8>> {
    let mut encoded: Vec<Vec<u8>> = extensions
        .iter()
        .filter(|extension: &&Extension| {
            !matches!(
                extension.extension_type(),
                ExtensionType::ExternalSenders | ExtensionType::Unknown(POLICY_EXTENSION)
            )
        })
        .map(|extension| extension.tls_serialize_detached().unwrap_or_default())
        .collect();
    encoded.sort_unstable();
    encoded
}

/// An external commit replaces a leaf of its own user, adds a client to its user, or a new user who is not kept
/// out; that it is the same user the identity links have to show.
fn by_joiner(
    mls_group: &MlsGroup,
    staged: &StagedCommit,
    policy: Option<&GroupPolicy>,
) -> Result<(), PeerError> {
    let node = staged.update_path_leaf_node().ok_or(PeerError::Commit)?;
    let pseudonymous = leaf::pseudonymous(node.credential(), node.signature_key().as_slice())
        .ok_or(PeerError::IdentityLink)?;
    let user = pseudonymous.user_pseudonym.as_slice();
    let mut replaced = 0usize;
    for queued in staged.queued_proposals() {
        if let Proposal::Remove(remove) = queued.proposal() {
            replaced = replaced.saturating_add(1);
            let removed = mls_group.member(remove.removed()).and_then(pseudonym_of);
            if removed.as_deref() != Some(user) || replaced > 1 {
                return Err(PeerError::NotPermitted);
            }
        }
    }
    let known = mls_group
        .members()
        .any(|member| pseudonym_of(&member.credential).as_deref() == Some(user));
    if !known && policy.is_some_and(|policy| policy.participant(user).is_some()) {
        return Err(PeerError::NotPermitted);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
