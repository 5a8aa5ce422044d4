//! What is observed of a request: the route template, the method, the status class, the duration.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::Method;

/// A method as a metric label: bounded, whatever a client sends.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

fn status_label(class: u16) -> &'static str {
    match class {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "measures a duration for a metric; decides nothing"
)]
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    // A template is one of the routes in our source. A path that matches none is never shown.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let method = method_label(request.method());
    let begin = Instant::now();
    let response = next.run(request).await;
    let elapsed = begin.elapsed();
    let status = status_label(response.status().as_u16() / 100);
    let labels = [
        ("route", metrics::SharedString::from(route.clone())),
        ("method", method.into()),
        ("status", status.into()),
    ];
    metrics::counter!("http_requests_total", &labels).increment(1);
    metrics::histogram!("http_request_duration_seconds", &labels).record(elapsed.as_secs_f64());
    let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(route, method, status, milliseconds, "request");
    response
}
