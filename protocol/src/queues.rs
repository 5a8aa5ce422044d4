//! Queues: create, fetch, acknowledge. Signed by the queue's owner key.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::ids::{EntryId, GroupId, QueueId};

/// Body of `CreateQueue`; the signing key becomes the owner key.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CreateQueueRequest {
    /// X25519 public key that entries are sealed to.
    pub hpke_public_key: VLBytes,
}

/// The new queue.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CreateQueueResponse {
    /// Known to the owner and the service only.
    pub queue_id: QueueId,
}

/// Most entries in one answer.
pub const MAX_FETCH: u16 = 256;
/// Longest wait of a long poll, milliseconds.
pub const MAX_WAIT_MS: u32 = 30_000;
/// Most entries in one acknowledgement.
pub const MAX_ACKNOWLEDGE: usize = 1024;

/// Body of `FetchQueue`. Deletes nothing.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct FetchQueueRequest {
    /// The queue.
    pub queue_id: QueueId,
    /// At most [`MAX_FETCH`].
    pub limit: u16,
    /// How long to wait for an entry when there is none; at most [`MAX_WAIT_MS`], 0 for not at all.
    pub wait_ms: u32,
}

/// Entries in no order: `docs/protocol.md` says how a client orders them.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct FetchQueueResponse {
    /// Entries that are not acknowledged yet.
    pub entries: Vec<QueueEntry>,
    /// 1 if there are more than the answer holds.
    pub more: u8,
}

/// One entry with its payload.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct QueueEntry {
    /// For the acknowledgement; also the entry's AEAD nonce and AAD.
    pub id: EntryId,
    /// HPKE encapsulation of the stream (queue, incarnation, day).
    pub encapsulated_key: [u8; 32],
    /// [`crate::delivery::EntryContent`], sealed in the stream.
    pub sealed: VLBytes,
    /// [`crate::delivery::Payload`], sealed under the entry's payload key.
    pub sealed_payload: VLBytes,
}

/// Body of `AcknowledgeQueue`: the client has stored these; the service deletes them.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct AcknowledgeQueueRequest {
    /// The queue.
    pub queue_id: QueueId,
    /// At most [`MAX_ACKNOWLEDGE`]. Entries that are gone already are no error.
    pub entries: Vec<EntryId>,
}

/// Body of `DeleteQueue`: the queue takes nothing more, and what is in it is gone for good. Members whose
/// leaf names it are removed from their groups by the service.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeleteQueueRequest {
    /// The queue.
    pub queue_id: QueueId,
}

/// Most groups that a queue can block.
pub const MAX_BLOCKED_GROUPS: usize = 1024;

/// Body of `BlockGroup`.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct BlockGroupRequest {
    /// The queue.
    pub queue_id: QueueId,
    /// The group that nothing is taken from.
    pub group_id: GroupId,
    /// 1 to block, 0 to take again.
    pub blocked: u8,
}
