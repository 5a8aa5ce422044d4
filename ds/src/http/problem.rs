//! Every [`DsError`] as a problem document (RFC 9457), in one place.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use protocol::WIRE_VERSION;
use protocol::problem::ProblemType;
use service::problem::Problem;

use super::{Service, status};
use crate::error::DsError;

fn document(problem: ProblemType) -> Problem {
    Problem::new(status(problem), problem.uri(), problem.title())
}

/// The bounded label of an error.
pub(super) fn slug(error: &DsError) -> &'static str {
    match error {
        DsError::Refused(problem) => problem.slug(),
        DsError::WrongEpoch { .. } => ProblemType::WrongEpoch.slug(),
        DsError::Behind { .. } => ProblemType::ServiceBehind.slug(),
        DsError::StaleTimestamp { .. } => ProblemType::StaleTimestamp.slug(),
        DsError::TooManyRequests { .. } => ProblemType::TooManyRequests.slug(),
        DsError::Conflict => ProblemType::Conflict.slug(),
        DsError::AlreadyDone(_) | DsError::Internal(_) => ProblemType::Internal.slug(),
        DsError::Storage(_) | DsError::Busy { .. } => ProblemType::Unavailable.slug(),
    }
}

pub(super) fn respond(service: &Service, error: DsError) -> Response {
    let problem = match error {
        DsError::Refused(problem @ (ProblemType::TokenRequired | ProblemType::TokenRejected)) => {
            with_challenge(service, document(problem))
        }
        DsError::Refused(problem @ ProblemType::UnsupportedVersion) => {
            document(problem).with("supported", vec![WIRE_VERSION])
        }
        DsError::Refused(problem) => document(problem),
        DsError::WrongEpoch { current } => document(ProblemType::WrongEpoch).with("epoch", current),
        DsError::Behind { current } => document(ProblemType::ServiceBehind).with("epoch", current),
        DsError::StaleTimestamp { now_ms } => {
            document(ProblemType::StaleTimestamp).with("now_ms", now_ms)
        }
        DsError::TooManyRequests { retry_after_ms } => {
            let problem = with_challenge(service, document(ProblemType::TooManyRequests));
            match retry_after_ms {
                Some(ms) => {
                    problem.with_header(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)))
                }
                None => problem,
            }
        }
        DsError::Busy { retry_after_ms } => document(ProblemType::Unavailable).with_header(
            header::RETRY_AFTER,
            HeaderValue::from(retry_after_ms.div_ceil(1000)),
        ),
        DsError::Conflict => document(ProblemType::Conflict),
        DsError::AlreadyDone(_) => document(ProblemType::Internal),
        DsError::Storage(text) => {
            tracing::error!(error = %text, "the store failed");
            document(ProblemType::Unavailable)
        }
        DsError::Internal(what) => {
            tracing::error!(what, "an invariant of ours does not hold");
            document(ProblemType::Internal)
        }
    };
    problem.into_response()
}

/// RFC 9577 §2.1: what token to get.
fn with_challenge(service: &Service, problem: Problem) -> Problem {
    let now_ms = service.clock.now_unix_ms();
    let challenge = service
        .settings
        .challenge
        .www_authenticate(service.issuer_keys().challenge_key(now_ms));
    match HeaderValue::from_str(&challenge) {
        Ok(value) => problem.with_header(header::WWW_AUTHENTICATE, value),
        Err(_) => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_up_kit_refuses_strangers_with_the_type_that_the_protocol_names() {
        assert_eq!(
            service::gateway_auth::GATEWAY_ONLY_PROBLEM,
            ProblemType::GatewayOnly.uri()
        );
    }

    #[test]
    fn every_problem_type_becomes_a_document_with_its_name_and_status() {
        for problem in ProblemType::ALL {
            assert_eq!(ProblemType::from_uri(problem.uri()), Some(*problem));
            assert_eq!(document(*problem).status().as_u16(), problem.status());
        }
    }
}
