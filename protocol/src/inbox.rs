//! Handles and their inboxes: for those who are no contacts yet. An inbox occurs nowhere else: no
//! group, leaf or pool refers to it.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::ids::{Day, InboxEntryId, InboxId, Week};

/// Body of `RegisterHandle`, signed by the handle's owner key. Makes the inbox, or keeps it.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct RegisterHandleRequest {
    /// The handle, as [`crate::connections::is_valid_handle`] allows it.
    pub handle: VLBytes,
    /// An encoded [`crate::connections::HandleRecord`].
    pub record: VLBytes,
    /// Random; the inbox that requests to this handle go to.
    pub inbox: InboxId,
    /// Ed25519: reads the inbox and deletes from it.
    pub inbox_owner: [u8; 32],
    /// The last week in which it is good.
    pub expiry: Week,
}

/// Body of `LookupHandle`, signed by a fresh key.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct LookupHandleRequest {
    /// The handle, exactly as it was registered.
    pub handle: VLBytes,
}

/// The record behind a handle.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct LookupHandleResponse {
    /// An encoded [`crate::connections::HandleRecord`].
    pub record: VLBytes,
    /// Tokens that a request to this handle costs now: it rises with the inbox's fill.
    pub price: u8,
}

/// Body of `DeleteHandle`, signed by the handle's owner key. Its inbox goes with it.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeleteHandleRequest {
    /// As registered; free for others from now on.
    pub handle: VLBytes,
}

/// Body of `RequestConnection`, signed by a key made for it.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct RequestConnectionRequest {
    /// The handle of the user to ask.
    pub handle: VLBytes,
    /// The connection request, HPKE-encrypted to the record's key, of [`REQUEST_SIZE`] bytes.
    pub encrypted_request: VLBytes,
}

/// Every sealed request has this size, bytes.
pub const REQUEST_SIZE: usize = 4096;

/// Most requests that an inbox holds.
pub const INBOX_CAPACITY: usize = 256;

/// Days until a request expires.
pub const REQUEST_DAYS: u32 = 30;

/// Body of `ReadInbox`, signed by the inbox's owner key.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ReadInboxRequest {
    /// The inbox that the signing key owns.
    pub inbox: InboxId,
    /// At most this many, up to [`MAX_READ`].
    pub limit: u16,
}

/// Most requests in one answer.
pub const MAX_READ: u16 = 64;

/// Requests, in no order.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ReadInboxResponse {
    /// Each until it is deleted or expires.
    pub requests: Vec<InboxEntry>,
    /// 1 if there are more.
    pub more: u8,
}

/// A connection request that waits in an inbox.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct InboxEntry {
    /// The last day on which it is kept.
    pub day: Day,
    /// The random id by which `DeleteFromInbox` names the request.
    pub id: InboxEntryId,
    /// The [`REQUEST_SIZE`] bytes of the request, as they were sent.
    pub encrypted_request: VLBytes,
}

/// Body of `DeleteFromInbox`, signed by the inbox's owner key: the client has stored these.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeleteFromInboxRequest {
    /// The inbox that the signing key owns.
    pub inbox: InboxId,
    /// At most [`MAX_READ`]. Those that are gone are no error.
    pub entries: Vec<InboxEntryName>,
}

/// Names one entry of an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct InboxEntryName {
    /// [`InboxEntry::day`] of the entry.
    pub day: Day,
    /// [`InboxEntry::id`] of the entry.
    pub id: InboxEntryId,
}
