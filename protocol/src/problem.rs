//! Problem types (RFC 9457) that the delivery service answers with.

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident, $slug:literal, $status:literal, $title:literal;)+) => {
        /// A typed refusal. The `type` member of the problem document is [`ProblemType::uri`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ProblemType {
            $($(#[$doc])* $name,)+
        }

        impl ProblemType {
            /// Every type.
            pub const ALL: &'static [ProblemType] = &[$(ProblemType::$name,)+];

            /// The `type` URI: a name, not an address.
            #[must_use]
            pub const fn uri(self) -> &'static str {
                match self { $(ProblemType::$name => concat!("urn:mimi-ds:problem:", $slug),)+ }
            }

            /// The last part of the URI.
            #[must_use]
            pub const fn slug(self) -> &'static str {
                match self { $(ProblemType::$name => $slug,)+ }
            }

            /// The HTTP status that goes with the type.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(ProblemType::$name => $status,)+ }
            }

            /// The `title` member of the problem document (RFC 9457 §3.1.3).
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(ProblemType::$name => $title,)+ }
            }

            /// The type with this URI.
            #[must_use]
            pub fn from_uri(uri: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|p| p.uri() == uri)
            }
        }
    };
}

problems! {
    /// Truncated, trailing or otherwise wrong bytes.
    Malformed, "malformed", 400, "The request is malformed";
    /// `version` is not one we speak; member `supported` lists those.
    UnsupportedVersion, "unsupported-version", 400, "The wire version is not supported";
    /// Not `application/mimi-ds-request`.
    UnsupportedMediaType, "unsupported-media-type", 415, "The media type is not supported";
    /// The timestamp is too far from the service's clock; member `now_ms` is that clock.
    StaleTimestamp, "stale-timestamp", 400, "The timestamp is outside the accepted window";
    /// Absent or wrong signature, or the key is not the one that the operation names.
    BadSignature, "bad-signature", 403, "The signature is not valid for this request";
    /// Unknown group, deleted group and wrong state key are one and the same.
    UnknownGroup, "unknown-group", 404, "The group is unknown";
    /// The group id is not reserved for this key, or in use.
    InvalidGroupId, "invalid-group-id", 409, "The group id is not reserved for this key";
    /// Member `epoch` is the group's current epoch.
    WrongEpoch, "wrong-epoch", 409, "The epoch is not the group's current one";
    /// The request is of a later epoch than the service has: it has lost what it accepted. Member
    /// `epoch` is the one it has.
    ServiceBehind, "service-behind", 409, "The service has an earlier epoch of the group than the request";
    /// Not an MLS message that this operation takes.
    InvalidMessage, "invalid-message", 400, "The message is not of the kind that this operation takes";
    /// The commit, its proposals, path or AAD are not valid for the group.
    InvalidCommit, "invalid-commit", 400, "The commit is not valid";
    /// GroupInfo or tree do not verify.
    InvalidGroupInfo, "invalid-group-info", 400, "The GroupInfo is not valid";
    /// A leaf lacks what every leaf here has: a pseudonymous credential.
    InvalidLeaf, "invalid-leaf", 400, "A leaf is not valid here";
    /// The operation is not possible in a group of this kind, or not for this sender.
    NotAllowed, "not-allowed", 403, "The operation is not allowed";
    /// Proposals are pending that the commit must cover, or that must be committed before a message
    /// can be sent.
    PendingProposals, "pending-proposals", 409, "Pending proposals must be committed first";
    /// The group was re-initialised: nothing but reading is possible.
    GroupReinitialized, "group-reinitialized", 409, "The group was re-initialised";
    /// A commit that removes somebody must bring the next state key.
    RotationRequired, "rotation-required", 400, "A removal must rotate the state key";
    /// Ciphersuite that the service does not support.
    UnsupportedCiphersuite, "unsupported-ciphersuite", 400, "The ciphersuite is not supported";
    /// More of something than the documented bound.
    LimitExceeded, "limit-exceeded", 400, "A documented limit is exceeded";
    /// A token is needed: the `WWW-Authenticate` header has the challenge (RFC 9577 §2.1).
    TokenRequired, "token-required", 401, "A Privacy Pass token is required";
    /// A token was presented that is not valid, or already spent.
    TokenRejected, "token-rejected", 401, "The Privacy Pass token was not accepted";
    /// The allowance is used up; `Retry-After` says when, or bring a token.
    TooManyRequests, "too-many-requests", 429, "The allowance is used up";
    /// The join record or recovery record is not there, or has expired.
    UnknownRecord, "unknown-record", 404, "There is no such record";
    /// No KeyPackage set is left for one of the claims; nothing was claimed.
    NoKeyPackages, "no-key-packages", 404, "There is no KeyPackage set to claim";
    /// The pool belongs to another owner key.
    NotOwner, "not-owner", 403, "The key is not the owner's";
    /// No such handle.
    UnknownHandle, "unknown-handle", 404, "The handle is unknown";
    /// Somebody else has it.
    HandleTaken, "handle-taken", 409, "The handle is taken";
    /// Not a possible handle.
    InvalidHandle, "invalid-handle", 400, "The handle is not valid";
    /// No such segment, or its entries have all expired.
    UnknownSegment, "unknown-segment", 404, "The segment is unknown";
    /// No such inbox, or not owned by the signing key: one and the same.
    UnknownInbox, "unknown-inbox", 404, "The inbox is unknown";
    /// The inbox holds as many requests as it can.
    InboxFull, "inbox-full", 409, "The inbox is full";
    /// No such blob, or it has expired, or the secret is not its writer's.
    UnknownBlob, "unknown-blob", 404, "The blob is unknown";
    /// Chunks of it are missing: it cannot be read, or is not whole yet.
    BlobIncomplete, "blob-incomplete", 409, "The blob is not whole";
    /// It is whole, or that chunk is there with another content: nothing is written over.
    BlobComplete, "blob-complete", 409, "The blob cannot be written any more";
    /// A chunk that was there is lost or damaged.
    BlobDamaged, "blob-damaged", 410, "A chunk of the blob is damaged";
    /// There is no room for blobs now; `Retry-After` says when to come again.
    StorageFull, "storage-full", 507, "There is no room for blobs now";
    /// Something else changed the same thing at the same time; try again.
    Conflict, "conflict", 409, "A concurrent request was first";
    /// Not the gateway.
    GatewayOnly, "gateway-only", 401, "Requests are taken from the gateway only";
    /// Our fault.
    Internal, "internal", 500, "The service failed";
    /// We cannot answer now.
    Unavailable, "unavailable", 503, "The service is not available now";
}
