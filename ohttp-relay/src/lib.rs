//! The RFC 9458 relay.
//!
//! It knows the client's address and nothing else: what it forwards is ciphertext, what it sends
//! to the gateway is that ciphertext and a fixed set of headers, the same for everybody. It holds no
//! key and links no code that could decrypt.
//!
//! | route | does |
//! |---|---|
//! | `POST /` | forwards a `message/ohttp-req` to the one configured gateway |
//! | `GET /ohttp-keys` | mirrors the gateway's key configurations, so that the gateway sees no client |

mod config;
mod keys;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use service::http::RequestBody;
use service::start::Process;
use service::{Problem, SharedClock, Shutdown};

pub use config::Config;
use keys::KeyMirror;
use upstream::{Answer, Upstream};

const OHTTP_REQ: &str = "message/ohttp-req";
const OHTTP_RES: &str = "message/ohttp-res";

/// RFC 9458 §5.3 and §6.5.2: the two problems of a gateway that a client can do something about.
const OHTTP_KEY_PROBLEM: &str = "https://iana.org/assignments/http-problem-types#ohttp-key";
const DATE_PROBLEM: &str = "https://iana.org/assignments/http-problem-types#date";

/// Why a relay could not be made or ended.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("`gateway` is not an http or https URL")]
    GatewayUrl,
    #[error("the HTTP client cannot be set up")]
    Client,
    #[error("the relay's secret cannot be used")]
    Secret(#[from] service::secret_file::SecretFileError),
    #[error(transparent)]
    Bind(#[from] service::http::BindError),
}

struct Relay {
    upstream: Upstream,
    keys: KeyMirror,
    shutdown: Shutdown,
    grace: Duration,
}

/// The relay's routes, for any server.
///
/// # Errors
/// The configured gateway is not a URL.
pub fn router(
    config: &Config,
    clock: SharedClock,
    shutdown: Shutdown,
) -> Result<Router, RelayError> {
    let relay = Arc::new(Relay {
        upstream: Upstream::new(config)?,
        keys: KeyMirror::new(clock),
        shutdown,
        grace: config.grace(),
    });
    Ok(service::http::router()
        .route("/", post(forward))
        .route("/ohttp-keys", get(ohttp_keys))
        .with_state(relay))
}

/// Runs the relay until the process is told to end.
///
/// # Errors
/// The configuration is wrong or the address cannot be bound.
pub async fn run(config: Config, process: Process) -> Result<(), RelayError> {
    let router = router(&config, process.clock, process.shutdown.clone())?;
    let listener = service::http::bind(config.listen).await?;
    process.readiness.ready();
    service::http::serve(listener, router, config.limits, process.shutdown).await;
    Ok(())
}

async fn forward(
    State(relay): State<Arc<Relay>>,
    headers: HeaderMap,
    body: Result<RequestBody, Problem>,
) -> Response {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !content_type.is_some_and(|value| value.eq_ignore_ascii_case(OHTTP_REQ.as_bytes())) {
        return Problem::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE).into_response();
    }
    let RequestBody(request) = match body {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    metrics::histogram!("ohttp_relay_request_bytes").record(request.len() as f64);
    let answer = tokio::select! {
        answer = relay.upstream.forward(request) => answer,
        () = relay.shutdown.requested_before(relay.grace) => Answer::Failed("ending"),
    };
    metrics::counter!("ohttp_relay_requests_total", "outcome" => answer.outcome()).increment(1);
    answer.into_response()
}

impl IntoResponse for Answer {
    /// Whatever the gateway sent, only these answers exist. A client cannot be told apart by them,
    /// and the gateway cannot send headers, cookies or statuses through.
    fn into_response(self) -> Response {
        match self {
            Self::Encapsulated(body) => {
                metrics::histogram!("ohttp_relay_response_bytes").record(body.len() as f64);
                let headers = [
                    (CONTENT_TYPE, HeaderValue::from_static(OHTTP_RES)),
                    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
                ];
                (headers, body).into_response()
            }
            Self::KeyProblem => Problem::new(
                StatusCode::BAD_REQUEST,
                OHTTP_KEY_PROBLEM,
                "The key configuration of the request is not known to the gateway",
            )
            .into_response(),
            Self::DateProblem => Problem::new(
                StatusCode::BAD_REQUEST,
                DATE_PROBLEM,
                "The date of the request is missing or not acceptable",
            )
            .into_response(),
            Self::Failed(_) => bad_gateway().into_response(),
        }
    }
}

async fn ohttp_keys(State(relay): State<Arc<Relay>>) -> Response {
    match relay.keys.current(&relay.upstream).await {
        Some(mirrored) => {
            let cache = format!("public, max-age={}", mirrored.remaining_seconds);
            let cache = HeaderValue::from_str(&cache)
                .unwrap_or_else(|_| HeaderValue::from_static("no-store"));
            let headers = [
                (CONTENT_TYPE, HeaderValue::from_static(keys::OHTTP_KEYS)),
                (CACHE_CONTROL, cache),
            ];
            (headers, mirrored.configs).into_response()
        }
        None => bad_gateway().into_response(),
    }
}

/// The one answer to everything that goes wrong behind the relay.
fn bad_gateway() -> Problem {
    Problem::plain(StatusCode::BAD_GATEWAY)
}
