//! One suite for every store.

use protocol::ids::Day;

use super::*;

const LEN: usize = 1000;

fn of(last_day: u32, row: u8) -> Location {
    Location {
        last_day: Day(last_day),
        row: [row; 16],
    }
}

async fn sorted(store: &BlobStore, of: &Location) -> Vec<u16> {
    let mut present = store.present(of, LEN).await.unwrap();
    present.sort_unstable();
    present
}

async fn suite(store: &BlobStore) {
    store.check().await.unwrap();
    let (blob, other) = (of(100, 1), of(100, 2));
    let missing = store.get(&blob, 0).await;
    assert!(matches!(missing, Err(BlobStoreError::Missing)));
    assert!(sorted(store, &blob).await.is_empty());
    // What was put is read, and is where it was put only.
    for index in [0, 1, 10, 11, 65_535] {
        let chunk = vec![index as u8; LEN];
        assert_eq!(store.put(&blob, index, &chunk).await.unwrap(), Put::Written);
        assert_eq!(store.get(&blob, index).await.unwrap(), chunk);
    }
    assert_eq!(sorted(store, &blob).await, [0, 1, 10, 11, 65_535]);
    assert!(sorted(store, &other).await.is_empty());
    assert!(sorted(store, &of(101, 1)).await.is_empty());
    // It is not written over.
    let chunk = vec![1; LEN];
    assert_eq!(store.put(&blob, 1, &chunk).await.unwrap(), Put::WasThere);
    assert_eq!(store.put(&blob, 1, &[2; LEN]).await.unwrap(), Put::Other);
    assert_eq!(store.get(&blob, 1).await.unwrap(), chunk);
    // A blob goes alone.
    store.put(&other, 3, &chunk).await.unwrap();
    let mut there = store.blobs().await.unwrap();
    there.sort_by_key(|location| location.row);
    assert_eq!(there, [blob, other]);
    store.delete(&blob).await.unwrap();
    store.delete(&blob).await.unwrap();
    assert!(sorted(store, &blob).await.is_empty());
    assert_eq!(sorted(store, &other).await, [3]);
    // Days go whole, the day itself stays.
    store.put(&of(99, 7), 0, &chunk).await.unwrap();
    store.drop_days(100).await.unwrap();
    assert!(sorted(store, &of(99, 7)).await.is_empty());
    assert_eq!(sorted(store, &other).await, [3]);
    store.drop_days(101).await.unwrap();
    assert!(sorted(store, &other).await.is_empty());
    assert!(store.blobs().await.unwrap().is_empty());
    // It says whose it is, and nobody else's after that.
    assert_eq!(store.store_id().await.unwrap(), None);
    store.bind("one").await.unwrap();
    assert!(store.bind("other").await.is_err());
    store.drop_days(u32::MAX).await.unwrap();
    assert_eq!(store.store_id().await.unwrap().as_deref(), Some("one"));
}

/// Damages the object of a chunk as a disk does.
async fn damage(store: &BlobStore, at: (&Location, u16), bytes: &'static [u8]) {
    let path = object(at.0, at.1);
    let payload = PutPayload::from_static(bytes);
    store.objects.put(&path, payload).await.unwrap();
}

async fn damage_suite(store: &BlobStore) {
    let blob = of(100, 1);
    let chunk = vec![5; LEN];
    static OTHER: [u8; LEN + DIGEST] = [6; LEN + DIGEST];
    for bytes in [&b""[..], b"short", &OTHER[..LEN], &OTHER] {
        store.put(&blob, 0, &chunk).await.unwrap();
        damage(store, (&blob, 0), bytes).await;
        let read = store.get(&blob, 0).await;
        assert!(
            matches!(read, Err(BlobStoreError::Damaged)),
            "{}",
            bytes.len()
        );
        let is_listed = bytes.len() == LEN + DIGEST;
        assert_eq!(sorted(store, &blob).await.is_empty(), !is_listed);
        // Whoever has it puts it back.
        assert_eq!(store.put(&blob, 0, &chunk).await.unwrap(), Put::Written);
        assert_eq!(store.get(&blob, 0).await.unwrap(), chunk);
    }
}

#[tokio::test]
async fn memory_keeps_chunks() {
    suite(&BlobStore::in_memory()).await;
    damage_suite(&BlobStore::in_memory()).await;
}

#[tokio::test]
async fn a_directory_keeps_chunks_and_what_was_cut_off_is_no_chunk() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::in_directory(directory.path()).unwrap();
    suite(&store).await;
    damage_suite(&store).await;
    assert!(store.bytes_left().await.unwrap() > 0);
    // A write that a crash cut off has another name.
    let blob = of(100, 9);
    store.put(&blob, 0, &[1; LEN]).await.unwrap();
    let files = directory.path().join(blob_path(&blob));
    std::fs::write(files.join("1#1"), [1; 10]).unwrap();
    assert_eq!(sorted(&store, &blob).await, [0]);
    assert_eq!(store.put(&blob, 1, &[2; LEN]).await.unwrap(), Put::Written);
    // And goes with the rest.
    store.delete(&blob).await.unwrap();
    assert!(!files.exists());
    // What was put is there for whoever opens the directory next.
    store.put(&blob, 0, &[1; LEN]).await.unwrap();
    drop(store);
    let store = BlobStore::in_directory(directory.path()).unwrap();
    assert_eq!(store.get(&blob, 0).await.unwrap(), [1; LEN]);
}

fn blob_path(of: &Location) -> String {
    super::blob(of).to_string()
}

/// `/dev/full`'s error, as the library hands it on.
#[test]
fn a_full_disk_is_told_from_a_broken_one() {
    let of = |kind: io::ErrorKind| {
        BlobStoreError::from(Error::Generic {
            store: "test",
            source: Box::new(io::Error::from(kind)),
        })
    };
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
        assert!(matches!(of(kind), BlobStoreError::Full));
    }
    let broken = of(io::ErrorKind::PermissionDenied);
    assert!(matches!(broken, BlobStoreError::Failed(said) if said == "permission denied"));
}

#[tokio::test]
async fn what_fails_is_told_without_a_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::in_directory(directory.path()).unwrap();
    let blob = of(100, 0xab);
    std::fs::write(directory.path().join("100"), "no directory").unwrap();
    let failed = store.put(&blob, 0, &[1; LEN]).await.unwrap_err();
    assert!(matches!(failed, BlobStoreError::Failed(_)));
    assert!(!failed.to_string().contains("abab"), "{failed}");
}

#[test]
fn a_store_is_chosen_by_its_name_and_nothing_else_is_taken() {
    let parse = |text: &str| toml::from_str::<BlobStoreSettings>(text);
    assert!(parse("store = \"memory\"").unwrap().open().is_ok());
    assert!(parse("store = \"memory\"\nbucket = \"b\"").is_err());
    assert!(parse("store = \"disk\"").is_err());
    let s3 = "store = \"s3\"\nbucket = \"b\"\nregion = \"r\"\naccess_key_file = \"/nowhere\"";
    let refused = parse(s3).unwrap().open().unwrap_err();
    #[cfg(feature = "s3")]
    assert!(matches!(refused, SettingsError::AccessKey));
    #[cfg(not(feature = "s3"))]
    assert!(matches!(refused, SettingsError::WithoutS3));
}
