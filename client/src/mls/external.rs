//! External commits (RFC 9420 §12.4.3.2), and the groups that they make.

use crypto::schedule::StateKey;
use openmls::prelude::{MlsGroup, OpenMlsProvider as _};
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::group::{
    CommitAad, ExternalJoinRequest, GroupKey, GroupKind, JoinAccepted, NextSegment,
};
use protocol::ids::{Day, GroupId, RotationEpoch};
use protocol::join::{ExternalCommitInfoResponse, JoinPermit, LeafAuthorization};
use protocol::operation::Operation;
use rusqlite::Connection;
use tls_codec::Serialize as _;
use zeroize::Zeroizing;

use crate::envelope::Envelope;
use crate::error::{Error, LocalError, PeerError, UsageError, mls};
use crate::mls::authenticate::{Authenticated, Sight};
use crate::mls::beginning::{Beginning, check_place};
use crate::mls::new_leaf::NewLeaf;
use crate::mls::parts::{GoodCodes, code_rows, extras, own_identity, partial};
use crate::mls::settings::join_config;
use crate::mls::{contact, people, returned};
use crate::outcomes::StopReason;
use crate::store::identities::{self, LinkKeys};
use crate::store::messages;
use crate::store::outbox;
use crate::store::provider::Provider;
use crate::store::push;
use crate::store::shown::forget_shown;
use crate::store::wrappers::{Wrappers, seal_former};
use crate::store::{
    Event, Group, Pending, Profile, Segment, Status, discard_mls, events, evidence, groups, heard,
    known, load_mls, refused_returns, restored,
};

/// A group to come into.
pub(crate) struct Entrance {
    pub(crate) id: GroupId,
    pub(crate) kind: GroupKind,
    pub(crate) name: Option<String>,
    /// As it is now.
    pub(crate) segment: Segment,
    pub(crate) leaf: NewLeaf,
    pub(crate) permit: JoinPermit,
    /// The word of a leaf, where the permit is one.
    pub(crate) authorization: Option<LeafAuthorization>,
    /// What is known of it.
    pub(crate) sight: Sight,
    /// To a request for a connection.
    pub(crate) answer: Option<Answer>,
}

/// The answer to a request for a connection.
pub(crate) struct Answer {
    /// For the requester.
    pub(crate) encrypted: Vec<u8>,
    /// The contact that it makes, encoded.
    pub(crate) contact: Zeroizing<Vec<u8>>,
}

impl Entrance {
    pub(crate) fn rejoins(&self) -> bool {
        matches!(self.permit, JoinPermit::Rejoin)
    }

    pub(crate) fn key(&self) -> GroupKey {
        GroupKey {
            group_id: self.id,
            state_key: self.segment.state_key.to_wire(),
        }
    }

    pub(crate) fn wrappers(&self, info: &ExternalCommitInfoResponse) -> Wrappers {
        let in_force = (self.segment.rotation, &self.segment.wrapper_key);
        Wrappers::walk(&self.id, in_force, &info.wrapper_chain)
    }
}

pub(crate) fn again(permit: &JoinPermit) -> JoinPermit {
    match permit {
        JoinPermit::Client => JoinPermit::Client,
        JoinPermit::Rejoin => JoinPermit::Rejoin,
        JoinPermit::JoinCode(secret) => JoinPermit::JoinCode(WireSecret::new(*secret.expose())),
    }
}

/// The same place once more, for a group's row.
pub(crate) fn copy(segment: &Segment) -> Segment {
    Segment::heard_of(
        segment.id,
        segment.rotation,
        (segment.step, StateKey::new(*segment.state_key.expose())),
        crypto::keys::IdentityLinkWrapperKey::new(*segment.wrapper_key.expose()),
    )
}

/// Builds the commit and keeps its request and the group that will be, in the caller's transaction.
pub(crate) fn build(
    db: &Connection,
    profile: &Profile,
    entrance: &Entrance,
    (authenticated, info): (Authenticated, &ExternalCommitInfoResponse),
    (now_ms, tokens): (u64, Vec<Vec<u8>>),
) -> Result<(), Error> {
    let provider = Provider::new(db);
    let Entrance { id, leaf, .. } = entrance;
    // Whoever is in the place of a leaf removes that one.
    let rotates = entrance.rejoins();
    let answer = entrance.answer.as_ref();
    let aad = CommitAad {
        rotates: u8::from(rotates),
        authorization: entrance.authorization.clone(),
        encrypted_connection_response: opaque(answer.map_or(&b""[..], |answer| &answer.encrypted)),
    }
    .encode();
    leaf.store_key(db)?;
    discard_mls(db, id)?;
    let suite = authenticated.group_info.ciphersuite();
    // A leaf with the same signature key is removed by the same commit.
    let (mls_group, bundle) = MlsGroup::external_commit_builder()
        .with_ratchet_tree(authenticated.tree)
        .with_config(join_config())
        .with_aad(aad.clone())
        .skip_lifetime_validation()
        .build_group(&provider, authenticated.group_info, leaf.credential.clone())
        .map_err(|_| PeerError::Unauthenticated("its tree is not what was signed"))?
        .leaf_node_parameters(NewLeaf::parameters(profile, suite))
        .load_psks(provider.storage())
        .map_err(mls)?
        .create_group_info(true)
        .build(provider.rand(), provider.crypto(), &leaf.signer, |_| true)
        .map_err(mls)?
        .finalize(&provider)
        .map_err(mls)?;
    let recovery = restored::next_recovery_seed(db, id)?;
    let group = Group {
        id: *id,
        kind: entrance.kind,
        name: entrance.name.clone(),
        segment: copy(&entrance.segment),
        recovery: crypto::secret::Secret::new(*recovery.expose()),
        recovery_set: true,
        update_due: false,
        status: Status::Joining,
    };
    let by_code = matches!(entrance.permit, JoinPermit::JoinCode(_));
    // Members would remove this user at once, and say why to all but this one.
    if by_code && people::is_banned(db, &mls_group, &group, &profile.identity.public())? {
        return Err(UsageError::BannedYourself(group.display_name()).into());
    }
    let attempts = Group::rejoin_attempts(db, id)?;
    let stopped = evidence::stopped(db, id)?;
    let epoch = mls_group.epoch().as_u64();
    let codes_before = match Group::find(db, id)? {
        Some(_) => Group::codes_since(db, id)?,
        None => epoch,
    };
    let codes_since = entrance.sight.codes_since(epoch, codes_before);
    let former_recovery = former_recovery(db, id)?;
    let kept = identities::link_keys(db, id)?;
    outbox::fail_all(db, id)?;
    groups::replace_row(db, &group)?;
    if let Some(seed) = former_recovery.filter(|_| entrance.rejoins()) {
        // Until it is accepted the way back is the one before.
        groups::keep_recovery(db, id, &seed)?;
    }
    Group::set_rejoin_attempts(db, id, attempts)?;
    Group::set_codes_since(db, id, codes_since)?;
    evidence::set_stopped(db, id, stopped)?;
    Group::set_leaf_key(db, id, &leaf.signer.0.public())?;
    // The device that has brought this one here has told the keys of now, and there is nobody else:
    // an old state, or another one, does not open under them.
    let is_brought = matches!(entrance.sight, Sight::Device { .. });
    // Where there is no leaf but this client's own, that one has signed it, and nobody else knows
    // its secrets.
    let is_alone = mls_group.members().count() == 1;
    if !is_alone && (entrance.kind != GroupKind::SingleUser || !is_brought) {
        heard::wait_for_somebody(db, id, authenticated.signer.as_deref())?;
    }
    let wrappers = entrance.wrappers(info);
    wrappers.keep(db, id)?;
    store_identities(
        db,
        profile,
        &mls_group,
        &group,
        leaf,
        &WhatIsKnown {
            info,
            wrappers: &wrappers,
            kept: &kept,
        },
        by_code,
    )?;
    let (wrapper, rotation) = match rotates {
        false => (None, None),
        true => {
            let beginning = Beginning::of_group(&provider, &mls_group)?;
            let of = entrance.segment.rotation;
            let former = seal_former(
                id,
                of,
                &entrance.segment.wrapper_key,
                &beginning.wrapper_key,
            )?;
            let wire = beginning.to_wire(Some(former), Vec::new());
            let epoch = RotationEpoch(mls_group.epoch().as_u64());
            let next = beginning.into_segment(id, epoch, Day::of(now_ms));
            let good = GoodCodes::of(entrance.kind, codes_since, now_ms);
            let rotation = NextSegment {
                code_rows: code_rows(&mls_group, &next, id, &info.codes, &good)?,
                ..wire
            };
            (Some(next.wrapper_key), Some(rotation))
        }
    };
    let wrapper = wrapper.as_ref().unwrap_or(&entrance.segment.wrapper_key);
    let body = ExternalJoinRequest {
        group: entrance.key(),
        commit: opaque(bundle.commit().tls_serialize_detached().map_err(mls)?),
        group_info: partial(bundle.group_info().ok_or(LocalError::Damaged)?)?,
        rotation,
        leaf: extras(
            suite,
            id,
            leaf,
            wrapper,
            &recovery,
            push::handle_for(db, id, now_ms)?,
        )?,
        permit: again(&entrance.permit),
    };
    let signer = leaf.signer.key()?;
    let mut envelope = Envelope::by_key(Operation::ExternalJoin, signer, body.encode(), now_ms)?;
    envelope.tokens = tokens;
    Pending {
        envelope,
        aad,
        contact: answer.map(|answer| answer.contact.clone()),
        recovery: Some(recovery),
    }
    .write(db, id)
}

pub(crate) fn former_recovery(db: &Connection, id: &GroupId) -> Result<Option<Vec<u8>>, Error> {
    let group = Group::find(db, id)?;
    Ok(group.map(|group| group.recovery.expose().to_vec()))
}

/// By what a newcomer knows who is who.
pub(crate) struct WhatIsKnown<'a> {
    /// What the service shows.
    pub(crate) info: &'a ExternalCommitInfoResponse,
    pub(crate) wrappers: &'a Wrappers,
    /// From before.
    pub(crate) kept: &'a LinkKeys,
}

/// Keeps who is who.
pub(crate) fn store_identities(
    db: &Connection,
    profile: &Profile,
    mls_group: &MlsGroup,
    group: &Group,
    leaf: &NewLeaf,
    known: &WhatIsKnown<'_>,
    by_code: bool,
) -> Result<(), Error> {
    let own = own_identity(profile, leaf)?;
    let mut people = Vec::new();
    for member in mls_group.members() {
        if member.index == mls_group.own_leaf_index() {
            identities::store(db, &group.id, &member.credential, &own)?;
            people.insert(0, (member.credential, own.clone()));
            continue;
        }
        let identity = identities::found(
            db,
            group,
            known.wrappers,
            &known.info.leaves,
            known.kept,
            &member,
        )?;
        people.push((member.credential, identity));
    }
    // Members let nobody come in a second time, as somebody new.
    if by_code
        && people
            .iter()
            .filter(|(_, it)| it.is_same_user(&own))
            .count()
            > 1
    {
        let name = profile.handle.clone().unwrap_or_default();
        return Err(UsageError::AlreadyAMember(name).into());
    }
    people::take_impostors_for_nobody(db, &group.id, people)
}

pub(crate) fn kept(db: &Connection, id: &GroupId) -> Result<(Pending, ExternalJoinRequest), Error> {
    let pending = Pending::read(db, id)?.ok_or(LocalError::Damaged)?;
    let body =
        ExternalJoinRequest::decode(&pending.envelope.body).map_err(|_| LocalError::Damaged)?;
    Ok((pending, body))
}

/// The segment that a join begins, if it rotates.
pub(crate) fn begun(
    db: &Connection,
    id: &GroupId,
    body: &ExternalJoinRequest,
    day: Day,
) -> Result<Option<Segment>, Error> {
    if body.rotation.is_none() {
        return Ok(None);
    }
    let mls_group = load_mls(db, id)?;
    let beginning = Beginning::of_group(&Provider::new(db), &mls_group)?;
    let epoch = RotationEpoch(mls_group.epoch().as_u64());
    Ok(Some(beginning.into_segment(id, epoch, day)))
}

/// The service has accepted it, in the caller's transaction. If it makes a contact, and somebody
/// else has become one under that handle since, it is given up, and the inner error says so.
pub(crate) fn complete(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    accepted: &JoinAccepted,
) -> Result<Result<(), UsageError>, Error> {
    let (_, body) = kept(db, id)?;
    let JoinAccepted { accepted, journal } = accepted;
    let place = accepted.place;
    check_place(place.rotation_epoch, place.position)?;
    let segment = match begun(db, id, &body, journal.tag_day)? {
        Some(segment) => segment,
        None => Segment {
            next: place.position.next(),
            joined: Some(place.position),
            ..Group::read(db, id)?.segment.next_step().with_keys(journal)
        },
    };
    is_in(db, profile, id, &segment)
}

/// As [`complete`], when it is known where in the journal this client is.
pub(crate) fn is_in(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    segment: &Segment,
) -> Result<Result<(), UsageError>, Error> {
    let (pending, body) = kept(db, id)?;
    let mls_group = load_mls(db, id)?;
    if let Some(contact) = &pending.contact
        && let Err(taken) = contact::joined(db, id, contact)?
    {
        return Ok(Err(taken));
    }
    let group = Group::read(db, id)?;
    segment.write(db, id)?;
    if body.rotation.is_some() {
        groups::set_rows_due(db, id, true)?;
    }
    let rejoined = matches!(body.permit, JoinPermit::Rejoin);
    let seed = pending.recovery.as_ref().ok_or(LocalError::Damaged)?;
    // The old signature key stands in the new leaf, since that is how the library replaces a leaf.
    groups::set_recovery(db, id, seed.expose())?;
    groups::set_update_due(db, id, rejoined)?;
    Pending::delete(db, id)?;
    Group::set_status(db, id, Status::Active)?;
    if let JoinPermit::JoinCode(_) = body.permit
        && group.kind == GroupKind::Group
    {
        events::say_if_not_post_quantum(db, group.display_name(), mls_group.ciphersuite())?;
    }
    let before = known::of(db, id)?;
    known::remember(db, id, &mls_group)?;
    evidence::set_stopped(db, id, None)?;
    forget_shown(db, id)?;
    if let (Some(group), Some(before)) = (group.name, before)
        && rejoined
    {
        let difference = returned::difference(db, profile, id, &before, &mls_group)?;
        let event = Event::Rejoined {
            group,
            absent: difference.absent,
            changed: difference.changed,
            rules_changed: difference.rules_changed,
        };
        events::store(db, &event)?;
    }
    Ok(Ok(()))
}

/// This client is in, as the service says, and has gone past what it could read: it comes back by
/// its new leaf, in the caller's transaction.
pub(crate) fn is_in_and_behind(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    segment: &Segment,
) -> Result<Result<(), UsageError>, Error> {
    let done = is_in(db, profile, id, segment)?;
    if done.is_ok() {
        discard_mls(db, id)?;
        Group::set_status(db, id, Status::Lost)?;
        evidence::set_stopped(db, id, Some(StopReason::State))?;
    }
    Ok(done)
}

/// The service has refused it, in the caller's transaction: what was before is so again, but
/// that it may not be true.
pub(crate) fn refused(db: &Connection, id: &GroupId) -> Result<(), Error> {
    let (pending, body) = kept(db, id)?;
    if !matches!(body.permit, JoinPermit::Rejoin) {
        if !messages::has_any(db, id)? {
            return Group::delete(db, id);
        }
        // What was said there before stays: of a group that this client is not in.
        Pending::delete(db, id)?;
        discard_mls(db, id)?;
        return Group::set_status(db, id, Status::Removed);
    }
    // As far as the group that would be is there.
    if let (Some(recovery), Ok(mls_group)) = (&pending.recovery, load_mls(db, id))
        && let Some(segment) = begun(db, id, &body, Day(0))?
    {
        let leaf = mls_group.own_leaf_index().u32();
        refused_returns::keep(db, id, recovery, leaf, &segment)?;
    }
    Pending::delete(db, id)?;
    discard_mls(db, id)?;
    Group::set_status(db, id, Status::Lost)
}
