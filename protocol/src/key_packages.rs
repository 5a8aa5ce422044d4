//! Publishing and claiming KeyPackage sets.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::ids::LookupId;

/// Body of `PublishKeyPackages`, signed by the pool's owner key. The first publication binds the pool to it.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct PublishKeyPackagesRequest {
    /// `HKDF(connection token, "lookup")`.
    pub lookup: LookupId,
    /// Sets to add. A last-resort set replaces the one of the same ciphersuite.
    pub sets: Vec<KeyPackageSetUpload>,
}

/// One set: one user pseudonym, one KeyPackage for each of the user's clients, good for one group.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct KeyPackageSetUpload {
    /// MLS ciphersuite number.
    pub ciphersuite: u16,
    /// Last day (since the Unix epoch) on which it is handed out.
    pub expiry_day: u32,
    /// 1 if it is handed out when nothing else is left, and not consumed; else 0.
    pub last_resort: u8,
    /// [`KeyPackageSet`], sealed under `HKDF(connection token, "key")`.
    pub sealed: VLBytes,
}

/// Content of a sealed set.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct KeyPackageSet {
    /// MLS KeyPackages, one a client.
    pub key_packages: Vec<VLBytes>,
}

/// Body of `DeleteKeyPackages`, signed by the pool's owner key: a connection token that is withdrawn.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeleteKeyPackagesRequest {
    /// As published.
    pub lookup: LookupId,
}

/// Body of `CountKeyPackages`, signed by the pool's owner key.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CountKeyPackagesRequest {
    /// As published.
    pub lookup: LookupId,
}

/// What the pool can hand out today and later.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CountKeyPackagesResponse {
    /// By ciphersuite, kind and expiry day, in no order. Together at most [`MAX_COUNTED`] sets: a pool that
    /// holds more is counted no further.
    pub counts: Vec<KeyPackageCount>,
}

/// Sets of one ciphersuite and kind that expire on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct KeyPackageCount {
    /// MLS ciphersuite number.
    pub ciphersuite: u16,
    /// As published.
    pub expiry_day: u32,
    /// As published.
    pub last_resort: u8,
    /// How many.
    pub sets: u32,
}

/// Most sets that are counted.
pub const MAX_COUNTED: usize = 1024;

/// Body of `ClaimKeyPackages`. Costs one token for each claim.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ClaimKeyPackagesRequest {
    /// At most [`MAX_CLAIMS`].
    pub claims: Vec<Claim>,
}

/// Most claims in one request.
pub const MAX_CLAIMS: usize = 16;
/// Most sets in one publication.
pub const MAX_SETS: usize = 256;

/// One user's set.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Claim {
    /// `HKDF(connection token, "lookup")`.
    pub lookup: LookupId,
    /// MLS ciphersuite number.
    pub ciphersuite: u16,
}

/// Answers in the order of the claims.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ClaimKeyPackagesResponse {
    /// One for each claim.
    pub sets: Vec<ClaimedSet>,
}

/// A claimed set.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ClaimedSet {
    /// 1 if it is the last-resort set: its leaf must be updated at once.
    pub last_resort: u8,
    /// As published.
    pub sealed: VLBytes,
}
