//! AES-256-GCM, the only AEAD at rest. RustCrypto's engine for small messages, AWS-LC's for large
//! ones: the second costs more to key and a fifth per byte (see `docs/performance.md`). Both give
//! the same bytes, which a test proves.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce, Tag};
use aws_lc_rs::aead as lc;

use crate::CryptoError;

/// Bytes of the authentication tag.
pub const TAG_LEN: usize = 16;

/// From this size on AWS-LC is the faster engine.
const LARGE: usize = 1024;

/// Encrypts `buffer` in place and appends the tag.
///
/// # Errors
/// [`CryptoError::Backend`] beyond AES-GCM's length limit.
pub fn seal(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], buffer: &mut Vec<u8>) -> Result<(), CryptoError> {
    if buffer.len() < LARGE {
        seal_small(key, nonce, aad, buffer)
    } else {
        seal_large(key, nonce, aad, buffer)
    }
}

/// Decrypts `buffer` in place and drops the tag; on failure the content is of no use.
///
/// # Errors
/// [`CryptoError::CannotOpen`] for a wrong key, nonce, AAD or changed bytes.
pub fn open(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], buffer: &mut Vec<u8>) -> Result<(), CryptoError> {
    if buffer.len() < LARGE {
        open_small(key, nonce, aad, buffer)
    } else {
        open_large(key, nonce, aad, buffer)
    }
}

fn seal_small(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], buffer: &mut Vec<u8>) -> Result<(), CryptoError> {
    let tag = Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key))
        .encrypt_inout_detached(&Nonce::from(nonce), aad, buffer.as_mut_slice().into())
        .map_err(|_| CryptoError::Backend)?;
    buffer.extend_from_slice(&tag);
    Ok(())
}

fn open_small(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], buffer: &mut Vec<u8>) -> Result<(), CryptoError> {
    let (body, tag) = buffer.split_last_chunk_mut::<TAG_LEN>().ok_or(CryptoError::CannotOpen)?;
    Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key))
        .decrypt_inout_detached(&Nonce::from(nonce), aad, body.into(), &Tag::from(*tag))
        .map_err(|_| CryptoError::CannotOpen)?;
    buffer.truncate(buffer.len().saturating_sub(TAG_LEN));
    Ok(())
}

fn large_key(key: &[u8; 32]) -> Result<lc::LessSafeKey, CryptoError> {
    lc::UnboundKey::new(&lc::AES_256_GCM, key)
        .map(lc::LessSafeKey::new)
        .map_err(|_| CryptoError::Backend)
}

fn seal_large(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], buffer: &mut Vec<u8>) -> Result<(), CryptoError> {
    large_key(key)?
        .seal_in_place_append_tag(lc::Nonce::assume_unique_for_key(nonce), lc::Aad::from(aad), buffer)
        .map_err(|_| CryptoError::Backend)
}

fn open_large(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], buffer: &mut Vec<u8>) -> Result<(), CryptoError> {
    let len = large_key(key)?
        .open_in_place(lc::Nonce::assume_unique_for_key(nonce), lc::Aad::from(aad), buffer)
        .map_err(|_| CryptoError::CannotOpen)?
        .len();
    buffer.truncate(len);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_engines_give_the_same_bytes_and_open_each_other(
            key: [u8; 32], nonce: [u8; 12], aad: Vec<u8>, plaintext: Vec<u8>,
        ) {
            let (mut small, mut large) = (plaintext.clone(), plaintext.clone());
            seal_small(&key, nonce, &aad, &mut small).unwrap();
            seal_large(&key, nonce, &aad, &mut large).unwrap();
            prop_assert_eq!(&small, &large);
            open_small(&key, nonce, &aad, &mut large).unwrap();
            open_large(&key, nonce, &aad, &mut small).unwrap();
            prop_assert_eq!(&small, &plaintext);
            prop_assert_eq!(&large, &plaintext);
        }
    }
}
