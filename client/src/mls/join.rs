//! Joining by Welcome.

use crypto::connection::verify_attribution;
use crypto::keys::IdentityLinkWrapperKey;
use crypto::schedule::{JoinKey, JournalKey, StateKey, TagKey, exporters};
use crypto::secret::Secret;
use openmls::group::ProcessedWelcome;
use openmls::prelude::{
    MlsGroup, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, RatchetTreeIn, StagedWelcome,
    Welcome,
};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::connections::ClientCredential;
use protocol::group::GroupKind;
use protocol::ids::{ChainHead, GroupId, Position, Step};
use protocol::join::JoinRecordContent;
use protocol::welcome::{JoinInfo, WelcomeContent, WelcomePointer};
use rusqlite::Connection;
use tls_codec::DeserializeBytes as _;

use crate::error::{Error, LocalError, PeerError, mls};
use crate::group_profile::MAX_NAME;
use crate::mls::beginning::check_place;
use crate::mls::settings::join_config;
use crate::mls::{further, people};
use crate::outcomes::StopReason;
use crate::store::contacts::{self, name_of_key};
use crate::store::groups::{self, free_name, numbered};
use crate::store::identities::{self, LinkKeys};
use crate::store::known::{self, Known};
use crate::store::mls::group_id;
use crate::store::outbox;
use crate::store::provider::Provider;
use crate::store::wrappers::Wrappers;
use crate::store::{
    Event, Group, Identity, Profile, Segment, Status, devices, discard_mls, events, evidence,
    heard, refused_returns, successors,
};
use crate::{leaf, text};

/// What a Welcome says before the tree is known.
pub(crate) struct Invitation {
    pub(crate) id: GroupId,
    pub(crate) epoch: u64,
    pub(crate) join_key: JoinKey,
    pub(crate) info: JoinInfo,
    /// The contact whose invitation it is.
    pub(crate) by: String,
}

/// Somebody who is no contact, and what they call the group that they have made of a KeyPackage of
/// ours.
pub(crate) struct Stranger {
    pub(crate) key: Vec<u8>,
    pub(crate) group: String,
}

impl Stranger {
    /// Says what happened; the group is not joined.
    pub(crate) fn refuse(&self, db: &Connection, profile: &Profile) -> Result<(), Error> {
        let by = match contacts::name_seen(db, &self.key)? {
            Some(name) => {
                let credential = ClientCredential {
                    name: opaque(name.into_bytes()),
                    signature_public_key: opaque(self.key.as_slice()),
                };
                contacts::display_name(db, &profile.credential()?, &credential)?
            }
            None => String::new(),
        };
        let group = self.group.clone();
        events::store(db, &Event::InvitationRefused { group, by })
    }
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Welcome, Error> {
    match MlsMessageIn::tls_deserialize_exact_bytes(bytes).map(MlsMessageIn::extract) {
        Ok(MlsMessageBodyIn::Welcome(welcome)) => Ok(welcome),
        _ => Err(PeerError::Message.into()),
    }
}

/// Opens a Welcome. It consumes the KeyPackage, so the caller's transaction is rolled back: the
/// KeyPackage is needed again once the join record is there.
pub(crate) fn invitation(
    db: &Connection,
    profile: &Profile,
    content: &WelcomeContent,
) -> Result<Result<Invitation, Stranger>, Error> {
    let provider = Provider::new(db);
    let welcome = parse(content.welcome.as_slice())?;
    let processed = ProcessedWelcome::new_from_welcome(&provider, &join_config(), welcome)
        .map_err(|_| PeerError::Message)?;
    let export = |label: &str| -> Result<zeroize::Zeroizing<Vec<u8>>, Error> {
        processed
            .export_secret(provider.crypto(), label, &[], 32)
            .map(zeroize::Zeroizing::new)
            .map_err(mls)
    };
    let unverified = processed.unverified_group_info();
    let id = group_id(unverified.group_id()).ok_or(PeerError::Message)?;
    let epoch = unverified.epoch().as_u64();
    known::check_epoch(epoch)?;
    let info =
        JoinInfo::decode(content.join_info.as_slice()).map_err(|_| PeerError::Attribution)?;
    let wrapper = IdentityLinkWrapperKey::from(&info.wrapper_key);
    verify_attribution(
        &info.attribution,
        &id,
        epoch,
        &wrapper,
        info.group_name.as_slice(),
    )
    .map_err(|_| PeerError::Attribution)?;
    // Consent: only contacts can add us, and our own devices where we have asked them.
    let key = info.attribution.signature_public_key.as_slice();
    let by = if key == profile.identity.public() {
        let has_asked = !devices::asked_in(db, &id)?.is_empty();
        profile.handle.clone().filter(|_| has_asked)
    } else {
        name_of_key(db, key)?
    };
    let by = match by {
        Some(by) => by,
        None => {
            return Ok(Err(Stranger {
                key: key.to_vec(),
                group: String::from_utf8_lossy(info.group_name.as_slice()).into_owned(),
            }));
        }
    };
    Ok(Ok(Invitation {
        id,
        epoch,
        join_key: JoinKey::try_from(export(exporters::JOIN_RECORD)?.as_slice())?,
        info,
        by,
    }))
}

/// Joins, in the caller's transaction.
pub(crate) fn join(
    db: &Connection,
    profile: &Profile,
    content: &WelcomeContent,
    pointer: &WelcomePointer,
    invitation: &Invitation,
    record: &JoinRecordContent,
) -> Result<(), Error> {
    let provider = Provider::new(db);
    let id = &invitation.id;
    let former = Group::find(db, id)?;
    // Whatever epoch it claims: whoever has a KeyPackage of ours can make a Welcome for any group
    // id, and what this client is in would be replaced by it.
    let status = former.as_ref().map(|group| group.status);
    if matches!(status, Some(Status::Active | Status::Joining)) {
        return Ok(());
    }
    let known = known::of(db, id)?;
    let has_expired = evidence::stopped(db, id)? == Some(StopReason::Expired);
    let by_member = check_return(former.as_ref(), known.as_ref(), profile, invitation)?;
    discard_mls(db, id)?;
    let tree = RatchetTreeIn::tls_deserialize_exact_bytes(record.ratchet_tree.as_slice())
        .map_err(|_| Error::Protocol("a join record holds no tree"))?;
    let welcome = parse(content.welcome.as_slice())?;
    // Lifetimes were judged when the leaves were added; a member of long standing is no reason not
    // to join.
    let staged = StagedWelcome::build_from_welcome(&provider, &join_config(), welcome)
        .map_err(|_| PeerError::Message)?
        .with_ratchet_tree(tree)
        .skip_lifetime_validation()
        .build()
        .map_err(|_| PeerError::Message)?;

    let by_own =
        invitation.info.attribution.signature_public_key.as_slice() == profile.identity.public();
    let (own, asked) = (staged.own_leaf_index(), devices::asked_in(db, id)?);
    let own_key = staged
        .members()
        .find(|member| member.index == own)
        .map(|member| member.signature_key);
    if by_own && !own_key.is_some_and(|key| asked.contains(&key)) {
        return Err(PeerError::Unauthenticated("this device has not asked for it").into());
    }
    if let Some(known) = &known {
        let mut members = staged.members();
        if members.any(|member| known.was_removed(&identities::digest(&member.credential))) {
            return Err(PeerError::Unauthenticated("a leaf is in it that was removed").into());
        }
    }
    let name = match &former {
        Some(Group {
            name: Some(name), ..
        }) if by_member => name.clone(),
        // Somebody else's group is another one for the user, whatever its id.
        _ => {
            let wanted = String::from_utf8_lossy(invitation.info.group_name.as_slice());
            let wanted = text::received(&wanted, MAX_NAME);
            let by = invitation.info.attribution.signature_public_key.as_slice();
            if successors::passes_to(db, profile, &wanted, by)? {
                successors::give_up_name(db, &wanted)?;
                free_name(db, &wanted)?
            } else {
                free_name(db, &numbered(&wanted, 2))?
            }
        }
    };
    let group = Group {
        id: *id,
        kind: GroupKind::Group,
        name: Some(name.clone()),
        segment: segment(invitation, pointer, record)?,
        recovery: Secret::random()?,
        recovery_set: false,
        update_due: false,
        status: Status::Active,
    };
    outbox::fail_all(db, id)?;
    refused_returns::forget(db, id)?;
    groups::replace_row(db, &group)?;
    store_identities(db, profile, &group, &staged, record, invitation)?;
    let mls_group = staged.into_group(&provider).map_err(mls)?;
    if let Some(own_leaf) = mls_group.own_leaf_node() {
        Group::set_leaf_key(db, id, own_leaf.signature_key().as_slice())?;
    }
    known::remember(db, id, &mls_group)?;
    Group::set_codes_since(db, id, invitation.info.codes_since.0)?;
    devices::came_in(db, id)?;
    let by = invitation.info.attribution.signature_public_key.as_slice();
    // Who has missed months does not know whether the adder is in the group still: with the service
    // it could make up one of the leaves that were there. Another member's word shows it.
    if has_expired && others_are_there(db, profile, &group, &mls_group, by)? {
        heard::wait_for_somebody(db, id, Some(by))?;
    }
    events::say_if_not_post_quantum(db, name.clone(), mls_group.ciphersuite())?;
    events::store(
        db,
        &Event::Joined {
            group: name,
            by: invitation.by.clone(),
        },
    )
}

/// Whether somebody is in a group who can be heard, but this user and the adder.
fn others_are_there(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    mls_group: &MlsGroup,
    adder: &[u8],
) -> Result<bool, Error> {
    let own = profile.identity.public();
    let there = further::people(db, group, mls_group, &[])?;
    let keys = there.iter().filter_map(|identity| identity.real.as_ref());
    let mut keys = keys.map(|real| real.signature_public_key.as_slice());
    Ok(keys.any(|key| key != adder && key != own))
}

/// Where the joiner reads on: after the commit that added it.
pub(crate) fn segment(
    invitation: &Invitation,
    pointer: &WelcomePointer,
    record: &JoinRecordContent,
) -> Result<Segment, Error> {
    let rotation = record.journal.rotation_epoch;
    check_place(record.place.rotation_epoch, record.place.position)?;
    let step = invitation
        .epoch
        .checked_sub(rotation.0)
        .and_then(|step| u32::try_from(step).ok())
        .ok_or(Error::Protocol("a join record is of another epoch"))?;
    // Who points here need not be who has added this client: what it says of the journal counts
    // only where the service has said the same to whoever was added.
    let agrees = (pointer.segment, pointer.place) == (record.segment, record.place);
    let told = pointer.chain != ChainHead([0; 32]);
    if !agrees || (told && pointer.chain != record.chain) {
        return Err(PeerError::Pointer.into());
    }
    // A commit that rotates is the last entry of the segment before.
    let is_same = record.place.rotation_epoch == rotation;
    if !is_same && step != 0 {
        return Err(Error::Protocol("a join record is of another place"));
    }
    let chain = match is_same {
        true => Some(record.chain).filter(|_| told),
        false => Some(crypto::journal::first_head(&record.segment)),
    };
    Ok(Segment {
        id: record.segment,
        rotation,
        step: Step(step),
        state_key: StateKey::from(&record.state_key),
        journal_key: JournalKey::from(&record.journal.journal_key),
        tag_key: TagKey::from(&record.journal.tag_key),
        tag_day: record.journal.tag_day,
        day: record.journal.tag_day,
        wrapper_key: IdentityLinkWrapperKey::from(&invitation.info.wrapper_key),
        next: match is_same {
            true => record.place.position.next(),
            false => Position(0),
        },
        chain,
        joined: None,
    })
}

/// Whether a Welcome may put something in the place of a group that this client was in: nothing
/// older, nothing of another kind, and where it has not been removed, on the word of a member only.
/// Says whether it is that.
pub(crate) fn check_return(
    former: Option<&Group>,
    known: Option<&Known>,
    profile: &Profile,
    invitation: &Invitation,
) -> Result<bool, Error> {
    let refused = |why| Err(PeerError::Unauthenticated(why).into());
    if former.is_some_and(|group| group.kind != GroupKind::Group) {
        return refused("an invitation names a group of another kind");
    }
    let Some(known) = known else {
        return Ok(false);
    };
    if invitation.epoch <= known.epoch {
        return refused("an invitation is older than what is known of the group");
    }
    let by = invitation.info.attribution.signature_public_key.as_slice();
    let by_member = known.has_person(by) || by == profile.identity.public();
    let stopped = former.is_some_and(|it| matches!(it.status, Status::Lost | Status::Refused));
    if stopped && !by_member {
        return refused("an invitation is not of a member");
    }
    Ok(by_member)
}

/// Opens every member's identity link. Who added us must be whom the invitation is attributed to.
pub(crate) fn store_identities(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    staged: &StagedWelcome,
    record: &JoinRecordContent,
    invitation: &Invitation,
) -> Result<(), Error> {
    let adder = staged.welcome_sender_index();
    let own = staged.own_leaf_index();
    let mut people = Vec::new();
    let in_force = (group.segment.rotation, &group.segment.wrapper_key);
    let wrappers = Wrappers::walk(&group.id, in_force, &record.wrapper_chain);
    wrappers.keep(db, &group.id)?;
    for member in staged.members() {
        let mut identity = identities::found(
            db,
            group,
            &wrappers,
            &record.leaves,
            &LinkKeys::new(),
            &member,
        )?;
        if member.index == own {
            let user_pseudonym = leaf::pseudonymous(&member.credential, &member.signature_key)
                .ok_or(LocalError::Damaged)?
                .user_pseudonym;
            identity = Identity {
                user_pseudonym: user_pseudonym.as_slice().to_vec(),
                real: Some(profile.credential()?),
            };
        }
        if member.index == adder {
            let attributed = invitation.info.attribution.signature_public_key.as_slice();
            identity
                .real
                .as_ref()
                .filter(|real| real.signature_public_key.as_slice() == attributed)
                .ok_or(PeerError::Attribution)?;
        }
        identities::store(db, &group.id, &member.credential, &identity)?;
        let at = if member.index == own { 0 } else { people.len() };
        people.insert(at, (member.credential, identity));
    }
    people::take_impostors_for_nobody(db, &group.id, people)
}
