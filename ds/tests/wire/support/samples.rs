//! One acceptable request of every operation.

mod members;

pub use members::{join_proposal, join_proposal_of, newcomer_proposal};

use crypto::connection::sign_handle_record;
use crypto::keys::{ConnectionToken, GroupLookup as _, JoinKey, Lookup as _};
use crypto::queue::seal_reference;
use crypto::sign::LeafKeyPair;
use protocol::codec::{WireSecret, opaque};
use protocol::connections::{LookupHandleRequest, RegisterHandleRequest, RequestConnectionRequest};
use protocol::groups::{
    Accepted, ExternalCommitInfoRequest, GroupKind, JoinPermit, JoinRecordRequest,
    RecoveryRecordRequest, ReserveGroupIdRequest, ReserveGroupIdResponse, SendMessageRequest,
    SetRecoverySecretRequest,
};
use protocol::key_packages::{
    Claim, ClaimKeyPackagesRequest, KeyPackageSetUpload, PublishKeyPackagesRequest,
};
use protocol::queues::{AcknowledgeQueueRequest, CreateQueueRequest, FetchQueueRequest};
use protocol::time::day_of;
use protocol::{Operation, Wire};

use super::Service;
use super::client::Client;
use super::commits::{Commit, JoinPlan, Plan};
use super::request::{Draft, copy, fresh_key};
use super::scenes::{pair, trio};

pub struct Sample {
    pub draft: Draft,
    pub key: LeafKeyPair,
}

impl Sample {
    pub fn operation(&self) -> Operation {
        self.draft.operation
    }

    pub fn signed(&self) -> Vec<u8> {
        self.draft.signed(&self.key)
    }

    fn by_key(service: &Service, operation: Operation, key: LeafKeyPair, body: &impl Wire) -> Self {
        Self {
            draft: Draft::by_key(service, operation, &key, body),
            key,
        }
    }

    fn by_leaf(
        service: &Service,
        client: &Client,
        id: &protocol::ids::GroupId,
        operation: Operation,
        body: Vec<u8>,
    ) -> Self {
        Self {
            draft: client.leaf_draft(service, id, operation, body),
            key: copy(&client.group(id).signer.0),
        }
    }

    fn commit(service: &Service, client: &Client, commit: &Commit) -> Self {
        Self::by_leaf(
            service,
            client,
            &commit.group,
            commit.operation,
            commit.body(),
        )
    }
}

pub fn set(service: &Service, content: &[u8]) -> KeyPackageSetUpload {
    KeyPackageSetUpload {
        ciphersuite: 1,
        expiry_day: day_of(service.now()) + 30,
        last_resort: 0,
        sealed: opaque(content),
    }
}

/// A registration whose queue reference is for `owner`.
pub fn registration(
    service: &Service,
    client: &Client,
    owner: &LeafKeyPair,
    handle: &[u8],
) -> RegisterHandleRequest {
    let (key_id, service_key) = service.queue_service_key();
    let record = sign_handle_record(handle, &client.credential(), &client.identity, &[9; 32]);
    RegisterHandleRequest {
        handle: opaque(handle),
        record: opaque(record.encode()),
        queue_reference: opaque(
            seal_reference(key_id, &service_key, &owner.public(), &client.queue).unwrap(),
        ),
    }
}

pub async fn samples(service: &Service) -> Vec<Sample> {
    let mut samples = group_samples(service).await;
    samples.extend(member_samples(service).await);
    samples.extend(connection_samples(service).await);
    samples.extend(other_samples(service).await);
    samples.extend(members::samples(service).await);
    samples.extend(members::endings(service).await);
    for operation in Operation::ALL {
        let count = samples
            .iter()
            .filter(|sample| sample.operation() == *operation)
            .count();
        assert_eq!(count, 1, "{operation:?}");
    }
    samples
}

/// Each in a group of its own, so that all stay acceptable.
async fn group_samples(service: &Service) -> Vec<Sample> {
    let client = Client::new(service).await;
    let leaf = client.leaf(service);
    let key = copy(&leaf.signer.0);
    let reserved: ReserveGroupIdResponse = service
        .call(Operation::ReserveGroupId, &key, &ReserveGroupIdRequest {})
        .await;
    let creation = client.draft_group(service, reserved.group_id, GroupKind::Group, leaf, true);

    let (mut adder, _, id) = pair(service).await;
    let invitee = Client::new(service).await.invitee(service);
    let add = adder.stage(&id, Plan::add([invitee]));
    let mut remover = trio(service).await;
    let remove = remover.alice.stage(&remover.id, Plan::remove([1]));
    let (mut updater, _, updated) = pair(service).await;
    let update = updater.stage(&updated, Plan::update());
    vec![
        Sample::by_key(
            service,
            Operation::ReserveGroupId,
            fresh_key(),
            &ReserveGroupIdRequest {},
        ),
        Sample::by_key(service, Operation::CreateGroup, key, &creation.request),
        Sample::commit(service, &adder, &add),
        Sample::commit(service, &remover.alice, &remove),
        Sample::commit(service, &updater, &update),
    ]
}

async fn member_samples(service: &Service) -> Vec<Sample> {
    let (mut alice, _, id) = pair(service).await;
    let invitee = Client::new(service).await.invitee(service);
    let add = alice.stage(&id, Plan::add([invitee]));
    let request = alice.commit_request(service, &add);
    service
        .post(Operation::AddUsers, &request)
        .await
        .accepted::<protocol::groups::EpochAccepted>();
    alice.merge(&add);
    let join_key = JoinKey::new(add.welcome.unwrap().join_key);
    alice
        .commit(service, &id, Plan::update().rotating(true))
        .await;

    let state_key = || WireSecret::new(alice.group(&id).state_key);
    let recovery = SetRecoverySecretRequest {
        group_id: id,
        state_key: state_key(),
        recovery_secret: WireSecret::new(alice.group(&id).recovery),
    };
    let recovery = Sample::by_leaf(
        service,
        &alice,
        &id,
        Operation::SetRecoverySecret,
        recovery.encode(),
    );
    let lookup = alice.recovery_secret(&id).lookup_in(&id);
    let state_key = state_key();
    let message = SendMessageRequest {
        group_id: id,
        state_key,
        message: opaque(alice.encrypt(&id, b"sample")),
    };
    vec![
        Sample::by_leaf(
            service,
            &alice,
            &id,
            Operation::SendMessage,
            message.encode(),
        ),
        Sample::by_key(
            service,
            Operation::JoinRecord,
            fresh_key(),
            &JoinRecordRequest {
                lookup: join_key.lookup_in(&id),
            },
        ),
        recovery,
        Sample::by_key(
            service,
            Operation::RecoveryRecord,
            fresh_key(),
            &RecoveryRecordRequest { lookup },
        ),
    ]
}

async fn connection_samples(service: &Service) -> Vec<Sample> {
    let (mut alice, bob) = (Client::new(service).await, Client::new(service).await);
    let asked = alice.create_group(service, GroupKind::Connection).await;
    let state_key = alice.group(&asked).state_key;
    let info = ExternalCommitInfoRequest {
        group_id: asked,
        state_key: WireSecret::new(state_key),
        permit: JoinPermit::Connection,
    };

    let joined = alice.create_group(service, GroupKind::Connection).await;
    let (state_key, wrapper) = (alice.group(&joined).state_key, alice.group(&joined).wrapper);
    let answer = bob.external_commit_info(service, &joined, state_key).await;
    let plan = JoinPlan::connection(state_key, wrapper);
    let leaf = bob.leaf(service);
    let join = bob.external_join(
        (answer.group_info.as_slice(), answer.ratchet_tree.as_slice()),
        leaf,
        plan,
    );
    vec![
        Sample::by_key(service, Operation::ExternalCommitInfo, fresh_key(), &info),
        Sample::by_key(service, Operation::ExternalJoin, join.key, &join.request),
    ]
}

async fn other_samples(service: &Service) -> Vec<Sample> {
    let (mut alice, bob, id) = pair(service).await;
    alice.send(service, &id, b"to be acknowledged").await;
    let entries = bob
        .fetch(service)
        .await
        .iter()
        .map(|entry| entry.id)
        .collect();

    let token = ConnectionToken::random().unwrap();
    let publication = PublishKeyPackagesRequest {
        lookup: token.lookup(),
        sets: vec![set(service, b"a set")],
    };
    let _: Accepted = service
        .call(Operation::PublishKeyPackages, &fresh_key(), &publication)
        .await;
    let claims = vec![Claim {
        lookup: token.lookup(),
        ciphersuite: 1,
    }];
    let fresh = PublishKeyPackagesRequest {
        lookup: ConnectionToken::random().unwrap().lookup(),
        sets: vec![set(service, b"another set")],
    };

    let (owner, other) = (fresh_key(), fresh_key());
    let known = registration(service, &bob, &owner, b"known");
    let _: Accepted = service
        .call(Operation::RegisterHandle, &owner, &known)
        .await;
    let handle = || opaque(*b"known");
    let request = RequestConnectionRequest {
        handle: handle(),
        encrypted_request: opaque(*b"an encrypted request"),
    };
    let queue_id = bob.queue;
    vec![
        Sample::by_key(service, Operation::PublishKeyPackages, fresh_key(), &fresh),
        Sample::by_key(
            service,
            Operation::ClaimKeyPackages,
            fresh_key(),
            &ClaimKeyPackagesRequest { claims },
        ),
        Sample {
            draft: Draft::by_key(
                service,
                Operation::RegisterHandle,
                &other,
                &registration(service, &alice, &other, b"fresh"),
            ),
            key: other,
        },
        Sample::by_key(
            service,
            Operation::LookupHandle,
            fresh_key(),
            &LookupHandleRequest { handle: handle() },
        ),
        Sample::by_key(service, Operation::RequestConnection, fresh_key(), &request),
        Sample::by_key(
            service,
            Operation::CreateQueue,
            fresh_key(),
            &CreateQueueRequest {
                hpke_public_key: opaque(bob.queue_hpke.public()),
            },
        ),
        Sample::by_key(
            service,
            Operation::FetchQueue,
            copy(&bob.queue_owner),
            &FetchQueueRequest {
                queue_id,
                limit: 10,
                wait_ms: 0,
            },
        ),
        Sample::by_key(
            service,
            Operation::AcknowledgeQueue,
            copy(&bob.queue_owner),
            &AcknowledgeQueueRequest { queue_id, entries },
        ),
    ]
}
