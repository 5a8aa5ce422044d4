//! How each error leaves the process: one problem type, one status, one metric label.

use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use service::Problem;

use crate::attestation::AttestationError;
use crate::issuance::IssuanceError;
use crate::token_request::TokenRequestError;

const BEARER: &str = "Bearer realm=\"privacy-pass-issuer\"";
const BEARER_INVALID: &str = "Bearer realm=\"privacy-pass-issuer\", error=\"invalid_token\"";

/// The refusals of an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    UnsupportedMediaType,
    AccountTokenMissing,
    AccountTokenInvalid,
    AccountTokenExpired,
    AccountBlocked,
    MalformedRequest,
    UnsupportedTokenType,
    InvalidBlindedMessage,
    BatchTooLarge,
    UnknownTokenKey,
    QuotaExhausted,
    TokensWithheld,
    BurstExceeded,
    Unavailable,
    Internal,
}

impl Kind {
    fn of(error: &IssuanceError) -> Self {
        match error {
            IssuanceError::MediaType => Self::UnsupportedMediaType,
            IssuanceError::Account(AttestationError::Missing) => Self::AccountTokenMissing,
            IssuanceError::Account(AttestationError::Invalid) => Self::AccountTokenInvalid,
            IssuanceError::Account(AttestationError::Expired) => Self::AccountTokenExpired,
            IssuanceError::Account(AttestationError::Unavailable) | IssuanceError::Busy => {
                Self::Unavailable
            }
            IssuanceError::Blocked => Self::AccountBlocked,
            IssuanceError::Request(TokenRequestError::Malformed) => Self::MalformedRequest,
            IssuanceError::Request(TokenRequestError::UnsupportedTokenType) => {
                Self::UnsupportedTokenType
            }
            IssuanceError::Request(TokenRequestError::BlindedMessageLength)
            | IssuanceError::BlindedMessageRange => Self::InvalidBlindedMessage,
            IssuanceError::Request(TokenRequestError::BatchTooLarge { .. }) => Self::BatchTooLarge,
            IssuanceError::UnknownTokenKey => Self::UnknownTokenKey,
            IssuanceError::QuotaExhausted { .. } => Self::QuotaExhausted,
            IssuanceError::Withheld => Self::TokensWithheld,
            IssuanceError::BurstExceeded { .. } => Self::BurstExceeded,
            IssuanceError::Store(_) | IssuanceError::Signing(_) | IssuanceError::Worker => {
                Self::Internal
            }
        }
    }

    /// RFC 9578 §6.2 asks for 422 where the request cannot be served as it is.
    fn status(self) -> StatusCode {
        match self {
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::AccountTokenMissing | Self::AccountTokenInvalid | Self::AccountTokenExpired => {
                StatusCode::UNAUTHORIZED
            }
            Self::AccountBlocked => StatusCode::FORBIDDEN,
            Self::MalformedRequest => StatusCode::BAD_REQUEST,
            Self::UnsupportedTokenType | Self::InvalidBlindedMessage | Self::UnknownTokenKey => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::TokensWithheld => StatusCode::FORBIDDEN,
            Self::BatchTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::QuotaExhausted | Self::BurstExceeded => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn slug(self) -> &'static str {
        match self {
            Self::UnsupportedMediaType => "unsupported-media-type",
            Self::AccountTokenMissing => "account-token-missing",
            Self::AccountTokenInvalid => "account-token-invalid",
            Self::AccountTokenExpired => "account-token-expired",
            Self::AccountBlocked => "account-blocked",
            Self::MalformedRequest => "malformed-request",
            Self::UnsupportedTokenType => "unsupported-token-type",
            Self::InvalidBlindedMessage => "invalid-blinded-message",
            Self::BatchTooLarge => "batch-too-large",
            Self::UnknownTokenKey => "unknown-token-key",
            Self::QuotaExhausted => "quota-exhausted",
            Self::TokensWithheld => "tokens-withheld",
            Self::BurstExceeded => "burst-exceeded",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::UnsupportedMediaType => {
                "The body must be a token request or a generic batch of them"
            }
            Self::AccountTokenMissing => "An account token is needed",
            Self::AccountTokenInvalid => "The account token is not valid",
            Self::AccountTokenExpired => "The account token has expired",
            Self::AccountBlocked => "The account gets no tokens",
            Self::MalformedRequest => "The body is not a token request",
            Self::UnsupportedTokenType => "Only token type 0x0002 is issued",
            Self::InvalidBlindedMessage => "The blinded message is not valid for the token key",
            Self::BatchTooLarge => "The batch has too many token requests",
            Self::UnknownTokenKey => "No token key in use has this truncated key id",
            Self::QuotaExhausted => "The account has used up its tokens of the day",
            Self::TokensWithheld => "No tokens for this account for now",
            Self::BurstExceeded => "The account asks for too many tokens at once",
            Self::Unavailable => "This cannot be answered now; try again",
            Self::Internal => "The issuer failed; try the same request again",
        }
    }
}

/// The metric label of an error: one of a fixed few.
pub(crate) fn reason(error: &IssuanceError) -> &'static str {
    Kind::of(error).slug()
}

impl From<&IssuanceError> for Problem {
    fn from(error: &IssuanceError) -> Self {
        let kind = Kind::of(error);
        let type_uri = format!("urn:privacy-pass-issuer:problem:{}", kind.slug());
        let problem = Self::new(kind.status(), type_uri, kind.title());
        match (kind, error) {
            (Kind::AccountTokenMissing, _) => {
                problem.with_header(WWW_AUTHENTICATE, HeaderValue::from_static(BEARER))
            }
            (Kind::AccountTokenInvalid | Kind::AccountTokenExpired, _) => {
                problem.with_header(WWW_AUTHENTICATE, HeaderValue::from_static(BEARER_INVALID))
            }
            (
                _,
                IssuanceError::QuotaExhausted {
                    available,
                    retry_after_s,
                }
                | IssuanceError::BurstExceeded {
                    available,
                    retry_after_s,
                },
            ) => problem
                .with("available", *available)
                .with_header(RETRY_AFTER, HeaderValue::from(*retry_after_s)),
            (_, IssuanceError::Request(TokenRequestError::BatchTooLarge { limit })) => {
                problem.with("limit", *limit)
            }
            (Kind::Unavailable, _) => {
                problem.with_header(RETRY_AFTER, HeaderValue::from_static("5"))
            }
            _ => problem,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::store::StoreError;
    use crate::token_keys::SigningError;

    #[test]
    fn every_error_has_its_problem_and_survives_the_round_trip() {
        let errors: [(IssuanceError, u16, &str); 18] = [
            (IssuanceError::MediaType, 415, "unsupported-media-type"),
            (
                AttestationError::Missing.into(),
                401,
                "account-token-missing",
            ),
            (
                AttestationError::Invalid.into(),
                401,
                "account-token-invalid",
            ),
            (
                AttestationError::Expired.into(),
                401,
                "account-token-expired",
            ),
            (
                TokenRequestError::Malformed.into(),
                400,
                "malformed-request",
            ),
            (
                TokenRequestError::UnsupportedTokenType.into(),
                422,
                "unsupported-token-type",
            ),
            (
                TokenRequestError::BlindedMessageLength.into(),
                422,
                "invalid-blinded-message",
            ),
            (
                IssuanceError::BlindedMessageRange,
                422,
                "invalid-blinded-message",
            ),
            (IssuanceError::UnknownTokenKey, 422, "unknown-token-key"),
            (
                IssuanceError::QuotaExhausted {
                    available: 0,
                    retry_after_s: 9,
                },
                429,
                "quota-exhausted",
            ),
            (IssuanceError::Withheld, 403, "tokens-withheld"),
            (
                IssuanceError::BurstExceeded {
                    available: 0,
                    retry_after_s: 9,
                },
                429,
                "burst-exceeded",
            ),
            (IssuanceError::Blocked, 403, "account-blocked"),
            (AttestationError::Unavailable.into(), 503, "unavailable"),
            (
                TokenRequestError::BatchTooLarge { limit: 3 }.into(),
                413,
                "batch-too-large",
            ),
            (StoreError::Format.into(), 500, "internal"),
            (SigningError.into(), 500, "internal"),
            (IssuanceError::Worker, 500, "internal"),
        ];
        for (error, status, slug) in errors {
            let problem = Problem::from(&error);
            assert_eq!(problem.status(), status, "{error}");
            assert_eq!(
                problem.type_uri(),
                format!("urn:privacy-pass-issuer:problem:{slug}")
            );
            assert_eq!(reason(&error), slug);
            let read = Problem::from_json(problem.status(), &problem.to_json()).unwrap();
            assert_eq!(read.type_uri(), problem.type_uri());
            assert_eq!(read.title(), problem.title());
        }
    }

    #[test]
    fn an_unauthorized_answer_says_how_to_authenticate_and_a_quota_when_to_come_back() {
        let missing = Problem::from(&IssuanceError::from(AttestationError::Missing));
        assert_eq!(
            missing.headers(),
            [(WWW_AUTHENTICATE, HeaderValue::from_static(BEARER))]
        );
        let used_up = Problem::from(&IssuanceError::QuotaExhausted {
            available: 4,
            retry_after_s: 9,
        });
        assert_eq!(used_up.extensions()["available"], 4);
        assert_eq!(
            used_up.headers(),
            [(RETRY_AFTER, HeaderValue::from_static("9"))]
        );
    }

    #[test]
    fn internal_text_stays_inside() {
        let error = IssuanceError::from(StoreError::Engine("secret detail".into()));
        let document = Problem::from(&error).to_json();
        assert!(!String::from_utf8(document).unwrap().contains("secret"));
    }
}
