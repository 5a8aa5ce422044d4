//! A home directory that is put back from a copy, or that runs twice.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use client::{Client, Error, Event, StopReason, UsageError};
use end_to_end::{LogLevel, Stack, database, device, events, group_with, patient, reads};

const FILES: [&str; 2] = ["client.sqlite", "instance"];

/// Copies the files of a client that does not run.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in FILES {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    for name in ["client.sqlite-wal", "client.sqlite-shm"] {
        let _ = fs::remove_file(to.join(name));
    }
}

/// Makes a home that was put back look as one that was not: as a snapshot of the whole disk would.
fn disguise(home: &Path) {
    let file = fs::metadata(home.join("instance")).unwrap();
    let inode = format!("{} {}.{:09}", file.ino(), file.ctime(), file.ctime_nsec());
    let db = database(home);
    let changed = db
        .execute("UPDATE home_marker SET inode = ?", [inode])
        .unwrap();
    assert_eq!(changed, 1);
}

struct Scene {
    stack: Stack,
    alice: Client,
    bob: Client,
}

/// Alice and Bob in a group, where she has said something.
async fn scene() -> Scene {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    group_with("garden", &alice, &[&bob]).await;
    alice.send_message("garden", "one").await.unwrap();
    reads(&bob, &[("alice", "one")]).await;
    Scene { stack, alice, bob }
}

#[tokio::test]
async fn a_home_that_was_put_back_renews_its_keys_before_it_sends() {
    let Scene { stack, alice, bob } = scene().await;
    let (home, kept) = (stack.home("alice"), stack.home("kept"));
    drop(alice);
    copy(&home, &kept);
    let alice = Client::open(&home, patient()).await.unwrap();
    alice.send_message("garden", "two").await.unwrap();
    reads(&bob, &[("alice", "two")]).await;
    drop(alice);
    copy(&kept, &home);
    let alice = Client::open(&home, patient()).await.unwrap();
    alice.send_message("garden", "three").await.unwrap();
    assert!(events(&alice).await.contains(&Event::HomeCopied));
    reads(&bob, &[("alice", "three")]).await;
    bob.send_message("garden", "four").await.unwrap();
    reads(&alice, &[("bob", "four")]).await;
    // Told once.
    drop(alice);
    let alice = Client::open(&home, patient()).await.unwrap();
    assert_eq!(events(&alice).await, []);
}

#[tokio::test]
async fn of_two_copies_of_a_home_one_goes_on_and_the_other_stops_and_says_why() {
    for copy_has_read_its_commit in [true, false] {
        let Scene { stack, alice, bob } = scene().await;
        let (home, other) = (stack.home("alice"), stack.home("other"));
        drop(alice);
        copy(&home, &other);
        let alice = Client::open(&home, patient()).await.unwrap();
        let second = Client::open(&other, patient()).await.unwrap();
        second
            .send_message("garden", "from the copy")
            .await
            .unwrap();
        if copy_has_read_its_commit {
            second.sync(0).await.unwrap();
        }
        reads(&bob, &[("alice", "from the copy")]).await;
        let sent = alice.send_message("garden", "from the original").await;
        assert!(
            matches!(sent, Err(Error::Usage(UsageError::GroupLost(_)))),
            "{sent:?}"
        );
        let told = events(&alice).await;
        // It stands in the journal, whoever has read it.
        let why = StopReason::OtherCopy;
        let group = "garden".to_owned();
        assert!(told.contains(&Event::GroupLost { group, why }), "{told:?}");
        assert_eq!(events(&bob).await, []);
        second.send_message("garden", "still here").await.unwrap();
        reads(&bob, &[("alice", "still here")]).await;
    }
}

#[tokio::test]
async fn a_home_that_was_put_back_unnoticed_finds_in_the_journal_what_it_has_said_and_is_heard() {
    let Scene { stack, alice, bob } = scene().await;
    let (home, kept) = (stack.home("alice"), stack.home("kept"));
    drop(alice);
    copy(&home, &kept);
    let alice = Client::open(&home, patient()).await.unwrap();
    for text in ["two", "three"] {
        alice.send_message("garden", text).await.unwrap();
    }
    reads(&bob, &[("alice", "two"), ("alice", "three")]).await;
    drop(alice);
    copy(&kept, &home);
    disguise(&home);
    let alice = Client::open(&home, patient()).await.unwrap();
    // Under the keys of before nobody could read it.
    alice.send_message("garden", "four").await.unwrap();
    alice.send_message("garden", "five").await.unwrap();
    reads(&bob, &[("alice", "four"), ("alice", "five")]).await;
    bob.send_message("garden", "six").await.unwrap();
    reads(&alice, &[("bob", "six")]).await;
}

#[tokio::test]
async fn a_message_that_does_not_decrypt_is_told_with_its_sender_and_those_after_it_are_read() {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    group_with("garden", &alice, &[&bob]).await;
    alice.send_message("garden", "one").await.unwrap();
    reads(&bob, &[("alice", "one")]).await;
    alice.sync(0).await.unwrap();
    let segment = bob.group_access("garden").unwrap().segment;
    let end = liar.end_read_last(segment);
    let (home, kept) = (stack.home("alice"), stack.home("kept"));
    drop(alice);
    copy(&home, &kept);
    let alice = Client::open(&home, patient()).await.unwrap();
    for text in ["two", "three"] {
        alice.send_message("garden", text).await.unwrap();
    }
    reads(&bob, &[("alice", "two"), ("alice", "three")]).await;
    drop(alice);
    copy(&kept, &home);
    disguise(&home);
    // Nor does the journal say what was said: she uses her keys a second time.
    liar.withhold(segment, end);
    let alice = Client::open(&home, patient()).await.unwrap();
    alice.send_message("garden", "lost").await.unwrap();
    alice.send_message("garden", "lost too").await.unwrap();
    liar.repent();
    let unreadable = Event::MessageUnreadable {
        group: "garden".into(),
        sender: "alice".into(),
        count: 2,
    };
    assert_eq!(events(&bob).await, [unreadable]);
    alice.send_message("garden", "four").await.unwrap();
    reads(&bob, &[("alice", "four")]).await;
}
