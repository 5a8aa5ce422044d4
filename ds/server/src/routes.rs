//! From a request over HTTP to its operation, and from that to the answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use ds_domain::blobs::{BlobRequest, CreateBlob};
use ds_domain::engine::{Found, Read};
use ds_domain::execution::{Execution, Failure};
use ds_domain::operation::{Operation, UnsignedRead};
use ds_domain::refusal::Refusal;
use ds_domain::rows::Rows;
use ds_domain::store::closed_issuer_key;
use ds_domain::table::{WithOperation, Work, with_operation};
use ds_domain::tokens::{IdentifiedToken, VerifiedToken, authorization};
use http::{HeaderMap, HeaderValue, header};
use protocol::blobs::BULK_ANSWER_MS;
use protocol::feed::FEED_PATH;
use protocol::journal::{AnswerSize, ReadJournalRequest, SLOT_ANSWER_MS};
use protocol::operation::DIRECTORY_PATH;
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;
use protocol::{REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE, Wire};
use service::gateway_auth::{GatewaySecret, require_gateway};
use service::http::RequestBody;

use crate::directory::directory;
use crate::feed;
use crate::follow::NoStream;
use crate::journal::Came;
use crate::load::{BUSY_MS, Busy, Place};
use crate::problem;
use crate::server::Server;
use crate::tokens::count_refused;

type Shared = Arc<Server>;

/// The way of a request to the operation that it is of.
struct Route(Router<Shared>);

impl WithOperation for Route {
    type Output = Router<Shared>;

    fn signed<O: Operation>(self, work: Work) -> Self::Output
    where
        Execution<O>: Send,
    {
        let answer = move |State(server): State<Shared>,
                           headers: HeaderMap,
                           RequestBody(body): RequestBody| async move {
            signed::<O>(&server, work, &headers, &body).await
        };
        self.0.route(O::OPERATION.path(), post(answer))
    }

    fn chunks(self, number: Number) -> Self::Output {
        let answer = move |State(server): State<Shared>,
                           headers: HeaderMap,
                           RequestBody(body): RequestBody| async move {
            chunks(&server, number, &headers, &body).await
        };
        self.0.route(number.path(), post(answer))
    }

    fn unsigned<R: UnsignedRead>(self) -> Self::Output {
        let answer = |State(server): State<Shared>,
                      headers: HeaderMap,
                      RequestBody(body): RequestBody| async move {
            unsigned::<R>(&server, &headers, &body).await
        };
        self.0.route(R::OPERATION.path(), post(answer))
    }
}

/// All operations, the directory and the feed, for the gateway only.
pub fn router(server: Shared, gateway: GatewaySecret) -> Router {
    let mut router = service::http::router::<Shared>()
        .route(DIRECTORY_PATH, get(directory))
        .route(&format!("{FEED_PATH}/latest"), get(feed::latest))
        .route(
            &format!("{FEED_PATH}/{{seconds}}/{{number}}"),
            get(feed::tick),
        );
    for number in Number::ALL {
        router = match number {
            // It waits.
            Number::ReadJournal => router.route(
                number.path(),
                post(
                    |State(server): State<Shared>,
                     headers: HeaderMap,
                     RequestBody(body): RequestBody| async move {
                        read_journal(&server, &headers, &body).await
                    },
                ),
            ),
            // It goes on.
            Number::FollowJournal => router.route(
                number.path(),
                post(
                    |State(server): State<Shared>,
                     headers: HeaderMap,
                     RequestBody(body): RequestBody| async move {
                        follow_journal(&server, &headers, &body).await
                    },
                ),
            ),
            // There may be no room for it.
            Number::CreateBlob => router.route(
                number.path(),
                post(
                    |State(server): State<Shared>,
                     headers: HeaderMap,
                     RequestBody(body): RequestBody| async move {
                        create_blob(&server, &headers, &body).await
                    },
                ),
            ),
            _ => with_operation(*number, Route(router)),
        };
    }
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

fn count(operation: Number, outcome: &'static str) {
    metrics::counter!(
        "ds_requests_total", "operation" => operation.path(), "outcome" => outcome
    )
    .increment(1);
}

fn answer(server: &Server, operation: Number, answered: Result<Vec<u8>, Unanswered>) -> Response {
    match answered {
        Ok(response) => {
            count(operation, "ok");
            let media_type = HeaderValue::from_static(RESPONSE_MEDIA_TYPE);
            ([(header::CONTENT_TYPE, media_type)], response).into_response()
        }
        Err(Unanswered::Failed(failure)) => {
            count(operation, problem::slug(&failure));
            problem::respond(server, failure)
        }
        Err(Unanswered::Busy(busy)) => {
            count(operation, "busy");
            problem::busy(busy)
        }
    }
}

async fn signed<O: Operation>(
    server: &Shared,
    work: Work,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response
where
    Execution<O>: Send,
{
    // The body is here: nobody holds a place by sending slowly.
    let place = server.load.admit(O::OPERATION, server.clock.now_unix_ms());
    let answered = match place {
        Ok(place) => carry_out::<O>(server, work, headers, body, place).await,
        Err(busy) => Err(busy.into()),
    };
    answer(server, O::OPERATION, answered)
}

async fn carry_out<O: Operation>(
    server: &Server,
    work: Work,
    headers: &HeaderMap,
    body: &Bytes,
    place: Place<'_>,
) -> Result<Vec<u8>, Unanswered>
where
    Execution<O>: Send,
{
    check_media_type(headers)?;
    let prices = &server.settings.decisions.prices;
    let instead_of_allowance = body.len().div_ceil(prices.bytes_a_token.max(1)).max(1);
    let most = O::most_tokens(prices).saturating_add(instead_of_allowance);
    let offered = server.offered(headers, most)?;
    let releases = server.in_flight.releases();
    let mut is_spent = server.is_spent(&offered).await?;
    // Perhaps by this very request: its record tells, and no token is needed for that.
    let mut tokens = match is_spent {
        true => Vec::new(),
        false => server.verified(offered)?,
    };
    // One token is in one request at a time: two would get the work of which one pays.
    let (_held, _place) = match server.in_flight.try_hold(&tokens) {
        Some(held) => (held, place),
        None => {
            drop(place);
            let held = server.in_flight.hold(&tokens).await;
            let place = server.load.place(O::OPERATION)?;
            let busy = Busy {
                retry_after_ms: BUSY_MS,
            };
            (held.map_err(|_| busy)?, place)
        }
    };
    // Another request may have spent a token since we looked.
    if server.in_flight.releases() != releases && server.is_spent(&tokens).await? {
        is_spent = true;
        tokens.clear();
    }
    match server.execute::<O>(work, body, tokens).await {
        Err(Failure::Refused(
            Refusal::Problem(ProblemType::TokenRequired) | Refusal::Exhausted { .. },
        )) if is_spent => {
            count_refused("spent");
            Err(refused(ProblemType::TokenRejected).into())
        }
        answered => Ok(answered?),
    }
}

/// Why a request got no response.
enum Unanswered {
    /// There is no place for it now, or its token is in another request.
    Busy(Busy),
    /// See [`Failure`].
    Failed(Failure),
}

impl From<NoStream> for Unanswered {
    fn from(no_stream: NoStream) -> Self {
        match no_stream {
            NoStream::Busy(busy) => Self::Busy(busy),
            NoStream::Failed(failure) => Self::Failed(failure),
        }
    }
}

impl From<Busy> for Unanswered {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

async fn unsigned<R: UnsignedRead>(server: &Shared, headers: &HeaderMap, body: &Bytes) -> Response {
    let read = async {
        let _place = server
            .load
            .admit(R::OPERATION, server.clock.now_unix_ms())?;
        check_media_type(headers)?;
        let offered = server.offered(headers, 1)?;
        let request = R::Request::decode(body).map_err(|_| refused(ProblemType::Malformed))?;
        let found = server.of_something(server.read::<R>(&request).await)?;
        let answer = found.encode();
        let bucket = R::bucket(&request, &Rows(server.keys.rows()));
        server.draw(bucket, answer.len(), offered).await?;
        Ok(answer)
    };
    answer(server, R::OPERATION, read.await)
}

async fn create_blob(server: &Shared, headers: &HeaderMap, body: &Bytes) -> Response {
    let came = Came::now();
    // Whether that is too little is decided where it matters.
    let _ = server.blobs.disk().await;
    let answered = signed::<CreateBlob>(server, Work::Light, headers, body).await;
    came.leaves(BULK_ANSWER_MS).await;
    answered
}

async fn chunks(server: &Shared, number: Number, headers: &HeaderMap, body: &Bytes) -> Response {
    let came = Came::now();
    let done = tokio::spawn({
        let (server, headers, body) = (Arc::clone(server), headers.clone(), body.clone());
        // Where nobody waits any more it goes on: rows and chunks change together.
        async move {
            let _place = server.load.admit(number, server.clock.now_unix_ms())?;
            check_media_type(&headers)?;
            let offered = server.offered(&headers, 1)?;
            let request = BlobRequest::decode(number, &body).map_err(Failure::Refused)?;
            Ok::<_, Unanswered>(server.blob(&request, offered).await?)
        }
    });
    let ended = Err(Failure::Internal("work on a blob has ended").into());
    let done = done.await.unwrap_or(ended);
    came.leaves(BULK_ANSWER_MS).await;
    answer(server, number, done)
}

async fn read_journal(server: &Shared, headers: &HeaderMap, body: &Bytes) -> Response {
    let came = Came::now();
    let read = async {
        let place = server
            .load
            .admit(Number::ReadJournal, server.clock.now_unix_ms())?;
        check_media_type(headers)?;
        let request: ReadJournalRequest =
            Wire::decode(body).map_err(|_| refused(ProblemType::Malformed))?;
        let read = async {
            let offered = server.offered(headers, 1)?;
            Ok(server
                .read_journal(&request, offered, place)
                .await?
                .encode())
        };
        let read = read.await;
        if request.size == AnswerSize::Slot {
            came.leaves(SLOT_ANSWER_MS).await;
        }
        read
    };
    answer(server, Number::ReadJournal, read.await)
}

async fn follow_journal(server: &Shared, headers: &HeaderMap, body: &Bytes) -> Response {
    let begun = async {
        let place = server
            .load
            .admit(Number::FollowJournal, server.clock.now_unix_ms())?;
        check_media_type(headers)?;
        let offered = server.offered(headers, 1)?;
        let request = Wire::decode(body).map_err(|_| refused(ProblemType::Malformed))?;
        Ok(server.follow(request, offered, place).await?)
    };
    match begun.await {
        Ok((ends_by, frames)) => {
            count(Number::FollowJournal, "ok");
            let media_type = HeaderValue::from_static(RESPONSE_MEDIA_TYPE);
            let headers = [(header::CONTENT_TYPE, media_type)];
            (Extension(ends_by), headers, frames).into_response()
        }
        Err(unanswered) => answer(server, Number::FollowJournal, Err(unanswered)),
    }
}

fn rejected(reason: &'static str) -> Failure {
    count_refused(reason);
    refused(ProblemType::TokenRejected)
}

/// A token that has a place in the spent-set.
pub(crate) trait Spendable {
    fn issuer_key_id(&self) -> &[u8; 32];
    fn nonce_digest(&self) -> &[u8; 32];
}

macro_rules! spendable {
    ($($token:ty),+) => {
        $(impl Spendable for $token {
            fn issuer_key_id(&self) -> &[u8; 32] {
                self.issuer_key_id()
            }
            fn nonce_digest(&self) -> &[u8; 32] {
                self.nonce_digest()
            }
        })+
    };
}

spendable!(IdentifiedToken, VerifiedToken);

impl Server {
    /// The tokens that a request brings: of keys that are accepted, for this service, none of them
    /// twice; no more than it can cost. Whether the issuer has signed them is not known, nor
    /// whether they are spent.
    fn offered(&self, headers: &HeaderMap, most: usize) -> Result<Vec<IdentifiedToken>, Failure> {
        let presented = authorization::parse(headers.get_all(header::AUTHORIZATION))
            .map_err(|_| rejected("malformed"))?;
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
        Ok(offered)
    }

    /// Whether one of these has paid before, or can't pay any more. A read, and no signature:
    /// nobody has proved anything yet.
    pub(crate) async fn is_spent<T: Spendable>(&self, tokens: &[T]) -> Result<bool, Failure> {
        if tokens.is_empty() {
            return Ok(false);
        }
        let rows = Rows(self.keys.rows());
        let reads = tokens.iter().flat_map(|token| {
            let spent = rows.spent(token.nonce_digest()).key(token.issuer_key_id());
            [spent, closed_issuer_key(token.issuer_key_id())].map(Read::Row)
        });
        let found = self
            .engine
            .read(reads.collect())
            .await
            .map_err(|error| Failure::Engine(error.0))?;
        let is_there = |found: &Found| matches!(found, Found::Row(Some(_)));
        Ok(found.iter().any(is_there))
    }

    /// Those that the issuer has signed: all of them, or it is a refusal.
    pub(crate) fn verified(
        &self,
        offered: Vec<IdentifiedToken>,
    ) -> Result<Vec<VerifiedToken>, Failure> {
        let keys = self.issuer_keys();
        offered
            .into_iter()
            .map(|token| keys.verify(token).map_err(|error| rejected(error.reason())))
            .collect()
    }
}
