//! Clocks that are wrong, and clocks that step, on real processes.

use std::collections::BTreeSet;
use std::time::Duration;

use end_to_end::{LogLevel, MovedClocks, Said, Stack, User};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// Each client is a process of its own, MLS library and all, at another time than the services.
#[tokio::test]
async fn a_client_whose_clock_is_off_adds_receives_and_is_added() {
    let (stack, clocks) = Stack::start_with_clocks(LogLevel::Info, 0).await;
    let alice = User::register(&stack, 0, "alice").await;
    let dave = User::register(&stack, 1, "dave").await;
    alice.befriend(&dave).await;
    alice.run(&["group", "create", "garden"]).await;
    let off = [
        ("hours", -2 * HOUR),
        ("yesterday", -DAY),
        ("ahead", 100 * DAY),
        ("years", -3000 * DAY),
    ];
    let mut users = Vec::new();
    for (number, (handle, seconds)) in off.into_iter().enumerate() {
        let environment = clocks.one(handle);
        // One of them goes wrong later.
        if handle != "ahead" {
            clocks.set(handle, seconds);
        }
        let user = User::register_in(&stack, number + 2, handle, environment).await;
        clocks.set(handle, seconds);
        alice.befriend(&user).await;
        // This one is added, and those that were added before it follow.
        alice.run(&["group", "add", "garden", handle]).await;
        assert_eq!(user.members("garden").await.len(), number + 2, "{handle}");
        users.push(user);
    }
    alice.run(&["group", "add", "garden", "dave"]).await;
    alice.run(&["send", "garden", "hello"]).await;
    for user in &users {
        user.reads(&[(&alice, "hello")]).await;
        // And it adds.
        let own = format!("by-{}", user.handle);
        user.befriend(&dave).await;
        user.run(&["group", "create", &own]).await;
        user.run(&["group", "add", &own, "dave"]).await;
        user.run(&["send", &own, "mine"]).await;
        assert_eq!(dave.members(&own).await.len(), 2, "{own}");
    }
    let read = dave.receive().await;
    assert_eq!(read.len(), users.len() + 1, "{read:?}");
}

const PROGRAMS: [&str; 4] = ["ds", "ohttp-gateway", "ohttp-relay", "privacy-pass-issuer"];

/// What a command that ends in time says; everything may be refused while a clock is wrong.
async fn tried(user: &User, arguments: &[&str]) -> bool {
    let outcome = tokio::time::timeout(Duration::from_secs(90), user.try_run(arguments)).await;
    outcome
        .unwrap_or_else(|_| panic!("{}: {arguments:?} does not end", user.handle))
        .is_ok()
}

/// A clock leaves the time of the others for a while and comes back: what was accepted is read, in
/// the end, and everything goes on.
async fn steps(clocks: &MovedClocks, base: i64, by: &[i64], (alice, bob): (&User, &User)) {
    let mut said = BTreeSet::new();
    for program in PROGRAMS {
        for step in by {
            let case = format!("{program} {step}");
            let mut expected: Vec<Said> = Vec::new();
            clocks.set(program, base + step);
            for number in 0..3 {
                let text = format!("{case} {number}");
                if tried(alice, &["send", "garden", &text]).await {
                    expected.push(("alice".to_owned(), text.clone()));
                }
                said.insert(text);
            }
            let mut read = Vec::new();
            if tried(bob, &["contacts"]).await {
                // What is read now is not read later.
                if let Ok(events) = bob.try_run(&["receive"]).await {
                    read.extend(texts(&events));
                }
            }
            clocks.set(program, base);
            let text = format!("{case} back");
            said.insert(text.clone());
            alice.run(&["send", "garden", &text]).await;
            expected.push(("alice".to_owned(), text));
            for _ in 0..5 {
                if expected.iter().all(|text| read.contains(text)) {
                    break;
                }
                read.extend(bob.receive().await);
            }
            is_heard_once(&read, &expected, &mut said);
        }
    }
}

/// All that was accepted is read, and nothing twice. What was not may wait in the outbox, and come
/// later: from `said` goes what was read.
fn is_heard_once(read: &[Said], expected: &[Said], said: &mut BTreeSet<String>) {
    for text in expected {
        assert!(read.contains(text), "{text:?} of {read:?}");
    }
    for (_, text) in read {
        assert!(said.remove(text), "{text} came twice");
    }
}

fn texts(events: &serde_json::Value) -> Vec<Said> {
    let events = events.as_array().expect("a list").iter();
    events
        .filter_map(|event| Some((event["sender"].as_str()?, event["text"].as_str()?)))
        .map(|(sender, text)| (sender.to_owned(), text.to_owned()))
        .collect()
}

#[tokio::test]
async fn no_step_of_a_services_clock_loses_what_was_accepted_or_stops_what_comes_after_it() {
    // All begin ahead, so that a clock can go back: what waits for a time of day is not moved with
    // it.
    let base = 400 * DAY;
    let (stack, clocks) = Stack::start_with_clocks(LogLevel::Info, base).await;
    let mut environment = Vec::new();
    for name in ["alice", "bob"] {
        environment.push(clocks.one(name));
        clocks.set(name, base);
    }
    let bob = User::register_in(&stack, 1, "bob", environment.pop().unwrap()).await;
    let alice = User::register_in(&stack, 0, "alice", environment.pop().unwrap()).await;
    alice.befriend(&bob).await;
    alice.run(&["group", "create", "garden"]).await;
    alice.run(&["group", "add", "garden", "bob"]).await;
    bob.receive().await;
    steps(
        &clocks,
        base,
        &[HOUR, -HOUR, 2 * DAY, -2 * DAY, 366 * DAY, -366 * DAY],
        (&alice, &bob),
    )
    .await;
}

/// Every program is started while its clock is wrong, and again when it is right.
#[tokio::test]
async fn a_service_that_was_started_with_a_wrong_clock_loses_nothing_and_is_right_again_with_a_right_one()
 {
    let base = 400 * DAY;
    let (mut stack, clocks) = Stack::start_with_clocks(LogLevel::Info, base).await;
    let mut environment = Vec::new();
    for name in ["alice", "bob"] {
        environment.push(clocks.one(name));
        clocks.set(name, base);
    }
    let bob = User::register_in(&stack, 1, "bob", environment.pop().unwrap()).await;
    let alice = User::register_in(&stack, 0, "alice", environment.pop().unwrap()).await;
    alice.befriend(&bob).await;
    alice.run(&["group", "create", "garden"]).await;
    alice.run(&["group", "add", "garden", "bob"]).await;
    bob.receive().await;
    let mut said = BTreeSet::new();
    for program in PROGRAMS {
        for step in [-3000 * DAY, 366 * DAY] {
            let case = format!("{program} {step}");
            alice.run(&["send", "garden", &case]).await;
            let mut expected = vec![("alice".to_owned(), case.clone())];
            said.insert(case.clone());
            stack.stop().await;
            clocks.set(program, base + step);
            // It starts, whatever it says then.
            stack.restart().await;
            let text = format!("{case} wrong");
            if tried(&alice, &["send", "garden", &text]).await {
                expected.push(("alice".to_owned(), text.clone()));
            }
            said.insert(text);
            stack.stop().await;
            clocks.set(program, base);
            stack.restart().await;
            let text = format!("{case} back");
            said.insert(text.clone());
            alice.run(&["send", "garden", &text]).await;
            expected.push(("alice".to_owned(), text));
            let mut read = Vec::new();
            for _ in 0..5 {
                if expected.iter().all(|text| read.contains(text)) {
                    break;
                }
                read.extend(bob.receive().await);
            }
            is_heard_once(&read, &expected, &mut said);
        }
    }
    // The tokens of before are good, and new ones are to be had.
    alice.run(&["group", "create", "orchard"]).await;
    alice.run(&["group", "add", "orchard", "bob"]).await;
}
