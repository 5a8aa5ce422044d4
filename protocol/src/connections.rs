//! Handles and connection requests (draft-kohbrok-mimi-metadata-minimalization §connections):
//! consent first.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::codec::WireSecret;
use crate::ids::GroupId;
use crate::reporting::{Padded, REQUEST_SLOT};

/// Longest handle in bytes (UTF-8).
pub const MAX_HANDLE_BYTES: usize = 64;

/// Whether the bytes are a handle: 1 to [`MAX_HANDLE_BYTES`] of `a-z 0-9 . _ -`.
#[must_use]
pub fn is_valid_handle(handle: &[u8]) -> bool {
    (1..=MAX_HANDLE_BYTES).contains(&handle.len())
        && handle
            .iter()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// The record that a user publishes under a handle.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct HandleRecord {
    /// The user's real credential.
    pub credential: ClientCredential,
    /// HPKE key (X-Wing, 1,216 bytes) that connection requests are encrypted to.
    pub connection_establishment_key: VLBytes,
    /// `SignWithLabel(credential key, "HandleRecordTBS", HandleRecordTbs)`.
    pub signature: VLBytes,
}

/// A real credential: the name that its holder chose and the key that contacts compare as a safety
/// number.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ClientCredential {
    /// The name that the holder chose, UTF-8, not verified by anybody.
    pub name: VLBytes,
    /// The Ed25519 public key that contacts compare, 32 bytes.
    pub signature_public_key: VLBytes,
}

/// The draft's `ConnectionRequest`, with our additions in the extensions at its end. It does not
/// hold the group's wrapper key: the recovery row of the code does.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ConnectionRequest {
    /// The real credential of the user who asks for the connection.
    pub requester_client_credential: ClientCredential,
    /// The id of the connection group that the requester has made.
    pub connection_room_id: GroupId,
    /// Derives the identity link keys of the requester's credentials.
    pub requester_connection_key: WireSecret,
    /// HPKE key (X-Wing, 1,216 bytes) for the [`ConnectionResponse`].
    pub connection_response_key: VLBytes,
    /// The fields that the draft's struct lacks.
    pub extensions: ConnectionRequestExtensions,
    /// `SignWithLabel(requester's credential key, "ConnectionRequestTBS", …)` over all above and
    /// the recipient's key.
    pub signature: VLBytes,
}

/// The fields that the draft's struct lacks. They hold no connection token: the requester tells its
/// token in the connection group, once somebody has accepted.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ConnectionRequestExtensions {
    /// [`ConnectionRequestExtensions::VERSION`].
    pub version: u16,
    /// Join code of the connection group, for one use: finds and opens the way into it.
    pub code: WireSecret,
    /// The requester's [`crate::reporting::SignedIntroduction`], or nothing.
    pub introduction: Padded<REQUEST_SLOT>,
}

impl ConnectionRequestExtensions {
    /// The version that is written and read.
    pub const VERSION: u16 = 1;
}

/// The draft's `ConnectionResponse`, with the responder's token.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ConnectionResponse {
    /// Derives the identity link keys of the responder's credentials.
    pub responder_connection_key: WireSecret,
    /// 1: version of what follows.
    pub version: u16,
    /// Claims KeyPackages of the responder.
    pub connection_token: WireSecret,
}
