//! Histories that must work: what happens to members who were away, slow or unlucky.

use client::{Client, CommitOutcome, Event};
use end_to_end::{LogLevel, Stack, befriend, devices, group_with, messages, patient, reads, talks};

const GROUP: &str = "expedition";
const ALICE: &str = "alice.adebayo";
const BOB: &str = "bob.bergstrom";
const CAROL: &str = "carol.castillo";
const DAVE: &str = "dave.dimitrov";
const ERIN: &str = "erin.eriksson";

fn epoch(client: &Client) -> u64 {
    client.group_access(GROUP).unwrap().epoch
}

#[tokio::test]
async fn a_member_offline_over_two_rotations_catches_up() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol, dave, erin] = devices(&stack, [ALICE, BOB, CAROL, DAVE, ERIN]).await;
    group_with(GROUP, &alice, &[&bob, &carol, &dave, &erin]).await;
    let old_key = dave.group_access(GROUP).unwrap().state_key;

    // Dave is offline from here on.
    alice.send_message(GROUP, "before the first").await.unwrap();
    alice.remove_from_group(GROUP, &[ERIN]).await.unwrap();
    alice.send_message(GROUP, "after the first").await.unwrap();
    bob.update_own_leaf(GROUP).await.unwrap();
    bob.send_message(GROUP, "with new keys").await.unwrap();
    alice.remove_from_group(GROUP, &[CAROL]).await.unwrap();
    alice.send_message(GROUP, "after the second").await.unwrap();
    assert!(alice.group_access(GROUP).unwrap().state_key != old_key);

    let expected = [
        (ALICE, "before the first"),
        (ALICE, "after the first"),
        (BOB, "with new keys"),
        (ALICE, "after the second"),
    ];
    reads(&dave, &expected).await;
    talks(GROUP, &[&alice, &bob, &dave]).await;
    assert_eq!(dave.members(GROUP).unwrap().len(), 3);
}

#[tokio::test]
async fn a_member_who_writes_first_thing_after_two_rotations_is_heard() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol, dave] = devices(&stack, [ALICE, BOB, CAROL, DAVE]).await;
    group_with(GROUP, &alice, &[&bob, &carol, &dave]).await;
    alice.remove_from_group(GROUP, &[BOB]).await.unwrap();
    alice.remove_from_group(GROUP, &[CAROL]).await.unwrap();
    // Neither fetched before: the old state key is all that he has.
    dave.send_message(GROUP, "am I late?").await.unwrap();
    reads(&alice, &[(DAVE, "am I late?")]).await;
}

#[tokio::test]
async fn the_loser_of_a_race_goes_on() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol, dave] = devices(&stack, [ALICE, BOB, CAROL, DAVE]).await;
    group_with(GROUP, &alice, &[&bob, &carol, &dave]).await;

    alice.set_role(GROUP, BOB, "admin").await.unwrap();
    bob.sync(0).await.unwrap();
    // Both have made their commit for the same epoch before either is sent.
    alice.stage_remove(GROUP, &[CAROL]).await.unwrap();
    bob.stage_remove(GROUP, &[DAVE]).await.unwrap();
    assert_eq!(bob.submit(GROUP).await.unwrap(), CommitOutcome::Accepted);
    assert_eq!(
        alice.submit(GROUP).await.unwrap(),
        CommitOutcome::Superseded
    );
    assert_eq!(epoch(&alice), epoch(&bob));
    talks(GROUP, &[&alice, &bob, &carol]).await;

    alice.remove_from_group(GROUP, &[CAROL]).await.unwrap();
    talks(GROUP, &[&alice, &bob]).await;
    assert_eq!(messages(&carol).await, []);
}

/// Sends what is kept for the group and drops the answer.
async fn lose_the_answer(client: &Client) {
    let pending = client
        .pending_request(GROUP)
        .unwrap()
        .expect("a kept request");
    client
        .post(pending.operation, &pending.request, &pending.tokens)
        .await
        .expect("accepted");
}

#[tokio::test]
async fn a_winner_that_lost_the_answer_finds_its_result() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol, dave, erin] = devices(&stack, [ALICE, BOB, CAROL, DAVE, ERIN]).await;
    group_with(GROUP, &alice, &[&bob, &carol, &dave, &erin]).await;

    // A removal rotates the state key, so that the retry is made with a key that opens nothing.
    alice.stage_remove(GROUP, &[ERIN]).await.unwrap();
    lose_the_answer(&alice).await;
    let before = epoch(&alice);
    assert_eq!(alice.submit(GROUP).await.unwrap(), CommitOutcome::Accepted);
    assert_eq!(epoch(&alice), before + 1);
    talks(GROUP, &[&alice, &bob, &carol, &dave]).await;

    // The process ends, too, and the next one finds the kept request.
    alice.stage_remove(GROUP, &[DAVE]).await.unwrap();
    lose_the_answer(&alice).await;
    drop(alice);
    let alice = Client::open(&stack.home(ALICE), patient()).await.unwrap();
    alice.sync(0).await.unwrap();
    assert!(alice.pending_request(GROUP).unwrap().is_none());
    talks(GROUP, &[&alice, &bob, &carol]).await;

    // Meanwhile others go on: hers is in the queue, and theirs after it.
    alice.stage_remove(GROUP, &[CAROL]).await.unwrap();
    lose_the_answer(&alice).await;
    bob.update_own_leaf(GROUP).await.unwrap();
    bob.send_message(GROUP, "on we go").await.unwrap();
    reads(&alice, &[(BOB, "on we go")]).await;
    assert!(alice.pending_request(GROUP).unwrap().is_none());
    talks(GROUP, &[&alice, &bob]).await;
    assert_eq!(alice.members(GROUP).unwrap().len(), 2);
}

#[tokio::test]
async fn join_information_is_there_two_rotations_later() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol, dave, erin] = devices(&stack, [ALICE, BOB, CAROL, DAVE, ERIN]).await;
    group_with(GROUP, &alice, &[&bob, &carol, &dave]).await;
    befriend(&alice, &erin).await;

    alice.add_to_group(GROUP, &[ERIN]).await.unwrap();
    alice.send_message(GROUP, "welcome, erin").await.unwrap();
    alice.remove_from_group(GROUP, &[CAROL]).await.unwrap();
    alice.remove_from_group(GROUP, &[DAVE]).await.unwrap();
    alice
        .send_message(GROUP, "there were more of us")
        .await
        .unwrap();

    let events = erin.receive(0).await.unwrap();
    let joined = Event::Joined {
        group: GROUP.into(),
        by: ALICE.into(),
    };
    assert_eq!(events[0].event, joined);
    reads(
        &erin,
        &[(ALICE, "welcome, erin"), (ALICE, "there were more of us")],
    )
    .await;
    talks(GROUP, &[&alice, &bob, &erin]).await;
    let members = erin.members(GROUP).unwrap();
    let mut names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, [ALICE, BOB, ERIN]);
}
