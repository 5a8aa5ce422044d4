//! Groups in the domain, driven by real MLS clients.

mod bounds;
mod by_hand;
mod codes;
mod commits;
mod creation;
mod endings;
mod envelope;
mod handles;
mod history;
mod joins;
mod keys;
mod messages;
mod other;
mod proposals;
mod recovery;
mod removals;
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

fn inspect(client: &Client, world: &mut World) -> InspectGroupResponse {
    let request = InspectGroupRequest {
        group: client.key(),
        from: LeafIndex(0),
    };
    client.call::<InspectGroup>(world, &request).unwrap()
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

/// Makes a join code; the secret is for its holders.
fn make_code(client: &Client, world: &mut World) -> Result<([u8; 32], Vec<u8>), Failure> {
    let public_key = crypto::random::<32>().unwrap().to_vec();
    make_code_with(client, world, public_key)
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
