//! What is kept of what members say: in which group, for how long, and in whose words.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use content::MimiContent;
use mimimi_client::{
    Client, Draft, Error, Event, Expiry, Gone, GroupId, GroupProfile, MessageState, Receipts,
    UsageError,
};
use protocol::operation::Operation;
use protocol::problem::ProblemType;

use crate::messages::{history, is_on_disk, said, say, told, wire};
use crate::support::{Homes, database, link, lose_state_of_team, refusal, settle, team};

const SECRET: &str = "the meeting is behind the old mill";

fn at(homes: &Homes, seconds: u64) -> Expiry {
    let now_ms = homes.service.clock.0.load(Ordering::Relaxed);
    Expiry::At(u32::try_from(now_ms / 1000 + seconds).unwrap())
}

/// From now on no message comes to the service; the answer counts those that did not.
fn hold_back(homes: &Homes) -> Arc<AtomicUsize> {
    let held = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&held);
    homes.service.intercept(Some(Box::new(move |operation, _| {
        (operation == Operation::SendMessage).then(|| {
            counted.fetch_add(1, Ordering::Relaxed);
            Err(Error::Unreachable("the test holds it back".into()))
        })
    })));
    held
}

#[tokio::test]
async fn what_was_said_outlives_a_removal_a_refused_code_and_a_return() {
    let homes = Homes::new(441);
    let [alice, bob, carol] = team(&homes).await;
    let all = [&alice, &bob, &carol];
    let first = say(&alice, "before", &all).await;
    say(&carol, Draft::reaction(first, "!"), &all).await;
    carol.set_receipts("team", Receipts::Read).await.unwrap();
    bob.set_receipts("team", Receipts::Delivery).await.unwrap();
    alice.remove_from_group("team", &["carol"]).await.unwrap();
    settle(&all).await;
    assert_eq!(said(&carol), ["before"]);
    // Once, and once more when it was paid again.
    let code = alice.invite("team", 7).await.unwrap();
    homes.service.intercept(Some(Box::new(|operation, _| {
        let is_join = operation == Operation::ExternalJoin;
        is_join.then(|| Err(refusal(ProblemType::NotAllowed)))
    })));
    carol.join_by_code(&code).await.unwrap_err();
    homes.service.intercept(None);
    settle(&[&carol]).await;
    assert!(!carol.group("team").unwrap().active);
    assert_eq!(said(&carol), ["before"]);
    alice.add_to_group("team", &["carol"]).await.unwrap();
    settle(&all).await;
    say(&alice, "after", &all).await;
    assert_eq!(said(&carol), ["before", "after"]);
    let [_, before] = history(&carol).try_into().unwrap();
    assert_eq!(before.reactions.len(), 1);
    assert_eq!(carol.receipts("team").unwrap(), Receipts::Read);
    // Who has sent it still changes it.
    say(&alice, Draft::edit(first, "then"), &all).await;
    assert_eq!(said(&carol), ["then", "after"]);

    drop(bob);
    lose_state_of_team(&homes, "bob");
    let bob = Client::open(&homes.path("bob"), homes.options())
        .await
        .unwrap();
    settle(&[&alice, &bob, &carol]).await;
    settle(&[&alice, &bob, &carol]).await;
    assert!(bob.group("team").unwrap().active);
    assert_eq!(said(&bob), ["then", "after"]);
    assert_eq!(bob.receipts("team").unwrap(), Receipts::Delivery);
}

#[tokio::test]
async fn a_group_that_is_forgotten_leaves_nothing_on_disk_and_another_one_stays() {
    let homes = Homes::new(450);
    let [alice, bob, carol] = team(&homes).await;
    let all = [&alice, &bob, &carol];
    alice.create_group("other").await.unwrap();
    alice.add_to_group("other", &["carol"]).await.unwrap();
    settle(&all).await;
    alice.send_message("other", "this stays").await.unwrap();
    let message = say(&alice, SECRET, &all).await;
    say(&bob, Draft::reaction(message, "!"), &all).await;
    let team = carol.group("team").unwrap().id;
    assert!(matches!(
        carol.forget_group("team").await,
        Err(Error::Usage(UsageError::StillAMember(_)))
    ));
    assert_eq!(said(&carol), [SECRET]);
    alice.remove_from_group("team", &["carol"]).await.unwrap();
    settle(&all).await;
    told(&carol);
    carol.forget_group(team).await.unwrap();
    assert!(matches!(
        carol.group(team),
        Err(Error::Usage(UsageError::UnknownGroup(_)))
    ));
    assert!(is_on_disk(&homes, "carol", "this stays"));
    assert!(!is_on_disk(&homes, "carol", SECRET));
    assert_eq!(rows_of_a_group(&homes, "carol", &team), 0);
    // It can be come into again, as if for the first time.
    alice.add_to_group("team", &["carol"]).await.unwrap();
    settle(&all).await;
    say(&alice, "anew", &all).await;
    assert_eq!(said(&carol), ["anew"]);
}

/// In how many tables of a client something is filed under a group.
fn rows_of_a_group(homes: &Homes, name: &str, group: &GroupId) -> usize {
    let db = database(homes, name);
    let mut tables = db
        .prepare(
            "SELECT tables.name FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS it
             WHERE tables.type = 'table' AND it.name = 'group_id' AND tables.name NOT LIKE 'openmls%'",
        )
        .unwrap();
    let tables: Vec<String> = tables
        .query_map((), |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(tables.len() > 30, "{tables:?}");
    let count = |table: &String| -> usize {
        db.query_row(
            &format!("SELECT count(*) FROM {table} WHERE group_id = ?"),
            [group.0],
            |row| row.get(0),
        )
        .unwrap()
    };
    tables.iter().filter(|table| count(table) > 0).count()
}

#[tokio::test]
async fn a_call_acts_in_the_group_that_was_meant_when_it_was_made() {
    let homes = Homes::new(442);
    let [alice, bob, carol] = team(&homes).await;
    let all = [&alice, &bob, &carol];
    alice.create_group("other").await.unwrap();
    alice
        .add_to_group("other", &["bob", "carol"])
        .await
        .unwrap();
    settle(&all).await;
    let (meant, other) = (
        alice.group("team").unwrap().id,
        alice.group("other").unwrap().id,
    );
    alice
        .set_group_profile(meant, GroupProfile::named("former"))
        .await
        .unwrap();
    alice
        .set_group_profile(other, GroupProfile::named("team"))
        .await
        .unwrap();
    // Both hear of it while they leave, one by the id and one by the name.
    bob.leave_group(meant).await.unwrap();
    carol.leave_group("team").await.unwrap();
    settle(&all).await;
    for client in [&bob, &carol] {
        assert!(!client.group(meant).unwrap().active);
        assert!(client.group(other).unwrap().active);
    }
    // An id is good where a name is, and nobody gives a group such a name.
    let written = meant.to_string();
    assert_eq!(bob.group(&written).unwrap().id, meant);
    let refused = |done| matches!(done, Err(Error::Usage(UsageError::InvalidGroupName)));
    let named = GroupProfile::named(&written);
    assert!(refused(alice.set_group_profile(other, named).await));
    assert!(refused(alice.create_group(&written).await));
    assert_eq!(alice.group(other).unwrap().name, "team");
}

#[tokio::test]
async fn the_last_edit_in_the_journal_counts_for_everybody_on_every_device() {
    let homes = Homes::new(443);
    let [alice, bob, carol] = team(&homes).await;
    let tablet = link(&homes, &alice, "tablet", &[&bob, &carol]).await;
    let all = [&alice, &tablet, &bob];
    let id = say(&alice, "when?", &all).await;
    tablet
        .send_message("team", Draft::edit(id, "at 8"))
        .await
        .unwrap();
    // This one looks before it writes, and does not see that.
    homes.service.intercept(Some(Box::new(|operation, _| {
        let is_read = operation == Operation::ReadJournal;
        is_read.then(|| Err(refusal(ProblemType::NotAllowed)))
    })));
    alice
        .send_message("team", Draft::edit(id, "at 9"))
        .await
        .unwrap();
    homes.service.intercept(None);
    assert_eq!(said(&alice), ["when?"]);
    settle(&all).await;
    for client in all {
        assert_eq!(said(client), ["at 9"]);
    }
}

#[tokio::test]
async fn with_a_message_goes_whatever_is_about_it() {
    let homes = Homes::new(444);
    let [alice, bob, carol] = team(&homes).await;
    let all = [&alice, &bob, &carol];
    let message = say(&alice, "where?", &all).await;
    // A reaction that is taken back before anybody has seen it.
    let reaction = bob
        .send_message("team", Draft::reaction(message, SECRET))
        .await
        .unwrap();
    settle(&all).await;
    assert!(is_on_disk(&homes, "carol", SECRET));
    bob.send_message("team", Draft::deletion(reaction))
        .await
        .unwrap();
    settle(&all).await;
    let events = told(&carol);
    assert!(
        matches!(events[..], [Event::ReactionTakenBack { .. }]),
        "{events:?}"
    );
    // One that comes when there is nothing left to react to.
    alice
        .send_message("team", Draft::deletion(message))
        .await
        .unwrap();
    let late = MimiContent::reaction([7; 16], wire(message), SECRET);
    bob.say_by_hand("team", &late.encode().unwrap())
        .await
        .unwrap();
    settle(&all).await;
    let events = told(&carol);
    assert!(
        matches!(events[..], [Event::MessageDeleted { .. }]),
        "{events:?}"
    );
    for (client, name) in [(&alice, "alice"), (&bob, "bob"), (&carol, "carol")] {
        let [gone] = history(client).try_into().unwrap();
        assert_eq!(gone.gone, Some(Gone::Deleted));
        assert!(gone.reactions.is_empty());
        assert!(!is_on_disk(&homes, name, SECRET), "{name}");
    }
}

#[tokio::test]
async fn what_waits_to_be_said_about_a_message_goes_with_it() {
    let homes = Homes::new(445);
    let [alice, bob, carol] = team(&homes).await;
    let all = [&alice, &bob, &carol];
    let draft = Draft::text("where?").expires(at(&homes, 3_600));
    let message = say(&alice, draft, &all).await;
    hold_back(&homes);
    for draft in [
        Draft::edit(message, SECRET),
        Draft::reaction(message, SECRET),
    ] {
        alice.send_message("team", draft).await.unwrap_err();
    }
    assert!(is_on_disk(&homes, "alice", SECRET));
    homes.service.clock.advance(Duration::from_secs(3_601));
    let events = told(&alice);
    let failed = |event: &Event| {
        matches!(event, Event::MessageFailed { text, reason, .. }
            if text.is_empty() && reason == "gone-before-sent")
    };
    assert_eq!(
        events.iter().filter(|event| failed(event)).count(),
        2,
        "{events:?}"
    );
    assert!(alice.queued_messages().unwrap().is_empty());
    assert!(!is_on_disk(&homes, "alice", SECRET));
    homes.service.intercept(None);
    let sent = homes.service.count(Operation::SendMessage);
    settle(&all).await;
    assert_eq!(homes.service.count(Operation::SendMessage), sent);
    assert_eq!(said(&bob), [""]);
}

#[tokio::test]
async fn what_expires_before_it_is_sent_is_not_said_to_be_sent() {
    let homes = Homes::new(446);
    let [alice, bob, _] = team(&homes).await;
    let refused = alice
        .send_message("team", Draft::text("x").expires(at(&homes, 0)))
        .await;
    assert!(
        matches!(refused, Err(Error::Usage(UsageError::InvalidExpiry))),
        "{refused:?}"
    );
    let held = hold_back(&homes);
    alice.send_message("team", "first").await.unwrap_err();
    // Until the client has tried it by itself, and waits for a while.
    while held.load(Ordering::Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let clock = homes.service.clock.clone();
    homes.service.intercept(Some(Box::new(move |operation, _| {
        if operation == Operation::SendMessage {
            clock.advance(Duration::from_secs(61));
        }
        None
    })));
    let sent = alice
        .send_message("team", Draft::text(SECRET).expires(at(&homes, 60)))
        .await;
    homes.service.intercept(None);
    assert!(
        matches!(sent, Err(Error::Usage(UsageError::GoneBeforeSent))),
        "{sent:?}"
    );
    settle(&[&alice, &bob]).await;
    assert_eq!(said(&bob), ["first"]);
    let mut messages = history(&alice).into_iter();
    let gone = messages.find(|message| message.gone == Some(Gone::Expired));
    assert_eq!(gone.unwrap().state, MessageState::Failed);
}

#[tokio::test]
async fn receipts_that_wait_are_not_told_once_they_are_switched_off() {
    let homes = Homes::new(447);
    let [alice, bob, _] = team(&homes).await;
    bob.set_receipts("team", Receipts::Read).await.unwrap();
    let message = alice.send_message("team", "hello").await.unwrap();
    let held = hold_back(&homes);
    // Nobody answers it.
    drop(bob.sync(0).await);
    bob.mark_read("team", &[message]).unwrap();
    drop(bob.sync(0).await);
    assert!(held.load(Ordering::Relaxed) > 0);
    bob.set_receipts("team", Receipts::Off).await.unwrap();
    homes.service.intercept(None);
    let sent = homes.service.count(Operation::SendMessage);
    settle(&[&alice, &bob]).await;
    assert_eq!(homes.service.count(Operation::SendMessage), sent);
    assert!(told(&alice).is_empty());
}

#[tokio::test]
async fn what_was_never_sent_is_deleted_here_and_nothing_is_told() {
    let homes = Homes::new(448);
    let [alice, bob, carol] = team(&homes).await;
    hold_back(&homes);
    alice.send_message("team", "first").await.unwrap_err();
    let message = alice.queue_message("team", SECRET).unwrap();
    alice
        .queue_message("team", Draft::deletion(message))
        .unwrap();
    assert_eq!(alice.queued_messages().unwrap().len(), 1);
    assert!(!is_on_disk(&homes, "alice", SECRET));
    homes.service.intercept(None);
    settle(&[&alice, &bob, &carol]).await;
    assert_eq!(said(&bob), ["first"]);
    assert!(
        told(&bob)
            .iter()
            .all(|event| matches!(event, Event::Message { .. }))
    );
}

#[tokio::test]
async fn who_comes_back_does_not_say_what_waited_under_another_name() {
    let homes = Homes::new(449);
    let [alice, bob, carol] = team(&homes).await;
    let all = [&alice, &bob, &carol];
    hold_back(&homes);
    carol.send_message("team", "too late").await.unwrap_err();
    alice.remove_from_group("team", &["carol"]).await.unwrap();
    alice.add_to_group("team", &["carol"]).await.unwrap();
    homes.service.intercept(None);
    settle(&all).await;
    settle(&all).await;
    assert!(carol.group("team").unwrap().active);
    let [message] = history(&carol).try_into().unwrap();
    assert_eq!(message.state, MessageState::Failed);
    let events = told(&carol);
    assert!(
        matches!(&events[..], [Event::MessageFailed { text, .. }] if text == "too late"),
        "{events:?}"
    );
    assert!(said(&bob).is_empty());
}
