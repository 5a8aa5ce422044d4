//! What is kept of a device, sealed.

use crypto::sealing::{self, Place};
use protocol::push::{Address, Consent};
use tls_codec::{
    DeserializeBytes as _, Serialize as _, Size as _, TlsDeserializeBytes, TlsSerialize, TlsSize,
    VLBytes,
};
use zeroize::Zeroizing;

use crate::keys::{DeviceId, HandleId, Keys};

const VERSION: u16 = 1;
/// The size of a record: with the longest address there is, it has room for some 60 handles that
/// were ended. With more of them it is doubled.
const BYTES: usize = 2_048;
/// Of the length that [`sealing`] puts in front.
const LENGTH: usize = 4;

/// A device's record.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Record {
    version: u16,
    /// Of the last request with an effect.
    pub(crate) number: u64,
    /// Handles of another one have ended.
    pub(crate) generation: u32,
    /// 1: its owner has removed it. What is left keeps an earlier request from bringing it back.
    pub(crate) removed: u8,
    /// `None`: what was there is gone.
    pub(crate) address: Option<Address>,
    pub(crate) consent: Consent,
    /// Handles that were ended and have not expired.
    pub(crate) revoked: Vec<Revoked>,
    /// In this week so many handles were issued.
    pub(crate) issued_week: u16,
    pub(crate) issued: u32,
}

#[derive(Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Revoked {
    pub(crate) id: HandleId,
    pub(crate) last_week: u16,
}

impl Record {
    pub(crate) fn new(number: u64, address: Address, consent: Consent) -> Self {
        Self {
            version: VERSION,
            number,
            generation: 0,
            removed: 0,
            address: Some(address),
            consent,
            revoked: Vec::new(),
            issued_week: 0,
            issued: 0,
        }
    }

    pub(crate) fn seal(&self, device: DeviceId, keys: &Keys) -> Result<Vec<u8>, SealError> {
        let written = self.tls_serialized_len();
        let bytes = written.saturating_add(LENGTH).next_power_of_two();
        // One allocation: nothing secret is left behind by a growing one.
        let mut plain = Zeroizing::new(Vec::with_capacity(bytes.max(BYTES)));
        self.tls_serialize(&mut *plain).map_err(|_| SealError)?;
        plain.resize(bytes.max(BYTES).saturating_sub(LENGTH), 0);
        sealing::seal(keys.records(), place(&device), &plain).map_err(|_| SealError)
    }

    pub(crate) fn open(device: DeviceId, keys: &Keys, sealed: &[u8]) -> Result<Self, SealError> {
        let plain = sealing::open(keys.records(), place(&device), sealed).map_err(|_| SealError)?;
        let (record, padding) = Self::tls_deserialize_bytes(&plain).map_err(|_| SealError)?;
        (record.version == VERSION && padding.iter().all(|byte| *byte == 0))
            .then_some(record)
            .ok_or(SealError)
    }
}

/// A record could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "a device's record cannot be sealed or opened: the key file is another one, or the row is damaged"
)]
pub(crate) struct SealError;

fn place(device: &DeviceId) -> Place<'_> {
    Place {
        table: "push_devices",
        row: &device.0,
        part: "record",
    }
}

/// Bytes that nobody needs to see in a debug line.
pub(crate) fn text(bytes: &VLBytes) -> Option<&str> {
    std::str::from_utf8(bytes.as_slice()).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::codec::{WireSecret, opaque};
    use protocol::push::*;

    use super::*;

    /// Each kind of address, with this text in it.
    fn addresses(text: &[u8]) -> [Address; 4] {
        let secret = WireSecret::new([1; 32]);
        let in_app = || AppAddress {
            app: opaque([b'a'; MAX_APP_BYTES]),
            token: opaque(text),
        };
        [
            Address::WebPush(WebPushAddress {
                endpoint: opaque(text),
                p256dh: opaque([4; 65]),
                auth: [1; 16],
            }),
            Address::Webhook(WebhookAddress {
                url: opaque(text),
                secret,
            }),
            Address::Apns(in_app()),
            Address::Fcm(in_app()),
        ]
    }

    fn sealed(record: &Record) -> usize {
        let keys = Keys::new(&[1; 32]);
        let device = DeviceId([1; 16]);
        let sealed = record.seal(device, &keys).unwrap();
        let opened = Record::open(device, &keys, &sealed).unwrap();
        assert_eq!(format!("{opened:?}"), format!("{record:?}"));
        sealed.len()
    }

    #[test]
    fn all_rows_have_one_size_but_those_with_many_ended_handles() {
        let consent = Consent {
            pace: WakePace::Prompt,
            decoys: 1,
        };
        let ended = |count: u8| {
            (0..count).map(|id| Revoked {
                id: [id; 12],
                last_week: 3_000,
            })
        };
        let mut sizes = std::collections::BTreeSet::new();
        for text in [&b"https://a.example"[..], &[b'x'; MAX_URL_BYTES]] {
            for address in addresses(text) {
                let mut record = Record::new(1, address, consent);
                sizes.insert(sealed(&record));
                record.revoked.extend(ended(60));
                sizes.insert(sealed(&record));
                record.revoked.clear();
                record.address = None;
                record.removed = 1;
                sizes.insert(sealed(&record));
            }
        }
        assert_eq!(sizes.len(), 1, "{sizes:?}");
        let [address, ..] = addresses(b"https://a.example");
        let mut record = Record::new(1, address, consent);
        let more = [150, 200].map(|count| {
            record.revoked = ended(count).collect();
            sealed(&record)
        });
        assert_eq!(more[0], more[1], "in few steps");
        assert!(!sizes.contains(&more[0]));
    }
}
