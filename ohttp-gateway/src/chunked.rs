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
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use oblivious::chunked::{RESPONSE, ResponseEncoder};
use oblivious::{SealError, binary_http};
use protocol::padding;
use service::Problem;
use service::http::RequestBody;
use tokio::sync::mpsc;

use crate::binary_http::InnerResponse;
use crate::config::StreamSettings;
use crate::problems::Failure;
use crate::upstream::{Begun, Streamed};
use crate::{Parts, Route, count, refuse};

/// draft-ietf-httpbis-incremental: intermediaries are not to collect the content.
const INCREMENTAL: HeaderName = HeaderName::from_static("incremental");

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
    match seal_whole(&whole, encoder) {
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
fn seal_whole(response: &InnerResponse, encoder: ResponseEncoder) -> Option<Vec<u8>> {
    let inner = response.encode();
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

/// Seals what the target makes in a task of its own: its time limits hold also while the relay
/// reads nothing, and the target is let go as soon as the relay is gone.
fn stream_out(gateway: &Arc<Parts>, streamed: Streamed, encoder: ResponseEncoder) -> Response {
    let (sender, receiver) = mpsc::channel(1);
    let gateway = Arc::clone(gateway);
    tokio::spawn(async move {
        let limit = Duration::from_secs(gateway.stream.total_seconds);
        let outcome = tokio::select! {
            pumped = pump(&gateway.stream, streamed, encoder, &sender) => {
                pumped.err().unwrap_or(End::Whole)
            }
            () = tokio::time::sleep(limit) => End::TooLong,
            () = gateway.shutdown.requested_before(gateway.grace) => End::Ending,
            () = sender.closed() => End::Abandoned,
        };
        metrics::counter!("ohttp_gateway_streams_total", "outcome" => outcome.label()).increment(1);
    });
    let pieces = stream::unfold(Some(receiver), |receiver| async {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Sealed::Piece(bytes)) => Some((Ok(bytes), Some(receiver))),
            Some(Sealed::Last(bytes)) => Some((Ok(bytes), None)),
            // Ends the connection, where the end of the body would pass for the end of the
            // response.
            None => Some((Err(io::Error::from(io::ErrorKind::BrokenPipe)), None)),
        }
    });
    respond(Body::from_stream(pieces))
}

enum Sealed {
    Piece(Bytes),
    /// With the final chunk.
    Last(Bytes),
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

/// Until the target has ended: seals and sends each of its pieces as it comes.
async fn pump(
    settings: &StreamSettings,
    mut streamed: Streamed,
    mut encoder: ResponseEncoder,
    sender: &mpsc::Sender<Sealed>,
) -> Result<(), End> {
    let mut inner = Vec::new();
    let mut inner_len = 0;
    let mut bytes_left = settings.max_bytes;
    binary_http::response_head(streamed.status, &streamed.fields, &mut inner);
    loop {
        let mut sealed = Vec::with_capacity(inner.len() + 64);
        encoder.push(&inner, &mut sealed)?;
        send(sender, Sealed::Piece(sealed.into())).await?;
        inner_len += inner.len();
        inner.clear();
        let idle = Duration::from_secs(settings.idle_seconds);
        let piece = tokio::time::timeout(idle, streamed.next())
            .await
            .map_err(|_| End::Idle)?
            .map_err(|_| End::Broken)?;
        let Some(piece) = piece else { break };
        bytes_left = bytes_left
            .checked_sub(piece.len() as u64)
            .ok_or(End::TooLong)?;
        binary_http::content(&piece, &mut inner);
    }
    binary_http::end(&mut inner);
    // The sizes of the chunks are seen anyway; at least the sum says less.
    inner_len += inner.len();
    inner.resize(inner.len() + padding::bucket(inner_len) - inner_len, 0);
    let mut sealed = Vec::with_capacity(inner.len() + 64);
    encoder.finish(&inner, &mut sealed)?;
    send(sender, Sealed::Last(sealed.into())).await
}

async fn send(sender: &mpsc::Sender<Sealed>, sealed: Sealed) -> Result<(), End> {
    sender.send(sealed).await.map_err(|_| End::Abandoned)
}
