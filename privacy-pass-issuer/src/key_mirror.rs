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
/// For so long after they were fetched configurations are shown while the gateway does not answer: a mirror
/// that fails with every hiccup keeps clients from sending anything. Far shorter than the
/// gateway lets anybody keep them by default (an hour), so that what is shown still opens.
const LAST_KNOWN_MS: u64 = 600_000;

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
    known: Option<Known>,
    /// When the gateway is asked again.
    until_ms: u64,
}

/// What the gateway has last said.
struct Known {
    configs: Vec<u8>,
    fetched_ms: u64,
}

/// What is shown, and for how long others may keep it.
struct Shown {
    configs: Vec<u8>,
    max_age_s: u64,
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
        Some(Shown { configs, max_age_s }) => {
            let cached = HeaderValue::try_from(format!("public, max-age={max_age_s}"));
            let headers = [
                (CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE)),
                (
                    CACHE_CONTROL,
                    cached.unwrap_or(HeaderValue::from_static("no-cache")),
                ),
            ];
            (headers, configs).into_response()
        }
        None => Problem::plain(StatusCode::BAD_GATEWAY).into_response(),
    }
}

impl KeyMirror {
    async fn current(&self) -> Option<Shown> {
        let mut kept = self.kept.lock().await;
        if kept.until_ms <= self.clock.monotonic_ms() {
            let fetched = self.fetch().await;
            // The time after a fetch, which may have taken long: who waited meanwhile does not ask again.
            let now = self.clock.monotonic_ms();
            let good_for = if fetched.is_some() { KEPT_MS } else { RETRY_MS };
            kept.until_ms = now.saturating_add(good_for);
            match fetched {
                Some(configs) => {
                    kept.known = Some(Known {
                        configs,
                        fetched_ms: now,
                    });
                }
                None => {
                    if let Some(known) = &kept.known
                        && now.saturating_sub(known.fetched_ms) > LAST_KNOWN_MS
                    {
                        kept.known = None;
                    }
                }
            }
        }
        let left_ms = kept.until_ms.saturating_sub(self.clock.monotonic_ms());
        kept.known.as_ref().map(|known| Shown {
            configs: known.configs.clone(),
            max_age_s: left_ms.div_ceil(1000).min(KEPT_MS / 1000),
        })
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Mutex as Held;

    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt as _;
    use service::MovedClock;
    use tower::ServiceExt as _;

    use super::*;

    /// A gateway that shows what it is told to, or fails.
    struct Gateway {
        shows: Arc<Held<Option<&'static str>>>,
        url: String,
    }

    impl Gateway {
        async fn start() -> Self {
            let shows = Arc::new(Held::new(Some("one")));
            let shown = Arc::clone(&shows);
            let answer = move || {
                let shown = *shown.lock().unwrap();
                async move { shown.ok_or(StatusCode::INTERNAL_SERVER_ERROR) }
            };
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let router = Router::new().route("/ohttp-keys", get(answer));
            tokio::spawn(async move { axum::serve(listener, router).await });
            Self { shows, url }
        }

        fn shows(&self, configs: Option<&'static str>) {
            *self.shows.lock().unwrap() = configs;
        }
    }

    async fn mirrored(mirror: &Router) -> Option<(String, String)> {
        let request = Request::get(PATH).body(Body::empty()).unwrap();
        let response = mirror.clone().oneshot(request).await.unwrap();
        if response.status() != StatusCode::OK {
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
            return None;
        }
        let cached = response.headers()[CACHE_CONTROL].to_str().unwrap();
        let cached = cached.to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Some((String::from_utf8(body.to_vec()).unwrap(), cached))
    }

    fn shown(configs: &str, max_age: u64) -> Option<(String, String)> {
        Some((configs.to_owned(), format!("public, max-age={max_age}")))
    }

    #[tokio::test]
    async fn what_the_gateway_last_said_is_shown_while_it_fails_for_a_limited_time() {
        let gateway = Gateway::start().await;
        let clock = MovedClock::at(1_800_000_000_000);
        let mirror = router(&gateway.url, clock.clone()).unwrap();
        assert_eq!(mirrored(&mirror).await, shown("one", 20));
        gateway.shows(None);
        clock.advance(KEPT_MS);
        assert_eq!(mirrored(&mirror).await, shown("one", 1));
        clock.advance(LAST_KNOWN_MS - KEPT_MS);
        assert_eq!(mirrored(&mirror).await, shown("one", 1));
        clock.advance(RETRY_MS);
        assert_eq!(mirrored(&mirror).await, None);
        gateway.shows(Some("two"));
        assert_eq!(mirrored(&mirror).await, None, "it was just asked");
        clock.advance(RETRY_MS);
        assert_eq!(mirrored(&mirror).await, shown("two", 20));
    }

    #[tokio::test]
    async fn a_new_configuration_is_shown_within_twenty_seconds() {
        let gateway = Gateway::start().await;
        let clock = MovedClock::at(1_800_000_000_000);
        let mirror = router(&gateway.url, clock.clone()).unwrap();
        assert_eq!(mirrored(&mirror).await, shown("one", 20));
        gateway.shows(Some("two"));
        clock.advance(KEPT_MS - 1);
        assert_eq!(mirrored(&mirror).await, shown("one", 1));
        clock.advance(1);
        assert_eq!(mirrored(&mirror).await, shown("two", 20));
    }
}
