//! A client as the SDK would be: real MLS state, a queue, pseudonyms; but every step by hand.

use std::collections::BTreeMap;

use crypto::credential::{
    CREDENTIAL_TYPE, PseudonymousCredential, QUEUE_REFERENCE_EXTENSION, random_pseudonym,
    wrap_link_key,
};
use crypto::hpke::HpkeKeyPair;
use crypto::keys::{ConnectionKey, IdentityLinkKey, IdentityLinkWrapperKey, RecoverySecret};
use crypto::queue::seal_reference;
use crypto::secret::Secret;
use crypto::sign::{LeafKeyPair, Scheme, SignatureKeyPair};
use openmls::group::{GroupContext, MlsGroupJoinConfig};
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, Credential, CredentialType, CredentialWithKey,
    Extension, ExtensionType, Extensions, ExternalSender, KeyPackage, LeafNode, Lifetime, MlsGroup,
    OpenMlsProvider as _, PURE_PLAINTEXT_WIRE_FORMAT_POLICY, ProposalType,
    RequiredCapabilitiesExtension, SignatureScheme, UnknownExtension,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::{Signer, SignerError};
use protocol::codec::{WireSecret, opaque};
use protocol::connections::ClientCredential;
use protocol::envelope::Sender;
use protocol::groups::{
    CreateGroupRequest, EpochAccepted, GroupKind, ReserveGroupIdRequest, ReserveGroupIdResponse,
    SendMessageRequest,
};
use protocol::ids::{GroupId, QueueId};
use protocol::policy::{GroupPolicy, POLICY_EXTENSION};
use protocol::queues::{CreateQueueRequest, CreateQueueResponse};
use protocol::{Operation, Wire};

use service::Clock as _;

use super::request::{Draft, copy, fresh_key};
use super::{DOMAIN, Service};

pub const CIPHERSUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

/// Every suite that the service takes.
pub const CIPHERSUITES: [Ciphersuite; 5] = [
    CIPHERSUITE,
    Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
    Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
    Ciphersuite::MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519,
    Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519,
];

pub struct LeafSigner(pub LeafKeyPair);

impl Signer for LeafSigner {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign_bytes(payload))
    }

    fn signature_scheme(&self) -> SignatureScheme {
        match self.0.scheme() {
            Scheme::Ed25519 => SignatureScheme::ED25519,
            Scheme::EcdsaP256 => SignatureScheme::ECDSA_SECP256R1_SHA256,
        }
    }
}

/// What is wrong with a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    NoQueueReference,
    QueueReferenceOfAnotherLeaf,
    BasicCredential,
    CredentialForAnotherKey,
}

pub const FLAWS: [Flaw; 4] = [
    Flaw::NoQueueReference,
    Flaw::QueueReferenceOfAnotherLeaf,
    Flaw::BasicCredential,
    Flaw::CredentialForAnotherKey,
];

/// The lifetime of a KeyPackage that is good for so many seconds, by the service's clock.
pub fn lifetime(service: &Service, seconds: u64) -> Lifetime {
    let end = (service.clock.now_unix_ms() / 1000).saturating_add(seconds);
    let (not_before, not_after) = protocol::lifetime::bounds(end);
    Lifetime::init(not_before, not_after)
}

/// A leaf that is about to come in.
pub struct Leaf {
    pub signer: LeafSigner,
    pub credential: CredentialWithKey,
    pub extensions: Extensions<LeafNode>,
    pub link_key: IdentityLinkKey,
    pub user: Vec<u8>,
    /// Of a KeyPackage with this leaf.
    pub lifetime: Lifetime,
}

/// A KeyPackage as a contact claims it, with the link key that it can derive.
#[derive(Clone)]
pub struct Invitee {
    pub key_package: KeyPackage,
    pub link_key: [u8; 32],
}

/// What a member keeps of a group.
pub struct Membership {
    pub mls: MlsGroup,
    pub signer: LeafSigner,
    pub state_key: [u8; 32],
    pub wrapper: [u8; 32],
    pub recovery: [u8; 32],
    /// Signer of a staged update of the credential.
    pub next_signer: Option<LeafSigner>,
}

pub struct Client {
    /// Of the groups that it makes and the KeyPackages that it gives away.
    pub suite: Ciphersuite,
    pub provider: OpenMlsRustCrypto,
    pub identity: SignatureKeyPair,
    pub connection_key: ConnectionKey,
    pub queue_owner: LeafKeyPair,
    pub queue_hpke: HpkeKeyPair,
    pub queue: QueueId,
    pub groups: BTreeMap<GroupId, Membership>,
    /// Of KeyPackages that nobody has used yet.
    pub leaf_keys: Vec<LeafKeyPair>,
}

pub fn capabilities() -> Capabilities {
    Capabilities::new(
        None,
        Some(&CIPHERSUITES),
        Some(&[
            ExtensionType::Unknown(QUEUE_REFERENCE_EXTENSION),
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

pub fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .max_past_epochs(5)
        .build()
}

/// The RequiredCapabilities that honest clients put into every group.
pub fn required_capabilities() -> Extension {
    Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(
        &[
            ExtensionType::Unknown(QUEUE_REFERENCE_EXTENSION),
            // Or the library would not let the policy be changed (RFC 9420 §12.1.7).
            ExtensionType::Unknown(POLICY_EXTENSION),
        ],
        &[],
        &[CredentialType::Other(CREDENTIAL_TYPE)],
    ))
}

/// An external sender with this key.
pub fn external_sender(key: Vec<u8>) -> ExternalSender {
    ExternalSender::new(
        key.into(),
        BasicCredential::new(b"external sender".to_vec()).into(),
    )
}

/// Lists the service among the external senders, as every group must.
pub fn service_listed(service: &Service, suite: Ciphersuite) -> Extension {
    Extension::ExternalSenders(vec![external_sender(
        service.external_sender(scheme_of(suite)),
    )])
}

pub fn policy_extension(policy: &GroupPolicy) -> Extension {
    Extension::Unknown(POLICY_EXTENSION, UnknownExtension(policy.encode()))
}

pub fn scheme_of(suite: Ciphersuite) -> Scheme {
    match suite.signature_algorithm() {
        SignatureScheme::ECDSA_SECP256R1_SHA256 => Scheme::EcdsaP256,
        _ => Scheme::Ed25519,
    }
}

pub fn export(group: &MlsGroup, provider: &OpenMlsRustCrypto, label: &str) -> [u8; 32] {
    group
        .export_secret(provider.crypto(), label, &[], 32)
        .unwrap()
        .try_into()
        .unwrap()
}

/// A creation before it is sent.
pub struct Creation {
    pub request: CreateGroupRequest,
    pub membership: Membership,
}

impl Client {
    pub async fn new(service: &Service) -> Self {
        Self::of_suite(service, CIPHERSUITE).await
    }

    pub async fn of_suite(service: &Service, suite: Ciphersuite) -> Self {
        let queue_owner = fresh_key();
        let queue_hpke = HpkeKeyPair::from_seed(&Secret::random().unwrap()).unwrap();
        let request = CreateQueueRequest {
            hpke_public_key: opaque(queue_hpke.public()),
        };
        let created: CreateQueueResponse = service
            .call(Operation::CreateQueue, &queue_owner, &request)
            .await;
        Self {
            suite,
            provider: OpenMlsRustCrypto::default(),
            identity: SignatureKeyPair::random().unwrap(),
            connection_key: ConnectionKey::random().unwrap(),
            queue_owner,
            queue_hpke,
            queue: created.queue_id,
            groups: BTreeMap::new(),
            leaf_keys: Vec::new(),
        }
    }

    pub fn credential(&self) -> ClientCredential {
        ClientCredential {
            name: opaque(*b"a name"),
            signature_public_key: opaque(self.identity.public()),
        }
    }

    pub fn leaf(&self, service: &Service) -> Leaf {
        self.leaf_with(service, Flaw::None)
    }

    pub fn leaf_with(&self, service: &Service, flaw: Flaw) -> Leaf {
        self.leaf_of_user(service, flaw, random_pseudonym(DOMAIN).unwrap().as_slice())
    }

    pub fn leaf_of_user(&self, service: &Service, flaw: Flaw, user_pseudonym: &[u8]) -> Leaf {
        let key = LeafKeyPair::random(scheme_of(self.suite)).unwrap();
        self.leaf_for_key(service, flaw, user_pseudonym, key)
    }

    /// A leaf to take the place of the own one, for the same user.
    pub fn renewed_leaf(&self, service: &Service, id: &GroupId) -> Leaf {
        self.leaf_of_user(service, Flaw::None, &self.user(id))
    }

    /// Everything but the key and the user pseudonym is new.
    pub fn leaf_for_key(
        &self,
        service: &Service,
        flaw: Flaw,
        user_pseudonym: &[u8],
        key: LeafKeyPair,
    ) -> Leaf {
        let other = fresh_key();
        let named = if flaw == Flaw::CredentialForAnotherKey {
            &other
        } else {
            &key
        };
        let (pseudonymous, link_key) = PseudonymousCredential::issue(
            DOMAIN,
            opaque(user_pseudonym),
            &named.public(),
            (&self.credential(), &self.identity),
            &self.connection_key,
        )
        .unwrap();
        let credential = match flaw {
            Flaw::BasicCredential => BasicCredential::new(b"somebody".to_vec()).into(),
            _ => Credential::new(
                CredentialType::Other(CREDENTIAL_TYPE),
                pseudonymous.encode(),
            ),
        };
        let bound_to = if flaw == Flaw::QueueReferenceOfAnotherLeaf {
            &other
        } else {
            &key
        };
        let (key_id, service_key) = service.queue_service_key();
        let reference =
            seal_reference(key_id, &service_key, &bound_to.public(), &self.queue).unwrap();
        let extensions = match flaw {
            Flaw::NoQueueReference => Extensions::default(),
            _ => Extensions::single(Extension::Unknown(
                QUEUE_REFERENCE_EXTENSION,
                UnknownExtension(reference),
            ))
            .unwrap(),
        };
        Leaf {
            credential: CredentialWithKey {
                credential,
                signature_key: key.public().into(),
            },
            signer: LeafSigner(key),
            extensions,
            link_key,
            user: user_pseudonym.to_vec(),
            lifetime: lifetime(service, 84 * 24 * 60 * 60),
        }
    }

    pub fn invitee(&mut self, service: &Service) -> Invitee {
        let leaf = self.leaf(service);
        self.invitee_with(leaf)
    }

    pub fn invitee_with(&mut self, leaf: Leaf) -> Invitee {
        let bundle = KeyPackage::builder()
            .key_package_lifetime(leaf.lifetime)
            .leaf_node_capabilities(capabilities())
            .leaf_node_extensions(leaf.extensions)
            .build(self.suite, &self.provider, &leaf.signer, leaf.credential)
            .unwrap();
        self.leaf_keys.push(leaf.signer.0);
        Invitee {
            key_package: bundle.key_package().clone(),
            link_key: *leaf.link_key.expose(),
        }
    }

    /// What honest clients put into the context of a new group; a policy only where it is required.
    pub fn context(
        &self,
        service: &Service,
        kind: GroupKind,
        leaf: &Leaf,
        requires: bool,
    ) -> Vec<Extension> {
        let mut context = vec![service_listed(service, self.suite)];
        if requires {
            context.push(required_capabilities());
        }
        if kind == GroupKind::Group && requires {
            let policy = GroupPolicy::of_creator(opaque(leaf.user.as_slice()));
            context.push(policy_extension(&policy));
        }
        context
    }

    /// Makes a group of its own, without asking anybody.
    pub fn draft_group(
        &self,
        service: &Service,
        id: GroupId,
        kind: GroupKind,
        leaf: Leaf,
        requires: bool,
    ) -> Creation {
        let context = self.context(service, kind, &leaf, requires);
        self.draft_group_with(id, kind, leaf, context)
    }

    pub fn draft_group_with(
        &self,
        id: GroupId,
        kind: GroupKind,
        leaf: Leaf,
        context: Vec<Extension>,
    ) -> Creation {
        let Leaf {
            signer,
            credential,
            extensions,
            link_key,
            lifetime,
            ..
        } = leaf;
        let context: Extensions<GroupContext> = Extensions::from_vec(context).unwrap();
        let mls = MlsGroup::builder()
            .with_group_id(openmls::prelude::GroupId::from_slice(&id.0))
            .ciphersuite(self.suite)
            .with_wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .max_past_epochs(5)
            .with_group_context_extensions(context)
            .with_capabilities(capabilities())
            .with_leaf_node_extensions(extensions)
            .unwrap()
            .lifetime(lifetime)
            .build(&self.provider, &signer, credential)
            .unwrap();
        let wrapper: [u8; 32] = crypto::random().unwrap();
        let membership = Membership {
            state_key: export(&mls, &self.provider, "state key"),
            wrapper,
            recovery: crypto::random().unwrap(),
            next_signer: None,
            signer,
            mls,
        };
        let info = membership
            .mls
            .export_group_info(self.provider.crypto(), &membership.signer, false)
            .unwrap();
        let request = CreateGroupRequest {
            group_id: id,
            state_key: WireSecret::new(membership.state_key),
            kind,
            ratchet_tree: opaque(
                membership
                    .mls
                    .export_ratchet_tree()
                    .tls_serialize_detached()
                    .unwrap(),
            ),
            group_info: opaque(info.tls_serialize_detached().unwrap()),
            encrypted_identity_link_key: opaque(
                wrap_link_key(&IdentityLinkWrapperKey::new(wrapper), &link_key).unwrap(),
            ),
            recovery_secret: WireSecret::new(membership.recovery),
        };
        Creation {
            request,
            membership,
        }
    }

    pub async fn create_group(&mut self, service: &Service, kind: GroupKind) -> GroupId {
        self.create_group_requiring(service, kind, true).await
    }

    /// With or without the RequiredCapabilities that honest clients put into every group.
    pub async fn create_group_requiring(
        &mut self,
        service: &Service,
        kind: GroupKind,
        requires: bool,
    ) -> GroupId {
        let leaf = self.leaf(service);
        let context = self.context(service, kind, &leaf, requires);
        self.create_group_with(service, kind, leaf, context).await
    }

    /// A group without roles: everybody may do everything.
    pub async fn create_group_without_policy(&mut self, service: &Service) -> GroupId {
        let leaf = self.leaf(service);
        let context = vec![service_listed(service, self.suite), required_capabilities()];
        self.create_group_with(service, GroupKind::Group, leaf, context)
            .await
    }

    pub async fn create_group_with(
        &mut self,
        service: &Service,
        kind: GroupKind,
        leaf: Leaf,
        context: Vec<Extension>,
    ) -> GroupId {
        let key = copy(&leaf.signer.0);
        let reserved: ReserveGroupIdResponse = service
            .call(Operation::ReserveGroupId, &key, &ReserveGroupIdRequest {})
            .await;
        let creation = self.draft_group_with(reserved.group_id, kind, leaf, context);
        let accepted: EpochAccepted = service
            .call(Operation::CreateGroup, &key, &creation.request)
            .await;
        assert_eq!(accepted.epoch, 0);
        self.groups.insert(reserved.group_id, creation.membership);
        reserved.group_id
    }

    pub fn group(&self, id: &GroupId) -> &Membership {
        self.groups.get(id).unwrap()
    }

    pub fn group_mut(&mut self, id: &GroupId) -> &mut Membership {
        self.groups.get_mut(id).unwrap()
    }

    /// Signs a body as the client's leaf.
    pub fn leaf_request(
        &self,
        service: &Service,
        id: &GroupId,
        operation: Operation,
        body: Vec<u8>,
    ) -> Vec<u8> {
        self.leaf_draft(service, id, operation, body)
            .signed(&self.group(id).signer.0)
    }

    pub fn leaf_draft(
        &self,
        service: &Service,
        id: &GroupId,
        operation: Operation,
        body: Vec<u8>,
    ) -> Draft {
        Draft::new(
            service,
            operation,
            Sender::Leaf(self.group(id).mls.own_leaf_index().u32()),
            body,
        )
    }

    pub fn encrypt(&mut self, id: &GroupId, text: &[u8]) -> Vec<u8> {
        let Self {
            groups, provider, ..
        } = self;
        let group = groups.get_mut(id).unwrap();
        group
            .mls
            .create_message(provider, &group.signer, text)
            .unwrap()
            .tls_serialize_detached()
            .unwrap()
    }

    /// A request that sends these bytes as a message.
    pub fn message_request(&self, service: &Service, id: &GroupId, message: Vec<u8>) -> Vec<u8> {
        let body = SendMessageRequest {
            group_id: *id,
            state_key: WireSecret::new(self.group(id).state_key),
            message: opaque(message),
        };
        self.leaf_request(service, id, Operation::SendMessage, body.encode())
    }

    pub fn text_request(&mut self, service: &Service, id: &GroupId, text: &[u8]) -> Vec<u8> {
        let message = self.encrypt(id, text);
        self.message_request(service, id, message)
    }

    pub async fn send(&mut self, service: &Service, id: &GroupId, text: &[u8]) {
        let request = self.text_request(service, id, text);
        let _: protocol::groups::MessageAccepted = service
            .post(Operation::SendMessage, &request)
            .await
            .accepted();
    }

    pub fn recovery_secret(&self, id: &GroupId) -> RecoverySecret {
        RecoverySecret::new(self.group(id).recovery)
    }

    pub fn own_leaf(&self, id: &GroupId) -> u32 {
        self.group(id).mls.own_leaf_index().u32()
    }

    /// Its user's pseudonym in a group.
    pub fn user(&self, id: &GroupId) -> Vec<u8> {
        user_of(self.group(id).mls.own_leaf_node().unwrap().credential())
    }

    /// The policy that the client sees.
    pub fn policy(&self, id: &GroupId) -> Option<GroupPolicy> {
        let extensions = self.group(id).mls.extensions();
        let extension = extensions.unknown(POLICY_EXTENSION)?;
        Some(GroupPolicy::decode(&extension.0).unwrap())
    }

    /// The members of a group by the client's tree.
    pub fn members(&self, id: &GroupId) -> Vec<u32> {
        self.group(id)
            .mls
            .members()
            .map(|member| member.index.u32())
            .collect()
    }
}

/// The user pseudonym in a leaf's credential.
pub fn user_of(credential: &Credential) -> Vec<u8> {
    PseudonymousCredential::decode(credential.serialized_content())
        .unwrap()
        .user_pseudonym
        .as_slice()
        .to_vec()
}

impl Membership {
    /// Merges the own pending commit; rotation is the caller's.
    pub fn merge_own(&mut self, provider: &OpenMlsRustCrypto) {
        self.mls.merge_pending_commit(provider).unwrap();
        if let Some(signer) = self.next_signer.take() {
            self.signer = signer;
        }
    }
}
