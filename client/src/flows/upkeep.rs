//! Message keys: each is used once, and none is out of its readers' reach.
//!
//! A sender's keys of an epoch form a chain (RFC 9420 §9.1). A reader who is behind walks it, and
//! the library walks [`FORWARD`] steps at most: more would let one member make each of its messages
//! as dear as it likes for everybody. So a sender begins a new epoch, and with it a new chain, long
//! before that. Who has missed all of an epoch's messages, by expiry or by a limit, can read the
//! next one all the same.

use protocol::ids::GroupId;

use crate::engine::Engine;
use crate::error::Error;
use crate::mls::plan::Plan;
use crate::store::acts::{self, Act};
use crate::store::upkeep::{
    self, MESSAGES, latest_renewal, must_renew, number, plan_renewal, sent_in,
};
use crate::store::{Group, Status, connection_stock};

/// which it may put off while others hold it up, but not for longer than this.
const MOST_MESSAGES: u32 = 4_900;

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
        let Some(due) = upkeep::heal_due(&self.db, id)? else {
            return Ok(());
        };
        if number(self.epoch(id)?)? == due {
            self.begin_epoch(id).await?;
        }
        upkeep::healed(&self.db, id)
    }

    /// Plans the renewal of the own leaf, and has it done when it is due.
    pub(crate) fn renew_in_time(&mut self, id: &GroupId) -> Result<(), Error> {
        let due_ms: i64 = upkeep::renewal_ms(&self.db, id)?;
        let now_ms = self.transport.time.now_unix_ms();
        match u64::try_from(due_ms).unwrap_or(0) {
            // None is drawn yet, or another clock drew it: in a small group no draw gives such a
            // one.
            due_ms if due_ms == 0 || due_ms > latest_renewal(now_ms, 0) => {
                let members = self.mls(id)?.members().count();
                if due_ms != 0 && due_ms <= latest_renewal(now_ms, members) {
                    return Ok(());
                }
                self.transact(|db, _| plan_renewal(db, id, now_ms, members))
            }
            due_ms if due_ms <= now_ms && !connection_stock::waits(&self.db, id)? => {
                self.transact(|db, _| acts::plan(db, Act::Renew, &id.0))
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
        self.submit_kept(id).await.map(|_| ())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::mls::settings::FORWARD;
    use crate::store::groups::tests::group;
    use crate::store::upkeep::{count_message, renew_everywhere, renewed};

    #[test]
    fn messages_are_counted_for_each_epoch() {
        let db = crate::store::database::in_memory().unwrap();
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
        let db = crate::store::database::in_memory().unwrap();
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
