//! Children that do not outlive us, even when we are killed and can stop nothing.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// A command that runs `program` through [`exec`], in a process group of its own: a Ctrl-C in the
/// terminal reaches us only, and we stop the children in order.
///
/// # Errors
/// The path of our own executable is not known.
pub fn command(launcher: &Path, program: &Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(launcher);
    command
        .arg("launch")
        .arg(std::process::id().to_string())
        .arg(program)
        .arg("--")
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// Becomes `program`, which is sent SIGTERM when the process `parent` ends. The signal that was
/// asked for stays set over `execve` (prctl(2)), so this needs no code between fork and exec.
///
/// # Errors
/// `parent` has ended already, or `program` cannot be run.
pub fn exec(parent: u32, program: &Path, arguments: &[String]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .context("the end of the parent cannot be watched")?;
    // It may have ended before the signal was asked for.
    let current = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if current != Some(parent) {
        bail!("the parent has ended");
    }
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("{} cannot be run", program.display()))
}
