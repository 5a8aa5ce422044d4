//! What members say to each other: messages and reports of draft-ietf-mimi-content.
#![no_main]

use content::{MimiContent, decode_report, encode_report, links};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = MimiContent::decode(bytes) {
        assert_eq!(message.encode().as_deref(), Ok(bytes));
        message.body.flat();
    }
    if let Ok(statuses) = decode_report(bytes) {
        assert_eq!(encode_report(&statuses), bytes);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        for link in links(text) {
            assert!(text.get(link.target).is_some() && text.get(link.words).is_some());
        }
    }
});
