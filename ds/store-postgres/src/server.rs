//! A PostgreSQL server for tests: one for all tests of a binary, a database for each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "part of the tests of several crates"
)]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_postgres::{Config, NoTls};

/// Runs `scripts/postgres.sh`, which ends when this process does.
pub struct Server {
    /// Holds the script's standard input.
    script: Child,
    /// See `scripts/postgres.sh`.
    pub sockets: String,
    /// See `scripts/postgres.sh`.
    pub password_file: PathBuf,
    data: PathBuf,
    databases: AtomicU64,
}

impl Server {
    /// The server of this process; `None` only if `MIMIMI_WITHOUT_POSTGRES=1` says so.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Server> = OnceLock::new();
        if std::env::var_os("MIMIMI_WITHOUT_POSTGRES").is_some_and(|value| value == "1") {
            eprintln!("NOT TESTED on PostgreSQL: MIMIMI_WITHOUT_POSTGRES=1");
            return None;
        }
        Some(SHARED.get_or_init(Self::start))
    }

    /// One of its own, for a test that kills it.
    pub fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/postgres.sh");
        let mut script = Command::new("sh")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(script.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        let ["ready", sockets, password_file, data] = words[..] else {
            panic!("PostgreSQL does not start, see above");
        };
        Self {
            sockets: sockets.to_owned(),
            password_file: password_file.into(),
            data: data.into(),
            databases: AtomicU64::new(0),
            script,
        }
    }

    /// Where its files are.
    pub fn data(&self) -> &std::path::Path {
        &self.data
    }

    /// Makes a database and returns its name.
    pub async fn fresh_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let create = format!("CREATE DATABASE {name}");
        self.execute("mimimi", &create).await;
        name
    }

    /// Runs statements past the engine.
    pub async fn execute(&self, database: &str, sql: &str) {
        let client = self.client(database).await;
        client.batch_execute(sql).await.unwrap();
    }

    /// The first column of the first row, a number.
    pub async fn number(&self, database: &str, sql: &str) -> i64 {
        let client = self.client(database).await;
        client.query_one(sql, &[]).await.unwrap().get(0)
    }

    pub async fn client(&self, database: &str) -> tokio_postgres::Client {
        let (client, connection) = Config::new()
            .host(&self.sockets)
            .user("mimimi")
            .password(std::fs::read(&self.password_file).unwrap())
            .dbname(database)
            .connect(NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    /// `kill -9` for the server and each of its processes. The script starts it again.
    pub fn kill(&self) {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid")).unwrap();
        let postmaster = file.lines().next().unwrap().to_owned();
        // The postmaster first: it would start others in place of those that die.
        let mut pids = vec![postmaster.clone()];
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            // pid (name) state parent …
            let behind_name = stat.rsplit(") ").next().unwrap_or_default();
            if behind_name.split(' ').nth(1) == Some(postmaster.as_str()) {
                pids.push(process.file_name().into_string().unwrap());
            }
        }
        assert!(pids.len() > 1, "the server has no processes");
        // Not its status: a process may have ended by itself meanwhile.
        Command::new("kill").arg("-9").args(&pids).status().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}
