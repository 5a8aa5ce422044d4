//! What a service keeps under its own keys. Once there is a release, a line of the fixtures may be
//! added, and none may change. What clients see too is in `vectors/`.
#![allow(clippy::unwrap_used)]

use crypto::records;
use crypto::service_keys::ServiceKeys;
use protocol::ids::{RecoveryRowId, RotationEpoch};

const FIXTURES: &str = include_str!("fixtures.txt");

/// Holds what is made now against its fixture.
fn check(name: &str, bytes: &[u8]) {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let line = format!("{name}={hex}");
    assert!(FIXTURES.lines().any(|it| it == line), "no fixture: {line}");
}

#[test]
fn a_key_file_holds_the_keys_that_it_always_held() {
    let file = [&[1][..], &[4; 32], &[2], &[5; 32], &[6; 32]].concat();
    let keys = ServiceKeys::from_file(&file).unwrap();
    for (fingerprint, generation) in keys.fingerprints().iter().zip(1..) {
        check(&format!("fingerprint {generation}"), &**fingerprint);
    }
    for (sender, generation) in keys.external_senders().iter().zip(1..) {
        check(
            &format!("Ed25519 sender {generation}"),
            &sender.ed25519.public(),
        );
        check(&format!("P-256 sender {generation}"), &sender.p256.public());
    }
    check("journal signing key", &keys.journal_signing().public());
    check("row", &keys.rows().row(7, &[b"fixed", b"last"]));
}

#[test]
fn a_recovery_row_at_rest_is_what_it_always_was() {
    let id = RecoveryRowId([19; 32]);
    let row = records::seal_recovery_row(&id, [20; 32], RotationEpoch(21), b"row").unwrap();
    check("recovery row", &row);
}
