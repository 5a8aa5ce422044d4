//! Binary HTTP that comes in pieces: no split changes what is read, and another implementation
//! reads the same content where it reads anything.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use oblivious::binary_http::{Decoder, Head, Limits, RequestHead, ResponseHead};

fn read<H: Head>(bytes: &[u8], step: usize) -> Option<(H, Vec<u8>)> {
    let mut decoder = Decoder::<H>::new(Limits::default());
    let mut content = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        decoder.push(piece, &mut content).ok()?;
    }
    Some((decoder.finish().ok()?.head, content))
}

fn check<H: Head + PartialEq + std::fmt::Debug>(bytes: &[u8], step: usize) {
    let whole = read::<H>(bytes, usize::MAX);
    assert_eq!(whole, read::<H>(bytes, step));
    if let Some((_, content)) = whole
        && let Ok(message) = bhttp::Message::read_bhttp(&mut Cursor::new(bytes))
    {
        assert_eq!(content, message.content());
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((step, bytes)) = input.split_first() else {
        return;
    };
    check::<RequestHead>(bytes, usize::from(*step));
    check::<ResponseHead>(bytes, usize::from(*step));
});
