//! Ed25519 signatures with labels, after MLS's SignWithLabel (RFC 9420 §5.1.2) under a prefix of our own.

use ed25519_dalek::{Signer as _, SigningKey};
use protocol::codec::opaque;
use tls_codec::{Serialize, TlsSerialize, TlsSize, VLBytes};

use crate::secret::Secret;
use crate::{CryptoError, random};

/// Length of a public key.
pub const PUBLIC_KEY_LEN: usize = 32;

#[derive(TlsSize, TlsSerialize)]
struct SignContent {
    label: VLBytes,
    content: VLBytes,
}

/// The bytes that are signed: `label<V> || content<V>`, the label with our prefix.
#[must_use]
pub fn sign_content(label: &str, content: &[u8]) -> Vec<u8> {
    SignContent {
        label: opaque([b"MIMIMI 1.0 ", label.as_bytes()].concat()),
        content: opaque(content),
    }
    .tls_serialize_detached()
    .unwrap_or_default()
}

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

    /// The public key.
    #[must_use]
    pub fn public(&self) -> [u8; PUBLIC_KEY_LEN] {
        self.0.verifying_key().to_bytes()
    }

    /// `SignWithLabel`.
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

/// `VerifyWithLabel`.
///
/// # Errors
/// [`CryptoError::InvalidSignature`], also for a public key that is none.
pub fn verify(
    public_key: &[u8],
    label: &str,
    content: &[u8],
    signature: &[u8],
) -> Result<(), CryptoError> {
    if public_key.len() != PUBLIC_KEY_LEN {
        return Err(CryptoError::InvalidSignature);
    }
    aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, public_key)
        .verify(&sign_content(label, content), signature)
        .map_err(|_| CryptoError::InvalidSignature)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
}
