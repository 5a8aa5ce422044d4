//! What was decided about a person holds for that person, under whatever pseudonym it comes.
//!
//! The service enforces a policy by pseudonyms, and whoever comes in again has a new one. Members
//! know who is behind a leaf. So the policy says of whom it bans or mutes who that is, sealed under
//! a key that members have and the service has not. Each client holds newcomers against it. It
//! refuses to add who is banned; when somebody else does, or he comes by a code, everybody is told,
//! and whoever may remove him does so. A newcomer who does not show who he is counts as one who is
//! kept out, as long as anybody is. A person with another identity is another person here.

use crypto::kdf;
use crypto::keys::IdentityLinkWrapperKey;
use crypto::sealing::{self, Place};
use openmls::prelude::{Credential, LeafNodeIndex, MlsGroup};
use protocol::codec::opaque;
use protocol::connections::ClientCredential;
use protocol::group::GroupKind;
use protocol::ids::GroupId;
use protocol::policy::{Capabilities, GroupPolicy, Participant, Standing};
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::engine::Engine;
use crate::error::{Error, PeerError, UsageError};
use crate::events::{self, Event};
use crate::groups::commit::{CommitOutcome, Plan};
use crate::groups::identities::{self, Identity};
use crate::groups::policy::{capabilities, policy_in};
use crate::groups::{Group, Status, further, load_mls, own_pseudonym, pseudonym_of};
use crate::journal::wrappers;
use crate::profile::Profile;

const KEY: usize = 32;
/// Names are padded to this, so that the seal shows nothing of them.
const NAME: usize = 64;

fn place(group: &GroupId) -> Place<'_> {
    Place {
        table: "policies",
        row: &group.0,
        part: "person",
    }
}

fn seal_key(wrapper: &IdentityLinkWrapperKey) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(kdf::derive(wrapper.expose(), "people", &[]))
}

/// Opens what was sealed in some segment that this client knows the wrapper key of.
fn open_plain(
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
fn seal(group: &Group, person: &ClientCredential) -> Result<Vec<u8>, Error> {
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
fn open(db: &Connection, group: &Group, sealed: &[u8]) -> Result<Option<(Vec<u8>, String)>, Error> {
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
fn listings<'p>(
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

fn has(listings: &[&Participant], standing: Standing) -> bool {
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

pub(crate) fn keep_out(db: &Connection, id: &GroupId, pseudonym: &[u8]) -> Result<(), Error> {
    db.execute(
        "INSERT OR IGNORE INTO kept_out (group_id, user_pseudonym) VALUES (?, ?)",
        (id.0, pseudonym),
    )?;
    Ok(())
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

fn kept_out(db: &Connection, id: &GroupId) -> Result<Vec<Vec<u8>>, Error> {
    let mut statement =
        db.prepare_cached("SELECT user_pseudonym FROM kept_out WHERE group_id = ?")?;
    let rows = statement.query_map([id.0], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
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
fn unwelcome(
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
fn muted_again(
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
fn under_present_key(
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

impl Engine {
    /// Carries out what was decided about people who came in again, as far as this user may.
    pub(crate) async fn carry_out_decisions(&mut self, id: &GroupId) -> Result<(), Error> {
        let group = Group::read(&self.db, id)?;
        if group.kind != GroupKind::Group || group.status != Status::Active {
            return Ok(());
        }
        let mls_group = load_mls(&self.db, id)?;
        let Some(policy) = policy_in(mls_group.extensions())? else {
            return Ok(());
        };
        let may = capabilities(Some(&policy), &own_pseudonym(&mls_group)?);
        let mut plans = Vec::new();
        if may.contain(Capabilities::REMOVE) {
            let leaves = unwelcome(&self.db, &group, &mls_group, &policy)?;
            if !leaves.is_empty() {
                plans.push(Plan::Remove(leaves));
            }
        }
        if may.contain(Capabilities::SET_ROLE)
            && let Some(next) = muted_again(&self.db, &group, &mls_group, &policy)?
        {
            plans.push(Plan::SetPolicy(Box::new(next)));
        } else if may.contain(Capabilities::SET_ROLE)
            && let Some(next) = under_present_key(&self.db, &group, &policy)?
        {
            plans.push(Plan::SetPolicy(Box::new(next)));
        }
        for plan in plans {
            self.stage_plan(id, plan)?;
            // Somebody else was faster: what is left is done the next time.
            if self.submit_commit(id).await? == CommitOutcome::Superseded {
                return Ok(());
            }
        }
        self.db
            .execute("DELETE FROM kept_out WHERE group_id = ?", [id.0])?;
        Ok(())
    }

    /// A policy entry for a member, which says who it is.
    pub(crate) fn person(
        &self,
        group: &Group,
        mls_group: &MlsGroup,
        pseudonym: &[u8],
    ) -> Result<Vec<u8>, UsageError> {
        let real = mls_group
            .members()
            .filter(|member| pseudonym_of(&member.credential).as_deref() == Some(pseudonym))
            .find_map(|member| {
                identities::of(&self.db, &group.id, &member.credential)
                    .ok()
                    .flatten()?
                    .real
            });
        // Of somebody who does not show who he is only the pseudonym can be kept out.
        Ok(real
            .and_then(|real| seal(group, &real).ok())
            .unwrap_or_default())
    }

    /// Lets a banned person come in again.
    ///
    /// # Errors
    /// [`UsageError::NotBanned`], [`UsageError::NotPermitted`].
    pub(crate) async fn unban(&mut self, group: &str, name: &str) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.sync().await?;
        let id = Group::usable(&self.db, group)?.id;
        self.commit(&id, |client| {
            let group = Group::read(&client.db, &id)?;
            let mls_group = load_mls(&client.db, &id)?;
            let policy = policy_in(mls_group.extensions())?.ok_or(UsageError::NotPermitted)?;
            let own = client.profile.credential()?;
            let mut next = policy.clone();
            for participant in &policy.participants {
                let Some((key, claimed)) = open(&client.db, &group, participant.person.as_slice())?
                else {
                    continue;
                };
                let person = ClientCredential {
                    name: protocol::codec::opaque(claimed.into_bytes()),
                    signature_public_key: protocol::codec::opaque(key),
                };
                let shown = crate::contacts::display_name(&client.db, &own, &person)?;
                if participant.standing == Standing::Banned && shown == name {
                    let pseudonym = participant.user_pseudonym.as_slice();
                    next = next.with(pseudonym, policy.default_role, Standing::Active);
                }
            }
            if next == policy {
                return Err(UsageError::NotBanned(name.to_owned()).into());
            }
            Ok(Plan::SetPolicy(Box::new(next)))
        })
        .await
    }
}

/// The names of those who are banned from a group.
///
/// # Errors
/// [`UsageError::UnknownGroup`].
pub(crate) fn banned(
    db: &Connection,
    profile: &Profile,
    group: &str,
) -> Result<Vec<String>, Error> {
    let group = Group::by_name(db, group)?;
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
        names.push(crate::contacts::display_name(db, &own, &person)?);
    }
    Ok(names)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::ids::RotationEpoch;

    use super::*;
    use crate::groups::tests::group;

    fn person(name: &str, key: u8) -> ClientCredential {
        ClientCredential {
            name: opaque(name.as_bytes()),
            signature_public_key: opaque(vec![key; 32]),
        }
    }

    #[test]
    fn who_is_kept_out_is_known_to_members_of_that_group_only_and_has_no_length() {
        let db = crate::database::in_memory().unwrap();
        let here = group(1, "here");
        let sealed = seal(&here, &person("carol", 3)).unwrap();
        let carol = Some((vec![3; 32], "carol".to_owned()));
        assert_eq!(open(&db, &here, &sealed).unwrap(), carol);
        assert_eq!(open(&db, &group(2, "there"), &sealed).unwrap(), None);
        let with_key = |key| {
            let segment = crate::journal::Segment {
                wrapper_key: IdentityLinkWrapperKey::new([key; 32]),
                ..group(1, "here").segment
            };
            Group {
                segment,
                ..group(1, "here")
            }
        };
        assert_eq!(open(&db, &with_key(9), &sealed).unwrap(), None);
        // Whoever was in the segment in which it was sealed.
        let former = (RotationEpoch(0), &here.segment.wrapper_key);
        wrappers::keep(&db, &here.id, former.0, former.1).unwrap();
        assert_eq!(open(&db, &with_key(9), &sealed).unwrap(), carol);
        let policy = GroupPolicy::of_creator(opaque(*b"alice")).with_person(
            b"old",
            GroupPolicy::MEMBER,
            Standing::Banned,
            &sealed,
        );
        let next = under_present_key(&db, &with_key(9), &policy).unwrap();
        let next = next.unwrap();
        assert_eq!(under_present_key(&db, &with_key(9), &next).unwrap(), None);
        db.execute("DELETE FROM wrappers", ()).unwrap();
        let listed = listings(&db, &next, &with_key(9), &[3; 32]).unwrap();
        assert!(has(&listed, Standing::Banned));
        let longer = seal(&here, &person(&"c".repeat(64), 3)).unwrap();
        assert_eq!(longer.len(), sealed.len());
        assert!(longer.len() <= protocol::policy::MAX_PERSON);
    }

    #[test]
    fn a_person_is_found_under_any_pseudonym() {
        let db = crate::database::in_memory().unwrap();
        let here = group(1, "here");
        let sealed = seal(&here, &person("carol", 3)).unwrap();
        let policy = GroupPolicy::of_creator(opaque(*b"alice")).with_person(
            b"old",
            GroupPolicy::MEMBER,
            Standing::Banned,
            &sealed,
        );
        let listings = |key: u8| listings(&db, &policy, &here, &[key; 32]).unwrap();
        assert!(has(&listings(3), Standing::Banned));
        assert!(!has(&listings(3), Standing::Muted));
        assert!(listings(4).is_empty());
    }
}
