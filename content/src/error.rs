//! What is wrong with something that claims to be a message.

/// Why bytes are no message, or why a message cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// It is longer than [`MAX_LEN`](crate::MAX_LEN).
    #[error("longer than {} bytes", crate::MAX_LEN)]
    TooLong,
    /// It ends before it is complete.
    #[error("it ends too early")]
    Truncated,
    /// Something follows its end.
    #[error("bytes after its end")]
    TrailingBytes,
    /// Something else stands where the schema has a certain type, size or value.
    #[error("not what the schema says")]
    Schema,
    /// Another encoding of the same is the shortest one (RFC 8949 §4.2.1), or keys of a map are
    /// out of order or there twice.
    #[error("not in deterministic encoding")]
    NotDeterministic,
    /// A text that is not UTF-8.
    #[error("a text that is not UTF-8")]
    NotUtf8,
    /// Parts or extensions are nested more than [`MAX_DEPTH`](crate::MAX_DEPTH) levels deep.
    #[error("nested more than {} levels deep", crate::MAX_DEPTH)]
    TooDeep,
    /// It has more than [`MAX_PARTS`](crate::MAX_PARTS) parts.
    #[error("more than {} parts", crate::MAX_PARTS)]
    TooManyParts,
    /// A part of several has fewer than two.
    #[error("a part of several that has fewer than two")]
    TooFewParts,
    /// The topic is longer than [`MAX_TOPIC`](crate::MAX_TOPIC) bytes.
    #[error("a topic of more than {} bytes", crate::MAX_TOPIC)]
    TopicTooLong,
    /// More extensions, a longer key or a longer value than are taken.
    #[error("extensions of more than the allowed size")]
    ExtensionTooLong,
    /// A message id whose first octet names no hash algorithm that is known.
    #[error("a message id under an unknown hash algorithm")]
    UnknownHash,
    /// It is unknown how the parts of a part belong together.
    #[error("unknown semantics of several parts")]
    UnknownSemantics,
    /// A kind of part that is not known.
    #[error("an unknown cardinality of a part")]
    UnknownCardinality,
    /// A URI of more than 65535 bytes has no message id.
    #[error("a URI of more than 65535 bytes")]
    UriTooLong,
}
