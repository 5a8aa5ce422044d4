//! The suite on RocksDB, and what is RocksDB's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use service::founding::Refusal;
use service::shutdown::Shutdown;
use tempfile::TempDir;

use super::tables::Table;
use super::{FORMAT, FORMAT_KEY, Rocks};
use crate::store::conformance::{durability, each_invariant};
use crate::store::{
    Advance, DayRow, Deliveries, ExpiryDays, Foundation as _, FoundationError, GroupDeletion,
    NewGroup, ProposalsChange, Receipt, Reservation, Store, StoreError,
};

fn fresh() -> (Rocks, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Rocks::create(directory.path()).unwrap(), directory)
}

macro_rules! on_rocks {
    ($($module:ident: [$($invariant:ident),* $(,)?],)*) => {
        $(mod $module {
            use crate::store::conformance::$module as invariants;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $invariant() {
                    let (store, _directory) = super::fresh();
                    invariants::$invariant(std::sync::Arc::new(store)).await;
                }
            )*
        })*
    };
}
each_invariant!(on_rocks);

#[tokio::test]
async fn everything_is_there_after_a_reopen() {
    let (store, directory) = fresh();
    durability::write_one_of_everything(Arc::new(store)).await;
    durability::find_one_of_everything(Arc::new(Rocks::open(directory.path()).unwrap())).await;
}

#[tokio::test]
async fn everything_is_there_after_a_flush_and_a_reopen() {
    let (store, directory) = fresh();
    durability::write_one_of_everything(Arc::new(store.clone())).await;
    store.flush().await.unwrap();
    drop(store);
    durability::find_one_of_everything(Arc::new(Rocks::open(directory.path()).unwrap())).await;
}

#[tokio::test]
async fn a_directory_belongs_to_one_engine() {
    let (store, directory) = fresh();
    assert!(matches!(
        Rocks::open(directory.path()),
        Err(FoundationError::Refused(Refusal::InUse { .. }))
    ));
    drop(store);
    Rocks::open(directory.path()).unwrap();
}

#[tokio::test]
async fn another_format_is_refused() {
    let (store, directory) = fresh();
    let mut batch = store.engine.batch();
    batch
        .put(Table::Meta, FORMAT_KEY, &(FORMAT + 1).to_be_bytes())
        .unwrap();
    batch.write().unwrap();
    drop(store);
    let refused = Rocks::open(directory.path()).unwrap_err().to_string();
    assert!(refused.contains("another format"), "{refused}");
}

#[tokio::test]
async fn rows_without_a_format_are_refused() {
    let (store, directory) = fresh();
    let mut batch = store.engine.batch();
    batch.delete(Table::Meta, FORMAT_KEY).unwrap();
    batch.put(Table::Queues, &[1; 16], b"sealed").unwrap();
    batch.write().unwrap();
    drop(store);
    let refused = Rocks::open(directory.path()).unwrap_err().to_string();
    assert!(refused.contains("does not say its format"), "{refused}");
}

#[tokio::test]
async fn tables_of_a_later_version_are_refused() {
    let (store, directory) = fresh();
    drop(store);
    let mut options = rocksdb::Options::default();
    options.create_missing_column_families(true);
    let mut names = rocksdb::DB::list_cf(&options, directory.path()).unwrap();
    names.push("of_a_later_version".to_owned());
    let mut merging = rocksdb::Options::default();
    merging.set_merge_operator_associative("sum of i64", |_, _, _| None);
    let tables = names.into_iter().map(|name| (name, merging.clone()));
    drop(rocksdb::DB::open_cf_with_opts(&options, directory.path(), tables).unwrap());
    let refused = Rocks::open(directory.path()).unwrap_err().to_string();
    assert!(refused.contains("this version doesn't know"), "{refused}");
}

/// A change of the version `[2; 16]` that keeps it, and brings proposals.
fn proposing(group: [u8; 16]) -> Advance {
    Advance {
        group,
        expected: [2; 16],
        next: [2; 16],
        key_check: b"key check".to_vec(),
        roster: b"roster".to_vec(),
        tree: None,
        proposals: ProposalsChange::Put(b"proposals".to_vec()),
        join_record: None,
        dropped_join_records: Vec::new(),
        recovery_records: Vec::new(),
        dropped_recovery_records: Vec::new(),
        deliveries: Deliveries::default(),
    }
}

#[tokio::test]
async fn a_deleted_group_leaves_one_row_without_a_value() {
    let (store, _directory) = fresh();
    let (group, owner_tag) = ([1; 16], [1; 32]);
    let at = DayRow { day: 1, row: group };
    store
        .reserve_group(Reservation { at, owner_tag }, Receipt::default())
        .await
        .unwrap();
    let new = NewGroup {
        group,
        reservation_days: vec![1],
        owner_tag,
        version: [2; 16],
        key_check: b"key check".to_vec(),
        roster: b"roster".to_vec(),
        tree: b"tree".to_vec(),
    };
    store.create_group(new, Receipt::default()).await.unwrap();
    let mut change = proposing(group);
    change.join_record = Some((at, b"join record".to_vec()));
    change.recovery_records = vec![(group, b"recovery record".to_vec())];
    store
        .advance_group(change, Receipt::default())
        .await
        .unwrap();
    let deletion = GroupDeletion {
        group,
        expected: [2; 16],
        dropped_recovery_records: vec![group],
        dropped_join_records: vec![at],
        deliveries: Deliveries::default(),
    };
    store
        .delete_group(deletion, Receipt::default())
        .await
        .unwrap();

    let mut left = Vec::new();
    for table in Table::ALL {
        let handle = store.engine.table(table).unwrap();
        let rows = store
            .engine
            .db
            .iterator_cf(handle, rocksdb::IteratorMode::Start);
        left.extend(rows.map(|row| (table, row.unwrap())));
    }
    left.retain(|(table, _)| *table != Table::Meta);
    let tombstone = (Box::from(&group[..]), Box::from(&[][..]));
    assert_eq!(left, [(Table::Groups, tombstone)]);
}

#[tokio::test]
async fn a_panic_in_a_storage_call_is_an_engine_error_and_blocks_nobody() {
    let (store, _directory) = fresh();
    let answer = store
        .blocking::<()>(|engine| {
            let _held = engine
                .conditions
                .claims()
                .exclusive(Table::Queues, &[1; 16])
                .hold();
            panic!("a fault");
        })
        .await;
    assert!(matches!(answer, Err(StoreError::Engine(text)) if !text.contains("a fault")));
    store
        .create_queue([1; 16], Vec::new(), Receipt::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn expired_days_leave_the_disk_with_their_files() {
    let (store, directory) = fresh();
    let sealed = |day: u8| vec![day; 4_000];
    for day in 1..=4 {
        for number in 0..250_u8 {
            let at = DayRow {
                day: u32::from(day),
                row: [number; 16],
            };
            let entries = vec![(at, sealed(day))];
            store
                .deliver(
                    Deliveries {
                        entries,
                        ..Deliveries::default()
                    },
                    Receipt::default(),
                )
                .await
                .unwrap();
        }
    }
    store.flush().await.unwrap();
    store
        .expire(ExpiryDays {
            queues: 4,
            results: 0,
            join_records: 0,
            reservations: 0,
            key_packages: 0,
        })
        .await
        .unwrap();
    store.flush().await.unwrap();
    let entries = store.engine.table(Table::Entries).unwrap();
    store
        .engine
        .db
        .compact_range_cf(entries, None::<&[u8]>, None::<&[u8]>);
    let left = |day: u8| {
        let files = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|file| file.unwrap().path());
        let mut tables =
            files.filter(|file| file.extension().is_some_and(|extension| extension == "sst"));
        tables.any(|table| {
            std::fs::read(table)
                .unwrap()
                .windows(4_000)
                .any(|bytes| bytes == sealed(day))
        })
    };
    assert!(!left(1) && !left(3) && left(4));
}

#[tokio::test]
async fn reference_counts_survive_their_merges_in_files() {
    let (store, directory) = fresh();
    let at = |number: u8| DayRow {
        day: 1,
        row: [number; 16],
    };
    let payload = crate::store::NewPayload {
        at: at(0),
        sealed: b"payload".to_vec(),
        references: 4,
    };
    let entries = (1..=4)
        .map(|number| (at(number), b"entry".to_vec()))
        .collect();
    let deliveries = Deliveries {
        payloads: vec![payload],
        entries,
        blocks: Vec::new(),
    };
    store.deliver(deliveries, Receipt::default()).await.unwrap();
    for number in 1..=3 {
        // Each decrement in a file of its own, so that they meet in compaction only.
        store.flush().await.unwrap();
        store.acknowledge(vec![(at(number), at(0))]).await.unwrap();
    }
    store.flush().await.unwrap();
    let references = store.engine.table(Table::PayloadRefs).unwrap();
    store
        .engine
        .db
        .compact_range_cf(references, None::<&[u8]>, None::<&[u8]>);
    drop(store);
    let store = Rocks::open(directory.path()).unwrap();
    assert_eq!(
        store.payloads(vec![at(0)]).await.unwrap(),
        [Some(b"payload".to_vec())]
    );
    store.acknowledge(vec![(at(4), at(0))]).await.unwrap();
    assert_eq!(store.payloads(vec![at(0)]).await.unwrap(), [None]);
    let rows = store.estimated_rows().unwrap();
    assert_eq!(rows.len(), Table::ALL.len());
}

/// A whole store with some rows in its log and some in tables, closed.
async fn closed() -> TempDir {
    let (store, directory) = fresh();
    durability::write_one_of_everything(Arc::new(store.clone())).await;
    store.flush().await.unwrap();
    for number in 0..20 {
        let row = [number; 16];
        store
            .create_queue(row, vec![number; 5_000], Receipt::default())
            .await
            .unwrap();
    }
    directory
}

fn files(directory: &TempDir, suffix: &str) -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir(directory.path()).unwrap();
    let mut found: Vec<_> = all
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{suffix}");
    found
}

#[tokio::test]
async fn reading_everything_ends_when_the_process_does() {
    let (store, _directory) = fresh();
    durability::write_one_of_everything(Arc::new(store.clone())).await;
    let (trigger, shutdown) = Shutdown::channel();
    assert!(store.read_everything(&shutdown).unwrap() > 10);
    trigger.request();
    assert_eq!(store.read_everything(&shutdown).unwrap(), 0);
}

/// Also of writes at the same time, whose numbers nobody knows beforehand.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_mark_reaches_the_last_write_that_was_acknowledged() {
    let (store, directory) = fresh();
    for _ in 0..40 {
        let writers = (0..8).map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let note = crate::store::Note::Probe;
                store.write_note(note, vec![0; 5000]).await.unwrap();
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        let last = store.engine.db.latest_sequence_number();
        let mark = std::fs::read(directory.path().join(service::high_water::FILE)).unwrap();
        let numbers = mark
            .chunks_exact(16)
            .map(|slot| u64::from_be_bytes(slot[..8].try_into().unwrap()));
        assert_eq!(numbers.max(), Some(last));
    }
}

/// A read must never hand out what was not written, whichever byte of whichever file is wrong: the store
/// is refused, or some read fails, or all that was acknowledged is there.
#[tokio::test]
async fn wherever_a_file_is_damaged_nothing_acknowledged_is_silently_gone() {
    let whole = closed().await;
    let mut refused = 0;
    for suffix in [".sst", ".log", "CURRENT", "ACKNOWLEDGED"] {
        for file in files(&whole, suffix) {
            let content = std::fs::read(&file).unwrap();
            for quarter in 0..4 {
                let Some(at) = (content.len() > quarter).then(|| content.len() * quarter / 4)
                else {
                    continue;
                };
                let copy = tempfile::tempdir().unwrap();
                for path in files(&whole, "") {
                    let name = path.file_name().unwrap().to_owned();
                    std::fs::copy(&path, copy.path().join(name)).unwrap();
                }
                let mut damaged = content.clone();
                *damaged.get_mut(at).unwrap() ^= 0x20;
                let name = file.file_name().unwrap();
                std::fs::write(copy.path().join(name), damaged).unwrap();
                let Ok(store) = Rocks::open(copy.path()) else {
                    refused += 1;
                    continue;
                };
                let read = store.read_everything(&Shutdown::channel().1);
                if read.is_err() {
                    refused += 1;
                    assert!(
                        store
                            .write_note(crate::store::Note::Probe, vec![0])
                            .await
                            .is_err()
                    );
                    continue;
                }
                for number in 0..20 {
                    let queue = store.queue([number; 16]).await.unwrap();
                    assert_eq!(queue, Some(vec![number; 5_000]), "{name:?} at {at}");
                }
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[tokio::test]
async fn a_log_that_is_cut_off_or_gone_is_noticed_and_a_torn_last_write_is_not_held_against_it() {
    let whole = closed().await;
    let log = files(&whole, ".log").pop().unwrap();
    let content = std::fs::read(&log).unwrap();
    for kept in [0, 1, content.len() / 2, content.len() - 1] {
        std::fs::write(&log, content.get(..kept).unwrap()).unwrap();
        let refused = Rocks::open(whole.path());
        assert!(
            matches!(
                refused,
                Err(FoundationError::Refused(
                    Refusal::Behind { .. } | Refusal::Damaged { .. }
                ))
            ),
            "{kept}: {refused:?}"
        );
    }
    std::fs::write(&log, &content).unwrap();
    // The beginning of a record, as a kill in the middle of a write leaves it.
    let torn = [&content[..], &content[..40]].concat();
    std::fs::write(&log, torn).unwrap();
    drop(Rocks::open(whole.path()).unwrap());

    let whole = closed().await;
    std::fs::remove_file(files(&whole, ".log").pop().unwrap()).unwrap();
    assert!(Rocks::open(whole.path()).is_err());
    // A second try finds the same: the first one changed nothing for the better.
    assert!(Rocks::open(whole.path()).is_err());
}
