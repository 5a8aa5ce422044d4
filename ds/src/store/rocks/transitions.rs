//! Transitions of groups, pools and handles. Each: hold the rows, check the receipt, check the
//! condition, write one batch.

use super::reads::OWNER_TAG_LEN;
use super::tables::{Table, day_key, set_key, spent_key, suite_key};
use super::{Batch, Engine, malformed};
use crate::store::{
    Advance, ConsumedSet, DayRow, NewGroup, NewKeyPackageSet, Receipt, Reservation, StoreError,
    Version,
};

impl Engine {
    /// The checks of a receipt, in their order. The caller holds its rows.
    pub(super) fn admit(&self, receipt: &Receipt) -> Result<(), StoreError> {
        if let Some(result) = &receipt.result
            && let Some(done) = self.value(Table::Results, &day_key(&result.at))?
        {
            return Err(StoreError::AlreadyDone(done));
        }
        for (position, spend) in receipt.spends.iter().enumerate() {
            let twice = receipt
                .spends
                .iter()
                .take(position)
                .any(|earlier| earlier == spend);
            if twice || self.has(Table::Spent, &spent_key(spend))? {
                return Err(StoreError::TokenSpent);
            }
        }
        Ok(())
    }

    pub(super) fn reserve_group(
        &self,
        reservation: &Reservation,
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        let group = &reservation.at.row;
        let _held = self
            .conditions
            .claims()
            .exclusive(Table::Groups, group)
            .receipt(receipt)
            .hold();
        self.admit(receipt)?;
        if self.has(Table::Groups, group)? || self.is_reserved(reservation)? {
            return Err(StoreError::Taken);
        }
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        batch.put(
            Table::Reservations,
            &day_key(&reservation.at),
            &reservation.owner_tag,
        )?;
        batch.write()
    }

    fn is_reserved(&self, reservation: &Reservation) -> Result<bool, StoreError> {
        for at in reservation.near() {
            if self.has(Table::Reservations, &day_key(&at))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn create_group(
        &self,
        group: &NewGroup,
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        let _held = self
            .conditions
            .claims()
            .exclusive(Table::Groups, &group.group)
            .receipt(receipt)
            .hold();
        self.admit(receipt)?;
        let mut reservation = None;
        for day in &group.reservation_days {
            let key = day_key(&DayRow {
                day: *day,
                row: group.group,
            });
            if self
                .read(Table::Reservations, &key)?
                .is_some_and(|owner| *owner == group.owner_tag)
            {
                reservation = Some(key);
                break;
            }
        }
        let reservation = reservation.ok_or(StoreError::Absent)?;
        if self.has(Table::Groups, &group.group)? {
            return Err(StoreError::Taken);
        }
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        batch.delete(Table::Reservations, &reservation)?;
        batch.roster(&group.group, &group.version, &group.roster)?;
        batch.put(Table::Trees, &group.group, &group.tree)?;
        batch.write()
    }

    /// The caller holds the group.
    pub(super) fn expect_version(
        &self,
        group: &[u8; 16],
        expected: &Version,
    ) -> Result<(), StoreError> {
        let Some(value) = self.read(Table::Groups, group)? else {
            return Err(StoreError::Conflict);
        };
        let (version, _) = value
            .split_first_chunk()
            .ok_or_else(|| malformed(Table::Groups))?;
        if version == expected {
            Ok(())
        } else {
            Err(StoreError::Conflict)
        }
    }

    pub(super) fn advance_group(
        &self,
        advance: &Advance,
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        let _held = self
            .conditions
            .claims()
            .exclusive(Table::Groups, &advance.group)
            .receipt(receipt)
            .hold();
        self.admit(receipt)?;
        self.expect_version(&advance.group, &advance.expected)?;
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        batch.roster(&advance.group, &advance.next, &advance.roster)?;
        if let Some(tree) = &advance.tree {
            batch.put(Table::Trees, &advance.group, tree)?;
        }
        if let Some((at, sealed)) = &advance.join_record {
            batch.put(Table::JoinRecords, &day_key(at), sealed)?;
        }
        for row in &advance.dropped_recovery_records {
            batch.delete(Table::Recovery, row)?;
        }
        for (row, sealed) in &advance.recovery_records {
            batch.put(Table::Recovery, row, sealed)?;
        }
        batch.deliveries(&advance.deliveries)?;
        batch.write()
    }

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

    pub(super) fn settle(&self, receipt: &Receipt) -> Result<(), StoreError> {
        let _held = self.conditions.claims().receipt(receipt).hold();
        self.admit(receipt)?;
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        batch.write()
    }
}

impl Batch<'_> {
    pub(super) fn receipt(&mut self, receipt: &Receipt) -> Result<(), StoreError> {
        for spend in &receipt.spends {
            self.put(Table::Spent, &spent_key(spend), &[])?;
        }
        if let Some(result) = &receipt.result {
            self.put(Table::Results, &day_key(&result.at), &result.sealed)?;
        }
        Ok(())
    }

    fn roster(
        &mut self,
        group: &[u8; 16],
        version: &Version,
        roster: &[u8],
    ) -> Result<(), StoreError> {
        self.put(Table::Groups, group, &[&version[..], roster].concat())
    }
}
