//! Through a real listener on loopback: the limits of the start-up kit hold in front of the service.

use http::header;
use protocol::queues::FetchQueueResponse;
use protocol::{Operation, REQUEST_MEDIA_TYPE, Wire};
use service::gateway_auth::GATEWAY_AUTHORIZATION;
use service::http::Limits;

use crate::support::scenes::pair;
use crate::support::{Engine, Service};

struct Listener {
    address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

async fn listen(service: &Service, limits: Limits) -> Listener {
    let listener = service::http::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(service::http::serve(
        listener,
        service.router(),
        limits,
        service.shutdown.clone(),
    ));
    Listener { address, task }
}

async fn post(
    service: &Service,
    listener: &Listener,
    operation: Operation,
    body: Vec<u8>,
) -> reqwest::Response {
    reqwest::Client::builder()
        .no_proxy()
        .build()
        .unwrap()
        .post(format!("http://{}{}", listener.address, operation.path()))
        .header(header::CONTENT_TYPE, REQUEST_MEDIA_TYPE)
        .header(GATEWAY_AUTHORIZATION, service.gateway())
        .body(body)
        .send()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_and_its_fetch_go_over_tcp() {
    let service = Service::start(Engine::Rocks);
    let (mut alice, bob, id) = pair(&service).await;
    let listener = listen(&service, Limits::default()).await;
    let request = alice.text_request(&service, &id, b"over tcp");
    assert_eq!(
        post(&service, &listener, Operation::SendMessage, request)
            .await
            .status(),
        200
    );
    let request = bob.fetch_request(&service, 10, 0);
    let answer = post(&service, &listener, Operation::FetchQueue, request)
        .await
        .bytes()
        .await
        .unwrap();
    assert_eq!(
        FetchQueueResponse::decode(&answer).unwrap().entries.len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_beyond_the_limit_is_refused() {
    let service = Service::start(Engine::Memory);
    let listener = listen(
        &service,
        Limits {
            max_body_bytes: 1000,
            ..Limits::default()
        },
    )
    .await;
    let answer = post(&service, &listener, Operation::SendMessage, vec![0; 1001]).await;
    assert_eq!(answer.status(), 413);
    assert_eq!(
        answer.headers().get(header::CONTENT_TYPE).unwrap(),
        "application/problem+json"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_does_not_hold_a_shutdown_up() {
    let service = Service::start(Engine::Memory);
    let (_, bob, _) = pair(&service).await;
    let listener = listen(&service, Limits::default()).await;
    let poll = post(
        &service,
        &listener,
        Operation::FetchQueue,
        bob.fetch_request(&service, 10, 30_000),
    );
    let looked = service.store.next_look();
    let end = async {
        looked.await;
        service.trigger.request();
    };
    let (answer, ()) = tokio::join!(poll, end);
    assert_eq!(answer.status(), 200);
    tokio::time::timeout(std::time::Duration::from_secs(20), listener.task)
        .await
        .unwrap()
        .unwrap();
}
