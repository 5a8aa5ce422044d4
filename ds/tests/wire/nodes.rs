//! Two nodes on one database serve the same groups and queues.

use std::sync::Arc;

use http::StatusCode;
use protocol::Operation;
use protocol::delivery::PayloadKind;
use protocol::groups::ReserveGroupIdRequest;
use protocol::problem::ProblemType;
use tower::ServiceExt as _;

use crate::support::client::Client;
use crate::support::commits::Plan;
use crate::support::inbox::Event;
use crate::support::request::{Draft, fresh_key};
use crate::support::scenes::{Trio, trio};
use crate::support::{Reply, Service, postgres, tokens};

/// What waits for a client.
async fn kinds_of(client: &Client, node: &Service) -> Vec<PayloadKind> {
    let waiting = client.fetch(node).await;
    waiting.iter().map(|entry| entry.kind).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_by_one_node_is_fetched_by_the_other() {
    if !postgres::is_available() {
        return;
    }
    let [a, b] = Service::nodes();
    let Trio {
        mut alice,
        mut bob,
        mut carol,
        id,
    } = trio(&a).await;
    for (round, (by, to)) in [(&a, &b), (&b, &a), (&a, &b)].into_iter().enumerate() {
        let text = format!("round {round}").into_bytes();
        alice.send(by, &id, &text).await;
        let heard = [Event::Message { from: 0, text }];
        assert_eq!(bob.receive(to).await, heard);
        // What the one has acknowledged at one node is gone at the other.
        assert_eq!(bob.receive(by).await, []);
        assert_eq!(carol.receive(by).await, heard);
        bob.commit(to, &id, Plan::update()).await;
        for client in [&mut alice, &mut bob, &mut carol] {
            assert_eq!(kinds_of(client, by).await, [PayloadKind::Commit]);
            client.receive(by).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_at_one_node_ends_with_a_message_by_the_other() {
    if !postgres::is_available() {
        return;
    }
    let [a, b] = Service::nodes();
    let Trio {
        mut alice, bob, id, ..
    } = trio(&a).await;
    let poll = bob.fetch_request(&b, 10, 20_000);
    let request = b.http_request(Operation::FetchQueue.path(), poll, &[]);
    let router = b.router();
    let polled =
        tokio::spawn(async move { Reply::read(router.oneshot(request).await.unwrap()).await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    alice.send(&a, &id, b"hello").await;
    let found: protocol::queues::FetchQueueResponse = polled.await.unwrap().accepted();
    assert_eq!(found.entries.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_spent_at_one_node_is_refused_at_the_other() {
    if !postgres::is_available() {
        return;
    }
    let [a, b] = Service::nodes();
    let request = || {
        let key = fresh_key();
        let operation = Operation::ReserveGroupId;
        Draft::by_key(&a, operation, &key, &ReserveGroupIdRequest {}).signed(&key)
    };
    let token = [tokens::mint()];
    let first = request();
    let reply = a.post_with(Operation::ReserveGroupId, &first, &token).await;
    assert_eq!(reply.status, StatusCode::OK);
    let other = b
        .post_with(Operation::ReserveGroupId, &request(), &token)
        .await;
    assert_eq!(other.problem(), ProblemType::TokenRejected);
    // The same request is no second one: it has the recorded result at each node.
    let again = b.post_with(Operation::ReserveGroupId, &first, &token).await;
    assert_eq!((again.status, again.body), (reply.status, reply.body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_commits_that_race_at_two_nodes_one_wins() {
    if !postgres::is_available() {
        return;
    }
    let [a, b] = Service::nodes();
    let (a, b) = (Arc::new(a), Arc::new(b));
    let Trio {
        mut alice,
        mut bob,
        mut carol,
        id,
    } = trio(&a).await;
    for _ in 0..10 {
        let staged = [
            alice.stage(&id, Plan::update()),
            bob.stage(&id, Plan::update()),
        ];
        let requests = [
            alice.commit_request(&a, &staged[0]),
            bob.commit_request(&b, &staged[1]),
        ];
        let post = |node: &Arc<Service>, request: Vec<u8>, operation| {
            let node = Arc::clone(node);
            tokio::spawn(async move { node.post(operation, &request).await })
        };
        let [first, second] = requests;
        let at_a = post(&a, first, staged[0].operation);
        let at_b = post(&b, second, staged[1].operation);
        let replies = [at_a.await.unwrap(), at_b.await.unwrap()];
        let winner = usize::from(replies[1].status == StatusCode::OK);
        assert_eq!(replies[winner].status, StatusCode::OK);
        assert_eq!(replies[1 - winner].problem(), ProblemType::WrongEpoch);
        let (winning, losing) = match winner {
            0 => (&mut alice, &mut bob),
            _ => (&mut bob, &mut alice),
        };
        winning.merge(&staged[winner]);
        losing.abandon(&id);
        for client in [&mut alice, &mut bob, &mut carol] {
            // One, and the same for everybody.
            assert_eq!(kinds_of(client, &b).await, [PayloadKind::Commit]);
            client.receive(&b).await;
        }
    }
}
