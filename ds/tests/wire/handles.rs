//! Handles and connection requests.

use crate::support::client::Client;
use crate::support::inbox::Event;
use crate::support::request::{Draft, fresh_key};
use crate::support::samples::registration;
use crate::support::{Engine, Service};
use crypto::connection::sign_handle_record;
use protocol::codec::opaque;
use protocol::connections::{
    LookupHandleRequest, LookupHandleResponse, MAX_HANDLE_BYTES, RequestConnectionRequest,
};
use protocol::groups::Accepted;
use protocol::problem::ProblemType;
use protocol::{Operation, Wire};

#[tokio::test]
async fn a_handle_has_one_owner_and_leads_to_its_queue() {
    let service = Service::start(Engine::Memory);
    let mut client = Client::new(&service).await;
    let (owner, other) = (fresh_key(), fresh_key());
    let registered = registration(&service, &client, &owner, b"alice.01_x-y");
    let _: Accepted = service
        .call(Operation::RegisterHandle, &owner, &registered)
        .await;
    let theft = registration(&service, &client, &other, b"alice.01_x-y");
    // At its cost: who tries names pays for each.
    let theft = Draft::by_key(&service, Operation::RegisterHandle, &other, &theft).signed(&other);
    assert_eq!(
        service
            .refused_at_cost(Operation::RegisterHandle, &theft)
            .await,
        ProblemType::HandleTaken
    );

    let lookup = LookupHandleRequest {
        handle: registered.handle.clone(),
    };
    let found: LookupHandleResponse = service
        .call(Operation::LookupHandle, &fresh_key(), &lookup)
        .await;
    assert_eq!(found.record, registered.record);
    let request = RequestConnectionRequest {
        handle: registered.handle.clone(),
        encrypted_request: opaque(*b"let us talk"),
    };
    let _: Accepted = service
        .call(Operation::RequestConnection, &fresh_key(), &request)
        .await;
    assert_eq!(
        client.receive(&service).await,
        [Event::ConnectionRequest(b"let us talk".to_vec())]
    );

    // The owner moves it to another queue.
    let mut elsewhere = Client::new(&service).await;
    let moved = registration(&service, &elsewhere, &owner, b"alice.01_x-y");
    let _: Accepted = service
        .call(Operation::RegisterHandle, &owner, &moved)
        .await;
    let _: Accepted = service
        .call(Operation::RequestConnection, &fresh_key(), &request)
        .await;
    assert_eq!(client.receive(&service).await, []);
    assert_eq!(elsewhere.receive(&service).await.len(), 1);
}

#[tokio::test]
async fn a_handle_that_is_not_in_order_is_refused() {
    let service = Service::start(Engine::Memory);
    let client = Client::new(&service).await;
    let owner = fresh_key();
    let too_long = vec![b'a'; MAX_HANDLE_BYTES + 1];
    for handle in [
        &b""[..],
        b"Alice",
        b"al ice",
        "älice".as_bytes(),
        b"a/b",
        b"a\0",
        &too_long,
    ] {
        let registration = registration(&service, &client, &owner, handle);
        let problem = service
            .refusal(Operation::RegisterHandle, &owner, &registration)
            .await;
        assert_eq!(problem, ProblemType::InvalidHandle);
        let handle = || opaque(handle);
        let lookup = LookupHandleRequest { handle: handle() };
        assert_eq!(
            service
                .refusal(Operation::LookupHandle, &owner, &lookup)
                .await,
            ProblemType::InvalidHandle
        );
        let request = RequestConnectionRequest {
            handle: handle(),
            encrypted_request: opaque(*b"x"),
        };
        let problem = service
            .refusal(Operation::RequestConnection, &owner, &request)
            .await;
        assert_eq!(problem, ProblemType::InvalidHandle);
    }

    let honest = || registration(&service, &client, &owner, b"alice");
    let mut for_another_handle = honest();
    for_another_handle.handle = opaque(*b"mallory");
    let mut malformed = honest();
    malformed.record = opaque([malformed.record.as_slice(), &[0]].concat());
    let mut too_long = honest();
    let mut credential = client.credential();
    credential.name = opaque(vec![b'n'; 1024]);
    too_long.record =
        opaque(sign_handle_record(b"alice", &credential, &client.identity, &[9; 32]).encode());
    let mut foreign_reference = honest();
    foreign_reference.queue_reference =
        registration(&service, &client, &fresh_key(), b"alice").queue_reference;
    let mut no_reference = honest();
    no_reference.queue_reference = opaque(Vec::new());
    for (body, expected) in [
        (for_another_handle, ProblemType::BadSignature),
        (malformed, ProblemType::Malformed),
        (too_long, ProblemType::LimitExceeded),
        (foreign_reference, ProblemType::InvalidLeaf),
        (no_reference, ProblemType::InvalidLeaf),
    ] {
        assert_eq!(
            service
                .refusal(Operation::RegisterHandle, &owner, &body)
                .await,
            expected
        );
    }
    let unknown = RequestConnectionRequest {
        handle: opaque(*b"alice"),
        encrypted_request: opaque(*b"x"),
    };
    // Trying names is not free, in whatever operation.
    let request =
        Draft::by_key(&service, Operation::RequestConnection, &owner, &unknown).signed(&owner);
    let problem = service
        .refused_at_cost(Operation::RequestConnection, &request)
        .await;
    assert_eq!(problem, ProblemType::UnknownHandle);
    let long = RequestConnectionRequest {
        handle: opaque(*b"alice"),
        encrypted_request: opaque(vec![0; 8193]),
    };
    let problem = service
        .refusal(Operation::RequestConnection, &owner, &long)
        .await;
    assert_eq!(problem, ProblemType::LimitExceeded);
}
