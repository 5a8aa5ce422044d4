//! The gateway's key pair and what clients know of it.

use hpke_rs::HpkePublicKey;

use crate::configs;
use crate::engine::{HpkeContext, hpke};
use crate::error::KeyError;
use crate::kem::PrivateKey;
use crate::suite::{Header, Kem};

/// The fewest bytes of a seed.
pub const MIN_SEED_LEN: usize = 32;

/// A key pair with its id.
pub struct Key {
    public: PublicKey,
    private: PrivateKey,
    config: Vec<u8>,
}

/// The part of a key configuration that a client needs (RFC 9458 §3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    key_id: u8,
    kem: Kem,
    key: Vec<u8>,
}

/// The private keys that requests are opened with.
pub trait Keys {
    /// The key with this id.
    fn key(&self, key_id: u8) -> Option<&Key>;
}

impl<K: Keys + ?Sized> Keys for &K {
    fn key(&self, key_id: u8) -> Option<&Key> {
        (**self).key(key_id)
    }
}

impl Keys for Key {
    fn key(&self, key_id: u8) -> Option<&Key> {
        (self.id() == key_id).then_some(self)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            public,
            private: _,
            config: _,
        } = self;
        f.debug_struct("Key")
            .field("id", &public.key_id)
            .field("kem", &public.kem)
            .finish_non_exhaustive()
    }
}

impl Key {
    /// `DeriveKeyPair(seed)` (RFC 9180 §7.1.3; draft-ietf-hpke-pq for X-Wing): the same pair for
    /// the same seed.
    ///
    /// # Errors
    /// [`KeyError::ShortSeed`] below [`MIN_SEED_LEN`] bytes.
    pub fn derive(id: u8, kem: Kem, seed: &[u8]) -> Result<Self, KeyError> {
        if seed.len() < MIN_SEED_LEN {
            return Err(KeyError::ShortSeed);
        }
        Self::new(id, PrivateKey::derive(kem, seed)?)
    }

    pub(crate) fn new(id: u8, private: PrivateKey) -> Result<Self, KeyError> {
        let kem = private.kem();
        let public = PublicKey::new(id, kem, private.public())?;
        Ok(Self {
            config: configs::encode(id, kem, &public.key),
            public,
            private,
        })
    }

    #[must_use]
    pub fn id(&self) -> u8 {
        self.public.key_id
    }

    #[must_use]
    pub fn kem(&self) -> Kem {
        self.public.kem
    }

    /// The key configuration (RFC 9458 §3.1), without a length in front.
    #[must_use]
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    /// The public half, which clients need.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// `SetupBaseR(enc, skR, info)` (RFC 9180 §5.1.1), for a header with this key's id and KEM.
    pub(crate) fn receive(&self, header: Header, enc: &[u8], info: &[u8]) -> Option<HpkeContext> {
        let secret = self.private.decapsulate(enc)?;
        hpke(header.kem, header.aead)?
            .key_schedule(&*secret, info, &[], &[])
            .ok()
    }
}

impl PublicKey {
    /// Of a key configuration with one of our KEMs.
    ///
    /// # Errors
    /// [`KeyError::Length`].
    pub fn new(key_id: u8, kem: Kem, key: &[u8]) -> Result<Self, KeyError> {
        if key.len() != kem.public_key_len() {
            return Err(KeyError::Length);
        }
        Ok(Self {
            key_id,
            kem,
            key: key.to_vec(),
        })
    }

    /// Of a configuration that [`configs::usable`] gives, to seal requests to with AES-128-GCM.
    #[must_use]
    pub fn of_config(config: &[u8]) -> Option<Self> {
        let (key_id, kem, key) = configs::parts(config)?;
        Self::new(key_id, kem, key).ok()
    }

    pub(crate) fn key_id(&self) -> u8 {
        self.key_id
    }

    pub(crate) fn kem(&self) -> Kem {
        self.kem
    }

    pub(crate) fn to_hpke(&self) -> HpkePublicKey {
        HpkePublicKey::new(self.key.clone())
    }
}
