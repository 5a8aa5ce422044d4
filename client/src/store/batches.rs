//! A request for tokens that is kept until its tokens are: written before it is sent, and repeated
//! byte by byte.

use privacypass::auth::authenticate::TokenChallenge;
use privacypass::generic_tokens::{
    GenericBatchTokenRequest, GenericBatchTokenResponse, GenericTokenRequest, GenericTokenResponse,
};
use privacypass::public_tokens::{PublicKey, TokenRequest};
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};
use tls_codec::{Deserialize as _, Serialize as _};
use zeroize::Zeroizing;

use crate::error::{Error, IssuerError, LocalError};
use crate::issuance::{KEPT, PendingToken, Token};
use crate::store::database::{change, first, key32};

/// Tokens that were asked for.
pub(crate) struct Batch {
    /// As a generic batch; else it is a single request.
    pub(crate) generic: bool,
    /// SPKI.
    pub(crate) token_key: Vec<u8>,
    pub(crate) challenge_digest: [u8; 32],
    /// As it is sent.
    pub(crate) request: Vec<u8>,
    pending: Vec<PendingToken>,
}

impl Batch {
    /// Asks for `count` tokens; for one without a batch around it if the issuer has none.
    pub(crate) fn prepare(
        token_key: &[u8],
        challenge: &TokenChallenge,
        generic: bool,
        count: usize,
    ) -> Result<Self, Error> {
        let key = PublicKey::from_spki(token_key).map_err(|_| IssuerError::Answer)?;
        let key_id: [u8; 32] = Sha256::digest(token_key).into();
        let challenge_digest = challenge.digest().map_err(|_| IssuerError::Answer)?;
        let count = if generic { count } else { 1 };
        let asked = (0..count)
            .map(|_| PendingToken::blinded(key.clone(), &challenge_digest, &key_id))
            .collect::<Result<Vec<_>, _>>()?;
        let (requests, pending): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        let request = if generic {
            let token_requests = requests
                .iter()
                .map(|request| {
                    TokenRequest::tls_deserialize_exact(request).map(GenericTokenRequest::from)
                })
                .collect::<Result<_, _>>()
                .map_err(|_| IssuerError::Answer)?;
            GenericBatchTokenRequest { token_requests }
                .tls_serialize_detached()
                .map_err(|_| IssuerError::Answer)?
        } else {
            requests.concat()
        };
        Ok(Self {
            generic,
            token_key: token_key.to_vec(),
            challenge_digest,
            request,
            pending,
        })
    }

    /// The tokens out of the issuer's answer; each signature is verified.
    pub(crate) fn tokens(self, answer: &[u8]) -> Result<Vec<Token>, Error> {
        let responses = if self.generic {
            GenericBatchTokenResponse::tls_deserialize_exact(answer)
                .map_err(|_| IssuerError::Answer)?
                .token_responses
                .into_iter()
                .map(|response| match response.token_response {
                    Some(GenericTokenResponse::Public(response)) => response
                        .tls_serialize_detached()
                        .map_err(|_| IssuerError::Answer),
                    _ => Err(IssuerError::Answer),
                })
                .collect::<Result<Vec<_>, _>>()?
        } else {
            vec![answer.to_vec()]
        };
        if responses.len() != self.pending.len() {
            return Err(IssuerError::Answer.into());
        }
        self.pending
            .into_iter()
            .zip(responses)
            .map(|(pending, response)| pending.finish(&response))
            .collect()
    }

    /// Keeps it, in the place of one that was kept before.
    pub(crate) fn keep(&self, db: &Connection) -> Result<(), Error> {
        let mut blinding = Zeroizing::new(Vec::with_capacity(KEPT * self.pending.len()));
        for pending in &self.pending {
            pending.append_to(&mut blinding);
        }
        change(db, "INSERT OR REPLACE INTO token_batch (id, generic, token_key, challenge_digest, request, blinding)
             VALUES (1, ?, ?, ?, ?, ?)",
            (
                self.generic,
                &self.token_key,
                self.challenge_digest,
                &self.request,
                &*blinding,
            ),
        )
    }

    /// The one that is kept.
    pub(crate) fn kept(db: &Connection) -> Result<Option<Self>, Error> {
        let row = first(
            db,
            "SELECT generic, token_key, challenge_digest, request, blinding FROM token_batch",
            (),
            |row| {
                Ok((
                    row.get(0)?,
                    row.get::<_, Vec<u8>>(1)?,
                    row.get::<_, Vec<u8>>(2)?,
                    row.get(3)?,
                    Zeroizing::new(row.get::<_, Vec<u8>>(4)?),
                ))
            },
        )?;
        let Some((generic, token_key, challenge_digest, request, blinding)) = row else {
            return Ok(None);
        };
        let key = PublicKey::from_spki(&token_key).map_err(|_| LocalError::Damaged)?;
        let pending = blinding
            .chunks(KEPT)
            .map(|kept| PendingToken::from_kept(key.clone(), kept))
            .collect::<Result<_, _>>()?;
        Ok(Some(Self {
            generic,
            token_key,
            challenge_digest: key32(&challenge_digest)?,
            request,
            pending,
        }))
    }

    /// Gives up what is kept.
    pub(crate) fn forget(db: &Connection) -> Result<(), Error> {
        change(db, "DELETE FROM token_batch", ())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use privacypass::generic_tokens::OptionalTokenResponse;
    use privacypass::public_tokens::TokenResponse;

    use super::*;
    use crate::issuance::tests::{Pair, key_pair, test_challenge};

    fn answered(pair: &Pair, request: &[u8]) -> Vec<u8> {
        let request = GenericBatchTokenRequest::tls_deserialize_exact(request).unwrap();
        let token_responses = request
            .token_requests
            .iter()
            .map(|request| {
                let request = request.tls_serialize_detached().unwrap();
                let signature = pair.sk.blind_sign(&request[3..]).unwrap();
                let response = TokenResponse::tls_deserialize_exact(&signature[..]).unwrap();
                OptionalTokenResponse {
                    token_response: Some(GenericTokenResponse::Public(Box::new(response))),
                }
            })
            .collect();
        GenericBatchTokenResponse { token_responses }
            .tls_serialize_detached()
            .unwrap()
    }

    #[test]
    fn a_batch_that_was_kept_is_the_same_request_and_its_answer_gives_the_same_tokens() {
        let db = crate::store::database::in_memory().unwrap();
        let pair = key_pair();
        let spki = pair.pk.to_spki().unwrap();
        let batch = Batch::prepare(&spki, &test_challenge(), true, 3).unwrap();
        batch.keep(&db).unwrap();
        let kept = Batch::kept(&db).unwrap().unwrap();
        assert_eq!(kept.request, batch.request);
        assert_eq!((kept.pending.len(), kept.generic), (3, true));
        let answer = answered(&pair, &kept.request);
        let tokens = kept.tokens(&answer).unwrap();
        assert_eq!(tokens, batch.tokens(&answer).unwrap());
        // Another batch in its place, then none.
        let single = Batch::prepare(&spki, &test_challenge(), false, 3).unwrap();
        single.keep(&db).unwrap();
        let kept = Batch::kept(&db).unwrap().unwrap();
        assert_eq!((kept.pending.len(), kept.generic), (1, false));
        assert!(kept.tokens(&answer).is_err());
        Batch::forget(&db).unwrap();
        assert!(Batch::kept(&db).unwrap().is_none());
    }

    #[test]
    fn an_answer_with_fewer_tokens_than_asked_for_gives_none() {
        let pair = key_pair();
        let spki = pair.pk.to_spki().unwrap();
        let asked = |count| Batch::prepare(&spki, &test_challenge(), true, count).unwrap();
        let (more, fewer) = (asked(3), asked(2));
        let answer = answered(&pair, &fewer.request);
        assert!(more.tokens(&answer).is_err());
        assert!(fewer.tokens(&answer[1..]).is_err());
    }
}
