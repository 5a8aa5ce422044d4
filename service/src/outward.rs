//! Connections of our own to listeners of others, in the clear or by TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::ClientTls;

/// As much is read at once of a connection on which several answers come at the same time.
const READ_BUFFER: usize = 64 * 1024;

/// HTTP/2, by its name in ALPN (RFC 9113 §3.2).
pub const HTTP2: &[u8] = b"h2";

/// The version of HTTP that is spoken to another operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum HttpVersion {
    /// By TLS, what the other side chooses. In the clear, HTTP/2 for streams and HTTP/1.1 for
    /// everything else.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    #[serde(rename = "1.1")]
    Http1,
    #[serde(rename = "2")]
    Http2,
}

/// The host of `uri` as it is looked up and certified: an address of version 6 without brackets.
#[must_use]
pub fn host(uri: &Uri) -> &str {
    let host = uri.host().unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']')
}

impl ClientTls {
    /// Makes `tcp` a connection to the host of `uri`, by TLS where its scheme is `https`: then in
    /// `version` of HTTP (its name in ALPN), or what the other end prefers.
    ///
    /// # Errors
    /// The host is none, or the handshake failed. The text may name the host.
    pub async fn begin(
        &self,
        uri: &Uri,
        tcp: TcpStream,
        version: Option<&[u8]>,
    ) -> io::Result<Outward> {
        tcp.set_nodelay(true)?;
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return Ok(match version == Some(HTTP2) {
                true => Outward::new(BufReader::with_capacity(READ_BUFFER, tcp), false),
                false => Outward::new(tcp, false),
            });
        }
        let name = ServerName::try_from(host(uri).to_owned()).map_err(io::Error::other)?;
        let mut config = ClientConfig::clone(&self.current());
        if let Some(version) = version {
            config.alpn_protocols = vec![version.to_vec()];
        }
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, tcp).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        Ok(Outward::new(stream, is_http2))
    }
}

/// What a connection can do, whatever it is made of.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection on which requests can be sent.
pub struct Outward {
    io: TokioIo<Box<dyn Stream>>,
    /// TLS has chosen it.
    is_http2: bool,
}

impl Outward {
    fn new(stream: impl Stream + 'static, is_http2: bool) -> Self {
        Self {
            io: TokioIo::new(Box::new(stream)),
            is_http2,
        }
    }
}

impl Connection for Outward {
    fn connected(&self) -> Connected {
        match self.is_http2 {
            true => Connected::new().negotiated_h2(),
            false => Connected::new(),
        }
    }
}

impl Read for Outward {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Outward {
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
