//! HPKE (RFC 9180) in base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.

use hpke_rs::hpke_types::{AeadAlgorithm, KdfAlgorithm, KemAlgorithm};
use hpke_rs::rustcrypto::HpkeRustCrypto;
use hpke_rs::{Hpke, HpkePrivateKey, HpkePublicKey, Mode};
use zeroize::Zeroizing;

use crate::CryptoError;
use crate::secret::Secret;

/// Length of a public key and of an encapsulated key.
pub const PUBLIC_KEY_LEN: usize = 32;

fn suite() -> Result<Hpke<HpkeRustCrypto>, CryptoError> {
    Hpke::try_new(
        Mode::Base,
        KemAlgorithm::DhKem25519,
        KdfAlgorithm::HkdfSha256,
        AeadAlgorithm::Aes256Gcm,
    )
    .map_err(|_| CryptoError::Backend)
}

/// An X25519 key pair for HPKE, made from a seed that can be stored.
pub struct HpkeKeyPair {
    private: HpkePrivateKey,
    public: [u8; PUBLIC_KEY_LEN],
}

impl std::fmt::Debug for HpkeKeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            private: _,
            public: _,
        } = self;
        f.write_str("HpkeKeyPair(..)")
    }
}

impl HpkeKeyPair {
    /// `DeriveKeyPair(seed)` (RFC 9180 §7.1.3).
    ///
    /// # Errors
    /// [`CryptoError::Backend`] if the library refuses.
    pub fn from_seed(seed: &Secret<32>) -> Result<Self, CryptoError> {
        let (private, public) = suite()?
            .derive_key_pair(seed.expose())
            .map_err(|_| CryptoError::Backend)?
            .into_keys();
        let public = public
            .as_slice()
            .try_into()
            .map_err(|_| CryptoError::Backend)?;
        Ok(Self { private, public })
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> [u8; PUBLIC_KEY_LEN] {
        self.public
    }
}

/// Encrypts to a public key: `enc(32) || ciphertext`.
///
/// # Errors
/// [`CryptoError::InvalidKey`] if the key is none.
pub fn seal(
    public_key: &[u8],
    info: &str,
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let (enc, ciphertext) = suite()?
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

/// Opens what [`seal`] made.
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
        .split_first_chunk::<PUBLIC_KEY_LEN>()
        .ok_or(CryptoError::CannotOpen)?;
    suite()?
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
    let room = size.saturating_sub(PUBLIC_KEY_LEN + TAG_LEN);
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

/// Encapsulates to a public key and exports a secret (RFC 9180 §6.2): `(enc, secret)`.
///
/// # Errors
/// [`CryptoError::InvalidKey`] if the key is none.
pub fn send_export(
    public_key: &[u8],
    info: &[u8],
    exporter_context: &str,
) -> Result<([u8; PUBLIC_KEY_LEN], Secret<32>), CryptoError> {
    let (enc, secret) = suite()?
        .send_export(
            &HpkePublicKey::new(public_key.to_vec()),
            info,
            None,
            None,
            None,
            exporter_context.as_bytes(),
            32,
        )
        .map_err(|_| CryptoError::InvalidKey)?;
    let secret = Zeroizing::new(secret);
    Ok((
        enc.as_slice()
            .try_into()
            .map_err(|_| CryptoError::Backend)?,
        Secret::new(
            secret
                .as_slice()
                .try_into()
                .map_err(|_| CryptoError::Backend)?,
        ),
    ))
}

/// The receiver's side of [`send_export`].
///
/// # Errors
/// [`CryptoError::CannotOpen`].
pub fn receive_export(
    key: &HpkeKeyPair,
    enc: &[u8; PUBLIC_KEY_LEN],
    info: &[u8],
    exporter_context: &str,
) -> Result<Secret<32>, CryptoError> {
    let secret = suite()?
        .receiver_export(
            enc,
            &key.private,
            info,
            None,
            None,
            None,
            exporter_context.as_bytes(),
            32,
        )
        .map(Zeroizing::new)
        .map_err(|_| CryptoError::CannotOpen)?;
    secret
        .as_slice()
        .try_into()
        .map(Secret::new)
        .map_err(|_| CryptoError::Backend)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_to_a_key_opens_with_it_under_the_same_info_and_aad() {
        let key = HpkeKeyPair::from_seed(&Secret::new([3; 32])).unwrap();
        let sealed = seal(&key.public(), "info", b"aad", b"text").unwrap();
        assert_eq!(&*open(&key, "info", b"aad", &sealed).unwrap(), b"text");
        assert!(open(&key, "other", b"aad", &sealed).is_err());
        assert!(open(&key, "info", b"other", &sealed).is_err());
        assert!(open(&key, "info", b"aad", &[]).is_err());
        assert!(seal(&[], "info", b"aad", b"text").is_err());
    }

    #[test]
    fn content_of_each_length_that_has_room_is_sealed_in_one_size() {
        let key = HpkeKeyPair::from_seed(&Secret::new([3; 32])).unwrap();
        let room = 256 - PUBLIC_KEY_LEN - TAG_LEN - 2;
        for len in [0, 1, 100, room] {
            let sealed = seal_in(256, &key.public(), "info", b"aad", &vec![7; len]).unwrap();
            assert_eq!(sealed.len(), 256);
            let opened = open_padded(&key, "info", b"aad", &sealed).unwrap();
            assert_eq!(*opened, vec![7; len]);
            assert!(open_padded(&key, "info", b"other", &sealed).is_err());
        }
        let beyond = vec![7; room + 1];
        assert!(matches!(
            seal_in(256, &key.public(), "info", b"aad", &beyond),
            Err(CryptoError::TooLong)
        ));
        // Somebody may seal a length beyond the content, or nothing at all.
        for content in [&[][..], &[0], &[0, 2, 1]] {
            let sealed = seal(&key.public(), "info", b"aad", content).unwrap();
            assert!(open_padded(&key, "info", b"aad", &sealed).is_err());
        }
    }

    #[test]
    fn both_sides_export_the_same_secret() {
        let key = HpkeKeyPair::from_seed(&Secret::new([3; 32])).unwrap();
        let (enc, secret) = send_export(&key.public(), b"info", "context").unwrap();
        assert_eq!(
            receive_export(&key, &enc, b"info", "context").unwrap(),
            secret
        );
        assert_ne!(
            receive_export(&key, &enc, b"other", "context").unwrap(),
            secret
        );
    }
}
