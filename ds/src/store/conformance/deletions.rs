//! What goes for good, on demand: groups, queues, pools and handles, also while others use them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::fixtures::*;
use crate::store::{ClaimableSet, NewGroup, NewKeyPackageSet, Parts, Reservation, StoreError};

/// Contenders of a race.
const MANY: u64 = 24;

pub async fn nothing_of_a_deleted_group_is_left(store: Engine) {
    for group in [1, 2] {
        let next = 10 * group;
        found(&store, group).await;
        let mut change = advance(group, 0, next);
        change.join_record = Some((today(next), value(next)));
        change.recovery_records = vec![(row(next), value(next)), (row(next + 1), value(next))];
        store.advance_group(change, free()).await.unwrap();
    }
    let mut asked = deletion(1, 10, 12);
    asked.dropped_join_records = vec![today(10)];
    asked.dropped_recovery_records = vec![row(10), row(11)];
    store.delete_group(asked, receipt(1)).await.unwrap();

    for parts in [Parts::ROSTER, Parts::ALL] {
        assert_eq!(store.group(row(1), parts).await.unwrap(), None);
        // The other one is as it was.
        assert_eq!(
            store.group(row(2), parts).await.unwrap(),
            Some(stored(20, parts))
        );
    }
    let join_record = async |number| store.join_record(vec![today(number)]).await.unwrap();
    assert_eq!(join_record(10).await, None);
    assert_eq!(join_record(20).await, Some(value(20)));
    for number in [10, 11] {
        assert_eq!(store.recovery_record(row(number)).await.unwrap(), None);
    }
    for number in [20, 21] {
        let kept = store.recovery_record(row(number)).await.unwrap();
        assert_eq!(kept, Some(value(20)));
    }
    // What is under way to the members, and what tells them of the end, arrives.
    assert!(is_delivered(&store, 10).await && is_delivered(&store, 12).await);
}

pub async fn a_deleted_group_leaves_its_id_in_use(store: Engine) {
    // A second reservation of the id, too far off to hinder the first one, which may replace it.
    let later = Reservation {
        at: on(TODAY + 3, 1),
        owner_tag: owner(1),
    };
    store.reserve_group(later, free()).await.unwrap();
    found(&store, 1).await;
    store
        .delete_group(deletion(1, 0, 10), free())
        .await
        .unwrap();

    for day in [TODAY - 1, TODAY, TODAY + 9] {
        let again = Reservation {
            at: on(day, 1),
            owner_tag: owner(1),
        };
        let answer = store.reserve_group(again, free()).await;
        assert!(matches!(answer, Err(StoreError::Taken)), "day {day}");
    }
    let again = NewGroup {
        reservation_days: vec![TODAY + 3],
        ..new_group(1, 1)
    };
    assert!(matches!(
        store.create_group(again, receipt(1)).await,
        Err(StoreError::Taken | StoreError::Absent)
    ));
    for expected in [version(0), [0; 16]] {
        let mut change = advance(1, 0, 11);
        change.expected = expected;
        assert!(matches!(
            store.advance_group(change, receipt(1)).await,
            Err(StoreError::Conflict)
        ));
        let message = store
            .deliver_to_group(row(1), expected, delivery(11), receipt(1))
            .await;
        assert!(matches!(message, Err(StoreError::Conflict)));
        let mut asked = deletion(1, 0, 11);
        asked.expected = expected;
        assert!(matches!(
            store.delete_group(asked, receipt(1)).await,
            Err(StoreError::Conflict)
        ));
    }
    assert!(!is_delivered(&store, 11).await);
    assert_eq!(store.group(row(1), Parts::ALL).await.unwrap(), None);
    assert_not_charged(&store, receipt(1)).await;
}

pub async fn a_deletion_from_another_version_changes_nothing(store: Engine) {
    found(&store, 1).await;
    let mut change = advance(1, 0, 10);
    change.join_record = Some((today(10), value(10)));
    change.recovery_records = vec![(row(10), value(10))];
    store.advance_group(change, free()).await.unwrap();
    for expected in [0, 7] {
        let mut stale = deletion(1, expected, 11);
        stale.dropped_join_records = vec![today(10)];
        stale.dropped_recovery_records = vec![row(10)];
        assert!(matches!(
            store.delete_group(stale, receipt(1)).await,
            Err(StoreError::Conflict)
        ));
    }
    assert_eq!(
        store.group(row(1), Parts::ALL).await.unwrap(),
        Some(stored(10, Parts::ALL))
    );
    let record = store.join_record(vec![today(10)]).await.unwrap();
    assert_eq!(record, Some(value(10)));
    let record = store.recovery_record(row(10)).await.unwrap();
    assert_eq!(record, Some(value(10)));
    assert!(!is_delivered(&store, 11).await);
    assert_not_charged(&store, receipt(1)).await;
}

pub async fn of_racing_epoch_changes_and_deletions_one_is_first(store: Engine) {
    for group in 0..8 {
        found(&store, group).await;
        let base = 1_000 * (group + 1);
        let answers = race(MANY, |number| {
            let (store, next) = (Arc::clone(&store), base + number);
            async move {
                if number % 2 == 0 {
                    let asked = deletion(group, 0, next);
                    store.delete_group(asked, receipt(next)).await
                } else {
                    let asked = advance(group, 0, next);
                    store.advance_group(asked, receipt(next)).await
                }
            }
        })
        .await;
        let winner = only_winner(&answers, |error| matches!(error, StoreError::Conflict));
        let left = (winner % 2 == 1).then(|| stored(base + winner, Parts::ALL));
        assert_eq!(store.group(row(group), Parts::ALL).await.unwrap(), left);
        for next in base..base + MANY {
            let first = next == base + winner;
            assert_eq!(is_delivered(&store, next).await, first);
            if !first {
                assert_not_charged(&store, receipt(next)).await;
            }
        }
    }
}

pub async fn no_message_lands_behind_a_deletion(store: Engine) {
    const MESSAGES: u64 = 8;
    for group in 0..6 {
        found(&store, group).await;
        let base = 1_000 * (group + 1);
        let deleted = Arc::new(AtomicBool::new(false));
        // The last contender deletes the group, then looks which messages are there by then.
        let landed = race(MANY, |number| {
            let (store, deleted) = (Arc::clone(&store), Arc::clone(&deleted));
            async move {
                let mut landed = Vec::new();
                if number == MANY - 1 {
                    store
                        .delete_group(deletion(group, 0, base), free())
                        .await
                        .unwrap();
                    deleted.store(true, Ordering::SeqCst);
                    for message in base + 1..=base + MANY * MESSAGES {
                        if is_delivered(&store, message).await {
                            landed.push(message);
                        }
                    }
                    return landed;
                }
                for step in 0..MESSAGES {
                    let message = base + 1 + number * MESSAGES + step;
                    let late = deleted.load(Ordering::SeqCst);
                    let sent = store.deliver_to_group(
                        row(group),
                        version(0),
                        delivery(message),
                        receipt(message),
                    );
                    match sent.await {
                        Ok(()) => {
                            assert!(!late, "a message was accepted behind the deletion");
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
        let (seen_by_deleter, accepted) = landed.split_last().unwrap();
        assert_eq!(accepted.concat(), *seen_by_deleter);
        assert_eq!(store.group(row(group), Parts::ALL).await.unwrap(), None);
    }
}

pub async fn a_deleted_queue_is_gone_and_its_name_free(store: Engine) {
    for queue in [1, 2] {
        store
            .create_queue(row(queue), value(queue), free())
            .await
            .unwrap();
    }
    store
        .replace_queue(row(1), value(1), None, free())
        .await
        .unwrap();
    assert_eq!(store.queue(row(1)).await.unwrap(), None);
    assert_eq!(
        store.queues(vec![row(1), row(2)]).await.unwrap(),
        [None, Some(value(2))]
    );
    for sealed in [Some(value(3)), None] {
        let again = store.replace_queue(row(1), value(1), sealed, free()).await;
        assert!(matches!(again, Err(StoreError::Conflict)));
    }
    assert_eq!(store.queue(row(1)).await.unwrap(), None);
    store.create_queue(row(1), value(4), free()).await.unwrap();
    assert_eq!(store.queue(row(1)).await.unwrap(), Some(value(4)));
}

pub async fn of_racing_replacements_of_a_queue_one_is_first(store: Engine) {
    for queue in 0..8 {
        let base = 1_000 * (queue + 1);
        store
            .create_queue(row(queue), value(base), free())
            .await
            .unwrap();
        let next = move |number| (number % 3 != 0).then(|| value(base + 1 + number));
        let answers = race(MANY, |number| {
            let store = Arc::clone(&store);
            async move {
                store
                    .replace_queue(
                        row(queue),
                        value(base),
                        next(number),
                        receipt(base + number),
                    )
                    .await
            }
        })
        .await;
        let winner = only_winner(&answers, |error| matches!(error, StoreError::Conflict));
        assert_eq!(store.queue(row(queue)).await.unwrap(), next(winner));
        for number in (0..MANY).filter(|number| *number != winner) {
            assert_not_charged(&store, receipt(base + number)).await;
        }
    }
}

pub async fn no_replacement_of_a_queue_is_lost(store: Engine) {
    const EACH: u64 = 4;
    store.create_queue(row(1), value(0), free()).await.unwrap();
    race(MANY / 3, |_| {
        let store = Arc::clone(&store);
        async move {
            let mut done = 0;
            while done < EACH {
                // The record counts its replacements.
                let record = store.queue(row(1)).await.unwrap().unwrap();
                let count = u64::from_be_bytes(record[..8].try_into().unwrap());
                match store
                    .replace_queue(row(1), record, Some(value(count + 1)), free())
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
    assert_eq!(
        store.queue(row(1)).await.unwrap(),
        Some(value(MANY / 3 * EACH))
    );
}

async fn claimable(store: &Engine, pool: [u8; 16], ciphersuite: u16) -> Option<ClaimableSet> {
    store
        .claimable_set(pool, ciphersuite, TODAY, 0)
        .await
        .unwrap()
}

pub async fn only_its_owner_deletes_a_pool(store: Engine) {
    publish(&store, 1, vec![set(1, TODAY), last_resort(2, TODAY)]).await;
    let delete = |pool, by| store.delete_key_packages(row(pool), owner(by), receipt(1));
    assert!(matches!(delete(1, 2).await, Err(StoreError::Taken)));
    assert!(matches!(delete(2, 1).await, Err(StoreError::Absent)));
    assert_eq!(
        claimable(&store, row(1), SUITE).await.unwrap().sealed,
        value(1)
    );
    store
        .claim_key_packages(vec![consumed(1, 1, TODAY)], free())
        .await
        .unwrap();
    assert_eq!(
        claimable(&store, row(1), SUITE).await.unwrap().sealed,
        value(2)
    );
    assert_not_charged(&store, receipt(1)).await;

    // Of a pool whose sets were all claimed, its owner is left.
    let delete = |by| store.delete_key_packages(row(1), owner(by), free());
    delete(1).await.unwrap();
    assert!(matches!(delete(1).await, Err(StoreError::Absent)));
}

pub async fn a_deleted_pool_takes_its_sets_along_and_no_others(store: Engine) {
    // Neighbours in every order of rows, the last row of all among them.
    let pools = [0x00, 0x7e, 0x7f, 0x80, 0xff].map(|byte| [byte; 16]);
    let suites = [0, 1, 2, u16::MAX];
    let sets = || {
        let of_suite = |ciphersuite| {
            let in_suite = move |set| NewKeyPackageSet { ciphersuite, ..set };
            [
                set(1, TODAY),
                set(2, u32::MAX),
                set(3, TODAY - 1),
                last_resort(4, TODAY),
            ]
            .map(in_suite)
        };
        suites.into_iter().flat_map(of_suite).collect::<Vec<_>>()
    };
    for pool in pools {
        store
            .publish_key_packages(pool, owner(1), sets(), free())
            .await
            .unwrap();
    }
    let deleted = [[0x7f; 16], [0xff; 16]];
    for pool in deleted {
        store
            .delete_key_packages(pool, owner(1), free())
            .await
            .unwrap();
    }
    for (pool, suite) in pools
        .iter()
        .flat_map(|pool| suites.map(|suite| (*pool, suite)))
    {
        let mut left = Vec::new();
        while let Some(ClaimableSet { consume, sealed }) = claimable(&store, pool, suite).await {
            left.push(sealed);
            let Some(consume) = consume else { break };
            store
                .claim_key_packages(vec![consume], free())
                .await
                .unwrap();
        }
        let all = vec![value(1), value(2), value(4)];
        let expected = if deleted.contains(&pool) {
            Vec::new()
        } else {
            all
        };
        assert_eq!(left, expected, "pool {}, suite {suite}", pool[0]);
    }

    // The name is free for another, who finds nothing of what was there.
    let own = vec![set(9, TODAY)];
    store
        .publish_key_packages([0x7f; 16], owner(2), own, free())
        .await
        .unwrap();
    let found = claimable(&store, [0x7f; 16], SUITE).await.unwrap();
    assert_eq!(found.sealed, value(9));
    store
        .claim_key_packages(vec![found.consume.unwrap()], free())
        .await
        .unwrap();
    assert_eq!(claimable(&store, [0x7f; 16], SUITE).await, None);
}

pub async fn claims_that_race_the_deletion_of_a_pool_get_each_set_once_or_not(store: Engine) {
    const SETS: u64 = 30;
    for pool in 0..6 {
        let base = 1_000 * (pool + 1);
        let sets = (0..SETS).map(|number| set(base + number, TODAY));
        publish(&store, pool, sets.collect()).await;
        let deleted = Arc::new(AtomicBool::new(false));
        let claimed = race(MANY, |number| {
            let (store, deleted) = (Arc::clone(&store), Arc::clone(&deleted));
            async move {
                let mut claimed = Vec::new();
                if number == MANY - 1 {
                    let own = store.delete_key_packages(row(pool), owner(1), free());
                    own.await.unwrap();
                    deleted.store(true, Ordering::SeqCst);
                    return claimed;
                }
                for step in 0..SETS {
                    let wanted = base + (number + step) % SETS;
                    let late = deleted.load(Ordering::SeqCst);
                    let asked = vec![consumed(pool, wanted, TODAY)];
                    match store.claim_key_packages(asked, free()).await {
                        Ok(()) => {
                            assert!(!late, "a set was handed out behind the deletion");
                            claimed.push(wanted);
                        }
                        Err(StoreError::Conflict) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
                claimed
            }
        })
        .await
        .concat();
        let once: BTreeSet<_> = claimed.iter().collect();
        assert_eq!(once.len(), claimed.len(), "a set was handed out twice");
        assert_eq!(claimable(&store, row(pool), SUITE).await, None);
    }
}

pub async fn a_publication_that_races_a_deletion_is_there_whole_or_not_at_all(store: Engine) {
    for pool in 0..16 {
        publish(&store, pool, vec![set(1, TODAY), last_resort(2, TODAY)]).await;
        race(2, |number| {
            let store = Arc::clone(&store);
            async move {
                if number == 0 {
                    let own = store.delete_key_packages(row(pool), owner(1), free());
                    own.await.unwrap();
                } else {
                    let more = vec![set(3, TODAY), last_resort(4, TODAY)];
                    publish(&store, pool, more).await;
                }
            }
        })
        .await;
        let first = claimable(&store, row(pool), SUITE).await;
        let Some(first) = first else {
            let again = store.delete_key_packages(row(pool), owner(1), free()).await;
            assert!(matches!(again, Err(StoreError::Absent)));
            continue;
        };
        assert_eq!(first.consume, Some(consumed(pool, 3, TODAY)));
        store
            .claim_key_packages(vec![first.consume.unwrap()], free())
            .await
            .unwrap();
        let last = claimable(&store, row(pool), SUITE).await.unwrap();
        assert_eq!((last.consume, last.sealed), (None, value(4)));
        store
            .delete_key_packages(row(pool), owner(1), free())
            .await
            .unwrap();
    }
}

pub async fn only_its_owner_deletes_a_handle_which_is_then_free(store: Engine) {
    for handle in [1, 2] {
        store
            .register_handle(row(handle), owner(1), value(handle), free())
            .await
            .unwrap();
    }
    let delete = |handle, by| store.delete_handle(row(handle), owner(by), receipt(1));
    assert!(matches!(delete(1, 2).await, Err(StoreError::Taken)));
    assert!(matches!(delete(3, 1).await, Err(StoreError::Absent)));
    assert_eq!(store.handle(row(1)).await.unwrap(), Some(value(1)));
    assert_not_charged(&store, receipt(1)).await;

    let delete = |by| store.delete_handle(row(1), owner(by), free());
    delete(1).await.unwrap();
    assert_eq!(store.handle(row(1)).await.unwrap(), None);
    assert_eq!(store.handle(row(2)).await.unwrap(), Some(value(2)));
    assert!(matches!(delete(1).await, Err(StoreError::Absent)));
    store
        .register_handle(row(1), owner(2), value(3), free())
        .await
        .unwrap();
    assert_eq!(store.handle(row(1)).await.unwrap(), Some(value(3)));
}
