//! Two nodes on one database serve the same journals and the same spent-set.

use ds_store_postgres::server::Server as Database;
use ds_store_postgres::{Postgres, PostgresSettings};

use super::*;

/// Two nodes, if there is a server.
async fn nodes() -> Option<[Running; 2]> {
    let database = Database::shared()?;
    let name = database.fresh_database().await;
    let settings = PostgresSettings {
        host: database.sockets.clone(),
        port: 5432,
        user: "mimimi".to_owned(),
        database: name,
        password_file: Some(database.password_file.clone()),
        connections: 8,
        acquire_ms: 20_000,
        statement_ms: 10_000,
    };
    let first = Postgres::create(&settings).await.unwrap();
    let second = Postgres::open(&settings).await.unwrap();
    Some([first, second].map(|engine| {
        running_with(Setup {
            engine: Some(Arc::new(engine)),
            look_again_ms: Some(200),
            ..Setup::default()
        })
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_at_one_node_ends_with_a_message_by_the_other() {
    let Some([a, b]) = nodes().await else {
        return;
    };
    a.begin_segment().await;
    a.append(1).await;
    let poll = b.read(1, 20_000);
    tokio::pin!(poll);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut poll).await;
    assert!(early.is_err());
    a.append(2).await;
    let read = tokio::time::timeout(Duration::from_secs(10), poll).await;
    assert_eq!(read.unwrap().unwrap().head.next, Position(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_spent_at_one_node_is_refused_at_the_other() {
    let Some([a, b]) = nodes().await else {
        return;
    };
    let paid = [token()];
    let first = a.reply(Number::ReserveGroupId, reservation(1), &paid).await;
    assert_eq!(first.status, StatusCode::OK);
    let other = b.reply(Number::ReserveGroupId, reservation(2), &paid);
    assert_eq!(other.await.problem(), ProblemType::TokenRejected);
    // The same request is no second one: it has the recorded result at each node.
    let again = b.reply(Number::ReserveGroupId, reservation(1), &paid).await;
    assert_eq!((again.status, again.body), (first.status, first.body));
}
