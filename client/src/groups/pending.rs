//! Proposals that stand until the next commit (RFC 9420 §12.1): of members who leave, and of the
//! service for members that are gone. Whoever notices commits them; nobody can send before.

use openmls::prelude::Sender as MlsSender;
use openmls::prelude::{
    LeafNodeIndex, MlsGroup, OpenMlsProvider as _, ProcessedMessageContent, Proposal, ProposalType,
    ProtocolMessage, QueuedProposal, hash_ref::ProposalRef,
};
use openmls_rust_crypto::RustCrypto;
use openmls_sqlite_storage::Codec as _;
use openmls_traits::crypto::OpenMlsCrypto as _;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::group::{
    EntryAccepted, InspectGroupRequest, InspectGroupResponse, LEAVES_PER_PAGE, ProposalRequest,
};
use protocol::ids::{GroupId, LeafIndex};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use rusqlite::{Connection, OptionalExtension as _};
use tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};

use crate::database::begin;
use crate::engine::Engine;
use crate::error::{Error, LocalError, PeerError, UsageError, mls};
use crate::groups::commit::{Plan, ROUNDS, pause};
use crate::groups::policy::{goes_by_itself, leaving, service_senders};
use crate::groups::process::parse;
use crate::groups::removals as reasons;
use crate::groups::{Group, Status, evidence, further, load_mls, mls_id};
use crate::leaf;
use crate::provider::{JsonCodec, Provider};

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

/// How often the journal is read for a proposal that the service says to be pending.
const LOOKS: u32 = 4;
/// A tree with so many places may be of a group that was small when it was read last.
const MOST_GROWN: u32 = 1_024;

/// As many as a service lets be pending.
const MOST_PENDING: usize = 256;

/// Pending proposals of those who are no members.
fn of_outsiders(mls_group: &MlsGroup) -> usize {
    let pending = mls_group.pending_proposals();
    pending
        .filter(|queued| !matches!(queued.sender(), MlsSender::Member(_)))
        .count()
}

/// Keeps a proposal, in the caller's transaction.
pub(crate) fn keep(db: &Connection, id: &GroupId, bytes: &[u8]) -> Result<(), Error> {
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
        let reason = reasons::check(db, id, &mls_group, leaf, &authenticated_data)?;
        reasons::keep(db, id, &mls_group, leaf, reason)?;
    }
    // By its reference: the same one twice is one.
    Ok(mls_group.store_pending_proposal(provider.storage(), queued)?)
}

/// The member who sent a proposal.
fn proposer(message: &[u8]) -> Option<LeafNodeIndex> {
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
pub(super) fn is_signed(mls_group: &MlsGroup, sender: LeafNodeIndex, message: &[u8]) -> bool {
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
fn split(message: &[u8]) -> Option<(&[u8], Vec<u8>)> {
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

fn has_pending(db: &Connection, id: &GroupId) -> Result<bool, Error> {
    let key = JsonCodec::to_vec(&mls_id(id)).map_err(|_| LocalError::Damaged)?;
    Ok(db
        .query_row(
            "SELECT 1 FROM openmls_proposals WHERE group_id = ? LIMIT 1",
            [key],
            |_| Ok(()),
        )
        .optional()?
        .is_some())
}

/// The message that says that this client leaves; nothing is kept, it comes back through the
/// journal.
fn self_remove(db: &mut Connection, id: &GroupId) -> Result<Vec<u8>, Error> {
    let transaction = begin(db)?;
    let mut mls_group = load_mls(&transaction, id)?;
    let own_leaf = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
    let signer = leaf::signer(&transaction, own_leaf.signature_key().as_slice())?;
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

impl Engine {
    /// The service says that something is pending: it is in the journal, or else the service shows
    /// it.
    pub(crate) async fn learn_pending(&mut self, id: &GroupId) -> Result<(), Error> {
        for round in 0..LOOKS {
            self.read_group(id).await?;
            if Group::read(&self.db, id)?.status != Status::Active {
                return Ok(());
            }
            let inspected = self.inspect(id).await?;
            if inspected.epoch.0 != self.epoch(id)? {
                return Ok(());
            }
            // What has come since the journal was read is in it by now.
            if !self.is_beside_journal(id, &inspected)? {
                return self.judge_pending(id, &inspected).await;
            }
            pause(round).await?;
        }
        Err(Error::Protocol(
            "a proposal is pending that is not in the journal",
        ))
    }

    /// Whether the service shows a proposal that would be taken and is not in the journal. Of what
    /// is not there others know nothing: a commit that covers it stops them all, and it would be
    /// its committer's.
    fn is_beside_journal(
        &mut self,
        id: &GroupId,
        inspected: &InspectGroupResponse,
    ) -> Result<bool, Error> {
        let transaction = begin(&mut self.db)?;
        let pending =
            |db: &Connection| Ok::<_, Error>(load_mls(db, id)?.pending_proposals().count());
        let before = pending(&transaction)?;
        for proposal in &inspected.pending_proposals {
            match keep(&transaction, id, proposal.as_slice()) {
                Ok(()) | Err(Error::Peer(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let is_beside = pending(&transaction)? > before;
        transaction.rollback()?;
        Ok(is_beside)
    }

    /// What of it is refused here.
    async fn judge_pending(
        &mut self,
        id: &GroupId,
        inspected: &InspectGroupResponse,
    ) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let (refused, contradicted) = self.transact(|db, _| {
            let mut refused = Vec::new();
            let mut contradicted = None;
            for proposal in &inspected.pending_proposals {
                match keep(db, id, proposal.as_slice()) {
                    Ok(()) => {}
                    Err(Error::Peer(fault @ PeerError::FalseRemoval(_))) => {
                        evidence::keep(db, id, &fault, (None, proposal.as_slice()), now_ms)?;
                        contradicted = Some(fault);
                    }
                    Err(Error::Peer(fault)) => {
                        let bytes = proposal.as_slice();
                        match proposer(bytes) {
                            Some(leaf) if is_signed(&load_mls(db, id)?, leaf, bytes) => {
                                refused.push(leaf);
                            }
                            Some(_) => {
                                evidence::keep(db, id, &fault, (None, bytes), now_ms)?;
                                contradicted = Some(fault);
                            }
                            None => {}
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok((refused, contradicted))
        })?;
        if let Some(fault) = contradicted {
            // It insists: nothing can be sent here before it relents.
            return Err(fault.into());
        }
        if refused.is_empty() {
            return Ok(());
        }
        // The service cannot check membership tags and insists on what members refuse: whoever sent
        // that goes by value, if this client may do that.
        let (group, mls_group) = (Group::read(&self.db, id)?, load_mls(&self.db, id)?);
        let mut leaves = further::with_their_people(&self.db, &group, &mls_group, &refused)?;
        leaves.retain(|leaf| *leaf != mls_group.own_leaf_index());
        self.stage_plan(id, Plan::Remove(leaves))?;
        self.submit_commit(id).await.map(|_| ())
    }

    /// What the service holds of a group: all pages, as of one epoch.
    pub(crate) async fn inspect(&mut self, id: &GroupId) -> Result<InspectGroupResponse, Error> {
        for round in 0..ROUNDS {
            let mut whole = self.inspect_from(id, 0).await?;
            let mls_group = load_mls(&self.db, id)?;
            let last = mls_group.members().map(|it| it.index.u32()).max();
            // A tree has no more than the next power of two (RFC 9420 §7.7), but it may have grown
            // meanwhile.
            let own = last.unwrap_or(0).saturating_add(1).next_power_of_two();
            if whole.places > own.saturating_mul(2).max(MOST_GROWN) {
                return Err(Error::Protocol("a group has more places than its tree"));
            }
            let mut from = LEAVES_PER_PAGE;
            let mut is_one = true;
            while from < whole.places && is_one {
                let page = self.inspect_from(id, from).await?;
                is_one = page.epoch == whole.epoch && page.places == whole.places;
                whole.leaves.extend(page.leaves);
                from = from.saturating_add(LEAVES_PER_PAGE);
            }
            if is_one {
                return Ok(whole);
            }
            pause(round).await?;
        }
        Err(UsageError::Contention.into())
    }

    async fn inspect_from(
        &mut self,
        id: &GroupId,
        from: u32,
    ) -> Result<InspectGroupResponse, Error> {
        self.as_member(id, Operation::InspectGroup, |_, group| {
            let request = InspectGroupRequest {
                group: group.key(),
                from: LeafIndex(from),
            };
            Ok(request.encode())
        })
        .await
    }

    /// Commits what is pending; does nothing if it is this client itself that is to go.
    pub(crate) async fn cover(&mut self, id: &GroupId) -> Result<(), Error> {
        if !has_pending(&self.db, id)? {
            return Ok(());
        }
        for round in 0..ROUNDS {
            if Group::read(&self.db, id)?.status != Status::Active {
                return Ok(());
            }
            let mls_group = load_mls(&self.db, id)?;
            let leaving = removals(&self.db, &mls_group)?;
            if leaving.is_empty() || leaving.contains(&mls_group.own_leaf_index().u32()) {
                return Ok(());
            }
            self.stage_plan(id, Plan::Cover)?;
            // Whoever was first has covered it as well.
            match self.submit_commit(id).await {
                Err(Error::Refused(refusal))
                    if refusal.problem == ProblemType::PendingProposals =>
                {
                    self.learn_pending(id).await?;
                }
                other => {
                    other?;
                }
            }
            pause(round).await?;
        }
        Err(UsageError::Contention.into())
    }

    /// Proposes that this client goes, unless that stands already; the next commit of another one
    /// carries it out.
    pub(crate) async fn propose_leaving(&mut self, id: &GroupId) -> Result<(), Error> {
        for round in 0..ROUNDS {
            let group = Group::read(&self.db, id)?;
            let mls_group = load_mls(&self.db, id)?;
            let own = mls_group.own_leaf_index().u32();
            if group.status != Status::Active || removals(&self.db, &mls_group)?.contains(&own) {
                return Ok(());
            }
            let epoch = mls_group.epoch().as_u64();
            let proposal = self_remove(&mut self.db, id)?;
            let (sender, signer) = self.own_sender(id)?;
            let request = ProposalRequest {
                group: group.key(),
                proposal: opaque(proposal),
                new_member: None,
            };
            let proposed: Result<EntryAccepted, Error> = self
                .call_as(Operation::SelfRemove, sender, signer, request.encode(), 0)
                .await;
            match proposed {
                Ok(_) => return self.read_group(id).await,
                Err(Error::Refused(refusal)) if refusal.is_of_other_epoch() => {
                    self.follow(id, epoch, refusal.epoch).await?;
                }
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownGroup => {
                    self.follow_rotation(id).await?;
                }
                Err(error) => return Err(error),
            }
            pause(round).await?;
        }
        Err(UsageError::Contention.into())
    }
}
