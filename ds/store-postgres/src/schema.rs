//! Makes the tables, and finds out whether those that are there are ours.

use ds_domain::engine::EngineError;
use service::founding::Refusal;
use tokio_postgres::{Client, Config, NoTls};

use crate::session::{Failure, Stage, failure};
use crate::{OpenError, sql};

const ANY: &str = "SELECT count(*) FROM information_schema.tables \
    WHERE table_schema = current_schema()";
const FIND: &str = "SELECT count(*) FROM information_schema.tables \
    WHERE table_schema = current_schema() AND table_name = 'schema_version'";

/// The version of [`sql::schema`].
const VERSION: i64 = 1;

/// Makes the tables in an empty database.
///
/// # Errors
/// There are tables in it; else as [`check`].
pub(crate) async fn create(config: &Config) -> Result<(), OpenError> {
    with_client(config, async |client| {
        let found = client.query_one(ANY, &[]).await.map_err(engine)?;
        if found.get::<_, i64>(0) != 0 {
            return Err(Refusal::OccupiedDatabase.into());
        }
        refuse_without_fsync(client).await?;
        // All of it or nothing.
        client
            .batch_execute(&format!("BEGIN; {} COMMIT", sql::schema()))
            .await
            .map_err(engine)?;
        Ok(())
    })
    .await
}

/// Finds the tables of this version.
///
/// # Errors
/// The server can't be reached or loses what it has acknowledged; the schema is of a later release;
/// there is none, or the tables belong to something else.
pub(crate) async fn check(config: &Config) -> Result<(), OpenError> {
    with_client(config, async |client| {
        refuse_without_fsync(client).await?;
        let found = client.query_one(FIND, &[]).await.map_err(engine)?;
        if found.get::<_, i64>(0) == 0 {
            return Err(Refusal::EmptyDatabase { program: "ds" }.into());
        }
        let found = client.query_one(sql::CHECK, &[]).await.map_err(engine)?;
        match found.get::<_, Option<i64>>(0) {
            Some(VERSION) => Ok(()),
            other => Err(EngineError(format!(
                "the database has schema version {}, this release knows {VERSION}: run a newer one",
                other.unwrap_or_default()
            ))
            .into()),
        }
    })
    .await
}

async fn with_client(
    config: &Config,
    work: impl AsyncFnOnce(&mut Client) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    let (mut client, connection) = config.connect(NoTls).await.map_err(engine)?;
    let connection = tokio::spawn(connection);
    let done = work(&mut client).await;
    drop(client);
    let _ = connection.await;
    done
}

/// With fsync off an acknowledged batch may be gone after a power failure, and the rest damaged.
async fn refuse_without_fsync(client: &Client) -> Result<(), EngineError> {
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
        return Err(EngineError(
            "the server runs with fsync off: it loses what it has acknowledged".to_owned(),
        ));
    }
    Ok(())
}

fn engine(error: tokio_postgres::Error) -> EngineError {
    match failure(&error, Stage::Committing) {
        Failure::Again(text) => EngineError(text),
        Failure::Final(error) => error,
    }
}
