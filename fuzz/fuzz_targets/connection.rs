//! Connection requests, responses and handle records, which strangers make.
#![no_main]

use std::sync::LazyLock;

use crypto::connection::{open_connection_request, open_connection_response, verify_handle_record};
use crypto::hpke::{self, HpkeKeyPair};
use crypto::secret::Secret;
use libfuzzer_sys::fuzz_target;
use protocol::Wire;
use protocol::connections::HandleRecord;
use protocol::ids::GroupId;
use protocol::inbox::REQUEST_SIZE;

static KEY: LazyLock<HpkeKeyPair> =
    LazyLock::new(|| HpkeKeyPair::from_seed(&Secret::new([1; 32])).unwrap());
const GROUP: GroupId = GroupId([2; 16]);

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    match choice % 5 {
        0 => assert!(open_connection_request(&KEY, bytes).is_err()),
        1 => assert!(open_connection_response(&KEY, &GROUP, bytes).is_err()),
        // Properly encrypted, with any content: nobody can sign for somebody else.
        2 => {
            let info = "MIMIMI 1.0 connection request";
            let sealed = hpke::seal(KEY.public(), info, &[], bytes).unwrap();
            assert!(open_connection_request(&KEY, &sealed).is_err());
            if let Ok(sealed) = hpke::seal_in(REQUEST_SIZE, KEY.public(), info, &[], bytes) {
                assert!(open_connection_request(&KEY, &sealed).is_err());
            }
        }
        3 => {
            let sealed = hpke::seal(
                KEY.public(),
                "MIMIMI 1.0 connection response",
                &GROUP.0,
                bytes,
            )
            .unwrap();
            if let Ok(response) = open_connection_response(&KEY, &GROUP, &sealed) {
                assert_eq!(response.encode(), bytes);
            }
        }
        _ => {
            if let Ok(record) = HandleRecord::decode(bytes) {
                let _ = verify_handle_record(b"handle", &record);
            }
        }
    }
});
