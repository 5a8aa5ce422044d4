//! The gateway's key pair and what clients know of it.

use hpke_rs::{HpkePrivateKey, HpkePublicKey};

use crate::error::KeyError;
use crate::suite::{Aead, HEADER_LEN, HpkeContext, Kem, hpke};

/// The fewest bytes of a seed.
pub const MIN_SEED_LEN: usize = 32;

/// A key pair that requests are encapsulated to. The private key is wiped when this is dropped.
pub struct GatewayKey {
    private: HpkePrivateKey,
    public: GatewayPublicKey,
}

/// What a client needs of a key configuration (RFC 9458 §3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayPublicKey {
    key_id: u8,
    kem: Kem,
    key: Vec<u8>,
}

/// How a request was encapsulated.
#[derive(Clone, Copy, Debug)]
pub struct Encapsulation<'a> {
    /// As it stands in the request: key id, KEM, KDF and AEAD.
    pub header: [u8; HEADER_LEN],
    pub key_id: u8,
    pub kem: Kem,
    pub aead: Aead,
    /// As long as the KEM wants.
    pub encapsulated_key: &'a [u8],
    /// [`REQUEST_LABEL`](crate::REQUEST_LABEL), a zero and the header.
    pub info: &'a [u8],
}

/// The private keys that a [`crate::RequestDecoder`] opens requests with: a [`GatewayKey`], or
/// those of a gateway that has its own way of decapsulating.
pub trait Keys {
    /// The KEM of the key with this id.
    fn kem(&self, key_id: u8) -> Option<Kem>;

    /// `SetupBaseR(enc, skR, info)` (RFC 9180 §5.1.1). `None`: there is no such key any more, or
    /// the encapsulated key is none.
    fn receive(&self, request: &Encapsulation<'_>) -> Option<HpkeContext>;
}

impl<K: Keys + ?Sized> Keys for &K {
    fn kem(&self, key_id: u8) -> Option<Kem> {
        (**self).kem(key_id)
    }

    fn receive(&self, request: &Encapsulation<'_>) -> Option<HpkeContext> {
        (**self).receive(request)
    }
}

impl Keys for GatewayKey {
    fn kem(&self, key_id: u8) -> Option<Kem> {
        (self.public.key_id == key_id).then_some(self.public.kem)
    }

    fn receive(&self, request: &Encapsulation<'_>) -> Option<HpkeContext> {
        let enc = request.encapsulated_key;
        hpke(request.kem, request.aead)?
            .setup_receiver(enc, &self.private, request.info, None, None, None)
            .ok()
    }
}

impl std::fmt::Debug for GatewayKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            private: _,
            public: _,
        } = self;
        f.write_str("GatewayKey(..)")
    }
}

impl GatewayKey {
    /// `DeriveKeyPair(seed)` (RFC 9180 §7.1.3; draft-ietf-hpke-pq for X-Wing): the same pair for
    /// the same seed.
    ///
    /// # Errors
    /// [`KeyError::ShortSeed`] below [`MIN_SEED_LEN`] bytes.
    pub fn derive(key_id: u8, kem: Kem, seed: &[u8]) -> Result<Self, KeyError> {
        if seed.len() < MIN_SEED_LEN {
            return Err(KeyError::ShortSeed);
        }
        // A key pair does not depend on the AEAD.
        let (private, public) = hpke(kem, Aead::Aes128Gcm)
            .and_then(|hpke| hpke.derive_key_pair(seed).ok())
            .ok_or(KeyError::Backend)?
            .into_keys();
        let public = GatewayPublicKey::new(key_id, kem, public.as_slice())?;
        Ok(Self { private, public })
    }

    /// Of a private key as it is: for test vectors.
    #[cfg(test)]
    pub(crate) fn from_private(public: GatewayPublicKey, private: &[u8]) -> Self {
        Self {
            private: private.into(),
            public,
        }
    }

    /// What clients need.
    #[must_use]
    pub fn public(&self) -> &GatewayPublicKey {
        &self.public
    }
}

impl GatewayPublicKey {
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

    /// The id that requests name the key by.
    #[must_use]
    pub fn key_id(&self) -> u8 {
        self.key_id
    }

    /// The KEM of the key.
    #[must_use]
    pub fn kem(&self) -> Kem {
        self.kem
    }

    /// The key as it stands in a key configuration.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn to_hpke(&self) -> HpkePublicKey {
        HpkePublicKey::new(self.key.clone())
    }
}
