//! The part with the proposals that are pending in the current epoch (RFC 9420 §12.1): kept as they came,
//! handed to external joiners, gone with the epoch.

use crypto::keys::StateKey;
use crypto::sealing;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{
    ContentType, MlsMessageIn, ProcessedMessageContent, ProtocolMessage, PublicMessageIn,
    QueuedProposal,
};
use openmls_rust_crypto::RustCrypto;
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use serde::{Deserialize, Serialize};

use super::parts::{self, Part};
use super::roster::Roster;
use super::tree::Tree;
use crate::error::DsError;
use crate::store::{StoredGroup, Version};

const FORMAT: u8 = 1;

/// The plaintext of a proposals part.
#[derive(Default, Serialize, Deserialize)]
pub struct PendingProposals {
    format: u8,
    /// In the order they came.
    pub proposals: Vec<PendingProposal>,
}

/// One pending proposal.
#[derive(Clone, Serialize, Deserialize)]
pub struct PendingProposal {
    /// `MLSMessage` as it came.
    pub message: Vec<u8>,
    /// Who made it.
    pub origin: Origin,
    /// What a new member said of its leaf.
    pub new_member: Option<NewMember>,
}

/// The leaf that a new member wants to have.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewMember {
    /// Of the leaf.
    pub signature_key: Vec<u8>,
    /// For the members.
    pub encrypted_identity_link_key: Vec<u8>,
}

/// Who made a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A leaf that leaves.
    SelfRemove(u32),
    /// The service, for the removal of this leaf.
    Service(u32),
    /// Another external sender.
    External,
    /// A new member, that wants to be added.
    NewMember,
}

impl PendingProposals {
    /// These.
    #[must_use]
    pub fn of(proposals: Vec<PendingProposal>) -> Self {
        Self {
            format: FORMAT,
            proposals,
        }
    }

    /// What is pending in a group whose roster is open.
    ///
    /// # Errors
    /// As [`PendingProposals::open`].
    pub fn of_group(
        group: &GroupId,
        key: &StateKey,
        roster: &Roster<'_>,
        stored: &StoredGroup,
    ) -> Result<Self, DsError> {
        match (&roster.proposals_version, &stored.proposals) {
            (Some(version), Some(sealed)) => Self::open(group, key, version, sealed),
            (None, _) => Ok(Self::default()),
            (Some(_), None) => Err(DsError::Internal("proposals")),
        }
    }

    /// Opens the part.
    ///
    /// # Errors
    /// [`DsError::Internal`]: a key that opened the roster opens the proposals.
    fn open(
        group: &GroupId,
        key: &StateKey,
        version: &Version,
        sealed: &[u8],
    ) -> Result<Self, DsError> {
        let at = parts::place(group, Part::Proposals, Some(version));
        let bytes = sealing::open(key.expose(), at.as_place(), sealed)?;
        let part: Self =
            postcard::from_bytes(&bytes).map_err(|_| DsError::Internal("proposals"))?;
        if part.format == FORMAT {
            Ok(part)
        } else {
            Err(DsError::Internal("proposals format"))
        }
    }

    /// Seals the part under a version of the group.
    ///
    /// # Errors
    /// [`DsError::Internal`].
    pub fn seal(
        &mut self,
        group: &GroupId,
        key: &StateKey,
        version: &Version,
    ) -> Result<Vec<u8>, DsError> {
        self.format = FORMAT;
        let bytes = postcard::to_stdvec(self).map_err(|_| DsError::Internal("proposals"))?;
        let at = parts::place(group, Part::Proposals, Some(version));
        Ok(sealing::seal(key.expose(), at.as_place(), &bytes)?)
    }

    /// Makes the tree know them, so that a commit can refer to them. All were processed when they came, in
    /// this epoch; but a KeyPackage may have expired since, and then no commit can refer to its Add any more.
    ///
    /// # Errors
    /// [`DsError::Internal`] for any other one.
    pub fn hand_to(&self, tree: &mut Tree, crypto: &RustCrypto) -> Result<(), DsError> {
        for pending in &self.proposals {
            let queued = parse(&pending.message)
                .ok()
                .and_then(|message| process(tree, crypto, message).ok());
            match (queued, pending.origin) {
                (Some(queued), _) => tree.add_proposal(queued)?,
                (None, Origin::NewMember | Origin::External) => {}
                (None, Origin::SelfRemove(_) | Origin::Service(_)) => {
                    return Err(DsError::Internal("pending proposal"));
                }
            }
        }
        Ok(())
    }

    /// The identity link key that came with a new member's own proposal.
    #[must_use]
    pub fn link_key_of_new_member(&self, signature_key: &[u8]) -> Option<&[u8]> {
        self.proposals
            .iter()
            .filter_map(|pending| pending.new_member.as_ref())
            .find(|new_member| new_member.signature_key == signature_key)
            .map(|new_member| new_member.encrypted_identity_link_key.as_slice())
    }
}

/// A PublicMessage of content type proposal.
///
/// # Errors
/// [`ProblemType::InvalidMessage`].
pub fn parse(message: &[u8]) -> Result<PublicMessageIn, DsError> {
    let (message, rest) =
        MlsMessageIn::tls_deserialize_bytes(message).map_err(|_| ProblemType::InvalidMessage)?;
    match message.try_into_protocol_message() {
        Ok(ProtocolMessage::PublicMessage(message))
            if rest.is_empty() && message.content_type() == ContentType::Proposal =>
        {
            Ok(*message)
        }
        _ => Err(ProblemType::InvalidMessage.into()),
    }
}

/// Verifies a proposal against the tree.
///
/// # Errors
/// [`ProblemType::InvalidMessage`].
pub fn process(
    tree: &Tree,
    crypto: &RustCrypto,
    message: PublicMessageIn,
) -> Result<QueuedProposal, DsError> {
    let processed = tree
        .group
        .process_message(crypto, message)
        .map_err(|_| ProblemType::InvalidMessage)?;
    match processed.into_content() {
        ProcessedMessageContent::ProposalMessage(queued)
        | ProcessedMessageContent::ExternalJoinProposalMessage(queued) => Ok(*queued),
        _ => Err(ProblemType::InvalidMessage.into()),
    }
}
