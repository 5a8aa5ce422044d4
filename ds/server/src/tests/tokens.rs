//! Tokens: what they pay for, and what is no token. Allowances.

use protocol::inbox::LookupHandleRequest;
use protocol::key_packages::CountKeyPackagesRequest;

use super::*;
use crate::tokens::retired;

const DAY_MS: u64 = 86_400_000;

fn publication(nonce: u8, sets: usize) -> Vec<u8> {
    let set = || KeyPackageSetUpload {
        ciphersuite: 1,
        expiry: Week(Week::of(NOON_MS).0 + 3),
        sealed: opaque(vec![1; 8]),
    };
    let body = PublishKeyPackagesRequest {
        pool: PoolId([7; 32]),
        sets: (0..sets).map(|_| set()).collect(),
    };
    signed(Number::PublishKeyPackages, nonce, &body)
}

fn look_up(nonce: u8) -> Vec<u8> {
    let body = LookupHandleRequest {
        handle: opaque(b"nobody".to_vec()),
    };
    signed(Number::LookupHandle, nonce, &body)
}

fn count(nonce: u8) -> Vec<u8> {
    let body = CountKeyPackagesRequest {
        pool: PoolId([7; 32]),
    };
    signed(Number::CountKeyPackages, nonce, &body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_costs_a_token_is_answered_with_a_challenge_until_one_comes() {
    let running = running(10);
    for (operation, request) in [
        (Number::ReserveGroupId, reservation(1)),
        (Number::PublishKeyPackages, publication(2, 1)),
        (Number::LookupHandle, look_up(3)),
    ] {
        let before = running.memory.snapshot();
        let reply = running.reply(operation, request.clone(), &[]).await;
        assert_eq!(reply.problem(), ProblemType::TokenRequired);
        let challenge = reply.headers[header::WWW_AUTHENTICATE].to_str().unwrap();
        assert!(challenge.starts_with("PrivateToken challenge=\""));
        assert!(challenge.contains("\", token-key=\""));
        assert_eq!(running.memory.snapshot(), before);
        let reply = running.reply(operation, request, &[token()]).await;
        assert_ne!(reply.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_pays_once_and_for_one_of_many_requests_that_come_at_the_same_moment() {
    let running = running_with(Setup {
        load: places(32, 4),
        ..Setup::default()
    });
    let paid = [token()];
    let first = running.reply(Number::ReserveGroupId, reservation(1), &paid);
    assert_eq!(first.await.status, StatusCode::OK);
    let before = running.memory.snapshot();
    let again = running.reply(Number::ReserveGroupId, reservation(2), &paid);
    let again = again.await;
    assert_eq!(again.problem(), ProblemType::TokenRejected);
    assert!(again.headers.contains_key(header::WWW_AUTHENTICATE));
    assert_eq!(running.memory.snapshot(), before);
    let paid = [token()];
    let attempts: Vec<_> = (10..22)
        .map(|nonce| running.spawn(Number::ReserveGroupId, reservation(nonce), &paid))
        .collect();
    let mut accepted = 0;
    for attempt in attempts {
        accepted += usize::from(attempt.await.unwrap().status == StatusCode::OK);
    }
    assert_eq!(accepted, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_for_us_is_rejected() {
    let running = running(10);
    let good = token();
    let mut cut = good.to_str().unwrap().to_owned();
    cut.truncate(cut.len() - 8);
    let before = running.memory.snapshot();
    for token in [
        token_of(&STRANGER, "ds.example"),
        token_of(&ISSUER, "other.example"),
        HeaderValue::from_str(&cut).unwrap(),
        HeaderValue::from_static("PrivateToken"),
        HeaderValue::from_static("PrivateToken token="),
        HeaderValue::from_static("PrivateToken token=\"AAAA\""),
    ] {
        let reply = running
            .reply(Number::ReserveGroupId, reservation(1), &[token])
            .await;
        assert_eq!(reply.problem(), ProblemType::TokenRejected);
        assert!(reply.headers.contains_key(header::WWW_AUTHENTICATE));
    }
    // Twice in one request.
    let twice = [good.clone(), good.clone()];
    let reply = running.reply(Number::ReserveGroupId, reservation(1), &twice);
    assert_eq!(reply.await.problem(), ProblemType::TokenRejected);
    // Another scheme is not ours to judge: no token came.
    let bearer = [HeaderValue::from_static("Bearer abc")];
    let reply = running.reply(Number::ReserveGroupId, reservation(1), &bearer);
    assert_eq!(reply.await.problem(), ProblemType::TokenRequired);
    assert_eq!(running.memory.snapshot(), before);
    let good = [good];
    let reply = running.reply(Number::ReserveGroupId, reservation(1), &good);
    assert_eq!(reply.await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_request_spends_no_token_and_one_refused_after_work_spends_it_once() {
    let running = running(10);
    let paid = [token()];
    let malformed = running.reply(Number::ReserveGroupId, look_up(1), &paid);
    assert_eq!(malformed.await.problem(), ProblemType::Malformed);
    let mut forged = reservation(2);
    *forged.last_mut().unwrap() ^= 1;
    let forged = running.reply(Number::ReserveGroupId, forged, &paid);
    assert_eq!(forged.await.problem(), ProblemType::BadSignature);
    let unknown = running.reply(Number::LookupHandle, look_up(3), &paid).await;
    assert_eq!(unknown.problem(), ProblemType::UnknownHandle);
    // The answer was lost: the same request costs no second token.
    let before = running.memory.snapshot();
    let fresh = [token()];
    let again = running.reply(Number::LookupHandle, look_up(3), &fresh);
    assert_eq!(again.await.problem(), ProblemType::UnknownHandle);
    assert_eq!(running.memory.snapshot(), before);
    let reply = running.reply(Number::ReserveGroupId, reservation(4), &fresh);
    assert_eq!(reply.await.status, StatusCode::OK);
    let reply = running.reply(Number::ReserveGroupId, reservation(5), &paid);
    assert_eq!(reply.await.problem(), ProblemType::TokenRejected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_tokens_are_looked_at_than_an_operation_costs_and_spent_ones_are_not_verified() {
    let running = running(10);
    let keys = running.server.issuer_keys();
    let many: Vec<_> = (0..16).map(|_| token()).collect();
    let reserve = |nonce, tokens: &[HeaderValue]| {
        running.spawn(Number::ReserveGroupId, reservation(nonce), tokens)
    };
    let reply = reserve(1, &many).await.unwrap();
    assert_eq!(reply.status, StatusCode::OK);
    // Its price, and one in place of an allowance.
    assert_eq!(keys.signatures_verified(), 2);
    // The first one is spent now: nothing is verified for it, nor for those behind it.
    for nonce in 2..12 {
        let reply = reserve(nonce, &many).await.unwrap();
        assert_eq!(reply.problem(), ProblemType::TokenRejected);
    }
    assert_eq!(keys.signatures_verified(), 2);
    // Those that nobody spent pay for something else.
    let reply = reserve(20, &many[1..]).await.unwrap();
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spent_set_of_a_key_goes_when_the_key_has_been_gone_for_two_days() {
    let running = running(10);
    let paid = [token()];
    let reply = running.reply(Number::ReserveGroupId, reservation(1), &paid);
    assert_eq!(reply.await.status, StatusCode::OK);
    let strangers = || IssuerKeys::from_directory_keys([STRANGER.pk.to_spki().unwrap()]).unwrap();
    let kept = async || {
        // As a process does that was started a moment ago: what it knows is in the store.
        retired::drop_expired(&running.server).await.unwrap();
        let rows = running.memory.snapshot();
        let spent = rows.rows().filter(|(key, _)| key.table == Table::Spent);
        spent.count()
    };
    let closed = async || {
        retired::closed(&*running.server.engine)
            .await
            .unwrap()
            .len()
    };
    running.clock.advance(3 * DAY_MS);
    assert_eq!(kept().await, 1, "accepted");
    running.server.accept_issuer_keys(strangers());
    for _ in 0..2 {
        assert_eq!(kept().await, 1, "gone for less than two days");
        running.clock.advance(DAY_MS);
    }
    // It was back in between: the two days begin anew.
    running.server.accept_issuer_keys(accepted_keys());
    assert_eq!(kept().await, 1);
    running.server.accept_issuer_keys(strangers());
    assert_eq!(kept().await, 1);
    assert_eq!(closed().await, 0);
    running.clock.advance(2 * DAY_MS);
    assert_eq!(kept().await, 0);
    assert_eq!(closed().await, 1);
    // The key comes back: the issuer's mistake, or worse. Nothing can be spent under it.
    running.server.accept_issuer_keys(accepted_keys());
    let now = running.clock.now_unix_ms();
    let fresh = [token()];
    for tokens in [&paid, &fresh] {
        let request = signed_at(
            now,
            Number::ReserveGroupId,
            9,
            &ReserveGroupIdRequest {
                group_id: protocol::ids::GroupId(crypto::random().unwrap()),
            },
        );
        let reply = running.reply(Number::ReserveGroupId, request, tokens);
        assert_eq!(reply.await.problem(), ProblemType::TokenRejected);
    }
    retired::drop_expired(&running.server).await.unwrap();
    assert_eq!(closed().await, 1, "closed for good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowance_that_is_used_up_says_when_to_come_again_and_a_token_buys_more() {
    let running = running_with(Setup {
        owner: AllowanceLimits {
            refill_per_minute: 6,
            ..limits(3)
        },
        ..Setup::default()
    });
    let paid = [token()];
    let published = running.reply(Number::PublishKeyPackages, publication(1, 1), &paid);
    assert_eq!(published.await.status, StatusCode::OK);
    // Who is not the owner of the key that he names takes nothing from it.
    for nonce in 0..20 {
        let mut forged = count(nonce);
        *forged.last_mut().unwrap() ^= 1;
        let reply = running.reply(Number::CountKeyPackages, forged, &[]).await;
        assert_eq!(reply.problem(), ProblemType::BadSignature);
    }
    for nonce in 30..33 {
        let reply = running.reply(Number::CountKeyPackages, count(nonce), &[]);
        assert_eq!(reply.await.status, StatusCode::OK);
    }
    let refused = running
        .reply(Number::CountKeyPackages, count(40), &[])
        .await;
    assert_eq!(refused.headers[header::RETRY_AFTER], "10");
    assert!(refused.headers.contains_key(header::WWW_AUTHENTICATE));
    assert_eq!(refused.problem(), ProblemType::TooManyRequests);
    let own = [token()];
    let bought = running.reply(Number::CountKeyPackages, count(41), &own);
    assert_eq!(bought.await.status, StatusCode::OK);
    // It filled the allowance, and is spent.
    for nonce in 42..45 {
        let reply = running.reply(Number::CountKeyPackages, count(nonce), &[]);
        assert_eq!(reply.await.status, StatusCode::OK);
    }
    let again = running.reply(Number::CountKeyPackages, count(46), &own);
    assert_eq!(again.await.problem(), ProblemType::TokenRejected);
    running.clock.advance(10_000);
    let later = running.reply(Number::CountKeyPackages, count(47), &[]);
    assert_eq!(later.await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sets_of_key_packages_are_sold_by_number() {
    let mut setup = Setup::default();
    setup.decisions.prices.key_package_sets_per_token = 2;
    let running = running_with(setup);
    let mut nonce = 0;
    for (sets, price) in [(1, 1), (2, 1), (3, 2), (5, 3)] {
        let tokens: Vec<_> = (0..price).map(|_| token()).collect();
        nonce += 1;
        let request = publication(nonce, sets);
        let operation = Number::PublishKeyPackages;
        let short = running.reply(operation, request.clone(), &tokens[1..]);
        assert_eq!(short.await.problem(), ProblemType::TokenRequired, "{sets}");
        let enough = running.reply(operation, request, &tokens);
        assert_eq!(enough.await.status, StatusCode::OK);
    }
}
