//! Users are sets of leaves under one pseudonym: what members may do to their own and to others.

use protocol::Operation;
use protocol::groups::GroupKind;
use protocol::policy::{GroupPolicy, Standing};
use protocol::problem::ProblemType;

use crate::support::client::{Client, Flaw};
use crate::support::commits::{JoinPlan, Plan};
use crate::support::inbox::Event;
use crate::support::scenes::{pair, trio, with_second_client};
use crate::support::{Engine, Service, on_every_engine};

on_every_engine! {
    a_user_adds_and_removes_its_own_clients_without_any_right
    a_user_is_removed_with_its_clients_and_a_client_alone_is_not
}

async fn a_user_adds_and_removes_its_own_clients_without_any_right(service: Service) {
    let (mut alice, mut bob, id) = pair(&service).await;
    let policy = alice.policy(&id).unwrap();
    let inactive = policy.with(&bob.user(&id), GroupPolicy::MEMBER, Standing::Inactive);
    alice.set_policy(&service, &id, &inactive).await;
    alice.receive(&service).await;
    bob.receive(&service).await;
    let mut tablet = with_second_client(&service, &mut bob, &mut [&mut alice], &id).await;
    alice.send(&service, &id, b"to both").await;
    for client in [&mut bob, &mut tablet] {
        let heard = client.receive(&service).await;
        assert!(matches!(heard.as_slice(), [Event::Message { from: 0, .. }]));
    }
    bob.commit(&service, &id, Plan::remove_clients([2])).await;
    assert_eq!(tablet.receive(&service).await, [Event::Removed]);
    alice.receive(&service).await;
    assert_eq!(alice.members(&id), [0, 1]);
}

#[tokio::test]
async fn clients_of_others_are_neither_added_nor_removed_as_own_ones() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    let mut tablet = Client::new(&service).await;
    for user in [trio.bob.user(&id), b"mimi://ds.example/p/new".to_vec()] {
        let leaf = tablet.leaf_of_user(&service, Flaw::None, &user);
        let plan = Plan::add_clients([tablet.invitee_with(leaf)]);
        assert_eq!(
            trio.alice.refused(&service, &id, plan).await,
            ProblemType::NotAllowed
        );
    }
    // One of hers and one of his.
    let hers = tablet.leaf_of_user(&service, Flaw::None, &trio.alice.user(&id));
    let his = tablet.leaf_of_user(&service, Flaw::None, &trio.bob.user(&id));
    let plan = Plan::add_clients([hers, his].map(|leaf| tablet.invitee_with(leaf)));
    assert_eq!(
        trio.alice.refused(&service, &id, plan).await,
        ProblemType::NotAllowed
    );
    assert_eq!(
        trio.alice
            .refused(&service, &id, Plan::remove_clients([1]))
            .await,
        ProblemType::NotAllowed
    );
    for plan in [
        Plan::add_clients([]),
        Plan::remove_clients([]),
        Plan::update()
            .rotating(true)
            .sent_as(Operation::RemoveClients),
    ] {
        assert_eq!(
            trio.alice.refused(&service, &id, plan).await,
            ProblemType::InvalidCommit
        );
    }
    trio.still_works(&service).await;
}

#[tokio::test]
async fn removing_own_clients_rotates_too() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id) = pair(&service).await;
    with_second_client(&service, &mut alice, &mut [&mut bob], &id).await;
    assert_eq!(
        alice
            .refused(&service, &id, Plan::remove_clients([2]).rotating(false))
            .await,
        ProblemType::RotationRequired
    );
    alice.commit(&service, &id, Plan::remove_clients([2])).await;
}

async fn a_user_is_removed_with_its_clients_and_a_client_alone_is_not(service: Service) {
    let (mut alice, mut bob, id) = pair(&service).await;
    let mut tablet = with_second_client(&service, &mut bob, &mut [&mut alice], &id).await;
    for incomplete in [[1], [2]] {
        assert_eq!(
            alice.refused(&service, &id, Plan::remove(incomplete)).await,
            ProblemType::InvalidCommit
        );
    }
    alice.commit(&service, &id, Plan::remove([1, 2])).await;
    for client in [&mut bob, &mut tablet] {
        assert_eq!(client.receive(&service).await, [Event::Removed]);
    }
    assert_eq!(alice.members(&id), [0]);
}

#[tokio::test]
async fn a_user_is_not_removed_as_a_user_by_itself() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id) = pair(&service).await;
    with_second_client(&service, &mut alice, &mut [&mut bob], &id).await;
    assert_eq!(
        alice.refused(&service, &id, Plan::remove([2])).await,
        ProblemType::InvalidCommit
    );
}

#[tokio::test]
async fn a_leaving_client_goes_alone() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id) = pair(&service).await;
    let mut tablet = with_second_client(&service, &mut bob, &mut [&mut alice], &id).await;
    tablet.leave(&service, &id).await;
    alice.receive(&service).await;
    alice.commit(&service, &id, Plan::remove([2]).alone()).await;
    assert_eq!(alice.members(&id), [0, 1]);
}

#[tokio::test]
async fn who_may_not_remove_removes_nobody_and_who_may_not_add_adds_nobody() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    assert_eq!(
        trio.bob.refused(&service, &id, Plan::remove([2])).await,
        ProblemType::NotAllowed
    );
    let policy = trio.alice.policy(&id).unwrap();
    let banned = policy.with(&trio.bob.user(&id), GroupPolicy::MEMBER, Standing::Banned);
    trio.alice.set_policy(&service, &id, &banned).await;
    for client in [&mut trio.alice, &mut trio.bob, &mut trio.carol] {
        client.receive(&service).await;
    }
    let mut dave = Client::new(&service).await;
    let plan = Plan::add([dave.invitee(&service)]);
    assert_eq!(
        trio.bob.refused(&service, &id, plan).await,
        ProblemType::NotAllowed
    );
    trio.still_works(&service).await;
}

#[tokio::test]
async fn a_banned_user_is_not_added() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id) = pair(&service).await;
    let mut carol = Client::new(&service).await;
    let leaf = carol.leaf(&service);
    let policy = alice.policy(&id).unwrap();
    let banned = policy.with(&leaf.user, GroupPolicy::MEMBER, Standing::Banned);
    alice.set_policy(&service, &id, &banned).await;
    bob.receive(&service).await;
    let plan = Plan::add([carol.invitee_with(leaf)]);
    assert_eq!(
        alice.refused(&service, &id, plan).await,
        ProblemType::NotAllowed
    );
    let plan = Plan::add([carol.invitee(&service)]);
    alice.commit(&service, &id, plan).await;
}

#[tokio::test]
async fn a_user_changes_its_pseudonym_only_as_a_whole_and_unlisted() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id) = pair(&service).await;
    // Alice is listed as the admin.
    let leaf = alice.leaf(&service);
    assert_eq!(
        alice
            .refused(&service, &id, Plan::update_credential(leaf))
            .await,
        ProblemType::NotAllowed
    );
    let leaf = alice.renewed_leaf(&service, &id);
    alice
        .commit(&service, &id, Plan::update_credential(leaf))
        .await;
    alice.receive(&service).await;
    bob.receive(&service).await;
    // To a pseudonym that the policy lists, though nobody has it here.
    let listed = b"mimi://ds.example/p/listed";
    let policy = alice.policy(&id).unwrap();
    let policy = policy.with(listed, GroupPolicy::ADMIN, Standing::Active);
    alice.set_policy(&service, &id, &policy).await;
    bob.receive(&service).await;
    let leaf = bob.leaf_of_user(&service, Flaw::None, listed);
    assert_eq!(
        bob.refused(&service, &id, Plan::update_credential(leaf))
            .await,
        ProblemType::NotAllowed
    );
    let leaf = bob.leaf(&service);
    bob.commit(&service, &id, Plan::update_credential(leaf))
        .await;
    alice.receive(&service).await;
    bob.receive(&service).await;
    with_second_client(&service, &mut bob, &mut [&mut alice], &id).await;
    let leaf = bob.leaf(&service);
    assert_eq!(
        bob.refused(&service, &id, Plan::update_credential(leaf))
            .await,
        ProblemType::NotAllowed
    );
}

#[tokio::test]
async fn groups_of_one_user_take_its_clients_and_nobody_else() {
    let service = Service::start(Engine::Memory);
    let mut alice = Client::new(&service).await;
    let id = alice.create_group(&service, GroupKind::SingleUser).await;
    let mut tablet = with_second_client(&service, &mut alice, &mut [], &id).await;
    let mut bob = Client::new(&service).await;
    let invitee = bob.invitee(&service);
    for plan in [Plan::add([invitee.clone()]), Plan::add_clients([invitee])] {
        assert_eq!(
            alice.refused(&service, &id, plan).await,
            ProblemType::NotAllowed
        );
    }
    // Nor by the permit of a connection.
    let group = alice.group(&id);
    let plan = JoinPlan::connection(group.state_key, group.wrapper);
    let (info, tree) = crate::support::commits::group_info_of(&alice, &id);
    let join = bob.external_join((&info, &tree), bob.leaf(&service), plan);
    assert_eq!(
        service
            .refused(Operation::ExternalJoin, &join.signed(&service))
            .await,
        ProblemType::NotAllowed
    );
    assert_eq!(
        alice.refused(&service, &id, Plan::remove([1])).await,
        ProblemType::NotAllowed
    );
    alice.send(&service, &id, b"to myself").await;
    assert_eq!(tablet.receive(&service).await.len(), 1);
}

#[tokio::test]
async fn a_connection_takes_further_clients_of_its_two_users() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob) = (Client::new(&service).await, Client::new(&service).await);
    let id = alice.create_group(&service, GroupKind::Connection).await;
    let group = alice.group(&id);
    let plan = JoinPlan::connection(group.state_key, group.wrapper);
    let leaf = bob.leaf(&service);
    let join = bob.join_externally(&service, &id, leaf, plan).await;
    let request = join.signed(&service);
    let reply = service.pay(Operation::ExternalJoin, &request).await;
    let _: protocol::groups::EpochAccepted = reply.accepted();
    bob.groups.insert(id, join.membership);
    alice.receive(&service).await;
    let mut tablet = with_second_client(&service, &mut bob, &mut [&mut alice], &id).await;
    tablet.send(&service, &id, b"from the other one").await;
    assert_eq!(alice.receive(&service).await.len(), 1);
    let context = alice.context_with(&id, None);
    assert_eq!(
        alice
            .refused(&service, &id, Plan::set_context(context))
            .await,
        ProblemType::NotAllowed
    );
}
