//! Against the draft's examples, and against the portable implementation in both directions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use hpke_rs::hpke_types::KemAlgorithm::XWingDraft06;
use hpke_rs::rustcrypto::HpkeRustCrypto as Portable;
use hpke_rs_crypto::{HpkeCrypto as _, HpkeDefaultPrng as _};
use ml_kem::EncapsulationKey768;
use proptest::prelude::*;

use super::*;

/// draft-connolly-cfrg-xwing-kem-10, appendix C.
fn examples() -> Vec<[Vec<u8>; 5]> {
    let examples = include_str!("../../../tests/vectors/x_wing.json");
    let examples: serde_json::Value = serde_json::from_str(examples).unwrap();
    let examples = examples.as_array().unwrap().iter().map(|example| {
        ["seed", "eseed", "pk", "ct", "ss"]
            .map(|member| basis::hex::decode(example[member].as_str().unwrap()).unwrap())
    });
    examples.collect()
}

fn key(seed: &[u8]) -> PrivateKey {
    PrivateKey::expand(seed.try_into().unwrap()).unwrap()
}

#[test]
fn the_examples_of_the_draft_are_expanded_and_decapsulated() {
    let examples = examples();
    assert_eq!(examples.len(), 3);
    for [seed, _, public, enc, secret] in examples {
        let key = key(&seed);
        assert_eq!(key.public(), public);
        assert_eq!(key.decapsulate(&enc).unwrap().to_vec(), secret);
    }
}

/// AWS-LC draws the randomness of ML-KEM itself: its half comes from the portable crate here.
#[test]
fn with_the_randomness_of_the_draft_an_encapsulation_is_its_example() {
    for [_, randomness, public, enc, secret] in examples() {
        let (m, ephemeral) = randomness.split_at(32);
        let pk_m = public[..ML_KEM_PUBLIC].try_into().unwrap();
        let pk_m = EncapsulationKey768::new(&pk_m).unwrap();
        let m = m.try_into().unwrap();
        let (ct_m, ss_m) = pk_m.encapsulate_deterministic(&m);
        let ephemeral = CurveKey::new(Kem::X25519, ephemeral).unwrap();
        let made = finish((&ct_m, &ss_m), &ephemeral, &public[ML_KEM_PUBLIC..]).unwrap();
        assert_eq!((made.0.to_vec(), made.1), (secret, enc));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_seed_is_the_same_key_to_the_portable_implementation(seed: [u8; SEED]) {
        let (public, _) = Portable::kem_key_gen_derand(XWingDraft06, &seed).unwrap();
        prop_assert_eq!(key(&seed).public().to_vec(), public);
    }

    #[test]
    fn what_is_encapsulated_here_is_decapsulated_there_and_what_is_there_here(seed: [u8; SEED]) {
        let key = key(&seed);
        let (secret, enc) = encapsulate(key.public()).unwrap();
        let there = Portable::kem_decaps(XWingDraft06, &enc, &seed).unwrap();
        prop_assert_eq!(&secret.to_vec(), &there);
        prop_assert_eq!(&key.decapsulate(&enc).unwrap().to_vec(), &there);

        let mut rng = Portable::try_prng().unwrap();
        let (secret, enc) = Portable::kem_encaps(XWingDraft06, key.public(), &mut rng).unwrap();
        prop_assert_eq!(key.decapsulate(&enc).unwrap().to_vec(), secret);
    }

    /// ML-KEM answers a changed ciphertext with a secret that follows from the key's own part
    /// (FIPS 203, algorithm 18), which must be the same part.
    #[test]
    fn both_derive_the_same_from_an_encapsulated_key_that_was_changed(
        seed: [u8; SEED], at in 0..ML_KEM_CIPHERTEXT + X25519_LEN, bit in 0u8..8,
    ) {
        let key = key(&seed);
        let (secret, mut enc) = encapsulate(key.public()).unwrap();
        enc[at] ^= 1 << bit;
        let here = key.decapsulate(&enc).unwrap().to_vec();
        prop_assert_ne!(&here, &secret.to_vec());
        prop_assert_eq!(here, Portable::kem_decaps(XWingDraft06, &enc, &seed).unwrap());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1400)) {
        if bytes.len() != ML_KEM_CIPHERTEXT + X25519_LEN {
            prop_assert!(key(&[1; SEED]).decapsulate(&bytes).is_none());
        }
        let _ = encapsulate(&bytes);
    }
}

/// FIPS 203 §7.2: what is no reduced number is not encapsulated to.
#[test]
fn a_public_key_that_is_none_is_refused_in_either_half() {
    let public = key(&[1; SEED]).public().to_vec();
    let mut changed = public.clone();
    changed[..3].fill(0xff);
    assert!(encapsulate(&changed).is_none());
    let mut changed = public.clone();
    changed[ML_KEM_PUBLIC..].fill(0);
    assert!(encapsulate(&changed).is_none());
    assert!(encapsulate(&public).is_some());
}
