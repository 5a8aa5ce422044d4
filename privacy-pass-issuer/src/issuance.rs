//! Issuance: an account's token request in, a blind signature out.

use std::num::NonZeroU32;
use std::sync::Arc;

use http::HeaderMap;
use service::SharedClock;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::accounts::{Account, AccountHasher, AccountTokenError, AccountVerifier};
use crate::store::reports::{AccountTag, ReportStore};
use crate::store::{Charge, ChargeOutcome, Day, IssuerStore, StoreError};
use crate::token_keys::{BlindSignature, SigningError, TokenKeys};
use crate::token_request::{TokenRequest, TokenRequestError};

/// Why no token is issued.
#[derive(Debug, thiserror::Error)]
pub enum IssuanceError {
    #[error("the body is not declared as a token request")]
    MediaType,
    #[error(transparent)]
    Account(#[from] AccountTokenError),
    #[error(transparent)]
    Request(#[from] TokenRequestError),
    #[error("the request names no token key that is in use")]
    UnknownTokenKey,
    #[error("the blinded message is not below the token key's modulus")]
    BlindedMessageRange,
    #[error("the account has used up its tokens of the day")]
    QuotaExhausted { retry_after_s: u64 },
    #[error("the account's tokens are withheld after a report of abuse")]
    Withheld,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Signing(#[from] SigningError),
    #[error("a worker thread ended early")]
    Worker,
}

/// What an issuer is made of.
pub struct IssuerParts {
    pub accounts: AccountVerifier,
    pub hasher: AccountHasher,
    pub keys: TokenKeys,
    pub store: Arc<dyn IssuerStore>,
    pub reports: Arc<dyn ReportStore>,
    pub clock: SharedClock,
    pub tokens_per_account_per_day: NonZeroU32,
}

/// Attester and issuer in one: it knows who asks, and signs without seeing what.
pub struct Issuer {
    parts: IssuerParts,
    /// One permit per core: more signatures at once would only make each of them slower.
    signers: Semaphore,
}

impl Issuer {
    #[must_use]
    pub fn new(parts: IssuerParts) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            parts,
            signers: Semaphore::new(cores),
        }
    }

    #[must_use]
    pub fn token_keys(&self) -> &TokenKeys {
        &self.parts.keys
    }

    #[must_use]
    pub fn hasher(&self) -> &AccountHasher {
        &self.parts.hasher
    }

    /// Whether an account gets nothing today, after a report of abuse.
    pub async fn is_withheld(&self, account: &AccountTag) -> Result<bool, IssuanceError> {
        let (account, today) = (*account, Day::of_unix_s(self.now_unix_s()));
        let reports = Arc::clone(&self.parts.reports);
        Ok(
            spawn_blocking(move || is_withheld(&*reports, &account, today))
                .await
                .map_err(|_| IssuanceError::Worker)??,
        )
    }

    /// Who asks, by the request's account token.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Account, IssuanceError> {
        Ok(self
            .parts
            .accounts
            .authenticate(headers, self.now_unix_s())?)
    }

    /// Answers one token request. Everything that can be wrong with it is found out before the
    /// account is charged, and the charge is durable before the signature exists. When the answer
    /// is lost, the same request gets the same answer at no further charge.
    pub async fn issue(
        &self,
        account: &Account,
        body: &[u8],
    ) -> Result<(BlindSignature, ChargeOutcome), IssuanceError> {
        let now = self.now_unix_s();
        let request = TokenRequest::from_bytes(body)?;
        let key = self
            .parts
            .keys
            .find(request.truncated_token_key_id(), now)
            .ok_or(IssuanceError::UnknownTokenKey)?;
        if !key.accepts(&request) {
            return Err(IssuanceError::BlindedMessageRange);
        }
        let outcome = self.charge(account, &request, now).await?;
        if outcome == ChargeOutcome::LimitReached {
            return Err(IssuanceError::QuotaExhausted {
                retry_after_s: Day::seconds_left(now),
            });
        }
        let key = Arc::clone(key);
        let _permit = self
            .signers
            .acquire()
            .await
            .map_err(|_| IssuanceError::Worker)?;
        let signature = spawn_blocking(move || key.blind_sign(&request))
            .await
            .map_err(|_| IssuanceError::Worker)??;
        Ok((signature, outcome))
    }

    /// Drops what the quota needs no more: every day before yesterday, whose requests may still be
    /// retried.
    pub async fn forget_past_days(&self) -> Result<(), IssuanceError> {
        let store = Arc::clone(&self.parts.store);
        let yesterday = Day::of_unix_s(self.now_unix_s()).yesterday();
        spawn_blocking(move || store.forget_days_before(yesterday))
            .await
            .map_err(|_| IssuanceError::Worker)??;
        Ok(())
    }

    async fn charge(
        &self,
        account: &Account,
        request: &TokenRequest,
        now_unix_s: u64,
    ) -> Result<ChargeOutcome, IssuanceError> {
        let day = Day::of_unix_s(now_unix_s);
        let charge = Charge {
            account: self.parts.hasher.account_of_day(account, day),
            day,
            request: self.parts.hasher.request(account, request.as_bytes()),
            limit: self.parts.tokens_per_account_per_day.get(),
        };
        let tag = self.parts.hasher.tag(account);
        let store = Arc::clone(&self.parts.store);
        let reports = Arc::clone(&self.parts.reports);
        spawn_blocking(move || {
            if is_withheld(&*reports, &tag, day)? {
                return Err(IssuanceError::Withheld);
            }
            Ok(store.charge(&charge)?)
        })
        .await
        .map_err(|_| IssuanceError::Worker)?
    }

    fn now_unix_s(&self) -> u64 {
        self.parts.clock.now_unix_ms() / 1000
    }
}

fn is_withheld(
    reports: &dyn ReportStore,
    account: &AccountTag,
    today: Day,
) -> Result<bool, StoreError> {
    Ok(reports
        .withheld_until(account)?
        .is_some_and(|until| today <= until))
}
