//! Connections to another operator's listener, in the clear or by TLS.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;

use crate::outward::{HTTP2, HttpVersion, Outward};
use crate::tls::ClientTls;

/// Makes connections.
#[derive(Clone)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    nodes: Arc<Nodes>,
    tls: Arc<ClientTls>,
    http: HttpVersion,
    patience: Duration,
}

/// The nodes behind one URL, where they are listed. New connections all go to the node that took
/// the last one, as long as it takes them: a gateway remembers every request that it opened (RFC
/// 9458 §6.5.1), the others know nothing of them. Nothing was sent on a connection that was not
/// made, so the next node may be asked.
struct Nodes {
    addresses: Vec<SocketAddr>,
    current: AtomicUsize,
}

/// Why there is no connection. It has no causes: their text may name the address.
#[derive(Debug, thiserror::Error)]
#[error("the other side cannot be connected to")]
pub(crate) struct ConnectError;

impl Connector {
    /// `addresses`: of the nodes, or none for what the gateway's name stands for. `patience` is for
    /// name, connection and handshake together, and for all nodes.
    pub(crate) fn new(
        addresses: Vec<SocketAddr>,
        tls: Arc<ClientTls>,
        http: HttpVersion,
        patience: Duration,
    ) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        Self {
            tcp,
            nodes: Arc::new(Nodes {
                addresses,
                current: AtomicUsize::new(0),
            }),
            tls,
            http,
            patience,
        }
    }

    async fn connect(self, to: Uri) -> Result<Outward, ConnectError> {
        let Nodes { addresses, current } = &*self.nodes;
        if addresses.is_empty() {
            return self.connect_to(&to, None, self.patience).await;
        }
        // One that answers nothing leaves time for the others.
        let patience = self.patience / u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let first = current.load(Ordering::Relaxed);
        for node in (first..addresses.len()).chain(0..first) {
            let address = addresses.get(node).copied();
            if let Ok(stream) = self.connect_to(&to, address, patience).await {
                current.store(node, Ordering::Relaxed);
                return Ok(stream);
            }
        }
        Err(ConnectError)
    }

    async fn connect_to(
        &self,
        to: &Uri,
        address: Option<SocketAddr>,
        patience: Duration,
    ) -> Result<Outward, ConnectError> {
        tokio::time::timeout(patience, self.open(to, address))
            .await
            .unwrap_or(Err(ConnectError))
    }

    async fn open(&self, to: &Uri, address: Option<SocketAddr>) -> Result<Outward, ConnectError> {
        let tcp = match address {
            Some(address) => TcpStream::connect(address).await.ok(),
            None => {
                let connected = self.tcp.clone().call(to.clone()).await;
                connected.ok().map(TokioIo::into_inner)
            }
        };
        let version: Option<&[u8]> = match self.http {
            HttpVersion::Auto => None,
            HttpVersion::Http1 => Some(b"http/1.1"),
            HttpVersion::Http2 => Some(HTTP2),
        };
        let begun = self.tls.begin(to, tcp.ok_or(ConnectError)?, version);
        begun.await.map_err(|_| ConnectError)
    }
}

impl Service<Uri> for Connector {
    type Response = Outward;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Outward, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(connector.connect(to))
    }
}
