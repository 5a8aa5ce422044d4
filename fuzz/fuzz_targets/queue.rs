//! Queue references, entries and payloads as they come from somebody else.
#![no_main]

use std::sync::LazyLock;

use crypto::hpke::{self, HpkeKeyPair};
use crypto::keys::PayloadKey;
use crypto::queue::{StreamKey, open_payload, open_reference, seal_payload};
use crypto::secret::Secret;
use libfuzzer_sys::fuzz_target;
use protocol::Wire;
use protocol::delivery::Payload;
use protocol::ids::{EntryId, Incarnation, QueueId};

static KEY: LazyLock<HpkeKeyPair> =
    LazyLock::new(|| HpkeKeyPair::from_seed(&Secret::new([1; 32])).unwrap());
const QUEUE: QueueId = QueueId([2; 16]);

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    match choice % 5 {
        0 => assert!(open_reference(&KEY, b"leaf", bytes).is_err()),
        // A reference of the right key with any content.
        1 => {
            let sealed =
                hpke::seal(&KEY.public(), "MIMIMI 1.0 queue reference", b"leaf", bytes).unwrap();
            assert_eq!(
                open_reference(&KEY, b"leaf", &sealed).is_ok(),
                bytes.len() == 16
            );
        }
        2 => assert!(open_payload(&PayloadKey::new([3; 32]), bytes).is_err()),
        3 => {
            if let Ok(payload) = Payload::decode(bytes) {
                let (key, sealed) = seal_payload(&payload).unwrap();
                assert_eq!(open_payload(&key, &sealed).unwrap(), payload);
            }
        }
        _ => {
            let Some((encapsulated, sealed)) = bytes.split_first_chunk::<32>() else {
                return;
            };
            let incarnation = Incarnation([4; 16]);
            if let Ok(stream) = StreamKey::receive(&KEY, encapsulated, &QUEUE, &incarnation, 5) {
                let _ = stream.open(
                    &EntryId {
                        day: 5,
                        incarnation,
                        index: 0,
                    },
                    sealed,
                );
            }
        }
    }
});
