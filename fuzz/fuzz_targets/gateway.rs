//! The gateway's whole way with a request: key, decapsulation, binary HTTP, and the sealed answer.
//! The modules are taken by their path, since the gateway shows one of them to nobody.
#![no_main]
#![allow(dead_code)]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../ohttp-gateway/src/binary_http.rs"]
mod binary_http;

use oblivious::{Kem, Key, whole};

static KEYS: LazyLock<[Key; 3]> = LazyLock::new(|| {
    [(1, Kem::XWing), (2, Kem::X25519), (3, Kem::P256)]
        .map(|(id, kem)| Key::derive(id, kem, &[7; 32]).unwrap())
});

fuzz_target!(|bytes: &[u8]| {
    for key in KEYS.iter() {
        // As it comes, and with everything right up to the encapsulated key.
        assert!(whole::open(key, bytes).is_err());
        let header = [
            &[key.id()][..],
            &key.kem().id().to_be_bytes(),
            &[0, 1, 0, 1],
        ]
        .concat();
        assert!(whole::open(key, &[&header, bytes].concat()).is_err());
    }
    let Some((choice, inner)) = bytes.split_first() else {
        return;
    };
    let key = &KEYS[usize::from(choice % 3)];
    let client = ohttp::ClientRequest::from_encoded_config(key.config()).unwrap();
    let (encapsulated, response) = client.encapsulate(inner).unwrap();
    let opened = whole::open(key, &encapsulated).unwrap();
    assert_eq!(opened.request, inner);
    let _ = binary_http::InnerRequest::decode(&opened.request);
    let sealed = opened.response.seal(inner).unwrap();
    assert_eq!(response.decapsulate(&sealed).unwrap(), inner);
});
