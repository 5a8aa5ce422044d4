//! What the first release keeps beside its databases, which every later one reads.

use std::fs;
use std::path::Path;

use service::bound_files::BoundFiles;
use service::founding::{BoundKey, StoreId, binding, check_binding};
use service::hex::encode as hex;
use service::high_water::{self, HighWater};

#[test]
fn a_store_is_bound_to_its_key_files_as_it_always_was() {
    let key = |key| BoundKey {
        file: Path::new("key"),
        key,
    };
    let keys = [key(&[1; 32][..]), key(&[2; 32])];
    let row = binding(StoreId([3; 16]), &keys);
    assert_eq!(hex(&row), BINDING);
    assert_eq!(
        check_binding(Some(&row), "here", &keys).unwrap(),
        StoreId([3; 16])
    );
}

const BINDING: &str = "0103030303030303030303030303030303327f005493fa82e2f1d4371b2c256f\
    9076e003c2f660e78220720ebf131337a8f0f33f28942c308e74d19a5afdbcae\
    9263c42115ad28a48719aea42a2bd5e6f4";

#[test]
fn a_key_file_is_bound_to_its_store_as_it_always_was() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token-1");
    let bound = BoundFiles::of(StoreId([4; 16]), &[5; 32]);
    bound.binding(&file, b"content").write().unwrap();
    let tag = fs::read(directory.path().join("token-1.bound")).unwrap();
    assert_eq!(hex(&tag), BOUND_FILE);
}

const BOUND_FILE: &str = "b132344510591a72af56ab9869a392a0e0713d345e5eda774b4b4f01617612b7";

#[test]
fn what_was_acknowledged_is_marked_as_it_always_was() {
    let directory = tempfile::tempdir().unwrap();
    let mark = HighWater::create(directory.path()).unwrap();
    mark.raise(6).unwrap();
    mark.raise(7).unwrap();
    drop(mark);
    let file = fs::read(directory.path().join(high_water::FILE)).unwrap();
    assert_eq!(hex(&file), MARK);
}

const MARK: &str = "0000000000000007a3eb8db89fc5123c000000000000000614ac577cdb2ef6d9";
