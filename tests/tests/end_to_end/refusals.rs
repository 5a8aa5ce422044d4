//! What a service can bring about by refusals alone, which cost it nothing: nothing that a client
//! does by itself.

use client::{Client, Error, Event, StopReason, UsageError};
use end_to_end::{Liar, LogLevel, Stack, Told, device, events, group_with, talks};
use http::{HeaderMap, HeaderValue, StatusCode};
use protocol::operation::Operation;
use serde_json::json;

const GROUP: &str = "expedition";
const ALICE: &str = "alice.adebayo";
const BOB: &str = "bob.bergstrom";

struct Scene {
    _stack: Stack,
    liar: Liar,
    alice: Client,
    bob: Client,
}

async fn scene() -> Scene {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    group_with(GROUP, &alice, &[&bob]).await;
    talks(GROUP, &[&alice, &bob]).await;
    Scene {
        _stack: stack,
        liar,
        alice,
        bob,
    }
}

fn refusal(kind: &str) -> Told {
    let mut headers = HeaderMap::new();
    let media = HeaderValue::from_static("application/problem+json");
    headers.insert("content-type", media);
    let problem = json!({ "type": format!("urn:mimi-ds:problem:{kind}"), "epoch": 50 });
    Told {
        status: StatusCode::UNAUTHORIZED,
        headers,
        body: problem.to_string().into_bytes(),
    }
}

/// Has the service refuse these operations with these problems. What was asked for is done all the
/// same.
fn refuse(liar: &Liar, refusals: &'static [(Operation, &'static str)]) {
    liar.lies(move |asked, told| {
        let Some((asked_for, _)) = asked.request() else {
            return;
        };
        let refused = refusals
            .iter()
            .find(|(operation, _)| *operation == asked_for);
        if let Some((_, kind)) = refused {
            *told = refusal(kind);
        }
    });
}

#[tokio::test]
async fn whoever_is_told_that_commits_are_missing_goes_nowhere_by_itself() {
    let mut scene = scene().await;
    let Scene {
        liar, alice, bob, ..
    } = &mut scene;
    let before = liar.joins();
    // What is asked for is not done: what is done stands in the journal, whatever is said.
    liar.instead(Operation::SendMessage, refusal("wrong-epoch"));
    let sent = bob.send_message(GROUP, "hello").await;
    assert!(
        matches!(sent, Err(Error::Usage(UsageError::GroupLost(_)))),
        "{sent:?}"
    );
    let lost = Event::GroupLost {
        group: GROUP.into(),
        why: StopReason::Missing,
    };
    assert!(events(bob).await.contains(&lost));
    for _ in 0..3 {
        bob.sync(0).await.unwrap();
    }
    assert_eq!(liar.joins(), before, "into whatever it is shown");

    // That the own leaf is not there is its word too, and ends nothing for good.
    refuse(liar, &[(Operation::OwnLeaf, "not-allowed")]);
    let back = bob.rejoin_group(GROUP).await;
    assert!(
        matches!(back, Err(Error::Usage(UsageError::NotAMember(_)))),
        "{back:?}"
    );
    assert_eq!(bob.stop_reason(GROUP).unwrap(), Some(StopReason::Missing));
    liar.repent();
    bob.rejoin_group(GROUP).await.unwrap();
    events(alice).await;
    talks(GROUP, &[alice, bob]).await;
}

#[tokio::test]
async fn that_another_copy_is_in_use_is_said_on_a_commit_of_that_copy_only() {
    let mut scene = scene().await;
    let Scene {
        liar, alice, bob, ..
    } = &mut scene;
    refuse(
        liar,
        &[
            (Operation::SendMessage, "wrong-epoch"),
            (Operation::OwnLeaf, "not-allowed"),
        ],
    );
    let _ = bob.send_message(GROUP, "hello").await;
    assert_eq!(bob.stop_reason(GROUP).unwrap(), Some(StopReason::LeafGone));
    liar.repent();
    bob.rejoin_group(GROUP).await.unwrap();
    bob.sync(0).await.unwrap();
    alice.sync(0).await.unwrap();

    // A commit of his own that is said to be refused, and is delivered, is found.
    refuse(liar, &[(Operation::UpdateClient, "not-allowed")]);
    bob.update_own_leaf(GROUP).await.unwrap();
    liar.repent();
    bob.sync(0).await.unwrap();
    assert_eq!(bob.stop_reason(GROUP).unwrap(), None);
    assert!(bob.evidence(GROUP).unwrap().is_empty());
}

#[tokio::test]
async fn nothing_that_is_free_is_paid_for_whatever_is_refused() {
    let mut scene = scene().await;
    let Scene {
        liar, alice, bob, ..
    } = &mut scene;
    let held = bob.tokens().await.unwrap();
    for kind in ["token-required", "token-rejected"] {
        let free: &[(Operation, &str)] = match kind {
            "token-required" => &[
                (Operation::SendMessage, "token-required"),
                (Operation::UpdateClient, "token-required"),
                (Operation::InspectGroup, "token-required"),
                (Operation::ReadJournal, "token-required"),
            ],
            _ => &[
                (Operation::SendMessage, "token-rejected"),
                (Operation::UpdateClient, "token-rejected"),
                (Operation::InspectGroup, "token-rejected"),
                (Operation::ReadJournal, "token-rejected"),
            ],
        };
        let _ = liar.asked();
        refuse(liar, free);
        for _ in 0..3 {
            let sent = bob.send_message(GROUP, "hello").await;
            assert!(matches!(sent, Err(Error::Refused(_))), "{sent:?}");
            let _ = bob.update_own_leaf(GROUP).await;
            let _ = bob.verify_group(GROUP).await;
            let _ = bob.sync(0).await;
        }
        let paid = liar
            .asked()
            .iter()
            .filter(|asked| !asked.tokens.is_empty())
            .count();
        assert_eq!(paid, 0, "{kind}");
    }
    assert_eq!(bob.tokens().await.unwrap(), held);
    liar.repent();
    befriend_again(alice, bob).await;
}

/// That they still can do what costs something.
async fn befriend_again(alice: &Client, bob: &Client) {
    bob.sync(0).await.unwrap();
    alice.create_group("another").await.unwrap();
    alice.add_to_group("another", &[BOB]).await.unwrap();
    bob.sync(0).await.unwrap();
    talks("another", &[alice, bob]).await;
}

#[tokio::test]
async fn all_members_of_an_epoch_are_shown_the_same_authenticator() {
    let mut scene = scene().await;
    let Scene { alice, bob, .. } = &mut scene;
    alice.sync(0).await.unwrap();
    bob.sync(0).await.unwrap();
    let before = alice.epoch_authenticator(GROUP).unwrap();
    assert_eq!(before, bob.epoch_authenticator(GROUP).unwrap());
    alice.update_own_leaf(GROUP).await.unwrap();
    let after = alice.epoch_authenticator(GROUP).unwrap();
    assert_ne!(before, after);
    assert_ne!(after, bob.epoch_authenticator(GROUP).unwrap());
    bob.sync(0).await.unwrap();
    assert_eq!(after, bob.epoch_authenticator(GROUP).unwrap());
}
