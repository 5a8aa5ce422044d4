//! Leaving a group, and ending it.

use protocol::ids::GroupId;

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::ids::GroupRef;
use crate::mls::plan::Plan;
use crate::mls::proposals;
use crate::store::groups::set_leaving;
use crate::store::{Group, Status, erasing};

impl Engine {
    /// Leaves a group with all clients of this user. It is done when another member has committed
    /// it, which happens as soon as one of them catches up; until then nobody can send. Whoever is
    /// alone deletes the group.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`], [`UsageError::NotAMember`].
    pub(crate) async fn leave_group(&mut self, group: &GroupRef) -> Result<(), Error> {
        let _held = self.hold().await?;
        let id = self.sync_for(group).await?.id;
        let own = self.other_own_leaves(&id)?.len();
        if self.mls(&id)?.members().count() == own.saturating_add(1) {
            return self.commit(&id, |_| Ok(Plan::Delete)).await;
        }
        if own > 0 {
            self.remove_other_own_leaves(&id).await?;
        }
        set_leaving(&self.db, &id)?;
        self.propose_leaving(&id).await
    }

    /// Deletes a group: everybody else is removed, and nothing of it stays at the service.
    ///
    /// # Errors
    /// [`UsageError::NotPermitted`].
    pub(crate) async fn delete_group(&mut self, group: &GroupRef) -> Result<(), Error> {
        let _held = self.hold().await?;
        let id = self.sync_for(group).await?.id;
        self.commit(&id, |_| Ok(Plan::Delete)).await
    }

    /// Forgets a group that this client is not in any more, and everything that was said there.
    /// Asks nobody.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`], [`UsageError::StillAMember`].
    pub(crate) async fn forget_group(&mut self, group: &GroupRef) -> Result<(), Error> {
        let _held = self.hold().await?;
        let group = Group::meant(&self.db, group)?;
        if group.status == Status::Active {
            return Err(UsageError::StillAMember(group.display_name()).into());
        }
        self.transact(|db, _| erasing::forget_group(db, &group.id))
    }

    /// What is left to do of a wish to leave: the proposal lapses with its epoch.
    pub(crate) async fn go_on_leaving(&mut self, id: &GroupId) -> Result<(), Error> {
        if Group::is_leaving(&self.db, id)? {
            let mls_group = self.mls(id)?;
            if proposals::removals(&self.db, &mls_group)?.len() >= mls_group.members().count() {
                // Everybody is leaving: nobody is left to commit it.
                return Group::set_status(&self.db, id, Status::Closed);
            }
            match self.propose_leaving(id).await {
                Err(Error::Usage(UsageError::Contention)) => Ok(()),
                other => other,
            }
        } else {
            Ok(())
        }
    }
}
