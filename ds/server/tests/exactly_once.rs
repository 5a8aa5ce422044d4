//! 5,000 tokens, each presented in two requests and again after every crash, to real processes that
//! are killed with SIGKILL meanwhile: 5,000 spends, 5,000 effects. One process on RocksDB; three on
//! one PostgreSQL, where the two requests of a token mostly go to different ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test with real processes, in real time"
)]

#[allow(unreachable_pub, reason = "of a library")]
#[path = "../../../xtask/src/ports.rs"]
mod ports;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PSS_SHA384, RsaKeyPair};
use axum::Json;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use blind_rsa_signatures::{Deterministic, KeyPair, PSS, Sha384};
use crypto::sign::SignatureKeyPair;
use ds_domain::engine::{Engine as _, Found, Range, Read, Table};
use ds_domain::tokens::Challenge;
use ds_store_postgres::server::Server;
use ds_store_rocks::Rocks;
use protocol::codec::opaque;
use protocol::group::ReserveGroupIdRequest;
use protocol::ids::Minute;
use protocol::operation::Operation;
use protocol::request::{REQUEST_LABEL, RequestTbs, Sender, SignedRequest};
use protocol::{REQUEST_MEDIA_TYPE, WIRE_VERSION, Wire};
use rand::seq::SliceRandom as _;
use service::gateway_auth::{GATEWAY_AUTHORIZATION, GatewaySecret};
use sha2::{Digest as _, Sha256};
use tls_codec::Serialize as _;

const TOKENS: usize = 5_000;
const REQUESTS: usize = 2 * TOKENS;
const AT_ONCE: usize = 64;
/// After so many answers each.
const KILLS: [usize; 4] = [1_000, 3_000, 5_500, 8_000];
const PATIENCE: Duration = Duration::from_secs(60);

/// An issuer whose key the test has, so that it can sign what a client would get unblinded.
struct Issuer {
    key: RsaKeyPair,
    spki: Vec<u8>,
    challenge: Challenge,
}

impl Issuer {
    fn new() -> Self {
        type Pair = KeyPair<Sha384, PSS, Deterministic>;
        let pair = Pair::generate(&mut rand_of_the_issuer(), 2048).unwrap();
        Self {
            key: RsaKeyPair::from_pkcs8(&pair.sk.to_der().unwrap()).unwrap(),
            spki: pair.pk.to_spki().unwrap(),
            challenge: Challenge::new("issuer.example", "ds.example").unwrap(),
        }
    }

    /// A token as RFC 9577 §2.2 has it: a signature with PSS is what unblinding gives.
    fn token(&self, randomness: &SystemRandom) -> String {
        let nonce: [u8; 32] = crypto::random().unwrap();
        let mut token = [
            &[0, 2][..],
            &nonce,
            self.challenge.digest(),
            &Sha256::digest(&self.spki),
        ]
        .concat();
        let mut signature = [0; 256];
        self.key
            .sign(&RSA_PSS_SHA384, randomness, &token, &mut signature)
            .unwrap();
        token.extend(signature);
        format!("PrivateToken token=\"{}\"", URL_SAFE.encode(token))
    }

    async fn serve_directory(&self) -> SocketAddr {
        let directory = serde_json::json!({
            "issuer-request-uri": "/token-request",
            "token-keys": [{"token-type": 2, "token-key": URL_SAFE.encode(&self.spki)}],
        });
        let app = axum::Router::new().route("/", get(async move || Json(directory)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        address
    }
}

fn rand_of_the_issuer() -> impl blind_rsa_signatures::reexports::rand::CryptoRng {
    blind_rsa_signatures::reexports::rand::rng()
}

fn free_address() -> SocketAddr {
    ([127, 0, 0, 1], ports::free().unwrap()).into()
}

/// The delivery service as its operator runs it.
struct Process {
    config: std::path::PathBuf,
    admin: SocketAddr,
    child: Mutex<Child>,
}

impl Process {
    /// Nodes in one directory have the same keys; `store` is the table `[store]`.
    fn start(
        directory: &Path,
        name: &str,
        listen: SocketAddr,
        issuer: SocketAddr,
        store: &str,
    ) -> Self {
        let admin = free_address();
        let at = |name: &str| directory.join(name).display().to_string();
        let config = directory.join(format!("{name}.toml"));
        let text = format!(
            "listen = \"{listen}\"\ndomain = \"ds.example\"\n\
             service_key_file = \"{}\"\ngateway_secret_file = \"{}\"\n\
             [store]\n{store}\n[blobs]\nstore = \"memory\"\n\
             [issuer]\nname = \"issuer.example\"\norigin = \"ds.example\"\n\
             directory = \"http://{issuer}/\"\n\
             [service]\nadmin_listen = \"{admin}\"\nlog_level = \"error\"\n",
            at("service-keys"),
            at("gateway-secret"),
        );
        std::fs::write(&config, text).unwrap();
        if !directory.join("service-keys").exists() {
            let made = Command::new(env!("CARGO_BIN_EXE_ds"))
                .args(["init", "--config"])
                .arg(&config)
                .stdout(Stdio::null())
                .status();
            assert!(made.unwrap().success());
        }
        Self {
            child: Mutex::new(Self::spawn(&config)),
            config,
            admin,
        }
    }

    fn spawn(config: &Path) -> Child {
        Command::new(env!("CARGO_BIN_EXE_ds"))
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn restart(&self) {
        self.kill();
        *self.child.lock().unwrap() = Self::spawn(&self.config);
    }

    async fn ready(&self, http: &reqwest::Client) {
        let url = format!("http://{}/readyz", self.admin);
        let began = Instant::now();
        while !matches!(http.get(&url).send().await, Ok(answer) if answer.status() == 200) {
            assert!(began.elapsed() < PATIENCE, "the service does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Process {
    async fn attempts_to_spend_twice(&self, http: &reqwest::Client) -> usize {
        let metrics = http.get(format!("http://{}/metrics", self.admin)).send();
        let metrics = metrics.await.unwrap().text().await.unwrap();
        let counter = "ds_tokens_refused_total{reason=\"spent\"} ";
        let value = metrics.lines().find_map(|line| line.strip_prefix(counter));
        value.map_or(0, |value| value.parse().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A request of its own that costs one token.
fn reservation() -> Vec<u8> {
    let key = SignatureKeyPair::random().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let minute = Minute::of(now.as_millis() as u64);
    let nonce = crypto::random().unwrap();
    let sender = Sender::Key(opaque(key.public()));
    let body = opaque(
        ReserveGroupIdRequest {
            group_id: protocol::ids::GroupId(crypto::random().unwrap()),
        }
        .encode(),
    );
    let operation = Operation::ReserveGroupId;
    let signed = RequestTbs {
        version: WIRE_VERSION,
        operation,
        minute,
        nonce,
        sender: &sender,
        body: &body,
    };
    let signed = signed.tls_serialize_detached().unwrap();
    let signature = key.sign(REQUEST_LABEL, &signed);
    SignedRequest {
        version: WIRE_VERSION,
        operation,
        minute,
        nonce,
        sender,
        body,
        signature: opaque(signature),
    }
    .encode()
}

/// What a request was answered in the end.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done(Vec<u8>),
    Spent,
}

struct Way {
    http: reqwest::Client,
    /// One a node.
    urls: Vec<String>,
    gateway: http::HeaderValue,
}

impl Way {
    /// Sends the same bytes until they are answered: to the node of this number, then to the others
    /// in turn.
    async fn redeem(&self, node: usize, request: &[u8], token: &str) -> Outcome {
        let began = Instant::now();
        let mut attempt = node;
        loop {
            assert!(began.elapsed() < PATIENCE, "no answer");
            let url = &self.urls[attempt % self.urls.len()];
            attempt += 1;
            let sent = self
                .http
                .post(url)
                .header(GATEWAY_AUTHORIZATION, self.gateway.clone())
                .header("content-type", REQUEST_MEDIA_TYPE)
                .header("authorization", token)
                .body(request.to_vec())
                .send()
                .await;
            let Ok(answer) = sent else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let status = answer.status().as_u16();
            let Ok(body) = answer.bytes().await else {
                continue;
            };
            match status {
                200 => return Outcome::Done(body.to_vec()),
                401 => {
                    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    assert_eq!(problem["type"], "urn:mimi-ds:problem:token-rejected");
                    return Outcome::Spent;
                }
                409 | 500..=599 => tokio::time::sleep(Duration::from_millis(20)).await,
                other => panic!("answered {other}"),
            }
        }
    }
}

/// Nodes of one delivery service, and what they are to redeem.
struct Scene {
    nodes: Vec<Process>,
    way: Way,
    tokens: Vec<String>,
    presentations: Vec<(usize, Vec<u8>)>,
}

impl Scene {
    async fn start(directory: &Path, nodes: usize, store: &str) -> Self {
        let issuer = Issuer::new();
        let randomness = SystemRandom::new();
        let tokens = (0..TOKENS).map(|_| issuer.token(&randomness)).collect();
        let secret = GatewaySecret::load_or_create(&directory.join("gateway-secret")).unwrap();
        let issuer = issuer.serve_directory().await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let (mut processes, mut urls) = (Vec::new(), Vec::new());
        for node in 0..nodes {
            let listen = free_address();
            let name = format!("node-{node}");
            let process = Process::start(directory, &name, listen, issuer, store);
            // The first one makes the keys and the tables.
            process.ready(&http).await;
            processes.push(process);
            urls.push(format!(
                "http://{listen}{}",
                Operation::ReserveGroupId.path()
            ));
        }
        let mut presentations: Vec<(usize, Vec<u8>)> = (0..REQUESTS)
            .map(|number| (number % TOKENS, reservation()))
            .collect();
        presentations.shuffle(&mut rand::rng());
        Self {
            nodes: processes,
            way: Way {
                http,
                urls,
                gateway: secret.header_value(),
            },
            tokens,
            presentations,
        }
    }

    async fn redeem(&self, number: usize) -> (usize, Outcome) {
        let (token, request) = &self.presentations[number];
        let outcome = self.way.redeem(number, request, &self.tokens[*token]);
        (*token, outcome.await)
    }

    /// Every token is spent by one of its two requests, whatever is killed meanwhile, and stays so.
    async fn play(self: Arc<Self>) {
        let (next, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let this = Arc::clone(&self);
                let (next, answered) = (Arc::clone(&next), Arc::clone(&answered));
                tokio::spawn(async move {
                    let mut outcomes = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= REQUESTS {
                            return outcomes;
                        }
                        outcomes.push(this.redeem(number).await);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for (kill, kill_after) in KILLS.into_iter().enumerate() {
            while answered.load(Ordering::Relaxed) < kill_after {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            self.nodes[kill % self.nodes.len()].restart();
        }
        let mut done = vec![0; TOKENS];
        let mut spent = vec![0; TOKENS];
        for worker in workers {
            for (token, outcome) in worker.await.unwrap() {
                match outcome {
                    Outcome::Done(_) => done[token] += 1,
                    Outcome::Spent => spent[token] += 1,
                }
            }
        }
        assert_eq!((done, spent), (vec![1; TOKENS], vec![1; TOKENS]));

        // Once more after all of it: what was carried out is answered alike, what was not stays
        // refused.
        for node in &self.nodes {
            node.restart();
            node.ready(&self.way.http).await;
        }
        let mut again = [0, 0];
        // From all over: of those that came first hardly any was refused.
        for number in (0..REQUESTS).step_by(REQUESTS / 200) {
            let (_, outcome) = self.redeem(number).await;
            again[usize::from(outcome == Outcome::Spent)] += 1;
        }
        assert!(again[0] > 0 && again[1] > 0, "{again:?}");
        let mut refused = 0;
        for node in &self.nodes {
            refused += node.attempts_to_spend_twice(&self.way.http).await;
        }
        assert_eq!(refused, again[1]);
        for node in &self.nodes {
            node.kill();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_redemptions_of_five_thousand_tokens_over_kills_are_five_thousand_spends() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("store");
    let store = format!("engine = \"rocksdb\"\ndirectory = \"{}\"", data.display());
    Arc::new(Scene::start(directory.path(), 1, &store).await)
        .play()
        .await;
    let rocks = Rocks::open(data).unwrap();
    let rows = async |table, day| {
        let range = Range {
            table,
            day,
            prefix: Vec::new(),
            from: Vec::new(),
            limit: usize::MAX,
            max_bytes: usize::MAX,
        };
        match rocks.read(vec![Read::Range(range)]).await.unwrap().pop() {
            Some(Found::Range(rows)) => rows.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(rows(Table::Spent, 0).await, TOKENS);
    // Good until the end of the day after, whichever day it was when each was made.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let today = (now.as_secs() / 86_400) as u32;
    let mut reserved = 0;
    for day in today - 1..=today + 1 {
        reserved += rows(Table::Reservations, day).await;
    }
    assert_eq!(reserved, TOKENS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_are_they_over_three_nodes_on_one_database_with_kills_of_each() {
    let Some(server) = Server::shared() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let database = server.fresh_database().await;
    let store = format!(
        "engine = \"postgres\"\nhost = \"{}\"\nuser = \"mimimi\"\ndatabase = \"{database}\"\n\
         password_file = \"{}\"\nconnections = 16\nacquire_ms = 20000",
        server.sockets,
        server.password_file.display()
    );
    Arc::new(Scene::start(directory.path(), 3, &store).await)
        .play()
        .await;
    for table in ["spent", "reservations"] {
        let rows = server
            .number(&database, &format!("SELECT count(*) FROM {table}"))
            .await;
        assert_eq!(rows, TOKENS as i64, "{table}");
    }
}
