//! The way back of a client that was restored from a backup, the first time and every other time.
//!
//! A restored client comes back in the place of the leaf that is in the backup, and then replaces
//! its key and recovery key. If the next ones were random, the same backup could never be restored
//! again, and its owner might find that out when it is all that is left. So they follow from those
//! in the backup: number n of a chain that whoever has the backup can derive, and who has it can
//! come back anyway. A leaf that was renewed for another reason (by the user's word, or since the
//! home was copied) leaves the chain: the backup is then too old for that group, and that is said.

use crypto::sign::LeafKeyPair;
use protocol::ids::{GroupId, LeafIndex};

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::flows::member_request::Seen;
use crate::outcomes::StopReason;
use crate::store::restored::{self, Origin, RESTORES};
use crate::store::{Group, Segment, Status, evidence, known};

impl Engine {
    /// Looks for the leaf of a restored group along the chain of its keys: where it is, and its
    /// key. Nothing in other groups. What the service says here is not kept before the group is
    /// authenticated, but the number of the key.
    ///
    /// # Errors
    /// [`UsageError::GroupLost`] if it is not there.
    pub(crate) async fn find_restored_leaf(
        &mut self,
        id: &GroupId,
    ) -> Result<Option<(Segment, LeafIndex, LeafKeyPair)>, Error> {
        let Some(origin) = Origin::of(&self.db, id)? else {
            return Ok(None);
        };
        let group = Group::read(&self.db, id)?;
        let suite = known::ciphersuite(&self.db, id)?;
        let mut segments = Vec::new();
        for number in 0..=RESTORES {
            let seed = origin.recovery_seed(number);
            segments.extend(self.recovered_segment(id, suite, &seed).await?);
        }
        // What the backup knows itself, if it has not ended: last.
        segments.insert(0, group.segment);
        let mut present = Vec::new();
        for segment in segments {
            present.extend(self.at_its_end(segment).await?);
        }
        for segment in present.into_iter().rev() {
            for number in 0..RESTORES {
                let key = origin.key(number)?;
                match self
                    .look_for_leaf(id, &segment, origin.key(number)?)
                    .await?
                {
                    Seen::Leaf(own) => {
                        restored::set_number(&self.db, id, number)?;
                        return Ok(Some((segment, own.leaf.leaf_index, key)));
                    }
                    Seen::NoLeaf => {}
                    Seen::NoGroup => break,
                }
            }
        }
        let group = Group::read(&self.db, id)?;
        self.transact(|db, profile| {
            evidence::set_stopped(db, id, Some(StopReason::Outdated))?;
            evidence::tell(db, profile, &group, StopReason::Outdated)
        })?;
        Err(UsageError::GroupLost(group.display_name()).into())
    }

    /// What a restored client has not come back into, and why.
    pub(crate) fn not_restored(&self) -> Result<Vec<String>, Error> {
        let mut lost = Vec::new();
        for group in Group::all(&self.db)? {
            if group.status == Status::Active {
                continue;
            }
            let name = evidence::described(&self.db, &self.profile, &group)?;
            let why = evidence::stopped(&self.db, &group.id)?
                .map(|why| why.to_string())
                .unwrap_or_default();
            lost.push(format!("{name} ({why})"));
        }
        Ok(lost)
    }
}
