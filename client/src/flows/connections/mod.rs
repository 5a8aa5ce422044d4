//! Connections: nobody is added to a group before they consented to know each other.

mod accept;

pub(crate) mod stock;
mod taken;
pub(crate) mod tokens;
pub(crate) mod withdraw;

use crypto::connection::{ConnectionOffer, open_connection_request, seal_connection_request};
use crypto::hpke::HpkeKeyPair;
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::connections::{ClientCredential, ConnectionRequest, is_valid_handle};
use protocol::group::Accepted;
use protocol::inbox::RequestConnectionRequest;
use protocol::operation::Operation;
use protocol::reporting::{MAX_GREETING_BYTES, Occasion};
use rusqlite::Connection;

use crate::engine::Engine;
use crate::error::{Error, PeerError, UsageError};
use crate::flows::devices::link;
use crate::store::connection_stock::{self, Prepared};
use crate::store::connections::{self, Outgoing, forget_request, outgoing};
use crate::store::contacts::{self, handle_of};
use crate::store::reporting::RequestPolicy;
use crate::store::{Event, Profile, events, reporting, sync_outbox};
use crate::sync_message::SyncMessage;

/// Keeps a connection request that arrived, in the caller's transaction.
pub(crate) fn receive_request(
    db: &Connection,
    profile: &Profile,
    sealed: &[u8],
    policy: RequestPolicy,
    today: u32,
) -> Result<(), Error> {
    if link::keep_package(db, sealed)? {
        return Ok(());
    }
    let request = open_connection_request(&profile.establishment()?, sealed)
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
    sync_outbox::enqueue(db, SyncMessage::Request(opaque(request.encode())))
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
    let id = connections::keep_incoming(db, &name, request)?;
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
        let prepared = self.connection_group().await?;
        let seed = Secret::<32>::random()?;
        self.transact(|db, _| {
            connection_stock::used(db, &prepared.group)?;
            connections::keep_outgoing(db, handle, &prepared, &credential, &seed)
        })?;
        let Prepared { group, code } = prepared;
        Ok(Outgoing {
            group,
            code,
            credential,
            response_key: HpkeKeyPair::from_seed(&seed)?,
        })
    }

    /// Declines a request: it is forgotten, and the requester is told nothing.
    ///
    /// # Errors
    /// [`UsageError::UnknownRequest`].
    pub(crate) fn decline_request(&mut self, id: &str) -> Result<(), Error> {
        let request = connections::incoming(&self.db, id)?;
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
