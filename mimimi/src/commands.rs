//! One function that does what a command says and prints what came of it.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use basis::http_date;
use client::{
    Client, Endpoints, Error, Event, Evidence, LocalError, MAX_TEXT, Options, RemovalReason,
    StopReason, StoreChange, StoredEvent, UsageError,
};
use serde_json::{Value, json};

use crate::account::{self, read};
use crate::arguments::{Arguments, Command, DeviceCommand, GroupCommand, HandleCommand};
use crate::group_operations::GroupOperation;
use crate::terminal::{Name, Output, names, output_is_closed};
use crate::{devices, group_operations, push};

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
        return client.acknowledge(&events);
    }
    Ok(print(execute(&client, arguments.command).await?)?)
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

/// The text of a message: as it was given, or from standard input without the newline at its end.
fn text(given: String) -> Result<String, Error> {
    if given != "-" {
        return Ok(given);
    }
    let mut bytes = Vec::new();
    // What is too long is not read to its end.
    let most = u64::try_from(MAX_TEXT.saturating_add(3)).unwrap_or(u64::MAX);
    std::io::stdin()
        .take(most)
        .read_to_end(&mut bytes)
        .map_err(LocalError::Input)?;
    let end = match bytes.as_slice() {
        [.., b'\r', b'\n'] => 2,
        [.., b'\n'] => 1,
        _ => 0,
    };
    bytes.truncate(bytes.len().saturating_sub(end));
    if bytes.len() > MAX_TEXT {
        return Err(UsageError::TextTooLong.into());
    }
    String::from_utf8(bytes).map_err(|_| UsageError::TextNotUtf8.into())
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

async fn execute(client: &Client, command: Command) -> Result<Output, Error> {
    Ok(match command {
        Command::Init { .. }
        | Command::Receive { .. }
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
            let lines = requests.iter().map(|request| {
                let greeting = request.greeting.as_deref().unwrap_or_default();
                let anonymous = if request.reportable {
                    ""
                } else {
                    " (cannot be reported)"
                };
                let name = Name(&request.name);
                format!("{}\t{name}{anonymous}\t{greeting}", request.id)
                    .trim_end()
                    .to_owned()
            });
            Output::new(json!(requests), lines).with_texts_of_others()
        }
        Command::Contacts => {
            client.sync(0).await?;
            let contacts = client.contacts()?;
            let document = contacts
                .iter()
                .map(|it| json!({ "user": it.user, "name": it.name, "reportable": it.reportable }))
                .collect();
            let lines = contacts
                .iter()
                .map(|contact| Name(&contact.name).to_string());
            Output::new(document, lines)
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
        Command::Send { group, text: given } => {
            let message = client.send_message(&group, &text(given)?).await?;
            let document = json!({ "group": group, "sent": true, "message": message });
            Output::new(document, [])
        }
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
            let lines = groups.iter().map(|group| {
                let left = match group.stopped {
                    _ if group.active => String::new(),
                    Some(why) => format!(" (not followed any more: {why})"),
                    None => " (no longer a member)".to_owned(),
                };
                format!(
                    "{}\t{} members, epoch {}{left}",
                    Name(&group.name),
                    group.members,
                    group.epoch
                )
            });
            Output::new(json!(groups), lines)
        }
        GroupCommand::Members { group } => {
            client.sync(0).await?;
            let members = client.members(&group)?;
            let lines = members.iter().map(|member| {
                let you = if member.own { " (you)" } else { "" };
                let standing = match member.standing {
                    "active" => String::new(),
                    other => format!(", {other}"),
                };
                let (name, role) = (Name(&member.name), Name(&member.role));
                format!("{name}{you}\t{role}{standing}")
            });
            Output::new(json!(members), lines)
        }
        GroupCommand::Operation(operation) => group_operations::execute(client, operation).await?,
    })
}

fn as_strs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn received(events: &[StoredEvent]) -> Output {
    let document = events.iter().map(|stored| json!(stored.event)).collect();
    Output::new(document, events.iter().map(|stored| line(&stored.event))).with_texts_of_others()
}

/// Fields of events in which nothing stands that others have chosen, and the text, which ends a
/// line.
const IDS_AND_WORDS: [&str; 8] = [
    "type",
    "id",
    "text",
    "why",
    "group_id",
    "message",
    "sender_id",
    "reason",
];

/// The event with all that others have chosen in it as [`Name`]s, but for texts, which end a line.
fn named(event: &Event) -> Event {
    let mut document = json!(event);
    for (field, value) in document.as_object_mut().into_iter().flatten() {
        for name in value.as_array_mut().into_iter().flatten() {
            let shown = name.as_str().map(|name| Name(name).to_string());
            *name = shown.unwrap_or_default().into();
        }
        if let Some(text) = value.as_str()
            && !text.is_empty()
            && !IDS_AND_WORDS.contains(&field.as_str())
        {
            *value = Name(text).to_string().into();
        }
    }
    serde_json::from_value(document).unwrap_or_else(|_| event.clone())
}

fn reason(why: RemovalReason) -> String {
    match why {
        RemovalReason::Inactive(week) => {
            format!(
                "it has changed nothing since the week of {}",
                first_day(week)
            )
        }
        RemovalReason::NeverCame => "it never came".to_owned(),
        RemovalReason::OwnWish => "it wished to leave".to_owned(),
        _ => "for a reason of a later release".to_owned(),
    }
}

/// The first day of a week since 1970.
fn first_day(week: u16) -> String {
    let date = http_date::format(u64::from(week) * 7 * 86_400_000);
    date.get(5..16).unwrap_or_default().to_owned()
}

fn line(event: &Event) -> String {
    match &named(event) {
        Event::Message {
            group,
            sender,
            text,
            ..
        } => format!("[{group}] {sender}: {text}"),
        Event::MessageSent { group, .. } => format!("[{group}] a message that waited was sent"),
        Event::MessageFailed {
            group,
            text,
            reason,
            retryable,
            ..
        } => {
            let advice = if *retryable { "; say it again later" } else { "" };
            format!("[{group}] was not sent ({reason}){advice}: {text}")
        }
        Event::Joined { group, by } => format!("{by} added you to {group}"),
        Event::Removed { group } => format!("you were removed from {group}"),
        Event::MemberAdded { group, name, by } if name == by => format!("[{group}] {name} came in"),
        Event::MemberAdded { group, name, by } => format!("[{group}] {by} added {name}"),
        Event::MemberRemoved { group, name, by } if by.is_empty() => {
            format!("[{group}] {name} is gone")
        }
        Event::MemberRemoved { group, name, by } => format!("[{group}] {by} removed {name}"),
        Event::RemovedByService { group, name, why } if group.is_empty() => {
            format!(
                "{name} was removed from a connection of yours by the service: {}; disconnect, and connect again",
                reason(*why)
            )
        }
        Event::RemovedByService { group, name, why } => {
            format!(
                "[{group}] {name} was removed by the service: {}",
                reason(*why)
            )
        }
        Event::RemovalRefused { group, why } => {
            format!(
                "[{group}] the service wants a member removed for a reason that is not true: {why}"
            )
        }
        Event::MemberRejoined { group, name } if group.is_empty() => {
            format!("a client of {name} came back into a connection of yours")
        }
        Event::MemberRejoined { group, name } => format!("[{group}] {name} came back"),
        Event::ClientAdded { group, name } if group.is_empty() => {
            format!("one more client of {name} reads a connection of yours")
        }
        Event::ClientAdded { group, name } => {
            format!("[{group}] {name} is there with one more client")
        }
        Event::DeviceCameIn => {
            "a device came to your devices, or came back: mimimi device list says which".to_owned()
        }
        Event::ContactConflict { name } if name.is_empty() => {
            "another device of yours has a contact without a name that can be used".to_owned()
        }
        Event::ContactConflict { name } => {
            format!(
                "another device of yours has somebody else as {name}: ask both, and verify {name}"
            )
        }
        Event::LeftBehind { group, name } => {
            format!("[{group}] {name} could not be brought along: invite them")
        }
        Event::DeviceUnlinked => {
            "another device of yours has removed this one: it is no device of yours any more"
                .to_owned()
        }
        Event::ConnectionRequest { id, name } => {
            format!("{name} asks for a connection: mimimi requests --accept {id}")
        }
        Event::Connected { name } => format!("{name} is a contact now"),
        Event::Disconnected { name } => format!("{name} has ended the connection"),
        Event::DeviceLinked { name } => format!("{name} is a device of yours now"),
        Event::DeviceRemoved { name } => format!("{name} is no device of yours any more"),
        Event::Replaced { group } => {
            format!(
                "another client of yours, restored from a backup, is in {group} in this one's place"
            )
        }
        Event::BannedCameIn { group, name, by } if by.is_empty() => {
            format!("[{group}] {name}, who is banned or does not show who it is, has come in")
        }
        Event::BannedCameIn { group, name, by } => {
            format!("[{group}] {by} added {name}, who is banned or does not show who it is")
        }
        Event::MessageUnreadable {
            group,
            sender,
            count,
        } => {
            let whose = if sender.is_empty() {
                String::new()
            } else {
                format!(" of {sender}")
            };
            if *count == 1 {
                format!("[{group}] a message{whose} could not be read")
            } else {
                format!("[{group}] {count} messages{whose} could not be read")
            }
        }
        Event::ServiceStoreChanged { change } => match change {
            StoreChange::Restored => {
                "the service was restored from a backup: what it accepted after that backup is lost there, and groups \
                 that went on since stop"
            }
            StoreChange::RolledBack => {
                "the service has an earlier state than this client has seen, without its operator saying so: ask the \
                 operator, and make anew the groups that matter"
            }
            StoreChange::Replaced => {
                "the service has another store than before: it knows nothing of what was there"
            }
        }
        .to_owned(),
        Event::HomeCopied => "this home directory was copied or put back: its keys are renewed \
                                 before anything is sent, and a copy of it that is in use will stop"
            .to_owned(),
        Event::GroupLost {
            group,
            why: why @ StopReason::Expired,
        } => {
            format!(
                "you follow {group} no more, and what was said there is gone: {why}; mimimi group rejoin {group}, and \
                 if you were removed, mimimi group return {group}"
            )
        }
        Event::GroupLost { group, why } => {
            format!(
                "you follow {group} no more: {why}; mimimi verify {group}, mimimi group rejoin {group}"
            )
        }
        Event::ConnectionLost {
            name,
            why: why @ (StopReason::RemovedByService | StopReason::Expired),
        } => {
            format!(
                "the connection with {name} has stopped: {why}; to connect anew: mimimi connect {name}"
            )
        }
        Event::ConnectionLost { name, why } => {
            format!(
                "the connection with {name} has stopped: {why}; mimimi verify {name}, mimimi group rejoin {name}"
            )
        }
        Event::DevicesLost {
            why: why @ (StopReason::RemovedByService | StopReason::Expired),
        } => {
            format!("your other devices do not hear of this one: {why}; link it anew")
        }
        Event::DevicesLost { why } => {
            format!("your devices do not hear of each other: {why}; mimimi group rejoin --devices")
        }
        Event::UnverifiedMember { group } => {
            format!(
                "[{group}] somebody came in who cannot show who that is: nothing is sent before that one is \
                 gone, or you say mimimi group accept-unverified {group}"
            )
        }
        Event::MessageWithheld { group, text, .. } => format!(
            "[{group}] the service has accepted a message of yours and shows it to nobody: {text}"
        ),
        Event::MessagesDropped { group, count: 1 } => {
            format!("[{group}] a message has expired before you were here: it is lost")
        }
        Event::MessagesDropped { group, count } => {
            format!("[{group}] {count} messages have expired before you were here: they are lost")
        }
        Event::ReturnWanted { group, name } => {
            format!(
                "{name} was away for long and asks to come back into {group}: mimimi group add {group} {name}"
            )
        }
        Event::Rejoined {
            group,
            absent,
            changed,
            rules_changed,
        } => {
            let mut line = format!("you are back in {group}: what was said meanwhile is lost");
            if !absent.is_empty() {
                line.push_str(&format!("; not there any more: {}", absent.join(", ")));
            }
            if !changed.is_empty() {
                line.push_str(&format!("; with another role: {}", changed.join(", ")));
            }
            if *rules_changed {
                line.push_str("; what roles may do has changed");
            }
            line
        }
        Event::CommitRefused { group } => {
            format!("somebody did in {group} what its policy forbids: you follow it no more")
        }
        Event::PolicyChanged { group, by } => format!("[{group}] {by} changed the roles"),
        Event::KeyPackagesTaken { taken } => {
            format!("contacts took {taken} of your KeyPackages and added you nowhere")
        }
        Event::InvitationRefused { group, by } if by.is_empty() => {
            format!("somebody who is no contact tried to add you to {group}: you are not in it")
        }
        Event::InvitationRefused { group, by } => {
            format!("{by}, who is no contact, tried to add you to {group}: you are not in it")
        }
        Event::InvitationWaits { group, by } => format!(
            "{by} added you to {group}, but the service shows nothing by which you could come in: it is tried again"
        ),
        Event::ReInitialized { group, by } => {
            format!("[{group}] {by} put another group in its place")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_is_shown_as_its_first_day() {
        let reason = reason(RemovalReason::Inactive(2976));
        assert_eq!(
            reason,
            "it has changed nothing since the week of 14 Jan 2027"
        );
    }
}
