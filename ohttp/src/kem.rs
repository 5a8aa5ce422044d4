//! The KEMs, receiver's side: DHKEM(X25519, HKDF-SHA256) and DHKEM(P-256, HKDF-SHA256) of RFC 9180,
//! and X-Wing (draft-connolly-cfrg-xwing-kem, as draft-ietf-hpke-pq uses it).
//!
//! What depends on the key alone is computed once, when it is derived: its public key, and for
//! X-Wing the expanded ML-KEM key. The generic libraries do that again for every request, and it is
//! most of their cost (docs/performance.md).

use aws_lc_rs::agreement::{self, Algorithm, ECDH_P256, UnparsedPublicKey, X25519};
use aws_lc_rs::digest::{Context, SHA3_256};
use aws_lc_rs::hkdf;
use ml_kem::kem::{Decapsulate, KeyExport};
use ml_kem::{FromSeed, MlKem768};
use shake::Shake256;
use shake::digest::{ExtendableOutput, Update, XofReader};
use zeroize::Zeroizing;

use crate::error::KeyError;
use crate::suite::Kem;

const X25519_LEN: usize = 32;
/// An ML-KEM-768 ciphertext (FIPS 203, table 3).
const ML_KEM_CIPHERTEXT: usize = 1088;
const ML_KEM_PUBLIC: usize = 1184;
/// RFC 9180 §4.
const VERSION: &[u8] = b"HPKE-v1";
/// draft-connolly-cfrg-xwing-kem §5.3.
const X_WING_LABEL: &[u8] = br"\.//^\";

fn curve(kem: Kem) -> &'static Algorithm {
    match kem {
        Kem::XWing | Kem::X25519 => &X25519,
        Kem::P256 => &ECDH_P256,
    }
}

/// Nsecret of each.
pub(crate) type SharedSecret = Zeroizing<[u8; 32]>;

pub(crate) struct PrivateKey {
    kem: Kem,
    /// The curve's part of it.
    curve: agreement::PrivateKey,
    curve_public: Vec<u8>,
    ml_kem: Option<Box<ml_kem::ml_kem_768::DecapsulationKey>>,
}

impl PrivateKey {
    /// `DeriveKeyPair(ikm)`: RFC 9180 §7.1.3, draft-ietf-hpke-pq §4.
    pub(crate) fn derive(kem: Kem, ikm: &[u8]) -> Result<Self, KeyError> {
        match kem {
            Kem::X25519 => {
                let prk = labeled_extract(kem, "dkp_prk", ikm);
                let private = labeled_expand(kem, &prk, "sk", &[]).ok_or(KeyError::Backend)?;
                Self::of_curve(kem, &private)
            }
            Kem::P256 => {
                let prk = labeled_extract(kem, "dkp_prk", ikm);
                // The first candidate that is a private key, which but one in 2^32 is.
                (0..=u8::MAX)
                    .find_map(|counter| {
                        let private = labeled_expand(kem, &prk, "candidate", &[&[counter]]);
                        Self::of_curve(kem, &*private?).ok()
                    })
                    .ok_or(KeyError::Backend)
            }
            Kem::XWing => {
                let label = b"DeriveKeyPair";
                let mut xof = Shake256::default();
                for part in [ikm, VERSION, &suite_id(kem), &[0, 13], label, &[0, 32]] {
                    xof.update(part);
                }
                let mut seed = Zeroizing::new([0; 32]);
                xof.finalize_xof().read(&mut *seed);
                Self::x_wing(&seed)
            }
        }
    }

    pub(crate) fn of_curve(kem: Kem, private: &[u8; 32]) -> Result<Self, KeyError> {
        let curve = agreement::PrivateKey::from_private_key(curve(kem), private)
            .map_err(|_| KeyError::Backend)?;
        let public = curve.compute_public_key().map_err(|_| KeyError::Backend)?;
        Ok(Self {
            kem,
            curve,
            curve_public: public.as_ref().to_vec(),
            ml_kem: None,
        })
    }

    /// `expandDecapsulationKey` (draft-connolly-cfrg-xwing-kem §5.2).
    fn x_wing(seed: &[u8; 32]) -> Result<Self, KeyError> {
        let mut xof = Shake256::default();
        xof.update(seed);
        let mut reader = xof.finalize_xof();
        let mut ml_kem_seed = Zeroizing::new([0; 64]);
        let mut x25519 = Zeroizing::new([0; X25519_LEN]);
        reader.read(&mut *ml_kem_seed);
        reader.read(&mut *x25519);
        let (ml_kem, _) = MlKem768::from_seed(&(*ml_kem_seed).into());
        Ok(Self {
            ml_kem: Some(Box::new(ml_kem)),
            ..Self::of_curve(Kem::XWing, &x25519)?
        })
    }

    pub(crate) fn kem(&self) -> Kem {
        self.kem
    }

    /// Npk bytes.
    pub(crate) fn public(&self) -> Vec<u8> {
        let mut public = Vec::with_capacity(ML_KEM_PUBLIC + X25519_LEN);
        if let Some(ml_kem) = &self.ml_kem {
            public.extend_from_slice(&ml_kem.encapsulation_key().to_bytes());
        }
        public.extend_from_slice(&self.curve_public);
        public
    }

    /// `Decap(enc, skR)`. `None`: the encapsulated key is none.
    pub(crate) fn decapsulate(&self, enc: &[u8]) -> Option<SharedSecret> {
        match &self.ml_kem {
            None => self.decapsulate_dhkem(enc),
            Some(ml_kem) => self.decapsulate_x_wing(ml_kem, enc),
        }
    }

    /// RFC 9180 §4.1.
    fn decapsulate_dhkem(&self, enc: &[u8]) -> Option<SharedSecret> {
        let dh = self.diffie_hellman(enc)?;
        let prk = labeled_extract(self.kem, "eae_prk", &*dh);
        labeled_expand(self.kem, &prk, "shared_secret", &[enc, &self.curve_public])
    }

    /// draft-connolly-cfrg-xwing-kem §5.5.
    fn decapsulate_x_wing(
        &self,
        ml_kem: &ml_kem::ml_kem_768::DecapsulationKey,
        enc: &[u8],
    ) -> Option<SharedSecret> {
        let (ct_m, ct_x) = enc.split_at_checked(ML_KEM_CIPHERTEXT)?;
        let ct_m = ct_m.try_into().ok()?;
        let mut ss_m = Zeroizing::new([0; 32]);
        ss_m.copy_from_slice(&ml_kem.decapsulate(ct_m));
        let ss_x = self.diffie_hellman(ct_x)?;
        let mut combiner = Context::new(&SHA3_256);
        for part in [&*ss_m, &*ss_x, ct_x, &self.curve_public, X_WING_LABEL] {
            combiner.update(part);
        }
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(combiner.finish().as_ref());
        Some(secret)
    }

    /// Fails for what is no point of the curve or has a small order, as RFC 9180 §7.1.4 demands.
    fn diffie_hellman(&self, public: &[u8]) -> Option<SharedSecret> {
        let public = UnparsedPublicKey::new(curve(self.kem), public);
        agreement::agree(&self.curve, public, (), |shared| {
            shared.try_into().map(Zeroizing::new).map_err(|_| ())
        })
        .ok()
    }
}

fn suite_id(kem: Kem) -> [u8; 5] {
    let [high, low] = kem.id().to_be_bytes();
    [b'K', b'E', b'M', high, low]
}

/// RFC 9180 §4, with an empty salt.
fn labeled_extract(kem: Kem, label: &str, ikm: &[u8]) -> hkdf::Prk {
    let labeled = Zeroizing::new([VERSION, &suite_id(kem), label.as_bytes(), ikm].concat());
    hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&labeled)
}

fn labeled_expand(kem: Kem, prk: &hkdf::Prk, label: &str, info: &[&[u8]]) -> Option<SharedSecret> {
    let length = [0, 32];
    let suite = suite_id(kem);
    let mut labeled = vec![&length[..], VERSION, &suite, label.as_bytes()];
    labeled.extend_from_slice(info);
    let mut secret = Zeroizing::new([0; 32]);
    prk.expand(&labeled, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *secret))
        .ok()?;
    Some(secret)
}
