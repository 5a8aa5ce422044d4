//! Gateways that are down, slow, half-open or talk nonsense: the client has its answer in bounded
//! time, and it is always the same one.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use service::SystemClock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::{
    StubGateway, config, encapsulated, free_port, raw_gateway, serve_relay, stub_gateway, visible,
};

/// The phases, as short as the tests can have them.
const SHORT: &str = "connect_seconds = 1\nforward_seconds = 1\nanswer_seconds = 1";
/// Longer than a busy machine takes for any of them.
const LONG: &str = "connect_seconds = 10\nforward_seconds = 10\nanswer_seconds = 10";
const BOUNDED: Duration = Duration::from_secs(15);

type Visible = (StatusCode, HeaderMap, Vec<u8>);

async fn answer_by(gateway: SocketAddr, scheme: &str, http: &str) -> Visible {
    let settings = format!(
        "{SHORT}\n[[gateways]]\npath = '/g'\nurl = '{scheme}://{gateway}/'\nhttp = '{http}'"
    );
    let config = config("http://127.0.0.1:1/", &settings);
    let relay = serve_relay(&config, SystemClock::shared()).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http
        .post(relay.url("/g"))
        .header(CONTENT_TYPE, "message/ohttp-req")
        .body("x")
        .send();
    let answer = tokio::time::timeout(BOUNDED, request)
        .await
        .expect("an answer in bounded time");
    visible(answer.unwrap()).await
}

async fn the_failure() -> Visible {
    let down = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let failure = answer_by(down, "http", "1.1").await;
    assert_eq!(failure.0, StatusCode::BAD_GATEWAY);
    failure
}

async fn hold(mut stream: TcpStream) {
    let mut some = [0; 1024];
    while stream.read(&mut some).await.is_ok_and(|len| len > 0) {}
}

async fn say(mut stream: TcpStream, words: &[u8]) {
    let mut some = [0; 1024];
    let _ = stream.read(&mut some).await;
    let _ = stream.write_all(words).await;
}

#[tokio::test]
async fn a_gateway_that_is_down_or_says_nothing_is_the_one_failure() {
    let failure = the_failure().await;
    let down = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let silent = raw_gateway(hold).await;
    let closing = raw_gateway(|stream| async move { drop(stream) }).await;
    for http in ["auto", "1.1", "2"] {
        for gateway in [down, silent, closing] {
            assert_eq!(answer_by(gateway, "http", http).await, failure, "{http}");
        }
    }
    // A TLS handshake that nobody answers.
    for gateway in [down, silent, closing] {
        assert_eq!(answer_by(gateway, "https", "auto").await, failure);
    }
}

#[tokio::test]
async fn a_gateway_that_takes_no_connection_is_the_one_failure() {
    let failure = the_failure().await;
    // Its backlog is full, so that the next connection waits for ever.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener: TcpListener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let connected =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address));
        waiting.push(connected.await);
    }
    assert_eq!(answer_by(address, "http", "1.1").await, failure);
}

#[tokio::test]
async fn a_gateway_that_talks_nonsense_is_the_one_failure() {
    let failure = the_failure().await;
    let many = "a: b\r\n".repeat(1000);
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    let nonsense: Vec<Vec<u8>> = vec![
        b"\0\xff\xfe nonsense".to_vec(),
        b"SSH-2.0-OpenSSH_9\r\n".to_vec(),
        b"HTTP/1.1 999999 OK\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n".to_vec(),
        format!("HTTP/1.1 200 OK\r\n{many}\r\n").into_bytes(),
        long.into_bytes(),
        b"HTTP/1.1 200 OK\r\ncontent-type: message/ohttp-res\r\ncontent-length: 100\r\n\r\nten bytes.".to_vec(),
        b"HTTP/1.1 200 OK\r\ncontent-type: message/ohttp-res\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab".to_vec(),
        b"HTTP/1.1 200 OK\r\ncontent-type: message/ohttp-res\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nab".to_vec(),
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".to_vec(),
        // Settings of HTTP/2, and then a frame of 16 MiB.
        b"\0\0\0\x04\0\0\0\0\0\xff\xff\xff\0\0\0\0\0\x01".to_vec(),
    ];
    for words in nonsense {
        for (scheme, http) in [("http", "1.1"), ("http", "2"), ("https", "auto")] {
            let spoken = words.clone();
            let gateway = raw_gateway(move |stream| {
                let spoken = spoken.clone();
                async move { say(stream, &spoken).await }
            })
            .await;
            let answer = answer_by(gateway, scheme, http).await;
            assert_eq!(answer, failure, "{scheme} {http} {}", words.escape_ascii());
        }
    }
}

#[tokio::test]
async fn an_answer_that_stops_half_way_is_the_one_failure_while_it_is_short() {
    let failure = the_failure().await;
    let gateway = raw_gateway(|mut stream| async move {
        let mut some = [0; 1024];
        let _ = stream.read(&mut some).await;
        let half = b"HTTP/1.1 200 OK\r\ncontent-type: message/ohttp-res\r\n\
                     content-length: 100\r\n\r\nten bytes.";
        let _ = stream.write_all(half).await;
        hold(stream).await;
    })
    .await;
    assert_eq!(answer_by(gateway, "http", "1.1").await, failure);
}

#[tokio::test]
async fn requests_pass_again_as_soon_as_the_gateway_is_back() {
    let port = free_port();
    let relays = config(&format!("http://127.0.0.1:{port}/"), LONG);
    let relay = serve_relay(&relays, SystemClock::shared()).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = || {
        http.post(relay.url("/"))
            .header(CONTENT_TYPE, "message/ohttp-req")
            .body("x")
            .send()
    };
    for _ in 0..3 {
        assert_eq!(post().await.unwrap().status(), 502);
        let (router, _) = StubGateway::router(Duration::ZERO, || encapsulated("back"));
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let (trigger, shutdown) = service::Shutdown::channel();
        let limits = service::http::Limits::default();
        let serving = tokio::spawn(service::http::serve(listener, router, limits, shutdown));
        for _ in 0..5 {
            assert_eq!(post().await.unwrap().status(), 200);
        }
        trigger.request();
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn a_request_is_sent_to_the_gateway_at_most_once() {
    // Takes a request whole and closes: perhaps it was carried out.
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = std::sync::Arc::clone(&count);
    let gateway = raw_gateway(move |mut stream| {
        let seen = seen.clone();
        async move {
            let mut read = Vec::new();
            while !read.ends_with(b"0\r\n\r\n") {
                let mut some = [0; 1024];
                match stream.read(&mut some).await {
                    Ok(len) if len > 0 => read.extend_from_slice(&some[..len]),
                    _ => return,
                }
            }
            if seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                // The first is answered, so that the second comes by a connection that was used
                // before.
                let answer = b"HTTP/1.1 200 OK\r\ncontent-type: message/ohttp-res\r\n\
                               content-length: 1\r\n\r\nx";
                let _ = stream.write_all(answer).await;
                let mut some = [0; 1024];
                let _ = stream.read(&mut some).await;
                seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }
    })
    .await;
    let relays = config(&format!("http://{gateway}/"), LONG);
    let relay = serve_relay(&relays, SystemClock::shared()).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for status in [200, 502] {
        let answer = http
            .post(relay.url("/"))
            .header(CONTENT_TYPE, "message/ohttp-req")
            .body("x")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), status);
    }
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 2);
}

#[tokio::test]
async fn one_slow_gateway_does_not_hold_up_another() {
    let silent = raw_gateway(hold).await;
    let quick = stub_gateway(Duration::ZERO, || encapsulated("quick")).await;
    let settings = format!("[[gateways]]\npath = '/slow'\nurl = 'http://{silent}/'\nhttp = '2'");
    let relays = config(&quick.served.url("/"), &settings);
    let relay = serve_relay(&relays, SystemClock::shared()).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = |path: &str| {
        http.post(relay.url(path))
            .header(CONTENT_TYPE, "message/ohttp-req")
            .body("x")
            .send()
    };
    let waiting: Vec<_> = (0..50).map(|_| tokio::spawn(post("/slow"))).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let answer = tokio::time::timeout(BOUNDED, post("/")).await.unwrap();
    assert_eq!(answer.unwrap().status(), 200);
    assert!(waiting.iter().all(|request| !request.is_finished()));
}
