//! What happened, for whoever looks next.

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::Client;
use crate::error::{Error, LocalError};

/// Something that happened in a group or among contacts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A message of another member.
    Message {
        /// Name of the group.
        group: String,
        /// Who sent it.
        sender: String,
        /// What it says.
        text: String,
    },
    /// This user was added to a group.
    Joined {
        /// Name of the group.
        group: String,
        /// The contact who vouches for the invitation.
        by: String,
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
    /// This client has come back into a group after a loss of state: what was said meanwhile is lost.
    Rejoined {
        /// Name of the group.
        group: String,
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
    /// A group was re-initialised: it goes on under the same name, and this is what is left of the old one.
    ReInitialized {
        /// New name of the old group.
        group: String,
        /// By whom.
        by: String,
    },
    /// More messages of a group waited for this client than the service keeps: the oldest are lost.
    MessagesDropped {
        /// Name of the group.
        group: String,
    },
    /// A commit could not be followed; a member must add this client again.
    GroupLost {
        /// Name of the group.
        group: String,
    },
}

/// An event that is kept until it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    pub(crate) id: i64,
    /// What happened.
    pub event: Event,
}

/// Keeps an event, in the transaction of what caused it.
pub(crate) fn store(db: &Connection, event: &Event) -> Result<(), Error> {
    let event = serde_json::to_string(event).map_err(|_| LocalError::Damaged)?;
    db.execute("INSERT INTO events (event) VALUES (?)", [event])?;
    Ok(())
}

impl Client {
    /// The events that have not been acknowledged, oldest first.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub fn events(&self) -> Result<Vec<StoredEvent>, Error> {
        let mut statement = self
            .db
            .prepare("SELECT id, event FROM events ORDER BY id")?;
        let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
        rows.map(|row| {
            let (id, event) = row?;
            let event = serde_json::from_str(&event).map_err(|_| LocalError::Damaged)?;
            Ok(StoredEvent { id, event })
        })
        .collect()
    }

    /// Forgets events that have been shown. Before this call they come again after a crash.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub fn acknowledge(&mut self, events: &[StoredEvent]) -> Result<(), Error> {
        let transaction = crate::database::begin(&mut self.db)?;
        for event in events {
            transaction.execute("DELETE FROM events WHERE id = ?", [event.id])?;
        }
        transaction.commit()?;
        Ok(())
    }
}
