//! What the first release keeps and tells other clients, which every later one reads. Once there is
//! a release, a line may be added, and none may change.
#![allow(clippy::unwrap_used)]

/// Read when a test runs: nothing is compiled again for a line more.
fn fixtures() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/fixtures.txt")).unwrap()
}

/// Holds what is made now against its fixture.
pub(crate) fn check(name: &str, bytes: &[u8]) {
    let line = format!("{name}={}", basis::hex::encode(bytes));
    assert!(
        fixtures().lines().any(|it| it == line),
        "no fixture: {line}"
    );
}

/// What was made once with randomness: only reading it can be tried.
pub(crate) fn kept(name: &str, fresh: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let fixtures = fixtures();
    let mut lines = fixtures.lines().filter_map(|line| line.split_once('='));
    let Some((_, hex)) = lines.find(|(of, _)| *of == name) else {
        check(name, &fresh());
        return Vec::new();
    };
    basis::hex::decode(hex).unwrap()
}
