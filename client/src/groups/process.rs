//! Messages and commits of groups that this client is in.

use crypto::keys::StateKey;
use openmls::framing::errors::MessageDecryptionError;
use openmls::group::{ProcessMessageError, StageCommitError, ValidationError};
use openmls::prelude::{
    MlsGroup, MlsMessageIn, OpenMlsProvider as _, ProcessedMessageContent, Proposal,
    ProtocolMessage, Sender, StagedCommit,
};
use protocol::Wire as _;
use protocol::groups::{CommitAad, GroupKind};
use rusqlite::Connection;
use tls_codec::DeserializeBytes as _;

use crate::connections::{self, tokens, withdraw};
use crate::devices;
use crate::error::{Error, LocalError, PeerError, mls};
use crate::events::{self, Event};
use crate::groups::changes::{self, Committer};
use crate::groups::commit::{CommitOutcome, has_made, merge_own};
use crate::groups::content::Content;
use crate::groups::further::Arrival;
use crate::groups::{
    Group, STATE_KEY_LABEL, Status, enforce, identities, known, load_mls, upgrade,
};
use crate::profile::Profile;
use crate::provider::Provider;
use crate::request::Pending;

pub(crate) fn parse(bytes: &[u8]) -> Result<ProtocolMessage, Error> {
    MlsMessageIn::tls_deserialize_exact_bytes(bytes)
        .ok()
        .and_then(|message| message.try_into_protocol_message().ok())
        .ok_or_else(|| PeerError::Message.into())
}

/// Decrypts an application message, which the service accepted on this day, and keeps its event, in the
/// caller's transaction.
pub(crate) fn message(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    (bytes, day): (&[u8], u32),
) -> Result<(), Error> {
    let provider = Provider::new(db);
    let mut mls_group = load_mls(db, &group.id)?;
    let processed = mls_group
        .process_message(&provider, parse(bytes)?)
        .map_err(|error| match error {
            ProcessMessageError::ValidationError(ValidationError::UnableToDecrypt(
                MessageDecryptionError::SecretTreeError(_),
            )) => PeerError::MessageKey,
            _ => PeerError::Message,
        })?;
    let epoch = processed.epoch().as_u64();
    if !enforce::could_send(db, &group.id, &mls_group, epoch, processed.credential())? {
        return Err(PeerError::NotPermitted.into());
    }
    let credential = processed.credential().clone();
    let Sender::Member(leaf) = *processed.sender() else {
        return Err(PeerError::Message.into());
    };
    let ProcessedMessageContent::ApplicationMessage(message) = processed.into_content() else {
        return Err(PeerError::Message.into());
    };
    known::heard(db, &group.id, &credential, day)?;
    let content = Content::decode(&zeroize::Zeroizing::new(message.into_bytes()))?;
    let identity = identities::of(db, &group.id, &credential)?;
    let real = identity
        .as_ref()
        .and_then(|identity| identity.real.as_ref());
    let own = profile.identity.public();
    let is_own = real.is_some_and(|real| real.signature_public_key.as_slice() == own);
    match (group.kind, content) {
        (GroupKind::Group, Content::Text(text)) => events::store(
            db,
            &Event::Message {
                group: group.display_name(),
                sender: identities::name(db, profile, identity.as_ref())?,
                text,
            },
        ),
        (GroupKind::Connection, Content::Connection(update)) if !is_own => match real {
            Some(real) => tokens::receive_update(db, real.signature_public_key.as_slice(), &update),
            None => Err(PeerError::IdentityLink.into()),
        },
        (GroupKind::SingleUser, Content::Sync(frame)) if is_own => {
            devices::receive(db, profile, leaf, &frame)
        }
        _ => Ok(()),
    }
}

/// Merges a commit, which the service accepted on this day, in the caller's transaction. Says what became of a commit of our own that was
/// waiting, if there was one.
pub(crate) fn commit(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    (bytes, day): (&[u8], u32),
) -> Result<Option<CommitOutcome>, Error> {
    let provider = Provider::new(db);
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
        ProcessedMessageContent::OwnPendingCommit => {
            merge_own(db, profile, &group.id)?;
            return Ok(Some(CommitOutcome::Accepted));
        }
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
    if let Committer::Member(leaf) = committer
        && let Some(credential) = mls_group.member(leaf)
    {
        known::heard(db, &group.id, credential, day)?;
    }
    let joiner = changes::record(db, profile, group, &mls_group, &staged, &aad, committer)?;
    if let (Some((identity, arrival)), Some(leaf)) = (joiner, staged.update_path_leaf_node()) {
        // Other external commits into a connection group are of clients whose users are in it already.
        if group.kind == GroupKind::Connection && arrival == Arrival::Person {
            connections::accept_joiner(db, profile, group, &identity, leaf, &aad)?;
        } else if group.kind == GroupKind::Connection {
            // A device that is new here or has lost its state may not know the token of now.
            tokens::tell_again(db, &identity)?;
        }
    }
    let removed = staged.self_removed();
    let removed_by = if removed {
        Some(remover(db, profile, group, &mls_group, &staged, committer)?)
    } else {
        None
    };
    let reinitialized = staged
        .queued_proposals()
        .any(|queued| matches!(queued.proposal(), Proposal::ReInit(_)));
    enforce::remember_policy(db, &group.id, &mls_group)?;
    mls_group
        .merge_staged_commit(&provider, staged)
        .map_err(mls)?;
    known::remember(db, &group.id, &mls_group)?;
    if removed {
        Group::set_status(db, &group.id, Status::Removed)?;
        match (group.kind, removed_by) {
            (GroupKind::Connection, Some(Remover::Other)) => {
                withdraw::ended(db, &group.id, &profile.identity.public())?;
            }
            (GroupKind::SingleUser, Some(Remover::OwnDevice)) => {
                events::store(db, &Event::DeviceUnlinked)?;
            }
            _ => {}
        }
    } else if reinitialized {
        let name = upgrade::retire(db, group)?;
        let by = match committer {
            Committer::Member(leaf) => match mls_group.member(leaf) {
                Some(credential) => identities::name_of(db, profile, &group.id, credential)?,
                None => String::new(),
            },
            Committer::Own | Committer::Joiner => String::new(),
        };
        events::store(db, &Event::ReInitialized { group: name, by })?;
    } else if aad.rotates_state_key == 1 {
        let key = mls_group
            .export_secret(provider.crypto(), STATE_KEY_LABEL, &[], 32)
            .map_err(mls)
            .and_then(|key| {
                StateKey::try_from(key.as_slice()).map_err(|_| LocalError::Damaged.into())
            })?;
        Group::set_state_key(db, &group.id, &key)?;
    }
    let superseded = Pending::read(db, &group.id)?.is_some();
    Pending::delete(db, &group.id)?;
    Ok(superseded.then_some(CommitOutcome::Superseded))
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
        enforce::leaving(queued) == Some(own) && *queued.sender() == Sender::Member(leaf)
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
