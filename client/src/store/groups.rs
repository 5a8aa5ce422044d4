//! The table of groups: what is kept of each beside the MLS library's state.

use crypto::secret::Secret;
use protocol::group::{GroupKey, GroupKind};
use protocol::ids::GroupId;
use rusqlite::{Connection, Row};

use crate::error::{Error, LocalError, UsageError};
use crate::group_profile::MAX_NAME;
use crate::ids::{self, GroupRef};
use crate::store::database::{change, first, is_there, key32, rows, value};
use crate::store::mls::discard_mls;
use crate::store::segments::{self, Segment};
use crate::store::{receipts, refused_returns};
use crate::text;

/// How far this client is in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// The service has not accepted the creation or the join yet.
    Joining,
    Active,
    /// Removed by a member.
    Removed,
    /// Cannot follow any more.
    Lost,
    /// Does not follow any more: the service took a commit that the group's policy forbids.
    Refused,
    /// Deleted, or re-initialised as another group.
    Closed,
}

impl Status {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Removed => "removed",
            Self::Lost => "lost",
            Self::Refused => "refused",
            Self::Closed => "closed",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        [
            Self::Joining,
            Self::Active,
            Self::Removed,
            Self::Lost,
            Self::Refused,
            Self::Closed,
        ]
        .into_iter()
        .find(|status| status.as_str() == text)
        .ok_or_else(|| LocalError::Damaged.into())
    }
}

/// A row of `groups`.
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) kind: GroupKind,
    pub(crate) name: Option<String>,
    /// Where it is in the group's journal, with the keys that this gives.
    pub(crate) segment: Segment,
    /// Of the key pair that others seal the way back to.
    pub(crate) recovery: Secret<32>,
    pub(crate) recovery_set: bool,
    pub(crate) update_due: bool,
    pub(crate) status: Status,
}

pub(crate) const COLUMNS: &str =
    "groups.group_id, kind, name, recovery_seed, recovery_set, update_due, status";

fn select(rest: &str) -> String {
    let of_segment = segments::COLUMNS;
    format!("SELECT {COLUMNS}, {of_segment} FROM groups JOIN segments USING (group_id) {rest}")
}

impl Group {
    pub(crate) fn from_row(row: &Row<'_>) -> Result<Self, Error> {
        let key =
            |column: usize| -> Result<[u8; 32], Error> { key32(&row.get::<_, Vec<u8>>(column)?) };
        Ok(Self {
            id: GroupId(row.get(0)?),
            kind: match row.get::<_, u8>(1)? {
                1 => GroupKind::Group,
                2 => GroupKind::Connection,
                3 => GroupKind::SingleUser,
                _ => return Err(LocalError::Damaged.into()),
            },
            name: row.get(2)?,
            recovery: Secret::new(key(3)?),
            recovery_set: row.get(4)?,
            update_due: row.get(5)?,
            status: Status::parse(&row.get::<_, String>(6)?)?,
            segment: Segment::from_row(row, 7)?,
        })
    }

    fn select(
        db: &Connection,
        condition: &str,
        value: impl rusqlite::ToSql,
    ) -> Result<Option<Self>, Error> {
        first(db, &select(&format!("WHERE {condition}")), [value], |row| {
            Ok(Self::from_row(row))
        })?
        .transpose()
    }

    pub(crate) fn find(db: &Connection, id: &GroupId) -> Result<Option<Self>, Error> {
        Self::select(db, "groups.group_id = ?", id.0)
    }

    pub(crate) fn read(db: &Connection, id: &GroupId) -> Result<Self, Error> {
        Self::find(db, id)?.ok_or_else(|| LocalError::Damaged.into())
    }

    pub(crate) fn by_name(db: &Connection, name: &str) -> Result<Self, Error> {
        let canonical = text::canonical(name);
        Self::select(db, "name = ? AND status != 'joining'", canonical)?
            .ok_or_else(|| UsageError::UnknownGroup(name.to_owned()).into())
    }

    /// The group that is meant.
    pub(crate) fn meant(db: &Connection, group: &GroupRef) -> Result<Self, Error> {
        match group {
            GroupRef::Name(name) => Self::by_name(db, name),
            GroupRef::Id(id) => Self::find(db, &(*id).into())?
                .filter(|it| it.kind == GroupKind::Group && it.status != Status::Joining)
                .ok_or_else(|| UsageError::UnknownGroup(id.to_string()).into()),
        }
    }

    /// The group if this client can act in it.
    pub(crate) fn usable(db: &Connection, group: &GroupRef) -> Result<Self, Error> {
        let group = Self::meant(db, group)?;
        group.check_usable()?;
        Ok(group)
    }

    pub(crate) fn check_usable(&self) -> Result<(), Error> {
        let name = self.display_name();
        match self.status {
            Status::Active => Ok(()),
            Status::Lost => Err(UsageError::GroupLost(name).into()),
            Status::Refused => Err(UsageError::GroupRefused(name).into()),
            Status::Removed | Status::Joining | Status::Closed => {
                Err(UsageError::NotAMember(name).into())
            }
        }
    }

    /// The own leaf's public key, which is enough to come back with.
    pub(crate) fn leaf_key(db: &Connection, id: &GroupId) -> Result<Option<Vec<u8>>, Error> {
        Ok(value(db, "SELECT leaf_key FROM groups WHERE group_id = ?", [id.0])?.flatten())
    }

    pub(crate) fn set_leaf_key(db: &Connection, id: &GroupId, key: &[u8]) -> Result<(), Error> {
        change(
            db,
            "UPDATE groups SET leaf_key = ? WHERE group_id = ?",
            (key, id.0),
        )
    }

    /// The epoch before which no join code is good that was made, as far as this client knows.
    pub(crate) fn codes_since(db: &Connection, id: &GroupId) -> Result<u64, Error> {
        let since: i64 = db
            .prepare_cached("SELECT codes_since FROM groups WHERE group_id = ?")?
            .query_row([id.0], |row| row.get(0))?;
        Ok(u64::try_from(since).unwrap_or(u64::MAX))
    }

    pub(crate) fn set_codes_since(db: &Connection, id: &GroupId, epoch: u64) -> Result<(), Error> {
        change(
            db,
            "UPDATE groups SET codes_since = ? WHERE group_id = ?",
            (i64::try_from(epoch).unwrap_or(i64::MAX), id.0),
        )?;
        Ok(())
    }

    /// How often this client has tried by itself to come back.
    pub(crate) fn rejoin_attempts(db: &Connection, id: &GroupId) -> Result<u32, Error> {
        Ok(value(
            db,
            "SELECT rejoin_attempts FROM groups WHERE group_id = ?",
            [id.0],
        )?
        .unwrap_or(0))
    }

    pub(crate) fn set_rejoin_attempts(
        db: &Connection,
        id: &GroupId,
        attempts: u32,
    ) -> Result<(), Error> {
        change(
            db,
            "UPDATE groups SET rejoin_attempts = ? WHERE group_id = ?",
            (attempts, id.0),
        )
    }

    /// Whether this client wants to leave.
    pub(crate) fn is_leaving(db: &Connection, id: &GroupId) -> Result<bool, Error> {
        Ok(value(db, "SELECT leaving FROM groups WHERE group_id = ?", [id.0])?.unwrap_or(false))
    }

    pub(crate) fn all(db: &Connection) -> Result<Vec<Self>, Error> {
        let mut statement = db.prepare_cached(&select("ORDER BY name"))?;
        let rows = statement.query_map((), |row| Ok(Self::from_row(row)))?;
        rows.map(|row| row?).collect()
    }

    pub(crate) fn insert(&self, db: &Connection) -> Result<(), Error> {
        change(db, "INSERT INTO groups (group_id, kind, name, recovery_seed, recovery_set, update_due, status)
             VALUES (?, ?, ?, ?, ?, ?, ?)", (
                self.id.0,
                self.kind as u8,
                &self.name,
                self.recovery.expose(),
                self.recovery_set,
                self.update_due,
                self.status.as_str(),
            ),)?;
        self.segment.write(db, &self.id)
    }

    /// The group, and the key that opens its state, for a request.
    pub(crate) fn key(&self) -> GroupKey {
        GroupKey {
            group_id: self.id,
            state_key: self.segment.state_key.to_wire(),
        }
    }

    pub(crate) fn set_status(db: &Connection, id: &GroupId, status: Status) -> Result<(), Error> {
        change(
            db,
            "UPDATE groups SET status = ? WHERE group_id = ?",
            (status.as_str(), id.0),
        )
    }

    /// The name for events; connection groups have none and make none.
    pub(crate) fn display_name(&self) -> String {
        self.name.clone().unwrap_or_default()
    }

    /// Forgets the group and the MLS library's state of it.
    pub(crate) fn delete(db: &Connection, id: &GroupId) -> Result<(), Error> {
        discard_mls(db, id)?;
        change(db, "DELETE FROM groups WHERE group_id = ?", [id.0])?;
        change(db, "DELETE FROM acts WHERE about = ?", [id.0])?;
        refused_returns::forget(db, id)
    }
}

/// The name of a group for events; empty if it is not known any more.
pub(crate) fn name_of(db: &Connection, id: &GroupId) -> Result<String, Error> {
    Ok(Group::find(db, id)?.map_or_else(String::new, |group| group.display_name()))
}

/// A name with a number behind it. The name is cut and not the number, else it would be the name
/// without one.
pub(crate) fn numbered(wanted: &str, number: u32) -> String {
    let number = format!(" ({number})");
    let wanted = text::received(wanted, MAX_NAME.saturating_sub(number.len()));
    wanted + &number
}

/// Whether this is no name for another group: one has it, or it is written like an id. Whoever says
/// an id means that group, and none that others have named so.
pub(crate) fn is_taken(db: &Connection, name: &str) -> Result<bool, Error> {
    let is_id = name.parse::<ids::GroupId>().is_ok();
    Ok(is_id || is_there(db, "SELECT 1 FROM groups WHERE name = ?", [name])?)
}

/// A name that no group has yet, after one that others may have chosen.
pub(crate) fn free_name(db: &Connection, wanted: &str) -> Result<String, Error> {
    let wanted = match text::received(wanted, MAX_NAME) {
        name if name.is_empty() => "group".to_owned(),
        name => name,
    };
    let mut name = wanted.clone();
    let mut number = 2u32;
    while is_taken(db, &name)? {
        name = numbered(&wanted, number);
        number = number.saturating_add(1);
    }
    Ok(name)
}

/// A group is called as its members agree, in the caller's transaction: with a number behind it if
/// another one has that name here. Returns the name.
pub(crate) fn rename(db: &Connection, group: &Group, agreed: &str) -> Result<String, Error> {
    let now = group.display_name();
    // With the number that it had to have.
    let is_called_so = now == agreed
        || now
            .strip_prefix(agreed)
            .and_then(|rest| rest.strip_prefix(" (")?.strip_suffix(')'))
            .is_some_and(|number| number.bytes().all(|it| it.is_ascii_digit()));
    if agreed.is_empty() || is_called_so {
        return Ok(now);
    }
    let name = free_name(db, agreed)?;
    change(
        db,
        "UPDATE groups SET name = ? WHERE group_id = ?",
        (&name, group.id.0),
    )?;
    Ok(name)
}

/// The last day on which the journal of a group was read to its end; 0 before the first.
pub(crate) fn read_day(db: &Connection, id: &GroupId) -> Result<u32, Error> {
    Ok(value(db, "SELECT read_day FROM groups WHERE group_id = ?", [id.0])?.unwrap_or(0))
}

/// The journal of a group was read to its end, in the caller's transaction.
pub(crate) fn set_read_day(db: &Connection, id: &GroupId, day: u32) -> Result<(), Error> {
    change(
        db,
        "UPDATE groups SET read_day = ?2 WHERE group_id = ?1 AND read_day != ?2",
        (id.0, day),
    )
}

pub(crate) fn set_leaving(db: &Connection, id: &GroupId) -> Result<(), Error> {
    change(
        db,
        "UPDATE groups SET leaving = 1 WHERE group_id = ?",
        [id.0],
    )
}

/// The service has the own recovery key.
pub(crate) fn recovery_is_set(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(
        db,
        "UPDATE groups SET recovery_set = 1 WHERE group_id = ?",
        [group.0],
    )
}

/// Whether others' rows are to be written after a rotation of this client's.
pub(crate) fn rows_are_due(db: &Connection, group: &GroupId) -> Result<bool, Error> {
    Ok(db
        .prepare_cached("SELECT rows_due FROM groups WHERE group_id = ?")?
        .query_row([group.0], |row| row.get(0))?)
}

/// Others' rows are to be written, or are.
pub(crate) fn set_rows_due(db: &Connection, group: &GroupId, due: bool) -> Result<(), Error> {
    change(
        db,
        "UPDATE groups SET rows_due = ? WHERE group_id = ?",
        (due, group.0),
    )
}

/// The own leaf is to be replaced, or is.
pub(crate) fn set_update_due(db: &Connection, group: &GroupId, due: bool) -> Result<(), Error> {
    change(
        db,
        "UPDATE groups SET update_due = ? WHERE group_id = ?",
        (due, group.0),
    )
}

/// The service has the public key of this recovery seed.
pub(crate) fn set_recovery(db: &Connection, group: &GroupId, seed: &[u8; 32]) -> Result<(), Error> {
    change(
        db,
        "UPDATE groups SET recovery_seed = ?, recovery_set = 1 WHERE group_id = ?",
        (seed, group.0),
    )
}

/// Writes a group's row in the place of the former one. What its user has chosen for the group
/// stays; all else begins anew.
pub(crate) fn replace_row(db: &Connection, group: &Group) -> Result<(), Error> {
    let told = receipts::told(db, &group.id)?;
    change(db, "DELETE FROM groups WHERE group_id = ?", [group.id.0])?;
    group.insert(db)?;
    receipts::tell(db, &group.id, told)
}

/// Whether the other devices know of this one's leaf.
pub(crate) fn is_announced(db: &Connection, group: &GroupId) -> Result<bool, Error> {
    Ok(db
        .prepare_cached("SELECT announced FROM groups WHERE group_id = ?")?
        .query_row([group.0], |row| row.get(0))?)
}

pub(crate) fn announced(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(
        db,
        "UPDATE groups SET announced = 1 WHERE group_id = ?",
        [group.0],
    )
}

/// Groups whose journals are read, in an order that is nobody's. Nobody has been told of what is in
/// stock.
pub(crate) fn to_read(db: &Connection) -> Result<Vec<GroupId>, Error> {
    rows(
        db,
        "SELECT group_id FROM groups WHERE status = 'active'
            AND group_id NOT IN (SELECT group_id FROM connection_stock)
         ORDER BY random()",
        (),
        |row| Ok(GroupId(row.get(0)?)),
    )
}

/// This device's leaves are said again to the others, but that in their own group.
pub(crate) fn announce_again(db: &Connection, devices: Option<&GroupId>) -> Result<(), Error> {
    change(
        db,
        "UPDATE groups SET announced = 0 WHERE group_id IS NOT ?",
        [devices.map(|id| id.0)],
    )
}

/// The way back is the one before, until a new one is accepted.
pub(crate) fn keep_recovery(db: &Connection, group: &GroupId, seed: &[u8]) -> Result<(), Error> {
    change(
        db,
        "UPDATE groups SET recovery_seed = ? WHERE group_id = ?",
        (seed, group.0),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::leaf;
    use crate::store::mls::mls_id;
    use crate::store::provider::{LeafSigner, Provider};
    use openmls::prelude::MlsGroup;

    pub(crate) fn group(id: u8, name: &str) -> Group {
        Group {
            id: GroupId([id; 16]),
            kind: GroupKind::Group,
            name: Some(name.to_owned()),
            segment: crate::store::segments::tests::segment(&GroupId([id; 16])),
            recovery: Secret::new([3; 32]),
            recovery_set: false,
            update_due: false,
            status: Status::Active,
        }
    }

    /// What the MLS library keeps of a group of one.
    pub(crate) fn keep_mls_group(db: &Connection, id: &GroupId) {
        let key = crypto::sign::SignatureKeyPair::random().unwrap();
        let signer = LeafSigner(key.into());
        let credential = openmls::prelude::CredentialWithKey {
            credential: openmls::prelude::BasicCredential::new(b"x".to_vec()).into(),
            signature_key: signer.0.public().to_vec().into(),
        };
        MlsGroup::builder()
            .with_group_id(mls_id(id))
            .ciphersuite(leaf::CIPHERSUITE)
            .build(&Provider::new(db), &signer, credential)
            .unwrap();
    }

    #[test]
    fn whoever_says_an_id_means_that_group_and_no_other_whatever_others_call_theirs() {
        let db = crate::store::database::in_memory().unwrap();
        let elsewhere = ids::GroupId([9; 16]);
        let other = group(1, "team");
        other.insert(&db).unwrap();
        let name = rename(&db, &other, &elsewhere.to_string()).unwrap();
        assert_eq!(name, format!("{elsewhere} (2)"));
        // Nobody but this device can have written such a name.
        change(&db, "UPDATE groups SET name = ?", [elsewhere.to_string()]).unwrap();
        let meant = Group::meant(&db, &elsewhere.to_string().as_str().into());
        assert!(matches!(
            meant,
            Err(Error::Usage(UsageError::UnknownGroup(_)))
        ));
        let meant = Group::meant(&db, &ids::GroupId([1; 16]).to_string().as_str().into());
        assert_eq!(meant.unwrap().id, other.id);
    }

    #[test]
    fn a_group_is_read_as_it_was_written_and_names_stay_apart() {
        let db = crate::store::database::in_memory().unwrap();
        group(1, "team").insert(&db).unwrap();
        let read = Group::usable(&db, &"team".into()).unwrap();
        assert_eq!(read.id, GroupId([1; 16]));
        assert_eq!(read.segment.wrapper_key.expose(), &[2; 32]);
        assert_eq!(free_name(&db, "team").unwrap(), "team (2)");
        group(2, "team (2)").insert(&db).unwrap();
        assert_eq!(free_name(&db, "team").unwrap(), "team (3)");
        let longest = "é".repeat(MAX_NAME / 2);
        group(3, &longest).insert(&db).unwrap();
        let next = free_name(&db, &longest).unwrap();
        assert!(next.ends_with("é (2)") && next.len() <= MAX_NAME, "{next}");
        // With its number it is taken as it is.
        assert_eq!(free_name(&db, &next).unwrap(), next);
        group(4, &next).insert(&db).unwrap();
        assert!(free_name(&db, &longest).unwrap().ends_with("é (3)"));
        Group::set_status(&db, &read.id, Status::Lost).unwrap();
        let lost = Group::usable(&db, &"team".into());
        assert!(matches!(lost, Err(Error::Usage(UsageError::GroupLost(_)))));
    }
}
