//! Own commits: staged and kept before they are sent, merged when they are read in the journal.

use protocol::group::JoinCode;
use protocol::ids::GroupId;
use protocol::problem::ProblemType;

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::flows::rounds::{ROUNDS, pause};
use crate::mls::commit::{Staging, stage};
use crate::mls::plan::Plan;
use crate::outcomes::CommitOutcome;
use crate::store::Group;

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
            match self.submit_kept(id).await {
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
        Ok(self.mls(id)?.epoch().as_u64())
    }
}
