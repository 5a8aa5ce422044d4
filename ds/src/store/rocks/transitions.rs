//! Transitions of groups, and what all transitions share. Each: hold the rows, check the receipt, check
//! the condition, write one batch.

use super::tables::{TOMBSTONE, Table, day_key, spent_key};
use super::{Batch, Engine, malformed};
use crate::store::{
    Advance, DayRow, GroupDeletion, NewGroup, ProposalsChange, Receipt, Reservation, StoreError,
    Version,
};

/// Bytes of what makes a transition large, with room for the keys.
fn size_of_parts(advance: &Advance) -> usize {
    const ROW: usize = 64;
    let entries = advance.deliveries.entries.iter();
    let payloads = advance.deliveries.payloads.iter();
    entries
        .map(|(_, sealed)| sealed.len().saturating_add(ROW))
        .chain(payloads.map(|payload| payload.sealed.len().saturating_add(ROW)))
        .chain(advance.tree.iter().map(Vec::len))
        .chain([advance.roster.len(), 1024])
        .fold(0, usize::saturating_add)
}

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
            // The set first: whoever drops it closes the key before.
            if twice
                || self.has(Table::Spent, &spent_key(spend))?
                || self.is_closed(&spend.issuer_key_id)?
            {
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
        let reservation =
            self.reservation_of(&group.group, &group.reservation_days, &group.owner_tag)?;
        if self.has(Table::Groups, &group.group)? {
            return Err(StoreError::Taken);
        }
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        batch.delete(Table::Reservations, &day_key(&reservation))?;
        batch.roster(&group.group, &group.version, &group.roster)?;
        batch.put(Table::KeyChecks, &group.group, &group.key_check)?;
        batch.put(Table::Trees, &group.group, &group.tree)?;
        batch.write()
    }

    pub(super) fn use_up_reservation(
        &self,
        group: &[u8; 16],
        reservation_days: &[u32],
        owner_tag: &[u8; 32],
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        let _held = self
            .conditions
            .claims()
            .exclusive(Table::Groups, group)
            .receipt(receipt)
            .hold();
        self.admit(receipt)?;
        let reservation = self.reservation_of(group, reservation_days, owner_tag)?;
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        batch.delete(Table::Reservations, &day_key(&reservation))?;
        batch.write()
    }

    /// The caller holds the group.
    fn reservation_of(
        &self,
        group: &[u8; 16],
        reservation_days: &[u32],
        owner_tag: &[u8; 32],
    ) -> Result<DayRow, StoreError> {
        for day in reservation_days {
            let at = DayRow {
                day: *day,
                row: *group,
            };
            if self
                .read(Table::Reservations, &day_key(&at))?
                .is_some_and(|owner| *owner == *owner_tag)
            {
                return Ok(at);
            }
        }
        Err(StoreError::Absent)
    }

    /// The caller holds the group.
    pub(super) fn expect_version(
        &self,
        group: &[u8; 16],
        expected: &Version,
    ) -> Result<(), StoreError> {
        let Some(value) = self
            .read(Table::Groups, group)?
            .filter(|value| **value != *TOMBSTONE)
        else {
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
        let mut batch = self.batch_of(size_of_parts(advance));
        batch.receipt(receipt)?;
        batch.roster(&advance.group, &advance.next, &advance.roster)?;
        batch.put(Table::KeyChecks, &advance.group, &advance.key_check)?;
        if let Some(tree) = &advance.tree {
            batch.put(Table::Trees, &advance.group, tree)?;
        }
        match &advance.proposals {
            ProposalsChange::Keep => {}
            ProposalsChange::Put(sealed) => {
                batch.put(Table::Proposals, &advance.group, sealed)?;
            }
            ProposalsChange::Clear => batch.delete(Table::Proposals, &advance.group)?,
        }
        for at in &advance.dropped_join_records {
            batch.delete(Table::JoinRecords, &day_key(at))?;
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

    pub(super) fn delete_group(
        &self,
        deletion: &GroupDeletion,
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        let GroupDeletion {
            group,
            expected,
            dropped_recovery_records,
            dropped_join_records,
            deliveries,
        } = deletion;
        let _held = self
            .conditions
            .claims()
            .exclusive(Table::Groups, group)
            .receipt(receipt)
            .hold();
        self.admit(receipt)?;
        self.expect_version(group, expected)?;
        let mut batch = self.batch();
        batch.receipt(receipt)?;
        batch.put(Table::Groups, group, TOMBSTONE)?;
        batch.delete(Table::KeyChecks, group)?;
        batch.delete(Table::Trees, group)?;
        batch.delete(Table::Proposals, group)?;
        for row in dropped_recovery_records {
            batch.delete(Table::Recovery, row)?;
        }
        for at in dropped_join_records {
            batch.delete(Table::JoinRecords, &day_key(at))?;
        }
        batch.deliveries(deliveries)?;
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
