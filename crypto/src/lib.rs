//! The cryptography that the delivery service and its clients share.
//!
//! Secrets have one type ([`secret::Secret`]) and a role each ([`keys`]); everything at rest is
//! sealed by [`sealing`], bound to its place; rows are named by [`rows`]; journals are sealed by
//! [`journal`] and long content by [`blob`]; who is who stays between members through
//! [`credential`].

pub mod aead;
pub mod blob;
pub mod connection;
pub mod credential;
pub mod feed;
pub mod hpke;
pub mod journal;
pub mod kdf;
pub mod keys;
pub mod leaf_authorization;
pub mod records;
pub mod reporting;
pub mod rows;
pub mod safety_number;
pub mod schedule;
pub mod sealing;
pub mod secret;
pub mod service_keys;
pub mod sign;

/// Why a cryptographic operation failed. Never says which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// Wrong key, wrong place, or changed bytes: one and the same.
    #[error("cannot be opened")]
    CannotOpen,
    /// Of a version that this release does not read.
    #[error("unknown format version")]
    UnknownVersion,
    /// Not a key of the expected kind.
    #[error("invalid key")]
    InvalidKey,
    /// The signature does not verify.
    #[error("invalid signature")]
    InvalidSignature,
    /// Too long to be sealed.
    #[error("too long")]
    TooLong,
    /// The operating system gave no randomness, or a primitive refused.
    #[error("cryptographic back end failed")]
    Backend,
}

/// Fills an array with randomness of the operating system.
///
/// # Errors
/// [`CryptoError::Backend`] if there is none.
pub fn random<const N: usize>() -> Result<[u8; N], CryptoError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| CryptoError::Backend)?;
    Ok(bytes)
}
