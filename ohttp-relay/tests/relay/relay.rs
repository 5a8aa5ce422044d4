//! What the relay lets through, in both directions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use hyper_util::rt::TokioExecutor;
use service::{MovedClock, Problem};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    Served, StubGateway, config, encapsulated, free_port, serve_relay, stub_gateway, visible,
};

struct Relay {
    served: Served,
    clock: Arc<MovedClock>,
    http: reqwest::Client,
}

async fn relay_to(gateway: &str, settings: &str) -> Relay {
    let clock = MovedClock::at(1_700_000_000_000);
    let http = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    Relay {
        served: serve_relay(&config(gateway, settings), clock.clone()).await,
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

#[tokio::test]
async fn the_gateway_sees_the_body_and_the_same_headers_for_every_client() {
    let stub = stub_gateway(Duration::ZERO, || encapsulated("answer")).await;
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
    assert_eq!(names, ["content-type", "host", "transfer-encoding"]);
    assert_eq!(seen[0].0[CONTENT_TYPE], "message/ohttp-req");
}

#[tokio::test]
async fn the_gateway_cannot_tell_by_its_framing_how_a_request_was_sent() {
    let stub = stub_gateway(Duration::ZERO, || encapsulated("answer")).await;
    let relay = relay_before(&stub).await;
    let whole = vec![7; 40_000];
    relay.post(whole.clone()).send().await.unwrap();
    let mut stream = TcpStream::connect(relay.served.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: y\r\ncontent-type: Message/OHTTP-req\r\n\
                connection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for piece in whole.chunks(5_000) {
        stream.write_all(b"1388\r\n").await.unwrap();
        stream.write_all(piece).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    let end = b"0\r\ncookie: a-trailer\r\n\r\n";
    stream.write_all(end).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = stub.seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn each_path_leads_to_its_own_gateway_and_its_keys() {
    let gateways = [
        stub_gateway(Duration::ZERO, || encapsulated("first")).await,
        stub_gateway(Duration::ZERO, || encapsulated("second")).await,
    ];
    let further = format!(
        "[[gateways]]\npath = '/second'\nurl = '{}'",
        gateways[1].served.url("/ohttp")
    );
    let relay = relay_to(&gateways[0].served.url("/"), &further).await;
    for (path, expected) in [
        ("/", "first"),
        ("/second", "second"),
        ("/second/", "second"),
    ] {
        let request = relay.http.post(relay.served.url(path)).body("x");
        let answer = request.header(CONTENT_TYPE, "message/ohttp-req").send();
        let answer = answer.await.unwrap();
        assert_eq!(answer.text().await.unwrap(), expected, "{path}");
    }
    // Stubs answer keys with something else, which is a failure; what counts is who was asked.
    for path in ["/ohttp-keys", "/second/ohttp-keys"] {
        let answer = relay.http.get(relay.served.url(path)).send().await.unwrap();
        assert_eq!(answer.status(), 502);
    }
    assert_eq!(gateways[0].seen.lock().unwrap().len(), 2);
    assert_eq!(gateways[1].seen.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn http2_is_spoken_on_either_side_with_the_same_head() {
    let stub = stub_gateway(Duration::ZERO, || encapsulated("answer")).await;
    let second = format!(
        "[[gateways]]\npath = '/h2'\nhttp = '2'\nurl = '{}'",
        stub.served.url("/")
    );
    let relay = relay_to(&stub.served.url("/"), &second).await;
    let http2 = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<http_body_util::Full<bytes::Bytes>>();
    for path in ["/", "/h2"] {
        let request = http::Request::post(relay.served.url(path))
            .header(CONTENT_TYPE, "message/ohttp-req")
            .header("cookie", "who=alice")
            .body("body".into())
            .unwrap();
        let answer = http2.request(request).await.unwrap();
        assert_eq!(answer.version(), http::Version::HTTP_2);
        assert_eq!(answer.status(), 200);
    }
    let versions = stub.versions.lock().unwrap().clone();
    assert_eq!(versions, [http::Version::HTTP_11, http::Version::HTTP_2]);
    let seen = stub.seen.lock().unwrap();
    let names: Vec<_> = seen[1].0.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["content-type"]);
}

#[tokio::test]
async fn where_padding_is_required_only_padded_sizes_reach_the_gateway() {
    let stub = stub_gateway(Duration::ZERO, || encapsulated("answer")).await;
    let relay = relay_to(&stub.served.url("/"), "[require_padding]").await;
    for (size, status) in [
        (512 + 55, 200),
        (4096 + 1143, 200),
        (513 + 55, 400),
        (0, 400),
    ] {
        let answer = relay.post(vec![0; size]).send().await.unwrap();
        assert_eq!(answer.status(), status, "{size}");
    }
    // Its length is known only when all of it has passed.
    let mut stream = TcpStream::connect(relay.served.address).await.unwrap();
    let unpadded = "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: message/ohttp-req\r\n\
                    transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    stream.write_all(unpadded.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
    assert_eq!(stub.seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn no_header_of_the_gateway_reaches_the_client() {
    let stub = stub_gateway(Duration::ZERO, || {
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

    let failures: [fn() -> Response; 8] = [
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
        || {
            let chunked = [("content-type", "message/ohttp-chunked-res")];
            (chunked, "the answer to a request of the other kind").into_response()
        },
    ];
    for failure in failures {
        let stub = stub_gateway(Duration::ZERO, failure).await;
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
        let stub = stub_gateway(Duration::ZERO, move || {
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
    let stub = stub_gateway(Duration::ZERO, || encapsulated("answer")).await;
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
    let stub = stub_gateway(Duration::ZERO, || encapsulated("answer")).await;
    let relay = relay_before(&stub).await;
    let mut stream = TcpStream::connect(relay.served.address).await.unwrap();
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
    let stub = stub_gateway(Duration::ZERO, || {
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
async fn keys_that_were_replaced_at_once_are_shown_after_the_first_request_under_an_old_one() {
    let count = Arc::new(AtomicUsize::new(0));
    let stub = stub_gateway(Duration::ZERO, move || {
        // To a request, and then to who asks for the keys.
        let headers = [
            ("content-type", "application/ohttp-keys"),
            ("cache-control", "max-age=3600"),
        ];
        let number = count.fetch_add(1, Ordering::SeqCst);
        if number == 1 || number == 2 {
            let kind = "https://iana.org/assignments/http-problem-types#ohttp-key";
            return Problem::new(StatusCode::BAD_REQUEST, kind, "unknown").into_response();
        }
        (headers, format!("configs {number}")).into_response()
    })
    .await;
    let relay = relay_before(&stub).await;
    let shown = || async {
        let answer = relay.http.get(relay.served.url("/ohttp-keys")).send();
        answer.await.unwrap().text().await.unwrap()
    };
    assert_eq!(shown().await, "configs 0");
    // Nobody can have them fetched for each request.
    assert_eq!(relay.post("x").send().await.unwrap().status(), 400);
    assert_eq!(shown().await, "configs 0");
    relay.clock.advance(20_000);
    assert_eq!(relay.post("x").send().await.unwrap().status(), 400);
    assert_eq!(shown().await, "configs 3");
    relay.clock.advance(20_000);
    assert_eq!(shown().await, "configs 3");
}

#[tokio::test]
async fn a_gateway_that_forbids_caching_cannot_answer_each_client_with_another_key() {
    let count = Arc::new(AtomicUsize::new(0));
    let stub = stub_gateway(Duration::ZERO, move || {
        let headers = [
            ("content-type", "application/ohttp-keys"),
            ("cache-control", "no-store"),
            ("etag", "who-asked-first"),
        ];
        let tagged = format!("configs {}", count.fetch_add(1, Ordering::SeqCst));
        (headers, tagged).into_response()
    })
    .await;
    let relay = relay_before(&stub).await;
    let url = relay.served.url("/ohttp-keys");
    let plain = relay.http.get(&url).send().await.unwrap();
    let telling = relay
        .http
        .get(format!("{url}?client=7"))
        .header("if-none-match", "who-asked-first")
        .header("cache-control", "no-cache")
        .header("cookie", "who=alice")
        .send()
        .await
        .unwrap();
    assert_eq!(visible(plain).await, visible(telling).await);
    assert_eq!(stub.seen.lock().unwrap().len(), 1);
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
