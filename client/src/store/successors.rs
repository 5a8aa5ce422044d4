//! Groups that others take the place of.

use openmls::prelude::Ciphersuite;
use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::error::{Error, LocalError};
use crate::leaf;
use crate::store::database::{change, first, rows};
use crate::store::groups::{Group, Status, free_name};
use crate::store::known;
use crate::store::profile::Profile;

/// The group that takes the place of one.
pub(crate) struct Successor {
    pub(crate) id: GroupId,
    /// The own leaf in it.
    pub(crate) leaf_key: Vec<u8>,
    pub(crate) pseudonym: Vec<u8>,
    pub(crate) name: String,
    /// The contacts who are to be added.
    pub(crate) members: Vec<String>,
    pub(crate) suite: Ciphersuite,
    pub(crate) stage: u8,
    /// The policy of the group before, encoded.
    pub(crate) policy: Option<Vec<u8>>,
}

impl Successor {
    /// Keeps it, in the caller's transaction.
    pub(crate) fn keep(&self, db: &Connection, old: &GroupId) -> Result<(), Error> {
        let members = serde_json::to_string(&self.members).map_err(|_| LocalError::Damaged)?;
        change(
            db,
            "INSERT OR REPLACE INTO successors
                (group_id, successor, leaf_key, pseudonym, name, members, ciphersuite, stage, policy)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                old.0,
                self.id.0,
                &self.leaf_key,
                &self.pseudonym,
                &self.name,
                members,
                u16::from(self.suite),
                self.stage,
                &self.policy,
            ),
        )
    }
}

pub(crate) fn successor(db: &Connection, old: &GroupId) -> Result<Option<Successor>, Error> {
    let row = first(
        db,
        "SELECT successor, leaf_key, pseudonym, name, members, ciphersuite, stage, policy
         FROM successors WHERE group_id = ?",
        [old.0],
        |row| {
            let successor = Successor {
                id: GroupId(row.get(0)?),
                leaf_key: row.get(1)?,
                pseudonym: row.get(2)?,
                name: row.get(3)?,
                members: Vec::new(),
                suite: leaf::CIPHERSUITE,
                stage: row.get(6)?,
                policy: row.get(7)?,
            };
            Ok((successor, row.get::<_, String>(4)?, row.get::<_, u16>(5)?))
        },
    )?;
    row.map(|(successor, members, suite)| {
        Ok(Successor {
            members: serde_json::from_str(&members).map_err(|_| LocalError::Damaged)?,
            suite: leaf::ciphersuite(suite).ok_or(LocalError::Damaged)?,
            ..successor
        })
    })
    .transpose()
}

/// Groups that others are about to take the place of.
pub(crate) fn all(db: &Connection) -> Result<Vec<GroupId>, Error> {
    rows(db, "SELECT group_id FROM successors", (), |row| {
        Ok(GroupId(row.get(0)?))
    })
}

pub(crate) fn set_stage(db: &Connection, old: &GroupId, stage: u8) -> Result<(), Error> {
    change(
        db,
        "UPDATE successors SET stage = ? WHERE group_id = ?",
        (stage, old.0),
    )
}

/// The group has ended in favour of another one, in the caller's transaction: its name is free for
/// that one. Returns the name that the old one has now.
pub(crate) fn retire(db: &Connection, group: &Group) -> Result<String, Error> {
    Group::set_status(db, &group.id, Status::Closed)?;
    let name = free_name(db, &former_name(&group.display_name()))?;
    change(
        db,
        "UPDATE groups SET name = ? WHERE group_id = ?",
        (&name, group.id.0),
    )?;
    Ok(name)
}

/// Whether a group that somebody brings this client into may have the name of one that is over:
/// whoever was not in that one would else be taken for those who were.
pub(crate) fn passes_to(
    db: &Connection,
    profile: &Profile,
    name: &str,
    by: &[u8],
) -> Result<bool, Error> {
    if by == profile.identity.public() {
        return Ok(true);
    }
    for name in [name, &former_name(name)] {
        let group = match Group::by_name(db, name) {
            Err(Error::Usage(_)) => continue,
            group => group?,
        };
        let known = known::of(db, &group.id)?;
        if !known.is_some_and(|known| known.has_person(by)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a group is called that has left its name to another one.
fn former_name(name: &str) -> String {
    format!("{name} (former)")
}

/// A group of this name that is over leaves it to another one.
pub(crate) fn give_up_name(db: &Connection, name: &str) -> Result<(), Error> {
    match Group::by_name(db, name) {
        Ok(group)
            if matches!(group.status, Status::Removed | Status::Closed)
                || Group::is_leaving(db, &group.id)? =>
        {
            let former = free_name(db, &former_name(name))?;
            change(
                db,
                "UPDATE groups SET name = ? WHERE group_id = ?",
                (former, group.id.0),
            )
        }
        Ok(_) | Err(Error::Usage(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A group was deleted by us, in the caller's transaction: perhaps in favour of another one.
pub(crate) fn ended(db: &Connection, group: &Group) -> Result<(), Error> {
    if successor(db, &group.id)?.is_some() {
        set_stage(db, &group.id, AGREED)?;
        retire(db, group)?;
    }
    Ok(())
}

pub(crate) const AGREED: u8 = 1;

pub(crate) fn forget(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(db, "DELETE FROM successors WHERE group_id = ?", [group.0])
}
