//! A mirror of an OHTTP gateway's key configurations and of the directory of the service behind it,
//! for clients that take neither their relay nor the service at its word: the issuer's operator is
//! another, and reaches the gateway by another way. The same bytes for everybody; they are not
//! looked into ([`service::mirror`]).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use service::mirror::{Fetched, Keeping, Mirror, Mirrored, max_age};
use service::{SharedClock, Shutdown};

/// Where the mirror of the keys is.
pub const PATH: &str = "/ohttp-keys";
/// Where the mirror of the directory is.
pub const DIRECTORY_PATH: &str = "/service-directory";
const KEYS: Kind = Kind {
    path: "ohttp-keys",
    media_type: "application/ohttp-keys",
    // 255 configurations of the longest kind would fit.
    max_bytes: 512 * 1024,
};
const DIRECTORY: Kind = Kind {
    path: "service-directory",
    media_type: "application/json",
    max_bytes: 64 * 1024,
};
const EXCHANGE: Duration = Duration::from_secs(10);

/// The mirror cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum KeyMirrorError {
    #[error("`ohttp_gateway` is not an http or https URL")]
    Url,
    #[error("the authorities for the certificate of `ohttp_gateway` cannot be used")]
    Authorities(#[from] service::tls::TlsError),
    #[error("the HTTP client for `ohttp_gateway` cannot be set up")]
    Client(#[from] reqwest::Error),
}

/// What is mirrored.
struct Kind {
    /// At the gateway.
    path: &'static str,
    media_type: &'static str,
    max_bytes: usize,
}

struct Document {
    kind: &'static Kind,
    http: reqwest::Client,
    url: reqwest::Url,
    mirror: Mirror,
    shutdown: Shutdown,
}

/// `GET /ohttp-keys` and `GET /service-directory`.
///
/// # Errors
/// [`KeyMirrorError`].
pub fn router(
    gateway: &str,
    ca_file: Option<&Path>,
    clock: SharedClock,
    shutdown: Shutdown,
) -> Result<Router, KeyMirrorError> {
    let base = reqwest::Url::parse(gateway).map_err(|_| KeyMirrorError::Url)?;
    if !matches!(base.scheme(), "http" | "https") {
        return Err(KeyMirrorError::Url);
    }
    let http = trusting(ca_file)?
        .no_proxy()
        .referer(false)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(EXCHANGE)
        .build()?;
    let document = |kind: &'static Kind| {
        Ok::<_, KeyMirrorError>(Arc::new(Document {
            kind,
            http: http.clone(),
            url: base.join(kind.path).map_err(|_| KeyMirrorError::Url)?,
            mirror: Mirror::new(Arc::clone(&clock), Keeping::BRIEFLY),
            shutdown: shutdown.clone(),
        }))
    };
    let mirror = |kind| Ok::<_, KeyMirrorError>(get(shown).with_state(document(kind)?));
    Ok(Router::new()
        .route(PATH, mirror(&KEYS)?)
        .route(DIRECTORY_PATH, mirror(&DIRECTORY)?))
}

/// A client that trusts the authorities in `ca_file`, or those that the environment names, instead
/// of those of the web.
pub(crate) fn trusting(ca_file: Option<&Path>) -> Result<reqwest::ClientBuilder, KeyMirrorError> {
    let mut builder = reqwest::Client::builder();
    if let Some(authorities) = service::tls::private_authorities(ca_file)? {
        builder = builder.tls_built_in_root_certs(false);
        for authority in authorities {
            builder = builder.add_root_certificate(reqwest::Certificate::from_der(&authority)?);
        }
    }
    Ok(builder)
}

async fn shown(State(document): State<Arc<Document>>) -> Response {
    let fetch = document.fetch();
    let mirrored = document.mirror.unless(&document.shutdown, fetch).await;
    Mirrored::respond(mirrored, document.kind.media_type)
}

impl Document {
    async fn fetch(&self) -> Option<Fetched> {
        let mut response = self.http.get(self.url.clone()).send().await.ok()?;
        let is_ours = response.headers().get(CONTENT_TYPE).is_some_and(|kind| {
            kind.as_bytes()
                .eq_ignore_ascii_case(self.kind.media_type.as_bytes())
        });
        if response.status() != StatusCode::OK || !is_ours {
            return None;
        }
        let max_age_s = response
            .headers()
            .get(CACHE_CONTROL)
            .and_then(|value| max_age(value.to_str().ok()?));
        let mut document = Vec::new();
        while let Some(chunk) = response.chunk().await.ok()? {
            if document.len().saturating_add(chunk.len()) > self.kind.max_bytes {
                return None;
            }
            document.extend_from_slice(&chunk);
        }
        Some(Fetched {
            document: document.into(),
            max_age_s,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Mutex as Held;

    use axum::body::Body;
    use axum::response::IntoResponse as _;
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
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let answer = |kind: &'static Kind| {
                let shown = Arc::clone(&shows);
                get(move || async move {
                    match *shown.lock().unwrap() {
                        Some(shown) => ([(CONTENT_TYPE, kind.media_type)], shown).into_response(),
                        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                    }
                })
            };
            let router = Router::new()
                .route(PATH, answer(&KEYS))
                .route(DIRECTORY_PATH, answer(&DIRECTORY));
            tokio::spawn(async move { axum::serve(listener, router).await });
            Self { shows, url }
        }

        fn shows(&self, document: Option<&'static str>) {
            *self.shows.lock().unwrap() = document;
        }
    }

    async fn mirrored(mirror: &Router, path: &str) -> Option<(String, String)> {
        let request = Request::get(path).body(Body::empty()).unwrap();
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

    fn shown(document: &str, max_age: u64) -> Option<(String, String)> {
        Some((document.to_owned(), format!("public, max-age={max_age}")))
    }

    #[tokio::test]
    async fn keys_and_directory_are_shown_within_twenty_seconds_and_while_the_gateway_fails_for_ten_minutes()
     {
        let (_trigger, shutdown) = Shutdown::channel();
        for path in [PATH, DIRECTORY_PATH] {
            let gateway = Gateway::start().await;
            let clock = MovedClock::at(1_800_000_000_000);
            let mirror = router(&gateway.url, None, clock.clone(), shutdown.clone()).unwrap();
            assert_eq!(mirrored(&mirror, path).await, shown("one", 20));
            gateway.shows(Some("two"));
            clock.advance(19_999);
            assert_eq!(mirrored(&mirror, path).await, shown("one", 1));
            clock.advance(1);
            assert_eq!(mirrored(&mirror, path).await, shown("two", 20));
            gateway.shows(None);
            clock.advance(600_000);
            assert_eq!(mirrored(&mirror, path).await, shown("two", 1));
            clock.advance(1_000);
            assert_eq!(mirrored(&mirror, path).await, None);
        }
    }
}
