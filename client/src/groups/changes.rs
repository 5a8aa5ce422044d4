//! What a commit changes for the people in a group: identities learned, events for the user.

use openmls::prelude::{LeafNodeIndex, MlsGroup, StagedCommit};
use protocol::groups::{CommitAad, GroupKind};
use rusqlite::Connection;

use crate::error::{Error, PeerError};
use crate::events::{self, Event};
use crate::groups::further::{self, Arrival};
use crate::groups::identities::{self, Identity};
use crate::groups::senders::ServiceKeys;
use crate::groups::{Group, enforce, people, pseudonym_of, removals};
use crate::profile::Profile;

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

/// Judges a commit before it is merged and keeps what it says about members. Returns the identity of
/// the joiner, if it is an external commit, and what it is to those who are here.
pub(crate) fn record(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    mls_group: &MlsGroup,
    staged: &StagedCommit,
    aad: &CommitAad,
    committer: Committer,
) -> Result<Option<(Identity, Arrival)>, Error> {
    let service = ServiceKeys::read(db)?;
    enforce::judge(&service, group, mls_group, staged, committer)?;
    let removed: Vec<LeafNodeIndex> = staged
        .queued_proposals()
        .filter_map(enforce::leaving)
        .collect();
    let by_service: Vec<LeafNodeIndex> = staged
        .queued_proposals()
        .filter(|queued| service.sent(mls_group, queued))
        .filter_map(enforce::leaving)
        .collect();
    // Whoever is removed must not be able to read the state that is written from now on.
    if !removed.is_empty() && aad.rotates_state_key != 1 {
        return Err(PeerError::RemovalWithoutRotation.into());
    }
    let by = match committer {
        Committer::Member(leaf) => match mls_group.member(leaf) {
            Some(credential) => identities::name_of(db, profile, &group.id, credential)?,
            None => return Err(PeerError::Commit.into()),
        },
        Committer::Own | Committer::Joiner => String::new(),
    };
    let tell = group.name.is_some() && committer != Committer::Own;
    let mut link_keys = aad.encrypted_identity_link_keys.iter();

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
    for added in staged.add_proposals() {
        let leaf = added.add_proposal().key_package().leaf_node();
        let wrapped = link_keys.next().map(tls_codec::VLBytes::as_slice);
        let key = leaf.signature_key().as_slice();
        let identity =
            identities::open_or_unverified(leaf.credential(), key, &group.wrapper_key, wrapped);
        let arrival = match committer {
            // What this client makes is judged when it is made.
            Committer::Own => Arrival::Person,
            _ => further::judge_added(&here, &came, adder.as_ref(), &identity)?,
        };
        identities::store(db, &group.id, leaf.credential(), &identity)?;
        if committer != Committer::Own && arrival == Arrival::Client {
            tell_of_client(db, profile, group, &identity)?;
        } else if tell
            && !came
                .iter()
                .any(|it| it.user_pseudonym == identity.user_pseudonym)
        {
            people::arrived(db, profile, (group, mls_group), &identity, &by)?;
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
            let wrapped = link_keys.next().map(tls_codec::VLBytes::as_slice);
            let key = leaf.signature_key().as_slice();
            let identity =
                identities::open_or_unverified(leaf.credential(), key, &group.wrapper_key, wrapped);
            // A member that changes its credential stays who it was, or is shown as nobody.
            let identity = match committer {
                Committer::Member(index) => same_user(db, group, mls_group, index, identity)?,
                Committer::Own | Committer::Joiner => identity,
            };
            if committer == Committer::Joiner {
                let arrival = further::judge_joiner(db, group, mls_group, staged, aad, &identity)?;
                arrived(db, profile, (group, mls_group), aad, &identity, arrival)?;
                joiner = Some((identity.clone(), arrival));
            }
            identities::store(db, &group.id, leaf.credential(), &identity)?;
        }
    }

    let policy_changed = staged.queued_proposals().any(|queued| {
        matches!(
            queued.proposal(),
            openmls::prelude::Proposal::GroupContextExtensions(_)
        )
    });
    if tell && policy_changed {
        events::store(
            db,
            &Event::PolicyChanged {
                group: group.display_name(),
                by: by.clone(),
            },
        )?;
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
            continue;
        }
        let Some(credential) = mls_group.member(leaf) else {
            continue;
        };
        let identity = identities::of(db, &group.id, credential)?;
        let user = identity
            .as_ref()
            .map(|identity| identity.user_pseudonym.clone());
        if tell && !user.as_ref().is_some_and(|user| told.contains(user)) {
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

/// Tells of whoever came in by an external commit, if it may be there at all.
fn arrived(
    db: &Connection,
    profile: &Profile,
    (group, mls_group): (&Group, &MlsGroup),
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
        Arrival::Person => {}
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
    people::arrived(db, profile, (group, mls_group), identity, "")?;
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
