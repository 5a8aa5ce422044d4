//! Why the service has removed whom.

use openmls::prelude::{LeafNodeIndex, MlsGroup};
use protocol::Wire as _;
use protocol::ids::GroupId;
use protocol::removal::RemovalReason as Said;
use rusqlite::Connection;

use crate::error::{Error, LocalError};
use crate::outcomes::RemovalReason;
use crate::store::database::{change, value};

/// Keeps a reason until the removal is carried out, in the caller's transaction.
pub(crate) fn keep(
    db: &Connection,
    id: &GroupId,
    mls_group: &MlsGroup,
    leaf: LeafNodeIndex,
    reason: Said,
) -> Result<(), Error> {
    let epoch = i64::try_from(mls_group.epoch().as_u64()).map_err(|_| LocalError::Damaged)?;
    change(
        db,
        "INSERT OR REPLACE INTO removal_reasons (group_id, leaf_index, epoch, reason) VALUES (?, ?, ?, ?)",
        (id.0, leaf.u32(), epoch, reason.encode()),
    )
}

/// Why the service removes a leaf in this epoch.
pub(crate) fn of(
    db: &Connection,
    id: &GroupId,
    mls_group: &MlsGroup,
    leaf: LeafNodeIndex,
) -> Result<Option<RemovalReason>, Error> {
    let epoch = i64::try_from(mls_group.epoch().as_u64()).map_err(|_| LocalError::Damaged)?;
    let reason: Option<Vec<u8>> = value(
        db,
        "SELECT reason FROM removal_reasons WHERE group_id = ? AND leaf_index = ? AND epoch = ?",
        (id.0, leaf.u32(), epoch),
    )?;
    reason
        .map(|reason| {
            let said = Said::decode(&reason).map_err(|_| LocalError::Damaged)?;
            Ok(said.into())
        })
        .transpose()
}
