//! Keys that account tokens are verified with. Each is for one algorithm, which follows from what
//! kind of key it is and never from the token (RFC 8725 §3.1).

use aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use spki::der::asn1::{AnyRef, ObjectIdentifier};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

/// Keys of one document that are looked at.
const MAX_KEYS: usize = 64;
const MAX_KID_LENGTH: usize = 256;
/// Bytes of an RSA modulus: 2048 to 8192 bits.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// Ed25519 (RFC 8410 §3),
const ED25519_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// a point on the curve P-256 (RFC 5480 §2.1.1),
const EC_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
/// and rsaEncryption (RFC 3279 §2.3.1).
const RSA_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// A public key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("not a public key in base64 or PEM: Ed25519, P-256, or RSA of 2048 to 8192 bits")]
    Unsupported,
    #[error("not a JSON Web Key Set")]
    Document,
    #[error("the JSON Web Key Set has more than 64 keys")]
    TooMany,
}

/// One key and the one algorithm that it is for.
pub struct VerificationKey {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl VerificationKey {
    /// Reads 32 raw bytes in base64 (Ed25519), or a PEM `PUBLIC KEY` (Ed25519, P-256, RSA).
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let Some(pem) = text.strip_prefix("-----BEGIN PUBLIC KEY-----") else {
            let raw = STANDARD
                .decode(text)
                .or_else(|_| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')))
                .map_err(|_| KeyError::Unsupported)?;
            return Self::ed25519(None, &raw);
        };
        let body: String = pem
            .strip_suffix("-----END PUBLIC KEY-----")
            .ok_or(KeyError::Unsupported)?
            .split_ascii_whitespace()
            .collect();
        let spki = STANDARD.decode(body).map_err(|_| KeyError::Unsupported)?;
        Self::from_spki(&spki)
    }

    /// SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    fn from_spki(spki: &[u8]) -> Result<Self, KeyError> {
        let info = SubjectPublicKeyInfoRef::try_from(spki).map_err(|_| KeyError::Unsupported)?;
        let key = info.subject_public_key.as_bytes();
        let key = key.ok_or(KeyError::Unsupported)?;
        let AlgorithmIdentifierRef { oid, parameters } = info.algorithm;
        match oid {
            ED25519_ID if parameters.is_none() => Self::ed25519(None, key),
            EC_ID if info.algorithm.assert_parameters_oid(P256_ID).is_ok() => Self::p256(None, key),
            RSA_ID if parameters == Some(AnyRef::NULL) => Self::rsa(key),
            _ => Err(KeyError::Unsupported),
        }
    }

    /// Reads a JWK set (RFC 7517 §5): the keys in it that we can use; others are passed over.
    pub fn from_jwks(document: &[u8]) -> Result<Vec<Self>, KeyError> {
        let Document { keys } = serde_json::from_slice(document).map_err(|_| KeyError::Document)?;
        if keys.len() > MAX_KEYS {
            return Err(KeyError::TooMany);
        }
        Ok(keys
            .into_iter()
            .filter_map(|jwk| Self::from_jwk(serde_json::from_value(jwk).ok()?))
            .collect())
    }

    fn from_jwk(jwk: Jwk) -> Option<Self> {
        let (common, kid) = (&jwk.common, jwk.common.key_id.clone());
        let signs = common.public_key_use.as_ref();
        let verifies = common.key_operations.as_ref();
        let too_long = |kid: &String| kid.len() > MAX_KID_LENGTH;
        if signs.is_some_and(|it| *it != PublicKeyUse::Signature)
            || verifies.is_some_and(|operations| !operations.contains(&KeyOperations::Verify))
            || kid.as_ref().is_some_and(too_long)
        {
            return None;
        }
        let may_be = |algorithm| common.key_algorithm.is_none_or(|it| it == algorithm);
        let bytes = |text: &String| URL_SAFE_NO_PAD.decode(text).ok();
        match &jwk.algorithm {
            AlgorithmParameters::OctetKeyPair(key)
                if key.curve == EllipticCurve::Ed25519 && may_be(KeyAlgorithm::EdDSA) =>
            {
                Self::ed25519(kid, &bytes(&key.x)?).ok()
            }
            AlgorithmParameters::EllipticCurve(key)
                if key.curve == EllipticCurve::P256 && may_be(KeyAlgorithm::ES256) =>
            {
                let (x, y) = (bytes(&key.x)?, bytes(&key.y)?);
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                Self::p256(kid, &[&[4], &x[..], &y].concat()).ok()
            }
            AlgorithmParameters::RSA(key) if may_be(KeyAlgorithm::RS256) => {
                let (modulus, exponent) = (bytes(&key.n)?, bytes(&key.e)?);
                let sound = RSA_MODULUS.contains(&modulus.len())
                    && modulus.first() != Some(&0)
                    && (1..=8).contains(&exponent.len());
                sound.then(|| Self {
                    kid,
                    algorithm: Algorithm::RS256,
                    key: DecodingKey::from_rsa_raw_components(&modulus, &exponent),
                })
            }
            _ => None,
        }
    }

    fn ed25519(kid: Option<String>, key: &[u8]) -> Result<Self, KeyError> {
        parses(&ED25519, key)?;
        Ok(Self {
            kid,
            algorithm: Algorithm::EdDSA,
            key: DecodingKey::from_ed_der(key),
        })
    }

    fn p256(kid: Option<String>, point: &[u8]) -> Result<Self, KeyError> {
        parses(&ECDSA_P256_SHA256_FIXED, point)?;
        Ok(Self {
            kid,
            algorithm: Algorithm::ES256,
            key: DecodingKey::from_ec_der(point),
        })
    }

    fn rsa(key: &[u8]) -> Result<Self, KeyError> {
        parses(&RSA_PKCS1_2048_8192_SHA256, key)?;
        Ok(Self {
            kid: None,
            algorithm: Algorithm::RS256,
            key: DecodingKey::from_rsa_der(key),
        })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn decoding_key(&self) -> &DecodingKey {
        &self.key
    }

    /// Whether it is the key with this id.
    pub fn has_id(&self, kid: &str) -> bool {
        self.kid.as_deref() == Some(kid)
    }

    /// Whether a token with this `alg` and `kid` may be of this key. A key without an id serves
    /// tokens with any.
    pub(super) fn may_have_signed(&self, algorithm: Algorithm, kid: Option<&str>) -> bool {
        self.algorithm == algorithm
            && match (&self.kid, kid) {
                (Some(ours), Some(theirs)) => ours == theirs,
                _ => true,
            }
    }
}

fn parses(algorithm: &'static dyn VerificationAlgorithm, key: &[u8]) -> Result<(), KeyError> {
    // The library takes SubjectPublicKeyInfo too, which is not what is verified with later.
    let raw = match key.len() {
        32 | 65 => true,
        length => length >= *RSA_MODULUS.start(),
    };
    if !raw || ParsedPublicKey::new(algorithm, key).is_err() {
        return Err(KeyError::Unsupported);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_that_are_none_are_refused() {
        for key in [
            "",
            "AAAA",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
            "!",
        ] {
            let refused = VerificationKey::from_text(key);
            assert_eq!(refused.err(), Some(KeyError::Unsupported), "{key}");
        }
    }

    #[test]
    fn secrets_encryption_keys_and_unknown_kinds_are_passed_over() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let usable = |jwk: serde_json::Value| {
            let document = serde_json::json!({ "keys": [jwk] }).to_string();
            VerificationKey::from_jwks(document.as_bytes())
                .unwrap()
                .len()
        };
        use serde_json::json;
        assert_eq!(usable(json!({"kty": "OKP", "crv": "Ed25519", "x": x})), 1);
        for passed_over in [
            json!({"kty": "oct", "k": x}),
            json!({"kty": "oct", "k": x, "alg": "HS256"}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": x, "use": "enc"}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": x, "key_ops": ["sign"]}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": x, "alg": "ES256"}),
            json!({"kty": "OKP", "crv": "X25519", "x": x}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}),
            json!({"kty": "EC", "crv": "P-256", "x": x, "y": x}),
            json!({"kty": "RSA", "n": x, "e": "AQAB"}),
            json!({"kty": "OKP"}),
            json!("a"),
        ] {
            assert_eq!(usable(passed_over.clone()), 0, "{passed_over}");
        }
        assert!(VerificationKey::from_jwks(b"[]").is_err());
        let many = json!({ "keys": vec![json!({}); 65] }).to_string();
        assert_eq!(
            VerificationKey::from_jwks(many.as_bytes()).err(),
            Some(KeyError::TooMany)
        );
    }

    proptest! {
        #[test]
        fn no_document_and_no_text_makes_the_reader_panic(bytes: Vec<u8>, text: String) {
            let _ = VerificationKey::from_jwks(&bytes);
            let _ = VerificationKey::from_text(&text);
            let pem = format!("-----BEGIN PUBLIC KEY-----{}-----END PUBLIC KEY-----", STANDARD.encode(&bytes));
            let _ = VerificationKey::from_text(&pem);
        }
    }
}
