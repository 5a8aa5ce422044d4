//! What can go wrong, and whose fault it is.

/// Bytes of the peer could not be opened. Which part of them was wrong is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The request names a key or a suite that we don't have.
    #[error("no key for this request")]
    UnknownKey,
    /// The outer stream ended before the final chunk did: broken off, or cut by somebody.
    #[error("the message is truncated")]
    Truncated,
    /// A chunk is longer than [`crate::chunked::MAX_CHUNK_LEN`] allows.
    #[error("a chunk is too long")]
    ChunkTooLong,
    /// Not sealed to our key, changed, out of order, or an empty chunk that is not the final one.
    #[error("the message cannot be opened")]
    CannotOpen,
    /// More bytes or chunks than one key may protect, or than we take.
    #[error("the message is too long")]
    Exhausted,
}

/// Our own plaintext could not be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// More bytes or chunks than one key may protect: the message cannot go on.
    #[error("the message is too long")]
    Exhausted,
    /// The public key of the gateway is not a valid one.
    #[error("the public key is invalid")]
    InvalidKey,
    /// The cryptographic library or the source of randomness failed.
    #[error("the cryptographic library failed")]
    Backend,
}

/// A key could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A seed is shorter than [`crate::MIN_SEED_LEN`].
    #[error("the seed is too short")]
    ShortSeed,
    /// A public key has not the length that its KEM wants.
    #[error("the public key has the wrong length")]
    Length,
    /// The cryptographic library refused.
    #[error("the cryptographic library failed")]
    Backend,
}
