//! The outcomes of a token request.

use crate::attestation::AttestationError;
use crate::plans::BurstExceeded;
use crate::store::StoreError;
use crate::token_keys::{BlindSignature, SigningError};
use crate::token_request::TokenRequestError;

/// Why no token is issued.
#[derive(Debug, thiserror::Error)]
pub enum IssuanceError {
    #[error("the body is not declared as a token request")]
    MediaType,
    #[error(transparent)]
    Account(#[from] AttestationError),
    #[error("the account is blocked")]
    Blocked,
    #[error(transparent)]
    Request(#[from] TokenRequestError),
    #[error("the request names no token key that is in use")]
    UnknownTokenKey,
    #[error("the blinded message is not below the token key's modulus")]
    BlindedMessageRange,
    #[error("the account may get only {available} more tokens today")]
    QuotaExhausted { available: u32, retry_after_s: u64 },
    #[error("the account may get only {available} tokens at once now")]
    BurstExceeded { available: u32, retry_after_s: u64 },
    #[error("the account's tokens are withheld after a report of abuse")]
    Withheld,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Signing(#[from] SigningError),
    #[error("the account repeats more requests at once than are answered")]
    Busy,
    #[error("a worker thread ended early")]
    Worker,
}

impl From<BurstExceeded> for IssuanceError {
    fn from(exceeded: BurstExceeded) -> Self {
        let BurstExceeded {
            available,
            retry_after_s,
        } = exceeded;
        Self::BurstExceeded {
            available,
            retry_after_s,
        }
    }
}

/// Signatures, and whether they were charged for now or before.
pub struct Issued {
    pub signatures: Vec<BlindSignature>,
    pub repeated: bool,
}
