//! How each refusal leaves the process: one problem type, one status.

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use protocol::push::PROBLEM_PREFIX;
use service::Problem;

use crate::devices::DeviceError;
use crate::services::NotTaken;

impl From<&DeviceError> for Problem {
    fn from(error: &DeviceError) -> Self {
        let (status, slug, title) = match error {
            DeviceError::Malformed => (
                StatusCode::BAD_REQUEST,
                "malformed",
                "The body is no request of this kind",
            ),
            DeviceError::Version => (
                StatusCode::BAD_REQUEST,
                "unsupported-version",
                "The version is not spoken",
            ),
            DeviceError::Signature => (
                StatusCode::FORBIDDEN,
                "invalid-signature",
                "The signature is not the owner's",
            ),
            DeviceError::UnknownDevice => (
                StatusCode::NOT_FOUND,
                "unknown-device",
                "There is no such device",
            ),
            DeviceError::Stale { .. } => (
                StatusCode::CONFLICT,
                "stale-number",
                "A request with this number or a higher one had an effect",
            ),
            DeviceError::Address => (
                StatusCode::BAD_REQUEST,
                "address-not-taken",
                "No sender takes the address",
            ),
            DeviceError::AddressInUse => (
                StatusCode::CONFLICT,
                "address-in-use",
                "Too many devices are registered with the address",
            ),
            DeviceError::LimitExceeded => (
                StatusCode::BAD_REQUEST,
                "limit-exceeded",
                "A documented limit is exceeded",
            ),
            DeviceError::TooManyRevoked => (
                StatusCode::CONFLICT,
                "too-many-revoked",
                "Too many handles were ended one by one; end all of them",
            ),
            DeviceError::TooMany { .. } => (
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-requests",
                "The allowance is used up",
            ),
            DeviceError::Full => (
                StatusCode::SERVICE_UNAVAILABLE,
                "full",
                "No further device is taken",
            ),
            DeviceError::Store(_)
            | DeviceError::Seal(_)
            | DeviceError::Crypto(_)
            | DeviceError::Broken => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "The push sender failed",
            ),
        };
        let problem = Self::new(status, format!("{PROBLEM_PREFIX}{slug}"), title);
        match error {
            DeviceError::Stale { last } => problem.with("last", *last),
            DeviceError::TooMany { retry_after_s } => {
                problem.with_header(RETRY_AFTER, HeaderValue::from(*retry_after_s))
            }
            DeviceError::Full => problem.with_header(RETRY_AFTER, HeaderValue::from(3600)),
            _ => problem,
        }
    }
}

impl From<NotTaken> for Problem {
    fn from(why: NotTaken) -> Self {
        match why {
            NotTaken::Stranger => Self::new(
                StatusCode::UNAUTHORIZED,
                format!("{PROBLEM_PREFIX}delivery-service-only"),
                "Wakes are taken from listed delivery services only",
            ),
            NotTaken::TooMany { retry_after_s } => {
                Self::from(&DeviceError::TooMany { retry_after_s })
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn every_refusal_has_a_type_of_its_own_and_internal_text_stays_inside() {
        let errors = [
            (DeviceError::Malformed, 400),
            (DeviceError::Version, 400),
            (DeviceError::Signature, 403),
            (DeviceError::UnknownDevice, 404),
            (DeviceError::Stale { last: 7 }, 409),
            (DeviceError::Address, 400),
            (DeviceError::AddressInUse, 409),
            (DeviceError::LimitExceeded, 400),
            (DeviceError::TooManyRevoked, 409),
            (DeviceError::TooMany { retry_after_s: 3 }, 429),
            (DeviceError::Full, 503),
            (StoreError::Engine("secret detail".into()).into(), 500),
        ];
        let mut types: Vec<String> = errors
            .iter()
            .map(|(error, status)| {
                let problem = Problem::from(error);
                assert_eq!(problem.status(), *status, "{error}");
                let document = String::from_utf8(problem.to_json()).unwrap();
                assert!(!document.contains("secret"));
                problem.type_uri().to_owned()
            })
            .collect();
        types.sort();
        types.dedup();
        assert_eq!(types.len(), errors.len());
    }
}
