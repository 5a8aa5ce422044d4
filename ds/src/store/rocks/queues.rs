//! Queues: inserts, acknowledgements, and the end of expired days.

use std::collections::BTreeMap;

use protocol::ids::Incarnation;
use rocksdb::ReadOptions;

use super::reads::behind;
use super::tables::{Table, count_of, day_key, set_of, suite_key};
use super::{Batch, Engine, malformed};
use crate::store::{DayRow, Deliveries, ExpiryDays, Receipt, StoreError, Version};

/// Rows that go in one batch when they can't be dropped as a range.
const EXPIRY_BATCH: usize = 10_000;
/// Deleted rows that a look for expired ones passes over before it takes them for reason enough.
const DELETED_ROWS_TO_PASS: u64 = 1_000;

impl Engine {
    pub(super) fn deliver_to_group(
        &self,
        group: &[u8; 16],
        expected: &Version,
        deliveries: &Deliveries,
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        // Shared: messages go on side by side, up to the fsync that they share; a change of the
        // version waits until those that saw the old one are written.
        let _held = self
            .conditions
            .claims()
            .shared(Table::Groups, group)
            .receipt(receipt)
            .hold();
        self.admit(receipt)?;
        self.expect_version(group, expected)?;
        self.insert(deliveries, receipt)
    }

    pub(super) fn deliver(
        &self,
        deliveries: &Deliveries,
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        let _held = self.conditions.claims().receipt(receipt).hold();
        self.admit(receipt)?;
        self.insert(deliveries, receipt)
    }

    fn insert(&self, deliveries: &Deliveries, receipt: &Receipt) -> Result<(), StoreError> {
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        batch.deliveries(deliveries)?;
        batch.write()
    }

    pub(super) fn create_queue(
        &self,
        row: &[u8; 16],
        sealed: &[u8],
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        let _held = self
            .conditions
            .claims()
            .exclusive(Table::Queues, row)
            .receipt(receipt)
            .hold();
        self.admit(receipt)?;
        if self.has(Table::Queues, row)? {
            return Err(StoreError::Taken);
        }
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        batch.put(Table::Queues, row, sealed)?;
        batch.write()
    }

    pub(super) fn replace_queue(
        &self,
        row: &[u8; 16],
        expected: &[u8],
        sealed: Option<&[u8]>,
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        let _held = self
            .conditions
            .claims()
            .exclusive(Table::Queues, row)
            .receipt(receipt)
            .hold();
        self.admit(receipt)?;
        if self
            .read(Table::Queues, row)?
            .is_none_or(|stored| *stored != *expected)
        {
            return Err(StoreError::Conflict);
        }
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        match sealed {
            Some(sealed) => batch.put(Table::Queues, row, sealed)?,
            None => batch.delete(Table::Queues, row)?,
        }
        batch.write()
    }

    pub(super) fn register_incarnation(
        &self,
        day: u32,
        incarnation: &Incarnation,
    ) -> Result<(), StoreError> {
        let mut batch = self.batch();
        batch.put(
            Table::Incarnations,
            &day_key(&DayRow {
                day,
                row: incarnation.0,
            }),
            &[],
        )?;
        batch.write()
    }

    /// The entries' rows are held so that of two acknowledgements of one entry only one lowers the
    /// count; the count itself is lowered blindly, since thousands of recipients give up one payload
    /// at the same time and must not wait for each other's fsync.
    pub(super) fn acknowledge(&self, entries: Vec<(DayRow, DayRow)>) -> Result<(), StoreError> {
        let given_up: BTreeMap<DayRow, DayRow> = entries.into_iter().collect();
        let entries: Vec<DayRow> = given_up.keys().copied().collect();
        let mut lowered: BTreeMap<DayRow, i64> = BTreeMap::new();
        {
            let claims = self.entries.claims();
            let claims = entries
                .iter()
                .fold(claims, |c, at| c.exclusive(Table::Entries, &day_key(at)));
            let _held = claims.hold();
            let present = self.present(Table::Entries, &entries)?;
            let mut batch = self.batch();
            for ((entry, payload), present) in given_up.iter().zip(present) {
                if present {
                    batch.delete(Table::Entries, &day_key(entry))?;
                    let change = lowered.entry(*payload).or_default();
                    *change = change.saturating_sub(1);
                }
            }
            for (payload, change) in &lowered {
                batch.add(Table::PayloadRefs, &day_key(payload), *change)?;
            }
            batch.write()?;
        }

        // Nothing adds references later, so who sees none left can delete without a lock; two who
        // see it delete the same rows. After a crash in between the payload stays until its day
        // expires, hence no second fsync for this.
        let mut batch = self.batch();
        for payload in lowered.keys() {
            let key = day_key(payload);
            let Some(count) = self.read(Table::PayloadRefs, &key)? else {
                continue;
            };
            if count_of(&count).ok_or_else(|| malformed(Table::PayloadRefs))? <= 0 {
                batch.delete(Table::Payloads, &key)?;
                batch.delete(Table::PayloadRefs, &key)?;
            }
        }
        batch.write_soon()
    }

    /// Not one transition: each range and each batch for itself. What a crash leaves goes next time.
    pub(super) fn expire(&self, before: ExpiryDays) -> Result<(), StoreError> {
        let ExpiryDays {
            queues,
            results,
            join_records,
            reservations,
            key_packages,
        } = before;
        for (table, day) in [
            // Entries before what they point to.
            (Table::Entries, queues),
            (Table::Blocks, queues),
            (Table::Payloads, queues),
            (Table::PayloadRefs, queues),
            (Table::Incarnations, queues),
            (Table::Results, results),
            (Table::JoinRecords, join_records),
            (Table::Reservations, reservations),
        ] {
            self.drop_range(table, &0_u32.to_be_bytes(), &day.to_be_bytes())?;
        }
        self.expire_sets(key_packages)?;
        self.expire_last_resort(key_packages)
    }

    /// Whole files go at once, the rest behind one range tombstone. The tombstone is written first:
    /// it hides what a dropped file no longer covers in the levels below.
    pub(super) fn drop_range(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
    ) -> Result<(), StoreError> {
        {
            // A range tombstone costs every later read a little, and this is called again and again:
            // is there anything to drop? Many rows that were deleted one by one are reason enough.
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(to);
            options.set_max_skippable_internal_keys(DELETED_ROWS_TO_PASS);
            let mut rows = self.db.raw_iterator_cf_opt(self.table(table)?, options);
            rows.seek(from);
            if !rows.valid() && rows.status().is_ok() {
                return Ok(());
            }
        }
        let mut batch = self.batch();
        batch.delete_range(table, from, to)?;
        batch.write()?;
        self.db
            .delete_file_in_range_cf(self.table(table)?, from, to)
            .map_err(|error| self.unread(error))
    }

    /// Sets are sorted by pool, so their days are found pool by pool; live sets are stepped over.
    fn expire_sets(&self, before: u32) -> Result<(), StoreError> {
        let mut rows = self.db.raw_iterator_cf(self.table(Table::KeyPackages)?);
        let mut batch = self.batch();
        rows.seek_to_first();
        while let Some(key) = rows.key() {
            let set = set_of(key).ok_or_else(|| malformed(Table::KeyPackages))?;
            if set.expiry_day >= before {
                rows.seek(behind(&suite_key(&set.pool, set.ciphersuite)));
                continue;
            }
            batch.delete(Table::KeyPackages, key)?;
            if batch.rows.len() >= EXPIRY_BATCH {
                std::mem::replace(&mut batch, self.batch()).write()?;
            }
            rows.next();
        }
        rows.status().map_err(|error| self.unread(error))?;
        batch.write()
    }

    /// A replacement that is published meanwhile must not go: the row is held and read again.
    fn expire_last_resort(&self, before: u32) -> Result<(), StoreError> {
        let expired = |value: &[u8]| {
            value
                .first_chunk()
                .is_some_and(|day| u32::from_be_bytes(*day) < before)
        };
        let mut rows = self.db.raw_iterator_cf(self.table(Table::LastResort)?);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            if expired(value) {
                let (pool, _) = key
                    .split_first_chunk::<16>()
                    .ok_or_else(|| malformed(Table::LastResort))?;
                let _held = self
                    .conditions
                    .claims()
                    .exclusive(Table::Pools, pool)
                    .hold();
                if self
                    .read(Table::LastResort, key)?
                    .is_some_and(|value| expired(&value))
                {
                    let mut batch = self.batch();
                    batch.delete(Table::LastResort, key)?;
                    // What comes back after a crash is expired still.
                    batch.write_soon()?;
                }
            }
            rows.next();
        }
        rows.status().map_err(|error| self.unread(error))
    }
}

impl Batch<'_> {
    /// Inserts only: no row is read, none is there before but block markers, whose value is empty.
    pub(super) fn deliveries(&mut self, deliveries: &Deliveries) -> Result<(), StoreError> {
        let Deliveries {
            payloads,
            entries,
            blocks,
        } = deliveries;
        for payload in payloads {
            let key = day_key(&payload.at);
            self.put(Table::Payloads, &key, &payload.sealed)?;
            self.put(
                Table::PayloadRefs,
                &key,
                &i64::from(payload.references).to_be_bytes(),
            )?;
        }
        let table = self.engine.table(Table::Entries)?;
        for (at, sealed) in entries {
            self.rows.put_cf(table, day_key(at), sealed);
        }
        let table = self.engine.table(Table::Blocks)?;
        for at in blocks {
            self.rows.put_cf(table, day_key(at), []);
        }
        Ok(())
    }
}
