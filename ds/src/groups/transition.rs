//! What a commit leads to: decided on opened state, then written in one transition with every delivery.

use std::borrow::Cow;

use crypto::keys::{GroupLookup as _, JoinKey, RecoverySecret, StateKey};
use crypto::sealing::{self, Place};
use openmls::prelude::{
    LeafNodeIndex, ProcessedMessageContent, PublicMessageIn, Sender, StagedCommit,
};
use openmls_rust_crypto::RustCrypto;
use protocol::codec::opaque;
use protocol::delivery::{Payload, WelcomeDelivery};
use protocol::groups::{CommitAad, EpochAccepted, JoinRecordContent};
use protocol::ids::GroupId;
use protocol::policy::Capabilities;
use protocol::problem::ProblemType;
use protocol::time::day_of;
use protocol::{Operation, Wire};
use zeroize::Zeroizing;

use super::commit::{Attempt, Joiner, JoinsBy};
use super::parts::seal_key_check;
use super::proposals::PendingProposals;
use super::roster::{
    Leaf, OpenJoinRecord, PendingRemoval, RecentCommit, Roster, Succession, Today,
};
use super::rules::{self, Case, Effect};
use super::tree::{Fields, Tree};
use super::{join, recipients, removals, several_threads, without_starving_others};
use crate::error::DsError;
use crate::limits::within;
use crate::queues::deliver::{self, Gone, Origin, Prepared, Recipient};
use crate::request::Request;
use crate::service_state::DeliveryService;
use crate::store::{
    Advance, DayRow, Deliveries, GroupDeletion, ProposalsChange, StoredGroup, Version,
};

/// A commit that is valid, and the state after it.
pub(super) struct Decision<'r> {
    expected: Version,
    next: Roster<'r>,
    tree: Vec<u8>,
    join_record: Option<(DayRow, Vec<u8>)>,
    /// Whoever came in by this commit and has a Welcome.
    welcome_recipients: Vec<Recipient>,
    removed: Vec<u32>,
    committer: Option<u32>,
    reinitialized_as: Option<GroupId>,
    /// Removals that were proposed and that an external commit could not cover (RFC 9420 §12.4.3.2).
    to_propose_again: Vec<Gone>,
    dropped_recovery_records: Vec<crypto::rows::Row>,
    /// An earlier release wrote them elsewhere.
    moves_recovery_records: bool,
    dropped_join_records: Vec<DayRow>,
}

/// From this many members on, the fan-out of a commit takes longer than starting a thread for it.
const LARGE_GROUP: usize = 256;

impl Attempt<'_> {
    /// Judges the commit and seals it for every queue. Neither needs the other: in a large group each has a core.
    pub(super) async fn decide<'r>(
        &self,
        service: &DeliveryService,
        roster: &Roster<'r>,
        stored: &StoredGroup,
        message: PublicMessageIn,
        joiner: Joiner<'_>,
    ) -> Result<(Decision<'r>, Prepared), DsError> {
        let judge = || self.judge(service, roster, stored, message, joiner);
        match several_threads().filter(|_| roster.leaves().len() >= LARGE_GROUP) {
            None => {
                let decision = without_starving_others(judge)?;
                Ok((decision, self.fan_out(service, roster).await?))
            }
            Some(runtime) => without_starving_others(|| {
                std::thread::scope(|scope| {
                    let fan_out = std::thread::Builder::new()
                        .spawn_scoped(scope, || runtime.block_on(self.fan_out(service, roster)))
                        .map_err(|_| DsError::Internal("no thread for the fan-out"))?;
                    let decision = judge();
                    let prepared = fan_out
                        .join()
                        .unwrap_or(Err(DsError::Internal("the fan-out panicked")));
                    Ok((decision?, prepared?))
                })
            }),
        }
    }

    /// The commit for whoever was a member before, the committer and the removed included: all see how the
    /// epoch ended.
    async fn fan_out(
        &self,
        service: &DeliveryService,
        roster: &Roster<'_>,
    ) -> Result<Prepared, DsError> {
        let mut prepared = Prepared::default();
        deliver::prepare(
            service,
            &mut prepared,
            Origin::Group(self.group_id),
            &recipients(service, roster.leaves().iter())?,
            &Payload::Commit(opaque(self.commit)),
            self.now_ms,
        )
        .await?;
        Ok(prepared)
    }

    fn judge<'r>(
        &self,
        service: &DeliveryService,
        roster: &Roster<'r>,
        stored: &StoredGroup,
        message: PublicMessageIn,
        joiner: Joiner<'_>,
    ) -> Result<Decision<'r>, DsError> {
        let crypto = RustCrypto::default();
        let sealed_tree = stored.tree.as_deref().ok_or(DsError::Internal("tree"))?;
        let mut tree = Tree::open(
            &self.group_id,
            &self.key,
            roster.tree_version.as_ref(),
            sealed_tree,
        )?;
        self_check(service, roster, &tree)?;
        let pending = PendingProposals::of_group(&self.group_id, &self.key, roster, stored)?;
        pending.hand_to(&mut tree, &crypto)?;
        let sender = message.sender().clone();
        let processed = tree
            .group
            .process_message(&crypto, message)
            .map_err(|_| ProblemType::InvalidCommit)?;
        let aad = CommitAad::decode(processed.aad()).map_err(|_| ProblemType::InvalidCommit)?;
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err(ProblemType::InvalidCommit.into());
        };
        let case = Case {
            operation: self.operation,
            sender: sender.clone(),
            permission: joiner.map(|joins| joins.permission),
            authorization: joiner.and_then(|joins| joins.authorization),
            staged: &staged,
            aad: &aad,
            rotates: self.next_key.is_some(),
            roster,
            tree: &tree,
            policy: tree.policy()?,
            pending: &pending,
        };
        let effect = rules::judge(service, &case)?;
        let signer = signer(&tree, &sender, &staged)?;
        let fields = tree.advance(&crypto, *staged, signer, self.partial)?;
        // The request is the joiner's own: signed by the key of the leaf that it brings.
        if let Some(JoinsBy { key, .. }) = joiner
            && tree
                .group
                .leaf(signer)
                .map(|leaf| leaf.signature_key().as_slice())
                != Some(key)
        {
            return Err(ProblemType::BadSignature.into());
        }
        self.conclude(
            service,
            roster,
            stored.version,
            (&tree, fields),
            effect,
            (signer, &sender),
        )
    }

    fn conclude<'r>(
        &self,
        service: &DeliveryService,
        roster: &Roster<'r>,
        expected: Version,
        (tree, fields): (&Tree, Fields),
        effect: Effect,
        (signer, sender): (LeafNodeIndex, &Sender),
    ) -> Result<Decision<'r>, DsError> {
        let removed = effect.removed.clone();
        let reinitialized_as = effect.reinitialized_as;
        let key_packages_until = effect.key_packages_until;
        let committer = match sender {
            Sender::Member(index) => Some(index.u32()),
            _ => None,
        };
        let (leaves, added) = self.next_leaves(service, roster, tree, effect, signer)?;
        let today = day_of(self.now_ms);
        let former_key = committer
            .and_then(|index| roster.leaf(index))
            .map(|leaf| leaf.signature_key.as_ref())
            .filter(|former| {
                tree.group
                    .leaf(signer)
                    .is_some_and(|leaf| leaf.signature_key().as_slice() != *former)
            })
            .map(|former| Cow::Owned(former.to_vec()));
        let policy = tree.policy()?;
        let tree_version = crypto::random()?;
        let mut next = roster.next(
            leaves,
            |pseudonym| {
                policy
                    .as_ref()
                    .map_or(Capabilities::ALL, |policy| policy.capabilities(pseudonym))
            },
            Succession {
                commit: RecentCommit {
                    epoch: tree.group.group_context().epoch().as_u64(),
                    digest: self.digest(),
                    accepted_timestamp_ms: self.now_ms,
                    former_key,
                },
                rotates: self.next_key.is_some(),
                tree_version,
                service_sender: removals::service_sender(service, tree),
                reinitializes: reinitialized_as.is_some(),
                today,
            },
        );
        self_check(service, &next, tree)?;
        let mut dropped_join_records = match committer {
            Some(index) => next.has_joined(index, Today::at(service, self.now_ms)),
            None => next.take_finished_join_records(Today::at(service, self.now_ms)),
        };
        let mut dropped_recovery_records = roster.recovery_rows(service, &self.group_id, |leaf| {
            removed.contains(&leaf.index)
        });
        // Whoever was removed may know a code: none outlives that.
        let expels = self.operation == Operation::RemoveUsers;
        dropped_recovery_records.extend(roster.join_code_rows(service, &self.group_id, |code| {
            expels || code.expiry_day < today
        }));
        if expels {
            next.join_codes.clear();
        }
        if self.operation == Operation::DeleteGroup {
            dropped_recovery_records = roster.recovery_rows(service, &self.group_id, |_| true);
            dropped_recovery_records
                .extend(roster.join_code_rows(service, &self.group_id, |_| true));
            dropped_join_records = roster.join_record_rows().collect();
        }
        dropped_recovery_records.extend(roster.older_recovery_rows(service));
        let key = self.next_key.as_ref().unwrap_or(&self.key);
        let join_record = if added.is_empty() {
            None
        } else {
            self.join_record(service, &next, tree, key)?
        };
        if let Some((at, _)) = &join_record {
            next.join_records
                .push(OpenJoinRecord::new(*at, added.clone(), key_packages_until));
        }
        let to_propose_again = roster
            .pending_removals
            .iter()
            .filter(|pending| roster.renews(pending) && !removed.contains(&pending.leaf))
            .map(|pending| Gone {
                leaf: pending.leaf,
                reason: pending.reason,
            })
            .collect();
        Ok(Decision {
            expected,
            tree: tree.seal(&self.group_id, key, &tree_version, fields)?,
            join_record,
            welcome_recipients: recipients(
                service,
                next.leaves()
                    .iter()
                    .filter(|leaf| self.welcome.is_some() && added.contains(&leaf.index)),
            )?,
            removed,
            committer,
            reinitialized_as,
            to_propose_again,
            dropped_recovery_records,
            moves_recovery_records: roster.older_lookups,
            dropped_join_records,
            next,
        })
    }

    /// The roster follows the tree: who is a member is read from the merged tree, in this one place.
    fn next_leaves<'r>(
        &self,
        service: &DeliveryService,
        roster: &Roster<'r>,
        tree: &Tree,
        effect: Effect,
        signer: LeafNodeIndex,
    ) -> Result<(Vec<Leaf<'r>>, Vec<u32>), DsError> {
        let Effect {
            added,
            removed,
            committer,
            ..
        } = effect;
        let mut arrivals = added.into_iter();
        let mut committer = committer;
        let mut leaves = Vec::with_capacity(roster.leaves().len().saturating_add(arrivals.len()));
        let mut added_indices = Vec::new();
        // Adds fill the leftmost free leaves in their order (RFC 9420 §12.1.1), so new indices come in
        // the order of the Adds.
        for (index, node) in tree.group.treesync().full_leaves() {
            let index = index.u32();
            let leaf = match roster.leaf(index).filter(|_| !removed.contains(&index)) {
                Some(old) if index == signer.u32() => match committer.take() {
                    Some(renewed) => {
                        let link_key = renewed
                            .link_key
                            .unwrap_or_else(|| old.encrypted_identity_link_key.to_vec());
                        renewed
                            .claims
                            .into_leaf(service, index, &link_key)?
                            .with_content_of(old)
                    }
                    None => old.clone(),
                },
                Some(old) => old.clone(),
                None => {
                    let (claims, link_key) = arrivals
                        .next()
                        .ok_or(DsError::Internal("roster is not the tree's"))?;
                    added_indices.push(index);
                    let mut leaf = claims.into_leaf(service, index, &link_key)?;
                    leaf.since_epoch = tree.group.group_context().epoch().as_u64();
                    match self.joiner_recovery_secret {
                        Some(secret) => leaf.with_recovery_secret(secret.expose()),
                        None => leaf,
                    }
                }
            };
            if node.signature_key().as_slice() != leaf.signature_key.as_ref() {
                return Err(DsError::Internal("roster is not the tree's"));
            }
            leaves.push(leaf);
        }
        if arrivals.next().is_some() {
            return Err(DsError::Internal("roster is not the tree's"));
        }
        Ok((leaves, added_indices))
    }

    /// What those who come in need of the new epoch, sealed for them if they have a Welcome. A group that
    /// they could not fetch is not made.
    fn join_record(
        &self,
        service: &DeliveryService,
        next: &Roster<'_>,
        tree: &Tree,
        key: &StateKey,
    ) -> Result<Option<(DayRow, Vec<u8>)>, DsError> {
        let content = JoinRecordContent {
            ratchet_tree: opaque(tree.ratchet_tree()?),
            state_key: key.to_wire(),
            leaves: join::link_keys(next),
        };
        let bytes = Zeroizing::new(content.encode());
        within(bytes.len(), service.settings.limits.join_record_bytes)?;
        let Some(welcome) = self.welcome else {
            return Ok(None);
        };
        let join_key = JoinKey::from(&welcome.join_key);
        let lookup = join_key.lookup_in(&self.group_id);
        let at = Place {
            table: "join_records",
            row: &lookup.0,
            part: "record",
        };
        let sealed = sealing::seal(join_key.expose(), at, &bytes)?;
        Ok(Some((
            DayRow {
                day: day_of(self.now_ms),
                row: service.rows().join_record(&lookup),
            },
            sealed,
        )))
    }

    pub(super) async fn carry_out<T>(
        &self,
        service: &DeliveryService,
        request: &Request<T>,
        price: usize,
        (decision, mut prepared): (Decision<'_>, Prepared),
    ) -> Result<EpochAccepted, DsError> {
        if let Some(successor) = &decision.reinitialized_as {
            join::require_reserved(service, successor, self.now_ms).await?;
        }
        let origin = Origin::Group(self.group_id);
        let mut gone: Vec<Gone> = prepared
            .take_gone()
            .into_iter()
            .filter(|gone| !decision.removed.contains(&gone.leaf))
            .collect();
        if let Some(welcome) = self.welcome {
            let payload = Payload::Welcome(WelcomeDelivery {
                welcome: welcome.welcome.clone(),
                sealed_join_info: welcome.sealed_join_info.clone(),
            });
            deliver::prepare(
                service,
                &mut prepared,
                origin,
                &decision.welcome_recipients,
                &payload,
                self.now_ms,
            )
            .await?;
            gone.extend(prepared.take_gone());
        }
        gone.extend(decision.next.never_came(Today::at(service, self.now_ms)));
        let response = EpochAccepted {
            epoch: decision.next.epoch,
            accepted_timestamp_ms: self.now_ms,
        };
        let receipt = request.receipt(service, price, &response.encode())?;
        if self.operation == Operation::DeleteGroup {
            let deletion = GroupDeletion {
                group: service.rows().group(&self.group_id),
                expected: decision.expected,
                dropped_recovery_records: decision.dropped_recovery_records,
                dropped_join_records: decision.dropped_join_records,
                deliveries: prepared.take_deliveries(),
            };
            service.store.delete_group(deletion, receipt).await?;
            prepared.done(service);
            return Ok(response);
        }
        // What was promised comes first.
        gone.splice(0..0, decision.to_propose_again.iter().copied());
        // Whoever asks is there.
        gone.retain(|gone| Some(gone.leaf) != decision.committer);
        let mut advance = self.advance(service, decision, gone, &mut prepared).await?;
        advance.deliveries = prepared.take_deliveries();
        service.store.advance_group(advance, receipt).await?;
        prepared.done(service);
        Ok(response)
    }

    async fn advance(
        &self,
        service: &DeliveryService,
        decision: Decision<'_>,
        mut gone: Vec<Gone>,
        prepared: &mut Prepared,
    ) -> Result<Advance, DsError> {
        let Decision { mut next, .. } = decision;
        let key = self.next_key.as_ref().unwrap_or(&self.key);
        let version: Version = crypto::random()?;
        let mut seen = std::collections::BTreeSet::new();
        gone.retain(|gone| next.leaf(gone.leaf).is_some() && seen.insert(gone.leaf));
        gone.truncate(removals::MOST_AT_ONCE);
        let proposals = removals::propose(service, &self.group_id, &next, &gone)?;
        let proposals = if proposals.is_empty() {
            ProposalsChange::Clear
        } else {
            next.pending_removals = gone
                .iter()
                .map(|gone| PendingRemoval {
                    leaf: gone.leaf,
                    reason: gone.reason,
                    renewed_by_service: true,
                })
                .collect();
            next.proposals_version = Some(version);
            let everybody = recipients(service, next.leaves().iter())?;
            let origin = Origin::Group(self.group_id);
            for proposal in &proposals {
                let payload = Payload::Proposal(opaque(proposal.message.as_slice()));
                deliver::prepare(service, prepared, origin, &everybody, &payload, self.now_ms)
                    .await?;
            }
            let mut part = PendingProposals::of(proposals);
            ProposalsChange::Put(part.seal(&self.group_id, key, &version)?)
        };
        let mut recovery_records = Vec::new();
        if self.next_key.is_some() || decision.moves_recovery_records {
            recovery_records = join::recovery_records(service, &self.group_id, &next, key)?;
        } else if let Some(secret) = self.joiner_recovery_secret {
            let secret = RecoverySecret::from(secret);
            recovery_records.push(join::sealed_recovery_record(
                service,
                &self.group_id,
                &secret,
                key,
            )?);
        }
        Ok(Advance {
            group: service.rows().group(&self.group_id),
            expected: decision.expected,
            next: version,
            key_check: seal_key_check(&self.group_id, key)?,
            roster: next.seal(&self.group_id, key, &version)?,
            tree: Some(decision.tree),
            proposals,
            join_record: decision.join_record,
            dropped_join_records: decision.dropped_join_records,
            recovery_records,
            dropped_recovery_records: decision.dropped_recovery_records,
            deliveries: Deliveries::default(),
        })
    }
}

fn signer(tree: &Tree, sender: &Sender, staged: &StagedCommit) -> Result<LeafNodeIndex, DsError> {
    match sender {
        Sender::Member(index) => Ok(*index),
        Sender::NewMemberCommit => tree
            .group
            .ext_commit_sender_index(staged)
            .map_err(|_| ProblemType::InvalidCommit.into()),
        Sender::External(_) | Sender::NewMemberProposal => Err(ProblemType::InvalidCommit.into()),
    }
}

/// With the setting `self_check`: a roster that is not the tree's stops the transition.
fn self_check(service: &DeliveryService, roster: &Roster<'_>, tree: &Tree) -> Result<(), DsError> {
    if service.settings.self_check {
        roster_is_tree(roster, tree).map_err(DsError::Internal)?;
    }
    Ok(())
}

/// Roster and tree have the same leaves, keys, pseudonyms and capabilities.
///
/// # Errors
/// What differs.
pub fn roster_is_tree(roster: &Roster<'_>, tree: &Tree) -> Result<(), &'static str> {
    use crypto::credential::PseudonymousCredential;
    if roster.epoch != tree.group.group_context().epoch().as_u64() {
        return Err("self-check: epoch");
    }
    if roster.ciphersuite != u16::from(tree.group.ciphersuite()) {
        return Err("self-check: ciphersuite");
    }
    let policy = tree.policy().map_err(|_| "self-check: policy")?;
    let mut leaves = roster.leaves().iter();
    for (index, node) in tree.group.treesync().full_leaves() {
        let leaf = leaves
            .next()
            .ok_or("self-check: a leaf is missing in the roster")?;
        let credential = PseudonymousCredential::decode(node.credential().serialized_content())
            .map_err(|_| "self-check: credential")?;
        let capabilities = policy.as_ref().map_or(Capabilities::ALL, |policy| {
            policy.capabilities(&leaf.user_pseudonym)
        });
        if leaf.index != index.u32()
            || leaf.signature_key.as_ref() != node.signature_key().as_slice()
            || leaf.user_pseudonym.as_ref() != credential.user_pseudonym.as_slice()
            || leaf.capabilities() != capabilities
        {
            return Err("self-check: a leaf differs");
        }
    }
    if leaves.next().is_some() {
        return Err("self-check: a leaf is missing in the tree");
    }
    Ok(())
}
