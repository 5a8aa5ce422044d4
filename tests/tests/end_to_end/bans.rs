//! What was decided about a person, on real processes.

use client::{Client, CommitOutcome, Error, Event, UsageError};
use end_to_end::{LogLevel, Stack, befriend, device, events, group_with};

fn names(client: &Client) -> Vec<String> {
    let members = client.members("garden").unwrap();
    members.into_iter().map(|member| member.name).collect()
}

#[tokio::test]
async fn a_banned_person_does_not_come_back_under_another_pseudonym() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    let carol = device(&stack, 2, "carol").await;
    let dave = device(&stack, 3, "dave").await;
    group_with("garden", &alice, &[&bob, &carol]).await;
    befriend(&bob, &carol).await;
    befriend(&bob, &dave).await;
    alice.ban("garden", "carol").await.unwrap();
    let code = bob.invite("garden", 30).await.unwrap();
    carol.sync(0).await.unwrap();
    // Dave has seen no ban: he has it from the group.
    bob.add_to_group("garden", &["dave"]).await.unwrap();
    dave.sync(0).await.unwrap();
    assert_eq!(dave.banned("garden").unwrap(), ["carol"]);
    // Who asks is told.
    let added = bob.add_to_group("garden", &["carol"]).await;
    assert!(
        matches!(&added, Err(Error::Usage(UsageError::Banned(name))) if name == "carol"),
        "{added:?}"
    );
    let joined = carol.join_by_code(&code).await;
    assert!(
        matches!(&joined, Err(Error::Usage(UsageError::BannedYourself(_)))),
        "{joined:?}"
    );
    // Who does not ask gets her in, until an admin is there.
    bob.stage_add("garden", &["carol"]).await.unwrap();
    assert_eq!(bob.submit("garden").await.unwrap(), CommitOutcome::Accepted);
    bob.sync(0).await.unwrap();
    carol.sync(0).await.unwrap();
    assert!(names(&carol).contains(&"carol".to_owned()));
    let came_in = Event::BannedCameIn {
        group: "garden".into(),
        name: "carol".into(),
        by: "bob".into(),
    };
    assert!(events(&dave).await.contains(&came_in));
    assert!(events(&alice).await.contains(&came_in));
    assert_eq!(names(&alice), ["alice", "bob", "dave"]);
    alice.send_message("garden", "among us").await.unwrap();
    let told = events(&carol).await;
    let removed = Event::Removed {
        group: "garden".into(),
    };
    assert!(told.contains(&removed), "{told:?}");
    assert!(
        !told
            .iter()
            .any(|event| matches!(event, Event::Message { .. }))
    );
    // Lifted, she is welcome.
    let not_banned = alice.unban("garden", "dave").await;
    assert!(matches!(
        not_banned,
        Err(Error::Usage(UsageError::NotBanned(_)))
    ));
    alice.unban("garden", "carol").await.unwrap();
    bob.add_to_group("garden", &["carol"]).await.unwrap();
    carol.sync(0).await.unwrap();
    alice.sync(0).await.unwrap();
    alice.send_message("garden", "welcome").await.unwrap();
    events(&carol).await;
    assert_eq!(names(&carol).len(), 4);
}

#[tokio::test]
async fn who_is_muted_stays_so_after_coming_in_again() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    group_with("garden", &alice, &[&bob]).await;
    alice.set_muted("garden", "bob", true).await.unwrap();
    bob.leave_group("garden").await.unwrap();
    alice.sync(0).await.unwrap();
    bob.sync(0).await.unwrap();
    assert_eq!(names(&alice), ["alice"]);
    alice.add_to_group("garden", &["bob"]).await.unwrap();
    alice.sync(0).await.unwrap();
    let sent = bob.send_message("garden", "hello").await;
    assert!(
        matches!(sent, Err(Error::Usage(UsageError::NotPermitted))),
        "{sent:?}"
    );
    alice.set_muted("garden", "bob", false).await.unwrap();
    bob.send_message("garden", "hello again").await.unwrap();
    alice.sync(0).await.unwrap();
    reads_last(&alice, "hello again").await;
}

async fn reads_last(client: &Client, text: &str) {
    let told = events(client).await;
    let said = |event: &Event| matches!(event, Event::Message { text: said, .. } if said == text);
    assert!(told.iter().any(said), "{told:?}");
}

#[tokio::test]
async fn a_ban_holds_in_the_group_that_an_upgrade_puts_in_the_place_of_another() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    let carol = device(&stack, 2, "carol").await;
    group_with("garden", &alice, &[&bob, &carol]).await;
    alice.ban("garden", "carol").await.unwrap();
    alice.upgrade_group("garden", 2).await.unwrap();
    assert_eq!(alice.banned("garden").unwrap(), ["carol"]);
    bob.sync(0).await.unwrap();
    // He has seen the ban in the former group only; what holds is what the new one says.
    assert_eq!(bob.banned("garden").unwrap(), ["carol"]);
    let added = alice.add_to_group("garden", &["carol"]).await;
    assert!(
        matches!(&added, Err(Error::Usage(UsageError::Banned(name))) if name == "carol"),
        "{added:?}"
    );
}
