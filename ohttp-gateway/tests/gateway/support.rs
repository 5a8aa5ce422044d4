//! A delivery service that records what reaches it, and a client that encapsulates.

#[allow(unreachable_pub, reason = "of a library")]
#[path = "../../../xtask/src/ports.rs"]
mod ports;

use std::io::Cursor;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bhttp::{Message, Mode};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};
use service::http::Limits;
use service::{Shutdown, ShutdownTrigger};
use tokio::net::TcpListener;

/// The clock of gateway and relay.
pub(crate) const NOW: u64 = 1_700_000_000_000;
pub(crate) const OHTTP_KEY: &str = "https://iana.org/assignments/http-problem-types#ohttp-key";
pub(crate) const DATE: &str = "https://iana.org/assignments/http-problem-types#date";

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

/// A request as it reached the delivery service.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// Answers by path: `/v1/echo` the body, `/v1/status/N`, `/v1/size/N`, `/v1/redirect`, `/v1/slow`…
pub(crate) struct Target {
    pub(crate) served: Served,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
}

pub(crate) async fn target() -> Target {
    let seen = Arc::default();
    let router = Router::new().fallback(answer).with_state(Arc::clone(&seen));
    Target {
        served: serve(router).await,
        seen,
    }
}

async fn answer(State(seen): State<Arc<Mutex<Vec<Seen>>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX)
        .await
        .unwrap()
        .to_vec();
    let path = parts.uri.path().to_owned();
    seen.lock().unwrap().push(Seen {
        method: parts.method,
        path: parts.uri.to_string(),
        headers: parts.headers,
        body: body.clone(),
    });
    let number = path
        .rsplit('/')
        .next()
        .and_then(|n| n.parse::<usize>().ok())
        .unwrap_or(0);
    match path.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "/v1/echo" => ([(CONTENT_TYPE, "application/octet-stream")], body).into_response(),
        "/v1/size/" => vec![7; number].into_response(),
        "/v1/redirect" => {
            (StatusCode::TEMPORARY_REDIRECT, [("location", "/v1/echo")]).into_response()
        }
        "/v1/slow" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            "late".into_response()
        }
        "/v1/headers" => (
            StatusCode::UNAUTHORIZED,
            [
                ("content-type", "application/problem+json"),
                ("www-authenticate", "PrivateToken challenge=\"x\""),
                ("retry-after", "3"),
                ("cache-control", "no-store"),
                ("set-cookie", "a=b"),
                ("server", "target"),
                ("location", "/elsewhere"),
            ],
            "{}",
        )
            .into_response(),
        "/v1/not-the-gateway" => (
            StatusCode::UNAUTHORIZED,
            [("www-authenticate", "Gateway")],
            "{}",
        )
            .into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

pub(crate) fn http_client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

/// A configuration with `ds.example` as its one target; `settings` are top-level lines.
pub(crate) fn gateway_config(
    directory: &Path,
    listen: &str,
    admin: &str,
    target: &str,
    settings: &str,
) -> String {
    format!(
        "listen = '{listen}'\n\
         gateway_secret_file = '{directory}/gateway-secret'\n\
         {settings}\n\
         [keys]\ndirectory = '{directory}/keys'\n\
         [[targets]]\nscheme = 'https'\nauthority = 'ds.example'\nmethods = ['POST']\n\
         path_prefix = '/v1/'\nforward_to = '{target}'\n\
         [service]\nadmin_listen = '{admin}'\ndrain_seconds = 12\n",
        directory = directory.display(),
    )
}

pub(crate) use service::http_date::format as http_date;

/// A binary HTTP request to `ds.example`.
pub(crate) fn inner(path: &str, fields: &[(&str, &str)], content: &[u8]) -> Vec<u8> {
    inner_to("POST", "ds.example", path, fields, content)
}

pub(crate) fn inner_to(
    method: &str,
    authority: &str,
    path: &str,
    fields: &[(&str, &str)],
    content: &[u8],
) -> Vec<u8> {
    let mut message = Message::request(
        method.into(),
        b"https".to_vec(),
        authority.into(),
        path.into(),
    );
    for (name, value) in fields {
        message.put_header(*name, *value);
    }
    message.write_content(content);
    let mut encoded = Vec::new();
    message
        .write_bhttp(Mode::KnownLength, &mut encoded)
        .unwrap();
    encoded
}

/// An opened response.
pub(crate) struct Opened {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) content: Vec<u8>,
    /// Of the binary HTTP message with its padding.
    pub(crate) padded_len: usize,
}

impl Opened {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn problem_type(&self) -> String {
        let document: serde_json::Value = serde_json::from_slice(&self.content).unwrap();
        document["type"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn open(response: ohttp::ClientResponse, encapsulated: &[u8]) -> Opened {
    let bytes = response.decapsulate(encapsulated).unwrap();
    let message = Message::read_bhttp(&mut Cursor::new(&bytes)).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Opened {
        status: message.control().status().unwrap().code(),
        fields: message
            .header()
            .fields()
            .iter()
            .map(|field| (text(field.name()), text(field.value())))
            .collect(),
        content: message.content().to_vec(),
        padded_len: bytes.len(),
    }
}
