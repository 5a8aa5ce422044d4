//! `Authorization: PrivateToken`. The module is taken by its path: the crate around it brings a storage
//! engine along, which nobody wants to instrument.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

const TOKEN_TYPE: u16 = 0x0002;

#[path = "../../ds/src/tokens/authorization.rs"]
mod authorization;

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
