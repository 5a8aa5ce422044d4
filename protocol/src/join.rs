//! What joiners and those who come back need: permits, join records, recovery rows, link keys.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::codec::WireSecret;
use crate::ids::{
    ChainHead, Epoch, GroupId, JoinRecordId, LeafIndex, Place, RecoveryRowId, RotationEpoch,
    SegmentId, Week,
};
use crate::keys::{GroupKey, JournalKeys};

/// Why somebody may come in by an external commit.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum JoinPermit {
    /// As a further client of the user whose leaf says so in the commit's authenticated data.
    #[tls_codec(discriminant = 1)]
    Client,
    /// In the place of the leaf that says so in the commit's authenticated data: it lost its MLS
    /// state but not its signature key.
    #[tls_codec(discriminant = 2)]
    Rejoin,
    /// With the permit of a join code, `derive(code, "permit")`: as another user of a group, or as
    /// the second one of a connection, whose request had the code.
    #[tls_codec(discriminant = 3)]
    JoinCode(WireSecret),
}

/// A leaf's word for the signature key of another one.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct LeafAuthorization {
    /// Whose word it is.
    pub leaf_index: u32,
    /// Good until then, milliseconds since the Unix epoch.
    pub not_after_ms: u64,
    /// `SignWithLabel(key of that leaf, "LeafAuthorizationTBS", LeafAuthorizationTBS)`.
    pub signature: VLBytes,
}

/// The label of a [`LeafAuthorization`].
pub const LEAF_AUTHORIZATION_LABEL: &str = "LeafAuthorizationTBS";

/// The content that [`LeafAuthorization::signature`] covers.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct LeafAuthorizationTbs {
    /// The group that the new leaf joins.
    pub group_id: GroupId,
    /// The present one. No segment outlasts a removal, so no word does.
    pub segment: SegmentId,
    /// A further client: 2. A leaf in the place of this one: 3.
    pub purpose: u8,
    /// As in the authorization.
    pub leaf_index: u32,
    /// As in the authorization.
    pub not_after_ms: u64,
    /// The new leaf's signature key.
    pub signature_key: VLBytes,
}

/// A link key under a wrapper key.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct WrappedLinkKey {
    /// Which wrapper key: the one of the segment that this epoch begins.
    pub wrapper: RotationEpoch,
    /// Sealed with a key commitment.
    pub sealed: VLBytes,
}

/// A link key that travels beside a commit, under the wrapper key in force after it.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct LinkKeyUpload {
    /// The leaf whose credential the link key opens.
    pub leaf_index: LeafIndex,
    /// Sealed with a key commitment.
    pub sealed: VLBytes,
}

/// The wrapper key of one segment, sealed under that of the next: members of the next can go back,
/// nobody can go on.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SealedFormerWrapperKey {
    /// Whose segment's key it is.
    pub of: RotationEpoch,
    /// Sealed with a key commitment.
    pub sealed: VLBytes,
}

/// The way into the segment of the last rotation, sealed by HPKE (RFC 9180) to the key of one leaf
/// or join code.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct RecoveryRow {
    /// The id that follows from the group and the public key that the row is sealed to.
    pub id: RecoveryRowId,
    /// Encapsulated key and ciphertext of step, state key, wrapper key and segment, bound to group
    /// and rotation epoch.
    pub sealed: VLBytes,
}

/// Body of `RecoveryRow`, which is not signed. The id follows from the public key; only the private
/// key opens the row.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct RecoveryRowRequest {
    /// [`crate::WIRE_VERSION`].
    pub version: u16,
    /// The id of the wanted row.
    pub id: RecoveryRowId,
}

/// Answer to `RecoveryRow`: the row as its writer sealed it.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct RecoveryRowResponse {
    /// The rotation that it is of.
    pub rotation_epoch: RotationEpoch,
    /// The content of [`RecoveryRow::sealed`].
    pub sealed: VLBytes,
}

/// Body of `JoinRecord`: not signed.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct JoinRecordRequest {
    /// [`crate::WIRE_VERSION`].
    pub version: u16,
    /// Derived from the join key.
    pub id: JoinRecordId,
    /// The number of the wanted page, from 0.
    pub page: u16,
}

/// One page of a join record.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct JoinRecordResponse {
    /// How many pages there are.
    pub pages: u16,
    /// [`JOIN_RECORD_PAGE`] bytes of the encoded [`JoinRecordContent`], sealed under the join key.
    pub sealed: VLBytes,
}

/// Bytes of content in one page.
pub const JOIN_RECORD_PAGE: usize = 64 * 1024;

/// Content of a join record: everything that a joiner needs beside the Welcome, as of its epoch.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct JoinRecordContent {
    /// MLS `ratchet_tree` (RFC 9420 §12.4.3.3) of that epoch.
    pub ratchet_tree: VLBytes,
    /// `S_t` of that epoch.
    pub state_key: WireSecret,
    /// The entry key `k_t` and the tag key `T_d` of that epoch.
    pub journal: JournalKeys,
    /// The segment of that epoch.
    pub segment: SegmentId,
    /// The commit that added the joiner.
    pub place: Place,
    /// The chain head after it.
    pub chain: ChainHead,
    /// Link keys by leaf.
    pub leaves: Vec<LeafLinkKey>,
    /// Former wrapper keys that a link key still needs, newest first.
    pub wrapper_chain: Vec<WrapperChainLink>,
}

/// One link of the chain of wrapper keys.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct WrapperChainLink {
    /// The key of this segment opens `former`.
    pub under: RotationEpoch,
    /// The wrapper key of the segment before, sealed.
    pub former: SealedFormerWrapperKey,
}

/// The link key of one leaf.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct LeafLinkKey {
    /// The index of the leaf in the tree.
    pub leaf_index: LeafIndex,
    /// The link key of the leaf's credential.
    pub link_key: WrappedLinkKey,
}

/// Body of `ExternalCommitInfo`; signed by the key of the leaf that will join.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ExternalCommitInfoRequest {
    /// Of the current epoch.
    pub group: GroupKey,
    /// As in the `ExternalJoin` that will follow.
    pub permit: JoinPermit,
    /// As its commit's authenticated data will have it.
    pub authorization: Option<LeafAuthorization>,
}

/// What an external committer needs (RFC 9420 §12.4.3.2).
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ExternalCommitInfoResponse {
    /// The group's current epoch.
    pub epoch: Epoch,
    /// `MLSMessage` with the GroupInfo of it.
    pub group_info: VLBytes,
    /// MLS `ratchet_tree` (RFC 9420 §12.4.3.3) of the current epoch.
    pub ratchet_tree: VLBytes,
    /// Link keys by leaf.
    pub leaves: Vec<LeafLinkKey>,
    /// As in a join record.
    pub wrapper_chain: Vec<WrapperChainLink>,
    /// Codes that are good. A rejoin seals the way into the next segment to the codes that verify.
    pub codes: Vec<JoinCode>,
}

/// The public record of a join code.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct JoinCode {
    /// SHA-256 of the permit that its holders show.
    pub permit_hash: [u8; 32],
    /// HPKE public key of the KEM of the group's ciphersuite.
    pub public_key: VLBytes,
    /// The last week in which it is good, at most [`MAX_JOIN_CODE_WEEKS`] ahead.
    pub expiry: Week,
    /// In which it was made: members know whether it is older than a removal.
    pub epoch: Epoch,
    /// The leaf that made the code and signed it.
    pub maker: LeafIndex,
    /// `SignWithLabel(maker's leaf key, "JoinCodeTBS", group id || everything above)`.
    pub signature: VLBytes,
}

/// The label of [`JoinCode::signature`].
pub const JOIN_CODE_LABEL: &str = "JoinCodeTBS";

/// The content that [`JoinCode::signature`] covers.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct JoinCodeTbs {
    /// The group that the code leads into.
    pub group_id: GroupId,
    /// As in [`JoinCode`].
    pub permit_hash: [u8; 32],
    /// As in [`JoinCode`].
    pub public_key: VLBytes,
    /// As in [`JoinCode`].
    pub expiry: Week,
    /// As in [`JoinCode`].
    pub epoch: Epoch,
    /// As in [`JoinCode`].
    pub maker: LeafIndex,
}

/// Most join codes of a group that are good at the same time.
pub const MAX_JOIN_CODES: usize = 16;
/// Longest life of a join code, weeks.
pub const MAX_JOIN_CODE_WEEKS: u16 = 53;
