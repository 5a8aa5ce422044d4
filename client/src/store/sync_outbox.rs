//! Messages for the user's other devices, until they are sent.

use rusqlite::Connection;

use crate::error::Error;
use crate::store::database::{change, first};
use crate::sync_message::SyncMessage;

/// Keeps a message for the other devices, in the caller's transaction. Without others it is
/// nothing.
pub(crate) fn enqueue(db: &Connection, message: SyncMessage) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO sync_outbox (message) SELECT ? FROM profile WHERE device_group IS NOT NULL",
        [&*message.into_frame()],
    )
}

pub(crate) fn sent(db: &Connection, id: i64) -> Result<(), Error> {
    change(db, "DELETE FROM sync_outbox WHERE id = ?", [id])
}

/// The message that is sent next, with its id.
pub(crate) fn next(db: &Connection) -> Result<Option<(i64, Vec<u8>)>, Error> {
    first(
        db,
        "SELECT id, message FROM sync_outbox ORDER BY id LIMIT 1",
        (),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}
