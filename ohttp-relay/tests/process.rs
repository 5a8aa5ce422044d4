//! The real binary: start, readiness, metrics, graceful end, and what it logs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;
#[path = "support/process.rs"]
mod support_process;

use std::time::Duration;

use support::{encapsulated, stub_gateway};
use support_process::{start, start_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

#[tokio::test]
async fn a_running_request_is_answered_after_sigterm_and_the_process_ends_cleanly() {
    let stub = stub_gateway(Duration::from_millis(700), || encapsulated("late answer")).await;
    for signal in ["TERM", "INT"] {
        let process = start(&stub.served.url("/"), 10).await;
        let running = tokio::spawn(process.post().send());
        tokio::time::sleep(Duration::from_millis(300)).await;
        process.signal(signal).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let refused = reqwest::Client::builder().no_proxy().build().unwrap();
        assert!(
            refused.get(&process.url).send().await.is_err(),
            "no new connection is taken"
        );
        let ready = refused
            .get(format!("{}/readyz", process.admin))
            .send()
            .await
            .unwrap();
        assert_eq!(ready.status(), 503);
        let answer = running.await.unwrap().unwrap();
        assert_eq!(answer.bytes().await.unwrap(), "late answer");
        assert_eq!(process.ended().await.0, Some(0));
    }
}

#[tokio::test]
async fn a_request_that_waits_too_long_is_told_to_retry_within_the_drain_time() {
    let stub = stub_gateway(Duration::from_secs(60), || encapsulated("never")).await;
    let process = start(&stub.served.url("/"), 2).await;
    let running = tokio::spawn(process.post().send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    process.signal("TERM").await;
    assert_eq!(running.await.unwrap().unwrap().status(), 502);
    assert_eq!(process.ended().await.0, Some(0));
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_is_let_go_within_the_drain_time() {
    let stub = stub_gateway(Duration::ZERO, || encapsulated("never")).await;
    let process = start(&stub.served.url("/"), 2).await;
    let mut stream = TcpStream::connect(("127.0.0.1", process.port))
        .await
        .unwrap();
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: message/ohttp-req\r\n\
                content-length: 10\r\n\r\nhalf";
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
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
    tokio::time::sleep(Duration::from_millis(500)).await;
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
