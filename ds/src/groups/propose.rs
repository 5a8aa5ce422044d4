//! Proposals that stand until the next commit: of members who leave, of external senders, of new members, and of
//! the service itself.

use crypto::credential::WRAPPED_LINK_KEY_LEN;
use crypto::keys::StateKey;
use crypto::rows::Row;
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{Proposal, ProposalType, QueuedProposal, Sender};
use openmls_rust_crypto::RustCrypto;
use protocol::codec::opaque;
use protocol::delivery::Payload;
use protocol::groups::{GroupKind, MessageAccepted, ProposalRequest};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::removal::RemovalReason;
use protocol::{Operation, Wire};

use super::parts::{open_group, open_roster, seal_key_check, with_parts};
use super::proposals::{self, NewMember, Origin, PendingProposal, PendingProposals};
use super::roster::{PendingRemoval, Roster};
use super::rules::{LeafClaims, leaving};
use super::tree::Tree;
use super::{
    ATTEMPTS, authenticate, charge_allowance, join, recipients, refill, removals,
    without_starving_others,
};
use crate::error::DsError;
use crate::limits::within;
use crate::queues::deliver::{self, Gone, Prepared};
use crate::request::Request;
use crate::service_state::DeliveryService;
use crate::store::{Advance, Parts, ProposalsChange, Receipt, StoredGroup};

/// Takes a proposal and hands it to every member: with [`Operation::SelfRemove`] that of a leaf that leaves, with
/// [`Operation::Propose`] that of an external sender or of a new member.
///
/// # Errors
/// [`ProblemType::UnknownGroup`], [`ProblemType::BadSignature`], [`ProblemType::InvalidMessage`],
/// [`DsError::WrongEpoch`], [`ProblemType::NotAllowed`], [`ProblemType::LimitExceeded`],
/// [`ProblemType::GroupReinitialized`].
pub async fn propose(
    service: &DeliveryService,
    operation: Operation,
    request: Request<ProposalRequest>,
) -> Result<MessageAccepted, DsError> {
    let body = &request.body;
    let group_id = body.group_id;
    let key = StateKey::from(&body.state_key);
    let bytes = body.proposal.as_slice();
    within(bytes.len(), service.settings.limits.proposal_bytes)?;
    let own = operation == Operation::SelfRemove;
    let outsider_price = usize::from(service.settings.prices.external_join);
    if !own {
        request.require_tokens(outsider_price)?;
        request.authenticate_leaf_key()?;
    }
    let row = service.rows().group(&group_id);
    let mut charged = None;
    for _ in 0..ATTEMPTS {
        let opened = open_group(service, row, &group_id, &[&key]).await?;
        let mut roster = Roster::read(&opened.roster)?;
        let leaf = if own {
            Some(authenticate(&request, &roster)?.index)
        } else {
            None
        };
        let response = MessageAccepted {
            accepted_timestamp_ms: request.now_ms,
        };
        if leaf.is_some_and(|leaf| roster.is_leaving(leaf)) {
            return Ok(response);
        }
        if roster.reinitialized {
            return Err(ProblemType::GroupReinitialized.into());
        }
        let message = proposals::parse(bytes)?;
        if message.group_id().as_slice() != group_id.0 {
            return Err(ProblemType::InvalidMessage.into());
        }
        let epoch = message.epoch().as_u64();
        if epoch != roster.epoch {
            return Err(DsError::other_epoch(epoch, roster.epoch));
        }
        let price = match (charged, leaf) {
            (Some(price), _) => price,
            (None, Some(leaf)) => {
                *charged.insert(charge_allowance(service, &request, &group_id, leaf)?)
            }
            (None, None) => *charged.insert(outsider_price),
        };
        let Some(stored) = with_parts(service, row, &opened.stored, Parts::ALL).await? else {
            continue;
        };
        let pending = Opened {
            group_id: &group_id,
            key: &key,
            roster: &roster,
            stored: &stored,
        };
        let judged = without_starving_others(|| {
            let tree = pending.tree()?;
            let queued = proposals::process(&tree, &RustCrypto::default(), message)?;
            let new = match leaf {
                Some(leaf) => of_leaving_member(&tree, &queued, leaf, bytes)?,
                None => of_outsider(service, &request, &pending, &tree, &queued)?,
            };
            Ok((new, queued.proposal().proposal_type()))
        });
        let (new, kind) = match judged {
            Ok(new) => new,
            Err(refusal) => return Err(request.refuse_at_cost(service, price, refusal).await),
        };
        let mut part = pending.proposals()?;
        // Who leaves is bounded by the number of leaves, and must not be kept by what outsiders propose.
        if leaf.is_none() && part.proposals.len() >= service.settings.limits.pending_proposals {
            return Err(ProblemType::LimitExceeded.into());
        }
        if let Origin::SelfRemove(leaf) = new.origin {
            roster.pending_removals.push(PendingRemoval {
                leaf,
                reason: RemovalReason::OwnWish,
                renewed_by_service: kind != ProposalType::SelfRemove,
            });
        }
        part.proposals.push(new.clone());
        let receipt = request.receipt(service, price, &response.encode())?;
        let written = write(
            service,
            (&group_id, row, &key),
            &stored,
            (roster, part, vec![new]),
            (receipt, request.now_ms),
        )
        .await;
        match written {
            Ok(()) => {
                if let Some(leaf) = leaf {
                    refill(service, &group_id, leaf, price);
                }
                return Ok(response);
            }
            Err(DsError::Conflict) => {}
            Err(other) => return Err(other),
        }
    }
    Err(ProblemType::Conflict.into())
}

/// Proposes the removal of leaves that are gone, in a transition of its own. `false` if nothing could be
/// proposed: the group does not list the service, or they are leaving already.
///
/// # Errors
/// [`DsError::Storage`].
pub async fn propose_removals(
    service: &DeliveryService,
    (group_id, row, key): (&GroupId, Row, &StateKey),
    opened: &StoredGroup,
    gone: &[Gone],
    now_ms: u64,
) -> Result<bool, DsError> {
    let Some(stored) = with_parts(service, row, opened, Parts::WITH_PROPOSALS).await? else {
        // Somebody else was first; whoever asks looks again and sees what is pending then.
        return Ok(true);
    };
    let bytes = open_roster(group_id, key, Some(&stored))?;
    let mut roster = Roster::read(&bytes)?;
    let gone: Vec<Gone> = gone
        .iter()
        .copied()
        .filter(|gone| !roster.is_leaving(gone.leaf))
        .take(removals::MOST_AT_ONCE)
        .collect();
    let new = removals::propose(service, group_id, &roster, &gone)?;
    if new.is_empty() {
        return Ok(false);
    }
    let mut part = Opened {
        group_id,
        key,
        roster: &roster,
        stored: &stored,
    }
    .proposals()?;
    part.proposals.extend(new.iter().cloned());
    roster
        .pending_removals
        .extend(gone.into_iter().map(|gone| PendingRemoval {
            leaf: gone.leaf,
            reason: gone.reason,
            renewed_by_service: true,
        }));
    let state = (roster, part, new);
    let receipt = Receipt::default();
    match write(
        service,
        (group_id, row, key),
        &stored,
        state,
        (receipt, now_ms),
    )
    .await
    {
        Ok(()) | Err(DsError::Conflict) => Ok(true),
        Err(other) => Err(other),
    }
}

/// A group whose roster is open.
struct Opened<'g> {
    group_id: &'g GroupId,
    key: &'g StateKey,
    roster: &'g Roster<'g>,
    stored: &'g StoredGroup,
}

impl Opened<'_> {
    fn tree(&self) -> Result<Tree, DsError> {
        let sealed = self
            .stored
            .tree
            .as_deref()
            .ok_or(DsError::Internal("tree"))?;
        Tree::open(
            self.group_id,
            self.key,
            self.roster.tree_version.as_ref(),
            sealed,
        )
    }

    fn proposals(&self) -> Result<PendingProposals, DsError> {
        PendingProposals::of_group(self.group_id, self.key, self.roster, self.stored)
    }
}

async fn write(
    service: &DeliveryService,
    (group_id, row, key): (&GroupId, Row, &StateKey),
    stored: &StoredGroup,
    (mut roster, mut part, new): (Roster<'_>, PendingProposals, Vec<PendingProposal>),
    (receipt, now_ms): (Receipt, u64),
) -> Result<(), DsError> {
    let version = crypto::random()?;
    roster.proposals_version = Some(version);
    let everybody = recipients(service, roster.leaves().iter())?;
    let mut prepared = Prepared::default();
    let origin = deliver::Origin::Group(*group_id);
    for proposal in &new {
        let payload = Payload::Proposal(opaque(proposal.message.as_slice()));
        deliver::prepare(service, &mut prepared, origin, &everybody, &payload, now_ms).await?;
    }
    let records = join::moved_records(service, group_id, &roster, key)?;
    let advance = Advance {
        group: row,
        expected: stored.version,
        next: version,
        key_check: seal_key_check(group_id, key)?,
        roster: roster.seal(group_id, key, &version)?,
        tree: None,
        proposals: ProposalsChange::Put(part.seal(group_id, key, &version)?),
        join_record: None,
        dropped_join_records: Vec::new(),
        recovery_records: records.written,
        dropped_recovery_records: records.dropped,
        deliveries: prepared.take_deliveries(),
    };
    service.store.advance_group(advance, receipt).await?;
    prepared.done(service);
    Ok(())
}

/// A SelfRemove, or a Remove of the sender's own leaf by implementations that have no SelfRemove.
fn of_leaving_member(
    tree: &Tree,
    queued: &QueuedProposal,
    leaf: u32,
    message: &[u8],
) -> Result<PendingProposal, DsError> {
    let by_itself = matches!(queued.sender(), Sender::Member(index) if index.u32() == leaf);
    if !by_itself || leaving(queued) != Some(leaf) {
        return Err(ProblemType::InvalidMessage.into());
    }
    // No commit could cover a type that a member does not support (RFC 9420 §12.2).
    let kind = queued.proposal().proposal_type();
    if kind == ProposalType::SelfRemove
        && !tree
            .group
            .treesync()
            .full_leaves()
            .all(|(_, leaf)| leaf.capabilities().proposals().contains(&kind))
    {
        return Err(ProblemType::InvalidMessage.into());
    }
    Ok(PendingProposal {
        message: message.to_vec(),
        origin: Origin::SelfRemove(leaf),
        new_member: None,
    })
}

/// An Add of the proposer itself, or an Add or Remove by one of the group's other external senders.
fn of_outsider(
    service: &DeliveryService,
    request: &Request<ProposalRequest>,
    group: &Opened<'_>,
    tree: &Tree,
    queued: &QueuedProposal,
) -> Result<PendingProposal, DsError> {
    let asker = request.authenticate_leaf_key()?;
    if group.roster.kind() != GroupKind::Group {
        return Err(ProblemType::NotAllowed.into());
    }
    let (expected_key, origin) = match queued.sender() {
        Sender::External(index) => {
            // openmls shows the index only encoded: a uint32.
            let index = index
                .tls_serialize_detached()
                .ok()
                .and_then(|bytes| <[u8; 4]>::try_from(bytes.as_slice()).ok())
                .ok_or(ProblemType::InvalidMessage)?;
            let at = usize::try_from(u32::from_be_bytes(index))
                .map_err(|_| ProblemType::InvalidMessage)?;
            let listed = removals::external_sender_keys(tree);
            let key = listed.get(at).cloned().ok_or(ProblemType::InvalidMessage)?;
            (key, Origin::External)
        }
        Sender::NewMemberProposal => match queued.proposal() {
            Proposal::Add(add) => {
                let leaf = add.key_package().leaf_node();
                (leaf.signature_key().as_slice().to_vec(), Origin::NewMember)
            }
            _ => return Err(ProblemType::InvalidMessage.into()),
        },
        _ => return Err(ProblemType::InvalidMessage.into()),
    };
    // The request is the proposer's own.
    if expected_key != asker {
        return Err(ProblemType::BadSignature.into());
    }
    let link_key = request.body.encrypted_identity_link_key.as_slice();
    let new_member = match queued.proposal() {
        Proposal::Add(add) => {
            let claims = LeafClaims::of(service, add.key_package().leaf_node())?;
            let banned = tree
                .policy()?
                .is_some_and(|policy| policy.participant(&claims.user_pseudonym).is_some());
            if banned || group.roster.has_user(&claims.user_pseudonym) {
                return Err(ProblemType::NotAllowed.into());
            }
            // Committed together, two of them would fill one place.
            if group
                .proposals()?
                .link_key_of_new_member(&claims.signature_key)
                .is_some()
            {
                return Err(ProblemType::NotAllowed.into());
            }
            (origin == Origin::NewMember).then(|| NewMember {
                signature_key: claims.signature_key,
                encrypted_identity_link_key: link_key.to_vec(),
            })
        }
        Proposal::Remove(remove) if group.roster.leaf(remove.removed().u32()).is_some() => None,
        _ => return Err(ProblemType::InvalidMessage.into()),
    };
    let link_key_len = if new_member.is_some() {
        WRAPPED_LINK_KEY_LEN
    } else {
        0
    };
    if link_key.len() != link_key_len {
        return Err(ProblemType::InvalidMessage.into());
    }
    Ok(PendingProposal {
        message: request.body.proposal.as_slice().to_vec(),
        origin,
        new_member,
    })
}
