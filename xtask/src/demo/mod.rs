//! The system at work: real processes, real clients, one crash, two removals, and at the end what
//! each operator saw. Every expectation that fails ends it with an error.

mod operators;
mod progress;
mod story;
mod user;

use std::path::Path;

use anyhow::{Result, bail};

use crate::stack::{ACCOUNTS, Interrupts, Layout, LogLevel, Ports, Stack, StoreEngine};
use progress::Progress;

/// `cargo xtask demo`.
///
/// # Errors
/// Something did not go as it must.
pub async fn run(keep: bool) -> Result<()> {
    let mut interrupts = Interrupts::watch()?;
    let directory = tempfile::Builder::new().prefix("mimimi-demo-").tempdir()?;
    let ended = tokio::select! {
        ended = show(directory.path()) => ended,
        () = interrupts.next() => bail!("interrupted"),
    };
    if keep || ended.is_err() {
        println!("\nkept: {}", directory.keep().display());
    }
    ended
}

async fn show(directory: &Path) -> Result<()> {
    let progress = Progress::new();
    progress.chapter("Four services, run by three operators");
    let layout = Layout::prepare(&directory.join("stack"))?;
    // As verbose as can be: what the logs must not hold is looked for in them, too.
    let stack = Stack::start(
        layout,
        Ports::free()?,
        LogLevel::Trace,
        StoreEngine::default(),
        ACCOUNTS,
        false,
    )
    .await?;
    progress.done("relay, gateway, delivery service and issuer are processes on loopback");

    let mut seen = operators::Observation::default();
    let said = story::tell(&stack, directory, &progress, &mut seen).await?;
    seen.look(&stack).await?;
    let layout = stack.layout().clone();
    stack.stop().await;

    progress.chapter("What each operator saw");
    let searched = operators::search(&layout, directory, &said)?;
    operators::print(&seen, &layout, &searched);
    progress.end(&searched)
}
