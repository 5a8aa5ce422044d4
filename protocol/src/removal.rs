//! Removals that the service proposes as an external sender, with the reason in their authenticated
//! data.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::Wire as _;
use crate::codec::opaque;
use crate::ids::{Epoch, GroupId, LeafIndex, Week};
use crate::journal::CONNECTION_HANDSHAKE_DAYS;

/// No service proposes to remove a leaf that has committed within so many weeks. A client commits
/// in each of its groups within 45 days, if it is there at all; and who is on holiday must not lose
/// all groups.
pub const LEAST_INACTIVE_WEEKS: u16 = 10;
/// The same in a connection. Its handshakes are kept a week longer.
pub const CONNECTION_INACTIVE_WEEKS: u16 = CONNECTION_HANDSHAKE_DAYS / 7 - 1;

/// The reason for which the service proposes a removal. It is authenticated data of the proposal
/// (RFC 9420 §6.1), and members compare it with what they have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum RemovalReason {
    /// The leaf has not committed since this week, for longer than the service waits.
    #[tls_codec(discriminant = 1)]
    Inactive(Week),
    /// The leaf was added, and had not been here when its join record expired.
    #[tls_codec(discriminant = 2)]
    NeverCame,
    /// The leaf has proposed it itself, in an epoch before.
    #[tls_codec(discriminant = 3)]
    OwnWish,
}

// Of RFC 9420 §6 and §17.4.
const MLS10: u16 = 1;
const PUBLIC_MESSAGE: u16 = 1;
const EXTERNAL_SENDER: u8 = 2;
const PROPOSAL_CONTENT: u8 = 2;
const REMOVE_PROPOSAL: u16 = 3;

/// A Remove by an external sender (RFC 9420 §12.1.8). MLS libraries give external proposals no
/// place for authenticated data, hence the bytes are made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceRemoval {
    /// The group that the leaf is in.
    pub group_id: GroupId,
    /// The epoch that the proposal is for.
    pub epoch: Epoch,
    /// The service's index in the `external_senders` extension.
    pub sender: u32,
    /// The leaf whose removal is proposed.
    pub leaf: LeafIndex,
    /// The reason, which members check.
    pub reason: RemovalReason,
}

impl ServiceRemoval {
    /// `FramedContentTBS` (RFC 9420 §6.1), for an external sender: version, wire format,
    /// FramedContent.
    fn framed(&self) -> Vec<u8> {
        let mut bytes = [MLS10.to_be_bytes(), PUBLIC_MESSAGE.to_be_bytes()].concat();
        bytes.extend(opaque(self.group_id.0).encode());
        bytes.extend(self.epoch.0.to_be_bytes());
        bytes.push(EXTERNAL_SENDER);
        bytes.extend(self.sender.to_be_bytes());
        bytes.extend(opaque(self.reason.encode()).encode());
        bytes.push(PROPOSAL_CONTENT);
        bytes.extend(REMOVE_PROPOSAL.to_be_bytes());
        bytes.extend(self.leaf.0.to_be_bytes());
        bytes
    }

    /// The bytes that the external sender's key signs (RFC 9420 §5.1.2).
    #[must_use]
    pub fn to_sign(&self) -> Vec<u8> {
        let label = opaque(*b"MLS 1.0 FramedContentTBS").encode();
        [label, opaque(self.framed()).encode()].concat()
    }

    /// `MLSMessage` with the PublicMessage of this proposal.
    #[must_use]
    pub fn message(&self, signature: &[u8]) -> Vec<u8> {
        [self.framed(), opaque(signature).encode()].concat()
    }
}
