//! Following the journal of the group in front: what comes on a stream is taken in as a page of a
//! read is, by the same code and with the same checks. No journal is read for it and nothing is
//! sent: what follows from it waits for a slot. What a stream says that does not go with what was
//! read before is not judged here: the journal is read, and that judges.

use crypto::journal::head_after;
use protocol::codec::opaque;
use protocol::follow::{FollowedStretch, Pace};
use protocol::ids::GroupId;
use protocol::journal::{ReadJournalResponse, SignedHead};

use crate::engine::Engine;
use crate::error::Error;
use crate::flows::news::{News, Watch};
use crate::flows::read::{Senders, Taken};
use crate::net::streams::Follower;
use crate::net::transport::stream::StreamFault;
use crate::store::{Group, Segment, Status, feed, heads};

impl Engine {
    /// Takes what has come. Where a wait goes on, it is answered.
    pub(crate) async fn take_news(&mut self, news: News) -> Result<Option<Watch>, Error> {
        match news {
            News::Look(follower) => {
                self.streams.parked = follower;
                let taken = self.take_slot().await;
                if taken.is_err() {
                    self.streams.stop();
                }
                taken.map(|()| None)
            }
            News::Front(group) => self.read_front(&group).await.map(|()| None),
            News::Ended(ending) => {
                self.streams.ended(ending)?;
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
        let _held = self.hold().await?;
        let id = follower.group;
        let Some(group) = Group::find(&self.db, &id)?.filter(|group| follower.is_of(group)) else {
            // Another process has gone on.
            return Ok(None);
        };
        let before = follower.told.replace(stretch.head.clone());
        let taken = match goes_back(before.as_ref(), &stretch) {
            true => Ok(Outcome::Contradicts),
            false => self.take_stretch(&group, stretch),
        };
        match taken {
            Ok(Outcome::On { at_end }) => {
                follower.at_end = at_end;
                self.streams.goes_on(&follower);
                watch.goes_on(&self.db, follower).map(Some)
            }
            // The next stream is of the next segment.
            Ok(Outcome::NextSegment) => {
                self.streams.ended(follower.ending(None))?;
                Ok(None)
            }
            Ok(Outcome::Contradicts) | Err(Error::Protocol(_)) => {
                let fault = StreamFault::Contradicts;
                self.streams.ended(follower.ending(Some(fault)))?;
                self.read_front(&id).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The group in front has something that no stream has told: it is read, or is the next that a
    /// slot reads where what this client asks must not show it.
    async fn read_front(&mut self, id: &GroupId) -> Result<(), Error> {
        let _held = self.hold().await?;
        match Group::find(&self.db, id)? {
            Some(_) if self.streams.pace == Some(Pace::Live) => {
                self.read_these(vec![*id]).await?;
                self.judge_outbox()
            }
            Some(_) => feed::has_news(&self.db, id),
            None => Ok(()),
        }
    }

    fn take_stretch(&mut self, group: &Group, stretch: FollowedStretch) -> Result<Outcome, Error> {
        let page = page_of(stretch);
        // It may have been signed before the store was put back and have come only now.
        if page.head.generation < heads::signer(&self.db)?.generation {
            return Ok(Outcome::Contradicts);
        }
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
        // An answer to a question shows what there is. This may be of long ago.
        self.read_to_end.remove(&group.id);
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

/// A stretch, as it would be read.
fn page_of(stretch: FollowedStretch) -> ReadJournalResponse {
    ReadJournalResponse {
        head: stretch.head,
        step: stretch.step,
        closed: stretch.closed,
        first: stretch.first,
        entries: stretch.entries,
        piece: None,
        padding: opaque(Vec::new()),
    }
}

/// Whether a stream tells an end that is before one that it has told, or the same one again and
/// nothing before it.
fn goes_back(told: Option<&SignedHead>, stretch: &FollowedStretch) -> bool {
    told.is_some_and(|told| {
        let (told, next) = (told.next, stretch.head.next);
        next < told || next == told && stretch.entries.is_empty() && stretch.closed == 0
    })
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::ids::{ChainHead, Position, Step};
    use protocol::journal::Entry;

    use super::*;

    const HERE: ChainHead = ChainHead([1; 32]);

    fn entries(numbers: impl IntoIterator<Item = u8>) -> Vec<Entry> {
        let numbers = numbers.into_iter();
        numbers.map(|it| Entry::Message(opaque(vec![it]))).collect()
    }

    fn stretch(first: u64, entries: Vec<Entry>, next: u64, chain: ChainHead) -> FollowedStretch {
        FollowedStretch {
            head: SignedHead {
                generation: 0,
                next: Position(next),
                chain,
                signature: [0; 64],
            },
            step: Step(0),
            closed: 0,
            first: Position(first),
            entries,
        }
    }

    /// Where this stands for a client that has read up to 5.
    fn placed(stretch: FollowedStretch) -> Placed {
        let mut segment = crate::store::segments::tests::segment(&GroupId([1; 16]));
        (segment.next, segment.chain) = (Position(5), Some(HERE));
        place_of(&segment, &page_of(stretch))
    }

    /// The chain behind these, from 5 on.
    fn behind(entries: &[Entry]) -> ChainHead {
        let places = (5..).map(Position).zip(entries);
        places.fold(HERE, |chain, (at, entry)| head_after(&chain, at, entry))
    }

    #[test]
    fn a_stretch_is_taken_where_it_goes_on_from_what_was_read_up_to_its_signed_end() {
        let two = entries([5, 6]);
        let end = behind(&two);
        assert_eq!(placed(stretch(5, two.clone(), 7, end)), Placed::Here);
        // With what was read before it.
        let more = entries([3, 4, 5, 6]);
        assert_eq!(placed(stretch(3, more, 7, end)), Placed::Here);
        // Nothing new.
        assert_eq!(placed(stretch(5, Vec::new(), 5, HERE)), Placed::Here);
        // The rest comes in the next one.
        let beyond = ChainHead([9; 32]);
        assert_eq!(placed(stretch(5, two, 9, beyond)), Placed::Here);
        assert_eq!(placed(stretch(2, entries([2]), 4, HERE)), Placed::Before);
    }

    #[test]
    fn a_stretch_with_a_gap_or_another_chain_or_without_its_entries_is_not_taken() {
        let two = entries([5, 6]);
        let end = behind(&two);
        for wrong in [
            stretch(6, entries([6]), 7, end),
            stretch(5, entries([5, 7]), 7, end),
            stretch(5, entries([6, 5]), 7, end),
            stretch(5, two.clone(), 7, HERE),
            stretch(5, two, 6, end),
            stretch(5, Vec::new(), 7, end),
            stretch(5, Vec::new(), 5, end),
        ] {
            assert_eq!(placed(wrong.clone()), Placed::Wrong, "{wrong:?}");
        }
    }

    #[test]
    fn a_stream_that_tells_an_earlier_end_or_the_same_one_again_goes_back() {
        let told = |next| stretch(5, Vec::new(), next, HERE).head;
        let goes_back =
            |before: Option<u64>, stretch| super::goes_back(before.map(told).as_ref(), &stretch);
        assert!(!goes_back(None, stretch(5, Vec::new(), 5, HERE)));
        assert!(!goes_back(Some(5), stretch(5, entries([5]), 6, HERE)));
        // The rest up to an end that was told before.
        assert!(!goes_back(Some(7), stretch(6, entries([6]), 7, HERE)));
        assert!(goes_back(Some(7), stretch(5, entries([5]), 6, HERE)));
        assert!(goes_back(Some(7), stretch(6, Vec::new(), 6, HERE)));
        assert!(goes_back(Some(7), stretch(7, Vec::new(), 7, HERE)));
    }
}
