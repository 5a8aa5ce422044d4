//! One connection of a listener: TLS, the version of HTTP, and what a peer may not hold up.

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
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::addresses::{AddressLimits, AddressPlace, Admitted, TooMany};
use crate::floods::{Budget, Counting};
use crate::gathered::{Outlet, gathered};
use crate::limits::{Accepting, busy};
use crate::problem::Problem;
use crate::proxy;
use crate::room::{Activity, Busy, Entry, Place, Room, Waiting};
use crate::shutdown::Shutdown;
use crate::sparse::Sparse;
use crate::tls::{IsCertified, ServerTls};

/// How HTTP/2 begins (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a peer may send ahead of the reader, on a stream and on all of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What is written ahead of the peer, on a stream.
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
        let sniffed = timeout(patience, sniffed(stream));
        if let Some(Ok(Ok((stream, is_http2)))) = service.unless_displaced(sniffed).await {
            drive(stream, is_http2, common, service, IsCertified(false)).await;
        }
        return;
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
        let is_http2 = session.alpn_protocol() == Some(b"h2");
        // They were verified in the handshake.
        let is_certified = IsCertified(session.peer_certificates().is_some());
        drive(stream, is_http2, common, service, is_certified).await;
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

async fn drive<S>(
    stream: S,
    is_http2: bool,
    common: Arc<Common>,
    service: Service,
    is_certified: IsCertified,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match service {
        Service::Full { place, admitted } => {
            let peer = Peer {
                place,
                admitted,
                is_certified,
            };
            answer_all(stream, is_http2, common, peer).await;
        }
        Service::Refusal(problem, told) => {
            let telling = tell(stream, is_http2, &common, &problem);
            let _ = timeout(TOLD_WITHIN, telling).await;
            drop(told);
        }
    }
}

/// Answers one request with a refusal.
async fn tell<S>(stream: S, is_http2: bool, common: &Common, problem: &Problem)
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
    let limits = common.accepting.limits;
    if is_http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(1)
            .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = told.notified() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let connection = http1::Builder::new()
            .keep_alive(false)
            .max_header_size(limits.max_header_bytes)
            .max_headers(limits.max_headers)
            .serve_connection(TokioIo::new(stream), service);
        let _ = connection.await;
    }
}

/// In the clear, the first bytes say which version it is.
async fn sniffed(
    mut stream: Patient<TcpStream>,
) -> io::Result<(Prefixed<Patient<TcpStream>>, bool)> {
    let mut first = [0; PREFACE.len()];
    let mut len = 0;
    while len < first.len() && first[..len] == PREFACE[..len] {
        match stream.read(&mut first[len..]).await? {
            0 => break,
            read => len += read,
        }
    }
    let prefixed = Prefixed {
        first,
        next: 0,
        len,
        stream,
    };
    Ok((prefixed, len == PREFACE.len() && first == *PREFACE))
}

/// What is known of the other end.
struct Peer {
    place: Place,
    admitted: Option<Admitted>,
    is_certified: IsCertified,
}

async fn answer_all<S>(stream: S, is_http2: bool, common: Arc<Common>, peer: Peer)
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
    let limits = common.accepting.limits;
    let idle = Duration::from_secs(limits.header_read_seconds);
    // How a connection ends (reset, timeout, malformed head) is the peer's business.
    if is_http2 {
        let stream = Counting::new(stream, PREFACE.len(), limits.max_streams, budget);
        let (stream, mut outlet) = gathered(stream);
        let mut builder = http2::Builder::new(Streams { patience: idle });
        let connection = builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
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
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(idle)
            .max_header_size(limits.max_header_bytes)
            .max_headers(limits.max_headers)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let left = tokio::select! {
            _ = connection.as_mut() => return,
            () = common.shutdown.requested() => None,
            () = activity.gives_way() => Some(GONE_WITHIN),
        };
        // Its peer would let us wait for that, too.
        if left == Some(GONE_WITHIN) && activity.is_stalled() {
            return;
        }
        connection.as_mut().graceful_shutdown();
        end(connection, left, &activity).await;
    }
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
    // HTTP/1.1 does not come here with more; HTTP/2 counts bytes only.
    if request.headers().len() > common.accepting.limits.max_headers {
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

/// A stream whose first bytes were read already.
struct Prefixed<S> {
    first: [u8; PREFACE.len()],
    next: usize,
    len: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.next == self.len {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let some = buffer.remaining().min(self.len - self.next);
        buffer.put_slice(&self.first[self.next..self.next + some]);
        self.next += some;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
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
