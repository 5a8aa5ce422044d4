//! What members do when the service lets them: made with the MLS library alone, processed as it
//! would arrive.

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
            .with_capabilities(leaf::capabilities())
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
            .leaf_node_capabilities(leaf::capabilities())
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
        self.says(&Content::Text(
            crate::ids::MessageId(crypto::random().unwrap()),
            text.to_owned(),
        ))
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

/// A leaf under a pseudonym that is in the group.
fn leaf_as(user: &User, pseudonym: &[u8]) -> NewLeaf {
    let pseudonym = opaque(pseudonym);
    NewLeaf::of_user(&user.profile, &directory(), CIPHERSUITE, pseudonym).unwrap()
}

/// An external commit, made with what `host` knows and whatever the service says of it.
fn comes_in(user: &User, host: &User, leaf: &NewLeaf, word: Option<LeafAuthorization>) -> Made {
    let hosts = load_mls(&host.db, &ID).unwrap();
    let info = hosts
        .export_group_info(
            Provider::new(&host.db).crypto(),
            &host.signer(&hosts),
            false,
        )
        .unwrap()
        .tls_serialize_detached()
        .unwrap();
    let info = MlsMessageIn::tls_deserialize_exact_bytes(&info).unwrap();
    let MlsMessageBodyIn::GroupInfo(info) = info.extract() else {
        panic!("no GroupInfo");
    };
    let replaced = hosts
        .members()
        .find(|member| member.signature_key == leaf.signer.0.public())
        .map(|member| member.index.u32());
    let place = replaced.unwrap_or(u32::try_from(hosts.members().count()).unwrap());
    let aad = CommitAad {
        rotates: u8::from(replaced.is_some()),
        authorization: word,
        encrypted_connection_response: opaque(*b""),
    };
    let provider = Provider::new(&user.db);
    let (joined, bundle) = MlsGroup::external_commit_builder()
        .with_ratchet_tree(hosts.export_ratchet_tree().into())
        .with_config(join_config())
        .with_aad(aad.encode())
        .skip_lifetime_validation()
        .build_group(&provider, info, leaf.credential.clone())
        .unwrap()
        .leaf_node_parameters(leaf.parameters())
        .load_psks(provider.storage())
        .unwrap()
        .build(provider.rand(), provider.crypto(), &leaf.signer, |_| true)
        .unwrap()
        .finalize(&provider)
        .unwrap();
    // Under the wrapper key in force after the commit.
    let wrapper = match replaced {
        Some(_) => Beginning::of_group(&provider, &joined).unwrap().wrapper_key,
        None => host.group().segment.wrapper_key,
    };
    let wrapped = leaf.wrapped_link_key(&wrapper);
    Made {
        commit: bundle.commit().tls_serialize_detached().unwrap(),
        link_keys: vec![LinkKeyUpload {
            leaf_index: LeafIndex(place),
            sealed: opaque(wrapped.unwrap()),
        }],
    }
}

/// A word of the leaf at `leaf`, by this key.
fn word(
    by: &LeafSigner,
    join: AuthorizedJoin,
    leaf: u32,
    state: u8,
    of: &NewLeaf,
) -> LeafAuthorization {
    let segment = StateKey::new([state; 32]).segment(&ID, RotationEpoch(0));
    let until = NOW_MS + 1_000;
    let new_key = of.signer.0.public();
    authorize(&by.0, &ID, &segment, join, leaf, until, &new_key)
}

#[test]
fn nobody_comes_to_a_user_who_is_here_without_the_word_of_one_of_its_present_leaves() {
    use AuthorizedJoin::{Client, Rejoin};
    for kind in [
        GroupKind::Group,
        GroupKind::Connection,
        GroupKind::SingleUser,
    ] {
        let [alice, bob, carol] = trio();
        introduce(&[&alice, &bob, &carol]);
        alice
            .db
            .execute("UPDATE groups SET kind = ?", [kind as u8])
            .unwrap();
        let tablet = device_of(&bob);
        let signer = |user: &User| user.signer(&load_mls(&user.db, &ID).unwrap());
        let (by_alice, by_bob) = (signer(&alice), signer(&bob));
        let leaf = leaf_as(&tablet, &pseudonym_at(&alice, BOB));
        let other = leaf_as(&tablet, &pseudonym_at(&alice, BOB));
        let before = alice.epoch();
        for (what, word) in [
            ("without a word", None),
            (
                "for another key",
                Some(word(&by_bob, Client, BOB, 1, &other)),
            ),
            (
                "before the last removal",
                Some(word(&by_bob, Client, BOB, 9, &leaf)),
            ),
            ("for a rejoin", Some(word(&by_bob, Rejoin, BOB, 1, &leaf))),
            (
                "of another user",
                Some(word(&by_alice, Client, ALICE, 1, &leaf)),
            ),
            (
                "by another user's key",
                Some(word(&by_alice, Client, BOB, 1, &leaf)),
            ),
            (
                "of a leaf that is gone",
                Some(word(&by_bob, Client, 7, 1, &leaf)),
            ),
        ] {
            let outcome = alice.takes(&comes_in(&tablet, &alice, &leaf, word));
            assert!(is_forbidden(&outcome), "{what}: {outcome:?}");
        }
        // Bob's pseudonym for somebody else, with his word. In a group that is somebody who is
        // there and is nobody.
        let mallory = User::new("mallory");
        let leaf = leaf_as(&mallory, &pseudonym_at(&alice, BOB));
        let lent = Some(word(&by_bob, Client, BOB, 1, &leaf));
        if kind != GroupKind::Group {
            let outcome = alice.takes(&comes_in(&mallory, &alice, &leaf, lent));
            assert!(is_forbidden(&outcome), "{outcome:?}");
            // Bob as somebody new.
            let leaf = leaf_as(&tablet, b"mimi://d.example/p/new");
            let outcome = alice.takes(&comes_in(&tablet, &alice, &leaf, None));
            assert!(is_forbidden(&outcome), "{outcome:?}");
        }
        assert_eq!(alice.epoch(), before);
        assert_eq!(crate::store::events::stored(&alice.db), []);

        let leaf = leaf_as(&tablet, &pseudonym_at(&alice, BOB));
        let good = Some(word(&by_bob, Client, BOB, 1, &leaf));
        alice
            .takes(&comes_in(&tablet, &alice, &leaf, good))
            .unwrap();
        let told = match kind {
            GroupKind::SingleUser => Event::DeviceCameIn,
            GroupKind::Group | GroupKind::Connection => Event::ClientAdded {
                group: "team".into(),
                name: "bob".into(),
            },
        };
        assert_eq!(crate::store::events::stored(&alice.db), [told]);
    }
}

#[test]
fn who_takes_the_place_of_a_leaf_has_the_word_of_that_leaf() {
    use AuthorizedJoin::{Client, Rejoin};
    let [alice, bob, carol] = trio();
    introduce(&[&alice, &bob, &carol]);
    let key = || bob.signer(&load_mls(&bob.db, &ID).unwrap());
    let pseudonym = pseudonym_at(&alice, BOB);
    let back = device_of(&bob);
    // With the same key, by which the library knows whom to remove.
    let leaf = || {
        NewLeaf::with_key(
            &back.profile,
            &directory(),
            key().0,
            opaque(pseudonym.as_slice()),
        )
        .unwrap()
    };
    let by_carol = carol.signer(&load_mls(&carol.db, &ID).unwrap());
    for (what, word) in [
        ("without a word", None),
        (
            "as a further client",
            Some(word(&key(), Client, BOB, 1, &leaf())),
        ),
        (
            "by another leaf",
            Some(word(&by_carol, Rejoin, CAROL, 1, &leaf())),
        ),
    ] {
        let outcome = alice.takes(&comes_in(&back, &alice, &leaf(), word));
        assert!(is_forbidden(&outcome), "{what}: {outcome:?}");
    }
    // Not even another client of the same user: as if Carol's leaf were Bob's second one.
    let mls_group = load_mls(&alice.db, &ID).unwrap();
    let second = mls_group.member(LeafNodeIndex::new(CAROL)).unwrap().clone();
    let own = identities::of(&alice.db, &ID, &second).unwrap().unwrap();
    let bobs = Identity {
        user_pseudonym: pseudonym.clone(),
        real: Some(bob.profile.credential().unwrap()),
    };
    identities::store(&alice.db, &ID, &second, &bobs).unwrap();
    let by_second = Some(word(&by_carol, Rejoin, CAROL, 1, &leaf()));
    let outcome = alice.takes(&comes_in(&back, &alice, &leaf(), by_second));
    assert!(is_forbidden(&outcome), "{outcome:?}");
    identities::store(&alice.db, &ID, &second, &own).unwrap();
    let good = Some(word(&key(), Rejoin, BOB, 1, &leaf()));
    alice
        .takes(&comes_in(&back, &alice, &leaf(), good))
        .unwrap();
    let told = Event::MemberRejoined {
        group: "team".into(),
        name: "bob".into(),
    };
    assert_eq!(crate::store::events::stored(&alice.db), [told]);
}

/// Somebody has come in at the fourth leaf: it is nobody, everybody goes on, and whoever may puts
/// it out.
fn is_taken_for_nobody(user: &User) {
    let mls_group = load_mls(&user.db, &ID).unwrap();
    let credential = mls_group.member(LeafNodeIndex::new(3)).unwrap();
    let identity = identities::of(&user.db, &ID, credential).unwrap().unwrap();
    assert_eq!(identity.real, None);
    assert!(identities::has_unverified(&user.db, &ID, &mls_group).unwrap());
    let kept_out: Vec<u8> = user
        .db
        .query_row("SELECT user_pseudonym FROM kept_out", (), |row| row.get(0))
        .unwrap();
    assert_eq!(Some(kept_out), pseudonym_of(credential));
    let group = "team".to_owned();
    let told = Event::UnverifiedMember { group };
    assert_eq!(events::stored(&user.db), [told]);
    assert_eq!(user.group().status, Status::Active);
}

#[test]
fn who_comes_in_under_a_second_name_or_anothers_is_nobody_and_ends_no_group() {
    for lent in [false, true] {
        let [alice, bob, carol] = trio();
        introduce(&[&alice, &bob, &carol]);
        let (user, pseudonym) = match lent {
            true => (User::new("mallory"), pseudonym_at(&alice, BOB)),
            false => (device_of(&bob), b"mimi://d.example/p/new".to_vec()),
        };
        let leaf = leaf_as(&user, &pseudonym);
        let by_bob = bob.signer(&load_mls(&bob.db, &ID).unwrap());
        let word = lent.then(|| word(&by_bob, AuthorizedJoin::Client, BOB, 1, &leaf));
        carol.takes(&comes_in(&user, &alice, &leaf, word)).unwrap();
        is_taken_for_nobody(&carol);
    }
}

#[test]
fn whom_a_member_adds_a_second_time_under_another_name_is_nobody_and_ends_no_group() {
    let [alice, bob, carol] = trio();
    introduce(&[&alice, &bob, &carol]);
    // Bob once more, under another pseudonym, as the adder can see.
    let mut mls_group = load_mls(&alice.db, &ID).unwrap();
    let again = device_of(&bob);
    let leaf = leaf_as(&again, b"mimi://d.example/p/again");
    let package = KeyPackage::builder()
        .leaf_node_capabilities(leaf::capabilities())
        .build(
            CIPHERSUITE,
            &Provider::new(&again.db),
            &leaf.signer,
            leaf.credential.clone(),
        )
        .unwrap()
        .key_package()
        .clone();
    let link_key = leaf.wrapped_link_key(&alice.group().segment.wrapper_key);
    mls_group.set_aad(aad(0));
    let (commit, _, _) = mls_group
        .add_members(
            &Provider::new(&alice.db),
            &alice.signer(&mls_group),
            &[package],
        )
        .unwrap();
    let made = Made {
        commit: commit.tls_serialize_detached().unwrap(),
        link_keys: vec![LinkKeyUpload {
            leaf_index: LeafIndex(3),
            sealed: opaque(link_key.unwrap()),
        }],
    };
    carol.takes(&made).unwrap();
    is_taken_for_nobody(&carol);
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
fn who_comes_back_reads_who_is_missing_and_whose_role_is_another() {
    let [alice, bob, carol] = trio();
    let dave = User::new("dave");
    introduce(&[&alice, &bob, &carol]);
    let known = known::of(&alice.db, &ID).unwrap().unwrap();
    let difference = || {
        let mls_group = load_mls(&alice.db, &ID).unwrap();
        crate::mls::returned::difference(&alice.db, &alice.profile, &ID, &known, &mls_group)
            .unwrap()
    };
    assert_eq!(difference(), Default::default());
    drop(dave);
    alice.commit(1, |group| {
        let roles = with(group, BOB, GroupPolicy::ADMIN, Standing::Active);
        (vec![CAROL], Some(roles))
    });
    let found = difference();
    assert_eq!(
        (found.absent, found.changed),
        (vec!["carol".to_owned()], vec!["bob".to_owned()])
    );
    assert!(!found.rules_changed);
    // What roles may do.
    alice.commit(0, |group| {
        let mut policy = policy_in(group.extensions()).unwrap().unwrap();
        policy.default_role = GroupPolicy::ADMIN;
        let others = group
            .extensions()
            .iter()
            .filter(|it| it.extension_type() != ExtensionType::Unknown(POLICY_EXTENSION));
        let extensions = others.cloned().chain([policy_extension(&policy)]);
        (
            Vec::new(),
            Some(Extensions::from_vec(extensions.collect()).unwrap()),
        )
    });
    assert!(difference().rules_changed);
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

fn aad(rotates: u8) -> Vec<u8> {
    CommitAad {
        rotates,
        authorization: None,
        encrypted_connection_response: opaque(*b""),
    }
    .encode()
}

/// The context's extensions with a user's role and standing set.
fn with(mls_group: &MlsGroup, user: u32, role: u8, standing: Standing) -> Extensions<GroupContext> {
    let policy = policy_in(mls_group.extensions()).unwrap().unwrap();
    let user = mls_group
        .member(LeafNodeIndex::new(user))
        .and_then(pseudonym_of)
        .unwrap();
    let policy = policy.with(&user, role, standing);
    let others = mls_group
        .extensions()
        .iter()
        .filter(|it| it.extension_type() != ExtensionType::Unknown(POLICY_EXTENSION))
        .cloned();
    Extensions::from_vec(others.chain([policy_extension(&policy)]).collect()).unwrap()
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
fn a_removal_by_who_may_not_remove_is_not_followed() {
    let [alice, bob, carol] = trio();
    let before = alice.epoch();
    let commit = bob.commit(1, |_| (vec![CAROL], None));
    let outcome = alice.takes_commit(&commit);
    assert!(is_forbidden(&outcome), "{outcome:?}");
    assert_eq!(outcome.unwrap_err().fault(), Fault::Peer);
    assert!(carol.takes_commit(&commit).is_err());
    assert_eq!(alice.epoch(), before);
    recovery::lose_to(&alice.db, &alice.profile, &ID, PeerError::NotPermitted).unwrap();
    assert_eq!(alice.group().status, Status::Refused);
    // The admin's is.
    let [alice, bob, _] = trio();
    let commit = alice.commit(1, |_| (vec![CAROL], None));
    bob.takes_commit(&commit).unwrap();
    assert_eq!(bob.epoch(), alice.epoch());
}

#[test]
fn the_services_word_removes_a_member_and_no_other_senders_does() {
    let [alice, bob, carol] = trio();
    for user in [&alice, &bob] {
        user.takes_removal(1, OUTSIDER, ALICE);
        user.takes_removal(0, SERVICE, CAROL);
        assert_eq!(user.removals(), [CAROL], "what holds messages up");
        let mls_group = load_mls(&user.db, &ID).unwrap();
        let covered = crate::mls::proposals::covered(&user.db, &mls_group).unwrap();
        let covers: Vec<u32> = mls_group
            .pending_proposals()
            .filter(|queued| crate::mls::proposals::is_covered(&covered, queued))
            .filter_map(leaving)
            .map(|leaf| leaf.u32())
            .collect();
        assert_eq!(covers, [CAROL]);
    }
    drop(carol);

    // Bob may remove nobody: he covers what the service wants, not what the outsider does.
    for (place, seed, followed) in [(0, SERVICE, true), (1, OUTSIDER, false)] {
        let [alice, bob, _] = trio();
        for user in [&alice, &bob] {
            user.takes_removal(place, seed, CAROL);
        }
        let commit = bob.commit(1, |_| (Vec::new(), None));
        let outcome = alice.takes_commit(&commit);
        if followed {
            outcome.unwrap();
        } else {
            assert!(is_forbidden(&outcome), "{outcome:?}");
        }
    }
}

fn changes_senders(outcome: &Result<(), Error>) -> bool {
    matches!(outcome, Err(Error::Peer(PeerError::ExternalSenders)))
}

#[test]
fn external_senders_change_to_what_the_directory_announces_and_to_nothing_else() {
    let mut rotated = directory();
    rotated.former_external_sender_keys = vec![rotated.external_sender_key.clone()];
    rotated.external_sender_key = crate::encoding::BASE64URL.encode(sender(ROTATED).public());
    for (seeds, announced, followed) in [
        // The service dropped, an outsider more or less, another order of outsiders' places.
        (&[OUTSIDER][..], false, false),
        (&[SERVICE], false, false),
        (&[SERVICE, OUTSIDER, 9], false, false),
        (&[OUTSIDER, SERVICE], false, true),
        // A new key of the service, before and after its directory says so.
        (&[ROTATED, OUTSIDER], false, false),
        (&[ROTATED, OUTSIDER], true, true),
        (&[SERVICE, ROTATED, OUTSIDER], true, true),
        (&[OUTSIDER], true, false),
    ] {
        let [alice, bob, _] = trio();
        if announced {
            bob.hears_of(&rotated);
        }
        let commit = alice.commit(0, |group| {
            (Vec::new(), Some(with_senders(group.extensions(), seeds)))
        });
        let outcome = bob.takes_commit(&commit);
        if followed {
            outcome.unwrap();
        } else {
            assert!(changes_senders(&outcome), "{seeds:?}: {outcome:?}");
            recovery::lose_to(&bob.db, &bob.profile, &ID, PeerError::ExternalSenders).unwrap();
            assert_eq!(bob.group().status, Status::Refused);
        }
    }
}

#[test]
fn a_removal_that_keeps_the_state_key_is_not_followed() {
    let [alice, bob, _] = trio();
    let commit = alice.commit(0, |_| (vec![CAROL], None));
    assert!(matches!(
        bob.takes_commit(&commit),
        Err(Error::Peer(PeerError::RemovalWithoutRotation))
    ));
}

#[test]
fn nobody_makes_himself_an_admin() {
    let [alice, bob, carol] = trio();
    let commit = bob.commit(0, |group| {
        let roles = with(group, BOB, GroupPolicy::ADMIN, Standing::Active);
        (Vec::new(), Some(roles))
    });
    assert!(is_forbidden(&alice.takes_commit(&commit)));
    assert!(is_forbidden(&carol.takes_commit(&commit)));

    let [alice, bob, _] = trio();
    let commit = alice.commit(0, |group| {
        let roles = with(group, BOB, GroupPolicy::ADMIN, Standing::Active);
        (Vec::new(), Some(roles))
    });
    bob.takes_commit(&commit).unwrap();
}

#[test]
fn not_even_an_admin_drops_the_policy() {
    let [alice, bob, _] = trio();
    let commit = alice.commit(0, |group| {
        let kept = group
            .extensions()
            .iter()
            .filter(|it| it.extension_type() != ExtensionType::Unknown(POLICY_EXTENSION))
            .cloned();
        (
            Vec::new(),
            Some(Extensions::from_vec(kept.collect()).unwrap()),
        )
    });
    assert!(is_forbidden(&bob.takes_commit(&commit)));
}

#[test]
fn a_message_of_a_muted_member_is_not_shown() {
    let [alice, bob, carol] = trio();
    carol.takes_message(&bob.message("before")).unwrap();
    let mute = alice.commit(0, |group| {
        let muted = with(group, BOB, GroupPolicy::MEMBER, Standing::Muted);
        (Vec::new(), Some(muted))
    });
    // Made before Bob knew, and late: he could send in the epoch that it names.
    let late = bob.message("late");
    bob.takes_commit(&mute).unwrap();
    carol.takes_commit(&mute).unwrap();
    carol.takes_message(&late).unwrap();
    assert!(is_forbidden(&carol.takes_message(&bob.message("muted"))));
    carol.takes_message(&alice.message("quiet now")).unwrap();
    assert_eq!(carol.texts(), ["before", "late", "quiet now"]);

    // The other way round: what was muted when it was said stays so.
    let then = bob.message("muted still");
    let unmute = alice.commit(0, |group| {
        let heard = with(group, BOB, GroupPolicy::MEMBER, Standing::Active);
        (Vec::new(), Some(heard))
    });
    carol.takes_commit(&unmute).unwrap();
    assert!(is_forbidden(&carol.takes_message(&then)));
}

#[test]
fn who_is_muted_and_banned_cannot_add() {
    let [alice, bob, carol] = trio();
    let ban = alice.commit(0, |group| {
        let banned = with(group, BOB, GroupPolicy::MEMBER, Standing::Banned);
        (Vec::new(), Some(banned))
    });
    bob.takes_commit(&ban).unwrap();
    carol.takes_commit(&ban).unwrap();
    let dave = User::new("dave");
    let add = bob.add(&[&dave]);
    assert!(is_forbidden(&carol.takes_commit(&add)));
    let [alice, bob, carol] = trio();
    let add = bob.add(&[&User::new("dave")]);
    carol.takes_commit(&add).unwrap();
    alice.takes_commit(&add).unwrap();
}

#[test]
fn a_second_admin_cannot_be_removed_by_a_member_nor_remove_half_a_user() {
    let [alice, bob, carol] = trio();
    let commit = bob.commit(1, |_| (vec![ALICE, CAROL], None));
    assert!(is_forbidden(&alice.takes_commit(&commit)));
    assert!(is_forbidden(&carol.takes_commit(&commit)));
}

fn is_false(outcome: &Result<(), Error>) -> bool {
    matches!(outcome, Err(Error::Peer(PeerError::FalseRemoval(_))))
}

#[test]
fn a_removal_by_the_service_whose_reason_contradicts_what_was_seen_is_refused() {
    let [alice, bob, carol] = trio();
    alice.remembers();
    // Carol commits today.
    let before = carol.message("here I am");
    alice.takes_message(&before).unwrap();
    alice
        .takes_commit(&carol.commit(0, |_| (Vec::new(), None)))
        .unwrap();
    let today = Week::of(NOW_MS);
    let later = Week(today.0 + LEAST_INACTIVE_WEEKS);
    let before = RemovalReason::Inactive(Week(today.0 - 1));
    let why = |reason| alice.takes_removal_in(later, (0, SERVICE), CAROL, reason);
    assert!(is_false(&why(RemovalReason::NeverCame)));
    assert!(is_false(&why(before)));
    assert_eq!(alice.removals(), Vec::<u32>::new());
    // What nobody can know to be wrong is carried out.
    why(RemovalReason::Inactive(today)).unwrap();
    assert_eq!(alice.removals(), [CAROL]);
    // Bob, who has heard nothing of her, believes it.
    bob.remembers();
    bob.takes_removal_in(later, (0, SERVICE), CAROL, before)
        .unwrap();
    // And nobody is told of himself that he never came.
    let never = carol.takes_removal_because(0, SERVICE, CAROL, RemovalReason::NeverCame);
    assert!(is_false(&never));
}

#[test]
fn nobody_is_removed_for_an_absence_that_a_service_has_to_wait_for() {
    let [alice, bob, _] = trio();
    let since = Week::of(NOW_MS);
    let after = |user: &User, weeks| {
        let week = Week(since.0 + weeks);
        user.takes_removal_in(week, (0, SERVICE), CAROL, RemovalReason::Inactive(since))
    };
    // Clocks may be a week apart.
    assert!(is_false(&after(&alice, LEAST_INACTIVE_WEEKS - 2)));
    after(&alice, LEAST_INACTIVE_WEEKS).unwrap();
    bob.is_in(GroupKind::Connection);
    assert!(is_false(&after(&bob, CONNECTION_INACTIVE_WEEKS - 2)));
    after(&bob, CONNECTION_INACTIVE_WEEKS).unwrap();
}

#[test]
fn who_was_removed_by_the_service_and_why_is_shown() {
    let [alice, bob, _] = trio();
    for user in [&alice, &bob] {
        user.takes_removal_because(0, SERVICE, CAROL, RemovalReason::NeverCame)
            .unwrap();
    }
    let commit = alice.commit(1, |_| (Vec::new(), None));
    bob.takes_commit(&commit).unwrap();
    let mut statement = bob.db.prepare("SELECT event FROM events").unwrap();
    let events: Vec<String> = statement
        .query_map((), |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let told = |event: &String| {
        matches!(
            serde_json::from_str(event).unwrap(),
            Event::RemovedByService {
                why: crate::outcomes::RemovalReason::NeverCame,
                ..
            }
        )
    };
    assert!(events.iter().any(told), "{events:?}");
}

#[test]
fn whoever_carries_out_a_removal_by_the_service_reads_of_it_too() {
    let [alice, bob, carol] = trio();
    introduce(&[&alice, &bob, &carol]);
    alice
        .takes_removal_because(0, SERVICE, CAROL, RemovalReason::NeverCame)
        .unwrap();
    alice.covers();
    let gone = Event::RemovedByService {
        group: "team".into(),
        name: "carol".into(),
        why: crate::outcomes::RemovalReason::NeverCame,
    };
    assert_eq!(events::stored(&alice.db), [gone]);
}

#[test]
fn nobody_is_removed_from_a_connection_by_the_service_without_reading_of_it() {
    let users = ["alice", "bob"].map(User::new);
    let [alice, bob] = &users;
    alice.found();
    alice.add(&[bob]);
    introduce(&[alice, bob]);
    for (user, other) in [(alice, bob), (bob, alice)] {
        user.is_in(GroupKind::Connection);
        user.knows(other);
        user.takes_removal_because(0, SERVICE, BOB, RemovalReason::Inactive(Week(0)))
            .unwrap();
    }
    let commit = alice.covers();
    let gone = Event::RemovedByService {
        group: String::new(),
        name: "bob".into(),
        why: crate::outcomes::RemovalReason::Inactive(0),
    };
    assert_eq!(events::stored(&alice.db), [gone]);
    bob.takes_commit(&commit).unwrap();
    assert_eq!(bob.group().status, Status::Removed);
    let gone = Event::RemovedByService {
        group: "the connection with alice".into(),
        name: "bob".into(),
        why: crate::outcomes::RemovalReason::Inactive(0),
    };
    let lost = Event::ConnectionLost {
        name: "alice".into(),
        why: StopReason::RemovedByService,
    };
    assert_eq!(events::stored(&bob.db), [gone, lost]);
    let why = evidence::stopped(&bob.db, &ID).unwrap();
    assert_eq!(why, Some(StopReason::RemovedByService));
}

#[test]
fn no_device_is_removed_from_the_others_by_the_service_without_reading_of_it() {
    let alice = User::new("alice");
    let phone = device_of(&alice);
    alice.found();
    alice.add(&[&phone]);
    introduce(&[&alice, &phone]);
    for user in [&alice, &phone] {
        user.is_in(GroupKind::SingleUser);
        user.takes_removal_because(0, SERVICE, BOB, RemovalReason::Inactive(Week(0)))
            .unwrap();
    }
    phone.takes_commit(&alice.covers()).unwrap();
    let gone = Event::RemovedByService {
        group: "your devices".into(),
        name: "alice".into(),
        why: crate::outcomes::RemovalReason::Inactive(0),
    };
    let lost = Event::DevicesLost {
        why: StopReason::RemovedByService,
    };
    assert_eq!(events::stored(&phone.db), [gone, lost]);
}

#[test]
fn what_a_removed_device_says_in_an_epoch_that_it_was_in_is_carried_out_by_no_other_one() {
    let alice = User::new("alice");
    let phone = device_of(&alice);
    alice.found();
    alice.add(&[&phone]);
    introduce(&[&alice, &phone]);
    for user in [&alice, &phone] {
        user.is_in(GroupKind::SingleUser);
    }
    let [bob, carol] = ["bob", "carol"].map(User::new);
    alice.knows(&bob);
    alice.knows(&carol);
    let drop = |contact: &User| {
        let key = contact.profile.identity.public();
        let frame = SyncMessage::ContactGone(opaque(key)).into_frame();
        phone.says(&Content::Sync(frame))
    };
    let (before, after) = (drop(&bob), drop(&carol));
    alice.takes_message(&before).unwrap();
    assert!(contacts::by_name(&alice.db, "bob").is_err());
    alice.commit(1, |_| (vec![BOB], None));
    alice.remembers();
    let outcome = alice.takes_message(&after);
    assert!(contacts::by_name(&alice.db, "carol").is_ok());
    assert!(is_forbidden(&outcome), "{outcome:?}");
}

#[test]
fn in_this_users_own_name_a_device_is_brought_only_where_it_has_asked_to_come() {
    // A phone that was removed: it has the identity key, and a KeyPackage that it knew.
    let alice = User::new("alice");
    let phone = device_of(&alice);
    phone.found();
    let plan = Plan::Add {
        key_packages: vec![alice.key_package()],
        link_keys: vec![IdentityLinkKey::new([1; 32])],
    };
    let staging = Staging {
        rotates: false,
        codes: &[],
        now_ms: NOW_MS,
    };
    commit::stage(&phone.db, &phone.profile, &ID, plan, &staging).unwrap();
    let pending = Pending::read(&phone.db, &ID).unwrap().unwrap();
    let upload = CommitRequest::decode(&pending.envelope.body).unwrap();
    let blob = upload.welcome.unwrap().welcomes.remove(0);
    let pointer = "SELECT pointer FROM pointers";
    let pointer: Vec<u8> = phone.db.query_row(pointer, (), |row| row.get(0)).unwrap();
    let device = WelcomePointer::decode(&pointer).unwrap().devices.remove(0);
    let key = WelcomeKey::from(&device.key);
    let content = welcomes::open(&device.id, &key, blob.sealed.as_slice()).unwrap();
    let is_followed = || {
        // A Welcome takes its KeyPackage with it.
        let transaction = alice.db.unchecked_transaction().unwrap();
        let invited = join::invitation(&transaction, &alice.profile, &content);
        transaction.rollback().unwrap();
        invited.unwrap().is_ok()
    };
    assert!(!is_followed(), "the phone brings her where it likes");
    alice
        .db
        .execute("INSERT INTO asked_in VALUES (?, x'01')", [ID.0])
        .unwrap();
    assert!(is_followed());
}

#[test]
fn a_removed_device_of_a_contact_gives_nobody_another_connection_token() {
    let bob = User::new("bob");
    let [alice, mut phone] = [User::new("alice"), device_of(&bob)];
    bob.found();
    phone.pseudonym = Some(pseudonym_at(&bob, 0));
    bob.add(&[&alice, &phone]);
    introduce(&[&bob, &alice, &phone]);
    alice.knows(&bob);
    for user in [&alice, &bob, &phone] {
        user.is_in(GroupKind::Connection);
    }
    let told = |user: &User, token: u8| {
        user.says(&Content::Connection(ConnectionUpdate {
            version: UPDATE_VERSION,
            connection_token: protocol::codec::WireSecret::new([token; 32]),
        }))
    };
    let token = || {
        let contact = contacts::by_name(&alice.db, "bob").unwrap();
        *contact.connection_token.expose()
    };
    let pointer = Content::Pointer(WelcomePointer {
        group_id: GroupId([9; 16]),
        epoch: Epoch(1),
        segment: protocol::ids::SegmentId([1; 32]),
        place: protocol::journal::Place {
            rotation_epoch: RotationEpoch(0),
            position: Position(0),
        },
        chain: protocol::ids::ChainHead([0; 32]),
        devices: Vec::new(),
    });
    let pool = || {
        contacts::pools(&alice.db)
            .unwrap()
            .remove(0)
            .1
            .token()
            .pool()
    };
    let before = pool();
    let (late, pointer) = (told(&phone, 7), phone.says(&pointer));
    let removal = bob.commit(1, |_| (vec![CAROL], None));
    alice.takes_commit(&removal).unwrap();
    // Nor does it claim from the pool whose token it was told.
    assert_ne!(pool(), before);
    let count = |query| -> u32 { alice.db.query_row(query, (), |row| row.get(0)).unwrap() };
    assert_eq!(
        count("SELECT count(*) FROM contacts WHERE token_due = 1"),
        1
    );
    assert_eq!(count("SELECT count(*) FROM retired_pools"), 1);
    let outcome = alice.takes_message(&pointer);
    assert!(is_forbidden(&outcome), "{outcome:?}");
    assert_eq!(count("SELECT count(*) FROM invitations"), 0);
    alice.takes_message(&told(&bob, 8)).unwrap();
    assert_eq!(token(), [8; 32]);
    let outcome = alice.takes_message(&late);
    assert_eq!(token(), [8; 32], "the phone's sets would be claimed");
    assert!(is_forbidden(&outcome), "{outcome:?}");
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
