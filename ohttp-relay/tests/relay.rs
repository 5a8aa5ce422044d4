//! What the relay lets through, in both directions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use ohttp_relay::Config;
use service::{MovedClock, Shutdown};
use support::{Served, StubGateway, encapsulated, free_port, serve, stub_gateway};

const NO_DELAY: Duration = Duration::ZERO;

struct Relay {
    served: Served,
    clock: Arc<MovedClock>,
    http: reqwest::Client,
}

async fn relay_to(gateway: &str, settings: &str) -> Relay {
    let text = format!(
        "listen = '127.0.0.1:0'\ngateway = '{gateway}'\n{settings}\n\
         [service]\nadmin_listen = '127.0.0.1:0'"
    );
    let config: Config = service::config::parse(&text).unwrap();
    let clock = MovedClock::at(1_700_000_000_000);
    let (trigger, shutdown) = Shutdown::channel();
    std::mem::forget(trigger);
    let router = ohttp_relay::router(&config, clock.clone(), shutdown).unwrap();
    let http = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    Relay {
        served: serve(router).await,
        clock,
        http,
    }
}

async fn relay_before(stub: &StubGateway) -> Relay {
    relay_to(&stub.served.url("/"), "").await
}

impl Relay {
    fn post(&self, body: impl Into<Vec<u8>>) -> reqwest::RequestBuilder {
        self.http
            .post(self.served.url("/"))
            .header(CONTENT_TYPE, "message/ohttp-req")
            .body(body.into())
    }
}

/// What a client can see of an answer, but for the time.
async fn visible(response: reqwest::Response) -> (StatusCode, HeaderMap, Vec<u8>) {
    let status = response.status();
    let mut headers = response.headers().clone();
    headers.remove("date");
    (status, headers, response.bytes().await.unwrap().to_vec())
}

#[tokio::test]
async fn the_gateway_sees_the_body_and_the_same_headers_for_every_client() {
    let stub = stub_gateway(NO_DELAY, || encapsulated("answer")).await;
    let relay = relay_before(&stub).await;
    let plain = relay.post("body one").send().await.unwrap();
    assert_eq!(plain.status(), 200);
    let telling = relay
        .post("body two")
        .header("cookie", "who=alice")
        .header("user-agent", "alices-phone/1.0")
        .header("x-forwarded-for", "203.0.113.7")
        .header("forwarded", "for=203.0.113.7")
        .header("x-request-id", "4711")
        .header("authorization", "Bearer alice")
        .header("accept-language", "tlh")
        .header("traceparent", "00-1-2-3")
        .send()
        .await
        .unwrap();
    assert_eq!(telling.status(), 200);
    assert_eq!(telling.bytes().await.unwrap(), "answer");

    let seen = stub.seen.lock().unwrap();
    assert_eq!(seen[0].1, b"body one");
    assert_eq!(seen[1].1, b"body two");
    assert_eq!(
        seen[0].0, seen[1].0,
        "the headers of two clients are the same"
    );
    let mut names: Vec<_> = seen[0].0.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "content-length", "content-type", "host"]);
    assert_eq!(seen[0].0[CONTENT_TYPE], "message/ohttp-req");
}

#[tokio::test]
async fn no_header_of_the_gateway_reaches_the_client() {
    let stub = stub_gateway(NO_DELAY, || {
        let mut response = encapsulated("answer");
        for (name, value) in [
            ("set-cookie", "id=1"),
            ("server", "x"),
            ("x-trace", "9"),
            ("etag", "7"),
        ] {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    })
    .await;
    let relay = relay_before(&stub).await;
    let (status, headers, body) = visible(relay.post("x").send().await.unwrap()).await;
    assert_eq!((status, body.as_slice()), (StatusCode::OK, &b"answer"[..]));
    let mut names: Vec<_> = headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["cache-control", "content-length", "content-type"]);
}

#[tokio::test]
async fn every_failure_behind_the_relay_is_one_and_the_same_answer() {
    let down = format!("http://127.0.0.1:{}/", free_port());
    let reference = visible(relay_to(&down, "").await.post("x").send().await.unwrap()).await;
    assert_eq!(reference.0, StatusCode::BAD_GATEWAY);
    assert_eq!(reference.1[CONTENT_TYPE], "application/problem+json");

    let failures: [fn() -> Response; 7] = [
        || StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        || (StatusCode::FOUND, [("location", "http://127.0.0.1:1/")]).into_response(),
        || "not ohttp".into_response(),
        || (StatusCode::NOT_FOUND, encapsulated("x")).into_response(),
        || {
            service::Problem::new(
                StatusCode::CONFLICT,
                "urn:mimi-ds:problem:ohttp-replayed",
                "x",
            )
            .into_response()
        },
        || {
            let broken = [("content-type", "application/problem+json")];
            (StatusCode::BAD_REQUEST, broken, "{").into_response()
        },
        || encapsulated(vec![0; 200_000]),
    ];
    for failure in failures {
        let stub = stub_gateway(NO_DELAY, failure).await;
        let relay = relay_to(&stub.served.url("/"), "max_response_bytes = 100000").await;
        assert_eq!(
            visible(relay.post("x").send().await.unwrap()).await,
            reference
        );
    }
    let slow = stub_gateway(Duration::from_secs(60), || encapsulated("x")).await;
    let relay = relay_to(&slow.served.url("/"), "forward_seconds = 1").await;
    assert_eq!(
        visible(relay.post("x").send().await.unwrap()).await,
        reference
    );
}

#[tokio::test]
async fn a_key_or_date_problem_is_told_in_the_words_of_the_relay() {
    for kind in ["ohttp-key", "date"] {
        let uri = format!("https://iana.org/assignments/http-problem-types#{kind}");
        let sent = uri.clone();
        let stub = stub_gateway(NO_DELAY, move || {
            service::Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                sent.clone(),
                "the gateway's words",
            )
            .with("client", "tagged")
            .into_response()
        })
        .await;
        let relay = relay_before(&stub).await;
        let (status, headers, body) = visible(relay.post("x").send().await.unwrap()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(headers[CONTENT_TYPE], "application/problem+json");
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(document["type"], uri.as_str());
        assert!(document.get("client").is_none());
        assert_ne!(document["title"], "the gateway's words");
    }
}

#[tokio::test]
async fn what_is_no_encapsulated_request_is_refused_by_the_relay_itself() {
    let stub = stub_gateway(NO_DELAY, || encapsulated("answer")).await;
    let relay = relay_before(&stub).await;
    let url = |path| relay.served.url(path);
    let answers = [
        (415, relay.http.post(url("/")).body("x").send().await),
        (
            415,
            relay
                .http
                .post(url("/"))
                .header(CONTENT_TYPE, "text/plain")
                .body("x")
                .send()
                .await,
        ),
        (
            413,
            relay.post(vec![0; 2 * 1024 * 1024 + 4097]).send().await,
        ),
        (405, relay.http.get(url("/")).send().await),
        (404, relay.http.post(url("/admin")).body("x").send().await),
    ];
    for (status, answer) in answers {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(
            answer.headers()[CONTENT_TYPE],
            "application/problem+json",
            "{status}"
        );
    }
    assert!(stub.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_body_without_a_declared_length_is_limited_too() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stub = stub_gateway(NO_DELAY, || encapsulated("answer")).await;
    let relay = relay_before(&stub).await;
    let mut stream = tokio::net::TcpStream::connect(relay.served.address)
        .await
        .unwrap();
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: message/ohttp-req\r\n\
                transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = vec![b'0'; 1 << 20];
    for _ in 0..3 {
        // The relay may close the connection as soon as it has had enough.
        let _ = stream.write_all(b"100000\r\n").await;
        let _ = stream.write_all(&chunk).await;
        let _ = stream.write_all(b"\r\n").await;
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert!(stub.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn key_configurations_are_fetched_once_until_their_age_is_reached() {
    let stub = stub_gateway(NO_DELAY, || {
        let headers = [
            ("content-type", "application/ohttp-keys"),
            ("cache-control", "max-age=60"),
        ];
        (headers, "configs").into_response()
    })
    .await;
    let relay = relay_before(&stub).await;
    let fetch = || async {
        let request = relay
            .http
            .get(relay.served.url("/ohttp-keys"))
            .header("cookie", "who=alice");
        visible(request.send().await.unwrap()).await
    };
    let (status, headers, body) = fetch().await;
    assert_eq!((status, body.as_slice()), (StatusCode::OK, &b"configs"[..]));
    assert_eq!(headers[CONTENT_TYPE], "application/ohttp-keys");
    assert_eq!(headers["cache-control"], "public, max-age=60");
    relay.clock.advance(20_000);
    assert_eq!(fetch().await.1["cache-control"], "public, max-age=40");
    assert_eq!(stub.seen.lock().unwrap().len(), 1);
    relay.clock.advance(40_000);
    fetch().await;
    let seen = stub.seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert!(
        seen.iter()
            .all(|(headers, _)| !headers.contains_key("cookie"))
    );
}

#[tokio::test]
async fn key_configurations_of_a_gateway_that_is_down_are_the_same_failure() {
    let relay = relay_to(&format!("http://127.0.0.1:{}/", free_port()), "").await;
    for _ in 0..2 {
        let answer = relay
            .http
            .get(relay.served.url("/ohttp-keys"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 502);
    }
}
