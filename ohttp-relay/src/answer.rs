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
use service::stream_limits::{EndsBy, StreamLimits, StreamOver};
use service::{Problem, Shutdown};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use crate::Form;
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
    Whole(Bytes, Form),
    /// A long one that is still coming in.
    Long(Download, Form),
    /// A stream.
    Live(Box<Live>),
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
            Self::Whole(..) | Self::Long(..) | Self::Live(_) => ANSWERED,
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
            Self::Whole(body, form) => encapsulated(form, body.into()),
            Self::Live(live) => {
                let ends_by = live.limits.ends_by();
                let mut response = encapsulated(Form::Chunked, Body::new(*live));
                response.extensions_mut().insert(ends_by);
                response
            }
            Self::Long(download, form) => {
                let announced = download.announced;
                let mut response = encapsulated(form, Body::new(download));
                if let Some(length) = announced {
                    response.headers_mut().insert(CONTENT_LENGTH, length.into());
                }
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

fn encapsulated(form: Form, body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let media_type = match form {
        Form::Whole => OHTTP_RES,
        Form::Chunked => {
            headers.insert(INCREMENTAL, IS_INCREMENTAL);
            OHTTP_CHUNKED_RES
        }
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
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
    form: Form,
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
        Some(whole) => Answer::Whole(whole, form),
        None => {
            let held = held.unwrap_or_default().freeze();
            let download = Download::new(held, body, announced, bounds, slot);
            Answer::Long(download, form)
        }
    })
}

/// A long answer that is no stream, passed on while it comes in.
pub(crate) struct Download {
    first: Option<Bytes>,
    pieces: mpsc::Receiver<Result<Bytes, Torn>>,
    announced: Option<u64>,
}

/// A torn answer: the client sees its connection or stream break off.
#[derive(Debug, thiserror::Error)]
#[error("the answer breaks off")]
pub(crate) struct Torn;

impl Torn {
    fn because(reason: &'static str) -> Self {
        metrics::counter!("ohttp_relay_torn_answers_total", "reason" => reason).increment(1);
        Self
    }
}

/// Pieces of an answer that wait for the client, and their size. An answer that is no longer than
/// all of them is taken from the gateway at once, whether the client takes it or not.
const PIECES: usize = 8;
const PIECE: usize = 16 * 1024;
/// Bytes that are taken of a stream after its client has gone: more than an even one of the largest
/// group has in five minutes.
const MOST_DRAINED: usize = 8 * 1024 * 1024;

impl Download {
    fn new(
        first: Bytes,
        body: Incoming,
        announced: Option<u64>,
        bounds: &Bounds,
        slot: Slot,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES);
        let pump = Pump {
            body,
            sender,
            taken: first.len() as u64,
            max_bytes: bounds.max_bytes,
        };
        tokio::spawn(pump.run(bounds.clone(), slot));
        Self {
            first: Some(first),
            pieces,
            announced,
        }
    }
}

/// Takes an answer from the gateway. It lets go of it in bounded time, also when the client takes
/// nothing; the slot is free as soon as the gateway has said everything.
struct Pump {
    body: Incoming,
    sender: mpsc::Sender<Result<Bytes, Torn>>,
    taken: u64,
    max_bytes: u64,
}

impl Pump {
    async fn run(mut self, bounds: Bounds, slot: Slot) {
        let sender = self.sender.clone();
        let pumped = tokio::select! {
            pumped = self.pump() => pumped,
            () = sleep(bounds.answer) => Err("time"),
            () = bounds.shutdown.requested_before(bounds.grace) => Err("time"),
            // The client is gone.
            () = sender.closed() => return,
        };
        let taken = self.taken;
        drop((self, slot));
        match pumped {
            Ok(()) => metrics::histogram!("ohttp_relay_response_bytes").record(taken as f64),
            Err(reason) => {
                let _ = sender.send(Err(Torn::because(reason))).await;
            }
        }
    }

    async fn pump(&mut self) -> Result<(), &'static str> {
        while let Some(frame) = self.body.frame().await {
            // Trailers are left out, as all other fields.
            let Ok(mut data) = frame.map_err(|_| "broken")?.into_data() else {
                continue;
            };
            self.taken += data.len() as u64;
            if self.taken > self.max_bytes {
                return Err("too_large");
            }
            while !data.is_empty() {
                let piece = data.split_to(data.len().min(PIECE));
                // Whoever is gone is noticed elsewhere.
                let _ = self.sender.send(Ok(piece)).await;
            }
        }
        Ok(())
    }
}

/// A stream, each piece of which is passed on as soon as it has come. It has no size; it has an
/// end.
pub(crate) struct Live {
    /// Until it is over.
    open: Option<(Incoming, Slot)>,
    limits: StreamLimits,
    taken: u64,
    bounds: Bounds,
}

impl Live {
    pub(crate) fn new(body: Incoming, bounds: &Bounds, slot: Slot) -> Self {
        Self {
            open: Some((body, slot)),
            limits: StreamLimits::new(
                bounds.stream,
                bounds.stream_idle,
                &bounds.shutdown,
                bounds.grace,
            ),
            taken: 0,
            bounds: bounds.clone(),
        }
    }

    fn tear(&mut self, reason: &'static str) -> Poll<Option<Result<Frame<Bytes>, Torn>>> {
        self.open = None;
        Poll::Ready(Some(Err(Torn::because(reason))))
    }
}

impl http_body::Body for Live {
    type Data = Bytes;
    type Error = Torn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Torn>>> {
        while let Some((body, _)) = &mut self.open {
            match Pin::new(body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are left out, as all other fields.
                    if let Ok(data) = frame.into_data() {
                        self.taken += data.len() as u64;
                        if !self.limits.piece() {
                            return self.tear("time");
                        }
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Poll::Ready(Some(Err(_))) => return self.tear("broken"),
                Poll::Ready(None) => {
                    let taken = self.taken as f64;
                    metrics::histogram!("ohttp_relay_response_bytes").record(taken);
                    self.open = None;
                }
                Poll::Pending => {
                    return match ready!(self.limits.poll_over(context)) {
                        StreamOver::Idle => self.tear("idle"),
                        StreamOver::Long | StreamOver::Ending => self.tear("time"),
                    };
                }
            }
        }
        Poll::Ready(None)
    }
}

impl Drop for Live {
    /// When a client goes is nothing that the gateway is to see: what goes on is taken to its end.
    fn drop(&mut self) {
        let (Some((body, slot)), Ok(runtime)) = (self.open.take(), Handle::try_current()) else {
            return;
        };
        let EndsBy(end) = self.limits.ends_by();
        runtime.spawn(drain(body, self.bounds.clone(), end, slot));
    }
}

/// Takes a stream to its end, at `end` at the latest. Not from a gateway that says much more than a
/// client would wait for.
async fn drain(mut body: Incoming, bounds: Bounds, end: Instant, slot: Slot) {
    let Ok(_place) = bounds.drains.try_acquire() else {
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
        () = sleep(bounds.drain) => {}
        () = sleep_until(end) => {}
        () = bounds.shutdown.requested_before(bounds.grace) => {}
    }
    drop(slot);
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
