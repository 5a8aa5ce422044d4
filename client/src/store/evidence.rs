//! A group that this client follows no further: why it stopped, and the evidence, which is kept for
//! good.

use protocol::group::GroupKind;
use protocol::ids::GroupId;
use protocol::time::DAY_MS;
use rusqlite::Connection;
use serde::Serialize;

use crate::error::{Error, LocalError, PeerError, UsageError};
use crate::ids::GroupRef;
use crate::outcomes::StopReason;
use crate::store::database::{change, rows, value};
use crate::store::events::{self, Event};
use crate::store::groups::{Group, Status};
use crate::store::profile::Profile;
use crate::store::{contacts, known};

/// Something that a group's members could not carry out, or an answer that could not be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The epoch that this client was in.
    pub epoch: u64,
    /// The entry that brought it (segment and position), in hex; empty for an answer.
    pub entry: String,
    /// What is wrong with it.
    pub why: String,
    /// SHA-256 of it, in hex: two members can compare what each was shown.
    pub digest: String,
    /// When it came, milliseconds since 1970.
    pub seen_ms: u64,
}

/// Keeps evidence, in the caller's transaction.
pub(crate) fn keep(
    db: &Connection,
    id: &GroupId,
    fault: &PeerError,
    (entry, content): (Option<&[u8]>, &[u8]),
    now_ms: u64,
) -> Result<(), Error> {
    let epoch = known::highest_epoch(db, id)?.unwrap_or(0);
    let number = |n: u64| i64::try_from(n).map_err(|_| LocalError::Damaged);
    // Once: whoever shows the same again and again must not fill the disk with it.
    db.prepare_cached(
        "INSERT INTO evidence (group_id, epoch, entry, why, content, seen_ms)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE NOT EXISTS (
            SELECT 1 FROM evidence WHERE group_id = ?1 AND why = ?4 AND content = ?5)",
    )?
    .execute((
        id.0,
        number(epoch)?,
        entry,
        fault.to_string(),
        content,
        number(now_ms)?,
    ))?;
    Ok(())
}

/// Whether such a fault was kept of a group within a day.
pub(crate) fn is_known_today(
    db: &Connection,
    id: &GroupId,
    fault: &PeerError,
    now_ms: u64,
) -> Result<bool, Error> {
    let last: u64 = db
        .prepare_cached(
            "SELECT coalesce(max(seen_ms), 0) FROM evidence WHERE group_id = ? AND why = ?",
        )?
        .query_row((id.0, fault.to_string()), |row| row.get(0))?;
    Ok(now_ms.abs_diff(last) < DAY_MS)
}

/// So often an answer that may be put right is asked for whenever there is occasion; then once a
/// day.
const TRIES: u32 = 16;

/// How often something was kept because of an entry, and when last.
pub(crate) fn tries(db: &Connection, entry: &[u8]) -> Result<(u32, u64), Error> {
    let (tries, last): (u32, i64) = db
        .prepare_cached("SELECT count(*), coalesce(max(seen_ms), 0) FROM evidence WHERE entry = ?")?
        .query_row([entry], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((tries, u64::try_from(last).unwrap_or(0)))
}

/// Whether it is time to ask again for what an entry needs: nobody has this client ask without end.
pub(crate) fn may_try_again(db: &Connection, entry: &[u8], now_ms: u64) -> Result<bool, Error> {
    let (tries, last_ms) = tries(db, entry)?;
    Ok(tries < TRIES || now_ms.abs_diff(last_ms) >= DAY_MS)
}

fn of(db: &Connection, id: &GroupId) -> Result<Vec<Evidence>, Error> {
    use sha2::Digest as _;
    rows(
        db,
        "SELECT epoch, entry, why, content, seen_ms FROM evidence WHERE group_id = ? ORDER BY id",
        [id.0],
        |row| {
            let entry: Option<Vec<u8>> = row.get(1)?;
            let content: Vec<u8> = row.get(3)?;
            Ok(Evidence {
                epoch: u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0),
                entry: basis::hex::encode(&entry.unwrap_or_default()),
                why: row.get(2)?,
                digest: basis::hex::encode(&sha2::Sha256::digest(&content)),
                seen_ms: u64::try_from(row.get::<_, i64>(4)?).unwrap_or(0),
            })
        },
    )
}

/// Why a group has stopped, if it has.
pub(crate) fn stopped(db: &Connection, id: &GroupId) -> Result<Option<StopReason>, Error> {
    let reason: Option<String> =
        value(db, "SELECT stopped FROM groups WHERE group_id = ?", [id.0])?.flatten();
    reason
        .map(|text| {
            StopReason::ALL
                .into_iter()
                .find(|reason| reason.as_str() == text)
                .ok_or_else(|| LocalError::Damaged.into())
        })
        .transpose()
}

pub(crate) fn set_stopped(
    db: &Connection,
    id: &GroupId,
    reason: Option<StopReason>,
) -> Result<(), Error> {
    change(
        db,
        "UPDATE groups SET stopped = ? WHERE group_id = ?",
        (reason.map(StopReason::as_str), id.0),
    )
}

/// Stops following a group, in the caller's transaction, and tells the user.
pub(crate) fn stop(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    reason: StopReason,
) -> Result<(), Error> {
    // What is said of a group that is gone stops nothing.
    let Some(group) = Group::find(db, id)?.filter(|it| it.status == Status::Active) else {
        return Ok(());
    };
    let status = match reason {
        StopReason::Forbidden => Status::Refused,
        _ => Status::Lost,
    };
    Group::set_status(db, id, status)?;
    set_stopped(db, id, Some(reason))?;
    change(
        db,
        "DELETE FROM pending_requests WHERE group_id = ?",
        [id.0],
    )?;
    tell(db, profile, &group, reason)
}

/// Tells the user that a group has stopped.
pub(crate) fn tell(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    reason: StopReason,
) -> Result<(), Error> {
    let event = match (group.kind, &group.name) {
        (GroupKind::Group, Some(name)) if reason == StopReason::Forbidden => Event::CommitRefused {
            group: name.clone(),
        },
        (GroupKind::Group, Some(name)) => Event::GroupLost {
            group: name.clone(),
            why: reason,
        },
        (GroupKind::SingleUser, _) => Event::DevicesLost { why: reason },
        _ => match peer(db, profile, &group.id)? {
            Some(name) => Event::ConnectionLost { name, why: reason },
            None => return Ok(()),
        },
    };
    events::store(db, &event)
}

/// As [`shown_name`], in a sentence.
pub(crate) fn described(
    db: &Connection,
    profile: &Profile,
    group: &Group,
) -> Result<String, Error> {
    let name = shown_name(db, profile, group)?;
    Ok(match group.kind {
        GroupKind::Group => name,
        GroupKind::SingleUser => "your devices".to_owned(),
        GroupKind::Connection => format!("the connection with {name}"),
    })
}

/// What the user calls a group or connection.
pub(crate) fn shown_name(
    db: &Connection,
    profile: &Profile,
    group: &Group,
) -> Result<String, Error> {
    Ok(match (&group.name, group.kind) {
        (Some(name), _) => name.clone(),
        (None, GroupKind::Connection) => peer(db, profile, &group.id)?.unwrap_or_default(),
        (None, _) => String::new(),
    })
}

/// The contact on the other side of a connection group.
fn peer(db: &Connection, profile: &Profile, id: &GroupId) -> Result<Option<String>, Error> {
    let Some(known) = known::of(db, id)? else {
        return Ok(None);
    };
    let own = profile.identity.public();
    for member in known.members {
        if let Some(real) = member.identity.real
            && real.signature_public_key.as_slice() != own
            && let Some(name) = contacts::name_of_key(db, real.signature_public_key.as_slice())?
        {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The group that is meant, or the connection with the contact of this name.
pub(crate) fn group_or_connection(
    db: &Connection,
    profile: &Profile,
    group: &GroupRef,
) -> Result<Group, Error> {
    let unknown = match Group::meant(db, group) {
        Err(Error::Usage(unknown @ UsageError::UnknownGroup(_))) => unknown,
        other => return other,
    };
    // A handle may be written like an id of a group.
    let name = match group {
        GroupRef::Name(name) => name.clone(),
        GroupRef::Id(id) => id.to_string(),
    };
    let mut former = None;
    for group in Group::all(db)? {
        if group.kind == GroupKind::Connection
            && peer(db, profile, &group.id)?.as_deref() == Some(name.as_str())
        {
            // Who has disconnected and connected again has had two.
            match group.status {
                Status::Active => return Ok(group),
                _ => former = Some(group),
            }
        }
    }
    former.ok_or_else(|| unknown.into())
}

/// What came in a group, or in the connection with a contact, that could not be carried out. It
/// is kept for good.
///
/// # Errors
/// [`UsageError::UnknownGroup`].
pub(crate) fn evidence(
    db: &Connection,
    profile: &Profile,
    group: &GroupRef,
) -> Result<Vec<Evidence>, Error> {
    let group = group_or_connection(db, profile, group)?;
    of(db, &group.id)
}

/// Why this client has stopped following a group or connection; `None` if it has not.
///
/// # Errors
/// [`UsageError::UnknownGroup`].
pub(crate) fn stop_reason(
    db: &Connection,
    profile: &Profile,
    group: &GroupRef,
) -> Result<Option<StopReason>, Error> {
    let group = group_or_connection(db, profile, group)?;
    stopped(db, &group.id)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_same_evidence_is_kept_once() {
        let db = crate::store::database::in_memory().unwrap();
        let id = GroupId([7; 16]);
        for (fault, content) in [
            (PeerError::Commit, &b"one"[..]),
            (PeerError::Commit, b"one"),
            (PeerError::Commit, b"two"),
            (PeerError::NotPermitted, b"one"),
        ] {
            keep(&db, &id, &fault, (None, content), 1).unwrap();
        }
        assert_eq!(of(&db, &id).unwrap().len(), 3);
    }

    #[test]
    fn only_what_this_machine_has_lost_brings_a_client_back_by_itself() {
        let own: Vec<StopReason> = StopReason::ALL
            .into_iter()
            .filter(|reason| reason.is_own_loss())
            .collect();
        assert_eq!(own, [StopReason::State, StopReason::Restored]);
    }
}
