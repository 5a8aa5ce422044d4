//! Proposals that stand until the next commit.

use openmls_rust_crypto::RustCrypto;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::group::{EntryAccepted, ProposalRequest};
use protocol::ids::Epoch;
use protocol::journal::{Class, Event};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::checks::{check_extras, within};
use super::member::Member;
use super::message::head_of;
use super::open::{OpenedGroup, names_group};
use super::proposals::{Origin, PendingProposal, PendingProposals, parse, process};
use super::roster::Leaf;
use super::state::write;
use super::tree::Tree;
use crate::env::{Env, Prices};
use crate::journal::Journal;
use crate::journal::load::{Addition, Bound, Room, UserTag};
use crate::operation::{Change, Cost, Operation};
use crate::refusal::Stop;
use crate::request::{Authenticated, Unauthenticated};
use crate::rows::Part;
use crate::view::View;

names_group! { ProposalRequest }

/// [`Number::SelfRemove`]: a leaf says that it leaves.
#[derive(Debug)]
pub struct SelfRemove;

impl Operation for SelfRemove {
    type Request = ProposalRequest;
    type Response = EntryAccepted;
    type Who = Member;
    const OPERATION: Number = Number::SelfRemove;

    fn authenticate<'r>(
        request: &'r Unauthenticated<ProposalRequest>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, ProposalRequest, Member>, Stop> {
        Member::authenticate(request, view, env, |_| Vec::new())
    }

    fn cost(request: &Authenticated<'_, ProposalRequest, Member>, env: &Env<'_>) -> Cost {
        let member = request.who();
        let proposal = request.body().proposal.as_slice().len();
        member.cost(proposal.saturating_add(member.group.tree_work()), env)
    }

    fn decide(
        request: &Authenticated<'_, ProposalRequest, Member>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<EntryAccepted>, Stop> {
        let Member { group, index, leaf } = request.who();
        decide(request.body(), group, By::Leaf(*index, leaf), view, env)
    }
}

/// A key that proposes from outside.
#[derive(Debug)]
pub struct Proposer {
    group: OpenedGroup,
    key: Vec<u8>,
}

/// [`Number::Propose`]: of an external sender, or of a new member (RFC 9420 §12.1.8).
#[derive(Debug)]
pub struct Propose;

impl Operation for Propose {
    type Request = ProposalRequest;
    type Response = EntryAccepted;
    type Who = Proposer;
    const OPERATION: Number = Number::Propose;

    fn most_tokens(prices: &Prices) -> usize {
        usize::from(prices.external_join)
    }

    fn authenticate<'r>(
        request: &'r Unauthenticated<ProposalRequest>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, ProposalRequest, Proposer>, Stop> {
        let signed = request.by_its_key()?;
        let group = OpenedGroup::open(view, request.group(), None, env)?;
        let key = signed.who().key().to_vec();
        Ok(signed.map(|_| Proposer { group, key }))
    }

    fn cost(_request: &Authenticated<'_, ProposalRequest, Proposer>, env: &Env<'_>) -> Cost {
        Cost {
            tokens: env.settings.prices.external_join,
            charges: Vec::new(),
        }
    }

    fn decide(
        request: &Authenticated<'_, ProposalRequest, Proposer>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<EntryAccepted>, Stop> {
        let Proposer { group, key } = request.who();
        decide(request.body(), group, By::Outsider(key), view, env)
    }
}

#[derive(Clone, Copy)]
enum By<'k> {
    Leaf(u32, &'k Leaf),
    Outsider(&'k [u8]),
}

fn decide(
    body: &ProposalRequest,
    group: &OpenedGroup,
    by: By<'_>,
    view: &View,
    env: &mut Env<'_>,
) -> Result<Change<EntryAccepted>, Stop> {
    let bytes = body.proposal.as_slice();
    within(bytes.len(), env.settings.limits.proposal_bytes)?;
    let pending = group.short.proposals.map(|_| Part::Proposals);
    let mut keys: Vec<_> = group
        .short
        .tree_parts()
        .chain(pending)
        .map(|part| group.row.part(part))
        .collect();
    keys.push(env.rows().segment(&group.short.segment).key());
    view.all(&keys)?;
    let mut pending = PendingProposals::open(group, view)?;
    if let By::Leaf(leaf, _) = by
        && let Some(accepted) = pending.removal_of(leaf)
    {
        return Ok(Change::nothing(accepted));
    }
    if group.short.reinitialized {
        return Err(ProblemType::GroupReinitialized.into());
    }
    let message = parse(bytes)?;
    if message.group_id().as_slice() != group.id.0 {
        return Err(ProblemType::InvalidMessage.into());
    }
    let epoch = Epoch(message.epoch().as_u64());
    if epoch != group.short.epoch {
        return Err(group.other_epoch(epoch).into());
    }
    group.require_current()?;
    // Who leaves is bounded by the number of leaves, and must not be kept by what outsiders
    // propose.
    if matches!(by, By::Outsider(_)) && pending.proposals.len() >= env.settings.limits.proposals {
        return Err(ProblemType::LimitExceeded.into());
    }
    let mut head = head_of(group, view, env)?;
    let (user, room) = match by {
        By::Leaf(_, leaf) => (leaf.user_pseudonym.as_slice(), Room::OwnShare),
        // All of them together are one.
        By::Outsider(_) => (&[][..], Room::Bounded),
    };
    let added = Addition {
        class: Class::Handshake,
        user: UserTag::of(&group.short.data_key, user),
        bytes: bytes.len(),
        room,
    };
    let bound = Bound::of_handshakes(&env.settings.limits, group.join_record_bytes());
    let day = head.head.day_of_next(env.today());
    head.head.load.admit(day, &added, &bound, env.now_ms)?;
    let tree = Tree::open(group, view)?;
    let origin = judge(body, group, by, &tree, &pending, message).map_err(Stop::at_cost)?;
    let mut journal = Journal::of(head);
    let event = Event::Proposal(opaque(bytes));
    let accepted = EntryAccepted {
        place: journal.append(&group.short.journal_key, event, env)?,
        accepted_ms: env.now_ms,
    };
    let removes = matches!(origin, Origin::Leaving(_));
    let proposal = PendingProposal::new(bytes.to_vec(), origin, &accepted);
    pending.proposals.push(proposal);
    let plain = vec![(Part::Proposals, pending.encode()?)];
    let mut change = write(group, plain, |short| short.removal_pending |= removes, env)?;
    let appended = journal.appended(env);
    let (head, entries) = journal.into_next(env)?;
    change.head = Some(head);
    change.entries = entries;
    Ok(Change {
        wake: vec![appended],
        ..Change::of(
            crate::store::Transition::ChangeGroup(Box::new(change)),
            accepted,
        )
    })
}

fn judge(
    body: &ProposalRequest,
    group: &OpenedGroup,
    by: By<'_>,
    tree: &Tree,
    pending: &PendingProposals,
    message: openmls::prelude::PublicMessageIn,
) -> Result<Origin, Stop> {
    let refused = |refusal: mls_rules::Refusal| Stop::from(refusal.problem());
    let queued = process(tree, &RustCrypto::default(), message)?;
    let key = match by {
        By::Leaf(leaf, _) => {
            if body.new_member.is_some() {
                return Err(ProblemType::InvalidMessage.into());
            }
            mls_rules::proposal::judge_leaving(&tree.group, &queued, leaf).map_err(refused)?;
            return Ok(Origin::Leaving(leaf));
        }
        By::Outsider(key) => key,
    };
    let outsider = mls_rules::proposal::judge_outsider(&tree.group, group.short.kind, &queued)
        .map_err(refused)?;
    // The request is the proposer's own.
    if outsider.key != key {
        return Err(ProblemType::BadSignature.into());
    }
    match (outsider.new_member, &body.new_member) {
        (None, None) => Ok(Origin::External),
        (Some(claims), Some(extras)) => {
            check_extras(&group.id, &claims.signature_key, extras)?;
            // Committed together, two of them would fill one place.
            if pending.extras_of(&claims.signature_key).is_some() {
                return Err(ProblemType::NotAllowed.into());
            }
            Ok(Origin::NewMember(claims.signature_key, extras.encode()))
        }
        _ => Err(ProblemType::InvalidMessage.into()),
    }
}
