//! Reading journals: the last entries, or from a rounded position; in order; each entry, its effect
//! on the MLS library's state, the event that it gives and the position after it in one
//! transaction.

use crypto::journal::{head_after, open_entry, verify_head};
use protocol::codec::opaque;
use protocol::ids::{ChainHead, Day, GroupId, Position, Week};
use protocol::journal::{
    AnswerSize, Class, Entry, EntryContent, Event as JournalEvent, ReadJournalRequest,
    ReadJournalResponse, SeenHead, SignedHead,
};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::time::DAY_MS;
use protocol::{WIRE_VERSION, Wire as _};
use rusqlite::Connection;

use crate::engine::Engine;
use crate::error::{Error, LocalError, PeerError};
use crate::flows::{absence, process, recovery};
use crate::mls::entry::{Accepted, CommitEntry, Next};
use crate::mls::{proposals, unreadable};
use crate::outcomes::StopReason;
use crate::store::database::begin;
use crate::store::groups;
use crate::store::loaded::Loaded;
use crate::store::mls::has_mls;
use crate::store::outbox;
use crate::store::segments::{self, day_said};
use crate::store::{
    Event, Group, Profile, Segment, Status, events, evidence, heads, profile, upkeep,
};

/// What cannot be judged yet is judged as far as it can be after so long.
const UNDECIDED_MS: u64 = 60 * 60 * 1000;
/// An own message may take as long to come back on a stream.
const MOMENT_MS: u64 = 5_000;
/// So many pages a call reads of one journal, whatever a service says that there is more: it takes
/// fewer entries of a group (a leaf's bound, and those of its members). What is left comes with the
/// next call.
const MOST_PAGES: u32 = 400;

/// So many entries an answer has at most.
const MOST_ENTRIES: usize = 1_024;

/// Whether the service's keys are those of the directory as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Senders {
    AsKnown,
    LookedUp,
}

/// How reading goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// From here, in the same segment.
    On(Position),
    /// In another segment.
    NextSegment,
    /// There is no more, or this client reads no further.
    End,
    /// The store was put back from a backup, as the service says: not before the directory says so
    /// too.
    LaterStore,
    /// An entry that was accepted at this time cannot be judged before the service's keys are
    /// known.
    Undecided(u64),
}

/// Names an entry, for evidence.
fn name_of(segment: &Segment, at: Position) -> Vec<u8> {
    [&segment.id.0[..], &at.0.to_be_bytes()].concat()
}

fn open(segment: &Segment, class: Class, sealed: &[u8]) -> Result<EntryContent, PeerError> {
    open_entry(
        &segment.journal_key,
        &segment.id,
        segment.step,
        class,
        sealed,
    )
    .map_err(|_| PeerError::Entry)
}

impl Engine {
    /// Reads the journals of all groups, in an order that is nobody's.
    pub(crate) async fn read_all(&mut self) -> Result<(), Error> {
        let groups = groups::to_read(&self.db)?;
        self.read_these(groups).await
    }

    /// Reads the journals of these groups.
    pub(crate) async fn read_these(&mut self, groups: Vec<GroupId>) -> Result<(), Error> {
        self.read_to_end.clear();
        for group in groups {
            // It was not read to its end: what a stream does not say proves nothing.
            let said_ms = self.transport.time.now_unix_ms().saturating_sub(MOMENT_MS);
            if let Some(followed) = Group::find(&self.db, &group)?
                && self.streams.has_all_of(&followed)
                && !outbox::is_ahead(&self.db, &followed, said_ms)?
            {
                continue;
            }
            match self.read_group(&group).await {
                // What one group meets holds up no other one.
                Err(Error::Refused(_) | Error::Protocol(_) | Error::Directory(_)) => {}
                other => other?,
            }
        }
        self.know_as_read()
    }

    /// Reads the journal of a group to its end, and follows it into the segments that come.
    pub(crate) async fn read_group(&mut self, id: &GroupId) -> Result<(), Error> {
        let mut from = None;
        let mut senders = Senders::AsKnown;
        for _ in 0..MOST_PAGES {
            let Some(group) = Group::find(&self.db, id)?.filter(|it| it.status == Status::Active)
            else {
                return Ok(());
            };
            if self.is_without_state(id)? {
                return Ok(());
            }
            // The last entries; what is before them, in larger pages, if that is not known.
            let (begin_at, size) = match from {
                None => (Position::LAST, AnswerSize::Ordinary),
                Some(from) => (from, AnswerSize::Segment),
            };
            let Some(page) = self.page(&group, begin_at, (size, 0)).await? else {
                return Ok(());
            };
            if let Some(before) = self.is_missing_before(&group, begin_at, &page)? {
                from = Some(before);
                continue;
            }
            match self.take(id, &page, senders)? {
                Taken::On(next) => from = Some(next),
                Taken::NextSegment => (from, senders) = (None, Senders::AsKnown),
                Taken::End => {
                    if self.read_to_end.contains(id) {
                        self.asked.insert(*id);
                    }
                    return Ok(());
                }
                Taken::LaterStore => {
                    self.heard_directory().await?;
                    return Err(Error::Protocol(
                        "a journal is of a later store than the directory",
                    ));
                }
                Taken::Undecided(accepted_ms) => {
                    if !self.looks_up_senders(accepted_ms).await? {
                        return Ok(());
                    }
                    (from, senders) = (None, Senders::LookedUp);
                }
            }
        }
        Ok(())
    }

    /// Whether a message may go out without a read of its group before it: this process has come to
    /// the end of the journal once, and is told what comes since, by a stream or in slots. A read
    /// beside each message would be two requests at one moment, which no slots are.
    pub(crate) fn knows_end(&self, group: &Group) -> bool {
        let is_told = self.streams.tells_of(group) || self.slots.next_ms().is_some();
        is_told && self.asked.contains(&group.id)
    }

    /// Where to read first, if the last entries of a journal do not go on from what is known. If
    /// they end before that, too: a service whose store was put back learns it from who knows more.
    pub(crate) fn is_missing_before(
        &self,
        group: &Group,
        asked: Position,
        page: &ReadJournalResponse,
    ) -> Result<Option<Position>, Error> {
        let known = group.segment.joined.unwrap_or(group.segment.next);
        let from = known.rounded_down();
        let is_missing = asked == Position::LAST
            && (page.first > known || page.head.next < from)
            && self.judge_end(&group.id, &page.head)?.is_none();
        Ok(is_missing.then_some(from))
    }

    /// Whether nothing is left of what the MLS library knew of a group: then it is lost.
    pub(crate) fn is_without_state(&mut self, id: &GroupId) -> Result<bool, Error> {
        let is_gone = !has_mls(&self.db, id)?;
        if is_gone {
            self.lose(id, StopReason::State)?;
        }
        Ok(is_gone)
    }

    /// A stretch of the segment that a group is in; none if the service does not have that.
    pub(crate) async fn page(
        &mut self,
        group: &Group,
        from: Position,
        (size, piece): (AnswerSize, u16),
    ) -> Result<Option<ReadJournalResponse>, Error> {
        let request = ReadJournalRequest {
            version: WIRE_VERSION,
            segment: group.segment.id,
            from,
            known: match from {
                Position::LAST => Position(0),
                from => from,
            },
            wait_ms: 0,
            size,
            piece,
        };
        let read = match size {
            AnswerSize::Slot => self.read_in_place(&group.id, &request).await,
            _ => self.read(Operation::ReadJournal, &request).await,
        };
        match read {
            Ok(page) => Ok(Some(page)),
            Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownSegment => {
                let now_ms = self.transport.time.now_unix_ms();
                if absence::outlasted(&self.db, group, now_ms)? {
                    self.lose(&group.id, StopReason::Expired)?;
                    return Ok(None);
                }
                let segment = &group.segment;
                // A commit led here, by keys that its maker told the service otherwise.
                let reason = if segment.next == Position(0) && segment.rotation.0 > 0 {
                    StopReason::Stranded
                } else {
                    StopReason::Missing
                };
                self.transact(|db, _| {
                    let fault = PeerError::Stranded;
                    evidence::keep(db, &group.id, &fault, (None, &segment.id.0), now_ms)
                })?;
                self.lose(&group.id, reason)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a stretch in, as far as it goes on from what was read.
    pub(crate) fn take(
        &mut self,
        id: &GroupId,
        page: &ReadJournalResponse,
        senders: Senders,
    ) -> Result<Taken, Error> {
        match self.judge_end(id, &page.head)? {
            Some(taken) => Ok(taken),
            None => self.take_signed(id, page, senders),
        }
    }

    /// Whether the end of a group's segment is signed by the service, for now: then there is
    /// nothing to say.
    pub(crate) fn judge_end(
        &self,
        id: &GroupId,
        head: &SignedHead,
    ) -> Result<Option<Taken>, Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let segment = Group::read(&self.db, id)?.segment;
        let signer = heads::signer(&self.db)?;
        let is_signed = verify_head(&signer.key, &segment.id, head).is_ok();
        if is_signed && head.generation > signer.generation {
            return Ok(Some(Taken::LaterStore));
        }
        // Of an earlier one it was true once. What nobody has signed can be another one each time:
        // it is kept once a day.
        if !is_signed || head.generation < signer.generation {
            if is_signed || !evidence::is_known_today(&self.db, id, &PeerError::Head, now_ms)? {
                let content = (Some(&name_of(&segment, head.next)[..]), &head.encode()[..]);
                evidence::keep(&self.db, id, &PeerError::Head, content, now_ms)?;
            }
            return Err(Error::Protocol(
                "the end of a journal is not signed for now",
            ));
        }
        Ok(None)
    }

    /// Takes a stretch in whose end is signed.
    pub(crate) fn take_signed(
        &mut self,
        id: &GroupId,
        page: &ReadJournalResponse,
        senders: Senders,
    ) -> Result<Taken, Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let segment = Group::read(&self.db, id)?.segment;
        if page.entries.len() > MOST_ENTRIES {
            return Err(Error::Protocol("a stretch of a journal is too long"));
        }
        if page.head.next < segment.next {
            self.lose(id, StopReason::Behind)?;
            return Ok(Taken::End);
        }
        if page.first > segment.joined.unwrap_or(segment.next) {
            // What came between has expired: handshakes too.
            let group = Group::read(&self.db, id)?;
            let reason = match absence::outlasted(&self.db, &group, now_ms)? {
                true => StopReason::Expired,
                false => StopReason::Missing,
            };
            self.lose(id, reason)?;
            return Ok(Taken::End);
        }
        let (mut next, joined) = (segment.next, segment.joined);
        let mut position = page.first;
        for entry in &page.entries {
            let at = position;
            // Beyond the end that is signed nothing stands.
            if at >= page.head.next {
                break;
            }
            position = position.next();
            if joined == Some(at) && !self.takes_own_place(id, &segment, entry)? {
                return Ok(Taken::End);
            }
            if at != next {
                continue;
            }
            if let Err(error) = self.mls(id) {
                if error.is_passing() {
                    return Err(error);
                }
                self.lose(id, StopReason::State)?;
                return Ok(Taken::End);
            }
            match self.take_entry(id, entry, at, &page.head, senders)? {
                Taken::On(after) => next = after,
                other => return Ok(other),
            }
        }
        if next < page.head.next {
            if page.entries.is_empty() {
                return Err(Error::Protocol("a journal has entries and shows none"));
            }
            return Ok(Taken::On(position));
        }
        self.transact(|db, profile| reached(db, profile, id, &page.head, now_ms))?;
        self.read_to_end.insert(*id);
        Ok(Taken::End)
    }

    /// Whether the commit by which this client came in can be where the service says that it is. It
    /// is a handshake, and sealed under a key that its maker does not have. With a later place the
    /// service would hide what was said in between.
    fn takes_own_place(
        &mut self,
        id: &GroupId,
        segment: &Segment,
        entry: &Entry,
    ) -> Result<bool, Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let (bytes, is_own) = match entry {
            Entry::Handshake(sealed) => {
                let sealed = sealed.as_slice();
                (sealed, open(segment, Class::Handshake, sealed).is_err())
            }
            Entry::Message(sealed) => (sealed.as_slice(), false),
            Entry::Expired(digest) => (&digest.0[..], false),
        };
        if !is_own {
            self.transact(|db, _| {
                evidence::keep(db, id, &PeerError::Place, (None, bytes), now_ms)
            })?;
            self.lose(id, StopReason::Missing)?;
            return Ok(false);
        }
        segments::place_is_confirmed(&self.db, id)?;
        Ok(true)
    }

    fn take_entry(
        &mut self,
        id: &GroupId,
        entry: &Entry,
        at: Position,
        head: &SignedHead,
        senders: Senders,
    ) -> Result<Taken, Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let transaction = begin(&mut self.db)?;
        let profile = &self.profile;
        let group = Group::read(&transaction, id)?;
        let name = name_of(&group.segment, at);
        let chain = group
            .segment
            .chain
            .map(|chain| head_after(&chain, at, entry));
        let (class, sealed) = match entry {
            Entry::Handshake(sealed) => (Class::Handshake, sealed.as_slice()),
            Entry::Message(sealed) => (Class::Message, sealed.as_slice()),
            Entry::Expired(_) => {
                outbox::expired(&transaction, &group.segment.id, at)?;
                let group_name = group.display_name();
                passed(
                    &transaction,
                    profile,
                    group,
                    (at, chain, head),
                    None,
                    now_ms,
                )?;
                if !group_name.is_empty() {
                    events::store_expired(&transaction, &group_name)?;
                }
                transaction.commit()?;
                return Ok(Taken::On(at.next()));
            }
        };
        let opened = open(&group.segment, class, sealed);
        let (accepted_ms, outcome) = match &opened {
            Ok(content) => (
                content.accepted_ms,
                carry_out(
                    &transaction,
                    &self.loaded,
                    profile,
                    &group,
                    content,
                    (at, chain),
                    now_ms,
                ),
            ),
            Err(fault) => (now_ms, Err((*fault).into())),
        };
        let (transaction, next) = match outcome {
            Ok((next, outcome)) => {
                if let Some(outcome) = outcome {
                    self.outcomes.insert(*id, outcome);
                }
                (transaction, next)
            }
            // Not judged before the directory is fresh.
            Err(Error::Peer(PeerError::ExternalSenders)) if senders == Senders::AsKnown => {
                return Ok(Taken::Undecided(accepted_ms));
            }
            Err(error) => {
                // Nothing of it stays, but the entry is done: it would fail again.
                transaction.rollback()?;
                let fault = error.of_content()?;
                let transaction = begin(&mut self.db)?;
                let bytes = match &opened {
                    Ok(content) => bytes_of(content),
                    Err(_) => opaque(sealed),
                };
                let content = (Some(&name[..]), bytes.as_slice());
                let event = opened.as_ref().ok().map(|content| &content.event);
                match (event, fault) {
                    // In the own name, and this client has not sent it: another copy of it has; or
                    // a member says so, who can make the sender's name. Nothing more is sent before
                    // the own leaf is another one: a copy that is alive notices that, and stops.
                    (Some(JournalEvent::Message(message)), PeerError::OtherCopy) => {
                        evidence::keep(&transaction, id, &fault, content, now_ms)?;
                        upkeep::renew(&transaction, id)?;
                        let message = message.as_slice();
                        unreadable::record(&transaction, profile, &group, message, fault)?;
                    }
                    // Its sender was told that it is in the journal: the user hears of it too.
                    (Some(JournalEvent::Message(message)), _) => {
                        let message = message.as_slice();
                        unreadable::record(&transaction, profile, &group, message, fault)?;
                    }
                    (Some(JournalEvent::Proposal(_)), PeerError::FalseRemoval(why)) => {
                        evidence::keep(&transaction, id, &fault, content, now_ms)?;
                        let (group, why) = (group.display_name(), why.to_owned());
                        events::store(&transaction, &Event::RemovalRefused { group, why })?;
                    }
                    (Some(JournalEvent::Proposal(_)), _) => {}
                    // Nobody made it, or the service accepted what we cannot: from here on we
                    // cannot follow.
                    (Some(JournalEvent::Commit(_)) | None, _) => {
                        evidence::keep(&transaction, id, &fault, content, now_ms)?;
                        recovery::lose_to(&transaction, profile, id, fault)?;
                    }
                }
                (transaction, None)
            }
        };
        let day = day_said(Day::of(accepted_ms), now_ms);
        let group = Group {
            segment: group.segment.on_day(day),
            ..group
        };
        let taken = match &next {
            Some(Next::Segment(_)) => Taken::NextSegment,
            Some(Next::Out) => Taken::End,
            Some(Next::Step) | None => Taken::On(at.next()),
        };
        passed(
            &transaction,
            profile,
            group,
            (at, chain, head),
            next,
            now_ms,
        )?;
        let still = Group::find(&transaction, id)?;
        let is_active = still.is_some_and(|group| group.status == Status::Active);
        let is_last = is_active && taken == Taken::On(head.next);
        if is_last {
            reached(&transaction, profile, id, head, now_ms)?;
        }
        transaction.commit()?;
        if is_last {
            self.read_to_end.insert(*id);
        }
        Ok(if is_active && !is_last {
            taken
        } else {
            Taken::End
        })
    }

    /// Whether it is known by now what the service's key is. Relay and service may be behind each
    /// other after a rotation: what waits for that stays where it is, for an hour at most.
    pub(crate) async fn looks_up_senders(&mut self, accepted_ms: u64) -> Result<bool, Error> {
        match self.heard_directory().await {
            Ok(heard) => {
                let text = serde_json::to_string(&heard).map_err(|_| LocalError::Damaged)?;
                profile::set_directory_heard(&self.db, &text)?;
                Ok(true)
            }
            // It waits, and nothing beside it does.
            Err(
                Error::Directory(_) | Error::Protocol(_) | Error::Refused(_) | Error::Issuer(_),
            ) => Ok(self.transport.time.now_unix_ms().abs_diff(accepted_ms) > UNDECIDED_MS),
            Err(error) => Err(error),
        }
    }
}

/// What an entry says, for evidence.
fn bytes_of(content: &EntryContent) -> tls_codec::VLBytes {
    match &content.event {
        JournalEvent::Message(bytes) | JournalEvent::Proposal(bytes) => bytes.clone(),
        JournalEvent::Commit(event) => event.commit.clone(),
    }
}

/// When an entry was accepted, as far as what the service says can be. Nothing was accepted later
/// than now: what follows from the time could be put off for good. Nor before the day of what
/// stands before it: who has sent or committed it would be older than this client knows.
fn accepted_at(segment: &Segment, told_ms: u64, now_ms: u64) -> u64 {
    told_ms
        .max(u64::from(segment.day.0).saturating_mul(DAY_MS))
        .min(now_ms)
}

type CarriedOut = (Option<Next>, Option<crate::outcomes::CommitOutcome>);

/// Carries an entry out, in the caller's transaction.
fn carry_out(
    db: &Connection,
    loaded: &Loaded,
    profile: &Profile,
    group: &Group,
    content: &EntryContent,
    (at, chain): (Position, Option<ChainHead>),
    now_ms: u64,
) -> Result<CarriedOut, Error> {
    let accepted_ms = accepted_at(&group.segment, content.accepted_ms, now_ms);
    match &content.event {
        JournalEvent::Message(bytes) => {
            let accepted = Accepted { at, accepted_ms };
            process::message(db, loaded, profile, group, bytes.as_slice(), accepted)?;
            Ok((None, None))
        }
        JournalEvent::Proposal(bytes) => {
            let week = Week::of(accepted_ms);
            proposals::keep(db, &group.id, bytes.as_slice(), week)?;
            Ok((None, None))
        }
        JournalEvent::Commit(event) => {
            let entry = CommitEntry {
                event,
                accepted_ms,
                day: day_said(Day::of(content.accepted_ms), now_ms).max(group.segment.day),
                read_ms: now_ms,
                at,
                chain,
            };
            let (next, outcome) = process::commit(db, profile, group, &entry)?;
            Ok((Some(next), outcome))
        }
    }
}

/// Moves the position past an entry, in the caller's transaction; into the next segment, if one
/// begins: what the service has signed must end here then.
fn passed(
    db: &Connection,
    profile: &Profile,
    group: Group,
    (at, chain, head): (Position, Option<ChainHead>, &SignedHead),
    next: Option<Next>,
    now_ms: u64,
) -> Result<(), Error> {
    if Group::find(db, &group.id)?.is_none() {
        return Ok(());
    }
    let Group { id, segment, .. } = group;
    let segment_id = segment.id;
    let here = Segment {
        next: at.next(),
        chain,
        ..segment
    };
    match next {
        None | Some(Next::Out) => here.write(db, &id)?,
        Some(Next::Step) => here.next_step().write(db, &id)?,
        Some(Next::Segment(next)) => {
            next.write(db, &id)?;
            heads::ended(db, profile, &id, &here, head, now_ms)?;
        }
    }
    let Some(chain) = chain else { return Ok(()) };
    heads::passed(db, &id, &segment_id, at.next(), &chain)?;
    let generation = heads::signer(db)?.generation;
    if let Some(head) = heads::contradiction(db, generation, &segment_id, at.next(), &chain)? {
        let seen = SeenHead {
            segment: segment_id,
            head,
        };
        heads::split(db, profile, &id, &seen, now_ms)?;
    }
    Ok(())
}

/// The end of what there is was read, in the caller's transaction: the chain must be the one that
/// the service has signed.
fn reached(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    head: &SignedHead,
    now_ms: u64,
) -> Result<(), Error> {
    groups::set_read_day(db, id, Day::of(now_ms).0)?;
    let segment = Group::read(db, id)?.segment;
    match segment.chain {
        Some(chain) if chain != head.chain => {
            let seen = SeenHead {
                segment: segment.id,
                head: head.clone(),
            };
            heads::split(db, profile, id, &seen, now_ms)
        }
        Some(_) => heads::keep(db, id, head),
        None => {
            // Whoever came in the middle takes the first end that is signed.
            heads::passed(db, id, &segment.id, head.next, &head.chain)?;
            let known = Segment {
                chain: Some(head.chain),
                ..segment
            };
            known.write(db, id)?;
            heads::keep(db, id, head)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_told_to_be_no_older_than_the_day_of_what_stands_before_it_and_none_of_later() {
        let segment = Segment {
            day: Day(20_002),
            ..crate::store::segments::tests::segment(&GroupId([7; 16]))
        };
        let (begun_ms, now_ms) = (20_002 * DAY_MS, 20_009 * DAY_MS);
        let at = |told_ms| accepted_at(&segment, told_ms, now_ms);
        assert_eq!(at(begun_ms + 5), begun_ms + 5);
        for earlier in [0, 1, begun_ms - 1] {
            assert_eq!(at(earlier), begun_ms);
        }
        assert_eq!(at(u64::MAX), now_ms);
        // By a clock that is behind, it is now.
        assert_eq!(accepted_at(&segment, 5, 1_000), 1_000);
    }
}
