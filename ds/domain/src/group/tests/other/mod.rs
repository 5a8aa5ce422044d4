//! A member on `mls-rs`, another implementation of RFC 9420: the group, the leaf's key and the
//! signatures of requests are that library's; keys of segments and what is read of the journal are
//! as the SDK would have them.

mod identity;
mod leaf;
mod rooms;
mod wire;

use std::time::Duration;

use crypto::credential::{CREDENTIAL_TYPE, PseudonymousCredential};
use crypto::journal::{first_head, head_after, open_entry, verify_head};
use crypto::keys::ConnectionKey;
use crypto::leaf_authorization::AuthorizedJoin;
use crypto::schedule::{JournalKey, RotationSecret, StateKey, exporters, recovery_row_id};
use crypto::sign::{Scheme, SignatureKeyPair, sign_content};
use mls_rs::client_builder::{BaseConfig, WithCryptoProvider, WithIdentityProvider, WithMlsRules};
use mls_rs::crypto::{SignaturePublicKey, SignatureSecretKey};
use mls_rs::extension::ExtensionType;
use mls_rs::extension::built_in::{ExternalSendersExt, RequiredCapabilitiesExt};
use mls_rs::group::{CommitEffect, ExportedTree, GroupContext, ReceivedMessage};
use mls_rs::identity::basic::BasicCredential;
use mls_rs::identity::{Credential, CredentialType, CustomCredential, SigningIdentity};
use mls_rs::mls_rs_codec::{MlsDecode as _, MlsEncode as _};
use mls_rs::mls_rules::{CommitOptions, DefaultMlsRules};
use mls_rs::{
    CipherSuite, CipherSuiteProvider as _, CryptoProvider as _, Extension, ExtensionList, Group,
    MlsMessage, ProtocolVersion,
};
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use openmls::prelude::tls_codec::Serialize as _;
use protocol::codec::{WireSecret, opaque};
use protocol::connections::ClientCredential;
use protocol::group::{
    CommitAad, CommitAccepted, CommitRequest, CreateGroupRequest, ExternalJoinRequest, GroupKey,
    JoinAccepted, JoinersUpload, LeafExtras, NextSegment, PUSH_HANDLE_BYTES, PartialGroupInfo,
    ProposalRequest, RECOVERY_KEY_LABEL, RecoveryKey, RecoveryKeyTbs, ReserveGroupIdRequest,
    SendMessageRequest, SetLeafExtrasRequest,
};
use protocol::ids::{
    ChainHead, LeafIndex, Minute, Position, RotationEpoch, SegmentId, Step, WelcomeId,
};
use protocol::join::{
    ExternalCommitInfoRequest, LEAF_AUTHORIZATION_LABEL, LeafAuthorization, LeafAuthorizationTbs,
    LinkKeyUpload, SealedFormerWrapperKey,
};
use protocol::journal::{AnswerSize, Class, Entry, Event, ReadJournalRequest};
use protocol::policy::POLICY_EXTENSION;
use protocol::request::{REQUEST_LABEL, Sender};
use protocol::welcome::{FetchWelcomeRequest, WelcomeUpload};
use protocol::{WIRE_VERSION, lifetime};
use tls_codec::DeserializeBytes as _;

use self::identity::{Pseudonymous, pseudonyms};
pub(super) use self::leaf::OtherLeaf;
use self::leaf::{Key, scheme_of};
use self::wire::{GroupInfoMessage, key_package_message, key_package_of};
use super::kit::aad;
use super::*;
use crate::journal::read::ReadJournal;
use crate::testing::signed;

const DOMAIN: &str = "example.org";

/// `mls-rs` with a leaf's identity.
type Mls = mls_rs::Client<Config>;
type Config = WithIdentityProvider<
    Pseudonymous,
    WithMlsRules<DefaultMlsRules, WithCryptoProvider<RustCryptoProvider, BaseConfig>>,
>;

fn message(bytes: &[u8]) -> MlsMessage {
    MlsMessage::from_bytes(bytes).unwrap()
}

/// MLS `ratchet_tree`.
fn tree(bytes: &[u8]) -> ExportedTree<'static> {
    let mut rest = bytes;
    let tree = ExportedTree::mls_decode(&mut rest).unwrap();
    assert_eq!(rest, b"");
    tree
}

fn export(group: &Group<Config>, label: &str) -> [u8; 32] {
    let secret = group.export_secret(label.as_bytes(), b"", 32).unwrap();
    secret.as_bytes().try_into().unwrap()
}

/// Keys of a segment that begins with this epoch.
fn secrets(group: &Group<Config>) -> (StateKey, JournalKey) {
    let rotation = RotationSecret::new(export(group, exporters::ROTATION));
    let journal = JournalKey::new(export(group, exporters::JOURNAL_KEY));
    (rotation.state_key(), journal)
}

fn next_segment(group: &Group<Config>, former: Option<RotationEpoch>) -> NextSegment {
    let (state_key, journal_key) = secrets(group);
    NextSegment {
        state_key: state_key.to_wire(),
        journal_key: journal_key.to_wire(),
        former_wrapper_key: former.map(|of| SealedFormerWrapperKey {
            of,
            sealed: opaque(vec![7; 60]),
        }),
        code_rows: Vec::new(),
    }
}

/// Extensions and signature of a GroupInfo, as a committer sends them.
fn partial(group_info: &MlsMessage) -> PartialGroupInfo {
    let bytes = group_info.to_bytes().unwrap();
    let info = GroupInfoMessage::tls_deserialize_exact_bytes(&bytes).unwrap();
    let extensions = tls_codec::Serialize::tls_serialize_detached(&info.extensions).unwrap();
    PartialGroupInfo {
        extensions: opaque(extensions),
        signature: info.signature,
    }
}

fn policy_extension(policy: &GroupPolicy) -> Extension {
    Extension::new(ExtensionType::new(POLICY_EXTENSION), policy.encode())
}

/// A member on `mls-rs`.
pub(super) struct OtherClient {
    mls: Group<Config>,
    key: Key,
    /// Of a pending update of the credential.
    next_key: Option<Key>,
    pub(super) id: GroupId,
    pub(super) user: Vec<u8>,
    state_key: StateKey,
    journal_key: JournalKey,
    pub(super) rotation: RotationEpoch,
    pub(super) segment: SegmentId,
    step: Step,
    pub(super) next: Position,
    chain: Option<ChainHead>,
    pub(super) is_out: bool,
    pub(super) reinitialized: bool,
    pub(super) texts: Vec<Vec<u8>>,
    pub(super) proposals: usize,
    pub(super) pointers: Vec<Pointer>,
}

impl OtherClient {
    fn begin(mls: Group<Config>, key: Key, user: Vec<u8>) -> Self {
        let id = GroupId(mls.group_id().try_into().unwrap());
        let (state_key, journal_key) = secrets(&mls);
        let rotation = RotationEpoch(mls.current_epoch());
        let segment = state_key.segment(&id, rotation);
        Self {
            mls,
            key,
            next_key: None,
            id,
            user,
            state_key,
            journal_key,
            rotation,
            segment,
            step: Step(0),
            next: Position(0),
            chain: Some(first_head(&segment)),
            is_out: false,
            reinitialized: false,
            texts: Vec::new(),
            proposals: 0,
            pointers: Vec::new(),
        }
    }

    pub(super) fn create(world: &mut World, kind: GroupKind) -> Self {
        let leaf = OtherLeaf::new(world, pseudonym());
        let bytes = leaf.key.request(
            world,
            Number::ReserveGroupId,
            &ReserveGroupIdRequest {
                group_id: protocol::ids::GroupId(crypto::random().unwrap()),
            },
        );
        let id = world.run::<ReserveGroupId>(&bytes).unwrap().group_id;
        let mut context = ExtensionList::new();
        let keys = world.service.keys();
        let service_key = keys.external_sender_public(scheme_of(leaf.key.suite));
        let service = SigningIdentity::new(
            BasicCredential::new(b"service".to_vec()).into_credential(),
            service_key.unwrap().into(),
        );
        context
            .set_from(ExternalSendersExt::new(vec![service]))
            .unwrap();
        context
            .set_from(RequiredCapabilitiesExt::new(
                vec![ExtensionType::new(POLICY_EXTENSION)],
                Vec::new(),
                vec![CredentialType::new(CREDENTIAL_TYPE)],
            ))
            .unwrap();
        if kind == GroupKind::Group {
            let policy = GroupPolicy::of_creator(opaque(leaf.user.as_slice()));
            context.set(policy_extension(&policy));
        }
        let mls = leaf
            .mls
            .create_group_with_id(id.0.to_vec(), context, ExtensionList::new(), None)
            .unwrap();
        let info = mls.group_info_message_allowing_ext_commit(false).unwrap();
        let request = CreateGroupRequest {
            group_id: id,
            kind,
            message_days: 30,
            segment: next_segment(&mls, None),
            ratchet_tree: opaque(mls.export_tree().to_bytes().unwrap()),
            group_info: opaque(info.to_bytes().unwrap()),
            leaf: leaf.key.extras(&id).0,
        };
        let bytes = leaf.key.request(world, Number::CreateGroup, &request);
        world.run::<CreateGroup>(&bytes).unwrap();
        Self::begin(mls, leaf.key, leaf.user)
    }

    pub(super) fn index(&self) -> u32 {
        self.mls.current_member_index()
    }

    pub(super) fn epoch(&self) -> u64 {
        self.mls.current_epoch()
    }

    pub(super) fn members(&self) -> Vec<u32> {
        let roster = self.mls.roster();
        roster.members_iter().map(|member| member.index).collect()
    }

    pub(super) fn group_key(&self) -> GroupKey {
        GroupKey {
            group_id: self.id,
            state_key: self.state_key.to_wire(),
        }
    }

    pub(super) fn policy(&self) -> GroupPolicy {
        let context: &GroupContext = self.mls.context();
        let extension = context.extensions.get(ExtensionType::new(POLICY_EXTENSION));
        GroupPolicy::decode(extension.unwrap().extension_data()).unwrap()
    }

    fn request(&self, world: &mut World, operation: Number, body: &impl protocol::Wire) -> Vec<u8> {
        let sender = Sender::Leaf(LeafIndex(self.index()));
        let minute = Minute::of(world.service.now_ms);
        let nonce = world.nonce();
        signed(operation, minute, nonce, sender, body, |tbs| {
            self.key.sign(REQUEST_LABEL, tbs)
        })
    }

    /// Makes a join code.
    pub(super) fn make_code(&self, world: &mut World) -> [u8; 32] {
        let sign = |tbs: &[u8]| self.key.sign(JOIN_CODE_LABEL, tbs);
        let public_key: [u8; 32] = crypto::random().unwrap();
        let of = (self.group_key(), self.index(), self.epoch());
        let (secret, request) = new_code(world, of, &public_key, sign);
        self.call::<SetJoinCode>(world, &request).unwrap();
        secret
    }

    pub(super) fn call<O: Operation>(
        &self,
        world: &mut World,
        body: &O::Request,
    ) -> Result<O::Response, Failure> {
        let bytes = self.request(world, O::OPERATION, body);
        world.run::<O>(&bytes)
    }

    pub(super) fn message(&mut self, text: &[u8]) -> SendMessageRequest {
        let message = self
            .mls
            .encrypt_application_message(text, Vec::new())
            .unwrap();
        SendMessageRequest {
            group: self.group_key(),
            message: opaque(message.to_bytes().unwrap()),
        }
    }

    /// A joiner's first act.
    pub(super) fn arrive(&mut self, world: &mut World) {
        let (extras, recovery) = self.key.extras(&self.id);
        let body = SetLeafExtrasRequest {
            group: self.group_key(),
            recovery_key: extras.recovery_key,
            push_handle: extras.push_handle,
            row: RecoveryRow {
                id: recovery_row_id(&self.id, &recovery),
                sealed: opaque(vec![2; 80]),
            },
        };
        self.call::<SetLeafExtras>(world, &body).unwrap();
    }

    /// Stages a commit; `reinit` names a successor.
    pub(super) fn stage(
        &mut self,
        world: &World,
        plan: Plan,
        reinit: Option<GroupId>,
    ) -> CommitRequest {
        let Plan {
            operation,
            adds,
            removals,
            new_user,
            rotates,
            context,
            ..
        } = plan;
        let mut occupied = self.members();
        occupied.retain(|leaf| !removals.contains(leaf));
        let mut link_keys = Vec::new();
        for _ in &adds {
            let free = (0..).find(|leaf| !occupied.contains(leaf)).unwrap();
            occupied.push(free);
            link_keys.push(LinkKeyUpload {
                leaf_index: LeafIndex(free),
                sealed: opaque(vec![6; 60]),
            });
        }
        let joiners = adds.len();
        let suite = self.mls.cipher_suite();
        let mut builder = self
            .mls
            .commit_builder()
            .authenticated_data(aad(rotates).encode());
        for key_package in adds {
            builder = builder
                .add_member(key_package_message(key_package))
                .unwrap();
        }
        for removed in removals {
            builder = builder.remove_member(removed).unwrap();
        }
        if let Some(context) = context {
            let bytes = context.tls_serialize_detached().unwrap();
            let context = ExtensionList::mls_decode(&mut bytes.as_slice()).unwrap();
            builder = builder.set_group_context_ext(context).unwrap();
        }
        if let Some(successor) = reinit {
            let id = Some(successor.0.to_vec());
            builder = builder
                .reinit(id, ProtocolVersion::MLS_10, suite, ExtensionList::new())
                .unwrap();
        }
        let new_leaf = new_user.map(|user| OtherLeaf::new(world, user));
        if let Some(leaf) = &new_leaf {
            builder = builder
                .set_new_signing_identity(leaf.key.secret.clone(), leaf.identity.clone())
                .set_leaf_node_extensions(ExtensionList::new());
        }
        let output = builder.build().unwrap();
        // It exports of epochs that it is in: a copy goes ahead.
        let mut ahead = self.mls.clone();
        ahead.apply_pending_commit().unwrap();
        let join_key = export(&ahead, exporters::JOIN_RECORD);
        let welcome = output.welcome_messages().first().map(|welcome| {
            let sealed = welcome.to_bytes().unwrap();
            self.pointers = (0..joiners)
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
                        sealed: opaque(sealed.as_slice()),
                    })
                    .collect(),
            }
        });
        let own = new_leaf.as_ref().map_or(&self.key, |leaf| &leaf.key);
        let committer = (operation == Number::UpdateClient).then(|| own.extras(&self.id).0);
        let request = CommitRequest {
            group: self.group_key(),
            commit: opaque(output.commit_message().to_bytes().unwrap()),
            group_info: partial(output.external_commit_group_info().unwrap()),
            rotation: rotates.then(|| next_segment(&ahead, Some(self.rotation))),
            link_keys,
            committer,
            welcome,
        };
        self.next_key = new_leaf.map(|leaf| leaf.key);
        request
    }

    pub(super) fn abandon(&mut self) {
        self.mls.clear_pending_commit();
        self.next_key = None;
    }

    pub(super) fn send_commit(
        &self,
        world: &mut World,
        operation: Number,
        request: &CommitRequest,
    ) -> Result<CommitAccepted, Failure> {
        let bytes = self.request(world, operation, request);
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

    /// The context with another policy, as a plan has it.
    pub(super) fn context_with(
        &self,
        policy: &GroupPolicy,
    ) -> openmls::prelude::Extensions<openmls::group::GroupContext> {
        use openmls::prelude::tls_codec::DeserializeBytes as _;
        let mut context = self.mls.context().extensions.clone();
        context.set(policy_extension(policy));
        let bytes = context.mls_encode_to_vec().unwrap();
        openmls::prelude::Extensions::tls_deserialize_exact_bytes(&bytes).unwrap()
    }

    /// Says that it leaves, by a Remove of itself: its SelfRemove has another number than everybody
    /// else's.
    pub(super) fn leave(&mut self, world: &mut World) {
        let own = self.mls.current_member_index();
        let proposal = self.mls.propose_remove(own, Vec::new()).unwrap();
        self.mls.clear_proposal_cache();
        let body = ProposalRequest {
            group: self.group_key(),
            proposal: opaque(proposal.to_bytes().unwrap()),
            new_member: None,
        };
        self.call::<SelfRemove>(world, &body).unwrap();
    }

    /// Its leaf's word for another key.
    pub(super) fn authorize(
        &self,
        world: &World,
        join: AuthorizedJoin,
        key: &[u8],
    ) -> LeafAuthorization {
        let tbs = LeafAuthorizationTbs {
            group_id: self.id,
            segment: self.segment,
            purpose: join as u8,
            leaf_index: self.index(),
            not_after_ms: world.service.now_ms + 3_600_000,
            signature_key: opaque(key),
        };
        LeafAuthorization {
            leaf_index: tbs.leaf_index,
            not_after_ms: tbs.not_after_ms,
            signature: opaque(self.key.sign(LEAF_AUTHORIZATION_LABEL, &tbs.encode())),
        }
    }

    /// Comes in by a Welcome.
    pub(super) fn join(world: &mut World, leaf: OtherLeaf, pointer: &Pointer) -> Self {
        let (mut env, engine) = world.service.env();
        let request = FetchWelcomeRequest {
            version: WIRE_VERSION,
            id: pointer.welcome,
        };
        let blob = read::<records::FetchWelcome>(&request, engine, &mut env).unwrap();
        let record = Client::join_record(world, &pointer.group, &pointer.join_key);
        let ratchet_tree = tree(record.ratchet_tree.as_slice());
        let welcome = message(blob.sealed.as_slice());
        let (mls, _) = leaf
            .mls
            .join_group(Some(ratchet_tree), &welcome, None)
            .unwrap();
        assert_eq!(export(&mls, exporters::JOIN_RECORD), pointer.join_key);
        let mut joined = Self::begin(mls, leaf.key, leaf.user);
        let listed: Vec<u32> = record.leaves.iter().map(|leaf| leaf.leaf_index.0).collect();
        assert_eq!(joined.members(), listed);
        joined.state_key = StateKey::from(&record.state_key);
        joined.journal_key = JournalKey::from(&record.journal.journal_key);
        joined.stands_at(record.journal.rotation_epoch);
        joined.next = match record.place.rotation_epoch == joined.rotation {
            true => record.place.position.next(),
            false => Position(0),
        };
        joined
    }

    fn stands_at(&mut self, rotation: RotationEpoch) {
        self.rotation = rotation;
        self.step = Step(u32::try_from(self.epoch() - rotation.0).unwrap());
        self.chain = None;
    }

    /// Comes in by an external commit, in the place of the leaf `replaces`.
    pub(super) fn join_from_outside(
        world: &mut World,
        by: (GroupKey, RotationEpoch, SegmentId),
        leaf: OtherLeaf,
        permit: &dyn Fn() -> JoinPermit,
        word: Option<LeafAuthorization>,
        replaces: Option<u32>,
    ) -> Self {
        let (group, rotation, segment) = by;
        let again = || GroupKey {
            group_id: group.group_id,
            state_key: StateKey::from(&group.state_key).to_wire(),
        };
        let body = ExternalCommitInfoRequest {
            group: again(),
            permit: permit(),
            authorization: word.clone(),
        };
        let bytes = leaf.key.request(world, Number::ExternalCommitInfo, &body);
        let info = world.run::<ExternalCommitInfo>(&bytes).unwrap();
        let rotates = replaces.is_some();
        let is_connection = matches!(permit(), JoinPermit::JoinCode(_));
        let aad = CommitAad {
            authorization: word,
            encrypted_connection_response: opaque(match is_connection {
                true => b"response".to_vec(),
                false => Vec::new(),
            }),
            ..aad(rotates)
        };
        let mut builder = leaf
            .mls
            .external_commit_builder()
            .unwrap()
            .with_tree_data(tree(info.ratchet_tree.as_slice()))
            .with_leaf_node_extensions(ExtensionList::new())
            .with_authenticated_data(aad.encode());
        if let Some(replaces) = replaces {
            builder = builder.with_removal(replaces);
        }
        let (mls, commit) = builder.build(message(info.group_info.as_slice())).unwrap();
        let group_info = mls.group_info_message_allowing_ext_commit(false).unwrap();
        let request = ExternalJoinRequest {
            group: again(),
            commit: opaque(commit.to_bytes().unwrap()),
            group_info: partial(&group_info),
            rotation: rotates.then(|| next_segment(&mls, Some(rotation))),
            leaf: leaf.key.extras(&group.group_id).0,
            permit: permit(),
        };
        let bytes = leaf.key.request(world, Number::ExternalJoin, &request);
        let JoinAccepted { accepted, journal } = world.run::<ExternalJoin>(&bytes).unwrap();
        let mut joined = Self::begin(mls, leaf.key, leaf.user);
        joined.journal_key = JournalKey::from(&journal.journal_key);
        if !rotates {
            joined.state_key = StateKey::from(&group.state_key).next();
            joined.segment = segment;
            joined.next = accepted.place.position.next();
            joined.stands_at(journal.rotation_epoch);
        }
        joined
    }

    /// The same key once more, for who has lost all else.
    pub(super) fn lost(&self, world: &World) -> OtherLeaf {
        OtherLeaf::for_key(world, self.user.clone(), self.key.clone())
    }

    /// Reads its journal to the end and follows what it says.
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

    fn read_on(&mut self, world: &mut World, from: Position) -> Option<Position> {
        let (mut env, engine) = world.service.env();
        let request = ReadJournalRequest {
            version: WIRE_VERSION,
            segment: self.segment,
            from,
            known: from,
            wait_ms: 0,
            size: AnswerSize::Segment,
            piece: 0,
        };
        let answer = read::<ReadJournal>(&request, engine, &mut env).unwrap();
        let signing = env.keys.journal_signing().public();
        verify_head(&signing, &self.segment, &answer.head).unwrap();
        let mut position = answer.first;
        for entry in &answer.entries {
            if position == self.next {
                self.next = position.next();
                self.chain = self.chain.map(|chain| head_after(&chain, position, entry));
                if self.take(entry) {
                    return Some(Position(0));
                }
            }
            position = position.next();
        }
        if self.next != answer.head.next {
            return Some(position);
        }
        match self.chain {
            Some(chain) => assert_eq!(chain, answer.head.chain),
            None => self.chain = Some(answer.head.chain),
        }
        None
    }

    /// Takes an entry. Whether its segment has ended for this member.
    fn take(&mut self, entry: &Entry) -> bool {
        let (class, row) = match entry {
            Entry::Handshake(row) => (Class::Handshake, row),
            Entry::Message(row) => (Class::Message, row),
            Entry::Expired(_) => return false,
        };
        let key = (&self.journal_key, &self.segment, self.step);
        let content = open_entry(key.0, key.1, key.2, class, row.as_slice()).unwrap();
        let commit = match content.event {
            Event::Message(bytes) => {
                // The own one cannot be decrypted again.
                let processed = self.mls.process_incoming_message(message(bytes.as_slice()));
                self.texts.push(match processed {
                    Ok(ReceivedMessage::ApplicationMessage(text)) => text.data().to_vec(),
                    _ => b"own".to_vec(),
                });
                return false;
            }
            Event::Proposal(bytes) => {
                self.proposals += 1;
                let _ = self.mls.process_incoming_message(message(bytes.as_slice()));
                return false;
            }
            Event::Commit(commit) => commit,
        };
        let own_is_pending = self.mls.has_pending_commit();
        let received = message(commit.commit.as_slice());
        let ReceivedMessage::Commit(effect) = self.mls.process_incoming_message(received).unwrap()
        else {
            panic!("not a commit");
        };
        let is_own = own_is_pending && !effect.is_external && effect.committer == self.index();
        if let Some(next_key) = self.next_key.take()
            && is_own
        {
            self.key = next_key;
            let own = self.mls.current_member_signing_identity().unwrap();
            self.user = pseudonyms(own).unwrap().user_pseudonym.into();
        }
        match effect.effect {
            CommitEffect::NewEpoch(_) => {}
            CommitEffect::Removed { .. } => {
                self.is_out = true;
                return true;
            }
            CommitEffect::ReInit(_) => self.reinitialized = true,
        }
        let aad = CommitAad::decode(&effect.authenticated_data).unwrap();
        let rotates = aad.rotates == 1;
        assert_eq!(rotates, commit.former_wrapper_key.is_some());
        if rotates {
            (self.state_key, self.journal_key) = secrets(&self.mls);
            self.rotation = RotationEpoch(self.epoch());
            self.segment = self.state_key.segment(&self.id, self.rotation);
            self.step = Step(0);
            self.next = Position(0);
            self.chain = Some(first_head(&self.segment));
        } else {
            let key = std::mem::replace(&mut self.state_key, StateKey::new([0; 32]));
            self.state_key = key.next();
            let key = std::mem::replace(&mut self.journal_key, JournalKey::new([0; 32]));
            self.journal_key = key.next();
            self.step = self.step.next();
        }
        rotates
    }

    pub(super) fn told_of(&mut self, segment: SegmentId) {
        self.segment = segment;
    }
}
