//! Lines on the terminal.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::Instant;

use anyhow::{Result, bail};

use super::operators::Searched;

pub(super) struct Progress {
    began: Instant,
    step_began: Cell<Instant>,
    colours: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            step_began: Cell::new(now),
            colours: std::io::stdout().is_terminal(),
        }
    }

    pub(super) fn chapter(&self, title: &str) {
        println!("\n{}", self.coloured("1", title));
    }

    /// A step that went as it must.
    pub(super) fn done(&self, what: &str) {
        let took = self.step_began.replace(Instant::now()).elapsed();
        let took = self.coloured("2", &format!("{:.1} s", took.as_secs_f32()));
        println!("  {} {what}  {took}", self.coloured("32", "✓"));
    }

    /// What somebody wrote or read.
    pub(super) fn quote(&self, line: &str) {
        println!("      {}", self.coloured("36", line));
    }

    /// The last line.
    pub(super) fn end(&self, searched: &Searched) -> Result<()> {
        if !searched.findings.is_empty() {
            for finding in &searched.findings {
                println!("  {} {finding}", self.coloured("31", "✗"));
            }
            bail!("plaintext was found where there must be none");
        }
        let took = self.began.elapsed().as_secs_f32();
        println!(
            "\n{}",
            self.coloured("32", &format!("All of it held, in {took:.0} s."))
        );
        Ok(())
    }

    fn coloured(&self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
