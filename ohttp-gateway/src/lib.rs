//! The RFC 9458 gateway in front of the delivery service.
//!
//! It opens requests and learns what is asked, but from the relay only: it never sees a client's
//! address. It holds no key of a group.
//!
//! | route | does |
//! |---|---|
//! | `POST /` | opens a `message/ohttp-req`, asks the delivery service, seals the answer |
//! | `POST /` | the same for `message/ohttp-chunked-req`, answering as the delivery service does |
//! | `POST /.well-known/ohttp-gateway` | the same: where RFC 9540 has a gateway by default |
//! | `GET` of either of them and of `/ohttp-keys` | the key configurations |
//! | `GET /service-directory` | the directory of the delivery service: public, for mirrors |
//! | `GET /feed/latest`, `GET /feed/SECONDS/NUMBER` | its activity feed: public, for mirrors |
//!
//! | command | does |
//! |---|---|
//! | `keys` | lists the keys with what becomes of them, and when |
//! | `rotate` | makes the next generation of keys |
//! | `rotate` with `now` | replaces all keys at once, after one became known |
//!
//! Inside an encapsulated request, `GET /.well-known/ohttp-gateway` at any listed target gives the
//! key configurations too.
//!
//! The order of checks is: media type and size, decapsulation, replay, form of the binary HTTP
//! request, `Date`, `Expect`, allow-list. What fails up to the replay check is answered in the
//! clear, what fails later under the encapsulation ([`problems`]).

mod binary_http;
mod chunked;
mod config;
mod keys;
pub mod problems;
mod relays;
mod replay;
mod targets;
mod upstream;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequest as _, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, DATE, EXPECT};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use service::addresses::AddressLimits;
use service::feed::{Asked, FeedMirror};
use service::gateway_auth::GatewaySecret;
use service::http::{RequestBody, Server};
use service::mirror::{DIRECTORY, Keeping, Mirror};
use service::outgoing::beside;
use service::secret_file::SecretFileError;
use service::start::Process;
use service::tls::{IsCertified, Peers, Reload, ServerTls, TlsError};
use service::{Problem, SharedClock, Shutdown, http_date};

use binary_http::{InnerRequest, InnerResponse};
pub use config::{
    Config, KeySettings, RelayLimit, RelaySettings, ReplaySettings, StreamSettings, TargetSettings,
};
use keys::KeyRing;
pub use keys::RotationError;
use oblivious::{chunked as in_chunks, configs, whole};
use problems::{Failure, Refusal};
use relays::Relays;
use targets::Targets;
use upstream::Upstream;

/// The name of the binary.
pub const PROGRAM: &str = "ohttp-gateway";

/// Why a gateway could not be made or ended.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("no key is configured")]
    NoKey,
    #[error("there are more generations of keys than ids allow")]
    TooManyKeys,
    #[error("a key configuration cannot be derived from its seed")]
    Key,
    #[error("`kems` names none, or one twice")]
    Kems,
    #[error(
        "`rotation_seconds` must be at least `overlap_seconds` and twice `max_age_seconds`, and not so short that too many keys are accepted at once"
    )]
    Rotation,
    #[error("the key file {} is no generation of keys", .0.display())]
    KeyFile(PathBuf),
    #[error(transparent)]
    Refused(#[from] service::founding::Refusal),
    #[error("the key directory or file {} cannot be read or written", path.display())]
    KeyDirectory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Directory(#[from] service::directory::DirectoryError),
    #[error("the authorities for the certificates of `targets` cannot be used")]
    Authorities(#[source] TlsError),
    #[error(
        "`targets` names none, or a target lacks one of the methods of HTTP, a `path_prefix` that begins with a slash, and an http or \
         https `forward_to` without a path"
    )]
    Target,
    #[error("`window_seconds` must be at least twice `date_seconds`, or replays would get through")]
    ReplayWindow,
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Bind(#[from] service::http::BindError),
}

/// A gateway that is set up.
#[derive(Clone)]
pub struct Gateway(Arc<Parts>);

struct Parts {
    keys: KeyRing,
    targets: Targets,
    upstream: Upstream,
    relays: Relays,
    /// What the delivery service announces, fetched once for everybody, and where it is.
    directory: Mirror,
    directory_url: Option<Uri>,
    feed: FeedMirror,
    /// That of the pointer.
    feed_url: Option<Uri>,
    /// Of who sends requests; keys are for everybody.
    certificate_required: bool,
    replay: ReplaySettings,
    stream: StreamSettings,
    clock: SharedClock,
    shutdown: Shutdown,
    grace: Duration,
}

/// The gateway's routes, for any server. Makes the key and secret files that are missing.
///
/// # Errors
/// The configuration cannot be used.
pub fn router(
    config: &Config,
    clock: SharedClock,
    shutdown: Shutdown,
) -> Result<Router, GatewayError> {
    Gateway::new(config, clock, shutdown).map(|gateway| gateway.router())
}

impl Gateway {
    /// Makes the key and secret files that are missing.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn new(
        config: &Config,
        clock: SharedClock,
        shutdown: Shutdown,
    ) -> Result<Self, GatewayError> {
        // A request is acceptable from `date_seconds` before its date until `date_seconds` after.
        if config.replay.require_date
            && config.replay.window_seconds < config.replay.date_seconds.saturating_mul(2)
        {
            return Err(GatewayError::ReplayWindow);
        }
        if !config.replay.require_date {
            tracing::warn!(
                "requests need no date: who captured one can have it carried out again after a restart"
            );
        }
        let secret = GatewaySecret::load_or_create(&config.gateway_secret_file)?;
        let targets = Targets::new(&config.targets)?;
        Ok(Self(Arc::new(Parts {
            keys: KeyRing::load(&config.keys, &config.replay, clock.now_unix_ms())?,
            directory: Mirror::new(&DIRECTORY, Arc::clone(&clock), Keeping::BRIEFLY),
            directory_url: targets.public(&config.directory_path),
            feed: FeedMirror::new(Arc::clone(&clock)),
            feed_url: targets.public(&format!("{}/latest", config.feed_path)),
            upstream: Upstream::new(config, targets.bases(), secret.header_value())?,
            targets,
            relays: Relays::load(&config.relays, config.relay_limit)?,
            certificate_required: config
                .tls
                .as_ref()
                .is_some_and(|tls| tls.client_ca_file.is_some()),
            replay: config.replay.clone(),
            stream: config.stream.clone(),
            clock,
            shutdown,
            grace: config.grace(),
        })))
    }

    pub fn router(&self) -> Router {
        let gateway = || post(encapsulated_request).get(key_configs);
        service::http::router()
            .route("/", gateway())
            .route(configs::PATH, gateway())
            .route("/ohttp-keys", get(key_configs))
            .route("/service-directory", get(directory))
            .route("/feed/latest", get(latest_ticks))
            .route("/feed/{seconds}/{number}", get(tick))
            .with_state(Arc::clone(&self.0))
    }

    /// Makes, shows and deletes the keys that are due: see [`Config`]'s `keys`. Blocks for a file
    /// write or two.
    ///
    /// # Errors
    /// The key files cannot be read or written; the keys are as before.
    pub fn advance_keys(&self) -> Result<(), GatewayError> {
        self.0.keys.advance(self.0.clock.now_unix_ms())
    }

    /// Makes the next generation of keys, and says what becomes of each key. `at_once`: without the
    /// overlap, after a key became known. Blocks for a file write or two.
    ///
    /// # Errors
    /// [`RotationError`].
    pub fn rotate(&self, at_once: bool) -> Result<String, RotationError> {
        let now_unix_ms = self.0.clock.now_unix_ms();
        if at_once {
            self.0.keys.replace(now_unix_ms)
        } else {
            self.0.keys.rotate(now_unix_ms)
        }
    }

    fn offer(&self, commands: &service::start::Commands) {
        let parts = Arc::clone(&self.0);
        commands.offer_report("keys", move |_| {
            let description = parts.keys.describe(parts.clock.now_unix_ms());
            async move { Ok(description) }
        });
        let gateway = self.clone();
        commands.offer_report("rotate", move |argument| {
            let gateway = gateway.clone();
            async move {
                let at_once = match argument.trim() {
                    "" => false,
                    "now" => true,
                    _ => return Err("the argument is `now` or nothing"),
                };
                tokio::task::spawn_blocking(move || gateway.rotate(at_once))
                    .await
                    .map_err(|_| "the rotation broke off: see the log")?
                    .map_err(RotationError::into_text)
            }
        });
    }

    /// Until the process is told to end.
    async fn keep_keys(self, shutdown: Shutdown) {
        let mut interval = tokio::time::interval(self.0.keys.interval());
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = shutdown.requested() => return,
            }
            let gateway = self.clone();
            let advanced = tokio::task::spawn_blocking(move || gateway.advance_keys()).await;
            if !matches!(advanced, Ok(Ok(()))) {
                tracing::error!(
                    "the key files cannot be read or written, the keys stay as they are"
                );
                metrics::counter!("ohttp_gateway_key_failures_total").increment(1);
            }
        }
    }
}

/// Makes the key directory with the first keys. Makes the secret that gateway and delivery service
/// share too, unless the delivery service made it before. Returns a text that says what was made.
///
/// # Errors
/// The directory is not empty: nothing was changed.
pub async fn init(config: Config) -> Result<String, GatewayError> {
    let now_unix_ms = service::clock::SystemClock::shared().now_unix_ms();
    let (id, unfinished) = keys::found(&config.keys, &config.replay, now_unix_ms)?;
    GatewaySecret::load_or_create(&config.gateway_secret_file)?;
    unfinished.end()?;
    Ok(format!(
        "made the key directory {} ({id}) with the first keys",
        config.keys.directory.display()
    ))
}

/// Runs the gateway until the process is told to end.
///
/// # Errors
/// The configuration is wrong or the address cannot be bound.
pub async fn run(config: Config, process: Process) -> Result<(), GatewayError> {
    let tls = config
        .tls
        .as_ref()
        .map(|settings| ServerTls::load(settings, Peers::Anybody))
        .transpose()?;
    let addresses = AddressLimits::new(config.address_limits(), Arc::clone(&process.clock));
    keys::recognise(&config.keys)?;
    GatewaySecret::load(&config.gateway_secret_file)?;
    let gateway = Gateway::new(&config, process.clock, process.shutdown.clone())?;
    let mut current: Vec<Arc<dyn Reload>> = vec![gateway.0.upstream.tls()];
    current.extend(tls.clone().map(|tls| tls as Arc<dyn Reload>));
    service::tls::keep_current(current, &process.commands, &process.shutdown);
    gateway.offer(&process.commands);
    let router = gateway.router();
    tokio::spawn(gateway.keep_keys(process.shutdown.clone()));
    let listener = service::http::bind(config.listen).await?;
    process.readiness.ready();
    Server::new(listener, config.limits)
        .with_tls(tls)
        .with_address_limits(addresses)
        .serve(router, process.shutdown)
        .await;
    Ok(())
}

/// The same bytes and fields for everybody who asks in the same second; no ETag, nothing that
/// varies.
async fn key_configs(State(gateway): State<Arc<Parts>>) -> Response {
    let published = gateway.keys.published(gateway.clock.now_unix_ms());
    let cache_control = format!("public, max-age={}", published.max_age_seconds);
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(configs::MEDIA_TYPE)),
        (
            CACHE_CONTROL,
            HeaderValue::from_str(&cache_control)
                .unwrap_or_else(|_| HeaderValue::from_static("no-store")),
        ),
    ];
    (headers, published.configs).into_response()
}

/// What the delivery service announces, for mirrors and whoever wants to compare. To clients it is
/// shown inside the encapsulation too: one that is shown something else there notices.
async fn directory(State(gateway): State<Arc<Parts>>) -> Response {
    let Some(url) = gateway.directory_url.clone() else {
        return Problem::plain(StatusCode::NOT_FOUND).into_response();
    };
    let fetch = gateway.upstream.document(url, &DIRECTORY);
    gateway.directory.show(&gateway.shutdown, fetch).await
}

async fn latest_ticks(State(gateway): State<Arc<Parts>>) -> Response {
    gateway.show_feed(Some(Asked::Latest)).await
}

async fn tick(
    State(gateway): State<Arc<Parts>>,
    Path((seconds, number)): Path<(String, String)>,
) -> Response {
    gateway.show_feed(Asked::of(&seconds, &number)).await
}

async fn encapsulated_request(State(gateway): State<Arc<Parts>>, request: Request) -> Response {
    // By its head alone: of a stranger's request nothing is collected.
    let is_chunked = match gateway.admit(&request) {
        Ok(is_chunked) => is_chunked,
        Err(refusal) => return refuse(refusal),
    };
    let body = RequestBody::from_request(request, &()).await;
    if is_chunked {
        return chunked::answer(&gateway, body).await;
    }
    let request = match body {
        Ok(RequestBody(request)) => request,
        Err(problem) => return problem.into_response(),
    };
    metrics::histogram!("ohttp_gateway_request_bytes").record(request.len() as f64);
    let now_ms = gateway.clock.monotonic_ms();
    let (opened, sealer) = match gateway.keys.decapsulate(&request, now_ms) {
        Ok(opened) => opened,
        Err(refusal) => return refuse(refusal),
    };
    drop(request);
    let answered = tokio::select! {
        answered = gateway.answer(&opened) => answered,
        () = gateway.shutdown.requested_before(gateway.grace) => Err(Failure::Ending),
    };
    let (outcome, response) = match answered {
        Ok(response) => ("answered", response),
        Err(failure) => (failure.outcome(), failure.problem().into()),
    };
    count(outcome);
    match sealer.seal(&response.encode(opened.len())) {
        Ok(encapsulated) => {
            metrics::histogram!("ohttp_gateway_response_bytes").record(encapsulated.len() as f64);
            let headers = [
                (CONTENT_TYPE, HeaderValue::from_static(whole::RESPONSE)),
                (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ];
            (headers, encapsulated).into_response()
        }
        Err(_) => {
            tracing::error!("a response could not be encapsulated");
            Problem::plain(StatusCode::INTERNAL_SERVER_ERROR).into_response()
        }
    }
}

/// What is to be done with an opened request that is allowed.
enum Route {
    /// It asks the gateway itself.
    Own(InnerResponse),
    Forward(InnerRequest, Uri),
}

impl Parts {
    async fn show_feed(&self, asked: Option<Asked>) -> Response {
        let fetch = |asked: Asked| async move {
            // Beside the pointer.
            let url = beside(self.feed_url.as_ref()?, &asked.path())?;
            self.upstream.document(url, asked.document()).await
        };
        self.feed.show(asked, &self.shutdown, fetch).await
    }

    /// Whether the request is chunked, if its sender may ask and it is one of ours.
    fn admit(&self, request: &Request) -> Result<bool, Refusal> {
        let is_certified = request.extensions().get() == Some(&IsCertified(true));
        if self.certificate_required && !is_certified {
            return Err(Refusal::Relay);
        }
        let headers = request.headers();
        let is_known = self.relays.admit(headers, self.clock.now_unix_ms())?;
        if is_known || self.certificate_required {
            service::http::vouch(request.extensions());
        }
        let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let is = |media_type: &str| {
            content_type.is_some_and(|value| value.eq_ignore_ascii_case(media_type.as_bytes()))
        };
        let is_chunked = is(in_chunks::REQUEST);
        if is_chunked || is(whole::REQUEST) {
            Ok(is_chunked)
        } else {
            Err(Refusal::MediaType)
        }
    }

    async fn answer(&self, opened: &[u8]) -> Result<InnerResponse, Failure> {
        match self.route(opened)? {
            Route::Own(response) => Ok(response),
            Route::Forward(request, url) => self.upstream.forward(request, url).await,
        }
    }

    fn route(&self, opened: &[u8]) -> Result<Route, Failure> {
        let request = InnerRequest::decode(opened).map_err(|_| Failure::Malformed)?;
        self.check_date(&request)?;
        if request.fields.contains_key(EXPECT) {
            return Err(Failure::Expectation);
        }
        if request.method == Method::GET
            && request.path == configs::PATH
            && self.targets.lists_origin_of(&request)
        {
            return Ok(Route::Own(self.own_key_configs()));
        }
        let url = self.targets.locate(&request)?;
        Ok(Route::Forward(request, url))
    }

    /// The same that everybody gets in the open. A client that was handed another key by its relay,
    /// and asks under it, sees the difference, unless the relay forges this answer too.
    fn own_key_configs(&self) -> InnerResponse {
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(configs::MEDIA_TYPE));
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        InnerResponse {
            status: StatusCode::OK,
            fields,
            content: self.keys.published(self.clock.now_unix_ms()).configs,
        }
    }

    fn check_date(&self, request: &InnerRequest) -> Result<(), Failure> {
        if !self.replay.require_date {
            return Ok(());
        }
        let now_unix_ms = self.clock.now_unix_ms();
        let tolerance_ms = self.replay.date_seconds.saturating_mul(1000);
        let date = request.fields.get(DATE);
        match date.and_then(|date| http_date::parse(date.to_str().ok()?)) {
            Some(date) if date.abs_diff(now_unix_ms) <= tolerance_ms => Ok(()),
            _ => Err(Failure::Date { now_unix_ms }),
        }
    }
}

fn refuse(refusal: Refusal) -> Response {
    count(refusal.outcome());
    refusal.problem().into_response()
}

fn count(outcome: &'static str) {
    metrics::counter!("ohttp_gateway_requests_total", "outcome" => outcome).increment(1);
}
