//! A mirror of an OHTTP gateway's key configurations, and of directory and activity feed of the
//! service behind it, for clients that take neither their relay nor the service at its word: the
//! issuer's operator is another, and reaches the gateway by another way. The same bytes for
//! everybody; they are not looked into ([`service::mirror`]).

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::response::Response;
use axum::routing::get;
use service::feed::{Asked, FeedMirror};
use service::mirror::{DIRECTORY, Document, Fetched, KEYS, Keeping, Mirror};
use service::{SharedClock, Shutdown};

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

struct Mirrored {
    document: &'static Document,
    http: reqwest::Client,
    url: reqwest::Url,
    mirror: Mirror,
    shutdown: Shutdown,
}

struct Feed {
    http: reqwest::Client,
    /// Where the gateway shows the pointer.
    url: reqwest::Url,
    mirror: FeedMirror,
    shutdown: Shutdown,
}

/// `GET /ohttp-keys`, `GET /service-directory` and what is below `/feed`.
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
        .build()?;
    let mirrored = |document: &'static Document| {
        let mirrored = Arc::new(Mirrored {
            document,
            http: http.clone(),
            url: base.join(document.name).map_err(|_| KeyMirrorError::Url)?,
            mirror: Mirror::new(document, Arc::clone(&clock), Keeping::BRIEFLY),
            shutdown: shutdown.clone(),
        });
        let path = format!("/{}", document.name);
        Ok::<_, KeyMirrorError>(Router::new().route(&path, get(shown).with_state(mirrored)))
    };
    let feed = Arc::new(Feed {
        url: base.join("feed/latest").map_err(|_| KeyMirrorError::Url)?,
        mirror: FeedMirror::new(Arc::clone(&clock)),
        http: http.clone(),
        shutdown: shutdown.clone(),
    });
    let feed = Router::new()
        .route("/feed/latest", get(latest_ticks))
        .route("/feed/{seconds}/{number}", get(tick))
        .with_state(feed);
    Ok(mirrored(&KEYS)?.merge(mirrored(&DIRECTORY)?).merge(feed))
}

async fn latest_ticks(State(feed): State<Arc<Feed>>) -> Response {
    feed.show(Some(Asked::Latest)).await
}

async fn tick(
    State(feed): State<Arc<Feed>>,
    UrlPath((seconds, number)): UrlPath<(String, String)>,
) -> Response {
    feed.show(Asked::of(&seconds, &number)).await
}

impl Feed {
    async fn show(&self, asked: Option<Asked>) -> Response {
        let fetch = |asked: Asked| async move {
            let url = self.url.join(&asked.path()).ok()?;
            let response = self.http.get(url).send().await.ok()?;
            asked.document().read(response.into()).await
        };
        self.mirror.show(asked, &self.shutdown, fetch).await
    }
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

async fn shown(State(mirrored): State<Arc<Mirrored>>) -> Response {
    let fetch = mirrored.fetch();
    mirrored.mirror.show(&mirrored.shutdown, fetch).await
}

impl Mirrored {
    async fn fetch(&self) -> Option<Fetched> {
        let response = self.http.get(self.url.clone()).send().await.ok()?;
        self.document.read(response.into()).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Mutex as Held;

    use axum::body::Body;
    use axum::response::IntoResponse as _;
    use http::header::{CACHE_CONTROL, CONTENT_TYPE};
    use http::{Request, StatusCode};
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
            let answer = |kind: &'static Document| {
                let shown = Arc::clone(&shows);
                get(move || async move {
                    match *shown.lock().unwrap() {
                        Some(shown) => ([(CONTENT_TYPE, kind.media_type)], shown).into_response(),
                        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                    }
                })
            };
            let router = Router::new()
                .route("/ohttp-keys", answer(&KEYS))
                .route("/service-directory", answer(&DIRECTORY));
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
        for path in ["/ohttp-keys", "/service-directory"] {
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
