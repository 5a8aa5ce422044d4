//! Welcomes: sealed blobs that the service keeps and cannot read, and pointers to them, which
//! travel in a journal that adder and joiner already share.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::codec::WireSecret;
use crate::ids::{ChainHead, Epoch, GroupId, Place, SegmentId, WelcomeId};

/// One blob for each joining leaf, all of one size in one commit.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct WelcomeUpload {
    /// Where it is found.
    pub id: WelcomeId,
    /// [`WelcomeContent`], sealed under the key beside the id and padded.
    pub sealed: VLBytes,
}

/// The plaintext of a Welcome blob.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct WelcomeContent {
    /// `MLSMessage` with a Welcome that has this joiner's secrets only, without a ratchet tree.
    pub welcome: VLBytes,
    /// [`JoinInfo`], encoded.
    pub join_info: VLBytes,
}

/// The adder's information for a joiner.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct JoinInfo {
    /// The wrapper key in force.
    pub wrapper_key: WireSecret,
    /// UTF-8 name of the group, as the adder calls it.
    pub group_name: VLBytes,
    /// Join codes that were made before this epoch have ended.
    pub codes_since: Epoch,
    /// The signature of the adder's real key over group, epoch and wrapper key.
    pub attribution: Attribution,
}

/// Body of `FetchWelcome`: not signed.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct FetchWelcomeRequest {
    /// [`crate::WIRE_VERSION`].
    pub version: u16,
    /// The id that the pointer gave.
    pub id: WelcomeId,
}

/// Answer to `FetchWelcome`: the sealed blob.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct FetchWelcomeResponse {
    /// The blob as the adder uploaded it.
    pub sealed: VLBytes,
}

/// Tells a contact's devices where their Welcomes are: content of a message.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct WelcomePointer {
    /// The group that the joiner was added to.
    pub group_id: GroupId,
    /// The epoch of the Welcome.
    pub epoch: Epoch,
    /// The segment of that epoch.
    pub segment: SegmentId,
    /// Where the adding commit stands, and so where a joiner reads on.
    pub place: Place,
    /// The chain head after it.
    pub chain: ChainHead,
    /// One for each device.
    pub devices: Vec<DevicePointer>,
}

/// The Welcome of one KeyPackage.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DevicePointer {
    /// MLS KeyPackageRef (RFC 9420 §5.2).
    pub key_package_ref: VLBytes,
    /// Where the blob is found.
    pub id: WelcomeId,
    /// The welcome key, which opens the blob.
    pub key: WireSecret,
}

/// The adder's signature over the group, epoch and wrapper key, so that an invitation can be pinned
/// on its sender.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Attribution {
    /// Ed25519 key of the adder's real credential.
    pub signature_public_key: VLBytes,
    /// `SignWithLabel(key, "AttributionTBS", AttributionTBS)`.
    pub signature: VLBytes,
}
