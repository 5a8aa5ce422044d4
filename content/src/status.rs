//! What became of messages at a reader (draft-mahy-mimi-message-status).

use crate::cbor::{Reader, Writer};
use crate::error::ContentError;
use crate::id::MessageId;

/// Media type of a report.
pub const STATUS_TYPE: &str = "application/mimi-message-status";
/// Of one report.
pub const MAX_STATUSES: usize = 1024;

/// What became of a message at a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not read yet.
    Unread,
    /// It arrived.
    Delivered,
    /// It was read.
    Read,
    /// It has expired.
    Expired,
    /// It was deleted.
    Deleted,
    /// It was put aside.
    Hidden,
    /// It could not be received.
    Error,
    /// 7 to 255.
    Unknown(u8),
}

impl Status {
    const KNOWN: [Self; 7] = [
        Self::Unread,
        Self::Delivered,
        Self::Read,
        Self::Expired,
        Self::Deleted,
        Self::Hidden,
        Self::Error,
    ];

    /// By its number.
    #[must_use]
    pub fn of(number: u8) -> Self {
        let known = Self::KNOWN.get(usize::from(number));
        known.copied().unwrap_or(Self::Unknown(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Unread => 0,
            Self::Delivered => 1,
            Self::Read => 2,
            Self::Expired => 3,
            Self::Deleted => 4,
            Self::Hidden => 5,
            Self::Error => 6,
            Self::Unknown(number) => number,
        }
    }
}

/// Writes a report.
#[must_use]
pub fn encode_report(statuses: &[(MessageId, Status)]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.array(statuses.len());
    for (id, status) in statuses {
        writer.array(2);
        writer.bytes(&id.octets());
        writer.number(status.number());
    }
    writer.into_bytes()
}

/// Reads a report.
///
/// # Errors
/// Of [`ContentError`].
pub fn decode_report(bytes: &[u8]) -> Result<Vec<(MessageId, Status)>, ContentError> {
    let mut reader = Reader::new(bytes)?;
    let length = reader.array()?;
    if length > MAX_STATUSES {
        return Err(ContentError::TooLong);
    }
    let mut statuses = Vec::new();
    for _ in 0..length {
        reader.array_of(2)?;
        let id = MessageId::read(&mut reader)?;
        statuses.push((id, Status::of(reader.u8()?)));
    }
    reader.end(&encode_report(&statuses))?;
    Ok(statuses)
}
