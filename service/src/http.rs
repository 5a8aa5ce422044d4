//! The HTTP server of every binary, with its limits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::addresses::AddressLimits;
use crate::connection::{self, Common};
use crate::observe::Observe;
use crate::problem::{self, Problem};
use crate::shutdown::Shutdown;
use crate::tls::ServerTls;

/// The table `[limits]` of a configuration file: what one listener accepts.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The longest request body.
    pub max_body_bytes: usize,
    /// The most bytes of request bodies that are being collected at once.
    pub max_collected_bytes: u32,
    /// How long a client may take to send a body.
    pub body_read_seconds: u64,
    /// How long a client may take for a TLS handshake, to send a request head, or to take a part of an answer;
    /// idle connections end after it too, those of HTTP/2 after twice that at the latest.
    pub header_read_seconds: u64,
    /// The longest request head.
    pub max_header_bytes: usize,
    /// The most header fields of a request.
    pub max_headers: usize,
    /// The most connections at once; more wait in the backlog of the operating system.
    pub max_connections: usize,
    /// The most requests at once on one HTTP/2 connection.
    pub max_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // The largest size bucket of a padded request, 2 MiB, and its encapsulation.
            max_body_bytes: 2 * 1024 * 1024 + 4096,
            max_collected_bytes: 512 * 1024 * 1024,
            body_read_seconds: 30,
            header_read_seconds: 30,
            max_header_bytes: 16 * 1024,
            max_headers: 64,
            max_connections: 4096,
            max_streams: 1024,
        }
    }
}

impl Limits {
    /// Those of the listener that `request` came to.
    #[must_use]
    pub fn of<B>(request: &http::Request<B>) -> Self {
        let accepting = request.extensions().get::<Arc<Accepting>>();
        accepting.map_or_else(Self::default, |accepting| accepting.limits)
    }
}

/// What a listener has for all of its requests.
pub(crate) struct Accepting {
    pub(crate) limits: Limits,
    collecting: Collecting,
}

/// Binds `listen`. Here so that every binary reports the failure in the same words.
///
/// # Errors
/// The address is in use or not ours.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(listen).await.map_err(BindError)
}

/// A listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on the configured address")]
pub struct BindError(#[source] std::io::Error);

/// Serves `router` on `listener`, in the clear and to whoever connects: see [`Server`].
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: Shutdown) {
    Server::new(listener, limits).serve(router, shutdown).await;
}

/// A listener and what it asks of its peers.
pub struct Server {
    listener: TcpListener,
    limits: Limits,
    tls: Option<Arc<ServerTls>>,
    addresses: Option<Arc<AddressLimits>>,
}

impl Server {
    #[must_use]
    pub fn new(listener: TcpListener, limits: Limits) -> Self {
        Self {
            listener,
            limits,
            tls: None,
            addresses: None,
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

    /// Serves `router` by HTTP/1.1 and HTTP/2 until the shutdown is requested, then ends idle connections, lets
    /// running requests finish, and returns. Drop the future to cut what still runs.
    ///
    /// Unmatched paths and methods are answered with problem documents unless `router` has a fallback
    /// of its own for paths. No handler learns the peer's address.
    pub async fn serve(self, router: Router, shutdown: Shutdown) {
        let common = Arc::new(Common {
            router: router
                .method_not_allowed_fallback(problem::method_not_allowed)
                .layer(Observe),
            accepting: Arc::new(Accepting {
                limits: self.limits,
                collecting: Collecting::new(self.limits.max_collected_bytes),
            }),
            tls: self.tls,
            shutdown: shutdown.clone(),
        });
        let slots = Arc::new(Semaphore::new(self.limits.max_connections));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.requested() => break,
                accepted = accept(&self.listener, &slots) => accepted,
                Some(_) = connections.join_next() => continue,
            };
            // Also when connections arrive faster than this loop comes to wait.
            while connections.try_join_next().is_some() {}
            let Some((stream, peer, slot)) = accepted else {
                continue;
            };
            let admitted = self.addresses.as_ref().map(|limits| limits.connect(peer));
            let admitted = match admitted {
                Some(None) => {
                    metrics::counter!("address_limit_refusals_total", "limit" => "connections")
                        .increment(1);
                    continue;
                }
                Some(admitted) => admitted,
                None => None,
            };
            let common = Arc::clone(&common);
            connections.spawn(async move {
                connection::serve(stream, common, admitted).await;
                drop(slot);
            });
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, slot)),
        Err(error) => {
            // Out of file descriptors, most likely: waiting lets some be freed.
            tracing::warn!(kind = ?error.kind(), "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// A router in which every unknown path and method is answered with a problem document.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().fallback(problem::not_found)
}

/// What a listener has of bodies that are not whole yet: a place for each of so many KiB.
struct Collecting(Arc<Semaphore>);

const KIB: usize = 1024;

impl Collecting {
    fn new(bytes: u32) -> Self {
        Self(Arc::new(Semaphore::new(
            usize::try_from(bytes).map_or(usize::MAX, |bytes| bytes.div_ceil(KIB)),
        )))
    }

    /// Places for `len` bytes more than `held` has.
    fn take(&self, held: &mut Option<OwnedSemaphorePermit>, len: usize) -> Result<(), Problem> {
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = len.div_ceil(KIB).saturating_sub(has);
        let more = u32::try_from(missing)
            .ok()
            .and_then(|missing| Arc::clone(&self.0).try_acquire_many_owned(missing).ok())
            .ok_or_else(|| {
                metrics::counter!("http_bodies_refused_total").increment(1);
                Problem::plain(StatusCode::SERVICE_UNAVAILABLE)
                    .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
            })?;
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }
}

/// A request body, whole, read within the limits of the listener. Rejections are problem documents:
/// 413, 408, 503 if too much is being read already, or 400 if the body breaks off.
#[derive(Debug)]
pub struct RequestBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for RequestBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let limits = Limits::of(&request);
        let accepting = request.extensions().get::<Arc<Accepting>>().cloned();
        let too_large = || Problem::plain(StatusCode::PAYLOAD_TOO_LARGE);
        let mut body = request.into_body();
        let declared = body.size_hint().lower();
        if declared > limits.max_body_bytes as u64 {
            return Err(too_large());
        }
        let read = async {
            let mut whole = BytesMut::new();
            let mut places = None;
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| {
                    if is_length_limit(&error) {
                        too_large()
                    } else {
                        Problem::plain(StatusCode::BAD_REQUEST)
                    }
                })?;
                let Some(data) = frame.data_ref() else {
                    continue;
                };
                if whole.len() + data.len() > limits.max_body_bytes {
                    return Err(too_large());
                }
                if let Some(accepting) = &accepting {
                    let collecting = &accepting.collecting;
                    collecting.take(&mut places, whole.len() + data.len())?;
                }
                whole.extend_from_slice(data);
            }
            Ok(Self(whole.freeze()))
        };
        tokio::time::timeout(Duration::from_secs(limits.body_read_seconds), read)
            .await
            .unwrap_or_else(|_| Err(Problem::plain(StatusCode::REQUEST_TIMEOUT)))
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
