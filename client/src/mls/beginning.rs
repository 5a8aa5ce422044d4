//! What the epoch that begins a segment gives its members.

use crypto::journal::first_head;
use crypto::keys::IdentityLinkWrapperKey;
use crypto::schedule::{JournalKey, RotationSecret, StateKey, exporters};
use openmls::prelude::{MlsGroup, OpenMlsProvider as _, StagedCommit};
use protocol::group::NextSegment;
use protocol::ids::{Day, GroupId, Position, RotationEpoch, Step};
use protocol::join::{RecoveryRow, SealedFormerWrapperKey};

use crate::error::{Error, mls};
use crate::store::provider::Provider;
use crate::store::segments::key;
use crate::store::{Segment, known};

/// What the epoch that begins a segment gives its members. The rotation secret is used up here and
/// kept nowhere: what comes of it goes on.
pub(crate) struct Beginning {
    pub(crate) state_key: StateKey,
    pub(crate) journal_key: JournalKey,
    pub(crate) wrapper_key: IdentityLinkWrapperKey,
}

/// Whether numbers that the service says are such as a journal can come to.
///
/// # Errors
/// [`Error::Protocol`].
pub(crate) fn check_place(rotation: RotationEpoch, at: Position) -> Result<(), Error> {
    known::check_epoch(rotation.0)
        .and_then(|()| known::check_epoch(at.0))
        .map_err(|_| Error::Protocol("a place that no journal comes to"))
}

impl Beginning {
    pub(crate) fn of(export: impl Fn(&str) -> Result<Vec<u8>, Error>) -> Result<Self, Error> {
        let rotation = RotationSecret::new(*key(export(exporters::ROTATION)?)?);
        Ok(Self {
            state_key: rotation.state_key(),
            journal_key: JournalKey::new(*key(export(exporters::JOURNAL_KEY)?)?),
            wrapper_key: IdentityLinkWrapperKey::new(*rotation.wrapper_key().expose()),
        })
    }

    /// Of the epoch that the group is in.
    pub(crate) fn of_group(provider: &Provider<'_>, mls_group: &MlsGroup) -> Result<Self, Error> {
        let crypto = provider.crypto();
        Self::of(|label| mls_group.export_secret(crypto, label, &[], 32).map_err(mls))
    }

    /// Of the epoch that a commit begins.
    pub(crate) fn of_commit(provider: &Provider<'_>, staged: &StagedCommit) -> Result<Self, Error> {
        let crypto = provider.crypto();
        Self::of(|label| staged.export_secret(crypto, label, &[], 32).map_err(mls))
    }

    /// What the service is told of it.
    pub(crate) fn to_wire(
        &self,
        former_wrapper_key: Option<SealedFormerWrapperKey>,
        code_rows: Vec<RecoveryRow>,
    ) -> NextSegment {
        NextSegment {
            state_key: self.state_key.to_wire(),
            journal_key: self.journal_key.to_wire(),
            former_wrapper_key,
            code_rows,
        }
    }

    /// The segment that begins with it, on the day on which the service has accepted that.
    pub(crate) fn into_segment(
        self,
        group: &GroupId,
        rotation: RotationEpoch,
        day: Day,
    ) -> Segment {
        let id = self.state_key.segment(group, rotation);
        Segment {
            id,
            rotation,
            step: Step(0),
            tag_key: self.journal_key.tag_key(),
            tag_day: day,
            day,
            state_key: self.state_key,
            journal_key: self.journal_key,
            wrapper_key: self.wrapper_key,
            next: Position(0),
            chain: Some(first_head(&id)),
            joined: None,
        }
    }
}
