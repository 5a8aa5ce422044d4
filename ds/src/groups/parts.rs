//! The sealed parts of a group: where each belongs, and how one is opened.

use crypto::keys::StateKey;
use crypto::rows::Row;
use crypto::sealing::{self, Place};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use zeroize::Zeroizing;

use crate::error::DsError;
use crate::service_state::DeliveryService;
use crate::store::{Parts, StoredGroup, Version};

/// A part of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What messages need.
    Roster,
    /// openmls' public group.
    Tree,
    /// Pending proposals.
    Proposals,
}

/// Where a part is sealed: its group and the version that it was written for, so that no earlier state of one
/// part can be put beside a later one of another.
pub struct PartPlace {
    row: Vec<u8>,
    part: Part,
}

impl PartPlace {
    /// For sealing and opening.
    #[must_use]
    pub fn as_place(&self) -> Place<'_> {
        Place {
            table: "groups",
            row: &self.row,
            part: match self.part {
                Part::Roster => "roster",
                Part::Tree => "tree",
                Part::Proposals => "proposals",
            },
        }
    }
}

/// The place of a part. Release 0.1 sealed without a version.
#[must_use]
pub fn place(group: &GroupId, part: Part, version: Option<&Version>) -> PartPlace {
    let version: &[u8] = version.map_or(&[], |version| version);
    PartPlace {
        row: [&group.0, version].concat(),
        part,
    }
}

/// Opens the roster. Unknown group, deleted group and wrong key are one answer after the same work.
///
/// # Errors
/// [`ProblemType::UnknownGroup`].
pub fn open_roster(
    group: &GroupId,
    key: &StateKey,
    stored: Option<&StoredGroup>,
) -> Result<Zeroizing<Vec<u8>>, DsError> {
    let of_release_0_1 = place(group, Part::Roster, None);
    match stored {
        Some(stored) => {
            let now = place(group, Part::Roster, Some(&stored.version));
            sealing::open(key.expose(), now.as_place(), &stored.roster)
                .or_else(|_| sealing::open(key.expose(), of_release_0_1.as_place(), &stored.roster))
        }
        None => {
            let now = place(group, Part::Roster, Some(&[0; 16]));
            sealing::open_absent(key.expose(), now.as_place());
            sealing::open_absent(key.expose(), of_release_0_1.as_place());
            return Err(ProblemType::UnknownGroup.into());
        }
    }
    .map_err(|_| ProblemType::UnknownGroup.into())
}

/// The opened version with more of its parts, which are read only once a key has opened the roster: an
/// unknown group and a wrong key cost the same reads, whatever the size of the group. `None` if the group
/// has moved on in between.
///
/// # Errors
/// [`DsError::Storage`].
pub async fn with_parts(
    service: &DeliveryService,
    row: Row,
    opened: Option<&StoredGroup>,
    parts: Parts,
) -> Result<Option<StoredGroup>, DsError> {
    let opened = opened.ok_or(ProblemType::UnknownGroup)?;
    let stored = service.store.group(row, parts).await?;
    Ok(stored.filter(|stored| stored.version == opened.version))
}
