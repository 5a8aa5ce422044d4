//! What is sealed at rest opens in its place or not at all.
#![no_main]

use crypto::sealing::{self, Place};
use libfuzzer_sys::fuzz_target;

const PLACE: Place<'static> = Place {
    table: "groups",
    row: b"group",
    part: "roster",
};

fuzz_target!(|input: (u16, u8, &[u8])| {
    let (at, change, bytes) = input;
    assert!(sealing::open(&[1; 32], PLACE, bytes).is_err());
    let mut sealed = sealing::seal(&[1; 32], PLACE, bytes).unwrap();
    assert_eq!(*sealing::open(&[1; 32], PLACE, &sealed).unwrap(), bytes);
    let at = usize::from(at) % sealed.len();
    sealed[at] ^= change;
    assert_eq!(sealing::open(&[1; 32], PLACE, &sealed).is_ok(), change == 0);
    sealed.truncate(at);
    assert!(sealing::open(&[1; 32], PLACE, &sealed).is_err());
});
