//! Removals that the service proposes: it says why (draft-robert-mimi-delivery-service §DS-induced
//! removals), and members hold that against what they have seen.

use openmls::prelude::{LeafNodeIndex, MlsGroup};
use openmls::treesync::LeafNodeSource;
use protocol::Wire as _;
use protocol::ids::Day;
use protocol::ids::GroupId;
use protocol::removal::RemovalReason as Said;
use rusqlite::{Connection, OptionalExtension as _};
use serde::{Deserialize, Serialize};

use crate::error::{Error, LocalError, PeerError};
use crate::groups::known;

/// Why the service has removed somebody, as it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RemovalReason {
    /// The client has not made a commit since this week (since 1970), for longer than the service
    /// waits.
    Inactive(u16),
    /// The client was added, and had not been here when its invitation expired.
    NeverCame,
    /// The client has proposed it itself.
    OwnWish,
}

impl From<Said> for RemovalReason {
    fn from(said: Said) -> Self {
        match said {
            Said::Inactive(week) => Self::Inactive(week.0),
            Said::NeverCame => Self::NeverCame,
            Said::OwnWish => Self::OwnWish,
        }
    }
}

/// The reason in a proposal's authenticated data, unless it contradicts what this client has seen.
///
/// # Errors
/// [`PeerError::FalseRemoval`].
pub(crate) fn check(
    db: &Connection,
    id: &GroupId,
    mls_group: &MlsGroup,
    leaf: LeafNodeIndex,
    authenticated_data: &[u8],
) -> Result<Said, Error> {
    let reason =
        Said::decode(authenticated_data).map_err(|_| PeerError::FalseRemoval("none is given"))?;
    let member = mls_group.member(leaf).ok_or(PeerError::Proposal)?;
    let heard_day = known::heard_day(db, id, member)?;
    match reason {
        Said::NeverCame => {
            let own = leaf == mls_group.own_leaf_index();
            let node = mls_group.public_group().leaf(leaf);
            // Whoever replaced the leaf that it was added with was here.
            let replaced = node.is_some_and(|node| {
                !matches!(node.leaf_node_source(), LeafNodeSource::KeyPackage(_))
            });
            if own || heard_day > 0 || replaced {
                return Err(PeerError::FalseRemoval("it has been here").into());
            }
        }
        Said::Inactive(since) => {
            // What the service goes by are commits; who sends messages is there without one.
            let committed = Day(known::committed_day(db, id, member)?);
            if committed > since.last_day() {
                return Err(PeerError::FalseRemoval("it has committed since").into());
            }
        }
        Said::OwnWish => {}
    }
    Ok(reason)
}

/// Keeps a reason until the removal is carried out, in the caller's transaction.
pub(crate) fn keep(
    db: &Connection,
    id: &GroupId,
    mls_group: &MlsGroup,
    leaf: LeafNodeIndex,
    reason: Said,
) -> Result<(), Error> {
    let epoch = i64::try_from(mls_group.epoch().as_u64()).map_err(|_| LocalError::Damaged)?;
    db.execute(
        "INSERT OR REPLACE INTO removal_reasons (group_id, leaf_index, epoch, reason) VALUES (?, ?, ?, ?)",
        (id.0, leaf.u32(), epoch, reason.encode()),
    )?;
    Ok(())
}

/// Why the service removes a leaf in this epoch.
pub(crate) fn of(
    db: &Connection,
    id: &GroupId,
    mls_group: &MlsGroup,
    leaf: LeafNodeIndex,
) -> Result<Option<RemovalReason>, Error> {
    let epoch = i64::try_from(mls_group.epoch().as_u64()).map_err(|_| LocalError::Damaged)?;
    let reason: Option<Vec<u8>> = db
        .query_row(
            "SELECT reason FROM removal_reasons WHERE group_id = ? AND leaf_index = ? AND epoch = ?",
            (id.0, leaf.u32(), epoch),
            |row| row.get(0),
        )
        .optional()?;
    reason
        .map(|reason| {
            let said = Said::decode(&reason).map_err(|_| LocalError::Damaged)?;
            Ok(said.into())
        })
        .transpose()
}
