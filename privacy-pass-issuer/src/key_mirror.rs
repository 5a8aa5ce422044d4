//! A mirror of an OHTTP gateway's key configurations, for clients of a relay that they don't want to take
//! at its word: the issuer's operator is neither the relay's nor the gateway's, and reaches the gateway by
//! another way. The same bytes for everybody; they are not looked into.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use service::{Problem, SharedClock};
use tokio::sync::Mutex;

/// Where the mirror is.
pub const PATH: &str = "/ohttp-keys";
const MEDIA_TYPE: &str = "application/ohttp-keys";
/// 255 configurations of the longest kind would fit.
const MAX_BYTES: usize = 512 * 1024;
const EXCHANGE: Duration = Duration::from_secs(10);
/// Short, since keys that are replaced at once must reach clients while they go on trying.
const KEPT_MS: u64 = 20_000;
/// For so long nobody asks again a gateway that did not answer.
const RETRY_MS: u64 = 1_000;

/// The gateway is no URL, or there is no HTTP client.
#[derive(Debug, thiserror::Error)]
#[error("`ohttp_gateway` is not an http or https URL")]
pub struct KeyMirrorError;

struct KeyMirror {
    http: reqwest::Client,
    url: reqwest::Url,
    clock: SharedClock,
    /// Locked during a fetch, so that many clients cause one.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    configs: Option<Vec<u8>>,
    until_ms: u64,
}

/// `GET /ohttp-keys`.
///
/// # Errors
/// [`KeyMirrorError`].
pub fn router(gateway: &str, clock: SharedClock) -> Result<Router, KeyMirrorError> {
    let base = reqwest::Url::parse(gateway).map_err(|_| KeyMirrorError)?;
    if !matches!(base.scheme(), "http" | "https") {
        return Err(KeyMirrorError);
    }
    let http = reqwest::Client::builder()
        .no_proxy()
        .referer(false)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(EXCHANGE)
        .build()
        .map_err(|_| KeyMirrorError)?;
    let mirror = Arc::new(KeyMirror {
        http,
        url: base.join("ohttp-keys").map_err(|_| KeyMirrorError)?,
        clock,
        kept: Mutex::default(),
    });
    Ok(Router::new().route(PATH, get(configs)).with_state(mirror))
}

async fn configs(State(mirror): State<Arc<KeyMirror>>) -> Response {
    match mirror.current().await {
        Some(configs) => {
            let headers = [
                (CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE)),
                (
                    CACHE_CONTROL,
                    HeaderValue::from_static("public, max-age=20"),
                ),
            ];
            (headers, configs).into_response()
        }
        None => Problem::plain(StatusCode::BAD_GATEWAY).into_response(),
    }
}

impl KeyMirror {
    async fn current(&self) -> Option<Vec<u8>> {
        let mut kept = self.kept.lock().await;
        if kept.until_ms <= self.clock.now_unix_ms() {
            let fetched = self.fetch().await;
            let good_for = if fetched.is_some() { KEPT_MS } else { RETRY_MS };
            *kept = Kept {
                configs: fetched,
                // By the time after a fetch, which may have taken long: who waited meanwhile does not ask again.
                until_ms: self.clock.now_unix_ms().saturating_add(good_for),
            };
        }
        kept.configs.clone()
    }

    async fn fetch(&self) -> Option<Vec<u8>> {
        let mut response = self.http.get(self.url.clone()).send().await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        let mut configs = Vec::new();
        while let Some(chunk) = response.chunk().await.ok()? {
            if configs.len().saturating_add(chunk.len()) > MAX_BYTES {
                return None;
            }
            configs.extend_from_slice(&chunk);
        }
        Some(configs)
    }
}
