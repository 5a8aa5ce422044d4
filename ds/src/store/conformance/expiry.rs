//! The end of days.

use protocol::ids::Incarnation;

use super::fixtures::*;
use crate::store::{
    Deliveries, ExpiryDays, NewPayload, Parts, Reservation, ResultRecord, StoreError,
};

/// Days of the rows that these tests write, oldest first.
const DAYS: [u32; 4] = [TODAY - 300, TODAY - 1, TODAY, TODAY + 1];

fn nothing() -> ExpiryDays {
    ExpiryDays {
        queues: 0,
        results: 0,
        join_records: 0,
        reservations: 0,
        key_packages: 0,
    }
}

pub async fn queues_expire_by_their_day(store: Engine) {
    for day in DAYS {
        for number in 0..20 {
            let deliveries = Deliveries {
                payloads: vec![NewPayload {
                    at: on(day, number),
                    sealed: value(number),
                    references: 1,
                }],
                entries: vec![(on(day, number), value(number))],
                blocks: vec![on(day, number)],
            };
            store.deliver(deliveries, free()).await.unwrap();
        }
        store
            .register_incarnation(day, Incarnation([1; 16]))
            .await
            .unwrap();
    }
    store
        .expire(ExpiryDays {
            queues: TODAY,
            ..nothing()
        })
        .await
        .unwrap();
    for day in DAYS {
        let rows: Vec<_> = (0..20).map(|number| on(day, number)).collect();
        let kept = day >= TODAY;
        assert!(
            store
                .entries(rows.clone())
                .await
                .unwrap()
                .iter()
                .all(|entry| entry.is_some() == kept)
        );
        assert!(
            store
                .payloads(rows.clone())
                .await
                .unwrap()
                .iter()
                .all(|payload| payload.is_some() == kept)
        );
        assert!(
            store
                .blocks(rows)
                .await
                .unwrap()
                .iter()
                .all(|block| *block == kept)
        );
    }
    let days: Vec<_> = store
        .incarnations()
        .await
        .unwrap()
        .into_iter()
        .map(|(day, _)| day)
        .collect();
    assert_eq!(days, [TODAY, TODAY + 1]);
}

pub async fn results_expire_by_their_day(store: Engine) {
    let record = |day| {
        Some(ResultRecord {
            at: on(day, 1),
            sealed: value(1),
        })
    };
    for day in DAYS {
        let receipt = crate::store::Receipt {
            result: record(day),
            ..free()
        };
        store.settle(receipt).await.unwrap();
    }
    store.settle(paying(vec![token(1, 1)])).await.unwrap();
    store
        .expire(ExpiryDays {
            results: TODAY,
            ..nothing()
        })
        .await
        .unwrap();
    for day in DAYS {
        assert_eq!(
            store.result(on(day, 1)).await.unwrap().is_some(),
            day >= TODAY
        );
    }
    // A token stays spent until its issuer key goes.
    assert!(matches!(
        store.settle(paying(vec![token(1, 1)])).await,
        Err(StoreError::TokenSpent)
    ));
}

pub async fn join_records_and_reservations_expire_by_their_day(store: Engine) {
    found(&store, 1).await;
    for (epoch, day) in (0..).zip(DAYS) {
        let mut change = advance(1, epoch, epoch + 1);
        change.join_record = Some((on(day, 1), value(1)));
        store.advance_group(change, free()).await.unwrap();
        let reserved = Reservation {
            at: on(day, 100 + epoch),
            owner_tag: owner(1),
        };
        store.reserve_group(reserved, free()).await.unwrap();
    }
    store
        .expire(ExpiryDays {
            join_records: TODAY,
            ..nothing()
        })
        .await
        .unwrap();
    for (epoch, day) in (0..).zip(DAYS) {
        assert_eq!(
            store.join_record(vec![on(day, 1)]).await.unwrap().is_some(),
            day >= TODAY
        );
        let again = Reservation {
            at: on(day, 100 + epoch),
            owner_tag: owner(1),
        };
        assert!(matches!(
            store.reserve_group(again, free()).await,
            Err(StoreError::Taken)
        ));
    }
    store
        .expire(ExpiryDays {
            reservations: TODAY,
            ..nothing()
        })
        .await
        .unwrap();
    for (epoch, day) in (0..).zip(DAYS) {
        let again = Reservation {
            at: on(day, 100 + epoch),
            owner_tag: owner(2),
        };
        assert_eq!(
            store.reserve_group(again, free()).await.is_ok(),
            day < TODAY
        );
    }
}

pub async fn key_packages_expire_by_their_day(store: Engine) {
    for pool in 0..5 {
        let sets = (0..).zip(DAYS).map(|(number, day)| set(number, day));
        publish(
            &store,
            pool,
            sets.chain([last_resort(50, DAYS[pool as usize % 4])])
                .collect(),
        )
        .await;
    }
    store
        .expire(ExpiryDays {
            key_packages: TODAY,
            ..nothing()
        })
        .await
        .unwrap();
    for pool in 0..5 {
        for (number, day) in (0..).zip(DAYS) {
            let claimed = store
                .claim_key_packages(vec![consumed(pool, number, day)], free())
                .await;
            assert_eq!(claimed.is_ok(), day >= TODAY);
        }
        let left = store.claimable_set(row(pool), SUITE, 0, 0).await.unwrap();
        assert_eq!(left.is_some(), DAYS[pool as usize % 4] >= TODAY);
        // The pool is still its owner's.
        let other = store
            .publish_key_packages(row(pool), owner(2), Vec::new(), free())
            .await;
        assert!(matches!(other, Err(StoreError::Taken)));
    }
}

pub async fn expiry_leaves_what_has_no_day(store: Engine) {
    found(&store, 1).await;
    let mut change = advance(1, 0, 1);
    change.recovery_records = vec![(row(1), value(1))];
    store.advance_group(change, free()).await.unwrap();
    found(&store, 2).await;
    store.delete_group(deletion(2, 0, 2), free()).await.unwrap();
    store.create_queue(row(1), value(1), free()).await.unwrap();
    store
        .register_handle(row(1), owner(1), value(1), free())
        .await
        .unwrap();
    let all = u32::MAX;
    let days = ExpiryDays {
        queues: all,
        results: all,
        join_records: all,
        reservations: all,
        key_packages: all,
    };
    store.expire(days).await.unwrap();
    assert_eq!(
        store.group(row(1), Parts::ALL).await.unwrap(),
        Some(stored(1, Parts::ALL))
    );
    let deleted = store.reserve_group(reservation(2, 1), free()).await;
    assert!(matches!(deleted, Err(StoreError::Taken)));
    assert_eq!(store.recovery_record(row(1)).await.unwrap(), Some(value(1)));
    assert_eq!(store.queue(row(1)).await.unwrap(), Some(value(1)));
    assert_eq!(store.handle(row(1)).await.unwrap(), Some(value(1)));
    store.check().await.unwrap();
}

pub async fn expiry_can_be_repeated(store: Engine) {
    for today in TODAY..TODAY + 5 {
        let deliveries = Deliveries {
            entries: vec![(on(today, 1), value(1))],
            ..Deliveries::default()
        };
        store.deliver(deliveries, free()).await.unwrap();
        for _ in 0..2 {
            store
                .expire(ExpiryDays {
                    queues: today,
                    ..nothing()
                })
                .await
                .unwrap();
        }
        let entries = store
            .entries(vec![on(today - 1, 1), on(today, 1)])
            .await
            .unwrap();
        assert_eq!(entries, [None, Some(value(1))]);
    }
    // What comes late for a day that is over is written, and goes the next time.
    let late = Deliveries {
        entries: vec![(on(TODAY, 2), value(2))],
        ..Deliveries::default()
    };
    store.deliver(late, free()).await.unwrap();
    assert_eq!(
        store.entries(vec![on(TODAY, 2)]).await.unwrap(),
        [Some(value(2))]
    );
    store
        .expire(ExpiryDays {
            queues: TODAY + 4,
            ..nothing()
        })
        .await
        .unwrap();
    assert_eq!(store.entries(vec![on(TODAY, 2)]).await.unwrap(), [None]);
}
