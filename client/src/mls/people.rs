//! Who is kept out of a group, and who has come in.

use crypto::kdf;
use crypto::keys::IdentityLinkWrapperKey;
use crypto::sealing::{self, Place};
use openmls::prelude::{Credential, LeafNodeIndex, MlsGroup};
use protocol::codec::opaque;
use protocol::connections::ClientCredential;
use protocol::ids::GroupId;
use protocol::policy::{GroupPolicy, Participant, Standing};
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::error::{Error, PeerError};
use crate::ids::GroupRef;
use crate::leaf::{own_pseudonym, pseudonym_of};
use crate::mls::further;
use crate::mls::policy::policy_in;
use crate::store::kept_out::{keep_out, kept_out};
use crate::store::{Event, Group, Identity, Profile, events, identities, load_mls, wrappers};

pub(crate) const KEY: usize = 32;

/// Names are padded to this, so that the seal shows nothing of them.
pub(crate) const NAME: usize = 64;

pub(crate) fn place(group: &GroupId) -> Place<'_> {
    Place {
        table: "policies",
        row: &group.0,
        part: "person",
    }
}

pub(crate) fn seal_key(wrapper: &IdentityLinkWrapperKey) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(kdf::derive(wrapper.expose(), "people", &[]))
}

/// Opens what was sealed in some segment that this client knows the wrapper key of.
pub(crate) fn open_plain(
    db: &Connection,
    group: &Group,
    sealed: &[u8],
) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let open = |wrapper: &IdentityLinkWrapperKey| {
        sealing::open(&seal_key(wrapper), place(&group.id), sealed).ok()
    };
    if let Some(plain) = open(&group.segment.wrapper_key) {
        return Ok(Some(plain));
    }
    Ok(wrappers::kept(db, &group.id)?.iter().find_map(open))
}

/// Who somebody is, for the policy of this group.
pub(crate) fn seal(group: &Group, person: &ClientCredential) -> Result<Vec<u8>, Error> {
    let key: &[u8; KEY] = person
        .signature_public_key
        .as_slice()
        .try_into()
        .map_err(|_| PeerError::IdentityLink)?;
    let name = person.name.as_slice();
    let name = name.get(..NAME).unwrap_or(name);
    let mut plain = key.to_vec();
    plain.extend_from_slice(name);
    plain.resize(KEY.saturating_add(NAME), 0);
    let key = seal_key(&group.segment.wrapper_key);
    Ok(sealing::seal(&key, place(&group.id), &plain)?)
}

/// Signature key and name of a person in the policy. `None` for what no member has made.
pub(crate) fn open(
    db: &Connection,
    group: &Group,
    sealed: &[u8],
) -> Result<Option<(Vec<u8>, String)>, Error> {
    let Some(plain) = open_plain(db, group, sealed)? else {
        return Ok(None);
    };
    Ok(plain.split_first_chunk::<KEY>().map(|(key, name)| {
        let name = String::from_utf8_lossy(name);
        (key.to_vec(), name.trim_end_matches('\0').to_owned())
    }))
}

/// The same person for the policy of another group; nothing for what no member has made.
pub(crate) fn resealed(
    db: &Connection,
    from: &Group,
    to: &Group,
    sealed: &[u8],
) -> Result<Vec<u8>, Error> {
    match open_plain(db, from, sealed)? {
        Some(plain) => {
            let key = seal_key(&to.segment.wrapper_key);
            Ok(sealing::seal(&key, place(&to.id), &plain)?)
        }
        None => Ok(Vec::new()),
    }
}

/// The listings of a person, under whatever pseudonym.
pub(crate) fn listings<'p>(
    db: &Connection,
    policy: &'p GroupPolicy,
    group: &Group,
    signature_key: &[u8],
) -> Result<Vec<&'p Participant>, Error> {
    let mut found = Vec::new();
    for participant in &policy.participants {
        let person = open(db, group, participant.person.as_slice())?;
        if person.is_some_and(|(key, _)| key == signature_key) {
            found.push(participant);
        }
    }
    Ok(found)
}

pub(crate) fn has(listings: &[&Participant], standing: Standing) -> bool {
    listings.iter().any(|listing| listing.standing == standing)
}

/// Whether a person is banned here.
pub(crate) fn is_banned(
    db: &Connection,
    mls_group: &MlsGroup,
    group: &Group,
    signature_key: &[u8],
) -> Result<bool, Error> {
    let Some(policy) = policy_in(mls_group.extensions())? else {
        return Ok(false);
    };
    let listed = listings(db, &policy, group, signature_key)?;
    Ok(has(&listed, Standing::Banned))
}

/// Of those whom somebody who comes in finds, in the caller's transaction.
pub(crate) fn take_impostors_for_nobody(
    db: &Connection,
    id: &GroupId,
    found: Vec<(Credential, Identity)>,
) -> Result<(), Error> {
    let (credentials, people): (Vec<Credential>, Vec<Identity>) = found.into_iter().unzip();
    for at in further::impostors(&people) {
        if let (Some(credential), Some(impostor)) = (credentials.get(at), people.get(at)) {
            let nobody = Identity {
                real: None,
                ..impostor.clone()
            };
            identities::store(db, id, credential, &nobody)?;
            keep_out(db, id, &nobody.user_pseudonym)?;
        }
    }
    Ok(())
}

/// Holds a newcomer against what was decided before, in the caller's transaction. `by` is empty for
/// who came in alone.
pub(crate) fn arrived(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    mls_group: &MlsGroup,
    newcomer: &Identity,
    by: &str,
) -> Result<(), Error> {
    let Some(policy) = policy_in(mls_group.extensions())? else {
        return Ok(());
    };
    let unwelcome = match &newcomer.real {
        Some(real) => has(
            &listings(db, &policy, group, real.signature_public_key.as_slice())?,
            Standing::Banned,
        ),
        None => policy
            .participants
            .iter()
            .any(|participant| participant.standing == Standing::Banned),
    };
    if !unwelcome {
        return Ok(());
    }
    keep_out(db, &group.id, &newcomer.user_pseudonym)?;
    events::store(
        db,
        &Event::BannedCameIn {
            group: group.display_name(),
            name: identities::name(db, profile, Some(newcomer))?,
            by: by.to_owned(),
        },
    )
}

/// The leaves of all who are kept out and are in all the same, with all others of their users.
pub(crate) fn unwelcome(
    db: &Connection,
    group: &Group,
    mls_group: &MlsGroup,
    policy: &GroupPolicy,
) -> Result<Vec<LeafNodeIndex>, Error> {
    let mut users = kept_out(db, &group.id)?;
    let own = own_pseudonym(mls_group)?;
    for member in mls_group.members() {
        let Some(pseudonym) = pseudonym_of(&member.credential) else {
            continue;
        };
        let real = identities::of(db, &group.id, &member.credential)?.and_then(|it| it.real);
        let listed = match &real {
            Some(real) => listings(db, policy, group, real.signature_public_key.as_slice())?,
            None => Vec::new(),
        };
        let banned = policy.bans(&pseudonym) || has(&listed, Standing::Banned);
        if banned {
            users.push(pseudonym);
        }
    }
    let found: Vec<LeafNodeIndex> = mls_group
        .members()
        .filter(|member| {
            pseudonym_of(&member.credential).is_some_and(|pseudonym| users.contains(&pseudonym))
        })
        .map(|member| member.index)
        .collect();
    let mut leaves = further::with_their_people(db, group, mls_group, &found)?;
    leaves.retain(|leaf| mls_group.member(*leaf).and_then(pseudonym_of).as_ref() != Some(&own));
    Ok(leaves)
}

/// A policy in which who is muted is so under its present pseudonym too, if that is not so yet.
pub(crate) fn muted_again(
    db: &Connection,
    group: &Group,
    mls_group: &MlsGroup,
    policy: &GroupPolicy,
) -> Result<Option<GroupPolicy>, Error> {
    let mut next = policy.clone();
    for member in mls_group.members() {
        let (Some(pseudonym), Some(real)) = (
            pseudonym_of(&member.credential),
            identities::of(db, &group.id, &member.credential)?.and_then(|it| it.real),
        ) else {
            continue;
        };
        let listings = listings(db, policy, group, real.signature_public_key.as_slice())?;
        // A listing under the present pseudonym is a later word than one under a former one.
        let listed = next.participant(&pseudonym).is_some();
        if !listed && has(&listings, Standing::Muted) {
            let person = seal(group, &real)?;
            next = next.with_person(&pseudonym, next.default_role, Standing::Muted, &person);
            // One listing a person.
            next.participants.retain(|participant| {
                participant.user_pseudonym.as_slice() == pseudonym
                    || !listings
                        .iter()
                        .any(|former| former.user_pseudonym == participant.user_pseudonym)
            });
        }
    }
    Ok((next != *policy).then_some(next))
}

/// A policy that says of everybody who it is under the wrapper key of now, if one is under a former
/// one: who comes in later has no reason to go back to that, and may not be able to.
pub(crate) fn under_present_key(
    db: &Connection,
    group: &Group,
    policy: &GroupPolicy,
) -> Result<Option<GroupPolicy>, Error> {
    let key = seal_key(&group.segment.wrapper_key);
    let mut next = policy.clone();
    for participant in &mut next.participants {
        let sealed = participant.person.as_slice();
        if sealed.is_empty() || sealing::open(&key, place(&group.id), sealed).is_ok() {
            continue;
        }
        let again = resealed(db, group, group, sealed)?;
        if !again.is_empty() {
            participant.person = opaque(again);
        }
    }
    Ok((next != *policy).then_some(next))
}

/// The names of those who are banned from a group.
///
/// # Errors
/// [`UsageError::UnknownGroup`].
pub(crate) fn banned(
    db: &Connection,
    profile: &Profile,
    group: &GroupRef,
) -> Result<Vec<String>, Error> {
    let group = Group::meant(db, group)?;
    let mls_group = load_mls(db, &group.id)?;
    let own = profile.credential()?;
    let mut names = Vec::new();
    for participant in policy_in(mls_group.extensions())?
        .into_iter()
        .flat_map(|policy| policy.participants)
        .filter(|participant| participant.standing == Standing::Banned)
    {
        let Some((key, name)) = open(db, &group, participant.person.as_slice())? else {
            continue;
        };
        let person = ClientCredential {
            name: protocol::codec::opaque(name.into_bytes()),
            signature_public_key: protocol::codec::opaque(key),
        };
        names.push(crate::store::contacts::display_name(db, &own, &person)?);
    }
    Ok(names)
}
