//! A client on `mls-rs`, another implementation of RFC 9420: groups, leaf keys and the signatures of requests are
//! that library's; queue and identity, which are not MLS, those of the kit's client.

mod commits;
mod identity;
mod inbox;
mod joins;
pub mod participant;
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use crypto::credential::{
    CREDENTIAL_TYPE, PseudonymousCredential, QUEUE_REFERENCE_EXTENSION, random_pseudonym,
    wrap_link_key,
};
use crypto::keys::{IdentityLinkKey, IdentityLinkWrapperKey};
use crypto::queue::seal_reference;
use crypto::sign::{Scheme, sign_content};
use mls_rs::client_builder::{BaseConfig, WithCryptoProvider, WithIdentityProvider, WithMlsRules};
use mls_rs::crypto::{SignaturePublicKey, SignatureSecretKey};
use mls_rs::extension::ExtensionType;
use mls_rs::extension::built_in::{ExternalSendersExt, RequiredCapabilitiesExt};
use mls_rs::group::GroupContext;
use mls_rs::identity::basic::BasicCredential;
use mls_rs::identity::{Credential, CredentialType, CustomCredential, SigningIdentity};
use mls_rs::mls_rules::{CommitOptions, DefaultMlsRules};
use mls_rs::{
    CipherSuite, CipherSuiteProvider as _, CryptoProvider as _, Extension, ExtensionList, Group,
    MlsMessage,
};
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use protocol::codec::{WireSecret, opaque};
use protocol::envelope::{REQUEST_LABEL, RequestTbs, Sender};
use protocol::groups::{
    CreateGroupRequest, EpochAccepted, GroupKind, ReserveGroupIdRequest, ReserveGroupIdResponse,
    SendMessageRequest,
};
use protocol::ids::GroupId;
use protocol::policy::{GroupPolicy, POLICY_EXTENSION};
use protocol::{Operation, Wire};
use tls_codec::{Serialize as _, VLBytes};

use super::client::{Client, Invitee};
use super::request::Draft;
use super::{DOMAIN, Service};
use identity::{Pseudonymous, pseudonyms};
use wire::key_package_of;

/// `mls-rs` with a leaf's identity.
pub type Mls = mls_rs::Client<Config>;
pub type Config = WithIdentityProvider<
    Pseudonymous,
    WithMlsRules<DefaultMlsRules, WithCryptoProvider<RustCryptoProvider, BaseConfig>>,
>;

/// The signature key of a leaf, in the hands of `mls-rs`.
#[derive(Clone)]
pub struct Key {
    suite: CipherSuite,
    secret: SignatureSecretKey,
    public: SignaturePublicKey,
}

impl Key {
    fn random(suite: CipherSuite) -> Self {
        let (secret, public) = provider(suite).signature_key_generate().unwrap();
        Self {
            suite,
            secret,
            public,
        }
    }

    /// `SignWithLabel` of this protocol.
    pub fn sign(&self, label: &str, content: &[u8]) -> Vec<u8> {
        let content = sign_content(label, content);
        provider(self.suite).sign(&self.secret, &content).unwrap()
    }

    fn sign_request(&self, draft: &Draft) -> Vec<u8> {
        let tbs = RequestTbs {
            version: draft.version,
            operation: draft.operation,
            timestamp_ms: draft.timestamp_ms,
            sender: &draft.sender,
            body: &VLBytes::new(draft.body.clone()),
        };
        draft.with_signature(self.sign(REQUEST_LABEL, &tbs.tls_serialize_detached().unwrap()))
    }

    /// A request of the key itself, paid for.
    async fn call<T: Wire>(&self, service: &Service, operation: Operation, body: &impl Wire) -> T {
        let sender = Sender::Key(opaque(self.public.as_bytes()));
        let draft = Draft::new(service, operation, sender, body.encode());
        let request = self.sign_request(&draft);
        service.pay(operation, &request).await.accepted()
    }
}

fn provider(suite: CipherSuite) -> impl mls_rs::CipherSuiteProvider {
    RustCryptoProvider::new()
        .cipher_suite_provider(suite)
        .unwrap()
}

/// A leaf that is about to come in.
pub struct OtherLeaf {
    key: Key,
    identity: SigningIdentity,
    mls: Mls,
    extensions: ExtensionList,
    link_key: [u8; 32],
    user: Vec<u8>,
}

/// What a member keeps of a group.
pub struct OtherMembership {
    pub mls: Group<Config>,
    key: Key,
    /// Of a pending update of the credential.
    next_key: Option<Key>,
    /// Nothing but its deletion is left to do.
    pub reinitialized: bool,
    pub state_key: [u8; 32],
    wrapper: [u8; 32],
    recovery: [u8; 32],
}

pub struct OtherClient {
    /// Queue and identity.
    pub kit: Client,
    pub suite: CipherSuite,
    pub groups: BTreeMap<GroupId, OtherMembership>,
    /// Of KeyPackages that nobody has used yet.
    invited: Vec<OtherLeaf>,
}

/// Everything that the service wants to see in a commit: GroupInfo for external commits, a path; and no tree in a
/// Welcome, since joiners get it from the service.
fn rules() -> DefaultMlsRules {
    DefaultMlsRules::new().with_commit_options(
        CommitOptions::new()
            .with_path_required(true)
            .with_ratchet_tree_extension(false)
            .with_allow_external_commit(true),
    )
}

fn export(group: &Group<Config>, label: &str) -> [u8; 32] {
    let secret = group.export_secret(label.as_bytes(), b"", 32).unwrap();
    secret.as_bytes().try_into().unwrap()
}

fn policy_extension(policy: &GroupPolicy) -> Extension {
    Extension::new(ExtensionType::new(POLICY_EXTENSION), policy.encode())
}

fn scheme_of(suite: CipherSuite) -> Scheme {
    if suite == CipherSuite::P256_AES128 {
        Scheme::EcdsaP256
    } else {
        Scheme::Ed25519
    }
}

impl OtherClient {
    pub async fn of_suite(service: &Service, suite: CipherSuite) -> Self {
        Self {
            kit: Client::new(service).await,
            suite,
            groups: BTreeMap::new(),
            invited: Vec::new(),
        }
    }

    pub fn leaf(&self, service: &Service) -> OtherLeaf {
        self.leaf_of_user(service, random_pseudonym(DOMAIN).unwrap().as_slice())
    }

    pub fn leaf_of_user(&self, service: &Service, user: &[u8]) -> OtherLeaf {
        let key = Key::random(self.suite);
        let (credential, link_key) = PseudonymousCredential::issue(
            DOMAIN,
            opaque(user),
            &key.public,
            (&self.kit.credential(), &self.kit.identity),
            &self.kit.connection_key,
        )
        .unwrap();
        let (key_id, service_key) = service.queue_service_key();
        let reference = seal_reference(key_id, &service_key, &key.public, &self.kit.queue).unwrap();
        let credential =
            CustomCredential::new(CredentialType::new(CREDENTIAL_TYPE), credential.encode());
        let identity = SigningIdentity::new(Credential::Custom(credential), key.public.clone());
        // It counts from the time that is given when the package is made: 0.
        let end = super::client::lifetime(service, 84 * 24 * 60 * 60).not_after();
        let mls = mls_rs::Client::builder()
            .key_package_lifetime(Duration::from_secs(end))
            .crypto_provider(RustCryptoProvider::new())
            .mls_rules(rules())
            .identity_provider(Pseudonymous)
            .extension_types([QUEUE_REFERENCE_EXTENSION, POLICY_EXTENSION].map(ExtensionType::new))
            .signing_identity(identity.clone(), key.secret.clone(), self.suite)
            .build();
        let reference = Extension::new(ExtensionType::new(QUEUE_REFERENCE_EXTENSION), reference);
        OtherLeaf {
            key,
            identity,
            mls,
            extensions: vec![reference].into(),
            link_key: *link_key.expose(),
            user: user.to_vec(),
        }
    }

    pub fn invitee(&mut self, service: &Service) -> Invitee {
        let leaf = self.leaf(service);
        self.invitee_with(leaf)
    }

    pub fn invitee_with(&mut self, leaf: OtherLeaf) -> Invitee {
        let message = leaf
            .mls
            .generate_key_package_message(
                ExtensionList::new(),
                leaf.extensions.clone(),
                Some(0.into()),
            )
            .unwrap();
        let invitee = Invitee {
            key_package: key_package_of(&message.to_bytes().unwrap()),
            link_key: leaf.link_key,
        };
        self.invited.push(leaf);
        invitee
    }

    fn context(&self, service: &Service, kind: GroupKind, leaf: &OtherLeaf) -> ExtensionList {
        let mut context = ExtensionList::new();
        let service_key = service.external_sender(scheme_of(self.suite));
        let service_identity = SigningIdentity::new(
            BasicCredential::new(b"the service".to_vec()).into_credential(),
            service_key.into(),
        );
        context
            .set_from(ExternalSendersExt::new(vec![service_identity]))
            .unwrap();
        context
            .set_from(RequiredCapabilitiesExt::new(
                [QUEUE_REFERENCE_EXTENSION, POLICY_EXTENSION]
                    .map(ExtensionType::new)
                    .to_vec(),
                Vec::new(),
                vec![CredentialType::new(CREDENTIAL_TYPE)],
            ))
            .unwrap();
        if kind == GroupKind::Group {
            context.set(policy_extension(&GroupPolicy::of_creator(opaque(
                leaf.user.as_slice(),
            ))));
        }
        context
    }

    pub async fn create_group(&mut self, service: &Service, kind: GroupKind) -> GroupId {
        let leaf = self.leaf(service);
        let ReserveGroupIdResponse { group_id } = leaf
            .key
            .call(
                service,
                Operation::ReserveGroupId,
                &ReserveGroupIdRequest {},
            )
            .await;
        let mls = leaf
            .mls
            .create_group_with_id(
                group_id.0.to_vec(),
                self.context(service, kind, &leaf),
                leaf.extensions.clone(),
                None,
            )
            .unwrap();
        let membership = OtherMembership {
            state_key: export(&mls, "state key"),
            wrapper: crypto::random().unwrap(),
            recovery: crypto::random().unwrap(),
            key: leaf.key,
            next_key: None,
            reinitialized: false,
            mls,
        };
        let group_info = membership
            .mls
            .group_info_message_allowing_ext_commit(false)
            .unwrap();
        let request = CreateGroupRequest {
            group_id,
            state_key: WireSecret::new(membership.state_key),
            kind,
            ratchet_tree: opaque(membership.mls.export_tree().to_bytes().unwrap()),
            group_info: opaque(group_info.to_bytes().unwrap()),
            encrypted_identity_link_key: opaque(wrapped(&membership.wrapper, &leaf.link_key)),
            recovery_secret: WireSecret::new(membership.recovery),
        };
        let accepted: EpochAccepted = membership
            .key
            .call(service, Operation::CreateGroup, &request)
            .await;
        assert_eq!(accepted.epoch, 0);
        self.groups.insert(group_id, membership);
        group_id
    }

    pub fn group(&self, id: &GroupId) -> &OtherMembership {
        self.groups.get(id).unwrap()
    }

    /// Signs a body as the client's leaf.
    pub fn leaf_request(
        &self,
        service: &Service,
        id: &GroupId,
        operation: Operation,
        body: Vec<u8>,
    ) -> Vec<u8> {
        let group = self.group(id);
        let sender = Sender::Leaf(group.mls.current_member_index());
        let draft = Draft::new(service, operation, sender, body);
        group.key.sign_request(&draft)
    }

    pub fn text_request(&mut self, service: &Service, id: &GroupId, text: &[u8]) -> Vec<u8> {
        let group = self.groups.get_mut(id).unwrap();
        let message: MlsMessage = group
            .mls
            .encrypt_application_message(text, Vec::new())
            .unwrap();
        let body = SendMessageRequest {
            group_id: *id,
            state_key: WireSecret::new(group.state_key),
            message: opaque(message.to_bytes().unwrap()),
        };
        self.leaf_request(service, id, Operation::SendMessage, body.encode())
    }

    pub fn policy(&self, id: &GroupId) -> GroupPolicy {
        let context: &GroupContext = self.group(id).mls.context();
        let extension = context
            .extensions
            .get(ExtensionType::new(POLICY_EXTENSION))
            .unwrap();
        GroupPolicy::decode(extension.extension_data()).unwrap()
    }

    pub fn user(&self, id: &GroupId) -> Vec<u8> {
        let group = self.group(id);
        let own = group.mls.current_member_signing_identity().unwrap();
        pseudonyms(own).unwrap().user_pseudonym.into()
    }

    pub fn members(&self, id: &GroupId) -> Vec<u32> {
        let roster = self.group(id).mls.roster();
        roster.members_iter().map(|member| member.index).collect()
    }
}

/// An identity link key as the service keeps it.
fn wrapped(wrapper: &[u8; 32], link_key: &[u8; 32]) -> Vec<u8> {
    let wrapper = IdentityLinkWrapperKey::new(*wrapper);
    wrap_link_key(&wrapper, &IdentityLinkKey::new(*link_key)).unwrap()
}
