//! Two commands on one home: the one that waits is in nobody's way, and nothing is lost or done
//! twice.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use client::{Client, Event};
use end_to_end::{LogLevel, Stack, User, device, group_with, patient};
use serde_json::Value;
use tokio::time::timeout;

const ALICE: &str = "alice";
const BOB: &str = "bob";
const GROUP: &str = "expedition";
/// Much shorter than the wait that goes on beside it, on a busy machine too.
const SOON: Duration = Duration::from_secs(30);

async fn two_in_a_group(stack: &Stack) -> (User, User) {
    let alice = User::register(stack, 0, ALICE).await;
    let bob = User::register(stack, 1, BOB).await;
    alice.befriend(&bob).await;
    alice.run(&["group", "create", GROUP]).await;
    alice.run(&["group", "add", GROUP, BOB]).await;
    bob.receive().await;
    alice.receive().await;
    (alice, bob)
}

/// A command has begun to do something in a home, and waits for news now.
async fn is_taken_and_given_up(home: &Path) {
    let lock = File::open(home.join("lock")).unwrap();
    let watch = async {
        let mut taken = false;
        loop {
            match lock.try_lock() {
                Ok(()) if taken => return lock.unlock().unwrap(),
                Ok(()) => lock.unlock().unwrap(),
                Err(_) => taken = true,
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, watch)
        .await
        .expect("the home is taken and given up");
}

fn texts(events: &Value) -> Vec<String> {
    let events = events.as_array().unwrap().iter();
    events
        .filter_map(|event| Some(event["text"].as_str()?.to_owned()))
        .collect()
}

#[tokio::test]
async fn who_waits_for_news_keeps_no_other_command_out() {
    let stack = Stack::start(LogLevel::Info).await;
    let (alice, bob) = two_in_a_group(&stack).await;
    // Alice waits and sends, bob answers: the one who waits gets the answer.
    let waits = alice.run(&["receive", "--wait", "60"]);
    let meanwhile = async {
        is_taken_and_given_up(alice.home()).await;
        timeout(SOON, alice.run(&["send", GROUP, "are you there?"]))
            .await
            .expect("sent while another command waits");
        bob.reads(&[(&alice, "are you there?")]).await;
        timeout(SOON, bob.run(&["send", GROUP, "yes"]))
            .await
            .expect("sent");
    };
    let (received, ()) = tokio::join!(waits, meanwhile);
    assert_eq!(texts(&received), ["yes"]);
    assert_eq!(alice.receive().await, []);
}

#[tokio::test]
async fn news_that_another_command_has_taken_in_end_a_wait() {
    let stack = Stack::start(LogLevel::Info).await;
    let (alice, bob) = two_in_a_group(&stack).await;
    let waits = async {
        let received = timeout(SOON, alice.run(&["receive", "--wait", "60"]));
        texts(&received.await.expect("the wait ends with the news"))
    };
    let meanwhile = async {
        is_taken_and_given_up(alice.home()).await;
        bob.run(&["send", GROUP, "news"]).await;
        // Whichever of both fetches it.
        alice.run(&["contacts"]).await;
    };
    let (received, ()) = tokio::join!(waits, meanwhile);
    assert_eq!(received, ["news"]);
}

#[tokio::test]
async fn two_commands_that_receive_and_two_that_send_lose_nothing_and_do_nothing_twice() {
    const MESSAGES: usize = 12;
    let stack = Stack::start(LogLevel::Info).await;
    let (alice, bob) = two_in_a_group(&stack).await;
    let sends = |user: &'static str, from: usize| {
        let (alice, bob) = (&alice, &bob);
        async move {
            let sender = if user == ALICE { alice } else { bob };
            for number in from..from + MESSAGES {
                let text = format!("{user} {number}");
                sender.run(&["send", GROUP, &text]).await;
            }
        }
    };
    let all_sent = std::sync::atomic::AtomicBool::new(false);
    let receives = |user: &'static str| {
        let (user, all_sent) = (if user == ALICE { &alice } else { &bob }, &all_sent);
        async move {
            let mut read = Vec::new();
            loop {
                let last = all_sent.load(std::sync::atomic::Ordering::SeqCst);
                read.extend(texts(&user.run(&["receive", "--wait", "3"]).await));
                if last {
                    return read;
                }
            }
        }
    };
    let sending = async {
        tokio::join!(
            sends(ALICE, 0),
            sends(ALICE, 100),
            sends(BOB, 0),
            sends(BOB, 100)
        );
        all_sent.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let (first, second, third, fourth, ()) = tokio::join!(
        receives(ALICE),
        receives(ALICE),
        receives(BOB),
        receives(BOB),
        sending
    );
    for (read, from) in [
        ([first, second].concat(), BOB),
        ([third, fourth].concat(), ALICE),
    ] {
        let mut times = BTreeMap::<String, usize>::new();
        for text in read {
            *times.entry(text).or_default() += 1;
        }
        let expected: BTreeMap<String, usize> = (0..MESSAGES)
            .flat_map(|number| [number, number + 100])
            .map(|number| (format!("{from} {number}"), 1))
            .collect();
        assert_eq!(times, expected);
    }
}

#[tokio::test]
async fn a_client_that_is_open_sees_what_another_one_has_changed_in_its_home() {
    let stack = Stack::start(LogLevel::Info).await;
    let mut alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    group_with(GROUP, &alice, &[&bob]).await;
    let mut other = Client::open(&stack.home(ALICE), patient()).await.unwrap();
    // The ratchet and the epoch go on from where the other one has left them.
    for number in 0..4 {
        let client = if number % 2 == 0 {
            &mut alice
        } else {
            &mut other
        };
        client
            .send_message(GROUP, &format!("number {number}"))
            .await
            .unwrap();
        client.update_own_leaf(GROUP).await.unwrap();
    }
    let events = bob.receive(0).await.unwrap();
    let texts: Vec<_> = events
        .iter()
        .filter_map(|stored| match &stored.event {
            Event::Message { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(texts, ["number 0", "number 1", "number 2", "number 3"]);
    // A new connection token too, which stands in the profile.
    other.disconnect(BOB).await.unwrap();
    let carol = device(&stack, 2, "carol").await;
    end_to_end::befriend(&carol, &alice).await;
    carol.create_group("summit").await.unwrap();
    carol.add_to_group("summit", &[ALICE]).await.unwrap();
    other.sync(0).await.unwrap();
    assert!(other.groups().unwrap().iter().any(|it| it.name == "summit"));
    // While one holds the home, the other one waits.
    let held = alice.hold().await.unwrap();
    let waits = other.send_message("summit", "when it is my turn");
    let mut waits = std::pin::pin!(waits);
    let early = timeout(Duration::from_millis(300), waits.as_mut()).await;
    assert!(early.is_err(), "sent while another one held the home");
    drop(held);
    waits.await.unwrap();
}
