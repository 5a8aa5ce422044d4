//! Application messages.

use openmls::prelude::MlsGroup;
use protocol::codec::opaque;
use protocol::groups::{MessageAccepted, SendMessageRequest};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::{Operation, Wire as _};
use rusqlite::Connection;
use tls_codec::{Serialize as _, TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::Client;
use crate::error::{Error, LocalError, PeerError, UsageError, mls};
use crate::groups::commit::ROUNDS;
use crate::groups::{Group, enforce, load_mls, pending};
use crate::leaf;
use crate::provider::Provider;

/// UTF-8 text.
const TEXT: u8 = 1;

/// What stands in an application message.
#[derive(Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct MessageContent {
    kind: u8,
    text: VLBytes,
}

fn encode_text(text: &str) -> Vec<u8> {
    MessageContent {
        kind: TEXT,
        text: opaque(text.as_bytes()),
    }
    .encode()
}

/// The text of a message; `None` for a kind of a later release.
pub(crate) fn decode_text(bytes: &[u8]) -> Result<Option<String>, Error> {
    let content = MessageContent::decode(bytes).map_err(|_| PeerError::Message)?;
    if content.kind != TEXT {
        return Ok(None);
    }
    let text =
        String::from_utf8(content.text.as_slice().to_vec()).map_err(|_| PeerError::Message)?;
    Ok(Some(text))
}

/// Encrypts and keeps the ratchet's step before anything is sent: no key is used twice.
pub(crate) fn encrypt(db: &Connection, id: &GroupId, text: &str) -> Result<Vec<u8>, Error> {
    let provider = Provider::new(db);
    let mut mls_group: MlsGroup = load_mls(db, id)?;
    enforce::permit_sending(&mls_group)?;
    let own_leaf = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
    let signer = leaf::signer(db, own_leaf.signature_key().as_slice())?;
    let message = mls_group
        .create_message(&provider, &signer, &encode_text(text))
        .map_err(mls)?;
    message.tls_serialize_detached().map_err(mls)
}

impl Client {
    /// Sends a text to all other members. When this returns, it stands in their queues.
    ///
    /// # Errors
    /// [`UsageError`] for a group that is not there or left; [`Error::Unreachable`] when no answer
    /// came in time: the message may have been delivered or not, and is not sent again.
    pub async fn send_message(&mut self, group: &str, text: &str) -> Result<(), Error> {
        self.sync(0).await?;
        for _ in 0..ROUNDS {
            let group = Group::usable(&self.db, group)?;
            let id = group.id;
            let message = match self.transact(|db, _| encrypt(db, &id, text)) {
                // A removal that this client knows of: the library sends nothing before it is committed.
                Err(_) if self.is_held_up(&id)? => {
                    self.make_way(&id).await?;
                    continue;
                }
                other => other?,
            };
            let epoch = self.epoch(&id)?;
            let request = SendMessageRequest {
                group_id: id,
                state_key: group.state_key.to_wire(),
                message: opaque(message),
            };
            let (sender, signer) = self.own_sender(&id)?;
            let sent: Result<MessageAccepted, Error> = self
                .call_as(Operation::SendMessage, sender, signer, request.encode(), 0)
                .await;
            match sent {
                Ok(_) => return Ok(()),
                // Refused, so it is in nobody's queue and can be encrypted anew.
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::WrongEpoch => {
                    self.follow(&id, epoch).await?;
                }
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownGroup => {
                    self.recover_state_key(&id).await?;
                }
                Err(Error::Refused(refusal))
                    if refusal.problem == ProblemType::PendingProposals =>
                {
                    self.make_way(&id).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(UsageError::Contention.into())
    }

    /// Whether a removal is pending, as far as this client knows.
    pub(crate) fn is_held_up(&self, id: &GroupId) -> Result<bool, Error> {
        Ok(!pending::removals(&load_mls(&self.db, id)?).is_empty())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_back_and_unknown_kinds_are_passed_over() {
        assert_eq!(
            decode_text(&encode_text("grüß")).unwrap().as_deref(),
            Some("grüß")
        );
        let later = MessageContent {
            kind: 9,
            text: opaque(vec![1]),
        }
        .encode();
        assert_eq!(decode_text(&later).unwrap(), None);
        assert!(
            decode_text(
                &MessageContent {
                    kind: TEXT,
                    text: opaque(vec![0xff])
                }
                .encode()
            )
            .is_err()
        );
        assert!(decode_text(b"").is_err());
    }
}
