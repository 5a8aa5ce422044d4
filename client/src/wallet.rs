//! Privacy Pass tokens: fetched ahead of need, so that the time of issuance says nothing about the
//! time of use; spent once.

use std::time::Duration;

use privacypass::auth::authenticate::TokenChallenge;
use privacypass::public_tokens::PublicKey;
use protocol::directory::Directory;
use rusqlite::Connection;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

use crate::Client;
use crate::database::begin;
use crate::directory::decode_base64url;
use crate::error::{Error, IssuerError};
use crate::issuance::PendingToken;

/// Below this many tokens the wallet is filled up,
pub(crate) const LOW: usize = 8;
/// to this many.
pub(crate) const FULL: usize = 24;

const TOKEN_TYPE: u16 = 0x0002;
const ATTEMPTS: u32 = 5;

/// RFC 9578 §4, the members that we need.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct IssuerDirectory {
    issuer_request_uri: String,
    token_keys: Vec<IssuerKey>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct IssuerKey {
    token_type: u16,
    token_key: String,
    #[serde(default)]
    not_before: Option<u64>,
}

/// A token as it is presented.
pub(crate) type Token = Vec<u8>;

/// Tokens that can be spent.
pub(crate) fn available(db: &Connection) -> Result<usize, Error> {
    Ok(
        db.query_row("SELECT count(*) FROM tokens WHERE in_use = 0", (), |row| {
            row.get(0)
        })?,
    )
}

fn store(db: &Connection, token: &Token) -> Result<(), Error> {
    db.execute("INSERT OR IGNORE INTO tokens (token) VALUES (?)", [token])?;
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

/// Tokens that are there do for now, also while the issuer shows other keys than the service: they were
/// issued under keys that everybody got, and a change of keys reaches the two at different times.
fn enough(available: usize, count: usize, filled: Result<(), Error>) -> Result<(), Error> {
    if available < count { filled } else { Ok(()) }
}

impl Client {
    /// Takes tokens out of the wallet, filling it first when it is low.
    pub(crate) async fn take_tokens(&mut self, count: usize) -> Result<Vec<Token>, Error> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let available = available(&self.db)?;
        if available < count.max(LOW) {
            let filled = self.fill_wallet(count.max(FULL)).await;
            enough(available, count, filled)?;
        }
        reserve(&mut self.db, count)
    }

    /// Fills the wallet up to `level` tokens.
    pub(crate) async fn fill_wallet(&mut self, level: usize) -> Result<(), Error> {
        if available(&self.db)? >= level {
            return Ok(());
        }
        let directory = self.fetch_directory().await?;
        let issuer = Issuer {
            http: self.transport.http().clone(),
            url: self.transport.issuer().to_owned(),
            account: zeroize::Zeroizing::new(format!(
                "Bearer {}",
                self.profile.account_token.as_str()
            )),
        };
        let shown = issuer.directory().await?;
        let spki = token_key(&shown, &directory, self.transport.time.now_unix_ms())?;
        let key = PublicKey::from_spki(&spki).map_err(|_| IssuerError::Answer)?;
        let challenge =
            TokenChallenge::deserialize(&decode_base64url(&directory.issuer.challenge)?)
                .map_err(|_| Error::Protocol("the challenge in the directory is malformed"))?;
        let url = request_url(&issuer.url, &shown.issuer_request_uri);
        while available(&self.db)? < level {
            let token = issuer.issue(&url, &key, &challenge).await?;
            store(&self.db, &token)?;
        }
        Ok(())
    }
}

/// The way to the issuer, as this account.
struct Issuer {
    http: reqwest::Client,
    url: String,
    account: zeroize::Zeroizing<String>,
}

impl Issuer {
    async fn directory(&self) -> Result<IssuerDirectory, Error> {
        let url = format!("{}/.well-known/private-token-issuer-directory", self.url);
        let body = self.ask(|| self.http.get(&url)).await?;
        serde_json::from_slice(&body).map_err(|_| IssuerError::Answer.into())
    }

    async fn issue(
        &self,
        url: &str,
        key: &PublicKey,
        challenge: &TokenChallenge,
    ) -> Result<Token, Error> {
        let (request, pending) = PendingToken::request(key.clone(), challenge)?;
        // The issuer answers the same request alike and counts it once, so it can be repeated.
        let body = self
            .ask(|| {
                self.http
                    .post(url)
                    .header("content-type", "application/private-token-request")
                    .header("authorization", self.account.as_str())
                    .body(request.clone())
            })
            .await?;
        pending.finish(&body)
    }

    async fn ask(&self, request: impl Fn() -> reqwest::RequestBuilder) -> Result<Vec<u8>, Error> {
        let mut pause = Duration::from_millis(200);
        for _ in 0..ATTEMPTS {
            if let Ok(answer) = request().send().await {
                let status = answer.status();
                let body = answer.bytes().await.unwrap_or_default();
                match status.as_u16() {
                    200 => return Ok(body.to_vec()),
                    500..=599 => {}
                    _ => return Err(IssuerError::Refused(problem_name(&body)).into()),
                }
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
        Err(Error::Unreachable("the issuer cannot be reached"))
    }
}

/// The last part of the problem type, if it is one of words: nothing else of a foreign text is shown.
pub(crate) fn problem_name(body: &[u8]) -> String {
    serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|problem| {
            Some(
                problem
                    .get("type")?
                    .as_str()?
                    .rsplit(':')
                    .next()?
                    .to_owned(),
            )
        })
        .filter(|name| name.len() < 64 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
        .unwrap_or_else(|| "no reason was given".to_owned())
}

/// The directory may give a path or a whole URI; one of another origin is not followed, since the
/// account token goes there.
fn request_url(issuer: &str, request_uri: &str) -> String {
    if request_uri.starts_with('/') {
        return format!("{issuer}{request_uri}");
    }
    match request_uri.strip_prefix(issuer) {
        Some(path) if path.starts_with('/') => request_uri.to_owned(),
        _ => format!("{issuer}/token-request"),
    }
}

/// The key to ask tokens of: the newest that is valid. Refuses an issuer whose keys are not exactly
/// those that the delivery service announces to everybody over OHTTP: a key of our own would make our
/// tokens recognisable (RFC 9576 §5).
fn token_key(
    issuer: &IssuerDirectory,
    directory: &Directory,
    now_ms: u64,
) -> Result<Vec<u8>, Error> {
    let announced = directory
        .issuer
        .token_key_ids
        .iter()
        .map(|id| decode_base64url(id))
        .collect::<Result<BTreeSet<_>, _>>()?;
    let mut shown = BTreeSet::new();
    let mut newest: Option<(u64, Vec<u8>)> = None;
    for key in issuer
        .token_keys
        .iter()
        .filter(|key| key.token_type == TOKEN_TYPE)
    {
        let spki = decode_base64url(&key.token_key).map_err(|_| IssuerError::Answer)?;
        shown.insert(Sha256::digest(&spki).to_vec());
        let not_before = key.not_before.unwrap_or(0);
        let usable = not_before <= now_ms / 1000;
        if usable
            && newest
                .as_ref()
                .is_none_or(|(newest, _)| *newest <= not_before)
        {
            newest = Some((not_before, spki));
        }
    }
    if announced != shown {
        return Err(IssuerError::KeyMismatch.into());
    }
    newest
        .map(|(_, spki)| spki)
        .ok_or_else(|| IssuerError::NoKey.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use base64::Engine as _;
    use protocol::directory::{AcceptedIssuer, Prices, QueueServiceKey};

    use super::*;
    use crate::directory::BASE64URL;

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
                challenge: String::new(),
                token_key_ids: keys
                    .iter()
                    .map(|key| BASE64URL.encode(Sha256::digest(key)))
                    .collect(),
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

    fn issuer(keys: &[(&[u8], u64)]) -> IssuerDirectory {
        let token_keys = keys
            .iter()
            .map(|(key, not_before)| IssuerKey {
                token_type: TOKEN_TYPE,
                token_key: BASE64URL.encode(key),
                not_before: Some(*not_before),
            })
            .collect();
        IssuerDirectory {
            issuer_request_uri: "/token-request".into(),
            token_keys,
        }
    }

    #[test]
    fn the_newest_key_that_is_valid_is_used() {
        let shown = issuer(&[(b"old", 1), (b"new", 5), (b"future", 90)]);
        let announced = directory(&[b"new", b"future", b"old"]);
        assert_eq!(token_key(&shown, &announced, 10_000).unwrap(), b"new");
    }

    #[test]
    fn an_issuer_that_shows_other_keys_is_refused() {
        for announced in [&[&b"b"[..]][..], &[], &[&b"a"[..], b"b"]] {
            let refused = token_key(&issuer(&[(b"a", 0)]), &directory(announced), 1);
            assert!(matches!(
                refused,
                Err(Error::Issuer(IssuerError::KeyMismatch))
            ));
        }
    }

    #[test]
    fn an_issuer_in_the_midst_of_a_key_change_stops_only_who_has_no_tokens_left() {
        let mismatch = || Err(IssuerError::KeyMismatch.into());
        assert!(enough(2, 2, mismatch()).is_ok());
        assert!(matches!(
            enough(1, 2, mismatch()),
            Err(Error::Issuer(IssuerError::KeyMismatch))
        ));
        assert!(enough(0, 2, Ok(())).is_ok());
    }

    #[test]
    fn a_token_is_reserved_once_and_gone_after_its_use() {
        let mut db = crate::database::in_memory().unwrap();
        for token in 0..3u8 {
            store(&db, &vec![token]).unwrap();
        }
        let first = reserve(&mut db, 2).unwrap();
        assert_eq!(available(&db).unwrap(), 1);
        assert!(reserve(&mut db, 2).is_err());
        assert_eq!(available(&db).unwrap(), 1);
        discard(&db, &first).unwrap();
        let second = reserve(&mut db, 1).unwrap();
        assert!(!first.contains(second.first().unwrap()));
        discard_doubtful(&db).unwrap();
        assert_eq!(
            db.query_row("SELECT count(*) FROM tokens", (), |row| row
                .get::<_, i64>(0))
                .unwrap(),
            0
        );
    }

    #[test]
    fn the_account_token_goes_to_the_issuer_only() {
        assert_eq!(request_url("http://i", "/x"), "http://i/x");
        assert_eq!(request_url("http://i", "http://i/x"), "http://i/x");
        assert_eq!(
            request_url("http://i", "http://i.evil/x"),
            "http://i/token-request"
        );
        assert_eq!(
            request_url("http://i", "http://evil/x"),
            "http://i/token-request"
        );
    }

    #[test]
    fn foreign_text_is_not_shown() {
        assert_eq!(
            problem_name(br#"{"type":"urn:x:quota-exhausted"}"#),
            "quota-exhausted"
        );
        assert_eq!(
            problem_name(br#"{"type":"urn:x:<b>"}"#),
            "no reason was given"
        );
        assert_eq!(problem_name(b"?"), "no reason was given");
    }
}
