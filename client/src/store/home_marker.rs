//! The file in the home directory that this database knows.

use rusqlite::Connection;

use crate::error::Error;
use crate::store::database::{change, first};

/// What is known of the file.
pub(crate) struct Marker {
    pub(crate) token: Vec<u8>,
    pub(crate) inode: String,
    /// A token that is about to be written.
    pub(crate) next: Option<Vec<u8>>,
}

pub(crate) fn kept(db: &Connection) -> Result<Option<Marker>, Error> {
    first(
        db,
        "SELECT token, inode, next FROM home_marker",
        (),
        |row| {
            Ok(Marker {
                token: row.get(0)?,
                inode: row.get(1)?,
                next: row.get(2)?,
            })
        },
    )
}

pub(crate) fn forget(db: &Connection) -> Result<(), Error> {
    change(db, "DELETE FROM home_marker", ())
}

/// A token is about to be written.
pub(crate) fn begin(db: &Connection, token: &[u8; 16]) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO home_marker (id, token, inode, next) VALUES (1, x'', '', ?)
         ON CONFLICT (id) DO UPDATE SET next = excluded.next",
        [token],
    )
}

/// It is written.
pub(crate) fn written(db: &Connection, token: &[u8; 16], inode: &str) -> Result<(), Error> {
    change(
        db,
        "UPDATE home_marker SET token = ?, inode = ?, next = NULL",
        (token, inode),
    )
}
