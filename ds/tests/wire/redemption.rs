//! Tokens: what they pay for, and what is no token.

use crate::support::client::Client;
use crate::support::commits::{JoinPlan, Plan, group_info_of};
use crate::support::request::{Draft, fresh_key};
use crate::support::samples::{registration, samples};
use crate::support::{Engine, Reply, Service, Setup, on_every_engine, tokens};
use ds::store::Store as _;
use ds::tokens::retired;
use http::{HeaderValue, StatusCode, header};
use protocol::Operation;
use protocol::codec::opaque;
use protocol::connections::LookupHandleRequest;
use protocol::groups::{GroupKind, ReserveGroupIdRequest};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::time::DAY_MS;

on_every_engine! {
    a_token_pays_once
    a_refused_request_spends_no_token
}

/// A request that costs a token and has no other condition.
fn reservation(service: &Service) -> Vec<u8> {
    let key = fresh_key();
    Draft::by_key(
        service,
        Operation::ReserveGroupId,
        &key,
        &ReserveGroupIdRequest {},
    )
    .signed(&key)
}

#[tokio::test]
async fn what_costs_a_token_is_answered_with_a_challenge_until_one_comes() {
    let service = Service::start(Engine::Memory);
    for sample in samples(&service).await {
        let before = service.store.transitions();
        if service.price(sample.operation()) == 0 {
            continue;
        }
        let reply = service.post(sample.operation(), &sample.signed()).await;
        assert_eq!(
            reply.problem(),
            ProblemType::TokenRequired,
            "{:?}",
            sample.operation()
        );
        let challenge = reply
            .headers
            .get(header::WWW_AUTHENTICATE)
            .unwrap()
            .to_str()
            .unwrap();
        assert!(challenge.starts_with("PrivateToken challenge=\""));
        assert!(challenge.contains("\", token-key=\""));
        assert_eq!(service.store.transitions(), before);
        let reply = service.pay(sample.operation(), &sample.signed()).await;
        assert_eq!(reply.status, StatusCode::OK);
    }
}

async fn a_token_pays_once(service: Service) {
    let token = tokens::mint();
    let pay = async |request: Vec<u8>| {
        service
            .post_with(
                Operation::ReserveGroupId,
                &request,
                std::slice::from_ref(&token),
            )
            .await
    };
    assert_eq!(pay(reservation(&service)).await.status, StatusCode::OK);
    let before = service.store.transitions();
    let reply = pay(reservation(&service)).await;
    assert_eq!(reply.problem(), ProblemType::TokenRejected);
    assert!(reply.headers.contains_key(header::WWW_AUTHENTICATE));
    assert_eq!(service.store.transitions(), before);

    // Twelve different requests with one token at once: one is carried out.
    let token = tokens::mint();
    let attempts = (0..12).map(|_| {
        let request = service.http_request(
            Operation::ReserveGroupId.path(),
            reservation(&service),
            std::slice::from_ref(&token),
        );
        let router = service.router();
        tokio::spawn(async move {
            tower::ServiceExt::oneshot(router, request)
                .await
                .unwrap()
                .status()
        })
    });
    let mut accepted = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        accepted += usize::from(attempt.await.unwrap() == StatusCode::OK);
    }
    assert_eq!(accepted, 1);
}

#[tokio::test]
async fn a_token_that_is_not_for_us_is_rejected() {
    let service = Service::start(Engine::Memory);
    let good = tokens::mint();
    let mut cut = good.to_str().unwrap().to_owned();
    cut.truncate(cut.len() - 8);
    for token in [
        tokens::of_a_stranger(),
        tokens::for_another_origin(),
        HeaderValue::from_str(&cut).unwrap(),
        HeaderValue::from_static("PrivateToken"),
        HeaderValue::from_static("PrivateToken token="),
        HeaderValue::from_static("PrivateToken token=\"AAAA\""),
    ] {
        let before = service.store.transitions();
        let reply = service
            .post_with(Operation::ReserveGroupId, &reservation(&service), &[token])
            .await;
        assert_eq!(reply.problem(), ProblemType::TokenRejected);
        assert!(reply.headers.contains_key(header::WWW_AUTHENTICATE));
        assert_eq!(service.store.transitions(), before);
    }
    // Another scheme is not ours to judge: no token came.
    let bearer = HeaderValue::from_static("Bearer abc");
    let reply = service
        .post_with(Operation::ReserveGroupId, &reservation(&service), &[bearer])
        .await;
    assert_eq!(reply.problem(), ProblemType::TokenRequired);
    let reply = service
        .post_with(Operation::ReserveGroupId, &reservation(&service), &[good])
        .await;
    assert_eq!(reply.status, StatusCode::OK);
}

async fn a_refused_request_spends_no_token(service: Service) {
    let client = Client::new(&service).await;
    let (owner, other) = (fresh_key(), fresh_key());
    let token = [tokens::mint()];
    // The queue reference is another owner's.
    let wrong = registration(&service, &client, &owner, b"free");
    let wrong = Draft::by_key(&service, Operation::RegisterHandle, &other, &wrong).signed(&other);
    let reply = service
        .post_with(Operation::RegisterHandle, &wrong, &token)
        .await;
    assert_eq!(reply.problem(), ProblemType::InvalidLeaf);
    let reply = service
        .post_with(Operation::ReserveGroupId, &reservation(&service), &token)
        .await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test]
async fn looking_an_unknown_handle_up_costs_its_token() {
    let service = Service::start(Engine::Memory);
    let key = fresh_key();
    let token = [tokens::mint()];
    let request = Draft::by_key(
        &service,
        Operation::LookupHandle,
        &key,
        &LookupHandleRequest {
            handle: opaque(*b"nobody"),
        },
    )
    .signed(&key);
    let reply = service
        .post_with(Operation::LookupHandle, &request, &token)
        .await;
    assert_eq!(reply.problem(), ProblemType::UnknownHandle);
    // The answer was lost: the same request costs no second token.
    let before = service.store.transitions();
    let fresh = [tokens::mint()];
    let reply = service
        .post_with(Operation::LookupHandle, &request, &fresh)
        .await;
    assert_eq!(reply.problem(), ProblemType::UnknownHandle);
    assert_eq!(service.store.transitions(), before);
    let reply = service
        .post_with(Operation::ReserveGroupId, &reservation(&service), &fresh)
        .await;
    assert_eq!(reply.status, StatusCode::OK);
    let reply = service
        .post_with(Operation::ReserveGroupId, &reservation(&service), &token)
        .await;
    assert_eq!(reply.problem(), ProblemType::TokenRejected);
}

/// A group whose members have no allowance, so that everything is paid for.
async fn without_allowance(engine: Engine) -> (Service, Client, GroupId) {
    let mut setup = Setup::on(engine);
    setup.allowance.capacity = 0;
    let service = Service::with(setup);
    let mut alice = Client::new(&service).await;
    let id = alice.create_group(&service, GroupKind::Group).await;
    (service, alice, id)
}

/// An update whose GroupInfo does not verify: known only after the tree was worked on.
fn invalid_update(service: &Service, client: &mut Client, id: &GroupId) -> Vec<u8> {
    let mut commit = client.stage(id, Plan::update());
    *commit.signature.first_mut().unwrap() ^= 1;
    client.abandon(id);
    client.commit_request(service, &commit)
}

#[tokio::test]
async fn a_commit_that_is_refused_after_the_work_costs_its_token_once() {
    for engine in [Engine::Memory, Engine::Rocks] {
        let (service, mut alice, id) = without_allowance(engine).await;
        let request = invalid_update(&service, &mut alice, &id);
        assert_eq!(
            service
                .refused_at_cost(Operation::UpdateClient, &request)
                .await,
            ProblemType::InvalidGroupInfo
        );
        let commit = alice.stage(&id, Plan::update());
        let request = alice.commit_request(&service, &commit);
        let reply = service
            .post_with(Operation::UpdateClient, &request, &[tokens::mint()])
            .await;
        assert_eq!(reply.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_spent_token_is_refused_before_the_tree_is_worked_on() {
    let (service, mut alice, id) = without_allowance(Engine::Memory).await;
    let token = [tokens::mint()];
    let reply = service
        .post_with(Operation::ReserveGroupId, &reservation(&service), &token)
        .await;
    assert_eq!(reply.status, StatusCode::OK);
    let before = service.store.transitions();
    let request = invalid_update(&service, &mut alice, &id);
    let reply = service
        .post_with(Operation::UpdateClient, &request, &token)
        .await;
    assert_eq!(reply.problem(), ProblemType::TokenRejected);

    assert_eq!(service.store.transitions(), before);

    let (mut alice, bob) = (Client::new(&service).await, Client::new(&service).await);
    let id = alice.create_group(&service, GroupKind::Connection).await;
    let group = alice.group(&id);
    let mut plan = JoinPlan::connection(group.state_key, group.wrapper);
    plan.link_keys = 2;
    let (info, tree) = group_info_of(&alice, &id);
    let join = bob.external_join((&info, &tree), bob.leaf(&service), plan);
    let before = service.store.transitions();
    let reply = service
        .post_with(Operation::ExternalJoin, &join.signed(&service), &token)
        .await;
    assert_eq!(reply.problem(), ProblemType::TokenRejected);
    assert_eq!(service.store.transitions(), before);
}

#[tokio::test]
async fn the_spent_set_of_a_key_goes_when_the_key_has_been_gone_for_two_days() {
    let service = Service::start(Engine::Memory);
    let token = [tokens::mint()];
    let reply = service
        .post_with(Operation::ReserveGroupId, &reservation(&service), &token)
        .await;
    assert_eq!(reply.status, StatusCode::OK);
    let kept = async || {
        // As a process does that was started a moment ago: what it knows is in the store.
        retired::drop_expired(&service.domain).await.unwrap();
        service.store.spent_issuer_keys().await.unwrap().len()
    };
    service.clock.advance(3 * DAY_MS);
    assert_eq!(kept().await, 1, "accepted");
    service
        .domain
        .accept_issuer_keys(tokens::keys_of_a_stranger());
    for _ in 0..2 {
        assert_eq!(kept().await, 1, "gone for less than two days");
        service.clock.advance(DAY_MS);
    }
    // It was back in between: the two days begin anew.
    service.domain.accept_issuer_keys(tokens::accepted_keys());
    assert_eq!(kept().await, 1);
    let reply = service
        .post_with(Operation::ReserveGroupId, &reservation(&service), &token)
        .await;
    assert_eq!(reply.problem(), ProblemType::TokenRejected);
    service
        .domain
        .accept_issuer_keys(tokens::keys_of_a_stranger());
    assert_eq!(kept().await, 1);
    service.clock.advance(2 * DAY_MS);
    assert_eq!(kept().await, 0);
    // The key comes back: the issuer's mistake, or worse.
    service.domain.accept_issuer_keys(tokens::accepted_keys());
    for token in [token, [tokens::mint()]] {
        let reply = service
            .post_with(Operation::ReserveGroupId, &reservation(&service), &token)
            .await;
        assert_eq!(reply.problem(), ProblemType::TokenRejected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_gets_the_work_of_one_request_at_a_time() {
    let (service, mut alice, id) = without_allowance(Engine::Memory).await;
    let token = [tokens::mint()];
    let before = service.store.trees_read();
    let attempts: Vec<_> = (0..12)
        .map(|_| {
            let request = invalid_update(&service, &mut alice, &id);
            let request = service.http_request(Operation::UpdateClient.path(), request, &token);
            let router = service.router();
            tokio::spawn(async move {
                Reply::read(tower::ServiceExt::oneshot(router, request).await.unwrap()).await
            })
        })
        .collect();
    let mut problems = Vec::new();
    for attempt in attempts {
        problems.push(attempt.await.unwrap().problem());
    }
    let paid = |problem: &&ProblemType| **problem == ProblemType::InvalidGroupInfo;
    assert_eq!(problems.iter().filter(paid).count(), 1);
    // One waits for the token at a time; the others are to come again.
    let refused = |problem: &&ProblemType| {
        matches!(
            problem,
            ProblemType::TokenRejected | ProblemType::Unavailable
        )
    };
    assert_eq!(problems.iter().filter(refused).count(), 11);
    assert_eq!(service.store.trees_read(), before + 1);
}
