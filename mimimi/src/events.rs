//! What happened, in lines for people.

use basis::http_date;
use client::{Event, RemovalReason, StopReason, StoreChange, StoredEvent};
use serde_json::json;

use crate::messages::says;
use crate::terminal::{Name, Output};

pub(crate) fn received(events: &[StoredEvent]) -> Output {
    let document = events.iter().map(|stored| json!(stored.event)).collect();
    Output::new(document, events.iter().map(|stored| line(&stored.event))).with_texts_of_others()
}

/// Fields of events in which nothing stands that others have chosen, and the text, which ends a
/// line.
const IDS_AND_WORDS: [&str; 10] = [
    "type",
    "id",
    "text",
    "why",
    "group_id",
    "message",
    "sender_id",
    "reader_id",
    "to",
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
            details,
            ..
        } => format!("[{group}] {}", says(sender, text, details)),
        Event::MessageEdited {
            group,
            sender,
            text,
            details,
            ..
        } => format!("[{group}] changed: {}", says(sender, text, details)),
        Event::MessageDeleted { group, sender, .. } => {
            format!("[{group}] {sender} has deleted a message")
        }
        Event::Reaction {
            group,
            sender,
            reactions,
            ..
        } => format!("[{group}] {sender} reacts: {}", reactions.join(" ")),
        Event::ReactionTakenBack { group, sender, .. } => {
            format!("[{group}] {sender} takes a reaction back")
        }
        Event::ChangeRefused { group, sender, .. } => {
            format!("[{group}] {sender} wanted to change somebody else's message: it was not changed")
        }
        Event::Receipt {
            group,
            messages,
            reader,
            read,
            ..
        } => {
            let what = if *read { "has read" } else { "has got" };
            format!("[{group}] {reader} {what} {} of your messages", messages.len())
        }
        Event::MessageExpired { group, .. } => format!("[{group}] a message has expired"),
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
        Event::GroupProfileChanged {
            group, by, profile, ..
        } => match profile.description.as_str() {
            "" => format!("[{group}] {by} changed what the group says of itself"),
            description => format!("[{group}] {by} changed what the group says of itself: {description}"),
        },
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
        Event::NotPostQuantum { group } => format!(
            "[{group}] is not post-quantum: who records it now can read it with a quantum computer"
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
