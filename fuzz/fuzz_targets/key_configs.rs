//! A client's choice from a list of OHTTP key configurations (RFC 9458 §3.2). The modules are
//! taken by their paths, since the SDK shows them to nobody.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;
use oblivious::configs::{list, usable};

#[path = "../../client/src/net/key_config.rs"]
mod key_config;
#[path = "../../client/src/key_view.rs"]
mod key_view;

fuzz_target!(|bytes: &[u8]| {
    let Ok(configs) = usable(bytes) else {
        return;
    };
    for config in &configs {
        // What is chosen is what the library takes, but for points that are none.
        let _ = ohttp::ClientRequest::from_encoded_config(config);
        assert_eq!(usable(&list([&config[..]])).unwrap(), [config.clone()]);
    }
    let mut candidates = configs.clone();
    if key_config::agree(&mut candidates, &configs, key_view::KeyView::Gateway).is_ok() {
        assert_eq!(candidates, configs);
    }
});
