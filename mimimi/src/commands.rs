//! One function that does what a command says and prints what came of it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::{Client, Endpoints, Error, Evidence, LocalError, Options, StopReason, UsageError};
use serde_json::{Value, json};

use crate::account::{self, read};
use crate::arguments::{Arguments, Command, DeviceCommand, GroupCommand, HandleCommand};
use crate::events::received;
use crate::group_operations::GroupOperation;
use crate::messages::Transfers;
use crate::terminal::{Name, Output, names, output_is_closed};
use crate::{devices, group_operations, manual, messages, push};

pub(crate) async fn run(arguments: Arguments) -> Result<(), Error> {
    if shows_once(&arguments.command) && output_is_closed() {
        return Err(LocalError::Output(std::io::ErrorKind::BrokenPipe.into()).into());
    }
    let home = home(arguments.home)?;
    let print = |output: Output| output.print(arguments.json).map_err(LocalError::Output);
    if let Command::Init {
        stack,
        account_token,
        ca_file,
    } = &arguments.command
    {
        let output = init(&home, stack, account_token, ca_file.as_deref()).await?;
        return Ok(print(output)?);
    }
    if let Command::Restore {
        file,
        passphrase_file,
        recovery_key_file,
    } = &arguments.command
    {
        let keys = (passphrase_file.as_deref(), recovery_key_file.as_deref());
        return Ok(print(account::restore(&home, file, keys.0, keys.1).await?)?);
    }
    if let Command::Completions { shell } = arguments.command {
        return Ok(manual::completions(shell)?);
    }
    if let Command::Man { dir } = &arguments.command {
        return Ok(manual::pages(dir.as_deref())?);
    }
    let mut options = options();
    if let Command::Receive { profile, .. } = arguments.command {
        options.profile = profile.into();
    }
    let client = Client::open(&home, options).await?;
    if let Command::DeleteAccount { .. } = arguments.command {
        client.delete_account().await?;
        let lines = ["nothing is left".to_owned()];
        return Ok(print(Output::new(json!({ "deleted": true }), lines))?);
    }
    if let Command::Receive {
        follow: true,
        group,
        ..
    } = &arguments.command
    {
        if let Some(group) = group {
            client.bring_to_front(group).await?;
        }
        let mut events = client.event_stream();
        loop {
            let event = [events.next().await?];
            print(received(&event))?;
            messages::mark_read(&client, &event)?;
            client.acknowledge(&event)?;
        }
    }
    if let Command::Receive { wait, .. } = arguments.command {
        client.receive(wait.saturating_mul(1000)).await?;
        // What another process shows meanwhile is not shown again.
        let _held = client.hold().await?;
        let events = client.events()?;
        print(received(&events))?;
        // After printing: a crash shows them twice rather than never.
        messages::mark_read(&client, &events)?;
        return client.acknowledge(&events);
    }
    Ok(print(
        execute(&client, arguments.command, Transfers::Shown).await?,
    )?)
}

/// As usual; who waits is told what for.
pub(crate) fn options() -> Options {
    Options {
        progress: Some(Arc::new(|waiting| {
            let _ = writeln!(
                std::io::stderr(),
                "mimimi: waiting since {} s: {}",
                waiting.so_far.as_secs(),
                crate::terminal::escape(&waiting.reason)
            );
        })),
        ..Options::default()
    }
}

/// Whether what the command prints can be had from nowhere else: it is not begun when it cannot be
/// shown.
fn shows_once(command: &Command) -> bool {
    match command {
        Command::Receive { .. } => true,
        Command::Device { command } => matches!(
            command,
            DeviceCommand::Link { .. } | DeviceCommand::Approve { .. }
        ),
        Command::Group { command } => matches!(
            command,
            GroupCommand::Operation(GroupOperation::Invite { .. })
        ),
        Command::Account(command) => command.shows_once(),
        _ => false,
    }
}

pub(crate) fn home(given: Option<PathBuf>) -> Result<PathBuf, Error> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    given
        .or_else(|| set("MIMIMI_HOME"))
        .or_else(|| set("HOME").map(|home| home.join(".mimimi")))
        .ok_or_else(|| UsageError::NotInitialised.into())
}

async fn init(
    home: &Path,
    stack: &Path,
    account_token: &Path,
    ca_file: Option<&Path>,
) -> Result<Output, Error> {
    let mut endpoints = Endpoints::from_json(&read(stack)?)?;
    if let Some(file) = ca_file {
        endpoints.trust(&read(file)?, &file.display().to_string())?;
    }
    let token =
        String::from_utf8(read(account_token)?).map_err(|_| UsageError::InvalidAccountToken)?;
    let client = Client::init(home, &endpoints, &token, options()).await?;
    let tokens = client.tokens().await?;
    Ok(Output::new(
        json!({ "home": home.display().to_string(), "tokens": tokens }),
        [format!(
            "ready, with {tokens} tokens; next: mimimi handle register NAME"
        )],
    ))
}

pub(crate) async fn execute(
    client: &Client,
    command: Command,
    transfers: Transfers,
) -> Result<Output, Error> {
    Ok(match command {
        Command::Init { .. }
        | Command::Receive { .. }
        | Command::Chat { .. }
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::Restore { .. }
        | Command::DeleteAccount { .. } => Output::new(Value::Null, []),
        Command::Account(command) => account::execute(client, command).await?,
        Command::Handle {
            command: HandleCommand::Delete,
        } => {
            client.delete_handle().await?;
            Output::new(
                json!({ "deleted": true }),
                ["the handle is given up".to_owned()],
            )
        }
        Command::Handle {
            command: HandleCommand::Register { name },
        } => {
            client.register_handle(&name).await?;
            Output::new(json!({ "handle": name }), [format!("you are {name}")])
        }
        Command::Connect { name, greeting } => {
            client.connect_with(&name, &greeting).await?;
            Output::new(
                json!({ "requested": name }),
                [format!("asked {name} for a connection")],
            )
        }
        Command::Requests {
            accept: Some(id), ..
        } => {
            let name = client.accept_request(&id).await?;
            Output::new(
                json!({ "accepted": id, "name": name }),
                [format!("{} is a contact now", Name(&name))],
            )
        }
        Command::Requests {
            decline: Some(id), ..
        } => {
            client.sync(0).await?;
            client.decline_request(&id).await?;
            Output::new(
                json!({ "declined": id }),
                [format!("request {id} is forgotten")],
            )
        }
        Command::Requests { .. } => {
            client.sync(0).await?;
            client.check_inbox().await?;
            let requests = client.incoming_requests()?;
            let rows = requests.iter().map(|request| {
                let greeting = request.greeting.as_deref().unwrap_or_default();
                let anonymous = match request.reportable {
                    true => "",
                    false => " (cannot be reported)",
                };
                let name = format!("{}{anonymous}", Name(&request.name));
                [request.id.to_string(), name, greeting.to_owned()]
            });
            let heads = ["REQUEST", "FROM", "GREETING"];
            Output::table(json!(requests), heads, rows, "no requests").with_texts_of_others()
        }
        Command::Contacts => {
            client.sync(0).await?;
            let contacts = client.contacts()?;
            let document = contacts
                .iter()
                .map(|it| json!({ "user": it.user, "name": it.name, "handle": it.handle, "reportable": it.reportable }))
                .collect();
            let rows = contacts.iter().map(|contact| {
                let handle = match contact.name == contact.handle {
                    true => String::new(),
                    false => contact.handle.clone(),
                };
                [Name(&contact.name).to_string(), handle]
            });
            Output::table(document, ["CONTACT", "HANDLE"], rows, "no contacts yet")
        }
        Command::Verify { name: group } if client.has_group(&group)? => {
            verify_group(client, &group).await?
        }
        Command::Verify { name: contact } => {
            let number = client.safety_number(&contact)?;
            let mut lines = vec![number.clone()];
            // There is no connection group where the connection was restored without one.
            let (stopped, evidence) = trouble(client, &contact).unwrap_or_default();
            lines.extend(lines_of(&contact, stopped, &evidence));
            Output::new(
                json!({
                    "contact": contact, "safety_number": number,
                    "stopped": stopped, "evidence": evidence,
                }),
                lines,
            )
        }
        Command::Group { command } => group(client, command).await?,
        Command::Device { command } => devices::execute(client, command).await?,
        Command::Push { command } => push::execute(client, command).await?,
        Command::Message(command) => messages::execute(client, command, transfers).await?,
        Command::TopUp => {
            client.fill_wallet().await?;
            let available = client.tokens().await?;
            Output::new(
                json!({ "available": available }),
                [format!("{available} tokens")],
            )
        }
        Command::Tokens => {
            let available = client.tokens().await?;
            Output::new(
                json!({ "available": available }),
                [format!("{available} tokens")],
            )
        }
    })
}

type Trouble = (Option<StopReason>, Vec<Evidence>);

fn trouble(client: &Client, name: &str) -> Result<Trouble, Error> {
    Ok((client.stop_reason(name)?, client.evidence(name)?))
}

fn lines_of(name: &str, stopped: Option<StopReason>, evidence: &[Evidence]) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(why) = stopped {
        lines.push(format!("you follow {name} no more: {why}"));
    }
    for piece in evidence {
        let entry = match piece.entry.as_str() {
            "" => "an answer",
            entry => entry,
        };
        lines.push(format!(
            "evidence: in epoch {}, {entry}, SHA-256 {}: {}",
            piece.epoch, piece.digest, piece.why
        ));
    }
    lines
}

/// What came that could not be carried out, and whether the service sees the group as this client
/// does.
async fn verify_group(client: &Client, group: &str) -> Result<Output, Error> {
    client.sync(0).await?;
    let (stopped, evidence) = trouble(client, group)?;
    let mut lines = lines_of(group, stopped, &evidence);
    let seen = match stopped {
        Some(_) => None,
        None => Some(client.verify_group(group).await?),
    };
    if let Some((clients, epoch)) = seen {
        lines.push(format!(
            "the service sees {group} as you do: {clients} clients, epoch {epoch}"
        ));
    }
    // Where the state is lost there is none.
    let authenticator = client.epoch_authenticator(group).ok();
    if let Some((epoch, authenticator)) = &authenticator {
        lines.push(format!(
            "in epoch {epoch} all members read this: {authenticator}; compare it over another channel"
        ));
    }
    let document = json!({
        "group": group,
        "epoch_authenticator": authenticator.map(|(_, authenticator)| authenticator),
        "clients": seen.map(|(clients, _)| clients),
        "epoch": seen.map(|(_, epoch)| epoch),
        "stopped": stopped,
        "evidence": evidence,
    });
    Ok(Output::new(document, lines))
}

async fn group(client: &Client, command: GroupCommand) -> Result<Output, Error> {
    let epoch =
        |client: &Client, group: &str| -> Result<u64, Error> { Ok(client.group(group)?.epoch) };
    Ok(match command {
        GroupCommand::Create { name, suite } => {
            client.create_group_with(&name, suite).await?;
            Output::new(
                json!({ "group": name, "epoch": 0 }),
                [format!("made {name}")],
            )
        }
        GroupCommand::Add { group, contacts } => {
            client.add_to_group(&group, &as_strs(&contacts)).await?;
            Output::new(
                json!({ "group": group, "added": contacts, "epoch": epoch(client, &group)? }),
                [format!("added {} to {group}", names(&contacts))],
            )
        }
        GroupCommand::Remove { group, contacts } => {
            client
                .remove_from_group(&group, &as_strs(&contacts))
                .await?;
            Output::new(
                json!({ "group": group, "removed": contacts, "epoch": epoch(client, &group)? }),
                [format!("removed {} from {group}", names(&contacts))],
            )
        }
        GroupCommand::List => {
            client.sync(0).await?;
            let groups = client.groups()?;
            let rows = groups.iter().map(|group| {
                let state = match group.stopped {
                    _ if group.active && group.post_quantum => String::new(),
                    _ if group.active => "not post-quantum".to_owned(),
                    Some(why) => format!("not followed any more: {why}"),
                    None => "no longer a member".to_owned(),
                };
                let (members, epoch) = (group.members.to_string(), group.epoch.to_string());
                [Name(&group.name).to_string(), members, epoch, state]
            });
            let heads = ["GROUP", "MEMBERS", "EPOCH", "STATE"];
            Output::table(json!(groups), heads, rows, "no groups yet")
        }
        GroupCommand::Members { group } => {
            client.sync(0).await?;
            let members = client.members(&group)?;
            let rows = members.iter().map(|member| {
                let you = if member.own { " (you)" } else { "" };
                let standing = match member.standing {
                    "active" => String::new(),
                    other => other.to_owned(),
                };
                let name = format!("{}{you}", Name(&member.name));
                [name, Name(&member.role).to_string(), standing]
            });
            let heads = ["MEMBER", "ROLE", "STANDING"];
            Output::table(json!(members), heads, rows, "no members")
        }
        GroupCommand::Operation(operation) => group_operations::execute(client, operation).await?,
    })
}

fn as_strs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}
