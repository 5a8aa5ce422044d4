//! `RegisterHandle`, `LookupHandle`, `DeleteHandle`.

use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::connections::{HandleRecord, is_valid_handle};
use protocol::group::Accepted;
use protocol::inbox::{
    DeleteHandleRequest, INBOX_CAPACITY, LookupHandleRequest, LookupHandleResponse,
    RegisterHandleRequest,
};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::records::{Handle, Inbox};
use crate::engine::{Key, Table};
use crate::env::{Env, Prices, Version};
use crate::operation::{Change, Cost, Operation};
use crate::refusal::Stop;
use crate::request::{Authenticated, SignedBy, Unauthenticated};
use crate::rows::{InboxRow, OwnerOf};
use crate::store::{self, Transition};
use crate::view::View;

/// Weeks that a handle may be registered ahead.
const MAX_WEEKS: u16 = 53;

/// Registers a handle for the signing key with an inbox, or replaces its own record.
/// [`ProblemType::InvalidHandle`], [`ProblemType::BadSignature`] for a record that is not of its
/// credential; [`ProblemType::HandleTaken`]: the token is spent all the same, or trying names would
/// be free.
#[derive(Debug)]
pub struct RegisterHandle;

/// The record behind a handle and the price of a request. [`ProblemType::UnknownHandle`]: the token
/// is spent all the same, or trying names would be free.
#[derive(Debug)]
pub struct LookupHandle;

/// Gives a handle up with its inbox. [`ProblemType::UnknownHandle`], also for another's: one and
/// the same.
#[derive(Debug)]
pub struct DeleteHandle;

pub(super) fn valid(handle: &[u8]) -> Result<&[u8], Stop> {
    if is_valid_handle(handle) {
        Ok(handle)
    } else {
        Err(ProblemType::InvalidHandle.into())
    }
}

/// A handle that is good now, with its inbox.
pub(super) struct Registered {
    pub(super) version: Version,
    pub(super) handle: Handle,
    pub(super) inbox_row: InboxRow,
    pub(super) inbox_version: Version,
    pub(super) inbox: Inbox,
}

pub(super) fn registered(view: &View, handle: &[u8], env: &Env<'_>) -> Result<Registered, Stop> {
    let row = env.rows().handle(handle);
    let (version, handle) = Handle::read(view, row, handle, env)?
        .filter(|(_, handle)| handle.expiry >= env.week())
        .ok_or(ProblemType::UnknownHandle)?;
    let inbox_row = env.rows().inbox(&handle.inbox);
    let (inbox_version, inbox) =
        Inbox::read(view, inbox_row, &handle.inbox, env)?.ok_or(Stop::Moved)?;
    Ok(Registered {
        version,
        handle,
        inbox_row,
        inbox_version,
        inbox,
    })
}

impl Operation for RegisterHandle {
    type Request = RegisterHandleRequest;
    type Response = Accepted;
    type Who = SignedBy;
    const OPERATION: Number = Number::RegisterHandle;

    fn most_tokens(prices: &Prices) -> usize {
        usize::from(prices.register_handle)
    }

    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        _: &View,
        _: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, SignedBy>, Stop> {
        Ok(request.by_its_key()?)
    }

    fn cost(_: &Authenticated<'_, Self::Request, SignedBy>, env: &Env<'_>) -> Cost {
        Cost {
            tokens: env.settings.prices.register_handle,
            charges: Vec::new(),
        }
    }

    fn decide(
        request: &Authenticated<'_, Self::Request, SignedBy>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<Accepted>, Stop> {
        let body = request.body();
        let name = valid(body.handle.as_slice())?;
        let record = body.record.as_slice();
        let weeks = env.week().0..=env.week().0.saturating_add(MAX_WEEKS);
        if record.len() > env.settings.limits.handle_record_bytes || !weeks.contains(&body.expiry.0)
        {
            return Err(ProblemType::LimitExceeded.into());
        }
        let decoded = HandleRecord::decode(record).map_err(|_| ProblemType::Malformed)?;
        crypto::connection::verify_handle_record(name, &decoded)
            .map_err(|_| ProblemType::BadSignature)?;

        let owner = env.rows().owner(OwnerOf::Handle, request.who().key());
        let reader = env.rows().owner(OwnerOf::Inbox, &body.inbox_owner);
        let row = env.rows().handle(name);
        let stored = Handle::read(view, row, name, env)?;
        let is_ours = stored
            .as_ref()
            .is_some_and(|(_, handle)| handle.owner == owner);
        if let Some((_, handle)) = &stored
            && !is_ours
            && handle.expiry >= env.week()
        {
            return Err(Stop::from(ProblemType::HandleTaken).at_cost());
        }
        let inbox_row = env.rows().inbox(&body.inbox);
        let inbox = Inbox::read(view, inbox_row, &body.inbox, env)?;
        let keeps = stored
            .as_ref()
            .is_some_and(|(_, handle)| is_ours && handle.inbox == body.inbox);
        let (expected_inbox, mut inbox) = match inbox {
            Some((version, inbox)) if keeps => (Some(version), inbox),
            // Of another handle.
            Some(_) => return Err(Stop::from(ProblemType::NotAllowed).at_cost()),
            None => (None, Inbox::new(reader)),
        };
        inbox.owner = reader;
        let handle = Handle {
            owner,
            inbox: body.inbox,
            expiry: body.expiry,
            record: record.to_vec(),
        };
        // Nobody finds it any more: also that of whoever had the handle until it expired.
        let left = stored.as_ref().filter(|_| !keeps);
        let left = left.map(|(_, former)| env.rows().inbox(&former.inbox));
        let registration = store::RegisterHandle {
            handle: row,
            expected: stored.map(|(version, _)| version),
            record: handle.seal(name, env)?,
            inbox: inbox_row,
            expected_inbox,
            inbox_record: inbox.seal(&body.inbox, env)?,
            left,
        };
        Ok(Change::of(
            Transition::RegisterHandle(registration),
            Accepted {},
        ))
    }
}

impl Operation for LookupHandle {
    type Request = LookupHandleRequest;
    type Response = LookupHandleResponse;
    type Who = SignedBy;
    const OPERATION: Number = Number::LookupHandle;

    fn most_tokens(prices: &Prices) -> usize {
        usize::from(prices.lookup_handle)
    }

    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        _: &View,
        _: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, SignedBy>, Stop> {
        Ok(request.by_its_key()?)
    }

    fn cost(_: &Authenticated<'_, Self::Request, SignedBy>, env: &Env<'_>) -> Cost {
        Cost {
            tokens: env.settings.prices.lookup_handle,
            charges: Vec::new(),
        }
    }

    fn decide(
        request: &Authenticated<'_, Self::Request, SignedBy>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<LookupHandleResponse>, Stop> {
        let name = valid(request.body().handle.as_slice())?;
        let found = registered(view, name, env).map_err(Stop::at_cost)?;
        Ok(Change::nothing(LookupHandleResponse {
            record: opaque(found.handle.record),
            price: found.inbox.price(env.settings.prices.request_connection),
        }))
    }
}

impl Operation for DeleteHandle {
    type Request = DeleteHandleRequest;
    type Response = Accepted;
    type Who = SignedBy;
    const OPERATION: Number = Number::DeleteHandle;

    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        _: &View,
        _: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, SignedBy>, Stop> {
        Ok(request.by_its_key()?)
    }

    fn cost(_: &Authenticated<'_, Self::Request, SignedBy>, _: &Env<'_>) -> Cost {
        // Nobody can give up what is not theirs, and everybody may give up what is.
        Cost::default()
    }

    fn decide(
        request: &Authenticated<'_, Self::Request, SignedBy>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<Accepted>, Stop> {
        let name = valid(request.body().handle.as_slice())?;
        let owner = env.rows().owner(OwnerOf::Handle, request.who().key());
        let row = env.rows().handle(name);
        let (expected, handle) = Handle::read(view, row, name, env)?
            .filter(|(_, handle)| handle.owner == owner)
            .ok_or(ProblemType::UnknownHandle)?;
        let inbox_row = env.rows().inbox(&handle.inbox);
        let requests = match Inbox::read(view, inbox_row, &handle.inbox, env)? {
            Some((_, inbox)) => keys(view, inbox_row, &inbox)?,
            None => Vec::new(),
        };
        let deletion = store::DeleteHandle {
            handle: row,
            expected,
            inbox: inbox_row,
            requests,
        };
        Ok(Change::of(Transition::DeleteHandle(deletion), Accepted {}))
    }
}

/// Keys of all requests of an inbox.
fn keys(view: &View, row: InboxRow, inbox: &Inbox) -> Result<Vec<Key>, Stop> {
    let days: Vec<_> = inbox.days().collect();
    let ranges: Vec<_> = days
        .iter()
        .map(|day| row.entries(*day, INBOX_CAPACITY))
        .collect();
    let found = view.ranges(&ranges)?;
    Ok(days
        .iter()
        .zip(found)
        .flat_map(|(day, rows)| {
            rows.iter().map(|(name, _)| Key {
                table: Table::InboxEntries,
                day: day.0,
                name: name.clone(),
            })
        })
        .collect())
}
