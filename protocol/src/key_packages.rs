//! Publishing and claiming KeyPackage sets. One pool for each contact or open request: none is
//! derived from another.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::ids::{PoolId, Week};

/// Body of `PublishKeyPackages`, signed by the pool's owner key. The first publication binds the
/// pool to it.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct PublishKeyPackagesRequest {
    /// The pool that the sets go into.
    pub pool: PoolId,
    /// Sets to add, at most [`MAX_SETS`].
    pub sets: Vec<KeyPackageSetUpload>,
}

/// One set: one user pseudonym, one KeyPackage for each of the user's clients, good for one group.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct KeyPackageSetUpload {
    /// MLS ciphersuite number.
    pub ciphersuite: u16,
    /// The last week in which it is handed out: a week before its leaves end.
    pub expiry: Week,
    /// [`KeyPackageSet`], sealed under `derive(connection token, "key package sets")`, padded to
    /// one size.
    pub sealed: VLBytes,
}

/// Content of a sealed set.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct KeyPackageSet {
    /// MLS `KeyPackage`s (no `MLSMessage`s), one a client.
    pub key_packages: Vec<VLBytes>,
}

/// Most sets in one publication.
pub const MAX_SETS: usize = 64;

/// Body of `DeleteKeyPackages`, signed by the pool's owner key: a connection token that is
/// withdrawn.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeleteKeyPackagesRequest {
    /// The pool that is deleted.
    pub pool: PoolId,
}

/// Body of `CountKeyPackages`, signed by the pool's owner key.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CountKeyPackagesRequest {
    /// The pool whose sets are counted.
    pub pool: PoolId,
}

/// The number of sets that the pool can hand out.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CountKeyPackagesResponse {
    /// By ciphersuite and expiry. Together at most [`MAX_POOL`] sets.
    pub counts: Vec<KeyPackageCount>,
}

/// Sets of one ciphersuite that expire in one week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct KeyPackageCount {
    /// MLS ciphersuite number.
    pub ciphersuite: u16,
    /// The last week in which these sets are handed out.
    pub expiry: Week,
    /// The number of sets with this ciphersuite and week.
    pub sets: u32,
}

/// Most sets that a pool holds.
pub const MAX_POOL: usize = 128;

/// Body of `ClaimKeyPackages`, signed by a key made for it. Costs a token for each claim.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ClaimKeyPackagesRequest {
    /// One pool: claims of several users are requests of their own, at times of their own.
    pub pool: PoolId,
    /// MLS ciphersuite number.
    pub ciphersuite: u16,
    /// How many sets, at most [`MAX_CLAIM`].
    pub sets: u8,
}

/// Most sets in one claim.
pub const MAX_CLAIM: u8 = 4;

/// The claimed sets, at least one.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ClaimKeyPackagesResponse {
    /// The sealed sets, as their owner published them.
    pub sets: Vec<VLBytes>,
}
