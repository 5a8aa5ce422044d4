//! Whom this client keeps out of groups.

use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::error::Error;
use crate::store::database::{change, column};

pub(crate) fn keep_out(db: &Connection, id: &GroupId, pseudonym: &[u8]) -> Result<(), Error> {
    change(
        db,
        "INSERT OR IGNORE INTO kept_out (group_id, user_pseudonym) VALUES (?, ?)",
        (id.0, pseudonym),
    )
}

pub(crate) fn kept_out(db: &Connection, id: &GroupId) -> Result<Vec<Vec<u8>>, Error> {
    column(
        db,
        "SELECT user_pseudonym FROM kept_out WHERE group_id = ?",
        [id.0],
    )
}

pub(crate) fn forget_kept_out(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(db, "DELETE FROM kept_out WHERE group_id = ?", [group.0])
}
