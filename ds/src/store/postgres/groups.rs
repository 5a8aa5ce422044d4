//! Transitions and reads of groups.

use std::collections::{BTreeMap, BTreeSet};

use super::queues::deliveries;
use super::session::{Outcome, Sessions, Step, bytes, malformed, name, step};
use super::sql;
use super::transition::Transition;
use crate::store::{
    Advance, DayRow, Deliveries, NewGroup, Reservation, StoreError, StoredGroup, Version,
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
            roster,
            tree,
        } = &self.0;
        let days: Vec<i64> = reservation_days.iter().copied().map(i64::from).collect();
        vec![
            step!(sql::CONSUME_RESERVATION; &group[..], &owner_tag[..], days),
            step!(sql::CREATE_GROUP; &group[..], &version[..], &roster[..], &tree[..]),
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

impl Transition for Advance {
    /// The update waits for messages that hold the version and for another change, and then looks at
    /// the version again.
    fn conditions(&self) -> Vec<Step<'_>> {
        let (group, expected) = (&self.group[..], &self.expected[..]);
        let (next, roster) = (&self.next[..], &self.roster[..]);
        // A column that is not named is not written again.
        vec![match &self.tree {
            Some(tree) => {
                step!(sql::ADVANCE_WITH_TREE; group, expected, next, roster, &tree[..])
            }
            None => step!(sql::ADVANCE; group, expected, next, roster),
        }]
    }

    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        if nth(found, 0)?.affected == 0 {
            return Err(StoreError::Conflict);
        }
        let mut steps = Vec::new();
        if let Some((at, sealed)) = &self.join_record {
            let day = i64::from(at.day);
            steps.push(step!(sql::PUT_JOIN_RECORD; day, &at.row[..], &sealed[..]));
        }
        let dropped: BTreeSet<&[u8]> = self
            .dropped_recovery_records
            .iter()
            .map(|row| &row[..])
            .collect();
        if !dropped.is_empty() {
            let dropped: Vec<_> = dropped.into_iter().collect();
            steps.push(step!(sql::DROP_RECOVERY_RECORDS; dropped));
        }
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

pub(super) struct DeliverToGroup {
    pub(super) group: [u8; 16],
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
        group: [u8; 16],
        with_tree: bool,
    ) -> Result<Option<StoredGroup>, StoreError> {
        let sql = if with_tree {
            sql::GROUP_WITH_TREE
        } else {
            sql::GROUP
        };
        let found = self.run(&[step!(sql; &group[..])]).await?;
        let Some(row) = nth(&found, 0)?.rows.first() else {
            return Ok(None);
        };
        Ok(Some(StoredGroup {
            version: name(row, 0)?,
            roster: bytes(row, 1)?,
            tree: with_tree.then(|| bytes(row, 2)).transpose()?,
        }))
    }

    pub(super) async fn join_record(&self, at: Vec<DayRow>) -> Result<Option<Vec<u8>>, StoreError> {
        let steps: Vec<_> = at
            .iter()
            .map(|at| step!(sql::JOIN_RECORD; i64::from(at.day), &at.row[..]))
            .collect();
        for found in self.run(&steps).await? {
            if let Some(record) = found.value()? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}
