//! What ends: groups, deleted or re-initialised; queues, pools and handles.

use crypto::keys::{ConnectionToken, GroupLookup as _, JoinKey, Lookup as _, RecoverySecret};
use ds::store::{DayRow, Parts};
use protocol::Operation;
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::connections::{DeleteHandleRequest, LookupHandleRequest};
use protocol::groups::{
    Accepted, EpochAccepted, ExternalCommitInfoRequest, GroupKind, JoinPermit,
    ReserveGroupIdRequest, ReserveGroupIdResponse, SetJoinCodeRequest,
};
use protocol::ids::GroupId;
use protocol::key_packages::{
    Claim, ClaimKeyPackagesRequest, DeleteKeyPackagesRequest, PublishKeyPackagesRequest,
};
use protocol::problem::ProblemType;
use protocol::queues::{DeleteQueueRequest, FetchQueueRequest};
use protocol::time::day_of;

use crate::recovery::set_recovery_secret;
use crate::support::by_hand::reinit;
use crate::support::client::Client;
use crate::support::commits::Plan;
use crate::support::inbox::Event;
use crate::support::request::{copy, fresh_key};
use crate::support::samples::{registration, set};
use crate::support::scenes::{pair, trio};
use crate::support::{Engine, Service, on_every_engine};

on_every_engine! {
    of_a_deleted_group_nothing_is_left
    a_queue_that_is_deleted_is_gone_with_what_was_in_it
    a_handle_that_is_deleted_is_free_for_others
    of_a_deleted_pool_nothing_is_claimed
}

async fn of_a_deleted_group_nothing_is_left(service: Service) {
    let mut trio = trio(&service).await;
    let id = trio.id;
    let code = [6; 32];
    let body = SetJoinCodeRequest {
        group_id: id,
        state_key: WireSecret::new(trio.alice.group(&id).state_key),
        secret: WireSecret::new(code),
        expiry_day: day_of(service.now()) + 1,
    };
    let request = trio
        .alice
        .leaf_request(&service, &id, Operation::SetJoinCode, body.encode());
    let _: Accepted = service
        .post(Operation::SetJoinCode, &request)
        .await
        .accepted();
    for client in [&trio.alice, &trio.bob] {
        set_recovery_secret(&service, client, &id).await;
    }
    let mut dave = Client::new(&service).await;
    let add = trio.alice.stage(&id, Plan::add([dave.invitee(&service)]));
    let request = trio.alice.commit_request(&service, &add);
    let _: EpochAccepted = service.post(Operation::AddUsers, &request).await.accepted();
    trio.alice.merge(&add);
    let join_key = JoinKey::new(add.welcome.unwrap().join_key);
    let secrets = [
        trio.alice.recovery_secret(&id),
        trio.bob.recovery_secret(&id),
        RecoverySecret::new(code),
    ];
    let record = async |secret: &RecoverySecret| {
        let row = service
            .domain
            .rows()
            .recovery_record(&secret.lookup_in(&id));
        service.store.quietly().recovery_record(row).await.unwrap()
    };
    let join_record = async || {
        let row = service.domain.rows().join_record(&join_key.lookup_in(&id));
        let day = day_of(service.now());
        let at = vec![DayRow { day, row }];
        service.store.quietly().join_record(at).await.unwrap()
    };
    for secret in &secrets {
        assert!(record(secret).await.is_some());
    }
    assert!(join_record().await.is_some());

    let message = trio.bob.text_request(&service, &id, b"too late");
    trio.alice
        .commit(&service, &id, Plan::delete([1, 2, 3]))
        .await;
    let row = service.domain.rows().group(&id);
    let stored = service.store.quietly().group(row, Parts::ALL).await;
    assert_eq!(stored.unwrap(), None);
    for secret in &secrets {
        assert!(record(secret).await.is_none());
    }
    assert!(join_record().await.is_none());
    for member in [&mut trio.bob, &mut trio.carol] {
        assert_eq!(member.receive(&service).await.last(), Some(&Event::Removed));
    }
    // To everybody it is as if it had never been, and its id is nobody's again.
    assert_eq!(
        service.refused(Operation::SendMessage, &message).await,
        ProblemType::UnknownGroup
    );
    let late = trio.alice.text_request(&service, &id, b"anybody?");
    assert_eq!(
        service.refused(Operation::SendMessage, &late).await,
        ProblemType::UnknownGroup
    );
    let leaf = dave.leaf(&service);
    let key = copy(&leaf.signer.0);
    let creation = dave.draft_group(&service, id, GroupKind::Group, leaf, true);
    assert_eq!(
        service
            .refusal(Operation::CreateGroup, &key, &creation.request)
            .await,
        ProblemType::InvalidGroupId
    );
}

#[tokio::test]
async fn a_group_is_deleted_by_who_may_and_with_everybody() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    assert_eq!(
        trio.bob.refused(&service, &id, Plan::delete([0, 2])).await,
        ProblemType::NotAllowed
    );
    for incomplete in [vec![1], vec![]] {
        assert_eq!(
            trio.alice
                .refused(&service, &id, Plan::delete(incomplete))
                .await,
            ProblemType::InvalidCommit
        );
    }
    assert_eq!(
        trio.alice
            .refused(&service, &id, Plan::delete([1, 2]).rotating(false))
            .await,
        ProblemType::RotationRequired
    );
    let mut dave = Client::new(&service).await;
    let plan = Plan::delete([1, 2]).and_add(dave.invitee(&service));
    assert_eq!(
        trio.alice.refused(&service, &id, plan).await,
        ProblemType::InvalidCommit
    );
    trio.still_works(&service).await;
}

#[tokio::test]
async fn a_group_of_one_and_a_connection_are_deleted_too() {
    let service = Service::start(Engine::Memory);
    for kind in [
        GroupKind::Group,
        GroupKind::Connection,
        GroupKind::SingleUser,
    ] {
        let mut alice = Client::new(&service).await;
        let id = alice.create_group(&service, kind).await;
        alice
            .commit(
                &service,
                &id,
                Plan::update().sent_as(Operation::DeleteGroup),
            )
            .await;
        let message = alice.text_request(&service, &id, b"anybody?");
        assert_eq!(
            service.refused(Operation::SendMessage, &message).await,
            ProblemType::UnknownGroup
        );
    }
}

async fn reserved(service: &Service) -> GroupId {
    service
        .call::<ReserveGroupIdResponse>(
            Operation::ReserveGroupId,
            &fresh_key(),
            &ReserveGroupIdRequest {},
        )
        .await
        .group_id
}

#[tokio::test]
async fn after_a_reinit_a_group_is_frozen() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    let successor = reserved(&service).await;
    let proposals = reinit(&successor.0, 1, 1);
    let commit = trio
        .alice
        .commit_by_hand(&id, Operation::ReInitializeGroup, &proposals);
    let request = trio.alice.commit_request(&service, &commit);
    let answer: EpochAccepted = service
        .post(Operation::ReInitializeGroup, &request)
        .await
        .accepted();
    assert_eq!(answer.epoch, 2);
    let message = trio.bob.text_request(&service, &id, b"too late");
    assert_eq!(
        service.refused(Operation::SendMessage, &message).await,
        ProblemType::GroupReinitialized
    );
    assert_eq!(
        trio.bob.refused(&service, &id, Plan::update()).await,
        ProblemType::GroupReinitialized
    );
    let leaving = trio.carol.self_remove(&id);
    let leaving = trio.carol.self_remove_request(&service, &id, leaving);
    assert_eq!(
        service.refused(Operation::SelfRemove, &leaving).await,
        ProblemType::GroupReinitialized
    );
    let tablet = fresh_key();
    let word = trio.bob.authorize(
        &service,
        &id,
        crypto::leaf_authorization::AuthorizedJoin::Client,
        &tablet,
    );
    let info = ExternalCommitInfoRequest {
        group_id: id,
        state_key: WireSecret::new(trio.bob.group(&id).state_key),
        permit: JoinPermit::Client(word),
    };
    assert_eq!(
        service
            .refusal(Operation::ExternalCommitInfo, &tablet, &info)
            .await,
        ProblemType::GroupReinitialized
    );
    // Who is in it can still be read.
    assert_eq!(trio.bob.inspect(&service, &id).await.members.len(), 3);
}

#[tokio::test]
async fn a_reinit_names_a_group_that_can_be_created_here() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    let successor = reserved(&service).await;
    let unreserved = [3; 16];
    let good = reinit(&successor.0, 1, 1);
    let cases = [
        (reinit(&unreserved, 1, 1), ProblemType::InvalidGroupId),
        (reinit(&id.0, 1, 1), ProblemType::InvalidGroupId),
        (
            reinit(&successor.0[..15], 1, 1),
            ProblemType::InvalidGroupId,
        ),
        (reinit(&successor.0, 0, 1), ProblemType::InvalidCommit),
        (
            reinit(&successor.0, 1, 5),
            ProblemType::UnsupportedCiphersuite,
        ),
        // Two of them, and nothing at all (RFC 9420 §12.2).
        (
            [good.clone(), reinit(&successor.0, 1, 3)].concat(),
            ProblemType::InvalidCommit,
        ),
        (Vec::new(), ProblemType::InvalidCommit),
    ];
    for (proposals, problem) in cases {
        let commit = trio
            .alice
            .commit_by_hand(&id, Operation::ReInitializeGroup, &proposals);
        let request = trio.alice.commit_request(&service, &commit);
        assert_eq!(
            service
                .refused(Operation::ReInitializeGroup, &request)
                .await,
            problem
        );
    }
    let by_bob = trio
        .bob
        .commit_by_hand(&id, Operation::ReInitializeGroup, &good);
    let request = trio.bob.commit_request(&service, &by_bob);
    assert_eq!(
        service
            .refused(Operation::ReInitializeGroup, &request)
            .await,
        ProblemType::NotAllowed
    );
    let mut alice = Client::new(&service).await;
    let connection = alice.create_group(&service, GroupKind::Connection).await;
    let commit = alice.commit_by_hand(&connection, Operation::ReInitializeGroup, &good);
    let request = alice.commit_request(&service, &commit);
    assert_eq!(
        service
            .refused(Operation::ReInitializeGroup, &request)
            .await,
        ProblemType::NotAllowed
    );
    trio.still_works(&service).await;
}

async fn a_queue_that_is_deleted_is_gone_with_what_was_in_it(service: Service) {
    let (mut alice, bob, id) = pair(&service).await;
    alice.send(&service, &id, b"unread").await;
    let delete = DeleteQueueRequest {
        queue_id: bob.queue,
    };
    let fetch = FetchQueueRequest {
        queue_id: bob.queue,
        limit: 10,
        wait_ms: 0,
    };
    assert_eq!(
        service
            .refusal(Operation::DeleteQueue, &fresh_key(), &delete)
            .await,
        ProblemType::UnknownQueue
    );
    assert_eq!(bob.fetch(&service).await.len(), 1);
    let _: Accepted = service
        .call(Operation::DeleteQueue, &bob.queue_owner, &delete)
        .await;
    assert_eq!(
        service
            .refusal(Operation::FetchQueue, &bob.queue_owner, &fetch)
            .await,
        ProblemType::UnknownQueue
    );
    service.clock.advance(1);
    assert_eq!(
        service
            .refusal(Operation::DeleteQueue, &bob.queue_owner, &delete)
            .await,
        ProblemType::UnknownQueue
    );
}

async fn a_handle_that_is_deleted_is_free_for_others(service: Service) {
    let (alice, bob) = (Client::new(&service).await, Client::new(&service).await);
    let (owner, other) = (fresh_key(), fresh_key());
    let of_alice = registration(&service, &alice, &owner, b"alice");
    let _: Accepted = service
        .call(Operation::RegisterHandle, &owner, &of_alice)
        .await;
    let delete = DeleteHandleRequest {
        handle: opaque(*b"alice"),
    };
    assert_eq!(
        service
            .refusal(Operation::DeleteHandle, &other, &delete)
            .await,
        ProblemType::UnknownHandle
    );
    let _: Accepted = service.call(Operation::DeleteHandle, &owner, &delete).await;
    let lookup = LookupHandleRequest {
        handle: opaque(*b"alice"),
    };
    let request =
        crate::support::request::Draft::by_key(&service, Operation::LookupHandle, &other, &lookup)
            .signed(&other);
    assert_eq!(
        service
            .refused_at_cost(Operation::LookupHandle, &request)
            .await,
        ProblemType::UnknownHandle
    );
    let of_bob = registration(&service, &bob, &other, b"alice");
    let _: Accepted = service
        .call(Operation::RegisterHandle, &other, &of_bob)
        .await;
}

async fn of_a_deleted_pool_nothing_is_claimed(service: Service) {
    let owner = fresh_key();
    let lookup = ConnectionToken::random().unwrap().lookup();
    let publication = PublishKeyPackagesRequest {
        lookup,
        sets: vec![set(&service, b"one"), set(&service, b"two")],
    };
    let _: Accepted = service
        .call(Operation::PublishKeyPackages, &owner, &publication)
        .await;
    let delete = DeleteKeyPackagesRequest { lookup };
    assert_eq!(
        service
            .refusal(Operation::DeleteKeyPackages, &fresh_key(), &delete)
            .await,
        ProblemType::NotOwner
    );
    let _: Accepted = service
        .call(Operation::DeleteKeyPackages, &owner, &delete)
        .await;
    let claim = ClaimKeyPackagesRequest {
        claims: vec![Claim {
            lookup,
            ciphersuite: 1,
        }],
    };
    assert_eq!(
        service
            .refusal(Operation::ClaimKeyPackages, &fresh_key(), &claim)
            .await,
        ProblemType::NoKeyPackages
    );
    service.clock.advance(1);
    assert_eq!(
        service
            .refusal(Operation::DeleteKeyPackages, &owner, &delete)
            .await,
        ProblemType::NotOwner
    );
}
