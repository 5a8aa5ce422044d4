//! One connection of a listener: TLS, and what a peer may not hold up.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Limited;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::addresses::{AddressLimits, AddressPlace, Admitted, TooMany};
use crate::floods::{Budget, Counting};
use crate::gathered::{Outlet, gathered};
use crate::limits::{Accepting, Limits, busy};
use crate::problem::Problem;
use crate::proxy;
use crate::room::{Activity, Busy, Entry, Place, Room, Waiting};
use crate::shutdown::Shutdown;
use crate::sparse::Sparse;
use crate::tls::{IsCertified, ServerTls};

/// What a peer may send ahead of the reader, on a stream and on all of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What is written ahead of the peer, on a stream of HTTP/2 or a connection of HTTP/1.1.
const SEND_BUFFER: usize = 64 * 1024;
/// As much of an answer as is handed out at once.
const PIECE: usize = 16 * 1024;
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
    let mut stream = Patient::new(stream, patience);
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
            Entry::Place(place) => Service::Full { place, admitted },
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
        Service::Full { place, admitted } => {
            let peer = Peer {
                place,
                admitted,
                is_certified,
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
                let running = peer.admitted.as_ref().map(Admitted::request).transpose();
                let (response, running) = match running {
                    Ok(running) => {
                        let running = running.map(AddressPlace::of);
                        if let Some(place) = &running {
                            request.extensions_mut().insert(place.clone());
                        }
                        let response = answer(request, &common, &peer).await;
                        budget.answered();
                        (response, running)
                    }
                    Err(too_many) => (refusal(&too_many).into_response(), None),
                };
                Ok::<_, Infallible>(response.map(|body| Counted {
                    body,
                    rest: Bytes::new(),
                    handed: None,
                    busy,
                    _running: running,
                }))
            }
        })
    };
    let limits = &common.accepting.limits;
    let idle = Duration::from_secs(limits.header_read_seconds);
    let stream = Counting::new(stream, limits.max_streams, Arc::clone(&budget));
    let (stream, mut outlet) = gathered(stream, budget);
    let mut builder = builder(Streams { patience: idle }, limits);
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

tokio::task_local! {
    /// Of an HTTP/2 stream: bytes of its answer that were handed out, and whether the last ones
    /// wait to be taken.
    static HANDED: Cell<(u64, bool)>;
}

/// Runs the streams of HTTP/2 connections, each in a task. A peer can leave the window of one of
/// them closed, which no write to the connection notices: the answer of such a stream ends
/// (RST_STREAM), and the others on its connection, which may be of other clients behind the same
/// relay, go on.
#[derive(Clone)]
struct Streams {
    /// With what is not taken of an answer.
    patience: Duration,
}

/// What a peer takes of answers counts so much against the time that it lets us wait, bytes per
/// second: one that takes a little whenever our patience ends would hold what is behind an answer
/// for as long as that lasts.
const LEAST_TAKEN_PER_SECOND: u64 = 4096;

/// How long a peer has let us wait, less what it took.
struct Waits {
    patience: Duration,
    owed: Duration,
    since: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Waits {
    fn new(patience: Duration) -> Self {
        Self {
            patience,
            owed: Duration::ZERO,
            since: None,
        }
    }

    /// It lets us wait. Ready: for too long.
    #[allow(
        clippy::disallowed_methods,
        reason = "how long a peer takes, by no clock that anybody sets"
    )]
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let left = self.patience.saturating_sub(self.owed);
        let (_, timer) = self
            .since
            .get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
        timer.as_mut().poll(context)
    }

    /// It does not, or no more: it has taken so many bytes.
    fn took(&mut self, bytes: u64) {
        if let Some((since, _)) = self.since.take() {
            self.owed = self.owed.saturating_add(since.elapsed());
        }
        let earned = Duration::from_millis(bytes.saturating_mul(1000) / LEAST_TAKEN_PER_SECOND);
        self.owed = self.owed.saturating_sub(earned);
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        tokio::spawn(HANDED.scope(Cell::default(), taken(stream, self.patience)));
    }
}

/// `stream`, until it ends or its peer takes it too slowly. Dropping it resets it.
async fn taken(stream: impl Future<Output = ()>, patience: Duration) {
    let mut stream = std::pin::pin!(stream);
    let mut waits = Waits::new(patience);
    let mut counted = 0;
    std::future::poll_fn(|context| {
        if stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let (handed, is_waiting) = HANDED.with(Cell::get);
        if handed != counted || !is_waiting {
            // All but the last ones.
            waits.took(handed - counted);
            counted = handed;
        }
        if !is_waiting {
            return Poll::Pending;
        }
        ready!(waits.poll_over(context));
        metrics::counter!("http_streams_reset_total").increment(1);
        Poll::Ready(())
    })
    .await;
}

/// A response body that keeps its connection from being idle. It is handed out in pieces: what
/// HTTP/2 has been given is no longer counted, and is kept there for as long as the peer leaves it.
struct Counted {
    body: Body,
    /// Of the last frame.
    rest: Bytes,
    /// There is a piece that the peer has not asked to go beyond.
    handed: Option<Waiting>,
    busy: Busy,
    _running: Option<AddressPlace>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = if self.rest.is_empty() {
            Pin::new(&mut self.body).poll_frame(context)
        } else {
            Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest)))))
        };
        let polled = polled.map(|frame| match frame?.map(Frame::into_data) {
            Ok(Ok(mut data)) => {
                if data.len() > PIECE {
                    self.rest = data.split_off(PIECE);
                }
                Some(Ok(Frame::data(data)))
            }
            Ok(Err(other)) => Some(Ok(other)),
            Err(error) => Some(Err(error)),
        });
        let is_handed = matches!(polled, Poll::Ready(Some(Ok(_))));
        self.handed = match self.handed.take() {
            _ if !is_handed => None,
            None => Some(self.busy.activity().waits()),
            handed => handed,
        };
        let len = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        // Under HTTP/1.1 a part that waits is one of the connection, which notices.
        let _ = HANDED.try_with(|handed| {
            let (bytes, _) = handed.get();
            handed.set((bytes.saturating_add(len as u64), is_handed));
        });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (HttpBody::size_hint(&self.body), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

/// A stream that fails when its peer takes what is written too slowly.
struct Patient<S> {
    stream: S,
    waits: Waits,
}

impl<S> Patient<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            waits: Waits::new(patience),
        }
    }

    fn judge(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            self.waits
                .took(written.as_ref().map_or(0, |len| *len as u64));
            return Poll::Ready(written);
        }
        ready!(self.waits.poll_over(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.judge(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many parts of so many bytes it takes, each at the end of a pause, before it is cut; at
    /// most ten.
    async fn parts(bytes: u64, pause: Duration) -> usize {
        let mut waits = Waits::new(Duration::from_millis(400));
        for part in 0..10 {
            let over = std::future::poll_fn(|context| waits.poll_over(context));
            if timeout(pause, over).await.is_ok() {
                return part;
            }
            waits.took(bytes);
        }
        10
    }

    #[tokio::test]
    async fn what_a_peer_takes_counts_against_the_time_that_it_lets_us_wait() {
        let pause = Duration::from_millis(300);
        let (drips, flows, stalls) = tokio::join!(
            parts(1, pause),
            parts(LEAST_TAKEN_PER_SECOND / 2, pause),
            parts(u64::MAX, Duration::from_secs(1)),
        );
        assert_eq!((drips, flows, stalls), (1, 10, 0));
    }
}
