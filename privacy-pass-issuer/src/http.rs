//! The two routes: extract, call, encode.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use service::Problem;
use service::http::RequestBody;

use crate::issuance::{IssuanceError, Issuer};
use crate::problem::reason;
use crate::store::ChargeOutcome;
use crate::token_keys::BlindSignature;

/// Where the directory is (RFC 9578 §4).
pub const DIRECTORY_PATH: &str = "/.well-known/private-token-issuer-directory";
/// Where token requests are posted, unless a proxy maps another path to it.
pub const TOKEN_REQUEST_PATH: &str = "/token-request";

pub const DIRECTORY_MEDIA_TYPE: &str = "application/private-token-issuer-directory";
pub const REQUEST_MEDIA_TYPE: &str = "application/private-token-request";
pub const RESPONSE_MEDIA_TYPE: &str = "application/private-token-response";

struct Directory {
    document: Vec<u8>,
    cache_control: HeaderValue,
}

/// The issuer's routes, for any server. The directory is the same bytes for everybody.
pub fn router(issuer: Arc<Issuer>, request_uri: &str, directory_max_age_seconds: u32) -> Router {
    let cache_control = format!("public, max-age={directory_max_age_seconds}");
    let directory = Arc::new(Directory {
        document: issuer.token_keys().directory(request_uri),
        cache_control: HeaderValue::try_from(cache_control)
            .unwrap_or(HeaderValue::from_static("no-cache")),
    });
    let directory = Router::new()
        .route(DIRECTORY_PATH, get(token_keys))
        .with_state(directory);
    service::http::router()
        .route(TOKEN_REQUEST_PATH, post(token_request))
        .with_state(issuer)
        .merge(directory)
}

async fn token_keys(State(directory): State<Arc<Directory>>) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(DIRECTORY_MEDIA_TYPE)),
        (CACHE_CONTROL, directory.cache_control.clone()),
    ];
    (headers, directory.document.clone()).into_response()
}

async fn token_request(
    State(issuer): State<Arc<Issuer>>,
    headers: HeaderMap,
    RequestBody(body): RequestBody,
) -> Result<Response, Problem> {
    let issued = issue(&issuer, &headers, &body).await;
    observe(&issued);
    issued
        .map(|(signature, _)| token_response(&signature))
        .map_err(|error| Problem::from(&error))
}

async fn issue(
    issuer: &Issuer,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(BlindSignature, ChargeOutcome), IssuanceError> {
    require_media_type(headers)?;
    let account = issuer.authenticate(headers)?;
    issuer.issue(&account, body).await
}

fn require_media_type(headers: &HeaderMap) -> Result<(), IssuanceError> {
    let essence = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or_default();
        value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    };
    match headers.get(CONTENT_TYPE).map(essence) {
        Some(declared) if declared == REQUEST_MEDIA_TYPE => Ok(()),
        _ => Err(IssuanceError::MediaType),
    }
}

fn token_response(signature: &BlindSignature) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(RESPONSE_MEDIA_TYPE)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, signature.to_vec()).into_response()
}

/// What is measured: how many tokens, and why not. Never whose.
fn observe(issued: &Result<(BlindSignature, ChargeOutcome), IssuanceError>) {
    match issued {
        Ok((_, ChargeOutcome::AlreadyIssued)) => {
            metrics::counter!("issuer_answers_repeated_total").increment(1);
        }
        Ok(_) => metrics::counter!("issuer_tokens_issued_total").increment(1),
        Err(error) => {
            metrics::counter!("issuer_requests_refused_total", "reason" => reason(error))
                .increment(1);
            if let IssuanceError::Store(_) | IssuanceError::Signing(_) | IssuanceError::Worker =
                error
            {
                tracing::error!(%error, "a token could not be issued");
            }
        }
    }
}
