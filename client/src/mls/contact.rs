//! Who has answered a request for a connection becomes a contact.

use crypto::connection::open_connection_response;
use crypto::credential::OpenedLink;
use crypto::keys::ConnectionKey;
use openmls::prelude::{LeafNode, MlsGroup};
use protocol::Wire as _;
use protocol::connections::ClientCredential;
use protocol::group::{CommitAad, GroupKind};
use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::error::{Error, LocalError, PeerError, UsageError};
use crate::leaf;
use crate::store::{
    Event, Group, Identity, Profile, connections, contacts, events, identities, load_mls, reporting,
};
use crate::sync_message::{NewContact, PoolKeys};

/// The connection group must hold the requester and nobody else, under the keys that the request
/// says; before this client is in it for good, in the caller's transaction.
pub(crate) fn check_requester(
    db: &Connection,
    mls_group: &MlsGroup,
    group: &Group,
    contact: &NewContact,
) -> Result<(), Error> {
    let own = mls_group.own_leaf_index();
    let mut others = mls_group.members().filter(|member| member.index != own);
    let (Some(requester), None) = (others.next(), others.next()) else {
        return Err(PeerError::ConnectionGroup.into());
    };
    let identity = identities::of(db, &group.id, &requester.credential)?;
    let credential = &contact.credential;
    if identity.and_then(|identity| identity.real).as_ref() != Some(credential) {
        return Err(PeerError::IdentityLink.into());
    }
    let leaf = mls_group
        .public_group()
        .leaf(requester.index)
        .ok_or(PeerError::ConnectionGroup)?;
    let key = ConnectionKey::from(&contact.connection_key);
    is_derived(leaf, &key, credential).map(|_| ())
}

/// The service has accepted a join: keeps the contact, in the caller's transaction. If somebody
/// else has become a contact under that handle since, the join is given up, and the inner error
/// says so.
pub(crate) fn joined(
    db: &Connection,
    id: &GroupId,
    contact: &[u8],
) -> Result<Result<(), UsageError>, Error> {
    let contact = NewContact::decode(contact).map_err(|_| LocalError::Damaged)?;
    check_requester(db, &load_mls(db, id)?, &Group::read(db, id)?, &contact)?;
    keep_contact(db, id, &contact)
}

pub(crate) fn keep_contact(
    db: &Connection,
    id: &GroupId,
    contact: &NewContact,
) -> Result<Result<(), UsageError>, Error> {
    match contact.store(db) {
        Err(Error::Usage(taken @ UsageError::AlreadyConnected(_))) => {
            Group::delete(db, id)?;
            return Ok(Err(taken));
        }
        stored => stored?,
    };
    crate::store::connections::forget_request(
        db,
        contact.credential.signature_public_key.as_slice(),
    )?;
    Ok(Ok(()))
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
    let (credential, response_key) =
        connections::asked_into(db, &group.id)?.ok_or(PeerError::ConnectionGroup)?;
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
        given: crate::sync_message::GivenName::none(),
    };
    let name = match contact.store(db) {
        // Somebody else has become a contact under this handle since: this join makes none.
        Err(Error::Usage(UsageError::AlreadyConnected(_))) => {
            return Err(PeerError::ConnectionGroup.into());
        }
        stored => stored?,
    };
    contacts::begin_pool(db, &key)?;
    reporting::keep_answer(db, profile, &name, &key, link.introduction.content())?;
    connections::forget_outgoing(db, &group.id)?;
    events::store(db, &Event::Connected { name })
}

/// The connection key must be the one that the leaf's identity link key comes from, else
/// KeyPackages claimed later would not open.
pub(crate) fn is_derived(
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
