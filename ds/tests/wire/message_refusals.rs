//! Messages that are refused, and groups that are unknown: nothing changes, everybody goes on.

use crate::support::client::Client;
use crate::support::commits::Plan;
use crate::support::samples::samples;
use crate::support::scenes::{Trio, pair, trio};
use crate::support::{Engine, Service};
use protocol::problem::ProblemType;
use protocol::{Operation, Wire};

#[tokio::test]
async fn an_unknown_group_and_a_wrong_state_key_get_the_same_answer_byte_for_byte() {
    let service = Service::start(Engine::Memory);
    let mut replies = Vec::new();
    for sample in samples(&service).await {
        if !matches!(
            sample.operation(),
            Operation::AddUsers
                | Operation::RemoveUsers
                | Operation::UpdateClient
                | Operation::SendMessage
                | Operation::SetRecoverySecret
                | Operation::ExternalCommitInfo
                | Operation::ExternalJoin
                | Operation::AddClients
                | Operation::RemoveClients
                | Operation::SetRole
                | Operation::DeleteGroup
                | Operation::ReInitializeGroup
                | Operation::SelfRemove
                | Operation::Propose
                | Operation::SetJoinCode
                | Operation::InspectGroup
                | Operation::OwnLeaf
                | Operation::UpdateQueueReference
        ) {
            continue;
        }
        // Every body begins with the group id (16 bytes) and the state key (32).
        for at in [0, 15, 16, 47] {
            let mut draft = sample.draft.clone();
            draft.body[at] ^= 1;
            let before = service.store.transitions();
            let [checks, rosters] = service.store.checks_and_rosters_read();
            let reply = service
                .pay(draft.operation, &draft.signed(&sample.key))
                .await;
            // The same answer after the same read of one short row, however big the group is.
            assert_eq!(service.store.transitions(), before);
            let read = service.store.checks_and_rosters_read();
            assert_eq!(read, [checks + 1, rosters], "{:?}", draft.operation);
            replies.push(reply);
        }
    }
    let first = replies.first().unwrap();
    assert_eq!(first.problem(), ProblemType::UnknownGroup);
    assert!(replies.iter().all(|reply| reply == first));
}

#[tokio::test]
async fn a_message_of_a_future_epoch_or_another_group_is_rejected() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    // Bob runs ahead: he merges a commit that nobody accepted.
    let Trio { bob, id, .. } = &mut trio;
    let unsent = bob.stage(id, Plan::update());
    bob.merge(&unsent);
    let ahead = bob.text_request(&service, id, b"from the future");
    let reply = service.post(Operation::SendMessage, &ahead).await;
    // For all that the service knows it has lost something, and it says so.
    assert_eq!(reply.problem(), ProblemType::ServiceBehind);
    assert_eq!(reply.document()["epoch"], 1);

    let (mut dave, _, elsewhere) = pair(&service).await;
    let message = dave.encrypt(&elsewhere, b"not for you");
    let request = trio.alice.message_request(&service, &trio.id, message);
    assert_eq!(
        service.refused(Operation::SendMessage, &request).await,
        ProblemType::InvalidMessage
    );
}

/// A PublicMessage of content type application, which the library does not make (RFC 9420 §6.2).
pub(crate) fn public_application_message(group: &protocol::ids::GroupId, epoch: u64) -> Vec<u8> {
    let mut bytes = vec![0, 1, 0, 1, 16];
    bytes.extend(group.0);
    bytes.extend(epoch.to_be_bytes());
    bytes.extend([1, 0, 0, 0, 0]);
    bytes.extend([0, 1, 3]);
    bytes.extend(b"hey");
    bytes.push(64);
    bytes.extend([0; 64]);
    bytes.push(32);
    bytes.extend([0; 32]);
    bytes
}

/// Where a PrivateMessage has its content type: behind version, wire format, group id and epoch.
pub(crate) const CONTENT_TYPE: usize = 2 + 2 + 1 + 16 + 8;

#[tokio::test]
async fn the_message_endpoint_takes_application_messages_and_nothing_else() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let Trio { alice, id, .. } = &mut trio;
    let commit = alice.stage(id, Plan::update());
    alice.abandon(id);
    let welcome = {
        let invitee = Client::new(&service).await.invitee(&service);
        let add = alice.stage(id, Plan::add([invitee]));
        alice.abandon(id);
        add.welcome.unwrap().welcome
    };
    let message = alice.encrypt(id, b"good");
    let with_content_type = |content_type| {
        let mut message = message.clone();
        assert_eq!(message[CONTENT_TYPE], 1);
        message[CONTENT_TYPE] = content_type;
        message
    };
    for refused in [
        commit.commit,
        welcome,
        public_application_message(id, 1),
        with_content_type(0),
        with_content_type(2),
        with_content_type(3),
        with_content_type(4),
        [message.as_slice(), &[0]].concat(),
        message[..message.len() - 1].to_vec(),
        Vec::new(),
        b"plain text".to_vec(),
    ] {
        let request = alice.message_request(&service, id, refused);
        assert_eq!(
            service.refused(Operation::SendMessage, &request).await,
            ProblemType::InvalidMessage
        );
    }
    trio.still_works(&service).await;
}

#[tokio::test]
async fn a_leaf_index_that_is_free_cannot_be_removed_or_speak() {
    let service = Service::start(Engine::Memory);
    let Trio {
        mut alice,
        bob,
        mut carol,
        id,
    } = trio(&service).await;
    alice.commit(&service, &id, Plan::remove([1])).await;
    let key = alice.group(&id).state_key;
    let mut draft = bob.leaf_draft(&service, &id, Operation::SendMessage, Vec::new());
    draft.body = protocol::groups::SendMessageRequest {
        group_id: id,
        state_key: protocol::codec::WireSecret::new(key),
        message: protocol::codec::opaque(Vec::new()),
    }
    .encode();
    let request = draft.signed(&bob.group(&id).signer.0);
    assert_eq!(
        service.refused(Operation::SendMessage, &request).await,
        ProblemType::BadSignature
    );
    carol.receive(&service).await;
    assert_eq!(alice.members(&id), carol.members(&id));
}
