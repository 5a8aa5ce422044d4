//! How groups end: deleted, or with another one in their place (RFC 9420 §11.2).

use protocol::group::ReserveGroupIdRequest;

use super::by_hand::reinit;
use super::commits::{refused, still_works};
use super::kit::Outside;
use super::*;

fn reserved(world: &mut World) -> GroupId {
    let key = crate::testing::key(9);
    let body = ReserveGroupIdRequest {
        group_id: protocol::ids::GroupId(crypto::random().unwrap()),
    };
    let answer = world.service.call::<ReserveGroupId>(&key, &body);
    answer.unwrap().group_id
}

fn reinitialize(
    world: &mut World,
    client: &mut Client,
    proposals: &[u8],
) -> Result<protocol::group::CommitAccepted, Failure> {
    let request = super::by_hand::commit(client, proposals);
    client.send_commit(world, Number::ReInitializeGroup, &request)
}

#[test]
fn a_group_of_one_and_a_connection_are_deleted_too() {
    let mut world = World::new(160);
    let mut alone = Client::create(&mut world, GroupKind::Group);
    let body = alone.message(b"text");
    alone
        .commit(&mut world, Plan::of(Number::DeleteGroup))
        .unwrap();
    let answer = alone.call::<SendMessage>(&mut world, &body);
    assert_eq!(problem(answer), ProblemType::UnknownGroup);

    let one = Client::create(&mut world, GroupKind::Connection);
    let (code, _) = make_code(&one, &mut world).unwrap();
    let connect = by_code(code);
    let other =
        Client::join_from_outside(&mut world, &one, pseudonym(), connect, None, false).unwrap();
    let mut clients = vec![one, other];
    catch_up(&mut world, &mut clients);
    let plan = Plan::remove([0])
        .without_rotation()
        .sent_as(Number::DeleteGroup);
    clients[1].commit(&mut world, plan).unwrap();
    clients[0].catch_up(&mut world);
    assert!(clients[0].is_out);
}

#[test]
fn a_group_is_deleted_with_everybody_or_not_at_all() {
    let mut world = World::new(161);
    let mut clients = group(&mut world, 3);
    for plan in [
        Plan::remove([1]).without_rotation(),
        Plan::remove([1, 2]),
        Plan::of(Number::DeleteGroup),
    ] {
        let problem = refused(
            &mut world,
            &mut clients[0],
            plan.sent_as(Number::DeleteGroup),
        );
        assert!(
            matches!(
                problem,
                ProblemType::InvalidCommit | ProblemType::RotationRequired
            ),
            "{problem:?}"
        );
    }
    // Nor is it ended by what is sent as a removal.
    let plan = Plan::remove([1, 2]).without_rotation();
    let problem = refused(&mut world, &mut clients[0], plan);
    assert!(
        matches!(
            problem,
            ProblemType::InvalidCommit | ProblemType::RotationRequired
        ),
        "{problem:?}"
    );
    still_works(&mut world, &mut clients);
}

#[test]
fn after_a_reinit_a_group_is_frozen_and_can_be_read_and_deleted() {
    let mut world = World::new(162);
    let mut clients = group(&mut world, 3);
    let successor = reserved(&mut world);
    let key = clients[1].key();
    let message = clients[1].message(b"too late");
    let leaving = clients[2].leaving();
    let update = clients[1].stage(Plan::update());
    clients[1].abandon();
    let accepted = reinitialize(&mut world, &mut clients[0], &reinit(&successor.0, 1, 1)).unwrap();
    // What members know now: the key of the next step.
    let next = || {
        let state_key = crypto::schedule::StateKey::from(&key.state_key);
        protocol::group::GroupKey {
            group_id: key.group_id,
            state_key: state_key.next().to_wire(),
        }
    };
    assert_eq!(accepted.epoch.0, clients[1].epoch() + 1);
    let message = protocol::group::SendMessageRequest {
        group: next(),
        ..message
    };
    let leaving = protocol::group::ProposalRequest {
        group: next(),
        ..leaving
    };
    let update = protocol::group::CommitRequest {
        group: next(),
        ..update
    };
    let frozen = ProblemType::GroupReinitialized;
    let answer = clients[1].call::<SendMessage>(&mut world, &message);
    assert_eq!(problem(answer), frozen);
    let answer = clients[2].call::<SelfRemove>(&mut world, &leaving);
    assert_eq!(problem(answer), frozen);
    let answer = clients[1].send_commit(&mut world, Number::UpdateClient, &update);
    assert_eq!(problem(answer), frozen);
    clients[1].state_key = crypto::schedule::StateKey::from(&next().state_key);
    let signer = LeafSigner::new();
    let word = clients[1].authorize(&world, AuthorizedJoin::Client, &signer.0.public());
    let client = || JoinPermit::Client;
    let outside = Outside {
        word: Some(word),
        ..Outside::new(&clients[1], clients[1].user.clone(), signer, &client)
    };
    assert_eq!(problem(outside.join(&mut world).map(|_| ())), frozen);
    // Who is in it can still be read.
    assert_eq!(inspect(&clients[1], &mut world).leaves.len(), 3);
}

#[test]
fn a_reinit_names_a_group_that_can_be_created_here() {
    let mut world = World::new(163);
    let mut clients = group(&mut world, 3);
    let successor = reserved(&mut world);
    let own = clients[0].id;
    let good = reinit(&successor.0, 1, 1);
    let cases = [
        (reinit(&[3; 16], 1, 1), ProblemType::InvalidGroupId),
        (reinit(&own.0, 1, 1), ProblemType::InvalidGroupId),
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
    for (proposals, expected) in cases {
        let answer = reinitialize(&mut world, &mut clients[0], &proposals);
        assert_eq!(problem(answer), expected);
    }
    let answer = reinitialize(&mut world, &mut clients[1], &good);
    assert_eq!(problem(answer), ProblemType::NotAllowed);
    let mut connection = Client::create(&mut world, GroupKind::Connection);
    let answer = reinitialize(&mut world, &mut connection, &good);
    assert_eq!(problem(answer), ProblemType::NotAllowed);
    still_works(&mut world, &mut clients);
    reinitialize(&mut world, &mut clients[0], &good).unwrap();
}
