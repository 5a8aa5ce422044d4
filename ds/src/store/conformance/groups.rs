//! Reservations, groups and their versions.

use super::fixtures::*;
use crate::store::{NewGroup, Parts, ProposalsChange, Reservation, StoreError, StoredGroup};

pub async fn a_group_id_is_reserved_once(store: Engine) {
    store
        .reserve_group(reservation(1, 1), free())
        .await
        .unwrap();
    for (day, owner_number) in [(TODAY, 2), (TODAY, 1), (TODAY + 1, 2), (TODAY - 1, 2)] {
        let again = Reservation {
            at: on(day, 1),
            owner_tag: owner(owner_number),
        };
        assert!(
            matches!(
                store.reserve_group(again, free()).await,
                Err(StoreError::Taken)
            ),
            "day {day}"
        );
    }
    store
        .reserve_group(reservation(2, 2), free())
        .await
        .unwrap();
}

pub async fn a_group_id_in_use_cannot_be_reserved(store: Engine) {
    found(&store, 1).await;
    assert!(matches!(
        store.reserve_group(reservation(1, 1), free()).await,
        Err(StoreError::Taken)
    ));
}

pub async fn only_who_reserved_a_group_id_creates_the_group_and_once(store: Engine) {
    store
        .reserve_group(reservation(1, 1), free())
        .await
        .unwrap();
    assert!(matches!(
        store.create_group(new_group(1, 2), free()).await,
        Err(StoreError::Absent)
    ));
    assert!(matches!(
        store.create_group(new_group(2, 1), free()).await,
        Err(StoreError::Absent)
    ));
    assert_eq!(store.group(row(1), Parts::ROSTER).await.unwrap(), None);
    store.create_group(new_group(1, 1), free()).await.unwrap();
    // The reservation is consumed.
    assert!(matches!(
        store.create_group(new_group(1, 1), free()).await,
        Err(StoreError::Absent)
    ));
}

pub async fn a_reservation_is_used_up_by_its_owner_only_and_once(store: Engine) {
    store
        .reserve_group(reservation(1, 1), free())
        .await
        .unwrap();
    let days = vec![TODAY, TODAY - 1];
    for (group, owner_number) in [(1, 2), (2, 1)] {
        let used_up =
            store.use_up_reservation(row(group), days.clone(), owner(owner_number), free());
        assert!(matches!(used_up.await, Err(StoreError::Absent)));
    }
    let used_up = store.use_up_reservation(row(1), days.clone(), owner(1), receipt(1));
    used_up.await.unwrap();
    let again = store.use_up_reservation(row(1), days.clone(), owner(1), free());
    assert!(matches!(again.await, Err(StoreError::Absent)));
    // Recorded with it, for the same request.
    let repeated = store.use_up_reservation(row(1), days, owner(1), receipt(1));
    assert!(matches!(repeated.await, Err(StoreError::AlreadyDone(_))));
    assert!(matches!(
        store.create_group(new_group(1, 1), free()).await,
        Err(StoreError::Absent)
    ));
}

pub async fn a_reservation_is_found_on_any_of_the_days_asked_for(store: Engine) {
    let yesterday = Reservation {
        at: on(TODAY - 1, 1),
        owner_tag: owner(1),
    };
    store.reserve_group(yesterday, free()).await.unwrap();
    let today_only = NewGroup {
        reservation_days: vec![TODAY],
        ..new_group(1, 1)
    };
    assert!(matches!(
        store.create_group(today_only, free()).await,
        Err(StoreError::Absent)
    ));
    store.create_group(new_group(1, 1), free()).await.unwrap();
}

pub async fn a_group_is_read_with_its_tree_only_if_asked(store: Engine) {
    found(&store, 1).await;
    let stored = |tree| StoredGroup {
        version: version(0),
        roster: value(0),
        tree,
        proposals: None,
    };
    assert_eq!(
        store.group(row(1), Parts::ROSTER).await.unwrap(),
        Some(stored(None))
    );
    assert_eq!(
        store.group(row(1), Parts::WITH_TREE).await.unwrap(),
        Some(stored(Some(value(0))))
    );
    assert_eq!(store.group(row(2), Parts::WITH_TREE).await.unwrap(), None);
}

pub async fn a_key_check_follows_its_group(store: Engine) {
    let key_check = async |group| store.key_check(row(group)).await.unwrap();
    assert_eq!(key_check(1).await, None);
    found(&store, 1).await;
    found(&store, 2).await;
    assert_eq!(key_check(1).await, Some(value(0)));
    store
        .advance_group(advance(1, 0, 10), free())
        .await
        .unwrap();
    let stale = store.advance_group(advance(1, 0, 20), free()).await;
    assert!(matches!(stale, Err(StoreError::Conflict)));
    assert_eq!(key_check(1).await, Some(value(10)));
    store
        .delete_group(deletion(1, 10, 11), free())
        .await
        .unwrap();
    assert_eq!(key_check(1).await, None);
    assert_eq!(key_check(2).await, Some(value(0)));
}

pub async fn a_group_is_read_with_its_proposals_only_if_asked(store: Engine) {
    found(&store, 1).await;
    let none = store.group(row(1), Parts::WITH_PROPOSALS).await.unwrap();
    assert_eq!(none.unwrap().proposals, None);
    store
        .advance_group(advance(1, 0, 10), free())
        .await
        .unwrap();
    for parts in [
        Parts::ROSTER,
        Parts::WITH_TREE,
        Parts::WITH_PROPOSALS,
        Parts::ALL,
    ] {
        assert_eq!(
            store.group(row(1), parts).await.unwrap(),
            Some(stored(10, parts))
        );
    }
}

pub async fn proposals_are_kept_replaced_or_cleared(store: Engine) {
    found(&store, 1).await;
    found(&store, 2).await;
    store
        .advance_group(advance(2, 0, 100), free())
        .await
        .unwrap();
    let steps = [
        (ProposalsChange::Clear, None),
        (ProposalsChange::Put(value(11)), Some(value(11))),
        (ProposalsChange::Keep, Some(value(11))),
        (ProposalsChange::Put(value(12)), Some(value(12))),
        (ProposalsChange::Clear, None),
        (ProposalsChange::Keep, None),
    ];
    for (epoch, (proposals, left)) in (0..).zip(steps) {
        let mut change = advance(1, epoch, epoch + 1);
        change.proposals = proposals;
        store.advance_group(change, free()).await.unwrap();
        let stored = store.group(row(1), Parts::WITH_PROPOSALS).await.unwrap();
        assert_eq!(stored.unwrap().proposals, left, "epoch {epoch}");
    }
    let other = store.group(row(2), Parts::ALL).await.unwrap();
    assert_eq!(other, Some(stored(100, Parts::ALL)));
}

pub async fn an_epoch_change_drops_the_join_records_that_it_names(store: Engine) {
    found(&store, 1).await;
    let mut first = advance(1, 0, 10);
    first.join_record = Some((today(10), value(10)));
    store.advance_group(first, free()).await.unwrap();
    let mut second = advance(1, 10, 11);
    second.join_record = Some((today(11), value(11)));
    store.advance_group(second, free()).await.unwrap();

    let drops = |expected, next| {
        let mut change = advance(1, expected, next);
        change.dropped_join_records = vec![today(10), today(99)];
        change
    };
    let stale = store.advance_group(drops(10, 12), free()).await;
    assert!(matches!(stale, Err(StoreError::Conflict)));
    let record = async |number| store.join_record(vec![today(number)]).await.unwrap();
    assert_eq!(record(10).await, Some(value(10)));
    store.advance_group(drops(11, 12), free()).await.unwrap();
    assert_eq!(record(10).await, None);
    assert_eq!(record(11).await, Some(value(11)));

    // What is written stays, also over what is dropped.
    let mut rewrites = advance(1, 12, 13);
    rewrites.join_record = Some((today(11), value(13)));
    rewrites.dropped_join_records = vec![today(11)];
    store.advance_group(rewrites, free()).await.unwrap();
    assert_eq!(record(11).await, Some(value(13)));
}

pub async fn the_first_reservation_of_the_rows_asked_for_is_found(store: Engine) {
    let (first, second) = (on(TODAY, 1), on(TODAY - 2, 2));
    for (at, owner_number) in [(first, 1), (second, 2)] {
        let owner_tag = owner(owner_number);
        store
            .reserve_group(Reservation { at, owner_tag }, free())
            .await
            .unwrap();
    }
    let ask = async |rows| store.reservation(rows).await.unwrap();
    assert_eq!(ask(vec![first, second]).await, Some(owner(1)));
    assert_eq!(
        ask(vec![on(TODAY - 1, 1), second, first]).await,
        Some(owner(2))
    );
    assert_eq!(ask(vec![on(TODAY - 1, 1), on(TODAY, 2)]).await, None);
    assert_eq!(ask(Vec::new()).await, None);
    store.create_group(new_group(1, 1), free()).await.unwrap();
    // Consumed.
    assert_eq!(ask(vec![on(TODAY, 1)]).await, None);
}

pub async fn an_epoch_change_writes_state_records_and_entries_together(store: Engine) {
    found(&store, 1).await;
    let mut first = advance(1, 0, 10);
    first.join_record = Some((today(10), value(11)));
    first.recovery_records = vec![(row(20), value(20)), (row(21), value(21))];
    store.advance_group(first, free()).await.unwrap();
    let stored = stored(10, Parts::WITH_TREE);
    assert_eq!(
        store.group(row(1), Parts::WITH_TREE).await.unwrap(),
        Some(stored)
    );
    assert_eq!(
        store.join_record(vec![today(10)]).await.unwrap(),
        Some(value(11))
    );
    assert_eq!(
        store.recovery_record(row(20)).await.unwrap(),
        Some(value(20))
    );
    assert!(is_delivered(&store, 10).await);

    let mut second = advance(1, 10, 12);
    second.recovery_records = vec![(row(21), value(99))];
    second.dropped_recovery_records = vec![row(20)];
    store.advance_group(second, free()).await.unwrap();
    assert_eq!(store.recovery_record(row(20)).await.unwrap(), None);
    assert_eq!(
        store.recovery_record(row(21)).await.unwrap(),
        Some(value(99))
    );
    assert!(is_delivered(&store, 12).await);
}

pub async fn an_epoch_change_from_another_version_changes_nothing(store: Engine) {
    found(&store, 1).await;
    store
        .advance_group(advance(1, 0, 10), free())
        .await
        .unwrap();
    for expected in [0, 7] {
        let mut stale = advance(1, expected, 11);
        stale.join_record = Some((today(11), value(11)));
        stale.recovery_records = vec![(row(11), value(11))];
        assert!(matches!(
            store.advance_group(stale, receipt(11)).await,
            Err(StoreError::Conflict)
        ));
    }
    let stored = stored(10, Parts::WITH_TREE);
    assert_eq!(
        store.group(row(1), Parts::WITH_TREE).await.unwrap(),
        Some(stored)
    );
    assert_eq!(store.join_record(vec![today(11)]).await.unwrap(), None);
    assert_eq!(store.recovery_record(row(11)).await.unwrap(), None);
    assert!(!is_delivered(&store, 11).await);
    assert_not_charged(&store, receipt(11)).await;
}

pub async fn a_tree_stays_if_an_epoch_change_brings_none(store: Engine) {
    found(&store, 1).await;
    let mut without = advance(1, 0, 10);
    without.tree = None;
    store.advance_group(without, free()).await.unwrap();
    let stored = StoredGroup {
        tree: Some(value(0)),
        ..stored(10, Parts::WITH_TREE)
    };
    assert_eq!(
        store.group(row(1), Parts::WITH_TREE).await.unwrap(),
        Some(stored)
    );
}

pub async fn a_message_needs_the_version_that_was_read(store: Engine) {
    found(&store, 1).await;
    store
        .deliver_to_group(row(1), version(0), delivery(10), receipt(10))
        .await
        .unwrap();
    store
        .advance_group(advance(1, 0, 11), free())
        .await
        .unwrap();
    let late = store
        .deliver_to_group(row(1), version(0), delivery(12), receipt(12))
        .await;
    assert!(matches!(late, Err(StoreError::Conflict)));
    assert!(is_delivered(&store, 10).await);
    assert!(!is_delivered(&store, 12).await);
    assert_not_charged(&store, receipt(12)).await;
}

pub async fn the_first_join_record_of_the_rows_asked_for_is_found(store: Engine) {
    found(&store, 1).await;
    for (expected, next, day) in [(0, 10, TODAY - 1), (10, 11, TODAY)] {
        let mut change = advance(1, expected, next);
        change.join_record = Some((on(day, 5), value(next)));
        store.advance_group(change, free()).await.unwrap();
    }
    let ask = async |rows| store.join_record(rows).await.unwrap();
    assert_eq!(
        ask(vec![on(TODAY, 5), on(TODAY - 1, 5)]).await,
        Some(value(11))
    );
    assert_eq!(
        ask(vec![on(TODAY - 2, 5), on(TODAY - 1, 5), on(TODAY, 5)]).await,
        Some(value(10))
    );
    assert_eq!(ask(vec![on(TODAY, 6)]).await, None);
    assert_eq!(ask(Vec::new()).await, None);
}
