//! Requests of a member that carry the group's state key. The service knows no group that opens
//! with a former key, so whoever is behind a removal catches up first and asks then.

use crypto::sign::LeafKeyPair;
use protocol::Wire;
use protocol::group::{GroupKey, OwnLeafRequest, OwnLeafResponse};
use protocol::ids::{GroupId, LeafIndex};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::request::Sender;

use crate::engine::Engine;
use crate::error::{Error, LocalError, UsageError};
use crate::flows::rounds::{ROUNDS, pause};
use crate::store::provider::LeafSigner;
use crate::store::{Group, Segment, leaf_keys};

/// What the service has of a leaf.
pub(crate) enum Seen {
    Leaf(OwnLeafResponse),
    /// None in the group has this key.
    NoLeaf,
    /// No group opens with this state key.
    NoGroup,
}

impl Engine {
    /// Makes a request of the own leaf, by what `body` makes of the group as it is now. It is paid
    /// by the leaf's allowance.
    ///
    /// # Errors
    /// [`UsageError::GroupLost`] for a group that the service has no more, or not for this client.
    pub(crate) async fn as_member<R: Wire>(
        &mut self,
        id: &GroupId,
        operation: Operation,
        body: impl Fn(&Engine, &Group) -> Result<Vec<u8>, Error>,
    ) -> Result<R, Error> {
        for round in 0..ROUNDS {
            let group = Group::read(&self.db, id)?;
            group.check_usable()?;
            let (sender, signer) = self.own_sender(id)?;
            let body = body(self, &group)?;
            match self.call_as(operation, sender, signer, body, 0).await {
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownGroup => {
                    self.follow_rotation(id).await?;
                }
                Err(Error::Refused(refusal)) if refusal.is_of_other_epoch() => {
                    let epoch = self.epoch(id)?;
                    self.follow(id, epoch, refusal.epoch).await?;
                }
                other => return other,
            }
            pause(round).await?;
        }
        Err(UsageError::Contention.into())
    }

    /// Asks the service for the leaf of this key in a group, by the keys of this segment.
    pub(crate) async fn look_for_leaf(
        &mut self,
        id: &GroupId,
        segment: &Segment,
        signer: LeafKeyPair,
    ) -> Result<Seen, Error> {
        let request = OwnLeafRequest {
            group: GroupKey {
                group_id: *id,
                state_key: segment.state_key.to_wire(),
            },
        };
        match self.call(Operation::OwnLeaf, signer, &request).await {
            Ok(own) => Ok(Seen::Leaf(own)),
            Err(error) => match error.problem() {
                Some(ProblemType::NotAllowed) => Ok(Seen::NoLeaf),
                Some(ProblemType::UnknownGroup) => Ok(Seen::NoGroup),
                _ => Err(error),
            },
        }
    }

    /// The own leaf as the sender of a request, and its key.
    pub(crate) fn own_sender(&self, id: &GroupId) -> Result<(Sender, LeafKeyPair), Error> {
        let mls = self.mls(id)?;
        let leaf = mls.own_leaf_node().ok_or(LocalError::Damaged)?;
        let LeafSigner(key) = leaf_keys::signer(&self.db, leaf.signature_key().as_slice())?;
        Ok((Sender::Leaf(LeafIndex(mls.own_leaf_index().u32())), key))
    }
}
