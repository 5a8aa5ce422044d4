//! The KEMs: DHKEM(X25519, HKDF-SHA256) and DHKEM(P-256, HKDF-SHA256) of RFC 9180,
//! and X-Wing (draft-connolly-cfrg-xwing-kem, as draft-ietf-hpke-pq uses it).
//!
//! What depends on the key alone is computed once, when it is derived: its public key, and for
//! X-Wing the expanded ML-KEM key. The generic libraries do that again for every request, and it is
//! most of their cost (docs/performance.md).

use shake::Shake256;
use shake::digest::{ExtendableOutput, Update, XofReader};
use zeroize::Zeroizing;

use crate::engine::{CurveKey, Prk, XWingKey};
use crate::error::KeyError;
use crate::suite::{Kem, SharedSecret};

/// RFC 9180 §4.
const VERSION: &[u8] = b"HPKE-v1";

pub(crate) struct PrivateKey {
    kem: Kem,
    key: Parts,
}

enum Parts {
    Curve { private: CurveKey, public: Vec<u8> },
    XWing(XWingKey),
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
                let key = XWingKey::expand(&seed).ok_or(KeyError::Backend)?;
                let key = Parts::XWing(key);
                Ok(Self { kem, key })
            }
        }
    }

    pub(crate) fn of_curve(kem: Kem, private: &[u8; 32]) -> Result<Self, KeyError> {
        let private = CurveKey::new(kem, private).ok_or(KeyError::Backend)?;
        let public = private.public().ok_or(KeyError::Backend)?;
        let key = Parts::Curve { private, public };
        Ok(Self { kem, key })
    }

    pub(crate) fn kem(&self) -> Kem {
        self.kem
    }

    /// Npk bytes.
    pub(crate) fn public(&self) -> &[u8] {
        match &self.key {
            Parts::Curve { public, .. } => public,
            Parts::XWing(key) => key.public(),
        }
    }

    /// `Decap(enc, skR)`. `None`: the encapsulated key is none.
    pub(crate) fn decapsulate(&self, enc: &[u8]) -> Option<SharedSecret> {
        match &self.key {
            Parts::Curve { private, public } => {
                // RFC 9180 §4.1.
                let dh = private.agree(enc)?;
                let prk = labeled_extract(self.kem, "eae_prk", &*dh);
                labeled_expand(self.kem, &prk, "shared_secret", &[enc, public])
            }
            Parts::XWing(key) => key.decapsulate(enc),
        }
    }
}

fn suite_id(kem: Kem) -> [u8; 5] {
    let [high, low] = kem.id().to_be_bytes();
    [b'K', b'E', b'M', high, low]
}

/// RFC 9180 §4, with an empty salt.
fn labeled_extract(kem: Kem, label: &str, ikm: &[u8]) -> Prk {
    let labeled = Zeroizing::new([VERSION, &suite_id(kem), label.as_bytes(), ikm].concat());
    Prk::extract(&[], &labeled)
}

fn labeled_expand(kem: Kem, prk: &Prk, label: &str, info: &[&[u8]]) -> Option<SharedSecret> {
    let length = [0, 32];
    let suite = suite_id(kem);
    let mut labeled = vec![&length[..], VERSION, &suite, label.as_bytes()];
    labeled.extend_from_slice(info);
    let mut secret = Zeroizing::new([0; 32]);
    prk.expand(&labeled, &mut *secret)?;
    Some(secret)
}
