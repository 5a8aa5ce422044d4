//! Own messages: kept before they are sent, until they are read in the journal like any other. What an answer did not say
//! the journal says: a message that is not in it when its segment has ended, or when its request can be accepted no
//! more, is encrypted and sent again.

use protocol::ids::GroupId;
use protocol::request::WINDOW_MINUTES;
use rusqlite::{Connection, OptionalExtension as _};

use crate::Client;
use crate::error::{Error, LocalError};
use crate::groups::content::Content;
use crate::groups::{Group, Status};

/// After so long a request is too old to be accepted, by either clock.
const DECIDED_MS: i64 = (2 * WINDOW_MINUTES as i64 + 1) * 60_000;

/// Keeps a message that is about to be sent, in the transaction that takes its key.
pub(crate) fn keep(
    db: &Connection,
    id: &GroupId,
    (digest, epoch): (&[u8; 32], u64),
    content: &[u8],
    now_ms: u64,
) -> Result<(), Error> {
    db.execute(
        "INSERT INTO outbox (group_id, digest, epoch, content, made_ms) VALUES (?, ?, ?, ?, ?)",
        (
            id.0,
            digest,
            i64::try_from(epoch).map_err(|_| LocalError::Damaged)?,
            content,
            i64::try_from(now_ms).unwrap_or(i64::MAX),
        ),
    )?;
    Ok(())
}

/// The service has accepted it: it stands in the journal.
pub(crate) fn accepted(db: &Connection, digest: &[u8; 32]) -> Result<(), Error> {
    db.execute(
        "UPDATE outbox SET content = NULL WHERE digest = ?",
        [digest],
    )?;
    Ok(())
}

/// It was not accepted and never will be.
pub(crate) fn give_up(db: &Connection, digest: &[u8; 32]) -> Result<(), Error> {
    db.execute("DELETE FROM outbox WHERE digest = ?", [digest])?;
    Ok(())
}

/// Whether a message is an own one that this client has sent; it is done with then, in the caller's transaction.
pub(crate) fn is_read(db: &Connection, digest: &[u8; 32]) -> Result<bool, Error> {
    Ok(db.execute("DELETE FROM outbox WHERE digest = ?", [digest])? > 0)
}

/// Whether it still waits to be read.
pub(crate) fn waits(db: &Connection, digest: &[u8; 32]) -> Result<bool, Error> {
    Ok(db
        .query_row(
            "SELECT 1 FROM outbox WHERE digest = ?",
            [digest],
            |_| Ok(()),
        )
        .optional()?
        .is_some())
}

impl Client {
    /// Sends again what was neither accepted nor found in the journal, when nothing can come of it any more.
    pub(crate) async fn settle_outbox(&mut self, id: &GroupId) -> Result<(), Error> {
        let now_ms = i64::try_from(self.transport.time.now_unix_ms()).unwrap_or(i64::MAX);
        let undecided = {
            let mut statement = self.db.prepare(
                "SELECT digest, content FROM outbox
                 WHERE group_id = ? AND content IS NOT NULL AND made_ms < ? ORDER BY id",
            )?;
            let rows = statement.query_map((id.0, now_ms.saturating_sub(DECIDED_MS)), |row| {
                Ok((row.get::<_, [u8; 32]>(0)?, row.get::<_, Vec<u8>>(1)?))
            })?;
            rows.collect::<Result<Vec<_>, _>>()?
        };
        for (digest, content) in undecided {
            if Group::read(&self.db, id)?.status != Status::Active {
                return Ok(());
            }
            let (content, _) = Content::decode(&zeroize::Zeroizing::new(content))?;
            self.send_content(id, &content).await?;
            give_up(&self.db, &digest)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_own_message_is_known_until_it_is_read_and_another_ones_never() {
        let db = crate::database::in_memory().unwrap();
        let group = crate::groups::tests::group(1, "team");
        group.insert(&db).unwrap();
        keep(&db, &group.id, (&[1; 32], 3), b"content", 5).unwrap();
        accepted(&db, &[1; 32]).unwrap();
        assert!(waits(&db, &[1; 32]).unwrap());
        assert!(!is_read(&db, &[2; 32]).unwrap());
        assert!(is_read(&db, &[1; 32]).unwrap());
        assert!(!is_read(&db, &[1; 32]).unwrap());
        assert!(!waits(&db, &[1; 32]).unwrap());
    }
}
