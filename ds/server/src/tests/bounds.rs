use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use blind_rsa_signatures::{Deterministic, KeyPair, PSS, Sha384, reexports::rand};
use crypto::journal::verify_head;
use crypto::schedule::{JournalKey, StateKey};
use crypto::secret::Secret;
use crypto::service_keys::ServiceKeys;
use crypto::sign::SignatureKeyPair;
use ds_domain::engine::{Batch, Engine as _, Found, Read};
use ds_domain::env::Settings;
use ds_domain::journal::head::StoredHead;
use ds_domain::journal::{Head, Journal};
use ds_domain::memory::Memory;
use ds_domain::tokens::{Challenge, IssuerKeys};
use ds_domain::view::View;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use privacypass::TokenType;
use privacypass::auth::authenticate::TokenChallenge;
use privacypass::auth::authorize::build_authorization_header;
use privacypass::public_tokens::{TokenRequest, TokenResponse};
use privacypass::{Deserialize as _, Serialize as _};
use protocol::codec::opaque;
use protocol::directory::StoreState;
use protocol::ids::{
    Day, GroupId, Minute, PoolId, Position, RotationEpoch, SegmentId, Week, WelcomeId,
};
use protocol::journal::{Event, ReadJournalRequest, ReadJournalResponse};
use protocol::key_packages::{
    ClaimKeyPackagesRequest, ClaimKeyPackagesResponse, KeyPackageSetUpload,
    PublishKeyPackagesRequest,
};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;
use protocol::request::{REQUEST_LABEL, RequestTbs, Sender, SignedRequest};
use protocol::welcome::FetchWelcomeRequest;
use protocol::{REQUEST_MEDIA_TYPE, WIRE_VERSION, Wire};
use service::clock::Clock;
use service::gateway_auth::GatewaySecret;
use service::shutdown::{Shutdown, ShutdownTrigger};
use tower::ServiceExt as _;

use crate::limits::LoadLimits;
use crate::tokens::AllowanceLimits;
use crate::{Allowed, Server, ServerSettings, router};

static ISSUER: LazyLock<KeyPair<Sha384, PSS, Deterministic>> =
    LazyLock::new(|| KeyPair::generate(&mut rand::rng(), 2048).unwrap());

/// 2027-01-15, at noon.
const NOON_MS: u64 = 1_800_014_400_000;

fn token() -> HeaderValue {
    let origins = ["ds.example".to_owned()];
    let challenge = TokenChallenge::new(TokenType::Public, "issuer.example", None, &origins);
    let (request, state) =
        TokenRequest::new(&mut rand::rng(), ISSUER.pk.clone(), &challenge).unwrap();
    let request = request.tls_serialize_detached().unwrap();
    let signature = ISSUER.sk.blind_sign(&request[3..]).unwrap();
    let response = TokenResponse::tls_deserialize_exact(&signature.0).unwrap();
    let (_, value) = build_authorization_header(&response.issue_token(&state).unwrap()).unwrap();
    HeaderValue::from_bytes(value.as_bytes()).unwrap()
}

/// Two clocks: one that is set, and one that nobody sets.
#[derive(Debug)]
struct Watch {
    wall: AtomicU64,
    steady: AtomicU64,
}

impl Watch {
    fn jump(&self, ms: u64) {
        self.wall.fetch_add(ms, Ordering::SeqCst);
    }

    fn go_on(&self, ms: u64) {
        self.jump(ms);
        self.steady.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Watch {
    fn now_unix_ms(&self) -> u64 {
        self.wall.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        self.steady.load(Ordering::SeqCst)
    }
}

struct Running {
    clock: Arc<Watch>,
    server: Arc<Server>,
    memory: Arc<Memory>,
    router: Router,
    secret: GatewaySecret,
    _directory: tempfile::TempDir,
    _ends: ShutdownTrigger,
}

fn running(segment_reads: u32) -> Running {
    running_with(segment_reads, 3)
}

fn running_with(segment_reads: u32, concurrent_waits: usize) -> Running {
    running_on(Arc::default(), segment_reads, concurrent_waits)
}

/// One of several nodes.
fn running_on(memory: Arc<Memory>, segment_reads: u32, concurrent_waits: usize) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    let secret = GatewaySecret::load_or_create(&path).unwrap();
    let limits = |capacity| AllowanceLimits {
        capacity,
        refill_per_minute: 1,
        max_buckets: 1000,
        nodes: 1,
    };
    let clock = Arc::new(Watch {
        wall: NOON_MS.into(),
        steady: 5.into(),
    });
    let (ends, shutdown) = Shutdown::channel();
    let spki = ISSUER.pk.to_spki().unwrap();
    let keys = ServiceKeys::from_file(&[&[1][..], &[3; 32], &[1], &[4; 32]].concat());
    let server = Arc::new(Server::new(
        memory.clone(),
        keys.unwrap(),
        clock.clone(),
        shutdown,
        IssuerKeys::from_directory_keys([spki]).unwrap(),
        ServerSettings {
            decisions: Settings::default(),
            domain: "ds.example".to_owned(),
            issuer_name: "issuer.example".to_owned(),
            challenge: Challenge::new("issuer.example", "ds.example").unwrap(),
            allowed: Allowed {
                leaf: limits(100),
                group: limits(100),
                segment: limits(segment_reads),
                owner: limits(100),
            },
            load: LoadLimits {
                concurrent_requests: 4,
                concurrent_reads: 1,
                concurrent_waits,
                requests_per_second: 0,
                nodes: 1,
            },
            look_again_ms: None,
            max_request_bytes: 2 * 1024 * 1024,
            store: StoreState {
                id: "store".to_owned(),
                generation: 0,
            },
        },
    ));
    Running {
        router: router(Arc::clone(&server), GatewaySecret::load(&path).unwrap()),
        clock,
        server,
        memory,
        secret,
        _directory: directory,
        _ends: ends,
    }
}

impl Running {
    async fn post(
        &self,
        operation: Number,
        body: Vec<u8>,
        tokens: &[HeaderValue],
    ) -> (StatusCode, Vec<u8>) {
        let mut request = Request::post(operation.path())
            .header(header::CONTENT_TYPE, REQUEST_MEDIA_TYPE)
            .header(
                service::gateway_auth::GATEWAY_AUTHORIZATION,
                self.secret.header_value(),
            );
        for token in tokens {
            request = request.header(header::AUTHORIZATION, token);
        }
        let request = request.body(Body::from(body)).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, body.to_vec())
    }

    async fn read(&self, known: u64, wait_ms: u32) -> Result<ReadJournalResponse, StatusCode> {
        self.read_of(segment(), (known, wait_ms), &[]).await
    }

    async fn read_of(
        &self,
        segment: SegmentId,
        (known, wait_ms): (u64, u32),
        tokens: &[HeaderValue],
    ) -> Result<ReadJournalResponse, StatusCode> {
        let request = ReadJournalRequest {
            version: WIRE_VERSION,
            segment,
            from: Position(0),
            known: Position(known),
            wait_ms,
        };
        let body = request.encode();
        let (status, body) = self.post(Number::ReadJournal, body, tokens).await;
        if status == StatusCode::OK {
            Ok(Wire::decode(&body).unwrap())
        } else {
            Err(status)
        }
    }

    async fn fetch(&self, id: WelcomeId) -> StatusCode {
        let request = FetchWelcomeRequest {
            version: WIRE_VERSION,
            id,
        };
        let fetched = self.post(Number::FetchWelcome, request.encode(), &[]);
        fetched.await.0
    }

    async fn begin_segment(&self) {
        let mut rng = crate::server::fresh_rng().unwrap();
        let mut env = self.server.env(&mut rng);
        let tag = JournalKey::new([3; 32]).tag_key();
        let head = Head::new(segment(), RotationEpoch(0), tag, (30, 2), env.today());
        let (head, _) = Journal::begin(head, &env).into_new(&mut env).unwrap();
        let batch = Batch {
            puts: vec![(head.segment.key(), head.head.into_value())],
            ..Batch::default()
        };
        self.memory.apply(batch).await.unwrap();
    }

    /// What a message does to a segment, and the wake-up after it.
    async fn append(&self, content: u8) {
        let mut rng = crate::server::fresh_rng().unwrap();
        let mut env = self.server.env(&mut rng);
        let row = env.rows().segment(&segment());
        let needed = Read::Row(row.key());
        let found = self.memory.read(vec![needed.clone()]).await.unwrap();
        let mut view = View::default();
        view.add(needed, found.into_iter().next().unwrap());
        let stored = StoredHead::read(&view, &segment(), &env).unwrap().unwrap();
        let mut journal = Journal::of(stored);
        let event = Event::Message(opaque(vec![content]));
        journal
            .append(&JournalKey::new([3; 32]), event, &mut env)
            .unwrap();
        let (head, entries) = journal.into_next(&mut env).unwrap();
        let mut batch = Batch::default();
        head.lower(&mut batch);
        for entry in entries {
            entry.puts(&mut batch);
        }
        self.memory.apply(batch).await.unwrap();
        self.server.waits.wake(&[row]);
    }
}

fn segment() -> SegmentId {
    StateKey::new([1; 32]).segment(&GroupId([2; 16]), RotationEpoch(0))
}

fn signed(operation: Number, nonce: u8, body: &impl Wire) -> Vec<u8> {
    let key = SignatureKeyPair::from_seed(&Secret::new([9; 32]));
    let sender = Sender::Key(opaque(key.public()));
    let body = opaque(body.encode());
    let (minute, nonce) = (Minute::of(NOON_MS), [nonce; 16]);
    let tbs = RequestTbs {
        version: WIRE_VERSION,
        operation,
        minute,
        nonce,
        sender: &sender,
        body: &body,
    };
    let signature = key.sign(REQUEST_LABEL, &tbs.tls_serialize_detached().unwrap());
    SignedRequest {
        version: WIRE_VERSION,
        operation,
        minute,
        nonce,
        sender,
        body,
        signature: opaque(signature),
    }
    .encode()
}

fn problem(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_carried_out_once_for_its_token_and_answered_alike_again() {
    let running = running(10);
    let publish = signed(Number::PublishKeyPackages, 1, &publication());
    let (status, body) = running
        .post(Number::PublishKeyPackages, publish.clone(), &[])
        .await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(problem(&body).contains(ProblemType::TokenRequired.uri()));
    let paid = [token()];
    let (status, _) = running
        .post(Number::PublishKeyPackages, publish.clone(), &paid)
        .await;
    assert_eq!(status, StatusCode::OK);

    let claim = ClaimKeyPackagesRequest {
        pool: PoolId([7; 32]),
        ciphersuite: 1,
        sets: 1,
    };
    let first = signed(Number::ClaimKeyPackages, 2, &claim);
    // A token that has paid before.
    let (status, body) = running
        .post(Number::ClaimKeyPackages, first.clone(), &paid)
        .await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(problem(&body).contains(ProblemType::TokenRejected.uri()));
    let own = [token()];
    let (status, body) = running
        .post(Number::ClaimKeyPackages, first.clone(), &own)
        .await;
    assert_eq!(status, StatusCode::OK);
    let answer = ClaimKeyPackagesResponse::decode(&body).unwrap();
    assert_eq!(answer.sets[0].as_slice(), [1; 8]);
    let rows = running.memory.snapshot();
    for tokens in [&own[..], &[]] {
        let (status, again) = running
            .post(Number::ClaimKeyPackages, first.clone(), tokens)
            .await;
        assert_eq!((status, &again), (StatusCode::OK, &body));
    }
    assert_eq!(running.memory.snapshot(), rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_ends_when_its_segment_goes_on_and_not_before() {
    let running = running(10);
    running.begin_segment().await;
    running.append(1).await;
    let read = running.read(0, 30_000).await.unwrap();
    assert_eq!((read.entries.len(), read.head.next), (1, Position(1)));
    let key = running.server.keys.journal_signing().public();
    verify_head(&key, &segment(), &read.head).unwrap();

    let poll = running.read(1, 30_000);
    tokio::pin!(poll);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut poll).await;
    assert!(early.is_err());
    running.append(2).await;
    let read = tokio::time::timeout(Duration::from_secs(20), poll).await;
    assert_eq!(read.unwrap().unwrap().head.next, Position(2));
    // Nothing comes: it ends by itself.
    assert_eq!(running.read(2, 50).await.unwrap().head.next, Position(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_leave_nothing_behind_and_have_an_allowance_together() {
    let running = running(3);
    running.begin_segment().await;
    let rows = running.memory.snapshot();
    for _ in 0..3 {
        running.read(0, 0).await.unwrap();
    }
    assert_eq!(
        running.read(0, 0).await.unwrap_err(),
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(running.memory.snapshot(), rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_wait_take_no_place_from_others_and_who_finds_none_is_answered_at_once() {
    // The node's places, then the segment's: it has two leaves.
    for (concurrent_waits, waiting) in [(3, 3), (100, 4)] {
        let running = running_with(100, concurrent_waits);
        running.begin_segment().await;
        let polls: Vec<_> = (0..waiting).map(|_| running.read(0, 30_000)).collect();
        let mut polls = Box::pin(futures_of(polls));
        let waits = tokio::time::timeout(Duration::from_millis(300), &mut polls).await;
        assert!(waits.is_err(), "all of them wait");
        running.read(0, 0).await.unwrap();
        let one_more = tokio::time::timeout(Duration::from_secs(10), running.read(0, 30_000)).await;
        assert!(one_more.unwrap().unwrap().entries.is_empty());
        let claim = ClaimKeyPackagesRequest {
            pool: PoolId([7; 32]),
            ciphersuite: 1,
            sets: 1,
        };
        let claim = signed(Number::ClaimKeyPackages, 1, &claim);
        let (status, _) = running
            .post(Number::ClaimKeyPackages, claim, &[token()])
            .await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        running.append(1).await;
        let end = tokio::time::timeout(Duration::from_secs(20), polls).await;
        assert!(end.is_ok(), "news ends every wait");
        // Their places are free again.
        let poll = running.read(1, 30_000);
        assert!(
            tokio::time::timeout(Duration::from_millis(300), poll)
                .await
                .is_err()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_pays_for_one_read_when_the_readers_allowance_is_used_up() {
    let running = running(2);
    running.begin_segment().await;
    let read = async |tokens: &[HeaderValue]| {
        let read = running.read_of(segment(), (0, 0), tokens).await;
        read.map(drop)
    };
    let paid = [token()];
    // Not spent where nothing has to be paid.
    assert_eq!(read(&paid).await, Ok(()));
    assert_eq!(read(&[]).await, Ok(()));
    assert_eq!(read(&[]).await, Err(StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(read(&paid).await, Ok(()));
    assert_eq!(read(&paid).await, Err(StatusCode::UNAUTHORIZED));
    // For nobody else's.
    assert_eq!(read(&[]).await, Err(StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(read(&[token()]).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_looks_for_what_is_not_there_takes_nothing_from_readers() {
    let running = running(3);
    running.begin_segment().await;
    for other in 1..=3 {
        let read = running.read_of(SegmentId([other; 32]), (0, 0), &[]).await;
        assert_eq!(read.unwrap_err(), StatusCode::NOT_FOUND);
    }
    let read = running.read_of(SegmentId([4; 32]), (0, 0), &[]).await;
    assert_eq!(read.unwrap_err(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        running.fetch(WelcomeId([4; 32])).await,
        StatusCode::TOO_MANY_REQUESTS
    );
    running.read(0, 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readers_of_each_record_have_an_allowance_by_its_bytes() {
    let running = running(4);
    let last_day = Day((Day::of(NOON_MS).0 + 98).div_ceil(14) * 14);
    let rows = ds_domain::rows::Rows(running.server.keys.rows());
    for (id, len) in [([1; 32], 100), ([2; 32], 100), ([3; 32], 40_000)] {
        let key = rows.welcome(&WelcomeId(id)).key(last_day);
        let batch = Batch {
            puts: vec![(key, vec![0; len])],
            ..Batch::default()
        };
        running.memory.apply(batch).await.unwrap();
    }
    for _ in 0..4 {
        assert_eq!(running.fetch(WelcomeId([1; 32])).await, StatusCode::OK);
    }
    assert_eq!(
        running.fetch(WelcomeId([1; 32])).await,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(running.fetch(WelcomeId([2; 32])).await, StatusCode::OK);
    // 40,000 bytes are three times 16 KiB.
    assert_eq!(running.fetch(WelcomeId([3; 32])).await, StatusCode::OK);
    assert_eq!(
        running.fetch(WelcomeId([3; 32])).await,
        StatusCode::TOO_MANY_REQUESTS
    );
}

fn publication() -> PublishKeyPackagesRequest {
    PublishKeyPackagesRequest {
        pool: PoolId([7; 32]),
        sets: vec![KeyPackageSetUpload {
            ciphersuite: 1,
            expiry: Week(Week::of(NOON_MS).0 + 3),
            sealed: opaque(vec![1; 8]),
        }],
    }
}

const YEAR_MS: u64 = 365 * 86_400_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_has_jumped_ahead_writes_nothing_and_everything_goes_on_when_it_is_back() {
    let running = running(10);
    running.begin_segment().await;
    let rows = running.memory.snapshot();
    let publish = signed(Number::PublishKeyPackages, 1, &publication());
    let paid = [token()];
    let published = async || {
        let posted = running.post(Number::PublishKeyPackages, publish.clone(), &paid);
        posted.await.0
    };
    running.clock.jump(YEAR_MS);
    assert_eq!(published().await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(running.memory.snapshot(), rows);
    running.read(0, 0).await.unwrap();
    running.clock.jump(0u64.wrapping_sub(YEAR_MS));
    assert_eq!(published().await, StatusCode::OK);
}

/// As the hourly upkeep does.
async fn looks(running: &Running) {
    crate::run::expire_steadily(&running.server).await.unwrap();
}

#[tokio::test]
async fn of_several_nodes_one_whose_clock_is_wrong_and_is_believed_deletes_nothing_for_the_others()
{
    const DAY_MS: u64 = 86_400_000;
    let right = running(10);
    let wrong = running_on(right.memory.clone(), 10, 10);
    let rows = ds_domain::rows::Rows(right.server.keys.rows());
    let key = rows
        .welcome(&WelcomeId([1; 32]))
        .key(Day(Day::of(NOON_MS).0 + 10));
    let batch = Batch {
        puts: vec![(key.clone(), vec![1])],
        ..Batch::default()
    };
    right.memory.apply(batch).await.unwrap();
    let is_there = async || {
        let found = right.memory.read(vec![Read::Row(key.clone())]).await;
        found.unwrap() == [Found::Row(Some(vec![1]))]
    };
    looks(&right).await;
    looks(&wrong).await;
    wrong.clock.jump(YEAR_MS);
    looks(&wrong).await;
    // It has said so for a day.
    for node in [&right, &wrong] {
        node.clock.go_on(DAY_MS);
    }
    for _ in 0..48 {
        looks(&wrong).await;
        looks(&right).await;
        assert!(wrong.server.now().may_write());
        assert!(is_there().await);
    }
    // Its row does expire.
    for _ in 0..11 {
        right.clock.go_on(DAY_MS);
        looks(&right).await;
    }
    assert!(!is_there().await);
}

async fn futures_of<F: Future>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_the_gateway_is_answered() {
    let running = running(10);
    for operation in Number::ALL {
        let request = Request::post(operation.path())
            .header(header::CONTENT_TYPE, REQUEST_MEDIA_TYPE)
            .body(Body::empty())
            .unwrap();
        let answer = running.router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{operation:?}");
        // And each operation has its line in the table.
        let (status, _) = running.post(*operation, vec![0, 1, 0], &[]).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{operation:?}");
    }
}
