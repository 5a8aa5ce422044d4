//! Requests to the delivery service: binary HTTP, padded, encapsulated, posted to the relay.

mod keys;
mod messages;
pub(crate) mod patience;
pub(crate) mod stream;

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use basis::http_date;
use bhttp::{Message, Mode};
use http::header::RETRY_AFTER;
use oblivious::configs::{self, Unusable};
use oblivious::whole::{self, ResponseOpener};
use oblivious::{Aead, PublicKey};
use privacypass::auth::authenticate::TokenChallenge;
use protocol::directory::Directory;
use protocol::operation::Operation;
use protocol::padding::BULK;
use protocol::problem::ProblemType;
use protocol::push;

use crate::endpoints::Endpoints;
use crate::error::{Error, NoAnswer, PushRefusal, Refusal, UsageError};
use crate::in_process::SharedService;
use crate::key_view::KeyView;
use crate::net::clock::ServiceTime;
use crate::net::directory;
use crate::net::http::{self as web, Body, bounded_body};
use crate::net::key_config;
use crate::net::transport::messages::*;
use crate::net::transport::patience::{Budget, Met};
use crate::net::trust::{self, unreached};
use crate::net::waits::{MINUTE_MS, in_steps};
use crate::views::{Agreed, Pace, Views};

pub use crate::net::transport::patience::Patience;
pub use crate::net::transport::patience::Progress;
pub use crate::net::transport::patience::Waiting;
pub(crate) use messages::{limited_body, retry_after};

const OHTTP_KEY_PROBLEM: &str = "https://iana.org/assignments/http-problem-types#ohttp-key";
const DATE_PROBLEM: &str = "https://iana.org/assignments/http-problem-types#date";
/// What a public document has at most.
const MAX_DOCUMENT: usize = 1024 * 1024;
const MAX_PROBLEM: usize = 64 * 1024;
/// As many handles as can be asked for, padded and sealed.
const MAX_PUSH_ANSWER: usize = 64 * 1024;
/// So often a request is refused outside the encapsulation before that is believed.
const MAX_REFUSALS: u32 = 4;
const JSON: &str = "application/json";

/// The way to the delivery service.
#[derive(Clone)]
pub(crate) struct Transport {
    http: web::Client,
    /// To mirrors, with connections and TLS sessions of its own: whoever runs one knows the account
    /// by another connection.
    to_mirrors: web::Client,
    endpoints: Endpoints,
    key_config: Option<Vec<u8>>,
    pub(crate) time: ServiceTime,
    budget: Arc<Budget>,
    /// How long the service may hold what is posted.
    held: Duration,
    views: Views,
    pace: Pace,
    /// So many requests went out.
    posted: Arc<AtomicU64>,
    /// Answers in place of relay, gateway and service.
    service: Option<SharedService>,
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
    Again(NoAnswer),
    /// Somebody on the way refused it in words that nobody has sealed, or answered what cannot be
    /// the answer: that, or the request, may be damaged.
    Refused(&'static str),
    /// The gateway has other keys now.
    NewKeys,
    /// The gateway's clock is another.
    Date(Option<u64>),
    /// Somebody knows none of the keys that the relay shows.
    Mismatch(KeyView),
}

fn no_answer(reason: impl Into<String>) -> Met {
    Met::NoAnswer(NoAnswer::from(reason))
}

fn again(reason: impl Into<String>) -> Attempt {
    Attempt::Again(NoAnswer::from(reason))
}

struct Answer {
    status: u16,
    problem: bool,
    /// It says what token to get (RFC 9577 §2.1).
    challenge: bool,
    retry_after_s: Option<u64>,
    date_ms: Option<u64>,
    content: Vec<u8>,
}

/// What an answer can have at most, padded and sealed, whatever the service's settings: a longer
/// one is not read to its end.
const fn longest_answer(operation: Operation) -> usize {
    const MIB: usize = 1024 * 1024;
    match operation {
        // The tree of the largest group with what stands beside its leaves; as many proposals as
        // can be pending.
        Operation::ExternalCommitInfo | Operation::InspectGroup => 16 * MIB,
        // A commit alone may be longer than what is read at once.
        Operation::ReadJournal => 4 * MIB,
        Operation::FetchWelcome => 2 * MIB,
        Operation::JoinRecord | Operation::ClaimKeyPackages | Operation::ReadInbox => MIB,
        _ => 128 * 1024,
    }
}

/// A bulk exchange may take longer than others by so much: it is long both ways.
const BULK_ON_THE_WAY: Duration = Duration::from_secs(15);

/// What sealing adds to an answer, at most.
const SEALED: usize = 1024;

/// What an exchange is allowed.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// How long the service may hold it, or a slow line.
    held: Duration,
    /// How long the answer may be.
    longest: usize,
    /// A bulk exchange: request and answer have its one size.
    is_bulk: bool,
}

impl Bounds {
    fn ordinary(held: Duration, longest: usize) -> Self {
        Self {
            held,
            longest,
            is_bulk: false,
        }
    }

    /// How long the answer to a request of this size may be, padded: the gateway answers one that
    /// has the size of a bulk request as such a one, whatever it asks for.
    fn longest_for(&self, request: usize) -> usize {
        match request {
            BULK => self.longest.max(BULK + SEALED),
            _ => self.longest,
        }
    }
}

impl Transport {
    pub(crate) fn new(
        endpoints: Endpoints,
        key_config: Option<Vec<u8>>,
        time: ServiceTime,
        budget: Budget,
        views: Views,
        pace: Pace,
    ) -> Result<Self, Error> {
        let is_loopback = is_loopback(&endpoints.relay);
        let http = web::client(&endpoints, budget.attempt(), is_loopback, false)?;
        let to_mirrors = web::client(&endpoints, budget.attempt(), is_loopback, true)?;
        Ok(Self {
            http,
            to_mirrors,
            endpoints,
            key_config,
            time,
            budget: Arc::new(budget),
            held: Duration::ZERO,
            views,
            pace,
            posted: Arc::default(),
            service: None,
        })
    }

    /// Has everything answered in this process.
    pub(crate) fn answer_by(&mut self, service: Option<SharedService>) {
        self.service = service;
    }

    /// The same way for one request that is held by the service, with a patience of its own. What
    /// it learns is forgotten.
    pub(crate) fn for_waiting(&self, held: Duration) -> Self {
        Self {
            budget: Arc::new(self.budget.anew()),
            held,
            posted: Arc::default(),
            ..self.clone()
        }
    }

    /// The same way for what goes on beside calls, with a patience of its own. What it learns is
    /// forgotten; its requests are counted.
    pub(crate) fn beside_calls(&self) -> Self {
        Self {
            budget: Arc::new(self.budget.anew()),
            ..self.clone()
        }
    }

    /// How many requests have gone out to the service this way.
    pub(crate) fn posted(&self) -> u64 {
        self.posted.load(Ordering::Relaxed)
    }

    pub(crate) fn service(&self) -> Option<&SharedService> {
        self.service.as_ref()
    }

    /// What is left of the patience of the call that is under way.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(crate) fn http(&self) -> &web::Client {
        &self.http
    }

    /// What every token of this client answers.
    pub(crate) fn challenge(&self) -> TokenChallenge {
        directory::challenge(&self.endpoints)
    }

    pub(crate) fn issuer(&self) -> &str {
        self.endpoints.issuer.trim_end_matches('/')
    }

    /// For what is asked without the account.
    pub(crate) fn to_mirrors(&self) -> &web::Client {
        &self.to_mirrors
    }

    /// Where the relay shows the gateway's keys.
    pub(crate) fn relay_keys_url(&self) -> &str {
        &self.endpoints.ohttp_keys
    }

    /// Where each mirror does.
    pub(crate) fn mirrors_keys_urls(&self) -> &[String] {
        &self.endpoints.ohttp_key_mirrors
    }

    /// What others show, for keeping.
    pub(crate) fn views(&self) -> &Views {
        &self.views
    }

    /// What another process has learned since.
    pub(crate) fn follow(
        &mut self,
        endpoints: &Endpoints,
        key_config: Option<&[u8]>,
        clock_offset_ms: i64,
        views: &Views,
    ) {
        self.endpoints = endpoints.clone();
        self.key_config = key_config.map(<[u8]>::to_vec);
        self.time.follow(clock_offset_ms);
        self.views = views.clone();
    }

    /// The cached key configuration, for keeping.
    pub(crate) fn key_config(&self) -> Option<&[u8]> {
        self.key_config.as_deref()
    }

    /// Posts the exact bytes of a signed request, with a token in each `authorization` line, until
    /// an answer comes: every attempt is encapsulated afresh, the bytes inside stay the same, so
    /// that the service sees one request however often it arrives.
    ///
    /// # Errors
    /// [`Error::Refused`] with the service's problem; [`Error::Unreachable`] when the call's
    /// patience has ended.
    pub(crate) async fn post(
        &mut self,
        operation: Operation,
        request: &[u8],
        tokens: &[Vec<u8>],
    ) -> Result<Vec<u8>, Error> {
        self.posted.fetch_add(1, Ordering::Relaxed);
        let answer = self.post_request(operation, request, tokens).await;
        let code = answer.as_ref().err().map(Error::code);
        tracing::debug!(operation = operation.path(), tokens = tokens.len(), code);
        answer
    }

    async fn post_request(
        &mut self,
        operation: Operation,
        request: &[u8],
        tokens: &[Vec<u8>],
    ) -> Result<Vec<u8>, Error> {
        if let Some(service) = &self.service {
            let answer = service.answer(operation, request, tokens);
            return self.budget.wait(self.held, answer).await?;
        }
        let (scheme, authority) = self.endpoints.ds_origin()?;
        let bounds = Bounds {
            held: match operation.is_bulk() {
                true => self.held.saturating_add(BULK_ON_THE_WAY),
                false => self.held,
            },
            longest: longest_answer(operation),
            is_bulk: operation.is_bulk(),
        };
        self.exchange(bounds, |date| {
            let origin = (scheme.as_str(), authority.as_str());
            of_operation(origin, operation.path(), date, tokens, request)
        })
        .await
    }

    /// The way to the push sender: another gateway, by way of a relay. What it learns is forgotten.
    ///
    /// # Errors
    /// [`UsageError::NoPushSender`].
    pub(crate) fn to_push_sender(&self) -> Result<Self, Error> {
        let push = self.endpoints.push.as_ref();
        let push = push.ok_or(UsageError::NoPushSender)?;
        let endpoints = Endpoints {
            relay: push.relay.clone(),
            ohttp_keys: push.ohttp_keys.clone(),
            ohttp_key_mirrors: push.ohttp_key_mirrors.clone(),
            ds: push.sender.clone(),
            ..self.endpoints.clone()
        };
        Ok(Self {
            endpoints,
            key_config: None,
            views: Views::default(),
            budget: Arc::new(self.budget.anew()),
            posted: Arc::default(),
            ..self.clone()
        })
    }

    /// Posts a device's request, until an answer comes.
    ///
    /// # Errors
    /// [`Error::Push`] with the push sender's problem; as [`Transport::post`].
    pub(crate) async fn post_to_push_sender(&mut self, request: &[u8]) -> Result<Vec<u8>, Error> {
        let (scheme, authority) = self.endpoints.ds_origin()?;
        self.exchange(Bounds::ordinary(Duration::ZERO, MAX_PUSH_ANSWER), |date| {
            let mut message = inner("POST", &scheme, &authority, push::DEVICE_PATH, date);
            message.put_header("content-type", push::REQUEST_MEDIA_TYPE);
            message.write_content(request);
            message
        })
        .await
    }

    /// Fetches a public document of the service, through relay and gateway like everything.
    pub(crate) async fn fetch(&mut self, path: &str) -> Result<Vec<u8>, Error> {
        self.posted.fetch_add(1, Ordering::Relaxed);
        let (scheme, authority) = self.endpoints.ds_origin()?;
        self.exchange(Bounds::ordinary(Duration::ZERO, MAX_DOCUMENT), |date| {
            inner("GET", &scheme, &authority, path, date)
        })
        .await
    }

    async fn exchange(
        &mut self,
        bounds: Bounds,
        message: impl Fn(&str) -> Message,
    ) -> Result<Vec<u8>, Error> {
        let budget = Arc::clone(&self.budget);
        budget
            .wait(bounds.held, self.until_answered(bounds, message))
            .await?
    }

    async fn until_answered(
        &mut self,
        bounds: Bounds,
        message: impl Fn(&str) -> Message,
    ) -> Result<Vec<u8>, Error> {
        let mut refusals = 0;
        let mut pause = Duration::from_millis(100);
        let mut keys_renewed = false;
        let mut told = None;
        loop {
            let date = date_of(told.unwrap_or_else(|| self.time.now_unix_ms()));
            let met: Met = match self.attempt(bounds, &message(&date)).await {
                Ok(content) => return Ok(content),
                Err(Attempt::Failed(error)) => return Err(error),
                Err(Attempt::NewKeys) if !keys_renewed => {
                    keys_renewed = true;
                    self.key_config = None;
                    continue;
                }
                // The relay is behind; or a request was damaged on the way, which looks the same.
                Err(Attempt::NewKeys) => {
                    self.key_config = None;
                    no_answer("the gateway does not accept its own key")
                }
                // After keys were replaced at once, relay and mirrors need a moment to follow.
                Err(Attempt::Mismatch(view)) if keys_renewed || view == KeyView::Mirror => {
                    Met::Mismatch(view)
                }
                Err(Attempt::Mismatch(view)) => return Err(Error::KeyConfigMismatch(view)),
                // One more attempt with its time (RFC 9458 §6.5.2), which is used for nothing else.
                Err(Attempt::Date(Some(now))) if told.is_none() => {
                    told = Some(now);
                    self.time.learn(now);
                    continue;
                }
                Err(Attempt::Date(_)) => {
                    return Err(Error::Protocol("the gateway accepts no date"));
                }
                Err(Attempt::Again(reason)) => Met::NoAnswer(reason),
                Err(Attempt::Refused(how)) => {
                    refusals += 1;
                    if refusals == MAX_REFUSALS {
                        return Err(Error::Protocol(how));
                    }
                    no_answer(how)
                }
            };
            let asked = Duration::from_secs(met.retry_after_s().unwrap_or(0));
            self.budget.meets(met.clone());
            let left = self.budget.left();
            if left.is_zero() || asked > left {
                return Err(met.into());
            }
            let pause_now = pause.max(asked);
            crate::runtime::sleep(pause_now).await;
            pause = pause.saturating_mul(2).min(Duration::from_secs(3));
        }
    }

    async fn attempt(&mut self, bounds: Bounds, message: &Message) -> Result<Vec<u8>, Attempt> {
        let config = self.current_key_config().await?;
        self.attempt_under(&config, bounds, message).await
    }

    async fn attempt_under(
        &mut self,
        config: &[u8],
        bounds: Bounds,
        message: &Message,
    ) -> Result<Vec<u8>, Attempt> {
        let encoded = encoded(message, bounds.is_bulk).map_err(Attempt::Failed)?;
        let (encapsulated, response) = encapsulate(config, &encoded).map_err(Attempt::Failed)?;
        let sent = self
            .http
            .post(&self.endpoints.relay)
            .header("content-type", whole::REQUEST)
            .timeout(self.budget.attempt().saturating_add(bounds.held))
            .body(encapsulated)
            .send()
            .await
            .map_err(|error| again(unreached("the relay", &self.endpoints.relay, &error)))?;
        if let Some(now) = sent
            .headers()
            .get("date")
            .and_then(|date| http_date::parse(date.to_str().ok()?))
        {
            self.time.witness(now);
        }
        let status = sent.status().as_u16();
        if status != 200 {
            let retry_after_s = retry_after(&sent);
            let body = limited_body(sent, MAX_PROBLEM).await.unwrap_or_default();
            return Err(outer_refusal(status, &body, retry_after_s));
        }
        // A body that was cut short is as good as none; the retry is the same request.
        let body = match bounded_body(sent, bounds.longest_for(encoded.len())).await {
            Body::Whole(body) => body,
            Body::Broken => return Err(again("the relay does not bring an answer to its end")),
            // Perhaps that of another request.
            Body::TooLong => {
                return Err(Attempt::Refused("an answer is longer than any of its kind"));
            }
        };
        let opened = response
            .open(&body)
            .map_err(|_| again("the answer was damaged"))?;
        // The relay would tell it from others.
        if bounds.is_bulk && opened.len() != BULK {
            return Err(Attempt::Refused("a bulk answer has another size than all"));
        }
        judge(read_answer(&opened).map_err(Attempt::Failed)?)
    }
}

/// To the minute: how far a clock is off in seconds would tie requests together.
fn date_of(unix_ms: u64) -> String {
    http_date::format(unix_ms / MINUTE_MS * MINUTE_MS)
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
