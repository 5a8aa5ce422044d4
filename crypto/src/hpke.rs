//! HPKE (RFC 9180) in base mode, for all that is sealed to a public key outside of MLS:
//! HKDF-SHA256, AES-256-GCM, and [`Kem::XWing`] unless the ciphersuite of a group names another
//! one.

use hpke_rs::hpke_types::{AeadAlgorithm, KdfAlgorithm, KemAlgorithm};
use hpke_rs::rustcrypto::HpkeRustCrypto;
use hpke_rs::{Hpke, HpkePrivateKey, HpkePublicKey, Mode};
use zeroize::Zeroizing;

use crate::CryptoError;
use crate::secret::Secret;

/// How a secret is agreed on with the holder of a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kem {
    /// X-Wing (draft-connolly-cfrg-xwing-kem): X25519 and ML-KEM-768. What is recorded today opens
    /// for nobody who breaks only one of them later.
    XWing,
    /// DHKEM(X25519, HKDF-SHA256): a quantum computer breaks it.
    X25519,
    /// DHKEM(P-256, HKDF-SHA256): a quantum computer breaks it.
    P256,
}

impl Kem {
    /// That of an MLS ciphersuite of groups here.
    #[must_use]
    pub const fn of_ciphersuite(number: u16) -> Option<Self> {
        match number {
            0x0001 | 0x0003 => Some(Self::X25519),
            0x0002 => Some(Self::P256),
            0x004e | 0x004f => Some(Self::XWing),
            _ => None,
        }
    }

    /// Bytes of a public key.
    #[must_use]
    pub const fn public_key_len(self) -> usize {
        match self {
            Self::XWing => 1216,
            Self::X25519 => 32,
            Self::P256 => 65,
        }
    }

    /// Bytes of an encapsulated key.
    #[must_use]
    pub const fn encapsulated_key_len(self) -> usize {
        match self {
            Self::XWing => 1120,
            Self::X25519 => 32,
            Self::P256 => 65,
        }
    }

    fn suite(self) -> Result<Hpke<HpkeRustCrypto>, CryptoError> {
        let kem = match self {
            Self::XWing => KemAlgorithm::XWingDraft06,
            Self::X25519 => KemAlgorithm::DhKem25519,
            Self::P256 => KemAlgorithm::DhKemP256,
        };
        let (kdf, aead) = (KdfAlgorithm::HkdfSha256, AeadAlgorithm::Aes256Gcm);
        Hpke::try_new(Mode::Base, kem, kdf, aead).map_err(|_| CryptoError::Backend)
    }
}

/// A key pair, made from a seed that can be stored.
pub struct HpkeKeyPair {
    kem: Kem,
    private: HpkePrivateKey,
    public: Vec<u8>,
}

impl std::fmt::Debug for HpkeKeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kem: _,
            private: _,
            public: _,
        } = self;
        f.write_str("HpkeKeyPair(..)")
    }
}

impl HpkeKeyPair {
    /// Of X-Wing, from a seed.
    ///
    /// # Errors
    /// [`CryptoError::Backend`] if the library refuses.
    pub fn from_seed(seed: &Secret<32>) -> Result<Self, CryptoError> {
        Self::derive(Kem::XWing, seed)
    }

    /// `DeriveKeyPair(seed)` (RFC 9180 §7.1.3; draft-ietf-hpke-pq for X-Wing).
    ///
    /// # Errors
    /// [`CryptoError::Backend`] if the library refuses.
    pub fn derive(kem: Kem, seed: &Secret<32>) -> Result<Self, CryptoError> {
        let (private, public) = kem
            .suite()?
            .derive_key_pair(seed.expose())
            .map_err(|_| CryptoError::Backend)?
            .into_keys();
        let public = public.as_slice().to_vec();
        Ok(Self {
            kem,
            private,
            public,
        })
    }

    /// The public key, of [`Kem::public_key_len`] bytes.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }
}

/// Encrypts to a public key of X-Wing: `enc(1120) || ciphertext`.
///
/// # Errors
/// [`CryptoError::InvalidKey`] if the key is none, or one of another KEM.
pub fn seal(
    public_key: &[u8],
    info: &str,
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    seal_with(Kem::XWing, public_key, info, aad, plaintext)
}

/// Encrypts to a public key of a KEM: `enc || ciphertext`.
///
/// # Errors
/// [`CryptoError::InvalidKey`] if the key is none, or one of another KEM.
pub fn seal_with(
    kem: Kem,
    public_key: &[u8],
    info: &str,
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    if public_key.len() != kem.public_key_len() {
        return Err(CryptoError::InvalidKey);
    }
    let (enc, ciphertext) = kem
        .suite()?
        .seal(
            &HpkePublicKey::new(public_key.to_vec()),
            info.as_bytes(),
            aad,
            plaintext,
            None,
            None,
            None,
        )
        .map_err(|_| CryptoError::InvalidKey)?;
    Ok([enc, ciphertext].concat())
}

/// Opens what [`seal`] or [`seal_with`] made, by the KEM of the key.
///
/// # Errors
/// [`CryptoError::CannotOpen`].
pub fn open(
    key: &HpkeKeyPair,
    info: &str,
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let (enc, ciphertext) = sealed
        .split_at_checked(key.kem.encapsulated_key_len())
        .ok_or(CryptoError::CannotOpen)?;
    key.kem
        .suite()?
        .open(
            enc,
            &key.private,
            info.as_bytes(),
            aad,
            ciphertext,
            None,
            None,
            None,
        )
        .map(Zeroizing::new)
        .map_err(|_| CryptoError::CannotOpen)
}

/// The tag of AES-GCM.
const TAG_LEN: usize = 16;

/// Like [`seal`], but the result has exactly `size` bytes for any content. The plaintext is the
/// content's length (2 bytes), the content, then zeros.
///
/// # Errors
/// [`CryptoError::InvalidKey`] if the key is none; [`CryptoError::TooLong`] for content that has
/// no room.
pub fn seal_in(
    size: usize,
    public_key: &[u8],
    info: &str,
    aad: &[u8],
    content: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let room = size.saturating_sub(Kem::XWing.encapsulated_key_len() + TAG_LEN);
    let length = u16::try_from(content.len()).map_err(|_| CryptoError::TooLong)?;
    if content.len().saturating_add(2) > room {
        return Err(CryptoError::TooLong);
    }
    let mut padded = Zeroizing::new(Vec::with_capacity(room));
    padded.extend(length.to_be_bytes());
    padded.extend_from_slice(content);
    padded.resize(room, 0);
    seal(public_key, info, aad, &padded)
}

/// Opens what [`seal_in`] made.
///
/// # Errors
/// [`CryptoError::CannotOpen`].
pub fn open_padded(
    key: &HpkeKeyPair,
    info: &str,
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let padded = open(key, info, aad, sealed)?;
    let (length, rest) = padded
        .split_first_chunk::<2>()
        .ok_or(CryptoError::CannotOpen)?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
        .map(|content| Zeroizing::new(content.to_vec()))
        .ok_or(CryptoError::CannotOpen)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_to_a_key_opens_with_it_under_the_same_info_and_aad() {
        let key = HpkeKeyPair::from_seed(&Secret::new([3; 32])).unwrap();
        let sealed = seal(key.public(), "info", b"aad", b"text").unwrap();
        assert_eq!(&*open(&key, "info", b"aad", &sealed).unwrap(), b"text");
        assert!(open(&key, "other", b"aad", &sealed).is_err());
        assert!(open(&key, "info", b"other", &sealed).is_err());
        assert!(open(&key, "info", b"aad", &[]).is_err());
        assert!(seal(&[], "info", b"aad", b"text").is_err());
    }

    #[test]
    fn content_of_each_length_that_has_room_is_sealed_in_one_size() {
        let key = HpkeKeyPair::from_seed(&Secret::new([3; 32])).unwrap();
        let room = 2048 - Kem::XWing.encapsulated_key_len() - TAG_LEN - 2;
        for len in [0, 1, 100, room] {
            let sealed = seal_in(2048, key.public(), "info", b"aad", &vec![7; len]).unwrap();
            assert_eq!(sealed.len(), 2048);
            let opened = open_padded(&key, "info", b"aad", &sealed).unwrap();
            assert_eq!(*opened, vec![7; len]);
            assert!(open_padded(&key, "info", b"other", &sealed).is_err());
        }
        let beyond = vec![7; room + 1];
        assert!(matches!(
            seal_in(2048, key.public(), "info", b"aad", &beyond),
            Err(CryptoError::TooLong)
        ));
        // Somebody may seal a length beyond the content, or nothing at all.
        for content in [&[][..], &[0], &[0, 2, 1]] {
            let sealed = seal(key.public(), "info", b"aad", content).unwrap();
            assert!(open_padded(&key, "info", b"aad", &sealed).is_err());
        }
    }

    const SEALED_BY: [Kem; 3] = [Kem::XWing, Kem::X25519, Kem::P256];

    #[test]
    fn what_is_sealed_by_one_kem_opens_by_no_other() {
        for kem in SEALED_BY {
            let key = |kem| HpkeKeyPair::derive(kem, &Secret::new([3; 32])).unwrap();
            assert_eq!(key(kem).public().len(), kem.public_key_len());
            let sealed = seal_with(kem, key(kem).public(), "info", b"aad", b"text").unwrap();
            assert_eq!(sealed.len(), kem.encapsulated_key_len() + 4 + TAG_LEN);
            for other in SEALED_BY {
                let opened = open(&key(other), "info", b"aad", &sealed);
                let refused = seal_with(other, key(kem).public(), "info", b"aad", b"text");
                if other == kem {
                    assert_eq!(*opened.unwrap(), b"text");
                    assert!(refused.is_ok());
                } else {
                    assert_eq!(opened.unwrap_err(), CryptoError::CannotOpen);
                    assert_eq!(refused.unwrap_err(), CryptoError::InvalidKey);
                }
            }
        }
    }

    #[test]
    fn what_names_no_kem_is_sealed_to_keys_of_x_wing_only() {
        let seed = Secret::new([3; 32]);
        assert_eq!(HpkeKeyPair::from_seed(&seed).unwrap().kem, Kem::XWing);
        for kem in [Kem::X25519, Kem::P256] {
            let key = HpkeKeyPair::derive(kem, &seed).unwrap();
            let sealed = seal(key.public(), "info", b"aad", b"text");
            assert_eq!(sealed.unwrap_err(), CryptoError::InvalidKey);
            let padded = seal_in(4096, key.public(), "info", b"aad", b"text");
            assert_eq!(padded.unwrap_err(), CryptoError::InvalidKey);
        }
    }
}
