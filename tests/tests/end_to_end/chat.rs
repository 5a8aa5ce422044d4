//! `mimimi chat` on a terminal.

use std::process::{Command, Stdio};
use std::time::Duration;

use client::Event;
use end_to_end::{LogLevel, Screen, Stack, device, events, group_with, program};

const LAB: &str = "lab";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_people_chat_and_one_of_them_on_a_terminal() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    group_with(LAB, &alice, &[&bob]).await;
    events(&bob).await;
    alice.close().await;

    let mut chat = Command::new(program("mimimi"));
    chat.arg("--home")
        .arg(stack.home("alice"))
        .args(["chat", LAB]);
    let mut screen = Screen::start(&mut chat);
    screen.shows("lab").await;

    // What is said is shown, and obeyed by no terminal.
    bob.send_message(LAB, "hello \u{1b}[2J\nalice: I owe bob")
        .await
        .unwrap();
    screen.shows("bob: hello <U+001B>[2J").await;
    screen.shows("  | alice: I owe bob").await;

    screen.press("good morning\r");
    let morning = said(&bob, "good morning").await;
    screen.shows("alice: good morning").await;

    // An answer to what bob said, two messages up.
    screen.press("\u{1b}[A\u{1b}[A");
    screen.press("r");
    screen.shows("reply to bob").await;
    screen.press("no\r");
    let answer = said(&bob, "no").await;
    assert!(matches!(answer, Event::Message { details, .. } if details.reply_to.is_some()));

    // Whoever reacts is seen.
    let Event::Message { message, .. } = morning else {
        panic!("{morning:?}");
    };
    let thumb = client::Draft::reaction(message, "👍");
    bob.send_message(LAB, thumb).await.unwrap();
    screen.shows("👍").await;

    // Commands are done beside the conversation, and what they say is news.
    screen.press("/group members lab\r");
    screen.press("\t");
    screen.shows("bob").await;
    screen.shows("admin").await;

    screen.press("\u{3}");
    assert!(screen.ended().await.success());
    assert!(screen.is_as_before());
}

/// What somebody says to bob.
async fn said(bob: &client::Client, wanted: &str) -> Event {
    let heard = async {
        loop {
            for event in events(bob).await {
                if matches!(&event, Event::Message { text, .. } if text == wanted) {
                    return event;
                }
            }
        }
    };
    let heard = tokio::time::timeout(Duration::from_secs(60), heard).await;
    heard.unwrap_or_else(|_| panic!("nobody says {wanted:?}"))
}

#[tokio::test]
async fn without_a_terminal_nothing_is_begun() {
    let stack = Stack::start(LogLevel::Error).await;
    let alice = device(&stack, 0, "alice").await;
    alice.close().await;
    let output = Command::new(program("mimimi"))
        .arg("--home")
        .arg(stack.home("alice"))
        .arg("chat")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no terminal"), "{said}");
}

#[test]
fn manual_and_completions_know_every_command() {
    let help = of(&["--help"]);
    let listed = help.split("Commands:\n").nth(1).unwrap();
    let listed = listed.split("\n\n").next().unwrap().lines();
    let commands: Vec<&str> = listed
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap())
        .filter(|command| *command != "help")
        .collect();
    assert!(
        commands.contains(&"chat") && commands.len() > 15,
        "{commands:?}"
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = of(&["completions", shell]);
        for command in &commands {
            assert!(script.contains(command), "{shell} {command}");
        }
    }
    let pages = tempfile::tempdir().unwrap();
    of(&["man", "--dir", pages.path().to_str().unwrap()]);
    for command in &commands {
        let page = pages.path().join(format!("mimimi-{command}.1"));
        assert!(page.is_file(), "{command}");
    }
    assert!(of(&["man"]).contains(".TH mimimi"));
}

fn of(words: &[&str]) -> String {
    let output = Command::new(program("mimimi"))
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
