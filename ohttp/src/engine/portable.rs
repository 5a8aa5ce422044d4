//! RustCrypto, as `hpke-rs` brings it.

use hpke_rs::hpke_types::{AeadAlgorithm, KdfAlgorithm, KemAlgorithm, TwoStageKdfAlgorithm};
use hpke_rs::rustcrypto::HpkeRustCrypto;
use hpke_rs::{Hpke, Mode};
use hpke_rs_crypto::HpkeCrypto as _;
use zeroize::Zeroizing;

use crate::suite::{Aead, Kem, NONCE_LEN, SharedSecret, TAG_LEN};

const HKDF: TwoStageKdfAlgorithm = TwoStageKdfAlgorithm::HkdfSha256;
const X_WING: KemAlgorithm = KemAlgorithm::XWingDraft06;

/// The context of a request. It wipes its keys on drop.
#[cfg(target_arch = "wasm32")]
pub(crate) type HpkeContext = hpke_rs::Context<HpkeRustCrypto>;

fn algorithm(aead: Aead) -> AeadAlgorithm {
    match aead {
        Aead::Aes128Gcm => AeadAlgorithm::Aes128Gcm,
        Aead::ChaCha20Poly1305 => AeadAlgorithm::ChaCha20Poly1305,
    }
}

/// HPKE in base mode (RFC 9180 §5) with these algorithms. `None`: there is no randomness.
pub(crate) fn hpke(kem: Kem, aead: Aead) -> Option<Hpke<HpkeRustCrypto>> {
    let kdf = KdfAlgorithm::HkdfSha256;
    Hpke::try_new(Mode::Base, kem.algorithm(), kdf, algorithm(aead)).ok()
}

/// A key that messages are sealed with. Wiped on drop.
pub(crate) struct AeadKey {
    aead: Aead,
    key: Zeroizing<Vec<u8>>,
}

impl AeadKey {
    /// `None`: the key has another length.
    pub(crate) fn new(aead: Aead, key: &[u8]) -> Option<Self> {
        (key.len() == aead.key_len()).then(|| Self {
            aead,
            key: Zeroizing::new(key.to_vec()),
        })
    }

    /// Seals in place and returns the tag.
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        content: &mut [u8],
    ) -> Option<[u8; TAG_LEN]> {
        let aead = algorithm(self.aead);
        let sealed = HpkeRustCrypto::aead_seal(aead, &self.key, &nonce, aad, content).ok()?;
        let (sealed, tag) = sealed.split_at_checked(content.len())?;
        content.copy_from_slice(sealed);
        tag.try_into().ok()
    }

    /// Opens in place and drops the tag.
    pub(crate) fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        sealed: &mut Vec<u8>,
    ) -> Option<()> {
        let aead = algorithm(self.aead);
        *sealed = HpkeRustCrypto::aead_open(aead, &self.key, &nonce, aad, sealed).ok()?;
        Some(())
    }
}

/// What HKDF-SHA256 has extracted.
pub(crate) struct Prk(Zeroizing<Vec<u8>>);

impl Prk {
    pub(crate) fn extract(salt: &[u8], secret: &[u8]) -> Self {
        // SHA-256 is there.
        Self(Zeroizing::new(
            HpkeRustCrypto::kdf_extract(HKDF, salt, secret).unwrap_or_default(),
        ))
    }

    /// `None`: longer than HKDF gives.
    pub(crate) fn expand(&self, info: &[&[u8]], output: &mut [u8]) -> Option<()> {
        let expanded = HpkeRustCrypto::kdf_expand(HKDF, &self.0, &info.concat(), output.len());
        output.copy_from_slice(&Zeroizing::new(expanded.ok()?));
        Some(())
    }
}

/// A private key of a curve.
pub(crate) struct CurveKey {
    kem: Kem,
    private: Zeroizing<Vec<u8>>,
}

impl CurveKey {
    /// `None`: it is no private key.
    pub(crate) fn new(kem: Kem, private: &[u8]) -> Option<Self> {
        let private = Zeroizing::new(private.to_vec());
        let key = Self { kem, private };
        key.public().is_some().then_some(key)
    }

    pub(crate) fn public(&self) -> Option<Vec<u8>> {
        HpkeRustCrypto::secret_to_public(self.kem.algorithm(), &self.private).ok()
    }

    /// Fails for what is no point of the curve or has a small order, as RFC 9180 §7.1.4 demands.
    pub(crate) fn agree(&self, public: &[u8]) -> Option<SharedSecret> {
        let shared = HpkeRustCrypto::dh(self.kem.algorithm(), public, &self.private).ok()?;
        secret(&Zeroizing::new(shared))
    }
}

fn secret(bytes: &[u8]) -> Option<SharedSecret> {
    Some(Zeroizing::new(bytes.try_into().ok()?))
}

/// A private key of X-Wing.
pub(crate) struct XWingKey {
    seed: Zeroizing<[u8; 32]>,
    public: Vec<u8>,
}

impl XWingKey {
    /// Of its seed.
    pub(crate) fn expand(seed: &[u8; 32]) -> Option<Self> {
        let (public, _) = HpkeRustCrypto::kem_key_gen_derand(X_WING, seed).ok()?;
        let seed = Zeroizing::new(*seed);
        Some(Self { seed, public })
    }

    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }

    /// `None`: the encapsulated key is none.
    pub(crate) fn decapsulate(&self, enc: &[u8]) -> Option<SharedSecret> {
        if enc.len() != Kem::XWing.encapsulated_key_len() {
            return None;
        }
        let shared = HpkeRustCrypto::kem_decaps(X_WING, enc, &*self.seed).ok()?;
        secret(&Zeroizing::new(shared))
    }
}
