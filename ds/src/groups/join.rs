//! What joiners and returning members ask for: join records, GroupInfo for external commits, recovery.

use std::borrow::Cow;

use crypto::keys::{Lookup as _, RecoverySecret, StateKey};
use crypto::rows::Row;
use crypto::sealing::{self, Place};
use protocol::Wire;
use protocol::codec::opaque;
use protocol::groups::{
    Accepted, ExternalCommitInfoRequest, ExternalCommitInfoResponse, GroupKind, JoinRecordRequest,
    LeafLinkKey, RecoveryRecordRequest, SealedRecord, SetRecoverySecretRequest,
};
use protocol::problem::ProblemType;
use protocol::time::day_of;

use super::roster::Roster;
use super::tree::Tree;
use super::{ATTEMPTS, authenticate, charge_allowance, open_roster, with_tree};
use crate::error::DsError;
use crate::request::Request;
use crate::service_state::DeliveryService;
use crate::store::{Advance, DayRow, Deliveries};

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

/// The recovery record that gives `key` to whoever has `secret`, and its row.
///
/// # Errors
/// [`DsError::Internal`].
pub fn sealed_recovery_record(
    service: &DeliveryService,
    secret: &RecoverySecret,
    key: &StateKey,
) -> Result<(Row, Vec<u8>), DsError> {
    let lookup = secret.lookup();
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

/// What an external commit into a connection group needs. Who has its state key was invited.
///
/// # Errors
/// [`ProblemType::UnknownGroup`], [`ProblemType::NotAllowed`] for other groups and once both are in.
pub async fn external_commit_info(
    service: &DeliveryService,
    request: Request<ExternalCommitInfoRequest>,
) -> Result<ExternalCommitInfoResponse, DsError> {
    request.authenticate_key()?;
    let group_id = request.body.group_id;
    let key = StateKey::from(&request.body.state_key);
    let row = service.rows().group(&group_id);
    for _ in 0..ATTEMPTS {
        let stored = service.store.group(row, false).await?;
        let opened = open_roster(&group_id, &key, stored.as_ref())?;
        let roster = Roster::read(&opened)?;
        if roster.kind() != GroupKind::Connection || roster.leaves().len() != 1 {
            return Err(ProblemType::NotAllowed.into());
        }
        let Some(stored) = with_tree(service, row, stored).await? else {
            continue;
        };
        let sealed = stored.tree.ok_or(DsError::Internal("tree"))?;
        let tree = Tree::open(&group_id, &roster.tree_version, &key, &sealed)?;
        return Ok(ExternalCommitInfoResponse {
            group_info: opaque(tree.group_info_message()?),
            ratchet_tree: opaque(tree.ratchet_tree()?),
            leaves: link_keys(&roster),
        });
    }
    Err(ProblemType::Conflict.into())
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
    let group_id = request.body.group_id;
    let row = service.rows().group(&group_id);
    let key = StateKey::from(&request.body.state_key);
    let secret = RecoverySecret::from(&request.body.recovery_secret);
    let mut charged = None;
    for _ in 0..ATTEMPTS {
        let stored = service.store.group(row, false).await?;
        let opened = open_roster(&group_id, &key, stored.as_ref())?;
        let mut roster = Roster::read(&opened)?;
        let index = authenticate(&request, &roster)?.index;
        let price = match charged {
            Some(price) => price,
            None => *charged.insert(charge_allowance(service, &request, &group_id, index).await?),
        };
        let leaf = roster.leaf_mut(index).ok_or(ProblemType::BadSignature)?;
        let former = RecoverySecret::try_from(leaf.recovery_secret.as_ref()).ok();
        leaf.recovery_secret = Cow::Owned(secret.expose().to_vec());
        let version = crypto::random()?;
        let advance = Advance {
            group: row,
            expected: stored
                .map(|stored| stored.version)
                .ok_or(ProblemType::UnknownGroup)?,
            next: version,
            roster: roster.seal(&group_id, &version, &key)?,
            tree: None,
            join_record: None,
            recovery_records: vec![sealed_recovery_record(service, &secret, &key)?],
            dropped_recovery_records: former
                .filter(|former| *former != secret)
                .map(|former| service.rows().recovery_record(&former.lookup()))
                .into_iter()
                .collect(),
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
                if price > 0 {
                    service
                        .leaf_allowances
                        .refill(service.rows().allowance(&group_id, index));
                }
                return Ok(Accepted {});
            }
            Err(DsError::Conflict) => {}
            Err(other) => return Err(other),
        }
    }
    Err(ProblemType::Conflict.into())
}
