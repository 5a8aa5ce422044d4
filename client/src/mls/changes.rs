//! What a commit changes for the people in a group: identities learned, events for the user.

use crypto::keys::IdentityLinkWrapperKey;
use mls_rules::Effect;
use openmls::prelude::{LeafNodeIndex, MlsGroup, Proposal, Sender, StagedCommit};
use protocol::group::{CommitAad, GroupKind};
use protocol::ids::{LeafIndex, RotationEpoch};
use protocol::join::LinkKeyUpload;
use protocol::policy::GroupPolicy;
use rusqlite::Connection;

use crate::error::{Error, PeerError};
use crate::leaf::pseudonym_of;
use crate::mls::further::{self, Arrival};
use crate::mls::people;
use crate::mls::policy::{self, service_senders};
use crate::mls::profile::open as group_profile;
use crate::outcomes::StopReason;
use crate::store::{
    Event, Group, Identity, Profile, devices, events, evidence, groups, identities, kept_out,
    pools, removals,
};

/// Who made a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Committer {
    /// This client: the user knows.
    Own,
    /// Another member.
    Member(LeafNodeIndex),
    /// Somebody who joins by it.
    Joiner,
}

/// What members learn beside a commit.
pub(crate) struct Beside<'b> {
    pub(crate) aad: &'b CommitAad,
    pub(crate) effect: &'b Effect,
    pub(crate) link_keys: &'b [LinkKeyUpload],
    /// In force after the commit.
    pub(crate) wrapper: (RotationEpoch, &'b IdentityLinkWrapperKey),
}

impl Beside<'_> {
    fn link_key(&self, leaf: u32) -> Option<&[u8]> {
        self.link_keys
            .iter()
            .find(|upload| upload.leaf_index == LeafIndex(leaf))
            .map(|upload| upload.sealed.as_slice())
    }
}

/// The places of so many leaves that come in: the leftmost that are free (RFC 9420 §12.1.1).
pub(crate) fn places(mls_group: &MlsGroup, removed: &[LeafNodeIndex], count: usize) -> Vec<u32> {
    let occupied: std::collections::BTreeSet<u32> = mls_group
        .members()
        .map(|member| member.index)
        .filter(|index| !removed.contains(index))
        .map(|index| index.u32())
        .collect();
    (0..)
        .filter(|leaf| !occupied.contains(leaf))
        .take(count)
        .collect()
}

/// Keeps what a commit says about members, before it is merged; it has been judged by the rules.
/// Returns the identity of the joiner, if it is an external commit, and what it is to those who are
/// here.
pub(crate) fn record(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    mls_group: &MlsGroup,
    staged: &StagedCommit,
    beside: &Beside<'_>,
    committer: Committer,
) -> Result<Option<(Identity, Arrival)>, Error> {
    let service = service_senders(db)?;
    let aad = beside.aad;
    let (_, wrapper) = beside.wrapper;
    let removed: Vec<LeafNodeIndex> = staged
        .queued_proposals()
        .filter_map(policy::leaving)
        .collect();
    let by_service: Vec<LeafNodeIndex> = staged
        .queued_proposals()
        .filter(|queued| service.sent(mls_group.extensions(), queued))
        .filter_map(policy::leaving)
        .collect();
    let by_members: Vec<LeafNodeIndex> = staged
        .queued_proposals()
        .filter(|queued| matches!(queued.sender(), Sender::Member(_)))
        .filter_map(policy::leaving)
        .collect();
    let by = match committer {
        Committer::Member(leaf) => match mls_group.member(leaf) {
            Some(credential) => identities::name_of(db, profile, &group.id, credential)?,
            None => return Err(PeerError::Commit.into()),
        },
        Committer::Own | Committer::Joiner => String::new(),
    };
    let tell = group.name.is_some() && committer != Committer::Own;

    // Who was removed may know them. Who comes back in the place of an own leaf takes them over.
    if !removed.is_empty() && committer != Committer::Joiner {
        let next = mls_group.epoch().as_u64().saturating_add(1);
        Group::set_codes_since(db, &group.id, next)?;
    }
    let here = further::people(db, group, mls_group, &removed)?;
    let mut came: Vec<Identity> = Vec::new();
    let adder = match committer {
        Committer::Member(leaf) => mls_group
            .member(leaf)
            .map(|credential| identities::of(db, &group.id, credential))
            .transpose()?
            .flatten(),
        Committer::Own | Committer::Joiner => None,
    };
    let adds: Vec<_> = staged.add_proposals().collect();
    let free = places(mls_group, &removed, adds.len().max(1));
    for (added, place) in adds.iter().zip(&free) {
        let leaf = added.add_proposal().key_package().leaf_node();
        let wrapped = beside.link_key(*place);
        let key = leaf.signature_key().as_slice();
        let mut identity = identities::open_or_unverified(leaf.credential(), key, wrapper, wrapped);
        let arrival = match committer {
            // What this client makes is judged when it is made.
            Committer::Own => Arrival::Person,
            _ => further::judge_added(&here, &came, adder.as_ref(), &identity),
        };
        let is_nobody = take_for_nobody(db, group, &mut identity, arrival)?;
        identities::store(db, &group.id, leaf.credential(), &identity)?;
        if let Some(wrapped) = wrapped {
            let credential = leaf.credential();
            identities::keep_link_key(db, &group.id, credential, beside.wrapper, wrapped)?;
        }
        if is_nobody {
            came.push(identity);
            continue;
        }
        if committer != Committer::Own && arrival == Arrival::Client {
            tell_of_client(db, profile, group, &identity)?;
        } else if tell
            && !came
                .iter()
                .any(|it| it.user_pseudonym == identity.user_pseudonym)
        {
            people::arrived(db, profile, group, mls_group, &identity, &by)?;
            let name = identities::name(db, profile, Some(&identity))?;
            events::store(
                db,
                &Event::MemberAdded {
                    group: group.display_name(),
                    name,
                    by: by.clone(),
                },
            )?;
        }
        came.push(identity);
    }

    let mut joiner = None;
    if let (Some(leaf), false) = (staged.update_path_leaf_node(), committer == Committer::Own) {
        let known = identities::of(db, &group.id, leaf.credential())?;
        if known.is_none() || committer == Committer::Joiner {
            let place = match committer {
                Committer::Member(index) => index.u32(),
                Committer::Own | Committer::Joiner => free.first().copied().unwrap_or(0),
            };
            let wrapped = beside.link_key(place);
            let key = leaf.signature_key().as_slice();
            let identity = identities::open_or_unverified(leaf.credential(), key, wrapper, wrapped);
            // A member that changes its credential stays who it was, or is shown as nobody.
            let mut identity = match committer {
                Committer::Member(index) => same_user(db, group, mls_group, index, identity)?,
                Committer::Own | Committer::Joiner => identity,
            };
            if committer == Committer::Joiner {
                let arrival = match &beside.effect.joined {
                    Some(joined) => {
                        further::judge_joiner(db, group, mls_group, joined, aad, &identity)?
                    }
                    None => return Err(PeerError::Commit.into()),
                };
                if !take_for_nobody(db, group, &mut identity, arrival)? {
                    arrived(db, profile, group, mls_group, aad, &identity, arrival)?;
                }
                joiner = Some((identity.clone(), arrival));
            }
            identities::store(db, &group.id, leaf.credential(), &identity)?;
            if let Some(wrapped) = wrapped {
                let credential = leaf.credential();
                identities::keep_link_key(db, &group.id, credential, beside.wrapper, wrapped)?;
            }
        }
    }
    // Older leaves whose link keys are under another wrapper key now.
    for member in mls_group.members() {
        if let Some(wrapped) = beside.link_key(member.index.u32())
            && !removed.contains(&member.index)
        {
            let credential = &member.credential;
            identities::keep_link_key(db, &group.id, credential, beside.wrapper, wrapped)?;
        }
    }

    for queued in staged.queued_proposals() {
        if let Proposal::GroupContextExtensions(next) = queued.proposal() {
            let now = policy::policy_in(mls_group.extensions())?;
            let next = policy::policy_in(next.extensions())?;
            policy_changed(db, group, (now, next), tell.then_some(by.as_str()))?;
        }
    }

    // Nobody has left of whom a client stays, or comes back by this commit.
    let mut told = pseudonyms(mls_group, &removed);
    if let Some((identity, _)) = &joiner {
        told.push(identity.user_pseudonym.clone());
    }
    for leaf in removed {
        let reason = match by_service.contains(&leaf) {
            true => removals::of(db, &group.id, mls_group, leaf)?,
            false => None,
        };
        if leaf == mls_group.own_leaf_index() && group.name.is_none() {
            // Of the user's own devices and of a contact who ends the connection the caller tells.
            match committer {
                Committer::Joiner => {
                    let group = evidence::described(db, profile, group)?;
                    events::store(db, &Event::Replaced { group })?;
                }
                _ if by_members.contains(&leaf) => {}
                _ => {
                    if let Some(why) = reason {
                        let group = evidence::described(db, profile, group)?;
                        let name = profile.handle.clone().unwrap_or_default();
                        events::store(db, &Event::RemovedByService { group, name, why })?;
                    }
                    let why = StopReason::RemovedByService;
                    evidence::set_stopped(db, &group.id, Some(why))?;
                    evidence::tell(db, profile, group, why)?;
                }
            }
            continue;
        }
        if leaf == mls_group.own_leaf_index() {
            let group_name = group.display_name();
            let event = match committer {
                // Only this user's own links get somebody in whose commit takes this leaf away.
                Committer::Joiner => Event::Replaced { group: group_name },
                Committer::Own | Committer::Member(_) => Event::Removed { group: group_name },
            };
            events::store(db, &event)?;
            if let Some(why) = reason {
                let (group, name) = (group.display_name(), profile.handle.clone());
                let name = name.unwrap_or_default();
                events::store(db, &Event::RemovedByService { group, name, why })?;
            }
            // Not once for each of this user's devices.
            told.extend(mls_group.member(leaf).and_then(pseudonym_of));
            continue;
        }
        let Some(credential) = mls_group.member(leaf) else {
            continue;
        };
        let identity = identities::of(db, &group.id, credential)?;
        // Of this user's devices one makes the pool, and tells the others.
        if let (GroupKind::Connection, Some(identity)) = (group.kind, &identity)
            && committer != Committer::Joiner
            && devices::is_first(db, &group.id, mls_group)?
        {
            pools::device_gone(db, identity)?;
        }
        let user = identity
            .as_ref()
            .map(|identity| identity.user_pseudonym.clone());
        // What the service had done nobody here has, whoever carries it out. Of its devices the
        // user is told when they are forgotten.
        let by_nobody_here = reason.is_some() && group.kind != GroupKind::SingleUser;
        if (tell || by_nobody_here) && !user.as_ref().is_some_and(|user| told.contains(user)) {
            let name = identities::name(db, profile, identity.as_ref())?;
            let (group, by) = (group.display_name(), by.clone());
            let event = match reason {
                Some(why) => Event::RemovedByService { group, name, why },
                None => Event::MemberRemoved { group, name, by },
            };
            events::store(db, &event)?;
        }
        told.extend(user);
    }
    Ok(joiner)
}

/// The group is called as its members agree now; `by` if the user is told whose change it is.
fn policy_changed(
    db: &Connection,
    group: &Group,
    (now, next): (Option<GroupPolicy>, Option<GroupPolicy>),
    by: Option<&str>,
) -> Result<(), Error> {
    let profile = |policy: &Option<GroupPolicy>| match policy {
        Some(policy) => group_profile(db, group, policy),
        None => Ok(None),
    };
    let rules = |policy: &Option<GroupPolicy>| {
        let policy = policy.as_ref();
        policy.map(|policy| policy.with_profile(Vec::new()))
    };
    let (before, after) = (profile(&now)?, profile(&next)?);
    let mut name = group.display_name();
    if before != after {
        // A connection has no name, whatever its other end and the service let pass.
        if let Some(agreed) = after.as_ref().filter(|_| group.kind == GroupKind::Group) {
            name = groups::rename(db, group, &agreed.name)?;
        }
        if let Some(by) = by {
            let event = Event::GroupProfileChanged {
                group: name.clone(),
                group_id: group.id.into(),
                by: by.to_owned(),
                profile: after.unwrap_or_default(),
            };
            events::store(db, &event)?;
        }
    }
    match by.filter(|_| rules(&now) != rules(&next)) {
        Some(by) => {
            let (group, by) = (name, by.to_owned());
            events::store(db, &Event::PolicyChanged { group, by })
        }
        None => Ok(()),
    }
}

/// The user pseudonyms of the members, some leaves left out.
fn pseudonyms(mls_group: &MlsGroup, without: &[LeafNodeIndex]) -> Vec<Vec<u8>> {
    mls_group
        .members()
        .filter(|member| !without.contains(&member.index))
        .filter_map(|member| pseudonym_of(&member.credential))
        .collect()
}

/// Tells of one more client of somebody who is here. In a connection and among the user's own
/// devices too: whoever has a user's keys can only come in so.
fn tell_of_client(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    identity: &Identity,
) -> Result<(), Error> {
    let event = match group.kind {
        GroupKind::SingleUser => Event::DeviceCameIn,
        GroupKind::Group | GroupKind::Connection => Event::ClientAdded {
            group: group.display_name(),
            name: identities::name(db, profile, Some(identity))?,
        },
    };
    events::store(db, &event)
}

/// Who has another one's name is in the group all the same, since the service cannot see it and one
/// member must not be able to end a group for everybody. It is shown as nobody, so that nothing is
/// sent to it, and whoever may removes it.
fn take_for_nobody(
    db: &Connection,
    group: &Group,
    identity: &mut Identity,
    arrival: Arrival,
) -> Result<bool, Error> {
    if !matches!(arrival, Arrival::Nobody | Arrival::Impostor) {
        return Ok(false);
    }
    // In a connection and among the own devices there is nobody to go on with.
    if group.kind != GroupKind::Group {
        return Err(PeerError::NotPermitted.into());
    }
    identity.real = None;
    if arrival == Arrival::Impostor {
        kept_out::keep_out(db, &group.id, &identity.user_pseudonym)?;
    }
    let group = group.display_name();
    events::store(db, &Event::UnverifiedMember { group })?;
    Ok(true)
}

/// Tells of whoever came in by an external commit, if it may be there at all.
fn arrived(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    mls_group: &MlsGroup,
    aad: &CommitAad,
    identity: &Identity,
    arrival: Arrival,
) -> Result<(), Error> {
    match arrival {
        Arrival::Client => return tell_of_client(db, profile, group, identity),
        Arrival::Again => {
            let event = match group.kind {
                GroupKind::SingleUser => Event::DeviceCameIn,
                GroupKind::Group | GroupKind::Connection => Event::MemberRejoined {
                    group: group.display_name(),
                    name: identities::name(db, profile, Some(identity))?,
                },
            };
            return events::store(db, &event);
        }
        Arrival::Person | Arrival::Nobody | Arrival::Impostor => {}
    }
    // Nobody new comes into a devices' group, and into a connection only whoever was asked.
    let answers = !aad.encrypted_connection_response.as_slice().is_empty();
    match group.kind {
        GroupKind::Connection if answers => return Ok(()),
        GroupKind::Connection | GroupKind::SingleUser => {
            return Err(PeerError::NotPermitted.into());
        }
        GroupKind::Group => {}
    }
    people::arrived(db, profile, group, mls_group, identity, "")?;
    if identity.real.is_none() {
        // The service could make such a commit by itself. Nothing is sent to that leaf.
        let group = group.display_name();
        return events::store(db, &Event::UnverifiedMember { group });
    }
    let name = identities::name(db, profile, Some(identity))?;
    events::store(
        db,
        &Event::MemberAdded {
            group: group.display_name(),
            by: name.clone(),
            name,
        },
    )
}

fn same_user(
    db: &Connection,
    group: &Group,
    mls_group: &MlsGroup,
    index: LeafNodeIndex,
    mut identity: Identity,
) -> Result<Identity, Error> {
    let before = match mls_group.member(index) {
        Some(credential) => identities::of(db, &group.id, credential)?,
        None => None,
    };
    let key = |identity: &Identity| {
        identity
            .real
            .as_ref()
            .map(|real| real.signature_public_key.clone())
    };
    if before.as_ref().and_then(key) != key(&identity) {
        identity.real = None;
    }
    Ok(identity)
}
