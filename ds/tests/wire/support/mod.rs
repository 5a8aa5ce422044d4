//! A delivery service in this process, on a clock that the test moves, with an issuer of its own; real
//! bytes go in and come out.

pub mod by_hand;
pub mod client;
pub mod commits;
pub mod faulty;
pub mod inbox;
pub mod meter;
pub mod other;
pub mod postgres;
pub mod request;
pub mod samples;
pub mod scenes;
pub mod state;
pub mod tokens;
pub mod watched;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use crypto::service_keys::ServiceKeys;
use crypto::sign::{LeafKeyPair, Scheme};
use ds::DeliveryService;
use ds::limits::{LoadLimits, QueueLimits, RequestLimits};
use ds::service_state::Settings;
use ds::store::Store;
use ds::store::memory::Memory;
use ds::store::rocks::Rocks;
use ds::tokens::{AllowanceLimits, Challenge};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use protocol::directory::{Prices, StoreState};
use protocol::problem::ProblemType;
use protocol::{Operation, REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE, Wire};
use service::clock::{Clock as _, MovedClock, SystemClock};
use service::gateway_auth::{GATEWAY_AUTHORIZATION, GatewaySecret};
use service::shutdown::{Shutdown, ShutdownTrigger};
use tower::ServiceExt as _;

use faulty::{Crash, Faulty};
use request::Draft;
use watched::Watched;

pub const DOMAIN: &str = "ds.example";
pub const ISSUER: &str = "issuer.example";

/// Runs a scenario, `async fn name(service: Service)`, on every engine.
macro_rules! on_every_engine {
    ($($name:ident)+) => { $(
        mod $name {
            use crate::support::{Engine, Service};

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_memory() {
                super::$name(Service::start(Engine::Memory)).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_rocksdb() {
                super::$name(Service::start(Engine::Rocks)).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgresql() {
                if crate::support::postgres::is_available() {
                    super::$name(Service::start(Engine::Postgres)).await;
                }
            }
        }
    )+ };
}
pub(crate) use on_every_engine;

#[derive(Debug, Clone, Copy)]
pub enum Engine {
    Memory,
    Rocks,
    /// Needs the multi-threaded runtime.
    Postgres,
}

pub struct Setup {
    pub engine: Engine,
    pub prices: Prices,
    pub allowance: AllowanceLimits,
    pub group_allowance: AllowanceLimits,
    pub queue_allowance: AllowanceLimits,
    pub queue_limits: QueueLimits,
    pub load: LoadLimits,
    pub limits: RequestLimits,
    /// Compare roster and tree with every commit; benchmarks don't.
    pub self_check: bool,
    /// Where the store fails; clients then send the same request again.
    pub crash: Option<Crash>,
}

pub const FREE: Prices = prices(0);

pub const fn prices(each: u8) -> Prices {
    Prices {
        reserve_group_id: each,
        publish_key_packages: each,
        key_package_sets_per_token: 0,
        claim_key_package: each,
        register_handle: each,
        lookup_handle: each,
        request_connection: each,
        create_queue: each,
        external_join: each,
    }
}

impl Setup {
    /// Everything costs a token, as in the sample configuration; allowances are ample.
    pub fn on(engine: Engine) -> Self {
        let ample = AllowanceLimits {
            capacity: 10_000,
            refill_per_minute: 60,
            max_buckets: 10_000,
            nodes: 1,
        };
        Self {
            engine,
            prices: prices(1),
            allowance: ample,
            group_allowance: ample,
            queue_allowance: ample,
            queue_limits: QueueLimits::default(),
            load: LoadLimits::default(),
            limits: RequestLimits::default(),
            self_check: true,
            crash: None,
        }
    }
}

pub struct Service {
    pub domain: Arc<DeliveryService>,
    pub clock: Arc<MovedClock>,
    pub store: Arc<Watched>,
    pub faulty: Arc<Faulty>,
    pub prices: Prices,
    pub shutdown: Shutdown,
    pub trigger: ShutdownTrigger,
    /// As the service has them.
    pub keys: ServiceKeys,
    key_file: Vec<u8>,
    queue_service_key: (u8, [u8; 32]),
    external_sender: [Vec<u8>; 2],
    router: Router,
    gateway: HeaderValue,
    _directory: tempfile::TempDir,
}

pub const RETENTION_DAYS: u32 = 30;
pub const INACTIVITY_DAYS: u32 = 90;

impl Service {
    pub fn start(engine: Engine) -> Self {
        Self::with(Setup::on(engine))
    }

    pub fn with(setup: Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine: Arc<dyn Store> = match setup.engine {
            Engine::Memory => Arc::new(Memory::new()),
            Engine::Rocks => Arc::new(Rocks::create(directory.path().join("store")).unwrap()),
            Engine::Postgres => postgres::fresh_nodes::<1>().remove(0),
        };
        // The MLS library reads the machine's clock for lifetimes: ours starts there.
        let clock = MovedClock::at(SystemClock.now_unix_ms());
        let keys = ServiceKeys::generate_file().unwrap();
        Self::node(&setup, engine, clock, &keys, directory)
    }

    /// Nodes of one service: one database, one service key file.
    pub fn nodes<const N: usize>() -> [Self; N] {
        let setup = Setup::on(Engine::Postgres);
        let clock = MovedClock::at(SystemClock.now_unix_ms());
        let keys = ServiceKeys::generate_file().unwrap();
        let nodes: Vec<_> = postgres::fresh_nodes::<N>()
            .into_iter()
            .map(|engine| {
                let directory = tempfile::tempdir().unwrap();
                Self::node(&setup, engine, Arc::clone(&clock), &keys, directory)
            })
            .collect();
        nodes.try_into().ok().unwrap()
    }

    /// The same service started again over the same store, after its keys were rotated.
    pub fn with_rotated_keys(&self, setup: &Setup) -> Self {
        let keys = ServiceKeys::rotate_file(&self.key_file).unwrap();
        let engine = Arc::clone(&self.store) as Arc<dyn Store>;
        let directory = tempfile::tempdir().unwrap();
        Self::node(setup, engine, Arc::clone(&self.clock), &keys, directory)
    }

    fn node(
        setup: &Setup,
        engine: Arc<dyn Store>,
        clock: Arc<MovedClock>,
        key_file: &[u8],
        directory: tempfile::TempDir,
    ) -> Self {
        let faulty = Arc::new(Faulty::new(engine, setup.crash));
        let store = Arc::new(Watched::new(Arc::clone(&faulty) as Arc<dyn Store>));
        let (trigger, shutdown) = Shutdown::channel();
        let settings = Settings {
            domain: DOMAIN.into(),
            issuer_name: ISSUER.into(),
            challenge: Challenge::new(ISSUER, DOMAIN).unwrap(),
            prices: setup.prices,
            leaf_allowance: setup.allowance,
            group_allowance: setup.group_allowance,
            queue_allowance: setup.queue_allowance,
            queue_limits: setup.queue_limits,
            load: setup.load,
            retention_days: RETENTION_DAYS,
            inactivity_days: INACTIVITY_DAYS,
            max_request_bytes: 2 * 1024 * 1024,
            limits: setup.limits,
            self_check: setup.self_check,
            store: StoreState {
                id: "AQEBAQEBAQEBAQEBAQEBAQ==".into(),
                generation: 0,
            },
        };
        let keys = ServiceKeys::from_file(key_file).unwrap();
        let queue_service_key = keys.queue_service_key().unwrap();
        let external_sender = [Scheme::Ed25519, Scheme::EcdsaP256]
            .map(|scheme| keys.external_sender_public(scheme).unwrap());
        let domain = Arc::new(
            DeliveryService::new(
                Arc::clone(&store) as Arc<dyn Store>,
                keys,
                Arc::clone(&clock) as _,
                shutdown.clone(),
                tokens::accepted_keys(),
                settings,
            )
            .unwrap(),
        );
        let secret_file = directory.path().join("gateway-secret");
        let gateway = GatewaySecret::load_or_create(&secret_file).unwrap();
        let header = gateway.header_value();
        Self {
            router: ds::http::router(Arc::clone(&domain), gateway),
            domain,
            clock,
            store,
            faulty,
            prices: setup.prices,
            shutdown,
            trigger,
            keys: ServiceKeys::from_file(key_file).unwrap(),
            key_file: key_file.to_vec(),
            queue_service_key,
            external_sender,
            gateway: header,
            _directory: directory,
        }
    }

    pub fn now(&self) -> u64 {
        self.clock.now_unix_ms()
    }

    pub fn queue_service_key(&self) -> (u8, [u8; 32]) {
        self.queue_service_key
    }

    /// The key that the service signs its own proposals with.
    pub fn external_sender(&self, scheme: Scheme) -> Vec<u8> {
        let [ed25519, p256] = &self.external_sender;
        match scheme {
            Scheme::Ed25519 => ed25519.clone(),
            Scheme::EcdsaP256 => p256.clone(),
        }
    }

    pub fn router(&self) -> Router {
        self.router.clone()
    }

    pub fn gateway(&self) -> HeaderValue {
        self.gateway.clone()
    }

    /// Any HTTP request, as the gateway would forward it.
    pub fn http_request(&self, path: &str, body: Vec<u8>, tokens: &[HeaderValue]) -> Request<Body> {
        let mut request = Request::post(path)
            .header(header::CONTENT_TYPE, REQUEST_MEDIA_TYPE)
            .header(GATEWAY_AUTHORIZATION, self.gateway.clone())
            .body(Body::from(body))
            .unwrap();
        for token in tokens {
            request
                .headers_mut()
                .append(header::AUTHORIZATION, token.clone());
        }
        request
    }

    pub async fn http(&self, request: Request<Body>) -> Reply {
        Reply::read(self.router.clone().oneshot(request).await.unwrap()).await
    }

    /// A request without a token.
    pub async fn post(&self, operation: Operation, request: &[u8]) -> Reply {
        self.post_with(operation, request, &[]).await
    }

    pub async fn post_with(
        &self,
        operation: Operation,
        request: &[u8],
        tokens: &[HeaderValue],
    ) -> Reply {
        let send = || self.http(self.http_request(operation.path(), request.to_vec(), tokens));
        let reply = send().await;
        if reply.status.is_server_error() && self.faulty.has_failed() {
            // What a client does that got no answer.
            return send().await;
        }
        reply
    }

    /// What an operation costs, for one claim.
    pub fn price(&self, operation: Operation) -> u8 {
        match operation {
            Operation::ReserveGroupId => self.prices.reserve_group_id,
            Operation::PublishKeyPackages => self.prices.publish_key_packages,
            Operation::ClaimKeyPackages => self.prices.claim_key_package,
            Operation::RegisterHandle => self.prices.register_handle,
            Operation::LookupHandle => self.prices.lookup_handle,
            Operation::RequestConnection => self.prices.request_connection,
            Operation::CreateQueue => self.prices.create_queue,
            Operation::ExternalJoin | Operation::Propose => self.prices.external_join,
            _ => 0,
        }
    }

    /// A request with the tokens that it costs.
    pub async fn pay(&self, operation: Operation, request: &[u8]) -> Reply {
        let tokens: Vec<_> = (0..self.price(operation)).map(|_| tokens::mint()).collect();
        self.post_with(operation, request, &tokens).await
    }

    /// Signs a body with a key and pays for it.
    pub async fn call<T: Wire>(
        &self,
        operation: Operation,
        key: &LeafKeyPair,
        body: &impl Wire,
    ) -> T {
        let request = Draft::by_key(self, operation, key, body).signed(key);
        self.pay(operation, &request).await.accepted()
    }

    /// As [`Service::call`], where a refusal is expected; it must have changed nothing.
    pub async fn refusal(
        &self,
        operation: Operation,
        key: &LeafKeyPair,
        body: &impl Wire,
    ) -> ProblemType {
        let request = Draft::by_key(self, operation, key, body).signed(key);
        let before = self.store.transitions();
        let problem = self.pay(operation, &request).await.problem();
        assert_eq!(
            self.store.transitions(),
            before,
            "a refusal must change nothing"
        );
        problem
    }

    /// A creation that must be refused, and must change nothing but its reservation, which a look at the tree uses up:
    /// the problem, and whether it did. The same request again is answered alike.
    pub async fn refused_creation(
        &self,
        key: &LeafKeyPair,
        body: &impl Wire,
    ) -> (ProblemType, bool) {
        let request = Draft::by_key(self, Operation::CreateGroup, key, body).signed(key);
        let before = self.store.transitions();
        let problem = self.post(Operation::CreateGroup, &request).await.problem();
        let after = self.store.transitions();
        let used_up = after == before + 1;
        if used_up {
            assert_eq!(self.store.settled(), Some(after));
        } else {
            assert_eq!(after, before, "a refusal must change nothing");
        }
        let again = self.post(Operation::CreateGroup, &request).await;
        assert_eq!(again.problem(), problem);
        assert_eq!(self.store.transitions(), after);
        (problem, used_up)
    }

    /// Posts something that must be refused and must change nothing.
    pub async fn refused(&self, operation: Operation, request: &[u8]) -> ProblemType {
        let before = self.store.transitions();
        let problem = self.pay(operation, request).await.problem();
        assert_eq!(
            self.store.transitions(),
            before,
            "a refusal must change nothing"
        );
        problem
    }

    /// Posts something that must be refused after work that its token paid for: the token is spent and
    /// the refusal recorded, nothing else; the same request again is answered alike and costs nothing.
    pub async fn refused_at_cost(&self, operation: Operation, request: &[u8]) -> ProblemType {
        let token = [tokens::mint()];
        let before = self.store.transitions();
        let problem = self.post_with(operation, request, &token).await.problem();
        assert_eq!(self.store.transitions(), before + 1);
        assert_eq!(self.store.settled(), Some(before + 1));
        let again = self.post_with(operation, request, &[]).await;
        assert_eq!(again.problem(), problem);
        assert_eq!(self.store.transitions(), before + 1);
        problem
    }
}

/// An answer as it came over the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub async fn read(response: http::Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Self {
            status: parts.status,
            headers: parts.headers,
            body: body.to_vec(),
        }
    }

    /// The response of a request that must have been carried out.
    pub fn accepted<T: Wire>(self) -> T {
        assert_eq!(
            self.status,
            StatusCode::OK,
            "refused: {}",
            String::from_utf8_lossy(&self.body)
        );
        assert_eq!(
            self.headers.get(header::CONTENT_TYPE).unwrap(),
            RESPONSE_MEDIA_TYPE
        );
        T::decode(&self.body).unwrap()
    }

    /// The type of a refusal, which must be a whole problem document (RFC 9457).
    pub fn problem(&self) -> ProblemType {
        let document = self.document();
        let problem = ProblemType::from_uri(document["type"].as_str().unwrap()).unwrap();
        assert_eq!(
            self.headers.get(header::CONTENT_TYPE).unwrap(),
            "application/problem+json"
        );
        assert_eq!(self.status.as_u16(), problem.status());
        assert_eq!(document["status"], problem.status());
        assert_eq!(document["title"], problem.title());
        problem
    }

    pub fn document(&self) -> serde_json::Value {
        assert_ne!(self.status, StatusCode::OK, "the request was accepted");
        serde_json::from_slice(&self.body).unwrap()
    }
}
