//! Coming in by an external commit (RFC 9420 §12.4.3.2): with a join code, as a further client of a user,
//! or again after a loss of state. Connections have their own way in.

use crypto::keys::{IdentityLinkWrapperKey, RecoverySecret, StateKey};
use openmls::prelude::{MlsGroup, OpenMlsProvider as _};
use protocol::codec::{WireSecret, opaque};
use protocol::groups::{
    CommitAad, EpochAccepted, ExternalCommitInfoRequest, ExternalCommitInfoResponse,
    ExternalJoinRequest, GroupKind, JoinPermit,
};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::{Operation, Wire as _};
use rusqlite::Connection;
use tls_codec::Serialize as _;

use crate::Client;
use crate::error::{Error, LocalError, PeerError, UsageError, mls};
use crate::events::{self, Event};
use crate::groups::authenticate::{self, Authenticated, Sight, authenticate};
use crate::groups::commit::{CommitOutcome, ROUNDS, partial, pause};
use crate::groups::create::own_identity;
use crate::groups::{
    Group, STATE_KEY_LABEL, Status, discard_mls, evidence, further, identities, join_config, known,
    load_mls, people, restored, returned,
};
use crate::leaf::NewLeaf;
use crate::profile::Profile;
use crate::provider::Provider;
use crate::request::{Envelope, Pending};

/// A group to come into.
pub(crate) struct Entrance {
    pub(crate) id: GroupId,
    pub(crate) kind: GroupKind,
    pub(crate) name: Option<String>,
    pub(crate) state_key: StateKey,
    pub(crate) wrapper_key: IdentityLinkWrapperKey,
    /// That of the leaf to be replaced; a new one is made for the new leaf.
    pub(crate) recovery_secret: RecoverySecret,
    pub(crate) leaf: NewLeaf,
    pub(crate) permit: JoinPermit,
    /// What is known of it.
    pub(crate) sight: Sight,
}

impl Entrance {
    fn rejoins(&self) -> bool {
        matches!(self.permit, JoinPermit::Rejoin(_))
    }
}

fn again(permit: &JoinPermit) -> JoinPermit {
    match permit {
        JoinPermit::Connection => JoinPermit::Connection,
        JoinPermit::Client(authorization) => JoinPermit::Client(authorization.clone()),
        JoinPermit::Rejoin(authorization) => JoinPermit::Rejoin(authorization.clone()),
        JoinPermit::JoinCode(secret) => JoinPermit::JoinCode(WireSecret::new(*secret.expose())),
    }
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
    let rotates = entrance.rejoins() || !authenticated.self_removes.is_empty();
    let aad = CommitAad {
        encrypted_identity_link_keys: vec![opaque(leaf.wrapped_link_key(&entrance.wrapper_key)?)],
        rotates_state_key: u8::from(rotates),
        encrypted_connection_response: opaque(*b""),
        leaf_authorization: entrance.permit.authorization().cloned(),
    }
    .encode();
    leaf.store_key(db)?;
    if entrance.rejoins() {
        // What came before is of epochs that this client is not in, or made up for later ones.
        db.execute("UPDATE inbox SET payload = NULL WHERE group_id = ?", [id.0])?;
    }
    discard_mls(db, id)?;
    // A leaf with the same signature key is removed by the same commit.
    let (mls_group, bundle) = MlsGroup::external_commit_builder()
        .with_ratchet_tree(authenticated.tree)
        .with_proposals(authenticated.self_removes)
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
    let group = Group {
        id: *id,
        kind: entrance.kind,
        name: entrance.name.clone(),
        state_key: StateKey::from(&entrance.state_key.to_wire()),
        wrapper_key: IdentityLinkWrapperKey::from(&entrance.wrapper_key.to_wire()),
        recovery_secret: RecoverySecret::from(&entrance.recovery_secret.to_wire()),
        recovery_set: true,
        update_due: false,
        status: Status::Joining,
    };
    // Members would remove this user at once, and say why to all but this one.
    if matches!(entrance.permit, JoinPermit::JoinCode(_))
        && people::is_banned(&mls_group, &group, &profile.identity.public())?
    {
        return Err(UsageError::BannedYourself(group.display_name()).into());
    }
    let attempts = Group::rejoin_attempts(db, id)?;
    let stopped = evidence::stopped(db, id)?;
    db.execute("DELETE FROM groups WHERE group_id = ?", [id.0])?;
    group.insert(db)?;
    Group::set_rejoin_attempts(db, id, attempts)?;
    evidence::set_stopped(db, id, stopped)?;
    Group::set_leaf_key(db, id, &leaf.signer.0.public())?;
    let by_code = matches!(entrance.permit, JoinPermit::JoinCode(_));
    store_identities(db, profile, &mls_group, &group, leaf, (info, by_code))?;
    let body = ExternalJoinRequest {
        group_id: *id,
        state_key: group.state_key.to_wire(),
        next_state_key: rotates
            .then(|| state_key(&provider, &mls_group).map(|key| key.to_wire()))
            .transpose()?,
        commit: opaque(bundle.commit().tls_serialize_detached().map_err(mls)?),
        group_info: partial(bundle.group_info().ok_or(LocalError::Damaged)?)?,
        recovery_secret: restored::next_recovery_secret(db, id)?.to_wire(),
        permit: again(&entrance.permit),
    };
    let signer = leaf.signer.key()?;
    let mut envelope = Envelope::by_key(Operation::ExternalJoin, signer, body.encode(), now_ms);
    envelope.tokens = tokens;
    Pending {
        envelope,
        aad,
        contact: None,
    }
    .write(db, id)
}

fn state_key(provider: &Provider<'_>, mls_group: &MlsGroup) -> Result<StateKey, Error> {
    let key = mls_group
        .export_secret(provider.crypto(), STATE_KEY_LABEL, &[], 32)
        .map(zeroize::Zeroizing::new)
        .map_err(mls)?;
    Ok(StateKey::try_from(key.as_slice())?)
}

/// Keeps who is who. Leaves under the own pseudonym must be this user's.
fn store_identities(
    db: &Connection,
    profile: &Profile,
    mls_group: &MlsGroup,
    group: &Group,
    leaf: &NewLeaf,
    (info, by_code): (&ExternalCommitInfoResponse, bool),
) -> Result<(), Error> {
    let own = own_identity(profile, leaf)?;
    let mut people = Vec::new();
    for member in mls_group.members() {
        if member.index == mls_group.own_leaf_index() {
            identities::store(db, &group.id, &member.credential, &own)?;
            people.push(own.clone());
            continue;
        }
        let wrapped = info
            .leaves
            .iter()
            .find(|known| known.leaf_index == member.index.u32())
            .map(|known| known.encrypted_identity_link_key.as_slice());
        let identity = identities::open_or_unverified(
            &member.credential,
            &member.signature_key,
            &group.wrapper_key,
            wrapped,
        );
        if identity.user_pseudonym == own.user_pseudonym && !identity.is_same_user(&own) {
            return Err(PeerError::IdentityLink.into());
        }
        identities::store(db, &group.id, &member.credential, &identity)?;
        people.push(identity);
    }
    // Members let nobody come in a second time, as somebody new.
    if by_code && people.iter().filter(|it| it.is_same_user(&own)).count() > 1 {
        let name = profile.handle.clone().unwrap_or_default();
        return Err(UsageError::AlreadyAMember(name).into());
    }
    Ok(further::check_distinct(&people)?)
}

fn kept(db: &Connection, id: &GroupId) -> Result<ExternalJoinRequest, Error> {
    let pending = Pending::read(db, id)?.ok_or(LocalError::Damaged)?;
    ExternalJoinRequest::decode(&pending.envelope.body).map_err(|_| LocalError::Damaged.into())
}

/// The service has accepted it, in the caller's transaction.
fn complete(db: &Connection, profile: &Profile, id: &GroupId) -> Result<(), Error> {
    let body = kept(db, id)?;
    if let Some(key) = &body.next_state_key {
        Group::set_state_key(db, id, &StateKey::from(key))?;
    }
    let rejoined = matches!(body.permit, JoinPermit::Rejoin(_));
    // The old signature key stands in the new leaf, since that is how the library replaces a leaf.
    db.execute(
        "UPDATE groups SET recovery_secret = ?, recovery_set = 1, update_due = ?
         WHERE group_id = ?",
        (body.recovery_secret.expose(), rejoined, id.0),
    )?;
    Pending::delete(db, id)?;
    Group::set_status(db, id, Status::Active)?;
    let mls_group = load_mls(db, id)?;
    let before = known::of(db, id)?;
    known::remember(db, id, &mls_group)?;
    evidence::set_stopped(db, id, None)?;
    db.execute("DELETE FROM shown_members WHERE group_id = ?", [id.0])?;
    match (Group::read(db, id)?.name, before) {
        (Some(group), Some(before)) if rejoined => {
            let difference = returned::difference(db, profile, id, &before, &mls_group)?;
            let event = Event::Rejoined {
                group,
                absent: difference.absent,
                changed: difference.changed,
                rules_changed: difference.rules_changed,
            };
            events::store(db, &event)
        }
        _ => Ok(()),
    }
}

/// The service has refused it, in the caller's transaction: what was before is so again.
fn refused(db: &Connection, id: &GroupId) -> Result<(), Error> {
    if !matches!(kept(db, id)?.permit, JoinPermit::Rejoin(_)) {
        return Group::delete(db, id);
    }
    Pending::delete(db, id)?;
    discard_mls(db, id)?;
    Group::set_status(db, id, Status::Lost)
}

impl Client {
    /// Comes in: as often as others are faster.
    pub(crate) async fn enter(&mut self, entrance: &Entrance) -> Result<(), Error> {
        let id = &entrance.id;
        for round in 0..ROUNDS {
            let request = ExternalCommitInfoRequest {
                group_id: *id,
                state_key: entrance.state_key.to_wire(),
                permit: again(&entrance.permit),
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

    /// Holds what the service shows against what is known. What cannot be is evidence; whom the user has not
    /// been shown is shown, and nothing is sent.
    fn authenticate(
        &mut self,
        entrance: &Entrance,
        info: &ExternalCommitInfoResponse,
    ) -> Result<Authenticated, Error> {
        let Entrance { id, kind, .. } = entrance;
        let wrapper = &entrance.wrapper_key;
        let group = (id, *kind);
        let now_ms = self.transport.time.now_unix_ms();
        match authenticate(
            &self.db,
            &self.profile,
            group,
            wrapper,
            info,
            &entrance.sight,
        ) {
            Ok(shown) if shown.newcomers.is_empty() => Ok(shown),
            Ok(shown) => {
                self.transact(|db, _| authenticate::show(db, id, &shown.newcomers))?;
                Err(UsageError::NewMembers {
                    group: entrance.name.clone().unwrap_or_default(),
                    names: shown.newcomers.into_iter().map(|it| it.name).collect(),
                }
                .into())
            }
            Err(Error::Peer(fault)) => {
                let content = (None, info.group_info.as_slice());
                self.transact(|db, _| evidence::keep(db, id, &fault, content, now_ms))?;
                Err(fault.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a kept external commit and brings it to an end.
    pub(crate) async fn submit_entry(&mut self, id: &GroupId) -> Result<CommitOutcome, Error> {
        match self.send_pending(id).await {
            Ok(answer) => {
                EpochAccepted::decode(&answer)
                    .map_err(|_| Error::Protocol("an answer is malformed"))?;
                self.transact(|db, profile| complete(db, profile, id))?;
                Ok(CommitOutcome::Accepted)
            }
            Err(error @ (Error::Unreachable(_) | Error::Local(_))) => Err(error),
            Err(error) => {
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

    /// Whether the kept external commit of a group accepts a connection.
    pub(crate) fn accepts_connection(&self, id: &GroupId) -> Result<bool, Error> {
        Ok(Pending::read(&self.db, id)?.is_some_and(|pending| pending.contact.is_some()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::groups::{LeafAuthorization, PartialGroupInfo};

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
            group_id: group.id,
            state_key: group.state_key.to_wire(),
            next_state_key: None,
            commit: opaque(*b""),
            group_info: PartialGroupInfo {
                extensions: opaque(*b""),
                signature: opaque(*b""),
            },
            recovery_secret: group.recovery_secret.to_wire(),
            permit: JoinPermit::Rejoin(LeafAuthorization {
                leaf_index: 0,
                not_after_ms: 1,
                signature: opaque(*b""),
            }),
        };
        let signer = crypto::sign::SignatureKeyPair::random().unwrap();
        Pending {
            envelope: Envelope::by_key(Operation::ExternalJoin, signer, body.encode(), 1),
            aad: Vec::new(),
            contact: None,
        }
        .write(&db, &group.id)
        .unwrap();
        complete(&db, &profile, &group.id).unwrap();
        assert_eq!(Group::rejoin_attempts(&db, &group.id).unwrap(), 2);
        assert!(matches!(
            events::stored(&db).as_slice(),
            [Event::Rejoined { .. }]
        ));
    }
}
