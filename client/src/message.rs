//! What a message says: what applications hand in ([`Draft`]) and what they are told of one
//! ([`MessageDetails`]). On the wire it is the MIMI content format (draft-ietf-mimi-content-08).

use content::{
    Disposition, Expiration, MimiContent, NestedPart, Part, STATUS_TYPE, Semantics, Status,
    decode_report, links, without_html,
};
use protocol::ids::GroupId;
use serde::{Deserialize, Serialize};

use crate::attachment::{Attachment, Thumbnail};
use crate::error::{Error, LocalError, PeerError, UsageError};
use crate::ids::{MessageId, UserId};
use crate::text::MAX_TEXT;

/// A link to this and a [`UserId`] is a mention, in markdown.
const MENTION: &str = "user:";
/// The same on the wire: a member's pseudonym.
const PSEUDONYM: &str = "mimi://";
/// Longest reaction in bytes: some emoji are long.
const MAX_REACTION: usize = 128;
/// So many texts a reaction has at most. What is longer, or has more, is an answer
/// (draft-ietf-mimi-content §5.3).
const MAX_REACTIONS: usize = 4;

/// How a text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TextFormat {
    /// As it stands.
    #[default]
    Plain,
    /// GitHub Flavored Markdown without HTML (draft-ietf-mimi-content §7.1.1): that is escaped
    /// before it is sent. Others may not do so: render none. A link whose target is `user:` and a
    /// [`UserId`] mentions that member. Others' links may lie about where they lead: show the
    /// target. Others can write `user:` themselves: whom a text mentions stands in
    /// [`MessageDetails::mentions`] and nowhere else.
    Markdown,
}

/// When a message is deleted, here and at everybody who keeps to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Expiry {
    /// At this time: seconds since 1970.
    At(u32),
    /// So many seconds after its reader has acknowledged its event or marked it as read; at its
    /// sender, after it was sent.
    AfterReading(u32),
}

/// What there is to a message beside its text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
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
    pub attachment: Option<Attachment>,
    /// The media type of something that this release cannot show; the text is empty then.
    pub unknown: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    Say,
    React(MessageId),
    Edit(MessageId),
    Delete(MessageId),
    Report(Vec<(MessageId, u8)>),
}

/// Something to say: a text, and what there is to it. `&str` and `String` are plain texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    act: Act,
    text: String,
    format: TextFormat,
    reply_to: Option<MessageId>,
    expires: Option<Expiry>,
    attachment: Option<Attachment>,
}

impl Draft {
    fn new(act: Act, text: String) -> Self {
        Self {
            act,
            text,
            format: TextFormat::Plain,
            reply_to: None,
            expires: None,
            attachment: None,
        }
    }

    /// A plain text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Act::Say, text.into())
    }

    /// Something that lies elsewhere, with an empty text.
    #[must_use]
    pub fn attachment(attachment: Attachment) -> Self {
        Self::text("").with_attachment(attachment)
    }

    /// With something that lies elsewhere.
    #[must_use]
    pub fn with_attachment(mut self, attachment: Attachment) -> Self {
        self.attachment = Some(attachment);
        self
    }

    /// A reaction to a message, such as one emoji: up to 128 bytes.
    #[must_use]
    pub fn reaction(to: MessageId, reaction: impl Into<String>) -> Self {
        Self::new(Act::React(to), reaction.into())
    }

    /// Another text in the place of a message of this user's own. What is attached to that stays.
    /// It is shown once the edit is read in the group's journal, here as everywhere.
    #[must_use]
    pub fn edit(message: MessageId, text: impl Into<String>) -> Self {
        Self::new(Act::Edit(message), text.into())
    }

    /// Deletes a message of this user's own, or takes a reaction back. Of one that was never sent
    /// nobody is told.
    #[must_use]
    pub fn deletion(message: MessageId) -> Self {
        Self::new(Act::Delete(message), String::new())
    }

    /// What became of messages here.
    pub(crate) fn report(statuses: Vec<(MessageId, u8)>) -> Self {
        Self::new(Act::Report(statuses), String::new())
    }

    /// The text is markdown.
    #[must_use]
    pub fn as_markdown(mut self) -> Self {
        self.format = TextFormat::Markdown;
        self
    }

    /// As an answer to a message of the same group.
    #[must_use]
    pub fn reply_to(mut self, message: MessageId) -> Self {
        self.reply_to = Some(message);
        self
    }

    /// To be deleted. An edit cannot change when.
    #[must_use]
    pub fn expires(mut self, expires: Expiry) -> Self {
        self.expires = Some(expires);
        self
    }

    /// What comes with it.
    pub(crate) fn attached(&self) -> Option<&Attachment> {
        self.attachment.as_ref()
    }

    /// Messages that it is about: they must be known.
    pub(crate) fn about(&self) -> impl Iterator<Item = &MessageId> {
        let target = match &self.act {
            Act::React(message) => Some(message),
            Act::Say | Act::Edit(_) | Act::Delete(_) | Act::Report(_) => None,
        };
        target.into_iter().chain(&self.reply_to)
    }

    /// The message that it changes: it must be an own one.
    pub(crate) fn changes(&self) -> Option<MessageId> {
        match &self.act {
            Act::Edit(message) | Act::Delete(message) => Some(*message),
            Act::Say | Act::React(_) | Act::Report(_) => None,
        }
    }

    /// Whether this can be said at all.
    pub(crate) fn check(&self, now_ms: u64) -> Result<(), UsageError> {
        let is_over =
            matches!(self.expires, Some(Expiry::At(at)) if u64::from(at) <= now_ms / 1000);
        if let Some(expires) = self.expires
            && (is_over || !is_sensible(expires.into(), now_ms))
        {
            return Err(UsageError::InvalidExpiry);
        }
        let (answers, is_markdown) = (self.reply_to.is_some(), self.format == TextFormat::Markdown);
        let fits = match self.act {
            Act::Say => true,
            _ if self.attachment.is_some() => false,
            Act::Edit(_) => !answers && self.expires.is_none(),
            Act::React(_) => !answers && !is_markdown,
            Act::Delete(_) | Act::Report(_) => !answers && !is_markdown && self.expires.is_none(),
        };
        if !fits {
            return Err(UsageError::DraftDoesNotFit);
        }
        match self.act {
            Act::Delete(_) | Act::Report(_) => Ok(()),
            _ if self.attachment.is_none() && self.text.trim().is_empty() => {
                Err(UsageError::EmptyText)
            }
            Act::React(_) if self.text.len() > MAX_REACTION => Err(UsageError::TextTooLong),
            _ if self.text.len() > MAX_TEXT => Err(UsageError::TextTooLong),
            _ => Ok(()),
        }
    }

    /// On the wire. `pseudonym` finds the member that is mentioned; `changed` is what the first
    /// version of a message that this one changes said, by its id and as it is now.
    pub(crate) fn content(
        &self,
        pseudonym: impl Fn(UserId) -> Result<String, Error>,
        changed: Option<(MessageId, &MimiContent)>,
    ) -> Result<MimiContent, Error> {
        let salt = crypto::random()?;
        let wire = |id: &MessageId| content::MessageId::try_from(id.0).map_err(|_| unknown(id));
        let mut message = match &self.act {
            Act::Say => self.says(salt, pseudonym, self.attachment.clone())?,
            Act::Edit(_) => {
                let before = changed.and_then(|(_, before)| shown(&before.body));
                self.says(salt, pseudonym, before.and_then(|it| it.attachment))?
            }
            Act::React(to) => MimiContent::reaction(salt, wire(to)?, &self.text),
            Act::Delete(message) => MimiContent::delete(salt, wire(message)?),
            Act::Report(statuses) => {
                let statuses: Result<Vec<_>, Error> = statuses
                    .iter()
                    .map(|(id, status)| Ok((wire(id)?, Status::of(*status))))
                    .collect();
                MimiContent::report(salt, &statuses?)
            }
        };
        if let Some(message_id) = &self.reply_to {
            message.in_reply_to = Some(wire(message_id)?);
        }
        message.expires = self.expires.map(Into::into);
        if let Some((first, before)) = changed {
            message.replaces = Some(wire(&first)?);
            message.in_reply_to = before.in_reply_to;
            message.expires = before.expires;
            message.topic.clone_from(&before.topic);
            message.body.disposition = before.body.disposition;
        }
        Ok(message)
    }

    fn says(
        &self,
        salt: [u8; 16],
        pseudonym: impl Fn(UserId) -> Result<String, Error>,
        attachment: Option<Attachment>,
    ) -> Result<MimiContent, Error> {
        let text = match self.format {
            TextFormat::Plain => MimiContent::text(salt, &self.text),
            TextFormat::Markdown => {
                let text = with_targets(&without_html(&self.text), |target| {
                    let user = target.strip_prefix(MENTION);
                    user.map(|user| pseudonym(user.parse()?)).transpose()
                })?;
                MimiContent::markdown(salt, &text)
            }
        };
        let Some(mut attachment) = attachment else {
            return Ok(text);
        };
        let preview = attachment.thumbnail.take().map(|thumbnail| NestedPart {
            disposition: Disposition::Preview,
            language: String::new(),
            part: Part::Single {
                content_type: thumbnail.media_type,
                content: thumbnail.content,
            },
        });
        let mut message = MimiContent::attachment(salt, attachment.into());
        if !self.text.is_empty() || preview.is_some() {
            let words = Some(text.body).filter(|_| !self.text.is_empty());
            let parts = words.into_iter().chain([message.body]).chain(preview);
            message.body = NestedPart {
                disposition: Disposition::Render,
                language: String::new(),
                part: Part::Multi {
                    semantics: Semantics::ProcessAll,
                    parts: parts.collect(),
                },
            };
        }
        Ok(message)
    }
}

impl From<&str> for Draft {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<&String> for Draft {
    fn from(text: &String) -> Self {
        Self::text(text)
    }
}

impl From<String> for Draft {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<Expiration> for Expiry {
    fn from(expires: Expiration) -> Self {
        match expires {
            Expiration::At(time) => Self::At(time),
            Expiration::After(seconds) => Self::AfterReading(seconds),
        }
    }
}

impl From<Expiry> for Expiration {
    fn from(expires: Expiry) -> Self {
        match expires {
            Expiry::At(time) => Self::At(time),
            Expiry::AfterReading(seconds) => Self::After(seconds),
        }
    }
}

pub(crate) fn unknown(id: &MessageId) -> Error {
    UsageError::UnknownMessage(id.to_string()).into()
}

fn is_sensible(expires: Expiration, now_ms: u64) -> bool {
    expires.is_sensible(now_ms / 1000)
}

/// A text with other targets in its links, where there are others.
fn with_targets(
    text: &str,
    other: impl Fn(&str) -> Result<Option<String>, Error>,
) -> Result<String, Error> {
    let mut with = String::new();
    let mut at = 0;
    for link in links(text) {
        let target = text.get(link.target.clone()).unwrap_or_default();
        if let Some(other) = other(target)? {
            with.push_str(text.get(at..link.target.start).unwrap_or_default());
            with.push_str(&other);
            at = link.target.end;
        }
    }
    with.push_str(text.get(at..).unwrap_or_default());
    Ok(with)
}

/// The id of a message: its sender goes by the user pseudonym, and the room by the group's id. Both
/// are known to everybody who can read it. The salt is in the message, so nobody else can tell the
/// id, not even of a text that is guessed.
pub(crate) fn id_of(
    pseudonym: &[u8],
    group: &GroupId,
    bytes: &[u8],
    salt: &[u8; 16],
) -> Result<MessageId, PeerError> {
    let sender = std::str::from_utf8(pseudonym).map_err(|_| PeerError::Message)?;
    let room = room_uri(sender, group);
    let id = content::MessageId::of(sender, &room, bytes, salt).map_err(|_| PeerError::Message)?;
    Ok(MessageId(id.octets()))
}

/// The group under the domain of its members' pseudonyms.
fn room_uri(sender: &str, group: &GroupId) -> String {
    let rest = sender.strip_prefix(PSEUDONYM).unwrap_or_default();
    let domain = rest.split('/').next().unwrap_or_default();
    format!(
        "{PSEUDONYM}{domain}/r/{}",
        crate::ids::GroupId::from(*group)
    )
}

/// What a message does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Message,
    /// To which message.
    Reaction(MessageId),
    /// Of which message.
    Edit(MessageId),
    /// Of which message.
    Deletion(MessageId),
    Report(Vec<(MessageId, Status)>),
    Nothing,
}

/// Reads a message that was sent under this pseudonym, and says its id.
///
/// # Errors
/// [`PeerError::Message`] for what is none, for one that names another sender or room, and for one
/// that expires at a time that nobody means.
pub(crate) fn read(
    bytes: &[u8],
    pseudonym: &[u8],
    group: &GroupId,
    accepted_ms: u64,
) -> Result<(MessageId, MimiContent), PeerError> {
    let message = MimiContent::decode(bytes).map_err(|_| PeerError::Message)?;
    let id = id_of(pseudonym, group, bytes, &message.salt)?;
    let sender = std::str::from_utf8(pseudonym).map_err(|_| PeerError::Message)?;
    let claims = |claimed: &Option<String>, is: &str| claimed.as_deref().is_none_or(|it| it == is);
    let extensions = &message.extensions;
    let is_true = claims(&extensions.sender_uri, sender)
        && claims(&extensions.room_uri, &room_uri(sender, group))
        && message
            .expires
            .is_none_or(|it| is_sensible(it, accepted_ms));
    match is_true {
        true => Ok((id, message)),
        false => Err(PeerError::Message),
    }
}

/// Whether it is as short as a reaction is.
pub(crate) fn is_reaction(message: &MimiContent) -> bool {
    let texts = reactions(message);
    message.body.disposition == Disposition::Reaction
        && (1..=MAX_REACTIONS).contains(&texts.len())
        && texts.iter().all(|text| text.len() <= MAX_REACTION)
}

/// What it does.
pub(crate) fn said(message: &MimiContent) -> Said {
    let ours = |id: &content::MessageId| MessageId(id.octets());
    match (&message.body.part, &message.replaces, &message.in_reply_to) {
        (Part::Null, Some(replaced), _) => Said::Deletion(ours(replaced)),
        (Part::Null, None, _) => Said::Nothing,
        (_, Some(replaced), _) => Said::Edit(ours(replaced)),
        (_, None, Some(to)) if is_reaction(message) => Said::Reaction(ours(to)),
        (
            Part::Single {
                content_type,
                content,
            },
            ..,
        ) if essence(content_type) == STATUS_TYPE => {
            let statuses = decode_report(content).unwrap_or_default().into_iter();
            Said::Report(statuses.map(|(id, status)| (ours(&id), status)).collect())
        }
        _ => Said::Message,
    }
}

fn essence(media_type: &str) -> String {
    let essence = media_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

#[derive(Default)]
struct Shown {
    texts: Vec<String>,
    format: TextFormat,
    attachment: Option<Attachment>,
    preview: Option<Thumbnail>,
}

/// What of a part can be shown; none if it is not understood.
fn shown(part: &NestedPart) -> Option<Shown> {
    match &part.part {
        Part::Null => Some(Shown::default()),
        Part::Single {
            content_type,
            content,
        } if part.disposition == Disposition::Preview => {
            let preview = Thumbnail {
                media_type: content_type.clone(),
                content: content.clone(),
            };
            Some(Shown {
                preview: Some(preview).filter(Thumbnail::is_picture),
                ..Shown::default()
            })
        }
        Part::Single {
            content_type,
            content,
        } => {
            let format = match essence(content_type).as_str() {
                "text/plain" => TextFormat::Plain,
                "text/markdown" => TextFormat::Markdown,
                _ => return None,
            };
            let text = String::from_utf8(content.clone()).ok()?;
            Some(Shown {
                texts: vec![text],
                format,
                ..Shown::default()
            })
        }
        Part::External(external) => Some(Shown {
            attachment: Some((**external).clone().into()),
            ..Shown::default()
        }),
        Part::Multi { semantics, parts } => match semantics {
            Semantics::ChooseOne => parts.iter().find_map(shown),
            Semantics::SingleUnit => {
                let all: Option<Vec<_>> = parts.iter().map(shown).collect();
                Some(together(all?))
            }
            Semantics::ProcessAll => {
                let some: Vec<_> = parts.iter().filter_map(shown).collect();
                (!some.is_empty()).then(|| together(some))
            }
        },
    }
}

fn together(parts: Vec<Shown>) -> Shown {
    let mut all = Shown::default();
    for part in parts {
        all.texts.extend(part.texts);
        if part.format == TextFormat::Markdown {
            all.format = part.format;
        }
        all.attachment = all.attachment.or(part.attachment);
        all.preview = all.preview.or(part.preview);
    }
    if let Some(attachment) = &mut all.attachment
        && attachment.thumbnail.is_none()
    {
        attachment.thumbnail = all.preview.take();
    }
    all
}

/// Reactions that a message has.
pub(crate) fn reactions(message: &MimiContent) -> Vec<String> {
    shown(&message.body).map(|it| it.texts).unwrap_or_default()
}

/// The text of a message, and what there is to it. `user` finds who goes by a pseudonym.
pub(crate) fn details(
    message: &MimiContent,
    user: impl Fn(&str) -> Result<Option<UserId>, Error>,
) -> Result<(String, MessageDetails), Error> {
    let mut details = MessageDetails {
        reply_to: message.in_reply_to.map(|id| MessageId(id.octets())),
        expires: message.expires.map(Into::into),
        ..MessageDetails::default()
    };
    let Some(shown) = shown(&message.body) else {
        let parts = message.body.flat().into_iter();
        let mut unknown = parts.filter_map(|part| match &part.part {
            Part::Single { content_type, .. } if self::shown(part).is_none() => {
                Some(content_type.clone())
            }
            _ => None,
        });
        details.unknown = Some(unknown.next().unwrap_or_default());
        return Ok((String::new(), details));
    };
    details.format = shown.format;
    details.attachment = shown.attachment;
    let text = shown.texts.join("\n\n");
    if shown.format == TextFormat::Plain {
        return Ok((text, details));
    }
    let mentions = std::cell::RefCell::new(Vec::new());
    let text = with_targets(&text, |target| {
        if !target.starts_with(PSEUDONYM) {
            return Ok(None);
        }
        let user = user(target)?;
        mentions.borrow_mut().extend(user);
        Ok(user.map(|user| format!("{MENTION}{user}")))
    })?;
    details.mentions = mentions.into_inner();
    details.mentions.sort_unstable();
    details.mentions.dedup();
    Ok((text, details))
}

/// The words of an own message, for whoever is told what became of it.
pub(crate) fn words(bytes: &[u8]) -> Result<String, Error> {
    let message = MimiContent::decode(bytes).map_err(|_| LocalError::Damaged)?;
    Ok(details(&message, |_| Ok(None))?.0)
}

#[cfg(test)]
mod tests;
