//! What an encapsulated message holds: binary HTTP (RFC 9292), under rules of our own.

use bytes::Bytes;
use http::header::{DATE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use oblivious::binary_http::{self, Decoder, Limits, RequestHead};
use protocol::padding;

/// More fields than any client of ours sends.
const MAX_FIELDS: usize = 64;

/// An opened request that is well-formed; whether it is allowed is another question.
#[derive(Debug)]
pub(crate) struct InnerRequest {
    pub(crate) method: Method,
    pub(crate) scheme: String,
    pub(crate) authority: String,
    /// Absolute, without query, dot segments and percent-encoding, so that no two parsers can
    /// read it differently.
    pub(crate) path: String,
    pub(crate) fields: HeaderMap,
    pub(crate) content: Bytes,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl InnerRequest {
    /// Reads a request. Anything after the message must be zeros: padding (RFC 9292 §3.8).
    pub(crate) fn decode(encoded: &[u8]) -> Result<Self, Malformed> {
        let limits = Limits {
            // The listener has bounded it.
            max_head_bytes: encoded.len(),
            max_fields: MAX_FIELDS,
            max_content_bytes: encoded.len() as u64,
        };
        let mut decoder = Decoder::<RequestHead>::new(limits);
        let mut content = Vec::new();
        decoder.push(encoded, &mut content).map_err(|_| Malformed)?;
        let RequestHead {
            method,
            scheme,
            authority,
            path,
            fields,
        } = decoder.finish().map_err(|_| Malformed)?.head;
        if authority.is_empty() || !is_plain(&path) {
            return Err(Malformed);
        }
        let request = Self {
            method,
            scheme,
            authority,
            path,
            fields,
            content: content.into(),
        };
        if request.fields.get_all(DATE).iter().count() > 1 {
            return Err(Malformed);
        }
        Ok(request)
    }
}

fn is_plain(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    path.bytes().all(plain)
        && path
            .strip_prefix('/')
            .is_some_and(|segments| segments.split('/').all(|s| s != "." && s != ".."))
}

/// A response as it goes into the encapsulation.
#[derive(Debug)]
pub(crate) struct InnerResponse {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) content: Bytes,
}

impl InnerResponse {
    /// The response in binary HTTP, padded to the size bucket that it has for a request of that
    /// length.
    pub(crate) fn encode(&self, request: usize) -> Vec<u8> {
        let most = self.content.len() + padding::ANSWER_HEAD;
        let mut encoded = Vec::with_capacity(padding::answer_bucket_for(request, most));
        binary_http::response(self.status, &self.fields, &self.content, &mut encoded);
        encoded.resize(padding::answer_bucket_for(request, encoded.len()), 0);
        encoded
    }
}

impl From<service::Problem> for InnerResponse {
    fn from(problem: service::Problem) -> Self {
        let mut fields = HeaderMap::new();
        fields.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static(service::problem::PROBLEM_JSON),
        );
        for (name, value) in problem.headers() {
            fields.append(name.clone(), value.clone());
        }
        Self {
            status: problem.status(),
            fields,
            content: problem.to_json().into(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bhttp::{Message, Mode};
    use proptest::prelude::*;

    use super::*;

    fn encoded(path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut message = Message::request(
            b"POST".to_vec(),
            b"https".to_vec(),
            b"ds.example".to_vec(),
            path.as_bytes().to_vec(),
        );
        for (name, value) in fields {
            message.put_header(*name, *value);
        }
        message.write_content(b"content");
        let mut encoded = Vec::new();
        message
            .write_bhttp(Mode::KnownLength, &mut encoded)
            .unwrap();
        encoded
    }

    #[test]
    fn a_request_is_read_with_repeated_fields_and_padding() {
        let mut bytes = encoded("/v1/x", &[("authorization", "a"), ("authorization", "b")]);
        bytes.resize(512, 0);
        let request = InnerRequest::decode(&bytes).unwrap();
        assert_eq!(
            (request.method, request.path.as_str()),
            (Method::POST, "/v1/x")
        );
        assert_eq!(request.fields.get_all("authorization").iter().count(), 2);
        assert_eq!(request.content, "content");
    }

    #[test]
    fn padding_that_is_not_zero_is_malformed() {
        let mut bytes = encoded("/v1/x", &[]);
        bytes.push(1);
        assert_eq!(InnerRequest::decode(&bytes).unwrap_err(), Malformed);
    }

    #[test]
    fn a_path_that_two_parsers_could_read_differently_is_malformed() {
        for path in [
            "",
            "*",
            "v1",
            "/v1/../admin",
            "/v1/.",
            "/v1/%2e%2e/admin",
            "/v1/a?b",
            "/v1/a#b",
            "/v1\\..",
            "/v1/ x",
            "http://other/",
        ] {
            assert!(InnerRequest::decode(&encoded(path, &[])).is_err(), "{path}");
        }
    }

    #[test]
    fn fields_with_bad_names_or_values_are_malformed() {
        for field in [
            ("Upper", "x"),
            ("sp ace", "x"),
            ("x", "a\r\nb: c"),
            (":path", "/"),
        ] {
            assert!(
                InnerRequest::decode(&encoded("/v1/x", &[field])).is_err(),
                "{field:?}"
            );
        }
    }

    /// As many fields as a body has room for: in the header, and behind the content, in both forms
    /// of framing.
    #[test]
    fn a_request_with_too_many_fields_is_malformed_before_any_of_them_is_read() {
        let with = |header: usize, trailer: usize, mode| {
            let mut message = Message::request(
                b"POST".to_vec(),
                b"https".to_vec(),
                b"ds.example".to_vec(),
                b"/v1/x".to_vec(),
            );
            for _ in 0..header {
                message.put_header("a", "");
            }
            message.write_content(b"content");
            for _ in 0..trailer {
                message.put_trailer("a", "");
            }
            let mut encoded = Vec::new();
            message.write_bhttp(mode, &mut encoded).unwrap();
            encoded
        };
        for mode in [Mode::KnownLength, Mode::IndeterminateLength] {
            for (header, trailer) in [(MAX_FIELDS, 0), (MAX_FIELDS / 2, MAX_FIELDS / 2)] {
                let bytes = with(header, trailer, mode);
                assert!(InnerRequest::decode(&bytes).is_ok(), "{header} {trailer}");
            }
            for (header, trailer) in [(MAX_FIELDS + 1, 0), (0, MAX_FIELDS + 1), (600_000, 0)] {
                let bytes = with(header, trailer, mode);
                assert!(InnerRequest::decode(&bytes).is_err(), "{header} {trailer}");
            }
        }
    }

    #[test]
    fn a_response_is_not_a_request() {
        let response = InnerResponse::from(service::Problem::plain(StatusCode::NOT_FOUND));
        assert!(InnerRequest::decode(&response.encode(0)).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = InnerRequest::decode(&bytes);
        }

        #[test]
        fn no_mutation_makes_the_decoder_panic(
            at in 0usize..60, value: u8, cut in 0usize..80, framing in 0u8..4,
        ) {
            let mut bytes = encoded("/v1/x", &[("authorization", "a")]);
            bytes[0] = framing;
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(cut);
            let _ = InnerRequest::decode(&bytes);
        }

        #[test]
        fn a_response_is_as_long_as_a_bucket(len in 0usize..200_000) {
            let response = InnerResponse {
                status: StatusCode::OK,
                fields: HeaderMap::new(),
                content: vec![7; len].into(),
            };
            let encoded = response.encode(padding::ORDINARY_REQUEST);
            prop_assert_eq!(encoded.len(), padding::answer_bucket(encoded.len()));
            prop_assert!(encoded.len() >= len);
            let bulk = response.encode(padding::BULK);
            prop_assert_eq!(bulk.len(), padding::BULK);
        }
    }
}
