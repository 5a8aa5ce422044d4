//! The group's policy, held against what others send and what this client is about to do. Commits
//! are judged by the rules that the service has too ([`mls_rules`]): it may be wrong or lie.

use openmls::group::GroupContext;
use openmls::prelude::{Credential, Extensions, LeafNodeIndex, MlsGroup, QueuedProposal, Sender};
use protocol::Wire as _;
use protocol::directory::Directory;
use protocol::group::GroupKind;
use protocol::ids::GroupId;
use protocol::policy::{Capabilities, GroupPolicy, POLICY_EXTENSION, PolicyError, Standing};
use rusqlite::Connection;

use crate::encoding::decode_base64url;
use crate::error::{Error, LocalError, PeerError, UsageError};
use crate::leaf::{own_pseudonym, pseudonym_of};
use crate::mls::plan::Plan;
use crate::store::profile::directories;
use crate::store::{Group, past_policies};

pub(crate) use mls_rules::{ServiceSenders, capabilities};

/// The keys by which the service is known among a group's external senders: of the directory that
/// all views agreed on, and of the one that was last heard because of such a key; none before the
/// first one. All members of a group have the same sender in it: it marks nobody.
pub(crate) fn service_senders(db: &Connection) -> Result<ServiceSenders, Error> {
    let decoded = |keys: &mut dyn Iterator<Item = &String>| {
        keys.filter(|key| !key.is_empty())
            .map(|key| decode_base64url(key))
            .collect::<Result<Vec<_>, _>>()
    };
    let mut known = ServiceSenders::default();
    for stored in directories(db)?.into_iter().flatten() {
        let directory: Directory =
            serde_json::from_str(&stored).map_err(|_| LocalError::Damaged)?;
        let current = [
            directory.external_sender_key,
            directory.external_sender_key_p256,
        ];
        known.current.extend(decoded(&mut current.iter())?);
        let former = &directory.former_external_sender_keys;
        known.former.extend(decoded(&mut former.iter())?);
    }
    Ok(known)
}

/// The policy among a group context's extensions.
pub(crate) fn policy_in(
    extensions: &Extensions<GroupContext>,
) -> Result<Option<GroupPolicy>, PeerError> {
    mls_rules::policy_in(extensions).map_err(|_| PeerError::Policy)
}

/// The leaf that a proposal removes.
pub(crate) fn leaving(queued: &QueuedProposal) -> Option<LeafNodeIndex> {
    mls_rules::leaving(queued).map(LeafNodeIndex::new)
}

/// Whether a leaf goes by its own wish or the service's, not by a member's or another sender's.
pub(crate) fn goes_by_itself(
    service: &ServiceSenders,
    mls_group: &MlsGroup,
    queued: &QueuedProposal,
) -> bool {
    match queued.sender() {
        Sender::External(_) => {
            leaving(queued).is_some() && service.sent(mls_group.extensions(), queued)
        }
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
    let policy = mls_group.extensions().unknown(POLICY_EXTENSION);
    let policy = policy.map(|extension| &*extension.0);
    past_policies::keep(db, id, mls_group.epoch().as_u64(), policy)
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
        past_policies::of(db, id, epoch)?
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
        link_keys: Vec::new(),
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

/// Role and standing for people.
pub(crate) fn shown(policy: Option<&GroupPolicy>, pseudonym: &[u8]) -> (String, &'static str) {
    let Some(policy) = policy else {
        return (String::new(), "active");
    };
    let (number, standing) = policy.standing(pseudonym);
    let role = policy
        .roles
        .iter()
        .find(|role| role.number == number)
        .map(|role| String::from_utf8_lossy(role.name.as_slice()).into_owned())
        .unwrap_or_default();
    let standing = match standing {
        Standing::Active => "active",
        Standing::Inactive => "inactive",
        Standing::Muted => "muted",
        Standing::Banned => "banned",
    };
    (role, standing)
}
