//! `cargo xtask TASK`.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for a terminal"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use xtask::{claims, demo, deps, docs, launch, scan, stack, wire};

#[derive(Parser)]
#[command(name = "cargo xtask")]
struct CommandLine {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Assert who may import whom, and that no modules need each other.
    CheckDeps,
    /// Assert that every claim of the threat model names tests that exist.
    CheckClaims,
    /// Assert that the documents' links lead somewhere, that their lines fit and that their
    /// structures are those of the types; list long sentences.
    CheckDocs,
    /// Write the structures of the wire into the documents, as the types have them.
    Wire,
    /// Run relay, gateway, delivery service and issuer on loopback until Ctrl-C.
    Stack {
        /// Where data, keys, configuration, logs and stack.json are.
        #[arg(long, env = "STACK_DIR", default_value = "target/stack")]
        dir: PathBuf,
        /// The first port: relay, gateway, ds, issuer, push gateway, push sender, then (+10) their
        /// admin listeners.
        #[arg(long, env = "STACK_PORT", default_value_t = 4200)]
        port: u16,
        /// What the services log: error, warn, info, debug or trace.
        #[arg(long, env = "STACK_LOG", default_value = "info")]
        log: stack::LogLevel,
        /// Where the delivery service keeps its data.
        #[arg(long, env = "STACK_STORE", default_value = "rocksdb")]
        store: stack::StoreEngine,
        /// For how many users there are account tokens.
        #[arg(long, env = "STACK_ACCOUNTS", default_value_t = stack::ACCOUNTS)]
        accounts: usize,
        /// With a push sender and its gateway.
        #[arg(long, env = "STACK_PUSH")]
        push: bool,
        /// The origin of a web page that may use the stack, such as `http://127.0.0.1:8080`; more
        /// than once for several.
        #[arg(long)]
        allow_origin: Vec<String>,
    },
    /// Show the system at work, on a fresh stack in a temporary directory.
    Demo {
        /// Keep the directory of the stack and of the users, and say where it is.
        #[arg(long)]
        keep: bool,
    },
    /// Look for texts in every file under a directory: raw, hex and base64.
    Scan {
        directory: PathBuf,
        /// One text a line.
        needles: PathBuf,
    },
    /// Run a program that ends when this task's parent ends.
    #[command(hide = true)]
    Launch {
        parent: u32,
        program: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(CommandLine::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::CheckDeps => deps::check(),
        Task::CheckClaims => claims::check(),
        Task::CheckDocs => docs::check(),
        Task::Wire => wire::write(),
        Task::Stack {
            dir,
            port,
            log,
            store,
            accounts,
            push,
            allow_origin,
        } => runtime()?.block_on(stack::run(&stack::Settings {
            dir,
            port,
            log,
            store,
            accounts,
            push,
            allow_origin,
        })),
        Task::Demo { keep } => runtime()?.block_on(demo::run(keep)),
        Task::Scan { directory, needles } => scan_for(&directory, &needles),
        Task::Launch {
            parent,
            program,
            arguments,
        } => launch::exec(parent, &program, &arguments),
    }
}

/// One thread, the main one: children end with the *thread* that started them (prctl(2),
/// PR_SET_PDEATHSIG), so they must not be started by one that comes and goes.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")
}

fn scan_for(directory: &std::path::Path, needles: &std::path::Path) -> Result<()> {
    let text = std::fs::read_to_string(needles).context("the needles cannot be read")?;
    let needles = scan::Needles::new(text.lines().filter(|line| !line.is_empty()))?;
    let report = scan::directory(directory, &needles)?;
    for finding in &report.findings {
        println!("{finding}");
    }
    println!("{} files, {} bytes", report.files, report.bytes);
    if report.findings.is_empty() {
        return Ok(());
    }
    bail!("{} found", report.findings.len())
}
