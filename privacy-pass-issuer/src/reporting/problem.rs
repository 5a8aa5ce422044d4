//! How each error leaves the process: one problem type, one status, one metric label.

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use service::Problem;

use super::ReportingError;
use super::evidence::EvidenceError;

/// Slug, status and title of an error; `None` for those of issuance, which has its own.
fn kind(error: &ReportingError) -> Option<(&'static str, StatusCode, &'static str)> {
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    Some(match error {
        ReportingError::Issuance(_) => return None,
        ReportingError::MediaType => (
            "unsupported-media-type",
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "The body is not of the media type that is taken here",
        ),
        ReportingError::Malformed | ReportingError::Evidence(EvidenceError::UnknownVersion) => (
            "malformed-request",
            StatusCode::BAD_REQUEST,
            "The body is not what is taken here",
        ),
        ReportingError::Evidence(EvidenceError::NotTheRecipient) => (
            "not-the-recipient",
            StatusCode::FORBIDDEN,
            "Only whom the evidence is addressed to can report it, under their own account",
        ),
        ReportingError::Evidence(EvidenceError::Certificate) => (
            "invalid-certificate",
            unprocessable,
            "The certificate is not valid for the key that signed the evidence",
        ),
        ReportingError::Evidence(EvidenceError::CertificateExpired) => (
            "certificate-expired",
            unprocessable,
            "The certificate has expired",
        ),
        ReportingError::Evidence(EvidenceError::Introduction) => (
            "invalid-evidence",
            unprocessable,
            "The evidence is not signed by whom it is about",
        ),
        ReportingError::OwnAccount => (
            "own-account",
            unprocessable,
            "An account does not report itself",
        ),
        ReportingError::Exhausted { .. } => (
            "allowance-exhausted",
            StatusCode::TOO_MANY_REQUESTS,
            "The account has used up its allowance of the day",
        ),
        ReportingError::Store(_) | ReportingError::Key(_) | ReportingError::Worker => (
            "internal",
            StatusCode::INTERNAL_SERVER_ERROR,
            "The issuer failed; try the same request again",
        ),
    })
}

/// The metric label of an error: one of a fixed few.
pub(super) fn reason(error: &ReportingError) -> &'static str {
    match (kind(error), error) {
        (Some((slug, ..)), _) => slug,
        (None, ReportingError::Issuance(error)) => crate::problem::reason(error),
        (None, _) => "internal",
    }
}

impl From<&ReportingError> for Problem {
    fn from(error: &ReportingError) -> Self {
        let Some((slug, status, title)) = kind(error) else {
            return match error {
                ReportingError::Issuance(error) => Self::from(error),
                _ => Self::plain(StatusCode::INTERNAL_SERVER_ERROR),
            };
        };
        let type_uri = format!("urn:privacy-pass-issuer:problem:{slug}");
        let problem = Self::new(status, type_uri, title);
        match error {
            ReportingError::Exhausted { retry_after_s } => {
                problem.with_header(RETRY_AFTER, HeaderValue::from(*retry_after_s))
            }
            _ => problem,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::issuance::IssuanceError;
    use crate::store::StoreError;

    #[test]
    fn every_error_has_its_problem_and_survives_the_round_trip() {
        let errors: [(ReportingError, u16, &str); 11] = [
            (ReportingError::MediaType, 415, "unsupported-media-type"),
            (ReportingError::Malformed, 400, "malformed-request"),
            (
                EvidenceError::UnknownVersion.into(),
                400,
                "malformed-request",
            ),
            (
                EvidenceError::NotTheRecipient.into(),
                403,
                "not-the-recipient",
            ),
            (
                EvidenceError::Certificate.into(),
                422,
                "invalid-certificate",
            ),
            (
                EvidenceError::CertificateExpired.into(),
                422,
                "certificate-expired",
            ),
            (EvidenceError::Introduction.into(), 422, "invalid-evidence"),
            (ReportingError::OwnAccount, 422, "own-account"),
            (
                ReportingError::Exhausted { retry_after_s: 9 },
                429,
                "allowance-exhausted",
            ),
            (IssuanceError::Withheld.into(), 403, "tokens-withheld"),
            (StoreError::Engine("secret".into()).into(), 500, "internal"),
        ];
        for (error, status, slug) in errors {
            let problem = Problem::from(&error);
            assert_eq!(problem.status(), status, "{error}");
            assert_eq!(reason(&error), slug);
            let document = problem.to_json();
            assert!(!String::from_utf8_lossy(&document).contains("secret"));
            let read = Problem::from_json(problem.status(), &document).unwrap();
            assert_eq!(
                read.type_uri(),
                format!("urn:privacy-pass-issuer:problem:{slug}")
            );
        }
    }
}
