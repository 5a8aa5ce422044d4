//! Accounts, and what is kept of them: keyed hashes only.

use std::fmt;

use aws_lc_rs::hmac;

use crate::store::reports::{AccountTag, ReportId, ReporterTag};
use crate::store::{AccountOfDay, BlockedAccount, Day, RequestDigest};
use crate::token_request::TokenRequest;

/// Longest account name, in bytes.
const MAX_NAME_LENGTH: usize = 255;

/// An account that an attester vouches for now, or that an operator names. Neither printed nor
/// stored: see [`AccountHasher`].
#[derive(PartialEq, Eq)]
pub struct Account {
    name: String,
    plan: Option<String>,
}

impl Account {
    /// `None`: the name is empty or longer than 255 bytes.
    #[must_use]
    pub fn new(name: String, plan: Option<String>) -> Option<Self> {
        (1..=MAX_NAME_LENGTH)
            .contains(&name.len())
            .then_some(Self { name, plan })
    }

    /// The plan that the attester names, which may be one that we don't know.
    #[must_use]
    pub fn plan(&self) -> Option<&str> {
        self.plan.as_deref()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name: _, plan: _ } = self;
        f.write_str("Account(…)")
    }
}

/// What accounts can ask for beside tokens, each with an allowance of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Certificates,
    Reports,
}

impl Service {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Certificates => b"certificates",
            Self::Reports => b"reports",
        }
    }
}

/// Turns what identifies somebody into what the store keeps: HMAC-SHA-256 under a key that lies
/// outside the database, so that a snapshot of it names no account, not even to somebody who can
/// guess the names. The day is part of the hash: rows of two days do not show whose they are.
pub struct AccountHasher(hmac::Key);

impl AccountHasher {
    /// Bytes of the key.
    pub const KEY_LENGTH: usize = 32;

    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    #[must_use]
    pub fn account_of_day(&self, account: &Account, day: Day) -> AccountOfDay {
        AccountOfDay(self.hash(&[
            b"account of day",
            &day.0.to_be_bytes(),
            account.name.as_bytes(),
        ]))
    }

    /// A digest of one account's token request; two accounts never share one.
    #[must_use]
    pub fn request(&self, account: &Account, request: &[u8; 259]) -> RequestDigest {
        RequestDigest(self.hash(&[b"token request", request, account.name.as_bytes()]))
    }

    /// A digest of one account's batch of token requests; a batch of one is no single request.
    #[must_use]
    pub fn batch(&self, account: &Account, batch: &[TokenRequest]) -> RequestDigest {
        let count = (batch.len() as u64).to_be_bytes();
        let mut context = hmac::Context::with_key(&self.0);
        context.update(b"token batch");
        context.update(&count);
        for request in batch {
            context.update(request.as_bytes());
        }
        context.update(account.name.as_bytes());
        RequestDigest(finish(context))
    }

    /// The hash under which a blocked account is kept.
    #[must_use]
    pub fn blocked_account(&self, account: &Account) -> BlockedAccount {
        BlockedAccount(self.hash(&[b"blocked account", account.name.as_bytes()]))
    }

    /// What an account handle hides, and reports are kept under: the same on every day.
    #[must_use]
    pub fn tag(&self, account: &Account) -> AccountTag {
        AccountTag(self.hash(&[b"reported account", account.name.as_bytes()]))
    }

    /// The hash under which a reporter counts once for a reported account.
    #[must_use]
    pub fn reporter(&self, reported: &AccountTag, reporter: &Account) -> ReporterTag {
        ReporterTag(self.hash(&[b"reporter", &reported.0, reporter.name.as_bytes()]))
    }

    /// As [`AccountHasher::account_of_day`], for what an account asks of `service` beside tokens.
    #[must_use]
    pub fn other_of_day(&self, service: Service, account: &Account, day: Day) -> AccountOfDay {
        AccountOfDay(self.hash(&[
            service.label(),
            b" of day",
            &day.0.to_be_bytes(),
            account.name.as_bytes(),
        ]))
    }

    /// A digest of one account's request to `service`.
    #[must_use]
    pub fn other_request(
        &self,
        service: Service,
        account: &Account,
        digest: &[u8; 32],
    ) -> RequestDigest {
        RequestDigest(self.hash(&[
            service.label(),
            b" request",
            digest,
            account.name.as_bytes(),
        ]))
    }

    /// The name of a report, from the digest of its evidence.
    #[must_use]
    pub fn report_id(&self, evidence: &[u8; 32]) -> ReportId {
        let hash = self.hash(&[b"evidence", evidence]);
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        ReportId(id)
    }

    /// All parts but the last have a length fixed by the first, so the input is unambiguous.
    fn hash(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        finish(context)
    }
}

fn finish(context: hmac::Context) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(context.sign().as_ref());
    hash
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn account(name: &str) -> Account {
        Account::new(name.into(), None).unwrap()
    }

    #[test]
    fn an_account_prints_nothing_of_itself() {
        let account = Account::new("alice".into(), Some("gold".into())).unwrap();
        assert_eq!(format!("{account:?}"), "Account(…)");
        assert_eq!(Account::new(String::new(), None), None);
        assert_eq!(Account::new("x".repeat(256), None), None);
    }

    #[test]
    fn hashes_differ_by_account_day_request_and_key() {
        let (alice, bob) = (account("alice"), account("bob"));
        let hasher = AccountHasher::new(&[1; 32]);
        let hash = hasher.account_of_day(&alice, Day(7));
        assert_eq!(hash, hasher.account_of_day(&alice, Day(7)));
        assert_ne!(hash, hasher.account_of_day(&alice, Day(8)));
        assert_ne!(hash, hasher.account_of_day(&bob, Day(7)));
        assert_ne!(
            hash,
            AccountHasher::new(&[2; 32]).account_of_day(&alice, Day(7))
        );
        assert_ne!(
            hasher.request(&alice, &[0; 259]),
            hasher.request(&bob, &[0; 259])
        );
        assert_ne!(
            hasher.request(&alice, &[0; 259]),
            hasher.request(&alice, &[1; 259])
        );
        assert_ne!(hasher.blocked_account(&alice), hasher.blocked_account(&bob));
    }

    #[test]
    fn batches_differ_by_account_and_by_each_request_in_its_place() {
        let (alice, bob) = (account("alice"), account("bob"));
        let hasher = AccountHasher::new(&[1; 32]);
        let request = |last: u8| {
            let mut bytes = [7; 259];
            (bytes[0], bytes[1], bytes[258]) = (0, 2, last);
            TokenRequest::from_bytes(&bytes).unwrap()
        };
        let batch = [request(1), request(2)];
        let digest = hasher.batch(&alice, &batch);
        assert_eq!(digest, hasher.batch(&alice, &batch));
        assert_ne!(digest, hasher.batch(&bob, &batch));
        assert_ne!(digest, hasher.batch(&alice, &[request(2), request(1)]));
        assert_ne!(digest, hasher.batch(&alice, &batch[..1]));
        let one = hasher.batch(&alice, &batch[..1]);
        assert_ne!(one, hasher.request(&alice, batch[0].as_bytes()));
    }
}
