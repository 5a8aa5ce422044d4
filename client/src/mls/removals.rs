//! Removals that the service proposes: it says why (draft-robert-mimi-delivery-service §DS-induced
//! removals), and members hold that against what they have seen.

use openmls::prelude::{LeafNodeIndex, MlsGroup};
use openmls::treesync::LeafNodeSource;
use protocol::Wire as _;
use protocol::group::GroupKind;
use protocol::ids::{Day, GroupId, Week};
use protocol::removal::{CONNECTION_INACTIVE_WEEKS, LEAST_INACTIVE_WEEKS, RemovalReason as Said};
use rusqlite::Connection;

use crate::error::{Error, PeerError};
use crate::store::{Group, known};

/// The reason in a proposal's authenticated data, unless it contradicts what this client has seen.
/// `accepted` is the week in which the service took the proposal.
///
/// # Errors
/// [`PeerError::FalseRemoval`].
pub(crate) fn check(
    db: &Connection,
    id: &GroupId,
    mls_group: &MlsGroup,
    leaf: LeafNodeIndex,
    authenticated_data: &[u8],
    accepted: Week,
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
            let waited = accepted.0.saturating_sub(since.0);
            let least = match Group::read(db, id)?.kind {
                GroupKind::Connection => CONNECTION_INACTIVE_WEEKS,
                GroupKind::Group | GroupKind::SingleUser => LEAST_INACTIVE_WEEKS,
            };
            // Clocks may be a week apart.
            if waited.saturating_add(1) < least {
                return Err(PeerError::FalseRemoval("it has not been away for long").into());
            }
            if committed > since.last_day() {
                return Err(PeerError::FalseRemoval("it has committed since").into());
            }
        }
        Said::OwnWish => {}
    }
    Ok(reason)
}
