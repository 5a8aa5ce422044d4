//! A relay that hands its users another OHTTP key than the gateway's reads everything, unless they notice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

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
