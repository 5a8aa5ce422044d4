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
