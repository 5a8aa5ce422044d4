//! The PostgreSQL server of a stack, by `scripts/postgres.sh`.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{Layout, Service};

const SCRIPT: &str = include_str!("../../../scripts/postgres.sh");
const READY_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(20);

/// A running server. It ends with the standard input that is held here: when this is dropped, and
/// also when this process is killed.
pub(super) struct Database {
    script: Child,
    /// Where the server's unix socket is.
    pub(super) socket_directory: PathBuf,
    pub(super) password_file: PathBuf,
}

impl Database {
    /// Starts it on the data of `layout`, which are made if they are not there.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start.
    pub(super) async fn start(layout: &Layout) -> Result<Self> {
        let password_file = layout.keys(Service::Ds).join("postgres-password");
        let mut script = Command::new("sh")
            .args(["-c", SCRIPT, "postgres.sh"])
            .arg(layout.data(Service::Ds).join("postgres"))
            .arg(&password_file)
            // A Ctrl-C in the terminal is for us; the delivery service ends first.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let printed = script.stdout.take().context("its output")?;
        let mut lines = BufReader::new(printed).lines();
        let line = timeout(READY_WITHIN, lines.next_line())
            .await
            .context("PostgreSQL was not ready in time")??
            .unwrap_or_default();
        let mut words = line.split_whitespace();
        let (Some("ready"), Some(socket_directory)) = (words.next(), words.next()) else {
            bail!("PostgreSQL does not start, see above");
        };
        Ok(Self {
            socket_directory: socket_directory.into(),
            password_file,
            script,
        })
    }

    pub(super) async fn stop(mut self) {
        drop(self.script.stdin.take());
        if timeout(STOPPED_WITHIN, self.script.wait()).await.is_err() {
            eprintln!("postgres: did not end in time");
        }
    }
}
