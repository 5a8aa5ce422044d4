//! Issuers on real processes: one that wants to recognise its tokens is found out before one is
//! spent.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use client::{Client, Endpoints, Error, IssuerError, Options};
use end_to_end::{LogLevel, Service, Stack, database, free_address, patient, program};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Tokens of a full wallet at the default prices.
const FULL: usize = 200;

async fn metric(admin: SocketAddr, name: &str) -> u64 {
    let (status, metrics) = xtask::http::get(admin, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    metrics
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// A second issuer with keys of its own, for the same accounts: what an issuer would run that gives
/// a user keys that nobody else has.
struct SecondIssuer {
    process: Child,
    listen: SocketAddr,
    admin: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Drop for SecondIssuer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The configuration file of the stack's issuer.
fn issuer_config(stack: &Stack) -> String {
    fn find(directory: PathBuf) -> Option<PathBuf> {
        fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                find(path)
            } else {
                (path.file_name()? == "issuer.toml").then_some(path)
            }
        })
    }
    let root = stack.layout().stack_json().parent().unwrap().to_owned();
    fs::read_to_string(find(root).expect("issuer.toml")).unwrap()
}

impl SecondIssuer {
    async fn start(stack: &Stack) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (listen, admin) = (free_address(), free_address());
        let at = |name: &str| directory.path().join(name).display().to_string();
        let config = issuer_config(stack)
            .replace(
                &stack.ports().of(Service::Issuer).to_string(),
                &listen.to_string(),
            )
            .replace(
                &stack.ports().admin_of(Service::Issuer).to_string(),
                &admin.to_string(),
            )
            .replace(
                &stack.layout().data(Service::Issuer).display().to_string(),
                &at("data"),
            )
            .replace(
                &stack.layout().keys(Service::Issuer).display().to_string(),
                &at("keys"),
            );
        fs::write(at("issuer.toml"), config).unwrap();
        let made = Command::new(program("privacy-pass-issuer"))
            .args(["init", "--config", &at("issuer.toml")])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let process = Command::new(program("privacy-pass-issuer"))
            .args(["--config", &at("issuer.toml")])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let issuer = Self {
            process,
            listen,
            admin,
            _directory: directory,
        };
        let is_ready = async {
            while !matches!(xtask::http::get(admin, "/readyz").await, Ok((200, _))) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), is_ready)
            .await
            .expect("the second issuer becomes ready");
        issuer
    }
}

async fn document_of(issuer: SocketAddr) -> Vec<u8> {
    let path = "/.well-known/private-token-issuer-directory";
    let (status, document) = xtask::http::get(issuer, path).await.unwrap();
    assert_eq!(status, 200);
    document.into_bytes()
}

/// Shows a directory of its choice and signs with no key that anybody was shown.
struct LyingIssuer {
    listen: SocketAddr,
    token_requests: Arc<AtomicUsize>,
    /// Truncated id of the key of each request (RFC 9578 §6.1).
    asked_under: Arc<Mutex<Vec<u8>>>,
}

fn truncated_key_id(key: &serde_json::Value) -> u8 {
    let spki = URL_SAFE.decode(key["token-key"].as_str().unwrap()).unwrap();
    *Sha256::digest(spki).last().unwrap()
}

impl LyingIssuer {
    async fn start(document: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = listener.local_addr().unwrap();
        let token_requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&token_requests);
        let asked_under = Arc::<Mutex<Vec<u8>>>::default();
        let noted = Arc::clone(&asked_under);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (document, counted) = (document.clone(), Arc::clone(&counted));
                let noted = Arc::clone(&noted);
                tokio::spawn(serve(stream, document, counted, noted));
            }
        });
        Self {
            listen,
            token_requests,
            asked_under,
        }
    }
}

async fn serve(
    mut client: TcpStream,
    document: Vec<u8>,
    token_requests: Arc<AtomicUsize>,
    asked_under: Arc<Mutex<Vec<u8>>>,
) {
    let mut request = Vec::new();
    let length = loop {
        if client.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
        let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let Some(end) = head.find("\r\n\r\n") else {
            continue;
        };
        let length = head[..end]
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if request.len() >= end + 4 + length.unwrap_or(0) {
            break length;
        }
    };
    let (media_type, body) = match length {
        None => ("application/private-token-issuer-directory", document),
        Some(length) => {
            token_requests.fetch_add(1, Ordering::SeqCst);
            // As long as the request: each of its elements is answered, by some number.
            let mut answer = request.split_off(request.len() - length);
            // Length of the list, type of the first element, truncated key id.
            asked_under.lock().unwrap().push(answer[4 + 2]);
            for element in answer[4..].chunks_mut(259) {
                element[..3].copy_from_slice(&[1, 0, 2]);
            }
            ("application/private-token-generic-batch-response", answer)
        }
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = client.write_all(&[head.as_bytes(), &body].concat()).await;
}

async fn init_at(stack: &Stack, home: &str, issuer: SocketAddr) -> Result<Client, Error> {
    let mut description = stack.description();
    description["issuer"] = format!("http://{issuer}").into();
    let endpoints = Endpoints::from_json(description.to_string().as_bytes()).unwrap();
    let token = fs::read_to_string(stack.account_token(1)).unwrap();
    let options = Options {
        lock_patience: Duration::from_secs(5),
        ..patient()
    };
    Client::init(&stack.home(home), &endpoints, &token, options).await
}

fn tokens_in(stack: &Stack, home: &str) -> u64 {
    database(&stack.home(home))
        .query_row("SELECT count(*) FROM tokens", (), |row| row.get(0))
        .unwrap()
}

#[tokio::test]
async fn an_issuer_with_a_key_for_one_user_is_found_out_before_a_token_is_asked_for() {
    let stack = Stack::start(LogLevel::Info).await;
    let honest = document_of(stack.ports().of(Service::Issuer)).await;
    let second = SecondIssuer::start(&stack).await;
    let own = document_of(second.listen).await;

    // Keys of its own instead of everybody's.
    let refused = init_at(&stack, "instead", second.listen).await.unwrap_err();
    assert!(matches!(refused, Error::Issuer(IssuerError::KeyMismatch)));
    assert_eq!(refused.code(), "issuer-key-mismatch");
    assert_eq!(tokens_in(&stack, "instead"), 0);
    assert_eq!(metric(second.admin, "issuer_tokens_issued_total").await, 0);

    // One more beside everybody's, which it would rather have used: what it gets is a request under
    // everybody's.
    let mut both: serde_json::Value = serde_json::from_slice(&honest).unwrap();
    let own: serde_json::Value = serde_json::from_slice(&own).unwrap();
    let keys = both["token-keys"].as_array_mut().unwrap();
    let everybodys = truncated_key_id(&keys[0]);
    keys.insert(0, own["token-keys"][0].clone());
    let beside = LyingIssuer::start(both.to_string().into_bytes()).await;
    let refused = init_at(&stack, "beside", beside.listen).await.unwrap_err();
    assert!(matches!(refused, Error::Issuer(IssuerError::Answer)));
    assert_eq!(*beside.asked_under.lock().unwrap(), [everybodys]);
    assert_eq!(tokens_in(&stack, "beside"), 0);

    // None at all.
    let mut none = both.clone();
    none["token-keys"] = serde_json::json!([]);
    let without = LyingIssuer::start(none.to_string().into_bytes()).await;
    let refused = init_at(&stack, "without", without.listen)
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Issuer(IssuerError::KeyMismatch)));
    assert_eq!(without.token_requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_issuer_that_shows_everybodys_keys_and_signs_with_another_gives_no_token() {
    let stack = Stack::start(LogLevel::Info).await;
    let honest = document_of(stack.ports().of(Service::Issuer)).await;
    let lying = LyingIssuer::start(honest).await;
    let refused = init_at(&stack, "alice", lying.listen).await.unwrap_err();
    assert!(matches!(refused, Error::Issuer(IssuerError::Answer)));
    assert_eq!(lying.token_requests.load(Ordering::SeqCst), 1);
    assert_eq!(tokens_in(&stack, "alice"), 0);

    // The same home with the honest issuer.
    let honest = stack.ports().of(Service::Issuer);
    let alice = init_at(&stack, "alice", honest).await.unwrap();
    assert_eq!(alice.tokens().await.unwrap(), FULL);
}
