//! Accepting a connection request: an external commit into the requester's connection group.

use crypto::connection::seal_connection_response;
use crypto::keys::{
    ConnectionKey, ConnectionToken, IdentityLinkWrapperKey, RecoverySecret, StateKey,
};
use crypto::sign::SignatureKeyPair;
use openmls::prelude::{MlsGroup, OpenMlsProvider as _};
use protocol::codec::opaque;
use protocol::connections::{ConnectionRequest, ConnectionResponse};
use protocol::groups::{
    CommitAad, EpochAccepted, ExternalCommitInfoRequest, ExternalCommitInfoResponse,
    ExternalJoinRequest, GroupKind, JoinPermit,
};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::reporting::Occasion;
use protocol::{Operation, Wire as _};
use rusqlite::Connection;
use tls_codec::Serialize as _;
use zeroize::Zeroizing;

use super::is_derived;
use crate::Client;
use crate::contacts::{self, NewContact, handle_of};
use crate::error::{Error, LocalError, PeerError, UsageError, mls};
use crate::groups::authenticate::{Sight, authenticate};
use crate::groups::commit::{CommitOutcome, ROUNDS, partial};
use crate::groups::create::own_identity;
use crate::groups::identities;
use crate::groups::{Group, Status, join_config, known, load_mls};
use crate::leaf::NewLeaf;
use crate::profile::Profile;
use crate::provider::Provider;
use crate::reporting;
use crate::request::{Envelope, Pending};

/// Builds the external commit that accepts a request, in the caller's transaction.
fn build_join(
    db: &Connection,
    profile: &Profile,
    request: &ConnectionRequest,
    info: &ExternalCommitInfoResponse,
    leaf: &NewLeaf,
    now_ms: u64,
) -> Result<Pending, Error> {
    let provider = Provider::new(db);
    let id = request.connection_room_id;
    let wrapper_key =
        IdentityLinkWrapperKey::from(&request.connection_room_identity_link_wrapper_key);
    let requester = request
        .requester_client_credential
        .signature_public_key
        .as_slice();
    let sight = Sight::Asked {
        requester: requester.to_vec(),
    };
    let group = (&id, GroupKind::Connection);
    let authenticated = authenticate(db, profile, group, &wrapper_key, info, &sight)?;
    let response = ConnectionResponse {
        responder_connection_key: profile.connection_key.to_wire(),
        version: 1,
        connection_token: profile.connection_token.to_wire(),
    };
    let aad = CommitAad {
        encrypted_identity_link_keys: vec![opaque(leaf.wrapped_link_key(&wrapper_key)?)],
        rotates_state_key: 0,
        encrypted_connection_response: opaque(
            seal_connection_response(&response, request.connection_response_key.as_slice(), &id)
                .map_err(|_| PeerError::ConnectionGroup)?,
        ),
        leaf_authorization: None,
    }
    .encode();
    leaf.store_key(db)?;
    let (mls_group, bundle) = MlsGroup::external_commit_builder()
        .with_ratchet_tree(authenticated.tree)
        .with_config(join_config())
        .with_aad(aad.clone())
        .skip_lifetime_validation()
        .build_group(&provider, authenticated.group_info, leaf.credential.clone())
        .map_err(|_| PeerError::ConnectionGroup)?
        .leaf_node_parameters(leaf.parameters())
        .load_psks(provider.storage())
        .map_err(mls)?
        .create_group_info(true)
        .build(provider.rand(), provider.crypto(), &leaf.signer, |_| true)
        .map_err(mls)?
        .finalize(&provider)
        .map_err(mls)?;
    let group = Group {
        id,
        kind: GroupKind::Connection,
        name: None,
        state_key: StateKey::from(&request.extensions.state_key),
        wrapper_key,
        recovery_secret: RecoverySecret::random()?,
        recovery_set: true,
        update_due: false,
        status: Status::Joining,
    };
    group.insert(db)?;
    Group::set_leaf_key(db, &id, &leaf.signer.0.public())?;
    check_requester(db, &mls_group, &group, request, info)?;
    identities::store(
        db,
        &id,
        &leaf.credential.credential,
        &own_identity(profile, leaf)?,
    )?;
    let body = ExternalJoinRequest {
        group_id: id,
        state_key: group.state_key.to_wire(),
        next_state_key: None,
        commit: opaque(bundle.commit().tls_serialize_detached().map_err(mls)?),
        group_info: partial(bundle.group_info().ok_or(LocalError::Damaged)?)?,
        recovery_secret: group.recovery_secret.to_wire(),
        permit: JoinPermit::Connection,
    };
    let contact = NewContact {
        credential: request.requester_client_credential.clone(),
        connection_key: ConnectionKey::from(&request.requester_connection_key).to_wire(),
        // Finds nothing: the requester's own is told in the group, once they know who has accepted.
        connection_token: ConnectionToken::random()?.to_wire(),
    };
    let signer = SignatureKeyPair::from_seed(&leaf.signer.0.seed());
    Ok(Pending {
        envelope: Envelope::by_key(Operation::ExternalJoin, signer, body.encode(), now_ms),
        aad,
        contact: Some(Zeroizing::new(contact.encode())),
    })
}

/// The connection group must hold the requester and nobody else.
fn check_requester(
    db: &Connection,
    mls_group: &MlsGroup,
    group: &Group,
    request: &ConnectionRequest,
    info: &ExternalCommitInfoResponse,
) -> Result<(), Error> {
    let own = mls_group.own_leaf_index();
    let mut others = mls_group.members().filter(|member| member.index != own);
    let (Some(requester), None) = (others.next(), others.next()) else {
        return Err(PeerError::ConnectionGroup.into());
    };
    let wrapped = info
        .leaves
        .iter()
        .find(|leaf| leaf.leaf_index == requester.index.u32())
        .ok_or(PeerError::ConnectionGroup)?;
    let identity = identities::open(
        &requester.credential,
        &requester.signature_key,
        &group.wrapper_key,
        wrapped.encrypted_identity_link_key.as_slice(),
    )?;
    let credential = &request.requester_client_credential;
    if identity.real.as_ref() != Some(credential) {
        return Err(PeerError::IdentityLink.into());
    }
    let leaf = mls_group
        .public_group()
        .leaf(requester.index)
        .ok_or(PeerError::ConnectionGroup)?;
    is_derived(
        leaf,
        &ConnectionKey::from(&request.requester_connection_key),
        credential,
    )?;
    identities::store(db, &group.id, &requester.credential, &identity)
}

/// The service has accepted a join: keeps the contact, in the caller's transaction. If somebody else has
/// become a contact under that handle since, the join is given up, and the inner error says so.
fn complete_join(db: &Connection, id: &GroupId) -> Result<Result<(), UsageError>, Error> {
    let pending = Pending::read(db, id)?.ok_or(LocalError::Damaged)?;
    let contact = pending.contact.ok_or(LocalError::Damaged)?;
    let contact = NewContact::decode(&contact).map_err(|_| LocalError::Damaged)?;
    match contact.store(db) {
        Err(Error::Usage(taken @ UsageError::AlreadyConnected(_))) => {
            Pending::delete(db, id)?;
            Group::delete(db, id)?;
            return Ok(Err(taken));
        }
        stored => stored?,
    };
    super::forget_request(db, contact.credential.signature_public_key.as_slice())?;
    Pending::delete(db, id)?;
    Group::set_status(db, id, Status::Active)?;
    known::remember(db, id, &load_mls(db, id)?)?;
    Ok(Ok(()))
}

impl Client {
    /// Accepts a request and returns the new contact's name.
    ///
    /// # Errors
    /// [`UsageError::UnknownRequest`], [`UsageError::RequestExpired`], [`UsageError::AlreadyConnected`]; [`PeerError`] when the group is
    /// not the requester's.
    pub async fn accept_request(&mut self, id: &str) -> Result<String, Error> {
        let _held = self.hold().await?;
        let accepted = self.join_requester(id).await;
        if let Err(Error::Usage(UsageError::RequestExpired)) = &accepted {
            // Cancelled, or too old: it leads nowhere any more.
            self.decline_request(id)?;
        }
        accepted
    }

    async fn join_requester(&mut self, id: &str) -> Result<String, Error> {
        self.profile.credential()?;
        self.sync(0).await?;
        let request = self.incoming(id)?;
        let credential = &request.requester_client_credential;
        let name = handle_of(credential).ok_or(PeerError::ConnectionGroup)?;
        if let Ok(known) = contacts::by_name(&self.db, &name)
            && known.signature_key != credential.signature_public_key.as_slice()
        {
            return Err(UsageError::AlreadyConnected(name).into());
        }
        let group = request.connection_room_id;
        match Group::find(&self.db, &group)?.map(|group| group.status) {
            None => {}
            Some(Status::Active) => {
                self.decline_request(id)?;
                return Ok(name);
            }
            Some(_) => Group::delete(&self.db, &group)?,
        }
        let directory = self.directory().await?;
        let introduction = reporting::introduction(
            &self.db,
            &self.profile,
            Occasion::Answer,
            credential.signature_public_key.as_slice(),
            self.today(),
            "",
        )?;
        let leaf = NewLeaf::introducing(&self.profile, &directory, introduction)?;
        for _ in 0..ROUNDS {
            let information = ExternalCommitInfoRequest {
                group_id: group,
                state_key: StateKey::from(&request.extensions.state_key).to_wire(),
                permit: JoinPermit::Connection,
            };
            let signer = SignatureKeyPair::from_seed(&leaf.signer.0.seed());
            let info: ExternalCommitInfoResponse = self
                .call(Operation::ExternalCommitInfo, signer, &information)
                .await
                .map_err(expired)?;
            let tokens = self.take_tokens(directory.prices.of(Operation::ExternalJoin, 1))?;
            let now_ms = self.transport.time.now_unix_ms();
            self.transact(|db, profile| {
                let mut pending = build_join(db, profile, &request, &info, &leaf, now_ms)?;
                pending.envelope.tokens = tokens;
                pending.write(db, &group)
            })?;
            if self.submit_join(&group).await? == CommitOutcome::Accepted {
                return Ok(name);
            }
        }
        Err(UsageError::Contention.into())
    }

    /// Sends a kept join; forgets the group if it is refused.
    pub(crate) async fn submit_join(&mut self, id: &GroupId) -> Result<CommitOutcome, Error> {
        match self.send_pending(id).await {
            Ok(answer) => {
                EpochAccepted::decode(&answer)
                    .map_err(|_| Error::Protocol("an answer is malformed"))?;
                self.transact(|db, _| complete_join(db, id))??;
                Ok(CommitOutcome::Accepted)
            }
            Err(error @ (Error::Unreachable(_) | Error::Local(_))) => Err(error),
            Err(error) => {
                self.transact(|db, _| Group::delete(db, id))?;
                match error.problem() {
                    Some(ProblemType::WrongEpoch) => Ok(CommitOutcome::Superseded),
                    _ => Err(expired(error)),
                }
            }
        }
    }
}

fn expired(error: Error) -> Error {
    match error.problem() {
        Some(ProblemType::UnknownGroup) => UsageError::RequestExpired.into(),
        _ => error,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::codec::WireSecret;
    use protocol::connections::ClientCredential;

    use super::*;
    use crate::groups::tests;

    fn contact(key: u8) -> NewContact {
        NewContact {
            credential: ClientCredential {
                name: opaque(*b"bob"),
                signature_public_key: opaque(vec![key; 32]),
            },
            connection_key: WireSecret::new([1; 32]),
            connection_token: WireSecret::new([2; 32]),
        }
    }

    fn keep_join(db: &Connection, contact: &NewContact) -> GroupId {
        let group = Group {
            status: Status::Joining,
            ..tests::group(7, "connection")
        };
        group.insert(db).unwrap();
        tests::keep_mls_group(db, &group.id);
        let signer = SignatureKeyPair::random().unwrap();
        Pending {
            envelope: Envelope::by_key(Operation::ExternalJoin, signer, Vec::new(), 1),
            aad: Vec::new(),
            contact: Some(Zeroizing::new(contact.encode())),
        }
        .write(db, &group.id)
        .unwrap();
        group.id
    }

    #[test]
    fn an_accepted_join_makes_a_contact() {
        let db = crate::database::in_memory().unwrap();
        let id = keep_join(&db, &contact(1));
        complete_join(&db, &id).unwrap().unwrap();
        assert_eq!(Group::read(&db, &id).unwrap().status, Status::Active);
        assert_eq!(
            contacts::by_name(&db, "bob").unwrap().signature_key,
            [1; 32]
        );
    }

    #[test]
    fn an_accepted_join_whose_handle_was_taken_meanwhile_is_given_up_for_good() {
        let db = crate::database::in_memory().unwrap();
        let id = keep_join(&db, &contact(1));
        contact(2).store(&db).unwrap();
        let outcome = complete_join(&db, &id).unwrap();
        assert!(matches!(outcome, Err(UsageError::AlreadyConnected(_))));
        assert!(Pending::read(&db, &id).unwrap().is_none());
        assert!(Group::find(&db, &id).unwrap().is_none());
        assert_eq!(
            contacts::by_name(&db, "bob").unwrap().signature_key,
            [2; 32]
        );
    }
}
