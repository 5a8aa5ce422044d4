//! Commits that this client has made.

use protocol::ids::GroupId;
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, LocalError};
use crate::store::database::{change, is_there};

/// Remembers a commit that is about to be sent, in the caller's transaction: the service has it
/// from then on.
pub(crate) fn remember_made(
    db: &Connection,
    id: &GroupId,
    epoch: u64,
    commit: &[u8],
) -> Result<(), Error> {
    let epoch = i64::try_from(epoch).map_err(|_| LocalError::Damaged)?;
    change(
        db,
        "DELETE FROM own_commits WHERE group_id = ? AND epoch != ?",
        (id.0, epoch),
    )?;
    change(
        db,
        "INSERT OR IGNORE INTO own_commits (group_id, epoch, digest) VALUES (?, ?, ?)",
        (id.0, epoch, Sha256::digest(commit).as_slice()),
    )
}

/// Whether this client has made a commit, and has given it up since.
pub(crate) fn has_made(db: &Connection, id: &GroupId, commit: &[u8]) -> Result<bool, Error> {
    is_there(
        db,
        "SELECT 1 FROM own_commits WHERE group_id = ? AND digest = ?",
        (id.0, Sha256::digest(commit).as_slice()),
    )
}
