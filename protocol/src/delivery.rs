//! What stands in a queue: entry contents and payloads, as the receiving client decodes them.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::codec::WireSecret;
use crate::ids::GroupId;

/// Content of an entry: of one uniform size, whatever it announces.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct EntryContent {
    /// What the payload is.
    pub kind: PayloadKind,
    /// Opens the payload.
    pub payload_key: WireSecret,
    /// Orders entries of a group: microseconds since the Unix epoch on the service's clock, never
    /// going back within a process. Commits are ordered by their epoch first.
    pub sequence: u64,
}

/// Kinds of payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum PayloadKind {
    /// [`Payload::Message`].
    Message = 1,
    /// [`Payload::Commit`].
    Commit = 2,
    /// [`Payload::Welcome`].
    Welcome = 3,
    /// [`Payload::ConnectionRequest`].
    ConnectionRequest = 4,
    /// [`Payload::Proposal`].
    Proposal = 5,
    /// [`Payload::Dropped`].
    Dropped = 6,
}

/// A payload: stored once, whatever the number of recipients.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Payload {
    /// `MLSMessage` with a PrivateMessage.
    #[tls_codec(discriminant = 1)]
    Message(VLBytes),
    /// `MLSMessage` with a PublicMessage; the committer gets it too, and merges what it has pending.
    #[tls_codec(discriminant = 2)]
    Commit(VLBytes),
    /// An invitation.
    #[tls_codec(discriminant = 3)]
    Welcome(WelcomeDelivery),
    /// HPKE ciphertext of a [`crate::connections::ConnectionRequest`].
    #[tls_codec(discriminant = 4)]
    ConnectionRequest(VLBytes),
    /// `MLSMessage` with a PublicMessage of content type proposal; its sender gets it too.
    #[tls_codec(discriminant = 5)]
    Proposal(VLBytes),
    /// More application messages of this group waited than a queue keeps: its oldest ones went.
    #[tls_codec(discriminant = 6)]
    Dropped(GroupId),
}

impl Payload {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> PayloadKind {
        match self {
            Payload::Message(_) => PayloadKind::Message,
            Payload::Commit(_) => PayloadKind::Commit,
            Payload::Welcome(_) => PayloadKind::Welcome,
            Payload::ConnectionRequest(_) => PayloadKind::ConnectionRequest,
            Payload::Proposal(_) => PayloadKind::Proposal,
            Payload::Dropped(_) => PayloadKind::Dropped,
        }
    }
}

/// A Welcome with what travels beside it.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct WelcomeDelivery {
    /// `MLSMessage` with the Welcome.
    pub welcome: VLBytes,
    /// [`JoinInfo`], sealed under the exporter with label `"join info"`.
    pub sealed_join_info: VLBytes,
}

/// What the adder tells the joiners; the service cannot read it.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct JoinInfo {
    /// Opens the group's identity link keys.
    pub identity_link_wrapper_key: WireSecret,
    /// UTF-8 name of the group, as the adder calls it.
    pub group_name: VLBytes,
    /// Who vouches for this: the adder's real key.
    pub attribution: Attribution,
}

/// The adder's signature over the group, epoch and wrapper key, so that an invitation can be pinned on its sender.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Attribution {
    /// Ed25519 key of the adder's real credential.
    pub signature_public_key: VLBytes,
    /// `SignWithLabel(key, "AttributionTBS", AttributionTBS)`.
    pub signature: VLBytes,
}
