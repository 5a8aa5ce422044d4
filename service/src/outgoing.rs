//! Requests to another operator's listener: connections that are kept, how many requests are on
//! each of them, and which of them a request goes by.
//!
//! An HTTP/2 connection takes so many requests, and what comes beyond would wait in it unseen until
//! its time is over. So nothing is sent beyond.
//!
//! Streams that tell many clients the same come by few connections: what is sent to all of them at
//! one moment is one write and one read. A request with one answer is cheapest on a connection of
//! its own.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::connector::Connector;
use crate::limits::MAX_STREAMS;
use crate::outward::HttpVersion;
use crate::tls::ClientTls;

/// Less than the idle time of our listeners, so that no request meets a closing connection.
const IDLE: Duration = Duration::from_secs(15);
/// A peer that answers no ping for so long is gone, and its connection with it.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// What may be sent ahead of whoever takes an answer, on a stream. The connection adds no bound of
/// its own (RFC 9113 §6.9.1): a few clients that take nothing would close it for all the others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// What is sent ahead of the other side, on a stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Requests on one connection of HTTP/2: as many as our listeners take.
const REQUESTS: usize = MAX_STREAMS as usize;
/// Answers that were given up, of which more may come in the next second. Beyond so many the
/// library takes what comes for a fault of the other side, of which it bears a few: then clients
/// that give up their requests could have the connection cut that the others use.
const GIVEN_UP: usize = 16 * 1024;
/// The longest head of an answer, and how many fields it may have.
const MAX_HEAD_BYTES: u32 = 16 * 1024;
const MAX_FIELDS: usize = 64;

/// How a [`Pool`] connects.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Of the nodes, of which one is asked at a time; none for what the name in the URL stands for.
    pub addresses: Vec<SocketAddr>,
    pub http: HttpVersion,
    /// For name, connection and handshake together, and for all nodes.
    pub connect: Duration,
    /// Connections that are kept when nothing is on them.
    pub idle_connections: usize,
    /// HTTP/2 connections: each takes 1,024 requests at once.
    pub http2_connections: usize,
}

/// Connections to one listener.
pub struct Pool<B> {
    clients: Box<[Client<Connector, B>]>,
    /// Requests on each of them.
    running: Arc<[AtomicUsize]>,
    /// How many there may be.
    most: Box<[usize]>,
    whole: Range<usize>,
    streams: Range<usize>,
}

/// A request on a connection of a [`Pool`], until dropped.
#[derive(Debug)]
pub struct Running {
    running: Arc<[AtomicUsize]>,
    connection: usize,
}

/// Why there is no answer. The texts of its causes may name the other side's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// There was no connection.
    Connect,
    Broken,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// To whatever `url` names.
    #[must_use]
    pub fn new(settings: &PoolSettings, url: &Uri, tls: &Arc<ClientTls>) -> Self {
        let is_tls = url.scheme() == Some(&http::uri::Scheme::HTTPS);
        let many = settings.http2_connections.max(1);
        // Each with connections of its own.
        let (versions, whole, streams) = match settings.http {
            HttpVersion::Http1 => (vec![HttpVersion::Http1], 0..1, 0..1),
            HttpVersion::Auto if !is_tls => {
                let mut versions = vec![HttpVersion::Http2; many + 1];
                versions[0] = HttpVersion::Http1;
                (versions, 0..1, 1..many + 1)
            }
            version => (vec![version; many], 0..many, 0..many),
        };
        let idle = settings.idle_connections.div_ceil(whole.len());
        let clients = versions.iter().map(|version| {
            let connector = Connector::new(
                settings.addresses.clone(),
                Arc::clone(tls),
                *version,
                settings.connect,
            );
            client(connector, *version, idle)
        });
        let most = versions.iter().map(|version| match version {
            HttpVersion::Http1 => usize::MAX,
            HttpVersion::Http2 | HttpVersion::Auto => REQUESTS,
        });
        Self {
            clients: clients.collect(),
            running: versions.iter().map(|_| AtomicUsize::new(0)).collect(),
            most: most.collect(),
            whole,
            streams,
        }
    }

    /// Where the fewest requests are, for one whose answer is a stream or is not. `None`: there are
    /// as many everywhere as there may be.
    #[must_use]
    pub fn take(&self, is_stream: bool) -> Option<Running> {
        let among = match is_stream {
            true => self.streams.clone(),
            false => self.whole.clone(),
        };
        Running::least(&self.running, &self.most, among)
    }

    /// Sends a request, exactly as it is.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub async fn send(
        &self,
        by: &Running,
        request: Request<B>,
    ) -> Result<Response<Incoming>, NoAnswer> {
        let answer = self.clients[by.connection].request(request).await;
        answer.map_err(|error| match error.is_connect() {
            true => NoAnswer::Connect,
            false => NoAnswer::Broken,
        })
    }
}

fn client<B>(connector: Connector, version: HttpVersion, idle: usize) -> Client<Connector, B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(idle)
        .http1_max_headers(MAX_FIELDS)
        .http2_only(version == HttpVersion::Http2)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_send_buf_size(SEND_BUFFER)
        .http2_max_header_list_size(MAX_HEAD_BYTES)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .http2_max_concurrent_reset_streams(GIVEN_UP)
        .http2_max_local_error_reset_streams(None)
        .build(connector)
}

impl Running {
    fn least(running: &Arc<[AtomicUsize]>, most: &[usize], among: Range<usize>) -> Option<Self> {
        let first = among.start;
        let connection = among
            .min_by_key(|connection| running[*connection].load(Ordering::Relaxed))
            .unwrap_or(first);
        let before = running[connection].fetch_add(1, Ordering::Relaxed);
        let taken = Self {
            running: Arc::clone(running),
            connection,
        };
        (before < most[connection]).then_some(taken)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.running[self.connection].fetch_sub(1, Ordering::Relaxed);
    }
}

/// The resource `name` in the same directory as `uri`.
#[must_use]
pub fn beside(uri: &Uri, name: &str) -> Option<Uri> {
    let directory = uri.path().rsplit_once('/').map_or("", |(before, _)| before);
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{directory}/{name}").parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_spread_evenly_over_the_connections_that_they_may_go_by() {
        let running: Arc<[AtomicUsize]> = (0..4).map(|_| AtomicUsize::new(0)).collect();
        let take = || Running::least(&running, &[0, 3, 3, 3], 1..4);
        let mut taken: Vec<_> = (0..6).filter_map(|_| take()).collect();
        let of = |taken: &[Running], connection| {
            let there = taken.iter().filter(|by| by.connection == connection);
            there.count()
        };
        assert_eq!([0, 1, 2, 3].map(|at| of(&taken, at)), [0, 2, 2, 2]);
        // Where the long ones are is where the next ones are not.
        taken.retain(|by| by.connection == 1);
        taken.extend((0..4).filter_map(|_| take()));
        assert_eq!([0, 1, 2, 3].map(|at| of(&taken, at)), [0, 2, 2, 2]);
        // And not more than there may be.
        taken.extend((0..4).filter_map(|_| take()));
        assert_eq!([0, 1, 2, 3].map(|at| of(&taken, at)), [0, 3, 3, 3]);
        taken.pop();
        assert!(take().is_some());
    }
}
