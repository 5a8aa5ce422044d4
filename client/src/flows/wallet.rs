//! Privacy Pass tokens: fetched ahead of need, at times that have nothing to do with what the user
//! does, so that the time of issuance says nothing about the time of use; spent once.
//!
//! The wallet is filled when it is set up, when its time has come ([`schedule`]), and when the user
//! says so. No action has it filled: one that finds too few tokens fails. It is filled by whole
//! batches of one size, so that a request does not say what is missing. A batch is kept before it
//! is asked for ([`batch`]): what was paid for comes.

use std::collections::BTreeSet;

use protocol::directory::Directory;
use protocol::operation::Operation;
use rusqlite::Connection;

use crate::engine::Engine;
use crate::error::{Error, IssuerError};
use crate::filling::{Due, Levels, Schedule};
use crate::issuance::Token;
use crate::net::issuer::{Effort, Failure, Issuer, Refused, announced_keys, key_in_use};
use crate::store::batches::Batch;
use crate::store::tokens::{
    Good, MOST_FOR_REFUSALS, discard_expired, good, hasten, of_key, paid_for_refusals,
    pay_for_refusal, reserve, store,
};

/// A service in this process asks no issuer: any bytes are a token, and there are so many.
const FOR_TESTS: usize = 1_000;

fn random_tokens(count: usize) -> Result<Vec<Token>, Error> {
    (0..count)
        .map(|_| Ok(crypto::random::<354>()?.to_vec()))
        .collect()
}

/// How many tokens will be good for long: those of a key that has a successor soon expire, all at
/// once.
fn lasting(
    db: &Connection,
    held: &Good,
    directory: &Directory,
    now_ms: u64,
) -> Result<usize, Error> {
    of_key(db, held, key_in_use(directory, now_ms)?.as_deref())
}

impl Engine {
    /// Which tokens can be spent, as far as is known.
    fn good(&self) -> Result<Good, Error> {
        let keys = match self.stored_directory()? {
            Some(directory) => announced_keys(&directory)?,
            None => BTreeSet::new(),
        };
        self.good_under(keys)
    }

    fn good_under(&self, keys: BTreeSet<Vec<u8>>) -> Result<Good, Error> {
        let challenge_digest = self.transport.challenge().digest();
        Ok(Good {
            challenge_digest: challenge_digest
                .map_err(|_| Error::Protocol("a challenge cannot be encoded"))?,
            keys,
        })
    }

    /// Tokens that can be spent.
    pub(crate) fn spendable(&self) -> Result<usize, Error> {
        if self.transport.service().is_some() {
            return Ok(FOR_TESTS);
        }
        Ok(good(&self.db, &self.good()?)?.len())
    }

    /// Takes tokens out of the wallet; all of them or none. It is not filled for it.
    pub(crate) fn take_tokens(&mut self, count: usize) -> Result<Vec<Token>, Error> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if self.transport.service().is_some() {
            return random_tokens(count);
        }
        let now = self.transport.time.now_unix_ms();
        let held = self.good()?;
        let Some(tokens) = reserve(&mut self.db, &held, count, now)? else {
            return Err(self.wallet_empty()?);
        };
        self.hasten_filling()?;
        Ok(tokens)
    }

    /// Takes tokens because the service has refused a request. `None` if refusals have cost enough
    /// today.
    pub(crate) fn take_tokens_again(&mut self, count: usize) -> Result<Option<Vec<Token>>, Error> {
        let today = self.today();
        if paid_for_refusals(&self.db, today)?.saturating_add(count) > MOST_FOR_REFUSALS {
            return Ok(None);
        }
        let tokens = self.take_tokens(count)?;
        pay_for_refusal(&self.db, today, count)?;
        Ok(Some(tokens))
    }

    pub(crate) fn hasten_filling(&self) -> Result<(), Error> {
        let Some(directory) = self.stored_directory()? else {
            return Ok(());
        };
        if self.spendable()? >= Levels::of(&directory.prices, 0).reserve {
            return Ok(());
        }
        hasten(&self.db, self.transport.time.now_unix_ms())
    }

    /// Before the first of several requests that belong together: that what they cost is there.
    pub(crate) async fn expect_tokens(&mut self, requests: &[Operation]) -> Result<(), Error> {
        let prices = self.directory().await?.prices;
        let count = requests
            .iter()
            .map(|operation| prices.of(*operation, 1))
            .sum();
        if self.spendable()? < count {
            return Err(self.wallet_empty()?);
        }
        Ok(())
    }

    /// There are too few tokens: when there will be more, or why there are none. How many were
    /// wanted changes nothing.
    fn wallet_empty(&self) -> Result<Error, Error> {
        if let Some(failure) = &self.filling_failure {
            return Ok(failure.clone().into());
        }
        self.hasten_filling()?;
        let now = self.transport.time.now_unix_ms();
        let next = Schedule::read(&self.db)?.next_ms;
        Ok(IssuerError::WalletEmpty {
            filled_in_s: next.saturating_sub(now).div_ceil(1000),
        }
        .into())
    }

    /// Fills the wallet now: by whole batches until it is full, by one at least.
    ///
    /// This is for users to decide. The issuer sees when they do, and that many tokens were spent
    /// before; what is done with tokens soon after is easier to tell for theirs than what is done
    /// from a wallet that was filled at a time of its own.
    ///
    /// # Errors
    /// [`Error::Issuer`], [`Error::Unreachable`].
    pub(crate) async fn fill_wallet(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        let directory = self.directory().await?;
        self.fill_now(&directory).await
    }

    async fn fill_now(&mut self, directory: &Directory) -> Result<(), Error> {
        self.fill(directory, true, Effort::Whole).await?;
        self.filling_failure = None;
        let now = self.transport.time.now_unix_ms();
        Schedule::after(now)?.write(&self.db)
    }

    /// Fills a wallet that is new, or that a set-up which was cut off has left low.
    pub(crate) async fn set_up_wallet(&mut self) -> Result<(), Error> {
        let directory = self.directory().await?;
        if self.transport.service().is_some() {
            return Ok(());
        }
        let now = self.transport.time.now_unix_ms();
        let lasting = lasting(&self.db, &self.good()?, &directory, now)?;
        if Levels::of(&directory.prices, 0).is_low(lasting) {
            self.fill_now(&directory).await?;
        }
        Ok(())
    }

    /// Fills the wallet if it is low and its time has come. What keeps it from it now does so
    /// silently: it will be tried again.
    pub(crate) async fn top_up(&mut self) -> Result<(), Error> {
        if self.transport.service().is_some() {
            return Ok(());
        }
        let now = self.transport.time.now_unix_ms();
        let schedule = Schedule::read(&self.db)?;
        match schedule.due(now, Schedule::last_spent_ms(&self.db)?)? {
            Due::NotYet => return Ok(()),
            Due::PutOff(schedule) => return schedule.write(&self.db),
            Due::Now => {}
        }
        // Set before: whatever becomes of this one, it is no sign for another.
        schedule.after_failure(now, None)?.write(&self.db)?;
        let directory = match self.directory().await {
            Err(Error::Unreachable(_)) => return Ok(()),
            directory => directory?,
        };
        let lasting = lasting(&self.db, &self.good()?, &directory, now)?;
        let low = Levels::of(&directory.prices, 0).is_low(lasting);
        if !low && !schedule.is_hastened() && Batch::kept(&self.db)?.is_none() {
            return Schedule::after(now)?.write(&self.db);
        }
        let more = schedule.is_hastened();
        let filled = self.fill(&directory, more, Effort::Once).await;
        // Told when somebody misses the tokens.
        self.filling_failure = match &filled {
            Err(Error::Issuer(failure)) => Some(failure.clone()),
            _ => None,
        };
        match filled {
            Ok(()) => Schedule::after(now)?.write(&self.db),
            Err(Error::Issuer(IssuerError::Limited { retry_after_s, .. })) => {
                schedule.after_failure(now, retry_after_s)?.write(&self.db)
            }
            Err(Error::Issuer(_) | Error::Unreachable(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Brings a batch that was asked for before to its end, and fills the wallet up; with at least
    /// one batch if `more` tokens are wanted whatever there is.
    async fn fill(
        &mut self,
        directory: &Directory,
        more: bool,
        effort: Effort,
    ) -> Result<(), Error> {
        let now = self.transport.time.now_unix_ms();
        let account_token = self.profile.account_token.as_str();
        let issuer = Issuer::meet(&self.transport, account_token, directory, effort).await?;
        discard_expired(&self.db, &self.good_under(issuer.key_ids().clone())?)?;
        let levels = Levels::of(&directory.prices, issuer.batch_size());
        let mut came = 0;
        if let Some(batch) = Batch::kept(&self.db)? {
            if issuer.takes(&batch) {
                match self.collect(&issuer, batch).await? {
                    Ok(tokens) => came = tokens,
                    Err(refused) if refused.is_of_the_request() => {}
                    // It stays: another request would be refused likewise.
                    Err(refused) => return Err(refused.into()),
                }
            } else {
                // Its key has expired, or the tokens would be for another challenge.
                Batch::forget(&self.db)?;
            }
        }
        let least = usize::from(more && came == 0);
        let lasting = lasting(&self.db, &self.good()?, directory, now)?;
        let batches = levels.batches(lasting).max(least);
        for _ in 0..batches {
            match self.next_batch(&issuer, levels.batch).await {
                Ok(tokens) => came = came.saturating_add(tokens),
                // The quota ends short of a full wallet, which does for now.
                Err(Error::Issuer(IssuerError::Limited { .. })) if came > 0 => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fetches a batch; one of the number that the issuer itself names if the account has no more
    /// left.
    async fn next_batch(&mut self, issuer: &Issuer, size: usize) -> Result<usize, Error> {
        let whole = issuer.ask_for(size)?;
        match self.collect(issuer, whole).await? {
            Ok(tokens) => Ok(tokens),
            Err(Refused {
                available: Some(available),
                ..
            }) if (1..size).contains(&available) => {
                let rest = issuer.ask_for(available)?;
                Ok(self.collect(issuer, rest).await??)
            }
            Err(refused) => Err(refused.into()),
        }
    }

    /// Has a batch answered, and keeps its tokens in its place. As long as it is not known what has
    /// become of it, it is kept instead, to be asked for again.
    async fn collect(
        &mut self,
        issuer: &Issuer,
        batch: Batch,
    ) -> Result<Result<usize, Refused>, Error> {
        batch.keep(&self.db)?;
        match issuer.answer(&batch).await {
            Ok(answer) => {
                let tokens = batch.tokens(&answer);
                if tokens.is_err() {
                    // The same request would be answered the same way.
                    Batch::forget(&self.db)?;
                }
                let tokens = tokens?;
                store(&mut self.db, &tokens)?;
                Ok(Ok(tokens.len()))
            }
            Err(Failure::Refused(refused)) => {
                if refused.is_of_the_request() {
                    Batch::forget(&self.db)?;
                }
                Ok(Err(refused))
            }
            Err(Failure::Other(error)) => Err(error),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use base64::Engine as _;
    use protocol::directory::{AcceptedIssuer, Prices, StoreState};
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::encoding::BASE64URL;
    use crate::issuance::tests::test_challenge;
    use crate::store::tokens::{discard, discard_doubtful};
    use rusqlite::Connection;

    pub(crate) fn directory(keys: &[&[u8]]) -> Directory {
        Directory {
            domain: "d".into(),
            wire_versions: vec![1],
            ciphersuites: vec![0x4f],
            external_sender_key: String::new(),
            external_sender_key_p256: String::new(),
            former_external_sender_keys: Vec::new(),
            journal_signing_key: String::new(),
            issuer: AcceptedIssuer {
                name: "i".into(),
                challenge: BASE64URL.encode(test_challenge().serialize().unwrap()),
                token_key_ids: keys
                    .iter()
                    .map(|key| BASE64URL.encode(Sha256::digest(key)))
                    .collect(),
                token_keys_not_before_s: Vec::new(),
            },
            prices: Prices {
                create_blob: 1,
                reserve_group_id: 1,
                publish_key_packages: 1,
                key_package_sets_per_token: 0,
                claim_key_package: 1,
                register_handle: 1,
                lookup_handle: 1,
                request_connection: 1,
                external_join: 1,
            },
            allowances: None,
            clock_window_ms: 1,
            max_request_bytes: 1,
            store: StoreState {
                id: BASE64URL.encode([1; 16]),
                generation: 0,
            },
        }
    }

    fn token(nonce: u8, digest: &[u8], key: &[u8]) -> Token {
        let key: [u8; 32] = Sha256::digest(key).into();
        [&[0, 2][..], &[nonce; 32], digest, &key, &[0; 256]].concat()
    }

    fn digest() -> [u8; 32] {
        test_challenge().digest().unwrap()
    }

    fn under(keys: &[&[u8]]) -> Good {
        Good {
            challenge_digest: digest(),
            keys: keys
                .iter()
                .map(|key| Sha256::digest(key).to_vec())
                .collect(),
        }
    }

    fn tokens(count: u8) -> Vec<Token> {
        (0..count)
            .map(|nonce| token(nonce, &digest(), b"key"))
            .collect()
    }

    #[test]
    fn refusals_cost_a_client_so_many_tokens_a_day_and_no_more() {
        let db = crate::store::database::in_memory().unwrap();
        assert_eq!(paid_for_refusals(&db, 7).unwrap(), 0);
        pay_for_refusal(&db, 7, 2).unwrap();
        pay_for_refusal(&db, 7, 3).unwrap();
        assert_eq!(paid_for_refusals(&db, 7).unwrap(), 5);
        assert_eq!(paid_for_refusals(&db, 8).unwrap(), 0);
        pay_for_refusal(&db, 8, 1).unwrap();
        assert_eq!(paid_for_refusals(&db, 8).unwrap(), 1);
    }

    fn available(db: &Connection) -> usize {
        good(db, &under(&[b"key"])).unwrap().len()
    }

    #[test]
    fn tokens_that_expire_with_their_key_do_not_count_as_enough() {
        let mut db = crate::store::database::in_memory().unwrap();
        let of = |nonce: u8, key: &[u8]| token(nonce, &digest(), key);
        let tokens = [of(1, b"old"), of(2, b"old"), of(3, b"new")];
        store(&mut db, &tokens).unwrap();
        let mut directory = directory(&[b"old", b"new", b"future"]);
        let held = under(&[b"old", b"new", b"future"]);
        let lasting = |directory: &Directory| lasting(&db, &held, directory, 10_000).unwrap();
        assert_eq!(lasting(&directory), 3);
        directory.issuer.token_keys_not_before_s = vec![1, 5, 90];
        assert_eq!(lasting(&directory), 1);
    }

    #[test]
    fn a_token_is_reserved_once_and_gone_after_its_use() {
        let mut db = crate::store::database::in_memory().unwrap();
        let held = under(&[b"key"]);
        store(&mut db, &tokens(3)).unwrap();
        let first = reserve(&mut db, &held, 2, 0).unwrap().unwrap();
        assert_eq!(available(&db), 1);
        assert!(reserve(&mut db, &held, 2, 0).unwrap().is_none());
        assert_eq!(available(&db), 1);
        discard(&db, &first).unwrap();
        let second = reserve(&mut db, &held, 1, 0).unwrap().unwrap();
        assert!(!first.contains(second.first().unwrap()));
        discard_doubtful(&db).unwrap();
        let left = "SELECT count(*) FROM tokens";
        let left: i64 = db.query_row(left, (), |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
    }

    #[test]
    fn a_process_that_ends_at_any_moment_uses_no_token_twice_and_loses_no_other() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("db");
        let tokens = tokens(40);
        store(&mut crate::store::database::open(&path).unwrap(), &tokens).unwrap();
        let mut presented = Vec::new();
        for round in 0..20 {
            // As `Client::open` begins.
            let mut db = crate::store::database::open(&path).unwrap();
            discard_doubtful(&db).unwrap();
            let taken = reserve(&mut db, &under(&[b"key"]), 1 + round % 3, 0);
            let taken = taken.unwrap().unwrap();
            // From here on somebody may have seen them. Every other process does not live to forget
            // them.
            presented.extend(taken.clone());
            if round % 2 == 0 {
                discard(&db, &taken).unwrap();
            }
        }
        let distinct: BTreeSet<_> = presented.iter().collect();
        assert_eq!(distinct.len(), presented.len());
        let db = crate::store::database::open(&path).unwrap();
        assert_eq!(available(&db), tokens.len() - presented.len());
    }

    #[test]
    fn tokens_that_nobody_announces_now_are_kept_and_not_spent_and_those_of_keys_that_are_gone_are_dropped()
     {
        let mut db = crate::store::database::in_memory().unwrap();
        let kept = token(1, &digest(), b"current");
        let hidden = token(2, &digest(), b"hidden");
        let tokens = [
            hidden.clone(),
            token(3, &digest(), b"expired"),
            token(4, &[7; 32], b"current"),
            kept.clone(),
        ];
        store(&mut db, &tokens).unwrap();
        // What the service announces is what is spent.
        let announced = under(&[b"current", b"next"]);
        assert_eq!(good(&db, &announced).unwrap().len(), 1);
        assert!(reserve(&mut db, &announced, 2, 0).unwrap().is_none());
        // The issuer shows one key more.
        let ever = under(&[b"current", b"next", b"hidden"]);
        discard_expired(&db, &ever).unwrap();
        let left = good(&db, &ever).unwrap();
        let left: Vec<Token> = left.into_iter().map(|(_, token)| token).collect();
        assert_eq!(left, [hidden, kept.clone()]);
        let all: i64 = db
            .query_row("SELECT count(*) FROM tokens", (), |row| row.get(0))
            .unwrap();
        assert_eq!(all, 2);
        let spent = reserve(&mut db, &announced, 1, 0).unwrap().unwrap();
        assert_eq!(spent, [kept]);
    }
}
