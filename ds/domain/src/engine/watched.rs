//! An engine that tells what was asked of it.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{ApplyError, Batch, Engine, EngineError, Found, Read, Table};

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// These were read.
    Read(Vec<Read>),
    /// This was applied, and its conditions held.
    Applied(Batch),
    /// A condition of this one did not hold, or the engine failed.
    Refused(Batch),
}

/// Watches another engine.
pub struct Watched {
    engine: Arc<dyn Engine>,
    asked: Mutex<Vec<Asked>>,
}

impl Watched {
    /// Watches from now on.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self {
            engine,
            asked: Mutex::new(Vec::new()),
        }
    }

    /// All that was asked since it was last called, in the order in which it was answered.
    #[must_use]
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, asked: Asked) {
        let mut all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(asked);
    }
}

#[async_trait]
impl Engine for Watched {
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Found>, EngineError> {
        let found = self.engine.read(reads.clone()).await;
        self.note(Asked::Read(reads));
        found
    }

    async fn apply(&self, batch: Batch) -> Result<(), ApplyError> {
        let applied = self.engine.apply(batch.clone()).await;
        self.note(match applied {
            Ok(()) => Asked::Applied(batch),
            Err(_) => Asked::Refused(batch),
        });
        applied
    }

    async fn drop_days(&self, table: Table, before: u32) -> Result<(), EngineError> {
        self.engine.drop_days(table, before).await
    }

    async fn drop_prefix(&self, table: Table, prefix: Vec<u8>) -> Result<(), EngineError> {
        self.engine.drop_prefix(table, prefix).await
    }
}
