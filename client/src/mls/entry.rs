//! Entries of a group's journal as they are carried out.

use openmls::prelude::{MlsMessageIn, ProtocolMessage};
use protocol::ids::{ChainHead, Day, Position};
use protocol::journal::CommitEvent;
use tls_codec::DeserializeBytes as _;

use crate::error::{Error, PeerError};
use crate::store::Segment;

/// A commit as it is read.
pub(crate) struct CommitEntry<'e> {
    pub(crate) event: &'e CommitEvent,
    /// When the service accepted it, as it says.
    pub(crate) accepted_ms: u64,
    /// The day from which on the tag keys of a segment count that begins with it.
    pub(crate) day: Day,
    /// When it is read.
    pub(crate) read_ms: u64,
    pub(crate) at: Position,
    /// The chain after it, if it is known.
    pub(crate) chain: Option<ChainHead>,
}

/// How it goes on after a commit.
pub(crate) enum Next {
    /// In the same segment, one step on.
    Step,
    /// In another segment.
    Segment(Segment),
    /// Not at all: this client is out, or the group is gone.
    Out,
}

pub(crate) fn parse(bytes: &[u8]) -> Result<ProtocolMessage, Error> {
    MlsMessageIn::tls_deserialize_exact_bytes(bytes)
        .ok()
        .and_then(|message| message.try_into_protocol_message().ok())
        .ok_or_else(|| PeerError::Message.into())
}

/// Where and when the service accepted an entry, as it says.
#[derive(Clone, Copy)]
pub(crate) struct Accepted {
    pub(crate) at: Position,
    pub(crate) accepted_ms: u64,
}
