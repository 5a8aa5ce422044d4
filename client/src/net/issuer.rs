//! The way to the token issuer, as this account: its directory, its keys, answers to requests for
//! tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use privacypass::auth::authenticate::TokenChallenge;
use protocol::directory::Directory;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::encoding::decode_base64url;
use crate::error::{Error, IssuerError, NoAnswer};
use crate::net::directory::MAX_TOKEN_KEYS;
use crate::net::http as web;
use crate::net::transport::{Transport, limited_body, retry_after};
use crate::net::trust::unreached;
use crate::store::batches::Batch;

const TOKEN_TYPE: u16 = 0x0002;
const ATTEMPTS: u32 = 5;
/// All attempts together end after so long.
const WHOLE: Duration = Duration::from_secs(30);
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

/// An issuer that shows the key that everybody gets.
pub(crate) struct Issuer {
    asked: Asked,
    url: String,
    /// SPKI of the key to ask tokens of.
    token_key: Vec<u8>,
    /// Ids of the keys that issuer or service show.
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
    /// The issuer itself says that what was asked for is refused, and not who asked; the same
    /// request would be refused again. Anybody on the way can say something else.
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
    /// Asks the issuer for its directory, as everybody does and by a connection that the account
    /// does not use, and holds it against what the delivery service announces to everybody. Nothing
    /// but that request has been sent when it fails.
    pub(crate) async fn meet(
        transport: &Transport,
        account_token: &str,
        announced: &Directory,
        effort: Effort,
    ) -> Result<Self, Error> {
        let (url, now_ms) = (transport.issuer(), transport.time.now_unix_ms());
        let asked = Asked {
            http: transport.http().clone(),
            effort,
            account: Zeroizing::new(format!("Bearer {account_token}")),
        };
        let directory_url = format!("{url}/.well-known/private-token-issuer-directory");
        let body = asked
            .ask(None, || transport.to_mirrors().get(&directory_url))
            .await
            .map_err(Error::from)?;
        let shown: IssuerDirectory =
            serde_json::from_slice(&body).map_err(|_| IssuerError::Answer)?;
        Ok(Self {
            token_key: token_key(&shown, announced, now_ms)?,
            key_ids: shown_keys(&shown)?
                .into_keys()
                .chain(announced_keys(announced)?)
                .collect(),
            challenge: transport.challenge(),
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

    /// Ids of the keys whose tokens may be good for something, now or again: all that issuer or
    /// service show.
    pub(crate) fn key_ids(&self) -> &BTreeSet<Vec<u8>> {
        &self.key_ids
    }

    /// Whether the tokens of a batch that was asked for earlier may be good for something.
    pub(crate) fn takes(&self, batch: &Batch) -> bool {
        let key_id = Sha256::digest(&batch.token_key).to_vec();
        self.key_ids.contains(&key_id)
            && self.challenge.digest().ok() == Some(batch.challenge_digest)
    }

    /// The answer to a batch. The issuer answers the same request alike and counts it once, so it
    /// can be repeated.
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
    http: web::Client,
    effort: Effort,
    account: Zeroizing<String>,
}

impl Asked {
    async fn ask(
        &self,
        media_type: Option<&str>,
        request: impl Fn() -> web::RequestBuilder,
    ) -> Result<Vec<u8>, Failure> {
        let met = Mutex::new("the issuer does not answer".to_owned());
        crate::runtime::timeout(WHOLE, self.attempts(media_type, request, &met))
            .await
            .unwrap_or_else(|_| Err(Failure::Other(NoAnswer::from(last(&met)).into())))
    }

    async fn attempts(
        &self,
        media_type: Option<&str>,
        request: impl Fn() -> web::RequestBuilder,
        met: &Mutex<String>,
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
                let url = error.url().map(ToString::to_string).unwrap_or_default();
                meets(unreached("the issuer", &url, error));
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
                    (200 | 500..=599, _) => {
                        meets(format!("the issuer cannot answer now (status {status})"));
                    }
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
                crate::runtime::sleep(pause).await;
            }
            pause = pause.saturating_mul(2);
        }
        Err(Failure::Other(NoAnswer::from(last(met)).into()))
    }
}

/// What the last attempt met.
fn last(met: &Mutex<String>) -> String {
    met.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The body, unless it is longer than any that we expect or breaks off.
pub(crate) async fn read(answer: web::Response) -> Option<Vec<u8>> {
    limited_body(answer, MAX_ANSWER).await
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

/// The id of the key that tokens are asked of now, if the service says from when its keys are in
/// use.
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

/// The last part of the problem type, if it is one of words: nothing else of a foreign text is
/// shown.
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

/// SPKI of each key and a time, by its id.
type ShownKeys = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

/// The issuer's keys by their ids, each with the time from when it is in use as the issuer says.
fn shown_keys(issuer: &IssuerDirectory) -> Result<ShownKeys, Error> {
    let keys: ShownKeys = issuer
        .token_keys
        .iter()
        .filter(|key| key.token_type == TOKEN_TYPE)
        .map(|key| {
            let spki = decode_base64url(&key.token_key).map_err(|_| IssuerError::Answer)?;
            let id = Sha256::digest(&spki).to_vec();
            Ok((id, (spki, key.not_before.unwrap_or(0))))
        })
        .collect::<Result<_, Error>>()?;
    if keys.len() > MAX_TOKEN_KEYS {
        return Err(IssuerError::TooManyKeys.into());
    }
    Ok(keys)
}

/// The key to ask tokens of: of those that the delivery service announces to everybody, the newest
/// that is in use; and the issuer must show it too. What else the issuer shows is passed over: a
/// key that it has just published is not announced yet. But it has no choice: who is not shown the
/// newest key would have tokens of a key of his own (RFC 9576 §5).
fn token_key(
    issuer: &IssuerDirectory,
    directory: &Directory,
    now_ms: u64,
) -> Result<Vec<u8>, Error> {
    let announced = announced_times(directory)?;
    let shown = shown_keys(issuer)?;
    if !announced.keys().any(|id| shown.contains_key(id)) {
        return Err(IssuerError::KeyMismatch.into());
    }
    let in_use = announced
        .iter()
        .map(|(id, time)| {
            // The service's word first: it is the same for everybody.
            let issuers = || shown.get(id).map(|(_, time)| *time);
            (time.or_else(issuers).unwrap_or(0), id)
        })
        .filter(|(time, _)| *time <= now_ms / 1000)
        .max()
        .ok_or(IssuerError::NoKey)?;
    let (spki, _) = shown.get(in_use.1).ok_or(IssuerError::KeyMismatch)?;
    Ok(spki.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::Engine as _;

    use super::*;
    use crate::encoding::BASE64URL;
    use crate::flows::wallet::tests::directory;

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

    fn announced(keys: &[(&[u8], u64)]) -> Directory {
        let names: Vec<&[u8]> = keys.iter().map(|(key, _)| *key).collect();
        let mut announced = directory(&names);
        announced.issuer.token_keys_not_before_s = keys.iter().map(|(_, time)| *time).collect();
        announced
    }

    #[test]
    fn an_issuer_that_does_not_show_the_key_that_everybody_uses_is_refused() {
        for shown in [
            issuer(&[(b"a", 0)]),
            issuer(&[]),
            // The one before, which would be this user's own.
            issuer(&[(b"old", 1)]),
            issuer(&[(b"old", 1), (b"mine", 9)]),
        ] {
            let refused = token_key(&shown, &announced(&[(b"old", 1), (b"new", 5)]), 10_000);
            assert!(matches!(
                refused,
                Err(Error::Issuer(IssuerError::KeyMismatch))
            ));
        }
    }

    #[test]
    fn after_a_rotation_tokens_are_asked_for_before_the_service_has_heard_of_it() {
        // Published, and not in use yet; then in use at the issuer; then the old one is gone there.
        let old = announced(&[(b"old", 1)]);
        let both = announced(&[(b"old", 1), (b"new", 50)]);
        let rotated = issuer(&[(b"new", 50), (b"old", 1)]);
        for now_s in [10, 60] {
            assert_eq!(token_key(&rotated, &old, now_s * 1000).unwrap(), b"old");
        }
        assert_eq!(token_key(&rotated, &both, 10_000).unwrap(), b"old");
        assert_eq!(token_key(&rotated, &both, 60_000).unwrap(), b"new");
        let later = issuer(&[(b"new", 50)]);
        assert_eq!(token_key(&later, &both, 60_000).unwrap(), b"new");
    }

    #[test]
    fn an_issuer_with_more_keys_than_a_rotation_needs_is_refused() {
        let keys: Vec<[u8; 1]> = (0..5).map(|number| [number]).collect();
        let shown: Vec<(&[u8], u64)> = keys.iter().map(|key| (&key[..], 0)).collect();
        let everybodys = announced(&shown[..4]);
        assert!(token_key(&issuer(&shown[..4]), &everybodys, 1).is_ok());
        assert!(matches!(
            token_key(&issuer(&shown), &everybodys, 1),
            Err(Error::Issuer(IssuerError::TooManyKeys))
        ));
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
