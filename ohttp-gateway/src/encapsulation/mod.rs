//! Opening encapsulated requests and sealing the responses (RFC 9458 §4.3, §4.4).
//!
//! ```text
//! encapsulated request  = key id(1) kem(2) kdf(2) aead(2) | enc(Nenc) | ciphertext
//! encapsulated response = nonce(max(Nn, Nk)) | ciphertext
//! ```
//!
//! The KEM is in [`kem`]; key schedule and context are those of an HPKE library (RFC 9180 §5); the
//! rest of RFC 9458 is here, and nothing else. Tests hold it against the RFC's example and another
//! implementation.

mod kem;
#[cfg(test)]
mod tests;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use hpke_rs::Hpke;
use hpke_rs::rustcrypto::HpkeRustCrypto;
use ohttp_chunked::{Aead, HEADER_LEN, Header, HpkeContext, Kem, MIN_SEED_LEN, hpke};
use zeroize::Zeroizing;

use kem::PrivateKey;

const HKDF_SHA256: u16 = 0x0001;
/// Both AEADs have 12 and 16 bytes.
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
const REQUEST: &str = "message/bhttp request";
const RESPONSE: &str = "message/bhttp response";

/// The key cannot be derived: the seed is too short, or the library refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key cannot be derived from its seed")]
pub struct KeyError;

/// Why an encapsulated request was not opened. Which part was wrong is nobody's business: an
/// unknown suite, a bad point and a wrong tag are one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopenable {
    #[error("too short to be an encapsulated request")]
    Truncated,
    #[error("not encapsulated to this key")]
    Key,
}

/// The response could not be sealed: the library failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a response cannot be encapsulated")]
pub struct Unsealable;

const fn algorithm(aead: Aead) -> &'static aead::Algorithm {
    match aead {
        Aead::Aes128Gcm => &aead::AES_128_GCM,
        Aead::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
    }
}

/// A key pair with its id, and both suites that it is offered with.
pub struct Key {
    id: u8,
    kem: Kem,
    private: PrivateKey,
    config: Vec<u8>,
    suites: [(Aead, Hpke<HpkeRustCrypto>); 2],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            id,
            kem,
            private: _,
            config: _,
            suites: _,
        } = self;
        f.debug_struct("Key")
            .field("id", id)
            .field("kem", kem)
            .finish_non_exhaustive()
    }
}

/// An opened request, and the means to answer it once.
pub struct Opened {
    /// Binary HTTP, unchecked.
    pub request: Vec<u8>,
    pub response: ResponseKey,
}

/// Seals the one response of a request.
pub struct ResponseKey {
    aead: Aead,
    secret: Zeroizing<Vec<u8>>,
    enc: Vec<u8>,
}

impl Key {
    /// The key pair that `seed` gives, always the same.
    ///
    /// # Errors
    /// The seed has less than [`MIN_SEED_LEN`] bytes.
    pub fn derive(id: u8, kem: Kem, seed: &[u8]) -> Result<Self, KeyError> {
        if seed.len() < MIN_SEED_LEN {
            return Err(KeyError);
        }
        Self::new(id, kem, PrivateKey::derive(kem, seed)?)
    }

    fn new(id: u8, kem: Kem, private: PrivateKey) -> Result<Self, KeyError> {
        let suite = |aead| hpke(kem, aead).map(|hpke| (aead, hpke)).ok_or(KeyError);
        let [first, second] = Aead::ALL;
        Ok(Self {
            config: encode_config(id, kem, &private.public()),
            suites: [suite(first)?, suite(second)?],
            id,
            kem,
            private,
        })
    }

    #[must_use]
    pub fn id(&self) -> u8 {
        self.id
    }

    #[must_use]
    pub fn kem(&self) -> Kem {
        self.kem
    }

    /// The key configuration (RFC 9458 §3.1), without a length in front.
    #[must_use]
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    /// The encapsulated key of a request that has this key's header, for recognising it.
    ///
    /// # Errors
    /// [`Unopenable`].
    pub fn enc<'a>(&self, encapsulated: &'a [u8]) -> Result<&'a [u8], Unopenable> {
        let (_, rest) = encapsulated
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(Unopenable::Truncated)?;
        rest.get(..self.kem.encapsulated_key_len())
            .ok_or(Unopenable::Truncated)
    }

    /// Opens a request.
    ///
    /// # Errors
    /// [`Unopenable`].
    pub fn open(&self, encapsulated: &[u8]) -> Result<Opened, Unopenable> {
        let enc = self.enc(encapsulated)?;
        let (header, rest) = encapsulated
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(Unopenable::Truncated)?;
        let ciphertext = rest.get(enc.len()..).unwrap_or_default();
        if ciphertext.len() < TAG_LEN {
            return Err(Unopenable::Truncated);
        }
        let info = [REQUEST.as_bytes(), &[0], header].concat();
        let (aead, mut context) = self.receive(header, enc, &info)?;
        let request = context.open(&[], ciphertext).map_err(|_| Unopenable::Key)?;
        let secret = context
            .export(RESPONSE.as_bytes(), aead.key_len())
            .map_err(|_| Unopenable::Key)?;
        Ok(Opened {
            request,
            response: ResponseKey {
                aead,
                secret: Zeroizing::new(secret),
                enc: enc.to_vec(),
            },
        })
    }

    /// `SetupBaseR(enc, skR, info)` (RFC 9180 §5.1.1), with the AEAD that the header names.
    pub(crate) fn receive(
        &self,
        header: &[u8; HEADER_LEN],
        enc: &[u8],
        info: &[u8],
    ) -> Result<(Aead, HpkeContext), Unopenable> {
        let (aead, hpke) = self
            .suites
            .iter()
            .find(|(aead, _)| *header == self.header(*aead))
            .ok_or(Unopenable::Key)?;
        let secret = self.private.decapsulate(enc)?;
        let context = hpke
            .key_schedule(&*secret, info, &[], &[])
            .map_err(|_| Unopenable::Key)?;
        Ok((*aead, context))
    }

    fn header(&self, aead: Aead) -> [u8; HEADER_LEN] {
        let Self { id, kem, .. } = self;
        Header {
            key_id: *id,
            kem: *kem,
            aead,
        }
        .encode()
    }
}

fn encode_config(id: u8, kem: Kem, public: &[u8]) -> Vec<u8> {
    let mut config = vec![id];
    config.extend_from_slice(&kem.id().to_be_bytes());
    config.extend_from_slice(public);
    config.extend_from_slice(&[0, 8]);
    for aead in Aead::ALL {
        config.extend_from_slice(&HKDF_SHA256.to_be_bytes());
        config.extend_from_slice(&aead.id().to_be_bytes());
    }
    config
}

impl ResponseKey {
    /// Seals the response. By value: a nonce and a key serve once.
    ///
    /// # Errors
    /// [`Unsealable`].
    pub fn seal(self, response: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let mut nonce = vec![0; self.aead.key_len()];
        getrandom::fill(&mut nonce).map_err(|_| Unsealable)?;
        self.seal_with(nonce, response)
    }

    fn seal_with(self, response_nonce: Vec<u8>, response: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let salt = [self.enc.as_slice(), &response_nonce].concat();
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &salt).extract(&self.secret);
        let key = expand(&prk, "key", self.aead.key_len())?;
        let nonce = expand(&prk, "nonce", NONCE_LEN)?;
        let key = UnboundKey::new(algorithm(self.aead), &key).map_err(|_| Unsealable)?;
        let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| Unsealable)?;
        let mut sealed = response_nonce;
        let start = sealed.len();
        sealed.reserve_exact(response.len() + TAG_LEN);
        sealed.extend_from_slice(response);
        let content = sealed.get_mut(start..).ok_or(Unsealable)?;
        let tag = LessSafeKey::new(key)
            .seal_in_place_separate_tag(nonce, Aad::empty(), content)
            .map_err(|_| Unsealable)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }
}

fn expand(prk: &hkdf::Prk, info: &str, len: usize) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut output = Zeroizing::new(vec![0; len]);
    prk.expand(&[info.as_bytes()], Length(len))
        .and_then(|okm| okm.fill(&mut output))
        .map_err(|_| Unsealable)?;
    Ok(output)
}
