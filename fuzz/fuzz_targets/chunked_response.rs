//! The client's opening of chunked responses: raw bytes, and sealed responses with changed bytes,
//! each in pieces.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oblivious::chunked::{RequestDecoder, RequestEncoder, ResponseDecoder, ResponseEncoder};
use oblivious::{Aead, Kem, Key};

static KEY: LazyLock<Key> =
    LazyLock::new(|| Key::derive(5, Kem::X25519, &[9; 32]).expect("a seed"));

fn exchange() -> (ResponseEncoder, ResponseDecoder) {
    let encoder = RequestEncoder::new(KEY.public(), Aead::ChaCha20Poly1305).expect("a key");
    let mut request = Vec::new();
    let client = encoder.finish(b"", &mut request).expect("no text");
    let mut decoder = RequestDecoder::new(&*KEY);
    decoder.push(&request, &mut Vec::new()).expect("a request");
    let opened = decoder.finish(&mut Vec::new()).expect("a request");
    (opened.response, client)
}

/// What was opened, and whether to the end.
fn open(mut decoder: ResponseDecoder, bytes: &[u8], step: usize) -> (Vec<u8>, bool) {
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
    let (_, client) = exchange();
    assert_eq!(open(client, text, step), (Vec::new(), false));

    let (mut encoder, client) = exchange();
    let mut sealed = Vec::new();
    for piece in text.chunks(usize::from(*chunk).max(1)) {
        encoder.push(piece, &mut sealed).expect("a short text");
    }
    encoder.finish(b"", &mut sealed).expect("a short text");
    let at = usize::from(*at) * sealed.len() / 256;
    sealed[at] ^= change;
    let (out, ended) = open(client, &sealed, step);
    assert!(text.starts_with(&out));
    assert_eq!(ended, *change == 0);
    assert_eq!(ended, ended && out == text);
});
