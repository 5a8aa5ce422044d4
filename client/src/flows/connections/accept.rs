//! Accepting a connection request: an external commit into the requester's connection group.

use crypto::connection::seal_connection_response;
use crypto::keys::ConnectionKey;
use crypto::schedule::{JoinCodeSecret, PoolToken};
use protocol::Wire as _;
use protocol::connections::ConnectionResponse;
use protocol::group::GroupKind;
use protocol::ids::GroupId;
use protocol::reporting::Occasion;
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::engine::Engine;
use crate::error::{Error, LocalError, PeerError, UsageError};
use crate::leaf::CIPHERSUITE;
use crate::mls::authenticate::Sight;
use crate::mls::external::{Answer, Entrance};
use crate::mls::new_leaf::NewLeaf;
use crate::store::connections;
use crate::store::contacts::{self, handle_of};
use crate::store::{Group, Pending, Profile, Status, connection_stock, known, reporting};
use crate::sync_message::{NewContact, PoolKeys};

/// Forgets what an earlier attempt to answer a requester has left, in the caller's transaction.
/// Says whether this client is in the connection group already.
///
/// # Errors
/// [`PeerError::ConnectionGroup`] if the id is one of another group of this client: whoever asks
/// chooses it.
fn clear(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    requester: &[u8],
) -> Result<bool, Error> {
    let own = profile.identity.public();
    // Of a group that this client has forgotten its members are known all the same.
    let known = known::of(db, id)?;
    let mut members = known.iter().flat_map(|known| &known.members);
    let of_others = members.any(|member| {
        let real = member.identity.real.as_ref();
        let key = real.map(|real| real.signature_public_key.as_slice());
        key != Some(requester) && key != Some(&own)
    });
    let group = Group::find(db, id)?;
    let of_another_kind = group
        .as_ref()
        .is_some_and(|group| group.kind != GroupKind::Connection);
    let waits_for = Pending::read(db, id)?
        .and_then(|pending| pending.contact)
        .map(|contact| NewContact::decode(&contact).map_err(|_| LocalError::Damaged))
        .transpose()?;
    let for_another = waits_for
        .is_some_and(|contact| contact.credential.signature_public_key.as_slice() != requester);
    if of_others || connection_stock::waits(db, id)? || of_another_kind || for_another {
        return Err(PeerError::ConnectionGroup.into());
    }
    match group.map(|group| group.status) {
        None => Ok(false),
        Some(Status::Active) => Ok(true),
        Some(_) => Group::delete(db, id).map(|()| false),
    }
}

impl Engine {
    /// Accepts a request and returns the new contact's name.
    ///
    /// # Errors
    /// [`UsageError::UnknownRequest`], [`UsageError::RequestExpired`],
    /// [`UsageError::AlreadyConnected`]; [`PeerError`] when the group is not the requester's.
    pub(crate) async fn accept_request(&mut self, id: &str) -> Result<String, Error> {
        let _held = self.hold().await?;
        let accepted = self.join_requester(id).await;
        if let Err(Error::Usage(UsageError::RequestExpired)) = &accepted {
            // Cancelled, or too old: it leads nowhere any more.
            self.decline_request(id)?;
        }
        let name = accepted?;
        // Whom one has accepted may add one at once.
        crate::error::all_can_wait(self.replenish_key_packages().await)?;
        Ok(name)
    }

    async fn join_requester(&mut self, id: &str) -> Result<String, Error> {
        self.profile.credential()?;
        self.sync().await?;
        let request = connections::incoming(&self.db, id)?;
        let credential = &request.requester_client_credential;
        let name = handle_of(credential).ok_or(PeerError::ConnectionGroup)?;
        if let Ok(known) = contacts::by_name(&self.db, &name)
            && known.signature_key != credential.signature_public_key.as_slice()
        {
            return Err(UsageError::AlreadyConnected(name).into());
        }
        let group = request.connection_room_id;
        let requester = credential.signature_public_key.as_slice();
        if self.transact(|db, profile| clear(db, profile, &group, requester))? {
            self.decline_request(id)?;
            return Ok(name);
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
        let code = JoinCodeSecret::from(&request.extensions.code);
        self.enter_by_code(&group, CIPHERSUITE, &code, |client, segment, permit| {
            let pool = PoolKeys::fresh()?;
            let response = ConnectionResponse {
                responder_connection_key: client.profile.connection_key.to_wire(),
                version: 1,
                connection_token: pool.token().to_wire(),
            };
            let response_key = request.connection_response_key.as_slice();
            let encrypted = seal_connection_response(&response, response_key, &group)
                .map_err(|_| PeerError::ConnectionGroup)?;
            let contact = NewContact {
                credential: credential.clone(),
                connection_key: ConnectionKey::from(&request.requester_connection_key).to_wire(),
                // Finds nothing: the requester's own is told in the group, once they know who has
                // accepted.
                connection_token: PoolToken::new(crypto::random()?).to_wire(),
                pool,
                given: crate::sync_message::GivenName::none(),
            };
            Ok(Entrance {
                id: group,
                kind: GroupKind::Connection,
                name: None,
                segment,
                leaf: NewLeaf::introducing(&client.profile, &directory, introduction.clone())?,
                permit,
                authorization: None,
                sight: Sight::Asked {
                    requester: credential.signature_public_key.as_slice().to_vec(),
                },
                answer: Some(Answer {
                    encrypted,
                    contact: Zeroizing::new(contact.encode()),
                }),
            })
        })
        .await
        .map_err(expired)?;
        Ok(contacts::name_of_key(&self.db, requester)?.unwrap_or(name))
    }
}

fn expired(error: Error) -> Error {
    match error {
        Error::Usage(UsageError::JoinCodeExpired) => UsageError::RequestExpired.into(),
        error => error,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crypto::sign::SignatureKeyPair;
    use protocol::codec::{WireSecret, opaque};
    use protocol::connections::ClientCredential;
    use protocol::operation::Operation;

    use super::*;
    use crate::envelope::Envelope;
    use crate::mls::contact::keep_contact;
    use crate::store::groups::tests;
    use crate::store::identities;

    fn contact(key: u8) -> NewContact {
        NewContact {
            credential: ClientCredential {
                name: opaque(*b"bob"),
                signature_public_key: opaque(vec![key; 32]),
            },
            connection_key: WireSecret::new([1; 32]),
            connection_token: WireSecret::new([2; 32]),
            pool: PoolKeys::fresh().unwrap(),
            given: crate::sync_message::GivenName::none(),
        }
    }

    fn keep_join(db: &Connection, contact: &NewContact) -> GroupId {
        let id = joining(db);
        let signer = SignatureKeyPair::random().unwrap();
        Pending {
            envelope: Envelope::by_key(Operation::ExternalJoin, signer, Vec::new(), 1).unwrap(),
            aad: Vec::new(),
            contact: Some(Zeroizing::new(contact.encode())),
            recovery: None,
        }
        .write(db, &id)
        .unwrap();
        id
    }

    fn joining(db: &Connection) -> GroupId {
        let group = Group {
            status: Status::Joining,
            kind: GroupKind::Connection,
            ..tests::group(7, "connection")
        };
        group.insert(db).unwrap();
        tests::keep_mls_group(db, &group.id);
        group.id
    }

    #[test]
    fn a_request_that_names_a_group_of_this_client_for_its_own_takes_nothing_away() {
        let [asker, other] = [[1; 32], [9; 32]];
        for kind in [
            GroupKind::Group,
            GroupKind::SingleUser,
            GroupKind::Connection,
        ] {
            for status in [Status::Lost, Status::Refused, Status::Active] {
                let db = crate::store::database::in_memory().unwrap();
                let profile = crate::store::profile::tests::profile(&db);
                let group = Group {
                    kind,
                    status,
                    ..tests::group(7, "team")
                };
                group.insert(&db).unwrap();
                let known = known::Known {
                    epoch: 3,
                    own_leaf: 0,
                    external_senders: Vec::new(),
                    ciphersuite: crate::leaf::CIPHERSUITE.into(),
                    policy: None,
                    members: vec![known::KnownMember {
                        credential: vec![5],
                        identity: identities::Identity {
                            user_pseudonym: vec![5],
                            real: Some(contact(9).credential),
                        },
                        removed_epoch: None,
                    }],
                };
                known::restore(&db, &group.id, &known).unwrap();
                let refused = clear(&db, &profile, &group.id, &asker);
                assert!(
                    matches!(refused, Err(Error::Peer(PeerError::ConnectionGroup))),
                    "{kind:?} {status:?}: {refused:?}"
                );
                assert!(Group::find(&db, &group.id).unwrap().is_some());
                // Whose connection it is may ask anew.
                let own = clear(&db, &profile, &group.id, &other).is_ok();
                assert_eq!(own, kind == GroupKind::Connection);
            }
        }
        // The one in which this user has asked somebody else.
        let db = crate::store::database::in_memory().unwrap();
        let profile = crate::store::profile::tests::profile(&db);
        let group = Group {
            kind: GroupKind::Connection,
            status: Status::Lost,
            ..tests::group(7, "connection")
        };
        group.insert(&db).unwrap();
        db.execute(
            "INSERT INTO outgoing_requests
                (handle, group_id, credential, response_seed, code)
             VALUES ('carol', ?, x'', x'', x'')",
            [group.id.0],
        )
        .unwrap();
        assert!(clear(&db, &profile, &group.id, &asker).is_err());
        // A join that waits for its answer is that of whoever it was for.
        let db = crate::store::database::in_memory().unwrap();
        let profile = crate::store::profile::tests::profile(&db);
        let id = keep_join(&db, &contact(9));
        assert!(clear(&db, &profile, &id, &asker).is_err());
        assert!(!clear(&db, &profile, &id, &other).unwrap());
        assert!(Group::find(&db, &id).unwrap().is_none());
    }

    #[test]
    fn an_accepted_join_makes_a_contact() {
        let db = crate::store::database::in_memory().unwrap();
        let id = joining(&db);
        keep_contact(&db, &id, &contact(1)).unwrap().unwrap();
        assert_eq!(
            contacts::by_name(&db, "bob").unwrap().signature_key,
            [1; 32]
        );
    }

    #[test]
    fn an_accepted_join_whose_handle_was_taken_meanwhile_is_given_up_for_good() {
        let db = crate::store::database::in_memory().unwrap();
        let id = joining(&db);
        contact(2).store(&db).unwrap();
        let outcome = keep_contact(&db, &id, &contact(1)).unwrap();
        assert!(matches!(outcome, Err(UsageError::AlreadyConnected(_))));
        assert!(Group::find(&db, &id).unwrap().is_none());
        assert_eq!(
            contacts::by_name(&db, "bob").unwrap().signature_key,
            [2; 32]
        );
    }
}
