//! The table of operations: one line each.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use ds::tokens::VerifiedToken;
use ds_domain::engine::{Found, Read};
use ds_domain::execution::Failure;
use ds_domain::group::commit::{
    AddClients, AddUsers, DeleteGroup, ReInitializeGroup, RemoveClients, RemoveUsers, SetRole,
    UpdateClient,
};
use ds_domain::group::create::{CreateGroup, ReserveGroupId};
use ds_domain::group::external::{ExternalCommitInfo, ExternalJoin};
use ds_domain::group::extras::{PutRecoveryRows, SetJoinCode, SetLeafExtras};
use ds_domain::group::inspect::{InspectGroup, OwnLeaf};
use ds_domain::group::message::SendMessage;
use ds_domain::group::propose::{Propose, SelfRemove};
use ds_domain::group::records::{FetchWelcome, JoinRecord, RecoveryRow};
use ds_domain::inbox::{
    DeleteFromInbox, DeleteHandle, LookupHandle, ReadInbox, RegisterHandle, RequestConnection,
};
use ds_domain::key_packages::{
    ClaimKeyPackages, CountKeyPackages, DeleteKeyPackages, PublishKeyPackages,
};
use ds_domain::operation::{Operation, UnsignedRead};
use ds_domain::refusal::Refusal;
use ds_domain::rows::Rows;
use ds_domain::store::closed_issuer_key;
use ds_domain::tokens::authorization;
use http::{HeaderMap, HeaderValue, header};
use protocol::next::operation::Operation as Number;
use protocol::problem::ProblemType;
use protocol::{REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE, Wire};
use service::gateway_auth::{GatewaySecret, require_gateway};
use service::http::RequestBody;
use tokio::sync::SemaphorePermit;

use crate::execute::Work;
use crate::problem;
use crate::server::Server;

type Shared = Arc<Server>;

macro_rules! signed {
    ($router:ident; $($work:ident $operation:ident),+ $(,)?) => {
        $(let $router = $router.route(
            <$operation as Operation>::OPERATION.path(),
            post(|State(server): State<Shared>, headers: HeaderMap, RequestBody(body): RequestBody| async move {
                signed::<$operation>(&server, Work::$work, &headers, &body).await
            }),
        );)+
    };
}

macro_rules! unsigned {
    ($router:ident; $($read:ident),+ $(,)?) => {
        $(let $router = $router.route(
            <$read as UnsignedRead>::OPERATION.path(),
            post(|State(server): State<Shared>, headers: HeaderMap, RequestBody(body): RequestBody| async move {
                unsigned::<$read>(&server, &headers, &body).await
            }),
        );)+
    };
}

/// All operations, for the gateway only.
pub fn router(server: Shared, gateway: GatewaySecret) -> Router {
    let router = service::http::router::<Shared>();
    signed!(router;
        Light ReserveGroupId,
        Heavy CreateGroup,
        Heavy AddUsers,
        Heavy RemoveUsers,
        Heavy AddClients,
        Heavy RemoveClients,
        Heavy UpdateClient,
        Heavy SetRole,
        Heavy ReInitializeGroup,
        Heavy DeleteGroup,
        Heavy ExternalJoin,
        Light SendMessage,
        Heavy SelfRemove,
        Heavy Propose,
        Heavy ExternalCommitInfo,
        Light SetLeafExtras,
        Light PutRecoveryRows,
        Light SetJoinCode,
        Light InspectGroup,
        Light OwnLeaf,
        Light PublishKeyPackages,
        Light ClaimKeyPackages,
        Light DeleteKeyPackages,
        Light CountKeyPackages,
        Light RegisterHandle,
        Light LookupHandle,
        Light DeleteHandle,
        Light RequestConnection,
        Light ReadInbox,
        Light DeleteFromInbox,
    );
    unsigned!(router; JoinRecord, FetchWelcome, RecoveryRow);
    let router =
        router.route(
            Number::ReadJournal.path(),
            post(
                |State(server): State<Shared>,
                 headers: HeaderMap,
                 RequestBody(body): RequestBody| async move {
                    read_journal(&server, &headers, &body).await
                },
            ),
        );
    require_gateway(router.with_state(server), gateway)
}

fn refused(problem: ProblemType) -> Failure {
    Failure::Refused(Refusal::Problem(problem))
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Failure> {
    if headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes)
        == Some(REQUEST_MEDIA_TYPE.as_bytes())
    {
        Ok(())
    } else {
        Err(refused(ProblemType::UnsupportedMediaType))
    }
}

fn answer(server: &Server, operation: Number, answered: Result<Vec<u8>, Failure>) -> Response {
    let outcome = match &answered {
        Ok(_) => "ok",
        Err(failure) => problem::slug(failure),
    };
    metrics::counter!(
        "ds_requests_total", "operation" => operation.path(), "outcome" => outcome
    )
    .increment(1);
    match answered {
        Ok(response) => {
            let media_type = HeaderValue::from_static(RESPONSE_MEDIA_TYPE);
            ([(header::CONTENT_TYPE, media_type)], response).into_response()
        }
        Err(failure) => problem::respond(server, failure),
    }
}

async fn signed<O: Operation>(
    server: &Shared,
    work: Work,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response
where
    ds_domain::execution::Execution<O>: Send,
{
    // The body is here: nobody holds a place by sending slowly.
    let Ok(place) = server.places.try_acquire() else {
        return problem::busy();
    };
    match carry_out::<O>(server, work, headers, body, place).await {
        Ok(response) => answer(server, O::OPERATION, Ok(response)),
        Err(Unanswered::Failed(failure)) => answer(server, O::OPERATION, Err(failure)),
        Err(Unanswered::Busy) => problem::busy(),
    }
}

async fn carry_out<O: Operation>(
    server: &Server,
    work: Work,
    headers: &HeaderMap,
    body: &Bytes,
    place: SemaphorePermit<'_>,
) -> Result<Vec<u8>, Unanswered>
where
    ds_domain::execution::Execution<O>: Send,
{
    check_media_type(headers)?;
    let (tokens, is_spent) = match server.tokens::<O>(headers, body.len()).await? {
        Offered::Good(tokens) => (tokens, false),
        // Perhaps by this very request: its record tells, and no token is needed for that.
        Offered::Spent => (Vec::new(), true),
    };
    // One token is in one request at a time: two would get the work of which one pays.
    let (_held, _place) = match server.in_flight.try_hold(&tokens) {
        Some(held) => (held, place),
        None => {
            drop(place);
            let held = server.in_flight.hold(&tokens).await;
            let place = server.places.try_acquire().map_err(|_| Unanswered::Busy)?;
            (held.map_err(|_| Unanswered::Busy)?, place)
        }
    };
    match server.execute::<O>(work, body, tokens).await {
        Err(Failure::Refused(
            Refusal::Problem(ProblemType::TokenRequired) | Refusal::Exhausted { .. },
        )) if is_spent => {
            ds::tokens::count_refused("spent");
            Err(refused(ProblemType::TokenRejected).into())
        }
        answered => Ok(answered?),
    }
}

/// Why a request got no response.
enum Unanswered {
    /// There is no place for it now, or its token is in another request.
    Busy,
    /// See [`Failure`].
    Failed(Failure),
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What the tokens of a request are worth.
enum Offered {
    /// They may pay.
    Good(Vec<VerifiedToken>),
    /// One of them has paid before.
    Spent,
}

async fn unsigned<R: UnsignedRead>(server: &Shared, headers: &HeaderMap, body: &Bytes) -> Response {
    let Ok(_place) = server.places.try_acquire() else {
        return problem::busy();
    };
    let read = async {
        check_media_type(headers)?;
        let request = R::Request::decode(body).map_err(|_| refused(ProblemType::Malformed))?;
        Ok(server.read::<R>(&request).await?.encode())
    };
    answer(server, R::OPERATION, read.await)
}

async fn read_journal(server: &Shared, headers: &HeaderMap, body: &Bytes) -> Response {
    let Ok(_place) = server.reads.try_acquire() else {
        return problem::busy();
    };
    let read = async {
        check_media_type(headers)?;
        let request = Wire::decode(body).map_err(|_| refused(ProblemType::Malformed))?;
        Ok(server.read_journal(&request).await?.encode())
    };
    answer(server, Number::ReadJournal, read.await)
}

impl Server {
    /// The tokens that a request brings: of keys that are accepted, for this service, none of them
    /// twice or spent, and signed; no more than it can cost. Spent ones are found by a read before any
    /// signature is verified.
    async fn tokens<O: Operation>(
        &self,
        headers: &HeaderMap,
        bytes: usize,
    ) -> Result<Offered, Failure> {
        let rejected = |reason: &'static str| {
            ds::tokens::count_refused(reason);
            refused(ProblemType::TokenRejected)
        };
        let presented = authorization::parse(headers.get_all(header::AUTHORIZATION))
            .map_err(|_| rejected("malformed"))?;
        if presented.is_empty() {
            return Ok(Offered::Good(Vec::new()));
        }
        let prices = &self.settings.domain.prices;
        let instead_of_allowance = bytes.div_ceil(prices.bytes_a_token.max(1)).max(1);
        let most = O::most_tokens(prices).saturating_add(instead_of_allowance);
        let keys = self.issuer_keys();
        let mut seen = BTreeSet::new();
        let mut offered = Vec::new();
        for token in presented.into_iter().take(most) {
            let token = keys
                .identify(token, &self.settings.challenge)
                .map_err(|error| rejected(error.reason()))?;
            if !seen.insert(*token.nonce_digest()) {
                return Err(rejected("twice_in_a_request"));
            }
            offered.push(token);
        }
        let rows = Rows(self.keys.rows());
        let mut reads = Vec::new();
        for token in &offered {
            let spent = rows.spent(token.nonce_digest()).key(token.issuer_key_id());
            reads.push(Read::Row(spent));
            reads.push(Read::Row(closed_issuer_key(token.issuer_key_id())));
        }
        let found = self
            .engine
            .read(reads)
            .await
            .map_err(|error| Failure::Engine(error.0))?;
        let is_spent = |found: &Found| matches!(found, Found::Row(Some(_)));
        if found.iter().any(is_spent) {
            return Ok(Offered::Spent);
        }
        offered
            .into_iter()
            .map(|token| keys.verify(token).map_err(|error| rejected(error.reason())))
            .collect::<Result<_, _>>()
            .map(Offered::Good)
    }
}
