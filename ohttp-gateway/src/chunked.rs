//! Requests and responses that are sealed in chunks (draft-ietf-ohai-chunked-ohttp): one request
//! can have a live stream of answers.
//!
//! A request is read whole, within the limits of the listener, and passes the same checks as one of
//! the other kind. So no exchange is interactive, and a request that was cut reaches nobody. Of the
//! answers, those whose length the target says are collected, padded and sealed in one chunk; only
//! what the target makes bit by bit is sealed bit by bit, and shows the relay its sizes and times.
//!
//! A stream that ends in any other way than by its target's will has no final chunk, and the
//! connection to the relay is cut: nobody takes it for whole.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use oblivious::chunked::{RESPONSE, ResponseEncoder};
use oblivious::{SealError, binary_http};
use service::Problem;
use service::http::RequestBody;
use service::outgoing::Running;
use service::stream_limits::{StreamLimits, StreamOver};

use crate::binary_http::InnerResponse;
use crate::problems::Failure;
use crate::upstream::{Begun, Streamed};
use crate::{Parts, Route, count, refuse};

/// draft-ietf-httpbis-incremental: intermediaries are not to collect the content.
const INCREMENTAL: HeaderName = HeaderName::from_static("incremental");
/// What stands before a piece in binary HTTP, and around a chunk, at most.
const MOST_BEFORE: usize = 8;
const MOST_AROUND: usize = 64;

pub(crate) async fn answer(gateway: &Arc<Parts>, body: Result<RequestBody, Problem>) -> Response {
    let request = match body {
        Ok(RequestBody(request)) => request,
        Err(problem) => return problem.into_response(),
    };
    metrics::histogram!("ohttp_gateway_request_bytes").record(request.len() as f64);
    let now_ms = gateway.clock.monotonic_ms();
    let (opened, encoder) = match gateway.keys.decapsulate_chunked(&request, now_ms) {
        Ok(opened) => opened,
        Err(refusal) => return refuse(refusal),
    };
    drop(request);
    let begun = tokio::select! {
        begun = begin(gateway, &opened) => begun,
        () = gateway.shutdown.requested_before(gateway.grace) => Err(Failure::Ending),
    };
    let (outcome, whole) = match begun {
        Ok(Begun::Stream(streamed)) => {
            count("streamed");
            return stream_out(gateway, streamed, encoder);
        }
        Ok(Begun::Whole(response)) => ("answered", response),
        Err(failure) => (failure.outcome(), failure.problem().into()),
    };
    count(outcome);
    match seal_whole(&whole, opened.len(), encoder) {
        Some(sealed) => {
            metrics::histogram!("ohttp_gateway_response_bytes").record(sealed.len() as f64);
            respond(sealed.into())
        }
        None => {
            tracing::error!("a response could not be encapsulated");
            Problem::plain(StatusCode::INTERNAL_SERVER_ERROR).into_response()
        }
    }
}

async fn begin(gateway: &Parts, opened: &[u8]) -> Result<Begun, Failure> {
    match gateway.route(opened)? {
        Route::Own(response) => Ok(Begun::Whole(response)),
        Route::Forward(request, url) => gateway.upstream.begin(request, url).await,
    }
}

/// In chunks of full size, as many as its size bucket takes.
fn seal_whole(
    response: &InnerResponse,
    request: usize,
    encoder: ResponseEncoder,
) -> Option<Vec<u8>> {
    let inner = response.encode(request);
    let mut sealed = Vec::with_capacity(inner.len() + 1024);
    encoder.finish(&inner, &mut sealed).ok()?;
    Some(sealed)
}

fn respond(body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(RESPONSE)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (INCREMENTAL, HeaderValue::from_static("?1")),
    ];
    (headers, body).into_response()
}

/// What the target makes, sealed piece by piece as it comes. Its time limits are looked at whenever
/// the relay could take something. Where it takes nothing the listener looks at the whole time
/// ([`service::stream_limits::EndsBy`]). As soon as the relay is gone the target is let go.
struct Sealing {
    content: Incoming,
    /// Until the final chunk.
    encoder: Option<ResponseEncoder>,
    /// Binary HTTP that was not sealed yet.
    inner: Vec<u8>,
    bytes_left: u64,
    limits: StreamLimits,
    end: Ended,
    _by: Running,
}

fn stream_out(gateway: &Parts, streamed: Streamed, encoder: ResponseEncoder) -> Response {
    let settings = &gateway.stream;
    let mut inner = Vec::new();
    binary_http::response_head(streamed.status, &streamed.fields, &mut inner);
    let limits = StreamLimits::new(
        Duration::from_secs(settings.total_seconds),
        Duration::from_secs(settings.idle_seconds),
        &gateway.shutdown,
        gateway.grace,
    );
    let ends_by = limits.ends_by();
    let mut response = respond(Body::new(Sealing {
        content: streamed.content,
        encoder: Some(encoder),
        inner,
        bytes_left: settings.max_bytes,
        limits,
        end: Ended(End::Abandoned),
        _by: streamed.by,
    }));
    response.extensions_mut().insert(ends_by);
    response
}

impl Sealing {
    /// The next piece, sealed. None: the last one was the final one.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, End>>> {
        loop {
            if self.encoder.is_none() {
                return Poll::Ready(None);
            }
            if !self.inner.is_empty() {
                return Poll::Ready(Some(self.seal()));
            }
            let frame = match Pin::new(&mut self.content).poll_frame(context) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let over = ready!(self.limits.poll_over(context));
                    return Poll::Ready(Some(Err(over.into())));
                }
            };
            match frame {
                Some(Ok(frame)) => {
                    let Ok(piece) = frame.into_data() else {
                        continue;
                    };
                    if !self.limits.piece() {
                        return Poll::Ready(Some(Err(End::TooLong)));
                    }
                    match self.bytes_left.checked_sub(piece.len() as u64) {
                        Some(left) => self.bytes_left = left,
                        None => return Poll::Ready(Some(Err(End::TooLong))),
                    }
                    self.inner.reserve_exact(piece.len() + MOST_BEFORE);
                    binary_http::content(&piece, &mut self.inner);
                }
                Some(Err(_)) => return Poll::Ready(Some(Err(End::Broken))),
                None => return Poll::Ready(Some(self.seal_last())),
            }
        }
    }

    fn seal(&mut self) -> Result<Bytes, End> {
        let mut sealed = Vec::with_capacity(self.inner.len() + MOST_AROUND);
        let encoder = self.encoder.as_mut().ok_or(End::Broken)?;
        encoder.push(&self.inner, &mut sealed)?;
        // Nothing is kept of a piece while there is none.
        self.inner = Vec::new();
        Ok(sealed.into())
    }

    fn seal_last(&mut self) -> Result<Bytes, End> {
        let mut inner = Vec::new();
        binary_http::end(&mut inner);
        let mut sealed = Vec::with_capacity(inner.len() + MOST_AROUND);
        let encoder = self.encoder.take().ok_or(End::Broken)?;
        encoder.finish(&inner, &mut sealed)?;
        self.end.0 = End::Whole;
        Ok(sealed.into())
    }
}

impl http_body::Body for Sealing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = ready!(self.poll_piece(context));
        Poll::Ready(piece.map(|piece| match piece {
            Ok(piece) => Ok(Frame::data(piece)),
            // Ends the connection, where the end of the body would pass for the end of the
            // response.
            Err(end) => {
                self.end.0 = end;
                self.encoder = None;
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }))
    }
}

/// Counts how a stream ended, when it does.
struct Ended(End);

impl Drop for Ended {
    fn drop(&mut self) {
        let outcome = self.0.label();
        metrics::counter!("ohttp_gateway_streams_total", "outcome" => outcome).increment(1);
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By the target's will.
    Whole,
    /// The target broke off.
    Broken,
    /// The target was silent for too long.
    Idle,
    /// It went on for too long, or became too large.
    TooLong,
    /// The relay has gone, or reads no more.
    Abandoned,
    /// This process is about to end.
    Ending,
}

impl End {
    fn label(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Broken => "broken",
            Self::Idle => "idle",
            Self::TooLong => "too_long",
            Self::Abandoned => "abandoned",
            Self::Ending => "ending",
        }
    }
}

impl From<SealError> for End {
    fn from(_: SealError) -> Self {
        Self::TooLong
    }
}

impl From<StreamOver> for End {
    fn from(over: StreamOver) -> Self {
        match over {
            StreamOver::Idle => Self::Idle,
            StreamOver::Long => Self::TooLong,
            StreamOver::Ending => Self::Ending,
        }
    }
}
