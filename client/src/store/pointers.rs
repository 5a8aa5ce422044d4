//! Where Welcomes are: what is told to joiners, and what this client was told.

use crypto::schedule::WelcomeKey;
use openmls::prelude::{Credential, KeyPackage};
use protocol::Wire as _;
use protocol::ids::{ChainHead, Epoch, GroupId, Position, RotationEpoch, SegmentId};
use protocol::journal::Place;
use protocol::time::day_of;
use protocol::welcome::{DevicePointer, WelcomePointer};
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::error::{Error, LocalError, PeerError};
use crate::store::acts::{self, Act};
use crate::store::database::{change, value};
use crate::store::key_packages::{self, KEPT_DAYS};
use crate::store::known;
use crate::store::mls::own_key_package;

/// An invitation that could not be followed is forgotten after so long.
pub(crate) const INVITATION_MS: u64 = KEPT_DAYS as u64 * protocol::time::DAY_MS;

/// Until the adding commit is read.
pub(crate) const UNREAD: u8 = 0;

pub(crate) const DUE: u8 = 1;

pub(crate) const SENT: u8 = 2;

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
        change(
            db,
            "INSERT INTO pointers (group_id, epoch, credential, pointer, state, expires_day)
             VALUES (?, ?, ?, ?, ?, ?)",
            (
                id.0,
                i64::try_from(epoch).map_err(|_| LocalError::Damaged)?,
                crate::store::identities::digest(credential),
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
    change(
        db,
        "DELETE FROM pointers WHERE group_id = ? AND state = ?",
        (id.0, UNREAD),
    )
}

pub(crate) fn rows(
    db: &Connection,
    id: &GroupId,
    state: u8,
) -> Result<Vec<(i64, Vec<u8>, WelcomePointer)>, Error> {
    let mut statement = db.prepare_cached(
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
        change(
            db,
            "UPDATE pointers SET pointer = ?, state = ? WHERE rowid = ?",
            (&*Zeroizing::new(pointer.encode()), DUE, row),
        )?;
        acts::plan(db, Act::Pointer, &id.0)?;
    }
    Ok(())
}

/// So many invitations of one sender wait: what it sends beyond that is passed over.
pub(crate) const MOST_WAITING: u32 = 64;

/// So often the service is asked for what an invitation needs whenever there is occasion; then ever
/// more seldom.
pub(crate) const TRIES: u32 = 16;

/// As [`TRIES`], where what came does not fit: only from a liar comes something else the next time.
pub(crate) const MISFITS: u32 = 6;

/// What the service does not have after so long it never has.
pub(crate) const UNKNOWN_MS: u64 = 7 * protocol::time::DAY_MS;

/// Keeps a pointer that came, in the caller's transaction: one for each device, of which one may be
/// this one.
pub(crate) fn receive(
    db: &Connection,
    sender: &[u8],
    pointer: &WelcomePointer,
) -> Result<(), Error> {
    let waiting: u32 = db
        .prepare_cached("SELECT count(*) FROM invitations WHERE sender = ?")?
        .query_row([sender], |row| row.get(0))?;
    if waiting >= MOST_WAITING {
        return Err(PeerError::Unusable.into());
    }
    known::check_epoch(pointer.epoch.0)?;
    for device in &pointer.devices {
        count(db, sender, device.key_package_ref.as_slice())?;
    }
    let epoch = i64::try_from(pointer.epoch.0).map_err(|_| LocalError::Damaged)?;
    change(
        db,
        "INSERT OR IGNORE INTO invitations (group_id, epoch, pointer, received_ms, sender)
         VALUES (?, ?, ?, 0, ?)",
        (
            pointer.group_id.0,
            epoch,
            &*Zeroizing::new(pointer.encode()),
            sender,
        ),
    )
}

/// A KeyPackage that somebody was invited with is used up, whatever comes of the invitation. It
/// counts once, however often it is told.
fn count(db: &Connection, sender: &[u8], reference: &[u8]) -> Result<(), Error> {
    let Some(package) = own_key_package(db, reference)? else {
        return Ok(());
    };
    let is_first = db
        .prepare_cached("UPDATE made_packages SET used = 1 WHERE key_package_ref = ? AND used = 0")?
        .execute([reference])?;
    if is_first > 0 {
        key_packages::used(db, sender, package.key_package().ciphersuite())?;
    }
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
    change(
        db,
        "UPDATE invitations SET received_ms = ? WHERE received_ms = 0",
        [number(now_ms)],
    )?;
    change(
        db,
        "DELETE FROM invitations WHERE received_ms < ?",
        [number(now_ms.saturating_sub(INVITATION_MS))],
    )?;
    key_packages::forget_expired(db, day_of(now_ms))?;
    let mut statement =
        db.prepare_cached("SELECT id, pointer FROM invitations WHERE again_ms <= ? ORDER BY id")?;
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
    change(
        db,
        "DELETE FROM invitations WHERE id = ? AND ? AND received_ms < ?",
        (row, is_unknown, number(now_ms.saturating_sub(UNKNOWN_MS))),
    )?;
    let tries: u32 = value(
        db,
        "UPDATE invitations SET tries = tries + 1 WHERE id = ? RETURNING tries",
        [row],
    )?
    .unwrap_or(0);
    let minutes = match tries.checked_sub(most) {
        None => return Ok(()),
        Some(more) => 1_u64 << more.min(10),
    };
    change(
        db,
        "UPDATE invitations SET again_ms = ? WHERE id = ?",
        (
            number(now_ms.saturating_add(minutes.saturating_mul(60_000))),
            row,
        ),
    )
}

/// An invitation that was followed, or never will be.
pub(crate) fn done(db: &Connection, row: i64) -> Result<(), Error> {
    change(db, "DELETE FROM invitations WHERE id = ?", [row])
}

/// A client of a contact is new or has lost its state: the contact is told again where it is
/// invited to, while the invitations are good; in the caller's transaction.
pub(crate) fn tell_again(db: &Connection, signature_key: &[u8]) -> Result<(), Error> {
    let mut statement = db.prepare_cached(
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
        change(
            db,
            "UPDATE pointers SET state = ? WHERE rowid = ?",
            (DUE, row),
        )?;
        acts::plan(db, Act::Pointer, &group)?;
    }
    Ok(())
}

/// Those that point to what is kept no longer.
pub(crate) fn drop_expired(db: &Connection, today: u32) -> Result<(), Error> {
    change(db, "DELETE FROM pointers WHERE expires_day < ?", [today])
}

/// A pointer was told.
pub(crate) fn sent(db: &Connection, row: i64) -> Result<(), Error> {
    change(
        db,
        "UPDATE pointers SET state = ? WHERE rowid = ?",
        (SENT, row),
    )
}
