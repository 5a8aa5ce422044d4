//! Messages (draft-ietf-mimi-content §4.1) and plain ways to make them.

use crate::cbor::{Reader, Writer};
use crate::error::ContentError;
use crate::extensions::Extensions;
use crate::id::MessageId;
use crate::part::{Disposition, ExternalPart, NestedPart, Part};
use crate::status::{STATUS_TYPE, Status, encode_report};
use crate::{MARKDOWN_TYPE, MAX_LEN, MAX_TOPIC, TEXT_TYPE};

/// A year: an expiration further away, or longer ago, is a mistake or a lie (§9.1).
pub const SENSIBLE_S: u64 = 366 * 24 * 60 * 60;

/// When a message is to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiration {
    /// At this time: seconds since 1970.
    At(u32),
    /// So many seconds after it was read.
    After(u32),
}

impl Expiration {
    /// Whether it is no more than a year away, in the future or the past.
    #[must_use]
    pub fn is_sensible(self, now_s: u64) -> bool {
        match self {
            Self::At(time) => u64::from(time).abs_diff(now_s) <= SENSIBLE_S,
            Self::After(seconds) => u64::from(seconds) <= SENSIBLE_S,
        }
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MimiContent {
    /// Random, and another one for each message.
    pub salt: [u8; 16],
    /// The message that this one edits or deletes: always the first of its versions.
    pub replaces: Option<MessageId>,
    /// Messages with the same topic belong together; empty for none.
    pub topic: Vec<u8>,
    /// When it is to be deleted.
    pub expires: Option<Expiration>,
    /// The message that this one answers or reacts to.
    pub in_reply_to: Option<MessageId>,
    /// Extension fields.
    pub extensions: Extensions,
    /// What it says.
    pub body: NestedPart,
}

impl MimiContent {
    /// With this body.
    #[must_use]
    pub fn new(salt: [u8; 16], body: NestedPart) -> Self {
        Self {
            salt,
            replaces: None,
            topic: Vec::new(),
            expires: None,
            in_reply_to: None,
            extensions: Extensions::default(),
            body,
        }
    }

    /// Plain text.
    #[must_use]
    pub fn text(salt: [u8; 16], text: &str) -> Self {
        Self::new(salt, NestedPart::single(TEXT_TYPE, text.as_bytes()))
    }

    /// Markdown, in which a link to a member's URI is a mention ([`link`](crate::link)).
    #[must_use]
    pub fn markdown(salt: [u8; 16], text: &str) -> Self {
        Self::new(salt, NestedPart::single(MARKDOWN_TYPE, text.as_bytes()))
    }

    /// A reaction to a message, such as one emoji.
    #[must_use]
    pub fn reaction(salt: [u8; 16], to: MessageId, reaction: &str) -> Self {
        let mut message = Self::text(salt, reaction).replying_to(to);
        message.body.disposition = Disposition::Reaction;
        message
    }

    /// Takes a reaction to a message back.
    #[must_use]
    pub fn unlike(salt: [u8; 16], reaction: MessageId, to: MessageId) -> Self {
        let body = NestedPart::null(Disposition::Reaction);
        Self::new(salt, body).replying_to(to).replacing(reaction)
    }

    /// Deletes a message.
    #[must_use]
    pub fn delete(salt: [u8; 16], message: MessageId) -> Self {
        Self::new(salt, NestedPart::null(Disposition::Render)).replacing(message)
    }

    /// Something that lies elsewhere.
    #[must_use]
    pub fn attachment(salt: [u8; 16], external: ExternalPart) -> Self {
        let body = NestedPart {
            disposition: Disposition::Attachment,
            language: String::new(),
            part: Part::External(Box::new(external)),
        };
        Self::new(salt, body)
    }

    /// What became of messages here.
    #[must_use]
    pub fn report(salt: [u8; 16], statuses: &[(MessageId, Status)]) -> Self {
        let mut body = NestedPart::single(STATUS_TYPE, &encode_report(statuses));
        body.disposition = Disposition::Unspecified;
        Self::new(salt, body)
    }

    /// As an answer to a message.
    #[must_use]
    pub fn replying_to(mut self, message: MessageId) -> Self {
        self.in_reply_to = Some(message);
        self
    }

    /// In the place of a message: an edit.
    #[must_use]
    pub fn replacing(mut self, message: MessageId) -> Self {
        self.replaces = Some(message);
        self
    }

    /// To be deleted.
    #[must_use]
    pub fn expiring(mut self, expires: Expiration) -> Self {
        self.expires = Some(expires);
        self
    }

    /// Its only encoding.
    ///
    /// # Errors
    /// What no reader takes: too deep, too long, too many parts.
    pub fn encode(&self) -> Result<Vec<u8>, ContentError> {
        let mut writer = Writer::new();
        writer.array(7);
        writer.bytes(&self.salt);
        MessageId::write_optional(self.replaces.as_ref(), &mut writer);
        if self.topic.len() > MAX_TOPIC {
            return Err(ContentError::TopicTooLong);
        }
        writer.bytes(&self.topic);
        match self.expires {
            None => writer.null(),
            Some(expires) => {
                let (is_relative, time) = match expires {
                    Expiration::At(time) => (false, time),
                    Expiration::After(time) => (true, time),
                };
                writer.array(2);
                writer.bool(is_relative);
                writer.number(time);
            }
        }
        MessageId::write_optional(self.in_reply_to.as_ref(), &mut writer);
        self.extensions.write(&mut writer)?;
        self.body.write(&mut writer, 1, &mut 0)?;
        match writer.len() <= MAX_LEN {
            true => Ok(writer.into_bytes()),
            false => Err(ContentError::TooLong),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// Of [`ContentError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ContentError> {
        let mut reader = Reader::new(bytes)?;
        reader.array_of(7)?;
        let salt = reader
            .bytes()?
            .try_into()
            .map_err(|_| ContentError::Schema)?;
        let replaces = MessageId::read_optional(&mut reader)?;
        let topic = reader.bytes()?;
        if topic.len() > MAX_TOPIC {
            return Err(ContentError::TopicTooLong);
        }
        let topic = topic.to_vec();
        let expires = match reader.is_null() {
            true => reader.null().map(|()| None)?,
            false => {
                reader.array_of(2)?;
                let is_relative = reader.bool()?;
                let time = reader.u32()?;
                Some(match is_relative {
                    true => Expiration::After(time),
                    false => Expiration::At(time),
                })
            }
        };
        let in_reply_to = MessageId::read_optional(&mut reader)?;
        let extensions = Extensions::read(&mut reader)?;
        let body = NestedPart::read(&mut reader, 1, &mut 0)?;
        let message = Self {
            salt,
            replaces,
            topic,
            expires,
            in_reply_to,
            extensions,
            body,
        };
        reader.end(&message.encode()?)?;
        Ok(message)
    }

    /// Its id, from who sent it and where.
    ///
    /// # Errors
    /// As [`MimiContent::encode`]; [`ContentError::UriTooLong`].
    pub fn id(&self, sender_uri: &str, room_uri: &str) -> Result<MessageId, ContentError> {
        MessageId::of(sender_uri, room_uri, &self.encode()?, &self.salt)
    }
}
