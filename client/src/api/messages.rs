//! What is said in groups.

use crate::api::{Client, call, in_group};
use crate::error::Error;
#[cfg(doc)]
use crate::error::UsageError;
use crate::flows::said;
use crate::ids::{GroupRef, MessageId};
use crate::message::Draft;
use crate::store::database;
use crate::store::erasing;
use crate::store::groups::Group;
use crate::store::messages::{self, Message};
use crate::store::outbox::{self, QueuedMessage};
use crate::store::profile::Profile;
use crate::store::receipts::{self, READ, Receipts};

impl Client {
    /// Says something to all other members, after what was queued before it: a text, or any other
    /// [`Draft`]. When this returns, it stands in the group's journal.
    ///
    /// # Errors
    /// [`UsageError`] for a group that is not there or left, an empty text or one of more than
    /// [`MAX_TEXT`](crate::MAX_TEXT) bytes, a message that is not known, and a change of another
    /// one's; [`UsageError::GoneBeforeSent`] if it has expired before it was sent.
    /// [`Error::Unreachable`] when no answer came in time: the message stays in the outbox,
    /// is sent when that is possible, and the end is told as an event
    /// ([`Event::MessageSent`](crate::Event::MessageSent)).
    pub async fn send_message(
        &self,
        group: impl Into<GroupRef>,
        message: impl Into<Draft>,
    ) -> Result<MessageId, Error> {
        let draft = message.into();
        in_group!(self, group, |engine, group| engine
            .send_message(&group, &draft)
            .await)
    }

    /// As [`Client::send_message`], but puts it into the outbox and returns at once: it is kept,
    /// sent in order, tried again as long as nobody answers, also after the next [`Client::open`],
    /// and ends with [`Event::MessageSent`](crate::Event::MessageSent) or
    /// [`Event::MessageFailed`](crate::Event::MessageFailed).
    ///
    /// # Errors
    /// [`UsageError`] as there.
    pub fn queue_message(
        &self,
        group: impl Into<GroupRef>,
        message: impl Into<Draft>,
    ) -> Result<MessageId, Error> {
        let (group, draft) = (group.into(), message.into());
        let message = self.at_desk(|desk| {
            let profile = Profile::read(desk)?;
            let now_ms = self.time(&profile).now_unix_ms();
            let id = Group::usable(desk, &group)?.id;
            let transaction = database::begin(desk)?;
            let message = said::queue(&transaction, &profile, &id, &draft, now_ms)?;
            transaction.commit()?;
            database::scour(desk)?;
            Ok(message)
        })?;
        self.look_again();
        Ok(message)
    }

    /// What waits in the outbox, in the order in which it is sent.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub fn queued_messages(&self) -> Result<Vec<QueuedMessage>, Error> {
        let queued = self.at_desk(|desk| outbox::queued(desk))?.into_iter();
        Ok(queued.filter(|message| !message.quiet).collect())
    }

    /// What was said in a group, as it is now, in the order of its journal, the last first: at most
    /// `limit` messages, those before one of them. It is kept until its sender deletes it, it
    /// expires, or the account is deleted: also while this user is not in the group. Who has sent
    /// what is gone, and when, stays until 60 days after that.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`], [`UsageError::UnknownMessage`].
    pub fn messages(
        &self,
        group: impl Into<GroupRef>,
        before: Option<MessageId>,
        limit: u32,
    ) -> Result<Vec<Message>, Error> {
        self.expire()?;
        self.read_group(group, |db, _, group| {
            messages::page(db, &Group::meant(db, group)?, before, limit)
        })
    }

    /// The user has read these messages: what expires after reading does from now on, and where
    /// [`Receipts::Read`] is switched on, their senders are told.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub fn mark_read(
        &self,
        group: impl Into<GroupRef>,
        messages: &[MessageId],
    ) -> Result<(), Error> {
        let group = group.into();
        self.at_desk(|desk| {
            let now_ms = self.time(&Profile::read(desk)?).now_unix_ms();
            let id = Group::meant(desk, &group)?.id;
            let transaction = database::begin(desk)?;
            for message in messages {
                erasing::begin(&transaction, message, now_ms)?;
                receipts::due(&transaction, &id, message, READ)?;
            }
            Ok(transaction.commit()?)
        })?;
        self.look_again();
        Ok(())
    }

    /// What this client tells the others of a group about their messages.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub fn receipts(&self, group: impl Into<GroupRef>) -> Result<Receipts, Error> {
        self.read_group(group, |db, _, group| {
            receipts::told(db, &Group::meant(db, group)?.id)
        })
    }

    /// Changes what this client tells the others of a group about their messages: nothing, before
    /// this is called. When it is to tell less, what waits to be told is not. See [`Receipts`] for
    /// what else they tell.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub async fn set_receipts(
        &self,
        group: impl Into<GroupRef>,
        told: Receipts,
    ) -> Result<(), Error> {
        in_group!(self, group, |engine, group| {
            let id = Group::meant(&engine.db, &group)?.id;
            engine.transact(|db, _| {
                if (told as u8) < receipts::told(db, &id)? as u8 {
                    outbox::drop_quiet(db, &id)?;
                }
                receipts::tell(db, &id, told)
            })
        })
    }

    /// Leaves nothing of messages that have expired: whoever looks sees none.
    pub(super) fn expire(&self) -> Result<(), Error> {
        self.at_desk(|desk| {
            let Some(due) = erasing::next_due(desk)? else {
                return Ok(());
            };
            let now_ms = self.time(&Profile::read(desk)?).now_unix_ms();
            if due > now_ms {
                return Ok(());
            }
            let transaction = database::begin(desk)?;
            said::expire(&transaction, now_ms)?;
            transaction.commit()?;
            database::scour(desk).map(drop)
        })
    }
}
