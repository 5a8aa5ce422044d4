//! A gateway that answers as a test says and records what it got.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by test files that use different parts of it"
)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use service::http::Limits;
use service::{Shutdown, ShutdownTrigger};
use tokio::net::TcpListener;

/// A router on a port of its own, served until this is dropped.
pub struct Served {
    pub address: SocketAddr,
    _trigger: ShutdownTrigger,
}

impl Served {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

pub async fn serve(router: Router) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, shutdown) = Shutdown::channel();
    tokio::spawn(service::http::serve(
        listener,
        router,
        Limits::default(),
        shutdown,
    ));
    Served {
        address,
        _trigger: trigger,
    }
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Headers and body of a request.
type Seen = (HeaderMap, Vec<u8>);
type Answer = dyn Fn() -> Response + Send + Sync;

#[derive(Clone)]
struct Recorder {
    answer: Arc<Answer>,
    delay: Duration,
    seen: Arc<Mutex<Vec<Seen>>>,
}

pub struct StubGateway {
    pub served: Served,
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

pub async fn stub_gateway(
    delay: Duration,
    answer: impl Fn() -> Response + Send + Sync + 'static,
) -> StubGateway {
    let seen = Arc::default();
    let recorder = Recorder {
        answer: Arc::new(answer),
        delay,
        seen: Arc::clone(&seen),
    };
    let router = Router::new().fallback(record).with_state(recorder);
    StubGateway {
        served: serve(router).await,
        seen,
    }
}

async fn record(State(recorder): State<Recorder>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    recorder
        .seen
        .lock()
        .unwrap()
        .push((parts.headers, body.to_vec()));
    tokio::time::sleep(recorder.delay).await;
    (recorder.answer)()
}

pub fn encapsulated(body: impl Into<Vec<u8>>) -> Response {
    ([("content-type", "message/ohttp-res")], body.into()).into_response()
}
