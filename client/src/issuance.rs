//! One token: what the issuer sees of it, and what the service sees later (RFC 9578 §6).

use blind_rsa_signatures::reexports::rand;
use privacypass::auth::authenticate::TokenChallenge;
use privacypass::public_tokens::{PublicKey, TokenRequest, TokenResponse, TokenState};
use tls_codec::{Deserialize as _, Serialize as _};

use crate::error::{Error, IssuerError, LocalError};

/// A token that was asked for: holds what unblinds it.
pub struct PendingToken(TokenState);

impl std::fmt::Debug for PendingToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(_) = self;
        f.write_str("PendingToken(..)")
    }
}

impl PendingToken {
    /// The encoded `TokenRequest` (RFC 9578 §6.1): a fresh nonce, blinded.
    ///
    /// # Errors
    /// [`LocalError::Crypto`].
    pub fn request(key: PublicKey, challenge: &TokenChallenge) -> Result<(Vec<u8>, Self), Error> {
        let (request, state) = TokenRequest::new(&mut rand::rng(), key, challenge)
            .map_err(|_| LocalError::Crypto(crypto::CryptoError::Backend))?;
        let request = request
            .tls_serialize_detached()
            .map_err(|_| IssuerError::Answer)?;
        Ok((request, Self(state)))
    }

    /// The token out of the encoded `TokenResponse` (RFC 9578 §6.3). Its signature is verified under the key
    /// that everybody gets.
    ///
    /// # Errors
    /// [`IssuerError::Answer`].
    pub fn finish(self, response: &[u8]) -> Result<Vec<u8>, Error> {
        TokenResponse::tls_deserialize_exact(response)
            .ok()
            .and_then(|response| response.issue_token(&self.0).ok())
            .and_then(|token| token.tls_serialize_detached().ok())
            .ok_or_else(|| IssuerError::Answer.into())
    }
}
