//! Privacy Pass tokens: fetched ahead of need, at times that have nothing to do with what the user does, so that
//! the time of issuance says nothing about the time of use; spent once.
//!
//! The wallet is filled up at random times while the client is in step with its queue. Only a wallet that does
//! not have what an action costs is filled in the course of that action, and then by more than it costs.

use std::ops::Range;

use protocol::directory::{Directory, Prices};
use rusqlite::Connection;

use crate::Client;
use crate::database::begin;
use crate::error::{Error, IssuerError};
use crate::issuer::{Issuer, announced_keys, challenge};

/// A token as it is presented (RFC 9577 §2.2).
pub(crate) type Token = Vec<u8>;

/// How often a user can do everything once from a full wallet.
const ROUNDS: usize = 3;
/// Tokens in a full wallet, whatever the prices.
const FULL: Range<usize> = 24..100;

const MINUTE_MS: u64 = 60 * 1000;
/// How long until the wallet is filled up again.
const PAUSE_MS: Range<u64> = 30 * MINUTE_MS..90 * MINUTE_MS;
/// The same after a failure.
const PAUSE_AFTER_FAILURE_MS: Range<u64> = 5 * MINUTE_MS..20 * MINUTE_MS;
/// Who was away when it was due does it at some time of the session, not at its beginning.
const LATE_MS: u64 = 5 * MINUTE_MS;
const DELAY_WHEN_LATE_MS: Range<u64> = 0..10 * MINUTE_MS;

/// Where in a token its challenge digest and its key id begin, counted from 1 as SQL does.
const CHALLENGE_DIGEST_AT: u32 = 1 + 2 + 32;
const KEY_ID_AT: u32 = CHALLENGE_DIGEST_AT + 32;

/// Tokens of a full wallet, by the price list.
fn full(prices: &Prices) -> usize {
    let each = [
        prices.reserve_group_id,
        prices.publish_key_packages,
        prices.claim_key_package,
        prices.register_handle,
        prices.lookup_handle,
        prices.request_connection,
        prices.create_queue,
        prices.external_join,
    ];
    let round: usize = each.into_iter().map(usize::from).sum();
    round.saturating_mul(ROUNDS).clamp(FULL.start, FULL.end)
}

/// Tokens that can be spent.
pub(crate) fn available(db: &Connection) -> Result<usize, Error> {
    Ok(
        db.query_row("SELECT count(*) FROM tokens WHERE in_use = 0", (), |row| {
            row.get(0)
        })?,
    )
}

/// Keeps tokens: all of them or none.
fn store(db: &mut Connection, tokens: &[Token]) -> Result<(), Error> {
    let transaction = begin(db)?;
    for token in tokens {
        transaction.execute("INSERT OR IGNORE INTO tokens (token) VALUES (?)", [token])?;
    }
    transaction.commit()?;
    Ok(())
}

/// Marks tokens as in use *before* they are sent: whatever happens, none goes out a second time with
/// another request.
fn reserve(db: &mut Connection, count: usize) -> Result<Vec<Token>, Error> {
    let transaction = begin(db)?;
    let rows = transaction
        .prepare("SELECT id, token FROM tokens WHERE in_use = 0 ORDER BY id LIMIT ?")?
        .query_map([count], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Token>(1)?))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    if rows.len() < count {
        return Err(IssuerError::NoKey.into());
    }
    for (id, _) in &rows {
        transaction.execute("UPDATE tokens SET in_use = 1 WHERE id = ?", [id])?;
    }
    transaction.commit()?;
    Ok(rows.into_iter().map(|(_, token)| token).collect())
}

/// Forgets tokens that were presented: spent or not, another use would link two requests.
pub(crate) fn discard(db: &Connection, tokens: &[Token]) -> Result<(), Error> {
    for token in tokens {
        db.execute("DELETE FROM tokens WHERE token = ?", [token])?;
    }
    Ok(())
}

/// Forgets tokens whose request was cut off by the end of the process, except those that a kept
/// request will present again.
pub(crate) fn discard_doubtful(db: &Connection) -> Result<(), Error> {
    db.execute("DELETE FROM tokens WHERE in_use = 1", ())?;
    Ok(())
}

/// Forgets unspent tokens that the service takes no more: of a key that it does not announce any more, or for
/// another challenge.
pub(crate) fn discard_expired(db: &Connection, directory: &Directory) -> Result<(), Error> {
    let digest = challenge(directory)?
        .digest()
        .map_err(|_| Error::Protocol("the challenge in the directory is malformed"))?;
    let keys = announced_keys(directory)?;
    let held = {
        let mut statement = db.prepare(
            "SELECT id, substr(token, ?, 32), substr(token, ?, 32) FROM tokens WHERE in_use = 0",
        )?;
        let rows = statement.query_map((CHALLENGE_DIGEST_AT, KEY_ID_AT), |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, Vec<u8>>(2)?,
            ))
        })?;
        rows.collect::<Result<Vec<_>, _>>()?
    };
    for (id, held_digest, key) in held {
        if held_digest != digest || !keys.contains(&key) {
            db.execute("DELETE FROM tokens WHERE id = ?", [id])?;
        }
    }
    Ok(())
}

/// When the wallet is filled up next: kept, so that ending and starting the client shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Schedule {
    next_ms: u64,
    /// It was due while the client was away, and has been put off since.
    put_off: bool,
}

/// What a schedule says at some time.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    NotYet,
    /// Not now either: as the schedule says that is to be kept.
    PutOff(Schedule),
    Now,
}

impl Schedule {
    fn read(db: &Connection) -> Result<Self, Error> {
        let row = "SELECT next_top_up_ms, top_up_put_off FROM profile";
        Ok(db.query_row(row, (), |row| {
            let next: i64 = row.get(0)?;
            Ok(Self {
                next_ms: u64::try_from(next).unwrap_or(0),
                put_off: row.get(1)?,
            })
        })?)
    }

    fn write(self, db: &Connection) -> Result<(), Error> {
        let next = i64::try_from(self.next_ms).unwrap_or(i64::MAX);
        db.execute(
            "UPDATE profile SET next_top_up_ms = ?, top_up_put_off = ?",
            (next, self.put_off),
        )?;
        Ok(())
    }

    fn after(now_ms: u64, pause: &Range<u64>) -> Result<Self, Error> {
        Ok(Self {
            next_ms: now_ms.saturating_add(random_in(pause)?),
            put_off: false,
        })
    }

    fn due(self, now_ms: u64) -> Result<Due, Error> {
        if now_ms < self.next_ms {
            // A clock that was far ahead once must not leave the wallet empty for years.
            if self.next_ms - now_ms <= PAUSE_MS.end {
                return Ok(Due::NotYet);
            }
            return Ok(Due::PutOff(Self::after(now_ms, &PAUSE_MS)?));
        }
        if self.put_off || now_ms - self.next_ms <= LATE_MS {
            return Ok(Due::Now);
        }
        Ok(Due::PutOff(Self {
            next_ms: now_ms.saturating_add(random_in(&DELAY_WHEN_LATE_MS)?),
            put_off: true,
        }))
    }
}

fn random_in(range: &Range<u64>) -> Result<u64, Error> {
    let random = u64::from_be_bytes(crypto::random::<8>()?);
    Ok(range.start + random % (range.end - range.start))
}

impl Client {
    /// Takes tokens out of the wallet. One that does not have them is filled on the spot.
    pub(crate) async fn take_tokens(&mut self, count: usize) -> Result<Vec<Token>, Error> {
        if available(&self.db)? < count {
            self.fill_wallet(count).await?;
        }
        reserve(&mut self.db, count)
    }

    /// Fills the wallet up, so that it is full after `needed` tokens have been taken.
    pub(crate) async fn fill_wallet(&mut self, needed: usize) -> Result<(), Error> {
        let directory = self.fetch_directory().await?;
        let level = full(&directory.prices).saturating_add(needed);
        // The next time is set first: whatever becomes of this one, it is no sign for another.
        let now = self.transport.time.now_unix_ms();
        Schedule::after(now, &PAUSE_MS)?.write(&self.db)?;
        self.fetch_tokens(&directory, level, needed.max(1)).await
    }

    /// Fills the wallet up if that is due. What keeps it from it now does so silently: it will be tried again.
    pub(crate) async fn top_up(&mut self) -> Result<(), Error> {
        let now = self.transport.time.now_unix_ms();
        match Schedule::read(&self.db)?.due(now)? {
            Due::NotYet => return Ok(()),
            Due::PutOff(schedule) => return schedule.write(&self.db),
            Due::Now => {}
        }
        Schedule::after(now, &PAUSE_AFTER_FAILURE_MS)?.write(&self.db)?;
        match self.fill_up().await {
            Ok(()) => Schedule::after(now, &PAUSE_MS)?.write(&self.db),
            Err(Error::Issuer(_) | Error::Unreachable(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn fill_up(&mut self) -> Result<(), Error> {
        let directory = self.fetch_directory().await?;
        let level = full(&directory.prices);
        self.fetch_tokens(&directory, level, level).await
    }

    /// Fetches tokens until there are `level`; fewer than `enough` are an error.
    async fn fetch_tokens(
        &mut self,
        directory: &Directory,
        level: usize,
        enough: usize,
    ) -> Result<(), Error> {
        if available(&self.db)? >= level {
            return Ok(());
        }
        let issuer = Issuer::meet(
            self.transport.http().clone(),
            self.transport.issuer(),
            self.profile.account_token.as_str(),
            directory,
            self.transport.time.now_unix_ms(),
        )
        .await?;
        loop {
            let available = available(&self.db)?;
            if available >= level {
                return Ok(());
            }
            match issuer.some_tokens(level - available).await {
                Ok(tokens) => store(&mut self.db, &tokens)?,
                // The quota ends short of a full wallet, which does for now.
                Err(_) if available >= enough => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use base64::Engine as _;
    use privacypass::TokenType;
    use privacypass::auth::authenticate::TokenChallenge;
    use protocol::directory::{AcceptedIssuer, QueueServiceKey};
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::directory::BASE64URL;

    fn test_challenge() -> TokenChallenge {
        TokenChallenge::new(TokenType::Public, "i", None, &["d".to_owned()])
    }

    pub(crate) fn directory(keys: &[&[u8]]) -> Directory {
        Directory {
            domain: "d".into(),
            wire_versions: vec![1],
            ciphersuites: vec![1],
            queue_service_key: QueueServiceKey {
                key_id: 1,
                public_key: String::new(),
            },
            external_sender_key: String::new(),
            external_sender_key_p256: String::new(),
            former_external_sender_keys: Vec::new(),
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
                reserve_group_id: 1,
                publish_key_packages: 1,
                key_package_sets_per_token: 0,
                claim_key_package: 1,
                register_handle: 1,
                lookup_handle: 1,
                request_connection: 1,
                create_queue: 1,
                external_join: 1,
            },
            allowances: None,
            clock_window_ms: 1,
            max_request_bytes: 1,
        }
    }

    #[test]
    fn a_full_wallet_follows_the_prices_within_bounds() {
        let mut prices = directory(&[]).prices;
        assert_eq!(full(&prices), 24);
        prices.register_handle = 10;
        assert_eq!(full(&prices), 51);
        prices.external_join = u8::MAX;
        assert_eq!(full(&prices), 100);
    }

    #[test]
    fn a_token_is_reserved_once_and_gone_after_its_use() {
        let mut db = crate::database::in_memory().unwrap();
        store(&mut db, &[vec![0], vec![1], vec![2]]).unwrap();
        let first = reserve(&mut db, 2).unwrap();
        assert_eq!(available(&db).unwrap(), 1);
        assert!(reserve(&mut db, 2).is_err());
        assert_eq!(available(&db).unwrap(), 1);
        discard(&db, &first).unwrap();
        let second = reserve(&mut db, 1).unwrap();
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
        let tokens: Vec<Token> = (0..40_u8).map(|number| vec![number]).collect();
        store(&mut crate::database::open(&path).unwrap(), &tokens).unwrap();
        let mut presented = Vec::new();
        for round in 0..20 {
            // As `Client::open` begins.
            let mut db = crate::database::open(&path).unwrap();
            discard_doubtful(&db).unwrap();
            let taken = reserve(&mut db, 1 + round % 3).unwrap();
            // From here on somebody may have seen them. Every other process does not live to forget them.
            presented.extend(taken.clone());
            if round % 2 == 0 {
                discard(&db, &taken).unwrap();
            }
        }
        let distinct: BTreeSet<_> = presented.iter().collect();
        assert_eq!(distinct.len(), presented.len());
        let db = crate::database::open(&path).unwrap();
        assert_eq!(available(&db).unwrap(), tokens.len() - presented.len());
    }

    #[test]
    fn tokens_of_an_expired_key_or_another_challenge_are_dropped_and_no_others() {
        let mut db = crate::database::in_memory().unwrap();
        let digest = test_challenge().digest().unwrap();
        let token = |nonce: u8, digest: &[u8], key: &[u8]| {
            let key: [u8; 32] = Sha256::digest(key).into();
            [&[0, 2][..], &[nonce; 32], digest, &key, &[0; 256]].concat()
        };
        let kept = token(1, &digest, b"current");
        let reserved = token(0, &digest, b"expired");
        store(&mut db, std::slice::from_ref(&reserved)).unwrap();
        assert_eq!(reserve(&mut db, 1).unwrap(), [reserved]);
        let tokens = [
            token(2, &digest, b"expired"),
            kept.clone(),
            token(3, &[7; 32], b"current"),
        ];
        store(&mut db, &tokens).unwrap();
        discard_expired(&db, &directory(&[b"current", b"next"])).unwrap();
        assert_eq!(available(&db).unwrap(), 1);
        assert_eq!(reserve(&mut db, 1).unwrap(), [kept]);
    }

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn the_time_of_filling_up_is_kept_and_has_nothing_to_do_with_when_the_client_came_back() {
        let at = |next_ms, put_off| Schedule { next_ms, put_off };
        assert_eq!(at(NOW + 1, false).due(NOW).unwrap(), Due::NotYet);
        assert_eq!(at(NOW, false).due(NOW).unwrap(), Due::Now);
        // Away for hours: not at once, and once put off not again.
        let Due::PutOff(later) = at(NOW - 3 * 60 * MINUTE_MS, false).due(NOW).unwrap() else {
            unreachable!("it was due long ago");
        };
        assert!(later.put_off && (NOW..=NOW + 10 * MINUTE_MS).contains(&later.next_ms));
        assert_eq!(later.due(later.next_ms).unwrap(), Due::Now);
        assert_eq!(
            later.due(later.next_ms + 3 * 60 * MINUTE_MS).unwrap(),
            Due::Now
        );
        // A clock that was years ahead when it was set.
        let far = at(NOW + 1_000_000_000_000, false).due(NOW).unwrap();
        assert!(matches!(far, Due::PutOff(next) if next.next_ms <= NOW + PAUSE_MS.end));
    }

    #[test]
    fn pauses_are_spread_over_their_range() {
        let pauses: BTreeSet<u64> = (0..200)
            .map(|_| Schedule::after(NOW, &PAUSE_MS).unwrap().next_ms - NOW)
            .collect();
        assert!(pauses.len() > 190);
        assert!(pauses.iter().all(|pause| PAUSE_MS.contains(pause)));
        let middle = 60 * MINUTE_MS;
        assert!(pauses.range(..middle).count() > 50);
        assert!(pauses.range(middle..).count() > 50);
    }
}
