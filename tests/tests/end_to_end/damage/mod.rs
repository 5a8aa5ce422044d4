//! A store that cannot tell the truth is not served from: real processes, real damage.
//!
//! Each kind of damage is done to a copy of a store that holds acknowledged writes. The service
//! must end by itself, name the file, say what to do, make nothing, and say the same when it is
//! started again. With the damage undone it must be ready.
#![allow(clippy::disallowed_methods, reason = "processes run in real time")]

mod cases;
mod database;
mod small_disk;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use end_to_end::{Breaks, BrokenDisk, Kind, Solo, copy_over, issuer_table};
use sha2::{Digest as _, Sha256};

use cases::*;
use database::Postgres;
use small_disk::SmallDisk;

/// The file that a blow meets.
fn find(solo: &Solo, (directory, prefix, suffix): Target) -> PathBuf {
    let directory = match directory {
        "data" => solo.data(),
        _ => solo.keys(),
    };
    let mut found: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(prefix) && name.ends_with(suffix) && name != "LOG")
        .collect();
    found.sort();
    let name = found.pop().unwrap_or_else(|| panic!("{prefix}…{suffix}"));
    directory.join(name)
}

/// Overwritten in its place: its mode stays.
fn strike(path: &Path, blow: Blow, other: &[u8]) {
    let mut content = fs::read(path).unwrap();
    match blow {
        Blow::Gone => return fs::remove_file(path).unwrap(),
        Blow::Flipped(part) => {
            let at = content.len() * part / 100;
            content[at] ^= 0x10;
        }
        Blow::Cut(part) => content.truncate(content.len() * part / 100),
        Blow::Swapped => content = other.to_vec(),
    }
    fs::write(path, content).unwrap();
}

/// Names and contents, but for what the engine writes about itself before it knows anything.
fn state_of(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut state = BTreeMap::new();
    let Ok(entries) = fs::read_dir(directory) else {
        return state;
    };
    for entry in entries {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_file() && !name.starts_with("LOG") && name != "LOCK" {
            let digest = Sha256::digest(fs::read(entry.path()).unwrap());
            state.insert(name, digest.to_vec());
        }
    }
    state
}

/// A store with acknowledged writes in tables and in the log.
async fn used(mut solo: Solo) -> Solo {
    let (made, said) = solo.init();
    assert!(made, "{said}");
    for _ in 0..3 {
        solo.start().await;
        // Readiness has written, too.
        is_acknowledged(&solo).await;
        solo.kill();
    }
    solo
}

/// Waits until nothing is written any more: a write that was under way when its process was killed
/// may be lost.
async fn is_acknowledged(solo: &Solo) {
    let (mut before, mut unchanged) = (None, 0);
    while unchanged < 3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mark = fs::read(solo.data().join("ACKNOWLEDGED")).ok();
        unchanged = if mark == before { unchanged + 1 } else { 0 };
        before = mark;
    }
}

struct Backup {
    directory: tempfile::TempDir,
}

impl Backup {
    fn of(solo: &Solo) -> Self {
        let directory = tempfile::tempdir().unwrap();
        copy_over(&solo.data(), &directory.path().join("data"));
        copy_over(&solo.keys(), &directory.path().join("keys"));
        Self { directory }
    }

    fn restore(&self, solo: &Solo) {
        copy_over(&self.directory.path().join("data"), &solo.data());
        copy_over(&self.directory.path().join("keys"), &solo.keys());
    }
}

/// Twice: a refusal must not prepare the way for the second start.
async fn is_refused_twice(solo: &mut Solo, what: &str, words: &[&str]) {
    let before = (state_of(&solo.data()), state_of(&solo.keys()));
    for start in 1..=2 {
        let said = solo.is_refused().await;
        for word in words {
            assert!(
                said.contains(word),
                "{what}, start {start}, no {word:?} in: {said}"
            );
        }
        let after = (state_of(&solo.data()), state_of(&solo.keys()));
        assert_eq!(before.1, after.1, "{what}, start {start}: the key files");
        // Beside a wrong key file the store is whole: its engine may go on with its log.
        if !what.contains("/data/") {
            continue;
        }
        for (name, content) in &before.0 {
            let kept = after.0.get(name);
            assert_eq!(kept, Some(content), "{what}, start {start}: {name}");
        }
    }
    let (made, said) = solo.init();
    if solo.data().exists() && !state_of(&solo.data()).is_empty() {
        assert!(!made, "{what}: init made a store over another one: {said}");
    }
}

async fn is_refused_with_each(solo: &mut Solo, other: &Solo, cases: &[(Target, Blow, Words)]) {
    let backup = Backup::of(solo);
    for (target, blow, words) in cases {
        backup.restore(solo);
        let path = find(solo, *target);
        let swapped = match blow {
            Blow::Swapped => fs::read(find(other, *target)).unwrap(),
            _ => Vec::new(),
        };
        strike(&path, *blow, &swapped);
        let what = format!("{:?}: {} {blow:?}", solo.kind, path.display());
        let directory = path.parent().unwrap().to_str().unwrap();
        let named = [&[directory], *words].concat();
        is_refused_twice(solo, &what, &named).await;
    }
    backup.restore(solo);
    solo.start().await;
    solo.kill();
}

/// The place itself.
async fn is_refused_without_its_place(solo: &mut Solo, place: &Path) {
    let backup = Backup::of(solo);
    fs::remove_dir_all(place).unwrap();
    let named = place.to_str().unwrap();
    let words = [named, "does not exist", "mounted", "init"];
    for _ in 0..2 {
        let said = solo.is_refused().await;
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(!place.exists(), "it was made");
    }
    fs::create_dir(place).unwrap();
    let words = [named, "is empty", "mounted", "init"];
    for _ in 0..2 {
        let said = solo.is_refused().await;
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(state_of(place).is_empty(), "something was made");
    }
    // The key files are there: whoever says `init` now would begin anew beside a store that is not
    // mounted.
    if solo.kind != Kind::Gateway {
        let (made, said) = solo.init();
        assert!(!made && said.contains("is there already"), "{said}");
    }
    backup.restore(solo);
    solo.start().await;
    solo.kill();
}

async fn issuer() -> Solo {
    let mut issuer = Solo::new(Kind::Issuer, "");
    let (made, said) = issuer.init();
    assert!(made, "{said}");
    issuer.start().await;
    issuer
}

#[tokio::test]
async fn a_delivery_service_is_not_served_from_a_store_that_is_damaged_or_not_there() {
    let issuer = issuer().await;
    let other = used(Solo::ds(issuer.address())).await;
    let mut solo = used(Solo::ds(issuer.address())).await;
    is_refused_with_each(&mut solo, &first_of(other).await, ROCKSDB).await;
    let data = solo.data();
    is_refused_without_its_place(&mut solo, &data).await;
}

/// The log of a store that was only made is shorter than that of any that was used.
async fn first_of(used: Solo) -> Solo {
    let fresh = Solo::new(used.kind, "");
    if used.kind == Kind::Ds {
        fresh.configure(&format!(
            "[store]\nengine = 'rocksdb'\ndirectory = '{}'\n{}",
            fresh.data().display(),
            issuer_table(used.address())
        ));
    }
    let (made, said) = fresh.init();
    assert!(made, "{said}");
    fresh
}

#[tokio::test]
async fn a_delivery_service_does_not_serve_with_key_files_that_are_damaged_or_of_another_store() {
    let issuer = issuer().await;
    let other = used(Solo::ds(issuer.address())).await;
    let mut solo = used(Solo::ds(issuer.address())).await;
    is_refused_with_each(&mut solo, &other, KEY_FILES_OF_DS).await;
}

#[tokio::test]
async fn an_issuer_does_not_serve_from_a_database_that_is_damaged_or_not_there() {
    let other = first_of(Solo::new(Kind::Issuer, "")).await;
    let mut solo = used(Solo::new(Kind::Issuer, "")).await;
    is_refused_with_each(&mut solo, &other, ROCKSDB).await;
    for place in [solo.data(), solo.keys()] {
        is_refused_without_its_place(&mut solo, &place).await;
    }
}

#[tokio::test]
async fn an_issuer_does_not_serve_with_key_files_that_are_damaged_or_of_another_one() {
    let other = used(Solo::new(Kind::Issuer, "")).await;
    let mut solo = used(Solo::new(Kind::Issuer, "")).await;
    is_refused_with_each(&mut solo, &other, KEY_FILES_OF_THE_ISSUER).await;
}

#[tokio::test]
async fn a_gateway_does_not_serve_with_a_key_directory_that_is_damaged_or_not_there() {
    let other = used(Solo::new(Kind::Gateway, "")).await;
    let mut solo = used(Solo::new(Kind::Gateway, "")).await;
    is_refused_with_each(&mut solo, &other, KEY_DIRECTORY_OF_THE_GATEWAY).await;
    let data = solo.data();
    is_refused_without_its_place(&mut solo, &data).await;
}

#[tokio::test]
async fn a_delivery_service_starts_with_the_keys_of_an_issuer_that_is_away_and_says_so() {
    let mut issuer = issuer().await;
    let mut solo = used(Solo::ds(issuer.address())).await;
    issuer.kill();
    solo.start().await;
    assert!(solo.log().contains("the issuer is away"), "{}", solo.log());
    solo.kill();
    // Not for ever.
    solo.configure(&format!(
        "[store]\nengine = 'rocksdb'\ndirectory = '{}'\n{}keep_days = 0\n",
        solo.data().display(),
        issuer_table(issuer.address())
    ));
    let said = solo.is_refused().await;
    assert!(said.contains("the issuer's keys cannot be had"), "{said}");
}

/// The mark of how far writes were acknowledged: moved back by so many writes, as a power failure
/// can leave it.
fn forget_acknowledged(solo: &Solo, writes: u64) {
    let path = find(solo, ("data", "ACKNOWLEDGED", ""));
    let slots = fs::read(&path).unwrap();
    let numbers = slots
        .chunks_exact(16)
        .map(|slot| u64::from_be_bytes(slot[..8].try_into().unwrap()));
    let number = (numbers.max().unwrap() - writes).to_be_bytes();
    let slot = [&number[..], &Sha256::digest(number)[..8]].concat();
    fs::write(&path, [slot.clone(), slot].concat()).unwrap();
}

/// A log with a hole: in its last write, and in what was never synced behind it.
async fn is_served_with_a_hole_behind_what_was_acknowledged_only(mut solo: Solo) {
    // Several writes in one log.
    solo.start().await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(solo.readiness().await.0, 200);
    }
    solo.kill();
    let backup = Backup::of(&solo);
    let log = find(&solo, ("data", "", ".log"));
    let whole = fs::read(&log).unwrap();
    // Of a later write that was under way, the end was not written, but its length was:
    // checksum(4), length(2), type(1).
    let mut with_tail = whole.clone();
    let left = 32_768 - with_tail.len() % 32_768;
    with_tail.extend(vec![0; if left < 2048 { left } else { 0 }]);
    with_tail.extend([0x5a, 0x5a, 0x5a, 0x5a, 0, 4, 1]);
    with_tail.extend([[0x11; 512], [0; 512]].concat());
    with_tail.extend(&whole[..512]);
    let mut in_the_last_write = whole.clone();
    let at = in_the_last_write.len() - 2000;
    in_the_last_write[at..at + 512].fill(0x77);
    let mut further_up = whole.clone();
    let at = further_up.len() / 2;
    further_up[at..at + 512].fill(0x77);

    for (content, forgotten, is_served) in [
        (&with_tail, 0, true),
        (&in_the_last_write, 1, true),
        (&in_the_last_write, 0, false),
        (&further_up, 1, false),
    ] {
        backup.restore(&solo);
        fs::write(&log, content).unwrap();
        forget_acknowledged(&solo, forgotten);
        let what = format!("{:?}/data/ {forgotten} forgotten", solo.kind);
        if is_served {
            solo.start().await;
            assert!(solo.log().contains("has a hole"), "{what}: {}", solo.log());
            solo.kill();
            // What comes after it is a store like any other.
            solo.start().await;
            assert!(!solo.log().contains("has a hole"), "{what}: {}", solo.log());
            solo.kill();
        } else {
            is_refused_twice(&mut solo, &what, &["was acknowledged", "backup"]).await;
        }
    }
}

#[tokio::test]
async fn a_delivery_service_goes_on_behind_a_hole_in_its_log_only_if_nothing_acknowledged_is_missing()
 {
    let issuer = issuer().await;
    let solo = used(Solo::ds(issuer.address())).await;
    is_served_with_a_hole_behind_what_was_acknowledged_only(solo).await;
}

#[tokio::test]
async fn an_issuer_goes_on_behind_a_hole_in_its_log_only_if_nothing_acknowledged_is_missing() {
    let solo = used(Solo::new(Kind::Issuer, "")).await;
    is_served_with_a_hole_behind_what_was_acknowledged_only(solo).await;
}

/// Kills `init` at each of its changes to the disk: the next start and the next `init` say what
/// there is, and doing what they say ends in a service that starts.
async fn is_told_of_an_init_that_did_not_end(make: impl Fn() -> Solo) {
    let mut change = 1;
    let mut told = 0;
    loop {
        let mut solo = make();
        let disk = BrokenDisk::below(solo.root());
        solo.environment = disk.dying_at(change);
        let (made, said) = solo.init();
        solo.environment.clear();
        if made {
            solo.start().await;
            break;
        }
        let what = format!("{:?}, change {change}, after {said:?}", solo.kind);
        let there = |solo: &Solo| (state_of(&solo.data()), state_of(&solo.keys()));
        let before = there(&solo);
        let refused = solo.is_refused().await;
        let (made, said) = solo.init();
        if made {
            // Nothing was there that anybody would miss.
            assert!(refused.contains("init"), "{what}: {refused}");
        } else {
            told += 1;
            for said in [refused, said] {
                for word in ["did not end", "never served", "Remove", "init` again"] {
                    assert!(said.contains(word), "{what}, no {word:?} in: {said}");
                }
                let named = solo.data();
                assert!(said.contains(named.to_str().unwrap()), "{what}: {said}");
            }
            assert_eq!(before, there(&solo), "{what}: something was changed");
            let _ = fs::remove_dir_all(solo.data());
            let _ = fs::remove_dir_all(solo.blobs());
            fs::remove_dir_all(solo.keys()).unwrap();
            fs::create_dir(solo.keys()).unwrap();
            let (made, said) = solo.init();
            assert!(made, "{what}: {said}");
        }
        // All of the first ones; then it is a database that writes.
        change += 1 + change / 16;
    }
    assert!(told > 8, "{told}");
}

#[tokio::test]
async fn an_init_of_a_delivery_service_that_did_not_end_is_told_with_what_to_do() {
    let issuer = issuer().await;
    is_told_of_an_init_that_did_not_end(|| Solo::ds(issuer.address())).await;
}

#[tokio::test]
async fn an_init_of_an_issuer_that_did_not_end_is_told_with_what_to_do() {
    is_told_of_an_init_that_did_not_end(|| Solo::new(Kind::Issuer, "")).await;
}

#[tokio::test]
async fn an_init_of_a_gateway_that_did_not_end_is_told_with_what_to_do() {
    is_told_of_an_init_that_did_not_end(|| Solo::new(Kind::Gateway, "")).await;
}

/// A disk that answers with EIO while the service runs: it is not ready, and ends, to be started
/// again.
async fn on_a_broken_disk(mut solo: Solo) {
    let (made, said) = solo.init();
    assert!(made, "{said}");
    let disk = BrokenDisk::below(&solo.data());
    solo.environment = disk.environment();
    for breaks in [Breaks::Writes, Breaks::Syncs] {
        solo.start().await;
        disk.is(breaks);
        solo.becomes(503).await;
        let (_, said) = solo.readiness().await;
        assert!(said.contains("Input/output error"), "{breaks:?}: {said}");
        // After an fsync that failed nobody knows what is on the disk: whether or not it works
        // again.
        disk.is(Breaks::Nothing);
        let ended = tokio::time::timeout(Duration::from_secs(3), solo.becomes(200)).await;
        if ended.is_err() {
            disk.is(breaks);
            let said = solo.ends().await;
            assert!(said.contains("takes no writes"), "{breaks:?}: {said}");
            disk.is(Breaks::Nothing);
            solo.start().await;
        }
        solo.kill();
    }
    // It begins on one, too.
    disk.is(Breaks::Writes);
    let said = solo.is_refused().await;
    assert!(said.contains("Input/output error"), "{said}");
    disk.is(Breaks::Nothing);
    solo.start().await;
}

#[tokio::test]
async fn a_delivery_service_on_a_broken_disk_is_not_ready_and_goes_on_or_ends_and_starts_when_it_is_mended()
 {
    let issuer = issuer().await;
    on_a_broken_disk(Solo::ds(issuer.address())).await;
}

#[tokio::test]
async fn an_issuer_on_a_broken_disk_is_not_ready_and_goes_on_or_ends_and_starts_when_it_is_mended()
{
    on_a_broken_disk(Solo::new(Kind::Issuer, "")).await;
}

/// Until one write of readiness does not fit any more.
async fn is_full(solo: &mut Solo, disk: &SmallDisk) {
    disk.fill();
    let began = Instant::now();
    while solo.readiness().await.0 != 503 {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", solo.log());
        disk.fill();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (_, said) = solo.readiness().await;
    assert!(said.contains("No space left"), "{said}");
}

/// `size` is less than the engine would take for a log at once: what it has taken cannot be full.
async fn on_a_full_disk(mut solo: Solo, size: &str) {
    let Some(disk) = SmallDisk::mount(&solo.data(), size) else {
        return;
    };
    let (made, said) = solo.init();
    assert!(made, "{said}");
    solo.start().await;
    is_full(&mut solo, &disk).await;
    // There is no space in time, so it ends, to be started again.
    let said = solo.ends().await;
    assert!(said.contains("takes no writes"), "{said}");
    fs::remove_file(disk.filler()).unwrap();
    solo.start().await;
}

#[tokio::test]
async fn a_delivery_service_on_a_full_disk_is_not_ready_ends_and_starts_when_there_is_space() {
    let issuer = issuer().await;
    on_a_full_disk(Solo::ds(issuer.address()), "24m").await;
}

#[tokio::test]
async fn an_issuer_on_a_full_disk_is_not_ready_ends_and_starts_when_there_is_space() {
    on_a_full_disk(Solo::new(Kind::Issuer, ""), "12m").await;
}

#[tokio::test]
async fn a_delivery_service_serves_from_its_own_database_with_its_own_key_file_only() {
    let Some(server) = Postgres::start() else {
        return;
    };
    let issuer = issuer().await;
    let settings = server.settings(&issuer);
    let mut first = Solo::new(Kind::Ds, &settings);
    let (made, said) = first.init();
    assert!(made, "{said}");
    first.start().await;

    let mut second = Solo::new(Kind::Ds, &settings);
    let (made, said) = second.init();
    assert!(!made && said.contains("holds a store already"), "{said}");
    assert!(
        fs::read_dir(second.keys()).unwrap().count() <= 1,
        "a key file of no store stays"
    );
    let mut elsewhere = Solo::ds(issuer.address());
    let (made, said) = elsewhere.init();
    assert!(made, "{said}");
    copy_over(&elsewhere.keys(), &second.keys());
    let said = second.is_refused().await;
    assert!(
        said.contains("is not the one") && said.contains("use that one"),
        "{said}"
    );
    copy_over(&first.keys(), &second.keys());
    // A directory of its own for what both must see.
    let said = second.is_refused().await;
    assert!(said.contains("keeps its blobs"), "{said}");
    copy_over(&first.blobs(), &second.blobs());
    second.start().await;
    second.kill();

    let empty = Postgres::start().unwrap();
    elsewhere.configure(&empty.settings(&issuer));
    let said = elsewhere.is_refused().await;
    assert!(said.contains("the database holds no store"), "{said}");
    let (made, said) = elsewhere.init();
    assert!(!made && said.contains("is there already"), "{said}");

    server.signal("-STOP");
    first.becomes(503).await;
    server.signal("-CONT");
    first.becomes(200).await;
}

#[tokio::test]
async fn a_delivery_service_does_not_serve_beside_the_blobs_of_another_store_or_an_empty_directory()
{
    let issuer = issuer().await;
    let other = used(Solo::ds(issuer.address())).await;
    let mut solo = used(Solo::ds(issuer.address())).await;
    let id = fs::read(solo.blobs().join("store-id")).unwrap();
    let is_refused = async |solo: &mut Solo| {
        let said = solo.is_refused().await;
        for word in ["keeps its blobs", "mounted", solo.blobs().to_str().unwrap()] {
            assert!(said.contains(word), "no {word:?} in: {said}");
        }
    };
    // The point where its disk should be mounted.
    fs::remove_dir_all(solo.blobs()).unwrap();
    fs::create_dir(solo.blobs()).unwrap();
    is_refused(&mut solo).await;
    assert!(state_of(&solo.blobs()).is_empty(), "something was made");
    copy_over(&other.blobs(), &solo.blobs());
    is_refused(&mut solo).await;
    // As docs/stores.md says, where the blobs are lost.
    fs::write(solo.blobs().join("store-id"), id).unwrap();
    solo.start().await;
    solo.kill();
    // Nor does a new store begin beside them.
    fs::remove_dir_all(solo.data()).unwrap();
    fs::remove_dir_all(solo.keys()).unwrap();
    fs::create_dir(solo.keys()).unwrap();
    let (made, said) = solo.init();
    assert!(!made && said.contains("is there already"), "{said}");
}
