//! The HTTP server of every binary, with its limits.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use crate::addresses::AddressLimits;
use crate::connection::{self, Common};
use crate::floods::Budget;
pub use crate::limits::Limits;
use crate::limits::{Accepting, busy};
use crate::observe::Observe;
use crate::problem::{self, Problem};
use crate::room::{Activity, Room};
use crate::shutdown::Shutdown;
use crate::sparse::Sparse;
use crate::tls::ServerTls;
use crate::uploads::{NoRoom, Upload, Uploads};

/// A body may come as slowly as it likes for so long: a network may be gone for a moment.
const RATE_GRACE: Duration = Duration::from_secs(5);

/// Binds `listen`. Here so that every binary reports the failure in the same words.
///
/// # Errors
/// The address is in use or not ours.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener, BindError> {
    let listener = open(listen).await?;
    // The configured address may leave the port to the operating system.
    let address = listener.local_addr().unwrap_or(listen);
    tracing::info!(%address, "listening");
    Ok(listener)
}

pub(crate) async fn open(listen: SocketAddr) -> Result<TcpListener, BindError> {
    let opened = TcpListener::bind(listen).await;
    opened.map_err(|source| BindError { listen, source })
}

/// A listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen}")]
pub struct BindError {
    listen: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// Serves `router` on `listener`, in the clear, to every peer: see [`Server`].
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: Shutdown) {
    Server::new(listener, limits).serve(router, shutdown).await;
}

/// A listener and its demands on its peers.
pub struct Server {
    listener: TcpListener,
    limits: Limits,
    tls: Option<Arc<ServerTls>>,
    addresses: Option<Arc<AddressLimits>>,
    proxies: Vec<IpAddr>,
}

impl Server {
    #[must_use]
    pub fn new(listener: TcpListener, limits: Limits) -> Self {
        Self {
            listener,
            limits,
            tls: None,
            addresses: None,
            proxies: Vec::new(),
        }
    }

    /// Speaks TLS and nothing else; `None`: in the clear.
    #[must_use]
    pub fn with_tls(mut self, tls: Option<Arc<ServerTls>>) -> Self {
        self.tls = tls;
        self
    }

    #[must_use]
    pub fn with_address_limits(mut self, limits: Option<Arc<AddressLimits>>) -> Self {
        self.addresses = limits;
        self
    }

    /// Every connection comes by one of these proxies, and begins with the header of the PROXY
    /// protocol that says whose it is. Others are closed. None: clients connect themselves.
    #[must_use]
    pub fn behind_proxies(mut self, proxies: Vec<IpAddr>) -> Self {
        self.proxies = proxies;
        self
    }

    /// Serves `router` by HTTP/1.1 and HTTP/2 until the shutdown is requested, then ends idle
    /// connections, lets running requests finish, and returns. Drop the future to cut what still
    /// runs.
    ///
    /// Unmatched paths and methods are answered with problem documents unless `router` has a
    /// fallback of its own for paths. No handler learns the peer's address.
    pub async fn serve(self, router: Router, shutdown: Shutdown) {
        let common = Arc::new(Common {
            router: router
                .method_not_allowed_fallback(problem::method_not_allowed)
                .layer(Observe),
            accepting: Arc::new(Accepting {
                limits: self.limits,
                uploads: Uploads::new(self.limits.max_uploads, self.limits.max_collected_bytes),
            }),
            room: Room::new(self.limits.max_connections),
            addresses: self.addresses,
            proxies: self.proxies,
            strangers: Sparse::new(),
            tls: self.tls,
            shutdown: shutdown.clone(),
        });
        let mut connections = JoinSet::new();
        let mut accepting = Acceptor::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.requested() => break,
                accepted = accepting.accept(&self.listener) => accepted,
                Some(_) = connections.join_next() => continue,
            };
            // Also when connections arrive faster than this loop comes to wait.
            while connections.try_join_next().is_some() {}
            if let Some((stream, peer)) = accepted {
                connections.spawn(connection::serve(stream, peer, Arc::clone(&common)));
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }
}

/// Takes connections, also when the process has no file descriptors left.
struct Acceptor {
    /// One descriptor in reserve: with it a connection that cannot be served is taken and closed,
    /// where it would wait for ever.
    reserve: Option<File>,
    exhausted: Sparse,
}

impl Acceptor {
    fn new() -> Self {
        Self {
            reserve: File::open("/dev/null").ok(),
            exhausted: Sparse::new(),
        }
    }

    async fn accept(&mut self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
        match listener.accept().await {
            Ok(accepted) => return Some(accepted),
            Err(error) => {
                metrics::counter!("http_connections_refused_total", "outcome" => "failed")
                    .increment(1);
                if let Some(times) = self.exhausted.due() {
                    tracing::warn!(kind = ?error.kind(), times, "connections could not be accepted");
                }
            }
        }
        // Out of descriptors, most likely.
        if self.reserve.take().is_some() {
            let waiting = listener.accept();
            drop(tokio::time::timeout(Duration::from_millis(10), waiting).await);
        }
        self.reserve = File::open("/dev/null").ok();
        if self.reserve.is_none() {
            // Waiting lets some be freed.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        None
    }
}

/// A router in which every unknown path and method is answered with a problem document.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().fallback(problem::not_found)
}

/// A request body, whole, read within the limits of the listener. Rejections are problem documents:
/// 413, 408, 503 if too much is being read already, or 400 if the body breaks off.
#[derive(Debug)]
pub struct RequestBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for RequestBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let collected = Collected::read(request).await;
        collected
            .map(|collected| Self(collected.body))
            .map_err(CollectError::problem)
    }
}

/// A request body that counts among those that are being collected until this is dropped.
#[derive(Debug)]
pub struct Collected {
    pub body: Bytes,
    _places: Option<OwnedSemaphorePermit>,
}

/// Why there is no whole request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectError {
    TooLarge,
    TooSlow,
    Broken,
    /// Too much is being collected, or this one took longest when another one came.
    NoRoom,
}

impl CollectError {
    /// As it is told.
    #[must_use]
    pub fn problem(self) -> Problem {
        match self {
            Self::TooLarge => Problem::plain(StatusCode::PAYLOAD_TOO_LARGE),
            Self::TooSlow => Problem::plain(StatusCode::REQUEST_TIMEOUT),
            Self::Broken => Problem::plain(StatusCode::BAD_REQUEST),
            Self::NoRoom => busy(),
        }
    }
}

impl Collected {
    /// Reads the body of `request` within the limits of its listener.
    ///
    /// # Errors
    /// [`CollectError`].
    pub async fn read(request: Request) -> Result<Self, CollectError> {
        let limits = Limits::of(&request);
        let accepting = request.extensions().get::<Arc<Accepting>>().cloned();
        let activity = request.extensions().get::<Arc<Activity>>();
        let _waits = activity.map(Activity::waits);
        let mut body = request.into_body();
        if body.size_hint().lower() > limits.max_body_bytes as u64 {
            return Err(CollectError::TooLarge);
        }
        let mut upload = accepting
            .map(|accepting| accepting.uploads.begin())
            .transpose()
            .map_err(|NoRoom| CollectError::NoRoom)?;
        let give_way = upload.as_ref().map(Upload::gives_way);
        let come = AtomicUsize::new(0);
        let read = async {
            let mut whole = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| {
                    if is_length_limit(&error) {
                        CollectError::TooLarge
                    } else {
                        CollectError::Broken
                    }
                })?;
                let Some(data) = frame.data_ref() else {
                    continue;
                };
                let len = whole.len() + data.len();
                if len > limits.max_body_bytes {
                    return Err(CollectError::TooLarge);
                }
                if let Some(upload) = &mut upload {
                    let grown = upload.grow(len).await;
                    grown.map_err(|NoRoom| CollectError::NoRoom)?;
                }
                whole.extend_from_slice(data);
                come.store(len, Ordering::Relaxed);
            }
            Ok(whole.freeze())
        };
        let body = tokio::select! {
            // Most bodies are there: no timer for them.
            biased;
            read = read => read?,
            () = given_way(give_way) => return Err(CollectError::NoRoom),
            () = tokio::time::sleep(Duration::from_secs(limits.body_read_seconds)) => {
                return Err(CollectError::TooSlow);
            }
            () = falls_behind(&come, limits.least_body_bytes_per_second) => {
                return Err(CollectError::TooSlow);
            }
        };
        Ok(Self {
            body,
            _places: upload.and_then(Upload::finish),
        })
    }
}

/// The sender of the request with these extensions has proved who it is. It may give up as many
/// requests as it likes: they are those of its clients.
pub fn vouch(extensions: &http::Extensions) {
    if let Some(budget) = extensions.get::<Arc<Budget>>() {
        budget.earn();
    }
}

/// Resolves when less has come than comes at `rate`, bytes per second, once [`RATE_GRACE`] is over.
async fn falls_behind(come: &AtomicUsize, rate: u32) {
    if rate == 0 {
        return std::future::pending().await;
    }
    let rate = usize::try_from(rate).unwrap_or(usize::MAX);
    tokio::time::sleep(RATE_GRACE).await;
    let mut due = 0usize;
    while come.load(Ordering::Relaxed) >= due {
        tokio::time::sleep(Duration::from_secs(1)).await;
        due = due.saturating_add(rate);
    }
}

async fn given_way(give_way: Option<impl Future<Output = ()>>) {
    match give_way {
        Some(give_way) => give_way.await,
        None => std::future::pending().await,
    }
}

/// Whether a body could not be read because it is longer than the listener's limit.
#[must_use]
pub fn is_length_limit(error: &axum::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = error.source();
    }
    false
}
