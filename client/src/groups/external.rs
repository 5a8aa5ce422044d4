//! Coming in by an external commit (RFC 9420 §12.4.3.2): with a join code, as a further client of a
//! user, again after a loss of state, or into the connection group of whoever asked.

use crypto::schedule::StateKey;
use openmls::prelude::{MlsGroup, OpenMlsProvider as _};
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::group::{
    CommitAad, ExternalJoinRequest, GroupKey, GroupKind, JoinAccepted, NextSegment, OwnLeafRequest,
    OwnLeafResponse,
};
use protocol::ids::{Day, GroupId, RotationEpoch};
use protocol::join::{
    ExternalCommitInfoRequest, ExternalCommitInfoResponse, JoinPermit, LeafAuthorization,
};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use rusqlite::Connection;
use tls_codec::Serialize as _;
use zeroize::Zeroizing;

use crate::connections;
use crate::engine::Engine;
use crate::error::{Error, LocalError, PeerError, UsageError, mls};
use crate::events::{self, Event};
use crate::groups::authenticate::{self, Authenticated, Sight, authenticate};
use crate::groups::commit::{CommitOutcome, GoodCodes, ROUNDS, code_rows, extras, partial, pause};
use crate::groups::create::own_identity;
use crate::groups::evidence::StopReason;
use crate::groups::identities::LinkKeys;
use crate::groups::{
    Group, Status, discard_mls, evidence, heard, identities, join_config, known, load_mls, people,
    refused as refused_returns, restored, returned,
};
use crate::journal::wrappers::{Wrappers, seal_former};
use crate::journal::{Beginning, Segment, check_place};
use crate::leaf::NewLeaf;
use crate::profile::Profile;
use crate::provider::Provider;
use crate::request::{Envelope, Pending};

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
    fn rejoins(&self) -> bool {
        matches!(self.permit, JoinPermit::Rejoin)
    }

    fn key(&self) -> GroupKey {
        GroupKey {
            group_id: self.id,
            state_key: self.segment.state_key.to_wire(),
        }
    }

    fn wrappers(&self, info: &ExternalCommitInfoResponse) -> Wrappers {
        let in_force = (self.segment.rotation, &self.segment.wrapper_key);
        Wrappers::walk(&self.id, in_force, &info.wrapper_chain)
    }
}

fn again(permit: &JoinPermit) -> JoinPermit {
    match permit {
        JoinPermit::Client => JoinPermit::Client,
        JoinPermit::Rejoin => JoinPermit::Rejoin,
        JoinPermit::JoinCode(secret) => JoinPermit::JoinCode(WireSecret::new(*secret.expose())),
    }
}

/// The same place once more, for a group's row.
fn copy(segment: &Segment) -> Segment {
    Segment::heard_of(
        segment.id,
        segment.rotation,
        (segment.step, StateKey::new(*segment.state_key.expose())),
        crypto::keys::IdentityLinkWrapperKey::new(*segment.wrapper_key.expose()),
    )
}

/// Builds the commit and keeps its request and the group that will be, in the caller's transaction.
fn build(
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
    // A leaf with the same signature key is removed by the same commit.
    let (mls_group, bundle) = MlsGroup::external_commit_builder()
        .with_ratchet_tree(authenticated.tree)
        .with_config(join_config())
        .with_aad(aad.clone())
        .skip_lifetime_validation()
        .build_group(&provider, authenticated.group_info, leaf.credential.clone())
        .map_err(|_| PeerError::Unauthenticated("its tree is not what was signed"))?
        .leaf_node_parameters(leaf.parameters())
        .load_psks(provider.storage())
        .map_err(mls)?
        .create_group_info(true)
        .build(provider.rand(), provider.crypto(), &leaf.signer, |_| true)
        .map_err(mls)?
        .finalize(&provider)
        .map_err(mls)?;
    let suite = mls_group.ciphersuite();
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
    db.execute("DELETE FROM groups WHERE group_id = ?", [id.0])?;
    group.insert(db)?;
    if let Some(seed) = former_recovery.filter(|_| entrance.rejoins()) {
        // Until it is accepted the way back is the one before.
        db.execute(
            "UPDATE groups SET recovery_seed = ? WHERE group_id = ?",
            (seed, id.0),
        )?;
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
        leaf: extras(suite, id, leaf, wrapper, &recovery)?,
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

fn former_recovery(db: &Connection, id: &GroupId) -> Result<Option<Vec<u8>>, Error> {
    let group = Group::find(db, id)?;
    Ok(group.map(|group| group.recovery.expose().to_vec()))
}

/// By what a newcomer knows who is who.
struct WhatIsKnown<'a> {
    /// What the service shows.
    info: &'a ExternalCommitInfoResponse,
    wrappers: &'a Wrappers,
    /// From before.
    kept: &'a LinkKeys,
}

/// Keeps who is who.
fn store_identities(
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

fn kept(db: &Connection, id: &GroupId) -> Result<(Pending, ExternalJoinRequest), Error> {
    let pending = Pending::read(db, id)?.ok_or(LocalError::Damaged)?;
    let body =
        ExternalJoinRequest::decode(&pending.envelope.body).map_err(|_| LocalError::Damaged)?;
    Ok((pending, body))
}

/// The segment that a join begins, if it rotates.
fn begun(
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
fn complete(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    accepted: &JoinAccepted,
) -> Result<Result<(), UsageError>, Error> {
    let (_, body) = kept(db, id)?;
    let JoinAccepted { accepted, journal } = accepted;
    let place = accepted.place;
    check_place(place.rotation_epoch, place.position)?;
    let segment = match begun(db, id, &body, Day::of(accepted.accepted_ms))? {
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
fn is_in(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    segment: &Segment,
) -> Result<Result<(), UsageError>, Error> {
    let (pending, body) = kept(db, id)?;
    let mls_group = load_mls(db, id)?;
    if let Some(contact) = &pending.contact
        && let Err(taken) = connections::joined(db, id, contact)?
    {
        return Ok(Err(taken));
    }
    let group = Group::read(db, id)?;
    segment.write(db, id)?;
    if body.rotation.is_some() {
        db.execute("UPDATE groups SET rows_due = 1 WHERE group_id = ?", [id.0])?;
    }
    let rejoined = matches!(body.permit, JoinPermit::Rejoin);
    let seed = pending.recovery.as_ref().ok_or(LocalError::Damaged)?;
    // The old signature key stands in the new leaf, since that is how the library replaces a leaf.
    db.execute(
        "UPDATE groups SET recovery_seed = ?, recovery_set = 1, update_due = ? WHERE group_id = ?",
        (seed.expose(), rejoined, id.0),
    )?;
    Pending::delete(db, id)?;
    Group::set_status(db, id, Status::Active)?;
    let before = known::of(db, id)?;
    known::remember(db, id, &mls_group)?;
    evidence::set_stopped(db, id, None)?;
    db.execute("DELETE FROM shown_members WHERE group_id = ?", [id.0])?;
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
fn is_in_and_behind(
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
fn refused(db: &Connection, id: &GroupId) -> Result<(), Error> {
    let (pending, body) = kept(db, id)?;
    if !matches!(body.permit, JoinPermit::Rejoin) {
        return Group::delete(db, id);
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

impl Engine {
    /// Comes in: as often as others are faster.
    pub(crate) async fn enter(&mut self, entrance: &Entrance) -> Result<(), Error> {
        let id = &entrance.id;
        for round in 0..ROUNDS {
            let request = ExternalCommitInfoRequest {
                group: entrance.key(),
                permit: again(&entrance.permit),
                authorization: entrance.authorization.clone(),
            };
            let info: ExternalCommitInfoResponse = self
                .call(
                    Operation::ExternalCommitInfo,
                    entrance.leaf.signer.key()?,
                    &request,
                )
                .await?;
            let authenticated = self.authenticate(entrance, &info)?;
            let prices = self.directory().await?.prices;
            let tokens = self.take_tokens(prices.of(Operation::ExternalJoin, 1))?;
            let now_ms = self.transport.time.now_unix_ms();
            self.transact(|db, profile| {
                let shown = (authenticated, &info);
                build(db, profile, entrance, shown, (now_ms, tokens))
            })?;
            if self.submit_entry(id).await? == CommitOutcome::Accepted {
                return Ok(());
            }
            pause(round).await?;
        }
        Err(UsageError::Contention.into())
    }

    /// Holds what the service shows against what is known. What cannot be is evidence; whom the
    /// user has not been shown is shown, and nothing is sent.
    fn authenticate(
        &mut self,
        entrance: &Entrance,
        info: &ExternalCommitInfoResponse,
    ) -> Result<Authenticated, Error> {
        let wrappers = entrance.wrappers(info);
        let now_ms = self.transport.time.now_unix_ms();
        match authenticate(
            &self.db,
            &self.profile,
            &entrance.id,
            entrance.kind,
            &wrappers,
            info,
            &entrance.sight,
        ) {
            Ok(shown) if shown.newcomers.is_empty() => Ok(shown),
            Ok(shown) => {
                self.transact(|db, _| authenticate::show(db, &entrance.id, &shown.newcomers))?;
                Err(UsageError::NewMembers {
                    group: entrance.name.clone().unwrap_or_default(),
                    names: shown.newcomers.into_iter().map(|it| it.name).collect(),
                }
                .into())
            }
            Err(Error::Peer(fault)) => {
                let content = (None, info.group_info.as_slice());
                self.transact(|db, _| evidence::keep(db, &entrance.id, &fault, content, now_ms))?;
                Err(fault.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a kept external commit and brings it to an end.
    pub(crate) async fn submit_entry(&mut self, id: &GroupId) -> Result<CommitOutcome, Error> {
        match self.send_pending(id).await {
            Ok(answer) => {
                let mut accepted = JoinAccepted::decode(&answer)
                    .map_err(|_| Error::Protocol("an answer is malformed"))?;
                // Nothing was accepted later than now.
                let now_ms = self.transport.time.now_unix_ms();
                accepted.accepted.accepted_ms = accepted.accepted.accepted_ms.min(now_ms);
                let journal = &mut accepted.journal;
                journal.tag_day = journal.tag_day.min(Day::of(now_ms));
                self.transact(|db, profile| complete(db, profile, id, &accepted))??;
                Ok(CommitOutcome::Accepted)
            }
            // What cannot be read may say that it was accepted.
            Err(error @ (Error::Unreachable(_) | Error::Protocol(_) | Error::Local(_))) => {
                Err(error)
            }
            Err(error) => {
                let has_gone_on = matches!(
                    error.problem(),
                    Some(ProblemType::WrongEpoch | ProblemType::UnknownGroup)
                );
                if has_gone_on && self.was_accepted(id).await? {
                    return Ok(CommitOutcome::Accepted);
                }
                self.transact(|db, _| refused(db, id))?;
                match error.problem() {
                    Some(ProblemType::WrongEpoch | ProblemType::PendingProposals) => {
                        Ok(CommitOutcome::Superseded)
                    }
                    _ => Err(error),
                }
            }
        }
    }

    /// Whether a join that the service refuses was accepted before, and the group has gone on
    /// since: the answer was lost. The own leaf says so, or the row that came with it; and then
    /// this client is in, or knows the way back.
    async fn was_accepted(&mut self, id: &GroupId) -> Result<bool, Error> {
        let (pending, body) = kept(&self.db, id)?;
        let day = Day::of(self.transport.time.now_unix_ms());
        let group = Group::read(&self.db, id)?;
        let begun = begun(&self.db, id, &body, day)?;
        let rotates = begun.is_some();
        let expected = begun.unwrap_or(group.segment);
        let suite = load_mls(&self.db, id)?.ciphersuite();
        if let Some(segment) = self.at_its_end(copy(&expected)).await?
            && self.has_own_leaf(id, &segment).await?
        {
            self.transact(|db, profile| match rotates {
                true => is_in(db, profile, id, &expected),
                // What opens the journal from there on was in the answer.
                false => is_in_and_behind(db, profile, id, &segment),
            })??;
            return Ok(true);
        }
        let seed = pending.recovery.as_ref().ok_or(LocalError::Damaged)?;
        let Some(segment) = self.recovered_segment(id, suite, seed).await? else {
            return Ok(false);
        };
        self.transact(|db, profile| is_in_and_behind(db, profile, id, &segment))??;
        Ok(true)
    }

    async fn has_own_leaf(&mut self, id: &GroupId, segment: &Segment) -> Result<bool, Error> {
        let request = OwnLeafRequest {
            group: GroupKey {
                group_id: *id,
                state_key: segment.state_key.to_wire(),
            },
        };
        let (_, signer) = self.own_sender(id)?;
        let own: Result<OwnLeafResponse, Error> =
            self.call(Operation::OwnLeaf, signer, &request).await;
        match own {
            Ok(_) => Ok(true),
            Err(Error::Refused(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::group::{CommitAccepted, JournalKeys, LeafExtras, PartialGroupInfo, RecoveryKey};
    use protocol::ids::{Epoch, Position};
    use protocol::journal::Place;

    use super::*;
    use crate::groups::tests;

    #[test]
    fn an_automatic_return_leaves_the_count_of_such_attempts_as_it_is() {
        let db = crate::database::in_memory().unwrap();
        let mut profile = crate::profile::tests::profile(&db);
        profile.handle = Some("alice".into());
        let group = tests::group(7, "team");
        group.insert(&db).unwrap();
        tests::keep_mls_group(&db, &group.id);
        known::remember(&db, &group.id, &load_mls(&db, &group.id).unwrap()).unwrap();
        Group::set_rejoin_attempts(&db, &group.id, 2).unwrap();
        let body = ExternalJoinRequest {
            group: group.key(),
            commit: opaque(*b""),
            group_info: PartialGroupInfo {
                extensions: opaque(*b""),
                signature: opaque(*b""),
            },
            rotation: None,
            leaf: LeafExtras {
                wrapped_link_key: opaque(*b""),
                recovery_key: RecoveryKey {
                    public_key: opaque(*b""),
                    signature: opaque(*b""),
                },
                push_handle: opaque(*b""),
            },
            permit: JoinPermit::Rejoin,
        };
        let signer = crypto::sign::SignatureKeyPair::random().unwrap();
        Pending {
            envelope: Envelope::by_key(Operation::ExternalJoin, signer, body.encode(), 1).unwrap(),
            aad: Vec::new(),
            contact: None,
            recovery: Some(crypto::secret::Secret::new([8; 32])),
        }
        .write(&db, &group.id)
        .unwrap();
        let accepted = JoinAccepted {
            accepted: CommitAccepted {
                epoch: Epoch(1),
                place: Place {
                    rotation_epoch: RotationEpoch(0),
                    position: Position(4),
                },
                accepted_ms: 1,
            },
            journal: JournalKeys {
                rotation_epoch: RotationEpoch(0),
                journal_key: WireSecret::new([5; 32]),
                tag_key: WireSecret::new([6; 32]),
                tag_day: Day(3),
            },
        };
        complete(&db, &profile, &group.id, &accepted)
            .unwrap()
            .unwrap();
        let segment = Group::read(&db, &group.id).unwrap().segment;
        assert_eq!((segment.next, segment.tag_day), (Position(5), Day(3)));
        assert_eq!(Group::rejoin_attempts(&db, &group.id).unwrap(), 2);
        assert!(matches!(
            events::stored(&db).as_slice(),
            [Event::Rejoined { .. }]
        ));
    }
}
