//! Connections to a gateway, in the clear or by TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use service::tls::ClientTls;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

use crate::config::HttpVersion;

#[derive(Clone)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    nodes: Arc<Nodes>,
    tls: Arc<ClientTls>,
    http: HttpVersion,
    patience: Duration,
}

/// The nodes of one gateway, where they are listed. New connections all go to the node that took
/// the last one, as long as it takes them: it remembers every request that it opened (RFC 9458
/// §6.5.1), the others know nothing of them. Nothing was sent on a connection that was not made, so
/// the next node may be asked.
struct Nodes {
    addresses: Vec<SocketAddr>,
    current: AtomicUsize,
}

/// Why there is no connection. Never shown: the text of its causes may name the gateway's address.
#[derive(Debug, thiserror::Error)]
#[error("the gateway cannot be connected to")]
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
        tcp.set_nodelay(true);
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

    async fn connect(self, gateway: Uri) -> Result<GatewayStream, ConnectError> {
        let Nodes { addresses, current } = &*self.nodes;
        if addresses.is_empty() {
            return self.connect_to(&gateway, None, self.patience).await;
        }
        // One that answers nothing leaves time for the others.
        let patience = self.patience / u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let first = current.load(Ordering::Relaxed);
        for node in (first..addresses.len()).chain(0..first) {
            let address = addresses.get(node).copied();
            if let Ok(stream) = self.connect_to(&gateway, address, patience).await {
                current.store(node, Ordering::Relaxed);
                return Ok(stream);
            }
        }
        Err(ConnectError)
    }

    async fn connect_to(
        &self,
        gateway: &Uri,
        address: Option<SocketAddr>,
        patience: Duration,
    ) -> Result<GatewayStream, ConnectError> {
        tokio::time::timeout(patience, self.open(gateway, address))
            .await
            .unwrap_or(Err(ConnectError))
    }

    async fn open(
        &self,
        gateway: &Uri,
        address: Option<SocketAddr>,
    ) -> Result<GatewayStream, ConnectError> {
        let is_tls = gateway.scheme() == Some(&http::uri::Scheme::HTTPS);
        let host = gateway.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| ConnectError)?;
        let tcp = match address {
            Some(address) => {
                let tcp = TcpStream::connect(address).await;
                let tcp = tcp.map_err(|_| ConnectError)?;
                tcp.set_nodelay(true).map_err(|_| ConnectError)?;
                TokioIo::new(tcp)
            }
            None => {
                let connected = self.tcp.clone().call(gateway.clone()).await;
                connected.map_err(|_| ConnectError)?
            }
        };
        if !is_tls {
            return Ok(GatewayStream::Plain(tcp));
        }
        let config = self.tls.current();
        let offered: &[u8] = match self.http {
            HttpVersion::Auto => b"",
            HttpVersion::Http1 => b"http/1.1",
            HttpVersion::Http2 => b"h2",
        };
        let config = if offered.is_empty() {
            config
        } else {
            let mut config = rustls::ClientConfig::clone(&config);
            config.alpn_protocols = vec![offered.to_vec()];
            Arc::new(config)
        };
        let stream = TlsConnector::from(config)
            .connect(name, tcp.into_inner())
            .await
            .map_err(|_| ConnectError)?;
        Ok(GatewayStream::Tls(Box::new(TokioIo::new(stream))))
    }
}

impl Service<Uri> for Connector {
    type Response = GatewayStream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<GatewayStream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, gateway: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(connector.connect(gateway))
    }
}

pub(crate) enum GatewayStream {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for GatewayStream {
    fn connected(&self) -> Connected {
        match self {
            Self::Plain(_) => Connected::new(),
            Self::Tls(stream) if stream.inner().get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            Self::Tls(_) => Connected::new(),
        }
    }
}

impl Read for GatewayStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl Write for GatewayStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
