//! What the first release stores, which every later one reads. Once there is a release, a line may
//! be added, and none may change.
#![allow(clippy::unwrap_used)]

/// Read when a test runs: nothing is compiled again for a line more.
fn fixtures() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/fixtures.txt")).unwrap()
}

/// Holds what is stored now against its fixture.
pub(crate) fn check(name: &str, bytes: &[u8]) {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let line = format!("{name}={hex}");
    assert!(
        fixtures().lines().any(|it| it == line),
        "no fixture: {line}"
    );
}
