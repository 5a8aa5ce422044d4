//! Connections to another operator's listener, in the clear or by TLS.

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
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::Service;

use crate::outgoing::HttpVersion;
use crate::tls::ClientTls;

/// As much is read at once of a connection on which several answers come at the same time.
const READ_BUFFER: usize = 64 * 1024;

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
/// the last one, as long as it takes them: a gateway remembers every request that it opened
/// (RFC 9458 §6.5.1), the others know nothing of them. Nothing was sent on a connection that was not made, so
/// the next node may be asked.
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

    async fn connect(self, to: Uri) -> Result<Outgoing, ConnectError> {
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
    ) -> Result<Outgoing, ConnectError> {
        tokio::time::timeout(patience, self.open(to, address))
            .await
            .unwrap_or(Err(ConnectError))
    }

    async fn open(&self, to: &Uri, address: Option<SocketAddr>) -> Result<Outgoing, ConnectError> {
        let is_tls = to.scheme() == Some(&http::uri::Scheme::HTTPS);
        let host = to.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| ConnectError)?;
        let tcp = match address {
            Some(address) => {
                let tcp = TcpStream::connect(address).await;
                let tcp = tcp.map_err(|_| ConnectError)?;
                tcp.set_nodelay(true).map_err(|_| ConnectError)?;
                tcp
            }
            None => {
                let connected = self.tcp.clone().call(to.clone()).await;
                connected.map_err(|_| ConnectError)?.into_inner()
            }
        };
        if !is_tls {
            return Ok(match self.http {
                HttpVersion::Http2 => {
                    Outgoing::new(BufReader::with_capacity(READ_BUFFER, tcp), false)
                }
                HttpVersion::Auto | HttpVersion::Http1 => Outgoing::new(tcp, false),
            });
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
            .connect(name, tcp)
            .await
            .map_err(|_| ConnectError)?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Outgoing::new(stream, is_http2))
    }
}

impl Service<Uri> for Connector {
    type Response = Outgoing;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Outgoing, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(connector.connect(to))
    }
}

/// What a connection can do, whatever it is made of.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection.
pub(crate) struct Outgoing {
    io: TokioIo<Box<dyn Stream>>,
    /// TLS has chosen it.
    is_http2: bool,
}

impl Outgoing {
    fn new(stream: impl Stream + 'static, is_http2: bool) -> Self {
        Self {
            io: TokioIo::new(Box::new(stream)),
            is_http2,
        }
    }
}

impl Connection for Outgoing {
    fn connected(&self) -> Connected {
        match self.is_http2 {
            true => Connected::new().negotiated_h2(),
            false => Connected::new(),
        }
    }
}

impl Read for Outgoing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Outgoing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
