//! What an HTTP/2 connection writes, gathered: what many of its streams say at one moment is one
//! write. On a connection of HTTP/1.1 each write is an answer, and goes out by itself.
//!
//! The library writes every frame by itself, and as soon as there is one. So it writes into memory,
//! and lets all tasks go first that are ready by then.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::floods::Budget;

/// So much waits to be written: beyond it the connection waits too.
const MOST: usize = 64 * 1024;
/// Of these as much is kept while nothing waits.
const KEPT: usize = 8 * 1024;

/// A stream on whose writes [`Outlet`] decides.
pub(crate) struct Gathered<S>(Arc<Mutex<Writer<S>>>);

/// Writes what was gathered.
pub(crate) struct Outlet<S> {
    writer: Arc<Mutex<Writer<S>>>,
    turn: Arc<Turn>,
    /// The others have their turn, or had it and the write is not done.
    waits: bool,
}

/// The turn of all other tasks. The connection is woken by each of them too, and that is not its
/// end.
#[derive(Default)]
struct Turn {
    is_over: AtomicBool,
    connection: Mutex<Option<Waker>>,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.is_over.store(true, Ordering::Release);
        let connection = self.connection.lock();
        let connection = connection.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(connection) = connection {
            connection.wake();
        }
    }
}

impl Turn {
    fn begin(self: &Arc<Self>, context: &Context<'_>) {
        self.is_over.store(false, Ordering::Release);
        let connection = self.connection.lock();
        *connection.unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
        let over = Waker::from(Arc::clone(self));
        let others = std::pin::pin!(tokio::task::yield_now());
        let _ = others.poll(&mut Context::from_waker(&over));
    }
}

struct Writer<S> {
    stream: S,
    budget: Arc<Budget>,
    waiting: Vec<u8>,
    written: usize,
    failed: Option<io::ErrorKind>,
}

impl<S: AsyncWrite + Unpin> Writer<S> {
    fn poll_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(kind) = self.failed {
            return Poll::Ready(Err(kind.into()));
        }
        while self.written < self.waiting.len() {
            let left = &self.waiting[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, left)) {
                Ok(0) => self.failed = Some(io::ErrorKind::WriteZero),
                Ok(written) => self.written += written,
                Err(error) => self.failed = Some(error.kind()),
            }
            if let Some(kind) = self.failed {
                return Poll::Ready(Err(kind.into()));
            }
        }
        // What a TLS session has taken it may still hold.
        if let Err(error) = ready!(Pin::new(&mut self.stream).poll_flush(context)) {
            self.failed = Some(error.kind());
            return Poll::Ready(Err(error));
        }
        self.waiting.clear();
        self.waiting.shrink_to(KEPT);
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.waiting.len() >= MOST || self.failed.is_some() {
            true => self.poll_out(context),
            false => Poll::Ready(Ok(())),
        }
    }
}

/// `stream`, whose version of HTTP `budget` knows, and what writes to it.
pub(crate) fn gathered<S: AsyncWrite + Unpin>(
    stream: S,
    budget: Arc<Budget>,
) -> (Gathered<S>, Outlet<S>) {
    let writer = Arc::new(Mutex::new(Writer {
        stream,
        budget,
        waiting: Vec::new(),
        written: 0,
        failed: None,
    }));
    let outlet = Outlet {
        writer: Arc::clone(&writer),
        turn: Arc::default(),
        waits: false,
    };
    (Gathered(writer), outlet)
}

impl<S: AsyncWrite + Unpin> Outlet<S> {
    /// After each poll of the connection, in the same task: writes what it has left, once all other
    /// tasks have had their turn.
    pub(crate) fn after<T>(&mut self, polled: Poll<T>, context: &mut Context<'_>) -> Poll<T> {
        if polled.is_ready() {
            return polled;
        }
        let mut writer = lock(&self.writer);
        if writer.waiting.is_empty() {
            return Poll::Pending;
        }
        if !self.waits {
            self.waits = true;
            self.turn.begin(context);
        } else if self.turn.is_over.load(Ordering::Acquire) {
            let written = writer.poll_out(context);
            self.waits = written.is_pending();
            if matches!(written, Poll::Ready(Err(_))) {
                // The connection is told at its next write.
                context.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }
}

fn lock<S>(writer: &Mutex<Writer<S>>) -> MutexGuard<'_, Writer<S>> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut writer = lock(&self.0);
        if !writer.budget.is_http2() {
            return Pin::new(&mut writer.stream).poll_write_vectored(context, pieces);
        }
        ready!(writer.poll_room(context))?;
        for piece in pieces {
            writer.waiting.extend_from_slice(piece);
        }
        Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The outlet's.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut writer = lock(&self.0);
        match writer.budget.is_http2() {
            true => writer.poll_room(context),
            false => Pin::new(&mut writer.stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut writer = lock(&self.0);
        ready!(writer.poll_out(context))?;
        Pin::new(&mut writer.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Counts writes.
    struct Counting<S>(S, Arc<AtomicUsize>);

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.1.fetch_add(1, Ordering::SeqCst);
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    /// A connection that writes a piece for whatever it is told, and flushes after each.
    async fn connection<S: AsyncWrite + Unpin>(
        stream: S,
        mut told: tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>,
    ) {
        let (mut gathered, mut outlet) = gathered(stream, Budget::of_http2());
        let writing = async {
            while let Some(piece) = told.recv().await {
                gathered.write_all(&piece).await.unwrap();
                gathered.flush().await.unwrap();
            }
            gathered.shutdown().await.unwrap();
        };
        let mut writing = std::pin::pin!(writing);
        poll_fn(|context| outlet.after(writing.as_mut().poll(context), context)).await;
    }

    /// One thread: all are told before any of them runs, however busy the machine is.
    #[tokio::test]
    async fn what_many_tasks_say_at_one_moment_is_one_write() {
        let (near, mut far) = duplex(1 << 20);
        let writes = Arc::new(AtomicUsize::new(0));
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        let running = tokio::spawn(connection(Counting(near, Arc::clone(&writes)), told));
        for round in 0..3_u8 {
            // Each of them wakes the connection.
            for _ in 0..50 {
                let tell = tell.clone();
                tokio::spawn(async move { tell.send(vec![round; 200]).unwrap() });
            }
            let mut read = vec![0; 50 * 200];
            far.read_exact(&mut read).await.unwrap();
            assert!(read.iter().all(|byte| *byte == round));
        }
        assert_eq!(writes.load(Ordering::SeqCst), 3);
        // What waits when the connection ends is written.
        tell.send(vec![9; 10]).unwrap();
        drop(tell);
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [9; 10]);
        running.await.unwrap();
    }

    /// A server's session and a client's, over a pipe that holds hardly anything.
    async fn sessions(
        pipe: usize,
    ) -> (
        tokio_rustls::server::TlsStream<tokio::io::DuplexStream>,
        tokio_rustls::client::TlsStream<tokio::io::DuplexStream>,
    ) {
        let key = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        let certificate = key.cert.der().clone();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into(),
            )
            .unwrap();
        let (near, far) = duplex(pipe);
        let name = rustls::pki_types::ServerName::try_from("x").unwrap();
        let (server, client) = tokio::join!(
            tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(near),
            tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, far),
        );
        (server.unwrap(), client.unwrap())
    }

    #[tokio::test]
    async fn by_tls_all_that_was_gathered_goes_out_and_not_only_up_to_what_the_socket_takes() {
        let (near, mut far) = sessions(1024).await;
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        let _running = tokio::spawn(connection(near, told));
        // A session takes some of these whole, and the pipe none.
        for len in [3_000, 30_000, MOST + 5_000] {
            tell.send(vec![7; len]).unwrap();
            let mut read = vec![0; len];
            let reading = far.read_exact(&mut read);
            tokio::time::timeout(std::time::Duration::from_secs(10), reading)
                .await
                .expect("all of it")
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_connection_that_nobody_reads_holds_a_bounded_amount_and_goes_on_afterwards() {
        let (near, mut far) = duplex(1024);
        let (mut stream, mut outlet) = gathered(near, Budget::of_http2());
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let running = tokio::spawn(async move {
            let writing = async {
                for _ in 0..100 {
                    stream.write_all(&[7; 10_000]).await.unwrap();
                    stream.flush().await.unwrap();
                    count.fetch_add(10_000, Ordering::SeqCst);
                }
                stream.shutdown().await.unwrap();
            };
            let mut writing = std::pin::pin!(writing);
            poll_fn(|context| outlet.after(writing.as_mut().poll(context), context)).await;
        });
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let held = sent.load(Ordering::SeqCst);
        assert!(held <= MOST + 10_000, "{held}");
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), 1_000_000);
        running.await.unwrap();
    }
}
