//! Queues, entries, payloads and what becomes of them.

use protocol::ids::Incarnation;

use super::fixtures::*;
use crate::store::{Deliveries, StoreError};

pub async fn a_queue_is_created_once(store: Engine) {
    assert_eq!(store.queue(row(1)).await.unwrap(), None);
    store.create_queue(row(1), value(1), free()).await.unwrap();
    assert!(matches!(
        store.create_queue(row(1), value(2), receipt(2)).await,
        Err(StoreError::Taken)
    ));
    assert_eq!(store.queue(row(1)).await.unwrap(), Some(value(1)));
    assert_not_charged(&store, receipt(2)).await;
}

pub async fn queues_are_read_in_the_order_asked_for(store: Engine) {
    for number in 0..20 {
        store
            .create_queue(row(number), value(number), free())
            .await
            .unwrap();
    }
    let asked: Vec<u64> = (0..30).rev().chain([3, 3]).collect();
    let expected: Vec<_> = asked
        .iter()
        .map(|number| (*number < 20).then(|| value(*number)))
        .collect();
    let rows = asked.iter().map(|number| row(*number)).collect();
    assert_eq!(store.queues(rows).await.unwrap(), expected);
    assert!(store.queues(Vec::new()).await.unwrap().is_empty());
}

pub async fn a_queue_is_replaced_only_by_who_knows_its_record(store: Engine) {
    store.create_queue(row(1), value(1), free()).await.unwrap();
    store.create_queue(row(2), value(1), free()).await.unwrap();
    let prefix = value(1)[..8].to_vec();
    for (queue, expected) in [(1, value(9)), (1, Vec::new()), (1, prefix), (3, Vec::new())] {
        for sealed in [Some(value(2)), None] {
            let refused = store
                .replace_queue(row(queue), expected.clone(), sealed, receipt(2))
                .await;
            assert!(matches!(refused, Err(StoreError::Conflict)));
        }
    }
    assert_eq!(store.queue(row(1)).await.unwrap(), Some(value(1)));
    assert_eq!(store.queue(row(3)).await.unwrap(), None);
    assert_not_charged(&store, receipt(2)).await;

    store
        .replace_queue(row(1), value(1), Some(value(2)), free())
        .await
        .unwrap();
    assert_eq!(store.queue(row(1)).await.unwrap(), Some(value(2)));
    let stale = store
        .replace_queue(row(1), value(1), Some(value(3)), free())
        .await;
    assert!(matches!(stale, Err(StoreError::Conflict)));
    assert_eq!(store.queue(row(1)).await.unwrap(), Some(value(2)));
    assert_eq!(store.queue(row(2)).await.unwrap(), Some(value(1)));
}

pub async fn deliveries_outside_of_groups_arrive(store: Engine) {
    store.deliver(delivery(1), receipt(1)).await.unwrap();
    assert!(is_delivered(&store, 1).await);
    assert!(!is_delivered(&store, 2).await);
}

pub async fn a_block_marker_can_be_set_twice(store: Engine) {
    let marker = || Deliveries {
        blocks: vec![today(1), today(1)],
        ..Deliveries::default()
    };
    store.deliver(marker(), free()).await.unwrap();
    store.deliver(marker(), free()).await.unwrap();
    assert_eq!(
        store.blocks(vec![today(2), today(1)]).await.unwrap(),
        [false, true]
    );
}

pub async fn entries_and_payloads_are_read_in_the_order_asked_for(store: Engine) {
    for number in 0..50 {
        store.deliver(delivery(number), free()).await.unwrap();
    }
    let asked: Vec<u64> = (0..60).rev().chain([3, 3]).collect();
    let expected: Vec<_> = asked
        .iter()
        .map(|number| (*number < 50).then(|| value(*number)))
        .collect();
    let rows: Vec<_> = asked.iter().map(|number| today(*number)).collect();
    assert_eq!(store.entries(rows.clone()).await.unwrap(), expected);
    assert_eq!(store.payloads(rows.clone()).await.unwrap(), expected);
    let present: Vec<_> = asked.iter().map(|number| *number < 50).collect();
    assert_eq!(store.blocks(rows).await.unwrap(), present);
    assert!(store.entries(Vec::new()).await.unwrap().is_empty());
}

pub async fn a_payload_goes_with_its_last_reference_and_not_before(store: Engine) {
    share(&store, 1, &[10, 11, 12]).await;
    for entry in [11, 10] {
        store
            .acknowledge(vec![(today(entry), today(1))])
            .await
            .unwrap();
        assert_eq!(store.entries(vec![today(entry)]).await.unwrap(), [None]);
        assert!(has_payload(&store, 1).await);
    }
    store
        .acknowledge(vec![(today(12), today(1))])
        .await
        .unwrap();
    assert!(!has_payload(&store, 1).await);
}

pub async fn an_entry_that_is_gone_gives_up_nothing(store: Engine) {
    share(&store, 1, &[10, 11]).await;
    for _ in 0..3 {
        store
            .acknowledge(vec![(today(10), today(1)), (today(99), today(1))])
            .await
            .unwrap();
    }
    assert!(has_payload(&store, 1).await);
    store
        .acknowledge(vec![(today(11), today(1)), (today(11), today(1))])
        .await
        .unwrap();
    assert!(!has_payload(&store, 1).await);
    store.acknowledge(Vec::new()).await.unwrap();
}

pub async fn entries_of_one_acknowledgement_may_share_a_payload(store: Engine) {
    share(&store, 1, &[10, 11, 12]).await;
    share(&store, 2, &[20, 21]).await;
    let pairs = [(10, 1), (20, 2), (12, 1), (10, 1)];
    let acknowledged = pairs.map(|(entry, payload)| (today(entry), today(payload)));
    store.acknowledge(acknowledged.to_vec()).await.unwrap();
    assert!(has_payload(&store, 1).await && has_payload(&store, 2).await);
    store
        .acknowledge(vec![(today(11), today(1)), (today(21), today(2))])
        .await
        .unwrap();
    assert!(!has_payload(&store, 1).await && !has_payload(&store, 2).await);
}

pub async fn incarnations_are_known_for_their_days_oldest_first(store: Engine) {
    assert!(store.incarnations().await.unwrap().is_empty());
    for (day, incarnation) in [(TODAY, 1), (TODAY - 1, 2), (TODAY - 1, 1), (TODAY, 1)] {
        store
            .register_incarnation(day, Incarnation([incarnation; 16]))
            .await
            .unwrap();
    }
    let known: Vec<_> = store
        .incarnations()
        .await
        .unwrap()
        .into_iter()
        .map(|(day, incarnation)| (day, incarnation.0[0]))
        .collect();
    assert_eq!(known, [(TODAY - 1, 1), (TODAY - 1, 2), (TODAY, 1)]);
}
