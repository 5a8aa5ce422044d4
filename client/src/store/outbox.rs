//! Own messages. What the user says waits in a queue, in order, until it stands in the group's
//! journal or cannot be sent. Each attempt at it, and whatever else this client says, is kept
//! before it is sent, until it is read in the journal like any other message.
//!
//! What an answer did not say the same request asks again: the service carries it out once. When
//! that is refused, the journal says what has become of it: a message that is not in it then is
//! encrypted and sent anew.

use content::MimiContent;
use protocol::ids::{GroupId, Position, SegmentId};
use protocol::request::WINDOW_MINUTES;
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::error::{Error, Fault, LocalError, PeerError, UsageError};
use crate::ids::MessageId;
use crate::message::{Said, said as said_by, words};
use crate::store::database::{change, first, is_there, rows, value};
use crate::store::erasing;
use crate::store::events::{self, Event};
use crate::store::evidence;
use crate::store::groups::Group;
use crate::store::messages::{self, Gone, MessageState};
use crate::store::mls::PAST_EPOCHS;

/// After so long a request is too old to be accepted, by either clock.
const DECIDED_MS: i64 = (2 * WINDOW_MINUTES as i64 + 1) * 60_000;

/// Something that the user says and that has not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueuedMessage {
    /// Which message.
    pub message: MessageId,
    /// Where.
    pub group_id: crate::ids::GroupId,
    /// What it says; empty for a deletion.
    pub text: String,
    /// When the user said it, by this device's clock: milliseconds since 1970.
    pub made_ms: u64,
    /// As it is sent.
    pub(crate) content: Zeroizing<Vec<u8>>,
    /// Of an edit or a reaction, what it is about.
    pub(crate) target: Option<MessageId>,
    /// Nobody is told how it ended.
    pub(crate) quiet: bool,
}

/// Puts a message at the end of the queue.
pub(crate) fn queue(db: &Connection, message: &QueuedMessage) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO queue (message_id, group_id, content, target, quiet, made_ms)
         VALUES (?, ?, ?, ?, ?, ?)",
        (
            message.message.0,
            message.group_id.0,
            message.content.as_slice(),
            message.target.map(|id| id.0),
            message.quiet,
            i64::try_from(message.made_ms).unwrap_or(i64::MAX),
        ),
    )
}

/// What waits, in the order in which it is sent.
pub(crate) fn queued(db: &Connection) -> Result<Vec<QueuedMessage>, Error> {
    let queued = rows(
        db,
        "SELECT message_id, group_id, made_ms, content, quiet, target FROM queue ORDER BY id",
        (),
        |row| {
            Ok(QueuedMessage {
                message: MessageId(row.get(0)?),
                group_id: crate::ids::GroupId(row.get(1)?),
                text: String::new(),
                made_ms: u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
                content: Zeroizing::new(row.get(3)?),
                quiet: row.get(4)?,
                target: row.get::<_, Option<[u8; 32]>>(5)?.map(MessageId),
            })
        },
    )?;
    let with = |queued: QueuedMessage| {
        let text = words(&queued.content)?;
        Ok(QueuedMessage { text, ..queued })
    };
    queued.into_iter().map(with).collect()
}

/// Whether anything waits.
pub(crate) fn is_waiting(db: &Connection) -> Result<bool, Error> {
    is_there(db, "SELECT 1 FROM queue LIMIT 1", ())
}

/// Whether this message waits.
pub(crate) fn is_queued(db: &Connection, message: &MessageId) -> Result<bool, Error> {
    is_there(db, "SELECT 1 FROM queue WHERE message_id = ?", [message.0])
}

/// Who hears how it ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Whoever waits for the call.
    Caller,
    /// Whoever looks at the events.
    Event,
}

/// It stands in the journal, in the caller's transaction: also if it was given up, or is gone here.
fn sent(db: &Connection, group: &Group, message: &MessageId, told: Told) -> Result<(), Error> {
    messages::set_state(db, message, MessageState::Sent)?;
    let ended: Option<(Vec<u8>, bool)> = first(
        db,
        "DELETE FROM queue WHERE message_id = ? RETURNING content, quiet",
        [message.0],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let Some((content, quiet)) = ended else {
        return Ok(());
    };
    let said = MimiContent::decode(&content).map_err(|_| LocalError::Damaged)?;
    // What it edits is not changed before that is read there: another device may have been first.
    if let Said::Deletion(of) = said_by(&said) {
        erasing::erase(db, &group.id, &of, Gone::Deleted)?;
    }
    match quiet || told == Told::Caller {
        true => Ok(()),
        false => events::store(db, &sent_event(group, message)),
    }
}

fn sent_event(group: &Group, message: &MessageId) -> Event {
    Event::MessageSent {
        group: group.display_name(),
        group_id: group.id.into(),
        message: *message,
    }
}

/// It was not sent and will not be, in the caller's transaction.
pub(crate) fn failed(
    db: &Connection,
    group: &Group,
    queued: &QueuedMessage,
    error: &Error,
    told: Told,
) -> Result<(), Error> {
    if let Some((digest, _)) = undecided(db, &queued.message)? {
        give_up(db, &digest)?;
    }
    change(
        db,
        "DELETE FROM queue WHERE message_id = ?",
        [queued.message.0],
    )?;
    messages::set_state(db, &queued.message, MessageState::Failed)?;
    match queued.quiet || told == Told::Caller {
        true => Ok(()),
        false => events::store_about(
            db,
            &failed_event(group, queued, error),
            queued.target.as_ref(),
        ),
    }
}

fn failed_event(group: &Group, queued: &QueuedMessage, error: &Error) -> Event {
    Event::MessageFailed {
        group: group.display_name(),
        group_id: queued.group_id,
        message: queued.message,
        text: queued.text.clone(),
        reason: error.code().to_owned(),
        retryable: matches!(
            error.fault(),
            Fault::Service | Fault::Network | Fault::Issuer | Fault::Local
        ),
    }
}

/// This client comes into the group anew, under another row, in the caller's transaction: what
/// waits there goes by its former pseudonym, and is not sent.
pub(crate) fn fail_all(db: &Connection, id: &GroupId) -> Result<(), Error> {
    let Some(group) = Group::find(db, id)? else {
        return Ok(());
    };
    let error = UsageError::NotAMember(group.display_name()).into();
    let waiting = queued(db)?.into_iter();
    for queued in waiting.filter(|queued| queued.group_id.0 == id.0) {
        failed(db, &group, &queued, &error, Told::Event)?;
    }
    Ok(())
}

/// Tells nothing any more of what waits in a group and was not said by the user, in the caller's
/// transaction.
pub(crate) fn drop_quiet(db: &Connection, id: &GroupId) -> Result<(), Error> {
    change(
        db,
        "UPDATE outbox SET given_up = 1, content = NULL, request = NULL
         WHERE position IS NULL AND message_id IN
            (SELECT message_id FROM queue WHERE group_id = ? AND quiet = 1)",
        [id.0],
    )?;
    change(
        db,
        "DELETE FROM queue WHERE group_id = ? AND quiet = 1",
        [id.0],
    )
}

/// An attempt that is about to be made.
pub(crate) struct Attempt<'a> {
    pub(crate) digest: &'a [u8; 32],
    pub(crate) epoch: u64,
    /// A message of the user's.
    pub(crate) said: Option<(&'a MessageId, &'a [u8])>,
    /// The signed request.
    pub(crate) request: &'a [u8],
}

/// Keeps it, in the transaction that takes its key.
pub(crate) fn keep(
    db: &Connection,
    id: &GroupId,
    attempt: &Attempt<'_>,
    now_ms: u64,
) -> Result<(), Error> {
    let number = |epoch| i64::try_from(epoch).map_err(|_| Error::from(LocalError::Damaged));
    let oldest = attempt
        .epoch
        .saturating_sub(u64::try_from(PAST_EPOCHS).unwrap_or(0));
    change(
        db,
        "DELETE FROM outbox WHERE group_id = ? AND given_up = 1 AND epoch < ?",
        (id.0, number(oldest)?),
    )?;
    change(
        db,
        "INSERT INTO outbox (group_id, digest, epoch, message_id, content, request, made_ms, target)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, (SELECT target FROM queue WHERE message_id = ?4))",
        (
            id.0,
            attempt.digest,
            number(attempt.epoch)?,
            attempt.said.map(|(message, _)| message.0),
            attempt.said.map(|(_, content)| content),
            attempt.said.map(|_| attempt.request),
            i64::try_from(now_ms).unwrap_or(i64::MAX),
        ),
    )
}

/// The last attempt at a message, if it is not known what has become of it: its digest, and the
/// request.
pub(crate) type Undecided = ([u8; 32], Zeroizing<Vec<u8>>);

pub(crate) fn undecided(db: &Connection, message: &MessageId) -> Result<Option<Undecided>, Error> {
    first(
        db,
        "SELECT digest, request FROM outbox
         WHERE message_id = ? AND position IS NULL AND given_up = 0 AND request IS NOT NULL",
        [message.0],
        |row| Ok((row.get(0)?, Zeroizing::new(row.get(1)?))),
    )
}

/// The service has accepted it: it says that it stands in the journal, and where. In the caller's
/// transaction.
pub(crate) fn accepted(
    db: &Connection,
    group: &Group,
    digest: &[u8; 32],
    at: Position,
    told: Told,
) -> Result<(), Error> {
    let message: Option<Option<[u8; 32]>> = value(
        db,
        "UPDATE outbox SET segment_id = ?, position = ?, request = NULL WHERE digest = ?
         RETURNING message_id",
        (
            group.segment.id.0,
            i64::try_from(at.0).unwrap_or(i64::MAX),
            digest,
        ),
    )?;
    match message.flatten() {
        Some(message) => sent(db, group, &MessageId(message), told),
        None => Ok(()),
    }
}

/// Whether the service has said of something that was made before this time that it stands beyond
/// what was read.
pub(crate) fn is_ahead(db: &Connection, group: &Group, before_ms: u64) -> Result<bool, Error> {
    let next = i64::try_from(group.segment.next.0).unwrap_or(i64::MAX);
    is_there(
        db,
        "SELECT 1 FROM outbox WHERE group_id = ? AND position IS NOT NULL
         AND (segment_id != ? OR position >= ?) AND made_ms < ?",
        (
            group.id.0,
            group.segment.id.0,
            next,
            i64::try_from(before_ms).unwrap_or(i64::MAX),
        ),
    )
}

/// What stood at this position has expired, in the caller's transaction.
pub(crate) fn expired(db: &Connection, segment: &SegmentId, at: Position) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM outbox WHERE segment_id = ? AND position = ?",
        (segment.0, i64::try_from(at.0).unwrap_or(i64::MAX)),
    )
}

/// Of what this client has said by itself long ago nothing can come any more, now that the journal
/// was read to its end.
pub(crate) fn give_up_undecided(db: &Connection, id: &GroupId, now_ms: u64) -> Result<(), Error> {
    change(
        db,
        "UPDATE outbox SET given_up = 1
         WHERE group_id = ? AND position IS NULL AND message_id IS NULL AND made_ms < ?",
        (id.0, decided_before(now_ms)),
    )
}

/// What the service said to have accepted, and has not shown where it said, or nowhere up to an end
/// that was read long after that, in the caller's transaction: the user is told.
pub(crate) fn find_withheld(
    db: &Connection,
    group: &Group,
    read_to_end: bool,
    now_ms: u64,
) -> Result<(), Error> {
    let next = i64::try_from(group.segment.next.0).unwrap_or(i64::MAX);
    let withheld = rows(
        db,
        "SELECT digest, message_id, content, target FROM outbox
         WHERE group_id = ?1 AND position IS NOT NULL
            AND (segment_id != ?2 OR position < ?3 OR ?4 AND made_ms < ?5)",
        (
            group.id.0,
            group.segment.id.0,
            next,
            read_to_end,
            decided_before(now_ms),
        ),
        |row| {
            let message: Option<[u8; 32]> = row.get(1)?;
            let said = message.zip(row.get::<_, Option<Vec<u8>>>(2)?);
            let target: Option<[u8; 32]> = row.get(3)?;
            Ok((row.get::<_, [u8; 32]>(0)?, said, target.map(MessageId)))
        },
    )?;
    for (digest, said, target) in withheld {
        evidence::keep(db, &group.id, &PeerError::Withheld, (None, &digest), now_ms)?;
        if let Some((message, content)) = said {
            messages::set_state(db, &MessageId(message), MessageState::Failed)?;
            let event = Event::MessageWithheld {
                group: group.display_name(),
                group_id: group.id.into(),
                message: MessageId(message),
                text: words(&content)?,
            };
            events::store_about(db, &event, target.as_ref())?;
        }
        give_up(db, &digest)?;
    }
    Ok(())
}

/// Of messages that were made before this time nothing can come any more.
fn decided_before(now_ms: u64) -> i64 {
    let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
    now_ms.saturating_sub(DECIDED_MS)
}

/// It was not accepted and never will be, as the service says. If it comes all the same it is
/// known: no other copy of this client has sent it.
pub(crate) fn give_up(db: &Connection, digest: &[u8; 32]) -> Result<(), Error> {
    change(
        db,
        "UPDATE outbox SET given_up = 1, content = NULL, request = NULL, segment_id = NULL,
            position = NULL
         WHERE digest = ?",
        [digest],
    )
}

/// Whether a message is an own one that this client has sent; it is done with then, in the caller's
/// transaction.
pub(crate) fn is_read(
    db: &Connection,
    group: &Group,
    digest: &[u8; 32],
    accepted_ms: u64,
) -> Result<bool, Error> {
    let read = first(
        db,
        "DELETE FROM outbox WHERE digest = ? RETURNING message_id, content",
        [digest],
        |row| {
            Ok((
                row.get::<_, Option<_>>(0)?,
                row.get::<_, Option<Vec<u8>>>(1)?,
            ))
        },
    )?;
    if let Some((Some(message), content)) = &read {
        let message = MessageId(*message);
        sent(db, group, &message, Told::Event)?;
        messages::read_back(db, &group.id, &message, content.as_deref(), accepted_ms)?;
    }
    Ok(read.is_some())
}

/// Whether it still waits to be read.
pub(crate) fn waits(db: &Connection, digest: &[u8; 32]) -> Result<bool, Error> {
    is_there(
        db,
        "SELECT 1 FROM outbox WHERE digest = ? AND given_up = 0",
        [digest],
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MESSAGE: MessageId = MessageId([9; 32]);

    fn content() -> Vec<u8> {
        content::MimiContent::text([1; 16], "hello")
            .encode()
            .unwrap()
    }

    fn attempt(db: &Connection, group: &Group, digest: [u8; 32]) {
        let attempt = Attempt {
            digest: &digest,
            epoch: 3,
            said: Some((&MESSAGE, &content())),
            request: b"request",
        };
        keep(db, &group.id, &attempt, 5).unwrap();
    }

    #[test]
    fn an_own_message_is_known_until_it_is_read_and_another_ones_never() {
        let db = crate::store::database::in_memory().unwrap();
        let group = crate::store::groups::tests::group(1, "team");
        group.insert(&db).unwrap();
        attempt(&db, &group, [1; 32]);
        accepted(&db, &group, &[1; 32], Position(4), Told::Caller).unwrap();
        assert!(waits(&db, &[1; 32]).unwrap());
        assert!(!is_read(&db, &group, &[2; 32], 6).unwrap());
        assert!(is_read(&db, &group, &[1; 32], 6).unwrap());
        assert!(!is_read(&db, &group, &[1; 32], 6).unwrap());
        assert!(!waits(&db, &[1; 32]).unwrap());
    }

    #[test]
    fn a_queued_message_ends_once_whether_an_answer_or_the_journal_says_so() {
        let sent = |by: fn(&Connection, &Group)| {
            let db = crate::store::database::in_memory().unwrap();
            let group = crate::store::groups::tests::group(1, "team");
            group.insert(&db).unwrap();
            let message = QueuedMessage {
                message: MESSAGE,
                group_id: group.id.into(),
                text: "hello".to_owned(),
                made_ms: 5,
                content: Zeroizing::new(content()),
                target: None,
                quiet: false,
            };
            queue(&db, &message).unwrap();
            assert_eq!(queued(&db).unwrap(), [message]);
            assert!(is_queued(&db, &MESSAGE).unwrap());
            attempt(&db, &group, [1; 32]);
            assert!(undecided(&db, &MESSAGE).unwrap().is_some());
            by(&db, &group);
            assert!(undecided(&db, &MESSAGE).unwrap().is_none());
            assert!(!is_waiting(&db).unwrap());
            events::stored(&db)
        };
        let told = crate::store::groups::tests::group(1, "team");
        let told = [sent_event(&told, &MESSAGE)];
        let answered = sent(|db, group| {
            accepted(db, group, &[1; 32], Position(4), Told::Event).unwrap();
            is_read(db, group, &[1; 32], 6).unwrap();
        });
        assert_eq!(answered, told);
        let read = sent(|db, group| assert!(is_read(db, group, &[1; 32], 6).unwrap()));
        assert_eq!(read, told);
        let called = sent(|db, group| {
            accepted(db, group, &[1; 32], Position(4), Told::Caller).unwrap();
        });
        assert_eq!(called, []);
    }

    const LATER: u64 = 1_000_000;

    #[test]
    fn what_the_service_has_accepted_is_ahead_until_the_journal_was_read_that_far() {
        let db = crate::store::database::in_memory().unwrap();
        let mut group = crate::store::groups::tests::group(7, "team");
        group.insert(&db).unwrap();
        group.segment.next = Position(4);
        attempt(&db, &group, [1; 32]);
        assert!(!is_ahead(&db, &group, LATER).unwrap());
        accepted(&db, &group, &[1; 32], Position(4), Told::Caller).unwrap();
        assert!(is_ahead(&db, &group, LATER).unwrap());
        // A stream may tell it yet.
        assert!(!is_ahead(&db, &group, 0).unwrap());
        let mut other = crate::store::groups::tests::group(8, "camp");
        other.segment.next = Position(4);
        assert!(!is_ahead(&db, &other, LATER).unwrap());
        group.segment.next = Position(5);
        assert!(!is_ahead(&db, &group, LATER).unwrap());
        group.segment.next = Position(4);
        is_read(&db, &group, &[1; 32], 6).unwrap();
        assert!(!is_ahead(&db, &group, LATER).unwrap());
    }

    #[test]
    fn what_was_accepted_and_is_passed_or_left_behind_without_being_read_is_told_once() {
        for (next, segment) in [(5, 7), (0, 8)] {
            let db = crate::store::database::in_memory().unwrap();
            let mut group = crate::store::groups::tests::group(7, "team");
            group.insert(&db).unwrap();
            attempt(&db, &group, [1; 32]);
            accepted(&db, &group, &[1; 32], Position(4), Told::Caller).unwrap();
            group.segment.next = Position(4);
            find_withheld(&db, &group, false, 9).unwrap();
            assert_eq!(events::stored(&db), []);
            group.segment = crate::store::segments::tests::segment(&GroupId([segment; 16]));
            group.segment.next = Position(next);
            find_withheld(&db, &group, false, 9).unwrap();
            find_withheld(&db, &group, false, 9).unwrap();
            let told = Event::MessageWithheld {
                group: "team".to_owned(),
                group_id: group.id.into(),
                message: MESSAGE,
                text: "hello".to_owned(),
            };
            assert_eq!(events::stored(&db), [told]);
            let kept: u32 = db
                .query_row("SELECT count(*) FROM evidence", (), |row| row.get(0))
                .unwrap();
            assert_eq!(kept, 1);
        }
    }

    #[test]
    fn what_waits_in_a_group_that_is_entered_anew_fails_and_is_kept() {
        let db = crate::store::database::in_memory().unwrap();
        let team = crate::store::groups::tests::group(1, "team");
        team.insert(&db).unwrap();
        let message = messages::tests::id(1);
        messages::tests::said_at(&db, 1, MessageState::Waiting, 50);
        let waiting = QueuedMessage {
            message,
            group_id: team.id.into(),
            text: String::new(),
            made_ms: 50,
            content: Zeroizing::new(content()),
            target: None,
            quiet: false,
        };
        queue(&db, &waiting).unwrap();
        fail_all(&db, &team.id).unwrap();
        crate::store::groups::replace_row(&db, &team).unwrap();
        let [message] = messages::page(&db, &team, None, 9)
            .unwrap()
            .try_into()
            .unwrap();
        assert_eq!(
            (message.state, message.text.as_str()),
            (MessageState::Failed, "1")
        );
        let told = events::stored(&db);
        assert!(
            matches!(&told[..], [Event::MessageFailed { .. }]),
            "{told:?}"
        );
    }
}
