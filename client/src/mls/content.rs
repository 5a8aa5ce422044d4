//! What stands in an application message.

use content::{MimiContent, Part};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::ids::{ChainHead, GroupId, Position, SegmentId};
use protocol::journal::{SeenHead, SignedHead};
use protocol::welcome::WelcomePointer;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};
use zeroize::Zeroizing;

use crate::error::{Error, PeerError};
use crate::sync_message::ConnectionUpdate;

/// A message that is a plain text and nothing else: its salt, then UTF-8. It stands for the message
/// in the MIMI content format, and is some 40 bytes shorter: so much that a short text would need
/// the next size bucket.
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
/// Any other message in the MIMI content format.
const MESSAGE: u8 = 7;

#[derive(Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct MessageContent {
    /// See the table.
    kind: u8,
    /// As its kind says.
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
    /// For people: see [`crate::message`].
    Message(Zeroizing<Vec<u8>>),
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
    /// A message for people.
    pub(crate) fn message(&self) -> Option<&[u8]> {
        match self {
            Self::Message(message) => Some(message),
            _ => None,
        }
    }

    /// With the end of a journal that this client has seen, if it has seen any.
    pub(crate) fn encode(&self, seen: Option<SeenHead>) -> Zeroizing<Vec<u8>> {
        let (kind, content) = match self {
            Self::Message(message) => match as_text(message) {
                Some((salt, text)) => (TEXT, opaque([&salt[..], text.as_bytes()].concat())),
                None => (MESSAGE, opaque(message.as_slice())),
            },
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
                let (salt, text) = bytes.split_first_chunk().ok_or(PeerError::Message)?;
                let text = str::from_utf8(text).map_err(|_| PeerError::Message)?;
                let message = MimiContent::text(*salt, text).encode();
                Self::Message(Zeroizing::new(message.map_err(|_| PeerError::Message)?))
            }
            MESSAGE => Self::Message(Zeroizing::new(bytes.to_vec())),
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

/// Salt and text of a message that is nothing else.
fn as_text(message: &[u8]) -> Option<([u8; 16], String)> {
    let message = MimiContent::decode(message).ok()?;
    let Part::Single { content, .. } = &message.body.part else {
        return None;
    };
    let text = String::from_utf8(content.clone()).ok()?;
    (message == MimiContent::text(message.salt, &text)).then_some((message.salt, text))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
pub(crate) mod tests {
    use super::*;

    fn of(message: MimiContent) -> Content {
        Content::Message(Zeroizing::new(message.encode().unwrap()))
    }

    fn text(text: &str) -> Content {
        of(MimiContent::text([1; 16], text))
    }

    #[test]
    fn a_plain_text_costs_16_bytes_beside_itself_and_is_the_same_message() {
        let bare = Content::Greeting.encode(None).len();
        assert_eq!(text("hello").encode(None).len(), bare + 16 + 5);
        let markdown = of(MimiContent::markdown([1; 16], "hello"));
        let id = content::MessageId::try_from([1; 32]).unwrap();
        let reply = of(MimiContent::text([1; 16], "hello").replying_to(id));
        let reaction = of(MimiContent::reaction([1; 16], id, "hello"));
        for message in [text("hello"), text(""), markdown, reply, reaction] {
            let (read, _) = Content::decode(&message.encode(None)).unwrap();
            assert_eq!(read.message().unwrap(), message.message().unwrap());
        }
    }

    /// A message of each kind.
    pub(crate) fn samples() -> Vec<Zeroizing<Vec<u8>>> {
        let contents = [
            text("text"),
            of(MimiContent::markdown([1; 16], "text")),
            Content::Connection(ConnectionUpdate {
                version: 1,
                connection_token: protocol::codec::WireSecret::new([2; 32]),
            }),
            Content::Sync(Zeroizing::new(b"frame".to_vec())),
            Content::Greeting,
            Content::Return(GroupId([3; 16])),
        ];
        contents
            .iter()
            .map(|content| content.encode(None))
            .collect()
    }

    #[test]
    fn a_text_is_read_back_and_unknown_kinds_are_passed_over() {
        let seen = SeenHead {
            segment: SegmentId([1; 32]),
            ..NONE
        };
        let [with, without] = [Some(seen.clone()), None].map(|seen| text("grüß").encode(seen));
        assert_eq!(with.len(), without.len());
        assert_eq!(Content::decode(&without).unwrap().1, None);
        let (Content::Message(message), Some(read)) = Content::decode(&with).unwrap() else {
            panic!("a message");
        };
        let Content::Message(sent) = text("grüß") else {
            panic!("a message");
        };
        assert_eq!((message, read), (sent, seen));
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
        assert!(Content::decode(&message(TEXT, &[0xff; 20])).is_err());
        assert!(Content::decode(&message(TEXT, b"short")).is_err());
        assert!(Content::decode(&message(CONNECTION, b"short")).is_err());
        assert!(Content::decode(&message(RETURN, b"short")).is_err());
        assert!(Content::decode(b"").is_err());
    }
}
