//! A relay that hands its users another OHTTP key than the gateway's reads everything, unless they
//! notice.

use std::io::Cursor;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bhttp::{Message, Mode};
use client::{Client, Endpoints, Error, KeyView, Options, Patience};
use end_to_end::{LogLevel, Service, Stack};
use ohttp::hpke::{Aead, Kdf, Kem};
use ohttp::{ClientRequest, KeyConfig, Server, SymmetricSuite};

/// A relay in the middle: opens what comes under its own key, and passes it on under the gateway's.
struct EvilRelay {
    server: Server,
    config: Vec<u8>,
    gateway: String,
    /// Whether it also answers in the gateway's name when it is asked for its keys.
    forges: bool,
    /// Method and path of what it has read.
    read: Mutex<Vec<(String, String)>>,
}

impl EvilRelay {
    async fn start(stack: &Stack, forges: bool) -> (Arc<Self>, String) {
        let suites = vec![SymmetricSuite::new(Kdf::HkdfSha256, Aead::Aes128Gcm)];
        let config = KeyConfig::derive(1, Kem::X25519Sha256, suites, &[7; 32]).unwrap();
        let relay = Arc::new(Self {
            config: KeyConfig::encode_list(std::slice::from_ref(&config)).unwrap(),
            server: Server::new(config).unwrap(),
            gateway: format!("http://{}/", stack.ports().of(Service::Gateway)),
            forges,
            read: Mutex::default(),
        });
        let app = Router::new()
            .route("/", post(forward))
            .route("/ohttp-keys", get(keys))
            .route("/service-directory", get(directory))
            .with_state(Arc::clone(&relay));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (relay, format!("http://{address}/"))
    }

    fn read(&self) -> Vec<(String, String)> {
        self.read.lock().unwrap().clone()
    }

    async fn ask_gateway(&self, inner: &[u8]) -> Vec<u8> {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let list = http.get(format!("{}ohttp-keys", self.gateway));
        let list = list.send().await.unwrap().bytes().await.unwrap();
        let length = usize::from(u16::from_be_bytes([list[0], list[1]]));
        let request = ClientRequest::from_encoded_config(&list[2..2 + length]).unwrap();
        let (encapsulated, response) = request.encapsulate(inner).unwrap();
        let answer = http
            .post(&self.gateway)
            .header("content-type", "message/ohttp-req")
            .body(encapsulated)
            .send()
            .await
            .unwrap();
        let answer = answer.bytes().await.unwrap();
        response.decapsulate(&answer).unwrap()
    }
}

async fn keys(State(relay): State<Arc<EvilRelay>>) -> Response {
    let media_type = [("content-type", "application/ohttp-keys")];
    (media_type, relay.config.clone()).into_response()
}

async fn directory(State(relay): State<Arc<EvilRelay>>) -> Response {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let shown = http.get(format!("{}service-directory", relay.gateway));
    let shown = shown.send().await.unwrap().bytes().await.unwrap();
    ([("content-type", "application/json")], shown).into_response()
}

async fn forward(State(relay): State<Arc<EvilRelay>>, body: Bytes) -> Response {
    let (inner, response) = relay.server.decapsulate(&body).unwrap();
    let message = Message::read_bhttp(&mut Cursor::new(&inner)).unwrap();
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
    let control = message.control();
    let (method, path) = (text(control.method()), text(control.path()));
    relay
        .read
        .lock()
        .unwrap()
        .push((method.clone(), path.clone()));
    let answer = if relay.forges && path == "/.well-known/ohttp-gateway" {
        let mut answer = Message::response(bhttp::StatusCode::OK);
        answer.put_header("content-type", "application/ohttp-keys");
        answer.write_content(&relay.config);
        let mut encoded = Vec::new();
        answer.write_bhttp(Mode::KnownLength, &mut encoded).unwrap();
        encoded
    } else {
        relay.ask_gateway(&inner).await
    };
    let sealed = response.encapsulate(&answer).unwrap();
    ([("content-type", "message/ohttp-res")], sealed).into_response()
}

async fn init(stack: &Stack, home: &str, relay: &str, mirrors: bool) -> Result<Client, Error> {
    let mut description = stack.description();
    description["relay"] = relay.into();
    description["ohttp_keys"] = format!("{relay}ohttp-keys").into();
    if !mirrors {
        description["ohttp_key_mirrors"] = serde_json::json!([]);
    }
    init_by(stack, home, &description).await
}

async fn init_by(
    stack: &Stack,
    home: &str,
    description: &serde_json::Value,
) -> Result<Client, Error> {
    let endpoints = Endpoints::from_json(description.to_string().as_bytes()).unwrap();
    let token = std::fs::read_to_string(stack.account_token(0)).unwrap();
    let options = Options {
        patience: Patience {
            call: std::time::Duration::from_secs(2),
            ..Patience::default()
        },
        ..Options::default()
    };
    Client::init(&stack.home(home), &endpoints, &token, options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_with_a_key_of_its_own_is_noticed_before_anything_with_a_content_goes_out() {
    let stack = Stack::start(LogLevel::Error).await;
    let own_question = ("GET".to_owned(), "/.well-known/ohttp-gateway".to_owned());

    // An independent mirror: nothing goes out at all, however well the relay forges.
    let (relay, url) = EvilRelay::start(&stack, true).await;
    let refused = init(&stack, "mirrored", &url, true).await.err();
    assert!(
        matches!(refused, Some(Error::KeyConfigMismatch(KeyView::Mirror))),
        "{refused:?}"
    );
    assert_eq!(relay.read(), []);

    // Without one the gateway's own answer betrays a relay that passes it on.
    let (relay, url) = EvilRelay::start(&stack, false).await;
    let refused = init(&stack, "asks", &url, false).await.err();
    assert!(
        matches!(refused, Some(Error::KeyConfigMismatch(KeyView::Gateway))),
        "{refused:?}"
    );
    assert_eq!(relay.read(), [own_question]);

    // One that forges this answer too is not noticed: that is what mirrors are for.
    let (relay, url) = EvilRelay::start(&stack, true).await;
    init(&stack, "alone", &url, false).await.unwrap();
    assert!(relay.read().len() > 1);

    // The honest relay passes all of it.
    let honest = stack.description()["relay"].as_str().unwrap().to_owned();
    init(&stack, "honest", &honest, true).await.unwrap();
}

/// A list of key configurations, taken apart.
fn split(mut list: &[u8]) -> Vec<Vec<u8>> {
    let mut configs = Vec::new();
    while let Some((length, rest)) = list.split_first_chunk::<2>() {
        let (config, next) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
        configs.push(config.to_vec());
        list = next;
    }
    configs
}

fn join(configs: &[Vec<u8>]) -> Vec<u8> {
    let encoded = configs.iter().map(|config| {
        let length = u16::try_from(config.len()).unwrap();
        [&length.to_be_bytes()[..], config].concat()
    });
    encoded.collect::<Vec<_>>().concat()
}

/// Changes every configuration of a list (RFC 9458 §3.1: key id, KEM, public key, length and
/// suites).
fn each(list: &[u8], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut configs = split(list);
    configs.iter_mut().for_each(change);
    join(&configs)
}

/// Where the suites of a configuration begin, behind their length: these have two.
fn suites(config: &[u8]) -> usize {
    config.len() - 8
}

/// What becomes of who is shown it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// It goes on by a key that all views show.
    Agrees,
    /// It says which view is another one, or that the list cannot be used; nothing goes out.
    Refused,
}

/// What is changed in a list of key configurations, how, and what comes of it at the relay and at
/// the mirror.
type KeyLie = (&'static str, fn(&[u8]) -> Vec<u8>, [Shown; 2]);

const KEY_LIES: &[KeyLie] = &[
    ("nothing", |_| Vec::new(), [Shown::Refused; 2]),
    (
        "cut short",
        |list| list[..list.len() - 1].to_vec(),
        [Shown::Refused; 2],
    ),
    (
        "with a byte more",
        |list| [list, &[0]].concat(),
        [Shown::Refused; 2],
    ),
    (
        "length: one more",
        |list| {
            let mut list = list.to_vec();
            list[1] = list[1].wrapping_add(1);
            list
        },
        [Shown::Refused; 2],
    ),
    (
        "each twice and thrice",
        |list| [list, list, list].concat(),
        [Shown::Refused; 2],
    ),
    (
        "the last one two hundred times",
        |list| join(&vec![split(list).pop().unwrap(); 200]),
        [Shown::Refused; 2],
    ),
    (
        "in another order",
        |list| {
            let mut configs = split(list);
            configs.reverse();
            join(&configs)
        },
        [Shown::Agrees; 2],
    ),
    (
        "key_id: others",
        |list| each(list, |config| config[0] ^= 0x55),
        [Shown::Refused; 2],
    ),
    (
        "kem_id: no such",
        |list| each(list, |config| config[1..3].fill(0x7f)),
        [Shown::Refused; 2],
    ),
    (
        "kem_id: each the one of the next",
        |list| {
            let configs = split(list);
            let mut changed = configs.clone();
            for (at, config) in changed.iter_mut().enumerate() {
                config[1..3].copy_from_slice(&configs[(at + 1) % configs.len()][1..3]);
            }
            join(&changed)
        },
        [Shown::Refused; 2],
    ),
    (
        "public_key: others",
        |list| each(list, |config| config[3..35].fill(9)),
        [Shown::Refused; 2],
    ),
    (
        "symmetric_algorithms: none",
        |list| {
            each(list, |config| {
                config.truncate(suites(config));
                let at = config.len() - 2;
                config[at..].fill(0);
            })
        },
        [Shown::Refused; 2],
    ),
    (
        "symmetric_algorithms: a length that they do not have",
        |list| {
            each(list, |config| {
                let at = suites(config) - 1;
                config[at] += 1;
            })
        },
        [Shown::Refused; 2],
    ),
    (
        "symmetric_algorithms: no such",
        |list| {
            each(list, |config| {
                let at = suites(config);
                config[at..].fill(0x7f);
            })
        },
        [Shown::Refused; 2],
    ),
    (
        "symmetric_algorithms: in another order",
        |list| {
            each(list, |config| {
                let at = suites(config);
                config[at..].rotate_left(4);
            })
        },
        [Shown::Agrees; 2],
    ),
];

/// Shows a list that was changed, and leads on to the true relay in all else.
struct Altering {
    behind: String,
    change: fn(&[u8]) -> Vec<u8>,
    /// Encapsulated requests that have come.
    passed: Mutex<usize>,
}

impl Altering {
    async fn start(behind: &str, change: fn(&[u8]) -> Vec<u8>) -> (Arc<Self>, String) {
        let this = Arc::new(Self {
            behind: behind.trim_end_matches('/').to_owned(),
            change,
            passed: Mutex::default(),
        });
        let app = Router::new().fallback(alter).with_state(Arc::clone(&this));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (this, format!("http://{address}/"))
    }
}

async fn alter(State(this): State<Arc<Altering>>, request: axum::extract::Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    if head.method == http::Method::POST {
        *this.passed.lock().unwrap() += 1;
    }
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let path = head.uri.path();
    let mut onward = http.request(head.method.clone(), format!("{}{path}", this.behind));
    if let Some(kind) = head.headers.get("content-type") {
        onward = onward.header("content-type", kind);
    }
    let answer = onward.body(body).send().await.unwrap();
    let (status, kind) = (answer.status(), answer.headers()["content-type"].clone());
    let mut shown = answer.bytes().await.unwrap().to_vec();
    if path.ends_with("ohttp-keys") {
        shown = (this.change)(&shown);
    }
    (status, [("content-type", kind)], shown).into_response()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_field_of_a_key_configuration_leads_a_client_to_a_key_that_not_all_are_shown() {
    let stack = Stack::start(LogLevel::Error).await;
    let relay = stack.description()["relay"].as_str().unwrap().to_owned();
    let mirror = format!("http://{}/", stack.ports().of(Service::Issuer));
    let mut fell = Vec::new();
    let mut number = 0;
    for (what, change, expected) in KEY_LIES {
        for (view, expected) in ["relay", "mirror"].into_iter().zip(expected) {
            let mut description = stack.description();
            let true_place = if view == "relay" { &relay } else { &mirror };
            let (altering, url) = Altering::start(true_place, *change).await;
            let keys = format!("{url}ohttp-keys");
            if view == "relay" {
                description["relay"] = url.into();
                description["ohttp_keys"] = keys.into();
            } else {
                description["ohttp_key_mirrors"] = serde_json::json!([keys]);
            }
            number += 1;
            let home = format!("home {number}");
            let client = init_by(&stack, &home, &description).await;
            let sent = *altering.passed.lock().unwrap();
            let seen = match &client {
                Ok(_) => Shown::Agrees,
                Err(_) => Shown::Refused,
            };
            if seen != *expected {
                fell.push(format!(
                    "{what} at the {view}: {seen:?}: {:?}",
                    client.err()
                ));
            }
            if seen == Shown::Refused && sent > 0 {
                fell.push(format!("{what} at the {view}: {sent} requests go out"));
            }
        }
    }
    assert!(fell.is_empty(), "{}", fell.join("\n"));
}
