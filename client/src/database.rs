//! The client's database: one SQLite file that also holds the MLS library's state, so that an item's
//! effect on both is one transaction.

use std::path::Path;

use openmls_sqlite_storage::SqliteStorageProvider;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::error::{Error, LocalError};
use crate::provider::JsonCodec;

/// Each entry takes the schema one version further; none is ever changed after a release.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/1.sql"),
    include_str!("schema/2.sql"),
    include_str!("schema/3.sql"),
    include_str!("schema/4.sql"),
    include_str!("schema/5.sql"),
    include_str!("schema/6.sql"),
    include_str!("schema/7.sql"),
    include_str!("schema/8.sql"),
    include_str!("schema/9.sql"),
    include_str!("schema/10.sql"),
    include_str!("schema/11.sql"),
];

/// Opens a database and brings its schema up to date.
pub(crate) fn open(path: &Path) -> Result<Connection, Error> {
    prepare(Connection::open(path)?)
}

/// Opens a database that is there, for reading.
pub(crate) fn open_to_look(path: &Path) -> Result<Connection, Error> {
    Ok(Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?)
}

#[cfg(test)]
pub(crate) fn in_memory() -> Result<Connection, Error> {
    prepare(Connection::open_in_memory()?)
}

fn prepare(mut connection: Connection) -> Result<Connection, Error> {
    // An answer is acted on (acknowledgements above all) after the row is durable, hence FULL.
    // Deleted key material is overwritten, not only unlinked.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;",
    )?;
    migrate(&mut connection, MIGRATIONS)?;
    SqliteStorageProvider::<JsonCodec, &mut Connection>::new(&mut connection)
        .run_migrations()
        .map_err(crate::error::mls)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), Error> {
    let version: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > migrations.len() {
        return Err(LocalError::NewerDatabase.into());
    }
    for (migration, to) in migrations.iter().zip(1usize..).skip(version) {
        let transaction = begin(connection)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", to)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Starts a transaction that writes.
pub(crate) fn begin(connection: &mut Connection) -> Result<Transaction<'_>, Error> {
    Ok(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

/// A stored blob of exactly 32 bytes.
pub(crate) fn key32(bytes: &[u8]) -> Result<[u8; 32], Error> {
    bytes.try_into().map_err(|_| LocalError::Damaged.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn migrations_run_once_each_and_a_later_schema_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, &["CREATE TABLE a (x)"]).unwrap();
        migrate(
            &mut connection,
            &["CREATE TABLE a (x)", "CREATE TABLE b (x)"],
        )
        .unwrap();
        connection.execute("INSERT INTO b VALUES (1)", ()).unwrap();
        let older = migrate(&mut connection, &["CREATE TABLE a (x)"]);
        assert!(matches!(
            older,
            Err(Error::Local(LocalError::NewerDatabase))
        ));
    }

    #[test]
    fn a_failed_migration_leaves_the_schema_as_it_was() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert!(migrate(&mut connection, &["CREATE TABLE a (x); nonsense"]).is_err());
        migrate(&mut connection, &["CREATE TABLE a (x)"]).unwrap();
    }

    #[test]
    fn the_schema_opens_twice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        drop(open(&path).unwrap());
        open(&path).unwrap();
    }

    #[test]
    fn a_database_of_schema_3_is_taken_over_without_the_token_in_the_request_that_waits() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("PRAGMA foreign_keys = OFF")
            .unwrap();
        connection
            .execute_batch(include_str!("schema/fixtures/schema-3.sql"))
            .unwrap();
        let db = prepare(connection).unwrap();
        let contact = crate::contacts::by_name(&db, "bob").unwrap();
        let evidence = crate::reporting::evidence(&db, &contact.signature_key, 0).unwrap();
        assert!(evidence.is_none());
        // In a form with the requester's token: it is forgotten.
        let requests: u32 = db
            .query_row("SELECT count(*) FROM incoming_requests", (), |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(requests, 0);
        let profile = crate::profile::Profile::read(&db).unwrap();
        assert_eq!(profile.handle.as_deref(), Some("alice"));
        let tokens = "SELECT count(*) FROM tokens WHERE in_use = 0";
        let tokens: u32 = db.query_row(tokens, (), |row| row.get(0)).unwrap();
        assert_eq!(tokens, 2);
    }

    #[test]
    fn a_database_of_release_0_1_is_taken_over_and_goes_on() {
        use crate::groups::content::Content;
        use crate::groups::{Group, Status, load_mls, message};

        let connection = Connection::open_in_memory().unwrap();
        // Rows come in the order of a dump.
        connection
            .execute_batch("PRAGMA foreign_keys = OFF")
            .unwrap();
        connection
            .execute_batch(include_str!("schema/fixtures/release-0.1.sql"))
            .unwrap();
        let db = prepare(connection).unwrap();
        let version: usize = db
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(version, MIGRATIONS.len());

        let profile = crate::profile::Profile::read(&db).unwrap();
        assert_eq!(profile.handle.as_deref(), Some("alice"));
        assert_eq!(profile.device_name, "first");
        let contact = crate::contacts::by_name(&db, "bob").unwrap();
        assert!(
            crate::connections::withdraw::group_with(&db, &contact.signature_key)
                .unwrap()
                .is_some()
        );
        let group = Group::usable(&db, "garden").unwrap();
        assert_eq!(group.status, Status::Active);
        assert_eq!(load_mls(&db, &group.id).unwrap().members().count(), 2);
        let text = Content::Text("still here".to_owned());
        assert!(!message::encrypt(&db, &group.id, &text).unwrap().is_empty());
        let left: u32 = db
            .query_row(
                "SELECT sets_left FROM key_packages WHERE ciphersuite = 1",
                (),
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(left, 20);
    }
}
