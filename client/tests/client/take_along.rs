//! Histories: what was said, on another device of its user.

use std::time::Duration;

use mimimi_client::{
    BackupKey, Client, Draft, Error, Expiry, Gone, HistoryScope, ImportedHistory, UsageError,
    new_recovery_key,
};

use crate::messages::{history, is_on_disk, said, say};
use crate::support::{Homes, link, settle, team};

const SECRET: &str = "the meeting is behind the old mill";

fn all() -> HistoryScope {
    HistoryScope::default()
}

fn counts(imported: ImportedHistory) -> (u64, u64, u64) {
    let ImportedHistory {
        added,
        passed_over,
        of_unknown_groups,
        ..
    } = imported;
    (added, passed_over, of_unknown_groups)
}

#[tokio::test]
async fn a_new_device_gets_the_history_that_its_user_chose_in_the_order_of_the_journal() {
    let homes = Homes::new(901);
    let [alice, bob, carol] = team(&homes).await;
    let others = [&alice, &bob, &carol];
    let first = say(&alice, SECRET, &others).await;
    let second = say(&bob, "at noon", &others).await;
    say(&carol, Draft::reaction(second, "👍"), &others).await;
    say(&bob, Draft::edit(second, "at one"), &others).await;
    let deleted = say(&carol, "rubbish", &others).await;
    say(&carol, Draft::deletion(deleted), &others).await;
    let laptop = link(&homes, &alice, "laptop", &others).await;
    let everybody = [&alice, &bob, &carol, &laptop];
    say(&bob, "after", &everybody).await;
    assert_eq!(said(&laptop), ["after"]);

    let key = BackupKey::RecoveryKey(new_recovery_key().unwrap());
    let file = homes.path("history");
    assert_eq!(alice.export_history(&file, &key, all()).await.unwrap(), 4);
    let sealed = std::fs::read(&file).unwrap();
    let has = |part: &[u8]| sealed.windows(part.len()).any(|it| it == part);
    assert!(!has(SECRET.as_bytes()) && !has(&first.0[..8]));

    let imported = laptop.import_history(&file, &key).await.unwrap();
    assert_eq!(counts(imported), (3, 1, 0));
    assert_eq!(said(&laptop), [SECRET, "at one", "after"]);
    assert!(laptop.events().unwrap().is_empty(), "it is no news");
    // All of it is as on the device that it comes from.
    let (here, there) = (history(&laptop), history(&alice));
    for message in &here {
        let same = there
            .iter()
            .find(|it| it.message == message.message)
            .unwrap();
        assert_eq!(
            (&message.text, &message.sender_id),
            (&same.text, &same.sender_id)
        );
        assert_eq!((message.own, message.edited), (same.own, same.edited));
        assert_eq!(
            (message.at_ms, &message.reactions),
            (same.at_ms, &same.reactions)
        );
    }
    assert_eq!(here.iter().filter(|it| it.own).count(), 1);
    // Once more is nothing more, and what is deleted now goes there too.
    let again = laptop.import_history(&file, &key).await.unwrap();
    assert_eq!(counts(again), (0, 4, 0));
    say(&alice, Draft::deletion(first), &everybody).await;
    assert_eq!(history(&laptop)[2].gone, Some(Gone::Deleted));
    let again = laptop.import_history(&file, &key).await.unwrap();
    assert_eq!(counts(again), (0, 4, 0));
    assert_eq!(history(&laptop)[2].gone, Some(Gone::Deleted));
    laptop.close().await;
    assert!(!is_on_disk(&homes, "laptop", SECRET));
}

#[tokio::test]
async fn what_was_chosen_is_written_and_nothing_else() {
    let homes = Homes::new(902);
    let [alice, bob, carol] = team(&homes).await;
    let others = [&alice, &bob, &carol];
    say(&alice, "long ago", &others).await;
    homes
        .service
        .clock
        .advance(Duration::from_secs(10 * 86_400));
    settle(&others).await;
    say(&alice, "today", &others).await;
    alice.create_group("diary").await.unwrap();
    alice.send_message("diary", "dear diary").await.unwrap();
    alice.sync(0).await.unwrap();
    let key = BackupKey::RecoveryKey(new_recovery_key().unwrap());
    let written = async |name: &str, scope| {
        let file = homes.path(name);
        alice.export_history(&file, &key, scope).await.unwrap()
    };
    assert_eq!(written("all", all()).await, 3);
    let days = HistoryScope {
        days: Some(3),
        ..all()
    };
    assert_eq!(written("days", days).await, 2);
    let one = HistoryScope {
        groups: vec!["diary".into()],
        ..all()
    };
    assert_eq!(written("group", one).await, 1);
    let unknown = HistoryScope {
        groups: vec!["no such group".into()],
        ..all()
    };
    let file = homes.path("unknown");
    let error = alice
        .export_history(&file, &key, unknown)
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Usage(UsageError::UnknownGroup(_))),
        "{error}"
    );
    assert!(!file.exists());
    // None is written over.
    let error = alice.export_history(&homes.path("all"), &key, all()).await;
    assert!(matches!(error, Err(Error::Local(_))));
}

#[tokio::test]
async fn a_history_of_another_user_or_under_another_key_changes_nothing() {
    let homes = Homes::new(903);
    let [alice, bob, carol] = team(&homes).await;
    let others = [&alice, &bob, &carol];
    say(&alice, "hello", &others).await;
    let key = BackupKey::RecoveryKey(new_recovery_key().unwrap());
    let file = homes.path("history");
    bob.export_history(&file, &key, all()).await.unwrap();
    let before = history(&alice);
    let error = alice.import_history(&file, &key).await.unwrap_err();
    assert!(
        matches!(error, Error::Usage(UsageError::HistoryOfAnother)),
        "{error}"
    );
    let other = BackupKey::RecoveryKey(new_recovery_key().unwrap());
    let error = bob.import_history(&file, &other).await.unwrap_err();
    assert!(
        matches!(error, Error::Usage(UsageError::WrongBackupKey)),
        "{error}"
    );
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.truncate(bytes.len() - 1);
    std::fs::write(&file, bytes).unwrap();
    let error = bob.import_history(&file, &key).await.unwrap_err();
    assert!(
        matches!(error, Error::Usage(UsageError::NotAHistory)),
        "{error}"
    );
    assert_eq!(history(&alice), before);
}

#[tokio::test]
async fn what_has_expired_meanwhile_does_not_come_back_and_groups_are_waited_for() {
    let homes = Homes::new(904);
    let [alice, bob, carol] = team(&homes).await;
    let others = [&alice, &bob, &carol];
    let fleeting = Draft::text(SECRET).expires(Expiry::AfterReading(3_600));
    say(&alice, fleeting, &others).await;
    say(&alice, "lasting", &others).await;
    let key = BackupKey::RecoveryKey(new_recovery_key().unwrap());
    let file = homes.path("history");
    assert_eq!(alice.export_history(&file, &key, all()).await.unwrap(), 2);
    let early = new_device(&homes, &alice, "early").await;
    let imported = early.import_history(&file, &key).await.unwrap();
    let (added, _, of_unknown_groups) = counts(imported);
    assert_eq!((added, of_unknown_groups), (0, 2), "it is in no group yet");

    homes.service.clock.advance(Duration::from_secs(2 * 3_600));
    for _ in 0..4 {
        settle(&[&alice, &early, &bob, &carol]).await;
    }
    let imported = early.import_history(&file, &key).await.unwrap();
    assert_eq!(counts(imported), (1, 1, 0));
    assert_eq!(said(&early), ["lasting"]);
    early.close().await;
    assert!(!is_on_disk(&homes, "early", SECRET));
}

/// A linked device that has not heard of any group yet.
async fn new_device(homes: &Homes, user: &Client, name: &str) -> Client {
    let device = homes.client(name).await;
    let code = device.link_code(name).await.unwrap();
    let number = user.approve_link(&code.code, &code.number).await.unwrap();
    device.complete_link(&number, 0).await.unwrap();
    device
}
