//! A gateway that answers as a test says and records what it got.

pub(crate) mod process;

#[allow(unreachable_pub, reason = "of a library")]
#[path = "../../../../xtask/src/ports.rs"]
mod ports;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Version};
use ohttp_relay::Config;
use service::http::Limits;
use service::{SharedClock, Shutdown, ShutdownTrigger};
use tokio::net::{TcpListener, TcpStream};

/// A relay before `gateway`, with `settings` on top of what it needs.
pub(crate) fn config(gateway: &str, settings: &str) -> Config {
    let text = format!(
        "listen = '127.0.0.1:0'\ngateway = '{gateway}'\n{settings}\n\
         [service]\nadmin_listen = '127.0.0.1:0'"
    );
    service::config::parse(&text).unwrap()
}

/// A relay that is served until this is dropped.
pub(crate) async fn serve_relay(config: &Config, clock: SharedClock) -> Served {
    let (trigger, shutdown) = Shutdown::channel();
    std::mem::forget(trigger);
    serve(ohttp_relay::router(config, clock, shutdown).unwrap()).await
}

/// What a client can see of an answer, but for the time.
pub(crate) async fn visible(response: reqwest::Response) -> (StatusCode, HeaderMap, Vec<u8>) {
    let status = response.status();
    let mut headers = response.headers().clone();
    headers.remove("date");
    (status, headers, response.bytes().await.unwrap().to_vec())
}

/// A gateway that does with each connection what a test says.
pub(crate) async fn raw_gateway<F, C>(connection: C) -> SocketAddr
where
    C: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream));
        }
    });
    address
}

/// A router on a port of its own, served until this is dropped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    _trigger: ShutdownTrigger,
}

impl Served {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

pub(crate) async fn serve(router: Router) -> Served {
    serve_within(Limits::default(), router).await
}

pub(crate) async fn serve_within(limits: Limits, router: Router) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, shutdown) = Shutdown::channel();
    tokio::spawn(service::http::serve(listener, router, limits, shutdown));
    Served {
        address,
        _trigger: trigger,
    }
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    ports::free().unwrap()
}

/// Headers and body of a request.
type Seen = (HeaderMap, Vec<u8>);
type Answer = dyn Fn() -> Response + Send + Sync;

#[derive(Clone)]
pub(crate) struct Recorder {
    answer: Arc<Answer>,
    delay: Duration,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    pub(crate) versions: Arc<Mutex<Vec<Version>>>,
}

pub(crate) struct StubGateway {
    pub(crate) served: Served,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    pub(crate) versions: Arc<Mutex<Vec<Version>>>,
}

impl StubGateway {
    /// Without a listener of its own.
    pub(crate) fn router(
        delay: Duration,
        answer: impl Fn() -> Response + Send + Sync + 'static,
    ) -> (Router, Recorder) {
        let recorder = Recorder {
            answer: Arc::new(answer),
            delay,
            seen: Arc::default(),
            versions: Arc::default(),
        };
        let router = Router::new().fallback(record).with_state(recorder.clone());
        (router, recorder)
    }
}

pub(crate) async fn stub_gateway(
    delay: Duration,
    answer: impl Fn() -> Response + Send + Sync + 'static,
) -> StubGateway {
    let (router, recorder) = StubGateway::router(delay, answer);
    StubGateway {
        served: serve(router).await,
        seen: recorder.seen,
        versions: recorder.versions,
    }
}

async fn record(State(recorder): State<Recorder>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // A request that breaks off is none.
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    recorder.versions.lock().unwrap().push(parts.version);
    recorder
        .seen
        .lock()
        .unwrap()
        .push((parts.headers, body.to_vec()));
    tokio::time::sleep(recorder.delay).await;
    (recorder.answer)()
}

pub(crate) fn encapsulated(body: impl Into<Vec<u8>>) -> Response {
    ([("content-type", "message/ohttp-res")], body.into()).into_response()
}
