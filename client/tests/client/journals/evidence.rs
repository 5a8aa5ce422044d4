//! Journals that contradict each other or themselves.

use std::sync::atomic::AtomicU8;

use super::*;

#[tokio::test]
async fn an_end_that_contradicts_what_was_read_is_evidence_and_stops_the_group() {
    let homes = Homes::new(13);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    // Not signed by the service: nobody's word, and proof of nothing. It is shown all the same,
    // once a day: each time it can be another one.
    let times = AtomicU8::new(0);
    homes.service.alter(Some(Box::new(move |operation, answer| {
        if operation != Operation::ReadJournal {
            return answer;
        }
        let mut read = ReadJournalResponse::decode(&answer).unwrap();
        read.head.chain = ChainHead([times.fetch_add(1, Ordering::Relaxed); 32]);
        read.encode()
    })));
    for _ in 0..3 {
        bob.sync(0).await.unwrap();
    }
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
