//! `mimimi`: the command-line client.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a program for a terminal"
)]

mod account;
mod arguments;
mod commands;
mod group_operations;

use std::process::ExitCode;

use arguments::Arguments;
use clap::Parser as _;
use clap::error::ErrorKind;
use client::{Error, IssuerError};

fn main() -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error)
            if json
                && !matches!(
                    error.kind(),
                    ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
                ) =>
        {
            return fail(true, "arguments", error.to_string().trim_end());
        }
        Err(error) => error.exit(),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(json, "local", &error.to_string()),
    };
    match runtime.block_on(commands::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(json, error.code(), &describe(&error)),
    }
}

/// The error and what caused it, on one line.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
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
    if json {
        println!("{}", serde_json::json!({ "error": code, "detail": detail }));
    } else {
        eprintln!("mimimi: {detail}");
    }
    ExitCode::FAILURE
}
