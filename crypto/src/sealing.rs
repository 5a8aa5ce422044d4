//! Sealing at rest: padded, committed to its key, bound to its place.
//!
//! ```text
//! sealed = version(1) || salt(32) || commitment(32) || AES-256-GCM(key, nonce = 0, aad, padded)
//! key || commitment = HKDF-SHA256(secret, salt, "sealed part" || aad)
//! padded = length(4) || plaintext || zeros, to a Padmé size
//! aad = table<V> || row<V> || part<V> || version(1)
//! ```
//!
//! The key is fresh with every write (32 bytes of salt), so there is no nonce to keep count of. The
//! commitment makes a wrong key known before anything is decrypted, at a cost that does not depend
//! on the size, and no ciphertext opens under two keys. Since the row (the group id) goes into the
//! derivation, the same key commits differently in every group.

use protocol::padding::padme;
use subtle::ConstantTimeEq;
use tls_codec::{Serialize, VLBytes};
use zeroize::{Zeroize, Zeroizing};

use crate::{CryptoError, aead, kdf, random};

/// The format that is written.
pub const FORMAT_VERSION: u8 = 1;

/// Length of the salt.
pub const SALT: usize = 32;
const COMMITMENT: usize = 32;
const HEADER: usize = 1 + SALT + COMMITMENT;
const LENGTH: usize = 4;

/// Where a sealed blob belongs; it opens nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Table of the store.
    pub table: &'static str,
    /// The name of the row's subject, e.g. the group id.
    pub row: &'a [u8],
    /// Part of the row.
    pub part: &'static str,
}

impl Place<'_> {
    fn aad(&self, version: u8) -> Vec<u8> {
        let mut aad = Vec::with_capacity(64);
        for field in [self.table.as_bytes(), self.row, self.part.as_bytes()] {
            // Writing into a Vec does not fail for these lengths.
            let _ = VLBytes::new(field.to_vec()).tls_serialize(&mut aad);
        }
        aad.push(version);
        aad
    }
}

/// Seals `plaintext` under `secret` for `place`.
///
/// # Errors
/// [`CryptoError::TooLong`] beyond 2^32 bytes, [`CryptoError::Backend`] without randomness.
pub fn seal(secret: &[u8; 32], place: Place<'_>, plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
    seal_salted(secret, random()?, place, plaintext)
}

/// As [`seal`], with a salt that was drawn before: never twice for one secret.
///
/// # Errors
/// [`CryptoError::TooLong`].
pub fn seal_salted(
    secret: &[u8; 32],
    salt: [u8; SALT],
    place: Place<'_>,
    plaintext: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let length = u32::try_from(plaintext.len()).map_err(|_| CryptoError::TooLong)?;
    let aad = place.aad(FORMAT_VERSION);
    let (key, commitment) = write_keys(secret, &salt, &aad);

    let padded_len = padme(plaintext.len().saturating_add(LENGTH));
    // One allocation for header, body and tag: nothing secret is left behind by a growing Vec.
    let body_end = HEADER.saturating_add(padded_len);
    let mut sealed = Vec::with_capacity(body_end.saturating_add(aead::TAG_LEN));
    sealed.push(FORMAT_VERSION);
    sealed.extend_from_slice(&salt);
    sealed.extend_from_slice(&commitment);
    sealed.extend_from_slice(&length.to_be_bytes());
    sealed.extend_from_slice(plaintext);
    sealed.resize(body_end, 0);
    aead::Key::new(&key)?.seal_from(HEADER, [0; 12], &aad, &mut sealed)?;
    Ok(sealed)
}

/// Opens what [`seal`] sealed for the same place.
///
/// # Errors
/// [`CryptoError::CannotOpen`] for a wrong key, another place or changed bytes;
/// [`CryptoError::UnknownVersion`] for a format of a later release.
pub fn open(
    secret: &[u8; 32],
    place: Place<'_>,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let (&version, rest) = sealed.split_first().ok_or(CryptoError::CannotOpen)?;
    if version != FORMAT_VERSION {
        return Err(CryptoError::UnknownVersion);
    }
    let (salt, rest) = rest
        .split_first_chunk::<SALT>()
        .ok_or(CryptoError::CannotOpen)?;
    let (commitment, body) = rest
        .split_first_chunk::<COMMITMENT>()
        .ok_or(CryptoError::CannotOpen)?;
    let aad = place.aad(version);
    let (key, expected) = write_keys(secret, salt, &aad);
    if !bool::from(expected.ct_eq(commitment)) {
        return Err(CryptoError::CannotOpen);
    }
    let mut plaintext = Zeroizing::new(body.to_vec());
    aead::open(&key, [0; 12], &aad, &mut plaintext)?;
    let length = plaintext
        .first_chunk::<LENGTH>()
        .ok_or(CryptoError::CannotOpen)?;
    let length =
        usize::try_from(u32::from_be_bytes(*length)).map_err(|_| CryptoError::CannotOpen)?;
    if length > plaintext.len().saturating_sub(LENGTH) {
        return Err(CryptoError::CannotOpen);
    }
    plaintext.copy_within(LENGTH.., 0);
    plaintext.truncate(length);
    Ok(plaintext)
}

/// Does the work of an [`open`] with a wrong key, for rows that are not there: the time of an
/// answer then does not tell an unknown group from a wrong key.
pub fn open_absent(secret: &[u8; 32], place: Place<'_>) {
    let salt = [0; SALT];
    let (_, expected) = write_keys(secret, &salt, &place.aad(FORMAT_VERSION));
    let _ = std::hint::black_box(bool::from(expected.ct_eq(&salt)));
}

fn write_keys(
    secret: &[u8; 32],
    salt: &[u8; SALT],
    aad: &[u8],
) -> (Zeroizing<[u8; 32]>, [u8; COMMITMENT]) {
    let mut both: [u8; 64] = kdf::derive_salted(secret, salt, "sealed part", aad);
    let (mut key, mut commitment) = ([0; 32], [0; COMMITMENT]);
    let (key_half, commitment_half) = both.split_at(32);
    key.copy_from_slice(key_half);
    commitment.copy_from_slice(commitment_half);
    both.zeroize();
    (Zeroizing::new(key), commitment)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place<'static> = Place {
        table: "groups",
        row: b"group",
        part: "roster",
    };

    proptest! {
        #[test]
        fn what_was_sealed_opens_in_its_place_only(key: [u8; 32], plaintext: Vec<u8>) {
            let sealed = seal(&key, PLACE, &plaintext).unwrap();
            prop_assert_eq!(&*open(&key, PLACE, &sealed).unwrap(), &plaintext);
            for other in [
                Place { table: "heads", ..PLACE },
                Place { row: b"other", ..PLACE },
                Place { part: "tree", ..PLACE },
            ] {
                prop_assert_eq!(open(&key, other, &sealed).unwrap_err(), CryptoError::CannotOpen);
            }
        }

        #[test]
        fn any_changed_byte_is_noticed(key: [u8; 32], plaintext: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let mut sealed = seal(&key, PLACE, &plaintext).unwrap();
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(open(&key, PLACE, &sealed).is_err());
        }

        #[test]
        fn arbitrary_bytes_do_not_open(key: [u8; 32], bytes: Vec<u8>) {
            prop_assert!(open(&key, PLACE, &bytes).is_err());
        }

        #[test]
        fn lengths_within_a_padme_step_look_alike(len in 4096usize..5000) {
            let sealed = seal(&[1; 32], PLACE, &vec![7; len]).unwrap();
            prop_assert_eq!(sealed.len(), HEADER + padme(len + LENGTH) + aead::TAG_LEN);
        }
    }

    #[test]
    fn two_seals_of_the_same_share_nothing() {
        let (a, b) = (
            seal(&[1; 32], PLACE, b"x").unwrap(),
            seal(&[1; 32], PLACE, b"x").unwrap(),
        );
        assert_ne!(a[1..33], b[1..33]);
        assert_ne!(a[33..65], b[33..65]);
        assert_ne!(a[65..], b[65..]);
    }
}
