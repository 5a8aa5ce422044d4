//! Starting and ending a process.

use std::error::Error;
use std::future::Future;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};
use tokio::signal::unix::{SignalKind, signal};

use crate::clock::SystemClock;
use crate::config::{self, CommandLine, ServiceConfig, StoreCommandLine};
use crate::logging::{self, Chain};
pub use crate::process::{Commands, Process, Readiness};
use crate::shutdown::{Shutdown, ShutdownTrigger};
use crate::{admin, directory, http, tls};

/// Why a process could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the metrics recorder cannot be installed")]
    Metrics(#[source] Box<dyn Error + Send + Sync>),
    #[error("the runtime cannot be started")]
    Runtime(#[source] std::io::Error),
    #[error("the admin listener cannot be started")]
    Admin(#[source] http::BindError),
    #[error("signals cannot be received")]
    Signals(#[source] std::io::Error),
    #[error("the service ended with an error")]
    Service(#[source] Box<dyn Error + Send + Sync>),
    #[error("requests were still running at the end of the drain time and were cut")]
    Drain,
}

/// The whole life of a binary: reads `--config FILE`, sets up tracing, metrics, the runtime and the
/// admin listener, and runs `work` until it ends by itself or, after SIGTERM or SIGINT, within
/// the drain time.
///
/// `work` binds its listeners, calls [`Readiness::ready`], and returns when
/// [`Process::shutdown`] was requested and its requests are done; [`http::serve`] does just that.
/// The exit status is 0 after a clean end, 1 otherwise.
pub fn run<C, W, F, E>(name: &'static str, work: W) -> ExitCode
where
    C: ServiceConfig,
    W: FnOnce(C, Process) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let command_line: CommandLine = command_line(name);
    match load(name, &command_line) {
        Ok(config) => serve(name, config, work),
        Err(failure) => failure,
    }
}

/// Like [`run`], for a binary that has a store. `NAME COMMAND --config FILE` calls `command`
/// instead. It makes the store, say, and returns a line or two about what it made.
pub fn run_with_store<C, K, I, M, N, W, F, E>(name: &'static str, command: I, work: W) -> ExitCode
where
    C: ServiceConfig,
    K: clap::ValueEnum + Send + Sync + 'static,
    I: FnOnce(C, K) -> M,
    M: Future<Output = Result<String, N>>,
    N: Error + 'static,
    W: FnOnce(C, Process) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let command_line: StoreCommandLine<K> = command_line(name);
    let config = match load(name, &command_line.shared) {
        Ok(config) => config,
        Err(failure) => return failure,
    };
    let Some(said) = command_line.command else {
        return serve(name, config, work);
    };
    directory::keep_new_files_private();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return say(name, &StartError::Runtime(error)),
    };
    match runtime.block_on(command(config, said)) {
        Ok(made) => {
            let _ = writeln!(std::io::stdout(), "{made}");
            ExitCode::SUCCESS
        }
        Err(error) => say(name, &error),
    }
}

fn command_line<L: CommandFactory + FromArgMatches>(name: &'static str) -> L {
    let matches = L::command()
        .name(name)
        .version(env!("CARGO_PKG_VERSION"))
        .get_matches();
    match L::from_arg_matches(&matches) {
        Ok(command_line) => command_line,
        Err(error) => error.exit(),
    }
}

fn load<C: ServiceConfig>(name: &'static str, command_line: &CommandLine) -> Result<C, ExitCode> {
    config::load(&command_line.config).map_err(|error| say(name, &error))
}

/// To the terminal: tracing is not set up.
fn say(name: &'static str, error: &(dyn Error + 'static)) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{name}: {}", Chain(error));
    ExitCode::FAILURE
}

fn serve<C, W, F, E>(name: &'static str, config: C, work: W) -> ExitCode
where
    C: ServiceConfig,
    W: FnOnce(C, Process) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let settings = config.service().clone();
    logging::init(settings.log_level, settings.log_format);
    directory::keep_new_files_private();
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(service = name, version, "starting");
    match run_with_runtime(config, work, &settings) {
        Ok(()) => {
            tracing::info!("ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error = %Chain(&error), "ended");
            ExitCode::FAILURE
        }
    }
}

fn run_with_runtime<C, W, F, E>(
    config: C,
    work: W,
    settings: &config::ServiceSettings,
) -> Result<(), StartError>
where
    W: FnOnce(C, Process) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = settings.worker_threads {
        builder.worker_threads(threads.get());
    }
    let runtime = builder.enable_all().build().map_err(StartError::Runtime)?;
    let outcome = runtime.block_on(supervise(config, work, settings));
    // Blocking tasks that are still in a write get a moment to finish it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn supervise<C, W, F, E>(
    config: C,
    work: W,
    settings: &config::ServiceSettings,
) -> Result<(), StartError>
where
    W: FnOnce(C, Process) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    tls::install_provider();
    let metrics = admin::metrics_handle().map_err(|error| StartError::Metrics(Box::new(error)))?;
    tokio::spawn(admin::upkeep(metrics.clone()));
    let readiness = Readiness::default();
    let commands = Commands::default();
    let admin_listener = http::open(settings.admin_listen)
        .await
        .map_err(StartError::Admin)?;
    let address = admin_listener.local_addr().unwrap_or(settings.admin_listen);
    tracing::info!(%address, "listening for the operator");
    // The admin listener outlives the drain, so that it can be watched.
    let (_admin_ends, admin_shutdown) = Shutdown::channel();
    tokio::spawn(http::serve(
        admin_listener,
        admin::router(metrics, readiness.clone(), commands.clone()),
        http::Limits::default(),
        admin_shutdown,
    ));

    let (trigger, shutdown) = Shutdown::channel();
    let signalled = shutdown.clone();
    watch_signals(trigger, readiness.clone())?;
    let process = Process {
        clock: SystemClock::shared(),
        shutdown,
        readiness,
        commands,
    };
    let drain = async {
        signalled.requested().await;
        tokio::time::sleep(settings.drain()).await;
    };
    tokio::select! {
        ended = work(config, process) => ended.map_err(|error| StartError::Service(error.into())),
        () = drain => Err(StartError::Drain),
    }
}

fn watch_signals(trigger: ShutdownTrigger, readiness: Readiness) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        readiness.not_ready();
        tracing::info!("ending");
        trigger.request();
    });
    Ok(())
}
