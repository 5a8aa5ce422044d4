//! Roles and standings: who may change them, and what they decide.

use openmls::prelude::{Extension, ExtensionType, Extensions, UnknownExtension};
use protocol::Operation;

use protocol::codec::opaque;
use protocol::groups::{GroupKind, MessageAccepted};
use protocol::policy::{Capabilities, GroupPolicy, POLICY_EXTENSION, Role, Standing};
use protocol::problem::ProblemType;

use crate::support::client::{Client, Flaw, external_sender, policy_extension};
use crate::support::commits::Plan;
use crate::support::scenes::{Trio, pair, trio};
use crate::support::{Engine, Service, on_every_engine};

on_every_engine! {
    an_admin_makes_another_one_who_then_may_what_admins_may
    a_message_is_judged_by_the_epoch_that_it_names
}

async fn everybody_receives(service: &Service, trio: &mut Trio) {
    for client in [&mut trio.alice, &mut trio.bob, &mut trio.carol] {
        client.receive(service).await;
    }
}

async fn an_admin_makes_another_one_who_then_may_what_admins_may(service: Service) {
    let mut trio = trio(&service).await;
    let id = trio.id;
    let policy = trio.alice.policy(&id).unwrap();
    let policy = policy.with(&trio.bob.user(&id), GroupPolicy::ADMIN, Standing::Active);
    trio.alice.set_policy(&service, &id, &policy).await;
    everybody_receives(&service, &mut trio).await;
    let seen = trio.carol.inspect(&service, &id).await;
    let capabilities: Vec<_> = seen
        .members
        .iter()
        .map(|member| member.capabilities)
        .collect();
    let member = Capabilities::ADD.and(Capabilities::SEND);
    assert_eq!(capabilities, [Capabilities::ALL, Capabilities::ALL, member]);
    trio.bob.commit(&service, &id, Plan::remove([2])).await;
    let policy = policy.with(&trio.alice.user(&id), GroupPolicy::MEMBER, Standing::Active);
    trio.bob.set_policy(&service, &id, &policy).await;
    trio.alice.receive(&service).await;
    assert_eq!(
        trio.alice.refused(&service, &id, Plan::remove([1])).await,
        ProblemType::NotAllowed
    );
}

#[tokio::test]
async fn a_member_changes_no_role_and_nobody_gives_what_he_does_not_have() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    let (alices, bobs, carols) = (
        trio.alice.user(&id),
        trio.bob.user(&id),
        trio.carol.user(&id),
    );
    let policy = trio.alice.policy(&id).unwrap();
    let change = |client: &Client, next: &GroupPolicy| {
        Plan::set_context(client.context_with(&id, Some(next)))
    };
    let raised = policy.with(&bobs, GroupPolicy::ADMIN, Standing::Active);
    let plan = change(&trio.bob, &raised);
    assert_eq!(
        trio.bob.refused(&service, &id, plan).await,
        ProblemType::NotAllowed
    );
    // Bob becomes a moderator: he may set roles, but neither remove nor delete.
    let mut policy = policy;
    policy.roles.push(Role {
        number: 2,
        name: opaque(*b"moderator"),
        capabilities: Capabilities::SET_ROLE
            .and(Capabilities::SEND)
            .and(Capabilities::ADD),
    });
    let policy = policy.with(&bobs, 2, Standing::Active);
    trio.alice.set_policy(&service, &id, &policy).await;
    everybody_receives(&service, &mut trio).await;
    let mut widened = policy.clone();
    widened.roles[2].capabilities = Capabilities::ALL;
    for escalation in [
        policy.with(&bobs, GroupPolicy::ADMIN, Standing::Active),
        policy.with(&carols, GroupPolicy::ADMIN, Standing::Active),
        policy.with(&alices, GroupPolicy::MEMBER, Standing::Active),
        policy.with(&alices, GroupPolicy::ADMIN, Standing::Banned),
        widened,
    ] {
        let plan = change(&trio.bob, &escalation);
        assert_eq!(
            trio.bob.refused(&service, &id, plan).await,
            ProblemType::NotAllowed
        );
    }
    let muted = policy.with(&carols, GroupPolicy::MEMBER, Standing::Muted);
    trio.bob.set_policy(&service, &id, &muted).await;
}

#[tokio::test]
async fn the_last_who_may_set_roles_stays_one() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    let own = trio.alice.user(&id);
    let policy = trio.alice.policy(&id).unwrap();
    for next in [
        policy.with(&own, GroupPolicy::MEMBER, Standing::Active),
        policy.with(&own, GroupPolicy::ADMIN, Standing::Inactive),
        // Somebody who is not here does not count.
        policy
            .with(&own, GroupPolicy::MEMBER, Standing::Active)
            .with(
                b"mimi://ds.example/p/absent",
                GroupPolicy::ADMIN,
                Standing::Active,
            ),
    ] {
        let plan = Plan::set_context(trio.alice.context_with(&id, Some(&next)));
        assert_eq!(
            trio.alice.refused(&service, &id, plan).await,
            ProblemType::NotAllowed
        );
    }
    trio.still_works(&service).await;
}

#[tokio::test]
async fn with_a_role_nothing_else_changes() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    let policy = trio.alice.policy(&id).unwrap();
    let context = trio.alice.context_with(&id, Some(&policy));
    let with = |change: &dyn Fn(&mut Vec<Extension>)| -> Extensions<_> {
        let mut extensions: Vec<Extension> = context.iter().cloned().collect();
        change(&mut extensions);
        Extensions::from_vec(extensions).unwrap()
    };
    let is = |kind: ExtensionType| move |extension: &Extension| extension.extension_type() == kind;
    let senders = |keys: &[Vec<u8>]| {
        Extension::ExternalSenders(keys.iter().cloned().map(external_sender).collect())
    };
    let mut disordered = policy.clone();
    disordered.roles.reverse();
    let malformed = Extension::Unknown(POLICY_EXTENSION, UnknownExtension(vec![1, 2, 3]));
    let contexts = [
        // The service is not listed any more, or somebody else in its place.
        with(&|all| all.retain(|one| !is(ExtensionType::ExternalSenders)(one))),
        with(&|all| {
            all.retain(|one| !is(ExtensionType::ExternalSenders)(one));
            all.push(senders(&[vec![3; 32]]));
        }),
        // Another extension goes.
        with(&|all| {
            all.retain(|one| !is(ExtensionType::RequiredCapabilities)(one));
            all.retain(|one| !is(ExtensionType::Unknown(POLICY_EXTENSION))(one));
        }),
        // The policy goes, or is none.
        with(&|all| all.retain(|one| !is(ExtensionType::Unknown(POLICY_EXTENSION))(one))),
        with(&|all| {
            all.retain(|one| !is(ExtensionType::Unknown(POLICY_EXTENSION))(one));
            all.push(malformed.clone());
        }),
        with(&|all| {
            all.retain(|one| !is(ExtensionType::Unknown(POLICY_EXTENSION))(one));
            all.push(policy_extension(&disordered));
        }),
    ];
    for (at, context) in contexts.into_iter().enumerate() {
        let plan = Plan::set_context(context);
        assert_eq!(
            trio.alice.refused(&service, &id, plan).await,
            ProblemType::InvalidCommit,
            "context {at}"
        );
    }
    // Neither without a change, nor as another operation.
    for plan in [
        Plan::update().sent_as(Operation::SetRole),
        Plan::set_context(context).sent_as(Operation::UpdateClient),
    ] {
        assert_eq!(
            trio.alice.refused(&service, &id, plan).await,
            ProblemType::InvalidCommit
        );
    }
    trio.still_works(&service).await;
}

#[tokio::test]
async fn nobody_lists_a_further_external_sender_who_could_propose_what_he_may_not_do() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    let policy = trio.alice.policy(&id).unwrap();
    let context = trio.alice.context_with(&id, Some(&policy));
    let mut extensions: Vec<Extension> = context.iter().cloned().collect();
    for extension in &mut extensions {
        if let Extension::ExternalSenders(senders) = extension {
            senders.insert(0, external_sender(vec![3; 32]));
        }
    }
    let plan = Plan::set_context(Extensions::from_vec(extensions).unwrap());
    assert_eq!(
        trio.alice.refused(&service, &id, plan).await,
        ProblemType::InvalidCommit
    );
    trio.still_works(&service).await;
}

fn with_standing(
    client: &Client,
    of: &Client,
    trio_id: &protocol::ids::GroupId,
    standing: Standing,
) -> GroupPolicy {
    client
        .policy(trio_id)
        .unwrap()
        .with(&of.user(trio_id), GroupPolicy::MEMBER, standing)
}

async fn a_message_is_judged_by_the_epoch_that_it_names(service: Service) {
    let mut trio = trio(&service).await;
    let id = trio.id;
    let before = trio.bob.text_request(&service, &id, b"before");
    let muted = with_standing(&trio.alice, &trio.bob, &id, Standing::Muted);
    trio.alice.set_policy(&service, &id, &muted).await;
    trio.bob.receive(&service).await;
    let meanwhile = trio.bob.text_request(&service, &id, b"meanwhile");
    assert_eq!(
        service.refused(Operation::SendMessage, &meanwhile).await,
        ProblemType::NotAllowed
    );
    // He wrote it when he could speak; what he wrote when he could not stays unsaid.
    let _: MessageAccepted = service
        .post(Operation::SendMessage, &before)
        .await
        .accepted();
    let active = with_standing(&trio.alice, &trio.bob, &id, Standing::Active);
    trio.alice.set_policy(&service, &id, &active).await;
    trio.bob.receive(&service).await;
    service.clock.advance(1);
    assert_eq!(
        service.refused(Operation::SendMessage, &meanwhile).await,
        ProblemType::NotAllowed
    );
    trio.bob.send(&service, &id, b"again").await;
}

#[tokio::test]
async fn a_leaf_does_not_speak_in_epochs_before_its_own() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id) = pair(&service).await;
    let of_epoch_1 = alice.encrypt(&id, b"of an epoch before carol");
    let mut carol = Client::new(&service).await;
    let invitee = carol.invitee(&service);
    alice.commit(&service, &id, Plan::add([invitee])).await;
    carol.receive(&service).await;
    bob.receive(&service).await;
    let request = carol.message_request(&service, &id, of_epoch_1);
    assert_eq!(
        service.refused(Operation::SendMessage, &request).await,
        ProblemType::NotAllowed
    );
}

#[tokio::test]
async fn a_group_without_a_policy_gets_its_first_one_from_any_member() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob) = (Client::new(&service).await, Client::new(&service).await);
    let id = alice.create_group_without_policy(&service).await;
    let invitee = bob.invitee(&service);
    alice.commit(&service, &id, Plan::add([invitee])).await;
    bob.receive(&service).await;
    alice.receive(&service).await;
    // One in which he could not change it again is none.
    let absent = GroupPolicy::of_creator(opaque(*b"mimi://ds.example/p/absent"));
    let plan = Plan::set_context(bob.context_with(&id, Some(&absent)));
    assert_eq!(
        bob.refused(&service, &id, plan).await,
        ProblemType::NotAllowed
    );
    let policy = GroupPolicy::of_creator(opaque(bob.user(&id)));
    bob.set_policy(&service, &id, &policy).await;
    alice.receive(&service).await;
    assert_eq!(
        alice.refused(&service, &id, Plan::remove([1])).await,
        ProblemType::NotAllowed
    );
}

#[tokio::test]
async fn the_role_of_an_admin_who_is_away_is_not_a_moderators_to_take() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    let [bob, carol] = [trio.bob.user(&id), trio.carol.user(&id)];
    let mut policy = trio.alice.policy(&id).unwrap();
    policy.roles.push(protocol::policy::Role {
        number: 2,
        name: opaque(*b"moderator"),
        capabilities: Capabilities::SET_ROLE
            .and(Capabilities::SEND)
            .and(Capabilities::ADD),
    });
    let policy =
        policy
            .with(&bob, 2, Standing::Active)
            .with(&carol, GroupPolicy::ADMIN, Standing::Inactive);
    trio.alice.set_policy(&service, &id, &policy).await;
    trio.bob.receive(&service).await;
    let stripped = policy.with(&carol, GroupPolicy::MEMBER, Standing::Inactive);
    let context = trio.bob.context_with(&id, Some(&stripped));
    assert_eq!(
        trio.bob
            .refused(&service, &id, Plan::set_context(context))
            .await,
        ProblemType::NotAllowed
    );
}

#[tokio::test]
async fn a_policy_that_a_group_cannot_begin_with_is_refused() {
    let service = Service::start(Engine::Memory);
    let mut alice = Client::new(&service).await;
    let policy_of = |user: &[u8]| GroupPolicy::of_creator(opaque(user));
    let mut disordered = policy_of(b"x");
    disordered.roles.reverse();
    let others = policy_of(b"mimi://ds.example/p/somebody-else");
    for (kind, policy) in [
        (GroupKind::Group, Some(disordered)),
        (GroupKind::Group, Some(others)),
        (GroupKind::Connection, None),
        (GroupKind::SingleUser, None),
    ] {
        let leaf = alice.leaf(&service);
        let policy = policy.unwrap_or_else(|| policy_of(&leaf.user));
        let mut context = alice.context(&service, GroupKind::Connection, &leaf, true);
        context.push(policy_extension(&policy));
        assert_eq!(
            crate::creation_refusals::refused_context(&service, &mut alice, kind, leaf, context)
                .await,
            ProblemType::InvalidGroupInfo
        );
    }
    // Nor with one that members need not support.
    let leaf = alice.leaf(&service);
    let mut context = alice.context(&service, GroupKind::Group, &leaf, true);
    context.retain(|one| one.extension_type() != ExtensionType::RequiredCapabilities);
    let kind = GroupKind::Group;
    let problem =
        crate::creation_refusals::refused_context(&service, &mut alice, kind, leaf, context).await;
    assert_eq!(problem, ProblemType::InvalidGroupInfo);
    // Nor without the service among the external senders.
    let leaf = alice.leaf(&service);
    let mut context = alice.context(&service, GroupKind::Group, &leaf, true);
    context.retain(|one| one.extension_type() != ExtensionType::ExternalSenders);
    let problem = crate::creation_refusals::refused_context(
        &service,
        &mut alice,
        GroupKind::Group,
        leaf,
        context,
    );
    assert_eq!(problem.await, ProblemType::InvalidGroupInfo);
}

#[tokio::test]
async fn nobody_comes_in_under_the_pseudonym_of_an_admin_who_has_left() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    let admin = trio.bob.user(&id);
    let policy = trio.alice.policy(&id).unwrap();
    let policy = policy.with(&admin, GroupPolicy::ADMIN, Standing::Active);
    trio.alice.set_policy(&service, &id, &policy).await;
    for client in [&mut trio.alice, &mut trio.bob, &mut trio.carol] {
        client.receive(&service).await;
    }
    trio.alice.commit(&service, &id, Plan::remove([1])).await;
    for client in [&mut trio.alice, &mut trio.bob, &mut trio.carol] {
        client.receive(&service).await;
    }
    // Carol may add: but not somebody who says that he is Bob.
    let mut mallory = Client::new(&service).await;
    let leaf = mallory.leaf_of_user(&service, Flaw::None, &admin);
    let invitee = mallory.invitee_with(leaf);
    assert_eq!(
        trio.carol
            .refused(&service, &id, Plan::add([invitee]))
            .await,
        ProblemType::NotAllowed
    );
    let honest = mallory.invitee(&service);
    trio.carol.commit(&service, &id, Plan::add([honest])).await;
}
