//! What one client is shown is what all are shown: a delivery service that tells each client
//! something else gets it nowhere.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use client::{Client, DirectoryError, Endpoints, Error, Options, Pace, Patience};
use end_to_end::{Asked, Liar, LogLevel, Service, Stack, Told, compares, device, eager, patient};
use serde_json::Value;

const DIRECTORY: &str = "/v1/directory";
/// Where a token has the digest of its challenge.
const CHALLENGE: std::ops::Range<usize> = 34..66;

/// Each answer has a value of its own, as if each were for another client.
fn changes(liar: &Liar, mut change: impl FnMut(&mut Value, u8) + Send + 'static) {
    let mut answers: u8 = 0;
    liar.lies(move |heard: &Asked, told: &mut Told| {
        if heard.path == DIRECTORY {
            let mut directory: Value = serde_json::from_slice(&told.body).unwrap();
            answers = answers.wrapping_add(1);
            change(&mut directory, answers);
            told.body = directory.to_string().into_bytes();
        }
    });
}

fn impatient() -> Options {
    Options {
        patience: Patience {
            call: Duration::from_secs(1),
            ..Patience::default()
        },
        ..eager()
    }
}

async fn init(stack: &Stack, number: usize, home: &str, options: Options) -> Result<Client, Error> {
    init_with(stack, &stack.description(), number, home, options).await
}

async fn init_with(
    stack: &Stack,
    description: &Value,
    number: usize,
    home: &str,
    options: Options,
) -> Result<Client, Error> {
    let endpoints = Endpoints::from_json(description.to_string().as_bytes()).unwrap();
    let token = fs::read_to_string(stack.account_token(number)).unwrap();
    Client::init(&stack.home(home), &endpoints, &token, options).await
}

fn challenge_digests(heard: &[Asked]) -> BTreeSet<Vec<u8>> {
    heard
        .iter()
        .flat_map(|heard| &heard.tokens)
        .map(|token| token[CHALLENGE].to_vec())
        .collect()
}

/// TokenChallenge (RFC 9577 §2.1.1): type, issuer name, redemption context, origin.
fn with_context(challenge: &str, context: u8) -> String {
    let encoded = URL_SAFE.decode(challenge).unwrap();
    let name = usize::from(u16::from_be_bytes([encoded[2], encoded[3]]));
    let (before, after) = encoded.split_at(4 + name);
    let context = [context; 32];
    URL_SAFE.encode([before, &[32], &context, &after[1..]].concat())
}

fn tagged(liar: &Liar) {
    changes(liar, |directory, answer| {
        let challenge = directory["issuer"]["challenge"].as_str().unwrap();
        directory["issuer"]["challenge"] = with_context(challenge, answer).into();
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redemption_context_for_each_client_groups_no_tokens_and_costs_none() {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Error).await;
    let alice = init(&stack, 0, "alice", eager()).await.unwrap();
    let bob = init(&stack, 1, "bob", eager()).await.unwrap();
    let _ = liar.asked();

    // Each directory has another context from now on. Nobody takes it, nobody loses a token by it.
    tagged(&liar);
    let held = [alice.tokens().await.unwrap(), bob.tokens().await.unwrap()];
    compares(&alice).await;
    compares(&bob).await;
    let shown = liar.asked();
    assert!(shown.iter().any(|heard| heard.path == DIRECTORY));
    assert_eq!(
        [alice.tokens().await.unwrap(), bob.tokens().await.unwrap()],
        held
    );
    let refused = alice.disagreement().await.unwrap();
    assert!(
        matches!(
            refused.as_deref(),
            Some(Error::Directory(DirectoryError::Challenge(_)))
        ),
        "{refused:?}"
    );
    // All that they pay with answers one challenge.
    alice.register_handle("alice").await.unwrap();
    bob.register_handle("bob").await.unwrap();
    alice.fill_wallet().await.unwrap();
    alice.connect("bob").await.unwrap();
    assert_eq!(challenge_digests(&liar.asked()).len(), 1);

    // Who is new is told why, and asks for no token.
    let before = stack.issued().await;
    let refused = init(&stack, 2, "carol", impatient()).await.unwrap_err();
    assert!(
        matches!(
            refused,
            Error::Directory(DirectoryError::Challenge("redemption_context"))
        ),
        "{refused:?}"
    );
    assert_eq!(refused.code(), "directory-refused");
    assert_eq!(stack.issued().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_the_directory_for_each_client_is_used_by_none() {
    type Change = fn(&mut Value, u8);
    let lies: [(&str, Change); 6] = [
        ("prices.lookup_handle", |it, answer| {
            it["prices"]["lookup_handle"] = (1 + answer % 9).into();
        }),
        ("domain", |it, answer| {
            it["domain"] = format!("d{answer}.localhost").into();
        }),
        ("journal_signing_key", |it, answer| {
            it["journal_signing_key"] = URL_SAFE.encode([answer; 32]).into();
        }),
        ("external_sender_key", |it, answer| {
            it["external_sender_key"] = URL_SAFE.encode([answer; 32]).into();
        }),
        ("issuer.token_key_ids", |it, answer| {
            it["issuer"]["token_key_ids"][0] = URL_SAFE.encode([answer; 32]).into();
        }),
        ("allowances.leaf.capacity", |it, answer| {
            it["allowances"]["leaf"]["capacity"] = (300 + u32::from(answer)).into();
        }),
    ];
    let (stack, liar) = Stack::start_with_liar(LogLevel::Error).await;
    let alice = init(&stack, 0, "alice", eager()).await.unwrap();
    for (number, (field, change)) in lies.into_iter().enumerate() {
        changes(&liar, change);
        compares(&alice).await;
        let refused = alice.disagreement().await.unwrap();
        assert!(
            matches!(refused.as_deref(), Some(Error::Directory(DirectoryError::Differs(at))) if *at == field),
            "{field}: {refused:?}"
        );
        let home = format!("new {number}");
        let refused = init(&stack, 1, &home, impatient()).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Directory(DirectoryError::Differs(at)) if at == field),
            "{field}: {refused:?}"
        );
    }
    // She goes on by what all were shown: a look-up costs one token.
    let _ = liar.asked();
    alice.register_handle("alice").await.unwrap();
    let unknown = alice.connect("nobody").await.unwrap_err();
    assert!(unknown.problem().is_some(), "{unknown:?}");
    let heard = liar.asked();
    let look_up = heard.iter().find(|heard| heard.path.contains("lookup"));
    let look_up = look_up.unwrap_or_else(|| panic!("{:?}", paths(&heard)));
    assert_eq!(look_up.tokens.len(), 1);
}

/// Every value in a document, by where it stands.
fn members(document: &Value, at: &str, all: &mut Vec<String>) {
    match document {
        Value::Object(members_of_it) => {
            for (name, value) in members_of_it {
                members(value, &format!("{at}/{name}"), all);
            }
        }
        _ => all.push(at.to_owned()),
    }
}

/// Something else of the same type.
fn otherwise(value: &Value, answer: u8) -> Value {
    match value {
        Value::Bool(value) => (!value).into(),
        Value::Number(number) => (number.as_u64().unwrap() ^ (1 + u64::from(answer % 7))).into(),
        Value::String(text) => format!("{text}{answer}").into(),
        Value::Array(items) => {
            let own = items
                .first()
                .map_or(answer.into(), |item| otherwise(item, answer));
            [&items[..], &[own]].concat().into()
        }
        other => other.clone(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_member_of_the_directory_is_taken_that_one_client_alone_is_shown() {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Error).await;
    let alice = init(&stack, 0, "alice", eager()).await.unwrap();
    let mut all = Vec::new();
    let address = stack.ports().of(Service::Gateway);
    let (_, document) = xtask::http::get(address, "/service-directory")
        .await
        .unwrap();
    members(&serde_json::from_str(&document).unwrap(), "", &mut all);
    assert!(all.len() > 20, "{all:?}");
    let mut taken = Vec::new();
    for at in all {
        let member = at.clone();
        changes(&liar, move |directory, answer| {
            let value = directory.pointer_mut(&member).unwrap();
            *value = otherwise(value, answer);
        });
        compares(&alice).await;
        if !matches!(
            alice.disagreement().await.unwrap().as_deref(),
            Some(Error::Directory(_) | Error::Protocol(_))
        ) {
            taken.push(at);
        }
        changes(&liar, |_, _| ());
        compares(&alice).await;
        assert!(
            alice.disagreement().await.unwrap().is_none(),
            "the truth is taken"
        );
    }
    assert_eq!(taken, [""; 0]);
}

fn paths(heard: &[Asked]) -> Vec<&str> {
    heard.iter().map(|heard| heard.path.as_str()).collect()
}

/// Notes who is asked for the views of the issuer.
struct Mirror {
    issuer: String,
    asked: Mutex<Vec<&'static str>>,
}

impl Mirror {
    async fn start(stack: &Stack) -> (Arc<Self>, String) {
        let mirror = Arc::new(Self {
            issuer: format!("http://{}", stack.ports().of(Service::Issuer)),
            asked: Mutex::default(),
        });
        let router = Router::new()
            .route(
                "/ohttp-keys",
                get(|State(it): State<Arc<Self>>| it.shows("/ohttp-keys")),
            )
            .route(
                "/service-directory",
                get(|State(it): State<Arc<Self>>| it.shows("/service-directory")),
            )
            .with_state(Arc::clone(&mirror));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (mirror, format!("http://{address}/ohttp-keys"))
    }

    async fn shows(self: Arc<Self>, path: &'static str) -> Response {
        self.asked.lock().unwrap().push(path);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = http.get(format!("{}{path}", self.issuer)).send().await;
        let answer = answer.unwrap();
        let media_type = answer.headers()["content-type"].clone();
        let body = answer.bytes().await.unwrap();
        ([("content-type", media_type)], body).into_response()
    }

    fn asked(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// What gateway and issuer would need together to aim at a pseudonym: a request is refused, and
/// from the address that the issuer knows as an account somebody asks its mirror a moment later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_refusal_has_a_client_ask_the_mirror_of_who_knows_its_account() {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Error).await;
    let (mirror, url) = Mirror::start(&stack).await;
    let mut description = stack.description();
    description["ohttp_key_mirrors"] = serde_json::json!([url]);
    let options = Options {
        pace: Pace::default(),
        patience: Patience {
            call: Duration::from_secs(1),
            ..Patience::default()
        },
        ..patient()
    };
    let alice = init_with(&stack, &description, 0, "alice", options.clone())
        .await
        .unwrap();
    assert_eq!(mirror.asked(), ["/ohttp-keys", "/service-directory"]);
    alice.sync(0).await.unwrap();

    // Every problem that a service has, sealed for one request of hers.
    for kind in [
        "token-required",
        "token-rejected",
        "stale-timestamp",
        "too-many-requests",
        "unavailable",
        "malformed",
    ] {
        let mut once = true;
        liar.lies(move |heard, told| {
            if heard.path != DIRECTORY && std::mem::take(&mut once) {
                told.status = http::StatusCode::UNAUTHORIZED;
                let json = http::HeaderValue::from_static("application/problem+json");
                told.headers.insert("content-type", json);
                let problem = serde_json::json!({
                    "type": format!("urn:mimi-ds:problem:{kind}"),
                    "now_ms": 5, "epoch": 7, "for": "you"
                });
                told.body = problem.to_string().into_bytes();
            }
        });
        let _ = alice.register_handle("alice").await;
        let _ = alice.sync(0).await;
        assert_eq!(mirror.asked(), [""; 0], "{kind}");
    }
    liar.lies(|_, _| ());

    // The gateway refuses her key. It has replaced it for everybody, or she would go on with it:
    // she waits.
    assert_eq!(
        stack.command(Service::Gateway, "rotate", "now").await.0,
        200
    );
    let waits = alice.register_handle("alice").await.unwrap_err();
    assert!(matches!(waits, Error::Unreachable(_)), "{waits:?}");
    assert_eq!(mirror.asked(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_relay_and_issuer_show_everybody_the_directory_that_the_service_has() {
    let stack = Stack::start(LogLevel::Info).await;
    let mut documents = BTreeSet::new();
    for service in [Service::Gateway, Service::Relay, Service::Issuer] {
        let shown = xtask::http::get(stack.ports().of(service), "/service-directory").await;
        let (status, document) = shown.unwrap();
        assert_eq!(status, 200);
        documents.insert(document);
    }
    assert_eq!(documents.len(), 1);
    let document: Value = serde_json::from_str(documents.first().unwrap()).unwrap();
    assert_eq!(document["domain"], "ds.localhost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rotation_at_the_issuer_people_sign_up_before_the_service_has_heard_of_it() {
    let stack = Stack::start(LogLevel::Error).await;
    let alice = device(&stack, 0, "alice").await;
    assert_eq!(stack.command(Service::Issuer, "rotate", "").await.0, 200);
    let bob = device(&stack, 1, "bob").await;
    assert!(bob.tokens().await.unwrap() > 0);
    let held = alice.tokens().await.unwrap();
    alice.withdraw_tokens(held).await.unwrap();
    alice.fill_wallet().await.unwrap();
    assert!(alice.tokens().await.unwrap() > 0);
}
