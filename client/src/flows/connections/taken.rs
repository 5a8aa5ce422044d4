//! Requests that have come: a service that shows one again, after it was answered or declined, is
//! not listened to. Whoever asks anew seals anew.

use protocol::codec::opaque;
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::store::requests_taken::{DIGEST, keep};
use crate::store::sync_outbox::enqueue;
use crate::sync_message::SyncMessage;

/// Remembers a request as the inbox held it, in the caller's transaction, and tells the other
/// devices. Says whether it is the first time that it is shown.
pub(super) fn take(db: &Connection, sealed: &[u8]) -> Result<bool, Error> {
    let digest: [u8; DIGEST] = Sha256::digest(sealed).into();
    let is_first = keep(db, &digest)?;
    if is_first {
        enqueue(db, SyncMessage::RequestsTaken(opaque(digest)))?;
    }
    Ok(is_first)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::inbox::INBOX_CAPACITY as MOST;

    use super::*;
    use crate::store::requests_taken::all;

    #[test]
    fn as_many_requests_are_known_as_an_inbox_holds_and_the_oldest_are_forgotten() {
        let db = crate::store::database::in_memory().unwrap();
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
