//! Client → relay → gateway → delivery service, all on loopback, with the real encapsulation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use http::header::CONTENT_TYPE;
use ohttp::ClientRequest;
use proptest::prelude::*;
use protocol::padding::ANSWER_HEAD;
use service::Shutdown;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::path::{Path, path, path_with};
use crate::support::{
    DATE, NOW, OHTTP_KEY, free_port, http_date, inner, inner_to, open, serve, target,
};

#[tokio::test]
async fn a_request_reaches_the_delivery_service_and_its_answer_the_client() {
    let path = path().await;
    for content in [&b""[..], b"hello", &[0; 100_000]] {
        let opened = path.ask("/v1/echo", &[], content).await;
        assert_eq!(opened.status, 200);
        assert_eq!(opened.content, content);
        assert_eq!(
            opened.field("content-type"),
            Some("application/octet-stream")
        );
    }
}

#[tokio::test]
async fn the_delivery_service_sees_three_fields_of_the_inner_request_and_nothing_of_the_outer() {
    let path = path().await;
    let fields = [
        ("authorization", "PrivateToken token=\"a\""),
        ("authorization", "PrivateToken token=\"b\""),
        ("content-type", "application/mimi-ds-request"),
        ("accept", "application/mimi-ds-response"),
        ("cookie", "inner=1"),
        ("user-agent", "inner"),
        ("x-forwarded-for", "198.51.100.1"),
        ("gateway-authorization", "Bearer forged"),
        ("host", "other.example"),
        ("content-length", "9999"),
        ("transfer-encoding", "chunked"),
        ("connection", "upgrade"),
    ];
    assert_eq!(path.ask("/v1/echo", &fields, b"x").await.status, 200);
    let seen = path.target.seen.lock().unwrap();
    let seen = &seen[0];
    let mut names: Vec<_> = seen.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "authorization",
            "content-length",
            "content-type",
            "gateway-authorization",
            "host"
        ]
    );
    let tokens: Vec<_> = seen.headers.get_all("authorization").iter().collect();
    assert_eq!(
        tokens,
        ["PrivateToken token=\"a\"", "PrivateToken token=\"b\""]
    );
    assert_eq!(seen.headers["content-type"], "application/mimi-ds-request");
    assert_eq!(seen.headers["host"], path.target.served.address.to_string());
    let authorization = seen.headers["gateway-authorization"].to_str().unwrap();
    assert!(authorization.starts_with("Bearer ") && authorization != "Bearer forged");
    assert_eq!(seen.body, b"x");
    assert_eq!(
        (&seen.method, seen.path.as_str()),
        (&http::Method::POST, "/v1/echo")
    );
}

#[tokio::test]
async fn the_client_sees_the_listed_fields_of_the_answer_only() {
    let path = path().await;
    let opened = path.ask("/v1/headers", &[], b"").await;
    assert_eq!(opened.status, 401);
    let mut names: Vec<_> = opened
        .fields
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "cache-control",
            "content-type",
            "retry-after",
            "www-authenticate"
        ]
    );
    assert_eq!(
        opened.field("www-authenticate"),
        Some("PrivateToken challenge=\"x\"")
    );
}

#[tokio::test]
async fn answers_are_as_long_as_a_size_bucket() {
    let path = path().await;
    for (size, bucket) in [
        (0, 8192),
        (5_000, 8192),
        (8192 - ANSWER_HEAD, 8192),
        (8192, 16_384),
        (60_000, 65_536),
        (65_536, 131_072),
        (150_000, 196_608),
    ] {
        let opened = path.ask(&format!("/v1/size/{size}"), &[], b"").await;
        assert_eq!((opened.content.len(), opened.padded_len), (size, bucket));
    }
    assert_eq!(path.ask("/unknown", &[], b"").await.padded_len, 8192);
}

#[tokio::test]
async fn a_repeated_encapsulated_request_is_refused_and_a_fresh_encapsulation_is_not() {
    let path = path().await;
    let date = http_date(NOW);
    let request = inner("/v1/echo", &[("date", &date)], b"once");
    let (encapsulated, _) = path.encapsulate(&request);
    assert_eq!(
        path.post_to(&path.gateway, encapsulated.clone())
            .await
            .status(),
        200
    );
    let replayed = (
        StatusCode::CONFLICT,
        "urn:mimi-ds:problem:ohttp-replayed".to_owned(),
    );
    assert_eq!(path.refusal(encapsulated.clone()).await, replayed);
    assert_eq!(path.target.seen.lock().unwrap().len(), 1);
    assert_eq!(path.ask_inner(&request).await.status, 200);
    // Through the relay, a replay is a failure like any other.
    assert_eq!(path.post_to(&path.relay, encapsulated).await.status(), 502);
}

#[tokio::test]
async fn once_the_replay_window_is_over_the_date_window_refuses() {
    let path = path().await;
    let date = http_date(NOW);
    let (encapsulated, _) = path.encapsulate(&inner("/v1/echo", &[("date", &date)], b"x"));
    assert_eq!(
        path.post_to(&path.gateway, encapsulated.clone())
            .await
            .status(),
        200
    );
    path.clock.advance(3_600_000);
    // The key is forgotten, so this is answered under the encapsulation: with a date problem.
    assert_eq!(
        path.post_to(&path.gateway, encapsulated).await.status(),
        200
    );
    assert_eq!(path.target.seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_missing_or_distant_date_is_refused_with_the_time_of_the_gateway() {
    let path = path().await;
    let (early, late, bad) = (
        http_date(NOW - 301_000),
        http_date(NOW + 301_000),
        "soon".to_owned(),
    );
    let distant: [&[(&str, &str)]; 4] = [
        &[],
        &[("date", &early)],
        &[("date", &late)],
        &[("date", &bad)],
    ];
    for fields in distant {
        let opened = path.ask_inner(&inner("/v1/echo", fields, b"")).await;
        assert_eq!((opened.status, opened.problem_type().as_str()), (400, DATE));
        assert_eq!(opened.field("date"), Some(http_date(NOW).as_str()));
    }
    for near in [NOW - 300_000, NOW + 300_000] {
        let near = inner("/v1/echo", &[("date", &http_date(near))], b"");
        assert_eq!(path.ask_inner(&near).await.status, 200);
    }
    assert_eq!(path.target.seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_date_is_not_needed_where_the_operator_says_so() {
    let path = path_with("replay = { require_date = false }", None).await;
    assert_eq!(
        path.ask_inner(&inner("/v1/echo", &[], b"x")).await.content,
        b"x"
    );
}

#[tokio::test]
async fn a_mutated_or_truncated_request_is_refused_and_reaches_nothing() {
    let path = path().await;
    let date = http_date(NOW);
    let message = inner("/v1/echo", &[("date", &date)], b"intact");
    let (encapsulated, response) = path.encapsulate(&message);
    for at in 0..encapsulated.len() {
        let mut mutated = encapsulated.clone();
        mutated[at] ^= 0x41;
        assert_eq!(
            path.refusal(mutated).await,
            (StatusCode::BAD_REQUEST, OHTTP_KEY.to_owned())
        );
    }
    // Header, encapsulated key and tag.
    let least = encapsulated.len() - message.len();
    for len in [0, 1, 6, 7, 38, 39, least - 1, least, encapsulated.len() - 1] {
        let (status, problem) = path.refusal(encapsulated[..len].to_vec()).await;
        let expected = if len < least {
            "about:blank"
        } else {
            OHTTP_KEY
        };
        assert_eq!(
            (status, problem.as_str()),
            (StatusCode::BAD_REQUEST, expected),
            "{len}"
        );
    }
    assert!(path.target.seen.lock().unwrap().is_empty());
    // Garbage with its encapsulated key has not made the intact request a replay.
    let answer = path.post_to(&path.gateway, encapsulated).await;
    assert_eq!(
        open(response, &answer.bytes().await.unwrap()).content,
        b"intact"
    );
}

#[tokio::test]
async fn media_type_and_size_are_checked_before_anything_is_opened() {
    let path = path().await;
    let plain = path
        .http
        .post(path.gateway.url("/"))
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(plain.status(), 415);
    let (status, _) = path.refusal(vec![9; 2 * 1024 * 1024 + 4097]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn of_a_stranger_nothing_but_the_head_is_read() {
    let path = path_with(
        "relays = [{ secret_file = 'DIRECTORY/relay-secret' }]",
        None,
    )
    .await;
    let mut stream = TcpStream::connect(path.gateway.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: message/ohttp-req\r\n\
                content-length: 2000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // Not a byte of the body is sent, and there is an answer.
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");
}

#[tokio::test]
async fn a_padded_request_under_any_kem_passes_a_relay_that_requires_padding_and_no_other_does() {
    let path = path().await;
    let text = format!(
        "listen = '127.0.0.1:0'\ngateway = '{}'\n[require_padding]\n\
         [service]\nadmin_listen = '127.0.0.1:0'",
        path.gateway.url("/")
    );
    let config: ohttp_relay::Config = service::config::parse(&text).unwrap();
    let (_trigger, shutdown) = Shutdown::channel();
    let relay = serve(ohttp_relay::router(&config, path.clock.clone(), shutdown).unwrap()).await;
    for config in path.configs() {
        for (extra, status) in [(0, 200), (1, 400)] {
            let mut message = inner("/v1/echo", &[("date", &http_date(NOW))], b"x");
            message.resize(protocol::padding::bucket(message.len()) + extra, 0);
            let client = ClientRequest::from_encoded_config(&config).unwrap();
            let (encapsulated, _) = client.encapsulate(&message).unwrap();
            assert_eq!(path.post_to(&relay, encapsulated).await.status(), status);
        }
    }
}

#[tokio::test]
async fn a_target_that_is_not_listed_is_refused_under_the_encapsulation() {
    let path = path().await;
    let date = http_date(NOW);
    let date = [("date", date.as_str())];
    for request in [
        inner_to("POST", "other.example", "/v1/echo", &date, b""),
        inner_to("POST", "ds.example:80", "/v1/echo", &date, b""),
        inner_to("POST", "ds.example", "/metrics", &date, b""),
        inner_to("DELETE", "ds.example", "/v1/echo", &date, b""),
    ] {
        assert_eq!(path.ask_inner(&request).await.status, 403);
    }
    for request in [
        inner_to("POST", "ds.example", "/v1/../metrics", &date, b""),
        inner_to("POST", "ds.example", "/v1/%2e%2e/metrics", &date, b""),
        inner_to("POST", "ds.example", "/v1/echo?a=b", &date, b""),
        inner_to("POST", "ds.example", "http://other.example/v1/", &date, b""),
        inner_to("PO ST", "ds.example", "/v1/echo", &date, b""),
        inner_to("POST", "", "/v1/echo", &date, b""),
        b"\x00garbage".to_vec(),
        Vec::new(),
    ] {
        assert_eq!(path.ask_inner(&request).await.status, 400);
    }
    assert!(path.target.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_expectation_of_a_100_is_an_error() {
    let path = path().await;
    let opened = path
        .ask("/v1/echo", &[("expect", "100-continue")], b"x")
        .await;
    assert_eq!(opened.status, 417);
    assert!(path.target.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_answer_carries_only_what_every_other_answer_carries() {
    let path = path().await;
    let date = http_date(NOW);
    let mut shapes = Vec::new();
    for place in ["/v1/echo", "/v1/headers", "/v1/redirect", "/unknown"] {
        let (encapsulated, _) = path.encapsulate(&inner(place, &[("date", &date)], b""));
        let answer = path.post_to(&path.gateway, encapsulated).await;
        let mut fields = answer.headers().clone();
        fields.remove("date");
        assert_eq!(fields["cache-control"], "no-store");
        shapes.push((answer.status(), fields));
    }
    assert_eq!(shapes[0].0, 200);
    assert_eq!(shapes[0].1.len(), 3, "{shapes:?}");
    assert!(shapes.iter().all(|shape| *shape == shapes[0]), "{shapes:?}");
}

#[tokio::test]
async fn redirects_are_not_followed_and_not_passed_on() {
    let path = path().await;
    let opened = path.ask("/v1/redirect", &[], b"").await;
    assert_eq!((opened.status, opened.field("location")), (502, None));
    assert_eq!(path.target.seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_goes_wrong_behind_the_gateway_is_told_under_the_encapsulation() {
    let down = path_with("", Some(format!("http://127.0.0.1:{}", free_port()))).await;
    assert_eq!(down.ask("/v1/echo", &[], b"").await.status, 502);
    let hasty = path_with("forward_seconds = 1", None).await;
    assert_eq!(hasty.ask("/v1/slow", &[], b"").await.status, 504);
    let path = path_with("max_response_bytes = 1000", None).await;
    assert_eq!(path.ask("/v1/size/1001", &[], b"").await.status, 502);
    assert_eq!(path.ask("/v1/size/1000", &[], b"").await.status, 200);
    // Our own secret being wrong is not the client's business.
    let opened = path.ask("/v1/not-the-gateway", &[], b"").await;
    assert_eq!(
        (opened.status, opened.field("www-authenticate")),
        (502, None)
    );
}

#[tokio::test]
async fn a_relay_that_is_listed_sends_what_it_may_and_nobody_else_anything() {
    let listed = "relays = [{ secret_file = 'DIRECTORY/relay-secret', \
                  limit = { requests_per_second = 1, burst = 2 } }]";
    let path = path_with(listed, None).await;
    for _ in 0..2 {
        assert_eq!(path.ask("/v1/echo", &[], b"").await.status, 200);
    }
    // Nobody can tell from outside why the relay has no answer.
    let (third, _) = path.encapsulate(&inner("/v1/echo", &[("date", &http_date(NOW))], b""));
    let refused = path.post_to(&path.relay, third).await;
    assert_eq!(refused.status(), 502);
    path.clock.advance(1_000);
    assert_eq!(path.ask("/v1/echo", &[], b"").await.status, 200);

    let (stranger, _) = path.encapsulate(&inner("/v1/echo", &[("date", &http_date(NOW))], b""));
    let (status, _) = path.refusal(stranger).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(path.target.seen.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn connections_to_the_delivery_service_are_used_again() {
    let target = target().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let (counted, address) = (Arc::clone(&connections), target.served.address);
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(address).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let path = path_with("", Some(through)).await;
    for _ in 0..20 {
        assert_eq!(path.ask("/v1/echo", &[], b"x").await.content, b"x");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_gateway_that_is_down_is_one_and_the_same_failure_at_the_relay() {
    let path = path().await;
    let Path {
        relay,
        gateway,
        http,
        ..
    } = path;
    drop(gateway);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let request = http
        .post(relay.url("/"))
        .header(CONTENT_TYPE, "message/ohttp-req")
        .body("x");
    assert_eq!(request.send().await.unwrap().status(), 502);
}

#[test]
fn no_body_makes_the_gateway_panic_or_answer_with_anything_but_a_problem() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let path = runtime.block_on(path());
    let (intact, _) = path.encapsulate(&inner("/v1/echo", &[], b"x"));
    let bodies = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        // The right header and a random rest.
        proptest::collection::vec(any::<u8>(), 0..200).prop_map({
            let header = intact[..7].to_vec();
            move |rest| [header.clone(), rest].concat()
        }),
        // A few bytes changed in an intact request.
        proptest::collection::vec((0..intact.len(), 1u8..), 1..4).prop_map({
            let intact = intact.clone();
            move |changes| {
                let mut body = intact.clone();
                for (at, change) in changes {
                    body[at] = body[at].wrapping_add(change);
                }
                body
            }
        }),
    ];
    proptest!(ProptestConfig::with_cases(300), |(body in bodies)| {
        prop_assume!(body != intact);
        let (status, _) = runtime.block_on(path.refusal(body));
        prop_assert_eq!(status, StatusCode::BAD_REQUEST);
    });
    // Random binary HTTP inside a proper encapsulation is answered inside one.
    proptest!(ProptestConfig::with_cases(200), |(inner in proptest::collection::vec(any::<u8>(), 0..100))| {
        let opened = runtime.block_on(path.ask_inner(&inner));
        prop_assert!((400..500).contains(&opened.status));
    });
    assert!(path.target.seen.lock().unwrap().is_empty());
}
