//! The HTTP/1.1 server of every binary, with its limits.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::observe::observe;
use crate::problem::{self, Problem};
use crate::shutdown::Shutdown;

/// The table `[limits]` of a configuration file: what one listener accepts.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The longest request body.
    pub max_body_bytes: usize,
    /// How long a client may take to send a body.
    pub body_read_seconds: u64,
    /// How long a client may take to send a request head; idle connections end after it too.
    pub header_read_seconds: u64,
    /// The longest request head.
    pub max_header_bytes: usize,
    /// The most header fields of a request.
    pub max_headers: usize,
    /// The most connections at once; more wait in the backlog of the operating system.
    pub max_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // The largest size bucket of a padded request, 2 MiB, and its encapsulation.
            max_body_bytes: 2 * 1024 * 1024 + 4096,
            body_read_seconds: 30,
            header_read_seconds: 30,
            max_header_bytes: 16 * 1024,
            max_headers: 64,
            max_connections: 4096,
        }
    }
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

/// Serves `router` on `listener` until the shutdown is requested, then ends idle connections, lets
/// running requests finish, and returns. Drop the future to cut what still runs.
///
/// Unmatched paths and methods are answered with problem documents unless `router` has a fallback
/// of its own for paths.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: Shutdown) {
    let router = router
        .method_not_allowed_fallback(problem::method_not_allowed)
        // Our own limit holds for every extractor; axum's default would hide larger settings.
        .layer(DefaultBodyLimit::disable())
        .layer(axum::middleware::from_fn(observe));
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.requested() => break,
            accepted = accept(&listener, &slots) => accepted,
            Some(_) = connections.join_next() => continue,
        };
        // Also when connections arrive faster than this loop comes to wait.
        while connections.try_join_next().is_some() {}
        let Some((stream, slot)) = accepted else {
            continue;
        };
        let (router, shutdown) = (router.clone(), shutdown.clone());
        connections.spawn(async move {
            serve_connection(stream, router, limits, shutdown).await;
            drop(slot);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _peer)) => Some((stream, slot)),
        Err(error) => {
            // Out of file descriptors, most likely: waiting lets some be freed.
            tracing::warn!(kind = ?error.kind(), "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router, limits: Limits, shutdown: Shutdown) {
    let _ = stream.set_nodelay(true);
    let answer = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let router = router.clone();
        async move {
            let mut request =
                request.map(|body| Body::new(Limited::new(body, limits.max_body_bytes)));
            request.extensions_mut().insert(limits);
            let Ok(response) = router.oneshot(request).await;
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(limits.header_read_seconds))
        .max_header_size(limits.max_header_bytes)
        .max_headers(limits.max_headers)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    // How a connection ends (reset, timeout, malformed head) is the peer's business.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = shutdown.requested() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// A router in which every unknown path and method is answered with a problem document.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().fallback(problem::not_found)
}

/// A request body, whole, read within the limits of the listener. Rejections are problem documents:
/// 413, 408, or 400 if the body breaks off.
#[derive(Debug)]
pub struct RequestBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for RequestBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let limits = request
            .extensions()
            .get::<Limits>()
            .copied()
            .unwrap_or_default();
        let too_large = || Problem::plain(StatusCode::PAYLOAD_TOO_LARGE);
        let mut body = request.into_body();
        let declared = body.size_hint().lower();
        if declared > limits.max_body_bytes as u64 {
            return Err(too_large());
        }
        let read = async {
            let mut whole = BytesMut::new();
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
                whole.extend_from_slice(data);
            }
            Ok(Self(whole.freeze()))
        };
        tokio::time::timeout(Duration::from_secs(limits.body_read_seconds), read)
            .await
            .unwrap_or_else(|_| Err(Problem::plain(StatusCode::REQUEST_TIMEOUT)))
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = error.source();
    }
    false
}
