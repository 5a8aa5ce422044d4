//! Groups in the domain, driven by real MLS clients.

mod by_hand;
mod commits;
mod creation;
mod endings;
mod envelope;
mod handles;
mod joins;
mod keys;
mod other;
mod proposals;
mod roles;

use crypto::journal::sign_recovery_key;
use crypto::leaf_authorization::AuthorizedJoin;
use crypto::schedule::{JoinCodeSecret, recovery_row_id};
use proptest::prelude::*;
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::group::{
    CommitRequest, GroupKind, InspectGroupRequest, InspectGroupResponse, JOIN_CODE_LABEL, JoinCode,
    JoinCodeChange, NewJoinCode, OwnLeafRequest, PUSH_HANDLE_BYTES, PutRecoveryRowsRequest,
    SetJoinCodeRequest, SetLeafExtrasRequest,
};
use protocol::ids::{GroupId, LeafIndex, RotationEpoch, Week, WelcomeId};
use protocol::join::{JoinPermit, RecoveryRow, RecoveryRowRequest};
use protocol::operation::Operation as Number;
use protocol::policy::{GroupPolicy, Standing};
use protocol::problem::ProblemType;
use protocol::removal::RemovalReason;

use super::commit::{AddUsers, RemoveUsers, UpdateClient};
use super::create::{CreateGroup, ReserveGroupId};
use super::external::{ExternalCommitInfo, ExternalJoin};
use super::extras::{PutRecoveryRows, SetJoinCode, SetLeafExtras};
use super::inspect::{InspectGroup, OwnLeaf};
use super::kit::{
    self, Client, Invitee, LeafSigner, Plan, Pointer, World, by_code, new_code, pseudonym,
};
use super::message::SendMessage;
use super::propose::{Propose, SelfRemove};
use super::scenes::group;
use super::{commit, records};
use crate::engine::{ApplyError, Batch, Table};
use crate::execution::{Failure, Step, read};
use crate::operation::Operation;
use crate::refusal::Refusal;
use crate::testing::{DAY_MS, Service};

fn problem<T: std::fmt::Debug>(answer: Result<T, Failure>) -> ProblemType {
    match answer.unwrap_err() {
        Failure::Refused(refusal) => refusal.problem(),
        other => panic!("{other:?}"),
    }
}

fn catch_up(world: &mut World, clients: &mut [Client]) {
    for client in clients {
        client.catch_up(world);
    }
}

#[test]
fn members_hear_what_is_sent_and_follow_commits_with_and_without_rotation() {
    let mut world = World::new(1);
    let mut clients = group(&mut world, 4);
    for round in 0..3u8 {
        for sender in 0..4 {
            clients[sender].send(&mut world, &[round]).unwrap();
            let mut plan = Plan::update();
            plan.rotates = round == 1 && sender == 2;
            clients[sender].commit(&mut world, plan).unwrap();
            catch_up(&mut world, &mut clients);
        }
    }
    for client in &clients {
        assert_eq!(client.epoch(), 13);
        assert_eq!(client.texts.len(), 12);
    }
    let gone = clients[3].index();
    clients[0].commit(&mut world, Plan::remove([gone])).unwrap();
    catch_up(&mut world, &mut clients);
    assert!(clients[3].is_out);
    assert_eq!(clients[1].rotation.0, 14);
    assert_eq!(clients[1].segment, clients[0].segment);
}

#[test]
fn unknown_groups_and_wrong_keys_are_one_problem() {
    let mut world = World::new(2);
    let mut client = Client::create(&mut world, GroupKind::Group);
    let mut wrong = client.message(b"text");
    wrong.group.state_key = WireSecret::new([1; 32]);
    let mut unknown = client.message(b"text");
    unknown.group.group_id = GroupId([1; 16]);
    for body in [wrong, unknown] {
        let answer = client.call::<SendMessage>(&mut world, &body);
        assert_eq!(
            answer.unwrap_err(),
            Failure::Refused(Refusal::Problem(ProblemType::UnknownGroup))
        );
    }
}

#[test]
fn a_removed_member_opens_neither_the_state_nor_the_segment_that_follows() {
    let mut world = World::new(3);
    let mut clients = group(&mut world, 3);
    let gone = clients[2].index();
    clients[0].commit(&mut world, Plan::remove([gone])).unwrap();
    catch_up(&mut world, &mut clients);
    let body = clients[2].key();
    let inspect = InspectGroupRequest {
        group: body,
        from: LeafIndex(0),
    };
    let answer = clients[2].call::<InspectGroup>(&mut world, &inspect);
    assert_eq!(problem(answer), ProblemType::UnknownGroup);
    assert_ne!(clients[2].segment, clients[1].segment);
}

fn inspect(client: &Client, world: &mut World) -> InspectGroupResponse {
    let request = InspectGroupRequest {
        group: client.key(),
        from: LeafIndex(0),
    };
    client.call::<InspectGroup>(world, &request).unwrap()
}

#[test]
fn a_leaf_that_leaves_holds_everything_up_until_a_rotating_commit_lets_it_go() {
    let mut world = World::new(4);
    let mut clients = group(&mut world, 3);
    clients[2].leave(&mut world).unwrap();
    let again = clients[2].leaving();
    let first = clients[2].call::<SelfRemove>(&mut world, &again).unwrap();
    assert_eq!(inspect(&clients[0], &mut world).pending_proposals.len(), 1);
    assert_eq!(
        problem(clients[0].send(&mut world, b"text")),
        ProblemType::PendingProposals
    );
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[0].proposals.len(), 1);
    assert_eq!(first.place.position.next(), clients[0].next);
    let mut not_covering = Plan::update().rotating();
    not_covering.covers = false;
    let answer = clients[0].commit(&mut world, not_covering);
    assert_eq!(problem(answer), ProblemType::PendingProposals);
    let answer = clients[0].commit(&mut world, Plan::update());
    assert_eq!(problem(answer), ProblemType::RotationRequired);
    // A member without the right to remove may cover it.
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert!(clients[2].is_out);
    assert_eq!(clients[0].members().len(), 2);
    clients[0].send(&mut world, b"text").unwrap();
}

#[test]
fn a_removal_without_rotation_is_refused() {
    let mut world = World::new(5);
    let mut clients = group(&mut world, 3);
    let mut plan = Plan::remove([clients[2].index()]);
    plan.rotates = false;
    let answer = clients[0].commit(&mut world, plan);
    assert_eq!(problem(answer), ProblemType::RotationRequired);
}

#[test]
fn members_must_rotate_an_old_segment_and_messages_need_not() {
    let mut world = World::new(6);
    let mut clients = group(&mut world, 2);
    world.service.now_ms += 31 * DAY_MS;
    clients[0].send(&mut world, b"text").unwrap();
    assert_eq!(inspect(&clients[0], &mut world).rotation_due, 1);
    let answer = clients[0].commit(&mut world, Plan::update());
    assert_eq!(problem(answer), ProblemType::RotationRequired);
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(inspect(&clients[0], &mut world).rotation_due, 0);
    clients[1].commit(&mut world, Plan::update()).unwrap();
}

#[test]
fn whoever_never_came_is_proposed_for_removal_in_the_next_commit() {
    let mut world = World::new(7);
    let mut clients = group(&mut world, 2);
    let invitee = Invitee::new(&world);
    let key_package = invitee.key_package.clone();
    clients[0]
        .commit(&mut world, Plan::add([key_package]))
        .unwrap();
    catch_up(&mut world, &mut clients);
    world.service.now_ms += 85 * DAY_MS;
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(reasons(&clients[0]), [(2, RemovalReason::NeverCame)]);
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[1].members(), [0, 1]);
    clients[0].send(&mut world, b"text").unwrap();
}

/// What the service proposed, as a member holds it.
fn reasons(client: &Client) -> Vec<(u32, RemovalReason)> {
    client
        .mls
        .pending_proposals()
        .map(|queued| mls_rules::leaving(queued).unwrap())
        .zip(client.proposals.iter().map(|message| {
            // Behind version, wire format, group id, epoch and sender.
            let aad = &message[4 + 17 + 8 + 5..];
            let len = usize::from(aad[0]);
            RemovalReason::decode(&aad[1..=len]).unwrap()
        }))
        .collect()
}

#[test]
fn who_has_not_committed_for_long_is_proposed_with_the_week() {
    let mut world = World::new(8);
    let mut clients = group(&mut world, 3);
    let since = Week::of(world.service.now_ms);
    world.service.now_ms += 80 * DAY_MS;
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert!(clients[0].proposals.is_empty());
    world.service.now_ms += 60 * DAY_MS;
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(reasons(&clients[0]), [(2, RemovalReason::Inactive(since))]);
    // The service's proposals are the first entries of the segment that the commit began.
    assert_eq!(clients[1].next.0, 1);
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert!(clients[2].is_out);
}

#[test]
fn a_committer_that_lost_its_answer_gets_it_again() {
    for (rotates, renews) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut world = World::new(9);
        let mut clients = group(&mut world, 2);
        let mut plan = Plan::update();
        plan.rotates = rotates;
        plan.new_user = renews.then(|| clients[1].user.clone());
        let request = clients[1].stage(plan);
        let first = clients[1]
            .send_commit(&mut world, Number::UpdateClient, &request)
            .unwrap();
        // Another envelope, days later, when the record of the result is gone.
        world.service.now_ms += 3 * DAY_MS;
        let before = world.service.engine.clone();
        let second = clients[1]
            .send_commit(&mut world, Number::UpdateClient, &request)
            .unwrap();
        assert_eq!(first, second);
        assert!(world.service.engine == before);
        // Nobody else is told, and another commit under the old key is not taken.
        clients[0].catch_up(&mut world);
        catch_up(&mut world, &mut clients);
        clients[0].commit(&mut world, Plan::update()).unwrap();
    }
}

#[test]
fn of_two_commits_of_one_epoch_the_second_is_told_the_epoch() {
    let mut world = World::new(10);
    let mut clients = group(&mut world, 2);
    let losing = clients[1].stage(Plan::update());
    clients[0].commit(&mut world, Plan::update()).unwrap();
    let answer = clients[1].send_commit(&mut world, Number::UpdateClient, &losing);
    assert_eq!(problem(answer), ProblemType::WrongEpoch);
    catch_up(&mut world, &mut clients);
    clients[1].commit(&mut world, Plan::update()).unwrap();
}

#[test]
fn a_message_that_meets_a_commit_is_sealed_again_for_the_step_that_it_stands_at() {
    let mut world = World::new(11);
    let mut clients = group(&mut world, 2);
    let body = clients[1].message(b"late");
    let bytes = clients[1].sign(&mut world, Number::SendMessage, &body);
    let waiting = world.service.until_apply::<SendMessage>(&bytes, Vec::new());
    assert!(matches!(waiting.1, Step::Apply(_)));
    clients[0].commit(&mut world, Plan::update()).unwrap();
    let outcome = world.service.finish(waiting);
    outcome.answer.unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[0].texts, [b"late"]);
}

#[test]
fn a_message_lags_four_epochs_at_most_and_none_over_a_rotation() {
    let mut world = World::new(12);
    let mut clients = group(&mut world, 2);
    let bodies: Vec<_> = (0..3).map(|_| clients[1].message(b"late")).collect();
    for _ in 0..4 {
        clients[0].commit(&mut world, Plan::update()).unwrap();
        clients[0].catch_up(&mut world);
    }
    clients[1]
        .call::<SendMessage>(&mut world, &bodies[0])
        .unwrap();
    clients[0].commit(&mut world, Plan::update()).unwrap();
    clients[0].catch_up(&mut world);
    let answer = clients[1].call::<SendMessage>(&mut world, &bodies[1]);
    assert_eq!(problem(answer), ProblemType::UnknownGroup);
    clients[1].catch_up(&mut world);
    let body = clients[1].message(b"late");
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    let answer = clients[1].call::<SendMessage>(&mut world, &body);
    assert_eq!(problem(answer), ProblemType::UnknownGroup);
}

#[test]
fn the_message_endpoint_takes_nothing_but_messages_of_the_epoch_whose_key_it_gets() {
    let mut world = World::new(13);
    let mut clients = group(&mut world, 2);
    let mut body = clients[1].message(b"text");
    clients[0].commit(&mut world, Plan::update()).unwrap();
    catch_up(&mut world, &mut clients);
    body.group = clients[1].key();
    let answer = clients[1].call::<SendMessage>(&mut world, &body);
    assert_eq!(problem(answer), ProblemType::WrongEpoch);
    let commit = clients[1].stage(Plan::update());
    body.message = commit.commit;
    let answer = clients[1].call::<SendMessage>(&mut world, &body);
    assert_eq!(problem(answer), ProblemType::InvalidMessage);
    body.message = opaque(vec![0; 300_000]);
    let answer = clients[1].call::<SendMessage>(&mut world, &body);
    assert_eq!(problem(answer), ProblemType::LimitExceeded);
}

#[test]
fn who_is_muted_is_not_heard_and_messages_of_the_epoch_before_still_are() {
    let mut world = World::new(14);
    let mut clients = group(&mut world, 2);
    let late = clients[1].message(b"late");
    let policy = clients[0]
        .policy()
        .with(&clients[1].user, GroupPolicy::MEMBER, Standing::Muted);
    let mut plan = Plan::of(Number::SetRole);
    plan.context = Some(clients[0].context_with(&policy));
    clients[0].commit(&mut world, plan).unwrap();
    clients[1].call::<SendMessage>(&mut world, &late).unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(
        problem(clients[1].send(&mut world, b"text")),
        ProblemType::NotAllowed
    );
    // And members without that right change no policy.
    let mut plan = Plan::of(Number::SetRole);
    plan.context = Some(clients[1].context_with(&clients[0].policy().with(
        &clients[1].user,
        GroupPolicy::ADMIN,
        Standing::Active,
    )));
    assert_eq!(
        problem(clients[1].commit(&mut world, plan)),
        ProblemType::NotAllowed
    );
}

#[test]
fn nothing_is_left_of_a_deleted_group_but_its_closed_journal() {
    let mut world = World::new(15);
    let mut clients = group(&mut world, 3);
    let mut plan = Plan::remove([1, 2]);
    plan.rotates = false;
    plan.operation = Number::DeleteGroup;
    let answer = clients[1].commit(
        &mut world,
        Plan {
            operation: Number::DeleteGroup,
            rotates: false,
            ..Plan::remove([0, 2])
        },
    );
    assert_eq!(problem(answer), ProblemType::NotAllowed);
    let body = clients[0].message(b"text");
    clients[0].commit(&mut world, plan).unwrap();
    let answer = clients[0].call::<SendMessage>(&mut world, &body);
    assert_eq!(problem(answer), ProblemType::UnknownGroup);
    for client in &mut clients[1..] {
        client.catch_up(&mut world);
        assert!(client.is_out);
    }
    let rows = |table| {
        world
            .service
            .engine
            .rows()
            .filter(|(key, _)| key.table == table)
            .count()
    };
    assert_eq!(rows(Table::Groups), 1);
    assert_eq!(rows(Table::GroupParts), 0);
    assert_eq!(rows(Table::RecoveryRows), 0);
    assert_eq!(rows(Table::Heads), 0);
    assert_eq!(rows(Table::ClosedHeads), 1);
}

#[test]
fn the_second_user_of_a_connection_comes_in_and_no_third_one() {
    let mut world = World::new(16);
    let mut one = Client::create(&mut world, GroupKind::Connection);
    let other_code = by_code([9; 32]);
    let uninvited =
        Client::join_from_outside(&mut world, &one, pseudonym(), other_code, None, false);
    assert_eq!(problem(uninvited.map(|_| ())), ProblemType::NotAllowed);
    let (code, _) = make_code(&one, &mut world).unwrap();
    let rows = |world: &World| {
        let rows = world.service.engine.rows();
        rows.filter(|(key, _)| key.table == Table::RecoveryRows)
            .count()
    };
    assert_eq!(rows(&world), 1, "the code's");
    let connect = || by_code(code);
    let mut other =
        Client::join_from_outside(&mut world, &one, pseudonym(), connect(), None, false).unwrap();
    one.catch_up(&mut world);
    other.send(&mut world, b"hello").unwrap();
    one.catch_up(&mut world);
    assert_eq!(one.texts, [b"hello"]);
    one.send(&mut world, b"hello").unwrap();
    other.catch_up(&mut world);
    let third = Client::join_from_outside(&mut world, &one, pseudonym(), connect(), None, false);
    assert_eq!(problem(third.map(|_| ())), ProblemType::NotAllowed);
    // The code has ended with the one that it was for: whoever has it knows the segment, so that
    // ends too.
    assert_eq!(rows(&world), 0);
    let answer = one.commit(&mut world, Plan::update());
    assert_eq!(problem(answer), ProblemType::RotationRequired);
    // Neither removes the other one.
    let answer = one.commit(&mut world, Plan::remove([1]));
    assert_eq!(problem(answer), ProblemType::NotAllowed);
}

#[test]
fn further_clients_and_returning_ones_come_in_by_the_word_of_a_leaf_of_their_user() {
    let mut world = World::new(17);
    let mut clients = group(&mut world, 2);
    let word = Some((AuthorizedJoin::Client, LeafSigner::new()));
    let user = clients[1].user.clone();
    let client = || JoinPermit::Client;
    let further =
        Client::join_from_outside(&mut world, &clients[1], user.clone(), client, word, false);
    clients.push(further.unwrap());
    catch_up(&mut world, &mut clients);
    // Of another user it is not taken.
    let word = Some((AuthorizedJoin::Client, LeafSigner::new()));
    let other =
        Client::join_from_outside(&mut world, &clients[1], pseudonym(), client, word, false);
    assert_eq!(problem(other.map(|_| ())), ProblemType::NotAllowed);
    let rejoin = || JoinPermit::Rejoin;
    let same = || Some((AuthorizedJoin::Rejoin, clients[2].same_signer()));
    let back =
        Client::join_from_outside(&mut world, &clients[2], user.clone(), rejoin, same(), false);
    assert_eq!(problem(back.map(|_| ())), ProblemType::RotationRequired);
    let back = Client::join_from_outside(&mut world, &clients[2], user, rejoin, same(), true);
    let back = back.unwrap();
    let index = back.index();
    assert_eq!(index, clients[2].index());
    catch_up(&mut world, &mut clients);
    assert!(clients[2].is_out);
    clients[2] = back;
    clients[2].send(&mut world, b"back").unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[0].texts, [b"back"]);
}

#[test]
fn no_user_has_more_leaves_than_a_commit_removes_and_a_group_of_any_size_is_deleted() {
    let mut world = World::new(40);
    // Fewer than there are leaves to remove.
    world.service.settings.limits.proposals = mls_rules::MAX_CLIENTS;
    let mut clients = group(&mut world, 2);
    let user = clients[1].user.clone();
    let own = (1..mls_rules::MAX_CLIENTS).map(|_| Invitee::of_user(&world, user.clone()));
    let plan = Plan {
        operation: Number::AddClients,
        ..Plan::add(own.map(|invitee| invitee.key_package))
    };
    clients[1]
        .commit(&mut world, plan.twisted(short_welcomes))
        .unwrap();
    catch_up(&mut world, &mut clients);
    let word = Some((AuthorizedJoin::Client, LeafSigner::new()));
    let client = || JoinPermit::Client;
    let further =
        Client::join_from_outside(&mut world, &clients[1], user.clone(), client, word, false);
    assert_eq!(problem(further.map(|_| ())), ProblemType::LimitExceeded);
    let last = u32::try_from(mls_rules::MAX_CLIENTS).unwrap();
    let invitee = Invitee::new(&world).key_package;
    clients[0].commit(&mut world, Plan::add([invitee])).unwrap();
    catch_up(&mut world, &mut clients);
    let plan = Plan {
        operation: Number::DeleteGroup,
        rotates: false,
        ..Plan::remove(1..=last + 1)
    };
    clients[0].commit(&mut world, plan).unwrap();
}

#[test]
fn a_record_that_is_there_is_neither_written_over_nor_worked_for() {
    for (twist, table) in [
        (
            (|request| {
                let upload = request.welcome.as_mut().unwrap();
                upload.welcomes[0].id = WelcomeId([5; 32]);
            }) as fn(&mut CommitRequest),
            Table::Welcomes,
        ),
        (
            |request| {
                let upload = request.welcome.as_mut().unwrap();
                upload.join_key = WireSecret::new([6; 32]);
            },
            Table::JoinRecords,
        ),
    ] {
        let mut world = World::new(41);
        let mut clients = group(&mut world, 2);
        let plan = |world: &World| Plan::add([Invitee::new(world).key_package]).twisted(twist);
        let first = plan(&world);
        clients[0].commit(&mut world, first).unwrap();
        catch_up(&mut world, &mut clients);
        let rows = |world: &World| -> Vec<_> {
            let rows = world.service.engine.rows();
            rows.filter(|(key, _)| key.table == table)
                .map(|(key, value)| (key.clone(), value.to_vec()))
                .collect()
        };
        let before = rows(&world);
        let again = plan(&world);
        let answer = clients[1].commit(&mut world, again);
        assert_eq!(problem(answer), ProblemType::InvalidCommit);
        assert_eq!(rows(&world), before);
    }
}

/// How often a request is charged whose change is never the first one, and how much at last. One
/// token stands in for the allowances.
fn charges_in_vain<O: Operation>(world: &mut World, bytes: &[u8]) -> (u32, usize) {
    let tokens = world.service.tokens(1);
    world.service.settings.prices.bytes_a_token = bytes.len();
    let (mut env, engine) = world.service.env();
    let mut execution = crate::execution::Execution::<O>::new(bytes, tokens, &env).unwrap();
    let (mut charged, mut drawn) = (0, 0);
    let mut step = execution.start();
    loop {
        let input = match step {
            Step::Read(reads) => crate::execution::Input::Found(engine.read(&reads)),
            Step::Charge(charges) => {
                charged += 1;
                drawn = charges.iter().map(|charge| charge.bytes).max().unwrap();
                crate::execution::Input::Charged(Err(None))
            }
            Step::Apply(_) => crate::execution::Input::Applied(Err(ApplyError::Condition {
                condition: 3,
                found: None,
            })),
            Step::Done(outcome) => {
                let problem = problem::<Vec<u8>>(outcome.answer);
                assert_eq!(problem, ProblemType::Conflict);
                return (charged, drawn);
            }
        };
        step = execution.next(input, &mut env);
    }
}

#[test]
fn each_look_at_a_tree_is_charged_by_its_size_and_a_message_once() {
    let mut world = World::new(42);
    let mut clients = group(&mut world, 3);
    let body = clients[0].message(b"text");
    let bytes = clients[0].sign(&mut world, Number::SendMessage, &body);
    let (charged, _) = charges_in_vain::<SendMessage>(&mut world, &bytes);
    assert_eq!(charged, 1);
    let update = |clients: &mut [Client], world: &mut World| {
        let request = clients[0].stage(Plan::update());
        let bytes = clients[0].sign(world, Number::UpdateClient, &request);
        clients[0].abandon();
        let (charged, drawn) = charges_in_vain::<UpdateClient>(world, &bytes);
        assert_eq!(charged, crate::execution::ATTEMPTS);
        drawn - request.commit.as_slice().len()
    };
    let few = update(&mut clients, &mut world);
    assert!(few > 0);
    let adds: Vec<_> = (0..60).map(|_| Invitee::new(&world).key_package).collect();
    let request = clients[0].stage(Plan::add(adds).twisted(short_welcomes));
    let bytes = clients[0].sign(&mut world, Number::AddUsers, &request);
    let (_, drawn) = charges_in_vain::<AddUsers>(&mut world, &bytes);
    let sent = request.commit.as_slice().len() + 60 * 100;
    // And the join record.
    assert!(drawn > sent + few);
    let answer = clients[0].send_commit(&mut world, Number::AddUsers, &request);
    answer.unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(update(&mut clients, &mut world), 21 * few);
}

/// Makes a join code; the secret is for its holders.
fn make_code(client: &Client, world: &mut World) -> Result<([u8; 32], Vec<u8>), Failure> {
    let public_key = crypto::random::<32>().unwrap().to_vec();
    make_code_with(client, world, public_key)
}

fn make_code_with(
    client: &Client,
    world: &mut World,
    public_key: Vec<u8>,
) -> Result<([u8; 32], Vec<u8>), Failure> {
    let sign = |tbs: &[u8]| client.signer.0.sign(JOIN_CODE_LABEL, tbs);
    let of = (client.key(), client.index(), client.epoch());
    let (secret, request) = new_code(world, of, &public_key, sign);
    client.call::<SetJoinCode>(world, &request)?;
    Ok((secret, public_key))
}

#[test]
fn a_join_code_lets_in_until_it_is_revoked_and_then_the_next_commit_rotates() {
    let mut world = World::new(18);
    let mut clients = group(&mut world, 2);
    let (secret, public_key) = make_code(&clients[1], &mut world).unwrap();
    let joined = Client::join_from_outside(
        &mut world,
        &clients[0],
        pseudonym(),
        by_code(secret),
        None,
        false,
    );
    clients.push(joined.unwrap());
    catch_up(&mut world, &mut clients);
    let wrong = Client::join_from_outside(
        &mut world,
        &clients[0],
        pseudonym(),
        by_code([7; 32]),
        None,
        false,
    );
    assert_eq!(problem(wrong.map(|_| ())), ProblemType::NotAllowed);
    assert_eq!(inspect(&clients[0], &mut world).codes.len(), 1);
    let request = SetJoinCodeRequest {
        group: clients[0].key(),
        change: JoinCodeChange::Revoke(recovery_row_id(&clients[0].id, &public_key)),
    };
    clients[0]
        .call::<SetJoinCode>(&mut world, &request)
        .unwrap();
    let late = Client::join_from_outside(
        &mut world,
        &clients[0],
        pseudonym(),
        by_code(secret),
        None,
        false,
    );
    assert_eq!(problem(late.map(|_| ())), ProblemType::NotAllowed);
    let answer = clients[0].commit(&mut world, Plan::update());
    assert_eq!(problem(answer), ProblemType::RotationRequired);
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
}

#[test]
fn codes_end_by_time_by_a_removal_and_by_a_rotation_that_does_not_seal_to_them() {
    let mut world = World::new(19);
    let mut clients = group(&mut world, 3);
    make_code(&clients[0], &mut world).unwrap();
    world.service.now_ms += 28 * DAY_MS;
    let answer = clients[0].commit(&mut world, Plan::update());
    assert_eq!(problem(answer), ProblemType::RotationRequired);
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert!(inspect(&clients[0], &mut world).codes.is_empty());
    for plan in [Plan::update().rotating(), Plan::remove([2])] {
        let (_, public_key) = make_code(&clients[0], &mut world).unwrap();
        let removes = plan.operation == Number::RemoveUsers;
        let mut request = clients[0].stage(plan);
        if removes {
            // Even if the committer seals to it.
            request.rotation.as_mut().unwrap().code_rows = vec![RecoveryRow {
                id: recovery_row_id(&clients[0].id, &public_key),
                sealed: opaque(vec![5; 80]),
            }];
        }
        let operation = if removes {
            Number::RemoveUsers
        } else {
            Number::UpdateClient
        };
        clients[0]
            .send_commit(&mut world, operation, &request)
            .unwrap();
        catch_up(&mut world, &mut clients);
        assert!(inspect(&clients[0], &mut world).codes.is_empty());
        let request = RecoveryRowRequest {
            version: protocol::WIRE_VERSION,
            id: recovery_row_id(&clients[0].id, &public_key),
        };
        let (mut env, engine) = world.service.env();
        assert!(read::<records::RecoveryRow>(&request, engine, &mut env).is_err());
    }
}

#[test]
fn a_code_ends_when_its_maker_may_not_add_any_more_or_is_gone() {
    let mut world = World::new(45);
    let mut clients = group(&mut world, 2);
    let (secret, _) = make_code(&clients[1], &mut world).unwrap();
    make_code(&clients[0], &mut world).unwrap();
    // A commit that takes no right away ends none.
    clients[0].commit(&mut world, Plan::update()).unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(inspect(&clients[0], &mut world).codes.len(), 2);
    let mut plan = Plan::of(Number::SetRole);
    plan.context = Some(clients[0].context_with(&clients[0].policy().with(
        &clients[1].user,
        GroupPolicy::MEMBER,
        Standing::Inactive,
    )));
    clients[0].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    let late = |world: &mut World, by: &Client, secret| {
        let joined =
            Client::join_from_outside(world, by, pseudonym(), by_code(secret), None, false);
        problem(joined.map(|_| ()))
    };
    assert_eq!(
        late(&mut world, &clients[0], secret),
        ProblemType::NotAllowed
    );
    // Who has it knows the segment. The other code stays.
    assert_eq!(inspect(&clients[0], &mut world).codes.len(), 1);
    let answer = clients[0].commit(&mut world, Plan::update());
    assert_eq!(problem(answer), ProblemType::RotationRequired);
    // A client that made one goes, and its user stays.
    let invitee = Invitee::of_user(&world, clients[0].user.clone());
    let mut plan = Plan::add([invitee.key_package.clone()]).rotating();
    plan.operation = Number::AddClients;
    clients[0].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    let pointer = clients[0].pointers[0].clone();
    let mut second = Client::join(&mut world, invitee, &pointer);
    second.told_of(&clients[0]);
    second.arrive(&mut world);
    let (own, _) = make_code(&second, &mut world).unwrap();
    clients.push(second);
    catch_up(&mut world, &mut clients);
    let codes = inspect(&clients[0], &mut world).codes;
    let mut plan = Plan::remove([2]);
    plan.operation = Number::RemoveClients;
    let mut request = clients[0].stage(plan);
    // Even if the committer seals to it.
    request.rotation.as_mut().unwrap().code_rows = codes
        .iter()
        .map(|code| RecoveryRow {
            id: recovery_row_id(&clients[0].id, code.public_key.as_slice()),
            sealed: opaque(vec![5; 80]),
        })
        .collect();
    clients[0]
        .send_commit(&mut world, Number::RemoveClients, &request)
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(late(&mut world, &clients[0], own), ProblemType::NotAllowed);
}

#[test]
fn an_external_commit_covers_nothing_and_the_service_proposes_it_again() {
    let mut world = World::new(20);
    let mut clients = group(&mut world, 3);
    let (secret, _) = make_code(&clients[0], &mut world).unwrap();
    clients[2].leave(&mut world).unwrap();
    catch_up(&mut world, &mut clients);
    let joined = Client::join_from_outside(
        &mut world,
        &clients[0],
        pseudonym(),
        by_code(secret),
        None,
        false,
    );
    clients.push(joined.unwrap());
    for client in &mut clients {
        client.proposals.clear();
    }
    catch_up(&mut world, &mut clients);
    assert_eq!(reasons(&clients[1]), [(2, RemovalReason::OwnWish)]);
    assert_eq!(reasons(&clients[3]), [(2, RemovalReason::OwnWish)]);
    clients[3]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert!(clients[2].is_out);
}

#[test]
fn rows_of_the_last_rotation_only_are_kept_and_put_by_any_member_once() {
    let mut world = World::new(21);
    let mut clients = group(&mut world, 3);
    let ids: Vec<_> = clients
        .iter()
        .map(|client| recovery_row_id(&client.id, &client.recovery))
        .collect();
    let has_rows = |world: &mut World, client: &Client| -> Vec<u8> {
        inspect(client, world)
            .leaves
            .iter()
            .map(|leaf| leaf.has_row)
            .collect()
    };
    assert_eq!(has_rows(&mut world, &clients[0]), [0, 1, 1]);
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(has_rows(&mut world, &clients[0]), [0, 0, 0]);
    let put = |client: &Client, content: u8, rotation: u64| PutRecoveryRowsRequest {
        group: client.key(),
        rotation_epoch: RotationEpoch(rotation),
        rows: [ids[0], ids[2]]
            .map(|id| RecoveryRow {
                id,
                sealed: opaque(vec![content; 80]),
            })
            .to_vec(),
    };
    let rotation = clients[0].rotation.0;
    let body = put(&clients[1], 1, rotation - 1);
    assert!(
        clients[1]
            .call::<PutRecoveryRows>(&mut world, &body)
            .is_err()
    );
    let body = put(&clients[1], 1, rotation);
    clients[1]
        .call::<PutRecoveryRows>(&mut world, &body)
        .unwrap();
    let body = put(&clients[2], 2, rotation);
    clients[2]
        .call::<PutRecoveryRows>(&mut world, &body)
        .unwrap();
    assert_eq!(has_rows(&mut world, &clients[0]), [1, 0, 1]);
    let mut content = |id| {
        let request = RecoveryRowRequest {
            version: protocol::WIRE_VERSION,
            id,
        };
        let (mut env, engine) = world.service.env();
        let row = read::<records::RecoveryRow>(&request, engine, &mut env).unwrap();
        assert_eq!(row.rotation_epoch.0, rotation);
        row.sealed.as_slice()[0]
    };
    // Those that were there stay, but for the own one.
    assert_eq!((content(ids[0]), content(ids[2])), (1, 2));
    let stranger = PutRecoveryRowsRequest {
        rows: vec![RecoveryRow {
            id: protocol::ids::RecoveryRowId([9; 32]),
            sealed: opaque(vec![1; 80]),
        }],
        ..put(&clients[2], 2, rotation)
    };
    let answer = clients[2].call::<PutRecoveryRows>(&mut world, &stranger);
    assert_eq!(problem(answer), ProblemType::NotAllowed);
    // Nor one whose id only begins as a leaf's: nothing would ever drop it.
    let mut similar = ids[0];
    similar.0[31] ^= 1;
    let rows = |world: &World| {
        let rows = world.service.engine.rows();
        rows.filter(|(key, _)| key.table == Table::RecoveryRows)
            .count()
    };
    let before = rows(&world);
    for beside in [false, true] {
        let mut request = put(&clients[2], 2, rotation);
        request.rows.truncate(usize::from(beside));
        request.rows.push(RecoveryRow {
            id: similar,
            sealed: opaque(vec![1; 80]),
        });
        let answer = clients[2].call::<PutRecoveryRows>(&mut world, &request);
        assert_eq!(answer.is_ok(), beside);
        assert_eq!(rows(&world), before);
    }
}

#[test]
fn nobody_takes_the_recovery_key_of_another_leaf_or_of_a_code() {
    let mut world = World::new(43);
    let mut clients = group(&mut world, 3);
    let (secret, of_code) = make_code(&clients[0], &mut world).unwrap();
    // No row stands in the way: a rotation has taken all.
    let mut request = clients[2].stage(Plan::update().rotating());
    let code_row = recovery_row_id(&clients[0].id, &of_code);
    request.rotation.as_mut().unwrap().code_rows = vec![RecoveryRow {
        id: code_row,
        sealed: opaque(vec![5; 80]),
    }];
    clients[2]
        .send_commit(&mut world, Number::UpdateClient, &request)
        .unwrap();
    catch_up(&mut world, &mut clients);
    let of_leaf = clients[1].recovery.clone();
    let (id, own) = (clients[0].id, clients[0].recovery.clone());
    for key in [&of_leaf, &of_code] {
        let extras = SetLeafExtrasRequest {
            group: clients[0].key(),
            recovery_key: sign_recovery_key(&clients[0].signer.0, &id, key),
            push_handle: opaque(vec![1; PUSH_HANDLE_BYTES]),
            row: RecoveryRow {
                id: recovery_row_id(&id, key),
                sealed: opaque(vec![2; 80]),
            },
        };
        let answer = clients[0].call::<SetLeafExtras>(&mut world, &extras);
        assert_eq!(problem(answer), ProblemType::NotAllowed);
        let mut update = clients[0].stage(Plan::update());
        update.committer.as_mut().unwrap().recovery_key = extras.recovery_key;
        let answer = clients[0].send_commit(&mut world, Number::UpdateClient, &update);
        assert_eq!(problem(answer), ProblemType::NotAllowed);
        clients[0].abandon();
        world.outsiders_recovery = Some(key.clone());
        let joined = Client::join_from_outside(
            &mut world,
            &clients[0],
            pseudonym(),
            by_code(secret),
            None,
            false,
        );
        world.outsiders_recovery = None;
        assert_eq!(problem(joined.map(|_| ())), ProblemType::NotAllowed);
    }
    clients[0].recovery = own;
    let answer = make_code_with(&clients[0], &mut world, of_leaf);
    assert_eq!(problem(answer), ProblemType::NotAllowed);
    // Who proposes itself comes in, without a key that is another's.
    let invitee = Invitee::new(&world);
    let (mut request, _) = invitee.proposes(&mut world, &clients[0]);
    request.new_member.as_mut().unwrap().recovery_key =
        sign_recovery_key(&invitee.signer.0, &id, &clients[1].recovery);
    let bytes = invitee.signs(&mut world, &request);
    world.run::<Propose>(&bytes).unwrap();
    catch_up(&mut world, &mut clients);
    clients[0].commit_pending_adds(&mut world, 1).unwrap();
    catch_up(&mut world, &mut clients);
    let leaves = inspect(&clients[0], &mut world).leaves;
    assert!(leaves[1].recovery_key.is_some() && leaves[3].recovery_key.is_none());
    let code = by_code(secret);
    let joined = Client::join_from_outside(&mut world, &clients[0], pseudonym(), code, None, false);
    joined.unwrap();
}

#[test]
fn a_page_of_rows_is_written_whatever_one_leaf_does_with_its_key() {
    let mut world = World::new(44);
    let mut clients = group(&mut world, 3);
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    let row = |key: &[u8]| RecoveryRow {
        id: recovery_row_id(&clients[0].id, key),
        sealed: opaque(vec![3; 80]),
    };
    // Named twice, and one that a leaf has no more.
    let (first, second) = (row(&clients[1].recovery), row(&clients[2].recovery));
    let body = PutRecoveryRowsRequest {
        group: clients[0].key(),
        rotation_epoch: clients[0].rotation,
        rows: vec![row(&[1; 32]), first.clone(), first, second],
    };
    clients[0]
        .call::<PutRecoveryRows>(&mut world, &body)
        .unwrap();
    let leaves = inspect(&clients[0], &mut world).leaves;
    let has_rows: Vec<u8> = leaves.iter().map(|leaf| leaf.has_row).collect();
    assert_eq!(has_rows, [0, 1, 1]);
}

#[test]
fn the_chain_of_wrapper_keys_goes_back_as_far_as_a_link_key_needs() {
    let mut world = World::new(22);
    let mut clients = group(&mut world, 2);
    for _ in 0..2 {
        clients[0]
            .commit(&mut world, Plan::update().rotating())
            .unwrap();
        catch_up(&mut world, &mut clients);
    }
    let chain = |world: &mut World, client: &mut Client| {
        let invitee = Invitee::new(world);
        let key_package = invitee.key_package.clone();
        client.commit(world, Plan::add([key_package])).unwrap();
        let Pointer {
            group, join_key, ..
        } = client.pointers[0].clone();
        let record = Client::join_record(world, &group, &join_key);
        record
            .wrapper_chain
            .iter()
            .map(|link| link.former.of.0)
            .collect::<Vec<_>>()
    };
    // The second leaf's link key is of the first segment.
    assert_eq!(chain(&mut world, &mut clients[0]), [2, 0]);
    catch_up(&mut world, &mut clients);
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    // Its own update brings one of the present segment; those of the segment before are left.
    assert_eq!(chain(&mut world, &mut clients[0]), [3]);
}

#[test]
fn a_group_takes_so_much_in_a_day_and_handshakes_all_the_same() {
    let mut world = World::new(23);
    world.service.settings.limits.group_messages_a_day = 2;
    let mut clients = group(&mut world, 2);
    clients[0].send(&mut world, b"1").unwrap();
    clients[1].send(&mut world, b"2").unwrap();
    let answer = clients[0].send(&mut world, b"3");
    assert_eq!(
        answer.unwrap_err(),
        Failure::Refused(Refusal::Exhausted {
            retry_after_ms: Some(DAY_MS / 2)
        })
    );
    clients[0].commit(&mut world, Plan::remove([1])).unwrap();
    catch_up(&mut world, &mut clients);
    world.service.now_ms += DAY_MS / 2;
    clients[0].send(&mut world, b"3").unwrap();
}

#[test]
fn one_users_flood_silences_that_user_whatever_it_is_called_and_nobody_else() {
    let mut world = World::new(46);
    let limits = &mut world.service.settings.limits;
    (
        limits.group_messages_a_day,
        limits.group_message_bytes_a_day,
    ) = (80, 80_000);
    let mut clients = group(&mut world, 3);
    let sent = (0..80)
        .take_while(|_| clients[1].send(&mut world, b"flood").is_ok())
        .count();
    assert_eq!(sent, 10);
    catch_up(&mut world, &mut clients);
    let rename = Plan {
        new_user: Some(pseudonym()),
        ..Plan::update()
    };
    for plan in [Plan::update().rotating(), rename] {
        clients[1].commit(&mut world, plan).unwrap();
        catch_up(&mut world, &mut clients);
        let answer = clients[1].send(&mut world, b"flood");
        assert_eq!(problem(answer), ProblemType::TooManyRequests);
        clients[0].send(&mut world, b"text").unwrap();
        clients[2].send(&mut world, b"text").unwrap();
        catch_up(&mut world, &mut clients);
    }
    world.service.now_ms += DAY_MS / 2;
    clients[1].send(&mut world, b"flood").unwrap();
}

#[test]
fn a_user_writes_only_so_many_handshakes_in_a_day_and_who_must_go_goes() {
    let mut world = World::new(47);
    // Two for each user; one was the creator's Add.
    world.service.settings.limits.group_handshakes_a_day = 16;
    let mut clients = group(&mut world, 4);
    clients[0].commit(&mut world, Plan::update()).unwrap();
    catch_up(&mut world, &mut clients);
    let exhausted = Failure::Refused(Refusal::Exhausted {
        retry_after_ms: Some(DAY_MS / 2),
    });
    for plan in [Plan::update(), Plan::update().rotating()] {
        let answer = clients[0].commit(&mut world, plan);
        assert_eq!(answer.unwrap_err(), exhausted);
    }
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    // Another segment is no other day.
    let answer = clients[0].commit(&mut world, Plan::update());
    assert_eq!(answer.unwrap_err(), exhausted);
    clients[0].commit(&mut world, Plan::remove([3])).unwrap();
    catch_up(&mut world, &mut clients);
    clients[2].leave(&mut world).unwrap();
    catch_up(&mut world, &mut clients);
    let covers = Plan::update().rotating();
    clients[0].commit(&mut world, covers).unwrap();
    catch_up(&mut world, &mut clients);
    world.service.now_ms += DAY_MS / 2;
    clients[0].commit(&mut world, Plan::update()).unwrap();
    catch_up(&mut world, &mut clients);
    // What is written beside a commit counts, too: without it there would be room.
    world.service.now_ms += DAY_MS;
    world.service.settings.limits.group_handshakes_a_day = 1_000_000;
    clients[0].commit(&mut world, Plan::update()).unwrap();
    catch_up(&mut world, &mut clients);
    let adds: Vec<_> = (0..3).map(|_| Invitee::new(&world).key_package).collect();
    let request = clients[0].stage(Plan::add(adds).twisted(short_welcomes));
    let share = u64::try_from(request.commit.as_slice().len() + 2_500).unwrap();
    world.service.settings.limits.group_handshake_bytes_a_day = 8 * share;
    let answer = clients[0].send_commit(&mut world, Number::AddUsers, &request);
    assert_eq!(problem(answer), ProblemType::TooManyRequests);
    clients[0].abandon();
    clients[0].commit(&mut world, Plan::update()).unwrap();
}

#[test]
fn nobody_is_added_to_a_group_that_could_then_not_commit() {
    let mut world = World::new(48);
    let mut clients = group(&mut world, 3);
    world.service.settings.limits.commit_bytes = 32 * 1024 + 5 * 84;
    for (adds, fits) in [(3, false), (2, true)] {
        let adds: Vec<_> = (0..adds)
            .map(|_| Invitee::new(&world).key_package)
            .collect();
        let answer = clients[0].commit(&mut world, Plan::add(adds));
        assert_eq!(answer.is_ok(), fits);
    }
    catch_up(&mut world, &mut clients);
    clients[1].commit(&mut world, Plan::update()).unwrap();
}

#[test]
fn a_creation_that_is_refused_for_its_tree_uses_the_reservation_up() {
    let mut world = World::new(24);
    let mut refused = |twist: fn(&mut protocol::group::CreateGroupRequest)| {
        let answer = Client::create_with(&mut world, GroupKind::Group, twist);
        problem(answer.map(|_| ()))
    };
    assert_eq!(
        refused(|request| request.message_days = 31),
        ProblemType::InvalidGroupInfo
    );
    assert_eq!(
        refused(|request| request.leaf.push_handle = opaque(vec![1; 95])),
        ProblemType::InvalidLeaf
    );
    assert_eq!(
        refused(|request| request.leaf.recovery_key.public_key = opaque(vec![1; 32])),
        ProblemType::InvalidLeaf
    );
    assert_eq!(
        refused(|request| request.group_id = GroupId([1; 16])),
        ProblemType::InvalidGroupId
    );
    let reserved = world.service.engine.rows();
    let reserved = reserved.filter(|(key, _)| key.table == Table::Reservations);
    // Those of the first and the last one.
    assert_eq!(reserved.count(), 2);
}

#[test]
fn who_has_the_leaf_key_finds_its_leaf() {
    let mut world = World::new(25);
    let clients = group(&mut world, 2);
    let body = OwnLeafRequest {
        group: clients[1].key(),
    };
    let crypto::sign::LeafKeyPair::Ed25519(key) = &clients[1].signer.0 else {
        panic!("another scheme")
    };
    let answer = world.service.call::<OwnLeaf>(key, &body).unwrap();
    assert_eq!(answer.leaf.leaf_index, LeafIndex(1));
    let other = crate::testing::key(1);
    assert_eq!(
        problem(world.service.call::<OwnLeaf>(&other, &body)),
        ProblemType::NotAllowed
    );
}

#[test]
fn link_keys_are_exactly_those_that_a_commit_needs() {
    let mut world = World::new(26);
    let mut clients = group(&mut world, 2);
    let twists: [fn(&mut protocol::group::CommitRequest); 4] = [
        |request| request.link_keys.clear(),
        |request| request.link_keys[0].leaf_index = LeafIndex(1),
        |request| request.link_keys.push(request.link_keys[0].clone()),
        |request| {
            let mut other = request.link_keys[0].clone();
            other.leaf_index = LeafIndex(0);
            request.link_keys.push(other);
        },
    ];
    for twist in twists {
        let key_package = Invitee::new(&world).key_package;
        let plan = Plan::add([key_package]).twisted(twist);
        let answer = clients[0].commit(&mut world, plan);
        assert_eq!(problem(answer), ProblemType::InvalidCommit);
    }
    let plan = Plan::update().twisted(|request| request.committer = None);
    assert_eq!(
        problem(clients[0].commit(&mut world, plan)),
        ProblemType::InvalidCommit
    );
    // A rotation re-seals older ones.
    let plan = Plan::update().rotating().twisted(|request| {
        request.link_keys.push(protocol::join::LinkKeyUpload {
            leaf_index: LeafIndex(1),
            sealed: opaque(vec![3; 60]),
        });
    });
    clients[0].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    for leaf in inspect(&clients[0], &mut world).leaves {
        assert_eq!(leaf.link_key.wrapper, clients[0].rotation);
    }
}

#[test]
fn clients_of_a_user_come_and_go_by_the_users_own_commits() {
    let mut world = World::new(29);
    let mut clients = group(&mut world, 2);
    let own = |world: &World, user: &[u8]| Invitee::of_user(world, user.to_vec());
    let (invitee, user) = (own(&world, &clients[1].user), clients[1].user.clone());
    let add = |key_package, operation| Plan {
        operation,
        ..Plan::add([key_package])
    };
    // As another user's, or as a user, it is not taken.
    for (by, operation) in [(0, Number::AddClients), (1, Number::AddUsers)] {
        let key_package = own(&world, &user).key_package;
        let answer = clients[by].commit(&mut world, add(key_package, operation));
        assert_eq!(problem(answer), ProblemType::NotAllowed);
    }
    let plan = add(invitee.key_package.clone(), Number::AddClients);
    clients[1].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    let pointer = clients[1].pointers[0].clone();
    let mut joined = Client::join(&mut world, invitee, &pointer);
    joined.told_of(&clients[1]);
    joined.arrive(&mut world);
    clients.push(joined);
    catch_up(&mut world, &mut clients);
    let (code, _) = make_code(&clients[0], &mut world).unwrap();
    let mut plan = Plan::remove([2]);
    plan.operation = Number::RemoveClients;
    let request = clients[1].stage(plan);
    clients[1]
        .send_commit(&mut world, Number::RemoveClients, &request)
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert!(clients[2].is_out);
    let _ = code;
}

#[test]
fn a_join_record_of_several_pages_is_read_page_by_page() {
    let mut world = World::new(30);
    let mut creator = Client::create(&mut world, GroupKind::Group);
    let adds: Vec<_> = (1..150).map(|_| Invitee::new(&world).key_package).collect();
    creator
        .commit(&mut world, Plan::add(adds).twisted(short_welcomes))
        .unwrap();
    let rows = world.service.engine.rows();
    let pages = rows.filter(|(key, _)| key.table == Table::JoinRecords);
    assert!(pages.count() > 1);
    creator.catch_up(&mut world);
    let Pointer {
        group, join_key, ..
    } = creator.pointers[0].clone();
    let record = Client::join_record(&mut world, &group, &join_key);
    assert_eq!(record.leaves.len(), 150);
    assert_eq!(record.state_key.expose(), creator.state_key.expose());
    assert_eq!(
        record.journal.journal_key.expose(),
        creator.journal_key.expose()
    );
    // And is found as long as it is kept, and no longer.
    world.service.now_ms += 97 * DAY_MS;
    Client::join_record(&mut world, &group, &join_key);
    let today = protocol::ids::Day::of(world.service.now_ms + 40 * DAY_MS).0;
    world.service.engine.drop_days(Table::JoinRecords, today);
    let rows = world.service.engine.rows();
    assert_eq!(
        rows.filter(|(key, _)| key.table == Table::JoinRecords)
            .count(),
        0
    );
}

#[test]
fn whoever_proposes_itself_comes_in_by_a_members_commit() {
    let mut world = World::new(32);
    let mut clients = group(&mut world, 2);
    let invitee = Invitee::new(&world);
    let (request, bytes) = invitee.proposes(&mut world, &clients[0]);
    let accepted = world.run::<Propose>(&bytes).unwrap();
    assert_eq!(accepted.place.position, clients[0].next);
    // Twice would fill one place; nor for somebody else.
    let twice = invitee.signs(&mut world, &request);
    assert_eq!(
        problem(world.service.run::<Propose>(&twice, Vec::new())),
        ProblemType::TokenRequired
    );
    let tokens = world.service.tokens(1);
    let answer = world.service.run::<Propose>(&twice, tokens);
    assert_eq!(problem(answer), ProblemType::NotAllowed);
    // It holds no message up.
    clients[1].send(&mut world, b"text").unwrap();
    catch_up(&mut world, &mut clients);
    let inspected = inspect(&clients[0], &mut world);
    assert_eq!(inspected.pending_proposals.len(), 1);
    clients[0].commit_pending_adds(&mut world, 1).unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[1].members(), [0, 1, 2]);
    let leaf = &inspect(&clients[1], &mut world).leaves[2];
    // What it said itself: its link key and its recovery key.
    assert_eq!(leaf.link_key.sealed.as_slice(), [8; 60]);
    assert!(leaf.recovery_key.is_some());
}

/// Nobody comes in by them.
fn short_welcomes(request: &mut protocol::group::CommitRequest) {
    for welcome in &mut request.welcome.as_mut().unwrap().welcomes {
        welcome.sealed = opaque(vec![1; 100]);
    }
}

/// What a request reads and writes: names and bytes.
fn work<O: Operation>(world: &mut World, bytes: &[u8]) -> (usize, usize, Batch) {
    let (mut env, engine) = world.service.env();
    let mut execution = crate::execution::Execution::<O>::new(bytes, Vec::new(), &env).unwrap();
    let (mut rows, mut read) = (0, 0);
    let mut step = execution.start();
    loop {
        let input = match step {
            Step::Read(reads) => {
                let found = engine.read(&reads);
                rows += reads.len();
                read += found
                    .iter()
                    .map(|found| match found {
                        crate::engine::Found::Row(value) => value.as_ref().map_or(0, Vec::len),
                        crate::engine::Found::Range(_) => panic!("a range"),
                    })
                    .sum::<usize>();
                crate::execution::Input::Found(found)
            }
            Step::Charge(_) => crate::execution::Input::Charged(Ok(())),
            Step::Apply(batch) => return (rows, read, batch),
            Step::Done(outcome) => panic!("{outcome:?}"),
        };
        step = execution.next(input, &mut env);
    }
}

#[test]
fn a_message_reads_and_writes_the_same_whatever_the_number_of_members() {
    let mut measured = Vec::new();
    for users in [64, 192] {
        let mut world = World::new(27);
        world.service.settings.self_check = false;
        let mut creator = Client::create(&mut world, GroupKind::Group);
        let adds: Vec<_> = (1..users)
            .map(|_| Invitee::new(&world).key_package)
            .collect();
        creator
            .commit(&mut world, Plan::add(adds).twisted(short_welcomes))
            .unwrap();
        creator.catch_up(&mut world);
        let body = creator.message(b"text");
        let bytes = creator.sign(&mut world, Number::SendMessage, &body);
        let (rows, read, batch) = work::<SendMessage>(&mut world, &bytes);
        let written: usize = batch.puts.iter().map(|(_, value)| value.len()).sum();
        measured.push((rows, read, batch.puts.len(), written));
    }
    let [few, many] = measured[..] else { panic!() };
    assert_eq!((few.0, few.2, few.3), (many.0, many.2, many.3));
    // Versions of two pages more.
    assert!(many.1 - few.1 <= 64, "{few:?} {many:?}");
}

#[test]
fn an_update_of_one_leaf_reseals_its_page_only() {
    let mut world = World::new(28);
    world.service.settings.self_check = false;
    let mut creator = Client::create(&mut world, GroupKind::Group);
    let adds: Vec<_> = (1..130).map(|_| Invitee::new(&world).key_package).collect();
    creator
        .commit(&mut world, Plan::add(adds).twisted(short_welcomes))
        .unwrap();
    creator.catch_up(&mut world);
    let request = creator.stage(Plan::update());
    let bytes = creator.sign(&mut world, Number::UpdateClient, &request);
    let (_, _, batch) = work::<UpdateClient>(&mut world, &bytes);
    let parts = batch
        .puts
        .iter()
        .filter(|(key, _)| key.table == Table::GroupParts);
    // One page of three; control, marks and tree.
    assert_eq!(parts.count(), 4);
    // So does an Add, which reads all of them.
    creator.abandon();
    let plan = Plan::add([Invitee::new(&world).key_package]).twisted(short_welcomes);
    let request = creator.stage(plan);
    let bytes = creator.sign(&mut world, Number::AddUsers, &request);
    let (_, _, batch) = work::<AddUsers>(&mut world, &bytes);
    let parts = batch
        .puts
        .iter()
        .filter(|(key, _)| key.table == Table::GroupParts);
    assert_eq!(parts.count(), 4);
}

/// The same requests on another service with the same seed.
fn again(world: &World, seed: u64) -> Service {
    let mut service = Service::new(seed);
    for sent in &world.sent {
        service.now_ms = sent.now_ms;
        let tokens = sent.tokens.iter().map(crate::testing::same).collect();
        macro_rules! run {
            ($($operation:ty)+) => {
                match sent.operation {
                    $(number if number == <$operation>::OPERATION => {
                        if service.run::<$operation>(&sent.bytes, tokens).is_ok() {
                            // As the world does.
                            let once = service.engine.clone();
                            let _ = service.run::<$operation>(&sent.bytes, Vec::new());
                            assert!(service.engine == once);
                        }
                    })+
                    other => panic!("{other:?}"),
                }
            };
        }
        run! {
            ReserveGroupId CreateGroup SendMessage SelfRemove ExternalCommitInfo ExternalJoin
            SetLeafExtras SetJoinCode InspectGroup AddUsers RemoveUsers UpdateClient
            commit::SetRole commit::DeleteGroup
        }
    }
    service
}

/// Beyond so many members nobody comes in: a long history is about what follows on what.
const CROWD: usize = 9;

/// One act each: which, by whom, and quarters of a day before it.
type Act = (u8, usize, u64);

/// Everybody ends at one epoch and end of the journal, and the same requests make the same store.
fn play(seed: u64, acts: Vec<Act>) {
    let mut world = World::new(seed);
    let mut clients = group(&mut world, 3);
    let mut accepted = 0;
    for (act, who, days) in acts {
        world.service.now_ms += days * DAY_MS / 4;
        catch_up(&mut world, &mut clients);
        clients.retain(|client| !client.is_out);
        if clients.is_empty() {
            break;
        }
        let who = who % clients.len();
        let pending: Vec<u32> = clients[who]
            .mls
            .pending_proposals()
            .filter_map(mls_rules::leaving)
            .collect();
        let is_leaving = pending.contains(&clients[who].index());
        // The library sends nothing while proposals are pending.
        let waits = match act {
            0..4 | 9 | 10 => !pending.is_empty(),
            _ => is_leaving,
        };
        if waits {
            continue;
        }
        let rotates = inspect(&clients[who], &mut world).rotation_due == 1
            || !pending.is_empty()
            || days % 3 == 0;
        match act {
            0..4 => accepted += u32::from(clients[who].send(&mut world, &[act]).is_ok()),
            4..7 => {
                let mut plan = Plan::update();
                plan.rotates = rotates;
                plan.new_user = (act == 6).then(|| clients[who].user.clone());
                clients[who].commit(&mut world, plan).unwrap();
            }
            7 | 8 if clients.len() < CROWD => {
                let invitee = Invitee::new(&world);
                let mut plan = Plan::add([invitee.key_package.clone()]);
                plan.rotates = rotates;
                clients[who].commit(&mut world, plan).unwrap();
                clients[who].catch_up(&mut world);
                let pointer = clients[who].pointers[0].clone();
                let mut joined = Client::join(&mut world, invitee, &pointer);
                joined.told_of(&clients[who]);
                joined.arrive(&mut world);
                clients.push(joined);
            }
            9 if who > 0 => {
                let gone = clients[who].index();
                let user = clients[0].user.clone();
                let may = clients[0].policy().capabilities(&user);
                if may.contain(protocol::policy::Capabilities::REMOVE) {
                    clients[0].commit(&mut world, Plan::remove([gone])).unwrap();
                }
            }
            10 if who > 0 => {
                let _ = clients[who].leave(&mut world);
            }
            11 if clients.len() < CROWD => {
                if let Ok((secret, _)) = make_code(&clients[who], &mut world) {
                    let joined = Client::join_from_outside(
                        &mut world,
                        &clients[who],
                        pseudonym(),
                        by_code(secret),
                        None,
                        false,
                    );
                    clients.push(joined.unwrap());
                }
            }
            _ => {}
        }
    }
    catch_up(&mut world, &mut clients);
    clients.retain(|client| !client.is_out);
    if let Some(first) = clients.first() {
        for client in &clients {
            assert_eq!(client.epoch(), first.epoch());
            assert_eq!(client.segment, first.segment);
            assert_eq!(client.next, first.next);
        }
    }
    let _ = accepted;
    assert!(again(&world, seed).engine == world.service.engine);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn random_histories_keep_every_member_at_one_epoch_and_repeat_exactly(
        seed: u8,
        acts in proptest::collection::vec((0u8..12, 0usize..6, 0u64..20), 1..30),
    ) {
        play(seed.into(), acts);
    }
}

/// `HISTORY_STEPS` makes it long, `HISTORY_SEED` repeats one.
#[test]
#[allow(clippy::print_stdout, reason = "what repeats a history that failed")]
fn a_long_history_leaves_everybody_agreed_and_nobody_stuck() {
    use rand_core::{RngCore as _, SeedableRng as _};
    let number = |name: &str| std::env::var(name).ok().and_then(|it| it.parse().ok());
    let drawn = || u64::from_be_bytes(crypto::random().unwrap());
    let seed: u64 = number("HISTORY_SEED").unwrap_or_else(drawn);
    let steps = number("HISTORY_STEPS").unwrap_or(150);
    println!("HISTORY_SEED={seed} HISTORY_STEPS={steps}");
    let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(seed);
    let mut below = |bound: u32| rng.next_u32() % bound;
    let acts = (0..steps).map(|_| {
        let act = u8::try_from(below(12)).unwrap();
        (act, below(6) as usize, u64::from(below(20)))
    });
    play(seed, acts.collect());
}
