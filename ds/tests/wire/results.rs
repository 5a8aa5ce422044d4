//! Retries, replays, races, allowances and expiry.

use crypto::keys::{GroupLookup as _, JoinKey};
use http::{StatusCode, header};
use protocol::Operation;
use protocol::groups::{EpochAccepted, JoinRecordRequest, MessageAccepted};
use protocol::problem::ProblemType;
use protocol::time::{CLOCK_WINDOW_MS, DAY_MS};
use tower::ServiceExt as _;

use crate::recovery::set_recovery_secret;
use crate::support::client::Client;
use crate::support::commits::{Commit, Plan};
use crate::support::inbox::Event;
use crate::support::request::fresh_key;
use crate::support::samples::samples;
use crate::support::scenes::{Trio, pair, trio};
use crate::support::{Engine, RETENTION_DAYS, Reply, Service, Setup, on_every_engine, tokens};

on_every_engine! {
    the_same_request_again_gets_the_same_answer_and_has_no_second_effect
    the_same_request_many_times_at_once_has_one_effect
    a_winner_that_lost_the_answer_signs_again_and_learns_that_it_won
    a_winner_that_removed_somebody_and_lost_the_answer_learns_that_it_won
    a_winner_that_changed_its_key_and_lost_the_answer_learns_that_it_won
    the_loser_of_a_race_changes_nothing_and_goes_on
    a_message_that_was_judged_before_a_removal_does_not_slip_behind_it
    a_message_that_met_a_harmless_commit_is_delivered_to_the_new_roster
    two_commits_at_once_have_one_winner
    days_expire_and_what_is_younger_stays
}

/// Operations that only read, or delete what is gone already: they need no record.
fn is_recorded(operation: Operation) -> bool {
    !matches!(
        operation,
        Operation::JoinRecord
            | Operation::RecoveryRecord
            | Operation::ExternalCommitInfo
            | Operation::InspectGroup
            | Operation::OwnLeaf
            | Operation::CountKeyPackages
            | Operation::FetchQueue
            | Operation::AcknowledgeQueue
    )
}

async fn the_same_request_again_gets_the_same_answer_and_has_no_second_effect(service: Service) {
    for sample in samples(&service).await {
        let (operation, request) = (sample.operation(), sample.signed());
        let before = service.store.transitions();
        let first = service.pay(operation, &request).await;
        assert_eq!(first.status, StatusCode::OK, "{operation:?}");
        if is_recorded(operation) {
            assert_eq!(
                service.store.transitions(),
                before + 1,
                "{operation:?} is one transition"
            );
        }
        let after = service.store.transitions();
        // Without a token, and minutes later: the answer was lost, not the payment.
        service.clock.advance(60_000);
        let again = service.post(operation, &request).await;
        if operation != Operation::FetchQueue {
            assert_eq!(again, first, "{operation:?}");
        }
        assert_eq!(service.store.transitions(), after);
        // Whoever gets hold of the request later replays it in vain.
        service.clock.advance(CLOCK_WINDOW_MS);
        assert_eq!(
            service.post(operation, &request).await.problem(),
            ProblemType::StaleTimestamp
        );
        service.clock.set(service.now() - CLOCK_WINDOW_MS - 60_000);
    }
}

async fn the_same_request_many_times_at_once_has_one_effect(service: Service) {
    for sample in samples(&service).await {
        let (operation, request) = (sample.operation(), sample.signed());
        if !is_recorded(operation) {
            continue;
        }
        let before = service.store.transitions();
        let token = [tokens::mint()];
        let attempts: Vec<_> = (0..6)
            .map(|_| {
                let request = service.http_request(operation.path(), request.clone(), &token);
                let router = service.router();
                tokio::spawn(
                    async move { Reply::read(router.oneshot(request).await.unwrap()).await },
                )
            })
            .collect();
        let mut replies = Vec::new();
        for attempt in attempts {
            replies.push(attempt.await.unwrap());
        }
        let done = service.post_with(operation, &request, &token).await;
        assert_eq!(done.status, StatusCode::OK, "{operation:?}");
        for reply in replies {
            // One waits for the token of the first; others are told to come again, as this one did.
            let is_told = reply.status == StatusCode::SERVICE_UNAVAILABLE
                && reply.problem() == ProblemType::Unavailable;
            assert!(is_told || reply == done, "{operation:?}: {reply:?}");
        }
        assert_eq!(service.store.transitions(), before + 1, "{operation:?}");
    }
}

async fn a_winner_that_lost_the_answer_signs_again_and_learns_that_it_won(service: Service) {
    let Trio {
        mut alice,
        mut bob,
        id,
        ..
    } = trio(&service).await;
    let commit = alice.stage(&id, Plan::update());
    let request = alice.commit_request(&service, &commit);
    let accepted: EpochAccepted = service.post(commit.operation, &request).await.accepted();
    service.clock.advance(CLOCK_WINDOW_MS + 1);
    // Others go on meanwhile.
    bob.receive(&service).await;
    bob.commit(&service, &id, Plan::update()).await;
    let before = service.store.transitions();
    let again = alice.commit_request(&service, &commit);
    let repeated: EpochAccepted = service.post(commit.operation, &again).await.accepted();
    assert_eq!(repeated, accepted);
    assert_eq!(service.store.transitions(), before);
    alice.merge(&commit);
    alice.receive(&service).await;
    assert_eq!(alice.members(&id), bob.members(&id));
}

async fn a_winner_that_removed_somebody_and_lost_the_answer_learns_that_it_won(service: Service) {
    let Trio {
        mut alice,
        mut bob,
        id,
        ..
    } = trio(&service).await;
    let commit = alice.stage(&id, Plan::remove([2]));
    let request = alice.commit_request(&service, &commit);
    let accepted: EpochAccepted = service.post(commit.operation, &request).await.accepted();
    service.clock.advance(1);
    let before = service.store.transitions();
    // With the old state key, which opens nothing any more: the next one does.
    let again = alice.commit_request(&service, &commit);
    let repeated: EpochAccepted = service.post(commit.operation, &again).await.accepted();
    assert_eq!(repeated, accepted);
    assert_eq!(service.store.transitions(), before);
    alice.merge(&commit);
    bob.receive(&service).await;
    alice.send(&service, &id, b"two of us").await;
    assert_eq!(
        bob.receive(&service).await,
        [Event::Message {
            from: 0,
            text: b"two of us".to_vec()
        }]
    );
}

async fn a_winner_that_changed_its_key_and_lost_the_answer_learns_that_it_won(service: Service) {
    for rotates in [false, true] {
        let (mut alice, mut bob, id) = pair(&service).await;
        let leaf = alice.renewed_leaf(&service, &id);
        let commit = alice.stage(&id, Plan::update_credential(leaf).rotating(rotates));
        let request = alice.commit_request(&service, &commit);
        let accepted: EpochAccepted = service.post(commit.operation, &request).await.accepted();
        service.clock.advance(1);
        let before = service.store.transitions();
        // Her commit is pending: she signs with the key of the leaf that she has replaced.
        let again = alice.commit_request(&service, &commit);
        let repeated: EpochAccepted = service.post(commit.operation, &again).await.accepted();
        assert_eq!(repeated, accepted);
        // That key is good for nothing else.
        let next = commit.next_state_key.unwrap_or(commit.state_key);
        let old_state_key = std::mem::replace(&mut alice.group_mut(&id).state_key, next);
        let request = alice.message_request(&service, &id, b"x".to_vec());
        assert_eq!(
            service.refused(Operation::SendMessage, &request).await,
            ProblemType::BadSignature
        );
        let other = Commit {
            commit: b"another commit".to_vec(),
            state_key: next,
            next_state_key: None,
            ..commit.clone()
        };
        let request = alice.commit_request(&service, &other);
        assert_eq!(
            service.refused(other.operation, &request).await,
            ProblemType::BadSignature
        );
        assert_eq!(service.store.transitions(), before);
        alice.group_mut(&id).state_key = old_state_key;
        alice.merge(&commit);
        bob.receive(&service).await;
        alice.receive(&service).await;
        alice.send(&service, &id, b"renewed").await;
        assert_eq!(
            bob.receive(&service).await,
            [Event::Message {
                from: 0,
                text: b"renewed".to_vec()
            }]
        );
    }
}

async fn the_loser_of_a_race_changes_nothing_and_goes_on(service: Service) {
    for rotates in [false, true] {
        let Trio {
            mut alice,
            mut bob,
            mut carol,
            id,
        } = trio(&service).await;
        let lost = bob.stage(&id, Plan::update().rotating(true));
        alice
            .commit(&service, &id, Plan::update().rotating(rotates))
            .await;
        let request = bob.commit_request(&service, &lost);
        let expected = if rotates {
            ProblemType::UnknownGroup
        } else {
            ProblemType::WrongEpoch
        };
        assert_eq!(service.refused(lost.operation, &request).await, expected);
        bob.abandon(&id);
        assert_eq!(bob.receive(&service).await, [Event::Committed { epoch: 2 }]);
        bob.commit(&service, &id, Plan::update()).await;
        for client in [&mut alice, &mut carol] {
            client.receive(&service).await;
            assert_eq!(client.group(&id).mls.epoch().as_u64(), 3);
        }
    }
}

/// Posts from a task of its own, while a request of ours is between its decision and its transition.
fn post_meanwhile(service: &Service, operation: Operation, request: Vec<u8>) {
    let (router, request) = (
        service.router(),
        service.http_request(operation.path(), request, &[]),
    );
    service.store.before_next_group_transition(async move {
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    });
}

async fn a_message_that_was_judged_before_a_removal_does_not_slip_behind_it(service: Service) {
    let Trio {
        mut alice,
        mut bob,
        mut carol,
        id,
    } = trio(&service).await;
    let removal = alice.stage(&id, Plan::remove([2]));
    let request = alice.commit_request(&service, &removal);
    let message = bob.text_request(&service, &id, b"she must not see this");
    post_meanwhile(&service, Operation::RemoveUsers, request);
    let reply = service.post(Operation::SendMessage, &message).await;
    assert_eq!(reply.problem(), ProblemType::UnknownGroup);
    alice.merge(&removal);
    assert_eq!(carol.receive(&service).await, [Event::Removed]);
    bob.receive(&service).await;
    bob.send(&service, &id, b"now").await;
    alice.receive(&service).await;
    assert!(carol.fetch(&service).await.is_empty());
}

async fn a_message_that_met_a_harmless_commit_is_delivered_to_the_new_roster(service: Service) {
    let (mut alice, mut bob, id) = pair(&service).await;
    let mut carol = Client::new(&service).await;
    let add = alice.stage(&id, Plan::add([carol.invitee(&service)]));
    let request = alice.commit_request(&service, &add);
    let message = bob.text_request(&service, &id, b"hello");
    post_meanwhile(&service, Operation::AddUsers, request);
    let _: MessageAccepted = service
        .post(Operation::SendMessage, &message)
        .await
        .accepted();
    alice.merge(&add);
    assert_eq!(
        alice.receive(&service).await,
        [Event::Message {
            from: 1,
            text: b"hello".to_vec()
        }]
    );
    // Carol gets it too, and cannot read it: it is older than she is here. Her Welcome opens.
    assert_eq!(carol.fetch(&service).await.len(), 2);
}

async fn two_commits_at_once_have_one_winner(service: Service) {
    let Trio {
        mut alice,
        mut bob,
        mut carol,
        id,
    } = trio(&service).await;
    for round in 0..5u64 {
        let commits = [
            alice.stage(&id, Plan::update()),
            bob.stage(&id, Plan::update()),
        ];
        let requests = [
            alice.commit_request(&service, &commits[0]),
            bob.commit_request(&service, &commits[1]),
        ];
        let posts = requests.map(|request| {
            let request = service.http_request(Operation::UpdateClient.path(), request, &[]);
            let router = service.router();
            tokio::spawn(async move { Reply::read(router.oneshot(request).await.unwrap()).await })
        });
        let mut won = Vec::new();
        for post in posts {
            let reply = post.await.unwrap();
            won.push(reply.status == StatusCode::OK);
            if reply.status != StatusCode::OK {
                assert_eq!(reply.problem(), ProblemType::WrongEpoch);
            }
        }
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
        for (client, won) in [&mut alice, &mut bob].into_iter().zip(&won) {
            if !won {
                client.abandon(&id);
            }
        }
        for client in [&mut alice, &mut bob, &mut carol] {
            assert_eq!(
                client.receive(&service).await,
                [Event::Committed { epoch: round + 2 }]
            );
        }
    }
}

#[tokio::test]
async fn an_allowance_that_is_used_up_says_when_to_come_back_and_a_token_buys_more() {
    let mut setup = Setup::on(Engine::Memory);
    setup.allowance.capacity = 3;
    setup.allowance.refill_per_minute = 6;
    let service = Service::with(setup);
    let (mut alice, mut bob, id) = pair(&service).await;
    // Alice has used one for the commit that added Bob.
    for _ in 0..2 {
        alice.send(&service, &id, b"x").await;
    }
    let before = service.store.transitions();
    let request = alice.text_request(&service, &id, b"one too many");
    let reply = service.post(Operation::SendMessage, &request).await;
    assert_eq!(reply.problem(), ProblemType::TooManyRequests);
    assert_eq!(reply.headers.get(header::RETRY_AFTER).unwrap(), "10");
    assert!(reply.headers.contains_key(header::WWW_AUTHENTICATE));
    assert_eq!(service.store.transitions(), before);
    // Bob has his own.
    bob.send(&service, &id, b"y").await;

    let token = [tokens::mint()];
    let _: MessageAccepted = service
        .post_with(Operation::SendMessage, &request, &token)
        .await
        .accepted();
    for _ in 0..3 {
        alice.send(&service, &id, b"bought").await;
    }
    let request = alice.text_request(&service, &id, b"again");
    let reply = service
        .post_with(Operation::SendMessage, &request, &token)
        .await;
    assert_eq!(reply.problem(), ProblemType::TokenRejected, "spent");
    service.clock.advance(10_000);
    let request = alice.text_request(&service, &id, b"later");
    let _: MessageAccepted = service
        .post(Operation::SendMessage, &request)
        .await
        .accepted();
    assert_eq!(bob.receive(&service).await.len(), 2 + 1 + 3 + 1);
}

#[tokio::test]
async fn a_request_that_is_not_authenticated_takes_nothing_from_an_allowance() {
    let mut setup = Setup::on(Engine::Memory);
    setup.allowance.capacity = 2;
    setup.allowance.refill_per_minute = 0;
    let service = Service::with(setup);
    let (mut alice, _, id) = pair(&service).await;
    for _ in 0..5 {
        let request = alice.text_request(&service, &id, b"x");
        let draft = alice.leaf_draft(&service, &id, Operation::SendMessage, request);
        let forged = draft.signed(&fresh_key());
        let _ = service
            .post(Operation::SendMessage, &forged)
            .await
            .problem();
    }
    alice.send(&service, &id, b"mine").await;
}

async fn days_expire_and_what_is_younger_stays(service: Service) {
    let (mut alice, bob, id) = pair(&service).await;
    let mut carol = Client::new(&service).await;
    let add = alice.stage(&id, Plan::add([carol.invitee(&service)]));
    let request = alice.commit_request(&service, &add);
    let _: EpochAccepted = service.post(Operation::AddUsers, &request).await.accepted();
    alice.merge(&add);
    let join_key = JoinKey::new(add.welcome.unwrap().join_key);
    set_recovery_secret(&service, &bob, &id).await;
    alice.send(&service, &id, b"old").await;

    service.clock.advance(u64::from(RETENTION_DAYS) * DAY_MS);
    ds::run::expire(&service.domain).await.unwrap();
    alice.send(&service, &id, b"young").await;
    assert_eq!(bob.fetch(&service).await.len(), 3, "commit, old, young");
    carol.join_record(&service, &id, &join_key).await;

    service.clock.advance(DAY_MS);
    ds::run::expire(&service.domain).await.unwrap();
    let record = JoinRecordRequest {
        lookup: join_key.lookup_in(&id),
    };
    let problem = service
        .refusal(Operation::JoinRecord, &fresh_key(), &record)
        .await;
    assert_eq!(problem, ProblemType::UnknownRecord);
    let left = bob.fetch(&service).await;
    assert_eq!(left.len(), 1);
    // The group itself does not expire.
    alice.commit(&service, &id, Plan::remove([2])).await;
    alice.send(&service, &id, b"today").await;
    assert_eq!(bob.fetch(&service).await.len(), 3);
}

#[tokio::test]
async fn a_group_that_moves_on_between_roster_and_tree_is_judged_as_it_is_now() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id) = pair(&service).await;
    let slow = alice.stage(&id, Plan::update());
    let slow = alice.commit_request(&service, &slow);
    let fast = bob.stage(&id, Plan::update());
    let request = bob.commit_request(&service, &fast);
    let (router, request) = (
        service.router(),
        service.http_request(fast.operation.path(), request, &[]),
    );
    service.store.before_next_tree(async move {
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    });
    let reply = service.post(Operation::UpdateClient, &slow).await;
    assert_eq!(reply.problem(), ProblemType::WrongEpoch);
    assert_eq!(reply.document()["epoch"], 2);
    bob.merge(&fast);
    alice.abandon(&id);
    alice.receive(&service).await;
    bob.receive(&service).await;
    bob.send(&service, &id, b"on").await;
    assert_eq!(alice.receive(&service).await.len(), 1);
}
