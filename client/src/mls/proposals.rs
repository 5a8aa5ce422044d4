//! Proposals that wait for a commit.

use openmls::prelude::hash_ref::ProposalRef;
use openmls::prelude::{
    LeafNodeIndex, MlsGroup, OpenMlsProvider as _, ProcessedMessageContent, Proposal, ProposalType,
    ProtocolMessage, QueuedProposal, Sender as MlsSender,
};
use openmls_rust_crypto::RustCrypto;
use openmls_traits::crypto::OpenMlsCrypto as _;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::ids::{GroupId, Week};
use rusqlite::Connection;
use tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};

use crate::error::{Error, LocalError, PeerError, mls};
use crate::mls::entry::parse;
use crate::mls::policy::{goes_by_itself, leaving, service_senders};
use crate::mls::removals as mls_removals;
use crate::store::database::begin;
use crate::store::provider::Provider;
use crate::store::{leaf_keys, load_mls, removals as store_removals};

/// Leaves that must go: by their own wish or the service's.
pub(crate) fn removals(db: &Connection, mls_group: &MlsGroup) -> Result<Vec<u32>, Error> {
    let service = service_senders(db)?;
    Ok(mls_group
        .pending_proposals()
        .filter(|queued| goes_by_itself(&service, mls_group, queued))
        .filter_map(leaving)
        .map(|leaf| leaf.u32())
        .collect())
}

/// The references of the pending proposals that a commit of ours covers. What outsiders want
/// lapses.
pub(crate) fn covered(db: &Connection, mls_group: &MlsGroup) -> Result<Vec<ProposalRef>, Error> {
    let service = service_senders(db)?;
    Ok(mls_group
        .pending_proposals()
        .filter(|queued| goes_by_itself(&service, mls_group, queued))
        .map(|queued| queued.proposal_reference_ref().clone())
        .collect())
}

/// Whether a commit of ours covers a proposal: all by value, and those.
pub(crate) fn is_covered(covered: &[ProposalRef], queued: &QueuedProposal) -> bool {
    let by_reference =
        queued.proposal_or_ref_type() == openmls::prelude::ProposalOrRefType::Reference;
    !by_reference || covered.contains(queued.proposal_reference_ref())
}

/// A tree with so many places may be of a group that was small when it was read last.
pub(crate) const MOST_GROWN: u32 = 1_024;

/// As many as a service lets be pending.
pub(crate) const MOST_PENDING: usize = 256;

/// Pending proposals of those who are no members.
pub(crate) fn of_outsiders(mls_group: &MlsGroup) -> usize {
    let pending = mls_group.pending_proposals();
    pending
        .filter(|queued| !matches!(queued.sender(), MlsSender::Member(_)))
        .count()
}

/// Keeps a proposal, in the caller's transaction.
pub(crate) fn keep(
    db: &Connection,
    id: &GroupId,
    bytes: &[u8],
    accepted: Week,
) -> Result<(), Error> {
    let provider = Provider::new(db);
    let mut mls_group = load_mls(db, id)?;
    let processed = mls_group
        .process_message(&provider, parse(bytes)?)
        .map_err(|_| PeerError::Proposal)?;
    let authenticated_data = processed.aad().to_vec();
    let queued = match processed.into_content() {
        ProcessedMessageContent::ProposalMessage(queued)
        | ProcessedMessageContent::ExternalJoinProposalMessage(queued) => *queued,
        _ => return Err(PeerError::Proposal.into()),
    };
    // A member can propose to leave, and nothing else by reference.
    let sound = match queued.sender() {
        MlsSender::Member(sender) => leaving(&queued) == Some(*sender),
        MlsSender::External(_) | MlsSender::NewMemberProposal => {
            matches!(queued.proposal(), Proposal::Add(_) | Proposal::Remove(_))
        }
        MlsSender::NewMemberCommit => false,
    };
    if !sound {
        return Err(PeerError::Proposal.into());
    }
    // They stand until the next commit, which can be long; no honest service has more.
    if !matches!(queued.sender(), MlsSender::Member(_)) && of_outsiders(&mls_group) >= MOST_PENDING
    {
        return Err(PeerError::Proposal.into());
    }
    if let (MlsSender::External(_), Some(leaf)) = (queued.sender(), leaving(&queued))
        && service_senders(db)?.sent(mls_group.extensions(), &queued)
    {
        let reason = mls_removals::check(db, id, &mls_group, leaf, &authenticated_data, accepted)?;
        store_removals::keep(db, id, &mls_group, leaf, reason)?;
    }
    // By its reference: the same one twice is one.
    Ok(mls_group.store_pending_proposal(provider.storage(), queued)?)
}

/// The member who sent a proposal.
pub(crate) fn proposer(message: &[u8]) -> Option<LeafNodeIndex> {
    match parse(message) {
        Ok(ProtocolMessage::PublicMessage(message)) => match message.sender() {
            MlsSender::Member(leaf) => Some(*leaf),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a member's proposal to leave is signed by its sender (RFC 9420 §6.1), whatever its
/// membership tag, which the library wants to see first. One that is not the service has made up.
pub(crate) fn is_signed(mls_group: &MlsGroup, sender: LeafNodeIndex, message: &[u8]) -> bool {
    let Some((framed, signature)) = split(message) else {
        return false;
    };
    let Some(node) = mls_group.public_group().leaf(sender) else {
        return false;
    };
    let context = mls_group.public_group().group_context();
    let Ok(context) = context.tls_serialize_detached() else {
        return false;
    };
    let label = opaque(*b"MLS 1.0 FramedContentTBS").encode();
    let signed = opaque([framed, &context].concat()).encode();
    RustCrypto::default()
        .verify_signature(
            mls_group.ciphersuite().signature_algorithm(),
            &[label, signed].concat(),
            node.signature_key().as_slice(),
            &signature,
        )
        .is_ok()
}

/// A PublicMessage with a member's Remove or SelfRemove: all that is signed but the context, and
/// the signature.
pub(crate) fn split(message: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    const REMOVE: u16 = 3;
    const SELF_REMOVE: u16 = 10;
    // Version and wire format; group, epoch, sender, authenticated data, content type, proposal
    // type.
    let (_, rest) = u32::tls_deserialize_bytes(message).ok()?;
    let (_, rest) = VLBytes::tls_deserialize_bytes(rest).ok()?;
    let (_, rest) = <[u8; 13]>::tls_deserialize_bytes(rest).ok()?;
    let (_, rest) = VLBytes::tls_deserialize_bytes(rest).ok()?;
    let (_, rest) = u8::tls_deserialize_bytes(rest).ok()?;
    let (kind, rest) = u16::tls_deserialize_bytes(rest).ok()?;
    let rest = match kind {
        REMOVE => u32::tls_deserialize_bytes(rest).ok()?.1,
        SELF_REMOVE => rest,
        _ => return None,
    };
    let framed = message.get(..message.len().checked_sub(rest.len())?)?;
    let (signature, _) = VLBytes::tls_deserialize_bytes(rest).ok()?;
    Some((framed, signature.as_slice().to_vec()))
}

/// The message that says that this client leaves; nothing is kept, it comes back through the
/// journal.
pub(crate) fn self_remove(db: &mut Connection, id: &GroupId) -> Result<Vec<u8>, Error> {
    let transaction = begin(db)?;
    let mut mls_group = load_mls(&transaction, id)?;
    let own_leaf = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
    let signer = leaf_keys::signer(&transaction, own_leaf.signature_key().as_slice())?;
    let provider = Provider::new(&transaction);
    // Where it is not required somebody may not support it; a Remove of itself everybody does.
    let everybody_knows_self_remove =
        mls_group
            .extensions()
            .required_capabilities()
            .is_some_and(|required| {
                required
                    .proposal_types()
                    .contains(&ProposalType::SelfRemove)
            });
    let message = if everybody_knows_self_remove {
        mls_group.leave_group_via_self_remove(&provider, &signer)
    } else {
        mls_group.leave_group(&provider, &signer)
    }
    .map_err(mls)?
    .tls_serialize_detached()
    .map_err(mls)?;
    transaction.rollback()?;
    Ok(message)
}
