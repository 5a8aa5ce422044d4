//! Requests as they come: who has signed what.

use protocol::group::{OwnLeafRequest, ReserveGroupIdRequest};
use protocol::join::ExternalCommitInfoRequest;
use protocol::request::Sender;

use super::*;
use crate::execution::{Execution, Input};
use crate::operation::Level;
use crate::request::Unauthenticated;
use crate::rows::Bucket;
use crate::testing::key;

#[test]
fn a_signature_counts_for_exactly_what_was_signed() {
    let mut world = World::new(210);
    let mut clients = group(&mut world, 2);
    let body = clients[1].message(b"text");
    let honest = clients[1].sign(&mut world, Number::SendMessage, &body);
    for at in 0..honest.len() {
        let mut bytes = honest.clone();
        bytes[at] ^= 1;
        // And nothing is written (`World::run`).
        let problem = problem(world.run::<SendMessage>(&bytes));
        assert!(
            matches!(
                problem,
                ProblemType::BadSignature
                    | ProblemType::Malformed
                    | ProblemType::UnsupportedVersion
                    | ProblemType::StaleTimestamp
                    | ProblemType::UnknownGroup
            ),
            "{problem:?} at {at}"
        );
    }
    world.run::<SendMessage>(&honest).unwrap();
}

#[test]
fn a_leaf_signs_where_a_leaf_is_asked_for_and_a_key_where_a_key_is() {
    let mut world = World::new(211);
    let mut clients = group(&mut world, 2);
    let body = clients[1].message(b"text");
    let key = clients[1].signer.0.public();
    let by_key = clients[1].sign_by(
        &mut world,
        Sender::Key(opaque(key)),
        Number::SendMessage,
        &body,
    );
    assert_eq!(
        problem(world.run::<SendMessage>(&by_key)),
        ProblemType::BadSignature
    );
    let body = ReserveGroupIdRequest {
        group_id: protocol::ids::GroupId(crypto::random().unwrap()),
    };
    let by_leaf = clients[1].sign(&mut world, Number::ReserveGroupId, &body);
    assert_eq!(
        problem(world.run::<ReserveGroupId>(&by_leaf)),
        ProblemType::BadSignature
    );
}

#[test]
fn what_is_known_of_one_request_authenticates_no_other_one() {
    let mut world = World::new(214);
    let clients = group(&mut world, 1);
    let body = ReserveGroupIdRequest {
        group_id: protocol::ids::GroupId(crypto::random().unwrap()),
    };
    let key = Sender::Key(opaque(clients[0].signer.0.public()));
    let honest = clients[0].sign_by(&mut world, key, Number::ReserveGroupId, &body);
    let (env, _) = world.service.env();
    let received = |bytes: &[u8]| {
        let operation = Number::ReserveGroupId;
        Unauthenticated::<ReserveGroupIdRequest>::decode(bytes, operation, env.now_ms).unwrap()
    };
    let (one, other) = (received(&honest), received(&honest));
    let known = one.by_its_key().unwrap().known();
    assert!(other.again(known).is_none());
    let known = one.by_its_key().unwrap().known();
    assert!(one.again(known).is_some());
}

#[test]
fn whoever_is_not_a_member_uses_up_no_allowance() {
    let mut world = World::new(212);
    let mut clients = group(&mut world, 2);
    let body = clients[0].message(b"text");
    let mut forged = clients[0].sign(&mut world, Number::SendMessage, &body);
    *forged.last_mut().unwrap() ^= 1;
    let honest = clients[0].sign(&mut world, Number::SendMessage, &body);
    let mut charges = |bytes: &[u8]| drawn_on::<SendMessage>(&mut world, bytes).len();
    // Of the leaf, of its user and of their group.
    assert_eq!((charges(&forged), charges(&honest)), (0, 3));
}

/// The allowances that a request draws on.
fn drawn_on<O: Operation>(world: &mut World, bytes: &[u8]) -> Vec<(Level, Bucket)> {
    let tokens = world.service.tokens(1);
    let (mut env, engine) = world.service.env();
    let mut execution = Execution::<O>::new(bytes, tokens, &env).unwrap();
    let mut step = execution.start();
    loop {
        let input = match step {
            Step::Read(reads) => Input::Found(engine.read(&reads)),
            Step::Charge(charges) => {
                let charges = charges.into_iter();
                return charges.map(|it| (it.level, it.bucket)).collect();
            }
            Step::Apply(_) | Step::Done(_) => return Vec::new(),
        };
        step = execution.next(input, &mut env);
    }
}

#[test]
fn the_leaves_of_a_user_draw_on_one_allowance_together_and_no_other_user_does() {
    let mut world = World::new(215);
    let mut clients = group(&mut world, 2);
    let invitee = Invitee::of_user(&world, clients[1].user.clone());
    let plan = Plan {
        operation: Number::AddClients,
        ..Plan::add([invitee.key_package.clone()])
    };
    clients[1].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    let pointer = clients[1].pointers[0].clone();
    let mut second = Client::join(&mut world, invitee, &pointer);
    second.told_of(&clients[1]);
    second.arrive(&mut world);
    clients.push(second);
    let drawn: Vec<_> = clients
        .iter_mut()
        .map(|client| {
            let body = client.message(b"text");
            let bytes = client.sign(&mut world, Number::SendMessage, &body);
            drawn_on::<SendMessage>(&mut world, &bytes)
        })
        .collect();
    let of = |client: usize, level: Level| {
        let mut found = drawn[client].iter().filter(|(of, _)| *of == level);
        found.next().unwrap().1
    };
    let pairs = [Level::Leaf, Level::User, Level::Group]
        .map(|level| (of(1, level) == of(2, level), of(0, level) == of(1, level)));
    assert_eq!(pairs, [(false, false), (true, false), (true, true)]);
}

#[test]
fn whoever_asks_for_its_leaf_draws_on_nothing_of_those_who_come_in() {
    let mut world = World::new(216);
    let clients = group(&mut world, 2);
    let (secret, _) = make_code(&clients[0], &mut world).unwrap();
    let group = || clients[0].key();
    let ask = OwnLeafRequest { group: group() };
    let come = ExternalCommitInfoRequest {
        group: group(),
        permit: JoinPermit::JoinCode(WireSecret::new(secret)),
        authorization: None,
    };
    let ask = world.service.signed(Number::OwnLeaf, &key(1), &ask);
    let come = world
        .service
        .signed(Number::ExternalCommitInfo, &key(2), &come);
    let ask = drawn_on::<OwnLeaf>(&mut world, &ask);
    let come = drawn_on::<ExternalCommitInfo>(&mut world, &come);
    let leaf = |drawn: &[(Level, Bucket)]| {
        let mut found = drawn.iter().filter(|(of, _)| *of == Level::Leaf);
        found.next().unwrap().1
    };
    assert_ne!(leaf(&ask), leaf(&come));
}

#[test]
fn the_service_proposes_under_the_key_that_a_group_knows() {
    let mut world = World::new(213);
    let mut clients = group(&mut world, 3);
    world.service.rotate_keys();
    // Who comes anew lists the newest one.
    let fresh = Client::create(&mut world, GroupKind::Group);
    let listed = |client: &Client| client.mls.extensions().external_senders().unwrap().clone();
    assert_ne!(listed(&fresh), listed(&clients[0]));
    for client in &mut clients {
        client.know(&world);
    }
    world.service.now_ms += 140 * DAY_MS;
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    // Members take its proposals, and let those go whom it names.
    catch_up(&mut world, &mut clients);
    assert!(clients[0].mls.pending_proposals().count() > 0);
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[0].members(), [0]);
}
