//! What comes with calls.

use client::{Expiry, MessageId, Picture, UsageError};
use serde::Deserialize;

use crate::failure::{Failure, given};

/// An attachment, as it was handed out.
#[derive(Deserialize)]
pub(crate) struct Sealed {
    sealed: String,
}

impl Sealed {
    pub(crate) fn opened(&self) -> Result<client::Attachment, Failure> {
        given(&self.sealed)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reason {
    Spam,
    Abuse,
    Other,
}

impl From<Reason> for client::ReportReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Spam => Self::Spam,
            Reason::Abuse => Self::Abuse,
            Reason::Other => Self::Other,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Until {
    At(u32),
    AfterReading(u32),
}

impl From<Until> for Expiry {
    fn from(until: Until) -> Self {
        match until {
            Until::At(time_s) => Self::At(time_s),
            Until::AfterReading(seconds) => Self::AfterReading(seconds),
        }
    }
}

/// Something to say.
#[derive(Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub(crate) enum Draft {
    Text {
        text: String,
        format: Option<client::TextFormat>,
        reply_to: Option<MessageId>,
        expires: Option<Until>,
        attachment: Option<Sealed>,
    },
    Reaction {
        to: MessageId,
        reaction: String,
        expires: Option<Until>,
    },
    Edit {
        message: MessageId,
        text: String,
        format: Option<client::TextFormat>,
    },
    Deletion {
        message: MessageId,
    },
}

impl Draft {
    pub(crate) fn for_sdk(self) -> Result<client::Draft, Failure> {
        let (draft, format, expires) = match self {
            Self::Text {
                text,
                format,
                reply_to,
                expires,
                attachment,
            } => {
                let mut draft = client::Draft::from(text);
                if let Some(to) = reply_to {
                    draft = draft.reply_to(to);
                }
                if let Some(attachment) = attachment {
                    draft = draft.with_attachment(attachment.opened()?);
                }
                (draft, format, expires)
            }
            Self::Reaction {
                to,
                reaction,
                expires,
            } => (client::Draft::reaction(to, reaction), None, expires),
            Self::Edit {
                message,
                text,
                format,
            } => (client::Draft::edit(message, text), format, None),
            Self::Deletion { message } => (client::Draft::deletion(message), None, None),
        };
        let draft = match format {
            Some(client::TextFormat::Markdown) => draft.as_markdown(),
            _ => draft,
        };
        Ok(match expires {
            Some(expires) => draft.expires(expires.into()),
            None => draft,
        })
    }
}

/// What a group says of itself.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
pub(crate) struct Profile {
    name: String,
    description: String,
    picture: Option<Shown>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    media_type: String,
    image: String,
}

impl Profile {
    pub(crate) fn for_sdk(self) -> Result<client::GroupProfile, Failure> {
        let mut profile = client::GroupProfile::default();
        profile.name = self.name;
        profile.description = self.description;
        profile.picture = match self.picture {
            Some(picture) => {
                let picture = serde_json::json!({
                    "media_type": picture.media_type, "image": picture.image,
                });
                Some(given::<Picture>(&picture.to_string())?)
            }
            None => None,
        };
        Ok(profile)
    }
}

/// Where a device is woken.
#[derive(Deserialize)]
pub(crate) struct PushAddress {
    endpoint: String,
    p256dh: Vec<u8>,
    auth: Vec<u8>,
}

impl PushAddress {
    pub(crate) fn for_sdk(self) -> Result<client::PushAddress, Failure> {
        let auth = self.auth.try_into();
        Ok(client::PushAddress::WebPush {
            endpoint: self.endpoint,
            p256dh: self.p256dh,
            auth: auth.map_err(|_| UsageError::InvalidPushAddress)?,
        })
    }
}

/// How a device agrees to be woken.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
pub(crate) struct PushConsent {
    batched: bool,
    decoys: bool,
}

impl PushConsent {
    pub(crate) fn for_sdk(self) -> client::PushConsent {
        client::PushConsent {
            batched: self.batched,
            decoys: self.decoys,
        }
    }
}
