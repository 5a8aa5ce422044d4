//! Message ids (draft-ietf-mimi-content §3.3).

use sha2::{Digest as _, Sha256};

use crate::cbor::{Reader, Writer};
use crate::error::ContentError;

/// SHA-256 in the registry of named information hash algorithms.
const SHA_256: u8 = 1;

/// What a message is referred to by: the number of the hash algorithm, then 31 octets of the hash
/// over its sender, its room and itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId([u8; 32]);

impl MessageId {
    /// The id of an encoded message with this salt. Who sent it and where is what the reader knows
    /// by itself, and not what the message claims.
    ///
    /// # Errors
    /// [`ContentError::UriTooLong`].
    pub fn of(
        sender_uri: &str,
        room_uri: &str,
        message: &[u8],
        salt: &[u8; 16],
    ) -> Result<Self, ContentError> {
        let mut hash = Sha256::new();
        for uri in [sender_uri, room_uri] {
            let length = u16::try_from(uri.len()).map_err(|_| ContentError::UriTooLong)?;
            hash.update(length.to_be_bytes());
            hash.update(uri);
        }
        hash.update(message);
        hash.update(salt);
        let mut id = [0; 32];
        let (algorithm, rest) = id.split_at_mut(1);
        algorithm.fill(SHA_256);
        for (to, from) in rest.iter_mut().zip(hash.finalize()) {
            *to = from;
        }
        Ok(Self(id))
    }

    /// Its octets.
    #[must_use]
    pub fn octets(&self) -> [u8; 32] {
        self.0
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, ContentError> {
        Self::try_from(reader.bytes()?)
    }

    pub(crate) fn read_optional(reader: &mut Reader<'_>) -> Result<Option<Self>, ContentError> {
        match reader.is_null() {
            true => reader.null().map(|()| None),
            false => Self::read(reader).map(Some),
        }
    }

    pub(crate) fn write_optional(id: Option<&Self>, writer: &mut Writer) {
        match id {
            Some(id) => writer.bytes(&id.0),
            None => writer.null(),
        }
    }
}

impl TryFrom<[u8; 32]> for MessageId {
    type Error = ContentError;

    fn try_from(octets: [u8; 32]) -> Result<Self, ContentError> {
        match octets {
            [SHA_256, ..] => Ok(Self(octets)),
            _ => Err(ContentError::UnknownHash),
        }
    }
}

impl TryFrom<&[u8]> for MessageId {
    type Error = ContentError;

    fn try_from(octets: &[u8]) -> Result<Self, ContentError> {
        <[u8; 32]>::try_from(octets)
            .map_err(|_| ContentError::Schema)?
            .try_into()
    }
}
