//! Bounds on what a request holds: each a typed problem, and nothing above it gets into a queue.

use ds::limits::RequestLimits;
use protocol::Operation;
use protocol::codec::opaque;
use protocol::delivery::Payload;
use protocol::groups::{GroupKind, ReserveGroupIdRequest, ReserveGroupIdResponse};
use protocol::key_packages::PublishKeyPackagesRequest;
use protocol::problem::ProblemType;
use protocol::queues::{FetchQueueResponse, MAX_FETCH};

use crate::support::client::Client;
use crate::support::commits::{Commit, Plan};
use crate::support::inbox::Event;
use crate::support::request::{copy, fresh_key};
use crate::support::samples::set;
use crate::support::scenes::pair;
use crate::support::{Engine, Service, on_every_engine};

on_every_engine! {
    long_messages_are_fetched_in_answers_that_a_gateway_passes
}

/// What a gateway passes at most, by default.
const GATEWAY_BYTES: usize = 2 * 1024 * 1024;
/// What an answer with more than one entry keeps to.
const ANSWER_BYTES: usize = 768 * 1024;

async fn long_messages_are_fetched_in_answers_that_a_gateway_passes(service: Service) {
    let (mut alice, mut bob, id) = pair(&service).await;
    let longest = RequestLimits::default().message_bytes - 4096;
    let lengths = [100, 500 * 1024, 500 * 1024, 700 * 1024, longest, 100];
    for length in lengths {
        alice.send(&service, &id, &vec![7; length]).await;
    }
    let mut received = Vec::new();
    loop {
        let request = bob.fetch_request(&service, MAX_FETCH, 0);
        let reply = service.post(Operation::FetchQueue, &request).await;
        let bytes = reply.body.len();
        let answer: FetchQueueResponse = reply.accepted();
        assert!(bytes <= GATEWAY_BYTES);
        assert!(
            answer.entries.len() == 1 || bytes <= ANSWER_BYTES,
            "{bytes}"
        );
        if answer.entries.is_empty() {
            assert_eq!(answer.more, 0);
            break;
        }
        let acknowledged = answer.entries.iter().map(|entry| entry.id).collect();
        for entry in &answer.entries {
            let Payload::Message(message) = bob.open(entry).payload else {
                panic!("not a message");
            };
            match bob.process(message.as_slice()) {
                Some(Event::Message { text, .. }) => received.push(text.len()),
                other => panic!("{other:?}"),
            }
        }
        bob.acknowledge(&service, acknowledged).await;
    }
    received.sort_unstable();
    let mut lengths = lengths;
    lengths.sort_unstable();
    assert_eq!(received, lengths);
}

#[tokio::test]
async fn a_message_above_its_bound_is_refused() {
    let service = Service::start(Engine::Memory);
    let (mut alice, bob, id) = pair(&service).await;
    let limit = RequestLimits::default().message_bytes;
    for (length, expected) in [
        (limit + 1, ProblemType::LimitExceeded),
        (limit, ProblemType::InvalidMessage),
    ] {
        let request = alice.message_request(&service, &id, vec![0; length]);
        assert_eq!(
            service.refused(Operation::SendMessage, &request).await,
            expected
        );
    }
    alice.send(&service, &id, b"short").await;
    assert_eq!(bob.fetch(&service).await.len(), 1);
}

#[tokio::test]
async fn a_commit_with_any_part_above_its_bound_is_refused_and_the_group_goes_on() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id) = pair(&service).await;
    let invitee = Client::new(&service).await.invitee(&service);
    let honest = alice.stage(&id, Plan::add([invitee]));
    let limits = RequestLimits::default();
    let changes: [&dyn Fn(&mut Commit); 4] = [
        &|commit| commit.commit = vec![0; limits.commit_bytes + 1],
        &|commit| commit.extensions = vec![0; limits.group_info_bytes],
        &|commit| commit.welcome.as_mut().unwrap().welcome = vec![0; limits.welcome_bytes],
        &|commit| commit.welcome.as_mut().unwrap().sealed_join_info = vec![0; limits.welcome_bytes],
    ];
    for change in changes {
        let mut commit = honest.clone();
        change(&mut commit);
        let request = alice.commit_request(&service, &commit);
        assert_eq!(
            service.refused(commit.operation, &request).await,
            ProblemType::LimitExceeded
        );
    }
    alice.abandon(&id);
    alice.commit(&service, &id, Plan::update()).await;
    bob.receive(&service).await;
    assert_eq!(alice.members(&id), bob.members(&id));
}

#[tokio::test]
async fn a_new_groups_tree_and_group_info_are_bounded() {
    let service = Service::start(Engine::Memory);
    let limits = RequestLimits::default();
    for (tree, info) in [
        (limits.new_tree_bytes + 1, 0),
        (0, limits.group_info_bytes + 1),
    ] {
        let client = Client::new(&service).await;
        let leaf = client.leaf(&service);
        let key = copy(&leaf.signer.0);
        let reserved: ReserveGroupIdResponse = service
            .call(Operation::ReserveGroupId, &key, &ReserveGroupIdRequest {})
            .await;
        let mut creation =
            client.draft_group(&service, reserved.group_id, GroupKind::Group, leaf, true);
        for (part, length) in [
            (&mut creation.request.ratchet_tree, tree),
            (&mut creation.request.group_info, info),
        ] {
            if length > 0 {
                *part = opaque(vec![0; length]);
            }
        }
        let problem = service
            .refusal(Operation::CreateGroup, &key, &creation.request)
            .await;
        assert_eq!(problem, ProblemType::LimitExceeded);
    }
}

#[tokio::test]
async fn a_key_package_set_is_bounded() {
    let service = Service::start(Engine::Memory);
    let publication = PublishKeyPackagesRequest {
        lookup: protocol::ids::LookupId([1; 32]),
        sets: vec![set(
            &service,
            &vec![0; RequestLimits::default().key_package_set_bytes + 1],
        )],
    };
    let problem = service
        .refusal(Operation::PublishKeyPackages, &fresh_key(), &publication)
        .await;
    assert_eq!(problem, ProblemType::LimitExceeded);
}
