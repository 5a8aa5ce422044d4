//! Issuance: an account's token requests in, blind signatures out.

use std::num::NonZeroUsize;
use std::sync::Arc;

use service::SharedClock;
use tokio::task::spawn_blocking;

use crate::accounts::{Account, AccountHasher};
use crate::attestation::Attester;
use crate::charging::{ChargeQueue, Ledger, Order, require_good_standing};
pub use crate::outcome::{IssuanceError, Issued};
use crate::plans::{Bursts, Plans};
use crate::signing::{Assignment, Signers};
use crate::store::reports::ReportStore;
use crate::store::{BlockedAccount, Charge, Day, IssuerStore, RequestDigest, StoreError};
use crate::token_keys::{KeySet, TokenKeys};
use crate::token_request::{TokenRequest, batch_from_bytes};
use crate::worker::Workers;

/// What an issuer is made of.
pub struct IssuerParts {
    pub attester: Arc<dyn Attester>,
    pub hasher: AccountHasher,
    pub keys: Arc<TokenKeys>,
    pub store: Arc<dyn IssuerStore>,
    pub reports: Arc<dyn ReportStore>,
    pub clock: SharedClock,
    pub plans: Plans,
    /// Token requests that one batch may have.
    pub max_batch_size: NonZeroUsize,
}

/// Attester and issuer in one: it knows who asks, and signs without seeing what.
pub struct Issuer {
    parts: IssuerParts,
    /// Before the signers, which it hands its work to: it ends first.
    charges: ChargeQueue,
    _signers: Signers,
    workers: Workers,
}

impl Issuer {
    /// # Errors
    /// A thread cannot be started.
    pub fn new(parts: IssuerParts) -> std::io::Result<Self> {
        let workers = Workers::default();
        let signers = Signers::start(&workers)?;
        let ledger = Ledger {
            store: Arc::clone(&parts.store),
            reports: Arc::clone(&parts.reports),
            bursts: Bursts::default(),
        };
        Ok(Self {
            charges: ChargeQueue::start(ledger, Arc::clone(signers.shared()), &workers)?,
            _signers: signers,
            workers,
            parts,
        })
    }

    #[must_use]
    pub fn token_keys(&self) -> &Arc<TokenKeys> {
        &self.parts.keys
    }

    #[must_use]
    pub fn hasher(&self) -> &AccountHasher {
        &self.parts.hasher
    }

    /// The threads that charge and sign.
    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// That the account is neither blocked by the operator nor withheld after a report of abuse.
    pub async fn require_good_standing(&self, account: &Account) -> Result<(), IssuanceError> {
        let (hasher, today) = (&self.parts.hasher, Day::of_unix_s(self.now_unix_s()));
        let (lasting, tag) = (hasher.blocked_account(account), hasher.tag(account));
        let store = Arc::clone(&self.parts.store);
        let reports = Arc::clone(&self.parts.reports);
        spawn_blocking(move || require_good_standing(&*store, &*reports, (lasting, &tag), today))
            .await
            .map_err(|_| IssuanceError::Worker)?
    }

    #[must_use]
    pub fn max_batch_size(&self) -> usize {
        self.parts.max_batch_size.get()
    }

    /// The time by which it decides.
    #[must_use]
    pub fn now_unix_s(&self) -> u64 {
        self.parts.clock.now_unix_ms() / 1000
    }

    /// Authenticates the account by the request's account token.
    pub async fn authenticate(&self, token: &str) -> Result<Account, IssuanceError> {
        Ok(self.parts.attester.attest(token, self.now_unix_s()).await?)
    }

    /// Answers one token request. Everything that can be wrong with it is found out before the
    /// account is charged, and the charge is durable before the signature leaves. When the answer
    /// is lost, the same request gets the same answer at no further charge.
    pub async fn issue(&self, account: &Account, body: &[u8]) -> Result<Issued, IssuanceError> {
        let request = TokenRequest::from_bytes(body)?;
        let digest = self.parts.hasher.request(account, request.as_bytes());
        self.issue_all(account, vec![request], digest).await
    }

    /// Answers a batch of token requests: all of them or, at no charge, none. Otherwise as
    /// [`Issuer::issue`]; the charge is one, whatever the size.
    pub async fn issue_batch(
        &self,
        account: &Account,
        body: &[u8],
    ) -> Result<Issued, IssuanceError> {
        let batch = batch_from_bytes(body, self.max_batch_size())?;
        let digest = self.parts.hasher.batch(account, &batch);
        self.issue_all(account, batch, digest).await
    }

    async fn issue_all(
        &self,
        account: &Account,
        requests: Vec<TokenRequest>,
        digest: RequestDigest,
    ) -> Result<Issued, IssuanceError> {
        let now = self.now_unix_s();
        let keys = self.parts.keys.current();
        let work = requests
            .into_iter()
            .map(|request| assign(&keys, request, now))
            .collect::<Result<Vec<_>, _>>()?;
        let day = Day::of_unix_s(now);
        let plan = self.parts.plans.of(account.plan());
        let charge = Charge {
            account: self.parts.hasher.account_of_day(account, day),
            day,
            request: digest,
            tokens: u32::try_from(work.len()).unwrap_or(u32::MAX),
            limit: plan.tokens_per_day.get(),
        };
        self.charges
            .issue(Order {
                charge,
                lasting: self.parts.hasher.blocked_account(account),
                tag: self.parts.hasher.tag(account),
                plan,
                now_ms: now.saturating_mul(1000),
                work,
            })
            .await
    }

    /// From now on the account gets no tokens; those that it has cannot be recalled.
    pub async fn block(&self, account: &Account) -> Result<(), IssuanceError> {
        self.on_store(account, |store, account| store.block(account))
            .await
    }

    /// Ends a block. `false`: there was none.
    pub async fn unblock(&self, account: &Account) -> Result<bool, IssuanceError> {
        self.on_store(account, |store, account| store.unblock(account))
            .await
    }

    async fn on_store<T: Send + 'static>(
        &self,
        account: &Account,
        work: impl FnOnce(&dyn IssuerStore, BlockedAccount) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, IssuanceError> {
        let store = Arc::clone(&self.parts.store);
        let account = self.parts.hasher.blocked_account(account);
        Ok(spawn_blocking(move || work(store.as_ref(), account))
            .await
            .map_err(|_| IssuanceError::Worker)??)
    }

    /// Drops rows that the quota no longer needs: every day before yesterday, whose requests may
    /// still be retried.
    pub async fn forget_past_days(&self) -> Result<(), IssuanceError> {
        let store = Arc::clone(&self.parts.store);
        let yesterday = Day::of_unix_s(self.now_unix_s()).yesterday();
        spawn_blocking(move || store.forget_days_before(yesterday))
            .await
            .map_err(|_| IssuanceError::Worker)??;
        Ok(())
    }
}

/// The request with the key that it names, if that one can sign it.
fn assign(
    keys: &KeySet,
    request: TokenRequest,
    now_unix_s: u64,
) -> Result<Assignment, IssuanceError> {
    let key = keys
        .find(request.truncated_token_key_id(), now_unix_s)
        .ok_or(IssuanceError::UnknownTokenKey)?;
    if !key.accepts(&request) {
        return Err(IssuanceError::BlindedMessageRange);
    }
    Ok((Arc::clone(key), request))
}
