//! RFC 9420 structures that `mls-rs` keeps to itself.

use mls_rs::MlsMessage;
use openmls::prelude::tls_codec as mls_codec;
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, ProtocolVersion};
use openmls_rust_crypto::RustCrypto;
use tls_codec::{TlsDeserializeBytes, TlsSize, VLBytes};

/// `MLSMessage` with a GroupInfo (§12.4.3).
#[derive(TlsSize, TlsDeserializeBytes)]
pub(super) struct GroupInfoMessage {
    _version: u16,
    _wire_format: u16,
    _context: GroupContext,
    /// Without the length of the list.
    pub(super) extensions: VLBytes,
    _confirmation_tag: VLBytes,
    _signer: u32,
    pub(super) signature: VLBytes,
}

/// §8.1.
#[derive(TlsSize, TlsDeserializeBytes)]
struct GroupContext {
    _version: u16,
    _suite: u16,
    _group_id: VLBytes,
    _epoch: u64,
    _tree_hash: VLBytes,
    _confirmed_transcript_hash: VLBytes,
    _extensions: VLBytes,
}

/// What `mls-rs` made, as openmls validates it.
pub(super) fn key_package_of(message: &[u8]) -> openmls::prelude::KeyPackage {
    let MlsMessageBodyIn::KeyPackage(package) =
        <MlsMessageIn as mls_codec::DeserializeBytes>::tls_deserialize_exact_bytes(message)
            .unwrap()
            .extract()
    else {
        panic!("not a KeyPackage");
    };
    package
        .validate(&RustCrypto::default(), ProtocolVersion::Mls10)
        .unwrap()
}

/// A KeyPackage for `mls-rs`.
pub(super) fn key_package_message(package: openmls::prelude::KeyPackage) -> MlsMessage {
    let message = mls_codec::Serialize::tls_serialize_detached(&MlsMessageOut::from(package));
    MlsMessage::from_bytes(&message.unwrap()).unwrap()
}
