//! The service's public directory (`GET /v1/directory`): JSON, the same for everybody.

use serde::{Deserialize, Serialize};

/// What a client must know of the service before its first request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Domain that qualifies pseudonyms.
    pub domain: String,
    /// Wire versions that are taken.
    pub wire_versions: Vec<u16>,
    /// MLS ciphersuites that are taken.
    pub ciphersuites: Vec<u16>,
    /// The key that queue references are sealed to.
    pub queue_service_key: QueueServiceKey,
    /// base64url of the service's MLS external sender signature key (Ed25519).
    pub external_sender_key: String,
    /// The same for groups whose ciphersuite signs with P-256 (an uncompressed point).
    #[serde(default)]
    pub external_sender_key_p256: String,
    /// base64url of the keys of both kinds before the last rotations, under which groups may still list the service.
    #[serde(default)]
    pub former_external_sender_keys: Vec<String>,
    /// Where tokens come from and which keys are accepted.
    pub issuer: AcceptedIssuer,
    /// Tokens that an operation costs.
    pub prices: Prices,
    /// Timestamps must be this close to the service's clock, milliseconds.
    pub clock_window_ms: u64,
    /// Largest request body, bytes.
    pub max_request_bytes: usize,
}

/// The queue service's HPKE key: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueServiceKey {
    /// First byte of every queue reference sealed to it.
    pub key_id: u8,
    /// base64url, 32 bytes.
    pub public_key: String,
}

/// The issuer that the service accepts tokens of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedIssuer {
    /// RFC 9577 issuer name.
    pub name: String,
    /// base64url of the TokenChallenge that tokens must answer.
    pub challenge: String,
    /// base64url of the SHA-256 of each accepted token key (SPKI): compare with the issuer's own directory.
    pub token_key_ids: Vec<String>,
}

/// Tokens that an operation costs; 0 is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// `ReserveGroupId`.
    pub reserve_group_id: u8,
    /// `PublishKeyPackages`.
    pub publish_key_packages: u8,
    /// `ClaimKeyPackages`, for each claim.
    pub claim_key_package: u8,
    /// `RegisterHandle`.
    pub register_handle: u8,
    /// `LookupHandle`.
    pub lookup_handle: u8,
    /// `RequestConnection`.
    pub request_connection: u8,
    /// `CreateQueue`.
    pub create_queue: u8,
    /// `JoinConnection`.
    pub external_join: u8,
}
