//! What HPKE is made of, for `hpke-rs`.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hmac, rand};
use hpke_rs::hpke_types::{
    AeadAlgorithm, KdfAlgorithm, KemAlgorithm, SingleStageKdfAlgorithm, TwoStageKdfAlgorithm,
};
use hpke_rs::{Hpke, Mode};
use hpke_rs_crypto::error::Error;
use hpke_rs_crypto::{HpkeCrypto, TryCryptoRng, TryRng};

use super::{AeadKey, CurveKey, Prk, x_wing};
use crate::suite::{Aead, Kem, NONCE_LEN, TAG_LEN};

/// The context of a request. It wipes its keys on drop.
pub(crate) type HpkeContext = hpke_rs::Context<AwsLc>;

/// HPKE in base mode (RFC 9180 §5) with these algorithms.
pub(crate) fn hpke(kem: Kem, aead: Aead) -> Option<Hpke<AwsLc>> {
    let kdf = KdfAlgorithm::HkdfSha256;
    let aead = match aead {
        Aead::Aes128Gcm => AeadAlgorithm::Aes128Gcm,
        Aead::ChaCha20Poly1305 => AeadAlgorithm::ChaCha20Poly1305,
    };
    Some(Hpke::new_with_rng(
        Mode::Base,
        kem.algorithm(),
        kdf,
        aead,
        SystemRng,
    ))
}

#[derive(Debug)]
pub(crate) struct AwsLc;

/// The system's source of randomness.
pub(crate) struct SystemRng;

impl TryRng for SystemRng {
    type Error = Unspecified;

    fn try_next_u32(&mut self) -> Result<u32, Unspecified> {
        let mut bytes = [0; 4];
        rand::fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Unspecified> {
        let mut bytes = [0; 8];
        rand::fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Unspecified> {
        rand::fill(bytes)
    }
}

impl TryCryptoRng for SystemRng {}

fn curve_of(algorithm: KemAlgorithm) -> Result<Kem, Error> {
    match algorithm {
        KemAlgorithm::DhKem25519 => Ok(Kem::X25519),
        KemAlgorithm::DhKemP256 => Ok(Kem::P256),
        _ => Err(Error::UnknownKemAlgorithm),
    }
}

fn private_key(algorithm: KemAlgorithm, private: &[u8]) -> Result<CurveKey, Error> {
    CurveKey::new(curve_of(algorithm)?, private).ok_or(Error::KemInvalidSecretKey)
}

fn only_sha256(algorithm: TwoStageKdfAlgorithm) -> Result<(), Error> {
    match algorithm {
        TwoStageKdfAlgorithm::HkdfSha256 => Ok(()),
        _ => Err(Error::UnknownKdfAlgorithm),
    }
}

fn aead_key(algorithm: AeadAlgorithm, key: &[u8]) -> Result<AeadKey, Error> {
    let aead = match algorithm {
        AeadAlgorithm::Aes128Gcm => Aead::Aes128Gcm,
        AeadAlgorithm::ChaCha20Poly1305 => Aead::ChaCha20Poly1305,
        _ => return Err(Error::UnknownAeadAlgorithm),
    };
    AeadKey::new(aead, key).ok_or_else(refused)
}

fn refused() -> Error {
    Error::CryptoLibraryError("AWS-LC refuses".to_owned())
}

fn nonce(nonce: &[u8]) -> Result<[u8; NONCE_LEN], Error> {
    nonce.try_into().map_err(|_| Error::AeadInvalidNonce)
}

impl HpkeCrypto for AwsLc {
    type HpkePrng = SystemRng;

    fn name() -> String {
        "AWS-LC".to_owned()
    }

    fn supports_kdf(algorithm: KdfAlgorithm) -> Result<(), Error> {
        TwoStageKdfAlgorithm::try_from(algorithm).and_then(only_sha256)
    }

    fn supports_kem(algorithm: KemAlgorithm) -> Result<(), Error> {
        match algorithm {
            KemAlgorithm::XWingDraft06 => Ok(()),
            other => curve_of(other).map(|_| ()),
        }
    }

    fn supports_aead(algorithm: AeadAlgorithm) -> Result<(), Error> {
        match algorithm {
            AeadAlgorithm::Aes128Gcm | AeadAlgorithm::ChaCha20Poly1305 => Ok(()),
            _ => Err(Error::UnknownAeadAlgorithm),
        }
    }

    fn kdf_extract(
        algorithm: TwoStageKdfAlgorithm,
        salt: &[u8],
        ikm: &[u8],
    ) -> Result<Vec<u8>, Error> {
        only_sha256(algorithm)?;
        // RFC 5869 §2.2.
        let salt = hmac::Key::new(hmac::HMAC_SHA256, salt);
        Ok(hmac::sign(&salt, ikm).as_ref().to_vec())
    }

    fn kdf_expand(
        algorithm: TwoStageKdfAlgorithm,
        prk: &[u8],
        info: &[u8],
        output_size: usize,
    ) -> Result<Vec<u8>, Error> {
        only_sha256(algorithm)?;
        let mut output = vec![0; output_size];
        let expanded = Prk::of(prk).expand(&[info], &mut output);
        expanded.ok_or(Error::HpkeInvalidOutputLength)?;
        Ok(output)
    }

    fn kdf_derive(_: SingleStageKdfAlgorithm, _: &[u8], _: usize) -> Result<Vec<u8>, Error> {
        Err(Error::UnknownKdfAlgorithm)
    }

    fn dh(algorithm: KemAlgorithm, public: &[u8], private: &[u8]) -> Result<Vec<u8>, Error> {
        private_key(algorithm, private)?
            .agree(public)
            .map(|shared| shared.to_vec())
            .ok_or(Error::KemInvalidPublicKey)
    }

    fn secret_to_public(algorithm: KemAlgorithm, private: &[u8]) -> Result<Vec<u8>, Error> {
        private_key(algorithm, private)?
            .public()
            .ok_or(Error::KemInvalidSecretKey)
    }

    fn dh_validate_sk(algorithm: KemAlgorithm, private: &[u8]) -> Result<Vec<u8>, Error> {
        private_key(algorithm, private).map(|_| private.to_vec())
    }

    /// Only [`crate::Key`] has private keys that last.
    fn kem_key_gen(_: KemAlgorithm, _: &mut SystemRng) -> Result<(Vec<u8>, Vec<u8>), Error> {
        Err(Error::UnsupportedKemOperation)
    }

    fn kem_key_gen_derand(_: KemAlgorithm, _: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
        Err(Error::UnsupportedKemOperation)
    }

    fn kem_encaps(
        algorithm: KemAlgorithm,
        public: &[u8],
        _: &mut SystemRng,
    ) -> Result<(Vec<u8>, Vec<u8>), Error> {
        match algorithm {
            KemAlgorithm::XWingDraft06 => x_wing::encapsulate(public)
                .map(|(secret, enc)| (secret.to_vec(), enc))
                .ok_or(Error::KemInvalidPublicKey),
            _ => Err(Error::UnknownKemAlgorithm),
        }
    }

    /// AWS-LC draws by itself.
    fn kem_encaps_derand(_: KemAlgorithm, _: &[u8], _: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
        Err(Error::UnsupportedKemOperation)
    }

    /// A private key as bytes would be expanded anew for each request:
    /// [`PrivateKey`](crate::kem::PrivateKey) is not.
    fn kem_decaps(_: KemAlgorithm, _: &[u8], _: &[u8]) -> Result<Vec<u8>, Error> {
        Err(Error::UnsupportedKemOperation)
    }

    fn aead_seal(
        algorithm: AeadAlgorithm,
        key: &[u8],
        iv: &[u8],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let key = aead_key(algorithm, key)?;
        let mut sealed = Vec::with_capacity(plaintext.len().saturating_add(TAG_LEN));
        sealed.extend_from_slice(plaintext);
        let tag = key.seal(nonce(iv)?, aad, &mut sealed);
        sealed.extend_from_slice(&tag.ok_or_else(refused)?);
        Ok(sealed)
    }

    fn aead_open(
        algorithm: AeadAlgorithm,
        key: &[u8],
        iv: &[u8],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let key = aead_key(algorithm, key)?;
        let mut opened = sealed.to_vec();
        let done = key.open(nonce(iv)?, aad, &mut opened);
        done.ok_or(Error::AeadOpenError)?;
        Ok(opened)
    }
}
