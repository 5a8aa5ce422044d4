//! The limits of the server, on the wire.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use service::addresses::{AddressLimitSettings, AddressLimits};
use service::http::{Limits, RequestBody, Server};
use service::{MovedClock, Shutdown, ShutdownTrigger};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::{SOON, echo, frame};

async fn serve(limits: Limits) -> (SocketAddr, ShutdownTrigger) {
    let echo = post(|RequestBody(body): RequestBody| async { body });
    serve_router(limits, service::http::router().route("/", echo)).await
}

async fn serve_router(limits: Limits, router: Router) -> (SocketAddr, ShutdownTrigger) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, shutdown) = Shutdown::channel();
    tokio::spawn(service::http::serve(listener, router, limits, shutdown));
    (address, trigger)
}

/// Sends `request` and reads until the server closes the connection.
async fn answer(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(SOON, read)
        .await
        .expect("the server closes");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_body_up_to_the_limit_is_read_and_one_byte_more_is_413() {
    let (address, _trigger) = serve(Limits {
        max_body_bytes: 4,
        ..Limits::default()
    })
    .await;
    assert!(answer(address, &echo("four")).await.ends_with("four"));
    let refused = answer(address, &echo("five5")).await;
    assert!(refused.starts_with("HTTP/1.1 413") && refused.contains("application/problem+json"));
}

#[tokio::test]
async fn a_head_that_is_too_long_is_431() {
    let limits = Limits {
        max_header_bytes: 1000,
        max_headers: 8,
        ..Limits::default()
    };
    let (address, _trigger) = serve(limits).await;
    let long = format!(
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nlong: {}\r\n\r\n",
        "x".repeat(2000)
    );
    assert!(answer(address, &long).await.starts_with("HTTP/1.1 431"));
    let many = format!(
        "POST / HTTP/1.1\r\nhost: x\r\n{}\r\n",
        "a: b\r\n".repeat(20)
    );
    assert!(answer(address, &many).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn slow_heads_idle_connections_and_slow_bodies_end() {
    let limits = Limits {
        header_read_seconds: 1,
        body_read_seconds: 1,
        ..Limits::default()
    };
    let (address, _trigger) = serve(limits).await;
    answer(address, "POST / HT").await;
    answer(address, "").await;
    let kept = answer(address, &echo("x").replace("connection: close\r\n", "")).await;
    assert!(kept.starts_with("HTTP/1.1 200"));
    let slow = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nfo";
    assert!(answer(address, slow).await.starts_with("HTTP/1.1 408"));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problem_documents() {
    let (address, _trigger) = serve(Limits::default()).await;
    for (line, status) in [("GET /x", "404"), ("DELETE /", "405")] {
        let request = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = answer(address, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
}

/// Serves what `answer` says, with limits for each address.
async fn serve_limited(settings: AddressLimitSettings) -> (SocketAddr, ShutdownTrigger) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, shutdown) = Shutdown::channel();
    let router =
        service::http::router().route("/", post(|RequestBody(body): RequestBody| async { body }));
    let addresses = AddressLimits::new(settings, MovedClock::at(1_700_000_000_000));
    let server = Server::new(listener, Limits::default()).with_address_limits(addresses);
    tokio::spawn(server.serve(router, shutdown));
    (address, trigger)
}

#[tokio::test]
async fn an_address_with_too_many_requests_is_told_when_to_come_again() {
    let (address, _trigger) = serve_limited(AddressLimitSettings {
        requests_per_second: 1,
        burst: 2,
        ..AddressLimitSettings::NONE
    })
    .await;
    for _ in 0..2 {
        assert!(
            answer(address, &echo("x"))
                .await
                .starts_with("HTTP/1.1 200")
        );
    }
    let refused = answer(address, &echo("x")).await;
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.contains("retry-after: 1\r\n"), "{refused}");
    assert!(refused.contains("application/problem+json"), "{refused}");
}

#[tokio::test]
async fn an_address_with_too_many_connections_is_told_so() {
    let (address, _trigger) = serve_limited(AddressLimitSettings {
        max_connections: 1,
        ..AddressLimitSettings::NONE
    })
    .await;
    let mut first = TcpStream::connect(address).await.unwrap();
    let kept = echo("x").replace("connection: close\r\n", "");
    first.write_all(kept.as_bytes()).await.unwrap();
    first.read_exact(&mut [0; 12]).await.unwrap();
    let refused = answer(address, &echo("x")).await;
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.contains("retry-after: 1\r\n"), "{refused}");
    let (mut sender, _connection) = http2(address).await;
    let request = http::Request::get(format!("http://{address}/"));
    let refused = sender.send_request(request.body(Full::default()).unwrap());
    assert_eq!(refused.await.unwrap().status(), 429);
    drop(first);
    while !answer(address, &echo("x"))
        .await
        .starts_with("HTTP/1.1 200")
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_answer_whose_end_is_not_taken_keeps_its_place_among_those_of_its_address() {
    let (address, _trigger) = serve_limited(AddressLimitSettings {
        max_requests: 3,
        ..AddressLimitSettings::NONE
    })
    .await;
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1);
    let (mut sender, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut ask = || {
        let request = http::Request::post(format!("http://{address}/"));
        sender.send_request(request.body(Full::<Bytes>::from(vec![7; 8192])).unwrap())
    };
    // The library has the whole of each answer, and sends a byte.
    let mut untaken = Vec::new();
    for _ in 0..3 {
        let answer = ask().await.unwrap();
        assert_eq!(answer.status(), 200);
        untaken.push(answer);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(ask().await.unwrap().status(), 429);
    // Whoever gives one up has its place back.
    untaken.pop();
    let again = async { while ask().await.unwrap().status() != 200 {} };
    tokio::time::timeout(SOON, again).await.expect("a place");
}

/// A connection of HTTP/2 in the clear, and the task that it runs in.
async fn http2(
    address: SocketAddr,
) -> (
    SendRequest<Full<Bytes>>,
    JoinHandle<Result<(), hyper::Error>>,
) {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
    (sender, tokio::spawn(connection))
}

#[tokio::test]
async fn http2_in_the_clear_has_the_same_limits_and_ends_when_idle() {
    let limits = Limits {
        max_body_bytes: 4,
        header_read_seconds: 3,
        max_headers: 8,
        ..Limits::default()
    };
    let (address, _trigger) = serve(limits).await;
    let (mut sender, ended) = http2(address).await;
    let mut post = |body: &'static str, fields: usize| {
        let mut request = http::Request::post(format!("http://{address}/"));
        for field in 0..fields {
            request = request.header(format!("field-{field}"), "x");
        }
        sender.send_request(request.body(body.into()).unwrap())
    };
    assert_eq!(post("four", 0).await.unwrap().status(), 200);
    assert_eq!(post("five5", 0).await.unwrap().status(), 413);
    assert_eq!(post("four", 9).await.unwrap().status(), 431);
    let _ = tokio::time::timeout(SOON, ended)
        .await
        .expect("an idle connection ends");
}

#[tokio::test]
async fn a_peer_that_takes_nothing_of_its_answer_is_let_go() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, shutdown) = Shutdown::channel();
    let limits = Limits {
        header_read_seconds: 1,
        ..Limits::default()
    };
    let much = post(|| async { vec![0; 64 << 20] });
    let router = service::http::router().route("/", much);
    let serving = tokio::spawn(service::http::serve(listener, router, limits, shutdown));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(echo("x").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    trigger.request();
    // It ends when its last connection has.
    tokio::time::timeout(SOON, serving)
        .await
        .expect("the connection ends")
        .unwrap();
    drop(stream);
}

#[tokio::test]
async fn a_peer_that_opens_no_window_for_its_answer_is_let_go_however_busy_it_is() {
    for window in [0, 1] {
        is_let_go_with_a_window_of(window).await;
    }
}

#[tokio::test]
async fn a_peer_that_takes_nothing_of_one_answer_loses_that_stream_and_not_its_connection() {
    let limits = Limits {
        header_read_seconds: 3,
        ..Limits::default()
    };
    let router = service::http::router()
        .route("/much", get(|| async { vec![0; 4 << 20] }))
        .route("/", get(|| async { "answer" }));
    let (address, _trigger) = serve_router(limits, router).await;
    let (mut sender, _connection) = http2(address).await;
    let mut get = |path: &str| {
        let request = http::Request::get(format!("http://{address}{path}"));
        sender.send_request(request.body(Full::default()).unwrap())
    };
    let much = get("/much").await.unwrap();
    for _ in 0..60 {
        let answer = get("/").await.unwrap().into_body().collect().await;
        assert_eq!(answer.unwrap().to_bytes(), "answer");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let torn = much.into_body().collect().await.unwrap_err();
    let torn = std::error::Error::source(&torn).unwrap().to_string();
    assert!(torn.contains("stream error received"), "{torn}");
}

async fn is_let_go_with_a_window_of(window: u8) {
    let limits = Limits {
        header_read_seconds: 1,
        ..Limits::default()
    };
    let router = service::http::router().route("/", get(|| async { vec![0; 1 << 20] }));
    let (address, _trigger) = serve_router(limits, router).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // SETTINGS with an initial window, then GET http://x/ in static and literal fields of RFC 7541.
    let begin = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[0, 4, 0, 0, 0, window]),
        frame(1, 5, 1, &[0x82, 0x86, 0x84, 0x01, 1, b'x']),
    ]
    .concat();
    stream.write_all(&begin).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let ended = tokio::spawn(async move {
        let mut taken = vec![0; 4096];
        while reader.read(&mut taken).await.is_ok_and(|len| len > 0) {}
    });
    let busy = tokio::spawn(async move {
        // Pings are answered, and settings acknowledged, all the time.
        while writer.write_all(&frame(6, 0, 0, &[7; 8])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let ended = tokio::time::timeout(SOON, ended).await;
    busy.abort();
    ended.expect("the connection ends").unwrap();
}
