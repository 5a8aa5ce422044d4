//! A client as the SDK would be: real MLS state, a queue, pseudonyms; but every step by hand.

use std::collections::BTreeMap;

use crypto::credential::{
    CREDENTIAL_TYPE, PseudonymousCredential, QUEUE_REFERENCE_EXTENSION, random_pseudonym, wrap_link_key,
};
use crypto::hpke::HpkeKeyPair;
use crypto::keys::{
    ConnectionKey, IdentityLinkKey, IdentityLinkWrapperKey, JoinKey, Lookup as _, PayloadKey, RecoverySecret,
};
use crypto::queue::{StreamKey, open_payload, seal_reference};
use crypto::sealing::{self, Place};
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use openmls::group::{GroupContext, MlsGroupJoinConfig, ProcessedWelcome};
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, Credential, CredentialType, CredentialWithKey, Extension,
    ExtensionType, Extensions, KeyPackage, LeafNode, MlsGroup, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _,
    PURE_PLAINTEXT_WIRE_FORMAT_POLICY, ProcessedMessageContent, ProtocolMessage, RatchetTreeIn,
    RequiredCapabilitiesExtension, SignatureScheme, UnknownExtension,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::{Signer, SignerError};
use protocol::codec::{WireSecret, opaque};
use protocol::connections::ClientCredential;
use protocol::delivery::{Payload, PayloadKind, WelcomeDelivery};
use protocol::envelope::Sender;
use protocol::groups::{
    Accepted, CommitAad, CreateGroupRequest, EpochAccepted, GroupKind, JoinRecordContent, JoinRecordRequest,
    ReserveGroupIdRequest, ReserveGroupIdResponse, SealedRecord, SendMessageRequest,
};
use protocol::ids::{EntryId, GroupId, QueueId};
use protocol::queues::{
    AcknowledgeQueueRequest, CreateQueueRequest, CreateQueueResponse, FetchQueueRequest, FetchQueueResponse, MAX_FETCH,
};
use protocol::{Operation, Wire};

use super::request::{Draft, copy, fresh_key};
use super::{DOMAIN, Service};

pub const CIPHERSUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

pub struct LeafSigner(pub SignatureKeyPair);

impl Signer for LeafSigner {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign_bytes(payload))
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
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

/// A leaf that is about to come in.
pub struct Leaf {
    pub signer: LeafSigner,
    pub credential: CredentialWithKey,
    pub extensions: Extensions<LeafNode>,
    pub link_key: IdentityLinkKey,
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
    pub provider: OpenMlsRustCrypto,
    pub identity: SignatureKeyPair,
    pub connection_key: ConnectionKey,
    pub queue_owner: SignatureKeyPair,
    pub queue_hpke: HpkeKeyPair,
    pub queue: QueueId,
    pub groups: BTreeMap<GroupId, Membership>,
    leaf_keys: Vec<SignatureKeyPair>,
}

/// An entry that was opened.
#[derive(Debug, Clone)]
pub struct Delivered {
    pub id: EntryId,
    pub kind: PayloadKind,
    pub sequence: u64,
    pub payload: Payload,
}

/// What a client makes of its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Message { from: u32, text: Vec<u8> },
    Committed { epoch: u64 },
    Removed,
    Joined,
    ConnectionRequest(Vec<u8>),
}

pub fn capabilities() -> Capabilities {
    Capabilities::new(
        None,
        Some(&[CIPHERSUITE]),
        Some(&[ExtensionType::Unknown(QUEUE_REFERENCE_EXTENSION), ExtensionType::LastResort]),
        None,
        Some(&[CredentialType::Other(CREDENTIAL_TYPE), CredentialType::Basic]),
    )
}

pub fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .max_past_epochs(5)
        .build()
}

fn required_capabilities() -> Extensions<GroupContext> {
    Extensions::from_vec(vec![Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(
        &[ExtensionType::Unknown(QUEUE_REFERENCE_EXTENSION)],
        &[],
        &[CredentialType::Other(CREDENTIAL_TYPE)],
    ))])
    .unwrap()
}

pub fn export(group: &MlsGroup, provider: &OpenMlsRustCrypto, label: &str) -> [u8; 32] {
    group.export_secret(provider.crypto(), label, &[], 32).unwrap().try_into().unwrap()
}

pub fn protocol_message(bytes: &[u8]) -> ProtocolMessage {
    MlsMessageIn::tls_deserialize_exact_bytes(bytes).unwrap().try_into_protocol_message().unwrap()
}

/// A creation before it is sent.
pub struct Creation {
    pub request: CreateGroupRequest,
    pub membership: Membership,
}

impl Client {
    pub async fn new(service: &Service) -> Self {
        let queue_owner = fresh_key();
        let queue_hpke = HpkeKeyPair::from_seed(&Secret::random().unwrap()).unwrap();
        let request = CreateQueueRequest { hpke_public_key: opaque(queue_hpke.public()) };
        let created: CreateQueueResponse = service.call(Operation::CreateQueue, &queue_owner, &request).await;
        Self {
            provider: OpenMlsRustCrypto::default(),
            identity: fresh_key(),
            connection_key: ConnectionKey::random().unwrap(),
            queue_owner,
            queue_hpke,
            queue: created.queue_id,
            groups: BTreeMap::new(),
            leaf_keys: Vec::new(),
        }
    }

    pub fn credential(&self) -> ClientCredential {
        ClientCredential { name: opaque(*b"a name"), signature_public_key: opaque(self.identity.public()) }
    }

    pub fn leaf(&self, service: &Service) -> Leaf {
        self.leaf_with(service, Flaw::None)
    }

    pub fn leaf_with(&self, service: &Service, flaw: Flaw) -> Leaf {
        self.leaf_of_user(service, flaw, random_pseudonym(DOMAIN).unwrap().as_slice())
    }

    pub fn leaf_of_user(&self, service: &Service, flaw: Flaw, user_pseudonym: &[u8]) -> Leaf {
        let key = fresh_key();
        let other = fresh_key();
        let named = if flaw == Flaw::CredentialForAnotherKey { &other } else { &key };
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
            _ => Credential::new(CredentialType::Other(CREDENTIAL_TYPE), pseudonymous.encode()),
        };
        let bound_to = if flaw == Flaw::QueueReferenceOfAnotherLeaf { &other } else { &key };
        let (key_id, service_key) = service.queue_service_key();
        let reference = seal_reference(key_id, &service_key, &bound_to.public(), &self.queue).unwrap();
        let extensions = match flaw {
            Flaw::NoQueueReference => Extensions::default(),
            _ => Extensions::single(Extension::Unknown(QUEUE_REFERENCE_EXTENSION, UnknownExtension(reference))).unwrap(),
        };
        Leaf {
            credential: CredentialWithKey { credential, signature_key: key.public().to_vec().into() },
            signer: LeafSigner(key),
            extensions,
            link_key,
        }
    }

    pub fn invitee(&mut self, service: &Service) -> Invitee {
        let leaf = self.leaf(service);
        self.invitee_with(leaf)
    }

    pub fn invitee_with(&mut self, leaf: Leaf) -> Invitee {
        let bundle = KeyPackage::builder()
            .leaf_node_capabilities(capabilities())
            .leaf_node_extensions(leaf.extensions)
            .build(CIPHERSUITE, &self.provider, &leaf.signer, leaf.credential)
            .unwrap();
        self.leaf_keys.push(leaf.signer.0);
        Invitee { key_package: bundle.key_package().clone(), link_key: *leaf.link_key.expose() }
    }

    /// Makes a group of its own, without asking anybody.
    pub fn draft_group(&self, id: GroupId, kind: GroupKind, leaf: Leaf, requires: bool) -> Creation {
        let Leaf { signer, credential, extensions, link_key } = leaf;
        let context = if requires { required_capabilities() } else { Extensions::default() };
        let mls = MlsGroup::builder()
            .with_group_id(openmls::prelude::GroupId::from_slice(&id.0))
            .ciphersuite(CIPHERSUITE)
            .with_wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .max_past_epochs(5)
            .with_group_context_extensions(context)
            .with_leaf_node_extensions(extensions)
            .unwrap()
            .with_capabilities(capabilities())
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
        let info = membership.mls.export_group_info(self.provider.crypto(), &membership.signer, false).unwrap();
        let request = CreateGroupRequest {
            group_id: id,
            state_key: WireSecret::new(membership.state_key),
            kind,
            ratchet_tree: opaque(membership.mls.export_ratchet_tree().tls_serialize_detached().unwrap()),
            group_info: opaque(info.tls_serialize_detached().unwrap()),
            encrypted_identity_link_key: opaque(
                wrap_link_key(&IdentityLinkWrapperKey::new(wrapper), &link_key).unwrap(),
            ),
            recovery_secret: WireSecret::new(membership.recovery),
        };
        Creation { request, membership }
    }

    pub async fn create_group(&mut self, service: &Service, kind: GroupKind) -> GroupId {
        self.create_group_requiring(service, kind, true).await
    }

    /// With or without the RequiredCapabilities that honest clients put into every group.
    pub async fn create_group_requiring(&mut self, service: &Service, kind: GroupKind, requires: bool) -> GroupId {
        let leaf = self.leaf(service);
        let key = copy(&leaf.signer.0);
        let reserved: ReserveGroupIdResponse =
            service.call(Operation::ReserveGroupId, &key, &ReserveGroupIdRequest {}).await;
        let creation = self.draft_group(reserved.group_id, kind, leaf, requires);
        let accepted: EpochAccepted = service.call(Operation::CreateGroup, &key, &creation.request).await;
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
    pub fn leaf_request(&self, service: &Service, id: &GroupId, operation: Operation, body: Vec<u8>) -> Vec<u8> {
        self.leaf_draft(service, id, operation, body).signed(&self.group(id).signer.0)
    }

    pub fn leaf_draft(&self, service: &Service, id: &GroupId, operation: Operation, body: Vec<u8>) -> Draft {
        Draft::new(service, operation, Sender::Leaf(self.group(id).mls.own_leaf_index().u32()), body)
    }

    pub fn encrypt(&mut self, id: &GroupId, text: &[u8]) -> Vec<u8> {
        let Self { groups, provider, .. } = self;
        let group = groups.get_mut(id).unwrap();
        group.mls.create_message(provider, &group.signer, text).unwrap().tls_serialize_detached().unwrap()
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
        let _: protocol::groups::MessageAccepted = service.post(Operation::SendMessage, &request).await.accepted();
    }

    pub fn fetch_request(&self, service: &Service, limit: u16, wait_ms: u32) -> Vec<u8> {
        let body = FetchQueueRequest { queue_id: self.queue, limit, wait_ms };
        Draft::by_key(service, Operation::FetchQueue, &self.queue_owner, &body).signed(&self.queue_owner)
    }

    /// What is in the queue; nothing is acknowledged.
    pub async fn fetch(&self, service: &Service) -> Vec<Delivered> {
        let request = self.fetch_request(service, MAX_FETCH, 0);
        let answer: FetchQueueResponse = service.post(Operation::FetchQueue, &request).await.accepted();
        assert_eq!(answer.more, 0);
        answer.entries.iter().map(|entry| self.open(entry)).collect()
    }

    pub fn open(&self, entry: &protocol::queues::QueueEntry) -> Delivered {
        let EntryId { day, incarnation, .. } = &entry.id;
        let stream =
            StreamKey::receive(&self.queue_hpke, &entry.encapsulated_key, &self.queue, incarnation, *day).unwrap();
        let content = stream.open(&entry.id, entry.sealed.as_slice()).unwrap();
        let key = PayloadKey::from(&content.payload_key);
        let payload = open_payload(&key, entry.sealed_payload.as_slice()).unwrap();
        assert_eq!(payload.kind(), content.kind);
        Delivered { id: entry.id, kind: content.kind, sequence: content.sequence, payload }
    }

    pub async fn acknowledge(&self, service: &Service, entries: Vec<EntryId>) {
        let body = AcknowledgeQueueRequest { queue_id: self.queue, entries };
        let _: Accepted = service.call(Operation::AcknowledgeQueue, &self.queue_owner, &body).await;
    }

    /// Takes everything out of the queue and processes it in the order of `docs/protocol.md`.
    pub async fn receive(&mut self, service: &Service) -> Vec<Event> {
        let mut delivered = self.fetch(service).await;
        self.acknowledge(service, delivered.iter().map(|entry| entry.id).collect()).await;
        delivered.sort_by_key(|entry| match &entry.payload {
            Payload::Welcome(_) | Payload::ConnectionRequest(_) => (0, 0, entry.sequence),
            Payload::Message(bytes) => (protocol_message(bytes.as_slice()).epoch().as_u64(), 1, entry.sequence),
            Payload::Commit(bytes) => (protocol_message(bytes.as_slice()).epoch().as_u64(), 2, entry.sequence),
        });
        let mut events = Vec::new();
        for entry in delivered {
            match entry.payload {
                Payload::Welcome(welcome) => {
                    self.join(service, &welcome).await;
                    events.push(Event::Joined);
                }
                Payload::ConnectionRequest(sealed) => {
                    events.push(Event::ConnectionRequest(sealed.as_slice().to_vec()));
                }
                Payload::Message(bytes) | Payload::Commit(bytes) => events.extend(self.process(bytes.as_slice())),
            }
        }
        events
    }

    /// Processes a message or commit; commits that are merged already are passed over.
    pub fn process(&mut self, bytes: &[u8]) -> Option<Event> {
        let message = protocol_message(bytes);
        let id = GroupId(message.group_id().as_slice().try_into().unwrap());
        let Self { groups, provider, .. } = self;
        let group = groups.get_mut(&id)?;
        let is_commit = matches!(message, ProtocolMessage::PublicMessage(_));
        if is_commit && message.epoch() < group.mls.epoch() {
            return None;
        }
        let processed = group.mls.process_message(provider, message).unwrap();
        let aad = processed.aad().to_vec();
        let sender = processed.sender().clone();
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(message) => {
                let openmls::prelude::Sender::Member(from) = sender else { panic!("a message of no member") };
                return Some(Event::Message { from: from.u32(), text: message.into_bytes() });
            }
            ProcessedMessageContent::OwnPendingCommit => {
                group.merge_own(provider);
            }
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                let removed = staged.self_removed();
                group.mls.merge_staged_commit(provider, *staged).unwrap();
                group.next_signer = None;
                if removed {
                    return Some(Event::Removed);
                }
            }
            other => panic!("not a message or commit: {other:?}"),
        }
        if CommitAad::decode(&aad).unwrap().rotates_state_key == 1 {
            group.state_key = export(&group.mls, provider, "state key");
        }
        Some(Event::Committed { epoch: group.mls.epoch().as_u64() })
    }

    /// Joins by a Welcome, through the join record.
    pub async fn join(&mut self, service: &Service, delivery: &WelcomeDelivery) -> GroupId {
        let MlsMessageBodyIn::Welcome(welcome) =
            MlsMessageIn::tls_deserialize_exact_bytes(delivery.welcome.as_slice()).unwrap().extract()
        else {
            panic!("not a Welcome");
        };
        let processed = ProcessedWelcome::new_from_welcome(&self.provider, &join_config(), welcome).unwrap();
        let exported = |label| processed.export_secret(self.provider.crypto(), label, &[], 32).unwrap();
        let join_key = JoinKey::try_from(exported("join record").as_slice()).unwrap();
        // The kit's join info is the wrapper key alone.
        let info_key: [u8; 32] = exported("join info").try_into().unwrap();
        let place = Place { table: "join_info", row: b"", part: "info" };
        let wrapper = sealing::open(&info_key, place, delivery.sealed_join_info.as_slice()).unwrap();
        let record = self.join_record(service, &join_key).await;
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(record.ratchet_tree.as_slice()).unwrap();
        let mls = processed
            .into_staged_welcome(&self.provider, Some(tree))
            .unwrap()
            .into_group(&self.provider)
            .unwrap();
        let own = mls.own_leaf_node().unwrap().signature_key().as_slice().to_vec();
        let at = self.leaf_keys.iter().position(|key| key.public() == *own).unwrap();
        let id = GroupId(mls.group_id().as_slice().try_into().unwrap());
        let members: Vec<u32> = mls.members().map(|member| member.index.u32()).collect();
        assert_eq!(members, record.leaves.iter().map(|leaf| leaf.leaf_index).collect::<Vec<_>>());
        let membership = Membership {
            mls,
            signer: LeafSigner(self.leaf_keys.swap_remove(at)),
            state_key: *record.state_key.expose(),
            wrapper: wrapper.as_slice().try_into().unwrap(),
            recovery: crypto::random().unwrap(),
            next_signer: None,
        };
        self.groups.insert(id, membership);
        id
    }

    pub async fn join_record(&self, service: &Service, join_key: &JoinKey) -> JoinRecordContent {
        let lookup = join_key.lookup();
        let sealed: SealedRecord =
            service.call(Operation::JoinRecord, &fresh_key(), &JoinRecordRequest { lookup }).await;
        let place = Place { table: "join_records", row: &lookup.0, part: "record" };
        let content = sealing::open(join_key.expose(), place, sealed.sealed.as_slice()).unwrap();
        JoinRecordContent::decode(&content).unwrap()
    }

    pub fn recovery_secret(&self, id: &GroupId) -> RecoverySecret {
        RecoverySecret::new(self.group(id).recovery)
    }

    /// The members of a group by the client's tree.
    pub fn members(&self, id: &GroupId) -> Vec<u32> {
        self.group(id).mls.members().map(|member| member.index.u32()).collect()
    }

    pub fn keep_leaf_key(&mut self, key: SignatureKeyPair) {
        self.leaf_keys.push(key);
    }
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
