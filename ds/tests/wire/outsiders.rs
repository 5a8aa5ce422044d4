//! Proposals of those who are not members: external senders and newcomers (RFC 9420 §12.1.8).

use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{
    Extension, ExternalProposal, GroupEpoch, LeafNodeIndex, SenderExtensionIndex,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use protocol::Operation;
use protocol::codec::opaque;
use protocol::groups::{GroupKind, MessageAccepted};
use protocol::ids::GroupId;
use protocol::policy::{Capabilities, GroupPolicy, Standing};
use protocol::problem::ProblemType;

use crate::support::client::{Client, Flaw, Invitee, LeafSigner, external_sender};
use crate::support::commits::{Plan, honest_aad};
use crate::support::inbox::Event;
use crate::support::request::{Draft, copy, fresh_key};
use crate::support::samples::{join_proposal, join_proposal_of};
use crate::support::scenes::{pair, trio};
use crate::support::{Engine, Service};
use crypto::sign::LeafKeyPair;
use protocol::Wire as _;

/// A group of Alice, Bob and Carol that lists an archivist beside the service, at place 1.
async fn with_archivist(service: &Service) -> (Client, Client, GroupId, LeafKeyPair) {
    let archivist = fresh_key();
    let mut alice = Client::new(service).await;
    let leaf = alice.leaf(service);
    let mut context = alice.context(service, GroupKind::Group, &leaf, true);
    for extension in &mut context {
        if let Extension::ExternalSenders(senders) = extension {
            senders.push(external_sender(archivist.public()));
        }
    }
    let id = alice
        .create_group_with(service, GroupKind::Group, leaf, context)
        .await;
    let (mut bob, mut carol) = (Client::new(service).await, Client::new(service).await);
    let invitees = [bob.invitee(service), carol.invitee(service)];
    alice.commit(service, &id, Plan::add(invitees)).await;
    for client in [&mut alice, &mut bob] {
        client.receive(service).await;
    }
    (alice, bob, id, archivist)
}

fn removal(id: &GroupId, epoch: u64, leaf: u32, sender: u32, key: &LeafKeyPair) -> Vec<u8> {
    ExternalProposal::new_remove::<OpenMlsRustCrypto>(
        LeafNodeIndex::new(leaf),
        openmls::prelude::GroupId::from_slice(&id.0),
        GroupEpoch::from(epoch),
        &LeafSigner(copy(key)),
        SenderExtensionIndex::new(sender),
    )
    .unwrap()
    .tls_serialize_detached()
    .unwrap()
}

fn addition(id: &GroupId, invitee: &Invitee, sender: u32, key: &LeafKeyPair) -> Vec<u8> {
    ExternalProposal::new_add::<OpenMlsRustCrypto>(
        invitee.key_package.clone(),
        openmls::prelude::GroupId::from_slice(&id.0),
        GroupEpoch::from(1),
        &LeafSigner(copy(key)),
        SenderExtensionIndex::new(sender),
    )
    .unwrap()
    .tls_serialize_detached()
    .unwrap()
}

fn request(
    service: &Service,
    member: &Client,
    id: &GroupId,
    proposal: Vec<u8>,
    key: &LeafKeyPair,
) -> Vec<u8> {
    let body = member.proposal_body(id, proposal);
    Draft::by_key(service, Operation::Propose, key, &body).signed(key)
}

async fn propose(service: &Service, request: &[u8]) {
    let _: MessageAccepted = service.pay(Operation::Propose, request).await.accepted();
}

#[tokio::test]
async fn what_an_external_sender_proposes_goes_by_the_right_of_the_committer() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id, archivist) = with_archivist(&service).await;
    let removes_carol = removal(&id, 1, 2, 1, &archivist);
    let proposal = request(&service, &alice, &id, removes_carol, &archivist);
    let message = bob.text_request(&service, &id, b"in between");
    propose(&service, &proposal).await;
    for client in [&mut alice, &mut bob] {
        assert_eq!(client.receive(&service).await, [Event::Proposed]);
    }
    // Nobody must follow it: it stops nothing.
    let _: MessageAccepted = service
        .post(Operation::SendMessage, &message)
        .await
        .accepted();
    alice.receive(&service).await;
    assert_eq!(
        bob.refused(&service, &id, Plan::update().rotating(true))
            .await,
        ProblemType::NotAllowed
    );
    alice
        .commit(&service, &id, Plan::update().rotating(true))
        .await;
    assert_eq!(alice.members(&id), [0, 1]);
    bob.receive(&service).await;
}

#[tokio::test]
async fn an_external_sender_adds_what_a_member_then_welcomes() {
    let service = Service::start(Engine::Memory);
    let (mut alice, _, id, archivist) = with_archivist(&service).await;
    let mut dave = Client::new(&service).await;
    let invitee = dave.invitee(&service);
    let adds_dave = addition(&id, &invitee, 1, &archivist);
    propose(
        &service,
        &request(&service, &alice, &id, adds_dave, &archivist),
    )
    .await;
    alice.receive(&service).await;
    let wrapped = alice.wrapped(&id, &invitee.link_key);
    // An Add needs the operation that brings a Welcome.
    let aad = honest_aad(vec![wrapped], false).encode();
    let commit = alice.stage(&id, Plan::update().with_aad(aad.clone()));
    let mut as_update = commit.clone();
    as_update.welcome = None;
    let request = alice.commit_request(&service, &as_update);
    assert_eq!(
        service.refused(Operation::UpdateClient, &request).await,
        ProblemType::InvalidCommit
    );
    alice.abandon(&id);
    let plan = Plan::update().with_aad(aad).sent_as(Operation::AddUsers);
    alice.commit(&service, &id, plan).await;
    assert_eq!(dave.receive(&service).await, [Event::Joined]);
}

#[tokio::test]
async fn a_newcomer_proposes_itself_with_its_own_link_key() {
    let service = Service::start(Engine::Memory);
    let (mut alice, _, id) = pair(&service).await;
    let mut dave = Client::new(&service).await;
    let sample = join_proposal(&service, &alice, &mut dave, &id);
    propose(&service, &sample.signed()).await;
    assert_eq!(alice.receive(&service).await, [Event::Proposed]);
    // Once is enough.
    service.clock.advance(1);
    let mut again = sample.draft.clone();
    again.timestamp_ms += 1;
    assert_eq!(
        service
            .refused_at_cost(Operation::Propose, &again.signed(&sample.key))
            .await,
        ProblemType::NotAllowed
    );
    // The empty link key says: the one that came with the proposal.
    let aad = honest_aad(vec![Vec::new()], false).encode();
    let plan = Plan::update().with_aad(aad).sent_as(Operation::AddUsers);
    alice.commit(&service, &id, plan).await;
    assert_eq!(dave.receive(&service).await, [Event::Joined]);
    let seen = alice.inspect(&service, &id).await;
    let own = &seen.members[2].encrypted_identity_link_key;
    assert_eq!(
        own.as_slice().len(),
        crypto::credential::WRAPPED_LINK_KEY_LEN
    );
}

#[tokio::test]
async fn a_newcomers_empty_link_key_stands_for_nobody_elses() {
    let service = Service::start(Engine::Memory);
    let (mut alice, _, id) = pair(&service).await;
    let mut dave = Client::new(&service).await;
    let plan = Plan::add([dave.invitee(&service)]);
    let plan = plan.with_aad(honest_aad(vec![Vec::new()], false).encode());
    assert_eq!(
        alice.refused(&service, &id, plan).await,
        ProblemType::InvalidCommit
    );
}

#[tokio::test]
async fn proposals_that_are_not_their_senders_are_refused() {
    let service = Service::start(Engine::Memory);
    let (alice, bob, id, archivist) = with_archivist(&service).await;
    let mut dave = Client::new(&service).await;
    let stranger = fresh_key();
    let refused = async |proposal: Vec<u8>, key: &LeafKeyPair| {
        let request = request(&service, &alice, &id, proposal, key);
        service.refused_at_cost(Operation::Propose, &request).await
    };
    // Signed by another key than the one that is listed, or at a place where nobody is.
    for (proposal, key) in [
        (removal(&id, 1, 2, 1, &stranger), &stranger),
        (removal(&id, 1, 2, 0, &archivist), &archivist),
        (removal(&id, 1, 2, 7, &archivist), &archivist),
        // Of a leaf that is not there.
        (removal(&id, 1, 9, 1, &archivist), &archivist),
    ] {
        assert_eq!(refused(proposal, key).await, ProblemType::InvalidMessage);
    }
    // In order, but sent by somebody else.
    assert_eq!(
        refused(removal(&id, 1, 2, 1, &archivist), &stranger).await,
        ProblemType::BadSignature
    );
    // A user who is here, one with a wrong leaf, one with a link key that is none.
    let leaf = dave.leaf_of_user(&service, Flaw::None, &bob.user(&id));
    let present = dave.invitee_with(leaf);
    assert_eq!(
        refused(addition(&id, &present, 1, &archivist), &archivist).await,
        ProblemType::NotAllowed
    );
    let leaf = dave.leaf_with(&service, Flaw::QueueReferenceOfAnotherLeaf);
    let flawed = dave.invitee_with(leaf);
    assert_eq!(
        refused(addition(&id, &flawed, 1, &archivist), &archivist).await,
        ProblemType::InvalidLeaf
    );
    let mut sample = join_proposal(&service, &alice, &mut dave, &id);
    let mut body = protocol::groups::ProposalRequest::decode(&sample.draft.body).unwrap();
    body.encrypted_identity_link_key = opaque(vec![0; 59]);
    sample.draft.body = body.encode();
    assert_eq!(
        service
            .refused_at_cost(Operation::Propose, &sample.signed())
            .await,
        ProblemType::InvalidMessage
    );
}

#[tokio::test]
async fn a_banned_user_does_not_propose_itself() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let mut dave = Client::new(&service).await;
    let leaf = dave.leaf(&service);
    let policy = trio.alice.policy(&trio.id).unwrap();
    let policy = policy.with(&leaf.user, GroupPolicy::MEMBER, Standing::Banned);
    trio.alice.set_policy(&service, &trio.id, &policy).await;
    let sample = join_proposal_of(&service, &trio.alice, &mut dave, &trio.id, leaf);
    assert_eq!(
        service
            .refused_at_cost(Operation::Propose, &sample.signed())
            .await,
        ProblemType::NotAllowed
    );
}

#[tokio::test]
async fn a_connection_takes_no_proposals_from_outside() {
    let service = Service::start(Engine::Memory);
    let mut alice = Client::new(&service).await;
    let id = alice.create_group(&service, GroupKind::Connection).await;
    let mut dave = Client::new(&service).await;
    let sample = join_proposal(&service, &alice, &mut dave, &id);
    assert_eq!(
        service
            .refused_at_cost(Operation::Propose, &sample.signed())
            .await,
        ProblemType::NotAllowed
    );
}

#[tokio::test]
async fn whom_a_newcomer_needs_may_add() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    let mut policy = trio.alice.policy(&id).unwrap();
    policy.roles[1].capabilities = Capabilities::SEND;
    trio.alice.set_policy(&service, &id, &policy).await;
    trio.bob.receive(&service).await;
    let mut dave = Client::new(&service).await;
    let sample = join_proposal(&service, &trio.alice, &mut dave, &id);
    propose(&service, &sample.signed()).await;
    trio.bob.receive(&service).await;
    let aad = honest_aad(vec![Vec::new()], false).encode();
    let plan = Plan::update().with_aad(aad).sent_as(Operation::AddUsers);
    assert_eq!(
        trio.bob.refused(&service, &id, plan).await,
        ProblemType::NotAllowed
    );
}
