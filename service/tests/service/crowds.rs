//! More connections and bodies than a listener takes: nobody waits without a word, and whoever
//! sends nothing makes room.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use service::addresses::{AddressLimitSettings, AddressLimits};
use service::http::{Limits, RequestBody, Server};
use service::{MovedClock, Shutdown, ShutdownTrigger};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::support::{SOON, echo};

struct Listener {
    address: SocketAddr,
    /// Requests for `/wait` that are running, and how many may end.
    begun: Arc<Semaphore>,
    ends: Arc<Semaphore>,
    _trigger: ShutdownTrigger,
}

async fn listen(limits: Limits) -> Listener {
    listen_with(limits, |server| server).await
}

async fn listen_with(limits: Limits, with: impl FnOnce(Server) -> Server) -> Listener {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let [begun, ends] = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
    let wait = {
        let (begun, ends) = (Arc::clone(&begun), Arc::clone(&ends));
        move || async move {
            begun.add_permits(1);
            ends.acquire().await.unwrap().forget();
            "waited"
        }
    };
    let router = service::http::router()
        .route("/", post(|RequestBody(body): RequestBody| async { body }))
        .route("/long", get(|| async { vec![0u8; LONG] }))
        .route("/wait", get(wait));
    let (trigger, shutdown) = Shutdown::channel();
    let server = with(Server::new(listener, limits));
    tokio::spawn(server.serve(router, shutdown));
    Listener {
        address,
        begun,
        ends,
        _trigger: trigger,
    }
}

impl Listener {
    async fn send(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// A connection whose request is running.
    async fn busy(&self) -> TcpStream {
        let stream = self.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
        self.begun.acquire().await.unwrap().forget();
        stream
    }

    async fn answer(&self, text: &str) -> String {
        rest(self.send(text).await).await
    }
}

/// Until the listener closes, however it does.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(SOON, read)
        .await
        .expect("an answer and an end, soon");
    String::from_utf8(answer).unwrap()
}

fn is_told(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
}

fn with_connections(max_connections: usize) -> Limits {
    Limits {
        max_connections,
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_connection_for_which_there_is_no_place_is_told_so() {
    let listener = listen(with_connections(2)).await;
    let busy = [listener.busy().await, listener.busy().await];
    is_told(&listener.answer(&echo("x")).await);
    let stream = TcpStream::connect(listener.address).await.unwrap();
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get("http://x/").body(Full::<Bytes>::default());
    let answer = sender.send_request(request.unwrap());
    let answer = tokio::time::timeout(SOON, answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    answer.into_body().collect().await.unwrap();
    let _ = tokio::time::timeout(SOON, connection)
        .await
        .expect("an end");
    // Its requests are answered all the same, and then there is a place.
    listener.ends.add_permits(2);
    for mut stream in busy {
        stream.read_exact(&mut [0; 12]).await.unwrap();
    }
    assert!(listener.answer(&echo("x")).await.ends_with('x'));
}

#[tokio::test]
async fn of_a_crowd_nobody_waits_without_a_word() {
    let listener = listen(with_connections(1)).await;
    let _busy = listener.busy().await;
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let stream = listener.send(&echo("x")).await;
        crowd.spawn(rest(stream));
    }
    let mut told = 0;
    while let Some(answer) = crowd.join_next().await {
        let answer = answer.unwrap();
        if !answer.is_empty() {
            is_told(&answer);
            told += 1;
        }
    }
    assert!(told > 0);
}

#[tokio::test]
async fn connections_that_do_nothing_make_room_for_others() {
    let listener = listen(with_connections(4)).await;
    // One is busy, one has said nothing, one half a request, one had its answer.
    let mut busy = listener.busy().await;
    let silent = listener.send("").await;
    let half = listener.send("POST / HTTP/1.1\r\nho").await;
    let kept = echo("x").replace("connection: close\r\n", "");
    let mut idle = listener.send(&kept).await;
    idle.read_exact(&mut [0; 12]).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(listener.busy().await);
    }
    for stream in [silent, half, idle] {
        rest(stream).await;
    }
    is_told(&listener.answer(&echo("x")).await);
    listener.ends.add_permits(4);
    others.push(TcpStream::connect(listener.address).await.unwrap());
    busy.read_exact(&mut [0; 12]).await.unwrap();
}

#[tokio::test]
async fn bodies_that_never_end_make_room_for_others() {
    let listener = listen(Limits {
        max_uploads: 4,
        body_read_seconds: 600,
        ..Limits::default()
    })
    .await;
    let slow = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nslow";
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(listener.send(slow).await);
    }
    // At first they may be as good as any.
    let mut answer = listener.answer(&echo("x")).await;
    while !answer.starts_with("HTTP/1.1 200") {
        is_told(&answer);
        tokio::time::sleep(Duration::from_millis(50)).await;
        answer = listener.answer(&echo("x")).await;
    }
    is_told(&rest(held.remove(0)).await);
    // The others have their room for as long as nobody needs it.
    let mut last = held.pop().unwrap();
    last.write_all(b"enough").await.unwrap();
    last.read_exact(&mut [0; 12]).await.unwrap();
}

#[tokio::test]
async fn bytes_of_bodies_that_never_end_make_room_for_others() {
    let listener = listen(Limits {
        max_collected_bytes: 64 * 1024,
        body_read_seconds: 600,
        ..Limits::default()
    })
    .await;
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 60001\r\n\r\n";
    let slow = listener
        .send(&format!("{head}{}", "x".repeat(60_000)))
        .await;
    let many = "y".repeat(20_000);
    let mut answer = listener.answer(&echo(&many)).await;
    let mut refused = 0;
    while !answer.starts_with("HTTP/1.1 200") || refused == 0 {
        // It is as young as any, or has not come yet.
        if !answer.starts_with("HTTP/1.1 200") {
            is_told(&answer);
            refused += 1;
            // A small one still has a place.
            assert!(listener.answer(&echo("small")).await.ends_with("small"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        answer = listener.answer(&echo(&many)).await;
    }
    is_told(&rest(slow).await);
}

async fn behind_a_proxy(proxy: IpAddr) -> Listener {
    let settings = AddressLimitSettings {
        requests_per_second: 1,
        connections_per_second: 1,
        burst: 3,
        ..AddressLimitSettings::NONE
    };
    let addresses = AddressLimits::new(settings, MovedClock::at(1_700_000_000_000));
    listen_with(Limits::default(), |server| {
        server
            .with_address_limits(addresses)
            .behind_proxies(vec![proxy])
    })
    .await
}

#[tokio::test]
async fn behind_a_proxy_each_client_has_the_limits_of_its_own_address() {
    let listener = behind_a_proxy(Ipv4Addr::LOCALHOST.into()).await;
    let from = |client: &str| {
        let header = format!("PROXY TCP4 {client} 198.51.100.1 40000 443\r\n");
        format!("{header}{}", echo("x"))
    };
    for client in ["192.0.2.1", "192.0.2.2"] {
        for _ in 0..3 {
            let answer = listener.answer(&from(client)).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        let refused = listener.answer(&from(client)).await;
        assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    }
    // Version 2, and HTTP/2 behind it.
    let mut stream = TcpStream::connect(listener.address).await.unwrap();
    let header =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x03\xc6\x33\x64\x01\x9c\x40\x01\xbb";
    stream.write_all(header).await.unwrap();
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    for status in [200, 200, 200, 429] {
        let request = http::Request::post("http://x/").body(Full::<Bytes>::default());
        let answer = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), status);
    }
}

#[tokio::test]
async fn whoever_comes_past_the_proxy_or_says_nothing_of_its_client_is_not_served() {
    let listener = behind_a_proxy(Ipv4Addr::LOCALHOST.into()).await;
    assert_eq!(listener.answer(&echo("x")).await, "");
    let elsewhere = behind_a_proxy(Ipv4Addr::new(192, 0, 2, 7).into()).await;
    let forged = format!("PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n{}", echo("x"));
    assert_eq!(elsewhere.answer(&forged).await, "");
}

#[tokio::test]
async fn an_address_that_has_its_share_takes_nobodys_place() {
    let settings = AddressLimitSettings {
        max_connections: 1,
        ..AddressLimitSettings::NONE
    };
    let addresses = AddressLimits::new(settings, MovedClock::at(1_700_000_000_000));
    let proxy = Ipv4Addr::LOCALHOST.into();
    let listener = listen_with(with_connections(2), |server| {
        server
            .with_address_limits(addresses)
            .behind_proxies(vec![proxy])
    })
    .await;
    let from =
        |client: &str, text: &str| format!("PROXY TCP4 {client} 198.51.100.1 40000 443\r\n{text}");
    let kept = echo("x").replace("connection: close\r\n", "");
    let mut idle = listener.send(&from("192.0.2.1", &kept)).await;
    idle.read_exact(&mut [0; 12]).await.unwrap();
    let wait = "GET /wait HTTP/1.1\r\nhost: x\r\n\r\n";
    let _greedy = listener.send(&from("192.0.2.2", wait)).await;
    listener.begun.acquire().await.unwrap().forget();
    // The places are taken, and one of them is idle.
    for _ in 0..8 {
        let refused = listener.answer(&from("192.0.2.2", &echo("x"))).await;
        assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    }
    idle.write_all(echo("still here").as_bytes()).await.unwrap();
    assert!(rest(idle).await.ends_with("still here"));
    // What a proxy does not say whose it is holds no place either.
    let _silent = [listener.send("").await, listener.send("PROXY").await];
    let answer = listener.answer(&from("192.0.2.3", &echo("x"))).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// None of them costs whoever sends it more than a few bytes in half a minute.
#[tokio::test]
async fn requests_that_wait_for_their_peer_take_no_place_from_others_where_one_network_has_many() {
    let upload = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n";
    let untaken = "GET /long HTTP/1.1\r\nhost: x\r\n\r\n";
    for stalled in [upload, untaken] {
        let settings = AddressLimitSettings {
            max_connections: 100,
            ..AddressLimitSettings::NONE
        };
        let addresses = AddressLimits::new(settings, MovedClock::at(1_700_000_000_000));
        let proxy = Ipv4Addr::LOCALHOST.into();
        let listener = listen_with(with_connections(6), |server| {
            server
                .with_address_limits(addresses)
                .behind_proxies(vec![proxy])
        })
        .await;
        let from = |client: &str, text: &str| {
            format!("PROXY TCP4 {client} 198.51.100.1 40000 443\r\n{text}")
        };
        let kept = echo("x").replace("connection: close\r\n", "");
        let mut idle = listener.send(&from("192.0.2.1", &kept)).await;
        idle.read_exact(&mut [0; 12]).await.unwrap();
        let wait = "GET /wait HTTP/1.1\r\nhost: x\r\n\r\n";
        let mut busy = listener.send(&from("192.0.2.1", wait)).await;
        listener.begun.acquire().await.unwrap().forget();
        let mut greedy = Vec::new();
        for _ in 0..8 {
            greedy.push(listener.send(&from("192.0.2.2", stalled)).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for _ in 0..3 {
            let answer = listener.answer(&from("192.0.2.3", &echo("x"))).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{stalled}: {answer}");
            greedy.push(listener.send(&from("192.0.2.2", stalled)).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Whoever has few has kept both.
        idle.write_all(echo("still here").as_bytes()).await.unwrap();
        assert!(rest(idle).await.ends_with("still here"), "{stalled}");
        listener.ends.add_permits(1);
        busy.read_exact(&mut [0; 12]).await.unwrap();
    }
}

#[tokio::test]
async fn a_body_that_drips_is_given_up_after_a_few_seconds_and_one_that_comes_slowly_is_not() {
    let listener = listen(Limits {
        body_read_seconds: 600,
        least_body_bytes_per_second: 100,
        ..Limits::default()
    })
    .await;
    let begin = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1200\r\n\r\n";
    let (mut drips, mut flows) = (listener.send(begin).await, listener.send(begin).await);
    for _ in 0..10 {
        // Every second something: no pause is long.
        let _ = drips.write_all(b"drip").await;
        flows.write_all(&[b'x'; 120]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    flows.write_all(&[]).await.unwrap();
    let given_up = rest(drips).await;
    assert!(given_up.starts_with("HTTP/1.1 408"), "{given_up}");
    assert!(rest(flows).await.starts_with("HTTP/1.1 200"));
}

/// Of an answer that is taken in parts.
const PART: usize = 16 * 1024;
const LONG: usize = 16 * PART;

/// Takes a part of a long answer, pauses, takes the next one: whether it gets to the end.
async fn gets_all(listener: SocketAddr, pause: Duration) -> bool {
    let stream = TcpStream::connect(listener).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let handshake = builder
        .initial_stream_window_size(u32::try_from(PART).unwrap())
        .handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get(format!("http://{listener}/long"));
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let mut taken = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        taken += frame.data_ref().map_or(0, Bytes::len);
        tokio::time::sleep(pause).await;
    }
    taken == LONG
}

#[tokio::test]
async fn who_takes_a_little_of_an_answer_whenever_patience_ends_does_not_hold_it_for_long() {
    let listener = listen(Limits {
        header_read_seconds: 8,
        ..Limits::default()
    })
    .await;
    let (holds, takes_its_time) = tokio::join!(
        tokio::time::timeout(
            Duration::from_secs(45),
            gets_all(listener.address, Duration::from_millis(7500))
        ),
        gets_all(listener.address, Duration::from_secs(1))
    );
    assert_eq!(holds, Ok(false));
    assert!(takes_its_time);
}
