//! Requests to the delivery service: binary HTTP, padded, encapsulated, posted to the relay.

use std::io::Cursor;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bhttp::{Message, Mode};
use protocol::Operation;
use protocol::padding::bucket;
use protocol::problem::ProblemType;

use crate::clock::ServiceTime;
use crate::error::{Error, LocalError, Refusal};
use crate::key_config::{self, KeyView};
use crate::profile::Endpoints;

const OHTTP_KEY_PROBLEM: &str = "https://iana.org/assignments/http-problem-types#ohttp-key";
const DATE_PROBLEM: &str = "https://iana.org/assignments/http-problem-types#date";
/// Where a gateway shows its key configurations inside the encapsulation (RFC 9540 §3).
const GATEWAY_KEYS_PATH: &str = "/.well-known/ohttp-gateway";
/// No answer of ours is larger; more is not read.
const MAX_RESPONSE: usize = 64 * 1024 * 1024;
const MAX_PROBLEM: usize = 64 * 1024;

/// How long and how often a request is tried.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// One attempt must be answered within this time.
    pub attempt: Duration,
    /// Attempts are made until this much time was spent waiting between them.
    pub pauses: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(45),
            pauses: Duration::from_secs(30),
        }
    }
}

/// The way to the delivery service.
pub struct Transport {
    http: reqwest::Client,
    endpoints: Endpoints,
    key_config: Option<Vec<u8>>,
    pub(crate) time: ServiceTime,
    patience: Patience,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transport(..)")
    }
}

/// Why one attempt gave no result, and whether another may.
enum Attempt {
    Failed(Error),
    /// Nothing was learned: relay, gateway or service could not answer.
    Again(&'static str),
    /// The gateway has other keys now.
    NewKeys,
    /// The gateway's clock is another.
    Date(Option<u64>),
}

struct Answer {
    status: u16,
    problem: bool,
    retry_after_s: Option<u64>,
    date_ms: Option<u64>,
    content: Vec<u8>,
}

impl Transport {
    pub(crate) fn new(
        endpoints: Endpoints,
        key_config: Option<Vec<u8>>,
        time: ServiceTime,
        patience: Patience,
    ) -> Result<Self, Error> {
        // A redirect would lead an encapsulated request elsewhere; and a stack on loopback is never
        // behind a proxy, whatever the environment says.
        let builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .timeout(patience.attempt);
        let builder = if is_loopback(&endpoints.relay) {
            builder.no_proxy()
        } else {
            builder
        };
        let http = builder.build().map_err(|_| LocalError::Http)?;
        Ok(Self {
            http,
            endpoints,
            key_config,
            time,
            patience,
        })
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub(crate) fn issuer(&self) -> &str {
        self.endpoints.issuer.trim_end_matches('/')
    }

    /// The cached key configuration, for keeping.
    pub(crate) fn key_config(&self) -> Option<&[u8]> {
        self.key_config.as_deref()
    }

    /// Posts the exact bytes of a signed request, with a token in each `authorization` line, until an
    /// answer comes: every attempt is encapsulated afresh, the bytes inside stay the same, so that the
    /// service sees one request however often it arrives.
    ///
    /// # Errors
    /// [`Error::Refused`] with the service's problem; [`Error::Unreachable`] when there was none in time.
    pub async fn post(
        &mut self,
        operation: Operation,
        request: &[u8],
        tokens: &[Vec<u8>],
    ) -> Result<Vec<u8>, Error> {
        let (scheme, authority) = self.endpoints.ds_origin()?;
        self.exchange(|date| {
            let mut message = inner("POST", &scheme, &authority, operation.path(), date);
            message.put_header("content-type", protocol::REQUEST_MEDIA_TYPE);
            for token in tokens {
                message.put_header(
                    "authorization",
                    format!("PrivateToken token=\"{}\"", URL_SAFE.encode(token)),
                );
            }
            message.write_content(request);
            message
        })
        .await
    }

    /// Fetches a public document of the service, through relay and gateway like everything.
    pub(crate) async fn fetch(&mut self, path: &str) -> Result<Vec<u8>, Error> {
        let (scheme, authority) = self.endpoints.ds_origin()?;
        self.exchange(|date| inner("GET", &scheme, &authority, path, date))
            .await
    }

    async fn exchange(&mut self, message: impl Fn(&str) -> Message) -> Result<Vec<u8>, Error> {
        const OWN_KEY: Error = Error::Protocol("the gateway does not accept its own key");
        let mut paused = Duration::ZERO;
        let mut pause = Duration::from_millis(100);
        let (mut keys_renewed, mut date_learned) = (false, false);
        loop {
            let date = self.date();
            let failure = match self.attempt(&message(&date)).await {
                Ok(content) => return Ok(content),
                // Keys may have been replaced at once, and a mirror be behind: no longer than this goes on.
                Err(Attempt::Failed(error @ Error::KeyConfigMismatch(KeyView::Mirror))) => error,
                Err(Attempt::Failed(error)) => return Err(error),
                Err(Attempt::NewKeys) if !keys_renewed => {
                    keys_renewed = true;
                    self.key_config = None;
                    continue;
                }
                // The relay is behind; or a request was damaged on the way, which looks the same.
                Err(Attempt::NewKeys) => {
                    self.key_config = None;
                    OWN_KEY
                }
                Err(Attempt::Date(Some(now))) if !date_learned => {
                    date_learned = true;
                    self.time.learn(now);
                    continue;
                }
                Err(Attempt::Date(_)) => {
                    return Err(Error::Protocol("the gateway accepts no date"));
                }
                Err(Attempt::Again(reason)) => Error::Unreachable(reason),
            };
            if paused >= self.patience.pauses {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            paused = paused.saturating_add(pause);
            pause = pause.saturating_mul(2).min(Duration::from_secs(3));
        }
    }

    async fn attempt(&mut self, message: &Message) -> Result<Vec<u8>, Attempt> {
        let config = self.current_key_config().await?;
        self.attempt_under(&config, message).await
    }

    async fn attempt_under(&self, config: &[u8], message: &Message) -> Result<Vec<u8>, Attempt> {
        let (encapsulated, response) = encapsulate(config, message).map_err(Attempt::Failed)?;
        let sent = self
            .http
            .post(&self.endpoints.relay)
            .header("content-type", "message/ohttp-req")
            .body(encapsulated)
            .send()
            .await
            .map_err(|_| Attempt::Again("the relay cannot be reached"))?;
        let status = sent.status().as_u16();
        if status != 200 {
            return Err(outer_refusal(
                status,
                &limited_body(sent, MAX_PROBLEM).await,
            ));
        }
        let body = limited_body(sent, MAX_RESPONSE).await;
        // A body that was cut short is as good as none; the retry is the same request.
        let opened = response
            .decapsulate(&body)
            .map_err(|_| Attempt::Again("the answer was damaged"))?;
        judge(read_answer(&opened).map_err(Attempt::Failed)?)
    }

    async fn current_key_config(&mut self) -> Result<Vec<u8>, Attempt> {
        if let Some(config) = &self.key_config {
            return Ok(config.clone());
        }
        let shown = self.key_configs_at(&self.endpoints.ohttp_keys).await?;
        let mut candidates = key_config::usable(&shown);
        let mismatch = |view| Attempt::Failed(Error::KeyConfigMismatch(view));
        for mirror in &self.endpoints.ohttp_key_mirrors {
            let other = self.key_configs_at(mirror).await?;
            key_config::agree(&mut candidates, &other, KeyView::Mirror).map_err(mismatch)?;
        }
        let asked = candidates
            .first()
            .cloned()
            .ok_or(Attempt::Failed(Error::Protocol(
                "no key configuration that can be used",
            )))?;
        let own = self.key_configs_of_gateway(&asked).await?;
        key_config::agree(&mut candidates, &own, KeyView::Gateway).map_err(mismatch)?;
        let config = candidates.swap_remove(0);
        self.key_config = Some(config.clone());
        Ok(config)
    }

    /// A list of key configurations, fetched in the open.
    async fn key_configs_at(&self, url: &str) -> Result<Vec<u8>, Attempt> {
        const UNREACHABLE: Attempt = Attempt::Again("the key configurations cannot be fetched");
        let answer = self.http.get(url).send().await.map_err(|_| UNREACHABLE)?;
        if answer.status().as_u16() != 200 {
            return Err(UNREACHABLE);
        }
        Ok(limited_body(answer, MAX_PROBLEM).await)
    }

    /// What the gateway says of itself: the one request that goes out under a key before the views of it
    /// were compared. It says nothing but that somebody is there.
    async fn key_configs_of_gateway(&self, config: &[u8]) -> Result<Vec<u8>, Attempt> {
        let (scheme, authority) = self.endpoints.ds_origin().map_err(Attempt::Failed)?;
        let date = self.date();
        let message = inner("GET", &scheme, &authority, GATEWAY_KEYS_PATH, &date);
        self.attempt_under(config, &message).await
    }

    fn date(&self) -> String {
        let now = Duration::from_millis(self.time.now_unix_ms());
        httpdate::fmt_http_date(UNIX_EPOCH.checked_add(now).unwrap_or(UNIX_EPOCH))
    }
}

fn is_loopback(url: &str) -> bool {
    url.parse::<http::Uri>()
        .ok()
        .and_then(|uri| uri.host().map(str::to_owned))
        .is_some_and(|host| {
            host == "localhost"
                || host
                    .trim_matches(['[', ']'])
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|ip| ip.is_loopback())
        })
}

fn inner(method: &str, scheme: &str, authority: &str, path: &str, date: &str) -> Message {
    let mut message = Message::request(
        method.as_bytes().to_vec(),
        scheme.as_bytes().to_vec(),
        authority.as_bytes().to_vec(),
        path.as_bytes().to_vec(),
    );
    // RFC 9458 §6.5.1: with it the gateway can refuse old requests without keeping all of them.
    message.put_header("date", date);
    message
}

fn encapsulate(
    config: &[u8],
    message: &Message,
) -> Result<(Vec<u8>, ohttp::ClientResponse), Error> {
    let mut encoded = Vec::new();
    message
        .write_bhttp(Mode::KnownLength, &mut encoded)
        .map_err(|_| Error::Protocol("a request cannot be encoded"))?;
    encoded.resize(bucket(encoded.len()), 0);
    ohttp::ClientRequest::from_encoded_config(config)
        .and_then(|request| request.encapsulate(&encoded))
        .map_err(|_| Error::Protocol("a request cannot be encapsulated"))
}

async fn limited_body(mut response: reqwest::Response, limit: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        if body.len().saturating_add(chunk.len()) > limit {
            return Vec::new();
        }
        body.extend_from_slice(&chunk);
    }
    body
}

/// What relay or gateway say outside the encapsulation.
fn outer_refusal(status: u16, body: &[u8]) -> Attempt {
    let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let kind = problem
        .as_ref()
        .and_then(|problem| problem.get("type")?.as_str());
    match (status, kind) {
        (_, Some(OHTTP_KEY_PROBLEM)) => Attempt::NewKeys,
        (408 | 409 | 425 | 429 | 500..=599, _) => {
            Attempt::Again("relay or gateway cannot answer now")
        }
        // What is no fault of ours was cut or changed on the way there, or its answer on the way back.
        (400, None | Some("about:blank")) => Attempt::Again("the request was damaged"),
        _ => Attempt::Failed(Error::Protocol("relay or gateway refused the request")),
    }
}

fn read_answer(opened: &[u8]) -> Result<Answer, Error> {
    const NOT_HTTP: Error = Error::Protocol("the answer is not binary HTTP");
    let message = Message::read_bhttp(&mut Cursor::new(opened)).map_err(|_| NOT_HTTP)?;
    let status = message.control().status().ok_or(NOT_HTTP)?.code();
    let text = |name: &[u8]| {
        message
            .header()
            .get(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    };
    Ok(Answer {
        status,
        problem: text(b"content-type")
            .is_some_and(|kind| kind.starts_with("application/problem+json")),
        retry_after_s: text(b"retry-after").and_then(|seconds| seconds.parse().ok()),
        date_ms: text(b"date")
            .and_then(|date| httpdate::parse_http_date(date).ok())
            .and_then(|date| date.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| u64::try_from(since.as_millis()).ok()),
        content: message.content().to_vec(),
    })
}

/// What the gateway or the delivery service say inside it.
fn judge(answer: Answer) -> Result<Vec<u8>, Attempt> {
    if answer.status == 200 {
        return Ok(answer.content);
    }
    let document = answer
        .problem
        .then(|| serde_json::from_slice::<serde_json::Value>(&answer.content).ok())
        .flatten()
        .unwrap_or_default();
    let kind = document
        .get("type")
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default();
    if kind == DATE_PROBLEM {
        return Err(Attempt::Date(answer.date_ms));
    }
    let Some(problem) = ProblemType::from_uri(kind) else {
        return Err(match answer.status {
            408 | 425 | 500..=599 => Attempt::Again("the delivery service cannot answer now"),
            _ => Attempt::Failed(Error::Protocol("the gateway refused the request")),
        });
    };
    match problem {
        // The same request again is safe: what had an effect is answered from its record.
        ProblemType::Unavailable | ProblemType::Internal => {
            Err(Attempt::Again("the delivery service cannot answer now"))
        }
        ProblemType::Conflict => Err(Attempt::Again("concurrent requests were first")),
        _ => {
            let number = |member: &str| document.get(member).and_then(serde_json::Value::as_u64);
            Err(Attempt::Failed(Error::Refused(Refusal {
                problem,
                epoch: number("epoch"),
                now_ms: number("now_ms"),
                retry_after_s: answer.retry_after_s,
            })))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn problem(status: u16, document: serde_json::Value) -> Result<Vec<u8>, Attempt> {
        judge(Answer {
            status,
            problem: true,
            retry_after_s: Some(7),
            date_ms: None,
            content: document.to_string().into_bytes(),
        })
    }

    #[test]
    fn every_problem_of_the_service_comes_back_as_such() {
        for kind in ProblemType::ALL {
            let answer = problem(
                kind.status(),
                serde_json::json!({"type": kind.uri(), "epoch": 5}),
            );
            match answer {
                Err(Attempt::Failed(Error::Refused(refusal))) => {
                    assert_eq!(refusal.problem, *kind);
                    assert_eq!(refusal.epoch, Some(5));
                    assert_eq!(refusal.retry_after_s, Some(7));
                }
                Err(Attempt::Again(_)) => assert!(matches!(
                    kind,
                    ProblemType::Unavailable | ProblemType::Internal | ProblemType::Conflict
                )),
                _ => panic!("{kind:?}"),
            }
        }
    }

    #[test]
    fn a_gateway_with_new_keys_or_another_clock_is_told_from_one_that_fails() {
        let keys = serde_json::json!({"type": OHTTP_KEY_PROBLEM}).to_string();
        assert!(matches!(
            outer_refusal(400, keys.as_bytes()),
            Attempt::NewKeys
        ));
        assert!(matches!(outer_refusal(503, b""), Attempt::Again(_)));
        assert!(matches!(outer_refusal(404, b"{}"), Attempt::Failed(_)));
        for damaged in ["", r#"{"type": "about:blank"}"#, r#"{"type": "http"#] {
            let answer = outer_refusal(400, damaged.as_bytes());
            assert!(matches!(answer, Attempt::Again(_)), "{damaged}");
        }
        let unpadded = br#"{"type": "urn:mimi-ds:problem:ohttp-unpadded"}"#;
        assert!(matches!(outer_refusal(400, unpadded), Attempt::Failed(_)));
        assert!(matches!(
            problem(400, serde_json::json!({"type": DATE_PROBLEM})),
            Err(Attempt::Date(None))
        ));
        assert!(matches!(
            problem(502, serde_json::json!({})),
            Err(Attempt::Again(_))
        ));
    }

    #[test]
    fn what_goes_out_is_as_long_as_a_bucket_under_either_kem() {
        use ohttp::hpke::{Aead, Kdf, Kem};
        let suites = [ohttp::SymmetricSuite::new(Kdf::HkdfSha256, Aead::Aes128Gcm)];
        for (kem, enc) in [(Kem::XWing, 1120), (Kem::X25519Sha256, 32)] {
            let config = ohttp::KeyConfig::derive(1, kem, suites.to_vec(), &[1; 32]).unwrap();
            let list = ohttp::KeyConfig::encode_list(&[config]).unwrap();
            let config = key_config::usable(&list).remove(0);
            for len in [0, 400, 5_000, 70_000] {
                let mut message = inner("POST", "https", "ds.example", "/v1/x", "date");
                message.write_content(vec![7; len]);
                let (sent, _) = encapsulate(&config, &message).unwrap();
                let padded = sent.len() - 7 - enc - 16;
                assert!(padded >= len && padded == bucket(padded), "{padded}");
            }
        }
    }

    #[test]
    fn only_loopback_addresses_ignore_the_proxy() {
        assert!(is_loopback("http://127.0.0.1:4200/") && is_loopback("http://[::1]:1"));
        assert!(is_loopback("http://localhost:1/x") && !is_loopback("https://relay.example"));
    }
}
