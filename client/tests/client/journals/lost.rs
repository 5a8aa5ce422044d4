//! Answers and state that are lost, and what finds them.

use super::*;

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
