//! Whatever is wrong with a file: nothing that was acknowledged is silently gone, and nothing is
//! handed out that was not written.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

const ROWS: u8 = 20;

fn content(number: u8) -> Vec<u8> {
    vec![number; 5_000]
}

/// A whole store with some rows in its log and some in tables, closed.
async fn closed() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let rocks = Rocks::create(directory.path()).unwrap();
    for table in Table::ALL {
        rocks.apply(put(&row(table, 100), b"value")).await.unwrap();
    }
    rocks.flush().await.unwrap();
    for number in 0..ROWS {
        let batch = put(&row(Table::Handles, number), &content(number));
        rocks.apply(batch).await.unwrap();
    }
    directory
}

fn files(directory: &TempDir, suffix: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(directory.path()).unwrap();
    let mut found: Vec<_> = all
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{suffix}");
    found
}

fn copy_of(whole: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for path in files(whole, "") {
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// Whether the store is refused or a read fails, and takes no writes from then on. Else all is
/// there.
async fn is_told(directory: &TempDir, what: &str) -> bool {
    let Ok(rocks) = Rocks::open(directory.path()) else {
        return true;
    };
    if rocks.read_everything(&Shutdown::channel().1).is_err() {
        let probe = rocks.apply(put(&row(Table::Store, 1), &[0])).await;
        assert!(matches!(probe, Err(ApplyError::Engine(_))), "{probe:?}");
        return true;
    }
    for number in 0..ROWS {
        let found = value(&rocks, &row(Table::Handles, number)).await;
        assert_eq!(found, Some(content(number)), "{what}");
    }
    for table in Table::ALL {
        let found = value(&rocks, &row(table, 100)).await;
        assert_eq!(found.as_deref(), Some(&b"value"[..]), "{what}");
    }
    false
}

#[tokio::test]
async fn wherever_a_file_is_damaged_nothing_acknowledged_is_silently_gone() {
    let whole = closed().await;
    let mut told = 0;
    for kind in [".sst", ".log", "CURRENT", "MANIFEST", "ACKNOWLEDGED"] {
        let of_kind = files(&whole, "").into_iter().filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.ends_with(kind) || name.starts_with(kind)
        });
        for file in of_kind {
            let content = fs::read(&file).unwrap();
            let name = file.file_name().unwrap();
            for at in (0..4).map(|quarter| content.len() * quarter / 4) {
                let copy = copy_of(&whole);
                let mut damaged = content.clone();
                if let Some(byte) = damaged.get_mut(at) {
                    *byte ^= 0x20;
                }
                fs::write(copy.path().join(name), damaged).unwrap();
                told += u32::from(is_told(&copy, &format!("{name:?} at {at}")).await);
            }
            let copy = copy_of(&whole);
            fs::remove_file(copy.path().join(name)).unwrap();
            if kind == ".sst" {
                // At once, however many table files there are.
                let refused = Rocks::open(copy.path());
                assert!(
                    matches!(refused, Err(OpenError::Refused(Refusal::Damaged { .. }))),
                    "{name:?} removed: {refused:?}"
                );
            }
            assert!(
                is_told(&copy, &format!("{name:?} removed")).await,
                "{name:?} removed"
            );
        }
    }
    assert!(told > 20, "{told}");
}

#[tokio::test]
async fn a_log_that_is_cut_off_or_gone_is_noticed_and_a_torn_last_write_is_not_held_against_it() {
    let whole = closed().await;
    let log = files(&whole, ".log").pop().unwrap();
    let content = fs::read(&log).unwrap();
    for kept in [0, 1, content.len() / 2, content.len() - 1] {
        fs::write(&log, content.get(..kept).unwrap()).unwrap();
        let refused = Rocks::open(whole.path());
        assert!(
            matches!(
                refused,
                Err(OpenError::Refused(
                    Refusal::Behind { .. } | Refusal::Damaged { .. }
                ))
            ),
            "{kept}: {refused:?}"
        );
    }
    // The beginning of a record, as a kill in the middle of a write leaves it.
    let torn = [&content[..], &content[..40]].concat();
    fs::write(&log, torn).unwrap();
    drop(Rocks::open(whole.path()).unwrap());

    let whole = closed().await;
    fs::remove_file(files(&whole, ".log").pop().unwrap()).unwrap();
    // A second try finds the same: the first one changed nothing for the better.
    for _ in 0..2 {
        assert!(Rocks::open(whole.path()).is_err());
    }
}

/// As a power failure leaves what was not synced: later pages were written, earlier ones not.
#[tokio::test]
async fn a_hole_in_the_log_is_passed_over_behind_what_was_acknowledged_only() {
    let whole = closed().await;
    let log = files(&whole, ".log").pop().unwrap();
    let content = fs::read(&log).unwrap();
    // A page that was never written, and behind it the records of later batches.
    let block = 32 << 10;
    let page = content.len().next_multiple_of(block) - content.len();
    let behind = [&content[..], &vec![0x5a; page], &content[..block]].concat();
    fs::write(&log, &behind).unwrap();
    assert!(!is_told(&whole, "a hole behind").await);
    // It goes on from there for good.
    assert!(!is_told(&whole, "opened again").await);

    let whole = closed().await;
    let log = files(&whole, ".log").pop().unwrap();
    let mut content = fs::read(&log).unwrap();
    let middle = content.len() / 2;
    content.get_mut(middle..middle + 4_096).unwrap().fill(0);
    fs::write(&log, &content).unwrap();
    for _ in 0..2 {
        let refused = Rocks::open(whole.path());
        assert!(
            matches!(refused, Err(OpenError::Refused(Refusal::Damaged { .. }))),
            "{refused:?}"
        );
    }
}

/// Also of writes at the same time, and beside a sweep, whose writes wait for no disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_mark_reaches_the_last_write_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let rocks = Arc::new(Rocks::create(directory.path()).unwrap());
    for round in 0..40 {
        let writers = (0..8).map(|writer| {
            let rocks = Arc::clone(&rocks);
            tokio::spawn(async move {
                let batch = put(&row(Table::Messages, writer), &[0; 5000]);
                rocks.apply(batch).await.unwrap();
            })
        });
        let sweep = {
            let rocks = Arc::clone(&rocks);
            tokio::spawn(async move { rocks.drop_days(Table::Results, round).await.unwrap() })
        };
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        sweep.await.unwrap();
        rocks
            .apply(put(&row(Table::Messages, 9), &[0; 5000]))
            .await
            .unwrap();
        let last = rocks.database.db.latest_sequence_number();
        let mark = fs::read(directory.path().join(high_water::FILE)).unwrap();
        let numbers = mark
            .chunks_exact(16)
            .map(|slot| u64::from_be_bytes(slot[..8].try_into().unwrap()));
        assert_eq!(numbers.max(), Some(last));
    }
}

/// An `init` that was killed leaves some of the files: each such directory is told, and served
/// never.
#[tokio::test]
async fn a_store_that_was_not_made_whole_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(Rocks::create(directory.path().join("store")).unwrap());
    let whole = directory.path().join("store");
    for gone in ["CURRENT", high_water::FILE] {
        let half = directory.path().join(format!("without-{gone}"));
        fs::create_dir(&half).unwrap();
        for file in fs::read_dir(&whole).unwrap() {
            let file = file.unwrap();
            if file.file_name() != *gone {
                fs::copy(file.path(), half.join(file.file_name())).unwrap();
            }
        }
        for _ in 0..2 {
            assert!(
                matches!(
                    Rocks::open(&half),
                    Err(OpenError::Refused(Refusal::Gone { .. }))
                ),
                "{gone}"
            );
        }
        assert!(matches!(
            Rocks::create(&half),
            Err(OpenError::Refused(Refusal::Occupied { .. }))
        ));
    }
    for (path, is_there) in [("nothing", false), ("empty", true)] {
        let path = directory.path().join(path);
        if is_there {
            fs::create_dir(&path).unwrap();
        }
        assert!(matches!(
            Rocks::open(&path),
            Err(OpenError::Refused(
                Refusal::Missing { .. } | Refusal::Empty { .. }
            ))
        ));
        assert_eq!(path.exists(), is_there);
    }
}
