//! Application messages: the hot path. Opens the short part and one page of the roster, verifies
//! one signature, appends one entry, whatever the number of members.

use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{ContentType, MlsMessageIn, ProtocolMessage};
use protocol::codec::opaque;
use protocol::group::{EntryAccepted, SendMessageRequest};
use protocol::ids::Epoch;
use protocol::journal::{Class, Event};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::checks::within;
use super::member::Member;
use super::open::{OpenedGroup, names_group};
use crate::env::Env;
use crate::journal::Journal;
use crate::journal::head::StoredHead;
use crate::journal::load::{Addition, Bound, Room, UserTag};
use crate::operation::{Change, Cost, Operation};
use crate::refusal::Stop;
use crate::request::{Authenticated, Unauthenticated};
use crate::store::{Append, Transition};
use crate::view::View;

names_group! { SendMessageRequest }

/// [`Number::SendMessage`].
#[derive(Debug)]
pub struct SendMessage;

impl Operation for SendMessage {
    type Request = SendMessageRequest;
    type Response = EntryAccepted;
    type Who = Member;
    const OPERATION: Number = Number::SendMessage;

    fn authenticate<'r>(
        request: &'r Unauthenticated<SendMessageRequest>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, SendMessageRequest, Member>, Stop> {
        let rows = env.rows();
        Member::authenticate(request, view, env, |group| {
            vec![rows.segment(&group.short.segment).key()]
        })
    }

    fn cost(request: &Authenticated<'_, SendMessageRequest, Member>, env: &Env<'_>) -> Cost {
        let bytes = request.body().message.as_slice().len();
        request.who().cost(bytes, env)
    }

    fn decide(
        request: &Authenticated<'_, SendMessageRequest, Member>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<EntryAccepted>, Stop> {
        let message = request.body().message.as_slice();
        let member = request.who();
        let group = &member.group;
        within(message.len(), env.settings.limits.message_bytes)?;
        check_message(message, member)?;
        let mut head = head_of(group, view, env)?;
        let day = head.head.day_of_next(env.today());
        let added = Addition {
            class: Class::Message,
            user: UserTag::of(&group.short.data_key, &member.leaf.user_pseudonym),
            bytes: message.len(),
            room: Room::Bounded,
        };
        let bound = Bound::of_messages(&env.settings.limits);
        head.head.load.admit(day, &added, &bound, env.now_ms)?;
        let mut journal = Journal::of(head);
        let event = Event::Message(opaque(message));
        let place = journal.append(&group.short.journal_key, event, env)?;
        let appended = journal.appended(env);
        let (head, entries) = journal.into_next(env)?;
        let entry = entries
            .into_iter()
            .next()
            .ok_or(Stop::Internal("an append without an entry"))?;
        let append = Append {
            group: group.row,
            expected: group.version,
            head,
            entry,
        };
        let accepted = EntryAccepted {
            place,
            accepted_ms: env.now_ms,
        };
        Ok(Change {
            wake: vec![appended],
            ..Change::of(Transition::Append(Box::new(append)), accepted)
        })
    }
}

/// The head of a group's segment, of the same moment as its short part.
///
/// # Errors
/// [`Stop::Need`]; [`Stop::Moved`].
pub(super) fn head_of(group: &OpenedGroup, view: &View, env: &Env<'_>) -> Result<StoredHead, Stop> {
    let short = &group.short;
    StoredHead::read(view, &short.segment, env)?
        .filter(|stored| {
            let head = &stored.head;
            !head.closed && head.step == short.step() && head.rotation_epoch == short.rotation_epoch
        })
        .ok_or(Stop::Moved)
}

/// The endpoint takes a PrivateMessage of content type application, of the current epoch or an
/// allowed earlier one, from who could send in that epoch, and nothing else (RFC 9420 §6.3). The
/// state key that came is that of the epoch that the message names.
fn check_message(message: &[u8], member: &Member) -> Result<(), Stop> {
    let group = &member.group;
    let (message, rest) =
        MlsMessageIn::tls_deserialize_bytes(message).map_err(|_| ProblemType::InvalidMessage)?;
    if !rest.is_empty() {
        return Err(ProblemType::InvalidMessage.into());
    }
    let Ok(ProtocolMessage::PrivateMessage(message)) = message.try_into_protocol_message() else {
        return Err(ProblemType::InvalidMessage.into());
    };
    let message = ProtocolMessage::PrivateMessage(message);
    if message.content_type() != ContentType::Application
        || message.group_id().as_slice() != group.id.0
    {
        return Err(ProblemType::InvalidMessage.into());
    }
    if group.short.reinitialized {
        return Err(ProblemType::GroupReinitialized.into());
    }
    let epoch = Epoch(message.epoch().as_u64());
    if group.asked != Some(epoch) {
        return Err(group.other_epoch(epoch).into());
    }
    if !member.leaf.could_send(epoch) {
        return Err(ProblemType::NotAllowed.into());
    }
    if group.short.removal_pending {
        return Err(ProblemType::PendingProposals.into());
    }
    Ok(())
}
