//! Catching up: finishing what was under way, reading journals, and what follows from it.

use protocol::ids::GroupId;

use crate::engine::Engine;
use crate::error::{Error, all_can_wait, refusals_can_wait};
use crate::flows::act::in_any_order;
use crate::flows::news::Watch;
use crate::ids::GroupRef;
use crate::store::{Group, Pending, Status, heard};

/// What a client does beside reading.
#[derive(Debug, Clone, Copy)]
enum Step {
    Certificate,
    Pending,
    Directory,
    Invitations,
    Groups,
    Upgrades,
    Queued,
    Acts,
    Inbox,
    KeyPackages,
    Tokens,
    Removals,
    Devices,
    Wallet,
    Views,
}

impl Step {
    const BEFORE_READING: [Self; 4] = [
        Self::Certificate,
        Self::Pending,
        Self::Directory,
        Self::Invitations,
    ];
    const AFTER_READING: [Self; 11] = [
        Self::Groups,
        Self::Upgrades,
        Self::Queued,
        Self::Acts,
        Self::Inbox,
        Self::KeyPackages,
        Self::Tokens,
        Self::Removals,
        Self::Devices,
        Self::Wallet,
        Self::Views,
    ];
}

impl Engine {
    /// Catches up: finishes what was under way, reads the journals of all groups, and does what
    /// follows from it.
    pub(crate) async fn sync(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        // Everything is read, whatever a stream has told.
        let parked = self.streams.parked.take();
        self.prepare_to_read().await?;
        self.take_all_in().await?;
        self.streams.parked = parked;
        self.settle().await
    }

    /// Catches up, and says which group is meant. A name is looked up before that, since others can
    /// rename their groups; one that is not known here may come with what is read.
    pub(crate) async fn sync_with(&mut self, group: &GroupRef) -> Result<Group, Error> {
        let meant = match Group::meant(&self.db, group) {
            Ok(known) => GroupRef::from(known.id),
            Err(Error::Usage(_)) => group.clone(),
            Err(error) => return Err(error),
        };
        self.sync().await?;
        Group::meant(&self.db, &meant)
    }

    /// As [`Engine::sync_with`], if this client can act in that group.
    pub(crate) async fn sync_for(&mut self, group: &GroupRef) -> Result<Group, Error> {
        let group = self.sync_with(group).await?;
        group.check_usable()?;
        Ok(group)
    }

    /// The first half of [`Engine::sync`], with a wait for news behind it. Others may use home and
    /// engine meanwhile.
    pub(crate) async fn begin_sync(&mut self, wait_ms: u32) -> Result<Watch, Error> {
        let _held = self.hold().await?;
        self.prepare_to_read().await?;
        if self.reads_by_feed() {
            self.settle_feed().await?;
        }
        self.watch(wait_ms)
    }

    /// Prepares to wait for the next slot. Nothing is read before it.
    pub(crate) async fn begin_to_follow(&mut self) -> Result<Watch, Error> {
        // It ends here where it does not go on.
        let parked = self.streams.parked.take();
        let _held = self.hold().await?;
        if self.slots.is_awake() {
            self.settle_feed().await?;
        }
        self.watch_or_follow(parked)
    }

    /// The second half.
    pub(crate) async fn finish_sync(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.take_news_in().await?;
        self.settle().await
    }

    pub(crate) async fn prepare_to_read(&mut self) -> Result<(), Error> {
        self.refresh_reporting().await?;
        self.resume().await
    }

    /// Reads journals and follows invitations, and does nothing else: kept requests stay kept.
    #[cfg(feature = "test-support")]
    pub(crate) async fn take_in(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.take_all_in().await
    }

    pub(crate) async fn take_all_in(&mut self) -> Result<(), Error> {
        self.read_all().await?;
        self.follow_invitations().await
    }

    /// Brings requests to their end whose answer this client does not know.
    pub(crate) async fn resume(&mut self) -> Result<(), Error> {
        for group in in_any_order(Pending::groups(&self.db)?)? {
            if self.has_acted() {
                break;
            }
            // It stays kept. Whether the service answers at all shows in what comes next.
            match self.resume_group(&group).await {
                Err(Error::Unreachable(_)) => break,
                // Refused after all: there is nobody left to tell, and the state is as before. Nor
                // does an empty wallet stop what comes after this, its filling included.
                other => refusals_can_wait(other)?,
            }
        }
        Ok(())
    }

    /// The same in one group.
    pub(crate) async fn resume_group(&mut self, group: &GroupId) -> Result<(), Error> {
        match Pending::operation(&self.db, group)? {
            Some(_) => self.submit_kept(group).await.map(drop),
            None => Ok(()),
        }
    }

    /// What follows from what was taken in: recovery keys, leaves whose key somebody else knows
    /// or knew, new KeyPackages. What is refused is tried again next time.
    pub(crate) async fn settle(&mut self) -> Result<(), Error> {
        for step in Step::AFTER_READING {
            self.do_step(step).await?;
        }
        self.loaded.forget_stale(&self.db)
    }

    /// The same in a slot, and what else has waited for one: up to the first step that asks for
    /// something, in an order that is nobody's. What is refused again and again holds up nothing
    /// for good.
    pub(crate) async fn settle_in_slot(&mut self) -> Result<(), Error> {
        self.between_slots.settling = Some(self.transport.posted());
        let done = self.settle_in_any_order().await;
        self.between_slots.settling = None;
        self.loaded.forget_stale(&self.db)?;
        done
    }

    async fn settle_in_any_order(&mut self) -> Result<(), Error> {
        let steps = Step::BEFORE_READING.into_iter().chain(Step::AFTER_READING);
        for step in in_any_order(steps)? {
            if self.has_acted() {
                break;
            }
            self.do_step(step).await?;
        }
        Ok(())
    }

    async fn do_step(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Certificate => self.refresh_reporting().await,
            Step::Pending => self.resume().await,
            Step::Directory => self.hear_directory().await,
            Step::Invitations => refusals_can_wait(self.follow_invitations().await),
            Step::Groups => self.settle_groups().await,
            Step::Upgrades => {
                for group in self.upgrading()? {
                    if self.has_acted() {
                        break;
                    }
                    refusals_can_wait(self.go_on_upgrading(&group).await)?;
                }
                Ok(())
            }
            Step::Queued => all_can_wait(self.send_all_queued().await),
            Step::Acts => {
                self.plan_claims()?;
                self.plan_stock()?;
                self.plan_handle()?;
                refusals_can_wait(self.act().await)
            }
            Step::Inbox => refusals_can_wait(self.check_inbox_in_time().await),
            Step::KeyPackages => refusals_can_wait(self.replenish_key_packages().await),
            Step::Tokens => refusals_can_wait(self.settle_tokens().await),
            Step::Removals => refusals_can_wait(self.go_on_removing().await),
            Step::Devices => refusals_can_wait(self.settle_devices().await),
            Step::Wallet => refusals_can_wait(self.top_up().await),
            Step::Views => self.compare_views().await,
        }
    }

    async fn settle_groups(&mut self) -> Result<(), Error> {
        for group in in_any_order(Group::all(&self.db)?)? {
            if self.has_acted() {
                break;
            }
            match self.settle_group(&group).await {
                // It has answered meanwhile: what it holds back of one group holds up no other one.
                Err(Error::Unreachable(_)) if !self.transport.budget().left().is_zero() => {}
                Err(Error::Unreachable(_)) => return Ok(()),
                other => other?,
            }
        }
        Ok(())
    }

    /// Hears the directory anew for an entry that could not be judged without.
    async fn hear_directory(&mut self) -> Result<(), Error> {
        let undecided = self.between_slots.undecided.iter().next();
        let Some((group, accepted_ms)) = undecided.map(|(group, ms)| (*group, *ms)) else {
            return Ok(());
        };
        if self.looks_up_senders(accepted_ms).await? {
            self.between_slots.undecided.remove(&group);
            self.between_slots.looked_up.insert(group);
        }
        Ok(())
    }

    pub(crate) async fn settle_group(&mut self, group: &Group) -> Result<(), Error> {
        if group.status == Status::Lost {
            refusals_can_wait(self.try_rejoin(&group.id).await)?;
        }
        if group.status != Status::Active {
            return Ok(());
        }
        refusals_can_wait(self.go_on_leaving(&group.id).await)?;
        refusals_can_wait(self.cover(&group.id).await)?;
        refusals_can_wait(self.keep_up(&group.id).await)?;
        refusals_can_wait(self.carry_out_decisions(&group.id).await)?;
        let group = Group::read(&self.db, &group.id)?;
        if group.status != Status::Active {
            return Ok(());
        }
        if !group.recovery_set {
            refusals_can_wait(self.set_leaf_extras(&group.id).await)?;
        }
        self.settle_outbox(&group.id)?;
        self.plan_rows(&group.id)?;
        let waits = heard::is_waiting(&self.db, &group.id)?;
        if !waits {
            self.renew_in_time(&group.id)?;
        }
        if group.update_due && !waits {
            refusals_can_wait(self.update_leaf(&group.id).await)?;
        }
        Ok(())
    }
}
