//! A group of the service's own under the id of a real one: what a lying service would have a
//! client come into.

use crypto::credential::{CREDENTIAL_TYPE, PseudonymousCredential, random_pseudonym};
use crypto::keys::ConnectionKey;
use crypto::sign::{LeafKeyPair, Scheme, SignatureKeyPair};
use openmls::group::{GroupContext, MlsGroupJoinConfig};
use openmls::prelude::{
    Capabilities, Ciphersuite, Credential, CredentialType, CredentialWithKey, ExtensionType,
    Extensions, GroupId as MlsGroupId, KeyPackage, KeyPackageIn, LeafNodeIndex, LeafNodeParameters,
    MlsGroup, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _,
    PURE_PLAINTEXT_WIRE_FORMAT_POLICY, ProcessedMessageContent, ProposalType, ProtocolMessage,
    ProtocolVersion, RatchetTreeIn, SignatureScheme,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::{Signer, SignerError};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::connections::ClientCredential;
use protocol::group::CommitAad;
use protocol::ids::{Epoch, GroupId};
use protocol::join::{ExternalCommitInfoResponse, LeafLinkKey};
use protocol::policy::POLICY_EXTENSION;
use tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};

const SUITE: Ciphersuite = Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519;

struct Key(LeafKeyPair);

impl Signer for Key {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign_bytes(payload))
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// The context extensions in a GroupInfo that was heard.
#[must_use]
pub fn context_of(group_info: &[u8]) -> Extensions<GroupContext> {
    match MlsMessageIn::tls_deserialize_exact_bytes(group_info).map(MlsMessageIn::extract) {
        Ok(MlsMessageBodyIn::GroupInfo(info)) => info.group_context().extensions().clone(),
        _ => panic!("a GroupInfo"),
    }
}

/// The KeyPackages that a commit adds by value (RFC 9420 §12.4): genuine ones of users.
#[must_use]
pub fn added_by(commit: &[u8]) -> Vec<KeyPackage> {
    // version, wire format; group id, epoch, sender (a member), authenticated data, content type
    // commit
    let (_, rest) = u32::tls_deserialize_bytes(commit).expect("a message");
    let (_, rest) = VLBytes::tls_deserialize_bytes(rest).expect("a group id");
    let (_, rest) = u64::tls_deserialize_bytes(rest).expect("an epoch");
    let (_, rest) = u8::tls_deserialize_bytes(rest).expect("a sender");
    let (_, rest) = u32::tls_deserialize_bytes(rest).expect("a leaf");
    let (_, rest) = VLBytes::tls_deserialize_bytes(rest).expect("authenticated data");
    let (content, rest) = u8::tls_deserialize_bytes(rest).expect("a content type");
    assert_eq!(content, 3, "a commit");
    let (proposals, _) = VLBytes::tls_deserialize_bytes(rest).expect("proposals");
    let crypto = OpenMlsRustCrypto::default();
    let mut rest = proposals.as_slice();
    let mut added = Vec::new();
    while let [1, 0, 1, key_package @ ..] = rest {
        let (package, after) =
            KeyPackageIn::tls_deserialize_bytes(key_package).expect("a KeyPackage");
        added.push(
            package
                .validate(crypto.crypto(), ProtocolVersion::Mls10)
                .expect("genuine"),
        );
        rest = after;
    }
    added
}

/// A leaf of somebody whom nobody knows.
fn stranger() -> (Key, CredentialWithKey) {
    let signer = Key(LeafKeyPair::random(Scheme::Ed25519).expect("a key"));
    let identity = SignatureKeyPair::random().expect("a key");
    let real = ClientCredential {
        name: opaque(*b"a.friend"),
        signature_public_key: opaque(identity.public()),
    };
    let (pseudonymous, _) = PseudonymousCredential::issue(
        "d.example",
        random_pseudonym("d.example").expect("a pseudonym"),
        &signer.0.public(),
        &real,
        &identity,
        &ConnectionKey::new([7; 32]),
    )
    .expect("a credential");
    let credential = CredentialWithKey {
        credential: Credential::new(
            CredentialType::Other(CREDENTIAL_TYPE),
            pseudonymous.encode(),
        ),
        signature_key: signer.0.public().into(),
    };
    (signer, credential)
}

fn capabilities() -> Capabilities {
    Capabilities::new(
        None,
        Some(&[SUITE]),
        Some(&[
            ExtensionType::Unknown(POLICY_EXTENSION),
            ExtensionType::LastResort,
        ]),
        Some(&[ProposalType::SelfRemove]),
        Some(&[
            CredentialType::Other(CREDENTIAL_TYPE),
            CredentialType::Basic,
        ]),
    )
}

/// The group.
pub struct FalseGroup {
    provider: OpenMlsRustCrypto,
    group: MlsGroup,
    signer: Key,
    read: Vec<Vec<u8>>,
}

impl FalseGroup {
    /// Makes it, with the service's own leaf and these members.
    #[must_use]
    pub fn make(id: GroupId, context: Extensions<GroupContext>, members: &[KeyPackage]) -> Self {
        let provider = OpenMlsRustCrypto::default();
        let (signer, credential) = stranger();
        let mut group = MlsGroup::builder()
            .with_group_id(MlsGroupId::from_slice(&id.0))
            .ciphersuite(SUITE)
            .with_wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .with_group_context_extensions(context)
            .with_capabilities(capabilities())
            .build(&provider, &signer, credential)
            .expect("a group");
        if !members.is_empty() {
            group
                .add_members(&provider, &signer, members)
                .expect("added");
            group.merge_pending_commit(&provider).expect("merged");
        }
        Self {
            provider,
            group,
            signer,
            read: Vec::new(),
        }
    }

    /// Moves it to a later epoch.
    pub fn advance(&mut self, epochs: usize) {
        for _ in 0..epochs {
            self.group
                .self_update(&self.provider, &self.signer, Default::default())
                .expect("an update");
            self.group
                .merge_pending_commit(&self.provider)
                .expect("merged");
        }
    }

    /// What an external committer is given, with these wrapped identity link keys.
    #[must_use]
    pub fn info(&self, leaves: Vec<LeafLinkKey>) -> ExternalCommitInfoResponse {
        let info = self
            .group
            .export_group_info(self.provider.crypto(), &self.signer, false)
            .expect("a GroupInfo");
        let tree = self.group.export_ratchet_tree();
        ExternalCommitInfoResponse {
            epoch: Epoch(self.epoch()),
            group_info: opaque(info.tls_serialize_detached().expect("encoded")),
            ratchet_tree: opaque(tree.tls_serialize_detached().expect("encoded")),
            leaves,
            wrapper_chain: Vec::new(),
            codes: Vec::new(),
        }
    }

    fn process(&mut self, message: &[u8]) -> Option<ProcessedMessageContent> {
        let message = MlsMessageIn::tls_deserialize_exact_bytes(message).ok()?;
        let message: ProtocolMessage = message.try_into_protocol_message().ok()?;
        let processed = self.group.process_message(&self.provider, message).ok()?;
        Some(processed.into_content())
    }

    /// A client has come in, or made another commit. Says whether it was for this group.
    ///
    /// # Panics
    /// When the library has verified it and does not merge it.
    pub fn take(&mut self, commit: &[u8]) -> bool {
        match self.process(commit) {
            Some(ProcessedMessageContent::StagedCommitMessage(staged)) => {
                self.group
                    .merge_staged_commit(&self.provider, *staged)
                    .expect("merged");
                true
            }
            _ => false,
        }
    }

    /// Reads a message that a client has sent, if it is for this group.
    pub fn hear(&mut self, message: &[u8]) {
        if let Some(ProcessedMessageContent::ApplicationMessage(message)) = self.process(message) {
            self.read.push(message.into_bytes());
        }
    }

    /// What the service has read.
    #[must_use]
    pub fn read(&self) -> &[Vec<u8>] {
        &self.read
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.group.epoch().as_u64()
    }

    /// The leaves.
    #[must_use]
    pub fn leaves(&self) -> Vec<LeafNodeIndex> {
        self.group.members().map(|member| member.index).collect()
    }
}

impl FalseGroup {
    /// Comes into a genuine group by an external commit of the service's own, which it could do at
    /// any time: whatever an external committer needs it has. Returns the commit.
    #[must_use]
    pub fn break_in(info: &ExternalCommitInfoResponse) -> (Self, Vec<u8>) {
        let provider = OpenMlsRustCrypto::default();
        let (signer, credential) = stranger();
        let group_info = match MlsMessageIn::tls_deserialize_exact_bytes(info.group_info.as_slice())
            .map(MlsMessageIn::extract)
        {
            Ok(MlsMessageBodyIn::GroupInfo(info)) => info,
            _ => panic!("a GroupInfo"),
        };
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(info.ratchet_tree.as_slice());
        let aad = CommitAad {
            rotates: 0,
            authorization: None,
            encrypted_connection_response: opaque(*b""),
        };
        let parameters = LeafNodeParameters::builder()
            .with_capabilities(capabilities())
            .build();
        let (group, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(tree.expect("a tree"))
            .with_config(
                MlsGroupJoinConfig::builder()
                    .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
                    .build(),
            )
            .with_aad(aad.encode())
            .skip_lifetime_validation()
            .build_group(&provider, group_info, credential)
            .expect("a group")
            .leaf_node_parameters(parameters)
            .load_psks(provider.storage())
            .expect("no PSKs")
            .build(provider.rand(), provider.crypto(), &signer, |_| true)
            .expect("a commit")
            .finalize(&provider)
            .expect("finalized");
        let commit = bundle.commit().tls_serialize_detached().expect("encoded");
        let this = Self {
            provider,
            group,
            signer,
            read: Vec::new(),
        };
        (this, commit)
    }
}
