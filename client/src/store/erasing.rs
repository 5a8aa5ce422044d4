//! What is gone: deleted by its sender, or expired. Its words leave every table, and the file.

use protocol::ids::GroupId;
use protocol::journal::MESSAGE_DAYS;
use protocol::time::DAY_MS;
use rusqlite::Connection;

use crate::error::{Error, UsageError};
use crate::ids::MessageId;
use crate::store::database::{change, column, is_there, mark_erased, rows, value};
use crate::store::events::{self, Event};
use crate::store::messages::{Gone, MessageState, number, set_state, unsigned};
use crate::store::{Group, groups, receipts};

/// So long what is gone is known: twice as long as the service keeps anything.
const REMEMBERED_MS: u64 = 2 * MESSAGE_DAYS as u64 * DAY_MS;

/// Leaves nothing of it but its id, who has sent it and when, in the caller's transaction; nor of
/// reactions to it. With the words go events that have them, attempts to send them, and what waits
/// to be said about them.
pub(crate) fn erase(
    db: &Connection,
    group: &GroupId,
    root: &MessageId,
    gone: Gone,
) -> Result<(), Error> {
    let gone = match gone {
        Gone::Deleted => 1,
        Gone::Expired => 2,
    };
    let mut gone_with_it: Vec<[u8; 32]> = column(
        db,
        "SELECT message_id FROM messages WHERE group_id = ? AND about = ?",
        (group.0, root.0),
    )?;
    gone_with_it.push(root.0);
    for id in gone_with_it.into_iter().map(MessageId) {
        change(
            db,
            "UPDATE messages SET content = NULL, about = NULL, gone = ?, after_s = NULL,
                due_ms = NULL, state = CASE state WHEN 1 THEN 2 ELSE state END
             WHERE group_id = ? AND message_id = ?",
            (gone, group.0, id.0),
        )?;
        receipts::forget(db, group, &id)?;
        events::erase(db, &id)?;
        for (dropped, quiet) in drop_from_queue(db, &id)? {
            set_state(db, &dropped, MessageState::Failed)?;
            if dropped != *root && !quiet {
                events::store(db, &dropped_event(db, group, dropped)?)?;
            }
        }
        change(
            db,
            "UPDATE outbox SET content = NULL, request = NULL,
                given_up = given_up OR position IS NULL
             WHERE message_id = ?1 OR target = ?1",
            [id.0],
        )?;
    }
    mark_erased(db)
}

/// Leaves nothing of a group in any table, in the caller's transaction: neither what is known of it
/// nor what was said there. Only its push handles stay until the push sender has heard that they
/// are over.
pub(crate) fn forget_group(db: &Connection, id: &GroupId) -> Result<(), Error> {
    let said: Vec<[u8; 32]> = column(
        db,
        "SELECT message_id FROM messages WHERE group_id = ?",
        [id.0],
    )?;
    for message in said {
        events::erase(db, &MessageId(message))?;
    }
    Group::delete(db, id)?;
    // By the schema, so that a table that is added later is not left out.
    let tables: Vec<String> = column(
        db,
        "SELECT tables.name FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns
         WHERE tables.type = 'table' AND columns.name = 'group_id'
            AND tables.name != 'push_handles'",
        (),
    )?;
    for table in tables {
        db.execute(&format!("DELETE FROM {table} WHERE group_id = ?"), [id.0])?;
    }
    mark_erased(db)
}

/// Takes a message out of the queue, and what is about it; says what that was, and whether anybody
/// is told how it ended.
fn drop_from_queue(db: &Connection, id: &MessageId) -> Result<Vec<(MessageId, bool)>, Error> {
    rows(
        db,
        "DELETE FROM queue WHERE message_id = ?1 OR target = ?1 RETURNING message_id, quiet",
        [id.0],
        |row| Ok((MessageId(row.get(0)?), row.get(1)?)),
    )
}

fn dropped_event(db: &Connection, group: &GroupId, message: MessageId) -> Result<Event, Error> {
    Ok(Event::MessageFailed {
        group: groups::name_of(db, group)?,
        group_id: (*group).into(),
        message,
        text: String::new(),
        reason: Error::from(UsageError::GoneBeforeSent).code().to_owned(),
        retryable: false,
    })
}

/// Whether this message was here and is not any more.
pub(crate) fn is_gone(db: &Connection, group: &GroupId, id: &MessageId) -> Result<bool, Error> {
    is_there(
        db,
        "SELECT 1 FROM messages WHERE group_id = ? AND message_id = ? AND gone != 0",
        (group.0, id.0),
    )
}

/// Somebody has read it: its time begins, if it is counted from there. Says whether it does.
pub(crate) fn begin(db: &Connection, id: &MessageId, now_ms: u64) -> Result<bool, Error> {
    let begun = db
        .prepare_cached(
            "UPDATE messages SET due_ms = ?2 + after_s * 1000, after_s = NULL
             WHERE message_id = ?1 AND after_s IS NOT NULL AND own = 0",
        )?
        .execute((id.0, number(now_ms)))?;
    Ok(begun > 0)
}

/// When the next message expires; none if none does.
pub(crate) fn next_due(db: &Connection) -> Result<Option<u64>, Error> {
    let due: Option<Option<i64>> = value(
        db,
        "SELECT min(due_ms) FROM messages WHERE due_ms IS NOT NULL",
        (),
    )?;
    Ok(due.flatten().map(unsigned))
}

/// Messages that have expired by now: in which group, and which.
pub(crate) fn due(db: &Connection, now_ms: u64) -> Result<Vec<(GroupId, MessageId)>, Error> {
    rows(
        db,
        "SELECT group_id, message_id FROM messages WHERE due_ms <= ?",
        [number(now_ms)],
        |row| Ok((GroupId(row.get(0)?), MessageId(row.get(1)?))),
    )
}

/// Forgets of long ago what is gone, and ids of changes.
pub(crate) fn forget(db: &Connection, now_ms: u64) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM messages WHERE (kind = 2 OR gone != 0) AND at_ms < ?",
        [number(now_ms.saturating_sub(REMEMBERED_MS))],
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::database::in_memory;
    use crate::store::messages::tests::{id, said_at, shown};

    #[test]
    fn what_is_gone_is_forgotten_in_time_and_nothing_else() {
        let db = in_memory().unwrap();
        for number in 1..=3 {
            said_at(&db, number, MessageState::Sent, 50);
        }
        erase(&db, &GroupId([1; 16]), &id(1), Gone::Deleted).unwrap();
        erase(&db, &GroupId([1; 16]), &id(2), Gone::Expired).unwrap();
        forget(&db, REMEMBERED_MS).unwrap();
        assert_eq!(shown(&db), [3, 2, 1]);
        forget(&db, REMEMBERED_MS + 51).unwrap();
        assert_eq!(shown(&db), [3]);
        let plan: String = db
            .query_row(
                "EXPLAIN QUERY PLAN DELETE FROM messages WHERE (kind = 2 OR gone != 0) AND at_ms < 1",
                (),
                |row| row.get(3),
            )
            .unwrap();
        assert!(plan.contains("messages_gone"), "{plan}");
    }
}
