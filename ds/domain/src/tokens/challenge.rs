//! The challenge that a client without a token gets (RFC 9577 §2.1), and that every token which is
//! redeemed here must have been made for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use sha2::{Digest as _, Sha256};

use super::TOKEN_TYPE;

/// `TokenChallenge` of RFC 9577 §2.1.1 for one issuer and one origin.
///
/// The redemption context is empty: a token must be obtainable long before it is spent, else the
/// issuer's times of issuance would tell when somebody acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    encoded: Vec<u8>,
    digest: [u8; 32],
}

/// The configured names do not make a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    #[error("the issuer name must be 1 to 65535 visible ASCII characters")]
    IssuerName,
    #[error("the origin must be 1 to 65535 visible ASCII characters without a comma")]
    Origin,
}

impl Challenge {
    /// `issuer_name` and `origin` are host names (with a port when it is not the default one), as
    /// clients and issuer write them: they are compared as bytes, through the digest.
    pub fn new(issuer_name: &str, origin: &str) -> Result<Self, ChallengeError> {
        let issuer_name_length = name_length(issuer_name).ok_or(ChallengeError::IssuerName)?;
        // The comma separates origins in origin_info; one challenge here is for one origin.
        let origin_length = name_length(origin)
            .filter(|_| !origin.contains(','))
            .ok_or(ChallengeError::Origin)?;

        let mut encoded = Vec::with_capacity(7 + issuer_name.len() + origin.len());
        encoded.extend(TOKEN_TYPE.to_be_bytes());
        encoded.extend(issuer_name_length.to_be_bytes());
        encoded.extend(issuer_name.as_bytes());
        encoded.push(0); // redemption_context, empty
        encoded.extend(origin_length.to_be_bytes());
        encoded.extend(origin.as_bytes());
        let digest = Sha256::digest(&encoded).into();
        Ok(Self { encoded, digest })
    }

    /// The encoded `TokenChallenge`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.encoded
    }

    /// What a token for this challenge carries as its `challenge_digest`.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The `WWW-Authenticate` field value of a 401, naming the issuer key to use by its SPKI
    /// (RFC 9577 §2.1.2).
    pub fn www_authenticate(&self, token_key: &[u8]) -> String {
        format!(
            "PrivateToken challenge=\"{}\", token-key=\"{}\"",
            URL_SAFE.encode(&self.encoded),
            URL_SAFE.encode(token_key),
        )
    }
}

fn name_length(name: &str) -> Option<u16> {
    let visible = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    visible.then(|| u16::try_from(name.len()).ok()).flatten()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use privacypass::TokenType;
    use privacypass::auth::authenticate::TokenChallenge;

    use super::*;

    #[test]
    fn the_encoding_and_digest_are_those_of_the_reference_implementation() {
        let ours = Challenge::new("issuer.example", "ds.example:4203").unwrap();
        let reference = TokenChallenge::new(
            TokenType::Public,
            "issuer.example",
            None,
            &["ds.example:4203".to_owned()],
        );
        assert_eq!(ours.as_bytes(), reference.serialize().unwrap());
        assert_eq!(*ours.digest(), reference.digest().unwrap());
    }

    #[test]
    fn the_challenge_header_is_quoted_and_padded() {
        let challenge = Challenge::new("i", "o").unwrap();
        assert_eq!(
            challenge.www_authenticate(&[0xff, 0xfe]),
            "PrivateToken challenge=\"AAIAAWkAAAFv\", token-key=\"__4=\""
        );
    }

    #[test]
    fn names_that_cannot_stand_in_a_challenge_are_refused() {
        assert_eq!(Challenge::new("", "o"), Err(ChallengeError::IssuerName));
        assert_eq!(
            Challenge::new("is suer", "o"),
            Err(ChallengeError::IssuerName)
        );
        assert_eq!(Challenge::new("i", ""), Err(ChallengeError::Origin));
        assert_eq!(Challenge::new("i", "a,b"), Err(ChallengeError::Origin));
        assert_eq!(
            Challenge::new(&"i".repeat(65536), "o"),
            Err(ChallengeError::IssuerName)
        );
    }
}
