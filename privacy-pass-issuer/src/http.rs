//! The routes: extract, call, encode.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use service::http::RequestBody;
use service::{Problem, hex};
use sha2::{Digest as _, Sha256};

use crate::headers::{bearer_token, media_type};
use crate::issuance::{IssuanceError, Issued, Issuer};
use crate::observe;
use crate::token_request::batch_response;

/// Where the directory is (RFC 9578 §4).
pub const DIRECTORY_PATH: &str = "/.well-known/private-token-issuer-directory";
/// Where token requests are posted, unless a proxy maps another path to it.
pub const TOKEN_REQUEST_PATH: &str = "/token-request";

pub const DIRECTORY_MEDIA_TYPE: &str = "application/private-token-issuer-directory";
pub const REQUEST_MEDIA_TYPE: &str = "application/private-token-request";
pub const RESPONSE_MEDIA_TYPE: &str = "application/private-token-response";
pub const BATCH_REQUEST_MEDIA_TYPE: &str = "application/private-token-generic-batch-request";
pub const BATCH_RESPONSE_MEDIA_TYPE: &str = "application/private-token-generic-batch-response";

#[derive(Clone)]
struct Directory {
    issuer: Arc<Issuer>,
    request_uri: Arc<str>,
    max_age_s: u64,
}

/// The issuer's routes, for any server. The directory is the same bytes for everybody.
pub fn router(issuer: Arc<Issuer>, request_uri: &str, directory_max_age_seconds: u32) -> Router {
    let directory = Directory {
        issuer: Arc::clone(&issuer),
        request_uri: request_uri.into(),
        max_age_s: directory_max_age_seconds.into(),
    };
    let directory = Router::new()
        .route(DIRECTORY_PATH, get(token_keys))
        .with_state(directory);
    service::http::router()
        .route(TOKEN_REQUEST_PATH, post(token_request))
        .with_state(issuer)
        .merge(directory)
}

async fn token_keys(State(directory): State<Directory>, headers: HeaderMap) -> Response {
    let (issuer, keys) = (&directory.issuer, directory.issuer.token_keys());
    let now = issuer.now_unix_s();
    // What is kept by caches never outlives what it says.
    let max_age = keys
        .next_change_unix_s(now)
        .map_or(directory.max_age_s, |change| {
            change.saturating_sub(now).min(directory.max_age_s)
        });
    let document = keys
        .current()
        .directory(&directory.request_uri, issuer.max_batch_size(), now);
    let header = |value: String| {
        HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("no-cache"))
    };
    let etag = header(format!(
        "\"{}\"",
        hex::encode(&Sha256::digest(&document)[..16])
    ));
    let unchanged = headers.get(IF_NONE_MATCH) == Some(&etag);
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(DIRECTORY_MEDIA_TYPE)),
        (CACHE_CONTROL, header(format!("public, max-age={max_age}"))),
        (ETAG, etag),
    ];
    if unchanged {
        (StatusCode::NOT_MODIFIED, headers).into_response()
    } else {
        (headers, document).into_response()
    }
}

/// What a body claims to be.
#[derive(Clone, Copy)]
enum Form {
    Single,
    Batch,
}

impl Form {
    fn of(headers: &HeaderMap) -> Result<Self, IssuanceError> {
        match media_type(headers).as_deref() {
            Some(REQUEST_MEDIA_TYPE) => Ok(Self::Single),
            Some(BATCH_REQUEST_MEDIA_TYPE) => Ok(Self::Batch),
            _ => Err(IssuanceError::MediaType),
        }
    }

    fn answer(self, issued: &Issued) -> Response {
        let (media_type, body) = match self {
            Self::Single => (RESPONSE_MEDIA_TYPE, issued.signatures.concat()),
            Self::Batch => (
                BATCH_RESPONSE_MEDIA_TYPE,
                batch_response(&issued.signatures),
            ),
        };
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static(media_type)),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        (headers, body).into_response()
    }
}

async fn token_request(
    State(issuer): State<Arc<Issuer>>,
    headers: HeaderMap,
    RequestBody(body): RequestBody,
) -> Result<Response, Problem> {
    let issued = issue(&issuer, &headers, &body).await;
    observe::issued(issued.as_ref().map(|(_, issued)| issued));
    issued
        .map(|(form, issued)| form.answer(&issued))
        .map_err(|error| Problem::from(&error))
}

async fn issue(
    issuer: &Issuer,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(Form, Issued), IssuanceError> {
    let form = Form::of(headers)?;
    let account = issuer.authenticate(bearer_token(headers)?).await?;
    let issued = match form {
        Form::Single => issuer.issue(&account, body).await?,
        Form::Batch => issuer.issue_batch(&account, body).await?,
    };
    Ok((form, issued))
}
