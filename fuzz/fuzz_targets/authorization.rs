//! `Authorization: PrivateToken`.
#![no_main]

use ds_domain::tokens::authorization;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let values = bytes.split(|byte| *byte == b'\n');
    if let Ok(tokens) = authorization::parse(values) {
        assert!(tokens.len() <= authorization::MAX_TOKENS);
        for token in tokens {
            assert_eq!(
                token.authenticator_input().len() + token.authenticator().len(),
                354
            );
        }
    }
    let _ = authorization::PresentedToken::from_bytes(bytes);
});
