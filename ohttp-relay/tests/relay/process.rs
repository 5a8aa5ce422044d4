//! The real binary: start, readiness, metrics, graceful end, and what it logs.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::support::process::{start, start_with};
use crate::support::{Served, encapsulated, serve, stub_gateway};

/// A gateway whose answers wait until a test lets them go.
struct HeldGateway {
    served: Served,
    asked: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

impl HeldGateway {
    async fn start() -> Self {
        let [asked, answers] = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
        let (asking, answering) = (Arc::clone(&asked), Arc::clone(&answers));
        let answer = async move || {
            asking.add_permits(1);
            answering.acquire().await.unwrap().forget();
            encapsulated("late answer")
        };
        Self {
            served: serve(Router::new().fallback(answer)).await,
            asked,
            answers,
        }
    }

    /// Returns when one more request has come.
    async fn is_asked(&self) {
        self.asked.acquire().await.unwrap().forget();
    }

    fn answer(&self) {
        self.answers.add_permits(1);
    }
}

#[tokio::test]
async fn a_running_request_is_answered_after_sigterm_and_the_process_ends_cleanly() {
    let gateway = HeldGateway::start().await;
    for signal in ["TERM", "INT"] {
        let process = start(&gateway.served.url("/"), 30).await;
        let running = tokio::spawn(process.post().send());
        gateway.is_asked().await;
        process.signal(signal).await;
        // No new connection is taken, which is so at the latest when the process has ended.
        while TcpStream::connect(("127.0.0.1", process.port))
            .await
            .is_ok()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ready = process.http.get(format!("{}/readyz", process.admin));
        assert_eq!(ready.send().await.unwrap().status(), 503);
        gateway.answer();
        let answer = running.await.unwrap().unwrap();
        assert_eq!(answer.bytes().await.unwrap(), "late answer");
        assert_eq!(process.ended().await.0, Some(0));
    }
}

#[tokio::test]
async fn a_request_that_waits_too_long_is_told_to_retry_within_the_drain_time() {
    let gateway = HeldGateway::start().await;
    let process = start(&gateway.served.url("/"), 8).await;
    let running = tokio::spawn(process.post().send());
    gateway.is_asked().await;
    process.signal("TERM").await;
    assert_eq!(running.await.unwrap().unwrap().status(), 502);
    assert_eq!(process.ended().await.0, Some(0));
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_is_let_go_within_the_drain_time() {
    let stub = stub_gateway(Duration::ZERO, || encapsulated("never")).await;
    let process = start(&stub.served.url("/"), 8).await;
    let mut stream = TcpStream::connect(("127.0.0.1", process.port))
        .await
        .unwrap();
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: message/ohttp-req\r\n\
                content-length: 10\r\nexpect: 100-continue\r\n\r\nhalf";
    stream.write_all(head.as_bytes()).await.unwrap();
    // Its body is being read.
    let mut interim = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut interim).await.unwrap();
    process.signal("TERM").await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(process.ended().await.0, Some(0));
    assert!(stub.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_cut_at_the_drain_deadline() {
    let stub = stub_gateway(Duration::ZERO, || encapsulated(vec![0; 64 << 20])).await;
    let settings = format!(
        "gateway = '{}'\nmax_response_bytes = 100000000",
        stub.served.url("/")
    );
    let directory = tempfile::tempdir().unwrap();
    let process = start_with(directory, &settings, "drain_seconds = 1", "").await;
    let mut stream = TcpStream::connect(("127.0.0.1", process.port))
        .await
        .unwrap();
    let request = "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: message/ohttp-req\r\n\
                   content-length: 4\r\n\r\nbody";
    stream.write_all(request.as_bytes()).await.unwrap();
    // The answer has begun.
    stream.peek(&mut [0]).await.unwrap();
    process.signal("TERM").await;
    assert_eq!(process.ended().await.0, Some(1));
}

#[tokio::test]
async fn the_log_at_its_most_verbose_and_the_metrics_identify_nothing() {
    let stub = stub_gateway(Duration::ZERO, || encapsulated("SECRETANSWER")).await;
    let process = start(&stub.served.url("/"), 5).await;
    assert_eq!(process.post().send().await.unwrap().status(), 200);
    let unknown = format!("{}SECRETPATH?SECRETQUERY", process.url);
    assert_eq!(
        process.http.get(unknown).send().await.unwrap().status(),
        404
    );
    let metrics = process.metrics().await;
    assert!(
        metrics.contains("ohttp_relay_requests_total{outcome=\"encapsulated\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("ohttp_relay_request_bytes_bucket"));
    assert!(
        metrics
            .contains("http_requests_total{route=\"unmatched\",method=\"GET\",status=\"4xx\"} 1")
    );
    process.signal("TERM").await;
    let (code, log) = process.ended().await;
    assert_eq!(code, Some(0));
    assert!(log.contains("request"), "requests are logged at all: {log}");
    // Where it listens itself it says, once.
    let (own, log): (Vec<&str>, Vec<&str>) =
        log.lines().partition(|line| line.contains(" listening "));
    assert_eq!(own.len(), 2, "{own:?}");
    let log = log.join("\n");
    for text in [&log, &metrics] {
        for secret in ["SECRET", "127.0.0.1", "[::1]", "localhost"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[tokio::test]
async fn a_configuration_with_an_unknown_field_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("relay.toml");
    std::fs::write(&path, "gatewey = 'http://127.0.0.1:1/'").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ohttp-relay"))
        .arg("--config")
        .arg(&path)
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("gatewey"));
}

/// Everything up to the end of the connection, which must come soon, however it does.
async fn soon(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("an answer or an end, soon");
    String::from_utf8_lossy(&answer).into_owned()
}

const GET: &[u8] = b"GET /unknown HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_client_for_whom_there_is_no_place_is_told_so_counted_and_logged_once() {
    let gateway = HeldGateway::start().await;
    let settings = format!("gateway = '{}'", gateway.served.url("/"));
    let tables = "[limits]\nmax_connections = 2";
    let directory = tempfile::tempdir().unwrap();
    let process = start_with(directory, &settings, "drain_seconds = 20", tables).await;
    let mut running = Vec::new();
    for _ in 0..2 {
        running.push(tokio::spawn(process.post().send()));
        gateway.is_asked().await;
    }
    for _ in 0..5 {
        let mut stream = TcpStream::connect(("127.0.0.1", process.port))
            .await
            .unwrap();
        stream.write_all(GET).await.unwrap();
        let answer = soon(stream).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    }
    let metrics = process.metrics().await;
    let counted = "http_connections_refused_total{outcome=\"told\"} 5";
    assert!(metrics.contains(counted), "{metrics}");
    for running in running {
        gateway.answer();
        assert_eq!(running.await.unwrap().unwrap().status(), 200);
    }
    process.signal("TERM").await;
    let (code, log) = process.ended().await;
    assert_eq!(code, Some(0));
    assert_eq!(log.matches("connections are refused").count(), 1, "{log}");
}

#[tokio::test]
async fn a_process_without_file_descriptors_closes_connections_and_goes_on() {
    let stub = stub_gateway(Duration::ZERO, || encapsulated("answer")).await;
    let settings = format!("gateway = '{}'", stub.served.url("/"));
    let process = start_with(
        tempfile::tempdir().unwrap(),
        &settings,
        "drain_seconds = 5",
        "[address_limits]\nmax_connections = 0",
    )
    .await;
    let pid = process.child.id().unwrap();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), "--nofile=64"])
        .status()
        .await
        .unwrap();
    assert!(limited.success());
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let address = ("127.0.0.1", process.port);
        crowd.push(TcpStream::connect(address).await.unwrap());
    }
    // Those that came last have an end and do not wait.
    let last = crowd.pop().unwrap();
    assert_eq!(soon(last).await, "");
    drop(crowd);
    while process.post().send().await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let metrics = process.metrics().await;
    let counted = "http_connections_refused_total{outcome=\"failed\"}";
    assert!(metrics.contains(counted), "{metrics}");
}
