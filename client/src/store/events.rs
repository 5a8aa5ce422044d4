//! What happened, for whoever looks next.

use std::cmp::Ordering;

use openmls::prelude::Ciphersuite;
use protocol::directory::StoreState;
use rusqlite::{Connection, OptionalExtension as _};
use serde::{Deserialize, Serialize};

use crate::error::{Error, LocalError};
use crate::group_profile::GroupProfile;
use crate::ids::{GroupId, MessageId, UserId};
use crate::leaf;
use crate::message::MessageDetails;
use crate::outcomes::{RemovalReason, StopReason};
use crate::store::database::change;

/// Something that happened in a group or among contacts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A message of another member.
    Message {
        /// Name of the group.
        group: String,
        group_id: GroupId,
        /// Which message.
        message: MessageId,
        /// The name of who sent it.
        sender: String,
        /// Who sent it; `None` if that member cannot show who it is.
        sender_id: Option<UserId>,
        /// What it says.
        text: String,
        /// What there is to it beside the text.
        details: MessageDetails,
        /// When the service accepted it, as it says: milliseconds since 1970.
        accepted_ms: u64,
        /// Its place in the part of the group's journal that it is in.
        position: u64,
    },
    /// A member says something else in a message of its own. Show that it has: who answered or
    /// reacted may have meant what it said before.
    MessageEdited {
        /// Name of the group.
        group: String,
        group_id: GroupId,
        /// Which message: its first version.
        message: MessageId,
        /// The name of who sent it.
        sender: String,
        /// Who sent it; `None` if that member cannot show who it is.
        sender_id: Option<UserId>,
        /// What it says now.
        text: String,
        /// What there is to it beside the text.
        details: MessageDetails,
        /// When the service accepted the change, as it says: milliseconds since 1970.
        accepted_ms: u64,
    },
    /// A member has deleted a message of its own: nothing is left of it here.
    MessageDeleted {
        /// Name of the group.
        group: String,
        group_id: GroupId,
        /// Which message.
        message: MessageId,
        /// The name of who sent it.
        sender: String,
        /// Who sent it; `None` if that member cannot show who it is.
        sender_id: Option<UserId>,
    },
    /// A member reacts to a message, or reacts otherwise than before.
    Reaction {
        /// Name of the group.
        group: String,
        group_id: GroupId,
        /// The reaction's own id.
        message: MessageId,
        /// What it is to. It may not be known here.
        to: MessageId,
        /// The name of who sent it.
        sender: String,
        /// Who sent it; `None` if that member cannot show who it is.
        sender_id: Option<UserId>,
        /// Such as one emoji.
        reactions: Vec<String>,
    },
    /// A member has taken a reaction of its own back.
    ReactionTakenBack {
        /// Name of the group.
        group: String,
        group_id: GroupId,
        /// The reaction's own id.
        message: MessageId,
        /// What it was to.
        to: MessageId,
        /// The name of who sent it.
        sender: String,
        /// Who sent it; `None` if that member cannot show who it is.
        sender_id: Option<UserId>,
    },
    /// A member wanted to edit or delete a message of somebody else's, and nothing has changed.
    ChangeRefused {
        /// Name of the group.
        group: String,
        group_id: GroupId,
        /// Which message was to be changed.
        message: MessageId,
        /// The name of who wanted to change it.
        sender: String,
        /// Who wanted to; `None` if that member cannot show who it is.
        sender_id: Option<UserId>,
    },
    /// A member tells what became of messages of this user's there.
    Receipt {
        /// Name of the group.
        group: String,
        group_id: GroupId,
        /// Which messages.
        messages: Vec<MessageId>,
        /// The member's name.
        reader: String,
        /// Who.
        reader_id: UserId,
        /// They were read, and not only delivered.
        read: bool,
    },
    /// A message has expired: nothing is left of it here.
    MessageExpired {
        /// Name of the group.
        group: String,
        group_id: GroupId,
        /// Which message.
        message: MessageId,
    },
    /// A message of this user's that waited in the outbox stands in the group's journal.
    MessageSent {
        /// Name of the group.
        group: String,
        group_id: GroupId,
        /// Which message.
        message: MessageId,
    },
    /// A message of this user's that waited in the outbox was not sent and will not be.
    MessageFailed {
        /// Name of the group.
        group: String,
        group_id: GroupId,
        /// Which message.
        message: MessageId,
        /// What it says.
        text: String,
        /// Why: [`Error::code`].
        reason: String,
        /// Whether sending it again later may help.
        retryable: bool,
    },
    /// This user was added to a group.
    Joined {
        /// Name of the group.
        group: String,
        /// The contact who vouches for the invitation.
        by: String,
    },
    /// A group that this client has come into, or that it has put in the place of another one, is
    /// not post-quantum: who records it now reads it with a quantum computer. Any other group is.
    NotPostQuantum {
        /// Name of the group.
        group: String,
    },
    /// This user was removed from a group.
    Removed {
        /// Name of the group.
        group: String,
    },
    /// Another user was added.
    MemberAdded {
        /// Name of the group.
        group: String,
        /// Who.
        name: String,
        /// By whom.
        by: String,
    },
    /// Another user was removed.
    MemberRemoved {
        /// Name of the group.
        group: String,
        /// Who.
        name: String,
        /// By whom.
        by: String,
    },
    /// The service had another user removed, or this one, and said why.
    RemovedByService {
        /// Name of the group; empty for a connection that another one was removed from. Of a
        /// connection, or of this user's devices, that this client was removed from: what it is.
        group: String,
        /// Who.
        name: String,
        /// What it said.
        why: RemovalReason,
    },
    /// The service wants a member removed for a reason that contradicts what this client has seen.
    RemovalRefused {
        /// Name of the group.
        group: String,
        /// What was seen.
        why: String,
    },
    /// A member has come back after a loss of state.
    MemberRejoined {
        /// Name of the group; empty for a connection.
        group: String,
        /// Who.
        name: String,
    },
    /// One more client of somebody who is in a group, or in a connection, reads along: a further
    /// device, as one that is there already says.
    ClientAdded {
        /// Name of the group; empty for a connection.
        group: String,
        /// Whose: a member, the contact, or this user.
        name: String,
    },
    /// A device has come into the group of this user's devices, or has come back into it.
    DeviceCameIn,
    /// A member of a group that another one was put in the place of could not be brought along.
    LeftBehind {
        /// Name of the new group.
        group: String,
        /// Who.
        name: String,
    },
    /// Somebody asks for a connection.
    ConnectionRequest {
        /// For accepting or declining it.
        id: String,
        /// The handle that they claim.
        name: String,
    },
    /// A connection request of ours was accepted.
    Connected {
        /// The new contact.
        name: String,
    },
    /// A contact has ended the connection.
    Disconnected {
        /// The former contact.
        name: String,
    },
    /// Another device of this user is linked.
    DeviceLinked {
        /// What it is called.
        name: String,
    },
    /// A device of this user was removed.
    DeviceRemoved {
        /// What it was called.
        name: String,
    },
    /// Another device of this user has removed this one.
    DeviceUnlinked,
    /// Others have claimed so many KeyPackages of this user since they were counted last, and
    /// nobody has added this user anywhere: a contact who wants nobody to be able to.
    KeyPackagesTaken {
        /// How many.
        taken: u32,
    },
    /// Somebody who is no contact has tried to add this user to a group; it was not joined.
    InvitationRefused {
        /// What they call the group.
        group: String,
        /// The name that they go by, as far as it is known; else empty.
        by: String,
    },
    /// A contact has added this user to a group, and the service shows nothing by which it can be
    /// joined: the invitation waits for that, up to a month.
    InvitationWaits {
        /// What they call the group.
        group: String,
        /// Who.
        by: String,
    },
    /// This client has come back into a group after a loss of state: what was said meanwhile is
    /// lost.
    Rejoined {
        /// Name of the group.
        group: String,
        /// Who was in it when this client was, and is not now.
        absent: Vec<String>,
        /// Whose role or standing is not what it was.
        changed: Vec<String>,
        /// Whether roles may do something else than they could.
        rules_changed: bool,
    },
    /// Another device of this user has told of a contact that this one cannot have: another user of
    /// that name is one here, or it has no name at all.
    ContactConflict {
        /// The name; empty if there is none.
        name: String,
    },
    /// The service took a commit that the group's policy forbids; it was not applied.
    CommitRefused {
        /// Name of the group.
        group: String,
    },
    /// The policy of a group has changed.
    PolicyChanged {
        /// Name of the group.
        group: String,
        /// By whom.
        by: String,
    },
    /// The members of a group agree on another name, description or picture.
    GroupProfileChanged {
        /// Name of the group from now on.
        group: String,
        group_id: GroupId,
        /// By whom.
        by: String,
        /// As it is now.
        profile: GroupProfile,
    },
    /// A group was re-initialised: it goes on under the same name, and this is what is left of the
    /// old one.
    ReInitialized {
        /// New name of the old group.
        group: String,
        /// By whom.
        by: String,
    },
    /// Messages of a group had expired at the service before this client read them.
    MessagesDropped {
        /// Name of the group.
        group: String,
        /// How many, one after the other.
        count: u32,
    },
    /// A contact that was in a group asks to be added to it again.
    ReturnWanted {
        /// Name of the group.
        group: String,
        /// The contact.
        name: String,
    },
    /// Another client of this user came in this one's place: it was restored from a backup, or came
    /// back.
    Replaced {
        /// Name of the group.
        group: String,
    },
    /// Somebody is in the group again who is banned from it, or does not show who it is while
    /// others are banned. Members who may remove it do so.
    BannedCameIn {
        /// Name of the group.
        group: String,
        /// Who.
        name: String,
        /// By whom; empty if it came by itself.
        by: String,
    },
    /// Messages that could not be read: what they said is lost, though their sender was told that
    /// they were accepted.
    MessageUnreadable {
        /// Name of the group.
        group: String,
        /// The member who sent them; empty if that cannot be told.
        sender: String,
        /// How many, one after the other.
        count: u32,
    },
    /// The service said that it has accepted a message of this user's, and shows it to nobody.
    MessageWithheld {
        /// Name of the group.
        group: String,
        group_id: GroupId,
        /// Which message.
        message: MessageId,
        /// What it says.
        text: String,
    },
    /// This home directory was copied, restored from a copy or rolled back: its keys are renewed
    /// before anything is sent.
    HomeCopied,
    /// The store of the service is not the one that this client knew: what was accepted since its
    /// backup is lost there.
    ServiceStoreChanged {
        /// In what way.
        change: StoreChange,
    },
    /// This client follows a group no further. It comes back by itself only from a loss of its own.
    GroupLost {
        /// Name of the group.
        group: String,
        why: StopReason,
    },
    /// As [`Event::GroupLost`], for the connection with a contact. Where rejoining does not lead
    /// back, `Client::connect` asks the contact to connect anew.
    ConnectionLost {
        /// The contact.
        name: String,
        why: StopReason,
    },
    /// As [`Event::GroupLost`], for what this user's devices tell each other.
    DevicesLost { why: StopReason },
    /// Somebody came into a group from outside who cannot show who that is: nothing is sent there
    /// until that leaf is gone or the user goes on all the same.
    UnverifiedMember {
        /// Name of the group.
        group: String,
    },
}

/// What became of a service's store, as its directory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreChange {
    /// Its operator says that it was restored from a backup.
    Restored,
    /// It is of an earlier generation than before: a backup from before a restoration.
    RolledBack,
    /// It is another one.
    Replaced,
}

impl StoreChange {
    /// What lies between the two. `None`: nothing.
    #[must_use]
    pub fn between(known: &StoreState, shown: &StoreState) -> Option<Self> {
        if known.id != shown.id {
            return Some(Self::Replaced);
        }
        match shown.generation.cmp(&known.generation) {
            Ordering::Less => Some(Self::RolledBack),
            Ordering::Equal => None,
            Ordering::Greater => Some(Self::Restored),
        }
    }
}

/// An event that is kept until it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Grows with each event of this client, and is never used again.
    pub id: i64,
    /// What happened.
    pub event: Event,
}

impl Event {
    /// The message whose words are in it, and what that one is about.
    fn words(&self) -> (Option<&MessageId>, Option<&MessageId>) {
        match self {
            Self::Message { message, .. }
            | Self::MessageEdited { message, .. }
            | Self::MessageFailed { message, .. }
            | Self::MessageWithheld { message, .. } => (Some(message), None),
            Self::Reaction { message, to, .. } => (Some(message), Some(to)),
            _ => (None, None),
        }
    }
}

/// The user is told of a group of this name that is not post-quantum, in the caller's transaction.
pub(crate) fn say_if_not_post_quantum(
    db: &Connection,
    group: String,
    suite: Ciphersuite,
) -> Result<(), Error> {
    match leaf::is_post_quantum(suite) {
        true => Ok(()),
        false => store(db, &Event::NotPostQuantum { group }),
    }
}

/// Keeps an event, in the transaction of what caused it.
pub(crate) fn store(db: &Connection, event: &Event) -> Result<(), Error> {
    store_about(db, event, None)
}

/// As [`store`], with the words of a message that is about another one.
pub(crate) fn store_about(
    db: &Connection,
    event: &Event,
    about: Option<&MessageId>,
) -> Result<(), Error> {
    let text = serde_json::to_string(event).map_err(|_| LocalError::Damaged)?;
    let (message, to) = event.words();
    change(
        db,
        "INSERT INTO events (event, message, about) VALUES (?, ?, ?)",
        (text, message.map(|id| id.0), about.or(to).map(|id| id.0)),
    )
}

/// Forgets events that have the words of this message, or of one about it.
pub(crate) fn erase(db: &Connection, message: &MessageId) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM events WHERE message = ?1 OR about = ?1",
        [message.0],
    )
}

/// The number of the last event that waits; 0 for none.
pub(crate) fn last(db: &Connection) -> Result<i64, Error> {
    Ok(db
        .prepare_cached("SELECT coalesce(max(id), 0) FROM events")?
        .query_row((), |row| row.get(0))?)
}

/// The first event with a larger number.
pub(crate) fn next(db: &Connection, seen: i64) -> Result<Option<StoredEvent>, Error> {
    let mut statement =
        db.prepare_cached("SELECT id, event FROM events WHERE id > ? ORDER BY id LIMIT 1")?;
    let row = statement.query_row([seen], |row| Ok((row.get(0)?, row.get(1)?)));
    row.optional()?.map(stored_event).transpose()
}

fn stored_event((id, event): (i64, String)) -> Result<StoredEvent, Error> {
    let event = serde_json::from_str(&event).map_err(|_| LocalError::Damaged)?;
    Ok(StoredEvent { id, event })
}

/// All that is kept, oldest first.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) fn stored(db: &Connection) -> Vec<Event> {
    let mut statement = db.prepare("SELECT event FROM events ORDER BY id").unwrap();
    let rows = statement
        .query_map((), |row| row.get::<_, String>(0))
        .unwrap();
    rows.map(|event| serde_json::from_str(&event.unwrap()).unwrap())
        .collect()
}

/// As [`store`], for a message of a group that could not be read: one event for as many as follow
/// each other.
pub(crate) fn store_unreadable(db: &Connection, group: &str, sender: &str) -> Result<(), Error> {
    let last: Option<(i64, String)> = db
        .query_row(
            "SELECT id, event FROM events ORDER BY id DESC LIMIT 1",
            (),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let mut event = Event::MessageUnreadable {
        group: group.to_owned(),
        sender: sender.to_owned(),
        count: 1,
    };
    if let Some((id, text)) = last
        && let Ok(Event::MessageUnreadable {
            group: last_group,
            sender: last_sender,
            count: before,
        }) = serde_json::from_str(&text)
        && (last_group.as_str(), last_sender.as_str()) == (group, sender)
    {
        if let Event::MessageUnreadable { count, .. } = &mut event {
            *count = before.saturating_add(1);
        }
        // Under a number of its own: whoever acknowledges the former one has not seen this count.
        db.execute("DELETE FROM events WHERE id = ?", [id])?;
    }
    store(db, &event)
}

/// As [`store`], for a message that had expired: one event for as many as follow each other.
pub(crate) fn store_expired(db: &Connection, group: &str) -> Result<(), Error> {
    let last: Option<(i64, String)> = db
        .query_row(
            "SELECT id, event FROM events ORDER BY id DESC LIMIT 1",
            (),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let mut count = 1;
    if let Some((id, text)) = last
        && let Ok(Event::MessagesDropped {
            group: last_group,
            count: before,
        }) = serde_json::from_str(&text)
        && last_group == group
    {
        count = before.saturating_add(1);
        // Under a number of its own: whoever acknowledges the former one has not seen this count.
        db.execute("DELETE FROM events WHERE id = ?", [id])?;
    }
    let group = group.to_owned();
    store(db, &Event::MessagesDropped { group, count })
}

/// Forgets events that have been shown, in the caller's transaction.
pub(crate) fn acknowledge(db: &Connection, events: &[StoredEvent]) -> Result<(), Error> {
    for event in events {
        change(db, "DELETE FROM events WHERE id = ?", [event.id])?;
    }
    Ok(())
}

/// Those of these events that wait.
pub(crate) fn of_ids(db: &Connection, ids: &[i64]) -> Result<Vec<StoredEvent>, Error> {
    let mut statement = db.prepare_cached("SELECT id, event FROM events WHERE id = ?")?;
    let mut found = Vec::new();
    for id in ids {
        let row = statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?)));
        found.extend(row.optional()?.map(stored_event).transpose()?);
    }
    Ok(found)
}

/// The events that wait, oldest first.
pub(crate) fn all(db: &Connection) -> Result<Vec<StoredEvent>, Error> {
    let mut statement = db.prepare_cached("SELECT id, event FROM events ORDER BY id")?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.map(|row| stored_event(row?)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What docs/cli.md says that events look like.
    fn documented() -> Vec<serde_json::Value> {
        let documents = include_str!("../../../docs/cli.md");
        let events = documents.split("\n## Events\n").nth(1).unwrap();
        let lines = events.split("```").nth(1).unwrap().lines().skip(1);
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Stops compiling when there is an event more: docs/cli.md needs an example of it.
    fn is_documented(event: &Event) -> bool {
        match event {
            Event::Message { .. }
            | Event::MessageEdited { .. }
            | Event::MessageDeleted { .. }
            | Event::Reaction { .. }
            | Event::ReactionTakenBack { .. }
            | Event::ChangeRefused { .. }
            | Event::Receipt { .. }
            | Event::MessageExpired { .. }
            | Event::MessageSent { .. }
            | Event::MessageFailed { .. }
            | Event::Joined { .. }
            | Event::NotPostQuantum { .. }
            | Event::Removed { .. }
            | Event::MemberAdded { .. }
            | Event::MemberRemoved { .. }
            | Event::RemovedByService { .. }
            | Event::RemovalRefused { .. }
            | Event::ConnectionLost { .. }
            | Event::DevicesLost { .. }
            | Event::UnverifiedMember { .. }
            | Event::ConnectionRequest { .. }
            | Event::Connected { .. }
            | Event::Disconnected { .. }
            | Event::DeviceLinked { .. }
            | Event::DeviceRemoved { .. }
            | Event::Rejoined { .. }
            | Event::ContactConflict { .. }
            | Event::CommitRefused { .. }
            | Event::PolicyChanged { .. }
            | Event::GroupProfileChanged { .. }
            | Event::ReInitialized { .. }
            | Event::MessagesDropped { .. }
            | Event::ReturnWanted { .. }
            | Event::GroupLost { .. }
            | Event::MemberRejoined { .. }
            | Event::ClientAdded { .. }
            | Event::DeviceCameIn
            | Event::LeftBehind { .. }
            | Event::DeviceUnlinked
            | Event::KeyPackagesTaken { .. }
            | Event::InvitationRefused { .. }
            | Event::InvitationWaits { .. }
            | Event::Replaced { .. }
            | Event::BannedCameIn { .. }
            | Event::MessageUnreadable { .. }
            | Event::MessageWithheld { .. }
            | Event::ServiceStoreChanged { .. }
            | Event::HomeCopied => true,
        }
    }

    #[test]
    fn of_messages_that_had_expired_it_is_told_how_many_of_which_group() {
        let db = crate::store::database::in_memory().unwrap();
        for group in ["team", "team", "team", "garden", "team"] {
            store_expired(&db, group).unwrap();
        }
        let dropped = |group: &str, count| Event::MessagesDropped {
            group: group.to_owned(),
            count,
        };
        let told = [("team", 3), ("garden", 1), ("team", 1)];
        assert_eq!(
            stored(&db),
            told.map(|(group, count)| dropped(group, count))
        );
    }

    #[test]
    fn every_documented_event_is_one_and_shows_all_of_its_members() {
        let documented = documented();
        assert_eq!(documented.len(), 48);
        for example in documented {
            let event: Event = serde_json::from_value(example.clone()).unwrap();
            assert!(is_documented(&event));
            assert_eq!(serde_json::to_value(&event).unwrap(), example);
        }
    }
}
