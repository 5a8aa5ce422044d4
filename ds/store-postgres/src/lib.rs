//! The scale-out engine: anything that speaks PostgreSQL's protocol. Several nodes may use one
//! database; nothing is kept in a node.
//!
//! Every batch is one transaction with three round trips ([`batch`]). All statements stand in
//! [`sql`].
//!
//! * **Isolation**: READ COMMITTED. Every condition is a unique key or a locked row, so nothing
//!   stronger is needed, and nothing weaker than it exists; aborts for serialization don't happen.
//!   The exception: a row whose absence is wanted and which is not written is looked at last, when
//!   the rest is held ([`ds_domain::engine::Condition::Absent`]). A server that runs everything
//!   SERIALIZABLE gives the same answers, with retries.
//! * **Locks** are taken in the order of table, day and name.
//! * **Durability**: `synchronous_commit` is on in every session; a server without fsync is
//!   refused.
//! * **Crash, lost connection**: until COMMIT is sent nothing has happened and the transaction is
//!   tried again, as after 40001 and 40P01. Once it is sent, only its answer makes `Ok`; without
//!   one it is [`EngineError`], and the batch is there as a whole or not at all. The result record
//!   tells the retry.
//! * **Cancellation**: a batch runs in a task of its own; if the caller's future is dropped, it is
//!   carried out all the same.
//! * **Transport**: without TLS so far, hence over a unix socket or loopback only (a proxy on the
//!   machine may do TLS). A pooler in between must be in session mode: statements are prepared.

mod batch;
mod schema;
#[cfg(any(test, feature = "testing"))]
pub mod server;
mod session;
mod settings;
mod sql;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use ds_domain::engine::{ApplyError, Batch, Engine, EngineError, Found, Range, Read, Row, Table};
use service::founding::Refusal;

pub use self::settings::PostgresSettings;

use self::session::{Outcome, Sessions, Step, bytes, step};

/// PostgreSQL as an [`Engine`].
#[derive(Clone)]
pub struct Postgres {
    sessions: Arc<Sessions>,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Postgres(..)")
    }
}

/// Why a store is not made or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not the one, or not whole.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Postgres {
    /// Makes the tables in an empty database.
    ///
    /// # Errors
    /// [`Refusal::OccupiedDatabase`] if there are any; else as [`Postgres::open`].
    pub async fn create(settings: &PostgresSettings) -> Result<Self, OpenError> {
        schema::create(&settings.connection()?).await?;
        Self::connect(settings)
    }

    /// Connects to a database whose tables are there. Several nodes may do so at once.
    ///
    /// # Errors
    /// [`Refusal::EmptyDatabase`]; settings that can't be used, the server can't be reached, has
    /// fsync off, or has a schema that this version doesn't know.
    pub async fn open(settings: &PostgresSettings) -> Result<Self, OpenError> {
        schema::check(&settings.connection()?).await?;
        Self::connect(settings)
    }

    fn connect(settings: &PostgresSettings) -> Result<Self, OpenError> {
        let sessions = Sessions::new(settings.connection()?, settings.limits())?;
        Ok(Self {
            sessions: Arc::new(sessions),
        })
    }

    /// Deletes in batches until nothing is left. Not one transition: what a crash leaves goes next
    /// time.
    async fn delete_all(&self, step: impl Fn() -> Step<'static>) -> Result<(), EngineError> {
        loop {
            let outcomes = self.sessions.run(&[step()]).await?;
            if outcomes.iter().all(|outcome| outcome.affected == 0) {
                return Ok(());
            }
        }
    }
}

/// The first name behind all that begin with this; none if there is no end.
fn after(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

fn range_step(range: &Range) -> Step<'_> {
    let at_most = |bound| i64::try_from(bound).unwrap_or(i64::MAX);
    let first = range.from.as_slice().max(&range.prefix);
    step!(
        &sql::of(range.table).range;
        i64::from(range.day), first, after(&range.prefix),
        at_most(range.limit), at_most(range.max_bytes)
    )
}

fn rows_of(outcome: &Outcome) -> Result<Vec<Row>, EngineError> {
    let rows = outcome.rows.iter();
    rows.map(|row| Ok((bytes(row, 0)?, bytes(row, 1)?)))
        .collect()
}

#[async_trait]
impl Engine for Postgres {
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Found>, EngineError> {
        let steps: Vec<Step<'_>> = reads
            .iter()
            .map(|read| match read {
                Read::Row(key) => {
                    step!(&sql::of(key.table).select; i64::from(key.day), &key.name[..])
                }
                Read::Range(range) => range_step(range),
            })
            .collect();
        let outcomes = self.sessions.run(&steps).await?;
        reads
            .iter()
            .zip(&outcomes)
            .map(|(read, outcome)| match read {
                Read::Row(_) => batch::first_value(Some(outcome)).map(Found::Row),
                Read::Range(_) => rows_of(outcome).map(Found::Range),
            })
            .collect()
    }

    async fn apply(&self, batch: Batch) -> Result<(), ApplyError> {
        let sessions = Arc::clone(&self.sessions);
        let applying = tokio::spawn(async move { sessions.apply(&batch).await });
        match applying.await {
            Ok(applied) => applied,
            // Not its text: a panic message may quote data.
            Err(error) if error.is_panic() => {
                Err(EngineError("a storage call panicked".to_owned()).into())
            }
            Err(_) => Err(EngineError("the runtime is shutting down".to_owned()).into()),
        }
    }

    async fn drop_days(&self, table: Table, before: u32) -> Result<(), EngineError> {
        if !table.has_days() {
            return Ok(());
        }
        self.delete_all(|| step!(&sql::of(table).expire; i64::from(before)))
            .await
    }

    async fn drop_prefix(&self, table: Table, prefix: Vec<u8>) -> Result<(), EngineError> {
        let Some(end) = after(&prefix) else {
            return Err(EngineError("a prefix without end".to_owned()));
        };
        self.delete_all(|| step!(&sql::of(table).drop; prefix.clone(), end.clone()))
            .await
    }
}
