mod crash;
mod nodes;
mod snapshot;

use std::time::Duration;

use ds_domain::engine::{Condition, Key};

use super::*;
use crate::server::Server;

fn settings(server: &Server, database: &str) -> PostgresSettings {
    PostgresSettings {
        host: server.sockets.clone(),
        port: 5432,
        user: "mimimi".to_owned(),
        database: database.to_owned(),
        password_file: Some(server.password_file.clone()),
        connections: 8,
        acquire_ms: 20_000,
        statement_ms: 10_000,
    }
}

/// A store on a database of its own, if there is a server.
async fn fresh() -> Option<(Postgres, &'static Server, String)> {
    let server = Server::shared()?;
    let database = server.fresh_database().await;
    let store = Postgres::create(&settings(server, &database)).await;
    Some((store.unwrap(), server, database))
}

macro_rules! on_postgres {
    ($($name:ident),+ $(,)?) => {
        mod conformance {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $name() {
                    let Some((store, ..)) = super::fresh().await else { return };
                    ds_domain::conformance::$name(std::sync::Arc::new(store)).await;
                }
            )+
        }
    };
}
ds_domain::engine_conformance_with!(on_postgres);

fn key(name: &[u8]) -> Key {
    Key {
        table: Table::Groups,
        day: 0,
        name: name.to_vec(),
    }
}

fn put(name: &[u8], value: &[u8]) -> Batch {
    Batch {
        puts: vec![(key(name), value.to_vec())],
        ..Batch::default()
    }
}

async fn value(store: &Postgres, name: &[u8]) -> Option<Vec<u8>> {
    match store.read(vec![Read::Row(key(name))]).await.unwrap().pop() {
        Some(Found::Row(value)) => value,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_one_node_wrote_another_reads() {
    let Some((store, server, database)) = fresh().await else {
        return;
    };
    store.apply(put(b"a", b"value")).await.unwrap();
    let other = Postgres::open(&settings(server, &database)).await.unwrap();
    assert_eq!(value(&other, b"a").await.as_deref(), Some(&b"value"[..]));
}

#[tokio::test]
async fn a_range_takes_no_more_values_from_the_database_than_its_bytes() {
    let Some((store, ..)) = fresh().await else {
        return;
    };
    for name in 0..20 {
        store.apply(put(&[name], &[0; 1_000])).await.unwrap();
    }
    for (max_bytes, rows) in [(0, 0), (1, 1), (1_000, 1), (2_500, 3), (usize::MAX, 20)] {
        let range = Range {
            table: Table::Groups,
            day: 0,
            prefix: Vec::new(),
            from: Vec::new(),
            limit: 100,
            max_bytes,
        };
        let fetched = store.sessions.run(&[range_step(&range)]).await.unwrap();
        assert_eq!(fetched[0].rows.len(), rows, "{max_bytes}");
    }
}

#[tokio::test]
async fn an_empty_database_is_refused_until_the_tables_are_made_and_then_by_who_makes_them() {
    let Some(server) = Server::shared() else {
        return;
    };
    let database = server.fresh_database().await;
    let settings = settings(server, &database);
    assert!(matches!(
        Postgres::open(&settings).await,
        Err(OpenError::Refused(Refusal::EmptyDatabase { .. }))
    ));
    Postgres::create(&settings).await.unwrap();
    for node in futures::future::join_all((0..6).map(|_| Postgres::open(&settings))).await {
        node.unwrap().apply(put(b"a", b"value")).await.unwrap();
    }
    assert!(matches!(
        Postgres::create(&settings).await,
        Err(OpenError::Refused(Refusal::OccupiedDatabase))
    ));
}

#[tokio::test]
async fn a_schema_of_a_later_release_is_refused() {
    let Some((_, server, database)) = fresh().await else {
        return;
    };
    server
        .execute(&database, "INSERT INTO schema_version VALUES (2)")
        .await;
    let error = Postgres::open(&settings(server, &database))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("run a newer one"), "{error}");
}

#[tokio::test]
async fn what_the_server_says_about_a_row_stays_out_of_the_error() {
    let Some((store, server, database)) = fresh().await else {
        return;
    };
    server
        .execute(
            &database,
            "ALTER TABLE groups ADD CHECK (length(value) < 5)",
        )
        .await;
    let Err(ApplyError::Engine(error)) = store.apply(put(b"a", b"secret value")).await else {
        panic!("the value is too long");
    };
    assert!(error.0.contains("23514"), "{error}");
    assert!(!error.0.contains("secret"), "{error}");
    assert!(!error.0.contains(&service::hex::encode(b"secret")));
}

#[tokio::test]
async fn lost_connections_are_replaced_without_an_error() {
    let Some((store, server, database)) = fresh().await else {
        return;
    };
    for round in 0..3u8 {
        store.apply(put(b"a", &[round])).await.unwrap();
        server
            .execute(
                "mimimi",
                &format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE datname = '{database}'"
                ),
            )
            .await;
        assert_eq!(value(&store, b"a").await, Some(vec![round]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_caller_went_away_is_applied() {
    let Some((store, server, database)) = fresh().await else {
        return;
    };
    store.apply(put(b"a", &[1; 16])).await.unwrap();
    let mut client = server.client(&database).await;
    let holder = client.transaction().await.unwrap();
    holder
        .query("SELECT value FROM groups FOR UPDATE", &[])
        .await
        .unwrap();
    let mut batch = put(b"a", &[2; 16]);
    batch
        .conditions
        .push(Condition::Version(key(b"a"), [1; 16]));
    let applying = store.apply(batch);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), applying)
            .await
            .is_err()
    );
    holder.rollback().await.unwrap();
    for _ in 0..100 {
        if value(&store, b"a").await == Some(vec![2; 16]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the batch was not applied");
}

/// One row of every table, some deleted again.
#[tokio::test]
async fn one_row_of_every_table_is_there_for_another_node() {
    let Some((store, server, database)) = fresh().await else {
        return;
    };
    let row = |table: Table, number: u8| Key {
        table,
        day: if table.has_days() { 7 } else { 0 },
        name: vec![number; 16],
    };
    for table in Table::ALL {
        let puts = [1, 2].map(|number| (row(table, number), vec![number]));
        let written = Batch {
            puts: puts.into(),
            ..Batch::default()
        };
        store.apply(written).await.unwrap();
        let deleted = Batch {
            conditions: vec![Condition::Present(row(table, 2))],
            puts: Vec::new(),
            deletes: vec![row(table, 2)],
        };
        store.apply(deleted).await.unwrap();
    }
    drop(store);
    let other = Postgres::open(&settings(server, &database)).await.unwrap();
    for table in Table::ALL {
        let reads = [1, 2].map(|number| Read::Row(row(table, number)));
        let found = other.read(reads.into()).await.unwrap();
        assert_eq!(
            found,
            [Found::Row(Some(vec![1])), Found::Row(None)],
            "{table:?}"
        );
    }
}

#[tokio::test]
async fn tables_of_something_else_are_refused_and_left_alone() {
    let Some(server) = Server::shared() else {
        return;
    };
    let database = server.fresh_database().await;
    let foreign = "CREATE TABLE handles (owner text); INSERT INTO handles VALUES ('somebody')";
    server.execute(&database, foreign).await;
    let settings = settings(server, &database);
    assert!(matches!(
        Postgres::open(&settings).await,
        Err(OpenError::Refused(Refusal::EmptyDatabase { .. }))
    ));
    assert!(matches!(
        Postgres::create(&settings).await,
        Err(OpenError::Refused(Refusal::OccupiedDatabase))
    ));
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(server.number(&database, tables).await, 1);
}

#[tokio::test]
async fn sessions_commit_to_the_disk_whatever_the_servers_default_is() {
    let Some((_, server, database)) = fresh().await else {
        return;
    };
    for (default, expected) in [
        ("off", "on"),
        ("local", "on"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),
    ] {
        let alter = format!("ALTER DATABASE {database} SET synchronous_commit = {default}");
        server.execute(&database, &alter).await;
        let store = Postgres::open(&settings(server, &database)).await.unwrap();
        let mut session = store.sessions.session().await.ok().unwrap();
        let show = "SELECT setting::bytea FROM pg_settings WHERE name = 'synchronous_commit'";
        let found = session.run(&[step!(show;)]).await.ok().unwrap();
        let setting = found[0].value().unwrap().unwrap();
        assert_eq!(setting, expected.as_bytes(), "{default}");
    }
}

/// So that no pipeline stops to prepare one.
#[tokio::test]
async fn every_statement_of_a_request_is_prepared_with_the_connection() {
    let Some((store, ..)) = fresh().await else {
        return;
    };
    let prepared = async || store.sessions.session().await.ok().unwrap().prepared();
    assert_eq!(prepared().await, sql::all().count());
    store.apply(put(b"a", &[1; 16])).await.unwrap();
    let mut batch = put(b"b", b"value");
    batch.conditions = vec![
        Condition::Absent(key(b"b")),
        Condition::Absent(key(b"c")),
        Condition::Version(key(b"a"), [1; 16]),
    ];
    batch.deletes = vec![key(b"a")];
    store.apply(batch).await.unwrap();
    assert_eq!(prepared().await, sql::all().count());
}

#[tokio::test]
async fn a_full_pool_is_an_engine_error_in_time() {
    let Some((_, server, database)) = fresh().await else {
        return;
    };
    let mut settings = settings(server, &database);
    (settings.connections, settings.acquire_ms) = (1, 3_000);
    let store = Postgres::open(&settings).await.unwrap();
    store.apply(put(b"a", b"value")).await.unwrap();
    let held = store.sessions.session().await.ok().unwrap();
    let refused = store.apply(put(b"a", b"other")).await.unwrap_err();
    assert!(refused.to_string().contains("became free"), "{refused}");
    drop(held);
    assert_eq!(value(&store, b"a").await.as_deref(), Some(&b"value"[..]));
}

/// Of a row that somebody else holds.
async fn holder(server: &Server, database: &str, row: &str) -> tokio_postgres::Client {
    let holder = server.client(database).await;
    let hold = format!("BEGIN; SELECT value FROM groups WHERE name = '{row}' FOR UPDATE");
    holder.batch_execute(&hold).await.unwrap();
    holder
}

/// As a request: recorded, and standing on a row.
fn request(result: u8) -> Batch {
    let result = Key {
        table: Table::Results,
        day: 9,
        name: vec![result],
    };
    let mut batch = put(b"a", b"changed");
    batch.puts.push((result.clone(), b"result".to_vec()));
    batch.conditions = vec![Condition::Absent(result), Condition::Present(key(b"a"))];
    batch
}

const RECORDED: fn() -> Result<(), ApplyError> = || {
    Err(ApplyError::Condition {
        condition: 0,
        found: Some(b"result".to_vec()),
    })
};

#[tokio::test]
async fn a_statement_that_takes_too_long_is_an_engine_error_and_changes_nothing() {
    let Some((_, server, database)) = fresh().await else {
        return;
    };
    let mut settings = settings(server, &database);
    settings.statement_ms = 2_000;
    let store = Postgres::open(&settings).await.unwrap();
    store.apply(put(b"a", b"value")).await.unwrap();
    let holder = holder(server, &database, "a").await;
    // query_canceled
    let late = store.apply(request(1)).await.unwrap_err().to_string();
    assert!(late.contains("57014"), "{late}");
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(value(&store, b"a").await.as_deref(), Some(&b"value"[..]));
    store.apply(request(1)).await.unwrap();
    assert_eq!(store.apply(request(1)).await, RECORDED());
}

const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE wait_event_type = 'Lock' AND datname = current_database()";

/// Until COMMIT is sent nothing has happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_connection_is_lost_in_the_middle_is_applied_once_by_another() {
    let Some((store, server, database)) = fresh().await else {
        return;
    };
    store.apply(put(b"a", b"value")).await.unwrap();
    let holder = holder(server, &database, "a").await;
    let applying = {
        let store = store.clone();
        tokio::spawn(async move { store.apply(request(1)).await })
    };
    for _ in 0..3 {
        while server.number(&database, WAITING).await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
            WHERE wait_event_type = 'Lock' AND datname = current_database()";
        server.number(&database, kill).await;
    }
    holder.batch_execute("ROLLBACK").await.unwrap();
    applying.await.unwrap().unwrap();
    assert_eq!(value(&store, b"a").await.as_deref(), Some(&b"changed"[..]));
    assert_eq!(store.apply(request(1)).await, RECORDED());
}

/// The server waits for a standby that is not there: COMMIT has happened, and is not answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_an_engine_error_and_its_retry_gets_what_was_recorded() {
    if Server::shared().is_none() {
        return;
    }
    let server = Server::start();
    let database = server.fresh_database().await;
    let store = Postgres::create(&settings(&server, &database))
        .await
        .unwrap();
    store.apply(put(b"a", b"value")).await.unwrap();
    let standby = |name: &str| format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'");
    server.execute("mimimi", &standby("nobody")).await;
    server.execute("mimimi", "SELECT pg_reload_conf()").await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
        WHERE wait_event = 'SyncRep'";
    // A reload takes effect a moment later: when somebody else's commit has waited.
    let mut has_waited = false;
    while !has_waited {
        let other = server.client("mimimi").await;
        let committing = "CREATE TABLE other (); DROP TABLE other";
        let other = tokio::spawn(async move { other.batch_execute(committing).await });
        while !other.is_finished() {
            has_waited |= server.number("mimimi", kill).await > 0;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let applying = {
        let store = store.clone();
        tokio::spawn(async move { store.apply(request(1)).await })
    };
    while server.number("mimimi", waiting).await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.number("mimimi", kill).await;
    let lost = applying.await.unwrap();
    assert!(matches!(lost, Err(ApplyError::Engine(_))), "{lost:?}");
    server.execute("mimimi", &standby("")).await;
    server.execute("mimimi", "SELECT pg_reload_conf()").await;
    assert_eq!(value(&store, b"a").await.as_deref(), Some(&b"changed"[..]));
    assert_eq!(store.apply(request(1)).await, RECORDED());
}

/// Two transactions that each hold what the other needs next would wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_the_server_aborts_for_a_deadlock_is_tried_again() {
    let Some(server) = Server::shared() else {
        return;
    };
    let database = server.fresh_database().await;
    // A session looks for a deadlock once, so long after it began to wait: time to make one.
    let patience = format!("ALTER DATABASE {database} SET deadlock_timeout = '2s'");
    server.execute(&database, &patience).await;
    let mut settings = settings(server, &database);
    settings.statement_ms = 60_000;
    let store = Postgres::create(&settings).await.unwrap();
    for name in [b"a", b"b"] {
        store.apply(put(name, b"value")).await.unwrap();
    }
    let mut batch = request(1);
    batch.conditions.push(Condition::Present(key(b"b")));
    // Somebody else holds the second row and then wants the first: the wrong way round.
    let holder = holder(server, &database, "b").await;
    holder
        .batch_execute("SET deadlock_timeout = '60s'")
        .await
        .unwrap();
    let applying = {
        let store = store.clone();
        tokio::spawn(async move { store.apply(batch).await })
    };
    while server.number(&database, WAITING).await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let crosswise = "SELECT value FROM groups WHERE name = 'a' FOR UPDATE; ROLLBACK";
    holder.batch_execute(crosswise).await.unwrap();
    applying.await.unwrap().unwrap();
    assert_eq!(value(&store, b"a").await.as_deref(), Some(&b"changed"[..]));
}
