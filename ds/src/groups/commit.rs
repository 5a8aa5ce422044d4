//! Commits: one successor for each epoch; state and every queue, or nothing.

use crypto::keys::StateKey;
use crypto::rows::Row;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{ContentType, MlsMessageIn, ProtocolMessage, PublicMessageIn, Sender};
use protocol::Operation;
use protocol::codec::WireSecret;
use protocol::groups::{
    CommitRequest, EpochAccepted, ExternalJoinRequest, LeafAuthorization, PartialGroupInfo,
    WelcomeUpload,
};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use sha2::{Digest, Sha256};

use super::parts::{OpenedGroup, open_group, with_parts};
use super::permits::{self, Permission};
use super::roster::{RecentCommit, Roster};
use super::{ATTEMPTS, authenticate, charge_allowance};
use crate::error::DsError;
use crate::limits::within;
use crate::request::Request;
use crate::service_state::DeliveryService;
use crate::store::Parts;

/// A commit on its way through the checks, whoever sent it.
pub(super) struct Attempt<'b> {
    pub(super) operation: Operation,
    pub(super) group_id: GroupId,
    pub(super) commit: &'b [u8],
    pub(super) partial: &'b PartialGroupInfo,
    pub(super) key: StateKey,
    pub(super) next_key: Option<StateKey>,
    pub(super) welcome: Option<&'b WelcomeUpload>,
    pub(super) joiner_recovery_secret: Option<&'b WireSecret>,
    pub(super) now_ms: u64,
}

/// A commit by a member.
///
/// # Errors
/// [`ProblemType::LimitExceeded`], [`ProblemType::UnknownGroup`], [`ProblemType::BadSignature`], [`DsError::WrongEpoch`],
/// [`ProblemType::GroupReinitialized`], [`ProblemType::InvalidMessage`], [`ProblemType::InvalidCommit`] and the others of
/// [`super::rules::judge`], [`ProblemType::InvalidGroupInfo`], [`DsError::TooManyRequests`]. A token that came with
/// it is spent as soon as the tree was worked on.
pub async fn commit(
    service: &DeliveryService,
    operation: Operation,
    request: Request<CommitRequest>,
) -> Result<EpochAccepted, DsError> {
    let body = &request.body;
    let adds = matches!(operation, Operation::AddUsers | Operation::AddClients);
    if body.welcome.is_some() != adds {
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
    attempt.check(service)?;
    let row = service.rows().group(&attempt.group_id);
    let mut charged = None;
    for _ in 0..ATTEMPTS {
        let opened = attempt.open_with_either_key(service, row).await?;
        let roster = Roster::read(&opened.roster)?;
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
        if opened.by != CURRENT_KEY {
            // The state moved on under this very key, but not by this commit.
            return Err(DsError::WrongEpoch {
                current: roster.epoch,
            });
        }
        let message = attempt.parse(&roster)?;
        if !matches!(message.sender(), Sender::Member(index) if index.u32() == sender) {
            return Err(ProblemType::InvalidCommit.into());
        }
        let price = match charged {
            Some(price) => price,
            None => *charged.insert(charge_allowance(
                service,
                &request,
                &attempt.group_id,
                sender,
            )?),
        };
        let Some(stored) = with_parts(service, row, &opened.stored, Parts::ALL).await? else {
            continue;
        };
        let decided = attempt
            .decide(service, &roster, &stored, message, None)
            .await;
        let decision = match decided {
            Ok(decision) => decision,
            // The work was done.
            Err(refusal) => return Err(request.refuse_at_cost(service, price, refusal).await),
        };
        match attempt.carry_out(service, &request, price, decision).await {
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

/// An external commit by whoever has a permit.
///
/// # Errors
/// As [`commit`]; [`ProblemType::NotAllowed`] for a permit that is none.
pub async fn external_join(
    service: &DeliveryService,
    request: Request<ExternalJoinRequest>,
) -> Result<EpochAccepted, DsError> {
    let price = usize::from(service.settings.prices.external_join);
    request.require_tokens(price)?;
    let joiner = request.authenticate_leaf_key()?;
    let body = &request.body;
    let attempt = Attempt {
        operation: Operation::ExternalJoin,
        group_id: body.group_id,
        commit: body.commit.as_slice(),
        partial: &body.group_info,
        key: StateKey::from(&body.state_key),
        next_key: body.next_state_key.as_ref().map(StateKey::from),
        welcome: None,
        joiner_recovery_secret: Some(&body.recovery_secret),
        now_ms: request.now_ms,
    };
    attempt.check(service)?;
    let row = service.rows().group(&attempt.group_id);
    for _ in 0..ATTEMPTS {
        let opened = attempt.open_with_either_key(service, row).await?;
        let roster = Roster::read(&opened.roster)?;
        // Who lost the answer is a member by now.
        if roster.leaf_with_key(joiner).is_some()
            && let Some(answer) = attempt.answered(&roster)
        {
            return Ok(answer);
        }
        if opened.by != CURRENT_KEY {
            return Err(DsError::WrongEpoch {
                current: roster.epoch,
            });
        }
        let permission = permits::verify(
            service,
            &roster,
            (&attempt.group_id, &attempt.key),
            &body.permit,
            joiner,
            request.now_ms,
        )?;
        let message = attempt.parse(&roster)?;
        if *message.sender() != Sender::NewMemberCommit {
            return Err(ProblemType::InvalidCommit.into());
        }
        let Some(stored) = with_parts(service, row, &opened.stored, Parts::ALL).await? else {
            continue;
        };
        let decided = attempt
            .decide(
                service,
                &roster,
                &stored,
                message,
                Some(JoinsBy {
                    permission: &permission,
                    authorization: body.permit.authorization(),
                    key: joiner,
                }),
            )
            .await;
        let decision = match decided {
            Ok(decision) => decision,
            Err(refusal) => return Err(request.refuse_at_cost(service, price, refusal).await),
        };
        match attempt.carry_out(service, &request, price, decision).await {
            Err(DsError::Conflict) => {}
            answer => return answer,
        }
    }
    Err(ProblemType::Conflict.into())
}

/// Which of the keys that an attempt tries is the one that it names as the group's.
const CURRENT_KEY: usize = 0;

/// Why an external committer may; nothing for a member.
pub(super) type Joiner<'j> = Option<JoinsBy<'j>>;

/// Why somebody may join by an external commit.
#[derive(Clone, Copy)]
pub(super) struct JoinsBy<'j> {
    pub(super) permission: &'j Permission,
    /// The word of a leaf, if the permission is one.
    pub(super) authorization: Option<&'j LeafAuthorization>,
    /// The signature key of the new leaf.
    pub(super) key: &'j [u8],
}

impl Attempt<'_> {
    /// Before anything is read: what is too long to be delivered or kept, and a rotation that is none.
    fn check(&self, service: &DeliveryService) -> Result<(), DsError> {
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
        if self.next_key.as_ref() == Some(&self.key) {
            return Err(ProblemType::RotationRequired.into());
        }
        Ok(())
    }

    /// A committer that won but lost the answer comes again with the old key: the state then opens with
    /// the next one, and the roster remembers the commit.
    async fn open_with_either_key(
        &self,
        service: &DeliveryService,
        row: Row,
    ) -> Result<OpenedGroup, DsError> {
        let keys: Vec<&StateKey> = [Some(&self.key), self.next_key.as_ref()]
            .into_iter()
            .flatten()
            .collect();
        open_group(service, row, &self.group_id, &keys).await
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.commit).into()
    }

    fn answered(&self, roster: &Roster<'_>) -> Option<EpochAccepted> {
        roster.accepted(&self.digest()).map(answer)
    }

    /// As [`Attempt::answered`], for a winner whose commit changed the key that it still signs with.
    fn answered_under_former_key<T>(
        &self,
        request: &Request<T>,
        roster: &Roster<'_>,
    ) -> Option<EpochAccepted> {
        let commit = roster.accepted(&self.digest())?;
        request
            .authenticate_leaf(commit.former_key.as_ref()?)
            .ok()?;
        Some(answer(commit))
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
        // Deletion is what is left to do.
        if roster.reinitialized && self.operation != Operation::DeleteGroup {
            return Err(ProblemType::GroupReinitialized.into());
        }
        let epoch = message.epoch().as_u64();
        match message {
            ProtocolMessage::PublicMessage(_) if epoch != roster.epoch => {
                Err(DsError::other_epoch(epoch, roster.epoch))
            }
            ProtocolMessage::PublicMessage(message) => Ok(*message),
            ProtocolMessage::PrivateMessage(_) => Err(ProblemType::InvalidMessage.into()),
        }
    }
}

fn answer(commit: &RecentCommit<'_>) -> EpochAccepted {
    EpochAccepted {
        epoch: commit.epoch,
        accepted_timestamp_ms: commit.accepted_timestamp_ms,
    }
}
