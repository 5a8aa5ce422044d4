//! The gateway's answer on its way to the client.
//!
//! Whatever the gateway sends, only the answers here exist: the encapsulated response, the two
//! problems that a client can do something about, and one failure.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use service::{Problem, Shutdown};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use crate::request::Fault;
use crate::slots::Slot;

pub(crate) const OHTTP_RES: &str = "message/ohttp-res";
pub(crate) const OHTTP_CHUNKED_RES: &str = "message/ohttp-chunked-res";

/// Asks intermediaries to pass a message on as it comes: on every chunked message, and on no other
/// one.
pub(crate) const INCREMENTAL: HeaderName = HeaderName::from_static("incremental");
pub(crate) const IS_INCREMENTAL: HeaderValue = HeaderValue::from_static("?1");

/// RFC 9458 §5.3 and §6.5.2.
pub(crate) const OHTTP_KEY_PROBLEM: &str =
    "https://iana.org/assignments/http-problem-types#ohttp-key";
pub(crate) const DATE_PROBLEM: &str = "https://iana.org/assignments/http-problem-types#date";

/// An answer that is no stream is held back until it is complete or this long, so that one that
/// breaks off early is a failure that is told and no torn answer.
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
    /// There are as many requests at the gateway as there may be.
    Busy,
    /// Anything else, with a reason for the metrics.
    Failed(&'static str),
}

impl Answer {
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Whole(_) | Self::Streamed(_) => ANSWERED,
            Self::KeyProblem => "key_problem",
            Self::DateProblem => "date_problem",
            Self::Refused(fault) => fault.outcome(),
            Self::Busy => "busy",
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
            Self::Busy => busy().into_response(),
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

/// Nothing is wrong behind the relay: the client is to come again.
fn busy() -> Problem {
    Problem::plain(StatusCode::SERVICE_UNAVAILABLE)
        .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
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
    /// How long a stream goes on at most whose client is gone, and how many of these there are.
    pub(crate) drain: Duration,
    pub(crate) drains: Arc<Semaphore>,
    pub(crate) shutdown: Shutdown,
    pub(crate) grace: Duration,
}

/// Reads an answer that is no stream, up to its end or until it is clear that there is much of it.
pub(crate) async fn read(
    mut body: Incoming,
    bounds: &Bounds,
    slot: Slot,
) -> Result<Answer, &'static str> {
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
            let download = Download::new(held, body, announced, false, bounds, slot);
            Answer::Streamed(download)
        }
    })
}

/// An answer that is passed on while it comes in.
pub(crate) struct Download {
    first: Option<Bytes>,
    pieces: mpsc::Receiver<Result<Bytes, Torn>>,
    announced: Option<u64>,
    is_chunked: bool,
}

/// A torn answer: the client sees its connection or stream break off.
#[derive(Debug, thiserror::Error)]
#[error("the answer breaks off")]
pub(crate) struct Torn;

/// Pieces of an answer that wait for the client, and their size. An answer that is no longer than
/// all of them is taken from the gateway at once, whether the client takes it or not.
const PIECES: usize = 8;
const PIECE: usize = 16 * 1024;
/// Bytes that are taken of a stream after its client has gone: more than an even one of the largest
/// group has in five minutes.
const MOST_DRAINED: usize = 8 * 1024 * 1024;

impl Download {
    pub(crate) fn chunked(body: Incoming, bounds: &Bounds, slot: Slot) -> Self {
        Self::new(Bytes::new(), body, None, true, bounds, slot)
    }

    fn new(
        first: Bytes,
        body: Incoming,
        announced: Option<u64>,
        is_chunked: bool,
        bounds: &Bounds,
        slot: Slot,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES);
        let drains = is_chunked.then(|| (bounds.drain, Arc::clone(&bounds.drains)));
        let pump = Pump {
            body,
            drains,
            sender,
            taken: first.len() as u64,
            // A live stream has no size; it has an end.
            max_bytes: (!is_chunked).then_some(bounds.max_bytes),
            idle: if is_chunked {
                bounds.stream_idle
            } else {
                bounds.answer
            },
        };
        let whole = if is_chunked {
            bounds.stream
        } else {
            bounds.answer
        };
        tokio::spawn(pump.run(whole, bounds.shutdown.clone(), bounds.grace, slot));
        Self {
            first: (!first.is_empty()).then_some(first),
            pieces,
            announced,
            is_chunked,
        }
    }
}

/// Takes an answer from the gateway. It lets go of it in bounded time, also when the client takes
/// nothing; the slot is free as soon as the gateway has said everything.
struct Pump {
    body: Incoming,
    /// Of a stream.
    drains: Option<(Duration, Arc<Semaphore>)>,
    sender: mpsc::Sender<Result<Bytes, Torn>>,
    taken: u64,
    max_bytes: Option<u64>,
    idle: Duration,
}

impl Pump {
    async fn run(mut self, whole: Duration, shutdown: Shutdown, grace: Duration, slot: Slot) {
        let sender = self.sender.clone();
        let pumped = tokio::select! {
            pumped = self.pump() => pumped,
            () = sleep(whole) => Err("time"),
            () = shutdown.requested_before(grace) => Err("time"),
            // The client is gone.
            () = sender.closed() => return self.drain(&shutdown, grace, slot).await,
        };
        let taken = self.taken;
        drop((self, slot));
        match pumped {
            Ok(()) => metrics::histogram!("ohttp_relay_response_bytes").record(taken as f64),
            Err(reason) => {
                metrics::counter!("ohttp_relay_torn_answers_total", "reason" => reason)
                    .increment(1);
                let _ = sender.send(Err(Torn)).await;
            }
        }
    }

    /// Takes a stream to its end all the same: when a client goes is nothing that the gateway is to
    /// see. Not from a gateway that says much more than a client would wait for.
    async fn drain(self, shutdown: &Shutdown, grace: Duration, slot: Slot) {
        let Self {
            mut body, drains, ..
        } = self;
        let Some((longest, drains)) = drains else {
            return;
        };
        let Ok(_place) = drains.try_acquire() else {
            return;
        };
        let read = async {
            let mut left = MOST_DRAINED;
            while let Some(Ok(frame)) = body.frame().await {
                let len = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(len) {
                    Some(less) => left = less,
                    None => return,
                }
            }
        };
        tokio::select! {
            () = read => {}
            () = sleep(longest) => {}
            () = shutdown.requested_before(grace) => {}
        }
        drop(slot);
    }

    async fn pump(&mut self) -> Result<(), &'static str> {
        loop {
            let frame = tokio::time::timeout(self.idle, self.body.frame());
            let Some(frame) = frame.await.map_err(|_| "idle")? else {
                return Ok(());
            };
            // Trailers are left out, as all other fields.
            let Ok(mut data) = frame.map_err(|_| "broken")?.into_data() else {
                continue;
            };
            self.taken += data.len() as u64;
            if self.max_bytes.is_some_and(|most| self.taken > most) {
                return Err("too_large");
            }
            while !data.is_empty() {
                let piece = data.split_to(data.len().min(PIECE));
                // Whoever is gone is noticed elsewhere.
                let _ = self.sender.send(Ok(piece)).await;
            }
        }
    }
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
        let piece = ready!(self.pieces.poll_recv(context));
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }
}
