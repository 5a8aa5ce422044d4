//! A service in this process for tests of the SDK: the decisions of the domain on a map, without
//! sockets. Several clients share one; its clock and what it answers are the test's. What it sees
//! can be kept.

pub(crate) mod blobs;
mod feed;
mod homes;
pub(crate) mod recording;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crypto::service_keys::ServiceKeys;
use crypto::sign::Scheme;
use ds_domain::env::{Env, Settings};
use ds_domain::execution::{self, Execution, Failure, Input, Step};
use ds_domain::group::laid_open::lay_open;
use ds_domain::memory::MemoryEngine;
use ds_domain::operation::{Operation, UnsignedRead};
use ds_domain::refusal::{Refusal as Refused, Stop};
use ds_domain::table::{WithOperation, Work, with_operation};
use ds_domain::tokens::VerifiedToken;
pub(crate) use homes::{
    Homes, befriend, database, link, lose_state_of_team, pass, settle, team, texts,
};
use mimimi_client::in_process::{Answer, FeedView, Service};
use mimimi_client::{Client, Clock, Endpoints, Error, Options, Profile, Refusal};
use protocol::Wire;
use protocol::directory::{AcceptedIssuer, Directory, Prices, StoreState};
use protocol::ids::SegmentId;
use protocol::journal::{ReadJournalRequest, ReadJournalResponse};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;
use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use recording::{Exchange, Who, Written};

/// 2027-01-15, at noon.
const NOON_MS: u64 = 1_800_014_400_000;

/// A clock of the test's.
#[derive(Clone)]
pub(crate) struct TestClock(pub(crate) Arc<AtomicU64>);

impl TestClock {
    pub(crate) fn advance(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.0.fetch_add(ms, Ordering::Relaxed);
    }

    pub(crate) fn set_back(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.0.fetch_sub(ms, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now_unix_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Inner {
    engine: MemoryEngine,
    rng: ChaCha12Rng,
    tokens: HashMap<Vec<u8>, u16>,
    /// Requests whose answers are lost, by operation.
    lost: Vec<Number>,
    /// Requests that do not come.
    unsent: Vec<Number>,
    requests: Vec<Number>,
    chunks: blobs::Chunks,
    /// Segments that the service does not have.
    gone: Vec<SegmentId>,
    /// What is not answered for now.
    held: Option<Number>,
    /// What is answered without being done.
    intercept: Option<Intercept>,
    /// What the service says otherwise than it is.
    alter: Option<Alter>,
    /// What was seen, if it is kept.
    recording: Option<Vec<Exchange>>,
}

/// Answers in the place of the service, or does not.
pub(crate) type Intercept = Box<dyn FnMut(Number, &[u8]) -> Option<Result<Vec<u8>, Error>> + Send>;

/// Alters an answer.
pub(crate) type Alter = Box<dyn Fn(Number, Vec<u8>) -> Vec<u8> + Send>;

/// The service.
pub(crate) struct InProcess {
    keys: ServiceKeys,
    settings: Settings,
    pub(crate) clock: TestClock,
    /// Of the store, as ends of journals and as the directory say it.
    pub(crate) generations: Generations,
    inner: Mutex<Inner>,
    feed: Mutex<feed::Shown>,
}

/// See [`InProcess::generations`].
#[derive(Default)]
pub(crate) struct Generations {
    pub(crate) signed: AtomicU64,
    pub(crate) shown: AtomicU64,
    /// The directory shows another key for journals.
    pub(crate) other_key: AtomicBool,
}

fn refused(failure: Failure) -> Error {
    match failure {
        Failure::Refused(refusal) => Error::Refused(Refusal {
            problem: refusal.problem(),
            epoch: match refusal {
                Refused::WrongEpoch { current } | Refused::Behind { current } => Some(current.0),
                _ => None,
            },
            now_ms: match refusal {
                Refused::StaleTimestamp { now_ms } => Some(now_ms),
                _ => None,
            },
            retry_after_s: None,
            token_helps: false,
        }),
        Failure::Clock => panic!("there is no clock here that nobody believes"),
        Failure::Engine(what) => panic!("{what}"),
        Failure::Internal(what) => panic!("{what}"),
    }
}

/// As the service refuses.
pub(crate) fn refusal(problem: ProblemType) -> Error {
    refused(Failure::Refused(problem.into()))
}

/// As a service refuses whose clock shows this.
pub(crate) fn stale(now_ms: u64) -> Error {
    refused(Failure::Refused(Refused::StaleTimestamp { now_ms }))
}

fn stopped(stop: Stop) -> Error {
    match stop {
        Stop::Refused(refusal) => refused(Failure::Refused(refusal)),
        other => panic!("{other:?}"),
    }
}

impl InProcess {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        // version, storage key, one sender, one generation of queue keys
        let file = [&[1][..], &[3; 32], &[1], &[4; 32]].concat();
        Arc::new(Self {
            keys: ServiceKeys::from_file(&file).unwrap(),
            settings: Settings {
                self_check: true,
                ..Settings::default()
            },
            clock: TestClock(Arc::new(AtomicU64::new(NOON_MS))),
            generations: Generations::default(),
            inner: Mutex::new(Inner {
                engine: MemoryEngine::default(),
                rng: ChaCha12Rng::seed_from_u64(seed),
                tokens: HashMap::new(),
                lost: Vec::new(),
                unsent: Vec::new(),
                requests: Vec::new(),
                chunks: blobs::Chunks::new(),
                gone: Vec::new(),
                held: None,
                intercept: None,
                alter: None,
                recording: None,
            }),
            feed: Mutex::default(),
        })
    }

    /// What it asks for is what it says.
    fn prices(&self) -> Prices {
        let prices = &self.settings.prices;
        Prices {
            create_blob: prices.create_blob,
            reserve_group_id: prices.reserve_group_id,
            publish_key_packages: prices.publish_key_packages,
            key_package_sets_per_token: prices.key_package_sets_per_token,
            claim_key_package: prices.claim_key_package,
            register_handle: prices.register_handle,
            lookup_handle: prices.lookup_handle,
            request_connection: prices.request_connection,
            external_join: prices.external_join,
        }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to the next request of this kind does not come.
    pub(crate) fn lose_answer(&self, operation: Number) {
        self.inner().lost.push(operation);
    }

    /// The next request of this kind does not come.
    pub(crate) fn lose_request(&self, operation: Number) {
        self.inner().unsent.push(operation);
    }

    /// The service has no such segment.
    pub(crate) fn lose_segment(&self, segment: SegmentId) {
        self.inner().gone.push(segment);
    }

    /// From now on requests of this operation are not answered before something else is said.
    pub(crate) fn hold(&self, operation: Option<Number>) {
        self.inner().held = operation;
    }

    /// From now on some requests do not come to the service, and are answered all the same.
    pub(crate) fn intercept(&self, intercept: Option<Intercept>) {
        self.inner().intercept = intercept;
    }

    /// From now on the service says something else than it is.
    pub(crate) fn alter(&self, alter: Option<Alter>) {
        self.inner().alter = alter;
    }

    /// What the store holds.
    pub(crate) fn store(&self) -> MemoryEngine {
        self.inner().engine.clone()
    }

    /// The store is put back from a backup.
    pub(crate) fn put_back(&self, backup: MemoryEngine) {
        self.inner().engine = backup;
    }

    /// Signs the end of a journal as the service would.
    pub(crate) fn sign_end(
        &self,
        segment: &SegmentId,
        end: &protocol::journal::SignedHead,
    ) -> protocol::journal::SignedHead {
        let end = crypto::journal::End {
            generation: end.generation,
            next: end.next,
            chain: end.chain,
        };
        self.keys.journal_signing().sign(segment, end).unwrap()
    }

    /// Drops the messages of days that are over, as the service does by the clock.
    pub(crate) fn drop_messages(&self) {
        let today = protocol::ids::Day::of(self.clock.now_unix_ms());
        let mut inner = self.inner();
        inner
            .engine
            .drop_days(ds_domain::engine::Table::Messages, today.0);
    }

    /// Drops all that has expired, as the service does by the clock.
    pub(crate) fn expire(&self) {
        let today = protocol::ids::Day::of(self.clock.now_unix_ms());
        let tables = ds_domain::engine::Table::ALL.into_iter();
        for table in tables.filter(|table| table.has_days()) {
            self.inner().engine.drop_days(table, today.0);
        }
    }

    /// How many requests of this kind have come.
    pub(crate) fn count(&self, operation: Number) -> usize {
        let inner = self.inner();
        inner.requests.iter().filter(|it| **it == operation).count()
    }

    /// Keeps from now on all that clients of [`InProcess::seen_by`] have it see. Its clock goes on
    /// with each request, so that no two of them are of one moment.
    pub(crate) fn record(&self) {
        self.inner().recording = Some(Vec::new());
    }

    /// What was kept.
    pub(crate) fn recorded(&self) -> Vec<Exchange> {
        self.inner().recording.take().unwrap_or_default()
    }

    /// The service for one client, whose requests are kept under its name.
    pub(crate) fn seen_by(self: &Arc<Self>, who: Who) -> Arc<dyn Service> {
        Arc::new(SeenBy {
            service: Arc::clone(self),
            who,
        })
    }

    fn keep(
        &self,
        author: Who,
        (operation, request, tokens): (Number, &[u8], &[Vec<u8>]),
        answer: &Result<Vec<u8>, Error>,
        rows: Vec<Written>,
    ) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let Some(recording) = &mut inner.recording else {
            return;
        };
        let env = Env {
            now_ms: self.clock.now_unix_ms(),
            rng: &mut inner.rng,
            keys: &self.keys,
            settings: &self.settings,
            blob_room: u64::MAX,
            generation: self.generations.signed.load(Ordering::Relaxed),
        };
        let opened = recording::opens(operation, request).and_then(|(key, next)| {
            let opened = lay_open(&inner.engine, &key, next.as_ref(), &env)?;
            Some((key.group_id, opened))
        });
        recording.push(Exchange {
            author,
            operation,
            request: request.to_vec(),
            tokens: tokens.len(),
            answer: answer.as_ref().ok().cloned(),
            rows,
            opened,
        });
    }

    fn run<O: Operation>(
        &self,
        bytes: &[u8],
        tokens: &[Vec<u8>],
        written: &mut Vec<Written>,
    ) -> Result<Vec<u8>, Error> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let mut verified = Vec::new();
        for token in tokens {
            let next = u16::try_from(inner.tokens.len()).unwrap();
            let number = *inner.tokens.entry(token.clone()).or_insert(next);
            verified.push(VerifiedToken::of_test(number));
        }
        let mut env = Env {
            now_ms: self.clock.now_unix_ms(),
            generation: self.generations.signed.load(Ordering::Relaxed),
            rng: &mut inner.rng,
            keys: &self.keys,
            settings: &self.settings,
            blob_room: u64::MAX,
        };
        let mut execution = Execution::<O>::new(bytes, verified, &env)
            .map_err(|refusal| refused(Failure::Refused(refusal)))?;
        let mut step = execution.start();
        loop {
            let input = match step {
                Step::Read(reads) => Input::Found(inner.engine.read(&reads)),
                Step::Charge(_) => Input::Charged(Ok(())),
                Step::Apply(batch) => {
                    written.extend(batch.puts.iter().map(|(key, value)| Written {
                        table: key.table,
                        name: key.name.clone(),
                        value: value.clone(),
                    }));
                    Input::Applied(inner.engine.apply(batch))
                }
                Step::Done(outcome) => return outcome.answer.map_err(refused),
            };
            step = execution.next(input, &mut env);
        }
    }

    fn read<R: UnsignedRead>(&self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let request = R::Request::decode(bytes)
            .map_err(|_| refused(Failure::Refused(ProblemType::Malformed.into())))?;
        let mut inner = self.inner();
        let inner = &mut *inner;
        let mut env = Env {
            now_ms: self.clock.now_unix_ms(),
            generation: self.generations.signed.load(Ordering::Relaxed),
            rng: &mut inner.rng,
            keys: &self.keys,
            settings: &self.settings,
            blob_room: u64::MAX,
        };
        let answer = execution::read::<R>(&request, &inner.engine, &mut env);
        Ok(answer.map_err(stopped)?.encode())
    }

    fn dispatch(
        &self,
        author: Option<Who>,
        operation: Number,
        bytes: &[u8],
        tokens: &[Vec<u8>],
    ) -> Result<Vec<u8>, Error> {
        let mut written = Vec::new();
        let answer = self.carry_out(operation, bytes, tokens, &mut written);
        if let Some(author) = author {
            self.keep(author, (operation, bytes, tokens), &answer, written);
        }
        answer
    }

    fn carry_out(
        &self,
        operation: Number,
        bytes: &[u8],
        tokens: &[Vec<u8>],
        written: &mut Vec<Written>,
    ) -> Result<Vec<u8>, Error> {
        let carry_out = CarryOut {
            service: self,
            bytes,
            tokens,
            written,
        };
        with_operation(operation, carry_out)
    }

    async fn answer_in_time(
        &self,
        author: Option<Who>,
        operation: Number,
        request: &[u8],
        tokens: &[Vec<u8>],
    ) -> Result<Vec<u8>, Error> {
        {
            let mut inner = self.inner();
            if inner.recording.is_some() {
                let ms = 1 + inner.rng.next_u64() % 400;
                self.clock.advance(Duration::from_millis(ms));
            }
            if let Some(at) = inner.unsent.iter().position(|it| *it == operation) {
                inner.unsent.remove(at);
                return Err(Error::Unreachable("the test has lost it".into()));
            }
            inner.requests.push(operation);
            if let Some(intercept) = &mut inner.intercept
                && let Some(answer) = intercept(operation, request)
            {
                return answer;
            }
        }
        while self.inner().held == Some(operation) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if let Ok(read) = ReadJournalRequest::decode(request)
            && operation == Number::ReadJournal
            && self.inner().gone.contains(&read.segment)
        {
            let problem = ProblemType::UnknownSegment;
            return Err(refused(Failure::Refused(problem.into())));
        }
        let mut answer = self.dispatch(author, operation, request, tokens);
        if operation == Number::ReadJournal
            && let Ok(read) = ReadJournalRequest::decode(request)
        {
            // A long poll.
            let mut waited = 0;
            while waited < read.wait_ms && !is_news(&read, &answer) {
                tokio::time::sleep(Duration::from_millis(10)).await;
                waited += 10;
                answer = self.dispatch(author, operation, request, tokens);
            }
        }
        let mut inner = self.inner();
        if let Some(at) = inner.lost.iter().position(|it| *it == operation) {
            inner.lost.remove(at);
            return Err(Error::Unreachable("the test has lost it".into()));
        }
        match (&inner.alter, answer) {
            (Some(alter), Ok(answer)) => Ok(alter(operation, answer)),
            (_, answer) => answer,
        }
    }
}

/// One request, for the operation that it is of.
struct CarryOut<'a> {
    service: &'a InProcess,
    bytes: &'a [u8],
    tokens: &'a [Vec<u8>],
    written: &'a mut Vec<Written>,
}

impl WithOperation for CarryOut<'_> {
    type Output = Result<Vec<u8>, Error>;

    fn signed<O: Operation>(self, _: Work) -> Self::Output {
        self.service.run::<O>(self.bytes, self.tokens, self.written)
    }

    fn unsigned<R: UnsignedRead>(self) -> Self::Output {
        self.service.read::<R>(self.bytes)
    }

    fn chunks(self, number: Number) -> Self::Output {
        self.service.blob(number, self.bytes)
    }
}

fn is_news(read: &ReadJournalRequest, answer: &Result<Vec<u8>, Error>) -> bool {
    let Ok(bytes) = answer else { return true };
    let answer = ReadJournalResponse::decode(bytes).unwrap();
    answer.closed == 1 || answer.head.next > read.known
}

impl Service for InProcess {
    fn answer<'a>(
        &'a self,
        operation: Number,
        request: &'a [u8],
        tokens: &'a [Vec<u8>],
    ) -> Answer<'a> {
        Box::pin(self.answer_in_time(None, operation, request, tokens))
    }

    fn directory(&self) -> Directory {
        let key =
            |scheme| URL_SAFE_NO_PAD.encode(self.keys.external_sender_public(scheme).unwrap());
        Directory {
            domain: "example.org".into(),
            wire_versions: vec![protocol::WIRE_VERSION],
            ciphersuites: vec![1, 2, 3, 0x4e, 0x4f],
            external_sender_key: key(Scheme::Ed25519),
            external_sender_key_p256: key(Scheme::EcdsaP256),
            former_external_sender_keys: Vec::new(),
            journal_signing_key: match self.generations.other_key.load(Ordering::Relaxed) {
                false => URL_SAFE_NO_PAD.encode(self.keys.journal_signing().public()),
                true => URL_SAFE_NO_PAD.encode([9; 32]),
            },
            issuer: AcceptedIssuer {
                name: "issuer".into(),
                challenge: String::new(),
                token_key_ids: Vec::new(),
                token_keys_not_before_s: Vec::new(),
            },
            prices: self.prices(),
            allowances: None,
            clock_window_ms: 600_000,
            max_request_bytes: 4 * 1024 * 1024,
            store: StoreState {
                id: "store".into(),
                generation: self.generations.shown.load(Ordering::Relaxed),
            },
        }
    }

    fn feed(&self, path: &str, view: FeedView) -> Option<Vec<u8>> {
        self.show(path, view)
    }
}

struct SeenBy {
    service: Arc<InProcess>,
    who: Who,
}

impl Service for SeenBy {
    fn answer<'a>(
        &'a self,
        operation: Number,
        request: &'a [u8],
        tokens: &'a [Vec<u8>],
    ) -> Answer<'a> {
        Box::pin(
            self.service
                .answer_in_time(Some(self.who), operation, request, tokens),
        )
    }

    fn directory(&self) -> Directory {
        self.service.directory()
    }
}
