use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::HeaderMap;
use ohttp::hpke::{Aead, Kdf, Kem};
use protocol::padding::request_bucket;

use super::*;
use crate::endpoints::tests::operators;
use crate::net::clock::{Clock, SharedClock, SystemClock};

fn problem(status: u16, document: serde_json::Value) -> Result<Vec<u8>, Attempt> {
    judge(Answer {
        status,
        problem: true,
        challenge: true,
        retry_after_s: Some(7),
        date_ms: None,
        content: document.to_string().into_bytes(),
    })
}

#[test]
fn every_problem_of_the_service_comes_back_as_such() {
    for kind in ProblemType::ALL {
        let answer = problem(
            kind.status(),
            serde_json::json!({"type": kind.uri(), "epoch": 5}),
        );
        match answer {
            Err(Attempt::Failed(Error::Refused(refusal))) => {
                assert_eq!(refusal.problem, *kind);
                assert_eq!(refusal.epoch, Some(5));
                assert_eq!(refusal.retry_after_s, Some(7));
                assert!(refusal.token_helps);
            }
            Err(Attempt::Again(_)) => assert!(matches!(
                kind,
                ProblemType::Unavailable | ProblemType::Internal | ProblemType::Conflict
            )),
            _ => panic!("{kind:?}"),
        }
    }
}

#[test]
fn a_gateway_with_new_keys_or_another_clock_is_told_from_one_that_fails() {
    let keys = serde_json::json!({"type": OHTTP_KEY_PROBLEM}).to_string();
    assert!(matches!(
        outer_refusal(400, keys.as_bytes(), None),
        Attempt::NewKeys
    ));
    assert!(matches!(
        outer_refusal(429, b"", Some(9)),
        Attempt::Again(NoAnswer {
            retry_after_s: Some(9),
            ..
        })
    ));
    assert!(matches!(
        outer_refusal(404, b"{}", None),
        Attempt::Refused(_)
    ));
    for damaged in ["", r#"{"type": "about:blank"}"#, r#"{"type": "http"#] {
        let answer = outer_refusal(400, damaged.as_bytes(), None);
        assert!(matches!(answer, Attempt::Again(_)), "{damaged}");
    }
    let unpadded = br#"{"type": "urn:mimi-ds:problem:ohttp-unpadded"}"#;
    assert!(matches!(
        outer_refusal(400, unpadded, None),
        Attempt::Refused(_)
    ));
    assert!(matches!(
        problem(400, serde_json::json!({"type": DATE_PROBLEM})),
        Err(Attempt::Date(None))
    ));
    assert!(matches!(
        problem(502, serde_json::json!({})),
        Err(Attempt::Again(NoAnswer {
            retry_after_s: Some(7),
            ..
        }))
    ));
}

#[test]
fn what_goes_out_is_as_long_as_a_bucket_under_either_kem() {
    use ohttp::hpke::{Aead, Kdf, Kem};
    let suites = [ohttp::SymmetricSuite::new(Kdf::HkdfSha256, Aead::Aes128Gcm)];
    for (kem, enc) in [(Kem::XWing, 1120), (Kem::X25519Sha256, 32)] {
        let config = ohttp::KeyConfig::derive(1, kem, suites.to_vec(), &[1; 32]).unwrap();
        let list = ohttp::KeyConfig::encode_list(&[config]).unwrap();
        let config = configs::usable(&list).unwrap().remove(0);
        for len in [0, 400, 5_000, 70_000] {
            let mut message = inner("POST", "https", "ds.example", "/v1/x", "date");
            message.write_content(vec![7; len]);
            let sent = encoded(&message, false).unwrap();
            let (sent, _) = encapsulate(&config, &sent).unwrap();
            let bulk = encoded(&message, true).unwrap();
            let (bulk, _) = encapsulate(&config, &bulk).unwrap();
            assert_eq!(bulk.len() - 7 - enc - 16, BULK);
            let padded = sent.len() - 7 - enc - 16;
            assert!(
                padded >= len && padded == request_bucket(padded),
                "{padded}"
            );
        }
    }
}

/// A commit that many leaves are encrypted in, or a long text: the gateway sees its size alone, and
/// answers it as a bulk request.
#[tokio::test]
async fn an_answer_to_a_request_of_the_size_of_bulk_is_read_whatever_it_is_about() {
    let request = vec![7; 200_000];
    for operation in Operation::ALL {
        let (recorder, mut transport) = recorder([Reply::Padded]).await;
        let answer = transport.post(*operation, &request, &[]).await;
        assert_eq!(answer.unwrap(), b"answer", "{operation:?}");
        let seen = recorder.seen.lock().unwrap();
        assert!(seen[0].encapsulated.len().abs_diff(BULK) < 1_200);
    }
}

#[test]
fn a_request_is_the_binary_http_that_the_vectors_say() {
    use presentation::{hex, vectors};

    let (origin, date) = (("https", "ds.example"), "Tue, 14 Nov 2023 22:13:00 GMT");
    let vector = |path: &str, tokens: &[Vec<u8>], body: &[u8]| {
        let message = of_operation(origin, path, date, tokens, body);
        let padded = encoded(&message, false).unwrap();
        let mut bare = Vec::new();
        message.write_bhttp(Mode::KnownLength, &mut bare).unwrap();
        assert!(padded.starts_with(&bare) && padded[bare.len()..].iter().all(|it| *it == 0));
        serde_json::json!({
            "scheme": origin.0, "authority": origin.1, "path": path, "date": date,
            "tokens": tokens.iter().map(|token| hex(token)).collect::<Vec<_>>(),
            "body": hex(body), "encoded": hex(&bare), "padded_length": padded.len(),
        })
    };
    let requests = vec![
        vector(Operation::SendMessage.path(), &[], b"SignedRequest"),
        vector(
            Operation::RegisterHandle.path(),
            &[vec![7; 354]],
            b"SignedRequest",
        ),
    ];
    let made = [("binary HTTP of a request".to_owned(), requests)].into();
    vectors::hold("http.json", &made);
}

#[test]
fn only_loopback_addresses_ignore_the_proxy() {
    assert!(is_loopback("http://127.0.0.1:4200/") && is_loopback("http://[::1]:1"));
    assert!(is_loopback("http://localhost:1/x") && !is_loopback("https://relay.example"));
}

const UNKNOWN_KEY: &str = r#"{"type":"https://iana.org/assignments/http-problem-types#ohttp-key"}"#;

/// What the gateway behind a relay does with the next request.
enum Reply {
    /// An answer of the service or the gateway, encapsulated.
    Inner(u16, Vec<(&'static str, String)>, &'static str),
    /// An answer of the relay.
    Outer(u16, &'static str),
    /// A part of an encapsulated answer.
    Torn,
    /// An answer that is padded as the gateway does.
    Padded,
}

/// What came in.
struct Seen {
    headers: HeaderMap,
    encapsulated: Vec<u8>,
    inner: Message,
}

/// Relay and gateway in one, that keep everything.
struct Recorder {
    server: Mutex<ohttp::Server>,
    list: Mutex<Vec<u8>>,
    /// Instead, to who asks inside the encapsulation.
    own_list: Mutex<Option<Vec<u8>>>,
    key_fetches: Mutex<usize>,
    replies: Mutex<VecDeque<Reply>>,
    seen: Mutex<Vec<Seen>>,
}

const ANSWERED: fn() -> Reply = || Reply::Inner(200, Vec::new(), "answer");

async fn recorder(replies: impl IntoIterator<Item = Reply>) -> (Arc<Recorder>, Transport) {
    recorder_with(replies, Vec::new(), SystemClock::shared()).await
}

async fn recorder_with(
    replies: impl IntoIterator<Item = Reply>,
    mirrors: Vec<String>,
    clock: SharedClock,
) -> (Arc<Recorder>, Transport) {
    let suites = vec![ohttp::SymmetricSuite::new(Kdf::HkdfSha256, Aead::Aes128Gcm)];
    let config = ohttp::KeyConfig::derive(7, Kem::XWing, suites, &[1; 32]).unwrap();
    let list = ohttp::KeyConfig::encode_list(std::slice::from_ref(&config)).unwrap();
    let recorder = Arc::new(Recorder {
        server: Mutex::new(ohttp::Server::new(config).unwrap()),
        list: Mutex::new(list),
        own_list: Mutex::default(),
        key_fetches: Mutex::default(),
        replies: Mutex::new(replies.into_iter().collect()),
        seen: Mutex::default(),
    });
    let router = Router::new()
        .route("/", post(record))
        .route("/ohttp-keys", get(keys))
        .with_state(Arc::clone(&recorder));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let endpoints = Endpoints {
        ohttp_keys: format!("{relay}/ohttp-keys"),
        relay,
        gateway: "http://127.0.0.1:9".into(),
        ohttp_key_mirrors: mirrors,
        ds: "https://ds.example".into(),
        issuer: "http://127.0.0.1:9".into(),
        issuer_name: None,
        token_origin: None,
        authorities: None,
        push: None,
        operators: operators(),
    };
    let patience = Patience {
        attempt: Duration::from_secs(5),
        call: Duration::from_millis(500),
    };
    let time = ServiceTime::new(clock, 0);
    let transport = Transport::new(
        endpoints,
        None,
        time,
        Budget::new(patience, None),
        Views::default(),
        Pace::default(),
    )
    .unwrap();
    (recorder, transport)
}

async fn keys(State(recorder): State<Arc<Recorder>>) -> Response {
    *recorder.key_fetches.lock().unwrap() += 1;
    let list = recorder.list.lock().unwrap().clone();
    ([("content-type", "application/ohttp-keys")], list).into_response()
}

async fn record(
    State(recorder): State<Arc<Recorder>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let opened = recorder.server.lock().unwrap().decapsulate(&body);
    let Ok((opened, sealer)) = opened else {
        return (http::StatusCode::BAD_REQUEST, UNKNOWN_KEY).into_response();
    };
    let inner = Message::read_bhttp(&mut Cursor::new(&opened)).unwrap();
    let answer = |status: u16, fields: &[(&str, String)], content: &[u8]| {
        let mut message = Message::response(status.try_into().unwrap());
        for (name, value) in fields {
            message.put_header(*name, value.as_str());
        }
        message.write_content(content);
        let mut encoded = Vec::new();
        message
            .write_bhttp(Mode::KnownLength, &mut encoded)
            .unwrap();
        encoded
    };
    let media_type = [("content-type", "message/ohttp-res")];
    if inner.control().path() == Some(configs::PATH.as_bytes()) {
        let list = recorder.list.lock().unwrap().clone();
        let list = recorder.own_list.lock().unwrap().clone().unwrap_or(list);
        return (
            media_type,
            sealer.encapsulate(&answer(200, &[], &list)).unwrap(),
        )
            .into_response();
    }
    let request_len = opened.len();
    recorder.seen.lock().unwrap().push(Seen {
        headers,
        encapsulated: body.to_vec(),
        inner,
    });
    let reply = recorder.replies.lock().unwrap().pop_front();
    match reply.unwrap() {
        Reply::Inner(status, fields, content) => {
            let answer = answer(status, &fields, content.as_bytes());
            (media_type, sealer.encapsulate(&answer).unwrap()).into_response()
        }
        Reply::Padded => {
            let mut answer = answer(200, &[], b"answer");
            let len = protocol::padding::answer_bucket_for(request_len, answer.len());
            answer.resize(len, 0);
            (media_type, sealer.encapsulate(&answer).unwrap()).into_response()
        }
        Reply::Outer(status, content) => {
            let status = http::StatusCode::from_u16(status).unwrap();
            (status, content).into_response()
        }
        Reply::Torn => {
            let mut sealed = sealer.encapsulate(&answer(200, &[], b"answer")).unwrap();
            sealed.truncate(30);
            (media_type, sealed).into_response()
        }
    }
}

impl Recorder {
    fn inner_field(&self, attempt: usize, name: &str) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        let value = seen.get(attempt)?.inner.header().get(name.as_bytes())?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn every_attempt_has_an_encapsulation_of_its_own_and_the_same_signed_request() {
    let replies = [Reply::Outer(502, ""), Reply::Torn, ANSWERED()];
    let (recorder, mut transport) = recorder(replies).await;
    let tokens = [vec![9; 354]];
    let sent = transport.post(Operation::SendMessage, b"signed", &tokens);
    assert_eq!(sent.await.unwrap(), b"answer");
    let seen = recorder.seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    // Key id, KEM, KDF and AEAD are the same for everybody; the encapsulated key never is.
    let encs: std::collections::BTreeSet<_> = seen
        .iter()
        .map(|seen| seen.encapsulated.get(7..7 + 1120).unwrap())
        .collect();
    assert_eq!(encs.len(), 3);
    for attempt in seen.iter() {
        assert_eq!(attempt.inner.content(), b"signed");
        assert_eq!(
            attempt.inner.header().get(b"authorization"),
            seen.first().unwrap().inner.header().get(b"authorization")
        );
    }
}

#[tokio::test]
async fn the_relay_is_told_nothing_but_a_length_and_a_media_type_and_the_gateway_waits_for_nothing()
{
    let (recorder, mut transport) = recorder([ANSWERED(), ANSWERED()]).await;
    transport.fetch("/v1/directory").await.unwrap();
    let tokens = [vec![9; 354]];
    let sent = transport.post(Operation::ReadJournal, &[7; 2000], &tokens);
    sent.await.unwrap();
    for seen in recorder.seen.lock().unwrap().iter() {
        let mut names: Vec<_> = seen.headers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "content-length", "content-type", "host"]);
        assert_eq!(seen.headers.get("accept").unwrap(), "*/*");
        // RFC 9458 §5.1: no 100-continue.
        let inside = seen.inner.header();
        for name in inside.iter().map(bhttp::Field::name) {
            assert!([&b"date"[..], b"content-type", b"authorization"].contains(&name));
        }
    }
}

fn date_problem(told_ms: u64) -> Reply {
    let fields = vec![
        ("content-type", "application/problem+json".to_owned()),
        ("date", date_of(told_ms)),
    ];
    Reply::Inner(
        400,
        fields,
        r#"{"type":"https://iana.org/assignments/http-problem-types#date"}"#,
    )
}

#[tokio::test]
async fn the_gateways_date_is_used_for_one_more_attempt_and_for_nothing_else() {
    let told = crate::net::clock::Clock::now_unix_ms(&SystemClock) + 3_600_000;
    let (recorder, mut transport) = recorder([date_problem(told), ANSWERED(), ANSWERED()]).await;
    transport.fetch("/v1/directory").await.unwrap();
    assert_eq!(recorder.inner_field(1, "date"), Some(date_of(told)));
    // The relay says otherwise, so nothing of it is kept.
    transport.fetch("/v1/directory").await.unwrap();
    assert_ne!(recorder.inner_field(2, "date"), Some(date_of(told)));
    assert_eq!(transport.time.offset_ms(), 0);
}

#[tokio::test]
async fn a_gateway_that_accepts_no_date_is_asked_twice_and_not_again() {
    let told = crate::net::clock::Clock::now_unix_ms(&SystemClock);
    let (recorder, mut transport) = recorder([date_problem(told), date_problem(told)]).await;
    let asked = transport.fetch("/v1/directory").await;
    assert!(matches!(asked, Err(Error::Protocol(_))));
    assert_eq!(recorder.seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn after_a_key_problem_keys_are_fetched_again_and_the_request_goes_out_once_more() {
    let replies = [ANSWERED(), Reply::Outer(400, UNKNOWN_KEY), ANSWERED()];
    let (recorder, mut transport) = recorder(replies).await;
    transport.fetch("/v1/directory").await.unwrap();
    transport.fetch("/v1/directory").await.unwrap();
    assert_eq!(*recorder.key_fetches.lock().unwrap(), 2);
    // A gateway that never accepts them: bounded, and no sign of an attack.
    let refusals: Vec<_> = (0..9).map(|_| Reply::Outer(400, UNKNOWN_KEY)).collect();
    recorder.replies.lock().unwrap().extend(refusals);
    let asked = transport.fetch("/v1/directory").await;
    assert!(matches!(asked, Err(Error::Unreachable(_))), "{asked:?}");
}

#[tokio::test]
async fn a_refusal_that_may_be_damaged_itself_is_believed_when_it_is_repeated() {
    const DAMAGED: &str = r#"{"type":"https://iana.org/assignments/http-problem-types#ohttp-kex"}"#;
    let refused = || Reply::Outer(400, DAMAGED);
    let (recorder, mut transport) = recorder([refused(), ANSWERED()]).await;
    transport.fetch("/v1/directory").await.unwrap();
    let lasting = (0..MAX_REFUSALS).map(|_| refused());
    recorder.replies.lock().unwrap().extend(lasting);
    let asked = transport.fetch("/v1/directory").await;
    assert!(matches!(asked, Err(Error::Protocol(_))), "{asked:?}");
    let seen = recorder.seen.lock().unwrap().len();
    assert_eq!(seen, 2 + usize::try_from(MAX_REFUSALS).unwrap());
}

#[tokio::test]
async fn of_key_configurations_that_break_off_none_is_used() {
    let (recorder, mut transport) = recorder([]).await;
    let whole = recorder.list.lock().unwrap().clone();
    recorder
        .list
        .lock()
        .unwrap()
        .extend_from_slice(&whole[..100]);
    let asked = transport.fetch("/v1/directory").await;
    assert!(matches!(asked, Err(Error::Unreachable(_))), "{asked:?}");
    assert!(recorder.seen.lock().unwrap().is_empty());
}

/// A mirror that shows what the relay shows, and notes that it was asked.
async fn mirror(list: Vec<u8>) -> (Arc<Shown>, String) {
    let shown = Arc::new(Shown {
        list: Mutex::new(list),
        asked: Mutex::default(),
    });
    let show = |State(shown): State<Arc<Shown>>| async move {
        *shown.asked.lock().unwrap() += 1;
        let list = shown.list.lock().unwrap().clone();
        ([("content-type", "application/ohttp-keys")], list).into_response()
    };
    let router = Router::new()
        .route("/ohttp-keys", get(show))
        .with_state(Arc::clone(&shown));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/ohttp-keys", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (shown, url)
}

struct Shown {
    list: Mutex<Vec<u8>>,
    asked: Mutex<usize>,
}

impl Shown {
    fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

fn key(seed: u8) -> ohttp::KeyConfig {
    let suites = vec![ohttp::SymmetricSuite::new(Kdf::HkdfSha256, Aead::Aes128Gcm)];
    ohttp::KeyConfig::derive(seed, Kem::X25519Sha256, suites, &[seed; 32]).unwrap()
}

fn key_list(seeds: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let keys: Vec<_> = seeds.into_iter().map(key).collect();
    ohttp::KeyConfig::encode_list(&keys).unwrap()
}

/// A gateway with one key, relay and mirror that show it, and a clock that the test moves.
async fn watched() -> (Arc<Recorder>, Arc<Shown>, Arc<MovedClock>, Transport) {
    let clock = Arc::new(MovedClock(Mutex::new(1_800_000_000_000)));
    let (shown, url) = mirror(key_list([1])).await;
    let (recorder, transport) = recorder_with([], vec![url], clock.clone()).await;
    recorder.replaces_all_keys(1);
    (recorder, shown, clock, transport)
}

struct MovedClock(Mutex<u64>);

impl Clock for MovedClock {
    fn now_unix_ms(&self) -> u64 {
        *self.0.lock().unwrap()
    }
}

impl MovedClock {
    fn advance(&self, seconds: u64) {
        *self.0.lock().unwrap() += seconds * 1000;
    }
}

impl Recorder {
    /// For everybody.
    fn replaces_all_keys(&self, seed: u8) {
        *self.server.lock().unwrap() = ohttp::Server::new(key(seed)).unwrap();
        *self.list.lock().unwrap() = key_list([seed]);
    }

    fn answers(&self, replies: impl IntoIterator<Item = Reply>) {
        *self.replies.lock().unwrap() = replies.into_iter().collect();
    }
}

#[tokio::test]
async fn a_key_that_is_refused_to_one_client_has_no_mirror_asked_as_long_as_the_relay_shows_it() {
    let (recorder, mirror, _, mut transport) = watched().await;
    recorder.answers([ANSWERED()]);
    transport.fetch("/v1/directory").await.unwrap();
    assert_eq!(mirror.asked(), 1);
    for _ in 0..5 {
        recorder.answers([Reply::Outer(400, UNKNOWN_KEY), ANSWERED()]);
        transport.fetch("/v1/directory").await.unwrap();
    }
    // As often as the service likes.
    recorder.answers((0..20).map(|_| Reply::Outer(400, UNKNOWN_KEY)));
    assert!(transport.fetch("/v1/directory").await.is_err());
    assert_eq!(mirror.asked(), 1);
}

#[tokio::test]
async fn keys_that_are_replaced_for_all_are_compared_and_used_at_times_of_the_clients_own() {
    let (recorder, mirror, clock, mut transport) = watched().await;
    recorder.answers([ANSWERED()]);
    transport.fetch("/v1/directory").await.unwrap();
    recorder.replaces_all_keys(2);
    *mirror.list.lock().unwrap() = key_list([2]);
    let waits = async |transport: &mut Transport| match transport.fetch("/v1/directory").await {
        Err(Error::Unreachable(reason)) => reason.retry_after_s.unwrap(),
        other => panic!("{other:?}"),
    };
    // However often something is sent, the time stays, and nobody is asked.
    let until = waits(&mut transport).await;
    assert!((20..=120).contains(&until), "{until}");
    for _ in 0..5 {
        assert_eq!(waits(&mut transport).await, until);
    }
    clock.advance(until - 1);
    assert!(waits(&mut transport).await <= 1);
    assert_eq!(mirror.asked(), 1);
    // Then it is asked, and what it says is used later.
    clock.advance(1);
    let until = waits(&mut transport).await;
    assert!((20..=120).contains(&until), "{until}");
    assert_eq!(mirror.asked(), 2);
    clock.advance(until);
    recorder.answers([ANSWERED()]);
    transport.fetch("/v1/directory").await.unwrap();
    assert_eq!(mirror.asked(), 2);
}

#[tokio::test]
async fn what_is_agreed_on_stays_in_use_while_the_mirror_shows_something_else() {
    let (recorder, mirror, clock, mut transport) = watched().await;
    recorder.answers([ANSWERED(), ANSWERED()]);
    transport.fetch("/v1/directory").await.unwrap();
    *mirror.list.lock().unwrap() = key_list([9]);
    clock.advance(24 * 3600);
    let compared = transport.compare_keys().await;
    assert!(matches!(
        compared,
        Err(Error::KeyConfigMismatch(KeyView::Mirror))
    ));
    transport.fetch("/v1/directory").await.unwrap();
    assert_eq!(transport.key_config().unwrap().first(), Some(&1));
}

#[tokio::test]
async fn of_two_hundred_keys_none_is_used_and_the_gateway_chooses_none_of_two() {
    let (recorder, mirror, _, mut transport) = watched().await;
    *recorder.list.lock().unwrap() = key_list(1..=200);
    *mirror.list.lock().unwrap() = key_list(1..=200);
    *recorder.own_list.lock().unwrap() = Some(key_list([77]));
    let refused = transport.fetch("/v1/directory").await;
    assert!(matches!(refused, Err(Error::Protocol(_))), "{refused:?}");
    assert!(transport.key_config().is_none());

    // Only in the gateway's own answer.
    *recorder.list.lock().unwrap() = key_list([1, 2]);
    *mirror.list.lock().unwrap() = key_list([1, 2]);
    *recorder.own_list.lock().unwrap() = Some(key_list(1..=200));
    let refused = transport.fetch("/v1/directory").await;
    assert!(matches!(refused, Err(Error::Protocol(_))), "{refused:?}");

    // To this client it says that the other one is the key.
    *recorder.own_list.lock().unwrap() = Some(key_list([2]));
    let refused = transport.fetch("/v1/directory").await;
    assert!(
        matches!(refused, Err(Error::KeyConfigMismatch(KeyView::Gateway))),
        "{refused:?}"
    );
    assert!(recorder.seen.lock().unwrap().is_empty());
    assert!(transport.key_config().is_none());
}

#[tokio::test]
async fn the_order_in_which_a_relay_shows_keys_to_one_client_chooses_none() {
    let mut used = std::collections::BTreeSet::new();
    for order in [[1, 2], [2, 1]] {
        let (recorder, mirror, _, mut transport) = watched().await;
        *mirror.list.lock().unwrap() = key_list([1, 2]);
        *recorder.list.lock().unwrap() = key_list(order);
        recorder.answers([ANSWERED()]);
        transport.fetch("/v1/directory").await.unwrap();
        used.insert(transport.key_config().unwrap().to_vec());
    }
    assert_eq!(used.len(), 1);
}

#[tokio::test]
async fn a_wait_that_is_asked_of_one_client_is_one_of_few() {
    let asked = |seconds: &str| {
        let fields = vec![
            ("content-type", "application/problem+json".to_owned()),
            ("retry-after", seconds.to_owned()),
        ];
        Reply::Inner(
            429,
            fields,
            r#"{"type":"urn:mimi-ds:problem:too-many-requests","for":"you"}"#,
        )
    };
    let mut waits = std::collections::BTreeSet::new();
    for seconds in ["31", "37", "41", "59", "60"] {
        let (_, mut transport) = recorder([asked(seconds)]).await;
        match transport.fetch("/v1/directory").await {
            Err(Error::Refused(refusal)) => waits.insert(refusal.retry_after_s.unwrap()),
            other => panic!("{other:?}"),
        };
    }
    assert_eq!(waits.into_iter().collect::<Vec<_>>(), [60]);
}

/// What a relay does with a connection.
#[derive(Clone, Copy)]
enum Conduct {
    Silent,
    Trickling,
    Endless,
    Busy,
    Closed,
}

/// How much of answers without an end was taken.
static ENDLESS: AtomicUsize = AtomicUsize::new(0);

async fn relay(conduct: Conduct) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    if matches!(conduct, Conduct::Closed) {
        return address;
    }
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut some = [0; 16 * 1024];
                while connection.read(&mut some).await.is_ok_and(|read| read > 0) {
                    let head: &[u8] = match conduct {
                        Conduct::Endless => {
                            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                        }
                        Conduct::Trickling => b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n",
                        Conduct::Busy => {
                            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
                        }
                        Conduct::Silent | Conduct::Closed => continue,
                    };
                    connection.write_all(head).await.unwrap();
                    let chunk = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
                    while matches!(conduct, Conduct::Endless)
                        && connection.write_all(&chunk).await.is_ok()
                    {
                        ENDLESS.fetch_add(chunk.len(), Ordering::Relaxed);
                    }
                    while matches!(conduct, Conduct::Trickling)
                        && connection.write_all(b"x").await.is_ok()
                    {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            });
        }
    });
    address
}

/// A call of several requests that a relay treats so: the error, and what was said meanwhile.
async fn call(conduct: Conduct, requests: usize) -> (Error, Vec<Waiting>) {
    let suites = vec![ohttp::SymmetricSuite::new(Kdf::HkdfSha256, Aead::Aes128Gcm)];
    let config = ohttp::KeyConfig::derive(7, Kem::XWing, suites, &[1; 32]).unwrap();
    let list = ohttp::KeyConfig::encode_list(&[config]).unwrap();
    let relay = relay(conduct).await;
    let endpoints = Endpoints {
        ohttp_keys: format!("{relay}ohttp-keys"),
        relay,
        gateway: "http://127.0.0.1:9".into(),
        ohttp_key_mirrors: Vec::new(),
        ds: "https://ds.example".into(),
        issuer: "http://127.0.0.1:9".into(),
        issuer_name: None,
        token_origin: None,
        authorities: None,
        push: None,
        operators: operators(),
    };
    let patience = Patience {
        attempt: Duration::from_millis(1_500),
        call: Duration::from_secs(6),
    };
    let said = Arc::new(Mutex::new(Vec::new()));
    let progress: Progress = {
        let said = Arc::clone(&said);
        Arc::new(move |waiting| said.lock().unwrap().push(waiting))
    };
    let time = ServiceTime::new(SystemClock::shared(), 0);
    let key = configs::usable(&list).unwrap().remove(0);
    let budget = Budget::new(patience, Some(progress));
    let (views, pace) = (Views::default(), Pace::default());
    let mut transport = Transport::new(endpoints, Some(key), time, budget, views, pace).unwrap();
    let mut last = None;
    // One patience for all of them; behind it a request still has the two seconds that cost
    // nothing.
    let all = async {
        for _ in 0..requests {
            last = transport.fetch("/v1/directory").await.err();
        }
    };
    let longest = Duration::from_secs(20 + 3 * requests as u64);
    tokio::time::timeout(longest, all).await.unwrap();
    let said = said.lock().unwrap().clone();
    (last.unwrap(), said)
}

#[tokio::test]
async fn a_call_ends_when_its_patience_does_and_says_what_it_met() {
    for (conduct, reason) in [
        (Conduct::Silent, "takes requests and does not answer them"),
        (
            Conduct::Trickling,
            "the relay does not bring an answer to its end",
        ),
        (Conduct::Closed, "cannot be reached"),
        (Conduct::Busy, "relay or gateway cannot answer now"),
    ] {
        let (error, said) = call(conduct, 1).await;
        let Error::Unreachable(no_answer) = error else {
            panic!("{error:?}");
        };
        assert!(no_answer.reason.contains(reason), "{no_answer}");
        let first = said.first().unwrap();
        assert!(first.reason.contains(reason), "{first:?}");
        assert!(first.so_far >= Duration::from_secs(5), "{first:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_longer_than_any_of_its_kind_is_none_and_not_read_to_its_end() {
    // It may be the answer of another request: the same is sent a few times.
    let (error, _) = call(Conduct::Endless, 1).await;
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    // With what lies in the sockets.
    let taken = ENDLESS.load(Ordering::Relaxed) / MAX_REFUSALS as usize;
    assert!(taken < 16 * 1024 * 1024, "{taken}");
}

#[tokio::test]
async fn the_requests_of_a_call_have_one_patience_together() {
    let (error, _) = call(Conduct::Silent, 5).await;
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
}

/// The recorder pads nothing.
#[tokio::test]
async fn a_bulk_answer_of_another_size_is_refused() {
    let replies = (0..4).map(|_| ANSWERED());
    let (recorder, mut transport) = recorder(replies).await;
    let refused = transport.post(Operation::ReadChunk, b"read", &[]).await;
    let is_refused = matches!(refused, Err(Error::Protocol(_) | Error::Unreachable(_)));
    assert!(is_refused, "{refused:?}");
    for seen in recorder.seen.lock().unwrap().iter() {
        assert!(seen.encapsulated.len().abs_diff(BULK) < 1_200);
    }
}
