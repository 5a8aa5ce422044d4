//! What stands in an application message.

use protocol::Wire as _;
use protocol::codec::opaque;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};
use zeroize::Zeroizing;

use crate::connections::tokens::ConnectionUpdate;
use crate::error::{Error, PeerError};

/// UTF-8 text.
const TEXT: u8 = 1;
/// What contacts tell each other in their connection group.
const CONNECTION: u8 = 2;
/// What a user's devices tell each other in their own group.
const SYNC: u8 = 3;

#[derive(Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct MessageContent {
    kind: u8,
    content: VLBytes,
}

/// The content of an application message.
#[derive(Debug)]
pub(crate) enum Content {
    /// For people.
    Text(String),
    /// For the other side of a connection.
    Connection(ConnectionUpdate),
    /// For this user's other devices: a frame of [`crate::devices::sync`].
    Sync(Zeroizing<Vec<u8>>),
    /// Of a later release.
    Unknown,
}

impl Content {
    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let (kind, content) = match self {
            Self::Text(text) => (TEXT, opaque(text.as_bytes())),
            Self::Connection(update) => (CONNECTION, opaque(update.encode())),
            Self::Sync(frame) => (SYNC, opaque(frame.as_slice())),
            Self::Unknown => (0, opaque(*b"")),
        };
        Zeroizing::new(MessageContent { kind, content }.encode())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let content = MessageContent::decode(bytes).map_err(|_| PeerError::Message)?;
        let bytes = content.content.as_slice();
        Ok(match content.kind {
            TEXT => Self::Text(String::from_utf8(bytes.to_vec()).map_err(|_| PeerError::Message)?),
            CONNECTION => {
                Self::Connection(ConnectionUpdate::decode(bytes).map_err(|_| PeerError::Message)?)
            }
            SYNC => Self::Sync(Zeroizing::new(bytes.to_vec())),
            _ => Self::Unknown,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_back_and_unknown_kinds_are_passed_over() {
        let Content::Text(text) =
            Content::decode(&Content::Text("grüß".to_owned()).encode()).unwrap()
        else {
            panic!("a text");
        };
        assert_eq!(text, "grüß");
        let message = |kind, content: &[u8]| {
            let content = opaque(content);
            MessageContent { kind, content }.encode()
        };
        assert!(matches!(
            Content::decode(&message(9, b"x")).unwrap(),
            Content::Unknown
        ));
        assert!(Content::decode(&message(TEXT, &[0xff])).is_err());
        assert!(Content::decode(&message(CONNECTION, b"short")).is_err());
        assert!(Content::decode(b"").is_err());
    }
}
