//! Binary HTTP (RFC 9292), read strictly.
//!
//! The library takes any bytes as method, path and field; everything here goes through the `http`
//! crate and stricter rules of our own before anything is done with it.

use std::io::Cursor;

use bhttp::{ControlData, Message, Mode};
use bytes::Bytes;
use http::header::{DATE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use protocol::padding;

use crate::extent;

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
        if extent::fields(encoded)? > MAX_FIELDS {
            return Err(Malformed);
        }
        let mut cursor = Cursor::new(encoded);
        let message = Message::read_bhttp(&mut cursor).map_err(|_| Malformed)?;
        let consumed = usize::try_from(cursor.position()).map_err(|_| Malformed)?;
        let padding = encoded.get(consumed..).unwrap_or_default();
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Malformed);
        }
        let ControlData::Request {
            method,
            scheme,
            authority,
            path,
        } = message.control()
        else {
            return Err(Malformed);
        };
        let request = Self {
            method: Method::from_bytes(method).map_err(|_| Malformed)?,
            scheme: plain_text(scheme)?,
            authority: plain_text(authority)?,
            path: plain_path(path)?,
            fields: decode_fields(message.header())?,
            content: Bytes::copy_from_slice(message.content()),
        };
        if request.fields.get_all(DATE).iter().count() > 1 {
            return Err(Malformed);
        }
        Ok(request)
    }
}

fn plain_text(text: &[u8]) -> Result<String, Malformed> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_graphic) {
        return Err(Malformed);
    }
    String::from_utf8(text.to_vec()).map_err(|_| Malformed)
}

fn plain_path(path: &[u8]) -> Result<String, Malformed> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(byte);
    let path = plain_text(path)?;
    let segments = path.strip_prefix('/').ok_or(Malformed)?;
    if !path.as_bytes().iter().all(plain) || segments.split('/').any(|s| s == "." || s == "..") {
        return Err(Malformed);
    }
    Ok(path)
}

fn decode_fields(section: &bhttp::FieldSection) -> Result<HeaderMap, Malformed> {
    let mut fields = HeaderMap::with_capacity(section.len());
    for field in section.fields() {
        // Names are lower-case in binary HTTP (RFC 9292 §3.6).
        let name = HeaderName::from_lowercase(field.name()).map_err(|_| Malformed)?;
        let value = HeaderValue::from_bytes(field.value()).map_err(|_| Malformed)?;
        fields.append(name, value);
    }
    Ok(fields)
}

/// A response as it goes into the encapsulation.
#[derive(Debug)]
pub(crate) struct InnerResponse {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) content: Bytes,
}

impl InnerResponse {
    /// The response in binary HTTP, padded to a size bucket.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, bhttp::Error> {
        let mut message = Message::response(bhttp::StatusCode::try_from(self.status.as_u16())?);
        for (name, value) in &self.fields {
            message.put_header(name.as_str(), value.as_bytes());
        }
        message.write_content(&self.content);
        let mut encoded = Vec::with_capacity(padding::bucket(self.content.len() + 256));
        message.write_bhttp(Mode::KnownLength, &mut encoded)?;
        encoded.resize(padding::bucket(encoded.len()), 0);
        Ok(encoded)
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
                assert_eq!(extent::fields(&bytes).unwrap(), MAX_FIELDS);
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
        assert!(InnerRequest::decode(&response.encode().unwrap()).is_err());
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
            let encoded = response.encode().unwrap();
            prop_assert_eq!(encoded.len(), padding::bucket(encoded.len()));
            prop_assert!(encoded.len() >= len);
        }
    }
}
