//! Proposals: of members who leave, of newcomers and of external senders (RFC 9420 §12.1.8).

use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{
    BasicCredential, Extension, ExternalProposal, ExternalSender, GroupEpoch, KeyPackage,
    LeafNodeIndex, OpenMlsProvider as _, SenderExtensionIndex,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use protocol::group::ProposalRequest;
use protocol::policy::Capabilities;
use protocol::request::{REQUEST_LABEL, Sender};

use super::commits::{refused, still_works};
use super::kit::Flaw;
use super::*;
use crate::testing::signed;

fn proposing(client: &Client, proposal: Vec<u8>) -> ProposalRequest {
    ProposalRequest {
        group: client.key(),
        proposal: opaque(proposal),
        new_member: None,
    }
}

#[test]
fn a_remove_of_the_own_leaf_is_a_way_to_leave() {
    let mut world = World::new(120);
    let mut clients = group(&mut world, 3);
    let carol = &mut clients[2];
    let proposal = carol
        .mls
        .leave_group(&carol.provider, &carol.signer)
        .unwrap()
        .tls_serialize_detached()
        .unwrap();
    let body = proposing(carol, proposal);
    carol.call::<SelfRemove>(&mut world, &body).unwrap();
    let storage = carol.provider.storage();
    carol.mls.clear_pending_proposals(storage).unwrap();
    catch_up(&mut world, &mut clients);
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[1].members(), [0, 1]);
}

#[test]
fn whoever_leaves_is_removed_by_value_too_and_commits_nothing_any_more() {
    let mut world = World::new(121);
    let mut clients = group(&mut world, 3);
    clients[2].leave(&mut world).unwrap();
    // Before it hears its own proposal, which the library would cover.
    let by_herself = Plan::update().rotating().alone();
    assert_eq!(
        refused(&mut world, &mut clients[2], by_herself),
        ProblemType::PendingProposals
    );
    catch_up(&mut world, &mut clients);
    // Members could not tell it from a removal that Bob may not make.
    assert_eq!(
        refused(&mut world, &mut clients[1], Plan::remove([2]).alone()),
        ProblemType::NotAllowed
    );
    clients[0]
        .commit(&mut world, Plan::remove([2]).alone())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert!(clients[2].is_out);
    clients[0].send(&mut world, b"goes on").unwrap();
}

#[test]
fn nobody_leaves_in_somebody_elses_name_or_by_another_proposal() {
    let mut world = World::new(122);
    let mut clients = group(&mut world, 3);
    let newcomer = Invitee::new(&world);
    let (of_newcomer, _) = newcomer.proposes(&mut world, &clients[0]);
    let of_bob = clients[1].leaving().proposal;
    let of_carol = clients[2].leaving().proposal;
    let carol = &mut clients[2];
    let bob = LeafNodeIndex::new(1);
    let (remove, _) = carol
        .mls
        .propose_remove_member(&carol.provider, &carol.signer, bob)
        .unwrap();
    let (add, _) = carol
        .mls
        .propose_add_member(&carol.provider, &carol.signer, &newcomer.key_package)
        .unwrap();
    let storage = carol.provider.storage();
    carol.mls.clear_pending_proposals(storage).unwrap();
    let commit = carol.stage(Plan::update()).commit;
    carol.abandon();
    let message = carol.message(b"goodbye").message;
    let whole = of_carol.as_slice().to_vec();
    for proposal in [
        of_bob.as_slice().to_vec(),
        remove.tls_serialize_detached().unwrap(),
        add.tls_serialize_detached().unwrap(),
        of_newcomer.proposal.as_slice().to_vec(),
        commit.as_slice().to_vec(),
        message.as_slice().to_vec(),
        [whole.as_slice(), &[0]].concat(),
        whole[..whole.len() - 1].to_vec(),
        Vec::new(),
    ] {
        let body = proposing(&clients[2], proposal);
        let answer = clients[2].call::<SelfRemove>(&mut world, &body);
        assert_eq!(problem(answer), ProblemType::InvalidMessage);
    }
    still_works(&mut world, &mut clients);
    // Of an epoch that is over.
    let body = proposing(&clients[2], whole);
    let answer = clients[2].call::<SelfRemove>(&mut world, &body);
    assert_eq!(problem(answer), ProblemType::WrongEpoch);
}

#[test]
fn a_self_remove_with_a_wrong_membership_tag_keeps_nobody_from_joining() {
    let mut world = World::new(123);
    let mut clients = group(&mut world, 3);
    let mut leaving = clients[2].leaving();
    let mut bytes = leaving.proposal.as_slice().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    leaving.proposal = opaque(bytes);
    clients[2].call::<SelfRemove>(&mut world, &leaving).unwrap();
    // Members do not take it; only the service knows it.
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[0].mls.pending_proposals().count(), 0);
    let (secret, _) = make_code(&clients[0], &mut world).unwrap();
    let by = &clients[0];
    let joined =
        Client::join_from_outside(&mut world, by, pseudonym(), by_code(secret), None, false);
    clients.push(joined.unwrap());
    // The service proposes it again, and that they take.
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[0].mls.pending_proposals().count(), 1);
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[0].members(), [0, 1, 3]);
}

/// A group of Alice, Bob and Carol that lists an archivist beside the service, at place 1.
fn with_archivist(world: &mut World) -> (Vec<Client>, LeafSigner) {
    let archivist = LeafSigner::new();
    let key = archivist.0.public();
    let lists = |context: &mut Vec<Extension>, _: &[u8]| {
        for extension in context {
            if let Extension::ExternalSenders(senders) = extension {
                let credential = BasicCredential::new(b"the archivist".to_vec());
                senders.push(ExternalSender::new(key.clone().into(), credential.into()));
            }
        }
    };
    let mut alice = Client::create_in(world, GroupKind::Group, lists, None, |_| {}).unwrap();
    let invitees = [0, 1].map(|_| Invitee::new(world));
    let adds = invitees.iter().map(|invitee| invitee.key_package.clone());
    alice.commit(world, Plan::add(adds)).unwrap();
    alice.catch_up(world);
    let mut clients = Vec::new();
    let pointers = alice.pointers.clone();
    for (invitee, pointer) in invitees.into_iter().zip(pointers) {
        let mut joined = Client::join(world, invitee, &pointer);
        joined.told_of(&alice);
        joined.arrive(world);
        clients.push(joined);
    }
    clients.insert(0, alice);
    catch_up(world, &mut clients);
    (clients, archivist)
}

fn removal(client: &Client, leaf: u32, sender: u32, key: &LeafSigner) -> Vec<u8> {
    ExternalProposal::new_remove::<OpenMlsRustCrypto>(
        LeafNodeIndex::new(leaf),
        client.mls.group_id().clone(),
        GroupEpoch::from(client.epoch()),
        key,
        SenderExtensionIndex::new(sender),
    )
    .unwrap()
    .tls_serialize_detached()
    .unwrap()
}

fn addition(client: &Client, key_package: KeyPackage, sender: u32, key: &LeafSigner) -> Vec<u8> {
    ExternalProposal::new_add::<OpenMlsRustCrypto>(
        key_package,
        client.mls.group_id().clone(),
        GroupEpoch::from(client.epoch()),
        key,
        SenderExtensionIndex::new(sender),
    )
    .unwrap()
    .tls_serialize_detached()
    .unwrap()
}

fn propose(
    world: &mut World,
    request: &ProposalRequest,
    key: &LeafSigner,
) -> Result<protocol::group::EntryAccepted, Failure> {
    let sender = Sender::Key(opaque(key.0.public()));
    let minute = protocol::ids::Minute::of(world.service.now_ms);
    let nonce = world.nonce();
    let bytes = signed(Number::Propose, minute, nonce, sender, request, |tbs| {
        key.0.sign(REQUEST_LABEL, tbs)
    });
    world.run::<Propose>(&bytes)
}

#[test]
fn what_an_external_sender_proposes_goes_by_the_right_of_the_committer() {
    let mut world = World::new(124);
    let (mut clients, archivist) = with_archivist(&mut world);
    let body = proposing(&clients[0], removal(&clients[0], 2, 1, &archivist));
    let message = clients[1].message(b"in between");
    propose(&mut world, &body, &archivist).unwrap();
    // Nobody must follow it: it stops nothing.
    clients[1]
        .call::<SendMessage>(&mut world, &message)
        .unwrap();
    catch_up(&mut world, &mut clients);
    let follows = || Plan::update().rotating();
    assert_eq!(
        refused(&mut world, &mut clients[1], follows()),
        ProblemType::NotAllowed
    );
    clients[0].commit(&mut world, follows()).unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[1].members(), [0, 1]);
}

#[test]
fn an_external_sender_adds_what_a_member_then_welcomes() {
    let mut world = World::new(125);
    let (mut clients, archivist) = with_archivist(&mut world);
    let dave = Invitee::new(&world).key_package;
    let body = proposing(&clients[0], addition(&clients[0], dave, 1, &archivist));
    propose(&mut world, &body, &archivist).unwrap();
    catch_up(&mut world, &mut clients);
    // An Add needs the operation that brings a Welcome.
    let mut request = clients[0].stage(Plan::update());
    request.welcome = None;
    let answer = clients[0].send_commit(&mut world, Number::UpdateClient, &request);
    clients[0].abandon();
    assert_eq!(problem(answer), ProblemType::InvalidCommit);
    // And nobody has said what its link key is.
    let answer = clients[0].commit_pending_adds(&mut world, 1);
    clients[0].abandon();
    assert_eq!(problem(answer), ProblemType::InvalidCommit);
}

#[test]
fn proposals_that_are_not_their_senders_are_refused() {
    let mut world = World::new(126);
    let (clients, archivist) = with_archivist(&mut world);
    let (alice, stranger) = (&clients[0], LeafSigner::new());
    // Signed by another key than the one that is listed, or at a place where nobody is; of a leaf
    // that is not there.
    for (proposal, key) in [
        (removal(alice, 2, 1, &stranger), &stranger),
        (removal(alice, 2, 0, &archivist), &archivist),
        (removal(alice, 2, 7, &archivist), &archivist),
        (removal(alice, 9, 1, &archivist), &archivist),
    ] {
        let answer = propose(&mut world, &proposing(alice, proposal), key);
        assert_eq!(problem(answer), ProblemType::InvalidMessage);
    }
    // In order, but sent by somebody else.
    let body = proposing(alice, removal(alice, 2, 1, &archivist));
    let answer = propose(&mut world, &body, &stranger);
    assert_eq!(problem(answer), ProblemType::BadSignature);
    // A user who is here, and one with a wrong leaf.
    let present = Invitee::of_user(&world, clients[1].user.clone()).key_package;
    let body = proposing(alice, addition(alice, present, 1, &archivist));
    let answer = propose(&mut world, &body, &archivist);
    assert_eq!(problem(answer), ProblemType::NotAllowed);
    let flawed = Invitee::flawed(&world, Flaw::CredentialForAnotherKey).key_package;
    let body = proposing(alice, addition(alice, flawed, 1, &archivist));
    let answer = propose(&mut world, &body, &archivist);
    assert_eq!(problem(answer), ProblemType::InvalidLeaf);
}

#[test]
fn a_newcomer_who_is_banned_or_of_a_connection_or_without_what_leaves_have_is_refused() {
    let mut world = World::new(127);
    let mut clients = group(&mut world, 2);
    let dave = Invitee::new(&world);
    let policy = clients[0].policy();
    let banned = policy.with(&dave.user, GroupPolicy::MEMBER, Standing::Banned);
    let plan = Plan::set_context(clients[0].context_with(&banned));
    clients[0].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    let (_, bytes) = dave.proposes(&mut world, &clients[0]);
    assert_eq!(
        problem(world.run::<Propose>(&bytes)),
        ProblemType::NotAllowed
    );
    let connection = Client::create(&mut world, GroupKind::Connection);
    let (_, bytes) = Invitee::new(&world).proposes(&mut world, &connection);
    assert_eq!(
        problem(world.run::<Propose>(&bytes)),
        ProblemType::NotAllowed
    );
    let carol = Invitee::new(&world);
    let (mut request, _) = carol.proposes(&mut world, &clients[0]);
    request.new_member.as_mut().unwrap().wrapped_link_key = opaque(Vec::new());
    let bytes = carol.signs(&mut world, &request);
    assert_eq!(
        problem(world.run::<Propose>(&bytes)),
        ProblemType::InvalidLeaf
    );
    request.new_member = None;
    let bytes = carol.signs(&mut world, &request);
    assert_eq!(
        problem(world.run::<Propose>(&bytes)),
        ProblemType::InvalidMessage
    );
}

#[test]
fn whom_a_newcomer_needs_may_add() {
    let mut world = World::new(128);
    let mut clients = group(&mut world, 2);
    let mut policy = clients[0].policy();
    policy.roles[1].capabilities = Capabilities::SEND;
    let plan = Plan::set_context(clients[0].context_with(&policy));
    clients[0].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    let dave = Invitee::new(&world);
    let (_, bytes) = dave.proposes(&mut world, &clients[0]);
    world.run::<Propose>(&bytes).unwrap();
    catch_up(&mut world, &mut clients);
    let answer = clients[1].commit_pending_adds(&mut world, 1);
    clients[1].abandon();
    assert_eq!(problem(answer), ProblemType::NotAllowed);
    clients[0].commit_pending_adds(&mut world, 1).unwrap();
}

#[test]
fn pending_proposals_are_bounded_in_number_and_length() {
    let mut world = World::new(129);
    world.service.settings.limits.proposals = 1;
    let clients = group(&mut world, 2);
    let (_, bytes) = Invitee::new(&world).proposes(&mut world, &clients[0]);
    world.run::<Propose>(&bytes).unwrap();
    let (_, bytes) = Invitee::new(&world).proposes(&mut world, &clients[0]);
    assert_eq!(
        problem(world.run::<Propose>(&bytes)),
        ProblemType::LimitExceeded
    );
    let bound = world.service.settings.limits.proposal_bytes;
    let body = proposing(&clients[1], vec![0; bound + 1]);
    let answer = clients[1].call::<SelfRemove>(&mut world, &body);
    assert_eq!(problem(answer), ProblemType::LimitExceeded);
    // Who leaves is not kept by what outsiders propose.
    let mut clients = clients;
    clients[1].leave(&mut world).unwrap();
}
