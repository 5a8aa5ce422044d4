//! Who is one person in a group: a further client of somebody who is here, or somebody new.
//!
//! A client comes to a user who is here by the word of one of that user's leaves, and of nobody
//! else: by a commit of such a leaf, or by an external commit that carries its authorization. The
//! service asks for the same, but it may let in whom it likes, and whoever has had the user's keys
//! makes an identity link that opens. So each member verifies the word against the tree that it
//! has, in which a device that was removed has no leaf.

use mls_rules::Joined;
use openmls::prelude::{LeafNodeIndex, MlsGroup};
use protocol::group::CommitAad;
use rusqlite::Connection;

use crate::error::{Error, PeerError};
use crate::groups::identities::{self, Identity};
use crate::groups::{Group, pseudonym_of};

/// What somebody who comes in is to those who are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Somebody new.
    Person,
    /// One more client of a user who is here.
    Client,
    /// A client of a user who is here, in the place of its own former leaf.
    Again,
}

/// The leaves before a commit, without some, and who is behind them.
pub(crate) fn people(
    db: &Connection,
    group: &Group,
    mls_group: &MlsGroup,
    without: &[LeafNodeIndex],
) -> Result<Vec<Identity>, Error> {
    let mut people = Vec::new();
    for member in mls_group.members() {
        if !without.contains(&member.index) {
            people.push(identity_of(db, group, mls_group, member.index)?);
        }
    }
    Ok(people)
}

fn identity_of(
    db: &Connection,
    group: &Group,
    mls_group: &MlsGroup,
    leaf: LeafNodeIndex,
) -> Result<Identity, Error> {
    let credential = mls_group.member(leaf).ok_or(PeerError::NotPermitted)?;
    Ok(match identities::of(db, &group.id, credential)? {
        Some(identity) => identity,
        None => Identity {
            user_pseudonym: pseudonym_of(credential).unwrap_or_default(),
            real: None,
        },
    })
}

/// Whether there is one person behind each pseudonym among these, and one pseudonym for each
/// person. Of a leaf whose identity link does not open its pseudonym alone is known.
fn stands_apart(people: &[Identity], newcomer: &Identity) -> bool {
    people.iter().all(|other| {
        let pseudonym = other.user_pseudonym == newcomer.user_pseudonym;
        pseudonym == other.is_same_user(newcomer)
            || pseudonym && (other.real.is_none() || newcomer.real.is_none())
    })
}

/// Whether nobody among these has the name of another one, or two.
///
/// # Errors
/// [`PeerError::IdentityLink`].
pub(crate) fn check_distinct(people: &[Identity]) -> Result<(), PeerError> {
    let mut before: &[Identity] = people;
    while let Some((last, others)) = before.split_last() {
        if !stands_apart(others, last) {
            return Err(PeerError::IdentityLink);
        }
        before = others;
    }
    Ok(())
}

/// Judges whom a member adds: a further client of its own, or a person whom nobody here is. `here`
/// are those who stay, `added` those whom the same commit adds before this one.
///
/// # Errors
/// [`PeerError::NotPermitted`].
pub(crate) fn judge_added(
    here: &[Identity],
    added: &[Identity],
    committer: Option<&Identity>,
    newcomer: &Identity,
) -> Result<Arrival, PeerError> {
    let own = committer.is_some_and(|it| it.user_pseudonym == newcomer.user_pseudonym);
    if own {
        // Nobody lends its own pseudonym to somebody else, or to who cannot show who it is.
        let is_own = committer.is_some_and(|committer| committer.is_same_user(newcomer));
        return if is_own && stands_apart(here, newcomer) {
            Ok(Arrival::Client)
        } else {
            Err(PeerError::NotPermitted)
        };
    }
    let is_here = here.iter().any(|other| {
        other.user_pseudonym == newcomer.user_pseudonym || other.is_same_user(newcomer)
    });
    // The clients of somebody new come by one commit.
    if is_here || !stands_apart(added, newcomer) {
        return Err(PeerError::NotPermitted);
    }
    Ok(Arrival::Person)
}

/// Judges who comes in by an external commit. That it has the word of a leaf the rules have seen to ([`mls_rules`]); that
/// it is the user of that leaf, or a person whom nobody here is, only members can see.
///
/// # Errors
/// [`PeerError::NotPermitted`].
pub(crate) fn judge_joiner(
    db: &Connection,
    group: &Group,
    mls_group: &MlsGroup,
    joined: &Joined,
    aad: &CommitAad,
    newcomer: &Identity,
) -> Result<Arrival, Error> {
    let here = people(db, group, mls_group, &[])?;
    let arrival = match joined {
        Joined::Connection | Joined::NewUser => {
            let is_here = here.iter().any(|other| {
                other.user_pseudonym == newcomer.user_pseudonym || other.is_same_user(newcomer)
            });
            return if is_here {
                Err(PeerError::NotPermitted.into())
            } else {
                Ok(Arrival::Person)
            };
        }
        Joined::Client => Arrival::Client,
        Joined::Rejoin(_) => Arrival::Again,
    };
    let word = aad.authorization.as_ref().ok_or(PeerError::NotPermitted)?;
    let voucher = LeafNodeIndex::new(word.leaf_index);
    let user = identity_of(db, group, mls_group, voucher)?;
    let is_its = user.user_pseudonym == newcomer.user_pseudonym && user.is_same_user(newcomer);
    // All the user's leaves, not only the one that vouches.
    let all_its = here.iter().all(|other| {
        let pseudonym = other.user_pseudonym == newcomer.user_pseudonym;
        pseudonym == other.is_same_user(newcomer)
    });
    if is_its && all_its {
        Ok(arrival)
    } else {
        Err(PeerError::NotPermitted.into())
    }
}

/// These leaves and all others of the same people: by identity key, and by pseudonym, so that a
/// client whose link does not open goes with its user.
pub(crate) fn with_their_people(
    db: &Connection,
    group: &Group,
    mls_group: &MlsGroup,
    leaves: &[LeafNodeIndex],
) -> Result<Vec<LeafNodeIndex>, Error> {
    let mut others = Vec::new();
    let mut people = Vec::new();
    for member in mls_group.members() {
        let identity = identity_of(db, group, mls_group, member.index)?;
        if leaves.contains(&member.index) {
            people.push((member.index, identity));
        } else {
            others.push((member.index, identity));
        }
    }
    loop {
        let (theirs, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(|(_, other)| {
            people.iter().any(|(_, person)| {
                person.user_pseudonym == other.user_pseudonym || person.is_same_user(other)
            })
        });
        if theirs.is_empty() {
            break;
        }
        people.extend(theirs);
        others = rest;
    }
    let mut leaves: Vec<LeafNodeIndex> = people.into_iter().map(|(index, _)| index).collect();
    leaves.sort_unstable_by_key(|leaf| leaf.u32());
    Ok(leaves)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::codec::opaque;
    use protocol::connections::ClientCredential;

    use super::*;

    fn somebody(pseudonym: u8, key: Option<u8>) -> Identity {
        Identity {
            user_pseudonym: vec![pseudonym],
            real: key.map(|key| ClientCredential {
                name: opaque(*b"x"),
                signature_public_key: opaque(vec![key; 32]),
            }),
        }
    }

    #[test]
    fn a_pseudonym_or_person_that_is_here_is_added_by_nobody_but_that_persons_own_clients() {
        let bob = somebody(2, Some(2));
        let here = [somebody(1, Some(1)), bob.clone(), somebody(3, None)];
        let by = |committer: &Identity, newcomer: &Identity| {
            judge_added(&here, &[], Some(committer), newcomer).ok()
        };
        let [alice, _, _] = &here;
        assert_eq!(by(alice, &somebody(9, Some(9))), Some(Arrival::Person));
        assert_eq!(by(alice, &somebody(9, None)), Some(Arrival::Person));
        assert_eq!(by(&bob, &somebody(2, Some(2))), Some(Arrival::Client));
        for (committer, newcomer) in [
            // Bob's pseudonym, his person under another one, both, by another member.
            (alice, somebody(2, Some(9))),
            (alice, somebody(9, Some(2))),
            (alice, somebody(2, Some(2))),
            (alice, somebody(3, None)),
            // His own pseudonym for somebody else, or for who shows nothing.
            (&bob, somebody(2, Some(9))),
            (&bob, somebody(2, None)),
            // Himself once more, as somebody new.
            (&bob, somebody(9, Some(2))),
        ] {
            assert_eq!(by(committer, &newcomer), None, "{newcomer:?}");
        }
        // Two clients of somebody new, and two people under one name.
        let added = [somebody(9, Some(9))];
        let also = |newcomer| judge_added(&here, &added, Some(alice), &newcomer).is_ok();
        assert!(also(somebody(9, Some(9))) && also(somebody(8, Some(8))));
        assert!(!also(somebody(9, Some(8))) && !also(somebody(8, Some(9))));
    }

    #[test]
    fn a_tree_in_which_a_name_stands_for_two_people_or_a_person_has_two_is_refused() {
        let fine = [
            somebody(1, Some(1)),
            somebody(1, Some(1)),
            somebody(2, Some(2)),
            somebody(2, None),
        ];
        check_distinct(&fine).unwrap();
        for other in [somebody(1, Some(2)), somebody(3, Some(1))] {
            let people = [&fine[..], &[other]].concat();
            assert!(check_distinct(&people).is_err());
        }
    }
}
