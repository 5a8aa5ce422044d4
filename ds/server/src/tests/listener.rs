//! Through a real listener on loopback: the limits of the start-up kit hold in front of the
//! service.

use protocol::journal::AnswerSize;
use service::http::Limits;

use super::*;

struct Listener {
    address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

async fn listen(running: &Running, limits: Limits) -> Listener {
    let listener = service::http::bind("127.0.0.1:0".parse().unwrap());
    let listener = listener.await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = running.server.shutdown.clone();
    let serving = service::http::serve(listener, running.router.clone(), limits, shutdown);
    Listener {
        address,
        task: tokio::spawn(serving),
    }
}

async fn post(
    running: &Running,
    listener: &Listener,
    operation: Number,
    body: Vec<u8>,
) -> reqwest::Response {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}{}", listener.address, operation.path());
    client
        .post(url)
        .header(header::CONTENT_TYPE, REQUEST_MEDIA_TYPE)
        .header(
            service::gateway_auth::GATEWAY_AUTHORIZATION,
            running.secret.header_value(),
        )
        .body(body)
        .send()
        .await
        .unwrap()
}

fn read_request(known: u64, wait_ms: u32) -> Vec<u8> {
    ReadJournalRequest {
        version: WIRE_VERSION,
        segment: segment(),
        from: Position(0),
        known: Position(known),
        wait_ms,
        size: AnswerSize::Segment,
        piece: 0,
    }
    .encode()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_beyond_the_limit_is_refused() {
    let running = running(10);
    let limits = Limits {
        max_body_bytes: 1000,
        ..Limits::default()
    };
    let listener = listen(&running, limits).await;
    let answer = post(&running, &listener, Number::SendMessage, vec![0; 1001]).await;
    assert_eq!(answer.status(), 413);
    assert_eq!(
        answer.headers()[header::CONTENT_TYPE],
        "application/problem+json"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_does_not_hold_a_shutdown_up() {
    let running = running(10);
    running.begin_segment().await;
    running.append(1).await;
    let listener = listen(&running, Limits::default()).await;
    let poll = post(
        &running,
        &listener,
        Number::ReadJournal,
        read_request(1, 30_000),
    );
    let end = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        running.ends.request();
    };
    let ended = async { tokio::join!(poll, end) };
    let (answer, ()) = tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    tokio::time::timeout(Duration::from_secs(20), listener.task)
        .await
        .unwrap()
        .unwrap();
}
