//! Groups and members as callers see them.

use crypto::schedule::StateKey;
use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::error::Error;
use crate::group_profile::GroupProfile;
use crate::ids::{GroupRef, UserId};
use crate::leaf::{self, pseudonym_of};
use crate::mls::{policy, profile};
use crate::outcomes;
use crate::store::{Group, Profile, Status, evidence, identities, load_mls};

/// A group as a caller sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct GroupSummary {
    /// Which group.
    pub id: crate::ids::GroupId,
    /// Its name on this device: as given at its creation or agreed on since, or with a number
    /// behind it.
    pub name: String,
    /// How many clients are in it.
    pub members: usize,
    /// Its epoch, as far as this client has followed.
    pub epoch: u64,
    /// Its MLS ciphersuite; 0 if the group has no state here any more.
    pub ciphersuite: u16,
    /// Whether what is recorded of it now stays closed to a quantum computer.
    pub post_quantum: bool,
    /// Whether this client is still a member that can follow.
    pub active: bool,
    /// Why it does not follow any more, if it was not removed.
    pub stopped: Option<outcomes::StopReason>,
    /// What its members agree on; nothing before one of them has set it.
    pub profile: GroupProfile,
}

/// A member as a caller sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Member {
    /// Who; `None` if this member cannot show it.
    pub user: Option<UserId>,
    /// Handle, or the name that they chose.
    pub name: String,
    /// This client.
    pub own: bool,
    /// Name of the role; empty in groups without roles.
    pub role: String,
    /// `active`, `inactive`, `muted` or `banned`.
    pub standing: &'static str,
    /// Names the client among all of the group's.
    pub leaf_index: u32,
}

/// What tests and tools need for requests of their own making.
#[derive(Debug)]
pub struct GroupAccess {
    /// The group's id.
    pub id: GroupId,
    /// The key that seals its state, as far as this client knows.
    pub state_key: StateKey,
    /// The segment of its journal.
    pub segment: protocol::ids::SegmentId,
    /// Its epoch, as far as this client has followed.
    pub epoch: u64,
    /// The own leaf.
    pub leaf_index: u32,
}

/// Groups by name, without connection groups.
pub(crate) fn groups(db: &Connection) -> Result<Vec<GroupSummary>, Error> {
    let mut summaries = Vec::new();
    for group in Group::all(db)? {
        if group.name.is_some() && group.status != Status::Joining {
            summaries.push(summary(db, group)?);
        }
    }
    Ok(summaries)
}

/// One group.
pub(crate) fn summary(db: &Connection, group: Group) -> Result<GroupSummary, Error> {
    let mls = load_mls(db, &group.id).ok();
    let agreed = match &mls {
        Some(mls) => profile::agreed(db, &group, mls.extensions())?,
        None => None,
    };
    Ok(GroupSummary {
        profile: agreed.unwrap_or_default(),
        id: group.id.into(),
        members: mls.as_ref().map_or(0, |mls| mls.members().count()),
        epoch: mls.as_ref().map_or(0, |mls| mls.epoch().as_u64()),
        ciphersuite: mls.as_ref().map_or(0, |mls| mls.ciphersuite().into()),
        post_quantum: mls
            .as_ref()
            .is_some_and(|mls| leaf::is_post_quantum(mls.ciphersuite())),
        active: group.status == Status::Active,
        stopped: evidence::stopped(db, &group.id)?,
        name: group.name.unwrap_or_default(),
    })
}

/// Whether there is a group of this name and no contact.
///
/// # Errors
/// [`Error::Local`].
pub(crate) fn has_group(db: &Connection, name: &str) -> Result<bool, Error> {
    Ok(
        crate::store::contacts::by_name(db, name).is_err()
            && Group::meant(db, &name.into()).is_ok(),
    )
}

/// The members of a group, as far as this client has followed.
///
/// # Errors
/// [`UsageError::UnknownGroup`].
pub(crate) fn members(
    db: &Connection,
    profile: &Profile,
    group: &GroupRef,
) -> Result<Vec<Member>, Error> {
    let group = Group::meant(db, group)?;
    let mls = load_mls(db, &group.id)?;
    let own = mls.own_leaf_index();
    let policy = policy::policy_in(mls.extensions())?;
    mls.members()
        .map(|member| {
            let identity = identities::of(db, &group.id, &member.credential)?;
            let name = identities::name(db, profile, identity.as_ref())?;
            let pseudonym = pseudonym_of(&member.credential).unwrap_or_default();
            let (role, standing) = policy::shown(policy.as_ref(), &pseudonym);
            let real = identity.and_then(|identity| identity.real);
            Ok(Member {
                user: real.and_then(|real| UserId::of(real.signature_public_key.as_slice())),
                name,
                own: member.index == own,
                role,
                standing,
                leaf_index: member.index.u32(),
            })
        })
        .collect()
}

/// Id, keys and position in a group, for requests that are made by hand.
///
/// # Errors
/// [`UsageError::UnknownGroup`].
pub(crate) fn group_access(db: &Connection, group: &GroupRef) -> Result<GroupAccess, Error> {
    let group = Group::meant(db, group)?;
    let mls = load_mls(db, &group.id)?;
    Ok(GroupAccess {
        id: group.id,
        segment: group.segment.id,
        state_key: group.segment.state_key,
        epoch: mls.epoch().as_u64(),
        leaf_index: mls.own_leaf_index().u32(),
    })
}
