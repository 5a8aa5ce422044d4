//! What is said in groups: sending, changing, reading it again.

use std::io::Read as _;
use std::path::PathBuf;

use basis::http_date;
use clap::{Subcommand, ValueEnum};
use client::{
    AttachmentError, Client, Draft, Error, Event, Expiry, Gone, LocalError, MAX_TEXT, Message,
    MessageDetails, MessageId, MessageState, Receipts, StoredEvent, TransferProgress, Transferred,
    UploadOptions, UsageError,
};
use serde_json::json;

use crate::terminal::{Name, Output};

/// So many messages back a beginning of an id is looked for.
const LOOKED_AT: u32 = 1_000;
/// As many characters of an id as are shown, and as a beginning has at least.
const SHORT: usize = 8;

/// Saying something, and reading it again.
#[derive(Debug, Subcommand)]
pub(crate) enum MessageCommand {
    /// Send a message to a group
    Send {
        /// Name of the group
        group: String,
        /// What to say, 1 to 192,512 bytes; `-` takes it from standard input, less a newline at its
        /// end
        #[arg(required_unless_present = "file")]
        text: Option<String>,
        /// With this file. When it was cut off, the same command goes on where it was
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
        /// What the file is called where it is saved [default: its name]
        #[arg(long, value_name = "NAME", requires = "file")]
        name: Option<String>,
        /// The file can be fetched for so many days: 1, 7, 30 or 90
        #[arg(long, value_name = "DAYS", default_value_t = 30, requires = "file",
              value_parser = days)]
        keep: u32,
        /// The file's media type
        #[arg(
            long,
            value_name = "TYPE",
            requires = "file",
            default_value = "application/octet-stream"
        )]
        media_type: String,
        /// As an answer to this message: its id, or the beginning that `messages` shows
        #[arg(long, value_name = "ID")]
        reply_to: Option<String>,
        /// The text is markdown
        #[arg(long)]
        markdown: bool,
        /// Delete it everywhere so long after it was read: 30s, 15m, 12h, 7d, 4w. Readers may keep
        /// it all the same
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        expires: Option<u32>,
    },
    /// Fetch the file of a message. When it was cut off, the same command goes on where it was
    Save {
        /// Name of the group
        group: String,
        /// Its id, or the beginning that `messages` shows
        message: String,
        /// Where to; a directory takes it under its own name [default: the current directory]
        #[arg(long, value_name = "PATH", default_value = ".")]
        to: PathBuf,
    },
    /// React to a message, such as with one emoji
    React {
        /// Name of the group
        group: String,
        /// Its id, or the beginning that `messages` shows
        message: String,
        /// The reaction
        reaction: String,
    },
    /// Say something else in a message of one's own
    Edit {
        /// Name of the group
        group: String,
        /// Its id, or the beginning that `messages` shows
        message: String,
        /// The new text; `-` takes it from standard input
        text: String,
        /// The text is markdown
        #[arg(long)]
        markdown: bool,
    },
    /// Delete a message of one's own, or take a reaction back. Readers may keep it all the same
    Delete {
        /// Name of the group
        group: String,
        /// Its id, or the beginning that `messages` shows
        message: String,
    },
    /// What was said in a group, the last at the end
    Messages {
        /// Name of the group
        group: String,
        /// Only what was said before this message
        #[arg(long, value_name = "ID")]
        before: Option<String>,
        /// How many
        #[arg(long, value_name = "NUMBER", default_value_t = 50)]
        limit: u32,
    },
    /// Tell the others of a group that their messages have come, or were shown by `receive`. The
    /// delivery service sees when; `off` is what it is before
    Receipts {
        /// Name of the group
        group: String,
        /// What to tell; without it: show what is told
        tell: Option<Told>,
    },
}

impl MessageCommand {
    /// Whether it takes something from standard input.
    pub(crate) fn reads_input(&self) -> bool {
        match self {
            Self::Send { text, .. } => text.as_deref() == Some("-"),
            Self::Edit { text, .. } => text == "-",
            _ => false,
        }
    }
}

/// What others are told of their messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Told {
    /// Nothing
    Off,
    /// That they have come
    Delivery,
    /// That they have come, and that they were shown
    Read,
}

/// The text of a message: as it was given, or from standard input without the newline at its end.
fn text(given: String) -> Result<String, Error> {
    if given != "-" {
        return Ok(given);
    }
    let mut bytes = Vec::new();
    // What is too long is not read to its end.
    let most = u64::try_from(MAX_TEXT.saturating_add(3)).unwrap_or(u64::MAX);
    std::io::stdin()
        .take(most)
        .read_to_end(&mut bytes)
        .map_err(LocalError::Input)?;
    let end = match bytes.as_slice() {
        [.., b'\r', b'\n'] => 2,
        [.., b'\n'] => 1,
        _ => 0,
    };
    bytes.truncate(bytes.len().saturating_sub(end));
    if bytes.len() > MAX_TEXT {
        return Err(UsageError::TextTooLong.into());
    }
    String::from_utf8(bytes).map_err(|_| UsageError::TextNotUtf8.into())
}

/// A span of time, in seconds.
fn seconds(span: &str) -> Result<u32, String> {
    let wrong = || "a number with s, m, h, d or w behind it".to_owned();
    let unit = span
        .chars()
        .last()
        .filter(char::is_ascii)
        .ok_or_else(wrong)?;
    let each = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(wrong()),
    };
    let number = span.get(..span.len().saturating_sub(1)).unwrap_or_default();
    let number: u32 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(each).ok_or_else(wrong)
}

fn days(days: &str) -> Result<u32, String> {
    let days = days
        .parse()
        .ok()
        .filter(|days| [1, 7, 30, 90].contains(days));
    days.ok_or_else(|| "1, 7, 30 or 90".to_owned())
}

/// As [`known`]; what is not is read first.
async fn find(client: &Client, group: &str, id: &str) -> Result<MessageId, Error> {
    match known(client, group, id) {
        Err(Error::Usage(UsageError::UnknownMessage(_))) => {
            client.sync(0).await?;
            known(client, group, id)
        }
        found => found,
    }
}

/// A message by its id, or by a beginning that only one of the last messages and reactions has.
fn known(client: &Client, group: &str, id: &str) -> Result<MessageId, Error> {
    if let Ok(id) = id.parse() {
        return Ok(id);
    }
    if id.len() < SHORT {
        return Err(UsageError::InvalidId.into());
    }
    let messages = client.messages(group, None, LOOKED_AT)?;
    let ids = messages.iter().flat_map(|message| {
        let reactions = message.reactions.iter().map(|reaction| reaction.message);
        std::iter::once(message.message).chain(reactions)
    });
    let mut found = ids.filter(|it| it.to_string().starts_with(id));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err(UsageError::UnknownMessage(id.to_owned()).into()),
        (Some(_), Some(_)) => Err(UsageError::InvalidId.into()),
    }
}

pub(crate) async fn execute(
    client: &Client,
    command: MessageCommand,
    transfers: Transfers,
) -> Result<Output, Error> {
    let (group, draft) = match command {
        MessageCommand::Send {
            group,
            text: given,
            file,
            name,
            keep,
            media_type,
            reply_to,
            markdown,
            expires,
        } => {
            let mut draft = Draft::text(given.map(text).transpose()?.unwrap_or_default());
            // Before anything is uploaded.
            if let Some(id) = reply_to {
                draft = draft.reply_to(find(client, &group, &id).await?);
            }
            if let Some(path) = file {
                let options = UploadOptions {
                    name,
                    media_type,
                    days: keep,
                    ..UploadOptions::default()
                };
                // Nothing is uploaded for a group that is not there.
                client.messages(&group, None, 0)?;
                let file = client
                    .upload(&path, options, transfers.shown("sending"))
                    .await?;
                draft = draft.with_attachment(file);
            }
            if markdown {
                draft = draft.as_markdown();
            }
            if let Some(seconds) = expires {
                draft = draft.expires(Expiry::AfterReading(seconds));
            }
            (group, draft)
        }
        MessageCommand::Save { group, message, to } => {
            return save(client, &group, (&message, to), transfers).await;
        }
        MessageCommand::React {
            group,
            message,
            reaction,
        } => {
            let to = find(client, &group, &message).await?;
            (group, Draft::reaction(to, reaction))
        }
        MessageCommand::Edit {
            group,
            message,
            text: given,
            markdown,
        } => {
            let draft = Draft::edit(find(client, &group, &message).await?, text(given)?);
            let draft = if markdown { draft.as_markdown() } else { draft };
            (group, draft)
        }
        MessageCommand::Delete { group, message } => {
            let draft = Draft::deletion(find(client, &group, &message).await?);
            (group, draft)
        }
        MessageCommand::Messages {
            group,
            before,
            limit,
        } => return messages(client, &group, before, limit).await,
        MessageCommand::Receipts { group, tell } => return receipts(client, &group, tell).await,
    };
    let message = client.send_message(&group, draft).await?;
    let document = json!({ "group": group, "sent": true, "message": message });
    Ok(Output::new(document, []))
}

/// Whether it is shown how far transfers have come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfers {
    /// On standard error, where a person looks at it.
    Shown,
    /// The screen belongs to something else.
    Quiet,
}

impl Transfers {
    fn shown(self, doing: &'static str) -> Option<TransferProgress> {
        use std::io::{IsTerminal as _, Write as _};
        let is_seen = self == Self::Shown && std::io::stderr().is_terminal();
        is_seen.then(|| {
            let show = move |Transferred { bytes, of, .. }| {
                let mut out = std::io::stderr();
                let end = if bytes == of { "\n" } else { "" };
                let _ = write!(out, "\r{doing}: {} of {} KB{end}", bytes / 1000, of / 1000);
            };
            std::sync::Arc::new(show) as TransferProgress
        })
    }
}

async fn save(
    client: &Client,
    group: &str,
    (id, to): (&str, PathBuf),
    transfers: Transfers,
) -> Result<Output, Error> {
    let id = find(client, group, id).await?;
    let here = || -> Result<_, Error> {
        let mut messages = client.messages(group, None, LOOKED_AT)?.into_iter();
        Ok(messages.find(|it| it.message == id))
    };
    let message = match here()? {
        Some(message) => message,
        None => {
            client.sync(0).await?;
            here()?.ok_or_else(|| UsageError::UnknownMessage(id.to_string()))?
        }
    };
    let file = message
        .details
        .attachment
        .ok_or(AttachmentError::Unusable)?;
    let path = match to.is_dir() {
        true => to.join(file.file_name().ok_or(AttachmentError::Unusable)?),
        false => to,
    };
    client
        .download(&file, &path, transfers.shown("fetching"))
        .await?;
    let saved = path.display().to_string();
    let document = json!({ "group": group, "message": id, "saved": saved, "bytes": file.size });
    Ok(Output::new(document, [saved]).with_texts_of_others())
}

async fn messages(
    client: &Client,
    group: &str,
    before: Option<String>,
    limit: u32,
) -> Result<Output, Error> {
    client.sync(0).await?;
    let before = before.map(|id| known(client, group, &id)).transpose()?;
    let mut messages = client.messages(group, before, limit)?;
    messages.reverse();
    let rows = messages.iter().flat_map(rows);
    let heads = ["TIME", "MESSAGE", "TEXT"];
    Ok(Output::table(json!(messages), heads, rows, "nothing was said").with_texts_of_others())
}

fn short(id: MessageId) -> String {
    id.to_string().chars().take(SHORT).collect()
}

/// A row of the table, and one for each reaction and receipt.
fn rows(message: &Message) -> Vec<[String; 3]> {
    let time = http_date::format(message.at_ms);
    let time = time.get(5..22).unwrap_or_default();
    let mut marks = match (message.gone, message.state) {
        (Some(Gone::Deleted), _) => " (deleted)",
        (Some(_), _) => " (expired)",
        (None, MessageState::Waiting) => " (waits)",
        (None, MessageState::Failed) => " (not sent)",
        (None, _) => "",
    }
    .to_owned();
    if message.edited && message.gone.is_none() {
        marks.push_str(" (edited)");
    }
    if message.details.expires.is_some() {
        marks.push_str(" (expires)");
    }
    let said = says(
        &Name(&message.sender).to_string(),
        &message.text,
        &message.details,
    );
    let id = format!("{}{marks}", short(message.message));
    let mut rows = vec![[time.to_owned(), id, said]];
    rows.extend(message.reactions.iter().map(|reaction| {
        let said: Vec<String> = reaction
            .reactions
            .iter()
            .map(|it| Name(it).to_string())
            .collect();
        let (id, who) = (short(reaction.message), Name(&reaction.sender));
        [
            String::new(),
            id,
            format!("{who} reacts: {}", said.join(" ")),
        ]
    }));
    rows.extend(message.receipts.iter().map(|receipt| {
        let what = if receipt.read { "read" } else { "arrived" };
        let line = format!("{what}: {}", Name(&receipt.reader));
        [String::new(), String::new(), line]
    }));
    rows
}

/// Who says what; the sender as it is shown.
pub(crate) fn says(sender: &str, text: &str, details: &MessageDetails) -> String {
    let mut said = sender.to_owned();
    if let Some(id) = details.reply_to {
        said.push_str(&format!(" (to {})", short(id)));
    }
    if let Some(attachment) = &details.attachment {
        said.push_str(&format!(" (attached: {})", Name(&attachment.filename)));
    }
    if let Some(media_type) = &details.unknown {
        said.push_str(&format!(" (not shown: {})", Name(media_type)));
    }
    format!("{said}: {text}")
}

/// What was shown is read.
pub(crate) fn mark_read(client: &Client, events: &[StoredEvent]) -> Result<(), Error> {
    for stored in events {
        if let Event::Message { group_id, message, .. } = &stored.event
            // The group may be gone by now.
            && let Err(error @ Error::Local(_)) = client.mark_read(*group_id, &[*message])
        {
            return Err(error);
        }
    }
    Ok(())
}

async fn receipts(client: &Client, group: &str, tell: Option<Told>) -> Result<Output, Error> {
    if let Some(tell) = tell {
        let told = match tell {
            Told::Off => Receipts::Off,
            Told::Delivery => Receipts::Delivery,
            Told::Read => Receipts::Read,
        };
        client.set_receipts(group, told).await?;
    }
    let told = client.receipts(group)?;
    let line = match told {
        Receipts::Off => "members are told nothing of their messages",
        Receipts::Delivery => "members are told that their messages have come",
        _ => "members are told that their messages have come, and that they were shown",
    };
    let document = json!({ "group": group, "receipts": told });
    Ok(Output::new(document, [line.to_owned()]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_span_of_time_has_a_unit() {
        for (span, is) in [("30s", 30), ("15m", 900), ("12h", 43_200), ("7d", 604_800)] {
            assert_eq!(seconds(span).unwrap(), is);
        }
        for wrong in ["", "7", "d", "7y", "-1d", "1.5h", "99999999w", "7dd"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
