//! The real binary, with its wiping allocator: start, requests, what it logs, graceful end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::process::Stdio;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use ohttp::ClientRequest;
use service::{Clock, SystemClock};
use support::{free_port, gateway_config, http_client, http_date, inner, open, target};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

#[tokio::test]
async fn the_gateway_serves_logs_nothing_that_identifies_and_ends_cleanly() {
    let directory = tempfile::tempdir().unwrap();
    let target = target().await;
    let (port, admin_port) = (free_port(), free_port());
    let config = gateway_config(
        directory.path(),
        &format!("127.0.0.1:{port}"),
        &format!("127.0.0.1:{admin_port}"),
        &target.served.url(""),
        "",
    );
    let file = directory.path().join("gateway.toml");
    std::fs::write(&file, config).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ohttp-gateway"))
        .arg("--config")
        .arg(&file)
        .env("MIMIMI_LOG", "trace")
        .env("RUST_LOG", "trace")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let http = http_client();
    let admin = format!("http://127.0.0.1:{admin_port}");
    let mut ready = false;
    for _ in 0..200 {
        let answer = http.get(format!("{admin}/readyz")).send().await;
        ready = answer.is_ok_and(|answer| answer.status() == 200);
        if ready {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(ready, "the gateway did not become ready");

    let url = format!("http://127.0.0.1:{port}/");
    let keys = http
        .get(format!("{url}ohttp-keys"))
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    let date = http_date(SystemClock.now_unix_ms());
    let encapsulate = |path: &str, content: &[u8]| {
        let fields = [
            ("date", date.as_str()),
            ("authorization", "SECRETTOKEN"),
            ("cookie", "SECRETCOOKIE"),
        ];
        ClientRequest::from_encoded_config_list(&keys)
            .unwrap()
            .encapsulate(&inner(path, &fields, content))
            .unwrap()
    };
    let post = |body: Vec<u8>| {
        http.post(&url)
            .header(CONTENT_TYPE, "message/ohttp-req")
            .header("user-agent", "SECRETAGENT")
            .body(body)
            .send()
    };
    let (encapsulated, response) = encapsulate("/v1/echo", b"SECRETBODY");
    let answer = post(encapsulated.clone()).await.unwrap();
    assert_eq!(
        open(response, &answer.bytes().await.unwrap()).content,
        b"SECRETBODY"
    );
    assert_eq!(post(encapsulated).await.unwrap().status(), 409);
    for path in [
        "/v1/redirect",
        "/v1/not-the-gateway",
        "/SECRETPATH",
        "/v1/SECRETPATH",
        "bad SECRETPATH",
    ] {
        let (encapsulated, _) = encapsulate(path, b"SECRETBODY");
        assert_eq!(post(encapsulated).await.unwrap().status(), 200);
    }
    assert_eq!(post(b"SECRETGARBAGE".to_vec()).await.unwrap().status(), 400);
    assert_eq!(
        http.get(format!("{url}SECRETPATH"))
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
    let metrics = http
        .get(format!("{admin}/metrics"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        metrics.contains("ohttp_gateway_requests_total{outcome=\"replayed\"} 1"),
        "{metrics}"
    );

    // A long poll that is still waiting gets an answer before the process ends.
    let (encapsulated, response) = encapsulate("/v1/slow", b"");
    let waiting = tokio::spawn(post(encapsulated));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let kill = format!("kill -TERM {}", child.id().unwrap());
    assert!(
        Command::new("sh")
            .arg("-c")
            .arg(kill)
            .status()
            .await
            .unwrap()
            .success()
    );
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(open(response, &answer.bytes().await.unwrap()).status, 503);

    let mut log = String::new();
    let mut stderr = child.stderr.take().unwrap();
    let ended = async {
        stderr.read_to_string(&mut log).await.unwrap();
        child.wait().await.unwrap()
    };
    let status = tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(
        log.contains("DEBUG") && log.contains("request"),
        "requests are logged at all: {log}"
    );
    for text in [&log, &metrics] {
        for secret in [
            "SECRET",
            "127.0.0.1",
            "ds.example",
            "v1/",
            &port.to_string(),
        ] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}
