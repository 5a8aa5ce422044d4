//! The MLS library's decoders, which the service feeds with what clients send.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openmls::prelude::group_info::GroupInfo;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{Extensions, MlsMessageIn, RatchetTreeIn};

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    match choice % 3 {
        0 => {
            if let Ok((message, _)) = MlsMessageIn::tls_deserialize_bytes(bytes)
                && let Ok(message) = message.try_into_protocol_message()
            {
                let _ = (
                    message.content_type(),
                    message.epoch(),
                    message.group_id().as_slice().len(),
                );
            }
        }
        1 => {
            let _ = RatchetTreeIn::tls_deserialize_bytes(bytes);
        }
        _ => {
            let _ = Extensions::<GroupInfo>::tls_deserialize_bytes(bytes);
        }
    }
});
