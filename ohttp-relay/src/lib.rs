//! The RFC 9458 relay.
//!
//! It knows the client's address and nothing else: what it forwards is ciphertext, what it sends
//! to a gateway is that ciphertext and a fixed set of headers, the same for everybody. It holds no
//! key of requests and links no code that could decrypt them.
//!
//! * `POST /`, `POST /NAME`: forwards a `message/ohttp-req` or `message/ohttp-chunked-req` to the
//!   gateway of that path.
//! * `GET /ohttp-keys`, `GET /NAME/ohttp-keys`: mirrors the gateway's key configurations, so that
//!   the gateway sees no client.
//! * `GET /service-directory`, `GET /NAME/service-directory`: mirrors the directory of the service
//!   behind the gateway.
//! * `GET /feed/latest`, `GET /feed/SECONDS/NUMBER`, also below `/NAME`: mirrors the activity feed
//!   of that service, unless it is off.
//!
//! A request is collected before it goes on; answers pass through in pieces.

mod answer;
mod config;
mod padding;
mod request;
mod slots;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use metrics::{Counter, Histogram};
use service::addresses::{AddressLimits, AddressPlace};
use service::feed::{Asked, FeedMirror};
use service::http::Server;
use service::mirror::{DIRECTORY, KEYS, Keeping, Mirror};
use service::start::Process;
use service::tls::{Peers, Reload, ServerTls, TlsError};
use service::{SharedClock, Shutdown};

use answer::{ANSWERED, Answer};
pub use config::{Config, GatewaySettings};
pub use padding::Padding;
use request::Upload;
use upstream::Upstream;

const OHTTP_REQ: &str = "message/ohttp-req";
const OHTTP_CHUNKED_REQ: &str = "message/ohttp-chunked-req";

/// Of both documents: the gateway says how long they are good for, between a minute and a day. A
/// copy that has expired is not shown: what the gateway said once may not be what it opens now.
const KEEPING: Keeping = Keeping {
    shortest_ms: 60_000,
    longest_ms: 86_400_000,
    default_ms: 300_000,
    last_known_ms: 0,
};

/// Why a relay could not be made or ended.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("no gateway is configured")]
    NoGateway,
    #[error("`relay_secret_file` stands without `gateway`: entries of `gateways` have their own")]
    SecretOfNoGateway,
    #[error("each gateway needs a `path` of its own, `/` or `/NAME` with letters, digits, - and _")]
    Paths,
    #[error(
        "a gateway is asked in the clear over a network (`allow_cleartext` if something else protects the way), \
         or has a table `tls` and an http URL"
    )]
    Cleartext,
    #[error("`require_padding` allows every length, or none")]
    Padding,
    #[error("a URL of a gateway is not http or https, or has a user or a query")]
    GatewayUrl,
    #[error("the relay's secret cannot be used")]
    Secret(#[from] service::secret_file::SecretFileError),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Bind(#[from] service::http::BindError),
}

/// How a request is encapsulated, and so its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Whole,
    Chunked,
}

impl Form {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let media_type = headers.get(CONTENT_TYPE)?.as_bytes();
        let is = |expected: &str| media_type.eq_ignore_ascii_case(expected.as_bytes());
        if is(OHTTP_REQ) {
            Some(Self::Whole)
        } else {
            is(OHTTP_CHUNKED_REQ).then_some(Self::Chunked)
        }
    }
}

/// A gateway and what clients get from it.
struct Route {
    upstream: Upstream,
    /// The same bytes for every client, fetched once for all of them: the gateway cannot hand
    /// different keys to different clients by who asks.
    keys: Mirror,
    directory: Mirror,
    feed: FeedMirror,
    padding: Option<Padding>,
    shutdown: Shutdown,
    grace: Duration,
    meters: Meters,
}

/// What nearly every request counts, looked up once.
struct Meters {
    answered: Counter,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

impl Meters {
    fn new() -> Self {
        Self {
            answered: metrics::counter!("ohttp_relay_requests_total", "outcome" => ANSWERED),
            request_bytes: metrics::histogram!("ohttp_relay_request_bytes"),
            response_bytes: metrics::histogram!("ohttp_relay_response_bytes"),
        }
    }
}

/// A relay, ready to be served.
pub struct Relay {
    router: Router,
    tls: Vec<Arc<dyn Reload>>,
}

impl Relay {
    /// Makes the secret files that are missing.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn new(
        config: &Config,
        clock: &SharedClock,
        shutdown: &Shutdown,
    ) -> Result<Self, RelayError> {
        let mut relay = Self {
            router: service::http::router(),
            tls: Vec::new(),
        };
        if config
            .require_padding
            .as_ref()
            .is_some_and(|padding| !padding.is_a_rule())
        {
            return Err(RelayError::Padding);
        }
        for settings in config.gateways()? {
            let upstream = Upstream::new(&settings, config, shutdown.clone())?;
            relay.tls.push(upstream.tls());
            let route = Arc::new(Route {
                upstream,
                keys: Mirror::new(&KEYS, Arc::clone(clock), KEEPING),
                directory: Mirror::new(&DIRECTORY, Arc::clone(clock), KEEPING),
                feed: FeedMirror::new(Arc::clone(clock)),
                padding: config.require_padding.clone(),
                shutdown: shutdown.clone(),
                grace: config.grace(),
                meters: Meters::new(),
            });
            let base = settings.path.trim_end_matches('/');
            let mut routes = Router::new()
                .route(&format!("{base}/"), post(forward))
                .route(&format!("{base}/ohttp-keys"), get(ohttp_keys))
                .route(&format!("{base}/service-directory"), get(directory));
            if settings.feed {
                routes = routes
                    .route(&format!("{base}/feed/latest"), get(latest_ticks))
                    .route(&format!("{base}/feed/{{seconds}}/{{number}}"), get(tick));
            }
            if !base.is_empty() {
                routes = routes.route(base, post(forward));
            }
            relay.router = relay.router.merge(routes.with_state(route));
        }
        relay.router = service::cors::allow(relay.router, &config.allowed_origins);
        Ok(relay)
    }
}

/// The relay's routes, for any server.
///
/// # Errors
/// The configuration cannot be used.
pub fn router(
    config: &Config,
    clock: SharedClock,
    shutdown: Shutdown,
) -> Result<Router, RelayError> {
    Relay::new(config, &clock, &shutdown).map(|relay| relay.router)
}

/// Runs the relay until the process is told to end.
///
/// # Errors
/// The configuration is wrong or the address cannot be bound.
pub async fn run(config: Config, process: Process) -> Result<(), RelayError> {
    let mut relay = Relay::new(&config, &process.clock, &process.shutdown)?;
    let tls = config
        .tls
        .as_ref()
        .map(|settings| ServerTls::load(settings, Peers::Certified))
        .transpose()?;
    relay
        .tls
        .extend(tls.clone().map(|tls| tls as Arc<dyn Reload>));
    service::tls::keep_current(relay.tls, &process.commands, &process.shutdown);
    let listener = service::http::bind(config.listen).await?;
    process.readiness.ready();
    Server::new(listener, config.limits)
        .with_tls(tls)
        .with_address_limits(AddressLimits::new(config.address_limits, process.clock))
        .behind_proxies(config.proxies)
        .serve(relay.router, process.shutdown)
        .await;
    Ok(())
}

async fn forward(State(route): State<Arc<Route>>, request: Request) -> Response {
    let answer = tokio::select! {
        answer = route.forward(request) => answer,
        () = route.shutdown.requested_before(route.grace) => Answer::Failed("ending"),
    };
    if let Answer::KeyProblem = answer {
        route.keys.doubt();
    }
    match answer.outcome() {
        ANSWERED => route.meters.answered.increment(1),
        outcome => {
            metrics::counter!("ohttp_relay_requests_total", "outcome" => outcome).increment(1)
        }
    }
    if let Answer::Whole(body, _) = &answer {
        route.meters.response_bytes.record(body.len() as f64);
    }
    answer.into_response()
}

impl Route {
    async fn forward(&self, request: Request) -> Answer {
        let of_address = request.extensions().get::<AddressPlace>().cloned();
        let (upload, form) = match Upload::collect(request, self.padding.as_ref()).await {
            Ok(collected) => collected,
            Err(fault) => return Answer::Refused(fault),
        };
        self.meters.request_bytes.record(upload.len() as f64);
        self.upstream.forward(upload, form, of_address).await
    }
}

impl Route {
    async fn show_feed(&self, asked: Option<Asked>) -> Response {
        let fetch = |asked| self.upstream.feed(asked);
        self.feed.show(asked, &self.shutdown, fetch).await
    }
}

async fn ohttp_keys(State(route): State<Arc<Route>>) -> Response {
    let fetch = route.upstream.key_configs();
    route.keys.show(&route.shutdown, fetch).await
}

async fn directory(State(route): State<Arc<Route>>) -> Response {
    let fetch = route.upstream.directory();
    route.directory.show(&route.shutdown, fetch).await
}

async fn latest_ticks(State(route): State<Arc<Route>>) -> Response {
    route.show_feed(Some(Asked::Latest)).await
}

async fn tick(
    State(route): State<Arc<Route>>,
    Path((seconds, number)): Path<(String, String)>,
) -> Response {
    route.show_feed(Asked::of(&seconds, &number)).await
}
