//! A delivery service that was restored from a backup has lost what it accepted since. Its clients have not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use client::{Client, Error, Event, StopReason, UsageError};
use end_to_end::{
    LogLevel, Service, Stack, StoreEngine, copy_over, device, group_with, messages, reads,
};

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
    let mut alice = device(&stack, 0, ALICE).await;
    let mut bob = device(&stack, 1, BOB).await;
    let mut carol = device(&stack, 2, CAROL).await;
    group_with(SMALLER, &mut alice, &mut [&mut bob, &mut carol]).await;
    alice.create_group(LATER).await.unwrap();
    alice.add_to_group(LATER, &[BOB, CAROL]).await.unwrap();
    for member in [&mut bob, &mut carol] {
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
    let read = messages(&mut carol).await;
    assert_eq!(read.len(), 2, "{read:?}");

    stack.stop().await;
    copy_over(backup.path(), &data);
    stack.restart().await;

    for _ in 0..3 {
        for member in [&mut alice, &mut carol] {
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
    reads(&mut bob, &[]).await;
    let log = std::fs::read_to_string(stack.layout().log(Service::Ds)).unwrap();
    assert!(log.contains("was it restored from a backup?"), "{log}");
}
