//! Connections: nobody is added to a group before they consented to know each other.

mod accept;

pub(crate) use accept::joined;
pub(crate) mod stock;
pub(crate) mod taken;
pub(crate) mod tokens;
pub(crate) mod withdraw;

use crypto::connection::{
    ConnectionOffer, open_connection_request, open_connection_response, seal_connection_request,
};
use crypto::credential::OpenedLink;
use crypto::hpke::HpkeKeyPair;
use crypto::keys::ConnectionKey;
use crypto::schedule::JoinCodeSecret;
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use openmls::prelude::LeafNode;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::connections::{ClientCredential, ConnectionRequest, is_valid_handle};
use protocol::group::{Accepted, CommitAad, GroupKind};
use protocol::ids::GroupId;
use protocol::inbox::RequestConnectionRequest;
use protocol::operation::Operation;
use protocol::reporting::{MAX_GREETING_BYTES, Occasion, SignedIntroduction};
use rusqlite::{Connection, OptionalExtension as _};
use zeroize::Zeroizing;

use self::stock::Prepared;
use crate::contacts::{self, NewContact, PoolKeys, handle_of};
use crate::database::key32;
use crate::devices;
use crate::devices::sync::SyncMessage;
use crate::engine::Engine;
use crate::error::{Error, LocalError, PeerError, UsageError};
use crate::events::{self, Event};
use crate::groups::Group;
use crate::groups::identities::Identity;
use crate::leaf;
use crate::profile::Profile;
use crate::reporting::{self, RequestPolicy};

/// Somebody who asks for a connection.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct IncomingRequest {
    /// For accepting or declining it.
    pub id: String,
    /// The handle that they claim. Compare safety numbers before trusting it.
    pub name: String,
    /// What they say with it, if anything.
    pub greeting: Option<String>,
    /// Whether they can be reported to the token issuer: an account stands behind them.
    pub reportable: bool,
}

/// Keeps a connection request that arrived, in the caller's transaction.
pub(crate) fn receive_request(
    db: &Connection,
    profile: &Profile,
    sealed: &[u8],
    policy: RequestPolicy,
    today: u32,
) -> Result<(), Error> {
    if devices::keep_package(db, sealed)? {
        return Ok(());
    }
    let request = open_connection_request(&profile.establishment, sealed)
        .map_err(|_| PeerError::ConnectionGroup)?;
    let key = request
        .requester_client_credential
        .signature_public_key
        .as_slice();
    if key == profile.identity.public() {
        return Err(PeerError::ConnectionGroup.into());
    }
    let introduction = request.extensions.introduction.content();
    if reporting::is_required(db, policy)?
        && !reporting::admits(db, profile, key, introduction, today)?
    {
        // As if it had not come: whoever asks cannot tell, and cannot be reported.
        return Ok(());
    }
    if !taken::take(db, sealed)? {
        return Ok(());
    }
    keep_request(db, profile, &request)?;
    devices::enqueue(db, SyncMessage::Request(opaque(request.encode())))
}

/// Keeps a request, whichever device it came to, in the caller's transaction.
pub(crate) fn keep_request(
    db: &Connection,
    profile: &Profile,
    request: &ConnectionRequest,
) -> Result<(), Error> {
    let credential = &request.requester_client_credential;
    let name = handle_of(credential).ok_or(PeerError::ConnectionGroup)?;
    let key = credential.signature_public_key.as_slice();
    // Whoever asks again replaces what they asked before.
    db.execute(
        "DELETE FROM incoming_requests WHERE signature_key = ?",
        [key],
    )?;
    db.execute(
        "INSERT INTO incoming_requests (signature_key, name, request) VALUES (?, ?, ?)",
        (key, &name, &*Zeroizing::new(request.encode())),
    )?;
    let id = db.last_insert_rowid().to_string();
    let introduction = request.extensions.introduction.content();
    if let Some(signed) = reporting::verify(db, profile, Occasion::Request, key, introduction)? {
        reporting::keep(db, &name, &signed)?;
    }
    let name = match profile.credential() {
        Ok(own) => contacts::display_name(db, &own, credential)?,
        Err(_) => name,
    };
    events::store(db, &Event::ConnectionRequest { id, name })
}

/// The recipient of our request has joined the connection group: checks that it is him and keeps
/// the contact, in the caller's transaction.
pub(crate) fn accept_joiner(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    identity: &Identity,
    leaf: &LeafNode,
    aad: &CommitAad,
) -> Result<(), Error> {
    if group.kind != GroupKind::Connection {
        return Err(PeerError::Commit.into());
    }
    let (credential, seed) = db
        .query_row(
            "SELECT credential, response_seed FROM outgoing_requests WHERE group_id = ?",
            [group.id.0],
            |row| {
                Ok((
                    row.get::<_, Vec<u8>>(0)?,
                    Zeroizing::new(row.get::<_, Vec<u8>>(1)?),
                ))
            },
        )
        .optional()?
        .ok_or(PeerError::ConnectionGroup)?;
    let credential = ClientCredential::decode(&credential).map_err(|_| LocalError::Damaged)?;
    let response_key = HpkeKeyPair::from_seed(&Secret::new(key32(&seed)?))?;
    let response = open_connection_response(
        &response_key,
        &group.id,
        aad.encrypted_connection_response.as_slice(),
    )
    .map_err(|_| PeerError::ConnectionGroup)?;
    if identity.real.as_ref() != Some(&credential) {
        return Err(PeerError::IdentityLink.into());
    }
    let link = is_derived(
        leaf,
        &ConnectionKey::from(&response.responder_connection_key),
        &credential,
    )?;
    let key = credential.signature_public_key.as_slice().to_vec();
    let contact = NewContact {
        credential,
        connection_key: response.responder_connection_key,
        connection_token: response.connection_token,
        // Told in the group, now that they have accepted: the request said nothing that adds this
        // user anywhere.
        pool: PoolKeys::fresh()?,
    };
    let name = match contact.store(db) {
        // Somebody else has become a contact under this handle since: this join makes none.
        Err(Error::Usage(UsageError::AlreadyConnected(_))) => {
            return Err(PeerError::ConnectionGroup.into());
        }
        stored => stored?,
    };
    db.execute(
        "UPDATE contacts SET token_due = 1, pool_new = 1 WHERE signature_key = ?",
        [&key],
    )?;
    reporting::keep_answer(db, profile, &name, &key, link.introduction.content())?;
    db.execute(
        "DELETE FROM outgoing_requests WHERE group_id = ?",
        [group.id.0],
    )?;
    events::store(db, &Event::Connected { name })
}

/// The connection key must be the one that the leaf's identity link key comes from, else
/// KeyPackages claimed later would not open.
fn is_derived(
    leaf: &LeafNode,
    key: &ConnectionKey,
    credential: &ClientCredential,
) -> Result<OpenedLink, Error> {
    let pseudonymous = leaf::pseudonymous(leaf.credential(), leaf.signature_key().as_slice())
        .ok_or(PeerError::IdentityLink)?;
    match pseudonymous.open_introducing_link(&pseudonymous.link_key(key)) {
        Ok(opened) if opened.credential == *credential => Ok(opened),
        _ => Err(PeerError::IdentityLink.into()),
    }
}

/// A request that was answered, in the caller's transaction; the other devices are told.
pub(crate) fn forget_request(db: &Connection, signature_key: &[u8]) -> Result<(), Error> {
    db.execute(
        "DELETE FROM incoming_requests WHERE signature_key = ?",
        [signature_key],
    )?;
    devices::enqueue(db, SyncMessage::RequestGone(opaque(signature_key)))
}

/// A request of this user's that waits for its answer.
struct Outgoing {
    group: GroupId,
    /// Lets the recipient in.
    code: JoinCodeSecret,
    /// The recipient's.
    credential: ClientCredential,
    response_key: HpkeKeyPair,
}

fn outgoing(db: &Connection, handle: &str) -> Result<Option<Outgoing>, Error> {
    let row = db
        .query_row(
            "SELECT group_id, response_seed, credential, code
             FROM outgoing_requests JOIN groups USING (group_id)
             WHERE handle = ? AND status = 'active'",
            [handle],
            |row| {
                let secret = |at| row.get::<_, Vec<u8>>(at).map(Zeroizing::new);
                let credential: Vec<u8> = row.get(2)?;
                Ok((GroupId(row.get(0)?), secret(1)?, credential, secret(3)?))
            },
        )
        .optional()?;
    row.map(|(group, seed, credential, code)| {
        Ok(Outgoing {
            group,
            code: JoinCodeSecret::new(key32(&code)?),
            credential: ClientCredential::decode(&credential).map_err(|_| LocalError::Damaged)?,
            response_key: HpkeKeyPair::from_seed(&Secret::new(key32(&seed)?))?,
        })
    })
    .transpose()
}

impl Engine {
    /// Asks the owner of a handle for a connection; again, if it was asked before.
    ///
    /// # Errors
    /// [`UsageError::AlreadyConnected`], [`UsageError::OwnHandle`]; the problem `unknown-handle`;
    /// [`PeerError::HandleRecord`] if the handle is another one's since it was asked.
    pub(crate) async fn connect(&mut self, handle: &str) -> Result<(), Error> {
        self.connect_with(handle, "").await
    }

    /// As [`Client::connect`], with up to 256 bytes of greeting, which the recipient can report. It
    /// travels with the certificate: without one, there is no greeting.
    ///
    /// # Errors
    /// As [`Client::connect`]; [`UsageError::InvalidGreeting`].
    pub(crate) async fn connect_with(&mut self, handle: &str, greeting: &str) -> Result<(), Error> {
        let _held = self.hold().await?;
        if greeting.len() > MAX_GREETING_BYTES {
            return Err(UsageError::InvalidGreeting.into());
        }
        if !is_valid_handle(handle.as_bytes()) {
            return Err(UsageError::InvalidHandle.into());
        }
        let credential = self.profile.credential()?;
        if self.profile.handle.as_deref() == Some(handle) {
            return Err(UsageError::OwnHandle.into());
        }
        self.sync().await?;
        if contacts::by_name(&self.db, handle).is_ok() {
            return Err(UsageError::AlreadyConnected(handle.to_owned()).into());
        }
        let known = outgoing(&self.db, handle)?;
        let mut costs = vec![Operation::LookupHandle, Operation::RequestConnection];
        if known.is_none() && !self.has_stock()? {
            costs.push(Operation::ReserveGroupId);
        }
        self.expect_tokens(&costs).await?;
        // Also of who was asked before: price and key may be others by now.
        let (record, price) = self.look_up(handle).await?;
        let outgoing = match known {
            Some(known) if known.credential != record.credential => {
                return Err(PeerError::HandleRecord.into());
            }
            Some(known) => known,
            None => self.prepare_connection(handle, record.credential).await?,
        };
        let introduction = reporting::introduction(
            &self.db,
            &self.profile,
            Occasion::Request,
            outgoing.credential.signature_public_key.as_slice(),
            self.today(),
            greeting,
        )?;
        let offer = ConnectionOffer {
            credential: &credential,
            group_id: outgoing.group,
            connection_key: &self.profile.connection_key,
            response_key: outgoing.response_key.public(),
            code: &outgoing.code,
            introduction,
        };
        let establishment_key = record.connection_establishment_key.as_slice();
        let encrypted = seal_connection_request(&offer, &self.profile.identity, establishment_key)
            .map_err(|_| PeerError::HandleRecord)?;
        self.put_into_inbox(handle, encrypted, price).await
    }

    /// Puts something into the inbox of a handle, sealed in the one size that all such have.
    pub(crate) async fn put_into_inbox(
        &mut self,
        handle: &str,
        sealed: Vec<u8>,
        price: u8,
    ) -> Result<(), Error> {
        let request = RequestConnectionRequest {
            handle: opaque(handle.as_bytes()),
            encrypted_request: opaque(sealed),
        };
        let _: Accepted = self
            .call_at_price(
                Operation::RequestConnection,
                SignatureKeyPair::random()?,
                &request,
                price.into(),
            )
            .await?;
        Ok(())
    }

    /// Takes a connection group for whoever is asked.
    async fn prepare_connection(
        &mut self,
        handle: &str,
        credential: ClientCredential,
    ) -> Result<Outgoing, Error> {
        let Prepared { group, code } = self.connection_group().await?;
        let seed = Secret::<32>::random()?;
        self.transact(|db, _| {
            stock::used(db, &group)?;
            db.execute(
                "INSERT OR REPLACE INTO outgoing_requests
                    (handle, group_id, credential, response_seed, code) VALUES (?, ?, ?, ?, ?)",
                (
                    handle,
                    group.0,
                    credential.encode(),
                    seed.expose(),
                    code.expose(),
                ),
            )?;
            Ok(())
        })?;
        Ok(Outgoing {
            group,
            code,
            credential,
            response_key: HpkeKeyPair::from_seed(&seed)?,
        })
    }

    fn incoming(&self, id: &str) -> Result<ConnectionRequest, Error> {
        let row: Option<Vec<u8>> = self
            .db
            .query_row(
                "SELECT request FROM incoming_requests WHERE id = ?",
                [id],
                |row| row.get(0),
            )
            .optional()?;
        let request = Zeroizing::new(row.ok_or_else(|| UsageError::UnknownRequest(id.to_owned()))?);
        ConnectionRequest::decode(&request).map_err(|_| LocalError::Damaged.into())
    }

    /// Declines a request: it is forgotten, and the requester is told nothing.
    ///
    /// # Errors
    /// [`UsageError::UnknownRequest`].
    pub(crate) fn decline_request(&mut self, id: &str) -> Result<(), Error> {
        let request = self.incoming(id)?;
        self.transact(|db, _| {
            forget_request(
                db,
                request
                    .requester_client_credential
                    .signature_public_key
                    .as_slice(),
            )
        })
    }
}

/// Requests that wait for an answer.
///
/// # Errors
/// [`Error::Local`].
pub(crate) fn incoming_requests(
    db: &Connection,
    profile: &Profile,
    today: u32,
) -> Result<Vec<IncomingRequest>, Error> {
    let mut statement = db
        .prepare(
            "SELECT id, incoming_requests.name, introduction, incoming_requests.signature_key FROM incoming_requests
             LEFT JOIN introductions ON introductions.signature_key = incoming_requests.signature_key
                AND not_after_day >= ? ORDER BY id",
        )?;
    let rows = statement.query_map([today], |row| {
        let said = row
            .get::<_, Option<Vec<u8>>>(2)?
            .and_then(|signed| SignedIntroduction::decode(&signed).ok());
        let greeting = said
            .as_ref()
            .map(|said| said.introduction.greeting.as_slice());
        let name: String = row.get(1)?;
        let key: Vec<u8> = row.get(3)?;
        let request = IncomingRequest {
            id: row.get::<_, i64>(0)?.to_string(),
            name,
            greeting: greeting
                .filter(|greeting| !greeting.is_empty())
                .map(|greeting| String::from_utf8_lossy(greeting).into_owned()),
            reportable: said.is_some(),
        };
        Ok((request, key))
    })?;
    let own = profile.credential()?;
    rows.map(|row| {
        let (mut request, key) = row?;
        let credential = ClientCredential {
            name: opaque(request.name.as_bytes()),
            signature_public_key: opaque(key),
        };
        request.name = contacts::display_name(db, &own, &credential)?;
        Ok(request)
    })
    .collect()
}
