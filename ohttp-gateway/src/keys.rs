//! The key pairs of the gateway, and the opening of encapsulated requests (RFC 9458 §4.3).

use std::collections::BTreeMap;

use bytes::Bytes;
use ohttp::hpke::{Aead, Kdf, Kem};
use ohttp::{KeyConfig, Server, ServerResponse, SymmetricSuite};
use ohttp_chunked::{self as chunked, Encapsulation, GatewayKey, HpkeContext, RequestDecoder};
use service::secret_file;

use crate::GatewayError;
use crate::config::{KeySettings, ReplaySettings};
use crate::problems::Refusal;
use crate::replay::{ENC_LEN, ReplayCache};

const SEED_LEN: usize = 32;
/// Key id, KEM, KDF and AEAD (RFC 9458 §4.3).
const HEADER_LEN: usize = 7;
/// Both AEADs have one of 16 bytes.
const TAG_LEN: usize = 16;

const SUITES: [SymmetricSuite; 2] = [
    SymmetricSuite::new(Kdf::HkdfSha256, Aead::Aes128Gcm),
    SymmetricSuite::new(Kdf::HkdfSha256, Aead::ChaCha20Poly1305),
];

/// All key pairs by id. A map, since during a rotation several are accepted.
pub(crate) struct KeyRing {
    keys: BTreeMap<u8, Key>,
    published: Bytes,
}

struct Key {
    server: Server,
    /// The same key pair, for requests that are sealed in chunks.
    chunked: GatewayKey,
    replay: ReplayCache,
}

/// A request that was encapsulated to one of our keys and not seen before, and the means to answer
/// it once.
pub(crate) struct Decapsulated {
    /// Binary HTTP, unchecked.
    pub(crate) request: Vec<u8>,
    pub(crate) response: ServerResponse,
}

impl KeyRing {
    pub(crate) fn load(
        settings: &[KeySettings],
        replay: &ReplaySettings,
    ) -> Result<Self, GatewayError> {
        let mut keys = BTreeMap::new();
        let mut configs = Vec::new();
        for KeySettings { id, seed_file } in settings {
            let seed = secret_file::load_or_create(seed_file, SEED_LEN)?;
            let config = KeyConfig::derive(*id, Kem::X25519Sha256, SUITES.to_vec(), &seed)
                .map_err(|_| GatewayError::Key)?;
            configs.push(config.clone());
            let key = Key {
                server: Server::new(config).map_err(|_| GatewayError::Key)?,
                chunked: GatewayKey::derive(*id, chunked::Kem::X25519, &seed)
                    .map_err(|_| GatewayError::Key)?,
                replay: ReplayCache::new(
                    replay.window_seconds.saturating_mul(1000),
                    replay.max_entries,
                ),
            };
            if keys.insert(*id, key).is_some() {
                return Err(GatewayError::RepeatedKeyId);
            }
        }
        if keys.is_empty() {
            return Err(GatewayError::NoKey);
        }
        let published = KeyConfig::encode_list(&configs).map_err(|_| GatewayError::Key)?;
        Ok(Self {
            keys,
            published: published.into(),
        })
    }

    /// `application/ohttp-keys` (RFC 9458 §3.2): configurations, each with a two-byte length.
    pub(crate) fn published(&self) -> Bytes {
        self.published.clone()
    }

    /// Opens an encapsulated request. The encapsulated key is remembered only if that succeeds.
    pub(crate) fn decapsulate(
        &self,
        encapsulated: &[u8],
        now_unix_ms: u64,
    ) -> Result<Decapsulated, Refusal> {
        if encapsulated.len() < HEADER_LEN + ENC_LEN + TAG_LEN {
            return Err(Refusal::Truncated);
        }
        let key = encapsulated
            .first()
            .and_then(|id| self.keys.get(id))
            .ok_or(Refusal::Key)?;
        let enc = encapsulated
            .get(HEADER_LEN..HEADER_LEN + ENC_LEN)
            .and_then(|enc| enc.try_into().ok())
            .ok_or(Refusal::Truncated)?;
        // Which part was wrong is nobody's business: an unknown suite, a bad point and a wrong tag
        // are one answer.
        let (request, response) = key
            .server
            .decapsulate(encapsulated)
            .map_err(|_| Refusal::Key)?;
        key.replay
            .remember(enc, now_unix_ms)
            .map_err(|_| Refusal::Replayed)?;
        Ok(Decapsulated { request, response })
    }
    /// Opens a request that is sealed in chunks, and that ends with its final chunk: the binary HTTP and the
    /// means to answer it. The encapsulated key is remembered only if that succeeds.
    pub(crate) fn decapsulate_chunked(
        &self,
        encapsulated: &[u8],
        now_unix_ms: u64,
    ) -> Result<(Vec<u8>, chunked::ResponseEncoder), Refusal> {
        let mut request = Vec::new();
        let mut decoder = RequestDecoder::new(self);
        decoder.push(encapsulated, &mut request)?;
        let opened = decoder.finish(&mut request)?;
        let key = self.keys.get(&opened.key_id).ok_or(Refusal::Key)?;
        let enc = opened.encapsulated_key.as_slice();
        key.replay
            .remember(enc.try_into().map_err(|_| Refusal::Key)?, now_unix_ms)
            .map_err(|_| Refusal::Replayed)?;
        Ok((request, opened.response))
    }
}

impl chunked::Keys for KeyRing {
    fn kem(&self, key_id: u8) -> Option<chunked::Kem> {
        self.keys.get(&key_id)?.chunked.kem(key_id)
    }

    fn receive(&self, request: &Encapsulation<'_>) -> Option<HpkeContext> {
        self.keys.get(&request.key_id)?.chunked.receive(request)
    }
}

impl From<chunked::OpenError> for Refusal {
    /// As for the other kind: what is too short is told apart, and nothing else.
    fn from(error: chunked::OpenError) -> Self {
        match error {
            chunked::OpenError::Truncated => Self::Truncated,
            chunked::OpenError::UnknownKey
            | chunked::OpenError::ChunkTooLong
            | chunked::OpenError::CannotOpen
            | chunked::OpenError::Exhausted => Self::Key,
        }
    }
}
