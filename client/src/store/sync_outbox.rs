//! Messages for the user's other devices, until they are sent.

use rusqlite::Connection;

use crate::error::Error;
use crate::store::database::change;
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
