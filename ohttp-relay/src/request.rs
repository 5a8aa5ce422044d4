//! The client's body on its way to the gateway: never whole in memory, limited while it passes.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::{Body as _, Frame};
use metrics::Histogram;
use service::Problem;
use tokio::time::{Sleep, sleep};

use crate::padding::Padding;

/// A body that is no stream goes on in blocks of this size, however it arrives: by its pieces the gateway could
/// tell networks and clients apart.
const BLOCK: usize = 16 * 1024;

/// What is wrong with a request, by the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    MediaType,
    TooLarge,
    TooSlow,
    Broken,
    Unpadded,
}

impl Fault {
    pub(crate) fn outcome(self) -> &'static str {
        match self {
            Self::MediaType => "media_type",
            Self::TooLarge => "request_too_large",
            Self::TooSlow => "request_too_slow",
            Self::Broken => "request_broken",
            Self::Unpadded => "request_unpadded",
        }
    }

    pub(crate) fn problem(self) -> Problem {
        match self {
            Self::MediaType => Problem::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            Self::TooLarge => Problem::plain(StatusCode::PAYLOAD_TOO_LARGE),
            Self::TooSlow => Problem::plain(StatusCode::REQUEST_TIMEOUT),
            Self::Broken => Problem::plain(StatusCode::BAD_REQUEST),
            Self::Unpadded => Problem::new(
                StatusCode::BAD_REQUEST,
                "urn:mimi-ds:problem:ohttp-unpadded",
                "The encapsulated request is not padded",
            ),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.outcome())
    }
}

impl std::error::Error for Fault {}

/// Where a fault is left that comes up while a body passes.
pub(crate) type FaultCell = Arc<OnceLock<Fault>>;

/// The body, as the gateway's connection takes it. Its length is never announced, so that a client that
/// announces one and a client that does not look the same.
pub(crate) struct Upload {
    body: Body,
    fault: FaultCell,
    padding: Option<Padding>,
    /// Of a stream: between two pieces, which go on as they come. Otherwise: of the whole body.
    patience: Duration,
    is_stream: bool,
    timer: Option<Pin<Box<Sleep>>>,
    block: BytesMut,
    taken: u64,
    ended: bool,
    /// Of whole bodies, for the metrics.
    length: Histogram,
}

impl Upload {
    pub(crate) fn whole(
        body: Body,
        patience: Duration,
        padding: Option<Padding>,
        length: Histogram,
    ) -> Self {
        Self {
            body,
            fault: FaultCell::default(),
            padding,
            patience,
            is_stream: false,
            timer: None,
            block: BytesMut::new(),
            taken: 0,
            ended: false,
            length,
        }
    }

    pub(crate) fn stream(body: Body, idle: Duration, length: Histogram) -> Self {
        Self {
            is_stream: true,
            ..Self::whole(body, idle, None, length)
        }
    }

    pub(crate) fn fault(&self) -> FaultCell {
        Arc::clone(&self.fault)
    }

    /// Waits for what goes on first: who sends nothing holds nothing at the gateway.
    ///
    /// # Errors
    /// The client's fault.
    pub(crate) async fn begin(&mut self) -> Result<(), Fault> {
        poll_fn(|context| self.poll_block(context)).await
    }

    /// Until `block` has what goes on next, or nothing when the body has ended.
    fn poll_block(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let least = if self.is_stream { 1 } else { BLOCK };
        while self.block.len() < least && !self.ended {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                let patience = self.patience;
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
                ready!(timer.as_mut().poll(context));
                return Poll::Ready(Err(self.fail(Fault::TooSlow)));
            };
            match frame {
                None => {
                    if let Some(fault) = self.end() {
                        return Poll::Ready(Err(self.fail(fault)));
                    }
                }
                Some(Err(error)) => {
                    let is_too_large = service::http::is_length_limit(&error);
                    return Poll::Ready(Err(self.fail(if is_too_large {
                        Fault::TooLarge
                    } else {
                        Fault::Broken
                    })));
                }
                Some(Ok(frame)) => {
                    // Trailers are left out: they would be fields of the client's choice.
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    self.taken += data.len() as u64;
                    self.block.extend_from_slice(&data);
                    if self.is_stream {
                        self.timer = None;
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn fail(&mut self, fault: Fault) -> Fault {
        self.ended = true;
        self.block.clear();
        let _ = self.fault.set(fault);
        fault
    }

    /// What is there when the client has sent everything. The gateway has no whole request before that.
    fn end(&mut self) -> Option<Fault> {
        self.ended = true;
        let is_padded = self
            .padding
            .as_ref()
            .is_none_or(|padding| padding.allows(self.taken));
        if !is_padded {
            return Some(Fault::Unpadded);
        }
        self.length.record(self.taken as f64);
        None
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Err(fault) = ready!(self.poll_block(context)) {
            return Poll::Ready(Some(Err(fault)));
        }
        let len = if self.is_stream {
            self.block.len()
        } else {
            self.block.len().min(BLOCK)
        };
        let block = self.block.split_to(len).freeze();
        Poll::Ready((!block.is_empty()).then_some(Ok(Frame::data(block))))
    }
}
