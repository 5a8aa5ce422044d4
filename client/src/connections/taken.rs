//! Requests that have come: a service that shows one again, after it was answered or declined, is
//! not listened to. Whoever asks anew seals anew.

use rusqlite::Connection;
use sha2::{Digest as _, Sha256};

use crate::devices;
use crate::devices::sync::SyncMessage;
use crate::error::Error;
use protocol::codec::opaque;

/// So many are known, as many as an inbox holds.
const MOST: usize = protocol::inbox::INBOX_CAPACITY;
const DIGEST: usize = 32;

/// Remembers a request as the inbox held it, in the caller's transaction, and tells the other
/// devices. Says whether it is the first time that it is shown.
pub(super) fn take(db: &Connection, sealed: &[u8]) -> Result<bool, Error> {
    let digest: [u8; DIGEST] = Sha256::digest(sealed).into();
    let is_first = keep(db, &digest)?;
    if is_first {
        devices::enqueue(db, SyncMessage::RequestsTaken(opaque(digest)))?;
    }
    Ok(is_first)
}

fn keep(db: &Connection, digest: &[u8]) -> Result<bool, Error> {
    let kept = db.execute(
        "INSERT OR IGNORE INTO requests_taken (digest) VALUES (?)",
        [digest],
    )?;
    db.execute(
        "DELETE FROM requests_taken WHERE id NOT IN
            (SELECT id FROM requests_taken ORDER BY id DESC LIMIT ?)",
        [MOST],
    )?;
    Ok(kept == 1)
}

/// Another device has taken these, in the caller's transaction.
pub(crate) fn learn(db: &Connection, digests: &[u8]) -> Result<(), Error> {
    for digest in digests.chunks_exact(DIGEST).take(MOST) {
        keep(db, digest)?;
    }
    Ok(())
}

/// The digests of all that are known, one after the other, for a device that is new.
pub(crate) fn all(db: &Connection) -> Result<Vec<u8>, Error> {
    let mut statement = db.prepare("SELECT digest FROM requests_taken ORDER BY id")?;
    let rows = statement.query_map((), |row| row.get::<_, Vec<u8>>(0))?;
    Ok(rows.collect::<Result<Vec<_>, _>>()?.concat())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn as_many_requests_are_known_as_an_inbox_holds_and_the_oldest_are_forgotten() {
        let db = crate::database::in_memory().unwrap();
        let request = |number: usize| number.to_be_bytes();
        for number in 0..=MOST {
            assert!(take(&db, &request(number)).unwrap());
            assert!(!take(&db, &request(number)).unwrap());
        }
        assert_eq!(all(&db).unwrap().len(), MOST * DIGEST);
        assert!(!take(&db, &request(1)).unwrap());
        assert!(take(&db, &request(0)).unwrap());
    }
}
