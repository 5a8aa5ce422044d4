//! Waiting for news at the end of the journal of the group in front. It needs nothing of the client
//! while it waits: whatever else is to be done is done meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::ids::{Position, SegmentId};
use protocol::journal::{MAX_WAIT_MS, ReadJournalRequest, ReadJournalResponse};
use protocol::operation::Operation;
use protocol::{WIRE_VERSION, Wire as _};
use rusqlite::Connection;

use crate::engine::{Engine, Promised};
use crate::error::Error;
use crate::net::transport::Transport;
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
    /// A connection of its own: the client's is in use.
    watched: Connection,
    known: i64,
}

impl Engine {
    /// Prepares to wait until something comes into the journal of the group in front, others are to
    /// be read too, or another process has taken something of interest in.
    pub(crate) fn watch(&self, wait_ms: u32) -> Result<Watch, Error> {
        let [random] = crypto::random::<1>()?;
        let poll_ms = POLL_MS / 2 + POLL_MS / 2 * u32::from(random) / 255;
        let wait_ms = poll_ms.min(wait_ms).min(MAX_WAIT_MS);
        let wait = Duration::from_millis(wait_ms.into());
        Ok(Watch {
            transport: self.transport.for_waiting(wait),
            request: self.question(wait_ms)?,
            wait,
            promised: Arc::clone(&self.promised),
            watched: database::open_to_look(&self.home.database()?)?,
            known: events::last(&self.db)?,
        })
    }

    fn question(&self, wait_ms: u32) -> Result<Option<(ReadJournalRequest, Position)>, Error> {
        let front = match self.front {
            Some(front) => Group::find(&self.db, &front)?,
            None => {
                let mut groups = Group::all(&self.db)?.into_iter();
                groups
                    .find(|group| !matches!(connection_stock::waits(&self.db, &group.id), Ok(true)))
            }
        };
        let Some(group) = front.filter(|group| group.status == Status::Active) else {
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
            watched,
            known,
        } = self;
        let elsewhere = async move {
            loop {
                tokio::time::sleep(LOOK_ELSEWHERE).await;
                match events::last(&watched) {
                    Ok(last) if last <= known => {}
                    other => return other.map(drop),
                }
            }
        };
        tokio::select! {
            news = poll(transport, request, wait, &promised) => news,
            seen = elsewhere => seen,
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
