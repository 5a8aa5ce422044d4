//! A member as the SDK would be: real MLS state, its own place in the journal; every step by hand.

use std::collections::BTreeSet;

use crypto::credential::{CREDENTIAL_TYPE, PseudonymousCredential, random_pseudonym};
use crypto::journal::{first_head, head_after, open_entry, sign_recovery_key, verify_head};
use crypto::keys::ConnectionKey;
use crypto::leaf_authorization::{self, AuthorizedJoin};
use crypto::records::open_join_page;
use crypto::schedule::{
    JoinCodeSecret, JoinKey, JournalKey, RotationSecret, StateKey, exporters, recovery_row_id,
};
use crypto::sign::{LeafKeyPair, Scheme, SignatureKeyPair};
use openmls::group::{GroupContext, MlsGroupJoinConfig};
use openmls::prelude::group_info::GroupInfo;
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};
use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, Credential, CredentialType, CredentialWithKey,
    Extension, ExtensionType, Extensions, ExternalSender, JoinProposal, KeyPackage, LeafNodeIndex,
    LeafNodeParameters, Lifetime, MlsGroup, MlsMessageBodyIn, MlsMessageIn, NewSignerBundle,
    OpenMlsProvider as _, PURE_PLAINTEXT_WIRE_FORMAT_POLICY, ProcessedMessageContent, ProposalType,
    RatchetTreeIn, RequiredCapabilitiesExtension, SignatureScheme, StagedWelcome, UnknownExtension,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::{Signer, SignerError};
use protocol::codec::{WireSecret, opaque};
use protocol::connections::ClientCredential;
use protocol::group::{
    CommitAad, CommitAccepted, CommitRequest, CreateGroupRequest, EntryAccepted,
    ExternalJoinRequest, GroupKey, GroupKind, JoinAccepted, JoinCode, JoinCodeChange,
    JoinersUpload, LeafExtras, NewJoinCode, NextSegment, PUSH_HANDLE_BYTES, PartialGroupInfo,
    ProposalRequest, RecoveryKey, ReserveGroupIdRequest, SendMessageRequest, SetJoinCodeRequest,
    SetLeafExtrasRequest,
};
use protocol::ids::{
    ChainHead, Epoch, GroupId, LeafIndex, Minute, Position, RotationEpoch, SegmentId, Step, Week,
    WelcomeId,
};
use protocol::join::{
    ExternalCommitInfoRequest, JoinPermit, JoinRecordContent, JoinRecordRequest, LeafAuthorization,
    LinkKeyUpload, RecoveryRow, SealedFormerWrapperKey,
};
use protocol::journal::{Class, Entry, Event, ReadJournalRequest};
use protocol::operation::Operation as Number;
use protocol::policy::{GroupPolicy, POLICY_EXTENSION};
use protocol::request::{REQUEST_LABEL, Sender};
use protocol::welcome::{FetchWelcomeRequest, WelcomeUpload};
use protocol::{WIRE_VERSION, Wire, lifetime};

use crate::execution::{Failure, read};
use crate::group::commit;
use crate::group::create::{CreateGroup, ReserveGroupId};
use crate::group::external::{ExternalCommitInfo, ExternalJoin};
use crate::group::extras::SetLeafExtras;
use crate::group::message::SendMessage;
use crate::group::propose::SelfRemove;
use crate::group::records::{FetchWelcome, JoinRecord};
use crate::journal::read::ReadJournal;
use crate::operation::Operation;
use crate::testing::{Service, same, signed};
use crate::tokens::VerifiedToken;

pub(super) const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
/// Those that the service takes.
pub(super) const SUITES: [Ciphersuite; 5] = [
    SUITE,
    Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
    Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
    Ciphersuite::MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519,
    Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519,
];
const DOMAIN: &str = "example.org";

/// All that reaches the service, for a second run.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) operation: Number,
    pub(super) now_ms: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) tokens: Vec<VerifiedToken>,
}

/// A service whose requests are kept.
pub(super) struct World {
    pub(super) service: Service,
    pub(super) sent: Vec<Sent>,
    /// Of groups and leaves that are made from now on.
    pub(super) suite: Ciphersuite,
    /// The recovery key that whoever comes from outside brings; without one, its own.
    pub(super) outsiders_recovery: Option<Vec<u8>>,
    /// Whether each request is looked at from all sides: comes a second time, is kept.
    pub(super) checks: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            service: Service::new(seed),
            sent: Vec::new(),
            suite: SUITE,
            outsiders_recovery: None,
            checks: true,
        }
    }

    pub(super) fn scheme(&self) -> Scheme {
        scheme_of(self.suite)
    }

    /// Carries a request out; one that is refused changes no row but what tokens settle.
    pub(super) fn run<O: Operation>(&mut self, bytes: &[u8]) -> Result<O::Response, Failure> {
        let tokens = self.service.tokens(1);
        if !self.checks {
            return self.service.run::<O>(bytes, tokens);
        }
        self.sent.push(Sent {
            operation: O::OPERATION,
            now_ms: self.service.now_ms,
            bytes: bytes.to_vec(),
            tokens: tokens.iter().map(same).collect(),
        });
        let before = self.service.engine.clone();
        let answer = self.service.run::<O>(bytes, tokens);
        // What was paid for is used up.
        let settles = [Number::ExternalJoin, Number::CreateGroup, Number::Propose];
        if answer.is_err() && !settles.contains(&O::OPERATION) {
            assert!(self.service.engine == before, "{:?}", O::OPERATION);
        }
        if let Ok(answer) = &answer {
            // The same request again has no second effect, and the same answer.
            let once = self.service.engine.clone();
            if once != before {
                let again = self.service.run::<O>(bytes, Vec::new()).unwrap();
                assert!(self.service.engine == once, "{:?} twice", O::OPERATION);
                assert_eq!(again.encode(), answer.encode());
            }
        }
        answer
    }

    pub(super) fn nonce(&mut self) -> [u8; 16] {
        crypto::random().unwrap()
    }
}

pub(super) struct LeafSigner(pub(super) LeafKeyPair);

impl LeafSigner {
    pub(super) fn new() -> Self {
        Self::of(Scheme::Ed25519)
    }

    pub(super) fn of(scheme: Scheme) -> Self {
        Self(LeafKeyPair::random(scheme).unwrap())
    }

    /// The same key once more.
    pub(super) fn again(&self) -> Self {
        let scheme = match self.0 {
            LeafKeyPair::Ed25519(_) => Scheme::Ed25519,
            LeafKeyPair::EcdsaP256(_) => Scheme::EcdsaP256,
        };
        Self(LeafKeyPair::from_seed(scheme, &self.0.seed()).unwrap())
    }
}

fn scheme_of(suite: Ciphersuite) -> Scheme {
    match suite.signature_algorithm() {
        SignatureScheme::ECDSA_SECP256R1_SHA256 => Scheme::EcdsaP256,
        _ => Scheme::Ed25519,
    }
}

impl Signer for LeafSigner {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign_bytes(payload))
    }

    fn signature_scheme(&self) -> SignatureScheme {
        match self.0 {
            LeafKeyPair::Ed25519(_) => SignatureScheme::ED25519,
            LeafKeyPair::EcdsaP256(_) => SignatureScheme::ECDSA_SECP256R1_SHA256,
        }
    }
}

fn capabilities() -> Capabilities {
    Capabilities::new(
        None,
        Some(&SUITES),
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

fn config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .max_past_epochs(5)
        .build()
}

pub(super) fn pseudonym() -> Vec<u8> {
    random_pseudonym(DOMAIN).unwrap().as_slice().to_vec()
}

pub(super) fn credential(signer: &LeafSigner, user: &[u8]) -> CredentialWithKey {
    credential_naming(&signer.0.public(), signer, user)
}

/// A credential that is for another key than it names, or for the same.
fn credential_naming(named: &[u8], signer: &LeafSigner, user: &[u8]) -> CredentialWithKey {
    let identity = SignatureKeyPair::random().unwrap();
    let real = ClientCredential {
        name: opaque(*b"a name"),
        signature_public_key: opaque(identity.public()),
    };
    let (pseudonymous, _) = PseudonymousCredential::issue(
        DOMAIN,
        opaque(user),
        named,
        &real,
        &identity,
        &ConnectionKey::random().unwrap(),
    )
    .unwrap();
    CredentialWithKey {
        credential: Credential::new(
            CredentialType::Other(CREDENTIAL_TYPE),
            pseudonymous.encode(),
        ),
        signature_key: signer.0.public().into(),
    }
}

/// What is wrong with a leaf.
#[derive(Debug, Clone, Copy)]
pub(super) enum Flaw {
    BasicCredential,
    CredentialForAnotherKey,
}

impl Flaw {
    pub(super) const ALL: [Self; 2] = [Self::BasicCredential, Self::CredentialForAnotherKey];

    pub(super) fn credential(self, signer: &LeafSigner) -> CredentialWithKey {
        match self {
            Self::BasicCredential => CredentialWithKey {
                credential: BasicCredential::new(b"somebody".to_vec()).into(),
                signature_key: signer.0.public().into(),
            },
            Self::CredentialForAnotherKey => {
                credential_naming(&LeafSigner::new().0.public(), signer, &pseudonym())
            }
        }
    }
}

fn lifetime_at(now_ms: u64) -> Lifetime {
    let (from, until) = lifetime::bounds(now_ms / 1000 + 84 * 24 * 60 * 60);
    Lifetime::init(from, until)
}

fn signature(info: &GroupInfo) -> Vec<u8> {
    VLBytes::tls_deserialize_exact_bytes(&info.signature().tls_serialize_detached().unwrap())
        .unwrap()
        .into()
}

pub(super) fn aad(rotates: bool) -> CommitAad {
    CommitAad {
        rotates: u8::from(rotates),
        authorization: None,
        encrypted_connection_response: opaque(Vec::new()),
    }
}

/// What a commit is to do.
pub(super) struct Plan {
    pub(super) operation: Number,
    pub(super) adds: Vec<KeyPackage>,
    pub(super) removals: Vec<u32>,
    pub(super) update: bool,
    pub(super) new_user: Option<Vec<u8>>,
    /// In place of one for the new user.
    pub(super) new_leaf: Option<(LeafSigner, CredentialWithKey)>,
    pub(super) aad: Option<Vec<u8>>,
    pub(super) rotates: bool,
    pub(super) context: Option<Extensions<GroupContext>>,
    pub(super) covers: bool,
    /// Changes the request before it is signed.
    pub(super) twist: Option<fn(&mut CommitRequest)>,
}

impl Plan {
    pub(super) fn of(operation: Number) -> Self {
        Self {
            operation,
            adds: Vec::new(),
            removals: Vec::new(),
            update: operation == Number::UpdateClient,
            new_user: None,
            new_leaf: None,
            aad: None,
            rotates: false,
            context: None,
            covers: true,
            twist: None,
        }
    }

    pub(super) fn add(adds: impl IntoIterator<Item = KeyPackage>) -> Self {
        Self {
            adds: adds.into_iter().collect(),
            ..Self::of(Number::AddUsers)
        }
    }

    pub(super) fn remove(removals: impl IntoIterator<Item = u32>) -> Self {
        Self {
            removals: removals.into_iter().collect(),
            rotates: true,
            ..Self::of(Number::RemoveUsers)
        }
    }

    pub(super) fn update() -> Self {
        Self::of(Number::UpdateClient)
    }

    pub(super) fn set_context(context: Extensions<GroupContext>) -> Self {
        Self {
            context: Some(context),
            ..Self::of(Number::SetRole)
        }
    }

    pub(super) fn sent_as(mut self, operation: Number) -> Self {
        self.operation = operation;
        self
    }

    /// Covers nothing that is pending.
    pub(super) fn alone(mut self) -> Self {
        self.covers = false;
        self
    }

    pub(super) fn without_rotation(mut self) -> Self {
        self.rotates = false;
        self
    }

    pub(super) fn rotating(mut self) -> Self {
        self.rotates = true;
        self
    }

    pub(super) fn twisted(mut self, twist: fn(&mut CommitRequest)) -> Self {
        self.twist = Some(twist);
        self
    }
}

/// Somebody who can be added.
pub(super) struct Invitee {
    pub(super) provider: OpenMlsRustCrypto,
    pub(super) signer: LeafSigner,
    pub(super) key_package: KeyPackage,
    pub(super) user: Vec<u8>,
}

impl Invitee {
    pub(super) fn new(world: &World) -> Self {
        Self::of_user(world, pseudonym())
    }

    pub(super) fn of_user(world: &World, user: Vec<u8>) -> Self {
        let signer = LeafSigner::of(world.scheme());
        let credential = credential(&signer, &user);
        let lifetime = lifetime_at(world.service.now_ms);
        Self::with(world.suite, user, signer, credential, lifetime)
    }

    pub(super) fn flawed(world: &World, flaw: Flaw) -> Self {
        let signer = LeafSigner::of(world.scheme());
        let credential = flaw.credential(&signer);
        let lifetime = lifetime_at(world.service.now_ms);
        Self::with(world.suite, pseudonym(), signer, credential, lifetime)
    }

    pub(super) fn with(
        suite: Ciphersuite,
        user: Vec<u8>,
        signer: LeafSigner,
        credential: CredentialWithKey,
        lifetime: Lifetime,
    ) -> Self {
        let provider = OpenMlsRustCrypto::default();
        let bundle = KeyPackage::builder()
            .key_package_lifetime(lifetime)
            .leaf_node_capabilities(capabilities())
            .build(suite, &provider, &signer, credential)
            .unwrap();
        Self {
            key_package: bundle.key_package().clone(),
            provider,
            signer,
            user,
        }
    }
}

impl Invitee {
    /// Its own proposal to be added, and the request with it.
    pub(super) fn proposes(
        &self,
        world: &mut World,
        member: &Client,
    ) -> (ProposalRequest, Vec<u8>) {
        let message = JoinProposal::new::<
            <OpenMlsRustCrypto as openmls_traits::OpenMlsProvider>::StorageProvider,
        >(
            self.key_package.clone(),
            member.mls.group_id().clone(),
            member.mls.epoch(),
            &self.signer,
        )
        .unwrap();
        let recovery = crypto::random::<32>().unwrap();
        let request = ProposalRequest {
            group: member.key(),
            proposal: opaque(message.tls_serialize_detached().unwrap()),
            new_member: Some(extras(&self.signer, &member.id, &recovery)),
        };
        let bytes = self.signs(world, &request);
        (request, bytes)
    }

    pub(super) fn signs(&self, world: &mut World, request: &ProposalRequest) -> Vec<u8> {
        let sender = Sender::Key(opaque(self.signer.0.public()));
        let minute = Minute::of(world.service.now_ms);
        let nonce = world.nonce();
        signed(Number::Propose, minute, nonce, sender, request, |tbs| {
            self.signer.0.sign(REQUEST_LABEL, tbs)
        })
    }
}

/// What a joiner gets beside its KeyPackage.
#[derive(Clone)]
pub(super) struct Pointer {
    pub(super) group: GroupId,
    pub(super) welcome: WelcomeId,
    pub(super) join_key: [u8; 32],
}

/// A member.
pub(super) struct Client {
    pub(super) provider: OpenMlsRustCrypto,
    pub(super) mls: MlsGroup,
    pub(super) signer: LeafSigner,
    next_signer: Option<LeafSigner>,
    pub(super) id: GroupId,
    pub(super) user: Vec<u8>,
    pub(super) state_key: StateKey,
    pub(super) journal_key: JournalKey,
    pub(super) rotation: RotationEpoch,
    pub(super) segment: SegmentId,
    step: Step,
    pub(super) next: Position,
    /// None after joining in the middle, until the first end is read.
    chain: Option<ChainHead>,
    /// Whether it has been removed, or the group is gone.
    pub(super) is_out: bool,
    pub(super) texts: Vec<Vec<u8>>,
    pub(super) proposals: Vec<Vec<u8>>,
    pub(super) commits: usize,
    pub(super) recovery: Vec<u8>,
    /// Of the last commit with Adds.
    pub(super) pointers: Vec<Pointer>,
    pub(super) last_request: Vec<u8>,
    /// The own commit that is not merged yet.
    staged: Vec<u8>,
    pub(super) kind: GroupKind,
    service: mls_rules::ServiceSenders,
}

pub(super) struct Secrets {
    rotation: RotationSecret,
    journal: JournalKey,
}

fn export(mls: &MlsGroup, provider: &OpenMlsRustCrypto, label: &str) -> [u8; 32] {
    mls.export_secret(provider.crypto(), label, &[], 32)
        .unwrap()
        .try_into()
        .unwrap()
}

fn secrets(mls: &MlsGroup, provider: &OpenMlsRustCrypto) -> Secrets {
    Secrets {
        rotation: RotationSecret::new(export(mls, provider, exporters::ROTATION)),
        journal: JournalKey::new(export(mls, provider, exporters::JOURNAL_KEY)),
    }
}

fn next_segment(secrets: &Secrets, former: Option<RotationEpoch>) -> NextSegment {
    NextSegment {
        state_key: secrets.rotation.state_key().to_wire(),
        journal_key: secrets.journal.to_wire(),
        former_wrapper_key: former.map(|of| SealedFormerWrapperKey {
            of,
            sealed: opaque(vec![7; 60]),
        }),
        code_rows: Vec::new(),
    }
}

fn extras(signer: &LeafSigner, id: &GroupId, recovery: &[u8]) -> LeafExtras {
    LeafExtras {
        wrapped_link_key: opaque(vec![8; 60]),
        recovery_key: sign_recovery_key(&signer.0, id, recovery),
        push_handle: opaque(vec![9; PUSH_HANDLE_BYTES]),
    }
}

pub(super) fn policy_extension(policy: &GroupPolicy) -> Extension {
    Extension::Unknown(POLICY_EXTENSION, UnknownExtension(policy.encode()))
}

impl Client {
    pub(super) fn create(world: &mut World, kind: GroupKind) -> Self {
        Self::create_with(world, kind, |_| {}).unwrap()
    }

    pub(super) fn create_with(
        world: &mut World,
        kind: GroupKind,
        twist: impl FnOnce(&mut CreateGroupRequest),
    ) -> Result<Self, Failure> {
        Self::create_in(world, kind, |_, _| {}, None, twist)
    }

    /// In a context that is not as it should be, or with such a credential.
    pub(super) fn create_in(
        world: &mut World,
        kind: GroupKind,
        context_of: impl FnOnce(&mut Vec<Extension>, &[u8]),
        flaw: Option<Flaw>,
        twist: impl FnOnce(&mut CreateGroupRequest),
    ) -> Result<Self, Failure> {
        let provider = OpenMlsRustCrypto::default();
        let signer = LeafSigner::of(world.scheme());
        let user = pseudonym();
        let sender = Sender::Key(opaque(signer.0.public()));
        let sign = |world: &mut World, operation, body: &dyn Fn() -> Vec<u8>| {
            let minute = Minute::of(world.service.now_ms);
            let nonce = world.nonce();
            signed(
                operation,
                minute,
                nonce,
                sender.clone(),
                &Raw(body()),
                |tbs| signer.0.sign(REQUEST_LABEL, tbs),
            )
        };
        let bytes = sign(world, Number::ReserveGroupId, &|| {
            let group_id = GroupId(crypto::random().unwrap());
            ReserveGroupIdRequest { group_id }.encode()
        });
        let id = world.run::<ReserveGroupId>(&bytes)?.group_id;
        let key = world
            .service
            .keys()
            .external_sender_public(world.scheme())
            .unwrap();
        let listed =
            ExternalSender::new(key.into(), BasicCredential::new(b"service".to_vec()).into());
        let mut context = vec![
            Extension::ExternalSenders(vec![listed]),
            Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(
                &[ExtensionType::Unknown(POLICY_EXTENSION)],
                &[],
                &[CredentialType::Other(CREDENTIAL_TYPE)],
            )),
        ];
        if kind == GroupKind::Group {
            let policy = GroupPolicy::of_creator(opaque(user.as_slice()));
            context.push(policy_extension(&policy));
        }
        context_of(&mut context, &user);
        let credential = match flaw {
            Some(flaw) => flaw.credential(&signer),
            None => credential(&signer, &user),
        };
        let mls = MlsGroup::builder()
            .with_group_id(openmls::prelude::GroupId::from_slice(&id.0))
            .ciphersuite(world.suite)
            .with_wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .max_past_epochs(5)
            .with_group_context_extensions(Extensions::from_vec(context).unwrap())
            .with_capabilities(capabilities())
            .lifetime(lifetime_at(world.service.now_ms))
            .build(&provider, &signer, credential)
            .unwrap();
        let secrets = secrets(&mls, &provider);
        let info = mls
            .export_group_info(provider.crypto(), &signer, false)
            .unwrap();
        let recovery = crypto::random::<32>().unwrap().to_vec();
        let mut request = CreateGroupRequest {
            group_id: id,
            kind,
            message_days: 30,
            segment: next_segment(&secrets, None),
            ratchet_tree: opaque(mls.export_ratchet_tree().tls_serialize_detached().unwrap()),
            group_info: opaque(info.tls_serialize_detached().unwrap()),
            leaf: extras(&signer, &id, &recovery),
        };
        twist(&mut request);
        let bytes = sign(world, Number::CreateGroup, &|| request.encode());
        world.run::<CreateGroup>(&bytes)?;
        let mut created = Self::begin(provider, mls, signer, (id, user), recovery);
        created.kind = kind;
        created.know(world);
        Ok(created)
    }

    /// Hears by which keys the service is known.
    pub(super) fn know(&mut self, world: &World) {
        self.service = crate::group::removals::senders(world.service.keys());
    }

    fn begin(
        provider: OpenMlsRustCrypto,
        mls: MlsGroup,
        signer: LeafSigner,
        (id, user): (GroupId, Vec<u8>),
        recovery: Vec<u8>,
    ) -> Self {
        let secrets = secrets(&mls, &provider);
        let state_key = secrets.rotation.state_key();
        let rotation = RotationEpoch(mls.epoch().as_u64());
        let segment = state_key.segment(&id, rotation);
        Self {
            provider,
            mls,
            signer,
            next_signer: None,
            id,
            user,
            state_key,
            journal_key: secrets.journal,
            rotation,
            segment,
            step: Step(0),
            next: Position(0),
            chain: Some(first_head(&segment)),
            is_out: false,
            texts: Vec::new(),
            proposals: Vec::new(),
            commits: 0,
            recovery,
            pointers: Vec::new(),
            last_request: Vec::new(),
            staged: Vec::new(),
            kind: GroupKind::Group,
            service: mls_rules::ServiceSenders::default(),
        }
    }

    /// `R`, in the epoch that begins a segment.
    pub(super) fn rotation_secret(&self) -> [u8; 32] {
        export(&self.mls, &self.provider, exporters::ROTATION)
    }

    pub(super) fn index(&self) -> u32 {
        self.mls.own_leaf_index().u32()
    }

    pub(super) fn epoch(&self) -> u64 {
        self.mls.epoch().as_u64()
    }

    pub(super) fn key(&self) -> GroupKey {
        GroupKey {
            group_id: self.id,
            state_key: self.state_key.to_wire(),
        }
    }

    pub(super) fn members(&self) -> Vec<u32> {
        self.mls
            .members()
            .map(|member| member.index.u32())
            .collect()
    }

    /// Signs a body as the leaf.
    pub(super) fn sign(&self, world: &mut World, operation: Number, body: &impl Wire) -> Vec<u8> {
        self.sign_as(world, LeafIndex(self.index()), operation, body)
    }

    /// Signs a body in the name of a leaf.
    pub(super) fn sign_as(
        &self,
        world: &mut World,
        leaf: LeafIndex,
        operation: Number,
        body: &impl Wire,
    ) -> Vec<u8> {
        self.sign_by(world, Sender::Leaf(leaf), operation, body)
    }

    pub(super) fn sign_by(
        &self,
        world: &mut World,
        sender: Sender,
        operation: Number,
        body: &impl Wire,
    ) -> Vec<u8> {
        let nonce = world.nonce();
        let minute = Minute::of(world.service.now_ms);
        signed(operation, minute, nonce, sender, body, |tbs| {
            self.signer.0.sign(REQUEST_LABEL, tbs)
        })
    }

    pub(super) fn call<O: Operation>(
        &self,
        world: &mut World,
        body: &O::Request,
    ) -> Result<O::Response, Failure> {
        let bytes = self.sign(world, O::OPERATION, body);
        world.run::<O>(&bytes)
    }

    pub(super) fn message(&mut self, text: &[u8]) -> SendMessageRequest {
        let message = self
            .mls
            .create_message(&self.provider, &self.signer, text)
            .unwrap();
        SendMessageRequest {
            group: self.key(),
            message: opaque(message.tls_serialize_detached().unwrap()),
        }
    }

    pub(super) fn send(
        &mut self,
        world: &mut World,
        text: &[u8],
    ) -> Result<EntryAccepted, Failure> {
        let body = self.message(text);
        self.call::<SendMessage>(world, &body)
    }

    /// Stages a commit and gives the request that carries it.
    pub(super) fn stage(&mut self, plan: Plan) -> CommitRequest {
        self.stage_with_info(plan).0
    }

    /// The same, with the whole GroupInfo.
    pub(super) fn stage_with_info(&mut self, plan: Plan) -> (CommitRequest, Vec<u8>) {
        let aad = plan.aad.unwrap_or_else(|| aad(plan.rotates).encode());
        self.mls.set_aad(aad);
        let mut gone: Vec<u32> = plan.removals.clone();
        if plan.covers {
            gone.extend(self.mls.pending_proposals().filter_map(mls_rules::leaving));
        }
        let mut occupied: BTreeSet<u32> = self.members().into_iter().collect();
        occupied.retain(|leaf| !gone.contains(leaf));
        let free = (0..).filter(|leaf| !occupied.contains(leaf));
        let link_keys = free.take(plan.adds.len()).map(|leaf| LinkKeyUpload {
            leaf_index: LeafIndex(leaf),
            sealed: opaque(vec![6; 60]),
        });
        let link_keys = link_keys.collect();
        let adds = plan.adds.len();
        let scheme = scheme_of(self.mls.ciphersuite());
        let new_leaf = plan.new_leaf.or(plan.new_user.map(|user| {
            let signer = LeafSigner::of(scheme);
            let credential = credential(&signer, &user);
            (signer, credential)
        }));
        let mut builder = self
            .mls
            .commit_builder()
            .force_self_update(plan.update)
            .consume_proposal_store(plan.covers)
            .propose_adds(plan.adds)
            .propose_removals(plan.removals.into_iter().map(LeafNodeIndex::new));
        if let Some(context) = plan.context {
            builder = builder.propose_group_context_extensions(context).unwrap();
        }
        if new_leaf.is_some() {
            let parameters = LeafNodeParameters::builder()
                .with_capabilities(capabilities())
                .build();
            builder = builder.leaf_node_parameters(parameters);
        }
        let provider = &self.provider;
        let builder = builder
            .load_psks(provider.storage())
            .unwrap()
            .create_group_info(true);
        let built = match &new_leaf {
            None => builder.build(provider.rand(), provider.crypto(), &self.signer, |_| true),
            Some((signer, credential)) => builder.build_with_new_signer(
                provider.rand(),
                provider.crypto(),
                &self.signer,
                NewSignerBundle {
                    signer,
                    credential_with_key: credential.clone(),
                },
                |_| true,
            ),
        };
        let bundle = built.unwrap().stage_commit(provider).unwrap();
        let staged = self.mls.pending_commit().unwrap();
        let export = |label| -> [u8; 32] {
            staged
                .export_secret(provider.crypto(), label, &[], 32)
                .unwrap()
                .try_into()
                .unwrap()
        };
        let info = bundle.group_info().unwrap();
        let whole_info = info.tls_serialize_detached().unwrap();
        let next = Secrets {
            rotation: RotationSecret::new(export(exporters::ROTATION)),
            journal: JournalKey::new(export(exporters::JOURNAL_KEY)),
        };
        let join_key = export(exporters::JOIN_RECORD);
        let welcome = bundle.to_welcome_msg().map(|welcome| {
            let welcome = welcome.tls_serialize_detached().unwrap();
            self.pointers = (0..adds)
                .map(|_| Pointer {
                    group: self.id,
                    welcome: WelcomeId(crypto::random().unwrap()),
                    join_key,
                })
                .collect();
            JoinersUpload {
                join_key: WireSecret::new(join_key),
                welcomes: self
                    .pointers
                    .iter()
                    .map(|pointer| WelcomeUpload {
                        id: pointer.welcome,
                        sealed: opaque(welcome.as_slice()),
                    })
                    .collect(),
            }
        });
        let own = new_leaf.as_ref().map_or(&self.signer, |(signer, _)| signer);
        let committer = (plan.operation == Number::UpdateClient).then(|| {
            self.recovery = crypto::random::<32>().unwrap().to_vec();
            extras(own, &self.id, &self.recovery)
        });
        let mut request = CommitRequest {
            group: GroupKey {
                group_id: self.id,
                state_key: self.state_key.to_wire(),
            },
            commit: opaque(bundle.commit().tls_serialize_detached().unwrap()),
            group_info: PartialGroupInfo {
                extensions: opaque(info.extensions().tls_serialize_detached().unwrap()),
                signature: opaque(signature(info)),
            },
            rotation: plan
                .rotates
                .then(|| next_segment(&next, Some(self.rotation))),
            link_keys,
            committer,
            welcome,
        };
        if let Some(twist) = plan.twist {
            twist(&mut request);
        }
        self.staged = request.commit.as_slice().to_vec();
        self.next_signer = new_leaf.map(|(signer, _)| signer);
        (request, whole_info)
    }

    /// Covers Adds that are pending, and says nothing of their link keys.
    pub(super) fn commit_pending_adds(
        &mut self,
        world: &mut World,
        adds: usize,
    ) -> Result<CommitAccepted, Failure> {
        let mut request = self.stage(Plan::of(Number::AddUsers));
        let size = |welcome: &WelcomeUpload| welcome.sealed.as_slice().len();
        let upload = request.welcome.as_mut().unwrap();
        assert!(upload.welcomes.iter().map(size).sum::<usize>() == 0);
        for _ in 0..adds {
            upload.welcomes.push(WelcomeUpload {
                id: WelcomeId(crypto::random().unwrap()),
                sealed: opaque(vec![1; 100]),
            });
        }
        self.send_commit(world, Number::AddUsers, &request)
    }

    pub(super) fn abandon(&mut self) {
        self.mls
            .clear_pending_commit(self.provider.storage())
            .unwrap();
        self.next_signer = None;
    }

    /// Stages and sends a commit. What was accepted is merged when it comes out of the journal.
    pub(super) fn commit(
        &mut self,
        world: &mut World,
        plan: Plan,
    ) -> Result<CommitAccepted, Failure> {
        let operation = plan.operation;
        let request = self.stage(plan);
        let answer = self.send_commit(world, operation, &request);
        if answer.is_err() {
            self.abandon();
        }
        answer
    }

    pub(super) fn send_commit(
        &mut self,
        world: &mut World,
        operation: Number,
        request: &CommitRequest,
    ) -> Result<CommitAccepted, Failure> {
        let bytes = self.sign(world, operation, request);
        self.last_request.clone_from(&bytes);
        match operation {
            Number::AddUsers => world.run::<commit::AddUsers>(&bytes),
            Number::RemoveUsers => world.run::<commit::RemoveUsers>(&bytes),
            Number::AddClients => world.run::<commit::AddClients>(&bytes),
            Number::RemoveClients => world.run::<commit::RemoveClients>(&bytes),
            Number::SetRole => world.run::<commit::SetRole>(&bytes),
            Number::ReInitializeGroup => world.run::<commit::ReInitializeGroup>(&bytes),
            Number::DeleteGroup => world.run::<commit::DeleteGroup>(&bytes),
            _ => world.run::<commit::UpdateClient>(&bytes),
        }
    }

    /// A SelfRemove that is not sent yet.
    pub(super) fn leaving(&mut self) -> ProposalRequest {
        let before: Vec<_> = self.mls.pending_proposals().cloned().collect();
        let message = self
            .mls
            .leave_group_via_self_remove(&self.provider, &self.signer)
            .unwrap();
        // The own one counts when it comes out of the journal.
        let storage = self.provider.storage();
        self.mls.clear_pending_proposals(storage).unwrap();
        for pending in before {
            self.mls.store_pending_proposal(storage, pending).unwrap();
        }
        ProposalRequest {
            group: self.key(),
            proposal: opaque(message.tls_serialize_detached().unwrap()),
            new_member: None,
        }
    }

    pub(super) fn leave(&mut self, world: &mut World) -> Result<EntryAccepted, Failure> {
        let body = self.leaving();
        self.call::<SelfRemove>(world, &body)
    }

    /// A joiner's first act.
    pub(super) fn arrive(&mut self, world: &mut World) {
        self.recovery = crypto::random::<32>().unwrap().to_vec();
        let body = SetLeafExtrasRequest {
            group: self.key(),
            recovery_key: self.recovery_key(),
            push_handle: opaque(crypto::random::<PUSH_HANDLE_BYTES>().unwrap()),
            row: RecoveryRow {
                id: recovery_row_id(&self.id, &self.recovery),
                sealed: opaque(vec![2; 80]),
            },
        };
        self.call::<SetLeafExtras>(world, &body).unwrap();
    }

    pub(super) fn recovery_key(&self) -> RecoveryKey {
        sign_recovery_key(&self.signer.0, &self.id, &self.recovery)
    }

    /// Comes in by a Welcome.
    pub(super) fn join(world: &mut World, invitee: Invitee, pointer: &Pointer) -> Self {
        let (mut env, engine) = world.service.env();
        let blob = read::<FetchWelcome>(
            &FetchWelcomeRequest {
                version: WIRE_VERSION,
                id: pointer.welcome,
            },
            engine,
            &mut env,
        )
        .unwrap();
        let MlsMessageBodyIn::Welcome(welcome) =
            MlsMessageIn::tls_deserialize_exact_bytes(blob.sealed.as_slice())
                .unwrap()
                .extract()
        else {
            panic!("not a Welcome");
        };
        let group = pointer.group;
        let content = Self::join_record(world, &group, &pointer.join_key);
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(content.ratchet_tree.as_slice());
        let staged = StagedWelcome::new_from_welcome(
            &invitee.provider,
            &config(),
            welcome,
            Some(tree.unwrap()),
        );
        let mls = staged.unwrap().into_group(&invitee.provider).unwrap();
        let Invitee {
            provider,
            signer,
            user,
            ..
        } = invitee;
        let mut joined = Self::begin(provider, mls, signer, (group, user), Vec::new());
        joined.state_key = StateKey::from(&content.state_key);
        joined.journal_key = JournalKey::from(&content.journal.journal_key);
        joined.rotation = content.journal.rotation_epoch;
        joined.step = Step(u32::try_from(joined.epoch() - joined.rotation.0).unwrap());
        joined.next = if content.place.rotation_epoch == joined.rotation {
            content.place.position.next()
        } else {
            Position(0)
        };
        joined.chain = None;
        joined.know(world);
        joined
    }

    pub(super) fn join_record(
        world: &mut World,
        group: &GroupId,
        join_key: &[u8; 32],
    ) -> JoinRecordContent {
        let key = JoinKey::new(*join_key);
        let id = key.record_id(group);
        let (mut env, engine) = world.service.env();
        let (mut page, mut bytes) = (0, Vec::new());
        loop {
            let request = JoinRecordRequest {
                version: WIRE_VERSION,
                id,
                page,
            };
            let answer = read::<JoinRecord>(&request, engine, &mut env).unwrap();
            let at = (page, answer.pages);
            bytes.extend_from_slice(
                &open_join_page(&key, &id, at, answer.sealed.as_slice()).unwrap(),
            );
            page += 1;
            if page == answer.pages {
                return JoinRecordContent::decode(&bytes).unwrap();
            }
        }
    }

    /// Its leaf's word for another key.
    pub(super) fn authorize(
        &self,
        world: &World,
        join: AuthorizedJoin,
        key: &[u8],
    ) -> LeafAuthorization {
        let until = world.service.now_ms + 3_600_000;
        leaf_authorization::authorize(
            &self.signer.0,
            &self.id,
            &self.segment,
            join,
            self.index(),
            until,
            key,
        )
    }

    /// Comes in from outside, by what a member knows.
    pub(super) fn join_from_outside(
        world: &mut World,
        by: &Self,
        user: Vec<u8>,
        permit: impl Fn() -> JoinPermit,
        word: Option<(AuthorizedJoin, LeafSigner)>,
        rotates: bool,
    ) -> Result<Self, Failure> {
        let (join, signer) = match word {
            Some((join, signer)) => (Some(join), signer),
            None => (None, LeafSigner::of(scheme_of(by.mls.ciphersuite()))),
        };
        let word = join.map(|join| by.authorize(world, join, &signer.0.public()));
        Outside {
            word,
            rotates,
            recovery: world.outsiders_recovery.clone(),
            ..Outside::new(by, user, signer, &permit)
        }
        .join(world)
    }

    /// GroupInfo and tree, as any member can hand them out.
    pub(super) fn told(&self) -> (MlsMessageIn, RatchetTreeIn) {
        let info = self
            .mls
            .export_group_info(self.provider.crypto(), &self.signer, false)
            .unwrap();
        let info = info.tls_serialize_detached().unwrap();
        let tree = self.mls.export_ratchet_tree();
        (
            MlsMessageIn::tls_deserialize_exact_bytes(&info).unwrap(),
            tree.into(),
        )
    }

    /// Reads its journal to the end, follows what it says, and verifies the chain.
    pub(super) fn catch_up(&mut self, world: &mut World) {
        let mut from = self.next.rounded_down();
        while !self.is_out {
            let segment = self.segment;
            match self.read_on(world, from) {
                Some(next) if self.segment == segment => from = next,
                Some(_) => from = Position(0),
                None => break,
            }
        }
    }

    /// Where to read on, if there is more.
    fn read_on(&mut self, world: &mut World, from: Position) -> Option<Position> {
        let (mut env, engine) = world.service.env();
        let request = ReadJournalRequest {
            version: WIRE_VERSION,
            segment: self.segment,
            from,
            known: from,
            wait_ms: 0,
        };
        let answer = read::<ReadJournal>(&request, engine, &mut env).unwrap();
        let signing = env.keys.journal_signing().public();
        verify_head(&signing, &self.segment, &answer.head).unwrap();
        let mut position = answer.first;
        for entry in &answer.entries {
            if position == self.next {
                self.next = position.next();
                self.chain = self.chain.map(|chain| head_after(&chain, position, entry));
                let step = self.step;
                if self.take(entry) {
                    // The segment's last entry, which is no step of it.
                    assert_eq!((answer.closed, answer.step), (1, step));
                    assert_eq!(answer.head.next, position.next());
                    return Some(Position(0));
                }
            }
            position = position.next();
        }
        if self.next == answer.head.next {
            match self.chain {
                Some(chain) => assert_eq!(chain, answer.head.chain),
                None => self.chain = Some(answer.head.chain),
            }
            assert_eq!(answer.step, self.step);
            return None;
        }
        Some(position)
    }

    /// Takes an entry. Whether the segment has ended with it, and the next one begins.
    fn take(&mut self, entry: &Entry) -> bool {
        let (class, row) = match entry {
            Entry::Handshake(row) => (Class::Handshake, row),
            Entry::Message(row) => (Class::Message, row),
            Entry::Expired(_) => return false,
        };
        let content = open_entry(
            &self.journal_key,
            &self.segment,
            self.step,
            class,
            row.as_slice(),
        )
        .unwrap();
        let (bytes, commit) = match content.event {
            Event::Message(bytes) | Event::Proposal(bytes) => (bytes, None),
            Event::Commit(commit) => (commit.commit.clone(), Some(commit)),
        };
        let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice())
            .unwrap()
            .try_into_protocol_message()
            .unwrap();
        let own_epoch = self.mls.pending_commit().is_some();
        if let Some(commit) = commit {
            self.commits += 1;
            let aad = if commit.commit.as_slice() == self.staged {
                self.merge_own();
                commit.former_wrapper_key.is_some()
            } else {
                let processed = self.mls.process_message(&self.provider, message).unwrap();
                let aad = CommitAad::decode(processed.aad()).unwrap();
                let sender = processed.sender().clone();
                let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content()
                else {
                    panic!("not a commit");
                };
                self.judge(&staged, &sender, &aad, content.accepted_ms);
                let out = staged.self_removed();
                if own_epoch {
                    self.abandon();
                }
                self.mls
                    .merge_staged_commit(&self.provider, *staged)
                    .unwrap();
                if out {
                    self.is_out = true;
                    return true;
                }
                aad.rotates == 1
            };
            assert_eq!(aad, commit.former_wrapper_key.is_some());
            self.go_on(aad);
            return aad;
        }
        match class {
            Class::Message => {
                // The own one cannot be decrypted again.
                let processed = self.mls.process_message(&self.provider, message);
                self.texts
                    .push(match processed.map(|message| message.into_content()) {
                        Ok(ProcessedMessageContent::ApplicationMessage(text)) => text.into_bytes(),
                        _ => b"own".to_vec(),
                    });
            }
            Class::Handshake => {
                self.proposals.push(bytes.as_slice().to_vec());
                let processed = self.mls.process_message(&self.provider, message);
                if let Ok(processed) = processed
                    && let ProcessedMessageContent::ProposalMessage(queued)
                    | ProcessedMessageContent::ExternalJoinProposalMessage(queued) =
                        processed.into_content()
                {
                    self.mls
                        .store_pending_proposal(self.provider.storage(), *queued)
                        .unwrap();
                }
            }
        }
        false
    }

    fn merge_own(&mut self) {
        self.mls.merge_pending_commit(&self.provider).unwrap();
        if let Some(signer) = self.next_signer.take() {
            self.signer = signer;
        }
    }

    /// The keys of the epoch that has begun, and in a rotation its segment.
    fn go_on(&mut self, rotates: bool) {
        if rotates {
            let secrets = secrets(&self.mls, &self.provider);
            self.state_key = secrets.rotation.state_key();
            self.journal_key = secrets.journal;
            self.rotation = RotationEpoch(self.epoch());
            self.segment = self.state_key.segment(&self.id, self.rotation);
            self.step = Step(0);
            self.next = Position(0);
            self.chain = Some(first_head(&self.segment));
        } else {
            let state_key = std::mem::replace(&mut self.state_key, StateKey::new([0; 32]));
            self.state_key = state_key.next();
            let key = std::mem::replace(&mut self.journal_key, JournalKey::new([0; 32]));
            self.journal_key = key.next();
            self.step = self.step.next();
        }
    }

    /// Goes on after the own commit without reading it in the journal.
    #[cfg(feature = "conformance")]
    pub(super) fn accepted(&mut self, rotates: bool) {
        self.merge_own();
        self.go_on(rotates);
    }

    /// Members judge by the same rules as the service.
    fn judge(
        &self,
        staged: &openmls::prelude::StagedCommit,
        sender: &openmls::prelude::Sender,
        aad: &CommitAad,
        accepted_ms: u64,
    ) {
        let leaving: Vec<u32> = self
            .mls
            .pending_proposals()
            .filter_map(mls_rules::leaving)
            .collect();
        let case = mls_rules::Case {
            group_id: self.id,
            segment: self.segment,
            kind: self.kind,
            group: self.mls.public_group(),
            service: &self.service,
            leaving: &leaving,
            staged,
            sender,
            aad,
            accepted_ms,
        };
        case.judge().unwrap();
    }

    /// Its leaf key once more.
    pub(super) fn same_signer(&self) -> LeafSigner {
        self.signer.again()
    }

    pub(super) fn extensions(&self) -> Vec<Extension> {
        self.mls.extensions().iter().cloned().collect()
    }

    /// The group's context with another policy.
    pub(super) fn context_with(&self, policy: &GroupPolicy) -> Extensions<GroupContext> {
        let others = self.mls.extensions().iter().filter(|extension| {
            extension.extension_type() != ExtensionType::Unknown(POLICY_EXTENSION)
        });
        let others = others.cloned();
        Extensions::from_vec(others.chain([policy_extension(policy)]).collect()).unwrap()
    }

    pub(super) fn policy(&self) -> GroupPolicy {
        mls_rules::policy_in(self.mls.extensions())
            .unwrap()
            .unwrap()
    }

    /// A segment that a joiner was told of.
    pub(super) fn told_of(&mut self, other: &Self) {
        self.segment = other.segment;
    }
}

/// Requests hold secrets, which are not cloned.
pub(super) fn copy<T: Wire>(request: &T) -> T {
    T::decode(&request.encode()).unwrap()
}

/// A join code: its secret, and the request that makes it.
pub(super) fn new_code(
    world: &World,
    (group, maker, epoch): (GroupKey, u32, u64),
    public_key: &[u8],
    sign: impl Fn(&[u8]) -> Vec<u8>,
) -> ([u8; 32], SetJoinCodeRequest) {
    let secret: [u8; 32] = crypto::random().unwrap();
    let mut code = JoinCode {
        permit_hash: JoinCodeSecret::new(secret).permit().hash(),
        public_key: opaque(public_key),
        expiry: Week(Week::of(world.service.now_ms).0 + 3),
        epoch: Epoch(epoch),
        maker: LeafIndex(maker),
        signature: opaque(Vec::new()),
    };
    let tbs = crypto::journal::join_code_tbs(&group.group_id, &code);
    code.signature = opaque(sign(&tbs));
    let row = RecoveryRow {
        id: recovery_row_id(&group.group_id, public_key),
        sealed: opaque(vec![4; 80]),
    };
    let change = JoinCodeChange::Make(NewJoinCode { code, row });
    (secret, SetJoinCodeRequest { group, change })
}

pub(super) fn by_code(secret: [u8; 32]) -> impl Fn() -> JoinPermit {
    move || JoinPermit::JoinCode(JoinCodeSecret::new(secret).permit().to_wire())
}

/// An external commit, step by step.
pub(super) struct Outside<'a> {
    pub(super) by: &'a Client,
    pub(super) user: Vec<u8>,
    pub(super) signer: LeafSigner,
    pub(super) permit: &'a dyn Fn() -> JoinPermit,
    pub(super) word: Option<LeafAuthorization>,
    pub(super) rotates: bool,
    /// Whether the service is asked for what a join needs; else a member tells.
    pub(super) asks: bool,
    pub(super) flaw: Option<Flaw>,
    /// In place of an own recovery key.
    pub(super) recovery: Option<Vec<u8>>,
    /// In place of the one that goes with the permit.
    pub(super) response: Option<Vec<u8>>,
    /// Changes the request before it is signed.
    pub(super) twist: Option<fn(&mut ExternalJoinRequest)>,
}

impl<'a> Outside<'a> {
    pub(super) fn new(
        by: &'a Client,
        user: Vec<u8>,
        signer: LeafSigner,
        permit: &'a dyn Fn() -> JoinPermit,
    ) -> Self {
        Self {
            by,
            user,
            signer,
            permit,
            word: None,
            rotates: false,
            asks: true,
            flaw: None,
            recovery: None,
            response: None,
            twist: None,
        }
    }

    fn sign(&self, world: &mut World, operation: Number, body: &impl Wire) -> Vec<u8> {
        let sender = Sender::Key(opaque(self.signer.0.public()));
        let minute = Minute::of(world.service.now_ms);
        let nonce = world.nonce();
        signed(operation, minute, nonce, sender, body, |tbs| {
            self.signer.0.sign(REQUEST_LABEL, tbs)
        })
    }

    /// What the service says to who asks with this permit.
    pub(super) fn ask(&self, world: &mut World) -> Result<(MlsMessageIn, RatchetTreeIn), Failure> {
        let body = ExternalCommitInfoRequest {
            group: self.by.key(),
            permit: (self.permit)(),
            authorization: self.word.clone(),
        };
        let bytes = self.sign(world, Number::ExternalCommitInfo, &body);
        let info = world.run::<ExternalCommitInfo>(&bytes)?;
        let message = MlsMessageIn::tls_deserialize_exact_bytes(info.group_info.as_slice());
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(info.ratchet_tree.as_slice());
        Ok((message.unwrap(), tree.unwrap()))
    }

    /// The commit, before it is sent.
    pub(super) fn stage(&self, (info, tree): (MlsMessageIn, RatchetTreeIn)) -> Staged {
        let provider = OpenMlsRustCrypto::default();
        let MlsMessageBodyIn::GroupInfo(group_info) = info.extract() else {
            panic!("not a GroupInfo");
        };
        let is_connection = self.by.kind == GroupKind::Connection
            && matches!((self.permit)(), JoinPermit::JoinCode(_));
        let response = match &self.response {
            Some(response) => response.clone(),
            None if is_connection => b"response".to_vec(),
            None => Vec::new(),
        };
        let aad = CommitAad {
            authorization: self.word.clone(),
            encrypted_connection_response: opaque(response),
            ..aad(self.rotates)
        };
        let parameters = LeafNodeParameters::builder()
            .with_capabilities(capabilities())
            .build();
        let credential = match self.flaw {
            Some(flaw) => flaw.credential(&self.signer),
            None => credential(&self.signer, &self.user),
        };
        let (mls, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(tree)
            .with_config(config())
            .with_aad(aad.encode())
            .build_group(&provider, group_info, credential)
            .unwrap()
            .leaf_node_parameters(parameters)
            .load_psks(provider.storage())
            .unwrap()
            .create_group_info(true)
            .build(provider.rand(), provider.crypto(), &self.signer, |_| true)
            .unwrap()
            .finalize(&provider)
            .unwrap();
        let group_info = bundle.group_info().unwrap();
        let recovery = self
            .recovery
            .clone()
            .unwrap_or_else(|| crypto::random::<32>().unwrap().to_vec());
        let next = secrets(&mls, &provider);
        let mut request = ExternalJoinRequest {
            group: self.by.key(),
            commit: opaque(bundle.commit().tls_serialize_detached().unwrap()),
            group_info: PartialGroupInfo {
                extensions: opaque(group_info.extensions().tls_serialize_detached().unwrap()),
                signature: opaque(signature(group_info)),
            },
            rotation: self
                .rotates
                .then(|| next_segment(&next, Some(self.by.rotation))),
            leaf: extras(&self.signer, &self.by.id, &recovery),
            permit: (self.permit)(),
        };
        if let Some(twist) = self.twist {
            twist(&mut request);
        }
        Staged {
            provider,
            mls,
            request,
            recovery,
        }
    }

    pub(super) fn signed(&self, world: &mut World, request: &ExternalJoinRequest) -> Vec<u8> {
        self.sign(world, Number::ExternalJoin, request)
    }

    /// Sends it, signed by this key.
    pub(super) fn send(
        &self,
        world: &mut World,
        request: &ExternalJoinRequest,
    ) -> Result<(Vec<u8>, JoinAccepted), Failure> {
        let bytes = self.signed(world, request);
        let accepted = world.run::<ExternalJoin>(&bytes)?;
        Ok((bytes, accepted))
    }

    /// All of it.
    pub(super) fn join(self, world: &mut World) -> Result<Client, Failure> {
        let told = if self.asks {
            self.ask(world)?
        } else {
            self.by.told()
        };
        let staged = self.stage(told);
        let (bytes, JoinAccepted { accepted, journal }) = self.send(world, &staged.request)?;
        let Staged {
            provider,
            mls,
            recovery,
            ..
        } = staged;
        let Self {
            by,
            user,
            signer,
            rotates,
            ..
        } = self;
        let mut joined = Client::begin(provider, mls, signer, (by.id, user), recovery);
        joined.last_request = bytes;
        joined.journal_key = JournalKey::from(&journal.journal_key);
        if !rotates {
            joined.state_key = StateKey::new(*by.state_key.expose()).next();
            joined.segment = by.segment;
            joined.next = accepted.place.position.next();
            joined.chain = None;
        }
        joined.kind = by.kind;
        joined.know(world);
        joined.rotation = journal.rotation_epoch;
        joined.step = Step(u32::try_from(joined.epoch() - joined.rotation.0).unwrap());
        Ok(joined)
    }
}

/// An external commit that is not sent yet.
pub(super) struct Staged {
    provider: OpenMlsRustCrypto,
    mls: MlsGroup,
    pub(super) request: ExternalJoinRequest,
    recovery: Vec<u8>,
}

/// A body that is encoded already.
pub(super) struct Raw(pub(super) Vec<u8>);

impl tls_codec::Size for Raw {
    fn tls_serialized_len(&self) -> usize {
        self.0.len()
    }
}

impl tls_codec::Serialize for Raw {
    fn tls_serialize<W: std::io::Write>(&self, writer: &mut W) -> Result<usize, tls_codec::Error> {
        writer.write_all(&self.0)?;
        Ok(self.0.len())
    }
}

impl tls_codec::DeserializeBytes for Raw {
    fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), tls_codec::Error> {
        Ok((Self(bytes.to_vec()), &[]))
    }
}
