//! Keys of the gateway: how they are published and mirrored, replaced and refused.

use http::StatusCode;
use http::header::CONTENT_TYPE;
use ohttp::ClientRequest;
use service::tls::IsCertified;
use service::{Clock as _, MovedClock, Shutdown};
use tower::ServiceExt as _;

use crate::path::{path, path_with};
use crate::support::{
    NOW, OHTTP_KEY, gateway_config, http_client, http_date, inner, inner_to, open, serve,
};

#[tokio::test]
async fn an_unknown_key_is_a_key_problem_for_the_client_also_through_the_relay() {
    let path = path().await;
    let (mut encapsulated, _) = path.encapsulate(&inner("/v1/echo", &[], b""));
    encapsulated[0] ^= 1;
    let key_problem = (StatusCode::BAD_REQUEST, OHTTP_KEY.to_owned());
    assert_eq!(path.refusal(encapsulated.clone()).await, key_problem);
    let answer = path.post_to(&path.relay, encapsulated).await;
    assert_eq!(answer.status(), 400);
    let document: serde_json::Value =
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(document["type"], OHTTP_KEY);
}

#[tokio::test]
async fn where_relays_need_certificates_keys_are_for_everybody_and_requests_for_them_only() {
    let path = path_with(
        "tls = { certificate_file = 'c', key_file = 'k', client_ca_file = 'ca' }",
        None,
    )
    .await;
    let ask = async |method: &str, is_certified: Option<bool>, body: Vec<u8>| {
        let mut request = http::Request::builder()
            .method(method)
            .uri("/")
            .header(CONTENT_TYPE, "message/ohttp-req")
            .body(axum::body::Body::from(body))
            .unwrap();
        if let Some(is_certified) = is_certified {
            request.extensions_mut().insert(IsCertified(is_certified));
        }
        path.handle
            .router()
            .oneshot(request)
            .await
            .unwrap()
            .status()
    };
    let encapsulated = || {
        path.encapsulate(&inner("/v1/echo", &[("date", &http_date(NOW))], b"x"))
            .0
    };
    assert_eq!(ask("GET", Some(false), Vec::new()).await, 200);
    for nobody in [None, Some(false)] {
        assert_eq!(ask("POST", nobody, encapsulated()).await, 403);
    }
    assert_eq!(path.target.seen.lock().unwrap().len(), 0);
    assert_eq!(ask("POST", Some(true), encapsulated()).await, 200);
}

#[tokio::test]
async fn keys_that_are_replaced_at_once_reach_clients_of_the_relay_at_once() {
    let path = path().await;
    path.clock.advance(20_000);
    path.handle.rotate(true).unwrap();
    let mirrored = async || {
        let answer = path.http.get(path.relay.url("/ohttp-keys")).send().await;
        answer.unwrap().bytes().await.unwrap()
    };
    // Nobody has tried the old ones yet.
    assert_eq!(mirrored().await, path.keys);
    let (encapsulated, _) = path.encapsulate(&inner("/v1/echo", &[], b"x"));
    assert_eq!(path.post_to(&path.relay, encapsulated).await.status(), 400);
    let renewed = mirrored().await;
    assert_ne!(renewed, path.keys);
    let (encapsulated, response) = ClientRequest::from_encoded_config_list(&renewed)
        .unwrap()
        .encapsulate(&inner(
            "/v1/echo",
            &[("date", &http_date(NOW + 20_000))],
            b"x",
        ))
        .unwrap();
    let answer = path.post_to(&path.relay, encapsulated).await;
    assert_eq!(open(response, &answer.bytes().await.unwrap()).content, b"x");
    // Keys that somebody makes up do not send the relay to the gateway each time.
    path.handle.rotate(true).unwrap();
    let (mut made_up, _) = path.encapsulate(b"x");
    made_up[0] ^= 0xff;
    assert_eq!(path.post_to(&path.relay, made_up).await.status(), 400);
    assert_eq!(mirrored().await, renewed);
    path.clock.advance(20_000);
    assert_ne!(mirrored().await, renewed);
}

#[tokio::test]
async fn the_key_configurations_are_published_at_every_place_and_mirrored() {
    let path = path().await;
    for url in [
        path.gateway.url("/ohttp-keys"),
        path.gateway.url("/.well-known/ohttp-gateway"),
        path.gateway.url("/"),
        path.relay.url("/ohttp-keys"),
    ] {
        let answer = path.http.get(url).send().await.unwrap();
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/ohttp-keys");
        assert_eq!(answer.headers()["cache-control"], "public, max-age=3600");
        assert_eq!(answer.bytes().await.unwrap(), path.keys);
    }
    // Each: length, key id, KEM, public key, and both AEADs with HKDF-SHA256; X-Wing comes first.
    let suites = [0, 8, 0, 1, 0, 1, 0, 1, 0, 3];
    let [x_wing, x25519] = path.configs().try_into().unwrap();
    assert_eq!(x_wing.len(), 1 + 2 + 1216 + 10);
    assert_eq!(x25519.len(), 1 + 2 + 32 + 10);
    assert_eq!(
        [&x_wing[..3], &x25519[..3]],
        [&[1, 0x64, 0x7a], &[2, 0, 0x20]]
    );
    assert!(
        [x_wing, x25519]
            .iter()
            .all(|config| config.ends_with(&suites))
    );
}

#[tokio::test]
async fn the_gateway_says_under_the_encapsulation_what_its_keys_are() {
    let path = path().await;
    let date = http_date(NOW);
    let ask = |authority: &str, method: &str| {
        inner_to(
            method,
            authority,
            "/.well-known/ohttp-gateway",
            &[("date", &date)],
            b"",
        )
    };
    let answer = path.ask_inner(&ask("ds.example", "GET")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.content, path.keys);
    for other in [ask("elsewhere.example", "GET"), ask("ds.example", "POST")] {
        assert_eq!(path.ask_inner(&other).await.status, 403);
    }
    assert_eq!(path.target.seen.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn nobody_can_be_told_apart_by_the_answer_to_who_asks_for_keys() {
    let path = path().await;
    let ask = |name: &'static str, value: &'static str| {
        let request = path
            .http
            .get(path.gateway.url("/.well-known/ohttp-gateway"));
        async move {
            let answer = request.header(name, value).send().await.unwrap();
            let mut fields = answer.headers().clone();
            fields.remove("date");
            (answer.status(), fields, answer.bytes().await.unwrap())
        }
    };
    let plain = ask("accept", "application/ohttp-keys").await;
    let mut names: Vec<_> = plain.1.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["cache-control", "content-length", "content-type"]);
    for (name, value) in [
        ("cookie", "who=alice"),
        ("if-none-match", "\"alice\""),
        ("user-agent", "alices-phone"),
        ("accept-language", "fr"),
        ("x-forwarded-for", "203.0.113.7"),
    ] {
        assert_eq!(ask(name, value).await, plain, "{name}");
    }
}

#[tokio::test]
async fn every_kem_with_every_aead_is_accepted_at_both_places() {
    let path = path().await;
    for config in path.configs() {
        for aead in [1u8, 3] {
            for place in ["/", "/.well-known/ohttp-gateway"] {
                let mut config = config[..config.len() - 10].to_vec();
                config.extend_from_slice(&[0, 4, 0, 1, 0, aead]);
                let date = http_date(NOW);
                let (encapsulated, response) = ClientRequest::from_encoded_config(&config)
                    .unwrap()
                    .encapsulate(&inner("/v1/echo", &[("date", &date)], b"x"))
                    .unwrap();
                let answer = path
                    .http
                    .post(path.gateway.url(place))
                    .header(CONTENT_TYPE, "message/ohttp-req")
                    .body(encapsulated)
                    .send()
                    .await
                    .unwrap();
                assert_eq!(open(response, &answer.bytes().await.unwrap()).content, b"x");
            }
        }
    }
}

#[tokio::test]
async fn a_rotation_in_the_middle_of_requests_loses_none() {
    let path = path().await;
    let ask = async |keys: &[u8]| {
        let date = http_date(path.clock.now_unix_ms());
        let (encapsulated, response) = ClientRequest::from_encoded_config_list(keys)
            .unwrap()
            .encapsulate(&inner("/v1/echo", &[("date", &date)], b"x"))
            .unwrap();
        let answer = path.post_to(&path.relay, encapsulated).await;
        assert_eq!(open(response, &answer.bytes().await.unwrap()).content, b"x");
    };
    let mirrored = async || {
        let answer = path
            .http
            .get(path.relay.url("/ohttp-keys"))
            .send()
            .await
            .unwrap();
        answer.bytes().await.unwrap()
    };
    // A client with the list of the beginning, and one that asks the relay for it each time.
    let told = path.handle.rotate(false).unwrap();
    assert!(told.contains("published from"), "{told}");
    for _ in 0..50 {
        ask(&path.keys).await;
        ask(&mirrored().await).await;
        path.clock.advance(3_500_000);
        path.handle.advance_keys().unwrap();
    }
    // The old ones are gone from the mirror before they are gone from the gateway.
    path.clock.advance(3_600_000);
    path.handle.advance_keys().unwrap();
    assert_eq!(mirrored().await.len(), path.keys.len());
    assert_ne!(mirrored().await, path.keys);
    ask(&path.keys).await;
    path.clock.advance(3_600_000);
    path.handle.advance_keys().unwrap();
    let (encapsulated, _) = path.encapsulate(b"x");
    let key_problem = (StatusCode::BAD_REQUEST, OHTTP_KEY.to_owned());
    assert_eq!(path.refusal(encapsulated).await, key_problem);
}

#[test]
fn a_seed_gives_the_same_key_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let config = |settings: &str| {
        let text = gateway_config(
            directory.path(),
            "127.0.0.1:0",
            "127.0.0.1:0",
            "http://127.0.0.1:1",
            settings,
        );
        service::config::parse::<ohttp_gateway::Config>(&text).unwrap()
    };
    let keys = || {
        let (_trigger, shutdown) = Shutdown::channel();
        let router = ohttp_gateway::router(&config(""), MovedClock::at(NOW), shutdown).unwrap();
        runtime.block_on(async {
            let served = serve(router).await;
            http_client()
                .get(served.url("/ohttp-keys"))
                .send()
                .await
                .unwrap()
                .bytes()
                .await
                .unwrap()
        })
    };
    assert_eq!(keys(), keys());
    // A replay window that the date window outlives is refused at start.
    let (_trigger, shutdown) = Shutdown::channel();
    let unsafe_window = config("replay = { window_seconds = 599, date_seconds = 300 }");
    assert!(ohttp_gateway::router(&unsafe_window, MovedClock::at(NOW), shutdown).is_err());
}
