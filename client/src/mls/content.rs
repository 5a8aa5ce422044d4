//! What stands in an application message.

use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::ids::{ChainHead, GroupId, Position, SegmentId};
use protocol::journal::{SeenHead, SignedHead};
use protocol::welcome::WelcomePointer;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};
use zeroize::Zeroizing;

use crate::error::{Error, PeerError};
use crate::ids::MessageId;
use crate::sync_message::ConnectionUpdate;

/// Id of the message, then UTF-8 text.
const TEXT: u8 = 1;
/// What contacts tell each other in their connection group.
const CONNECTION: u8 = 2;
/// What a user's devices tell each other in their own group.
const SYNC: u8 = 3;
/// Where the receiver's Welcomes into another group are.
const POINTER: u8 = 4;
/// Nothing but that its sender is there: for who came in from outside.
const GREETING: u8 = 5;
/// The id of a group that the sender was in and asks to be added to again.
const RETURN: u8 = 6;

#[derive(Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct MessageContent {
    kind: u8,
    content: VLBytes,
    /// Always there, zeros for none: its size says nothing.
    seen: SeenHead,
}

const NONE: SeenHead = SeenHead {
    segment: SegmentId([0; 32]),
    head: SignedHead {
        generation: 0,
        next: Position(0),
        chain: ChainHead([0; 32]),
        signature: [0; 64],
    },
};

/// The content of an application message.
#[derive(Debug)]
pub(crate) enum Content {
    /// For people.
    Text(MessageId, String),
    /// For the other side of a connection.
    Connection(ConnectionUpdate),
    /// For this user's other devices: a frame of [`crate::sync_message`].
    Sync(Zeroizing<Vec<u8>>),
    /// For a contact's clients, or this user's own.
    Pointer(WelcomePointer),
    /// For whoever came in and may send nothing before somebody was heard.
    Greeting,
    /// For a contact who is in a group that the sender has lost.
    Return(GroupId),
    /// Of a later release.
    Unknown,
}

impl Content {
    /// With the end of a journal that this client has seen, if it has seen any.
    pub(crate) fn encode(&self, seen: Option<SeenHead>) -> Zeroizing<Vec<u8>> {
        let (kind, content) = match self {
            Self::Text(id, text) => (TEXT, opaque([&id.0, text.as_bytes()].concat())),
            Self::Connection(update) => (CONNECTION, opaque(update.encode())),
            Self::Sync(frame) => (SYNC, opaque(frame.as_slice())),
            Self::Pointer(pointer) => (POINTER, opaque(pointer.encode())),
            Self::Greeting => (GREETING, opaque(*b"")),
            Self::Return(group) => (RETURN, opaque(group.0)),
            Self::Unknown => (0, opaque(*b"")),
        };
        let seen = seen.unwrap_or(NONE);
        let content = MessageContent {
            kind,
            content,
            seen,
        };
        Zeroizing::new(content.encode())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, Option<SeenHead>), Error> {
        let MessageContent {
            kind,
            content,
            seen,
        } = MessageContent::decode(bytes).map_err(|_| PeerError::Message)?;
        let bytes = content.as_slice();
        let content = match kind {
            TEXT => {
                let (id, text) = bytes.split_first_chunk().ok_or(PeerError::Message)?;
                let text = String::from_utf8(text.to_vec()).map_err(|_| PeerError::Message)?;
                Self::Text(MessageId(*id), text)
            }
            CONNECTION => {
                Self::Connection(ConnectionUpdate::decode(bytes).map_err(|_| PeerError::Message)?)
            }
            SYNC => Self::Sync(Zeroizing::new(bytes.to_vec())),
            POINTER => {
                Self::Pointer(WelcomePointer::decode(bytes).map_err(|_| PeerError::Message)?)
            }
            GREETING => Self::Greeting,
            RETURN => Self::Return(GroupId(bytes.try_into().map_err(|_| PeerError::Message)?)),
            _ => Self::Unknown,
        };
        Ok((content, Some(seen).filter(|seen| *seen != NONE)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn the_content_of_a_message_is_what_it_always_was() {
        for content in [
            Content::Text(MessageId([1; 16]), "text".to_owned()),
            Content::Connection(ConnectionUpdate {
                version: 1,
                connection_token: protocol::codec::WireSecret::new([2; 32]),
            }),
            Content::Sync(Zeroizing::new(b"frame".to_vec())),
            Content::Greeting,
            Content::Return(GroupId([3; 16])),
        ] {
            crate::fixtures::check("content of a message", &content.encode(None));
        }
    }

    #[test]
    fn a_text_is_read_back_and_unknown_kinds_are_passed_over() {
        let seen = SeenHead {
            segment: SegmentId([1; 32]),
            ..NONE
        };
        let [with, without] = [Some(seen.clone()), None]
            .map(|seen| Content::Text(MessageId([7; 16]), "grüß".to_owned()).encode(seen));
        assert_eq!(with.len(), without.len());
        assert_eq!(Content::decode(&without).unwrap().1, None);
        let (Content::Text(MessageId([7, ..]), text), Some(read)) = Content::decode(&with).unwrap()
        else {
            panic!("a text");
        };
        assert_eq!((text.as_str(), read), ("grüß", seen));
        let message = |kind, content: &[u8]| {
            let content = opaque(content);
            let seen = NONE;
            MessageContent {
                kind,
                content,
                seen,
            }
            .encode()
        };
        assert!(matches!(
            Content::decode(&message(9, b"x")).unwrap(),
            (Content::Unknown, None)
        ));
        assert!(Content::decode(&message(TEXT, &[0xff])).is_err());
        assert!(Content::decode(&message(CONNECTION, b"short")).is_err());
        assert!(Content::decode(&message(RETURN, b"short")).is_err());
        assert!(Content::decode(b"").is_err());
    }
}
