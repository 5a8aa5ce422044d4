//! Following a group that has gone on, and giving the service what makes it possible to come back.

use std::time::Duration;

use crypto::journal::{sign_recovery_key, verify_recovery_key};
use crypto::secret::Secret;
use openmls::prelude::LeafNodeIndex;
use protocol::codec::opaque;
use protocol::group::{Accepted, MAX_ROWS, PutRecoveryRowsRequest, SetLeafExtrasRequest};
use protocol::ids::GroupId;
use protocol::join::{RecoveryRowRequest, RecoveryRowResponse};
use protocol::journal::{AnswerSize, ReadJournalRequest, ReadJournalResponse};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::{WIRE_VERSION, Wire as _};

use crate::engine::Engine;
use crate::error::{Error, PeerError, UsageError};
use crate::flows::member_request::Seen;
use crate::mls::rows;
use crate::outcomes::StopReason;
use crate::store::acts::{self, Act};
use crate::store::{Group, Profile, Segment, Status, evidence, groups, known, leaf_keys, push};

const LOOKS: u32 = 10;

impl Engine {
    /// The service says that the group is at another epoch, `current`, than this client at `epoch`:
    /// the commits that led there stand in the journal. To an earlier one nothing leads: the
    /// service has lost what it accepted, and whoever went on from there would undo what was
    /// decided since.
    pub(crate) async fn follow(
        &mut self,
        id: &GroupId,
        epoch: u64,
        current: Option<u64>,
    ) -> Result<(), Error> {
        if current.is_some_and(|current| current < epoch) {
            return self.lose(id, StopReason::Behind);
        }
        for look in 0..LOOKS {
            self.read_group(id).await?;
            if self.has_moved(id, epoch)? {
                return Ok(());
            }
            crate::runtime::sleep(Duration::from_millis(
                100u64.saturating_mul(u64::from(look)),
            ))
            .await;
        }
        self.lose_track(id).await
    }

    fn has_moved(&self, id: &GroupId, epoch: u64) -> Result<bool, Error> {
        Ok(
            Group::find(&self.db, id)?.is_none_or(|group| group.status != Status::Active)
                || self.epoch(id)? != epoch,
        )
    }

    /// The group has gone on, and what would lead there is not in the journal.
    pub(crate) async fn lose_track(&mut self, id: &GroupId) -> Result<(), Error> {
        if self.stop_if_replaced(id).await? {
            return Ok(());
        }
        self.lose(id, StopReason::Missing)
    }

    /// The service knows no group that opens with the key that we have: a rotation has ended the
    /// segment, and its commit is in it.
    ///
    /// # Errors
    /// [`UsageError::GroupLost`] if it is not.
    pub(crate) async fn follow_rotation(&mut self, id: &GroupId) -> Result<(), Error> {
        let epoch = self.epoch(id)?;
        for look in 0..LOOKS {
            self.read_group(id).await?;
            if self.has_moved(id, epoch)? {
                return Ok(());
            }
            crate::runtime::sleep(Duration::from_millis(50u64.saturating_mul(u64::from(look))))
                .await;
        }
        let name = Group::read(&self.db, id)?.display_name();
        self.lose(id, StopReason::Missing)?;
        Err(UsageError::GroupLost(name).into())
    }

    /// Stops in a group where the service says that no leaf has this client's key. The group still
    /// opens with the known key, so nobody was removed since: if that is true, another copy of this
    /// client has replaced the leaf. It is the service's word alone, and said as such.
    pub(crate) async fn stop_if_replaced(&mut self, id: &GroupId) -> Result<bool, Error> {
        let group = Group::read(&self.db, id)?;
        let (_, signer) = self.own_sender(id)?;
        match self.look_for_leaf(id, &group.segment, signer).await {
            Ok(Seen::NoLeaf) => {
                self.lose(id, StopReason::LeafGone)?;
                Ok(true)
            }
            Err(error @ (Error::Unreachable(_) | Error::Local(_))) => Err(error),
            _ => Ok(false),
        }
    }

    /// The way into the present segment, if the service keeps it for this key pair.
    pub(crate) async fn recovered_segment(
        &mut self,
        id: &GroupId,
        suite: openmls::prelude::Ciphersuite,
        seed: &Secret<32>,
    ) -> Result<Option<Segment>, Error> {
        let pair = rows::key_pair(suite, seed)?;
        let request = RecoveryRowRequest {
            version: WIRE_VERSION,
            id: crypto::schedule::recovery_row_id(id, pair.public()),
        };
        let row: Result<RecoveryRowResponse, Error> =
            self.read(Operation::RecoveryRow, &request).await;
        match row {
            // Anybody can seal to the key, and the service says of which rotation the row is.
            Ok(row) if known::check_epoch(row.rotation_epoch.0).is_err() => Ok(None),
            Ok(row) => match rows::open(id, &row, &pair) {
                Ok(segment) => Ok(Some(segment)),
                Err(Error::Peer(_)) => Ok(None),
                Err(error) => Err(error),
            },
            Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownRecord => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The segment as it is now, if it has not ended: its step is in the journal.
    pub(crate) async fn at_its_end(&mut self, segment: Segment) -> Result<Option<Segment>, Error> {
        let from = segment.next.rounded_down();
        let request = ReadJournalRequest {
            version: WIRE_VERSION,
            segment: segment.id,
            from,
            known: from,
            wait_ms: 0,
            size: AnswerSize::Segment,
            piece: 0,
        };
        let page: Result<ReadJournalResponse, Error> =
            self.read(Operation::ReadJournal, &request).await;
        let page = match page {
            Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownSegment => {
                return Ok(None);
            }
            page => page?,
        };
        let Some(ahead) = page.step.0.checked_sub(segment.step.0) else {
            return Ok(None);
        };
        if page.closed == 1 || ahead > MOST_STEPS {
            return Ok(None);
        }
        Ok(Some(Segment {
            step: page.step,
            state_key: segment.state_key.ahead(ahead),
            ..segment
        }))
    }

    /// This client cannot follow the group any more; the user is told.
    pub(crate) fn lose(&mut self, id: &GroupId, reason: StopReason) -> Result<(), Error> {
        self.transact(|db, profile| evidence::stop(db, profile, id, reason))
    }

    /// A joiner's first act, which also says that it came: a recovery key for the new leaf, and its
    /// row.
    pub(crate) async fn set_leaf_extras(&mut self, id: &GroupId) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let _: Accepted = self
            .as_member(id, Operation::SetLeafExtras, |client, group| {
                let mls_group = client.mls(id)?;
                let suite = mls_group.ciphersuite();
                let own_leaf = mls_group
                    .own_leaf_node()
                    .ok_or(crate::error::LocalError::Damaged)?;
                let signer = leaf_keys::signer(&client.db, own_leaf.signature_key().as_slice())?;
                let pair = rows::key_pair(suite, &group.recovery)?;
                let request = SetLeafExtrasRequest {
                    group: group.key(),
                    recovery_key: sign_recovery_key(&signer.0, id, pair.public()),
                    push_handle: opaque(push::handle_for(&client.db, id, now_ms)?),
                    row: rows::seal(suite, id, &group.segment, pair.public())?,
                };
                Ok(request.encode())
            })
            .await?;
        groups::recovery_is_set(&self.db, id)
    }

    /// Has the rows of a rotation of this client's written, at a time of its own.
    pub(crate) fn plan_rows(&mut self, id: &GroupId) -> Result<(), Error> {
        let due: bool = groups::rows_are_due(&self.db, id)?;
        if due {
            self.transact(|db, _| acts::plan(db, Act::Rows, &id.0))?;
        }
        Ok(())
    }

    /// Whoever rotated writes everybody's row; if the own one is not there, or leads elsewhere,
    /// this client does.
    pub(crate) async fn mend_own_row(&mut self, id: &GroupId) -> Result<(), Error> {
        let group = Group::read(&self.db, id)?;
        if group.status != Status::Active || !group.recovery_set {
            return Ok(());
        }
        let mls_group = self.mls(id)?;
        let suite = mls_group.ciphersuite();
        let kept = self.recovered_segment(id, suite, &group.recovery).await?;
        if kept.is_some_and(|kept| leads_to(kept, &group.segment)) {
            return Ok(());
        }
        let _: Accepted = self
            .as_member(id, Operation::PutRecoveryRows, |_, group| {
                let pair = rows::key_pair(suite, &group.recovery)?;
                let request = PutRecoveryRowsRequest {
                    group: group.key(),
                    rotation_epoch: group.segment.rotation,
                    rows: vec![rows::seal(suite, id, &group.segment, pair.public())?],
                };
                Ok(request.encode())
            })
            .await?;
        Ok(())
    }

    /// Writes the rows that are missing since the last rotation, for those leaves whose recovery
    /// key verifies under the own tree: to another key the way in is not sealed.
    pub(crate) async fn write_rows(&mut self, id: &GroupId) -> Result<(), Error> {
        if Group::read(&self.db, id)?.status != Status::Active {
            return Ok(());
        }
        let inspected = self.inspect(id).await?;
        let group = Group::read(&self.db, id)?;
        if inspected.rotation_epoch != group.segment.rotation {
            return Ok(());
        }
        let mls_group = self.mls(id)?;
        let suite = mls_group.ciphersuite();
        let mut missing = Vec::new();
        for record in inspected.leaves.iter().filter(|leaf| leaf.has_row == 0) {
            let place = LeafNodeIndex::new(record.leaf_index.0);
            let Some(leaf) = mls_group.public_group().leaf(place) else {
                continue;
            };
            let Some(key) = &record.recovery_key else {
                continue;
            };
            if verify_recovery_key(leaf.signature_key().as_slice(), id, key).is_err() {
                continue;
            }
            match rows::seal(suite, id, &group.segment, key.public_key.as_slice()) {
                Ok(row) => missing.push(row),
                // Of a key that is none: its owner has no way back.
                Err(Error::Peer(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let rotation = group.segment.rotation;
        for page in missing.chunks(MAX_ROWS) {
            let put: Result<Accepted, Error> = self
                .as_member(id, Operation::PutRecoveryRows, |_, group| {
                    if group.segment.rotation != rotation {
                        return Err(UsageError::Contention.into());
                    }
                    let request = PutRecoveryRowsRequest {
                        group: group.key(),
                        rotation_epoch: rotation,
                        rows: page.to_vec(),
                    };
                    Ok(request.encode())
                })
                .await;
            match put {
                Ok(_) => {}
                // It has rotated meanwhile, or somebody has gone: who did that writes them.
                Err(Error::Usage(UsageError::Contention)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        groups::set_rows_due(&self.db, id, false)
    }
}

/// Whether who finds this in a row comes to a segment of now.
fn leads_to(kept: Segment, segment: &Segment) -> bool {
    let ahead = segment.step.0.checked_sub(kept.step.0);
    kept.id == segment.id
        && kept.rotation == segment.rotation
        && kept.wrapper_key == segment.wrapper_key
        && ahead.is_some_and(|ahead| kept.state_key.ahead(ahead) == segment.state_key)
}

/// More commits than any segment has: the service makes nobody count without end.
const MOST_STEPS: u32 = 1_000_000;

/// This client leaves off following because of an entry, in the caller's transaction. A commit that
/// the policy forbids is not made good by coming back to the state after it.
pub(crate) fn lose_to(
    db: &rusqlite::Connection,
    profile: &Profile,
    id: &GroupId,
    fault: PeerError,
) -> Result<(), Error> {
    let reason = match fault {
        PeerError::NotPermitted
        | PeerError::Policy
        | PeerError::RemovalWithoutRotation
        | PeerError::ExternalSenders => StopReason::Forbidden,
        PeerError::OtherCopy => StopReason::OtherCopy,
        _ => StopReason::Unprocessable,
    };
    evidence::stop(db, profile, id, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::groups::tests::group;

    #[test]
    fn a_row_leads_to_a_segment_by_its_id_its_wrapper_key_and_the_state_key_of_its_step() {
        let segment = || group(7, "team").segment;
        let now = segment().next_step().next_step();
        assert!(leads_to(segment(), &now) && leads_to(segment().next_step(), &now));
        let other = crate::store::segments::tests::segment(&GroupId([8; 16])).id;
        for bogus in [
            Segment {
                id: other,
                ..segment()
            },
            Segment {
                wrapper_key: crypto::keys::IdentityLinkWrapperKey::new([9; 32]),
                ..segment()
            },
            Segment {
                state_key: crypto::schedule::StateKey::new([9; 32]),
                ..segment()
            },
            Segment {
                step: protocol::ids::Step(1),
                ..segment()
            },
            segment().next_step().next_step().next_step(),
        ] {
            assert!(!leads_to(bogus, &now));
        }
    }
}
