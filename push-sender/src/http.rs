//! The routes: extract, call, encode.

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRequest as _;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use protocol::Wire as _;
use protocol::push::{
    DEVICE_PATH, MAX_WAKES, REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE, VERSION, WAKE_PATH,
    WakeRequest,
};
use service::gateway_auth::{GatewaySecret, require_gateway};
use service::http::RequestBody;
use service::{Problem, SharedClock};
use tokio::task::spawn_blocking;

use crate::devices::{DeviceError, Devices};
use crate::dispatch::{Busy, Dispatcher};
use crate::services::Services;

#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) devices: Arc<Devices>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) services: Arc<Services>,
    pub(crate) clock: SharedClock,
}

/// Devices come by the push sender's own gateway, and delivery services by themselves.
pub(crate) fn router(parts: Parts, gateway: GatewaySecret) -> Router {
    let devices = Router::new()
        .route(DEVICE_PATH, post(device))
        .with_state(parts.clone());
    let wakes = service::http::router()
        .route(WAKE_PATH, post(wake))
        .with_state(parts);
    require_gateway(devices, gateway).merge(wakes)
}

async fn device(
    State(parts): State<Parts>,
    headers: HeaderMap,
    RequestBody(body): RequestBody,
) -> Result<Response, Problem> {
    check_media_type(&headers)?;
    let devices = Arc::clone(&parts.devices);
    let acted = spawn_blocking(move || devices.act(&body)).await;
    let acted = acted.unwrap_or(Err(DeviceError::Broken));
    let outcome = if acted.is_ok() { "done" } else { "refused" };
    metrics::counter!("push_device_requests_total", "outcome" => outcome).increment(1);
    let (response, effect) = acted.map_err(|error| {
        let problem = Problem::from(&error);
        if problem.status().is_server_error() {
            tracing::error!(%error, "a device's request could not be carried out");
        }
        problem
    })?;
    parts.dispatcher.heard(effect);
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(RESPONSE_MEDIA_TYPE)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, response.encode()).into_response())
}

/// The answer is the same whatever the handles are: they are looked at after it.
async fn wake(State(parts): State<Parts>, request: Request) -> Result<StatusCode, Problem> {
    // Before the body is read.
    let service = parts.services.recognise(request.headers())?;
    check_media_type(request.headers())?;
    let RequestBody(body) = RequestBody::from_request(request, &()).await?;
    let malformed = || Problem::from(&DeviceError::Malformed);
    let asked = WakeRequest::decode(&body).map_err(|_| malformed())?;
    if asked.version != VERSION {
        return Err(Problem::from(&DeviceError::Version));
    }
    if !(1..=MAX_WAKES).contains(&asked.handles.len()) {
        return Err(Problem::from(&DeviceError::LimitExceeded));
    }
    service.charge(asked.handles.len(), parts.clock.monotonic_ms())?;
    parts
        .dispatcher
        .accept(asked.handles)
        .map_err(|Busy| Problem::from(&DeviceError::TooMany { retry_after_s: 5 }))?;
    Ok(StatusCode::ACCEPTED)
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let is_ours = headers.get(CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .eq_ignore_ascii_case(REQUEST_MEDIA_TYPE.as_bytes())
    });
    if is_ours {
        Ok(())
    } else {
        Err(Problem::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE))
    }
}
