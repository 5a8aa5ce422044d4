//! A contact's pool of KeyPackages: what was used of it is filled up.

use end_to_end::{LogLevel, Stack, befriend, device, events, group_with, talks};

const GROUP: &str = "expedition";

/// Who is removed before they look joins nothing, or not each time. A KeyPackage is used up all the
/// same.
#[tokio::test]
async fn who_was_added_and_removed_again_while_away_can_be_added_still() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    let carol = device(&stack, 2, "carol").await;
    group_with(GROUP, &alice, &[&carol]).await;
    befriend(&alice, &bob).await;
    for _ in 0..4 {
        alice.add_to_group(GROUP, &["bob"]).await.unwrap();
        alice.remove_from_group(GROUP, &["bob"]).await.unwrap();
    }
    events(&bob).await;
    for _ in 0..4 {
        alice.add_to_group(GROUP, &["bob"]).await.unwrap();
        alice.remove_from_group(GROUP, &["bob"]).await.unwrap();
    }
    events(&bob).await;
    alice.add_to_group(GROUP, &["bob"]).await.unwrap();
    talks(GROUP, &[&alice, &bob, &carol]).await;
}
