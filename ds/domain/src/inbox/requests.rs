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
use crate::request::{Authenticated, Unauthenticated};
use crate::rows::OwnerOf;
use crate::store::{self, Transition};
use crate::view::View;

/// Requests of the signing key's inbox. [`ProblemType::UnknownInbox`], also for another's.
#[derive(Debug)]
pub struct ReadInbox;

/// Deletes requests of the signing key's inbox. [`ProblemType::UnknownInbox`], also for another's.
#[derive(Debug)]
pub struct DeleteFromInbox;

/// The owner of the inbox that the request names. Who is not draws on nothing: a device that is
/// gone knows which inbox it is.
#[derive(Debug)]
pub struct InboxOwner(Version, Inbox);

fn by_owner<'r, T>(
    request: &'r Unauthenticated<T>,
    id: impl FnOnce(&T) -> &InboxId,
    view: &View,
    env: &Env<'_>,
) -> Result<Authenticated<'r, T, InboxOwner>, Stop> {
    let signed = request.by_its_key()?;
    let id = id(signed.body());
    let owner = env.rows().owner(OwnerOf::Inbox, signed.who().key());
    let (version, inbox) = Inbox::read(view, env.rows().inbox(id), id, env)?
        .filter(|(_, inbox)| inbox.owner == owner)
        .ok_or(ProblemType::UnknownInbox)?;
    Ok(signed.map(|_| InboxOwner(version, inbox)))
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
    type Who = InboxOwner;
    const OPERATION: Number = Number::ReadInbox;

    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, InboxOwner>, Stop> {
        by_owner(request, |body| &body.inbox, view, env)
    }

    fn cost(request: &Authenticated<'_, Self::Request, InboxOwner>, env: &Env<'_>) -> Cost {
        cost(&request.body().inbox, env)
    }

    fn decide(
        request: &Authenticated<'_, Self::Request, InboxOwner>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<ReadInboxResponse>, Stop> {
        let body = request.body();
        if body.limit == 0 || body.limit > MAX_READ {
            return Err(ProblemType::LimitExceeded.into());
        }
        let InboxOwner(_, inbox) = request.who();
        let row = env.rows().inbox(&body.inbox);
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
    type Who = InboxOwner;
    const OPERATION: Number = Number::DeleteFromInbox;

    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, InboxOwner>, Stop> {
        by_owner(request, |body| &body.inbox, view, env)
    }

    fn cost(request: &Authenticated<'_, Self::Request, InboxOwner>, env: &Env<'_>) -> Cost {
        cost(&request.body().inbox, env)
    }

    fn decide(
        request: &Authenticated<'_, Self::Request, InboxOwner>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<Accepted>, Stop> {
        let body = request.body();
        if body.entries.len() > usize::from(MAX_READ) {
            return Err(ProblemType::LimitExceeded.into());
        }
        let InboxOwner(version, inbox) = request.who();
        let (row, mut inbox) = (env.rows().inbox(&body.inbox), inbox.clone());
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
            inbox: (row, *version),
            record: inbox.seal(&body.inbox, env)?,
            requests,
        };
        Ok(Change::of(
            Transition::DeleteFromInbox(deletion),
            Accepted {},
        ))
    }
}
