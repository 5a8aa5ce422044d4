//! A delivery service that was restored from a backup has lost what it accepted since. Its clients
//! have not.

use std::process::Command;

use client::{Client, Endpoints, Error, Event, StopReason, StoreChange, UsageError};
use end_to_end::{
    Load, LogLevel, Service, Stack, StoreEngine, compares, copy_over, device, eager, group_with,
    messages, program, reads,
};
use protocol::ids::Position;
use protocol::operation::Operation;
use protocol::problem::ProblemType;

const ALICE: &str = "alice.adebayo";
const BOB: &str = "bob.bergstrom";
const CAROL: &str = "carol.castillo";
/// Somebody is removed from it after the backup, so that its state key changes.
const SMALLER: &str = "smaller";
/// Only its epoch goes on.
const LATER: &str = "later";

/// Why a client follows a group no more, if it was told.
fn told(client: &Client, name: &str) -> Option<StopReason> {
    let events = client.events().unwrap();
    events.into_iter().find_map(|stored| match stored.event {
        Event::GroupLost { group, why } if group == name => Some(why),
        _ => None,
    })
}

#[tokio::test]
async fn after_a_rollback_the_members_are_told_and_nobody_comes_back_by_itself() {
    if Stack::engine() != StoreEngine::Rocksdb {
        return;
    }
    let mut stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    let carol = device(&stack, 2, CAROL).await;
    group_with(SMALLER, &alice, &[&bob, &carol]).await;
    alice.create_group(LATER).await.unwrap();
    alice.add_to_group(LATER, &[BOB, CAROL]).await.unwrap();
    for member in [&bob, &carol] {
        messages(member).await;
    }

    let (data, backup) = (
        stack.layout().data(Service::Ds),
        tempfile::tempdir().unwrap(),
    );
    stack.stop().await;
    copy_over(&data, backup.path());
    stack.restart().await;

    alice.remove_from_group(SMALLER, &[BOB]).await.unwrap();
    alice.set_role(LATER, BOB, "admin").await.unwrap();
    for group in [SMALLER, LATER] {
        alice
            .send_message(group, "between the backup and its return")
            .await
            .unwrap();
    }
    // So much that the service is told by where it is read on.
    for number in 0..Position::READ_GRANULE {
        alice
            .send_message(LATER, &number.to_string())
            .await
            .unwrap();
    }
    let read = messages(&carol).await;
    assert_eq!(read.len(), 2 + 32, "{read:?}");
    let operation = Operation::SendMessage;
    let message = Load::message(&alice.group_access(LATER).unwrap(), 1);
    let later = alice.sign_as_member(LATER, operation, &message).unwrap();

    stack.stop().await;
    copy_over(backup.path(), &data);
    stack.restart().await;

    // A state key that there is not yet opens nothing.
    let asked = alice.post(operation, &later, &[]).await;
    let is_refused = matches!(
        &asked,
        Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownGroup
    );
    assert!(is_refused, "{asked:?}");
    for _ in 0..3 {
        for member in [&alice, &carol] {
            for group in [SMALLER, LATER] {
                let sent = member.send_message(group, "not for Bob").await;
                assert!(
                    matches!(sent, Err(Error::Usage(UsageError::GroupLost(_)))),
                    "{group}: {sent:?}"
                );
                member.sync(0).await.unwrap();
                assert!(told(member, group).is_some(), "{group}");
            }
            assert_eq!(told(member, LATER), Some(StopReason::Behind));
        }
    }
    // To him it is as if nothing had happened.
    reads(&bob, &[]).await;
    let log = std::fs::read_to_string(stack.layout().log(Service::Ds)).unwrap();
    assert!(log.contains("was it restored from a backup?"), "{log}");
}

/// What a client was told of the service's store, once it was told as often as this, or has had a
/// second for it.
async fn told_of_store(client: &Client, times: usize) -> Vec<StoreChange> {
    for _ in 0..50 {
        compares(client).await;
        assert!(
            client.disagreement().await.unwrap().is_none(),
            "{:?}",
            client.disagreement().await
        );
        if store_changes(client).len() >= times {
            break;
        }
    }
    store_changes(client)
}

fn store_changes(client: &Client) -> Vec<StoreChange> {
    let events = client.events().unwrap().into_iter();
    events
        .filter_map(|stored| match stored.event {
            Event::ServiceStoreChanged { change } => Some(change),
            _ => None,
        })
        .collect()
}

fn say_restored(stack: &Stack) -> String {
    let output = Command::new(program("ds"))
        .args(["restored", "--config"])
        .arg(stack.layout().config(Service::Ds))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn clients_are_told_once_that_the_service_was_restored_from_a_backup_or_rolled_back() {
    if Stack::engine() != StoreEngine::Rocksdb {
        return;
    }
    let mut stack = Stack::start(LogLevel::Info).await;
    let endpoints = Endpoints::from_json(stack.description().to_string().as_bytes()).unwrap();
    let token = std::fs::read_to_string(stack.account_token(0)).unwrap();
    let made = Client::init(&stack.home(ALICE), &endpoints, &token, eager()).await;
    let alice = made.unwrap();
    // Each start counts something else.
    stack.stop().await;
    let (data, backup) = (
        stack.layout().data(Service::Ds),
        tempfile::tempdir().unwrap(),
    );
    copy_over(&data, backup.path());
    stack.restart().await;
    assert_eq!(told_of_store(&alice, 1).await, []);

    let mut expected = Vec::new();
    for (is_said, change) in [
        (true, StoreChange::Restored),
        // The same backup again.
        (true, StoreChange::Restored),
        (false, StoreChange::RolledBack),
        (true, StoreChange::Restored),
    ] {
        stack.stop().await;
        copy_over(backup.path(), &data);
        if is_said {
            let said = say_restored(&stack);
            assert!(said.contains("of generation"), "{said}");
        }
        stack.restart().await;
        expected.push(change);
        let times = expected.len();
        assert_eq!(told_of_store(&alice, times).await, expected);
        assert_eq!(told_of_store(&alice, times + 1).await, expected, "once");
    }
}
