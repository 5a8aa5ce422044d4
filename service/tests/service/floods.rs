//! Frames of HTTP/2 by hand (RFC 9113): a peer that sends them for their own sake is cut, and no
//! other one.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use bytes::Bytes;
use http::HeaderValue;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use service::gateway_auth::{GATEWAY_AUTHORIZATION, GatewaySecret, require_gateway};
use service::http::{Limits, RequestBody};
use service::{Shutdown, ShutdownTrigger};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::{SOON, frame};

const ALL_SENT: Duration = Duration::from_secs(60);
/// Frames that no connection may send for nothing: half a second of a core, or more.
const MANY: u32 = 100_000;

async fn listen() -> (SocketAddr, ShutdownTrigger) {
    let router = service::http::router()
        .route("/", post(|RequestBody(body): RequestBody| async { body }))
        .route("/much", get(|| async { vec![7; 2 << 20] }))
        .route("/never", get(std::future::pending::<()>));
    listen_to(router).await
}

async fn listen_to(router: Router) -> (SocketAddr, ShutdownTrigger) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, shutdown) = Shutdown::channel();
    let limits = Limits::default();
    tokio::spawn(service::http::serve(listener, router, limits, shutdown));
    (address, trigger)
}

/// POST http://x/ in static and literal fields (RFC 7541), without its end.
const POST: [u8; 6] = [0x83, 0x86, 0x84, 0x01, 1, b'x'];

/// What a flood sends `number`th.
type Flood = fn(u32) -> Vec<u8>;

/// How many of them were sent until the connection ended. `None`: it did not.
async fn survives(address: SocketAddr, flood: Flood) -> Option<u32> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let begin = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &POST),
    ];
    stream.write_all(&begin.concat()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let ended = tokio::spawn(async move {
        let mut taken = vec![0; 65_536];
        while reader.read(&mut taken).await.is_ok_and(|len| len > 0) {}
    });
    for first in (0..MANY).step_by(100) {
        let frames: Vec<u8> = (first..first + 100).flat_map(flood).collect();
        if ended.is_finished() || writer.write_all(&frames).await.is_err() {
            return Some(first);
        }
    }
    // It was all sent; what is left is to be read.
    let _ = tokio::time::timeout(SOON, ended).await.ok()?;
    Some(MANY)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_floods_with_frames_is_cut() {
    let (address, _trigger) = listen().await;
    let floods: [(&str, Flood); 9] = [
        ("empty SETTINGS", |_| frame(4, 0, 0, &[])),
        ("SETTINGS of windows", |number| {
            frame(4, 0, 0, &[0, 4, 0, 0, 0, (number % 2) as u8])
        }),
        ("PING", |_| frame(6, 0, 0, &[7; 8])),
        ("answers to pings", |_| frame(6, 1, 0, &[7; 8])),
        ("PRIORITY", |_| frame(2, 0, 3, &[0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", |_| frame(8, 0, 0, &[0, 0, 0, 1])),
        ("an unknown type", |_| frame(0xfa, 0, 0, &[])),
        ("empty DATA", |_| frame(0, 0, 1, &[])),
        ("requests that are reset", |number| {
            let stream = 3 + 2 * number;
            let reset = frame(3, 0, stream, &[0, 0, 0, 8]);
            [frame(1, 4, stream, &POST), reset].concat()
        }),
    ];
    for (what, flood) in floods {
        let sent = tokio::time::timeout(ALL_SENT, survives(address, flood)).await;
        let sent = sent.unwrap_or_else(|_| panic!("{what} goes on"));
        assert!(sent.is_some(), "{what} is not cut");
    }
}

/// How many requests that are never answered somebody gives up, of 4,000, until it is cut.
async fn gives_up(address: SocketAddr, authorization: &HeaderValue) -> usize {
    let mut sender = connect(address).await;
    for round in 0..40 {
        let mut polls = JoinSet::new();
        for _ in 0..100 {
            let mut request = request(address, "GET", "/never");
            let headers = request.headers_mut();
            headers.insert(GATEWAY_AUTHORIZATION, authorization.clone());
            if sender.ready().await.is_err() {
                return 100 * round;
            }
            polls.spawn(sender.send_request(request));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        polls.shutdown().await;
    }
    4_000
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_proved_who_it_is_gives_up_any_number_of_requests_and_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let secret = GatewaySecret::load_or_create(&directory.path().join("secret")).unwrap();
    let authorization = secret.header_value();
    let never = || service::http::router().route("/never", get(std::future::pending::<()>));
    let (guarded, _trigger) = listen_to(require_gateway(never(), secret)).await;
    let (open, _trigger) = listen_to(never()).await;
    assert_eq!(gives_up(guarded, &authorization).await, 4_000);
    assert!(gives_up(open, &authorization).await < 2_000);
}

async fn connect(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(address: SocketAddr, method: &str, path: &str) -> http::Request<Full<Bytes>> {
    http::Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"))
        .body(Full::from("body"))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_peer_is_not_cut_however_many_requests_it_has_takes_or_gives_up() {
    let (address, _trigger) = listen().await;
    let mut sender = connect(address).await;
    for round in 0..8 {
        // As many as may run at once, like a relay's after it started.
        let mut all = JoinSet::new();
        for _ in 0..1000 {
            sender.ready().await.unwrap();
            all.spawn(sender.send_request(request(address, "POST", "/")));
        }
        while let Some(answer) = all.join_next().await {
            let answer = answer.unwrap().unwrap().into_body().collect().await;
            assert_eq!(answer.unwrap().to_bytes(), "body");
        }
        // Long polls of clients that go away.
        let mut polls = JoinSet::new();
        for _ in 0..500 {
            sender.ready().await.unwrap();
            polls.spawn(sender.send_request(request(address, "GET", "/never")));
        }
        sender.ready().await.unwrap();
        let behind = sender.send_request(request(address, "POST", "/"));
        assert_eq!(behind.await.unwrap().status(), 200, "round {round}");
        polls.shutdown().await;
    }
    // Much content: its windows are opened again and again.
    for _ in 0..20 {
        sender.ready().await.unwrap();
        let much = sender.send_request(request(address, "GET", "/much")).await;
        let much = much.unwrap().into_body().collect().await.unwrap();
        assert_eq!(much.to_bytes().len(), 2 << 20);
    }
}
