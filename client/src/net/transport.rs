//! Requests to the delivery service: binary HTTP, padded, encapsulated, posted to the relay.

pub(crate) mod patience;
pub(crate) mod stream;

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use basis::http_date;
use bhttp::{Message, Mode};
use http::header::RETRY_AFTER;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use oblivious::configs::{self, Unusable};
use oblivious::whole::{self, ResponseOpener};
use oblivious::{Aead, PublicKey};
use privacypass::auth::authenticate::TokenChallenge;
use protocol::directory::Directory;
use protocol::operation::Operation;
use protocol::padding::bucket;
use protocol::problem::ProblemType;
use protocol::push;

use crate::endpoints::Endpoints;
use crate::error::{Error, LocalError, NoAnswer, PushRefusal, Refusal, UsageError};
use crate::in_process::SharedService;
use crate::key_view::KeyView;
use crate::net::clock::ServiceTime;
use crate::net::directory;
use crate::net::key_config;
use crate::net::transport::patience::{Budget, Met};
use crate::net::trust::{self, unreached};
use crate::net::waits::{MINUTE_MS, in_steps};
use crate::views::{Agreed, Pace, Views};

pub use crate::net::transport::patience::Patience;
pub use crate::net::transport::patience::Progress;
pub use crate::net::transport::patience::Waiting;

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
    http: reqwest::Client,
    /// To mirrors, with connections and TLS sessions of its own: whoever runs one knows the account
    /// by another connection.
    to_mirrors: reqwest::Client,
    endpoints: Endpoints,
    key_config: Option<Vec<u8>>,
    pub(crate) time: ServiceTime,
    budget: Arc<Budget>,
    /// How long the service may hold what is posted.
    held: Duration,
    views: Views,
    pace: Pace,
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

impl Transport {
    pub(crate) fn new(
        endpoints: Endpoints,
        key_config: Option<Vec<u8>>,
        time: ServiceTime,
        budget: Budget,
        views: Views,
        pace: Pace,
    ) -> Result<Self, Error> {
        // A redirect would lead an encapsulated request elsewhere; and a stack on loopback is never
        // behind a proxy, whatever the environment says.
        let builder = || {
            let builder = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(Duration::from_secs(10))
                .timeout(budget.attempt());
            if is_loopback(&endpoints.relay) {
                builder.no_proxy()
            } else {
                builder
            }
        };
        let build = |builder| {
            trust::apply(builder, &endpoints)?
                .build()
                .map_err(|_| Error::from(LocalError::Http))
        };
        let http = build(builder())?;
        let to_mirrors = build(builder().pool_max_idle_per_host(0))?;
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
            ..self.clone()
        }
    }

    pub(crate) fn service(&self) -> Option<&SharedService> {
        self.service.as_ref()
    }

    /// What is left of the patience of the call that is under way.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
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
    pub(crate) fn to_mirrors(&self) -> &reqwest::Client {
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
        self.exchange(self.held, longest_answer(operation), |date| {
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
            ..self.clone()
        })
    }

    /// Posts a device's request, until an answer comes.
    ///
    /// # Errors
    /// [`Error::Push`] with the push sender's problem; as [`Transport::post`].
    pub(crate) async fn post_to_push_sender(&mut self, request: &[u8]) -> Result<Vec<u8>, Error> {
        let (scheme, authority) = self.endpoints.ds_origin()?;
        self.exchange(Duration::ZERO, MAX_PUSH_ANSWER, |date| {
            let mut message = inner("POST", &scheme, &authority, push::DEVICE_PATH, date);
            message.put_header("content-type", push::REQUEST_MEDIA_TYPE);
            message.write_content(request);
            message
        })
        .await
    }

    /// Fetches a public document of the service, through relay and gateway like everything.
    pub(crate) async fn fetch(&mut self, path: &str) -> Result<Vec<u8>, Error> {
        let (scheme, authority) = self.endpoints.ds_origin()?;
        self.exchange(Duration::ZERO, MAX_DOCUMENT, |date| {
            inner("GET", &scheme, &authority, path, date)
        })
        .await
    }

    async fn exchange(
        &mut self,
        held: Duration,
        longest: usize,
        message: impl Fn(&str) -> Message,
    ) -> Result<Vec<u8>, Error> {
        let budget = Arc::clone(&self.budget);
        budget
            .wait(held, self.until_answered(held, longest, message))
            .await?
    }

    async fn until_answered(
        &mut self,
        held: Duration,
        longest: usize,
        message: impl Fn(&str) -> Message,
    ) -> Result<Vec<u8>, Error> {
        let mut refusals = 0;
        let mut pause = Duration::from_millis(100);
        let mut keys_renewed = false;
        let mut told = None;
        loop {
            let date = date_of(told.unwrap_or_else(|| self.time.now_unix_ms()));
            let met: Met = match self.attempt((held, longest), &message(&date)).await {
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
            tokio::time::sleep(pause_now).await;
            pause = pause.saturating_mul(2).min(Duration::from_secs(3));
        }
    }

    /// With how long the service may hold it, and how long the answer may be.
    async fn attempt(
        &mut self,
        bounds: (Duration, usize),
        message: &Message,
    ) -> Result<Vec<u8>, Attempt> {
        let config = self.current_key_config().await?;
        self.attempt_under(&config, bounds, message).await
    }

    async fn attempt_under(
        &mut self,
        config: &[u8],
        (held, longest): (Duration, usize),
        message: &Message,
    ) -> Result<Vec<u8>, Attempt> {
        let (encapsulated, response) = encapsulate(config, message).map_err(Attempt::Failed)?;
        let sent = self
            .http
            .post(&self.endpoints.relay)
            .header("content-type", whole::REQUEST)
            .timeout(self.budget.attempt().saturating_add(held))
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
        let body = match bounded_body(sent, longest).await {
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
        judge(read_answer(&opened).map_err(Attempt::Failed)?)
    }

    async fn current_key_config(&mut self) -> Result<Vec<u8>, Attempt> {
        let now = self.time.now_unix_ms();
        let is_new = self.views.keys.adopt(now, &self.pace);
        match (&self.key_config, is_new) {
            (Some(config), false) => Ok(config.clone()),
            _ => match self.choose_key_config(now).await {
                Ok(config) => {
                    self.key_config = Some(config.clone());
                    Ok(config)
                }
                // What is in use goes on.
                Err(attempt) => self.key_config.clone().ok_or(attempt),
            },
        }
    }

    /// The first of the configurations that mirrors, relay and gateway show; without mirrors, that
    /// relay and gateway do.
    async fn choose_key_config(&mut self, now: u64) -> Result<Vec<u8>, Attempt> {
        let shown = self.key_configs_of_relay().await?;
        let mut candidates = match self.mirrored_key_configs(&shown, now).await? {
            Some(mut mirrored) => {
                key_config::agree(&mut mirrored, &shown, KeyView::Mirror)
                    .map_err(Attempt::Mismatch)?;
                mirrored
            }
            None => shown,
        };
        let asked = candidates
            .first()
            .cloned()
            .ok_or(Attempt::Failed(Error::Protocol(
                "no key configuration that can be used",
            )))?;
        let own = self.key_configs_of_gateway(&asked).await?;
        key_config::agree(&mut candidates, &own, KeyView::Gateway).map_err(Attempt::Mismatch)?;
        Ok(asked)
    }

    /// What mirrors show: as it was when they were last asked. They are asked now only if they
    /// never were, or if the relay shows everybody that their word is out of date and the time for
    /// it has come.
    async fn mirrored_key_configs(
        &mut self,
        shown: &[Vec<u8>],
        now: u64,
    ) -> Result<Option<Vec<Vec<u8>>>, Attempt> {
        if self.endpoints.ohttp_key_mirrors.is_empty() {
            return Ok(None);
        }
        let is_stale = self.views.is_stale(now);
        if let Some(known) = self.views.keys.used() {
            if known.iter().any(|config| shown.contains(config)) {
                return Ok(Some(known.clone()));
            }
            if is_stale {
                // Who was away for days cannot be made to ask, nor wait.
            } else if let Some(from_ms) = self.views.keys.next_ms() {
                return Err(waiting(from_ms, now));
            } else {
                let pace = &self.pace;
                let due = self
                    .views
                    .bring_forward(now, pace)
                    .and_then(|()| self.views.is_due(now, pace))
                    .map_err(Attempt::Failed)?;
                if !due {
                    return Err(waiting(self.views.due_ms(), now));
                }
            }
        }
        let asked = self.ask_mirrors(shown).await;
        let kept = match &asked {
            Ok(mirrored) if is_stale => {
                self.views.keys = Agreed::of(mirrored.clone());
                self.views.compared(now, &self.pace)
            }
            Ok(mirrored) => self
                .views
                .keys
                .take(mirrored.clone(), now, &self.pace)
                .and_then(|()| self.views.compared(now, &self.pace)),
            Err(_) => self.views.failed(now, &self.pace),
        };
        kept.map_err(Attempt::Failed)?;
        asked?;
        self.views.keys.adopt(now, &self.pace);
        match self.views.keys.next_ms() {
            Some(from_ms) => Err(waiting(from_ms, now)),
            None => Ok(self.views.keys.used().cloned()),
        }
    }

    /// The configurations that are in the lists of all mirrors, if the relay shows one of them.
    async fn ask_mirrors(&self, shown: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Attempt> {
        let mut all: Option<Vec<Vec<u8>>> = None;
        for mirror in &self.endpoints.ohttp_key_mirrors {
            let list = self.key_configs_at(&self.to_mirrors, mirror).await?;
            match &mut all {
                None => all = Some(list),
                Some(all) => {
                    key_config::agree(all, &list, KeyView::Mirror).map_err(Attempt::Mismatch)?;
                }
            }
        }
        let all = all.unwrap_or_default();
        if all.iter().any(|config| shown.contains(config)) {
            Ok(all)
        } else {
            Err(Attempt::Mismatch(KeyView::Mirror))
        }
    }

    /// The relay is asked by the connection of all requests: it knows nothing but the address.
    async fn key_configs_of_relay(&self) -> Result<Vec<Vec<u8>>, Attempt> {
        self.key_configs_at(&self.http, &self.endpoints.ohttp_keys)
            .await
    }

    /// Key configurations, fetched in the open.
    async fn key_configs_at(
        &self,
        http: &reqwest::Client,
        url: &str,
    ) -> Result<Vec<Vec<u8>>, Attempt> {
        let unusable = || {
            let url = trust::without_secrets(url);
            again(format!("{url} shows no usable key configurations"))
        };
        let list = document(http, url, configs::MEDIA_TYPE)
            .await
            .map_err(again)?;
        configs::usable(&list).map_err(|error| match error {
            Unusable::Malformed => unusable(),
            Unusable::TooMany => too_many_keys(),
        })
    }

    /// The directory of the service, as the relay mirrors it.
    pub(crate) async fn directory_of_relay(&self) -> Result<Directory, Error> {
        directory_at(&self.http, &self.endpoints.ohttp_keys).await
    }

    /// The same as every other mirror shows it.
    pub(crate) async fn directories_of_mirrors(&self) -> Result<Vec<Directory>, Error> {
        let mut all = Vec::new();
        for mirror in &self.endpoints.ohttp_key_mirrors {
            all.push(directory_at(&self.to_mirrors, mirror).await?);
        }
        Ok(all)
    }

    /// Compares what relay and mirrors show; what is new is used later.
    pub(crate) async fn compare_keys(&mut self) -> Result<(), Error> {
        if self.endpoints.ohttp_key_mirrors.is_empty() {
            return Ok(());
        }
        let now = self.time.now_unix_ms();
        let mirrored = match self.key_configs_of_relay().await {
            Ok(shown) => self.ask_mirrors(&shown).await,
            Err(attempt) => Err(attempt),
        };
        let mirrored = mirrored.map_err(|attempt| match attempt {
            Attempt::Failed(error) => error,
            Attempt::Mismatch(view) => Error::KeyConfigMismatch(view),
            _ => NoAnswer::from("the key configurations cannot be fetched").into(),
        })?;
        self.views.keys.take(mirrored, now, &self.pace)
    }

    pub(crate) fn take_directory(&mut self, directory: Directory) -> Result<(), Error> {
        let now = self.time.now_unix_ms();
        self.views.directory.take(directory, now, &self.pace)
    }

    pub(crate) fn adopt_directory(&mut self) {
        let now = self.time.now_unix_ms();
        self.views.directory.adopt(now, &self.pace);
    }

    pub(crate) fn comparison_is_due(&mut self) -> Result<bool, Error> {
        let now = self.time.now_unix_ms();
        self.views.is_due(now, &self.pace)
    }

    pub(crate) fn comparison_is_done(&mut self) -> Result<(), Error> {
        let now = self.time.now_unix_ms();
        self.views.compared(now, &self.pace)
    }

    pub(crate) fn comparison_failed(&mut self) -> Result<(), Error> {
        let now = self.time.now_unix_ms();
        self.views.failed(now, &self.pace)
    }

    pub(crate) fn bring_comparison_forward(&mut self) -> Result<(), Error> {
        let now = self.time.now_unix_ms();
        self.views.bring_forward(now, &self.pace)
    }

    /// What the gateway says of itself: the one request that goes out under a key before the views
    /// of it were compared. It says nothing but that somebody is there.
    async fn key_configs_of_gateway(&mut self, config: &[u8]) -> Result<Vec<Vec<u8>>, Attempt> {
        let (scheme, authority) = self.endpoints.ds_origin().map_err(Attempt::Failed)?;
        let date = date_of(self.time.now_unix_ms());
        let message = inner("GET", &scheme, &authority, configs::PATH, &date);
        let list = self
            .attempt_under(config, (Duration::ZERO, MAX_PROBLEM), &message)
            .await?;
        configs::usable(&list).map_err(|error| match error {
            Unusable::Malformed => again("the gateway's key configurations are malformed"),
            Unusable::TooMany => too_many_keys(),
        })
    }
}

fn too_many_keys() -> Attempt {
    Attempt::Failed(Error::Protocol(
        "more OHTTP keys are shown than a rotation needs",
    ))
}

/// There is no key until mirrors were asked, or until what they said is used: at a time of this
/// client's own.
fn waiting(until_ms: u64, now_ms: u64) -> Attempt {
    Attempt::Again(NoAnswer {
        reason: "the gateway has other keys, which are compared with others' views of them first"
            .to_owned(),
        retry_after_s: Some(until_ms.saturating_sub(now_ms).div_ceil(1000)),
    })
}

/// What is shown in the open at `url`, if it is of this type.
/// # Errors
/// Why there is none, in words.
async fn document(http: &reqwest::Client, url: &str, media_type: &str) -> Result<Vec<u8>, String> {
    let answer = http.get(url).send().await;
    let answer = answer.map_err(|error| unreached("who shows keys and directory", url, &error))?;
    let status = answer.status();
    let is_ours = answer
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().eq_ignore_ascii_case(media_type.as_bytes()));
    let unusable = || {
        let url = trust::without_secrets(url);
        format!("{url} shows nothing that can be used (status {status})")
    };
    if status.as_u16() != 200 || !is_ours {
        return Err(unusable());
    }
    limited_body(answer, MAX_PROBLEM).await.ok_or_else(unusable)
}

async fn directory_at(http: &reqwest::Client, keys_url: &str) -> Result<Directory, Error> {
    let document = document(http, &directory::beside_keys(keys_url), JSON).await;
    directory::parse(&document.map_err(NoAnswer::from)?)
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

/// In binary HTTP, padded.
fn encoded(message: &Message) -> Result<Vec<u8>, Error> {
    let mut encoded = Vec::new();
    message
        .write_bhttp(Mode::KnownLength, &mut encoded)
        .map_err(|_| Error::Protocol("a request cannot be encoded"))?;
    encoded.resize(bucket(encoded.len()), 0);
    Ok(encoded)
}

fn encapsulate(config: &[u8], message: &Message) -> Result<(Vec<u8>, ResponseOpener), Error> {
    let encoded = encoded(message)?;
    PublicKey::of_config(config)
        .and_then(|key| whole::seal(&key, Aead::Aes128Gcm, &encoded).ok())
        .ok_or(Error::Protocol("a request cannot be encapsulated"))
}

/// When to come back, in seconds (RFC 9110 §10.2.3; the form with a date is not read).
pub(crate) fn retry_after(answer: &reqwest::Response) -> Option<u64> {
    let value = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    value.parse().ok().map(in_steps)
}

/// A body as far as it was read.
enum Body {
    Whole(Vec<u8>),
    Broken,
    TooLong,
}

async fn bounded_body(response: reqwest::Response, limit: usize) -> Body {
    let body = http::Response::from(response).into_body();
    match Limited::new(body, limit).collect().await {
        Ok(read) => Body::Whole(read.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => Body::TooLong,
        Err(_) => Body::Broken,
    }
}

/// `None`: it broke off, or is longer.
pub(crate) async fn limited_body(response: reqwest::Response, limit: usize) -> Option<Vec<u8>> {
    match bounded_body(response, limit).await {
        Body::Whole(body) => Some(body),
        Body::Broken | Body::TooLong => None,
    }
}

/// What relay or gateway say outside the encapsulation.
fn outer_refusal(status: u16, body: &[u8], retry_after_s: Option<u64>) -> Attempt {
    let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let kind = problem
        .as_ref()
        .and_then(|problem| problem.get("type")?.as_str());
    match (status, kind) {
        (_, Some(OHTTP_KEY_PROBLEM)) => Attempt::NewKeys,
        (408 | 409 | 425 | 429 | 500..=599, _) => Attempt::Again(NoAnswer {
            reason: format!("relay or gateway cannot answer now (status {status})"),
            retry_after_s,
        }),
        // What is no fault of ours was cut or changed on the way there, or its answer on the way
        // back.
        (400, None | Some("about:blank")) => again("the request was damaged"),
        _ => Attempt::Refused("relay or gateway refused the request"),
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
        challenge: text(b"www-authenticate").is_some_and(|value| value.starts_with("PrivateToken")),
        retry_after_s: text(b"retry-after")
            .and_then(|seconds| seconds.parse().ok())
            .map(in_steps),
        date_ms: text(b"date").and_then(http_date::parse),
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
    let later = Attempt::Again(NoAnswer {
        reason: format!(
            "the delivery service cannot answer now (status {})",
            answer.status
        ),
        retry_after_s: answer.retry_after_s,
    });
    if let Some(problem) = kind.strip_prefix(push::PROBLEM_PREFIX)
        && answer.status < 500
    {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        let known = problem.len() <= 64 && problem.bytes().all(is_name);
        return Err(Attempt::Failed(Error::Push(PushRefusal {
            problem: if known { problem } else { "unknown" }.to_owned(),
            last: document.get("last").and_then(serde_json::Value::as_u64),
            retry_after_s: answer.retry_after_s,
        })));
    }
    let Some(problem) = ProblemType::from_uri(kind) else {
        return Err(match answer.status {
            408 | 425 | 429 | 500..=599 => later,
            _ => Attempt::Failed(Error::Protocol("the gateway refused the request")),
        });
    };
    match problem {
        // The same request again is safe: what had an effect is answered from its record.
        ProblemType::Unavailable | ProblemType::Internal => Err(later),
        ProblemType::Conflict => Err(again("concurrent requests were first")),
        _ => {
            let number = |member: &str| document.get(member).and_then(serde_json::Value::as_u64);
            Err(Attempt::Failed(Error::Refused(Refusal {
                problem,
                epoch: number("epoch"),
                now_ms: number("now_ms"),
                retry_after_s: answer.retry_after_s,
                token_helps: answer.challenge,
            })))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
