//! AWS-LC.

pub(crate) mod provider;
mod x_wing;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, Algorithm, ECDH_P256, UnparsedPublicKey, X25519};
use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

use crate::suite::{Aead, Kem, NONCE_LEN, SharedSecret, TAG_LEN};

pub(crate) use provider::{HpkeContext, hpke};
pub(crate) use x_wing::PrivateKey as XWingKey;

fn algorithm(aead: Aead) -> &'static aead::Algorithm {
    match aead {
        Aead::Aes128Gcm => &aead::AES_128_GCM,
        Aead::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
    }
}

/// A key that messages are sealed with. Wiped on drop.
pub(crate) struct AeadKey(LessSafeKey);

impl AeadKey {
    /// `None`: the key has another length.
    pub(crate) fn new(aead: Aead, key: &[u8]) -> Option<Self> {
        let key = UnboundKey::new(algorithm(aead), key).ok()?;
        Some(Self(LessSafeKey::new(key)))
    }

    /// Seals in place and returns the tag.
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        content: &mut [u8],
    ) -> Option<[u8; TAG_LEN]> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(aad), content);
        tag.ok()?.as_ref().try_into().ok()
    }

    /// Opens in place and drops the tag.
    pub(crate) fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        sealed: &mut Vec<u8>,
    ) -> Option<()> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(aad), sealed);
        let length = opened.ok()?.len();
        sealed.truncate(length);
        Some(())
    }
}

/// What HKDF-SHA256 has extracted.
pub(crate) struct Prk(hkdf::Prk);

impl Prk {
    pub(crate) fn extract(salt: &[u8], secret: &[u8]) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret))
    }

    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, bytes))
    }

    /// `None`: longer than HKDF gives.
    pub(crate) fn expand(&self, info: &[&[u8]], output: &mut [u8]) -> Option<()> {
        struct Length(usize);
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        self.0
            .expand(info, Length(output.len()))
            .and_then(|okm| okm.fill(output))
            .ok()
    }
}

fn curve(kem: Kem) -> &'static Algorithm {
    match kem {
        Kem::XWing | Kem::X25519 => &X25519,
        Kem::P256 => &ECDH_P256,
    }
}

/// A private key of a curve.
pub(crate) struct CurveKey(agreement::PrivateKey);

impl CurveKey {
    /// `None`: it is no private key.
    pub(crate) fn new(kem: Kem, private: &[u8]) -> Option<Self> {
        let key = agreement::PrivateKey::from_private_key(curve(kem), private);
        key.ok().map(Self)
    }

    /// A fresh one, which is used once.
    fn generate(kem: Kem) -> Option<Self> {
        let key = agreement::PrivateKey::generate(curve(kem));
        key.ok().map(Self)
    }

    pub(crate) fn public(&self) -> Option<Vec<u8>> {
        let public = self.0.compute_public_key().ok()?;
        Some(public.as_ref().to_vec())
    }

    /// Fails for what is no point of the curve or has a small order, as RFC 9180 §7.1.4 demands.
    pub(crate) fn agree(&self, public: &[u8]) -> Option<SharedSecret> {
        let public = UnparsedPublicKey::new(self.0.algorithm(), public);
        agreement::agree(&self.0, public, (), |shared| {
            shared.try_into().map(Zeroizing::new).map_err(|_| ())
        })
        .ok()
    }
}
