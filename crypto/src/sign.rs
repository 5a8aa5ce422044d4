//! Signatures with labels, after MLS's SignWithLabel (RFC 9420 §5.1.2) under a prefix of our own:
//! Ed25519 everywhere, and ECDSA over P-256 for leaves of groups whose ciphersuite has it.

use ed25519_dalek::{Signer as _, SigningKey};

use crate::secret::Secret;
use crate::{CryptoError, kdf, random};

/// Length of an Ed25519 public key.
pub const PUBLIC_KEY_LEN: usize = 32;
/// Length of a P-256 public key: an uncompressed point (RFC 9420 §5.1.1).
pub const P256_PUBLIC_KEY_LEN: usize = 65;

/// The signature schemes of the ciphersuites that are taken (RFC 8446 §4.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Ed25519,
    /// `ecdsa_secp256r1_sha256`.
    EcdsaP256,
}

pub use protocol::codec::sign_content;

/// An Ed25519 key pair; the private half is wiped on drop.
pub struct SignatureKeyPair(SigningKey);

impl SignatureKeyPair {
    /// A fresh key pair.
    ///
    /// # Errors
    /// [`CryptoError::Backend`] without randomness.
    pub fn random() -> Result<Self, CryptoError> {
        let seed = zeroize::Zeroizing::new(random::<32>()?);
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// The key pair of a stored seed.
    #[must_use]
    pub fn from_seed(seed: &Secret<32>) -> Self {
        Self(SigningKey::from_bytes(seed.expose()))
    }

    /// The seed, for storing.
    #[must_use]
    pub fn seed(&self) -> Secret<32> {
        Secret::new(self.0.to_bytes())
    }

    /// The Ed25519 public key, 32 bytes.
    #[must_use]
    pub fn public(&self) -> [u8; PUBLIC_KEY_LEN] {
        self.0.verifying_key().to_bytes()
    }

    /// MLS's `SignWithLabel` (RFC 9420 §5.1.2) with our labels.
    #[must_use]
    pub fn sign(&self, label: &str, content: &[u8]) -> Vec<u8> {
        self.sign_bytes(&sign_content(label, content))
    }

    /// A plain Ed25519 signature, for MLS, which brings its own labels.
    #[must_use]
    pub fn sign_bytes(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).to_bytes().to_vec()
    }
}

impl std::fmt::Debug for SignatureKeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(_) = self;
        f.write_str("SignatureKeyPair(..)")
    }
}

/// The key pair of a leaf or of the service as an external sender, in the scheme of the group.
#[derive(Debug)]
pub enum LeafKeyPair {
    Ed25519(SignatureKeyPair),
    /// ECDSA over P-256.
    EcdsaP256(P256KeyPair),
}

/// A P-256 key pair with the seed that it comes from; wiped on drop.
pub struct P256KeyPair {
    seed: Secret<32>,
    key: p256::ecdsa::SigningKey,
}

impl std::fmt::Debug for P256KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed: _, key: _ } = self;
        f.write_str("P256KeyPair(..)")
    }
}

impl LeafKeyPair {
    /// A fresh key pair.
    ///
    /// # Errors
    /// [`CryptoError::Backend`] without randomness.
    pub fn random(scheme: Scheme) -> Result<Self, CryptoError> {
        Self::from_seed(scheme, &Secret::random()?)
    }

    /// The key pair of a stored seed.
    ///
    /// # Errors
    /// [`CryptoError::InvalidKey`] never in practice: with a chance of 2^-32 for each of 256
    /// derivations.
    pub fn from_seed(scheme: Scheme, seed: &Secret<32>) -> Result<Self, CryptoError> {
        match scheme {
            Scheme::Ed25519 => Ok(Self::Ed25519(SignatureKeyPair::from_seed(seed))),
            Scheme::EcdsaP256 => (0..=u8::MAX)
                .find_map(|attempt| {
                    let scalar = zeroize::Zeroizing::new(kdf::derive::<32>(
                        seed.expose(),
                        "P-256 signature key",
                        &[attempt],
                    ));
                    p256::ecdsa::SigningKey::from_slice(&*scalar).ok()
                })
                .map(|key| {
                    Self::EcdsaP256(P256KeyPair {
                        seed: Secret::new(*seed.expose()),
                        key,
                    })
                })
                .ok_or(CryptoError::InvalidKey),
        }
    }

    /// The signature scheme of the key pair.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        match self {
            Self::Ed25519(_) => Scheme::Ed25519,
            Self::EcdsaP256(_) => Scheme::EcdsaP256,
        }
    }

    /// The seed, for storing.
    #[must_use]
    pub fn seed(&self) -> Secret<32> {
        match self {
            Self::Ed25519(key) => key.seed(),
            Self::EcdsaP256(key) => Secret::new(*key.seed.expose()),
        }
    }

    /// The public key in the form that a leaf has: 32 bytes for Ed25519, an uncompressed point of
    /// 65 bytes for P-256.
    #[must_use]
    pub fn public(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => key.public().to_vec(),
            Self::EcdsaP256(key) => key
                .key
                .verifying_key()
                .to_encoded_point(false)
                .as_bytes()
                .to_vec(),
        }
    }

    /// MLS's `SignWithLabel` (RFC 9420 §5.1.2) with our labels.
    #[must_use]
    pub fn sign(&self, label: &str, content: &[u8]) -> Vec<u8> {
        self.sign_bytes(&sign_content(label, content))
    }

    /// A plain signature, for MLS, which brings its own labels; ECDSA's is DER (RFC 9420 §5.1.2).
    #[must_use]
    pub fn sign_bytes(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => key.sign_bytes(message),
            Self::EcdsaP256(key) => {
                let signature: p256::ecdsa::Signature = key.key.sign(message);
                signature.to_der().as_bytes().to_vec()
            }
        }
    }
}

impl From<SignatureKeyPair> for LeafKeyPair {
    fn from(key: SignatureKeyPair) -> Self {
        Self::Ed25519(key)
    }
}

/// MLS's `VerifyWithLabel` (RFC 9420 §5.1.2) with our labels. The length of the key tells its
/// scheme.
///
/// # Errors
/// [`CryptoError::InvalidSignature`], also for a public key that is none.
pub fn verify(
    public_key: &[u8],
    label: &str,
    content: &[u8],
    signature: &[u8],
) -> Result<(), CryptoError> {
    let signed = sign_content(label, content);
    #[cfg(not(target_arch = "wasm32"))]
    let is_valid = verify_by_aws_lc(public_key, &signed, signature);
    #[cfg(target_arch = "wasm32")]
    let is_valid = verify_portably(public_key, &signed, signature);
    is_valid.ok_or(CryptoError::InvalidSignature)
}

#[cfg(not(target_arch = "wasm32"))]
fn verify_by_aws_lc(public_key: &[u8], signed: &[u8], signature: &[u8]) -> Option<()> {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm,
    };
    let algorithm: &dyn VerificationAlgorithm = match public_key.len() {
        PUBLIC_KEY_LEN => &ED25519,
        P256_PUBLIC_KEY_LEN => &ECDSA_P256_SHA256_ASN1,
        _ => return None,
    };
    let public_key = UnparsedPublicKey::new(algorithm, public_key);
    public_key.verify(signed, signature).ok()
}

/// The same where AWS-LC does not compile to.
#[cfg(any(test, target_arch = "wasm32"))]
fn verify_portably(public_key: &[u8], signed: &[u8], signature: &[u8]) -> Option<()> {
    match public_key.len() {
        PUBLIC_KEY_LEN => {
            use ed25519_dalek::Verifier as _;
            let key = ed25519_dalek::VerifyingKey::from_bytes(public_key.try_into().ok()?).ok()?;
            let signature = ed25519_dalek::Signature::from_slice(signature).ok()?;
            key.verify(signed, &signature).ok()
        }
        P256_PUBLIC_KEY_LEN => {
            use p256::ecdsa::signature::Verifier as _;
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(public_key).ok()?;
            let signature = p256::ecdsa::Signature::from_der(signature).ok()?;
            key.verify(signed, &signature).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// As the library does it here, and as it does in a browser: both say the same.
    fn verify(
        key: &[u8],
        label: &str,
        content: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        let here = super::verify(key, label, content, signature);
        let there = verify_portably(key, &sign_content(label, content), signature);
        assert_eq!(here.is_ok(), there.is_some());
        here
    }

    #[test]
    fn a_signature_verifies_under_its_label_and_content_only() {
        let key = SignatureKeyPair::random().unwrap();
        let signature = key.sign("a", b"content");
        assert!(verify(&key.public(), "a", b"content", &signature).is_ok());
        assert!(verify(&key.public(), "b", b"content", &signature).is_err());
        assert!(verify(&key.public(), "a", b"other", &signature).is_err());
        assert!(verify(&[], "a", b"content", &signature).is_err());
        assert!(verify(&key.public(), "a", b"content", &[]).is_err());
    }

    #[test]
    fn a_p256_signature_verifies_under_its_own_key_only() {
        let key = LeafKeyPair::random(Scheme::EcdsaP256).unwrap();
        let again = LeafKeyPair::from_seed(Scheme::EcdsaP256, &key.seed()).unwrap();
        assert_eq!(key.public(), again.public());
        assert_eq!(key.public().len(), P256_PUBLIC_KEY_LEN);
        let signature = again.sign("a", b"content");
        assert!(verify(&key.public(), "a", b"content", &signature).is_ok());
        assert!(verify(&key.public(), "a", b"other", &signature).is_err());
        let other = LeafKeyPair::random(Scheme::EcdsaP256).unwrap();
        assert!(verify(&other.public(), "a", b"content", &signature).is_err());
        let ed25519 = LeafKeyPair::random(Scheme::Ed25519).unwrap();
        assert!(verify(&ed25519.public(), "a", b"content", &signature).is_err());
    }
}
