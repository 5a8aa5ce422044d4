//! What members can do in groups, on real processes: roles, leaving, coming back, join codes.

use std::path::Path;

use client::{Client, Error, Event, StopReason, UsageError, sign};
use crypto::sign::SignatureKeyPair;
use end_to_end::{
    LogLevel, Stack, User, database, devices, events, group_with, messages, now_ms, patient, reads,
    recovery_row_of, settle, some_minutes_later, talks,
};
use protocol::codec::opaque;
use protocol::group::{GroupKey, InspectGroupRequest, OwnLeafRequest};
use protocol::ids::LeafIndex;
use protocol::join::{ExternalCommitInfoRequest, JoinPermit, RecoveryRowRequest};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::request::Sender;
use protocol::{WIRE_VERSION, Wire as _};

const GROUP: &str = "expedition";
const ALICE: &str = "alice.adebayo";
const BOB: &str = "bob.bergstrom";
const CAROL: &str = "carol.castillo";
const DAVE: &str = "dave.dimitrov";

fn names(client: &Client) -> Vec<String> {
    let members = client.members(GROUP).unwrap();
    let mut names: Vec<_> = members.into_iter().map(|member| member.name).collect();
    names.sort_unstable();
    names
}

fn role(client: &Client, name: &str) -> (String, &'static str) {
    let members = client.members(GROUP).unwrap();
    let member = members.into_iter().find(|member| member.name == name);
    member
        .map(|member| (member.role, member.standing))
        .expect("a member")
}

fn is_not_a_member<T>(outcome: Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Usage(UsageError::NotAMember(_))))
}

fn is_not_permitted<T>(outcome: Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Usage(UsageError::NotPermitted)))
}

/// The MLS library's state of every group is gone.
fn lose_state(home: &Path) {
    let database = database(home);
    database
        .execute_batch(
            "DELETE FROM openmls_group_data; DELETE FROM openmls_own_leaf_nodes;
             DELETE FROM openmls_epoch_keys_pairs; DELETE FROM openmls_encryption_keys;",
        )
        .unwrap();
}

#[tokio::test]
async fn who_leaves_is_gone_when_another_member_has_seen_it() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol] = devices(&stack, [ALICE, BOB, CAROL]).await;
    group_with(GROUP, &alice, &[&bob, &carol]).await;
    let before = alice.group_access(GROUP).unwrap().state_key;

    bob.leave_group(GROUP).await.unwrap();
    let held_up = bob.send_message(GROUP, "one more thing").await;
    assert!(
        matches!(held_up, Err(Error::Usage(UsageError::Leaving(_)))),
        "{held_up:?}"
    );
    // Whoever sends finds the removal in the way and commits it first.
    carol.send_message(GROUP, "farewell").await.unwrap();
    assert_eq!(names(&carol), [ALICE, CAROL]);
    let told = events(&bob).await;
    assert!(
        told.contains(&Event::Removed {
            group: GROUP.into()
        }),
        "{told:?}"
    );
    assert!(is_not_a_member(bob.send_message(GROUP, "hello?").await));
    reads(&alice, &[(CAROL, "farewell")]).await;
    assert!(alice.group_access(GROUP).unwrap().state_key != before);
    talks(GROUP, &[&alice, &carol]).await;

    // Added again, as anybody.
    alice.add_to_group(GROUP, &[BOB]).await.unwrap();
    talks(GROUP, &[&alice, &bob, &carol]).await;
}

#[tokio::test]
async fn the_last_one_to_leave_ends_the_group() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob] = devices(&stack, [ALICE, BOB]).await;
    group_with(GROUP, &alice, &[&bob]).await;
    alice.leave_group(GROUP).await.unwrap();
    bob.sync(0).await.unwrap();
    alice.sync(0).await.unwrap();
    assert!(is_not_a_member(alice.send_message(GROUP, "x").await));
    bob.leave_group(GROUP).await.unwrap();
    assert!(is_not_a_member(bob.send_message(GROUP, "x").await));
    assert!(!bob.groups().unwrap()[0].active);
}

#[tokio::test]
async fn a_deleted_group_is_gone_for_everybody() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol] = devices(&stack, [ALICE, BOB, CAROL]).await;
    group_with(GROUP, &alice, &[&bob, &carol]).await;
    assert!(is_not_permitted(bob.delete_group(GROUP).await));
    let access = alice.group_access(GROUP).unwrap();
    alice.delete_group(GROUP).await.unwrap();
    for client in [&bob, &carol] {
        let told = events(client).await;
        assert!(told.contains(&Event::Removed {
            group: GROUP.into()
        }));
    }
    assert!(is_not_a_member(alice.send_message(GROUP, "x").await));
    let inspect = InspectGroupRequest {
        group: GroupKey {
            group_id: access.id,
            state_key: access.state_key.to_wire(),
        },
        from: LeafIndex(0),
    };
    let request = alice
        .sign_as_member(GROUP, Operation::InspectGroup, &inspect.encode())
        .unwrap();
    let refused = bob.post(Operation::InspectGroup, &request, &[]).await;
    assert_eq!(
        refused.unwrap_err().problem(),
        Some(ProblemType::UnknownGroup)
    );
}

#[tokio::test]
async fn roles_say_who_may_do_what() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol] = devices(&stack, [ALICE, BOB, CAROL]).await;
    group_with(GROUP, &alice, &[&bob, &carol]).await;
    assert_eq!(role(&bob, ALICE), ("admin".into(), "active"));
    assert_eq!(role(&bob, BOB), ("member".into(), "active"));
    assert!(is_not_permitted(
        bob.remove_from_group(GROUP, &[CAROL]).await
    ));
    assert!(is_not_permitted(bob.set_role(GROUP, BOB, "admin").await));

    alice.set_muted(GROUP, BOB, true).await.unwrap();
    assert!(is_not_permitted(
        bob.send_message(GROUP, "let me speak").await
    ));
    carol.sync(0).await.unwrap();
    assert_eq!(role(&carol, BOB), ("member".into(), "muted"));
    alice.set_muted(GROUP, BOB, false).await.unwrap();
    bob.send_message(GROUP, "thank you").await.unwrap();
    reads(&carol, &[(BOB, "thank you")]).await;

    alice.set_role(GROUP, BOB, "admin").await.unwrap();
    bob.sync(0).await.unwrap();
    bob.ban(GROUP, CAROL).await.unwrap();
    assert_eq!(names(&bob), [ALICE, BOB]);
    let told = events(&carol).await;
    assert!(told.contains(&Event::Removed {
        group: GROUP.into()
    }));
    talks(GROUP, &[&alice, &bob]).await;
    let unknown = alice.set_role(GROUP, BOB, "emperor").await;
    assert!(matches!(
        unknown,
        Err(Error::Usage(UsageError::UnknownRole(_)))
    ));
    // Somebody must be able to change it back.
    alice.set_role(GROUP, BOB, "member").await.unwrap();
    let alone = alice.set_role(GROUP, ALICE, "member").await;
    assert!(
        matches!(alone, Err(Error::Usage(UsageError::Policy(_)))),
        "{alone:?}"
    );
}

#[tokio::test]
async fn an_admin_replaces_its_leaf_and_stays_admin() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol] = devices(&stack, [ALICE, BOB, CAROL]).await;
    group_with(GROUP, &alice, &[&bob, &carol]).await;
    alice.update_own_leaf(GROUP).await.unwrap();
    alice.remove_from_group(GROUP, &[CAROL]).await.unwrap();
    talks(GROUP, &[&alice, &bob]).await;
    assert_eq!(role(&bob, ALICE), ("admin".into(), "active"));
}

#[tokio::test]
async fn who_comes_back_is_shown_as_back_and_not_as_gone() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob] = devices(&stack, [ALICE, BOB]).await;
    group_with(GROUP, &alice, &[&bob]).await;
    drop(bob);
    lose_state(&stack.home(BOB));
    let bob = Client::open(&stack.home(BOB), patient()).await.unwrap();
    bob.rejoin_group(GROUP).await.unwrap();
    let told = events(&alice).await;
    let back = Event::MemberRejoined {
        group: GROUP.into(),
        name: BOB.into(),
    };
    assert!(told.contains(&back), "{told:?}");
    let gone = |event: &Event| matches!(event, Event::MemberRemoved { .. });
    assert!(!told.iter().any(gone), "{told:?}");
}

#[tokio::test]
async fn a_client_comes_back_by_itself_after_a_loss_of_state() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol] = devices(&stack, [ALICE, BOB, CAROL]).await;
    group_with(GROUP, &alice, &[&bob, &carol]).await;

    drop(bob);
    lose_state(&stack.home(BOB));
    // Meanwhile the key rotates: Bob's is good for nothing, his recovery record is.
    alice.remove_from_group(GROUP, &[CAROL]).await.unwrap();
    alice.send_message(GROUP, "lost to bob").await.unwrap();
    let bob = Client::open(&stack.home(BOB), patient()).await.unwrap();
    // As often as it likes: nobody has sealed a way back for him yet.
    for _ in 0..5 {
        bob.sync(0).await.unwrap();
    }
    // Some minutes later.
    some_minutes_later(&stack.home(ALICE), &alice).await;
    let told = events(&bob).await;
    assert!(
        told.contains(&Event::GroupLost {
            group: GROUP.into(),
            why: StopReason::State,
        }),
        "{told:?}"
    );
    assert!(
        told.contains(&Event::Rejoined {
            // Removed meanwhile, which this client has not seen.
            absent: vec![CAROL.into()],
            changed: Vec::new(),
            rules_changed: false,
            group: GROUP.into()
        }),
        "{told:?}"
    );
    // To him there was somebody else, who is not heard any more.
    bob.accept_unverified(GROUP).await.unwrap();
    assert_eq!(messages(&alice).await, []);
    assert_eq!(names(&alice), [ALICE, BOB]);
    talks(GROUP, &[&alice, &bob]).await;
    assert_eq!(role(&alice, BOB), ("member".into(), "active"));

    // The founder too, who is an admin afterwards as before.
    drop(alice);
    lose_state(&stack.home(ALICE));
    let alice = Client::open(&stack.home(ALICE), patient()).await.unwrap();
    alice.rejoin_group(GROUP).await.unwrap();
    talks(GROUP, &[&alice, &bob]).await;
    assert_eq!(role(&bob, ALICE), ("admin".into(), "active"));
}

#[tokio::test]
async fn a_join_code_is_good_after_two_rotations_and_not_after_it_was_revoked() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol, dave, erin] =
        devices(&stack, [ALICE, BOB, CAROL, DAVE, "erin.eriksson"]).await;
    group_with(GROUP, &alice, &[&bob, &carol]).await;
    let code = alice.invite(GROUP, 30).await.unwrap();
    for _ in 0..2 {
        // The commit after that begins another segment.
        let other = alice.invite(GROUP, 30).await.unwrap();
        alice.revoke_invitation(&other).await.unwrap();
        let before = bob.group_access(GROUP).unwrap().segment;
        bob.update_own_leaf(GROUP).await.unwrap();
        assert_ne!(bob.group_access(GROUP).unwrap().segment, before);
    }
    settle(&[&alice, &bob, &carol]).await;

    assert_eq!(dave.join_by_code(&code).await.unwrap(), GROUP);
    let again = dave.join_by_code(&code).await;
    assert!(matches!(
        again,
        Err(Error::Usage(UsageError::AlreadyAMember(_)))
    ));
    let came_in = Event::MemberAdded {
        group: GROUP.into(),
        name: DAVE.into(),
        by: DAVE.into(),
    };
    assert!(events(&alice).await.contains(&came_in));
    settle(&[&alice, &bob, &dave]).await;
    talks(GROUP, &[&alice, &bob, &dave]).await;
    assert_eq!(names(&dave), [ALICE, BOB, CAROL, DAVE]);

    alice.revoke_invitation(&code).await.unwrap();
    let late = erin.join_by_code(&code).await;
    assert!(
        matches!(late, Err(Error::Usage(UsageError::JoinCodeExpired))),
        "{late:?}"
    );
    let nonsense = erin.join_by_code("nonsense").await;
    assert!(matches!(
        nonsense,
        Err(Error::Usage(UsageError::InvalidJoinCode))
    ));
    talks(GROUP, &[&alice, &dave]).await;

    // Whoever is removed may know a code, and whoever leaves: none outlives that.
    let known = alice.invite(GROUP, 7).await.unwrap();
    alice.remove_from_group(GROUP, &[DAVE]).await.unwrap();
    dave.sync(0).await.unwrap();
    assert!(dave.join_by_code(&known).await.is_err());
    let known = alice.invite(GROUP, 7).await.unwrap();
    carol.leave_group(GROUP).await.unwrap();
    alice.sync(0).await.unwrap();
    assert!(erin.join_by_code(&known).await.is_err());
}

#[tokio::test]
async fn a_removed_member_with_its_old_key_and_database_gets_nothing() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, mallory] = devices(&stack, [ALICE, BOB, CAROL]).await;
    group_with(GROUP, &alice, &[&bob, &mallory]).await;
    let access = mallory.group_access(GROUP).unwrap();
    let row = recovery_row_of(&stack.home(CAROL), GROUP);
    alice.remove_from_group(GROUP, &[CAROL]).await.unwrap();
    alice.send_message(GROUP, "not for carol").await.unwrap();

    // Mallory knows nothing of the removal and asks with all that it has.
    let key = SignatureKeyPair::random().unwrap();
    let group = || GroupKey {
        group_id: access.id,
        state_key: access.state_key.to_wire(),
    };
    let attempts = [
        (
            Operation::OwnLeaf,
            OwnLeafRequest { group: group() }.encode(),
            ProblemType::UnknownGroup,
        ),
        (
            Operation::ExternalCommitInfo,
            ExternalCommitInfoRequest {
                group: group(),
                permit: JoinPermit::Rejoin,
                authorization: None,
            }
            .encode(),
            ProblemType::UnknownGroup,
        ),
    ];
    for (operation, body, expected) in attempts {
        let sender = Sender::Key(opaque(key.public()));
        let signer = SignatureKeyPair::from_seed(&key.seed());
        let request = sign(operation, now_ms(), &sender, &body, &signer.into())
            .unwrap()
            .encode();
        let refused = mallory.post(operation, &request, &[]).await;
        assert_eq!(
            refused.unwrap_err().problem(),
            Some(expected),
            "{operation:?}"
        );
    }
    let request = RecoveryRowRequest {
        version: WIRE_VERSION,
        id: row,
    };
    let operation = Operation::RecoveryRow;
    let refused = mallory.post(operation, &request.encode(), &[]).await;
    assert_eq!(
        refused.unwrap_err().problem(),
        Some(ProblemType::UnknownRecord)
    );
    assert!(is_not_a_member(
        mallory.send_message(GROUP, "I am still here").await
    ));
    assert_eq!(messages(&mallory).await, []);
    // Nor does it come back by itself.
    drop(mallory);
    lose_state(&stack.home(CAROL));
    let mallory = Client::open(&stack.home(CAROL), patient()).await.unwrap();
    assert!(is_not_a_member(mallory.rejoin_group(GROUP).await));
    reads(&bob, &[(ALICE, "not for carol")]).await;
    talks(GROUP, &[&alice, &bob]).await;
}

#[tokio::test]
async fn groups_of_every_ciphersuite_live_side_by_side() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob] = devices(&stack, [ALICE, BOB]).await;
    for suite in [2, 3, 0x4e, 0x4f] {
        let name = format!("suite {suite}");
        alice.create_group_with(&name, suite).await.unwrap();
        let code = alice.invite(&name, 7).await.unwrap();
        bob.join_by_code(&code).await.unwrap();
        settle(&[&alice, &bob]).await;
        alice.send_message(&name, "hello").await.unwrap();
        reads(&bob, &[(ALICE, "hello")]).await;
        bob.update_own_leaf(&name).await.unwrap();
        bob.send_message(&name, "hello back").await.unwrap();
        reads(&alice, &[(BOB, "hello back")]).await;
        assert_eq!(alice.verify_group(&name).await.unwrap().0, 2);
    }
    let unknown = alice.create_group_with("x", 0x4d).await;
    assert!(matches!(
        unknown,
        Err(Error::Usage(UsageError::UnknownCiphersuite(0x4d)))
    ));
}

#[tokio::test]
async fn another_group_takes_the_place_the_name_and_the_roles_of_one() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol, dave] = devices(&stack, [ALICE, BOB, CAROL, DAVE]).await;
    let others = &[&bob, &carol, &dave];
    group_with(GROUP, &alice, others).await;
    assert!(is_not_permitted(bob.upgrade_group(GROUP, 1).await));
    alice.set_role(GROUP, BOB, "admin").await.unwrap();
    alice.set_muted(GROUP, CAROL, true).await.unwrap();
    alice.ban(GROUP, DAVE).await.unwrap();
    alice.upgrade_group(GROUP, 1).await.unwrap();
    for client in [&bob, &carol] {
        client.sync(0).await.unwrap();
        assert_eq!(names(client), [ALICE, BOB, CAROL]);
        assert_eq!(role(client, ALICE), ("admin".to_owned(), "active"));
        assert_eq!(role(client, BOB), ("admin".to_owned(), "active"));
        assert_eq!(role(client, CAROL), ("member".to_owned(), "muted"));
    }
    talks(GROUP, &[&alice, &bob]).await;
    assert!(is_not_permitted(carol.send_message(GROUP, "x").await));
    let former = bob.send_message(&format!("{GROUP} (former)"), "x").await;
    assert!(is_not_a_member(former));
}

#[tokio::test]
async fn no_group_is_put_in_the_place_of_one_without_its_members_unless_the_user_says_so() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol] = devices(&stack, [ALICE, BOB, CAROL]).await;
    group_with(GROUP, &alice, &[&bob]).await;
    let code = alice.invite(GROUP, 1).await.unwrap();
    carol.join_by_code(&code).await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    let refused = alice.upgrade_group(GROUP, 1).await.unwrap_err();
    let Error::Usage(UsageError::WouldLeaveBehind(who)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(who, [CAROL]);
    carol.send_message(GROUP, "still here").await.unwrap();
    reads(&bob, &[(CAROL, "still here")]).await;
    let left_behind = alice.upgrade_group_leaving_others(GROUP, 1).await.unwrap();
    assert_eq!(left_behind, [CAROL]);
    bob.sync(0).await.unwrap();
    assert_eq!(names(&bob), [ALICE, BOB]);
    assert!(is_not_a_member(carol.send_message(GROUP, "x").await));
}

#[tokio::test]
async fn the_name_of_a_group_that_is_over_can_be_used_again() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob] = devices(&stack, [ALICE, BOB]).await;
    group_with(GROUP, &alice, &[&bob]).await;
    bob.leave_group(GROUP).await.unwrap();
    bob.create_group(GROUP).await.unwrap();
    alice.sync(0).await.unwrap();
    bob.sync(0).await.unwrap();
    bob.add_to_group(GROUP, &[ALICE]).await.unwrap();
    alice.delete_group(GROUP).await.unwrap();
    alice.create_group(GROUP).await.unwrap();
    alice.send_message(GROUP, "to myself").await.unwrap();
    let taken = alice.create_group(GROUP).await;
    assert!(matches!(
        taken,
        Err(Error::Usage(UsageError::GroupExists(_)))
    ));
}

#[tokio::test]
async fn who_is_behind_a_removal_catches_up_before_the_group_is_called_unknown() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol] = devices(&stack, [ALICE, BOB, CAROL]).await;
    group_with(GROUP, &alice, &[&bob, &carol]).await;
    alice.remove_from_group(GROUP, &[CAROL]).await.unwrap();
    bob.update_own_leaf(GROUP).await.unwrap();
    assert_eq!(names(&bob), [ALICE, BOB]);
    // Nobody is left out who sends while others come and go.
    let sends = async {
        for number in 0..40 {
            let text = format!("number {number}");
            bob.send_message(GROUP, &text).await.unwrap();
        }
    };
    let comings_and_goings = async {
        // As often as there are KeyPackages of somebody who is not there.
        for _ in 0..4 {
            alice.add_to_group(GROUP, &[CAROL]).await.unwrap();
            alice.remove_from_group(GROUP, &[CAROL]).await.unwrap();
        }
    };
    tokio::join!(sends, comings_and_goings);
    // One who is no member any more is told so.
    assert!(is_not_a_member(carol.send_message(GROUP, "x").await));
}

#[tokio::test]
async fn the_commands_do_what_they_say() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = User::register(&stack, 0, ALICE).await;
    let bob = User::register(&stack, 1, BOB).await;
    let carol = User::register(&stack, 2, CAROL).await;
    alice.befriend(&bob).await;
    alice.run(&["group", "create", GROUP]).await;
    alice.run(&["group", "add", GROUP, BOB]).await;
    bob.receive().await;
    let code = alice.run(&["group", "invite", GROUP]).await;
    let code = code["code"].as_str().unwrap().to_owned();
    carol.run(&["group", "join", &code]).await;
    assert_eq!(carol.members(GROUP).await, [ALICE, BOB, CAROL]);

    // Who comes in hears somebody who is not the one that let it in, before it speaks.
    bob.run(&["contacts"]).await;
    alice.run(&["group", "mute", GROUP, CAROL]).await;
    let muted = carol.try_run(&["send", GROUP, "x"]).await.unwrap_err();
    assert_eq!(muted.error, "not-permitted");
    alice.run(&["group", "unmute", GROUP, CAROL]).await;
    alice.run(&["group", "role", GROUP, BOB, "admin"]).await;
    carol.run(&["send", GROUP, "here I am"]).await;
    bob.reads(&[(&carol, "here I am")]).await;
    let checked = bob.run(&["verify", GROUP]).await;
    assert_eq!(checked["clients"], 3);
    bob.run(&["group", "revoke", &code]).await;
    carol.run(&["group", "leave", GROUP]).await;
    alice.run(&["send", GROUP, "and then there were two"]).await;
    bob.reads(&[(&alice, "and then there were two")]).await;
    assert_eq!(bob.members(GROUP).await, [ALICE, BOB]);
    let late = carol.try_run(&["group", "join", &code]).await.unwrap_err();
    assert_eq!(late.error, "join-code-expired");
    bob.run(&["group", "delete", GROUP]).await;
    let gone = alice.try_run(&["send", GROUP, "x"]).await.unwrap_err();
    assert_eq!(gone.error, "not-a-member");
}
