//! Bounds on what a request holds: each a typed problem, and nothing above it gets into a queue.

use ds::limits::RequestLimits;
use protocol::Operation;
use protocol::codec::opaque;
use protocol::delivery::Payload;
use protocol::groups::{
    Accepted, GroupKind, JoinPermit, MessageAccepted, ReserveGroupIdRequest, ReserveGroupIdResponse,
};
use protocol::ids::GroupId;
use protocol::key_packages::PublishKeyPackagesRequest;
use protocol::problem::ProblemType;
use protocol::queues::{BlockGroupRequest, FetchQueueResponse, MAX_BLOCKED_GROUPS, MAX_FETCH};

use crate::support::client::{Client, Flaw};
use crate::support::commits::{Commit, JoinPlan, Plan};
use crate::support::inbox::Event;
use crate::support::request::{copy, fresh_key};
use crate::support::samples::{join_proposal, set};
use crate::support::scenes::pair;
use crate::support::{Engine, Service, Setup, on_every_engine};
use crypto::leaf_authorization::AuthorizedJoin;

on_every_engine! {
    long_messages_are_fetched_in_answers_that_a_gateway_passes
}

/// What a gateway passes at most, by default.
const GATEWAY_BYTES: usize = 4 * 1024 * 1024;
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

fn service_with(change: impl FnOnce(&mut RequestLimits)) -> Service {
    let mut setup = Setup::on(Engine::Memory);
    change(&mut setup.limits);
    Service::with(setup)
}

#[tokio::test]
async fn a_group_has_no_more_members_than_its_bound_however_they_come() {
    let service = service_with(|limits| limits.members = 2);
    let (mut alice, mut bob, id) = pair(&service).await;
    let mut carol = Client::new(&service).await;
    let plan = Plan::add([carol.invitee(&service)]);
    assert_eq!(
        alice.refused(&service, &id, plan).await,
        ProblemType::LimitExceeded
    );
    let leaf = carol.leaf_of_user(&service, Flaw::None, &bob.user(&id));
    let word = bob.authorize(&service, &id, AuthorizedJoin::Client, &leaf.signer.0);
    let group = alice.group(&id);
    let plan = JoinPlan::with(JoinPermit::Client(word), group.state_key, group.wrapper);
    let join = carol.join_externally(&service, &id, leaf, plan).await;
    assert_eq!(
        service
            .refused_at_cost(Operation::ExternalJoin, &join.signed(&service))
            .await,
        ProblemType::LimitExceeded
    );
    alice.commit(&service, &id, Plan::remove([1])).await;
    bob.receive(&service).await;
    let plan = Plan::add([carol.invitee(&service)]);
    alice.commit(&service, &id, plan).await;
}

#[tokio::test]
async fn nobody_is_added_to_a_group_whose_tree_could_not_be_fetched() {
    let service = service_with(|limits| limits.join_record_bytes = 2000);
    let (mut alice, mut bob, id) = pair(&service).await;
    let mut refused = None;
    for _ in 0..8 {
        let invitee = Client::new(&service).await.invitee(&service);
        let commit = alice.stage(&id, Plan::add([invitee]));
        let request = alice.commit_request(&service, &commit);
        let reply = service.post(commit.operation, &request).await;
        if reply.status != 200 {
            refused = Some(reply.problem());
            alice.abandon(&id);
            break;
        }
        alice.merge(&commit);
    }
    assert_eq!(refused, Some(ProblemType::LimitExceeded));
    bob.receive(&service).await;
    let carol = Client::new(&service).await;
    let leaf = carol.leaf_of_user(&service, Flaw::None, &bob.user(&id));
    let word = bob.authorize(&service, &id, AuthorizedJoin::Client, &leaf.signer.0);
    let group = bob.group(&id);
    let plan = JoinPlan::with(JoinPermit::Client(word), group.state_key, group.wrapper);
    let join = carol.join_externally(&service, &id, leaf, plan).await;
    assert_eq!(
        service
            .refused_at_cost(Operation::ExternalJoin, &join.signed(&service))
            .await,
        ProblemType::LimitExceeded
    );
    alice.commit(&service, &id, Plan::update()).await;
    bob.receive(&service).await;
    assert_eq!(alice.members(&id), bob.members(&id));
}

#[tokio::test]
async fn a_commit_covers_no_more_proposals_than_its_bound() {
    let service = service_with(|limits| limits.proposals = 1);
    let (mut alice, _, id) = pair(&service).await;
    let mut carol = Client::new(&service).await;
    let plan = Plan::add([carol.invitee(&service), carol.invitee(&service)]);
    assert_eq!(
        alice.refused(&service, &id, plan).await,
        ProblemType::LimitExceeded
    );
    let plan = Plan::add([carol.invitee(&service)]);
    alice.commit(&service, &id, plan).await;
}

#[tokio::test]
async fn pending_proposals_are_bounded_in_number_and_length() {
    let service = service_with(|limits| {
        limits.pending_proposals = 1;
        limits.proposal_bytes = 4000;
    });
    let (alice, _, id) = pair(&service).await;
    let mut carol = Client::new(&service).await;
    let sample = join_proposal(&service, &alice, &mut carol, &id);
    let reply = service.pay(Operation::Propose, &sample.signed()).await;
    let _: MessageAccepted = reply.accepted();
    let sample = join_proposal(&service, &alice, &mut carol, &id);
    assert_eq!(
        service.refused(Operation::Propose, &sample.signed()).await,
        ProblemType::LimitExceeded
    );
    let request = alice.self_remove_request(&service, &id, vec![0; 4001]);
    assert_eq!(
        service.refused(Operation::SelfRemove, &request).await,
        ProblemType::LimitExceeded
    );
}

#[tokio::test]
async fn a_queue_blocks_a_bounded_number_of_groups() {
    let service = Service::start(Engine::Memory);
    let client = Client::new(&service).await;
    let body = |number: usize| {
        let mut group_id = [0; 16];
        group_id[..8].copy_from_slice(&number.to_be_bytes());
        BlockGroupRequest {
            queue_id: client.queue,
            group_id: GroupId(group_id),
            blocked: 1,
        }
    };
    for number in 0..MAX_BLOCKED_GROUPS {
        let _: Accepted = service
            .call(Operation::BlockGroup, &client.queue_owner, &body(number))
            .await;
    }
    let owner = &client.queue_owner;
    assert_eq!(
        service
            .refusal(Operation::BlockGroup, owner, &body(MAX_BLOCKED_GROUPS))
            .await,
        ProblemType::LimitExceeded
    );
    // One that is blocked already is none more.
    service.clock.advance(1);
    let _: Accepted = service.call(Operation::BlockGroup, owner, &body(3)).await;
}
