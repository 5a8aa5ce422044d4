//! Everything that can go wrong with a request, and how it is told.
//!
//! Before decapsulation there is no key to answer with: a [`Refusal`] goes out in the clear, and
//! the relay sees it. After it, a [`Failure`] is encapsulated like any other response, and the
//! relay sees none of it.

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use service::{Problem, http_date};

/// Problem type for an unknown or wrong key (RFC 9458 §5.3).
pub const OHTTP_KEY_PROBLEM: &str = "https://iana.org/assignments/http-problem-types#ohttp-key";
/// Problem type for a date that is not acceptable (RFC 9458 §6.5.2).
pub const DATE_PROBLEM: &str = "https://iana.org/assignments/http-problem-types#date";
/// The same encapsulated request was here before. The relay or the network repeated it; a client
/// that retries encapsulates afresh and never sees this.
pub const REPLAY_PROBLEM: &str = "urn:mimi-ds:problem:ohttp-replayed";

/// Why an encapsulated request was not opened. Fault: relay or client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not `message/ohttp-req`.
    MediaType,
    /// Too short to be an encapsulated request.
    Truncated,
    /// Unknown key id, unknown suite, or not encapsulated to our key.
    Key,
    Replayed,
    /// Not from a relay that is listed.
    Relay,
    /// The relay has sent more than it may.
    TooMany {
        retry_after_s: u64,
    },
}

impl Refusal {
    pub(crate) fn outcome(self) -> &'static str {
        match self {
            Self::MediaType => "media_type",
            Self::Truncated => "truncated",
            Self::Key => "key",
            Self::Replayed => "replayed",
            Self::Relay => "unknown_relay",
            Self::TooMany { .. } => "relay_limit",
        }
    }

    pub(crate) fn problem(self) -> Problem {
        match self {
            Self::MediaType => Problem::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            Self::Truncated => Problem::plain(StatusCode::BAD_REQUEST),
            Self::Key => Problem::new(
                StatusCode::BAD_REQUEST,
                OHTTP_KEY_PROBLEM,
                "The request is not encapsulated to a known key configuration",
            ),
            Self::Replayed => Problem::new(
                StatusCode::CONFLICT,
                REPLAY_PROBLEM,
                "The encapsulated request was received before",
            ),
            Self::Relay => Problem::plain(StatusCode::FORBIDDEN),
            Self::TooMany { retry_after_s } => Problem::plain(StatusCode::TOO_MANY_REQUESTS)
                .with_header(RETRY_AFTER, HeaderValue::from(retry_after_s)),
        }
    }
}

/// Why an opened request was not answered by the delivery service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The client's fault: no well-formed binary HTTP request.
    Malformed,
    /// The client's fault: its `Date` is missing or off. Says our time.
    Date { now_unix_ms: u64 },
    /// The client's fault: it waits for a 100 that cannot come (RFC 9458 §5.1).
    Expectation,
    /// The client's fault: not on the allow-list, or not with this method.
    TargetNotAllowed,
    /// There are as many requests at the delivery service as it takes from one gateway. The client
    /// may retry.
    Busy,
    /// The delivery service's: no connection, or it broke.
    Unreachable,
    /// The delivery service's: no answer in time.
    Timeout,
    /// The delivery service's: a redirect, too long, or a refusal of ourselves.
    BadAnswer,
    /// Ours: this process is about to end. The client may retry.
    Ending,
}

impl Failure {
    pub(crate) fn outcome(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Date { .. } => "date",
            Self::Expectation => "expectation",
            Self::TargetNotAllowed => "target_not_allowed",
            Self::Busy => "busy",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::BadAnswer => "bad_answer",
            Self::Ending => "ending",
        }
    }

    pub(crate) fn problem(self) -> Problem {
        match self {
            Self::Malformed => Problem::plain(StatusCode::BAD_REQUEST),
            Self::Date { now_unix_ms } => Problem::new(
                StatusCode::BAD_REQUEST,
                DATE_PROBLEM,
                "The date of the request is missing or not acceptable",
            )
            .with_header(
                DATE,
                HeaderValue::try_from(http_date::format(now_unix_ms))
                    .unwrap_or(HeaderValue::from_static("")),
            ),
            Self::Expectation => Problem::plain(StatusCode::EXPECTATION_FAILED),
            Self::TargetNotAllowed => Problem::plain(StatusCode::FORBIDDEN),
            Self::Busy => Problem::plain(StatusCode::SERVICE_UNAVAILABLE)
                .with_header(RETRY_AFTER, HeaderValue::from_static("1")),
            Self::Unreachable | Self::BadAnswer => Problem::plain(StatusCode::BAD_GATEWAY),
            Self::Timeout => Problem::plain(StatusCode::GATEWAY_TIMEOUT),
            Self::Ending => Problem::plain(StatusCode::SERVICE_UNAVAILABLE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_and_failure_survives_the_round_trip_as_a_document() {
        let problems = [
            Refusal::MediaType.problem(),
            Refusal::Truncated.problem(),
            Refusal::Key.problem(),
            Refusal::Replayed.problem(),
            Refusal::Relay.problem(),
            Refusal::TooMany { retry_after_s: 1 }.problem(),
            Failure::Malformed.problem(),
            Failure::Date { now_unix_ms: 1 }.problem(),
            Failure::Expectation.problem(),
            Failure::TargetNotAllowed.problem(),
            Failure::Busy.problem(),
            Failure::Unreachable.problem(),
            Failure::Timeout.problem(),
            Failure::BadAnswer.problem(),
            Failure::Ending.problem(),
        ];
        for problem in problems {
            let read = Problem::from_json(problem.status(), &problem.to_json());
            assert_eq!(
                read.as_ref().map(|read| (read.type_uri(), read.title())),
                Some((problem.type_uri(), problem.title()))
            );
            assert!(problem.status().is_client_error() || problem.status().is_server_error());
        }
    }
}
