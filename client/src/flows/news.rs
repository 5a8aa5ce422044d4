//! Waiting for news at the end of the journal of the group in front. It needs nothing of the client
//! while it waits: whatever else is to be done is done meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::follow::{FollowJournalRequest, FollowedStretch};
use protocol::ids::{GroupId, Position, SegmentId};
use protocol::journal::{MAX_WAIT_MS, ReadJournalRequest, ReadJournalResponse};
use protocol::operation::Operation;
use protocol::{WIRE_VERSION, Wire as _};
use rusqlite::Connection;

use crate::engine::{Engine, Promised};
use crate::error::Error;
use crate::flows::feed::FeedReader;
use crate::net::clock::{Clock as _, SystemClock};
use crate::net::streams::{Ending, Follower};
use crate::net::transport::Transport;
use crate::net::transport::stream::StreamFault;
use crate::store::{Group, Status, connection_stock, database, events, heads};

/// How often a client that waits looks whether another process has had news.
const LOOK_ELSEWHERE: Duration = Duration::from_millis(250);
/// One long poll of the group in front is between half of this and this, after which the others are
/// read.
const POLL_MS: u32 = 4_000;

/// A wait that has not begun.
pub(crate) struct Watch {
    transport: Transport,
    /// What is asked; without a group in front time passes and nothing else.
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
    /// When other groups are read, by the clock that nobody sets.
    look_ms: u64,
}

/// What comes of waiting for news.
pub(crate) enum News {
    /// It is time to read journals; a stream goes on meanwhile.
    Look(Option<Follower>),
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
            look_ms: SystemClock.monotonic_ms().saturating_add(wait_ms.into()),
            wait,
            promised: Arc::clone(&self.promised),
            feed: self.feed_reader()?,
            watched: Mutex::new(database::open_to_look(&self.home.database()?)?),
            known: events::last(&self.db)?,
        })
    }

    /// As [`Engine::watch`], on a stream where there is one: this one, if it is of the group in
    /// front.
    pub(crate) fn watch_or_follow(
        &mut self,
        wait_ms: u32,
        parked: Option<Follower>,
    ) -> Result<Watch, Error> {
        let mut watch = self.watch(wait_ms)?;
        if let Some(group) = self.group_in_front()?
            && watch.request.is_some()
        {
            watch.following = self.streams.go_on(parked, &group);
        }
        Ok(watch)
    }

    pub(crate) fn bring_to_front(&mut self, group: &str) -> Result<(), Error> {
        self.front = Some(Group::by_name(&self.db, group)?.id);
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
            news = poll(transport, request, wait, &promised) => news,
            seen = elsewhere(&watched, known) => seen,
            () = named(feed.as_mut()) => Ok(()),
        }
    }

    /// As [`Watch::wait`], or what comes on a stream before.
    pub(crate) async fn news(mut self) -> Result<News, Error> {
        let (follower, request) = std::mem::take(&mut self.following);
        let left_ms = self.look_ms.saturating_sub(SystemClock.monotonic_ms());
        let left = Duration::from_millis(left_ms);
        let mut follower = match (follower, request, self.front) {
            (Some(follower), ..) => follower,
            (None, Some(request), Some(group)) => {
                // Other groups do not wait for it.
                let begun = tokio::time::timeout(left, self.transport.follow_journal(&request));
                match begun.await.unwrap_or(Err(StreamFault::Unreachable)) {
                    Ok(stream) => Follower::new(stream, group, request.segment),
                    Err(fault) => {
                        return Ok(News::Ended(Ending {
                            fault: Some(fault),
                            heard_ms: None,
                        }));
                    }
                }
            }
            _ => return self.wait().await.map(|()| News::Look(None)),
        };
        let left_ms = self.look_ms.saturating_sub(SystemClock.monotonic_ms());
        // However much a stream tells.
        if left_ms == 0 {
            return Ok(News::Look(Some(follower)));
        }
        let told = tokio::select! {
            biased;
            told = follower.next() => told,
            () = named(self.feed.as_mut()) => return Ok(News::Look(Some(follower))),
            () = tokio::time::sleep(Duration::from_millis(left_ms)) => {
                return Ok(News::Look(Some(follower)));
            }
            seen = elsewhere(&self.watched, self.known) => {
                return seen.map(|()| News::Look(Some(follower)));
            }
        };
        Ok(match told {
            Ok(Some(stretch)) => News::Told(Box::new(self), follower, stretch),
            Ok(None) => News::Ended(follower.ending(None)),
            Err(fault) => News::Ended(follower.ending(Some(fault))),
        })
    }

    /// The wait goes on after something that a stream has told was taken in.
    pub(crate) fn goes_on(mut self, db: &Connection, follower: Follower) -> Result<Self, Error> {
        self.known = events::last(db)?;
        self.following = (Some(follower), None);
        Ok(self)
    }
}

/// Until the activity feed names a group.
async fn named(feed: Option<&mut FeedReader>) {
    match feed {
        Some(feed) => feed.follow().await,
        None => std::future::pending().await,
    }
}

/// Until another process has had news.
async fn elsewhere(watched: &Mutex<Connection>, known: i64) -> Result<(), Error> {
    loop {
        tokio::time::sleep(LOOK_ELSEWHERE).await;
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
) -> Result<(), Error> {
    let whole = tokio::time::sleep(wait);
    let Some((request, end)) = request else {
        whole.await;
        return Ok(());
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
    Ok(())
}
