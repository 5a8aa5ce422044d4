//! Reading in slots ([`crate::slots`]): one request at a time of this client's own, of one size,
//! whatever there is to be read. What follows from what was read waits for a slot too: nothing is
//! sent because something was received.

use protocol::ids::{GroupId, Position, SegmentId};
use protocol::journal::AnswerSize;

use crate::engine::Engine;
use crate::error::{Error, refusals_can_wait};
use crate::flows::feed::latest_ms;
use crate::flows::read::{Senders, Taken};
use crate::net::clock::{Clock as _, SystemClock};
use crate::slots::{Profile, Turn, choose};
use crate::store::{Group, Status, feed};

/// A number below 2^64 from the system.
fn draw() -> Result<u64, Error> {
    Ok(u64::from_be_bytes(crypto::random()?))
}

impl Engine {
    /// Another profile from now on, if it is another one.
    pub(crate) fn choose_profile(&mut self, profile: Profile) {
        if profile != self.slots.profile() {
            self.slots.choose_profile(profile);
            self.streams.follow_at(self.slots.pace());
        }
    }

    /// Plans the next slot, if none is planned; when it is, by the clock that nobody sets.
    pub(crate) fn plan_slot(&mut self) -> Result<u64, Error> {
        let now_ms = SystemClock.monotonic_ms();
        self.slots.begin(now_ms, draw()?);
        Ok(self.slots.next_ms().unwrap_or(now_ms))
    }

    /// Takes a slot, if it is time for one.
    pub(crate) async fn take_slot(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.keep_heard()?;
        let follows = feed::place(&self.db)?.is_some();
        let is_named = match self.slots.reacts() {
            true => !self.named()?.is_empty(),
            false => false,
        };
        let now_ms = SystemClock.monotonic_ms();
        if is_named {
            self.slots.hear(now_ms);
        }
        // Whatever went out since has had a place, and so has what is sent in this one beyond it.
        let before = self.transport.posted();
        self.slots.spent(before.saturating_sub(self.counted));
        self.counted = before;
        let random = [draw()?, draw()?];
        let done = match self.slots.turn(now_ms, (follows, is_named), random) {
            None => return Ok(()),
            Some(Turn::Taken) => Ok(()),
            Some(Turn::Read) => self.read_in_slot().await,
            Some(Turn::SettleOnly) => self.settle_in_slot().await,
            Some(Turn::Settle) => match self.settle_in_slot().await {
                Ok(()) if self.transport.posted() == before => self.read_in_slot().await,
                other => other,
            },
        };
        let places = u64::try_from(self.bundle.journals()).unwrap_or(1);
        self.counted = self.transport.posted().min(before.saturating_add(places));
        done
    }

    /// Groups that the feed has named, or whose time has come.
    fn named(&self) -> Result<Vec<GroupId>, Error> {
        let now_ms = self.transport.time.now_unix_ms();
        feed::to_read(&self.db, now_ms, latest_ms(now_ms))
    }

    async fn read_in_slot(&mut self) -> Result<(), Error> {
        if self.slots.profile() == Profile::LowData && feed::place(&self.db)?.is_some() {
            let named = self.named()?;
            self.read_these(named).await?;
            return self.judge_outbox();
        }
        let now_ms = self.transport.time.now_unix_ms();
        let mut candidates = feed::candidates(&self.db, now_ms, latest_ms(now_ms))?;
        // Its stream tells what there is; it is read where nothing else can be.
        let mut streamed = Vec::new();
        candidates.retain(|(id, _)| match Group::find(&self.db, id) {
            Ok(Some(group)) if self.streams.has_all_of(&group) => {
                streamed.push(*id);
                false
            }
            _ => true,
        });
        let (mut groups, waits): (Vec<_>, Vec<_>) = candidates.into_iter().unzip();
        let mut chosen = choose(&waits, self.bundle, [draw()?, draw()?, draw()?, draw()?]);
        if groups.is_empty() {
            chosen = vec![0; streamed.len().min(self.bundle.journals())];
            groups = streamed;
        }
        for at in chosen {
            let Some(group) = groups.get(at) else {
                continue;
            };
            match self.read_page(group).await {
                // What one group meets holds up no other one.
                Err(Error::Refused(_) | Error::Protocol(_) | Error::Directory(_)) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Reads the last page of a journal; or the next one where more has come than that holds.
    async fn read_page(&mut self, id: &GroupId) -> Result<(), Error> {
        self.read_to_end.clear();
        let Some(group) = Group::find(&self.db, id)?.filter(|it| it.status == Status::Active)
        else {
            return Ok(());
        };
        if self.is_without_state(id)? {
            return Ok(());
        }
        let from = match self.cursors.remove(id) {
            Some((segment, from)) if segment == group.segment.id => from,
            _ => Position::LAST,
        };
        let Some(page) = self.page(&group, from, AnswerSize::Ordinary).await? else {
            return Ok(());
        };
        if let Some(before) = self.is_missing_before(&group, from, &page)? {
            return self.goes_on(id, Some((group.segment.id, before)));
        }
        let mut taken = self.take(id, &page, Senders::AsKnown)?;
        if let Taken::Undecided(accepted_ms) = taken
            && self.looks_up_senders(accepted_ms).await?
        {
            taken = self.take(id, &page, Senders::LookedUp)?;
        }
        match taken {
            Taken::On(next) => self.goes_on(id, Some((group.segment.id, next)))?,
            Taken::NextSegment => self.goes_on(id, None)?,
            Taken::LaterStore => {
                self.heard_directory().await?;
            }
            Taken::End | Taken::Undecided(_) => {}
        }
        self.know_as_read()?;
        self.judge_outbox()
    }

    /// More is to be read: in a slot to come.
    fn goes_on(&mut self, id: &GroupId, from: Option<(SegmentId, Position)>) -> Result<(), Error> {
        if let Some(from) = from {
            self.cursors.insert(*id, from);
        }
        let now_ms = self.transport.time.now_unix_ms();
        feed::has_news(&self.db, id, now_ms)
    }

    /// What journals that were just read to their ends say of own messages. What is sent from now
    /// on is not in them.
    pub(crate) fn judge_outbox(&mut self) -> Result<(), Error> {
        let read: Vec<GroupId> = self.read_to_end.iter().copied().collect();
        for group in read {
            if Group::find(&self.db, &group)?.is_some() {
                self.settle_outbox(&group)?;
            }
        }
        self.read_to_end.clear();
        Ok(())
    }

    /// What waited for a slot: requests whose outcome is not known, invitations, and what follows
    /// from what was read.
    async fn settle_in_slot(&mut self) -> Result<(), Error> {
        self.prepare_to_read().await?;
        refusals_can_wait(self.follow_invitations().await)?;
        self.settle().await
    }
}
