//! Transitions and reads of groups.

use std::collections::{BTreeMap, BTreeSet};

use crypto::rows::Row;

use super::queues::{by_day, deliveries};
use super::session::{Outcome, Sessions, Step, bytes, malformed, name, optional_bytes, step};
use super::sql;
use super::transition::Transition;
use crate::store::{
    Advance, DayRow, Deliveries, GroupDeletion, NewGroup, Parts, ProposalsChange, Reservation,
    StoreError, StoredGroup, Version,
};

/// Which statement's outcome a decision looks at.
pub(super) fn nth(found: &[Outcome], position: usize) -> Result<&Outcome, StoreError> {
    found.get(position).ok_or_else(malformed)
}

pub(super) struct Reserve(pub(super) Reservation);

impl Transition for Reserve {
    /// The reservation first: its key makes us wait for a creation that is under way, and the group is
    /// looked for behind it.
    fn conditions(&self) -> Vec<Step<'_>> {
        let Reservation { at, owner_tag } = &self.0;
        vec![
            step!(sql::RESERVE; &at.row[..], i64::from(at.day), &owner_tag[..]),
            step!(sql::GROUP_IS_THERE; &at.row[..]),
        ]
    }

    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        if nth(found, 0)?.affected == 0 || !nth(found, 1)?.rows.is_empty() {
            return Err(StoreError::Taken);
        }
        Ok(Vec::new())
    }
}

pub(super) struct Create(pub(super) NewGroup);

impl Transition for Create {
    fn conditions(&self) -> Vec<Step<'_>> {
        let NewGroup {
            group,
            reservation_days,
            owner_tag,
            version,
            key_check,
            roster,
            tree,
        } = &self.0;
        let days: Vec<i64> = reservation_days.iter().copied().map(i64::from).collect();
        vec![
            step!(sql::CONSUME_RESERVATION; &group[..], &owner_tag[..], days),
            step!(
                sql::CREATE_GROUP;
                &group[..], &version[..], &roster[..], &tree[..], &key_check[..]
            ),
        ]
    }

    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        if nth(found, 0)?.affected == 0 {
            return Err(StoreError::Absent);
        }
        if nth(found, 1)?.affected == 0 {
            return Err(StoreError::Taken);
        }
        Ok(Vec::new())
    }
}

pub(super) struct UseUpReservation {
    pub(super) group: Row,
    pub(super) reservation_days: Vec<u32>,
    pub(super) owner_tag: [u8; 32],
}

impl Transition for UseUpReservation {
    fn conditions(&self) -> Vec<Step<'_>> {
        let days: Vec<i64> = self
            .reservation_days
            .iter()
            .copied()
            .map(i64::from)
            .collect();
        vec![step!(sql::CONSUME_RESERVATION; &self.group[..], &self.owner_tag[..], days)]
    }

    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        if nth(found, 0)?.affected == 0 {
            return Err(StoreError::Absent);
        }
        Ok(Vec::new())
    }
}

impl Transition for Advance {
    /// The update waits for messages that hold the version and for another change, and then looks at
    /// the version again.
    fn conditions(&self) -> Vec<Step<'_>> {
        let (group, expected) = (&self.group[..], &self.expected[..]);
        let (next, roster) = (&self.next[..], &self.roster[..]);
        let (change, proposals) = match &self.proposals {
            ProposalsChange::Keep => (false, None),
            ProposalsChange::Put(sealed) => (true, Some(&sealed[..])),
            ProposalsChange::Clear => (true, None),
        };
        let tree = self.tree.as_deref();
        let key_check = &self.key_check[..];
        vec![step!(
            sql::ADVANCE;
            group, expected, next, roster, tree, change, proposals, key_check
        )]
    }

    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        if nth(found, 0)?.affected == 0 {
            return Err(StoreError::Conflict);
        }
        let mut steps = drop_join_records(&self.dropped_join_records);
        if let Some((at, sealed)) = &self.join_record {
            let day = i64::from(at.day);
            steps.push(step!(sql::PUT_JOIN_RECORD; day, &at.row[..], &sealed[..]));
        }
        steps.extend(drop_recovery_records(&self.dropped_recovery_records));
        let written: BTreeMap<&[u8], &[u8]> = self
            .recovery_records
            .iter()
            .map(|(row, sealed)| (&row[..], &sealed[..]))
            .collect();
        if !written.is_empty() {
            let (rows, sealed): (Vec<_>, Vec<_>) = written.into_iter().unzip();
            steps.push(step!(sql::PUT_RECOVERY_RECORDS; rows, sealed));
        }
        steps.extend(deliveries(&self.deliveries)?);
        Ok(steps)
    }
}

impl Transition for GroupDeletion {
    /// As a change of the version: nothing can hold it afterwards.
    fn conditions(&self) -> Vec<Step<'_>> {
        vec![step!(sql::DELETE_GROUP; &self.group[..], &self.expected[..])]
    }

    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        if nth(found, 0)?.affected == 0 {
            return Err(StoreError::Conflict);
        }
        let mut steps = drop_join_records(&self.dropped_join_records);
        steps.extend(drop_recovery_records(&self.dropped_recovery_records));
        steps.extend(deliveries(&self.deliveries)?);
        Ok(steps)
    }
}

fn drop_join_records(at: &[DayRow]) -> Vec<Step<'_>> {
    by_day(at.iter().copied())
        .into_iter()
        .map(|(day, rows)| step!(sql::DROP_JOIN_RECORDS; i64::from(day), rows))
        .collect()
}

fn drop_recovery_records(rows: &[Row]) -> Option<Step<'_>> {
    let rows: BTreeSet<&[u8]> = rows.iter().map(|row| &row[..]).collect();
    let rows: Vec<_> = rows.into_iter().collect();
    (!rows.is_empty()).then(|| step!(sql::DROP_RECOVERY_RECORDS; rows))
}

pub(super) struct DeliverToGroup {
    pub(super) group: Row,
    pub(super) expected: Version,
    pub(super) deliveries: Deliveries,
}

impl Transition for DeliverToGroup {
    fn conditions(&self) -> Vec<Step<'_>> {
        vec![step!(sql::HOLD_VERSION; &self.group[..])]
    }

    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        if nth(found, 0)?.value()?.as_deref() != Some(&self.expected[..]) {
            return Err(StoreError::Conflict);
        }
        deliveries(&self.deliveries)
    }
}

impl Sessions {
    /// One statement, so one point in time: the roster of one epoch never comes with the tree of
    /// another.
    pub(super) async fn group(
        &self,
        group: Row,
        parts: Parts,
    ) -> Result<Option<StoredGroup>, StoreError> {
        let Parts { tree, proposals } = parts;
        let found = self
            .run(&[step!(sql::GROUP; &group[..], tree, proposals)])
            .await?;
        let Some(row) = nth(&found, 0)?.rows.first() else {
            return Ok(None);
        };
        Ok(Some(StoredGroup {
            version: name(row, 0)?,
            roster: bytes(row, 1)?,
            tree: tree.then(|| bytes(row, 2)).transpose()?,
            proposals: optional_bytes(row, 3)?,
        }))
    }

    pub(super) async fn reservation(
        &self,
        at: Vec<DayRow>,
    ) -> Result<Option<[u8; 32]>, StoreError> {
        let steps: Vec<_> = at
            .iter()
            .map(|at| step!(sql::RESERVATION; &at.row[..], i64::from(at.day)))
            .collect();
        self.first(&steps)
            .await?
            .map(|owner| owner.try_into().map_err(|_| malformed()))
            .transpose()
    }

    pub(super) async fn join_record(&self, at: Vec<DayRow>) -> Result<Option<Vec<u8>>, StoreError> {
        let steps: Vec<_> = at
            .iter()
            .map(|at| step!(sql::JOIN_RECORD; i64::from(at.day), &at.row[..]))
            .collect();
        self.first(&steps).await
    }

    /// What the first of these that finds anything finds.
    async fn first(&self, steps: &[Step<'_>]) -> Result<Option<Vec<u8>>, StoreError> {
        for found in self.run(steps).await? {
            if let Some(value) = found.value()? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}
