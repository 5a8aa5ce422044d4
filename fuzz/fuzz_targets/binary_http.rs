//! The gateway's reading of an opened request (RFC 9292). The module is taken by its path, since
//! the gateway shows it to nobody.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../ohttp-gateway/src/binary_http.rs"]
mod binary_http;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = binary_http::InnerRequest::decode(bytes) {
        assert!(request.path.starts_with('/') && !request.path.contains(['?', '%', '#']));
        assert!(request.content.len() <= bytes.len());
        assert!(!request.path.split('/').any(|segment| segment == ".."));
    }
});
