//! A delivery service that tells each who asks something else: it stands between the gateway and the honest one, and
//! changes any answer with its head, the directory's too.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use tokio::net::TcpListener;

/// What passes of an answer's head.
const FIELDS: [HeaderName; 4] = [
    http::header::CONTENT_TYPE,
    http::header::WWW_AUTHENTICATE,
    http::header::RETRY_AFTER,
    http::header::CACHE_CONTROL,
];

/// An answer, to be changed.
#[derive(Debug, Clone)]
pub struct Told {
    /// Of HTTP.
    pub status: StatusCode,
    /// Some of them.
    pub headers: HeaderMap,
    /// All of it.
    pub body: Vec<u8>,
}

/// A request as the service sees it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Which operation, or the directory.
    pub path: String,
    /// The tokens that it is paid with.
    pub tokens: Vec<Vec<u8>>,
    /// The signed request.
    pub body: Vec<u8>,
}

type Lie = Box<dyn FnMut(&Asked, &mut Told) + Send>;

/// Where the gateway is sent to.
#[derive(Clone)]
pub struct TwoFaced {
    address: SocketAddr,
    parts: Arc<Parts>,
}

struct Parts {
    http: reqwest::Client,
    target: Mutex<Option<SocketAddr>>,
    lie: Mutex<Option<Lie>>,
    heard: Mutex<Vec<Asked>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TwoFaced {
    /// One that tells the truth so far.
    pub(crate) async fn listen() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("an address");
        let parts = Arc::new(Parts {
            http: reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .expect("a client"),
            target: Mutex::default(),
            lie: Mutex::default(),
            heard: Mutex::default(),
        });
        let router = Router::new()
            .fallback(pass_on)
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(Arc::clone(&parts));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, parts }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *locked(&self.parts.target) = Some(target);
    }

    /// From now on answers are what this makes of them.
    pub fn lies(&self, lie: impl FnMut(&Asked, &mut Told) + Send + 'static) {
        *locked(&self.parts.lie) = Some(Box::new(lie));
    }

    /// Requests since the last call.
    pub fn heard(&self) -> Vec<Asked> {
        std::mem::take(&mut *locked(&self.parts.heard))
    }
}

fn tokens(headers: &HeaderMap) -> Vec<Vec<u8>> {
    headers
        .get_all(http::header::AUTHORIZATION)
        .iter()
        .filter_map(|value| value.to_str().ok()?.split('"').nth(1))
        .map(|token| URL_SAFE.decode(token).expect("a token"))
        .collect()
}

async fn pass_on(
    State(parts): State<Arc<Parts>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let heard = Asked {
        path: uri.path().to_owned(),
        tokens: tokens(&headers),
        body: body.to_vec(),
    };
    locked(&parts.heard).push(heard.clone());
    let target = locked(&parts.target).expect("the stack is starting");
    let mut passed = headers;
    for name in [http::header::HOST, http::header::CONTENT_LENGTH] {
        passed.remove(name);
    }
    let sent = parts
        .http
        .request(method, format!("http://{target}{uri}"))
        .headers(passed)
        .body(body)
        .send()
        .await;
    let Ok(answer) = sent else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let mut told = Told {
        status: answer.status(),
        headers: HeaderMap::new(),
        body: Vec::new(),
    };
    for name in FIELDS {
        for value in answer.headers().get_all(&name) {
            told.headers.append(name.clone(), value.clone());
        }
    }
    let Ok(content) = answer.bytes().await else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    told.body = content.to_vec();
    if let Some(lie) = locked(&parts.lie).as_mut() {
        lie(&heard, &mut told);
    }
    (told.status, told.headers, told.body).into_response()
}
