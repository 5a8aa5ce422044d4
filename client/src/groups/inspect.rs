//! The service's view of a group, held against this client's; where deliveries go; messages to one member.

use openmls::prelude::MlsGroup;
use protocol::codec::opaque;
use protocol::groups::{
    Accepted, InspectGroupResponse, MessageAccepted, SendToMemberRequest,
    UpdateQueueReferenceRequest,
};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::{Operation, Wire as _};

use crate::Client;
use crate::error::{Error, PeerError, UsageError};
use crate::groups::commit::ROUNDS;
use crate::groups::content::Content;
use crate::groups::enforce::{capabilities, policy_in};
use crate::groups::evidence::StopReason;
use crate::groups::message::encrypt;
use crate::groups::{Group, Status, load_mls, pending, pseudonym_of};
use crate::leaf;

/// Compares leaves, pseudonyms and capabilities.
fn compare(mls_group: &MlsGroup, inspected: &InspectGroupResponse) -> Result<(), PeerError> {
    let policy = policy_in(mls_group.extensions())?;
    let mut theirs = inspected.members.iter();
    for member in mls_group.members() {
        let record = theirs
            .next()
            .ok_or(PeerError::Disagreement("the service misses a member"))?;
        let pseudonym = pseudonym_of(&member.credential).unwrap_or_default();
        if record.leaf_index != member.index.u32() || record.user_pseudonym.as_slice() != pseudonym
        {
            return Err(PeerError::Disagreement("a member differs"));
        }
        if record.capabilities != capabilities(policy.as_ref(), &pseudonym) {
            return Err(PeerError::Disagreement("what a member may do differs"));
        }
    }
    if theirs.next().is_some() {
        return Err(PeerError::Disagreement("the service has a member too many"));
    }
    Ok(())
}

impl Client {
    /// Asks the service what it holds of a group and compares it with what this client has: returns the number of
    /// clients in the group and its epoch, which both agree on.
    ///
    /// # Errors
    /// [`PeerError::Disagreement`].
    pub async fn verify_group(&mut self, group: &str) -> Result<(usize, u64), Error> {
        self.sync(0).await?;
        let id = Group::usable(&self.db, group)?.id;
        for _ in 0..ROUNDS {
            let epoch = self.epoch(&id)?;
            let inspected = match self.inspect(&id).await {
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownGroup => {
                    self.recover_state_key(&id).await?;
                    continue;
                }
                other => other?,
            };
            if inspected.epoch > epoch {
                self.follow(&id, epoch, Some(inspected.epoch)).await?;
                Group::usable(&self.db, group)?;
                continue;
            }
            let mls_group = load_mls(&self.db, &id)?;
            if inspected.epoch < epoch {
                self.lose(&id, StopReason::Behind)?;
                return Err(PeerError::Disagreement("the service is at an earlier epoch").into());
            }
            compare(&mls_group, &inspected)?;
            return Ok((inspected.members.len(), epoch));
        }
        Err(UsageError::Contention.into())
    }

    /// Has every group deliver to the queue that this client has now.
    ///
    /// # Errors
    /// Whatever the service refuses.
    pub async fn update_queue_references(&mut self) -> Result<(), Error> {
        let directory = self.directory().await?;
        for group in Group::all(&self.db)? {
            if group.status != Status::Active {
                continue;
            }
            let (sender, signer) = self.own_sender(&group.id)?;
            let reference = leaf::queue_reference(&self.profile, &directory, &signer.public())?;
            let request = UpdateQueueReferenceRequest {
                group_id: group.id,
                state_key: group.state_key.to_wire(),
                queue_reference: opaque(reference),
            };
            let _: Accepted = self
                .call_as(
                    Operation::UpdateQueueReference,
                    sender,
                    signer,
                    request.encode(),
                    0,
                )
                .await?;
        }
        Ok(())
    }

    /// Sends a text to one member of a group, on all clients of that user; nobody else gets it.
    ///
    /// # Errors
    /// As [`Client::send_message`]; [`UsageError::NotInGroup`].
    pub async fn send_to_member(
        &mut self,
        group: &str,
        member: &str,
        text: &str,
    ) -> Result<(), Error> {
        self.sync(0).await?;
        for _ in 0..ROUNDS {
            let group = Group::usable(&self.db, group)?;
            let leaves = self.leaves_of(&group, &[member])?;
            let leaves: Vec<u32> = leaves.into_iter().map(|leaf| leaf.u32()).collect();
            let epoch = self.epoch(&group.id)?;
            match self.send_to_leaves(&group, &leaves, text).await {
                Ok(()) => return Ok(()),
                Err(Error::Refused(refusal)) if refusal.is_of_other_epoch() => {
                    self.follow(&group.id, epoch, refusal.epoch).await?;
                }
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownGroup => {
                    self.recover_state_key(&group.id).await?;
                }
                Err(Error::Refused(refusal))
                    if refusal.problem == ProblemType::PendingProposals =>
                {
                    self.make_way(&group.id).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(UsageError::Contention.into())
    }

    async fn send_to_leaves(
        &mut self,
        group: &Group,
        leaves: &[u32],
        text: &str,
    ) -> Result<(), Error> {
        let content = Content::Text(text.to_owned());
        for recipient in leaves {
            if self.is_held_up(&group.id)? {
                self.make_way(&group.id).await?;
            }
            let message = self.transact(|db, _| encrypt(db, &group.id, &content))?;
            let request = SendToMemberRequest {
                group_id: group.id,
                state_key: group.state_key.to_wire(),
                recipient: *recipient,
                message: opaque(message),
            };
            let (sender, signer) = self.own_sender(&group.id)?;
            let _: MessageAccepted = self
                .call_as(Operation::SendToMember, sender, signer, request.encode(), 0)
                .await?;
        }
        Ok(())
    }

    /// Commits what must be committed before anything can be sent.
    pub(crate) async fn make_way(&mut self, id: &GroupId) -> Result<(), Error> {
        self.learn_pending(id).await?;
        let group = Group::read(&self.db, id)?;
        group.check_usable()?;
        let mls_group = load_mls(&self.db, id)?;
        let leaving = pending::removals(&self.db, &mls_group)?;
        if leaving.contains(&mls_group.own_leaf_index().u32()) {
            return Err(UsageError::Leaving(group.display_name()).into());
        }
        self.cover(id).await
    }
}
