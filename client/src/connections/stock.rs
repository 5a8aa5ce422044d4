//! Connection groups are made ahead, each with a code for whoever will be asked into it. A group
//! that is made with the request would tell the service by its time into which group the owner of a
//! handle was asked.

use crypto::schedule::JoinCodeSecret;
use protocol::group::GroupKind;
use protocol::ids::{GroupId, Week};
use rusqlite::{Connection, OptionalExtension as _};
use zeroize::Zeroizing;

use crate::database::key32;
use crate::engine::Engine;
use crate::error::{Error, LocalError};
use crate::groups::commit::Plan;
use crate::groups::invite::MOST_WEEKS;
use crate::groups::{Group, Status};
use crate::leaf::CIPHERSUITE;
use crate::schedule::{self, Act};

/// So many groups are there: whoever asks two people one after the other waits for none.
const STOCK: u32 = 2;
/// After so long another one takes the place of a group that was not needed: its code must be good
/// for as long as a request can wait for its answer.
const FRESH_MS: u64 = 60 * protocol::time::DAY_MS;

/// A connection group with nobody else in it, and what lets somebody in.
pub(crate) struct Prepared {
    pub(crate) group: GroupId,
    pub(crate) code: JoinCodeSecret,
}

/// Whether a connection group waits for somebody: in stock, or with an open request. It stays as it
/// was made, and no other device comes into it: whoever is asked must find one user with one
/// client.
pub(crate) fn waits(db: &Connection, id: &GroupId) -> Result<bool, Error> {
    Ok(db.query_row(
        "SELECT EXISTS (SELECT 1 FROM outgoing_requests WHERE group_id = ?1)
            OR EXISTS (SELECT 1 FROM connection_stock WHERE group_id = ?1)",
        [id.0],
        |row| row.get(0),
    )?)
}

fn stale_ms(now_ms: u64) -> i64 {
    i64::try_from(now_ms.saturating_sub(FRESH_MS)).unwrap_or(0)
}

/// One that is ready, the oldest that is not too old.
fn ready(db: &Connection, now_ms: u64) -> Result<Option<Prepared>, Error> {
    let row = db
        .query_row(
            "SELECT group_id, code FROM connection_stock JOIN groups USING (group_id)
             WHERE made_ms > ? AND status = 'active' ORDER BY made_ms LIMIT 1",
            [stale_ms(now_ms)],
            |row| {
                let code = Zeroizing::new(row.get::<_, Vec<u8>>(1)?);
                Ok((GroupId(row.get(0)?), code))
            },
        )
        .optional()?;
    row.map(|(group, code)| {
        let code = JoinCodeSecret::new(key32(&code)?);
        Ok(Prepared { group, code })
    })
    .transpose()
}

/// It is used, or given up; in the caller's transaction.
pub(crate) fn used(db: &Connection, id: &GroupId) -> Result<(), Error> {
    db.execute("DELETE FROM connection_stock WHERE group_id = ?", [id.0])?;
    Ok(())
}

impl Engine {
    /// Has groups in stock, made at times that have nothing to do with their use.
    pub(crate) fn plan_stock(&mut self) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        if self.profile.handle.is_none() {
            return Ok(());
        }
        self.transact(|db, _| {
            let fresh: u32 = db.query_row(
                "SELECT count(*) FROM connection_stock WHERE made_ms > ?",
                [stale_ms(now_ms)],
                |row| row.get(0),
            )?;
            match fresh < STOCK {
                true => schedule::plan(db, Act::Stock, &[]),
                false => Ok(()),
            }
        })
    }

    /// Makes one group for the stock; before that one goes that is too old, or was not finished.
    pub(crate) async fn fill_stock(&mut self) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let old: Option<[u8; 16]> = self
            .db
            .query_row(
                "SELECT group_id FROM connection_stock WHERE made_ms <= ? LIMIT 1",
                [stale_ms(now_ms)],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(old) = old.map(GroupId) {
            if Group::find(&self.db, &old)?.is_some_and(|group| group.status == Status::Active) {
                self.commit(&old, |_| Ok(Plan::Delete)).await?;
            }
            self.transact(|db, _| {
                used(db, &old)?;
                Group::delete(db, &old)
            })?;
        }
        self.prepare_group().await.map(drop)
    }

    pub(crate) fn has_stock(&self) -> Result<bool, Error> {
        Ok(ready(&self.db, self.transport.time.now_unix_ms())?.is_some())
    }

    /// A group of the stock; if that is empty, one that is made now. It stays in stock until the
    /// caller has used it.
    pub(crate) async fn connection_group(&mut self) -> Result<Prepared, Error> {
        match ready(&self.db, self.transport.time.now_unix_ms())? {
            Some(prepared) => Ok(prepared),
            None => self.prepare_group().await,
        }
    }

    async fn prepare_group(&mut self) -> Result<Prepared, Error> {
        let secret = crypto::random::<32>()?;
        let leaf = self.new_leaf(CIPHERSUITE).await?;
        let id = self.reserve(&leaf).await?;
        // Before the group is: what is broken off is found again.
        self.db.execute(
            "INSERT INTO connection_stock (group_id, code) VALUES (?, ?)",
            (id.0, &secret),
        )?;
        self.create_reserved(id, GroupKind::Connection, None, CIPHERSUITE, leaf)
            .await?;
        let now_ms = self.transport.time.now_unix_ms();
        let expiry = Week(Week::of(now_ms).0.saturating_add(MOST_WEEKS));
        self.make_code(&id, &secret, expiry).await?;
        self.db.execute(
            "UPDATE connection_stock SET made_ms = ? WHERE group_id = ?",
            (
                i64::try_from(now_ms).map_err(|_| LocalError::Damaged)?,
                id.0,
            ),
        )?;
        Ok(Prepared {
            group: id,
            code: JoinCodeSecret::new(secret),
        })
    }
}
