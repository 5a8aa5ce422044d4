//! Samples of what members, joiners and owners ask for beside the main path.

use crypto::keys::{ConnectionToken, Lookup as _};
use crypto::queue::seal_reference;
use crypto::sign::LeafKeyPair;
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{GroupEpoch, JoinProposal};
use openmls_rust_crypto::MemoryStorage;
use protocol::codec::{WireSecret, opaque};
use protocol::connections::DeleteHandleRequest;
use protocol::groups::{
    Accepted, InspectGroupRequest, OwnLeafRequest, ProposalRequest, ReserveGroupIdRequest,
    ReserveGroupIdResponse, SetJoinCodeRequest, UpdateQueueReferenceRequest,
};
use protocol::ids::GroupId;
use protocol::key_packages::{
    CountKeyPackagesRequest, DeleteKeyPackagesRequest, PublishKeyPackagesRequest,
};
use protocol::policy::{GroupPolicy, Standing};
use protocol::queues::{BlockGroupRequest, DeleteQueueRequest};
use protocol::time::day_of;
use protocol::{Operation, Wire};

use super::{Sample, registration, set};
use crate::support::Service;
use crate::support::by_hand::reinit;
use crate::support::client::{Client, Flaw, Invitee, Leaf, LeafSigner};
use crate::support::commits::Plan;
use crate::support::request::{copy, fresh_key};
use crate::support::scenes::{pair, with_second_client};

/// A new member's own proposal to be added, and its request.
pub fn join_proposal(
    service: &Service,
    member: &Client,
    newcomer: &mut Client,
    id: &GroupId,
) -> Sample {
    let leaf = newcomer.leaf(service);
    join_proposal_of(service, member, newcomer, id, leaf)
}

pub fn join_proposal_of(
    service: &Service,
    member: &Client,
    newcomer: &mut Client,
    id: &GroupId,
    leaf: Leaf,
) -> Sample {
    let key = copy(&leaf.signer.0);
    let invitee = newcomer.invitee_with(leaf);
    let proposal = newcomer_proposal(member, &invitee, &key, id);
    let body = ProposalRequest {
        encrypted_identity_link_key: opaque(member.wrapped(id, &invitee.link_key)),
        ..member.proposal_body(id, proposal)
    };
    Sample::by_key(service, Operation::Propose, key, &body)
}

/// An Add of the proposer itself, in the epoch of a member.
pub fn newcomer_proposal(
    member: &Client,
    invitee: &Invitee,
    key: &LeafKeyPair,
    id: &GroupId,
) -> Vec<u8> {
    JoinProposal::new::<MemoryStorage>(
        invitee.key_package.clone(),
        openmls::prelude::GroupId::from_slice(&id.0),
        GroupEpoch::from(member.group(id).mls.epoch().as_u64()),
        &LeafSigner(copy(key)),
    )
    .unwrap()
    .tls_serialize_detached()
    .unwrap()
}

pub async fn samples(service: &Service) -> Vec<Sample> {
    let (alice, bob, id) = pair(service).await;
    let state_key = || WireSecret::new(alice.group(&id).state_key);
    let by_alice = |operation, body| Sample::by_leaf(service, &alice, &id, operation, body);
    let code = SetJoinCodeRequest {
        group_id: id,
        state_key: state_key(),
        secret: WireSecret::new([5; 32]),
        expiry_day: day_of(service.now()) + 7,
    };
    let inspect = InspectGroupRequest {
        group_id: id,
        state_key: state_key(),
    };
    let own_leaf = OwnLeafRequest {
        group_id: id,
        state_key: state_key(),
    };
    let (key_id, service_key) = service.queue_service_key();
    let leaf_key = alice.group(&id).signer.0.public();
    let reference = UpdateQueueReferenceRequest {
        group_id: id,
        state_key: state_key(),
        queue_reference: opaque(
            seal_reference(key_id, &service_key, &leaf_key, &alice.queue).unwrap(),
        ),
    };
    let mut samples = vec![
        by_alice(Operation::SetJoinCode, code.encode()),
        by_alice(Operation::InspectGroup, inspect.encode()),
        by_alice(Operation::UpdateQueueReference, reference.encode()),
        Sample::by_key(
            service,
            Operation::OwnLeaf,
            copy(&alice.group(&id).signer.0),
            &own_leaf,
        ),
        Sample::by_key(
            service,
            Operation::BlockGroup,
            copy(&bob.queue_owner),
            &BlockGroupRequest {
                queue_id: bob.queue,
                group_id: id,
                blocked: 1,
            },
        ),
    ];
    let mut newcomer = Client::new(service).await;
    samples.push(join_proposal(service, &alice, &mut newcomer, &id));
    samples.extend(commits(service).await);
    samples
}

async fn commits(service: &Service) -> Vec<Sample> {
    let (mut adder, _, id) = pair(service).await;
    let mut second = Client::new(service).await;
    let leaf = second.leaf_of_user(service, Flaw::None, &adder.user(&id));
    let add = adder.stage(&id, Plan::add_clients([second.invitee_with(leaf)]));
    let mut samples = vec![Sample::commit(service, &adder, &add)];

    let (mut remover, mut other, id) = pair(service).await;
    with_second_client(service, &mut remover, &mut [&mut other], &id).await;
    let remove = remover.stage(&id, Plan::remove_clients([2]));
    samples.push(Sample::commit(service, &remover, &remove));

    let (mut admin, other, id) = pair(service).await;
    let policy = admin.policy(&id).unwrap();
    let policy = policy.with(&other.user(&id), GroupPolicy::ADMIN, Standing::Active);
    let context = admin.context_with(&id, Some(&policy));
    let set_role = admin.stage(&id, Plan::set_context(context));
    samples.push(Sample::commit(service, &admin, &set_role));

    let (mut deleter, _, id) = pair(service).await;
    let delete = deleter.stage(&id, Plan::delete([1]));
    samples.push(Sample::commit(service, &deleter, &delete));

    let (starter, _, id) = pair(service).await;
    let successor: ReserveGroupIdResponse = service
        .call(
            Operation::ReserveGroupId,
            &fresh_key(),
            &ReserveGroupIdRequest {},
        )
        .await;
    let reinit = starter.commit_by_hand(
        &id,
        Operation::ReInitializeGroup,
        &reinit(&successor.group_id.0, 1, 1),
    );
    samples.push(Sample::commit(service, &starter, &reinit));

    let (mut leaver, _, id) = pair(service).await;
    let proposal = leaver.self_remove(&id);
    let body = leaver.proposal_body(&id, proposal);
    samples.push(Sample::by_leaf(
        service,
        &leaver,
        &id,
        Operation::SelfRemove,
        body.encode(),
    ));
    samples
}

/// What an owner deletes.
pub async fn endings(service: &Service) -> Vec<Sample> {
    let client = Client::new(service).await;
    let (owner, publisher) = (fresh_key(), fresh_key());
    let known = registration(service, &client, &owner, b"deleted");
    let _: Accepted = service
        .call(Operation::RegisterHandle, &owner, &known)
        .await;
    let lookup = ConnectionToken::random().unwrap().lookup();
    let publication = PublishKeyPackagesRequest {
        lookup,
        sets: vec![set(service, b"to be deleted")],
    };
    let _: Accepted = service
        .call(Operation::PublishKeyPackages, &publisher, &publication)
        .await;
    vec![
        Sample::by_key(
            service,
            Operation::DeleteHandle,
            owner,
            &DeleteHandleRequest {
                handle: opaque(*b"deleted"),
            },
        ),
        Sample::by_key(
            service,
            Operation::CountKeyPackages,
            copy(&publisher),
            &CountKeyPackagesRequest { lookup },
        ),
        Sample::by_key(
            service,
            Operation::DeleteKeyPackages,
            publisher,
            &DeleteKeyPackagesRequest { lookup },
        ),
        Sample::by_key(
            service,
            Operation::DeleteQueue,
            copy(&client.queue_owner),
            &DeleteQueueRequest {
                queue_id: client.queue,
            },
        ),
    ]
}
