//! The way to the token issuer, as this account: its directory, its keys, answers to requests for tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use privacypass::auth::authenticate::TokenChallenge;
use protocol::directory::Directory;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::directory::decode_base64url;
use crate::error::{Error, IssuerError, NoAnswer};
use crate::transport::{limited_body, retry_after};
use crate::wallet::Batch;

const TOKEN_TYPE: u16 = 0x0002;
const ATTEMPTS: u32 = 5;
/// All of them together end after so long.
const WHOLE: Duration = Duration::from_secs(30);
/// More keys than a rotation needs could serve to sort users by the key that each is made to use.
const MAX_KEYS: usize = 8;
/// What the types of the issuer's own problems begin with.
const PROBLEMS: &str = "urn:privacy-pass-issuer:problem:";
/// How long is waited for an answer that nobody waits for.
const ONCE: Duration = Duration::from_secs(10);
/// No directory and no batch of answers is longer.
const MAX_ANSWER: usize = 256 * 1024;

/// RFC 9578 §4, the members that we need, and how many requests a batch may have.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct IssuerDirectory {
    pub(crate) issuer_request_uri: String,
    pub(crate) token_keys: Vec<IssuerKey>,
    #[serde(default)]
    pub(crate) generic_batch_size: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct IssuerKey {
    pub(crate) token_type: u16,
    pub(crate) token_key: String,
    #[serde(default)]
    pub(crate) not_before: Option<u64>,
}

/// An issuer whose keys are those that everybody gets.
pub(crate) struct Issuer {
    asked: Asked,
    url: String,
    /// SPKI of the key to ask tokens of.
    token_key: Vec<u8>,
    key_ids: BTreeSet<Vec<u8>>,
    challenge: TokenChallenge,
    batch_size: usize,
}

/// What one request is made of and how its answer is told.
struct Form {
    request: &'static str,
    response: &'static str,
}

const SINGLE: Form = Form {
    request: "application/private-token-request",
    response: "application/private-token-response",
};
const BATCH: Form = Form {
    request: "application/private-token-generic-batch-request",
    response: "application/private-token-generic-batch-response",
};

/// A refusal by the issuer.
pub(crate) struct Refused {
    status: u16,
    /// In the issuer's own words.
    by_issuer: bool,
    name: String,
    /// For so many tokens it would not have refused.
    pub(crate) available: Option<usize>,
    retry_after_s: Option<u64>,
}

impl Refused {
    /// The issuer itself says that what was asked for is refused, and not who asked; the same request would be
    /// refused again. Anybody on the way can say something else.
    pub(crate) fn is_of_the_request(&self) -> bool {
        self.by_issuer && !matches!(self.status, 401 | 403)
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        let Refused {
            status,
            name,
            retry_after_s,
            ..
        } = refused;
        match status {
            429 => IssuerError::Limited {
                problem: name,
                retry_after_s,
            }
            .into(),
            _ => IssuerError::Refused(name).into(),
        }
    }
}

pub(crate) enum Failure {
    Refused(Refused),
    Other(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refused) => refused.into(),
            Failure::Other(error) => error,
        }
    }
}

impl Issuer {
    /// Asks the issuer at `url` for its directory, as everybody does, and holds it against what the delivery
    /// service announces to everybody. Nothing but that request has been sent when it fails.
    pub(crate) async fn meet(
        http: reqwest::Client,
        url: &str,
        account_token: &str,
        announced: &Directory,
        now_ms: u64,
        effort: Effort,
    ) -> Result<Self, Error> {
        let asked = Asked {
            http,
            effort,
            account: Zeroizing::new(format!("Bearer {account_token}")),
        };
        let directory_url = format!("{url}/.well-known/private-token-issuer-directory");
        let body = asked
            .ask(None, || asked.http.get(&directory_url))
            .await
            .map_err(Error::from)?;
        let shown: IssuerDirectory =
            serde_json::from_slice(&body).map_err(|_| IssuerError::Answer)?;
        Ok(Self {
            token_key: token_key(&shown, announced, now_ms)?,
            key_ids: announced_keys(announced)?,
            challenge: challenge(announced)?,
            url: request_url(url, &shown.issuer_request_uri),
            batch_size: shown.generic_batch_size,
            asked,
        })
    }

    /// Requests in one batch; below 2 there are no batches.
    pub(crate) fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// A request for so many tokens; for one where there are no batches.
    pub(crate) fn ask_for(&self, count: usize) -> Result<Batch, Error> {
        let generic = self.batch_size >= 2;
        Batch::prepare(&self.token_key, &self.challenge, generic, count)
    }

    /// Whether the tokens of a batch that was asked for earlier would be good for something now.
    pub(crate) fn takes(&self, batch: &Batch) -> bool {
        let key_id = Sha256::digest(&batch.token_key).to_vec();
        self.key_ids.contains(&key_id)
            && self.challenge.digest().ok() == Some(batch.challenge_digest)
    }

    /// The answer to a batch. The issuer answers the same request alike and counts it once, so it can be repeated.
    pub(crate) async fn answer(&self, batch: &Batch) -> Result<Vec<u8>, Failure> {
        let form = if batch.generic { &BATCH } else { &SINGLE };
        self.asked
            .ask(Some(form.response), || {
                self.asked
                    .http
                    .post(&self.url)
                    .header("content-type", form.request)
                    .header("accept", form.response)
                    .header("authorization", self.asked.account.as_str())
                    .body(batch.request.clone())
            })
            .await
    }
}

/// How hard the issuer is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// As long as a user waits for it.
    Whole,
    /// Beside what a user waits for: it will be asked again.
    Once,
}

struct Asked {
    http: reqwest::Client,
    effort: Effort,
    account: Zeroizing<String>,
}

impl Asked {
    async fn ask(
        &self,
        media_type: Option<&str>,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<Vec<u8>, Failure> {
        let met = Mutex::new("the issuer does not answer");
        tokio::time::timeout(WHOLE, self.attempts(media_type, request, &met))
            .await
            .unwrap_or_else(|_| {
                let met = *met.lock().unwrap_or_else(PoisonError::into_inner);
                Err(Failure::Other(NoAnswer::from(met).into()))
            })
    }

    async fn attempts(
        &self,
        media_type: Option<&str>,
        request: impl Fn() -> reqwest::RequestBuilder,
        met: &Mutex<&'static str>,
    ) -> Result<Vec<u8>, Failure> {
        let meets = |reason| *met.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        let mut pause = Duration::from_millis(200);
        let attempts = match self.effort {
            Effort::Whole => ATTEMPTS,
            Effort::Once => 1,
        };
        for attempt in 1..=attempts {
            let request = match self.effort {
                Effort::Whole => request(),
                Effort::Once => request().timeout(ONCE),
            };
            let sent = request.send().await;
            if let Err(error) = &sent {
                meets(if error.is_connect() {
                    "the issuer cannot be reached"
                } else {
                    "the issuer takes requests and does not answer them"
                });
            }
            if let Ok(answer) = sent {
                let status = answer.status().as_u16();
                let declared = answer.headers().get(CONTENT_TYPE).cloned();
                let retry_after_s = retry_after(&answer);
                let body = read(answer).await;
                match (status, body) {
                    (200, Some(body)) => {
                        let as_declared = media_type.is_none_or(|expected| {
                            declared.is_some_and(|declared| declared == expected)
                        });
                        if !as_declared {
                            return Err(Failure::Other(IssuerError::Answer.into()));
                        }
                        return Ok(body);
                    }
                    (200 | 500..=599, _) => meets("the issuer cannot answer"),
                    (_, body) => {
                        let body = body.unwrap_or_default();
                        return Err(Failure::Refused(Refused {
                            status,
                            by_issuer: problem_type(&body)
                                .is_some_and(|kind| kind.starts_with(PROBLEMS)),
                            name: problem_name(&body),
                            available: (status == 429).then(|| available(&body)).flatten(),
                            retry_after_s,
                        }));
                    }
                }
            }
            if attempt < attempts {
                tokio::time::sleep(pause).await;
            }
            pause = pause.saturating_mul(2);
        }
        let met = *met.lock().unwrap_or_else(PoisonError::into_inner);
        Err(Failure::Other(NoAnswer::from(met).into()))
    }
}

/// The body, unless it is longer than any that we expect or breaks off.
pub(crate) async fn read(answer: reqwest::Response) -> Option<Vec<u8>> {
    limited_body(answer, MAX_ANSWER).await
}

pub(crate) fn challenge(announced: &Directory) -> Result<TokenChallenge, Error> {
    TokenChallenge::deserialize(&decode_base64url(&announced.issuer.challenge)?)
        .map_err(|_| Error::Protocol("the challenge in the directory is malformed"))
}

/// Ids of the keys whose tokens the delivery service accepts.
pub(crate) fn announced_keys(announced: &Directory) -> Result<BTreeSet<Vec<u8>>, Error> {
    Ok(announced_times(announced)?.into_keys().collect())
}

/// The same with the times from when they are in use, if the service says so.
fn announced_times(announced: &Directory) -> Result<BTreeMap<Vec<u8>, Option<u64>>, Error> {
    let issuer = &announced.issuer;
    let times = issuer.token_keys_not_before_s.iter().copied().map(Some);
    issuer
        .token_key_ids
        .iter()
        .zip(times.chain(std::iter::repeat(None)))
        .map(|(id, time)| Ok((decode_base64url(id)?, time)))
        .collect()
}

/// The id of the key that tokens are asked of now, if the service says from when its keys are in use.
pub(crate) fn key_in_use(announced: &Directory, now_ms: u64) -> Result<Option<Vec<u8>>, Error> {
    Ok(announced_times(announced)?
        .into_iter()
        .filter_map(|(id, time)| Some((time?, id)))
        .filter(|(time, _)| *time <= now_ms / 1000)
        .max()
        .map(|(_, id)| id))
}

fn problem_type(body: &[u8]) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(problem.get("type")?.as_str()?.to_owned())
}

/// The last part of the problem type, if it is one of words: nothing else of a foreign text is shown.
pub(crate) fn problem_name(body: &[u8]) -> String {
    problem_type(body)
        .and_then(|kind| Some(kind.rsplit(':').next()?.to_owned()))
        .filter(|name| name.len() < 64 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
        .unwrap_or_else(|| "no reason was given".to_owned())
}

fn available(body: &[u8]) -> Option<usize> {
    let problem: serde_json::Value = serde_json::from_slice(body).ok()?;
    usize::try_from(problem.get("available")?.as_u64()?).ok()
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
    let announced = announced_times(directory)?;
    let mut shown = BTreeSet::new();
    let mut newest: Option<(u64, Vec<u8>)> = None;
    for key in issuer
        .token_keys
        .iter()
        .filter(|key| key.token_type == TOKEN_TYPE)
    {
        let spki = decode_base64url(&key.token_key).map_err(|_| IssuerError::Answer)?;
        let id = Sha256::digest(&spki).to_vec();
        // The service's word first: it is the same for everybody.
        let announced_time = announced.get(&id).copied().flatten();
        let not_before = announced_time.or(key.not_before).unwrap_or(0);
        shown.insert(id);
        let usable = not_before <= now_ms / 1000;
        if usable
            && newest
                .as_ref()
                .is_none_or(|(newest, _)| *newest <= not_before)
        {
            newest = Some((not_before, spki));
        }
    }
    if !shown.iter().eq(announced.keys()) || shown.len() > MAX_KEYS {
        return Err(IssuerError::KeyMismatch.into());
    }
    newest
        .map(|(_, spki)| spki)
        .ok_or_else(|| IssuerError::NoKey.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::Engine as _;

    use super::*;
    use crate::directory::BASE64URL;
    use crate::wallet::tests::directory;

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
            generic_batch_size: 0,
        }
    }

    #[test]
    fn the_newest_key_that_is_valid_is_used() {
        let shown = issuer(&[(b"old", 1), (b"new", 5), (b"future", 90)]);
        let announced = directory(&[b"new", b"future", b"old"]);
        assert_eq!(token_key(&shown, &announced, 10_000).unwrap(), b"new");
    }

    #[test]
    fn the_key_is_chosen_by_the_times_that_the_service_announces_to_everybody() {
        // To this user the issuer says that the older key is the newest one.
        let shown = issuer(&[(b"old", 8), (b"new", 5), (b"future", 1)]);
        let mut announced = directory(&[b"old", b"new", b"future"]);
        announced.issuer.token_keys_not_before_s = vec![1, 5, 90];
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
    fn an_issuer_with_more_keys_than_a_rotation_needs_is_refused() {
        let keys: Vec<[u8; 1]> = (0..9).map(|number| [number]).collect();
        let shown: Vec<(&[u8], u64)> = keys.iter().map(|key| (&key[..], 0)).collect();
        let announced: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        assert!(token_key(&issuer(&shown), &directory(&announced), 1).is_err());
        assert!(token_key(&issuer(&shown[..8]), &directory(&announced[..8]), 1).is_ok());
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
