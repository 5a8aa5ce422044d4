//! One token, or none, must not take the places of everybody else.

use std::sync::Arc;
use std::time::Duration;

use ds::limits::LoadLimits;
use http::{HeaderValue, StatusCode, header};
use protocol::groups::{GroupKind, ReserveGroupIdRequest};
use protocol::key_packages::{Claim, ClaimKeyPackagesRequest};
use protocol::problem::ProblemType;
use protocol::queues::{FetchQueueResponse, MAX_WAIT_MS};
use protocol::{Operation, REQUEST_MEDIA_TYPE};
use service::gateway_auth::GATEWAY_AUTHORIZATION;
use service::http::Limits;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::support::client::Client;
use crate::support::commits::Plan;
use crate::support::request::{Draft, fresh_key};
use crate::support::{Engine, Reply, Service, Setup, tokens};

/// Longer than anything here may take, and shorter than a fetch may wait.
const SOON: Duration = Duration::from_secs(15);
const WAIT_MS: u32 = MAX_WAIT_MS;

/// A service behind a real listener.
struct Listening {
    service: Service,
    http: reqwest::Client,
    url: String,
}

impl std::ops::Deref for Listening {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

async fn with_places(requests: usize, fetches: usize) -> Listening {
    let mut setup = Setup::on(Engine::Memory);
    setup.load = LoadLimits {
        concurrent_requests: requests,
        concurrent_fetches: fetches,
        ..LoadLimits::default()
    };
    setup.allowance.capacity = 0;
    let service = Service::with(setup);
    let listener = service::http::bind("127.0.0.1:0".parse().unwrap());
    let listener = listener.await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (router, shutdown) = (service.router(), service.shutdown.clone());
    let limits = Limits::default();
    tokio::spawn(service::http::serve(listener, router, limits, shutdown));
    Listening {
        service,
        http: reqwest::Client::builder().no_proxy().build().unwrap(),
        url,
    }
}

fn reservation(service: &Service) -> Vec<u8> {
    let key = fresh_key();
    let body = ReserveGroupIdRequest {};
    Draft::by_key(service, Operation::ReserveGroupId, &key, &body).signed(&key)
}

fn spawn(
    at: &Listening,
    operation: Operation,
    request: Vec<u8>,
    tokens: &[HeaderValue],
) -> JoinHandle<Reply> {
    let mut post = at
        .http
        .post(format!("{}{}", at.url, operation.path()))
        .header(header::CONTENT_TYPE, REQUEST_MEDIA_TYPE)
        .header(GATEWAY_AUTHORIZATION, at.gateway())
        .body(request);
    for token in tokens {
        post = post.header(header::AUTHORIZATION, token.clone());
    }
    tokio::spawn(async move {
        let answer = post.send().await.unwrap();
        Reply {
            status: answer.status(),
            headers: answer.headers().clone(),
            body: answer.bytes().await.unwrap().to_vec(),
        }
    })
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work)
        .await
        .expect("an answer soon")
}

/// What somebody else asks meanwhile.
async fn is_served(at: &Listening) {
    let token = [tokens::mint()];
    let reply = spawn(at, Operation::ReserveGroupId, reservation(at), &token);
    assert_eq!(soon(reply).await.unwrap().status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_in_a_long_poll_and_in_many_requests_stops_nobody() {
    for is_spent in [false, true] {
        let service = with_places(8, 8).await;
        let (_, bob, _) = alice_and_bob(&service).await;
        let token = [tokens::mint()];
        if is_spent {
            let spent = spawn(
                &service,
                Operation::ReserveGroupId,
                reservation(&service),
                &token,
            );
            assert_eq!(soon(spent).await.unwrap().status, StatusCode::OK);
        }
        let looked = service.store.next_look();
        let poll = bob.fetch_request(&service, 10, WAIT_MS);
        let poll = spawn(&service, Operation::FetchQueue, poll, &token);
        if is_spent {
            let refused = soon(poll).await.unwrap();
            assert_eq!(refused.problem(), ProblemType::TokenRejected);
        } else {
            soon(looked).await;
        }
        let junk: Vec<_> = (0..64)
            .map(|_| {
                let request = reservation(&service);
                spawn(&service, Operation::ReserveGroupId, request, &token)
            })
            .collect();
        is_served(&service).await;
        let mut paid = 0;
        for junk in junk {
            paid += usize::from(soon(junk).await.unwrap().status == StatusCode::OK);
        }
        assert_eq!(paid, usize::from(!is_spent));
        is_served(&service).await;
    }
}

/// Alice has a group, in which every request is paid for; Bob has a queue.
async fn alice_and_bob(service: &Service) -> (Client, Client, protocol::ids::GroupId) {
    let (mut alice, bob) = (Client::new(service).await, Client::new(service).await);
    let id = alice.create_group(service, GroupKind::Group).await;
    (alice, bob, id)
}

/// A request that holds its token until the test lets it go on.
struct Holding {
    first: JoinHandle<Reply>,
    go_on: Arc<Notify>,
}

async fn holding(at: &Listening, token: &[HeaderValue]) -> Holding {
    let (mut alice, _, id) = alice_and_bob(at).await;
    let (began, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    at.store.before_next_tree({
        let (began, go_on) = (Arc::clone(&began), Arc::clone(&go_on));
        async move {
            began.notify_one();
            go_on.notified().await;
        }
    });
    let commit = alice.stage(&id, Plan::update());
    let request = alice.commit_request(at, &commit);
    let first = spawn(at, Operation::UpdateClient, request, token);
    soon(began.notified()).await;
    Holding { first, go_on }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_token_takes_no_place_and_waits_a_second() {
    let service = with_places(2, 1).await;
    let token = [tokens::mint()];
    let Holding { first, go_on } = holding(&service, &token).await;
    let other = reservation(&service);
    let second = spawn(&service, Operation::ReserveGroupId, other.clone(), &token);
    // While it waits, and after it has given up.
    while !second.is_finished() {
        is_served(&service).await;
    }
    let second = second.await.unwrap();
    assert_eq!(second.problem(), ProblemType::Unavailable);
    assert_eq!(second.headers.get(header::RETRY_AFTER).unwrap(), "1");
    go_on.notify_one();
    assert_eq!(soon(first).await.unwrap().status, StatusCode::OK);
    let late = spawn(&service, Operation::ReserveGroupId, other, &token);
    let late = soon(late).await.unwrap();
    assert_eq!(late.problem(), ProblemType::TokenRejected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waited_for_a_token_that_is_spent_gets_no_work_for_it() {
    let service = with_places(8, 1).await;
    let token = [tokens::mint()];
    let (mut carol, _, id) = alice_and_bob(&service).await;
    let commit = carol.stage(&id, Plan::update());
    let request = carol.commit_request(&service, &commit);
    let Holding { first, go_on } = holding(&service, &token).await;
    let trees = service.store.trees_read();
    let second = spawn(&service, Operation::UpdateClient, request, &token);
    // It has come as far as to wait, or is refused later for what it finds.
    is_served(&service).await;
    go_on.notify_one();
    assert_eq!(soon(first).await.unwrap().status, StatusCode::OK);
    // On a busy machine it may have waited for too long.
    let second = soon(second).await.unwrap().problem();
    let refused = [ProblemType::TokenRejected, ProblemType::Unavailable];
    assert!(refused.contains(&second), "{second:?}");
    assert_eq!(service.store.trees_read(), trees + 1, "of the first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetches_that_wait_leave_the_places_of_everything_else_and_are_bounded() {
    let service = with_places(1, 2).await;
    let (_, bob, _) = alice_and_bob(&service).await;
    let polls: Vec<_> = (0..8_u32)
        .map(|poll| {
            let request = bob.fetch_request(&service, 10, WAIT_MS - poll);
            spawn(&service, Operation::FetchQueue, request, &[])
        })
        .collect();
    let mut refused = 0;
    let mut waiting = Vec::new();
    for poll in polls {
        match tokio::time::timeout(Duration::from_millis(500), poll).await {
            Ok(reply) => {
                assert_eq!(reply.unwrap().problem(), ProblemType::Unavailable);
                refused += 1;
            }
            Err(_) => waiting.push(()),
        }
        is_served(&service).await;
    }
    assert_eq!((waiting.len(), refused), (2, 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_waits_of_one_queue_are_bounded_and_the_oldest_gives_way() {
    let service = with_places(8, 64).await;
    let (_, bob, _) = alice_and_bob(&service).await;
    let mut polls = Vec::new();
    for poll in 0..12_u32 {
        let looked = service.store.next_look();
        let request = bob.fetch_request(&service, 10, WAIT_MS - poll);
        polls.push(spawn(&service, Operation::FetchQueue, request, &[]));
        soon(looked).await;
    }
    for poll in polls.drain(..8) {
        let answer: FetchQueueResponse = soon(poll).await.unwrap().accepted();
        assert!(answer.entries.is_empty());
    }
    assert!(!polls.iter().any(JoinHandle::is_finished));
}

#[tokio::test]
async fn no_more_tokens_are_looked_at_than_an_operation_costs_and_spent_ones_are_not_verified() {
    let service = Service::start(Engine::Memory);
    let verified = || service.domain.issuer_keys().signatures_verified();
    let many: Vec<_> = (0..16).map(|_| tokens::mint()).collect();
    let reserve = async |tokens: &[HeaderValue]| {
        service
            .post_with(Operation::ReserveGroupId, &reservation(&service), tokens)
            .await
    };
    let before = verified();
    assert_eq!(reserve(&many).await.status, StatusCode::OK);
    assert_eq!(verified(), before + 1);
    // The first one is spent now: nothing is verified for it, nor for those behind it.
    for _ in 0..10 {
        assert_eq!(reserve(&many).await.problem(), ProblemType::TokenRejected);
    }
    assert_eq!(verified(), before + 1);
    // Those that nobody looked at pay for something else.
    assert_eq!(reserve(&many[1..]).await.status, StatusCode::OK);
    // Claims cost one each.
    let key = fresh_key();
    let claims = (0..3_u8).map(|claim| Claim {
        lookup: protocol::ids::LookupId([claim; 32]),
        ciphersuite: 1,
    });
    let body = ClaimKeyPackagesRequest {
        claims: claims.collect(),
    };
    let claim = Operation::ClaimKeyPackages;
    let request = Draft::by_key(&service, claim, &key, &body).signed(&key);
    let before = verified();
    let reply = service.post_with(claim, &request, &many[2..]).await;
    assert_eq!(reply.problem(), ProblemType::NoKeyPackages);
    assert_eq!(verified(), before + 3);
    let spent = [&many[2..4], &many[..1]].concat();
    let reply = service.post_with(claim, &request, &spent).await;
    assert_eq!(reply.problem(), ProblemType::TokenRejected);
    assert_eq!(verified(), before + 3);
}
