//! RFC 9420 structures that `mls-rs` keeps to itself, and what a joiner derives from a Welcome before it has the
//! tree.

use mls_rs::mls_rs_codec::{MlsDecode as _, MlsEncode as _};
use mls_rs::{CipherSuite, CipherSuiteProvider, KeyPackage, KeyPackageStorage, MlsMessage};
use mls_rs_core::crypto::HpkeCiphertext;
use openmls::prelude::tls_codec as mls_codec;
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, ProtocolVersion};
use openmls_rust_crypto::RustCrypto;
use protocol::codec::opaque;
use tls_codec::{
    DeserializeBytes as _, Serialize as _, TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes,
};

use super::{OtherLeaf, provider};

/// `MLSMessage` with a GroupInfo (§12.4.3).
#[derive(TlsSize, TlsDeserializeBytes)]
pub struct GroupInfoMessage {
    _version: u16,
    _wire_format: u16,
    _context: GroupContext,
    /// Without the length of the list.
    pub extensions: VLBytes,
    _confirmation_tag: VLBytes,
    _signer: u32,
    pub signature: VLBytes,
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

/// `MLSMessage` with a Welcome (§12.4.3.1).
#[derive(TlsSize, TlsDeserializeBytes)]
struct WelcomeMessage {
    _version: u16,
    _wire_format: u16,
    _suite: u16,
    secrets: Vec<EncryptedGroupSecrets>,
    encrypted_group_info: VLBytes,
}

#[derive(TlsSize, TlsDeserializeBytes)]
struct EncryptedGroupSecrets {
    new_member: VLBytes,
    kem_output: VLBytes,
    ciphertext: VLBytes,
}

#[derive(TlsSize, TlsDeserializeBytes)]
struct GroupSecrets {
    joiner_secret: VLBytes,
    _path_secret: Option<VLBytes>,
    psks: VLBytes,
}

/// `EncryptContext` (§5.1.3).
#[derive(TlsSize, TlsSerialize)]
struct EncryptContext {
    label: VLBytes,
    context: VLBytes,
}

/// `KDFLabel` (§8).
#[derive(TlsSize, TlsSerialize)]
struct KdfLabel {
    length: u16,
    label: VLBytes,
    context: VLBytes,
}

fn expand_with_label(
    suite: &impl CipherSuiteProvider,
    secret: &[u8],
    label: &str,
    context: &[u8],
    length: usize,
) -> Vec<u8> {
    let info = KdfLabel {
        length: u16::try_from(length).unwrap(),
        label: opaque(format!("MLS 1.0 {label}").into_bytes()),
        context: opaque(context),
    };
    let info = info.tls_serialize_detached().unwrap();
    suite.kdf_expand(secret, &info, length).unwrap().to_vec()
}

/// The exporter of the epoch of a Welcome (§8, §8.5). `mls-rs` has it only after the tree is known, and the tree
/// lies with the service under a key that the exporter gives.
pub struct WelcomeExporter {
    suite: CipherSuite,
    exporter_secret: Vec<u8>,
}

impl WelcomeExporter {
    /// `None` if the Welcome is for another leaf.
    pub fn new(leaf: &OtherLeaf, welcome: &[u8]) -> Option<Self> {
        let parsed = WelcomeMessage::tls_deserialize_exact_bytes(welcome).unwrap();
        let store = leaf.mls.key_package_store();
        let (own, encrypted) = parsed.secrets.iter().find_map(|secrets| {
            let own = KeyPackageStorage::get(&store, secrets.new_member.as_slice()).unwrap();
            Some((own?, secrets))
        })?;
        let package = KeyPackage::mls_decode(&mut own.key_package_bytes.as_slice()).unwrap();
        let suite = provider(leaf.key.suite);
        let info = EncryptContext {
            label: opaque(*b"MLS 1.0 Welcome"),
            context: parsed.encrypted_group_info,
        };
        let ciphertext = HpkeCiphertext {
            kem_output: encrypted.kem_output.as_slice().to_vec(),
            ciphertext: encrypted.ciphertext.as_slice().to_vec(),
        };
        let secrets = suite
            .hpke_open(
                &ciphertext,
                &own.init_key,
                &package.hpke_init_key,
                &info.tls_serialize_detached().unwrap(),
                None,
            )
            .unwrap();
        let secrets = GroupSecrets::tls_deserialize_exact_bytes(&secrets).unwrap();
        assert_eq!(secrets.psks.as_slice(), b"", "no group here has PSKs");

        let message = MlsMessage::from_bytes(welcome).unwrap();
        let group_info = leaf.mls.examine_welcome_message(&message).unwrap();
        let context = group_info.group_context().mls_encode_to_vec().unwrap();
        let no_psk = vec![0; suite.kdf_extract_size()];
        let member_secret = suite
            .kdf_extract(secrets.joiner_secret.as_slice(), &no_psk)
            .unwrap();
        let length = suite.kdf_extract_size();
        let epoch_secret = expand_with_label(&suite, &member_secret, "epoch", &context, length);
        Some(Self {
            suite: leaf.key.suite,
            exporter_secret: expand_with_label(&suite, &epoch_secret, "exporter", b"", length),
        })
    }

    /// 32 bytes, with an empty context.
    pub fn export(&self, label: &str) -> [u8; 32] {
        let suite = provider(self.suite);
        let length = suite.kdf_extract_size();
        let secret = expand_with_label(&suite, &self.exporter_secret, label, b"", length);
        let empty = suite.hash(b"").unwrap();
        expand_with_label(&suite, &secret, "exported", &empty, 32)
            .try_into()
            .unwrap()
    }
}

/// What `mls-rs` made, as openmls validates it.
pub fn key_package_of(message: &[u8]) -> openmls::prelude::KeyPackage {
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
pub fn key_package_message(package: openmls::prelude::KeyPackage) -> MlsMessage {
    let message = mls_codec::Serialize::tls_serialize_detached(&MlsMessageOut::from(package));
    MlsMessage::from_bytes(&message.unwrap()).unwrap()
}
