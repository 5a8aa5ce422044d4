//! A push service that notes what it is sent and answers as it is told; the binary; and devices.

#[allow(unreachable_pub, reason = "of a library")]
#[path = "../../../xtask/src/ports.rs"]
mod ports;

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use crypto::sign::SignatureKeyPair;
use http::{HeaderMap, StatusCode, Version};
use http_body_util::BodyExt as _;
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::push::*;
use service::Shutdown;
use service::gateway_auth::{GATEWAY_AUTHORIZATION, GatewaySecret};
use service::http::{Limits, Server};
use service::shutdown::ShutdownTrigger;
use service::tls::ServerTls;

pub(crate) const WITHIN: Duration = Duration::from_secs(30);
/// Long enough for a push to come that should not.
const QUIET: Duration = Duration::from_millis(700);

/// What a push service was sent.
pub(crate) struct Noted {
    pub(crate) version: Version,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Noted {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }
}

type Prepared = (u16, Vec<(&'static str, String)>, String);

#[derive(Clone, Default)]
struct Notes {
    noted: Arc<Mutex<Vec<Noted>>>,
    answers: Arc<Mutex<VecDeque<Prepared>>>,
}

pub(crate) struct PushService {
    notes: Notes,
    pub(crate) port: u16,
    _ends: ShutdownTrigger,
}

async fn note(State(notes): State<Notes>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let noted = Noted {
        version: head.version,
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body: body.collect().await.unwrap().to_bytes(),
    };
    notes.noted.lock().unwrap().push(noted);
    let prepared = notes.answers.lock().unwrap().pop_front();
    let (status, headers, body) = prepared.unwrap_or((201, Vec::new(), String::new()));
    let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

impl PushService {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(crate) async fn start_with(tls: Option<Arc<ServerTls>>) -> Self {
        let notes = Notes::default();
        let router = axum::Router::new().fallback(note).with_state(notes.clone());
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = service::http::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (ends, shutdown) = Shutdown::channel();
        let server = Server::new(listener, Limits::default()).with_tls(tls);
        tokio::spawn(server.serve(router, shutdown));
        Self {
            notes,
            port,
            _ends: ends,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The next answer after those that were prepared before.
    pub(crate) fn answer(&self, status: u16, headers: &[(&'static str, &str)], body: &str) {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        let prepared = (status, headers.collect(), body.to_owned());
        self.notes.answers.lock().unwrap().push_back(prepared);
    }

    /// So many requests and no more, in the order in which they came.
    pub(crate) async fn exactly(&self, count: usize) -> Vec<Noted> {
        self.at_least(count).await;
        let noted = self.settled().await;
        assert_eq!(noted.len(), count, "requests at the push service");
        noted
    }

    /// What has come, and comes in a moment.
    pub(crate) async fn settled(&self) -> Vec<Noted> {
        tokio::time::sleep(QUIET).await;
        std::mem::take(&mut *self.notes.noted.lock().unwrap())
    }

    pub(crate) async fn at_least(&self, count: usize) {
        let come = async {
            while self.notes.noted.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let come = tokio::time::timeout(WITHIN, come).await;
        assert!(come.is_ok(), "a push is missing");
    }
}

pub(crate) struct Sender {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) http: reqwest::Client,
    port: u16,
    admin_port: u16,
    child: Option<Child>,
}

impl Drop for Sender {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Sender {
    /// With the tables of the senders.
    pub(crate) async fn start(tables: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::start_in(directory, tables).await
    }

    pub(crate) async fn start_in(directory: tempfile::TempDir, tables: &str) -> Self {
        Self::start_changed(directory, tables, &[]).await
    }

    /// And with lines of the configuration changed to others.
    pub(crate) async fn start_changed(
        directory: tempfile::TempDir,
        tables: &str,
        changes: &[[&str; 2]],
    ) -> Self {
        let (port, admin_port) = (ports::free().unwrap(), ports::free().unwrap());
        let at = |name: &str| directory.path().join(name).display().to_string();
        let mut config = format!(
            "listen = '127.0.0.1:{port}'\ngateway_secret_file = '{}'\ndata_directory = '{}'\n\
             key_file = '{}'\n\
             [[delivery_services]]\nsecret_file = '{}'\n\
             [pace]\nprompt_ms = 100\nprompt_jitter_ms = 20\nbatched_ms = 60000\nbatched_jitter_ms = 0\n\
             decoy_mean_ms = 0\n\
             [sending]\nallow_loopback = true\nattempts = 3\nretry_ms = 50\nlongest_retry_ms = 3000\n\
             answer_seconds = 5\nmax_at_once = 4\n\
             [service]\nadmin_listen = '127.0.0.1:{admin_port}'\nlog_level = 'trace'\n\
             [limits]\nmax_body_bytes = 65536\n{tables}\n",
            at("gateway-secret"),
            at("data"),
            at("push.key"),
            at("ds-secret"),
        );
        for [line, changed] in changes {
            assert!(config.contains(line), "{line}");
            config = config.replace(line, changed);
        }
        std::fs::write(directory.path().join("push.toml"), config).unwrap();
        let mut sender = Self {
            directory,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            port,
            admin_port,
            child: None,
        };
        let made = sender
            .command()
            .arg("init")
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success(), "{}", sender.log());
        sender.begin().await;
        sender
    }

    pub(crate) fn command(&self) -> Command {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_push-sender"));
        command
            .arg("--config")
            .arg(self.directory.path().join("push.toml"))
            .stderr(Stdio::from(log));
        command
    }

    async fn begin(&mut self) {
        self.child = Some(self.command().spawn().unwrap());
        let ready = format!("http://127.0.0.1:{}/readyz", self.admin_port);
        let is_ready = async {
            while !self
                .http
                .get(&ready)
                .send()
                .await
                .is_ok_and(|answer| answer.status() == 200)
            {
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        };
        let in_time = tokio::time::timeout(WITHIN, is_ready).await;
        assert!(in_time.is_ok(), "not ready: {}", self.log());
    }

    /// Ends it as a power failure would, and starts it again.
    pub(crate) async fn kill_and_start(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        self.begin().await;
    }

    /// Whether it ends well when it is told to.
    pub(crate) fn terminate(&mut self) -> bool {
        let mut child = self.child.take().unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        child.wait().unwrap().success()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.admin_port);
        self.http
            .get(url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }

    /// A counter with labels of these values.
    pub(crate) async fn count(&self, name: &str, labels: &[&str]) -> usize {
        let metrics = self.metrics().await;
        let of_name = metrics.lines().filter(|line| line.starts_with(name));
        let mut of_name = of_name;
        let line = of_name.rfind(|line| {
            labels
                .iter()
                .all(|label| line.contains(&format!("\"{label}\"")))
        });
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Waits until that counter shows so much.
    pub(crate) async fn counts(&self, name: &str, labels: &[&str], count: usize) {
        let counted = async {
            while self.count(name, labels).await != count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(WITHIN, counted).await;
        assert!(
            in_time.is_ok(),
            "{name} {labels:?}: {}",
            self.metrics().await
        );
    }

    fn secret(&self, name: &str) -> http::HeaderValue {
        let path = self.directory.path().join(name);
        GatewaySecret::load(&path).unwrap().header_value()
    }

    pub(crate) fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.http
            .post(format!("http://127.0.0.1:{}{path}", self.port))
            .header("content-type", REQUEST_MEDIA_TYPE)
    }

    /// In the name of the gateway.
    pub(crate) async fn device(&self, body: Vec<u8>) -> (u16, Vec<u8>) {
        let secret = self.secret("gateway-secret");
        let request = self.post(DEVICE_PATH).header(GATEWAY_AUTHORIZATION, secret);
        let answer = request.body(body).send().await.unwrap();
        (
            answer.status().as_u16(),
            answer.bytes().await.unwrap().to_vec(),
        )
    }

    /// In the name of the delivery service: the status and all of the body.
    pub(crate) async fn wakes(&self, handles: Vec<Handle>) -> (u16, Vec<u8>) {
        let version = VERSION;
        let body = WakeRequest { version, handles }.encode();
        let secret = self.secret("ds-secret");
        let request = self.post(WAKE_PATH);
        let request = request.header(push_sender::PUSH_AUTHORIZATION, secret);
        let answer = request.body(body).send().await.unwrap();
        (
            answer.status().as_u16(),
            answer.bytes().await.unwrap().to_vec(),
        )
    }

    pub(crate) async fn wake(&self, handle: Handle) {
        let answer = self.wakes(vec![handle]).await;
        assert_eq!(answer, (202, Vec::new()));
    }
}

pub(crate) struct Device {
    key: SignatureKeyPair,
    number: u64,
}

impl Device {
    pub(crate) fn new() -> Self {
        Self {
            key: SignatureKeyPair::random().unwrap(),
            number: 0,
        }
    }

    pub(crate) fn request(&mut self, act: DeviceAct) -> Vec<u8> {
        self.number += 1;
        let request = DeviceRequestTbs {
            version: VERSION,
            owner_key: self.key.public(),
            number: self.number,
            act,
        }
        .encode();
        let signature = self.key.sign(DEVICE_LABEL, &request).try_into().unwrap();
        DeviceRequest {
            request: opaque(request),
            signature,
        }
        .encode()
    }

    pub(crate) async fn act(&mut self, sender: &Sender, act: DeviceAct) -> Vec<Handle> {
        let (status, body) = sender.device(self.request(act)).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        DeviceResponse::decode(&body).unwrap().handles
    }

    pub(crate) async fn registered(sender: &Sender, address: Address) -> Self {
        let mut device = Self::new();
        device.act(sender, registration(address, 0)).await;
        device
    }

    pub(crate) async fn handle(&mut self, sender: &Sender) -> Handle {
        self.act(sender, DeviceAct::IssueHandles(1)).await[0]
    }
}

pub(crate) fn registration(address: Address, decoys: u8) -> DeviceAct {
    let pace = WakePace::Prompt;
    DeviceAct::Register(Registration {
        address,
        consent: Consent { pace, decoys },
    })
}

pub(crate) fn webhook(url: &str) -> Address {
    Address::Webhook(WebhookAddress {
        url: opaque(url.as_bytes()),
        secret: WireSecret::new([5; 32]),
    })
}

/// Writes a file that only its owner can read.
pub(crate) fn write_secret(path: &Path, content: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub(crate) fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    let lines = lines.join("\n");
    format!("-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n")
}
