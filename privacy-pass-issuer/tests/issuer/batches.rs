//! Several tokens in one request, over the memory store.

use axum::body::Body;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Response, StatusCode};
use privacy_pass_issuer::accounts::Account;
use privacy_pass_issuer::http::{BATCH_REQUEST_MEDIA_TYPE, BATCH_RESPONSE_MEDIA_TYPE};
use privacypass::Deserialize as _;
use privacypass::generic_tokens::GenericBatchTokenResponse;
use service::Problem;

use crate::issuance::{ACCOUNTS, BATCH, LIMIT, TestIssuer, body, problem};
use crate::support::{BatchWallet, issuer_public_key};

const ALL: usize = LIMIT as usize;

impl TestIssuer {
    async fn batch(&self, account: &str, body: &[u8]) -> Response<Body> {
        self.batch_of_plan(account, None, body).await
    }

    async fn batch_of_plan(
        &self,
        account: &str,
        plan: Option<&str>,
        body: &[u8],
    ) -> Response<Body> {
        let token = ACCOUNTS.token_with_plan(account, self.now_unix_s() + 600, plan);
        let authorization = format!("Bearer {token}");
        self.post(Some(BATCH_REQUEST_MEDIA_TYPE), Some(&authorization), body)
            .await
    }

    fn batch_wallet(&self, count: usize) -> BatchWallet {
        BatchWallet::new(&issuer_public_key(&self.directory), count)
    }
}

async fn available(refused: Response<Body>) -> (u16, u64) {
    let status = refused.status();
    let problem = Problem::from_json(status, &body(refused).await).unwrap();
    (
        status.as_u16(),
        problem.extensions()["available"].as_u64().unwrap(),
    )
}

#[tokio::test]
async fn a_batch_brings_tokens_that_the_reference_implementation_finalizes() {
    let issuer = TestIssuer::new();
    let wallet = issuer.batch_wallet(ALL);
    let answer = issuer.batch("alice", &wallet.request).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()[CONTENT_TYPE], BATCH_RESPONSE_MEDIA_TYPE);
    let answer = GenericBatchTokenResponse::tls_deserialize_exact(body(answer).await).unwrap();
    // Finalizing verifies each signature under the published key.
    let tokens = answer.issue_tokens(&wallet.states).unwrap();
    assert_eq!(tokens.len(), ALL);
    assert_eq!(issuer.issued("alice").await, 429, "each token was counted");
}

#[tokio::test]
async fn a_batch_sent_again_gets_the_same_answer_and_costs_nothing() {
    let issuer = TestIssuer::new();
    let wallet = issuer.batch_wallet(ALL);
    let first = body(issuer.batch("alice", &wallet.request).await).await;
    for _ in 0..3 {
        let again = issuer.batch("alice", &wallet.request).await;
        assert_eq!(again.status(), 200);
        assert_eq!(body(again).await, first);
    }
    issuer.clock.advance(43_200_000);
    assert_eq!(
        body(issuer.batch("alice", &wallet.request).await).await,
        first,
        "also after midnight"
    );
    assert_eq!(
        issuer
            .batch("alice", &issuer.batch_wallet(ALL).request)
            .await
            .status(),
        200,
        "the new day was not charged"
    );
}

#[tokio::test]
async fn a_batch_beyond_the_quota_is_refused_whole_and_says_what_is_left() {
    let issuer = TestIssuer::new();
    assert_eq!(issuer.issued("alice").await, 200);
    let refused = issuer
        .batch("alice", &issuer.batch_wallet(ALL).request)
        .await;
    assert_eq!(refused.headers()[RETRY_AFTER], "43200");
    assert_eq!(available(refused).await, (429, u64::from(LIMIT) - 1));
    let rest = issuer.batch_wallet(ALL - 1);
    assert_eq!(issuer.batch("alice", &rest.request).await.status(), 200);
}

#[tokio::test]
async fn one_bad_element_refuses_a_batch_and_charges_nothing() {
    let issuer = TestIssuer::new();
    let good = issuer.batch_wallet(2).request;
    // Behind a length of two bytes, the second element begins at 261.
    let changed = |index: usize, value: u8| {
        let mut request = good.clone();
        request[index] = value;
        request
    };
    let mut beyond_modulus = good.clone();
    beyond_modulus[264..].fill(0xff);
    let cases = [
        (Vec::new(), 400, "malformed-request"),
        (vec![0], 400, "malformed-request"),
        (good[..519].to_vec(), 400, "malformed-request"),
        ([good.clone(), vec![0]].concat(), 400, "malformed-request"),
        (beyond_modulus, 422, "invalid-blinded-message"),
        (changed(262, 1), 422, "unsupported-token-type"),
        (
            changed(263, good[263].wrapping_add(1)),
            422,
            "unknown-token-key",
        ),
        (
            issuer.batch_wallet(BATCH + 1).request,
            413,
            "batch-too-large",
        ),
    ];
    for (request, status, slug) in cases {
        let refused = issuer.batch("alice", &request).await;
        assert_eq!(problem(refused).await, (status, slug.to_owned()));
    }
    let all = issuer.batch_wallet(ALL);
    assert_eq!(issuer.batch("alice", &all.request).await.status(), 200);
}

#[tokio::test]
async fn batches_at_once_never_pass_the_quota() {
    let issuer = std::sync::Arc::new(TestIssuer::new());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let issuer = std::sync::Arc::clone(&issuer);
        tasks.spawn(async move {
            let wallet = issuer.batch_wallet(2);
            issuer.batch("alice", &wallet.request).await.status()
        });
    }
    let issued = tasks.join_all().await;
    let served = issued.iter().filter(|status| **status == 200).count();
    assert_eq!(served, 1, "three tokens a day, two at a time");
}

#[tokio::test]
async fn a_plan_limits_what_an_account_gets_at_once() {
    let issuer = TestIssuer::new();
    let ask = async |count| {
        let wallet = issuer.batch_wallet(count);
        issuer
            .batch_of_plan("alice", Some("bursty"), &wallet.request)
            .await
    };
    let first = issuer.batch_wallet(4);
    let again = async || {
        issuer
            .batch_of_plan("alice", Some("bursty"), &first.request)
            .await
            .status()
    };
    assert_eq!(again().await, 200);
    let refused = ask(2).await;
    assert_eq!(refused.headers()[RETRY_AFTER], "100");
    assert_eq!(available(refused).await, (429, 1));
    assert_eq!(again().await, 200, "a repeated request takes nothing");
    issuer.clock.advance(100_000);
    assert_eq!(ask(2).await.status(), 200);
    // The default plan has no burst, an unknown one is the default one.
    let wallet = issuer.batch_wallet(ALL);
    let unknown = issuer
        .batch_of_plan("bob", Some("unheard of"), &wallet.request)
        .await;
    assert_eq!(unknown.status(), 200);
}

#[tokio::test]
async fn a_blocked_account_gets_nothing_until_it_is_unblocked() {
    let issuer = TestIssuer::new();
    let wallet = issuer.batch_wallet(1);
    assert_eq!(issuer.batch("alice", &wallet.request).await.status(), 200);
    let alice = Account::new("alice".into(), None).unwrap();
    issuer.issuer.block(&alice).await.unwrap();
    for _ in 0..2 {
        let refused = issuer.batch("alice", &wallet.request).await;
        assert_eq!(problem(refused).await, (403, "account-blocked".into()));
    }
    assert_eq!(issuer.issued("bob").await, 200);
    assert!(issuer.issuer.unblock(&alice).await.unwrap());
    assert!(!issuer.issuer.unblock(&alice).await.unwrap());
    assert_eq!(issuer.issued("alice").await, StatusCode::OK);
}
