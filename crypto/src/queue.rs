//! Queue references, handles, streams, entries and payloads (design: queues).

use protocol::Wire;
use protocol::delivery::{EntryContent, Payload};
use protocol::ids::{EntryId, Incarnation, QueueId};
use protocol::padding::padme;
use zeroize::Zeroizing;

use crate::hpke::{self, HpkeKeyPair};
use crate::keys::PayloadKey;
use crate::secret::Secret;
use crate::{CryptoError, aead, kdf, random};

const REFERENCE_INFO: &str = "MIMIMI 1.0 queue reference";
const STREAM_CONTEXT: &str = "MIMIMI 1.0 queue stream";

/// A sealed queue reference: `key_id(1) || enc(32) || ciphertext(16 + 16)`. Stands in a leaf, bound
/// to the leaf's signature key; fresh randomness each time, so two leaves of a client share nothing.
///
/// # Errors
/// [`CryptoError::InvalidKey`] if the service key is none.
pub fn seal_reference(
    service_key_id: u8,
    service_key: &[u8],
    bound_to: &[u8],
    queue: &QueueId,
) -> Result<Vec<u8>, CryptoError> {
    let sealed = hpke::seal(service_key, REFERENCE_INFO, bound_to, &queue.0)?;
    Ok([&[service_key_id][..], &sealed].concat())
}

/// Opens the part of a sealed queue reference behind its key id.
///
/// # Errors
/// [`CryptoError::CannotOpen`], also if it is bound to another key.
pub fn open_reference(
    key: &HpkeKeyPair,
    bound_to: &[u8],
    sealed: &[u8],
) -> Result<QueueId, CryptoError> {
    let id = hpke::open(key, REFERENCE_INFO, bound_to, sealed)?;
    id.as_slice()
        .try_into()
        .map(QueueId)
        .map_err(|_| CryptoError::CannotOpen)
}

/// Length of a [`QueueHandle`].
pub const HANDLE_LEN: usize = 12 + 16 + aead::TAG_LEN;

/// A queue id under the service's symmetric handle key: what a roster keeps, a fraction of a
/// microsecond to open.
pub type QueueHandle = [u8; HANDLE_LEN];

/// Seals a queue id as a handle.
///
/// # Errors
/// [`CryptoError::Backend`] without randomness.
pub fn seal_handle(key: &aead::Key, queue: &QueueId) -> Result<QueueHandle, CryptoError> {
    let nonce = random::<12>()?;
    let mut body = Vec::with_capacity(HANDLE_LEN);
    body.extend_from_slice(&queue.0);
    key.seal(nonce, b"queue handle", &mut body)?;
    let mut handle = [0; HANDLE_LEN];
    for (to, from) in handle.iter_mut().zip(nonce.iter().chain(&body)) {
        *to = *from;
    }
    Ok(handle)
}

/// Opens a handle.
///
/// # Errors
/// [`CryptoError::CannotOpen`].
pub fn open_handle(key: &aead::Key, handle: &QueueHandle) -> Result<QueueId, CryptoError> {
    let (nonce, body) = handle
        .split_first_chunk::<12>()
        .ok_or(CryptoError::CannotOpen)?;
    let mut body = body.to_vec();
    key.open(*nonce, b"queue handle", &mut body)?;
    body.as_slice()
        .try_into()
        .map(QueueId)
        .map_err(|_| CryptoError::CannotOpen)
}

fn stream_info(queue: &QueueId, incarnation: &Incarnation, day: u32) -> Vec<u8> {
    [
        &b"MIMIMI 1.0 stream"[..],
        &queue.0,
        &incarnation.0,
        &day.to_be_bytes(),
    ]
    .concat()
}

/// The key of one stream (queue, incarnation, day). The index of an entry is its nonce, so a client
/// opens any entry without the ones before.
pub struct StreamKey {
    key: Secret<32>,
}

impl std::fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key: _ } = self;
        f.write_str("StreamKey(..)")
    }
}

impl StreamKey {
    /// The service's side: encapsulates to the queue's HPKE key.
    ///
    /// # Errors
    /// [`CryptoError::InvalidKey`] if that is none.
    pub fn start(
        queue_key: &[u8],
        queue: &QueueId,
        incarnation: &Incarnation,
        day: u32,
    ) -> Result<([u8; 32], Self), CryptoError> {
        let (enc, key) = hpke::send_export(
            queue_key,
            &stream_info(queue, incarnation, day),
            STREAM_CONTEXT,
        )?;
        Ok((enc, Self { key }))
    }

    /// The client's side.
    ///
    /// # Errors
    /// [`CryptoError::CannotOpen`].
    pub fn receive(
        queue_key: &HpkeKeyPair,
        enc: &[u8; 32],
        queue: &QueueId,
        incarnation: &Incarnation,
        day: u32,
    ) -> Result<Self, CryptoError> {
        hpke::receive_export(
            queue_key,
            enc,
            &stream_info(queue, incarnation, day),
            STREAM_CONTEXT,
        )
        .map(|key| Self { key })
    }

    /// Seals the content of an entry. Each index must be used once.
    ///
    /// # Errors
    /// [`CryptoError::Backend`].
    pub fn seal(&self, id: &EntryId, content: &EntryContent) -> Result<Vec<u8>, CryptoError> {
        let encoded = Zeroizing::new(content.encode());
        let mut sealed = Vec::with_capacity(encoded.len().saturating_add(aead::TAG_LEN));
        sealed.extend_from_slice(&encoded);
        aead::seal(
            self.key.expose(),
            entry_nonce(id),
            b"queue entry",
            &mut sealed,
        )?;
        Ok(sealed)
    }

    /// Opens the content of an entry.
    ///
    /// # Errors
    /// [`CryptoError::CannotOpen`], also for content that does not decode.
    pub fn open(&self, id: &EntryId, sealed: &[u8]) -> Result<EntryContent, CryptoError> {
        let mut content = Zeroizing::new(sealed.to_vec());
        aead::open(
            self.key.expose(),
            entry_nonce(id),
            b"queue entry",
            &mut content,
        )?;
        EntryContent::decode(&content).map_err(|_| CryptoError::CannotOpen)
    }
}

fn entry_nonce(id: &EntryId) -> [u8; 12] {
    let mut nonce = [0; 12];
    for (to, from) in nonce.iter_mut().skip(8).zip(id.index.to_be_bytes()) {
        *to = from;
    }
    nonce
}

/// Seals a payload under a key made for it: padded to a Padmé size first.
///
/// # Errors
/// [`CryptoError::TooLong`] beyond 2^32 bytes; [`CryptoError::Backend`] without randomness.
pub fn seal_payload(payload: &Payload) -> Result<(PayloadKey, Vec<u8>), CryptoError> {
    let key = PayloadKey::random()?;
    let encoded = payload.encode();
    let length = u32::try_from(encoded.len()).map_err(|_| CryptoError::TooLong)?;
    let padded = padme(encoded.len().saturating_add(4));
    let mut sealed = Vec::with_capacity(padded.saturating_add(aead::TAG_LEN));
    sealed.extend_from_slice(&length.to_be_bytes());
    sealed.extend_from_slice(&encoded);
    sealed.resize(padded, 0);
    aead::seal(&payload_aead_key(&key), [0; 12], b"payload", &mut sealed)?;
    Ok((key, sealed))
}

/// Opens a payload.
///
/// # Errors
/// [`CryptoError::CannotOpen`], also for a payload that does not decode.
pub fn open_payload(key: &PayloadKey, sealed: &[u8]) -> Result<Payload, CryptoError> {
    let mut padded = sealed.to_vec();
    aead::open(&payload_aead_key(key), [0; 12], b"payload", &mut padded)?;
    let (length, body) = padded
        .split_first_chunk::<4>()
        .ok_or(CryptoError::CannotOpen)?;
    let length =
        usize::try_from(u32::from_be_bytes(*length)).map_err(|_| CryptoError::CannotOpen)?;
    body.get(..length)
        .and_then(|payload| Payload::decode(payload).ok())
        .ok_or(CryptoError::CannotOpen)
}

fn payload_aead_key(key: &PayloadKey) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(kdf::derive(key.expose(), "payload", &[]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use protocol::codec::{WireSecret, opaque};
    use protocol::delivery::PayloadKind;

    use super::*;

    const QUEUE: QueueId = QueueId([9; 16]);
    const INCARNATION: Incarnation = Incarnation([8; 16]);

    fn content(sequence: u64) -> EntryContent {
        EntryContent {
            kind: PayloadKind::Message,
            payload_key: WireSecret::new([1; 32]),
            sequence,
        }
    }

    #[test]
    fn a_reference_opens_with_the_service_key_and_is_bound_to_the_leaf() {
        let key = HpkeKeyPair::from_seed(&Secret::new([1; 32])).unwrap();
        let sealed = seal_reference(7, &key.public(), b"leaf key", &QUEUE).unwrap();
        let (key_id, rest) = sealed.split_first().unwrap();
        assert_eq!(*key_id, 7);
        assert_eq!(open_reference(&key, b"leaf key", rest).unwrap(), QUEUE);
        assert!(open_reference(&key, b"other key", rest).is_err());
    }

    #[test]
    fn handles_of_one_queue_differ_and_open_to_it() {
        let key = aead::Key::new(&[1; 32]).unwrap();
        let (a, b) = (
            seal_handle(&key, &QUEUE).unwrap(),
            seal_handle(&key, &QUEUE).unwrap(),
        );
        assert_ne!(a, b);
        assert_eq!(open_handle(&key, &a).unwrap(), QUEUE);
        assert!(open_handle(&aead::Key::new(&[2; 32]).unwrap(), &a).is_err());
    }

    #[test]
    fn any_entry_opens_without_the_ones_before_and_at_its_index_only() {
        let client = HpkeKeyPair::from_seed(&Secret::new([1; 32])).unwrap();
        let (enc, service) = StreamKey::start(&client.public(), &QUEUE, &INCARNATION, 3).unwrap();
        let id = |index| EntryId {
            day: 3,
            incarnation: INCARNATION,
            index,
        };
        let sealed: Vec<_> = (0..3)
            .map(|i| service.seal(&id(i), &content(u64::from(i))).unwrap())
            .collect();
        let key = StreamKey::receive(&client, &enc, &QUEUE, &INCARNATION, 3).unwrap();
        assert_eq!(
            key.open(&id(2), sealed.get(2).unwrap()).unwrap().sequence,
            2
        );
        assert_eq!(
            key.open(&id(0), sealed.first().unwrap()).unwrap().sequence,
            0
        );
        assert!(key.open(&id(1), sealed.get(2).unwrap()).is_err());
        let other = StreamKey::receive(&client, &enc, &QueueId([0; 16]), &INCARNATION, 3).unwrap();
        assert!(other.open(&id(0), sealed.first().unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn a_payload_opens_with_its_key_and_its_size_is_padded(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
            let payload = Payload::Message(opaque(bytes));
            let (key, sealed) = seal_payload(&payload).unwrap();
            prop_assert_eq!(sealed.len(), padme(sealed.len() - 16) + 16);
            prop_assert_eq!(open_payload(&key, &sealed).unwrap(), payload);
            prop_assert!(open_payload(&PayloadKey::new([0; 32]), &sealed).is_err());
        }
    }
}
