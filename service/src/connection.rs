//! One connection of a listener: TLS, and what a peer may not hold up.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, Request, StatusCode, Version};
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::addresses::{AddressLimits, AddressPlace, Admitted, TooMany};
use crate::floods::{Budget, Counting};
use crate::gathered::{Outlet, gathered};
use crate::limits::{Accepting, Limits, busy};
use crate::problem::Problem;
use crate::proxy;
use crate::room::{Activity, Entry, Place, Room};
use crate::shutdown::Shutdown;
use crate::sparse::Sparse;
use crate::stream_limits::EndsBy;
use crate::taking::{Counted, Ends, Patient, Streams};
use crate::tls::{IsCertified, ServerTls};

/// What a peer may send ahead of the reader, on a stream and on all of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What is written ahead of the peer, on a stream of HTTP/2 or a connection of HTTP/1.1.
const SEND_BUFFER: usize = 64 * 1024;
/// A peer that answers no ping for this long is gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection that only gets a refusal may take for all of it.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection that gives its place up may take to end.
const GONE_WITHIN: Duration = Duration::from_millis(500);

/// What all connections of a listener have in common.
pub(crate) struct Common {
    pub(crate) router: Router,
    pub(crate) accepting: Arc<Accepting>,
    pub(crate) room: Arc<Room>,
    pub(crate) addresses: Option<Arc<AddressLimits>>,
    pub(crate) proxies: Vec<IpAddr>,
    /// Whoever comes past the proxies.
    pub(crate) strangers: Sparse,
    pub(crate) tls: Option<Arc<ServerTls>>,
    pub(crate) shutdown: Shutdown,
}

/// What a connection gets.
enum Service {
    /// Answers.
    Full {
        place: Place,
        admitted: Option<Admitted>,
        ends: Arc<Ends>,
    },
    /// That there is no place for it, and nothing else.
    Refusal(
        Problem,
        #[allow(dead_code, reason = "is held")] OwnedSemaphorePermit,
    ),
}

impl Service {
    /// Does `work`, unless its place is needed by somebody else.
    async fn unless_displaced<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self {
            Self::Full { place, .. } => tokio::select! {
                done = work => Some(done),
                () = place.activity().gives_way() => None,
            },
            Self::Refusal(..) => tokio::time::timeout(TOLD_WITHIN, work).await.ok(),
        }
    }
}

pub(crate) async fn serve(stream: TcpStream, peer: SocketAddr, common: Arc<Common>) {
    let _ = stream.set_nodelay(true);
    let patience = Duration::from_secs(common.accepting.limits.header_read_seconds);
    let ends = Arc::default();
    let mut stream = Patient::new(stream, patience, Arc::clone(&ends));
    // A proxy says it at once.
    let source = timeout(
        patience.min(TOLD_WITHIN),
        source(&mut stream, peer, &common),
    );
    let Ok(Some(source)) = source.await else {
        return;
    };
    // Before it has a place: nobody else gives way to an address that has its share.
    let admitted = common.addresses.as_ref();
    let admitted = admitted.map(|limits| limits.connect(source)).transpose();
    let mut _counted = None;
    let service = match admitted {
        Ok(admitted) => match common
            .room
            .enter(admitted.as_ref().map(Admitted::share))
            .await
        {
            Entry::Place(place) => Service::Full {
                place,
                admitted,
                ends,
            },
            // A refusal may be a TLS handshake: it counts like any other.
            Entry::Full(told) => {
                _counted = admitted;
                Service::Refusal(busy(), told)
            }
            Entry::Closed => return,
        },
        Err(too_many) => match common.room.told() {
            Some(told) => Service::Refusal(refusal(&too_many), told),
            None => return,
        },
    };
    let Some(tls) = &common.tls else {
        return drive(stream, common, service, IsCertified(false)).await;
    };
    let acceptor = TlsAcceptor::from(tls.current());
    let accepted = timeout(patience, acceptor.accept(stream));
    let accepted = service.unless_displaced(accepted).await;
    let outcome = if matches!(accepted, Some(Ok(Ok(_)))) {
        "done"
    } else {
        "failed"
    };
    metrics::counter!("tls_handshakes_total", "outcome" => outcome).increment(1);
    if let Some(Ok(Ok(stream))) = accepted {
        let (_, session) = stream.get_ref();
        // They were verified in the handshake.
        let is_certified = IsCertified(session.peer_certificates().is_some());
        drive(stream, common, service, is_certified).await;
    }
}

/// Whose connection it is. `None`: it is not to be served.
async fn source(
    stream: &mut Patient<TcpStream>,
    peer: SocketAddr,
    common: &Common,
) -> Option<SocketAddr> {
    if common.proxies.is_empty() {
        return Some(peer);
    }
    let from_proxy = common.proxies.contains(&peer.ip().to_canonical());
    let source = if from_proxy {
        proxy::source(stream).await.ok()
    } else {
        None
    };
    if source.is_none() {
        metrics::counter!("proxy_protocol_refusals_total").increment(1);
        if let Some(times) = common.strangers.due() {
            tracing::warn!(
                times,
                from_proxy,
                "connections are closed: not by a proxy of `proxies`, or without its PROXY header"
            );
        }
    }
    source.map(|source| source.unwrap_or(peer))
}

async fn drive<S>(stream: S, common: Arc<Common>, service: Service, is_certified: IsCertified)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match service {
        Service::Full {
            place,
            admitted,
            ends,
        } => {
            let peer = Peer {
                place,
                admitted,
                is_certified,
                ends,
            };
            answer_all(stream, common, peer).await;
        }
        Service::Refusal(problem, told) => {
            let telling = tell(stream, &common, &problem);
            let _ = timeout(TOLD_WITHIN, telling).await;
            drop(told);
        }
    }
}

/// Answers one request with a refusal.
async fn tell<S>(stream: S, common: &Common, problem: &Problem)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let told = Arc::new(Notify::new());
    let service = {
        let (problem, told) = (problem.clone(), Arc::clone(&told));
        hyper::service::service_fn(move |_request: Request<Incoming>| {
            let response = problem.clone().into_response();
            told.notify_one();
            async move { Ok::<_, Infallible>(response) }
        })
    };
    let limits = &common.accepting.limits;
    let mut builder = builder(TokioExecutor::new(), limits);
    builder.http1().keep_alive(false);
    builder.http2().max_concurrent_streams(1);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = told.notified() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Of connections in either version of HTTP, with bounds for the heads of requests.
fn builder<E>(executor: E, limits: &Limits) -> auto::Builder<E> {
    let mut builder = auto::Builder::new(executor);
    builder
        .http1()
        .max_buf_size(SEND_BUFFER.max(limits.max_header_bytes))
        .max_headers(limits.max_headers);
    builder
        .http2()
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX));
    builder
}

/// What is known of the other end.
struct Peer {
    place: Place,
    admitted: Option<Admitted>,
    is_certified: IsCertified,
    ends: Arc<Ends>,
}

async fn answer_all<S>(stream: S, common: Arc<Common>, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::clone(peer.place.activity());
    let budget = Budget::new();
    let service = {
        let (common, budget) = (Arc::clone(&common), Arc::clone(&budget));
        let peer = Arc::new(peer);
        hyper::service::service_fn(move |mut request: Request<Incoming>| {
            let (common, busy) = (Arc::clone(&common), peer.place.begin());
            let (peer, budget) = (Arc::clone(&peer), Arc::clone(&budget));
            async move {
                let has_its_connection = request.version() < Version::HTTP_2;
                let running = peer.admitted.as_ref().map(Admitted::request).transpose();
                let (response, of_address) = match running {
                    Ok(running) => {
                        let of_address = running.map(AddressPlace::of);
                        if let Some(place) = &of_address {
                            request.extensions_mut().insert(place.clone());
                        }
                        request.extensions_mut().insert(Arc::clone(&budget));
                        let response = answer(request, &common, &peer).await;
                        budget.earn();
                        (response, of_address)
                    }
                    Err(too_many) => (refusal(&too_many).into_response(), None),
                };
                let ends = response.extensions().get().map(|EndsBy(ends)| *ends);
                if has_its_connection {
                    *peer.ends.lock().unwrap_or_else(PoisonError::into_inner) = ends;
                }
                Ok::<_, Infallible>(response.map(|body| Counted::new(body, ends, of_address, busy)))
            }
        })
    };
    let limits = &common.accepting.limits;
    let idle = Duration::from_secs(limits.header_read_seconds);
    let stream = Counting::new(stream, limits.max_streams, Arc::clone(&budget));
    let (stream, mut outlet) = gathered(stream, budget);
    let mut builder = builder(Streams::new(idle), limits);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        // The budget counts them, and does not take a busy moment for a flood.
        .max_pending_accept_reset_streams(usize::try_from(limits.max_streams).ok())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // How a connection ends (reset, timeout, malformed head) is the peer's business.
    let left = tokio::select! {
        () = driven(connection.as_mut(), &mut outlet) => return,
        () = common.shutdown.requested() => None,
        () = activity.ceased(idle) => Some(idle),
        () = activity.gives_way() => Some(GONE_WITHIN),
    };
    // Its peer would let us wait for that, too.
    if left == Some(GONE_WITHIN) && activity.is_stalled() {
        return;
    }
    connection.as_mut().graceful_shutdown();
    let connection = std::pin::pin!(driven(connection, &mut outlet));
    end(connection, left, &activity).await;
}

/// A connection, and the writes of what it has gathered.
async fn driven<S: AsyncWrite + Unpin>(
    mut connection: Pin<&mut impl Future>,
    outlet: &mut Outlet<S>,
) {
    std::future::poll_fn(|context| {
        let polled = connection.as_mut().poll(context);
        outlet.after(polled.map(|_| ()), context)
    })
    .await;
}

/// Lets what runs come to its end. Where nothing runs after `left`, what is left is what the peer
/// does not take.
async fn end<T>(
    mut connection: Pin<&mut impl Future<Output = T>>,
    left: Option<Duration>,
    activity: &Activity,
) {
    if let Some(left) = left {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = sleep(left) => {}
        }
        if activity.is_idle() {
            return;
        }
    }
    let _ = connection.await;
}

fn refusal(too_many: &TooMany) -> Problem {
    metrics::counter!("address_limit_refusals_total", "limit" => too_many.limit).increment(1);
    Problem::plain(StatusCode::TOO_MANY_REQUESTS)
        .with_header(RETRY_AFTER, HeaderValue::from(too_many.retry_after_s))
}

async fn answer(request: Request<Incoming>, common: &Common, peer: &Peer) -> Response {
    // The library bounds what it buffers of a head in HTTP/1.1, and bytes only in HTTP/2.
    if is_too_long(&request, &common.accepting.limits) {
        return Problem::plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE).into_response();
    }
    let mut request =
        request.map(|body| Body::new(Limited::new(body, common.accepting.limits.max_body_bytes)));
    // Our own limit holds for every extractor; axum's default would hide larger settings.
    DefaultBodyLimit::disable().apply(&mut request);
    let extensions = request.extensions_mut();
    extensions.insert(Arc::clone(&common.accepting));
    extensions.insert(peer.is_certified);
    extensions.insert(Arc::clone(peer.place.activity()));
    let Ok(response) = common.router.clone().oneshot(request).await;
    response
}

fn is_too_long(request: &Request<Incoming>, limits: &Limits) -> bool {
    let (path, headers) = (request.uri().path_and_query(), request.headers());
    let fields = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    let bytes = path.map_or(0, |path| path.as_str().len()) + fields.sum::<usize>();
    headers.len() > limits.max_headers || bytes > limits.max_header_bytes
}
