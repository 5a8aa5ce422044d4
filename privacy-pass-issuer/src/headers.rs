//! The fields of a request's head that the issuer reads.

use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE};

use crate::attestation::{AttestationError, MAX_TOKEN_LENGTH};

/// The declared media type in lower case, without parameters (RFC 9110 §8.3.1).
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next()?;
    Some(essence.trim().to_ascii_lowercase())
}

/// The one bearer token of a request.
pub(crate) fn bearer_token(headers: &HeaderMap) -> Result<&str, AttestationError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(AttestationError::Missing)?;
    if values.next().is_some() || value.len() > MAX_TOKEN_LENGTH {
        return Err(AttestationError::Invalid);
    }
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .ok_or(AttestationError::Invalid)?;
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Err(AttestationError::Missing);
    }
    Ok(token.trim_matches(' '))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_media_type_is_read_without_its_parameters_and_in_any_case() {
        let declared = |value: &str| {
            media_type(&HeaderMap::from_iter([(
                CONTENT_TYPE,
                value.parse().unwrap(),
            )]))
        };
        assert_eq!(declared("Text/Plain; a=b").as_deref(), Some("text/plain"));
        assert_eq!(declared(" text/plain ").as_deref(), Some("text/plain"));
        assert_eq!(media_type(&HeaderMap::new()), None);
    }

    fn bearer(token: &str) -> HeaderMap {
        let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        HeaderMap::from_iter([(AUTHORIZATION, value)])
    }

    #[test]
    fn exactly_one_bearer_token_is_taken() {
        assert_eq!(bearer_token(&bearer("a.b.c")), Ok("a.b.c"));
        assert_eq!(
            bearer_token(&HeaderMap::new()),
            Err(AttestationError::Missing)
        );
        let other = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Basic QTpC"))]);
        assert_eq!(bearer_token(&other), Err(AttestationError::Missing));
        let mut twice = bearer("a");
        twice.append(AUTHORIZATION, twice[AUTHORIZATION].clone());
        assert_eq!(bearer_token(&twice), Err(AttestationError::Invalid));
        let long = bearer(&"x".repeat(MAX_TOKEN_LENGTH));
        assert_eq!(bearer_token(&long), Err(AttestationError::Invalid));
    }
}
