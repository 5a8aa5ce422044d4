//! Commits without a path that the MLS library does not make, byte by byte (RFC 9420 §6, §8.2, §12.4.3). The two
//! tags need secrets and are made up: the service sees neither, members would refuse.

use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, ProposalStore, PublicGroup, RatchetTreeIn};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::OpenMlsProvider as _;
use protocol::ids::GroupId;
use protocol::{Operation, Wire};
use sha2::{Digest, Sha256};

use super::client::Client;
use super::commits::{Commit, group_info_of, honest_aad};

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
pub fn reinit(successor: &[u8], version: u16, ciphersuite: u16) -> Vec<u8> {
    [
        &[1, 0, 5][..],
        &vector(successor),
        &version.to_be_bytes(),
        &ciphersuite.to_be_bytes(),
        &[0],
    ]
    .concat()
}

/// The extensions of the GroupInfo of this epoch.
fn extensions_of(client: &Client, id: &GroupId) -> Vec<u8> {
    let (info, _) = group_info_of(client, id);
    let MlsMessageBodyIn::GroupInfo(info) = MlsMessageIn::tls_deserialize_exact_bytes(&info)
        .unwrap()
        .extract()
    else {
        panic!("not a GroupInfo");
    };
    info.extensions().tls_serialize_detached().unwrap()
}

/// A group as somebody without its secrets sees it.
pub fn public_group_of(client: &Client, id: &GroupId) -> PublicGroup {
    let (info, tree) = group_info_of(client, id);
    let MlsMessageBodyIn::GroupInfo(info) = MlsMessageIn::tls_deserialize_exact_bytes(&info)
        .unwrap()
        .extract()
    else {
        panic!("not a GroupInfo");
    };
    let provider = OpenMlsRustCrypto::default();
    let tree = RatchetTreeIn::tls_deserialize_exact_bytes(&tree).unwrap();
    let (public, _) = PublicGroup::from_external(
        provider.crypto(),
        provider.storage(),
        tree,
        info,
        ProposalStore::new(),
    )
    .unwrap();
    public
}

impl Client {
    /// A commit's GroupInfo with other extensions, properly signed (RFC 9420 §12.4.3.1).
    pub fn sign_other_extensions(&self, commit: &Commit, extensions: Vec<u8>) -> Commit {
        let info = &commit.group_info;
        let signature = vector(&commit.signature);
        let content = info.strip_suffix(signature.as_slice()).unwrap();
        let at = content
            .windows(commit.extensions.len())
            .rposition(|window| window == commit.extensions)
            .unwrap();
        let (context, rest) = content.split_at(at);
        let content = [context, &extensions, &rest[commit.extensions.len()..]].concat();
        let signer = &self.group(&commit.group).signer.0;
        Commit {
            signature: signer.sign_bytes(&sign_content("GroupInfoTBS", &content)),
            extensions,
            ..commit.clone()
        }
    }

    /// A commit of these proposals (`ProposalOrRef`, encoded) without a path.
    pub fn commit_by_hand(&self, id: &GroupId, operation: Operation, proposals: &[u8]) -> Commit {
        const VERSION_AND_PUBLIC_MESSAGE: [u8; 4] = [0, 1, 0, 1];
        let group = self.group(id);
        let own = group.mls.own_leaf_index().u32();
        let public = public_group_of(self, id);
        let context = public.group_context();
        let epoch = context.epoch().as_u64();
        let content = [
            &vector(&id.0)[..],
            &epoch.to_be_bytes(),
            &[1],
            &own.to_be_bytes(),
            &vector(&honest_aad(Vec::new(), false).encode()),
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
        let key = &group.signer.0;
        let signature = key.sign_bytes(&sign_content("FramedContentTBS", &tbs));
        let tag = vector(&[7; 32]);

        let interim = Sha256::new()
            .chain_update(context.confirmed_transcript_hash())
            .chain_update(
                group
                    .mls
                    .confirmation_tag()
                    .tls_serialize_detached()
                    .unwrap(),
            )
            .finalize();
        let confirmed = Sha256::new()
            .chain_update(interim)
            .chain_update([0, 1])
            .chain_update(&content)
            .chain_update(vector(&signature))
            .finalize();
        let next_context = [
            &[0, 1][..],
            &u16::from(group.mls.ciphersuite()).to_be_bytes(),
            &vector(&id.0),
            &(epoch + 1).to_be_bytes(),
            &vector(context.tree_hash()),
            &vector(&confirmed),
            &context.extensions().tls_serialize_detached().unwrap(),
        ]
        .concat();
        // Any key will do for who has no secrets.
        let extensions = extensions_of(self, id);
        let info = [&next_context[..], &extensions, &tag, &own.to_be_bytes()].concat();
        Commit {
            operation,
            group: *id,
            state_key: group.state_key,
            next_state_key: None,
            commit: [
                &VERSION_AND_PUBLIC_MESSAGE[..],
                &content,
                &vector(&signature),
                &tag,
                &vector(&[8; 32]),
            ]
            .concat(),
            extensions,
            signature: key.sign_bytes(&sign_content("GroupInfoTBS", &info)),
            group_info: Vec::new(),
            welcome: None,
        }
    }
}
