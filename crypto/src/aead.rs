//! AES-256-GCM, the only AEAD at rest. AWS-LC's engine: `make bench` shows it ahead of RustCrypto's
//! at every size. In browsers, which AWS-LC does not compile for, RustCrypto's. A test proves that
//! both give the same bytes.

#[cfg(not(target_arch = "wasm32"))]
mod aws_lc;
#[cfg(any(test, target_arch = "wasm32"))]
mod portable;

#[cfg(not(target_arch = "wasm32"))]
use aws_lc as engine;
#[cfg(target_arch = "wasm32")]
use portable as engine;

use crate::CryptoError;

/// Bytes of the authentication tag.
pub const TAG_LEN: usize = 16;

/// A key that is used often: expanded once.
pub struct Key(engine::Key);

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
        engine::Key::new(key).map(Self).ok_or(CryptoError::Backend)
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
        let tag = self.0.seal(nonce, aad, body).ok_or(CryptoError::Backend)?;
        buffer.extend_from_slice(&tag);
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
        let opened = self.0.open(nonce, aad, buffer);
        let length = opened.ok_or(CryptoError::CannotOpen)?;
        buffer.truncate(length);
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
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_engines_give_the_same_bytes_and_open_each_other(
            key: [u8; 32], nonce: [u8; 12], aad: Vec<u8>, plaintext: Vec<u8>,
        ) {
            let other = portable::Key::new(&key).unwrap();
            let mut sealed = plaintext.clone();
            seal(&key, nonce, &aad, &mut sealed).unwrap();
            let mut sealed_by_other = plaintext.clone();
            let tag = other.seal(nonce, &aad, &mut sealed_by_other).unwrap();
            sealed_by_other.extend_from_slice(&tag);
            prop_assert_eq!(&sealed, &sealed_by_other);
            let length = other.open(nonce, &aad, &mut sealed_by_other).unwrap();
            prop_assert_eq!(&sealed_by_other[..length], &plaintext[..]);
            sealed_by_other = sealed.clone();
            sealed_by_other[0] ^= 1;
            prop_assert!(other.open(nonce, &aad, &mut sealed_by_other).is_none());
            prop_assert!(other.open(nonce, &aad, &mut sealed[..3].to_vec()).is_none());
            open(&key, nonce, &aad, &mut sealed).unwrap();
            prop_assert_eq!(&sealed, &plaintext);
        }
    }
}
