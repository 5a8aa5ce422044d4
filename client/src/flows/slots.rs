//! Reading in slots ([`crate::slots`]): one request at a time of this client's own, of one size,
//! whatever there is to be read. What follows from what was read waits for a slot too: nothing is
//! sent because something was received.

use protocol::WIRE_VERSION;
use protocol::ids::{GroupId, Position, SegmentId};
use protocol::journal::{AnswerSize, MOST_PIECES, ReadJournalRequest, ReadJournalResponse};

use crate::engine::{Engine, Pieces};
use crate::error::Error;
use crate::flows::read::{Senders, Taken};
use crate::flows::request::read_answer;
use crate::net::clock::{Clock as _, SystemClock};
use crate::slots::{Profile, Turn, choose};
use crate::store::{Group, Status, feed, groups};

/// A number below 2^64 from the system.
fn draw() -> Result<u64, Error> {
    Ok(u64::from_be_bytes(crypto::random()?))
}

/// What one journal meets holds up no other one.
fn others_go_on(read: Result<(), Error>) -> Result<(), Error> {
    match read {
        Err(Error::Refused(_) | Error::Protocol(_) | Error::Directory(_)) => Ok(()),
        other => other,
    }
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
        let now_ms = SystemClock.monotonic_ms();
        if self.slots.reacts() && !self.named(now_ms)?.is_empty() {
            self.slots.hear(now_ms);
        }
        // Whatever went out since has had a place, and so has what is sent in this one beyond it.
        let before = self.transport.posted();
        let counted = std::mem::replace(&mut self.between_slots.counted, before);
        self.slots.spent(before.saturating_sub(counted));
        let random = [draw()?, draw()?];
        let done = match self.slots.turn(now_ms, follows, random) {
            None | Some(Turn::Taken) => return Ok(()),
            Some(Turn::Read) => self.read_in_slot(follows).await,
            Some(Turn::Settle) => match self.settle_in_slot().await {
                Ok(()) if self.transport.posted() == before => self.read_in_slot(follows).await,
                other => other,
            },
            Some(Turn::React { settles }) => self.react(settles, now_ms).await,
        };
        let places = u64::try_from(self.bundle.journals()).unwrap_or(1);
        let posted = self.transport.posted();
        self.between_slots.counted = posted.min(before.saturating_add(places));
        done
    }

    /// Groups with news that are read now, if news count.
    fn named(&self, now_ms: u64) -> Result<Vec<GroupId>, Error> {
        let mut named = Vec::new();
        for (group, _) in feed::due(&self.db)? {
            let reacted_ms = self.between_slots.reacted_ms.get(&group);
            if reacted_ms.is_none_or(|ms| now_ms.saturating_sub(*ms) >= self.slots.least_ms()) {
                named.push(group);
            }
        }
        Ok(named)
    }

    /// Reads what the feed has named; without news, one group now and then.
    async fn react(&mut self, settles: bool, now_ms: u64) -> Result<(), Error> {
        if settles {
            self.settle_in_slot().await?;
        }
        let mut named = self.named(now_ms)?;
        if named.is_empty() {
            named.extend(self.looked_into(true, &[])?);
        }
        for group in &named {
            self.between_slots.reacted_ms.insert(*group, now_ms);
        }
        self.read_these(named).await?;
        self.judge_outbox()
    }

    async fn read_in_slot(&mut self, follows: bool) -> Result<(), Error> {
        let mut read = Vec::new();
        for _ in 0..self.bundle.journals() {
            let Some(group) = self.next_to_read(follows, &read)? else {
                others_go_on(self.read_nobody().await)?;
                continue;
            };
            read.push(group);
            feed::goes_behind(&self.db, &group)?;
            self.between_slots.held_up.insert(group);
            others_go_on(self.read_page(&group).await)?;
        }
        Ok(())
    }

    /// The group that is read next, if any is. Of those with news the one that has waited for
    /// longest; else one is looked into now and then. What holds a group up holds up no other one
    /// for longer than every other time, and so does what is due where no feed says that others are
    /// not.
    fn next_to_read(&self, follows: bool, read: &[GroupId]) -> Result<Option<GroupId>, Error> {
        let mut due = feed::due(&self.db)?;
        due.retain(|(group, _)| self.is_read_in_slots(group, read));
        if draw()?.is_multiple_of(2) {
            let held_up = &self.between_slots.held_up;
            due.retain(|(group, _)| follows && !held_up.contains(group));
        }
        let places: Vec<_> = due.iter().map(|(_, place)| *place).collect();
        match choose(&places, [draw()?, draw()?]).and_then(|at| due.get(at)) {
            Some((group, _)) => Ok(Some(*group)),
            None => self.looked_into(follows, read),
        }
    }

    /// A group that is looked into without news, now and then: any of all.
    fn looked_into(&self, follows: bool, read: &[GroupId]) -> Result<Option<GroupId>, Error> {
        let mut all = groups::to_read(&self.db)?;
        all.retain(|group| self.is_read_in_slots(group, read));
        match self.slots.looks(all.len(), follows, draw()?) {
            true => Ok(all.pop()),
            false => Ok(None),
        }
    }

    /// Not what a stream has told already, nor what was read in this slot.
    fn is_read_in_slots(&self, id: &GroupId, read: &[GroupId]) -> bool {
        let followed = self.streams.parked.as_ref();
        let is_told = followed.is_some_and(|it| it.group == *id)
            && matches!(Group::find(&self.db, id), Ok(Some(group)) if self.streams.has_all_of(&group));
        !is_told && !read.contains(id)
    }

    /// Asks for what is nobody's: the same to the relay as any other slot.
    async fn read_nobody(&mut self) -> Result<(), Error> {
        let request = ReadJournalRequest {
            version: WIRE_VERSION,
            segment: SegmentId::NOBODY,
            from: Position::LAST,
            known: Position(0),
            wait_ms: 0,
            size: AnswerSize::Slot,
            piece: 0,
        };
        self.read_once(&request, &[]).await.map(drop)
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
        let from = match self.between_slots.cursors.get(id) {
            Some((segment, from)) if *segment == group.segment.id => *from,
            _ => Position::LAST,
        };
        let segment = group.segment.id;
        let piece = match self.between_slots.pieces.get(id) {
            Some(pieces) if pieces.of_entry == (segment, from) => pieces.count,
            _ => 0,
        };
        let Some(mut page) = self.page(&group, from, (AnswerSize::Slot, piece)).await? else {
            return Ok(());
        };
        if !self.has_whole_entries(id, (segment, piece), &mut page)? {
            return self.goes_on(id, Some((segment, page.first)));
        }
        if let Some(before) = self.is_missing_before(&group, from, &page)? {
            return self.goes_on(id, Some((group.segment.id, before)));
        }
        let senders = match self.between_slots.looked_up.remove(id) {
            true => Senders::LookedUp,
            false => Senders::AsKnown,
        };
        match self.take(id, &page, senders)? {
            Taken::On(next) => self.goes_on(id, Some((group.segment.id, next)))?,
            Taken::NextSegment => self.goes_on(id, None)?,
            Taken::End => {
                self.goes_well(id);
                if self.read_to_end.contains(id) {
                    self.asked.insert(*id);
                }
            }
            // The directory says more, in a slot for what follows from reading.
            Taken::LaterStore => self.waits_for_directory(id, 0)?,
            Taken::Undecided(accepted_ms) => self.waits_for_directory(id, accepted_ms)?,
        }
        self.know_as_read()?;
        self.judge_outbox()
    }

    /// Puts an entry together that comes in pieces. Says whether all of it is there.
    fn has_whole_entries(
        &mut self,
        id: &GroupId,
        (segment, asked): (SegmentId, u16),
        page: &mut ReadJournalResponse,
    ) -> Result<bool, Error> {
        let before = self.between_slots.pieces.remove(id);
        let Some(piece) = page.piece.take() else {
            return Ok(true);
        };
        let of_entry = (segment, page.first);
        let mut pieces = match before {
            Some(before) if asked > 0 && before.of_entry == of_entry => before,
            _ => Pieces {
                of_entry,
                count: 0,
                bytes: Vec::new(),
            },
        };
        if pieces.count != asked || piece.of > MOST_PIECES || !page.entries.is_empty() {
            return Err(Error::Protocol("a piece of another entry"));
        }
        pieces.count = pieces.count.saturating_add(1);
        pieces.bytes.extend(piece.bytes.as_slice());
        if pieces.count < piece.of {
            self.between_slots.pieces.insert(*id, pieces);
            return Ok(false);
        }
        page.entries = vec![read_answer(&pieces.bytes)?];
        Ok(true)
    }

    /// What was read of a group was of use.
    fn goes_well(&mut self, id: &GroupId) {
        self.between_slots.held_up.remove(id);
        self.between_slots.cursors.remove(id);
    }

    /// More is to be read: in a slot to come.
    fn goes_on(&mut self, id: &GroupId, from: Option<(SegmentId, Position)>) -> Result<(), Error> {
        self.goes_well(id);
        if let Some(from) = from {
            self.between_slots.cursors.insert(*id, from);
        }
        feed::has_news(&self.db, id)
    }

    fn waits_for_directory(&mut self, id: &GroupId, accepted_ms: u64) -> Result<(), Error> {
        self.between_slots.undecided.insert(*id, accepted_ms);
        feed::has_news(&self.db, id)
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
}
