//! Message keys: each is used once, and none is out of its readers' reach.
//!
//! A sender's keys of an epoch form a chain (RFC 9420 §9.1). A reader who is behind walks it, and
//! the library walks [`FORWARD`] steps at most: more would let one member make each of its messages
//! as dear as it likes for everybody. So a sender begins a new epoch, and with it a new chain, long
//! before that. Who has missed all of an epoch's messages, by expiry or by a limit, can read the
//! next one all the same.

use openmls::prelude::SenderRatchetConfiguration;
use protocol::ids::GroupId;
use protocol::time::DAY_MS;
use rusqlite::{Connection, OptionalExtension as _};

use crate::connections::stock;
use crate::engine::Engine;
use crate::error::{Error, LocalError};
use crate::groups::commit::Plan;
use crate::groups::{Group, Status, load_mls};
use crate::schedule::{self, Act};

/// Messages of an epoch whose keys are kept when later ones come first.
const OUT_OF_ORDER: u32 = 200;
/// Steps that a reader takes at once: about 50 ms of work.
const FORWARD: u32 = 5_000;
/// After so many messages in an epoch a sender begins the next one,
const MESSAGES: u32 = 4_000;
/// which it may put off while others hold it up, but not for longer than this.
const MOST_MESSAGES: u32 = 4_900;

pub(crate) fn sender_ratchet() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(OUT_OF_ORDER, FORWARD)
}

fn number(epoch: u64) -> Result<i64, Error> {
    i64::try_from(epoch).map_err(|_| LocalError::Damaged.into())
}

/// Counts a message of this client, in the transaction that takes its key.
pub(crate) fn count_message(db: &Connection, id: &GroupId, epoch: u64) -> Result<(), Error> {
    db.execute(
        "INSERT INTO upkeep (group_id, epoch, sent) VALUES (?, ?, 1)
         ON CONFLICT (group_id) DO UPDATE SET
            sent = CASE epoch WHEN excluded.epoch THEN sent + 1 ELSE 1 END, epoch = excluded.epoch",
        (id.0, number(epoch)?),
    )?;
    Ok(())
}

/// Messages of this client in an epoch.
pub(crate) fn sent_in(db: &Connection, id: &GroupId, epoch: u64) -> Result<u32, Error> {
    Ok(db
        .query_row(
            "SELECT sent FROM upkeep WHERE group_id = ? AND epoch = ?",
            (id.0, number(epoch)?),
            |row| row.get(0),
        )
        .optional()?
        .unwrap_or(0))
}

/// A member's keys of this epoch are not those that its readers have: a new epoch gives it new
/// ones.
pub(crate) fn heal_after(db: &Connection, id: &GroupId, epoch: u64) -> Result<(), Error> {
    db.execute(
        "INSERT INTO upkeep (group_id, heal_after) VALUES (?, ?)
         ON CONFLICT (group_id) DO UPDATE SET heal_after = excluded.heal_after",
        (id.0, number(epoch)?),
    )?;
    Ok(())
}

/// The keys of this client may be in use elsewhere: it sends nothing before it has others, in any
/// group.
pub(crate) fn renew_everywhere(db: &Connection) -> Result<(), Error> {
    db.execute(
        "INSERT INTO upkeep (group_id, renew) SELECT group_id, 1 FROM groups WHERE status = 'active'
         ON CONFLICT (group_id) DO UPDATE SET renew = 1",
        (),
    )?;
    // Two homes would come to the same key.
    db.execute("DELETE FROM restored_leaves", ())?;
    Ok(())
}

/// As [`renew_everywhere`], in one group.
pub(crate) fn renew(db: &Connection, id: &GroupId) -> Result<(), Error> {
    db.execute(
        "INSERT INTO upkeep (group_id, renew) VALUES (?, 1)
         ON CONFLICT (group_id) DO UPDATE SET renew = 1",
        [id.0],
    )?;
    Ok(())
}

/// This client has a new leaf, in the caller's transaction.
pub(crate) fn renewed(db: &Connection, id: &GroupId) -> Result<(), Error> {
    db.execute("UPDATE upkeep SET renew = 0 WHERE group_id = ?", [id.0])?;
    Ok(())
}

fn latest_renewal(now_ms: u64, members: usize) -> u64 {
    let by_size = u64::try_from(members / 20).unwrap_or(u64::MAX);
    let days = by_size.max(30).saturating_add(15);
    now_ms.saturating_add(days.saturating_mul(DAY_MS))
}

/// When the own leaf is renewed next, in the caller's transaction: every 30 to 45 days, in a large
/// group as often as it has twenties of members. For post-compromise security, and since the
/// service takes who never commits for gone.
pub(crate) fn plan_renewal(
    db: &Connection,
    id: &GroupId,
    now_ms: u64,
    members: usize,
) -> Result<(), Error> {
    let half_days = u64::from(u16::from_be_bytes(crypto::random()?)) % 31;
    let early_ms = half_days.saturating_mul(DAY_MS / 2);
    let due_ms = latest_renewal(now_ms, members).saturating_sub(early_ms);
    db.execute(
        "UPDATE groups SET renewal_ms = ? WHERE group_id = ?",
        (i64::try_from(due_ms).unwrap_or(i64::MAX), id.0),
    )?;
    Ok(())
}

fn must_renew(db: &Connection, id: &GroupId) -> Result<bool, Error> {
    Ok(db
        .query_row(
            "SELECT renew FROM upkeep WHERE group_id = ?",
            [id.0],
            |row| row.get(0),
        )
        .optional()?
        .unwrap_or(false))
}

impl Engine {
    /// What must be done before this client takes another message key.
    pub(crate) async fn prepare_to_send(&mut self, id: &GroupId) -> Result<(), Error> {
        if must_renew(&self.db, id)? {
            self.update_leaf(id).await?;
        }
        let sent = sent_in(&self.db, id, self.epoch(id)?)?;
        if sent < MESSAGES {
            return Ok(());
        }
        match self.begin_epoch(id).await {
            Err(Error::Refused(_)) if sent < MOST_MESSAGES => Ok(()),
            other => other,
        }
    }

    /// Renews what may be in use elsewhere, and lets a member be read again who could not be.
    pub(crate) async fn keep_up(&mut self, id: &GroupId) -> Result<(), Error> {
        if must_renew(&self.db, id)? {
            self.update_leaf(id).await?;
        }
        let due: Option<i64> = self
            .db
            .query_row(
                "SELECT heal_after FROM upkeep WHERE group_id = ?",
                [id.0],
                |row| row.get(0),
            )
            .optional()?
            .flatten();
        let Some(due) = due else { return Ok(()) };
        if number(self.epoch(id)?)? == due {
            self.begin_epoch(id).await?;
        }
        self.db.execute(
            "UPDATE upkeep SET heal_after = NULL WHERE group_id = ?",
            [id.0],
        )?;
        Ok(())
    }

    /// Plans the renewal of the own leaf, and has it done when it is due.
    pub(crate) fn renew_in_time(&mut self, id: &GroupId) -> Result<(), Error> {
        let due_ms: i64 = self.db.query_row(
            "SELECT renewal_ms FROM groups WHERE group_id = ?",
            [id.0],
            |row| row.get(0),
        )?;
        let now_ms = self.transport.time.now_unix_ms();
        match u64::try_from(due_ms).unwrap_or(0) {
            // None is drawn yet, or another clock drew it: in a small group no draw gives such a
            // one.
            due_ms if due_ms == 0 || due_ms > latest_renewal(now_ms, 0) => {
                let members = load_mls(&self.db, id)?.members().count();
                if due_ms != 0 && due_ms <= latest_renewal(now_ms, members) {
                    return Ok(());
                }
                self.transact(|db, _| plan_renewal(db, id, now_ms, members))
            }
            due_ms if due_ms <= now_ms && !stock::waits(&self.db, id)? => {
                self.transact(|db, _| schedule::plan(db, Act::Renew, &id.0))
            }
            _ => Ok(()),
        }
    }

    /// Makes an empty commit. If somebody else was first, that is as good.
    async fn begin_epoch(&mut self, id: &GroupId) -> Result<(), Error> {
        if Group::read(&self.db, id)?.status != Status::Active {
            return Ok(());
        }
        self.stage_plan(id, Plan::Cover)?;
        self.submit_commit(id).await.map(|_| ())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::groups::tests::group;

    #[test]
    fn messages_are_counted_for_each_epoch() {
        let db = crate::database::in_memory().unwrap();
        group(1, "team").insert(&db).unwrap();
        let id = GroupId([1; 16]);
        for _ in 0..3 {
            count_message(&db, &id, 7).unwrap();
        }
        assert_eq!(sent_in(&db, &id, 7).unwrap(), 3);
        assert_eq!(sent_in(&db, &id, 8).unwrap(), 0);
        count_message(&db, &id, 8).unwrap();
        assert_eq!(sent_in(&db, &id, 8).unwrap(), 1);
    }

    #[test]
    fn a_sender_begins_a_new_epoch_before_its_readers_could_lose_it() {
        const { assert!(MESSAGES < MOST_MESSAGES && MOST_MESSAGES < FORWARD) };
    }

    #[test]
    fn all_active_groups_are_to_be_renewed_until_they_are() {
        let db = crate::database::in_memory().unwrap();
        for (number, name) in [(1, "a"), (2, "b")] {
            group(number, name).insert(&db).unwrap();
        }
        count_message(&db, &GroupId([1; 16]), 7).unwrap();
        renew_everywhere(&db).unwrap();
        renewed(&db, &GroupId([1; 16])).unwrap();
        assert!(!must_renew(&db, &GroupId([1; 16])).unwrap());
        assert!(must_renew(&db, &GroupId([2; 16])).unwrap());
        assert_eq!(sent_in(&db, &GroupId([1; 16]), 7).unwrap(), 1);
    }
}
