//! The services as separate processes on loopback: four, and two more with push.
//!
//! ```text
//! DIR/stack.json    where everything is; there while all are up
//! DIR/data/SERVICE  what the service stores (with `--store postgres`: DIR/data/ds/postgres)
//! DIR/keys/SERVICE  what it must keep apart from that: key files
//! DIR/accounts/     account tokens
//! DIR/founded/SERVICE  there once the service's store was made (`SERVICE init`)
//! DIR/config/, DIR/logs/
//! ```
//!
//! All but configuration and stack.json is made once and kept, so that a stack started again on the
//! same directory goes on with it.

mod accounts;
mod config;
mod database;
mod supervisor;

use std::fmt;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

pub use supervisor::Stack;
pub(crate) use supervisor::beside;

/// What `cargo xtask stack` was told.
#[derive(Clone, Debug)]
pub struct Settings {
    pub dir: PathBuf,
    /// See [`Ports`].
    pub port: u16,
    pub log: LogLevel,
    pub store: StoreEngine,
    /// How many account tokens there are.
    pub accounts: usize,
    /// With a push sender and its gateway.
    pub push: bool,
    /// Origins of web pages that may use it.
    pub allow_origin: Vec<String>,
}

/// As many account tokens as a stack has unless told otherwise.
pub const ACCOUNTS: usize = 10;

/// Where the delivery service keeps its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreEngine {
    #[default]
    Rocksdb,
    /// On a server that is started with the stack.
    Postgres,
}

/// The most verbose level that the services log.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

/// The services, in the order of their ports. The last two are of a stack with push only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    Relay,
    Gateway,
    Ds,
    Issuer,
    PushGateway,
    PushSender,
}

impl Service {
    /// Those of every stack.
    pub const ALL: [Self; 4] = [Self::Relay, Self::Gateway, Self::Ds, Self::Issuer];
    /// What wakes devices.
    pub const PUSH: [Self; 2] = [Self::PushGateway, Self::PushSender];

    /// Those of a stack, with push or without.
    pub fn of(push: bool) -> impl Iterator<Item = Self> {
        let more = if push { &Self::PUSH[..] } else { &[] };
        Self::ALL.into_iter().chain(more.iter().copied())
    }

    /// Its key in stack.json, and the name of its directories.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Gateway => "gateway",
            Self::Ds => "ds",
            Self::Issuer => "issuer",
            Self::PushGateway => "push-gateway",
            Self::PushSender => "push-sender",
        }
    }

    /// Whether it has something that must be made once.
    fn has_store(self) -> bool {
        self != Self::Relay
    }

    fn binary(self) -> &'static str {
        match self {
            Self::Relay => "ohttp-relay",
            Self::Gateway | Self::PushGateway => "ohttp-gateway",
            Self::Ds => "ds",
            Self::Issuer => "privacy-pass-issuer",
            Self::PushSender => "push-sender",
        }
    }

    fn offset(self) -> u16 {
        match self {
            Self::Relay => 0,
            Self::Gateway => 1,
            Self::Ds => 2,
            Self::Issuer => 3,
            Self::PushGateway => 4,
            Self::PushSender => 5,
        }
    }
}

/// `first` to `first + 5` are the services' ports, `first + 10` to `first + 15` their admin ports.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    first: u16,
}

const ADMIN_OFFSET: u16 = 10;

impl Ports {
    /// # Errors
    /// The last port would be beyond 65535, or the first is 0.
    pub fn from(first: u16) -> Result<Self> {
        if first == 0 || first.checked_add(ADMIN_OFFSET + 5).is_none() {
            bail!("{first} is no first port of a stack: choose another with STACK_PORT");
        }
        Ok(Self { first })
    }

    /// Ports of which none is in use now.
    ///
    /// # Errors
    /// There are none.
    pub fn free() -> Result<Self> {
        for _ in 0..100 {
            let ports = Self::from(crate::ports::untried(ADMIN_OFFSET + 6))?;
            if ports.in_use().is_none() {
                return Ok(ports);
            }
        }
        bail!("no twelve free ports were found on loopback");
    }

    #[must_use]
    pub fn of(self, service: Service) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.first + service.offset()).into()
    }

    #[must_use]
    pub fn admin_of(self, service: Service) -> SocketAddr {
        let port = self.first + ADMIN_OFFSET + service.offset();
        (Ipv4Addr::LOCALHOST, port).into()
    }

    fn in_use(self) -> Option<SocketAddr> {
        Service::of(true)
            .flat_map(|service| [self.of(service), self.admin_of(service)])
            .find(|address| TcpListener::bind(address).is_err())
    }
}

/// The directory of a stack.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Makes what is missing under `dir`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn prepare(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        let layout = Self {
            root: dir.canonicalize()?,
        };
        for service in Service::of(true) {
            fs::create_dir_all(layout.data(service))?;
            private_directory(&layout.keys(service))?;
        }
        for directory in ["config", "logs", "founded"] {
            fs::create_dir_all(layout.root.join(directory))?;
        }
        private_directory(&layout.root.join("accounts"))?;
        Ok(layout)
    }

    #[must_use]
    pub fn stack_json(&self) -> PathBuf {
        self.root.join("stack.json")
    }

    #[must_use]
    pub fn data(&self, service: Service) -> PathBuf {
        self.root.join("data").join(service.name())
    }

    #[must_use]
    pub fn keys(&self, service: Service) -> PathBuf {
        self.root.join("keys").join(service.name())
    }

    #[must_use]
    pub fn log(&self, service: Service) -> PathBuf {
        self.root
            .join("logs")
            .join(format!("{}.log", service.name()))
    }

    /// Holds the data of all services.
    #[must_use]
    pub fn all_data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Holds the logs of all services.
    #[must_use]
    pub fn all_logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self, service: Service) -> PathBuf {
        self.root
            .join("config")
            .join(format!("{}.toml", service.name()))
    }

    /// There once the service's store was made. It is made once: a store that is gone is not made
    /// anew.
    fn founded(&self, service: Service) -> PathBuf {
        self.root.join("founded").join(service.name())
    }

    /// # Errors
    /// Another stack runs on this directory.
    fn lock(&self) -> Result<File> {
        let lock = File::create(self.root.join("lock"))?;
        if lock.try_lock().is_err() {
            bail!("another stack runs on {}", self.root.display());
        }
        Ok(lock)
    }
}

fn private_directory(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("{} cannot be made", path.display()))
}

/// Replaces the file at `path` at once: a reader sees the old text or the new one.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, text).with_context(|| format!("{} cannot be written", beside.display()))?;
    Ok(fs::rename(&beside, path)?)
}

/// What stack.json says; with push, if there is a process of the push sender.
fn description(
    layout: &Layout,
    ports: Ports,
    tokens: &[PathBuf],
    pids: &[(Service, u32)],
) -> Value {
    let url = |service| format!("http://{}", ports.of(service));
    let push = pids
        .iter()
        .any(|(service, _)| *service == Service::PushSender);
    let data: serde_json::Map<_, _> = Service::of(push)
        .map(|service| (service.name().to_owned(), json!(layout.data(service))))
        .collect();
    let pids: serde_json::Map<_, _> = pids
        .iter()
        .map(|(service, pid)| (service.name().to_owned(), json!(pid)))
        .collect();
    let mut document = json!({
        "relay": format!("{}/", url(Service::Relay)),
        "gateway": url(Service::Gateway),
        "ohttp_keys": format!("{}/ohttp-keys", url(Service::Relay)),
        "ohttp_key_mirrors": [format!("{}/ohttp-keys", url(Service::Issuer))],
        "ds": url(Service::Ds),
        "issuer": url(Service::Issuer),
        "issuer_name": config::ISSUER_NAME,
        "token_origin": config::DOMAIN,
        "operators": {
            "relay": "operator A",
            "gateway": "operator B",
            "issuer": "operator C",
            "push_sender": "operator D",
        },
        "data": data,
        "pids": pids,
        "account_tokens": tokens,
    });
    if let (true, Some(members)) = (push, document.as_object_mut()) {
        let push = json!({
            "relay": format!("{}{}", url(Service::Relay), config::PUSH_PATH),
            "ohttp_keys": format!("{}{}/ohttp-keys", url(Service::Relay), config::PUSH_PATH),
            "sender": url(Service::PushSender),
        });
        members.insert("push".to_owned(), push);
    }
    document
}

/// `cargo xtask stack`: runs until SIGINT or SIGTERM.
///
/// # Errors
/// The stack cannot be started.
pub async fn run(settings: &Settings) -> Result<()> {
    let mut interrupts = Interrupts::watch()?;
    let layout = Layout::prepare(&settings.dir)?;
    println!("starting the stack in {}", layout.root.display());
    let ports = Ports::from(settings.port)?;
    let Settings {
        log,
        store,
        accounts,
        push,
        ..
    } = *settings;
    let origins = &settings.allow_origin;
    let starting = Stack::start_for(layout.clone(), ports, log, store, accounts, push, origins);
    let stack = tokio::select! {
        started = starting => started?,
        () = interrupts.next() => return Ok(()),
    };
    for service in Service::of(settings.push) {
        println!(
            "  {:<12} http://{}  (admin http://{})",
            service.name(),
            ports.of(service),
            ports.admin_of(service)
        );
    }
    println!("ready: {}", layout.stack_json().display());
    println!("Ctrl-C stops it");
    interrupts.next().await;
    println!("stopping");
    stack.stop().await;
    println!("stopped");
    Ok(())
}

/// SIGINT and SIGTERM.
pub struct Interrupts {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Interrupts {
    /// From now on the signals do not end this process by themselves.
    ///
    /// # Errors
    /// The system refuses.
    pub fn watch() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pids(push: bool) -> Vec<(Service, u32)> {
        Service::of(push).zip(1..).collect()
    }

    #[test]
    fn stack_json_of_a_stack_with_push_says_where_devices_register() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(directory.path()).unwrap();
        let ports = Ports::from(4200).unwrap();
        let document = description(&layout, ports, &[], &pids(true));
        assert_eq!(document["push"]["relay"], "http://127.0.0.1:4200/push");
        assert_eq!(document["push"]["sender"], "http://127.0.0.1:4205");
        assert_eq!(document["pids"]["push-sender"], 6);
    }

    #[test]
    fn stack_json_has_exactly_the_documented_keys() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(directory.path()).unwrap();
        let ports = Ports::from(4200).unwrap();
        let document = description(&layout, ports, &["token".into()], &pids(false));
        let keys: Vec<_> = document.as_object().unwrap().keys().cloned().collect();
        let mut expected = [
            "relay",
            "gateway",
            "ohttp_keys",
            "ohttp_key_mirrors",
            "ds",
            "issuer",
            "issuer_name",
            "token_origin",
            "operators",
            "data",
            "pids",
            "account_tokens",
        ];
        expected.sort_unstable();
        assert_eq!(keys, expected);
        assert_eq!(document["relay"], "http://127.0.0.1:4200/");
        assert_eq!(
            document["pids"],
            json!({"relay": 1, "gateway": 2, "ds": 3, "issuer": 4})
        );
    }

    #[test]
    fn two_stacks_do_not_share_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(directory.path()).unwrap();
        let first = layout.lock().unwrap();
        assert!(layout.lock().is_err());
        drop(first);
        assert!(layout.lock().is_ok());
    }

    #[test]
    fn a_port_in_use_is_named() {
        let ports = Ports::free().unwrap();
        assert_eq!(ports.in_use(), None);
        let _taken = TcpListener::bind(ports.admin_of(Service::Ds)).unwrap();
        assert_eq!(ports.in_use(), Some(ports.admin_of(Service::Ds)));
    }

    #[test]
    fn ports_beyond_the_last_one_are_refused() {
        assert!(Ports::from(65_530).is_err() && Ports::from(0).is_err());
        assert!(Ports::from(65_520).is_ok());
    }
}
