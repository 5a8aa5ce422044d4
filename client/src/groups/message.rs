//! Application messages.

use openmls::prelude::MlsGroup;
use protocol::codec::opaque;
use protocol::groups::{MessageAccepted, SendMessageRequest};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::{Operation, Wire as _};
use rusqlite::Connection;
use tls_codec::Serialize as _;

use crate::Client;
use crate::error::{Error, LocalError, UsageError, mls};
use crate::groups::commit::ROUNDS;
use crate::groups::content::Content;
use crate::groups::{Group, enforce, identities, load_mls, pending, upkeep};
use crate::leaf;
use crate::provider::Provider;

/// Longest text of a message in bytes: what the service takes by default (1 MiB), less what MLS, its padding
/// and a signature add.
pub const MAX_TEXT: usize = 1024 * 1024 - 4096;

/// Encrypts and keeps the ratchet's step before anything is sent: no key is used twice.
pub(crate) fn encrypt(db: &Connection, id: &GroupId, content: &Content) -> Result<Vec<u8>, Error> {
    let provider = Provider::new(db);
    let mut mls_group: MlsGroup = load_mls(db, id)?;
    enforce::permit_sending(&mls_group)?;
    if identities::has_unverified(db, id, &mls_group)? {
        let name = Group::read(db, id)?.display_name();
        return Err(UsageError::UnverifiedMember(name).into());
    }
    let own_leaf = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
    let signer = leaf::signer(db, own_leaf.signature_key().as_slice())?;
    let message = mls_group
        .create_message(&provider, &signer, &content.encode())
        .map_err(mls)?;
    upkeep::count_message(db, id, mls_group.epoch().as_u64())?;
    message.tls_serialize_detached().map_err(mls)
}

pub(crate) fn check_text(text: &str) -> Result<(), UsageError> {
    if text.trim().is_empty() {
        return Err(UsageError::EmptyText);
    }
    if text.len() > MAX_TEXT {
        return Err(UsageError::TextTooLong);
    }
    Ok(())
}

impl Client {
    /// Sends a text to all other members. When this returns, it stands in their queues.
    ///
    /// # Errors
    /// [`UsageError`] for a group that is not there or left, an empty text or one of more than [`MAX_TEXT`]
    /// bytes; [`Error::Unreachable`] when no answer came in time: the message may have been delivered or
    /// not, and is not sent again.
    pub async fn send_message(&mut self, group: &str, text: &str) -> Result<(), Error> {
        check_text(text)?;
        let _held = self.hold().await?;
        self.sync(0).await?;
        let id = Group::usable(&self.db, group)?.id;
        self.send_content(&id, &Content::Text(text.to_owned()))
            .await
    }

    /// Encrypts and sends, as often as it takes.
    pub(crate) async fn send_content(
        &mut self,
        id: &GroupId,
        content: &Content,
    ) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            let group = Group::read(&self.db, id)?;
            group.check_usable()?;
            self.prepare_to_send(id).await?;
            // It may have brought another state key, or the news that this client is no member any more.
            let group = Group::read(&self.db, id)?;
            group.check_usable()?;
            let message = match self.transact(|db, _| encrypt(db, id, content)) {
                // A removal that this client knows of: the library sends nothing before it is committed.
                Err(_) if self.is_held_up(id)? => {
                    self.make_way(id).await?;
                    continue;
                }
                other => other?,
            };
            let epoch = self.epoch(id)?;
            let request = SendMessageRequest {
                group_id: *id,
                state_key: group.state_key.to_wire(),
                message: opaque(message),
            };
            let (sender, signer) = self.own_sender(id)?;
            let sent: Result<MessageAccepted, Error> = self
                .call_as(Operation::SendMessage, sender, signer, request.encode(), 0)
                .await;
            match sent {
                Ok(_) => return Ok(()),
                // Refused, so it is in nobody's queue and can be encrypted anew.
                Err(Error::Refused(refusal)) if refusal.is_of_other_epoch() => {
                    self.follow(id, epoch, refusal.epoch).await?;
                }
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownGroup => {
                    self.recover_state_key(id).await?;
                }
                Err(Error::Refused(refusal))
                    if refusal.problem == ProblemType::PendingProposals =>
                {
                    self.make_way(id).await?;
                }
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::BadSignature => {
                    if !self.stop_if_replaced(id).await? {
                        return Err(Error::Refused(refusal));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(UsageError::Contention.into())
    }

    /// Goes on with the members of a group that cannot show who they are: what is sent from now on reaches them.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub async fn accept_unverified(&mut self, group: &str) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.sync(0).await?;
        let id = Group::usable(&self.db, group)?.id;
        self.transact(|db, _| identities::accept_unverified(db, &id))
    }

    /// Whether a removal is pending, as far as this client knows.
    pub(crate) fn is_held_up(&self, id: &GroupId) -> Result<bool, Error> {
        Ok(!pending::removals(&self.db, &load_mls(&self.db, id)?)?.is_empty())
    }
}
