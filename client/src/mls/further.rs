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
use crate::leaf::pseudonym_of;
use crate::store::acts::{self, Act};
use crate::store::{Group, Identity, identities};

/// What somebody who comes in is to those who are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Somebody new.
    Person,
    /// One more client of a user who is here.
    Client,
    /// A client of a user who is here, in the place of its own former leaf.
    Again,
    /// Somebody who cannot show to be the user whose name it has.
    Nobody,
    /// Somebody under the name of another one, or under a second name.
    Impostor,
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

/// Those of these who have the name of one before them, or are one before them under another name:
/// they are shown as nobody. One member must not be able to keep everybody out with it.
pub(crate) fn impostors(people: &[Identity]) -> Vec<usize> {
    let mut found = Vec::new();
    for (at, person) in people.iter().enumerate() {
        if !people
            .get(..at)
            .is_none_or(|before| stands_apart(before, person))
        {
            found.push(at);
        }
    }
    found
}

/// Judges whoever comes to a user who is here, on the word of one of that user's leaves.
fn judge_client(
    here: &[Identity],
    user: Option<&Identity>,
    newcomer: &Identity,
    arrival: Arrival,
) -> Arrival {
    let is_its = user.is_some_and(|user| user.is_same_user(newcomer));
    if is_its && stands_apart(here, newcomer) {
        return arrival;
    }
    let is_known = user.is_some_and(|user| user.real.is_some()) && newcomer.real.is_some();
    if is_known {
        Arrival::Impostor
    } else {
        Arrival::Nobody
    }
}

/// Judges whom a member adds: a further client of its own, or a person whom nobody here is. `here`
/// are those who stay, `added` those whom the same commit adds before this one.
pub(crate) fn judge_added(
    here: &[Identity],
    added: &[Identity],
    committer: Option<&Identity>,
    newcomer: &Identity,
) -> Arrival {
    // Nobody lends its own pseudonym to somebody else, or to who cannot show who it is.
    if committer.is_some_and(|it| it.user_pseudonym == newcomer.user_pseudonym) {
        return judge_client(here, committer, newcomer, Arrival::Client);
    }
    // The clients of somebody new come by one commit.
    if is_among(here, newcomer) || !stands_apart(added, newcomer) {
        return Arrival::Impostor;
    }
    Arrival::Person
}

fn is_among(here: &[Identity], newcomer: &Identity) -> bool {
    here.iter().any(|other| {
        other.user_pseudonym == newcomer.user_pseudonym || other.is_same_user(newcomer)
    })
}

/// Judges who comes in by an external commit. That it has the word of a leaf the rules have seen to
/// ([`mls_rules`]); that it is the user of that leaf, or a person whom nobody here is, only members
/// can see.
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
        Joined::Connection | Joined::NewUser if is_among(&here, newcomer) => {
            return Ok(Arrival::Impostor);
        }
        Joined::Connection | Joined::NewUser => return Ok(Arrival::Person),
        Joined::Client => Arrival::Client,
        Joined::Rejoin(_) => Arrival::Again,
    };
    let word = aad.authorization.as_ref().ok_or(PeerError::NotPermitted)?;
    let voucher = LeafNodeIndex::new(word.leaf_index);
    let user = identity_of(db, group, mls_group, voucher)?;
    Ok(judge_client(&here, Some(&user), newcomer, arrival))
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

/// Somebody has come in from outside, and hears two others: the devices of the two people with the
/// lowest leaves say that they are there, in the caller's transaction. Where there is nobody else,
/// the user's other devices say so.
pub(crate) fn greet(
    db: &Connection,
    group: &Group,
    mls_group: &MlsGroup,
    newcomer: &Identity,
) -> Result<(), Error> {
    let mut greeting: Vec<Identity> = Vec::new();
    for identity in people(db, group, mls_group, &[])? {
        let is_another = identity.real.is_some() && !identity.is_same_user(newcomer);
        if is_another && !greeting.iter().any(|it| it.is_same_user(&identity)) {
            greeting.push(identity);
        }
    }
    let own = mls_group.own_leaf_node().map(|leaf| leaf.credential());
    let own = own
        .map(|own| identities::of(db, &group.id, own))
        .transpose()?;
    let own = own.flatten();
    let is_first = |own: &Identity| greeting.iter().take(2).any(|it| it.is_same_user(own));
    if greeting.is_empty() || own.is_some_and(|own| is_first(&own)) {
        acts::plan(db, Act::Greet, &group.id.0)?;
    }
    Ok(())
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
            judge_added(&here, &[], Some(committer), newcomer)
        };
        let [alice, _, _] = &here;
        assert_eq!(by(alice, &somebody(9, Some(9))), Arrival::Person);
        assert_eq!(by(alice, &somebody(9, None)), Arrival::Person);
        assert_eq!(by(&bob, &somebody(2, Some(2))), Arrival::Client);
        for (committer, newcomer) in [
            // Bob's pseudonym, his person under another one, both, by another member.
            (alice, somebody(2, Some(9))),
            (alice, somebody(9, Some(2))),
            (alice, somebody(2, Some(2))),
            (alice, somebody(3, None)),
            // His own pseudonym for somebody else, or for who shows nothing.
            (&bob, somebody(2, Some(9))),
            // Himself once more, as somebody new.
            (&bob, somebody(9, Some(2))),
        ] {
            assert_eq!(by(committer, &newcomer), Arrival::Impostor, "{newcomer:?}");
        }
        // What cannot be seen is held against nobody.
        assert_eq!(by(&bob, &somebody(2, None)), Arrival::Nobody);
        let hidden = somebody(3, None);
        assert_eq!(by(&hidden, &somebody(3, Some(3))), Arrival::Nobody);
        // Two clients of somebody new, and two people under one name.
        let added = [somebody(9, Some(9))];
        let also = |newcomer| judge_added(&here, &added, Some(alice), &newcomer) == Arrival::Person;
        assert!(also(somebody(9, Some(9))) && also(somebody(8, Some(8))));
        assert!(!also(somebody(9, Some(8))) && !also(somebody(8, Some(9))));
    }

    #[test]
    fn in_a_tree_the_later_of_two_under_one_name_or_of_one_under_two_is_nobody() {
        let fine = [
            somebody(1, Some(1)),
            somebody(1, Some(1)),
            somebody(2, Some(2)),
            somebody(2, None),
        ];
        assert!(impostors(&fine).is_empty());
        for other in [somebody(1, Some(2)), somebody(3, Some(1))] {
            let people = [&fine[..], &[other]].concat();
            assert_eq!(impostors(&people), [4]);
        }
    }
}
