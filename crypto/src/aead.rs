//! AES-256-GCM, the only AEAD at rest. AWS-LC's engine: `make bench` shows it ahead of RustCrypto's at
//! every size. A test proves that both give the same bytes.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::CryptoError;

/// Bytes of the authentication tag.
pub const TAG_LEN: usize = 16;

/// Encrypts `buffer` in place and appends the tag.
///
/// # Errors
/// [`CryptoError::Backend`] beyond AES-GCM's length limit.
pub fn seal(
    key: &[u8; 32],
    nonce: [u8; 12],
    aad: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<(), CryptoError> {
    keyed(key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), buffer)
        .map_err(|_| CryptoError::Backend)
}

/// Decrypts `buffer` in place and drops the tag; on failure the content is of no use.
///
/// # Errors
/// [`CryptoError::CannotOpen`] for a wrong key, nonce, AAD or changed bytes.
pub fn open(
    key: &[u8; 32],
    nonce: [u8; 12],
    aad: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<(), CryptoError> {
    let len = keyed(key)?
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), buffer)
        .map_err(|_| CryptoError::CannotOpen)?
        .len();
    buffer.truncate(len);
    Ok(())
}

fn keyed(key: &[u8; 32]) -> Result<LessSafeKey, CryptoError> {
    UnboundKey::new(&AES_256_GCM, key)
        .map(LessSafeKey::new)
        .map_err(|_| CryptoError::Backend)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
    use aes_gcm::{Aes256Gcm, Key, Nonce as OtherNonce};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_engines_give_the_same_bytes_and_open_each_other(
            key: [u8; 32], nonce: [u8; 12], aad: Vec<u8>, plaintext: Vec<u8>,
        ) {
            let other = Aes256Gcm::new(&Key::<Aes256Gcm>::from(key));
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
