//! Own messages: kept before they are sent, until they are read in the journal like any other. What
//! an answer did not say the journal says: a message that is not in it when its segment has ended,
//! or when its request can be accepted no more, is encrypted and sent again.

use protocol::ids::{GroupId, Position, SegmentId};
use protocol::request::WINDOW_MINUTES;
use rusqlite::{Connection, OptionalExtension as _};

use crate::Client;
use crate::error::{Error, LocalError, PeerError};
use crate::events::{self, Event};
use crate::groups::content::Content;
use crate::groups::{Group, Status, evidence};

/// After so long a request is too old to be accepted, by either clock.
const DECIDED_MS: i64 = (2 * WINDOW_MINUTES as i64 + 1) * 60_000;

/// Keeps a message that is about to be sent, in the transaction that takes its key.
pub(crate) fn keep(
    db: &Connection,
    id: &GroupId,
    digest: &[u8; 32],
    epoch: u64,
    content: &Content,
    now_ms: u64,
) -> Result<(), Error> {
    let text = match content {
        Content::Text(_) => Some(content.encode(None)),
        _ => None,
    };
    db.execute(
        "INSERT INTO outbox (group_id, digest, epoch, content, made_ms) VALUES (?, ?, ?, ?, ?)",
        (
            id.0,
            digest,
            i64::try_from(epoch).map_err(|_| LocalError::Damaged)?,
            text.as_ref().map(|text| text.as_slice()),
            i64::try_from(now_ms).unwrap_or(i64::MAX),
        ),
    )?;
    Ok(())
}

/// The service has accepted it: it says that it stands in the journal, and where.
pub(crate) fn accepted(
    db: &Connection,
    digest: &[u8; 32],
    segment: &SegmentId,
    at: Position,
) -> Result<(), Error> {
    db.execute(
        "UPDATE outbox SET segment_id = ?, position = ? WHERE digest = ?",
        (segment.0, i64::try_from(at.0).unwrap_or(i64::MAX), digest),
    )?;
    Ok(())
}

/// What stood at this position has expired, in the caller's transaction.
pub(crate) fn expired(db: &Connection, segment: &SegmentId, at: Position) -> Result<(), Error> {
    db.execute(
        "DELETE FROM outbox WHERE segment_id = ? AND position = ?",
        (segment.0, i64::try_from(at.0).unwrap_or(i64::MAX)),
    )?;
    Ok(())
}

/// What the service said to have accepted, and has not shown where it said, in the caller's
/// transaction: the user is told.
fn find_withheld(db: &Connection, group: &Group, now_ms: u64) -> Result<(), Error> {
    let withheld = {
        let mut statement = db.prepare_cached(
            "SELECT digest, content FROM outbox
             WHERE group_id = ? AND position IS NOT NULL AND (segment_id != ? OR position < ?)",
        )?;
        let next = i64::try_from(group.segment.next.0).unwrap_or(i64::MAX);
        let rows = statement.query_map((group.id.0, group.segment.id.0, next), |row| {
            Ok((
                row.get::<_, [u8; 32]>(0)?,
                row.get::<_, Option<Vec<u8>>>(1)?,
            ))
        })?;
        rows.collect::<Result<Vec<_>, _>>()?
    };
    for (digest, content) in withheld {
        evidence::keep(db, &group.id, &PeerError::Withheld, (None, &digest), now_ms)?;
        if let Some(content) = content.map(zeroize::Zeroizing::new)
            && let (Content::Text(text), _) = Content::decode(&content)?
        {
            let group = group.display_name();
            events::store(db, &Event::MessageWithheld { group, text })?;
        }
        give_up(db, &digest)?;
    }
    Ok(())
}

/// It was not accepted and never will be.
pub(crate) fn give_up(db: &Connection, digest: &[u8; 32]) -> Result<(), Error> {
    db.execute("DELETE FROM outbox WHERE digest = ?", [digest])?;
    Ok(())
}

/// Whether a message is an own one that this client has sent; it is done with then, in the caller's
/// transaction.
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
    /// Sends a text again that was neither accepted nor found in the journal, when nothing can come
    /// of it any more and the journal was read to its end; and tells of what was accepted and is
    /// not there.
    pub(crate) async fn settle_outbox(&mut self, id: &GroupId) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let read_to_end = self.read_to_end.contains(id);
        let undecided = self.transact(|db, _| {
            find_withheld(db, &Group::read(db, id)?, now_ms)?;
            if !read_to_end {
                return Ok(Vec::new());
            }
            let before = i64::try_from(now_ms)
                .unwrap_or(i64::MAX)
                .saturating_sub(DECIDED_MS);
            db.execute(
                "DELETE FROM outbox
                 WHERE group_id = ? AND position IS NULL AND content IS NULL AND made_ms < ?",
                (id.0, before),
            )?;
            let mut statement = db.prepare_cached(
                "SELECT digest, content FROM outbox
                 WHERE group_id = ? AND position IS NULL AND made_ms < ? ORDER BY id",
            )?;
            let rows = statement.query_map((id.0, before), |row| {
                Ok((row.get::<_, [u8; 32]>(0)?, row.get::<_, Vec<u8>>(1)?))
            })?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        })?;
        for (digest, content) in undecided {
            if Group::read(&self.db, id)?.status != Status::Active {
                return Ok(());
            }
            let (content, _) = Content::decode(&zeroize::Zeroizing::new(content))?;
            self.send_again(id, &content, digest).await?;
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
        let text = Content::Text("content".to_owned());
        let segment = group.segment.id;
        keep(&db, &group.id, &[1; 32], 3, &text, 5).unwrap();
        accepted(&db, &[1; 32], &segment, Position(4)).unwrap();
        assert!(waits(&db, &[1; 32]).unwrap());
        assert!(!is_read(&db, &[2; 32]).unwrap());
        assert!(is_read(&db, &[1; 32]).unwrap());
        assert!(!is_read(&db, &[1; 32]).unwrap());
        assert!(!waits(&db, &[1; 32]).unwrap());
    }

    #[test]
    fn what_was_accepted_and_is_passed_or_left_behind_without_being_read_is_told_once() {
        for (next, segment) in [(5, 7), (0, 8)] {
            let db = crate::database::in_memory().unwrap();
            let mut group = crate::groups::tests::group(7, "team");
            group.insert(&db).unwrap();
            let here = group.segment.id;
            let text = Content::Text("hello".to_owned());
            keep(&db, &group.id, &[1; 32], 3, &text, 5).unwrap();
            accepted(&db, &[1; 32], &here, Position(4)).unwrap();
            group.segment.next = Position(4);
            find_withheld(&db, &group, 9).unwrap();
            assert_eq!(events::stored(&db), []);
            group.segment = crate::journal::tests::segment(&GroupId([segment; 16]));
            group.segment.next = Position(next);
            find_withheld(&db, &group, 9).unwrap();
            find_withheld(&db, &group, 9).unwrap();
            let told = Event::MessageWithheld {
                group: "team".to_owned(),
                text: "hello".to_owned(),
            };
            assert_eq!(events::stored(&db), [told]);
            let kept: u32 = db
                .query_row("SELECT count(*) FROM evidence", (), |row| row.get(0))
                .unwrap();
            assert_eq!(kept, 1);
        }
    }
}
