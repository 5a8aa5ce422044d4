//! The manual and the shells' completions: what `--help` says, in the forms that systems want.

use std::io::{self, Write as _};
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;
use client::LocalError;

use crate::arguments::Arguments;

/// Prints the completions of a shell.
pub(crate) fn completions(shell: Shell) -> Result<(), LocalError> {
    let mut command = Arguments::command();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "mimimi", &mut script);
    print(&script)
}

/// Prints the manual page, or writes one for each command into a directory.
pub(crate) fn pages(dir: Option<&Path>) -> Result<(), LocalError> {
    let command = Arguments::command();
    if let Some(dir) = dir {
        std::fs::create_dir_all(dir).map_err(LocalError::Output)?;
        return clap_mangen::generate_to(command, dir).map_err(LocalError::Output);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(LocalError::Output)?;
    print(&page)
}

fn print(text: &[u8]) -> Result<(), LocalError> {
    let mut out = io::stdout().lock();
    out.write_all(text)
        .and_then(|()| out.flush())
        .map_err(LocalError::Output)
}
