//! The real binary, at its most verbose.

use std::process::Stdio;
use std::time::Duration;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::support::free_port;

const READY_WITHIN: Duration = Duration::from_secs(60);

pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) port: u16,
    pub(crate) admin: String,
    pub(crate) http: reqwest::Client,
    _directory: tempfile::TempDir,
}

pub(crate) async fn start(gateway: &str, drain_seconds: u64) -> Process {
    let settings = format!("gateway = '{gateway}'");
    let kit = format!("drain_seconds = {drain_seconds}");
    start_with(tempfile::tempdir().unwrap(), &settings, &kit, "").await
}

/// With lines for the top of the configuration, for its table `service`, and further tables.
pub(crate) async fn start_with(
    directory: tempfile::TempDir,
    settings: &str,
    kit: &str,
    tables: &str,
) -> Process {
    let (port, admin_port) = (free_port(), free_port());
    let config = format!(
        "listen = '127.0.0.1:{port}'\n{settings}\n\
         [service]\nadmin_listen = '127.0.0.1:{admin_port}'\n{kit}\n{tables}\n"
    );
    let path = directory.path().join("relay.toml");
    std::fs::write(&path, config).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_ohttp-relay"))
        .arg("--config")
        .arg(&path)
        .env("MIMIMI_LOG", "trace")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let process = Process {
        child,
        url: format!("http://127.0.0.1:{port}/"),
        port,
        admin: format!("http://127.0.0.1:{admin_port}"),
        http: reqwest::Client::builder().no_proxy().build().unwrap(),
        _directory: directory,
    };
    tokio::time::timeout(READY_WITHIN, process.is_ready())
        .await
        .expect("the relay becomes ready");
    process
}

impl Process {
    /// Returns when it is.
    async fn is_ready(&self) {
        let ready = || self.http.get(format!("{}/readyz", self.admin)).send();
        while !ready().await.is_ok_and(|answer| answer.status() == 200) {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    pub(crate) fn post(&self) -> reqwest::RequestBuilder {
        self.http
            .post(&self.url)
            .header(CONTENT_TYPE, "message/ohttp-req")
            .header("cookie", "SECRETCOOKIE")
            .header("user-agent", "SECRETAGENT")
            .body("SECRETBODY")
    }

    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap();
        let kill = format!("kill -{name} {pid}");
        let sent = Command::new("sh")
            .arg("-c")
            .arg(kill)
            .status()
            .await
            .unwrap();
        assert!(sent.success());
    }

    /// Has it carry out a command of the admin listener.
    pub(crate) async fn command(&self, name: &str) -> StatusCode {
        let url = format!("{}/commands/{name}", self.admin);
        let request = self.http.post(url);
        let request = request.header(CONTENT_TYPE, "application/x-mimimi-admin");
        request.send().await.unwrap().status()
    }

    pub(crate) async fn metrics(&self) -> String {
        let url = format!("{}/metrics", self.admin);
        self.http
            .get(url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }

    /// Exit status and everything logged.
    pub(crate) async fn ended(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        let ended = async {
            stderr.read_to_string(&mut log).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(Duration::from_secs(20), ended)
            .await
            .unwrap();
        (status.code(), log)
    }
}
