//! What each transition is in a batch: its conditions and its writes.

use crate::engine::{Batch, Condition, Key};
use crate::env::Version;
use crate::rows::InboxRow;
use crate::store::{
    ChangeGroup, CreateGroup, DeleteGroup, NewHead, NextHead, ReservationName, Transition,
};

impl Transition {
    pub(super) fn lower(self, batch: &mut Batch) {
        match self {
            Self::ReserveGroup(reserve) => {
                let key = reserve.name.row.key(reserve.name.last_day);
                absent(batch, key.clone());
                absent(batch, reserve.group.key());
                batch.puts.push((key, reserve.owner.0.to_vec()));
            }
            Self::UseUpReservation(name) => use_up(batch, name),
            Self::CreateGroup(create) => create.lower(batch),
            Self::Append(append) => {
                at_version(batch, append.group.key(), append.expected);
                append.head.lower(batch);
                append.entry.puts(batch);
            }
            Self::ChangeGroup(change) => change.lower(batch),
            Self::DeleteGroup(delete) => delete.lower(batch),
            Self::PutRecoveryRows(put) => {
                at_version(batch, put.group.key(), put.expected);
                for (row, sealed) in put.rows {
                    batch.puts.push((row.key(), sealed));
                }
            }
            Self::PublishKeyPackages(publish) => {
                let key = publish.pool.key();
                match publish.expected {
                    Some(version) => at_version(batch, key.clone(), version),
                    None => absent(batch, key.clone()),
                }
                batch.puts.push((key, publish.record.into_value()));
                for (last_day, ciphersuite, id, sealed) in publish.sets {
                    batch
                        .puts
                        .push((publish.pool.set(last_day, ciphersuite, id), sealed));
                }
            }
            Self::ClaimKeyPackages(claim) => {
                for set in claim.sets {
                    batch.conditions.push(Condition::Present(set.clone()));
                    batch.deletes.push(set);
                }
            }
            Self::DeletePool(delete) => {
                at_version(batch, delete.pool.key(), delete.expected);
                batch.deletes.push(delete.pool.key());
                batch.deletes.extend(delete.sets);
            }
            Self::RegisterHandle(register) => {
                let key = register.handle.key();
                match register.expected {
                    Some(version) => at_version(batch, key.clone(), version),
                    None => absent(batch, key.clone()),
                }
                let inbox = register.inbox.key();
                match register.expected_inbox {
                    Some(version) => at_version(batch, inbox.clone(), version),
                    None => absent(batch, inbox.clone()),
                }
                batch.puts.push((key, register.record.into_value()));
                batch.puts.push((inbox, register.inbox_record.into_value()));
                // Its requests expire by themselves.
                batch.deletes.extend(register.left.map(InboxRow::key));
            }
            Self::DeleteHandle(delete) => {
                at_version(batch, delete.handle.key(), delete.expected);
                batch.deletes.push(delete.handle.key());
                batch.deletes.push(delete.inbox.key());
                batch.deletes.extend(delete.requests);
            }
            Self::PutIntoInbox(put) => {
                at_version(batch, put.handle.key(), put.expected);
                let (inbox, version) = put.inbox;
                at_version(batch, inbox.key(), version);
                batch.puts.push((inbox.key(), put.record.into_value()));
                batch
                    .puts
                    .push((inbox.entry(put.last_day, put.id), put.request));
            }
            Self::DeleteFromInbox(delete) => {
                let (inbox, version) = delete.inbox;
                at_version(batch, inbox.key(), version);
                batch.puts.push((inbox.key(), delete.record.into_value()));
                batch.deletes.extend(delete.requests);
            }
            Self::CreateBlob(create) => {
                absent(batch, create.making.clone());
                absent(batch, create.whole);
                batch.puts.push((create.making, create.record));
            }
            Self::CompleteBlob(complete) => {
                present(batch, complete.making.clone());
                absent(batch, complete.whole.clone());
                batch.deletes.push(complete.making);
                batch.puts.push((complete.whole, complete.record));
            }
            Self::DeleteBlob(delete) => {
                present(batch, delete.row.clone());
                batch.deletes.push(delete.row);
            }
            Self::Settle => {}
        }
    }
}

fn absent(batch: &mut Batch, key: Key) {
    batch.conditions.push(Condition::Absent(key));
}

fn present(batch: &mut Batch, key: Key) {
    batch.conditions.push(Condition::Present(key));
}

fn at_version(batch: &mut Batch, key: Key, version: Version) {
    batch.conditions.push(Condition::Version(key, version.0));
}

fn use_up(batch: &mut Batch, name: ReservationName) {
    let key = name.row.key(name.last_day);
    batch.conditions.push(Condition::Present(key.clone()));
    batch.deletes.push(key);
}

impl NextHead {
    /// Writes it where the segment has not gone on meanwhile.
    pub fn lower(self, batch: &mut Batch) {
        let key = self.segment.key();
        at_version(batch, key.clone(), self.expected);
        batch.puts.extend(self.note);
        match self.closed_until {
            None => batch.puts.push((key, self.head.into_value())),
            Some(last_day) => {
                batch.deletes.push(key);
                let key = self.segment.closed(last_day);
                batch.puts.push((key, self.head.into_value()));
            }
        }
    }
}

impl NewHead {
    fn lower(self, batch: &mut Batch) {
        absent(batch, self.segment.key());
        batch
            .puts
            .push((self.segment.key(), self.head.into_value()));
    }
}

impl CreateGroup {
    fn lower(self, batch: &mut Batch) {
        use_up(batch, self.reservation);
        absent(batch, self.group.key());
        batch.puts.push((self.group.key(), self.short.into_value()));
        for (part, sealed) in self.parts {
            batch.puts.push((self.group.part(part), sealed));
        }
        self.head.lower(batch);
    }
}

impl ChangeGroup {
    fn lower(self, batch: &mut Batch) {
        at_version(batch, self.group.key(), self.expected);
        batch.puts.push((self.group.key(), self.short.into_value()));
        for (part, sealed) in self.parts {
            batch.puts.push((self.group.part(part), sealed));
        }
        for part in self.dropped_parts {
            batch.deletes.push(self.group.part(part));
        }
        if let Some(head) = self.head {
            head.lower(batch);
        }
        if let Some(head) = self.begins {
            head.lower(batch);
        }
        for entry in self.entries {
            entry.puts(batch);
        }
        if let Some((row, last_day, pages)) = self.join_record {
            // Its key is chosen by a member: nor is a record of an earlier epoch.
            absent(batch, row.page(last_day, 0));
            for (page, sealed) in (0u16..).zip(pages) {
                batch.puts.push((row.page(last_day, page), sealed));
            }
        }
        for (row, last_day, sealed) in self.welcomes {
            // A Welcome of another group is not written over.
            absent(batch, row.key(last_day));
            batch.puts.push((row.key(last_day), sealed));
        }
        for row in self.dropped_recovery_rows {
            batch.deletes.push(row.key());
        }
        for (row, sealed) in self.recovery_rows {
            batch.puts.push((row.key(), sealed));
        }
        if let Some(name) = self.successor {
            batch
                .conditions
                .push(Condition::Present(name.row.key(name.last_day)));
        }
    }
}

impl DeleteGroup {
    fn lower(self, batch: &mut Batch) {
        at_version(batch, self.group.key(), self.expected);
        batch
            .puts
            .push((self.group.key(), self.tombstone.into_value()));
        for part in self.parts {
            batch.deletes.push(self.group.part(part));
        }
        self.head.lower(batch);
        self.entry.puts(batch);
        for row in self.dropped_recovery_rows {
            batch.deletes.push(row.key());
        }
    }
}
