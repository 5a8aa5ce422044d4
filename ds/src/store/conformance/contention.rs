//! Many at once: what races must not break. Tasks start together behind a barrier.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::fixtures::*;
use crate::store::{DayRow, Parts, Receipt, Reservation, StoreError};

/// Contenders of a race.
const MANY: u64 = 24;

pub async fn of_racing_epoch_changes_one_is_first(store: Engine) {
    for group in 0..8 {
        found(&store, group).await;
        let base = 1_000 * (group + 1);
        let answers = race(MANY, |number| {
            let (store, next) = (Arc::clone(&store), base + number);
            async move {
                store
                    .advance_group(advance(group, 0, next), receipt(next))
                    .await
            }
        })
        .await;
        let winner = base + only_winner(&answers, |error| matches!(error, StoreError::Conflict));
        let stored = store
            .group(row(group), Parts::WITH_TREE)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (stored.version, stored.roster),
            (version(winner), value(winner))
        );
        for next in base..base + MANY {
            assert_eq!(is_delivered(&store, next).await, next == winner);
            if next != winner {
                assert_not_charged(&store, receipt(next)).await;
            }
        }
    }
}

pub async fn no_epoch_change_is_lost(store: Engine) {
    const EACH: u64 = 4;
    found(&store, 1).await;
    race(MANY / 3, |_| {
        let store = Arc::clone(&store);
        async move {
            let mut done = 0;
            while done < EACH {
                // The roster counts epoch changes; the version is that number.
                let roster = store
                    .group(row(1), Parts::ROSTER)
                    .await
                    .unwrap()
                    .unwrap()
                    .roster;
                let epoch = u64::from_be_bytes(roster[..8].try_into().unwrap());
                match store
                    .advance_group(advance(1, epoch, epoch + 1), free())
                    .await
                {
                    Ok(()) => done += 1,
                    Err(StoreError::Conflict) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    })
    .await;
    let changes = MANY / 3 * EACH;
    assert_eq!(
        store
            .group(row(1), Parts::WITH_TREE)
            .await
            .unwrap()
            .unwrap()
            .tree,
        Some(value(changes))
    );
    for epoch in 1..=changes {
        assert!(is_delivered(&store, epoch).await);
    }
}

pub async fn no_message_lands_behind_an_epoch_change(store: Engine) {
    const MESSAGES: u64 = 8;
    for group in 0..6 {
        found(&store, group).await;
        let base = 1_000 * (group + 1);
        let changed = Arc::new(AtomicBool::new(false));
        // The last contender changes the epoch, then looks which messages are there by then.
        let landed = race(MANY, |number| {
            let (store, changed) = (Arc::clone(&store), Arc::clone(&changed));
            async move {
                let mut landed = Vec::new();
                if number == MANY - 1 {
                    store
                        .advance_group(advance(group, 0, base), free())
                        .await
                        .unwrap();
                    changed.store(true, Ordering::SeqCst);
                    for message in base + 1..=base + MANY * MESSAGES {
                        if is_delivered(&store, message).await {
                            landed.push(message);
                        }
                    }
                    return landed;
                }
                for step in 0..MESSAGES {
                    let message = base + 1 + number * MESSAGES + step;
                    let late = changed.load(Ordering::SeqCst);
                    match store
                        .deliver_to_group(
                            row(group),
                            version(0),
                            delivery(message),
                            receipt(message),
                        )
                        .await
                    {
                        Ok(()) => {
                            assert!(!late, "a message was accepted behind the epoch change");
                            landed.push(message);
                        }
                        Err(StoreError::Conflict) => assert!(!is_delivered(&store, message).await),
                        Err(error) => panic!("{error:?}"),
                    }
                }
                landed
            }
        })
        .await;
        let (seen_by_committer, accepted) = landed.split_last().unwrap();
        assert_eq!(accepted.concat(), *seen_by_committer);
    }
}

pub async fn messages_to_one_group_all_arrive(store: Engine) {
    found(&store, 1).await;
    race(MANY, |number| {
        let store = Arc::clone(&store);
        async move {
            for message in (1..=8).map(|step| 100 * (number + 1) + step) {
                store
                    .deliver_to_group(row(1), version(0), delivery(message), receipt(message))
                    .await
                    .unwrap();
                assert!(is_delivered(&store, message).await);
            }
        }
    })
    .await;
}

pub async fn all_parts_of_a_group_are_of_one_version(store: Engine) {
    found(&store, 1).await;
    let done = Arc::new(AtomicBool::new(false));
    race(6, |number| {
        let (store, done) = (Arc::clone(&store), Arc::clone(&done));
        async move {
            if number == 0 {
                for epoch in 0..40 {
                    store
                        .advance_group(advance(1, epoch, epoch + 1), free())
                        .await
                        .unwrap();
                }
                done.store(true, Ordering::SeqCst);
                return;
            }
            while !done.load(Ordering::SeqCst) {
                let stored = store.group(row(1), Parts::ALL).await.unwrap().unwrap();
                assert_eq!(stored.tree.as_ref(), Some(&stored.roster));
                let epoch = u64::from_be_bytes(stored.roster[..8].try_into().unwrap());
                assert_eq!(stored.version, version(epoch));
                assert_eq!(stored.proposals, (epoch > 0).then(|| value(epoch)));
                // An engine that never waits would keep the writer off the runtime's threads.
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
}

pub async fn a_token_is_spent_once_by_racing_requests(store: Engine) {
    for round in 0..8 {
        let base = 1_000 * (round + 1);
        // Different requests, the same token, and each one more of its own.
        let asked = move |number| Receipt {
            spends: vec![token(1, base + number), token(1, base + 500)],
            result: Some(result(base + number)),
        };
        let answers = race(MANY, |number| {
            let store = Arc::clone(&store);
            async move { store.deliver(delivery(base + number), asked(number)).await }
        })
        .await;
        let winner = only_winner(&answers, |error| matches!(error, StoreError::TokenSpent));
        for number in 0..MANY {
            assert_eq!(is_delivered(&store, base + number).await, number == winner);
            if number != winner {
                assert_not_charged(&store, receipt(base + number)).await;
            }
        }
    }
}

pub async fn a_repeated_request_has_one_effect(store: Engine) {
    for round in 0..8 {
        let answers = race(MANY, |number| {
            let store = Arc::clone(&store);
            // Every attempt would deliver something else; the request is the same.
            async move {
                store
                    .deliver(delivery(1_000 * (round + 1) + number), receipt(round))
                    .await
            }
        })
        .await;
        let done = |error: &StoreError| matches!(error, StoreError::AlreadyDone(done) if *done == value(round));
        let winner = only_winner(&answers, done);
        for number in 0..MANY {
            assert_eq!(
                is_delivered(&store, 1_000 * (round + 1) + number).await,
                number == winner
            );
        }
    }
}

pub async fn a_group_id_is_reserved_once_by_racing_requests(store: Engine) {
    for group in 0..8 {
        let answers = race(MANY, |number| {
            let store = Arc::clone(&store);
            // On both sides of midnight.
            let day = TODAY - u32::from(number % 2 == 0);
            let asked = Reservation {
                at: on(day, group),
                owner_tag: owner(number as u8),
            };
            async move {
                store
                    .reserve_group(asked, receipt(1_000 * (group + 1) + number))
                    .await
            }
        })
        .await;
        let winner = only_winner(&answers, |error| matches!(error, StoreError::Taken));
        for number in 0..MANY {
            let created = store
                .create_group(new_group(group, number as u8), free())
                .await;
            assert_eq!(created.is_ok(), number == winner);
        }
    }
}

pub async fn a_group_is_created_once_by_racing_requests(store: Engine) {
    for group in 0..8 {
        store
            .reserve_group(reservation(group, 1), free())
            .await
            .unwrap();
        let answers = race(MANY, |number| {
            let store = Arc::clone(&store);
            let mut asked = new_group(group, 1);
            asked.roster = value(number);
            asked.tree = value(number);
            async move {
                store
                    .create_group(asked, receipt(1_000 * (group + 1) + number))
                    .await
            }
        })
        .await;
        let winner = only_winner(&answers, |error| {
            matches!(error, StoreError::Absent | StoreError::Taken)
        });
        let stored = store
            .group(row(group), Parts::WITH_TREE)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (stored.roster, stored.tree),
            (value(winner), Some(value(winner)))
        );
    }
}

pub async fn a_pool_and_a_handle_have_one_owner_after_a_race(store: Engine) {
    for round in 0..4 {
        let answers = race(MANY, |number| {
            let store = Arc::clone(&store);
            let sets = vec![last_resort(number, TODAY)];
            async move {
                store
                    .publish_key_packages(row(round), owner(number as u8), sets, free())
                    .await
            }
        })
        .await;
        let winner = only_winner(&answers, |error| matches!(error, StoreError::Taken));
        let found = store
            .claimable_set(row(round), SUITE, TODAY, 0)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found.sealed, value(winner));

        let answers = race(MANY, |number| {
            let store = Arc::clone(&store);
            async move {
                store
                    .register_handle(row(round), owner(number as u8), value(number), free())
                    .await
            }
        })
        .await;
        let winner = only_winner(&answers, |error| matches!(error, StoreError::Taken));
        assert_eq!(store.handle(row(round)).await.unwrap(), Some(value(winner)));

        let answers = race(MANY, |number| {
            let store = Arc::clone(&store);
            async move { store.create_queue(row(round), value(number), free()).await }
        })
        .await;
        let winner = only_winner(&answers, |error| matches!(error, StoreError::Taken));
        assert_eq!(store.queue(row(round)).await.unwrap(), Some(value(winner)));
    }
}

pub async fn each_set_goes_to_one_of_many_claimers(store: Engine) {
    const SETS: u64 = 30;
    const CLAIMERS: u64 = 40;
    let sets = (0..SETS).map(|number| set(number, TODAY + (number % 3) as u32));
    publish(&store, 1, sets.chain([last_resort(SETS, TODAY)]).collect()).await;
    let claimed = race(CLAIMERS, |number| {
        let store = Arc::clone(&store);
        async move {
            for attempt in 0_u64.. {
                let pick = (number * 1_000 + attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
                let found = store
                    .claimable_set(row(1), SUITE, TODAY, pick)
                    .await
                    .unwrap()
                    .unwrap();
                let sets = found.consume.into_iter().collect();
                match store
                    .claim_key_packages(sets, receipt(1_000 + number))
                    .await
                {
                    Ok(()) => return found.sealed,
                    Err(StoreError::Conflict) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            unreachable!()
        }
    })
    .await;
    let mut times = BTreeMap::new();
    for sealed in claimed {
        *times.entry(sealed).or_insert(0) += 1;
    }
    for number in 0..SETS {
        assert_eq!(times.remove(&value(number)), Some(1), "set {number}");
    }
    assert_eq!(times, BTreeMap::from([(value(SETS), CLAIMERS - SETS)]));
}

pub async fn claims_that_overlap_crosswise_do_not_block_each_other(store: Engine) {
    for round in 0..20 {
        let numbers = 10 * round..10 * round + 6;
        publish(
            &store,
            1,
            numbers.clone().map(|number| set(number, TODAY)).collect(),
        )
        .await;
        let answers = race(MANY, |number| {
            let store = Arc::clone(&store);
            let mut sets: Vec<_> = numbers
                .clone()
                .map(|number| consumed(1, number, TODAY))
                .collect();
            let turn = number as usize % sets.len();
            sets.rotate_left(turn);
            async move { store.claim_key_packages(sets, free()).await }
        })
        .await;
        only_winner(&answers, |error| matches!(error, StoreError::Conflict));
    }
}

pub async fn an_entry_acknowledged_by_many_gives_up_one_reference(store: Engine) {
    for payload in (0..30).map(|round| 100 * (round + 1)) {
        share(&store, payload, &[payload + 1, payload + 2]).await;
        race(MANY / 3, |_| {
            let store = Arc::clone(&store);
            async move {
                store
                    .acknowledge(vec![(today(payload + 1), today(payload))])
                    .await
                    .unwrap()
            }
        })
        .await;
        assert!(
            has_payload(&store, payload).await,
            "one entry still points to the payload"
        );
        store
            .acknowledge(vec![(today(payload + 2), today(payload))])
            .await
            .unwrap();
        assert!(!has_payload(&store, payload).await);
    }
}

pub async fn recipients_who_acknowledge_at_once_leave_no_payload(store: Engine) {
    for round in 0..8 {
        let base = 1_000 * (round + 1);
        let payloads: [u64; 2] = [base, base + 1];
        let entry = move |payload, number| base + 100 * (payload - base + 1) + number;
        for payload in payloads {
            let entries: Vec<_> = (0..MANY).map(|number| entry(payload, number)).collect();
            share(&store, payload, &entries).await;
        }
        race(MANY, |number| {
            let store = Arc::clone(&store);
            let mine: Vec<(DayRow, DayRow)> = payloads
                .map(|payload| (today(entry(payload, number)), today(payload)))
                .to_vec();
            async move { store.acknowledge(mine).await.unwrap() }
        })
        .await;
        for payload in payloads {
            assert!(!has_payload(&store, payload).await);
        }
    }
}
