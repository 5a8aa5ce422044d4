//! Signed tokens (RFC 7515, RFC 7519) by which the push sender is known to push services.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// A key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the signature key is not of the kind that is needed, or cannot sign")]
pub(super) struct KeyError;

/// What signs.
pub(crate) enum SigningKey {
    Es256(EcdsaKeyPair),
    Rs256(RsaKeyPair),
}

impl SigningKey {
    pub(crate) fn es256(pkcs8: &[u8]) -> Result<Self, KeyError> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .map(Self::Es256)
            .map_err(|_| KeyError)
    }

    pub(crate) fn rs256(pkcs8: &[u8]) -> Result<Self, KeyError> {
        RsaKeyPair::from_pkcs8(pkcs8)
            .map(Self::Rs256)
            .map_err(|_| KeyError)
    }

    /// A P-256 key as an uncompressed point, base64url; of RSA nothing.
    pub(crate) fn public_point(&self) -> String {
        match self {
            Self::Es256(key) => URL_SAFE_NO_PAD.encode(key.public_key().as_ref()),
            Self::Rs256(_) => String::new(),
        }
    }

    /// `key_id` stands in the header, if there is one.
    pub(crate) fn sign(&self, key_id: Option<&str>, claims: &Value) -> Result<String, KeyError> {
        let algorithm = match self {
            Self::Es256(_) => "ES256",
            Self::Rs256(_) => "RS256",
        };
        let mut header = serde_json::json!({ "alg": algorithm, "typ": "JWT" });
        if let (Some(key_id), Some(members)) = (key_id, header.as_object_mut()) {
            members.insert("kid".to_owned(), key_id.into());
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Es256(key) => key
                .sign(&random, signed.as_bytes())
                .map_err(|_| KeyError)?
                .as_ref()
                .to_vec(),
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(
                    &RSA_PKCS1_SHA256,
                    &random,
                    signed.as_bytes(),
                    &mut signature,
                )
                .map_err(|_| KeyError)?;
                signature
            }
        };
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}
