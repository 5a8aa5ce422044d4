//! The four services, as `xtask stack` runs them.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crypto::service_keys::ServiceKeys;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;
use xtask::stack::{Layout, LogLevel, Ports, Service, StoreEngine};

use crate::liar::Liar;
use crate::moved_clock::MovedClocks;
use crate::tap::Tap;

const READY_WITHIN: Duration = Duration::from_secs(60);
/// More than the supervisor gives the services and a database server one after the other.
const STOPPED_WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

/// The program `name` of this workspace.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let executable = std::env::current_exe().expect("the path of the test executable");
    let given = std::env::var_os("MIMIMI_BIN_DIR").map(PathBuf::from);
    // target/PROFILE/deps/TEST
    let built = executable.ancestors().nth(2).map(Path::to_owned);
    let directory = given.or(built).expect("the directory of the programs");
    let path = directory.join(name);
    assert!(
        path.is_file(),
        "{} is not there: `make programs` builds it; MIMIMI_BIN_DIR names another \
         directory",
        path.display()
    );
    path
}

/// An address that nobody listens on.
///
/// # Panics
/// There is none.
#[must_use]
pub fn free_address() -> SocketAddr {
    let port = xtask::ports::free().expect("a free port");
    ([127, 0, 0, 1], port).into()
}

/// What stands between the gateway and the delivery service.
enum Between {
    Tap(Tap),
    Liar(Liar),
}

impl Between {
    /// Leads on to the service, and says where it stands itself.
    fn lead_to(&self, target: SocketAddr) -> SocketAddr {
        match self {
            Self::Tap(tap) => {
                tap.lead_to(target);
                tap.address()
            }
            Self::Liar(liar) => {
                liar.lead_to(target);
                liar.address()
            }
        }
    }
}

/// A running stack, ended when dropped.
pub struct Stack {
    directory: TempDir,
    layout: Layout,
    ports: Ports,
    log: LogLevel,
    supervisor: Option<Child>,
    between: Option<Between>,
    settings: String,
    environment: Vec<(&'static str, OsString)>,
}

impl Stack {
    /// A fresh one.
    pub async fn start(log: LogLevel) -> Self {
        Self::start_as(log, None, String::new()).await
    }

    /// A fresh one whose services have other settings than usual: TOML with a table for each
    /// service.
    pub async fn start_with(log: LogLevel, settings: &str) -> Self {
        Self::start_as(log, None, settings.to_owned()).await
    }

    /// A fresh one that has devices woken, with settings as in [`Stack::start_with`].
    pub async fn start_with_push(log: LogLevel, settings: &str) -> Self {
        let environment = vec![("STACK_PUSH", "true".into())];
        Self::start_in(
            Self::directory(),
            log,
            None,
            settings.to_owned(),
            environment,
        )
        .await
    }

    /// A fresh one, with a listener between the gateway and the delivery service.
    pub async fn start_with_tap(log: LogLevel) -> (Self, Tap) {
        let tap = Tap::listen().await;
        let stack = Self::start_as(log, Some(Between::Tap(tap.clone())), String::new()).await;
        (stack, tap)
    }

    /// A fresh one whose services' clocks can be moved; at first they are so many seconds ahead.
    pub async fn start_with_clocks(log: LogLevel, seconds: i64) -> (Self, MovedClocks) {
        let directory = Self::directory();
        let clocks = MovedClocks::make(directory.path(), seconds);
        let environment = clocks.for_programs();
        let stack = Self::start_in(directory, log, None, String::new(), environment).await;
        (stack, clocks)
    }

    /// As [`Stack::start_with_clocks`], with settings as in [`Stack::start_with`] and so many
    /// accounts.
    pub async fn start_for(log: LogLevel, settings: &str, accounts: usize) -> (Self, MovedClocks) {
        let directory = Self::directory();
        let clocks = MovedClocks::make(directory.path(), 0);
        let mut environment = clocks.for_programs();
        environment.push(("STACK_ACCOUNTS", accounts.to_string().into()));
        let settings = settings.to_owned();
        let stack = Self::start_in(directory, log, None, settings, environment).await;
        (stack, clocks)
    }

    /// A fresh one, whose delivery service lies as it is told.
    pub async fn start_with_liar(log: LogLevel) -> (Self, Liar) {
        Self::start_with_liar_and(log, "").await
    }

    /// As [`Stack::start_with_liar`], with settings as in [`Stack::start_with`].
    pub async fn start_with_liar_and(log: LogLevel, settings: &str) -> (Self, Liar) {
        let liar = Liar::listen().await;
        let between = Some(Between::Liar(liar.clone()));
        let stack = Self::start_as(log, between, settings.to_owned()).await;
        (stack, liar)
    }

    async fn start_as(log: LogLevel, between: Option<Between>, settings: String) -> Self {
        Self::start_in(Self::directory(), log, between, settings, Vec::new()).await
    }

    fn directory() -> TempDir {
        tempfile::Builder::new()
            .prefix("end-to-end-")
            // A database server passes through as a user of its own.
            .permissions(fs::Permissions::from_mode(0o711))
            .tempdir()
            .expect("a directory")
    }

    async fn start_in(
        directory: TempDir,
        log: LogLevel,
        between: Option<Between>,
        settings: String,
        environment: Vec<(&'static str, OsString)>,
    ) -> Self {
        fs::create_dir(directory.path().join("homes")).expect("a directory");
        let layout = Layout::prepare(&directory.path().join("stack")).expect("the directories");
        let ports = Ports::free().expect("free ports");
        let mut stack = Self {
            directory,
            layout,
            ports,
            log,
            supervisor: None,
            between,
            settings,
            environment,
        };
        // Somebody else may take a port between the search and the start.
        for _ in 0..2 {
            if stack.run().await.is_ok() {
                return stack;
            }
            stack.stop().await;
            stack.ports = Ports::free().expect("free ports");
        }
        stack.restart().await;
        stack
    }

    /// Starts it again after [`Stack::stop`], on the same directory and ports.
    pub async fn restart(&mut self) {
        if let Err(output) = self.run().await {
            panic!("the stack does not start:\n{output}");
        }
    }

    /// # Errors
    /// What it printed before it ended.
    async fn run(&mut self) -> Result<(), String> {
        let printed = self.directory.path().join("stack.out");
        let output = fs::File::create(&printed).expect("a file");
        let xtask = program("xtask");
        // Through `launch`, so that it ends with us, whatever ends us.
        let mut command = Command::new(&xtask);
        if let Some(between) = &self.between {
            let address = between.lead_to(self.ports.of(Service::Ds));
            command.env("STACK_DS_THROUGH", address.to_string());
        }
        let supervisor = command
            .args(["launch", &std::process::id().to_string()])
            .arg(&xtask)
            .args(["--", "stack", "--dir"])
            .arg(self.directory.path().join("stack"))
            .args(["--port", &self.ports.of(Service::Relay).port().to_string()])
            .args(["--log", &self.log.to_string()])
            .env("STACK_SETTINGS", &self.settings)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file"))
            .stderr(output)
            .spawn()
            .expect("xtask runs");
        let supervisor = self.supervisor.insert(supervisor);
        let began = Instant::now();
        while !self.layout.stack_json().exists() {
            let ended = supervisor.try_wait().expect("the state of a child");
            if ended.is_some() || began.elapsed() > READY_WITHIN {
                return Err(fs::read_to_string(printed).unwrap_or_default());
            }
            sleep(POLL).await;
        }
        if let Some(Between::Liar(liar)) = &self.between {
            let config = fs::read_to_string(self.layout.config(Service::Ds)).expect("a file");
            let config: toml::Table = toml::from_str(&config).expect("a configuration");
            let keys = config["service_key_file"].as_str().expect("a path");
            let lengths = ServiceKeys::FILE_LENGTHS;
            let keys = service::secret_file::load_between(Path::new(keys), lengths);
            liar.take_keys(&keys.expect("the service's keys"));
        }
        Ok(())
    }

    /// Ends it as Ctrl-C does; the data stays.
    pub async fn stop(&mut self) {
        let Some(mut supervisor) = self.supervisor.take() else {
            return;
        };
        signal(supervisor.id(), Signal::TERM);
        let began = Instant::now();
        while supervisor
            .try_wait()
            .expect("the state of a child")
            .is_none()
        {
            if began.elapsed() > STOPPED_WITHIN {
                supervisor.kill().expect("a child");
                supervisor.wait().expect("a child");
                panic!("the stack did not end within {STOPPED_WITHIN:?}");
            }
            sleep(POLL).await;
        }
    }

    /// Ends one service as a crash does, and returns its process id.
    pub fn kill(&self, service: Service) -> u32 {
        let pid = self.pid(service);
        signal(pid, Signal::KILL);
        pid
    }

    /// Stops one service until what this returns is dropped: it neither ends nor answers.
    #[must_use]
    pub fn pause(&self, service: Service) -> Paused {
        let pid = self.pid(service);
        signal(pid, Signal::STOP);
        Paused(pid)
    }

    /// Ends one service as its operator does, and returns its process id.
    pub fn terminate(&self, service: Service) -> u32 {
        let pid = self.pid(service);
        signal(pid, Signal::TERM);
        pid
    }

    /// Waits until another process than `before` is ready as this service.
    pub async fn restarted(&self, service: Service, before: u32) {
        let began = Instant::now();
        while self.pid(service) == before {
            assert!(
                began.elapsed() < READY_WITHIN,
                "{} was not restarted",
                service.name()
            );
            sleep(POLL).await;
        }
    }

    /// Status and text of what an admin command says.
    pub async fn command(
        &self,
        service: Service,
        name: &str,
        argument: &'static str,
    ) -> (u16, String) {
        command(self.ports.admin_of(service), name, argument).await
    }

    /// How many tokens the issuer has issued.
    pub async fn issued(&self) -> usize {
        let admin = self.ports.admin_of(Service::Issuer);
        let answer = xtask::http::get(admin, "/metrics").await;
        let (status, metrics) = answer.expect("an answer");
        assert_eq!(status, 200);
        let counts = metrics.lines();
        counts
            .filter_map(|line| line.strip_prefix("issuer_tokens_issued_total "))
            .map(|count| count.parse::<usize>().expect("a number"))
            .sum()
    }

    fn pid(&self, service: Service) -> u32 {
        let pid = &self.description()["pids"][service.name()];
        u32::try_from(pid.as_u64().expect("a process id")).expect("a process id")
    }

    /// The contents of stack.json.
    #[must_use]
    pub fn description(&self) -> Value {
        let text = fs::read(self.layout.stack_json()).expect("stack.json");
        serde_json::from_slice(&text).expect("stack.json")
    }

    /// Which engine the delivery service runs on: `STACK_STORE`, as for `xtask stack`.
    #[must_use]
    pub fn engine() -> StoreEngine {
        let name = std::env::var("STACK_STORE").unwrap_or_default();
        match name.as_str() {
            "" | "rocksdb" => StoreEngine::Rocksdb,
            "postgres" => StoreEngine::Postgres,
            other => panic!("STACK_STORE={other} is no engine"),
        }
    }

    /// Where everything is.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where everything listens.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The home directory of a user.
    #[must_use]
    pub fn home(&self, handle: &str) -> PathBuf {
        self.directory.path().join("homes").join(handle)
    }

    /// The file with the token of account `number`, from 0.
    #[must_use]
    pub fn account_token(&self, number: usize) -> PathBuf {
        let path = &self.description()["account_tokens"][number];
        path.as_str().expect("so many accounts").into()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let Some(supervisor) = &mut self.supervisor else {
            return;
        };
        signal(supervisor.id(), Signal::TERM);
        let began = Instant::now();
        while matches!(supervisor.try_wait(), Ok(None)) && began.elapsed() < STOPPED_WITHIN {
            std::thread::sleep(POLL);
        }
        // If it is still there: the services end with it (`xtask launch`).
        let _ = supervisor.kill();
        let _ = supervisor.wait();
        if std::thread::panicking() {
            // What the services said, for whoever looks into the failure.
            for service in Service::ALL {
                let log = fs::read_to_string(self.layout.log(service)).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(5)..];
                eprintln!("{}:\n{}", service.name(), last.join("\n"));
            }
        }
    }
}

/// A process that stands still, until this is dropped.
pub struct Paused(u32);

impl Drop for Paused {
    fn drop(&mut self) {
        signal(self.0, Signal::CONT);
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let _ = kill_process(pid.expect("a process id"), signal);
}

/// What an admin command of the service with this admin listener says.
pub(crate) async fn command(
    admin: SocketAddr,
    name: &str,
    argument: &'static str,
) -> (u16, String) {
    let http = reqwest::Client::builder().no_proxy().build();
    let answer = http
        .expect("a client")
        .post(format!("http://{admin}/commands/{name}"))
        .header("content-type", "application/x-mimimi-admin")
        .body(argument)
        .send()
        .await
        .expect("an answer");
    (
        answer.status().as_u16(),
        answer.text().await.expect("a text"),
    )
}
