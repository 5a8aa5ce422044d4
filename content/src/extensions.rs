//! Extension fields (draft-ietf-mimi-content §4.3).

use crate::cbor::{Reader, Writer, ascending};
use crate::error::ContentError;

/// Of one message.
pub const MAX_EXTENSIONS: usize = 64;
/// Of an encoded value, in bytes.
pub const MAX_VALUE: usize = 4095;
const MAX_KEY: usize = 255;

const SENDER: i64 = 1;
const ROOM: i64 = 2;

/// The name of an extension.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// Positive: registered; negative: private.
    Number(i64),
    /// Private, 1 to 255 bytes.
    Name(String),
}

impl Key {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        match self {
            Self::Number(number) => writer.integer(*number),
            Self::Name(name) => writer.text(name),
        }
        writer.into_bytes()
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ContentError> {
        let key = match reader.is_text()? {
            true => Self::Name(reader.text()?.to_owned()),
            false => Self::Number(reader.integer()?),
        };
        key.check().map(|()| key)
    }

    fn check(&self) -> Result<(), ContentError> {
        match self {
            // Reserved.
            Self::Number(0) => Err(ContentError::Schema),
            Self::Number(_) => Ok(()),
            Self::Name(name) if name.is_empty() => Err(ContentError::Schema),
            Self::Name(name) if name.len() > MAX_KEY => Err(ContentError::ExtensionTooLong),
            Self::Name(_) => Ok(()),
        }
    }
}

/// The extension fields of a message. Those that are not known are kept as they came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extensions {
    /// Whom the message claims as its sender. Never believed: the group knows.
    pub sender_uri: Option<String>,
    /// Which room the message claims to be for.
    pub room_uri: Option<String>,
    /// Others, each with one item of deterministic CBOR.
    others: Vec<(Key, Vec<u8>)>,
}

impl Extensions {
    /// Adds one that this crate does not know, or puts it in the place of one of that key. `value`
    /// is one item of CBOR.
    ///
    /// # Errors
    /// Of [`ContentError`], for a key or value that no reader takes.
    pub fn set(&mut self, key: Key, value: &[u8]) -> Result<(), ContentError> {
        key.check()?;
        if matches!(key, Key::Number(SENDER | ROOM)) {
            return Err(ContentError::Schema);
        }
        let mut reader = Reader::new(value)?;
        let value = taken(reader.any(FIRST_LEVEL)?)?;
        reader.end(&value)?;
        self.others.retain(|(other, _)| *other != key);
        self.others.push((key, value));
        Ok(())
    }

    /// Those that this crate does not know.
    pub fn others(&self) -> impl Iterator<Item = (&Key, &[u8])> {
        let others = self.others.iter();
        others.map(|(key, value)| (key, value.as_slice()))
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, ContentError> {
        let mut extensions = Self::default();
        let length = reader.map()?;
        if length > MAX_EXTENSIONS {
            return Err(ContentError::ExtensionTooLong);
        }
        let mut last = None;
        for _ in 0..length {
            let key = Key::read(reader)?;
            ascending(&mut last, &key.encode())?;
            match key {
                Key::Number(SENDER) => extensions.sender_uri = Some(reader.text()?.to_owned()),
                Key::Number(ROOM) => extensions.room_uri = Some(reader.text()?.to_owned()),
                key => {
                    let value = taken(reader.any(FIRST_LEVEL)?)?;
                    extensions.others.push((key, value));
                }
            }
        }
        Ok(extensions)
    }

    pub(crate) fn write(&self, writer: &mut Writer) -> Result<(), ContentError> {
        let text = |text: &str| {
            let mut value = Writer::new();
            value.text(text);
            value.into_bytes()
        };
        let known = [(SENDER, &self.sender_uri), (ROOM, &self.room_uri)];
        let known = known
            .into_iter()
            .filter_map(|(key, uri)| Some((Key::Number(key).encode(), text(uri.as_deref()?))));
        let others = self.others.iter();
        let mut all: Vec<_> = known
            .chain(others.map(|(key, value)| (key.encode(), value.clone())))
            .collect();
        if all.len() > MAX_EXTENSIONS {
            return Err(ContentError::ExtensionTooLong);
        }
        all.sort_unstable();
        writer.map(all.len());
        for (key, value) in &all {
            writer.raw(key);
            writer.raw(value);
        }
        Ok(())
    }
}

/// The map itself is at level 1.
const FIRST_LEVEL: usize = 1;

fn taken(value: Vec<u8>) -> Result<Vec<u8>, ContentError> {
    match value.len() <= MAX_VALUE {
        true => Ok(value),
        false => Err(ContentError::ExtensionTooLong),
    }
}
