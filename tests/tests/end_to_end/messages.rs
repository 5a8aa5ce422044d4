//! Messages and what becomes of them, through `mimimi` and every service.

use std::process::Command;

use end_to_end::{LogLevel, Stack, User, program};
use serde_json::Value;

const GROUP: &str = "garden";

/// The messages of the group, as a user is shown them.
async fn history(user: &User) -> Vec<Value> {
    let messages = user.run(&["messages", GROUP]).await;
    messages.as_array().unwrap().clone()
}

/// Says it, and returns its id.
async fn say(user: &User, words: &[&str]) -> String {
    let sent = user.run(words).await;
    sent["message"].as_str().unwrap().to_owned()
}

async fn kinds(user: &User) -> Vec<String> {
    let events = user.run(&["receive"]).await;
    let kinds = events.as_array().unwrap().iter();
    kinds
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn people_answer_react_change_their_minds_and_let_messages_expire() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = User::register(&stack, 0, "alice").await;
    let bob = User::register(&stack, 1, "bob").await;
    alice.befriend(&bob).await;
    alice.run(&["group", "create", GROUP]).await;
    alice.run(&["group", "add", GROUP, "bob"]).await;
    bob.receive().await;

    let first = say(&alice, &["send", GROUP, "The roses are owt"]).await;
    assert_eq!(kinds(&bob).await, ["message"]);
    // By the beginning of the id.
    let short = &first[..8];
    let answer = say(
        &bob,
        &[
            "send",
            GROUP,
            "--markdown",
            "--reply-to",
            short,
            "*all* of them?",
        ],
    )
    .await;
    let heart = say(&bob, &["react", GROUP, short, "\u{2764}"]).await;
    say(&alice, &["edit", GROUP, &first, "The roses are out"]).await;
    let secret = say(
        &alice,
        &["send", GROUP, "--expires", "2s", "the gate is open"],
    )
    .await;
    assert_eq!(kinds(&bob).await, ["message_edited", "message"]);
    kinds(&alice).await;

    for user in [&alice, &bob] {
        let messages = history(user).await;
        assert_eq!(messages.len(), 3, "{messages:?}");
        assert_eq!(messages[0]["text"], "The roses are out");
        assert_eq!(
            (&messages[0]["edited"], &messages[1]["edited"]),
            (&true.into(), &false.into())
        );
        assert_eq!(messages[0]["reactions"][0]["message"], heart.as_str());
        assert_eq!(messages[1]["message"], answer.as_str());
        assert_eq!(messages[1]["details"]["reply_to"], first.as_str());
        assert_eq!(messages[1]["details"]["format"], "markdown");
    }
    // Somebody else's.
    for words in [
        &["delete", GROUP, &first][..],
        &["edit", GROUP, &first, "no"],
    ] {
        assert_eq!(
            bob.try_run(words).await.unwrap_err().error,
            "not-own-message"
        );
    }
    say(&bob, &["delete", GROUP, &heart]).await;
    say(&bob, &["delete", GROUP, &answer]).await;
    // Alice's has begun when she read it in the journal, Bob's when he was shown it.
    let gone = |messages: &[Value]| messages[2]["gone"] == "expired" && messages[2]["text"] == "";
    for user in [&alice, &bob] {
        let mut messages = history(user).await;
        while !gone(&messages) {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            messages = history(user).await;
        }
        assert_eq!(messages[2]["message"], secret.as_str());
        assert_eq!(messages[1]["gone"], "deleted");
        assert_eq!(messages[0]["reactions"].as_array().unwrap().len(), 0);
    }
    let told = kinds(&bob).await;
    assert!(told.contains(&"message_expired".to_owned()), "{told:?}");

    // Nobody hears what was read before that is wanted.
    alice.run(&["send", GROUP, "again"]).await;
    kinds(&bob).await;
    bob.run(&["receive"]).await;
    assert!(!kinds(&alice).await.contains(&"receipt".to_owned()));
    bob.run(&["receipts", GROUP, "read"]).await;
    alice.run(&["send", GROUP, "and again"]).await;
    kinds(&bob).await;
    // What is to be told goes with the next call.
    bob.run(&["receive"]).await;
    let events = alice.run(&["receive"]).await;
    let receipts: Vec<_> = events
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["type"] == "receipt")
        .map(|event| event["read"].as_bool().unwrap())
        .collect();
    assert_eq!(receipts.last(), Some(&true), "{events}");
    let table = Command::new(program("mimimi"))
        .args(["messages", GROUP, "--home"])
        .arg(bob.home())
        .output()
        .unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains("The roses are out") && table.contains("(edited)"),
        "{table}"
    );
    assert!(table.contains(&first[..8]), "{table}");
}
