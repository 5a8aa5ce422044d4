//! Transitions of pools and handles, which have owners.

use rocksdb::ReadOptions;

use super::Engine;
use super::reads::{OWNER_TAG_LEN, behind};
use super::tables::{Table, set_key, suite_key};
use crate::store::{ConsumedSet, NewKeyPackageSet, Receipt, StoreError};

impl Engine {
    pub(super) fn publish_key_packages(
        &self,
        pool: &[u8; 16],
        owner_tag: &[u8; OWNER_TAG_LEN],
        sets: &[NewKeyPackageSet],
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        let _held = self
            .conditions
            .claims()
            .exclusive(Table::Pools, pool)
            .receipt(receipt)
            .hold();
        self.admit(receipt)?;
        if self
            .read(Table::Pools, pool)?
            .is_some_and(|owner| *owner != *owner_tag)
        {
            return Err(StoreError::Taken);
        }
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        batch.put(Table::Pools, pool, owner_tag)?;
        for set in sets {
            let NewKeyPackageSet {
                id,
                ciphersuite,
                expiry_day,
                last_resort,
                sealed,
            } = set;
            if *last_resort {
                let value = [&expiry_day.to_be_bytes()[..], sealed].concat();
                batch.put(Table::LastResort, &suite_key(pool, *ciphersuite), &value)?;
            } else {
                let (ciphersuite, expiry_day) = (*ciphersuite, *expiry_day);
                let key = set_key(&ConsumedSet {
                    pool: *pool,
                    ciphersuite,
                    expiry_day,
                    id: *id,
                });
                batch.put(Table::KeyPackages, &key, sealed)?;
            }
        }
        batch.write()
    }

    /// A claim that is under way holds its set's row, not the pool's: the set that it hands out in the
    /// moment of the deletion counts as claimed before. The rows are deleted one by one because a
    /// range tombstone would cost the look-ups in all other pools, and a pool is small.
    pub(super) fn delete_key_packages(
        &self,
        pool: &[u8; 16],
        owner_tag: &[u8; OWNER_TAG_LEN],
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        let _held = self
            .conditions
            .claims()
            .exclusive(Table::Pools, pool)
            .receipt(receipt)
            .hold();
        self.admit(receipt)?;
        let owner = self.read(Table::Pools, pool)?.ok_or(StoreError::Absent)?;
        if *owner != *owner_tag {
            return Err(StoreError::Taken);
        }
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        batch.delete(Table::Pools, pool)?;
        for table in [Table::KeyPackages, Table::LastResort] {
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(behind(pool));
            let mut rows = self.db.raw_iterator_cf_opt(self.table(table)?, options);
            rows.seek(pool);
            while let Some(key) = rows.key() {
                batch.delete(table, key)?;
                rows.next();
            }
            rows.status().map_err(|error| self.unread(error))?;
        }
        batch.write()
    }

    pub(super) fn claim_key_packages(
        &self,
        sets: &[ConsumedSet],
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        let keys: Vec<_> = sets.iter().map(set_key).collect();
        let claims = self.conditions.claims().receipt(receipt);
        let _held = keys
            .iter()
            .fold(claims, |claims, key| {
                claims.exclusive(Table::KeyPackages, key)
            })
            .hold();
        self.admit(receipt)?;
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        for (position, key) in keys.iter().enumerate() {
            let twice = keys.iter().take(position).any(|earlier| earlier == key);
            if twice || !self.has(Table::KeyPackages, key)? {
                return Err(StoreError::Conflict);
            }
            batch.delete(Table::KeyPackages, key)?;
        }
        batch.write()
    }

    pub(super) fn register_handle(
        &self,
        row: &[u8; 16],
        owner_tag: &[u8; OWNER_TAG_LEN],
        sealed: &[u8],
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        let _held = self
            .conditions
            .claims()
            .exclusive(Table::Handles, row)
            .receipt(receipt)
            .hold();
        self.admit(receipt)?;
        if self
            .read(Table::Handles, row)?
            .is_some_and(|value| !value.starts_with(owner_tag))
        {
            return Err(StoreError::Taken);
        }
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        batch.put(Table::Handles, row, &[owner_tag, sealed].concat())?;
        batch.write()
    }

    pub(super) fn delete_handle(
        &self,
        row: &[u8; 16],
        owner_tag: &[u8; OWNER_TAG_LEN],
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        let _held = self
            .conditions
            .claims()
            .exclusive(Table::Handles, row)
            .receipt(receipt)
            .hold();
        self.admit(receipt)?;
        let stored = self.read(Table::Handles, row)?.ok_or(StoreError::Absent)?;
        if !stored.starts_with(owner_tag) {
            return Err(StoreError::Taken);
        }
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        batch.delete(Table::Handles, row)?;
        batch.write()
    }
}
