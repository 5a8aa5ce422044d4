//! From bytes to a request that may be acted on: version, operation, clock, signature, tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Bytes;
use crypto::sign;
use protocol::envelope::{REQUEST_LABEL, ReceivedRequest, Sender, SignedRequest};
use protocol::problem::ProblemType;
use protocol::time::{CLOCK_WINDOW_MS, day_of};
use protocol::{Operation, WIRE_VERSION, Wire};

use crate::error::DsError;
use crate::results::RequestDigest;
use crate::service_state::DeliveryService;
use crate::store::{DayRow, Receipt, ResultRecord, Spend};
use crate::tokens::{self, VerifiedToken};

/// A request of which the bytes are decoded and the envelope is in order. A leaf's signature is
/// still to be checked against the roster: [`Request::authenticate_leaf`].
pub struct Request<T> {
    /// The operation's body.
    pub body: T,
    /// When it is, milliseconds since the Unix epoch.
    pub now_ms: u64,
    envelope: SignedRequest,
    /// What was signed: the received bytes, never re-encoded ones.
    signed_bytes: Bytes,
    digest: RequestDigest,
    tokens: Vec<VerifiedToken>,
    spent: Arc<AtomicUsize>,
}

/// An Ed25519 public key whose signature over this request was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthenticatedKey(pub [u8; 32]);

impl AuthenticatedKey {
    /// What the store keeps to know this owner again: a PRF of the key, so that a copy of the
    /// database cannot be searched for a known key.
    #[must_use]
    pub fn tag(&self, service: &DeliveryService, purpose: &str) -> [u8; 32] {
        key_tag(service, purpose, &self.0)
    }
}

/// As [`AuthenticatedKey::tag`], for a key of any scheme.
#[must_use]
pub fn key_tag(service: &DeliveryService, purpose: &str, key: &[u8]) -> [u8; 32] {
    crypto::kdf::derive(service.rows().storage_key().expose(), purpose, key)
}

/// An envelope in order, before its body is decoded and its tokens are verified.
pub struct Envelope {
    request: SignedRequest,
    signed_bytes: Bytes,
    digest: RequestDigest,
    now_ms: u64,
}

impl Envelope {
    /// Decodes the envelope and checks version, operation and timestamp.
    ///
    /// # Errors
    /// [`ProblemType::UnsupportedVersion`], [`ProblemType::Malformed`], [`DsError::StaleTimestamp`].
    pub fn decode(bytes: &Bytes, operation: Operation, now_ms: u64) -> Result<Self, DsError> {
        match ReceivedRequest::version_of(bytes) {
            Some(WIRE_VERSION) => {}
            Some(_) => return Err(ProblemType::UnsupportedVersion.into()),
            None => return Err(ProblemType::Malformed.into()),
        }
        let received = ReceivedRequest::decode(bytes).map_err(|_| ProblemType::Malformed)?;
        if received.request.operation != operation {
            return Err(ProblemType::Malformed.into());
        }
        if received.request.timestamp_ms.abs_diff(now_ms) > CLOCK_WINDOW_MS {
            return Err(DsError::StaleTimestamp { now_ms });
        }
        let signed_bytes = bytes.slice_ref(received.signed_bytes);
        Ok(Self {
            request: received.request,
            signed_bytes,
            digest: RequestDigest::of(bytes),
            now_ms,
        })
    }

    /// Digest of the whole request.
    #[must_use]
    pub fn digest(&self) -> &RequestDigest {
        &self.digest
    }

    /// The operation's body, not decoded yet.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.request.body.as_slice()
    }

    /// Where the result of this request is recorded.
    #[must_use]
    pub fn result_row(&self, service: &DeliveryService) -> DayRow {
        DayRow {
            day: day_of(self.request.timestamp_ms),
            row: service.rows().result(self.digest.as_bytes()),
        }
    }

    /// Decodes the body.
    ///
    /// # Errors
    /// [`ProblemType::Malformed`].
    pub fn into_request<T: Wire>(self, tokens: Vec<VerifiedToken>) -> Result<Request<T>, DsError> {
        let body = T::decode(self.request.body.as_slice()).map_err(|_| ProblemType::Malformed)?;
        Ok(Request {
            body,
            now_ms: self.now_ms,
            envelope: self.request,
            signed_bytes: self.signed_bytes,
            digest: self.digest,
            tokens,
            spent: Arc::default(),
        })
    }
}

impl<T> Request<T> {
    /// How many tokens the transition of this request spends, known once it was made ready. For whoever counts
    /// when it has happened.
    #[must_use]
    pub fn spent(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.spent)
    }

    /// The signing key of an operation that a key signs; its signature is verified.
    ///
    /// # Errors
    /// [`ProblemType::BadSignature`], also when the sender is a leaf.
    pub fn authenticate_key(&self) -> Result<AuthenticatedKey, DsError> {
        let Sender::Key(key) = &self.envelope.sender else {
            return Err(ProblemType::BadSignature.into());
        };
        self.verify(key.as_slice())?;
        key.as_slice()
            .try_into()
            .map(AuthenticatedKey)
            .map_err(|_| ProblemType::BadSignature.into())
    }

    /// As [`Request::authenticate_key`], for a key that is a leaf's, now or later: of any scheme that
    /// leaves have.
    ///
    /// # Errors
    /// [`ProblemType::BadSignature`].
    pub fn authenticate_leaf_key(&self) -> Result<&[u8], DsError> {
        let Sender::Key(key) = &self.envelope.sender else {
            return Err(ProblemType::BadSignature.into());
        };
        self.verify(key.as_slice())?;
        Ok(key.as_slice())
    }

    /// The leaf index that the sender claims, for looking its key up.
    ///
    /// # Errors
    /// [`ProblemType::BadSignature`] when the sender is a key.
    pub fn claimed_leaf(&self) -> Result<u32, DsError> {
        match self.envelope.sender {
            Sender::Leaf(index) => Ok(index),
            Sender::Key(_) => Err(ProblemType::BadSignature.into()),
        }
    }

    /// Verifies the request under the signature key that the roster has for the claimed leaf.
    ///
    /// # Errors
    /// [`ProblemType::BadSignature`].
    pub fn authenticate_leaf(&self, signature_key: &[u8]) -> Result<(), DsError> {
        self.verify(signature_key)
    }

    fn verify(&self, key: &[u8]) -> Result<(), DsError> {
        sign::verify(
            key,
            REQUEST_LABEL,
            &self.signed_bytes,
            self.envelope.signature.as_slice(),
        )
        .map_err(|_| ProblemType::BadSignature.into())
    }

    /// The verified tokens that came with the request.
    #[must_use]
    pub fn paid_by(&self) -> &[VerifiedToken] {
        &self.tokens
    }

    /// Whether one of them is spent.
    ///
    /// # Errors
    /// [`DsError::Storage`].
    pub async fn is_spent(&self, service: &DeliveryService) -> Result<bool, DsError> {
        let spends = spends(service, &self.tokens);
        Ok(!spends.is_empty() && service.store.is_spent(spends).await?)
    }

    /// How many verified tokens came with the request.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The receipt of this request: `price` tokens to spend and the response to record.
    ///
    /// # Errors
    /// [`ProblemType::TokenRequired`] if fewer tokens came.
    pub fn receipt(
        &self,
        service: &DeliveryService,
        price: usize,
        response: &[u8],
    ) -> Result<Receipt, DsError> {
        Ok(self.receipt_with(
            service,
            self.spends(service, price)?,
            self.digest.seal(response)?,
        ))
    }

    /// A receipt that spends `price` tokens and records nothing.
    ///
    /// # Errors
    /// [`ProblemType::TokenRequired`] if fewer tokens came.
    pub fn unrecorded_receipt(
        &self,
        service: &DeliveryService,
        price: usize,
    ) -> Result<Receipt, DsError> {
        Ok(Receipt {
            spends: self.spends(service, price)?,
            result: None,
        })
    }

    fn spends(&self, service: &DeliveryService, price: usize) -> Result<Vec<Spend>, DsError> {
        let paid = self.tokens.get(..price).ok_or(ProblemType::TokenRequired)?;
        self.spent.store(price, Ordering::Relaxed);
        Ok(spends(service, paid))
    }

    fn receipt_with(
        &self,
        service: &DeliveryService,
        spends: Vec<Spend>,
        sealed: Vec<u8>,
    ) -> Receipt {
        Receipt {
            spends,
            result: Some(ResultRecord {
                at: DayRow {
                    day: day_of(self.envelope.timestamp_ms),
                    row: service.rows().result(self.digest.as_bytes()),
                },
                sealed,
            }),
        }
    }

    /// A refusal after work that `price` tokens pay for: spends them and records the refusal, so that
    /// the same request is answered alike and costs nothing more. Returns what to answer. Failures of
    /// ours cost nothing.
    pub async fn refuse_at_cost(
        &self,
        service: &DeliveryService,
        price: usize,
        refusal: DsError,
    ) -> DsError {
        let DsError::Refused(problem) = refusal else {
            return refusal;
        };
        if price == 0 {
            return refusal;
        }
        match self.settle_refusal(service, price, problem).await {
            Ok(()) => refusal,
            Err(error) => error,
        }
    }

    /// The receipt of a request that is refused after work that something else than tokens has paid for.
    ///
    /// # Errors
    /// [`DsError::Internal`].
    pub fn refusal_receipt(
        &self,
        service: &DeliveryService,
        problem: ProblemType,
    ) -> Result<Receipt, DsError> {
        Ok(self.receipt_with(service, Vec::new(), self.digest.seal_refusal(problem)?))
    }

    async fn settle_refusal(
        &self,
        service: &DeliveryService,
        price: usize,
        problem: ProblemType,
    ) -> Result<(), DsError> {
        let spends = self.spends(service, price)?;
        let receipt = self.receipt_with(service, spends, self.digest.seal_refusal(problem)?);
        service.store.settle(receipt).await?;
        self.count_spent();
        Ok(())
    }

    /// For the metrics: the tokens of the receipt that was just settled have paid, whatever becomes of the
    /// request. They are counted once.
    pub fn count_spent(&self) {
        tokens::count_redeemed(self.spent.swap(0, Ordering::Relaxed));
    }

    /// Refuses early, before any work, a request that does not bring what it costs.
    ///
    /// # Errors
    /// [`ProblemType::TokenRequired`].
    pub fn require_tokens(&self, price: usize) -> Result<(), DsError> {
        if self.tokens.len() < price {
            Err(ProblemType::TokenRequired.into())
        } else {
            Ok(())
        }
    }
}

fn spends(service: &DeliveryService, tokens: &[VerifiedToken]) -> Vec<Spend> {
    let spend = |token: &VerifiedToken| Spend {
        issuer_key_id: *token.issuer_key_id(),
        row: service.rows().spent(token.nonce_digest()),
    };
    tokens.iter().map(spend).collect()
}
