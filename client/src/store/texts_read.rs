//! Texts of other members that were read.

use protocol::ids::GroupId;
use protocol::journal::MESSAGE_DAYS;
use rusqlite::Connection;

use crate::error::Error;
use crate::ids::MessageId;
use crate::store::database::change;

/// So long texts are known that were read: twice as long as the service keeps any.
const REMEMBERED_DAYS: u32 = 2 * MESSAGE_DAYS as u32;

/// Whether a text of another member was read before, under another key: its sender has sent it
/// again, and the service shows both. In the caller's transaction.
pub(crate) fn is_repeated(
    db: &Connection,
    group: &GroupId,
    sender: &[u8],
    message: &MessageId,
    day: u32,
) -> Result<bool, Error> {
    change(
        db,
        "DELETE FROM texts_read WHERE day < ?",
        [day.saturating_sub(REMEMBERED_DAYS)],
    )?;
    let added = db
        .prepare_cached(
            "INSERT OR IGNORE INTO texts_read (group_id, sender, message_id, day)
             VALUES (?, ?, ?, ?)",
        )?
        .execute((group.0, sender, message.0, day))?;
    Ok(added == 0)
}
