//! Bodies pass in pieces, within limits and bounded memory, both ways.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use service::http::Limits;
use service::{Shutdown, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::{Served, config, serve, serve_relay, serve_within};

const MIB: usize = 1024 * 1024;

/// A gateway that answers piece by piece, as a test says; to `other` at once.
struct Told {
    served: Served,
    say: mpsc::UnboundedSender<&'static str>,
    /// The requests that have come, whole.
    requests: Arc<Mutex<Vec<Bytes>>>,
    /// Pieces that somebody has taken.
    taken: Arc<AtomicUsize>,
}

async fn told() -> Told {
    let (say, said) = mpsc::unbounded_channel();
    let said = Arc::new(tokio::sync::Mutex::new(said));
    let requests: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let seen = Arc::clone(&requests);
    let taken: Arc<AtomicUsize> = Arc::default();
    let counted = Arc::clone(&taken);
    let answer = move |request: Bytes| async move {
        let is_other = request == "other";
        seen.lock().unwrap().push(request);
        let pieces = stream::unfold((said, counted), |(said, counted)| async {
            let piece: &str = said.lock().await.recv().await?;
            counted.fetch_add(1, Ordering::SeqCst);
            Some((Ok::<_, Infallible>(piece), (said, counted)))
        });
        let headers = [("content-type", "message/ohttp-chunked-res")];
        if is_other {
            (headers, "nothing").into_response()
        } else {
            (headers, Body::from_stream(pieces)).into_response()
        }
    };
    Told {
        served: serve(Router::new().route("/", post(answer))).await,
        say,
        requests,
        taken,
    }
}

/// Says something all the time.
fn keep_saying(say: mpsc::UnboundedSender<&'static str>) {
    tokio::spawn(async move {
        while say.send("x").is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

/// A gateway that answers `pieces` pieces of a MiB, and how many were taken from it.
async fn flood(media_type: &'static str, pieces: usize) -> (Served, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let answer = move |_: Bytes| async move {
        let body = stream::iter(0..pieces).map(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>(Bytes::from(vec![0; MIB]))
        });
        ([("content-type", media_type)], Body::from_stream(body)).into_response()
    };
    (serve(Router::new().route("/", post(answer))).await, taken)
}

async fn relay(gateway: &Served, http: &str, settings: &str) -> Served {
    let settings = format!(
        "{settings}\n[[gateways]]\npath = '/g'\nurl = '{}'\nhttp = '{http}'",
        gateway.url("/")
    );
    let config = config("http://127.0.0.1:1/", &settings);
    serve_relay(&config, SystemClock::shared()).await
}

/// How much was taken when nothing more has been taken for a while.
async fn when_it_rests(taken: &AtomicUsize) -> usize {
    let (mut before, mut unchanged) = (0, 0);
    while unchanged < 20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = taken.load(Ordering::SeqCst);
        unchanged = if now > 0 && now == before {
            unchanged + 1
        } else {
            0
        };
        before = now;
    }
    before
}

struct Client(TcpStream);

impl Client {
    async fn begin(relay: &Served, media_type: &str) -> Self {
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        let head = format!(
            "POST /g HTTP/1.1\r\nhost: x\r\ncontent-type: {media_type}\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        Self(stream)
    }

    async fn send(&mut self, piece: &str) {
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        self.0.write_all(chunk.as_bytes()).await.unwrap();
    }

    /// A whole body.
    async fn ask(&mut self, request: &str) {
        self.send(request).await;
        self.0.write_all(b"0\r\n\r\n").await.unwrap();
    }

    async fn read_until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        let reading = async {
            while !read.ends_with(end.as_bytes()) {
                let mut some = [0; 4096];
                let len = self.0.read(&mut some).await.unwrap();
                assert_ne!(len, 0, "closed before {end}");
                read.extend_from_slice(&some[..len]);
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reading)
            .await
            .unwrap_or_else(|_| panic!("no {end}"));
        String::from_utf8(read).unwrap()
    }

    /// Everything up to the end of the connection.
    async fn read_to_end(&mut self) -> Vec<u8> {
        let mut read = Vec::new();
        let reading = self.0.read_to_end(&mut read);
        let _ = tokio::time::timeout(Duration::from_secs(20), reading)
            .await
            .expect("the relay closes");
        read
    }
}

#[tokio::test]
async fn a_request_goes_on_whole_and_pieces_of_its_answer_pass_at_once_over_either_version() {
    for http in ["1.1", "2"] {
        let gateway = told().await;
        let relay = relay(&gateway.served, http, "").await;
        let mut client = Client::begin(&relay, "message/ohttp-chunked-req").await;
        for piece in ["one ", "two ", "three"] {
            client.send(piece).await;
        }
        // Somebody else's, begun later, is there before.
        let mut other = Client::begin(&relay, "message/ohttp-chunked-req").await;
        other.ask("other").await;
        other.read_until("nothing").await;
        assert_eq!(*gateway.requests.lock().unwrap(), ["other"]);
        drop(other);
        client.0.write_all(b"0\r\n\r\n").await.unwrap();
        gateway.say.send("four").unwrap();
        let first = client.read_until("four\r\n").await;
        assert!(first.starts_with("HTTP/1.1 200"), "{first}");
        assert!(first.contains("content-type: message/ohttp-chunked-res"));
        assert!(first.contains("incremental: ?1"));
        assert_eq!(gateway.requests.lock().unwrap()[1], "one two three");
        for piece in ["five", "six"] {
            gateway.say.send(piece).unwrap();
            client.read_until(&format!("{piece}\r\n")).await;
        }
        drop(gateway.say);
        assert_eq!(client.read_until("0\r\n\r\n").await, "0\r\n\r\n");
    }
}

#[tokio::test]
async fn a_stream_in_which_nothing_happens_ends() {
    for http in ["1.1", "2"] {
        let gateway = told().await;
        let relay = relay(&gateway.served, http, "stream_idle_seconds = 3").await;
        let mut client = Client::begin(&relay, "message/ohttp-chunked-req").await;
        client.ask("request").await;
        gateway.say.send("one").unwrap();
        let read = client.read_to_end().await;
        let read = String::from_utf8(read).unwrap();
        assert!(read.ends_with("one\r\n"), "no end of the body: {read}");
    }
}

#[tokio::test]
async fn a_stream_ends_after_its_whole_time_however_busy() {
    let gateway = told().await;
    let relay = relay(&gateway.served, "2", "stream_seconds = 4").await;
    let mut client = Client::begin(&relay, "message/ohttp-chunked-req").await;
    client.ask("request").await;
    keep_saying(gateway.say);
    let read = String::from_utf8(client.read_to_end().await).unwrap();
    assert!(read.matches("1\r\nx\r\n").count() > 3, "{read}");
    assert!(read.ends_with("x\r\n"), "no end of the body: {read}");
}

/// How a client takes an answer that has no end.
#[derive(Clone, Copy, Debug)]
enum Takes {
    All,
    Slowly,
    Nothing,
}

#[allow(clippy::disallowed_methods, reason = "how long it really takes")]
#[tokio::test]
async fn an_endless_stream_ends_after_its_whole_time_however_much_its_client_takes() {
    for by_http2 in [false, true] {
        for takes in [Takes::All, Takes::Slowly, Takes::Nothing] {
            let (gateway, open) = flood_or_tick(30).await;
            let relay = relay(&gateway, "2", "stream_seconds = 3").await;
            let began = std::time::Instant::now();
            let client = tokio::spawn(take_much(relay.address, by_http2, takes));
            let mut most = 0;
            while most == 0 || open.load(Ordering::SeqCst) > 0 {
                most = most.max(open.load(Ordering::SeqCst));
                tokio::time::sleep(Duration::from_millis(10)).await;
                let elapsed = began.elapsed();
                assert!(
                    elapsed < Duration::from_secs(10),
                    "{takes:?} {by_http2} goes on"
                );
            }
            assert!(began.elapsed() > Duration::from_millis(2_500));
            client.abort();
        }
    }
}

async fn take_much(relay: std::net::SocketAddr, by_http2: bool, takes: Takes) {
    let stream = TcpStream::connect(relay).await.unwrap();
    let request = http::Request::post(format!("http://{relay}/g"))
        .header("content-type", "message/ohttp-chunked-req")
        .header("host", "x")
        .body(http_body_util::Full::<Bytes>::from("much"))
        .unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let mut body = if by_http2 {
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
            .await
            .unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap().into_body()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap().into_body()
    };
    loop {
        match takes {
            Takes::All => {}
            // More than is asked of whoever takes anything.
            Takes::Slowly => tokio::time::sleep(Duration::from_millis(20)).await,
            Takes::Nothing => std::future::pending().await,
        }
        if !matches!(body.frame().await, Some(Ok(_))) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_strangers_give_up_while_much_of_them_comes_cut_nobody_elses() {
    let (gateway, _open) = flood_or_tick(30).await;
    let relay = relay(
        &gateway,
        "2",
        "http2_connections = 1\nstream_drain_seconds = 0",
    )
    .await;
    let mut reading = Client::begin(&relay, "message/ohttp-chunked-req").await;
    reading.ask("tick").await;
    reading.read_until("tick\r\n").await;
    for _ in 0..16 {
        let stream = TcpStream::connect(relay.address).await.unwrap();
        let executor = hyper_util::rt::TokioExecutor::new();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut begun = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let request = http::Request::post(format!("http://{}/g", relay.address))
                .header("content-type", "message/ohttp-chunked-req")
                .body(http_body_util::Full::<Bytes>::from("much"))
                .unwrap();
            sender.ready().await.unwrap();
            begun.spawn(sender.send_request(request));
        }
        // All at once, each with a window of it on the way.
        let answers = begun.join_all().await;
        assert!(answers.iter().all(Result::is_ok));
        drop(answers);
        reading.read_until("tick\r\n").await;
    }
    reading.read_until("tick\r\n").await;
}

#[tokio::test]
async fn a_shutdown_ends_streams_within_the_drain_time() {
    let gateway = told().await;
    let settings = format!(
        "[[gateways]]\npath = '/g'\nurl = '{}'\nhttp = '2'",
        gateway.served.url("/")
    );
    let mut config = config("http://127.0.0.1:1/", &settings);
    config.service.drain_seconds = 8;
    let (trigger, shutdown) = Shutdown::channel();
    let router = ohttp_relay::router(&config, SystemClock::shared(), shutdown).unwrap();
    let relay = serve(router).await;
    let mut client = Client::begin(&relay, "message/ohttp-chunked-req").await;
    client.ask("request").await;
    gateway.say.send("one").unwrap();
    client.read_until("one\r\n").await;
    trigger.request();
    gateway.say.send("two").unwrap();
    client.read_until("two\r\n").await;
    assert!(client.read_to_end().await.is_empty());
}

#[tokio::test]
async fn a_client_that_reads_slowly_makes_the_gateway_wait_and_the_relay_hold_little() {
    for (http, media_type, answered) in [
        ("1.1", "message/ohttp-req", "message/ohttp-res"),
        ("2", "message/ohttp-req", "message/ohttp-res"),
        (
            "2",
            "message/ohttp-chunked-req",
            "message/ohttp-chunked-res",
        ),
    ] {
        let (gateway, taken) = flood(answered, 256).await;
        let relay = relay(&gateway, http, "max_response_bytes = 1000000000").await;
        let mut client = Client::begin(&relay, media_type).await;
        client.0.write_all(b"0\r\n\r\n").await.unwrap();
        let held = when_it_rests(&taken).await;
        // The buffers of two pairs of sockets, a window and a few pieces.
        assert!(
            (1..40).contains(&held),
            "{held} MiB are on their way by {http}"
        );
        let mut read = 0;
        let mut some = vec![0; MIB];
        while read < 256 * MIB {
            let len = client.0.read(&mut some).await.unwrap();
            assert_ne!(len, 0, "broken off after {read}");
            read += len;
        }
    }
}

/// Counts down when the answer that has it is let go.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A gateway that gives up on who takes nothing for `patience_s`. Its answer to `much` has no end,
/// as fast as it is taken; to anything else it is `tick`, again and again. And how many of the
/// former are open.
async fn flood_or_tick(patience_s: u64) -> (Served, Arc<AtomicUsize>) {
    let open = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&open);
    let answer = move |request: Bytes| async move {
        let body = if request == "much" {
            count.fetch_add(1, Ordering::SeqCst);
            let open = Open(count);
            Body::from_stream(stream::repeat_with(move || {
                let _ = &open;
                Ok::<_, Infallible>(Bytes::from(vec![0; 64 * 1024]))
            }))
        } else {
            Body::from_stream(stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Some((Ok::<_, Infallible>("tick"), ()))
            }))
        };
        ([("content-type", "message/ohttp-chunked-res")], body).into_response()
    };
    let limits = Limits {
        header_read_seconds: patience_s,
        ..Limits::default()
    };
    let router = Router::new().route("/", post(answer));
    (serve_within(limits, router).await, open)
}

#[tokio::test]
async fn clients_that_stop_reading_lose_their_own_streams_and_nobody_elses() {
    /// What the windows of so many hold is more than a connection of its own would let through.
    const STALLED: usize = 24;
    // Whoever gives up first, the gateway or the relay.
    for (gateway_s, relay_s) in [(3, 30), (30, 3)] {
        let (gateway, open) = flood_or_tick(gateway_s).await;
        let settings = format!(
            "http2_connections = 1\n\
             [[gateways]]\npath = '/g'\nurl = '{}'\nhttp = '2'\n\
             [limits]\nheader_read_seconds = {relay_s}",
            gateway.url("/")
        );
        let config = config("http://127.0.0.1:1/", &settings);
        let (_trigger, shutdown) = Shutdown::channel();
        let router = ohttp_relay::router(&config, SystemClock::shared(), shutdown).unwrap();
        let relay = serve_within(config.limits, router).await;

        let mut stalled = Vec::new();
        for _ in 0..STALLED {
            let mut client = Client::begin(&relay, "message/ohttp-chunked-req").await;
            client.send("much").await;
            client.0.write_all(b"0\r\n\r\n").await.unwrap();
            stalled.push(client);
        }
        while open.load(Ordering::SeqCst) < STALLED {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut reading = Client::begin(&relay, "message/ohttp-chunked-req").await;
        reading.send("tick").await;
        reading.0.write_all(b"0\r\n\r\n").await.unwrap();
        // Ten times what the first of them waits for, at most.
        for _ in 0..300 {
            reading.read_until("tick\r\n").await;
            if open.load(Ordering::SeqCst) == 0 {
                break;
            }
        }
        let left = open.load(Ordering::SeqCst);
        assert_eq!(left, 0, "streams are open at the gateway");
        reading.read_until("tick\r\n").await;
    }
}

#[tokio::test]
async fn the_gateway_does_not_see_when_a_client_goes_whose_stream_goes_on() {
    for (settings, is_drained) in [("", true), ("stream_drain_seconds = 0\n", false)] {
        let gateway = told().await;
        let relay = relay(&gateway.served, "1.1", settings).await;
        let mut client = Client::begin(&relay, "message/ohttp-chunked-req").await;
        client.ask("x").await;
        gateway.say.send("first").unwrap();
        client.read_until("first\r\n").await;
        drop(client);
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Its answer has ended for the gateway once it takes nothing more.
        for _ in 0..5 {
            let _ = gateway.say.send("later");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(gateway.taken.load(Ordering::SeqCst) == 6, is_drained);
    }
}

#[tokio::test]
async fn an_answer_without_a_length_is_cut_at_the_limit() {
    let (gateway, taken) = flood("message/ohttp-res", 64).await;
    for http in ["1.1", "2"] {
        let relay = relay(&gateway, http, "max_response_bytes = 3000000").await;
        let mut client = Client::begin(&relay, "message/ohttp-req").await;
        client.0.write_all(b"0\r\n\r\n").await.unwrap();
        let read = client.read_to_end().await;
        assert!(read.starts_with(b"HTTP/1.1 200"));
        assert!(read.len() < 3_100_000);
        assert!(
            !read.ends_with(b"\r\n0\r\n\r\n"),
            "the client sees that it is torn"
        );
    }
    assert!(taken.load(Ordering::SeqCst) < 64);
}

#[tokio::test]
async fn a_request_that_breaks_off_never_reaches_the_gateway_as_a_whole_one() {
    let whole = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&whole);
    let gateway = serve(Router::new().route(
        "/",
        post(move |_: Bytes| async move {
            count.fetch_add(1, Ordering::SeqCst);
            StatusOnly.into_response()
        }),
    ))
    .await;
    for http in ["1.1", "2"] {
        for media_type in ["message/ohttp-req", "message/ohttp-chunked-req"] {
            let relay = relay(&gateway, http, "stream_idle_seconds = 2").await;
            let mut client = Client::begin(&relay, media_type).await;
            client.send(&"x".repeat(50_000)).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            drop(client);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    assert_eq!(whole.load(Ordering::SeqCst), 0);
}

struct StatusOnly;

impl IntoResponse for StatusOnly {
    fn into_response(self) -> Response {
        ([("content-type", "message/ohttp-res")], "done").into_response()
    }
}
