//! A batch as one transaction with three round trips: BEGIN; the conditions; the writes and COMMIT.

use std::collections::BTreeMap;
use std::time::Duration;

use ds_domain::engine::{ApplyError, Batch, Condition, EngineError, Key, Table};

use crate::session::{Failure, Outcome, Session, Sessions, Step, malformed, step};
use crate::sql;

/// How often a transaction is tried that the server aborts in favour of another, or whose
/// connection is lost before its end was asked for.
const ATTEMPTS: u32 = 10;
/// The longest pause after the first attempt; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(4);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The end of an attempt.
enum Attempt {
    Done,
    /// A condition does not hold.
    Refused(ApplyError),
}

impl Sessions {
    /// `Ok` only after COMMIT was answered. [`ApplyError::Engine`] when that answer did not come:
    /// then the batch is there as a whole or not at all, and the result record tells.
    pub(crate) async fn apply(&self, batch: &Batch) -> Result<(), ApplyError> {
        let mut attempt = 0;
        loop {
            match self.attempt(batch).await {
                Ok(Attempt::Done) => return Ok(()),
                Ok(Attempt::Refused(error)) => return Err(error),
                Err(failure) => self.pause(failure, attempt).await?,
            }
            attempt += 1;
        }
    }

    /// Statements that need no transaction around them, and that may be run twice.
    pub(crate) async fn run(&self, steps: &[Step<'_>]) -> Result<Vec<Outcome>, EngineError> {
        let mut attempt = 0;
        loop {
            let result = match self.session().await {
                Ok(mut session) => session.run(steps).await,
                Err(failure) => Err(failure),
            };
            match result {
                Ok(outcomes) => return Ok(outcomes),
                Err(failure) => self.pause(failure, attempt).await?,
            }
            attempt += 1;
        }
    }

    async fn attempt(&self, batch: &Batch) -> Result<Attempt, Failure> {
        let mut session = self.session().await?;
        session.begin().await?;
        let conditions = Conditions::of(batch);
        match conditions.look(&mut session).await {
            Ok(None) => {
                let committed = session.commit(&conditions.writes()).await;
                if matches!(committed, Err(Failure::Again(_))) {
                    session.roll_back().await;
                }
                committed.map(|()| Attempt::Done)
            }
            Ok(Some(refused)) => {
                session.roll_back().await;
                Ok(Attempt::Refused(refused))
            }
            Err(failure) => {
                session.roll_back().await;
                Err(failure)
            }
        }
    }

    /// Waits before the next attempt, if there is one.
    async fn pause(&self, failure: Failure, attempt: u32) -> Result<(), EngineError> {
        let text = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Again(text) => text,
        };
        if attempt.saturating_add(1) >= ATTEMPTS {
            return Err(EngineError(text));
        }
        metrics::counter!("ds_store_retries_total").increment(1);
        let longest = FIRST_PAUSE
            .saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX))
            .min(LONGEST_PAUSE);
        // Those who met shall not meet again.
        tokio::time::sleep(longest.mul_f64(random_fraction()?)).await;
        Ok(())
    }
}

fn random_fraction() -> Result<f64, EngineError> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes)
        .map_err(|_| EngineError("the system gives no randomness".to_owned()))?;
    Ok(f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX))
}

/// A batch, with its conditions in the order in which rows are locked: the same for all, so that
/// two batches wait for each other, not crosswise. Rows that are only looked at come last: then a
/// batch sees what those that it has waited for have done.
struct Conditions<'b> {
    batch: &'b Batch,
    order: Vec<usize>,
    /// Rows that must be absent and are written: inserted when the condition is looked at, which
    /// also waits for a transaction that inserts the same one.
    inserts: BTreeMap<&'b Key, &'b [u8]>,
}

/// Values by day and name.
type Rows<'b> = BTreeMap<(i64, &'b [u8]), &'b [u8]>;

fn day(key: &Key) -> i64 {
    i64::from(key.day)
}

impl<'b> Conditions<'b> {
    fn of(batch: &'b Batch) -> Self {
        let puts: BTreeMap<&Key, &[u8]> = batch
            .puts
            .iter()
            .map(|(key, value)| (key, value.as_slice()))
            .collect();
        let mut inserts = BTreeMap::new();
        for condition in &batch.conditions {
            if let Condition::Absent(key) = condition
                && let Some(value) = puts.get(key)
            {
                inserts.insert(key, *value);
            }
        }
        let mut order: Vec<usize> = (0..batch.conditions.len()).collect();
        order.sort_by_key(|at| {
            batch.conditions.get(*at).map(|condition| {
                let key = condition.key();
                let is_looked_at =
                    matches!(condition, Condition::Absent(_)) && !inserts.contains_key(key);
                (is_looked_at, key)
            })
        });
        Self {
            batch,
            order,
            inserts,
        }
    }

    fn ordered(&self) -> impl Iterator<Item = (usize, &'b Condition)> {
        self.order
            .iter()
            .filter_map(|at| Some((*at, self.batch.conditions.get(*at)?)))
    }

    /// The first condition, in the batch's order, that does not hold.
    async fn look(&self, session: &mut Session) -> Result<Option<ApplyError>, Failure> {
        // What the row was, before any insert.
        let steps: Vec<Step<'_>> = self
            .ordered()
            .map(|(_, condition)| {
                let key = condition.key();
                let statements = sql::of(key.table);
                match condition {
                    Condition::Absent(key) => match self.inserts.get(key) {
                        Some(value) => step!(&statements.insert; day(key), &key.name[..], *value),
                        None => step!(&statements.select; day(key), &key.name[..]),
                    },
                    Condition::Present(_) | Condition::Version(..) => {
                        step!(&statements.lock; day(key), &key.name[..])
                    }
                }
            })
            .collect();
        let outcomes = session.run(&steps).await?;
        let mut first: Option<(usize, &Condition, &Outcome)> = None;
        let mut inserted: Vec<&Key> = Vec::new();
        for ((at, condition), outcome) in self.ordered().zip(&outcomes) {
            let holds = match condition {
                Condition::Absent(key) if self.inserts.contains_key(key) => {
                    // The same row twice in one batch: inserted for the first of them.
                    let is_ours = outcome.affected == 1 || inserted.contains(&key);
                    if is_ours {
                        inserted.push(key);
                    }
                    is_ours
                }
                other => other.holds(outcome.value()?.as_deref()),
            };
            if !holds && first.is_none_or(|(earlier, ..)| at < earlier) {
                first = Some((at, condition, outcome));
            }
        }
        let Some((condition, failed, outcome)) = first else {
            return Ok(None);
        };
        let key = failed.key();
        let found = if self.inserts.contains_key(key) && matches!(failed, Condition::Absent(_)) {
            let select = step!(&sql::of(key.table).select; day(key), &key.name[..]);
            let found = session.run(&[select]).await?;
            match found.first().map(Outcome::value).transpose()?.flatten() {
                Some(found) => Some(found),
                None => return Err(Failure::Again("a row went meanwhile".to_owned())),
            }
        } else {
            outcome.value()?
        };
        Ok(Some(ApplyError::Condition { condition, found }))
    }

    /// What is left to write.
    fn writes(&self) -> Vec<Step<'b>> {
        let mut deletes: BTreeMap<Table, (Vec<i64>, Vec<&[u8]>)> = BTreeMap::new();
        for key in &self.batch.deletes {
            let (days, names) = deletes.entry(key.table).or_default();
            days.push(day(key));
            names.push(&key.name);
        }
        let mut puts: BTreeMap<Table, Rows<'_>> = BTreeMap::new();
        for (key, value) in &self.batch.puts {
            if self.inserts.get(key) != Some(&value.as_slice()) {
                puts.entry(key.table)
                    .or_default()
                    .insert((day(key), &key.name), value);
            }
        }
        let deletes = deletes
            .into_iter()
            .map(|(table, (days, names))| step!(&sql::of(table).delete; days, names));
        let puts = puts.into_iter().map(|(table, rows)| {
            let (keys, values): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
            let (days, names): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
            step!(&sql::of(table).upsert; days, names, values)
        });
        deletes.chain(puts).collect()
    }
}

/// The value in the first column.
pub(crate) fn first_value(outcome: Option<&Outcome>) -> Result<Option<Vec<u8>>, EngineError> {
    outcome.ok_or_else(malformed)?.value()
}
