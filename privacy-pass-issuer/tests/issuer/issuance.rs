//! The routes over the memory store, with a clock that the test moves.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, LazyLock, Mutex};

use axum::Router;
use axum::body::Body;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use privacy_pass_issuer::accounts::AccountHasher;
use privacy_pass_issuer::attestation::JwtAttester;
use privacy_pass_issuer::http::{
    DIRECTORY_MEDIA_TYPE, DIRECTORY_PATH, REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE,
    TOKEN_REQUEST_PATH, router,
};
use privacy_pass_issuer::issuance::{Issuer, IssuerParts};
use privacy_pass_issuer::plans::{Plan, Plans};
use privacy_pass_issuer::store::MemoryStore;
use privacy_pass_issuer::store::reports::MemoryReports;
use privacy_pass_issuer::token_keys::TokenKeys;
use privacypass::{Deserialize as _, public_tokens::TokenResponse};
use service::{Clock as _, MovedClock, Problem};
use tower::ServiceExt as _;

use crate::support::{AccountService, Wallet, issuer_public_key};

pub(crate) const NOON_UNIX_S: u64 = 20_000 * 86_400 + 43_200;
pub(crate) const LIMIT: u32 = 3;
pub(crate) const BATCH: usize = 8;

pub(crate) static ACCOUNTS: LazyLock<AccountService> = LazyLock::new(AccountService::new);

fn plans() -> Plans {
    let plan = |tokens_per_day, burst| Plan {
        tokens_per_day: NonZeroU32::new(tokens_per_day).unwrap(),
        burst: NonZeroU32::new(burst),
    };
    Plans::new(plan(LIMIT, 0), [("bursty".to_owned(), plan(864, 5))].into())
}

pub(crate) struct TestIssuer {
    pub(crate) router: Router,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) clock: Arc<MovedClock>,
    pub(crate) directory: Vec<u8>,
}

impl TestIssuer {
    pub(crate) fn new() -> Self {
        static KEYS: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
        static FIRST: Mutex<()> = Mutex::new(());
        let keys = {
            let _one_at_a_time = FIRST.lock().unwrap();
            TokenKeys::load_or_create(KEYS.path(), 1).unwrap()
        };
        let clock = MovedClock::at(NOON_UNIX_S * 1000);
        let directory = keys
            .current()
            .directory(TOKEN_REQUEST_PATH, BATCH, NOON_UNIX_S);
        let issuer = Issuer::new(IssuerParts {
            attester: Arc::new(JwtAttester::new(&ACCOUNTS.settings(), clock.clone()).unwrap()),
            hasher: AccountHasher::new(&[5; 32]),
            keys: Arc::new(keys),
            store: Arc::new(MemoryStore::default()),
            reports: Arc::new(MemoryReports::default()),
            clock: clock.clone(),
            plans: plans(),
            max_batch_size: NonZeroUsize::new(BATCH).unwrap(),
        });
        let issuer = Arc::new(issuer.unwrap());
        let router = router(Arc::clone(&issuer), TOKEN_REQUEST_PATH, 3600);
        Self {
            router,
            issuer,
            clock,
            directory,
        }
    }

    pub(crate) fn now_unix_s(&self) -> u64 {
        self.clock.now_unix_ms() / 1000
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Posts a token request as `account`, with an account token that is valid now.
    pub(crate) async fn request(&self, account: &str, body: &[u8]) -> Response<Body> {
        let token = ACCOUNTS.token(account, self.now_unix_s() + 600);
        self.post(
            Some(REQUEST_MEDIA_TYPE),
            Some(&format!("Bearer {token}")),
            body,
        )
        .await
    }

    pub(crate) async fn post(
        &self,
        media_type: Option<&str>,
        authorization: Option<&str>,
        body: &[u8],
    ) -> Response<Body> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(TOKEN_REQUEST_PATH);
        if let Some(media_type) = media_type {
            request = request.header(CONTENT_TYPE, media_type);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        self.send(request.body(Body::from(body.to_vec())).unwrap())
            .await
    }

    pub(crate) fn wallet(&self) -> Wallet {
        Wallet::new(&issuer_public_key(&self.directory))
    }

    pub(crate) async fn issued(&self, account: &str) -> StatusCode {
        self.request(account, &self.wallet().request).await.status()
    }
}

pub(crate) async fn body(response: Response<Body>) -> Vec<u8> {
    response
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes()
        .to_vec()
}

pub(crate) async fn problem(response: Response<Body>) -> (u16, String) {
    let status = response.status();
    let problem = Problem::from_json(status, &body(response).await).unwrap();
    let slug = problem
        .type_uri()
        .strip_prefix("urn:privacy-pass-issuer:problem:")
        .unwrap();
    (status.as_u16(), slug.to_owned())
}

#[tokio::test]
async fn an_account_gets_a_token_that_the_reference_implementation_finalizes() {
    let issuer = TestIssuer::new();
    let wallet = issuer.wallet();
    let response = issuer.request("alice", &wallet.request).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[CONTENT_TYPE], RESPONSE_MEDIA_TYPE);
    assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
    let response = TokenResponse::tls_deserialize_exact(body(response).await).unwrap();
    // Finalizing verifies the signature under the published key.
    let token = response.issue_token(&wallet.state).unwrap();
    assert_eq!(
        *token.challenge_digest(),
        wallet.challenge.digest().unwrap()
    );
}

#[tokio::test]
async fn the_directory_is_the_same_cacheable_document_for_everybody() {
    let issuer = TestIssuer::new();
    let request = || Request::get(DIRECTORY_PATH).body(Body::empty()).unwrap();
    let response = issuer.send(request()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[CONTENT_TYPE], DIRECTORY_MEDIA_TYPE);
    assert_eq!(response.headers()[CACHE_CONTROL], "public, max-age=3600");
    let etag = response.headers()[ETAG].clone();
    let known = Request::get(DIRECTORY_PATH).header(IF_NONE_MATCH, etag);
    let unchanged = issuer.send(known.body(Body::empty()).unwrap()).await;
    assert_eq!(unchanged.status(), 304);
    assert!(body(unchanged).await.is_empty());
    let first = body(response).await;
    assert_eq!(first, issuer.directory);
    assert_eq!(first, body(issuer.send(request()).await).await);
}

#[tokio::test]
async fn the_quota_ends_the_day_and_the_next_day_begins_anew() {
    let issuer = TestIssuer::new();
    for _ in 0..LIMIT {
        assert_eq!(issuer.issued("alice").await, 200);
    }
    let refused = issuer.request("alice", &issuer.wallet().request).await;
    assert_eq!(refused.headers()[RETRY_AFTER], "43200");
    assert_eq!(problem(refused).await, (429, "quota-exhausted".into()));
    assert_eq!(issuer.issued("bob").await, 200);

    issuer.clock.advance(43_199_000);
    assert_eq!(issuer.issued("alice").await, 429);
    issuer.clock.advance(1_000);
    assert_eq!(issuer.issued("alice").await, 200);
}

#[tokio::test]
async fn a_clock_that_is_set_back_gives_no_second_quota() {
    let issuer = TestIssuer::new();
    for _ in 0..LIMIT {
        assert_eq!(issuer.issued("alice").await, 200);
    }
    issuer.clock.advance(86_400_000);
    issuer.issuer.forget_past_days().await.unwrap();
    for _ in 0..LIMIT {
        assert_eq!(issuer.issued("alice").await, 200);
    }
    issuer.clock.set(NOON_UNIX_S * 1000);
    assert_eq!(issuer.issued("alice").await, 429);
}

#[tokio::test]
async fn a_retried_request_gets_the_same_answer_and_costs_nothing() {
    let issuer = TestIssuer::new();
    let wallet = issuer.wallet();
    let first = body(issuer.request("alice", &wallet.request).await).await;
    for _ in 0..2 * LIMIT {
        let again = issuer.request("alice", &wallet.request).await;
        assert_eq!(again.status(), 200);
        assert_eq!(body(again).await, first);
    }
    for _ in 1..LIMIT {
        assert_eq!(issuer.issued("alice").await, 200);
    }
    assert_eq!(issuer.issued("alice").await, 429);
    // Also once the quota is used up, and after midnight and a clean-up.
    assert_eq!(
        body(issuer.request("alice", &wallet.request).await).await,
        first
    );
    issuer.clock.advance(43_200_000);
    issuer.issuer.forget_past_days().await.unwrap();
    assert_eq!(
        body(issuer.request("alice", &wallet.request).await).await,
        first
    );
    for _ in 0..LIMIT {
        assert_eq!(issuer.issued("alice").await, 200);
    }
    assert_eq!(issuer.issued("alice").await, 429);
}

#[tokio::test]
async fn another_accounts_request_is_charged_to_whoever_sends_it() {
    let issuer = TestIssuer::new();
    let wallet = issuer.wallet();
    assert_eq!(issuer.request("alice", &wallet.request).await.status(), 200);
    assert_eq!(issuer.request("bob", &wallet.request).await.status(), 200);
    for _ in 1..LIMIT {
        assert_eq!(issuer.issued("bob").await, 200);
    }
    assert_eq!(issuer.issued("bob").await, 429);
}

#[tokio::test]
async fn requests_at_once_never_pass_the_quota() {
    let issuer = Arc::new(TestIssuer::new());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let issuer = Arc::clone(&issuer);
        tasks.spawn(async move { issuer.issued("alice").await });
    }
    let issued = tasks
        .join_all()
        .await
        .into_iter()
        .filter(|status| *status == 200)
        .count();
    assert_eq!(issued, LIMIT as usize);
}

#[tokio::test]
async fn a_bad_request_is_a_typed_problem_and_charges_nothing() {
    let issuer = TestIssuer::new();
    let good = issuer.wallet().request;
    let changed = |index: usize, value: u8| {
        let mut request = good.clone();
        request[index] = value;
        request
    };
    let mut beyond_modulus = good.clone();
    beyond_modulus[3..].fill(0xff);
    let trailing = [good.clone(), vec![0]].concat();
    let cases = [
        (Vec::new(), 400, "malformed-request"),
        (good[..2].to_vec(), 400, "malformed-request"),
        (good[..258].to_vec(), 422, "invalid-blinded-message"),
        (trailing, 422, "invalid-blinded-message"),
        (beyond_modulus, 422, "invalid-blinded-message"),
        (changed(1, 1), 422, "unsupported-token-type"),
        (
            changed(2, good[2].wrapping_add(1)),
            422,
            "unknown-token-key",
        ),
    ];
    for (request, status, slug) in cases {
        let refused = issuer.request("alice", &request).await;
        assert_eq!(problem(refused).await, (status, slug.to_owned()));
    }

    let valid = format!("Bearer {}", ACCOUNTS.token("alice", NOON_UNIX_S + 600));
    for media_type in [
        None,
        Some("application/json"),
        Some("application/private-token"),
    ] {
        let refused = issuer.post(media_type, Some(&valid), &good).await;
        assert_eq!(
            problem(refused).await,
            (415, "unsupported-media-type".into())
        );
    }
    let expired = format!("Bearer {}", ACCOUNTS.token("alice", NOON_UNIX_S - 61));
    for (authorization, slug) in [
        (None, "account-token-missing"),
        (Some("Basic QTpC"), "account-token-missing"),
        (Some("Bearer x"), "account-token-invalid"),
        (Some(&*expired), "account-token-expired"),
    ] {
        let refused = issuer
            .post(Some(REQUEST_MEDIA_TYPE), authorization, &good)
            .await;
        assert!(
            refused.headers()[WWW_AUTHENTICATE]
                .to_str()
                .unwrap()
                .starts_with("Bearer ")
        );
        assert_eq!(problem(refused).await, (401, slug.to_owned()));
    }

    for _ in 0..LIMIT {
        assert_eq!(issuer.issued("alice").await, 200);
    }
    assert_eq!(issuer.issued("alice").await, 429);
}

#[tokio::test]
async fn the_media_type_may_carry_parameters_and_capitals() {
    let issuer = TestIssuer::new();
    let token = format!("bearer {}", ACCOUNTS.token("alice", NOON_UNIX_S + 600));
    let media_type = "Application/Private-Token-Request; charset=binary";
    let response = issuer
        .post(Some(media_type), Some(&token), &issuer.wallet().request)
        .await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn other_paths_and_methods_are_problems_too() {
    let issuer = TestIssuer::new();
    let response = issuer
        .send(Request::get("/").body(Body::empty()).unwrap())
        .await;
    assert_eq!(response.status(), 404);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
}
