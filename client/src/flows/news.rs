//! Waiting for news at the end of the journal of the group in front. It needs nothing of the client
//! while it waits: whatever else is to be done is done meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::follow::{FollowJournalRequest, FollowedStretch, Pace};
use protocol::ids::{GroupId, Position, SegmentId};
use protocol::journal::{AnswerSize, MAX_WAIT_MS, ReadJournalRequest, ReadJournalResponse};
use protocol::operation::Operation;
use protocol::{WIRE_VERSION, Wire as _};
use rusqlite::Connection;

use crate::engine::{Engine, Promised};
use crate::error::Error;
use crate::flows::feed::FeedReader;
use crate::ids::GroupRef;
use crate::net::clock::{Clock as _, SystemClock};
use crate::net::streams::{Ending, Follower};
use crate::net::transport::Transport;
use crate::net::transport::stream::StreamFault;
use crate::slots::Profile;
use crate::store::{Group, Status, connection_stock, database, events, heads};

/// How often a client that waits looks whether another process has had news.
const LOOK_ELSEWHERE: Duration = Duration::from_secs(1);
/// One long poll of the group in front is between half of this and this.
const POLL_MS: u32 = 4_000;
/// A stream that begins may hold up a slot for so long.
const BEGINS: Duration = Duration::from_secs(5);

/// A wait that has not begun.
pub(crate) struct Watch {
    transport: Transport,
    /// What is polled for, if anything is.
    request: Option<(ReadJournalRequest, Position)>,
    wait: Duration,
    promised: Promised,
    /// The activity feed, if it is followed.
    feed: Option<FeedReader>,
    /// A connection of its own: the client's is in use.
    watched: Mutex<Connection>,
    known: i64,
    /// A stream of the group in front, or how to ask for one.
    following: (Option<Follower>, Option<FollowJournalRequest>),
    front: Option<GroupId>,
    /// When the next slot is, by the clock that nobody sets.
    slot_ms: u64,
    /// News that the feed tells are worth a look at once.
    reacts: bool,
}

/// What comes of waiting for news.
pub(crate) enum News {
    /// It is time for a slot, or for a look at what was heard; a stream goes on meanwhile.
    Look(Option<Follower>),
    /// The group in front has something new, and no stream.
    Front(GroupId),
    /// A stream has told something.
    Told(Box<Watch>, Follower, FollowedStretch),
    /// A stream has ended.
    Ended(Ending),
}

impl Engine {
    /// Prepares to wait until something comes into the journal of the group in front, others are to
    /// be read too, or another process has taken something of interest in.
    pub(crate) fn watch(&self, wait_ms: u32) -> Result<Watch, Error> {
        let [random] = crypto::random::<1>()?;
        let poll_ms = POLL_MS / 2 + POLL_MS / 2 * u32::from(random) / 255;
        let wait_ms = poll_ms.min(wait_ms).min(MAX_WAIT_MS);
        let wait = Duration::from_millis(wait_ms.into());
        let front = self.group_in_front()?;
        Ok(Watch {
            transport: self.transport.for_waiting(wait),
            request: self.question(&front, wait_ms)?,
            following: (None, None),
            front: front.map(|group| group.id),
            slot_ms: 0,
            reacts: self.slots.reacts(),
            wait,
            promised: Arc::clone(&self.promised),
            feed: match self.reads_by_feed() {
                true => self.feed_reader()?,
                false => None,
            },
            watched: Mutex::new(database::open_to_look(&self.home.database()?)?),
            known: events::last(&self.db)?,
        })
    }

    /// Prepares to wait for the next slot, and meanwhile for what comes into the group in front
    /// where the profile follows that: on this stream, if it is of that group, or on another one.
    /// Live, it is polled while there is none; at an even pace nothing is asked because of news.
    pub(crate) fn watch_or_follow(&mut self, parked: Option<Follower>) -> Result<Watch, Error> {
        let slot_ms = self.plan_slot()?;
        let mut watch = self.watch(MAX_WAIT_MS)?;
        watch.slot_ms = slot_ms;
        watch.feed = match self.slots.is_awake() {
            true => self.feed_reader()?,
            false => {
                self.feed_sleeps();
                None
            }
        };
        match self.group_in_front()? {
            Some(group) if self.streams.pace.is_some() && watch.request.is_some() => {
                watch.following = self.streams.go_on(parked, &group);
            }
            _ => {}
        }
        let has_stream = watch.following.0.is_some() || watch.following.1.is_some();
        if has_stream || self.streams.pace != Some(Pace::Live) {
            watch.request = None;
        }
        Ok(watch)
    }

    /// Whether an explicit call reads what the feed names and not all groups.
    pub(crate) fn reads_by_feed(&self) -> bool {
        self.slots.profile() == Profile::LowData
    }

    pub(crate) fn bring_to_front(&mut self, group: &GroupRef) -> Result<(), Error> {
        self.front = Some(Group::meant(&self.db, group)?.id);
        Ok(())
    }

    fn group_in_front(&self) -> Result<Option<Group>, Error> {
        let front = match self.front {
            Some(front) => Group::find(&self.db, &front)?,
            None => {
                let mut groups = Group::all(&self.db)?.into_iter();
                groups
                    .find(|group| !matches!(connection_stock::waits(&self.db, &group.id), Ok(true)))
            }
        };
        Ok(front.filter(|group| group.status == Status::Active))
    }

    fn question(
        &self,
        front: &Option<Group>,
        wait_ms: u32,
    ) -> Result<Option<(ReadJournalRequest, Position)>, Error> {
        let Some(group) = front else {
            return Ok(None);
        };
        let Some(head) = heads::last(&self.db, &group.id)? else {
            return Ok(None);
        };
        let request = ReadJournalRequest {
            version: WIRE_VERSION,
            segment: group.segment.id,
            // As everybody who has read to this end.
            from: group.segment.next.rounded_down(),
            known: head.next,
            wait_ms,
            size: AnswerSize::Segment,
            piece: 0,
        };
        Ok(Some((request, head.next)))
    }
}

impl Watch {
    /// What it says is read again and judged by who reads the journal.
    pub(crate) async fn wait(self) -> Result<(), Error> {
        let Self {
            transport,
            request,
            wait,
            promised,
            mut feed,
            watched,
            known,
            ..
        } = self;
        tokio::select! {
            news = poll(transport, request, wait, &promised) => news.map(drop),
            seen = elsewhere(&watched, known) => seen,
            () = named(feed.as_mut(), true) => Ok(()),
        }
    }

    /// Until the next slot, or until the group in front has something new.
    pub(crate) async fn news(mut self) -> Result<News, Error> {
        let (mut follower, request) = std::mem::take(&mut self.following);
        if let (Some(request), Some(group)) = (request, self.front) {
            // A slot does not wait for it for long.
            let most = self.left().max(BEGINS);
            let begun = crate::runtime::timeout(most, self.transport.follow_journal(&request));
            follower = match begun.await.unwrap_or(Err(StreamFault::Unreachable)) {
                Ok(stream) => Some(Follower::new(stream, group, request.segment)),
                Err(fault) => {
                    return Ok(News::Ended(Ending {
                        fault: Some(fault),
                        heard_ms: None,
                    }));
                }
            };
        }
        let left = self.left();
        // However much a stream tells.
        if left.is_zero() {
            return Ok(News::Look(follower));
        }
        let (mut feed, request) = (self.feed.take(), self.request.clone());
        let polled = poll(self.transport.clone(), request, self.wait, &self.promised);
        let told = tokio::select! {
            biased;
            told = next_told(follower.as_mut()) => told,
            polled = polled, if follower.is_none() && self.request.is_some() => {
                return Ok(match (polled?, self.front) {
                    (true, Some(front)) => News::Front(front),
                    _ => News::Look(None),
                });
            }
            () = named(feed.as_mut(), self.reacts) => return Ok(News::Look(follower)),
            () = crate::runtime::sleep(left) => return Ok(News::Look(follower)),
            seen = elsewhere(&self.watched, self.known) => {
                return seen.map(|()| News::Look(follower));
            }
        };
        let Some(follower) = follower else {
            return Ok(News::Look(None));
        };
        self.feed = feed;
        Ok(match told {
            Ok(Some(stretch)) => News::Told(Box::new(self), follower, stretch),
            Ok(None) => News::Ended(follower.ending(None)),
            Err(fault) => News::Ended(follower.ending(Some(fault))),
        })
    }

    fn left(&self) -> Duration {
        let left_ms = self.slot_ms.saturating_sub(SystemClock.monotonic_ms());
        Duration::from_millis(left_ms)
    }

    /// The wait goes on after something that a stream has told was taken in.
    pub(crate) fn goes_on(mut self, db: &Connection, follower: Follower) -> Result<Self, Error> {
        self.known = events::last(db)?;
        self.following = (Some(follower), None);
        Ok(self)
    }
}

/// Follows the activity feed until it ends, or until it names a group if that is to be known.
async fn named(feed: Option<&mut FeedReader>, is_enough: bool) {
    let Some(feed) = feed else {
        return std::future::pending().await;
    };
    loop {
        feed.follow().await;
        if is_enough || feed.has_ended() {
            return;
        }
    }
}

/// Never, without a stream.
async fn next_told(
    follower: Option<&mut Follower>,
) -> Result<Option<FollowedStretch>, StreamFault> {
    match follower {
        Some(follower) => follower.next().await,
        None => std::future::pending().await,
    }
}

/// Until another process has had news.
async fn elsewhere(watched: &Mutex<Connection>, known: i64) -> Result<(), Error> {
    loop {
        crate::runtime::sleep(LOOK_ELSEWHERE).await;
        let last = {
            let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            events::last(&watched)
        };
        match last {
            Ok(last) if last <= known => {}
            other => return other.map(drop),
        }
    }
}

async fn poll(
    mut transport: Transport,
    request: Option<(ReadJournalRequest, Position)>,
    wait: Duration,
    promised: &Mutex<Option<(SegmentId, Position)>>,
) -> Result<bool, Error> {
    let whole = crate::runtime::sleep(wait);
    let Some((request, end)) = request else {
        whole.await;
        return Ok(false);
    };
    let mut whole = std::pin::pin!(whole);
    let polled = transport
        .post(Operation::ReadJournal, &request.encode(), &[])
        .await;
    let page = match polled {
        Ok(answer) => ReadJournalResponse::decode(&answer).ok(),
        Err(Error::Refused(_) | Error::Protocol(_)) => None,
        Err(error) => return Err(error),
    };
    let has_news = page.is_some_and(|page| page.head.next > end || page.closed == 1);
    let is_repeated = has_news && {
        let mut promised = promised.lock().unwrap_or_else(PoisonError::into_inner);
        promised.replace((request.segment, end)) == Some((request.segment, end))
    };
    // A service that does not wait is not asked in a circle. Nor is one that has said so before, at
    // this very end, and has shown nothing then.
    if !has_news || is_repeated {
        whole.as_mut().await;
    }
    Ok(has_news)
}
