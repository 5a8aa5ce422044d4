//! Identifiers on the wire. None of them ever stands in a URL, a log line or a metric label.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

macro_rules! fixed_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, TlsSize, TlsSerialize, TlsDeserializeBytes,
        )]
        pub struct $name(pub [u8; $len]);

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

fixed_id!(
    /// The MLS group id that the service hands out: 16 random bytes.
    GroupId, 16
);
fixed_id!(
    /// A queue of one client.
    QueueId, 16
);
fixed_id!(
    /// The public half of a secret: `HKDF(secret, "lookup")`. Names a KeyPackage pool, a join record
    /// or a recovery record without giving away the key that opens it.
    LookupId, 32
);
fixed_id!(
    /// One start of one delivery service process; part of an entry's name.
    Incarnation, 16
);

/// The name of one entry of a queue. The queue itself is implied by the request.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
pub struct EntryId {
    /// Days since the Unix epoch.
    pub day: u32,
    /// The process that wrote it.
    pub incarnation: Incarnation,
    /// Position in the stream (queue, incarnation, day); also the AEAD nonce.
    pub index: u32,
}
