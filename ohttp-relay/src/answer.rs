//! The gateway's answer on its way to the client.
//!
//! Whatever the gateway sends, only the answers here exist: the encapsulated response, the two problems that a
//! client can do something about, and one failure.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use service::{Problem, Shutdown};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use crate::request::Fault;
use crate::slots::Slot;

pub(crate) const OHTTP_RES: &str = "message/ohttp-res";
pub(crate) const OHTTP_CHUNKED_RES: &str = "message/ohttp-chunked-res";

/// Asks intermediaries to pass a message on as it comes: on every chunked message, and on no other one.
pub(crate) const INCREMENTAL: HeaderName = HeaderName::from_static("incremental");
pub(crate) const IS_INCREMENTAL: HeaderValue = HeaderValue::from_static("?1");

/// RFC 9458 §5.3 and §6.5.2.
pub(crate) const OHTTP_KEY_PROBLEM: &str =
    "https://iana.org/assignments/http-problem-types#ohttp-key";
pub(crate) const DATE_PROBLEM: &str = "https://iana.org/assignments/http-problem-types#date";

/// An answer that is no stream is held back until it is complete or this long, so that one that breaks
/// off early is a failure that is told and no torn answer.
const HELD_BACK: usize = 64 * 1024;

/// The outcome of nearly all requests.
pub(crate) const ANSWERED: &str = "encapsulated";

/// What came of a request.
pub(crate) enum Answer {
    /// The encapsulated response.
    Whole(Bytes),
    /// An encapsulated response that is still coming in.
    Streamed(Download),
    KeyProblem,
    DateProblem,
    /// The client's fault.
    Refused(Fault),
    /// Anything else, with a reason for the metrics.
    Failed(&'static str),
}

impl Answer {
    /// An answer that still comes in counts as a request at the gateway.
    pub(crate) fn holding(self, slot: Slot) -> Self {
        match self {
            Self::Streamed(download) => Self::Streamed(Download {
                slot: Some(slot),
                ..download
            }),
            other => other,
        }
    }

    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Whole(_) | Self::Streamed(_) => ANSWERED,
            Self::KeyProblem => "key_problem",
            Self::DateProblem => "date_problem",
            Self::Refused(fault) => fault.outcome(),
            Self::Failed(reason) => reason,
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Self::Whole(body) => (encapsulated(OHTTP_RES), body).into_response(),
            Self::Streamed(download) if download.is_chunked => {
                let incremental = [(INCREMENTAL, IS_INCREMENTAL)];
                let headers = encapsulated(OHTTP_CHUNKED_RES);
                (headers, incremental, Body::new(download)).into_response()
            }
            Self::Streamed(download) => {
                let length = download
                    .announced
                    .map(|length| [(CONTENT_LENGTH, length.into())]);
                let length: Option<[(HeaderName, HeaderValue); 1]> = length;
                let mut response = (encapsulated(OHTTP_RES), Body::new(download)).into_response();
                response.headers_mut().extend(length.into_iter().flatten());
                response
            }
            Self::KeyProblem => Problem::new(
                StatusCode::BAD_REQUEST,
                OHTTP_KEY_PROBLEM,
                "The key configuration of the request is not known to the gateway",
            )
            .into_response(),
            Self::DateProblem => Problem::new(
                StatusCode::BAD_REQUEST,
                DATE_PROBLEM,
                "The date of the request is missing or not acceptable",
            )
            .into_response(),
            Self::Refused(fault) => fault.problem().into_response(),
            Self::Failed(_) => failure().into_response(),
        }
    }
}

fn encapsulated(media_type: &'static str) -> [(HeaderName, HeaderValue); 2] {
    [
        (CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ]
}

/// The one answer to everything that goes wrong behind the relay.
pub(crate) fn failure() -> Problem {
    Problem::plain(StatusCode::BAD_GATEWAY)
}

/// The limits of an answer.
#[derive(Clone)]
pub(crate) struct Bounds {
    /// Of an answer that is no stream.
    pub(crate) answer: Duration,
    /// Of a stream, and between two pieces of it.
    pub(crate) stream: Duration,
    pub(crate) stream_idle: Duration,
    pub(crate) max_bytes: u64,
    pub(crate) shutdown: Shutdown,
    pub(crate) grace: Duration,
}

/// Reads an answer that is no stream, up to its end or until it is clear that there is much of it.
pub(crate) async fn read(mut body: Incoming, bounds: &Bounds) -> Result<Answer, &'static str> {
    let announced = body.size_hint().exact();
    if announced.is_some_and(|length| length > bounds.max_bytes) {
        return Err("too_large");
    }
    let mut held: Option<BytesMut> = None;
    let read = async {
        loop {
            let Some(frame) = body.frame().await else {
                return Ok(Some(held.take().unwrap_or_default().freeze()));
            };
            let Ok(data) = frame.map_err(|_| "broken")?.into_data() else {
                continue;
            };
            if held.is_none() && body.is_end_stream() && data.len() as u64 <= bounds.max_bytes {
                return Ok(Some(data));
            }
            let held = held.get_or_insert_default();
            held.extend_from_slice(&data);
            if held.len() as u64 > bounds.max_bytes {
                return Err("too_large");
            }
            if held.len() >= HELD_BACK {
                return Ok(None);
            }
        }
    };
    let whole = tokio::time::timeout(bounds.answer, read)
        .await
        .unwrap_or(Err("answer_timeout"))?;
    Ok(match whole {
        Some(whole) => Answer::Whole(whole),
        None => {
            let held = held.unwrap_or_default().freeze();
            let download = Download::new(held, body, announced, false, bounds, bounds.answer);
            Answer::Streamed(download)
        }
    })
}

/// An answer that is passed on while it comes in.
pub(crate) struct Download {
    first: Option<Bytes>,
    upstream: Arc<Mutex<Option<Incoming>>>,
    announced: Option<u64>,
    is_chunked: bool,
    taken: u64,
    max_bytes: u64,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    ended: oneshot::Receiver<()>,
    #[allow(dead_code, reason = "is held")]
    slot: Option<Slot>,
}

/// A torn answer: the client sees its connection or stream break off.
#[derive(Debug, thiserror::Error)]
#[error("the answer breaks off")]
pub(crate) struct Torn;

impl Download {
    pub(crate) fn chunked(body: Incoming, bounds: &Bounds) -> Self {
        Self::new(Bytes::new(), body, None, true, bounds, bounds.stream)
    }

    fn new(
        first: Bytes,
        body: Incoming,
        announced: Option<u64>,
        is_chunked: bool,
        bounds: &Bounds,
        whole: Duration,
    ) -> Self {
        let upstream = Arc::new(Mutex::new(Some(body)));
        let ended = end_after(&upstream, whole, bounds);
        Self {
            taken: first.len() as u64,
            first: (!first.is_empty()).then_some(first),
            upstream,
            announced,
            is_chunked,
            max_bytes: bounds.max_bytes,
            idle: if is_chunked {
                bounds.stream_idle
            } else {
                whole
            },
            timer: None,
            ended,
            slot: None,
        }
    }

    fn tear(&mut self, reason: &'static str) -> Poll<Option<Result<Frame<Bytes>, Torn>>> {
        self.upstream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        metrics::counter!("ohttp_relay_torn_answers_total", "reason" => reason).increment(1);
        Poll::Ready(Some(Err(Torn)))
    }
}

/// Lets go of the gateway's side in bounded time, also when the client takes nothing and so the body is
/// never asked for more.
fn end_after(
    upstream: &Arc<Mutex<Option<Incoming>>>,
    whole: Duration,
    bounds: &Bounds,
) -> oneshot::Receiver<()> {
    let (mut end, ended) = oneshot::channel();
    let (upstream, shutdown, grace) = (Arc::clone(upstream), bounds.shutdown.clone(), bounds.grace);
    tokio::spawn(async move {
        tokio::select! {
            () = end.closed() => return,
            () = sleep(whole) => {}
            () = shutdown.requested_before(grace) => {}
        }
        upstream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let _ = end.send(());
    });
    ended
}

impl http_body::Body for Download {
    type Data = Bytes;
    type Error = Torn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Torn>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if Pin::new(&mut self.ended).poll(context).is_ready() {
            return self.tear("time");
        }
        loop {
            let polled = {
                let mut upstream = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(body) = upstream.as_mut() else {
                    drop(upstream);
                    return self.tear("time");
                };
                Pin::new(body).poll_frame(context)
            };
            match polled {
                Poll::Pending => {
                    let idle = self.idle;
                    let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(idle)));
                    if timer.as_mut().poll(context).is_ready() {
                        return self.tear("idle");
                    }
                    return Poll::Pending;
                }
                Poll::Ready(None) => {
                    metrics::histogram!("ohttp_relay_response_bytes").record(self.taken as f64);
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(_))) => return self.tear("broken"),
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are left out, as all other fields.
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    self.timer = None;
                    self.taken += data.len() as u64;
                    // A live stream has no size; it has an end.
                    if !self.is_chunked && self.taken > self.max_bytes {
                        return self.tear("too_large");
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
        }
    }
}
