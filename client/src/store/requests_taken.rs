//! Requests for connections that have come, by their digests.

use rusqlite::Connection;

use crate::error::Error;
use crate::store::database::{change, column};

/// So many are known, as many as an inbox holds.
const MOST: usize = protocol::inbox::INBOX_CAPACITY;
pub(crate) const DIGEST: usize = 32;

/// Remembers one, in the caller's transaction. Says whether it was not known.
pub(crate) fn keep(db: &Connection, digest: &[u8; DIGEST]) -> Result<bool, Error> {
    let kept = db
        .prepare_cached("INSERT OR IGNORE INTO requests_taken (digest) VALUES (?)")?
        .execute([digest])?;
    change(
        db,
        "DELETE FROM requests_taken WHERE id NOT IN
            (SELECT id FROM requests_taken ORDER BY id DESC LIMIT ?)",
        [MOST],
    )?;
    Ok(kept == 1)
}

/// Another device has taken these, in the caller's transaction.
pub(crate) fn learn(db: &Connection, digests: &[u8]) -> Result<(), Error> {
    for digest in digests.as_chunks::<DIGEST>().0.iter().take(MOST) {
        keep(db, digest)?;
    }
    Ok(())
}

/// The digests of all that are known, one after the other, for a device that is new.
pub(crate) fn all(db: &Connection) -> Result<Vec<u8>, Error> {
    let digests: Vec<Vec<u8>> = column(db, "SELECT digest FROM requests_taken ORDER BY id", ())?;
    Ok(digests.concat())
}
