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
    /// Nothing: whoever opens it has the group's state key.
    KeyCheck,
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
                Part::KeyCheck => "key check",
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

/// What tells a state key of the group from any other one, in a hundred bytes.
///
/// # Errors
/// [`DsError::Internal`].
pub fn seal_key_check(group: &GroupId, key: &StateKey) -> Result<Vec<u8>, DsError> {
    let at = place(group, Part::KeyCheck, None);
    Ok(sealing::seal(key.expose(), at.as_place(), &[])?)
}

/// The roster of a group, opened.
pub struct OpenedGroup {
    /// As it is stored: of the other parts none.
    pub stored: StoredGroup,
    /// The roster's plaintext.
    pub roster: Zeroizing<Vec<u8>>,
    /// Which of the keys that were tried has opened it.
    pub by: usize,
}

/// Reads and opens the roster with the first of `keys` that is the group's. Before the key is known to be right
/// only the key check is read, which is as short as no row at all: an unknown group, a deleted one
/// and a wrong key are one answer after the same reads and the same work, whatever the size of the group.
///
/// # Errors
/// [`ProblemType::UnknownGroup`], [`DsError::Storage`].
pub async fn open_group(
    service: &DeliveryService,
    row: Row,
    group: &GroupId,
    keys: &[&StateKey],
) -> Result<OpenedGroup, DsError> {
    let check = service.store.key_check(row).await?;
    // Each of them, so that the time does not tell which was right.
    let opens: Vec<bool> = keys
        .iter()
        .map(|key| is_key(group, key, check.as_deref()))
        .collect();
    let by = opens
        .iter()
        .position(|opens| *opens)
        .ok_or(ProblemType::UnknownGroup)?;
    let key = keys.get(by).ok_or(ProblemType::UnknownGroup)?;
    let stored = service.store.group(row, Parts::ROSTER).await?;
    // Changed or deleted since the check was read: the key may be none any more.
    let stored = stored.ok_or(ProblemType::UnknownGroup)?;
    let roster = open_roster(group, key, Some(&stored))?;
    Ok(OpenedGroup { stored, roster, by })
}

fn is_key(group: &GroupId, key: &StateKey, check: Option<&[u8]>) -> bool {
    let at = place(group, Part::KeyCheck, None);
    match check {
        Some(check) => sealing::open(key.expose(), at.as_place(), check).is_ok(),
        None => {
            sealing::open_absent(key.expose(), at.as_place());
            false
        }
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

/// The opened version with more of its parts, which are read only once a key has opened the roster.
/// `None` if the group has moved on in between.
///
/// # Errors
/// [`DsError::Storage`].
pub async fn with_parts(
    service: &DeliveryService,
    row: Row,
    opened: &StoredGroup,
    parts: Parts,
) -> Result<Option<StoredGroup>, DsError> {
    let stored = service.store.group(row, parts).await?;
    Ok(stored.filter(|stored| stored.version == opened.version))
}
