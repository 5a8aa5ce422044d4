//! One service alone, in directories of its own that a test may damage.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::time::sleep;

use crate::stack::{free_address, program};

const READY_WITHIN: Duration = Duration::from_secs(60);
const ENDED_WITHIN: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ds,
    Issuer,
    Gateway,
}

impl Kind {
    fn binary(self) -> &'static str {
        match self {
            Self::Ds => "ds",
            Self::Issuer => "privacy-pass-issuer",
            Self::Gateway => "ohttp-gateway",
        }
    }
}

/// A service with its configuration, its data in `data` and its key files in `keys`.
pub struct Solo {
    pub kind: Kind,
    root: TempDir,
    listen: SocketAddr,
    admin: SocketAddr,
    child: Option<Child>,
    /// Of each process that is started from now on.
    pub environment: Vec<(&'static str, OsString)>,
}

impl Solo {
    /// Not made yet. `settings` are more lines for the delivery service: the tables `[store]` and
    /// `[issuer]`, unless it is another service.
    #[must_use]
    pub fn new(kind: Kind, settings: &str) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("keys")).expect("a directory");
        let solo = Self {
            kind,
            root,
            listen: free_address(),
            admin: free_address(),
            child: None,
            environment: Vec::new(),
        };
        solo.configure(settings);
        solo
    }

    /// A delivery service on RocksDB that takes the tokens of this issuer.
    #[must_use]
    pub fn ds(issuer: SocketAddr) -> Self {
        let solo = Self::new(Kind::Ds, "");
        solo.configure(&format!(
            "[store]\nengine = 'rocksdb'\ndirectory = '{}'\n{}",
            solo.data().display(),
            issuer_table(issuer)
        ));
        solo
    }

    /// Writes the configuration anew.
    pub fn configure(&self, settings: &str) {
        let (data, keys) = (self.data(), self.keys());
        let (data, keys) = (data.display(), keys.display());
        let (listen, admin) = (self.listen, self.admin);
        let service =
            format!("[service]\nadmin_listen = '{admin}'\nlog_level = 'info'\ndrain_seconds = 2\n");
        let text = match self.kind {
            Kind::Ds => format!(
                "listen = '{listen}'\ndomain = 'ds.example'\n\
                 service_key_file = '{keys}/service-keys'\n\
                 gateway_secret_file = '{keys}/gateway-secret'\n{settings}\n\
                 [blobs]\nstore = 'directory'\ndirectory = '{data}.blobs'\n{service}"
            ),
            Kind::Issuer => format!(
                "listen = '{listen}'\ndata_directory = '{data}'\nkey_directory = '{keys}'\n\
                 tokens_per_account_per_day = 2\n\
                 [accounts]\ndevelopment = true\ndevelopment_tokens = {{ 'a-token' = 'alice' }}\n\
                 {service}"
            ),
            Kind::Gateway => format!(
                "listen = '{listen}'\ngateway_secret_file = '{keys}/gateway-secret'\n\
                 [keys]\ndirectory = '{data}'\n\
                 [[targets]]\nscheme = 'http'\nauthority = 'ds.example'\nmethods = ['POST']\n\
                 path_prefix = '/v1/'\nforward_to = 'http://127.0.0.1:9'\n{service}"
            ),
        };
        fs::write(self.config(), text).expect("a file");
    }

    /// Everything of it.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// Where a delivery service has its blobs.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.root.path().join("data.blobs")
    }

    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.root.path().join("keys")
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    fn config(&self) -> PathBuf {
        self.root.path().join("config.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.root.path().join("log")
    }

    /// What it said since the last start.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Says `init`: whether it was carried out, and what was answered.
    #[must_use]
    pub fn init(&self) -> (bool, String) {
        let output = Command::new(program(self.kind.binary()))
            .args(["init", "--config"])
            .arg(self.config())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .output()
            .expect("the program runs");
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    fn spawn(&mut self) {
        let log = File::create(self.log_file()).expect("a file");
        let xtask = program("xtask");
        // Through `launch`, so that it ends with us, whatever ends us.
        let child = Command::new(&xtask)
            .args(["launch", &std::process::id().to_string()])
            .arg(program(self.kind.binary()))
            .args(["--", "--config"])
            .arg(self.config())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("xtask runs"));
    }

    /// What `/readyz` says: its status, 0 while nobody answers.
    pub async fn readiness(&self) -> (u16, String) {
        let answer = xtask::http::get(self.admin, "/readyz").await;
        answer.unwrap_or_default()
    }

    /// Starts it, and waits until it is ready.
    pub async fn start(&mut self) {
        self.spawn();
        self.becomes(200).await;
    }

    /// Waits until `/readyz` has this status.
    pub async fn becomes(&mut self, status: u16) {
        let began = Instant::now();
        while self.readiness().await.0 != status {
            let child = self.child.as_mut().expect("it was started");
            let ended = child.try_wait().expect("the state of a child");
            assert!(ended.is_none(), "it ended: {}", self.log());
            assert!(
                began.elapsed() < READY_WITHIN,
                "not {status}: {}",
                self.log()
            );
            sleep(POLL).await;
        }
    }

    /// Starts it and waits for its end, which must be a refusal: what it said.
    pub async fn is_refused(&mut self) -> String {
        self.spawn();
        self.ends().await
    }

    /// Waits for its end, which must be a failure: what it said.
    pub async fn ends(&mut self) -> String {
        let mut child = self.child.take().expect("it was started");
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("the state of a child") {
                assert_eq!(status.code(), Some(1), "{}", self.log());
                return self.log();
            }
            if self.readiness().await.0 == 200 || began.elapsed() > ENDED_WITHIN {
                let _ = child.kill();
                let _ = child.wait();
                panic!("it runs, and is ready: {}", self.log());
            }
            sleep(POLL).await;
        }
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("a child");
        child.wait().expect("a child");
    }
}

/// The table `[issuer]` of a delivery service.
#[must_use]
pub fn issuer_table(issuer: SocketAddr) -> String {
    format!(
        "[issuer]\nname = 'issuer.example'\norigin = 'ds.example'\n\
         directory = 'http://{issuer}/.well-known/private-token-issuer-directory'\n"
    )
}

/// Puts one directory in the place of another, file by file.
pub fn copy_over(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("a file").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_over(&path, &target);
        } else {
            // With its mode.
            fs::copy(&path, target).expect("a file");
        }
    }
}

impl Drop for Solo {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
