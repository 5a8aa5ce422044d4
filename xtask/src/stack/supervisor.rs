//! Starts the services in order, starts again what dies, stops all in order.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::database::Database;
use super::{
    Layout, LogLevel, Ports, Service, StoreEngine, accounts, config, description, write_whole,
};
use crate::{http, launch};

/// A service asks for what the ones before it have: the delivery service for the issuer's keys.
const START_ORDER: [Service; 6] = [
    Service::Issuer,
    Service::PushSender,
    Service::PushGateway,
    Service::Ds,
    Service::Gateway,
    Service::Relay,
];
/// Each is drained while those that it asks are still there.
const STOP_ORDER: [Service; 6] = [
    Service::Relay,
    Service::Gateway,
    Service::Ds,
    Service::PushGateway,
    Service::PushSender,
    Service::Issuer,
];

const READY_WITHIN: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(25);
const SHORTEST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// Who was ready for as long as this did not die of how it was started.
const HEALTHY_AFTER: Duration = Duration::from_millis(500);
const STOP_WITHIN: Duration = Duration::from_secs(config::DRAIN_SECONDS.unsigned_abs() + 2);

/// A running stack. Dropped without [`Stack::stop`], it kills its services.
pub struct Stack {
    ports: Ports,
    layout: Layout,
    supervisors: Vec<(Service, Supervisor)>,
    /// Rewrites stack.json when a service has a new process.
    scribe: JoinHandle<()>,
    /// Ends after the services.
    database: Option<Database>,
    /// Held as long as the stack runs.
    _lock: File,
}

struct Supervisor {
    stop: watch::Sender<bool>,
    /// The process that is ready; 0 as long as there was none.
    ready: watch::Receiver<u32>,
    task: JoinHandle<()>,
}

/// How a service is started.
struct Program {
    service: Service,
    launcher: PathBuf,
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    admin: std::net::SocketAddr,
}

impl Stack {
    /// Starts the services of `layout`, with those that wake devices if `push` says so, and waits
    /// until all are ready.
    ///
    /// # Errors
    /// Another stack runs there, a port is taken, a binary is missing, or a service does not
    /// become ready.
    pub async fn start(
        layout: Layout,
        ports: Ports,
        log: LogLevel,
        store: StoreEngine,
        accounts: usize,
        push: bool,
    ) -> Result<Self> {
        Self::start_for(layout, ports, log, store, accounts, push, &[]).await
    }

    /// As [`Stack::start`], for web pages of these origins too.
    pub async fn start_for(
        layout: Layout,
        ports: Ports,
        log: LogLevel,
        store: StoreEngine,
        accounts: usize,
        push: bool,
        origins: &[String],
    ) -> Result<Self> {
        let lock = layout.lock()?;
        if let Some(address) = ports.in_use() {
            bail!(
                "{address} is in use: end what listens there, or choose other ports with STACK_PORT"
            );
        }
        // It says that the stack is up; one that was left behind by a kill would be wrong.
        let _ = std::fs::remove_file(layout.stack_json());
        let accounts = accounts::prepare(&layout.root.join("accounts"), accounts)?;
        let database = match store {
            StoreEngine::Rocksdb => None,
            StoreEngine::Postgres => Some(Database::start(&layout).await?),
        };
        let known = database.as_ref();
        config::write(&layout, ports, log, &accounts, known, push, origins)?;
        let mut supervisors = Vec::new();
        for service in START_ORDER {
            if !push && Service::PUSH.contains(&service) {
                continue;
            }
            let program = Program::new(&layout, ports, service)?;
            let log = program.log.clone();
            let founded = layout.founded(service);
            if service.has_store() && !founded.exists() {
                program.found().await?;
                File::create(&founded)?;
            }
            let supervisor = Supervisor::start(program).await;
            supervisors.push((
                service,
                supervisor.with_context(|| {
                    format!("{} did not start, see {}", service.name(), log.display())
                })?,
            ));
        }
        let pids = Service::of(push)
            .map(|service| (service, ready_of(&supervisors, service)))
            .collect();
        let scribe = Scribe {
            layout: layout.clone(),
            ports,
            tokens: accounts.tokens,
            pids,
        };
        scribe.write()?;
        Ok(Self {
            ports,
            layout,
            supervisors,
            scribe: tokio::spawn(scribe.run()),
            database,
            _lock: lock,
        })
    }

    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The process that serves as `service` now, or the last one that did.
    #[must_use]
    pub fn pid(&self, service: Service) -> u32 {
        *ready_of(&self.supervisors, service).borrow()
    }

    /// `kill -9`: what a crash is. The supervisor starts another process.
    ///
    /// # Errors
    /// There is no such process.
    pub fn kill(&self, service: Service) -> Result<()> {
        signal(self.pid(service), Signal::KILL)
    }

    /// Waits until another process than `before` is ready as `service`.
    ///
    /// # Errors
    /// None is in time.
    pub async fn restarted(&self, service: Service, before: u32) -> Result<u32> {
        let mut ready = ready_of(&self.supervisors, service);
        let next = ready.wait_for(|pid| *pid != before);
        let next = timeout(READY_WITHIN, next)
            .await
            .context("it was not restarted in time")??;
        Ok(*next)
    }

    /// Stops every service and removes stack.json.
    pub async fn stop(mut self) {
        self.scribe.abort();
        let _ = std::fs::remove_file(self.layout.stack_json());
        for service in STOP_ORDER {
            for (name, supervisor) in &mut self.supervisors {
                if *name == service {
                    let _ = supervisor.stop.send(true);
                    let _ = (&mut supervisor.task).await;
                }
            }
        }
        if let Some(database) = self.database.take() {
            database.stop().await;
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.scribe.abort();
    }
}

fn ready_of(supervisors: &[(Service, Supervisor)], service: Service) -> watch::Receiver<u32> {
    let found = supervisors.iter().find(|(name, _)| *name == service);
    found.map_or_else(
        || watch::channel(0).1,
        |(_, supervisor)| supervisor.ready.clone(),
    )
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // The child is killed with the task that holds it.
        self.task.abort();
    }
}

impl Program {
    fn new(layout: &Layout, ports: Ports, service: Service) -> Result<Self> {
        let launcher = std::env::current_exe()?;
        Ok(Self {
            service,
            binary: beside(&launcher, service.binary())?,
            launcher,
            config: layout.config(service),
            log: layout.log(service),
            admin: ports.admin_of(service),
        })
    }

    /// Makes the service's store: the word that is said once.
    async fn found(&self) -> Result<()> {
        let said = launch::command(&self.launcher, &self.binary)
            .args(["init", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .output()
            .await?;
        if !said.status.success() {
            bail!(
                "the store of {} was not made: {}",
                self.service.name(),
                String::from_utf8_lossy(&said.stderr).trim()
            );
        }
        Ok(())
    }

    fn spawn(&self) -> Result<Child> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        launch::command(&self.launcher, &self.binary)
            .arg("--config")
            .arg(&self.config)
            // The level is in the configuration; one that hangs about in the shell is not meant.
            .env_remove("MIMIMI_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be run", self.binary.display()))
    }

    /// # Errors
    /// `child` ended first, or was not ready in time.
    async fn wait_until_ready(&self, child: &mut Child) -> Result<()> {
        let ready = async {
            while !matches!(http::get(self.admin, "/readyz").await, Ok((200, _))) {
                sleep(READY_POLL).await;
            }
        };
        tokio::select! {
            ended = child.wait() => bail!("it ended with {}", ended?),
            in_time = timeout(READY_WITHIN, ready) => in_time.context("it was not ready in time"),
        }
    }
}

/// The program `name` in the directory of our own: cargo puts all of a build into one.
///
/// # Errors
/// It has not been built.
pub(crate) fn beside(our_own: &Path, name: &str) -> Result<PathBuf> {
    let directory = our_own
        .parent()
        .context("our own executable has no directory")?;
    // An executable of a test is one directory further down.
    [Some(directory), directory.parent()]
        .into_iter()
        .flatten()
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built: cargo build --release --workspace --bins"))
}

impl Supervisor {
    async fn start(program: Program) -> Result<Self> {
        let mut child = program.spawn()?;
        program.wait_until_ready(&mut child).await?;
        let (ready_sender, ready) = watch::channel(child.id().unwrap_or(0));
        let (stop, stop_receiver) = watch::channel(false);
        let task = tokio::spawn(supervise(program, child, stop_receiver, ready_sender));
        Ok(Self { stop, ready, task })
    }
}

async fn supervise(
    program: Program,
    mut child: Child,
    mut stop: watch::Receiver<bool>,
    ready: watch::Sender<u32>,
) {
    let mut backoff = SHORTEST_BACKOFF;
    loop {
        let started = Instant::now();
        let ended = tokio::select! {
            ended = child.wait() => ended,
            () = stopped(&mut stop) => return end(&program, &mut child).await,
        };
        report(&program, ended.as_ref().ok());
        if started.elapsed() > HEALTHY_AFTER {
            backoff = SHORTEST_BACKOFF;
        }
        loop {
            tokio::select! {
                () = sleep(backoff) => {}
                () = stopped(&mut stop) => return,
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
            let Ok(started) = program.spawn() else {
                continue;
            };
            child = started;
            let became_ready = tokio::select! {
                ready = program.wait_until_ready(&mut child) => ready,
                () = stopped(&mut stop) => return end(&program, &mut child).await,
            };
            match became_ready {
                Ok(()) => break,
                Err(error) => {
                    eprintln!("{}: {error:#}", program.service.name());
                    let _ = child.kill().await;
                }
            }
        }
        let pid = child.id().unwrap_or(0);
        eprintln!("{}: started again as process {pid}", program.service.name());
        let _ = ready.send(pid);
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn report(program: &Program, ended: Option<&ExitStatus>) {
    let how = ended.map_or_else(String::new, |status| format!(" ({status})"));
    eprintln!("{}: died{how}", program.service.name());
}

/// SIGTERM, time to drain, then SIGKILL.
async fn end(program: &Program, child: &mut Child) {
    if let Some(pid) = child.id() {
        let _ = signal(pid, Signal::TERM);
    }
    if timeout(STOP_WITHIN, child.wait()).await.is_err() {
        eprintln!("{}: did not end in time, killed", program.service.name());
        let _ = child.kill().await;
    }
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("there is no process")?;
    kill_process(pid, signal).context("the process cannot be signalled")
}

/// Keeps stack.json true.
struct Scribe {
    layout: Layout,
    ports: Ports,
    tokens: Vec<PathBuf>,
    pids: Vec<(Service, watch::Receiver<u32>)>,
}

impl Scribe {
    fn write(&self) -> Result<()> {
        let pids: Vec<_> = self
            .pids
            .iter()
            .map(|(service, pid)| (*service, *pid.borrow()))
            .collect();
        let document = description(&self.layout, self.ports, &self.tokens, &pids);
        write_whole(&self.layout.stack_json(), &format!("{document:#}\n"))
    }

    async fn run(self) {
        let (told, mut changes) = tokio::sync::mpsc::channel(1);
        for (_, pid) in &self.pids {
            let (mut pid, told) = (pid.clone(), told.clone());
            tokio::spawn(async move {
                while pid.changed().await.is_ok() && told.send(()).await.is_ok() {}
            });
        }
        drop(told);
        while changes.recv().await.is_some() {
            if let Err(error) = self.write() {
                eprintln!("stack.json: {error:#}");
            }
        }
    }
}
