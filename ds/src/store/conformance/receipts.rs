//! What a transition costs, what it answers if it is repeated, and the order of the checks.

use std::pin::Pin;
use std::sync::Arc;

use super::fixtures::*;
use crate::store::{Parts, Receipt, RetiredIssuerKey, StoreError};

type Attempt = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// Transitions whose condition does not hold on [`obstructed`], with what they answer.
type Refused = (
    &'static str,
    fn(Engine, Receipt) -> Attempt,
    fn(&StoreError) -> bool,
);

/// A transition without a condition.
type Unconditional = (&'static str, fn(Engine, Receipt) -> Attempt);

const REFUSED: &[Refused] = &[
    (
        "reserve, reserved",
        |s, r| Box::pin(async move { s.reserve_group(reservation(2, 1), r).await }),
        is_taken,
    ),
    (
        "reserve, in use",
        |s, r| Box::pin(async move { s.reserve_group(reservation(1, 1), r).await }),
        is_taken,
    ),
    (
        "create, another's",
        |s, r| Box::pin(async move { s.create_group(new_group(2, 9), r).await }),
        is_absent,
    ),
    (
        "create, unreserved",
        |s, r| Box::pin(async move { s.create_group(new_group(3, 1), r).await }),
        is_absent,
    ),
    (
        "advance",
        |s, r| Box::pin(async move { s.advance_group(advance(1, 7, 800), r).await }),
        is_conflict,
    ),
    (
        "advance, no group",
        |s, r| Box::pin(async move { s.advance_group(advance(3, 0, 800), r).await }),
        is_conflict,
    ),
    (
        "message",
        |s, r| {
            Box::pin(async move {
                s.deliver_to_group(row(1), version(7), delivery(800), r)
                    .await
            })
        },
        is_conflict,
    ),
    (
        "message, no group",
        |s, r| {
            Box::pin(async move {
                s.deliver_to_group(row(3), version(0), delivery(800), r)
                    .await
            })
        },
        is_conflict,
    ),
    (
        "reserve, deleted",
        |s, r| Box::pin(async move { s.reserve_group(reservation(4, 1), r).await }),
        is_taken,
    ),
    (
        "advance, deleted",
        |s, r| Box::pin(async move { s.advance_group(advance(4, 0, 800), r).await }),
        is_conflict,
    ),
    (
        "message, deleted",
        |s, r| {
            Box::pin(async move {
                s.deliver_to_group(row(4), version(0), delivery(800), r)
                    .await
            })
        },
        is_conflict,
    ),
    (
        "delete",
        |s, r| Box::pin(async move { s.delete_group(deletion(1, 7, 800), r).await }),
        is_conflict,
    ),
    (
        "delete, no group",
        |s, r| Box::pin(async move { s.delete_group(deletion(3, 0, 800), r).await }),
        is_conflict,
    ),
    (
        "delete, deleted",
        |s, r| Box::pin(async move { s.delete_group(deletion(4, 0, 800), r).await }),
        is_conflict,
    ),
    (
        "replace queue",
        |s, r| {
            Box::pin(async move { s.replace_queue(row(1), value(7), Some(value(800)), r).await })
        },
        is_conflict,
    ),
    (
        "replace queue, none",
        |s, r| {
            Box::pin(async move { s.replace_queue(row(7), value(7), Some(value(800)), r).await })
        },
        is_conflict,
    ),
    (
        "delete queue",
        |s, r| Box::pin(async move { s.replace_queue(row(1), value(7), None, r).await }),
        is_conflict,
    ),
    (
        "delete pool, another's",
        |s, r| Box::pin(async move { s.delete_key_packages(row(1), owner(9), r).await }),
        is_taken,
    ),
    (
        "delete pool, none",
        |s, r| Box::pin(async move { s.delete_key_packages(row(7), owner(1), r).await }),
        is_absent,
    ),
    (
        "delete handle, another's",
        |s, r| Box::pin(async move { s.delete_handle(row(1), owner(9), r).await }),
        is_taken,
    ),
    (
        "delete handle, none",
        |s, r| Box::pin(async move { s.delete_handle(row(7), owner(1), r).await }),
        is_absent,
    ),
    (
        "queue",
        |s, r| Box::pin(async move { s.create_queue(row(1), value(800), r).await }),
        is_taken,
    ),
    (
        "publish",
        |s, r| {
            Box::pin(async move {
                let sets = vec![set(800, TODAY), last_resort(800, TODAY)];
                s.publish_key_packages(row(1), owner(9), sets, r).await
            })
        },
        is_taken,
    ),
    (
        "claim",
        |s, r| {
            Box::pin(async move {
                s.claim_key_packages(vec![consumed(1, 1, TODAY), consumed(1, 7, TODAY)], r)
                    .await
            })
        },
        is_conflict,
    ),
    (
        "handle",
        |s, r| Box::pin(async move { s.register_handle(row(1), owner(9), value(800), r).await }),
        is_taken,
    ),
];

const UNCONDITIONAL: &[Unconditional] = &[
    ("deliver", |s, r| {
        Box::pin(async move { s.deliver(delivery(800), r).await })
    }),
    ("settle", |s, r| Box::pin(async move { s.settle(r).await })),
];

fn is_taken(error: &StoreError) -> bool {
    matches!(error, StoreError::Taken)
}

fn is_absent(error: &StoreError) -> bool {
    matches!(error, StoreError::Absent)
}

fn is_conflict(error: &StoreError) -> bool {
    matches!(error, StoreError::Conflict)
}

/// Group 1 at version 0, id 2 reserved, group 4 deleted, queue 1, pool 1 with set 1, handle 1: all of
/// owner 1.
async fn obstructed(store: &Engine) {
    found(store, 1).await;
    store
        .reserve_group(reservation(2, 1), free())
        .await
        .unwrap();
    found(store, 4).await;
    store
        .delete_group(deletion(4, 0, 700), free())
        .await
        .unwrap();
    store.create_queue(row(1), value(1), free()).await.unwrap();
    publish(store, 1, vec![set(1, TODAY)]).await;
    store
        .register_handle(row(1), owner(1), value(1), free())
        .await
        .unwrap();
}

/// [`obstructed`] is as it was, and nothing of what was refused is there.
async fn assert_unchanged(store: &Engine) {
    let group = store
        .group(row(1), Parts::WITH_TREE)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (group.version, group.roster, group.tree),
        (version(0), value(0), Some(value(0)))
    );
    assert!(store.group(row(2), Parts::ROSTER).await.unwrap().is_none());
    assert!(store.group(row(3), Parts::ROSTER).await.unwrap().is_none());
    assert!(store.group(row(4), Parts::ROSTER).await.unwrap().is_none());
    assert!(!is_delivered(store, 800).await);
    assert_eq!(store.queue(row(1)).await.unwrap(), Some(value(1)));
    assert_eq!(store.queue(row(7)).await.unwrap(), None);
    assert_eq!(store.handle(row(1)).await.unwrap(), Some(value(1)));
    for pick in 0..3 {
        let set = store
            .claimable_set(row(1), SUITE, TODAY, pick)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (set.consume, set.sealed),
            (Some(consumed(1, 1, TODAY)), value(1))
        );
    }
}

pub async fn a_recorded_result_comes_before_every_other_refusal(store: Engine) {
    obstructed(&store).await;
    store.settle(receipt(500)).await.unwrap();
    // The token is spent too, and no condition holds.
    for (name, attempt, _) in REFUSED {
        let answer = attempt(Arc::clone(&store), receipt(500)).await;
        assert!(
            matches!(&answer, Err(StoreError::AlreadyDone(done)) if *done == value(500)),
            "{name}: {answer:?}"
        );
    }
    for (name, attempt) in UNCONDITIONAL {
        let answer = attempt(Arc::clone(&store), receipt(500)).await;
        assert!(
            matches!(&answer, Err(StoreError::AlreadyDone(done)) if *done == value(500)),
            "{name}: {answer:?}"
        );
    }
    assert_unchanged(&store).await;
}

pub async fn a_spent_token_comes_before_the_condition(store: Engine) {
    obstructed(&store).await;
    store.settle(paying(vec![token(1, 500)])).await.unwrap();
    let attempts = REFUSED.iter().map(|(name, attempt, _)| (name, attempt));
    for (name, attempt) in
        attempts.chain(UNCONDITIONAL.iter().map(|(name, attempt)| (name, attempt)))
    {
        let asked = Receipt {
            spends: vec![token(1, 501), token(1, 500)],
            result: Some(result(501)),
        };
        let answer = attempt(Arc::clone(&store), asked).await;
        assert!(
            matches!(answer, Err(StoreError::TokenSpent)),
            "{name}: {answer:?}"
        );
    }
    assert_unchanged(&store).await;
    assert_not_charged(&store, receipt(501)).await;
}

pub async fn a_refusal_writes_nothing(store: Engine) {
    obstructed(&store).await;
    for (number, (name, attempt, refused)) in (500..).zip(REFUSED) {
        let answer = attempt(Arc::clone(&store), receipt(number)).await;
        assert!(answer.as_ref().is_err_and(refused), "{name}: {answer:?}");
        assert_unchanged(&store).await;
        assert_not_charged(&store, receipt(number)).await;
    }
}

pub async fn a_token_pays_once_also_within_one_request(store: Engine) {
    let twice = paying(vec![token(1, 1), token(1, 1)]);
    assert!(matches!(
        store.settle(twice).await,
        Err(StoreError::TokenSpent)
    ));
    store
        .settle(paying(vec![token(1, 1), token(1, 2)]))
        .await
        .unwrap();
    for number in [1, 2] {
        let again = paying(vec![token(1, number)]);
        assert!(matches!(
            store.settle(again).await,
            Err(StoreError::TokenSpent)
        ));
    }
}

pub async fn a_token_is_spent_for_its_issuer_key_only(store: Engine) {
    store.settle(paying(vec![token(1, 1)])).await.unwrap();
    store.settle(paying(vec![token(2, 1)])).await.unwrap();
    assert!(matches!(
        store.settle(paying(vec![token(2, 1)])).await,
        Err(StoreError::TokenSpent)
    ));
}

pub async fn one_spent_token_among_several_is_seen(store: Engine) {
    store.settle(paying(vec![token(1, 1)])).await.unwrap();
    for (asked, spent) in [
        (vec![], false),
        (vec![token(1, 2)], false),
        (vec![token(2, 1)], false),
        (vec![token(1, 1)], true),
        (vec![token(1, 2), token(1, 1)], true),
    ] {
        assert_eq!(store.is_spent(asked).await.unwrap(), spent);
    }
    // To look is not to spend.
    store.settle(paying(vec![token(1, 2)])).await.unwrap();
}

pub async fn an_effect_its_result_and_its_spends_come_together(store: Engine) {
    store
        .reserve_group(reservation(1, 1), receipt(1))
        .await
        .unwrap();
    store
        .create_group(new_group(1, 1), receipt(2))
        .await
        .unwrap();
    store
        .advance_group(advance(1, 0, 900), receipt(3))
        .await
        .unwrap();
    store
        .deliver_to_group(row(1), version(900), delivery(901), receipt(4))
        .await
        .unwrap();
    store.deliver(delivery(902), receipt(5)).await.unwrap();
    store
        .create_queue(row(1), value(1), receipt(6))
        .await
        .unwrap();
    store
        .publish_key_packages(row(1), owner(1), vec![set(1, TODAY)], receipt(7))
        .await
        .unwrap();
    store
        .claim_key_packages(vec![consumed(1, 1, TODAY)], receipt(8))
        .await
        .unwrap();
    store
        .register_handle(row(1), owner(1), value(1), receipt(9))
        .await
        .unwrap();
    store.settle(receipt(10)).await.unwrap();
    store
        .replace_queue(row(1), value(1), Some(value(2)), receipt(11))
        .await
        .unwrap();
    store
        .replace_queue(row(1), value(2), None, receipt(12))
        .await
        .unwrap();
    store
        .delete_key_packages(row(1), owner(1), receipt(13))
        .await
        .unwrap();
    store
        .delete_handle(row(1), owner(1), receipt(14))
        .await
        .unwrap();
    store
        .delete_group(deletion(1, 900, 903), receipt(15))
        .await
        .unwrap();
    for number in 1..=15 {
        assert_eq!(
            store.result(today(number)).await.unwrap(),
            Some(value(number)),
            "result {number}"
        );
        let again = paying(vec![token(1, number)]);
        assert!(
            matches!(store.settle(again).await, Err(StoreError::TokenSpent)),
            "token {number}"
        );
    }
    for number in 900..=903 {
        assert!(is_delivered(&store, number).await);
    }
}

pub async fn a_dropped_issuer_key_takes_its_spent_set_along_and_no_other(store: Engine) {
    for issuer in [0, 1, 2, 0xff] {
        store
            .settle(paying(
                (0..20).map(|number| token(issuer, number)).collect(),
            ))
            .await
            .unwrap();
    }
    let partitions = async || {
        let mut keys = store.spent_issuer_keys().await.unwrap();
        keys.sort_unstable();
        keys
    };
    assert_eq!(partitions().await, [[0; 32], [1; 32], [2; 32], [0xff; 32]]);
    for dropped in [1, 0xff, 7] {
        store.drop_spent([dropped; 32]).await.unwrap();
    }
    assert_eq!(partitions().await, [[0; 32], [2; 32]]);
    for number in 0..20 {
        for issuer in [0, 1, 2, 0xff] {
            let again = store.settle(paying(vec![token(issuer, number)])).await;
            assert!(matches!(again, Err(StoreError::TokenSpent)), "{issuer}");
        }
    }
}

pub async fn a_closed_issuer_key_takes_no_token_ever_again(store: Engine) {
    let closed = RetiredIssuerKey {
        id: [1; 32],
        since_ms: 5,
        closed: true,
    };
    store.retire_issuer_key(closed.id, 5).await.unwrap();
    store.drop_spent(closed.id).await.unwrap();
    for _ in 0..2 {
        store.readmit_issuer_key(closed.id).await.unwrap();
        store.retire_issuer_key(closed.id, 9).await.unwrap();
        assert_eq!(store.retired_issuer_keys().await.unwrap(), [closed]);
        // One that was never seen before neither; and nothing else happens with it.
        let mixed = vec![token(2, 1), token(1, 99)];
        assert!(store.is_spent(mixed.clone()).await.unwrap());
        let refused = store.settle(paying(mixed)).await;
        assert!(matches!(refused, Err(StoreError::TokenSpent)));
        assert!(!store.is_spent(vec![token(2, 1)]).await.unwrap());
    }
    assert!(store.spent_issuer_keys().await.unwrap().is_empty());
}

pub async fn since_when_an_issuer_key_is_gone_is_remembered_until_it_is_back(store: Engine) {
    let gone = |id, since_ms| RetiredIssuerKey {
        id: [id; 32],
        since_ms,
        closed: false,
    };
    store.retire_issuer_key([1; 32], 5).await.unwrap();
    store.retire_issuer_key([2; 32], 6).await.unwrap();
    store.retire_issuer_key([1; 32], 7).await.unwrap();
    let known = async || {
        let mut keys = store.retired_issuer_keys().await.unwrap();
        keys.sort_unstable_by_key(|key| key.id);
        keys
    };
    assert_eq!(known().await, [gone(1, 5), gone(2, 6)]);
    // Gone is not closed.
    store.settle(paying(vec![token(1, 1)])).await.unwrap();
    store.readmit_issuer_key([1; 32]).await.unwrap();
    store.readmit_issuer_key([3; 32]).await.unwrap();
    assert_eq!(known().await, [gone(2, 6)]);
    store.retire_issuer_key([1; 32], 8).await.unwrap();
    assert_eq!(known().await, [gone(1, 8), gone(2, 6)]);
}
