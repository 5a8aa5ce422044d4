//! Following the journal of the group in front: what comes on a stream is taken in as a page of a
//! read is, by the same code and with the same checks, and no other journal is read for it. What a
//! stream says that does not go with what was read before is not judged here: the journal is read,
//! and that judges.

use crypto::journal::head_after;
use protocol::codec::opaque;
use protocol::follow::FollowedStretch;
use protocol::ids::GroupId;
use protocol::journal::ReadJournalResponse;

use crate::engine::Engine;
use crate::error::{Error, refusals_can_wait};
use crate::flows::news::{News, Watch};
use crate::flows::read::{Senders, Taken};
use crate::net::streams::Follower;
use crate::net::transport::stream::StreamFault;
use crate::store::{Group, Segment, Status};

impl Engine {
    /// Follows what has come. Where a wait goes on, it is answered.
    pub(crate) async fn take_news(&mut self, news: News) -> Result<Option<Watch>, Error> {
        match news {
            News::Look(follower) => {
                self.streams.parked = follower;
                self.finish_sync().await?;
                Ok(None)
            }
            News::Ended(fault) => {
                self.streams.ended(fault)?;
                Ok(None)
            }
            News::Told(watch, follower, stretch) => self.take_told(*watch, follower, stretch).await,
        }
    }

    async fn take_told(
        &mut self,
        watch: Watch,
        mut follower: Follower,
        stretch: FollowedStretch,
    ) -> Result<Option<Watch>, Error> {
        let held = self.hold().await?;
        let id = follower.group;
        let Some(group) = Group::find(&self.db, &id)?.filter(|group| follower.is_of(group)) else {
            // Another process has gone on.
            return Ok(None);
        };
        let has_entries = !stretch.entries.is_empty();
        follower.told = Some(stretch.head.clone());
        let fault = match self.take_stretch(&group, stretch) {
            Ok(Outcome::On { at_end }) => {
                follower.at_end = at_end;
                None
            }
            Ok(Outcome::NextSegment) => {
                self.streams.not_before_ms = 0;
                drop(held);
                self.finish_sync().await?;
                return Ok(None);
            }
            Ok(Outcome::Contradicts) | Err(Error::Protocol(_)) => Some(StreamFault::Contradicts),
            Err(error) => return Err(error),
        };
        if let Some(fault) = fault {
            self.streams.ended(Some(fault))?;
            drop(held);
            self.finish_sync().await?;
            return Ok(None);
        }
        if has_entries {
            refusals_can_wait(self.follow_from(&id).await)?;
        }
        watch.goes_on(&self.db, follower).map(Some)
    }

    /// What follows from entries of one group.
    async fn follow_from(&mut self, id: &GroupId) -> Result<(), Error> {
        let done = async {
            self.follow_invitations().await?;
            match Group::find(&self.db, id)? {
                Some(group) => self.settle_group(&group).await,
                None => Ok(()),
            }
        };
        match done.await {
            // It is tried again with all other groups.
            Err(Error::Unreachable(_)) => Ok(()),
            other => other,
        }
    }

    fn take_stretch(&mut self, group: &Group, stretch: FollowedStretch) -> Result<Outcome, Error> {
        let page = ReadJournalResponse {
            head: stretch.head,
            step: stretch.step,
            closed: stretch.closed,
            first: stretch.first,
            entries: stretch.entries,
            padding: opaque(Vec::new()),
        };
        if let Some(taken) = self.judge_end(&group.id, &page.head)? {
            return Ok(match taken {
                Taken::LaterStore => Outcome::Contradicts,
                _ => Outcome::On { at_end: false },
            });
        }
        match place_of(&group.segment, &page) {
            // This client has read further meanwhile.
            Placed::Before => return Ok(Outcome::On { at_end: false }),
            Placed::Wrong => return Ok(Outcome::Contradicts),
            Placed::Here => {}
        }
        let taken = self.take_signed(&group.id, &page, Senders::AsKnown)?;
        let now = Group::find(&self.db, &group.id)?;
        let Some(now) = now.filter(|now| now.status == Status::Active) else {
            return Ok(Outcome::NextSegment);
        };
        Ok(match taken {
            Taken::NextSegment => Outcome::NextSegment,
            // Who made it is known when the directory was read.
            Taken::Undecided(_) | Taken::LaterStore => Outcome::Contradicts,
            Taken::On(_) | Taken::End => Outcome::On {
                at_end: now.segment.next == page.head.next,
            },
        })
    }
}

/// What comes of a stretch.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    On { at_end: bool },
    NextSegment,
    Contradicts,
}

/// Where a stretch stands to what was read.
#[derive(Debug, PartialEq, Eq)]
enum Placed {
    /// Its end was read before.
    Before,
    /// It goes on from what was read, and its chain leads to its end, if it has all entries up to
    /// that.
    Here,
    /// Something is missing before it or in it, or it is of another journal.
    Wrong,
}

fn place_of(segment: &Segment, page: &ReadJournalResponse) -> Placed {
    if page.head.next < segment.next {
        return Placed::Before;
    }
    // Nothing but entries that came before this client are missing there.
    if page.first > segment.joined.unwrap_or(segment.next) {
        return Placed::Wrong;
    }
    let mut chain = segment.chain;
    let mut at = page.first;
    for entry in &page.entries {
        if at >= segment.next {
            chain = chain.map(|chain| head_after(&chain, at, entry));
        }
        at = at.next();
    }
    let at = at.max(segment.next);
    let is_whole = at == page.head.next;
    let has_more = at < page.head.next && !page.entries.is_empty();
    let is_same = chain.is_none_or(|chain| chain == page.head.chain);
    match (is_whole && is_same) || has_more {
        true => Placed::Here,
        false => Placed::Wrong,
    }
}
