//! A user: a home directory and the `mimimi` processes that work on it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::stack::beside;

/// No command takes as long as this, not even across a restart of the delivery service.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was accepted is there at the first fetch; more are for a machine that is busy.
const FETCHES: usize = 5;

/// Where to connect and who pays: what `init` needs.
pub(super) struct Invitation<'a> {
    pub(super) stack_json: &'a Path,
    pub(super) account_token: &'a Path,
}

pub(super) struct User {
    pub(super) handle: &'static str,
    home: PathBuf,
    binary: PathBuf,
}

/// A message as a member reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) sender: String,
    pub(super) text: String,
}

/// `mimimi` ended with status 1: the error that it printed.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) error: String,
    detail: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.error, self.detail)
    }
}

impl std::error::Error for Refused {}

impl User {
    /// A new user with tokens and a handle.
    pub(super) async fn register(
        homes: &Path,
        handle: &'static str,
        invitation: &Invitation<'_>,
    ) -> Result<Self> {
        let binary = beside(&std::env::current_exe()?, "mimimi")?;
        let user = Self {
            handle,
            home: homes.join(handle),
            binary,
        };
        let (stack, token) = (
            text(invitation.stack_json)?,
            text(invitation.account_token)?,
        );
        user.run(&["init", "--stack", stack, "--account-token", token])
            .await?;
        user.run(&["handle", "register", handle]).await?;
        Ok(user)
    }

    /// Everything that this user has now, in a second home: keys, state keys and all. What whoever
    /// keeps old keys, or stole them, holds later.
    pub(super) fn copy(&self) -> Result<Self> {
        let home = self.home.with_file_name(format!("{}-copy", self.handle));
        std::fs::create_dir(&home)?;
        for entry in std::fs::read_dir(&self.home)? {
            let entry = entry?;
            std::fs::copy(entry.path(), home.join(entry.file_name()))?;
        }
        Ok(Self {
            handle: self.handle,
            home,
            binary: self.binary.clone(),
        })
    }

    /// What `mimimi ARGUMENTS --json` prints.
    pub(super) async fn run(&self, arguments: &[&str]) -> Result<Value> {
        let output = Command::new(&self.binary)
            .arg("--home")
            .arg(&self.home)
            .args(arguments)
            .arg("--json")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(PATIENCE, output)
            .await
            .with_context(|| format!("{}: {} takes too long", self.handle, arguments[0]))??;
        let printed = String::from_utf8_lossy(&output.stdout);
        let document: Value = serde_json::from_str(&printed).with_context(|| {
            let complaint = String::from_utf8_lossy(&output.stderr);
            format!(
                "{}: {} printed no JSON: {printed}{complaint}",
                self.handle, arguments[0]
            )
        })?;
        if output.status.success() {
            return Ok(document);
        }
        let field = |name: &str| document[name].as_str().unwrap_or("?").to_owned();
        let refused = Refused {
            error: field("error"),
            detail: field("detail"),
        };
        Err(refused).with_context(|| format!("{}: {}", self.handle, arguments.join(" ")))
    }

    /// Accepts the connection request of `from`.
    pub(super) async fn accept(&self, from: &Self) -> Result<()> {
        let requests = self.run(&["requests"]).await?;
        let request = items(&requests)
            .find(|request| request["name"] == from.handle)
            .with_context(|| format!("{} has no request of {}", self.handle, from.handle))?;
        let id = match &request["id"] {
            Value::String(id) => id.clone(),
            other => other.to_string(),
        };
        self.run(&["requests", "--accept", &id]).await?;
        Ok(())
    }

    /// The number that the two of them compare.
    pub(super) async fn safety_number(&self, contact: &Self) -> Result<String> {
        let document = self.run(&["verify", contact.handle]).await?;
        let number = document["safety_number"].as_str();
        Ok(number.context("verify shows no safety number")?.to_owned())
    }

    pub(super) async fn send(&self, group: &str, text: &str) -> Result<()> {
        self.run(&["send", group, text]).await.map(|_| ())
    }

    /// Everything that has arrived: the messages among it.
    pub(super) async fn receive(&self) -> Result<Vec<Message>> {
        let events = self.run(&["receive"]).await?;
        Ok(items(&events).filter_map(message).collect())
    }

    /// Fetches until the messages are `expected` ones, in any interleaving of the senders but in
    /// the order of each; anything else is an error.
    pub(super) async fn reads(&self, expected: &[Message]) -> Result<()> {
        let mut read = self.receive().await?;
        for _ in 0..FETCHES {
            if read.len() >= expected.len() {
                break;
            }
            let events = self.run(&["receive", "--wait", "2"]).await?;
            read.extend(items(&events).filter_map(message));
        }
        if by_sender(&read) != by_sender(expected) {
            bail!("{} read {read:#?}\nand not {expected:#?}", self.handle);
        }
        Ok(())
    }

    /// # Errors
    /// The roster that this user sees is another one than `handles` (in any order).
    pub(super) async fn sees_members(&self, group: &str, handles: &[&str]) -> Result<()> {
        let document = self.run(&["group", "members", group]).await?;
        let mut members: Vec<_> = items(&document).filter_map(member_name).collect();
        let mut expected = handles.to_vec();
        members.sort_unstable();
        expected.sort_unstable();
        if members != expected {
            bail!(
                "{} sees the members {members:?} and not {expected:?}",
                self.handle
            );
        }
        Ok(())
    }
}

/// The list that a command prints, or the one list in the object that it prints.
fn items(document: &Value) -> impl Iterator<Item = &Value> {
    let list = document.as_array().or_else(|| {
        document
            .as_object()
            .and_then(|object| object.values().find_map(Value::as_array))
    });
    list.into_iter().flatten()
}

fn message(event: &Value) -> Option<Message> {
    event["group"].as_str()?;
    Some(Message {
        sender: event["sender"].as_str()?.to_owned(),
        text: event["text"].as_str()?.to_owned(),
    })
}

fn member_name(member: &Value) -> Option<&str> {
    member.as_str().or_else(|| member["name"].as_str())
}

/// Stable: each sender's messages stay in their order.
fn by_sender(messages: &[Message]) -> Vec<&Message> {
    let mut sorted: Vec<_> = messages.iter().collect();
    sorted.sort_by(|a, b| a.sender.cmp(&b.sender));
    sorted
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path is not UTF-8")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_are_told_from_other_events() {
        let events = json!([
            {"event": "joined", "group": "g"},
            {"group": "g", "sender": "a", "text": "t"},
        ]);
        let messages: Vec<_> = items(&events).filter_map(message).collect();
        assert_eq!(
            messages,
            [Message {
                sender: "a".into(),
                text: "t".into()
            }]
        );
    }

    #[test]
    fn order_matters_within_a_sender_only() {
        let said = |sender: &str, text: &str| Message {
            sender: sender.into(),
            text: text.into(),
        };
        let one = [said("a", "1"), said("b", "1"), said("a", "2")];
        let other = [said("b", "1"), said("a", "1"), said("a", "2")];
        let swapped = [said("a", "2"), said("b", "1"), said("a", "1")];
        assert_eq!(by_sender(&one), by_sender(&other));
        assert_ne!(by_sender(&one), by_sender(&swapped));
    }
}
