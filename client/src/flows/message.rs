//! Application messages.

use std::rc::Rc;

use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::group::{EntryAccepted, SendMessageRequest};
use protocol::ids::{GroupId, LeafIndex, Position};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::request::Sender;
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};
use tls_codec::Serialize as _;

use crate::engine::Engine;
use crate::envelope::Envelope;
use crate::error::{Error, LocalError, NoAnswer, UsageError, mls, refusals_can_wait};
use crate::flows::request::read_answer;
use crate::flows::rounds::ROUNDS;
use crate::flows::said;
use crate::ids::{GroupRef, MessageId};
use crate::leaf::own_pseudonym;
use crate::message::Draft;
use crate::mls::content::Content;
use crate::mls::{policy, proposals};
use crate::store::groups::Group;
use crate::store::loaded::Loaded;
use crate::store::outbox::{self, QueuedMessage, Told};
use crate::store::profile::Profile;
use crate::store::provider::{LeafSigner, Provider};
use crate::store::{heads, heard, identities, leaf_keys, messages, tokens, upkeep};

/// What is sent; with the id that a message of the user's was queued under.
#[derive(Clone, Copy)]
struct Saying<'a> {
    content: &'a Content,
    message: Option<&'a MessageId>,
}

/// An attempt that is kept and can be made.
struct Attempt {
    envelope: Envelope,
    digest: [u8; 32],
    epoch: u64,
}

/// Encrypts, signs and keeps the message, and the ratchet's step, before anything is sent: no key
/// is used twice. A former attempt is given up.
fn encrypt(
    db: &Connection,
    loaded: &Loaded,
    profile: &Profile,
    id: &GroupId,
    saying: Saying<'_>,
    former: Option<&[u8; 32]>,
    now_ms: u64,
) -> Result<Attempt, Error> {
    let content = saying.content;
    let provider = Provider::new(db);
    let group = Group::read(db, id)?;
    let mut mls_group = loaded.take(db, id)?;
    policy::permit_sending(&mls_group)?;
    if identities::has_unverified(db, id, &mls_group)? {
        return Err(UsageError::UnverifiedMember(group.display_name()).into());
    }
    if heard::is_waiting(db, id)? {
        return Err(UsageError::NobodyHeard(group.display_name()).into());
    }
    let said = saying.message.zip(content.message());
    if let Some((message, bytes)) = said {
        said::check_id(&own_pseudonym(&mls_group)?, &group, message, bytes)?;
    }
    let own_leaf = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
    let signer = leaf_keys::signer(db, own_leaf.signature_key().as_slice())?;
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
    let request = SendMessageRequest {
        group: group.key(),
        message: opaque(message),
    };
    let LeafSigner(key) = signer;
    let sender = Sender::Leaf(LeafIndex(mls_group.own_leaf_index().u32()));
    let envelope = Envelope::new(
        Operation::SendMessage,
        sender,
        key,
        request.encode(),
        now_ms,
    )?;
    let attempt = outbox::Attempt {
        digest: &digest,
        epoch,
        said,
        request: &envelope.request,
    };
    outbox::keep(db, id, &attempt, now_ms)?;
    loaded.keep(db, id, mls_group)?;
    Ok(Attempt {
        envelope,
        digest,
        epoch,
    })
}

fn position_in(answer: &[u8]) -> Result<Position, Error> {
    let accepted: EntryAccepted = read_answer(answer)?;
    Ok(accepted.place.position)
}

impl Engine {
    /// Queues something that the user says and sends it, after what was queued before it.
    pub(crate) async fn send_message(
        &mut self,
        group: &GroupRef,
        draft: &Draft,
    ) -> Result<MessageId, Error> {
        draft.check(self.transport.time.now_unix_ms())?;
        let _held = self.hold().await?;
        let id = match Group::usable(&self.db, group) {
            // What this client has not heard of yet may let it.
            Err(Error::Usage(_)) => self.sync_for(group).await?.id,
            other => other?.id,
        };
        let now_ms = self.transport.time.now_unix_ms();
        let message = self.transact(|db, profile| said::queue(db, profile, &id, draft, now_ms))?;
        self.send_up_to(&id, &message).await?;
        match messages::is_sent(&self.db, &message)? {
            true => Ok(message),
            false => Err(UsageError::GoneBeforeSent.into()),
        }
    }

    /// Sends a message that is queued. Where no answer came it may have been accepted: it stays
    /// queued until that is known.
    pub(crate) async fn send_message_of(
        &mut self,
        queued: &QueuedMessage,
        told: Told,
    ) -> Result<(), Error> {
        let id = queued.group_id.into();
        // It may have expired while it waited.
        self.expire()?;
        if !outbox::is_queued(&self.db, &queued.message)? {
            return Ok(());
        }
        // What goes out by itself brings nothing to the front: each stream takes a seat.
        if told == Told::Caller {
            self.front = Some(id);
        }
        let content = Content::Message(queued.content.clone());
        let saying = Saying {
            content: &content,
            message: Some(&queued.message),
        };
        let sent = match self.prepare_queued(&id).await {
            Ok(()) => self.send_in_rounds(&id, saying, &mut None, told).await,
            Err(error) => Err(error),
        };
        match &sent {
            Ok(()) | Err(Error::Unreachable(_) | Error::Protocol(_) | Error::Local(_)) => {}
            Err(error) => self.transact(|db, _| {
                outbox::failed(db, &Group::read(db, &id)?, queued, error, told)
            })?,
        }
        sent
    }

    /// Brings a commit of this group to its end, and reads its journal where this process does not
    /// know that end: a home that was put back finds there what it has said, and uses no key twice.
    async fn prepare_queued(&mut self, id: &GroupId) -> Result<(), Error> {
        // What they meet is not the message's.
        refusals_can_wait(self.resume_group(id).await)?;
        match Group::find(&self.db, id)? {
            Some(group) if self.knows_end(&group) => Ok(()),
            _ => refusals_can_wait(self.read_group(id).await),
        }
    }

    /// Encrypts and sends something that this client says by itself.
    pub(crate) async fn send_content(
        &mut self,
        id: &GroupId,
        content: &Content,
    ) -> Result<(), Error> {
        let mut kept = None;
        let saying = Saying {
            content,
            message: None,
        };
        let sent = self
            .send_in_rounds(id, saying, &mut kept, Told::Event)
            .await;
        // Where no answer came it may have been accepted: the journal will say.
        let is_undecided = matches!(sent, Err(Error::Unreachable(_) | Error::Protocol(_)));
        if let (Err(_), false, Some(digest)) = (&sent, is_undecided, kept) {
            outbox::give_up(&self.db, &digest)?;
        }
        sent
    }

    /// Makes attempts, as many as it takes. `kept` is the last one.
    async fn send_in_rounds(
        &mut self,
        id: &GroupId,
        saying: Saying<'_>,
        kept: &mut Option<[u8; 32]>,
        told: Told,
    ) -> Result<(), Error> {
        if let Some(message) = saying.message
            && let Some((digest, request)) = outbox::undecided(&self.db, message)?
        {
            *kept = Some(digest);
            if self.ask_again(id, &digest, &request, told).await? {
                return Ok(());
            }
        }
        let mut has_read = false;
        for _ in 0..ROUNDS {
            let group = Group::read(&self.db, id)?;
            group.check_usable()?;
            self.prepare_to_send(id).await?;
            // It may have brought another state key, or the news that this client is no member any
            // more.
            let group = Group::read(&self.db, id)?;
            group.check_usable()?;
            let now_ms = self.transport.time.now_unix_ms();
            let loaded = Rc::clone(&self.loaded);
            let encrypted = self.transact(|db, profile| {
                encrypt(db, &loaded, profile, id, saying, kept.as_ref(), now_ms)
            });
            let Attempt {
                envelope,
                digest,
                epoch,
            } = match encrypted {
                // A removal that this client knows of: the library sends nothing before it is
                // committed.
                Err(_) if self.is_held_up(id)? => {
                    self.make_way(id).await?;
                    continue;
                }
                // What stands in the journal may let it be sent.
                Err(Error::Usage(_)) if !has_read => {
                    has_read = true;
                    self.read_group(id).await?;
                    continue;
                }
                other => other?,
            };
            *kept = Some(digest);
            let refusal = match self.send_once(envelope).await {
                Ok(at) => {
                    return self.transact(|db, _| outbox::accepted(db, &group, &digest, at, told));
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
            // Accepted all the same: it was read by now.
            if !outbox::waits(&self.db, &digest)? {
                return Ok(());
            }
            // Refused, and what has moved the group on was read: it is nowhere, and can be
            // encrypted anew.
            followed?;
        }
        Err(UsageError::Contention.into())
    }

    async fn send_once(&mut self, mut envelope: Envelope) -> Result<Position, Error> {
        let price = self.directory().await?.prices.of(Operation::SendMessage, 0);
        envelope.tokens = self.take_tokens(price)?;
        let sent = self.send(&mut envelope, None).await;
        tokens::discard(&self.db, &envelope.tokens)?;
        position_in(&sent?)
    }

    /// Posts a request again of which no answer has come: it is the same request, carried out once.
    /// Says whether the message stands in the journal; it can be encrypted anew if not.
    async fn ask_again(
        &mut self,
        id: &GroupId,
        digest: &[u8; 32],
        request: &[u8],
        told: Told,
    ) -> Result<bool, Error> {
        let answer = self
            .transport
            .post(Operation::SendMessage, request, &[])
            .await;
        self.keep_transport_state()?;
        match answer {
            Ok(answer) => {
                let at = position_in(&answer)?;
                let group = Group::read(&self.db, id)?;
                self.transact(|db, _| outbox::accepted(db, &group, digest, at, told))?;
                Ok(true)
            }
            Err(Error::Refused(_)) => {
                // As long as the journal cannot be read it is not known what has become of it.
                let read = self.read_group(id).await;
                read.map_err(|error| NoAnswer::from(error.to_string()))?;
                Ok(!outbox::waits(&self.db, digest)?)
            }
            Err(error) => Err(error),
        }
    }

    /// Goes on with the members of a group that cannot show who they are, and although nobody was
    /// heard since this client came in: what is sent from now on reaches them.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub(crate) async fn accept_unverified(&mut self, group: &GroupRef) -> Result<(), Error> {
        let _held = self.hold().await?;
        let id = self.sync_for(group).await?.id;
        self.transact(|db, _| {
            heard::go_on(db, &id)?;
            identities::accept_unverified(db, &id)
        })
    }

    /// Whether a removal is pending, as far as this client knows.
    pub(crate) fn is_held_up(&self, id: &GroupId) -> Result<bool, Error> {
        let mls_group = self.mls(id)?;
        Ok(!proposals::removals(&self.db, &mls_group)?.is_empty())
    }
}
