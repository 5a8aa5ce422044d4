//! Coming in by an external commit (RFC 9420 §12.4.3.2): with a join code, as a further client of a
//! user, again after a loss of state, or into the connection group of whoever asked.

use protocol::group::JoinAccepted;
use protocol::ids::{Day, GroupId};
use protocol::join::{ExternalCommitInfoRequest, ExternalCommitInfoResponse};
use protocol::operation::Operation;

use crate::engine::Engine;
use crate::error::{Error, LocalError, UsageError};
use crate::flows::member_request::Seen;
use crate::flows::rounds::{ROUNDS, pause};
use crate::mls::authenticate::{Authenticated, authenticate};
use crate::mls::external::{
    Entrance, again, begun, build, complete, copy, is_in, is_in_and_behind, kept,
};
use crate::outcomes::CommitOutcome;
use crate::store::segments::day_said;
use crate::store::shown::show;
use crate::store::{Group, Segment, evidence};

impl Engine {
    /// Comes in: as often as others are faster.
    pub(crate) async fn enter(&mut self, entrance: &Entrance) -> Result<(), Error> {
        let id = &entrance.id;
        for round in 0..ROUNDS {
            let request = ExternalCommitInfoRequest {
                group: entrance.key(),
                permit: again(&entrance.permit),
                authorization: entrance.authorization.clone(),
            };
            let info: ExternalCommitInfoResponse = self
                .call(
                    Operation::ExternalCommitInfo,
                    entrance.leaf.signer.key()?,
                    &request,
                )
                .await?;
            let authenticated = self.authenticate(entrance, &info)?;
            let prices = self.directory().await?.prices;
            let tokens = self.take_tokens(prices.of(Operation::ExternalJoin, 1))?;
            let now_ms = self.transport.time.now_unix_ms();
            self.transact(|db, profile| {
                let shown = (authenticated, &info);
                build(db, profile, entrance, shown, (now_ms, tokens))
            })?;
            if self.submit_kept(id).await? == CommitOutcome::Accepted {
                return Ok(());
            }
            pause(round).await?;
        }
        Err(UsageError::Contention.into())
    }

    /// Holds what the service shows against what is known. What cannot be is evidence; whom the
    /// user has not been shown is shown, and nothing is sent.
    fn authenticate(
        &mut self,
        entrance: &Entrance,
        info: &ExternalCommitInfoResponse,
    ) -> Result<Authenticated, Error> {
        let wrappers = entrance.wrappers(info);
        let now_ms = self.transport.time.now_unix_ms();
        match authenticate(
            &self.db,
            &self.profile,
            &entrance.id,
            entrance.kind,
            &wrappers,
            info,
            &entrance.sight,
        ) {
            Ok(shown) if shown.newcomers.is_empty() => Ok(shown),
            Ok(shown) => {
                self.transact(|db, _| show(db, &entrance.id, &shown.newcomers))?;
                Err(UsageError::NewMembers {
                    group: entrance.name.clone().unwrap_or_default(),
                    names: shown.newcomers.into_iter().map(|it| it.name).collect(),
                }
                .into())
            }
            Err(Error::Peer(fault)) => {
                let content = (None, info.group_info.as_slice());
                self.transact(|db, _| evidence::keep(db, &entrance.id, &fault, content, now_ms))?;
                Err(fault.into())
            }
            Err(error) => Err(error),
        }
    }

    /// The service has accepted the kept external commit.
    pub(super) fn entered(
        &mut self,
        id: &GroupId,
        mut accepted: JoinAccepted,
    ) -> Result<CommitOutcome, Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let journal = &mut accepted.journal;
        journal.tag_day = day_said(journal.tag_day, now_ms);
        self.transact(|db, profile| complete(db, profile, id, &accepted))??;
        Ok(CommitOutcome::Accepted)
    }

    /// Whether a join that the service refuses was accepted before, and the group has gone on
    /// since: the answer was lost. The own leaf says so, or the row that came with it; and then
    /// this client is in, or knows the way back.
    pub(super) async fn was_accepted(&mut self, id: &GroupId) -> Result<bool, Error> {
        let (pending, body) = kept(&self.db, id)?;
        let day = Day::of(self.transport.time.now_unix_ms());
        let group = Group::read(&self.db, id)?;
        let begun = begun(&self.db, id, &body, day)?;
        let rotates = begun.is_some();
        let expected = begun.unwrap_or(group.segment);
        let suite = self.mls(id)?.ciphersuite();
        if let Some(segment) = self.at_its_end(copy(&expected)).await?
            && self.has_own_leaf(id, &segment).await?
        {
            self.transact(|db, profile| match rotates {
                true => is_in(db, profile, id, &expected),
                // What opens the journal from there on was in the answer.
                false => is_in_and_behind(db, profile, id, &segment),
            })??;
            return Ok(true);
        }
        let seed = pending.recovery.as_ref().ok_or(LocalError::Damaged)?;
        let Some(segment) = self.recovered_segment(id, suite, seed).await? else {
            return Ok(false);
        };
        self.transact(|db, profile| is_in_and_behind(db, profile, id, &segment))??;
        Ok(true)
    }

    /// Whether the own leaf is in a group, as the service says.
    pub(super) async fn has_own_leaf(
        &mut self,
        id: &GroupId,
        segment: &Segment,
    ) -> Result<bool, Error> {
        let (_, signer) = self.own_sender(id)?;
        let seen = self.look_for_leaf(id, segment, signer).await?;
        Ok(matches!(seen, Seen::Leaf(_)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::group::{CommitAccepted, JournalKeys, LeafExtras, PartialGroupInfo, RecoveryKey};
    use protocol::ids::{Epoch, Position};
    use protocol::journal::Place;

    use super::*;
    use crate::envelope::Envelope;
    use crate::store::events::{self, Event};
    use crate::store::groups::tests;
    use crate::store::known;
    use crate::store::load_mls;
    use crate::store::pending::Pending;
    use protocol::Wire as _;
    use protocol::codec::{WireSecret, opaque};
    use protocol::group::ExternalJoinRequest;
    use protocol::ids::RotationEpoch;
    use protocol::join::JoinPermit;

    #[test]
    fn an_automatic_return_leaves_the_count_of_such_attempts_as_it_is() {
        let db = crate::store::database::in_memory().unwrap();
        let mut profile = crate::store::profile::tests::profile(&db);
        profile.handle = Some("alice".into());
        let group = tests::group(7, "team");
        group.insert(&db).unwrap();
        tests::keep_mls_group(&db, &group.id);
        known::remember(&db, &group.id, &load_mls(&db, &group.id).unwrap()).unwrap();
        Group::set_rejoin_attempts(&db, &group.id, 2).unwrap();
        let body = ExternalJoinRequest {
            group: group.key(),
            commit: opaque(*b""),
            group_info: PartialGroupInfo {
                extensions: opaque(*b""),
                signature: opaque(*b""),
            },
            rotation: None,
            leaf: LeafExtras {
                wrapped_link_key: opaque(*b""),
                recovery_key: RecoveryKey {
                    public_key: opaque(*b""),
                    signature: opaque(*b""),
                },
                push_handle: opaque(*b""),
            },
            permit: JoinPermit::Rejoin,
        };
        let signer = crypto::sign::SignatureKeyPair::random().unwrap();
        Pending {
            envelope: Envelope::by_key(Operation::ExternalJoin, signer, body.encode(), 1).unwrap(),
            aad: Vec::new(),
            contact: None,
            recovery: Some(crypto::secret::Secret::new([8; 32])),
        }
        .write(&db, &group.id)
        .unwrap();
        let accepted = JoinAccepted {
            accepted: CommitAccepted {
                epoch: Epoch(1),
                place: Place {
                    rotation_epoch: RotationEpoch(0),
                    position: Position(4),
                },
                accepted_ms: 1,
            },
            journal: JournalKeys {
                rotation_epoch: RotationEpoch(0),
                journal_key: WireSecret::new([5; 32]),
                tag_key: WireSecret::new([6; 32]),
                tag_day: Day(3),
            },
        };
        complete(&db, &profile, &group.id, &accepted)
            .unwrap()
            .unwrap();
        let segment = Group::read(&db, &group.id).unwrap().segment;
        assert_eq!((segment.next, segment.tag_day), (Position(5), Day(3)));
        assert_eq!(Group::rejoin_attempts(&db, &group.id).unwrap(), 2);
        assert!(matches!(
            events::stored(&db).as_slice(),
            [Event::Rejoined { .. }]
        ));
    }
}
