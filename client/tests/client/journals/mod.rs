//! Clients against the service's decisions, in one process: groups, connections, rotations, joins,
//! returns.

mod connections;
mod devices;
mod evidence;
mod lost;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crypto::journal::head_after;
use mimimi_client::{
    Client, Clock as _, Error, Event, Options, StopReason, StoreChange, StoredEvent,
};
use protocol::Wire as _;
use protocol::group::{EntryAccepted, JoinAccepted};
use protocol::ids::{ChainHead, Digest, Position, RotationEpoch, SegmentId};
use protocol::inbox::INBOX_CAPACITY;
use protocol::journal::{Entry, Place, ReadJournalResponse};
use protocol::operation::Operation;
use protocol::problem::ProblemType;

use crate::support::{
    Homes, befriend, database, link, lose_state_of_team, pass, refusal, settle, stale, team, texts,
};

fn epoch(client: &Client, group: &str) -> u64 {
    let groups = client.groups().unwrap();
    groups.iter().find(|it| it.name == group).unwrap().epoch
}

#[tokio::test]
async fn a_group_of_one_is_created_and_its_own_words_are_read_in_the_journal() {
    let homes = Homes::new(1);
    let alice = homes.user("alice").await;
    alice.create_group("diary").await.unwrap();
    alice.send_message("diary", "one").await.unwrap();
    alice.sync(0).await.unwrap();
    alice.update_own_leaf("diary").await.unwrap();
    alice.send_message("diary", "two").await.unwrap();
    alice.sync(0).await.unwrap();
    assert_eq!(epoch(&alice, "diary"), 1);
    assert_eq!(alice.verify_group("diary").await.unwrap(), (1, 1));
    assert!(alice.evidence("diary").unwrap().is_empty());
    assert!(alice.stop_reason("diary").unwrap().is_none());
}

#[tokio::test]
async fn a_removal_begins_a_segment_that_the_removed_one_does_not_find() {
    let homes = Homes::new(3);
    let alice = homes.user("alice").await;
    let (bob, carol) = (homes.user("bob").await, homes.user("carol").await);
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob", "carol"]).await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    alice.remove_from_group("team", &["bob"]).await.unwrap();
    alice.send_message("team", "without bob").await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    assert_eq!(texts(&carol, "team"), ["without bob"]);
    assert!(texts(&bob, "team").is_empty());
    let was_told = |client: &Client| {
        let mut events = client.events().unwrap().into_iter();
        events.any(|stored| matches!(stored.event, Event::Removed { .. }))
    };
    assert!(was_told(&bob));
    assert!(bob.send_message("team", "still here?").await.is_err());
    // Who is added after the rotation sees who everybody is.
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    let mut names: Vec<String> = bob
        .members("team")
        .unwrap()
        .into_iter()
        .map(|member| member.name)
        .collect();
    names.sort();
    assert_eq!(names, ["alice", "bob", "carol"]);
}

#[tokio::test]
async fn a_code_lets_somebody_in_who_says_nothing_before_somebody_was_heard() {
    let homes = Homes::new(6);
    let (alice, dave) = (homes.user("alice").await, homes.user("dave").await);
    let erin = homes.user("erin").await;
    befriend(&dave, &erin).await;
    alice.create_group("open").await.unwrap();
    let code = alice.invite("open", 7).await.unwrap();
    let name = dave.join_by_code(&code).await.unwrap();
    // Neither a word nor the group's keys.
    for early in [
        dave.send_message(&name, "too early").await.map(drop),
        dave.add_to_group(&name, &["erin"]).await,
    ] {
        assert!(matches!(
            early,
            Err(Error::Usage(mimimi_client::UsageError::NobodyHeard(_)))
        ));
    }
    settle(&[&alice, &dave]).await;
    dave.send_message(&name, "hello").await.unwrap();
    settle(&[&alice, &dave]).await;
    assert_eq!(texts(&alice, "open"), ["hello"]);
    alice.revoke_invitation(&code).await.unwrap();
    assert!(erin.join_by_code(&code).await.is_err());
}

#[tokio::test]
async fn who_leaves_goes_with_the_next_commit_of_another_one() {
    let homes = Homes::new(9);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    bob.leave_group("team").await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(alice.members("team").unwrap().len(), 1);
    assert!(bob.send_message("team", "still?").await.is_err());
    alice.send_message("team", "alone").await.unwrap();
}

#[tokio::test]
async fn who_is_banned_is_known_after_rotations_and_is_not_let_in_by_a_code() {
    let homes = Homes::new(10);
    let alice = homes.user("alice").await;
    let (bob, carol) = (homes.user("bob").await, homes.user("carol").await);
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob", "carol"]).await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    alice.ban("team", "bob").await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    assert_eq!(alice.banned("team").unwrap(), ["bob"]);
    alice.remove_from_group("team", &["carol"]).await.unwrap();
    settle(&[&alice]).await;
    alice.add_to_group("team", &["carol"]).await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    // Who came after the rotation knows it too.
    assert_eq!(carol.banned("team").unwrap(), ["bob"]);
    let code = alice.invite("team", 7).await.unwrap();
    let came = bob.join_by_code(&code).await;
    assert!(matches!(
        came,
        Err(Error::Usage(mimimi_client::UsageError::BannedYourself(_)))
    ));
}

#[tokio::test]
async fn a_group_is_put_in_the_place_of_another_one_in_another_ciphersuite() {
    let homes = Homes::new(12);
    let both = || Options {
        ciphersuites: vec![0x4f, 1],
        ..homes.options()
    };
    let alice = homes.client_with("alice", both()).await;
    let bob = homes.client_with("bob", both()).await;
    alice.register_handle("alice").await.unwrap();
    bob.register_handle("bob").await.unwrap();
    befriend(&alice, &bob).await;
    alice.create_group_with("team", 1).await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    alice.upgrade_group("team", 0x4f).await.unwrap();
    settle(&[&alice, &bob]).await;
    assert!(bob.group("team").unwrap().post_quantum);
    alice.send_message("team", "in the new one").await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(texts(&bob, "team"), ["in the new one"]);
}

#[tokio::test]
async fn a_leaf_is_renewed_in_time_and_the_segment_with_it_when_the_service_asks() {
    let homes = Homes::new(14);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    let before = alice.group_access("team").unwrap().segment;
    homes
        .service
        .clock
        .advance(Duration::from_secs(46 * 86_400));
    pass(&homes, 24, &[&alice]).await;
    assert!(epoch(&alice, "team") >= 2);
    assert_ne!(alice.group_access("team").unwrap().segment, before);
    settle(&[&alice, &bob]).await;
    bob.send_message("team", "with you").await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(texts(&alice, "team"), ["with you"]);
}

#[tokio::test]
async fn whoever_waits_hears_when_something_comes_and_gives_up_when_nothing_does() {
    let homes = Homes::new(17);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    let events = bob.events().unwrap();
    bob.acknowledge(&events).unwrap();
    assert!(bob.receive(300).await.unwrap().is_empty());
    bob.send_message("team", "in front").await.unwrap();
    let (heard, sent) = tokio::join!(bob.receive(20_000), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        alice.send_message("team", "now").await
    });
    sent.unwrap();
    assert!(matches!(
        heard.unwrap().as_slice(),
        [stored] if matches!(stored.event, Event::Message { .. })
    ));
}

#[tokio::test]
async fn a_member_whose_row_nobody_has_written_writes_it_itself() {
    let homes = Homes::new(20);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    let carol = homes.user("carol").await;
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob", "carol"]).await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    alice.remove_from_group("team", &["carol"]).await.unwrap();
    // Alice goes away before she has written any.
    drop(alice);
    settle(&[&bob]).await;
    let before = homes.service.count(Operation::PutRecoveryRows);
    pass(&homes, 48, &[&bob]).await;
    assert_eq!(homes.service.count(Operation::PutRecoveryRows), before + 1);
    pass(&homes, 48, &[&bob]).await;
    assert_eq!(homes.service.count(Operation::PutRecoveryRows), before + 1);
}

#[tokio::test]
async fn groups_of_every_ciphersuite_rotate_and_are_come_into_by_codes_after_that() {
    for suite in [2, 3, 0x4f] {
        let homes = Homes::new(21);
        let (alice, dave) = (homes.user("alice").await, homes.user("dave").await);
        let erin = homes.user("erin").await;
        alice.create_group_with("open", suite).await.unwrap();
        let code = alice.invite("open", 60).await.unwrap();
        dave.join_by_code(&code).await.unwrap();
        settle(&[&alice, &dave]).await;
        let before = alice.group_access("open").unwrap().segment;
        // The segment is old: the next commit rotates, and takes the code along.
        homes
            .service
            .clock
            .advance(Duration::from_secs(31 * 86_400));
        alice.update_own_leaf("open").await.unwrap();
        assert_ne!(alice.group_access("open").unwrap().segment, before);
        erin.join_by_code(&code).await.unwrap();
        settle(&[&alice, &dave, &erin]).await;
        erin.send_message("open", "in").await.unwrap();
        settle(&[&alice, &dave, &erin]).await;
        assert_eq!(texts(&alice, "open"), ["in"], "{suite}");
        assert_eq!(texts(&dave, "open"), ["in"], "{suite}");
    }
}

#[tokio::test]
async fn a_long_journal_is_read_page_by_page_and_in_order() {
    let homes = Homes::new(22);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    let said: Vec<String> = (0..120).map(|number| format!("number {number}")).collect();
    for text in &said {
        alice.send_message("team", text).await.unwrap();
    }
    let before = homes.service.count(Operation::ReadJournal);
    bob.sync(0).await.unwrap();
    assert!(homes.service.count(Operation::ReadJournal) > before + 2);
    assert_eq!(texts(&bob, "team"), said);
}

/// The rows of a query in the database of a home.
fn count(homes: &Homes, home: &str, query: &str) -> u32 {
    let db = rusqlite::Connection::open(homes.path(home).join("client.sqlite")).unwrap();
    db.query_row(query, (), |row| row.get(0)).unwrap()
}

/// Time goes on, and everybody catches up meanwhile.
async fn days(homes: &Homes, days: u64, clients: &[&Client]) {
    for _ in 0..days * 2 {
        homes.service.clock.advance(Duration::from_secs(13 * 3_600));
        settle(clients).await;
    }
}

#[tokio::test]
async fn a_group_of_sixty_four_rotates_and_whoever_was_lost_comes_back_by_a_row() {
    let homes = Homes::new(32);
    let alice = homes.user("alice").await;
    let mut others = Vec::new();
    let names: Vec<String> = (1..64).map(|number| format!("user{number}")).collect();
    for name in &names {
        let other = homes.user(name).await;
        alice.connect(name).await.unwrap();
        other.check_inbox().await.unwrap();
        let request = other.incoming_requests().unwrap().pop().unwrap();
        other.accept_request(&request.id).await.unwrap();
        others.push(other);
    }
    settle(&[&alice]).await;
    for other in &mut others {
        settle(&[other]).await;
    }
    settle(&[&alice]).await;
    alice.create_group("hall").await.unwrap();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    alice.add_to_group("hall", &names).await.unwrap();
    assert_eq!(epoch(&alice, "hall"), 1, "by one commit");
    settle(&[&alice]).await;
    for other in &mut others {
        other.sync(0).await.unwrap();
        assert_eq!(other.members("hall").unwrap().len(), 64);
    }
    let before = alice.group_access("hall").unwrap().segment;
    alice.remove_from_group("hall", &["user7"]).await.unwrap();
    assert_ne!(alice.group_access("hall").unwrap().segment, before);
    // Rows for all who are left.
    pass(&homes, 24, &[&alice]).await;
    let lost = 40;
    drop(others.remove(lost));
    let db = rusqlite::Connection::open(homes.path(names[lost]).join("client.sqlite")).unwrap();
    db.execute("DELETE FROM openmls_group_data", ()).unwrap();
    drop(db);
    let back = Client::open(&homes.path(names[lost]), homes.options())
        .await
        .unwrap();
    others.insert(lost, back);
    for (other, name) in others.iter_mut().zip(&names) {
        other.sync(0).await.unwrap();
        other.sync(0).await.unwrap();
        match *name {
            "user7" => assert!(other.send_message("hall", "I").await.is_err()),
            _ => assert_eq!(other.members("hall").unwrap().len(), 63, "{name}"),
        }
    }
    // Somebody but the one who let it in says that they are there.
    settle(&[&alice, &others[0]]).await;
    let back = &mut others[lost];
    alice.send_message("hall", "all here?").await.unwrap();
    back.sync(0).await.unwrap();
    back.send_message("hall", "all").await.unwrap();
    for (other, name) in others.iter_mut().zip(&names) {
        other.sync(0).await.unwrap();
        let heard: &[&str] = match *name {
            "user7" => &[],
            "user41" => &["all here?"],
            _ => &["all here?", "all"],
        };
        assert_eq!(texts(other, "hall"), heard, "{name}");
    }
}

#[tokio::test]
async fn what_was_to_be_done_in_a_group_that_is_gone_holds_nothing_up() {
    let homes = Homes::new(40);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    let db = database(&homes, "alice");
    let plan = "INSERT INTO acts (act, about, due_ms) SELECT 'own row', group_id, 0 FROM groups";
    assert_eq!(db.execute(plan, ()).unwrap(), 1);
    let plan = "INSERT INTO acts (act, about, due_ms) VALUES ('renew', zeroblob(16), 1)";
    db.execute(plan, ()).unwrap();
    alice.sync(0).await.unwrap();
    alice.disconnect("bob").await.unwrap();
    pass(&homes, 24, &[&alice]).await;
    let left: u32 = db
        .query_row("SELECT count(*) FROM acts", (), |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn rows_that_nobody_has_written_any_member_writes_for_all() {
    let homes = Homes::new(45);
    let [alice, bob, carol] = team(&homes).await;
    let dave = homes.user("dave").await;
    befriend(&alice, &dave).await;
    alice.add_to_group("team", &["dave"]).await.unwrap();
    settle(&[&alice, &bob, &carol, &dave]).await;
    alice.remove_from_group("team", &["dave"]).await.unwrap();
    drop(alice);
    settle(&[&bob, &carol]).await;
    let before = homes.service.count(Operation::PutRecoveryRows);
    pass(&homes, 48, &[&bob]).await;
    assert_eq!(homes.service.count(Operation::PutRecoveryRows), before + 1);
    pass(&homes, 48, &[&carol]).await;
    assert_eq!(homes.service.count(Operation::PutRecoveryRows), before + 1);
}
