mod blobs;
mod bounds;
mod directory;
mod expiry;
mod feed;
mod follow;
mod listener;
mod nodes;
mod places;
mod tokens;

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
use ds_domain::engine::{Batch, Engine, Read, Table};
use ds_domain::env::Settings;
use ds_domain::journal::head::StoredHead;
use ds_domain::journal::{Head, Journal};
use ds_domain::memory::Memory;
use ds_domain::store::{Appended, Kept};
use ds_domain::tokens::{Challenge, IssuerKeys};
use ds_domain::view::View;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use privacypass::TokenType;
use privacypass::auth::authenticate::TokenChallenge;
use privacypass::auth::authorize::build_authorization_header;
use privacypass::public_tokens::{TokenRequest, TokenResponse};
use privacypass::{Deserialize as _, Serialize as _};
use protocol::codec::opaque;
use protocol::directory::StoreState;
use protocol::group::{GroupKind, ReserveGroupIdRequest};
use protocol::ids::{GroupId, Minute, PoolId, Position, RotationEpoch, SegmentId, Week};
use protocol::journal::{AnswerSize, Event, ReadJournalRequest, ReadJournalResponse};
use protocol::key_packages::{
    ClaimKeyPackagesRequest, ClaimKeyPackagesResponse, KeyPackageSetUpload,
    PublishKeyPackagesRequest,
};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;
use protocol::request::{REQUEST_LABEL, RequestTbs, Sender, SignedRequest};
use protocol::{REQUEST_MEDIA_TYPE, WIRE_VERSION, Wire};
use service::clock::{Clock, MovedClock, SharedClock};
use service::gateway_auth::GatewaySecret;
use service::shutdown::{Shutdown, ShutdownTrigger};
use tower::ServiceExt as _;

use crate::limits::LoadLimits;
use crate::tokens::AllowanceLimits;
use crate::{Allowed, Blobs, Server, ServerSettings, StreamSettings, router};

static ISSUER: LazyLock<KeyPair<Sha384, PSS, Deterministic>> =
    LazyLock::new(|| KeyPair::generate(&mut rand::rng(), 2048).unwrap());

/// 2027-01-15, at noon.
const NOON_MS: u64 = 1_800_014_400_000;

/// An issuer that the service does not know.
static STRANGER: LazyLock<KeyPair<Sha384, PSS, Deterministic>> =
    LazyLock::new(|| KeyPair::generate(&mut rand::rng(), 2048).unwrap());

fn token() -> HeaderValue {
    token_of(&ISSUER, "ds.example")
}

fn token_of(issuer: &KeyPair<Sha384, PSS, Deterministic>, origin: &str) -> HeaderValue {
    let origins = [origin.to_owned()];
    let challenge = TokenChallenge::new(TokenType::Public, "issuer.example", None, &origins);
    let (request, state) =
        TokenRequest::new(&mut rand::rng(), issuer.pk.clone(), &challenge).unwrap();
    let request = request.tls_serialize_detached().unwrap();
    let signature = issuer.sk.blind_sign(&request[3..]).unwrap();
    let response = TokenResponse::tls_deserialize_exact(&signature.0).unwrap();
    let (_, value) = build_authorization_header(&response.issue_token(&state).unwrap()).unwrap();
    HeaderValue::from_bytes(value.as_bytes()).unwrap()
}

struct Running {
    server: Arc<Server>,
    memory: Arc<Memory>,
    router: Router,
    secret: GatewaySecret,
    clock: Arc<MovedClock>,
    _directory: tempfile::TempDir,
    ends: ShutdownTrigger,
}

/// How a service is put together.
struct Setup {
    engine: Option<Arc<dyn Engine>>,
    /// The engine where there is no other.
    memory: Arc<Memory>,
    /// In place of one that the test moves.
    clock: Option<SharedClock>,
    decisions: Settings,
    segment_reads: u32,
    owner: AllowanceLimits,
    load: LoadLimits,
    look_again_ms: Option<u64>,
    streams: StreamSettings,
    /// In place of blobs in memory.
    blobs: Option<Blobs>,
}

fn limits(capacity: u32) -> AllowanceLimits {
    AllowanceLimits {
        capacity,
        refill_per_minute: 1,
        max_buckets: 1000,
        nodes: 1,
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            engine: None,
            memory: Arc::default(),
            clock: None,
            decisions: Settings::default(),
            segment_reads: 100,
            owner: limits(100),
            load: places(4, 4),
            look_again_ms: None,
            streams: StreamSettings::default(),
            blobs: None,
        }
    }
}

fn places(concurrent_requests: usize, concurrent_reads: usize) -> LoadLimits {
    LoadLimits {
        concurrent_requests,
        concurrent_reads,
        concurrent_waits: 4,
        concurrent_streams: 4,
        requests_per_second: 0,
        nodes: 1,
    }
}

fn accepted_keys() -> IssuerKeys {
    IssuerKeys::from_directory_keys([ISSUER.pk.to_spki().unwrap()]).unwrap()
}

fn running(segment_reads: u32) -> Running {
    running_with(Setup {
        segment_reads,
        ..Setup::default()
    })
}

fn running_with(setup: Setup) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    let secret = GatewaySecret::load_or_create(&path).unwrap();
    let memory = setup.memory;
    let (ends, shutdown) = Shutdown::channel();
    let clock = MovedClock::at(NOON_MS);
    let keys = ServiceKeys::from_file(&[&[1][..], &[3; 32], &[1], &[4; 32]].concat());
    let server = Server::new(
        setup.engine.unwrap_or_else(|| memory.clone()),
        keys.unwrap(),
        setup.clock.unwrap_or_else(|| clock.clone()),
        shutdown,
        accepted_keys(),
        ServerSettings {
            decisions: setup.decisions,
            domain: "ds.example".to_owned(),
            issuer_name: "issuer.example".to_owned(),
            challenge: Challenge::new("issuer.example", "ds.example").unwrap(),
            allowed: Allowed {
                leaf: limits(100),
                group: limits(100),
                segment: limits(setup.segment_reads),
                owner: setup.owner,
            },
            load: setup.load,
            look_again_ms: setup.look_again_ms,
            streams: setup.streams,
            max_request_bytes: 2 * 1024 * 1024,
            store: StoreState {
                id: "store".to_owned(),
                generation: 0,
            },
        },
    );
    let server = Arc::new(match setup.blobs {
        Some(blobs) => server.with_blobs(blobs),
        None => server,
    });
    Running {
        router: router(Arc::clone(&server), GatewaySecret::load(&path).unwrap()),
        server,
        memory,
        secret,
        clock,
        _directory: directory,
        ends,
    }
}

/// An answer.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    async fn read(answer: http::Response<Body>) -> Self {
        Self {
            status: answer.status(),
            headers: answer.headers().clone(),
            body: answer
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .to_vec(),
        }
    }

    fn problem(&self) -> ProblemType {
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        ProblemType::from_uri(document["type"].as_str().unwrap()).unwrap()
    }
}

/// A request that costs a token and has no other condition.
fn reservation(nonce: u8) -> Vec<u8> {
    signed(
        Number::ReserveGroupId,
        nonce,
        &ReserveGroupIdRequest {
            group_id: protocol::ids::GroupId([nonce; 16]),
        },
    )
}

impl Running {
    fn request(&self, operation: Number, body: Vec<u8>, tokens: &[HeaderValue]) -> Request<Body> {
        let mut request = Request::post(operation.path())
            .header(header::CONTENT_TYPE, REQUEST_MEDIA_TYPE)
            .header(
                service::gateway_auth::GATEWAY_AUTHORIZATION,
                self.secret.header_value(),
            );
        for token in tokens {
            request = request.header(header::AUTHORIZATION, token);
        }
        request.body(Body::from(body)).unwrap()
    }

    async fn reply(&self, operation: Number, body: Vec<u8>, tokens: &[HeaderValue]) -> Reply {
        let request = self.request(operation, body, tokens);
        Reply::read(self.router.clone().oneshot(request).await.unwrap()).await
    }

    fn spawn(
        &self,
        operation: Number,
        body: Vec<u8>,
        tokens: &[HeaderValue],
    ) -> tokio::task::JoinHandle<Reply> {
        let (request, router) = (self.request(operation, body, tokens), self.router.clone());
        tokio::spawn(async move { Reply::read(router.oneshot(request).await.unwrap()).await })
    }

    async fn post(
        &self,
        operation: Number,
        body: Vec<u8>,
        tokens: &[HeaderValue],
    ) -> (StatusCode, Vec<u8>) {
        let reply = self.reply(operation, body, tokens).await;
        (reply.status, reply.body)
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
            size: AnswerSize::Segment,
            piece: 0,
        };
        let body = request.encode();
        let (status, body) = self.post(Number::ReadJournal, body, tokens).await;
        if status == StatusCode::OK {
            Ok(Wire::decode(&body).unwrap())
        } else {
            Err(status)
        }
    }

    async fn begin_segment(&self) {
        let mut rng = crate::chance::fresh_rng().unwrap();
        let mut env = self.server.env(&mut rng);
        let tag = JournalKey::new([3; 32]).tag_key();
        let head = Head::new(
            segment(),
            RotationEpoch(0),
            tag,
            (Kept::of(GroupKind::Group, 30), 2),
            env.today(),
        );
        let (head, _) = Journal::begin(head, &env).into_new(&mut env).unwrap();
        let batch = Batch {
            puts: vec![(head.segment.key(), head.head.into_value())],
            ..Batch::default()
        };
        self.server.engine.apply(batch).await.unwrap();
    }

    /// What a message does to a segment, and the wake-up after it.
    async fn append(&self, content: u8) {
        let appended = self.append_events(vec![message(vec![content])], false);
        self.server.tell(vec![appended.await]);
    }

    /// What these do to a segment, of which nobody is told.
    async fn append_events(&self, events: Vec<Event>, closes: bool) -> Appended {
        let mut rng = crate::chance::fresh_rng().unwrap();
        let mut env = self.server.env(&mut rng);
        let row = env.rows().segment(&segment());
        let needed = Read::Row(row.key());
        let found = self.server.engine.read(vec![needed.clone()]).await.unwrap();
        let mut view = View::default();
        view.add(needed, found.into_iter().next().unwrap());
        let stored = StoredHead::read(&view, &segment(), &env).unwrap().unwrap();
        let mut journal = Journal::of(stored);
        for event in events {
            let key = JournalKey::new([3; 32]);
            journal.append(&key, event, &mut env).unwrap();
        }
        if closes {
            journal.close();
        }
        let appended = journal.appended(&env);
        let (head, entries) = journal.into_next(&mut env).unwrap();
        let mut batch = Batch::default();
        head.lower(&mut batch);
        for entry in entries {
            entry.puts(&mut batch);
        }
        self.server.engine.apply(batch).await.unwrap();
        appended
    }
}

fn message(content: Vec<u8>) -> Event {
    Event::Message(opaque(content))
}

fn segment() -> SegmentId {
    StateKey::new([1; 32]).segment(&GroupId([2; 16]), RotationEpoch(0))
}

fn signed(operation: Number, nonce: u8, body: &impl Wire) -> Vec<u8> {
    signed_at(NOON_MS, operation, nonce, body)
}

fn signed_at(now_ms: u64, operation: Number, nonce: u8, body: &impl Wire) -> Vec<u8> {
    let key = SignatureKeyPair::from_seed(&Secret::new([9; 32]));
    let sender = Sender::Key(opaque(key.public()));
    let body = opaque(body.encode());
    let (minute, nonce) = (Minute::of(now_ms), [nonce; 16]);
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
        // And each operation has its route.
        let (status, _) = running.post(*operation, vec![0, 1, 0], &[]).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{operation:?}");
    }
}
