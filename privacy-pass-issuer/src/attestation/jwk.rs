//! Keys that account tokens are verified with. Each is for one algorithm, which follows from what
//! kind of key it is and never from the token (RFC 8725 §3.1).

use aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// Keys of one document that are looked at.
const MAX_KEYS: usize = 64;
const MAX_KID_LENGTH: usize = 256;
/// Bytes of an RSA modulus: 2048 to 8192 bits.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// SubjectPublicKeyInfo up to the key itself: Ed25519 (RFC 8410 §4),
const ED25519_SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// an uncompressed point on P-256 (RFC 5480 §2.1.1),
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// and the AlgorithmIdentifier rsaEncryption (RFC 3279 §2.3.1).
const RSA_ALGORITHM: [u8; 15] = [
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];

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

/// RFC 7517 §4, RFC 7518 §6, RFC 8037 §2.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
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
        if let Some(key) = spki.strip_prefix(&ED25519_SPKI) {
            Self::ed25519(None, key)
        } else if let Some(point) = spki.strip_prefix(&P256_SPKI) {
            Self::p256(None, point)
        } else {
            Self::rsa_spki(&spki)
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
        let is = |value: &Option<String>, expected: &str| value.as_deref() == Some(expected);
        let may_be =
            |value: &Option<String>, expected: &str| value.is_none() || is(value, expected);
        let verifies = jwk
            .key_ops
            .as_ref()
            .is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        let too_long = |kid: &String| kid.len() > MAX_KID_LENGTH;
        if !may_be(&jwk.r#use, "sig") || !verifies || jwk.kid.as_ref().is_some_and(too_long) {
            return None;
        }
        let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
        match jwk.kty.as_str() {
            "OKP" if is(&jwk.crv, "Ed25519") && may_be(&jwk.alg, "EdDSA") => {
                Self::ed25519(jwk.kid, &bytes(&jwk.x)?).ok()
            }
            "EC" if is(&jwk.crv, "P-256") && may_be(&jwk.alg, "ES256") => {
                let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                Self::p256(jwk.kid, &[&[4], &x[..], &y].concat()).ok()
            }
            "RSA" if may_be(&jwk.alg, "RS256") => {
                let (modulus, exponent) = (bytes(&jwk.n)?, bytes(&jwk.e)?);
                let sound = RSA_MODULUS.contains(&modulus.len())
                    && modulus.first() != Some(&0)
                    && (1..=8).contains(&exponent.len());
                sound.then(|| Self {
                    kid: jwk.kid,
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

    /// Keys of 2048 bits and more have lengths of two bytes everywhere.
    fn rsa_spki(spki: &[u8]) -> Result<Self, KeyError> {
        let key = sequence(0x30, spki)
            .and_then(|content| content.strip_prefix(&RSA_ALGORITHM))
            .and_then(|bit_string| sequence(0x03, bit_string))
            .and_then(|bits| bits.strip_prefix(&[0]))
            .ok_or(KeyError::Unsupported)?;
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

/// The content of a DER element with a length of two bytes that fills `bytes`.
fn sequence(tag: u8, bytes: &[u8]) -> Option<&[u8]> {
    let (header, content) = bytes.split_first_chunk::<4>()?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    (header[..2] == [tag, 0x82] && length == content.len()).then_some(content)
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
