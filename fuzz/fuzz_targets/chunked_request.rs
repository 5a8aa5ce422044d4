//! The gateway's opening of chunked requests: raw bytes behind a header of ours, and sealed
//! requests with changed bytes, each in pieces.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oblivious::chunked::{RequestDecoder, RequestEncoder};
use oblivious::{Aead, Kem, Key};

const HEADER: [u8; 7] = [5, 0, 0x20, 0, 1, 0, 1];

static KEY: LazyLock<Key> =
    LazyLock::new(|| Key::derive(5, Kem::X25519, &[9; 32]).expect("a seed"));

/// What was opened, and whether to the end.
fn open(bytes: &[u8], step: usize) -> (Vec<u8>, bool) {
    let mut decoder = RequestDecoder::new(&*KEY);
    let mut out = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        if decoder.push(piece, &mut out).is_err() {
            return (out, false);
        }
    }
    let ended = decoder.finish(&mut out).is_ok();
    (out, ended)
}

fuzz_target!(|input: &[u8]| {
    let Some(([step, at, change, chunk], text)) = input.split_first_chunk::<4>() else {
        return;
    };
    let step = usize::from(*step);
    let raw = [&HEADER, text].concat();
    assert_eq!(open(&raw, usize::MAX), open(&raw, step));

    let mut encoder = RequestEncoder::new(KEY.public(), Aead::Aes128Gcm).expect("a key");
    let mut sealed = Vec::new();
    for piece in text.chunks(usize::from(*chunk).max(1)) {
        encoder.push(piece, &mut sealed).expect("a short text");
    }
    encoder.finish(b"", &mut sealed).expect("a short text");
    let at = usize::from(*at) * sealed.len() / 256;
    sealed[at] ^= change;
    let (out, ended) = open(&sealed, step);
    assert!(text.starts_with(&out));
    assert_eq!(ended, *change == 0);
    assert_eq!(ended, ended && out == text);
});
