//! Account tokens: a key set, the header of a token, its claims. The modules are taken by their
//! paths: the crate around them brings a storage engine along, which nobody wants to instrument.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../privacy-pass-issuer/src/attestation/claims.rs"]
mod claims;
#[path = "../../privacy-pass-issuer/src/attestation/jwk.rs"]
mod jwk;

const NOW_UNIX_S: u64 = 1_800_000_000;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let (document, token, payload) = (parts.next(), parts.next(), parts.next());
    let keys = document.and_then(|document| jwk::VerificationKey::from_jwks(document).ok());
    if let Some(text) = document.and_then(|text| std::str::from_utf8(text).ok()) {
        let _ = jwk::VerificationKey::from_text(text);
    }
    let header = token.and_then(|token| jsonwebtoken::decode_header(token).ok());
    if let (Some(keys), Some(header), Some(token)) = (keys, header, token) {
        for key in keys {
            if key.may_have_signed(header.alg, header.kid.as_deref()) {
                assert_eq!(key.algorithm(), header.alg);
                let validation = jsonwebtoken::Validation::new(key.algorithm());
                let _ = jsonwebtoken::decode::<serde_json::Value>(
                    token,
                    key.decoding_key(),
                    &validation,
                );
            }
        }
    }
    if let Some(claims) = payload.and_then(|payload| serde_json::from_slice(payload).ok())
        && let Ok(claimed) = claims::read(&claims, "plan")
    {
        if claimed.check_times(60.0, NOW_UNIX_S).is_ok() {
            let expires = claims["exp"].as_f64().unwrap();
            assert!(expires > (NOW_UNIX_S - 60) as f64);
        }
        assert_eq!(claims["sub"], claimed.name.as_str());
    }
});
