//! What the service asks of a commit beyond what everybody does: that it is the operation that it
//! was sent as (draft-robert-mimi-delivery-service-02 §5), and covers what is pending.

use openmls::prelude::{Proposal, Sender};
use protocol::group::GroupKind;
use protocol::lifetime;
use protocol::operation::Operation;
use protocol::policy::Capabilities;

use crate::commit::{Case, Effect, Joined, leaving};
use crate::context::policy_in;
use crate::leaf::user_of;
use crate::{Refusal, capabilities};

/// What an external committer says that lets it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// A leaf of its user says so.
    Client,
    /// The leaf that it replaces says so.
    Rejoin,
    /// A join code, which was found to be good: into a group, or into the connection that it was
    /// made for.
    JoinCode,
}

impl Case<'_> {
    /// Judges a member's commit that was sent as an operation.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn judge_operation(&self, operation: Operation, rotates: bool) -> Result<Effect, Refusal> {
        let Sender::Member(index) = self.sender else {
            return Err(Refusal::Commit);
        };
        if self.aad.rotates != u8::from(rotates) {
            return Err(Refusal::Commit);
        }
        let removed = self.removed();
        if self.leaving.iter().any(|leaf| !removed.contains(leaf)) {
            return Err(Refusal::Pending);
        }
        let actor = user_of(self.group, index.u32()).ok_or(Refusal::Commit)?;
        self.contents(operation, &actor)?;
        let effect = self.judge()?;
        // Only an update changes the credential.
        let renewed = effect
            .committer
            .as_ref()
            .is_some_and(|renewed| renewed.credential_changed);
        if (renewed && operation != Operation::UpdateClient)
            || effect.deletes != (operation == Operation::DeleteGroup && !removed.is_empty())
        {
            return Err(Refusal::Commit);
        }
        self.arrivals(operation, &actor, &effect)?;
        Ok(effect)
    }

    /// Judges an external commit by a joiner with this permit.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn judge_join(&self, permit: Permit, rotates: bool) -> Result<Effect, Refusal> {
        if *self.sender != Sender::NewMemberCommit || self.aad.rotates != u8::from(rotates) {
            return Err(Refusal::Commit);
        }
        let effect = self.judge()?;
        let agrees = matches!(
            (permit, &effect.joined),
            (Permit::Client, Some(Joined::Client))
                | (Permit::Rejoin, Some(Joined::Rejoin(_)))
                | (Permit::JoinCode, Some(Joined::NewUser | Joined::Connection))
        );
        if agrees {
            Ok(effect)
        } else {
            Err(Refusal::NotAllowed)
        }
    }

    /// All proposals by value are of the kinds that the operation takes.
    fn only(&self, allowed: fn(&Proposal) -> bool) -> Result<(), Refusal> {
        if self.by_value().all(|queued| allowed(queued.proposal())) {
            Ok(())
        } else {
            Err(Refusal::Commit)
        }
    }

    fn contents(&self, operation: Operation, actor: &[u8]) -> Result<(), Refusal> {
        // Adds need Welcomes, which only two operations bring.
        let adds = matches!(operation, Operation::AddUsers | Operation::AddClients);
        if !adds
            && self
                .by_reference()
                .any(|queued| matches!(queued.proposal(), Proposal::Add(_)))
        {
            return Err(Refusal::Commit);
        }
        match (operation, self.kind) {
            (Operation::AddUsers, GroupKind::Group) | (Operation::AddClients, _) => {
                self.only(|proposal| matches!(proposal, Proposal::Add(_)))
            }
            (Operation::RemoveUsers, GroupKind::Group | GroupKind::Connection) => {
                self.remove_users(actor)
            }
            (Operation::RemoveClients, _) => {
                for leaf in self.removed_by_value()? {
                    if user_of(self.group, leaf).ok_or(Refusal::Commit)? != actor {
                        return Err(Refusal::NotAllowed);
                    }
                }
                Ok(())
            }
            (Operation::DeleteGroup, _) => self.delete_group(),
            (Operation::SetRole, GroupKind::Group) => {
                self.one(|proposal| matches!(proposal, Proposal::GroupContextExtensions(_)))
            }
            (Operation::ReInitializeGroup, GroupKind::Group) => {
                self.one(|proposal| matches!(proposal, Proposal::ReInit(_)))?;
                // It stands alone (RFC 9420 §12.2).
                if self.by_reference().next().is_some() {
                    return Err(Refusal::Commit);
                }
                Ok(())
            }
            (Operation::UpdateClient, _) => {
                if self.by_value().next().is_some() || self.staged.update_path_leaf_node().is_none()
                {
                    return Err(Refusal::Commit);
                }
                Ok(())
            }
            _ => Err(Refusal::NotAllowed),
        }
    }

    fn one(&self, wanted: fn(&Proposal) -> bool) -> Result<(), Refusal> {
        let mut by_value = self.by_value();
        match (by_value.next(), by_value.next()) {
            (Some(queued), None) if wanted(queued.proposal()) => Ok(()),
            _ => Err(Refusal::Commit),
        }
    }

    /// The leaves that are removed by value.
    fn removed_by_value(&self) -> Result<Vec<u32>, Refusal> {
        self.only(|proposal| matches!(proposal, Proposal::Remove(_)))?;
        let removed: Vec<u32> = self.by_value().filter_map(leaving).collect();
        if removed.is_empty() {
            return Err(Refusal::Commit);
        }
        Ok(removed)
    }

    fn remove_users(&self, actor: &[u8]) -> Result<(), Refusal> {
        let removed = self.removed_by_value()?;
        let policy = policy_in(self.group.group_context().extensions())?;
        if !capabilities(policy.as_ref(), actor).contain(Capabilities::REMOVE) {
            return Err(Refusal::NotAllowed);
        }
        for leaf in removed {
            let own = user_of(self.group, leaf).ok_or(Refusal::Commit)? == actor;
            // The own user goes by other operations.
            if own && !self.leaving.contains(&leaf) {
                return Err(Refusal::Commit);
            }
        }
        Ok(())
    }

    fn delete_group(&self) -> Result<(), Refusal> {
        self.only(|proposal| matches!(proposal, Proposal::Remove(_)))?;
        let members = self.group.treesync().full_leaves().count();
        if self.removed().len().saturating_add(1) == members && self.aad.rotates == 0 {
            Ok(())
        } else {
            Err(Refusal::Commit)
        }
    }

    fn arrivals(&self, operation: Operation, actor: &[u8], effect: &Effect) -> Result<(), Refusal> {
        let own = match operation {
            Operation::AddUsers => false,
            Operation::AddClients => true,
            _ => return Ok(()),
        };
        if effect.added.is_empty() {
            return Err(Refusal::Commit);
        }
        let now_s = self.accepted_ms / 1000;
        for arrival in &effect.added {
            // Further clients and other users come in by operations of their own.
            if (arrival.claims.user_pseudonym == actor) != own {
                return Err(Refusal::NotAllowed);
            }
            // Now is the one moment at which that is judged, by the one clock of the service: else
            // members whose clocks are off, or who read the commit late, would lose the group.
            let good = arrival
                .lifetime
                .is_some_and(|(from, until)| lifetime::is_good(from, until, now_s));
            if !good {
                return Err(Refusal::Leaf);
            }
        }
        Ok(())
    }
}
