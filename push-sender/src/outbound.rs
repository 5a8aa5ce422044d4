//! Connections to push services: by TLS, to public addresses alone, with bounded answers. Redirects
//! are not followed.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use service::body::read_at_most;
use service::http_date;
use service::outward::{Outward, host};
use service::tls::{ClientTls, TlsError};
use tokio::net::TcpStream;
use tower::Service;

use crate::allowed::is_reachable;
use crate::config::SendingSettings;

const MAX_ANSWER_BYTES: usize = 16 * 1024;
const IDLE: Duration = Duration::from_secs(60);

/// There was no answer. Never shown with its cause, whose text may name the URL.
#[derive(Debug, thiserror::Error)]
#[error("there was no answer")]
pub(crate) struct Unreachable;

/// What a push service answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// What it asks to wait for.
    pub(crate) retry_after_ms: Option<u64>,
    pub(crate) body: Bytes,
}

pub(crate) struct Outbound {
    client: Client<Connector, Full<Bytes>>,
    answer: Duration,
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outbound(..)")
    }
}

impl Outbound {
    pub(crate) fn new(settings: &SendingSettings) -> Result<Self, TlsError> {
        Self::with(settings, false)
    }

    /// One that speaks HTTP/2 only.
    pub(crate) fn http2(settings: &SendingSettings) -> Result<Self, TlsError> {
        Self::with(settings, true)
    }

    fn with(settings: &SendingSettings, http2_only: bool) -> Result<Self, TlsError> {
        let connector = Connector {
            tls: ClientTls::load(&settings.tls)?,
            allow_loopback: settings.allow_loopback,
            http2_only,
            patience: Duration::from_secs(settings.connect_seconds),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(8)
            .http1_max_headers(64)
            .http2_only(http2_only)
            .http2_max_header_list_size(16 * 1024)
            .build(connector);
        Ok(Self {
            client,
            answer: Duration::from_secs(settings.answer_seconds),
        })
    }

    /// Sends `request`, whose URL was checked.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        now_unix_ms: u64,
    ) -> Result<Answer, Unreachable> {
        let exchange = async {
            let answered = self.client.request(request).await;
            let (head, body) = answered.map_err(|_| Unreachable)?.into_parts();
            // Of what is longer only the status counts.
            let body = read_at_most(body, MAX_ANSWER_BYTES).await;
            Ok(Answer {
                status: head.status,
                retry_after_ms: retry_after_ms(&head.headers, now_unix_ms),
                body: body.unwrap_or_default(),
            })
        };
        tokio::time::timeout(self.answer, exchange)
            .await
            .unwrap_or(Err(Unreachable))
    }
}

/// Seconds, or a date (RFC 9110 §10.2.3).
fn retry_after_ms(headers: &HeaderMap, now_unix_ms: u64) -> Option<u64> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse::<u64>() {
        Ok(seconds) => Some(seconds.saturating_mul(1000)),
        Err(_) => http_date::parse(value).map(|at_ms| at_ms.saturating_sub(now_unix_ms)),
    }
}

#[derive(Clone)]
struct Connector {
    tls: Arc<ClientTls>,
    allow_loopback: bool,
    http2_only: bool,
    patience: Duration,
}

impl Connector {
    async fn connect(self, uri: Uri) -> Result<Outward, Unreachable> {
        let patience = self.patience;
        tokio::time::timeout(patience, self.open(uri))
            .await
            .unwrap_or(Err(Unreachable))
    }

    async fn open(self, uri: Uri) -> Result<Outward, Unreachable> {
        let is_tls = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        if !is_tls && !self.allow_loopback {
            return Err(Unreachable);
        }
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let found = tokio::net::lookup_host((host(&uri), port)).await;
        // What was looked at is what is connected to: a second look-up could say another thing.
        let reachable: Vec<SocketAddr> = found
            .map_err(|_| Unreachable)?
            .filter(|address| {
                let is_ours = is_tls || address.ip().is_loopback();
                is_ours && is_reachable(address.ip(), self.allow_loopback)
            })
            .collect();
        let mut connected = Err(Unreachable);
        for address in reachable {
            if let Ok(stream) = TcpStream::connect(address).await {
                connected = Ok(stream);
                break;
            }
        }
        let version: Option<&[u8]> = self.http2_only.then_some(b"h2");
        let begun = self.tls.begin(&uri, connected?, version).await;
        begun.map_err(|_| Unreachable)
    }
}

impl Service<Uri> for Connector {
    type Response = Outward;
    type Error = Unreachable;
    type Future = Pin<Box<dyn Future<Output = Result<Outward, Unreachable>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Unreachable>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let after = |value: &'static str| {
            let headers = [(RETRY_AFTER, HeaderValue::from_static(value))];
            retry_after_ms(&headers.into_iter().collect(), 784_111_777_000)
        };
        assert_eq!(after("120"), Some(120_000));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60_000));
        assert_eq!(after("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(after("soon"), None);
    }
}
