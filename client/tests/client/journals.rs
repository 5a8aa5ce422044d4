//! Clients against the service's decisions, in one process: groups, connections, rotations, joins,
//! returns.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crypto::journal::head_after;
use mimimi_client::{Client, Clock as _, Error, Event, StopReason, StoreChange, StoredEvent};
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
async fn contacts_come_about_through_inboxes_and_are_added_through_pointers() {
    let homes = Homes::new(2);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    assert_eq!(alice.contacts().unwrap().len(), 1);
    assert_eq!(bob.contacts().unwrap().len(), 1);
    assert_eq!(
        alice.safety_number("bob").unwrap(),
        bob.safety_number("alice").unwrap()
    );
    alice.create_group("climbing").await.unwrap();
    alice.add_to_group("climbing", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(bob.members("climbing").unwrap().len(), 2);
    alice.send_message("climbing", "Saturday?").await.unwrap();
    bob.sync(0).await.unwrap();
    bob.send_message("climbing", "yes").await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(texts(&bob, "climbing"), ["Saturday?"]);
    assert_eq!(texts(&alice, "climbing"), ["yes"]);
    assert_eq!(bob.verify_group("climbing").await.unwrap().0, 2);
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
async fn an_answer_that_is_lost_is_found_in_the_journal_and_nothing_is_said_twice() {
    let homes = Homes::new(4);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    homes.service.lose_answer(Operation::AddUsers);
    let lost = alice.add_to_group("team", &["bob"]).await;
    assert!(matches!(lost, Err(Error::Unreachable(_))));
    settle(&[&alice, &bob]).await;
    assert_eq!(epoch(&alice, "team"), 1);
    homes.service.lose_answer(Operation::SendMessage);
    let lost = alice.send_message("team", "once").await;
    assert!(matches!(lost, Err(Error::Unreachable(_))));
    settle(&[&alice, &bob]).await;
    assert_eq!(texts(&bob, "team"), ["once"]);
    homes
        .service
        .clock
        .advance(std::time::Duration::from_secs(3600));
    settle(&[&alice, &bob]).await;
    assert_eq!(texts(&bob, "team"), ["once"]);
}

#[tokio::test]
async fn whoever_was_away_over_several_rotations_follows_from_segment_to_segment() {
    let homes = Homes::new(5);
    let alice = homes.user("alice").await;
    let (bob, carol) = (homes.user("bob").await, homes.user("carol").await);
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    for round in 0..3 {
        alice.add_to_group("team", &["carol"]).await.unwrap();
        alice
            .send_message("team", &format!("with {round}"))
            .await
            .unwrap();
        alice.remove_from_group("team", &["carol"]).await.unwrap();
        alice
            .send_message("team", &format!("without {round}"))
            .await
            .unwrap();
        settle(&[&alice, &carol]).await;
    }
    bob.send_message("team", "back").await.unwrap();
    settle(&[&alice, &bob]).await;
    let said: Vec<String> = (0..3)
        .flat_map(|round| [format!("with {round}"), format!("without {round}")])
        .collect();
    assert_eq!(texts(&bob, "team"), said);
    assert_eq!(texts(&alice, "team"), ["back"]);
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
async fn a_client_that_has_lost_its_state_comes_back_by_its_row_over_rotations() {
    let homes = Homes::new(7);
    let alice = homes.user("alice").await;
    let (bob, carol) = (homes.user("bob").await, homes.user("carol").await);
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob", "carol"]).await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    let key = mimimi_client::BackupKey::RecoveryKey(mimimi_client::new_recovery_key().unwrap());
    let backup = bob.backup(&key).await.unwrap();
    drop(bob);
    // A rotation that the backup knows nothing of, and the rows of it.
    alice.remove_from_group("team", &["carol"]).await.unwrap();
    pass(&homes, 24, &[&alice]).await;
    let restored = Client::restore(&homes.path("bob2"), &backup, &key, homes.options()).await;
    let bob = restored.unwrap();
    settle(&[&alice, &bob]).await;
    alice.send_message("team", "are you there?").await.unwrap();
    settle(&[&alice, &bob]).await;
    // Carol was there when he was: that only Alice says so now may be her doing.
    let alone = bob.send_message("team", "yes").await;
    assert!(matches!(
        alone,
        Err(Error::Usage(mimimi_client::UsageError::NobodyHeard(_)))
    ));
    bob.accept_unverified("team").await.unwrap();
    bob.send_message("team", "yes").await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(texts(&bob, "team"), ["are you there?"]);
    assert_eq!(texts(&alice, "team"), ["yes"]);
}

#[tokio::test]
async fn a_client_whose_mls_state_is_gone_comes_back_into_its_place() {
    let homes = Homes::new(8);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    drop(bob);
    let db = rusqlite::Connection::open(homes.path("bob").join("client.sqlite")).unwrap();
    db.execute("DELETE FROM openmls_group_data", ()).unwrap();
    drop(db);
    let bob = Client::open(&homes.path("bob"), homes.options())
        .await
        .unwrap();
    settle(&[&alice, &bob]).await;
    alice.send_message("team", "there?").await.unwrap();
    settle(&[&alice, &bob]).await;
    bob.send_message("team", "there").await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(texts(&alice, "team"), ["there"]);
    assert_eq!(bob.verify_group("team").await.unwrap().0, 2);
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
async fn a_second_device_comes_into_all_groups_and_both_say_the_same() {
    let homes = Homes::new(11);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    let phone = homes.client("phone").await;
    let code = phone.link_code("phone").await.unwrap();
    let number = alice.approve_link(&code.code, &code.number).await.unwrap();
    assert_eq!(phone.complete_link(&number, 0).await.unwrap(), "alice");
    for _ in 0..4 {
        settle(&[&alice, &phone, &bob]).await;
    }
    assert_eq!(phone.devices().unwrap().len(), 2);
    assert_eq!(phone.contacts().unwrap().len(), 1);
    assert_eq!(bob.members("team").unwrap().len(), 3);
    bob.send_message("team", "to both").await.unwrap();
    settle(&[&alice, &phone, &bob]).await;
    phone.send_message("team", "from the phone").await.unwrap();
    settle(&[&alice, &phone, &bob]).await;
    assert_eq!(texts(&bob, "team"), ["from the phone"]);
    assert!(texts(&alice, "team").contains(&"to both".to_owned()));
    assert_eq!(texts(&phone, "team"), ["to both"]);
}

#[tokio::test]
async fn a_group_is_put_in_the_place_of_another_one_in_another_ciphersuite() {
    let homes = Homes::new(12);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group_with("team", 1).await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    alice.upgrade_group("team", 1).await.unwrap();
    settle(&[&alice, &bob]).await;
    alice.send_message("team", "in the new one").await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(texts(&bob, "team"), ["in the new one"]);
}

#[tokio::test]
async fn an_end_that_contradicts_what_was_read_is_evidence_and_stops_the_group() {
    let homes = Homes::new(13);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    // Not signed by the service: nobody's word.
    homes.service.alter(Some(Box::new(|operation, answer| {
        if operation != Operation::ReadJournal {
            return answer;
        }
        let mut read = ReadJournalResponse::decode(&answer).unwrap();
        read.head.chain = ChainHead([9; 32]);
        read.encode()
    })));
    bob.sync(0).await.unwrap();
    assert!(bob.stop_reason("team").unwrap().is_none());
    assert_eq!(bob.evidence("team").unwrap().len(), 1);
    // Signed: proof.
    let service = Arc::clone(&homes.service);
    let segment = bob.group_access("team").unwrap().segment;
    homes.service.alter(Some(Box::new(move |operation, answer| {
        if operation != Operation::ReadJournal {
            return answer;
        }
        let mut read = ReadJournalResponse::decode(&answer).unwrap();
        read.head.chain = ChainHead([9; 32]);
        read.head = service.sign_end(&segment, &read.head);
        read.encode()
    })));
    bob.sync(0).await.unwrap();
    assert_eq!(bob.stop_reason("team").unwrap(), Some(StopReason::Split));
    homes.service.alter(None);
}

/// Another directory is used after a while.
async fn hears_the_directory(client: &Client, homes: &Homes) {
    for _ in 0..3 {
        client.sync(0).await.unwrap();
        homes.service.clock.advance(Duration::from_secs(180));
    }
}

#[tokio::test]
async fn a_store_that_was_put_back_and_goes_on_otherwise_proves_no_split_once_the_directory_says_so()
 {
    let homes = Homes::new(22);
    let alice = homes.user("alice").await;
    let (bob, carol) = (homes.user("bob").await, homes.user("carol").await);
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob", "carol"]).await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    let backup = homes.service.store();
    alice.send_message("team", "is lost").await.unwrap();
    bob.sync(0).await.unwrap();
    homes.service.put_back(backup);
    let generations = &homes.service.generations;
    generations.signed.store(9, Ordering::Relaxed);
    generations.shown.store(9, Ordering::Relaxed);
    hears_the_directory(&carol, &homes).await;
    for text in ["takes its place", "goes on"] {
        carol.send_message("team", text).await.unwrap();
    }
    generations.shown.store(0, Ordering::Relaxed);

    // Before the directory says so nothing is believed, and nobody accused.
    let read = texts(&bob, "team");
    bob.sync(0).await.unwrap();
    assert_eq!(texts(&bob, "team"), read);
    assert_eq!(bob.stop_reason("team").unwrap(), None);
    assert!(bob.evidence("team").unwrap().is_empty());

    generations.shown.store(9, Ordering::Relaxed);
    hears_the_directory(&bob, &homes).await;
    let restored = Event::ServiceStoreChanged {
        change: StoreChange::Restored,
    };
    let mut events = bob.events().unwrap().into_iter();
    assert!(events.any(|stored| stored.event == restored));
    assert_eq!(texts(&bob, "team").last().unwrap(), "goes on");
    assert_eq!(bob.stop_reason("team").unwrap(), None);
    assert!(bob.evidence("team").unwrap().is_empty());
    // What an earlier store has signed is none of this one's.
    generations.signed.store(8, Ordering::Relaxed);
    carol.send_message("team", "unread").await.unwrap();
    bob.sync(0).await.unwrap();
    assert_eq!(texts(&bob, "team").last().unwrap(), "goes on");
    assert_eq!(bob.evidence("team").unwrap().len(), 1);
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
async fn who_ends_a_connection_is_forgotten_and_who_deletes_the_account_leaves_nothing_behind() {
    let homes = Homes::new(15);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    alice.disconnect("bob").await.unwrap();
    settle(&[&alice, &bob]).await;
    assert!(alice.contacts().unwrap().is_empty());
    assert!(bob.contacts().unwrap().is_empty());
    bob.delete_account().await.unwrap();
    settle(&[&alice]).await;
    assert_eq!(alice.members("team").unwrap().len(), 1);
    assert!(!homes.path("bob").join("client.sqlite").exists());
}

#[tokio::test]
async fn each_contact_claims_from_a_pool_of_its_own_and_ahead_of_need() {
    let homes = Homes::new(16);
    let alice = homes.user("alice").await;
    let (bob, carol) = (homes.user("bob").await, homes.user("carol").await);
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    settle(&[&alice, &bob, &carol]).await;
    let db = rusqlite::Connection::open(homes.path("alice").join("client.sqlite")).unwrap();
    let pools: u32 = db
        .query_row(
            "SELECT count(DISTINCT pool_token) FROM contacts",
            (),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(pools, 2);
    assert_eq!(homes.service.count(Operation::ClaimKeyPackages), 0);
    pass(&homes, 48, &[&alice]).await;
    assert_eq!(homes.service.count(Operation::ClaimKeyPackages), 2);
    // What is in stock is used: nothing is claimed for an Add.
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    assert_eq!(homes.service.count(Operation::ClaimKeyPackages), 2);
    settle(&[&alice, &bob]).await;
    assert_eq!(bob.members("team").unwrap().len(), 2);
    // Who is no contact any more finds nothing, and others still do.
    alice.disconnect("bob").await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    carol.create_group("other").await.unwrap();
    carol.add_to_group("other", &["alice"]).await.unwrap();
    settle(&[&alice, &carol]).await;
    assert_eq!(alice.members("other").unwrap().len(), 2);
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
async fn what_was_said_and_has_expired_is_told_and_the_rest_is_read() {
    let homes = Homes::new(18);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    alice.send_message("team", "of long ago").await.unwrap();
    homes
        .service
        .clock
        .advance(Duration::from_secs(40 * 86_400));
    homes.service.drop_messages();
    alice.send_message("team", "of now").await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(texts(&bob, "team"), ["of now"]);
    let mut events = bob.events().unwrap().into_iter();
    assert!(events.any(|stored| matches!(stored.event, Event::MessagesDropped { .. })));
    assert!(bob.stop_reason("team").unwrap().is_none());
}

#[tokio::test]
async fn a_message_that_never_came_is_sent_again_as_the_same_request_and_anew_when_that_is_too_old()
{
    let homes = Homes::new(19);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    for (later_s, text) in [(60, "soon"), (1_500, "late")] {
        homes.service.lose_request(Operation::SendMessage);
        let lost = alice.send_message("team", text).await;
        assert!(matches!(lost, Err(Error::Unreachable(_))));
        let [waiting] = &alice.queued_messages().unwrap()[..] else {
            panic!("one message waits");
        };
        assert_eq!(waiting.text, text);
        let clock = &homes.service.clock;
        clock.advance(Duration::from_secs(later_s));
        settle(&[&alice, &bob]).await;
        assert_eq!(texts(&bob, "team").last().unwrap(), text);
        assert!(alice.queued_messages().unwrap().is_empty());
        // Of no message it is heard twice, and its sender hears of it once.
        let sent = alice.events().unwrap().into_iter().filter(|stored| {
            matches!(stored.event, Event::MessageSent { message, .. } if message == waiting.message)
        });
        assert_eq!(sent.count(), 1);
    }
    settle(&[&alice, &bob]).await;
    assert_eq!(texts(&bob, "team"), ["soon", "late"]);
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

#[tokio::test]
async fn a_journal_that_never_ends_ends_a_call_and_hides_nothing_that_is_in_it() {
    let homes = Homes::new(23);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    alice.send_message("team", "hello").await.unwrap();
    // Of each page the first entry, whatever was asked for: nothing that was not read yet.
    homes.service.alter(Some(Box::new(|operation, answer| {
        if operation != Operation::ReadJournal {
            return answer;
        }
        let mut read = ReadJournalResponse::decode(&answer).unwrap();
        read.entries.truncate(1);
        read.encode()
    })));
    let caught_up = tokio::time::timeout(Duration::from_secs(120), bob.sync(0)).await;
    caught_up.unwrap().unwrap();
    homes.service.alter(None);
    bob.sync(0).await.unwrap();
    assert_eq!(texts(&bob, "team"), ["hello"]);
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
async fn a_request_leads_into_a_group_that_was_made_ahead_and_stays_as_it_was_until_the_answer() {
    let homes = Homes::new(24);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    let stock = "SELECT count(*) FROM connection_stock WHERE made_ms > 0";
    settle(&[&alice]).await;
    assert_eq!(count(&homes, "alice", stock), 0, "not with the handle");
    days(&homes, 2, &[&alice]).await;
    assert_eq!(count(&homes, "alice", stock), 2);
    let made = |homes: &Homes| {
        let operations = [Operation::CreateGroup, Operation::SetJoinCode];
        operations.map(|operation| homes.service.count(operation))
    };
    let before = made(&homes);
    alice.connect("bob").await.unwrap();
    assert_eq!(made(&homes), before, "nothing is made with the request");
    assert_eq!(count(&homes, "alice", stock), 1);
    bob.check_inbox().await.unwrap();
    let request = bob.incoming_requests().unwrap().pop().unwrap();
    days(&homes, 50, &[&alice]).await;
    assert_eq!(count(&homes, "alice", stock), 2, "filled again");
    let committed = homes.service.count(Operation::UpdateClient);
    assert_eq!(committed, 0, "no group that waits for somebody is renewed");
    bob.accept_request(&request.id).await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(alice.contacts().unwrap().len(), 1);
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(bob.members("team").unwrap().len(), 2);
}

#[tokio::test]
async fn a_group_in_stock_that_was_not_needed_gives_way_to_another_one() {
    let homes = Homes::new(25);
    let alice = homes.user("alice").await;
    days(&homes, 2, &[&alice]).await;
    let first = "SELECT count(*) FROM groups WHERE kind = 2";
    assert_eq!(count(&homes, "alice", first), 2);
    days(&homes, 70, &[&alice]).await;
    assert_eq!(count(&homes, "alice", first), 2);
    let deleted = homes.service.count(Operation::DeleteGroup);
    assert_eq!(deleted, 2, "both were too old");
}

#[tokio::test]
async fn a_request_that_is_taken_back_leads_nowhere() {
    let homes = Homes::new(26);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    alice.connect("bob").await.unwrap();
    bob.check_inbox().await.unwrap();
    let request = bob.incoming_requests().unwrap().pop().unwrap();
    alice.cancel_request("bob").await.unwrap();
    let accepted = bob.accept_request(&request.id).await;
    assert!(matches!(
        accepted,
        Err(Error::Usage(mimimi_client::UsageError::RequestExpired))
    ));
    assert!(bob.incoming_requests().unwrap().is_empty());
    assert!(bob.contacts().unwrap().is_empty());
}

#[tokio::test]
async fn all_devices_of_a_contact_come_in_by_one_add() {
    let homes = Homes::new(27);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    let phone = link(&homes, &bob, "phone", &[&alice]).await;
    let tablet = link(&homes, &bob, "tablet", &[&alice, &phone]).await;
    days(&homes, 2, &[&bob, &phone, &tablet, &alice]).await;
    let ways_in = homes.service.count(Operation::ExternalJoin);
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    assert_eq!(epoch(&alice, "team"), 1);
    assert_eq!(alice.members("team").unwrap().len(), 4, "by one commit");
    settle(&[&alice, &bob, &phone, &tablet]).await;
    for device in [&bob, &phone, &tablet] {
        assert_eq!(device.members("team").unwrap().len(), 4);
    }
    assert_eq!(homes.service.count(Operation::ExternalJoin), ways_in);
    tablet.send_message("team", "from all").await.unwrap();
    settle(&[&alice, &bob, &phone]).await;
    for client in [&alice, &bob, &phone] {
        assert_eq!(texts(client, "team"), ["from all"]);
    }
}

#[tokio::test]
async fn a_device_that_was_restored_and_the_others_know_each_other_and_all_come_in_by_one_add() {
    let homes = Homes::new(36);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    let phone = link(&homes, &bob, "phone", &[&alice]).await;
    let mut devices = [bob, phone];
    let key = mimimi_client::BackupKey::RecoveryKey(mimimi_client::new_recovery_key().unwrap());
    // The one that publishes for both, and the other one.
    for (number, home) in ["bob restored", "phone restored"].into_iter().enumerate() {
        let backup = devices[number].backup(&key).await.unwrap();
        let path = homes.path(home);
        let restored = Client::restore(&path, &backup, &key, homes.options()).await;
        devices[number] = restored.unwrap();
        let [bob, phone] = &mut devices;
        days(&homes, 2, &[bob, phone, &alice]).await;
        for device in &devices {
            assert_eq!(device.devices().unwrap().len(), 2);
        }
        // A set that was claimed before is used first.
        for team in ["first", "then"].map(|it| format!("{it} {number}")) {
            alice.create_group(&team).await.unwrap();
            alice.add_to_group(&team, &["bob"]).await.unwrap();
            let [bob, phone] = &mut devices;
            days(&homes, 2, &[bob, phone, &alice]).await;
        }
        let team = format!("then {number}");
        assert_eq!(alice.members(&team).unwrap().len(), 3);
        for device in &devices {
            assert_eq!(device.members(&team).unwrap().len(), 3);
        }
    }
}

#[tokio::test]
async fn of_three_devices_the_one_that_is_removed_reads_nothing_more_and_the_others_go_on() {
    let homes = Homes::new(28);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    let phone = link(&homes, &alice, "phone", &[&bob]).await;
    let tablet = link(&homes, &alice, "tablet", &[&bob, &phone]).await;
    assert_eq!(bob.members("team").unwrap().len(), 4);
    alice.unlink_device("phone").await.unwrap();
    settle(&[&alice, &bob, &tablet]).await;
    assert_eq!(bob.members("team").unwrap().len(), 3);
    assert_eq!(alice.devices().unwrap().len(), 2);
    assert_eq!(tablet.devices().unwrap().len(), 2);
    bob.send_message("team", "without the phone").await.unwrap();
    tablet.sync(0).await.unwrap();
    tablet
        .send_message("team", "with the tablet")
        .await
        .unwrap();
    settle(&[&alice, &bob, &tablet, &phone]).await;
    assert_eq!(texts(&tablet, "team"), ["without the phone"]);
    let said: Vec<_> = texts(&alice, "team").into_iter().collect();
    assert_eq!(said, ["without the phone", "with the tablet"]);
    assert!(texts(&phone, "team").is_empty());
    let mut events = phone.events().unwrap().into_iter();
    assert!(events.any(|stored| matches!(stored.event, Event::DeviceUnlinked)));
    assert!(phone.send_message("team", "I").await.is_err());
    // Whom the contact adds next are the two that are left.
    days(&homes, 1, &[&alice, &tablet, &bob]).await;
    bob.create_group("next").await.unwrap();
    bob.add_to_group("next", &["alice"]).await.unwrap();
    assert_eq!(bob.members("next").unwrap().len(), 3);
}

#[tokio::test]
async fn a_home_that_was_copied_renews_its_leaf_and_the_copy_that_is_in_use_stops() {
    let homes = Homes::new(29);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    std::fs::create_dir(homes.path("copy")).unwrap();
    for file in std::fs::read_dir(homes.path("alice")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), homes.path("copy").join(file.file_name())).unwrap();
    }
    let copy = Client::open(&homes.path("copy"), homes.options())
        .await
        .unwrap();
    copy.sync(0).await.unwrap();
    let mut events = copy.events().unwrap().into_iter();
    assert!(events.any(|stored| matches!(stored.event, Event::HomeCopied)));
    copy.send_message("team", "from the copy").await.unwrap();
    settle(&[&bob]).await;
    assert_eq!(texts(&bob, "team"), ["from the copy"]);
    assert_eq!(epoch(&bob, "team"), 2, "under a leaf of its own");
    alice.sync(0).await.unwrap();
    assert_eq!(
        alice.stop_reason("team").unwrap(),
        Some(StopReason::OtherCopy)
    );
    assert!(alice.send_message("team", "from the other").await.is_err());
}

#[tokio::test]
async fn a_commit_that_leads_to_where_the_service_has_nothing_is_evidence_and_stops_the_group() {
    let homes = Homes::new(30);
    let alice = homes.user("alice").await;
    let (bob, carol) = (homes.user("bob").await, homes.user("carol").await);
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob", "carol"]).await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    alice.remove_from_group("team", &["carol"]).await.unwrap();
    // As if Alice had told the service other keys than the members.
    let segment = alice.group_access("team").unwrap().segment;
    homes.service.lose_segment(segment);
    bob.sync(0).await.unwrap();
    assert_eq!(bob.stop_reason("team").unwrap(), Some(StopReason::Stranded));
    assert_eq!(bob.evidence("team").unwrap().len(), 1);
    assert!(bob.send_message("team", "where are you?").await.is_err());
    // Not back by itself, into what the same service shows.
    let joins = homes.service.count(Operation::ExternalJoin);
    days(&homes, 1, &[&bob]).await;
    assert_eq!(homes.service.count(Operation::ExternalJoin), joins);
    assert_eq!(bob.stop_reason("team").unwrap(), Some(StopReason::Stranded));
}

/// The service shows a segment with its last entry in another one's place, and signs that.
fn split(homes: &Homes, teller: &str, segment: SegmentId) {
    let db = rusqlite::Connection::open(homes.path(teller).join("client.sqlite")).unwrap();
    let chains = "SELECT position, chain FROM chains WHERE segment_id = ?
                  ORDER BY position DESC LIMIT 1 OFFSET 1";
    let (position, chain): (i64, [u8; 32]) = db
        .query_row(chains, [segment.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    let position = Position(u64::try_from(position).unwrap());
    let other = Entry::Expired(Digest([9; 32]));
    let chain = head_after(&ChainHead(chain), position, &other);
    let service = Arc::clone(&homes.service);
    homes.service.alter(Some(Box::new(move |operation, answer| {
        if operation != Operation::ReadJournal {
            return answer;
        }
        let mut read = ReadJournalResponse::decode(&answer).unwrap();
        if service.sign_end(&segment, &read.head) != read.head {
            return answer;
        }
        let place = usize::try_from(position.0 - read.first.0).unwrap();
        if let Some(entry) = read.entries.get_mut(place) {
            *entry = other.clone();
        }
        read.head.chain = chain;
        read.head = service.sign_end(&segment, &read.head);
        read.encode()
    })));
}

#[tokio::test]
async fn two_journals_of_a_group_are_found_out_over_a_connection_and_among_devices() {
    for among_devices in [false, true] {
        let homes = Homes::new(31);
        let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
        befriend(&alice, &bob).await;
        let other = match among_devices {
            true => link(&homes, &alice, "phone", &[&bob]).await,
            false => bob,
        };
        alice.create_group("team").await.unwrap();
        if !among_devices {
            alice.add_to_group("team", &["bob"]).await.unwrap();
        }
        for _ in 0..4 {
            settle(&[&alice, &other]).await;
        }
        assert_eq!(other.members("team").unwrap().len(), 2);
        // The chain before the last entry is known to who has read the one before by itself.
        for text in ["are you there?", "is it you?"] {
            alice.send_message("team", text).await.unwrap();
            alice.sync(0).await.unwrap();
        }
        let segment = alice.group_access("team").unwrap().segment;
        let is_found = |client: &Client| client.stop_reason("team").unwrap().is_some();
        for round in 0..40 {
            // Whoever hears of the other journal first, in whichever half of a round.
            if is_found(&alice) || is_found(&other) {
                break;
            }
            split(&homes, "alice", segment);
            other.sync(0).await.unwrap();
            homes.service.alter(None);
            if is_found(&other) {
                break;
            }
            // Something to say in the connection, or to the other device.
            let name = format!("group {round}");
            alice.create_group(&name).await.unwrap();
            if !among_devices {
                alice.add_to_group(&name, &["bob"]).await.unwrap();
            }
            alice.sync(0).await.unwrap();
            alice.delete_group(&name).await.unwrap();
        }
        let texts = texts(&other, "team");
        assert!(!texts.contains(&"is it you?".to_owned()), "{texts:?}");
        let found = match alice.stop_reason("team").unwrap() {
            Some(_) => &alice,
            None => &other,
        };
        let why = found.stop_reason("team").unwrap();
        assert_eq!(why, Some(StopReason::Split), "{among_devices}");
        assert_eq!(found.evidence("team").unwrap().len(), 1);
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
async fn who_asks_again_pays_what_the_inbox_costs_by_now_and_uses_its_key_of_now() {
    let homes = Homes::new(33);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    // A quarter of an inbox, and one more.
    for _ in 0..INBOX_CAPACITY / 4 + 1 {
        alice.connect("bob").await.unwrap();
    }
    let groups = homes.service.count(Operation::CreateGroup);
    assert_eq!(groups, 1, "all lead into one group");
    bob.check_inbox().await.unwrap();
    let mut requests = bob.incoming_requests().unwrap();
    let request = requests.pop().unwrap();
    assert!(requests.is_empty());
    // Without the device the handle has another key.
    let phone = link(&homes, &bob, "phone", &[]).await;
    bob.decline_request(&request.id).await.unwrap();
    bob.unlink_device("phone").await.unwrap();
    settle(&[&bob, &phone]).await;
    alice.connect("bob").await.unwrap();
    bob.check_inbox().await.unwrap();
    let request = bob.incoming_requests().unwrap().pop().unwrap();
    bob.accept_request(&request.id).await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(alice.contacts().unwrap().len(), 1);
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
async fn a_segment_ends_where_the_service_has_signed_that_it_does() {
    let homes = Homes::new(41);
    let [alice, bob, _carol] = team(&homes).await;
    alice.remove_from_group("team", &["carol"]).await.unwrap();
    let service = Arc::clone(&homes.service);
    let segment = bob.group_access("team").unwrap().segment;
    homes.service.alter(Some(Box::new(move |operation, answer| {
        if operation != Operation::ReadJournal {
            return answer;
        }
        let mut read = ReadJournalResponse::decode(&answer).unwrap();
        if read.closed == 1 {
            // As others see it: another commit at the same place.
            read.head.chain = ChainHead([9; 32]);
            read.head = service.sign_end(&segment, &read.head);
        }
        read.encode()
    })));
    bob.sync(0).await.unwrap();
    homes.service.alter(None);
    assert_eq!(bob.stop_reason("team").unwrap(), Some(StopReason::Split));
    assert_eq!(bob.evidence("team").unwrap().len(), 1);
}

#[tokio::test]
async fn a_join_whose_answer_is_lost_is_not_thrown_away_when_the_group_goes_on() {
    let homes = Homes::new(42);
    let (alice, dave) = (homes.user("alice").await, homes.user("dave").await);
    alice.create_group("open").await.unwrap();
    let code = alice.invite("open", 7).await.unwrap();
    homes.service.lose_answer(Operation::ExternalJoin);
    let lost = dave.join_by_code(&code).await;
    assert!(matches!(lost, Err(Error::Unreachable(_))), "{lost:?}");
    settle(&[&alice]).await;
    alice.update_own_leaf("open").await.unwrap();
    // Longer than the service remembers what it has answered.
    homes.service.clock.advance(Duration::from_secs(7_200));
    settle(&[&alice, &dave]).await;
    dave.send_message("open", "in").await.unwrap();
    settle(&[&alice, &dave]).await;
    assert_eq!(alice.members("open").unwrap().len(), 2);
    assert_eq!(texts(&alice, "open"), ["in"]);
}

#[tokio::test]
async fn what_was_accepted_is_found_whatever_a_later_attempt_is_refused_for() {
    for (seed, operation) in [
        (46, Operation::UpdateClient),
        (47, Operation::ExternalJoin),
        (48, Operation::CreateGroup),
    ] {
        let homes = Homes::new(seed);
        let [alice, bob, carol] = team(&homes).await;
        let code = alice.invite("team", 7).await.unwrap();
        let dave = homes.user("dave").await;
        homes.service.lose_answer(operation);
        let lost = match operation {
            Operation::UpdateClient => bob.update_own_leaf("team").await,
            Operation::ExternalJoin => dave.join_by_code(&code).await.map(drop),
            _ => dave.create_group("own").await.map(drop),
        };
        assert!(matches!(lost, Err(Error::Unreachable(_))), "{lost:?}");
        // Longer than the service remembers what it has answered. The tokens are spent.
        homes.service.clock.advance(Duration::from_secs(7_200));
        // Once, and once more when it was paid again.
        let mut refusals = 2;
        homes
            .service
            .intercept(Some(Box::new(move |asked, _| match refusals {
                1.. if asked == operation => {
                    refusals -= 1;
                    Some(Err(refusal(ProblemType::TokenRejected)))
                }
                _ => None,
            })));
        settle(&[&alice, &bob, &carol, &dave]).await;
        homes.service.intercept(None);
        let (client, group) = match operation {
            Operation::UpdateClient => (&bob, "team"),
            Operation::ExternalJoin => (&dave, "team"),
            _ => (&dave, "own"),
        };
        assert_eq!(client.stop_reason(group).unwrap(), None, "{operation:?}");
        assert!(client.evidence(group).unwrap().is_empty(), "{operation:?}");
        client.send_message(group, "still here").await.unwrap();
        settle(&[&alice, &bob, &carol, &dave]).await;
        if group == "team" {
            assert_eq!(texts(&alice, group), ["still here"], "{operation:?}");
        }
    }
}

#[tokio::test]
async fn a_request_is_signed_again_by_a_clock_that_steps_in_between_and_not_for_ever() {
    let homes = Homes::new(49);
    let [alice, bob, _] = team(&homes).await;
    // The clock comes back between the first refusal and the second attempt.
    let refuse = |mut refusals: u64| {
        let now_ms = homes.service.clock.now_unix_ms();
        homes
            .service
            .intercept(Some(Box::new(move |asked, _| match refusals {
                1.. if asked == Operation::UpdateClient => {
                    refusals -= 1;
                    Some(Err(stale(now_ms - 3_600_000 * refusals)))
                }
                _ => None,
            })));
    };
    refuse(2);
    alice.update_own_leaf("team").await.unwrap();
    assert_eq!(epoch(&alice, "team"), epoch(&bob, "team") + 1);
    refuse(3);
    let refused = alice.update_own_leaf("team").await;
    let problem = refused.as_ref().err().and_then(Error::problem);
    assert_eq!(problem, Some(ProblemType::StaleTimestamp), "{refused:?}");
}

#[tokio::test]
async fn a_return_whose_answer_is_lost_is_not_thrown_away_when_the_group_goes_on() {
    for (seed, rotates_again) in [(43, false), (44, true)] {
        let homes = Homes::new(seed);
        let [alice, bob, carol] = team(&homes).await;
        let dave = homes.user("dave").await;
        befriend(&alice, &dave).await;
        alice.add_to_group("team", &["dave"]).await.unwrap();
        settle(&[&alice, &bob, &carol, &dave]).await;
        drop(bob);
        lose_state_of_team(&homes, "bob");
        let bob = Client::open(&homes.path("bob"), homes.options())
            .await
            .unwrap();
        homes.service.lose_answer(Operation::ExternalJoin);
        let _ = bob.sync(0).await;
        settle(&[&alice, &carol]).await;
        if rotates_again {
            alice.remove_from_group("team", &["dave"]).await.unwrap();
            pass(&homes, 24, &[&alice, &carol]).await;
        } else {
            alice.update_own_leaf("team").await.unwrap();
        }
        homes.service.clock.advance(Duration::from_secs(7_200));
        settle(&[&alice, &bob, &carol]).await;
        bob.send_message("team", "there").await.unwrap();
        settle(&[&alice, &bob]).await;
        assert_eq!(texts(&alice, "team"), ["there"]);
    }
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

#[tokio::test]
async fn whose_message_is_accepted_and_not_shown_hears_of_it() {
    let homes = Homes::new(46);
    let [alice, bob, carol] = team(&homes).await;
    let next = "SELECT next FROM segments JOIN groups USING (group_id) WHERE name = 'team'";
    let next: i64 = database(&homes, "alice")
        .query_row(next, (), |row| row.get(0))
        .unwrap();
    let accepted = EntryAccepted {
        place: Place {
            rotation_epoch: RotationEpoch(0),
            position: Position(u64::try_from(next).unwrap()),
        },
        accepted_ms: 1,
    };
    homes.service.intercept(Some(Box::new(move |operation, _| {
        (operation == Operation::SendMessage).then(|| Ok(accepted.encode()))
    })));
    alice.send_message("team", "to nobody").await.unwrap();
    homes.service.intercept(None);
    settle(&[&alice]).await;
    assert!(alice.evidence("team").unwrap().is_empty());
    bob.send_message("team", "to all").await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    let told = |client: &Client| {
        let events = client.events().unwrap().into_iter();
        events
            .filter(|stored| {
                matches!(&stored.event, Event::MessageWithheld { text, .. } if text == "to nobody")
            })
            .count()
    };
    assert_eq!((told(&alice), told(&bob)), (1, 0));
    assert_eq!(alice.evidence("team").unwrap().len(), 1);
    assert_eq!(texts(&carol, "team"), ["to all"]);
}

#[tokio::test]
async fn a_place_that_no_journal_comes_to_stops_nobody_who_joins() {
    let homes = Homes::new(47);
    let (alice, dave) = (homes.user("alice").await, homes.user("dave").await);
    alice.create_group("open").await.unwrap();
    let code = alice.invite("open", 7).await.unwrap();
    homes.service.alter(Some(Box::new(|operation, answer| {
        if operation != Operation::ExternalJoin {
            return answer;
        }
        let mut accepted = JoinAccepted::decode(&answer).unwrap();
        accepted.accepted.place.position = Position(1 << 63);
        accepted.encode()
    })));
    let joined = dave.join_by_code(&code).await;
    assert!(matches!(joined, Err(Error::Protocol(_))), "{joined:?}");
    dave.sync(0).await.unwrap();
    homes.service.alter(None);
    settle(&[&alice, &dave]).await;
    dave.send_message("open", "in").await.unwrap();
}

#[tokio::test]
async fn what_a_commit_meets_that_was_under_way_is_no_fault_of_the_message_behind_it() {
    let homes = Homes::new(70);
    let [alice, bob, _carol] = team(&homes).await;
    alice.stage_remove("team", &["carol"]).await.unwrap();
    homes.service.intercept(Some(Box::new(|operation, _| {
        (operation == Operation::RemoveUsers).then(|| Err(refusal(ProblemType::InvalidCommit)))
    })));
    alice.send_message("team", "all the same").await.unwrap();
    homes.service.intercept(None);
    settle(&[&bob]).await;
    assert_eq!(texts(&bob, "team"), ["all the same"]);
}

#[tokio::test]
async fn what_may_be_in_the_journal_is_not_sent_again_before_that_is_read() {
    let homes = Homes::new(48);
    let [alice, bob, _carol] = team(&homes).await;
    homes.service.lose_answer(Operation::SendMessage);
    // From then on the same request is too old, and what the journal says is not to be had.
    let mut is_sent = false;
    homes
        .service
        .intercept(Some(Box::new(move |operation, _| match operation {
            Operation::SendMessage if !is_sent => {
                is_sent = true;
                None
            }
            Operation::SendMessage => Some(Err(refusal(ProblemType::StaleTimestamp))),
            Operation::ReadJournal if is_sent => Some(Err(refusal(ProblemType::LimitExceeded))),
            _ => None,
        })));
    let lost = alice.send_message("team", "once").await;
    assert!(matches!(lost, Err(Error::Unreachable(_))));
    homes.service.clock.advance(Duration::from_secs(1_800));
    settle(&[&alice]).await;
    homes.service.intercept(None);
    assert_eq!(alice.queued_messages().unwrap().len(), 1);
    settle(&[&alice, &bob]).await;
    assert!(alice.queued_messages().unwrap().is_empty());
    assert_eq!(texts(&bob, "team"), ["once"]);
    let unreadable = |stored: StoredEvent| matches!(stored.event, Event::MessageUnreadable { .. });
    assert!(!bob.events().unwrap().into_iter().any(unreadable));
}

#[tokio::test]
async fn a_time_that_another_clock_has_drawn_is_drawn_anew() {
    let homes = Homes::new(49);
    let [alice, _bob, _carol] = team(&homes).await;
    let db = database(&homes, "alice");
    let far = i64::MAX;
    for update in [
        "UPDATE groups SET renewal_ms = ?",
        "UPDATE profile SET inbox_due_ms = ?",
        "UPDATE contacts SET pool_due_ms = ?",
        "INSERT INTO acts (act, about, due_ms) SELECT 'renew', group_id, ? FROM groups",
    ] {
        assert!(db.execute(update, [far]).unwrap() > 0, "{update}");
    }
    alice.sync(0).await.unwrap();
    for query in [
        "SELECT max(renewal_ms) FROM groups",
        "SELECT inbox_due_ms FROM profile",
        "SELECT max(pool_due_ms) FROM contacts",
        "SELECT max(due_ms) FROM acts",
    ] {
        let due: i64 = db.query_row(query, (), |row| row.get(0)).unwrap();
        assert!(due < far, "{query}");
    }
}

#[tokio::test]
async fn a_group_that_refuses_holds_up_the_removal_of_a_device_in_no_other_one() {
    let homes = Homes::new(50);
    let [alice, bob, carol] = team(&homes).await;
    alice.create_group("also").await.unwrap();
    alice.add_to_group("also", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    let phone = homes.client("phone").await;
    let code = phone.link_code("phone").await.unwrap();
    let number = alice.approve_link(&code.code, &code.number).await.unwrap();
    phone.complete_link(&number, 0).await.unwrap();
    for _ in 0..4 {
        settle(&[&alice, &phone, &bob, &carol]).await;
    }
    assert_eq!(bob.members("also").unwrap().len(), 3);
    assert_eq!(bob.members("team").unwrap().len(), 4);
    drop(phone);
    // By name: the groups before it are the devices' and the connections'.
    let refused = alice.group_access("also").unwrap().id.0;
    homes
        .service
        .intercept(Some(Box::new(move |operation, request| {
            let is_it = request.windows(16).any(|window| window == refused);
            (operation == Operation::RemoveClients && is_it)
                .then(|| Err(refusal(ProblemType::LimitExceeded)))
        })));
    assert!(alice.unlink_device("phone").await.is_err());
    settle(&[&alice, &bob, &carol]).await;
    assert_eq!(bob.members("team").unwrap().len(), 3);
    assert_eq!(bob.members("also").unwrap().len(), 3);
    // It is not forgotten.
    homes.service.intercept(None);
    settle(&[&alice, &bob]).await;
    assert_eq!(bob.members("also").unwrap().len(), 2);
    assert_eq!(alice.devices().unwrap().len(), 1);
}

#[tokio::test]
async fn a_device_whose_way_in_is_stale_is_added_by_a_commit() {
    let homes = Homes::new(60);
    let alice = homes.user("alice").await;
    let laptop = link(&homes, &alice, "laptop", &[]).await;
    alice.create_group("plans").await.unwrap();
    alice.sync(0).await.unwrap();
    // The key that vouches for the laptop is gone before the laptop has come.
    alice.update_own_leaf("plans").await.unwrap();
    for _ in 0..3 {
        settle(&[&laptop, &alice]).await;
    }
    assert_eq!(homes.service.count(Operation::AddClients), 1);
    for device in [&laptop, &alice] {
        assert_eq!(device.members("plans").unwrap().len(), 2);
    }
}
