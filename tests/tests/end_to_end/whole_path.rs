//! From an account token to a conversation and a removal, with nothing but `mimimi`.

use end_to_end::{LogLevel, Service, Stack, User};
use serde_json::json;

const GROUP: &str = "harbour festival";

async fn three(stack: &Stack) -> [User; 3] {
    let (alice, bob, carol) = tokio::join!(
        User::register(stack, 0, "alice.adebayo"),
        User::register(stack, 1, "bob.bergstrom"),
        User::register(stack, 2, "carol.castillo"),
    );
    alice.befriend(&bob).await;
    alice.befriend(&carol).await;
    [alice, bob, carol]
}

async fn a_group_of(alice: &User, others: &[&User]) {
    alice.run(&["group", "create", GROUP]).await;
    let mut arguments = vec!["group", "add", GROUP];
    arguments.extend(others.iter().map(|other| other.handle.as_str()));
    alice.run(&arguments).await;
    for other in others {
        assert_eq!(other.receive().await, []);
    }
}

#[tokio::test]
async fn three_users_register_connect_and_talk_until_one_is_removed() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol] = three(&stack).await;
    let hers = alice.run(&["verify", &bob.handle]).await;
    let his = bob.run(&["verify", &alice.handle]).await;
    assert_eq!(hers["safety_number"], his["safety_number"]);
    assert!(alice.run(&["tokens"]).await["available"].as_u64().unwrap() > 0);

    a_group_of(&alice, &[&bob, &carol]).await;
    let everybody = [&alice, &bob, &carol].map(|user| user.handle.clone());
    for user in [&alice, &bob, &carol] {
        assert_eq!(user.members(GROUP).await, everybody);
    }
    alice
        .run(&["send", GROUP, "the ferry leaves at eight"])
        .await;
    bob.run(&["send", GROUP, "I bring the lanterns"]).await;
    carol.run(&["send", GROUP, "and I the rope"]).await;
    let lines = [
        (&alice, "the ferry leaves at eight"),
        (&bob, "I bring the lanterns"),
        (&carol, "and I the rope"),
    ];
    alice.reads(&lines[1..]).await;
    bob.reads(&[lines[0], lines[2]]).await;
    carol.reads(&lines[..2]).await;
    // What was shown is not shown again.
    assert_eq!(bob.receive().await, []);

    alice.run(&["group", "remove", GROUP, &carol.handle]).await;
    alice.run(&["send", GROUP, "carol has left us"]).await;
    bob.reads(&[(&alice, "carol has left us")]).await;
    bob.run(&["send", GROUP, "a pity"]).await;
    alice.reads(&[(&bob, "a pity")]).await;
    assert_eq!(carol.receive().await, []);
    let refused = carol.try_run(&["send", GROUP, "hello?"]).await.unwrap_err();
    assert_eq!(refused.error, "not-a-member", "{refused:?}");
    assert_eq!(alice.members(GROUP).await, everybody[..2]);
    assert_eq!(alice.receive().await, []);
    let groups = carol.run(&["group", "list"]).await;
    assert_eq!(groups[0]["active"], json!(false), "{groups}");

    // Whoever was removed can be added again, and reads what is written from then on.
    alice.run(&["group", "add", GROUP, &carol.handle]).await;
    alice.run(&["send", GROUP, "welcome back"]).await;
    carol.reads(&[(&alice, "welcome back")]).await;
}

#[tokio::test]
async fn a_declined_request_makes_no_contact() {
    let stack = Stack::start(LogLevel::Info).await;
    let (alice, bob) = tokio::join!(
        User::register(&stack, 0, "alice.adebayo"),
        User::register(&stack, 1, "bob.bergstrom"),
    );
    alice.run(&["connect", &bob.handle]).await;
    let id = bob.request_from(&alice).await.unwrap();
    bob.run(&["requests", "--decline", &id]).await;
    assert_eq!(bob.request_from(&alice).await, None);
    for user in [&alice, &bob] {
        assert_eq!(user.run(&["contacts"]).await, json!([]));
    }
    let again = bob
        .try_run(&["requests", "--accept", &id])
        .await
        .unwrap_err();
    assert_eq!(again.error, "unknown-request");
    alice.run(&["group", "create", GROUP]).await;
    let refused = alice
        .try_run(&["group", "add", GROUP, &bob.handle])
        .await
        .unwrap_err();
    assert_eq!(refused.error, "unknown-contact");
    let nobody = alice
        .try_run(&["connect", "nobody.at.all"])
        .await
        .unwrap_err();
    assert_eq!(nobody.error, "unknown-handle");
}

#[tokio::test]
async fn two_processes_that_commit_at_once_both_get_through() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol] = three(&stack).await;
    let dave = User::register(&stack, 3, "dave.dimitrov").await;
    alice.befriend(&dave).await;
    a_group_of(&alice, &[&bob, &carol, &dave]).await;
    alice
        .run(&["group", "role", GROUP, &bob.handle, "admin"])
        .await;
    let (hers, his) = (
        ["group", "remove", GROUP, &carol.handle],
        ["group", "remove", GROUP, &dave.handle],
    );
    tokio::join!(alice.run(&hers), bob.run(&his));
    for user in [&alice, &bob] {
        assert_eq!(
            user.members(GROUP).await,
            [alice.handle.clone(), bob.handle.clone()]
        );
    }
    alice.run(&["send", GROUP, "only we two are left"]).await;
    bob.reads(&[(&alice, "only we two are left")]).await;
    bob.run(&["send", GROUP, "so it is"]).await;
    alice.reads(&[(&bob, "so it is")]).await;
}

#[tokio::test]
async fn a_stack_that_was_stopped_goes_on_with_its_data() {
    let mut stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol] = three(&stack).await;
    a_group_of(&alice, &[&bob, &carol]).await;
    alice.run(&["send", GROUP, "said before the stop"]).await;
    stack.stop().await;
    assert!(!stack.layout().stack_json().exists());
    stack.restart().await;
    bob.reads(&[(&alice, "said before the stop")]).await;
    bob.run(&["send", GROUP, "said after the stop"]).await;
    carol
        .reads(&[
            (&alice, "said before the stop"),
            (&bob, "said after the stop"),
        ])
        .await;
    alice.run(&["group", "remove", GROUP, &carol.handle]).await;
    alice.reads(&[(&bob, "said after the stop")]).await;
    // Accounts, quotas and keys are still there, too.
    let dave = User::register(&stack, 3, "dave.dimitrov").await;
    dave.befriend(&alice).await;
}

#[tokio::test]
async fn a_service_that_dies_is_started_again() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol] = three(&stack).await;
    a_group_of(&alice, &[&bob, &carol]).await;
    for service in Service::ALL {
        let before = stack.kill(service);
        stack.restarted(service, before).await;
        alice.run(&["send", GROUP, service.name()]).await;
        for other in [&bob, &carol] {
            other.reads(&[(&alice, service.name())]).await;
        }
    }
    let dave = User::register(&stack, 3, "dave.dimitrov").await;
    dave.befriend(&alice).await;
}
