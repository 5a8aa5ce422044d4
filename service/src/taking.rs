//! How a peer takes answers: it may not hold one up for long, nor beyond the answer's own end.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::addresses::AddressPlace;
use crate::room::{Busy, Waiting};

/// As much of an answer as is handed out at once.
const PIECE: usize = 16 * 1024;

tokio::task_local! {
    /// Of an HTTP/2 stream.
    static HANDED: Cell<Handed>;
}

/// How much of an answer was handed out.
#[derive(Clone, Copy, Default)]
struct Handed {
    bytes: u64,
    /// The last ones wait to be taken.
    is_waiting: bool,
    /// When the answer ends at the latest.
    ends: Option<Instant>,
}

/// Runs the streams of HTTP/2 connections, each in a task. A peer can leave the window of one of
/// them closed, which no write to the connection notices: the answer of such a stream ends
/// (RST_STREAM), and the others on its connection, which may be of other clients behind the same
/// relay, go on.
#[derive(Clone)]
pub(crate) struct Streams {
    /// With what is not taken of an answer.
    patience: Duration,
}

impl Streams {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience }
    }
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

    /// It lets us wait. Ready: for too long, or until the answer `ends`.
    #[allow(
        clippy::disallowed_methods,
        reason = "how long a peer takes, by no clock that anybody sets"
    )]
    fn poll_over(&mut self, ends: Option<Instant>, context: &mut Context<'_>) -> Poll<()> {
        let left = self.patience.saturating_sub(self.owed);
        let (_, timer) = self.since.get_or_insert_with(|| {
            let now = Instant::now();
            let over = ends.map_or(now + left, |ends| ends.min(now + left));
            (now, Box::pin(sleep_until(over)))
        });
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
        let handed = HANDED.with(Cell::get);
        if handed.bytes != counted || !handed.is_waiting {
            // All but the last ones.
            waits.took(handed.bytes - counted);
            counted = handed.bytes;
        }
        if !handed.is_waiting {
            return Poll::Pending;
        }
        ready!(waits.poll_over(handed.ends, context));
        metrics::counter!("http_streams_reset_total").increment(1);
        Poll::Ready(())
    })
    .await;
}

/// A response body that keeps its connection from being idle. It is handed out in pieces.
pub(crate) struct Counted {
    body: Body,
    /// Of the last frame.
    rest: Bytes,
    /// There is a piece that the peer has not asked to go beyond.
    handed: Option<Waiting>,
    ends: Option<Instant>,
    of_address: Option<AddressPlace>,
    busy: Busy,
}

/// Bytes of an answer. HTTP/2 keeps the last ones for as long as the peer leaves them there, when
/// the answer is over for us. So they hold the answer's place among those of its address.
pub(crate) struct Piece {
    bytes: Bytes,
    _of_address: Option<AddressPlace>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Counted {
    pub(crate) fn new(
        body: Body,
        ends: Option<Instant>,
        of_address: Option<AddressPlace>,
        busy: Busy,
    ) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            handed: None,
            ends,
            of_address,
            busy,
        }
    }

    fn piece(&mut self, mut bytes: Bytes) -> Piece {
        if bytes.len() > PIECE {
            self.rest = bytes.split_off(PIECE);
        }
        Piece {
            bytes,
            _of_address: self.of_address.clone(),
        }
    }
}

impl HttpBody for Counted {
    type Data = Piece;
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
        let polled = polled.map(|frame| {
            let frame = frame?;
            Some(frame.map(|frame| frame.map_data(|bytes| self.piece(bytes))))
        });
        let is_handed = matches!(polled, Poll::Ready(Some(Ok(_))));
        self.handed = match self.handed.take() {
            _ if !is_handed => None,
            None => Some(self.busy.activity().waits()),
            handed => handed,
        };
        let len = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, Buf::remaining),
            _ => 0,
        };
        // Under HTTP/1.1 a part that waits is one of the connection, which notices.
        let _ = HANDED.try_with(|handed| {
            handed.set(Handed {
                bytes: handed.get().bytes.saturating_add(len as u64),
                is_waiting: is_handed,
                ends: self.ends,
            });
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

/// When the answer on a connection of HTTP/1.1 ends at the latest.
pub(crate) type Ends = Mutex<Option<Instant>>;

/// A connection that fails when its peer takes what is written too slowly, or not until the answer
/// ends. In HTTP/2 it says nothing of ends: an answer is one of many there.
pub(crate) struct Patient<S> {
    stream: S,
    waits: Waits,
    ends: Arc<Ends>,
}

impl<S> Patient<S> {
    pub(crate) fn new(stream: S, patience: Duration, ends: Arc<Ends>) -> Self {
        Self {
            stream,
            waits: Waits::new(patience),
            ends,
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
        let ends = *self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ready!(self.waits.poll_over(ends, context));
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
    use tokio::time::timeout;

    use super::*;

    /// How many parts of so many bytes it takes, each at the end of a pause, before it is cut; at
    /// most ten.
    async fn parts(bytes: u64, pause: Duration) -> usize {
        let mut waits = Waits::new(Duration::from_millis(400));
        for part in 0..10 {
            let over = std::future::poll_fn(|context| waits.poll_over(None, context));
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
