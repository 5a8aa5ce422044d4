//! Tokens on their way to the spent-set.

/// A token whose authenticator was verified under an issuer's key. Only the verifier makes one.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    issuer_key_id: [u8; 32],
    nonce_digest: [u8; 32],
}

impl std::fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VerifiedToken(..)")
    }
}

impl VerifiedToken {
    /// SHA-256 of the issuer key's SPKI.
    #[must_use]
    pub fn issuer_key_id(&self) -> &[u8; 32] {
        &self.issuer_key_id
    }

    /// A digest of the token's nonce.
    #[must_use]
    pub fn nonce_digest(&self) -> &[u8; 32] {
        &self.nonce_digest
    }

    #[cfg(test)]
    pub(crate) fn for_tests(nonce: u16) -> Self {
        let mut nonce_digest = [0; 32];
        nonce_digest[..2].copy_from_slice(&nonce.to_be_bytes());
        Self {
            issuer_key_id: [1; 32],
            nonce_digest,
        }
    }
}
