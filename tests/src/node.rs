//! A relay or gateway beside those of the stack.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;
use toml::{Table, Value};
use xtask::stack::Service;

use crate::stack::{Stack, command, free_address, program};

const READY_WITHIN: Duration = Duration::from_secs(60);
const ENDED_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// A process with the configuration of one of the stack's, but for where it listens.
pub struct Node {
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    listen: SocketAddr,
    admin: SocketAddr,
    child: Option<Child>,
}

impl Node {
    /// Another one of `service`, whose program is `binary`, with these settings on top. Ready when
    /// this returns.
    pub async fn beside(stack: &Stack, service: Service, binary: &str, settings: &str) -> Self {
        let [listen, admin] = [(); 2].map(|()| free_address());
        let text = fs::read_to_string(stack.layout().config(service)).expect("a configuration");
        let mut config: Table = toml::from_str(&text).expect("a configuration");
        config.insert("listen".into(), listen.to_string().into());
        config.extend(toml::from_str::<Table>(settings).expect("settings"));
        let kit = config.get_mut("service").and_then(Value::as_table_mut);
        let kit = kit.expect("a table");
        kit.insert("admin_listen".into(), admin.to_string().into());
        let path = stack.layout().config(service);
        let path = path.with_extension(format!("{}.toml", listen.port()));
        fs::write(&path, config.to_string()).expect("a file");
        let mut node = Self {
            binary: program(binary),
            log: stack
                .layout()
                .log(service)
                .with_extension(format!("{}.log", listen.port())),
            config: path,
            listen,
            admin,
            child: None,
        };
        node.start().await;
        node
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Starts it again after [`Node::stop`] or [`Node::kill`].
    pub async fn start(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a file");
        let xtask = program("xtask");
        // Through `launch`, so that it ends with us, whatever ends us.
        let child = Command::new(&xtask)
            .args(["launch", &std::process::id().to_string()])
            .arg(&self.binary)
            .args(["--", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("xtask runs");
        self.child = Some(child);
        let began = Instant::now();
        while !matches!(xtask::http::get(self.admin, "/readyz").await, Ok((200, _))) {
            assert!(
                began.elapsed() < READY_WITHIN,
                "not ready: {}",
                fs::read_to_string(&self.log).unwrap_or_default()
            );
            sleep(POLL).await;
        }
    }

    /// Ends it as its operator does, and waits for that.
    pub async fn stop(&mut self) {
        let child = self.child.take().expect("it runs");
        signal(&child, Signal::TERM);
        let status = ended(child).await;
        assert!(status.success(), "{status}");
    }

    /// Ends it as a crash does.
    pub async fn kill(&mut self) {
        let child = self.child.take().expect("it runs");
        signal(&child, Signal::KILL);
        ended(child).await;
    }

    /// What an admin command says.
    pub async fn command(&self, name: &str, argument: &'static str) -> (u16, String) {
        command(self.admin, name, argument).await
    }
}

async fn ended(mut child: Child) -> std::process::ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("the state of a child") {
            return status;
        }
        assert!(began.elapsed() < ENDED_WITHIN, "it does not end");
        sleep(POLL).await;
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let _ = kill_process(pid.expect("a process id"), signal);
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
