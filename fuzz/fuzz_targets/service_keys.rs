//! The service key file.
#![no_main]

use crypto::service_keys::ServiceKeys;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(keys) = ServiceKeys::from_file(bytes) {
        assert!(ServiceKeys::FILE_LENGTHS.contains(&bytes.len()));
        assert!(!keys.external_senders().is_empty());
    }
});
