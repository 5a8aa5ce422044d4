//! Both engines give the same bytes.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{aws_lc, portable};
use crate::suite::{Aead, Kem};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_seal_to_the_same_bytes_and_open_each_other(
        key: [u8; 32], nonce: [u8; 12], aad: Vec<u8>, plaintext: Vec<u8>,
    ) {
        for aead in Aead::ALL {
            let key = &key[..aead.key_len()];
            let here = aws_lc::AeadKey::new(aead, key).unwrap();
            let there = portable::AeadKey::new(aead, key).unwrap();
            let (mut one, mut other) = (plaintext.clone(), plaintext.clone());
            let tag = here.seal(nonce, &aad, &mut one).unwrap();
            prop_assert_eq!(there.seal(nonce, &aad, &mut other).unwrap(), tag);
            prop_assert_eq!(&one, &other);
            one.extend_from_slice(&tag);
            let (mut one, mut other) = (one.clone(), one);
            here.open(nonce, &aad, &mut one).unwrap();
            there.open(nonce, &aad, &mut other).unwrap();
            prop_assert_eq!((&one, &other), (&plaintext, &plaintext));
            prop_assert!(here.open(nonce, &aad, &mut vec![0; 40]).is_none());
            prop_assert!(there.open(nonce, &aad, &mut vec![0; 40]).is_none());
            prop_assert!(there.open(nonce, &aad, &mut vec![0; 4]).is_none());
        }
    }

    #[test]
    fn both_derive_the_same(salt: Vec<u8>, secret: Vec<u8>, info: [Vec<u8>; 2], length in 0usize..9000) {
        let info: Vec<&[u8]> = info.iter().map(Vec::as_slice).collect();
        let (mut one, mut other) = (vec![0; length], vec![0; length]);
        let here = aws_lc::Prk::extract(&salt, &secret).expand(&info, &mut one);
        let there = portable::Prk::extract(&salt, &secret).expand(&info, &mut other);
        prop_assert_eq!(here.is_some(), length <= 255 * 32);
        prop_assert_eq!((here, one), (there, other));
    }

    #[test]
    fn both_agree_on_the_same_secret_over_a_curve(mine: [u8; 32], yours: [u8; 32]) {
        for kem in [Kem::X25519, Kem::P256] {
            let here = aws_lc::CurveKey::new(kem, &mine);
            let there = portable::CurveKey::new(kem, &yours);
            prop_assume!(here.is_some() && there.is_some());
            let (here, there) = (here.unwrap(), there.unwrap());
            let secret = here.agree(&there.public().unwrap()).unwrap();
            prop_assert_eq!(secret, there.agree(&here.public().unwrap()).unwrap());
            for public in [vec![0; 32], vec![0; 65], vec![4; 65], Vec::new()] {
                prop_assert!(here.agree(&public).is_none());
                prop_assert!(there.agree(&public).is_none());
            }
        }
    }

    #[test]
    fn both_make_the_same_key_of_x_wing_and_open_with_it(seed: [u8; 32], info: Vec<u8>) {
        let here = aws_lc::XWingKey::expand(&seed).unwrap();
        let there = portable::XWingKey::expand(&seed).unwrap();
        prop_assert_eq!(here.public(), there.public());
        let public = hpke_rs::HpkePublicKey::new(here.public().to_vec());
        let aead = Aead::Aes128Gcm;
        // What a browser seals, and what other clients do.
        let mut portable = portable::hpke(Kem::XWing, aead).unwrap();
        let (enc, mut sender) = portable.setup_sender(&public, &info, None, None, None).unwrap();
        let secret = here.decapsulate(&enc).unwrap();
        prop_assert_eq!(&secret, &there.decapsulate(&enc).unwrap());
        let sealed = sender.seal(b"", b"request").unwrap();
        let receiver = aws_lc::hpke(Kem::XWing, aead).unwrap();
        let mut receiver = receiver.key_schedule(&*secret, &info, &[], &[]).unwrap();
        prop_assert_eq!(receiver.open(b"", &sealed).unwrap(), b"request");
        let mut ours = aws_lc::hpke(Kem::XWing, aead).unwrap();
        let (enc, _) = ours.setup_sender(&public, &info, None, None, None).unwrap();
        prop_assert_eq!(here.decapsulate(&enc), there.decapsulate(&enc));
        prop_assert!(here.decapsulate(b"none").is_none());
        prop_assert!(there.decapsulate(b"none").is_none());
    }
}
