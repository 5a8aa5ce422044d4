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
    Postgres::open(&settings).await.unwrap();
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
    assert!(
        !error.0.contains(
            &"secret"
                .bytes()
                .map(|b| format!("{b:02x}"))
                .collect::<String>()
        )
    );
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_want_rows_crosswise_do_not_block_each_other() {
    let Some((store, ..)) = fresh().await else {
        return;
    };
    store.apply(put(b"a", &[1; 16])).await.unwrap();
    store.apply(put(b"b", &[1; 16])).await.unwrap();
    let both = |first: &[u8], second: &[u8]| Batch {
        conditions: [first, second]
            .map(|name| Condition::Present(key(name)))
            .into(),
        puts: vec![(key(first), vec![1; 16]), (key(second), vec![1; 16])],
        deletes: Vec::new(),
    };
    let rounds = (0..40).map(|round| {
        let batch = if round % 2 == 0 {
            both(b"a", b"b")
        } else {
            both(b"b", b"a")
        };
        store.apply(batch)
    });
    for applied in futures::future::join_all(rounds).await {
        applied.unwrap();
    }
}
