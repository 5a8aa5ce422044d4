//! What a token costs the issuer: the whole path in process (route, decode, verify the account
//! token, charge in RocksDB with fsync, sign, encode; no sockets) beside the bare private
//! operation, which nobody can do without, in the same run. `cargo bench -p privacy-pass-issuer`;
//! figures are in `docs/performance.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and prints"
)]
#![allow(dead_code, reason = "shares the kit of the tests")]

#[path = "../tests/issuer/support.rs"]
mod support;

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http_body_util::BodyExt as _;
use privacy_pass_issuer::accounts::{Account, AccountHasher};
use privacy_pass_issuer::attestation::{Attester as _, JwtAttester};
use privacy_pass_issuer::http::{
    BATCH_REQUEST_MEDIA_TYPE, REQUEST_MEDIA_TYPE, TOKEN_REQUEST_PATH, router,
};
use privacy_pass_issuer::issuance::{Issuer, IssuerParts};
use privacy_pass_issuer::plans::{Plan, Plans};
use privacy_pass_issuer::store::{Charge, ChargeOutcome, Day, IssuerStore as _, RocksStore};
use privacy_pass_issuer::token_keys::{TokenKey, TokenKeys};
use privacy_pass_issuer::token_request::TokenRequest;
use service::SystemClock;
use tower::ServiceExt as _;

use support::AccountService;

const BATCH: usize = 100;
const AT_ONCE: usize = 64;

struct Bench {
    _directory: tempfile::TempDir,
    router: Router,
    key: Arc<TokenKey>,
    accounts: AccountService,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = TokenKeys::load_or_create(&directory.path().join("keys"), 1).unwrap();
        let key = Arc::clone(keys.current().states(1).next().unwrap().0);
        let accounts = AccountService::new();
        let clock = SystemClock::shared();
        let plan = Plan {
            tokens_per_day: NonZeroU32::MAX,
            burst: Some(NonZeroU32::MAX),
        };
        let store = Arc::new(RocksStore::create(&directory.path().join("data")).unwrap());
        let issuer = Issuer::new(IssuerParts {
            attester: Arc::new(JwtAttester::new(&accounts.settings(), clock.clone()).unwrap()),
            hasher: AccountHasher::new(&[5; 32]),
            keys: Arc::new(keys),
            reports: Arc::new(store.reports()),
            store,
            clock,
            plans: Plans::new(plan, [].into()),
            max_batch_size: NonZeroUsize::new(BATCH).unwrap(),
        })
        .unwrap();
        Self {
            router: router(Arc::new(issuer), TOKEN_REQUEST_PATH, 3600),
            _directory: directory,
            key,
            accounts,
        }
    }

    /// A request with a random blinded message.
    fn element(&self) -> [u8; 259] {
        let mut request = [0; 259];
        getrandom::fill(&mut request[4..]).unwrap();
        (request[1], request[2]) = (2, self.key.truncated_id());
        request
    }

    fn requests(&self, count: usize, batch: Option<usize>) -> Vec<http::Request<Body>> {
        let one = |number: usize| {
            let token = self
                .accounts
                .token(&format!("account-{}", number % AT_ONCE), 4_000_000_000);
            let (media_type, body) = match batch {
                None => (REQUEST_MEDIA_TYPE, self.element().to_vec()),
                Some(size) => {
                    let length = u32::try_from(size * 259).unwrap() | 0x8000_0000;
                    let mut body = length.to_be_bytes().to_vec();
                    (0..size).for_each(|_| body.extend(self.element()));
                    (BATCH_REQUEST_MEDIA_TYPE, body)
                }
            };
            http::Request::post(TOKEN_REQUEST_PATH)
                .header(CONTENT_TYPE, media_type)
                .header(AUTHORIZATION, format!("Bearer {token}"))
                .body(Body::from(body))
                .unwrap()
        };
        (0..count).map(one).collect()
    }
}

async fn answer(router: Router, request: http::Request<Body>) {
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
}

/// Time on a processor of all threads of this process.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.try_into().unwrap()
}

struct Cost {
    cpu_us: f64,
    wall_us: f64,
}

fn cost(tokens: usize, work: impl FnOnce()) -> Cost {
    let (wall, used) = (Instant::now(), cpu());
    work();
    let (wall, used) = (wall.elapsed(), cpu() - used);
    let per = |time: Duration| time.as_secs_f64() * 1e6 / tokens as f64;
    Cost {
        cpu_us: per(used),
        wall_us: per(wall),
    }
}

fn bare(bench: &Bench, rounds: usize) -> Cost {
    let requests: Vec<_> = (0..rounds)
        .map(|_| TokenRequest::from_bytes(&bench.element()).unwrap())
        .collect();
    cost(rounds, || {
        for request in &requests {
            std::hint::black_box(bench.key.blind_sign(request).unwrap());
        }
    })
}

/// On all cores at once.
fn bare_on(cores: usize, bench: &Bench, rounds: usize) -> Cost {
    cost(rounds * cores, || {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..cores)
                .map(|_| scope.spawn(|| bare(bench, rounds)))
                .collect();
            threads.into_iter().for_each(|thread| {
                thread.join().unwrap();
            });
        });
    })
}

/// What stands beside the signature.
fn parts(bench: &Bench, runtime: &tokio::runtime::Runtime) {
    let clock = SystemClock::shared();
    let attester = JwtAttester::new(&bench.accounts.settings(), clock).unwrap();
    let token = bench.accounts.token("account", 4_000_000_000);
    let attested = cost(1000, || {
        runtime.block_on(async {
            for _ in 0..1000 {
                attester.attest(&token, 1).await.unwrap();
            }
        });
    });
    println!(
        "{:<24} {:>10.0} {:>40.0}",
        "account token", attested.cpu_us, attested.wall_us
    );
    let directory = tempfile::tempdir().unwrap();
    let store = RocksStore::create(directory.path()).unwrap();
    for threads in [1_u8, 8] {
        let charged = cost(1000 * usize::from(threads), || {
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let store = &store;
                    scope.spawn(move || {
                        for request in 0..1000_u32 {
                            charge(store, threads * 8 + thread, request);
                        }
                    });
                }
            });
        });
        println!(
            "{:<24} {:>10.0} {:>40.0}",
            format!("charge, {threads} at once"),
            charged.cpu_us,
            charged.wall_us
        );
    }
}

fn charge(store: &RocksStore, account: u8, request: u32) {
    let outcome = store.charge(&charge_of(account, request));
    assert_eq!(outcome.unwrap(), ChargeOutcome::Charged);
}

fn charge_of(account: u8, request: u32) -> Charge {
    let account = Account::new(format!("account-{account}"), None).unwrap();
    let hasher = AccountHasher::new(&[5; 32]);
    let mut bytes = [0; 259];
    bytes[..4].copy_from_slice(&request.to_be_bytes());
    let day = Day(20_000);
    Charge {
        account: hasher.account_of_day(&account, day),
        day,
        request: hasher.request(&account, &bytes),
        tokens: 1,
        limit: u32::MAX,
    }
}

fn row(what: &str, issue: &Cost, bare: &Cost) {
    println!(
        "{what:<24} {:>10.0} {:>10.0} {:>8.2} {:>10.0} {:>12.0}",
        issue.cpu_us,
        bare.cpu_us,
        issue.cpu_us / bare.cpu_us,
        issue.wall_us,
        1e6 / issue.wall_us
    );
}

fn main() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores)
        .enable_all()
        .build()
        .unwrap();
    let bench = Bench::new();
    println!(
        "{:<24} {:>10} {:>10} {:>8} {:>10} {:>12}",
        "", "cpu us", "bare cpu", "ratio", "wall us", "tokens/s"
    );
    bare(&bench, 200);
    parts(&bench, &runtime);
    let one = |requests: Vec<http::Request<Body>>| {
        runtime.block_on(async {
            for request in requests {
                answer(bench.router.clone(), request).await;
            }
        });
    };
    let at_once = |requests: Vec<http::Request<Body>>| {
        runtime.block_on(async {
            let places = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
            let mut tasks = tokio::task::JoinSet::new();
            for request in requests {
                let place = Arc::clone(&places).acquire_owned().await.unwrap();
                let router = bench.router.clone();
                tasks.spawn(async move {
                    answer(router, request).await;
                    drop(place);
                });
            }
            tasks.join_all().await;
        });
    };
    one(bench.requests(50, None));
    // Each beside bare operations of the moment: the machine is not always equally fast.
    for _ in 0..3 {
        let before = bare(&bench, 500);
        let requests = bench.requests(1000, None);
        row("single, one by one", &cost(1000, || one(requests)), &before);

        let before = bare(&bench, 500);
        let requests = bench.requests(20, Some(BATCH));
        row("batch of 100", &cost(20 * BATCH, || one(requests)), &before);

        let before = bare(&bench, 500);
        let requests = bench.requests(4000, None);
        row(
            "single, 64 at once",
            &cost(4000, || at_once(requests)),
            &before,
        );

        let before = bare(&bench, 500);
        let requests = bench.requests(60, Some(BATCH));
        row(
            "batch of 100, 64 at once",
            &cost(60 * BATCH, || at_once(requests)),
            &before,
        );

        let all = bare_on(cores, &bench, 2000);
        println!(
            "{:<24} {:>10} {:>10} {:>8} {:>10.0} {:>12.0}",
            "bare on all cores",
            "",
            "",
            "",
            all.wall_us,
            1e6 / all.wall_us
        );
    }
}
