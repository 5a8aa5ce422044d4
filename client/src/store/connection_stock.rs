//! Connection groups that are made ahead.

use crypto::schedule::JoinCodeSecret;
use protocol::ids::GroupId;
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::error::{Error, LocalError};
use crate::store::database::{change, first, key32, value};

/// After so long another one takes the place of a group that was not needed: its code must be good
/// for as long as a request can wait for its answer.
pub(crate) const FRESH_MS: u64 = 60 * protocol::time::DAY_MS;

/// A connection group with nobody else in it, and what lets somebody in.
pub(crate) struct Prepared {
    pub(crate) group: GroupId,
    pub(crate) code: JoinCodeSecret,
}

/// Whether a connection group waits for somebody: in stock, or with an open request. It stays as it
/// was made, and no other device comes into it: whoever is asked must find one user with one
/// client.
pub(crate) fn waits(db: &Connection, id: &GroupId) -> Result<bool, Error> {
    Ok(db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM outgoing_requests WHERE group_id = ?1)
            OR EXISTS (SELECT 1 FROM connection_stock WHERE group_id = ?1)",
        )?
        .query_row([id.0], |row| row.get(0))?)
}

pub(crate) fn stale_ms(now_ms: u64) -> i64 {
    i64::try_from(now_ms.saturating_sub(FRESH_MS)).unwrap_or(0)
}

/// One that is ready, the oldest that is not too old.
pub(crate) fn ready(db: &Connection, now_ms: u64) -> Result<Option<Prepared>, Error> {
    let row = first(
        db,
        "SELECT group_id, code FROM connection_stock JOIN groups USING (group_id)
             WHERE made_ms > ? AND status = 'active' ORDER BY made_ms LIMIT 1",
        [stale_ms(now_ms)],
        |row| {
            let code = Zeroizing::new(row.get::<_, Vec<u8>>(1)?);
            Ok((GroupId(row.get(0)?), code))
        },
    )?;
    row.map(|(group, code)| {
        let code = JoinCodeSecret::new(key32(&code)?);
        Ok(Prepared { group, code })
    })
    .transpose()
}

/// It is used, or given up; in the caller's transaction.
pub(crate) fn used(db: &Connection, id: &GroupId) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM connection_stock WHERE group_id = ?",
        [id.0],
    )
}

/// How many are not too old.
pub(crate) fn fresh(db: &Connection, now_ms: u64) -> Result<u32, Error> {
    Ok(db
        .prepare_cached("SELECT count(*) FROM connection_stock WHERE made_ms > ?")?
        .query_row([stale_ms(now_ms)], |row| row.get(0))?)
}

/// One that is too old.
pub(crate) fn stale(db: &Connection, now_ms: u64) -> Result<Option<[u8; 16]>, Error> {
    value(
        db,
        "SELECT group_id FROM connection_stock WHERE made_ms <= ? LIMIT 1",
        [stale_ms(now_ms)],
    )
}

pub(crate) fn begin(db: &Connection, group: &GroupId, code: &[u8; 32]) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO connection_stock (group_id, code) VALUES (?, ?)",
        (group.0, code),
    )
}

/// One is ready.
pub(crate) fn made(db: &Connection, group: &GroupId, now_ms: u64) -> Result<(), Error> {
    change(
        db,
        "UPDATE connection_stock SET made_ms = ? WHERE group_id = ?",
        (
            i64::try_from(now_ms).map_err(|_| LocalError::Damaged)?,
            group.0,
        ),
    )
}
