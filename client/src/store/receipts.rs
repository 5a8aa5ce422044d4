//! Receipts: what became of messages at their readers. This client tells nothing before the user
//! has switched it on for the group.

use protocol::ids::GroupId;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::ids::{MessageId, UserId};
use crate::store::database::{change, first, is_there, rows};

/// What this client tells the others in a group. Every receipt is a message of its own: the
/// delivery service sees under which pseudonym somebody reads, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Receipts {
    /// Nothing.
    #[default]
    Off,
    /// That a message has arrived.
    Delivery,
    /// That a message has arrived, and that it was read.
    Read,
}

/// What became of a message at a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Receipt {
    /// The member's name.
    pub reader: String,
    /// Who.
    pub reader_id: UserId,
    /// Read, and not only delivered.
    pub read: bool,
}

pub(crate) const DELIVERED: u8 = 1;
pub(crate) const READ: u8 = 2;

/// What is told in a group.
pub(crate) fn told(db: &Connection, group: &GroupId) -> Result<Receipts, Error> {
    let told = first(
        db,
        "SELECT receipts FROM groups WHERE group_id = ?",
        [group.0],
        |row| row.get(0),
    )?;
    Ok(match told {
        Some(DELIVERED) => Receipts::Delivery,
        Some(READ) => Receipts::Read,
        _ => Receipts::Off,
    })
}

/// Tells this in a group from now on. What waits to be told and is not to be any more is forgotten.
pub(crate) fn tell(db: &Connection, group: &GroupId, told: Receipts) -> Result<(), Error> {
    let number = told as u8;
    change(
        db,
        "UPDATE groups SET receipts = ? WHERE group_id = ?",
        (number, group.0),
    )?;
    change(
        db,
        "DELETE FROM receipts_due WHERE group_id = ? AND status > ?",
        (group.0, number),
    )
}

/// Has it told, if this is told in the group and was not said before.
pub(crate) fn due(
    db: &Connection,
    group: &GroupId,
    message: &MessageId,
    status: u8,
) -> Result<(), Error> {
    if status > told(db, group)? as u8 {
        return Ok(());
    }
    change(
        db,
        "INSERT INTO receipts_due (group_id, message_id, status)
         SELECT group_id, message_id, ?3 FROM messages
            WHERE group_id = ?1 AND message_id = ?2 AND own = 0 AND kind = 0 AND told < ?3
         ON CONFLICT DO UPDATE SET status = max(status, excluded.status)",
        (group.0, message.0, status),
    )?;
    change(
        db,
        "UPDATE messages SET told = max(told, ?3) WHERE group_id = ?1 AND message_id = ?2",
        (group.0, message.0, status),
    )
}

/// Whether something waits to be told.
pub(crate) fn is_due(db: &Connection) -> Result<bool, Error> {
    is_there(db, "SELECT 1 FROM receipts_due LIMIT 1", ())
}

/// What is to be told of messages in a group.
pub(crate) type Due = (GroupId, Vec<(MessageId, u8)>);

/// Takes what waits to be told, in the caller's transaction.
pub(crate) fn take(db: &Connection) -> Result<Vec<Due>, Error> {
    let mut all: Vec<(GroupId, Vec<(MessageId, u8)>)> = Vec::new();
    let due = rows(
        db,
        "DELETE FROM receipts_due RETURNING group_id, message_id, status",
        (),
        |row| Ok((GroupId(row.get(0)?), MessageId(row.get(1)?), row.get(2)?)),
    )?;
    for (group, message, status) in due {
        match all
            .iter_mut()
            .find(|(it, of)| *it == group && of.len() < content::MAX_STATUSES)
        {
            Some((_, of)) => of.push((message, status)),
            None => all.push((group, vec![(message, status)])),
        }
    }
    Ok(all)
}

/// What a member says of a message of this user's, in the caller's transaction. False if it is
/// nothing new.
pub(crate) fn receive(
    db: &Connection,
    group: &GroupId,
    message: &MessageId,
    (reader, name): (&UserId, &str),
    status: u8,
) -> Result<bool, Error> {
    let changed = db
        .prepare_cached(
            "INSERT INTO receipts (group_id, message_id, reader, name, status)
             VALUES (?, ?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET status = excluded.status WHERE status < excluded.status",
        )?
        .execute((group.0, message.0, reader.0, name, status))?;
    Ok(changed > 0)
}

/// Forgets what was told of a message, here and by others.
pub(crate) fn forget(db: &Connection, group: &GroupId, id: &MessageId) -> Result<(), Error> {
    let of = (group.0, id.0);
    change(
        db,
        "DELETE FROM receipts WHERE group_id = ? AND message_id = ?",
        of,
    )?;
    change(
        db,
        "DELETE FROM receipts_due WHERE group_id = ? AND message_id = ?",
        of,
    )
}

/// What members have said of a message.
pub(crate) fn of(
    db: &Connection,
    group: &GroupId,
    message: &MessageId,
) -> Result<Vec<Receipt>, Error> {
    rows(
        db,
        "SELECT name, reader, status FROM receipts WHERE group_id = ? AND message_id = ?
         ORDER BY reader",
        (group.0, message.0),
        |row| {
            Ok(Receipt {
                reader: row.get(0)?,
                reader_id: UserId(row.get(1)?),
                read: row.get::<_, u8>(2)? == READ,
            })
        },
    )
}
