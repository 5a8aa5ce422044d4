//! Connections: their groups and the requests for them.

use crypto::hpke::HpkeKeyPair;
use crypto::schedule::JoinCodeSecret;
use crypto::secret::Secret;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::connections::{ClientCredential, ConnectionRequest};
use protocol::group::GroupKind;
use protocol::ids::GroupId;
use protocol::reporting::SignedIntroduction;
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::error::{Error, LocalError, UsageError};
use crate::store::connection_stock::Prepared;
use crate::store::database::{change, column, first, key32, value};
use crate::store::profile::Profile;
use crate::store::{contacts, sync_outbox};
use crate::sync_message::SyncMessage;

/// The connection group with a contact, if there is one that this client and the contact are in.
pub(crate) fn group_with(db: &Connection, signature_key: &[u8]) -> Result<Option<GroupId>, Error> {
    first(
        db,
        "SELECT groups.group_id FROM groups JOIN identities USING (group_id)
             WHERE kind = ? AND status = 'active' AND signature_key = ? AND NOT EXISTS (
                SELECT 1 FROM known_members WHERE known_members.group_id = groups.group_id
                    AND known_members.credential = identities.credential
                    AND removed_epoch IS NOT NULL)
             LIMIT 1",
        (GroupKind::Connection as u8, signature_key),
        |row| Ok(GroupId(row.get(0)?)),
    )
}

/// The connection group is gone for this client: the other one has ended the connection, or
/// cancelled it.
pub(crate) fn ended(db: &Connection, group: &GroupId, own_key: &[u8]) -> Result<(), Error> {
    let key: Option<Vec<u8>> = value(
        db,
        "SELECT signature_key FROM identities
             WHERE group_id = ? AND signature_key IS NOT NULL AND signature_key != ? LIMIT 1",
        (group.0, own_key),
    )?;
    let Some(key) = key else {
        return Ok(());
    };
    if let Some(name) = contacts::name_of_key(db, &key)? {
        contacts::forget(db, &key)?;
        crate::store::events::store(db, &crate::store::events::Event::Disconnected { name })?;
    }
    Ok(())
}

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

/// A request of this user's that waits for its answer.
pub(crate) struct Outgoing {
    pub(crate) group: GroupId,
    /// Lets the recipient in.
    pub(crate) code: JoinCodeSecret,
    /// The recipient's.
    pub(crate) credential: ClientCredential,
    pub(crate) response_key: HpkeKeyPair,
}

pub(crate) fn outgoing(db: &Connection, handle: &str) -> Result<Option<Outgoing>, Error> {
    let row = first(
        db,
        "SELECT group_id, response_seed, credential, code
             FROM outgoing_requests JOIN groups USING (group_id)
             WHERE handle = ? AND status = 'active'",
        [handle],
        |row| {
            let secret = |at| row.get::<_, Vec<u8>>(at).map(Zeroizing::new);
            let credential: Vec<u8> = row.get(2)?;
            Ok((GroupId(row.get(0)?), secret(1)?, credential, secret(3)?))
        },
    )?;
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

/// Keeps a request, in the caller's transaction: whoever asks again replaces what they asked
/// before. Returns its id.
pub(crate) fn keep_incoming(
    db: &Connection,
    name: &str,
    request: &ConnectionRequest,
) -> Result<String, Error> {
    let credential = &request.requester_client_credential;
    let key = credential.signature_public_key.as_slice();
    forget_incoming(db, key)?;
    change(
        db,
        "INSERT INTO incoming_requests (signature_key, name, request) VALUES (?, ?, ?)",
        (key, name, &*Zeroizing::new(request.encode())),
    )?;
    Ok(db.last_insert_rowid().to_string())
}

/// A request that waits for its answer.
pub(crate) fn incoming(db: &Connection, id: &str) -> Result<ConnectionRequest, Error> {
    let row: Option<Vec<u8>> = value(
        db,
        "SELECT request FROM incoming_requests WHERE id = ?",
        [id],
    )?;
    let request = Zeroizing::new(row.ok_or_else(|| UsageError::UnknownRequest(id.to_owned()))?);
    ConnectionRequest::decode(&request).map_err(|_| LocalError::Damaged.into())
}

/// All of them, encoded.
pub(crate) fn all_incoming(db: &Connection) -> Result<Vec<Vec<u8>>, Error> {
    column(db, "SELECT request FROM incoming_requests", ())
}

/// Remembers whom this user asks into a connection group, in the caller's transaction, and the seed
/// of the key that the answer is sealed to.
pub(crate) fn keep_outgoing(
    db: &Connection,
    handle: &str,
    Prepared { group, code }: &Prepared,
    credential: &ClientCredential,
    response_seed: &Secret<32>,
) -> Result<(), Error> {
    change(
        db,
        "INSERT OR REPLACE INTO outgoing_requests
            (handle, group_id, credential, response_seed, code) VALUES (?, ?, ?, ?, ?)",
        (
            handle,
            group.0,
            credential.encode(),
            response_seed.expose(),
            code.expose(),
        ),
    )
}

/// Who was asked into a connection group, and what opens the answer.
pub(crate) fn asked_into(
    db: &Connection,
    group: &GroupId,
) -> Result<Option<(ClientCredential, HpkeKeyPair)>, Error> {
    let row = first(
        db,
        "SELECT credential, response_seed FROM outgoing_requests WHERE group_id = ?",
        [group.0],
        |row| {
            Ok((
                row.get::<_, Vec<u8>>(0)?,
                Zeroizing::new(row.get::<_, Vec<u8>>(1)?),
            ))
        },
    )?;
    row.map(|(credential, seed)| {
        Ok((
            ClientCredential::decode(&credential).map_err(|_| LocalError::Damaged)?,
            HpkeKeyPair::from_seed(&Secret::new(key32(&seed)?))?,
        ))
    })
    .transpose()
}

/// A request that was answered, in the caller's transaction; the other devices are told.
pub(crate) fn forget_request(db: &Connection, signature_key: &[u8]) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM incoming_requests WHERE signature_key = ?",
        [signature_key],
    )?;
    sync_outbox::enqueue(db, SyncMessage::RequestGone(opaque(signature_key)))
}

/// The group that a handle's owner was asked into.
pub(crate) fn group_of_request(db: &Connection, handle: &str) -> Result<Option<[u8; 16]>, Error> {
    value(
        db,
        "SELECT group_id FROM outgoing_requests WHERE handle = ?",
        [handle],
    )
}

pub(crate) fn forget_outgoing(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM outgoing_requests WHERE group_id = ?",
        [group.0],
    )
}

pub(crate) fn forget_incoming(db: &Connection, signature_key: &[u8]) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM incoming_requests WHERE signature_key = ?",
        [signature_key],
    )
}
