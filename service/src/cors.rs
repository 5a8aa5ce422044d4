//! Which web pages may ask a service from a browser (CORS, Fetch standard §3.2).
//!
//! A browser hands no page an answer that the service does not allow it. Nobody is known by cookies
//! here, and credentials are never allowed: what the setting keeps out is pages that would use
//! visitors' addresses.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Deserialize;

use crate::problem;

/// What clients send beside what every page may send.
const REQUEST_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, incremental");
/// What clients read of an answer beside what every page may read.
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static("date, retry-after");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");
/// How long a browser may keep the answer: as long as browsers do at most.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// Origins (RFC 6454) of pages that may ask: `https://app.example`, compared byte by byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct AllowedOrigins(Arc<[HeaderValue]>);

/// A text that no browser says of a page.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no origin: a scheme, a host in lower case and perhaps a port, and nothing behind"
)]
pub struct NoOrigin(String);

impl TryFrom<Vec<String>> for AllowedOrigins {
    type Error = NoOrigin;

    fn try_from(origins: Vec<String>) -> Result<Self, NoOrigin> {
        let checked = origins.into_iter().map(|origin| {
            let value = is_origin(&origin).then(|| HeaderValue::from_str(&origin).ok());
            value.flatten().ok_or(NoOrigin(origin))
        });
        Ok(Self(checked.collect::<Result<_, _>>()?))
    }
}

/// As browsers write it: no path, no default port, no wildcard.
fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else {
        return false;
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return false;
    };
    let default_port = match scheme {
        "https" => 443,
        "http" => 80,
        _ => return false,
    };
    let host = authority.host();
    text == format!("{scheme}://{authority}")
        && !authority.as_str().contains(['@', '*'])
        && !host.is_empty()
        && !host.bytes().any(|byte| byte.is_ascii_uppercase())
        && authority.port_u16() != Some(default_port)
}

/// Lets pages of these origins ask these routes. Without any, nothing is changed.
pub fn allow(router: Router, origins: &AllowedOrigins) -> Router {
    if origins.0.is_empty() {
        return router;
    }
    // A preflight request has a method that no route has. Who answers such methods is said here:
    // said later, it would take the place of what answers a preflight.
    router
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(from_fn_with_state(origins.clone(), answer))
}

async fn answer(State(origins): State<AllowedOrigins>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let origin = headers
        .get(ORIGIN)
        .filter(|it| origins.0.contains(it))
        .cloned();
    let is_preflight = request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match is_preflight {
        true => StatusCode::NO_CONTENT.into_response(),
        false => next.run(request).await,
    };
    let answered = response.headers_mut();
    // Caches keep what one origin was told from another.
    answered.append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        allowed(answered, origin, is_preflight);
    }
    response
}

fn allowed(answered: &mut HeaderMap, origin: HeaderValue, is_preflight: bool) {
    answered.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if is_preflight {
        answered.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        answered.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        answered.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    } else {
        answered.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::body::Body;
    use axum::routing::post;
    use tower::ServiceExt as _;

    use super::*;

    const APP: &str = "https://app.example";

    fn origins(all: &[&str]) -> Result<AllowedOrigins, NoOrigin> {
        let all: Vec<String> = all.iter().map(|it| (*it).to_owned()).collect();
        all.try_into()
    }

    async fn asked(allowed: &[&str], method: Method, headers: &[(&str, &str)]) -> Response {
        let router = Router::new().route("/", post(|| async { "done" }));
        // As a service is started with them.
        let router = allow(router, &origins(allowed).unwrap())
            .method_not_allowed_fallback(problem::method_not_allowed);
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        router
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap()
    }

    fn told(response: &Response) -> Vec<(String, String)> {
        let headers = response.headers().iter();
        let mut told: Vec<_> = headers
            .filter(|(name, _)| name.as_str().starts_with("access-control-"))
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        told.sort();
        told
    }

    #[tokio::test]
    async fn a_page_of_an_allowed_origin_may_ask_and_read_the_answer_without_credentials() {
        let preflight = [
            ("origin", APP),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type"),
        ];
        let response = asked(&["https://b.example", APP], Method::OPTIONS, &preflight).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            told(&response),
            [
                pair(
                    "access-control-allow-headers",
                    "authorization, content-type, incremental"
                ),
                pair("access-control-allow-methods", "GET, POST"),
                pair("access-control-allow-origin", APP),
                pair("access-control-max-age", "7200"),
            ]
        );
        let response = asked(&[APP], Method::POST, &[("origin", APP)]).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(
            told(&response),
            [
                pair("access-control-allow-origin", APP),
                pair("access-control-expose-headers", "date, retry-after"),
            ]
        );
        assert_eq!(response.headers()[VARY], "origin");
    }

    #[tokio::test]
    async fn nobody_else_is_told_that_a_page_may_ask() {
        let other = "https://app.example.evil";
        for origin in [
            other,
            "null",
            "http://app.example",
            "https://app.example:444",
        ] {
            let preflight = [
                ("origin", origin),
                ("access-control-request-method", "POST"),
            ];
            assert!(told(&asked(&[APP], Method::OPTIONS, &preflight).await).is_empty());
            let asked = asked(&[APP], Method::POST, &[("origin", origin)]).await;
            assert!(told(&asked).is_empty());
        }
        // Who says no origin is no page, and who allows none changes nothing.
        assert!(told(&asked(&[APP], Method::POST, &[]).await).is_empty());
        let response = asked(&[], Method::POST, &[("origin", APP)]).await;
        assert!(told(&response).is_empty() && !response.headers().contains_key(VARY));
        let preflight = [("origin", APP), ("access-control-request-method", "POST")];
        let response = asked(&[], Method::OPTIONS, &preflight).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn only_what_a_browser_can_say_is_an_origin() {
        for good in [
            APP,
            "http://127.0.0.1:8080",
            "http://localhost",
            "http://[::1]:1",
        ] {
            assert!(origins(&[good]).is_ok(), "{good}");
        }
        for bad in [
            "*",
            "null",
            "",
            "app.example",
            "https://app.example/",
            "https://app.example/a",
            "https://App.example",
            "https://app.example:443",
            "https://*.example",
            "https://a@app.example",
            "ftp://app.example",
            "https://app.example?a",
        ] {
            assert!(origins(&[bad]).is_err(), "{bad}");
        }
    }
}
