//! Commits that the MLS library does not make, byte by byte (RFC 9420 §6, §8.2, §12.4.3). The two
//! tags need secrets and are made up: the service sees neither, members would refuse.

use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};
use openmls::prelude::{
    KeyPackage, KeyPackageIn, MlsMessageBodyIn, ProposalStore, ProtocolVersion, PublicGroup,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::OpenMlsProvider as _;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::group::{CommitRequest, PartialGroupInfo};
use sha2::{Digest as _, Sha256};

use super::kit::{Client, Invitee, aad, copy};

fn vector(bytes: &[u8]) -> Vec<u8> {
    VLBytes::new(bytes.to_vec())
        .tls_serialize_detached()
        .unwrap()
}

fn sign_content(label: &str, content: &[u8]) -> Vec<u8> {
    let label = [b"MLS 1.0 ", label.as_bytes()].concat();
    [vector(&label), vector(content)].concat()
}

/// A ReInit proposal by value (RFC 9420 §12.1.5).
pub(super) fn reinit(successor: &[u8], version: u16, ciphersuite: u16) -> Vec<u8> {
    [
        &[1, 0, 5][..],
        &vector(successor),
        &version.to_be_bytes(),
        &ciphersuite.to_be_bytes(),
        &[0],
    ]
    .concat()
}

/// A commit's GroupInfo with other extensions, properly signed (RFC 9420 §12.4.3.1).
pub(super) fn sign_other_extensions(
    client: &Client,
    request: &CommitRequest,
    info: &[u8],
    extensions: Vec<u8>,
) -> CommitRequest {
    let PartialGroupInfo {
        extensions: honest,
        signature,
    } = &request.group_info;
    let content = info
        .strip_suffix(vector(signature.as_slice()).as_slice())
        .unwrap();
    let honest = honest.as_slice();
    let at = content
        .windows(honest.len())
        .rposition(|window| window == honest)
        .unwrap();
    let (context, rest) = content.split_at(at);
    let content = [context, &extensions, &rest[honest.len()..]].concat();
    let signature = client
        .signer
        .0
        .sign_bytes(&sign_content("GroupInfoTBS", &content));
    CommitRequest {
        group_info: PartialGroupInfo {
            extensions: opaque(extensions),
            signature: opaque(signature),
        },
        ..copy(request)
    }
}

/// The KeyPackage with another encryption key in its leaf, properly signed (RFC 9420 §7.2, §10).
pub(super) fn with_encryption_key(
    invitee: &Invitee,
    twist: impl Fn(Vec<u8>) -> Vec<u8>,
) -> KeyPackage {
    let sign = |label, content: &[u8]| {
        let signature = invitee.signer.0.sign_bytes(&sign_content(label, content));
        [content, &vector(&signature)].concat()
    };
    let unsigned = |bytes: &[u8]| {
        let signature = vector(&invitee.signer.0.sign_bytes(b"any"));
        bytes[..bytes.len() - signature.len()].to_vec()
    };
    let package = &invitee.key_package;
    let leaf = package.leaf_node().tls_serialize_detached().unwrap();
    let (key, rest) = VLBytes::tls_deserialize_bytes(&leaf).unwrap();
    let key = vector(&twist(key.into()));
    let other = sign("LeafNodeTBS", &[key, unsigned(rest)].concat());
    let bytes = unsigned(&package.tls_serialize_detached().unwrap());
    let at = bytes
        .windows(leaf.len())
        .position(|window| window == leaf)
        .unwrap();
    let (before, after) = (&bytes[..at], &bytes[at + leaf.len()..]);
    let bytes = sign("KeyPackageTBS", &[before, &other, after].concat());
    let crypto = OpenMlsRustCrypto::default();
    KeyPackageIn::tls_deserialize_exact_bytes(&bytes)
        .unwrap()
        .validate(crypto.crypto(), ProtocolVersion::Mls10)
        .unwrap()
}

/// A commit of these proposals (`ProposalOrRef`, encoded) without a path.
pub(super) fn commit(client: &Client, proposals: &[u8]) -> CommitRequest {
    const VERSION_AND_PUBLIC_MESSAGE: [u8; 4] = [0, 1, 0, 1];
    let own = client.index();
    let (info, tree) = client.told();
    let MlsMessageBodyIn::GroupInfo(info) = info.extract() else {
        panic!("not a GroupInfo");
    };
    let extensions = info.extensions().tls_serialize_detached().unwrap();
    let provider = OpenMlsRustCrypto::default();
    let (public, _) = PublicGroup::from_external(
        provider.crypto(),
        provider.storage(),
        tree,
        info,
        ProposalStore::new(),
    )
    .unwrap();
    let context = public.group_context();
    let epoch = context.epoch().as_u64();
    let content = [
        &vector(&client.id.0)[..],
        &epoch.to_be_bytes(),
        &[1],
        &own.to_be_bytes(),
        &vector(&aad(false).encode()),
        &[3],
        &vector(proposals),
        &[0],
    ]
    .concat();
    let tbs = [
        &VERSION_AND_PUBLIC_MESSAGE[..],
        &content,
        &context.tls_serialize_detached().unwrap(),
    ]
    .concat();
    let key = &client.signer.0;
    let signature = key.sign_bytes(&sign_content("FramedContentTBS", &tbs));
    let tag = vector(&[7; 32]);
    let confirmation = client
        .mls
        .confirmation_tag()
        .tls_serialize_detached()
        .unwrap();
    let interim = Sha256::new()
        .chain_update(context.confirmed_transcript_hash())
        .chain_update(confirmation)
        .finalize();
    let confirmed = Sha256::new()
        .chain_update(interim)
        .chain_update([0, 1])
        .chain_update(&content)
        .chain_update(vector(&signature))
        .finalize();
    let next_context = [
        &[0, 1][..],
        &u16::from(client.mls.ciphersuite()).to_be_bytes(),
        &vector(&client.id.0),
        &(epoch + 1).to_be_bytes(),
        &vector(context.tree_hash()),
        &vector(&confirmed),
        &context.extensions().tls_serialize_detached().unwrap(),
    ]
    .concat();
    // Any key will do for who has no secrets.
    let info = [&next_context[..], &extensions, &tag, &own.to_be_bytes()].concat();
    CommitRequest {
        group: client.key(),
        commit: opaque(
            [
                &VERSION_AND_PUBLIC_MESSAGE[..],
                &content,
                &vector(&signature),
                &tag,
                &vector(&[8; 32]),
            ]
            .concat(),
        ),
        group_info: PartialGroupInfo {
            extensions: opaque(extensions),
            signature: opaque(key.sign_bytes(&sign_content("GroupInfoTBS", &info))),
        },
        rotation: None,
        link_keys: Vec::new(),
        committer: None,
        welcome: None,
    }
}
