//! What members do when the service lets them: made with the MLS library alone, judged as it would
//! arrive.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use crypto::credential::{CREDENTIAL_TYPE, PseudonymousCredential, random_pseudonym};
use crypto::keys::ConnectionKey;
use crypto::sign::{LeafKeyPair, Scheme, SignatureKeyPair};
use mls_rules::{Case, Effect, MAX_CLIENTS, Refusal, ServiceSenders, leaving, policy_in};
use openmls::group::{GroupContext, MlsGroupJoinConfig};
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, Credential, CredentialType, CredentialWithKey,
    Extension, ExtensionType, Extensions, ExternalSender, KeyPackage, LeafNodeIndex, Lifetime,
    MlsGroup, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _,
    PURE_PLAINTEXT_WIRE_FORMAT_POLICY, ProcessedMessageContent, ProposalType,
    RequiredCapabilitiesExtension, SignatureScheme, StagedWelcome, UnknownExtension,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::{Signer, SignerError};
use protocol::codec::opaque;
use protocol::connections::ClientCredential;
use protocol::group::{CommitAad, GroupKind};
use protocol::ids::{Epoch, GroupId, LeafIndex, SegmentId};
use protocol::operation::Operation;
use protocol::policy::{GroupPolicy, POLICY_EXTENSION, Standing};
use protocol::removal::{RemovalReason, ServiceRemoval};
use protocol::{Wire as _, lifetime};

const ID: GroupId = GroupId([7; 16]);
const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const NOW_MS: u64 = 1_800_000_000_000;

const SERVICE: u8 = 2;
const OUTSIDER: u8 = 3;
const ROTATED: u8 = 4;

/// An external sender's key.
fn sender(seed: u8) -> LeafKeyPair {
    LeafKeyPair::from_seed(Scheme::Ed25519, &crypto::secret::Secret::new([seed; 32])).unwrap()
}

fn senders(seeds: &[u8]) -> Extension {
    let listed = seeds.iter().map(|seed| {
        let name = BasicCredential::new(b"a sender".to_vec()).into();
        ExternalSender::new(sender(*seed).public().into(), name)
    });
    Extension::ExternalSenders(listed.collect())
}

/// The context's extensions with another one in the place of its kind.
fn with_extension(
    extensions: &Extensions<GroupContext>,
    extension: Extension,
) -> Extensions<GroupContext> {
    let kind = extension.extension_type();
    let others = extensions.iter().filter(|it| it.extension_type() != kind);
    Extensions::from_vec(others.cloned().chain([extension]).collect()).unwrap()
}

fn policy_extension(policy: &GroupPolicy) -> Extension {
    Extension::Unknown(POLICY_EXTENSION, UnknownExtension(policy.encode()))
}

struct LeafSigner(LeafKeyPair);

impl Signer for LeafSigner {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign_bytes(payload))
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

fn capabilities() -> Capabilities {
    Capabilities::new(
        None,
        Some(&[SUITE]),
        Some(&[ExtensionType::Unknown(POLICY_EXTENSION)]),
        Some(&[ProposalType::SelfRemove]),
        Some(&[
            CredentialType::Other(CREDENTIAL_TYPE),
            CredentialType::Basic,
        ]),
    )
}

struct Leaf {
    provider: OpenMlsRustCrypto,
    signer: LeafSigner,
    credential: CredentialWithKey,
    user: Vec<u8>,
}

impl Leaf {
    fn new() -> Self {
        Self::of(random_pseudonym("d.example").unwrap().as_slice())
    }

    fn of(user: &[u8]) -> Self {
        let key = LeafKeyPair::random(Scheme::Ed25519).unwrap();
        let identity = SignatureKeyPair::random().unwrap();
        let real = ClientCredential {
            name: opaque(*b"a name"),
            signature_public_key: opaque(identity.public()),
        };
        let (pseudonymous, _) = PseudonymousCredential::issue(
            "d.example",
            opaque(user),
            &key.public(),
            &real,
            &identity,
            &ConnectionKey::new(crypto::random().unwrap()),
        )
        .unwrap();
        Self {
            provider: OpenMlsRustCrypto::default(),
            credential: CredentialWithKey {
                credential: Credential::new(
                    CredentialType::Other(CREDENTIAL_TYPE),
                    pseudonymous.encode(),
                ),
                signature_key: key.public().into(),
            },
            signer: LeafSigner(key),
            user: user.to_vec(),
        }
    }

    fn key_package(&self) -> KeyPackage {
        let (from, until) = lifetime::bounds(NOW_MS / 1000 + 1000);
        KeyPackage::builder()
            .key_package_lifetime(Lifetime::init(from, until))
            .leaf_node_capabilities(capabilities())
            .build(SUITE, &self.provider, &self.signer, self.credential.clone())
            .unwrap()
            .key_package()
            .clone()
    }

    fn found(self) -> User {
        let policy = GroupPolicy::of_creator(opaque(self.user.as_slice()));
        let required = RequiredCapabilitiesExtension::new(
            &[ExtensionType::Unknown(POLICY_EXTENSION)],
            &[],
            &[],
        );
        let context = vec![
            senders(&[SERVICE, OUTSIDER]),
            Extension::RequiredCapabilities(required),
            policy_extension(&policy),
        ];
        let mls = MlsGroup::builder()
            .with_group_id(openmls::prelude::GroupId::from_slice(&ID.0))
            .ciphersuite(SUITE)
            .with_wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .with_group_context_extensions(Extensions::from_vec(context).unwrap())
            .with_capabilities(capabilities())
            .build(&self.provider, &self.signer, self.credential.clone())
            .unwrap();
        User { leaf: self, mls }
    }
}

struct User {
    leaf: Leaf,
    mls: MlsGroup,
}

fn service() -> ServiceSenders {
    ServiceSenders {
        current: vec![sender(SERVICE).public()],
        former: Vec::new(),
    }
}

fn aad(rotates: u8) -> CommitAad {
    CommitAad {
        rotates,
        authorization: None,
        encrypted_connection_response: opaque(*b""),
    }
}

#[derive(Default)]
struct Plan {
    adds: Vec<KeyPackage>,
    removals: Vec<u32>,
    context: Option<Extensions<GroupContext>>,
    rotates: u8,
}

impl User {
    /// A commit that this user makes without asking whether it may. It stays pending.
    fn commit(&mut self, plan: Plan) -> (Vec<u8>, Option<Vec<u8>>) {
        self.mls.set_aad(aad(plan.rotates).encode());
        let provider = &self.leaf.provider;
        let mut builder = self
            .mls
            .commit_builder()
            .propose_adds(plan.adds)
            .propose_removals(plan.removals.into_iter().map(LeafNodeIndex::new));
        if let Some(context) = plan.context {
            builder = builder.propose_group_context_extensions(context).unwrap();
        }
        let bundle = builder
            .load_psks(provider.storage())
            .unwrap()
            .build(
                provider.rand(),
                provider.crypto(),
                &self.leaf.signer,
                |_| true,
            )
            .unwrap()
            .stage_commit(provider)
            .unwrap();
        let welcome = bundle
            .to_welcome_msg()
            .map(|welcome| welcome.tls_serialize_detached().unwrap());
        (bundle.commit().tls_serialize_detached().unwrap(), welcome)
    }

    fn merge(&mut self) {
        self.mls.merge_pending_commit(&self.leaf.provider).unwrap();
    }

    fn add(&mut self, others: Vec<Leaf>) -> Vec<Self> {
        let adds = others.iter().map(Leaf::key_package).collect();
        let (_, welcome) = self.commit(Plan {
            adds,
            ..Plan::default()
        });
        self.merge();
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .build();
        let tree = self.mls.export_ratchet_tree();
        let join = |leaf: Leaf| {
            let message = MlsMessageIn::tls_deserialize_exact_bytes(welcome.as_ref().unwrap());
            let MlsMessageBodyIn::Welcome(welcome) = message.unwrap().extract() else {
                panic!("no Welcome");
            };
            let tree = Some(tree.clone().into());
            let staged = StagedWelcome::new_from_welcome(&leaf.provider, &config, welcome, tree);
            let mls = staged.unwrap().into_group(&leaf.provider).unwrap();
            Self { leaf, mls }
        };
        others.into_iter().map(join).collect()
    }

    /// Judges another one's commit, as every member does; or as the service does, of an operation.
    fn judge(
        &self,
        commit: &[u8],
        keys: &ServiceSenders,
        operation: Option<Operation>,
    ) -> Result<Effect, Refusal> {
        self.judge_in(GroupKind::Group, commit, keys, operation)
    }

    /// As [`User::judge`], in a group of this kind.
    fn judge_in(
        &self,
        kind: GroupKind,
        commit: &[u8],
        keys: &ServiceSenders,
        operation: Option<Operation>,
    ) -> Result<Effect, Refusal> {
        let message = MlsMessageIn::tls_deserialize_exact_bytes(commit).unwrap();
        let provider = &self.leaf.provider;
        // The library counts processing as receipt: a copy of the group does it.
        let mut copy = MlsGroup::load(provider.storage(), self.mls.group_id())
            .unwrap()
            .unwrap();
        let message = message.try_into_protocol_message().unwrap();
        let processed = copy.process_message(provider, message).unwrap();
        let sender = processed.sender().clone();
        let aad = CommitAad::decode(processed.aad()).unwrap();
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            panic!("not a commit");
        };
        let extensions = self.mls.extensions();
        let pending: Vec<u32> = self
            .mls
            .pending_proposals()
            .filter(|queued| keys.sent(extensions, queued))
            .filter_map(leaving)
            .collect();
        let case = Case {
            group_id: ID,
            segment: SegmentId([7; 32]),
            kind,
            group: self.mls.public_group(),
            service: keys,
            leaving: &pending,
            staged: &staged,
            sender: &sender,
            aad: &aad,
            accepted_ms: NOW_MS,
        };
        match operation {
            Some(operation) => case.judge_operation(operation, aad.rotates == 1),
            None => case.judge(),
        }
    }

    fn follows(&self, commit: &[u8]) -> Result<Effect, Refusal> {
        self.judge(commit, &service(), None)
    }

    /// A proposal that everybody gets: of the sender in this place, to remove a leaf.
    fn takes_removal(&mut self, place: u32, seed: u8, leaf: u32) {
        let removal = ServiceRemoval {
            group_id: ID,
            epoch: Epoch(self.mls.epoch().as_u64()),
            sender: place,
            leaf: LeafIndex(leaf),
            reason: RemovalReason::NeverCame,
        };
        let message = removal.message(&sender(seed).sign_bytes(&removal.to_sign()));
        let message = MlsMessageIn::tls_deserialize_exact_bytes(&message).unwrap();
        let message = message.try_into_protocol_message().unwrap();
        let provider = &self.leaf.provider;
        let processed = self.mls.process_message(provider, message).unwrap();
        let ProcessedMessageContent::ProposalMessage(queued) = processed.into_content() else {
            panic!("not a proposal");
        };
        self.mls
            .store_pending_proposal(provider.storage(), *queued)
            .unwrap();
    }

    /// The context's extensions with a user's role and standing set.
    fn with(&self, user: &[u8], role: u8, standing: Standing) -> Extensions<GroupContext> {
        let policy = policy_in(self.mls.extensions()).unwrap().unwrap();
        let policy = policy.with(user, role, standing);
        with_extension(self.mls.extensions(), policy_extension(&policy))
    }
}

/// Alice, who is the admin, Bob and Carol.
fn trio() -> [User; 3] {
    let mut alice = Leaf::new().found();
    let others = alice.add(vec![Leaf::new(), Leaf::new()]);
    let [bob, carol]: [User; 2] = others.try_into().ok().unwrap();
    [alice, bob, carol]
}

const ALICE: u32 = 0;
const BOB: u32 = 1;
const CAROL: u32 = 2;

fn removing(removals: &[u32], rotates: u8) -> Plan {
    Plan {
        removals: removals.to_vec(),
        rotates,
        ..Plan::default()
    }
}

fn changing(context: Extensions<GroupContext>) -> Plan {
    Plan {
        context: Some(context),
        ..Plan::default()
    }
}

#[test]
fn a_removal_by_who_may_not_remove_is_not_followed() {
    let [mut alice, mut bob, _] = trio();
    let (commit, _) = bob.commit(removing(&[CAROL], 1));
    assert_eq!(alice.follows(&commit), Err(Refusal::NotAllowed));
    let (commit, _) = alice.commit(removing(&[CAROL], 1));
    bob.mls
        .clear_pending_commit(bob.leaf.provider.storage())
        .unwrap();
    let effect = bob.follows(&commit).unwrap();
    assert_eq!((effect.removed, effect.users_go), (vec![CAROL], true));
}

#[test]
fn a_removal_without_rotation_is_followed_only_if_the_group_ends_with_it() {
    let [mut alice, bob, _] = trio();
    let (commit, _) = alice.commit(removing(&[CAROL], 0));
    assert_eq!(bob.follows(&commit), Err(Refusal::Rotation));
    let [mut alice, bob, _] = trio();
    let (commit, _) = alice.commit(removing(&[BOB, CAROL], 0));
    assert!(bob.follows(&commit).unwrap().deletes);
    let [alice, mut bob, _] = trio();
    let (commit, _) = bob.commit(removing(&[ALICE, CAROL], 0));
    assert_eq!(alice.follows(&commit), Err(Refusal::NotAllowed));
}

#[test]
fn the_services_word_removes_a_member_and_no_other_senders_does() {
    // Bob may remove nobody: he covers what the service wants, not what the outsider does.
    let followed = [
        (0, SERVICE, Ok(vec![CAROL])),
        (1, OUTSIDER, Err(Refusal::NotAllowed)),
    ];
    for (place, seed, outcome) in followed {
        let [mut alice, mut bob, _] = trio();
        for user in [&mut alice, &mut bob] {
            user.takes_removal(place, seed, CAROL);
        }
        let (commit, _) = bob.commit(removing(&[], 1));
        let found = alice.follows(&commit).map(|effect| effect.removed);
        assert_eq!(found, outcome);
    }
}

#[test]
fn what_the_service_wants_removed_must_be_covered() {
    let [mut alice, mut bob, _] = trio();
    let (commit, _) = bob.commit(removing(&[], 1));
    alice.takes_removal(0, SERVICE, CAROL);
    let outcome = alice.judge(&commit, &service(), Some(Operation::UpdateClient));
    assert_eq!(outcome, Err(Refusal::Pending));
}

#[test]
fn external_senders_change_to_what_the_service_announces_and_to_nothing_else() {
    let rotated = ServiceSenders {
        current: vec![sender(ROTATED).public()],
        former: vec![sender(SERVICE).public()],
    };
    for (seeds, announced, followed) in [
        // The service dropped, an outsider more or less, another order of outsiders' places.
        (&[OUTSIDER][..], false, false),
        (&[SERVICE], false, false),
        (&[SERVICE, OUTSIDER, 9], false, false),
        (&[OUTSIDER, SERVICE], false, true),
        // A new key of the service, before and after it says so.
        (&[ROTATED, OUTSIDER], false, false),
        (&[ROTATED, OUTSIDER], true, true),
        (&[SERVICE, ROTATED, OUTSIDER], true, true),
        (&[OUTSIDER], true, false),
    ] {
        let [mut alice, bob, _] = trio();
        let context = with_extension(alice.mls.extensions(), senders(seeds));
        let (commit, _) = alice.commit(changing(context));
        let keys = if announced {
            rotated.clone()
        } else {
            service()
        };
        let outcome = bob.judge(&commit, &keys, Some(Operation::SetRole));
        assert_eq!(outcome.is_ok(), followed, "{seeds:?}: {outcome:?}");
        if !followed {
            assert_eq!(outcome, Err(Refusal::Senders));
        }
    }
}

#[test]
fn nobody_makes_himself_an_admin() {
    let [alice, mut bob, _] = trio();
    let user = bob.leaf.user.clone();
    let roles = bob.with(&user, GroupPolicy::ADMIN, Standing::Active);
    let (commit, _) = bob.commit(changing(roles.clone()));
    assert_eq!(alice.follows(&commit), Err(Refusal::NotAllowed));
    let [mut alice, bob, _] = trio();
    let roles = alice.with(&bob.leaf.user, GroupPolicy::ADMIN, Standing::Active);
    let (commit, _) = alice.commit(changing(roles));
    bob.follows(&commit).unwrap();
}

#[test]
fn a_connection_and_ones_own_devices_get_no_rules_and_no_name() {
    for kind in [GroupKind::Connection, GroupKind::SingleUser] {
        let [mut alice, bob, _] = trio();
        let roles = alice.with(&bob.leaf.user, GroupPolicy::ADMIN, Standing::Active);
        let (commit, _) = alice.commit(changing(roles));
        let judged = bob.judge_in(kind, &commit, &service(), None);
        assert_eq!(judged, Err(Refusal::NotAllowed));
    }
}

#[test]
fn not_even_an_admin_drops_the_policy() {
    let [mut alice, bob, _] = trio();
    let kept = alice
        .mls
        .extensions()
        .iter()
        .filter(|it| it.extension_type() != ExtensionType::Unknown(POLICY_EXTENSION));
    let context = Extensions::from_vec(kept.cloned().collect()).unwrap();
    let (commit, _) = alice.commit(changing(context));
    assert_eq!(bob.follows(&commit), Err(Refusal::Commit));
}

#[test]
fn who_is_banned_adds_nobody_and_no_client_of_its_own() {
    for own in [false, true] {
        let [mut alice, mut bob, _] = trio();
        let ban = alice.with(&bob.leaf.user, GroupPolicy::MEMBER, Standing::Banned);
        let (commit, _) = alice.commit(changing(ban));
        alice.merge();
        let message = MlsMessageIn::tls_deserialize_exact_bytes(&commit).unwrap();
        let message = message.try_into_protocol_message().unwrap();
        let provider = &bob.leaf.provider;
        let processed = bob.mls.process_message(provider, message).unwrap();
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            panic!("not a commit");
        };
        bob.mls.merge_staged_commit(provider, *staged).unwrap();
        let leaf = if own {
            Leaf::of(&bob.leaf.user)
        } else {
            Leaf::new()
        };
        let (commit, _) = bob.commit(Plan {
            adds: vec![leaf.key_package()],
            ..Plan::default()
        });
        assert_eq!(alice.follows(&commit), Err(Refusal::NotAllowed));
    }
}

#[test]
fn nobody_removes_half_a_user() {
    let [mut alice, bob, _] = trio();
    let second = Leaf::of(&bob.leaf.user);
    // By the admin, who may not do that either; the rules are not asked here.
    let mut joined = alice.add(vec![second]);
    let second = joined.remove(0);
    let (commit, _) = alice.commit(removing(&[BOB], 1));
    assert_eq!(second.follows(&commit), Err(Refusal::NotAllowed));
    alice
        .mls
        .clear_pending_commit(alice.leaf.provider.storage())
        .unwrap();
    let (commit, _) = alice.commit(removing(&[BOB, 3], 1));
    assert_eq!(second.follows(&commit).unwrap().removed, [BOB, 3]);
}

#[test]
fn a_commit_is_the_operation_that_it_was_sent_as() {
    let [mut alice, bob, _] = trio();
    let (commit, _) = alice.commit(removing(&[CAROL], 1));
    for (operation, outcome) in [
        (Operation::RemoveUsers, Ok(vec![CAROL])),
        (Operation::RemoveClients, Err(Refusal::NotAllowed)),
        (Operation::AddUsers, Err(Refusal::Commit)),
        (Operation::UpdateClient, Err(Refusal::Commit)),
        (Operation::SetRole, Err(Refusal::Commit)),
        (Operation::DeleteGroup, Err(Refusal::Commit)),
        (Operation::ReInitializeGroup, Err(Refusal::Commit)),
    ] {
        let found = bob.judge(&commit, &service(), Some(operation));
        assert_eq!(found.map(|effect| effect.removed), outcome, "{operation:?}");
    }
    let [mut alice, bob, _] = trio();
    let (commit, _) = alice.commit(Plan {
        adds: vec![Leaf::of(&alice.leaf.user).key_package()],
        ..Plan::default()
    });
    let judge = |operation| bob.judge(&commit, &service(), Some(operation));
    assert_eq!(judge(Operation::AddUsers), Err(Refusal::NotAllowed));
    assert_eq!(judge(Operation::AddClients).unwrap().added.len(), 1);
}

#[test]
fn a_user_has_only_so_many_leaves_however_they_come() {
    let [mut alice, mut bob, _] = trio();
    let own = |user: &User, number: usize| -> Vec<KeyPackage> {
        (0..number)
            .map(|_| Leaf::of(&user.leaf.user).key_package())
            .collect()
    };
    // Bob has one.
    for (adds, outcome) in [
        (MAX_CLIENTS - 1, Ok(MAX_CLIENTS - 1)),
        (MAX_CLIENTS, Err(Refusal::TooMany)),
    ] {
        let adds = own(&bob, adds);
        let (commit, _) = bob.commit(Plan {
            adds,
            ..Plan::default()
        });
        let found = alice.follows(&commit);
        assert_eq!(found.map(|effect| effect.added.len()), outcome);
        bob.mls
            .clear_pending_commit(bob.leaf.provider.storage())
            .unwrap();
    }
    // Nor does anybody else bring in a user with more.
    let dave = Leaf::new();
    let adds = (0..=MAX_CLIENTS)
        .map(|_| Leaf::of(&dave.user).key_package())
        .collect();
    let (commit, _) = alice.commit(Plan {
        adds,
        ..Plan::default()
    });
    assert_eq!(bob.follows(&commit), Err(Refusal::TooMany));
}
