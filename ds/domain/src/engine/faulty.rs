//! An engine that fails when it is told to.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{ApplyError, Batch, Engine, EngineError, Found, Read, Table};

/// Where an apply fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing has happened.
    BeforeTheWrite,
    /// The batch has happened, and its answer is lost.
    AfterTheWrite,
}

/// Fails applies of another engine.
pub struct Faulty {
    engine: Arc<dyn Engine>,
    next: Mutex<Option<Fault>>,
}

impl Faulty {
    /// One that does not fail yet.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self {
            engine,
            next: Mutex::new(None),
        }
    }

    /// Fails the next apply.
    pub fn fail(&self, fault: Fault) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    fn take(&self, wanted: Fault) -> Result<(), EngineError> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if *next == Some(wanted) {
            *next = None;
            return Err(EngineError(format!("told to fail {wanted:?}")));
        }
        Ok(())
    }
}

#[async_trait]
impl Engine for Faulty {
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Found>, EngineError> {
        self.engine.read(reads).await
    }

    async fn apply(&self, batch: Batch) -> Result<(), ApplyError> {
        self.take(Fault::BeforeTheWrite)?;
        self.engine.apply(batch).await?;
        Ok(self.take(Fault::AfterTheWrite)?)
    }

    async fn drop_days(&self, table: Table, before: u32) -> Result<(), EngineError> {
        self.engine.drop_days(table, before).await
    }

    async fn drop_prefix(&self, table: Table, prefix: Vec<u8>) -> Result<(), EngineError> {
        self.engine.drop_prefix(table, prefix).await
    }
}
