//! Kept requests of groups: a creation, an external commit, a commit. Each is kept before it is
//! sent, and until it is known what has become of it.

use std::time::Duration;

use openmls::prelude::OpenMlsProvider as _;
use protocol::group::CommitAccepted;
use protocol::ids::GroupId;
use protocol::operation::Operation;
use protocol::problem::ProblemType;

use crate::engine::Engine;
use crate::error::{Error, LocalError, Refusal};
use crate::flows::request::read_answer;
use crate::mls::external;
use crate::outcomes::{CommitOutcome, StopReason};
use crate::store::provider::Provider;
use crate::store::{Group, Pending, load_mls, pointers};

/// How often the journal is read for the commit that an answer tells of.
const LOOKS: u32 = 10;

impl Engine {
    /// Sends the kept request of a group and brings it to an end.
    pub(crate) async fn submit_kept(&mut self, id: &GroupId) -> Result<CommitOutcome, Error> {
        let operation = Pending::operation(&self.db, id)?.ok_or(LocalError::Damaged)?;
        let error = match self.send_pending(id).await {
            Ok(answer) => return self.accepted(id, operation, &answer).await,
            // Refused; or its tokens were, and there are no others.
            Err(error @ (Error::Refused(_) | Error::Issuer(_) | Error::Directory(_))) => error,
            // It may have been accepted, also where the answer cannot be read.
            Err(error) => return Err(error),
        };
        let refusal = match &error {
            Error::Refused(refusal) => Some(*refusal),
            _ => None,
        };
        if let Some(outcome) = self.became_of(id, operation, refusal).await? {
            return Ok(outcome);
        }
        self.give_up(id)?;
        match error.problem() {
            Some(ProblemType::WrongEpoch | ProblemType::PendingProposals)
                if operation == Operation::ExternalJoin =>
            {
                Ok(CommitOutcome::Superseded)
            }
            _ => Err(error),
        }
    }

    async fn accepted(
        &mut self,
        id: &GroupId,
        operation: Operation,
        answer: &[u8],
    ) -> Result<CommitOutcome, Error> {
        match operation {
            Operation::CreateGroup => {
                let accepted: CommitAccepted = read_answer(answer)?;
                self.created(id, Some(accepted.accepted_ms))
            }
            Operation::ExternalJoin => self.entered(id, read_answer(answer)?),
            _ => {
                let _: CommitAccepted = read_answer(answer)?;
                self.find_commit(id, None).await
            }
        }
    }

    /// What has become of a request that is refused now, whatever the reason: an earlier attempt
    /// may have been accepted, its answer be lost and its record be gone, and its tokens are spent.
    /// `None`: nothing.
    async fn became_of(
        &mut self,
        id: &GroupId,
        operation: Operation,
        refusal: Option<Refusal>,
    ) -> Result<Option<CommitOutcome>, Error> {
        let problem = refusal.map(|refusal| refusal.problem);
        match (operation, problem) {
            (Operation::CreateGroup, _) => {
                let segment = Group::read(&self.db, id)?.segment;
                match self.has_own_leaf(id, &segment).await? {
                    true => self.created(id, None).map(Some),
                    false => Ok(None),
                }
            }
            (Operation::ExternalJoin, _) => {
                let is_in = self.was_accepted(id).await?;
                Ok(is_in.then_some(CommitOutcome::Accepted))
            }
            (
                _,
                Some(
                    ProblemType::WrongEpoch
                    | ProblemType::ServiceBehind
                    | ProblemType::UnknownGroup,
                ),
            ) => self.find_commit(id, refusal).await.map(Some),
            (_, Some(ProblemType::BadSignature)) if self.stop_if_replaced(id).await? => {
                Ok(Some(CommitOutcome::Superseded))
            }
            _ => self.look_for_commit(id).await,
        }
    }

    /// Reads the journal once. `None`: no commit is there that the kept one is or was beaten by.
    async fn look_for_commit(&mut self, id: &GroupId) -> Result<Option<CommitOutcome>, Error> {
        let epoch = self.epoch(id)?;
        self.outcomes.remove(id);
        self.read_group(id).await?;
        if let Some(outcome) = self.outcomes.remove(id) {
            return Ok(Some(outcome));
        }
        if Pending::read(&self.db, id)?.is_none() || self.epoch(id)? != epoch {
            self.give_up(id)?;
            return Ok(Some(CommitOutcome::Superseded));
        }
        Ok(None)
    }

    /// Whichever commit was accepted, perhaps the kept one, stands in the journal: the service puts
    /// it there in the same transition. The kept one is merged when it is read.
    async fn find_commit(
        &mut self,
        id: &GroupId,
        refusal: Option<Refusal>,
    ) -> Result<CommitOutcome, Error> {
        let epoch = self.epoch(id)?;
        let current = refusal.and_then(|refusal| refusal.epoch);
        if current.is_some_and(|current| current < epoch) {
            self.give_up(id)?;
            self.lose(id, StopReason::Behind)?;
            return Ok(CommitOutcome::Superseded);
        }
        for look in 0..LOOKS {
            if let Some(outcome) = self.look_for_commit(id).await? {
                return Ok(outcome);
            }
            crate::runtime::sleep(Duration::from_millis(100u64.saturating_mul(look.into()))).await;
        }
        let Some(refusal) = refusal else {
            // It says that it has it, and does not show it: the commit is kept, and looked for
            // again.
            return Err(Error::Protocol("a commit was accepted and is not there"));
        };
        self.give_up(id)?;
        match refusal.problem {
            ProblemType::WrongEpoch => self.lose_track(id).await?,
            _ => self.lose(id, StopReason::Missing)?,
        }
        Ok(CommitOutcome::Superseded)
    }

    /// The request was refused, or another one stands in its place: all is as before it was made.
    fn give_up(&mut self, id: &GroupId) -> Result<(), Error> {
        self.transact(|db, _| match Pending::operation(db, id)? {
            Some(Operation::CreateGroup) => Group::delete(db, id),
            Some(Operation::ExternalJoin) => external::refused(db, id),
            _ => {
                load_mls(db, id)?.clear_pending_commit(Provider::new(db).storage())?;
                pointers::drop_unread(db, id)?;
                Pending::delete(db, id)
            }
        })
    }
}
