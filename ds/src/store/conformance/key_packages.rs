//! Pools of KeyPackage sets, and handles.

use std::collections::BTreeSet;

use super::fixtures::*;
use crate::store::{CLAIM_CANDIDATES, ConsumedSet, NewKeyPackageSet, StoreError};

/// The set that `pick` leads to, and whether a claim consumes it.
async fn claimable(
    store: &Engine,
    pool: u64,
    today: u32,
    pick: u64,
) -> Option<(Option<ConsumedSet>, Vec<u8>)> {
    let set = store
        .claimable_set(row(pool), SUITE, today, pick)
        .await
        .unwrap();
    set.map(|set| (set.consume, set.sealed))
}

pub async fn a_pool_has_one_owner(store: Engine) {
    let publish = |owner_number, number, receipt| {
        store.publish_key_packages(
            row(1),
            owner(owner_number),
            vec![set(number, TODAY)],
            receipt,
        )
    };
    publish(1, 1, free()).await.unwrap();
    assert!(matches!(
        publish(2, 2, receipt(2)).await,
        Err(StoreError::Taken)
    ));
    publish(1, 3, free()).await.unwrap();
    assert_not_charged(&store, receipt(2)).await;
    store
        .claim_key_packages(vec![consumed(1, 1, TODAY), consumed(1, 3, TODAY)], free())
        .await
        .unwrap();
    assert_eq!(claimable(&store, 1, TODAY, 0).await, None);
}

pub async fn a_set_is_claimed_once(store: Engine) {
    publish(&store, 1, vec![set(1, TODAY)]).await;
    assert_eq!(
        claimable(&store, 1, TODAY, 0).await,
        Some((Some(consumed(1, 1, TODAY)), value(1)))
    );
    store
        .claim_key_packages(vec![consumed(1, 1, TODAY)], receipt(1))
        .await
        .unwrap();
    let again = store
        .claim_key_packages(vec![consumed(1, 1, TODAY)], receipt(2))
        .await;
    assert!(matches!(again, Err(StoreError::Conflict)));
    assert_not_charged(&store, receipt(2)).await;
    assert_eq!(claimable(&store, 1, TODAY, 0).await, None);
}

pub async fn all_sets_of_a_claim_are_consumed_or_none(store: Engine) {
    publish(&store, 1, vec![set(1, TODAY)]).await;
    publish(&store, 2, vec![set(2, TODAY)]).await;
    let (first, second, gone) = (
        consumed(1, 1, TODAY),
        consumed(2, 2, TODAY),
        consumed(2, 3, TODAY),
    );
    for sets in [
        vec![first, gone],
        vec![gone, first],
        vec![first, second, gone],
    ] {
        assert!(matches!(
            store.claim_key_packages(sets, free()).await,
            Err(StoreError::Conflict)
        ));
    }
    store
        .claim_key_packages(vec![first, second], free())
        .await
        .unwrap();
    assert_eq!(claimable(&store, 1, TODAY, 0).await, None);
    assert_eq!(claimable(&store, 2, TODAY, 0).await, None);
}

pub async fn a_set_named_twice_in_a_claim_is_not_handed_out_twice(store: Engine) {
    publish(&store, 1, vec![set(1, TODAY)]).await;
    let twice = vec![consumed(1, 1, TODAY); 2];
    assert!(matches!(
        store.claim_key_packages(twice, free()).await,
        Err(StoreError::Conflict)
    ));
    store
        .claim_key_packages(vec![consumed(1, 1, TODAY)], free())
        .await
        .unwrap();
}

pub async fn sets_that_expire_first_are_handed_out_first(store: Engine) {
    let candidates = CLAIM_CANDIDATES as u64;
    let sets = |numbers: std::ops::Range<u64>, day| numbers.map(move |number| set(number, day));
    let soon = sets(0..candidates, TODAY + 1);
    publish(
        &store,
        1,
        soon.chain(sets(1_000..1_100, TODAY + 9)).collect(),
    )
    .await;
    for pick in 0..2 * candidates {
        let (consume, _) = claimable(&store, 1, TODAY, pick).await.unwrap();
        assert_eq!(consume.unwrap().expiry_day, TODAY + 1);
    }
}

pub async fn every_candidate_can_be_picked(store: Engine) {
    publish(
        &store,
        1,
        (0..10).map(|number| set(number, TODAY)).collect(),
    )
    .await;
    let mut picked = BTreeSet::new();
    for pick in (0..400_u64)
        .map(|step| step.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .chain([u64::MAX])
    {
        let (consume, sealed) = claimable(&store, 1, TODAY, pick).await.unwrap();
        let consume = consume.unwrap();
        let number = (0..10).find(|number| row(*number) == consume.id).unwrap();
        assert_eq!(sealed, value(number));
        picked.insert(number);
    }
    assert_eq!(picked.len(), 10);
}

pub async fn a_set_is_handed_out_through_its_expiry_day(store: Engine) {
    publish(&store, 1, vec![set(1, TODAY), last_resort(2, TODAY + 1)]).await;
    assert_eq!(claimable(&store, 1, TODAY, 5).await.unwrap().1, value(1));
    assert_eq!(
        claimable(&store, 1, TODAY + 1, 5).await,
        Some((None, value(2)))
    );
    assert_eq!(claimable(&store, 1, TODAY + 2, 5).await, None);
}

pub async fn ciphersuites_and_pools_are_apart(store: Engine) {
    let other = |set: NewKeyPackageSet| NewKeyPackageSet {
        ciphersuite: SUITE + 1,
        ..set
    };
    publish(
        &store,
        1,
        vec![other(set(1, TODAY)), other(last_resort(2, TODAY))],
    )
    .await;
    assert_eq!(claimable(&store, 1, TODAY, 0).await, None);
    assert_eq!(claimable(&store, 2, TODAY, 0).await, None);
    let found = store
        .claimable_set(row(1), SUITE + 1, TODAY, 0)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.sealed, value(1));
    let wrong_suite = store
        .claim_key_packages(vec![consumed(1, 1, TODAY)], free())
        .await;
    assert!(matches!(wrong_suite, Err(StoreError::Conflict)));
    store
        .claim_key_packages(vec![found.consume.unwrap()], free())
        .await
        .unwrap();
}

pub async fn the_last_resort_set_comes_last_stays_and_is_replaced(store: Engine) {
    publish(&store, 1, vec![last_resort(1, TODAY), set(2, TODAY)]).await;
    assert_eq!(claimable(&store, 1, TODAY, 9).await.unwrap().1, value(2));
    store
        .claim_key_packages(vec![consumed(1, 2, TODAY)], free())
        .await
        .unwrap();
    for pick in 0..3 {
        assert_eq!(
            claimable(&store, 1, TODAY, pick).await,
            Some((None, value(1)))
        );
    }
    publish(&store, 1, vec![last_resort(3, TODAY)]).await;
    assert_eq!(claimable(&store, 1, TODAY, 0).await, Some((None, value(3))));
}

pub async fn a_handle_has_one_owner_who_may_replace_its_record(store: Engine) {
    assert_eq!(store.handle(row(1)).await.unwrap(), None);
    store
        .register_handle(row(1), owner(1), value(1), free())
        .await
        .unwrap();
    let other = store
        .register_handle(row(1), owner(2), value(2), receipt(2))
        .await;
    assert!(matches!(other, Err(StoreError::Taken)));
    assert_eq!(store.handle(row(1)).await.unwrap(), Some(value(1)));
    assert_not_charged(&store, receipt(2)).await;
    store
        .register_handle(row(1), owner(1), value(3), free())
        .await
        .unwrap();
    assert_eq!(store.handle(row(1)).await.unwrap(), Some(value(3)));
    assert_eq!(store.handle(row(2)).await.unwrap(), None);
}
