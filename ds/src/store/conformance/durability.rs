//! For engines that keep what they are given: write one of everything, open again, find it.

use protocol::ids::Incarnation;

use super::fixtures::*;
use crate::store::{Parts, Receipt, StoreError};

/// One row in every table, some replaced or deleted again.
pub async fn write_one_of_everything(store: Engine) {
    store
        .reserve_group(reservation(2, 1), receipt(1))
        .await
        .unwrap();
    found(&store, 1).await;
    let mut change = advance(1, 0, 10);
    change.join_record = Some((today(10), value(10)));
    change.recovery_records = vec![(row(10), value(10))];
    store.advance_group(change, receipt(2)).await.unwrap();
    store
        .deliver_to_group(row(1), version(10), delivery(11), receipt(3))
        .await
        .unwrap();
    share(&store, 20, &[21, 22]).await;
    share(&store, 30, &[31]).await;
    store
        .acknowledge(vec![(today(21), today(20)), (today(31), today(30))])
        .await
        .unwrap();
    store.create_queue(row(1), value(1), free()).await.unwrap();
    store
        .register_incarnation(TODAY, Incarnation([1; 16]))
        .await
        .unwrap();
    publish(
        &store,
        1,
        vec![set(1, TODAY), set(2, TODAY), last_resort(3, TODAY)],
    )
    .await;
    store
        .claim_key_packages(vec![consumed(1, 1, TODAY)], receipt(4))
        .await
        .unwrap();
    store
        .register_handle(row(1), owner(1), value(1), free())
        .await
        .unwrap();
    delete_one_of_each(&store).await;
}

async fn delete_one_of_each(store: &Engine) {
    found(store, 3).await;
    store
        .delete_group(deletion(3, 0, 12), free())
        .await
        .unwrap();
    for (queue, sealed) in [(2, Some(value(3))), (3, None)] {
        store
            .create_queue(row(queue), value(2), free())
            .await
            .unwrap();
        store
            .replace_queue(row(queue), value(2), sealed, free())
            .await
            .unwrap();
    }
    publish(store, 2, vec![set(4, TODAY), last_resort(5, TODAY)]).await;
    store
        .delete_key_packages(row(2), owner(1), free())
        .await
        .unwrap();
    store
        .register_handle(row(2), owner(1), value(2), free())
        .await
        .unwrap();
    store.delete_handle(row(2), owner(1), free()).await.unwrap();
}

/// All that [`write_one_of_everything`] left; may be called once, since it goes on from there.
pub async fn find_one_of_everything(store: Engine) {
    for number in 1..=4 {
        assert_eq!(
            store.result(today(number)).await.unwrap(),
            Some(value(number))
        );
        let again = Receipt {
            spends: vec![token(1, number)],
            result: None,
        };
        assert!(matches!(
            store.settle(again).await,
            Err(StoreError::TokenSpent)
        ));
    }
    assert_eq!(
        store.group(row(1), Parts::ALL).await.unwrap(),
        Some(stored(10, Parts::ALL))
    );
    assert_eq!(store.group(row(3), Parts::ALL).await.unwrap(), None);
    let again = store.reserve_group(reservation(3, 1), free()).await;
    assert!(matches!(again, Err(StoreError::Taken)));
    assert_eq!(
        store.join_record(vec![today(10)]).await.unwrap(),
        Some(value(10))
    );
    assert_eq!(
        store.recovery_record(row(10)).await.unwrap(),
        Some(value(10))
    );
    assert!(is_delivered(&store, 10).await && is_delivered(&store, 11).await);
    let entries = store
        .entries(vec![today(21), today(22), today(31)])
        .await
        .unwrap();
    assert_eq!(entries, [None, Some(value(22)), None]);
    assert!(has_payload(&store, 20).await && !has_payload(&store, 30).await);
    let queues = store.queues(vec![row(1), row(2), row(3)]).await.unwrap();
    assert_eq!(queues, [Some(value(1)), Some(value(3)), None]);
    let deleted = store.claimable_set(row(2), SUITE, TODAY, 0).await.unwrap();
    assert_eq!(deleted, None);
    assert_eq!(store.handle(row(2)).await.unwrap(), None);
    assert_eq!(
        store.incarnations().await.unwrap(),
        [(TODAY, Incarnation([1; 16]))]
    );
    let set = store
        .claimable_set(row(1), SUITE, TODAY, 0)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (set.consume, set.sealed),
        (Some(consumed(1, 2, TODAY)), value(2))
    );
    assert_eq!(store.handle(row(1)).await.unwrap(), Some(value(1)));
    // Conditions stand on what was written before.
    assert!(matches!(
        store.reserve_group(reservation(2, 2), free()).await,
        Err(StoreError::Taken)
    ));
    store.create_group(new_group(2, 1), free()).await.unwrap();
    assert!(matches!(
        store
            .register_handle(row(1), owner(2), value(2), free())
            .await,
        Err(StoreError::Taken)
    ));
    store
        .claim_key_packages(vec![consumed(1, 2, TODAY)], free())
        .await
        .unwrap();
    let last = store
        .claimable_set(row(1), SUITE, TODAY, 0)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((last.consume, last.sealed), (None, value(3)));
    store
        .acknowledge(vec![(today(22), today(20))])
        .await
        .unwrap();
    assert!(!has_payload(&store, 20).await);
}
