//! Application messages.

use openmls::prelude::MlsGroup;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::group::{EntryAccepted, SendMessageRequest};
use protocol::ids::GroupId;
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};
use tls_codec::Serialize as _;

use crate::Client;
use crate::error::{Error, LocalError, UsageError, mls};
use crate::groups::commit::ROUNDS;
use crate::groups::content::Content;
use crate::groups::{Group, heard, identities, load_mls, outbox, pending, policy, upkeep};
use crate::journal::heads;
use crate::leaf;
use crate::profile::Profile;
use crate::provider::Provider;

/// Longest text of a message in bytes: with what MLS, a signature and the padding in steps of 64
/// KiB add, the service takes it (256 KiB by default).
pub const MAX_TEXT: usize = 3 * 64 * 1024 - 4096;

/// A message that is kept and can be sent.
pub(crate) struct Encrypted {
    pub(crate) message: Vec<u8>,
    pub(crate) digest: [u8; 32],
}

/// Encrypts and keeps the message, and the ratchet's step, before anything is sent: no key is used
/// twice. A former attempt is given up.
pub(crate) fn encrypt(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    content: &Content,
    former: Option<&[u8; 32]>,
    now_ms: u64,
) -> Result<Encrypted, Error> {
    let provider = Provider::new(db);
    let group = Group::read(db, id)?;
    let mut mls_group: MlsGroup = load_mls(db, id)?;
    policy::permit_sending(&mls_group)?;
    if identities::has_unverified(db, id, &mls_group)? {
        return Err(UsageError::UnverifiedMember(group.display_name()).into());
    }
    if heard::is_waiting(db, id)? {
        return Err(UsageError::NobodyHeard(group.display_name()).into());
    }
    let own_leaf = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
    let signer = leaf::signer(db, own_leaf.signature_key().as_slice())?;
    let seen = heads::to_tell(db, &group, &profile.identity.public())?;
    let message = mls_group
        .create_message(&provider, &signer, &content.encode(seen))
        .map_err(mls)?
        .tls_serialize_detached()
        .map_err(mls)?;
    let epoch = mls_group.epoch().as_u64();
    upkeep::count_message(db, id, epoch)?;
    let digest: [u8; 32] = Sha256::digest(&message).into();
    if let Some(former) = former {
        outbox::give_up(db, former)?;
    }
    outbox::keep(db, id, &digest, epoch, content, now_ms)?;
    Ok(Encrypted { message, digest })
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
    /// Sends a text to all other members. When this returns, it stands in the group's journal.
    ///
    /// # Errors
    /// [`UsageError`] for a group that is not there or left, an empty text or one of more than
    /// [`MAX_TEXT`] bytes; [`Error::Unreachable`] when no answer came in time: the message is kept,
    /// and a later [`Client::sync`] finds it in the journal or sends it again.
    pub async fn send_message(&mut self, group: &str, text: &str) -> Result<(), Error> {
        check_text(text)?;
        let _held = self.hold().await?;
        self.sync(0).await?;
        let id = Group::usable(&self.db, group)?.id;
        self.front = Some(id);
        self.send_content(&id, &Content::Text(text.to_owned()))
            .await
    }

    /// Encrypts and sends, as often as it takes.
    pub(crate) async fn send_content(
        &mut self,
        id: &GroupId,
        content: &Content,
    ) -> Result<(), Error> {
        let mut kept = None;
        let sent = self.send_in_rounds(id, content, &mut kept).await;
        // Where no answer came it may have been accepted: the journal will say.
        let undecided = matches!(sent, Err(Error::Unreachable(_) | Error::Protocol(_)));
        if let (Err(_), false, Some(digest)) = (&sent, undecided, kept) {
            outbox::give_up(&self.db, &digest)?;
        }
        sent
    }

    /// As [`Client::send_content`], in the place of a former attempt, and kept if it is refused.
    pub(crate) async fn send_again(
        &mut self,
        id: &GroupId,
        content: &Content,
        former: [u8; 32],
    ) -> Result<(), Error> {
        self.send_in_rounds(id, content, &mut Some(former)).await
    }

    /// `kept` is the attempt that waits in the outbox.
    async fn send_in_rounds(
        &mut self,
        id: &GroupId,
        content: &Content,
        kept: &mut Option<[u8; 32]>,
    ) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            let group = Group::read(&self.db, id)?;
            group.check_usable()?;
            self.prepare_to_send(id).await?;
            // It may have brought another state key, or the news that this client is no member any
            // more.
            let group = Group::read(&self.db, id)?;
            group.check_usable()?;
            let now_ms = self.transport.time.now_unix_ms();
            let encrypted = self
                .transact(|db, profile| encrypt(db, profile, id, content, kept.as_ref(), now_ms));
            let Encrypted { message, digest } = match encrypted {
                // A removal that this client knows of: the library sends nothing before it is
                // committed.
                Err(_) if self.is_held_up(id)? => {
                    self.make_way(id).await?;
                    continue;
                }
                other => other?,
            };
            *kept = Some(digest);
            let epoch = self.epoch(id)?;
            let request = SendMessageRequest {
                group: group.key(),
                message: opaque(message),
            };
            let (sender, signer) = self.own_sender(id)?;
            let sent: Result<EntryAccepted, Error> = self
                .call_as(Operation::SendMessage, sender, signer, request.encode(), 0)
                .await;
            let refusal = match sent {
                Ok(sent) => {
                    let at = sent.place.position;
                    return outbox::accepted(&self.db, &digest, &group.segment.id, at);
                }
                Err(Error::Refused(refusal)) => refusal,
                Err(error) => return Err(error),
            };
            let followed = match refusal.problem {
                _ if refusal.is_of_other_epoch() => self.follow(id, epoch, refusal.epoch).await,
                ProblemType::UnknownGroup => self.follow_rotation(id).await,
                ProblemType::PendingProposals => self.make_way(id).await,
                ProblemType::BadSignature => match self.stop_if_replaced(id).await {
                    Ok(false) => Err(Error::Refused(refusal)),
                    other => other.map(|_| ()),
                },
                _ => Err(Error::Refused(refusal)),
            };
            // Accepted all the same, under an earlier attempt: it was read by now.
            if !outbox::waits(&self.db, &digest)? {
                return Ok(());
            }
            // Refused, and what has moved the group on was read: it is nowhere, and can be
            // encrypted anew.
            followed?;
        }
        Err(UsageError::Contention.into())
    }

    /// Goes on with the members of a group that cannot show who they are, and although nobody was
    /// heard since this client came in: what is sent from now on reaches them.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub async fn accept_unverified(&mut self, group: &str) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.sync(0).await?;
        let id = Group::usable(&self.db, group)?.id;
        self.transact(|db, _| {
            heard::go_on(db, &id)?;
            identities::accept_unverified(db, &id)
        })
    }

    /// Whether a removal is pending, as far as this client knows.
    pub(crate) fn is_held_up(&self, id: &GroupId) -> Result<bool, Error> {
        Ok(!pending::removals(&self.db, &load_mls(&self.db, id)?)?.is_empty())
    }
}
