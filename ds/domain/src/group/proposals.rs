//! The part with the proposals that are pending in the current epoch (RFC 9420 §12.1): kept as they
//! came, gone with the epoch.

use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{
    ContentType, MlsMessageIn, ProcessedMessageContent, ProtocolMessage, PublicMessageIn,
    QueuedProposal,
};
use openmls_rust_crypto::RustCrypto;
use protocol::Wire as _;
use protocol::group::{EntryAccepted, LeafExtras};
use protocol::ids::{Position, RotationEpoch};
use protocol::journal::Place;
use protocol::problem::ProblemType;
use protocol::removal::RemovalReason;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::open::OpenedGroup;
use super::parts;
use super::tree::Tree;
use crate::refusal::Stop;
use crate::rows::Part;
use crate::view::View;

const FORMAT: u8 = 1;

/// The plaintext of a proposals part.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct PendingProposals {
    /// In the order they came.
    pub(super) proposals: Vec<PendingProposal>,
}

/// One pending proposal.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PendingProposal {
    /// `MLSMessage` as it came.
    #[serde(with = "serde_bytes")]
    pub(super) message: Vec<u8>,
    /// Who made it.
    pub(super) origin: Origin,
    /// Where it stands in the journal, and since when.
    place: (u64, u64, u64),
}

/// Who made a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Origin {
    /// A leaf that leaves.
    Leaving(u32),
    /// The service, for the removal of this leaf; with the encoded reason.
    Service(u32, Vec<u8>),
    /// Another external sender.
    External,
    /// A new member, that wants to be added: its signature key and its encoded [`LeafExtras`].
    NewMember(Vec<u8>, Vec<u8>),
}

const DAMAGED: Stop = Stop::Internal("the proposals of a group");

impl PendingProposals {
    /// Opens the part, if there is one; it was read.
    pub(super) fn open(group: &OpenedGroup, view: &View) -> Result<Self, Stop> {
        let Some(version) = &group.short.proposals else {
            return Ok(Self::default());
        };
        let part = (Part::Proposals, version);
        let sealed = view.row(&group.row.part(Part::Proposals))?;
        let bytes = parts::open(&group.id, &group.short.data_key, part, sealed)?;
        parts::decode(FORMAT, &bytes)
    }

    pub(super) fn encode(&self) -> Result<Zeroizing<Vec<u8>>, Stop> {
        parts::encode(FORMAT, self)
    }

    /// Makes the tree know them, so that a commit can refer to them. All were processed when they
    /// came, in this epoch; but a KeyPackage may have expired since, and then no commit can refer
    /// to its Add any more.
    pub(super) fn hand_to(&self, tree: &mut Tree, crypto: &RustCrypto) -> Result<(), Stop> {
        for pending in &self.proposals {
            let queued = parse(&pending.message)
                .ok()
                .and_then(|message| process(tree, crypto, message).ok());
            match (queued, &pending.origin) {
                (Some(queued), _) => tree.add_proposal(queued)?,
                (None, Origin::NewMember(..) | Origin::External) => {}
                (None, Origin::Leaving(_) | Origin::Service(..)) => return Err(DAMAGED),
            }
        }
        Ok(())
    }

    /// Leaves that must go with the next commit, and why.
    pub(super) fn removals(&self) -> Result<Vec<(u32, RemovalReason)>, Stop> {
        self.proposals
            .iter()
            .filter_map(|pending| match &pending.origin {
                Origin::Leaving(leaf) => Some(Ok((*leaf, RemovalReason::OwnWish))),
                Origin::Service(leaf, reason) => Some(
                    RemovalReason::decode(reason)
                        .map(|reason| (*leaf, reason))
                        .map_err(|_| DAMAGED),
                ),
                Origin::External | Origin::NewMember(..) => None,
            })
            .collect()
    }

    /// Where the removal of a leaf was proposed, if it is pending.
    pub(super) fn removal_of(&self, leaf: u32) -> Option<EntryAccepted> {
        self.proposals
            .iter()
            .find(|pending| match &pending.origin {
                Origin::Leaving(of) | Origin::Service(of, _) => *of == leaf,
                Origin::External | Origin::NewMember(..) => false,
            })
            .map(PendingProposal::accepted)
    }

    /// What came with a new member's own proposal.
    pub(super) fn extras_of(&self, key: &[u8]) -> Option<LeafExtras> {
        self.proposals
            .iter()
            .find_map(|pending| match &pending.origin {
                Origin::NewMember(of, extras) if of == key => LeafExtras::decode(extras).ok(),
                _ => None,
            })
    }
}

impl PendingProposal {
    pub(super) fn new(message: Vec<u8>, origin: Origin, accepted: &EntryAccepted) -> Self {
        let Place {
            rotation_epoch,
            position,
        } = accepted.place;
        Self {
            message,
            origin,
            place: (rotation_epoch.0, position.0, accepted.accepted_ms),
        }
    }

    fn accepted(&self) -> EntryAccepted {
        let (rotation_epoch, position, accepted_ms) = self.place;
        EntryAccepted {
            place: Place {
                rotation_epoch: RotationEpoch(rotation_epoch),
                position: Position(position),
            },
            accepted_ms,
        }
    }
}

/// A PublicMessage of content type proposal.
///
/// # Errors
/// [`ProblemType::InvalidMessage`].
pub(super) fn parse(message: &[u8]) -> Result<PublicMessageIn, ProblemType> {
    let (message, rest) =
        MlsMessageIn::tls_deserialize_bytes(message).map_err(|_| ProblemType::InvalidMessage)?;
    match message.try_into_protocol_message() {
        Ok(ProtocolMessage::PublicMessage(message))
            if rest.is_empty() && message.content_type() == ContentType::Proposal =>
        {
            Ok(*message)
        }
        _ => Err(ProblemType::InvalidMessage),
    }
}

/// Verifies a proposal against the tree.
///
/// # Errors
/// [`ProblemType::InvalidMessage`].
pub(super) fn process(
    tree: &Tree,
    crypto: &RustCrypto,
    message: PublicMessageIn,
) -> Result<QueuedProposal, ProblemType> {
    let processed = tree
        .group
        .process_message(crypto, message)
        .map_err(|_| ProblemType::InvalidMessage)?;
    match processed.into_content() {
        ProcessedMessageContent::ProposalMessage(queued)
        | ProcessedMessageContent::ExternalJoinProposalMessage(queued) => Ok(*queued),
        _ => Err(ProblemType::InvalidMessage),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pending_proposals_are_read_as_they_were_written() {
        let pending = |origin| PendingProposal {
            message: vec![1; 3],
            origin,
            place: (2, 3, 4),
        };
        let proposals = PendingProposals {
            proposals: vec![
                pending(Origin::Leaving(5)),
                pending(Origin::Service(6, vec![7; 2])),
                pending(Origin::External),
                pending(Origin::NewMember(vec![8; 3], vec![9; 4])),
            ],
        };
        let bytes = proposals.encode().unwrap();
        crate::fixtures::check("proposals part", &bytes);
        let read: PendingProposals = parts::decode(FORMAT, &bytes).unwrap();
        assert_eq!(format!("{read:?}"), format!("{proposals:?}"));
    }
}
