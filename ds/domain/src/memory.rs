//! The reference engine: a map. It is for tests of decisions, and the other engines are compared
//! with it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::engine::{ApplyError, Batch, Engine, EngineError, Found, Key, Range, Read, Row, Table};

/// All rows, by table, day and name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct MemoryEngine {
    rows: BTreeMap<Key, Vec<u8>>,
}

impl MemoryEngine {
    /// Carries out the reads, in their order.
    #[must_use]
    pub fn read(&self, reads: &[Read]) -> Vec<Found> {
        reads
            .iter()
            .map(|read| match read {
                Read::Row(key) => Found::Row(self.rows.get(key).cloned()),
                Read::Range(range) => Found::Range(self.range(range)),
            })
            .collect()
    }

    fn range(&self, range: &Range) -> Vec<Row> {
        let first = Key {
            table: range.table,
            day: range.day,
            name: range.from.clone(),
        };
        let mut bytes = 0usize;
        self.rows
            .range(first..)
            .take_while(|(key, _)| {
                key.table == range.table
                    && key.day == range.day
                    && key.name.starts_with(&range.prefix)
            })
            .take(range.limit)
            .take_while(|(_, value)| {
                let goes_on = bytes < range.max_bytes;
                bytes = bytes.saturating_add(value.len());
                goes_on
            })
            .map(|(key, value)| (key.name.clone(), value.clone()))
            .collect()
    }

    /// Applies a batch, or says which condition does not hold.
    ///
    /// # Errors
    /// [`ApplyError::Condition`].
    pub fn apply(&mut self, batch: Batch) -> Result<(), ApplyError> {
        for (condition, wanted) in batch.conditions.iter().enumerate() {
            let found = self.rows.get(wanted.key());
            if !wanted.holds(found.map(Vec::as_slice)) {
                return Err(ApplyError::Condition {
                    condition,
                    found: found.cloned(),
                });
            }
        }
        for key in batch.deletes {
            self.rows.remove(&key);
        }
        self.rows.extend(batch.puts);
        Ok(())
    }

    /// Drops the days of a table that are over.
    pub fn drop_days(&mut self, table: Table, before: u32) {
        self.rows
            .retain(|key, _| key.table != table || !table.has_days() || key.day >= before);
    }

    /// Drops the rows of a table whose names begin alike.
    pub fn drop_prefix(&mut self, table: Table, prefix: &[u8]) {
        self.rows
            .retain(|key, _| key.table != table || !key.name.starts_with(prefix));
    }

    /// All rows, for tests that look for what a copy shows.
    pub fn rows(&self) -> impl Iterator<Item = (&Key, &[u8])> {
        self.rows.iter().map(|(key, value)| (key, value.as_slice()))
    }
}

/// The map as an [`Engine`]: for tests, and to try the service without a disk.
#[derive(Debug, Default)]
pub struct Memory(Mutex<MemoryEngine>);

impl Memory {
    /// The rows as they are now.
    #[must_use]
    pub fn snapshot(&self) -> MemoryEngine {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, MemoryEngine> {
        // A batch is applied in one step after its conditions, so a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Engine for Memory {
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Found>, EngineError> {
        Ok(self.locked().read(&reads))
    }

    async fn apply(&self, batch: Batch) -> Result<(), ApplyError> {
        self.locked().apply(batch)
    }

    async fn drop_days(&self, table: Table, before: u32) -> Result<(), EngineError> {
        self.locked().drop_days(table, before);
        Ok(())
    }

    async fn drop_prefix(&self, table: Table, prefix: Vec<u8>) -> Result<(), EngineError> {
        self.locked().drop_prefix(table, &prefix);
        Ok(())
    }
}
