//! Bodies of the group operations. MLS objects travel as the bytes that the MLS library made.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::codec::WireSecret;
use crate::ids::{GroupId, LookupId};

/// Body of `ReserveGroupId`: empty. The signing key must also sign the `CreateGroup` that uses the id.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ReserveGroupIdRequest {}

/// The reserved id; good until the end of the day after the reservation (UTC).
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ReserveGroupIdResponse {
    /// Fresh and unused.
    pub group_id: GroupId,
}

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

/// Body of `CreateGroup`, signed by the creator's leaf key as [`crate::envelope::Sender::Key`].
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CreateGroupRequest {
    /// A reserved id.
    pub group_id: GroupId,
    /// Seals the group's state; forgotten after the request.
    pub state_key: WireSecret,
    /// Fixed for the life of the group.
    pub kind: GroupKind,
    /// MLS `ratchet_tree` (RFC 9420 §12.4.3.3) with exactly one leaf.
    pub ratchet_tree: VLBytes,
    /// `MLSMessage` with a GroupInfo of epoch 0.
    pub group_info: VLBytes,
    /// The creator's identity link key, encrypted under the wrapper key.
    pub encrypted_identity_link_key: VLBytes,
    /// Recovery secret of the creator's leaf.
    pub recovery_secret: WireSecret,
}

/// What a committer sends of the new epoch's GroupInfo: the service knows the rest.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct PartialGroupInfo {
    /// MLS `Extension extensions<V>` of the GroupInfo, encoded.
    pub extensions: VLBytes,
    /// GroupInfo signature of the committer.
    pub signature: VLBytes,
}

/// Body of every commit by a member. The group's AAD is a [`CommitAad`].
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CommitRequest {
    /// The group.
    pub group_id: GroupId,
    /// The key that seals the state now.
    pub state_key: WireSecret,
    /// The key to seal the state under from this commit on: the new epoch's exporter with label
    /// `"state key"`. Must be there when the commit removes anyone.
    pub next_state_key: Option<WireSecret>,
    /// `MLSMessage` with a PublicMessage of content type commit.
    pub commit: VLBytes,
    /// GroupInfo of the new epoch.
    pub group_info: PartialGroupInfo,
    /// Only in `AddUsers` and `AddClients`.
    pub welcome: Option<WelcomeUpload>,
}

/// What the added clients need, with the commit that adds them.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct WelcomeUpload {
    /// `MLSMessage` with the Welcome, without a ratchet tree.
    pub welcome: VLBytes,
    /// The new epoch's exporter with label `"join record"`.
    pub join_key: WireSecret,
    /// Sealed under the exporter with label `"join info"`; opaque to the service.
    pub sealed_join_info: VLBytes,
}

/// Authenticated data of every commit (RFC 9420 §6.1), readable by the service.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CommitAad {
    /// One for each Add by value, in their order; for an external join the joiner's own one.
    pub encrypted_identity_link_keys: Vec<VLBytes>,
    /// 1 if the request carries a next state key, else 0. Members rotate when they see it.
    pub rotates_state_key: u8,
    /// `ConnectionResponse`, HPKE-encrypted to the requester; only in an external join of a connection group.
    pub encrypted_connection_response: VLBytes,
    /// That of the [`JoinPermit`], if it has one: members verify it, since the service's word is
    /// not enough.
    pub leaf_authorization: Option<LeafAuthorization>,
}

/// Why somebody may come in by an external commit.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum JoinPermit {
    /// To a connection group with one user in it: who has its state key was asked.
    #[tls_codec(discriminant = 1)]
    Connection,
    /// As a further client of the user whose leaf says so.
    #[tls_codec(discriminant = 2)]
    Client(LeafAuthorization),
    /// In the place of the leaf that says so, which lost its MLS state but not its signature key.
    #[tls_codec(discriminant = 3)]
    Rejoin(LeafAuthorization),
    /// With the secret of a join code.
    #[tls_codec(discriminant = 4)]
    JoinCode(WireSecret),
}

impl JoinPermit {
    /// The word of a leaf, if it is one.
    #[must_use]
    pub fn authorization(&self) -> Option<&LeafAuthorization> {
        match self {
            Self::Client(authorization) | Self::Rejoin(authorization) => Some(authorization),
            Self::Connection | Self::JoinCode(_) => None,
        }
    }
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

/// What a [`LeafAuthorization`] signs.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct LeafAuthorizationTbs {
    /// The group.
    pub group_id: GroupId,
    /// `HKDF(state key, "leaf authorization")` with the group id as context: no word is good any
    /// longer than nobody is removed.
    pub period: [u8; 32],
    /// The number of the [`JoinPermit`]: 2 or 3.
    pub permit: u8,
    /// As in the authorization.
    pub leaf_index: u32,
    /// As in the authorization.
    pub not_after_ms: u64,
    /// The new leaf's signature key.
    pub signature_key: VLBytes,
}

/// Body of `ExternalJoin`, signed by the joiner's new leaf key as [`crate::envelope::Sender::Key`].
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ExternalJoinRequest {
    /// The group.
    pub group_id: GroupId,
    /// The key that seals the state now.
    pub state_key: WireSecret,
    /// As in [`CommitRequest`]: must be there when a leaf goes, as in a rejoin.
    pub next_state_key: Option<WireSecret>,
    /// `MLSMessage` with an external commit.
    pub commit: VLBytes,
    /// GroupInfo of the new epoch.
    pub group_info: PartialGroupInfo,
    /// Recovery secret of the joiner's leaf.
    pub recovery_secret: WireSecret,
    /// Why the joiner may come in.
    pub permit: JoinPermit,
}

/// Answer to every accepted commit and to `CreateGroup`.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct EpochAccepted {
    /// The group's epoch from now on.
    pub epoch: u64,
    /// When the service accepted it, milliseconds since the Unix epoch.
    pub accepted_timestamp_ms: u64,
}

/// Body of `SendMessage`, signed by the sender's leaf.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SendMessageRequest {
    /// The group.
    pub group_id: GroupId,
    /// The key that seals the state now.
    pub state_key: WireSecret,
    /// `MLSMessage` with a PrivateMessage of content type application.
    pub message: VLBytes,
}

/// The message stands in every other member's queue.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct MessageAccepted {
    /// When, milliseconds since the Unix epoch.
    pub accepted_timestamp_ms: u64,
}

/// Body of `JoinRecord`.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct JoinRecordRequest {
    /// `HKDF(join key, "lookup")`.
    pub lookup: LookupId,
}

/// Body of `RecoveryRecord`.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct RecoveryRecordRequest {
    /// `HKDF(recovery secret, "lookup")`.
    pub lookup: LookupId,
}

/// A record that only the asker can open.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SealedRecord {
    /// Sealed under the secret that the lookup id was derived from.
    pub sealed: VLBytes,
}

/// Content of a join record: what a joiner needs beside the Welcome, as of the epoch of the Welcome.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct JoinRecordContent {
    /// MLS `ratchet_tree`.
    pub ratchet_tree: VLBytes,
    /// The state key of that epoch.
    pub state_key: WireSecret,
    /// Encrypted identity link keys by leaf.
    pub leaves: Vec<LeafLinkKey>,
}

/// The encrypted identity link key of one leaf.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct LeafLinkKey {
    /// The leaf.
    pub leaf_index: u32,
    /// Encrypted under the group's wrapper key.
    pub encrypted_identity_link_key: VLBytes,
}

/// Body of `ExternalCommitInfo`; signed by the key of the leaf that will join.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ExternalCommitInfoRequest {
    /// The group.
    pub group_id: GroupId,
    /// Opens the state.
    pub state_key: WireSecret,
    /// As in the [`ExternalJoinRequest`] that will follow.
    pub permit: JoinPermit,
}

/// What an external committer needs (RFC 9420 §12.4.3.2).
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ExternalCommitInfoResponse {
    /// `MLSMessage` with the GroupInfo of the current epoch.
    pub group_info: VLBytes,
    /// MLS `ratchet_tree`.
    pub ratchet_tree: VLBytes,
    /// Encrypted identity link keys by leaf.
    pub leaves: Vec<LeafLinkKey>,
    /// `MLSMessage`s with the pending SelfRemove proposals, which the external commit must cover.
    pub self_removes: Vec<VLBytes>,
}

/// Body of `SetRecoverySecret`, signed by the leaf.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SetRecoverySecretRequest {
    /// The group.
    pub group_id: GroupId,
    /// The key that seals the state now.
    pub state_key: WireSecret,
    /// A recovery record with the current state key is written under it at once, and one at every
    /// rotation; the record under the secret before goes.
    pub recovery_secret: WireSecret,
}

/// An answer that says nothing but yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Accepted {}

/// Body of `SelfRemove`, signed by the leaf, and of `Propose`, signed by the key that signed the proposal.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ProposalRequest {
    /// The group.
    pub group_id: GroupId,
    /// The key that seals the state now.
    pub state_key: WireSecret,
    /// `MLSMessage` with a PublicMessage of content type proposal, of the current epoch.
    pub proposal: VLBytes,
    /// In a new member's Add: its encrypted identity link key. Else empty.
    pub encrypted_identity_link_key: VLBytes,
}

/// Most join codes of a group that are good at the same time.
pub const MAX_JOIN_CODES: usize = 16;

/// Longest life of a join code, days.
pub const MAX_JOIN_CODE_DAYS: u32 = 366;

/// Body of `SetJoinCode`, signed by a leaf whose user may add.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SetJoinCodeRequest {
    /// The group.
    pub group_id: GroupId,
    /// The key that seals the state now.
    pub state_key: WireSecret,
    /// Whoever has it comes in; its recovery record is kept up as those of the leaves are.
    pub secret: WireSecret,
    /// Last day (since the Unix epoch) on which it is good; 0 revokes it.
    pub expiry_day: u32,
}

/// Body of `InspectGroup`, signed by a leaf.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct InspectGroupRequest {
    /// The group.
    pub group_id: GroupId,
    /// The key that seals the state now.
    pub state_key: WireSecret,
}

/// What the service holds of a group, for its members.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct InspectGroupResponse {
    /// The current epoch.
    pub epoch: u64,
    /// Every leaf, by index.
    pub members: Vec<MemberRecord>,
    /// `MLSMessage`s with the proposals that are pending in this epoch, in the order they came.
    pub pending_proposals: Vec<VLBytes>,
}

/// One leaf as the service sees it.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct MemberRecord {
    /// The leaf.
    pub leaf_index: u32,
    /// As in its credential.
    pub user_pseudonym: VLBytes,
    /// What its user may do now.
    pub capabilities: crate::policy::Capabilities,
    /// Encrypted under the group's wrapper key.
    pub encrypted_identity_link_key: VLBytes,
}

/// Body of `OwnLeaf`, signed by the leaf's signature key as [`crate::envelope::Sender::Key`].
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct OwnLeafRequest {
    /// The group.
    pub group_id: GroupId,
    /// The key that seals the state now.
    pub state_key: WireSecret,
}

/// The leaf with the asker's signature key.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct OwnLeafResponse {
    /// The current epoch.
    pub epoch: u64,
    /// The leaf.
    pub member: MemberRecord,
}

/// Body of `UpdateQueueReference`, signed by the leaf.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct UpdateQueueReferenceRequest {
    /// The group.
    pub group_id: GroupId,
    /// The key that seals the state now.
    pub state_key: WireSecret,
    /// Sealed queue reference, bound to the leaf's signature key. Stands until the leaf's next update,
    /// which must bring it in the leaf.
    pub queue_reference: VLBytes,
}
