//! The client's database: one SQLite file that also holds the MLS library's state, so that an
//! item's effect on both is one transaction.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::FromSql;
use rusqlite::{
    Connection, OpenFlags, OptionalExtension as _, Params, Row, Transaction, TransactionBehavior,
};

use crate::error::{Error, LocalError};

/// Each entry takes the schema one version further; none is ever changed after a release.
const MIGRATIONS: &[&str] = &[include_str!("schema/1.sql")];

/// What the MLS library keeps, and what stands beside it.
const OF_MLS: &str = include_str!("schema/mls.sql");

/// Beside `openmls_group_data`, whose rows are a group's: each change of these draws a new stamp.
const STAMPED: [&str; 3] = [
    "mls_secret_pieces",
    "openmls_proposals",
    "openmls_own_leaf_nodes",
];

/// An answer is acted on (acknowledgements above all) after the row is durable, hence FULL. Deleted
/// key material is overwritten, not only unlinked. What the journal holds of it goes after a
/// hundred pages, some ten messages, and not after the thousand that are usual: then it begins
/// anew, and is cut.
#[cfg(not(target_arch = "wasm32"))]
const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;
    PRAGMA wal_autocheckpoint = 100; PRAGMA journal_size_limit = 0;";

/// A browser's files have no memory that processes share, which that journal needs. The other one
/// is cut with each transaction, and nothing in it is to be emptied later.
#[cfg(target_arch = "wasm32")]
const PRAGMAS: &str = "PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY;";

/// As many statements as there are stay prepared. To prepare one costs more than to run it, and to
/// bring a group up to date runs more of them than the 16 that are kept if nothing is said.
const MOST_PREPARED: usize = 512;

/// So often, and with such pauses, it is tried to empty the journal of the file.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(5);

/// Opens a database and brings its schema up to date.
pub(crate) fn open(path: &Path) -> Result<Connection, Error> {
    prepare(connect(path, OpenFlags::default())?)
}

/// Opens a database that another connection of this process has open and has brought up to date.
pub(crate) fn open_beside(path: &Path) -> Result<Connection, Error> {
    let connection = connect(path, OpenFlags::default())?;
    set_up(&connection)?;
    Ok(connection)
}

/// Opens a database that is there, for reading.
pub(crate) fn open_to_look(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(connect(path, flags)?)
}

#[cfg(not(target_arch = "wasm32"))]
fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, flags)
}

/// Several connections see one file here and no lock of each other: a transaction must not wait for
/// anything, which those of this crate never do.
#[cfg(target_arch = "wasm32")]
fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let (vfs, name) = crate::home::place(path);
    Connection::open_with_flags_and_vfs(name, flags, vfs.as_str())
}

#[cfg(test)]
pub(crate) fn in_memory() -> Result<Connection, Error> {
    prepare(Connection::open_in_memory()?)
}

fn set_up(connection: &Connection) -> Result<(), Error> {
    connection.execute_batch(PRAGMAS)?;
    connection.set_prepared_statement_cache_capacity(MOST_PREPARED);
    Ok(())
}

fn prepare(mut connection: Connection) -> Result<Connection, Error> {
    set_up(&connection)?;
    migrate(&mut connection, MIGRATIONS)?;
    connection.execute_batch(OF_MLS)?;
    for table in STAMPED {
        for (change, row) in [("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")] {
            connection.execute_batch(&format!(
                "CREATE TRIGGER IF NOT EXISTS stamp_{table}_{change} AFTER {change} ON {table} BEGIN
                    UPDATE mls_stamps SET stamp = randomblob(16) WHERE group_id = {row}.group_id;
                END"
            ))?;
        }
    }
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

/// Words were erased, in the caller's transaction: the journal of this file may hold them still.
pub(crate) fn mark_erased(db: &Connection) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO erased (only, times) VALUES (0, 1)
         ON CONFLICT DO UPDATE SET times = times + 1",
        (),
    )
}

/// Empties the journal of this file if it may hold words that were erased; outside of transactions.
/// False if somebody who reads or writes meanwhile holds that up: it is to be done again.
pub(crate) fn scour(db: &Connection) -> Result<bool, Error> {
    let Some(times) = value::<i64>(db, "SELECT times FROM erased", ())? else {
        return Ok(true);
    };
    for _ in 0..TRIES {
        let (is_held_up, length): (bool, i64) =
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        if !is_held_up {
            change(db, "DELETE FROM erased WHERE times = ?", [times])?;
            return Ok(true);
        }
        // The library has waited for whoever reads or writes. It waits for nobody who is moving
        // the journal into the file, and then tells no length.
        if length >= 0 {
            break;
        }
        crate::runtime::block_for(PAUSE);
    }
    Ok(false)
}

/// A stored blob of exactly 32 bytes.
pub(crate) fn key32(bytes: &[u8]) -> Result<[u8; 32], Error> {
    bytes.try_into().map_err(|_| LocalError::Damaged.into())
}

/// Carries out a statement.
pub(super) fn change(db: &Connection, sql: &str, values: impl Params) -> Result<(), Error> {
    db.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// The first row, if there is one.
pub(super) fn first<T>(
    db: &Connection,
    sql: &str,
    values: impl Params,
    read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>, Error> {
    Ok(db.prepare_cached(sql)?.query_row(values, read).optional()?)
}

/// The first column of the first row, if there is one.
pub(super) fn value<T: FromSql>(
    db: &Connection,
    sql: &str,
    values: impl Params,
) -> Result<Option<T>, Error> {
    first(db, sql, values, |row| row.get(0))
}

/// Whether there is a row.
pub(super) fn is_there(db: &Connection, sql: &str, values: impl Params) -> Result<bool, Error> {
    Ok(first(db, sql, values, |_| Ok(()))?.is_some())
}

/// The first column of all rows.
pub(super) fn column<T: FromSql>(
    db: &Connection,
    sql: &str,
    values: impl Params,
) -> Result<Vec<T>, Error> {
    rows(db, sql, values, |row| row.get(0))
}

/// All rows.
pub(super) fn rows<T>(
    db: &Connection,
    sql: &str,
    values: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, Error> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map(values, read)?;
    Ok(rows.collect::<Result<_, _>>()?)
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

    /// Digests: the schemas themselves are in their files. Once there is a release, a line may be
    /// added, and none may change.
    #[test]
    fn a_schema_that_was_released_does_not_change() {
        use sha2::Digest as _;

        let digest = |migration: &&str| basis::hex::encode(&sha2::Sha256::digest(migration));
        let digests: Vec<String> = MIGRATIONS.iter().map(digest).collect();
        assert_eq!(
            digests,
            ["4b80c4232d3dfde4f7b702f035e6304b361858f0a5098b132d3dd0ab69c8f583"]
        );
    }

    #[test]
    fn the_journal_of_the_file_is_emptied_once_nobody_holds_that_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let mut db = open(&path).unwrap();
        let other = open_beside(&path).unwrap();
        db.busy_timeout(Duration::ZERO).unwrap();
        let length = || {
            std::fs::metadata(directory.path().join("db-wal"))
                .unwrap()
                .len()
        };
        assert!(scour(&db).unwrap());
        assert!(length() > 0);
        other.execute_batch("BEGIN; SELECT * FROM groups").unwrap();
        let transaction = begin(&mut db).unwrap();
        mark_erased(&transaction).unwrap();
        transaction.commit().unwrap();
        assert!(!scour(&db).unwrap());
        other.execute_batch("COMMIT").unwrap();
        assert!(length() > 0);
        assert!(is_there(&db, "SELECT 1 FROM erased", ()).unwrap());
        assert!(scour(&db).unwrap());
        // But for the note that it was done.
        assert!(length() < 3 * 4096 + 200, "{}", length());
        assert!(!is_there(&db, "SELECT 1 FROM erased", ()).unwrap());
    }

    /// The library waits for readers and writers, and for nobody who empties the journal too.
    #[test]
    fn the_journal_of_the_file_is_emptied_after_somebody_who_does_that_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let mut db = open(&path).unwrap();
        let (reader, other) = (open_beside(&path).unwrap(), open_beside(&path).unwrap());
        reader.execute_batch("BEGIN; SELECT * FROM groups").unwrap();
        let transaction = begin(&mut db).unwrap();
        mark_erased(&transaction).unwrap();
        transaction.commit().unwrap();
        let emptying = std::thread::spawn(move || {
            loop {
                // Waits for the reader, once the look below does not stand in its way.
                let (is_busy, length): (bool, i64) = other
                    .query_row("PRAGMA wal_checkpoint(RESTART)", (), |row| {
                        Ok((row.get(0)?, row.get(1)?))
                    })
                    .unwrap();
                if !is_busy || length >= 0 {
                    return is_busy;
                }
            }
        });
        let is_busy = || -> bool {
            db.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |row| row.get(0))
                .unwrap()
        };
        while !is_busy() {
            assert!(!emptying.is_finished());
        }
        let reading = std::thread::spawn(move || {
            std::thread::sleep(10 * PAUSE);
            reader.execute_batch("COMMIT").unwrap();
        });
        assert!(scour(&db).unwrap());
        assert!(!emptying.join().unwrap());
        reading.join().unwrap();
    }

    #[test]
    fn the_schema_opens_twice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        drop(open(&path).unwrap());
        open(&path).unwrap();
    }
}
