//! A member as the SDK would be: real MLS state, its own place in the journal; every step by hand.

mod acting;
mod following;
mod founding;
mod joining;
mod outside;

use std::collections::BTreeSet;

use crypto::credential::{CREDENTIAL_TYPE, PseudonymousCredential, random_pseudonym};
use crypto::hpke::{HpkeKeyPair, Kem};
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
use protocol::journal::{AnswerSize, Class, Entry, Event, ReadJournalRequest};
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
        &ConnectionKey::new(crypto::random().unwrap()),
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

/// The public half of a key pair that nobody has.
pub(super) fn fresh_recovery_key(suite: Ciphersuite) -> Vec<u8> {
    let kem = Kem::of_ciphersuite(suite.into()).unwrap();
    let seed = crypto::secret::Secret::random().unwrap();
    let pair = HpkeKeyPair::derive(kem, &seed).unwrap();
    pair.public().to_vec()
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
