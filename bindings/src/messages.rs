//! What is said in groups.

use std::sync::Arc;

use crate::attachments::Attachment;
use crate::ids::{GroupId, MessageId, UserId};
use crate::mirror::{outcome, record};
use crate::{Answer, Client};

/// How a text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum TextFormat {
    /// As it stands.
    Plain,
    /// GitHub Flavored Markdown without HTML: that is escaped before it is sent. Others may not do
    /// so: render none. A link whose target is `user:` and a user's id mentions that member.
    /// Others' links may lie about where they lead: show the target. Whom a text mentions stands in
    /// `mentions` and nowhere else.
    Markdown,
}

impl From<client::TextFormat> for TextFormat {
    fn from(sdk: client::TextFormat) -> Self {
        match sdk {
            client::TextFormat::Markdown => Self::Markdown,
            // What is written in a way that is not known here is shown as it stands.
            _ => Self::Plain,
        }
    }
}

/// When a message is deleted, here and at everybody who keeps to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Expiry {
    /// At a time.
    At {
        /// Seconds since 1970.
        time_s: u32,
    },
    /// So long after its reader has acknowledged its event or marked it as read; at its sender,
    /// after it was sent.
    AfterReading {
        /// Seconds.
        seconds: u32,
    },
}

impl Expiry {
    fn shown(sdk: client::Expiry) -> Option<Self> {
        match sdk {
            client::Expiry::At(time_s) => Some(Self::At { time_s }),
            client::Expiry::AfterReading(seconds) => Some(Self::AfterReading { seconds }),
            // The SDK deletes it all the same.
            _ => None,
        }
    }

    fn for_sdk(self) -> client::Expiry {
        match self {
            Self::At { time_s } => client::Expiry::At(time_s),
            Self::AfterReading { seconds } => client::Expiry::AfterReading(seconds),
        }
    }
}

/// What there is to a message beside its text.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct MessageDetails {
    /// How the text is written.
    pub format: TextFormat,
    /// The message that it answers.
    pub reply_to: Option<MessageId>,
    /// Members whom it mentions.
    pub mentions: Vec<UserId>,
    /// When it is deleted.
    pub expires: Option<Expiry>,
    /// What comes with it.
    pub attachment: Option<Arc<Attachment>>,
    /// The media type of something that this release cannot show; the text is empty then.
    pub unknown: Option<String>,
}

impl From<client::MessageDetails> for MessageDetails {
    fn from(sdk: client::MessageDetails) -> Self {
        Self {
            format: sdk.format.into(),
            reply_to: sdk.reply_to,
            mentions: sdk.mentions,
            expires: sdk.expires.and_then(Expiry::shown),
            attachment: sdk.attachment.map(Attachment::of),
            unknown: sdk.unknown,
        }
    }
}

/// Something to say.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum Draft {
    /// A text.
    Text {
        /// What it says, at most 192,512 bytes.
        text: String,
        /// How it is written.
        #[uniffi(default = None)]
        format: Option<TextFormat>,
        /// A message of the same group that it answers.
        #[uniffi(default = None)]
        reply_to: Option<MessageId>,
        /// When it is deleted.
        #[uniffi(default = None)]
        expires: Option<Expiry>,
        /// A file that comes with it (`upload`); the text may be empty then.
        #[uniffi(default = None)]
        attachment: Option<Arc<Attachment>>,
    },
    /// A reaction to a message.
    Reaction {
        /// The message.
        to: MessageId,
        /// Such as one emoji: up to 128 bytes.
        reaction: String,
        /// When it is deleted.
        #[uniffi(default = None)]
        expires: Option<Expiry>,
    },
    /// Another text in the place of a message of this user's own. It is shown once the edit is read
    /// in the group's journal, here as everywhere.
    Edit {
        /// The message.
        message: MessageId,
        /// What it says from then on.
        text: String,
        /// How that is written.
        #[uniffi(default = None)]
        format: Option<TextFormat>,
    },
    /// Deletes a message of this user's own, or takes a reaction back. Of one that was never sent
    /// nobody is told.
    Deletion {
        /// The message, or the reaction's own id.
        message: MessageId,
    },
}

impl From<Draft> for client::Draft {
    fn from(ours: Draft) -> Self {
        let (draft, format, expires) = match ours {
            Draft::Text {
                text,
                format,
                reply_to,
                expires,
                attachment,
            } => {
                let draft = Self::text(text);
                let draft = match reply_to {
                    Some(message) => draft.reply_to(message),
                    None => draft,
                };
                let draft = match attachment {
                    Some(attachment) => draft.with_attachment(attachment.for_sdk()),
                    None => draft,
                };
                (draft, format, expires)
            }
            Draft::Reaction {
                to,
                reaction,
                expires,
            } => (Self::reaction(to, reaction), None, expires),
            Draft::Edit {
                message,
                text,
                format,
            } => (Self::edit(message, text), format, None),
            Draft::Deletion { message } => (Self::deletion(message), None, None),
        };
        let draft = match format {
            Some(TextFormat::Markdown) => draft.as_markdown(),
            Some(TextFormat::Plain) | None => draft,
        };
        match expires {
            Some(expires) => draft.expires(expires.for_sdk()),
            None => draft,
        }
    }
}

outcome! {
    /// Where an own message stands.
    MessageState {
        /// In the group's journal.
        Sent,
        /// In the outbox.
        Waiting,
        /// Not sent, and it will not be.
        Failed,
    }
    else
    /// Something that has no name here.
    Other
}

outcome! {
    /// Why nothing is left of a message.
    Gone {
        /// Its sender has deleted it.
        Deleted,
        /// It has expired.
        Expired,
    }
    else
    /// Something that has no name here.
    Other
}

record! {
    /// A reaction to a message.
    Reaction {
        /// The reaction's own id: what takes it back.
        message: MessageId,
        /// Whose.
        sender: String,
        /// Whose; nobody if that member cannot show who it is.
        sender_id: Option<UserId>,
        /// Such as one emoji.
        reactions: Vec<String>,
    }
}

record! {
    /// What became of a message at a member.
    Receipt {
        /// The member's name.
        reader: String,
        /// Who.
        reader_id: UserId,
        /// Read, and not only delivered.
        read: bool,
    }
}

record! {
    /// Something that this user says and that has not come to its end.
    QueuedMessage {
        /// Which message.
        message: MessageId,
        /// Where.
        group_id: GroupId,
        /// What it says; empty for a deletion.
        text: String,
        /// When the user said it, by this device's clock: milliseconds since 1970.
        made_ms: u64,
    }
}

/// A message as it is now.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Message {
    /// Which one.
    pub message: MessageId,
    /// Who has sent it, as that member was called then.
    pub sender: String,
    /// Who has sent it; nobody if that member cannot show who it is.
    pub sender_id: Option<UserId>,
    /// Of this user, perhaps from another device.
    pub own: bool,
    /// What it says; empty if it is gone.
    pub text: String,
    /// What there is to it.
    pub details: MessageDetails,
    /// When the service has accepted it; while it waits, when it was said: milliseconds since 1970.
    pub at_ms: u64,
    /// Where it stands.
    pub state: MessageState,
    /// Its sender has changed it.
    pub edited: bool,
    /// Why nothing is left of it.
    pub gone: Option<Gone>,
    /// Reactions to it.
    pub reactions: Vec<Reaction>,
    /// Of an own message: what became of it at members who tell.
    pub receipts: Vec<Receipt>,
}

impl From<client::Message> for Message {
    fn from(sdk: client::Message) -> Self {
        Self {
            message: sdk.message,
            sender: sdk.sender,
            sender_id: sdk.sender_id,
            own: sdk.own,
            text: sdk.text,
            details: sdk.details.into(),
            at_ms: sdk.at_ms,
            state: sdk.state.into(),
            edited: sdk.edited,
            gone: sdk.gone.map(Into::into),
            reactions: sdk.reactions.into_iter().map(Into::into).collect(),
            receipts: sdk.receipts.into_iter().map(Into::into).collect(),
        }
    }
}

/// What this client tells the others in a group. Every receipt is a message of its own: the
/// delivery service sees under which pseudonym somebody reads, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Receipts {
    /// Nothing.
    Off,
    /// That a message has arrived.
    Delivery,
    /// That a message has arrived, and that it was read.
    Read,
}

#[uniffi::export]
impl Client {
    /// Says something to all other members of a group, after what was queued before it. When this
    /// returns, it stands in the group's journal.
    ///
    /// Fails with `unknown-group`, `not-a-member`, `empty-text`, `text-too-long`,
    /// `unknown-message`, `not-own-message` and the like, or `gone-before-sent` if it has expired
    /// before it was sent. After `unreachable` the message stays in the outbox, is sent when that
    /// is possible, and its end is told as an event.
    pub async fn send_message(&self, group: String, message: Draft) -> Answer<MessageId> {
        Ok(self.sdk.send_message(&group, message).await?)
    }

    /// As `send_message`, but puts it into the outbox and returns at once: it is kept on disk, sent
    /// in order, tried again as long as nobody answers, also after the next start, and ends with an
    /// event: that it was sent, or that it failed.
    pub fn queue_message(&self, group: String, message: Draft) -> Answer<MessageId> {
        Ok(self.sdk.queue_message(&group, message)?)
    }

    /// What waits in the outbox, in the order in which it is sent.
    pub fn queued_messages(&self) -> Answer<Vec<QueuedMessage>> {
        let queued = self.sdk.queued_messages()?;
        Ok(queued.into_iter().map(Into::into).collect())
    }

    /// What was said in a group, as it is now, in the order of its journal, the last first: at most
    /// `limit` messages, those before one of them.
    ///
    /// Fails with `unknown-group`, `unknown-message`.
    #[uniffi::method(default(before = None, limit = 50))]
    pub fn messages(
        &self,
        group: String,
        before: Option<MessageId>,
        limit: u32,
    ) -> Answer<Vec<Message>> {
        let messages = self.sdk.messages(&group, before, limit)?;
        Ok(messages.into_iter().map(Into::into).collect())
    }

    /// The user has read these messages: what expires after reading does from now on, and where
    /// read receipts are switched on, their senders are told.
    ///
    /// Fails with `unknown-group`.
    pub fn mark_read(&self, group: String, messages: Vec<MessageId>) -> Answer<()> {
        Ok(self.sdk.mark_read(&group, &messages)?)
    }

    /// What this client tells the others of a group about their messages.
    ///
    /// Fails with `unknown-group`.
    pub fn receipts(&self, group: String) -> Answer<Receipts> {
        Ok(match self.sdk.receipts(&group)? {
            client::Receipts::Delivery => Receipts::Delivery,
            client::Receipts::Read => Receipts::Read,
            _ => Receipts::Off,
        })
    }

    /// Changes what this client tells the others of a group about their messages: nothing, before
    /// this is called. When it is to tell less, what waits to be told is not.
    ///
    /// Fails with `unknown-group`.
    pub async fn set_receipts(&self, group: String, told: Receipts) -> Answer<()> {
        let told = match told {
            Receipts::Off => client::Receipts::Off,
            Receipts::Delivery => client::Receipts::Delivery,
            Receipts::Read => client::Receipts::Read,
        };
        Ok(self.sdk.set_receipts(&group, told).await?)
    }
}
