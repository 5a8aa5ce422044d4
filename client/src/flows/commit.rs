//! Own commits: staged and kept before they are sent, merged when they are read in the journal.

use openmls::prelude::OpenMlsProvider as _;
use protocol::Wire as _;
use protocol::group::{CommitAccepted, JoinCode};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::flows::rounds::{ROUNDS, pause};
use crate::mls::commit::{Staging, stage};
use crate::mls::plan::Plan;
use crate::outcomes::{CommitOutcome, StopReason};
use crate::store::provider::Provider;
use crate::store::{Group, Pending, load_mls, pointers};

/// How often the journal is read for the commit that an answer tells of.
const LOOKS: u32 = 10;

impl Engine {
    /// Stages a commit and keeps it with its request; nothing is sent.
    pub(crate) fn stage_plan(&mut self, id: &GroupId, plan: Plan) -> Result<(), Error> {
        self.stage_rotating(id, plan, false, &[])
    }

    fn stage_rotating(
        &mut self,
        id: &GroupId,
        plan: Plan,
        rotates: bool,
        codes: &[JoinCode],
    ) -> Result<(), Error> {
        let staging = Staging {
            rotates,
            codes,
            now_ms: self.transport.time.now_unix_ms(),
        };
        self.transact(|db, profile| stage(db, profile, id, plan, &staging))
    }

    /// Sends the kept commit and brings it to an end: it is merged when it is read.
    pub(crate) async fn submit_commit(&mut self, id: &GroupId) -> Result<CommitOutcome, Error> {
        let refusal = match self.send_pending(id).await {
            Ok(answer) => {
                CommitAccepted::decode(&answer)
                    .map_err(|_| Error::Protocol("an answer is malformed"))?;
                None
            }
            Err(Error::Refused(refusal)) => Some(refusal),
            // Its token was refused, and there is no other.
            Err(error @ Error::Issuer(_)) => {
                self.drop_pending_commit(id)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        match refusal.map(|refusal| refusal.problem) {
            None
            | Some(
                ProblemType::WrongEpoch | ProblemType::ServiceBehind | ProblemType::UnknownGroup,
            ) => {}
            Some(ProblemType::BadSignature) if self.stop_if_replaced(id).await? => {
                return Ok(CommitOutcome::Superseded);
            }
            Some(_) => {
                self.drop_pending_commit(id)?;
                return match refusal {
                    Some(refusal) => Err(Error::Refused(refusal)),
                    None => Ok(CommitOutcome::Superseded),
                };
            }
        }
        // Whichever commit was accepted, perhaps this very one, stands in the journal: the service
        // puts it there in the same transition.
        let epoch = self.epoch(id)?;
        if refusal
            .and_then(|refusal| refusal.epoch)
            .is_some_and(|current| current < epoch)
        {
            self.drop_pending_commit(id)?;
            self.lose(id, StopReason::Behind)?;
            return Ok(CommitOutcome::Superseded);
        }
        for look in 0..LOOKS {
            self.outcomes.remove(id);
            self.read_group(id).await?;
            if let Some(outcome) = self.outcomes.remove(id) {
                return Ok(outcome);
            }
            if Pending::read(&self.db, id)?.is_none() || self.epoch(id)? != epoch {
                self.drop_pending_commit(id)?;
                return Ok(CommitOutcome::Superseded);
            }
            tokio::time::sleep(std::time::Duration::from_millis(
                100u64.saturating_mul(u64::from(look)),
            ))
            .await;
        }
        match refusal {
            // It says that it has it, and does not show it: the commit is kept, and looked for
            // again.
            None => Err(Error::Protocol("a commit was accepted and is not there")),
            Some(refusal) => {
                self.drop_pending_commit(id)?;
                match refusal.problem {
                    ProblemType::WrongEpoch => self.lose_track(id).await?,
                    _ => self.lose(id, StopReason::Missing)?,
                }
                Ok(CommitOutcome::Superseded)
            }
        }
    }

    /// Makes a commit by a plan, anew as often as others are faster or something must be covered
    /// with it.
    pub(crate) async fn commit(
        &mut self,
        id: &GroupId,
        plan: impl Fn(&Engine) -> Result<Plan, Error>,
    ) -> Result<(), Error> {
        let (mut rotates, mut codes) = (false, Vec::new());
        for round in 0..ROUNDS {
            let group = Group::read(&self.db, id)?;
            group.check_usable()?;
            let plan = plan(self)?;
            self.stage_rotating(id, plan, rotates, &codes)?;
            match self.submit_commit(id).await {
                Ok(CommitOutcome::Accepted) => return Ok(()),
                Ok(CommitOutcome::Superseded) => rotates = false,
                Err(Error::Refused(refusal))
                    if refusal.problem == ProblemType::PendingProposals =>
                {
                    self.learn_pending(id).await?;
                }
                // The segment is old, or a code has ended.
                Err(Error::Refused(refusal))
                    if refusal.problem == ProblemType::RotationRequired && !rotates =>
                {
                    rotates = true;
                    codes = self.inspect(id).await?.codes;
                }
                Err(error) => return Err(error),
            }
            pause(round).await?;
        }
        Err(UsageError::Contention.into())
    }

    pub(crate) fn epoch(&self, id: &GroupId) -> Result<u64, Error> {
        Ok(load_mls(&self.db, id)?.epoch().as_u64())
    }

    fn drop_pending_commit(&mut self, id: &GroupId) -> Result<(), Error> {
        self.transact(|db, _| {
            load_mls(db, id)?.clear_pending_commit(Provider::new(db).storage())?;
            pointers::drop_unread(db, id)?;
            Pending::delete(db, id)
        })
    }
}
