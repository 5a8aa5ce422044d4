//! Stored queue entries, in the order in which they make sense.
//!
//! Entries come in no order. Within a group, epochs follow each other; the messages of an epoch go
//! before the commit that ends it; the sequence number orders the rest. What belongs to a later epoch,
//! or to a group that this client is not in yet, waits. Each item, its effect on the MLS library's
//! state and the event it gives are one transaction.

use protocol::Wire as _;
use protocol::delivery::{Payload, PayloadKind};
use protocol::ids::GroupId;
use protocol::time::day_of;
use rusqlite::{Connection, OptionalExtension as _};

use crate::Client;
use crate::connections;
use crate::database::begin;
use crate::error::{Error, LocalError, PeerError};
use crate::events::{self, Event};
use crate::groups::evidence::{self, StopReason};
use crate::groups::{Group, PAST_EPOCHS, Status, load_mls, pending, process, recovery, unreadable};

/// What waits for a group that never comes is dropped after so long.
const KEEP_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// What cannot be judged yet is judged as far as it can be after so long.
const UNDECIDED_MS: u64 = 60 * 60 * 1000;

struct Item {
    entry: Vec<u8>,
    payload: Payload,
    epoch: u64,
    /// On which the service accepted it, as it says.
    day: u32,
}

/// Marks an item as done: its id stays, its content goes.
pub(crate) fn finish(db: &Connection, entry: &[u8]) -> Result<(), Error> {
    db.execute(
        "UPDATE inbox SET payload = NULL WHERE entry_id = ?",
        [entry],
    )?;
    Ok(())
}

fn item(
    db: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Option<Item>, Error> {
    let row = db
        .prepare_cached(sql)?
        .query_row(parameters, |row| {
            Ok((
                row.get(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, Option<i64>>(2)?,
                row.get::<_, i64>(3)?,
            ))
        })
        .optional()?;
    row.map(|(entry, payload, epoch, sequence)| {
        Ok(Item {
            entry,
            payload: Payload::decode(&payload).map_err(|_| LocalError::Damaged)?,
            epoch: u64::try_from(epoch.unwrap_or(0)).map_err(|_| LocalError::Damaged)?,
            // A sequence number is microseconds since the Unix epoch.
            day: day_of(u64::try_from(sequence).unwrap_or(0) / 1000),
        })
    })
    .transpose()
}

/// The item of a group that is next, if it is not one of a later epoch.
fn next_of_group(db: &Connection, group: &GroupId, epoch: u64) -> Result<Option<Item>, Error> {
    // Proposals (5) before messages (1), which cannot follow a removal's, and the commit (2) last.
    let epoch = i64::try_from(epoch).map_err(|_| LocalError::Damaged)?;
    item(
        db,
        "SELECT entry_id, payload, epoch, sequence FROM inbox
         WHERE payload IS NOT NULL AND group_id = ? AND epoch <= ?
         ORDER BY epoch, CASE kind WHEN 5 THEN 0 ELSE kind END, sequence LIMIT 1",
        (group.0, epoch),
    )
}

/// What waits of one kind, in the order in which the service took it.
fn all_of_kind(db: &Connection, kind: PayloadKind) -> Result<Vec<Item>, Error> {
    let entries = db
        .prepare_cached(
            "SELECT entry_id FROM inbox WHERE payload IS NOT NULL AND kind = ?
             ORDER BY sequence, rowid",
        )?
        .query_map([kind as u8], |row| row.get::<_, Vec<u8>>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    let sql = "SELECT entry_id, payload, epoch, sequence FROM inbox
               WHERE payload IS NOT NULL AND entry_id = ?";
    let items = entries.into_iter().map(|entry| item(db, sql, [entry]));
    items.filter_map(Result::transpose).collect()
}

/// Whether the service's keys are those of the directory as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Senders {
    AsKnown,
    LookedUp,
}

/// Groups that have stored items.
fn groups_with_items(db: &Connection) -> Result<Vec<GroupId>, Error> {
    let mut statement = db.prepare_cached(
        "SELECT DISTINCT group_id FROM inbox WHERE payload IS NOT NULL AND length(group_id) = 16",
    )?;
    let rows = statement.query_map((), |row| Ok(GroupId(row.get(0)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

impl Client {
    /// Processes what is stored, as far as it can be.
    pub(crate) async fn process(&mut self) -> Result<(), Error> {
        self.process_connection_requests()?;
        self.process_groups().await?;
        // A Welcome after the commits of the groups that we know: it may be the second one into a
        // group that we were removed from.
        for item in all_of_kind(&self.db, PayloadKind::Welcome)? {
            let Payload::Welcome(delivery) = &item.payload else {
                return Err(LocalError::Damaged.into());
            };
            match self.process_welcome(&item.entry, delivery).await {
                // Refused for now, or not to be paid: it waits for the next time, and holds up no
                // other one.
                Err(Error::Refused(_) | Error::Issuer(_)) => continue,
                Err(Error::Unreachable(_)) => break,
                other => other?,
            }
            self.process_groups().await?;
        }
        let now = i64::try_from(self.transport.time.now_unix_ms()).unwrap_or(i64::MAX);
        self.db.execute(
            "UPDATE inbox SET payload = NULL WHERE payload IS NOT NULL AND received_ms < ?",
            [now.saturating_sub(KEEP_MS)],
        )?;
        Ok(())
    }

    async fn process_groups(&mut self) -> Result<(), Error> {
        for group in groups_with_items(&self.db)? {
            match self.process_group(&group, Senders::AsKnown) {
                // The service may have rotated its key since this client looked.
                Err(Error::Peer(PeerError::ExternalSenders)) => {
                    if self.looks_up_senders(&group).await? {
                        self.process_group(&group, Senders::LookedUp)?;
                    }
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Whether it is known by now what the service's key is. Relay and service may be behind each other after a rotation:
    /// what waits for that stays where it is, for an hour at most.
    async fn looks_up_senders(&mut self, group: &GroupId) -> Result<bool, Error> {
        match self.heard_directory().await {
            Ok(heard) => {
                let text = serde_json::to_string(&heard).map_err(|_| LocalError::Damaged)?;
                self.db
                    .execute("UPDATE profile SET directory_heard = ?", [text])?;
                Ok(true)
            }
            // It waits, and nothing beside it does.
            Err(
                Error::Directory(_) | Error::Protocol(_) | Error::Refused(_) | Error::Issuer(_),
            ) => {
                let oldest: Option<i64> = self.db.query_row(
                    "SELECT min(received_ms) FROM inbox WHERE group_id = ? AND payload IS NOT NULL",
                    [group.0],
                    |row| row.get(0),
                )?;
                let oldest = u64::try_from(oldest.unwrap_or(0)).unwrap_or(0);
                Ok(self.transport.time.now_unix_ms().abs_diff(oldest) > UNDECIDED_MS)
            }
            Err(error) => Err(error),
        }
    }

    fn process_connection_requests(&mut self) -> Result<(), Error> {
        for item in all_of_kind(&self.db, PayloadKind::ConnectionRequest)? {
            let Payload::ConnectionRequest(sealed) = &item.payload else {
                return Err(LocalError::Damaged.into());
            };
            let (policy, today) = (self.requests, self.today());
            let transaction = begin(&mut self.db)?;
            let received = connections::receive_request(
                &transaction,
                &self.profile,
                sealed.as_slice(),
                policy,
                today,
            );
            if let Err(error) = received {
                error.of_content()?;
            }
            finish(&transaction, &item.entry)?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// Processes the items of one group up to its newest epoch that is here.
    fn process_group(&mut self, id: &GroupId, senders: Senders) -> Result<(), Error> {
        loop {
            let Some(group) = Group::find(&self.db, id)? else {
                return Ok(());
            };
            // While a join waits for its answer, what follows it waits too.
            if group.status == Status::Joining {
                return Ok(());
            }
            let epoch = match load_mls(&self.db, id) {
                Ok(mls_group) => mls_group.epoch().as_u64(),
                // What cannot be read any more is found out about, and come back from, elsewhere.
                Err(_) if group.status == Status::Active => {
                    self.lose(id, StopReason::State)?;
                    continue;
                }
                Err(_) => u64::try_from(i64::MAX).unwrap_or(0),
            };
            let Some(item) = next_of_group(&self.db, id, epoch)? else {
                return Ok(());
            };
            self.process_item(&group, epoch, &item, senders)?;
        }
    }

    fn process_item(
        &mut self,
        group: &Group,
        epoch: u64,
        item: &Item,
        senders: Senders,
    ) -> Result<(), Error> {
        let transaction = begin(&mut self.db)?;
        let age = epoch.saturating_sub(item.epoch);
        let readable = u64::try_from(PAST_EPOCHS).unwrap_or(0);
        let outcome = match &item.payload {
            _ if group.status != Status::Active => Ok(None),
            Payload::Dropped(_) => {
                let name = group.display_name();
                events::store(&transaction, &Event::MessagesDropped { group: name }).map(|()| None)
            }
            Payload::Message(bytes) if age <= readable => {
                let content = (bytes.as_slice(), item.day);
                process::message(&transaction, &self.profile, group, content).map(|()| None)
            }
            Payload::Proposal(bytes) if age == 0 => {
                pending::keep(&transaction, &group.id, bytes.as_slice()).map(|()| None)
            }
            Payload::Commit(bytes) if age == 0 => {
                let content = (bytes.as_slice(), item.day);
                process::commit(&transaction, &self.profile, group, content)
            }
            // The secrets of its epoch are gone.
            Payload::Message(_) => Err(PeerError::Message.into()),
            // A commit that was merged with its answer already.
            _ => Ok(None),
        };
        let transaction = match outcome {
            Ok(outcome) => {
                if let Some(outcome) = outcome {
                    self.outcomes.insert(group.id, outcome);
                }
                transaction
            }
            // Not judged before the directory is fresh.
            Err(unjudged @ Error::Peer(PeerError::ExternalSenders))
                if senders == Senders::AsKnown =>
            {
                return Err(unjudged);
            }
            Err(error) => {
                // Nothing of it stays, but the item is done: it would fail again.
                transaction.rollback()?;
                let fault = error.of_content()?;
                let transaction = begin(&mut self.db)?;
                let now_ms = self.transport.time.now_unix_ms();
                match (&item.payload, fault) {
                    (Payload::Commit(bytes), _) => {
                        // Nobody made it, or the service accepted what we cannot: from here on we cannot follow.
                        let content = (Some(&item.entry[..]), bytes.as_slice());
                        evidence::keep(&transaction, &group.id, &fault, content, now_ms)?;
                        recovery::lose_to(&transaction, &self.profile, &group.id, fault)?;
                    }
                    (Payload::Proposal(bytes), PeerError::FalseRemoval(why)) => {
                        let content = (Some(&item.entry[..]), bytes.as_slice());
                        evidence::keep(&transaction, &group.id, &fault, content, now_ms)?;
                        let (group, why) = (group.display_name(), why.to_owned());
                        events::store(&transaction, &Event::RemovalRefused { group, why })?;
                    }
                    // Its sender was told that it is in our queue: the user hears of it too.
                    (Payload::Message(bytes), _) => {
                        let content = bytes.as_slice();
                        unreadable::record(&transaction, &self.profile, group, content, fault)?;
                    }
                    _ => {}
                }
                transaction
            }
        };
        finish(&transaction, &item.entry)?;
        transaction.commit()?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn insert(
        db: &Connection,
        entry: u8,
        kind: PayloadKind,
        group: Option<u8>,
        epoch: i64,
        sequence: i64,
    ) {
        let payload = Payload::Message(protocol::codec::opaque(vec![entry])).encode();
        db.execute(
            "INSERT INTO inbox (entry_id, day, sequence, kind, group_id, epoch, payload, received_ms)
             VALUES (?, 1, ?, ?, ?, ?, ?, 0)",
            ([entry], sequence, kind as u8, group.map(|g| [g; 16]), epoch, payload),
        )
        .unwrap();
    }

    #[test]
    fn messages_of_an_epoch_go_before_its_commit_and_later_epochs_wait() {
        use PayloadKind::{Commit, Message};
        let db = crate::database::in_memory().unwrap();
        for (entry, kind, epoch, sequence) in [
            (1, Commit, 4, 10),
            (2, Message, 4, 30),
            (3, Message, 5, 1),
            (4, Message, 4, 20),
            (5, Commit, 5, 2),
            (6, Message, 3, 99),
        ] {
            insert(&db, entry, kind, Some(7), epoch, sequence);
        }
        insert(&db, 9, Message, Some(8), 1, 0);
        let mut order = Vec::new();
        let mut epoch = 4;
        while let Some(item) = next_of_group(&db, &GroupId([7; 16]), epoch).unwrap() {
            order.push(*item.entry.first().unwrap());
            if order.last() == Some(&1) {
                assert!(next_of_group(&db, &GroupId([7; 16]), 3).unwrap().is_none());
                epoch = 5;
            }
            finish(&db, &item.entry).unwrap();
        }
        assert_eq!(order, [6, 4, 2, 1, 3, 5]);
        assert_eq!(groups_with_items(&db).unwrap(), [GroupId([8; 16])]);
    }

    #[test]
    fn items_of_no_group_come_by_sequence() {
        let db = crate::database::in_memory().unwrap();
        insert(&db, 1, PayloadKind::Welcome, None, 0, 20);
        insert(&db, 2, PayloadKind::Welcome, None, 0, 10);
        insert(&db, 3, PayloadKind::ConnectionRequest, None, 0, 5);
        let entries = |kind| -> Vec<Vec<u8>> {
            let items = all_of_kind(&db, kind).unwrap().into_iter();
            items.map(|item| item.entry).collect()
        };
        assert_eq!(entries(PayloadKind::Welcome), [[2], [1]]);
        assert_eq!(entries(PayloadKind::ConnectionRequest), [[3]]);
        finish(&db, &[2]).unwrap();
        assert_eq!(entries(PayloadKind::Welcome), [[1]]);
    }
}
