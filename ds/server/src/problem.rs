//! Every [`Failure`] as a problem document (RFC 9457), in one place.

use axum::response::{IntoResponse as _, Response};
use ds_domain::execution::Failure;
use ds_domain::refusal::Refusal;
use http::{HeaderValue, StatusCode, header};
use protocol::WIRE_VERSION;
use protocol::problem::ProblemType;
use service::problem::Problem;
use service::sparse::Sparse;

use crate::load::Busy;
use crate::server::Server;

fn document(problem: ProblemType) -> Problem {
    let status =
        StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Problem::new(status, problem.uri(), problem.title())
}

/// The bounded label of a failure: its problem's name, or what of ours is the matter.
pub(crate) fn slug(failure: &Failure) -> &'static str {
    match failure {
        Failure::Refused(refusal) => refusal.problem().slug(),
        Failure::Clock => "clock",
        Failure::Engine(_) => "store-failed",
        Failure::Internal(_) => ProblemType::Internal.slug(),
    }
}

/// When to come again if the clock is not believed.
const CLOCK_SECONDS: u64 = 60;

/// When to come again if there is no room for blobs.
const FULL_SECONDS: u64 = 600;

/// There is no place for a request now.
pub(crate) fn busy(busy: Busy) -> Response {
    let seconds = busy.retry_after_ms.div_ceil(1000);
    retry_after(document(ProblemType::Unavailable), seconds).into_response()
}

fn retry_after(problem: Problem, seconds: u64) -> Problem {
    problem.with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
}

pub(crate) fn respond(server: &Server, failure: Failure) -> Response {
    let problem = match failure {
        Failure::Refused(refusal) => refused(server, refusal),
        Failure::Clock => {
            static SAID: Sparse = Sparse::new();
            if let Some(times) = SAID.due() {
                tracing::error!(
                    times,
                    "the clock has jumped ahead: nothing is written until it was the same for a day, or `believe-clock` is said"
                );
            }
            retry_after(document(ProblemType::Unavailable), CLOCK_SECONDS)
        }
        Failure::Engine(text) => {
            // A full disk fails each request.
            static SAID: Sparse = Sparse::new();
            if let Some(times) = SAID.due() {
                tracing::error!(times, error = %text, "the store failed");
            }
            document(ProblemType::Unavailable)
        }
        Failure::Internal(what) => {
            tracing::error!(what, "an invariant of ours does not hold");
            document(ProblemType::Internal)
        }
    };
    problem.into_response()
}

fn refused(server: &Server, refusal: Refusal) -> Problem {
    let problem = document(refusal.problem());
    match refusal {
        Refusal::Problem(ProblemType::TokenRequired | ProblemType::TokenRejected) => {
            with_challenge(server, problem)
        }
        Refusal::Problem(ProblemType::UnsupportedVersion) => {
            problem.with("supported", vec![WIRE_VERSION])
        }
        Refusal::Problem(ProblemType::StorageFull) => retry_after(problem, FULL_SECONDS),
        Refusal::Problem(_) => problem,
        Refusal::WrongEpoch { current } => problem.with("epoch", current.0),
        Refusal::Behind { current } => {
            is_behind();
            problem.with("epoch", current.0)
        }
        Refusal::StaleTimestamp { now_ms } => problem.with("now_ms", now_ms),
        Refusal::Exhausted { retry_after_ms } => {
            let problem = with_challenge(server, problem);
            match retry_after_ms {
                Some(ms) => retry_after(problem, ms.div_ceil(1000)),
                None => problem,
            }
        }
    }
}

/// RFC 9577 §2.1: what token to get.
fn with_challenge(server: &Server, problem: Problem) -> Problem {
    let now_ms = server.clock.now_unix_ms();
    let challenge = server
        .settings
        .challenge
        .www_authenticate(server.issuer_keys().challenge_key(now_ms));
    match HeaderValue::from_str(&challenge) {
        Ok(value) => problem.with_header(header::WWW_AUTHENTICATE, value),
        Err(_) => problem,
    }
}

/// Somebody knows more than this store has.
pub(crate) fn is_behind() {
    metrics::counter!("ds_behind_total").increment(1);
    // Any member of a group can say so.
    static SAID: Sparse = Sparse::new();
    if let Some(times) = SAID.due() {
        tracing::error!(
            times,
            "a client knows more than this store has: was it restored from a backup?"
        );
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
