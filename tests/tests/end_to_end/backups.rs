//! Backups that are restored more than once, or too late, on real processes.

use client::{BackupKey, Client, Error, Event, UsageError};
use end_to_end::{
    LogLevel, Stack, device, events, group_with, patient, reads, settle, some_minutes_later,
};

fn key() -> BackupKey {
    BackupKey::Passphrase("four words of it".to_owned().into())
}

async fn restore(stack: &Stack, backup: &[u8], home: &str) -> Result<Client, Error> {
    Client::restore(&stack.home(home), backup, &key(), patient()).await
}

#[tokio::test]
async fn the_same_backup_is_restored_a_second_and_a_third_time() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    group_with("garden", &alice, &[&bob]).await;
    let backup = alice.backup(&key()).await.unwrap();
    // Of the sole admin, whose place nobody else could give back.
    let mut before = alice;
    for home in ["second", "third", "fourth"] {
        let alice = restore(&stack, &backup, home).await.unwrap();
        settle(&[&bob, &alice]).await;
        events(&alice).await;
        let text = format!("from the {home}");
        alice.send_message("garden", &text).await.unwrap();
        reads(&bob, &[("alice", &text)]).await;
        bob.send_message("garden", "welcome back").await.unwrap();
        reads(&alice, &[("bob", "welcome back")]).await;
        // The one before has another queue, and reads there what became of it.
        let told = events(&before).await;
        let replaced = Event::Replaced {
            group: "garden".into(),
        };
        assert!(told.contains(&replaced), "{home}: {told:?}");
        let sent = before.send_message("garden", "still here?").await;
        assert!(
            matches!(sent, Err(Error::Usage(UsageError::NotAMember(_)))),
            "{sent:?}"
        );
        some_minutes_later(&stack.home(home), &alice).await;
        before = alice;
    }
    before.set_muted("garden", "bob", true).await.unwrap();
}

#[tokio::test]
async fn a_backup_that_is_too_old_says_what_is_gone_and_a_member_gives_it_back() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    let carol = device(&stack, 2, "carol").await;
    group_with("garden", &alice, &[&bob, &carol]).await;
    alice.set_role("garden", "bob", "admin").await.unwrap();
    bob.sync(0).await.unwrap();
    let backup = bob.backup(&key()).await.unwrap();
    bob.update_own_leaf("garden").await.unwrap();
    drop(bob);
    let restored = restore(&stack, &backup, "restored").await;
    let Err(Error::Usage(UsageError::PartlyRestored(lost))) = &restored else {
        panic!("{restored:?}");
    };
    assert_eq!(lost.len(), 1);
    assert!(lost[0].starts_with("garden ("), "{lost:?}");
    let bob = Client::open(&stack.home("restored"), patient())
        .await
        .unwrap();
    let sent = bob.send_message("garden", "hello?").await;
    assert!(
        matches!(sent, Err(Error::Usage(UsageError::GroupLost(_)))),
        "{sent:?}"
    );
    // By who may remove, and as what he was.
    let refused = carol.replace_in_group("garden", "bob").await;
    assert!(
        matches!(
            refused,
            Err(Error::Usage(
                UsageError::NotPermitted | UsageError::UnknownContact(_)
            ))
        ),
        "{refused:?}"
    );
    alice.replace_in_group("garden", "bob").await.unwrap();
    bob.sync(0).await.unwrap();
    bob.send_message("garden", "here again").await.unwrap();
    alice.sync(0).await.unwrap();
    let members = alice.members("garden").unwrap();
    assert_eq!(members.len(), 3);
    let roles: Vec<_> = members
        .iter()
        .map(|member| (member.name.as_str(), member.role.as_str()))
        .collect();
    assert!(roles.contains(&("bob", "admin")), "{roles:?}");
}
