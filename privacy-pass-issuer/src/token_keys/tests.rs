#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use service::bound_files::BoundFiles;
use service::founding::{Refusal, StoreId};

use super::files::generate_pkcs8;
use super::*;

fn bound() -> BoundFiles {
    BoundFiles::of(StoreId([1; 16]), &[1; 32])
}

fn only_file(directory: &Path) -> PathBuf {
    let files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| !path.to_string_lossy().ends_with(".bound"))
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn the_first_key_is_made_once_and_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    let made = TokenKeys::load_or_create(&path, 1_000).unwrap();
    let file = only_file(&path);
    assert_eq!(file.file_name().unwrap(), "token-1000.pk8");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    let read = TokenKeys::load_or_create(&path, 2_000).unwrap();
    assert_eq!(shown(&made, 2_000), shown(&read, 2_000));
}

/// The pure-Rust signer, whose results are the reference (RFC 9474).
#[test]
fn signatures_and_public_keys_are_those_of_the_reference() {
    use blind_rsa_signatures::{Deterministic, PSS, SecretKey, Sha384};
    for _ in 0..3 {
        let pkcs8 = generate_pkcs8().unwrap();
        let key = TokenKey::from_pkcs8(&pkcs8, 0).unwrap();
        let reference = SecretKey::<Sha384, PSS, Deterministic>::from_der(&pkcs8).unwrap();
        let spki = reference.public_key().unwrap().to_spki().unwrap();
        assert_eq!(key.spki(), spki);
        for first in [0, 1, 0x7f] {
            let mut message = [0; BLINDED_MESSAGE_LENGTH];
            getrandom::fill(&mut message).unwrap();
            message[0] = first;
            let expected: Vec<u8> = reference.blind_sign(message).unwrap().0;
            assert_eq!(key.secret.sign_raw(&message).unwrap()[..], expected);
        }
        // The smallest and the largest number that are not their own signatures.
        let mut one = [0; BLINDED_MESSAGE_LENGTH];
        one[BLINDED_MESSAGE_LENGTH - 1] = 1;
        let mut largest = key.modulus;
        largest[BLINDED_MESSAGE_LENGTH - 1] -= 1;
        let mut smallest = one;
        smallest[BLINDED_MESSAGE_LENGTH - 1] = 2;
        let mut below = largest;
        // No borrow: the second to last byte goes down instead where the last one is zero.
        match below[BLINDED_MESSAGE_LENGTH - 1] {
            0 => below[BLINDED_MESSAGE_LENGTH - 2] ^= 1,
            _ => below[BLINDED_MESSAGE_LENGTH - 1] -= 1,
        }
        for message in [smallest, below] {
            if message > largest {
                continue;
            }
            let request = [&[0, 2, key.truncated_id()][..], &message].concat();
            assert!(key.accepts(&TokenRequest::from_bytes(&request).unwrap()));
            let expected: Vec<u8> = reference.blind_sign(message).unwrap().0;
            assert_eq!(key.secret.sign_raw(&message).unwrap()[..], expected);
        }
        // What is refused before it is charged for is just what cannot be signed.
        for message in [
            [0; BLINDED_MESSAGE_LENGTH],
            one,
            largest,
            key.modulus,
            [0xff; BLINDED_MESSAGE_LENGTH],
        ] {
            let request = [&[0, 2, key.truncated_id()][..], &message].concat();
            let request = TokenRequest::from_bytes(&request).unwrap();
            assert!(!key.accepts(&request));
            assert!(key.blind_sign(&request).is_err());
        }
    }
}

/// Keys with distinct truncated ids.
fn key_set(not_before: &[u64], overlap_s: u64) -> KeySet {
    let key = |not_before: &u64| {
        Arc::new(TokenKey::from_pkcs8(&generate_pkcs8().unwrap(), *not_before).unwrap())
    };
    // Three random truncated ids collide once in 85 runs.
    std::iter::repeat_with(|| KeySet::new(not_before.iter().map(key).collect(), overlap_s))
        .find_map(Result::ok)
        .unwrap()
}

#[test]
fn a_key_is_used_from_its_time_until_its_successor_has_overlapped_it() {
    let keys = key_set(&[100, 500], 50);
    let ids: Vec<_> = keys.keys.iter().map(|key| key.truncated_id()).collect();
    let usable = |now| {
        ids.iter()
            .map(|id| keys.find(*id, now).is_some())
            .collect::<Vec<_>>()
    };
    assert_eq!(usable(99), [false, false]);
    assert_eq!(usable(100), [true, false]);
    assert_eq!(usable(499), [true, false]);
    assert_eq!(usable(500), [true, true]);
    assert_eq!(usable(549), [true, true]);
    assert_eq!(usable(550), [false, true]);
    assert_eq!(keys.next_expiry_unix_s(100), Some(550));
    assert_eq!(keys.next_expiry_unix_s(550), None);
}

#[test]
fn the_directory_is_that_of_the_standard_with_the_newest_key_first() {
    let keys = key_set(&[300, 100, 200], 1000);
    let directory: serde_json::Value =
        serde_json::from_slice(&keys.directory("/req", 7, 0)).unwrap();
    assert_eq!(directory["issuer-request-uri"], "/req");
    assert_eq!(directory["generic-batch-size"], 7);
    let listed = directory["token-keys"].as_array().unwrap();
    let not_before: Vec<_> = listed
        .iter()
        .map(|key| key["not-before"].as_u64().unwrap())
        .collect();
    assert_eq!(not_before, [300, 200, 100]);
    assert_eq!(listed[0]["token-type"], 2);
    let spki = URL_SAFE
        .decode(listed[0]["token-key"].as_str().unwrap())
        .unwrap();
    assert_eq!(spki, keys.keys[2].spki);
    assert_eq!(spki.len(), 342);
    // An expired key is listed no more.
    let later: serde_json::Value =
        serde_json::from_slice(&keys.directory("/req", 7, 1200)).unwrap();
    assert_eq!(later["token-keys"].as_array().unwrap().len(), 2);
}

#[test]
fn keys_that_a_request_could_not_tell_apart_are_refused() {
    let pkcs8 = generate_pkcs8().unwrap();
    let twice =
        [1, 2].map(|not_before| Arc::new(TokenKey::from_pkcs8(&pkcs8, not_before).unwrap()));
    assert!(matches!(
        KeySet::new(twice.into(), 1),
        Err(TokenKeyError::TruncatedIdCollision)
    ));
    assert!(matches!(
        KeySet::new(Vec::new(), 1),
        Err(TokenKeyError::NoKey)
    ));
}

const ROTATION: Rotation = Rotation {
    period_seconds: Some(1000),
    lead_seconds: 100,
    overlap_seconds: 200,
};

fn shown(keys: &TokenKeys, now: u64) -> Vec<u64> {
    let directory: serde_json::Value =
        serde_json::from_slice(&keys.current().directory("/r", 1, now)).unwrap();
    let listed = directory["token-keys"].as_array().unwrap();
    listed
        .iter()
        .map(|key| key["not-before"].as_u64().unwrap())
        .collect()
}

fn files(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn keys_follow_each_other_on_schedule_and_old_files_are_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let keys = TokenKeys::open(directory.path(), 0, ROTATION, bound()).unwrap();
    keys.keep_up(0).unwrap();
    assert_eq!(shown(&keys, 899), [0]);
    assert_eq!(keys.next_change_unix_s(899), Some(900));
    keys.keep_up(899).unwrap();
    assert_eq!(shown(&keys, 899), [0]);
    keys.keep_up(900).unwrap();
    keys.keep_up(900).unwrap();
    assert_eq!(shown(&keys, 900), [1000, 0]);
    assert_eq!(keys.next_change_unix_s(900), Some(1200));
    keys.keep_up(1199).unwrap();
    assert_eq!(shown(&keys, 1199), [1000, 0]);
    // The directory is right before anybody has kept up.
    assert_eq!(shown(&keys, 1200), [1000]);
    keys.keep_up(1200).unwrap();
    assert_eq!(shown(&keys, 1200), [1000]);
    assert_eq!(
        files(directory.path()),
        ["token-1000.pk8", "token-1000.pk8.bound"]
            .map(str::to_owned)
            .into()
    );
    // What was missed is not made up for: the next key still has its whole lead time.
    keys.keep_up(9000).unwrap();
    assert_eq!(shown(&keys, 9000), [9100, 1000]);
    let read = TokenKeys::open(directory.path(), 9000, ROTATION, bound()).unwrap();
    assert_eq!(shown(&read, 9000), [9100, 1000]);
}

#[test]
fn keys_in_use_never_have_the_same_truncated_id() {
    let directory = tempfile::tempdir().unwrap();
    let crowded = Rotation {
        overlap_seconds: 8000,
        ..ROTATION
    };
    let keys = TokenKeys::open(directory.path(), 0, crowded, bound()).unwrap();
    for now in (0..15_000).step_by(100) {
        keys.keep_up(now).unwrap();
        let current = keys.current();
        let ids: BTreeSet<_> = current.keys.iter().map(|key| key.truncated_id()).collect();
        assert_eq!(ids.len(), current.keys.len());
    }
    assert!(keys.current().keys.len() >= 8);
}

#[test]
fn an_operator_rotates_once_and_the_next_key_waits_for_its_lead_time() {
    let directory = tempfile::tempdir().unwrap();
    let by_hand = Rotation {
        period_seconds: None,
        ..ROTATION
    };
    let keys = TokenKeys::open(directory.path(), 10, by_hand, bound()).unwrap();
    keys.keep_up(1_000_000).unwrap();
    assert_eq!(shown(&keys, 1_000_000), [10]);
    keys.rotate(1_000_000).unwrap();
    assert_eq!(shown(&keys, 1_000_000), [1_000_100, 10]);
    assert!(matches!(
        keys.rotate(1_000_050),
        Err(TokenKeyError::Rotation(RotationError::NextIsPublished))
    ));
    keys.rotate(1_000_100).unwrap();
    assert_eq!(shown(&keys, 1_000_100), [1_000_200, 1_000_100, 10]);
}

#[test]
fn no_command_publishes_more_keys_than_clients_take() {
    let directory = tempfile::tempdir().unwrap();
    let long = Rotation {
        period_seconds: None,
        overlap_seconds: 2000,
        ..ROTATION
    };
    let keys = TokenKeys::open(directory.path(), 10, long, bound()).unwrap();
    for now in [1000, 1100, 1200] {
        keys.rotate(now).unwrap();
    }
    assert!(matches!(
        keys.rotate(1300),
        Err(TokenKeyError::Rotation(RotationError::TooMany))
    ));
    assert_eq!(shown(&keys, 1300).len(), 4);
    // The first one has expired.
    keys.rotate(3100).unwrap();
}

#[test]
fn files_that_an_operator_puts_and_takes_are_picked_up_and_bad_ones_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let keys = TokenKeys::open(directory.path(), 10, ROTATION, bound()).unwrap();
    let other = tempfile::tempdir().unwrap();
    let put = |not_before: u64| {
        let path = directory.path().join(format!("token-{not_before}.pk8"));
        // Until the truncated ids differ.
        loop {
            fs::copy(
                {
                    let _ = fs::remove_dir_all(other.path());
                    TokenKeys::open(other.path(), 1, ROTATION, bound()).unwrap();
                    other.path().join("token-1.pk8")
                },
                &path,
            )
            .unwrap();
            if keys.reload().is_ok() {
                return path;
            }
        }
    };
    let dropped = put(500);
    assert_eq!(shown(&keys, 20), [500, 10]);
    TokenKeys::open(directory.path(), 20, ROTATION, bound()).unwrap();
    fs::write(directory.path().join("token-600.pk8"), b"no key").unwrap();
    assert!(keys.reload().is_err());
    assert_eq!(shown(&keys, 20), [500, 10]);
    fs::remove_file(directory.path().join("token-600.pk8")).unwrap();
    fs::remove_file(dropped).unwrap();
    keys.reload().unwrap();
    assert_eq!(shown(&keys, 20), [10]);
    fs::remove_file(directory.path().join("token-10.pk8")).unwrap();
    assert!(matches!(keys.reload(), Err(TokenKeyError::NoKey)));
    assert_eq!(shown(&keys, 20), [10]);
}

#[test]
fn a_key_that_nobody_has_taken_is_refused_at_a_start() {
    let directory = tempfile::tempdir().unwrap();
    let keys = TokenKeys::open(directory.path(), 10, ROTATION, bound()).unwrap();
    keys.keep_up(2_000).unwrap();
    let other = tempfile::tempdir().unwrap();
    let others = BoundFiles::of(StoreId([2; 16]), &[2; 32]);
    TokenKeys::open(other.path(), 600, ROTATION, others).unwrap();
    let look = || TokenKeys::open(directory.path(), 20, ROTATION, bound());
    // With what binds it there, too.
    for name in ["token-600.pk8", "token-600.pk8.bound"] {
        fs::copy(other.path().join(name), directory.path().join(name)).unwrap();
        assert!(matches!(
            look(),
            Err(TokenKeyError::Bound(Refusal::ForeignKeyFile { path, .. }))
                if path.ends_with("token-600.pk8")
        ));
    }
    fs::remove_file(directory.path().join("token-600.pk8")).unwrap();
    assert_eq!(shown(&look().unwrap(), 20), shown(&keys, 20));
}

#[test]
fn settings_that_would_show_clients_a_key_too_late_are_refused() {
    use RotationError as E;
    assert_eq!(Rotation::default().check(3600), Ok(()));
    assert_eq!(ROTATION.check(100), Ok(()));
    assert_eq!(ROTATION.check(101), Err(E::ShorterThanTheDirectoryLives));
    let changed = |period, overlap| Rotation {
        period_seconds: Some(period),
        overlap_seconds: overlap,
        ..ROTATION
    };
    assert_eq!(
        changed(1000, 99).check(100),
        Err(E::ShorterThanTheDirectoryLives)
    );
    assert_eq!(changed(100, 200).check(100), Err(E::PeriodTooShort));
    // Lead and overlap together bound how many keys are shown: clients take no more than four.
    assert_eq!(changed(101, 900).check(100), Err(E::OverlapTooLong));
    assert_eq!(changed(101, 103).check(100), Err(E::OverlapTooLong));
    assert_eq!(changed(101, 102).check(100), Ok(()));
}

#[test]
fn a_key_file_that_is_exposed_or_no_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    TokenKeys::load_or_create(&path, 1).unwrap();
    let file = only_file(&path);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(
        TokenKeys::load_or_create(&path, 1),
        Err(TokenKeyError::File { path, error })
            if path == file && matches!(*error, TokenKeyError::Exposed { .. })
    ));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut trailing = fs::read(&file).unwrap();
    trailing.push(0);
    fs::write(&file, &trailing).unwrap();
    assert!(matches!(
        TokenKeys::load_or_create(&path, 1),
        Err(TokenKeyError::File { path, error })
            if path == file && matches!(*error, TokenKeyError::Unsupported)
    ));
    let renamed = file.with_file_name("token-soon.pk8");
    fs::rename(&file, renamed).unwrap();
    assert!(matches!(
        TokenKeys::load_or_create(&path, 1),
        Err(TokenKeyError::FileName(_))
    ));
}
