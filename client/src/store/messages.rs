//! What was said in groups: who said what under which id, as it is now.
//!
//! An id that was read once is not read again. Who has said something is kept with it, and nobody
//! else changes it.

use content::MimiContent;
use protocol::ids::GroupId;
use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};

use crate::error::{Error, LocalError};
use crate::ids::{MessageId, UserId};
use crate::message::{Expiry, MessageDetails, Said, details, reactions, said, unknown};
use crate::store::database::{change, first, is_there, rows, value};
use crate::store::groups::Group;
use crate::store::identities;
use crate::store::receipts::{self, Receipt};

/// Who has said something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Author {
    /// The identity key; of a member who cannot show who it is, SHA-256 of the leaf's credential.
    pub(crate) key: Vec<u8>,
    /// Whether it is an identity key.
    pub(crate) verified: bool,
    /// As it is shown.
    pub(crate) name: String,
    /// This user.
    pub(crate) own: bool,
}

impl Author {
    pub(crate) fn user(&self) -> Option<UserId> {
        UserId::of(&self.key).filter(|_| self.verified)
    }

    fn is(&self, other: &Self) -> bool {
        (&self.key, self.verified) == (&other.key, other.verified)
    }
}

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Message = 0,
    Reaction = 1,
    /// An edit or a deletion: only its id is kept.
    Change = 2,
}

/// Where an own message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MessageState {
    /// In the group's journal.
    Sent,
    /// In the outbox.
    Waiting,
    /// Not sent, and it will not be.
    Failed,
}

/// Why nothing is left of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Gone {
    /// Its sender has deleted it.
    Deleted,
    /// It has expired.
    Expired,
}

/// A reaction to a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reaction {
    /// The reaction's own id: what takes it back.
    pub message: MessageId,
    /// Whose.
    pub sender: String,
    /// Whose; `None` if that member cannot show who it is.
    pub sender_id: Option<UserId>,
    /// Such as one emoji.
    pub reactions: Vec<String>,
}

/// A message as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Which one.
    pub message: MessageId,
    /// Who has sent it, as that member was called then.
    pub sender: String,
    /// Who has sent it; `None` if that member cannot show who it is.
    pub sender_id: Option<UserId>,
    /// Of this user, perhaps from another device.
    pub own: bool,
    /// What it says; empty if it is gone.
    pub text: String,
    /// What there is to it.
    pub details: MessageDetails,
    /// When the service has accepted it; while it waits, when it was said: milliseconds since 1970.
    pub at_ms: u64,
    /// Where it stands.
    pub state: MessageState,
    /// Its sender has changed it.
    pub edited: bool,
    /// Why nothing is left of it.
    pub gone: Option<Gone>,
    /// Reactions to it.
    pub reactions: Vec<Reaction>,
    /// Of an own message: what became of it at members who tell.
    pub receipts: Vec<Receipt>,
}

/// Why a message cannot be changed.
pub(crate) enum NotChanged {
    /// It is not known here, or gone: sent before this client came in, deleted, expired, or never.
    UnknownMessage,
    /// Somebody else has sent it.
    NotTheSender,
}

/// What is kept under an id.
pub(crate) struct Kept {
    pub(crate) author: Author,
    pub(crate) kind: Kind,
    /// What a reaction is to.
    pub(crate) about: Option<MessageId>,
    /// What it says, if that is left.
    pub(crate) content: Option<MimiContent>,
}

/// A row to be.
pub(crate) struct Entry<'e> {
    pub(crate) id: MessageId,
    pub(crate) author: &'e Author,
    pub(crate) kind: Kind,
    pub(crate) about: Option<MessageId>,
    pub(crate) content: Option<(&'e [u8], Option<Expiry>)>,
    pub(crate) state: MessageState,
    pub(crate) at_ms: u64,
}

pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Keeps it. False if the id was known: its sender has sent it again, and the service shows both.
pub(crate) fn insert(db: &Connection, group: &GroupId, entry: &Entry<'_>) -> Result<bool, Error> {
    let (after_s, due_ms) = match entry.content.and_then(|(_, expires)| expires) {
        Some(Expiry::At(time)) => (None, Some(i64::from(time).saturating_mul(1000))),
        Some(Expiry::AfterReading(seconds)) => (Some(seconds), None),
        None => (None, None),
    };
    let added = db
        .prepare_cached(
            "INSERT OR IGNORE INTO messages (group_id, message_id, sender, verified, name, own,
                kind, about, content, state, at_ms, after_s, due_ms)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute((
            group.0,
            entry.id.0,
            &entry.author.key,
            entry.author.verified,
            &entry.author.name,
            entry.author.own,
            entry.kind as u8,
            entry.about.map(|id| id.0),
            entry.content.map(|(bytes, _)| bytes),
            entry.state as u8,
            number(entry.at_ms),
            after_s,
            due_ms,
        ))?;
    Ok(added > 0)
}

fn author(row: &Row<'_>) -> rusqlite::Result<Author> {
    Ok(Author {
        key: row.get("sender")?,
        verified: row.get("verified")?,
        name: row.get("name")?,
        own: row.get("own")?,
    })
}

/// What is kept under an id; none if it is not known or gone.
pub(crate) fn find(
    db: &Connection,
    group: &GroupId,
    id: &MessageId,
) -> Result<Option<Kept>, Error> {
    let row = first(
        db,
        "SELECT sender, verified, name, own, kind, about, content FROM messages
         WHERE group_id = ? AND message_id = ? AND gone = 0 AND kind != 2",
        (group.0, id.0),
        |row| {
            let bytes: Option<Vec<u8>> = row.get("content")?;
            let about: Option<[u8; 32]> = row.get("about")?;
            Ok((author(row)?, row.get("kind")?, about, bytes))
        },
    )?;
    let Some((author, kind, about, bytes)) = row else {
        return Ok(None);
    };
    let content = bytes.map(|bytes| MimiContent::decode(&bytes)).transpose();
    Ok(Some(Kept {
        author,
        kind: match kind {
            0u8 => Kind::Message,
            _ => Kind::Reaction,
        },
        about: about.map(MessageId),
        content: content.map_err(|_| LocalError::Damaged)?,
    }))
}

/// As [`find`], if this author has said it: who may change it.
///
/// # Errors
/// In the inner result, why not.
pub(crate) fn find_own(
    db: &Connection,
    group: &GroupId,
    id: &MessageId,
    by: &Author,
) -> Result<Result<Kept, NotChanged>, Error> {
    Ok(match find(db, group, id)? {
        None => Err(NotChanged::UnknownMessage),
        Some(kept) if !kept.author.is(by) => Err(NotChanged::NotTheSender),
        Some(kept) => Ok(kept),
    })
}

/// Puts another body in the place of the one that it has. Nothing else changes: not what it
/// answers, and not when it expires (draft-ietf-mimi-content §9.3).
pub(crate) fn edit(
    db: &Connection,
    group: &GroupId,
    id: &MessageId,
    kept: Kept,
    by: MimiContent,
) -> Result<MimiContent, Error> {
    let mut content = kept.content.ok_or(LocalError::Damaged)?;
    let disposition = content.body.disposition;
    content.body = by.body;
    content.body.disposition = disposition;
    let bytes = content.encode().map_err(|_| LocalError::Damaged)?;
    change(
        db,
        "UPDATE messages SET content = ?, edited = 1 WHERE group_id = ? AND message_id = ?",
        (bytes, group.0, id.0),
    )?;
    Ok(content)
}

/// Whether an own message stands in the journal.
pub(crate) fn is_sent(db: &Connection, id: &MessageId) -> Result<bool, Error> {
    is_there(
        db,
        "SELECT 1 FROM messages WHERE message_id = ? AND own = 1 AND state = 0",
        [id.0],
    )
}

/// Whether an own message is nowhere but here: no attempt was made to send it.
pub(crate) fn is_untold(db: &Connection, id: &MessageId) -> Result<bool, Error> {
    is_there(
        db,
        "SELECT 1 FROM messages WHERE message_id = ?1 AND own = 1 AND state != 0
            AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.message_id = ?1)",
        [id.0],
    )
}

/// Whether anything is kept of what was said in a group.
pub(crate) fn has_any(db: &Connection, group: &GroupId) -> Result<bool, Error> {
    is_there(
        db,
        "SELECT 1 FROM messages WHERE group_id = ? LIMIT 1",
        [group.0],
    )
}

pub(crate) fn set_state(db: &Connection, id: &MessageId, state: MessageState) -> Result<(), Error> {
    change(
        db,
        "UPDATE messages SET state = ? WHERE message_id = ?",
        (state as u8, id.0),
    )
}

/// An own message was read in the journal: its place is there, its time begins, and what it edits
/// is changed. `content` is none if it is gone.
pub(crate) fn read_back(
    db: &Connection,
    group: &GroupId,
    id: &MessageId,
    content: Option<&[u8]>,
    accepted_ms: u64,
) -> Result<(), Error> {
    begin_own(db, id, accepted_ms)?;
    change(
        db,
        "UPDATE messages SET id = (SELECT max(id) FROM messages) + 1 WHERE message_id = ?",
        [id.0],
    )?;
    let Some(content) = content else {
        return Ok(());
    };
    let content = MimiContent::decode(content).map_err(|_| LocalError::Damaged)?;
    if let Said::Edit(of) = said(&content)
        && let Some(kept) = find(db, group, &of)?
    {
        edit(db, group, &of, kept, content)?;
    }
    Ok(())
}

/// It was accepted at this time: the time of an own message begins then.
pub(crate) fn begin_own(db: &Connection, id: &MessageId, accepted_ms: u64) -> Result<(), Error> {
    change(
        db,
        "UPDATE messages SET at_ms = ?2, due_ms = coalesce(due_ms, ?2 + after_s * 1000),
            after_s = NULL WHERE message_id = ?1",
        (id.0, number(accepted_ms)),
    )
}

/// Messages of a group, the last ones first: those before one of them, at most so many. Their order
/// is that of the journal, whatever times the service tells.
pub(crate) fn page(
    db: &Connection,
    group: &Group,
    before: Option<MessageId>,
    limit: u32,
) -> Result<Vec<Message>, Error> {
    let end: i64 = match before {
        None => i64::MAX,
        Some(before) => value(
            db,
            "SELECT id FROM messages WHERE group_id = ? AND message_id = ? AND kind = 0",
            (group.id.0, before.0),
        )?
        .ok_or_else(|| unknown(&before))?,
    };
    let found = rows(
        db,
        "SELECT * FROM messages WHERE group_id = ? AND kind = 0 AND id < ?
         ORDER BY id DESC LIMIT ?",
        (group.id.0, end, limit),
        |row| {
            let gone = match row.get("gone")? {
                0u8 => None,
                1 => Some(Gone::Deleted),
                _ => Some(Gone::Expired),
            };
            let state = match row.get("state")? {
                0u8 => MessageState::Sent,
                1 => MessageState::Waiting,
                _ => MessageState::Failed,
            };
            let author = author(row)?;
            let message = Message {
                message: MessageId(row.get("message_id")?),
                sender_id: author.user(),
                sender: author.name,
                own: author.own,
                text: String::new(),
                details: MessageDetails::default(),
                at_ms: unsigned(row.get("at_ms")?),
                state,
                edited: row.get("edited")?,
                gone,
                reactions: Vec::new(),
                receipts: Vec::new(),
            };
            Ok((message, row.get::<_, Option<Vec<u8>>>("content")?))
        },
    )?;
    let with = |(mut message, content): (Message, Option<Vec<u8>>)| {
        if let Some(content) = content {
            let content = MimiContent::decode(&content).map_err(|_| LocalError::Damaged)?;
            (message.text, message.details) = read_details(db, &group.id, &content)?;
        }
        message.reactions = reactions_to(db, &group.id, &message.message)?;
        if message.own {
            message.receipts = receipts::of(db, &group.id, &message.message)?;
        }
        Ok(message)
    };
    found.into_iter().map(with).collect()
}

/// What a message of a group says; whoever it mentions by the user's identity.
pub(crate) fn read_details(
    db: &Connection,
    group: &GroupId,
    content: &MimiContent,
) -> Result<(String, MessageDetails), Error> {
    details(content, |pseudonym| {
        let key = identities::key_behind(db, group, pseudonym.as_bytes())?;
        Ok(key.and_then(|key| UserId::of(&key)))
    })
}

fn reactions_to(db: &Connection, group: &GroupId, to: &MessageId) -> Result<Vec<Reaction>, Error> {
    let found = rows(
        db,
        "SELECT * FROM messages WHERE group_id = ? AND about = ? AND kind = 1 AND gone = 0 AND state = 0
         ORDER BY id",
        (group.0, to.0),
        |row| {
            let content: Vec<u8> = row.get("content")?;
            Ok((MessageId(row.get("message_id")?), author(row)?, content))
        },
    )?;
    let with = |(message, author, content): (MessageId, Author, Vec<u8>)| {
        let content = MimiContent::decode(&content).map_err(|_| LocalError::Damaged)?;
        Ok(Reaction {
            message,
            sender_id: author.user(),
            sender: author.name,
            reactions: reactions(&content),
        })
    };
    found.into_iter().map(with).collect()
}

/// Whether an own message is known under this id.
pub(crate) fn is_own(db: &Connection, group: &GroupId, id: &MessageId) -> Result<bool, Error> {
    is_there(
        db,
        "SELECT 1 FROM messages WHERE group_id = ? AND message_id = ? AND own = 1 AND kind = 0
            AND gone = 0",
        (group.0, id.0),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::store::groups::tests::group;

    fn author(own: bool) -> Author {
        Author {
            key: vec![u8::from(own); 32],
            verified: true,
            name: "alice".to_owned(),
            own,
        }
    }

    pub(crate) fn id(number: u8) -> MessageId {
        MessageId([number; 32])
    }

    pub(crate) fn said_at(db: &Connection, number: u8, state: MessageState, at_ms: u64) {
        let content = MimiContent::text([1; 16], &number.to_string());
        let entry = Entry {
            id: id(number),
            author: &author(state != MessageState::Sent),
            kind: Kind::Message,
            about: None,
            content: Some((&content.encode().unwrap(), None)),
            state,
            at_ms,
        };
        assert!(insert(db, &GroupId([1; 16]), &entry).unwrap());
    }

    pub(crate) fn shown(db: &Connection) -> Vec<u8> {
        let page = page(db, &group(1, "team"), None, 100).unwrap();
        page.iter().map(|message| message.message.0[0]).collect()
    }

    #[test]
    fn messages_are_in_the_order_of_the_journal_whatever_times_the_service_tells() {
        let db = crate::store::database::in_memory().unwrap();
        said_at(&db, 1, MessageState::Sent, 50);
        said_at(&db, 2, MessageState::Waiting, 90);
        said_at(&db, 3, MessageState::Sent, 10);
        assert_eq!(shown(&db), [3, 2, 1]);
        // Its place is where it is read.
        read_back(&db, &GroupId([1; 16]), &id(2), None, 20).unwrap();
        assert_eq!(shown(&db), [2, 3, 1]);
        said_at(&db, 4, MessageState::Sent, 5);
        assert_eq!(shown(&db), [4, 2, 3, 1]);
    }
}
