//! What goes with its day.

use ds_domain::engine::Key;

use super::*;
use crate::run::{expire, expire_steadily, settle};

const DAY_MS: u64 = 86_400_000;

async fn put(running: &Running, table: Table, day: u32) {
    let key = Key {
        table,
        day,
        name: vec![1],
    };
    let batch = Batch {
        puts: vec![(key, vec![1])],
        ..Batch::default()
    };
    running.memory.apply(batch).await.unwrap();
}

fn days(running: &Running, table: Table) -> Vec<u32> {
    let rows = running.memory.snapshot();
    let of_table = rows.rows().filter(|(key, _)| key.table == table);
    of_table.map(|(key, _)| key.day).collect()
}

#[tokio::test]
async fn rows_stay_until_the_end_of_their_day_in_every_table_with_days() {
    let running = running(10);
    let tables = Table::ALL.into_iter().filter(|table| table.has_days());
    let tables: Vec<Table> = tables.collect();
    assert_eq!(tables.len(), 12);
    for table in &tables {
        for day in [99, 100, 101] {
            put(&running, *table, day).await;
        }
    }
    put(&running, Table::Groups, 0).await;
    expire(&*running.server.engine, 100).await.unwrap();
    for table in &tables {
        assert_eq!(days(&running, *table), [100, 101], "{table:?}");
    }
    assert_eq!(days(&running, Table::Groups), [0]);
}

#[tokio::test]
async fn nothing_expires_by_a_clock_that_jumped_ahead_however_often_the_service_is_started() {
    let running = running(10);
    settle(&running.server).await.unwrap();
    let today = u32::try_from(NOON_MS / DAY_MS).unwrap();
    put(&running, Table::Messages, today + 10).await;
    running.clock.advance(365 * DAY_MS);
    for _ in 0..40 {
        // As at a start: what the process knew is gone.
        settle(&running.server).await.unwrap();
        expire_steadily(&running.server).await.unwrap();
        assert_eq!(days(&running, Table::Messages), [today + 10]);
    }
    // It says so for a day: the store is told of one day more at each look.
    running.clock.advance(DAY_MS);
    for _ in 0..=10 {
        assert!(!days(&running, Table::Messages).is_empty());
        expire_steadily(&running.server).await.unwrap();
    }
    expire_steadily(&running.server).await.unwrap();
    assert!(days(&running, Table::Messages).is_empty());
}
