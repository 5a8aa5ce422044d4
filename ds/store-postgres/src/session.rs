//! Connections, and how statements go over them.

use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime,
};
use futures::TryStreamExt as _;
use futures::future::join_all;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, NoTls, Row, Statement};

use super::sql;
use ds_domain::engine::EngineError;

/// Statements that are sent in one go. `join_all` polls up to 30 futures in their order.
const PIPELINE: usize = 16;

/// One statement with its parameters.
pub(crate) struct Step<'a> {
    pub(crate) sql: &'a str,
    pub(crate) params: Vec<Param<'a>>,
}

pub(crate) type Param<'a> = Box<dyn ToSql + Sync + Send + 'a>;

/// `step!(SQL; a, b)`
macro_rules! step {
    ($sql:expr; $($param:expr),* $(,)?) => {
        $crate::session::Step {
            sql: $sql,
            params: vec![$(Box::new($param)),*],
        }
    };
}
pub(crate) use step;

/// What a statement gave.
pub(crate) struct Outcome {
    pub(crate) rows: Vec<Row>,
    /// Rows that were inserted, updated, deleted or selected.
    pub(crate) affected: u64,
}

impl Outcome {
    /// The first column of the first row.
    pub(crate) fn value(&self) -> Result<Option<Vec<u8>>, EngineError> {
        self.rows.first().map(|row| bytes(row, 0)).transpose()
    }
}

/// A column of bytes.
pub(crate) fn bytes(row: &Row, column: usize) -> Result<Vec<u8>, EngineError> {
    row.try_get(column).map_err(|_| malformed())
}

pub(crate) fn malformed() -> EngineError {
    EngineError("a row is malformed".to_owned())
}

/// Why an attempt came to nothing.
pub(crate) enum Failure {
    /// Nothing happened, and the next attempt may do better.
    Again(String),
    /// It stays so.
    Final(EngineError),
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::Final(error)
    }
}

/// What an error means for the transaction that it came in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// COMMIT was not sent: if the connection is lost, so is the transaction.
    Open,
    /// COMMIT was sent: only the server can say that it did not happen.
    Committing,
}

/// Never the server's own text, which may quote keys and values.
fn describe(error: &Error) -> String {
    match error.as_db_error() {
        Some(database) => format!(
            "PostgreSQL: SQLSTATE {} ({})",
            database.code().code(),
            database.table().unwrap_or("no table")
        ),
        None => {
            let source = std::error::Error::source(error);
            match source.and_then(|source| source.downcast_ref::<std::io::Error>()) {
                Some(io) => format!("PostgreSQL: {error} ({})", io.kind()),
                None => format!("PostgreSQL: {error}"),
            }
        }
    }
}

/// Whether the connection, not the statement, failed.
fn is_disconnected(error: &Error) -> bool {
    match error.code() {
        // Class 57: the server is told to stop, has crashed, or is starting up.
        Some(code) => [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
        ]
        .contains(code),
        None => {
            error.is_closed()
                || std::error::Error::source(error)
                    .is_some_and(|source| source.is::<std::io::Error>())
        }
    }
}

pub(crate) fn failure(error: &Error, stage: Stage) -> Failure {
    let aborted = error.code().is_some_and(|code| {
        [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
        ]
        .contains(code)
    });
    if aborted || (stage == Stage::Open && is_disconnected(error)) {
        Failure::Again(describe(error))
    } else {
        Failure::Final(EngineError(describe(error)))
    }
}

/// How connections are made and how long anything may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) acquire: Duration,
    pub(crate) statement: Duration,
}

impl Limits {
    /// How long a pipeline may take until the connection is given up. The server's own limit for
    /// each statement comes first, unless the server or the way to it is gone.
    fn patience(self, statements: usize) -> Duration {
        let each = u32::try_from(statements).unwrap_or(u32::MAX);
        self.statement
            .saturating_mul(each.max(1))
            .saturating_add(Duration::from_secs(1))
    }
}

/// The pool.
pub(crate) struct Sessions {
    pool: Pool,
    limits: Limits,
}

impl Sessions {
    /// Connects when it is first asked.
    pub(crate) fn new(config: tokio_postgres::Config, limits: Limits) -> Result<Self, EngineError> {
        // No check when a connection is taken: a lost one shows when it is used.
        let manager = Manager::from_config(
            config,
            NoTls,
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let prepare = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
            Box::pin(async move {
                prepare_session(client, limits.statement)
                    .await
                    .map_err(HookError::Backend)
            })
        });
        let pool = Pool::builder(manager)
            .max_size(limits.connections)
            .wait_timeout(Some(limits.acquire))
            .create_timeout(Some(limits.acquire))
            .runtime(Runtime::Tokio1)
            .post_create(prepare)
            .build()
            .map_err(|_| EngineError("the connection pool cannot be made".to_owned()))?;
        Ok(Self { pool, limits })
    }

    pub(crate) async fn session(&self) -> Result<Session, Failure> {
        let engine = |text: &str| Failure::Final(EngineError(text.to_owned()));
        let client = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
                failure(&error, Stage::Open)
            }
            // More attempts would add to what is too much already.
            PoolError::Timeout(_) => engine("no database connection became free in time"),
            _ => engine("the connection pool is closed"),
        })?;
        Ok(Session {
            client: Some(client),
            limits: self.limits,
            is_clean: true,
        })
    }
}

/// Settings of a session, then every statement: a pipeline must not stop to prepare one.
async fn prepare_session(
    client: &deadpool_postgres::ClientWrapper,
    statement: Duration,
) -> Result<(), Error> {
    let milliseconds = statement.as_millis();
    // A node that vanished in the middle must not hold its locks for ever.
    let idle = milliseconds.saturating_mul(2);
    client
        .batch_execute(&format!(
            "SET statement_timeout = {milliseconds}; \
             SET idle_in_transaction_session_timeout = {idle}; \
             SET client_min_messages = warning"
        ))
        .await?;
    // An answer waits for the disk, whatever the server's default is. What is stronger stays.
    let setting = client
        .query(
            "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'synchronous_commit'",
            &[],
        )
        .await?;
    let strong = ["on", "remote_apply"];
    let is_strong = |row: &Row| {
        row.try_get(0)
            .is_ok_and(|value: &str| strong.contains(&value))
    };
    if !setting.first().is_some_and(is_strong) {
        client.batch_execute("SET synchronous_commit = on").await?;
    }
    for prepared in join_all(sql::all().map(|sql| client.prepare_cached(sql))).await {
        prepared?;
    }
    Ok(())
}

/// A connection. One that is not clean when it is dropped is closed, which ends its transaction.
pub(crate) struct Session {
    client: Option<Object>,
    limits: Limits,
    is_clean: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(client) = self.client.take().filter(|_| !self.is_clean) {
            drop(Object::take(client));
        }
    }
}

impl Session {
    /// How many statements are prepared.
    #[cfg(test)]
    pub(crate) fn prepared(&self) -> usize {
        let client = self.client.as_ref();
        client.map_or(0, |client| client.statement_cache.size())
    }

    /// Sends all statements before it waits for the first answer; each is a transaction of its own
    /// unless one is open.
    ///
    /// # Errors
    /// The first one: those behind it in a transaction only say that it is aborted.
    pub(crate) async fn run(&mut self, steps: &[Step<'_>]) -> Result<Vec<Outcome>, Failure> {
        self.send(steps, None, Stage::Open).await
    }

    /// Alone, so that nothing can follow a BEGIN that failed.
    pub(crate) async fn begin(&mut self) -> Result<(), Failure> {
        self.is_clean = false;
        // READ COMMITTED: see the module's documentation.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
        self.send(&[], Some(begin), Stage::Open).await.map(drop)
    }

    /// The last statements of a transaction and COMMIT behind them. If one of them fails the server
    /// turns COMMIT into ROLLBACK.
    pub(crate) async fn commit(&mut self, steps: &[Step<'_>]) -> Result<(), Failure> {
        let (first, last) = steps.split_at(steps.len().saturating_sub(PIPELINE));
        self.send(first, None, Stage::Open).await?;
        self.send(last, Some("COMMIT"), Stage::Committing).await?;
        self.is_clean = true;
        Ok(())
    }

    /// Takes everything back. If that fails the connection goes, and the transaction with it.
    pub(crate) async fn roll_back(&mut self) {
        let rolled_back = self.send(&[], Some("ROLLBACK"), Stage::Open).await;
        self.is_clean = rolled_back.is_ok();
    }

    async fn send(
        &mut self,
        steps: &[Step<'_>],
        then: Option<&str>,
        stage: Stage,
    ) -> Result<Vec<Outcome>, Failure> {
        let Some(client) = &self.client else {
            return Err(Failure::Final(malformed()));
        };
        let patience = self.limits.patience(steps.len().saturating_add(1));
        let sent = async {
            let mut outcomes = Vec::with_capacity(steps.len());
            let mut chunks = steps.chunks(PIPELINE).peekable();
            if chunks.peek().is_none()
                && let Some(then) = then
            {
                client.batch_execute(then).await?;
            }
            while let Some(chunk) = chunks.next() {
                let mut statements = Vec::with_capacity(chunk.len());
                for step in chunk {
                    statements.push(client.prepare_cached(step.sql).await?);
                }
                let running = chunk
                    .iter()
                    .zip(&statements)
                    .map(|(step, statement)| run_one(client, statement, step));
                let then = then.filter(|_| chunks.peek().is_none());
                let ending = async {
                    match then {
                        Some(then) => client.batch_execute(then).await,
                        None => Ok(()),
                    }
                };
                // In this order: the statements are sent when they are first polled.
                let (chunk, ended) = tokio::join! { biased; join_all(running), ending };
                for outcome in chunk {
                    outcomes.push(outcome?);
                }
                ended?;
            }
            Ok::<_, Error>(outcomes)
        };
        match tokio::time::timeout(patience, sent).await {
            Ok(sent) => sent.map_err(|error| failure(&error, stage)),
            Err(_) => {
                self.is_clean = false;
                Err(Failure::Final(EngineError(
                    "PostgreSQL does not answer".to_owned(),
                )))
            }
        }
    }
}

async fn run_one(
    client: &tokio_postgres::Client,
    statement: &Statement,
    step: &Step<'_>,
) -> Result<Outcome, Error> {
    let params = step
        .params
        .iter()
        .map(|param| &**param as &(dyn ToSql + Sync));
    let stream = client.query_raw(statement, params).await?;
    let mut stream = std::pin::pin!(stream);
    let mut rows = Vec::new();
    while let Some(row) = stream.try_next().await? {
        rows.push(row);
    }
    let affected = stream.rows_affected().unwrap_or(0);
    Ok(Outcome { rows, affected })
}
