//! AES-256-GCM, the only AEAD at rest. AWS-LC's engine: `make bench` shows it ahead of RustCrypto's
//! at every size. A test proves that both give the same bytes.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::CryptoError;

/// Bytes of the authentication tag.
pub const TAG_LEN: usize = 16;

/// A key that is used often: expanded once.
pub struct Key(LessSafeKey);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(_) = self;
        f.write_str("Key(..)")
    }
}

impl Key {
    /// Expands a key.
    ///
    /// # Errors
    /// [`CryptoError::Backend`] without memory.
    pub fn new(key: &[u8; 32]) -> Result<Self, CryptoError> {
        UnboundKey::new(&AES_256_GCM, key)
            .map(LessSafeKey::new)
            .map(Self)
            .map_err(|_| CryptoError::Backend)
    }

    /// Encrypts `buffer` in place and appends the tag.
    ///
    /// # Errors
    /// [`CryptoError::Backend`] beyond AES-GCM's length limit.
    pub fn seal(
        &self,
        nonce: [u8; 12],
        aad: &[u8],
        buffer: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        self.seal_from(0, nonce, aad, buffer)
    }

    /// Like [`Key::seal`], but seals the bytes of `buffer` from `start` on. A header before them
    /// stays as it is.
    ///
    /// # Errors
    /// As [`Key::seal`].
    pub fn seal_from(
        &self,
        start: usize,
        nonce: [u8; 12],
        aad: &[u8],
        buffer: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        let body = buffer.get_mut(start..).ok_or(CryptoError::Backend)?;
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), body)
            .map_err(|_| CryptoError::Backend)?;
        buffer.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts `buffer` in place and drops the tag; on failure the content is of no use.
    ///
    /// # Errors
    /// [`CryptoError::CannotOpen`] for a wrong key, nonce, AAD or changed bytes.
    pub fn open(
        &self,
        nonce: [u8; 12],
        aad: &[u8],
        buffer: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        let len = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), buffer)
            .map_err(|_| CryptoError::CannotOpen)?
            .len();
        buffer.truncate(len);
        Ok(())
    }
}

/// [`Key::seal`] with a key that is used once.
///
/// # Errors
/// As [`Key::seal`].
pub fn seal(
    key: &[u8; 32],
    nonce: [u8; 12],
    aad: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<(), CryptoError> {
    Key::new(key)?.seal(nonce, aad, buffer)
}

/// [`Key::open`] with a key that is used once.
///
/// # Errors
/// As [`Key::open`].
pub fn open(
    key: &[u8; 32],
    nonce: [u8; 12],
    aad: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<(), CryptoError> {
    Key::new(key)?.open(nonce, aad, buffer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
    use aes_gcm::{Aes256Gcm, Key as OtherKey, Nonce as OtherNonce};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_engines_give_the_same_bytes_and_open_each_other(
            key: [u8; 32], nonce: [u8; 12], aad: Vec<u8>, plaintext: Vec<u8>,
        ) {
            let other = Aes256Gcm::new(&OtherKey::<Aes256Gcm>::from(key));
            let other_nonce = OtherNonce::from(nonce);
            let mut sealed = plaintext.clone();
            seal(&key, nonce, &aad, &mut sealed).unwrap();
            let sealed_by_other = other.encrypt(&other_nonce, Payload { msg: &plaintext, aad: &aad }).unwrap();
            prop_assert_eq!(&sealed, &sealed_by_other);
            prop_assert_eq!(&other.decrypt(&other_nonce, Payload { msg: &sealed, aad: &aad }).unwrap(), &plaintext);
            open(&key, nonce, &aad, &mut sealed).unwrap();
            prop_assert_eq!(&sealed, &plaintext);
        }
    }
}
