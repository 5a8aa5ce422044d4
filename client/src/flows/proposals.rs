//! Proposals that stand until the next commit (RFC 9420 §12.1): of members who leave, and of the
//! service for members that are gone. Whoever notices commits them; nobody can send before.

use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::group::{
    EntryAccepted, InspectGroupRequest, InspectGroupResponse, LEAVES_PER_PAGE, ProposalRequest,
};
use protocol::ids::{GroupId, LeafIndex, Week};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use rusqlite::Connection;

use crate::engine::Engine;
use crate::error::{Error, PeerError, UsageError};
use crate::flows::rounds::{ROUNDS, pause};
use crate::mls::further;
use crate::mls::plan::Plan;
use crate::mls::proposals::{MOST_GROWN, is_signed, keep, proposer, removals, self_remove};
use crate::store::database::begin;
use crate::store::mls::has_pending;
use crate::store::{Group, Status, evidence, load_mls};

/// How often the journal is read for a proposal that the service says to be pending.
const LOOKS: u32 = 4;

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
        let week = Week::of(self.transport.time.now_unix_ms());
        let transaction = begin(&mut self.db)?;
        let pending =
            |db: &Connection| Ok::<_, Error>(load_mls(db, id)?.pending_proposals().count());
        let before = pending(&transaction)?;
        for proposal in &inspected.pending_proposals {
            match keep(&transaction, id, proposal.as_slice(), week) {
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
                match keep(db, id, proposal.as_slice(), Week::of(now_ms)) {
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
        let (group, mls_group) = (Group::read(&self.db, id)?, self.mls(id)?);
        let mut leaves = further::with_their_people(&self.db, &group, &mls_group, &refused)?;
        leaves.retain(|leaf| *leaf != mls_group.own_leaf_index());
        self.stage_plan(id, Plan::Remove(leaves))?;
        self.submit_kept(id).await.map(|_| ())
    }

    /// What the service holds of a group: all pages, as of one epoch.
    pub(crate) async fn inspect(&mut self, id: &GroupId) -> Result<InspectGroupResponse, Error> {
        for round in 0..ROUNDS {
            let mut whole = self.inspect_from(id, 0).await?;
            let mls_group = self.mls(id)?;
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
            let mls_group = self.mls(id)?;
            let leaving = removals(&self.db, &mls_group)?;
            if leaving.is_empty() || leaving.contains(&mls_group.own_leaf_index().u32()) {
                return Ok(());
            }
            self.stage_plan(id, Plan::Cover)?;
            // Whoever was first has covered it as well.
            match self.submit_kept(id).await {
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
            let mls_group = self.mls(id)?;
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
