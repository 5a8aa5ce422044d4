//! What members do when the service lets them: made with the MLS library alone, processed as it
//! would arrive.

mod coming;
mod removals;
mod roles;

use base64::Engine as _;
use crypto::keys::IdentityLinkKey;
use crypto::leaf_authorization::{AuthorizedJoin, authorize};
use crypto::schedule::{StateKey, WelcomeKey};
use crypto::sign::{LeafKeyPair, Scheme};
use openmls::prelude::{
    BasicCredential, Extension, ExtensionType, ExternalSender, KeyPackage, MlsMessageBodyIn,
    MlsMessageIn, OpenMlsProvider as _, PURE_PLAINTEXT_WIRE_FORMAT_POLICY, StagedWelcome,
};
use protocol::codec::opaque;
use protocol::group::{CommitAad, CommitRequest};
use protocol::ids::{Day, Epoch, LeafIndex, Position, RotationEpoch, Week};
use protocol::join::{LeafAuthorization, LinkKeyUpload};
use protocol::journal::CommitEvent;
use protocol::policy::Standing;
use protocol::removal::{
    CONNECTION_INACTIVE_WEEKS, LEAST_INACTIVE_WEEKS, RemovalReason, ServiceRemoval,
};
use protocol::time::DAY_MS;
use protocol::welcome::WelcomePointer;
use tls_codec::{DeserializeBytes as _, Serialize as _};

use super::*;
use crate::error::Fault;
use crate::flows::{process, recovery};
use crate::leaf::{self, CIPHERSUITE};
use crate::mls::beginning::Beginning;
use crate::mls::changes::{self, Beside, Committer};
use crate::mls::commit::{self, Staging};
use crate::mls::content::Content;
use crate::mls::entry::{self, CommitEntry, Next};
use crate::mls::new_leaf::NewLeaf;
use crate::mls::parts::{context_extensions, own_identity, policy_extension};
use crate::mls::settings::{self, PADDING, join_config};
use crate::mls::{join, welcomes};
use crate::outcomes::StopReason;
use crate::store::loaded::Loaded;
use crate::store::mls::PAST_EPOCHS;
use crate::store::mls::mls_id;
use crate::store::provider::{LeafSigner, Provider};
use crate::store::{
    Event, Identity, Pending, Profile, Status, contacts, database, events, evidence, identities,
    known, load_mls,
};
use crate::sync_message::{ConnectionUpdate, NewContact, PoolKeys, SyncMessage, UPDATE_VERSION};

const ID: GroupId = GroupId([7; 16]);

/// A user with a database of its own, as it is after joining.
struct User {
    db: Connection,
    profile: Profile,
    /// The user pseudonym of its leaves; one of its own for each, if it is none.
    pseudonym: Option<Vec<u8>>,
}

fn directory() -> Directory {
    let mut directory = crate::flows::wallet::tests::directory(&[]);
    directory.domain = "d.example".into();
    directory.external_sender_key = crate::encoding::BASE64URL.encode(sender(SERVICE).public());
    directory
}

/// The day on which everything comes.
const TODAY: u32 = 20_000;

const NOW_MS: u64 = TODAY as u64 * DAY_MS;

/// A commit with what travels beside it.
struct Made {
    commit: Vec<u8>,
    link_keys: Vec<LinkKeyUpload>,
}

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

/// The context's extensions with these external senders.
fn with_senders(extensions: &Extensions<GroupContext>, seeds: &[u8]) -> Extensions<GroupContext> {
    let others = extensions
        .iter()
        .filter(|it| it.extension_type() != ExtensionType::ExternalSenders)
        .cloned();
    Extensions::from_vec(others.chain([senders(seeds)]).collect()).unwrap()
}

impl User {
    fn new(handle: &str) -> Self {
        let db = database::in_memory().unwrap();
        let mut profile = crate::store::profile::tests::profile(&db);
        profile.handle = Some(handle.to_owned());
        let user = Self {
            db,
            profile,
            pseudonym: None,
        };
        user.hears_of(&directory());
        user
    }

    fn hears_of(&self, directory: &Directory) {
        let text = serde_json::to_string(directory).unwrap();
        let update = "UPDATE profile SET directory = ?";
        self.db.execute(update, [text]).unwrap();
    }

    fn leaf(&self) -> NewLeaf {
        let leaf = match &self.pseudonym {
            Some(pseudonym) => leaf_as(self, pseudonym),
            None => NewLeaf::make(&self.profile, &directory()).unwrap(),
        };
        leaf.store_key(&self.db).unwrap();
        leaf
    }

    fn group(&self) -> Group {
        Group::read(&self.db, &ID).unwrap()
    }

    fn keep_group(&self) {
        Group {
            id: ID,
            kind: GroupKind::Group,
            name: Some("team".into()),
            segment: crate::store::segments::tests::segment(&ID),
            recovery: crypto::secret::Secret::new([3; 32]),
            recovery_set: true,
            update_due: false,
            status: Status::Active,
        }
        .insert(&self.db)
        .unwrap();
    }

    fn signer(&self, mls_group: &MlsGroup) -> LeafSigner {
        let leaf = mls_group.own_leaf_node().unwrap();
        crate::store::leaf_keys::signer(&self.db, leaf.signature_key().as_slice()).unwrap()
    }

    fn found(&self) {
        let leaf = self.leaf();
        let policy = GroupPolicy::of_creator(leaf.pseudonymous.user_pseudonym.clone());
        MlsGroup::builder()
            .with_group_id(mls_id(&ID))
            .ciphersuite(CIPHERSUITE)
            .with_wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .max_past_epochs(PAST_EPOCHS)
            .padding_size(PADDING)
            .sender_ratchet_configuration(settings::sender_ratchet())
            .with_group_context_extensions(with_senders(
                &context_extensions(&directory(), CIPHERSUITE, Some(&policy)).unwrap(),
                &[SERVICE, OUTSIDER],
            ))
            .with_capabilities(leaf::capabilities(CIPHERSUITE, true))
            .build(
                &Provider::new(&self.db),
                &leaf.signer,
                leaf.credential.clone(),
            )
            .unwrap();
        self.keep_group();
        let own = own_identity(&self.profile, &leaf).unwrap();
        identities::store(&self.db, &ID, &leaf.credential.credential, &own).unwrap();
    }

    fn key_package(&self) -> KeyPackage {
        let leaf = self.leaf();
        KeyPackage::builder()
            .leaf_node_capabilities(leaf::capabilities(CIPHERSUITE, true))
            .build(
                CIPHERSUITE,
                &Provider::new(&self.db),
                &leaf.signer,
                leaf.credential.clone(),
            )
            .unwrap()
            .key_package()
            .clone()
    }

    /// Adds users without asking whether it may.
    fn add(&self, others: &[&Self]) -> Vec<u8> {
        let mut mls_group = load_mls(&self.db, &ID).unwrap();
        mls_group.set_aad(aad(0));
        let provider = Provider::new(&self.db);
        let signer = self.signer(&mls_group);
        let packages: Vec<KeyPackage> = others.iter().map(|other| other.key_package()).collect();
        let (commit, welcome, _) = mls_group
            .add_members(&provider, &signer, &packages)
            .unwrap();
        mls_group.merge_pending_commit(&provider).unwrap();
        let tree = mls_group.export_ratchet_tree();
        let welcome = welcome.tls_serialize_detached().unwrap();
        for other in others {
            let provider = Provider::new(&other.db);
            let message = MlsMessageIn::tls_deserialize_exact_bytes(&welcome).unwrap();
            let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
                panic!("no Welcome");
            };
            StagedWelcome::new_from_welcome(
                &provider,
                &join_config(),
                welcome,
                Some(tree.clone().into()),
            )
            .unwrap()
            .into_group(&provider)
            .unwrap();
            other.keep_group();
        }
        commit.tls_serialize_detached().unwrap()
    }

    /// A commit that this user makes without asking whether it may.
    fn commit(
        &self,
        rotates: u8,
        plan: impl FnOnce(&MlsGroup) -> (Vec<u32>, Option<Extensions<GroupContext>>),
    ) -> Vec<u8> {
        let mut mls_group = load_mls(&self.db, &ID).unwrap();
        mls_group.set_aad(aad(rotates));
        let provider = Provider::new(&self.db);
        let signer = self.signer(&mls_group);
        let (removals, extensions) = plan(&mls_group);
        let mut builder = mls_group
            .commit_builder()
            .propose_removals(removals.into_iter().map(LeafNodeIndex::new));
        if let Some(extensions) = extensions {
            builder = builder
                .propose_group_context_extensions(extensions)
                .unwrap();
        }
        let bundle = builder
            .load_psks(provider.storage())
            .unwrap()
            .build(provider.rand(), provider.crypto(), &signer, |_| true)
            .unwrap()
            .stage_commit(&provider)
            .unwrap();
        mls_group.merge_pending_commit(&provider).unwrap();
        bundle.commit().tls_serialize_detached().unwrap()
    }

    /// A proposal that everybody gets: of the sender in this place, to remove a leaf.
    fn takes_removal(&self, place: u32, seed: u8, leaf: u32) {
        self.takes_removal_because(place, seed, leaf, RemovalReason::OwnWish)
            .unwrap();
    }

    fn takes_removal_because(
        &self,
        place: u32,
        seed: u8,
        leaf: u32,
        reason: RemovalReason,
    ) -> Result<(), Error> {
        self.takes_removal_in(Week::of(NOW_MS), (place, seed), leaf, reason)
    }

    fn takes_removal_in(
        &self,
        week: Week,
        (place, seed): (u32, u8),
        leaf: u32,
        reason: RemovalReason,
    ) -> Result<(), Error> {
        let removal = ServiceRemoval {
            group_id: ID,
            epoch: Epoch(self.epoch()),
            sender: place,
            leaf: LeafIndex(leaf),
            reason,
        };
        let signature = sender(seed).sign_bytes(&removal.to_sign());
        let message = removal.message(&signature);
        crate::mls::proposals::keep(&self.db, &ID, &message, week)
    }

    fn remembers(&self) {
        known::remember(&self.db, &ID, &load_mls(&self.db, &ID).unwrap()).unwrap();
    }

    fn removals(&self) -> Vec<u32> {
        let mls_group = load_mls(&self.db, &ID).unwrap();
        crate::mls::proposals::removals(&self.db, &mls_group).unwrap()
    }

    fn message(&self, text: &str) -> Vec<u8> {
        let message = content::MimiContent::text(crypto::random().unwrap(), text);
        self.says(&Content::Message(message.encode().unwrap().into()))
    }

    fn says(&self, content: &Content) -> Vec<u8> {
        let mut mls_group = load_mls(&self.db, &ID).unwrap();
        let signer = self.signer(&mls_group);
        mls_group
            .create_message(&Provider::new(&self.db), &signer, &content.encode(None))
            .unwrap()
            .tls_serialize_detached()
            .unwrap()
    }

    /// The group is one of another kind, which has no name.
    fn is_in(&self, kind: GroupKind) {
        let update = "UPDATE groups SET kind = ?, name = NULL";
        self.db.execute(update, [kind as u8]).unwrap();
    }

    fn knows(&self, contact: &Self) {
        NewContact {
            credential: contact.profile.credential().unwrap(),
            connection_key: contact.profile.connection_key.to_wire(),
            connection_token: protocol::codec::WireSecret::new([1; 32]),
            pool: PoolKeys::fresh().unwrap(),
            given: crate::sync_message::GivenName::none(),
        }
        .store(&self.db)
        .unwrap();
    }

    /// Carries out what is pending, and records that as a client does with its own commit.
    fn covers(&self) -> Vec<u8> {
        let mut mls_group = load_mls(&self.db, &ID).unwrap();
        mls_group.set_aad(aad(1));
        let provider = Provider::new(&self.db);
        let signer = self.signer(&mls_group);
        let bundle = mls_group
            .commit_builder()
            .load_psks(provider.storage())
            .unwrap()
            .build(provider.rand(), provider.crypto(), &signer, |_| true)
            .unwrap()
            .stage_commit(&provider)
            .unwrap();
        let staged = mls_group.pending_commit().unwrap();
        let next = Beginning::of_commit(&provider, staged).unwrap();
        let rotation = RotationEpoch(mls_group.epoch().as_u64() + 1);
        let beside = Beside {
            aad: &CommitAad::decode(&aad(1)).unwrap(),
            effect: &mls_rules::Effect::default(),
            link_keys: &[],
            wrapper: (rotation, &next.wrapper_key),
        };
        let (db, profile, group) = (&self.db, &self.profile, &self.group());
        let own = Committer::Own;
        changes::record(db, profile, group, &mls_group, staged, &beside, own).unwrap();
        mls_group.merge_pending_commit(&provider).unwrap();
        self.remembers();
        bundle.commit().tls_serialize_detached().unwrap()
    }

    fn takes_commit(&self, commit: &[u8]) -> Result<(), Error> {
        self.takes(&Made {
            commit: commit.to_vec(),
            link_keys: Vec::new(),
        })
    }

    fn takes(&self, made: &Made) -> Result<(), Error> {
        let event = CommitEvent {
            commit: opaque(made.commit.as_slice()),
            link_keys: made.link_keys.clone(),
            former_wrapper_key: None,
        };
        let entry = CommitEntry {
            event: &event,
            accepted_ms: NOW_MS,
            day: Day::of(NOW_MS),
            read_ms: NOW_MS,
            at: Position(0),
            chain: None,
        };
        let group = self.group();
        let (next, _) = process::commit(&self.db, &self.profile, &group, &entry)?;
        match next {
            Next::Step => group.segment.next_step().write(&self.db, &ID),
            Next::Segment(segment) => segment.write(&self.db, &ID),
            Next::Out => Ok(()),
        }
    }

    fn takes_message(&self, message: &[u8]) -> Result<(), Error> {
        let accepted = entry::Accepted {
            at: Position(0),
            accepted_ms: u64::from(TODAY) * protocol::time::DAY_MS,
        };
        process::message(
            &self.db,
            &Loaded::default(),
            &self.profile,
            &self.group(),
            message,
            accepted,
        )
    }

    fn epoch(&self) -> u64 {
        load_mls(&self.db, &ID).unwrap().epoch().as_u64()
    }

    fn texts(&self) -> Vec<String> {
        let mut statement = self.db.prepare("SELECT event FROM events").unwrap();
        let events = statement
            .query_map((), |row| row.get::<_, String>(0))
            .unwrap();
        events
            .filter_map(
                |event| match serde_json::from_str(&event.unwrap()).unwrap() {
                    Event::Message { text, .. } => Some(text),
                    _ => None,
                },
            )
            .collect()
    }
}

/// All know who the others are, by the order of their leaves.
fn introduce(users: &[&User]) {
    let mls_group = load_mls(&users.first().unwrap().db, &ID).unwrap();
    for (member, behind) in mls_group.members().zip(users) {
        let identity = Identity {
            user_pseudonym: pseudonym_of(&member.credential).unwrap(),
            real: Some(behind.profile.credential().unwrap()),
        };
        for user in users {
            identities::store(&user.db, &ID, &member.credential, &identity).unwrap();
        }
    }
    for user in users {
        user.remembers();
    }
}

/// Another client of the same person.
fn device_of(user: &User) -> User {
    let mut device = User::new("device");
    device.profile.handle = user.profile.handle.clone();
    let seed = user.profile.identity.seed();
    device.profile.identity = crypto::sign::SignatureKeyPair::from_seed(&seed);
    device
}

fn pseudonym_at(user: &User, leaf: u32) -> Vec<u8> {
    let mls_group = load_mls(&user.db, &ID).unwrap();
    let credential = mls_group.member(LeafNodeIndex::new(leaf)).unwrap();
    pseudonym_of(credential).unwrap()
}

#[test]
fn a_person_goes_with_all_leaves_under_whatever_pseudonym() {
    let [alice, bob, carol] = trio();
    introduce(&[&alice, &bob, &carol]);
    // As if Carol's leaf were Bob's too.
    let mls_group = load_mls(&alice.db, &ID).unwrap();
    let credential = mls_group.member(LeafNodeIndex::new(CAROL)).unwrap().clone();
    let identity = Identity {
        user_pseudonym: pseudonym_of(&credential).unwrap(),
        real: Some(bob.profile.credential().unwrap()),
    };
    identities::store(&alice.db, &ID, &credential, &identity).unwrap();
    let bobs = [LeafNodeIndex::new(BOB)];
    let leaves =
        crate::mls::further::with_their_people(&alice.db, &alice.group(), &mls_group, &bobs);
    let leaves: Vec<u32> = leaves.unwrap().into_iter().map(|leaf| leaf.u32()).collect();
    assert_eq!(leaves, [BOB, CAROL]);
}

#[test]
fn outsiders_have_no_more_proposals_wait_than_a_service_lets_them() {
    let [alice, _, _] = trio();
    let wants = |week| {
        let reason = RemovalReason::Inactive(Week(week));
        alice.takes_removal_because(1, OUTSIDER, BOB, reason)
    };
    for week in 0..256 {
        wants(week).unwrap();
    }
    assert!(matches!(wants(256), Err(Error::Peer(PeerError::Proposal))));
    // One that is there already is no further one, nor does it count for members who leave.
    let waiting = load_mls(&alice.db, &ID)
        .unwrap()
        .pending_proposals()
        .count();
    assert_eq!(waiting, 256);
}

#[test]
fn two_members_read_the_same_authenticator_until_their_histories_differ() {
    let [alice, bob, carol] = trio();
    let of = |user: &User| {
        let mls_group = load_mls(&user.db, &ID).unwrap();
        mls_group.epoch_authenticator().as_slice().to_vec()
    };
    assert_eq!(of(&alice), of(&bob));
    // Two commits of one epoch, each shown to one of them.
    let first = alice.commit(0, |_| (Vec::new(), None));
    let other = carol.commit(0, |_| (Vec::new(), None));
    bob.takes_commit(&other).unwrap();
    assert_eq!(alice.epoch(), bob.epoch());
    assert_ne!(of(&alice), of(&bob));
    drop(first);
}

/// A leaf under a pseudonym that is in the group.
fn leaf_as(user: &User, pseudonym: &[u8]) -> NewLeaf {
    let pseudonym = opaque(pseudonym);
    NewLeaf::of_user(&user.profile, &directory(), CIPHERSUITE, pseudonym).unwrap()
}

fn aad(rotates: u8) -> Vec<u8> {
    CommitAad {
        rotates,
        authorization: None,
        encrypted_connection_response: opaque(*b""),
    }
    .encode()
}

/// Alice, who is the admin, Bob and Carol.
fn trio() -> [User; 3] {
    let users = ["alice", "bob", "carol"].map(User::new);
    let [alice, bob, carol] = &users;
    alice.found();
    alice.add(&[bob, carol]);
    users
}

const ALICE: u32 = 0;
const BOB: u32 = 1;
const CAROL: u32 = 2;

fn is_forbidden(outcome: &Result<(), Error>) -> bool {
    // What is no commit of any kind is against the rules too.
    matches!(
        outcome,
        Err(Error::Peer(PeerError::NotPermitted | PeerError::Commit))
    )
}

#[test]
fn a_proposal_to_leave_counts_as_its_members_by_its_signature_and_whatever_its_tag() {
    let [alice, bob, _] = trio();
    let mut mls_group = load_mls(&bob.db, &ID).unwrap();
    let signer = bob.signer(&mls_group);
    let message = mls_group
        .leave_group_via_self_remove(&Provider::new(&bob.db), &signer)
        .unwrap()
        .tls_serialize_detached()
        .unwrap();
    let judge = |message: &[u8]| {
        let mls_group = load_mls(&alice.db, &ID).unwrap();
        crate::mls::proposals::is_signed(&mls_group, LeafNodeIndex::new(BOB), message)
    };
    assert!(judge(&message));
    // The membership tag comes last, the signature before it (RFC 9420 §6.2).
    let mut changed = message.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert!(judge(&changed));
    let mut forged = message.clone();
    let at = forged.len() - 40;
    *forged.get_mut(at).unwrap() ^= 1;
    assert!(!judge(&forged));
}
