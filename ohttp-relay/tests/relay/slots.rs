//! What strangers without any credential can take from a relay: nothing that others need.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use service::SystemClock;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::{Served, config, encapsulated, raw_gateway, serve, serve_relay};

/// Of the relay under attack: as few as one connection of HTTP/2 fills many times.
const SLOTS: usize = 64;
const STREAMS: usize = 512;

type Upload = StreamBody<futures::stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;

async fn connect(relay: SocketAddr, window: u32) -> SendRequest<Upload> {
    let stream = TokioIo::new(TcpStream::connect(relay).await.unwrap());
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window);
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(media_type: &str, body: Upload) -> http::Request<Upload> {
    http::Request::post("http://relay/g")
        .header("content-type", media_type)
        .body(body)
        .unwrap()
}

/// `bytes`, and then nothing for ever, or the end.
fn upload(bytes: usize, ends: bool) -> Upload {
    use futures::StreamExt as _;
    let first = futures::stream::once(async move { Ok(Frame::data(vec![7; bytes].into())) });
    StreamBody::new(if ends {
        first.boxed()
    } else {
        first.chain(futures::stream::pending()).boxed()
    })
}

/// How many requests have come to the gateway, whole or not.
async fn gateway() -> (Served, Arc<AtomicUsize>) {
    async fn answer(
        State(asked): State<Arc<AtomicUsize>>,
        request: axum::extract::Request,
    ) -> Response {
        asked.fetch_add(1, Ordering::SeqCst);
        let is_chunked =
            request.headers().get("content-type").unwrap() == "message/ohttp-chunked-req";
        match axum::body::to_bytes(request.into_body(), usize::MAX).await {
            Ok(_) if is_chunked => {
                let headers = [("content-type", "message/ohttp-chunked-res")];
                (headers, "answer").into_response()
            }
            Ok(_) => encapsulated("answer"),
            Err(_) => http::StatusCode::BAD_REQUEST.into_response(),
        }
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let router = Router::new()
        .route("/", post(answer))
        .with_state(Arc::clone(&asked));
    (serve(router).await, asked)
}

async fn relay(gateway: &Served) -> Served {
    let settings = format!(
        "max_requests = {SLOTS}\n[[gateways]]\npath = '/g'\nurl = '{}'\nhttp = '2'",
        gateway.url("/")
    );
    let config = config("http://127.0.0.1:1/", &settings);
    serve_relay(&config, SystemClock::shared()).await
}

/// What somebody else asks meanwhile.
async fn is_served(relay: &Served) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for media_type in ["message/ohttp-req", "message/ohttp-chunked-req"] {
        let request = client
            .post(relay.url("/g"))
            .header("content-type", media_type)
            .body("request")
            .timeout(Duration::from_secs(15));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{media_type}");
        assert_eq!(answer.text().await.unwrap(), "answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_end_take_no_slot_and_nothing_at_the_gateway() {
    let (gateway, asked) = gateway().await;
    let relay = relay(&gateway).await;
    for (media_type, bytes) in [
        ("message/ohttp-chunked-req", 1),
        ("message/ohttp-req", 1),
        ("message/ohttp-req", 40_000),
    ] {
        let mut sender = connect(relay.address, 65_535).await;
        let mut begun = JoinSet::new();
        for _ in 0..STREAMS {
            sender.ready().await.unwrap();
            begun.spawn(sender.send_request(request(media_type, upload(bytes, false))));
        }
        // A request behind all of them on the same connection: they have come.
        sender.ready().await.unwrap();
        let last = sender.send_request(request(media_type, upload(1, true)));
        let last = tokio::time::timeout(Duration::from_secs(15), last);
        assert_eq!(last.await.unwrap().unwrap().status(), 200, "{media_type}");
        is_served(&relay).await;
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3 * 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_take_nothing_of_their_answers_hold_no_slots() {
    let (gateway, asked) = gateway().await;
    let relay = relay(&gateway).await;
    // They let nothing come.
    let mut sender = connect(relay.address, 0).await;
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..STREAMS {
        sender.ready().await.unwrap();
        let answer = sender.send_request(request("message/ohttp-chunked-req", upload(1, true)));
        let answer = tokio::time::timeout(Duration::from_secs(15), answer);
        let answer = answer.await.unwrap().unwrap();
        refused += usize::from(answer.status() != 200);
        held.push(answer);
    }
    assert_eq!(refused, 0);
    assert_eq!(asked.load(Ordering::SeqCst), STREAMS);
    is_served(&relay).await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_which_there_is_no_slot_is_told_when_to_come_again() {
    let answers = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&answers);
    let answer = move || async move {
        waiting.acquire().await.unwrap().forget();
        encapsulated("late")
    };
    let gateway = serve(Router::new().route("/", post(answer))).await;
    let relay = relay(&gateway).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = || {
        let request = client.post(relay.url("/g"));
        let request = request.header("content-type", "message/ohttp-req");
        request.body("request").send()
    };
    let mut all = JoinSet::new();
    for _ in 0..SLOTS + 1 {
        all.spawn(post());
    }
    let refused = all.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(
        refused.headers()["content-type"],
        "application/problem+json"
    );
    answers.add_permits(SLOTS);
    while let Some(answer) = all.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn an_answer_breaks_off_where_its_gateway_does() {
    let gateway = raw_gateway(|mut stream| async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut some = [0; 1024];
        let _ = stream.read(&mut some).await;
        let half = b"HTTP/1.1 200 OK\r\ncontent-type: message/ohttp-chunked-res\r\n\
                     transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
        let _ = stream.write_all(half).await;
    })
    .await;
    let settings = format!("[[gateways]]\npath = '/g'\nurl = 'http://{gateway}/'\nhttp = '1.1'");
    let config = config("http://127.0.0.1:1/", &settings);
    let relay = serve_relay(&config, SystemClock::shared()).await;
    let mut sender = connect(relay.address, 65_535).await;
    let request = http::Request::post("http://relay/g")
        .header("content-type", "message/ohttp-chunked-req")
        .body(upload(1, true))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.into_body().collect().await.is_err());
}
