//! Tokens on their way: what the issuer sees of one, and what the service sees later (RFC 9578 §6).
//!
//! A token that was asked for can be kept: the issuer answers the same request alike and charges
//! for it once (as long as it remembers the request: that day and the next), so that whoever still
//! has the request and what unblinds its answer has lost nothing.

use blind_rsa_signatures::reexports::rand;
use blind_rsa_signatures::{BlindMessage, BlindSignature, BlindingResult, Secret};
use privacypass::auth::authenticate::TokenChallenge;
use privacypass::public_tokens::PublicKey;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use crate::error::{Error, IssuerError, LocalError};

pub use crate::filling::Due;
pub use crate::filling::Levels;
pub use crate::filling::Schedule;

const TOKEN_TYPE: [u8; 2] = [0, 2];
/// Token type, nonce, challenge digest and key id: a token without its authenticator.
const INPUT: usize = 2 + 32 + 32 + 32;
/// Bytes of an RSA-2048 signature, `Nk` in RFC 9578.
const NK: usize = 256;
/// Bytes of a [`PendingToken`] as it is kept.
pub(crate) const KEPT: usize = INPUT + NK;

/// A token that was asked for: holds what unblinds it.
pub struct PendingToken {
    key: PublicKey,
    input: [u8; INPUT],
    inverse: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for PendingToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            key: _,
            input: _,
            inverse: _,
        } = self;
        f.write_str("PendingToken(..)")
    }
}

impl PendingToken {
    /// The encoded `TokenRequest` (RFC 9578 §6.1): a fresh nonce, blinded.
    ///
    /// # Errors
    /// [`LocalError::Crypto`]; [`IssuerError::Answer`] for a key that is not of RSA-2048.
    pub fn request(key: PublicKey, challenge: &TokenChallenge) -> Result<(Vec<u8>, Self), Error> {
        let digest = challenge.digest().map_err(|_| IssuerError::Answer)?;
        let key_id: [u8; 32] =
            Sha256::digest(key.to_spki().map_err(|_| IssuerError::Answer)?).into();
        Self::blinded(key, &digest, &key_id)
    }

    /// The same with what is to be computed once for all tokens of a batch.
    pub(crate) fn blinded(
        key: PublicKey,
        challenge_digest: &[u8; 32],
        key_id: &[u8; 32],
    ) -> Result<(Vec<u8>, Self), Error> {
        const BACKEND: LocalError = LocalError::Crypto(crypto::CryptoError::Backend);
        let nonce = crypto::random::<32>()?;
        let parts = [&TOKEN_TYPE[..], &nonce, challenge_digest, key_id].concat();
        let input: [u8; INPUT] = parts.try_into().map_err(|_| BACKEND)?;
        let BlindingResult {
            blind_message: BlindMessage(blinded),
            secret: Secret(inverse),
            ..
        } = key.blind(&mut rand::rng(), input).map_err(|_| BACKEND)?;
        let inverse = Zeroizing::new(inverse);
        if blinded.len() != NK || inverse.len() != NK {
            return Err(IssuerError::Answer.into());
        }
        let truncated_key_id = &key_id[31..];
        let request = [&TOKEN_TYPE[..], truncated_key_id, &blinded].concat();
        Ok((
            request,
            Self {
                key,
                input,
                inverse,
            },
        ))
    }

    /// For keeping: its input and the inverse of its blinding factor.
    pub(crate) fn append_to(&self, kept: &mut Vec<u8>) {
        kept.extend_from_slice(&self.input);
        kept.extend_from_slice(&self.inverse);
    }

    /// What [`PendingToken::append_to`] wrote.
    pub(crate) fn from_kept(key: PublicKey, kept: &[u8]) -> Result<Self, Error> {
        let (input, inverse) = kept
            .split_first_chunk::<INPUT>()
            .filter(|_| kept.len() == KEPT)
            .ok_or(LocalError::Damaged)?;
        Ok(Self {
            key,
            input: *input,
            inverse: Zeroizing::new(inverse.to_vec()),
        })
    }

    /// The token out of the encoded `TokenResponse` (RFC 9578 §6.3). Its signature is verified
    /// under the key that everybody gets.
    ///
    /// # Errors
    /// [`IssuerError::Answer`].
    pub fn finish(self, response: &[u8]) -> Result<Vec<u8>, Error> {
        let mut blinding = BlindingResult {
            blind_message: BlindMessage(Vec::new()),
            secret: Secret(self.inverse.to_vec()),
            msg_randomizer: None,
        };
        let signature =
            self.key
                .finalize(&BlindSignature(response.to_vec()), &blinding, self.input);
        blinding.secret.0.zeroize();
        let signature = signature.map_err(|_| IssuerError::Answer)?;
        Ok([&self.input[..], &signature].concat())
    }
}

/// A token as it is presented (RFC 9577 §2.2).
pub(crate) type Token = Vec<u8>;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use blind_rsa_signatures::{Deterministic, KeyPair, PSS, Sha384};
    use privacypass::TokenType;
    use privacypass::public_tokens::PublicToken;
    use privacypass::public_tokens::TokenRequest;
    use tls_codec::{Deserialize as _, Serialize as _};

    use super::*;

    pub(crate) type Pair = KeyPair<Sha384, PSS, Deterministic>;

    pub(crate) fn key_pair() -> Pair {
        Pair::generate(&mut rand::rng(), 2048).unwrap()
    }

    pub(crate) fn test_challenge() -> TokenChallenge {
        TokenChallenge::new(TokenType::Public, "i", None, &["d".to_owned()])
    }

    #[test]
    fn a_token_that_was_kept_meanwhile_is_the_one_that_was_asked_for() {
        let pair = key_pair();
        let challenge = test_challenge();
        let (request, pending) = PendingToken::request(pair.pk.clone(), &challenge).unwrap();
        // As the library for the issuer's side reads and writes them.
        let read = TokenRequest::tls_deserialize_exact(&request).unwrap();
        assert_eq!(read.tls_serialize_detached().unwrap(), request);
        let response = pair.sk.blind_sign(&request[3..]).unwrap();
        let mut kept = Vec::new();
        pending.append_to(&mut kept);
        drop(pending);
        assert_eq!(kept.len(), KEPT);
        assert!(PendingToken::from_kept(pair.pk.clone(), &kept[1..]).is_err());
        let restored = || PendingToken::from_kept(pair.pk.clone(), &kept).unwrap();
        assert!(restored().finish(&[1; NK]).is_err());
        assert!(restored().finish(&response[1..]).is_err());
        let token = restored().finish(&response).unwrap();
        let read = PublicToken::tls_deserialize_exact(&token).unwrap();
        assert_eq!(*read.challenge_digest(), challenge.digest().unwrap());
        let key_id: [u8; 32] = Sha256::digest(pair.pk.to_spki().unwrap()).into();
        assert_eq!(*read.token_key_id(), key_id);
        let signature = blind_rsa_signatures::Signature(read.authenticator().to_vec());
        assert!(pair.pk.verify(&signature, None, &token[..INPUT]).is_ok());
    }
}
