//! Token requests, single and batched, as the issuer reads them. The module is taken by its path:
//! the crate around it brings a storage engine along, which nobody wants to instrument.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../privacy-pass-issuer/src/token_request.rs"]
mod token_request;

const LIMIT: usize = 3;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = token_request::TokenRequest::from_bytes(bytes) {
        assert_eq!(request.as_bytes().as_slice(), bytes);
    }
    if let Ok(batch) = token_request::batch_from_bytes(bytes, LIMIT) {
        assert!((1..=LIMIT).contains(&batch.len()));
        // Nothing but a length of two bytes stands beside the requests.
        assert_eq!(
            bytes.len(),
            2 + batch.len() * token_request::TOKEN_REQUEST_LENGTH
        );
        let answer = token_request::batch_response(&vec![[7; 256]; batch.len()]);
        assert_eq!(answer.len(), bytes.len());
    }
});
