//! The real binary: starts from a configuration file, keeps keys and quota over kill and restart,
//! ends cleanly on SIGTERM, and logs nothing about anybody.

#[allow(unreachable_pub, reason = "of a library")]
#[path = "../../../xtask/src/ports.rs"]
mod ports;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use privacypass::{Deserialize as _, public_tokens::TokenResponse};
use service::SystemClock;

use crate::support::{AccountService, Wallet, issuer_public_key};

pub(crate) const FAR_FUTURE: u64 = 4_000_000_000;
/// A key is made at the first start.
const READY_WITHIN: Duration = Duration::from_secs(60);

pub(crate) struct Stack<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) accounts: AccountService,
    pub(crate) port: u16,
    pub(crate) admin_port: u16,
}

pub(crate) struct Running {
    child: Child,
    pub(crate) base: String,
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    ports::free().unwrap()
}

/// A quota is of a UTC day. Waits for the next one if this one is nearly over.
pub(crate) async fn time_left_today() {
    const DAY_MS: u64 = 86_400_000;
    let left = DAY_MS - SystemClock::shared().now_unix_ms() % DAY_MS;
    if left < 120_000 {
        tokio::time::sleep(Duration::from_millis(left)).await;
    }
}

impl Stack<'_> {
    /// `top` are more lines at the top, `tables` more tables.
    pub(crate) fn write_config(&self, top: &str, tables: &str) {
        let settings = self.accounts.settings();
        let accounts = format!(
            "issuer = '{}'\naudience = '{}'\nkeys = ['{}']",
            settings.issuer, settings.audience, settings.keys[0],
        );
        self.write(top, &accounts, tables);
    }

    pub(crate) fn write_config_with_accounts(&self, accounts: &str) {
        self.write("", accounts, "");
    }

    fn write(&self, top: &str, accounts: &str, tables: &str) {
        let config = format!(
            "listen = '127.0.0.1:{}'\ndata_directory = '{data}'\nkey_directory = '{keys}'\n\
             tokens_per_account_per_day = 2\n{top}\n\
             [accounts]\n{accounts}\n{tables}\n\
             [service]\nadmin_listen = '127.0.0.1:{}'\nlog_level = 'trace'\ndrain_seconds = 5\n",
            self.port,
            self.admin_port,
            data = self.directory.join("data").display(),
            keys = self.directory.join("keys").display(),
        );
        std::fs::write(self.directory.join("issuer.toml"), config).unwrap();
    }

    fn command_line(&self) -> Command {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_privacy-pass-issuer"));
        command
            .arg("--config")
            .arg(self.directory.join("issuer.toml"))
            .stderr(Stdio::from(log));
        command
    }

    /// Whether the process ends well by itself.
    pub(crate) fn run_to_the_end(&self) -> bool {
        self.command_line().status().unwrap().success()
    }

    pub(crate) async fn start(&self) -> Running {
        if !self.directory.join("data").exists() {
            let made = self
                .command_line()
                .arg("init")
                .stdout(Stdio::null())
                .status();
            assert!(made.unwrap().success());
        }
        let running = Running {
            child: self.command_line().spawn().unwrap(),
            base: format!("http://127.0.0.1:{}", self.port),
        };
        let ready = format!("http://127.0.0.1:{}/readyz", self.admin_port);
        let is_ready = async {
            while !reqwest::get(&ready)
                .await
                .is_ok_and(|answer| answer.status() == 200)
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let in_time = tokio::time::timeout(READY_WITHIN, is_ready).await;
        let log = || std::fs::read_to_string(self.directory.join("log")).unwrap();
        assert!(in_time.is_ok(), "not ready: {}", log());
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of a test that has failed; one that ended was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    async fn directory(&self) -> Vec<u8> {
        let url = format!("{}/.well-known/private-token-issuer-directory", self.base);
        reqwest::get(url)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap()
            .to_vec()
    }

    pub(crate) async fn request(&self, account_token: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let media_type = "application/private-token-request";
        self.post(media_type, account_token, body).await
    }

    async fn post(&self, media_type: &str, account_token: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let response = reqwest::Client::new()
            .post(format!("{}/token-request", self.base))
            .header("content-type", media_type)
            .header("authorization", format!("Bearer {account_token}"))
            .body(body.to_vec())
            .send()
            .await
            .unwrap();
        (
            response.status().as_u16(),
            response.bytes().await.unwrap().to_vec(),
        )
    }

    pub(crate) async fn batch(&self, account_token: &str, body: &[u8]) -> u16 {
        let media_type = "application/private-token-generic-batch-request";
        self.post(media_type, account_token, body).await.0
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn terminate(mut self) -> bool {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        self.child.wait().unwrap().success()
    }
}

#[tokio::test]
async fn keys_and_quota_survive_a_kill_and_the_log_names_nobody() {
    time_left_today().await;
    let directory = tempfile::tempdir().unwrap();
    let stack = Stack {
        directory: directory.path(),
        accounts: AccountService::new(),
        port: free_port(),
        admin_port: free_port(),
    };
    stack.write_config("", "");
    let account = "alice-of-the-log-test";
    let token = stack.accounts.token(account, FAR_FUTURE);

    let issuer = stack.start().await;
    let keys = issuer.directory().await;
    let wallet = Wallet::new(&issuer_public_key(&keys));
    let (status, first) = issuer.request(&token, &wallet.request).await;
    assert_eq!(status, 200);
    issuer.kill();

    let issuer = stack.start().await;
    assert_eq!(issuer.directory().await, keys);
    assert_eq!(
        issuer.request(&token, &wallet.request).await,
        (200, first.clone())
    );
    let response = TokenResponse::tls_deserialize_exact(&first).unwrap();
    assert!(response.issue_token(&wallet.state).is_ok());
    let second = Wallet::new(&issuer_public_key(&keys));
    assert_eq!(issuer.request(&token, &second.request).await.0, 200);
    issuer.kill();

    let issuer = stack.start().await;
    let third = Wallet::new(&issuer_public_key(&keys));
    assert_eq!(issuer.request(&token, &third.request).await.0, 429);
    assert_eq!(issuer.request("not a token", &third.request).await.0, 401);
    assert!(issuer.terminate(), "SIGTERM is a clean end");

    let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
    assert!(
        log.contains("request"),
        "the most verbose log has lines about requests"
    );
    // Where it listens itself it says, at each start.
    let log: String = log
        .lines()
        .filter(|line| !line.contains(" listening "))
        .flat_map(|line| [line, "\n"])
        .collect();
    let body = &wallet.request[..48];
    for secret in [
        account.to_owned(),
        token.clone(),
        token.rsplit('.').next().unwrap().to_owned(),
        STANDARD.encode(body),
        URL_SAFE_NO_PAD.encode(body),
        service::hex::encode(body),
        "127.0.0.1".to_owned(),
        "not a token".to_owned(),
    ] {
        assert!(!log.contains(&secret), "the log names {secret}");
    }
    for file in files_below(&directory.path().join("data")) {
        let content = std::fs::read(&file).unwrap();
        let named = content
            .windows(account.len())
            .any(|window| window == account.as_bytes());
        assert!(!named, "{} names the account", file.display());
    }
}

fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}
