//! Bodies of the operations that act on a group. MLS objects travel as the bytes that the MLS
//! library made. Each names the group and brings the state key of its epoch, which opens the
//! group's state at the service for the time of the request.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::codec::WireSecret;
use crate::ids::{Epoch, GroupId, LeafIndex, Place, RecoveryRowId, RotationEpoch, Week};
pub use crate::join::{
    JOIN_CODE_LABEL, JoinCode, JoinCodeTbs, MAX_JOIN_CODE_WEEKS, MAX_JOIN_CODES,
};
use crate::join::{JoinPermit, LinkKeyUpload, RecoveryRow, SealedFormerWrapperKey};
pub use crate::keys::{GroupKey, JournalKeys};
use crate::welcome::WelcomeUpload;

/// What kind of group it is; decides which operations are possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum GroupKind {
    /// Any number of users; joined by Welcome.
    Group = 1,
    /// Two users: made by one to ask the other for a connection, joined by external commit.
    Connection = 2,
    /// The clients of one user.
    SingleUser = 3,
}

/// The part of the new epoch's GroupInfo that the committer sends. The service knows the rest.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct PartialGroupInfo {
    /// MLS `Extension extensions<V>` of the GroupInfo, encoded with its own length.
    pub extensions: VLBytes,
    /// GroupInfo signature of the committer, without another length.
    pub signature: VLBytes,
}

/// An answer that says nothing but yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Accepted {}

/// Body of `ReserveGroupId`. The signing key must also sign the `CreateGroup` that uses the id.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ReserveGroupIdRequest {
    /// 16 random bytes, drawn by the client. If the service chose ids it could give two groups the
    /// same one. A client that is in both could then come into only one of them, and so show that
    /// it is in both.
    pub group_id: GroupId,
}

/// The reserved id; good until the end of the day after the reservation (UTC).
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ReserveGroupIdResponse {
    /// The id from the request.
    pub group_id: GroupId,
}

/// Everything that a commit that begins a segment tells the service of it. The service can check
/// none of it: a committer who lies strands the group, and every member sees by whose commit.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct NextSegment {
    /// `S_0` of the epoch that the commit begins.
    pub state_key: WireSecret,
    /// `k_0` of that epoch.
    pub journal_key: WireSecret,
    /// The former wrapper key under the new one. None at creation.
    pub former_wrapper_key: Option<SealedFormerWrapperKey>,
    /// The way into the new segment for each live join code, sealed to the code's key.
    pub code_rows: Vec<RecoveryRow>,
}

/// The extras that a leaf brings beside its MLS leaf node, always all of them.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct LeafExtras {
    /// The link key of the leaf's credential, under the wrapper key in force after the commit.
    pub wrapped_link_key: VLBytes,
    /// Fresh for the leaf.
    pub recovery_key: RecoveryKey,
    /// [`PUSH_HANDLE_BYTES`] bytes that the service cannot read; random if the client has no push
    /// handle.
    pub push_handle: VLBytes,
}

/// Length of a push handle.
pub const PUSH_HANDLE_BYTES: usize = 96;

/// The public half of a leaf's recovery key pair.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct RecoveryKey {
    /// HPKE public key of the KEM of the group's ciphersuite.
    pub public_key: VLBytes,
    /// `SignWithLabel(leaf key, "RecoveryKeyTBS", RecoveryKeyTbs)`.
    pub signature: VLBytes,
}

/// The label of [`RecoveryKey::signature`].
pub const RECOVERY_KEY_LABEL: &str = "RecoveryKeyTBS";

/// The content that [`RecoveryKey::signature`] covers.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct RecoveryKeyTbs {
    /// The group that the leaf is in.
    pub group_id: GroupId,
    /// The leaf's signature key.
    pub leaf_key: VLBytes,
    /// The public key of the [`RecoveryKey`].
    pub public_key: VLBytes,
}

/// Body of `CreateGroup`, signed by the creator's leaf key as [`crate::request::Sender::Key`].
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CreateGroupRequest {
    /// An id that the signing key has reserved.
    pub group_id: GroupId,
    /// Fixed for the life of the group.
    pub kind: GroupKind,
    /// Days that messages are kept, 1 to [`crate::journal::MESSAGE_DAYS`].
    pub message_days: u16,
    /// The keys of the first segment, which epoch 0 begins; no former wrapper key, no rows.
    pub segment: NextSegment,
    /// MLS `ratchet_tree` (RFC 9420 §12.4.3.3) with exactly one leaf.
    pub ratchet_tree: VLBytes,
    /// `MLSMessage` with a GroupInfo of epoch 0, with `external_pub` and without `ratchet_tree`.
    pub group_info: VLBytes,
    /// The extras of the creator's leaf.
    pub leaf: LeafExtras,
}

/// Body of every commit by a member. The group's AAD is a [`CommitAad`].
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CommitRequest {
    /// Of the epoch that the commit ends.
    pub group: GroupKey,
    /// `MLSMessage` with a PublicMessage of content type commit.
    pub commit: VLBytes,
    /// GroupInfo of the new epoch.
    pub group_info: PartialGroupInfo,
    /// Must be there when the commit removes anyone, and when the service asks for it
    /// (`rotation-required`).
    pub rotation: Option<NextSegment>,
    /// One for each added leaf, in the order of their indices, for the committer if its credential
    /// changed, and re-sealed ones of older leaves (at most [`MAX_RESEALED`]).
    pub link_keys: Vec<LinkKeyUpload>,
    /// The committer's new recovery key and push handle, in `UpdateClient`.
    pub committer: Option<LeafExtras>,
    /// Only in `AddUsers` and `AddClients`.
    pub welcome: Option<JoinersUpload>,
}

/// Most link keys of older leaves that one rotation re-seals.
pub const MAX_RESEALED: usize = 64;

/// Everything that the added clients need, sent with the commit that adds them.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct JoinersUpload {
    /// The new epoch's exporter "join record": seals the join record.
    pub join_key: WireSecret,
    /// One for each added leaf.
    pub welcomes: Vec<WelcomeUpload>,
}

/// Authenticated data of every commit (RFC 9420 §6.1), readable by the service.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CommitAad {
    /// 1 if the request carries a [`NextSegment`], else 0. Members go on in the next segment.
    pub rotates: u8,
    /// In an external join that a leaf authorizes: why the joiner may come in, for the members too.
    pub authorization: Option<crate::join::LeafAuthorization>,
    /// HPKE-encrypted to the requester; only in an external join of a connection group.
    pub encrypted_connection_response: VLBytes,
}

/// Body of `ExternalJoin`, signed by the joiner's new leaf key as [`crate::request::Sender::Key`].
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ExternalJoinRequest {
    /// Of the epoch that the commit ends.
    pub group: GroupKey,
    /// `MLSMessage` with an external commit.
    pub commit: VLBytes,
    /// GroupInfo of the new epoch.
    pub group_info: PartialGroupInfo,
    /// Must be there when a leaf goes, as in a rejoin.
    pub rotation: Option<NextSegment>,
    /// The extras of the joiner's leaf.
    pub leaf: LeafExtras,
    /// Why the joiner may come in.
    pub permit: JoinPermit,
}

/// Answer to every accepted commit of a member, and to `CreateGroup` (with no place that counts).
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CommitAccepted {
    /// The group's epoch from now on.
    pub epoch: Epoch,
    /// Where the commit stands: in the segment that it ends, if it rotates.
    pub place: Place,
    /// When the service accepted it, milliseconds since the Unix epoch.
    pub accepted_ms: u64,
}

/// Answer to an accepted `ExternalJoin`.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct JoinAccepted {
    /// As for a member's commit.
    pub accepted: CommitAccepted,
    /// What opens the journal from the new epoch on.
    pub journal: JournalKeys,
}

/// Body of `SendMessage`, signed by the sender's leaf.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SendMessageRequest {
    /// Of the epoch that the message names.
    pub group: GroupKey,
    /// `MLSMessage` with a PrivateMessage of content type application.
    pub message: VLBytes,
}

/// Answer to a request whose entry is in the journal.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct EntryAccepted {
    /// The place of the entry in the journal.
    pub place: Place,
    /// When the service accepted it, milliseconds since the Unix epoch.
    pub accepted_ms: u64,
}

/// Body of `SelfRemove`, signed by the leaf, and of `Propose`, signed by the key that signed the
/// proposal.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ProposalRequest {
    /// Of the current epoch.
    pub group: GroupKey,
    /// `MLSMessage` with a PublicMessage of content type proposal, of the current epoch.
    pub proposal: VLBytes,
    /// In a new member's Add: what its leaf brings. Else none.
    pub new_member: Option<LeafExtras>,
}

/// Body of `SetLeafExtras`, signed by the leaf. It is a joiner's first act, which also says that
/// the joiner has come. It replaces the extras that the leaf had.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SetLeafExtrasRequest {
    /// Of the current epoch.
    pub group: GroupKey,
    /// The leaf's new recovery key.
    pub recovery_key: RecoveryKey,
    /// The push handle, as in [`LeafExtras`].
    pub push_handle: VLBytes,
    /// The leaf's own row of the present rotation, sealed to the new key.
    pub row: RecoveryRow,
}

/// Body of `SetJoinCode`, signed by a leaf whose user may add.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SetJoinCodeRequest {
    /// Of the current epoch.
    pub group: GroupKey,
    /// Whether to make a code or to revoke one.
    pub change: JoinCodeChange,
}

/// The change of a join code that a [`SetJoinCodeRequest`] asks for.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum JoinCodeChange {
    /// Makes a code. It is good from now on.
    #[tls_codec(discriminant = 1)]
    Make(NewJoinCode),
    /// Ends the code with this row. The next commit must rotate: its holders know the segment.
    #[tls_codec(discriminant = 2)]
    Revoke(RecoveryRowId),
}

/// A code as the service and the members see it.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct NewJoinCode {
    /// Public record, signed by its maker.
    pub code: JoinCode,
    /// The way into the present segment, sealed to the code's key.
    pub row: RecoveryRow,
}

/// Body of `InspectGroup`, signed by a leaf.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct InspectGroupRequest {
    /// Of the current epoch.
    pub group: GroupKey,
    /// Leaves from this index on.
    pub from: LeafIndex,
}

/// Leaves in one answer.
pub const LEAVES_PER_PAGE: u32 = 64;

/// The service's view of a group, for its members.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct InspectGroupResponse {
    /// The group's current epoch.
    pub epoch: Epoch,
    /// The epoch with which the present segment began.
    pub rotation_epoch: RotationEpoch,
    /// 1 if the next commit must rotate.
    pub rotation_due: u8,
    /// Leaves with an index from `from` to `from + 63`.
    pub leaves: Vec<LeafRecord>,
    /// The number of leaf places in the tree: pages go up to it.
    pub places: u32,
    /// Codes that are good, in the answer from leaf 0.
    pub codes: Vec<JoinCode>,
    /// `MLSMessage`s with the proposals that are pending, in the answer from leaf 0.
    pub pending_proposals: Vec<VLBytes>,
}

/// One leaf as the service sees it.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct LeafRecord {
    /// The index of the leaf in the tree.
    pub leaf_index: LeafIndex,
    /// As in its credential.
    pub user_pseudonym: VLBytes,
    /// What its user may do now.
    pub capabilities: crate::policy::Capabilities,
    /// The link key of the leaf's credential, under the wrapper key that it names.
    pub link_key: crate::join::WrappedLinkKey,
    /// None until the leaf has set one.
    pub recovery_key: Option<RecoveryKey>,
    /// 1 if a row of the present rotation is there for it.
    pub has_row: u8,
    /// The last week in which it committed.
    pub active: Week,
}

/// Body of `OwnLeaf`, signed by the leaf's signature key as [`crate::request::Sender::Key`].
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct OwnLeafRequest {
    /// Of the current epoch.
    pub group: GroupKey,
}

/// The leaf with the asker's signature key.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct OwnLeafResponse {
    /// The group's current epoch.
    pub epoch: Epoch,
    /// The leaf that has the signing key.
    pub leaf: LeafRecord,
}

/// Body of `PutRecoveryRows`, signed by any leaf: rows that are missing since the last rotation.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct PutRecoveryRowsRequest {
    /// Of the current epoch.
    pub group: GroupKey,
    /// Must be the present one.
    pub rotation_epoch: RotationEpoch,
    /// At most [`MAX_ROWS`]. Rows of the present rotation that are there already stay, except the
    /// sender's own.
    pub rows: Vec<RecoveryRow>,
}

/// Most rows in one request.
pub const MAX_ROWS: usize = 128;
