//! The suite that judges every engine. An engine's crate names it once:
//! `ds_domain::engine_conformance_with!(tests)`, where `tests` makes a test of each name.

mod contention;
pub mod crash;

use std::sync::Arc;

use futures::future::join_all;
use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use crate::engine::{
    ApplyError, Batch, Condition, Engine, Found, Key, Range, Read, Table, VERSION_LEN,
};
use crate::memory::MemoryEngine;

pub use self::contention::*;
pub use crate::engine::faulty::{Fault, Faulty};
pub use crate::engine::watched::{Asked, Watched};
pub use crate::group::scenes::{
    a_history_of_requests_leaves_what_it_leaves_in_the_map,
    each_transition_has_one_effect_wherever_its_apply_fails, snapshot,
};

/// Hands the names of all functions of the suite to a macro.
#[macro_export]
macro_rules! engine_conformance_with {
    ($macro:ident) => {
        $macro!(
            a_batch_happens_whole_or_not_at_all,
            the_first_condition_that_does_not_hold_is_reported_with_the_row,
            a_version_is_what_a_value_begins_with,
            deletes_come_before_writes,
            ranges_are_in_order_and_end_with_their_prefix_day_and_bounds,
            a_dropped_day_takes_no_other_with_it,
            a_dropped_prefix_takes_no_other_with_it,
            of_many_changes_of_one_row_each_builds_on_the_one_before,
            of_many_claims_of_one_row_one_wins,
            names_and_values_of_every_length_come_back,
            every_engine_does_what_the_map_does,
            what_has_no_day_does_not_expire,
            a_request_that_comes_many_times_at_once_has_one_effect,
            a_token_is_spent_once_by_racing_requests,
            each_of_many_sets_goes_to_one_of_more_claimers,
            batches_that_want_rows_crosswise_do_not_block_each_other,
            no_entry_lands_behind_the_change_of_its_group,
            nothing_is_reserved_that_was_made_meanwhile,
            a_token_whose_row_went_meets_a_closed_issuer_key,
            a_large_change_gets_through_a_flood_of_small_ones,
            each_transition_has_one_effect_wherever_its_apply_fails,
            a_history_of_requests_leaves_what_it_leaves_in_the_map,
        );
    };
}

type Shared = Arc<dyn Engine>;

fn key(table: Table, day: u32, name: &[u8]) -> Key {
    Key {
        table,
        day,
        name: name.to_vec(),
    }
}

fn put(key: &Key, value: &[u8]) -> Batch {
    Batch {
        puts: vec![(key.clone(), value.to_vec())],
        ..Batch::default()
    }
}

async fn value(engine: &Shared, key: &Key) -> Option<Vec<u8>> {
    match engine
        .read(vec![Read::Row(key.clone())])
        .await
        .unwrap()
        .pop()
    {
        Some(Found::Row(value)) => value,
        other => panic!("a row was asked for: {other:?}"),
    }
}

async fn names(engine: &Shared, range: Range) -> Vec<Vec<u8>> {
    match engine.read(vec![Read::Range(range)]).await.unwrap().pop() {
        Some(Found::Range(rows)) => rows.into_iter().map(|(name, _)| name).collect(),
        other => panic!("a range was asked for: {other:?}"),
    }
}

fn range(table: Table, day: u32, prefix: &[u8]) -> Range {
    Range {
        table,
        day,
        prefix: prefix.to_vec(),
        from: prefix.to_vec(),
        limit: 100,
        max_bytes: usize::MAX,
    }
}

/// Nothing of a batch is there when one of its conditions does not hold.
pub async fn a_batch_happens_whole_or_not_at_all(engine: Shared) {
    let (a, b) = (key(Table::Groups, 0, b"a"), key(Table::Results, 9, b"b"));
    engine.apply(put(&a, b"one")).await.unwrap();
    let mut batch = put(&b, b"two");
    batch.deletes.push(a.clone());
    batch.conditions.push(Condition::Present(a.clone()));
    batch.conditions.push(Condition::Absent(a.clone()));
    let refused = engine.apply(batch.clone()).await;
    assert!(matches!(
        refused,
        Err(ApplyError::Condition { condition: 1, .. })
    ));
    assert_eq!(value(&engine, &a).await.as_deref(), Some(&b"one"[..]));
    assert_eq!(value(&engine, &b).await, None);
    batch.conditions.pop();
    engine.apply(batch).await.unwrap();
    assert_eq!(value(&engine, &a).await, None);
    assert_eq!(value(&engine, &b).await.as_deref(), Some(&b"two"[..]));
}

/// The index tells a receipt what failed, and the row has the recorded result.
pub async fn the_first_condition_that_does_not_hold_is_reported_with_the_row(engine: Shared) {
    let (a, b) = (key(Table::Results, 3, b"a"), key(Table::Spent, 0, b"b"));
    engine.apply(put(&a, b"recorded")).await.unwrap();
    engine.apply(put(&b, b"")).await.unwrap();
    let batch = Batch {
        conditions: vec![
            Condition::Absent(key(Table::Groups, 0, b"c")),
            Condition::Absent(a.clone()),
            Condition::Absent(b.clone()),
        ],
        ..put(&b, b"other")
    };
    assert_eq!(
        engine.apply(batch).await,
        Err(ApplyError::Condition {
            condition: 1,
            found: Some(b"recorded".to_vec())
        })
    );
    let missing = Batch {
        conditions: vec![Condition::Present(key(Table::Groups, 0, b"c"))],
        ..Batch::default()
    };
    assert_eq!(
        engine.apply(missing).await,
        Err(ApplyError::Condition {
            condition: 0,
            found: None
        })
    );
}

/// A version condition holds of exactly one state of a row.
pub async fn a_version_is_what_a_value_begins_with(engine: Shared) {
    let row = key(Table::Heads, 0, b"row");
    let version = [7; VERSION_LEN];
    let at = |version| Batch {
        conditions: vec![Condition::Version(row.clone(), version)],
        ..Batch::default()
    };
    assert!(engine.apply(at(version)).await.is_err());
    engine.apply(put(&row, &[7; VERSION_LEN])).await.unwrap();
    engine.apply(at(version)).await.unwrap();
    engine.apply(put(&row, &[7; 40])).await.unwrap();
    engine.apply(at(version)).await.unwrap();
    assert!(engine.apply(at([8; VERSION_LEN])).await.is_err());
    engine
        .apply(put(&row, &[7; VERSION_LEN - 1]))
        .await
        .unwrap();
    assert!(engine.apply(at(version)).await.is_err());
}

/// A row that is deleted and written in one batch is there.
pub async fn deletes_come_before_writes(engine: Shared) {
    let row = key(Table::RecoveryRows, 0, b"row");
    let mut batch = put(&row, b"new");
    batch.deletes.push(row.clone());
    engine.apply(batch).await.unwrap();
    assert_eq!(value(&engine, &row).await.as_deref(), Some(&b"new"[..]));
}

/// A range has no row of another table, day or prefix.
pub async fn ranges_are_in_order_and_end_with_their_prefix_day_and_bounds(engine: Shared) {
    let mut batch = Batch::default();
    for name in [&b"pa"[..], b"pb", b"pb1", b"pc", b"o", b"q", &[b'p', 255]] {
        batch
            .puts
            .push((key(Table::Handshakes, 5, name), vec![1; 10]));
    }
    batch
        .puts
        .push((key(Table::Handshakes, 4, b"p4"), vec![1; 10]));
    batch
        .puts
        .push((key(Table::Handshakes, 6, b"p6"), vec![1; 10]));
    batch
        .puts
        .push((key(Table::Messages, 5, b"pm"), vec![1; 10]));
    engine.apply(batch).await.unwrap();
    let all = range(Table::Handshakes, 5, b"p");
    let expected = [&b"pa"[..], b"pb", b"pb1", b"pc", &[b'p', 255]];
    assert_eq!(names(&engine, all.clone()).await, expected);
    let later = Range {
        from: b"pb".to_vec(),
        ..all.clone()
    };
    assert_eq!(names(&engine, later).await, &expected[1..]);
    let few = Range {
        limit: 2,
        ..all.clone()
    };
    assert_eq!(names(&engine, few).await, &expected[..2]);
    let small = Range {
        max_bytes: 15,
        ..all.clone()
    };
    assert_eq!(names(&engine, small).await, &expected[..2]);
    let tiny = Range {
        max_bytes: 1,
        ..all
    };
    assert_eq!(names(&engine, tiny).await, &expected[..1]);
    assert_eq!(
        names(&engine, range(Table::Handshakes, 5, b"z")).await,
        Vec::<Vec<u8>>::new()
    );
}

/// What expires goes by its own day.
pub async fn a_dropped_day_takes_no_other_with_it(engine: Shared) {
    let rows: Vec<Key> = [3, 4, 5, 300]
        .into_iter()
        .flat_map(|day| [Table::Messages, Table::Handshakes].map(|table| key(table, day, b"row")))
        .collect();
    for row in &rows {
        engine.apply(put(row, b"value")).await.unwrap();
    }
    engine.drop_days(Table::Messages, 5).await.unwrap();
    for row in &rows {
        let gone = row.table == Table::Messages && row.day < 5;
        assert_eq!(value(&engine, row).await.is_none(), gone, "{row:?}");
    }
    engine.apply(put(&rows[0], b"again")).await.unwrap();
    assert!(value(&engine, &rows[0]).await.is_some());
}

/// The spent-set of one issuer key goes alone.
pub async fn a_dropped_prefix_takes_no_other_with_it(engine: Shared) {
    let rows = [&b"aa1"[..], b"aa2", b"ab1", b"a", &[b'a', b'a', 255, 255]]
        .map(|name| key(Table::Spent, 0, name));
    for row in &rows {
        engine.apply(put(row, b"")).await.unwrap();
    }
    engine
        .drop_prefix(Table::Spent, b"aa".to_vec())
        .await
        .unwrap();
    for row in &rows {
        let gone = row.name.starts_with(b"aa");
        assert_eq!(value(&engine, row).await.is_none(), gone, "{row:?}");
    }
}

/// No change is lost, whoever meets whom.
pub async fn of_many_changes_of_one_row_each_builds_on_the_one_before(engine: Shared) {
    const WRITERS: u64 = 8;
    const CHANGES: u64 = 12;
    let row = key(Table::Heads, 0, b"counter");
    let content = |writer: u64, change: u64, count: u64| {
        let mut value = [0; VERSION_LEN].to_vec();
        value[..8].copy_from_slice(&(writer * 1000 + change).to_be_bytes());
        value[8..16].copy_from_slice(&count.to_be_bytes());
        value
    };
    engine.apply(put(&row, &content(99, 0, 0))).await.unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let (engine, row) = (Arc::clone(&engine), row.clone());
        async move {
            for change in 0..CHANGES {
                loop {
                    let before = value(&engine, &row).await.unwrap();
                    let count = u64::from_be_bytes(before[8..16].try_into().unwrap());
                    let mut batch = put(&row, &content(writer, change, count + 1));
                    let version = before[..VERSION_LEN].try_into().unwrap();
                    batch
                        .conditions
                        .push(Condition::Version(row.clone(), version));
                    match engine.apply(batch).await {
                        Ok(()) => break,
                        Err(ApplyError::Condition { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
    });
    join_all(writers).await;
    let last = value(&engine, &row).await.unwrap();
    assert_eq!(
        u64::from_be_bytes(last[8..16].try_into().unwrap()),
        WRITERS * CHANGES
    );
}

/// A claim, a spent token, a recorded result: once.
pub async fn of_many_claims_of_one_row_one_wins(engine: Shared) {
    for round in 0..8u8 {
        let set = key(Table::PoolSets, 9, &[round]);
        engine.apply(put(&set, b"set")).await.unwrap();
        let claims = (0..8u8).map(|claimant| {
            let (engine, set) = (Arc::clone(&engine), set.clone());
            let result = key(Table::Results, 9, &[round, claimant]);
            async move {
                let batch = Batch {
                    conditions: vec![
                        Condition::Absent(result.clone()),
                        Condition::Present(set.clone()),
                    ],
                    puts: vec![(result, b"mine".to_vec())],
                    deletes: vec![set],
                };
                engine.apply(batch).await.is_ok()
            }
        });
        let won = join_all(claims)
            .await
            .into_iter()
            .filter(|won| *won)
            .count();
        assert_eq!(won, 1);
        assert_eq!(
            names(&engine, range(Table::Results, 9, &[round]))
                .await
                .len(),
            1
        );
    }
}

/// Also an empty name and value, and a value larger than any buffer.
pub async fn names_and_values_of_every_length_come_back(engine: Shared) {
    for (name_len, value_len) in [(1, 0), (2, 1), (16, 70), (Key::MAX_NAME, 1 << 20)] {
        let row = key(Table::GroupParts, 0, &vec![name_len as u8; name_len]);
        let content = vec![0xa5; value_len];
        engine.apply(put(&row, &content)).await.unwrap();
        assert_eq!(value(&engine, &row).await, Some(content));
    }
}

/// Days are counted in some tables only, whatever is asked for.
pub async fn what_has_no_day_does_not_expire(engine: Shared) {
    for table in Table::ALL {
        let day = if table.has_days() { 3 } else { 0 };
        engine
            .apply(put(&key(table, day, b"row"), b"value"))
            .await
            .unwrap();
        for _ in 0..2 {
            engine.drop_days(table, 4).await.unwrap();
            let left = value(&engine, &key(table, day, b"row")).await;
            assert_eq!(left.is_none(), table.has_days(), "{table:?}");
        }
    }
}

/// Random histories, with everything that an engine can do, beside the reference. `HISTORY_SEED`
/// tells which.
pub async fn every_engine_does_what_the_map_does(engine: Shared) {
    let seed = std::env::var("HISTORY_SEED").map_or(11, |seed| seed.parse().unwrap());
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut map = MemoryEngine::default();
    let tables = [
        Table::Groups,
        Table::Messages,
        Table::Results,
        Table::Spent,
        Table::PoolSets,
    ];
    for step in 0..400 {
        let mut draw = |below: u32| rng.next_u32() % below;
        let any_key = |draw: &mut dyn FnMut(u32) -> u32| {
            let table = tables[draw(5) as usize];
            let day = if table.has_days() { 1 + draw(4) } else { 0 };
            let len = 1 + draw(2) as usize;
            let name: Vec<u8> = (0..len).map(|_| draw(4) as u8).collect();
            key(table, day, &name)
        };
        match draw(12) {
            0 => {
                let before = draw(5);
                engine.drop_days(Table::Messages, before).await.unwrap();
                map.drop_days(Table::Messages, before);
            }
            1 => {
                let prefix = vec![draw(4) as u8];
                engine
                    .drop_prefix(Table::Spent, prefix.clone())
                    .await
                    .unwrap();
                map.drop_prefix(Table::Spent, &prefix);
            }
            _ => {
                let mut batch = Batch::default();
                for _ in 0..draw(3) {
                    let key = any_key(&mut draw);
                    batch.conditions.push(match draw(3) {
                        0 => Condition::Absent(key),
                        1 => Condition::Present(key),
                        _ => Condition::Version(key, [draw(3) as u8; VERSION_LEN]),
                    });
                }
                for _ in 0..draw(4) {
                    let key = any_key(&mut draw);
                    let content = draw(3) as u8;
                    let len = VERSION_LEN + draw(9) as usize;
                    // One write of a row in a batch: two have no order.
                    if !batch.puts.iter().any(|(other, _)| *other == key) {
                        batch.puts.push((key, vec![content; len]));
                    }
                }
                for _ in 0..draw(3) {
                    let key = any_key(&mut draw);
                    batch.deletes.push(key);
                }
                assert_eq!(
                    engine.apply(batch.clone()).await,
                    map.apply(batch),
                    "HISTORY_SEED={seed}, step {step}"
                );
            }
        }
        let mut reads: Vec<Read> = (0..3).map(|_| Read::Row(any_key(&mut draw))).collect();
        for _ in 0..2 {
            let Key { table, day, name } = any_key(&mut draw);
            reads.push(Read::Range(Range {
                table,
                day,
                prefix: name[..1].to_vec(),
                from: name,
                limit: draw(4) as usize,
                max_bytes: draw(80) as usize,
            }));
        }
        assert_eq!(
            engine.read(reads.clone()).await.unwrap(),
            map.read(&reads),
            "HISTORY_SEED={seed}, step {step}"
        );
    }
}
