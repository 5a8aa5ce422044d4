//! Makes the tables, and finds out whether those that are there are ours.

use std::time::Duration;

use tokio_postgres::{Client, Config, NoTls};

use service::founding::Refusal;

use super::session::{Failure, Stage, failure};
use crate::store::{FoundationError, StoreError};

/// Each leads from the version before to its own, which is its position, from 1.
const VERSIONS: [&str; 2] = [include_str!("schema.sql"), include_str!("schema_2.sql")];

/// How often the tables are looked for: another node may be making them.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

const ANY: &str = "SELECT count(*) FROM information_schema.tables \
    WHERE table_schema = current_schema()";
const FIND: &str = "SELECT count(*) FROM information_schema.tables \
    WHERE table_schema = current_schema() AND table_name = 'schema_version'";

/// Makes the tables in an empty database.
///
/// # Errors
/// There are tables in it; else as [`prepare`].
pub(super) async fn create(config: &Config) -> Result<(), FoundationError> {
    with_client(config, async |client| {
        let found = client.query_one(ANY, &[]).await.map_err(engine)?;
        if found.get::<_, i64>(0) != 0 {
            return Err(Refusal::OccupiedDatabase.into());
        }
        Ok(bring_up(client).await?)
    })
    .await
}

/// Brings the schema to this release's version. Nodes that start at the same time may all call it: a
/// version is one transaction whose key only one of them can insert.
///
/// # Errors
/// The server can't be reached or loses what it has acknowledged; the schema is of a later release; there
/// is none, or the tables belong to something else.
pub(super) async fn prepare(config: &Config) -> Result<(), FoundationError> {
    with_client(config, async |client| {
        refuse_without_fsync(client).await?;
        if version(client).await? == 0 {
            return Err(Refusal::EmptyDatabase { program: "ds" }.into());
        }
        Ok(bring_up(client).await?)
    })
    .await
}

async fn with_client(
    config: &Config,
    work: impl AsyncFnOnce(&mut Client) -> Result<(), FoundationError>,
) -> Result<(), FoundationError> {
    let (mut client, connection) = config.connect(NoTls).await.map_err(engine)?;
    let connection = tokio::spawn(connection);
    let done = work(&mut client).await;
    drop(client);
    let _ = connection.await;
    done
}

async fn bring_up(client: &mut Client) -> Result<(), StoreError> {
    refuse_without_fsync(client).await?;
    let known = VERSIONS.len();
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let found = version(client).await?;
        if found > known {
            return Err(StoreError::Engine(format!(
                "the database has schema version {found}, this release knows {known}: run a newer one"
            )));
        }
        let Some(next) = VERSIONS.get(found) else {
            return Ok(());
        };
        // All of it or nothing; a duplicate means that somebody else is at it.
        if let Err(error) = client
            .batch_execute(&format!("BEGIN; {next}; COMMIT"))
            .await
        {
            let _ = client.batch_execute("ROLLBACK").await;
            last = Some(engine(error));
            tokio::time::sleep(PAUSE).await;
        }
    }
    Err(last.unwrap_or_else(|| StoreError::Engine("the tables cannot be made".to_owned())))
}

async fn version(client: &Client) -> Result<usize, StoreError> {
    let found = client.query_one(FIND, &[]).await.map_err(engine)?;
    if found.get::<_, i64>(0) == 0 {
        return Ok(0);
    }
    let version = client
        .query_one(super::sql::CHECK, &[])
        .await
        .map_err(engine)?;
    let version: Option<i64> = version.get(0);
    Ok(version
        .and_then(|version| usize::try_from(version).ok())
        .unwrap_or(0))
}

/// With fsync off an acknowledged transition may be gone after a power failure, and the rest damaged.
async fn refuse_without_fsync(client: &Client) -> Result<(), StoreError> {
    let setting = client
        .query(
            "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'fsync'",
            &[],
        )
        .await
        .map_err(engine)?;
    // Servers that only speak PostgreSQL's protocol have no such setting.
    if setting
        .first()
        .is_some_and(|row| row.get::<_, &str>(0) == "off")
    {
        return Err(StoreError::Engine(
            "the server runs with fsync off: it loses what it has acknowledged".to_owned(),
        ));
    }
    Ok(())
}

fn engine(error: tokio_postgres::Error) -> StoreError {
    match failure(&error, Stage::Committing) {
        Failure::Again(text) => StoreError::Engine(text),
        Failure::Final(error) => error,
    }
}
