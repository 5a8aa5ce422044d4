//! Who comes in, and for whom it is taken.

use super::roles::with;
use super::*;

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
        .leaf_node_parameters(NewLeaf::parameters(&user.profile, CIPHERSUITE))
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
        .leaf_node_capabilities(leaf::capabilities(CIPHERSUITE, true))
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
