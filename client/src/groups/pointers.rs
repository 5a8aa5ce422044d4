//! Pointers: where the clients of somebody who was added find their Welcomes. They go in a journal
//! that both share: the connection, or the group of one's own devices. Getting one early, twice or
//! too late is harmless.

use crypto::schedule::WelcomeKey;
use openmls::prelude::{Credential, KeyPackage};
use protocol::Wire as _;
use protocol::ids::{ChainHead, Epoch, GroupId, Position, RotationEpoch, SegmentId};
use protocol::journal::Place;
use protocol::time::day_of;
use protocol::welcome::{DevicePointer, WelcomePointer};
use rusqlite::{Connection, OptionalExtension as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::connections::withdraw::group_with;
use crate::engine::Engine;
use crate::error::{Error, LocalError, PeerError};
use crate::groups::content::Content;
use crate::groups::known;
use crate::schedule::{self, Act};

/// A join record is kept for so long at most: what points to it need not be kept longer.
const KEPT_DAYS: u32 = 98;
/// An invitation that could not be followed is forgotten after so long.
const INVITATION_MS: u64 = KEPT_DAYS as u64 * protocol::time::DAY_MS;

/// Until the adding commit is read.
const UNREAD: u8 = 0;
const DUE: u8 = 1;
const SENT: u8 = 2;

/// Keeps where the Welcomes of a commit are, with the commit itself, in the caller's transaction:
/// whose they are is known when it is merged.
pub(crate) fn prepare(
    db: &Connection,
    id: &GroupId,
    epoch: u64,
    added: &[KeyPackage],
    devices: Vec<DevicePointer>,
    now_ms: u64,
) -> Result<(), Error> {
    drop_unread(db, id)?;
    let expires = day_of(now_ms).saturating_add(KEPT_DAYS);
    for (package, device) in added.iter().zip(devices) {
        let credential: &Credential = package.leaf_node().credential();
        let pointer = WelcomePointer {
            group_id: *id,
            epoch: Epoch(epoch),
            segment: SegmentId([0; 32]),
            place: Place {
                rotation_epoch: RotationEpoch(0),
                position: Position(0),
            },
            chain: ChainHead([0; 32]),
            devices: vec![device],
        };
        db.execute(
            "INSERT INTO pointers (group_id, epoch, credential, pointer, state, expires_day)
             VALUES (?, ?, ?, ?, ?, ?)",
            (
                id.0,
                i64::try_from(epoch).map_err(|_| LocalError::Damaged)?,
                crate::groups::known::digest(credential),
                &*Zeroizing::new(pointer.encode()),
                UNREAD,
                expires,
            ),
        )?;
    }
    Ok(())
}

/// The adding commit was given up.
pub(crate) fn drop_unread(db: &Connection, id: &GroupId) -> Result<(), Error> {
    db.execute(
        "DELETE FROM pointers WHERE group_id = ? AND state = ?",
        (id.0, UNREAD),
    )?;
    Ok(())
}

fn rows(
    db: &Connection,
    id: &GroupId,
    state: u8,
) -> Result<Vec<(i64, Vec<u8>, WelcomePointer)>, Error> {
    let mut statement = db.prepare(
        "SELECT rowid, credential, pointer FROM pointers WHERE group_id = ? AND state = ?",
    )?;
    let rows = statement.query_map((id.0, state), |row| {
        Ok((
            row.get(0)?,
            row.get(1)?,
            Zeroizing::new(row.get::<_, Vec<u8>>(2)?),
        ))
    })?;
    rows.map(|row| {
        let (row, credential, pointer) = row?;
        let pointer = WelcomePointer::decode(&pointer).map_err(|_| LocalError::Damaged)?;
        Ok((row, credential, pointer))
    })
    .collect()
}

/// The adding commit was read, in the caller's transaction: joiners are told where it stands.
pub(crate) fn complete(
    db: &Connection,
    id: &GroupId,
    (segment, place, chain): (SegmentId, Place, Option<ChainHead>),
) -> Result<(), Error> {
    let waiting = rows(db, id, UNREAD)?;
    for (row, _, mut pointer) in waiting {
        pointer.segment = segment;
        pointer.place = place;
        pointer.chain = chain.unwrap_or(ChainHead([0; 32]));
        db.execute(
            "UPDATE pointers SET pointer = ?, state = ? WHERE rowid = ?",
            (&*Zeroizing::new(pointer.encode()), DUE, row),
        )?;
        schedule::plan(db, Act::Pointer, &id.0)?;
    }
    Ok(())
}

/// So many invitations of one sender wait: what it sends beyond that is passed over.
const MOST_WAITING: u32 = 64;
/// So often the service is asked for what an invitation needs whenever there is occasion; then ever
/// more seldom.
pub(crate) const TRIES: u32 = 16;
/// As [`TRIES`], where what came does not fit: only from a liar comes something else the next time.
pub(crate) const MISFITS: u32 = 6;
/// What the service does not have after so long it never has.
const UNKNOWN_MS: u64 = 7 * protocol::time::DAY_MS;

/// Keeps a pointer that came, in the caller's transaction: one for each device, of which one may be
/// this one.
pub(crate) fn receive(
    db: &Connection,
    sender: &[u8],
    pointer: &WelcomePointer,
) -> Result<(), Error> {
    let waiting: u32 = db.query_row(
        "SELECT count(*) FROM invitations WHERE sender = ?",
        [sender],
        |row| row.get(0),
    )?;
    if waiting >= MOST_WAITING {
        return Err(PeerError::Unusable.into());
    }
    known::check_epoch(pointer.epoch.0)?;
    let epoch = i64::try_from(pointer.epoch.0).map_err(|_| LocalError::Damaged)?;
    db.execute(
        "INSERT OR IGNORE INTO invitations (group_id, epoch, pointer, received_ms, sender)
         VALUES (?, ?, ?, 0, ?)",
        (
            pointer.group_id.0,
            epoch,
            &*Zeroizing::new(pointer.encode()),
            sender,
        ),
    )?;
    Ok(())
}

/// An invitation that is not followed yet.
pub(crate) struct Invited {
    pub(crate) row: i64,
    pub(crate) pointer: WelcomePointer,
}

impl Invited {
    /// For evidence. Several may point to one Welcome: what one of them says wrongly is not laid to
    /// the others.
    pub(crate) fn name(&self) -> Vec<u8> {
        let pointer = Zeroizing::new(self.pointer.encode());
        [
            &self.pointer.group_id.0[..],
            &self.pointer.epoch.0.to_be_bytes(),
            &Sha256::digest(&*pointer),
        ]
        .concat()
    }

    /// Where a device's Welcome is.
    pub(crate) fn key_of(device: &DevicePointer) -> WelcomeKey {
        WelcomeKey::from(&device.key)
    }
}

/// All that wait and whose time has come.
pub(crate) fn invited(db: &Connection, now_ms: u64) -> Result<Vec<Invited>, Error> {
    let number = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    db.execute(
        "UPDATE invitations SET received_ms = ? WHERE received_ms = 0",
        [number(now_ms)],
    )?;
    db.execute(
        "DELETE FROM invitations WHERE received_ms < ?",
        [number(now_ms.saturating_sub(INVITATION_MS))],
    )?;
    let mut statement =
        db.prepare("SELECT id, pointer FROM invitations WHERE again_ms <= ? ORDER BY id")?;
    let rows = statement.query_map([number(now_ms)], |row| {
        Ok((row.get(0)?, Zeroizing::new(row.get::<_, Vec<u8>>(1)?)))
    })?;
    rows.map(|row| {
        let (row, pointer) = row?;
        let pointer = WelcomePointer::decode(&pointer).map_err(|_| LocalError::Damaged)?;
        Ok(Invited { row, pointer })
    })
    .collect()
}

/// The service has refused what an invitation needs: perhaps it has it later. It is asked `most`
/// times whenever there is occasion.
pub(crate) fn put_off(
    db: &Connection,
    row: i64,
    (is_unknown, most): (bool, u32),
    now_ms: u64,
) -> Result<(), Error> {
    let number = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    db.execute(
        "DELETE FROM invitations WHERE id = ? AND ? AND received_ms < ?",
        (row, is_unknown, number(now_ms.saturating_sub(UNKNOWN_MS))),
    )?;
    let tries: u32 = db
        .query_row(
            "UPDATE invitations SET tries = tries + 1 WHERE id = ? RETURNING tries",
            [row],
            |row| row.get(0),
        )
        .optional()?
        .unwrap_or(0);
    let minutes = match tries.checked_sub(most) {
        None => return Ok(()),
        Some(more) => 1_u64 << more.min(10),
    };
    db.execute(
        "UPDATE invitations SET again_ms = ? WHERE id = ?",
        (
            number(now_ms.saturating_add(minutes.saturating_mul(60_000))),
            row,
        ),
    )?;
    Ok(())
}

/// An invitation that was followed, or never will be.
pub(crate) fn done(db: &Connection, row: i64) -> Result<(), Error> {
    db.execute("DELETE FROM invitations WHERE id = ?", [row])?;
    Ok(())
}

impl Engine {
    /// Tells those who were added to a group where their Welcomes are.
    pub(crate) async fn tell_pointers(&mut self, id: &GroupId) -> Result<(), Error> {
        let today = self.today();
        self.db
            .execute("DELETE FROM pointers WHERE expires_day < ?", [today])?;
        for (row, credential, pointer) in rows(&self.db, id, DUE)? {
            let key: Option<Vec<u8>> = self
                .db
                .query_row(
                    "SELECT signature_key FROM identities WHERE group_id = ? AND credential = ?",
                    (id.0, credential),
                    |row| row.get(0),
                )
                .optional()?
                .flatten();
            let Some(key) = key else { continue };
            let shared = if key == self.profile.identity.public() {
                self.devices_group()?.map(|group| group.id)
            } else {
                group_with(&self.db, &key)?
            };
            // Without a journal that both share there is nothing to be done.
            if let Some(shared) = shared {
                self.send_content(&shared, &Content::Pointer(pointer))
                    .await?;
            }
            self.db
                .execute("UPDATE pointers SET state = ? WHERE rowid = ?", (SENT, row))?;
        }
        Ok(())
    }
}

/// A client of a contact is new or has lost its state: the contact is told again where it is
/// invited to, while the invitations are good; in the caller's transaction.
pub(crate) fn tell_again(db: &Connection, signature_key: &[u8]) -> Result<(), Error> {
    let mut statement = db.prepare(
        "SELECT pointers.rowid, pointers.group_id FROM pointers JOIN identities
            ON identities.group_id = pointers.group_id AND identities.credential = pointers.credential
         WHERE signature_key = ? AND state = ?",
    )?;
    let sent = statement
        .query_map((signature_key, SENT), |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 16]>(1)?))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    for (row, group) in sent {
        db.execute("UPDATE pointers SET state = ? WHERE rowid = ?", (DUE, row))?;
        schedule::plan(db, Act::Pointer, &group)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pointer(epoch: u64) -> WelcomePointer {
        WelcomePointer {
            group_id: GroupId([7; 16]),
            epoch: Epoch(epoch),
            segment: SegmentId([1; 32]),
            place: Place {
                rotation_epoch: RotationEpoch(0),
                position: Position(0),
            },
            chain: ChainHead([0; 32]),
            devices: Vec::new(),
        }
    }

    #[test]
    fn no_sender_has_more_invitations_wait_than_its_own_and_none_of_an_epoch_that_cannot_be() {
        let db = crate::database::in_memory().unwrap();
        for epoch in 0..u64::from(MOST_WAITING) {
            receive(&db, b"mallory", &pointer(epoch)).unwrap();
        }
        let more = receive(&db, b"mallory", &pointer(1_000));
        assert!(matches!(more, Err(Error::Peer(PeerError::Unusable))));
        receive(&db, b"alice", &pointer(2_000)).unwrap();
        let never = receive(&db, b"alice", &pointer(u64::MAX));
        assert!(matches!(never, Err(Error::Peer(PeerError::Epoch))));
    }

    #[test]
    fn a_record_that_does_not_fit_is_asked_for_a_few_times_at_once_and_then_put_off() {
        const NOW_MS: u64 = 1_000_000_000;
        for (most, asked_at_once) in [(MISFITS, 6), (TRIES, 16)] {
            let db = crate::database::in_memory().unwrap();
            receive(&db, b"mallory", &pointer(1)).unwrap();
            let mut asked = 0;
            for _ in 0..40 {
                for waiting in invited(&db, NOW_MS).unwrap() {
                    asked += 1;
                    put_off(&db, waiting.row, (false, most), NOW_MS).unwrap();
                }
            }
            assert_eq!(asked, asked_at_once);
            // A minute later it is asked for again.
            assert_eq!(invited(&db, NOW_MS + 60_000).unwrap().len(), 1);
        }
    }

    #[test]
    fn what_the_service_does_not_have_is_asked_for_ever_more_seldom_and_forgotten() {
        const HOUR_MS: u64 = 3_600_000;
        let db = crate::database::in_memory().unwrap();
        receive(&db, b"mallory", &pointer(1)).unwrap();
        let mut asked = 0;
        for minute in 0..14 * 24 * 60 {
            let now_ms = 50 * HOUR_MS + minute * 60_000;
            for waiting in invited(&db, now_ms).unwrap() {
                asked += 1;
                put_off(&db, waiting.row, (true, TRIES), now_ms).unwrap();
            }
        }
        assert!((5..40).contains(&asked), "{asked}");
        let left: u32 = db
            .query_row("SELECT count(*) FROM invitations", (), |row| row.get(0))
            .unwrap();
        assert_eq!(left, 0);
    }
}
