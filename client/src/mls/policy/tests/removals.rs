//! Removals by the service, and the reasons that it gives.

use super::*;

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
