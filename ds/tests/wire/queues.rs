//! Queues: fetched, waited on, acknowledged, by their owner.

use std::time::Duration;

use protocol::Operation;
use protocol::codec::opaque;
use protocol::delivery::Payload;
use protocol::groups::GroupKind;
use protocol::problem::ProblemType;
use protocol::queues::{
    AcknowledgeQueueRequest, CreateQueueRequest, FetchQueueRequest, FetchQueueResponse,
    MAX_ACKNOWLEDGE, MAX_FETCH, MAX_WAIT_MS,
};
use protocol::time::DAY_MS;
use service::Clock as _;

use crate::support::client::Client;
use crate::support::commits::Plan;
use crate::support::inbox::Event;
use crate::support::request::fresh_key;
use crate::support::scenes::pair;
use crate::support::{Engine, Service, Setup, on_every_engine, tokens};

on_every_engine! {
    an_acknowledgement_deletes_exactly_what_it_names
    a_fetch_says_when_there_is_more
    a_long_poll_is_woken_by_a_message
    a_long_poll_ends_with_the_service
    many_entries_for_one_queue_all_arrive
    days_that_are_over_and_empty_are_not_walked_again
    entries_of_a_day_that_is_yet_to_come_are_acknowledged
}

/// The clock was ahead for a while: what came then is fetched once, not for ever.
async fn entries_of_a_day_that_is_yet_to_come_are_acknowledged(service: Service) {
    let (mut alice, bob, id) = pair(&service).await;
    let now = service.clock.now_unix_ms();
    for ahead in [DAY_MS, 20 * DAY_MS] {
        service.clock.set(now + ahead);
        alice.send(&service, &id, b"from tomorrow").await;
        service.clock.set(now);
        let entries = bob.fetch(&service).await;
        assert_eq!(entries.len(), 1);
        bob.acknowledge(&service, entries.iter().map(|entry| entry.id).collect())
            .await;
        assert!(bob.fetch(&service).await.is_empty());
        alice.send(&service, &id, b"from today").await;
        let entries = bob.fetch(&service).await;
        assert_eq!(entries.len(), 1);
        bob.acknowledge(&service, entries.iter().map(|entry| entry.id).collect())
            .await;
    }
}

async fn an_acknowledgement_deletes_exactly_what_it_names(service: Service) {
    let (mut alice, bob, id) = pair(&service).await;
    for text in [b"1", b"2", b"3"] {
        alice.send(&service, &id, text).await;
    }
    let entries = bob.fetch(&service).await;
    assert_eq!(entries.len(), 3);
    let named = entries.get(1).unwrap().id;

    // Neither another queue's owner nor a name that is not there deletes anything.
    let body = AcknowledgeQueueRequest {
        queue_id: bob.queue,
        entries: vec![named],
    };
    assert_eq!(
        service
            .refusal(Operation::AcknowledgeQueue, &alice.queue_owner, &body)
            .await,
        ProblemType::UnknownQueue
    );
    alice.acknowledge(&service, vec![named]).await;
    bob.acknowledge(
        &service,
        vec![protocol::ids::EntryId {
            index: 9_999,
            ..named
        }],
    )
    .await;
    assert_eq!(bob.fetch(&service).await.len(), 3);

    bob.acknowledge(&service, vec![named, named]).await;
    bob.acknowledge(&service, vec![named]).await;
    let left: Vec<_> = bob
        .fetch(&service)
        .await
        .iter()
        .map(|entry| entry.id)
        .collect();
    let expected: Vec<_> = entries
        .iter()
        .map(|entry| entry.id)
        .filter(|id| *id != named)
        .collect();
    assert_eq!(left, expected);
}

async fn a_fetch_says_when_there_is_more(service: Service) {
    let (mut alice, bob, id) = pair(&service).await;
    for _ in 0..3 {
        alice.send(&service, &id, b"x").await;
    }
    let answer: FetchQueueResponse = service
        .post(Operation::FetchQueue, &bob.fetch_request(&service, 2, 0))
        .await
        .accepted();
    assert_eq!((answer.entries.len(), answer.more), (2, 1));
    bob.acknowledge(
        &service,
        answer.entries.iter().map(|entry| entry.id).collect(),
    )
    .await;
    let answer: FetchQueueResponse = service
        .post(Operation::FetchQueue, &bob.fetch_request(&service, 2, 0))
        .await
        .accepted();
    assert_eq!((answer.entries.len(), answer.more), (1, 0));
}

async fn a_long_poll_is_woken_by_a_message(service: Service) {
    let (mut alice, bob, id) = pair(&service).await;
    // The poll looks again by itself after five seconds; woken it is much faster, if not always on a busy machine.
    for _ in 0..3 {
        let poll = bob.fetch_request(&service, 10, 30_000);
        let poll = service.post(Operation::FetchQueue, &poll);
        let looked = service.store.next_look();
        let talk = async {
            looked.await;
            alice.send(&service, &id, b"wake up").await;
        };
        let mut both = std::pin::pin!(async { tokio::join!(poll, talk) });
        let in_time = tokio::time::timeout(Duration::from_secs(3), &mut both).await;
        if let Ok((reply, ())) = in_time {
            assert_eq!(reply.accepted::<FetchQueueResponse>().entries.len(), 1);
            return;
        }
        let (reply, ()) = both.await;
        let entries = reply.accepted::<FetchQueueResponse>().entries;
        bob.acknowledge(&service, entries.iter().map(|entry| entry.id).collect())
            .await;
    }
    panic!("nothing wakes it");
}

async fn a_long_poll_ends_with_the_service(service: Service) {
    let (_, bob, _) = pair(&service).await;
    let poll = bob.fetch_request(&service, 10, 30_000);
    let poll = service.post(Operation::FetchQueue, &poll);
    let looked = service.store.next_look();
    let end = async {
        looked.await;
        service.trigger.request();
    };
    let both = async { tokio::join!(poll, end) };
    let (reply, ()) = tokio::time::timeout(Duration::from_secs(15), both)
        .await
        .unwrap();
    assert_eq!(reply.accepted::<FetchQueueResponse>().entries.len(), 0);
}

async fn many_entries_for_one_queue_all_arrive(service: Service) {
    let (mut alice, mut bob, id) = pair(&service).await;
    // More than two blocks of a stream.
    for i in 0..150u8 {
        alice.send(&service, &id, &[i]).await;
    }
    let mut texts: Vec<_> = bob
        .receive(&service)
        .await
        .into_iter()
        .map(|event| match event {
            Event::Message { text, .. } => *text.first().unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    texts.sort_unstable();
    assert_eq!(texts, (0..150).collect::<Vec<_>>());
    assert!(bob.fetch(&service).await.is_empty());
}

#[tokio::test]
async fn a_queue_answers_its_owner_only_and_within_its_limits() {
    let service = Service::start(Engine::Memory);
    let client = Client::new(&service).await;
    let owner = &client.queue_owner;
    let fetch = |queue_id, limit, wait_ms| FetchQueueRequest {
        queue_id,
        limit,
        wait_ms,
    };
    let unknown = protocol::ids::QueueId([3; 16]);
    // An unknown queue and somebody else's are one and the same.
    for (key, queue) in [(owner, unknown), (&fresh_key(), client.queue)] {
        let problem = service
            .refusal(Operation::FetchQueue, key, &fetch(queue, 1, 0))
            .await;
        assert_eq!(problem, ProblemType::UnknownQueue);
        let body = AcknowledgeQueueRequest {
            queue_id: queue,
            entries: Vec::new(),
        };
        assert_eq!(
            service
                .refusal(Operation::AcknowledgeQueue, key, &body)
                .await,
            ProblemType::UnknownQueue
        );
    }
    for (limit, wait_ms) in [(0, 0), (MAX_FETCH + 1, 0), (1, MAX_WAIT_MS + 1)] {
        let problem = service
            .refusal(
                Operation::FetchQueue,
                owner,
                &fetch(client.queue, limit, wait_ms),
            )
            .await;
        assert_eq!(problem, ProblemType::LimitExceeded);
    }
    let id = protocol::ids::EntryId {
        day: 0,
        incarnation: protocol::ids::Incarnation([0; 16]),
        index: 0,
    };
    let body = AcknowledgeQueueRequest {
        queue_id: client.queue,
        entries: vec![id; MAX_ACKNOWLEDGE + 1],
    };
    assert_eq!(
        service
            .refusal(Operation::AcknowledgeQueue, owner, &body)
            .await,
        ProblemType::LimitExceeded
    );

    // A key that nothing can be sealed to: of the wrong length, and of small order.
    for key in [vec![9; 31], vec![9; 33], Vec::new(), vec![0; 32]] {
        let body = CreateQueueRequest {
            hpke_public_key: opaque(key),
        };
        assert_eq!(
            service.refusal(Operation::CreateQueue, owner, &body).await,
            ProblemType::Malformed
        );
    }
}

#[tokio::test]
async fn a_queue_that_is_fetched_too_often_waits_or_brings_a_token() {
    let mut setup = Setup::on(Engine::Memory);
    setup.queue_allowance.capacity = 3;
    setup.queue_allowance.refill_per_minute = 6;
    let service = Service::with(setup);
    let (client, other) = (Client::new(&service).await, Client::new(&service).await);
    let fetch = async |client: &Client, tokens: &[http::HeaderValue]| {
        let request = client.fetch_request(&service, 1, 0);
        service
            .post_with(Operation::FetchQueue, &request, tokens)
            .await
    };
    for _ in 0..3 {
        client.fetch(&service).await;
    }
    let reply = fetch(&client, &[]).await;
    assert_eq!(reply.problem(), ProblemType::TooManyRequests);
    assert_eq!(reply.headers.get(http::header::RETRY_AFTER).unwrap(), "10");
    // Others have their own, and strangers cannot use this one up.
    other.fetch(&service).await;
    let token = [tokens::mint()];
    let _: FetchQueueResponse = fetch(&client, &token).await.accepted();
    for _ in 0..3 {
        client.fetch(&service).await;
    }
    let reply = fetch(&client, &token).await;
    assert_eq!(reply.problem(), ProblemType::TokenRejected);
    service.clock.advance(10_000);
    client.fetch(&service).await;
}

async fn days_that_are_over_and_empty_are_not_walked_again(service: Service) {
    let (mut alice, mut bob, id) = pair(&service).await;
    for day in 0..5 {
        alice.send(&service, &id, &[day]).await;
        bob.receive(&service).await;
        service.clock.advance(DAY_MS);
    }
    service.clock.advance(DAY_MS);
    bob.fetch(&service).await;
    let before = service.store.entries_read();
    bob.fetch(&service).await;
    assert_eq!(service.store.entries_read(), before);
    // What comes now, and what waits on a day that is over, is there.
    alice.send(&service, &id, b"waits").await;
    service.clock.advance(2 * DAY_MS);
    alice.send(&service, &id, b"new").await;
    for _ in 0..2 {
        assert_eq!(bob.fetch(&service).await.len(), 2);
    }
    // A clock that was ahead hides nothing of the days that it passed over.
    bob.receive(&service).await;
    let now = service.now();
    service.clock.advance(10 * DAY_MS);
    bob.fetch(&service).await;
    service.clock.set(now);
    alice.send(&service, &id, b"back").await;
    service.clock.advance(2 * DAY_MS);
    assert_eq!(bob.fetch(&service).await.len(), 1);
}

/// Large enough for the fan-out to be sealed on a thread of its own, beside the judgement.
const LARGE: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_in_a_large_group_reaches_every_queue_and_a_refused_one_none() {
    let service = Service::start(Engine::Memory);
    let mut owner = Client::new(&service).await;
    let id = owner.create_group(&service, GroupKind::Group).await;
    let (mut members, mut invitees) = (Vec::new(), Vec::new());
    for _ in 1..LARGE {
        let mut member = Client::new(&service).await;
        invitees.push(member.invitee(&service));
        members.push(member);
    }
    owner.commit(&service, &id, Plan::add(invitees)).await;
    owner.commit(&service, &id, Plan::update()).await;
    let mut flawed = owner.stage(&id, Plan::update());
    flawed.extensions.clear();
    let request = owner.commit_request(&service, &flawed);
    assert_eq!(
        service.refused(flawed.operation, &request).await,
        ProblemType::InvalidGroupInfo
    );
    for member in &members {
        let delivered = member.fetch(&service).await;
        let kinds: Vec<_> = delivered.iter().map(|entry| entry.payload.kind()).collect();
        assert_eq!(delivered.len(), 2, "{kinds:?}");
        assert!(
            delivered
                .iter()
                .any(|entry| matches!(entry.payload, Payload::Commit(_)))
        );
    }
}
