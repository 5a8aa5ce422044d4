//! What is observed of a request: the route template, the method, the status class, the duration.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use http::Method;
use metrics::{Counter, Histogram};
use tower::{Layer, Service};

/// Methods and status classes as metric labels: bounded, whatever a client sends.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "other"];
const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

fn method_index(method: &Method) -> usize {
    let known = METHODS.iter().position(|name| *name == method.as_str());
    known.unwrap_or(METHODS.len() - 1)
}

/// Observes what it is a layer of. It is one of each route, so that the metrics of the route are
/// looked up once.
#[derive(Clone, Copy)]
pub(crate) struct Observe;

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed {
            inner,
            meters: Arc::default(),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Observed<S> {
    inner: S,
    meters: Arc<OnceLock<Meters>>,
}

/// The metrics of a route, each from its first use on.
struct Meters {
    route: String,
    of: [[OnceLock<Meter>; STATUSES.len()]; METHODS.len()],
}

struct Meter {
    requests: Counter,
    seconds: Histogram,
}

impl Meter {
    fn new(route: &str, method: &'static str, status: &'static str) -> Self {
        let labels = [
            ("route", metrics::SharedString::from(route.to_owned())),
            ("method", method.into()),
            ("status", status.into()),
        ];
        Self {
            requests: metrics::counter!("http_requests_total", &labels),
            seconds: metrics::histogram!("http_request_duration_seconds", &labels),
        }
    }
}

impl<S> Service<Request> for Observed<S>
where
    S: Service<Request, Response = Response>,
    S::Future: Unpin,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Observing<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "measures a duration for a metric; decides nothing"
    )]
    fn call(&mut self, request: Request) -> Self::Future {
        Observing {
            path: request.extensions().get().cloned(),
            method: method_index(request.method()),
            begin: Instant::now(),
            meters: Arc::clone(&self.meters),
            inner: self.inner.call(request),
        }
    }
}

pub(crate) struct Observing<F> {
    inner: F,
    path: Option<MatchedPath>,
    method: usize,
    begin: Instant,
    meters: Arc<OnceLock<Meters>>,
}

impl<F: Future<Output = Result<Response, E>> + Unpin, E> Future for Observing<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let response = ready!(Pin::new(&mut self.inner).poll(context))?;
        // A template is one of the routes in our source. A path that matches none is never shown.
        let route = self.path.as_ref().map_or("unmatched", MatchedPath::as_str);
        let class = usize::from(response.status().as_u16() / 100);
        let status = class.clamp(1, STATUSES.len()) - 1;
        let meters = self.meters.get_or_init(|| Meters {
            route: route.to_owned(),
            of: Default::default(),
        });
        let new = || Meter::new(route, METHODS[self.method], STATUSES[status]);
        let meter = if meters.route == route {
            meters.of[self.method][status].get_or_init(new)
        } else {
            &new()
        };
        let elapsed = self.begin.elapsed();
        meter.requests.increment(1);
        meter.seconds.record(elapsed.as_secs_f64());
        let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let (method, status) = (METHODS[self.method], STATUSES[status]);
        tracing::debug!(route, method, status, milliseconds, "request");
        Poll::Ready(Ok(response))
    }
}
