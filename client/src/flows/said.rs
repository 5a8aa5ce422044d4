//! What was said in a group: taken in as it is read, and kept as it is queued.

use content::{Disposition, MimiContent};
use protocol::ids::GroupId;
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::error::{Error, LocalError, PeerError, UsageError};
use crate::ids::{MessageId, UserId};
use crate::leaf::own_pseudonym;
use crate::message::{Draft, Expiry, Said, id_of, is_reaction, reactions, read, said, unknown};
use crate::mls::entry::Accepted;
use crate::store::erasing;
use crate::store::events::{self, Event};
use crate::store::groups;
use crate::store::messages::{
    self, Author, Entry, Gone, Kind, MessageState, NotChanged, read_details,
};
use crate::store::outbox::{self, QueuedMessage};
use crate::store::receipts::{self, DELIVERED, READ};
use crate::store::uploads;
use crate::store::{Group, Profile, known, load_mls};

/// Who has sent a message, and under which pseudonym.
pub(crate) struct Sender {
    pub(crate) author: Author,
    pub(crate) pseudonym: Vec<u8>,
}

/// Takes in a message of another client, in the caller's transaction.
pub(crate) fn receive(
    db: &Connection,
    group: &Group,
    sender: &Sender,
    bytes: &[u8],
    accepted: Accepted,
) -> Result<(), Error> {
    let author = &sender.author;
    let accepted_ms = accepted.accepted_ms;
    erasing::forget(db, accepted_ms)?;
    let (id, message) = read(bytes, &sender.pseudonym, &group.id, accepted_ms)?;
    let keep = |kind, about| {
        let expires = message.expires.map(Expiry::from);
        let entry = Entry {
            id,
            author,
            kind,
            about,
            content: (kind != Kind::Change).then_some((bytes, expires)),
            state: MessageState::Sent,
            at_ms: accepted_ms,
        };
        messages::insert(db, &group.id, &entry)
    };
    match said(&message) {
        Said::Nothing => Ok(()),
        Said::Report(statuses) => report(db, group, author, statuses),
        Said::Message => {
            if !keep(Kind::Message, None)? {
                return Ok(());
            }
            // From another device of this user: its time begins as it does there.
            if author.own {
                messages::begin_own(db, &id, accepted_ms)?;
            }
            receipts::due(db, &group.id, &id, DELIVERED)?;
            let (text, details) = read_details(db, &group.id, &message)?;
            let event = Event::Message {
                group: group.display_name(),
                group_id: group.id.into(),
                message: id,
                sender: author.name.clone(),
                sender_id: author.user(),
                text,
                details,
                accepted_ms,
                position: accepted.at.0,
            };
            events::store(db, &event)
        }
        // Of what is gone nobody reads what others think of it.
        Said::Reaction(to) if erasing::is_gone(db, &group.id, &to)? => {
            keep(Kind::Change, None)?;
            Ok(())
        }
        Said::Reaction(to) => {
            if !keep(Kind::Reaction, Some(to))? {
                return Ok(());
            }
            let event = reaction(group, author, (id, to), reactions(&message));
            events::store(db, &event)
        }
        Said::Edit(of) => {
            if !keep(Kind::Change, None)? {
                return Ok(());
            }
            let kept = match messages::find_own(db, &group.id, &of, author)? {
                Ok(kept) => kept,
                Err(why) => return not_changed(db, group, author, of, &why),
            };
            let (kind, about) = (kept.kind, kept.about);
            // No more than what could have been said as one at first.
            if kind == Kind::Reaction && !is_reaction(&message) {
                return Ok(());
            }
            let message = messages::edit(db, &group.id, &of, kept, message)?;
            let event = match (kind, about) {
                (Kind::Reaction, Some(to)) => {
                    reaction(group, author, (of, to), reactions(&message))
                }
                _ => {
                    let (text, details) = read_details(db, &group.id, &message)?;
                    Event::MessageEdited {
                        group: group.display_name(),
                        group_id: group.id.into(),
                        message: of,
                        sender: author.name.clone(),
                        sender_id: author.user(),
                        text,
                        details,
                        accepted_ms,
                    }
                }
            };
            events::store(db, &event)
        }
        Said::Deletion(of) => {
            if !keep(Kind::Change, None)? {
                return Ok(());
            }
            let kept = match messages::find_own(db, &group.id, &of, author)? {
                Ok(kept) => kept,
                Err(why) => return not_changed(db, group, author, of, &why),
            };
            erasing::erase(db, &group.id, &of, Gone::Deleted)?;
            let (sender, sender_id) = (author.name.clone(), author.user());
            let (group, group_id) = (group.display_name(), group.id.into());
            let event = match kept.about {
                Some(to) => Event::ReactionTakenBack {
                    group,
                    group_id,
                    message: of,
                    to,
                    sender,
                    sender_id,
                },
                None => Event::MessageDeleted {
                    group,
                    group_id,
                    message: of,
                    sender,
                    sender_id,
                },
            };
            events::store(db, &event)
        }
    }
}

fn reaction(
    group: &Group,
    author: &Author,
    (message, to): (MessageId, MessageId),
    reactions: Vec<String>,
) -> Event {
    Event::Reaction {
        group: group.display_name(),
        group_id: group.id.into(),
        message,
        to,
        sender: author.name.clone(),
        sender_id: author.user(),
        reactions,
    }
}

/// Who changes what is gone may not have heard of that: nobody is told.
fn not_changed(
    db: &Connection,
    group: &Group,
    author: &Author,
    message: MessageId,
    why: &NotChanged,
) -> Result<(), Error> {
    if matches!(why, NotChanged::UnknownMessage) {
        return Ok(());
    }
    let event = Event::ChangeRefused {
        group: group.display_name(),
        group_id: group.id.into(),
        message,
        sender: author.name.clone(),
        sender_id: author.user(),
    };
    events::store(db, &event)
}

/// Somebody tells what became of messages there: it counts for messages of this user's.
fn report(
    db: &Connection,
    group: &Group,
    author: &Author,
    statuses: Vec<(MessageId, content::Status)>,
) -> Result<(), Error> {
    let Some(reader_id) = author.user().filter(|_| !author.own) else {
        return Ok(());
    };
    for read in [false, true] {
        let status = if read { READ } else { DELIVERED };
        let mut told = Vec::new();
        for (id, said) in &statuses {
            let reader = (&reader_id, author.name.as_str());
            if said.number() == status
                && messages::is_own(db, &group.id, id)?
                && receipts::receive(db, &group.id, id, reader, status)?
            {
                told.push(*id);
            }
        }
        if !told.is_empty() {
            let event = Event::Receipt {
                group: group.display_name(),
                group_id: group.id.into(),
                messages: told,
                reader: author.name.clone(),
                reader_id,
                read,
            };
            events::store(db, &event)?;
        }
    }
    Ok(())
}

/// Puts what is to be said at the end of the queue, in the caller's transaction.
pub(crate) fn queue(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    draft: &Draft,
    now_ms: u64,
) -> Result<MessageId, Error> {
    draft.check(now_ms)?;
    let author = own_author(profile);
    for about in draft.about() {
        messages::find(db, id, about)?.ok_or_else(|| unknown(about))?;
    }
    let changed = draft.changes().map(|of| changed(db, id, of, &author));
    let changed = changed.transpose()?;
    let before = changed.as_ref().map(|(of, content)| (*of, content));
    let mentioned = |user| pseudonym_of(db, id, user);
    let message = draft.content(mentioned, before)?;
    let bytes = message.encode().map_err(|_| UsageError::TextTooLong)?;
    let message_id = id_of(&pseudonym(db, profile, id)?, id, &bytes, &message.salt)?;
    let said = said(&message);
    let changes_reaction =
        matches!(&said, Said::Edit(_)) && message.body.disposition == Disposition::Reaction;
    if changes_reaction && !is_reaction(&message) {
        return Err(UsageError::TextTooLong.into());
    }
    let (kind, target) = match &said {
        Said::Message => (Kind::Message, None),
        Said::Reaction(to) => (Kind::Reaction, Some(*to)),
        Said::Edit(of) => (Kind::Change, Some(*of)),
        Said::Deletion(_) | Said::Report(_) | Said::Nothing => (Kind::Change, None),
    };
    // Nobody else has it: it goes here, and nothing is sent.
    let untold = match &said {
        Said::Deletion(of) if messages::is_untold(db, of)? => Some(of),
        _ => None,
    };
    let entry = Entry {
        id: message_id,
        author: &author,
        kind,
        about: target.filter(|_| kind == Kind::Reaction),
        content: (kind != Kind::Change).then_some((&bytes, message.expires.map(Expiry::from))),
        state: match untold {
            Some(_) => MessageState::Sent,
            None => MessageState::Waiting,
        },
        at_ms: now_ms,
    };
    messages::insert(db, id, &entry)?;
    if let Some(of) = untold {
        erasing::erase(db, id, of, Gone::Deleted)?;
        return Ok(message_id);
    }
    let queued = QueuedMessage {
        message: message_id,
        group_id: (*id).into(),
        text: String::new(),
        made_ms: now_ms,
        content: Zeroizing::new(bytes),
        target,
        quiet: matches!(said, Said::Report(_)),
    };
    outbox::queue(db, &queued)?;
    if let Some(attachment) = draft.attached() {
        uploads::told(db, attachment)?;
    }
    Ok(message_id)
}

fn own_author(profile: &Profile) -> Author {
    Author {
        key: profile.identity.public().to_vec(),
        verified: true,
        name: profile.handle.clone().unwrap_or_default(),
        own: true,
    }
}

/// An own message that is to be changed.
fn changed(
    db: &Connection,
    group: &GroupId,
    of: MessageId,
    author: &Author,
) -> Result<(MessageId, MimiContent), Error> {
    match messages::find_own(db, group, &of, author)? {
        Ok(kept) => Ok((of, kept.content.ok_or(LocalError::Damaged)?)),
        Err(NotChanged::UnknownMessage) => Err(unknown(&of)),
        Err(NotChanged::NotTheSender) => Err(UsageError::NotOwnMessage(of.to_string()).into()),
    }
}

/// The pseudonym that this user goes by in a group.
pub(crate) fn pseudonym(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
) -> Result<Vec<u8>, Error> {
    match known::pseudonym(db, id, &profile.identity.public())? {
        Some(pseudonym) => Ok(pseudonym),
        None => own_pseudonym(&load_mls(db, id)?),
    }
}

/// The pseudonym of a member who is there.
fn pseudonym_of(db: &Connection, id: &GroupId, user: UserId) -> Result<String, Error> {
    let pseudonym = known::pseudonym(db, id, &user.0)?;
    let pseudonym = pseudonym.and_then(|it| String::from_utf8(it).ok());
    pseudonym.ok_or_else(|| UsageError::NotInGroup(user.to_string()).into())
}

/// Queues what is to be told of messages that have come or were read, in the caller's transaction.
pub(crate) fn queue_receipts(db: &Connection, profile: &Profile, now_ms: u64) -> Result<(), Error> {
    for (group, statuses) in receipts::take(db)? {
        if Group::read(db, &group)?.check_usable().is_ok() {
            queue(db, profile, &group, &Draft::report(statuses), now_ms)?;
        }
    }
    Ok(())
}

/// Leaves nothing of messages that have expired, in the caller's transaction.
pub(crate) fn expire(db: &Connection, now_ms: u64) -> Result<(), Error> {
    for (group_id, message) in erasing::due(db, now_ms)? {
        erasing::erase(db, &group_id, &message, Gone::Expired)?;
        let event = Event::MessageExpired {
            group: groups::name_of(db, &group_id)?,
            group_id: group_id.into(),
            message,
        };
        events::store(db, &event)?;
    }
    Ok(())
}

/// Whether this is still the id of what was queued: who comes into a group anew goes by another
/// pseudonym, and others would know the message under another id.
pub(crate) fn check_id(
    pseudonym: &[u8],
    group: &Group,
    queued: &MessageId,
    bytes: &[u8],
) -> Result<(), Error> {
    let message = MimiContent::decode(bytes).map_err(|_| PeerError::Message)?;
    match id_of(pseudonym, &group.id, bytes, &message.salt)? == *queued {
        true => Ok(()),
        false => Err(UsageError::NotAMember(group.display_name()).into()),
    }
}
