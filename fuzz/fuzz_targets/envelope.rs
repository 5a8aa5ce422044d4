//! The envelope of every request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::Wire;
use protocol::request::ReceivedRequest;

fuzz_target!(|bytes: &[u8]| {
    let _ = ReceivedRequest::version_of(bytes);
    if let Ok(received) = ReceivedRequest::decode(bytes) {
        assert_eq!(received.request.encode(), bytes);
        let signature = received.request.signature.encode();
        assert_eq!([received.signed_bytes, &signature].concat(), bytes);
    }
});
