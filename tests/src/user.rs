//! A user who has nothing but `mimimi`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::device::Said;
use crate::stack::{Stack, program};

/// No command takes as long as this, not even while a service is restarted.
const PATIENCE: Duration = Duration::from_secs(180);
/// What was accepted is there at the first fetch; more are for a machine that is busy.
const FETCHES: usize = 5;

/// Each command is a process of its own.
pub struct User {
    /// The registered handle.
    pub handle: String,
    home: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

/// What `mimimi` prints when it ends with status 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stable name.
    pub error: String,
    /// For people.
    pub detail: String,
}

impl User {
    /// A new user with account `number` and a handle.
    pub async fn register(stack: &Stack, number: usize, handle: &str) -> Self {
        Self::register_in(stack, number, handle, Vec::new()).await
    }

    /// As [`User::register`]; `mimimi` runs with these variables too.
    pub async fn register_in(
        stack: &Stack,
        number: usize,
        handle: &str,
        environment: Vec<(&'static str, OsString)>,
    ) -> Self {
        let user = Self {
            handle: handle.to_owned(),
            home: stack.home(handle),
            environment,
        };
        let stack_json = stack.layout().stack_json();
        let token = stack.account_token(number);
        let paths = [&stack_json, &token].map(|path| path.to_str().expect("a path in UTF-8"));
        user.run(&["init", "--stack", paths[0], "--account-token", paths[1]])
            .await;
        user.run(&["handle", "register", handle]).await;
        user
    }

    /// What `mimimi ARGUMENTS --json` prints.
    ///
    /// # Errors
    /// What it prints when it ends with status 1.
    pub async fn try_run(&self, arguments: &[&str]) -> Result<Value, Failure> {
        let output = Command::new(program("mimimi"))
            .arg("--home")
            .arg(&self.home)
            .args(arguments)
            .arg("--json")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, output)
            .await
            .unwrap_or_else(|_| panic!("{}: {arguments:?} takes too long", self.handle))
            .expect("mimimi runs");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            panic!(
                "{}: {arguments:?} printed no JSON: {}{}",
                self.handle,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        });
        if output.status.success() {
            return Ok(document);
        }
        let text = |name: &str| {
            document[name]
                .as_str()
                .expect("an error document")
                .to_owned()
        };
        assert_eq!(output.status.code(), Some(1));
        Err(Failure {
            error: text("error"),
            detail: text("detail"),
        })
    }

    /// The directory that `mimimi` keeps everything in.
    #[must_use]
    pub fn home(&self) -> &std::path::Path {
        &self.home
    }

    /// As [`User::try_run`]; an error ends the test.
    pub async fn run(&self, arguments: &[&str]) -> Value {
        self.try_run(arguments)
            .await
            .unwrap_or_else(|failure| panic!("{}: {arguments:?}: {failure:?}", self.handle))
    }

    /// The id of the connection request from a user.
    pub async fn request_from(&self, other: &Self) -> Option<String> {
        let requests = self.run(&["requests"]).await;
        let requests = requests.as_array().expect("a list");
        let request = requests
            .iter()
            .find(|request| request["name"] == other.handle)?;
        Some(request["id"].as_str().expect("an id").to_owned())
    }

    /// Asks a user for a connection, who accepts.
    pub async fn befriend(&self, other: &Self) {
        self.run(&["connect", &other.handle]).await;
        let id = other.request_from(self).await.expect("the request");
        other.run(&["requests", "--accept", &id]).await;
        let contacts = self.run(&["contacts"]).await;
        assert!(
            names(&contacts).contains(&other.handle.as_str()),
            "{contacts}"
        );
    }

    /// The handles of the members that this user sees, sorted.
    pub async fn members(&self, group: &str) -> Vec<String> {
        let document = self.run(&["group", "members", group]).await;
        let mut members: Vec<_> = names(&document).into_iter().map(str::to_owned).collect();
        members.sort_unstable();
        members
    }

    /// Everything that has happened since the last call: the messages among it.
    pub async fn receive(&self) -> Vec<Said> {
        self.fetch("0").await
    }

    async fn fetch(&self, wait: &str) -> Vec<Said> {
        let events = self.run(&["receive", "--wait", wait]).await;
        let events = events.as_array().expect("a list");
        let messages = events.iter().filter(|event| event["text"].is_string());
        messages
            .map(|event| {
                let text = |name: &str| event[name].as_str().expect("a text").to_owned();
                assert!(event["group"].is_string(), "{event}");
                (text("sender"), text("text"))
            })
            .collect()
    }

    /// Fetches until there are as many messages as `expected`; they must be these, in order.
    pub async fn reads(&self, expected: &[(&User, &str)]) {
        let mut read = self.receive().await;
        for _ in 0..FETCHES {
            if read.len() >= expected.len() {
                break;
            }
            read.extend(self.fetch("2").await);
        }
        let read: Vec<_> = read
            .iter()
            .map(|(sender, text)| (sender.as_str(), text.as_str()))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(sender, text)| (sender.handle.as_str(), *text))
            .collect();
        assert_eq!(read, expected, "{}", self.handle);
    }
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list");
    list.iter()
        .map(|item| item["name"].as_str().expect("a name"))
        .collect()
}
