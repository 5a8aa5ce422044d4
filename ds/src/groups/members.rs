//! What a member asks for, or changes of its own leaf's record, without a commit.

use std::borrow::Cow;

use crypto::keys::{GroupLookup as _, RecoverySecret, StateKey};
use protocol::Wire;
use protocol::codec::opaque;
use protocol::groups::{
    Accepted, InspectGroupRequest, InspectGroupResponse, MAX_JOIN_CODE_DAYS, MAX_JOIN_CODES,
    OwnLeafRequest, OwnLeafResponse, SetJoinCodeRequest, SetRecoverySecretRequest,
    UpdateQueueReferenceRequest,
};
use protocol::ids::GroupId;
use protocol::policy::Capabilities;
use protocol::problem::ProblemType;
use protocol::time::day_of;

use super::join::{RecordChange, moved_records, sealed_recovery_record};
use super::parts::{open_group, seal_key_check, with_parts};
use super::proposals::PendingProposals;
use super::roster::{JoinCode, Leaf, Roster, Today};
use super::{ATTEMPTS, authenticate, charge_allowance, refill};
use crate::error::DsError;
use crate::request::Request;
use crate::service_state::DeliveryService;
use crate::store::{Advance, DayRow, Deliveries, Parts, ProposalsChange};

/// Members, what they may do, and what is pending.
///
/// # Errors
/// [`ProblemType::UnknownGroup`], [`ProblemType::BadSignature`], [`DsError::TooManyRequests`].
pub async fn inspect_group(
    service: &DeliveryService,
    request: Request<InspectGroupRequest>,
) -> Result<InspectGroupResponse, DsError> {
    let group_id = request.body.group_id;
    let key = StateKey::from(&request.body.state_key);
    let row = service.rows().group(&group_id);
    let mut charged = false;
    for _ in 0..ATTEMPTS {
        let opened = open_group(service, row, &group_id, &[&key]).await?;
        let roster = Roster::read(&opened.roster)?;
        let leaf = authenticate(&request, &roster)?.index;
        if !charged {
            let price = charge_allowance(service, &request, &group_id, leaf)?;
            if price > 0 {
                // It has no other effect: the token buys the leaf a full allowance.
                let paid = request.unrecorded_receipt(service, price)?;
                service.store.settle(paid).await?;
                refill(service, &group_id, leaf, price);
            }
            charged = true;
        }
        let parts = Parts::WITH_PROPOSALS;
        let Some(stored) = with_parts(service, row, &opened.stored, parts).await? else {
            continue;
        };
        let pending = PendingProposals::of_group(&group_id, &key, &roster, &stored)?;
        return Ok(InspectGroupResponse {
            epoch: roster.epoch,
            members: roster.leaves().iter().map(Leaf::record).collect(),
            pending_proposals: pending
                .proposals
                .into_iter()
                .map(|pending| opaque(pending.message))
                .collect(),
        });
    }
    Err(ProblemType::Conflict.into())
}

/// The leaf of whoever has its signature key.
///
/// # Errors
/// [`ProblemType::UnknownGroup`]; [`ProblemType::NotAllowed`] if no leaf has the key.
pub async fn own_leaf(
    service: &DeliveryService,
    request: Request<OwnLeafRequest>,
) -> Result<OwnLeafResponse, DsError> {
    let signature_key = request.authenticate_leaf_key()?;
    let group_id = request.body.group_id;
    let key = StateKey::from(&request.body.state_key);
    let row = service.rows().group(&group_id);
    let opened = open_group(service, row, &group_id, &[&key]).await?;
    let roster = Roster::read(&opened.roster)?;
    let leaf = roster
        .leaf_with_key(signature_key)
        .ok_or(ProblemType::NotAllowed)?;
    Ok(OwnLeafResponse {
        epoch: roster.epoch,
        member: leaf.record(),
    })
}

/// Has deliveries for the signing leaf go to another queue.
///
/// # Errors
/// [`ProblemType::UnknownGroup`], [`ProblemType::BadSignature`], [`ProblemType::InvalidLeaf`] for a reference that
/// does not open, [`DsError::TooManyRequests`].
pub async fn update_queue_reference(
    service: &DeliveryService,
    request: Request<UpdateQueueReferenceRequest>,
) -> Result<Accepted, DsError> {
    let body = &request.body;
    let key = StateKey::from(&body.state_key);
    change(service, &request, body.group_id, &key, |roster, index| {
        let leaf = roster.leaf_mut(index).ok_or(ProblemType::BadSignature)?;
        let queue = service
            .keys
            .open_reference(&leaf.signature_key, body.queue_reference.as_slice())
            .map_err(|_| ProblemType::InvalidLeaf)?;
        leaf.set_queue(service, &queue)?;
        Ok(RecordChange::default())
    })
    .await
}

/// Takes a leaf's recovery secret into the sealed roster and writes its record; the record under the
/// secret before goes, since that one may be in other hands.
///
/// # Errors
/// [`ProblemType::UnknownGroup`], [`ProblemType::BadSignature`], [`DsError::TooManyRequests`].
pub async fn set_recovery_secret(
    service: &DeliveryService,
    request: Request<SetRecoverySecretRequest>,
) -> Result<Accepted, DsError> {
    let body = &request.body;
    let key = StateKey::from(&body.state_key);
    let secret = RecoverySecret::from(&body.recovery_secret);
    change(service, &request, body.group_id, &key, |roster, index| {
        let leaf = roster.leaf_mut(index).ok_or(ProblemType::BadSignature)?;
        let former = leaf.recovery_secret();
        leaf.recovery_secret = Cow::Owned(secret.expose().to_vec());
        Ok(RecordChange {
            written: vec![sealed_recovery_record(
                service,
                &body.group_id,
                &secret,
                &key,
            )?],
            dropped: former
                .filter(|former| *former != secret)
                .map(|former| former.lookup_in(&body.group_id))
                .map(|former| service.rows().recovery_record(&former))
                .into_iter()
                .collect(),
        })
    })
    .await
}

/// Makes or revokes a join code.
///
/// # Errors
/// As [`set_recovery_secret`]; [`ProblemType::NotAllowed`] for who may not add, and in groups that are not
/// joined by code; [`ProblemType::LimitExceeded`].
pub async fn set_join_code(
    service: &DeliveryService,
    request: Request<SetJoinCodeRequest>,
) -> Result<Accepted, DsError> {
    let body = &request.body;
    let key = StateKey::from(&body.state_key);
    let secret = RecoverySecret::from(&body.secret);
    let today = day_of(request.now_ms);
    let revoked = body.expiry_day == 0;
    if !revoked
        && (body.expiry_day < today || body.expiry_day.saturating_sub(today) > MAX_JOIN_CODE_DAYS)
    {
        return Err(ProblemType::LimitExceeded.into());
    }
    change(service, &request, body.group_id, &key, |roster, index| {
        let may = roster
            .leaf(index)
            .is_some_and(|leaf| leaf.capabilities().contain(Capabilities::ADD));
        if !may || roster.kind() != protocol::groups::GroupKind::Group {
            return Err(ProblemType::NotAllowed.into());
        }
        let is_old = |code: &JoinCode<'_>| {
            code.expiry_day < today || code.secret.as_ref() == secret.expose()
        };
        let mut records = RecordChange {
            written: Vec::new(),
            dropped: roster.join_code_rows(service, &body.group_id, is_old),
        };
        roster.join_codes.retain(|code| !is_old(code));
        if !revoked {
            roster.join_codes.push(JoinCode {
                secret: Cow::Owned(secret.expose().to_vec()),
                expiry_day: body.expiry_day,
            });
            records.written = vec![sealed_recovery_record(
                service,
                &body.group_id,
                &secret,
                &key,
            )?];
        }
        if roster.join_codes.len() > MAX_JOIN_CODES {
            return Err(ProblemType::LimitExceeded.into());
        }
        Ok(records)
    })
    .await
}

/// A change of the roster's own by an authenticated leaf. Whoever comes has joined: that ends the wait of
/// its join record.
async fn change<T>(
    service: &DeliveryService,
    request: &Request<T>,
    group_id: GroupId,
    key: &StateKey,
    change: impl Fn(&mut Roster<'_>, u32) -> Result<RecordChange, DsError>,
) -> Result<Accepted, DsError> {
    let row = service.rows().group(&group_id);
    let mut charged = None;
    for _ in 0..ATTEMPTS {
        let opened = open_group(service, row, &group_id, &[key]).await?;
        let mut roster = Roster::read(&opened.roster)?;
        let index = authenticate(request, &roster)?.index;
        let price = match charged {
            Some(price) => price,
            None => *charged.insert(charge_allowance(service, request, &group_id, index)?),
        };
        // By the secrets as they were and as they will be.
        let older = roster.older_recovery_rows(service);
        let mut records = change(&mut roster, index)?;
        records
            .written
            .extend(moved_records(service, &group_id, &roster, key)?.written);
        records.dropped.extend(older);
        let dropped_join_records: Vec<DayRow> =
            roster.has_joined(index, Today::at(service, request.now_ms));
        let version = crypto::random()?;
        let advance = Advance {
            group: row,
            expected: opened.stored.version,
            next: version,
            key_check: seal_key_check(&group_id, key)?,
            roster: roster.seal(&group_id, key, &version)?,
            tree: None,
            proposals: ProposalsChange::Keep,
            join_record: None,
            dropped_join_records,
            recovery_records: records.written,
            dropped_recovery_records: records.dropped,
            deliveries: Deliveries::default(),
        };
        let receipt = request.receipt(service, price, &Accepted {}.encode())?;
        match service
            .store
            .advance_group(advance, receipt)
            .await
            .map_err(DsError::from)
        {
            Ok(()) => {
                refill(service, &group_id, index, price);
                return Ok(Accepted {});
            }
            Err(DsError::Conflict) => {}
            Err(other) => return Err(other),
        }
    }
    Err(ProblemType::Conflict.into())
}
