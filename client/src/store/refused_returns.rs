//! Returns that the service has refused, as it says. One that it has accepted all the same has
//! ended the segment and taken the row of the recovery key before: what is left to find the group
//! by is the segment that it has begun, and the recovery key that went with it.

use crypto::keys::IdentityLinkWrapperKey;
use crypto::schedule::StateKey;
use crypto::secret::Secret;
use protocol::ids::{GroupId, RotationEpoch, SegmentId, Step};
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::error::{Error, LocalError};
use crate::store::database::{change, key32};
use crate::store::segments::Segment;

/// So many are known of a group, the latest ones.
const MOST: u32 = 8;

/// Such a return.
pub(crate) struct RefusedReturn {
    /// Of the recovery key pair.
    pub(crate) recovery: Secret<32>,
    /// Where the own leaf would be.
    pub(crate) leaf: u32,
    /// That it would begin.
    pub(crate) segment: Segment,
}

/// Keeps one, in the caller's transaction.
pub(crate) fn keep(
    db: &Connection,
    id: &GroupId,
    recovery: &Secret<32>,
    leaf: u32,
    segment: &Segment,
) -> Result<(), Error> {
    change(db, "INSERT INTO refused_returns
            (group_id, recovery_seed, leaf_index, segment_id, rotation_epoch, state_key, wrapper_key)
         VALUES (?, ?, ?, ?, ?, ?, ?)", (
            id.0,
            recovery.expose(),
            leaf,
            segment.id.0,
            i64::try_from(segment.rotation.0).map_err(|_| LocalError::Damaged)?,
            segment.state_key.expose(),
            segment.wrapper_key.expose(),
        ),)?;
    change(
        db,
        "DELETE FROM refused_returns WHERE group_id = ?1 AND id NOT IN
            (SELECT id FROM refused_returns WHERE group_id = ?1 ORDER BY id DESC LIMIT ?2)",
        (id.0, MOST),
    )?;
    Ok(())
}

/// The latest first.
pub(crate) fn of(db: &Connection, id: &GroupId) -> Result<Vec<RefusedReturn>, Error> {
    let mut statement = db.prepare_cached(
        "SELECT recovery_seed, leaf_index, segment_id, rotation_epoch, state_key, wrapper_key
         FROM refused_returns WHERE group_id = ? ORDER BY id DESC",
    )?;
    let rows = statement.query_map([id.0], |row| {
        let secret = |at| row.get::<_, Vec<u8>>(at).map(Zeroizing::new);
        let (segment, rotation) = (SegmentId(row.get(2)?), row.get::<_, i64>(3)?);
        Ok((
            secret(0)?,
            row.get(1)?,
            segment,
            rotation,
            secret(4)?,
            secret(5)?,
        ))
    })?;
    rows.map(|row| {
        let (seed, leaf, segment, rotation, state_key, wrapper_key) = row?;
        let rotation = u64::try_from(rotation).map_err(|_| LocalError::Damaged)?;
        Ok(RefusedReturn {
            recovery: Secret::new(key32(&seed)?),
            leaf,
            segment: Segment::heard_of(
                segment,
                RotationEpoch(rotation),
                (Step(0), StateKey::new(key32(&state_key)?)),
                IdentityLinkWrapperKey::new(key32(&wrapper_key)?),
            ),
        })
    })
    .collect()
}

/// The own leaf stands in the journal, or the group is over, in the caller's transaction.
pub(crate) fn forget(db: &Connection, id: &GroupId) -> Result<(), Error> {
    change(db, "DELETE FROM refused_returns WHERE group_id = ?", [id.0])?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_returns_of_a_group_are_known_until_it_is_over() {
        let db = crate::store::database::in_memory().unwrap();
        let group = crate::store::groups::tests::group(7, "team");
        group.insert(&db).unwrap();
        let other = GroupId([8; 16]);
        keep(&db, &other, &Secret::new([1; 32]), 1, &group.segment).unwrap();
        for leaf in 0..20 {
            keep(&db, &group.id, &Secret::new([3; 32]), leaf, &group.segment).unwrap();
        }
        let leaves = |id| -> Vec<u32> {
            let kept = of(&db, id).unwrap().into_iter();
            kept.map(|kept| kept.leaf).collect()
        };
        assert_eq!(leaves(&group.id), (12..20).rev().collect::<Vec<_>>());
        crate::store::Group::delete(&db, &group.id).unwrap();
        assert!(leaves(&group.id).is_empty());
        assert_eq!(leaves(&other), [1]);
    }
}
