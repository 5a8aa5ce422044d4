//! Frames of HTTP/2 that ask for work and bring nothing, counted where they come in.
//!
//! A peer may send as many PING and SETTINGS frames as it likes (RFC 9113 §10.5): each costs it a
//! few bytes and us an answer, and SETTINGS a walk over all streams. The library bounds what it
//! queues, not what it does. So each connection has a budget for all frames that are not content.
//! It grows by requests that were answered, by what the peer takes of the answers, and slowly with
//! time; a connection that is over it ends.
//!
//! A peer that has proved who it is passes on the requests of others, and gives one up when its
//! client does. So its requests count before they are answered ([`Budget::earn`]): no client can
//! have a connection cut that the others use.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Frames that a new connection may send beside its first requests, and what comes back in a
/// second.
const FIRST: u64 = 512;
const PER_SECOND: u64 = 64;
/// What a request adds that counts, up to a bound: trailers, windows, a reset.
const PER_REQUEST: u64 = 8;
const MOST: u64 = 8192;
/// A peer opens windows as it takes what we send: a frame for its stream and one for the
/// connection, some of them for every 4 KiB.
const BYTES_PER_WINDOW_UPDATE: u64 = 1024;
/// Content in pieces shorter than this is counted as frames.
const SMALL: u32 = 64;

/// How HTTP/2 begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length, type, flags and stream (RFC 9113 §4.1).
const HEAD: usize = 9;
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 0x1;
const PADDED: u8 = 0x8;

/// What a connection may still send.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Requests that count, since the reader looked.
    earned: AtomicU64,
    /// The connection has begun as one of HTTP/2.
    is_http2: AtomicBool,
}

impl Budget {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            earned: AtomicU64::new(0),
            is_http2: AtomicBool::new(false),
        })
    }

    #[cfg(test)]
    pub(crate) fn of_http2() -> Arc<Self> {
        let budget = Self::new();
        budget.is_http2.store(true, Ordering::Relaxed);
        budget
    }

    /// Whether the connection has begun as one of HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// A request counts: it has its answer, or is of a peer that has proved who it is.
    pub(crate) fn earn(&self) {
        self.earned.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection whose frames are counted, if it is one of HTTP/2.
pub(crate) struct Counting<S> {
    stream: S,
    frames: Frames,
    budget: Arc<Budget>,
}

impl<S> Counting<S> {
    /// Of a new `stream`. `requests` may run at once.
    #[allow(
        clippy::disallowed_methods,
        reason = "a rate within this process, by no clock that anybody sets"
    )]
    pub(crate) fn new(stream: S, requests: u32, budget: Arc<Budget>) -> Self {
        Self {
            stream,
            frames: Frames {
                preface: Some(PREFACE),
                skip: 0,
                head: [0; HEAD],
                len: 0,
                left: FIRST + u64::from(requests),
                window_bytes: 0,
                as_of: Instant::now(),
            },
            budget,
        }
    }
}

/// Walks over the frames of what comes in.
struct Frames {
    /// What is to come of it. `None`: something else came.
    preface: Option<&'static [u8]>,
    /// Bytes before the next head.
    skip: u64,
    head: [u8; HEAD],
    len: usize,
    left: u64,
    /// Sent, and not yet answered by windows.
    window_bytes: u64,
    as_of: Instant,
}

impl Frames {
    /// `false`: that was too much.
    fn take(&mut self, mut bytes: &[u8], budget: &Budget) -> bool {
        let Some(preface) = self.preface else {
            return true;
        };
        let some = bytes.len().min(preface.len());
        self.preface = (bytes[..some] == preface[..some]).then(|| &preface[some..]);
        match self.preface {
            None => return true,
            Some([]) => budget.is_http2.store(true, Ordering::Relaxed),
            Some(_) => {}
        }
        bytes = &bytes[some..];
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = bytes
                    .len()
                    .min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                self.skip -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            let some = bytes.len().min(HEAD - self.len);
            self.head[self.len..self.len + some].copy_from_slice(&bytes[..some]);
            self.len += some;
            bytes = &bytes[some..];
            if self.len == HEAD {
                self.len = 0;
                let [a, b, c, kind, flags, ..] = self.head;
                let length = u32::from_be_bytes([0, a, b, c]);
                self.skip = length.into();
                if !self.pay(kind, flags, length, budget) {
                    return false;
                }
            }
        }
        true
    }

    fn pay(&mut self, kind: u8, flags: u8, length: u32, budget: &Budget) -> bool {
        match kind {
            // Of content the listener takes so much for each request. Padding is none.
            DATA if flags & END_STREAM != 0 => return true,
            DATA if length >= SMALL && flags & PADDED == 0 => return true,
            WINDOW_UPDATE if self.window_bytes >= BYTES_PER_WINDOW_UPDATE => {
                self.window_bytes -= BYTES_PER_WINDOW_UPDATE;
                return true;
            }
            _ => {}
        }
        if self.left == 0 {
            self.refill(budget);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// What came back since it was last needed.
    #[allow(
        clippy::disallowed_methods,
        reason = "a rate within this process, by no clock that anybody sets"
    )]
    fn refill(&mut self, budget: &Budget) {
        let earned = budget.earned.swap(0, Ordering::Relaxed);
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.as_of);
        let seconds = elapsed.as_secs().min(FIRST / PER_SECOND);
        if elapsed >= Duration::from_secs(1) {
            self.as_of = now;
        }
        self.left = earned
            .saturating_mul(PER_REQUEST)
            .min(MOST)
            .max(seconds * PER_SECOND);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counting<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if matches!(read, Poll::Ready(Ok(())))
            && !this.frames.take(&buffer.filled()[before..], &this.budget)
        {
            metrics::counter!("http2_floods_total").increment(1);
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> Counting<S> {
    fn sent(&mut self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(len)) = written {
            let bytes = &mut self.frames.window_bytes;
            *bytes = bytes.saturating_add(*len as u64);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.sent(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.sent(&written);
        written
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
