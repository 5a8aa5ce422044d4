//! RFC 9457 problem documents: the only form in which an error leaves a process.

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value};

/// The media type of a problem document.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// The type of a problem that says no more than its HTTP status (RFC 9457 §4.2.1).
pub const ABOUT_BLANK: &str = "about:blank";

/// A problem as it is sent: public text only. What an operator needs to know beyond it goes to
/// the trace, where it was noticed.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: StatusCode,
    type_uri: String,
    title: String,
    extensions: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of the given type. `title` is the same for every occurrence of the type.
    #[must_use]
    pub fn new(status: StatusCode, type_uri: impl Into<String>, title: impl Into<String>) -> Self {
        Self {
            status,
            type_uri: type_uri.into(),
            title: title.into(),
            extensions: Map::new(),
            headers: Vec::new(),
        }
    }

    /// A plain HTTP error: `about:blank`, titled with the status' reason phrase.
    #[must_use]
    pub fn plain(status: StatusCode) -> Self {
        Self::new(
            status,
            ABOUT_BLANK,
            status.canonical_reason().unwrap_or("Error"),
        )
    }

    /// Adds an extension member (RFC 9457 §3.2). The standard members cannot be replaced.
    #[must_use]
    pub fn with(mut self, member: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extensions.insert(member.into(), value.into());
        self
    }

    /// Adds a response header, e.g. `WWW-Authenticate` or `Retry-After`; a name may repeat.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    #[must_use]
    pub fn type_uri(&self) -> &str {
        &self.type_uri
    }

    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    #[must_use]
    pub fn extensions(&self) -> &Map<String, Value> {
        &self.extensions
    }

    #[must_use]
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// The document, as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut document = self.extensions.clone();
        document.insert("type".into(), self.type_uri.as_str().into());
        document.insert("title".into(), self.title.as_str().into());
        document.insert("status".into(), self.status.as_u16().into());
        Value::Object(document).to_string().into_bytes()
    }

    /// Reads a document that arrived with `status`; that status counts, not the document's (RFC
    /// 9457 §3.1.2). An absent type is `about:blank`. `None`: not a problem document.
    #[must_use]
    pub fn from_json(status: StatusCode, document: &[u8]) -> Option<Self> {
        let Ok(Value::Object(mut members)) = serde_json::from_slice(document) else {
            return None;
        };
        let text = |value: Option<Value>| match value {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let type_uri = text(members.remove("type")).unwrap_or_else(|| ABOUT_BLANK.into());
        let title = text(members.remove("title")).unwrap_or_default();
        members.remove("status");
        Some(Self {
            status,
            type_uri,
            title,
            extensions: members,
            headers: Vec::new(),
        })
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = self.to_json();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        response
    }
}

/// The answer where no route matches.
pub async fn not_found() -> Problem {
    Problem::plain(StatusCode::NOT_FOUND)
}

/// The answer where the route matches and its method does not.
pub async fn method_not_allowed() -> Problem {
    Problem::plain(StatusCode::METHOD_NOT_ALLOWED)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::header::RETRY_AFTER;

    use super::*;

    #[test]
    fn a_problem_survives_the_round_trip_through_json() {
        let problem = Problem::new(StatusCode::CONFLICT, "https://example.org/p", "wrong epoch")
            .with("epoch", 7);
        let parsed = Problem::from_json(StatusCode::CONFLICT, &problem.to_json()).unwrap();
        assert_eq!(parsed, problem);
    }

    #[test]
    fn an_extension_cannot_replace_a_standard_member() {
        let problem = Problem::plain(StatusCode::GONE).with("status", 200);
        let json: Value = serde_json::from_slice(&problem.to_json()).unwrap();
        assert_eq!(json["status"], 410);
        assert_eq!(json["type"], "about:blank");
        assert_eq!(json["title"], "Gone");
    }

    #[test]
    fn what_is_no_object_is_no_problem_document() {
        for document in [&b"[]"[..], b"", b"{", b"{} x"] {
            assert!(Problem::from_json(StatusCode::OK, document).is_none());
        }
    }

    #[test]
    fn a_response_carries_media_type_status_and_extra_headers() {
        let response = Problem::plain(StatusCode::SERVICE_UNAVAILABLE)
            .with_header(RETRY_AFTER, HeaderValue::from_static("3"))
            .into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
        assert_eq!(response.headers()[RETRY_AFTER], "3");
    }
}
