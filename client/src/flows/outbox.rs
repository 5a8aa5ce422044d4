//! Sending what is queued, and telling what has become of it.

use std::time::Duration;

use protocol::ids::GroupId;

use crate::engine::Engine;
use crate::error::Error;
use crate::flows::said;
use crate::ids::MessageId;
use crate::store::Group;
use crate::store::database;
use crate::store::erasing;
use crate::store::outbox::{Told, find_withheld, give_up_undecided, is_queued, is_waiting, queued};
use crate::store::receipts;

/// So soon what was erased is taken out of the files if somebody has held that up.
const SCOUR_AGAIN: Duration = Duration::from_secs(60);

impl Engine {
    /// Whether something is to be sent that the user has said.
    pub(crate) fn is_sending(&self) -> bool {
        // A database that cannot be read shows in the next call.
        is_waiting(&self.db).unwrap_or(false) || receipts::is_due(&self.db).unwrap_or(false)
    }

    /// Leaves nothing of messages that have expired, nor of what was erased otherwise, and says
    /// when the next one expires.
    pub(crate) fn expire(&mut self) -> Result<Option<Duration>, Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let mut due = erasing::next_due(&self.db)?;
        if due.is_some_and(|due| due <= now_ms) {
            self.transact(|db, _| said::expire(db, now_ms))?;
            due = erasing::next_due(&self.db)?;
        }
        let due = due.map(|due| Duration::from_millis(due.saturating_sub(now_ms)));
        match database::scour(&self.db)? {
            true => Ok(due),
            false => Ok(Some(due.unwrap_or(SCOUR_AGAIN).min(SCOUR_AGAIN))),
        }
    }

    /// Sends what is queued, in order.
    ///
    /// # Errors
    /// [`Error::Unreachable`] and the like: it stays queued.
    pub(crate) async fn send_queued(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.send_all_queued().await
    }

    pub(crate) async fn send_all_queued(&mut self) -> Result<(), Error> {
        if receipts::is_due(&self.db)? {
            let now_ms = self.transport.time.now_unix_ms();
            self.transact(|db, profile| said::queue_receipts(db, profile, now_ms))?;
        }
        let mut first = Ok(());
        let mut holding = Vec::new();
        for queued in queued(&self.db)? {
            if self.has_acted() {
                break;
            }
            // What came after it in its group waits for it; other groups do not.
            if holding.contains(&queued.group_id) || !is_queued(&self.db, &queued.message)? {
                continue;
            }
            let sent = self.send_message_of(&queued, Told::Event).await;
            if is_queued(&self.db, &queued.message)? {
                holding.push(queued.group_id);
                if first.is_ok() {
                    first = sent;
                }
            }
        }
        first
    }

    /// Sends what is queued in a group, up to this message.
    ///
    /// # Errors
    /// Of this message; or of one before it, which it waits for.
    pub(crate) async fn send_up_to(
        &mut self,
        id: &GroupId,
        message: &MessageId,
    ) -> Result<(), Error> {
        for queued in queued(&self.db)? {
            if queued.group_id.0 != id.0 {
                continue;
            }
            if queued.message == *message {
                return self.send_message_of(&queued, Told::Caller).await;
            }
            let sent = self.send_message_of(&queued, Told::Event).await;
            if is_queued(&self.db, &queued.message)? {
                return sent;
            }
        }
        Ok(())
    }

    /// Tells of what was accepted and is not there, when the journal was read to its end; and
    /// forgets what this client has said by itself and of which nothing can come any more.
    pub(crate) fn settle_outbox(&mut self, id: &GroupId) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let read_to_end = self.read_to_end.contains(id);
        self.transact(|db, _| {
            find_withheld(db, &Group::read(db, id)?, read_to_end, now_ms)?;
            if read_to_end {
                give_up_undecided(db, id, now_ms)?;
            }
            Ok(())
        })
    }
}
