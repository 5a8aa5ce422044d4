mod crash;
mod damage;
mod snapshot;

use ds_domain::engine::Condition;

use super::*;

async fn empty() -> (Rocks, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let rocks = Rocks::create(directory.path().join("store")).unwrap();
    (rocks, directory)
}

macro_rules! on_rocks {
    ($($name:ident),+ $(,)?) => {
        mod conformance {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $name() {
                    let (rocks, _directory) = super::empty().await;
                    ds_domain::conformance::$name(std::sync::Arc::new(rocks)).await;
                }
            )+
        }
    };
}
ds_domain::engine_conformance_with!(on_rocks);

fn row(table: Table, number: u8) -> Key {
    Key {
        table,
        day: if table.has_days() { 7 } else { 0 },
        name: vec![number; 16],
    }
}

fn put(key: &Key, value: &[u8]) -> Batch {
    Batch {
        puts: vec![(key.clone(), value.to_vec())],
        ..Batch::default()
    }
}

async fn value(rocks: &Rocks, key: &Key) -> Option<Vec<u8>> {
    match rocks
        .read(vec![Read::Row(key.clone())])
        .await
        .unwrap()
        .pop()
    {
        Some(Found::Row(value)) => value,
        other => panic!("{other:?}"),
    }
}

fn refused(path: &Path) -> String {
    Rocks::open(path).unwrap_err().to_string()
}

/// Writes past the port.
fn write_raw(rocks: &Rocks, write: impl FnOnce(&mut rocksdb::WriteBatch)) {
    let mut rows = rocksdb::WriteBatch::default();
    write(&mut rows);
    rocks.database.write(rows).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_row_of_every_table_is_there_after_it_is_opened_again_from_log_and_files() {
    let (rocks, directory) = empty().await;
    let path = directory.path().join("store");
    for table in Table::ALL {
        rocks.apply(put(&row(table, 1), b"value")).await.unwrap();
        rocks.apply(put(&row(table, 2), b"gone")).await.unwrap();
        let deletion = Batch {
            conditions: vec![Condition::Present(row(table, 2))],
            deletes: vec![row(table, 2)],
            ..put(&row(table, 3), b"other")
        };
        rocks.apply(deletion).await.unwrap();
    }
    let mut rocks = rocks;
    for is_flushed in [false, true] {
        if is_flushed {
            rocks.flush().await.unwrap();
        }
        drop(rocks);
        rocks = Rocks::open(&path).unwrap();
        for table in Table::ALL {
            let there = [1, 2, 3].map(|number| row(table, number));
            let mut values = Vec::new();
            for key in &there {
                values.push(value(&rocks, key).await);
            }
            let expected = [Some(b"value".to_vec()), None, Some(b"other".to_vec())];
            assert_eq!(values, expected, "{table:?}, flushed: {is_flushed}");
        }
    }
    assert_eq!(rocks.estimated_rows().unwrap().len(), Table::ALL.len());
}

#[tokio::test]
async fn a_directory_belongs_to_one_process_and_to_nobody_else() {
    use std::os::unix::fs::PermissionsExt as _;
    let (rocks, directory) = empty().await;
    let path = directory.path().join("store");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let open = || Rocks::open(&path);
    assert!(matches!(
        open(),
        Err(OpenError::Refused(Refusal::InUse { .. }))
    ));
    drop(rocks);
    drop(open().unwrap());
    assert!(matches!(
        Rocks::create(&path),
        Err(OpenError::Refused(Refusal::Occupied { .. }))
    ));
}

#[tokio::test]
async fn another_format_and_rows_without_one_are_refused() {
    let (rocks, directory) = empty().await;
    let path = directory.path().join("store");
    let other = (FORMAT + 1).to_be_bytes();
    let key = tables::stored_key(&format_key());
    write_raw(&rocks, |rows| {
        rows.put_cf(rocks.database.table(Table::Store).unwrap(), &key, other);
    });
    drop(rocks);
    let text = refused(&path);
    assert!(text.contains("another format"), "{text}");

    let (rocks, directory) = empty().await;
    let path = directory.path().join("store");
    rocks
        .apply(put(&row(Table::Handles, 1), b"sealed"))
        .await
        .unwrap();
    write_raw(&rocks, |rows| {
        rows.delete_cf(rocks.database.table(Table::Store).unwrap(), &key);
    });
    drop(rocks);
    let text = refused(&path);
    assert!(text.contains("does not say its format"), "{text}");
}

#[tokio::test]
async fn tables_of_a_later_version_are_refused() {
    let (rocks, directory) = empty().await;
    let path = directory.path().join("store");
    drop(rocks);
    let mut options = rocksdb::Options::default();
    options.create_missing_column_families(true);
    let mut names = DB::list_cf(&options, &path).unwrap();
    names.push("of_a_later_version".to_owned());
    drop(DB::open_cf(&options, &path, names).unwrap());
    let text = refused(&path);
    assert!(text.contains("this version doesn't know"), "{text}");
}

#[tokio::test]
async fn a_panic_in_a_storage_call_is_an_engine_error_and_blocks_nobody() {
    let (rocks, _directory) = empty().await;
    let answer = rocks
        .blocking::<()>(|database| {
            let _held = database.in_turn.lock().unwrap();
            panic!("a fault");
        })
        .await;
    assert!(matches!(answer, Err(EngineError(text)) if !text.contains("a fault")));
    rocks
        .apply(put(&row(Table::Groups, 1), b"value"))
        .await
        .unwrap();
}

/// As when a client hangs up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(
    clippy::await_holding_lock,
    reason = "the thread that writes is to wait; nobody else wants the lock"
)]
async fn a_batch_whose_caller_went_away_is_applied() {
    let (rocks, directory) = empty().await;
    let held = rocks.database.in_turn.lock().unwrap();
    let key = row(Table::Groups, 1);
    let batch = put(&key, b"value");
    let gone =
        tokio::time::timeout(std::time::Duration::from_millis(200), rocks.apply(batch)).await;
    assert!(gone.is_err(), "nothing can be written yet");
    drop(held);
    drop(rocks);
    let rocks = Rocks::open(directory.path().join("store")).unwrap();
    assert_eq!(value(&rocks, &key).await.as_deref(), Some(&b"value"[..]));
}

/// What is deleted is out of the files once they have been rewritten: whole days at once.
#[tokio::test]
async fn expired_days_leave_the_disk_with_their_files() {
    let (rocks, directory) = empty().await;
    let path = directory.path().join("store");
    let sealed = |day: u32| vec![day as u8; 4_000];
    for day in 1..=4u32 {
        let puts = (0..250u8).map(|number| {
            let key = Key {
                table: Table::Messages,
                day,
                name: vec![number; 16],
            };
            (key, sealed(day))
        });
        let batch = Batch {
            puts: puts.collect(),
            ..Batch::default()
        };
        rocks.apply(batch).await.unwrap();
    }
    rocks.flush().await.unwrap();
    rocks.drop_days(Table::Messages, 4).await.unwrap();
    rocks.flush().await.unwrap();
    let messages = rocks.database.table(Table::Messages).unwrap();
    rocks
        .database
        .db
        .compact_range_cf(messages, None::<&[u8]>, None::<&[u8]>);
    let left = |day: u32| {
        let files = std::fs::read_dir(&path)
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
async fn reading_everything_ends_when_the_process_does() {
    let (rocks, _directory) = empty().await;
    for number in 0..20 {
        rocks
            .apply(put(&row(Table::Messages, number), b"value"))
            .await
            .unwrap();
    }
    let (trigger, shutdown) = Shutdown::channel();
    assert!(rocks.read_everything(&shutdown).unwrap() > 20);
    trigger.request();
    assert_eq!(rocks.read_everything(&shutdown).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_there_after_the_store_is_opened_again() {
    let (rocks, directory) = empty().await;
    let row = Key {
        table: Table::Messages,
        day: 7,
        name: b"row".to_vec(),
    };
    let batch = Batch {
        puts: vec![(row.clone(), b"value".to_vec())],
        ..Batch::default()
    };
    rocks.apply(batch).await.unwrap();
    drop(rocks);
    let rocks = Rocks::open(directory.path().join("store")).unwrap();
    let found = rocks.read(vec![Read::Row(row)]).await.unwrap();
    assert_eq!(found, [Found::Row(Some(b"value".to_vec()))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_not_in_memory_is_read_from_the_disk() {
    let (rocks, directory) = empty().await;
    let row = |n: u32| Key {
        table: Table::Groups,
        day: 0,
        name: n.to_be_bytes().to_vec(),
    };
    for n in 0..100 {
        let batch = Batch {
            puts: vec![(row(n), vec![1; 1000])],
            ..Batch::default()
        };
        rocks.apply(batch).await.unwrap();
    }
    rocks.flush().await.unwrap();
    drop(rocks);
    let rocks = Rocks::open(directory.path().join("store")).unwrap();
    for n in 0..100 {
        let found = rocks.read(vec![Read::Row(row(n))]).await.unwrap();
        assert_eq!(found, [Found::Row(Some(vec![1; 1000]))]);
    }
}
