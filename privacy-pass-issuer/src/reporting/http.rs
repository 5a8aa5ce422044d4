//! The three routes: extract, call, encode.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use protocol::Wire as _;
use protocol::reporting::{
    CERTIFICATE_MEDIA_TYPE, CERTIFICATE_PATH, CERTIFICATE_REQUEST_MEDIA_TYPE, DIRECTORY_PATH,
    REPORT_MEDIA_TYPE, REPORT_PATH, ReportingDirectory,
};
use service::Problem;
use service::http::RequestBody;
use sha2::{Digest as _, Sha256};

use super::problem::reason;
use super::{Reporting, ReportingError};
use crate::headers::{bearer_token, media_type};
use crate::issuance::IssuanceError;
use crate::store::reports::Filed;

/// The routes, to be merged with those of issuance.
pub fn router(reporting: Arc<Reporting>) -> Router {
    Router::new()
        .route(DIRECTORY_PATH, get(directory))
        .route(CERTIFICATE_PATH, post(certificate))
        .route(REPORT_PATH, post(report))
        .with_state(reporting)
}

/// The same bytes for everybody, until a key comes or goes.
async fn directory(State(reporting): State<Arc<Reporting>>) -> Response {
    let keys = reporting.parts.keys.published();
    let directory = ReportingDirectory {
        required: reporting.settings().required,
        certificate_keys: keys.iter().map(|key| URL_SAFE_NO_PAD.encode(key)).collect(),
    };
    let cached = HeaderValue::from_static("public, max-age=3600");
    ([(CACHE_CONTROL, cached)], axum::Json(directory)).into_response()
}

async fn certificate(
    State(reporting): State<Arc<Reporting>>,
    headers: HeaderMap,
    RequestBody(body): RequestBody,
) -> Result<Response, Problem> {
    let certified = async {
        require_media_type(&headers, CERTIFICATE_REQUEST_MEDIA_TYPE)?;
        let token = bearer_token(&headers).map_err(IssuanceError::from)?;
        let account = reporting.authenticate(token).await?;
        reporting.certify(&account, &body).await
    };
    let certified = certified.await;
    observe("certificate", certified.as_ref().map(|_| "issued"));
    let certificate = certified.map_err(|error| Problem::from(&error))?;
    let headers = [
        (
            CONTENT_TYPE,
            HeaderValue::from_static(CERTIFICATE_MEDIA_TYPE),
        ),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, certificate.encode()).into_response())
}

/// A report that is taken is answered alike, whether it was known or not and whatever comes of it.
async fn report(
    State(reporting): State<Arc<Reporting>>,
    headers: HeaderMap,
    RequestBody(body): RequestBody,
) -> Result<Response, Problem> {
    let filed = async {
        require_media_type(&headers, REPORT_MEDIA_TYPE)?;
        let token = bearer_token(&headers).map_err(IssuanceError::from)?;
        let account = reporting.authenticate(token).await?;
        let token = Sha256::digest(token).into();
        reporting.take(&account, &token, &body).await
    };
    let filed = filed.await;
    let outcome = filed.as_ref().map(|filed| match filed {
        Filed::New => "new",
        Filed::Withheld => "withheld",
        Filed::Known => "known",
    });
    observe("report", outcome);
    filed.map_err(|error| Problem::from(&error))?;
    let headers = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((StatusCode::ACCEPTED, headers).into_response())
}

fn require_media_type(headers: &HeaderMap, expected: &str) -> Result<(), ReportingError> {
    if media_type(headers).as_deref() == Some(expected) {
        Ok(())
    } else {
        Err(ReportingError::MediaType)
    }
}

/// What is measured: how many, and why not. Never whose.
fn observe(what: &'static str, outcome: Result<&'static str, &ReportingError>) {
    let label = outcome.unwrap_or_else(reason);
    metrics::counter!("issuer_reporting_total", "request" => what, "outcome" => label).increment(1);
    if let Err(error) = outcome
        && label == "internal"
    {
        tracing::error!(%error, "reporting failed");
    }
}
