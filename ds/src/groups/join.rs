//! What joiners and returning members ask for: join records, GroupInfo for external commits, recovery.

use crypto::keys::{GroupLookup as _, RecoverySecret, StateKey};
use crypto::rows::Row;
use crypto::sealing::{self, Place};
use protocol::codec::opaque;
use protocol::groups::{
    ExternalCommitInfoRequest, ExternalCommitInfoResponse, JoinRecordRequest, LeafLinkKey,
    RecoveryRecordRequest, SealedRecord,
};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::time::day_of;

use super::parts::{open_group, with_parts};
use super::proposals::{Origin, PendingProposals};
use super::roster::{Leaf, Roster};
use super::tree::Tree;
use super::{ATTEMPTS, permits};
use crate::error::DsError;
use crate::request::Request;
use crate::service_state::DeliveryService;
use crate::store::{DayRow, Parts};

/// Hands out the join record of an epoch; only who has the join key can open it.
///
/// # Errors
/// [`ProblemType::UnknownRecord`].
pub async fn join_record(
    service: &DeliveryService,
    request: Request<JoinRecordRequest>,
) -> Result<SealedRecord, DsError> {
    request.authenticate_key()?;
    let row = service.rows().join_record(&request.body.lookup);
    let today = day_of(request.now_ms);
    // The record stands under the day it was written on, which the joiner need not know.
    let days = (0..=service.settings.retention_days).map(|back| DayRow {
        day: today.saturating_sub(back),
        row,
    });
    let sealed = service
        .store
        .join_record(days.collect())
        .await?
        .ok_or(ProblemType::UnknownRecord)?;
    Ok(SealedRecord {
        sealed: opaque(sealed),
    })
}

/// Hands out the recovery record that the last rotation wrote for a leaf.
///
/// # Errors
/// [`ProblemType::UnknownRecord`].
pub async fn recovery_record(
    service: &DeliveryService,
    request: Request<RecoveryRecordRequest>,
) -> Result<SealedRecord, DsError> {
    request.authenticate_key()?;
    let row = service.rows().recovery_record(&request.body.lookup);
    let sealed = service
        .store
        .recovery_record(row)
        .await?
        .ok_or(ProblemType::UnknownRecord)?;
    Ok(SealedRecord {
        sealed: opaque(sealed),
    })
}

/// The recovery record of a group that gives `key` to whoever has `secret`, and its row.
///
/// # Errors
/// [`DsError::Internal`].
pub fn sealed_recovery_record(
    service: &DeliveryService,
    group: &GroupId,
    secret: &RecoverySecret,
    key: &StateKey,
) -> Result<(Row, Vec<u8>), DsError> {
    let lookup = secret.lookup_in(group);
    let at = Place {
        table: "recovery_records",
        row: &lookup.0,
        part: "record",
    };
    Ok((
        service.rows().recovery_record(&lookup),
        sealing::seal(secret.expose(), at, key.expose())?,
    ))
}

/// Encrypted identity link keys by leaf.
#[must_use]
pub fn link_keys(roster: &Roster<'_>) -> Vec<LeafLinkKey> {
    roster
        .leaves()
        .iter()
        .map(|leaf| LeafLinkKey {
            leaf_index: leaf.index,
            encrypted_identity_link_key: opaque(leaf.encrypted_identity_link_key.as_ref()),
        })
        .collect()
}

/// In place of a leaf index, which is below it (RFC 9420 trees end at 2^31 leaves).
const JOINERS: u32 = u32::MAX;

/// Recovery records under `key` for every leaf and join code that has a secret.
///
/// # Errors
/// [`DsError::Internal`].
pub fn recovery_records(
    service: &DeliveryService,
    group: &GroupId,
    roster: &Roster<'_>,
    key: &StateKey,
) -> Result<Vec<(Row, Vec<u8>)>, DsError> {
    let of_leaves = roster.leaves().iter().filter_map(Leaf::recovery_secret);
    let of_codes = roster
        .join_codes
        .iter()
        .filter_map(|code| RecoverySecret::try_from(code.secret.as_ref()).ok());
    of_leaves
        .chain(of_codes)
        .map(|secret| sealed_recovery_record(service, group, &secret, key))
        .collect()
}

/// Recovery records that a transition writes and deletes.
#[derive(Default)]
pub struct RecordChange {
    /// Rows and records.
    pub written: Vec<(Row, Vec<u8>)>,
    /// Rows.
    pub dropped: Vec<Row>,
}

/// What stands under rows of an earlier release is written under its own, whatever the transition. Nothing
/// for a roster of this format.
///
/// # Errors
/// [`DsError::Internal`].
pub fn moved_records(
    service: &DeliveryService,
    group: &GroupId,
    roster: &Roster<'_>,
    key: &StateKey,
) -> Result<RecordChange, DsError> {
    if !roster.older_lookups {
        return Ok(RecordChange::default());
    }
    Ok(RecordChange {
        written: recovery_records(service, group, roster, key)?,
        dropped: roster.older_recovery_rows(service),
    })
}

/// A group id that a ReInit names must be reserved here.
///
/// # Errors
/// [`ProblemType::InvalidGroupId`].
pub async fn require_reserved(
    service: &DeliveryService,
    group_id: &GroupId,
    now_ms: u64,
) -> Result<(), DsError> {
    let row = service.rows().group(group_id);
    let today = day_of(now_ms);
    let days = [today, today.saturating_sub(1)];
    let at = days.map(|day| DayRow { day, row }).to_vec();
    match service.store.reservation(at).await? {
        Some(_) => Ok(()),
        None => Err(ProblemType::InvalidGroupId.into()),
    }
}

/// What an external commit needs, for whoever has a permit.
///
/// # Errors
/// [`ProblemType::UnknownGroup`], [`ProblemType::NotAllowed`], [`ProblemType::GroupReinitialized`].
pub async fn external_commit_info(
    service: &DeliveryService,
    request: Request<ExternalCommitInfoRequest>,
) -> Result<ExternalCommitInfoResponse, DsError> {
    let joiner = request.authenticate_leaf_key()?;
    let body = &request.body;
    let group_id = body.group_id;
    let key = StateKey::from(&body.state_key);
    let row = service.rows().group(&group_id);
    for _ in 0..ATTEMPTS {
        let opened = open_group(service, row, &group_id, &[&key]).await?;
        let roster = Roster::read(&opened.roster)?;
        permits::verify(
            service,
            &roster,
            (&group_id, &key),
            &body.permit,
            joiner,
            request.now_ms,
        )?;
        if roster.reinitialized {
            return Err(ProblemType::GroupReinitialized.into());
        }
        // The tree is work: joiners share a bucket of their own in each group.
        service
            .leaf_allowances
            .take(service.rows().allowance(&group_id, JOINERS), request.now_ms)
            .map_err(|empty| DsError::TooManyRequests {
                retry_after_ms: empty.retry_after_ms,
            })?;
        let Some(stored) = with_parts(service, row, &opened.stored, Parts::ALL).await? else {
            continue;
        };
        let sealed = stored.tree.as_deref().ok_or(DsError::Internal("tree"))?;
        let tree = Tree::open(&group_id, &key, roster.tree_version.as_ref(), sealed)?;
        let pending = PendingProposals::of_group(&group_id, &key, &roster, &stored)?;
        let coverable = |leaf| {
            let mut removals = roster.pending_removals.iter();
            removals.any(|pending| pending.leaf == leaf && !roster.renews(pending))
        };
        return Ok(ExternalCommitInfoResponse {
            group_info: opaque(tree.group_info_message()?),
            ratchet_tree: opaque(tree.ratchet_tree()?),
            leaves: link_keys(&roster),
            self_removes: pending
                .proposals
                .into_iter()
                .filter(
                    |pending| matches!(pending.origin, Origin::SelfRemove(leaf) if coverable(leaf)),
                )
                .map(|pending| opaque(pending.message))
                .collect(),
        });
    }
    Err(ProblemType::Conflict.into())
}
