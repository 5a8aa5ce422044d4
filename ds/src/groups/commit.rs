//! Commits: one successor for each epoch; state and every queue, or nothing.

use crypto::keys::{JoinKey, Lookup, RecoverySecret, StateKey};
use crypto::sealing::{self, Place};
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{
    ContentType, LeafNodeIndex, MlsMessageIn, ProcessedMessageContent, ProtocolMessage,
    PublicMessageIn, Sender, StagedCommit,
};
use openmls_rust_crypto::RustCrypto;
use protocol::codec::{WireSecret, opaque};
use protocol::delivery::{Payload, WelcomeDelivery};
use protocol::groups::{
    CommitAad, CommitRequest, EpochAccepted, JoinConnectionRequest, JoinRecordContent,
    PartialGroupInfo, WelcomeUpload,
};
use protocol::ids::{GroupId, QueueId};
use protocol::problem::ProblemType;
use protocol::time::day_of;
use protocol::{Operation, Wire};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::roster::{Leaf, RecentCommit, Roster};
use super::rules::{self, Effect};
use super::tree::{Fields, Tree};
use super::{
    ATTEMPTS, authenticate, charge_allowance, join, open_roster, queues, with_tree,
    without_starving_others,
};
use crate::error::DsError;
use crate::limits::within;
use crate::queues::deliver::{self, Prepared};
use crate::request::Request;
use crate::service_state::DeliveryService;
use crate::store::{Advance, DayRow, StoredGroup};

/// A commit on its way through the checks, whoever sent it.
struct Attempt<'b> {
    operation: Operation,
    group_id: GroupId,
    commit: &'b [u8],
    partial: &'b PartialGroupInfo,
    key: StateKey,
    next_key: Option<StateKey>,
    welcome: Option<&'b WelcomeUpload>,
    joiner_recovery_secret: Option<&'b WireSecret>,
    now_ms: u64,
}

/// What a commit leads to, before it is written.
struct Decision {
    advance: Advance,
    epoch: u64,
    commit_recipients: Vec<QueueId>,
    welcome_recipients: Vec<QueueId>,
}

/// A commit by a member.
///
/// # Errors
/// [`ProblemType::LimitExceeded`], [`ProblemType::UnknownGroup`], [`ProblemType::BadSignature`], [`DsError::WrongEpoch`],
/// [`ProblemType::InvalidMessage`], [`ProblemType::InvalidCommit`] and the others of
/// [`rules::judge`], [`ProblemType::InvalidGroupInfo`], [`DsError::TooManyRequests`]. A token that came with
/// it is spent as soon as the tree was worked on.
pub async fn commit(
    service: &DeliveryService,
    operation: Operation,
    request: Request<CommitRequest>,
) -> Result<EpochAccepted, DsError> {
    let body = &request.body;
    if body.welcome.is_some() != (operation == Operation::AddUsers) {
        return Err(ProblemType::InvalidCommit.into());
    }
    let attempt = Attempt {
        operation,
        group_id: body.group_id,
        commit: body.commit.as_slice(),
        partial: &body.group_info,
        key: StateKey::from(&body.state_key),
        next_key: body.next_state_key.as_ref().map(StateKey::from),
        welcome: body.welcome.as_ref(),
        joiner_recovery_secret: None,
        now_ms: request.now_ms,
    };
    attempt.check_sizes(service)?;
    let row = service.rows().group(&attempt.group_id);
    let mut charged = None;
    for _ in 0..ATTEMPTS {
        let stored = service.store.group(row, false).await?;
        let opened = open_roster_with_either(&attempt, stored.as_ref())?;
        let roster = Roster::read(&opened.bytes)?;
        let sender = match authenticate(&request, &roster) {
            Ok(leaf) => leaf.index,
            Err(refusal) => {
                return attempt
                    .answered_under_former_key(&request, &roster)
                    .ok_or(refusal);
            }
        };
        if let Some(answer) = attempt.answered(&roster) {
            return Ok(answer);
        }
        if opened.with_next_key {
            // The state moved on under this very key, but not by this commit.
            return Err(DsError::WrongEpoch {
                current: roster.epoch,
            });
        }
        // A rotation to the same key would leave the removed with a key that opens.
        if attempt.next_key.as_ref() == Some(&attempt.key) {
            return Err(ProblemType::RotationRequired.into());
        }
        let message = attempt.parse(&roster)?;
        if !matches!(message.sender(), Sender::Member(index) if index.u32() == sender) {
            return Err(ProblemType::InvalidCommit.into());
        }
        let price = match charged {
            Some(price) => price,
            None => *charged
                .insert(charge_allowance(service, &request, &attempt.group_id, sender).await?),
        };
        let Some(stored) = with_tree(service, row, stored).await? else {
            continue;
        };
        let decided = without_starving_others(|| attempt.decide(service, &roster, stored, message));
        let decision = match decided {
            Ok(decision) => decision,
            // The work was done.
            Err(refusal) => return Err(request.refuse_at_cost(service, price, refusal).await),
        };
        match attempt
            .carry_out(service, &request, price, decision.0)
            .await
        {
            Err(DsError::Conflict) => {}
            answer => {
                if price > 0 && answer.is_ok() {
                    service
                        .leaf_allowances
                        .refill(service.rows().allowance(&attempt.group_id, sender));
                }
                return answer;
            }
        }
    }
    Err(ProblemType::Conflict.into())
}

/// An external commit into a connection group, by whoever was asked to join.
///
/// # Errors
/// As [`commit`]; [`ProblemType::NotAllowed`] in other groups and once both are in.
pub async fn join_connection(
    service: &DeliveryService,
    request: Request<JoinConnectionRequest>,
) -> Result<EpochAccepted, DsError> {
    let price = usize::from(service.settings.prices.external_join);
    request.require_tokens(price)?;
    let joiner = request.authenticate_key()?;
    request.require_unspent_tokens(service, price).await?;
    let body = &request.body;
    let attempt = Attempt {
        operation: Operation::JoinConnection,
        group_id: body.group_id,
        commit: body.commit.as_slice(),
        partial: &body.group_info,
        key: StateKey::from(&body.state_key),
        next_key: None,
        welcome: None,
        joiner_recovery_secret: Some(&body.recovery_secret),
        now_ms: request.now_ms,
    };
    attempt.check_sizes(service)?;
    let row = service.rows().group(&attempt.group_id);
    for _ in 0..ATTEMPTS {
        let stored = service.store.group(row, false).await?;
        let opened = open_roster(&attempt.group_id, &attempt.key, stored.as_ref())?;
        let roster = Roster::read(&opened)?;
        if let Some(answer) = attempt.answered(&roster) {
            return Ok(answer);
        }
        let message = attempt.parse(&roster)?;
        if *message.sender() != Sender::NewMemberCommit {
            return Err(ProblemType::InvalidCommit.into());
        }
        let Some(stored) = with_tree(service, row, stored).await? else {
            continue;
        };
        let decided = without_starving_others(|| attempt.decide(service, &roster, stored, message));
        // The request is the joiner's own: signed by the key of the leaf that it brings.
        let decided = decided.and_then(|decision| {
            if decision.joined_as(&joiner.0) {
                Ok(decision)
            } else {
                Err(ProblemType::BadSignature.into())
            }
        });
        let decision = match decided {
            Ok(decision) => decision,
            Err(refusal) => return Err(request.refuse_at_cost(service, price, refusal).await),
        };
        match attempt
            .carry_out(service, &request, price, decision.0)
            .await
        {
            Err(DsError::Conflict) => {}
            answer => return answer,
        }
    }
    Err(ProblemType::Conflict.into())
}

struct OpenedRoster {
    bytes: Zeroizing<Vec<u8>>,
    with_next_key: bool,
}

/// A committer that won but lost the answer comes again with the old key: the state then opens with
/// the next one, and the roster remembers the commit.
fn open_roster_with_either(
    attempt: &Attempt<'_>,
    stored: Option<&StoredGroup>,
) -> Result<OpenedRoster, DsError> {
    match (
        open_roster(&attempt.group_id, &attempt.key, stored),
        &attempt.next_key,
    ) {
        (Ok(bytes), _) => Ok(OpenedRoster {
            bytes,
            with_next_key: false,
        }),
        (Err(DsError::Refused(ProblemType::UnknownGroup)), Some(next)) => {
            open_roster(&attempt.group_id, next, stored).map(|bytes| OpenedRoster {
                bytes,
                with_next_key: true,
            })
        }
        (Err(error), _) => Err(error),
    }
}

impl Attempt<'_> {
    /// Before anything is read: what is too long to be delivered or kept.
    fn check_sizes(&self, service: &DeliveryService) -> Result<(), DsError> {
        let limits = &service.settings.limits;
        within(self.commit.len(), limits.commit_bytes)?;
        let PartialGroupInfo {
            extensions,
            signature,
        } = self.partial;
        within(
            extensions
                .as_slice()
                .len()
                .saturating_add(signature.as_slice().len()),
            limits.group_info_bytes,
        )?;
        if let Some(WelcomeUpload {
            welcome,
            sealed_join_info,
            ..
        }) = self.welcome
        {
            within(
                welcome
                    .as_slice()
                    .len()
                    .saturating_add(sealed_join_info.as_slice().len()),
                limits.welcome_bytes,
            )?;
        }
        Ok(())
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.commit).into()
    }

    fn answered(&self, roster: &Roster<'_>) -> Option<EpochAccepted> {
        roster.accepted(&self.digest()).map(|commit| EpochAccepted {
            epoch: commit.epoch,
            accepted_timestamp_ms: commit.accepted_timestamp_ms,
        })
    }

    /// As [`Attempt::answered`], for a winner whose commit changed the key that it still signs with.
    fn answered_under_former_key<T>(
        &self,
        request: &Request<T>,
        roster: &Roster<'_>,
    ) -> Option<EpochAccepted> {
        let former = roster.accepted(&self.digest())?.former_key?;
        request.authenticate_leaf(&former).ok()?;
        self.answered(roster)
    }

    /// A PublicMessage of content type commit for this group and epoch.
    fn parse(&self, roster: &Roster<'_>) -> Result<PublicMessageIn, DsError> {
        let (message, rest) = MlsMessageIn::tls_deserialize_bytes(self.commit)
            .map_err(|_| ProblemType::InvalidMessage)?;
        let Ok(message) = message.try_into_protocol_message() else {
            return Err(ProblemType::InvalidMessage.into());
        };
        if !rest.is_empty()
            || message.content_type() != ContentType::Commit
            || message.group_id().as_slice() != self.group_id.0
        {
            return Err(ProblemType::InvalidMessage.into());
        }
        let epoch = message.epoch().as_u64();
        match message {
            ProtocolMessage::PublicMessage(_) if epoch != roster.epoch => {
                Err(DsError::WrongEpoch {
                    current: roster.epoch,
                })
            }
            ProtocolMessage::PublicMessage(message) => Ok(*message),
            ProtocolMessage::PrivateMessage(_) => Err(ProblemType::InvalidMessage.into()),
        }
    }

    fn decide(
        &self,
        service: &DeliveryService,
        roster: &Roster<'_>,
        stored: StoredGroup,
        message: PublicMessageIn,
    ) -> Result<Decided, DsError> {
        let crypto = RustCrypto::default();
        let sealed_tree = stored.tree.as_deref().ok_or(DsError::Internal("tree"))?;
        let mut tree = Tree::open(&self.group_id, &roster.tree_version, &self.key, sealed_tree)?;
        let sender = message.sender().clone();
        let processed = tree
            .group
            .process_message(&crypto, message)
            .map_err(|_| ProblemType::InvalidCommit)?;
        let aad = CommitAad::decode(processed.aad()).map_err(|_| ProblemType::InvalidCommit)?;
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err(ProblemType::InvalidCommit.into());
        };
        let rotates = self.next_key.is_some();
        let effect = rules::judge(
            service,
            self.operation,
            (roster, &tree),
            &sender,
            &staged,
            &aad,
            rotates,
        )?;
        let signer = signer(&tree, &sender, &staged)?;
        let fields = tree.advance(&crypto, *staged, signer, self.partial)?;
        let joined_key = match sender {
            Sender::NewMemberCommit => tree
                .group
                .leaf(signer)
                .map(|leaf| leaf.signature_key().as_slice().to_vec()),
            _ => None,
        };
        let decision = self.write(
            service,
            roster,
            stored.version,
            (&tree, fields),
            (effect, signer),
        )?;
        Ok(Decided(decision, joined_key))
    }

    fn write(
        &self,
        service: &DeliveryService,
        roster: &Roster<'_>,
        expected: [u8; 16],
        (tree, fields): (&Tree, Fields),
        (effect, signer): (Effect, LeafNodeIndex),
    ) -> Result<Decision, DsError> {
        let removed = effect.removed.clone();
        let (leaves, added) = self.next_leaves(service, roster, tree, effect, signer)?;
        let key = self.next_key.as_ref().unwrap_or(&self.key);
        let epoch = tree.group.group_context().epoch().as_u64();
        let former_key = roster
            .leaf(signer.u32())
            .map(|leaf| leaf.signature_key.as_ref())
            .filter(|former| {
                tree.group
                    .leaf(signer)
                    .is_some_and(|leaf| leaf.signature_key().as_slice() != *former)
            })
            .and_then(|former| former.try_into().ok());
        let commit = RecentCommit {
            epoch,
            digest: self.digest(),
            accepted_timestamp_ms: self.now_ms,
            former_key,
        };
        let version = crypto::random()?;
        let next = roster.next(version, leaves, commit, self.next_key.is_some());

        let mut recovery_records = Vec::new();
        if let Some(next_key) = &self.next_key {
            for leaf in next.leaves() {
                let Ok(secret) = RecoverySecret::try_from(leaf.recovery_secret.as_ref()) else {
                    continue;
                };
                recovery_records.push(join::sealed_recovery_record(service, &secret, next_key)?);
            }
        }
        let dropped_recovery_records = removed
            .iter()
            .filter_map(|index| roster.leaf(*index))
            .filter_map(|leaf| RecoverySecret::try_from(leaf.recovery_secret.as_ref()).ok())
            .map(|secret| service.rows().recovery_record(&secret.lookup()))
            .collect();
        let join_record = self
            .welcome
            .map(|welcome| self.join_record(service, &next, tree, key, welcome))
            .transpose()?;
        Ok(Decision {
            advance: Advance {
                group: service.rows().group(&self.group_id),
                expected,
                next: version,
                roster: next.seal(&self.group_id, &version, key)?,
                tree: Some(tree.seal(&self.group_id, &version, key, fields)?),
                join_record,
                recovery_records,
                dropped_recovery_records,
                deliveries: crate::store::Deliveries::default(),
            },
            epoch,
            // Whoever was a member before, the committer and the removed included: all see how the epoch
            // ended. Added ones start with the Welcome.
            commit_recipients: queues(service, roster.leaves().iter())?,
            welcome_recipients: queues(
                service,
                next.leaves()
                    .iter()
                    .filter(|leaf| self.welcome.is_some() && added.contains(&leaf.index)),
            )?,
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
                    Some((claims, new_link_key)) => {
                        let link_key = new_link_key
                            .unwrap_or_else(|| old.encrypted_identity_link_key.to_vec());
                        claims
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
                    if let Some(secret) = self.joiner_recovery_secret {
                        leaf.recovery_secret = secret.expose().to_vec().into();
                    }
                    leaf
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

    fn join_record(
        &self,
        service: &DeliveryService,
        next: &Roster<'_>,
        tree: &Tree,
        key: &StateKey,
        welcome: &WelcomeUpload,
    ) -> Result<(DayRow, Vec<u8>), DsError> {
        let join_key = JoinKey::from(&welcome.join_key);
        let lookup = join_key.lookup();
        let content = JoinRecordContent {
            ratchet_tree: opaque(tree.ratchet_tree()?),
            state_key: key.to_wire(),
            leaves: join::link_keys(next),
        };
        let bytes = Zeroizing::new(content.encode());
        let at = Place {
            table: "join_records",
            row: &lookup.0,
            part: "record",
        };
        let sealed = sealing::seal(join_key.expose(), at, &bytes)?;
        Ok((
            DayRow {
                day: day_of(self.now_ms),
                row: service.rows().join_record(&lookup),
            },
            sealed,
        ))
    }

    async fn carry_out<T>(
        &self,
        service: &DeliveryService,
        request: &Request<T>,
        price: usize,
        decision: Decision,
    ) -> Result<EpochAccepted, DsError> {
        let mut prepared = Prepared::default();
        let payload = Payload::Commit(opaque(self.commit));
        deliver::prepare(
            service,
            &mut prepared,
            &decision.commit_recipients,
            &payload,
            self.now_ms,
        )
        .await?;
        if let Some(welcome) = self.welcome {
            let payload = Payload::Welcome(WelcomeDelivery {
                welcome: welcome.welcome.clone(),
                sealed_join_info: welcome.sealed_join_info.clone(),
            });
            deliver::prepare(
                service,
                &mut prepared,
                &decision.welcome_recipients,
                &payload,
                self.now_ms,
            )
            .await?;
        }
        let response = EpochAccepted {
            epoch: decision.epoch,
            accepted_timestamp_ms: self.now_ms,
        };
        let receipt = request.receipt(service, price, &response.encode())?;
        let mut advance = decision.advance;
        advance.deliveries = std::mem::take(&mut prepared.deliveries);
        service.store.advance_group(advance, receipt).await?;
        prepared.done(service);
        Ok(response)
    }
}

/// A decision, with the signature key of the leaf that joined by it.
struct Decided(Decision, Option<Vec<u8>>);

impl Decided {
    fn joined_as(&self, key: &[u8]) -> bool {
        self.1.as_deref() == Some(key)
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
