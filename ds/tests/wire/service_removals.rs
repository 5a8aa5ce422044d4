//! The service proposes to remove those who are gone: their queue deleted, or not read for months. Never anybody
//! else, and by nobody's doing but their own.

use protocol::Operation;
use protocol::groups::{Accepted, EpochAccepted, JoinPermit};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::queues::{BlockGroupRequest, DeleteQueueRequest};
use protocol::time::DAY_MS;

use crate::recovery::set_recovery_secret;
use crate::support::client::{CIPHERSUITES, Client, external_sender};
use crate::support::commits::{JoinPlan, Plan};
use crate::support::inbox::Event;
use crate::support::request::Draft;
use crate::support::scenes::{Trio, pair, trio};
use crate::support::{Engine, INACTIVITY_DAYS, RETENTION_DAYS, Service, Setup, on_every_engine};
use crypto::sign::Scheme;
use openmls::prelude::{Extension, Extensions};
use tower::ServiceExt as _;

on_every_engine! {
    who_comes_too_late_for_the_join_record_is_removed_and_who_came_is_not
    whose_queue_is_deleted_is_removed_and_nobody_else
    who_has_not_read_for_months_is_removed_and_who_has_is_not
}

async fn delete_queue(service: &Service, client: &Client) {
    let body = DeleteQueueRequest {
        queue_id: client.queue,
    };
    let _: Accepted = service
        .call(Operation::DeleteQueue, &client.queue_owner, &body)
        .await;
}

/// The next message is not taken: first those who are gone must go.
async fn finds_out(service: &Service, client: &mut Client, id: &GroupId) {
    let request = client.text_request(service, id, b"is everybody there?");
    let reply = service.post(Operation::SendMessage, &request).await;
    assert_eq!(reply.problem(), ProblemType::PendingProposals);
}

async fn whose_queue_is_deleted_is_removed_and_nobody_else(service: Service) {
    // Every set of queues of three others.
    for gone in 0..8_u32 {
        let mut alice = Client::new(&service).await;
        let id = alice
            .create_group(&service, protocol::groups::GroupKind::Group)
            .await;
        let mut others = Vec::new();
        for _ in 0..3 {
            others.push(Client::new(&service).await);
        }
        let invitees: Vec<_> = others
            .iter_mut()
            .map(|other| other.invitee(&service))
            .collect();
        alice.commit(&service, &id, Plan::add(invitees)).await;
        alice.receive(&service).await;
        let is_gone = |leaf: u32| leaf > 0 && gone & (1 << (leaf - 1)) != 0;
        for (leaf, other) in (1..).zip(&mut others) {
            other.receive(&service).await;
            if is_gone(leaf) {
                delete_queue(&service, other).await;
            }
        }
        if gone == 0 {
            alice.send(&service, &id, b"all are there").await;
            continue;
        }
        let again = alice.text_request(&service, &id, b"and now?");
        finds_out(&service, &mut alice, &id).await;
        let pending = alice.inspect(&service, &id).await.pending_proposals.len();
        assert_eq!(pending, usize::try_from(gone.count_ones()).unwrap());
        let proposed = alice.receive(&service).await;
        assert_eq!(proposed, vec![Event::Proposed; pending]);
        // Asking again proposes nothing again.
        assert_eq!(
            service.refused(Operation::SendMessage, &again).await,
            ProblemType::PendingProposals
        );
        assert_eq!(alice.receive(&service).await, []);
        alice
            .commit(&service, &id, Plan::update().rotating(true))
            .await;
        let left: Vec<u32> = (0..4).filter(|leaf| !is_gone(*leaf)).collect();
        assert_eq!(alice.members(&id), left);
        alice.receive(&service).await;
        alice.send(&service, &id, b"goes on").await;
    }
}

async fn who_has_not_read_for_months_is_removed_and_who_has_is_not(service: Service) {
    let Trio {
        mut alice,
        mut bob,
        mut carol,
        id,
    } = trio(&service).await;
    for client in [&bob, &carol] {
        set_recovery_secret(&service, client, &id).await;
    }
    // Carol reads now and then and finds nothing; Bob does not. Days are kept to the week.
    for _ in 0..(INACTIVITY_DAYS - 7) / 20 {
        service.clock.advance(20 * DAY_MS);
        carol.receive(&service).await;
        alice.receive(&service).await;
    }
    alice.send(&service, &id, b"nobody is gone yet").await;
    carol.receive(&service).await;
    service.clock.advance(20 * DAY_MS);
    finds_out(&service, &mut alice, &id).await;
    assert_eq!(alice.receive(&service).await, [Event::Proposed]);
    carol.receive(&service).await;
    carol
        .commit(&service, &id, Plan::update().rotating(true))
        .await;
    assert_eq!(carol.members(&id), [0, 2]);
    // He hears of it when he is back.
    assert_eq!(bob.receive(&service).await.last(), Some(&Event::Removed));
}

async fn who_comes_too_late_for_the_join_record_is_removed_and_who_came_is_not(service: Service) {
    let (mut alice, mut bob, id) = pair(&service).await;
    set_recovery_secret(&service, &bob, &id).await;
    let mut late: Vec<Client> = Vec::new();
    for _ in 0..2 {
        let mut client = Client::new(&service).await;
        let invitee = client.invitee(&service);
        alice.commit(&service, &id, Plan::add([invitee])).await;
        late.push(client);
    }
    alice.receive(&service).await;
    bob.receive(&service).await;
    service.clock.advance(u64::from(RETENTION_DAYS) * DAY_MS);
    alice.send(&service, &id, b"the last day").await;
    assert_eq!(bob.receive(&service).await.len(), 1);
    service.clock.advance(DAY_MS);
    // Something that drops what has expired must not make the service forget them.
    set_recovery_secret(&service, &alice, &id).await;
    // Found out by a commit; the proposals are of the new epoch.
    bob.commit(&service, &id, Plan::update()).await;
    for client in [&mut alice, &mut bob] {
        let events = client.receive(&service).await;
        let proposed = events.iter().filter(|event| **event == Event::Proposed);
        assert_eq!(proposed.count(), 2);
    }
    bob.commit(&service, &id, Plan::update().rotating(true))
        .await;
    alice.receive(&service).await;
    bob.receive(&service).await;
    assert_eq!(bob.members(&id), [0, 1]);
    alice
        .send(&service, &id, b"nobody else is waited for")
        .await;
    assert_eq!(bob.receive(&service).await.len(), 1);
}

#[tokio::test]
async fn a_message_finds_out_who_came_too_late() {
    let service = Service::start(Engine::Memory);
    let (mut alice, _, id) = pair(&service).await;
    service
        .clock
        .advance(u64::from(RETENTION_DAYS + 1) * DAY_MS);
    finds_out(&service, &mut alice, &id).await;
    assert_eq!(alice.receive(&service).await, [Event::Proposed]);
    alice
        .commit(&service, &id, Plan::update().rotating(true))
        .await;
    assert_eq!(alice.members(&id), [0]);
}

#[tokio::test]
async fn a_commit_finds_out_too_and_is_accepted() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    delete_queue(&service, &trio.carol).await;
    trio.alice.commit(&service, &id, Plan::update()).await;
    // The proposal is one of the new epoch.
    assert_eq!(
        trio.bob.receive(&service).await,
        [Event::Committed { epoch: 2 }, Event::Proposed]
    );
    assert_eq!(
        trio.bob
            .refused(&service, &id, Plan::update().alone())
            .await,
        ProblemType::PendingProposals
    );
    trio.bob
        .commit(&service, &id, Plan::update().rotating(true))
        .await;
    assert_eq!(trio.bob.members(&id), [0, 1]);
}

#[tokio::test]
async fn who_commits_over_a_queue_that_is_gone_removes_it_at_once() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    delete_queue(&service, &trio.carol).await;
    trio.alice.commit(&service, &id, Plan::remove([2])).await;
    assert_eq!(
        trio.bob.receive(&service).await,
        [Event::Committed { epoch: 2 }]
    );
    trio.bob.send(&service, &id, b"nothing is pending").await;
}

#[tokio::test]
async fn an_external_commit_is_followed_by_the_services_proposals_once_more() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    delete_queue(&service, &trio.carol).await;
    finds_out(&service, &mut trio.alice, &id).await;
    trio.alice.receive(&service).await;
    let tablet = Client::new(&service).await;
    let user = trio.bob.user(&id);
    let leaf = tablet.leaf_of_user(&service, crate::support::client::Flaw::None, &user);
    let word = trio.bob.authorize(
        &service,
        &id,
        crypto::leaf_authorization::AuthorizedJoin::Client,
        &leaf.signer.0,
    );
    let group = trio.alice.group(&id);
    let plan = JoinPlan::with(JoinPermit::Client(word), group.state_key, group.wrapper);
    let join = tablet.join_externally(&service, &id, leaf, plan).await;
    let _: EpochAccepted = service
        .pay(Operation::ExternalJoin, &join.signed(&service))
        .await
        .accepted();
    assert_eq!(
        trio.alice.receive(&service).await,
        [Event::Committed { epoch: 2 }, Event::Proposed]
    );
    trio.alice
        .commit(&service, &id, Plan::update().rotating(true))
        .await;
    assert_eq!(trio.alice.members(&id), [0, 1, 3]);
}

#[tokio::test]
async fn who_is_to_be_removed_and_is_back_takes_its_place_again() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id) = pair(&service).await;
    delete_queue(&service, &bob).await;
    finds_out(&service, &mut alice, &id).await;
    alice.receive(&service).await;
    // He is back with another queue.
    let fresh = Client::new(&service).await;
    (bob.queue, bob.queue_owner, bob.queue_hpke) =
        (fresh.queue, fresh.queue_owner, fresh.queue_hpke);
    let user = bob.user(&id);
    let key = {
        use openmls::prelude::OpenMlsProvider as _;
        let mut lost = bob.groups.remove(&id).unwrap();
        lost.mls.delete(bob.provider.storage()).unwrap();
        lost.signer.0
    };
    let leaf = bob.leaf_for_key(
        &service,
        crate::support::client::Flaw::None,
        &user,
        crate::support::request::copy(&key),
    );
    let word = crypto::leaf_authorization::authorize(
        &key,
        (
            &id,
            &crypto::keys::StateKey::new(alice.group(&id).state_key),
        ),
        crypto::leaf_authorization::AuthorizedJoin::Rejoin,
        1,
        service.now() + 1000,
        &key.public(),
    );
    let group = alice.group(&id);
    let plan = JoinPlan::with(JoinPermit::Rejoin(word), group.state_key, group.wrapper);
    let join = bob
        .join_externally(&service, &id, leaf, plan.rotating())
        .await;
    let _: EpochAccepted = service
        .pay(Operation::ExternalJoin, &join.signed(&service))
        .await
        .accepted();
    bob.groups.insert(id, join.membership);
    assert_eq!(
        alice.receive(&service).await,
        [Event::Committed { epoch: 2 }],
        "nobody is gone any more"
    );
    alice.send(&service, &id, b"welcome back").await;
    assert_eq!(bob.receive(&service).await.len(), 1);
}

#[tokio::test]
async fn a_queue_that_blocks_a_group_takes_nothing_from_it_and_is_not_gone() {
    let service = Service::start(Engine::Memory);
    let Trio {
        mut alice,
        mut bob,
        mut carol,
        id,
    } = trio(&service).await;
    let block = async |blocked: u8| {
        let body = BlockGroupRequest {
            queue_id: bob.queue,
            group_id: id,
            blocked,
        };
        let _: Accepted = service
            .call(Operation::BlockGroup, &bob.queue_owner, &body)
            .await;
        service.clock.advance(1);
    };
    block(1).await;
    alice.send(&service, &id, b"not for bob").await;
    assert_eq!(bob.fetch(&service).await.len(), 0);
    assert_eq!(carol.receive(&service).await.len(), 1);
    block(0).await;
    alice.send(&service, &id, b"for bob too").await;
    assert_eq!(bob.receive(&service).await.len(), 1);
    let body = BlockGroupRequest {
        queue_id: bob.queue,
        group_id: id,
        blocked: 2,
    };
    assert_eq!(
        service
            .refusal(Operation::BlockGroup, &bob.queue_owner, &body)
            .await,
        ProblemType::Malformed
    );
    let body = BlockGroupRequest { blocked: 1, ..body };
    assert_eq!(
        service
            .refusal(Operation::BlockGroup, &carol.queue_owner, &body)
            .await,
        ProblemType::UnknownQueue
    );
}

#[tokio::test]
async fn a_block_counts_from_the_next_message_on_though_the_record_was_just_being_read() {
    let service = Service::start(Engine::Memory);
    let (mut alice, bob, id) = pair(&service).await;
    // What is known of his queue is too old: the next message reads its record.
    service.clock.advance(2 * 60_000);
    let body = BlockGroupRequest {
        queue_id: bob.queue,
        group_id: id,
        blocked: 1,
    };
    let block = Draft::by_key(&service, Operation::BlockGroup, &bob.queue_owner, &body)
        .signed(&bob.queue_owner);
    let (router, block) = (
        service.router(),
        service.http_request(Operation::BlockGroup.path(), block, &[]),
    );
    service.store.after_next_queues(async move {
        let response = router.oneshot(block).await.unwrap();
        assert_eq!(response.status(), http::StatusCode::OK);
    });
    alice.send(&service, &id, b"while he blocks").await;
    assert_eq!(bob.fetch(&service).await.len(), 1);
    alice.send(&service, &id, b"after it").await;
    assert_eq!(bob.fetch(&service).await.len(), 1);
}

#[tokio::test]
async fn the_service_signs_its_proposals_in_groups_of_every_suite() {
    let service = Service::start(Engine::Memory);
    for suite in CIPHERSUITES {
        let mut alice = Client::of_suite(&service, suite).await;
        let mut bob = Client::of_suite(&service, suite).await;
        let id = alice
            .create_group(&service, protocol::groups::GroupKind::Group)
            .await;
        let invitee = bob.invitee(&service);
        alice.commit(&service, &id, Plan::add([invitee])).await;
        alice.receive(&service).await;
        delete_queue(&service, &bob).await;
        finds_out(&service, &mut alice, &id).await;
        assert_eq!(alice.receive(&service).await, [Event::Proposed]);
        alice
            .commit(&service, &id, Plan::update().rotating(true))
            .await;
        assert_eq!(alice.members(&id), [0]);
    }
}

#[tokio::test]
async fn the_service_proposes_under_the_key_that_a_group_knows_and_then_under_its_newest() {
    let before = Service::start(Engine::Memory);
    let mut trio = trio(&before).await;
    let id = trio.id;
    let service = before.with_rotated_keys(&Setup::on(Engine::Memory));
    delete_queue(&service, &trio.carol).await;
    finds_out(&service, &mut trio.alice, &id).await;
    // Members verify: the library takes only what a listed sender has signed.
    assert_eq!(trio.alice.receive(&service).await, [Event::Proposed]);
    trio.bob.receive(&service).await;
    trio.alice
        .commit(&service, &id, Plan::update().rotating(true))
        .await;
    trio.alice.receive(&service).await;
    trio.bob.receive(&service).await;
    // A new key beside the old one, and then in its place.
    let policy = trio.alice.policy(&id).unwrap();
    let new = external_sender(service.external_sender(Scheme::Ed25519));
    for keeps_old in [true, false] {
        let context = trio.alice.context_with(&id, Some(&policy));
        let mut extensions: Vec<Extension> = context.iter().cloned().collect();
        for extension in &mut extensions {
            if let Extension::ExternalSenders(senders) = extension {
                senders.retain(|sender| keeps_old && *sender != new);
                senders.push(new.clone());
            }
        }
        let plan = Plan::set_context(Extensions::from_vec(extensions).unwrap());
        trio.alice.commit(&service, &id, plan).await;
        trio.alice.receive(&service).await;
        trio.bob.receive(&service).await;
    }
    // There is no way back to the old one.
    let old = external_sender(before.external_sender(Scheme::Ed25519));
    let context = trio.alice.context_with(&id, Some(&policy));
    let mut extensions: Vec<Extension> = context.iter().cloned().collect();
    for extension in &mut extensions {
        if let Extension::ExternalSenders(senders) = extension {
            *senders = vec![old.clone()];
        }
    }
    let plan = Plan::set_context(Extensions::from_vec(extensions).unwrap());
    assert_eq!(
        trio.alice.refused(&service, &id, plan).await,
        ProblemType::InvalidCommit
    );
    delete_queue(&service, &trio.bob).await;
    finds_out(&service, &mut trio.alice, &id).await;
    assert_eq!(trio.alice.receive(&service).await, [Event::Proposed]);
}
