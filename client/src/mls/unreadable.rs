//! Messages that do not decrypt: whose they are, and what follows.
//!
//! The sender of a PrivateMessage is known before its content is: it stands in the sender data,
//! under a key that every member of the epoch has (RFC 9420 §6.3.2). So also of a message that does
//! not decrypt it can be said whose it is, and that a member made it: the service cannot.

use openmls::prelude::{
    Ciphersuite, Credential, LeafNodeIndex, MlsGroup, OpenMlsCrypto as _, OpenMlsProvider as _,
};
use protocol::Wire as _;
use protocol::codec::opaque;
use rusqlite::Connection;
use tls_codec::{DeserializeBytes as _, TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};
use zeroize::Zeroizing;

use crate::error::{Error, PeerError};
use crate::store::mls::epoch_secrets;
use crate::store::provider::Provider;
use crate::store::{Group, Profile, events, identities, upkeep};

/// An MLSMessage with a PrivateMessage (RFC 9420 §6, §6.3).
#[derive(TlsSize, TlsDeserializeBytes)]
struct PrivateMessage {
    _version: u16,
    _wire_format: u16,
    group_id: VLBytes,
    epoch: u64,
    content_type: u8,
    _authenticated_data: VLBytes,
    encrypted_sender_data: VLBytes,
    ciphertext: VLBytes,
}

/// RFC 9420 §6.3.2.
#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct SenderDataAad {
    group_id: VLBytes,
    epoch: u64,
    content_type: u8,
}

/// RFC 9420 §6.3.2.
#[derive(Debug, PartialEq, Eq, TlsSize, TlsDeserializeBytes)]
struct SenderData {
    leaf_index: u32,
    generation: u32,
    reuse_guard: [u8; 4],
}

/// RFC 9420 §8.
#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct KdfLabel {
    length: u16,
    label: VLBytes,
    context: VLBytes,
}

fn expand(
    provider: &Provider<'_>,
    suite: Ciphersuite,
    secret: &[u8],
    label: &str,
    context: &[u8],
    length: usize,
) -> Option<Zeroizing<Vec<u8>>> {
    let label = KdfLabel {
        length: u16::try_from(length).ok()?,
        label: opaque(format!("MLS 1.0 {label}").into_bytes()),
        context: opaque(context),
    };
    let crypto = provider.crypto();
    crypto
        .hkdf_expand(suite.hash_algorithm(), secret, &label.encode(), length)
        .ok()
        .map(|secret| Zeroizing::new(secret.as_slice().to_vec()))
}

/// Opens the sender data of a message. `None` for what no member of the epoch has made.
fn open(
    provider: &Provider<'_>,
    suite: Ciphersuite,
    secret: &[u8],
    message: &PrivateMessage,
) -> Option<SenderData> {
    let ciphertext = message.ciphertext.as_slice();
    let sample = ciphertext.get(..suite.hash_length()).unwrap_or(ciphertext);
    let part = |label, length| expand(provider, suite, secret, label, sample, length);
    let aad = SenderDataAad {
        group_id: message.group_id.clone(),
        epoch: message.epoch,
        content_type: message.content_type,
    };
    let opened = provider
        .crypto()
        .aead_decrypt(
            suite.aead_algorithm(),
            &part("key", suite.aead_key_length())?,
            message.encrypted_sender_data.as_slice(),
            &part("nonce", suite.aead_nonce_length())?,
            &aad.encode(),
        )
        .ok()?;
    SenderData::tls_deserialize_exact_bytes(&opened).ok()
}

/// The member who made a message, if it was one.
fn sender(
    db: &Connection,
    mls_group: &MlsGroup,
    bytes: &[u8],
) -> Result<Option<(u64, Credential)>, Error> {
    let Ok(message) = PrivateMessage::tls_deserialize_exact_bytes(bytes) else {
        return Ok(None);
    };
    let Some(epoch) = epoch_secrets(db, mls_group, message.epoch)? else {
        return Ok(None);
    };
    let provider = Provider::new(db);
    let suite = mls_group.ciphersuite();
    let Some(data) = open(&provider, suite, &epoch.sender_data_secret, &message) else {
        return Ok(None);
    };
    let credential = match epoch.members {
        Some(members) => members
            .into_iter()
            .find(|member| member.index.u32() == data.leaf_index)
            .map(|member| member.credential),
        None => mls_group
            .member(LeafNodeIndex::new(data.leaf_index))
            .cloned(),
    };
    Ok(credential.map(|credential| (message.epoch, credential)))
}

/// Tells the user of a message that could not be read, in the caller's transaction; and has the
/// group begin a new epoch where that lets the sender be read again.
pub(crate) fn record(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    bytes: &[u8],
    fault: PeerError,
) -> Result<(), Error> {
    let mls_group = crate::store::mls::load_mls(db, &group.id)?;
    let made_by = sender(db, &mls_group, bytes)?;
    if let Some((epoch, _)) = &made_by
        && matches!(fault, PeerError::MessageKey)
    {
        upkeep::heal_after(db, &group.id, *epoch)?;
    }
    let Some(name) = group.name.clone() else {
        return Ok(());
    };
    let sender = match &made_by {
        Some((_, credential)) => identities::name_of(db, profile, &group.id, credential)?,
        None => String::new(),
    };
    events::store_unreadable(db, &name, &sender)
}
