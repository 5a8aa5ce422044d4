//! A PostgreSQL server of the test's own.

use super::*;

/// A PostgreSQL server of its own.
pub(super) struct Postgres {
    _script: Child,
    sockets: String,
    password_file: String,
    data: PathBuf,
}

impl Postgres {
    /// `None` only if `MIMIMI_WITHOUT_POSTGRES=1` says so.
    pub(super) fn start() -> Option<Self> {
        if std::env::var_os("MIMIMI_WITHOUT_POSTGRES").is_some_and(|value| value == "1") {
            eprintln!("NOT TESTED on PostgreSQL: MIMIMI_WITHOUT_POSTGRES=1");
            return None;
        }
        let mut script = Command::new("sh")
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../scripts/postgres.sh"
            ))
            // It ends when this does.
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
        Some(Self {
            _script: script,
            sockets: sockets.to_owned(),
            password_file: password_file.to_owned(),
            data: data.into(),
        })
    }

    pub(super) fn settings(&self, issuer: &Solo) -> String {
        format!(
            "[store]\nengine = 'postgres'\nhost = '{}'\nuser = 'mimimi'\ndatabase = 'mimimi'\n\
             password_file = '{}'\n{}",
            self.sockets,
            self.password_file,
            issuer_table(issuer.address())
        )
    }

    /// The server and each of its processes.
    pub(super) fn signal(&self, signal: &str) {
        let file = fs::read_to_string(self.data.join("postmaster.pid")).unwrap();
        let postmaster = file.lines().next().unwrap().to_owned();
        let mut pids = vec![postmaster.clone()];
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            // pid (name) state parent …
            let behind_name = stat.rsplit(") ").next().unwrap_or_default();
            if behind_name.split(' ').nth(1) == Some(postmaster.as_str()) {
                pids.push(process.file_name().into_string().unwrap());
            }
        }
        assert!(pids.len() > 1, "the server has no processes");
        Command::new("kill")
            .arg(signal)
            .args(&pids)
            .status()
            .unwrap();
    }
}
