//! What a member asks for or changes of its own leaf's record without a commit.

use crypto::queue::seal_reference;
use protocol::Operation;
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::groups::{
    Accepted, JoinRecordRequest, OwnLeafRequest, OwnLeafResponse, UpdateQueueReferenceRequest,
};
use protocol::ids::GroupId;
use protocol::policy::Capabilities;
use protocol::problem::ProblemType;

use crate::recovery::set_recovery_secret;
use crate::support::client::Client;
use crate::support::commits::Plan;
use crate::support::inbox::Event;
use crate::support::request::{copy, fresh_key};
use crate::support::scenes::{Trio, pair, trio};
use crate::support::{Engine, Service, on_every_engine};
use crypto::keys::{GroupLookup as _, JoinKey};

on_every_engine! {
    a_member_moves_to_another_queue
    a_join_record_goes_when_all_joiners_have_come
}

fn reference_request(
    service: &Service,
    client: &Client,
    id: &GroupId,
    bound_to: &[u8],
    queue: &protocol::ids::QueueId,
) -> Vec<u8> {
    let (key_id, service_key) = service.queue_service_key();
    let body = UpdateQueueReferenceRequest {
        group_id: *id,
        state_key: WireSecret::new(client.group(id).state_key),
        queue_reference: opaque(seal_reference(key_id, &service_key, bound_to, queue).unwrap()),
    };
    client.leaf_request(service, id, Operation::UpdateQueueReference, body.encode())
}

async fn a_member_moves_to_another_queue(service: Service) {
    let (mut alice, mut bob, id) = pair(&service).await;
    let fresh = Client::new(&service).await;
    let own = bob.group(&id).signer.0.public();
    let request = reference_request(&service, &bob, &id, &own, &fresh.queue);
    let _: Accepted = service
        .post(Operation::UpdateQueueReference, &request)
        .await
        .accepted();
    alice.send(&service, &id, b"to the new queue").await;
    assert_eq!(bob.fetch(&service).await.len(), 0);
    (bob.queue, bob.queue_owner, bob.queue_hpke) =
        (fresh.queue, fresh.queue_owner, fresh.queue_hpke);
    assert_eq!(bob.receive(&service).await.len(), 1);
    // The next update brings it in the leaf.
    let leaf = bob.renewed_leaf(&service, &id);
    bob.commit(&service, &id, Plan::update_credential(leaf))
        .await;
    alice.receive(&service).await;
    alice.send(&service, &id, b"again").await;
    bob.receive(&service).await;
}

#[tokio::test]
async fn a_queue_reference_that_is_not_for_this_leaf_is_refused() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id) = pair(&service).await;
    // Alice's own one, which anybody can read in the tree.
    let hers = alice.group(&id).signer.0.public();
    let request = reference_request(&service, &bob, &id, &hers, &alice.queue);
    assert_eq!(
        service
            .refused(Operation::UpdateQueueReference, &request)
            .await,
        ProblemType::InvalidLeaf
    );
    for garbage in [vec![], vec![1], vec![1; 100], vec![200; 100]] {
        let body = UpdateQueueReferenceRequest {
            group_id: id,
            state_key: WireSecret::new(bob.group(&id).state_key),
            queue_reference: opaque(garbage),
        };
        let request = bob.leaf_request(
            &service,
            &id,
            Operation::UpdateQueueReference,
            body.encode(),
        );
        assert_eq!(
            service
                .refused(Operation::UpdateQueueReference, &request)
                .await,
            ProblemType::InvalidLeaf
        );
    }
    alice.send(&service, &id, b"still here").await;
    assert_eq!(bob.receive(&service).await.len(), 1);
}

#[tokio::test]
async fn whoever_has_a_leafs_key_learns_which_leaf_it_is() {
    let service = Service::start(Engine::Memory);
    let (_, bob, id) = pair(&service).await;
    let body = OwnLeafRequest {
        group_id: id,
        state_key: WireSecret::new(bob.group(&id).state_key),
    };
    let key = copy(&bob.group(&id).signer.0);
    let own: OwnLeafResponse = service.call(Operation::OwnLeaf, &key, &body).await;
    assert_eq!((own.epoch, own.member.leaf_index), (1, 1));
    assert_eq!(own.member.user_pseudonym.as_slice(), bob.user(&id));
    assert_eq!(
        service
            .refusal(Operation::OwnLeaf, &fresh_key(), &body)
            .await,
        ProblemType::NotAllowed
    );
}

#[tokio::test]
async fn members_see_who_is_there_and_nobody_else_does() {
    let service = Service::start(Engine::Memory);
    let Trio {
        mut alice,
        bob,
        mut carol,
        id,
    } = trio(&service).await;
    let seen = bob.inspect(&service, &id).await;
    assert_eq!(seen.epoch, 1);
    let expected = [alice.user(&id), bob.user(&id), carol.user(&id)];
    let users: Vec<_> = seen
        .members
        .iter()
        .map(|member| member.user_pseudonym.as_slice().to_vec())
        .collect();
    assert_eq!(users, expected);
    assert_eq!(seen.members[0].capabilities, Capabilities::ALL);
    alice.commit(&service, &id, Plan::remove([2])).await;
    carol.group_mut(&id).state_key = alice.group(&id).state_key;
    let request = carol.inspect_request(&service, &id);
    assert_eq!(
        service.refused(Operation::InspectGroup, &request).await,
        ProblemType::BadSignature
    );
}

#[tokio::test]
async fn who_knows_a_join_key_cannot_replace_or_delete_the_record_through_another_group() {
    let service = Service::start(Engine::Memory);
    let (mut alice, _, id) = pair(&service).await;
    let (mut mallory, _, other) = pair(&service).await;
    let mut carol = Client::new(&service).await;
    let add = alice.stage(&id, Plan::add([carol.invitee(&service)]));
    let request = alice.commit_request(&service, &add);
    let _: protocol::groups::EpochAccepted =
        service.post(Operation::AddUsers, &request).await.accepted();
    alice.merge(&add);
    let join_key = add.welcome.unwrap().join_key;

    let mut accomplice = Client::new(&service).await;
    let mut add = mallory.stage(&other, Plan::add([accomplice.invitee(&service)]));
    add.welcome.as_mut().unwrap().join_key = join_key;
    let request = mallory.commit_request(&service, &add);
    let _: protocol::groups::EpochAccepted =
        service.post(Operation::AddUsers, &request).await.accepted();
    mallory.merge(&add);
    // The record of the other group goes, and with it nothing else.
    mallory.commit(&service, &other, Plan::delete([1, 2])).await;
    assert_eq!(carol.receive(&service).await, [Event::Joined]);
    assert_eq!(carol.group(&id).state_key, alice.group(&id).state_key);
}

async fn a_join_record_goes_when_all_joiners_have_come(service: Service) {
    let (mut alice, mut bob, id) = pair(&service).await;
    let (mut carol, mut dave) = (Client::new(&service).await, Client::new(&service).await);
    let add = alice.stage(
        &id,
        Plan::add([carol.invitee(&service), dave.invitee(&service)]),
    );
    let request = alice.commit_request(&service, &add);
    let reply = service.post(Operation::AddUsers, &request).await;
    let _: protocol::groups::EpochAccepted = reply.accepted();
    alice.merge(&add);
    bob.receive(&service).await;
    let lookup = JoinKey::new(add.welcome.unwrap().join_key).lookup_in(&id);
    let record = JoinRecordRequest { lookup };
    let ask = async || {
        let key = fresh_key();
        let request =
            crate::support::request::Draft::by_key(&service, Operation::JoinRecord, &key, &record);
        service
            .post(Operation::JoinRecord, &request.signed(&key))
            .await
            .status
    };
    carol.receive(&service).await;
    set_recovery_secret(&service, &carol, &id).await;
    assert_eq!(ask().await, 200, "Dave has not been here");
    dave.receive(&service).await;
    assert_eq!(
        ask().await,
        200,
        "reading it is not joining: the answer may be lost"
    );
    // A commit shows that he has joined.
    dave.commit(&service, &id, Plan::update()).await;
    assert_eq!(ask().await, 404);
}
