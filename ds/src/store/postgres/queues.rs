//! Queues: inserts, look-ups and acknowledgements.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use protocol::ids::Incarnation;

use super::groups::nth;
use super::session::{Outcome, Sessions, Step, bytes, day, name, step};
use super::sql;
use super::transition::{Nothing, Transition, random};
use crate::store::{DayRow, Deliveries, NewPayload, Receipt, StoreError};

/// Inserts only: no row is read, none is there before. One statement for each table, however many
/// recipients there are.
pub(super) fn deliveries(deliveries: &Deliveries) -> Result<Vec<Step<'_>>, StoreError> {
    let Deliveries {
        payloads,
        entries,
        blocks,
    } = deliveries;
    let mut steps = Vec::new();
    if !payloads.is_empty() {
        let (mut days, mut rows) = (Vec::new(), Vec::new());
        let (mut references, mut values) = (Vec::new(), Vec::new());
        for payload in payloads {
            let NewPayload {
                at,
                sealed,
                references: count,
            } = payload;
            days.push(i64::from(at.day));
            rows.push(&at.row[..]);
            references.push(i64::from(*count));
            values.push(&sealed[..]);
        }
        steps.push(step!(sql::ADD_PAYLOADS; days, rows, references, values));
    }
    if !entries.is_empty() {
        let days: Vec<i64> = entries.iter().map(|(at, _)| i64::from(at.day)).collect();
        let rows: Vec<&[u8]> = entries.iter().map(|(at, _)| &at.row[..]).collect();
        let values: Vec<&[u8]> = entries.iter().map(|(_, sealed)| &sealed[..]).collect();
        steps.push(step!(sql::ADD_ENTRIES; days, rows, values));
    }
    if !blocks.is_empty() {
        let days: Vec<i64> = blocks.iter().map(|at| i64::from(at.day)).collect();
        let rows: Vec<&[u8]> = blocks.iter().map(|at| &at.row[..]).collect();
        let copies = copies(blocks.len())?;
        steps.push(step!(sql::ADD_BLOCKS; days, rows, copies));
    }
    Ok(steps)
}

/// Keeps rows apart that are otherwise the same.
fn copies(count: usize) -> Result<Vec<i64>, StoreError> {
    let first = i64::from_be_bytes(random()?);
    Ok(
        std::iter::successors(Some(first), |copy| Some(copy.wrapping_add(1)))
            .take(count)
            .collect(),
    )
}

pub(super) struct Deliver(pub(super) Deliveries);

impl Transition for Deliver {
    fn conditions(&self) -> Vec<Step<'_>> {
        Vec::new()
    }

    fn decide(&self, _found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        deliveries(&self.0)
    }
}

pub(super) struct CreateQueue {
    pub(super) row: [u8; 16],
    pub(super) sealed: Vec<u8>,
}

impl Transition for CreateQueue {
    fn conditions(&self) -> Vec<Step<'_>> {
        vec![step!(sql::CREATE_QUEUE; &self.row[..], &self.sealed[..])]
    }

    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        if nth(found, 0)?.affected == 0 {
            return Err(StoreError::Taken);
        }
        Ok(Vec::new())
    }
}

pub(super) struct ReplaceQueue {
    pub(super) row: [u8; 16],
    pub(super) expected: Vec<u8>,
    pub(super) sealed: Option<Vec<u8>>,
}

impl Transition for ReplaceQueue {
    /// Who comes second waits, and then looks at the record again.
    fn conditions(&self) -> Vec<Step<'_>> {
        let (row, expected) = (&self.row[..], &self.expected[..]);
        vec![match &self.sealed {
            Some(sealed) => step!(sql::REPLACE_QUEUE; row, expected, &sealed[..]),
            None => step!(sql::DELETE_QUEUE; row, expected),
        }]
    }

    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        if nth(found, 0)?.affected == 0 {
            return Err(StoreError::Conflict);
        }
        Ok(Vec::new())
    }
}

pub(super) struct RegisterIncarnation {
    pub(super) day: u32,
    pub(super) incarnation: Incarnation,
}

impl Transition for RegisterIncarnation {
    fn conditions(&self) -> Vec<Step<'_>> {
        let day = i64::from(self.day);
        vec![step!(sql::REGISTER_INCARNATION; day, &self.incarnation.0[..])]
    }

    fn decide(&self, _found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        Nothing.decide(&[])
    }
}

/// Entries to delete, each with the payload that it points to; by day, then by row.
struct Acknowledge(BTreeMap<DayRow, DayRow>);

impl Transition for Acknowledge {
    fn conditions(&self) -> Vec<Step<'_>> {
        by_day(self.0.keys().copied())
            .into_iter()
            .map(|(day, rows)| step!(sql::TAKE_ENTRIES; i64::from(day), rows))
            .collect()
    }

    /// Only what this transaction deleted gives up its payload: who comes second finds it gone.
    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        let mut released: BTreeMap<DayRow, i64> = BTreeMap::new();
        let days = by_day(self.0.keys().copied());
        for (day, outcome) in days.keys().zip(found) {
            for row in &outcome.rows {
                let entry = DayRow {
                    day: *day,
                    row: name(row, 0)?,
                };
                if let Some(payload) = self.0.get(&entry) {
                    let count = released.entry(*payload).or_default();
                    *count = count.saturating_add(1);
                }
            }
        }
        if released.is_empty() {
            return Ok(Vec::new());
        }
        let days: Vec<i64> = released.keys().map(|at| i64::from(at.day)).collect();
        let rows: Vec<Vec<u8>> = released.keys().map(|at| at.row.to_vec()).collect();
        let copies = copies(released.len())?;
        let counts: Vec<i64> = released.into_values().collect();
        Ok(vec![step!(sql::RELEASE; days, rows, copies, counts)])
    }
}

/// Rows of each day, sorted, each once.
pub(super) fn by_day(at: impl Iterator<Item = DayRow>) -> BTreeMap<u32, Vec<Vec<u8>>> {
    let mut days: BTreeMap<u32, BTreeSet<[u8; 16]>> = BTreeMap::new();
    for DayRow { day, row } in at {
        days.entry(day).or_default().insert(row);
    }
    days.into_iter()
        .map(|(day, rows)| (day, rows.iter().map(|row| row.to_vec()).collect()))
        .collect()
}

impl Sessions {
    /// A payload is dropped in a transaction of its own, behind the one that gave it up: of two
    /// recipients who give up the last two references at once, whoever comes second sees both. After a
    /// crash in between it stays until its day expires.
    pub(super) async fn acknowledge(
        &self,
        entries: Vec<(DayRow, DayRow)>,
    ) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let payloads = by_day(entries.iter().map(|(_, payload)| *payload));
        let acknowledge = Acknowledge(entries.into_iter().collect());
        self.carry_out(&acknowledge, &Receipt::default()).await?;
        let steps: Vec<_> = payloads
            .iter()
            .flat_map(|(day, rows)| {
                let day = i64::from(*day);
                [sql::DROP_UNREFERENCED, sql::FORGET_RELEASED].map(|sql| step!(sql; day, rows))
            })
            .collect();
        if let Err(error) = self.run(&steps).await {
            tracing::debug!(%error, "payloads without references stay until they expire");
        }
        Ok(())
    }

    pub(super) async fn incarnations(&self) -> Result<Vec<(u32, Incarnation)>, StoreError> {
        let found = self.run(&[step!(sql::INCARNATIONS;)]).await?;
        nth(&found, 0)?
            .rows
            .iter()
            .map(|row| Ok((day(row, 0)?, Incarnation(name(row, 1)?))))
            .collect()
    }

    /// One look-up for each day: `day = … AND id = ANY(…)` is a range of the primary key whatever the
    /// planner knows about the table.
    async fn look_up(
        &self,
        sql: &'static str,
        at: &[DayRow],
    ) -> Result<Vec<(u32, Outcome)>, StoreError> {
        let days = by_day(at.iter().copied());
        if days.is_empty() {
            return Ok(Vec::new());
        }
        let steps: Vec<_> = days
            .iter()
            .map(|(day, rows)| step!(sql; i64::from(*day), rows))
            .collect();
        let found = self.run(&steps).await?;
        Ok(days.keys().copied().zip(found).collect())
    }

    /// The values at these rows, in this order.
    pub(super) async fn values(
        &self,
        sql: &'static str,
        at: Vec<DayRow>,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let mut values = HashMap::new();
        for (day, outcome) in self.look_up(sql, &at).await? {
            for row in &outcome.rows {
                let at = DayRow {
                    day,
                    row: name(row, 0)?,
                };
                values.insert(at, bytes(row, 1)?);
            }
        }
        Ok(at.iter().map(|at| values.get(at).cloned()).collect())
    }

    pub(super) async fn queues(
        &self,
        rows: Vec<[u8; 16]>,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let asked: BTreeSet<&[u8]> = rows.iter().map(|row| &row[..]).collect();
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let asked: Vec<_> = asked.into_iter().collect();
        let found = self.run(&[step!(sql::QUEUES; asked)]).await?;
        let mut queues: HashMap<[u8; 16], Vec<u8>> = HashMap::new();
        for row in &nth(&found, 0)?.rows {
            queues.insert(name(row, 0)?, bytes(row, 1)?);
        }
        Ok(rows.iter().map(|row| queues.get(row).cloned()).collect())
    }

    pub(super) async fn blocks(&self, at: Vec<DayRow>) -> Result<Vec<bool>, StoreError> {
        let mut present = HashSet::new();
        for (day, outcome) in self.look_up(sql::BLOCKS, &at).await? {
            for row in &outcome.rows {
                let row = name(row, 0)?;
                present.insert(DayRow { day, row });
            }
        }
        Ok(at.iter().map(|at| present.contains(at)).collect())
    }
}
