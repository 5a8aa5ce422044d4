//! Messages and commits of groups that this client is in, as they are read in the journal.

use mls_rules::{Case, Effect, Refusal};
use openmls::framing::errors::MessageDecryptionError;
use openmls::group::{ProcessMessageError, StageCommitError, ValidationError};
use openmls::prelude::{
    Credential, MlsGroup, ProcessedMessageContent, Proposal, Sender, StagedCommit,
};
use protocol::Wire as _;
use protocol::group::{CommitAad, GroupKind};
use protocol::ids::{Day, RotationEpoch};
use protocol::journal::CommitEvent;
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, PeerError, mls};
use crate::flows::absence;
use crate::flows::devices::exchange;
use crate::flows::said;
use crate::leaf::pseudonym_of;
use crate::mls::beginning::Beginning;
use crate::mls::changes::{self, Beside, Committer};
use crate::mls::commit::{is_pending, merge_own};
use crate::mls::content::Content;
use crate::mls::entry::{Accepted, CommitEntry, Next, parse};
use crate::mls::further::{self, Arrival};
use crate::mls::{contact, policy, proposals};
use crate::outcomes::CommitOutcome;
use crate::store::acts::{self, Act};
use crate::store::heads::{self, Told};
use crate::store::loaded::Loaded;
use crate::store::messages::Author;
use crate::store::outbox;
use crate::store::own_commits::has_made;
use crate::store::provider::Provider;
use crate::store::wrappers::open_former;
use crate::store::{
    Event, Group, Identity, Pending, Profile, Status, connections, events, evidence, heard,
    identities, known, load_mls, pointers, pools, successors,
};

/// Whoever is there commits more often: it renews its leaf.
const MOST_QUIET_DAYS: u32 = 45;

/// Decrypts an application message and keeps its event, in the caller's transaction. An own one is
/// done with.
pub(crate) fn message(
    db: &Connection,
    loaded: &Loaded,
    profile: &Profile,
    group: &Group,
    bytes: &[u8],
    accepted: Accepted,
) -> Result<(), Error> {
    let day = Day::of(accepted.accepted_ms).0;
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    if outbox::is_read(db, group, &digest, accepted.accepted_ms)? {
        return Ok(());
    }
    let provider = Provider::new(db);
    let mut mls_group = loaded.take(db, &group.id)?;
    let processed = mls_group
        .process_message(&provider, parse(bytes)?)
        .map_err(|error| match error {
            ProcessMessageError::ValidationError(ValidationError::UnableToDecrypt(
                MessageDecryptionError::SecretTreeError(_),
            )) => PeerError::MessageKey.into(),
            // The disk's fault and not the sender's: it is read again.
            ProcessMessageError::StorageError(error) => Error::from(error),
            _ => PeerError::Message.into(),
        })?;
    // In the own name, and not one that this client has sent.
    if matches!(
        processed.content(),
        ProcessedMessageContent::OwnPrivateMessage
    ) {
        return Err(PeerError::OtherCopy.into());
    }
    let epoch = processed.epoch().as_u64();
    if !policy::could_send(db, &group.id, &mls_group, epoch, processed.credential())? {
        return Err(PeerError::NotPermitted.into());
    }
    let credential = processed.credential().clone();
    let Sender::Member(leaf) = *processed.sender() else {
        return Err(PeerError::Message.into());
    };
    let ProcessedMessageContent::ApplicationMessage(message) = processed.into_content() else {
        return Err(PeerError::Message.into());
    };
    let (content, seen) = Content::decode(&zeroize::Zeroizing::new(message.into_bytes()))?;
    // What is carried out is said by who is there now: the keys of past epochs are kept, and who
    // was removed since has them too.
    let is_carried_out = match content {
        Content::Connection(_) | Content::Sync(_) | Content::Pointer(_) | Content::Return(_) => {
            true
        }
        Content::Message(_) | Content::Greeting | Content::Unknown => false,
    };
    if is_carried_out && !mls_group.members().any(|it| it.credential == credential) {
        return Err(PeerError::NotPermitted.into());
    }
    loaded.keep(db, &group.id, mls_group)?;
    let identity = identities::of(db, &group.id, &credential)?;
    heard_from(db, group, &credential, identity.as_ref(), day)?;
    let real = identity
        .as_ref()
        .and_then(|identity| identity.real.as_ref());
    if let (Some(seen), Some(_)) = (seen, real) {
        let signer = heads::signer(db)?;
        match heads::hear(db, &seen, &identities::digest(&credential), &signer) {
            Ok(Told::Nothing) => {}
            Ok(Told::Contradiction(split)) => {
                let seen_ms = u64::from(day).saturating_mul(protocol::time::DAY_MS);
                heads::split(db, profile, &split, &seen, seen_ms)?;
            }
            // Its teller's word alone: the message is one all the same.
            Err(Error::Peer(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let own = profile.identity.public();
    let is_own = real.is_some_and(|real| real.signature_public_key.as_slice() == own);
    heard::somebody(db, &group.id, identity.as_ref())?;
    match (group.kind, content) {
        (GroupKind::Group, Content::Message(bytes)) => {
            let real_key = real.map(|real| real.signature_public_key.as_slice().to_vec());
            let sender = said::Sender {
                author: Author {
                    verified: real_key.is_some(),
                    key: real_key.unwrap_or_else(|| identities::digest(&credential)),
                    name: identities::name(db, profile, identity.as_ref())?,
                    own: is_own,
                },
                pseudonym: pseudonym_of(&credential).ok_or(PeerError::Message)?,
            };
            said::receive(db, group, &sender, &bytes, accepted)
        }
        (GroupKind::Connection, Content::Connection(update)) if !is_own => match real {
            Some(real) => pools::receive_update(db, real.signature_public_key.as_slice(), &update),
            None => Err(PeerError::IdentityLink.into()),
        },
        (GroupKind::Connection, Content::Return(id)) if !is_own => match real {
            Some(real) => absence::asked_back(db, real.signature_public_key.as_slice(), &id),
            None => Ok(()),
        },
        (GroupKind::Connection | GroupKind::SingleUser, Content::Pointer(pointer)) => match real {
            Some(real) if is_own || group.kind == GroupKind::Connection => {
                pointers::receive(db, real.signature_public_key.as_slice(), &pointer)
            }
            _ => Ok(()),
        },
        (GroupKind::SingleUser, Content::Sync(frame)) if is_own => {
            exchange::receive(db, profile, leaf, &frame)
        }
        _ => Ok(()),
    }
}

/// Remembers that a member was heard, in the caller's transaction. Who was silent for long was
/// away, perhaps, and what it was told in a connection meanwhile has expired.
fn heard_from(
    db: &Connection,
    group: &Group,
    credential: &Credential,
    identity: Option<&Identity>,
    day: u32,
) -> Result<(), Error> {
    let before = known::heard_day(db, &group.id, credential)?;
    known::heard(db, &group.id, credential, day)?;
    let was_away = before > 0 && day > before.saturating_add(MOST_QUIET_DAYS);
    match identity {
        Some(identity) if was_away && group.kind == GroupKind::Connection => {
            pools::tell_again(db, identity)
        }
        _ => Ok(()),
    }
}

fn fault(refusal: Refusal) -> PeerError {
    match refusal {
        Refusal::Senders => PeerError::ExternalSenders,
        Refusal::Policy => PeerError::Policy,
        Refusal::Rotation => PeerError::RemovalWithoutRotation,
        Refusal::NotAllowed | Refusal::Pending | Refusal::TooMany | Refusal::TooLong => {
            PeerError::NotPermitted
        }
        Refusal::Leaf => PeerError::IdentityLink,
        Refusal::Commit | Refusal::Proposal | Refusal::Ciphersuite | Refusal::GroupId => {
            PeerError::Commit
        }
    }
}

/// Judges a commit by the rules that the service has too.
fn judge(
    db: &Connection,
    group: &Group,
    mls_group: &MlsGroup,
    staged: &StagedCommit,
    sender: &Sender,
    aad: &CommitAad,
    accepted_ms: u64,
) -> Result<Effect, Error> {
    let case = Case {
        group_id: group.id,
        segment: group.segment.id,
        kind: group.kind,
        group: mls_group.public_group(),
        service: &policy::service_senders(db)?,
        leaving: &proposals::removals(db, mls_group)?,
        staged,
        sender,
        aad,
        accepted_ms,
    };
    Ok(case.judge().map_err(fault)?)
}

/// Merges a commit, in the caller's transaction. Says how it goes on, and what became of a commit
/// of our own that was waiting, if there was one.
pub(crate) fn commit(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    entry: &CommitEntry<'_>,
) -> Result<(Next, Option<CommitOutcome>), Error> {
    let provider = Provider::new(db);
    let bytes = entry.event.commit.as_slice();
    if is_pending(db, &group.id, bytes)? {
        let next = merge_own(db, profile, &group.id, entry)?;
        return Ok((next, Some(CommitOutcome::Accepted)));
    }
    let mut mls_group = load_mls(db, &group.id)?;
    let own_key_used = || -> Result<PeerError, Error> {
        Ok(match has_made(db, &group.id, bytes)? {
            true => PeerError::GivenUp,
            false => PeerError::OtherCopy,
        })
    };
    let processed = match mls_group.process_message(&provider, parse(bytes)?) {
        Ok(processed) => processed,
        Err(ProcessMessageError::InvalidCommit(StageCommitError::OwnCommitMismatch)) => {
            return Err(own_key_used()?.into());
        }
        Err(_) => return Err(PeerError::Commit.into()),
    };
    let sender = processed.sender().clone();
    let aad = CommitAad::decode(processed.aad()).map_err(|_| PeerError::Commit)?;
    let staged: StagedCommit = match processed.into_content() {
        ProcessedMessageContent::StagedCommitMessage(staged) => *staged,
        _ => return Err(PeerError::Commit.into()),
    };
    let committer = match sender {
        // Not the one that waits, which would be known.
        Sender::Member(leaf) if leaf == mls_group.own_leaf_index() => {
            return Err(own_key_used()?.into());
        }
        Sender::Member(leaf) => Committer::Member(leaf),
        Sender::NewMemberCommit => Committer::Joiner,
        _ => return Err(PeerError::Commit.into()),
    };
    let effect = judge(
        db,
        group,
        &mls_group,
        &staged,
        &sender,
        &aad,
        entry.accepted_ms,
    )?;
    let day = Day::of(entry.accepted_ms).0;
    if let Committer::Member(leaf) = committer
        && let Some(credential) = mls_group.member(leaf)
    {
        let identity = identities::of(db, &group.id, credential)?;
        heard_from(db, group, credential, identity.as_ref(), day)?;
        known::committed(db, &group.id, credential, day)?;
        heard::somebody(db, &group.id, identity.as_ref())?;
    }
    let removed = staged.self_removed();
    // Who is removed does not get to the keys of the epoch that follows.
    let beginning = match aad.rotates == 1 && !removed {
        true => Some(Beginning::of_commit(&provider, &staged)?),
        false => None,
    };
    let rotation = match &beginning {
        Some(_) => RotationEpoch(mls_group.epoch().as_u64().saturating_add(1)),
        None => group.segment.rotation,
    };
    let wrapper = beginning
        .as_ref()
        .map_or(&group.segment.wrapper_key, |next| &next.wrapper_key);
    if let Some(next) = &beginning
        && let Err(error) = check_former(group, entry.event, &next.wrapper_key)
    {
        // Only newcomers miss it: kept and shown, but one member cannot stop everybody with it.
        let fault = error.of_content()?;
        evidence::keep(db, &group.id, &fault, (None, bytes), entry.accepted_ms)?;
    }
    let beside = Beside {
        aad: &aad,
        effect: &effect,
        link_keys: &entry.event.link_keys,
        wrapper: (rotation, wrapper),
    };
    let joiner = changes::record(db, profile, group, &mls_group, &staged, &beside, committer)?;
    if let (Some((identity, arrival)), Some(leaf)) = (joiner, staged.update_path_leaf_node()) {
        // Other external commits into a connection group are of clients whose users are in it
        // already.
        if group.kind == GroupKind::Connection && arrival == Arrival::Person {
            contact::accept_joiner(db, profile, group, &identity, leaf, &aad)?;
        } else if group.kind == GroupKind::Connection {
            // A device that is new here or has lost its state may not know the token of now.
            pools::tell_again(db, &identity)?;
        } else {
            further::greet(db, group, &mls_group, &identity)?;
        }
    }
    let removed_by = if removed {
        Some(remover(db, profile, group, &mls_group, &staged, committer)?)
    } else {
        None
    };
    let reinitialized = staged
        .queued_proposals()
        .any(|queued| matches!(queued.proposal(), Proposal::ReInit(_)));
    policy::remember_policy(db, &group.id, &mls_group)?;
    let came = staged
        .update_path_leaf_node()
        .map(|leaf| leaf.credential().clone());
    mls_group
        .merge_staged_commit(&provider, staged)
        .map_err(mls)?;
    known::remember(db, &group.id, &mls_group)?;
    // Whoever made it goes by another leaf from here on, perhaps, and is the same for those who are
    // told that nothing came of it.
    if let Some(credential) = came {
        known::heard(db, &group.id, &credential, day)?;
        known::committed(db, &group.id, &credential, day)?;
    }
    let superseded = Pending::read(db, &group.id)?.is_some();
    Pending::delete(db, &group.id)?;
    pointers::drop_unread(db, &group.id)?;
    let superseded = superseded.then_some(CommitOutcome::Superseded);
    if removed {
        Group::set_status(db, &group.id, Status::Removed)?;
        match (group.kind, removed_by) {
            (GroupKind::Connection, Some(Remover::Other)) => {
                connections::ended(db, &group.id, &profile.identity.public())?;
            }
            (GroupKind::SingleUser, Some(Remover::OwnDevice)) => {
                events::store(db, &Event::DeviceUnlinked)?;
            }
            _ => {}
        }
        return Ok((Next::Out, superseded));
    }
    if reinitialized {
        let name = successors::retire(db, group)?;
        let by = match committer {
            Committer::Member(leaf) => match mls_group.member(leaf) {
                Some(credential) => identities::name_of(db, profile, &group.id, credential)?,
                None => String::new(),
            },
            Committer::Own | Committer::Joiner => String::new(),
        };
        events::store(db, &Event::ReInitialized { group: name, by })?;
        return Ok((Next::Out, superseded));
    }
    let next = match beginning {
        Some(beginning) => {
            acts::plan(db, Act::OwnRow, &group.id.0)?;
            Next::Segment(beginning.into_segment(&group.id, rotation, entry.day))
        }
        None => Next::Step,
    };
    Ok((next, superseded))
}

/// The former wrapper key must be under the new one: all members check it, so that who joins later
/// finds the way back.
fn check_former(
    group: &Group,
    event: &CommitEvent,
    next: &crypto::keys::IdentityLinkWrapperKey,
) -> Result<(), Error> {
    let former = event
        .former_wrapper_key
        .as_ref()
        .filter(|former| former.of == group.segment.rotation)
        .ok_or(PeerError::Wrapper)?;
    if open_former(&group.id, former, next)? == group.segment.wrapper_key {
        Ok(())
    } else {
        Err(PeerError::Wrapper.into())
    }
}

/// Who has removed this client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remover {
    /// Another device of this user.
    OwnDevice,
    /// Another user, by their own wish.
    Other,
    /// Somebody else has proposed it: the service.
    Proposal,
}

fn remover(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    mls_group: &MlsGroup,
    staged: &StagedCommit,
    committer: Committer,
) -> Result<Remover, Error> {
    let Committer::Member(leaf) = committer else {
        return Ok(Remover::Proposal);
    };
    let own = mls_group.own_leaf_index();
    let by_value = staged.queued_proposals().any(|queued| {
        policy::leaving(queued) == Some(own) && *queued.sender() == Sender::Member(leaf)
    });
    if !by_value {
        return Ok(Remover::Proposal);
    }
    let identity = match mls_group.member(leaf) {
        Some(credential) => identities::of(db, &group.id, credential)?,
        None => None,
    };
    let is_own = identity
        .and_then(|identity| identity.real)
        .is_some_and(|real| real.signature_public_key.as_slice() == profile.identity.public());
    Ok(if is_own {
        Remover::OwnDevice
    } else {
        Remover::Other
    })
}
