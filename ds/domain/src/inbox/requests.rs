//! `ReadInbox` and `DeleteFromInbox`: for the inbox's owner.

use protocol::codec::opaque;
use protocol::group::Accepted;
use protocol::ids::{InboxEntryId, InboxId};
use protocol::inbox::{
    DeleteFromInboxRequest, InboxEntry, MAX_READ, ReadInboxRequest, ReadInboxResponse,
};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::records::Inbox;
use crate::engine::Key;
use crate::env::{Env, Version};
use crate::operation::{Change, Charge, Cost, Level, Operation};
use crate::refusal::Stop;
use crate::request::{Authenticated, SignedBy, Unauthenticated};
use crate::rows::{InboxRow, OwnerOf};
use crate::store::{self, Transition};
use crate::view::View;

/// Requests of the signing key's inbox. [`ProblemType::UnknownInbox`], also for another's.
#[derive(Debug)]
pub struct ReadInbox;

/// Deletes requests of the signing key's inbox. [`ProblemType::UnknownInbox`], also for another's.
#[derive(Debug)]
pub struct DeleteFromInbox;

fn owned(
    view: &View,
    id: &InboxId,
    who: &SignedBy,
    env: &Env<'_>,
) -> Result<(InboxRow, Version, Inbox), Stop> {
    let row = env.rows().inbox(id);
    let owner = env.rows().owner(OwnerOf::Inbox, who.key());
    Inbox::read(view, row, id, env)?
        .filter(|(_, inbox)| inbox.owner == owner)
        .map(|(version, inbox)| (row, version, inbox))
        .ok_or_else(|| ProblemType::UnknownInbox.into())
}

fn cost(id: &InboxId, env: &Env<'_>) -> Cost {
    Cost {
        tokens: 0,
        charges: vec![Charge {
            level: Level::Owner,
            bucket: env.rows().inbox_bucket(id),
            bytes: 0,
        }],
    }
}

impl Operation for ReadInbox {
    type Request = ReadInboxRequest;
    type Response = ReadInboxResponse;
    type Who = SignedBy;
    const OPERATION: Number = Number::ReadInbox;

    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        _: &View,
        _: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, SignedBy>, Stop> {
        Ok(request.by_its_key()?)
    }

    fn cost(request: &Authenticated<'_, Self::Request, SignedBy>, env: &Env<'_>) -> Cost {
        cost(&request.body().inbox, env)
    }

    fn decide(
        request: &Authenticated<'_, Self::Request, SignedBy>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<ReadInboxResponse>, Stop> {
        let body = request.body();
        if body.limit == 0 || body.limit > MAX_READ {
            return Err(ProblemType::LimitExceeded.into());
        }
        let (row, _, inbox) = owned(view, &body.inbox, request.who(), env)?;
        let limit = usize::from(body.limit);
        let days: Vec<_> = inbox.days().collect();
        let ranges: Vec<_> = days
            .iter()
            .map(|day| row.entries(*day, limit.saturating_add(1)))
            .collect();
        let mut requests = Vec::new();
        let mut more = 0;
        for (day, rows) in days.iter().zip(view.ranges(&ranges)?) {
            for (name, value) in rows {
                if requests.len() == limit {
                    more = 1;
                    break;
                }
                let id = name.get(16..).and_then(|id| id.try_into().ok());
                requests.push(InboxEntry {
                    day: *day,
                    id: InboxEntryId(id.ok_or(Stop::Internal("name of a request"))?),
                    encrypted_request: opaque(value.as_slice()),
                });
            }
        }
        Ok(Change::nothing(ReadInboxResponse { requests, more }))
    }
}

impl Operation for DeleteFromInbox {
    type Request = DeleteFromInboxRequest;
    type Response = Accepted;
    type Who = SignedBy;
    const OPERATION: Number = Number::DeleteFromInbox;

    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        _: &View,
        _: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, SignedBy>, Stop> {
        Ok(request.by_its_key()?)
    }

    fn cost(request: &Authenticated<'_, Self::Request, SignedBy>, env: &Env<'_>) -> Cost {
        cost(&request.body().inbox, env)
    }

    fn decide(
        request: &Authenticated<'_, Self::Request, SignedBy>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<Accepted>, Stop> {
        let body = request.body();
        if body.entries.len() > usize::from(MAX_READ) {
            return Err(ProblemType::LimitExceeded.into());
        }
        let (row, version, mut inbox) = owned(view, &body.inbox, request.who(), env)?;
        let mut keys: Vec<Key> = body
            .entries
            .iter()
            .map(|name| row.entry(name.day, name.id))
            .collect();
        keys.sort();
        keys.dedup();
        let found = view.all(&keys)?;
        let requests: Vec<Key> = keys
            .iter()
            .zip(found)
            .filter(|(_, value)| value.is_some())
            .map(|(key, _)| key.clone())
            .collect();
        for key in &requests {
            inbox.remove(protocol::ids::Day(key.day));
        }
        let deletion = store::DeleteFromInbox {
            inbox: (row, version),
            record: inbox.seal(&body.inbox, env)?,
            requests,
        };
        Ok(Change::of(
            Transition::DeleteFromInbox(deletion),
            Accepted {},
        ))
    }
}
