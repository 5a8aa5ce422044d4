//! X-Wing (draft-connolly-cfrg-xwing-kem-10): ML-KEM-768 and X25519, both by AWS-LC.
//!
//! AWS-LC takes an expanded private key and makes none from a seed; `ml-kem` expands it, once for
//! each key.

use aws_lc_rs::digest::{Context, SHA3_256};
use aws_lc_rs::kem::{self, ML_KEM_768};
use ml_kem::{FromSeed as _, MlKem768};
use shake::Shake256;
use shake::digest::{ExtendableOutput as _, Update as _, XofReader as _};
use zeroize::Zeroizing;

use super::CurveKey;
use crate::suite::{Kem, SharedSecret};

/// Bytes of a seed, which is the private key.
pub(crate) const SEED: usize = 32;
const X25519_LEN: usize = 32;
/// FIPS 203, table 3.
const ML_KEM_CIPHERTEXT: usize = 1088;
const ML_KEM_PUBLIC: usize = 1184;
/// Where the public key is in an expanded private one (FIPS 203, algorithm 16).
const PUBLIC_IN_EXPANDED: std::ops::Range<usize> = 1152..1152 + ML_KEM_PUBLIC;
/// §5.3.
const LABEL: &[u8] = br"\.//^\";

pub(crate) struct PrivateKey {
    ml_kem: kem::DecapsulationKey,
    x25519: CurveKey,
    public: Vec<u8>,
}

impl PrivateKey {
    /// `expandDecapsulationKey` (§5.2). `None`: the library failed.
    pub(crate) fn expand(seed: &[u8; SEED]) -> Option<Self> {
        let mut xof = Shake256::default();
        xof.update(seed);
        let mut reader = xof.finalize_xof();
        let mut ml_kem_seed = Zeroizing::new([0; 64]);
        let mut x25519 = Zeroizing::new([0; X25519_LEN]);
        reader.read(&mut *ml_kem_seed);
        reader.read(&mut *x25519);
        let expanded = expand_ml_kem(ml_kem_seed);
        let x25519 = CurveKey::new(Kem::X25519, &*x25519)?;
        let mut public = expanded.get(PUBLIC_IN_EXPANDED)?.to_vec();
        public.extend_from_slice(&x25519.public()?);
        Some(Self {
            ml_kem: kem::DecapsulationKey::new(&ML_KEM_768, &expanded).ok()?,
            x25519,
            public,
        })
    }

    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }

    /// §5.5. `None`: the encapsulated key is none.
    pub(crate) fn decapsulate(&self, enc: &[u8]) -> Option<SharedSecret> {
        let (ct_m, ct_x) = enc.split_at_checked(ML_KEM_CIPHERTEXT)?;
        let ss_m = self.ml_kem.decapsulate(ct_m.into()).ok()?;
        let ss_x = self.x25519.agree(ct_x)?;
        let (_, pk_x) = self.public.split_at_checked(ML_KEM_PUBLIC)?;
        Some(combine(ss_m.as_ref(), &*ss_x, ct_x, pk_x))
    }
}

/// `ML-KEM-768.KeyGen_internal` (FIPS 203, algorithm 16).
#[expect(deprecated, reason = "AWS-LC reads no other form")]
fn expand_ml_kem(seed: Zeroizing<[u8; 64]>) -> Zeroizing<Vec<u8>> {
    use ml_kem::ExpandedKeyEncoding as _;
    let (key, _) = MlKem768::from_seed(&(*seed).into());
    Zeroizing::new(key.to_expanded_bytes().to_vec())
}

/// §5.4: the secret, and the encapsulated key. `None`: the public key is none, or there is no
/// randomness.
pub(crate) fn encapsulate(public: &[u8]) -> Option<(SharedSecret, Vec<u8>)> {
    let (pk_m, pk_x) = public.split_at_checked(ML_KEM_PUBLIC)?;
    let pk_m = kem::EncapsulationKey::new(&ML_KEM_768, pk_m).ok()?;
    let (ct_m, ss_m) = pk_m.encapsulate().ok()?;
    let ephemeral = CurveKey::generate(Kem::X25519)?;
    finish((ct_m.as_ref(), ss_m.as_ref()), &ephemeral, pk_x)
}

/// What follows ML-KEM's half.
fn finish(
    (ct_m, ss_m): (&[u8], &[u8]),
    ephemeral: &CurveKey,
    pk_x: &[u8],
) -> Option<(SharedSecret, Vec<u8>)> {
    let ct_x = ephemeral.public()?;
    let ss_x = ephemeral.agree(pk_x)?;
    let secret = combine(ss_m, &*ss_x, &ct_x, pk_x);
    Some((secret, [ct_m, &ct_x].concat()))
}

/// `Combiner` (§5.3).
fn combine(ss_m: &[u8], ss_x: &[u8], ct_x: &[u8], pk_x: &[u8]) -> SharedSecret {
    let mut combiner = Context::new(&SHA3_256);
    for part in [ss_m, ss_x, ct_x, pk_x, LABEL] {
        combiner.update(part);
    }
    let mut secret = Zeroizing::new([0; 32]);
    secret.copy_from_slice(combiner.finish().as_ref());
    secret
}

#[cfg(test)]
#[path = "x_wing_tests.rs"]
mod tests;
