//! Users, roles and standings: what members may do to their own clients and to others.

use crypto::credential::CREDENTIAL_TYPE;
use openmls::group::GroupContext;
use openmls::prelude::{
    CredentialType, Extension, ExtensionType, Extensions, ExternalSender,
    RequiredCapabilitiesExtension, UnknownExtension,
};
use protocol::policy::{Capabilities, POLICY_EXTENSION, Role};

use super::commits::{add_client, refused, still_works};
use super::kit::policy_extension;
use super::*;

/// Sets a policy, and everybody hears it.
fn set_policy(world: &mut World, clients: &mut [Client], by: usize, policy: &GroupPolicy) {
    let context = clients[by].context_with(policy);
    clients[by]
        .commit(world, Plan::set_context(context))
        .unwrap();
    catch_up(world, clients);
}

fn moderator(policy: &GroupPolicy) -> GroupPolicy {
    let mut policy = policy.clone();
    policy.roles.push(Role {
        number: 2,
        name: opaque(*b"moderator"),
        capabilities: Capabilities::SET_ROLE
            .and(Capabilities::SEND)
            .and(Capabilities::ADD),
    });
    policy
}

#[test]
fn an_admin_makes_another_one_who_then_may_what_admins_may() {
    let mut world = World::new(80);
    let mut clients = group(&mut world, 3);
    let users: Vec<_> = clients.iter().map(|client| client.user.clone()).collect();
    let policy = clients[0].policy();
    let policy = policy.with(&users[1], GroupPolicy::ADMIN, Standing::Active);
    set_policy(&mut world, &mut clients, 0, &policy);
    let may: Vec<_> = inspect(&clients[2], &mut world)
        .leaves
        .iter()
        .map(|leaf| leaf.capabilities)
        .collect();
    let member = Capabilities::ADD.and(Capabilities::SEND);
    assert_eq!(may, [Capabilities::ALL, Capabilities::ALL, member]);
    clients[1].commit(&mut world, Plan::remove([2])).unwrap();
    catch_up(&mut world, &mut clients);
    let policy = policy.with(&users[0], GroupPolicy::MEMBER, Standing::Active);
    set_policy(&mut world, &mut clients, 1, &policy);
    assert_eq!(
        refused(&mut world, &mut clients[0], Plan::remove([1])),
        ProblemType::NotAllowed
    );
}

#[test]
fn a_member_changes_no_role_and_nobody_gives_what_he_does_not_have() {
    let mut world = World::new(81);
    let mut clients = group(&mut world, 3);
    let users: Vec<_> = clients.iter().map(|client| client.user.clone()).collect();
    let raised = clients[1]
        .policy()
        .with(&users[1], GroupPolicy::ADMIN, Standing::Active);
    let plan = Plan::set_context(clients[1].context_with(&raised));
    assert_eq!(
        refused(&mut world, &mut clients[1], plan),
        ProblemType::NotAllowed
    );
    // Bob becomes a moderator: he may set roles, but neither remove nor delete.
    let policy = moderator(&clients[0].policy()).with(&users[1], 2, Standing::Active);
    set_policy(&mut world, &mut clients, 0, &policy);
    let mut widened = policy.clone();
    widened.roles[2].capabilities = Capabilities::ALL;
    for escalation in [
        policy.with(&users[1], GroupPolicy::ADMIN, Standing::Active),
        policy.with(&users[2], GroupPolicy::ADMIN, Standing::Active),
        policy.with(&users[0], GroupPolicy::MEMBER, Standing::Active),
        policy.with(&users[0], GroupPolicy::ADMIN, Standing::Banned),
        widened,
    ] {
        let plan = Plan::set_context(clients[1].context_with(&escalation));
        assert_eq!(
            refused(&mut world, &mut clients[1], plan),
            ProblemType::NotAllowed
        );
    }
    let muted = policy.with(&users[2], GroupPolicy::MEMBER, Standing::Muted);
    set_policy(&mut world, &mut clients, 1, &muted);
    // And what an admin has who is away is not a moderator's to take.
    let away = muted.with(&users[2], GroupPolicy::ADMIN, Standing::Inactive);
    set_policy(&mut world, &mut clients, 0, &away);
    let stripped = away.with(&users[2], GroupPolicy::MEMBER, Standing::Inactive);
    let plan = Plan::set_context(clients[1].context_with(&stripped));
    assert_eq!(
        refused(&mut world, &mut clients[1], plan),
        ProblemType::NotAllowed
    );
}

#[test]
fn the_last_who_may_set_roles_stays_one() {
    let mut world = World::new(82);
    let mut clients = group(&mut world, 3);
    let (policy, own) = (clients[0].policy(), clients[0].user.clone());
    let absent = pseudonym();
    for next in [
        policy.with(&own, GroupPolicy::MEMBER, Standing::Active),
        policy.with(&own, GroupPolicy::ADMIN, Standing::Inactive),
        // Somebody who is not here does not count.
        policy
            .with(&own, GroupPolicy::MEMBER, Standing::Active)
            .with(&absent, GroupPolicy::ADMIN, Standing::Active),
    ] {
        let plan = Plan::set_context(clients[0].context_with(&next));
        assert_eq!(
            refused(&mut world, &mut clients[0], plan),
            ProblemType::NotAllowed
        );
    }
    still_works(&mut world, &mut clients);
}

fn external_sender() -> ExternalSender {
    let credential = openmls::prelude::BasicCredential::new(b"somebody".to_vec());
    ExternalSender::new(vec![3; 32].into(), credential.into())
}

#[test]
fn with_a_role_nothing_else_changes_and_nobody_else_is_listed_who_could_propose() {
    let mut world = World::new(83);
    let mut clients = group(&mut world, 3);
    let policy = clients[0].policy();
    let extensions = clients[0].extensions();
    let with = |change: &dyn Fn(&mut Vec<Extension>)| -> Extensions<GroupContext> {
        let mut extensions = extensions.clone();
        change(&mut extensions);
        Extensions::from_vec(extensions).unwrap()
    };
    let is_not = |kind: ExtensionType| move |one: &Extension| one.extension_type() != kind;
    let is_no_policy = is_not(ExtensionType::Unknown(POLICY_EXTENSION));
    let mut disordered = policy.clone();
    disordered.roles.reverse();
    let malformed = Extension::Unknown(POLICY_EXTENSION, UnknownExtension(vec![1, 2, 3]));
    let contexts = [
        // The service is not listed any more, or somebody else in its place, or before it.
        with(&|all| all.retain(is_not(ExtensionType::ExternalSenders))),
        with(&|all| {
            all.retain(is_not(ExtensionType::ExternalSenders));
            all.push(Extension::ExternalSenders(vec![external_sender()]));
        }),
        with(&|all| {
            for extension in all {
                if let Extension::ExternalSenders(senders) = extension {
                    senders.insert(0, external_sender());
                }
            }
        }),
        // Another extension goes, with the policy that it lists.
        with(&|all| {
            all.retain(is_not(ExtensionType::RequiredCapabilities));
            all.retain(is_no_policy);
        }),
        // Or changes.
        with(&|all| {
            all.retain(is_not(ExtensionType::RequiredCapabilities));
            let requires = RequiredCapabilitiesExtension::new(
                &[ExtensionType::Unknown(POLICY_EXTENSION)],
                &[],
                &[
                    CredentialType::Other(CREDENTIAL_TYPE),
                    CredentialType::Basic,
                ],
            );
            all.push(Extension::RequiredCapabilities(requires));
        }),
        // The policy goes, or is none.
        with(&|all| all.retain(is_no_policy)),
        with(&|all| {
            all.retain(is_no_policy);
            all.push(malformed.clone());
        }),
        with(&|all| {
            all.retain(is_no_policy);
            all.push(policy_extension(&disordered));
        }),
    ];
    for (at, context) in contexts.into_iter().enumerate() {
        assert_eq!(
            refused(&mut world, &mut clients[0], Plan::set_context(context)),
            ProblemType::InvalidCommit,
            "context {at}"
        );
    }
    still_works(&mut world, &mut clients);
}

#[test]
fn a_message_is_judged_by_the_epoch_that_it_names() {
    let mut world = World::new(84);
    let mut clients = group(&mut world, 3);
    let bob = clients[1].user.clone();
    let standing =
        |client: &Client, standing| client.policy().with(&bob, GroupPolicy::MEMBER, standing);
    let before = clients[1].message(b"before");
    let muted = standing(&clients[0], Standing::Muted);
    set_policy(&mut world, &mut clients, 0, &muted);
    let meanwhile = clients[1].message(b"meanwhile");
    let answer = clients[1].call::<SendMessage>(&mut world, &meanwhile);
    assert_eq!(problem(answer), ProblemType::NotAllowed);
    // He wrote it when he could speak; what he wrote when he could not stays unsaid.
    clients[1].call::<SendMessage>(&mut world, &before).unwrap();
    let active = standing(&clients[0], Standing::Active);
    set_policy(&mut world, &mut clients, 0, &active);
    let answer = clients[1].call::<SendMessage>(&mut world, &meanwhile);
    assert_eq!(problem(answer), ProblemType::NotAllowed);
    clients[1].send(&mut world, b"again").unwrap();
}

#[test]
fn a_leaf_does_not_speak_in_epochs_before_its_own() {
    let mut world = World::new(85);
    let mut clients = group(&mut world, 2);
    let earlier = clients[0].message(b"of an epoch before carol");
    let invitee = Invitee::new(&world);
    let add = Plan::add([invitee.key_package.clone()]);
    clients[0].commit(&mut world, add).unwrap();
    catch_up(&mut world, &mut clients);
    let pointer = clients[0].pointers[0].clone();
    let mut carol = Client::join(&mut world, invitee, &pointer);
    carol.told_of(&clients[0]);
    let answer = carol.call::<SendMessage>(&mut world, &earlier);
    assert_eq!(problem(answer), ProblemType::NotAllowed);
}

#[test]
fn a_group_without_a_policy_gets_its_first_one_from_any_member() {
    let mut world = World::new(86);
    let without = |context: &mut Vec<Extension>, _: &[u8]| {
        context.retain(|one| one.extension_type() != ExtensionType::Unknown(POLICY_EXTENSION));
    };
    let kind = GroupKind::Group;
    let mut alice = Client::create_in(&mut world, kind, without, None, |_| {}).unwrap();
    let invitee = Invitee::new(&world);
    let add = Plan::add([invitee.key_package.clone()]);
    alice.commit(&mut world, add).unwrap();
    alice.catch_up(&mut world);
    let pointer = alice.pointers[0].clone();
    let mut bob = Client::join(&mut world, invitee, &pointer);
    bob.told_of(&alice);
    bob.arrive(&mut world);
    let mut clients = vec![alice, bob];
    catch_up(&mut world, &mut clients);
    // One in which he could not change it again is none.
    let absent = GroupPolicy::of_creator(opaque(pseudonym()));
    let plan = Plan::set_context(clients[1].context_with(&absent));
    assert_eq!(
        refused(&mut world, &mut clients[1], plan),
        ProblemType::NotAllowed
    );
    let policy = GroupPolicy::of_creator(opaque(clients[1].user.as_slice()));
    set_policy(&mut world, &mut clients, 1, &policy);
    assert_eq!(
        refused(&mut world, &mut clients[0], Plan::remove([1])),
        ProblemType::NotAllowed
    );
}

#[test]
fn nobody_comes_in_under_the_pseudonym_of_an_admin_who_has_left() {
    let mut world = World::new(87);
    let mut clients = group(&mut world, 3);
    let admin = clients[1].user.clone();
    let policy = clients[0].policy();
    let policy = policy.with(&admin, GroupPolicy::ADMIN, Standing::Active);
    set_policy(&mut world, &mut clients, 0, &policy);
    clients[0].commit(&mut world, Plan::remove([1])).unwrap();
    catch_up(&mut world, &mut clients);
    // Carol may add: but not somebody who says that he is Bob.
    let mallory = Invitee::of_user(&world, admin).key_package;
    assert_eq!(
        refused(&mut world, &mut clients[2], Plan::add([mallory])),
        ProblemType::NotAllowed
    );
    let honest = Invitee::new(&world).key_package;
    clients[2].commit(&mut world, Plan::add([honest])).unwrap();
}

#[test]
fn who_may_not_remove_removes_nobody_and_who_is_banned_adds_nobody_and_is_not_added() {
    let mut world = World::new(88);
    let mut clients = group(&mut world, 3);
    assert_eq!(
        refused(&mut world, &mut clients[1], Plan::remove([2])),
        ProblemType::NotAllowed
    );
    let (bob, absent) = (clients[1].user.clone(), pseudonym());
    let policy = clients[0]
        .policy()
        .with(&bob, GroupPolicy::MEMBER, Standing::Banned)
        .with(&absent, GroupPolicy::MEMBER, Standing::Banned);
    set_policy(&mut world, &mut clients, 0, &policy);
    let dave = Invitee::new(&world).key_package;
    let tablet = Invitee::of_user(&world, bob).key_package;
    for plan in [
        Plan::add([dave]),
        Plan::add([tablet]).sent_as(Number::AddClients),
    ] {
        assert_eq!(
            refused(&mut world, &mut clients[1], plan),
            ProblemType::NotAllowed
        );
    }
    let banned = Invitee::of_user(&world, absent).key_package;
    assert_eq!(
        refused(&mut world, &mut clients[0], Plan::add([banned])),
        ProblemType::NotAllowed
    );
}

#[test]
fn a_user_without_any_right_has_its_clients_come_and_go() {
    let mut world = World::new(89);
    let mut clients = group(&mut world, 2);
    let bob = clients[1].user.clone();
    let policy = clients[0].policy();
    let inactive = policy.with(&bob, GroupPolicy::MEMBER, Standing::Inactive);
    set_policy(&mut world, &mut clients, 0, &inactive);
    let tablet = add_client(&mut world, &mut clients, 1);
    let plan = Plan::remove([tablet]).sent_as(Number::RemoveClients);
    clients[1].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[0].members(), [0, 1]);
}

#[test]
fn a_user_changes_its_pseudonym_only_as_a_whole_and_unlisted() {
    let mut world = World::new(90);
    let mut clients = group(&mut world, 2);
    let becomes = |user: Vec<u8>| Plan {
        new_user: Some(user),
        ..Plan::update()
    };
    // Alice is listed as the admin.
    assert_eq!(
        refused(&mut world, &mut clients[0], becomes(pseudonym())),
        ProblemType::NotAllowed
    );
    // To a pseudonym that the policy lists, though nobody has it here.
    let listed = pseudonym();
    let policy = clients[0].policy();
    let policy = policy.with(&listed, GroupPolicy::ADMIN, Standing::Active);
    set_policy(&mut world, &mut clients, 0, &policy);
    assert_eq!(
        refused(&mut world, &mut clients[1], becomes(listed)),
        ProblemType::NotAllowed
    );
    let fresh = pseudonym();
    clients[1]
        .commit(&mut world, becomes(fresh.clone()))
        .unwrap();
    clients[1].user = fresh;
    catch_up(&mut world, &mut clients);
    add_client(&mut world, &mut clients, 1);
    assert_eq!(
        refused(&mut world, &mut clients[1], becomes(pseudonym())),
        ProblemType::NotAllowed
    );
}

#[test]
fn groups_of_one_user_take_its_clients_and_nobody_else() {
    let mut world = World::new(91);
    let mut clients = vec![Client::create(&mut world, GroupKind::SingleUser)];
    add_client(&mut world, &mut clients, 0);
    for operation in [Number::AddUsers, Number::AddClients] {
        let plan = Plan::add([Invitee::new(&world).key_package]).sent_as(operation);
        assert_eq!(
            refused(&mut world, &mut clients[0], plan),
            ProblemType::NotAllowed
        );
    }
    // Nor by a code.
    let connect = by_code([9; 32]);
    let joined =
        Client::join_from_outside(&mut world, &clients[0], pseudonym(), connect, None, false);
    assert_eq!(problem(joined.map(|_| ())), ProblemType::NotAllowed);
    assert_eq!(
        refused(&mut world, &mut clients[0], Plan::remove([1])),
        ProblemType::NotAllowed
    );
    clients[0].send(&mut world, b"to myself").unwrap();
}

#[test]
fn a_connection_takes_further_clients_of_its_two_users_and_no_policy() {
    let mut world = World::new(92);
    let one = Client::create(&mut world, GroupKind::Connection);
    let (code, _) = make_code(&one, &mut world).unwrap();
    let connect = by_code(code);
    let other =
        Client::join_from_outside(&mut world, &one, pseudonym(), connect, None, false).unwrap();
    let mut clients = vec![one, other];
    catch_up(&mut world, &mut clients);
    // The code has ended with it.
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    add_client(&mut world, &mut clients, 1);
    let policy = GroupPolicy::of_creator(opaque(clients[0].user.as_slice()));
    let mut extensions = clients[0].extensions();
    extensions.push(policy_extension(&policy));
    let plan = Plan::set_context(Extensions::from_vec(extensions).unwrap());
    assert_eq!(
        refused(&mut world, &mut clients[0], plan),
        ProblemType::NotAllowed
    );
    let add = Plan::add([Invitee::new(&world).key_package]);
    assert_eq!(
        refused(&mut world, &mut clients[0], add),
        ProblemType::NotAllowed
    );
}
