//! `mimimi`: the command-line client.

mod account;
mod arguments;
mod chat;
mod commands;
mod devices;
mod events;
mod group_operations;
mod manual;
mod messages;
mod push;
mod terminal;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::Parser as _;
use clap::error::ErrorKind;
use client::{Error, IssuerError, LocalError, UsageError};

/// The command line is wrong: nothing was begun.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let json = std::env::args_os()
        .take_while(|argument| argument != "--")
        .any(|argument| argument == "--json");
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return explain(&error, json),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(json, "local", &error.to_string()),
    };
    let files = Files::of(&arguments);
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(json, error.code(), &describe(&error, &files)),
    }
}

async fn run(arguments: Arguments) -> Result<(), Error> {
    match arguments.command {
        Command::Chat { group, profile } => {
            let home = commands::home(arguments.home)?;
            chat::run(&home, group, profile.into()).await
        }
        _ => commands::run(arguments).await,
    }
}

/// Help on standard output; what is wrong with the command line as any other error, with a status
/// of its own.
fn explain(error: &clap::Error, json: bool) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(json, "local", &error.to_string()),
        },
        _ => {
            let text = error.render().to_string();
            let text = text.trim_end();
            let text = text.strip_prefix("error: ").unwrap_or(text);
            if json {
                say(true, "arguments", text);
            } else {
                // Several lines, of the user's own words and ours.
                let lines: Vec<String> = text.lines().map(terminal::escape).collect();
                let _ = writeln!(std::io::stderr(), "mimimi: {}", lines.join("\n"));
            }
            ExitCode::from(USAGE)
        }
    }
}

/// The files of a command, for errors about what is in them: the SDK is given contents.
struct Files {
    home: Option<PathBuf>,
    stack: Option<PathBuf>,
    account_token: Option<PathBuf>,
    backup: Option<PathBuf>,
}

impl Files {
    fn of(arguments: &Arguments) -> Self {
        let mut files = Self {
            home: commands::home(arguments.home.clone()).ok(),
            stack: None,
            account_token: None,
            backup: None,
        };
        match &arguments.command {
            Command::Init {
                stack,
                account_token,
                ..
            } => {
                files.stack = Some(stack.clone());
                files.account_token = Some(account_token.clone());
            }
            Command::Restore { file, .. } => files.backup = Some(file.clone()),
            _ => {}
        }
        files
    }

    /// The one that the error is about.
    fn subject(&self, error: &Error) -> Option<&Path> {
        let file = match error {
            Error::Usage(UsageError::InvalidStack(_) | UsageError::SameOperator(..)) => &self.stack,
            Error::Usage(UsageError::InvalidAccountToken) => &self.account_token,
            Error::Usage(
                UsageError::NotABackup | UsageError::NewerBackup | UsageError::WrongBackupKey,
            ) => &self.backup,
            Error::Usage(UsageError::NotInitialised | UsageError::AlreadyInUse)
            | Error::Local(
                LocalError::Database(_)
                | LocalError::Damaged
                | LocalError::NewerDatabase
                | LocalError::Busy,
            ) => &self.home,
            _ => &None,
        };
        file.as_deref()
    }
}

/// The error, what it is about and what caused it, on one line.
fn describe(error: &Error, files: &Files) -> String {
    let mut text = error.to_string();
    if let Some(file) = files.subject(error) {
        text = format!("{}: {text}", file.display());
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    if matches!(error, Error::Issuer(IssuerError::WalletEmpty { .. })) {
        text.push_str(", while a command runs; `mimimi top-up` fills it now");
    }
    text
}

fn fail(json: bool, code: &str, detail: &str) -> ExitCode {
    say(json, code, detail);
    ExitCode::FAILURE
}

fn say(json: bool, code: &str, detail: &str) {
    if json {
        let document = serde_json::json!({ "error": code, "detail": detail });
        let line = terminal::encode(&document);
        let mut out = std::io::stdout().lock();
        // Where nobody hears it, the exit status says it.
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    } else {
        let _ = writeln!(std::io::stderr(), "mimimi: {}", terminal::escape(detail));
    }
}
