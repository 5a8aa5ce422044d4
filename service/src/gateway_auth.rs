//! How the gateway proves to the delivery service that it is the gateway: a shared secret, sent
//! in a header of its own, so that `Authorization` stays free for the client's tokens.

use std::fmt;
use std::path::Path;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderName, HeaderValue, StatusCode};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::problem::{self, Problem};
use crate::secret_file::{self, SecretFileError};

/// The request header: `Gateway-Authorization: Bearer <base64url of the secret>`.
pub const GATEWAY_AUTHORIZATION: HeaderName = HeaderName::from_static("gateway-authorization");

/// The request header by which a gateway knows its relays: as [`GATEWAY_AUTHORIZATION`], with a
/// secret that relay and gateway share.
pub const RELAY_AUTHORIZATION: HeaderName = HeaderName::from_static("relay-authorization");

/// The challenge of a refusal. The gateway knows by it that the refusal is meant for itself and
/// not for its client.
pub const GATEWAY_CHALLENGE: &str = "Gateway";

/// The problem of a refusal.
pub const GATEWAY_ONLY_PROBLEM: &str = "urn:mimi-ds:problem:gateway-only";

const SECRET_LEN: usize = 32;

/// The secret that gateway and delivery service share.
pub struct GatewaySecret {
    header_value: Zeroizing<String>,
}

impl GatewaySecret {
    /// The secret in the file at `path`, which comes to be if it is missing: whichever side starts
    /// first makes it. On two machines, copy the file.
    ///
    /// # Errors
    /// See [`secret_file::load_or_create`].
    pub fn load_or_create(path: &Path) -> Result<Self, SecretFileError> {
        Ok(Self::new(&secret_file::load_or_create(path, SECRET_LEN)?))
    }

    /// The secret in the file at `path`.
    ///
    /// # Errors
    /// See [`secret_file::load`].
    pub fn load(path: &Path) -> Result<Self, SecretFileError> {
        Ok(Self::new(&secret_file::load(path, SECRET_LEN)?))
    }

    fn new(secret: &[u8]) -> Self {
        let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret));
        Self {
            header_value: Zeroizing::new(format!("Bearer {}", *encoded)),
        }
    }

    /// The value of [`GATEWAY_AUTHORIZATION`], marked as sensitive.
    #[must_use]
    pub fn header_value(&self) -> HeaderValue {
        // Base64url is always a valid header value; the fallback is one that is never accepted.
        let mut value = HeaderValue::from_str(&self.header_value)
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
        value.set_sensitive(true);
        value
    }

    /// Whether a header has this secret, compared in constant time.
    #[must_use]
    pub fn accepts(&self, value: Option<&HeaderValue>) -> bool {
        let presented = value.map_or(&b""[..], HeaderValue::as_bytes);
        presented.ct_eq(self.header_value.as_bytes()).into()
    }
}

impl fmt::Debug for GatewaySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { header_value: _ } = self;
        f.write_str("GatewaySecret([redacted])")
    }
}

/// Lets only requests that carry `secret` reach `router`, its fallback included. An absent and a
/// wrong secret get the same answer.
pub fn require_gateway(router: Router, secret: GatewaySecret) -> Router {
    router
        // Before the layer: one that is set later would answer without asking who is there.
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(
            std::sync::Arc::new(secret),
            check,
        ))
}

async fn check(
    State(secret): State<std::sync::Arc<GatewaySecret>>,
    mut request: Request,
    next: Next,
) -> Response {
    let presented = request.headers_mut().remove(GATEWAY_AUTHORIZATION);
    if secret.accepts(presented.as_ref()) {
        crate::http::vouch(request.extensions());
        return next.run(request).await;
    }
    tracing::warn!("a request that is not from the gateway was refused");
    Problem::new(
        StatusCode::UNAUTHORIZED,
        GATEWAY_ONLY_PROBLEM,
        "Requests are taken from the gateway only",
    )
    .with_header(
        WWW_AUTHENTICATE,
        HeaderValue::from_static(GATEWAY_CHALLENGE),
    )
    .into_response()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::body::Body;
    use axum::routing::{get, post};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn answer(header: Option<HeaderValue>, path: &str) -> (StatusCode, Vec<u8>) {
        let router = crate::http::router()
            .route("/", get(|| async { "in" }))
            .route("/other-method", post(|| async { "in" }));
        let router = require_gateway(router, GatewaySecret::new(&[7; 32]))
            // As `http::serve` does.
            .method_not_allowed_fallback(problem::method_not_allowed);
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        if let Some(value) = header {
            request.headers_mut().insert(GATEWAY_AUTHORIZATION, value);
        }
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, body.to_vec())
    }

    #[tokio::test]
    async fn the_gateway_is_let_in() {
        let value = GatewaySecret::new(&[7; 32]).header_value();
        assert_eq!(
            answer(Some(value), "/").await,
            (StatusCode::OK, b"in".to_vec())
        );
    }

    #[tokio::test]
    async fn an_absent_and_a_wrong_secret_get_the_same_answer_on_every_path() {
        let absent = answer(None, "/").await;
        assert_eq!(absent.0, StatusCode::UNAUTHORIZED);
        let wrong = GatewaySecret::new(&[8; 32]).header_value();
        assert_eq!(answer(Some(wrong), "/").await, absent);
        let short = HeaderValue::from_static("Bearer");
        assert_eq!(answer(Some(short), "/").await, absent);
        assert_eq!(answer(None, "/unknown").await, absent);
        assert_eq!(answer(None, "/other-method").await, absent);
    }

    #[test]
    fn debug_shows_nothing_of_the_secret() {
        let secret = GatewaySecret::new(&[7; 32]);
        assert_eq!(format!("{secret:?}"), "GatewaySecret([redacted])");
        assert!(!format!("{:?}", secret.header_value()).contains("Bw"));
    }
}
