//! Levels of limits: each leaf, each group, each queue, the whole service. A token buys more where that is
//! somebody's own affair.

use ds::limits::{LoadLimits, QueueLimits};
use http::{HeaderValue, StatusCode, header};
use protocol::Operation;
use protocol::directory::{Directory, Prices};
use protocol::groups::{Accepted, GroupKind};
use protocol::ids::GroupId;
use protocol::key_packages::PublishKeyPackagesRequest;
use protocol::operation::DIRECTORY_PATH;
use protocol::problem::ProblemType;
use tower::ServiceExt as _;

use crate::support::client::Client;
use crate::support::commits::Plan;
use crate::support::inbox::Event;
use crate::support::request::{Draft, fresh_key};
use crate::support::samples::set;
use crate::support::scenes::{Trio, pair, trio};
use crate::support::{Engine, Reply, Service, Setup, postgres, tokens};

async fn send(
    service: &Service,
    client: &mut Client,
    id: &GroupId,
    tokens: &[HeaderValue],
) -> Reply {
    let request = client.text_request(service, id, b"text");
    service
        .post_with(Operation::SendMessage, &request, tokens)
        .await
}

#[tokio::test]
async fn the_leaves_of_a_group_together_have_an_allowance_too() {
    let mut setup = Setup::on(Engine::Memory);
    setup.group_allowance.capacity = 12;
    setup.group_allowance.refill_per_minute = 6;
    let service = Service::with(setup);
    let Trio {
        mut alice,
        mut bob,
        id,
        ..
    } = trio(&service).await;
    let mut sent = 0;
    let refused = loop {
        let by = if sent % 2 == 0 { &mut alice } else { &mut bob };
        let reply = send(&service, by, &id, &[]).await;
        if reply.status != StatusCode::OK {
            break reply;
        }
        sent += 1;
    };
    assert!((5..=12).contains(&sent), "{sent}");
    assert_eq!(refused.headers.get(header::RETRY_AFTER).unwrap(), "10");
    assert!(refused.headers.contains_key(header::WWW_AUTHENTICATE));
    assert_eq!(refused.problem(), ProblemType::TooManyRequests);
    // Another group has its own.
    let other = alice.create_group(&service, GroupKind::Group).await;
    assert_eq!(
        send(&service, &mut alice, &other, &[]).await.status,
        StatusCode::OK
    );
    // A token pays for the one request that brings it.
    let token = [tokens::mint()];
    assert_eq!(
        send(&service, &mut bob, &id, &token).await.status,
        StatusCode::OK
    );
    for tokens in [&[][..], &token] {
        assert_ne!(
            send(&service, &mut bob, &id, tokens).await.status,
            StatusCode::OK
        );
    }
    service.clock.advance(10_000);
    assert_eq!(
        send(&service, &mut bob, &id, &[]).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn whoever_is_not_a_member_uses_up_no_allowance() {
    let mut setup = Setup::on(Engine::Memory);
    setup.group_allowance.capacity = 10;
    setup.group_allowance.refill_per_minute = 0;
    let service = Service::with(setup);
    let (mut alice, _bob, id) = pair(&service).await;
    for _ in 0..20 {
        let mut request = alice.text_request(&service, &id, b"text");
        *request.last_mut().unwrap() ^= 1;
        let problem = service.refused(Operation::SendMessage, &request).await;
        assert_eq!(problem, ProblemType::BadSignature);
    }
    assert_eq!(
        send(&service, &mut alice, &id, &[]).await.status,
        StatusCode::OK
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_fills_its_share_of_a_queue_loses_its_own_oldest_messages_and_nothing_else() {
    for engine in [Engine::Memory, Engine::Rocks, Engine::Postgres] {
        if !matches!(engine, Engine::Postgres) || postgres::is_available() {
            fill_a_share(engine).await;
        }
    }
}

async fn fill_a_share(engine: Engine) {
    let mut setup = Setup::on(engine);
    setup.queue_limits = QueueLimits {
        entries: 1_000,
        entries_of_group: 16,
    };
    let service = Service::with(setup);
    let (mut alice, mut bob, loud) = pair(&service).await;
    let quiet = alice.create_group(&service, GroupKind::Group).await;
    let invitee = bob.invitee(&service);
    alice.commit(&service, &quiet, Plan::add([invitee])).await;
    bob.receive(&service).await;
    alice.receive(&service).await;
    alice.send(&service, &quiet, b"quiet").await;
    alice.commit(&service, &loud, Plan::update()).await;
    for number in 0..50_u8 {
        alice.send(&service, &loud, &[number]).await;
    }
    let told = bob.receive(&service).await;
    let texts: Vec<&[u8]> = told
        .iter()
        .filter_map(|event| match event {
            Event::Message { text, .. } => Some(&text[..]),
            _ => None,
        })
        .collect();
    assert!(texts.contains(&&b"quiet"[..]));
    let loud_texts: Vec<u8> = texts
        .iter()
        .filter(|text| text.len() == 1)
        .map(|text| text[0])
        .collect();
    assert!(
        (14..=16).contains(&loud_texts.len()),
        "{}",
        loud_texts.len()
    );
    let newest: Vec<u8> = (50 - loud_texts.len() as u8..50).collect();
    assert_eq!(loud_texts, newest);
    // One marker, however much went, and the commit is there.
    let markers = told.iter().filter(|event| **event == Event::Dropped(loud));
    assert_eq!(markers.count(), 1);
    let committed = told
        .iter()
        .filter(|event| matches!(event, Event::Committed { .. }));
    assert_eq!(committed.count(), 1);
    // What was taken out waits no more: there is room again, and a new loss has a new marker.
    for number in 0..16_u8 {
        alice.send(&service, &loud, &[number]).await;
    }
    let told = bob.receive(&service).await;
    assert_eq!(told.len(), 16);
    for number in 0..17_u8 {
        alice.send(&service, &loud, &[number]).await;
    }
    let told = bob.receive(&service).await;
    assert!(told.contains(&Event::Dropped(loud)));
}

#[tokio::test]
async fn a_service_that_is_busy_says_when_to_come_again_before_it_looks_at_anything() {
    let mut setup = Setup::on(Engine::Memory);
    setup.load = LoadLimits {
        concurrent_requests: 0,
        concurrent_fetches: 0,
        requests_per_second: 0,
        nodes: 1,
    };
    let service = Service::with(setup);
    let reply = service.post(Operation::SendMessage, b"anything").await;
    assert_eq!(reply.problem(), ProblemType::Unavailable);
    assert_eq!(reply.headers.get(header::RETRY_AFTER).unwrap(), "1");
}

#[tokio::test]
async fn sets_of_key_packages_are_sold_by_number() {
    let mut setup = Setup::on(Engine::Memory);
    setup.prices.key_package_sets_per_token = 2;
    let service = Service::with(setup);
    let owner = fresh_key();
    let publish = async |sets: usize, paid: usize| {
        let body = PublishKeyPackagesRequest {
            lookup: protocol::ids::LookupId([5; 32]),
            sets: (0..sets).map(|_| set(&service, b"set")).collect(),
        };
        let operation = Operation::PublishKeyPackages;
        let request = Draft::by_key(&service, operation, &owner, &body).signed(&owner);
        let tokens: Vec<_> = (0..paid).map(|_| tokens::mint()).collect();
        service.post_with(operation, &request, &tokens).await
    };
    for (sets, price) in [(1, 1), (2, 1), (3, 2), (5, 3)] {
        let reply = publish(sets, price - 1).await;
        assert_eq!(reply.problem(), ProblemType::TokenRequired, "{sets}");
        let _: Accepted = publish(sets, price).await.accepted();
    }
}

#[tokio::test]
async fn the_directory_lists_prices_and_allowances_of_all_nodes_together() {
    let mut setup = Setup::on(Engine::Memory);
    setup.prices = Prices {
        key_package_sets_per_token: 7,
        ..setup.prices
    };
    setup.allowance.capacity = 300;
    setup.allowance.nodes = 3;
    let service = Service::with(setup);
    let request = http::Request::get(DIRECTORY_PATH)
        .header("gateway-authorization", service.gateway())
        .body(axum::body::Body::empty())
        .unwrap();
    let reply = Reply::read(service.router().oneshot(request).await.unwrap()).await;
    let directory: Directory = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(directory.prices.key_package_sets_per_token, 7);
    let allowances = directory.allowances.unwrap();
    assert_eq!(allowances.leaf.capacity, 300);
    assert_eq!(allowances.group.refill_per_minute, 60);
}
