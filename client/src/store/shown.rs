//! Whom the user was shown before coming into a group.

use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::error::Error;
use crate::store::database::{change, column};

/// Somebody in a group whom this client does not know to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Newcomer {
    pub(crate) mark: Vec<u8>,
    pub(crate) name: String,
}

/// Remembers that the user is shown these, in the caller's transaction.
pub(crate) fn show(db: &Connection, id: &GroupId, newcomers: &[Newcomer]) -> Result<(), Error> {
    for newcomer in newcomers {
        change(
            db,
            "INSERT OR IGNORE INTO shown_members (group_id, member) VALUES (?, ?)",
            (id.0, &newcomer.mark),
        )?;
    }
    Ok(())
}

/// Marks of the members whom the user was shown.
pub(crate) fn shown(db: &Connection, id: &GroupId) -> Result<Vec<Vec<u8>>, Error> {
    column(
        db,
        "SELECT member FROM shown_members WHERE group_id = ?",
        [id.0],
    )
}

pub(crate) fn forget_shown(db: &Connection, id: &GroupId) -> Result<(), Error> {
    change(db, "DELETE FROM shown_members WHERE group_id = ?", [id.0])
}
