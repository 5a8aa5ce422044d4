//! Rows and requests for the invariants. Numbers name rows: equal numbers, equal rows.

use std::sync::Arc;

use crypto::rows::Row;
use tokio::sync::Barrier;

use crate::store::{
    Advance, ConsumedSet, DayRow, Deliveries, GroupDeletion, NewGroup, NewKeyPackageSet,
    NewPayload, Parts, ProposalsChange, Receipt, Reservation, ResultRecord, Spend, Store,
    StoreError, StoredGroup, Version,
};

pub(super) type Engine = Arc<dyn Store>;

pub(super) const TODAY: u32 = 20_000;
pub(super) const SUITE: u16 = 1;

/// Spread over the key space like the output of a PRF.
pub(super) fn row(number: u64) -> Row {
    let mixed = |salt: u64| {
        let mut x = number
            .wrapping_add(salt)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^ (x >> 29)
    };
    let mut row = [0; 16];
    row[..8].copy_from_slice(&mixed(1).to_be_bytes());
    row[8..].copy_from_slice(&number.to_be_bytes());
    row
}

pub(super) fn today(number: u64) -> DayRow {
    on(TODAY, number)
}

pub(super) fn on(day: u32, number: u64) -> DayRow {
    DayRow {
        day,
        row: row(number),
    }
}

pub(super) fn value(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(4)
}

pub(super) fn version(number: u64) -> Version {
    row(number)
}

pub(super) fn owner(number: u8) -> [u8; 32] {
    [number; 32]
}

pub(super) fn token(issuer: u8, number: u64) -> Spend {
    Spend {
        issuer_key_id: [issuer; 32],
        row: row(number),
    }
}

/// Nothing to pay and nothing to record.
pub(super) fn free() -> Receipt {
    Receipt::default()
}

/// One token, one result, both of this number.
pub(super) fn receipt(number: u64) -> Receipt {
    Receipt {
        spends: vec![token(1, number)],
        result: Some(result(number)),
    }
}

pub(super) fn result(number: u64) -> ResultRecord {
    ResultRecord {
        at: today(number),
        sealed: value(number),
    }
}

pub(super) fn paying(spends: Vec<Spend>) -> Receipt {
    Receipt {
        spends,
        result: None,
    }
}

pub(super) fn reservation(group: u64, owner_number: u8) -> Reservation {
    Reservation {
        at: today(group),
        owner_tag: owner(owner_number),
    }
}

pub(super) fn new_group(group: u64, owner_number: u8) -> NewGroup {
    NewGroup {
        group: row(group),
        reservation_days: vec![TODAY, TODAY - 1],
        owner_tag: owner(owner_number),
        version: version(0),
        key_check: value(0),
        roster: value(0),
        tree: value(0),
    }
}

/// A group at version 0, whose roster and tree are value 0.
pub(super) async fn found(store: &Engine, group: u64) {
    store
        .reserve_group(reservation(group, 1), free())
        .await
        .unwrap();
    store
        .create_group(new_group(group, 1), free())
        .await
        .unwrap();
}

/// From one version to the next, with roster, tree and proposals of the next one's number and one entry.
pub(super) fn advance(group: u64, expected: u64, next: u64) -> Advance {
    Advance {
        group: row(group),
        expected: version(expected),
        next: version(next),
        key_check: value(next),
        roster: value(next),
        tree: Some(value(next)),
        proposals: ProposalsChange::Put(value(next)),
        join_record: None,
        dropped_join_records: Vec::new(),
        recovery_records: Vec::new(),
        dropped_recovery_records: Vec::new(),
        deliveries: delivery(next),
    }
}

/// The group at this version, as [`advance`] leaves it.
pub(super) fn stored(number: u64, parts: Parts) -> StoredGroup {
    StoredGroup {
        version: version(number),
        roster: value(number),
        tree: parts.tree.then(|| value(number)),
        proposals: parts.proposals.then(|| value(number)),
    }
}

/// From this version to the end, with one entry of this number.
pub(super) fn deletion(group: u64, expected: u64, number: u64) -> GroupDeletion {
    GroupDeletion {
        group: row(group),
        expected: version(expected),
        dropped_recovery_records: Vec::new(),
        dropped_join_records: Vec::new(),
        deliveries: delivery(number),
    }
}

/// One payload with one entry and its block marker, all of this number.
pub(super) fn delivery(number: u64) -> Deliveries {
    Deliveries {
        payloads: vec![NewPayload {
            at: today(number),
            sealed: value(number),
            references: 1,
        }],
        entries: vec![(today(number), value(number))],
        blocks: vec![today(number)],
    }
}

/// Entry and payload and marker of [`delivery`]: all there, or none (anything else is a fault).
pub(super) async fn is_delivered(store: &Engine, number: u64) -> bool {
    let entry = store.entries(vec![today(number)]).await.unwrap().remove(0);
    let payload = store.payloads(vec![today(number)]).await.unwrap().remove(0);
    let block = store.blocks(vec![today(number)]).await.unwrap().remove(0);
    assert_eq!(
        entry.is_some(),
        payload.is_some(),
        "an entry and its payload come together"
    );
    assert_eq!(
        entry.is_some(),
        block,
        "an entry and its block marker come together"
    );
    assert!(entry.is_none_or(|entry| entry == value(number)));
    block
}

/// A payload with one entry for each of these numbers.
pub(super) async fn share(store: &Engine, payload: u64, entries: &[u64]) {
    let references = u32::try_from(entries.len()).unwrap();
    let deliveries = Deliveries {
        payloads: vec![NewPayload {
            at: today(payload),
            sealed: value(payload),
            references,
        }],
        entries: entries
            .iter()
            .map(|entry| (today(*entry), value(*entry)))
            .collect(),
        blocks: Vec::new(),
    };
    store.deliver(deliveries, free()).await.unwrap();
}

pub(super) async fn has_payload(store: &Engine, payload: u64) -> bool {
    let found = store
        .payloads(vec![today(payload)])
        .await
        .unwrap()
        .remove(0);
    assert!(found.as_ref().is_none_or(|found| *found == value(payload)));
    found.is_some()
}

pub(super) fn set(number: u64, expiry_day: u32) -> NewKeyPackageSet {
    NewKeyPackageSet {
        id: row(number),
        ciphersuite: SUITE,
        expiry_day,
        last_resort: false,
        sealed: value(number),
    }
}

pub(super) fn last_resort(number: u64, expiry_day: u32) -> NewKeyPackageSet {
    NewKeyPackageSet {
        last_resort: true,
        ..set(number, expiry_day)
    }
}

pub(super) fn consumed(pool: u64, number: u64, expiry_day: u32) -> ConsumedSet {
    ConsumedSet {
        pool: row(pool),
        ciphersuite: SUITE,
        expiry_day,
        id: row(number),
    }
}

pub(super) async fn publish(store: &Engine, pool: u64, sets: Vec<NewKeyPackageSet>) {
    store
        .publish_key_packages(row(pool), owner(1), sets, free())
        .await
        .unwrap();
}

/// Nothing of this receipt happened. Spends its tokens to find out.
pub(super) async fn assert_not_charged(store: &Engine, receipt: Receipt) {
    if let Some(result) = &receipt.result {
        assert_eq!(
            store.result(result.at).await.unwrap(),
            None,
            "a refusal recorded a result"
        );
    }
    store
        .settle(paying(receipt.spends))
        .await
        .expect("a refusal spent a token");
}

/// Starts `count` tasks that begin together, and gives their answers in order.
pub(super) async fn race<T, F>(count: u64, task: impl Fn(u64) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(Barrier::new(usize::try_from(count).unwrap()));
    let tasks: Vec<_> = (0..count)
        .map(|number| {
            let (start, task) = (Arc::clone(&start), task(number));
            tokio::spawn(async move {
                start.wait().await;
                task.await
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

/// Who was first; all others were refused in the way that `refused` accepts.
pub(super) fn only_winner(
    answers: &[Result<(), StoreError>],
    refused: impl Fn(&StoreError) -> bool,
) -> u64 {
    let mut winner = None;
    for (number, answer) in answers.iter().enumerate() {
        match answer {
            Ok(()) => assert_eq!(winner.replace(number), None, "two were first"),
            Err(error) => assert!(refused(error), "refused with {error:?}"),
        }
    }
    winner.expect("nobody was first") as u64
}
