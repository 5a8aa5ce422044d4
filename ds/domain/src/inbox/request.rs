//! `RequestConnection`.

use protocol::group::Accepted;
use protocol::ids::{Day, InboxEntryId};
use protocol::inbox::{INBOX_CAPACITY, REQUEST_DAYS, REQUEST_SIZE, RequestConnectionRequest};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::handle::{registered, valid};
use crate::env::{Env, Prices};
use crate::operation::{Change, Cost, Operation};
use crate::refusal::Stop;
use crate::request::{Authenticated, SignedBy, Unauthenticated};
use crate::store::{PutIntoInbox, Transition};
use crate::view::View;

/// Puts a connection request into the inbox of a handle. [`ProblemType::UnknownHandle`] and
/// [`ProblemType::InboxFull`]: the token is spent all the same. Tokens beyond the first are needed
/// as the look-up said; with fewer nothing happens.
#[derive(Debug)]
pub struct RequestConnection;

impl Operation for RequestConnection {
    type Request = RequestConnectionRequest;
    type Response = Accepted;
    type Who = SignedBy;
    const OPERATION: Number = Number::RequestConnection;

    fn most_tokens(prices: &Prices) -> usize {
        // A full inbox takes nothing; one that is nearly full costs this.
        usize::from(prices.request_connection) * 8
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
            tokens: env.settings.prices.request_connection,
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
        if body.encrypted_request.as_slice().len() != REQUEST_SIZE {
            return Err(ProblemType::LimitExceeded.into());
        }
        let mut found = registered(view, name, env).map_err(Stop::at_cost)?;
        if found.inbox.len() >= INBOX_CAPACITY {
            return Err(Stop::from(ProblemType::InboxFull).at_cost());
        }
        let base = env.settings.prices.request_connection;
        let surcharge = found.inbox.price(base).saturating_sub(base);
        let last_day = Day(env.today().0.saturating_add(REQUEST_DAYS));
        found.inbox.add(last_day);
        let put = PutIntoInbox {
            handle: env.rows().handle(name),
            expected: found.version,
            inbox: (found.inbox_row, found.inbox_version),
            record: found.inbox.seal(&found.handle.inbox, env)?,
            last_day,
            id: InboxEntryId(env.random()),
            request: body.encrypted_request.as_slice().to_vec(),
        };
        Ok(Change {
            surcharge,
            ..Change::of(Transition::PutIntoInbox(put), Accepted {})
        })
    }
}
